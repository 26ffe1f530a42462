"""Progress of long work. Library code reports it here; whoever runs it decides whether to show it.

By default nothing is shown. `thaw.cli.terminal` shows it on a terminal.
"""

import contextlib
from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")


class Step:
    """A piece of work in progress, such as a frozen pass; this one is not shown."""

    def advance(self, count: float = 1) -> None:
        """Report that `count` more units are done."""


class Reporter:
    """Receives reports of progress; this one discards them."""

    def stop(self) -> None:
        """Stop redrawing, so that others may write to the terminal."""

    def announce(self, line: str) -> None:
        """Report a fact about the command, such as its dataset or device."""

    def begin_sweep(self, total: int | None) -> None:
        """Report that a sweep of `total` runs begins; None if a sweeper decides how many."""

    def begin_run(self, label: str) -> None:
        """Report that a run begins."""

    def end_run(self, summary: str, trained: bool) -> None:
        """Report how a run ended, on one line, and whether this command trained it to the end."""

    def phase(self, what: str) -> None:
        """Report what the run does now, for work that cannot be counted, such as building a network."""

    def plan(self, epochs: int) -> None:
        """Report how many epochs the run trains."""

    def epoch(self, where: str, numbers: str, done: float, seconds_per_epoch: float | None) -> None:
        """Report how far training is.

        Args:
            where: the stage and the epoch.
            numbers: loss and accuracy of the last epoch; empty within one.
            done: epochs of the run.
            seconds_per_epoch: the pace; None if not known yet.
        """

    def end_epoch(self, where: str, numbers: str) -> None:
        """Report that an epoch has ended."""

    @contextlib.contextmanager
    def step(self, what: str, total: float | None, unit: str) -> Iterator[Step]:
        """Report counted work while the context lasts; `total` in `unit`s, None if not known."""
        yield Step()


_active: list[Reporter] = [Reporter()]


def reporter() -> Reporter:
    """The reporter in use."""
    return _active[-1]


@contextlib.contextmanager
def reporting_to(chosen: Reporter) -> Iterator[None]:
    """Use `chosen` for the reports of this process while the context lasts."""
    _active.append(chosen)
    try:
        yield
    finally:
        _active.remove(chosen)


def counted(items: Iterable[Item], what: str, total: int | None, unit: str) -> Iterator[Item]:
    """Yield the items and report their number."""
    with reporter().step(what, total, unit) as step:
        for item in items:
            yield item
            step.advance()
