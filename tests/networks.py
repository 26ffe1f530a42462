"""Small networks and images to train them on."""

import hashlib

import keras
import numpy as np
import pytest
from omegaconf import OmegaConf

from thaw.config import schema
from thaw.data.splits import Split
from thaw.modalities.images.modality import Images
from thaw.models import units
from thaw.models.backbone import Backbone
from thaw.models.backbones import applications
from thaw.models.heads import Labels
from thaw.models.network import build_network
from thaw.models.weights import initialize
from thaw.training.batches import Views
from thaw.training.stages import plan_stages
from thaw.workspace import ROOT

LINEAR = schema.Head()
DROPOUT = schema.Head(hidden=8, dropout=0.3)
FLIP = Views(schema.Augmentation(name="light", flip=True), 0, None)
CUTS = [  # a backbone, its size, and depths to cut at
    ("EfficientNetB0", 32, [5, 10, 20, 30, 50]),
    ("Xception", 71, [10, 20, 30]),
    ("VGG16", 32, [3, 6, 10]),
    ("InceptionV3", 75, [5, 20, 30]),
    ("ResNet50", 32, [5, 20, 30]),
    ("MobileNetV2", 32, [5, 20, 30]),
]
FIRST_CUTS = [each if n < 1 else pytest.param(*each, marks=pytest.mark.slow) for n, each in enumerate(CUTS)]


def small_backbone(size, seed):
    """29 units that are quick to trace: what a test needs when any network will do."""
    keras.utils.set_random_seed(seed)
    inputs = tensors = keras.Input((size, size, 3))
    for number, channels in enumerate((8, 12, 16, 24, 256), start=1):
        tensors = keras.layers.Conv2D(channels, 3, 2, "same", use_bias=False, name=f"conv_{number}")(tensors)
        tensors = keras.layers.BatchNormalization(name=f"conv_{number}_bn")(tensors)
        tensors = keras.layers.ReLU(name=f"conv_{number}_relu")(tensors)
        if number > 1:
            sides = keras.layers.DepthwiseConv2D(3, padding="same", use_bias=False, name=f"conv_dw_{number}")(tensors)
            sides = keras.layers.BatchNormalization(name=f"conv_dw_{number}_bn")(sides)
            tensors = keras.layers.Add(name=f"add_{number}")([tensors, sides])
    tensors = keras.layers.Dropout(0.1, name="dropout")(tensors)
    model = keras.Model(inputs, tensors, name="small")
    return Backbone("Small", model, keras.applications.mobilenet.preprocess_input, "random")


def build(name="Small", depth=0, head=LINEAR, size=32, seed=0, alpha=0.25):
    """A network with random weights whose last `depth` units may train."""
    if name == "Small":
        base = small_backbone(size, seed)
    else:
        settings = schema.Backbone(
            name=name, image_size=size, smallest_size=32, alpha=alpha if name == "MobileNet" else None
        )
        base = applications.build(settings, schema.Weights(source="random"), Images(size), seed)
    base = initialize(base, [np.random.default_rng(0).uniform(0, 255, (8, size, size, 3)).astype(np.float32)])
    deepest = units.resolve(depth, base.blocks, base.model.name)
    return build_network(base, head, Labels(3), Images(size), deepest, seed)


def images(count=20, seed=0):
    """A split of 32 x 32 px images of three classes that differ in brightness."""
    generator = np.random.default_rng(seed)
    labels = np.arange(count, dtype=np.int32) % 3
    pixels = (
        generator.integers(0, 100, (count, 32, 32, 3), np.uint8) + (labels * 50).astype(np.uint8)[:, None, None, None]
    )
    return split_of(tuple(f"{seed}/{i}" for i in range(count)), labels, pixels)


def split_of(names, labels, pixels):
    """A split of images that are in memory."""
    return Split(names, labels, pixels, tuple(hashlib.sha256(image.tobytes()).digest() for image in pixels))


def stage_settings(**changes):
    """The settings of a short stage, also beyond the allowed ranges."""
    return schema.Stage(epochs=2, learning_rate=0.01).model_copy(update=changes)


def policy(name):
    """An augmentation policy of `conf/augmentation`."""
    folder = ROOT / "conf" / "augmentation"
    own = OmegaConf.load(folder / f"{name}.yaml")
    own.pop("defaults", None)
    return schema.Augmentation(**{**OmegaConf.load(folder / "none.yaml"), **own})


def planned(config, backbone):
    """The stages of a run."""
    groups = (config.loss, config.regularisation, config.optimizer, config.schedule)
    return plan_stages(config.training, config.unfreeze, *groups, backbone, dict.fromkeys(config.training.stages, 100))


def created(path):
    """The folder, created."""
    path.mkdir(parents=True, exist_ok=True)
    return path
