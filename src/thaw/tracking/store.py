"""The tracking store: how it is opened, and the addresses of its pages."""

import contextlib
import logging
import re
import socket
import sqlite3
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Experiment
from mlflow.exceptions import MlflowException
from sqlalchemy import make_url

from thaw.errors import ThawError, one_line, redact, user_message
from thaw.tracking import sqlite
from thaw.workspace import Workspace

MODE = "workflowType=machine_learning"  # without it a new browser opens MLflow's pages for language models
UI = "http://127.0.0.1:5000"  # where `make ui` listens
SCHEMES = ("sqlite", "postgresql", "mysql", "mssql", "http", "https", "databricks")
PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
# Error messages of an unreachable server, as opposed to one that rejects the request.
UNREACHABLE = (
    r"refused|NewConnection|Max retries|timed out|timeout|Name or service|translate host|RemoteDisconnected|50[234]"
)
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Store:
    """A tracking store.

    Attributes:
        uri: with credentials, if any.
        name: the given URI without credentials; empty for SQLite in the store's folder.
        artifacts: URI for the artifacts of new experiments; None: the server decides.
        unreachable: why it does not answer; None if it does.
        root: the store's folder.
    """

    uri: str
    name: str
    artifacts: str | None
    unreachable: str | None
    root: Path

    @cached_property
    def client(self) -> MlflowClient:
        """MLflow's client; a database that cannot be opened raises at once, where MLflow would retry for minutes.

        Raises:
            OSError, sqlite3.Error: nothing listens there, or the file cannot be opened.
        """
        if self.artifacts:
            address = make_url(self.uri)
            if address.drivername.startswith("sqlite"):
                with contextlib.closing(sqlite3.connect(address.database or "")) as database:
                    database.execute("PRAGMA schema_version")
            elif address.host:
                port = address.port or PORTS[address.get_backend_name()]
                socket.create_connection((address.host, port), timeout=2).close()
        return MlflowClient(self.uri)

    def __getstate__(self) -> dict:
        """What another process needs; it has a client of its own."""
        return {each.name: getattr(self, each.name) for each in fields(self)}

    def experiment(self, name: str) -> str:
        """The id of the experiment of that name, created if missing."""
        with sqlite.database_lock(self.root, self.uri):
            found = self.client.get_experiment_by_name(name)
            try:
                return found.experiment_id if found else self.client.create_experiment(name, self.artifacts)
            except MlflowException:
                found = self.client.get_experiment_by_name(name)  # another machine may just have created it
                if not found:
                    raise
                return found.experiment_id

    def state(self, run: str) -> str:
        """The state of a run: active, deleted, missing, or unknown if the store does not answer."""
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


def connect(given: str | None, root: str | Path, experiment: str | None = None) -> Store:
    """Open the tracking store; a new SQLite database is created.

    Args:
        given: its URI for MLflow; None for SQLite in the folder `root`.
        root: the store's folder.
        experiment: refused if it was deleted there.

    Raises:
        ThawError: the URI is malformed or refused, or the folder is not a store.
    """
    workspace = Workspace(Path(root))
    uri = given or sqlite.address(workspace.open().database)
    scheme = re.match(r"([a-z]+)(\+[a-z0-9]+)?://", uri)
    if scheme and scheme[1] == "sqlite":
        uri = sqlite.resolved(uri)  # the same file from any folder
    if not scheme or scheme[1] not in SCHEMES or not uri:
        raise ThawError(
            f"tracking.uri={redact(given or '')} is no tracking store; give sqlite:///FILE, http://HOST:PORT or "
            "postgresql://HOST/DATABASE"
        )
    local = not scheme[1].startswith(("http", "databricks"))
    artifacts = workspace.artifacts.resolve().as_uri() if local else None
    store = Store(uri, redact(uri) if given else "", artifacts, None, workspace.root)
    try:
        if scheme[1] == "sqlite" and artifacts:
            sqlite.create_database(sqlite.file(uri), artifacts, own=not given)
            if not given:
                sqlite.update_locations(sqlite.file(uri), artifacts)
        # Processes that meet a fresh database server together would leave it unusable.
        is_server = local and scheme[1] != "sqlite"
        with sqlite.database_lock(store.root, uri) if is_server else contextlib.nullcontext():
            store.client.search_experiments(max_results=1)
        deleted = experiment and _is_deleted(store.client.get_experiment_by_name(experiment))
    except ImportError as error:
        raise ThawError(
            f"tracking.uri={redact(uri)} needs {error.name}, which is not installed; run pip install -e '.[server]'"
        ) from error
    except Exception as error:
        if message := user_message(error):  # the disk is full, or the file cannot be opened
            raise ThawError(message) from error
        reason = one_line(error, 200)
        if not re.search(UNREACHABLE, str(error)):
            raise ThawError(f"tracking.uri={redact(uri)} failed ({reason}); fix it or give another") from error
        if re.search("refused|NewConnection", str(error)):
            reason = "nothing listens there"
        logger.warning(
            f"tracking.uri={redact(uri)} is unreachable ({reason}); runs are journaled in {root} and sent later"
        )
        return replace(store, unreachable=reason)
    if deleted:
        raise ThawError(
            f"The MLflow experiment {experiment} is deleted; restore it, or give tracking.experiment=another"
        )
    return store


def _is_deleted(experiment: Experiment | None) -> bool:
    return experiment is not None and experiment.lifecycle_stage == "deleted"
