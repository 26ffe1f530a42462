"""Stateless augmentation: a view is a pure function of the seed, the image and the number of the view."""

import math

import tensorflow as tf

from thaw.config.schema import Augmentation
from thaw.modalities.images import operations

ASPECTS = 3 / 4, 4 / 3  # of crops (Szegedy et al. 2015)
ERASED, ERASED_ASPECTS = (0.02, 0.33), (0.3, 3.3)  # share of the area (Zhong et al. 2017)
CROP, COLOUR, ERASING, MIXING, OPERATIONS = range(1, 6)  # what is drawn for one does not change the others


def view(image: tf.Tensor, policy: Augmentation, seed: int, key: tf.Tensor, number: tf.Tensor) -> tf.Tensor:
    """View `number` of an image, a fixed function of (seed, key, number).

    Args:
        image: float32 (height, width, 3) in [0, 255].
        policy: applied in this order: flip, rotation, zoom and translation as one projection with mirrored borders,
            crop, operations, colour, erasing.
        seed: of the run.
        key: int64 scalar that identifies the image.
        number: int64 scalar.

    Returns:
        float32 (height, width, 3) in [0, 255].
    """
    shape, state = image.shape, _state(seed, key, number)
    image = _moved(image, policy, state)
    if policy.crop:
        image = _cropped(image, policy.crop, _fold(state, CROP))
    for place in range(policy.operations):
        image = operations.random_operation(image, policy.magnitude, _fold(state, OPERATIONS + place))
    if policy.colour:
        image = _recoloured(image, policy.colour, _fold(state, COLOUR))
    if policy.erasing:
        image = _erased(image, policy.erasing, _fold(state, ERASING))
    return tf.ensure_shape(image, shape)


def partner(count: int, seed: int, key: tf.Tensor, number: tf.Tensor) -> tf.Tensor:
    """The index of the example that view `number` of an example is mixed with, int32 in [0, count)."""
    state = _fold(_state(seed, key, number), MIXING)
    return tf.random.stateless_uniform([], state, 0, count, tf.int32)


