"""`train.py`: runs its Hydra job with a display, and closes a run or a sweep with a summary."""

import contextlib
import io
import logging
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from thaw import progress, runtime
from thaw.cli import argv, environment, manual, preview, terminal
from thaw.cli.process import BackgroundSender
from thaw.cli.sweep_callback import SweepCallback
from thaw.config import compose
from thaw.config.explain import explain
from thaw.errors import ThawError, redact, user_message
from thaw.runs.context import Context
from thaw.runs.outcome import Outcome
from thaw.workspace import Workspace

if TYPE_CHECKING:
    from thaw.sweeps.parent import OpenSweep
    from thaw.tracking.store import Store

logger = logging.getLogger(__name__)


@cache
def connect(uri: str | None, root: str, experiment: str | None) -> "Store":
    """A tracking store, opened once for all runs of the command."""
    from thaw.tracking.store import connect

    return connect(uri, root, experiment)


NETWORKS: dict = {}  # that this process keeps
BACKGROUND = BackgroundSender()


@dataclass
class Job:
    """A Hydra job in progress.

    Attributes:
        context: for the run.
        outcome: of the run, to be set.
    """

    context: Context
    outcome: Outcome | None = None


@contextlib.contextmanager
def reported(composed: DictConfig) -> Iterator[Job]:
    """Report how a run begins and ends; the rest of a sweep continues after a failure.

    Args:
        composed: the configuration of the run.

    Raises:
        RunFailed: the run failed, which has been recorded and reported.
    """
    from thaw.sweeps.job import HydraJob, RunFailed

    context, opened = Context(connect=connect, networks=NETWORKS), SweepCallback.opened
    if opened is not None and opened.sweep.total != 1:
        context = replace(context, sending=BACKGROUND.sending)
    hydra_job = HydraJob.current(composed, context)
    display = progress.reporter()
    job, failure = Job(hydra_job.context), None
    display.begin_run(hydra_job.label)
    try:
        yield job
    except KeyboardInterrupt:
        Outcome(job.context.name, "KILLED", job.context.choices).write(hydra_job.launch)
        raise
    except Exception as error:
        message = user_message(error)
        if message is None:
            logger.exception(f"{hydra_job.label} failed")
            message = redact(f"{type(error).__name__}: {error}")
        job.outcome = Outcome(job.context.name, "FAILED", job.context.choices, error=message)
        failure = RunFailed(message)
        failure.__cause__ = error
    finally:
        runtime.release()
        if not hydra_job.sweep:
            Workspace(Path(composed.store)).remove_launch(hydra_job.launch)
    assert job.outcome is not None
    if hydra_job.sweep:
        job.outcome.write(hydra_job.launch)
    if hydra_job.sweep or failure is None:
        display.end_run(job.outcome.summary(hydra_job.label), trained=job.outcome.was_trained)
    if failure is not None:
        raise failure
    if not hydra_job.sweep:
        _close_run(job.outcome, composed, display)


def main(hydra_job: Callable[[], object]) -> int:
    """The command; its exit status is 1 if anything failed.

    Args:
        hydra_job: the function decorated with `hydra.main`.
    """
    environment.prepare()
    words = sys.argv[1:]
    if {"--help", "-h"} & set(words):
        return manual.main(argv.credentials_moved(words))
    environment.interruptible()
    SweepCallback.opened = None
    with terminal.Display() as display, progress.reporting_to(display):
        try:
            status = _run(hydra_job, display, words)
        finally:
            BACKGROUND.close()
        if SweepCallback.opened is not None:
            is_complete = _close_sweep(display)
            status = status or int(not is_complete)
        return status


def _run(hydra_job: Callable[[], object], display: terminal.Display, words: list[str]) -> int:
    try:
        compose.register()
        is_preview, words = preview.is_asked(words)
        sys.argv[1:] = words = argv.prepared(words)
        with argv.printed_without_credentials(words), _without_hydras_line():
            preview.main() if is_preview else hydra_job()
        if SweepCallback.opened is not None and SweepCallback.opened.soup:
            _make_soups(SweepCallback.opened)
        return 0
    except KeyboardInterrupt:
        display.stop()
        print("Interrupted; the same command resumes it.", file=sys.stderr)
        return 130
    except Exception as error:
        from thaw.sweeps.job import RunFailed

        message = user_message(error) or explain(error)
        if isinstance(error, RunFailed):
            message = "" if SweepCallback.opened else str(error)  # in a sweep the summary shows it
        if message is None:
            raise
        display.stop()
        if message:
            print(message, file=sys.stderr)
        return 1


@contextlib.contextmanager
def _without_hydras_line() -> Iterator[None]:
    """Drop Hydra's "Error executing job with overrides", which precedes an error that is explained here."""
    screen = sys.stderr

    class Filtered(io.TextIOBase):
        def write(self, text: str) -> int:
            return len(text) if text.startswith("Error executing job with overrides") else screen.write(text)

        def flush(self) -> None:
            screen.flush()

        def fileno(self) -> int:
            return screen.fileno()

        def isatty(self) -> bool:
            return screen.isatty()

    with contextlib.redirect_stderr(Filtered()):
        yield


def _make_soups(opened: "OpenSweep") -> None:
    """Average the weights of the runs of a sweep."""
    from thaw.runs.soup import make_soups
    from thaw.sweeps.summary import outcomes

    places = [Path(each.place) for each in outcomes(opened.sweep) if each.place]
    try:
        make_soups(places, Path(opened.sweep.place), opened.store, NETWORKS)
    except Exception as error:  # the runs are recorded, and their summary is still to come
        if user_message(error) is None:
            logger.exception("The weights of the runs could not be averaged")
            raise ThawError(f"The weights of the runs could not be averaged: {redact(str(error))}") from error
        raise


def _close_sweep(display: terminal.Display) -> bool:
    """Print the summary of the sweep; whether every run finished."""
    from thaw.cli.summary import print_sweep
    from thaw.sweeps.summary import close_sweep

    display.stop()
    assert SweepCallback.opened is not None
    try:
        summary = close_sweep(SweepCallback.opened)
    except OSError as error:
        print(user_message(error) or error, file=sys.stderr)
        return False
    print_sweep(summary, display.console)
    return summary.complete


def _close_run(outcome: Outcome, composed: DictConfig, display: progress.Reporter) -> None:
    """Print the summary of a single run."""
    from thaw.cli.summary import print_run
    from thaw.config.validate import validate
    from thaw.sweeps.summary import close_run

    config = validate(composed)
    store = connect(config.tracking.uri, config.store, config.experiment)
    if isinstance(display, terminal.Display):
        display.stop()
        print_run(close_run(outcome, store, Path(config.store)), display.console)
