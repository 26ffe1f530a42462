"""Progress and log lines on a terminal: live and never wrapped; without a terminal a line for each step."""

import contextlib
import logging
import sys
import time
from collections.abc import Callable, Iterator

from rich.cells import cell_len, set_cell_size
from rich.console import Console, Group, RenderableType
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn
from rich.table import Column
from rich.text import Text

from thaw import progress
from thaw.durations import duration

LONG = 1.0  # seconds; without a terminal shorter steps are not reported
NARROWEST = 12  # columns of a run's name
RUN_LOGGERS = ("thaw.runs.", "thaw.training.")  # what they log concerns the current run
SMOOTHING = 0.1  # weight of the newest estimate of the time left


def console(stderr: bool = False, soft_wrap: bool = False) -> Console:
    """The console of a command; names are printed literally, without markup or emoji codes.

    Args:
        stderr: standard error instead of standard output.
        soft_wrap: do not wrap lines; without a terminal they never are, so that other programs can read them.
    """
    whole = soft_wrap or not Console(stderr=stderr).is_terminal
    return Console(stderr=stderr, highlight=False, markup=False, emoji=False, soft_wrap=whole)


def fitted(line: str, width: int) -> str:
    """The line, cut to the width."""
    return line if cell_len(line) <= width else set_cell_size(line, width - 1).rstrip() + "…"


def link(shown: Console, text: str, address: str) -> Text:
    """An address on one unbroken line: a hyperlink (OSC 8) if it is wider than the terminal."""
    whole = f"{text}: {address}"
    if not shown.is_terminal or shown.is_dumb_terminal or cell_len(whole) <= shown.width:
        return Text(whole, no_wrap=True, overflow="ignore")
    return Text.assemble((text, f"link {address} underline"))


