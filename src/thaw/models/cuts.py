"""Cuts: splits of a network in two, where nothing before the cut trains.

The frontier is the set of tensors that pass from frozen layers to layers that training reaches. A cut lies there, or
slightly earlier at a single tensor, if reading that tensor and recomputing the layers between is cheaper.
"""

from dataclasses import dataclass

import keras

from thaw.models.graph import ancestors, as_inputs, as_list, multiply_adds, output_bytes, outputs, parents

# Throughput of two cores: reading cached rows, memory traffic, multiply-adds. `make cuts` measures the resulting cuts.
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
        tail: these tensors, or those of the modality -> probabilities float32 (batch, classes); its variables are the
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


def model_between(order: list[keras.Operation], pooling: keras.Layer, lower: Cut, upper: Cut) -> keras.Model | None:
    """The features at `lower` -> those at `upper`; None if `lower` is not before `upper`.

    Args:
        order: the nodes of the backbone.
        pooling: the head's first layer.
        lower: the cut to start from.
        upper: a cut further from the input.
    """
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
    return keras.Model(inputs, [pooling(features[0])] if upper.pooled else features)


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
