"""The frozen part's outputs, computed once and kept on disk.

Every epoch, stage, depth and run of a sweep would compute the same frozen layers on the same images. Here each is
computed once; what crosses the frontier lies in files that training reads as memory-mapped arrays. An entry is named
by all that its numbers depend on, written beside its place and renamed into it, and checked before it is used.
"""

import contextlib
import hashlib
import json
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from filelock import Timeout

from thaw import config, durable, pipeline, progress, signature
from thaw.data import Split
from thaw.errors import FULL
from thaw.network import Cut, Depth, Network
from thaw.pipeline import Views

# Images that the frozen layers are computed for at a time. CPU kernels add up in another order for what is left of
# blocks of 6 (AVX2) or 8 (AVX-512) pixels, and divide work among threads by its size. In batches of one size that both
# divide, 24 or a multiple, an image has the same bits wherever it stands.
FROZEN_BATCH = 48


class Activations:
    """What crosses the frontiers of one network. As a context it keeps the entries that it gave out in their place.

    Args:
        folder: has one folder for each entry.
        settings: whether to keep anything, how much, and in which type.
        network: whose frozen parts these are.
        depths: those that the runs of a sweep unfreeze; images are read once for the deepest, and what crosses nearer
            to the end is computed from there.
        say: takes a line that a person should see.
    """

    def __init__(
        self,
        folder: Path,
        settings: config.Activations,
        network: Network,
        depths: list[Depth],
        say: Callable[[str], None],
    ):
        (folder / "locks").mkdir(parents=True, exist_ok=True)
        self.folder, self.settings, self.network, self.say = folder, settings, network, say
        cuts = [cut for cut in map(network.cut, set(depths)) if cut.frozen is not None]
        self.earliest = sorted(cuts, key=lambda cut: cut.before)
        self.held = contextlib.ExitStack()
        self.traced: dict[keras.Model, Callable] = {}

    def __enter__(self) -> "Activations":
        return self

    def __exit__(self, *_) -> None:
        self.held.close()

    def training_batches(
        self, cut: Cut, split: Split, batch_size: int, seed: tuple[int, int], views: Views, epochs: range
    ) -> tf.data.Dataset:
        """As `pipeline.training_batches`, but of what crosses `cut` in place of images, kept where that can be."""
        numbers = sorted({views.number(epoch) for epoch in epochs}, key=lambda number: number or 0)
        reason = self._refusal(cut, len(split), len(numbers))
        kept = {}
        while not reason and len(kept) < len(numbers):
            number = numbers[len(kept)]
            kept[number] = self._kept(cut, split, views, number)
            reason = kept[number] if isinstance(kept[number], str) else None
        if reason:
            self.say(f"Trains without kept activations: {reason}.")
            split = self._decoded(split) if len(epochs) > 1 else split
            images = pipeline.training_batches(split, self.network.size, batch_size, epochs, seed, views)
            return images if cut.frozen is None else self._online(cut, images)
        order = pipeline.orders(len(split), epochs, seed)
        return pipeline.array_batches(lambda epoch: kept[views.number(epoch)], split.labels, batch_size, order)

    def evaluation_batches(self, cut: Cut, split: Split, batch_size: int) -> tf.data.Dataset:
        """As `pipeline.evaluation_batches`, but of what crosses `cut` in place of images."""
        refused = self._refusal(cut, len(split), 1)
        kept = refused or self._kept(cut, split, pipeline.PLAIN, None)
        if isinstance(kept, str):
            images = pipeline.evaluation_batches(split, self.network.size, batch_size)
            return images if cut.frozen is None else self._online(cut, images)
        return pipeline.array_batches(lambda _: kept, split.labels, batch_size, [(0, np.arange(len(split)))])

    def _refusal(self, cut: Cut, images: int, views: int) -> str | None:
        """Why nothing can be kept for that cut and that many images and views; None where it can."""
        if cut.frozen is None:
            return "every layer trains"
        if not self.settings.keep:
            return "activations=off"
        gigabytes = views * images * self._width(cut) / 1e9
        if gigabytes > self.settings.max_gigabytes:
            return (
                f"{views} views of {images} images would take {gigabytes:.1f} GB, and "
                f"activations.max_gigabytes={self.settings.max_gigabytes:g}"
            )
        return None

    def _width(self, cut: Cut) -> int:
        """The bytes of one image."""
        values = sum(int(np.prod(tensor.shape[1:])) for tensor in cut.frozen.outputs)
        return values * np.dtype(self.settings.dtype).itemsize

    def _kept(self, cut: Cut, split: Split, views: Views, number: int | None) -> list[np.ndarray] | str:
        """What crosses `cut` for every image of `split`, computed first if it is not there.

        Returns:
            For each tensor a memory-mapped array (images, ...) of `settings.dtype`, or why there is no room for them.
        """
        name = self._name(cut, split, views, number)
        computed = partial(self._computed, cut, split, views, number)
        return self._entry(name, "frozen pass", len(split), self._width(cut), self.settings.dtype, computed)

    def _decoded(self, split: Split) -> Split:
        """The same images as pixels that are kept, so that each file is decoded once; as they are without room."""
        width = self.network.size**2 * 3
        if isinstance(split.images, np.ndarray) or not self.settings.keep:
            return split
        if len(split) * width / 1e9 > self.settings.max_gigabytes:
            return split

        def decoded() -> Iterator[tuple]:
            for images, *_ in pipeline.evaluation_batches(split, self.network.size, FROZEN_BATCH):
                yield ([images.numpy()],)

        parts = ["pixels", self.network.size, split.digest, signature.code()]
        arrays = self._entry(_hash(parts), "decoding", len(split), width, "uint8", decoded)
        return split if isinstance(arrays, str) else replace(split, images=arrays[0])

    def _entry(
        self, name: str, what: str, images: int, width: int, dtype: str, computed: Callable[[], Iterator[tuple]]
    ) -> list[np.ndarray] | str:
        """The arrays of that name, computed first if they are not there, or why there is no room for them."""
        lock = durable.read_write_lock(self.folder / "locks" / f"{name}.db")
        while True:
            lock.acquire_read()
            arrays = self._open(name)
            if arrays is not None:
                self.held.callback(lock.release)
                os.utime(self.folder / name)
                return arrays
            lock.release()
            with lock.write_lock():
                if self._open(name) is None:  # else another process has just computed it
                    self._clear(name)
                    batches = computed()  # which may keep an earlier cut's first
                    gigabytes = images * width / 1e9
                    if not self._make_room(gigabytes):
                        return "what others use now leaves no room"
                    try:
                        self._write(name, what, images, dtype, batches)
                    except OSError as error:
                        self._clear(name)
                        if error.errno not in FULL:
                            raise
                        return f"the disk is full ({gigabytes:.3g} GB needed)"

    def _computed(self, cut: Cut, split: Split, views: Views, number: int | None) -> Iterator[tuple]:
        """The outputs batch by batch in the order of `split`, from an earlier cut of the sweep if it has one."""
        # Rounded to float16 the arrays of an earlier cut would give other numbers than the images do.
        for earlier in self.earliest if self.settings.dtype == "float32" else []:
            between = self.network.between(earlier, cut) if earlier.before < cut.before else None
            if between is None or self._refusal(earlier, len(split), 1):
                continue
            arrays = self._kept(earlier, split, views, number)
            if not isinstance(arrays, str):
                batches = pipeline.array_batches(
                    lambda _, arrays=arrays: arrays, split.labels, FROZEN_BATCH, [(0, np.arange(len(split)))]
                )
                return self._outputs(between, batches)
        return self._outputs(cut.frozen, pipeline.view_batches(split, self.network.size, FROZEN_BATCH, views, number))

    def _online(self, cut: Cut, images: tf.data.Dataset) -> tf.data.Dataset:
        """Batches of images -> batches of what crosses `cut`, computed as they are asked for."""

        def batches() -> Iterator[tuple]:
            for tensors, labels, weights in self._outputs(cut.frozen, images):
                rounded = [tensor.astype(self.settings.dtype).astype(np.float32) for tensor in tensors]
                yield _single(rounded), labels, weights

        crossing = [tf.TensorSpec((None, *tensor.shape[1:]), tf.float32) for tensor in cut.frozen.outputs]
        kinds = (_single(crossing), *images.element_spec[1:])
        dataset = tf.data.Dataset.from_generator(batches, output_signature=kinds)
        return pipeline.ahead(dataset.apply(tf.data.experimental.assert_cardinality(images.cardinality())))

    def _outputs(self, model: keras.Model, batches: tf.data.Dataset) -> Iterator[tuple]:
        """What the model makes of each batch's inputs, with the labels and weights.

        It computes `FROZEN_BATCH` rows at a time, whatever size the batches have. Not by `batches.map`: TensorFlow
        optimises functions inside a dataset otherwise, which moves the last bits.
        """
        if model not in self.traced:
            self.traced[model] = tf.function(lambda inputs: _widened(model(inputs, training=False)))
        waiting: deque[tuple] = deque()  # labels and weights of batches whose outputs are not complete
        rows: list[np.ndarray] = []  # inputs that are not computed yet, for each tensor
        outputs: list[np.ndarray] = []  # and outputs that no batch has taken
        for inputs, labels, weights in batches:
            waiting.append((labels, weights))
            rows = _joined(rows, [each.numpy() for each in keras.tree.flatten(inputs)])
            while len(rows[0]) >= FROZEN_BATCH:
                outputs = _joined(outputs, self._chunk(model, [each[:FROZEN_BATCH] for each in rows]))
                rows = [each[FROZEN_BATCH:] for each in rows]
            while outputs and waiting and len(outputs[0]) >= len(waiting[0][0]):
                yield [each[: len(waiting[0][0])] for each in outputs], *waiting[0]
                outputs = [each[len(waiting[0][0]) :] for each in outputs]
                waiting.popleft()
        if waiting:
            outputs = _joined(outputs, self._chunk(model, rows))
        for labels, weights in waiting:
            yield [each[: len(labels)] for each in outputs], labels, weights
            outputs = [each[len(labels) :] for each in outputs]

    def _chunk(self, model: keras.Model, rows: list[np.ndarray]) -> list[np.ndarray]:
        """The outputs for up to `FROZEN_BATCH` rows, computed in a batch of just that size."""
        count = len(rows[0])
        filled = [np.resize(each, (FROZEN_BATCH, *each.shape[1:])) for each in rows] if count < FROZEN_BATCH else rows
        inputs = [tf.constant(each) for each in filled]
        return [each.numpy()[:count] for each in self.traced[model](inputs if len(inputs) > 1 else inputs[0])]

    def _name(self, cut: Cut, split: Split, views: Views, number: int | None) -> str:
        layers = [layer.name for layer in self.network.backbone.model.layers]  # numbered by what else Keras has built
        parts = {
            "backbone": [self.network.backbone.model.name, self.network.backbone.digest],
            "cut": [
                type(self.network.head[0]).__name__,
                *(layers.index(each) for each in cut.tensors if each in layers),
            ],
            "images": [self.network.size, split.digest],
            "view": None if number is None else [views.policy.model_dump(), views.seed, number],
            "kept": [
                self.settings.dtype,
                keras.config.dtype_policy().name,
                FROZEN_BATCH,
                tf.__version__,
                keras.__version__,
                signature.code(),
            ],
        }
        return _hash(parts)

    def _open(self, name: str) -> list[np.ndarray] | None:
        """The arrays of an entry; None where there is none or it is damaged."""
        entry = self.folder / name
        try:
            digests = json.loads((entry / "digests.json").read_text())
            if any(_digest(entry / file) != digest for file, digest in digests.items()):
                return None
            return [np.load(entry / file, mmap_mode="r") for file in digests]
        except (OSError, ValueError):
            return None

    def _clear(self, name: str) -> None:
        """Remove a damaged entry, and what a writer that was killed has left."""
        if (self.folder / name).exists():
            self.say(f"Kept activations {name} are damaged and are computed again.")
            shutil.rmtree(self.folder / name)
        shutil.rmtree(self.folder / f"{name}.partial", ignore_errors=True)

    def _write(self, name: str, what: str, images: int, dtype: str, batches: Iterator[tuple]) -> None:
        place = self.folder / f"{name}.partial"
        place.mkdir()
        arrays: list[np.memmap] = []
        done = 0
        with progress.reporter().step(what, images, "images") as step:
            for tensors, *_ in batches:
                if not arrays:
                    arrays = [
                        np.lib.format.open_memmap(place / f"{n}.npy", "w+", dtype, (images, *each.shape[1:]))
                        for n, each in enumerate(tensors)
                    ]
                    for n in range(len(arrays)):
                        durable.reserve(place / f"{n}.npy")
                for array, tensor in zip(arrays, tensors, strict=True):
                    array[done : done + len(tensor)] = tensor[: images - done]
                step.advance(min(len(tensors[0]), images - done))
                done += len(tensors[0])
        for array in arrays:
            array.flush()
        files = [f"{n}.npy" for n in range(len(arrays))]
        (place / "digests.json").write_text(json.dumps({file: _digest(place / file) for file in files}))
        os.replace(place, self.folder / name)

    def _make_room(self, gigabytes: float) -> bool:
        """Remove the entries that were used longest ago until there is room, but none that anybody reads or writes."""
        entries = []
        for entry in self.folder.iterdir():
            with contextlib.suppress(FileNotFoundError):  # another process has just finished or removed it
                if entry.name != "locks":
                    taken = sum(file.stat().st_size for file in entry.iterdir()) / 1e9
                    entries.append((entry.stat().st_mtime, taken, entry))
        total = sum(taken for _, taken, _ in entries) + gigabytes
        for _, taken, entry in sorted(entries):
            if total <= self.settings.max_gigabytes:
                break
            lock = durable.read_write_lock(self.folder / "locks" / f"{entry.stem}.db")
            try:
                with lock.write_lock(blocking=False):
                    shutil.rmtree(entry)
                total -= taken
            except (Timeout, RuntimeError, FileNotFoundError):  # in use, or another process has just removed it
                continue
        return total <= self.settings.max_gigabytes


def _joined(rows: list[np.ndarray], more: list[np.ndarray]) -> list[np.ndarray]:
    if not rows or not len(rows[0]):
        return more
    return [np.concatenate(each) for each in zip(rows, more, strict=True)]


def _widened(outputs) -> list[tf.Tensor]:
    """The tensors as float32, whatever the layers compute in."""
    return [each if each.dtype == tf.float32 else tf.cast(each, tf.float32) for each in keras.tree.flatten(outputs)]


def _hash(parts: list | dict) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def _single(tensors: list):
    return tuple(tensors) if len(tensors) > 1 else tensors[0]


def _digest(path: Path) -> str:
    """SHA-256 of a file, read once in a process as long as it stays the same, whatever it is called."""
    status = path.stat()
    state = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
    if state not in _DIGESTS:
        with path.open("rb") as file:
            _DIGESTS[state] = hashlib.file_digest(file, "sha256").hexdigest()
    return _DIGESTS[state]


_DIGESTS: dict[tuple[int, ...], str] = {}
