"""A sweep: the runs of one command, and their parent in MLflow."""

import contextlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig

from thaw import files, progress
from thaw.config import compose
from thaw.config.overrides import command_line, sweep_overrides, sweep_size, sweep_values
from thaw.config.schema import Dataset
from thaw.config.validate import validate
from thaw.data.dataset import load_dataset
from thaw.errors import ThawError, redact
from thaw.locks import locked
from thaw.runs import signature
from thaw.runs.context import first_unfinished
from thaw.sweeps.engines.available import check_engine
from thaw.tracking import journal
from thaw.tracking.markdown import code_block
from thaw.tracking.names import COMMAND, KIND, NOTE, QUESTION, SWEPT
from thaw.workspace import Workspace

if TYPE_CHECKING:  # MLflow is imported when a sweep starts, not for --help
    from thaw.tracking.store import Store

ONE_VALUE = ("store", "tracking.uri", "tracking.experiment", "rerun")  # where and how a whole sweep is kept
CLUSTERS = ("slurm", "ray")  # engines whose nodes may have datasets that this machine has not


@dataclass(frozen=True)
class Sweep:
    """A sweep in progress.

    Attributes:
        launch: has a folder for each of its runs while the command lasts.
        place: its folder in the store. A later command that varies the same keys around the same configuration has the
            same, and so the same parent in MLflow.
        values: the swept keys, each with its values as text; no values if a sweeper draws them.
        total: the number of runs, None if a sweeper decides.
    """

    launch: str
    place: str
    values: dict[str, list[str]]
    total: int | None

    @property
    def varied(self) -> list[str]:
        """The swept keys."""
        return list(self.values)

    @staticmethod
    def file(launch: Path) -> Path:
        """The file that describes the sweep of a launch."""
        return launch / "sweep.json"

    @staticmethod
    def of(launch: Path) -> "Sweep":
        """The sweep of a launch."""
        return Sweep(**json.loads(Sweep.file(launch).read_text()))

    def write(self) -> None:
        """Write the file that describes it."""
        files.write_text(Sweep.file(Path(self.launch)), json.dumps(asdict(self)))

    def texts(self) -> dict[str, str]:
        """What a run needs of the sweep on a node with a store of its own: the text of some files, by path.

        `elsewhere` says that it is not for that node to end the sweep.
        """
        sent = Path(self.place, "sent.json")
        found = [Path(self.place, journal.NAME), sent, Sweep.file(Path(self.launch))]
        texts = {str(path): path.read_text() for path in found if path.exists()}
        return {str(Path(self.place, journal.ELSEWHERE)): "", **texts}


@dataclass(frozen=True)
class OpenSweep:
    """A sweep that this process launches.

    Attributes:
        sweep: under way.
        store: that it is recorded in.
        lock: held as long as the command lasts.
        soup: whether the weights of its runs are to be averaged.
    """

    sweep: Sweep
    store: "Store"
    lock: FileLock
    soup: bool = False


