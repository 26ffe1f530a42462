"""The least that a sweep must do: each image through the frozen layers once, and bare steps of what trains."""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import keras
import numpy as np
import tensorflow as tf
from cases import Case

from thaw.config import schema
from thaw.data.dataset import Dataset, load_dataset
from thaw.data.splits import Split
from thaw.modalities.images.modality import Images
from thaw.models.backbones import applications
from thaw.models.cuts import Cut
from thaw.models.network import Network, build_network
from thaw.models.weights import initialize
from thaw.training import fit
from thaw.training.batches import PLAIN, Views, prefetch, view_batches
from thaw.training.features import FeatureCache

BATCH = 32


@dataclass
class Clock:
    """Seconds spent inside what is timed, and whether it runs just now."""

    seconds: float = 0.0
    running: bool = False


@contextlib.contextmanager
def timed() -> Iterator[Clock]:
    """Time the parts of Thaw that the floor has too: frozen passes and training."""
    clock = Clock()
    places = [
        (FeatureCache, "training_batches"),
        (FeatureCache, "evaluation_batches"),
        (fit, "fit_stage"),
    ]
    originals = [getattr(owner, name) for owner, name in places]

    def clocked(function):
        def call(*arguments, **named):
            if clock.running:  # a stage asks for its batches itself
                return function(*arguments, **named)
            began, clock.running = time.perf_counter(), True
            try:
                return function(*arguments, **named)
            finally:
                clock.seconds += time.perf_counter() - began
                clock.running = False

        return call

    for (owner, name), original in zip(places, originals, strict=True):
        setattr(owner, name, clocked(original))
    try:
        yield clock
    finally:
        for (owner, name), original in zip(places, originals, strict=True):
            setattr(owner, name, original)


def sweep(case: Case) -> None:
    """One frozen pass per image and view, for the deepest run; then the steps of the head and of each depth."""
    settings = schema.Backbone(name=case.network, image_size=case.size, smallest_size=32, alpha=case.alpha)
    weights, modality = schema.Weights(source="file", path=str(case.weights)), Images(case.size)
    base = initialize(applications.build(settings, weights, modality, 0), [])
    source = schema.Dataset(source="folder", path=str(case.photographs), image_size=case.size)
    photographs = load_dataset(source, 0, case.photographs.parent / "floor")
    net = build_network(base, schema.Head(), case.classes, modality, max(case.depths), 0)
    cuts = {depth: net.cut(depth) for depth in {0, *case.depths}}
    deepest = cuts[max(case.depths)]
    views = Views(policy(case.augmentation), 0, None)
    head_views, finetune_views = (
        [views.number(epoch) for epoch in range(first, first + case.epochs)] for first in (0, case.epochs)
    )
    frozen = traced(deepest.frozen)
    train = {
        number: forward(frozen, photographs.train, modality, views, number)
        for number in dict.fromkeys([*head_views, *finetune_views])
    }
    validation, test = (
        forward(frozen, split, modality, PLAIN, None) for split in (photographs.validation, photographs.test)
    )
    for depth in dict.fromkeys([0, *case.depths]):
        between = net.between(deepest, cuts[depth])
        crossing = partial(through, traced(between)) if between else lambda arrays: arrays
        shown = finetune_views if depth else head_views
        inputs = {number: crossing(train[number]) for number in dict.fromkeys(shown)}
        crossing(test)
        steps(net, cuts[depth], depth, [inputs[number] for number in shown], crossing(validation), photographs)


def policy(name: str) -> schema.Augmentation:
    """The published notebook's policy, or none."""
    far = 0.2 if name == "standard" else 0.0
    return schema.Augmentation(name=name, flip=far > 0, rotation=far, zoom=far, translation=far, views=None)


def traced(model: keras.Model) -> Callable[[list], list]:
    """The model as one compiled function of a batch."""
    return tf.function(lambda inputs: keras.tree.flatten(model(inputs, training=False)))


def forward(frozen: Callable, split: Split, modality: Images, views: Views, number: int | None) -> list:
    """What crosses for every image of a split, in memory."""
    batches = [[t.numpy() for t in frozen(x)] for x, _, _ in view_batches(split, modality, BATCH, views, number)]
    return [np.concatenate(parts)[: len(split)] for parts in zip(*batches, strict=True)]


def through(between: Callable, arrays: list) -> list:
    """From the deepest cut to a shallower one."""
    parts = [between([a[i : i + BATCH] for a in arrays] if len(arrays) > 1 else arrays[0][i : i + BATCH])
             for i in range(0, len(arrays[0]), BATCH)]  # fmt: skip
    return [np.concatenate([t.numpy() for t in tensors]) for tensors in zip(*parts, strict=True)]


def steps(net: Network, cut: Cut, depth: int, training: list, validation: list, photographs: Dataset):
    """An epoch on each of these arrays in memory, and validation, without a callback."""
    net.unfreeze(depth)
    cut.tail.compile(keras.optimizers.Adam(1e-4), "sparse_categorical_crossentropy", weighted_metrics=["accuracy"])

    def batches(arrays, labels):
        tensors = tuple(arrays) if len(arrays) > 1 else arrays[0]
        dataset = tf.data.Dataset.from_tensor_slices((tensors, labels, np.ones(len(labels), np.float32)))
        return prefetch(dataset.batch(BATCH))

    for arrays in training:
        cut.tail.fit(batches(arrays, photographs.train.labels), verbose=0, shuffle=False)
        cut.tail.evaluate(batches(validation, photographs.validation.labels), verbose=0)
