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
from thaw.stage import Stage

MOMENTS = {"adam": 2, "adamw": 2, "rmsprop": 1, "sgd": 0}  # slot variables for each weight
FLOAT = 4  # bytes
LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")  # of a container


def check(model: keras.Model, config: Config, stages: list[Stage], classes: int, images: int) -> None:
    """Refuse a run that needs more memory than this machine has; a lower bound, so that no run that fits is refused.

    Args:
        model: the backbone.
        config: of the run.
        stages: of the run.
        classes: of the dataset.
        images: number of training images; no batch is larger.

    Raises:
        ThawError: it does not fit; says how much each part needs.
    """
    if tf.config.list_physical_devices("GPU"):  # GPU memory counts there, and its allocator raises
        return
    parts = estimate(model, config, stages, classes, images)
    needed, there = sum(parts.values()) / 1e9, available() / 1e9
    if needed > there:
        batches = f"images of {config.image_size} px in batches of {config.training.batch_size}"
        told = ", ".join(f"{name} {size / 1e9:.1f}" for name, size in parts.items() if size > 5e7)
        raise ThawError(
            f"{config.backbone.name} on {batches} needs at least {needed:.1f} GB of memory ({told}), and this machine "
            f"has {there:.1f} GB; reduce dataset.image_size, training.batch_size, unfreeze or the head"
        )


def estimate(model: keras.Model, config: Config, stages: list[Stage], classes: int, images: int) -> dict[str, int]:
    """The bytes that a run needs at least, by what they are for; arguments as those of `check`."""
    computed = FLOAT if config.training.precision == "float32" else FLOAT // 2  # bytes of a layer's outputs
    batch, hidden = min(config.training.batch_size, images), config.head.hidden
    features = math.prod(model.output.shape[1:]) if config.head.pooling == "flatten" else model.output.shape[-1]
    head = (features * hidden + hidden * classes if hidden else features * classes) * FLOAT
    rows = batch if all(stage.depth == "all" for stage in stages) else FROZEN_BATCH  # that are computed at once
    parts = {
        "weights": head + model.count_params() * FLOAT,
        "gradients and optimizer": 0,
        "images": rows * config.image_size**2 * 3 * FLOAT,
        "outputs of layers": rows * 2 * max(map(_values, model.layers)) * computed,  # input and output of one
    }
    for stage in stages:
        depth = len(model.layers) if stage.depth == "all" else min(stage.depth, len(model.layers))
        trained = model.layers[len(model.layers) - depth :]
        weights = sum(weight.shape.num_elements() for layer in trained for weight in layer.trainable_weights) * FLOAT
        kept = batch * sum(_values(layer) for layer in trained if layer.weights) * computed  # for backpropagation
        slots = 1 + MOMENTS[stage.settings.optimizer]
        parts["gradients and optimizer"] = max(parts["gradients and optimizer"], slots * (head + weights))
        parts["outputs of layers"] = max(parts["outputs of layers"], kept)
    return parts


def available() -> int:
    """The memory of this machine or of its container, bytes."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in LIMITS:
        with contextlib.suppress(OSError, ValueError):  # it is absent, or `max`
            found.append(int(Path(path).read_text()))
    return min(found)


def _values(layer: keras.Layer) -> int:
    """How many numbers a layer gives for one image."""
    return sum(math.prod(tensor.shape[1:]) for tensor in keras.tree.flatten(layer.output))
