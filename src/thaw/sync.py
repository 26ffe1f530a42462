"""`make sync`: send to MLflow what journals still hold, and mark as KILLED what a dead process left open."""

import argparse
import os
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from thaw import durable, journal, sqlite, tracking, workspace
from thaw.composition import ROOT
from thaw.delivery import Sent, deliver
from thaw.errors import ThawError, redact
from thaw.tracking import Store

KILLED = "its process died; the same command goes on with it"


@dataclass
class Synced:
    """How many lines were sent, how many are left, of how many runs and sweeps, and why."""

    sent: int = 0
    pending: int = 0
    runs: int = 0
    reason: str = ""


def send_pending(store: Store, root: Path) -> Synced:
    """Send what all the journals below `root` hold for that store.

    A run or sweep without an end whose process is dead is marked KILLED.
    """
    counts = Synced()
    for folder in workspace.journals(root):
        if _settled(folder):
            continue
        lines = journal.read(folder)
        if not lines or lines[0]["uri"] != store.name or _alive(folder, lines):
            continue
        if (folder / journal.ELSEWHERE).exists():
            continue
        if lines[-1]["kind"] != "end":
            try:
                with FileLock(folder / "lock", timeout=0):
                    lines = journal.read(folder)
                    if lines[-1]["kind"] == "end" or _launched(folder, lines):
                        continue
                    journal.append(folder, "end", status="KILLED", reason=KILLED, outcome={})
            except (Timeout, OSError):  # somebody has just gone on with it, or there is no room to say so
                continue
        pending = Sent.of(folder).pending(folder)
        if pending and not counts.reason:  # else the others would only wait as long
            try:
                deliver(folder, store)
            except Exception as error:
                counts.reason = store.away or textwrap.shorten(redact(str(error)), 300)
        left = Sent.of(folder).pending(folder)
        counts.sent += pending - left
        counts.pending += left
        counts.runs += left > 0
    return counts


def _settled(folder: Path) -> bool:
    """Whether the journal in `folder` has ended and is sent; of thousands most are, and need not be understood."""
    try:
        lines = (folder / journal.NAME).read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        return True
    return bool(lines) and len(lines) == Sent.of(folder).lines and b'"kind": "end"' in lines[-1]


def _alive(folder: Path, lines: list[dict]) -> bool:
    """Whether a process works on the run or, for a sweep, one that launched it."""
    return durable.is_claimed(folder) or _launched(folder, lines)


def _launched(folder: Path, lines: list[dict]) -> bool:
    launches = [workspace.launch(folder.parents[1], line["launch"]) for line in lines if line.get("launch")]
    return any(durable.is_claimed(launch) for launch in launches if launch.is_dir())


def stores(root: Path) -> Iterator[Store]:
    """The tracking stores that the journals below `root` are for, as far as their addresses are known.

    An address that needs credentials is known if `MLFLOW_TRACKING_URI` has them.
    """
    given = os.environ.get("MLFLOW_TRACKING_URI")
    opened = (journal.read(folder)[:1] for folder in workspace.journals(root))
    for name in sorted({line["uri"] for lines in opened for line in lines}):
        address = given if given and redact(given) == name else name
        file = sqlite.file(name) if name.startswith("sqlite") else root / sqlite.NAME
        if "***" in address:
            print(f"{name} needs its credentials: give the whole address in MLFLOW_TRACKING_URI", file=sys.stderr)
        elif (not name or name.startswith("sqlite")) and not file.exists():
            print(f"{file} is not there; what is recorded for it waits", file=sys.stderr)
        else:
            try:
                yield tracking.connect(address or None, str(root))
            except ThawError as error:
                print(error, file=sys.stderr)


def main() -> int:
    """`make sync`: send what is pending, and say how much that was; status 1 if something is left."""
    parser = argparse.ArgumentParser(prog="make sync", description=__doc__)
    parser.add_argument(
        "--store", type=workspace.place, default=ROOT / "mlruns", help="folder that runs leave their files in"
    )
    root, left = parser.parse_args().store, 0
    try:
        workspace.existing(root)
    except ThawError as error:
        print(error, file=sys.stderr)
        return 1
    for store in stores(root):
        counts = send_pending(store, root)
        left += counts.pending
        where = store.name or f"{root}/mlflow.db"
        why = f" ({counts.reason})" if counts.reason else ""
        print(f"{where}: {counts.sent} lines sent, {counts.pending} pending{why}")
    return int(left > 0)


if __name__ == "__main__":
    sys.exit(main())
