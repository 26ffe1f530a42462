"""The feature cache: the outputs of the frozen layers, computed once.

Every epoch, stage, depth and run of a sweep would compute the same frozen layers on the same examples. Here each is
computed once, and training reads what crosses the cut from memory-mapped arrays.
"""

import hashlib
import json
import logging
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from thaw import provenance
from thaw.array_store import ArrayStore, Entry
from thaw.config import schema
from thaw.data.splits import Split
from thaw.models.cuts import Cut
from thaw.models.network import Network
from thaw.models.units import Depth
from thaw.training.batches import (
    PLAIN,
    Views,
    array_batches,
    epoch_orders,
    evaluation_batches,
    one_or_tuple,
    prefetch,
    training_batches,
    view_batches,
)  # fmt: skip

# Frozen layers are computed for 24 examples at a time or a small multiple, as many as have this many values. More is no
# faster, and takes gigabytes.
FROZEN_VALUES = 4_000_000
logger = logging.getLogger(__name__)


def frozen_batch(values: int) -> int:
    """How many examples frozen layers are computed for at a time, given the values of one.

    CPU kernels sum in another order for the remainder of blocks of 6 (AVX2) or 8 (AVX-512) pixels, and divide work
    among threads by its size. In batches of one size that both divide, an example has the same bits at every position.
    """
    return 24 * max(1, min(4, FROZEN_VALUES // (24 * values)))


class FeatureCache:
    """Cached features at the cuts of one network. As a context manager, keeps entries in use from being evicted.

    Args:
        folder: of the cache, with one subfolder per entry.
        settings: whether to cache, the size limit, and the dtype.
        network: whose frozen layers are computed.
        depths: unfrozen by the runs of a sweep. Examples are read once, for the deepest; features of shallower cuts are
            computed from its features.
    """

    def __init__(self, folder: Path, settings: schema.Activations, network: Network, depths: list[Depth]):
        self.settings, self.network = settings, network
        self.batch = frozen_batch(network.modality.values)
        self.store = ArrayStore(folder, settings.max_gigabytes)
        cuts = [cut for cut in map(network.cut, set(depths)) if cut.frozen is not None]
        self.earliest = sorted(cuts, key=lambda cut: cut.before)

    def __enter__(self) -> "FeatureCache":
        self.store.__enter__()
        return self

    def __exit__(self, *details) -> None:
        self.store.__exit__(*details)

    def training_batches(
        self,
        cut: Cut,
        split: Split,
        batch_size: int,
        seed: tuple[int, int],
        views: Views,
        balanced: bool,
        epochs: range,
    ) -> tf.data.Dataset:
        """As `batches.training_batches`, but of what crosses `cut`, from the cache if possible."""
        numbers = sorted({views.number(epoch) for epoch in epochs}, key=lambda number: number or 0)
        reason = self._why_not_cached(cut, len(split), len(numbers))
        if views.are_mixed and not reason:
            reason = f"augmentation={views.policy.name} mixes images, so decoded pixels are kept instead"
        cached: dict[int | None, list[np.ndarray]] = {}
        while not reason and len(cached) < len(numbers):
            arrays = self._arrays(cut, split, views, numbers[len(cached)])
            if isinstance(arrays, str):
                reason = arrays
            else:
                cached[numbers[len(cached)]] = arrays
        if reason:
            logger.info(f"Trains without cached features: {reason}.")
            split = self._decoded(split) if len(epochs) > 1 else split
            examples = training_batches(split, self.network.modality, batch_size, epochs, seed, views, balanced)
            return examples if cut.frozen is None else self._compute_on_the_fly(cut, examples)
        order = epoch_orders(split.labels, epochs, seed, balanced)
        return array_batches(lambda epoch: cached[views.number(epoch)], split.labels, batch_size, order)

    def evaluation_batches(
        self, cut: Cut, split: Split, batch_size: int, views: Views = PLAIN, number: int | None = None
    ) -> tf.data.Dataset:
        """As `batches.view_batches`, but of what crosses `cut`; by default the examples themselves."""
        arrays = self._why_not_cached(cut, len(split), 1) or self._arrays(cut, split, views, number)
        if isinstance(arrays, str):
            examples = view_batches(split, self.network.modality, batch_size, views, number)
            return examples if cut.frozen is None else self._compute_on_the_fly(cut, examples)
        return array_batches(partial(_always, arrays), split.labels, batch_size, [(0, np.arange(len(split)))])

    def _why_not_cached(self, cut: Cut, examples: int, views: int) -> str | None:
        """Why that cut, examples and views are not cached; None if they can be."""
        if cut.frozen is None:
            return "every layer trains"
        if not self.settings.keep:
            return "activations=off"
        gigabytes = views * examples * self._row_bytes(cut) / 1e9
        if gigabytes > self.settings.max_gigabytes:
            return (
                f"{views} views of {examples} images would take {gigabytes:.1f} GB, and "
                f"activations.max_gigabytes={self.settings.max_gigabytes:g}"
            )
        return None

    def _row_bytes(self, cut: Cut) -> int:
        """The size of one example."""
        assert cut.frozen is not None
        values = sum(int(np.prod(tensor.shape[1:])) for tensor in cut.frozen.outputs)
        return values * np.dtype(self.settings.dtype).itemsize

    def _arrays(self, cut: Cut, split: Split, views: Views, number: int | None) -> list[np.ndarray] | str:
        """What crosses `cut` for every example of `split`, or why it cannot be stored.

        Returns:
            For each tensor a memory-mapped array (examples, ...) of `settings.dtype`.
        """
        name = self._name(cut, split, views, number)
        entry = Entry(name, "frozen pass", len(split), self._row_bytes(cut), self.settings.dtype)
        return self.store.get(entry, partial(self._compute, cut, split, views, number))

    def _decoded(self, split: Split) -> Split:
        """The same examples as stored arrays, so that each file is decoded once; unchanged if there is no room."""
        modality = self.network.modality
        key = _hash(["pixels", *modality.key, split.digest, provenance.code(), provenance.versions()])
        entry = Entry(key, "decoding", len(split), modality.values, "uint8")
        if isinstance(split.images, np.ndarray) or not self.settings.keep:
            return split
        if entry.gigabytes > self.settings.max_gigabytes:
            return split

        def decode() -> Iterator[tuple]:
            for tensors, *_ in evaluation_batches(split, modality, self.batch):
                yield ([tensors.numpy()],)

        arrays = self.store.get(entry, decode)
        return split if isinstance(arrays, str) else replace(split, images=arrays[0])

    def _compute(self, cut: Cut, split: Split, views: Views, number: int | None) -> Iterator[tuple]:
        """The outputs batch by batch in the order of `split`, from an earlier cut of the sweep if there is one."""
        # Rounded to float16 the arrays of an earlier cut would give other numbers than the examples do.
        for earlier in self.earliest if self.settings.dtype == "float32" else []:
            between = self.network.between(earlier, cut) if earlier.before < cut.before else None
            if between is None or self._why_not_cached(earlier, len(split), 1):
                continue
            arrays = self._arrays(earlier, split, views, number)
            if not isinstance(arrays, str):
                order = [(0, np.arange(len(split)))]
                return self._outputs(between, array_batches(partial(_always, arrays), split.labels, self.batch, order))
        assert cut.frozen is not None
        split = split if number is None else self._decoded(split)  # for all views
        examples = view_batches(split, self.network.modality, self.batch, views, number)
        return self._outputs(cut.frozen, examples)

    def _compute_on_the_fly(self, cut: Cut, examples: tf.data.Dataset) -> tf.data.Dataset:
        """Batches of examples -> batches of what crosses `cut`."""
        frozen = cut.frozen
        assert frozen is not None

        def batches() -> Iterator[tuple]:
            for tensors, labels, weights in self._outputs(frozen, examples):
                rounded = [tensor.astype(self.settings.dtype).astype(np.float32) for tensor in tensors]
                yield one_or_tuple(rounded), labels, weights

        crossing = [tf.TensorSpec((None, *tensor.shape[1:]), tf.float32) for tensor in frozen.outputs]
        signature = (one_or_tuple(crossing), *examples.element_spec[1:])
        dataset = tf.data.Dataset.from_generator(batches, output_signature=signature)
        return prefetch(dataset.apply(tf.data.experimental.assert_cardinality(examples.cardinality())))

    def _outputs(self, model: keras.Model, batches: tf.data.Dataset) -> Iterator[tuple]:
        """The model's outputs for each batch of inputs, with labels and weights.

        Computes `self.batch` rows at a time, whatever the size of the batches. Not with `batches.map`: TensorFlow
        optimizes functions inside a dataset differently, which changes the last bits.
        """
        waiting: deque[tuple] = deque()  # labels and weights of batches whose outputs are not complete
        rows: list[np.ndarray] = []  # inputs that are not computed yet, for each tensor
        outputs: list[np.ndarray] = []  # outputs that no batch has taken yet
        for inputs, labels, weights in batches:
            waiting.append((labels, weights))
            rows = _concatenate(rows, [each.numpy() for each in keras.tree.flatten(inputs)])
            while len(rows[0]) >= self.batch:
                outputs = _concatenate(outputs, self._chunk(model, [each[: self.batch] for each in rows]))
                rows = [each[self.batch :] for each in rows]
            while outputs and waiting and len(outputs[0]) >= len(waiting[0][0]):
                yield [each[: len(waiting[0][0])] for each in outputs], *waiting[0]
                outputs = [each[len(waiting[0][0]) :] for each in outputs]
                waiting.popleft()
        if waiting:
            outputs = _concatenate(outputs, self._chunk(model, rows))
        for labels, weights in waiting:
            yield [each[: len(labels)] for each in outputs], labels, weights
            outputs = [each[len(labels) :] for each in outputs]

    def _chunk(self, model: keras.Model, rows: list[np.ndarray]) -> list[np.ndarray]:
        """The outputs for up to `self.batch` rows, computed in a batch of exactly that size."""
        count = len(rows[0])
        padded = [np.resize(each, (self.batch, *each.shape[1:])) for each in rows] if count < self.batch else rows
        inputs = [tf.constant(each) for each in padded]
        outputs = self.network.inference(model)(inputs if len(inputs) > 1 else inputs[0])
        return [each.numpy()[:count] for each in outputs]

    def _name(self, cut: Cut, split: Split, views: Views, number: int | None) -> str:
        """Hash of everything that the outputs depend on."""
        network = self.network
        parts = {
            "backbone": [network.backbone.model.name, network.backbone.digest],
            "cut": [type(network.head[0]).__name__ if cut.pooled else None, *cut.crossing],
            "examples": [*network.modality.key, split.digest],
            "view": None if number is None else [views.policy.model_dump(exclude={"name"}), views.seed, number],
            "computed": [self.settings.dtype, keras.config.dtype_policy().name, self.batch],
            "versions": provenance.versions(),
            "code": provenance.code(),
        }
        return _hash(parts)


def _always(arrays: list[np.ndarray], epoch: int) -> list[np.ndarray]:
    return arrays


def _concatenate(rows: list[np.ndarray], more: list[np.ndarray]) -> list[np.ndarray]:
    if not rows or not len(rows[0]):
        return more
    return [np.concatenate(each) for each in zip(rows, more, strict=True)]


def _hash(parts: list | dict) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]
