"""Progress of work that takes long: library code reports it here, and whoever runs it decides whether it is shown.

By default nothing is shown. `thaw.cli.terminal` shows it on a terminal.
"""

import contextlib
import logging
from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")
logger = logging.getLogger(__name__)


class Step:
    """A piece of work under way, such as a frozen pass; this one is not shown."""

    def advance(self, count: float = 1) -> None:
        """So much more is done."""


class Reporter:
    """Takes reports of progress; this one shows none."""

    def say(self, line: str) -> None:
        """A line about the run under way."""

    def announce(self, line: str) -> None:
        """A line about the command, not about one run; logged where nobody shows it, as it may be a warning."""
        logger.warning(line)

    def begin_sweep(self, total: int | None) -> None:
        """A sweep of so many runs begins; None where a sweeper decides."""

    def phase(self, what: str) -> None:
        """What a run does now that cannot be counted, such as building a network."""

    def plan(self, epochs: int) -> None:
        """The run under way trains so many epochs."""

    def epoch(self, where: str, numbers: str, done: float, seconds_an_epoch: float | None) -> None:
        """How far the training of a run is.

        Args:
            where: the stage and the epoch.
            numbers: what the last epoch came to; nothing within one.
            done: epochs of the run.
            seconds_an_epoch: the pace; None where it is not known yet.
        """

    def end_epoch(self, where: str, numbers: str) -> None:
        """An epoch has ended."""

    @contextlib.contextmanager
    def step(self, what: str, total: float | None, unit: str) -> Iterator[Step]:
        """Work of a known length while the context lasts; `total` in `unit`s, None where nobody knows."""
        yield Step()


_active: list[Reporter] = [Reporter()]


def reporter() -> Reporter:
    """What takes reports now."""
    return _active[-1]


@contextlib.contextmanager
def reporting_to(chosen: Reporter) -> Iterator[None]:
    """Have `chosen` take the reports of this process while the context lasts."""
    _active.append(chosen)
    try:
        yield
    finally:
        _active.remove(chosen)


def counted(items: Iterable[Item], what: str, total: int | None, unit: str) -> Iterator[Item]:
    """The same items, whose number is reported."""
    with reporter().step(what, total, unit) as step:
        for item in items:
            yield item
            step.advance()
