"""MLflow's SQLite databases: addresses, creation, locks, and stores that were moved."""

import contextlib
import hashlib
import logging
import os
import re
import sqlite3
from contextlib import AbstractContextManager
from pathlib import Path
from urllib.parse import quote, urlsplit
from urllib.request import url2pathname

from filelock import FileLock
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from thaw import files

PATIENCE = 120  # seconds to wait for another process that creates a database or an experiment
LOCATIONS = (  # the columns of MLflow's tables that have locations of files
    ("experiments", "artifact_location"), ("runs", "artifact_uri"), ("logged_models", "artifact_location"),
    ("model_versions", "source"), ("model_versions", "storage_location"),
)  # fmt: skip
logger = logging.getLogger(__name__)


def address(path: Path) -> str:
    """The URI of a file, with %, ? and # encoded.

    It then names the driver: MLflow takes the rest of a bare `sqlite:///` for a path, and creates that folder.
    """
    whole = str(path.resolve())
    encoded = re.sub("[%?#]", lambda sign: quote(sign[0]), whole)
    return f"sqlite:///{whole}" if encoded == whole else f"sqlite+pysqlite:///{encoded}"


def file(given: str) -> Path:
    """The file of a URI."""
    return Path(make_url(given).database or "")


def resolved(given: str) -> str:
    """The URI with an absolute path and its query; empty if it names no file."""
    try:
        parsed = make_url(given)
        if parsed.host or parsed.database in (None, "", ":memory:") or "\0" in (parsed.database or ""):
            return ""
    except (ArgumentError, ValueError):
        return ""
    return "".join([address(file(given)), *given.partition("?")[1:]])


def database_lock(root: Path, uri: str) -> AbstractContextManager:
    """One process at a time, for what a tracking store cannot do for several at once.

    The lock file lies beside an SQLite database, else in the store; without a store nothing is created.
    """
    if uri.startswith("sqlite"):
        return FileLock(f"{file(uri)}.lock", timeout=PATIENCE)
    if not root.is_dir():
        return contextlib.nullcontext()
    return FileLock(root / f"tracking-{hashlib.sha256(uri.encode()).hexdigest()[:16]}.lock", timeout=PATIENCE)


def create_database(path: Path, artifacts: str, own: bool) -> None:
    """Create MLflow's database atomically, unless it exists.

    Args:
        path: of the file.
        artifacts: URI for the artifacts of its first experiment.
        own: whether it is the store's own, which is set aside if a kill left it without any experiment.

    Raises:
        OSError, sqlite3.Error: it cannot be created there, or the file is not a database.
    """
    if _is_complete(path, own):  # without the lock, which a reader may not be allowed to take
        return
    if not path.parent.is_dir():
        raise OSError(f"there is no folder {path.parent}")
    with database_lock(path.parent, address(path)):
        if _is_complete(path, own):
            return
        if path.exists():
            aside = path.with_name(f"{path.name}.half-made")
            os.replace(path, aside)
            logger.warning(f"{path} was incomplete, as a command died while creating it; renamed to {aside.name}")
        new = path.with_name(f"new-{path.name}")
        for leftover in (new, path.with_name(f"{new.name}-journal")):
            leftover.unlink(missing_ok=True)
        new.touch()  # with the umask's permissions, which SQLite narrows
        create_tables(new, artifacts)
        files.publish(new, path)


def create_tables(path: Path, artifacts: str) -> None:
    """Have MLflow create its tables and first experiment, which takes seconds."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    SqlAlchemyStore(address(path), artifacts).engine.dispose()


def update_locations(path: Path, artifacts: str) -> None:
    """Update the artifact locations of a store that was moved or copied.

    Args:
        path: of the store's own database.
        artifacts: URI of the artifacts now; the location of MLflow's first experiment says where they were.
    """
    with contextlib.closing(sqlite3.connect(path, timeout=PATIENCE)) as database:
        found = database.execute("SELECT artifact_location FROM experiments WHERE experiment_id = 0").fetchone()
        before = found[0].removesuffix("/0") if found else artifacts
        if before == artifacts or _is_same(before, artifacts):
            return
        try:
            with database:
                for table, column in LOCATIONS:
                    database.execute(
                        f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?",
                        (artifacts, len(before) + 1, len(before) + 1, f"{before}/"),
                    )
                    database.execute(f"UPDATE {table} SET {column} = ? WHERE {column} = ?", (artifacts, before))
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_READONLY:
                raise
            return
    logger.warning(f"The store was moved from {_folder(before).parent} to {path.parent}; updated artifact locations")


def _is_same(one: str, other: str) -> bool:
    """Whether two URIs name the same folder, as with a disk that is mounted twice."""
    with contextlib.suppress(OSError):
        return os.path.samefile(_folder(one), _folder(other))
    return False


def _folder(uri: str) -> Path:
    return Path(url2pathname(urlsplit(uri).path))


def _is_complete(path: Path, own: bool) -> bool:
    """Whether the database exists; the store's own has experiments, as MLflow creates the first one last of all."""
    if not own or not path.exists():
        return path.exists()
    with contextlib.closing(sqlite3.connect(path)) as database:
        tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        return "experiments" in tables and bool(database.execute("SELECT 1 FROM experiments LIMIT 1").fetchone())
