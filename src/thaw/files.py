"""Atomic, durable writes."""

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

from filelock import FileLock


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on exit its content is flushed and renamed to `path`.

    If the process dies inside the context, `path` is unchanged, and the next write replaces the temporary file.
    """
    partial = path.with_name(f"new-{path.name}")
    yield partial
    publish(partial, path)


def publish(partial: Path, path: Path) -> None:
    """Flush a temporary file, rename it to `path`, and flush the folder."""
    flush(partial)
    os.replace(partial, path)
    flush(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write a text file."""
    with atomic_write(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, content: dict) -> None:
    """Write a JSON file with a checksum, which `read_json` verifies."""
    write_text(path, json.dumps({**content, "sum": checksum(content)}))


def read_json(path: Path) -> dict | None:
    """The content that `write_json` wrote; None if the file is missing or damaged."""
    try:
        content = json.loads(path.read_bytes())
        recorded = content.pop("sum", None)
    except (FileNotFoundError, NotADirectoryError, ValueError, AttributeError, TypeError):
        return None
    return content if recorded == checksum(content) else None


def checksum(content: dict) -> str:
    """CRC-32 of JSON content, 8 hexadecimal digits."""
    return f"{zlib.crc32(json.dumps(content).encode()):08x}"


def digest(path: Path) -> str:
    """SHA-256 of a file in hexadecimal digits; empty if there is no such file."""
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
        for place in range(0, size, 4096):  # rewrite one byte of each block
            os.pwrite(file.fileno(), os.pread(file.fileno(), 1, place) or b"\0", place)


def set_aside(path: Path) -> None:
    """Rename a damaged file to `NAME.damaged`, so that it can still be inspected."""
    if path.exists():
        os.replace(path, path.with_name(f"{path.name}.damaged"))


def create_once(path: Path, fill: Callable[[Path], None]) -> Path:
    """Create a folder atomically: one process fills a temporary folder, which is then renamed to `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f"{path.name}.lock")):
        if not path.is_dir():
            partial = path.with_name(f"new-{path.name}")
            shutil.rmtree(partial, ignore_errors=True)  # left by a process that was killed
            partial.mkdir()
            try:
                fill(partial)
            except BaseException:
                shutil.rmtree(partial, ignore_errors=True)
                raise
            os.replace(partial, path)
            flush(path.parent)
    return path


def flush(path: Path) -> None:
    """fsync a file or a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files below a folder."""
    below = (os.path.join(folder, name) for folder, _, names in os.walk(path) for name in names)
    total = 0
    for file in [path] if path.is_file() else below:
        with contextlib.suppress(FileNotFoundError):  # another process has just removed it
            total += os.lstat(file).st_size
    return total


def readable_size(count: float) -> str:
    """12 B, 34 kB, 56 MB, 7.8 GB."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
