"""A classifier: backbone and head, and which of their variables train."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf

from thaw.config import schema
from thaw.modalities.images.modality import Images
from thaw.models.backbone import Backbone
from thaw.models.cuts import Cut, cheapest, frontier, model_between
from thaw.models.graph import ancestors, as_inputs, as_list, chain, multiply_adds, nodes, outputs
from thaw.models.heads import Labels, build_head, has_several_classes
from thaw.models.kernels import fast
from thaw.models.units import Depth, positions


@dataclass(frozen=True)
class Network:
    """A classifier.

    Attributes:
        backbone: the pretrained part.
        head: the layers on top of it, in order.
        modality: of the inputs.
        batch_norm: `frozen` (inference mode, gamma and beta fixed) or `train`.
        trainable: the paths of the variables of each layer that train if nothing is frozen.
        initial: what `regularisation` draws kernels to, by path; those left out are drawn to zero.
        made: models and traced functions of these layers. Each is made once, as tracing takes longer than training a
            small head; whoever takes over the layers takes these over as well.
    """

    backbone: Backbone
    head: tuple[keras.Layer, ...]
    modality: Images
    batch_norm: Literal["frozen", "train"]
    trainable: dict[str, frozenset[str]]
    initial: Mapping[str, np.ndarray] = field(default_factory=dict)
    made: dict[Any, Any] = field(default_factory=dict)

    @property
    def model(self) -> keras.Model:
        """Tensors of the modality -> probabilities float32 (batch, classes)."""
        if "model" not in self.made:
            inputs = self.modality.input()
            features = self.backbone.model(self.backbone.preprocess(inputs))
            self.made["model"] = keras.Model(inputs, chain(self.head, features), name="network")
        return self.made["model"]

    @property
    def labels(self) -> Labels:
        """Which it predicts."""
        return Labels(self.head[-1].units, has_several_classes(self.head[-1]))

    def plan(self, depth: Depth) -> frozenset[str]:
        """The paths of the variables that train at that depth."""
        layers = [*self.training_units(depth), *self.head]
        return frozenset().union(*(self.trainable[layer.name] for layer in layers))

    def by_path(self, blocks: Sequence[float], head: float) -> dict[str, float]:
        """A value for each variable that may train, by its path.

        Args:
            blocks: the value of each block of the backbone.
            head: the value of the head.
        """
        parts: list[tuple[Sequence[keras.Layer], float]] = [(self.head, head)]
        for block, value in zip(self.backbone.blocks, blocks, strict=True):
            parts.append((self.backbone.units[block.first : block.first + block.size], value))
        return {path: value for layers, value in parts for layer in layers for path in self.trainable[layer.name]}

    def kernels(self, depth: Depth) -> dict[str, np.ndarray]:
        """The values of the backbone's kernels that train at that depth, by path."""
        variables = (each for layer in self.training_units(depth) for each in layer.trainable_variables)
        return {each.path: each.numpy() for each in variables if len(each.shape) > 1}

    def moving_statistics(self, depth: Depth) -> list[keras.Variable]:
        """The variables that training at that depth changes without gradients."""
        trains = [each for each in self.training_units(depth) if isinstance(each, keras.layers.BatchNormalization)]
        return [variable for layer in trains for variable in (layer.moving_mean, layer.moving_variance)]

    def unfreeze(self, depth: Depth) -> None:
        """Train the head and the units of that depth, and nothing else.

        Each layer is set by itself: `model.trainable = True` returns early if the flag is True already and leaves its
        children frozen.
        """
        training = {id(layer) for layer in self.training_units(depth)}
        self.backbone.model.trainable = True
        for layer in self.backbone.units:
            layer.trainable = id(layer) in training

    def verify(self, model: keras.Model, depth: Depth) -> None:
        """Assert that the variables that `model` would train are exactly those of `plan`."""
        trains = frozenset(variable.path for variable in model.trainable_variables)
        if trains != self.plan(depth):
            raise AssertionError(f"Other variables train than planned: {sorted(trains ^ self.plan(depth))}")

    def training_units(self, depth: Depth) -> list[keras.Layer]:
        """The units that train, without frozen batch normalization."""
        units = self.backbone.units
        return [
            layer
            for layer in (units[place] for place in positions(depth, len(units)))
            if self.batch_norm == "train" or not isinstance(layer, keras.layers.BatchNormalization)
        ]

    def cut(self, depth: Depth) -> Cut:
        """The network in two: a frozen side that no training reaches, and a tail."""
        key = ("cut", depth)
        if key not in self.made:
            self.made[key] = self._split(depth)
        return self.made[key]

    def between(self, lower: Cut, upper: Cut) -> keras.Model | None:
        """The features at `lower` -> those at `upper`; None if `lower` is not before `upper`."""
        key = ("between", lower.key, upper.key)
        if key not in self.made:
            model = model_between(nodes(self.backbone.model), self.head[0], lower, upper)
            self.made[key] = None if model is None else fast(model, fold=True)
        return self.made[key]

    def inference(self, model: keras.Model) -> Callable[..., list[tf.Tensor]]:
        """The traced function inputs -> outputs float32 of a model of these layers, in inference mode."""
        key = ("inference", id(model))
        if key not in self.made:
            self.made[key] = tf.function(lambda inputs: _as_float32(model(inputs, training=False)))
        return self.made[key]

    def _split(self, depth: Depth) -> Cut:
        """Cut after pooling if only the head trains, else where it is cheapest; nowhere if that saves nothing."""
        inputs = self.modality.input()
        prepared = self.backbone.preprocess(inputs)
        base, order = self.backbone.model, nodes(self.backbone.model)
        training = {id(layer) for layer in self.training_units(depth) if self.trainable[layer.name]}
        if not training:
            frozen = keras.Model(inputs, [self.head[0](base(prepared))])
            features = keras.Input(frozen.output[0].shape[1:], name="features")
            tail = keras.Model(features, chain(self.head[1:], features))
            return Cut((), True, fast(frozen, fold=True), tail, len(order))
        found = cheapest(order, frontier(order, training))
        before = ancestors(found)
        if not any(multiply_adds(node) for node in order if id(node) in before):
            # A model of its own, as `model` is recorded and must not have the optimizer that training gives the tail.
            return Cut((), False, None, fast(self.model, fold=self.batch_norm == "frozen"), 0)
        tensors = [outputs(node)[0] for node in found]
        lower, upper = keras.Model(base.input, tensors), keras.Model(tensors, base.output)
        frozen = keras.Model(inputs, as_list(lower(prepared)))
        crossing = [keras.Input(tensor.shape[1:], name=f"frontier_{n}") for n, tensor in enumerate(tensors)]
        tail = fast(
            keras.Model(crossing, chain(self.head, upper(as_inputs(crossing)))), fold=self.batch_norm == "frozen"
        )
        return Cut(tuple(map(order.index, found)), False, fast(frozen, fold=True), tail, len(before))


