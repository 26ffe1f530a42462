"""Journals into MLflow: line by line, again after a failure, and nothing twice.

A run trains on whatever becomes of its tracking server. What could not be sent stays in the journal, and is sent by the
next command, or by `make sync`. A refusal counts once the run takes another line, as it may be a proxy's. What a server
seemed to take is looked up before the run ends there.
"""

import contextlib
import json
import shutil
import sys
import threading
import zlib
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import yaml
from filelock import FileLock
from mlflow.entities import Dataset, DatasetInput, FileInfo, InputTag, LoggedModelOutput, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.models import Model

from thaw import durable, journal, progress
from thaw.errors import redact
from thaw.tracking import Store

# What a server says of a line that it will never take, such as one of a run that was deleted there.
REFUSALS = ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "INVALID_STATE", "BAD_REQUEST")
SENT = "sent.json"  # beside a journal: how far it was sent
REFUSED = "refused.jsonl"  # beside a journal: its lines that MLflow refused, and why


@dataclass
class Sent:
    """How far a journal was sent, and as which run of which experiment in MLflow; None before the first line.

    Attributes:
        lines: how many of its lines were sent.
        run, experiment: their ids.
        checksum: of these lines. If it is another one, they are not what was sent, and all are sent again.
    """

    lines: int = 0
    run: str | None = None
    experiment: str | None = None
    checksum: int = 0

    @staticmethod
    def of(folder: Path) -> "Sent":
        """Of the journal in that folder; nothing where that is lost."""
        try:
            return Sent(**(durable.read_json(folder / SENT) or {}))
        except TypeError:
            return Sent()

    def pending(self, folder: Path) -> int:
        """How many lines are left to send."""
        return len(journal.read(folder)) - self.of_these(journal.raw(folder))

    def of_these(self, lines: list[bytes]) -> int:
        """How many of these lines were sent; none if they are others now, as MLflow takes no line twice."""
        return self.lines if zlib.crc32(b"".join(lines[: self.lines])) == self.checksum else 0


def deliver(folder: Path, store: Store) -> Sent:
    """Send what is left of the journal in `folder`; a line that MLflow refuses is named, noted and passed over.

    Raises:
        Exception: MLflow cannot be reached, cannot write or has lost lines; the lines from there on are left.
    """
    with FileLock(folder / "sending"):
        sent, lines, texts = Sent.of(folder), journal.read(folder), journal.raw(folder)
        if not sent.of_these(texts):
            sent.lines = sent.checksum = 0
        for number in range(sent.lines, len(lines)):
            line = lines[number]
            if reason := _refusal(line, lines[:number], folder, sent, store):
                print(f"MLflow refuses a line of {folder.name}, kept in {REFUSED}: {reason}", file=sys.stderr)
                with (folder / REFUSED).open("a") as file:
                    file.write(json.dumps({"number": number, "reason": reason, "line": line}) + "\n")
            if line["kind"] == "damaged":
                print(f"A line of {folder.name}'s journal is damaged; what it recorded is lost", file=sys.stderr)
            sent.lines, sent.checksum = number + 1, zlib.crc32(texts[number], sent.checksum)
            durable.write_json(folder / SENT, asdict(sent))
        if lines and lines[-1].get("status") == "FINISHED":  # and so no line is left
            for leftover in ("record", "model"):  # MLflow has them now
                shutil.rmtree(folder / leftover, ignore_errors=True)
        return sent


def _send(line: dict, folder: Path, sent: Sent, store: Store) -> None:
    client, run = store.client, sent.run
    match line:
        case {"kind": "open"}:
            _open(line, folder, sent, store)
        case {"kind": "params", "values": values}:
            params = [Param(key, value) for key, value in values.items()]
            for first in range(0, len(params), 100):
                client.log_batch(run, params=params[first : first + 100])
        case {"kind": "metrics", "values": values, "step": step, "time": moment}:
            # One time for all of them: MLflow stores a point that it has already only once.
            client.log_batch(run, metrics=[Metric(key, value, moment, step) for key, value in values.items()])
        case {"kind": "tags", "values": values}:
            client.log_batch(run, tags=[RunTag(key, value) for key, value in values.items()])
        case {"kind": "dataset"}:
            dataset = Dataset(line["name"], line["digest"], "local", line["source"], profile=line["profile"])
            tags = [InputTag("mlflow.data.context", "training"), *(InputTag(*tag) for tag in line["tags"].items())]
            client.log_inputs(run, [DatasetInput(dataset, tags)])
        case {"kind": "artifacts", "below": below}:
            if (files := _files(line, folder)).is_dir():  # else it was sent before the run was opened once more
                client.log_artifacts(run, str(files), below)
        case {"kind": "model"}:
            if (files := _files(line, folder)).is_dir():
                _send_model(files, line.get("register"), sent, store)
        case {"kind": "end", "status": status, "reason": reason, "time": moment}:
            for another in set(_made(folder, sent, store)) - {run}:
                client.delete_run(another)
            if reason:
                client.set_tag(run, "thaw.error", reason[:4000])
            client.set_terminated(run, status, moment)
            if not store.artifacts and client.get_run(run).info.status != status:
                raise ConnectionError("MLflow has not noted that the run ended; it is told again")


