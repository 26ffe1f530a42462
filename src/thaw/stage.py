"""One compile and fit: what trains, for how long, and whose weights it leaves behind.

A stage keeps its state in a folder named by its signature. Given again it goes on after the last epoch that was
finished there, or hands over what it came to. Stages report through callbacks; they know nothing of where runs are
recorded.
"""

import contextlib
import json
import math
import os
import time
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from thaw import config, durable, progress
from thaw.errors import ThawError
from thaw.network import Depth, Network, reseed


@dataclass(frozen=True)
class Stage:
    """What one stage of a run does.

    Attributes:
        name: `head` or `finetune`.
        number: 0 or 1.
        depth: how many layers at the end of the backbone train.
        first_epoch: the number of its first epoch, running on from the stage before.
        settings: epochs, learning rate and the like.
        evaluate: which epoch's weights it leaves behind, `best` by validation loss or the `last`.
        class_weights: how much each class weighs in the loss that training minimises; None: all the same.
    """

    name: str
    number: int
    depth: Depth
    first_epoch: int
    settings: config.Stage
    evaluate: str
    class_weights: tuple[float, ...] | None = None

    @property
    def epochs(self) -> range:
        """The numbers of its epochs, if it does not stop early."""
        return range(self.first_epoch, self.first_epoch + self.settings.epochs)


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


def plan(training: config.Training, unfreeze: Depth) -> list[Stage]:
    """The stages of a run; one without epochs is left out, and so is fine-tuning where nothing is unfrozen."""
    evaluate = "last" if training.evaluate == "last" else "best"
    stages = [Stage("head", 0, 0, 0, training.head, evaluate)]
    if unfreeze != 0:
        stages.append(Stage("finetune", 1, unfreeze, training.head.epochs, training.finetune, evaluate))
    return [stage for stage in stages if stage.settings.epochs]


def selected(trained: dict[str, Trained], evaluate: str) -> str:
    """The name of the stage whose weights are tested.

    Args:
        trained: what each stage came to, in order.
        evaluate: `best`: the stage with the lowest validation loss, the earlier of equal ones; else the last.
    """
    losses = {name: each.history[each.kept]["val_loss"] for name, each in trained.items()}
    finite = {name: loss for name, loss in losses.items() if math.isfinite(loss)}
    return min(finite, key=finite.get) if evaluate == "best" and finite else list(trained)[-1]


def train(
    stage: Stage,
    network: Network,
    model: keras.Model,
    batches: Callable[[range], tf.data.Dataset],
    validation: Callable[[], tf.data.Dataset],
    seed: int,
    run: str,
    folder: Path,
    callbacks: Sequence[keras.callbacks.Callback],
) -> Trained:
    """Compile and fit what is left to do, and leave the network with the weights that `stage.evaluate` asks for.

    Args:
        stage: what to train.
        network: changed in place.
        model: the part of the network that trains, from the frontier to the probabilities.
        batches: gives those of the epochs asked for, in a row: what `model` takes, labels and weights.
        validation: gives batches of the same kind.
        seed: of the run.
        run: what to call it in `Trained.by`.
        folder: of the stage, claimed by this process.
        callbacks: told of every epoch, those that were trained before included. For these `params["found"]` is `whole`
            or, where the stage had not ended, `part`.
    """
    network.unfreeze(stage.depth)
    network.verify(model, stage.depth)
    _compile(model, stage)
    if done := _done(stage, folder):
        _tell(callbacks, model, stage, done.history, "whole")
        _weights(model).load_weights(folder / "kept.weights.h5")
        return done
    history, by, digest = _restore(stage, model, folder)
    _tell(callbacks, model, stage, history, "part")
    left = stage.epochs[len(history) :]
    if left and not _stalled(history, stage.settings.patience):
        training, clocks = batches(left), []
        if not tf.distribute.has_strategy():  # which fetches ahead for each device, so that no step asks
            clocks = [_Waiting()]
            training = clocks[0].noticed(training)
        by = list(dict.fromkeys([*by, run]))
        best = _Best(folder, history, digest)
        own = [
            _Seeds((seed, stage.number)),
            *clocks,
            _History(stage, history),
            best,
            _State(folder, history, by, best),
        ]
        model.fit(
            training,
            steps_per_epoch=len(training) // len(left),
            validation_data=validation(),
            shuffle=False,
            initial_epoch=left.start,
            epochs=left.stop,
            callbacks=[*own, *callbacks],
            verbose=0,
        )
    return _finish(stage, model, folder, history, by)


BEST = "best-{}.weights.h5"  # by the index of the epoch
OPTIMIZERS = {
    "adam": keras.optimizers.Adam,
    "adamw": keras.optimizers.AdamW,
    "rmsprop": keras.optimizers.RMSprop,
    "sgd": lambda learning_rate: keras.optimizers.SGD(learning_rate, momentum=0.9),
}


