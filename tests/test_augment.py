import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT, TINY
from networks import images, policy, split_of
from PIL import Image, ImageEnhance, ImageOps

from thaw.config.schema import Augmentation
from thaw.modalities.images import operations
from thaw.modalities.images.augment import mix, partner, view
from thaw.modalities.images.modality import Images
from thaw.training.batches import Views, training_batches

IMAGE = tf.constant(np.random.default_rng(0).uniform(0, 255, (32, 32, 3)), tf.float32)


POLICIES = sorted(path.stem for path in (ROOT / "conf" / "augmentation").iterdir())


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


@pytest.mark.parametrize("name", [name for name in POLICIES if name != "none"])
def test_a_view_is_a_fixed_function_of_seed_key_and_number(name):
    views = [
        seen(name, **change)
        for change in ({}, {"seed": 1}, {"key": 2}, {"number": 1}, {"number": 2}, {"number": 3}, {"number": 4})
    ]
    np.testing.assert_array_equal(views[0], seen(name))
    assert len({each.tobytes() for each in views}) >= 2
    for each in views:
        assert each.shape == IMAGE.shape
        assert each.min() >= 0
        assert each.max() <= 255


@pytest.mark.parametrize("name", POLICIES)
def test_a_view_is_the_same_inside_a_pipeline(name):
    mapped = tf.data.Dataset.range(4).map(
        lambda number: view(IMAGE, policy(name), 0, tf.constant(1, tf.int64), number), 4
    )
    for number, image in enumerate(mapped):
        np.testing.assert_allclose(image, seen(name, number=number), atol=1e-3)


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


PIXELS = np.random.default_rng(3).integers(20, 200, (24, 30, 3), np.uint8)
WITH_PILLOW = {
    "brightness": (operations.brightness, lambda image, amount: ImageEnhance.Brightness(image).enhance(amount)),
    "saturation": (operations.saturation, lambda image, amount: ImageEnhance.Color(image).enhance(amount)),
    "contrast": (operations.contrast, lambda image, amount: ImageEnhance.Contrast(image).enhance(amount)),
    "sharpness": (operations.sharpness, lambda image, amount: ImageEnhance.Sharpness(image).enhance(amount)),
    "posterize": (
        lambda image, amount: operations.posterize(image, 4 * amount),
        lambda image, amount: ImageOps.posterize(image, 8 - round(4 * amount)),
    ),
    "solarize": (
        lambda image, amount: operations.solarize(image, 100 * amount),
        lambda image, amount: ImageOps.solarize(image, 100 * amount),
    ),
    "autocontrast": (lambda image, _: operations.autocontrast(image), lambda image, _: ImageOps.autocontrast(image)),
    "equalize": (lambda image, _: operations.equalize(image), lambda image, _: ImageOps.equalize(image)),
}  # fmt: skip


@pytest.mark.parametrize("amount", [0.25, 0.75, 1.5])
@pytest.mark.parametrize("name", WITH_PILLOW)
def test_an_operation_does_what_pillow_does(name, amount):
    """Up to rounding, which Pillow does after each step."""
    ours, theirs = WITH_PILLOW[name]
    expected = np.asarray(theirs(Image.fromarray(PIXELS), amount), np.float32)
    np.testing.assert_allclose(ours(tf.constant(PIXELS, tf.float32), amount), expected, atol=2.0)


def test_an_image_of_one_value_is_left_alone_by_what_spreads_values():
    flat = tf.fill([8, 8, 3], 77.0)
    for operation in (operations.autocontrast, operations.equalize):
        np.testing.assert_array_equal(operation(flat), flat)


@pytest.mark.parametrize(("magnitude", "least"), [(0, 1), (30, 12), (None, 12)])
def test_operations_are_drawn_for_each_image_with_their_direction(magnitude, least):
    image = tf.constant(PIXELS, tf.float32)
    views = [
        operations.random_operation(image, magnitude, tf.constant([1, key], tf.int64)).numpy() for key in range(120)
    ]
    different = {each.round().astype(int).tobytes() for each in views}
    assert len(different) >= least
    if magnitude == 0:  # solarize at 255, equalize and autocontrast still do something
        assert len(different) <= 5


def test_a_crop_shows_at_least_its_share_of_the_area():
    rows, columns = np.mgrid[0:64, 0:64].astype(np.float32)
    places = tf.constant(np.stack([rows, columns, rows], -1))
    crop = policy("none").model_copy(update={"crop": 0.35})
    areas = []
    for key in range(60):
        shown = view(places, crop, 0, tf.constant(key, tf.int64), tf.constant(0, tf.int64)).numpy()
        areas.append(np.prod((np.ptp(shown[..., :2], axis=(0, 1)) + 1) / 64))
    assert min(areas) >= 0.3
    assert min(areas) < 0.45
    assert max(areas) > 0.85


