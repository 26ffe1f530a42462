"""Whether a run fits into memory, estimated before it begins: the operating system would end it without a word."""

import contextlib
import math
import os
from pathlib import Path

import keras
import tensorflow as tf

from thaw.activations import FROZEN_BATCH
from thaw.config import Config
from thaw.errors import ThawError
from thaw.pipeline import PREFETCH

MOMENTS = {"adam": 2, "adamw": 2, "rmsprop": 1, "sgd": 0}  # numbers that an optimizer keeps for each weight
FLOAT = 4  # bytes
LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")  # of a container


def check(model: keras.Model, config: Config, classes: int, images: int) -> None:
    """Refuse a run that needs more than this machine has. The estimate is low, so that nothing that fits is refused.

    Args:
        model: the backbone.
        config: of the run.
        classes: of the dataset.
        images: that it trains on; no batch has more.

    Raises:
        ThawError: it does not fit, with the sum.
    """
    if tf.config.list_physical_devices("GPU"):  # whose own memory counts, and whose allocator says what it lacks
        return
    parts = estimate(model, config, classes, images)
    needed, there = sum(parts.values()) / 1e9, available() / 1e9
    if needed > there:
        batches = f"images of {config.image_size} px in batches of {config.training.batch_size}"
        told = ", ".join(f"{name} {size / 1e9:.1f}" for name, size in parts.items() if size > 5e7)
        raise ThawError(
            f"{config.backbone.name} on {batches} needs {needed:.1f} GB of memory or more ({told}), and this machine "
            f"has {there:.1f} GB; give a smaller dataset.image_size, training.batch_size, unfreeze or head"
        )


def estimate(model: keras.Model, config: Config, classes: int, images: int) -> dict[str, int]:
    """The bytes that a run needs at least, by what they are for."""
    batch, layers = min(config.training.batch_size, images), model.layers
    depth = len(layers) if config.unfreeze == "all" else min(config.unfreeze, len(layers))
    trained = layers[len(layers) - depth :]
    features = model.output.shape[-1]
    if config.head.pooling == "flatten":
        features = math.prod(model.output.shape[1:])
    hidden = config.head.hidden
    head = (features * hidden + hidden * classes if hidden else features * classes) * FLOAT
    updated = head + sum(weight.shape.num_elements() for layer in trained for weight in layer.weights) * FLOAT
    moments = max(MOMENTS[stage.optimizer] for stage in (config.training.head, config.training.finetune))
    decoded = batch if config.unfreeze == "all" or not config.activations.keep else FROZEN_BATCH
    return {
        "weights": head + model.count_params() * FLOAT,
        "gradients and optimizer": (1 + moments) * updated,
        "images": (1 + PREFETCH) * decoded * config.image_size**2 * 3 * FLOAT,
        "outputs of layers": max(
            FROZEN_BATCH * 2 * max(map(_bytes, layers)),  # what a layer takes and what it gives
            batch * sum(_bytes(layer) for layer in trained if layer.weights),  # for their gradients
        ),
    }


def available() -> int:
    """The memory of this machine or of its container, bytes."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in LIMITS:
        with contextlib.suppress(OSError, ValueError):  # it is absent, or `max`
            found.append(int(Path(path).read_text()))
    return min(found)


def _bytes(layer: keras.Layer) -> int:
    """The size of one image's output."""
    return sum(math.prod(tensor.shape[1:]) for tensor in keras.tree.flatten(layer.output)) * FLOAT