def mix(
    image: tf.Tensor, other: tf.Tensor, policy: Augmentation, seed: int, key: tf.Tensor, number: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """View `number` of an image and its partner's in one.

    MixUp (Zhang et al. 2018) blends them, CutMix (Yun et al. 2019) replaces a box; with both, one of them is drawn. The
    share of the image is drawn from Beta(a, a), where a is `policy.mixup` or `policy.cutmix`.

    Returns:
        float32 (height, width, 3), and the share of the image in it, float32 scalar in [0, 1].
    """
    states = tf.unstack(tf.random.split(_fold(_state(seed, key, number), MIXING), 4))
    blends = tf.random.stateless_uniform([], states[0]) < _blending(policy)

    def blended() -> tuple[tf.Tensor, tf.Tensor]:
        share = _beta(policy.mixup, states[1])
        return share * image + (1 - share) * other, share

    def replaced() -> tuple[tf.Tensor, tf.Tensor]:
        inside = _box(image, 1 - _beta(policy.cutmix, states[2]), 1.0, states[3])
        return tf.where(inside, other, image), 1 - tf.reduce_mean(tf.cast(inside, tf.float32))

    return tf.cond(blends, blended, replaced)


def _blending(policy: Augmentation) -> float:
    """How often images are blended, in place of a box of them replaced."""
    return 1.0 if not policy.cutmix else 0.5 if policy.mixup else 0.0


def _beta(concentration: float, state: tf.Tensor) -> tf.Tensor:
    """A number from Beta(concentration, concentration), float32 scalar."""
    one, other = tf.unstack(tf.random.stateless_gamma([2], state, concentration or 1.0, dtype=tf.float64))
    return tf.cast(tf.where(one + other > 0, one / (one + other), 1.0), tf.float32)


def _state(seed: int, key: tf.Tensor, number: tf.Tensor) -> tf.Tensor:
    return _fold(tf.stack([tf.constant(seed, tf.int64), key]), number)


def _fold(state: tf.Tensor, number) -> tf.Tensor:
    return tf.random.experimental.stateless_fold_in(state, number)


def _moved(image: tf.Tensor, policy: Augmentation, state: tf.Tensor) -> tf.Tensor:
    """Flip, rotation, zoom and translation."""
    flip, angle, scale, right, down = tf.unstack(tf.random.stateless_uniform([5], state, -1.0, 1.0))
    if policy.flip:
        image = tf.where(flip < 0, tf.reverse(image, [1]), image)
    if not (policy.rotation or policy.zoom or policy.translation):
        return image
    height, width = (tf.cast(side, tf.float32) for side in tf.unstack(tf.shape(image)[:2]))
    angle *= policy.rotation * 2 * math.pi
    scale = 1 + scale * policy.zoom
    cosine, sine = tf.cos(angle) * scale, tf.sin(angle) * scale
    # Rows of the matrix that maps a pixel of the view to its source in the image: about the center, then shifted.
    middle_x, middle_y = (width - 1) / 2, (height - 1) / 2
    shift_x = middle_x - cosine * middle_x + sine * middle_y + right * policy.translation * width
    shift_y = middle_y - sine * middle_x - cosine * middle_y + down * policy.translation * height
    transform = tf.stack([cosine, -sine, shift_x, sine, cosine, shift_y, 0.0, 0.0])
    projected = tf.raw_ops.ImageProjectiveTransformV3(
        images=image[tf.newaxis],
        transforms=transform[tf.newaxis],
        output_shape=tf.shape(image)[:2],
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="REFLECT",
    )
    return projected[0]


def _cropped(image: tf.Tensor, smallest: float, state: tf.Tensor) -> tf.Tensor:
    """A part of between `smallest` and all of the area, enlarged to the size of the image."""
    area, aspect, down, right = tf.unstack(tf.random.stateless_uniform([4], state))
    area, aspect = smallest + area * (1 - smallest), _log_uniform(aspect, *ASPECTS)
    width, height = tf.minimum(tf.sqrt(area * aspect), 1.0), tf.minimum(tf.sqrt(area / aspect), 1.0)
    top, left = down * (1 - height), right * (1 - width)
    box = tf.stack([top, left, top + height, left + width])
    return tf.image.crop_and_resize(image[tf.newaxis], box[tf.newaxis], [0], tf.shape(image)[:2])[0]


def _recoloured(image: tf.Tensor, strength: float, state: tf.Tensor) -> tf.Tensor:
    """Brightness, contrast, saturation and hue, the last by a quarter of the strength, as in SimCLR."""
    *factors, hue = tf.unstack(tf.random.stateless_uniform([4], state, -strength, strength))
    image = operations.brightness(image, 1 + factors[0])
    image = operations.contrast(image, 1 + factors[1])
    image = operations.saturation(image, 1 + factors[2])
    return tf.clip_by_value(tf.image.adjust_hue(image / 255, hue / 4) * 255, 0, 255)


def _erased(image: tf.Tensor, probability: float, state: tf.Tensor) -> tf.Tensor:
    """Noise in a box, in so many of the views."""
    places, noise = tf.unstack(tf.random.split(state, 2))
    happens, area, aspect = tf.unstack(tf.random.stateless_uniform([3], state))

    def replaced() -> tf.Tensor:
        share = ERASED[0] + area * (ERASED[1] - ERASED[0])
        inside = _box(image, share, _log_uniform(aspect, *ERASED_ASPECTS), places)
        return tf.where(inside, tf.random.stateless_uniform(tf.shape(image), noise, 0.0, 255.0), image)

    return tf.cond(happens < probability, replaced, lambda: image)


def _box(image: tf.Tensor, area: tf.Tensor, aspect, state: tf.Tensor) -> tf.Tensor:
    """bool (height, width, 1): a box of that share of the area about a point of the image, cut off at the borders."""
    sides = tf.cast(tf.shape(image)[:2], tf.float32)
    half = sides * tf.stack([tf.sqrt(area / aspect), tf.sqrt(area * aspect)]) / 2
    center = tf.random.stateless_uniform([2], state) * sides
    low, high = tf.round(center - half), tf.round(center + half)
    rows, columns = tf.range(sides[0]), tf.range(sides[1])
    inside = [(low[axis] <= each) & (each < high[axis]) for axis, each in enumerate((rows, columns))]
    return (inside[0][:, tf.newaxis] & inside[1][tf.newaxis, :])[..., tf.newaxis]


def _log_uniform(drawn: tf.Tensor, low: float, high: float) -> tf.Tensor:
    return tf.exp(math.log(low) + drawn * (math.log(high) - math.log(low)))
