"""The fit of one stage: the only place that calls `fit`.

A stage keeps its checkpoints in a folder named by its signature. A later call with that folder resumes after the last
completed epoch, or returns the stored result.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from thaw import runtime
from thaw.models.cuts import Cut
from thaw.models.network import Network
from thaw.training import checkpoints
from thaw.training.callbacks import History, InputWait, SeedDropout, StopOnInterrupt, has_stalled, replay
from thaw.training.checkpoints import StageResult
from thaw.training.losses import build_loss, build_metrics
from thaw.training.optimizers import (
    Accumulate,
    ValidateAverages,
    build_optimizer,
    rate_factors,
    set_targets,
    use_averages,
)
from thaw.training.schedules import ScheduledRate
from thaw.training.stages import Stage, steps_per_epoch


@dataclass(frozen=True)
class Batches:
    """The input pipelines of a stage.

    Attributes:
        training: epochs -> the batches of all of them: inputs of the cut's tail, labels and sample weights.
        validation: returns batches of the same structure.
        examples: that an epoch trains on.
        size: of a batch, in examples.
    """

    training: Callable[[range], tf.data.Dataset]
    validation: Callable[[], tf.data.Dataset]
    examples: int
    size: int

    @property
    def count(self) -> int:
        """How many batches an epoch has."""
        return -(-self.examples // self.size)


def fit_stage(
    stage: Stage,
    network: Network,
    cut: Cut,
    batches: Batches,
    seed: int,
    folder: Path,
    callbacks: Sequence[keras.callbacks.Callback],
    run: str,
) -> StageResult:
    """Train the remaining epochs, then restore the weights selected by `stage.evaluate`.

    Args:
        stage: what to train.
        network: changed in place.
        cut: of the network; its tail is what trains.
        batches: of what crosses the cut.
        seed: of the run.
        folder: of the stage, locked by this process.
        callbacks: see every epoch, also those that were trained before: then `params["found"]` is `whole` or, if the
            stage had not ended, `part`.
        run: recorded in `StageResult.trained_by`.
    """
    model = cut.tail
    network.unfreeze(stage.depth)
    network.verify(model, stage.depth)
    compile_stage(model, stage, network)
    if done := checkpoints.finished(model, folder):
        replay(callbacks, model, stage, done.history, "whole")
        return done
    history, trained_by, digest = checkpoints.restore(model, folder)
    replay(callbacks, model, stage, history, "part")
    remaining = stage.epochs[len(history) :]
    if remaining and not has_stalled(history, stage.settings.patience):
        training, waits = batches.training(remaining), []
        if not tf.distribute.has_strategy():  # which prefetches to each device, so that no step waits
            waits = [InputWait()]
            training = waits[0].watch(training)
        trained_by = list(dict.fromkeys([*trained_by, run]))
        best = checkpoints.Best(folder, history, digest)
        state = checkpoints.State(folder, history, trained_by, best)
        optimizer = stage.optimizer
        steps = steps_per_epoch(batches.examples, batches.size, optimizer)
        own = [
            StopOnInterrupt(),
            SeedDropout((seed, stage.number)),
            *([] if stage.schedule.is_constant else [ScheduledRate(stage, steps)]),
            *([Accumulate(optimizer, batches.examples, batches.size)] if optimizer.accumulate > 1 else []),
            *waits,
            History(stage, history),
            best,
            *([ValidateAverages()] if optimizer.ema else []),
            state,
        ]
        validation = batches.validation()
        with state, runtime.polling():
            model.fit(
                training,
                steps_per_epoch=batches.count,
                validation_data=validation,
                shuffle=False,
                initial_epoch=remaining.start,
                epochs=remaining.stop,
                callbacks=[*own, *callbacks],
                verbose=0,
            )
    if stage.optimizer.ema:
        use_averages(model)
    return checkpoints.finish(model, folder, history, trained_by, stage.evaluate)


def compile_stage(model: keras.Model, stage: Stage, network: Network) -> None:
    """Give a model of the network its optimizer, loss and metrics, or those of an earlier run back as they began.

    Compiling drops the traced steps, so that it is left out where only the learning rate differs.
    """
    penalty = stage.regularisation
    settings = (stage.optimizer, stage.loss, penalty, stage.class_weights, network.plan(stage.depth))
    key = ("compiled", id(model))
    compiled, begun = network.made.get(key, (None, []))
    if compiled == settings:
        for variable, value in zip(model.optimizer.variables, begun, strict=True):
            variable.assign(keras.ops.zeros_like(variable) if value is None else value)
        model.optimizer.learning_rate.assign(stage.settings.learning_rate)
        set_targets(model, network.initial)
        return
    model.compile(
        optimizer=build_optimizer(
            stage.optimizer,
            stage.settings.learning_rate,
            network.by_path(*rate_factors(stage.optimizer, network.backbone.blocks)),
            network.by_path([penalty.backbone] * len(network.backbone.blocks), penalty.head),
            network.moving_statistics(stage.depth),
        ),
        loss=build_loss(stage.loss, stage.class_weights, network.labels.multi_label),
        weighted_metrics=build_metrics(network.labels.multi_label),
    )
    model.optimizer.build(model.trainable_variables)
    values = (variable.numpy() for variable in model.optimizer.variables)
    set_targets(model, network.initial)
    network.made[key] = settings, [value if np.any(value) else None for value in values]  # most are zeros
