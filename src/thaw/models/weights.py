"""The initial weights of a backbone: from a file, or random with measured batch-norm statistics."""

import hashlib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np

from thaw import progress
from thaw.errors import ThawError, one_line
from thaw.models.backbone import Backbone


def initialize(backbone: Backbone, batches: Iterable[np.ndarray]) -> Backbone:
    """Complete the initial weights of a backbone, and compute their digest.

    Args:
        backbone: just built.
        batches: training examples as tensors float32 (batch, ...), from which random weights take their batch-norm
            statistics; unused otherwise.
    """
    if backbone.weights == "random":
        set_batch_norm_statistics(backbone.model, (backbone.preprocess(batch.copy()) for batch in batches))
    return replace(backbone, digest=weights_digest(backbone.model))


def weights_digest(model: keras.Model) -> str:
    """SHA-256 over the names, shapes and bytes of a model's weights, in order.

    The names of layers are left out: Keras numbers automatic ones by what was built before in the process.
    """
    found = hashlib.sha256()
    for variable in model.weights:
        found.update(f"{variable.name} {tuple(variable.shape)}".encode())
        found.update(np.ascontiguousarray(variable.numpy()).data)
    return found.hexdigest()


def read_file(model: keras.Model, path: str | None) -> None:
    """Load weights from a file.

    Raises:
        ThawError: the file does not exist or does not fit.
    """
    if path is None or not Path(path).is_file():
        raise ThawError(f"weights.path={path} is not a file; expected weights saved with include_top=False")
    try:
        model.load_weights(Path(path))
    except Exception as error:
        raise ThawError(
            f"weights.path={path} does not fit {model.name} ({one_line(error)}); give weights of that network"
        ) from error


def set_batch_norm_statistics(model: keras.Model, batches: Iterable[np.ndarray]) -> None:
    """Set the moving statistics of every batch normalization to their mean over `batches`."""
    normalizations = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    dropouts = [layer for layer in model.layers if isinstance(layer, keras.layers.Dropout)]
    if not normalizations:
        return
    momenta, rates = [layer.momentum for layer in normalizations], [layer.rate for layer in dropouts]
    for layer in dropouts:
        layer.rate = 0.0
    for number, batch in enumerate(progress.counted(batches, "batch-norm statistics", None, "batches")):
        for layer in normalizations:
            layer.momentum = number / (number + 1)  # makes the moving average a plain mean
        model(batch, training=True)
    for layer, momentum in zip(normalizations, momenta, strict=True):
        layer.momentum = momentum
    for layer, rate in zip(dropouts, rates, strict=True):
        layer.rate = rate
