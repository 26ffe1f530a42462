"""Files that appear whole or not at all, and stay through a power loss."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


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
    _flush(partial)
    os.replace(partial, path)
    _flush(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write a text file."""
    with writing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
