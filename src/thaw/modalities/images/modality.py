"""The modality `images`: squares of RGB pixels."""

import math
from dataclasses import dataclass, replace
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from thaw.config.schema import Augmentation, Backbone, Dataset
from thaw.modalities.images import decode
from thaw.modalities.images.augment import mix, partner, view


@dataclass(frozen=True)
class Images:
    """RGB images of one size.

    Decoded: uint8 (size, size, 3). As a tensor: float32 (size, size, 3) in [0, 255].

    Attributes:
        size: px a side.
        max_megapixels: files with more are refused.
    """

    size: int
    max_megapixels: float = math.inf

    @staticmethod
    def of(dataset: Dataset, backbone: Backbone) -> "Images":
        """The images that a run trains on."""
        return Images(dataset.image_size or backbone.image_size, dataset.max_megapixels)

    def resized(self, share: float, smallest: int) -> "Images":
        """Images of that share of the size, in multiples of 8 px from `smallest` on."""
        return (
            self if share == 1 else replace(self, size=min(self.size, max(smallest, 8 * round(self.size * share / 8))))
        )

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one example, decoded or as a tensor."""
        return (self.size, self.size, 3)

    @property
    def key(self) -> list:
        """What identifies the modality in signatures and in the feature cache."""
        return ["images", self.size]

    @property
    def parameters(self) -> dict[str, object]:
        """What is recorded of it."""
        return {"image_size": self.size}

    @property
    def description(self) -> str:
        """For messages and titles."""
        return f"{self.size} px"

    @property
    def values(self) -> int:
        """How many numbers one example has."""
        return math.prod(self.shape)

    def input(self) -> keras.KerasTensor:
        """The input of a network."""
        return keras.Input(self.shape, name="pixels")

    def read(self, source: Path | np.ndarray) -> np.ndarray:
        """Decode one example.

        Raises:
            ThawError: the file does not decode.
        """
        return decode.read(source, self.size, self.max_megapixels)

    def tensor(self, decoded: tf.Tensor) -> tf.Tensor:
        """A decoded example as the tensor that networks take."""
        return tf.cast(tf.ensure_shape(decoded, self.shape), tf.float32)

    def augment(self, tensor: tf.Tensor, policy: Augmentation, seed: int, key: tf.Tensor, number: tf.Tensor):
        """View `number` of an example, a fixed function of (seed, key, number)."""
        return view(tensor, policy, seed, key, number)

    def partner(self, count: int, seed: int, key: tf.Tensor, number: tf.Tensor) -> tf.Tensor:
        """The index of the example, of `count`, that view `number` of an example is mixed with."""
        return partner(count, seed, key, number)

    def mix(
        self, tensor: tf.Tensor, other: tf.Tensor, policy: Augmentation, seed: int, key: tf.Tensor, number: tf.Tensor
    ):
        """View `number` of an example and its partner's in one, and the share of the example in it."""
        return mix(tensor, other, policy, seed, key, number)

    def show(self, source: Path | np.ndarray, longest: int) -> np.ndarray:
        """A picture of an example for people, uint8 (height, width, 3), its longer side at most `longest` px."""
        return decode.photograph(source, longest)


def changes(policy: Augmentation) -> bool:
    """Whether views under this policy differ from their images: some setting is not off."""
    return any(policy.model_dump(exclude={"name", "magnitude", "views"}).values())
