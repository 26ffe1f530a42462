"""The process that sends what a sweep records, and draws its figures."""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from commands import START_PROCESS, runs_of, sweeps_of
from conftest import ROOT, TINY
from mlflow import MlflowClient

from thaw.tracking import journal, sqlite
from thaw.tracking.sender import Sender
from thaw.tracking.sent import Sent
from thaw.tracking.store import connect
from thaw.workspace import Workspace

SWEEP = [*TINY, "dataset=digits", "seed=0,1,2"]


@pytest.fixture
def store(tmp_path):
    return connect(None, str(Workspace(tmp_path / "mlruns").create().root))


def record(store, name):
    opening = {"uri": "", "experiment": "pets", "name": name, "parent": None, "tags": {}}
    return journal.Record(store.root / "runs" / name, **opening)


def spawned(parent):
    """The process that a process has started, besides the one that tracks Python's resources."""
    (child,) = (each for each in psutil.Process(parent).children() if "spawn_main" in " ".join(each.cmdline()))
    return child


def wait_for(happened, seconds=60):
    until = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_journals_are_sent_and_figures_drawn_by_a_process_that_signals_do_not_stop(store, monkeypatch):
    monkeypatch.setattr(Sender, "PATIENCE", 60.0)  # where other tests run, too
    store.client.search_experiments()  # the client stays in this process
    sender = Sender(store, START_PROCESS)
    child = spawned(os.getpid())
    for name in ("first", "second"):
        with record(store, name) as run:
            sender.send(run.folder)
            child.send_signal(signal.SIGINT)
            child.send_signal(signal.SIGTERM)
            run.metrics({"loss": 1.0}, 0)
            epoch = {"loss": 1.0, "accuracy": 0.5, "val_loss": 1.0, "val_accuracy": 0.5}
            run.figures(
                history=[epoch, epoch], boundaries=[1], kept=0, confusion=[(0, 1, 3), (1, 1, 2)], classes=["cat", "dog"]
            )
            run.artifacts(run.files)
    sender.close()
    assert not child.is_running()
    for name in ("first", "second"):
        sent = Sent.of(store.root / "runs" / name)
        assert sent.pending(store.root / "runs" / name) == 0
        assert store.client.get_run(sent.run).info.status == "FINISHED"
        drawn = {each.path for each in store.client.list_artifacts(sent.run)}
        assert drawn == {"learning_curves.png", "confusion_matrix.png"}


FIRST = """
import signal, sys, time
import psutil
from thaw.cli.process import start_process

wait = start_process(time.sleep, 3)
(child,) = (each for each in psutil.Process().children() if "spawn_main" in " ".join(each.cmdline()))
for number in (signal.SIGTERM, signal.SIGINT):
    child.send_signal(number)
sys.exit(child.wait(60))
"""


def test_signals_do_not_stop_the_first_process_of_a_command_while_it_starts():
    """Python starts a process of its own with the first one, and unblocks the signals then."""
    assert subprocess.run([sys.executable, "-c", FIRST], check=False).returncode == 0


def test_what_the_process_logs_is_logged_by_the_command(store, caplog):
    threads = threading.active_count()
    wait = START_PROCESS(_warn, "of cats")
    with caplog.at_level(logging.INFO, "thaw"):
        wait_for(lambda: caplog.messages)
    wait(10)
    assert caplog.messages == ["Beware of cats"]
    wait_for(lambda: threading.active_count() <= threads)


def _warn(what):
    logging.getLogger("thaw.tracking.delivery").warning("Beware %s", what)


@pytest.fixture
def sweep(tmp_path):
    """A sweep of three runs as a command of its own, once its process sends."""
    command = [sys.executable, "train.py", "-m", *SWEEP, f"store={tmp_path / 'mlruns'}"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:

        def of_first_run():
            return any(each.run for each in map(Sent.of, Path(tmp_path, "mlruns", "runs").glob("*")))

        wait_for(of_first_run, 120)
        yield process, spawned(process.pid)
        process.kill()


@pytest.mark.slow
def test_a_sweep_is_recorded_as_a_whole_if_the_process_that_sends_is_killed(sweep, tmp_path):
    process, child = sweep
    child.kill()
    printed, _ = process.communicate()
    assert process.returncode == 0, printed
    client = MlflowClient(sqlite.address(tmp_path / "mlruns" / "mlflow.db"))
    (parent,) = sweeps_of(client)
    runs = runs_of(client, parent)
    assert [run.info.status for run in runs] == ["FINISHED"] * 3
    for run in runs:
        assert "learning_curves.png" in {each.path for each in client.list_artifacts(run.info.run_id)}


@pytest.mark.slow
def test_the_process_that_sends_ends_with_a_command_that_is_killed(sweep):
    process, child = sweep
    os.kill(process.pid, signal.SIGKILL)
    wait_for(lambda: not child.is_running(), 30)
    assert not psutil.pid_exists(child.pid)
