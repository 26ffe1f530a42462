"""A sweep that is killed over and over, and given again, comes to what it would have come to."""

import re
import subprocess
import sys
from functools import partial

import h5py
import pytest
from commands import runs_of, sweeps_of
from conftest import ROOT, TINY
from mlflow import MlflowClient

from thaw import workspace

PLAN = [
    "-m",
    *TINY,
    "unfreeze=0,3,6",
    "head.dropout=0.3",
    "augmentation=light",
    "training.head.epochs=4",
    "training.finetune.epochs=4",
    "training.head.patience=2",
    "training.head.learning_rate=0.03",
    "tracking.model=true",
]
TIMES = ("wall_seconds", "training_seconds", "images_per_second", "epoch_seconds", "waiting_seconds", "waiting_share")
FOUND_IN_STORE = {"activations", "artifacts", "fingerprints.db", "launches", "mlflow.db", "mlflow.db.lock", "runs"}
FOUND_IN_STORE |= {"stages", "sweeps", workspace.MARKER}


def recorded(store):
    """What MLflow has: for each run's name its params, points of every metric that is no time, and tags."""
    client = MlflowClient(f"sqlite:///{store / 'mlflow.db'}")
    (parent,) = sweeps_of(client)
    assert parent.info.status == "FINISHED"
    runs = runs_of(client, parent)
    assert {run.info.status for run in runs} == {"FINISHED"}
    found = {}
    for run in runs:
        assert run.info.run_name not in found
        assert "thaw.error" not in run.data.tags
        points = {key: client.get_metric_history(run.info.run_id, key) for key in run.data.metrics}
        for key, history in points.items():
            steps = [point.step for point in history]
            assert len(steps) == len(set(steps)), (key, steps)
        assert len(run.inputs.dataset_inputs) == 1
        assert len(run.outputs.model_outputs) == 1
        files = {path.path for path in client.list_artifacts(run.info.run_id)}
        values = {key: [each.value for each in history] for key, history in points.items() if key not in TIMES}
        params = {key: value for key, value in run.data.params.items() if key != "store"}
        weights = {key: run.data.tags[key] for key in ("thaw.head", "thaw.finetune") if key in run.data.tags}
        found[run.info.run_name] = (values, params, weights, files)
    return found


def assert_no_stray_files(store):
    assert {path.name for path in store.iterdir()} <= FOUND_IN_STORE
    assert not list((store / "launches").iterdir())
    for stage in (store / "stages").iterdir():
        assert {path.name for path in stage.iterdir()} <= {"done.json", "kept.weights.h5", "lock"}
    for run in [*(store / "runs").iterdir(), *(store / "sweeps").iterdir()]:
        assert {path.name for path in run.iterdir()} <= {"journal.jsonl", "sent.json", "lock", "sending", "tensorboard"}
    entries = [path for path in (store / "activations").iterdir() if path.name != "locks"]
    assert all((path / "digests.json").exists() for path in entries)


def _note(arrays, name, item):
    if isinstance(item, h5py.Dataset):
        arrays[name] = item[()].tobytes()


def bytes_of_weights(store):
    found = {}
    for path in (store / "stages").glob("*/kept.weights.h5"):
        with h5py.File(path) as file:
            arrays = {}
            file.visititems(partial(_note, arrays))
        found[path.parent.name] = arrays
    return found


def killed_over_and_over(folder, kills, seed):
    """Compare a sweep that was killed with one that was not; how often it was."""
    whole, killed = folder / "whole", folder / "killed"
    command = [sys.executable, str(ROOT / "tests" / "kill.py"), str(whole), str(killed), str(kills), str(seed), *PLAN]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1500)
    assert done.returncode == 0, done.stdout + done.stderr
    assert recorded(killed) == recorded(whole)
    assert bytes_of_weights(killed) == bytes_of_weights(whole)
    assert_no_stray_files(killed)
    return len(re.findall(r"^killed ", done.stdout, re.MULTILINE))


@pytest.mark.slow
def test_a_sweep_that_is_killed_comes_to_the_same(tmp_path):
    assert killed_over_and_over(tmp_path, 4, 0) >= 3


@pytest.mark.slow
def test_a_sweep_that_is_killed_wherever_it_writes_comes_to_the_same(tmp_path):
    assert killed_over_and_over(tmp_path, "every", 0) >= 30
    places = (tmp_path / "killed.txt").read_text()
    for module in ("sqlite", "journal", "checkpoints", "array_store", "delivery", "parent"):
        assert f"{module}." in places


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_a_sweep_that_is_killed_at_many_moments_comes_to_the_same(tmp_path, seed):
    """With what was drawn for these seeds, seven kills or more each."""
    assert killed_over_and_over(tmp_path, 12, seed) >= 7
