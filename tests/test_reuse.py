"""Nothing is trained twice: within a sweep, between sweeps, between processes."""

import errno
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from commands import numbers, runs_of, sweeps_of
from conftest import ROOT, TINY

from thaw import downloads, files
from thaw.tracking import journal


@pytest.fixture
def fitted(monkeypatch):
    """The number of the last epoch of each fit."""
    epochs, fit = [], keras.Model.fit
    monkeypatch.setattr(keras.Model, "fit", lambda model, *a, **k: epochs.append(k["epochs"]) or fit(model, *a, **k))
    return epochs


def test_a_sweep_trains_nothing_twice_and_grows(command, client, fitted):
    shown = []
    for _ in range(2):
        status, out, err = command("-m", *TINY, "unfreeze=0,3")
        assert status == 0, err
        shown.append(out)
    assert fitted == [1, 2]
    assert shown[1].count("finished before") == 2
    assert shown[0][shown[0].index("2 runs") :] == shown[1][shown[1].index("2 runs") :]
    status, out, err = command("-m", "seed=0", *reversed(TINY), "unfreeze=0,3,6")
    assert status == 0, err
    assert fitted == [1, 2, 2]
    assert out.count("head reused") == 1
    (parent,) = sweeps_of(client())
    assert (parent.info.run_name, parent.info.status) == ("unfreeze=0,3,6", "FINISHED")
    runs = {run.data.params["unfreeze"]: run for run in runs_of(client(), parent)}
    steps = {depth: len(numbers(client(), run)["train_loss"]) for depth, run in runs.items()}
    assert steps == {"0": 1, "3": 2, "6": 2}
    first = runs["0"].info.run_id
    assert [run.data.tags.get("thaw.head.reused_from") for _, run in sorted(runs.items())] == [None, first, first]
    assert len({run.data.tags["thaw.head"] for run in runs.values()}) == 1


@pytest.mark.slow
def test_the_order_of_what_varies_does_not_matter(command, client, fitted):
    assert command("-m", *TINY, "unfreeze=0,3", "seed=1,2")[0] == 0
    before = len(fitted)
    status, out, err = command("-m", "seed=2,1", "unfreeze=3,0", *TINY)
    assert status == 0, err
    assert out.count("finished before") == 4
    assert len(fitted) == before
    assert len(sweeps_of(client())) == 1


@pytest.mark.slow
def test_another_base_is_another_sweep_and_reuses_its_stages(command, client, fitted):
    assert command("-m", *TINY, "unfreeze=0,3")[0] == 0
    assert command("-m", *TINY, "unfreeze=0,3", "training.finetune.learning_rate=0.01")[0] == 0
    assert fitted == [1, 2, 2]
    assert len(sweeps_of(client())) == 2


@pytest.mark.slow
def test_a_single_run_is_found_as_well(command, client, fitted):
    assert command(*TINY, "unfreeze=3")[0] == 0
    status, out, err = command("unfreeze=3", *reversed(TINY))
    assert status == 0, err
    assert "finished before" in out
    assert "✓ keras unfreeze=3 · validation 0." in out
    assert len(client().search_runs(["1"])) == 1


@pytest.mark.slow
def test_rerun_trains_again_on_purpose_each_time(command, client, fitted):
    for expected in (2, 4, 6):
        assert command("-m", *TINY, "unfreeze=0,3", f"rerun={str(expected > 2).lower()}")[0] == 0
        assert len(fitted) == expected
    assert len(sweeps_of(client())) == 3
    found = [numbers(client(), run) for parent in sweeps_of(client()) for run in runs_of(client(), parent)]
    assert found[0::2] == [found[0]] * 3
    assert found[1::2] == [found[1]] * 3


@pytest.mark.slow
def test_a_run_deleted_in_mlflow_is_recorded_again_without_training(command, client, fitted):
    assert command(*TINY, "unfreeze=3")[0] == 0
    (run,) = client().search_runs(["1"])
    client().delete_run(run.info.run_id)
    assert command(*TINY, "unfreeze=3")[0] == 0
    assert len(fitted) == 2
    (again,) = client().search_runs(["1"])
    assert numbers(client(), again) == numbers(client(), run)


@pytest.mark.slow
def test_random_weights_count_only_while_there_are_no_others(command, monkeypatch, tmp_path):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    plan = [*TINY, "weights=auto", "unfreeze=3"]
    monkeypatch.setattr(downloads, "reachable", lambda *_: False)
    assert command(*plan)[0] == 0
    assert "finished before" in command(*plan)[1]
    monkeypatch.setattr(downloads, "reachable", lambda *_: True)
    monkeypatch.setattr("thaw.runtime.start", lambda *_: 1 / 0)  # it would train
    assert "ZeroDivisionError" in command(*plan)[2]


