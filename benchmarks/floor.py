"""The least that a sweep must do: each image through the frozen layers once, and bare steps of what trains.

With Thaw's kernels, batches and optimizer, but nothing is recorded, saved or resumed.
"""

import sys
from collections.abc import Callable
from functools import partial

import numpy as np
import tensorflow as tf
from cases import Case

from thaw import runtime
from thaw.config import schema
from thaw.data.dataset import Dataset, load_dataset
from thaw.data.splits import Split
from thaw.modalities.images.modality import Images
from thaw.models.backbones import applications
from thaw.models.cuts import Cut
from thaw.models.heads import Labels
from thaw.models.network import Network, build_network
from thaw.models.weights import initialize
from thaw.training.batches import PLAIN, Views, prefetch, view_batches
from thaw.training.features import frozen_batch
from thaw.training.optimizers import build_optimizer

BATCH = 32


def sweep(case: Case) -> None:
    """One frozen pass per image and view, for the deepest run; then the steps of every head and of each depth."""
    settings = schema.Backbone(name=case.network, image_size=case.size, smallest_size=32, alpha=case.alpha)
    weights, modality = schema.Weights(source="file", path=str(case.weights)), Images(case.size)
    base = initialize(applications.build(settings, weights, modality, 0), [])
    source = schema.Dataset(source="folder", path=case.photographs, image_size=case.size)
    photographs = load_dataset(source, 0, case.weights.parent / "floor")
    networks = {
        hidden: build_network(base, schema.Head(hidden=hidden), Labels(case.classes), modality, max(case.depths), 0)
        for hidden in case.hidden
    }
    net = networks[case.hidden[0]]
    cuts = {depth: net.cut(depth) for depth in {0, *case.depths}}
    deepest = cuts[max(case.depths)]
    views = Views(policy(case.augmentation), 0, None)
    head_views, finetune_views = (
        [views.number(epoch) for epoch in range(first, first + case.epochs)] for first in (0, case.epochs)
    )
    shown = dict.fromkeys(head_views + finetune_views * any(case.depths))
    train = {number: forward(net, deepest, photographs.train, views, number) for number in shown}
    validation, test = (forward(net, deepest, each, PLAIN, None) for each in (photographs.validation, photographs.test))
    for depth in dict.fromkeys([0, *case.depths]):
        between = net.between(deepest, cuts[depth])
        crossing = partial(through, net.inference(between), modality) if between else lambda arrays: arrays
        numbers = finetune_views if depth else head_views
        inputs = {number: crossing(train[number]) for number in dict.fromkeys(numbers)}
        crossing(test)
        held_out = crossing(validation)
        for head in case.heads:
            network = networks[head.hidden]
            for rate in case.rates if depth else [head.rate]:
                steps(
                    network, network.cut(depth), depth, rate, [inputs[each] for each in numbers], held_out, photographs
                )


def policy(name: str) -> schema.Augmentation:
    """The published notebook's policy, or none."""
    far = 0.2 if name == "standard" else 0.0
    return schema.Augmentation(name=name, flip=far > 0, rotation=far, zoom=far, translation=far, views=None)


def forward(net: Network, cut: Cut, split: Split, views: Views, number: int | None) -> list[np.ndarray]:
    """What crosses for every image of a split, in memory."""
    frozen, rows = net.inference(cut.frozen), frozen_batch(net.modality.values)
    batches = [[t.numpy() for t in frozen(x)] for x, _, _ in view_batches(split, net.modality, rows, views, number)]
    return [np.concatenate(parts)[: len(split)] for parts in zip(*batches, strict=True)]


def through(between: Callable, modality: Images, arrays: list[np.ndarray]) -> list[np.ndarray]:
    """From the deepest cut to a shallower one."""
    rows = frozen_batch(modality.values)
    parts = [between([a[i : i + rows] for a in arrays] if len(arrays) > 1 else arrays[0][i : i + rows])
             for i in range(0, len(arrays[0]), rows)]  # fmt: skip
    return [np.concatenate([t.numpy() for t in tensors]) for tensors in zip(*parts, strict=True)]


def steps(net: Network, cut: Cut, depth: int, rate: float, training: list, validation: list, photographs: Dataset):
    """An epoch on each of these arrays in memory, and validation, without a callback."""
    net.unfreeze(depth)
    compiled = net.made.setdefault(("compiled", depth), [])
    if not compiled:
        compiled.append(build_optimizer("adam", rate))
        cut.tail.compile(compiled[0], "sparse_categorical_crossentropy", weighted_metrics=["accuracy"])
    compiled[0].learning_rate.assign(rate)

    def batches(arrays, labels):
        tensors = tuple(arrays) if len(arrays) > 1 else arrays[0]
        dataset = tf.data.Dataset.from_tensor_slices((tensors, labels, np.ones(len(labels), np.float32)))
        return prefetch(dataset.batch(BATCH))

    for arrays in training:
        cut.tail.fit(batches(arrays, photographs.train.labels), verbose=0, shuffle=False)
        cut.tail.evaluate(batches(validation, photographs.validation.labels), verbose=0)


if __name__ == "__main__":
    runtime.start(runtime.share_of_cores({}))
    sweep(Case.read(sys.argv[1]))
