"""`make bench`: Thaw's sweep against the plain loop and against the floor, in one process, as ratios.

Plain loop, Thaw and floor take turns, after a warm-up, several times; the table shows medians. What the machine does
besides then weighs on all three alike.
"""

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import chart
import floor
import keras
import plain
from cases import PRETRAINED, REAL, Case, photographs
from rich.progress import Progress

import train
from thaw import runtime
from thaw.cli import train as command

RESULTS = Path(__file__).resolve().parents[1] / "experiments" / "results"


def main() -> None:
    """Measure, and write `bench.json`, `bench.md` and `bench.png`."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--repeats", type=int, default=3, help="how often each case is measured")
    parser.add_argument("--cases", default="six,augmented,grocery,depths,epochs,images", help="which to measure")
    arguments = parser.parse_args()
    runtime.start(runtime.share_of_cores({}))
    with tempfile.TemporaryDirectory() as folder, Progress() as progress:
        warm_up(Path(folder))
        for name in arguments.cases.split(","):
            for case in CASES[name](Path(folder)):
                result = measure(case, arguments.repeats, Path(folder), progress)
                keep(name, result)
    chart.write(RESULTS)


def six(folder: Path) -> list[Case]:
    """The six runs: two networks, three depths, 225 training, 75 validation and 75 test photographs."""
    pictures = photographs(folder / "six" / "photographs", 225, 75, 75)
    return [
        Case("EfficientNetB0", pictures, "effnetb0", 224),
        Case("Xception", pictures, "xception", 224),
    ]


def augmented(folder: Path) -> list[Case]:
    """The same with `augmentation=standard`."""
    return [replace(case, name=f"{case.name}, augmented", augmentation="standard") for case in six(folder)]


def grocery(folder: Path) -> list[Case]:
    """Real weights on all of the real photographs."""
    if not REAL.is_dir():
        print(f"No photographs and weights at {REAL}: the case grocery is left out.")
        return []
    return [Case("MobileNetV2 0.35, grocery", REAL / "grocery", "mobilenetv2", 160, alpha=0.35, pretrained=PRETRAINED)]


def small(folder: Path, images: int = 225) -> Case:
    """What growth is measured on: a small network at a small size."""
    pictures = photographs(folder / f"small-{images}" / "photographs", images, images // 3, images // 3)
    return Case("small", pictures, "mobilenetv2", 96, (0, 20), alpha=0.35)


def depths(folder: Path) -> list[Case]:
    """One to six depths."""
    every = (0, 10, 20, 30, 40, 50)
    return [replace(small(folder), name=str(count), depths=every[:count]) for count in (1, 2, 4, 6)]


def epochs(folder: Path) -> list[Case]:
    """Five to twenty epochs a stage."""
    return [replace(small(folder), name=str(count), epochs=count) for count in (5, 10, 20)]


def images(folder: Path) -> list[Case]:
    """200 to 2,000 training images."""
    return [replace(small(folder, count), name=str(count)) for count in (200, 600, 2000)]


CASES: dict[str, Callable[[Path], list[Case]]] = {
    "six": six,
    "augmented": augmented,
    "grocery": grocery,
    "depths": depths,
    "epochs": epochs,
    "images": images,
}


def warm_up(folder: Path) -> None:
    """Let TensorFlow, MLflow and the disk do once what they do only once."""
    case = replace(small(folder, 40), epochs=1, depths=(0, 5))
    plain.sweep(case, folder / "warm" / "plain")
    thaw(case, case.depths, folder / "warm" / "store")


def measure(case: Case, repeats: int, folder: Path, progress: Progress) -> dict:
    """Seconds of the plain loop, of Thaw from nothing, of Thaw with one more depth, and of the floor, in turn."""
    taken: dict[str, list[float]] = {"plain": [], "thaw": [], "another": [], "floor": [], "cached": []}
    task = progress.add_task(case.name, total=4 * repeats)
    another = max(case.depths) + 10
    for _ in range(repeats):
        # One of its own, as this process keeps what it opened; without a comma, which Hydra takes for several values.
        place = Path(tempfile.mkdtemp(dir=folder))
        parts = {
            "plain": lambda: plain.sweep(case, place / "plain"),  # noqa: B023
            "thaw": lambda: thaw(case, case.depths, place / "store"),  # noqa: B023
            "another": lambda: thaw(case, (another,), place / "store"),  # noqa: B023
            "floor": lambda: floor.sweep(case),
        }
        for part, work in parts.items():
            keras.backend.clear_session()
            began = time.perf_counter()
            extra = work()
            taken[part].append(time.perf_counter() - began)
            if part == "thaw":
                taken["cached"].append(extra)
            progress.advance(task)
        shutil.rmtree(place)
    return {"case": case.name, **{part: statistics.median(each) for part, each in taken.items()}, "repeats": repeats}


def thaw(case: Case, depths: tuple[int, ...], store: Path) -> float:
    """Thaw's own command; the seconds in it that correspond to the floor: frozen passes and training."""
    arguments = [
        f"backbone={case.backbone}",
        *([f"backbone.alpha={case.alpha}"] if case.alpha else []),
        "weights=file",
        f"weights.path={case.weights}",
        "dataset=folder",
        f"dataset.path={case.photographs}",
        f"dataset.image_size={case.size}",
        f"augmentation={case.augmentation}",
        f"unfreeze={','.join(map(str, depths))}",
        f"training.head.epochs={case.epochs}",
        f"training.finetune.epochs={case.epochs}",
        f"store={store}",
    ]
    sys.argv = ["train.py", "-m", *arguments]
    with floor.timed() as clock:
        status = command.main(train.hydra_job)
    if status:
        raise RuntimeError(f"Thaw's sweep failed: {arguments}")
    return clock.seconds


def keep(name: str, result: dict) -> None:
    """Put a result in place of an older one for the same case."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / "bench.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    results.setdefault(name, {})[result["case"]] = {
        key: round(value, 2) for key, value in result.items() if key != "case"
    }
    path.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
