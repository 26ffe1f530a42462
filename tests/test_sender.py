"""Journals into MLflow, with SQLite and with a real server that goes away."""

import contextlib
import dataclasses
import errno
import http.server
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request

import pytest
import requests
from conftest import ROOT, TINY
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.tracking._tracking_service import utils as mlflow_utils

from thaw import files
from thaw.plots import training
from thaw.tracking import delivery, journal, sync, verification
from thaw.tracking import sender as sender_module
from thaw.tracking.sender import Sender, sending
from thaw.tracking.sent import Sent
from thaw.tracking.store import Store, connect
from thaw.workspace import Workspace


@pytest.fixture
def store(tmp_path):
    return connect(None, str(Workspace(tmp_path / "mlruns").create().root))


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "mlruns" / "runs" / "vgg16-0"


def record(folder, **changes):
    opening = {"uri": "", "experiment": "pets", "name": "vgg16", "parent": None, "tags": {"thaw.kind": "run"}}
    return journal.Record(folder, **opening | changes)


def fill(run):
    """One line of every kind but a model."""
    run.params({f"p{i}": "x" * 100 for i in range(250)})
    run.metrics({"loss": 1.5, "accuracy": 0.5}, 0)
    run.metrics({"loss": 1.0, "accuracy": 0.75}, 1)
    run.tags({"thaw.head": "abc"})
    run.dataset("pets", "0123", "{}", "{}", {"fraction": "100"})
    (run.files / "classes.txt").write_text("cat\ndog\n")
    run.artifacts(run.files)


def test_every_line_arrives(store, folder):
    with sending(folder, store), record(folder) as run:
        fill(run)
    sent = Sent.of(folder)
    assert sent.pending(folder) == 0
    found = store.client.get_run(sent.run)
    assert found.info.status == "FINISHED"
    assert len(found.data.params) == 250
    assert [point.value for point in store.client.get_metric_history(sent.run, "loss")] == [1.5, 1.0]
    assert [used.dataset.name for used in found.inputs.dataset_inputs] == ["pets"]
    assert [each.path for each in store.client.list_artifacts(sent.run)] == ["classes.txt"]
    assert not run.files.exists()


EPOCH = {"loss": 1.0, "accuracy": 0.5, "val_loss": 1.0, "val_accuracy": 0.5}


def test_figures_are_drawn_when_they_are_sent_and_again_if_mlflow_has_lost_them(store, folder):
    with record(folder) as run:
        run.figures(history=[EPOCH], boundaries=[], kept=0, confusion=[(0, 0, 3), (1, 0, 2)], classes=["cat", "dog"])
        run.artifacts(run.files)
    assert not list(run.files.iterdir())
    delivery.deliver(folder, store)
    names = [each.path for each in store.client.list_artifacts(Sent.of(folder).run)]
    assert names == ["confusion_matrix.png", "learning_curves.png"]
    (folder / "sent.json").unlink()
    delivery.deliver(folder, store)
    assert Sent.of(folder).pending(folder) == 0


def test_figures_that_cannot_be_drawn_keep_nothing_else_back(store, folder, caplog):
    with record(folder) as run:
        run.figures(history=[EPOCH], boundaries=[], kept=5, confusion=[], classes=["cat", "dog"])
        run.metrics({"loss": 1.0}, 0)
    delivery.deliver(folder, store)
    assert "cannot be drawn" in caplog.text
    assert store.client.get_run(Sent.of(folder).run).data.metrics == {"loss": 1.0}


def test_a_journal_that_cannot_be_sent_keeps_none_after_it_back(store, folder, monkeypatch):
    deliver = sender_module.deliver

    def broken(place, store):
        if place == folder:
            raise MlflowException("never")
        return deliver(place, store)

    monkeypatch.setattr(sender_module, "deliver", broken)
    sender, later = Sender(store), folder.with_name("vgg16-1")
    for place in (folder, later):
        with record(place) as run:
            sender.send(place)
            run.metrics({"loss": 1.0}, 0)
    sender.close()
    assert Sent.of(folder).pending(folder)
    assert not Sent.of(later).pending(later)


