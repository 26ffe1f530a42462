"""The learning-rate finder: what it proposes, what it records, and that it leaves no trace."""

import csv

import numpy as np
import pytest
from commands import numbers, sweeps_of
from conftest import TINY
from networks import DROPOUT, FLIP, build, created, images, stage_settings

from thaw.cli import train as cli
from thaw.config import schema
from thaw.modalities.images.modality import Images
from thaw.training.batches import evaluation_batches, training_batches
from thaw.training.fit import Batches, fit_stage
from thaw.training.rate_finder import BEGINNING, HIGHEST, LOWEST, STEPS, _middle_of_descent, find_rates
from thaw.training.stages import Stage

RATES = np.geomspace(LOWEST, HIGHEST, STEPS)


@pytest.mark.parametrize("lowest", [30, 50, 80])
def test_the_proposal_is_in_the_middle_of_the_descent(lowest):
    """Flat until step 20, then down to `lowest`, then up."""
    losses = np.interp(np.arange(STEPS), [0, 20, lowest, STEPS], [2.0, 2.0, 0.5, 9.0])
    assert _middle_of_descent(losses) == pytest.approx((20 + lowest) / 2, abs=1)


def test_noise_does_not_hide_the_descent():
    noise = np.random.default_rng(0).normal(0, 0.02, STEPS)
    losses = np.interp(np.arange(STEPS), [0, 20, 60, STEPS], [2.0, 2.0, 0.5, 9.0]) + noise
    assert 28 <= _middle_of_descent(losses) <= 52


@pytest.mark.parametrize("count", [1, 5, BEGINNING, BEGINNING + 1])
def test_a_loss_that_diverges_at_once_proposes_the_lowest_rate(count):
    assert _middle_of_descent(np.arange(count, dtype=float)) == 0


def parts(optimizer):
    net = build(depth=6, head=DROPOUT)
    stage = Stage("finetune", 1, 6, 6, 5, 2, stage_settings(), "best", optimizer=optimizer)
    batches = Batches(
        lambda epochs: training_batches(images(), Images(32), 8, epochs, (0, 1), FLIP),
        lambda: evaluation_batches(images(10, 1), Images(32), 8),
        20,
        8,
    )
    return net, stage, batches


@pytest.mark.parametrize(
    "settings",
    [{}, {"name": "sgd", "momentum": 0.9, "ema": 0.9, "accumulate": 2, "layer_decay": 0.5, "clip_norm": 1.0}],
)
def test_weights_optimizer_and_random_numbers_are_as_if_it_had_not_been(tmp_path, settings):
    results = []
    for looks in (True, False):
        net, stage, batches = parts(schema.Optimizer(**settings))
        cut = net.cut("all")
        if looks:
            before = net.model.get_weights()
            found = find_rates(stage, net, cut, batches, 0)
            for one, other in zip(before, net.model.get_weights(), strict=True):
                np.testing.assert_array_equal(one, other)
            assert LOWEST <= found.proposed <= HIGHEST
            assert len(found.rates) == len(found.losses)
            assert found.rates == pytest.approx(RATES[: len(found.rates)])
        trained = fit_stage(stage, net, cut, batches, 0, created(tmp_path / str(looks)), [], "a")
        results.append([*([each["loss"], each["val_loss"]] for each in trained.history), *net.model.get_weights()])
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_command_that_looks_for_rates_is_recorded_by_itself_and_changes_no_run(command, client, tmp_path):
    run = [*TINY, "unfreeze=6", "head.hidden=8", "head.dropout=0.5", "augmentation=light"]
    assert command(*run)[0] == 0
    (alone,) = client().search_runs(["1"])
    cli.NETWORKS.clear()
    elsewhere = f"store={tmp_path / 'b' / 'mlruns'}"
    status, out, err = command(*run, "find_rate=true", elsewhere)
    assert status == 0, err
    assert "training.head.learning_rate=" in out
    assert "training.finetune.learning_rate=" in out
    assert command(*run, elsewhere)[0] == 0
    there = type(client())(f"sqlite:///{tmp_path / 'b' / 'mlruns' / 'mlflow.db'}")
    after, found = there.search_runs(["1"])
    assert numbers(there, after) == numbers(client(), alone)
    assert found.data.tags["thaw.kind"] == "rates"
    proposed = found.data.metrics["proposed.training.head.learning_rate"]
    assert f"training.head.learning_rate={proposed:g}" in found.data.tags["mlflow.note.content"]
    with open(there.download_artifacts(found.info.run_id, "learning_rates.csv", str(tmp_path))) as file:
        rows = list(csv.DictReader(file))
    assert {row["stage"] for row in rows} == {"head", "finetune"}
    assert all(float(row["smoothed_loss"]) > 0 for row in rows)
    assert "learning_rates.png" in [each.path for each in there.list_artifacts(found.info.run_id)]
    status, out, _ = command(*run, "find_rate=true", elsewhere)
    assert status == 0
    assert f"training.head.learning_rate={proposed:g}" in out


def test_a_sweep_that_looks_for_rates_ends_like_any_other(command, client):
    status, out, err = command("-m", *TINY, "optimizer=adam,sgd", "find_rate=true")
    assert status == 0, err
    assert "refuses" not in out + err
    (parent,) = sweeps_of(client())
    assert parent.data.metrics["finished_runs"] == 2
