"""What a recorded model says of pictures: python predict.py IMAGE|DIR|GLOB ... [--run ID | --experiment NAME]

TensorFlow is imported late, so that --help and refusals are quick.
"""

import argparse
import json
import os
import sys
from pathlib import Path

from thaw import decoding, progress, workspace
from thaw.cli import terminal
from thaw.composition import ROOT
from thaw.errors import ThawError, sentence

DRAWN = Path("prediction.png")  # without --out


def main() -> int:
    """Classify, print, and draw; status 1 if a file could not be read."""
    arguments = parse()
    from thaw import prediction, runtime, tracking

    console = terminal.console(soft_wrap=True)
    try:
        store = tracking.connect(arguments.uri, str(arguments.store))
        if store.away:
            return 1
        run = prediction.choose(store, arguments.run, arguments.experiment)
        if arguments.worst:
            asked = [picture for picture, _ in prediction.worst(store, run, arguments.worst)]
        elif arguments.split:
            asked = prediction.drawn(store, run, arguments.split, arguments.class_name, arguments.count, arguments.seed)
        else:
            asked = prediction.files(arguments.pictures)
        if not arguments.out and not arguments.json:
            for path in (DRAWN, *Path().glob(f"{DRAWN.stem}-[0-9]*.png")):
                decoding.check_replaceable(path)
        if arguments.out and arguments.out.resolve() in [Path(each.name).resolve() for each in asked]:
            raise ThawError(f"--out {arguments.out} is one of the pictures; give another file")
        runtime.start(runtime.share_of_cores({}))
        from thaw import classifier
        from thaw.plots import predictions

        validation = run.data.metrics.get("kept_val_accuracy")
        score = f" (validation accuracy {validation:.3f})" if validation is not None else ""
        print(f"Using run {run.info.run_name}, {run.info.run_id}{score}", file=sys.stderr)
        with (
            terminal.Display(terminal.console(stderr=True)) as display,
            progress.reporting_to(display),
        ):
            model = classifier.load(store, run)
            answers, unreadable = classifier.classify(model, asked, arguments.top, arguments.explain)
        for answer in answers:
            print(json.dumps(answer.line(), ensure_ascii=False) if arguments.json else answer.summary, flush=True)
        summary = right(answers)
        if summary and not arguments.json:
            print(summary, file=sys.stderr)
        if arguments.worst and not arguments.json:
            for words in prediction.confused(store, run):
                console.print(words)
        if answers and not (arguments.json and arguments.out is None):
            drawn = predictions.save_pages(predictions.pages(answers, summary), arguments.out or DRAWN)
            more = f" (the first {predictions.MOST})" if len(answers) > predictions.MOST else ""
            print(f"Drawn: {', '.join(map(str, drawn))}{more}", file=sys.stderr)
        for words in unreadable:
            print(words, file=sys.stderr)
        return int(bool(unreadable))
    except Exception as error:
        told = sentence(error)
        if told is None:
            raise
        print(told, file=sys.stderr)
        return 1


def right(answers: list) -> str:
    """How many answers are right, in words; nothing where nobody knows."""
    known = [answer for answer in answers if answer.truth is not None]
    correct = sum(answer.truth == answer.top[0][0] for answer in known)
    return f"{correct} of {len(known)} right" if known else ""


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="predict.py", description="What a recorded model says of pictures.")
    parser.add_argument("pictures", nargs="*", help="files, folders or patterns such as 'photos/*.jpg'")
    parser.add_argument("--run", metavar="ID", help="whose model (default: the best finished run)")
    parser.add_argument("--experiment", help="the best finished run of this one (default: the newest)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="where to draw (default: prediction.png)")
    parser.add_argument("--explain", action="store_true", help="show where the model looked (Grad-CAM)")
    parser.add_argument("--top", type=int, default=3, help="how many classes to name (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="one line of JSON for each picture")
    parser.add_argument("--split", choices=["train", "validation", "test"], help="draw from the run's own dataset")
    parser.add_argument("--class", dest="class_name", help="with --split: of this class only")
    parser.add_argument("--count", type=int, default=9, help="with --split: how many (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="with --split: of the draw (default: %(default)s)")
    parser.add_argument("--worst", type=int, metavar="N", help="the test images that the run got most wrong")
    parser.add_argument("--uri", default=os.environ.get("MLFLOW_TRACKING_URI"), help="of MLflow (MLFLOW_TRACKING_URI)")
    parser.add_argument(
        "--store", type=workspace.place, default=ROOT / "mlruns", help="folder that runs leave their files in"
    )
    arguments = parser.parse_args()
    if min(arguments.top, arguments.count, 1 if arguments.worst is None else arguments.worst) < 1:
        parser.error("--top, --count and --worst take numbers from 1 up")
    if arguments.seed < 0:
        parser.error("--seed takes a number from 0 up")
    if arguments.class_name and not arguments.split:
        parser.error("--class belongs to --split: predict.py --split test --class NAME")
    if arguments.out and arguments.out.suffix.lower() not in (".png", ".jpg", ".jpeg", ".pdf", ".svg"):
        parser.error(f"--out {arguments.out} is no picture; give a name that ends in .png, .jpg, .pdf or .svg")
    if arguments.out and not arguments.out.parent.is_dir():
        parser.error(f"--out {arguments.out} lies in no folder; make {arguments.out.parent} first")
    if not (arguments.pictures or arguments.split or arguments.worst):
        parser.error("give pictures, or --split test, or --worst 12")
    return arguments


if __name__ == "__main__":
    sys.exit(main())
