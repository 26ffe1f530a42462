import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT
from omegaconf import OmegaConf

from thaw.config.schema import Augmentation
from thaw.modalities.images.augment import view

IMAGE = tf.constant(np.random.default_rng(0).uniform(0, 255, (32, 32, 3)), tf.float32)


def policy(name):
    return Augmentation(**OmegaConf.load(ROOT / "conf" / "augmentation" / f"{name}.yaml"))


def seen(name, key=1, number=0, seed=0):
    return view(IMAGE, policy(name), seed, tf.constant(key, tf.int64), tf.constant(number, tf.int64)).numpy()


def test_none_leaves_the_image_alone():
    np.testing.assert_array_equal(seen("none"), IMAGE)


def test_light_mirrors_about_half_of_the_views_and_does_nothing_else():
    views = [seen("light", key=key) for key in range(40)]
    plain = sum(np.array_equal(each, IMAGE) for each in views)
    mirrored = sum(np.array_equal(each, IMAGE[:, ::-1]) for each in views)
    assert plain + mirrored == 40
    assert 10 <= plain <= 30


def test_a_view_is_a_fixed_function_of_seed_key_and_number():
    np.testing.assert_array_equal(seen("standard"), seen("standard"))
    for other in ({"seed": 1}, {"key": 2}, {"number": 1}):
        assert not np.array_equal(seen("standard"), seen("standard", **other))


def test_a_view_is_the_same_inside_a_pipeline():
    mapped = tf.data.Dataset.range(4).map(
        lambda number: view(IMAGE, policy("standard"), 0, tf.constant(1, tf.int64), number), 4
    )
    for number, image in enumerate(mapped):
        np.testing.assert_allclose(image, seen("standard", number=number), atol=1e-3)


def test_views_stay_in_range_and_borders_are_mirrored_rather_than_black():
    white = tf.fill([32, 32, 3], 255.0)
    for number in range(10):
        turned = view(white, policy("standard"), 0, tf.constant(1, tf.int64), tf.constant(number, tf.int64))
        np.testing.assert_allclose(turned, white, rtol=1e-5)


def test_the_center_stays_where_it_is_without_translation():
    dot = np.zeros((33, 33, 3), np.float32)
    dot[16, 16] = 255
    turn = policy("standard").model_copy(update={"translation": 0.0})
    for number in range(10):
        turned = view(tf.constant(dot), turn, 0, tf.constant(1, tf.int64), tf.constant(number, tf.int64)).numpy()
        assert np.unravel_index(turned[..., 0].argmax(), (33, 33)) == (16, 16)


@pytest.mark.parametrize("axis", [0, 1])
def test_translation_moves_up_to_a_fifth_of_a_side(axis):
    dot = np.zeros((41, 41, 3), np.float32)
    dot[20, 20] = 255
    shift = policy("none").model_copy(update={"translation": 0.2})
    places = []
    for number in range(40):
        moved = view(tf.constant(dot), shift, 0, tf.constant(1, tf.int64), tf.constant(number, tf.int64)).numpy()
        places.append(np.unravel_index(moved[..., 0].argmax(), (41, 41))[axis] - 20)
    assert max(places) > 4
    assert min(places) < -4
    assert max(map(abs, places)) <= 8.2 + 0.5
