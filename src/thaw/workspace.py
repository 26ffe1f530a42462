"""The store: the folder in which runs leave their files. Only this module knows what its folders are called.

A marker file says that Thaw made the folder; nothing is removed from a folder without it.
"""

import contextlib
import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from thaw.errors import ThawError
from thaw.files import readable_size, size_of

ROOT = Path(__file__).resolve().parents[2]  # of the checkout, which has conf/ and experiments/
DEFAULT = ROOT / "mlruns"
MARKER = "thaw-store.txt"
ABOUT = "Thaw keeps runs here (store=...). `make prune` removes what no run needs; without this file it refuses to.\n"
FOLDERS = ("runs", "sweeps", "stages", "activations", "datasets", "launches")
DIGITS = 10  # of a hash at the end of a folder's name


@dataclass(frozen=True)
class Workspace:
    """The folders of a store, whether they exist or not."""

    root: Path

    @property
    def stages(self) -> Path:
        """A folder for each stage: its training state, then its weights and history."""
        return self.root / "stages"

    @property
    def activations(self) -> Path:
        """The feature cache."""
        return self.root / "activations"

    @property
    def launches(self) -> Path:
        """A folder for each command in progress."""
        return self.root / "launches"

    @property
    def datasets(self) -> Path:
        """Images of TensorFlow Datasets, as files."""
        return self.root / "datasets"

    @property
    def fingerprints(self) -> Path:
        """SQLite database of file hashes."""
        return self.root / "fingerprints.db"

    @property
    def database(self) -> Path:
        """MLflow's SQLite database."""
        return self.root / "mlflow.db"

    @property
    def artifacts(self) -> Path:
        """MLflow's artifacts."""
        return self.root / "artifacts"

    @staticmethod
    def of(folder: Path) -> "Workspace":
        """The store that the folder of a run or a sweep is in."""
        return Workspace(folder.parents[1])

    def run(self, name: str, identity: list) -> Path:
        """The folder of a run; `identity` is JSON that distinguishes it from all other runs."""
        return _identified(self.root / "runs", name, identity)

    def sweep(self, name: str, identity: list) -> Path:
        """The folder of a sweep; `identity` is JSON that distinguishes it from all other sweeps."""
        return _identified(self.root / "sweeps", name, identity)

    def stage(self, signature: str, repetition: Path | None) -> Path:
        """The folder of a stage; `repetition` is the run or sweep that trains it anew on purpose."""
        return self.stages / (f"{signature}-{repetition.name[-DIGITS:]}" if repetition else signature)

    def launch(self, recorded: str) -> Path:
        """The folder of a command, from what a journal recorded; the store may have moved since."""
        return self.launches / Path(recorded).name

    def run_folders(self) -> list[Path]:
        """The folders of all runs."""
        return [each for each in sorted(self.root.glob("runs/*")) if each.is_dir()]

    def sweep_folder(self, recorded: str) -> Path:
        """The folder of a sweep, from what a run's journal recorded."""
        return self.root / "sweeps" / Path(recorded).name

    def journals(self) -> list[Path]:
        """The folders of all sweeps, then of all runs."""
        return [*(each for each in sorted(self.root.glob("sweeps/*")) if each.is_dir()), *self.run_folders()]

    def stage_folders(self) -> list[Path]:
        """The folders of all stages."""
        return [each for each in self.stages.glob("*") if each.is_dir()]

    def launch_folders(self) -> list[Path]:
        """The folders of all commands, those in progress and those that were killed."""
        return [each for each in self.launches.glob("*") if each.is_dir()]

    def remove_launch(self, folder: Path) -> None:
        """Remove the folder of a command; anything that is not a launch of this store is left alone."""
        if folder.parent.resolve() == self.launches.resolve() and self.exists() and not folder.is_symlink():
            shutil.rmtree(folder, ignore_errors=True)

    def remove_empty_launches(self) -> None:
        """Remove the empty folders of commands."""
        for folder in self.launch_folders():
            with contextlib.suppress(OSError):  # not empty: a sweep, which removes its own
                folder.rmdir()

    def exists(self) -> bool:
        """Whether Thaw made the folder; old stores have no marker, but journals."""
        return (self.root / MARKER).is_file() or any(self._journaled())

    def _journaled(self) -> Iterator[Path]:
        yield from self.root.glob("runs/*/journal.jsonl")
        yield from self.root.glob("sweeps/*/journal.jsonl")

    def create(self) -> "Workspace":
        """This store, created if missing.

        Raises:
            ThawError: the folder holds something else under a name that a store uses.
        """
        root = self.root
        if not self.exists():
            taken = [name for name in FOLDERS if (root / name).exists()]
            if taken:
                raise ThawError(
                    f"store={root} has a {taken[0]}/ that Thaw did not make; give an empty folder or a store"
                )
            root.mkdir(parents=True, exist_ok=True)
        if not (root / MARKER).exists():
            (root / MARKER).write_text(ABOUT, encoding="utf-8")
        return self

    def open(self) -> "Workspace":
        """This store, which must exist.

        Raises:
            ThawError: the folder is not a store.
        """
        root = self.root
        if self.exists():
            return self
        if root.is_dir() and any(not each.name.startswith(".") for each in root.iterdir()):
            raise ThawError(f"{root} is not a Thaw store, as it has no {MARKER}; give the folder that runs train in")
        raise ThawError(f"Nothing is recorded in {root} yet; train something first: python train.py")

    def usage(self) -> str:
        """Disk usage, with the three largest parts."""
        taken = {each.name: size_of(each) for each in self.root.iterdir()}
        largest = sorted(taken.items(), key=lambda each: -each[1])[:3]
        parts = ", ".join(f"{name} {readable_size(size)}" for name, size in largest)
        return f"{self.root} holds {readable_size(sum(taken.values()))}: {parts}"


def _identified(below: Path, name: str, identity: list) -> Path:
    """The folder of that identity, under whatever name it was created; a new one is named for people."""
    digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:DIGITS]
    readable = re.sub(r"[^\w.=,-]+", "_", name)[:60]
    return next(below.glob(f"*-{digest}"), below / f"{readable}-{digest}")
