"""Runs and sweeps in MLflow.

One run = one MLflow run; one sweep = one MLflow run with the runs nested under it. Written through the client
with explicit run ids, never through MLflow's "active run", so that processes and launchers do not matter.
"""

import hashlib
import logging
import os
import re
import shlex
import subprocess
import sys
import tempfile
import textwrap
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from filelock import FileLock

from thaw.errors import ThawError, redact, sentence

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
# A server that is away is reported in seconds; MLflow's own patience is four minutes.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_BACKOFF_JITTER", "0")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException

logging.getLogger("mlflow").setLevel(logging.WARNING)  # how it makes its tables is no news
logging.getLogger("urllib3").setLevel(logging.ERROR)  # a server that is away is told of once

UI = "http://127.0.0.1:5000"  # where `make ui` listens
SCHEMES = ("sqlite", "postgresql", "mysql", "mssql", "http", "https", "databricks")


@dataclass(frozen=True)
class Store:
    """A tracking store: MLflow's client for it, and where artifacts of new experiments go (None: it decides)."""

    client: MlflowClient
    uri: str
    artifacts: str | None

    def experiment(self, name: str) -> str:
        """The id of the experiment of that name, made if there is none."""
        with _lock(self.uri):
            found = self.client.get_experiment_by_name(name)
            if found is None:
                return self.client.create_experiment(name, self.artifacts)
        if found.lifecycle_stage == "deleted":
            raise ThawError(f"The MLflow experiment {name} is deleted; restore it, or give tracking.experiment=another")
        return found.experiment_id

    def page(self, experiment: str, parent: str, charts: bool = False) -> str:
        """The address of the runs of a sweep, flat and best first, or of their curves side by side."""
        within = quote(f"tags.mlflow.parentRunId = '{parent}'", safe="")
        order = quote("metrics.`test_accuracy`", safe="")
        mode = "&compareRunsMode=CHART" if charts else ""
        return (
            f"{self._host()}/#/experiments/{experiment}/runs?workflowType=machine_learning&searchFilter={within}"
            f"&orderByKey={order}&orderByAsc=false{mode}"
        )

    def pages(self, experiment: str, parent: str) -> dict[str, str]:
        """The addresses that show a sweep: its runs flat and best first, and their curves side by side."""
        return {"runs": self.page(experiment, parent), "charts": self.page(experiment, parent, charts=True)}

    def run_page(self, experiment: str, run: str) -> str:
        """The address of one run."""
        return f"{self._host()}/#/experiments/{experiment}/runs/{run}"

    def _host(self) -> str:
        return redact(self.uri).rstrip("/") if self.uri.startswith("http") else UI


def connect(uri: str | None, store: str) -> Store:
    """Open the tracking store, made first if it is a new database.

    Args:
        uri: of MLflow; None for SQLite in the folder `store`.
        store: the folder that all runs leave their files in.

    Raises:
        ThawError: the address is malformed or does not answer.
    """
    Path(store).mkdir(parents=True, exist_ok=True)
    uri = uri or f"sqlite:///{Path(store).resolve() / 'mlflow.db'}"
    scheme = re.match(r"([a-z]+)(\+[a-z0-9]+)?://", uri)
    if not scheme or scheme[1] not in SCHEMES:
        raise ThawError(
            f"tracking.uri={redact(uri)} is no tracking store; give sqlite:///FILE, http://HOST:PORT or "
            "postgresql://HOST/DATABASE"
        )
    local = not scheme[1].startswith(("http", "databricks"))
    artifacts = (Path(store).resolve() / "artifacts").as_uri() if local else None
    try:
        # Processes that meet a fresh database together would leave it unusable.
        with _lock(uri):
            client = MlflowClient(uri)
            client.search_experiments(max_results=1)
    except Exception as error:
        refused = "Connection refused" in str(error) or "NewConnectionError" in str(error)
        reason = "no server listens there" if refused else textwrap.shorten(redact(str(error)), 200)
        raise ThawError(
            f"tracking.uri={redact(uri)} does not answer ({reason}); mend it or start the server"
        ) from error
    return Store(client, uri, artifacts)


