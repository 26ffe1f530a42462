"""A store under another path: what was recorded is found there, and what is recorded next lies there."""

import shutil
import sys

import commands
import pytest
from conftest import TINY

RUNS = [*[each for each in TINY if each != "tracking.model=false"], "tracking.register_as=best"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A store with a sweep of two runs."""

    store = tmp_path_factory.mktemp("made") / "a store"
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setattr(sys, "argv", ["train.py", "-m", *RUNS, "seed=0,1", f"store={store}"])
        assert commands.train() == 0
    return store


@pytest.mark.parametrize("how", [shutil.copytree, pytest.param(shutil.move, marks=pytest.mark.slow)])
def test_a_store_that_was_moved_or_copied_is_as_good_as_before(made, command, tmp_path, monkeypatch, capsys, how):
    import compare
    import predict

    before, moved = shutil.copytree(made, tmp_path / "before"), tmp_path / "moved here" / "b store"
    monkeypatch.setattr(sys, "argv", ["compare.py", "--store", str(before)])
    assert compare.main() == 0
    expected = capsys.readouterr().out.partition("\n")[2]
    moved.parent.mkdir()
    how(before, moved)

    monkeypatch.setattr(sys, "argv", ["compare.py", "--store", str(moved)])
    assert compare.main() == 0
    out, err = capsys.readouterr()
    assert f"The store was moved from {before} to {moved}; updated artifact locations\n" == err
    assert out.partition("\n")[2] == expected
    assert "not tested on the same images" not in out

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["predict.py", "--worst", "3", "--store", str(moved)])
    assert predict.main() == 0
    assert len(capsys.readouterr().out.splitlines()) >= 3

    kept = sorted(before.rglob("*"))
    status, out, err = command("-m", *RUNS, "seed=0,1,2", f"store={moved}")
    assert status == 0, out + err
    assert out.count("finished before") == 2, out
    assert sorted(before.rglob("*")) == kept
    assert len(list((moved / "sweeps").iterdir())) == 1
    assert len(list((moved / "artifacts").glob("*/artifacts/confusion_matrix.png"))) == 3


def test_a_store_that_stays_is_not_said_to_have_moved(made, monkeypatch, capsys):
    import compare

    monkeypatch.setattr(sys, "argv", ["compare.py", "--store", str(made)])
    assert compare.main() == 0
    assert "was moved" not in capsys.readouterr().err


def test_a_store_that_two_mounts_show_keeps_its_records(made, tmp_path, monkeypatch, capsys):
    import compare

    monkeypatch.setattr("thaw.tracking.sqlite._is_same", lambda *_: True)
    monkeypatch.setattr(sys, "argv", ["compare.py", "--store", str(shutil.copytree(made, tmp_path / "mount"))])
    assert compare.main() == 0
    assert "was moved" not in capsys.readouterr().err
