"""What a person sees of a command: live progress that never wraps on a terminal, elsewhere a line for each step."""

import contextlib
import time
from collections.abc import Iterator

from rich.cells import cell_len, set_cell_size
from rich.console import Console, Group, RenderableType
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn
from rich.table import Column
from rich.text import Text

from thaw import progress
from thaw.times import duration

LONG = 1.0  # seconds; without a terminal what took less is not worth a line
NARROWEST = 12  # columns that are left of a run's name
SMOOTHING = 0.1  # weight of the newest estimate of the time left


def console(stderr: bool = False, soft_wrap: bool = False) -> Console:
    """Where a command writes; names are shown as they are, without markup or emoji codes.

    Args:
        stderr: standard error in place of standard output.
        soft_wrap: leave lines whole, as is always done without a terminal, so that other programs can read them.
    """
    plain = {"stderr": stderr, "highlight": False, "markup": False, "emoji": False}
    return Console(**plain, soft_wrap=soft_wrap or not Console(stderr=stderr).is_terminal)


def fitted(line: str, width: int) -> str:
    """The line, or as much of it as fits."""
    return line if cell_len(line) <= width else set_cell_size(line, width - 1).rstrip() + "…"


def link(shown: Console, text: str, address: str) -> Text:
    """An address on a line of its own that is not broken: a hyperlink (OSC 8) where it is wider than the terminal."""
    whole = f"{text}: {address}"
    if not shown.is_terminal or shown.is_dumb_terminal or cell_len(whole) <= shown.width:
        return Text(whole, no_wrap=True, overflow="ignore")
    return Text.assemble((text, f"link {address} underline"))


class Display(progress.Reporter):
    """Progress of a command: its sweep, the run under way, the step of that run, and the numbers of the last epoch.

    Args:
        shown: where to; None: standard output.
        live: redraw in place; only one process may do so on a terminal.
    """

    def __init__(self, shown: Console | None = None, live: bool = True):
        self.console = shown = shown or console()
        self.live = _Tasks(shown) if live and shown.is_terminal and not shown.is_dumb_terminal else None
        self.label, self.numbers = "", ""
        self.sweep: TaskID | None = None
        self.run: TaskID | None = None
        self.left = TimeLeft()

    def __enter__(self) -> "Display":
        if self.live:
            self.live.start()
        return self

    def __exit__(self, *_) -> None:
        self.stop()

    def stop(self) -> None:
        """Leave the terminal to others; what follows is said in lines."""
        if self.live:
            self.live.stop()
            self.live = None

    def say(self, line: str) -> None:
        """A line that stays, below the label of the run."""
        self.console.print(f"{self.label} · {line}" if self.label else line)

    def announce(self, line: str) -> None:
        """A line about the command."""
        self.console.print(line)

    def begin_sweep(self, total: int | None) -> None:
        """A sweep of so many runs; None where a sweeper decides."""
        self.left.runs = total
        if self.live:
            self.sweep = self.live.add_task(f"{total or ''} runs".strip(), total=total)

    def begin_run(self, label: str) -> None:
        """A run begins."""
        self.label, self.numbers = label, ""
        self.left.begin_run()
        if self.live:
            self.end_run_task()
            if self.sweep is not None:
                self.live.update(self.sweep, detail=f"{self.left.ended} done")
            self.run = self.live.add_task(label)

    def end_run(self, line: str, trained: bool) -> None:
        """The run has ended, which a line says that stays; its time counts for the others if it trained."""
        self.left.end_run(trained)
        self.label = ""
        self.result(line)
        if self.live:
            self.end_run_task()
            self.live.numbers = ""
            if self.sweep is not None:
                self.live.update(self.sweep, advance=1, detail=f"{self.left.ended} done")
                self.show_time_left()

    def result(self, line: str) -> None:
        """What a run came to; on a terminal the name is cut rather than the line broken."""
        if self.console.is_terminal and cell_len(line) > self.console.width:
            line = line.replace(" · validation ", " · val ")
        name, separator, rest = line.partition(" · ")
        room = self.console.width - cell_len(separator + rest)
        if self.console.is_terminal and room > NARROWEST:
            line = fitted(name, room) + separator + rest
        self.console.print(line)

    def end_run_task(self) -> None:
        """Remove the live line of the run."""
        if self.run is not None:
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
            self.say(f"{what} · {shown.done:,.0f} {unit} · {duration(seconds)}")

    def epoch(self, where: str, numbers: str, done: float, seconds_an_epoch: float | None) -> None:
        """How far training is: `done` epochs of the run; `numbers` stay until the next ones."""
        self.numbers = numbers or self.numbers
        self.left.epochs_done, self.left.seconds_an_epoch = done, seconds_an_epoch
        if self.live:
            self.live.numbers = self.numbers
            if self.run is not None:
                self.live.update(self.run, completed=done, detail=where)
            self.show_time_left()

    def end_epoch(self, where: str, numbers: str) -> None:
        """An epoch has ended; without a terminal that is a line."""
        if not self.live:
            seconds = self.left.of_all()
            left = [f"{duration(seconds)} left"] if seconds is not None else []
            self.say(" · ".join([where, numbers, *left]))

    def show_time_left(self) -> None:
        """Beside the sweep, or a run that is alone."""
        seconds = self.left.smoothed()
        task = self.sweep if self.sweep is not None else self.run
        if seconds is not None and task is not None:
            self.live.update(task, left=f"{duration(seconds)} left")


