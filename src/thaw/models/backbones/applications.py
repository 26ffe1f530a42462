"""Backbones of Keras Applications, by their names there."""

import inspect
import logging
import re
import warnings
from collections.abc import Callable
from types import ModuleType

import keras

from thaw import downloads
from thaw.config import schema
from thaw.errors import ThawError, nearest, one_line
from thaw.modalities.images.modality import Images
from thaw.models.backbone import Backbone
from thaw.models.weights import read_file

DEVIATIONS = (0.229, 0.224, 0.225)  # standard deviations of ImageNet's red, green and blue, in [0, 1]
logger = logging.getLogger(__name__)
_warned: set[str] = set()


def build(backbone: schema.Backbone, weights: schema.Weights, modality: Images, seed: int) -> Backbone:
    """Build a network and load its pretrained weights; random ones are completed by `weights.initialize`.

    Args:
        backbone: which network.
        weights: which weights; `auto` falls back to random ones without a network.
        modality: of its inputs.
        seed: of random weights.

    Raises:
        ThawError: there is no such network, or its weights cannot be downloaded, read or loaded.
    """
    module, constructor = application(backbone.name)
    arguments: dict = {"include_top": False, "input_shape": modality.shape}
    if backbone.alpha is not None:
        if "alpha" not in inspect.signature(constructor).parameters:
            raise ThawError(
                f"{backbone.name} has no width to set, received backbone.alpha={backbone.alpha}; leave it out"
            )
        arguments["alpha"] = backbone.alpha
    keras.utils.set_random_seed(seed)
    source: str = weights.source
    model = None
    try:
        if source in ("auto", "imagenet"):
            source, model = _imagenet(constructor, arguments, fall_back=source == "auto")
        if model is None:
            model = constructor(weights=None, **arguments)
    except ValueError as error:
        raise ThawError(f"{backbone.name} cannot be built: {one_line(error)}") from error
    if source == "file":
        model = _graph_of_imagenet(model)
        read_file(model, weights.path)
    return Backbone(backbone.name, model, module.preprocess_input, source)


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
    """The network with ImageNet weights; None if they cannot be downloaded and it may fall back."""
    try:
        with downloads.hurried(), warnings.catch_warnings():
            # MobileNet's ImageNet weights are for 224 px; without the top they fit any size.
            warnings.filterwarnings("ignore", "`input_shape` is undefined or non-square")
            return "imagenet", constructor(weights="imagenet", **arguments)
    except Exception as error:
        # Keras raises a bare Exception for a failed download and a ValueError for a damaged one.
        reason = one_line(error)
        if not any(sign in reason for sign in ("URL fetch failure", "Incomplete or corrupted", "timed out")):
            raise
        if fall_back:
            _warn(reason if downloads.reachable(downloads.KERAS_HOST) else f"{downloads.KERAS_HOST} is unreachable")
            return "random", None
        raise ThawError(
            f"weights=imagenet cannot be downloaded ({reason}); connect once, or give weights=file "
            "weights.path=... or weights=random"
        ) from error


def _warn(reason: str) -> None:
    """Warn once per process that results are not those of a pretrained network."""
    if reason not in _warned:
        _warned.add(reason)
        logger.warning(
            f"WARNING: ImageNet weights cannot be downloaded ({reason}); networks start from RANDOM weights, and their "
            "results say nothing about pretrained ones."
        )


def _graph_of_imagenet(model: keras.Model) -> keras.Model:
    """The graph that Keras builds for its ImageNet weights; weight files do not tell.

    Only EfficientNet's differs: Keras divides by the square root of ImageNet's standard deviations once more
    (tensorflow/tensorflow#49930).
    """
    if not re.fullmatch(r"efficientnetb\d", model.name):
        return model

    def call(layer, inputs, *arguments, **options):
        outputs = layer(inputs, *arguments, **options)
        if isinstance(layer, keras.layers.Normalization):
            outputs = keras.layers.Rescaling([deviation**-0.5 for deviation in DEVIATIONS])(outputs)
        return outputs

    return keras.models.clone_model(model, call_function=call)
