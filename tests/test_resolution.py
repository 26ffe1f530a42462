"""Stages that train at other sizes than the one that is tested."""

from pathlib import Path
from urllib.parse import urlparse

import numpy as np
import pytest
from commands import numbers
from conftest import TINY

from thaw.config.schema import Resolution
from thaw.modalities.images.modality import Images
from thaw.models.heads import Labels

LARGER = [*TINY, "dataset.image_size=64", "unfreeze=3", "weights=random"]


@pytest.mark.parametrize(
    ("shares", "count", "expected"),
    [
        ([1.0], 2, [1.0, 1.0]),
        ([0.8], 2, [0.8, 0.8]),
        ([0.6, 1.0], 1, [1.0]),
        ([0.5, 0.6, 1.0], 4, [0.5, 0.5, 0.6, 1.0]),
    ],
)
def test_the_last_stage_has_the_last_share(shares, count, expected):
    assert [Resolution(shares=shares).share(place, count) for place in range(count)] == expected


@pytest.mark.parametrize(("share", "size"), [(1.0, 75), (0.8, 64), (0.6, 48), (0.1, 32)])
def test_sizes_are_multiples_of_8_that_the_backbone_takes(share, size):
    assert Images(75, 5.0).resized(share, 32) == Images(size, 5.0)


def test_a_stage_trains_small_and_the_whole_size_is_tested(command, client):
    """The recorded model takes the whole size and answers as the run did; the head was trained at 0.6 of it."""
    import keras

    status, _, err = command(*LARGER, "resolution=progressive", "tracking.model=true")
    assert status == 0, err
    (run,) = client().search_runs(["1"])
    assert run.data.params["resolution"] == "progressive"
    assert run.data.params["with.image_size"] == "64"
    assert command(*LARGER)[0] == 0
    same, _ = client().search_runs(["1"])
    assert same.data.tags["thaw.head"] != run.data.tags["thaw.head"]
    assert numbers(client(), same)["val_loss"][0] != numbers(client(), run)["val_loss"][0]
    place = client().get_logged_model(run.outputs.model_outputs[0].model_id).artifact_location
    (path,) = Path(urlparse(place).path).rglob("*.keras")
    assert keras.saving.load_model(path).input_shape == (None, 64, 64, 3)


def test_the_size_that_is_tested_is_validated_as_well(command, client):
    status, _, err = command(*LARGER, "resolution=fixres", "training.head.epochs=2")
    assert status == 0, err
    (run,) = client().search_runs(["1"])
    losses = numbers(client(), run)["val_loss"]
    assert not np.isclose(run.data.metrics["kept_val_loss"], losses, rtol=1e-7).any()


def test_kernels_are_drawn_to_their_initial_weights_at_every_size():
    """Keras numbers the layers of InceptionV3 on, so a network of another size has other paths."""
    from thaw.config.schema import Backbone, Head, Weights
    from thaw.models.reuse import Networks

    settings, source, made = Backbone(name="InceptionV3", smallest_size=75), Weights(source="random"), Networks({})
    whole = made.backbone(settings, source, Images(96), 0, False)
    whole = made.network(made.initialize(whole, [], None, "a"), Head(), Labels(3), Images(96), 20, 0)
    at = made.at_sizes(whole, [Images(80), Images(96), Images(80)], settings, source, Head(), 20, 0)
    assert (at[Images(96)] is whole, len(at)) == (True, 2)
    small = at[Images(80)]
    one, other = whole.kernels(20), small.kernels(20)
    assert list(one) != list(other)
    for mine, theirs in zip(one.values(), other.values(), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert set(other) <= small.plan(20)


def test_a_head_that_takes_one_size_is_refused(command):
    status, out, err = command(*LARGER, "resolution=fixres", "head=flatten512")
    assert status == 1
    assert "resolution=fixres trains at several sizes, and head.pooling=flatten takes one; give head.pooling=avg" in err


def test_another_size_leaves_no_trace_in_the_runs_that_follow(command, client, tmp_path):
    """A run at 40 px, alone and after one that trained a stage at 40 px of 64."""
    small = [*LARGER, "dataset.image_size=40"]
    assert command(*small)[0] == 0
    (alone,) = client().search_runs(["1"])
    elsewhere = f"store={tmp_path / 'b' / 'mlruns'}"
    assert command(*LARGER, "resolution.shares=[0.6,1.0]", elsewhere)[0] == 0
    assert command(*small, elsewhere)[0] == 0
    there = type(client())(f"sqlite:///{tmp_path / 'b' / 'mlruns' / 'mlflow.db'}")
    after, before = there.search_runs(["1"])
    assert after.data.params["with.image_size"] == "40"
    assert numbers(there, after) == numbers(client(), alone)
    assert numbers(there, after) != numbers(there, before)