@contextlib.contextmanager
def logging_to(write: Callable[[logging.LogRecord], None]) -> Iterator[None]:
    """Send the log records of this package to `write` while the context lasts, from INFO up."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            write(record)

    ours = logging.getLogger("thaw")
    before = ours.handlers, ours.level, ours.propagate
    ours.handlers, ours.propagate = [Handler()], False
    ours.setLevel(logging.INFO)
    try:
        yield
    finally:
        ours.handlers, ours.propagate = before[0], before[2]
        ours.setLevel(before[1])


class Display(progress.Reporter):
    """Progress and log lines of a command: sweep, current run, its current step, numbers of the last epoch.

    Args:
        shown: the console; None: standard output.
        live: redraw in place; only one process may do so on a terminal.
    """

    def __init__(self, shown: Console | None = None, live: bool = True):
        self.console = shown = shown or console()
        self.live = _Tasks(shown) if live and shown.is_terminal and not shown.is_dumb_terminal else None
        self.label, self.numbers = "", ""
        self.sweep: TaskID | None = None
        self.run: TaskID | None = None
        self.left = TimeLeft()
        self.exit_stack = contextlib.ExitStack()

    def __enter__(self) -> "Display":
        if self.live:
            self.live.start()
        self.exit_stack.enter_context(logging_to(self.log))
        return self

    def __exit__(self, *_) -> None:
        self.stop()
        self.exit_stack.close()

    def stop(self) -> None:
        """Stop redrawing; what follows is printed in lines."""
        if self.live:
            self.live.stop()
            self.live = None

    def log(self, record: logging.LogRecord) -> None:
        """Print a log record; what a run logs after its label."""
        text = record.getMessage()
        if record.exc_info:
            print(f"{text}\n{logging.Formatter().formatException(record.exc_info)}", file=sys.stderr)
            return
        of_run = self.label and record.name.startswith(RUN_LOGGERS)
        self.console.print(f"{self.label} · {text}" if of_run else text)

    def announce(self, line: str) -> None:
        self.console.print(line)

    def begin_sweep(self, total: int | None) -> None:
        self.left.runs = total
        if self.live:
            self.sweep = self.live.add(f"{total or ''} runs".strip(), total=total)

    def begin_run(self, label: str) -> None:
        self.label, self.numbers = label, ""
        self.left.begin_run()
        if self.live:
            self.end_run_task()
            if self.sweep is not None:
                self.live.update(self.sweep, detail=f"{self.left.ended} done")
            self.run = self.live.add(label)

    def end_run(self, summary: str, trained: bool) -> None:
        self.left.end_run(trained)
        self.label = ""
        self.result(summary)
        if self.live:
            self.end_run_task()
            self.live.numbers = ""
            if self.sweep is not None:
                self.live.update(self.sweep, advance=1, detail=f"{self.left.ended} done")
                self.show_time_left()

    def result(self, line: str) -> None:
        """Print how a run ended; on a terminal the name is cut rather than the line wrapped."""
        if self.console.is_terminal and cell_len(line) > self.console.width:
            line = line.replace(" · validation ", " · val ")
        name, separator, rest = line.partition(" · ")
        room = self.console.width - cell_len(separator + rest)
        if self.console.is_terminal and room > NARROWEST:
            line = fitted(name, room) + separator + rest
        self.console.print(line)

    def end_run_task(self) -> None:
        """Remove the live line of the run."""
        if self.live and self.run is not None:
            self.live.remove_task(self.run)
            self.run = None

    def phase(self, what: str) -> None:
        task = self.run if self.run is not None else self.sweep
        if self.live and task is not None:
            self.live.update(task, detail=what)

    def plan(self, epochs: int) -> None:
        self.left.epochs = epochs
        if self.live and self.run is not None:
            self.live.update(self.run, total=epochs)

    @contextlib.contextmanager
    def step(self, what: str, total: float | None, unit: str) -> Iterator[progress.Step]:
        shown, began = _Step(self, what, total, unit), time.perf_counter()
        try:
            yield shown
        finally:
            shown.end()
        seconds = time.perf_counter() - began
        if not self.live and seconds > LONG and unit:
            self._print(f"{what} · {shown.done:,.0f} {unit} · {duration(seconds)}")

    def epoch(self, where: str, numbers: str, done: float, seconds_per_epoch: float | None) -> None:
        self.numbers = numbers or self.numbers
        self.left.epochs_done, self.left.seconds_per_epoch = done, seconds_per_epoch
        if self.live:
            self.live.numbers = self.numbers
            if self.run is not None:
                self.live.update(self.run, completed=done, detail=where)
            self.show_time_left()

    def end_epoch(self, where: str, numbers: str) -> None:
        if not self.live:
            seconds = self.left.of_all()
            left = [f"{duration(seconds)} left"] if seconds is not None else []
            self._print(" · ".join([where, numbers, *left]))

    def _print(self, line: str) -> None:
        """Print a line about the run."""
        self.console.print(f"{self.label} · {line}" if self.label else line)

    def show_time_left(self) -> None:
        """Show the time left, beside the sweep or a single run."""
        seconds = self.left.smoothed()
        task = self.sweep if self.sweep is not None else self.run
        if self.live and seconds is not None and task is not None:
            self.live.update(task, left=f"{duration(seconds)} left")


class TimeLeft:
    """Estimates how long a command still takes, from the runs that it trained and the pace of the current epochs."""

    def __init__(self):
        self.runs: int | None = 1
        self.ended, self.times = 0, list[float]()
        self.running, self.epochs, self.epochs_done, self.seconds_per_epoch = False, 0, 0.0, None
        self.began = time.perf_counter()
        self.last: tuple[float, float] | None = None  # an estimate, and when it was made

    def begin_run(self) -> None:
        """A run begins."""
        self.running, self.epochs, self.epochs_done, self.seconds_per_epoch = True, 0, 0.0, None
        self.began = time.perf_counter()

    def end_run(self, trained: bool) -> None:
        """A run has ended."""
        self.ended += 1
        if trained:
            self.times.append(time.perf_counter() - self.began)
        self.running = False

    def of_all(self) -> float | None:
        """Seconds; None if not known yet."""
        elapsed = time.perf_counter() - self.began
        usual = sum(self.times) / len(self.times) if self.times else None
        here = 0.0
        if self.running:
            if self.seconds_per_epoch is not None:
                here = max(0.0, self.epochs - self.epochs_done) * self.seconds_per_epoch
            elif usual is not None:
                here = max(0.0, usual - elapsed)
            else:
                return None
        others = (self.runs or 0) - self.ended - self.running
        if others <= 0:
            return here
        if not self.running and usual is None:
            return None
        return here + others * (usual if usual is not None else elapsed + here)

    def smoothed(self) -> float | None:
        """The same, smoothed."""
        now, estimate = time.perf_counter(), self.of_all()
        if estimate is None:
            return None
        if self.last is not None:
            before, moment = self.last
            estimate = (1 - SMOOTHING) * max(0.0, before - (now - moment)) + SMOOTHING * estimate
        self.last = estimate, now
        return estimate


class _Step(progress.Step):
    """A step of a run on the display."""

    def __init__(self, display: Display, what: str, total: float | None, unit: str):
        self.display, self.unit, self.total, self.done = display, unit, total, 0.0
        self.began = self.shown = time.perf_counter()
        self.task = display.live.add(what, total=total) if display.live else None

    def advance(self, count: float = 1) -> None:
        self.done += count
        now = time.perf_counter()
        if self.task is not None and self.display.live and now - self.shown > 0.1:
            self.shown = now
            rate = self.done / (now - self.began)
            detail = f"{self.done:,.0f} {self.unit} · {rate:,.0f}/s" if self.unit else ""
            left = f"{duration((self.total - self.done) / rate)} left" if self.total and self.unit and rate else ""
            self.display.live.update(self.task, completed=self.done, detail=detail, left=left)
            self.display.show_time_left()

    def end(self) -> None:
        """Remove it from the display."""
        if self.task is not None and self.display.live:
            self.display.live.remove_task(self.task)


class _Tasks(Progress):
    """Lines of progress that never wrap, above the numbers of the last epoch."""

    def __init__(self, shown: Console):
        self.numbers = ""

        def column(**sizes: int) -> Column:
            return Column(no_wrap=True, overflow="ellipsis", **sizes)  # type: ignore[arg-type]

        super().__init__(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False, table_column=column(ratio=1)),
            BarColumn(bar_width=10),
            TextColumn("{task.fields[detail]}", markup=False, table_column=column(min_width=10)),
            TextColumn("{task.fields[left]}", markup=False, table_column=column()),
            console=shown,
            transient=True,
            expand=True,
            refresh_per_second=5,
        )

    def add(self, description: str, total: float | None = None) -> TaskID:
        """Add a line without detail and time left."""
        return self.add_task(description, total=total, detail="", left="")

    def get_renderable(self) -> RenderableType:
        lines: list[RenderableType] = [self.make_tasks_table(self.tasks)]
        if self.numbers:
            lines.append(Text(self.numbers, style="dim", no_wrap=True, overflow="ellipsis"))
        return Group(*lines)
