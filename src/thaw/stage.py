"""One compile and fit: what trains, for how long, and whose weights it leaves behind.

A stage keeps its state in a folder named by its signature (`checkpoints`). Given again it goes on after the last epoch
that was finished there, or hands over what it came to. Stages report through callbacks; they know nothing of where
runs are recorded.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from thaw import checkpoints, config
from thaw.checkpoints import Trained, best_epoch
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
    if done := checkpoints.finished(model, folder):
        _tell(callbacks, model, stage, done.history, "whole")
        return done
    history, by, digest = checkpoints.restore(model, folder)
    _tell(callbacks, model, stage, history, "part")
    left = stage.epochs[len(history) :]
    if left and not _stalled(history, stage.settings.patience):
        training, clocks = batches(left), []
        if not tf.distribute.has_strategy():  # which fetches ahead for each device, so that no step asks
            clocks = [_Waiting()]
            training = clocks[0].noticed(training)
        by = list(dict.fromkeys([*by, run]))
        best = checkpoints.Best(folder, history, digest)
        own = [
            _Seeds((seed, stage.number)),
            *clocks,
            _History(stage, history),
            best,
            checkpoints.State(folder, history, by, best),
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
    return checkpoints.finish(model, folder, history, by, stage.evaluate)


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


def _stalled(history: list[dict[str, float]], patience: int | None) -> bool:
    """Whether the last `patience` epochs brought no better validation loss."""
    return bool(patience and history) and len(history) - 1 - best_epoch(history) >= patience


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
