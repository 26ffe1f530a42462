"""Checkpoints of a stage: the state that training resumes from, the best weights, and the result.

Writes are atomic, and files have digests. Damaged files are set aside, and the stage is trained again.
"""

import json
import logging
import math
import zipfile
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import keras
import numpy as np

from thaw import files

STATE, DONE, KEPT = "state.npz", "done.json", "kept.weights.h5"
BEST = "best-{}.weights.h5"  # by the index of the epoch
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StageResult:
    """The result of a stage.

    Attributes:
        history: the metrics of each epoch.
        selected_epoch: the index of the epoch whose weights the network has.
        seconds: of training and validation, whichever runs spent them.
        trained_by: the runs that trained it, in order.
    """

    history: list[dict[str, float]]
    selected_epoch: int
    seconds: float
    trained_by: list[str]


def best_epoch(history: list[dict[str, float]]) -> int:
    """The index of the epoch with the lowest validation loss; NaN is the worst."""
    losses = [math.inf if math.isnan(epoch["val_loss"]) else epoch["val_loss"] for epoch in history]
    return losses.index(min(losses))


def finished(model: keras.Model, folder: Path) -> StageResult | None:
    """The result of a stage, whose weights are loaded into `model`; None if it is not finished."""
    if not (folder / DONE).exists():
        return None
    content = files.read_json(folder / DONE)
    if content and content.pop("sha256", None) == files.digest(folder / KEPT):
        _tidy(folder)
        _without_optimizer(model).load_weights(folder / KEPT)
        return StageResult(
            content["history"],
            content.get("selected_epoch", content.get("kept", 0)),  # stages of older versions
            content["seconds"],
            content.get("trained_by", content.get("by", [])),
        )
    _set_aside(folder, DONE, KEPT)
    return None


def restore(model: keras.Model, folder: Path) -> tuple[list[dict[str, float]], list[str], str]:
    """Set weights and optimizer to where training stopped.

    Returns:
        The metrics of the epochs until then, the runs that trained them, and the digest of the best weights; empty if
        there is no state.
    """
    path = folder / STATE
    if not path.exists():
        return [], [], ""
    if not _is_whole(path):
        return _start_again(folder)
    with np.load(path) as state:
        history, by, digest = json.loads(str(state["history"])), json.loads(str(state["by"])), str(state["best"])
        if files.digest(folder / BEST.format(best_epoch(history))) != digest:
            return _start_again(folder)
        for number, variable in enumerate([*model.variables, *model.optimizer.variables]):
            variable.assign(state[str(number)])
    return history, by, digest


def finish(
    model: keras.Model, folder: Path, history: list[dict[str, float]], trained_by: list[str], evaluate: str
) -> StageResult:
    """Save the selected weights and the result, and remove what only resuming needs.

    Args:
        model: gets the selected weights.
        folder: of the stage.
        history: the metrics of all epochs.
        trained_by: the runs that trained it.
        evaluate: `best` or `last`.
    """
    selected = best_epoch(history) if evaluate == "best" else len(history) - 1
    if selected != len(history) - 1:
        _without_optimizer(model).load_weights(folder / BEST.format(selected))
    files.check_room(folder, _largest_size(model))
    with files.atomic_write(folder / KEPT) as partial:
        _without_optimizer(model).save_weights(partial)
    result = StageResult(history, selected, sum(epoch["epoch_seconds"] for epoch in history), trained_by)
    files.write_json(folder / DONE, {**asdict(result), "sha256": files.digest(folder / KEPT)})
    _tidy(folder)
    return result


def _tidy(folder: Path) -> None:
    """Remove what only resuming needs; a kill may have prevented that before."""
    for leftover in (folder / STATE, *folder.glob(BEST.format("*")), *folder.glob("new-*")):
        leftover.unlink(missing_ok=True)