@pytest.mark.slow
def test_six_finished_runs_are_answered_without_tensorflow(tmp_path):
    plan = ["-m", *TINY, "unfreeze=0,1,2,3,4,5", f"store={tmp_path}"]
    program = (
        "import sys; sys.path.insert(0, 'tests'); import commands; status = commands.train(); "
        "print('imported' * ('tensorflow' in sys.modules)); sys.exit(status)"
    )
    said = []
    for _ in range(2):
        command = [sys.executable, "-c", program, *plan]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert "6 runs" in done.stdout, done.stderr
        said.append(done.stdout)
    assert said[0].endswith("imported\n")
    assert not said[1].endswith("imported\n")
    assert said[1].count("finished before") == 6


def trained_lines(outputs):
    return [line.split(" · ")[1] for out in outputs for line in out.splitlines() if " · loss " in line]


@pytest.mark.slow
def test_two_sweeps_side_by_side_train_each_stage_once(tmp_path):
    plan = ["-m", *TINY, "unfreeze=0,3,6", "training.head.epochs=5", "training.finetune.epochs=5"]
    command = [sys.executable, str(ROOT / "train.py"), *plan, f"store={tmp_path}"]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    ended = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [0, 0], ended
    words = trained_lines(out for out, _ in ended)
    assert len(words) == 15
    assert sum(each.startswith("head") for each in words) == 5
    client = mlflow_client(tmp_path)
    (parent,) = sweeps_of(client)
    assert parent.info.status == "FINISHED"
    assert [run.info.status for run in runs_of(client, parent)] == ["FINISHED"] * 3


@pytest.mark.slow
def test_two_processes_of_one_sweep_train_each_stage_once(tmp_path):
    plan = ["-m", *TINY, "unfreeze=0,3,6,8", "training.head.epochs=200", "hydra/launcher=local"]
    command = [sys.executable, str(ROOT / "train.py"), *plan, "hydra.launcher.n_jobs=2", f"store={tmp_path}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    words = trained_lines([done.stdout])
    assert sum(each.startswith("head") for each in words) == 200
    assert sum(each.startswith("finetune") for each in words) == 3
    assert "Another process trains the stage head; waiting for it." in done.stdout


def mlflow_client(store):
    from mlflow import MlflowClient

    return MlflowClient(f"sqlite:///{Path(store) / 'mlflow.db'}")


def all_writes(monkeypatch, fail_at):
    """Count the writes of a run, and have the one at `fail_at` find the disk full, with all after it."""
    count = [0]
    places = [(files, "flush"), (journal, "append"), (np.lib.format, "open_memmap"), (np, "savez")]

    def counted(original):
        def write(*positional, **named):
            if "r" in positional or named.get("mode") == "r":  # NumPy opens files to read them in the same way
                return original(*positional, **named)
            count[0] += 1
            if fail_at is not None and count[0] >= fail_at:
                raise OSError(errno.ENOSPC, "No space left on device")
            return original(*positional, **named)

        return write

    for owner, name in places:
        monkeypatch.setattr(owner, name, counted(getattr(owner, name)))
    return count


@pytest.mark.slow
def test_a_disk_that_is_full_at_any_write_loses_nothing(command, client, monkeypatch, tmp_path):
    plan = [*TINY, "unfreeze=3", "training.head.epochs=2"]
    with monkeypatch.context() as patch:
        count = all_writes(patch, None)
        assert command(*plan, "seed=5")[0] == 0
    (whole,) = client().search_runs(["1"])
    assert count[0] > 30
    for number, fail_at in enumerate(range(1, count[0] + 1, 5)):
        store = f"store={tmp_path / 'mlruns' / str(number)}"
        with monkeypatch.context() as patch:
            all_writes(patch, fail_at)
            status, _, err = command(*plan, "seed=5", store)
            if status:
                assert "The disk is full; free some space and run the same command again" in err
                assert "Traceback" not in err
        status, _, err = command(*plan, "seed=5", store)
        assert status == 0, err
        (run,) = mlflow_client(tmp_path / "mlruns" / str(number)).search_runs(["1"])
        assert run.info.status == "FINISHED"
        assert numbers(mlflow_client(tmp_path / "mlruns" / str(number)), run) == numbers(client(), whole)


def test_gradual_unfreezing_shares_its_first_stages_with_every_run_that_begins_the_same_way(command, client, fitted):
    """Also with runs whose stages have other names, as the one of `training=staged` that goes no deeper."""
    status, out, err = command("-m", *TINY, "training=gradual", "unfreeze=0,1block,2blocks")
    assert status == 0, err
    assert fitted == [1, 2, 3]
    assert "block1 reused" in out
    runs = {run.data.params["unfreeze"]: run for run in runs_of(client(), *sweeps_of(client()))}
    assert [len(numbers(client(), runs[depth])["val_loss"]) for depth in ("0", "1block", "2blocks")] == [1, 2, 3]
    assert runs["2blocks"].data.tags["thaw.stages"] == "head block1 block2"
    assert runs["2blocks"].data.tags["thaw.block1.reused_from"] == runs["1block"].info.run_id
    status, out, err = command(*TINY, "unfreeze=1block")
    assert status == 0, err
    assert "head reused, finetune reused" in out
    assert len(fitted) == 3