def test_figures_wait_for_room_on_the_disk(store, folder, monkeypatch):
    with record(folder) as run:
        run.figures(history=[EPOCH], boundaries=[], kept=0, confusion=[(0, 0, 3)], classes=["cat"])
        run.artifacts(run.files)

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(training, "save", full)
        with pytest.raises(OSError, match="No space"):
            delivery.deliver(folder, store)
    delivery.deliver(folder, store)
    assert len(store.client.list_artifacts(Sent.of(folder).run)) == 2


def test_sending_again_stores_nothing_twice(store, folder):
    with record(folder) as run:
        fill(run)
    for lines in (0, 1, 5, 0):
        sent = Sent.of(folder)
        sent.lines = lines
        files.write_json(folder / "sent.json", dataclasses.asdict(sent))
        run.files.mkdir(exist_ok=True)
        delivery.deliver(folder, store)
    found = store.client.get_run(Sent.of(folder).run)
    assert len(store.client.search_runs([found.info.experiment_id])) == 1
    assert len(found.inputs.dataset_inputs) == 1
    for key in ("loss", "accuracy"):
        assert len(store.client.get_metric_history(found.info.run_id, key)) == 2


def test_a_process_that_dies_before_it_notes_the_run_makes_no_second_one(store, folder):
    with record(folder) as run:
        run.metrics({"loss": 1.5}, 0)
    delivery.deliver(folder, store)
    (folder / "sent.json").unlink()
    delivery.deliver(folder, store)
    assert len(store.client.search_runs(["1"])) == 1


def test_a_run_that_goes_on_is_running_again_and_has_no_error(store, folder):
    with pytest.raises(ValueError, match="oh"), record(folder):
        raise ValueError("oh")
    delivery.deliver(folder, store)
    run = Sent.of(folder).run
    assert store.client.get_run(run).data.tags["thaw.error"] == "ValueError: oh"
    again = record(folder)
    delivery.deliver(folder, store)
    assert store.client.get_run(run).info.status == "RUNNING"
    assert "thaw.error" not in store.client.get_run(run).data.tags
    with again:
        pass
    delivery.deliver(folder, store)
    assert store.client.get_run(run).info.status == "FINISHED"


def test_children_nest_under_their_parent(store, folder):
    parent = folder.parents[1] / "sweeps" / "s"
    parent.mkdir(parents=True)
    journal.append(parent, "open", uri="", experiment="pets", name="sweep", parent=None, tags={})
    record(folder, parent="sweeps/s")
    delivery.deliver(folder, store)
    child = store.client.get_run(Sent.of(folder).run)
    assert child.data.tags["mlflow.parentRunId"] == Sent.of(parent).run


def test_what_mlflow_refuses_is_told_of_and_passed_over(store, folder, caplog):
    with record(folder) as run:
        run.metrics({"no/such/name?\n": 1.0}, 0)
        run.metrics({"loss": 1.0}, 0)
    delivery.deliver(folder, store)
    assert "MLflow refuses a line of vgg16-0, kept in refused.jsonl" in caplog.text
    assert "no/such/name?" in (folder / "refused.jsonl").read_text()
    found = store.client.get_run(Sent.of(folder).run)
    assert (found.info.status, found.data.metrics) == ("FINISHED", {"loss": 1.0})


def test_a_run_that_was_deleted_in_mlflow_begins_anew(store, folder):
    for _ in range(2):
        delivery.forget_deleted(folder, store)
        with record(folder) as run:
            run.metrics({"loss": 1.0}, 0)
        delivery.deliver(folder, store)
        deleted = Sent.of(folder).run
        store.client.delete_run(deleted)
    assert len(store.client.search_runs(["1"], run_view_type=2)) == 2


