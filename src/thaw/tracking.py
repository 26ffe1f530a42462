"""The tracking store: how it is opened, the addresses of its pages, and where a run comes from."""

import contextlib
import hashlib
import html
import logging
import os
import re
import shlex
import socket
import sqlite3
import subprocess
import sys
import textwrap
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from filelock import FileLock

from thaw import durable, sqlite, workspace
from thaw.errors import ThawError, redact, sentence

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"  # it would show the password of an address
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # for files that take no time
# A server that is away is reported in seconds; MLflow's own patience is four minutes.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # a journal is sent again as a whole
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")

from mlflow import MlflowClient
from mlflow.entities import Experiment
from mlflow.exceptions import MlflowException
from sqlalchemy import make_url

logging.getLogger("mlflow").setLevel(logging.WARNING)  # how it makes its tables is no news
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # it raises what it logs
logging.getLogger("urllib3").setLevel(logging.ERROR)  # a server that is away is told of once

NOTE = "mlflow.note.content"  # the tag that MLflow shows as Markdown
DETAIL = "with."  # begins the parameters that say more than the short ones, and sorts them behind these
SWEPT = "swept."  # begins the tags of a sweep that name its keys and their values
BEST_FIRST, SIMPLEST_FIRST = "metrics.`kept_val_accuracy` DESC", "metrics.`trainable_parameters` ASC"
MODE = "workflowType=machine_learning"  # without it a new browser opens MLflow's pages for language models
CODE_WIDTH = 60  # columns of a command in a description; wider ones push the values of a run out of sight
LOCATIONS = (  # the columns of MLflow's tables that say where files are
    ("experiments", "artifact_location"), ("runs", "artifact_uri"), ("logged_models", "artifact_location"),
    ("model_versions", "source"), ("model_versions", "storage_location"),
)  # fmt: skip
UI = "http://127.0.0.1:5000"  # where `make ui` listens
SCHEMES = ("sqlite", "postgresql", "mysql", "mssql", "http", "https", "databricks")
PATIENCE = 120  # seconds for another process that makes a database or an experiment
PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
# How the many layers below say that nobody answers, in contrast to an answer that is a refusal.
AWAY = r"refused|NewConnection|Max retries|timed out|timeout|Name or service|translate host|RemoteDisconnected|50[234]"


@dataclass(frozen=True)
class Store:
    """A tracking store.

    Attributes:
        uri: with the credentials that it may have.
        name: the address that was given, without credentials; nothing for SQLite in the store's folder.
        artifacts: where those of new experiments go; None: it decides.
        away: why it does not answer now; None where it does.
        root: the store's folder.
    """

    uri: str
    name: str
    artifacts: str | None
    away: str | None
    root: Path

    @cached_property
    def client(self) -> MlflowClient:
        """MLflow's client; for a database that cannot be opened an error at once, where MLflow would try for minutes.

        Raises:
            OSError, sqlite3.Error: nothing listens there, or the file cannot be opened.
        """
        if self.artifacts:
            address = make_url(self.uri)
            if address.drivername.startswith("sqlite"):
                with contextlib.closing(sqlite3.connect(address.database)) as database:
                    database.execute("PRAGMA schema_version")
            elif address.host:
                port = address.port or PORTS[address.get_backend_name()]
                socket.create_connection((address.host, port), timeout=2).close()
        return MlflowClient(self.uri)

    def experiment(self, name: str) -> str:
        """The id of the experiment of that name, made if there is none."""
        with _lock(self.root, self.uri):
            found = self.client.get_experiment_by_name(name)
            try:
                return found.experiment_id if found else self.client.create_experiment(name, self.artifacts)
            except MlflowException:
                found = self.client.get_experiment_by_name(name)  # has another machine just made it?
                if not found:
                    raise
                return found.experiment_id

    def state(self, run: str) -> str:
        """What has become of a run: active, deleted, missing, or unknown where nobody can tell now."""
        try:
            return self.client.get_run(run).info.lifecycle_stage
        except MlflowException as error:
            return "missing" if error.error_code == "RESOURCE_DOES_NOT_EXIST" else "unknown"
        except (OSError, sqlite3.Error):
            return "unknown"

    def run_page(self, experiment: str, run: str) -> str:
        """The address of one run."""
        return f"{self.host}/#/experiments/{experiment}/runs/{run}?{MODE}"

    @property
    def host(self) -> str:
        """Where its pages are: the server, or `make ui`."""
        return redact(self.uri).rstrip("/") if self.uri.startswith("http") else UI


