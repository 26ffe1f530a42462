"""What MLflow has recorded, read back."""

import csv
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Run as Recorded

from thaw.config import nearest
from thaw.errors import ThawError
from thaw.names import trimmed
from thaw.tracking import DETAIL, Store

RUNS, SWEEPS = "tags.`thaw.kind` = 'run'", "tags.`thaw.kind` = 'sweep'"
NEWEST_FIRST = ["start_time DESC"]


@dataclass(frozen=True)
class Run:
    """A recorded run.

    Attributes:
        id: in MLflow.
        name: says what varied in its sweep.
        status: FINISHED, or what became of it.
        params: as recorded, under the keys of the configuration.
        metrics: the last value of each.
        images: identifies the split of the dataset that it was tested on.
        stages: the signatures of its stages; runs with the same are one result, recorded more than once.
        parent: the id of its sweep, None for a single run.
        command: that makes it alone.
        page: its address in MLflow.
        note: what its description does not show: that fine-tuning left worse weights than the head; else nothing.
        tags: of MLflow, such as the commit.
        started: in milliseconds since 1970.
    """

    id: str
    name: str
    status: str
    params: dict[str, str]
    metrics: dict[str, float]
    images: str
    stages: str
    parent: str | None
    command: str
    page: str
    note: str = ""
    tags: dict[str, str] = field(default_factory=dict)
    started: int = 0

    @property
    def seed(self) -> str:
        """As recorded."""
        return self.params.get("seed", "")


def experiment(client: MlflowClient, name: str | None) -> tuple[str, str]:
    """The name and the id of an experiment; of the one with the newest run if there is no name.

    Raises:
        ThawError: there is none of that name, or nothing is recorded.
    """
    known = {each.experiment_id: each.name for each in client.search_experiments()}
    if name is None:
        newest = client.search_runs(
            list(known), "tags.`thaw.kind` = 'run'", order_by=["start_time DESC"], max_results=1
        )
        if not newest:
            raise ThawError("Nothing is recorded here yet; train something first: python train.py")
        return known[newest[0].info.experiment_id], newest[0].info.experiment_id
    by_name = {each: number for number, each in known.items()}
    name = name if name in by_name else trimmed(name)
    if name not in by_name:
        named = ", ".join(sorted(by_name))
        raise ThawError(f"There is no experiment {name}; recorded are {named}{nearest(name, sorted(by_name))}")
    return name, by_name[name]


def runs(store: Store, experiment: str) -> list[Run]:
    """Every run of an experiment, newest first."""
    found, token = [], None
    while True:
        page = store.client.search_runs([experiment], RUNS, max_results=1000, order_by=NEWEST_FIRST, page_token=token)
        found += [_run(each, store) for each in page]
        token = page.token
        if not token:
            return found


def _run(recorded: Recorded, store: Store) -> Run:
    info, data = recorded.info, recorded.data
    used = [each.dataset.digest for each in recorded.inputs.dataset_inputs] if recorded.inputs else []
    # What is not set was recorded as "None" once, and is no longer.
    params = {key.removeprefix(DETAIL): value for key, value in data.params.items() if value != "None"}
    if "dataset.fold" not in params:  # no cross-validation, whatever the number of folds
        params = {key: value for key, value in params.items() if key not in ("dataset.fold", "dataset.folds")}
    return Run(
        info.run_id, info.run_name, info.status, params, data.metrics, " ".join(used),
        " ".join(data.tags.get(f"thaw.{stage}", "") for stage in ("head", "finetune")).strip(),
        data.tags.get("mlflow.parentRunId"), data.tags.get("thaw.command", ""),
        store.run_page(info.experiment_id, info.run_id), data.tags.get("thaw.note", ""), data.tags, info.start_time,
    )  # fmt: skip


def artifact(client: MlflowClient, run: str, name: str) -> str:
    """The text of a file that a run recorded."""
    with tempfile.TemporaryDirectory() as folder:
        return Path(client.download_artifacts(run, name, folder)).read_text(encoding="utf-8")


@dataclass(frozen=True)
class Prediction:
    """What a run said of a test image: its true and predicted class, and each class's probability."""

    file: str
    truth: str
    predicted: str
    probabilities: dict[str, float]


def predictions(client: MlflowClient, run: str) -> list[Prediction]:
    """What a run said of each test image; nothing if that is lost."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            path = client.download_artifacts(run, "predictions.csv", folder)
        except Exception:  # every kind of artifact store has its own
            return []
        with Path(path).open(newline="", encoding="utf-8") as file:
            reader = csv.reader(file)
            class_names = next(reader)[3:]  # by place, since a class may be called as a column is
            return [Prediction(*line[:3], dict(zip(class_names, map(float, line[3:]), strict=True))) for line in reader]


def question(client: MlflowClient, experiment: str) -> str:
    """What the newest sweep of an experiment asks; nothing if it does not say."""
    sweeps = client.search_runs([experiment], SWEEPS, order_by=NEWEST_FIRST, max_results=1)
    return sweeps[0].data.tags.get("thaw.question", "") if sweeps else ""
