"""What is known of files by their content: SHA-256, and whether they are of use; found out once, kept in the store."""

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

Known = tuple[str, int, int]  # path, size in bytes, time of the last change in ns
NAME = "fingerprints.db"
LARGE = 32_000_000  # bytes; larger files are read one at a time, since each is held in memory
_ALONE = threading.Lock()


def of(paths: Iterable[Path], store: Path) -> list[bytes]:
    """The 32 bytes of each file, in their order.

    Args:
        paths: of files.
        store: the folder that remembers.

    Raises:
        OSError: a file cannot be read.
    """
    return [digest for digest, _ in judged(paths, store, "", None)]


def judged(
    paths: Iterable[Path], store: Path, rules: str, judge: Callable[[bytes], str] | None
) -> list[tuple[bytes, str]]:
    """The 32 bytes of each file and what `judge` says of its content, in their order.

    Args:
        paths: of files.
        store: the folder that remembers both.
        rules: a name for what `judge` does; under another name it is asked again.
        judge: takes the content. A file that cannot be read has no bytes then, and that for an answer.

    Raises:
        OSError: there is no such file; or, without `judge`, one cannot be read.
    """
    asked = [_state(path) for path in paths]
    try:
        return _judged(asked, store, rules, judge)
    except sqlite3.OperationalError:
        raise
    except sqlite3.DatabaseError:  # damaged; it only spares work that can be done again
        (store / NAME).unlink()
        return _judged(asked, store, rules, judge)


def _judged(
    asked: list[Known], store: Path, rules: str, judge: Callable[[bytes], str] | None
) -> list[tuple[bytes, str]]:
    with _database(store) as database:
        found = _remembered(database, asked, rules)
    new = [state for state in dict.fromkeys(asked) if state not in found]
    with ThreadPoolExecutor() as pool:  # hashing and decoding leave the interpreter to the others
        answers = pool.map(partial(_examined, judge=judge), new)
        found |= zip(new, progress.counted(answers, "checking", len(new), "files"), strict=True)
    with _database(store) as database:
        read = [(state, *found[state]) for state in new if found[state][0]]
        database.executemany("REPLACE INTO files VALUES (?, ?, ?, ?)", [(*state, digest) for state, digest, _ in read])
        verdicts = [(digest, rules, said) for _, digest, said in read]
        database.executemany("REPLACE INTO verdicts VALUES (?, ?, ?)", verdicts)
    return [found[state] for state in asked]


@contextlib.contextmanager
def _database(store: Path) -> Iterator[sqlite3.Connection]:
    store.mkdir(parents=True, exist_ok=True)
    if not (store / NAME).exists():
        (store / NAME).touch()  # with the umask's permissions, which SQLite narrows
    with contextlib.closing(sqlite3.connect(store / NAME, timeout=60)) as database, database:
        database.execute("CREATE TABLE IF NOT EXISTS files (path TEXT PRIMARY KEY, size INT, time INT, digest BLOB)")
        database.execute(
            "CREATE TABLE IF NOT EXISTS verdicts (digest BLOB, rules TEXT, said TEXT, PRIMARY KEY (digest, rules))"
        )
        yield database


def _remembered(database: sqlite3.Connection, asked: list[Known], rules: str) -> dict[Known, tuple[bytes, str]]:
    database.execute("CREATE TEMP TABLE asked (path TEXT)")
    database.executemany("INSERT INTO asked VALUES (?)", [(path,) for path, *_ in asked])
    rows = database.execute(
        "SELECT path, size, time, digest, said FROM files JOIN verdicts USING (digest) "
        "WHERE rules = ? AND path IN (SELECT path FROM asked)",
        (rules,),
    )
    return {(path, size, time): (digest, said) for path, size, time, digest, said in rows}


def _state(path: Path) -> Known:
    status = path.stat()
    return os.path.abspath(path), status.st_size, status.st_mtime_ns


def _examined(file: Known, judge: Callable[[bytes], str] | None) -> tuple[bytes, str]:
    path, size, _ = file
    with _ALONE if size > LARGE else contextlib.nullcontext():
        try:
            content = Path(path).read_bytes()
        except OSError as error:
            if judge is None:
                raise
            return b"", f"cannot be read ({error.strerror})"
        return hashlib.sha256(content).digest(), judge(content) if judge else ""
