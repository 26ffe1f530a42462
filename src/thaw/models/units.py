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

Depth = int | Literal["all"] | tuple[int, int]  # what trains: units at the end, or those from one up to another


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


def positions(depth: Depth, count: int) -> range:
    """The positions of the units that train, of `count`."""
    if isinstance(depth, tuple):
        return range(*depth)
    return range(0 if depth == "all" else max(0, count - depth), count)


def resolve(unfreeze: int | str, blocks: Sequence[Block], architecture: str, key: str = "unfreeze") -> Depth:
    """The depth in units of `20`, `2blocks`, `block2..block4` or `all`.

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
    if ".." in unfreeze:
        first, last = (int(each.removeprefix("block")) for each in unfreeze.split(".."))
        if not first <= last <= len(blocks):
            raise ThawError(
                f"{key}={unfreeze} is no range of the {len(blocks)} blocks of {architecture}; give block1..block"
                f"{len(blocks)} or a part of it"
            )
        return blocks[first - 1].first, blocks[last - 1].first + blocks[last - 1].size
    number = int(unfreeze.removesuffix("s").removesuffix("block"))
    if number > len(blocks):
        raise ThawError(
            f"{key}={unfreeze} is beyond {architecture}, which has {len(blocks)} blocks; give 1block to "
            f"{len(blocks)}blocks, or all"
        )
    return count - blocks[-number].first


def fresh(reinit: int | str, depth: Depth, blocks: Sequence[Block], architecture: str) -> int:
    """How many units at the end start anew with `reinit` as configured.

    Args:
        reinit: 0, or a number of blocks such as `1block`.
        depth: of the stage that trains most.
        blocks: of the backbone.
        architecture: its name, for messages.

    Raises:
        ThawError: the backbone has fewer blocks, or some of them would stay frozen.
    """
    number = resolve(reinit, blocks, architecture, "reinit")
    count = sum(block.size for block in blocks)
    assert isinstance(number, int)
    if not set(range(count - number, count)) <= set(positions(depth, count)):
        raise ThawError(
            f"reinit={reinit} starts layers anew that unfreeze leaves frozen; give unfreeze={reinit} or more"
        )
    return number


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
    if isinstance(depth, tuple):
        inside = [block for block in blocks if depth[0] <= block.first < depth[1]]
        names = f"{inside[0].name} to {inside[-1].name}"
        return {"unfrozen.layers": depth[1] - depth[0], "unfrozen.blocks": len(inside), "unfrozen.boundary": names}
    units = len(positions(depth, count))
    start = count - units
    whole = sum(block.first >= start for block in blocks)
    boundary = "the head"
    if units:
        block = next(each for each in reversed(blocks) if each.first <= start)
        left = block.first + block.size - start
        boundary = block.name if left == block.size else f"{block.name}, its last {left} of {block.size} layers"
    return {"unfrozen.layers": units, "unfrozen.blocks": whole, "unfrozen.boundary": boundary}
