"""Grad-CAM: the image regions that a prediction depends on."""

from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf


def grad_cam(features: keras.Model, head: Sequence[keras.Layer], pixels: np.ndarray) -> np.ndarray:
    """Grad-CAM of the most probable class (Selvaraju et al. 2017) on the last feature maps.

    Args:
        features: pixels -> feature maps (batch, height, width, channels).
        head: the layers from there to the probabilities.
        pixels: float32 (images, size, size, 3) in [0, 255].

    Returns:
        float32 (images, height, width) in [0, 1], as large as the feature maps.
    """
    maps = features(pixels, training=False)
    with tf.GradientTape() as tape:
        tape.watch(maps)
        outputs = maps
        for layer in head:
            outputs = layer(outputs, training=False) if isinstance(layer, keras.layers.Dropout) else layer(outputs)
        score = tf.math.log(tf.reduce_max(outputs, axis=1) + 1e-12)
    weights = tf.reduce_mean(tape.gradient(score, maps), axis=(1, 2), keepdims=True)
    heat = tf.nn.relu(tf.reduce_sum(weights * maps, axis=-1, keepdims=True))
    heat /= tf.reduce_max(heat, axis=(1, 2, 3), keepdims=True) + 1e-12
    return heat[..., 0].numpy()


def resized(heat: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """A heat map as large as the picture that it is drawn on, float32 in [0, 1]."""
    return tf.image.resize(heat[..., np.newaxis], shape, "bicubic")[..., 0].numpy().clip(0, 1)
