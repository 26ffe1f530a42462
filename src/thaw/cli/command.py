"""What all commands share: options, the tracking store, exit statuses, and errors in one sentence."""

import argparse
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from thaw.cli import environment, terminal
from thaw.config.explain import explain
from thaw.errors import user_message
from thaw.workspace import DEFAULT

if TYPE_CHECKING:
    from thaw.tracking.store import Store


def run(work: Callable[[], int]) -> int:
    """Do the work of a command; its exit status.

    An error that the user can fix is one sentence and status 1; Ctrl-C is status 130.
    """
    environment.prepare()
    try:
        with terminal.logging_to(lambda record: print(record.getMessage(), file=sys.stderr)):
            return work()
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        message = user_message(error) or explain(error)
        if message is None:
            raise
        print(message, file=sys.stderr)
        return 1


def add_store(parser: argparse.ArgumentParser) -> None:
    """Add --store."""
    parser.add_argument(
        "--store", type=lambda path: Path(path).expanduser(), default=DEFAULT, help="folder of recorded runs"
    )


def add_tracking(parser: argparse.ArgumentParser) -> None:
    """Add --uri and --store."""
    default = os.environ.get("MLFLOW_TRACKING_URI")
    parser.add_argument("--uri", default=default, help="MLflow tracking URI (MLFLOW_TRACKING_URI)")
    add_store(parser)


def connect(uri: str | None, root: Path) -> "Store | None":
    """The tracking store; None if it is unreachable, which has been reported."""
    from thaw.tracking.store import connect

    store = connect(uri, root)
    return None if store.unreachable else store


def store_option(root: Path) -> str:
    """` --store DIR` for commands that are shown to the user; empty for the checkout's own store."""
    return "" if root.resolve() == DEFAULT.resolve() else f" --store {shlex.quote(str(root))}"


def ui_command(root: Path) -> str:
    """The command that shows a store in MLflow."""
    return f"python -m thaw.cli.ui{store_option(root)}" if store_option(root) else "make ui"
