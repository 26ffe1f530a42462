"""The context of a run: its command, its sweep, and its folders."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from thaw.config.values import Unfreeze
from thaw.tracking import journal
from thaw.workspace import Workspace

if TYPE_CHECKING:  # MLflow is imported when a run starts, not for --help
    from thaw.tracking.store import Store


def _connect(uri: str | None, root: str, experiment: str | None) -> "Store":
    from thaw.tracking.store import connect

    return connect(uri, root, experiment)


def _sending(folder: Path, store: "Store") -> AbstractContextManager:
    from thaw.tracking.sender import sending

    return sending(folder, store)


@dataclass(frozen=True)
class Context:
    """What a run knows of the command that it belongs to; the default is a run of its own.

    Attributes:
        name: says what varied.
        choices: the option chosen in each config group, and the swept values.
        command: that reproduces the run.
        sweep: the folder of the sweep that it belongs to; None for a single run.
        depths: the values of `unfreeze` in the other runs of the sweep.
        threads: its share of the cores.
        first: whether it is the first run of the command, which announces what all have in common.
        connect: opens a tracking store, as `tracking.store.connect`.
        sending: sends the journal in a folder while its context lasts, as `tracking.sender.sending`.
        networks: those that `models.reuse` keeps for the next runs of this process.
    """

    name: str = "run"
    choices: dict[str, str] = field(default_factory=dict)
    command: str = ""
    sweep: Path | None = None
    depths: tuple[Unfreeze, ...] = ()
    threads: int = 1
    first: bool = True
    connect: Callable[[str | None, str, str | None], "Store"] = _connect
    sending: Callable[[Path, "Store"], AbstractContextManager] = _sending
    networks: dict = field(default_factory=dict)

    def run_folder(self, workspace: Workspace, signature: str, recorded: list, rerun: bool) -> Path:
        """The folder of the run: one for each signature, sweep and place to be recorded.

        Args:
            workspace: of the store.
            signature: of the run.
            recorded: where: experiment, tracking store, and whether with a model.
            rerun: whether to train a finished run again.
        """
        parent = self.sweep.name if self.sweep else None

        def folder(number: int) -> Path:
            return workspace.run(self.name, [signature, parent, recorded, number])

        return folder(0 if self.sweep else first_unfinished(rerun, folder))

    def stage_folder(self, workspace: Workspace, signature: str, run: Path, rerun: bool) -> Path:
        """The folder of a stage: one for each signature, and with `rerun` one for each run or sweep as well."""
        return workspace.stage(signature, (self.sweep or run) if rerun else None)


def first_unfinished(rerun: bool, folder: Callable[[int], Path]) -> int:
    """0, or with `rerun` the number of the first repetition, from 1 on, that is not finished."""
    number = int(rerun)
    while rerun and journal.finished(folder(number)) is not None:
        number += 1
    return number
