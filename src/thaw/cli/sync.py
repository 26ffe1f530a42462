"""`make sync`: send pending journal lines to MLflow, and mark the runs of dead processes as KILLED."""

import argparse
import sys

from thaw.cli import command
from thaw.workspace import Workspace


def main() -> int:
    """Print how many lines were sent; status 1 if some are pending."""
    parser = argparse.ArgumentParser(prog="make sync", description=__doc__)
    command.add_store(parser)
    root = parser.parse_args().store
    return command.run(lambda: _sync(Workspace(root).open()))


def _sync(workspace: Workspace) -> int:
    from thaw.tracking.sync import send_pending, stores

    pending = 0
    for store in stores(workspace.root):
        result = send_pending(store, workspace.root)
        pending += result.pending
        why = f" ({result.reason})" if result.reason else ""
        print(f"{store.name or workspace.database}: {result.sent} lines sent, {result.pending} pending{why}")
    return int(pending > 0)


if __name__ == "__main__":
    sys.exit(main())
