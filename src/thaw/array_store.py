"""Arrays on disk, computed once by one process: features, decoded images, initial weights.

The name of an entry is a hash of everything that its values depend on. Entries are written atomically, verified before
use, and locked while in use. When the store is full, the least recently used ones are evicted.
"""

import contextlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from filelock import Timeout

from thaw import files, progress
from thaw.errors import FULL
from thaw.locks import read_write_lock

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry:
    """Arrays that are stored together.

    Attributes:
        name: hash of everything that their numbers depend on.
        what: the work that computes them, for progress reports.
        rows: how many each array has.
        row_bytes: the size of a row of all arrays.
        dtype: of all arrays.
        unit: what the rows are, for progress reports.
    """

    name: str
    what: str
    rows: int
    row_bytes: int
    dtype: str
    unit: str = "images"

    @property
    def gigabytes(self) -> float:
        """The size of all arrays."""
        return self.rows * self.row_bytes / 1e9


class ArrayStore:
    """Entries in a folder. As a context it keeps those that it returned from being removed by others.

    Args:
        folder: has one folder for each entry.
        max_gigabytes: of all entries.
    """

    def __init__(self, folder: Path, max_gigabytes: float):
        (folder / "locks").mkdir(parents=True, exist_ok=True)
        self.folder, self.max_gigabytes = folder, max_gigabytes
        self.exit_stack = contextlib.ExitStack()

    def __enter__(self) -> "ArrayStore":
        return self

    def __exit__(self, *_) -> None:
        self.exit_stack.close()

    def get(self, entry: Entry, compute: Callable[[], Iterator[tuple]]) -> list[np.ndarray] | str:
        """The memory-mapped arrays of an entry, computed first if missing.

        Args:
            entry: which.
            compute: yields batches whose first element is a list of arrays (batch, ...), in order.

        Returns:
            The arrays, in a list that is emptied at the end of the context; or why they cannot be stored.
        """
        lock = self._lock(entry.name)
        while True:
            lock.acquire_read()
            arrays = self._open(entry.name)
            if arrays is not None:
                self.exit_stack.callback(lock.release)
                self.exit_stack.callback(arrays.clear)  # TensorFlow never frees the functions that read them
                os.utime(self.folder / entry.name)
                return arrays
            lock.release()
            with lock.write_lock():
                if self._open(entry.name) is None:  # else another process has just computed it
                    self._clear(entry.name)
                    batches = compute()  # which may store the entry that this one follows from
                    if not self._make_room(entry.gigabytes):
                        return "cache full: all entries are in use by other processes"
                    try:
                        self._write(entry, batches)
                    except OSError as error:
                        self._clear(entry.name)
                        if error.errno not in FULL:
                            raise
                        return f"the disk is full ({entry.gigabytes:.3g} GB needed)"

    def _lock(self, name: str):
        return read_write_lock(self.folder / "locks" / f"{name}.db")

    def _open(self, name: str) -> list[np.ndarray] | None:
        """The arrays of an entry; None if it is missing or damaged."""
        folder = self.folder / name
        try:
            digests = json.loads((folder / "digests.json").read_text())
            if any(_digest(folder / file) != digest for file, digest in digests.items()):
                return None
            return [np.load(folder / file, mmap_mode="r") for file in digests]
        except (OSError, ValueError):
            return None

    def _clear(self, name: str) -> None:
        """Remove a damaged entry, and what a killed writer left."""
        if (self.folder / name).exists():
            logger.info(f"The cached arrays {name} are damaged and are computed again.")
            shutil.rmtree(self.folder / name)
        shutil.rmtree(self.folder / f"{name}.partial", ignore_errors=True)

    def _write(self, entry: Entry, batches: Iterator[tuple]) -> None:
        partial = self.folder / f"{entry.name}.partial"
        partial.mkdir()
        arrays: list[np.memmap] = []
        done = 0
        with progress.reporter().step(entry.what, entry.rows, entry.unit) as step:
            for tensors, *_ in batches:
                if not arrays:
                    arrays = [
                        np.lib.format.open_memmap(
                            partial / f"{n}.npy", "w+", np.dtype(entry.dtype), (entry.rows, *each.shape[1:])
                        )
                        for n, each in enumerate(tensors)
                    ]
                    for n in range(len(arrays)):
                        files.reserve(partial / f"{n}.npy")
                for array, tensor in zip(arrays, tensors, strict=True):
                    array[done : done + len(tensor)] = tensor[: entry.rows - done]
                step.advance(min(len(tensors[0]), entry.rows - done))
                done += len(tensors[0])
        for array in arrays:
            array.flush()
        names = [f"{n}.npy" for n in range(len(arrays))]
        (partial / "digests.json").write_text(json.dumps({name: _digest(partial / name) for name in names}))
        os.replace(partial, self.folder / entry.name)

    def _make_room(self, gigabytes: float) -> bool:
        """Remove the least recently used entries until there is room, but none that is in use."""
        entries = []
        for folder in self.folder.iterdir():
            with contextlib.suppress(FileNotFoundError):  # another process has just finished or removed it
                if folder.name != "locks":
                    size = sum(file.stat().st_size for file in folder.iterdir()) / 1e9
                    entries.append((folder.stat().st_mtime, size, folder))
        total = sum(size for _, size, _ in entries) + gigabytes
        for _, size, folder in sorted(entries):
            if total <= self.max_gigabytes:
                break
            try:
                with self._lock(folder.stem).write_lock(blocking=False):
                    shutil.rmtree(folder)
                total -= size
            except (Timeout, RuntimeError, FileNotFoundError):  # in use, or another process has just removed it
                continue
        return total <= self.max_gigabytes


def remove_unused(folder: Path, since: float | None) -> int:
    """Remove entries last used before `since` (ms since 1970; None: all), unless in use; returns the bytes freed."""
    removed = 0
    for entry in sorted(folder.glob("*")):
        if entry.name == "locks":
            continue
        lock = read_write_lock(folder / "locks" / f"{entry.stem}.db")
        try:
            with lock.write_lock(blocking=False):
                if since is None or entry.stat().st_mtime * 1000 < since:
                    removed += files.size_of(entry)
                    shutil.rmtree(entry, ignore_errors=True)
        except (Timeout, RuntimeError, FileNotFoundError):  # in use, or another process has just finished or removed it
            continue
    return removed


def _digest(path: Path) -> str:
    """SHA-256 of a file, read once per process as long as the file stays the same, whatever its name."""
    status = path.stat()
    state = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
    if state not in _DIGESTS:
        _DIGESTS[state] = files.digest(path)
    return _DIGESTS[state]


_DIGESTS: dict[tuple[int, ...], str] = {}
