"""Lower bound of the memory that a run needs, checked early: the out-of-memory killer leaves no message."""

import contextlib
import math
import os
from collections.abc import Sequence
from pathlib import Path

import tensorflow as tf

from thaw.config import schema
from thaw.errors import ThawError
from thaw.modalities.images.modality import Images
from thaw.models.backbone import Backbone
from thaw.models.graph import output_values
from thaw.models.units import positions
from thaw.training.features import frozen_batch
from thaw.training.stages import Stage

MOMENTS = {"adam": 2, "adamw": 2, "rmsprop": 1, "sgd": 0, "lion": 1}  # slot variables for each weight, or more
FLOAT = 4  # bytes
LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")  # of a container


def check_memory(
    backbone: Backbone,
    head: schema.Head,
    training: schema.Training,
    stages: list[Stage],
    modality: Images,
    classes: int,
    examples: int,
    shares: Sequence[float] = (1.0,),
) -> None:
    """Refuse a run that needs more memory than this machine has; a lower bound, so that no run that fits is refused.

    Args:
        backbone: of the run.
        head: of the run.
        training: has batch size and precision.
        stages: of the run.
        modality: of the examples.
        classes: of the dataset.
        examples: number of training examples; no batch is larger.
        shares: of the size that is tested, at which stages train.

    Raises:
        ThawError: it does not fit; names how much each part needs.
    """
    if tf.config.list_physical_devices("GPU"):  # GPU memory counts there, and its allocator raises
        return
    parts = estimate(backbone, head, training, stages, modality, classes, examples, shares)
    needed, present = sum(parts.values()) / 1e9, available() / 1e9
    if needed > present:
        batches = f"images of {modality.description} in batches of {training.batch_size}"
        details = ", ".join(f"{name} {size / 1e9:.1f}" for name, size in parts.items() if size > 5e7)
        raise ThawError(
            f"{backbone.name} on {batches} needs at least {needed:.1f} GB of memory ({details}), and this "
            f"machine has {present:.1f} GB; reduce dataset.image_size, training.batch_size, unfreeze or the head"
        )


def estimate(
    backbone: Backbone,
    head: schema.Head,
    training: schema.Training,
    stages: list[Stage],
    modality: Images,
    classes: int,
    examples: int,
    shares: Sequence[float] = (1.0,),
) -> dict[str, int]:
    """The bytes that a run needs at least, by what they are for; arguments as for `check_memory`."""
    units, features = backbone.units, backbone.model.output.shape
    computed = FLOAT if training.precision == "float32" else FLOAT // 2  # bytes of a layer's outputs
    batch = min(training.batch_size, examples)
    width = math.prod(features[1:]) if head.pooling == "flatten" else features[-1]
    top = (width * head.hidden + head.hidden * classes if head.hidden else width * classes) * FLOAT
    rows = batch if all(stage.depth == "all" for stage in stages) else frozen_batch(modality.values)  # computed at once
    parts = {
        "weights": top + backbone.model.count_params() * FLOAT,
        "gradients and optimizer": 0,
        "images": rows * modality.values * FLOAT,
        "outputs of layers": rows * 2 * max(map(output_values, units)) * computed,  # input and output of one
    }
    for stage in stages:
        trained = [units[place] for place in positions(stage.depth, len(units))]
        weights = sum(math.prod(weight.shape) for layer in trained for weight in layer.trainable_weights) * FLOAT
        outputs = sum(output_values(layer) for layer in trained if layer.weights) * computed
        kept = int(batch * outputs * min(shares) ** 2)  # for backpropagation
        optimizer = stage.optimizer
        slots = (
            1 + MOMENTS[optimizer.name] + (optimizer.momentum > 0) + (optimizer.accumulate > 1) + bool(optimizer.ema)
        )
        parts["gradients and optimizer"] = max(parts["gradients and optimizer"], slots * (top + weights))
        parts["outputs of layers"] = max(parts["outputs of layers"], kept)
    return parts


def available() -> int:
    """The memory of this machine or of its container, bytes."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in LIMITS:
        with contextlib.suppress(OSError, ValueError):  # missing, or `max`
            found.append(int(Path(path).read_text()))
    return min(found)
