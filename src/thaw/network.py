"""Backbone + head = network; which of its layers train; where the frontier lies."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import keras
import numpy as np

from thaw import config
from thaw.backbone import Backbone
from thaw.errors import ThawError

Depth = int | Literal["all"]

# What decides where to cut: about how fast two cores read rows that are kept on disk, pass over tensors in memory, and
# multiply and add.
READ_BYTES_PER_SECOND = 1e9
MEMORY_BYTES_PER_SECOND = 8e9
OPERATIONS_PER_SECOND = 5e10


@dataclass(frozen=True)
class Cut:
    """A network in two at tensors that no training reaches.

    Attributes:
        tensors: names of the layers whose outputs cross; none where everything trains.
        frozen: pixels float32 (batch, size, size, 3) in [0, 255] -> the list of these; None without any.
        tail: these outputs, or pixels -> probabilities float32 (batch, classes); the layers are the network's own.
        before: how many layers of the backbone lie on the frozen side.
    """

    tensors: tuple[str, ...]
    frozen: keras.Model | None
    tail: keras.Model
    before: int


@dataclass(frozen=True)
class Network:
    """A classifier.

    Attributes:
        backbone: the part that is pretrained, with its preprocessing and weights.
        head: the layers on top of it, in order; the first, which pools, has no weights.
        size: of the images, px a side.
        batch_norm: `frozen` (inference mode, gamma and beta fixed) or `train`.
        trainable: the paths of the variables that each layer trains when nothing is frozen.
    """

    backbone: Backbone
    head: tuple[keras.Layer, ...]
    size: int
    batch_norm: Literal["frozen", "train"]
    trainable: dict[str, frozenset[str]]

    @cached_property
    def model(self) -> keras.Model:
        """Pixels float32 (batch, size, size, 3) in [0, 255] -> probabilities float32 (batch, classes)."""
        pixels = keras.Input((self.size, self.size, 3), name="pixels")
        features = self.backbone.model(self.backbone.preprocess(pixels))
        return keras.Model(pixels, _chain(self.head, features), name="network")

    def plan(self, depth: Depth) -> frozenset[str]:
        """The paths of the variables that train with the last `depth` layers of the backbone unfrozen."""
        layers = [*self._training_layers(depth), *self.head]
        return frozenset().union(*(self.trainable[layer.name] for layer in layers))

    def unfreeze(self, depth: Depth) -> None:
        """Train the head and the last `depth` layers of the backbone, and nothing else.

        Each layer is set by itself: `model.trainable = True` returns early where the flag is True already and leaves
        children frozen.
        """
        layers = self.backbone.model.layers
        training = {id(layer) for layer in self._training_layers(depth)}
        self.backbone.model.trainable = True
        for layer in layers:
            layer.trainable = id(layer) in training

    def verify(self, model: keras.Model, depth: Depth) -> None:
        """Assert that the variables that `model` would train are exactly those of `plan`."""
        trains = frozenset(variable.path for variable in model.trainable_variables)
        if trains != self.plan(depth):
            raise AssertionError(f"Other variables train than planned: {sorted(trains ^ self.plan(depth))}")

    @cached_property
    def _built(self) -> dict:
        """Cuts by depth and what lies between two of them: each is built once, as TensorFlow traces each anew."""
        return {}

    def cut(self, depth: Depth) -> Cut:
        """The network in two, as late as nothing that trains lies before, or a little earlier where that costs less.

        Where only the head trains, pooled features cross. Where the exact frontier has wide tensors and a single
        narrower one lies earlier, computing the layers between again may cost less than reading the wide ones.
        """
        if depth not in self._built:
            self._built[depth] = self._cut(depth)
        return self._built[depth]

    def between(self, lower: Cut, upper: Cut) -> keras.Model | None:
        """What `lower` lets across -> what `upper` lets across; None where the one is not before the other."""
        key = (lower.tensors, upper.tensors)
        if key not in self._built:
            self._built[key] = self._between(lower, upper)
        return self._built[key]

    def _cut(self, depth: Depth) -> Cut:
        pixels = keras.Input((self.size, self.size, 3), name="pixels")
        prepared = self.backbone.preprocess(pixels)
        base = self.backbone.model
        training = {id(layer) for layer in self._training_layers(depth) if self.trainable[layer.name]}
        if not training:
            pooling = self.head[0]
            frozen = keras.Model(pixels, [pooling(base(prepared))])
            features = keras.Input(frozen.output[0].shape[1:], name="features")
            tail = keras.Model(features, _chain(self.head[1:], features))
            return Cut((pooling.name,), frozen, tail, len(base.layers))
        layers = self._cheapest(self._frontier(training))
        before = _ancestors(layers)
        if not any(_operations(layer) for layer in base.layers if id(layer) in before):
            return Cut((), None, self.model, 0)
        tensors = [layer.output for layer in layers]
        lower, upper = keras.Model(base.input, tensors), keras.Model(tensors, base.output)
        frozen = keras.Model(pixels, _listed(lower(prepared)))
        crossing = [keras.Input(tensor.shape[1:], name=f"frontier_{n}") for n, tensor in enumerate(tensors)]
        features = upper(_single(crossing))
        tail = keras.Model(crossing, _chain(self.head, features))
        return Cut(tuple(layer.name for layer in layers), frozen, tail, len(before))

    def _between(self, lower: Cut, upper: Cut) -> keras.Model | None:
        base, pooling = self.backbone.model, (self.head[0].name,)
        if lower.tensors in ((), pooling, upper.tensors) or not upper.tensors:
            return None
        ends = [base.layers[-1].name] if upper.tensors == pooling else upper.tensors
        crossing = {name: keras.Input(base.get_layer(name).output.shape[1:], name=name) for name in lower.tensors}
        further = [name for name in ends if name not in crossing]
        sources, outputs = ([base.get_layer(name).output for name in names] for names in (crossing, further))
        try:
            inner = keras.Model(sources, outputs)
        except ValueError:  # Keras finds that the outputs do not follow from the inputs
            return None
        inputs = list(crossing.values())
        reached = {**crossing, **dict(zip(further, _listed(inner(_single(inputs))), strict=True))}
        features = [reached[name] for name in ends]
        return keras.Model(inputs, [self.head[0](features[0])] if upper.tensors == pooling else features)

    def _training_layers(self, depth: Depth) -> list[keras.Layer]:
        layers = self.backbone.model.layers
        last = layers if depth == "all" else layers[max(0, len(layers) - depth) :]
        return [
            layer
            for layer in last
            if self.batch_norm == "train" or not isinstance(layer, keras.layers.BatchNormalization)
        ]

    def _frontier(self, training: set[int]) -> list[keras.Layer]:
        """The layers before which nothing trains and whose outputs layers use that training does reach."""
        reached: set[int] = set()
        crossing: dict[int, keras.Layer] = {}
        for layer in self.backbone.model.layers:
            parents = _parents(layer)
            if id(layer) in training or any(id(parent) in reached for parent in parents):
                reached.add(id(layer))
                crossing |= {id(parent): parent for parent in parents if id(parent) not in reached}
        return list(crossing.values())

    def _cheapest(self, frontier: list[keras.Layer]) -> list[keras.Layer]:
        """The frontier, or the one earlier layer through which all of it goes and that costs less per image."""
        before = _ancestors(frontier)
        order = [layer for layer in self.backbone.model.layers if id(layer) in before]
        best, best_cost = frontier, sum(map(_bytes, frontier)) / READ_BYTES_PER_SECOND
        for place, layer in enumerate(order):
            later = order[place + 1 :]
            through = {id(each) for each in [layer, *later]}
            needed = [*frontier, *(parent for each in later for parent in _parents(each))]
            if any(id(each) not in through for each in needed):
                continue
            again = sum(map(_operations, later)) / OPERATIONS_PER_SECOND
            again += sum(map(_bytes, later)) / MEMORY_BYTES_PER_SECOND
            cost = _bytes(layer) / READ_BYTES_PER_SECOND + again
            if cost < best_cost:
                best, best_cost = [layer], cost
        return best


def build(backbone: Backbone, head: config.Head, classes: int, size: int, depth: Depth, seed: int) -> Network:
    """Put a new head on the backbone.

    Batch normalisation trains only where everything starts from scratch: random weights, all layers unfrozen. Kept
    statistics are the point of pretrained ones (https://keras.io/guides/transfer_learning/).

    Raises:
        ThawError: the backbone has fewer than `depth` layers.
    """
    count = len(backbone.model.layers)
    if depth != "all" and depth > count:
        name = backbone.model.name
        raise ThawError(f"unfreeze={depth} is beyond {name}, which has {count} layers; give 0 to {count} or all")
    batch_norm = "train" if backbone.weights == "random" and depth == "all" else "frozen"
    if batch_norm == "frozen":
        # Inference mode includes the stochastic depth inside EfficientNet. `backbone(x, training=False)` does not reach
        # it: in Keras 3.15 the `training=True` of an enclosing `fit` takes its place.
        for layer in backbone.model.layers:
            if isinstance(layer, keras.layers.Dropout):
                layer.rate = 0.0
    layers = [POOLING[head.pooling](name="pooling")]
    if head.hidden:
        initial = keras.initializers.GlorotUniform(seed)
        layers.append(keras.layers.Dense(head.hidden, "relu", kernel_initializer=initial, name="hidden"))
    if head.dropout:
        layers.append(keras.layers.Dropout(head.dropout, seed=seed, name="dropout"))
    initial = keras.initializers.GlorotUniform(seed + 1)
    layers.append(
        keras.layers.Dense(classes, "softmax", kernel_initializer=initial, dtype="float32", name="probabilities")
    )
    _chain(layers, keras.Input(backbone.model.output.shape[1:]))  # gives the head its variables
    trainable = {
        layer.name: frozenset(variable.path for variable in layer.trainable_variables)
        for layer in [*backbone.model.layers, *layers]
    }
    return Network(backbone, tuple(layers), size, batch_norm, trainable)


def reseed(model: keras.Model, seed: tuple[int, ...]) -> None:
    """Start every random layer anew from `seed`, so that dropout depends on the epoch, not on what came before."""
    dropouts = [layer for layer in model._flatten_layers() if isinstance(layer, keras.layers.Dropout)]
    generators = [layer.seed_generator for layer in dropouts if hasattr(layer, "seed_generator")]
    for number, generator in enumerate(generators):
        generator.state.assign(np.array(np.random.SeedSequence([*seed, number]).generate_state(2), "int64"))


POOLING = {
    "avg": keras.layers.GlobalAveragePooling2D,
    "max": keras.layers.GlobalMaxPooling2D,
    "flatten": keras.layers.Flatten,
}


def _chain(layers: Sequence[keras.Layer], x):
    for layer in layers:
        x = layer(x)
    return x


def _listed(outputs) -> list:
    return list(outputs) if isinstance(outputs, list | tuple) else [outputs]


def _single(tensors: list):
    """What Keras takes: a list of several tensors, or the only one."""
    return tensors if len(tensors) > 1 else tensors[0]


def _parents(layer: keras.Layer) -> list[keras.Layer]:
    """The layers whose outputs `layer` takes."""
    if isinstance(layer, keras.layers.InputLayer):
        return []
    return [tensor._keras_history.operation for tensor in keras.tree.flatten(layer.input)]


def _ancestors(layers: Iterable[keras.Layer]) -> set[int]:
    """The ids of `layers` and of all before them."""
    found, ahead = set(), list(layers)
    while ahead:
        layer = ahead.pop()
        if id(layer) not in found:
            found.add(id(layer))
            ahead += _parents(layer)
    return found


def _bytes(layer: keras.Layer) -> int:
    """The size of one image's output in float32."""
    return 4 * math.prod(layer.output.shape[1:])


def _operations(layer: keras.Layer) -> int:
    """The multiplications and additions of one image, of the layers that have a kernel."""
    if not hasattr(layer, "kernel") or len(layer.output.shape) != 4:
        return 0
    places = math.prod(layer.output.shape[1:3])
    return 2 * places * math.prod(layer.kernel.shape)
