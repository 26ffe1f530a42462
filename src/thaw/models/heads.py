"""Heads: the layers between the backbone's features and the probabilities."""

from dataclasses import dataclass

import keras

from thaw.config import schema
from thaw.models import graph

POOLINGS = {
    "avg": keras.layers.GlobalAveragePooling2D,
    "max": keras.layers.GlobalMaxPooling2D,
    "flatten": keras.layers.Flatten,
}


@dataclass(frozen=True)
class Labels:
    """Which labels a network predicts.

    Attributes:
        classes: how many.
        multi_label: whether an example may have several, so that each has a probability of its own.
    """

    classes: int
    multi_label: bool = False


def has_several_classes(last: keras.Layer) -> bool:
    """Whether the last layer of a head gives each class by itself, as an example may have several."""
    return last.activation is keras.activations.sigmoid


def build_head(head: schema.Head, labels: Labels, seed: int) -> tuple[keras.Layer, ...]:
    """The layers of a head, in order; the first one pools and has no weights, the last one gives probabilities.

    Initial weights depend on the seed alone. Probabilities add up to 1, or of several labels are each in [0, 1].
    """
    layers = [POOLINGS[head.pooling](name=graph.POOLING)]
    if head.hidden:
        initial = keras.initializers.GlorotUniform(seed)
        layers.append(keras.layers.Dense(head.hidden, "relu", kernel_initializer=initial, name="hidden"))
    if head.dropout:
        layers.append(keras.layers.Dropout(head.dropout, seed=seed, name="dropout"))
    initial = keras.initializers.GlorotUniform(seed + 1)
    activation = "sigmoid" if labels.multi_label else "softmax"
    probabilities = keras.layers.Dense(
        labels.classes, activation, kernel_initializer=initial, dtype="float32", name="probabilities"
    )
    return (*layers, probabilities)