class Best(keras.callbacks.ModelCheckpoint):
    """Like `ModelCheckpoint(save_best_only=True)`, but aware of the epochs before a resume; one file per best epoch.

    Args:
        folder: of the stage.
        history: the metrics of all epochs, including the one that ends.
        digest: of the best weights before a resume.
    """

    def __init__(self, folder: Path, history: list[dict[str, float]], digest: str):
        self.folder, self.history, self.digest = folder, history, digest
        self.partial = folder / f"new-{BEST.format(0)}"
        escaped = str(self.partial).replace("{", "{{").replace("}", "}}")  # Keras formats the path
        super().__init__(escaped, save_weights_only=True)

    @property
    def path(self) -> Path:
        """The file of the best epoch so far."""
        return self.folder / BEST.format(best_epoch(self.history))

    def set_model(self, model):
        super().set_model(_without_optimizer(model))

    def on_epoch_end(self, epoch, logs=None):
        if best_epoch(self.history) == len(self.history) - 1:
            files.check_room(self.folder, _largest_size(self.model))
            super().on_epoch_end(epoch, logs)
            files.publish(self.partial, self.path)
            self.digest = files.digest(self.path)


class State(keras.callbacks.Callback):
    """Everything the next epoch depends on, in one file: weights, optimizer, metrics so far, digest of the best.

    It is written while the next epoch trains. At the end of the context it is complete, however training ended.

    Args:
        folder: of the stage.
        history: the metrics of all epochs, including the one that ends.
        trained_by: the runs that trained them.
        best: the best weights.
    """

    def __init__(self, folder: Path, history: list[dict[str, float]], trained_by: list[str], best: Best):
        super().__init__()
        self.folder, self.history, self.trained_by, self.best = folder, history, trained_by, best
        self.writer = ThreadPoolExecutor(1, "checkpoint")
        self.writing: Future[None] | None = None

    def __enter__(self) -> "State":
        return self

    def __exit__(self, kind, error, trace) -> None:
        self.writer.shutdown()
        if self.writing is not None and error is None:
            self.writing.result()

    def on_epoch_end(self, epoch, logs=None):
        if self.writing is not None:
            self.writing.result()  # raises what the write before raised, as for a full disk
        variables = [*self.model.variables, *self.model.optimizer.variables]
        arrays = {str(number): variable.numpy() for number, variable in enumerate(variables)}
        arrays |= {"history": json.dumps(self.history), "by": json.dumps(self.trained_by), "best": self.best.digest}
        self.writing = self.writer.submit(self._write, arrays, best_epoch(self.history))

    def _write(self, arrays: dict, best: int) -> None:
        with files.atomic_write(self.folder / STATE) as partial, partial.open("wb") as file:
            np.savez(file, **arrays)
        for number in range(best):
            (self.folder / BEST.format(number)).unlink(missing_ok=True)


def _without_optimizer(model: keras.Model) -> keras.Model:
    """The same layers without the optimizer, which Keras saves with weights and which is twice as large with Adam."""
    return keras.Model(model.inputs, model.outputs)


def _largest_size(model: keras.Model) -> int:
    """Upper bound of the size of a weights file; HDF5 may crash if the disk is full."""
    return 1_000_000 + sum(4096 + 4 * math.prod(variable.shape) for variable in model.variables)


def _is_whole(path: Path) -> bool:
    """Whether every member of an NPZ file passes its CRC check."""
    with path.open("rb"):  # an unreadable file is not damaged
        pass
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None and "best.npy" in archive.namelist()
    except MemoryError:
        raise
    except Exception:  # damaged bytes may look like anything, such as another compression or a password
        return False


def _start_again(folder: Path) -> tuple[list, list, str]:
    _set_aside(folder, STATE, *(each.name for each in folder.glob(BEST.format("*"))))
    return [], [], ""


def _set_aside(folder: Path, *names: str) -> None:
    for name in names:
        files.set_aside(folder / name)
    logger.warning(f"{' or '.join(names)} in {folder} is damaged; that stage is trained again")
