"""Greedy soups: the mean of the weights of the runs of a sweep."""

import json
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from commands import runs_of, sweeps_of
from conftest import TINY

from thaw.runs import soup
from thaw.tracking import reader

# It trains three layers; the model is recorded.
SMALL = [each for each in TINY if not each.startswith(("weights=", "tracking.model="))]


def member(name):
    return SimpleNamespace(name=name)


def weights(*values):
    return [np.array(values, np.float32), np.array([7], np.int64)]


def test_each_next_run_is_added_if_the_mean_lowers_the_loss():
    """By hand: the loss is the distance from (1, 1)."""
    tried = [
        (member("a"), lambda: weights(2.0, 0.0)),  # 1.41
        (member("b"), lambda: weights(9.0, 9.0)),  # the mean with a is far away
        (member("gone"), lambda: None),
        (member("c"), lambda: weights(0.0, 1.0)),  # (1, 0.5)
        (member("d"), lambda: weights(1.0, 2.0)),  # (1, 1)
    ]
    used, mean = soup.greedy(tried, lambda found: float(np.linalg.norm(found[0] - 1)))
    assert [each.name for each in used] == ["a", "c", "d"]
    np.testing.assert_allclose(mean[0], [1.0, 1.0])
    assert mean[1].tolist() == [7]


def test_weights_that_all_have_keep_every_bit():
    frozen = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    tried = [(member(str(n)), lambda n=n: [frozen, np.array([n], np.float32)]) for n in range(7)]
    losses = iter(range(7, 0, -1))
    used, mean = soup.greedy(tried, lambda _: float(next(losses)))
    assert len(used) == 7
    np.testing.assert_array_equal(mean[0], frozen)
    np.testing.assert_allclose(mean[1], [3.0])


def test_a_run_alone_is_no_soup():
    used, _ = soup.greedy([(member("a"), lambda: weights(1.0)), (member("b"), lambda: weights(5.0))], lambda _: 1.0)
    assert len(used) == 1


@pytest.fixture
def pretrained(tmp_path):
    """A file of weights."""
    keras.utils.set_random_seed(1)
    path = tmp_path / "pretrained.weights.h5"
    keras.applications.MobileNet((32, 32, 3), 0.25, include_top=False, weights=None).save_weights(path)
    return ["weights=file", f"weights.path={path}"]


def models(client, run):
    (recorded,) = run.outputs.model_outputs
    place = client.get_logged_model(recorded.model_id).artifact_location
    (file,) = Path(place.removeprefix("file://")).rglob("*.keras")
    return keras.saving.load_model(file, compile=False)


def test_the_runs_of_a_sweep_are_averaged_and_the_mean_is_a_run_beside_them(
    pretrained, command, client, tmp_path, monkeypatch
):
    falling = iter(np.linspace(1, 0, 99))
    monkeypatch.setattr(soup._Cook, "loss", lambda self, found: self.network.model.set_weights(found) or next(falling))
    sweep = ["-m", *SMALL, *pretrained, "unfreeze=5", "training.finetune.learning_rate=1e-3,1e-2", "finish=soup"]
    sweep += ["training.evaluate=last_stage"]
    status, out, err = command(*sweep)
    assert status == 0, err
    assert "soup · accepted by validation · test accuracy" in out + err
    (parent,) = sweeps_of(client())
    found = {run.data.params["finish"]: run for run in runs_of(client(), parent)}
    one, other = (run for run in runs_of(client(), parent) if run.data.params["finish"] == "none")
    mean = found["soup"]
    assert set(mean.data.params["with.training.finetune.learning_rate"].split("+")) == {"0.001", "0.01"}
    assert mean.data.params["seed"] == "0"
    stages = [json.loads(path.read_text()) for path in (tmp_path / "mlruns" / "stages").glob("*/done.json")]
    assert len(stages) == 3  # the head is shared
    assert mean.data.metrics["training_seconds"] == pytest.approx(sum(each["seconds"] for each in stages))
    speeds = [run.data.metrics["images_per_second"] for run in (one, other)]
    assert mean.data.metrics["images_per_second"] in [pytest.approx(speed) for speed in speeds]
    assert [each.path for each in models(client(), mean).trainable_variables] == [
        each.path for each in models(client(), one).trainable_variables
    ]
    arrays = [[each.numpy() for each in models(client(), run).variables] for run in (one, other, mean)]
    assert any(not np.array_equal(a, b) for a, b, _ in zip(*arrays, strict=True))
    for first, second, averaged in zip(*arrays, strict=True):
        if np.issubdtype(averaged.dtype, np.floating):
            np.testing.assert_allclose(averaged, (first + second) / 2, rtol=1e-5, atol=1e-7)
    assert len(reader.predictions(client(), mean.info.run_id)) == len(reader.predictions(client(), one.info.run_id))
    assert mean.inputs.dataset_inputs[0].dataset.digest == one.inputs.dataset_inputs[0].dataset.digest
    names = {each.path for each in client().list_artifacts(mean.info.run_id)}
    assert {"config.yaml", "classes.txt", "manifest.csv", "reliability.png", "learning_curves.png"} <= names
    status, _, _ = command(*sweep)
    assert status == 0
    assert len(runs_of(client(), parent)) == 3  # it is not recorded twice


