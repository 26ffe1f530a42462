"""Reports of training: how far each stage is, at which pace, and the metrics of the last epoch."""

import math
import statistics
import time
from collections.abc import Sequence

import keras

from thaw.progress import Reporter
from thaw.training.stages import Stage

TRACED = 1  # steps at the beginning of a fit, in which TensorFlow traces functions, that do not count for the pace
PACE = 50  # newest steps that the pace is measured on


class EpochProgress(keras.callbacks.Callback):
    """Reports the epochs of one run, stage after stage.

    Args:
        reporter: receives the reports.
        stages: of the run, in order.
    """

    def __init__(self, reporter: Reporter, stages: Sequence[Stage]):
        super().__init__()
        self.reporter, self.stages = reporter, stages
        reporter.plan(sum(len(stage.epochs) for stage in stages))
        self.reused: list[str] = []  # what was trained before, in words

    def on_train_begin(self, logs=None):
        self.steps: list[float] = []
        self.validation = 0.0
        self.fitted = 0

    def on_epoch_begin(self, epoch, logs=None):
        self.stage = next(stage for stage in self.stages if epoch in stage.epochs)
        self.before = sum(len(stage.epochs) for stage in self.stages if stage.number < self.stage.number)
        self.done = self.before + epoch - self.stage.first_epoch
        self.began, self.training = time.perf_counter(), 0.0

    def on_train_batch_begin(self, batch, logs=None):
        self.step_began = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        seconds = time.perf_counter() - self.step_began
        self.training += seconds
        if self.fitted or batch >= TRACED:
            self.steps = [*self.steps, seconds][-PACE:]
        done = self.done + (batch + 1) / self.params["steps"]
        self.reporter.epoch(self._where(done), "", done, self._pace())

    def on_epoch_end(self, epoch, logs=None):
        self.done += 1
        if not self.params.get("found"):
            if self.fitted:  # TensorFlow traced the validation of the first one
                self.validation = time.perf_counter() - self.began - self.training
            self.fitted += 1
            self.reporter.epoch(self._where(self.done), numbers(logs), self.done, self._pace())
            self.reporter.end_epoch(self._where(self.done), numbers(logs))

    def on_train_end(self, logs=None):
        if found := self.params.get("found"):
            how = "reused" if found == "whole" else f"resumed after {self.done - self.before}"
            self.reused.append(f"{self.stage.name} {how}")
            self.reporter.epoch(self._where(self.done), "", self.done, None)

    def _where(self, done: float) -> str:
        return f"{self.stage.name} {math.ceil(done - self.before)}/{len(self.stage.epochs)}"

    def _pace(self) -> float | None:
        """Seconds per epoch; None if not known yet."""
        return self.params["steps"] * statistics.median(self.steps) + self.validation if self.steps else None


def numbers(logs: dict[str, float]) -> str:
    """Loss and accuracy of an epoch, in one line."""
    shown = {
        "loss": "loss",
        "accuracy": "accuracy",
        "val_loss": "validation loss",
        "val_accuracy": "validation accuracy",
    }
    return " · ".join(f"{name} {float(logs[key]):.3f}" for key, name in shown.items() if key in logs)