class _Balanced(keras.losses.Loss):
    """Cross-entropy, each image weighing as its class does."""

    def __init__(self, class_weights: tuple[float, ...]):
        super().__init__(reduction="mean_with_sample_weight")
        self.class_weights = tf.constant(class_weights, tf.float32)

    def call(self, y_true, y_pred):
        plain = keras.losses.sparse_categorical_crossentropy(y_true, y_pred)
        return plain * tf.gather(self.class_weights, tf.cast(tf.reshape(y_true, [-1]), tf.int32))


class _Shared(keras.losses.Loss):
    """The mean over a batch that several devices share, where each would take the mean over its own part.

    These parts differ in how many of their images are there to fill up the batch only, and weigh nothing.
    """

    def __init__(self, mean: keras.losses.Loss):
        super().__init__()
        self.mean = mean

    def __call__(self, y_true, y_pred, sample_weight=None):
        replicas = tf.distribute.get_replica_context()
        if replicas is None:  # Keras only asks for the shapes
            return self.mean(y_true, y_pred, sample_weight)
        here = tf.reduce_sum(sample_weight)
        share = here / replicas.all_reduce(tf.distribute.ReduceOp.SUM, here)
        # Keras divides by the number of devices before it adds their gradients up.
        return self.mean(y_true, y_pred, sample_weight) * share * replicas.num_replicas_in_sync


def _compile(model: keras.Model, stage: Stage) -> None:
    plain = keras.losses.SparseCategoricalCrossentropy(reduction="mean_with_sample_weight")
    loss = _Balanced(stage.class_weights) if stage.class_weights else plain
    model.compile(
        optimizer=OPTIMIZERS[stage.settings.optimizer](stage.settings.learning_rate),
        loss=_Shared(loss) if tf.distribute.has_strategy() else loss,
        # Keras' own running loss counts every batch as full; a metric of the same name takes its place in the logs.
        weighted_metrics=[
            keras.metrics.SparseCategoricalCrossentropy("loss"),
            keras.metrics.SparseCategoricalAccuracy("accuracy"),
        ],
    )
    model.optimizer.build(model.trainable_variables)


def _finish(stage: Stage, model: keras.Model, folder: Path, history: list[dict[str, float]], by: list[str]) -> Trained:
    """Keep the weights that were asked for and what the stage came to, and remove what only resuming needs."""
    kept = _best(history) if stage.evaluate == "best" else len(history) - 1
    if kept != len(history) - 1:
        _weights(model).load_weights(folder / BEST.format(kept))
    with durable.writing(folder / "kept.weights.h5") as partial:
        _weights(model).save_weights(partial)
    seconds = sum(epoch["epoch_seconds"] for epoch in history)
    trained = Trained(history, kept, seconds, by)
    digest = durable.digest(folder / "kept.weights.h5")
    durable.write_json(folder / "done.json", {**asdict(trained), "sha256": digest})
    for leftover in (folder / "state.npz", *folder.glob(BEST.format("*")), *folder.glob("new-*")):
        leftover.unlink(missing_ok=True)
    return trained


def _done(stage: Stage, folder: Path) -> Trained | None:
    """What the stage came to, if it is finished and what it left is whole; what is not is set aside."""
    if not (folder / "done.json").exists():
        return None
    content = durable.read_json(folder / "done.json") or {}
    with contextlib.suppress(TypeError):
        noted = content.pop("sha256", "")  # stores of before have none
        if noted in ("", durable.digest(folder / "kept.weights.h5")) and (folder / "kept.weights.h5").exists():
            return Trained(**content)
    _set_aside(stage, folder, "done.json", "kept.weights.h5")
    return None


def _set_aside(stage: Stage, folder: Path, *names: str) -> None:
    for name in names:
        durable.set_aside(folder / name)
    progress.reporter().say(f"{' or '.join(names)} in {folder} is damaged; the stage {stage.name} is trained again")


def _weights(model: keras.Model) -> keras.Model:
    """The same layers without the optimizer, which Keras saves with weights and which is twice as large with Adam."""
    return keras.Model(model.inputs, model.outputs)


def _best(history: list[dict[str, float]]) -> int:
    """The index of the epoch with the least validation loss; a loss that is no number is the worst."""
    losses = [math.inf if math.isnan(epoch["val_loss"]) else epoch["val_loss"] for epoch in history]
    return losses.index(min(losses))


def _stalled(history: list[dict[str, float]], patience: int | None) -> bool:
    """Whether the last `patience` epochs brought no better validation loss."""
    return bool(patience and history) and len(history) - 1 - _best(history) >= patience


def _tell(
    callbacks: Sequence[keras.callbacks.Callback], model: keras.Model, stage: Stage, history: list[dict], found: str
) -> None:
    """Let callbacks see epochs that were trained before."""
    if history:
        told = keras.callbacks.CallbackList(list(callbacks), model=model, found=found)
        told.on_train_begin()
        for epoch, metrics in zip(stage.epochs, history, strict=False):
            told.on_epoch_begin(epoch)
            told.on_epoch_end(epoch, dict(metrics))
        told.on_train_end()


