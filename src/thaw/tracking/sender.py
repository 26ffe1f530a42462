"""Sends journals while they grow, so that training never waits for MLflow.

A thread does so for one run. For a sweep a process does, which draws the figures as well: Python runs one thread at a
time, and both take as long as training a small head.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path

from thaw.tracking import journal
from thaw.tracking.delivery import deliver
from thaw.tracking.store import Store

POLL, LONGEST_PAUSE = 0.2, 30.0  # seconds between two looks at the journals; while MLflow fails, up to the second


def send_journals(announced: Connection, store: Store) -> None:
    """Send journals as they grow, until the other end of `announced` is closed, and then once more.

    Args:
        announced: receives the folder of each journal, once the ones before have ended.
        store: where to.
    """
    sent: dict[Path, int] = {}  # the folders, and how large their journals were when they were sent
    pause, is_open = POLL, True
    while is_open:
        is_open = _receive(announced, pause, sent)
        try:
            for folder in reversed(sent):  # a journal that cannot be sent keeps none after it back
                path = folder / journal.NAME
                size = path.stat().st_size if path.exists() else 0
                if size != sent[folder]:
                    deliver(folder, store)
                sent[folder] = size
            sent = dict(list(sent.items())[-1:])
            pause = POLL
        except Exception:  # whatever it is, training continues, and the journals show what is pending
            pause = min(2 * max(pause, 0.5), LONGEST_PAUSE)


def _receive(announced: Connection, seconds: float, sent: dict[Path, int]) -> bool:
    """Add the folders that arrive within some seconds; whether more may come."""
    until = time.monotonic() + seconds
    try:
        while announced.poll(max(0.0, until - time.monotonic())):
            folder = announced.recv()
            sent.pop(folder, None)
            sent[folder] = -1
    except (EOFError, OSError):  # or the other process has died
        return False
    return True


def start_thread(target: Callable[..., None], *given) -> Callable[[float], None]:
    """Start a thread; returns what waits for it, so many seconds at most."""
    thread = threading.Thread(target=target, args=given, daemon=True)
    thread.start()
    return thread.join


class Sender:
    """Sends journals in the background.

    Args:
        store: where to.
        start: starts the work, as `start_thread`.
    """

    PATIENCE = 10.0  # seconds

    def __init__(self, store: Store, start: Callable[..., Callable[[float], None]] = start_thread):
        announced, self.announcing = Pipe(duplex=False)
        self.wait = start(send_journals, announced, store)

    def send(self, folder: Path) -> None:
        """Send the journal in `folder` as it grows; those before have ended."""
        with contextlib.suppress(BrokenPipeError):  # its process was killed; the end of the command sends what is left
            self.announcing.send(folder)

    def close(self) -> None:
        """Try once more to send the rest; after `PATIENCE` it is left to itself."""
        self.announcing.close()
        self.wait(self.PATIENCE)


@contextlib.contextmanager
def sending(folder: Path, store: Store) -> Iterator[None]:
    """Send the journal of one run while the context lasts."""
    sender = Sender(store)
    sender.send(folder)
    try:
        yield
    finally:
        sender.close()