def test_a_soup_that_does_not_lower_the_loss_is_not_recorded(pretrained, command, client, monkeypatch):
    monkeypatch.setattr(soup._Cook, "loss", lambda *_: 1.0)
    looked_at = []
    monkeypatch.setattr(soup._Cook, "evaluated", lambda self, split: looked_at.append(split))
    status, out, err = command(
        "-m", *SMALL, *pretrained, "unfreeze=0", "training.head.learning_rate=1e-3,1e-2", "finish=soup"
    )
    assert status == 0
    assert "soup · not accepted: no mean of runs lowers the loss" in out + err
    assert looked_at == []  # the test images least of all
    assert len(runs_of(client(), sweeps_of(client())[0])) == 2


def test_runs_that_share_nothing_are_not_averaged(command):
    status, out, err = command("-m", *TINY, "unfreeze=0", "training.head.learning_rate=1e-3,1e-2", "finish=soup")
    assert status == 0
    assert "soup · not tried: no two runs share pretrained weights" in " ".join((out + err).split())


def test_a_single_run_has_nothing_to_average(command):
    status, _, err = command(*TINY, "finish=soup")
    assert status == 1
    assert "finish=soup averages the weights of several runs; give -m" in err


def test_runs_are_reported_although_their_soup_fails(command, monkeypatch):
    def broken(*_):
        raise OSError("no room")

    monkeypatch.setattr(soup, "make_soups", broken)
    status, out, err = command("-m", *TINY, "unfreeze=0", "seed=0,1", "finish=soup")
    assert status == 1
    assert "no room" in err
    assert "2 runs, best validation accuracy first" in out


def test_the_rate_finder_has_no_weights_to_average(pretrained, command):
    status, out, err = command("-m", *SMALL, *pretrained, "unfreeze=0", "seed=0,1", "find_rate=true", "finish=soup")
    assert status == 0, err
    assert "soup · not tried" in out + err


def test_weights_that_have_changed_are_refused(pretrained, command, tmp_path, monkeypatch):
    averaged = soup.make_soups

    def changed(*given):
        keras.utils.set_random_seed(2)
        path = tmp_path / "pretrained.weights.h5"
        keras.applications.MobileNet((32, 32, 3), 0.25, include_top=False, weights=None).save_weights(path)
        averaged(*given[:-1], {})

    monkeypatch.setattr(soup, "make_soups", changed)
    rates = "training.head.learning_rate=1e-3,1e-2"
    status, _, err = command("-m", *SMALL, *pretrained, "unfreeze=0", rates, "finish=soup")
    assert status == 1
    assert "The initial weights have changed since the runs were trained" in err


def test_runs_of_other_image_sizes_are_not_averaged(pretrained, command):
    sizes = [each for each in SMALL if not each.startswith("dataset.image_size")]
    status, out, err = command("-m", *sizes, *pretrained, "unfreeze=0", "dataset.image_size=32,48", "finish=soup")
    assert status == 0, err
    assert "soup · not tried" in out + err


@pytest.mark.slow
def test_a_network_that_is_made_anew_says_what_trained(pretrained, command, client, monkeypatch):
    """As after runs in other processes: the process that averages has no network, and none of their files."""
    averaged = soup.make_soups
    monkeypatch.setattr(soup, "make_soups", lambda *given: averaged(*given[:-1], {}))
    falling = iter(np.linspace(1, 0, 99))
    monkeypatch.setattr(soup._Cook, "loss", lambda self, found: self.network.model.set_weights(found) or next(falling))
    rates = ["unfreeze=5", "training.finetune.learning_rate=1e-3,1e-2", "training.evaluate=last_stage"]
    # Another fraction has other training images, and stages with steps have other epochs.
    rates += ["fraction=100,50", "training.finetune.steps=1"]
    status, _, err = command("-m", *SMALL, *pretrained, *rates, "finish=soup")
    assert status == 0, err
    (parent,) = sweeps_of(client())
    found = {run.data.params["finish"]: run for run in runs_of(client(), parent)}
    trained = [[each.path for each in models(client(), found[kind]).trainable_variables] for kind in ("soup", "none")]
    assert trained[0] == trained[1]
    assert 0 < len(trained[0]) < 20
