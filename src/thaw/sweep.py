"""The runs of one command: their parent in MLflow, what each came to, and the table at the end.

Each run leaves an `outcome.json` in its folder. The table is made of these files, so that it also shows the runs
of other processes, and those that failed.
"""

import json
import sys
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table

from thaw import composition, runtime
from thaw.config import Config, check
from thaw.errors import redact, sentence

if TYPE_CHECKING:  # MLflow is imported when a sweep starts, not for --help
    from thaw import tracking


@dataclass(frozen=True)
class Sweep:
    """A sweep under way.

    Attributes:
        folder: has a folder for each run.
        parent: its MLflow run.
        experiment: the id of its MLflow experiment.
        values: the keys that take several values, each with these as texts; none where a sweeper draws them.
        total: how many runs it has, None where a sweeper decides as it goes.
        pages: addresses of its pages in MLflow, by what they show.
    """

    folder: str
    parent: str
    experiment: str
    values: dict[str, list[str]]
    total: int | None
    pages: dict[str, str]

    @property
    def varied(self) -> list[str]:
        """The keys that take several values."""
        return list(self.values)

    @staticmethod
    def of(folder: Path) -> "Sweep":
        """The sweep that has this folder."""
        return Sweep(**json.loads((folder / "sweep.json").read_text()))


@dataclass(frozen=True)
class Outcome:
    """What a run came to; numbers are None for one that did not finish."""

    name: str
    status: str
    choices: dict[str, str]
    val_accuracy: float | None = None
    test_accuracy: float | None = None
    seconds: float | None = None
    page: str | None = None
    error: str | None = None

    def write(self, folder: Path) -> None:
        """Leave it in the run's folder."""
        (folder / "outcome.json").write_text(json.dumps(asdict(self)))


@dataclass(frozen=True)
class Job:
    """The place of a run among those of its command, as Hydra has it.

    Attributes:
        folder: for what the run leaves behind.
        name: says what varied.
        label: the name with the run's number, for the terminal.
        choices: the option chosen in each config group, and the swept values.
        sweep: what it belongs to, None for a single run.
        threads: its share of the cores.
        live: whether it has the terminal for itself.
    """

    folder: Path
    name: str
    label: str
    choices: dict[str, str]
    sweep: Sweep | None
    threads: int
    live: bool

    def depths(self, config: Config) -> list[int | str]:
        """How deep the run and the others of its sweep unfreeze the backbone."""
        others = self.sweep.values.get("unfreeze", []) if self.sweep else []
        return [config.unfreeze, *(each if each == "all" else int(each) for each in others)]

    @staticmethod
    def current(composed: DictConfig) -> "Job":
        """The Hydra job that this process is in, for which `composed` was made."""
        config = HydraConfig.get()
        folder = Path(config.runtime.output_dir)
        choices = {key: str(value) for key, value in config.runtime.choices.items() if "hydra/" not in key}
        given = {each.key_or_group: each.get_value_string() for each in composition.parse(config.overrides.task)}
        threads = runtime.share_of_cores(OmegaConf.to_container(config.launcher))
        if not (folder.parent / "sweep.json").exists():
            name = f"{choices['backbone']} unfreeze={composed.unfreeze}"
            return Job(folder, name, name, {**choices, **given}, None, threads, True)
        sweep, number = Sweep.of(folder.parent), config.job.num + 1
        name = _name({key: given[key] for key in sweep.varied if key in given}, choices)
        label = f"[{number}/{sweep.total}] {name}" if sweep.total else f"[{number}] {name}"
        alone = config.runtime.choices["hydra/launcher"] == "basic"
        return Job(folder, name, label, {**choices, **given}, sweep, threads, alone)


def _name(given: dict[str, str], choices: dict[str, str]) -> str:
    """What was given, in few words: an option of a group speaks for itself, other values need their key."""
    words = [value if key in choices else f"{key}={value}" for key, value in given.items()]
    return redact(" ".join(words)) or choices["backbone"]