def test_lines_that_are_others_than_those_that_were_sent_are_sent_again(store, folder):
    path = folder / journal.NAME

    def merge(text):  # the end of the third line is flipped, so that two lines are one
        place = [index for index, byte in enumerate(text) if byte == 10][2]
        return text[:place] + b"J" + text[place + 1 :]

    for damage in (merge, lambda text: text[: text.index(b"\n", 400) + 1]):
        with record(folder) as run:
            run.metrics({"loss": 1.0}, 0)
            run.metrics({"loss": 0.5}, 1)
        delivery.deliver(folder, store)
        path.write_bytes(damage(path.read_bytes()))
        again = record(folder)
        for epoch in range(4):
            again.metrics({"loss": 1 / (epoch + 1)}, epoch)
        again.end("FINISHED")
        assert Sent.of(folder).pending(folder) == len(journal.read(folder))
        delivery.deliver(folder, store)
        assert Sent.of(folder).pending(folder) == 0
        (found,) = store.client.search_runs(["1"])
        assert found.info.status == "FINISHED"
        assert {point.step for point in store.client.get_metric_history(found.info.run_id, "loss")} == {0, 1, 2, 3}


def test_a_run_that_is_deleted_while_it_trains_refuses_its_lines(store, folder, caplog):
    run = record(folder)
    delivery.deliver(folder, store)
    store.client.delete_run(Sent.of(folder).run)
    run.metrics({"loss": 1.0}, 0)
    run.end("FINISHED")
    delivery.deliver(folder, store)
    assert Sent.of(folder).pending(folder) == 0
    assert caplog.text.count("MLflow refuses a line") == 2


def test_a_journal_that_is_lost_is_begun_anew_and_that_is_said(store, folder):
    with record(folder) as run:
        run.metrics({"loss": 1.0}, 0)
    delivery.deliver(folder, store)
    (folder / journal.NAME).write_text("5\n")
    delivery.forget_deleted(folder, store)
    assert {path.name for path in folder.iterdir()} <= {"journal.jsonl.damaged", "sending", "record"}
    with record(folder) as run:
        run.metrics({"loss": 1.0}, 0)
    delivery.deliver(folder, store)
    assert len(store.client.search_runs(["1"])) == 2


