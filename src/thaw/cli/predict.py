"""`predict.py`: classify images with a recorded model."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from thaw import drawings, progress, runtime
from thaw.cli import command, terminal
from thaw.errors import ThawError
from thaw.tracking.names import VALIDATION

if TYPE_CHECKING:
    from mlflow.entities import Run

    from thaw.plots.predictions import Classified
    from thaw.serving.selection import Picture
    from thaw.tracking.store import Store

DRAWN = Path("prediction.png")  # without --out


def main() -> int:
    """Classify, print, and draw; status 1 if a file could not be read."""
    return command.run(lambda: _predict(_arguments()))


def _predict(arguments: argparse.Namespace) -> int:
    from thaw.serving import selection

    store = command.connect(arguments.uri, arguments.store)
    if store is None:
        return 1
    run = selection.choose(store, arguments.run, arguments.experiment)
    pictures = _pictures(arguments, store, run)
    _check_drawing(arguments, pictures)
    runtime.start(runtime.share_of_cores({}))
    from thaw.serving import classifier

    validation = run.data.metrics.get(VALIDATION)
    score = f" (validation accuracy {validation:.3f})" if validation is not None else ""
    print(f"Using run {run.info.run_name}, {run.info.run_id}{score}", file=sys.stderr)
    with terminal.Display(terminal.console(stderr=True)) as display, progress.reporting_to(display):
        model = classifier.load(store, run)
        classified, unreadable = classifier.classify(model, pictures, arguments.top, arguments.explain)
    for each in classified:
        print(json.dumps(each.line(), ensure_ascii=False) if arguments.json else each.summary, flush=True)
    summary = count_right(classified)
    if summary and not arguments.json:
        print(summary, file=sys.stderr)
    if arguments.worst and not arguments.json:
        console = terminal.console(soft_wrap=True)
        confused = selection.confused(store, run)
        if confused:
            console.print("Confused most often, of all test images:")
        for words in confused:
            console.print(f"  {words}")
    if classified and not (arguments.json and arguments.out is None):
        _draw(classified, summary, arguments.out or DRAWN)
    for words in unreadable:
        print(words, file=sys.stderr)
    return int(bool(unreadable))


def _pictures(arguments: argparse.Namespace, store: "Store", run: "Run") -> list["Picture"]:
    from thaw.serving import selection

    if arguments.worst:
        return [picture for picture, _ in selection.worst(store, run, arguments.worst)]
    if arguments.split:
        return selection.drawn(store, run, arguments.split, arguments.class_name, arguments.count, arguments.seed)
    return selection.files(arguments.pictures)


def _check_drawing(arguments: argparse.Namespace, pictures: Sequence["Picture"]) -> None:
    """Refuse to draw over a picture, or over a file that Thaw did not draw."""
    if not arguments.out and not arguments.json:
        for path in (DRAWN, *Path().glob(f"{DRAWN.stem}-[0-9]*.png")):
            drawings.check_replaceable(path)
    if arguments.out and arguments.out.resolve() in [Path(each.name).resolve() for each in pictures]:
        raise ThawError(f"--out {arguments.out} is one of the pictures; give another file")


def _draw(classified: Sequence["Classified"], summary: str, path: Path) -> None:
    from thaw.plots import predictions

    paths = predictions.save_pages(predictions.pages(classified, summary), path)
    more = f" (the first {predictions.MOST})" if len(classified) > predictions.MOST else ""
    print(f"Drawn: {', '.join(map(str, paths))}{more}", file=sys.stderr)


def count_right(classified: Sequence["Classified"]) -> str:
    """How many pictures are classified correctly, in words; empty if no true class is known."""
    known = [each.is_right for each in classified if each.is_right is not None]
    return f"{sum(known)} of {len(known)} right" if known else ""


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="predict.py", description="Classify images with a recorded model.")
    parser.add_argument("pictures", nargs="*", help="files, folders or patterns such as 'photos/*.jpg'")
    parser.add_argument("--run", metavar="ID", help="whose model (default: the best finished run)")
    parser.add_argument("--experiment", help="the best finished run of this one (default: the newest)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="where to draw (default: prediction.png)")
    parser.add_argument("--explain", action="store_true", help="show where the model looked (Grad-CAM)")
    parser.add_argument("--top", type=int, default=3, help="how many classes to name (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="one line of JSON for each picture")
    parser.add_argument("--split", choices=["train", "validation", "test"], help="sample from the run's own dataset")
    parser.add_argument("--class", dest="class_name", help="with --split: of this class only")
    parser.add_argument("--count", type=int, default=9, help="with --split: how many (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="with --split: of the draw (default: %(default)s)")
    parser.add_argument("--worst", type=int, metavar="N", help="the test images that the run got most wrong")
    command.add_tracking(parser)
    arguments = parser.parse_args()
    if min(arguments.top, arguments.count, 1 if arguments.worst is None else arguments.worst) < 1:
        parser.error("--top, --count and --worst take numbers from 1 up")
    if arguments.seed < 0:
        parser.error("--seed takes a number from 0 up")
    if arguments.class_name and not arguments.split:
        parser.error("--class belongs to --split: predict.py --split test --class NAME")
    if arguments.out and arguments.out.suffix.lower() not in (".png", ".jpg", ".jpeg", ".pdf", ".svg"):
        parser.error(f"--out {arguments.out} is not an image file; give a name that ends in .png, .jpg, .pdf or .svg")
    if arguments.out and not arguments.out.parent.is_dir():
        parser.error(f"--out {arguments.out}: {arguments.out.parent} does not exist; create it first")
    if not (arguments.pictures or arguments.split or arguments.worst):
        parser.error("give pictures, or --split test, or --worst 12")
    return arguments
