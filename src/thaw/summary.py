"""What a command shows at its end: a table of what its runs came to, pages in MLflow, what is pending, disk usage.

Each run leaves an `outcome.json` in its folder of the launch. The table is made of these files, so that it also shows
the runs of other processes, and those that failed.
"""

import contextlib
import shlex
from pathlib import Path

from filelock import FileLock
from rich.table import Table
from rich.text import Text

from thaw import delivery, durable, journal, room, sync, tracking, views, workspace
from thaw.cli.terminal import Display, link
from thaw.composition import ROOT
from thaw.config import Config
from thaw.job import Outcome
from thaw.sweep import Sweep
from thaw.times import duration


def outcomes(sweep: Sweep) -> list[Outcome]:
    """What the runs came to, in the order of their numbers; one that vanished counts as lost."""
    folders = sorted((each for each in Path(sweep.launch).iterdir() if each.name.isdigit()), key=lambda f: int(f.name))
    return [Outcome.left(folder) or Outcome(folder.name, "LOST", {}) for folder in folders]


def best_first(outcomes: list[Outcome]) -> list[tuple[int, Outcome]]:
    """The runs with their numbers, by validation accuracy; those that did not finish last."""
    scores = {id(each): -1.0 if each.val_accuracy is None else each.val_accuracy for each in outcomes}
    return sorted(enumerate(outcomes, 1), key=lambda each: -scores[id(each[1])])


def rows(outcomes: list[Outcome], varied: list[str]) -> tuple[list[str], list[list[str]]]:
    """Headings, and a line for each run: what varied, accuracies, wall time; best first."""
    unfinished = any(each.status != "FINISHED" for each in outcomes)
    headings = ["#", *varied, "validation accuracy", "test accuracy", "wall time", *["status"] * unfinished]
    lines = []
    for number, each in best_first(outcomes):
        numbers = ["–", "–", "–"]
        if each.status == "FINISHED":
            numbers = [f"{each.val_accuracy:.4f}", f"{each.test_accuracy:.4f}", duration(each.wall_seconds)]
        chosen = [each.choices.get(key, "") for key in varied]
        lines.append([str(number), *chosen, *numbers, *[each.status] * unfinished])
    return headings, lines


def table(outcomes: list[Outcome], varied: list[str]) -> Table:
    """The same for the terminal."""
    headings, lines = rows(outcomes, varied)
    title = f"{len(outcomes)} run{'s' * (len(outcomes) != 1)}, best validation accuracy first"
    shown = Table(title=title, title_justify="left", header_style="bold")
    for number, heading in enumerate(headings):
        text = 0 < number <= len(varied) or heading == "status"
        shown.add_column(Text(heading), justify="left" if text else "right", overflow="fold" if text else "ellipsis")
    for line in lines:
        shown.add_row(*map(Text, line))
    return shown


def close(sweep: Sweep, store: tracking.Store, lock: FileLock, display: Display) -> bool:
    """Show what the sweep came to and end its parent; whether every run finished."""
    display.stop()
    console = display.console
    found = outcomes(sweep)
    finished = [each for each in found if each.status == "FINISHED"]
    complete = len(finished) == len(found) and len(found) == (sweep.total or len(found))
    place, root = Path(sweep.place), Path(sweep.place).parents[1]
    _end_parent(sweep, found, complete)
    lock.release()
    printed = Path(sweep.launch, "slurm")
    asked_for = bool(found) and not complete and printed.is_dir()
    for line in journal.read(place):  # this launch, and those before it that were killed
        launch = workspace.launch(root, line.get("launch", sweep.launch))
        keep = asked_for and launch.name == Path(sweep.launch).name
        if launch.is_dir() and not keep and not durable.is_claimed(launch):
            workspace.remove_launch(launch)
    if found:
        console.print(table(found, sweep.varied))
    for number, each in enumerate(found, 1):
        if each.error:
            console.print(f"{number} {each.name} {each.status}: {each.error}")
    for note in dict.fromkeys(each.note for each in found if each.note):
        console.print(f"{note}: {', '.join(each.name for each in found if each.note == note)}.")
    if sweep.total and len(found) < sweep.total:
        console.print(f"{sweep.total - len(found)} of {sweep.total} runs did not start.")
    if asked_for:
        console.print(f"What the jobs printed is in {printed} until the same command completes the sweep.")
    pending = sync.send_pending(store, root)
    sent = delivery.Sent.of(place)
    if finished and sent.run:
        opening = next(line for line in reversed(journal.read(place)) if line["kind"] == "open")
        console.print(f"Side by side in MLflow (start it with {_ui(root)}):")
        for title, page in views.pages(store, sent.experiment, sent.run, sweep.varied).items():
            console.print(link(console, f"  {title}", page))
        console.print(f"Intervals and tests: python compare.py {shlex.quote(opening['experiment'])}{_store(root)}")
        with contextlib.suppress(Exception):  # a name for the best model is not worth failing for
            views.name_champion(store, sent.experiment)
    _report(pending, root, display)
    return complete


def _end_parent(sweep: Sweep, found: list[Outcome], complete: bool) -> None:
    """Record with the parent what its runs came to."""
    place = Path(sweep.place)
    finished = [each for _, each in best_first(found) if each.status == "FINISHED"]
    with durable.claimed(place, lambda: None):
        reason = "; ".join(f"{each.name}: {each.error or each.status}" for each in found if each not in finished)
        *_, opening = (line for line in journal.read(place) if line["kind"] == "open")
        about = "\n\n".join([tracking.markdown(*rows(found, sweep.varied)), opening["tags"][tracking.NOTE]])
        journal.append(place, "tags", values={tracking.NOTE: about})
        numbers = {"runs": len(found), "finished_runs": len(finished)}
        if finished:
            numbers |= {"kept_val_accuracy": finished[0].val_accuracy, "test_accuracy": finished[0].test_accuracy}
        journal.append(place, "metrics", values=numbers, step=0)
        journal.append(place, "end", status="FINISHED" if complete else "FAILED", reason=reason, outcome={})


def finish(outcome: Outcome, config: Config, display: Display) -> None:
    """Show where a run that is no part of a sweep is recorded."""
    display.stop()
    store, root = tracking.connect(config.tracking.uri, config.store, config.experiment), Path(config.store)
    if outcome.note:
        display.console.print(f"{outcome.note}.")
    pending = sync.send_pending(store, root)
    sent = delivery.Sent.of(Path(outcome.place))
    if sent.run:
        page = store.run_page(sent.experiment, sent.run)
        display.console.print(link(display.console, f"In MLflow (start it with {_ui(root)})", page))
        with contextlib.suppress(Exception):
            views.name_champion(store, sent.experiment)
    _report(pending, root, display)


def _store(root: Path) -> str:
    """The option of other commands for that store; nothing for the checkout's own."""
    return "" if root.resolve() == (ROOT / "mlruns").resolve() else f" --store {shlex.quote(str(root))}"


def _ui(root: Path) -> str:
    """The command that shows that store in MLflow."""
    return f"python -m thaw.ui{_store(root)}" if _store(root) else "make ui"


def _report(pending: sync.Synced, root: Path, display: Display) -> None:
    for launch in root.glob("launches/*"):
        with contextlib.suppress(OSError):  # it is not empty: a sweep's, which has its own end
            launch.rmdir()
    if pending.pending:
        why = f" ({pending.reason})" if pending.reason else ""
        display.console.print(
            f"{pending.runs} runs have {pending.pending} entries not yet sent to MLflow{why}; the next command or "
            "make sync sends them."
        )
    display.console.print(Text(f"Store: {room.usage(root)}", style="dim"))