def _refusal(line: dict, before: list[dict], folder: Path, sent: Sent, store: Store) -> str:
    """Send a line; why MLflow refuses it, twice and answering for itself in between, or nothing."""
    for _ in range(2):
        try:
            if line["kind"] == "end" and not store.artifacts:
                _look_up(before, folder, sent, store)
            _send(line, folder, sent, store)
            return ""
        except MlflowException as error:
            if line["kind"] == "open" or error.error_code not in REFUSALS or not _answers(folder, sent, store):
                raise  # without its run, no line could arrive
            reason = redact(error.message)
    return reason


def _answers(folder: Path, sent: Sent, store: Store) -> bool:
    """Whether it is MLflow that refuses: the run takes another line or, if it was deleted, its experiment is there."""
    client = store.client
    try:
        if store.state(sent.run) in ("deleted", "missing"):
            return client.get_experiment(sent.experiment).experiment_id == sent.experiment
        client.set_tag(sent.run, "thaw.journal", _mark(folder))
        return client.get_run(sent.run).data.tags.get("thaw.journal") == _mark(folder)
    except MlflowException:
        return False


def _look_up(lines: list[dict], folder: Path, sent: Sent, store: Store) -> None:
    """Make sure that a server has what these lines record, in the face of what lies between.

    Raises:
        ConnectionError: it has not; all lines are sent again.
    """
    refused = set()
    with contextlib.suppress(FileNotFoundError):
        refused = {json.loads(line)["number"] for line in (folder / REFUSED).read_text().splitlines()}
    client = store.client
    wanted: dict[str, set] = {"params": set(), "tags": set()}
    steps: dict[str, set[int]] = {}
    there = True
    for number, line in enumerate(lines):
        if number in refused:
            continue
        if line["kind"] in wanted:
            wanted[line["kind"]] |= set(line["values"])
        elif line["kind"] == "metrics":
            for key in line["values"]:
                steps.setdefault(key, set()).add(line["step"])
        elif line["kind"] == "artifacts":
            there &= _names(line, folder) <= _listed(client.list_artifacts(sent.run, line["below"]))
        elif line["kind"] == "model" and _names(line, folder):
            models = client.search_logged_models([sent.experiment], f"source_run_id = '{sent.run}'")
            files = [each for model in models for each in client.list_logged_model_artifacts(model.model_id)]
            there &= _names(line, folder) <= _listed(files)
    run = client.get_run(sent.run)
    there &= run.info.run_id == sent.run
    there &= wanted["params"] <= set(run.data.params) and wanted["tags"] <= set(run.data.tags)
    there = there and all(
        numbers <= {point.step for point in client.get_metric_history(sent.run, key)} for key, numbers in steps.items()
    )
    if there:
        return
    durable.write_json(folder / SENT, asdict(replace(sent, lines=0, checksum=0)))
    raise ConnectionError("MLflow has lost lines that it seemed to take; they are sent again")


def _files(line: dict, folder: Path) -> Path:
    """The folder in the run's own of which a line speaks, whatever else a damaged one may say."""
    return folder / Path(line["folder"]).name


def _names(line: dict, folder: Path) -> set[str]:
    """What lies in it; nothing where it was sent before the run was opened once more."""
    files = _files(line, folder)
    return {each.name for each in files.iterdir()} if files.is_dir() else set()


def _listed(files: list[FileInfo]) -> set[str]:
    return {Path(each.path).name for each in files}


def _open(line: dict, folder: Path, sent: Sent, store: Store) -> None:
    """Make the run in MLflow, or have it run again."""
    client = store.client
    if sent.run is None:
        sent.experiment = _known(store.experiment(line["experiment"]), "experiment")
        # A process may have died, or a slow server have seemed dead, between making a run and noting which.
        made = _made(folder, sent, store)
        if made:
            sent.run = made[0]
    if sent.run is None:
        tags = {"mlflow.source.name": "train.py", "mlflow.source.type": "LOCAL", "thaw.journal": _mark(folder)}
        if line["parent"]:
            tags["mlflow.parentRunId"] = deliver(folder.parents[1] / "sweeps" / Path(line["parent"]).name, store).run
        made = client.create_run(sent.experiment, line.get("began", line["time"]), tags | line["tags"], line["name"])
        sent.run = _known(made.info.run_id, "run")
        return
    client.update_run(sent.run, status="RUNNING", name=line["name"])
    client.log_batch(sent.run, tags=[RunTag(key, value) for key, value in line["tags"].items()])
    if "thaw.error" in client.get_run(sent.run).data.tags:
        client.delete_tag(sent.run, "thaw.error")


