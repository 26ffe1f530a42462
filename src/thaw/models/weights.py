"""The initial weights of a backbone: from a file, or random with measured batch-norm statistics."""

import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np

from thaw import progress
from thaw.array_store import ArrayStore, Entry
from thaw.errors import ThawError, one_line
from thaw.models.backbone import Backbone


def initialize(
    backbone: Backbone,
    batches: Iterable[np.ndarray],
    store: ArrayStore | None = None,
    key: str = "",
    fresh: int = 0,
    seed: int = 0,
) -> Backbone:
    """Complete the initial weights of a backbone, and compute their digest.

    Args:
        backbone: just built.
        batches: training examples as tensors float32 (batch, ...), from which random weights take their batch-norm
            statistics; unused otherwise.
        store: keeps random weights with their statistics, which take many passes over the examples.
        key: what they depend on there.
        fresh: how many units at the end start anew, unless all have random weights.
        seed: of theirs.
    """
    if backbone.weights == "random":
        examples = (backbone.preprocess(batch.copy()) for batch in batches)
        if store is None or not _stored(backbone.model, examples, store, key):
            # If the disk was full, they are measured already, and no examples are left: this changes nothing.
            set_batch_norm_statistics(backbone.model, examples)
    elif fresh:
        _start_anew(backbone, batches, fresh, seed)
    return replace(backbone, digest=weights_digest(backbone.model))


def _start_anew(backbone: Backbone, batches: Iterable[np.ndarray], fresh: int, seed: int) -> None:
    """Give the last units random weights, with batch-norm statistics measured behind the pretrained ones."""
    keras.utils.set_random_seed(seed)
    others, units = keras.models.clone_model(backbone.model), list(backbone.units)[-fresh:]
    for layer in units:
        layer.set_weights(others.get_layer(layer.name).get_weights())
    set_batch_norm_statistics(backbone.model, (backbone.preprocess(batch.copy()) for batch in batches), units)


def _stored(model: keras.Model, batches: Iterable[np.ndarray], store: ArrayStore, key: str) -> bool:
    """Set all weights to the stored ones, computed first if missing; whether they can be stored."""
    shapes = [(variable.shape, np.dtype(variable.dtype)) for variable in model.weights]
    size = sum(math.prod(shape) * dtype.itemsize for shape, dtype in shapes)

    def compute() -> Iterator[tuple]:
        set_batch_norm_statistics(model, batches)
        flat = [np.ascontiguousarray(each).reshape(-1).view(np.uint8) for each in model.get_weights()]
        yield ([np.concatenate(flat)],)

    with store:
        found = store.get(Entry(key, "initial weights", size, 1, "uint8", "bytes"), compute)
        if isinstance(found, str):
            return False
        values, start = [], 0
        for shape, dtype in shapes:
            end = start + math.prod(shape) * dtype.itemsize
            values.append(found[0][start:end].view(dtype).reshape(shape))
            start = end
        model.set_weights(values)
    return True


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


def set_batch_norm_statistics(
    model: keras.Model, batches: Iterable[np.ndarray], among: Sequence[keras.layers.Layer] | None = None
) -> None:
    """Set the moving statistics of batch normalization to their mean over `batches`.

    Args:
        model: changed in place.
        batches: of its inputs.
        among: the layers whose statistics are set; None: all. Others normalize by those they have.
    """
    every = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    normalizations = every if among is None else [layer for layer in every if any(layer is each for each in among)]
    others = [layer for layer in every if not any(layer is each for each in normalizations)]
    dropouts = [layer for layer in model.layers if isinstance(layer, keras.layers.Dropout)]
    if not normalizations:
        return
    momenta, rates = [layer.momentum for layer in normalizations], [layer.rate for layer in dropouts]
    for layer in dropouts:
        layer.rate = 0.0
    for layer in others:
        layer.trainable = False  # inference mode
    try:
        for number, batch in enumerate(progress.counted(batches, "batch-norm statistics", None, "batches")):
            for layer in normalizations:
                layer.momentum = number / (number + 1)  # makes the moving average a plain mean
            model(batch, training=True)
    finally:  # the next run of the process may take this network
        for layer, momentum in zip(normalizations, momenta, strict=True):
            layer.momentum = momentum
        for layer in others:
            layer.trainable = True
        for layer, rate in zip(dropouts, rates, strict=True):
            layer.rate = rate
