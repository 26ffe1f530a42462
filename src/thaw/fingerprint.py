"""SHA-256 of files, computed once for each path, size and time, and remembered in the store."""

import contextlib
import hashlib
import sqlite3
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

Known = tuple[str, int, int]  # path, size in bytes, time of the last change in ns


def of(paths: Iterable[Path], store: Path) -> list[bytes]:
    """The 32 bytes of each file, in their order.

    Args:
        paths: of files.
        store: the folder that remembers.

    Raises:
        OSError: a file cannot be read.
    """
    asked = [_state(path) for path in paths]
    store.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(sqlite3.connect(store / "fingerprints.db", timeout=60)) as database, database:
        database.execute("CREATE TABLE IF NOT EXISTS files (path TEXT PRIMARY KEY, size INT, time INT, digest BLOB)")
        found = _remembered(database, asked)
    new = [state for state in dict.fromkeys(asked) if state not in found]
    with ThreadPoolExecutor() as pool:  # hashing leaves the interpreter to the others
        found |= zip(new, pool.map(lambda state: _digest(state[0]), new), strict=True)
    with contextlib.closing(sqlite3.connect(store / "fingerprints.db", timeout=60)) as database, database:
        database.executemany("REPLACE INTO files VALUES (?, ?, ?, ?)", [(*state, found[state]) for state in new])
    return [found[state] for state in asked]


def _remembered(database: sqlite3.Connection, asked: list[Known]) -> dict[Known, bytes]:
    database.execute("CREATE TEMP TABLE asked (path TEXT)")
    database.executemany("INSERT INTO asked VALUES (?)", [(path,) for path, *_ in asked])
    rows = database.execute("SELECT path, size, time, digest FROM files WHERE path IN (SELECT path FROM asked)")
    return {(path, size, time): digest for path, size, time, digest in rows}


def _state(path: Path) -> Known:
    status = path.stat()
    return str(path.resolve()), status.st_size, status.st_mtime_ns


def _digest(path: str) -> bytes:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
