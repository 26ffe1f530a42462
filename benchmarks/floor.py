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

from thaw import activations, backbone, config, data, network, pipeline, stage

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
        (activations.Activations, "training_batches"),
        (activations.Activations, "evaluation_batches"),
        (stage, "train"),
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
    settings = config.Backbone(name=case.network, image_size=case.size, smallest_size=32, alpha=case.alpha)
    weights = config.Weights(source="file", path=str(case.weights))
    base = backbone.load(settings, weights, case.size, 0, [])
    head = config.Head(pooling="avg", hidden=0, dropout=0.0)
    source = config.Dataset(
        source="folder",
        name=None,
        path=str(case.photographs),
        image_size=case.size,
        images_per_class=None,
        on_bad="error",
        max_megapixels=100.0,
        fold=None,
        folds=5,
    )
    photographs = data.load(source, 0, case.photographs.parent / "floor")
    net = network.build(base, head, case.classes, case.size, max(case.depths), 0)
    cuts = {depth: net.cut(depth) for depth in {0, *case.depths}}
    deepest = cuts[max(case.depths)]
    views = pipeline.Views(policy(case.augmentation), 0, None)
    head_views, finetune_views = (
        [views.number(epoch) for epoch in range(first, first + case.epochs)] for first in (0, case.epochs)
    )
    frozen = traced(deepest.frozen)
    train = {
        number: forward(frozen, photographs.train, case.size, views, number)
        for number in dict.fromkeys([*head_views, *finetune_views])
    }
    validation, test = (
        forward(frozen, split, case.size, pipeline.PLAIN, None) for split in (photographs.validation, photographs.test)
    )
    for depth in dict.fromkeys([0, *case.depths]):
        between = net.between(deepest, cuts[depth])
        crossing = partial(through, traced(between)) if between else lambda arrays: arrays
        shown = finetune_views if depth else head_views
        inputs = {number: crossing(train[number]) for number in dict.fromkeys(shown)}
        crossing(test)
        steps(net, cuts[depth], depth, [inputs[number] for number in shown], crossing(validation), photographs)


def policy(name: str) -> config.Augmentation:
    """The published notebook's policy, or none."""
    far = 0.2 if name == "standard" else 0.0
    return config.Augmentation(name=name, flip=far > 0, rotation=far, zoom=far, translation=far, views=None)


def traced(model: keras.Model) -> Callable[[list], list]:
    """The model as one compiled function of a batch."""
    return tf.function(lambda inputs: keras.tree.flatten(model(inputs, training=False)))


def forward(frozen: Callable, split: data.Split, size: int, views: pipeline.Views, number: int | None) -> list:
    """What crosses for every image of a split, in memory."""
    batches = [[t.numpy() for t in frozen(x)] for x, _, _ in pipeline.view_batches(split, size, BATCH, views, number)]
    return [np.concatenate(parts)[: len(split)] for parts in zip(*batches, strict=True)]


def through(between: Callable, arrays: list) -> list:
    """From the deepest cut to a shallower one."""
    parts = [between([a[i : i + BATCH] for a in arrays] if len(arrays) > 1 else arrays[0][i : i + BATCH])
             for i in range(0, len(arrays[0]), BATCH)]  # fmt: skip
    return [np.concatenate([t.numpy() for t in tensors]) for tensors in zip(*parts, strict=True)]


def steps(
    net: network.Network, cut: network.Cut, depth: int, training: list, validation: list, photographs: data.Dataset
):
    """An epoch on each of these arrays in memory, and validation, without a callback."""
    net.unfreeze(depth)
    cut.tail.compile(keras.optimizers.Adam(1e-4), "sparse_categorical_crossentropy", weighted_metrics=["accuracy"])

    def batches(arrays, labels):
        tensors = tuple(arrays) if len(arrays) > 1 else arrays[0]
        dataset = tf.data.Dataset.from_tensor_slices((tensors, labels, np.ones(len(labels), np.float32)))
        return pipeline.ahead(dataset.batch(BATCH))

    for arrays in training:
        cut.tail.fit(batches(arrays, photographs.train.labels), verbose=0, shuffle=False)
        cut.tail.evaluate(batches(validation, photographs.validation.labels), verbose=0)
