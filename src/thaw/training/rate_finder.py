"""The learning-rate finder: the loss of each step against a rate that grows from step to step (Smith 2017).

It changes nothing: weights, optimizer and random numbers are put back, so a run has the same bits with and without it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import keras
import numpy as np

from thaw import runtime
from thaw.errors import ThawError
from thaw.models.cuts import Cut
from thaw.models.network import Network
from thaw.training.callbacks import SeedDropout, StopOnInterrupt
from thaw.training.fit import Batches, compile_stage
from thaw.training.stages import Stage

STEPS, LOWEST, HIGHEST = 100, 1e-7, 10.0  # as in fastai
SMOOTHING = 0.98  # momentum of the running mean of the losses
DIVERGED = 4.0  # times the lowest loss
BEGINNING, END = 10, 5  # steps that do not count for the proposal


@dataclass(frozen=True)
class FoundRates:
    """What the finder saw.

    Attributes:
        rates: the learning rate of each step, ascending.
        losses: the smoothed loss of each step in nats.
        proposed: a rate in the middle of the longest descent.
    """

    rates: list[float]
    losses: list[float]
    proposed: float


def find_rates(stage: Stage, network: Network, cut: Cut, batches: Batches, seed: int) -> FoundRates:
    """Train up to 100 steps at rates from 1e-7 to 10, until the loss diverges, and put everything back.

    Args:
        stage: whose rate is looked for; with accumulation each batch is a step.
        network: as it is before the stage.
        cut: of the network; its tail is what trains.
        batches: of what crosses the cut.
        seed: of the run.
    """
    model = cut.tail
    stage = replace(stage, optimizer=stage.optimizer.model_copy(update={"accumulate": 1, "ema": None}))
    network.unfreeze(stage.depth)
    compile_stage(model, stage, network)
    variables = [*model.variables, *model.optimizer.variables]
    before = [variable.numpy() for variable in variables]
    rising = _RisingRate()
    with runtime.polling():
        model.fit(
            batches.training(stage.epochs).repeat(),
            steps_per_epoch=STEPS,
            shuffle=False,
            callbacks=[StopOnInterrupt(), SeedDropout((seed, stage.number)), rising],
            verbose=0,
        )
    for variable, value in zip(variables, before, strict=True):
        variable.assign(value)
    if not rising.losses:
        raise ThawError(
            f"The loss of the stage {stage.name} is not finite even at the rate {LOWEST:g}; look at the images and "
            "training.precision"
        )
    rates = rising.rates[: len(rising.losses)]
    return FoundRates(rates, rising.losses, rates[_middle_of_descent(rising.losses)])


class _RisingRate(keras.callbacks.Callback):
    """Raises the learning rate before each step, and stops once the loss diverges.

    Attributes:
        rates: of all steps.
        losses: smoothed, of the steps until then.
    """

    def __init__(self):
        super().__init__()
        self.rates = np.geomspace(LOWEST, HIGHEST, STEPS).tolist()
        self.losses: list[float] = []
        self.mean = 0.0

    def on_train_batch_begin(self, batch, logs=None):
        self.model.reset_metrics()  # so that logs have the loss of one batch
        self.model.optimizer.learning_rate = self.rates[batch]

    def on_train_batch_end(self, batch, logs=None):
        loss = float(logs["loss"])
        if math.isfinite(loss):
            self.mean = SMOOTHING * self.mean + (1 - SMOOTHING) * loss
            self.losses.append(self.mean / (1 - SMOOTHING ** (batch + 1)))
        if not math.isfinite(loss) or self.losses[-1] > DIVERGED * min(self.losses):
            self.model.stop_training = True


def _middle_of_descent(losses: Sequence[float]) -> int:
    """The index in the middle of the longest falling subsequence, as fastai's `valley` finds it."""
    counted = losses[BEGINNING : max(len(losses) - END, BEGINNING + 1)]
    if len(counted) < 2:  # it diverged at once
        return 0
    lengths, before = [1] * len(counted), [-1] * len(counted)
    for place, loss in enumerate(counted):
        for earlier in range(place):
            if counted[earlier] > loss and lengths[earlier] + 1 > lengths[place]:
                lengths[place], before[place] = lengths[earlier] + 1, earlier
    descent = [int(np.argmax(lengths))]
    while before[descent[-1]] >= 0:
        descent.append(before[descent[-1]])
    return BEGINNING + descent[len(descent) // 2]