class TimeLeft:
    """How long a command still takes, from the runs that it trained and the pace of the epochs under way.

    The pace leaves out the first steps of a stage, in which TensorFlow traces its functions.
    """

    def __init__(self):
        self.runs: int | None = 1
        self.ended, self.times = 0, list[float]()
        self.running, self.epochs, self.epochs_done, self.seconds_an_epoch = False, 0, 0.0, None
        self.began = time.perf_counter()
        self.last: tuple[float, float] | None = None  # an estimate, and when it was made

    def begin_run(self) -> None:
        """A run begins."""
        self.running, self.epochs, self.epochs_done, self.seconds_an_epoch = True, 0, 0.0, None
        self.began = time.perf_counter()

    def end_run(self, trained: bool) -> None:
        """It has ended."""
        self.ended += 1
        if trained:
            self.times.append(time.perf_counter() - self.began)
        self.running = False

    def of_all(self) -> float | None:
        """Seconds; None as long as nothing says."""
        elapsed = time.perf_counter() - self.began
        usual = sum(self.times) / len(self.times) if self.times else None
        here = 0.0
        if self.running:
            if self.seconds_an_epoch is not None:
                here = max(0.0, self.epochs - self.epochs_done) * self.seconds_an_epoch
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
        """The same without jumps."""
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
        self.task = display.live.add_task(what, total=total) if display.live else None

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
        """Take it off the display."""
        if self.task is not None and self.display.live:
            self.display.live.remove_task(self.task)


class _Tasks(Progress):
    """Lines of progress, none of which is ever broken, above the numbers of the last epoch."""

    def __init__(self, shown: Console):
        self.numbers = ""
        one_line = {"no_wrap": True, "overflow": "ellipsis"}
        super().__init__(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False, table_column=Column(ratio=1, **one_line)),
            BarColumn(bar_width=10),
            TextColumn("{task.fields[detail]}", markup=False, table_column=Column(min_width=10, **one_line)),
            TextColumn("{task.fields[left]}", markup=False, table_column=Column(**one_line)),
            console=shown,
            transient=True,
            expand=True,
            refresh_per_second=5,
        )

    def add_task(self, description: str, total: float | None = None, **fields) -> TaskID:
        return super().add_task(description, total=total, detail="", left="", **fields)

    def get_renderable(self) -> RenderableType:
        lines = [self.make_tasks_table(self.tasks)]
        if self.numbers:
            lines.append(Text(self.numbers, style="dim", no_wrap=True, overflow="ellipsis"))
        return Group(*lines)
