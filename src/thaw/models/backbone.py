"""A pretrained network without its top."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import keras

from thaw.models.units import Block, find_blocks


@dataclass(frozen=True)
class Backbone:
    """A pretrained network without its top: an ordered list of units.

    Attributes:
        name: of the architecture.
        model: preprocessed tensors (batch, ...) -> float32 features; its layers are the units.
        preprocess: tensors of the modality -> what `model` takes; works on symbolic tensors.
        weights: imagenet, random or file.
        digest: SHA-256 of the initial weights; empty before `weights.initialize`.
    """

    name: str
    model: keras.Model
    preprocess: Callable
    weights: str
    digest: str = ""

    @property
    def units(self) -> Sequence[keras.Layer]:
        """The layers of the graph in topological order, as `unfreeze` counts them."""
        return self.model.layers

    @cached_property
    def blocks(self) -> list[Block]:
        """The units that the architecture names together."""
        return find_blocks(self.model)
