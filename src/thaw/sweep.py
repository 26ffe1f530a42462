"""A sweep: the runs of one command, and their parent in MLflow."""

import contextlib
import hashlib
import json
import re
import sys
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock
from hydra.core.override_parser.types import Override
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from thaw import composition, durable, engines, journal, progress, signature, workspace
from thaw.config import Config, check
from thaw.errors import ThawError, redact, sentence

if TYPE_CHECKING:  # MLflow is imported when a sweep starts, not for --help
    from thaw import tracking


ONE_VALUE = ("store", "tracking.uri", "tracking.experiment", "rerun")  # they say where a whole sweep is kept
DIGITS = 10  # at the end of a folder's name


@dataclass(frozen=True)
class Sweep:
    """A sweep under way.

    Attributes:
        launch: has a folder for each of its runs while this command lasts.
        place: its folder in the store, below `sweeps/`. A later command that varies the same keys around the same
            configuration has the same, and so the same parent in MLflow.
        values: the keys that take several values, each with these as texts; none where a sweeper draws them.
        total: how many runs it has, None where a sweeper decides as it goes.
    """

    launch: str
    place: str
    values: dict[str, list[str]]
    total: int | None

    @property
    def varied(self) -> list[str]:
        """The keys that take several values."""
        return list(self.values)

    @staticmethod
    def of(launch: Path) -> "Sweep":
        """The sweep of that launch."""
        return Sweep(**json.loads((launch / "sweep.json").read_text()))

    def files(self) -> dict[str, str]:
        """What a run needs of it where the store is another: the text of some files, by path.

        The one called `elsewhere` says that it is not for that machine to end the sweep.
        """
        found = [*(Path(self.place, name) for name in (journal.NAME, "sent.json")), Path(self.launch, "sweep.json")]
        texts = {str(path): path.read_text() for path in found if path.exists()}
        return {str(Path(self.place, journal.ELSEWHERE)): "", **texts}


def place(below: Path, name: str, identity: list) -> Path:
    """The folder of that identity, whatever it was called when it was made; a new one has a name for people."""
    digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:DIGITS]
    told = re.sub(r"[^\w.=,-]+", "_", name)[:60]
    return next(below.glob(f"*-{digest}"), below / f"{told}-{digest}")


def repetition(rerun: bool, folder: Callable[[int], Path]) -> int:
    """0, or with `rerun` the number of the first repetition, from 1 on, whose folder has no finished journal."""
    number = int(rerun)
    while rerun and journal.finished(folder(number)) is not None:
        number += 1
    return number


class OpenSweep(Callback):
    """Hydra's callback: gives a sweep its parent before the first run, in the process that launches."""

    opened: "tuple[Sweep, tracking.Store, FileLock] | None" = None

    def on_run_start(self, config: DictConfig, **kwargs) -> None:
        """Open the store, and refuse a launcher where there is no sweep: Hydra would not use it, nor say so."""
        launcher = config.hydra.runtime.choices["hydra/launcher"]
        if launcher != "basic":
            sys.exit(f"hydra/launcher={launcher} takes the runs of a sweep; add -m, also for a single one")
        try:
            composition.check_folders(config)
            workspace.opened(Path(config.store))
        except (ThawError, OSError) as error:
            sys.exit(sentence(error) or str(error))

    def on_multirun_start(self, config: DictConfig, **kwargs) -> None:
        """Open the sweep; Hydra would turn an exception into a warning, so a failure ends the program here."""
        try:
            OpenSweep.opened = _open(config)
        except Exception as error:
            told = sentence(error) or composition.explain(error)
            if told is None:
                traceback.print_exc()
            sys.exit(told or 1)


