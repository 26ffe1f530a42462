"""Whether MLflow has what it seemed to take: a proxy may have answered in its place, or a server lost what it had."""

from dataclasses import replace
from pathlib import Path

from mlflow.entities import FileInfo
from mlflow.exceptions import MlflowException

from thaw.tracking import journal
from thaw.tracking.names import JOURNAL
from thaw.tracking.sent import Sent, refused
from thaw.tracking.store import Store


def verify(lines: list[dict], folder: Path, sent: Sent, store: Store) -> None:
    """Verify that a server has what these lines recorded; a proxy may have answered in its place.

    Raises:
        ConnectionError: it does not; all lines are sent again.
    """
    client, skipped = store.client, refused(folder)
    wanted: dict[str, set] = {"params": set(), "tags": set()}
    steps: dict[str, set[int]] = {}
    there = True
    for number, line in enumerate(lines):
        if number in skipped:
            continue
        if line["kind"] in wanted:
            wanted[line["kind"]] |= set(line["values"])
        elif line["kind"] == "metrics":
            for key in line["values"]:
                steps.setdefault(key, set()).add(line["step"])
        elif line["kind"] == "artifacts":
            there &= names(line, folder) <= _listed(client.list_artifacts(sent.run, line["below"]))
        elif line["kind"] == "model" and names(line, folder):
            models = client.search_logged_models([sent.experiment], f"source_run_id = '{sent.run}'")
            sent_files = [each for model in models for each in client.list_logged_model_artifacts(model.model_id)]
            there &= names(line, folder) <= _listed(sent_files)
    run = client.get_run(sent.run)
    there &= run.info.run_id == sent.run
    there &= wanted["params"] <= set(run.data.params) and wanted["tags"] <= set(run.data.tags)
    there = there and all(
        numbers <= {point.step for point in client.get_metric_history(sent.run, key)} for key, numbers in steps.items()
    )
    if there:
        return
    replace(sent, lines=0, checksum=0).write(folder)
    raise ConnectionError("MLflow has lost lines that it seemed to take; they are sent again")


def answers(folder: Path, sent: Sent, store: Store) -> bool:
    """Whether MLflow itself refuses: the run takes another line or, if it was deleted, its experiment exists."""
    client = store.client
    try:
        if store.state(sent.run) in ("deleted", "missing"):
            return client.get_experiment(sent.experiment).experiment_id == sent.experiment
        client.set_tag(sent.run, JOURNAL, identity(folder))
        return client.get_run(sent.run).data.tags.get(JOURNAL) == identity(folder)
    except MlflowException:
        return False


def identity(folder: Path) -> str:
    """What distinguishes the run of that journal from all others, also from those of an earlier journal there."""
    return f"{folder.name} {journal.read(folder)[0]['time']}"


def sources(line: dict, folder: Path) -> Path:
    """The folder that a line refers to: always directly inside the run's folder, even if the line is damaged."""
    return folder / Path(line["folder"]).name


def names(line: dict, folder: Path) -> set[str]:
    """The names of the files in it; empty if they were already sent and deleted."""
    found = sources(line, folder)
    return {each.name for each in found.iterdir()} if found.is_dir() else set()


def _listed(files: list[FileInfo]) -> set[str]:
    return {Path(each.path).name for each in files}