def open_sweep(composed: DictConfig) -> OpenSweep:
    """Check a sweep, and record its parent; a wrong value is refused before anything is trained or recorded.

    Args:
        composed: with Hydra's own configuration; Hydra is initialized.

    Raises:
        ThawError: a value, a dataset or the launcher cannot be used.
    """
    compose.check_folders(composed)
    task = list(composed.hydra.overrides.task)
    overrides = sweep_overrides(task, composed.hydra.sweeper.get("params"))
    for each in overrides:
        if each.key_or_group in ONE_VALUE:
            line = redact(each.input_line or "")
            raise ThawError(f"{line} has several values, and a sweep takes one; put quotes around a value with a comma")
    check_engine(composed.hydra.launcher)
    samples = [validate(each) for each in compose.samples(task, overrides)]
    config = samples[0]
    workspace, report = Workspace(Path(config.store)).create(), progress.reporter()
    report.begin_sweep(sweep_size(overrides))

    report.phase("checking data")
    datasets = [(each.dataset, each.dataset_name, each.seed) for each in samples]
    images = _images(datasets, composed.hydra.launcher.get("engine") in CLUSTERS, workspace.root)

    report.phase("opening MLflow")
    from thaw.tracking.store import connect

    store = connect(config.tracking.uri, config.store, config.experiment)
    values = sweep_values(overrides)
    keys = " ".join(values)
    identity = [
        config.experiment,
        store.name,
        images if len(images) == 1 else [],  # else they are what varies
        sorted(values),
        _without(signature.relevant(config), list(values)),
    ]
    repetition = first_unfinished(config.rerun, lambda number: workspace.sweep(keys, [identity, number]))
    place = workspace.sweep(keys, [identity, repetition])
    launch = Path(composed.hydra.sweep.dir)
    launch.mkdir(parents=True, exist_ok=True)
    lock = FileLock(launch / "lock")
    lock.acquire()
    command = command_line(["-m", *_of_hydra(composed), *task])
    _record_parent(place, store, config.experiment, config.question or "", command, overrides, values, launch.name)
    sweep = Sweep(str(launch), str(place), values, sweep_size(overrides))
    sweep.write()
    return OpenSweep(sweep, store, lock, any(each.finish.soup for each in samples))


def _images(datasets: list[tuple[Dataset, str, int]], on_cluster: bool, root: Path) -> list[str]:
    """What identifies the images of each dataset, wherever they lie: a hash, or its name if only the nodes have it."""
    contents: dict[str, str] = {}
    for dataset, name, seed in datasets:
        key, path = dataset.model_dump_json(exclude={"image_size", "fold"}), dataset.path
        elsewhere = on_cluster and path is not None and not Path(path).exists()
        if key not in contents:
            loaded = None if elsewhere else load_dataset(dataset, seed, root)
            contents[key] = loaded.contents if loaded else name
    return sorted(set(contents.values()))


def _of_hydra(composed: DictConfig) -> list[str]:
    """The overrides of Hydra's own keys on the command line."""
    return [each for each in composed.hydra.overrides.hydra if not each.startswith("hydra.mode=")]


def _record_parent(
    place: Path,
    store: "Store",
    experiment: str,
    question: str,
    command: str,
    overrides: list[Override],
    values: dict[str, list[str]],
    launch: str,
) -> None:
    """Open the parent's journal, or reopen it with the values of this launch added."""
    from thaw.tracking import delivery

    with locked(place):
        delivery.forget_deleted(place, store)
        (place / journal.ELSEWHERE).unlink(missing_ok=True)
        tags = {COMMAND: command, KIND: "sweep", QUESTION: question}
        tags[NOTE] = f"{question}\n\n{code_block(command)}".strip("\n")
        before = [line["values"] for line in journal.read(place) if line["kind"] == "open"]
        merged = _merged([*before, values])
        tags |= {f"{SWEPT}{key}": ",".join(each) for key, each in merged.items()}
        journal.append(
            place, "open", uri=store.name, experiment=experiment, name=_title(overrides, merged), parent=None,
            tags=tags, values=values, launch=launch,
        )  # fmt: skip
    with contextlib.suppress(Exception):  # else its first run sends it
        delivery.deliver(place, store)


def _merged(values: list[dict[str, list[str]]]) -> dict[str, list[str]]:
    """The values of each key, those of earlier launches first."""
    keys = dict.fromkeys(key for each in values for key in each)
    return {key: list(dict.fromkeys(value for each in values for value in each.get(key, []))) for key in keys}


def _title(overrides: list[Override], values: dict[str, list[str]]) -> str:
    """The swept keys and their values."""
    words = [
        f"{each.key_or_group}={','.join(values[each.key_or_group])}"
        if values.get(each.key_or_group)
        else each.input_line or ""
        for each in overrides
    ]
    return redact(" ".join(words)) or "sweep"


def _without(settings: dict, keys: list[str]) -> dict:
    """What the results of all runs of a sweep depend on: everything but the swept keys."""
    for key in keys:
        *sections, last = key.split(".")
        inner = settings
        for section in sections:
            inner = inner.get(section, {})
        inner.pop(last, None)
    return settings
