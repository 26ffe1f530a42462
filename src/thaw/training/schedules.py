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


def _cosine(first: float, last: float, share: float) -> float:
    return last + (first - last) * (1 + math.cos(math.pi * share)) / 2


class ScheduledRate(keras.callbacks.Callback):
    """Sets the learning rate before each step.

    Args:
        stage: has schedule, learning rate and epochs.
        steps: of an epoch.
    """

    def __init__(self, stage: Stage, steps: int):
        super().__init__()
        self.stage, self.steps, self.done = stage, steps, 0

    def on_epoch_begin(self, epoch, logs=None):
        self.done = (epoch - self.stage.first_epoch) * self.steps

    def on_train_batch_begin(self, batch, logs=None):
        share = rate_share(self.stage.schedule, self.done + batch, self.steps * len(self.stage.epochs))
        self.model.optimizer.learning_rate = self.stage.settings.learning_rate * share
