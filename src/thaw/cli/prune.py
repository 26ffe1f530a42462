"""`make prune`: report disk usage, and delete what no finished or interrupted run needs."""

import argparse
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from thaw.cli import command, terminal
from thaw.files import readable_size, size_of
from thaw.locks import is_locked
from thaw.tracking import journal
from thaw.workspace import Workspace


def main() -> int:
    """Print what is deleted, and the disk usage before and after."""
    parser = argparse.ArgumentParser(prog="make prune", description=__doc__)
    command.add_store(parser)
    root = parser.parse_args().store
    return command.run(lambda: _prune(Workspace(root).open()))


def _prune(workspace: Workspace) -> int:
    console = terminal.console(soft_wrap=True)
    console.print(workspace.usage())
    for what, size in prune(workspace):
        console.print(f"Removed {readable_size(size)}: {what}" if size else f"Nothing to remove: {what}")
    console.print(workspace.usage())
    return 0


def prune(workspace: Workspace) -> Iterator[tuple[str, int]]:
    """Delete what no finished or interrupted run needs; yields what that was, and how many bytes.

    Needed are the stages of recorded runs, and the features that were used since the earliest interrupted run began.
    Runs that were deleted in MLflow are not needed, if MLflow answers.
    """
    from thaw.array_store import remove_unused

    yield "runs deleted in MLflow", sum(map(_remove, _deleted(workspace)))
    launches = [each for each in workspace.launch_folders() if not is_locked(each)]
    yield "folders of commands that were killed", sum(map(_remove, launches))
    lines = {folder: journal.read(folder) for folder in workspace.run_folders()}
    needed = {
        value
        for journaled in lines.values()
        for line in journaled
        if line["kind"] == "tags"
        for value in line["values"].values()
    }
    stages = [each for each in workspace.stage_folders() if each.name.partition("-")[0] not in needed]
    yield "stages of no run", sum(_remove(each) for each in stages if not is_locked(each))
    begun = [
        max(line["time"] for line in journaled if line["kind"] == "open")
        for journaled in lines.values()
        if journaled and journaled[-1].get("status") != "FINISHED"
    ]
    yield "activations that no interrupted run has used", remove_unused(workspace.activations, min(begun, default=None))


def _deleted(workspace: Workspace) -> Iterator[Path]:
    from thaw.tracking import sync
    from thaw.tracking.sent import Sent

    for store in sync.stores(workspace.root):
        for folder in workspace.run_folders():
            is_there = [line["uri"] for line in journal.read(folder)[:1]] == [store.name]
            run = Sent.of(folder).run
            if is_there and run and store.state(run) == "deleted" and not is_locked(folder):
                yield folder


def _remove(path: Path) -> int:
    size = size_of(path)
    shutil.rmtree(path, ignore_errors=True)
    return size


if __name__ == "__main__":
    sys.exit(main())
