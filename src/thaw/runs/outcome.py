"""How a run ended: its scores, or why it has none."""

import contextlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from thaw import downloads, files
from thaw.durations import duration
from thaw.tracking import journal

if TYPE_CHECKING:  # MLflow is imported when a run starts, not for --help
    from thaw.tracking.store import Store

FINISHED_BEFORE, ANOTHER_PROCESS = "finished before", "trained by another process"


@dataclass(frozen=True)
class Outcome:
    """How a run ended; numbers are None unless it finished.

    Attributes:
        name: of the run.
        status: FINISHED, FAILED, KILLED or LOST.
        choices: the option chosen in each config group, and the swept values.
        val_accuracy: in [0, 1], of the weights that were tested.
        test_accuracy: in [0, 1].
        wall_seconds: that the run took, in this or an earlier command.
        training_seconds: of its epochs, whichever runs spent them.
        place: its folder in the store, which has its journal.
        error: why it failed.
        note: what a person should know of the result, such as that fine-tuning did not help.
        proposed: the learning rates that a run with `find_rate=true` proposes, as overrides.
        reused: what an earlier command had already trained: the run, a stage, some epochs; None: nothing.
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
    proposed: str | None = None

    def write(self, folder: Path) -> None:
        """Write it to the run's folder of the launch."""
        with contextlib.suppress(OSError):  # the disk is full: the run counts as lost
            files.write_text(folder / "outcome.json", json.dumps(asdict(self)))

    @staticmethod
    def read(folder: Path) -> "Outcome | None":
        """The outcome in the run's folder of the launch, if there is one."""
        file = folder / "outcome.json"
        return Outcome(**json.loads(file.read_text())) if file.exists() else None

    @staticmethod
    def of(place: Path, name: str, choices: dict[str, str], reused: str | None = None) -> "Outcome | None":
        """The outcome of the run in a folder of the store, if it is finished."""
        recorded = journal.finished(place)
        if recorded is None:
            return None
        return Outcome(name, "FINISHED", choices, **recorded, place=str(place), reused=reused)

    @property
    def was_trained(self) -> bool:
        """Whether this command trained something of it, to the end."""
        return self.status == "FINISHED" and self.reused not in (FINISHED_BEFORE, ANOTHER_PROCESS)

    def summary(self, label: str) -> str:
        """One line for a terminal."""
        if self.status != "FINISHED":
            return f"✗ {label} · {self.status.lower()}" + (f": {self.error}" if self.error else "")
        if self.proposed:
            return f"✓ {label} · {self.proposed} · {duration(self.wall_seconds or 0)}"
        words = [
            f"✓ {label}",
            f"validation {self.val_accuracy or 0:.3f}",
            f"test {self.test_accuracy or 0:.3f}",
            duration(self.wall_seconds or 0),
            *([self.reused] if self.reused else []),
            *(["fine-tuning did not lower the loss"] if self.note else []),
        ]
        return " · ".join(words)


def find_finished(
    weights: str, folder: Callable[[str], Path], name: str, choices: dict[str, str], store: "Store"
) -> Outcome | None:
    """The outcome of a run that is finished and was not deleted in MLflow; found without TensorFlow.

    Args:
        weights: `weights.source`. What `auto` resolves to is only known once the network is built; a run from random
            weights counts as long as ImageNet weights cannot be downloaded.
        folder: (imagenet, random or file) -> the folder of the run.
        name: of the run.
        choices: of the run.
        store: that it is recorded in.
    """
    from thaw.tracking import delivery

    for source in ("imagenet", "random") if weights == "auto" else (weights,):
        place = folder(source)
        found = Outcome.of(place, name, choices, FINISHED_BEFORE)
        outdated = weights == "auto" and source == "random" and found and downloads.reachable(downloads.KERAS_HOST)
        if found and not outdated and not delivery.is_deleted(place, store):
            return found
    return None
