"""The operations of RandAugment and TrivialAugment, of which each view gets some, drawn for each image.

RandAugment (Cubuk et al. 2020, https://arxiv.org/abs/1909.13719) and TrivialAugment (Müller and Hutter 2021,
https://arxiv.org/abs/2103.10158), with the ranges of torchvision. Images are float32 (height, width, 3) in [0, 255].
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import tensorflow as tf

GREY = 128.0  # beyond the borders
LUMA = (0.299, 0.587, 0.114)  # of red, green and blue, ITU-R 601
SMOOTH = ((1.0, 1.0, 1.0), (1.0, 5.0, 1.0), (1.0, 1.0, 1.0))  # of Pillow's sharpness, divided by 13


@dataclass(frozen=True)
class Ranges:
    """What the highest magnitude is.

    Attributes:
        shear: of a side's length.
        translation: share of a side.
        rotation: degrees.
        enhancement: distance of a factor from 1.
        bits: that posterization drops.
    """

    shear: float
    translation: float
    rotation: float
    enhancement: float
    bits: int


RANDAUGMENT = Ranges(0.3, 150 / 331, 30, 0.9, 4)
TRIVIALAUGMENT = Ranges(0.99, 32 / 224, 135, 0.99, 6)
MAGNITUDES = 30  # of RandAugment, from 0


def random_operation(image: tf.Tensor, magnitude: int | None, state: tf.Tensor) -> tf.Tensor:
    """The image after one operation of fourteen, drawn with its direction.

    Args:
        image: float32 (height, width, 3).
        magnitude: from 0 to 30, as RandAugment has it; None: drawn as well, from the wider ranges of TrivialAugment.
        state: int64 (2,), what is drawn depends on it alone.
    """
    ranges = TRIVIALAUGMENT if magnitude is None else RANDAUGMENT
    which, sign, drawn = tf.unstack(tf.random.stateless_uniform([3], state))
    level = drawn if magnitude is None else tf.constant(magnitude / MAGNITUDES)
    signed = tf.where(sign < 0.5, -level, level)
    branches = _operations(image, ranges, level, signed)
    chosen = tf.minimum(tf.cast(which * len(branches), tf.int32), len(branches) - 1)
    return tf.ensure_shape(tf.switch_case(chosen, branches), image.shape)


def _operations(image: tf.Tensor, ranges: Ranges, level: tf.Tensor, signed: tf.Tensor) -> list[Callable]:
    height, width = (tf.cast(side, tf.float32) for side in tf.unstack(tf.shape(image)[:2]))
    shear, factor = signed * ranges.shear, 1 + signed * ranges.enhancement
    angle = signed * ranges.rotation * math.pi / 180
    return [
        lambda: image,
        lambda: _about_center(image, 1.0, shear, 0.0, 1.0),
        lambda: _about_center(image, 1.0, 0.0, shear, 1.0),
        lambda: _projected(image, 1.0, 0.0, signed * ranges.translation * width, 0.0, 1.0, 0.0),
        lambda: _projected(image, 1.0, 0.0, 0.0, 0.0, 1.0, signed * ranges.translation * height),
        lambda: _about_center(image, tf.cos(angle), -tf.sin(angle), tf.sin(angle), tf.cos(angle)),
        lambda: brightness(image, factor),
        lambda: saturation(image, factor),
        lambda: contrast(image, factor),
        lambda: sharpness(image, factor),
        lambda: posterize(image, level * ranges.bits),
        lambda: solarize(image, 255 * (1 - level)),
        lambda: autocontrast(image),
        lambda: equalize(image),
    ]


def brightness(image: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Blend with black: 0 is black, 1 the image."""
    return _blended(tf.zeros_like(image), image, factor)


def saturation(image: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Blend with the image in grey."""
    return _blended(_grey(image), image, factor)


def contrast(image: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Blend with the mean grey of the image."""
    return _blended(tf.reduce_mean(_grey(image)), image, factor)


def sharpness(image: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Blend with the smoothed image; its border stays."""
    kernel = tf.tile(tf.constant(SMOOTH)[:, :, tf.newaxis, tf.newaxis] / 13, [1, 1, 3, 1])
    inner = tf.nn.depthwise_conv2d(image[tf.newaxis], kernel, [1, 1, 1, 1], "VALID")[0]
    inside = tf.pad(tf.ones_like(inner, tf.bool), [[1, 1], [1, 1], [0, 0]])
    return _blended(tf.where(inside, tf.pad(inner, [[1, 1], [1, 1], [0, 0]]), image), image, factor)


def posterize(image: tf.Tensor, bits: tf.Tensor) -> tf.Tensor:
    """Drop the lowest bits of each value, of eight; `bits` is rounded."""
    step = tf.pow(2.0, tf.round(bits))
    return tf.floor(tf.round(image) / step) * step


def solarize(image: tf.Tensor, threshold: tf.Tensor) -> tf.Tensor:
    """Invert the values from the threshold up."""
    return tf.where(image < threshold, image, 255 - image)


def autocontrast(image: tf.Tensor) -> tf.Tensor:
    """Stretch the values of each channel over the whole range."""
    low, high = tf.reduce_min(image, [0, 1]), tf.reduce_max(image, [0, 1])
    range_ = tf.where(high > low, high - low, 255.0)
    return tf.where(high > low, tf.minimum((image - low) * (255 / range_), 255), image)


def equalize(image: tf.Tensor) -> tf.Tensor:
    """Spread the values of each channel evenly, as Pillow does."""
    values = tf.cast(tf.round(image), tf.int32)

    def channel(plane: tf.Tensor) -> tf.Tensor:
        counts = tf.math.bincount(tf.reshape(plane, [-1]), minlength=256, maxlength=256)
        step = (tf.size(plane) - counts[tf.reduce_max(plane)]) // 255
        table = tf.minimum((tf.cumsum(counts, exclusive=True) + step // 2) // tf.maximum(step, 1), 255)
        return tf.where(step > 0, tf.gather(table, plane), plane)

    return tf.cast(tf.stack([channel(values[..., each]) for each in range(3)], -1), tf.float32)


def _blended(other: tf.Tensor, image: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    return tf.clip_by_value(other + (image - other) * factor, 0, 255)


def _grey(image: tf.Tensor) -> tf.Tensor:
    """float32 (height, width, 1)."""
    return tf.reduce_sum(image * tf.constant(LUMA), -1, keepdims=True)


def _about_center(image: tf.Tensor, xx, xy, yx, yy) -> tf.Tensor:
    """Where a pixel of the view comes from, as a matrix about the center of the image."""
    x, y = ((tf.cast(tf.shape(image)[axis], tf.float32) - 1) / 2 for axis in (1, 0))
    return _projected(image, xx, xy, x - xx * x - xy * y, yx, yy, y - yx * x - yy * y)


def _projected(image: tf.Tensor, xx, xy, x, yx, yy, y) -> tf.Tensor:
    """The pixel (column, row) of the view is that at (xx column + xy row + x, yx column + yy row + y) of the image."""
    projected = tf.raw_ops.ImageProjectiveTransformV3(
        images=image[tf.newaxis],
        transforms=tf.stack([xx, xy, x, yx, yy, y, 0.0, 0.0])[tf.newaxis],
        output_shape=tf.shape(image)[:2],
        fill_value=GREY,
        interpolation="BILINEAR",
        fill_mode="CONSTANT",
    )
    return tf.clip_by_value(projected[0], 0, 255)
