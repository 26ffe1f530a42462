"""What a person sees of a run under way: a live bar on a terminal, a plain line an epoch elsewhere; and Ctrl-C."""

import math
import time
from collections.abc import Sequence

import keras
from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from thaw import runtime
from thaw.stage import Stage


class Progress(keras.callbacks.Callback):
    """Shows one stage after another of one run.

    Args:
        console: where to.
        label: which run this is, with its number in the sweep.
        live: redraw one line; only one process may do so on a terminal.
        stages: of the run, in order.
    """

    def __init__(self, console: Console, label: str, live: bool, stages: Sequence[Stage]):
        super().__init__()
        self.console, self.label, self.stages = console, label, stages
        self.live = Live(console=console, auto_refresh=False, transient=True) if live and console.is_terminal else None
        self.total = sum(len(stage.epochs) for stage in stages)

    def __enter__(self) -> "Progress":
        if self.live:
            self.live.start()
        return self

    def __exit__(self, *_) -> None:
        if self.live:
            self.live.stop()

    def say(self, words: str) -> None:
        """Show a line that stays."""
        self.console.print(f"{self.label} · {words}")

    def on_train_begin(self, logs=None):
        self.began, self.first, self.shown = time.perf_counter(), None, 0.0

    def on_epoch_begin(self, epoch, logs=None):
        self.stage = next(stage for stage in self.stages if epoch in stage.epochs)
        self.before = sum(len(stage.epochs) for stage in self.stages if stage.number < self.stage.number)
        self.done = self.before + epoch - self.stage.first_epoch
        if self.first is None:
            self.first = self.done

    def on_train_batch_end(self, batch, logs=None):
        if runtime.interrupted.is_set():
            raise KeyboardInterrupt
        if self.live and time.perf_counter() - self.shown > 0.1:
            self.shown = time.perf_counter()
            self.live.update(self._bar(self.done + (batch + 1) / self.params["steps"], logs), refresh=True)

    def on_epoch_end(self, epoch, logs=None):
        self.done += 1
        if self.params.get("found"):
            return
        if self.live:
            self.live.update(self._bar(self.done, logs), refresh=True)
        else:
            self.console.print(" · ".join([self._where(self.done), *_numbers(logs), self._left(self.done)]))

    def on_train_end(self, logs=None):
        if self.params.get("found"):
            self.say(f"{self.stage.name} {self.done - self.before}/{len(self.stage.epochs)} · trained before")

    def _bar(self, done: float, logs: dict) -> Table:
        line = Table.grid(padding=(0, 1))
        words = " · ".join([*_numbers(logs), self._left(done)])
        line.add_row(Text(self._where(done)), ProgressBar(self.total, done, width=12), Text(words))
        return line

    def _where(self, done: float) -> str:
        return f"{self.label} · {self.stage.name} {math.ceil(done - self.before)}/{len(self.stage.epochs)}"

    def _left(self, done: float) -> str:
        """The time left at the pace of this stage, in words."""
        ahead = (time.perf_counter() - self.began) / max(done - self.first, 1e-9) * (self.total - done)
        return f"{ahead:.0f} s left" if ahead < 100 else f"{ahead / 60:.0f} min left"


def _numbers(logs: dict) -> list[str]:
    shown = {"loss": "loss", "accuracy": "accuracy", "val_accuracy": "validation"}
    return [f"{name} {float(logs[key]):.3f}" for key, name in shown.items() if key in logs]
