"""Cuts: a network in two, where nothing before the cut trains.

The frontier is the set of tensors that cross from layers that nothing trains into those that train. A cut lies there,
or a little earlier, at a single tensor, if reading that and computing the layers between again is cheaper.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import keras

from thaw.models.graph import (
    ancestors,
    as_inputs,
    as_list,
    chain,
    multiply_adds,
    nodes,
    output_bytes,
    outputs,
    parents,
)  # fmt: skip
from thaw.models.units import Depth

if TYPE_CHECKING:
    from thaw.models.network import Network

# Rates of two cores: reading cached rows, passing over tensors in memory, multiplying and adding. `make cuts` measures.
READ_BYTES_PER_SECOND = 1e9
MEMORY_BYTES_PER_SECOND = 1.6e10
MULTIPLY_ADDS_PER_SECOND = 2.5e10


@dataclass(frozen=True)
class Cut:
    """A network in two.

    Attributes:
        crossing: the positions of the nodes whose outputs cross; none if everything trains or features cross pooled.
        pooled: whether the head's pooled features cross.
        frozen: tensors of the modality -> the list of tensors that cross; None if everything trains.
        tail: these tensors, or those of the modality -> probabilities float32 (batch, classes); its layers are the
            network's own.
        before: how many nodes are on the frozen side.
    """

    crossing: tuple[int, ...]
    pooled: bool
    frozen: keras.Model | None
    tail: keras.Model
    before: int

    @property
    def key(self) -> tuple:
        """What distinguishes the cuts of a network."""
        return (self.crossing, self.pooled)


def cut_network(network: "Network", depth: Depth) -> Cut:
    """Split at the last point before any trainable layer, or earlier if cheaper.

    If only the head trains, pooled features cross.
    """
    inputs = network.modality.input()
    prepared = network.backbone.preprocess(inputs)
    base, order = network.backbone.model, nodes(network.backbone.model)
    training = {id(layer) for layer in network.training_units(depth) if network.trainable[layer.name]}
    if not training:
        pooling = network.head[0]
        frozen = keras.Model(inputs, [pooling(base(prepared))])
        features = keras.Input(frozen.output[0].shape[1:], name="features")
        tail = keras.Model(features, chain(network.head[1:], features))
        return Cut((), True, frozen, tail, len(order))
    found = cheapest(order, frontier(order, training))
    before = ancestors(found)
    if not any(multiply_adds(node) for node in order if id(node) in before):
        return Cut((), False, None, network.model, 0)
    tensors = [outputs(node)[0] for node in found]
    lower, upper = keras.Model(base.input, tensors), keras.Model(tensors, base.output)
    frozen = keras.Model(inputs, as_list(lower(prepared)))
    crossing = [keras.Input(tensor.shape[1:], name=f"frontier_{n}") for n, tensor in enumerate(tensors)]
    tail = keras.Model(crossing, chain(network.head, upper(as_inputs(crossing))))
    return Cut(tuple(map(order.index, found)), False, frozen, tail, len(before))


def model_between(network: "Network", lower: Cut, upper: Cut) -> keras.Model | None:
    """What crosses `lower` -> what crosses `upper`; None if `lower` is not before `upper`."""
    order = nodes(network.backbone.model)
    if lower.pooled or lower.frozen is None or upper.frozen is None or lower.key == upper.key:
        return None
    ends = (len(order) - 1,) if upper.pooled else upper.crossing
    crossing = {
        place: keras.Input(outputs(order[place])[0].shape[1:], name=f"node_{place}") for place in lower.crossing
    }
    further = [place for place in ends if place not in crossing]
    sources, targets = ([outputs(order[place])[0] for place in places] for places in (crossing, further))
    try:
        inner = keras.Model(sources, targets)
    except ValueError:  # Keras finds that the outputs do not follow from the inputs
        return None
    inputs = list(crossing.values())
    reached = {**crossing, **dict(zip(further, as_list(inner(as_inputs(inputs))), strict=True))}
    features = [reached[place] for place in ends]
    return keras.Model(inputs, [network.head[0](features[0])] if upper.pooled else features)


def frontier(order: list[keras.Operation], training: set[int]) -> list[keras.Operation]:
    """The nodes that nothing trains and whose outputs are used by nodes that training reaches.

    Args:
        order: the nodes of the backbone.
        training: the ids of those with variables that train.
    """
    reached: set[int] = set()
    crossing: dict[int, keras.Operation] = {}
    for node in order:
        before = parents(node)
        if id(node) in training or any(id(parent) in reached for parent in before):
            reached.add(id(node))
            crossing |= {id(parent): parent for parent in before if id(parent) not in reached}
    return list(crossing.values())


def cheapest(order: list[keras.Operation], frontier: list[keras.Operation]) -> list[keras.Operation]:
    """The frontier, or the single earlier node that everything passes through and that costs least per example."""
    return min(candidates(order, frontier), key=lambda each: cost(each[0], each[1]))[0]


def candidates(
    order: list[keras.Operation], frontier: list[keras.Operation]
) -> list[tuple[list[keras.Operation], list[keras.Operation]]]:
    """Where a network may be cut: the frontier, then each earlier node that all of it passes through.

    Returns:
        For each the nodes whose outputs cross, and those between them and the frontier.
    """
    before = ancestors(frontier)
    earlier = [node for node in order if id(node) in before]
    found: list[tuple[list[keras.Operation], list[keras.Operation]]] = [(frontier, [])]
    for place, node in enumerate(earlier):
        later = earlier[place + 1 :]
        through = {id(each) for each in [node, *later]}
        needed = [*frontier, *(parent for each in later for parent in parents(each))]
        if all(id(each) in through for each in needed):
            found.append(([node], later))
    return found


def cost(crossing: list[keras.Operation], again: list[keras.Operation]) -> float:
    """Seconds per example and epoch: reading what crosses, and computing the nodes up to the frontier again."""
    seconds = sum(map(output_bytes, crossing)) / READ_BYTES_PER_SECOND
    seconds += sum(map(multiply_adds, again)) / MULTIPLY_ADDS_PER_SECOND
    passed = (output_bytes(node) + sum(map(output_bytes, parents(node))) for node in again)
    return seconds + sum(passed) / MEMORY_BYTES_PER_SECOND
