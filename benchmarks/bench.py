"""`make bench`: Thaw's sweep against the plain loop and against the floor, each a command of its own, as ratios.

Plain loop, Thaw and floor take turns, several times; the table shows medians. What the machine does besides then weighs
on all three alike.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import chart
from cases import CASES, Case
from rich.progress import Progress

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
RESULTS = ROOT / "experiments" / "results"
PARTS = ("plain", "thaw", "again", "another", "floor")


def main() -> None:
    """Measure, and write `bench.json`, `bench.md` and `bench.png`."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--repeats", type=int, default=3, help="how often each case is measured")
    parser.add_argument("--cases", default=",".join(CASES), help="which to measure")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, Progress() as progress:
        for name in arguments.cases.split(","):
            for case in CASES[name](Path(folder)):
                keep(name, case.name, measure(case, arguments.repeats, Path(folder), progress))
    chart.write(RESULTS)


def measure(case: Case, repeats: int, folder: Path, progress: Progress) -> dict:
    """Seconds of each part in turn, peak memory in GB of plain loop and Thaw, and the phases of Thaw's last sweep."""
    seconds: dict[str, list[float]] = {part: [] for part in PARTS}
    peaks: dict[str, list[float]] = {part: [] for part in PARTS}
    task = progress.add_task(case.name, total=len(PARTS) * repeats)
    one_more = (
        {"depths": (max(case.depths) + 10,)}
        if any(case.depths)
        else {"head_rates": (2e-3,), "hidden": (0,), "seeds": (0,)}
    )
    for _ in range(repeats):
        place = Path(tempfile.mkdtemp(dir=folder))
        commands = {
            "plain": [str(HERE / "plain.py"), case.text, str(place / "plain")],
            "thaw": [str(HERE / "phases.py"), str(place / "phases.json"), *sweep(case, place / "store")],
            "again": [str(ROOT / "train.py"), *sweep(case, place / "store")],
            "another": [str(ROOT / "train.py"), *sweep(replace(case, **one_more), place / "store")],
            "floor": [str(HERE / "floor.py"), case.text],
        }
        for part, command in commands.items():
            taken, peak = timed(command)
            seconds[part].append(taken)
            peaks[part].append(peak)
            progress.advance(task)
        phases = json.loads((place / "phases.json").read_text())
        shutil.rmtree(place)
    memory = {f"{part} GB": statistics.median(peaks[part]) for part in ("plain", "thaw")}
    phases["start"] = seconds["thaw"][-1] - sum(phases[part] for part in phases if part != "start")  # Python's as well
    medians = {part: statistics.median(each) for part, each in seconds.items()}
    return {**medians, **memory, "repeats": repeats, "phases": phases}


def timed(command: list[str]) -> tuple[float, float]:
    """The seconds and the peak memory in GB of a Python command."""
    environment = {**os.environ, "PYTHONPATH": f"{HERE}:{ROOT}", "TF_CPP_MIN_LOG_LEVEL": "3"}
    with tempfile.TemporaryFile() as output:
        began = time.perf_counter()
        process = subprocess.Popen([sys.executable, *command], stdout=output, stderr=output, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        taken = time.perf_counter() - began
        if process.returncode:
            output.seek(0)
            raise RuntimeError(f"{command} failed:\n{output.read().decode()}")
    return taken, usage.ru_maxrss * 1024 / 1e9


def sweep(case: Case, store: Path) -> list[str]:
    """The arguments of Thaw's own command."""

    def listed(values: tuple) -> str:
        return ",".join(map(str, values))

    return [
        "-m",
        f"backbone={case.backbone}",
        *([f"backbone.alpha={case.alpha}"] if case.alpha else []),
        "weights=file",
        f"weights.path={case.weights}",
        "dataset=folder",
        f"dataset.path={case.photographs}",
        f"dataset.image_size={case.size}",
        f"augmentation={case.augmentation}",
        f"unfreeze={listed(case.depths)}",
        f"training.finetune.learning_rate={listed(case.rates)}",
        f"training.head.learning_rate={listed(case.head_rates)}",
        f"head.hidden={listed(case.hidden)}",
        f"seed={listed(case.seeds)}",
        f"training.head.epochs={case.epochs}",
        f"training.finetune.epochs={case.epochs}",
        f"store={store}",
    ]


def keep(group: str, name: str, result: dict) -> None:
    """Put a result in place of an older one for the same case."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / "bench.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    results.setdefault(group, {})[name] = json.loads(json.dumps(result), parse_float=lambda text: round(float(text), 2))
    path.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
