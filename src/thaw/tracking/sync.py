"""Sends what journals still hold, and marks what a dead process left open as KILLED."""

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from thaw.errors import ThawError, one_line, redact
from thaw.locks import is_locked
from thaw.tracking import journal, sqlite
from thaw.tracking.delivery import deliver
from thaw.tracking.sent import Sent
from thaw.tracking.store import Store, connect
from thaw.workspace import Workspace

KILLED = "its process died; the same command resumes it"
logger = logging.getLogger(__name__)


@dataclass
class SyncResult:
    """How many lines were sent, how many are pending, of how many runs and sweeps, and why."""

    sent: int = 0
    pending: int = 0
    runs: int = 0
    reason: str = ""


def send_pending(store: Store, root: Path) -> SyncResult:
    """Send what all journals of a Thaw store hold for a tracking store.

    A run or sweep that has not ended and whose process is dead is marked KILLED.
    """
    result = SyncResult()
    for folder in Workspace(root).journals():
        if _is_sent(folder):
            continue
        lines = journal.read(folder)
        if not lines or lines[0]["uri"] != store.name or _is_alive(folder, lines):
            continue
        if (folder / journal.ELSEWHERE).exists():
            continue
        if lines[-1]["kind"] != "end":
            try:
                with FileLock(folder / "lock", timeout=0):
                    lines = journal.read(folder)
                    if lines[-1]["kind"] == "end" or _is_launched(folder, lines):
                        continue
                    journal.append(folder, "end", status="KILLED", reason=KILLED, outcome={})
            except (Timeout, OSError):  # another process has just resumed it, or the disk is full
                continue
        pending = Sent.of(folder).pending(folder)
        if pending and not result.reason:  # else the others would wait as long in vain
            try:
                deliver(folder, store)
            except Exception as error:
                result.reason = store.unreachable or one_line(error)
        left = Sent.of(folder).pending(folder)
        result.sent += pending - left
        result.pending += left
        result.runs += left > 0
    return result


def _is_sent(folder: Path) -> bool:
    """Whether the journal in `folder` has ended and is sent; of thousands most are, and need not be parsed."""
    try:
        lines = (folder / journal.NAME).read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        return True
    return bool(lines) and len(lines) == Sent.of(folder).lines and b'"kind": "end"' in lines[-1]


def _is_alive(folder: Path, lines: list[dict]) -> bool:
    """Whether a process works on the run or, for a sweep, one that launched it."""
    return is_locked(folder) or _is_launched(folder, lines)


def _is_launched(folder: Path, lines: list[dict]) -> bool:
    launches = [Workspace.of(folder).launch(line["launch"]) for line in lines if line.get("launch")]
    return any(is_locked(launch) for launch in launches if launch.is_dir())


def stores(root: Path) -> Iterator[Store]:
    """The tracking stores that the journals of a Thaw store are for, as far as their addresses are known.

    An address that needs credentials is known if `MLFLOW_TRACKING_URI` has them.
    """
    workspace = Workspace(root)
    given = os.environ.get("MLFLOW_TRACKING_URI")
    openings = (journal.read(folder)[:1] for folder in workspace.journals())
    for name in sorted({line["uri"] for lines in openings for line in lines}):
        address = given if given and redact(given) == name else name
        file = sqlite.file(name) if name.startswith("sqlite") else workspace.database
        if "***" in address:
            logger.warning(f"{name} needs its credentials: give the whole address in MLFLOW_TRACKING_URI")
        elif (not name or name.startswith("sqlite")) and not file.exists():
            logger.warning(f"{file} does not exist; what is recorded for it is kept")
        else:
            try:
                yield connect(address or None, root)
            except ThawError as error:
                logger.warning(str(error))
