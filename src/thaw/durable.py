"""Files that appear whole or not at all, and stay through a power loss; folders that one process works in."""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from filelock import FileLock, ReadWriteLock, Timeout


@contextlib.contextmanager
def writing(path: Path) -> Iterator[Path]:
    """A place beside `path` to write to; what was written there is on disk under `path` once the context ends.

    A process that dies within it leaves `path` as it was, and the next one writes over what it left beside.
    """
    partial = path.with_name(f"new-{path.name}")
    yield partial
    place(partial, path)


def place(partial: Path, path: Path) -> None:
    """Flush a file that was written beside, give it its name, and flush the folder."""
    flush(partial)
    os.replace(partial, path)
    flush(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write a text file."""
    with writing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, content: dict) -> None:
    """Write a JSON file with a checksum of its own, by which `read_json` knows damage."""
    write_text(path, json.dumps({**content, "sum": checksum(content)}))


def read_json(path: Path) -> dict | None:
    """What `write_json` wrote; None where there is no such file, or it is damaged."""
    try:
        content = json.loads(path.read_bytes())
        noted = content.pop("sum", None)
    except (FileNotFoundError, NotADirectoryError, ValueError, AttributeError, TypeError):
        return None
    return content if noted == checksum(content) else None


def checksum(content: dict) -> str:
    """Of what JSON can hold, in 8 hexadecimal digits."""
    return f"{zlib.crc32(json.dumps(content).encode()):08x}"


def digest(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits; nothing where there is none."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return ""


def check_room(folder: Path, size: int) -> None:
    """Raise before a library writes a file that does not fit on the disk; HDF5 crashes there.

    Args:
        folder: of the file.
        size: of the file, bytes.

    Raises:
        OSError: the disk or the quota is full.
    """
    with tempfile.TemporaryFile(dir=folder) as file:
        file.truncate(size)
        _allocate(file)


def reserve(path: Path) -> None:
    """Allocate the blocks of a sparse file; a memory map on a full disk dies of SIGBUS.

    Raises:
        OSError: the disk or the quota is full.
    """
    with path.open("r+b") as file:
        _allocate(file)


def _allocate(file: IO[bytes]) -> None:
    size = os.fstat(file.fileno()).st_size
    try:
        os.posix_fallocate(file.fileno(), 0, size)
    except AttributeError:  # macOS has none
        for place in range(0, size, 4096):  # a byte of each block, which stays as it is
            os.pwrite(file.fileno(), os.pread(file.fileno(), 1, place) or b"\0", place)


def read_write_lock(path: Path) -> ReadWriteLock:
    """A lock for many readers or one writer, shared by all users who may write to its folder."""
    if not path.exists():
        path.touch()  # filelock would create it for its owner only
    return ReadWriteLock(path)


def set_aside(path: Path) -> None:
    """Give a damaged file another name, so that it is in nobody's way and still there to be looked at."""
    if path.exists():
        os.replace(path, path.with_name(f"{path.name}.damaged"))


def made(path: Path, fill: Callable[[Path], None]) -> Path:
    """A folder that is filled once, by one process, and is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f"{path.name}.lock")):
        if not path.is_dir():
            partial = path.with_name(f"new-{path.name}")
            shutil.rmtree(partial, ignore_errors=True)  # of a process that died here
            partial.mkdir()
            try:
                fill(partial)
            except BaseException:  # what is half there takes room and is of no use
                shutil.rmtree(partial, ignore_errors=True)
                raise
            os.replace(partial, path)
            flush(path.parent)
    return path


def flush(path: Path) -> None:
    """Have a file or a folder on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def claimed(folder: Path, wait: Callable[[], None]) -> Iterator[None]:
    """Be the only process at work in a folder; the claim of one that dies ends with it.

    Args:
        folder: made if it is not there.
        wait: called once if another process has it, before waiting for that one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        wait()
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def is_claimed(folder: Path) -> bool:
    """Whether a living process works in the folder."""
    lock = FileLock(folder / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    lock.release()
    return False