def _open(config: DictConfig) -> "tuple[Sweep, tracking.Store, FileLock]":
    composition.check_folders(config)
    task = list(config.hydra.overrides.task)
    varied = composition.swept(task, OmegaConf.to_container(config.hydra.sweeper).get("params"))
    for each in varied:
        if each.key_or_group in ONE_VALUE:
            told = redact(each.input_line)
            raise ThawError(f"{told} has several values, and a sweep takes one; put quotes around a value with a comma")
    engines.check(config.hydra.launcher)
    # A wrong value is refused before anything is trained or recorded.
    samples = [check(each) for each in composition.samples(task, varied)]
    settings = samples[0]
    workspace.opened(Path(settings.store))
    progress.reporter().begin_sweep(composition.size(varied))
    progress.reporter().phase("checking data")
    contents = _check_datasets(samples, config.hydra.launcher.get("engine"))
    progress.reporter().phase("opening MLflow")

    from thaw import delivery, tracking

    store = tracking.connect(settings.tracking.uri, settings.store, settings.experiment)
    values = composition.values(varied)
    same = [
        settings.experiment,
        store.name,
        contents if len(contents) == 1 else [],  # else they are what varies
        sorted(values),
        _without(settings, list(values)),
    ]

    def numbered(number: int) -> Path:
        return place(Path(settings.store, "sweeps"), " ".join(values), [same, number])

    folder, launch = numbered(repetition(settings.rerun, numbered)), Path(config.hydra.sweep.dir)
    lock = FileLock(launch / "lock")
    launch.mkdir(parents=True, exist_ok=True)
    lock.acquire()
    with durable.claimed(folder, lambda: None):
        delivery.forget_deleted(folder, store)
        (folder / journal.ELSEWHERE).unlink(missing_ok=True)
        tags = {"thaw.command": composition.command(), "thaw.kind": "sweep", "thaw.question": settings.question or ""}
        tags[tracking.NOTE] = f"{tags['thaw.question']}\n\n{tracking.code(tags['thaw.command'])}".strip("\n")
        opened = [line["values"] for line in journal.read(folder) if line["kind"] == "open"]
        tags |= {f"{tracking.SWEPT}{key}": ",".join(each) for key, each in _merged([*opened, values]).items()}
        title = _title(varied, _merged([*opened, values]))
        journal.append(
            folder, "open", uri=store.name, experiment=settings.experiment, name=title, parent=None, tags=tags,
            values=values, launch=launch.name,
        )  # fmt: skip
    with contextlib.suppress(Exception):  # else its first run sends it
        delivery.deliver(folder, store)
    opened = Sweep(str(launch), str(folder), values, composition.size(varied))
    durable.write_text(launch / "sweep.json", json.dumps(asdict(opened)))
    return opened, store, lock


def _check_datasets(samples: list[Config], engine: str | None) -> list[str]:
    """Refuse a dataset before anything is recorded; on a cluster only what this machine has, too.

    Returns:
        What identifies the different pictures, wherever they lie: a hash of them, or else the dataset's name.

    Raises:
        ThawError: something in it cannot be used.
    """
    from thaw import data

    contents = {}
    for each in samples:
        named = each.dataset.model_dump_json(exclude={"image_size", "fold"})
        path = each.dataset.path
        elsewhere = engine in ("slurm", "ray") and path is not None and not Path(path).exists()
        if named not in contents:
            store = Path(each.store)
            contents[named] = each.dataset_name if elsewhere else data.load(each.dataset, each.seed, store).contents
    return sorted(set(contents.values()))


def _merged(values: list[dict[str, list[str]]]) -> dict[str, list[str]]:
    """The values of each key, those of earlier launches first."""
    keys = dict.fromkeys(key for each in values for key in each)
    return {key: list(dict.fromkeys(value for each in values for value in each.get(key, []))) for key in keys}


def _title(overrides: list[Override], values: dict[str, list[str]]) -> str:
    """What varies and over which values."""
    words = [
        f"{each.key_or_group}={','.join(values[each.key_or_group])}"
        if values.get(each.key_or_group)
        else each.input_line
        for each in overrides
    ]
    return redact(" ".join(words)) or "sweep"


def _without(config: Config, keys: list[str]) -> dict:
    """What the results of all runs of a sweep depend on: all but what varies."""
    left = signature.relevant(config)
    for key in keys:
        *groups, last = key.split(".")
        inner = left
        for group in groups:
            inner = inner.get(group, {})
        inner.pop(last, None)
    return left
