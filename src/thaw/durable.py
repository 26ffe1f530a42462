"""Files that appear whole or not at all, and stay through a power loss; folders that one process works in."""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout


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


def made(path: Path, fill: Callable[[Path], None]) -> Path:
    """A folder that is filled once, by one process, and is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f"{path.name}.lock")):
        if not path.is_dir():
            partial = path.with_name(f"new-{path.name}")
            shutil.rmtree(partial, ignore_errors=True)  # of a process that died here
            partial.mkdir()
            fill(partial)
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
