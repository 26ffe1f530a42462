"""Damaged files of the store: the same command comes to the same numbers, and says what was damaged."""

import re
import shutil
import sys

import numpy as np
import pytest
from conftest import TINY

pytestmark = pytest.mark.slow
PLAN = [*TINY, "training.head.epochs=2", "training.finetune.epochs=3"]


def train(store, *overrides, **patches):
    """Run train.py on that store; its status, and the metrics of the newest run that is not a sweep's parent."""
    from mlflow import MlflowClient

    import train
    from thaw import stage
    from thaw.sweep import OpenSweep

    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setattr(sys, "argv", ["train.py", *PLAN, *overrides, f"store={store}"])
        patch.setattr(OpenSweep, "opened", None)
        for name, value in patches.items():
            patch.setattr(stage, name, value)
        status = train.main()
    timeless = ("seconds", "share", "runs", "stage")
    return status, [
        {key: value for key, value in run.data.metrics.items() if not any(word in key for word in timeless)}
        for run in MlflowClient(f"sqlite:///{store / 'mlflow.db'}").search_runs(
            ["1"], "attributes.status = 'FINISHED'", order_by=["start_time DESC"]
        )
    ]


@pytest.fixture(scope="module")
def worn(tmp_path_factory):
    """A store with a finished run and one that was killed in its second stage; and what that comes to."""
    from thaw import stage

    store, finished = tmp_path_factory.mktemp("worn") / "mlruns", stage._State.on_epoch_end

    class Killed(stage._State):
        def on_epoch_end(self, epoch, logs=None):
            finished(self, epoch, logs)
            if epoch == 3:
                raise KeyboardInterrupt

    assert train(store, "unfreeze=0")[0] == 0
    assert train(store, "unfreeze=3", _State=Killed)[0] == 130
    whole = shutil.copytree(store, store.with_name("whole"))
    status, (expected, *_) = train(whole, "unfreeze=3")
    assert status == 0
    return store, expected


def cut(content):
    return content[: len(content) // 2]


def empty(content):
    return b""


def flip(content):
    changed = np.frombuffer(content, np.uint8).copy()
    places = np.random.default_rng(0).integers(0, len(changed), 64)
    changed[places] ^= 0x55
    return changed.tobytes()


def replace(content):
    return b"null\n"


def delete(content):
    return None


def kinds(store):
    """A file of each kind that is found in a store, by what is the same in the names of a kind."""
    found = {}
    for path in sorted(store.rglob("*")):
        name = path.relative_to(store).as_posix()
        if path.is_file() and path.stat().st_size and not name.startswith(("artifacts/", "mlflow.db", "thaw-store")):
            found.setdefault(re.sub(r"[-\w.]*[0-9a-f]{10}[-\w.]*|[0-9]+", "*", name), name)
    return found


@pytest.mark.parametrize("damage", [cut, empty, flip, replace, delete])
def test_a_damaged_file_changes_no_number(worn, damage, tmp_path, capsys):
    store, expected = worn
    known = kinds(store)
    assert {"runs/*/journal.jsonl", "stages/*/done.json", "stages/*/kept.weights.h5", "stages/*/state.npz"} <= set(
        known
    )
    for kind, name in known.items():
        place = shutil.copytree(store, tmp_path / re.sub(r"\W", "_", kind))
        for file in [name]:
            content = damage((place / file).read_bytes())
            if content is None:
                (place / file).unlink(missing_ok=True)
            else:
                (place / file).write_bytes(content)
        status, numbers = train(place, "unfreeze=3")
        out, err = capsys.readouterr()
        assert status == 0, (kind, out, err)
        assert "Traceback" not in out + err, (kind, out, err)
        assert numbers[0] == expected, (kind, out, err)
        shutil.rmtree(place)
