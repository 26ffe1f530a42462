"""`make scale`: what recording costs with many writers, what finding costs among many runs, what claiming costs.

The figures in docs/scale.md are made with it. Another record than SQLite is given by its address:
make scale args="--uri http://127.0.0.1:5000".
"""

import argparse
import multiprocessing
import os
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from mlflow.entities import Dataset, DatasetInput, Metric, Param
from rich.console import Console
from rich.progress import track
from rich.table import Table

from thaw.analysis import comparison
from thaw.analysis.text import print_comparison
from thaw.locks import locked
from thaw.tracking import journal, sync
from thaw.tracking.names import BEST_FIRST
from thaw.tracking.sender import sending
from thaw.tracking.store import connect
from thaw.workspace import Workspace

EPOCHS, PACE = 20, 0.25  # epochs of a run, and seconds that each trains
METRICS = ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "learning_rate", "stage", "epoch_seconds")


def main() -> None:
    """Measure, and print a table for each of the three; claims come first, before there are threads."""
    parser = argparse.ArgumentParser(prog="make scale", description=__doc__)
    parser.add_argument("--uri", help="of the record that is written to (SQLite in a folder of its own)")
    parser.add_argument("--writers", type=_numbers, default=[1, 8], help="how many at a time (1,8)")
    parser.add_argument("--runs", type=_numbers, default=[1000, 10000], help="that are recorded already")
    parser.add_argument("--claimers", type=_numbers, default=[1, 8, 64], help="how many want one folder (1,8,64)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lines = [_claiming(count, folder / f"claims-{count}") for count in arguments.claimers]
        show("Claims on one folder", ["claimers", "ms until half had it", "ms until all had it"], lines)
        lines = [_writing(arguments.uri, count, folder / f"writers-{count}") for count in arguments.writers]
        show("Recording", ["writers", "ms an epoch", "worst epoch, ms", "ms to begin", "ms to end"], lines)
        lines = [_finding(count, folder / f"runs-{count}") for count in arguments.runs]
        show(
            "Among recorded runs",
            ["runs", "end of a command, s", "find one, ms", "best 50, ms", "compare.py, s", "database, MB"],
            lines,
        )


def show(title: str, headings: list[str], lines: list[list[float]]) -> None:
    """Print a table, if there is anything in it."""
    if not lines:
        return
    table = Table(*headings, title=title)
    for line in lines:
        table.add_row(*(f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.2g}" for value in line))
    Console().print(table)


def _writing(uri: str | None, count: int, folder: Path) -> list[float]:
    """Runs of `EPOCHS` paced epochs that record at the same time; what training waits for it."""
    found = _at_once(write_one, count, uri, folder)
    epochs = [each for epochs, _, _ in found for each in epochs]
    begins, ends = ([each[part] for each in found] for part in (1, 2))
    middle = [statistics.median(each) for each in (epochs, begins, ends)]
    return [count, 1000 * middle[0], 1000 * max(epochs), 1000 * middle[1], 1000 * middle[2]]


def write_one(
    number: int, begin: Callable, uri: str | None, folder: Path, pace: float = PACE
) -> tuple[list[float], float, float]:
    """One run as `train.py` records it; the seconds of each epoch's record, of the beginning and of the end."""
    place = folder / "runs" / f"run-{number}"
    place.mkdir(parents=True)
    store = connect(uri, str(folder), "scale")  # once in a process, whatever it trains
    begin()
    clock = Clock()
    with (
        sending(place, store),
        journal.Record(
            place, uri=store.name, experiment="scale", name=f"run {number}", parent=None, tags={"thaw.kind": "run"}
        ) as record,
    ):
        record.params({f"with.key{each}": "value" for each in range(60)})
        opened, epochs = clock.lap(), []
        for epoch in range(EPOCHS):
            time.sleep(pace)
            clock.lap()
            record.metrics({key: random.random() for key in METRICS}, epoch)
            epochs.append(clock.lap())
        for each in ("config.yaml", "manifest.csv", "predictions.csv", "learning_curves.png", "confusion.png"):
            (record.files / each).write_bytes(os.urandom(40_000))
        record.artifacts(record.files)
        record.metrics({"test_accuracy": random.random()})
    return epochs, opened, clock.lap()


def _finding(count: int, folder: Path) -> list[float]:
    """A record of so many runs in SQLite; what the commands ask of it."""
    store = connect(None, str(folder), "scale")
    experiment = store.experiment("scale")
    for number in track(range(count), f"{count:,} runs"):
        params = {
            "backbone": random.choice("abcdef"),
            "unfreeze": random.choice(["0", "10", "20", "30"]),
            "fraction": random.choice(["1", "10", "100"]),
            "seed": str(number),
            **{f"with.key{each}": "value" for each in range(45)},
        }
        tags = {"thaw.kind": "run", "thaw.journal": f"run-{number}", "thaw.command": "python train.py"}
        run = store.client.create_run(experiment, tags=tags, run_name=f"run {number}").info.run_id
        cost = ("training_seconds", "trainable_parameters", "images_per_second")
        scores = ("test_accuracy", "test_loss", *cost, *METRICS)
        metrics = [Metric(key, random.random(), 0, 0) for key in scores]
        store.client.log_batch(run, metrics, [Param(*each) for each in params.items()])
        store.client.log_inputs(run, [DatasetInput(Dataset("pictures", "abc", "local", "{}"), [])])
        store.client.set_terminated(run)
    write_one(0, lambda: None, None, folder, pace=0)
    for number in range(1, count):
        shutil.copytree(folder / "runs" / "run-0", folder / "runs" / f"run-{number}")
    clock = Clock()
    sync.send_pending(store, folder)
    Workspace(folder).usage()
    end = clock.lap()
    store.client.search_runs([experiment], "tags.`thaw.journal` = 'run-7'")
    one = clock.lap()
    store.client.search_runs([experiment], "attributes.status = 'FINISHED'", max_results=50, order_by=BEST_FIRST)
    best = clock.lap()
    found = comparison.compare(store, "scale", "test_accuracy", ["backbone", "unfreeze", "fraction"], [])
    with open(os.devnull, "w") as nowhere:
        print_comparison(found, Console(file=nowhere))
    return [count, end, 1000 * one, 1000 * best, clock.lap(), (folder / "mlflow.db").stat().st_size / 1e6]


def _claiming(count: int, folder: Path) -> list[float]:
    """Processes that all want one folder, for a hundredth of a second each."""
    waited = _at_once(claim, count, folder, start="fork")
    return [count, 1000 * statistics.median(waited), 1000 * max(waited)]


def claim(number: int, begin: Callable, folder: Path) -> float:
    """The seconds until it was this process's turn."""
    begin()
    clock = Clock()
    with locked(folder, lambda: None):
        waited = clock.lap()
        time.sleep(0.01)
    return waited


class Clock:
    """Seconds since it was last looked at."""

    def __init__(self):
        self.last = time.perf_counter()

    def lap(self) -> float:
        """Look at it."""
        last, self.last = self.last, time.perf_counter()
        return self.last - last


def _at_once(work: Callable, count: int, *arguments: object, start: str = "spawn") -> list:
    """What that many processes return that begin at the same moment."""
    context = multiprocessing.get_context(start)
    barrier, results = context.Barrier(count), context.Queue()
    processes = [
        context.Process(target=_one, args=(work, number, barrier, results, arguments)) for number in range(count)
    ]
    for process in processes:
        process.start()
    found = [results.get(timeout=600) for _ in processes]
    for process in processes:
        process.join()
    return found


def _one(work: Callable, number: int, barrier, results, arguments: tuple) -> None:
    results.put(work(number, barrier.wait, *arguments))


def _numbers(text: str) -> list[int]:
    return [int(each) for each in text.split(",") if each]


if __name__ == "__main__":
    main()
