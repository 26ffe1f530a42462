"""SHA-256 of files, and whether their content is valid; computed once and kept in the store."""

import contextlib
import hashlib
import os
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from thaw import progress
from thaw.workspace import Workspace

State = tuple[str, int, int]  # path, size in bytes, time of the last change in ns
Validator = Callable[[bytes], str]  # content -> problem, empty if there is none
LARGE = 32_000_000  # bytes; larger files are read one at a time, since each is held in memory
_ALONE = threading.Lock()


def digests(paths: Iterable[Path], store: Path) -> list[bytes]:
    """The SHA-256 of each file, 32 bytes, in order.

    Args:
        paths: of files.
        store: keeps the results.

    Raises:
        OSError: a file cannot be read.
    """
    return [digest for digest, _ in validated(paths, store, "", None)]


def validated(paths: Iterable[Path], store: Path, rules: str, validator: Validator | None) -> list[tuple[bytes, str]]:
    """The SHA-256 of each file, 32 bytes, and what is wrong with its content, in order.

    Args:
        paths: of files.
        store: keeps the results.
        rules: identifies what the validator checks; results cached under other rules are not reused.
        validator: called with the file's content. An unreadable file gets an empty hash and the read error.

    Raises:
        OSError: there is no such file; or, without a validator, one cannot be read.
    """
    states = [_state(path) for path in paths]
    database = Workspace(store).fingerprints
    try:
        return _validated(states, database, rules, validator)
    except sqlite3.OperationalError:
        raise
    except sqlite3.DatabaseError:  # damaged; everything in it can be computed again
        database.unlink()
        return _validated(states, database, rules, validator)


def _validated(states: list[State], path: Path, rules: str, validator: Validator | None) -> list[tuple[bytes, str]]:
    with _open(path) as database:
        found = _known(database, states, rules)
    new = [state for state in dict.fromkeys(states) if state not in found]
    with ThreadPoolExecutor() as pool:  # hashing and decoding release the interpreter lock
        results = pool.map(partial(_examine, validator=validator), new)
        found |= zip(new, progress.counted(results, "checking", len(new), "files"), strict=True)
    with _open(path) as database:
        read = [(state, *found[state]) for state in new if found[state][0]]
        database.executemany("REPLACE INTO files VALUES (?, ?, ?, ?)", [(*state, digest) for state, digest, _ in read])
        problems = [(digest, rules, problem) for _, digest, problem in read]
        database.executemany("REPLACE INTO verdicts VALUES (?, ?, ?)", problems)
    return [found[state] for state in states]


@contextlib.contextmanager
def _open(path: Path) -> Iterator[sqlite3.Connection]:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        path.touch()  # with the umask's permissions, which SQLite narrows
    with contextlib.closing(sqlite3.connect(path, timeout=60)) as database, database:
        database.execute("CREATE TABLE IF NOT EXISTS files (path TEXT PRIMARY KEY, size INT, time INT, digest BLOB)")
        database.execute(
            "CREATE TABLE IF NOT EXISTS verdicts (digest BLOB, rules TEXT, said TEXT, PRIMARY KEY (digest, rules))"
        )
        yield database


def _known(database: sqlite3.Connection, states: list[State], rules: str) -> dict[State, tuple[bytes, str]]:
    database.execute("CREATE TEMP TABLE asked (path TEXT)")
    database.executemany("INSERT INTO asked VALUES (?)", [(path,) for path, *_ in states])
    rows = database.execute(
        "SELECT path, size, time, digest, said FROM files JOIN verdicts USING (digest) "
        "WHERE rules = ? AND path IN (SELECT path FROM asked)",
        (rules,),
    )
    return {(path, size, time): (digest, problem) for path, size, time, digest, problem in rows}


def _state(path: Path) -> State:
    status = path.stat()
    return os.path.abspath(path), status.st_size, status.st_mtime_ns


def _examine(state: State, validator: Validator | None) -> tuple[bytes, str]:
    path, size, _ = state
    with _ALONE if size > LARGE else contextlib.nullcontext():
        try:
            content = Path(path).read_bytes()
        except OSError as error:
            if validator is None:
                raise
            return b"", f"cannot be read ({error.strerror})"
        return hashlib.sha256(content).digest(), validator(content) if validator else ""
