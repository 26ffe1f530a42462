"""Damaged files of the store: the same command comes to the same numbers, and says what was damaged."""

import re
import shutil
import sys

import commands
import numpy as np
import pytest
from conftest import TINY

pytestmark = pytest.mark.slow
PLAN = [*TINY, "training.head.epochs=2", "training.finetune.epochs=3"]


def train(store, *overrides, **patches):
    """Run train.py on that store; its status, and the metrics of the newest run that is not a sweep's parent."""
    from mlflow import MlflowClient

    from thaw.training import checkpoints

    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setattr(sys, "argv", ["train.py", *PLAN, *overrides, f"store={store}"])
        for name, value in patches.items():
            patch.setattr(checkpoints, name, value)
        try:
            status = commands.train()
        except SystemExit as stop:
            status = stop.code
    timeless = ("second", "share", "runs", "stage")
    return status, [
        {key: value for key, value in run.data.metrics.items() if not any(word in key for word in timeless)}
        for run in MlflowClient(f"sqlite:///{store / 'mlflow.db'}").search_runs(
            ["1"], "attributes.status = 'FINISHED'", order_by=["start_time DESC"]
        )
    ]


@pytest.fixture(scope="module")
def worn(tmp_path_factory):
    """A store with a finished run and one that was killed in its second stage; and what that comes to."""
    from thaw.training import checkpoints

    store, finished = tmp_path_factory.mktemp("worn") / "mlruns", checkpoints.State.on_epoch_end

    class Killed(checkpoints.State):
        def on_epoch_end(self, epoch, logs=None):
            finished(self, epoch, logs)
            if epoch == 3:
                raise KeyboardInterrupt

    assert train(store, "unfreeze=0")[0] == 0
    assert train(store, "unfreeze=3", State=Killed)[0] == 130
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
        *folders, last = path.relative_to(store).parts
        kind = "/".join(
            [*folders[:1], *["*"] * (len(folders) > 1), *folders[2:], re.sub(r"[0-9a-f]{10,}|\d+", "*", last)]
        )
        if path.is_file() and path.stat().st_size and not kind.startswith(("artifacts/", "mlflow.db")):
            found.setdefault(kind, path.relative_to(store).as_posix())
    return found


@pytest.mark.parametrize("damage", [cut, empty, flip, replace, delete])
def test_a_damaged_file_changes_no_number(worn, damage, tmp_path, capsys):
    store, expected = worn
    known = kinds(store)
    resumed = {f"stages/*/{name}" for name in ("done.json", "kept.weights.h*", "state.npz", "best-*.weights.h*")}
    resumed |= {"runs/*/journal.jsonl", "runs/*/sent.json"}
    assert resumed < set(known)
    if damage is not flip:  # for all the others one kind of damage is enough
        known = {kind: known[kind] for kind in resumed}
    failed = {}
    for kind, name in known.items():
        place = shutil.copytree(store, tmp_path / re.sub(r"\W", "_", kind))
        content = damage((place / name).read_bytes())
        (place / name).unlink()
        if content is not None:
            (place / name).write_bytes(content)
        status, numbers = train(place, "unfreeze=3")
        out, err = capsys.readouterr()
        if status or "Traceback" in out + err or numbers[0] != expected:
            failed[kind] = (status, numbers[:1], out, err)
        shutil.rmtree(place)
    assert not failed