def test_boxes_are_erased_in_the_share_of_views_that_is_asked_for():
    white, erasing = tf.fill([64, 64, 3], 255.0), policy("none").model_copy(update={"erasing": 0.3})
    shares = []
    for key in range(200):
        shown = view(white, erasing, 0, tf.constant(key, tf.int64), tf.constant(0, tf.int64)).numpy()
        shares.append((shown != 255).any(-1).mean())
    erased = [share for share in shares if share]
    assert 40 <= len(erased) <= 80
    assert 0 < min(erased) <= max(erased) <= 0.34


def flat(count=24):
    """Images of one value each: 10 times their number."""
    pixels = np.repeat(np.arange(count, dtype=np.uint8) * 10, 16 * 16 * 3).reshape(count, 16, 16, 3)
    return split_of(tuple(map(str, range(count))), np.arange(count, dtype=np.int32) % 3, pixels)


@pytest.mark.parametrize("changes", [{"mixup": 0.4}, {"cutmix": 1.0}, {"mixup": 0.4, "cutmix": 1.0}])
def test_labels_have_the_shares_that_pixels_have(changes):
    """By hand: of an image of value a and one of value b, the share of a is (mean - b) / (a - b)."""
    split, mixing = flat(), Views(Augmentation(**changes), 0, None, 3)
    ((pixels, labels, weights),) = training_batches(split, Images(16), 24, range(1), (0, 0), mixing)
    ((plain, order, _),) = training_batches(split, Images(16), 24, range(1), (0, 0), Views(Augmentation(), 0, None))
    assert labels.shape == (24, 3)
    assert weights.numpy().all()
    blended = 0
    for shown, own, label, shares in zip(pixels.numpy(), plain.numpy(), order.numpy(), labels.numpy(), strict=True):
        number = int(own[0, 0, 0]) // 10
        key, view_number = tf.constant(split.keys()[number]), tf.constant(0, tf.int64)
        other = int(partner(24, 0, key, view_number))
        first, second = number * 10.0, other * 10.0
        share = 1.0 if first == second else (shown.mean() - second) / (first - second)
        expected = share * np.eye(3)[label] + (1 - share) * np.eye(3)[split.labels[other]]
        np.testing.assert_allclose(shares, expected, atol=1e-4)
        is_flat = np.ptp(shown) < 1e-3
        blended += is_flat and 0.01 < share < 0.99
        if "cutmix" not in changes:
            assert is_flat
        if "mixup" not in changes:
            assert set(np.unique(shown)) <= {first, second}
    assert (blended > 0) == ("mixup" in changes)


def test_a_mixed_view_does_not_depend_on_the_batch_it_is_in():
    mixing = Views(policy("strong"), 0, None, 3)
    found = []
    for size in (8, 24):
        batches = training_batches(images(24), Images(32), size, range(2), (0, 0), mixing)
        found.append([np.concatenate(each) for each in zip(*(map(np.array, batch) for batch in batches), strict=True)])
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_share_is_drawn_from_its_beta_distribution():
    """Beta(a, a) has the variance 1 / (4 (2 a + 1))."""
    black, white = tf.zeros([1, 1, 3]), tf.fill([1, 1, 3], 1.0)
    for concentration in (0.2, 1.0):
        blend = Augmentation(mixup=concentration)
        drawn = [
            mix(white, black, blend, 0, tf.constant(key, tf.int64), tf.constant(0, tf.int64)) for key in range(800)
        ]
        shares = np.array([share.numpy() for _, share in drawn])
        np.testing.assert_allclose([pixels.numpy()[0, 0, 0] for pixels, _ in drawn], shares, rtol=1e-6)
        assert shares.mean() == pytest.approx(0.5, abs=0.05)
        assert shares.var() == pytest.approx(1 / (4 * (2 * concentration + 1)), rel=0.15)


def test_a_run_on_mixed_images_says_that_it_keeps_pixels_alone(command, client):
    status, out, err = command(*TINY, "augmentation=mixup", "unfreeze=3")
    assert status == 0, err
    assert "Trains without cached features: augmentation=mixup mixes images" in out + err
    (run,) = client().search_runs(["1"])
    assert run.data.params["with.augmentation.mixup"] == "0.2"
    assert 0 <= run.data.metrics["train_accuracy"] <= 1
