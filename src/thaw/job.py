"""A run as one Hydra job: its place among the others, and what it came to."""

import contextlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from thaw import composition, downloads, durable, journal, runtime, signature
from thaw.config import Config
from thaw.data import Dataset
from thaw.errors import redact
from thaw.sweep import DIGITS, Sweep, place, repetition
from thaw.times import duration

if TYPE_CHECKING:  # MLflow is imported when a run starts, not for --help
    from thaw import tracking


@dataclass(frozen=True)
class Outcome:
    """What a run came to; numbers are None for one that did not finish.

    Attributes:
        name: of the run.
        status: FINISHED, FAILED, KILLED or LOST.
        choices: the option chosen in each config group, and the swept values.
        val_accuracy: in [0, 1], of the weights that were tested.
        test_accuracy: in [0, 1].
        wall_seconds: that the run took, in this or an earlier command.
        training_seconds: of its epochs, whichever run spent them.
        place: its folder in the store, which has its journal.
        error: why it failed.
        note: what a person should know of the result: that fine-tuning did not help.
        reused: what was there before this command: the run, a stage, some epochs; None: nothing.
    """

    name: str
    status: str
    choices: dict[str, str]
    val_accuracy: float | None = None
    test_accuracy: float | None = None
    wall_seconds: float | None = None
    training_seconds: float | None = None
    place: str | None = None
    error: str | None = None
    note: str | None = None
    reused: str | None = None

    def write(self, launch: Path) -> None:
        """Leave it in the run's folder of the launch."""
        with contextlib.suppress(OSError):  # no room: it counts as lost
            durable.write_text(launch / "outcome.json", json.dumps(asdict(self)))

    @staticmethod
    def left(launch: Path) -> "Outcome | None":
        """What was left in that folder."""
        file = launch / "outcome.json"
        return Outcome(**json.loads(file.read_text())) if file.exists() else None

    @property
    def has_trained(self) -> bool:
        """Whether this command trained something of it, to the end."""
        return self.status == "FINISHED" and self.reused not in ("finished before", "trained by another process")

    def summary(self, label: str) -> str:
        """It in one line, for a terminal."""
        if self.status != "FINISHED":
            return f"✗ {label} · {self.status.lower()}" + (f": {self.error}" if self.error else "")
        words = [
            f"✓ {label}",
            f"validation {self.val_accuracy:.3f}",
            f"test {self.test_accuracy:.3f}",
            duration(self.wall_seconds),
            *[self.reused] * bool(self.reused),
            *["fine-tuning did not lower the loss"] * bool(self.note),
        ]
        return " · ".join(words)


@dataclass(frozen=True)
class Job:
    """The place of a run among those of its command, as Hydra has it.

    Attributes:
        launch: the folder that Hydra gives it.
        name: says what varied.
        label: the name with the run's number, for the terminal.
        choices: the option chosen in each config group, and the swept values.
        command: that makes the run alone.
        sweep: what it belongs to, None for a single run.
        threads: its share of the cores.
    """

    launch: Path
    name: str
    label: str
    choices: dict[str, str]
    command: str
    sweep: Sweep | None
    threads: int

    @property
    def first(self) -> bool:
        """Whether no other run of the command was before it."""
        return self.sweep is None or self.launch.name == "0"

    def depths(self, config: Config) -> list[int | str]:
        """How deep the run and the others of its sweep unfreeze the backbone."""
        others = self.sweep.values.get("unfreeze", []) if self.sweep else []
        return [config.unfreeze, *(each if each == "all" else int(each) for each in others)]

    def place(self, config: Config, store: "tracking.Store", mark: str) -> Path:
        """The folder of the run in the store.

        Two runs share it if they have the same signature, parent and place to be recorded.

        Args:
            config: of the run.
            store: that it is recorded in.
            mark: its signature.
        """
        recorded = [config.experiment, store.name, config.tracking.model, config.tracking.register_as]
        parent = Path(self.sweep.place).name if self.sweep else None

        def folder(number: int) -> Path:
            return place(Path(config.store, "runs"), self.name, [mark, parent, recorded, number])

        return folder(0 if self.sweep else repetition(config.rerun, folder))

    def stage(self, config: Config, place: Path, mark: str) -> Path:
        """The folder of a stage in the store: one for each signature, and with `rerun` for each repetition.

        Args:
            config: of the run.
            place: of the run.
            mark: the signature of the stage.
        """
        again = Path(self.sweep.place) if self.sweep else place
        return Path(config.store, "stages", f"{mark}-{again.name[-DIGITS:]}" if config.rerun else mark)

    def finished(self, config: Config, dataset: Dataset, store: "tracking.Store") -> Outcome | None:
        """What the run came to, if it is finished and was not deleted in MLflow since; found without TensorFlow."""
        from thaw import delivery

        # What `auto` comes to is known once the network is built. A run from random weights counts only as long as
        # there are no others to be had.
        auto = config.weights.source == "auto"
        for weights in ("imagenet", "random") if auto else (config.weights.source,):
            place = self.place(config, store, signature.of_run(config, dataset, weights))
            found = self.outcome(place, "finished before")
            stale = auto and weights == "random" and found and downloads.reachable(downloads.KERAS_HOST)
            if found and not stale and not delivery.is_deleted(place, store):
                return found
        return None

    def outcome(self, place: Path, reused: str | None = None) -> Outcome | None:
        """What the run in that folder came to, if it is finished; `reused` says what was there before this command."""
        came_to = journal.finished(place)
        if came_to is None:
            return None
        return Outcome(self.name, "FINISHED", self.choices, **came_to, place=str(place), reused=reused)

    def opening(self, config: Config, store: "tracking.Store") -> dict:
        """What the journal of the run opens with."""
        from thaw import tracking

        tags = {"thaw.command": self.command, "thaw.kind": "run", **tracking.git_tags(composition.ROOT)}
        parent = Path("sweeps", Path(self.sweep.place).name).as_posix() if self.sweep else None
        return {
            "uri": store.name, "experiment": config.experiment, "name": self.name, "parent": parent, "tags": tags,
        }  # fmt: skip

    @staticmethod
    def current(composed: DictConfig) -> "Job":
        """The Hydra job that this process is in, for which `composed` was made."""
        config = HydraConfig.get()
        launch = Path(config.runtime.output_dir)
        choices = {key: str(value) for key, value in config.runtime.choices.items() if "hydra/" not in key}
        given = {each.key_or_group: each.get_value_string() for each in composition.parse(config.overrides.task)}
        threads = runtime.share_of_cores(OmegaConf.to_container(config.launcher))
        if not (launch.parent / "sweep.json").exists():
            name = f"{choices['backbone']} unfreeze={composed.unfreeze}"
            return Job(launch, name, name, {**choices, **given}, composition.command(), None, threads)
        sweep, number = Sweep.of(launch.parent), config.job.num + 1
        name = _name({key: given[key] for key in sweep.varied if key in given}, choices)
        label = f"[{number}/{sweep.total}] {name}" if sweep.total else f"[{number}] {name}"
        command = composition.command(config.overrides.task)
        return Job(launch, name, label, {**choices, **given}, command, sweep, threads)


def _name(given: dict[str, str], choices: dict[str, str]) -> str:
    """What was given, in few words: an option of a group speaks for itself, other values need their key."""
    words = [value if key in choices else f"{key}={value}" for key, value in given.items()]
    return redact(" ".join(words)) or choices["backbone"]
