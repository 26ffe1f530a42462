"""Callbacks of a fit: dropout seeds, input waiting time, history and early stopping."""

import math
import time
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from thaw import runtime
from thaw.errors import ThawError
from thaw.models.graph import reseed_dropout
from thaw.training.checkpoints import best_epoch
from thaw.training.stages import Stage


def has_stalled(history: list[dict[str, float]], patience: int | None) -> bool:
    """Whether the last `patience` epochs brought no lower validation loss."""
    return bool(patience and history and len(history) - 1 - best_epoch(history) >= patience)


def replay(
    callbacks: Sequence[keras.callbacks.Callback], model: keras.Model, stage: Stage, history: list[dict], found: str
) -> None:
    """Replay the epochs that were trained before to callbacks, with `params["found"]` set to `found`."""
    if history:
        told = keras.callbacks.CallbackList(list(callbacks), model=model, found=found)
        told.on_train_begin()
        for epoch, metrics in zip(stage.epochs, history, strict=False):
            told.on_epoch_begin(epoch)
            told.on_epoch_end(epoch, dict(metrics))
        told.on_train_end()


class StopOnInterrupt(keras.callbacks.Callback):
    """Raises KeyboardInterrupt between two steps once the process was interrupted."""

    def on_train_batch_end(self, batch, logs=None):
        if runtime.interrupted.is_set():
            raise KeyboardInterrupt

    def on_test_batch_end(self, batch, logs=None):
        self.on_train_batch_end(batch)


class SeedDropout(keras.callbacks.Callback):
    """Makes dropout a function of the seed, the stage and the epoch."""

    def __init__(self, seed: tuple[int, ...]):
        super().__init__()
        self.seed = seed

    def on_epoch_begin(self, epoch, logs=None):
        reseed_dropout(self.model, (*self.seed, epoch))


class InputWait(keras.callbacks.Callback):
    """Measures how long the steps of an epoch wait for their batches."""

    def watch(self, batches: tf.data.Dataset) -> tf.data.Dataset:
        """The same batches, whose arrival is timed."""

        def arrived() -> np.float64:
            self.seconds += time.perf_counter() - self.asked
            return np.float64(0)

        def passed(*batch):
            with tf.control_dependencies([tf.numpy_function(arrived, [], tf.float64)]):
                return tf.nest.map_structure(tf.identity, batch)

        options = tf.data.Options()
        options.experimental_optimization.inject_prefetch = False  # it would fetch before a step asks
        return batches.map(passed).with_options(options)

    def set_model(self, model):
        """Do not keep the model: TensorFlow never frees functions called by a dataset, nor this object with them."""

    def on_epoch_begin(self, epoch, logs=None):
        self.seconds = 0.0

    def on_train_batch_begin(self, batch, logs=None):
        self.asked = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        logs["waiting_seconds"] = self.seconds


class History(keras.callbacks.Callback):
    """Adds learning rate and seconds to each epoch's metrics, for the callbacks after it, and keeps them all.

    Early stopping reads them as well, so it has no state of its own to lose.

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
        self.model.stop_training = has_stalled(self.history, self.stage.settings.patience)
