"""The end of a command: outcomes of its runs, the parent's results, what is pending, pages in MLflow.

Each run leaves an `outcome.json` in its folder of the launch, so the runs of other processes count as well.
"""

import contextlib
from dataclasses import dataclass, field
from pathlib import Path

from thaw.durations import duration
from thaw.locks import is_locked, locked
from thaw.runs.outcome import Outcome
from thaw.sweeps.parent import OpenSweep, Sweep
from thaw.tracking import journal
from thaw.tracking.markdown import table
from thaw.tracking.names import NOTE, TEST, VALIDATION
from thaw.tracking.pages import name_champion, sweep_pages
from thaw.tracking.sent import Sent
from thaw.tracking.store import Store
from thaw.tracking.sync import SyncResult, send_pending
from thaw.workspace import Workspace


@dataclass(frozen=True)
class Summary:
    """How a command ended.

    Attributes:
        workspace: of its store.
        outcomes: of its runs, in order.
        pending: what could not be sent to MLflow.
        complete: whether every run finished.
        varied: the swept keys.
        missing: how many runs did not start, and of how many.
        printed: the folder with what jobs printed, if it is kept.
        pages: titles and addresses of pages in MLflow.
        experiment: in MLflow.
    """

    workspace: Workspace
    outcomes: list[Outcome]
    pending: SyncResult
    complete: bool = True
    varied: list[str] = field(default_factory=list)
    missing: tuple[int, int] | None = None
    printed: Path | None = None
    pages: dict[str, str] = field(default_factory=dict)
    experiment: str = ""


def outcomes(sweep: Sweep) -> list[Outcome]:
    """The outcomes of a sweep's runs, in order; one that left none is lost."""
    folders = sorted((each for each in Path(sweep.launch).iterdir() if each.name.isdigit()), key=lambda f: int(f.name))
    return [Outcome.read(folder) or Outcome(folder.name, "LOST", {}) for folder in folders]


def best_first(outcomes: list[Outcome]) -> list[tuple[int, Outcome]]:
    """The runs with their numbers, by validation accuracy; those that did not finish last."""
    scores = {id(each): -1.0 if each.val_accuracy is None else each.val_accuracy for each in outcomes}
    return sorted(enumerate(outcomes, 1), key=lambda each: -scores[id(each[1])])


def rows(outcomes: list[Outcome], varied: list[str]) -> tuple[list[str], list[list[str]]]:
    """Headings, and a row for each run: swept values, accuracies, wall time; best first."""
    unfinished = any(each.status != "FINISHED" for each in outcomes)
    headings = ["#", *varied, "validation accuracy", "test accuracy", "wall time", *["status"] * unfinished]
    lines = []
    for number, each in best_first(outcomes):
        numbers = ["–", "–", "–"]
        if each.val_accuracy is not None and each.test_accuracy is not None and each.wall_seconds is not None:
            numbers = [f"{each.val_accuracy:.4f}", f"{each.test_accuracy:.4f}", duration(each.wall_seconds)]
        chosen = [each.choices.get(key, "") for key in varied]
        lines.append([str(number), *chosen, *numbers, *[each.status] * unfinished])
    return headings, lines


def close_sweep(opened: OpenSweep) -> Summary:
    """End a sweep: record its parent's results, send what is pending, and remove the folders of finished commands."""
    sweep, store = opened.sweep, opened.store
    found = outcomes(sweep)
    finished = [each for each in found if each.status == "FINISHED"]
    complete = len(finished) == len(found) and len(found) == (sweep.total or len(found))
    place, launch = Path(sweep.place), Path(sweep.launch)
    workspace = Workspace.of(place)
    _end_parent(sweep, found, complete)
    opened.lock.release()
    printed = launch / "slurm" if found and not complete and (launch / "slurm").is_dir() else None
    for line in journal.read(place):  # this launch, and earlier ones that were killed
        before = workspace.launch(line.get("launch", sweep.launch))
        keep = printed is not None and before.name == launch.name
        if before.is_dir() and not keep and not is_locked(before):
            workspace.remove_launch(before)
    pending, sent, pages, experiment = send_pending(store, workspace.root), Sent.of(place), {}, ""
    if finished and sent.run and sent.experiment:
        experiment = next(line for line in reversed(journal.read(place)) if line["kind"] == "open")["experiment"]
        pages = sweep_pages(store, sent.experiment, sent.run, sweep.varied)
        _name_champion(store, sent.experiment)
    missing = (sweep.total - len(found), sweep.total) if sweep.total and len(found) < sweep.total else None
    return Summary(workspace, found, pending, complete, sweep.varied, missing, printed, pages, experiment)


def close_run(outcome: Outcome, store: Store, root: Path) -> Summary:
    """End a single run: send what is pending, and find its page."""
    workspace, pages = Workspace(root), {}
    pending, sent = send_pending(store, root), Sent.of(Path(outcome.place or ""))
    if sent.run and sent.experiment:
        pages = {"run": store.run_page(sent.experiment, sent.run)}
        _name_champion(store, sent.experiment)
    return Summary(workspace, [outcome], pending, pages=pages)


def _name_champion(store: Store, experiment: str) -> None:
    with contextlib.suppress(Exception):  # an alias for the best model is not worth failing for
        name_champion(store, experiment)


def _end_parent(sweep: Sweep, found: list[Outcome], complete: bool) -> None:
    """Record the results of a sweep's runs with their parent."""
    place = Path(sweep.place)
    finished = [each for _, each in best_first(found) if each.status == "FINISHED"]
    with locked(place):
        reason = "; ".join(f"{each.name}: {each.error or each.status}" for each in found if each not in finished)
        *_, opening = (line for line in journal.read(place) if line["kind"] == "open")
        about = "\n\n".join([table(*rows(found, sweep.varied)), opening["tags"][NOTE]])
        journal.append(place, "tags", values={NOTE: about})
        numbers: dict[str, float | None] = {"runs": len(found), "finished_runs": len(finished)}
        if finished and finished[0].val_accuracy is not None:  # the rate finder has none
            numbers |= {VALIDATION: finished[0].val_accuracy, TEST: finished[0].test_accuracy}
        journal.append(place, "metrics", values=numbers, step=0)
        journal.append(place, "end", status="FINISHED" if complete else "FAILED", reason=reason, outcome={})
