"""What a command shows at its end: a table of what its runs came to, pages in MLflow, what is pending, room taken.

Each run leaves an `outcome.json` in its folder of the launch. The table is made of these files, so that it also shows
the runs of other processes, and those that failed.
"""

import contextlib
import shlex
import shutil
from pathlib import Path

from filelock import FileLock
from rich.console import Console
from rich.table import Table

from thaw import delivery, durable, journal, room, tracking
from thaw.config import Config
from thaw.job import Outcome
from thaw.sweep import Sweep


def outcomes(sweep: Sweep) -> list[Outcome]:
    """What the runs came to, in the order of their numbers; one that vanished counts as lost."""
    folders = sorted((each for each in Path(sweep.launch).iterdir() if each.name.isdigit()), key=lambda f: int(f.name))
    found = []
    for folder in folders:
        found.append(Outcome.left(folder) or Outcome(folder.name, "LOST", {}))
    return found


def rows(outcomes: list[Outcome], varied: list[str]) -> tuple[list[str], list[list[str]]]:
    """Headings, and a line for each run: what varied, accuracies, seconds; best first, then those that failed."""
    unfinished = any(each.status != "FINISHED" for each in outcomes)
    headings = ["#", *varied, "validation accuracy", "test accuracy", "seconds", *["status"] * unfinished]
    lines = []
    for number, each in sorted(enumerate(outcomes, 1), key=lambda each: -(each[1].test_accuracy or -1.0)):
        numbers = ["–", "–", "–"]
        if each.status == "FINISHED":
            numbers = [f"{each.val_accuracy:.4f}", f"{each.test_accuracy:.4f}", f"{each.seconds:.1f}"]
        chosen = [each.choices.get(key, "") for key in varied]
        lines.append([str(number), *chosen, *numbers, *[each.status] * unfinished])
    return headings, lines


def table(outcomes: list[Outcome], varied: list[str]) -> Table:
    """The same for the terminal."""
    headings, lines = rows(outcomes, varied)
    shown = Table(title=f"{len(outcomes)} runs", title_justify="left", header_style="bold")
    for number, heading in enumerate(headings):
        text = 0 < number <= len(varied) or heading == "status"
        shown.add_column(heading, justify="left" if text else "right", overflow="fold" if text else "ellipsis")
    for line in lines:
        shown.add_row(*line)
    return shown


def close(sweep: Sweep, store: tracking.Store, lock: FileLock, console: Console) -> bool:
    """Show what the sweep came to and end its parent; whether every run finished."""
    found = outcomes(sweep)
    finished = [each for each in found if each.status == "FINISHED"]
    complete = len(finished) == len(found) and len(found) == (sweep.total or len(found))
    place, root = Path(sweep.place), Path(sweep.place).parents[1]
    with durable.claimed(place, lambda: None):
        reason = "; ".join(f"{each.name}: {each.error or each.status}" for each in found if each not in finished)
        *_, opening = (line for line in journal.read(place) if line["kind"] == "open")
        about = "\n\n".join([opening["tags"][tracking.NOTE], tracking.markdown(*rows(found, sweep.varied))])
        journal.append(place, "tags", values={tracking.NOTE: about})
        journal.append(place, "end", status="FINISHED" if complete else "FAILED", reason=reason, outcome={})
    lock.release()
    printed = Path(sweep.launch, "slurm")
    asked_for = bool(found) and not complete and printed.is_dir()
    for line in journal.read(place):  # this launch, and those before it that were killed
        launch = Path(line.get("launch", sweep.launch))
        keep = asked_for and launch.resolve() == Path(sweep.launch).resolve()
        if launch.is_dir() and not keep and not durable.is_claimed(launch):
            shutil.rmtree(launch, ignore_errors=True)
    if found:
        console.print(table(found, sweep.varied))
    for number, each in enumerate(found, 1):
        if each.error:
            console.print(f"{number} {each.name} {each.status}: {each.error}", soft_wrap=True, markup=False)
    if sweep.total and len(found) < sweep.total:
        console.print(f"{sweep.total - len(found)} of {sweep.total} runs did not start.")
    if asked_for:
        console.print(
            f"What the jobs printed is in {printed} until the same command completes the sweep.", markup=False
        )
    pending = delivery.sync(store, root)
    sent = delivery.Sent.of(place)
    if found and sent.run:
        console.print("Side by side in MLflow (start it with make ui):")
        for title, page in store.pages(sent.experiment, sent.run).items():
            console.print(f"  {title}: {page}", soft_wrap=True, highlight=False)
        console.print(f"Intervals and tests: python compare.py {shlex.quote(opening['experiment'])}", soft_wrap=True)
    _tell(pending, root, console)
    return complete


def finish(outcome: Outcome, config: Config, console: Console) -> None:
    """Show what a run that is no part of a sweep came to."""
    store, root = tracking.connect(config.tracking.uri, config.store, config.experiment), Path(config.store)
    console.print(
        f"Test accuracy {outcome.test_accuracy:.4f}, validation accuracy {outcome.val_accuracy:.4f}, "
        f"{outcome.seconds:.1f} s"
    )
    pending = delivery.sync(store, root)
    sent = delivery.Sent.of(Path(outcome.place))
    if sent.run:
        console.print(f"In MLflow (start it with make ui): {store.run_page(sent.experiment, sent.run)}")
    _tell(pending, root, console)


def _tell(pending: delivery.Synced, root: Path, console: Console) -> None:
    for launch in root.glob("launches/*"):
        with contextlib.suppress(OSError):  # it is not empty: a sweep's, which has its own end
            launch.rmdir()
    if pending.pending:
        why = f" ({pending.reason})" if pending.reason else ""
        told = f"{pending.pending} lines of {pending.runs} journals wait to be sent to MLflow{why}"
        console.print(f"{told}; the next command or make sync sends them.", markup=False)
    console.print(f"[dim]{room.told(root)}[/dim]")
