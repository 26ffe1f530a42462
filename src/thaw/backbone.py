"""A name -> the Keras Applications model without its top, its preprocessing, and its weights."""

import hashlib
import inspect
import re
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType

import keras
import numpy as np

from thaw import config, downloads, progress
from thaw.config import nearest
from thaw.errors import ThawError

DEVIATIONS = (0.229, 0.224, 0.225)  # of ImageNet's red, green and blue, in [0, 1]


@dataclass(frozen=True)
class Backbone:
    """A pretrained network.

    Attributes:
        model: takes preprocessed images float32 (batch, size, size, 3), gives float32 feature maps.
        preprocess: takes pixels in [0, 255] to what `model` wants; works on symbolic tensors.
        weights: what the weights are: imagenet, random or file.
        digest: SHA-256 of the initial weights.
    """

    model: keras.Model
    preprocess: Callable
    weights: str
    digest: str


def load(
    backbone: config.Backbone,
    weights: config.Weights,
    size: int,
    seed: int,
    images: Iterable[np.ndarray],
    check: Callable[[keras.Model], None] = lambda model: None,
) -> Backbone:
    """Build the backbone and give it its weights.

    Args:
        backbone: which network.
        weights: which weights.
        size: of the images, px a side.
        seed: of random weights.
        images: batches of training images, float32 (batch, size, size, 3) in [0, 255]; random weights take their
            batch-norm statistics from them, other weights leave them alone.
        check: raises for a network that cannot be trained here, before anything is computed.

    Raises:
        ThawError: there is no such network, or its weights cannot be had or do not fit.
    """
    module, constructor = application(backbone.name)
    arguments = {"include_top": False, "input_shape": (size, size, 3)}
    if backbone.alpha is not None:
        if "alpha" not in inspect.signature(constructor).parameters:
            raise ThawError(
                f"{backbone.name} has no width to set, received backbone.alpha={backbone.alpha}; leave it out"
            )
        arguments["alpha"] = backbone.alpha
    keras.utils.set_random_seed(seed)
    source, model = weights.source, None
    try:
        if source in ("auto", "imagenet"):
            source, model = _imagenet(constructor, arguments, fall_back=source == "auto")
        if model is None:
            model = constructor(weights=None, **arguments)
    except ValueError as error:
        raise ThawError(f"{backbone.name} cannot be built so: {' '.join(str(error).split())}") from error
    check(model)
    if source == "file":
        model = _as_for_imagenet(model)
        _read_file(model, weights.path)
    if source == "random":
        _set_statistics(model, (module.preprocess_input(batch.copy()) for batch in images))
    return Backbone(model, module.preprocess_input, source, digest(model))


def digest(model: keras.Model) -> str:
    """SHA-256 over the kinds, shapes and bytes of all of a model's weights, in their order.

    The names of layers are left out: Keras numbers those that have none by what was built before in the process.
    """
    found = hashlib.sha256()
    for variable in model.weights:
        found.update(f"{variable.name} {tuple(variable.shape)}".encode())
        found.update(np.ascontiguousarray(variable.numpy()))
    return found.hexdigest()


def application(name: str) -> tuple[ModuleType, Callable[..., keras.Model]]:
    """The module of Keras Applications that has the network, and the function that builds it."""
    modules = [each for each in vars(keras.applications).values() if hasattr(each, "preprocess_input")]
    found = {
        attribute: module
        for module in modules
        for attribute, value in vars(module).items()
        if callable(value) and attribute[0].isupper()
    }
    if name not in found:
        raise ThawError(f"backbone.name={name} is not a Keras Applications model{nearest(name, sorted(found))}")
    return found[name], getattr(found[name], name)


def _imagenet(
    constructor: Callable[..., keras.Model], arguments: dict, fall_back: bool
) -> tuple[str, keras.Model | None]:
    """The network with ImageNet weights; or, where they cannot be had and it may fall back, none."""
    try:
        with downloads.hurried(), warnings.catch_warnings():
            # MobileNet's ImageNet weights are for 224 px; without the top they fit any size.
            warnings.filterwarnings("ignore", "`input_shape` is undefined or non-square")
            return "imagenet", constructor(weights="imagenet", **arguments)
    except Exception as error:
        # Keras raises a bare Exception for a download that fails and a ValueError for one that is damaged.
        reason = " ".join(str(error).split())
        if not any(sign in reason for sign in ("URL fetch failure", "Incomplete or corrupted", "timed out")):
            raise
        if fall_back:
            _warn(reason if downloads.reachable(downloads.KERAS_HOST) else f"{downloads.KERAS_HOST} is not reachable")
            return "random", None
        raise ThawError(
            f"weights=imagenet cannot be downloaded ({reason}); connect once, or give weights=file "
            "weights.path=... or weights=random"
        ) from error


@cache
def _warn(reason: str) -> None:
    """Warn once per process that results are not those of a pretrained network."""
    progress.reporter().announce(
        f"WARNING: ImageNet weights cannot be downloaded ({reason}); networks start from RANDOM weights, and their "
        "results say nothing about pretrained ones."
    )


def _as_for_imagenet(model: keras.Model) -> keras.Model:
    """The graph that Keras builds for its ImageNet weights; the weight files do not tell.

    Only EfficientNet's differs: Keras divides by the square root of ImageNet's standard deviations once more
    (tensorflow/tensorflow#49930).
    """
    if not re.fullmatch(r"efficientnetb\d", model.name):
        return model

    def called(layer, inputs, *arguments, **options):
        outputs = layer(inputs, *arguments, **options)
        if isinstance(layer, keras.layers.Normalization):
            outputs = keras.layers.Rescaling([deviation**-0.5 for deviation in DEVIATIONS])(outputs)
        return outputs

    return keras.models.clone_model(model, call_function=called)


def _read_file(model: keras.Model, path: str | None) -> None:
    if path is None or not Path(path).is_file():
        raise ThawError(f"weights.path={path} is not a file; give the weights of the backbone without its top")
    try:
        model.load_weights(Path(path))
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise ThawError(f"weights.path={path} does not fit {model.name} ({reason}); give its own weights") from error


def _set_statistics(model: keras.Model, batches: Iterable[np.ndarray]) -> None:
    """Set the moving statistics of every batch normalisation to their mean over `batches`."""
    normalisations = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    dropouts = [layer for layer in model.layers if isinstance(layer, keras.layers.Dropout)]
    if not normalisations:
        return
    usual = [layer.momentum for layer in normalisations], [layer.rate for layer in dropouts]
    for layer in dropouts:
        layer.rate = 0.0
    for number, batch in enumerate(progress.counted(batches, "batch-norm statistics", None, "batches")):
        for layer in normalisations:
            layer.momentum = number / (number + 1)  # makes the moving average a plain mean
        model(batch, training=True)
    for layer, momentum in zip(normalisations, usual[0], strict=True):
        layer.momentum = momentum
    for layer, rate in zip(dropouts, usual[1], strict=True):
        layer.rate = rate
