"""`compare.py`: the runs of an experiment side by side, with intervals and tests. Never imports TensorFlow."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from thaw.cli import command, terminal
from thaw.tracking.names import VALIDATION
from thaw.workspace import ROOT

if TYPE_CHECKING:
    from thaw.analysis.comparison import Comparison
    from thaw.analysis.html import Mistake
    from thaw.tracking.store import Store

WORST, THUMBNAIL = 12, 160  # test images on the page, and their longer side in px


def main() -> int:
    """Print the comparison; with --out write the report, with --notebook the note."""
    return command.run(lambda: _compare(_arguments()))


def _compare(arguments: argparse.Namespace) -> int:
    from thaw.analysis.comparison import compare
    from thaw.analysis.text import print_comparison

    console = terminal.console(soft_wrap=True)
    store = command.connect(arguments.uri, arguments.store)
    if store is None:
        return 1
    found = compare(
        store, arguments.experiment, arguments.metric, arguments.by, arguments.runs, arguments.against
    )  # fmt: skip
    print_comparison(found, console)
    if arguments.out or arguments.notebook:
        from thaw.analysis import html
    if arguments.out:
        worst, why_none = _worst(found, store)
        console.print(f"Written: {html.write_report(found, store, arguments.out, worst, why_none)}")
    if arguments.notebook:
        console.print(f"Written: {html.write_note(found, store, ROOT / 'experiments' / 'results')}")
    return 0


def _worst(found: "Comparison", store: "Store") -> tuple[list["Mistake"], str]:
    """The test images that the best run got most wrong, and why there are none."""
    from thaw.analysis.html import Mistake
    from thaw.data.sources.archive import is_downloaded
    from thaw.errors import one_line
    from thaw.modalities.images.decode import photograph
    from thaw.serving import selection

    run = store.client.get_run(found.variants[0].runs[0].id)
    try:
        dataset = selection.recorded_config(store, run).dataset
        if dataset.source == "tfds":
            return [], ""  # needs TensorFlow
        if dataset.source == "archive" and not is_downloaded(dataset.url or "", dataset.sha256):
            return [], f"they are not here; python predict.py --run {run.info.run_id} --worst 12 downloads them"
        worst = selection.worst(store, run, WORST)
        return [
            Mistake(
                photograph(picture.source, THUMBNAIL),
                ", ".join(said.true_classes) or "no class",
                ", ".join(said.predicted_classes) or "no class",
                said.of_truth,
            )
            for picture, said in worst
            if said.truth != said.predicted
        ], ""
    except Exception as error:  # the page does not fail for an old run, or one whose files or images are lost
        return [], one_line(error)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="compare.py", description="Compare the runs of an experiment.")
    parser.add_argument("experiment", nargs="?", help="its name in MLflow (default: that of the newest run)")
    parser.add_argument(
        "--metric", default=VALIDATION, help="orders the runs (default: %(default)s, with the test beside it)"
    )
    parser.add_argument("--by", type=_names, default=[], help="parameters to group runs by (default: all that vary)")
    parser.add_argument("--against", metavar="KEY=VALUE", help="test the others against this choice: unfreeze=0")
    parser.add_argument("--runs", nargs="+", default=[], metavar="ID", help="compare these runs only")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write report.html and its charts there")
    parser.add_argument("--notebook", action="store_true", help="write experiments/results/EXPERIMENT.md and charts")
    command.add_tracking(parser)
    return parser.parse_args()


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]
