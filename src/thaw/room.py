"""`make prune`: how much room the store takes, and what of it no finished or interrupted run needs."""

import argparse
import contextlib
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from filelock import Timeout

from thaw import durable, journal, workspace
from thaw.cli import terminal
from thaw.composition import ROOT
from thaw.errors import ThawError


def usage(root: Path) -> str:
    """How much the store holds, and of what, the most first."""
    taken = {each.name: _bytes(each) for each in root.iterdir()}
    most = sorted(taken.items(), key=lambda each: -each[1])[:3]
    return f"{root} holds {_size(sum(taken.values()))}: " + ", ".join(f"{name} {_size(size)}" for name, size in most)


def prune(root: Path) -> Iterator[tuple[str, int]]:
    """Remove what no finished or interrupted run needs; for each kind of thing what it was, and how many bytes.

    Needed are the stages that a run is made of, and the activations that were used since the earliest interrupted run
    began. Runs that were deleted in MLflow are no longer needed, if MLflow can be asked.
    """
    yield "runs deleted in MLflow", sum(map(_remove, _deleted(root)))
    launches = [each for each in root.glob("launches/*") if each.is_dir() and not durable.is_claimed(each)]
    yield "folders of commands that were killed", sum(map(_remove, launches))
    lines = {folder: journal.read(folder) for folder in workspace.runs(root)}
    needed = {
        value
        for journaled in lines.values()
        for line in journaled
        if line["kind"] == "tags"
        for value in line["values"].values()
    }
    stages = [each for each in root.glob("stages/*") if each.is_dir() and each.name.partition("-")[0] not in needed]
    yield "stages of no run", sum(_remove(each) for each in stages if not durable.is_claimed(each))
    begun = [
        max(line["time"] for line in journaled if line["kind"] == "open")
        for journaled in lines.values()
        if journaled and journaled[-1].get("status") != "FINISHED"
    ]
    yield "activations that no interrupted run has used", sum(_unused(root / "activations", min(begun, default=None)))


def _deleted(root: Path) -> Iterator[Path]:
    from thaw import delivery, sync

    for store in sync.stores(root):
        for folder in workspace.runs(root):
            of_it = [line["uri"] for line in journal.read(folder)[:1]] == [store.name]
            run = delivery.Sent.of(folder).run
            if of_it and run and store.state(run) == "deleted" and not durable.is_claimed(folder):
                yield folder


def _unused(folder: Path, since: int | None) -> Iterator[int]:
    """Remove entries last used before `since` (ms; None: all), but none that is read or written; their bytes."""
    for entry in sorted(folder.glob("*")):
        if entry.name == "locks":
            continue
        lock = durable.read_write_lock(folder / "locks" / f"{entry.stem}.db")
        try:
            with lock.write_lock(blocking=False):
                if since is None or entry.stat().st_mtime * 1000 < since:
                    yield _remove(entry)
        except (Timeout, RuntimeError, FileNotFoundError):  # in use, or another process has just finished or removed it
            continue


def _remove(path: Path) -> int:
    size = _bytes(path)
    shutil.rmtree(path, ignore_errors=True)
    return size


def _bytes(path: Path) -> int:
    """The size of a file, or of all files below a folder."""
    below = (os.path.join(folder, name) for folder, _, names in os.walk(path) for name in names)
    total = 0
    for file in [path] if path.is_file() else below:
        with contextlib.suppress(FileNotFoundError):  # another process has just removed it
            total += os.lstat(file).st_size
    return total


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def main() -> int:
    """Say what there is, remove what can go, and say what that was; status 1 for a folder that is no store."""
    parser = argparse.ArgumentParser(prog="make prune", description=__doc__)
    parser.add_argument(
        "--store", type=workspace.place, default=ROOT / "mlruns", help="folder that runs leave their files in"
    )
    root, console = parser.parse_args().store, terminal.console(soft_wrap=True)
    try:
        workspace.existing(root)
    except ThawError as error:
        print(error, file=sys.stderr)
        return 1
    console.print(usage(root))
    for what, size in prune(root):
        console.print(f"Removed {_size(size)}: {what}" if size else f"Nothing to remove: {what}")
    console.print(usage(root))
    return 0


if __name__ == "__main__":
    sys.exit(main())
