import json
import os
import time

import pytest
from conftest import TINY

from thaw.array_store import remove_unused
from thaw.cli import prune
from thaw.files import readable_size
from thaw.locks import locked
from thaw.workspace import Workspace


def stages(store):
    return {path.name.partition("-")[0] for path in (store / "stages").iterdir()}


def entry(store, name, age):
    """Activations that were last used `age` seconds ago."""
    folder = store / "activations" / name
    folder.mkdir(parents=True)
    (store / "activations" / "locks").mkdir(exist_ok=True)
    (folder / "digests.json").write_text(json.dumps({}))
    (folder / "0.npy").write_bytes(bytes(1000))
    os.utime(folder, (time.time() - age,) * 2)
    return folder


def test_what_finished_runs_need_stays_and_the_rest_goes(command, client, tmp_path):
    store = tmp_path / "mlruns"
    status, out, err = command("-m", *TINY, "unfreeze=0,3")
    assert status == 0, err
    assert f"{store} holds" in out
    of_no_run = store / "stages" / ("0" * 64)
    of_no_run.mkdir()
    (of_no_run / "state.npz").write_bytes(bytes(100))
    killed = store / "launches" / "of a dead process"
    killed.mkdir()
    before = stages(store)
    removed = dict(prune.prune(Workspace(store)))
    assert stages(store) == before - {of_no_run.name}
    assert removed["stages of no run"] == 100
    assert removed["activations that no interrupted run has used"] > 0
    assert not killed.exists()
    assert not [path for path in (store / "activations").iterdir() if path.name != "locks"]
    assert "finished before" in command("-m", *TINY, "unfreeze=0,3")[1]


def test_a_run_that_was_deleted_in_mlflow_takes_its_stages_with_it(command, client, tmp_path):
    assert command(*TINY, "unfreeze=3")[0] == 0
    assert len(stages(tmp_path / "mlruns")) == 2
    (run,) = client().search_runs(["1"])
    client().delete_run(run.info.run_id)
    dict(prune.prune(Workspace(tmp_path / "mlruns")))
    assert not stages(tmp_path / "mlruns")
    assert not list((tmp_path / "mlruns" / "runs").iterdir())


@pytest.mark.slow
def test_an_interrupted_run_keeps_what_it_goes_on_with(command, tmp_path, monkeypatch):
    store = Workspace(tmp_path / "mlruns").create().root
    old = entry(store, "a" * 32, 3600)
    with monkeypatch.context() as patch:
        patch.setattr("thaw.training.evaluation.evaluate", lambda *_: 1 / 0)
        assert command(*TINY, "unfreeze=3")[0] == 1
    kept = {path.name for path in (store / "activations").glob("*/digests.json")}
    before = stages(store)
    dict(prune.prune(Workspace(store)))
    assert not old.exists()
    assert kept == {path.name for path in (store / "activations").glob("*/digests.json")}
    assert stages(store) == before
    status, out, err = command(*TINY, "unfreeze=3")
    assert status == 0, err
    assert out.count("reused") == 2


def test_what_a_living_process_works_on_stays(tmp_path):
    stage = tmp_path / "stages" / ("1" * 64)
    with locked(stage, lambda: None):
        dict(prune.prune(Workspace(tmp_path)))
        assert stage.exists()
    dict(prune.prune(Workspace(tmp_path)))
    assert not stage.exists()


def test_an_entry_that_another_process_removes_meanwhile_is_no_trouble(tmp_path):
    stale = entry(tmp_path, "a" * 32, 3600)
    (tmp_path / "activations" / "b").symlink_to(tmp_path / "nowhere")  # as a folder that is gone when it is looked at
    assert remove_unused(tmp_path / "activations", int(time.time() * 1000)) == 1002
    assert not stale.exists()


@pytest.mark.parametrize(("count", "words"), [(0, "0 B"), (1500, "2 kB"), (2_500_000, "2 MB"), (3.21e9, "3.2 GB")])
def test_sizes_are_legible(count, words):
    assert readable_size(count) == words
