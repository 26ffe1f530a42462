"""The state of a stage on disk: what its training goes on from, its best weights, and what it came to.

Files appear whole or not at all and have digests. What is damaged is set aside, and the stage begins anew.
"""

import json
import math
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path

import keras
import numpy as np

from thaw import durable, progress

STATE, DONE, KEPT = "state.npz", "done.json", "kept.weights.h5"
BEST = "best-{}.weights.h5"  # by the index of the epoch


@dataclass(frozen=True)
class Trained:
    """What a stage came to.

    Attributes:
        history: the metrics of each epoch.
        kept: the index of the epoch whose weights it left behind.
        seconds: of training and validation, wherever they were spent.
        by: the runs that trained it, in their order.
    """

    history: list[dict[str, float]]
    kept: int
    seconds: float
    by: list[str]


def best_epoch(history: list[dict[str, float]]) -> int:
    """The index of the epoch with the least validation loss; a loss that is no number is the worst."""
    losses = [math.inf if math.isnan(epoch["val_loss"]) else epoch["val_loss"] for epoch in history]
    return losses.index(min(losses))


def finished(model: keras.Model, folder: Path) -> Trained | None:
    """What the stage came to, whose weights `model` then has; None if it is not finished."""
    if not (folder / DONE).exists():
        return None
    content = durable.read_json(folder / DONE)
    if content and content.pop("sha256", None) == durable.digest(folder / KEPT):
        _tidy(folder)
        _weights(model).load_weights(folder / KEPT)
        return Trained(**content)
    _set_aside(folder, DONE, KEPT)
    return None


def restore(model: keras.Model, folder: Path) -> tuple[list[dict[str, float]], list[str], str]:
    """Set weights and optimizer to where training was left.

    Returns:
        The metrics of the epochs until then, who trained, and the digest of the best weights; empty where nothing is.
    """
    path = folder / STATE
    if not path.exists():
        return [], [], ""
    if not _is_whole(path):
        return _begin_anew(folder)
    with np.load(path) as state:
        history, by, digest = json.loads(str(state["history"])), json.loads(str(state["by"])), str(state["best"])
        if durable.digest(folder / BEST.format(best_epoch(history))) != digest:
            return _begin_anew(folder)
        for number, variable in enumerate([*model.variables, *model.optimizer.variables]):
            variable.assign(state[str(number)])
    return history, by, digest


def finish(model: keras.Model, folder: Path, history: list[dict[str, float]], by: list[str], evaluate: str) -> Trained:
    """Keep the weights that were asked for and what the stage came to, and remove what only resuming needs.

    Args:
        model: gets these weights.
        folder: of the stage.
        history: the metrics of all epochs.
        by: the runs that trained it.
        evaluate: `best` or `last`.
    """
    kept = best_epoch(history) if evaluate == "best" else len(history) - 1
    if kept != len(history) - 1:
        _weights(model).load_weights(folder / BEST.format(kept))
    durable.check_room(folder, _bytes(model))
    with durable.writing(folder / KEPT) as partial:
        _weights(model).save_weights(partial)
    trained = Trained(history, kept, sum(epoch["epoch_seconds"] for epoch in history), by)
    durable.write_json(folder / DONE, {**asdict(trained), "sha256": durable.digest(folder / KEPT)})
    _tidy(folder)
    return trained


def _tidy(folder: Path) -> None:
    """Remove what only resuming needs; a kill may have prevented that before."""
    for leftover in (folder / STATE, *folder.glob(BEST.format("*")), *folder.glob("new-*")):
        leftover.unlink(missing_ok=True)


class Best(keras.callbacks.ModelCheckpoint):
    """A `ModelCheckpoint` of the best epoch, which knows those before a resume; a file for each.

    Args:
        folder: of the stage.
        history: the metrics of all epochs, the one that ends included.
        digest: of the best weights before a resume.
    """

    def __init__(self, folder: Path, history: list[dict[str, float]], digest: str):
        self.folder, self.history, self.digest = folder, history, digest
        self.partial = folder / f"new-{BEST.format(0)}"
        escaped = str(self.partial).replace("{", "{{").replace("}", "}}")  # Keras fills what is in braces
        super().__init__(escaped, save_weights_only=True)

    @property
    def path(self) -> Path:
        """The file of the best epoch so far."""
        return self.folder / BEST.format(best_epoch(self.history))

    def set_model(self, model):
        super().set_model(_weights(model))

    def on_epoch_end(self, epoch, logs=None):
        if best_epoch(self.history) == len(self.history) - 1:
            durable.check_room(self.folder, _bytes(self.model))
            super().on_epoch_end(epoch, logs)
            durable.place(self.partial, self.path)
            self.digest = durable.digest(self.path)


class State(keras.callbacks.Callback):
    """All that the next epoch depends on, in one file: weights, optimizer, the metrics so far, the best's digest.

    The best weights of before stay until the state no longer speaks of them.
    """

    def __init__(self, folder: Path, history: list[dict[str, float]], by: list[str], best: Best):
        super().__init__()
        self.folder, self.history, self.by, self.best = folder, history, by, best

    def on_epoch_end(self, epoch, logs=None):
        variables = [*self.model.variables, *self.model.optimizer.variables]
        arrays = {str(number): variable.numpy() for number, variable in enumerate(variables)}
        arrays |= {"history": json.dumps(self.history), "by": json.dumps(self.by), "best": self.best.digest}
        with durable.writing(self.folder / STATE) as partial, partial.open("wb") as file:
            np.savez(file, **arrays)
        for each in set(self.folder.glob(BEST.format("*"))) - {self.best.path}:
            each.unlink()


def _weights(model: keras.Model) -> keras.Model:
    """The same layers without the optimizer, which Keras saves with weights and which is twice as large with Adam."""
    return keras.Model(model.inputs, model.outputs)


def _bytes(model: keras.Model) -> int:
    """Upper bound of the size of a weights file; HDF5 may crash where the disk is full."""
    return 1_000_000 + sum(4096 + 4 * math.prod(variable.shape) for variable in model.variables)


def _is_whole(path: Path) -> bool:
    """Whether every part of an NPZ file has the checksum that it was written with."""
    with path.open("rb"):  # what keeps it from being read is no damage
        pass
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None and "best.npy" in archive.namelist()
    except MemoryError:
        raise
    except Exception:  # damaged bytes may mean anything: another compression, a password, a place before the file
        return False


def _begin_anew(folder: Path) -> tuple[list, list, str]:
    _set_aside(folder, STATE, *(each.name for each in folder.glob(BEST.format("*"))))
    return [], [], ""


def _set_aside(folder: Path, *names: str) -> None:
    for name in names:
        durable.set_aside(folder / name)
    progress.reporter().say(f"{' or '.join(names)} in {folder} is damaged; that stage is trained again")
