"""Lower bound of the memory that a run needs, checked early: the out-of-memory killer leaves no message."""

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

MOMENTS = {"adam": 2, "adamw": 2, "rmsprop": 1, "sgd": 0}  # slot variables for each weight
FLOAT = 4  # bytes
LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")  # of a container


def check(model: keras.Model, config: Config, classes: int, images: int) -> None:
    """Refuse a run that needs more memory than this machine has; a lower bound, so that no run that fits is refused.

    Args:
        model: the backbone.
        config: of the run.
        classes: of the dataset.
        images: number of training images; no batch is larger.

    Raises:
        ThawError: it does not fit; says how much each part needs.
    """
    if tf.config.list_physical_devices("GPU"):  # GPU memory counts there, and its allocator raises
        return
    parts = estimate(model, config, classes, images)
    needed, there = sum(parts.values()) / 1e9, available() / 1e9
    if needed > there:
        batches = f"images of {config.image_size} px in batches of {config.training.batch_size}"
        told = ", ".join(f"{name} {size / 1e9:.1f}" for name, size in parts.items() if size > 5e7)
        raise ThawError(
            f"{config.backbone.name} on {batches} needs at least {needed:.1f} GB of memory ({told}), and this machine "
            f"has {there:.1f} GB; reduce dataset.image_size, training.batch_size, unfreeze or the head"
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
            FROZEN_BATCH * 2 * max(map(_bytes, layers)),  # input and output of the largest layer
            batch * sum(_bytes(layer) for layer in trained if layer.weights),  # kept for backpropagation
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
