"""Schedules of the learning rate, against Keras and against the papers."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from commands import runs_of, sweeps_of
from conftest import TINY
from hypothesis import given
from hypothesis import strategies as some
from pydantic import ValidationError
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from thaw.config.schema import Schedule
from thaw.training.schedules import rate_share

STEPS = 200


def shares(steps=STEPS, **settings):
    return [rate_share(Schedule(**settings), step, steps) for step in range(steps)]


@pytest.mark.parametrize("end", [0.0, 0.1])
@pytest.mark.parametrize("warmup", [0, 20])
def test_cosine_is_that_of_keras_with_a_warm_up_that_begins_one_step_later(end, warmup):
    ours = shares(name="cosine", warmup=warmup, end=end)
    keras_ = keras.optimizers.schedules.CosineDecay(
        0.0 if warmup else 1.0, STEPS - warmup, end, warmup_target=1.0 if warmup else None, warmup_steps=warmup
    )
    np.testing.assert_allclose(ours[warmup:], [float(keras_(step)) for step in range(warmup, STEPS)], atol=1e-6)
    np.testing.assert_allclose(ours[:warmup], [float(keras_(step + 1)) for step in range(warmup)], atol=1e-6)


def test_linear_falls_to_its_end_after_warm_up():
    """As in BERT's and transformers' schedule, https://arxiv.org/abs/1810.04805."""
    ours = shares(10, name="linear", warmup="20%")
    np.testing.assert_allclose(ours, [0.5, 1.0, 1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125])
    np.testing.assert_allclose(shares(4, name="linear", end=0.2), [1.0, 0.8, 0.6, 0.4])


def test_step_is_a_tenth_at_three_moments():
    """As in Big Transfer's rule for medium-sized data: 500, 3,000, 6,000 and 9,000 of 10,000 steps."""
    ours = shares(10_000, name="step", warmup=500)
    assert [ours[step] for step in (249, 499, 500, 2999)] == [0.5, 1.0, 1.0, 1.0]
    np.testing.assert_allclose(
        [ours[step] for step in (3000, 5999, 6000, 8999, 9000, 9999)], [0.1] * 2 + [0.01] * 2 + [0.001] * 2
    )


def test_one_cycle_rises_from_a_25th_and_falls_to_almost_nothing():
    """As fastai's `combined_cos(0.25, lr / 25, lr, lr / 1e5)`."""
    ours = shares(name="one_cycle", warmup="25%", end=1e-5)
    assert ours[0] == pytest.approx(1 / 25)
    assert ours[25] == pytest.approx((1 / 25 + 1) / 2)
    assert ours[50] == 1.0
    assert ours[125] == pytest.approx((1 + 1e-5) / 2)
    assert ours[199] == pytest.approx(1e-5 + (1 - 1e-5) * (1 + math.cos(math.pi * 149 / 150)) / 2)


@given(
    name=some.sampled_from(["constant", "cosine", "linear", "step", "one_cycle"]),
    warmup=some.one_of(some.integers(0, 50), some.integers(0, 99).map(lambda share: f"{share}%")),
    end=some.floats(0, 1),
    steps=some.integers(1, 40),
)
def test_a_rate_is_never_negative_nor_above_the_highest(name, warmup, end, steps):
    ours = shares(steps, name=name, warmup=warmup, end=end)
    assert all(0 <= share <= 1 for share in ours)
    falling = ours[Schedule(warmup=warmup).warmup_steps(steps) :]
    assert falling == sorted(falling, reverse=True)


@pytest.mark.parametrize("warmup", ["10", "100%", "-1%", -1, "a tenth"])
def test_a_warm_up_that_is_none_is_refused(warmup):
    with pytest.raises(ValidationError):
        Schedule.model_validate({"warmup": warmup})


def test_a_sweep_over_schedules_records_the_rate_of_each_epoch_and_step(command, client, tmp_path):
    sweep = ["-m", *TINY, "training.head.epochs=2", "schedule=constant,cosine", "training.head.learning_rate=0.01"]
    status, _, err = command(*sweep)
    assert status == 0, err
    (parent,) = sweeps_of(client())
    runs = {run.data.params["schedule"]: run.info.run_id for run in runs_of(client(), parent)}
    rates = {
        name: [point.value for point in client().get_metric_history(run, "learning_rate")] for name, run in runs.items()
    }
    steps = 2 * 5  # 40 images, 8 a batch
    expected = [0.01 * (1 + math.cos(math.pi * step / steps)) / 2 for step in range(steps)]
    np.testing.assert_allclose(rates["constant"], [0.01, 0.01], rtol=1e-6)
    np.testing.assert_allclose(rates["cosine"], [expected[4], expected[9]], rtol=1e-5)
    client().download_artifacts(runs["cosine"], "tensorboard", str(tmp_path))
    events = EventAccumulator(str(tmp_path / "tensorboard" / "train"))
    events.Reload()
    written = [(point.step, float(tf.make_ndarray(point.tensor_proto))) for point in events.Tensors("learning_rate")]
    assert [step for step, _ in written] == list(range(steps))
    np.testing.assert_allclose([rate for _, rate in written], expected, rtol=1e-5)


def test_a_run_that_reuses_a_stage_shows_its_rates_as_well(command, client, tmp_path):
    run = [*TINY, "schedule=cosine"]
    assert command(*run)[0] == 0
    assert command(*run, "unfreeze=3")[0] == 0
    (newest, _) = client().search_runs(["1"], order_by=["attributes.start_time DESC"])
    client().download_artifacts(newest.info.run_id, "tensorboard", str(tmp_path))
    events = EventAccumulator(str(tmp_path / "tensorboard" / "train"))
    events.Reload()
    assert [point.step for point in events.Tensors("learning_rate")] == list(range(5 + 5))


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (
            ["schedule.warmup=some"],
            "schedule.warmup=some is not allowed; give a number of steps, or a percentage below",
        ),
        (["schedule=cosine", "schedule.drops=[50]"], "drops"),
        (["schedule=cosin"], "cosine"),
    ],
)
def test_a_schedule_that_does_not_exist_is_refused_in_a_sentence(command, words, why):
    status, out, err = command(*TINY, *words)
    assert status != 0
    assert why in out + err


def test_a_stage_of_so_many_steps_has_as_many_whole_epochs_as_contain_them(command, client):
    """40 images are 5 steps of 8 an epoch; half of them 3."""
    for fraction, epochs in (("100", 3), ("50", 4)):
        status, _, err = command(*TINY, "training.head.steps=11", f"fraction={fraction}")
        assert status == 0, err
        (newest, *_) = client().search_runs(["1"], order_by=["attributes.start_time DESC"])
        assert len(client().get_metric_history(newest.info.run_id, "val_loss")) == epochs
