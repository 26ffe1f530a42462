"""Compare recorded runs: python compare.py [EXPERIMENT] [--against unfreeze=0] [--by backbone,unfreeze] [--out DIR]

Reads MLflow only and never imports TensorFlow. MLflow itself is imported late, so that --help is quick.
"""

import argparse
import os
import sys
from pathlib import Path

from thaw import workspace
from thaw.cli import terminal
from thaw.composition import ROOT
from thaw.errors import sentence


def main() -> int:
    """Print the table and what differs for real; with --out write the report, too."""
    arguments = parse()
    from thaw import comparison, report, tracking

    console = terminal.console(soft_wrap=True)
    try:
        store = tracking.connect(arguments.uri, str(arguments.store))
        if store.away:
            return 1
        found = comparison.compare(
            store, arguments.experiment, arguments.metric, arguments.by, arguments.runs,
            arguments.against,
        )  # fmt: skip
        report.tell(found, console)
        if arguments.out or arguments.notebook:
            from thaw import page
        if arguments.out:
            console.print(f"Written: {page.write(found, store, arguments.out)}")
        if arguments.notebook:
            console.print(f"Written: {page.note(found, store, ROOT / 'experiments' / 'results')}")
    except Exception as error:
        told = sentence(error)
        if told is None:
            raise
        print(told, file=sys.stderr)
        return 1
    return 0


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="compare.py", description="Compare the runs of an experiment.")
    parser.add_argument("experiment", nargs="?", help="its name in MLflow (default: that of the newest run)")
    parser.add_argument(
        "--metric", default="kept_val_accuracy", help="orders the runs (default: %(default)s, with the test beside it)"
    )
    parser.add_argument("--by", type=listed, default=[], help="parameters to tell apart by (default: all that vary)")
    parser.add_argument("--against", metavar="KEY=VALUE", help="test the others against this choice: unfreeze=0")
    parser.add_argument("--runs", nargs="+", default=[], metavar="ID", help="compare these runs only")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write report.html and its charts there")
    parser.add_argument("--notebook", action="store_true", help="write experiments/results/EXPERIMENT.md and charts")
    parser.add_argument("--uri", default=os.environ.get("MLFLOW_TRACKING_URI"), help="of MLflow (MLFLOW_TRACKING_URI)")
    parser.add_argument(
        "--store", type=workspace.place, default=ROOT / "mlruns", help="folder that runs leave their files in"
    )
    return parser.parse_args()


def listed(text: str) -> list[str]:
    """Names with commas between them."""
    return [name for name in text.split(",") if name]


if __name__ == "__main__":
    sys.exit(main())