class OpenSweep(Callback):
    """Hydra's callback: gives a sweep its parent in MLflow before the first run, in the process that launches."""

    opened: "tuple[Sweep, tracking.Store] | None" = None

    def on_multirun_start(self, config: DictConfig, **kwargs) -> None:
        """Open the sweep; Hydra would turn an exception into a warning, so a failure ends the program here."""
        try:
            OpenSweep.opened = _open(config)
        except Exception as error:
            told = sentence(error) or composition.explain(error)
            if told is None:
                traceback.print_exc()
            sys.exit(told or 1)


def _open(config: DictConfig) -> "tuple[Sweep, tracking.Store]":
    task = list(config.hydra.overrides.task)
    varied = composition.swept(task, OmegaConf.to_container(config.hydra.sweeper).get("params"))
    # A wrong value is refused before anything is trained or recorded.
    checked = [check(each) for each in composition.samples(task, varied)]
    settings = checked[0]

    from thaw import tracking

    folder = Path(config.hydra.sweep.dir)
    folder.mkdir(parents=True, exist_ok=True)
    store = tracking.connect(settings.tracking.uri, settings.store)
    experiment = store.experiment(settings.tracking.experiment or settings.dataset_name)
    title = " ".join(redact(each.input_line) for each in varied) or "sweep"
    tags = {"thaw.command": tracking.command(), "thaw.kind": "sweep"}
    if settings.question:
        tags["mlflow.note.content"] = settings.question
    parent = tracking.Record(store, experiment, title, None, tags, folder).run
    pages = store.pages(experiment, parent)
    opened = Sweep(str(folder), parent, experiment, composition.values(varied), composition.size(varied), pages)
    (folder / "sweep.json").write_text(json.dumps(asdict(opened)))
    return opened, store


def outcomes(sweep: Sweep) -> list[Outcome]:
    """What the runs came to, in the order of their numbers; one that vanished counts as lost."""
    folders = sorted((each for each in Path(sweep.folder).iterdir() if each.name.isdigit()), key=lambda f: int(f.name))
    found = []
    for folder in folders:
        file = folder / "outcome.json"
        found.append(Outcome(**json.loads(file.read_text())) if file.exists() else Outcome(folder.name, "LOST", {}))
    return found


def table(outcomes: list[Outcome], varied: list[str]) -> Table:
    """One line a run: what varied, validation and test accuracy, seconds; best first, then those that failed."""
    shown = Table(title=f"{len(outcomes)} runs", title_justify="left", header_style="bold")
    shown.add_column("#", justify="right")
    for key in varied:
        shown.add_column(key)
    for heading in ("validation accuracy", "test accuracy", "seconds"):
        shown.add_column(heading, justify="right")
    unfinished = any(each.status != "FINISHED" for each in outcomes)
    if unfinished:
        shown.add_column("status", overflow="fold")
    order = sorted(enumerate(outcomes, 1), key=lambda each: -(each[1].test_accuracy or -1.0))
    for number, each in order:
        numbers = (
            (f"{each.val_accuracy:.4f}", f"{each.test_accuracy:.4f}", f"{each.seconds:.1f}")
            if (each.status == "FINISHED")
            else ("–", "–", "–")
        )
        status = [each.status] if unfinished else []
        shown.add_row(str(number), *(each.choices.get(key, "") for key in varied), *numbers, *status)
    return shown


def close(sweep: Sweep, store: "tracking.Store", console: Console) -> bool:
    """Show what the sweep came to and end its parent; whether every run finished."""
    found = outcomes(sweep)
    finished = [each for each in found if each.status == "FINISHED"]
    complete = len(finished) == len(found) and len(found) == (sweep.total or len(found))
    store.client.set_terminated(sweep.parent, "FINISHED" if complete else "FAILED")
    console.print(table(found, sweep.varied))
    for number, each in enumerate(found, 1):
        if each.error:
            console.print(f"{number} {each.name} {each.status}: {each.error}", soft_wrap=True, markup=False)
    if sweep.total and len(found) < sweep.total:
        console.print(f"{sweep.total - len(found)} runs did not start.")
    console.print("Side by side in MLflow (start it with make ui):")
    for title, page in sweep.pages.items():
        console.print(f"  {title}: {page}", soft_wrap=True, highlight=False)
    return complete