def _restore(stage: Stage, model: keras.Model, folder: Path) -> tuple[list[dict[str, float]], list[str], str]:
    """Set weights and optimizer to where training was left, if that is whole; else it is set aside.

    Returns:
        The metrics of the epochs until then, who trained, and the digest of the best weights.
    """
    path = folder / "state.npz"
    if not path.exists():
        return [], [], ""
    try:
        with zipfile.ZipFile(path) as archive:
            whole = archive.testzip() is None
        with np.load(path) as state:
            history, by = json.loads(str(state["history"])), json.loads(str(state["by"]))
            best = folder / BEST.format(_best(history))
            if (folder / "best.weights.h5").exists():  # as versions before called it, without a digest
                os.replace(folder / "best.weights.h5", best)
            digest = str(state["best"]) if "best" in state else durable.digest(best)
            if not whole or durable.digest(best) != digest:
                raise zipfile.BadZipFile
            for number, variable in enumerate([*model.variables, *model.optimizer.variables]):
                variable.assign(state[str(number)])
            return history, by, digest
    except (zipfile.BadZipFile, zlib.error, OSError, ValueError, LookupError, EOFError):
        _set_aside(stage, folder, path.name, *(each.name for each in folder.glob(BEST.format("*"))))
        return [], [], ""


class _Seeds(keras.callbacks.Callback):
    """Makes dropout a function of the seed, the stage and the epoch."""

    def __init__(self, seed: tuple[int, ...]):
        super().__init__()
        self.seed = seed

    def on_epoch_begin(self, epoch, logs=None):
        reseed(self.model, (*self.seed, epoch))


class _Waiting(keras.callbacks.Callback):
    """Measures how long the steps of an epoch wait for their batches."""

    def noticed(self, batches: tf.data.Dataset) -> tf.data.Dataset:
        """The same batches, whose arrival is noticed."""

        def arrived() -> np.float64:
            self.seconds += time.perf_counter() - self.asked
            return np.float64(0)

        def passed(*batch):
            with tf.control_dependencies([tf.numpy_function(arrived, [], tf.float64)]):
                return tf.nest.map_structure(tf.identity, batch)

        options = tf.data.Options()
        options.experimental_optimization.inject_prefetch = False  # it would fetch before anybody asks
        return batches.map(passed).with_options(options)

    def set_model(self, model):
        """Hold no network: TensorFlow keeps what a dataset calls until the process ends, and this with it."""

    def on_epoch_begin(self, epoch, logs=None):
        self.seconds = 0.0

    def on_train_batch_begin(self, batch, logs=None):
        self.asked = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        logs["waiting_seconds"] = self.seconds


class _History(keras.callbacks.Callback):
    """Adds learning rate and seconds to each epoch's metrics, for the callbacks after it, and keeps them all.

    Early stopping reads them too, so that it has no state of its own to lose.

    Raises:
        ThawError: at the end of an epoch whose loss is not finite.
    """

    def __init__(self, stage: Stage, history: list[dict[str, float]]):
        super().__init__()
        self.stage, self.history = stage, history

    def on_epoch_begin(self, epoch, logs=None):
        self.began = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        logs["learning_rate"] = float(self.model.optimizer.learning_rate.numpy())
        logs["epoch_seconds"] = time.perf_counter() - self.began
        if not math.isfinite(logs["loss"]):
            key = f"training.{self.stage.name}.learning_rate"
            raise ThawError(
                f"The stage {self.stage.name} diverged in epoch {len(self.history) + 1}: its loss is {logs['loss']:g}; "
                f"give a lower {key} than {self.stage.settings.learning_rate:g}"
            )
        self.history.append({name: float(value) for name, value in logs.items()})
        self.model.stop_training = _stalled(self.history, self.stage.settings.patience)


class _Best(keras.callbacks.ModelCheckpoint):
    """A `ModelCheckpoint` of the best epoch by `_best`, which knows those before a resume; a file for each.

    Args:
        folder: of the stage.
        history: the metrics of all epochs, of which `_History` adds the newest.
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
        return self.folder / BEST.format(_best(self.history))

    def set_model(self, model):
        super().set_model(_weights(model))

    def on_epoch_end(self, epoch, logs=None):
        if _best(self.history) == len(self.history) - 1:
            super().on_epoch_end(epoch, logs)
            durable.place(self.partial, self.path)
            self.digest = durable.digest(self.path)


class _State(keras.callbacks.Callback):
    """All that the next epoch depends on, in one file: weights, optimizer, the metrics so far, the best's digest.

    The best weights of before are there until the state no longer speaks of them.
    """

    def __init__(self, folder: Path, history: list[dict[str, float]], by: list[str], best: _Best):
        super().__init__()
        self.folder, self.history, self.by, self.best = folder, history, by, best

    def on_epoch_end(self, epoch, logs=None):
        variables = [*self.model.variables, *self.model.optimizer.variables]
        arrays = {str(number): variable.numpy() for number, variable in enumerate(variables)}
        arrays |= {"history": json.dumps(self.history), "by": json.dumps(self.by), "best": self.best.digest}
        with durable.writing(self.folder / "state.npz") as partial, partial.open("wb") as file:
            np.savez(file, **arrays)
        for each in set(self.folder.glob(BEST.format("*"))) - {self.best.path}:
            each.unlink()