def _as_float32(outputs) -> list[tf.Tensor]:
    """The tensors as float32, whatever the layers compute in."""
    return [each if each.dtype == tf.float32 else tf.cast(each, tf.float32) for each in keras.tree.flatten(outputs)]


def build_network(
    backbone: Backbone, head: schema.Head, labels: Labels, modality: Images, deepest: Depth, seed: int
) -> Network:
    """Put a new head on a backbone.

    Batch normalization trains only if everything starts from scratch: random weights, all layers unfrozen. The
    statistics of pretrained weights are kept (https://keras.io/guides/transfer_learning/).

    Args:
        backbone: with its weights.
        head: the layers on top.
        labels: that it predicts.
        modality: of the inputs.
        deepest: how many units the deepest stage trains.
        seed: of the head's initial weights and dropout.
    """
    batch_norm: Literal["frozen", "train"] = "frozen"
    if backbone.weights == "random" and deepest == "all":
        batch_norm = "train"
    else:
        # Inference mode includes the stochastic depth inside EfficientNet. `backbone(x, training=False)` does not reach
        # it: in Keras 3.15 the `training=True` of an enclosing `fit` takes its place.
        for layer in backbone.units:
            if isinstance(layer, keras.layers.Dropout):
                layer.rate = 0.0
    layers = built_head(backbone, head, labels, seed)
    trainable = {
        layer.name: frozenset(variable.path for variable in layer.trainable_variables)
        for layer in [*backbone.units, *layers]
    }
    return Network(backbone, layers, modality, batch_norm, trainable)


def built_head(backbone: Backbone, head: schema.Head, labels: Labels, seed: int) -> tuple[keras.Layer, ...]:
    """The layers of a head with their variables, for the features of a backbone."""
    layers = build_head(head, labels, seed)
    chain(layers, keras.Input(backbone.model.output.shape[1:]))
    return layers
