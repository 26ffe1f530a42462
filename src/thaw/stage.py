"""One compile and fit: what trains, for how long, and whose weights it leaves behind.

Stages report through callbacks; they know nothing of where runs are recorded.
"""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import keras
import tensorflow as tf

from thaw import config
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
    """

    name: str
    number: int
    depth: Depth
    first_epoch: int
    settings: config.Stage
    evaluate: str

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
        images: how many went through training, each epoch counted and the last batch as a full one.
        seconds: of training and validation.
    """

    history: list[dict[str, float]]
    kept: int
    images: int
    seconds: float


def plan(training: config.Training, unfreeze: Depth) -> list[Stage]:
    """The stages of a run; one without epochs is left out, and so is fine-tuning where nothing is unfrozen."""
    stages = [Stage("head", 0, 0, 0, training.head, training.evaluate)]
    if unfreeze != 0:
        stages.append(Stage("finetune", 1, unfreeze, training.head.epochs, training.finetune, training.evaluate))
    return [stage for stage in stages if stage.settings.epochs]


def train(
    stage: Stage,
    network: Network,
    model: keras.Model,
    batches: tf.data.Dataset,
    validation: tf.data.Dataset,
    seed: int,
    folder: Path,
    callbacks: Sequence[keras.callbacks.Callback],
) -> Trained:
    """Compile and fit, and leave the network with the weights that `stage.evaluate` asks for.

    Args:
        stage: what to train.
        network: changed in place.
        model: the part of the network that trains, from the frontier to the probabilities.
        batches: of all epochs in a row: what `model` takes, labels and weights.
        validation: batches of the same kind.
        seed: of the run.
        folder: for checkpoints.
        callbacks: told of every epoch.
    """
    network.unfreeze(stage.depth)
    network.verify(model, stage.depth)
    model.compile(
        optimizer=OPTIMIZERS[stage.settings.optimizer](stage.settings.learning_rate),
        loss=keras.losses.SparseCategoricalCrossentropy(reduction="mean_with_sample_weight"),
        # Keras' own running loss counts every batch as full; a metric of the same name takes its place in the logs.
        weighted_metrics=[keras.metrics.SparseCategoricalCrossentropy("loss"), _accuracy()],
    )
    folder.mkdir(parents=True, exist_ok=True)
    checkpoints = {each: _Checkpoint(folder / f"{each}.weights.h5", each == "best") for each in ("best", "last")}
    history = _History()
    own = [_Seeds((seed, stage.number)), history, *checkpoints.values()]
    if stage.settings.patience:
        own.append(keras.callbacks.EarlyStopping("val_loss", patience=stage.settings.patience))
    steps = batches.cardinality().numpy() // len(stage.epochs)
    began = time.perf_counter()
    model.fit(
        batches,
        steps_per_epoch=steps,
        validation_data=validation,
        shuffle=False,
        initial_epoch=stage.epochs.start,
        epochs=stage.epochs.stop,
        callbacks=[*own, *callbacks],
        verbose=0,
    )
    seconds = time.perf_counter() - began
    losses = [epoch["val_loss"] for epoch in history.epochs]
    kept = losses.index(min(losses)) if stage.evaluate == "best" else len(losses) - 1
    if kept != len(losses) - 1:
        model.load_weights(checkpoints["best"].path)
    images = len(losses) * steps * batches.element_spec[1].shape[0]
    return Trained(history.epochs, kept, images, seconds)


OPTIMIZERS = {
    "adam": keras.optimizers.Adam,
    "adamw": keras.optimizers.AdamW,
    "rmsprop": keras.optimizers.RMSprop,
    "sgd": lambda learning_rate: keras.optimizers.SGD(learning_rate, momentum=0.9),
}


def _accuracy() -> keras.metrics.Metric:
    return keras.metrics.SparseCategoricalAccuracy("accuracy")


class _Seeds(keras.callbacks.Callback):
    """Makes dropout a function of the seed, the stage and the epoch."""

    def __init__(self, seed: tuple[int, ...]):
        super().__init__()
        self.seed = seed

    def on_epoch_begin(self, epoch, logs=None):
        reseed(self.model, (*self.seed, epoch))


class _History(keras.callbacks.Callback):
    """Adds the learning rate and the seconds to each epoch's metrics, for the callbacks after it, and keeps them."""

    def __init__(self):
        super().__init__()
        self.epochs: list[dict[str, float]] = []

    def on_epoch_begin(self, epoch, logs=None):
        self.began = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        logs["learning_rate"] = float(self.model.optimizer.learning_rate.numpy())
        logs["epoch_seconds"] = time.perf_counter() - self.began
        self.epochs.append({name: float(value) for name, value in logs.items()})


class _Checkpoint(keras.callbacks.ModelCheckpoint):
    """A `ModelCheckpoint` whose file is always whole: it is written beside its place and renamed into it."""

    def __init__(self, path: Path, best_only: bool):
        self.path, self.partial = path, path.with_name(f"partial.{path.name}")
        super().__init__(self.partial, "val_loss", save_best_only=best_only, save_weights_only=True, mode="min")

    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch, logs)
        if self.partial.exists():
            os.replace(self.partial, self.path)
