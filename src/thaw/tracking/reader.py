"""Recorded runs, read back from MLflow."""

import csv
import io
import math
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Run as MlflowRun

from thaw.errors import ThawError, nearest, one_line
from thaw.normalization import stripped
from thaw.tracking.names import COMMAND, DETAIL, NEWEST_FIRST, PARENT, QUESTION, REMARK, RUNS, STAGES, SWEEPS, stage_tag
from thaw.tracking.store import Store


@dataclass(frozen=True)
class Run:
    """A recorded run.

    Attributes:
        id: in MLflow.
        name: what varied in its sweep.
        status: FINISHED, FAILED, KILLED or RUNNING.
        params: as recorded, under the keys of the configuration.
        metrics: the last value of each.
        images: hash of the test split and of the other splits.
        stages: the signatures of its stages; runs with equal ones are one result, recorded more than once.
        parent: the id of its sweep, None for a single run.
        command: that reproduces it.
        page: its address in MLflow.
        note: what its description does not show, such as that fine-tuning did not help; else empty.
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
    """The name and the id of an experiment; without a name, of the one with the newest run.

    Raises:
        ThawError: there is no such experiment, or nothing is recorded.
    """
    known = {each.experiment_id: each.name for each in client.search_experiments()}
    if name is None:
        newest = client.search_runs(list(known), RUNS, order_by=NEWEST_FIRST, max_results=1)
        if not newest:
            raise ThawError("Nothing is recorded here yet; train something first: python train.py")
        return known[newest[0].info.experiment_id], newest[0].info.experiment_id
    by_name = {each: number for number, each in known.items()}
    name = name if name in by_name else stripped(name)
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


def _run(recorded: MlflowRun, store: Store) -> Run:
    info, data = recorded.info, recorded.data
    used = [each.dataset.digest for each in recorded.inputs.dataset_inputs] if recorded.inputs else []
    # Unset keys were once recorded as "None".
    params = {key.removeprefix(DETAIL): value for key, value in data.params.items() if value != "None"}
    if "dataset.fold" not in params:  # no cross-validation, whatever the number of folds
        params = {key: value for key, value in params.items() if key not in ("dataset.fold", "dataset.folds")}
    stages = data.tags.get(STAGES, "head finetune").split()
    return Run(
        info.run_id, info.run_name, info.status, params, data.metrics, " ".join(used),
        " ".join(data.tags.get(stage_tag(name), "") for name in stages).strip(),
        data.tags.get(PARENT), data.tags.get(COMMAND, ""), store.run_page(info.experiment_id, info.run_id),
        data.tags.get(REMARK, ""), data.tags, info.start_time,
    )  # fmt: skip


def artifact(client: MlflowClient, run: str, name: str) -> str | None:
    """The text of a file that a run recorded; None if it recorded none or it was removed.

    Raises:
        ThawError: the store does not answer, or does not give it.
    """
    try:
        if name not in [each.path for each in client.list_artifacts(run)]:
            return None
        with tempfile.TemporaryDirectory() as folder:
            return Path(client.download_artifacts(run, name, folder)).read_text(encoding="utf-8")
    except Exception as error:  # every kind of artifact store has its own
        raise ThawError(f"{name} of run {run} cannot be read ({one_line(error, 200)}); try again") from error


@dataclass(frozen=True)
class Prediction:
    """A run's answer for a test image.

    Attributes:
        file: the image's name.
        truth, predicted: its class and the most probable one; with `several` any number, with | between them.
        probabilities: of each class.
        several: whether the dataset is multi-label.
    """

    file: str
    truth: str
    predicted: str
    probabilities: dict[str, float]
    several: bool = False

    @property
    def true_classes(self) -> tuple[str, ...]:
        """The classes that it has."""
        return self._classes(self.truth)

    @property
    def predicted_classes(self) -> tuple[str, ...]:
        """The classes that were predicted."""
        return self._classes(self.predicted)

    @property
    def of_truth(self) -> float:
        """The probability of its class, or of exactly its classes, in [0, 1]."""
        if not self.several:
            return self.probabilities[self.truth]
        own = self.true_classes
        return math.prod(value if name in own else 1 - value for name, value in self.probabilities.items())

    def _classes(self, text: str) -> tuple[str, ...]:
        return tuple(filter(None, text.split("|"))) if self.several else (text,)


def predictions(client: MlflowClient, run: str) -> list[Prediction]:
    """A run's answer for each test image; empty if they were not recorded or were removed.

    Raises:
        ThawError: they cannot be read now.
    """
    text = artifact(client, run, "predictions.csv")
    if text is None:
        return []
    reader = csv.reader(io.StringIO(text, newline=""))
    _, *headings = next(reader)  # by position, since a class may have the name of a column
    several, class_names = headings[0] == "true classes", headings[2:]
    return [
        Prediction(file, truth, predicted, dict(zip(class_names, map(float, values), strict=True)), several)
        for file, truth, predicted, *values in reader
    ]


def question(client: MlflowClient, experiment: str) -> str:
    """The question of the newest sweep of an experiment; empty if it has none."""
    sweeps = client.search_runs([experiment], SWEEPS, order_by=NEWEST_FIRST, max_results=1)
    return sweeps[0].data.tags.get(QUESTION, "") if sweeps else ""