def test_a_run_of_a_dead_process_is_shown_as_killed_and_one_of_a_living_is_not(store, folder, tmp_path):
    program = (
        "import sys, time; from pathlib import Path; from thaw.locks import locked; from thaw.tracking import journal\n"
        "with locked(Path(sys.argv[1])):\n"
        "    journal.Record(Path(sys.argv[1]), uri='', experiment='pets', name='a', parent=None, tags={})\n"
        "    print('open', flush=True); time.sleep(600)"
    )
    process = subprocess.Popen([sys.executable, "-c", program, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "open\n"
    assert sync.send_pending(store, tmp_path / "mlruns").sent == 0
    process.kill()
    process.wait()
    assert sync.send_pending(store, tmp_path / "mlruns").sent == 2
    run = store.client.get_run(Sent.of(folder).run)
    assert run.info.status == "KILLED"
    assert run.data.tags["thaw.error"] == sync.KILLED


def test_a_sweep_that_another_machine_launched_is_ended_by_that_one(store, tmp_path):
    here = tmp_path / "sweeps" / "elsewhere"
    here.mkdir(parents=True)
    journal.append(here, "open", uri=store.name, experiment="pictures", name="sweep", parent=None, tags={})
    (here / journal.ELSEWHERE).touch()
    sync.send_pending(store, tmp_path)
    assert journal.read(here)[-1]["kind"] == "open"
    (here / journal.ELSEWHERE).unlink()
    sync.send_pending(store, tmp_path)
    assert journal.read(here)[-1]["status"] == "KILLED"


def test_training_goes_on_while_mlflow_fails_and_all_arrives_afterwards(store, folder, monkeypatch):
    batches, fail = [], [True]
    log = MlflowClient.log_batch

    def shaky(client, *arguments, **named):
        batches.append(named)
        if fail[0]:
            raise MlflowException("database is locked")
        return log(client, *arguments, **named)

    monkeypatch.setattr(MlflowClient, "log_batch", shaky)
    with sending(folder, store), record(folder) as run:
        run.metrics({"loss": 1.5}, 0)
        while not batches:
            time.sleep(0.01)
        run.metrics({"loss": 1.0}, 1)
        fail[0] = False
    assert len(store.client.get_metric_history(Sent.of(folder).run, "loss")) == 2


def test_a_run_whose_experiment_is_deleted_meanwhile_waits_for_it(store, folder):
    number = store.experiment("pets")
    store.client.delete_experiment(number)
    with record(folder) as run:
        run.metrics({"loss": 1.0}, 0)
    with pytest.raises(MlflowException):
        delivery.deliver(folder, store)
    assert Sent.of(folder).pending(folder) == 3
    store.client.restore_experiment(number)
    delivery.deliver(folder, store)
    assert store.client.get_run(Sent.of(folder).run).data.metrics == {"loss": 1.0}


def test_a_run_that_a_slow_server_made_twice_is_left_once(store, folder):
    run = record(folder)
    twin = store.client.create_run(store.experiment("pets"), tags={"thaw.journal": verification.identity(folder)})
    delivery.deliver(folder, store)
    store.client.create_run("1", tags={"thaw.journal": verification.identity(folder)})
    with run:
        pass
    delivery.deliver(folder, store)
    assert Sent.of(folder).run == twin.info.run_id
    assert [each.info.status for each in store.client.search_runs(["1"])] == ["FINISHED"]


def test_a_database_that_is_gone_is_neither_made_nor_taken_for_empty(store, folder, tmp_path, caplog):
    with record(folder):
        pass
    delivery.deliver(folder, store)
    (tmp_path / "mlruns" / "mlflow.db").unlink()
    assert list(sync.stores(tmp_path / "mlruns")) == []
    assert "mlflow.db does not exist" in caplog.text
    assert not (tmp_path / "mlruns" / "mlflow.db").exists()


class Server:
    """A real `mlflow server` on loopback."""

    def __init__(self, folder):
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.folder, self.uri = folder, f"http://127.0.0.1:{self.port}"

    def start(self):
        place = ["--backend-store-uri", f"sqlite:///{self.folder / 'server.db'}"]
        place += ["--artifacts-destination", str(self.folder / "artifacts"), "--workers", "1"]
        command = [sys.executable, "-m", "mlflow", "server", *place, "--host", "127.0.0.1", "--port", str(self.port)]
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        self.process = subprocess.Popen(
            command, env=environment, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        end = time.monotonic() + 120
        while time.monotonic() < end:
            try:
                urllib.request.urlopen(f"{self.uri}/health", timeout=1)
                return
            except OSError:
                time.sleep(0.2)
        raise AssertionError("the server did not start")

    def kill(self):
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class Proxy(http.server.ThreadingHTTPServer):
    """Passes requests on to a server, but for the one with the number `bad` and some after it."""

    LASTS = 3  # requests that are answered as `answer` says

    def __init__(self, target, bad, answer):
        super().__init__(("127.0.0.1", 0), Passing)
        self.target, self.bad, self.answer, self.count = target, bad, answer, 0
        self.uri = f"http://127.0.0.1:{self.server_port}"

    def __enter__(self):
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()


class Passing(http.server.BaseHTTPRequestHandler):
    def handle_any(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.count += 1
        if self.server.bad <= self.server.count < self.server.bad + Proxy.LASTS:
            status, content, kind = *self.server.answer, "application/json"
        else:
            headers = {key: value for key, value in self.headers.items() if key.lower() != "host"}
            answer = requests.request(self.command, self.server.target + self.path, headers=headers, data=body)
            status, content, kind = (
                answer.status_code,
                answer.content,
                answer.headers.get("Content-Type", "application/json"),
            )
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_PATCH = handle_any

    def log_message(self, *_):
        """Say nothing."""


@pytest.mark.slow
@pytest.mark.parametrize(
    "answer",
    [
        (400, b"<html>Bad Request</html>"),
        (400, b'{"error_code": "INVALID_STATE", "message": "no"}'),
        (404, b'{"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no"}'),
        (200, b"{}"),
        (200, b""),
        (502, b"Bad Gateway"),
    ],
)
def test_a_proxy_that_answers_for_the_server_loses_no_line(server, tmp_path, answer):
    for bad in range(1, 20):
        folder = Workspace(tmp_path / f"store{bad}").create().root / "runs" / "vgg16-0"
        with record(folder, experiment=f"pets{bad}") as run:
            fill(run)
        with Proxy(server.uri, bad, answer) as proxy:
            store = Store(proxy.uri, "", None, None, folder.parents[1])
            for _ in range(8):
                mlflow_utils._artifact_repos_cache.clear()  # as the next process has none
                with contextlib.suppress(Exception):
                    delivery.deliver(folder, store)
            asked = proxy.count
        assert not Sent.of(folder).pending(folder), bad
        client = MlflowClient(server.uri)
        (found,) = client.search_runs([client.get_experiment_by_name(f"pets{bad}").experiment_id])
        assert (found.info.status, len(found.data.params)) == ("FINISHED", 250), bad
        for key, points in (("loss", [1.5, 1.0]), ("accuracy", [0.5, 0.75])):
            assert [point.value for point in client.get_metric_history(found.info.run_id, key)] == points, bad
        assert found.data.tags["thaw.head"] == "abc", bad
        assert [each.path for each in client.list_artifacts(found.info.run_id)] == ["classes.txt"], bad
        if asked < bad:  # all requests were tried
            return


@pytest.fixture
def server(tmp_path):
    server = Server(tmp_path)
    server.start()
    yield server
    if server.process.poll() is None:
        server.kill()


EPOCHS = 40


def begin(server, tmp_path, uri):
    """A run of two stages against that server: the process, whose first epochs are over."""
    plan = [*TINY, "unfreeze=3", f"training.head.epochs={EPOCHS}", f"training.finetune.epochs={EPOCHS}"]
    plan[plan.index("tracking.model=false")] = "tracking.register_as=reader"
    command = [sys.executable, str(ROOT / "train.py"), *plan, f"tracking.uri={uri}", f"store={tmp_path / 'mlruns'}"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    for line in process.stdout:
        if f"head 5/{EPOCHS}" in line:
            break
    return process


def assert_all_arrived(server):
    client = MlflowClient(server.uri)
    (run,) = client.search_runs(["1"])
    assert run.info.status == "FINISHED"
    for key in ("train_loss", "val_accuracy", "learning_rate"):
        points = client.get_metric_history(run.info.run_id, key)
        assert [point.step for point in points] == list(range(2 * EPOCHS)), key
    names = {each.path for each in client.list_artifacts(run.info.run_id)}
    assert {"classes.txt", "predictions.csv", "tensorboard", "learning_curves.png"} <= names
    (model,) = client.search_logged_models(["1"])
    assert model.status == "READY"
    assert [each.model_id for each in run.outputs.model_outputs] == [model.model_id]
    (registered,) = client.search_model_versions("name = 'reader'")
    assert registered.run_id == run.info.run_id


@pytest.mark.slow
def test_a_server_that_is_killed_and_comes_back_gets_every_epoch_once(server, tmp_path):
    process = begin(server, tmp_path, server.uri)
    server.kill()
    time.sleep(1)
    server.start()
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0, out
    sync = [sys.executable, "-m", "thaw.cli.sync", "--store", str(tmp_path / "mlruns")]
    assert subprocess.run(sync, check=False).returncode == 0
    assert_all_arrived(server)


@pytest.mark.slow
def test_a_server_that_never_comes_back_ends_no_run_and_sync_delivers_later(server, tmp_path):
    """The address has a password, which must be nowhere afterwards."""
    uri = server.uri.replace("://", "://ann:planted-secret@")
    process = begin(server, tmp_path, uri)
    server.kill()
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0, out
    assert "not yet sent to MLflow" in out
    sync = [sys.executable, "-m", "thaw.cli.sync", "--store", str(tmp_path / "mlruns")]
    told = subprocess.run(sync, capture_output=True, text=True, check=False)
    assert "needs its credentials" in told.stderr
    environment = {**os.environ, "MLFLOW_TRACKING_URI": uri}
    told = subprocess.run(sync, env=environment, capture_output=True, text=True, check=False)
    assert told.returncode == 1
    assert "pending (nothing listens there)" in told.stdout
    server.start()
    told = subprocess.run(sync, env=environment, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    assert "0 pending" in told.stdout
    assert_all_arrived(server)
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in written if b"planted-secret" in path.read_bytes()]
    assert "planted-secret" not in out + told.stdout + told.stderr
