"""Replays journals to MLflow in order, with retries, idempotently.

Training never depends on the tracking server. What could not be sent stays in the journal and is sent by the next
command, or by `make sync`. A rejection counts only if the run accepts another line, as a proxy may have rejected it.
Before a run ends, everything that a server seemed to accept is verified.
"""

import contextlib
import logging
import shutil
import zlib
from pathlib import Path

import yaml
from filelock import FileLock
from mlflow.entities import Dataset, DatasetInput, InputTag, LoggedModelOutput, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.models import Model

from thaw import files
from thaw.errors import one_line, redact
from thaw.tracking import journal
from thaw.tracking.names import ERROR, JOURNAL, PARENT
from thaw.tracking.sent import REFUSED, SENT, Sent, refuse
from thaw.tracking.store import Store
from thaw.tracking.verification import answers, identity, sources, verify
from thaw.workspace import Workspace

# Error codes of a line that a server will never take, such as one of a run that was deleted there.
REFUSALS = ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "INVALID_STATE", "BAD_REQUEST")
logger = logging.getLogger(__name__)


def deliver(folder: Path, store: Store) -> Sent:
    """Send the rest of the journal in `folder`; a line that MLflow refuses is reported, kept aside and skipped.

    Raises:
        Exception: MLflow is unreachable, cannot write or has lost lines; the lines from there on are pending.
    """
    with FileLock(folder / "sending"):
        sent, lines, texts = Sent.of(folder), journal.read(folder), journal.raw(folder)
        if not sent.of_these(texts):
            sent.lines = sent.checksum = 0
        for number in range(sent.lines, len(lines)):
            line = lines[number]
            if reason := _refusal(line, lines[:number], folder, sent, store):
                logger.warning(f"MLflow refuses a line of {folder.name}, kept in {REFUSED}: {reason}")
                refuse(folder, number, line, reason)
            if line["kind"] == "damaged":
                logger.warning(f"A line of {folder.name}'s journal is damaged; what it recorded is lost")
            sent.lines, sent.checksum = number + 1, zlib.crc32(texts[number], sent.checksum)
            sent.write(folder)
        if lines and lines[-1].get("status") == "FINISHED":  # so no line is pending
            for leftover in (journal.FILES, journal.MODEL):  # MLflow has them now
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
            # The same time for all: MLflow stores a point that it knows only once.
            client.log_batch(run, metrics=[Metric(key, value, moment, step) for key, value in values.items()])
        case {"kind": "tags", "values": values}:
            client.log_batch(run, tags=[RunTag(key, value) for key, value in values.items()])
        case {"kind": "dataset"}:
            dataset = Dataset(line["name"], line["digest"], "local", line["source"], profile=line["profile"])
            tags = [InputTag("mlflow.data.context", "training"), *(InputTag(*tag) for tag in line["tags"].items())]
            client.log_inputs(run, [DatasetInput(dataset, tags)])
        case {"kind": "figures"}:
            if (folder / journal.FILES).is_dir():  # else they were sent before the run was opened again
                _draw(line, folder / journal.FILES)
        case {"kind": "artifacts", "below": below}:
            if (found := sources(line, folder)).is_dir():  # else it was sent before the run was opened again
                client.log_artifacts(run, str(found), below)
        case {"kind": "model"}:
            if (model := sources(line, folder)).is_dir():
                _send_model(model, line.get("register"), sent, store)
        case {"kind": "end", "status": status, "reason": reason, "time": moment}:
            for another in set(_created(folder, sent, store)) - {run}:
                client.delete_run(another)
            if reason:
                client.set_tag(run, ERROR, reason[:4000])
            client.set_terminated(run, status, moment)
            if not store.artifacts and client.get_run(run).info.status != status:
                raise ConnectionError("MLflow has not recorded the end of the run; it is sent again")


