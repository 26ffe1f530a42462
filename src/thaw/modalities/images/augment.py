"""Stateless augmentation: a view is a pure function of the seed, the image and the number of the view."""

import math

import tensorflow as tf

from thaw.config.schema import Augmentation


def view(image: tf.Tensor, policy: Augmentation, seed: int, key: tf.Tensor, number: tf.Tensor) -> tf.Tensor:
    """View `number` of an image, a fixed function of (seed, key, number).

    Args:
        image: float32 (height, width, 3).
        policy: flip, rotation, zoom and translation, applied as one projection with mirrored borders.
        seed: of the run.
        key: int64 scalar that identifies the image.
        number: int64 scalar.

    Returns:
        float32 (height, width, 3), the range of values unchanged.
    """
    state = tf.random.experimental.stateless_fold_in(tf.stack([tf.constant(seed, tf.int64), key]), number)
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
    return tf.ensure_shape(projected[0], image.shape)
