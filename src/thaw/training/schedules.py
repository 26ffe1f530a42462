"""Schedules: the learning rate of each step of a stage. It depends on the step alone, so a resume needs no state."""

import math

import keras

from thaw.config.schema import Schedule
from thaw.training.stages import Stage


def rate_share(schedule: Schedule, step: int, steps: int) -> float:
    """The learning rate of a step as a share of the stage's `learning_rate`.

    Args:
        schedule: its shape.
        step: from 0.
        steps: of the stage, if it does not stop early.
    """
    warmup = schedule.warmup_steps(steps)
    left = (step - warmup) / max(1, steps - warmup)  # 0 after warm-up, 1 after the last step
    is_rising = step < warmup
    match schedule.name:
        case "one_cycle" if is_rising:
            return _cosine(schedule.start, 1.0, step / warmup)
        case _ if is_rising:
            return (step + 1) / warmup  # the first step trains as well
        case "cosine" | "one_cycle":
            return _cosine(1.0, schedule.end, left)
        case "linear":
            return 1.0 + (schedule.end - 1.0) * left
        case "step":
            return schedule.factor ** sum(100 * step >= drop * steps for drop in schedule.drops)
    return 1.0


def epoch_rates(stage: Stage, epoch: int, steps: int) -> list[float]:
    """The learning rate of each step of an epoch.

    Args:
        stage: has schedule, learning rate and epochs.
        epoch: its number.
        steps: of the optimizer in an epoch.
    """
    first = (epoch - stage.first_epoch) * steps
    shares = (rate_share(stage.schedule, first + step, steps * len(stage.epochs)) for step in range(steps))
    return [stage.settings.learning_rate * share for share in shares]


def _cosine(first: float, last: float, share: float) -> float:
    return last + (first - last) * (1 + math.cos(math.pi * share)) / 2


class ScheduledRate(keras.callbacks.Callback):
    """Sets the learning rate before each batch.

    Args:
        stage: has schedule, learning rate and epochs.
        steps: of the optimizer in an epoch.
    """

    def __init__(self, stage: Stage, steps: int):
        super().__init__()
        self.stage, self.steps = stage, steps

    def on_epoch_begin(self, epoch, logs=None):
        self.rates = epoch_rates(self.stage, epoch, self.steps)

    def on_train_batch_begin(self, batch, logs=None):
        self.model.optimizer.learning_rate = self.rates[batch // self.stage.optimizer.accumulate]