def _draw(line: dict, folder: Path) -> None:
    """Draw the figures of a run into the folder of its files; what else it recorded does not wait for them."""
    from thaw.plots.training import draw_run

    try:
        draw_run(folder, **{key: line[key] for key in journal.KINDS["figures"]})
    except OSError:  # the disk is full: they are drawn when there is room
        raise
    except Exception as error:
        logger.warning(f"The figures of {folder.parent.name} cannot be drawn: {one_line(error)}")


def _refusal(line: dict, before: list[dict], folder: Path, sent: Sent, store: Store) -> str:
    """Send a line; returns why MLflow rejected it (twice, and not a proxy in its place), or an empty string."""
    for _ in range(2):
        try:
            if line["kind"] == "end" and not store.artifacts:
                verify(before, folder, sent, store)
            _send(line, folder, sent, store)
            return ""
        except MlflowException as error:
            if line["kind"] == "open" or error.error_code not in REFUSALS or not answers(folder, sent, store):
                raise  # no line can be sent without the run
            reason = redact(error.message)
    return reason


def _open(line: dict, folder: Path, sent: Sent, store: Store) -> None:
    """Create the run in MLflow, or reopen it."""
    client = store.client
    if not sent.run:
        sent.experiment = _known(store.experiment(line["experiment"]), "experiment")
        # A process may have died, or a slow server have seemed dead, between creating a run and recording its id.
        created = _created(folder, sent, store)
        if created:
            sent.run = created[0]
    if not sent.run:
        tags = {"mlflow.source.name": "train.py", "mlflow.source.type": "LOCAL", JOURNAL: identity(folder)}
        if line["parent"]:
            tags[PARENT] = deliver(Workspace.of(folder).sweep_folder(line["parent"]), store).run
        run = client.create_run(sent.experiment, line.get("began", line["time"]), tags | line["tags"], line["name"])
        sent.run = _known(run.info.run_id, "run")
        return
    client.update_run(sent.run, status="RUNNING", name=line["name"])
    client.log_batch(sent.run, tags=[RunTag(key, value) for key, value in line["tags"].items()])
    if ERROR in client.get_run(sent.run).data.tags:
        client.delete_tag(sent.run, ERROR)


def _known(identity: str, what: str) -> str:
    """The id; an answer that a proxy makes up has none."""
    if not identity:
        raise ConnectionError(f"MLflow answers with no id for the {what}")
    return identity


def _created(folder: Path, sent: Sent, store: Store) -> list[str]:
    """The runs that were created for that journal: more than one if a server was too slow to confirm the first."""
    found = store.client.search_runs([sent.experiment], f"tags.`{JOURNAL}` = '{identity(folder)}'")
    return [run.info.run_id for run in found]


def _send_model(folder: Path, register: str | None, sent: Sent, store: Store) -> None:
    """Log a model as `mlflow.models.Model.log` does, which only works in the process of the run."""
    client = store.client
    known = client.search_logged_models([sent.experiment], f"source_run_id = '{sent.run}'")
    model = known[0] if known else client.create_logged_model(sent.experiment, "model", sent.run, model_type="keras")
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
            with contextlib.suppress(MlflowException):  # another process has just created it
                client.create_registered_model(register)
        client.create_model_version(register, model.artifact_location, sent.run, model_id=model.model_id)


def is_deleted(folder: Path, store: Store) -> bool:
    """Whether the run that the journal in `folder` was sent as has been deleted in MLflow."""
    sent = Sent.of(folder)
    return bool(sent.run) and not store.unreachable and store.state(sent.run) in ("deleted", "missing")


def forget_deleted(folder: Path, store: Store) -> None:
    """Start the journal in `folder` again if it is lost or its run was deleted; this process holds the lock."""
    path = folder / journal.NAME
    if journal.is_lost(folder):
        files.set_aside(path)
        logger.warning(f"{path} is damaged and set aside; its run is recorded again")
    elif not is_deleted(folder, store):
        return
    with FileLock(folder / "sending"):
        for name in (journal.NAME, SENT, REFUSED):
            (folder / name).unlink(missing_ok=True)
