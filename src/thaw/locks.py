"""Locks between processes; the operating system releases them if the process dies."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock, ReadWriteLock, Timeout


@contextlib.contextmanager
def locked(folder: Path, on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold an exclusive lock on a folder.

    Args:
        folder: created if missing.
        on_wait: called once if another process holds the lock, before waiting for it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        on_wait()
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def is_locked(folder: Path) -> bool:
    """Whether a living process holds the lock of a folder."""
    lock = FileLock(folder / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    lock.release()
    return False


def read_write_lock(path: Path) -> ReadWriteLock:
    """A lock for many readers or one writer, shared by all users who may write to its folder."""
    if not path.exists():
        path.touch()  # filelock would create it for its owner only
    return ReadWriteLock(path)
