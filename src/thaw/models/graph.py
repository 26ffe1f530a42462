"""Keras' functional graph: parents, costs and block names. The only module that uses private attributes of Keras'
layers, or their names.

A node is a layer, or an operation such as `keras.ops.add` that some architectures call between layers.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence

import keras
import numpy as np

POOLING = "pooling"  # the first layer of every head
# How architectures name the blocks of their layers: block7a_se_expand, conv5_block3_1_conv, block_16_project,
# convnext_tiny_stage_2_block_8_layer_scale; mixed7; conv_dw_13 and conv_pw_13 of MobileNet.
BLOCK_NAME = re.compile(
    r"(?i)(?P<block>(?:[a-z0-9]+_)*?[a-z]*block_?\d+[a-z]*|mixed\d+|expanded_conv)(?:_|$)|conv_[dp]w_(?P<pair>\d+)"
)


def nodes(model: keras.Model) -> list[keras.Operation]:
    """The layers and operations of a functional model in topological order."""
    return list(model.operations)


def parents(node: keras.Operation) -> list[keras.Operation]:
    """The nodes whose outputs a node takes."""
    return [tensor._keras_history.operation for tensor in node._inbound_nodes[0].input_tensors]


def outputs(node: keras.Operation) -> list[keras.KerasTensor]:
    """The tensors that a node outputs; for a model inside the graph not those of its own graph."""
    return list(node._inbound_nodes[0].output_tensors)


def ancestors(given: Iterable[keras.Operation]) -> set[int]:
    """The ids of `given` and of all nodes before them."""
    found: set[int] = set()
    pending = list(given)
    while pending:
        node = pending.pop()
        if id(node) not in found:
            found.add(id(node))
            pending += parents(node)
    return found


def sole_consumers(model: keras.Model) -> list[tuple[keras.Operation, keras.Operation]]:
    """The nodes whose output exactly one node takes, and that is no output of the model, with that node."""
    order = nodes(model)
    taken = [(parent, node) for node in order for parent in parents(node)]
    times = Counter(id(parent) for parent, _ in taken)
    inside = {id(node) for node in order}
    returned = {id(tensor._keras_history.operation) for tensor in model.outputs}
    return [
        (parent, node) for parent, node in taken
        if times[id(parent)] == 1 and id(parent) in inside and id(parent) not in returned
    ]  # fmt: skip


def single_tensor_points(order: Sequence[keras.Operation]) -> list[int]:
    """The positions after which one tensor alone crosses: the output of the node there.

    Args:
        order: the nodes of a functional model.
    """
    place = {id(node): index for index, node in enumerate(order)}
    reach = list(range(len(order)))  # the last node that takes each one's output
    for index, node in enumerate(order):
        for parent in parents(node):
            reach[place[id(parent)]] = max(reach[place[id(parent)]], index)
    points, furthest = [], -1
    for index in range(len(order)):
        if furthest <= index:
            points.append(index)
        furthest = max(furthest, reach[index])
    return points


def block_name(segment: Iterable[keras.Operation]) -> str:
    """The block that an architecture says these nodes belong to, by majority; empty if it does not say."""
    found: Counter[str] = Counter()
    for node in reversed(list(segment)):  # the last one decides a tie
        if match := BLOCK_NAME.match(node.name):
            found[match["block"] or f"conv_{match['pair']}"] += 1
    return found.most_common(1)[0][0] if found else ""


def own_name(segment: Sequence[keras.Operation]) -> str:
    """The name of the first layer with a kernel; its type if the name is automatic, as Keras numbers those."""
    layer = next((each for each in segment if multiply_adds(each)), segment[-1])
    kind = type(layer).__name__
    automatic = re.fullmatch(rf"{re.sub(r'(?<!^)(?=[A-Z])', '_?', kind)}(_\d+)?", layer.name, re.IGNORECASE)
    return kind.lower() if automatic else layer.name


def output_bytes(node: keras.Operation) -> int:
    """The size of the output for one example in float32."""
    return 4 * output_values(node)


def output_values(node: keras.Operation) -> int:
    """How many numbers a node outputs for one example."""
    return sum(math.prod(tensor.shape[1:]) for tensor in outputs(node))


def multiply_adds(layer: keras.Operation) -> int:
    """The multiply-adds of one example.

    Counts all weight matrices of a layer and of those inside it, and the products of attention.
    """
    if isinstance(layer, keras.Model):
        return sum(map(multiply_adds, layer.layers))
    if not isinstance(layer, keras.Layer):
        return 0
    inside = list(layer._flatten_layers())
    kernels = [
        weight.shape for each in inside for weight in each._trainable_variables if weight.name.endswith("kernel")
    ]
    attention = [each for each in inside if isinstance(each, keras.layers.MultiHeadAttention)]
    if not kernels and not attention:
        return 0
    transposed = isinstance(layer, keras.layers.Conv1DTranspose | keras.layers.Conv2DTranspose)
    node = layer._inbound_nodes[0]
    tensor = (node.input_tensors if transposed else node.output_tensors)[0]
    places = math.prod(tensor.shape[1:-1])  # pixels or tokens that share the weights
    products = sum(2 * places**2 * each.num_heads * each.key_dim for each in attention)
    return places * sum(map(math.prod, kernels)) + products


def chain(layers: Iterable[keras.Layer], tensor):
    """Apply layers one after the other."""
    for layer in layers:
        tensor = layer(tensor)
    return tensor


def as_list(outputs) -> list:
    """The outputs of a model, which are a list or a single tensor."""
    return list(outputs) if isinstance(outputs, list | tuple) else [outputs]


def as_inputs(tensors: Sequence):
    """What a model takes: a list of several tensors, or the only one."""
    return list(tensors) if len(tensors) > 1 else tensors[0]


def at_pooling(model: keras.Model) -> tuple[keras.Model, list[keras.Layer]]:
    """A network of ours in two: the model up to its feature maps, and the layers from there to the probabilities."""
    pooling = model.get_layer(POOLING)
    return keras.Model(model.input, pooling.input), model.layers[model.layers.index(pooling) :]


def has_frozen_normalization(model: keras.Model) -> bool:
    """Whether all batch normalization in a network of ours is in inference mode, as recorded with its layers."""
    return not any(
        layer.trainable for layer in model._flatten_layers() if isinstance(layer, keras.layers.BatchNormalization)
    )


def reseed_dropout(model: keras.Model, seed: Sequence[int]) -> None:
    """Restart every dropout layer from `seed`, so that it depends on the epoch alone."""
    dropouts = [layer for layer in model._flatten_layers() if isinstance(layer, keras.layers.Dropout)]
    generators = [layer.seed_generator for layer in dropouts if hasattr(layer, "seed_generator")]
    for number, generator in enumerate(generators):
        generator.state.assign(np.array(np.random.SeedSequence([*seed, number]).generate_state(2), "int64"))