class Record:
    """What MLflow is told of one run. As a context it ends the run: FINISHED, FAILED with the reason, or KILLED."""

    def __init__(
        self, store: Store, experiment: str, name: str, parent: str | None, tags: dict[str, str], folder: Path
    ):
        """Open a run in MLflow; files to record are gathered in `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        nested = {"mlflow.parentRunId": parent} if parent else {}
        self.store, self.client, self.experiment = store, store.client, experiment
        self.run = self.client.create_run(
            experiment,
            tags={"mlflow.source.name": "train.py", "mlflow.source.type": "LOCAL", **nested, **tags},
            run_name=name,
        ).info.run_id

    def __enter__(self) -> "Record":
        return self

    def __exit__(self, kind, error, trace) -> None:
        if error is None:
            return self.end("FINISHED")
        killed = isinstance(error, KeyboardInterrupt | SystemExit)
        try:
            if not killed:
                reason = sentence(error) or f"{type(error).__name__}: {error}"
                self.tags({"thaw.error": redact(reason)[:4000]})
            self.end("KILLED" if killed else "FAILED")
        except MlflowException as trouble:
            print(f"This run could not be marked as ended in MLflow: {redact(str(trouble))}", file=sys.stderr)

    def params(self, values: dict[str, object]) -> None:
        """Record parameters; texts of over 6,000 characters are cut by MLflow."""
        params = [Param(key, redact(str(value))) for key, value in values.items()]
        for first in range(0, len(params), 100):
            self.client.log_batch(self.run, params=params[first : first + 100])

    def metrics(self, values: dict[str, float], step: int = 0) -> None:
        """Record several metrics of one step in one request."""
        now = int(time.time() * 1000)
        self.client.log_batch(self.run, metrics=[Metric(key, value, now, step) for key, value in values.items()])

    def tags(self, values: dict[str, str]) -> None:
        """Set tags."""
        self.client.log_batch(self.run, tags=[RunTag(key, value) for key, value in values.items()])

    def dataset(self, name: str, digest: str, source: str, profile: str, tags: dict[str, str]) -> None:
        """Record the dataset that the run used."""
        dataset = Dataset(name, digest, "local", source, profile=profile)
        inputs = [InputTag("mlflow.data.context", "training"), *(InputTag(key, value) for key, value in tags.items())]
        self.client.log_inputs(self.run, [DatasetInput(dataset, inputs)])

    def artifacts(self, folder: Path, below: str | None = None) -> None:
        """Copy the files of a folder to the run."""
        self.client.log_artifacts(self.run, str(folder), below)

    def model(self, model, size: int, classes: int) -> None:
        """Record a Keras model: pixels float32 (batch, size, size, 3) in [0, 255] -> probabilities (batch, classes)."""
        import mlflow
        import numpy as np
        from mlflow.models import ModelSignature
        from mlflow.types import Schema, TensorSpec

        signature = ModelSignature(
            Schema([TensorSpec(np.dtype("float32"), (-1, size, size, 3))]),
            Schema([TensorSpec(np.dtype("float32"), (-1, classes))]),
        )
        requirements = [
            f"{name}=={version}" for name, version in packages() if name in ("keras", "numpy", "tensorflow")
        ]
        mlflow.set_tracking_uri(self.store.uri)
        # Logging a model is the one call that MLflow offers for the active run only. Leaving it ends the run;
        # `end` says how, later.
        with mlflow.start_run(run_id=self.run):
            mlflow.tensorflow.log_model(model, name="model", signature=signature, pip_requirements=requirements)

    def end(self, status: str) -> None:
        """Say that the run has ended: FINISHED, FAILED or KILLED."""
        self.client.set_terminated(self.run, status)


def command() -> str:
    """The command that this process was started with, without credentials."""
    return shlex.join(map(redact, ["python", Path(sys.argv[0]).name, *sys.argv[1:]]))


def git_tags(root: Path) -> dict[str, str]:
    """Which commit the code is of and whether the tree was clean; nothing outside a repository."""

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=True).stdout

    try:
        commit, changes = git("rev-parse", "HEAD").strip(), git("status", "--porcelain")
    except (OSError, subprocess.CalledProcessError):
        return {}
    return {"mlflow.source.git.commit": commit, "thaw.git_clean": str(not changes.strip()).lower()}


def packages() -> list[tuple[str, str]]:
    """Every installed distribution and its version, by name."""
    from importlib.metadata import distributions

    return sorted({each.metadata["Name"].lower(): each.version for each in distributions()}.items())


def _lock(uri: str) -> FileLock:
    """One process of this machine at a time, for what a tracking store cannot do for several at once."""
    name = f"thaw-{hashlib.sha256(uri.encode()).hexdigest()[:16]}.lock"
    return FileLock(Path(tempfile.gettempdir()) / name, timeout=120)
