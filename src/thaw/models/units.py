"""Units and blocks: how `unfreeze` counts the layers of a backbone.

A unit is a layer of the backbone's graph. A block is a sequence of units that the architecture groups by name; a single
tensor enters and leaves it. If the architecture names no blocks, each weight layer (such as a convolution) forms a
block with the normalization and activation after it.
"""

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import keras

from thaw.errors import ThawError
from thaw.models import graph

Depth = int | Literal["all"]  # units at the end of the backbone that train


@dataclass(frozen=True)
class Block:
    """Consecutive units.

    Attributes:
        name: given by the architecture, or else that of its first layer with a kernel.
        first: the position of its first unit.
        size: how many units it has.
    """

    name: str
    first: int
    size: int


def find_blocks(model: keras.Model) -> list[Block]:
    """Group the units of a backbone into blocks, in order."""
    nodes = graph.nodes(model)
    points = graph.single_tensor_points(nodes)
    segments = [nodes[start + 1 : end + 1] for start, end in zip([-1, *points], points, strict=False)]
    groups: list[tuple[str, list[keras.Operation]]] = []
    for segment in segments:
        name, multiplies = graph.block_name(segment), any(map(graph.multiply_adds, segment))
        belongs = name == groups[-1][0] if groups and name else not multiplies
        untitled = groups and not groups[-1][0] and not any(map(graph.multiply_adds, groups[-1][1]))  # input, rescaling
        if groups and (belongs or untitled):
            groups[-1] = (groups[-1][0] or name, [*groups[-1][1], *segment])
        else:
            groups.append((name, list(segment)))
    blocks, first = [], 0
    for name, members in groups:
        size = sum(isinstance(node, keras.Layer) for node in members)
        blocks.append(Block(name or graph.own_name(members), first, size))
        first += size
    return blocks


def resolve(unfreeze: int | str, blocks: Sequence[Block], architecture: str, key: str = "unfreeze") -> Depth:
    """The depth in units of `20`, `2blocks` or `all`.

    Args:
        unfreeze: as configured.
        blocks: of the backbone.
        architecture: its name, for messages.
        key: that has the value, for messages.

    Raises:
        ThawError: the backbone has fewer units or blocks.
    """
    if unfreeze == "all":
        return "all"
    count = sum(block.size for block in blocks)
    if isinstance(unfreeze, int):
        if unfreeze > count:
            raise ThawError(
                f"{key}={unfreeze} is beyond {architecture}, which has {count} layers; give 0 to {count} or all"
            )
        return unfreeze
    number = int(unfreeze.removesuffix("s").removesuffix("block"))
    if number > len(blocks):
        raise ThawError(
            f"{key}={unfreeze} is beyond {architecture}, which has {len(blocks)} blocks; give 1block to "
            f"{len(blocks)}blocks, or all"
        )
    return count - blocks[-number].first


def within(values: Iterable[int | str], blocks: Sequence[Block]) -> list[Depth]:
    """The depths of those values that the backbone has."""
    depths: list[Depth] = []
    for each in values:
        with contextlib.suppress(ThawError):
            depths.append(resolve(each, blocks, ""))
    return depths


def describe(depth: Depth, blocks: Sequence[Block]) -> dict[str, object]:
    """What is recorded of a depth: units, whole blocks, and the block that the boundary falls into."""
    count = sum(block.size for block in blocks)
    units = count if depth == "all" else depth
    start = count - units
    whole = sum(block.first >= start for block in blocks)
    boundary = "the head"
    if units:
        block = next(each for each in reversed(blocks) if each.first <= start)
        left = block.first + block.size - start
        boundary = block.name if left == block.size else f"{block.name}, its last {left} of {block.size} layers"
    return {"unfrozen.layers": units, "unfrozen.blocks": whole, "unfrozen.boundary": boundary}