@cache
def connect(given: str | None, root: str, experiment: str | None = None) -> Store:
    """Open the tracking store, made first if it is a new database; once in a process.

    Args:
        given: its URI for MLflow; None for SQLite in the folder `root`.
        root: the store's folder.
        experiment: which must not be one that was deleted there.

    Raises:
        ThawError: the address is malformed, what is there refuses, or the folder is no store.
    """
    uri = given or sqlite.address(workspace.existing(Path(root)) / sqlite.NAME)
    scheme = re.match(r"([a-z]+)(\+[a-z0-9]+)?://", uri)
    if scheme and scheme[1] == "sqlite":
        uri = sqlite.resolved(uri)  # the same file from any folder
    if not scheme or scheme[1] not in SCHEMES or not uri:
        raise ThawError(
            f"tracking.uri={redact(given or '')} is no tracking store; give sqlite:///FILE, http://HOST:PORT or "
            "postgresql://HOST/DATABASE"
        )
    local = not scheme[1].startswith(("http", "databricks"))
    artifacts = (Path(root).resolve() / "artifacts").as_uri() if local else None
    store = Store(uri, redact(uri) if given else "", artifacts, None, Path(root))
    try:
        if scheme[1] == "sqlite":
            _make(sqlite.file(uri), artifacts, own=not given)
            if not given:
                _follow(sqlite.file(uri), artifacts)
        # Processes that meet a fresh database of a server together would leave it unusable.
        with _lock(store.root, uri) if local and scheme[1] != "sqlite" else contextlib.nullcontext():
            store.client.search_experiments(max_results=1)
        deleted = experiment and _is_deleted(store.client.get_experiment_by_name(experiment))
    except ImportError as error:
        raise ThawError(
            f"tracking.uri={redact(uri)} needs {error.name}, which is not installed; give pip install -e '.[server]'"
        ) from error
    except Exception as error:
        if told := sentence(error):  # the disk is full, or the place cannot be used
            raise ThawError(told) from error
        reason = textwrap.shorten(redact(str(error)), 200)
        if not re.search(AWAY, str(error)):
            raise ThawError(f"tracking.uri={redact(uri)} refuses ({reason}); mend it or give another") from error
        if re.search("refused|NewConnection", str(error)):
            reason = "nothing listens there"
        print(f"tracking.uri={redact(uri)} does not answer ({reason}); what is recorded waits in {root}", flush=True)
        return replace(store, away=reason)
    if deleted:
        raise ThawError(
            f"The MLflow experiment {experiment} is deleted; restore it, or give tracking.experiment=another"
        )
    return store


def _is_deleted(experiment: Experiment | None) -> bool:
    return experiment is not None and experiment.lifecycle_stage == "deleted"


def markdown(headings: list[str], lines: list[list[str]]) -> str:
    """A table as Markdown."""
    table = [f"| {' | '.join(map(html.escape, line))} |" for line in [headings, *lines]]
    return "\n".join([table[0], "|" + " --- |" * len(headings), *table[1:]])


def code(command: str) -> str:
    """A command as Markdown, in lines that a page can show; still a command for a shell."""
    lines: list[str] = []
    for word in map(shlex.quote, shlex.split(command)):
        if lines and len(lines[-1]) + 1 + len(word) <= CODE_WIDTH:
            lines[-1] += f" {word}"
        else:
            lines.append(f"  {word}" if lines else word)
    return "```\n" + " \\\n".join(lines) + "\n```"


def git_tags(root: Path) -> dict[str, str]:
    """Which commit the code is of and whether the tree was clean; nothing outside a repository."""

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=True).stdout

    try:
        commit, changes = git("rev-parse", "HEAD").strip(), git("status", "--porcelain")
    except (OSError, subprocess.CalledProcessError):
        return {}
    return {"mlflow.source.git.commit": commit, "thaw.git_clean": str(not changes.strip()).lower()}


@cache
def packages() -> list[tuple[str, str]]:
    """Every installed distribution and its version, by name."""
    from importlib.metadata import distributions

    return sorted({each.metadata["Name"].lower(): each.version for each in distributions()}.items())


def _lock(root: Path, uri: str) -> AbstractContextManager:
    """One process at a time, for what a tracking store cannot do for several at once.

    Its file lies beside an SQLite database, else in the store; who has none only reads.
    """
    if uri.startswith("sqlite"):
        return FileLock(f"{sqlite.file(uri)}.lock", timeout=PATIENCE)
    if not root.is_dir():
        return contextlib.nullcontext()
    return FileLock(root / f"tracking-{hashlib.sha256(uri.encode()).hexdigest()[:16]}.lock", timeout=PATIENCE)


def _make(path: Path, artifacts: str, own: bool) -> None:
    """Make an SQLite database for MLflow beside its place, so that it is there whole or not at all.

    Args:
        path: of the file; one that is there stays.
        artifacts: where those of its first experiment would go.
        own: whether it is the store's, which is then set aside if a kill left it half made, without any experiment.

    Raises:
        OSError, sqlite3.Error: it cannot be made there, or what is there is no database.
    """
    if _is_made(path, own):  # without the lock, as who only reads may not be allowed to take it
        return
    if not path.parent.is_dir():
        raise OSError(f"there is no folder {path.parent}")
    with _lock(path.parent, sqlite.address(path)):
        if _is_made(path, own):
            return
        if path.exists():
            aside = path.with_name(f"{path.name}.half-made")
            os.replace(path, aside)
            print(f"{path} was half made when a command died; it is made anew, and {aside.name} has what was there")
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

        new = path.with_name(f"new-{path.name}")
        for leftover in (new, path.with_name(f"{new.name}-journal")):
            leftover.unlink(missing_ok=True)
        new.touch()  # with the umask's permissions, which SQLite narrows
        SqlAlchemyStore(sqlite.address(new), artifacts).engine.dispose()
        durable.place(new, path)


def _follow(path: Path, artifacts: str) -> None:
    """Update the artifact locations of a store that was moved or copied.

    Args:
        path: of the store's own database.
        artifacts: URI of the artifacts now. The location of MLflow's first experiment tells where they were.
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
    print(
        f"The store was moved from {_folder(before).parent} to {path.parent}; updated its artifact locations",
        file=sys.stderr,
    )


def _is_same(one: str, other: str) -> bool:
    """Whether two addresses of folders name one, as with a disk that is mounted twice."""
    with contextlib.suppress(OSError):
        return os.path.samefile(_folder(one), _folder(other))
    return False


def _folder(address: str) -> Path:
    return Path(url2pathname(urlsplit(address).path))


def _is_made(path: Path, own: bool) -> bool:
    """Whether there is a database; the store's own has experiments, of which MLflow makes the first, last of all."""
    if not own or not path.exists():
        return path.exists()
    with contextlib.closing(sqlite3.connect(path)) as database:
        tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        return "experiments" in tables and bool(database.execute("SELECT 1 FROM experiments LIMIT 1").fetchone())