def _known(identity: str, what: str) -> str:
    """The id, if it is one: what a proxy makes up has none."""
    if not identity:
        raise ConnectionError(f"MLflow answers with no id for the {what}")
    return identity


def _mark(folder: Path) -> str:
    """What tells the run of that journal from all others, also from those of a journal that was there before."""
    return f"{folder.name} {journal.read(folder)[0]['time']}"


def _made(folder: Path, sent: Sent, store: Store) -> list[str]:
    """The runs that were made for that journal: one, or more where a server was too slow to say that it made one."""
    found = store.client.search_runs([sent.experiment], f"tags.`thaw.journal` = '{_mark(folder)}'")
    return [run.info.run_id for run in found]


def _send_model(folder: Path, register: str | None, sent: Sent, store: Store) -> None:
    """Send a model as `mlflow.models.Model.log` does, which itself works in the run's own process only."""
    client = store.client
    made = client.search_logged_models([sent.experiment], f"source_run_id = '{sent.run}'")
    model = made[0] if made else client.create_logged_model(sent.experiment, "model", sent.run, model_type="keras")
    # `Model.load` would decode a % in the path.
    described = Model.from_dict(yaml.safe_load((folder / "MLmodel").read_text(encoding="utf-8")))
    described.run_id, described.model_id, described.model_uuid = sent.run, model.model_id, model.model_id
    described.artifact_path = model.artifact_location
    described.save(str(folder / "MLmodel"))
    client.log_model_artifacts(model.model_id, str(folder))
    client.finalize_logged_model(model.model_id, "READY")
    outputs = client.get_run(sent.run).outputs
    if not (outputs and outputs.model_outputs):
        client.log_outputs(sent.run, [LoggedModelOutput(model.model_id, 0)])
    if register and not client.search_model_versions(f"run_id = '{sent.run}'"):
        if not client.search_registered_models(f"name = '{register}'"):
            with contextlib.suppress(MlflowException):  # another process has just made it
                client.create_registered_model(register)
        client.create_model_version(register, model.artifact_location, sent.run, model_id=model.model_id)


class Sender(threading.Thread):
    """Sends a journal while its run trains, in a thread of its own, so that training never waits for MLflow.

    As a context it ends after one more attempt to send the rest; what takes longer than `PATIENCE` goes on by itself.
    """

    POLL, LONGEST_PAUSE, PATIENCE = 0.2, 30.0, 10.0  # seconds

    def __init__(self, folder: Path, store: Store):
        super().__init__(daemon=True)
        self.folder, self.store, self.closing = folder, store, threading.Event()

    def __enter__(self) -> "Sender":
        self.start()
        return self

    def __exit__(self, *_) -> None:
        self.closing.set()
        self.join(self.PATIENCE)

    def run(self) -> None:
        seen, pause = -1, self.POLL
        while True:
            last = self.closing.wait(pause)
            path = self.folder / journal.NAME
            size = path.stat().st_size if path.exists() else 0
            try:
                if size != seen:
                    deliver(self.folder, self.store)
                seen, pause = size, self.POLL
            except Exception:  # whatever it is, training goes on, and the journal says at the end what is pending
                pause = min(2 * max(pause, 0.5), self.LONGEST_PAUSE)
            if last:
                return


def is_deleted(folder: Path, store: Store) -> bool:
    """Whether the run that the journal in `folder` was sent as was deleted in MLflow since."""
    sent = Sent.of(folder)
    return bool(sent.run) and not store.away and store.state(sent.run) in ("deleted", "missing")


def forget_deleted(folder: Path, store: Store) -> None:
    """Begin the journal in `folder`, which this process has claimed, anew if it is lost or its run was deleted."""
    path = folder / journal.NAME
    if journal.is_lost(folder):
        durable.set_aside(path)
        progress.reporter().say(f"{path} is damaged and set aside; what it held is recorded again, as another run")
    elif not is_deleted(folder, store):
        return
    with FileLock(folder / "sending"):
        for name in (journal.NAME, SENT, REFUSED):
            (folder / name).unlink(missing_ok=True)
