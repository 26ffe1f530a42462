"""The process in the background of a sweep, which sends what its runs record."""

import contextlib
import logging
import multiprocessing
import queue
import signal
import threading
from collections.abc import Callable, Iterator
from logging.handlers import QueueHandler
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

from thaw.cli import environment

if TYPE_CHECKING:
    from thaw.tracking.sender import Sender
    from thaw.tracking.store import Store


class BackgroundSender:
    """Sends what the runs of a sweep record, from a process that starts with the first run that records something."""

    sender: "Sender | None" = None

    @contextlib.contextmanager
    def sending(self, folder: Path, store: "Store") -> Iterator[None]:
        """As `tracking.sender.sending`, but what is left to send when the context ends is sent during the next run."""
        from thaw.tracking.sender import Sender

        self.sender = self.sender or Sender(store, start_process)
        self.sender.send(folder)
        yield

    def close(self) -> None:
        """Wait until everything is sent."""
        if self.sender is not None:
            self.sender.close()
            self.sender = None


def start_process(target: Callable[..., None], *given) -> Callable[[float], None]:
    """Start a process that signals do not stop, and that logs through this one.

    Returns:
        What waits for it, so many seconds at most; then it is killed.
    """
    logged, logging_to = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("spawn").Process(target=_run, args=(logging_to, target, *given), daemon=True)
    resource_tracker.ensure_running()  # which unblocks signals when it starts
    # Blocked while it starts, as a terminal interrupts it as well.
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    logging_to.close()
    threading.Thread(target=_relay, args=(logged,), daemon=True).start()

    def wait(seconds: float) -> None:
        process.join(seconds)
        process.kill()

    return wait


def _run(logging_to: Connection, target: Callable[..., None], *given) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    environment.prepare()
    ours = logging.getLogger("thaw")
    ours.handlers, ours.propagate = [_Sent(logging_to)], False
    ours.setLevel(logging.INFO)
    target(*given)


class _Sent(QueueHandler):
    """Sends log records to the process that started this one."""

    def __init__(self, connection: Connection):
        super().__init__(queue.SimpleQueue())  # not used
        self.connection = connection

    def enqueue(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError):  # it was killed
            self.connection.send(record)


def _relay(logged: Connection) -> None:
    """Log what the other process logs."""
    with contextlib.suppress(EOFError, OSError):
        while True:
            record = logged.recv()
            logging.getLogger(record.name).handle(record)
