"""Images -> float32 batches, the same in training, evaluation and serving.

CPU kernels give an image the same bits in batches of 8, 16, 24, ... images, and others in odd batches. So the last
batch is filled up to a multiple of 8, with images that weigh nothing.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from thaw.augmentation import view
from thaw.config import Augmentation
from thaw.data import Split
from thaw.decoding import read

PREFETCH = 4  # batches; left to TensorFlow, this grows to gigabytes where training is slower than reading
SIDE_BY_SIDE = 16  # images that are read at once, as far as there are threads
EVEN = 8  # images, of which each batch has a multiple
SAMPLE = 512  # images: enough for the statistics of batch normalisation


@dataclass(frozen=True)
class Views:
    """Which view of the images each epoch shows.

    Attributes:
        policy: how views stray from images.
        seed: of the run.
        count: how many views there are; epochs go through them in turn. None: as many as epochs.
    """

    policy: Augmentation
    seed: int
    count: int | None

    def number(self, epoch: int) -> int | None:
        """The view of that epoch; None where views are the images as they are."""
        if not (self.policy.flip or self.policy.rotation or self.policy.zoom or self.policy.translation):
            return None
        return epoch % self.count if self.count else epoch


PLAIN = Views(Augmentation(name="none", flip=False, rotation=0, zoom=0, translation=0, views=None), 0, None)


def orders(images: int, epochs: range, seed: tuple[int, int]) -> Iterator[tuple[int, np.ndarray]]:
    """Each epoch's number and the order in which it shows the images, fixed by the number and the seed alone.

    Args:
        images: how many there are.
        epochs: their numbers.
        seed: of the run and of the stage.
    """
    for epoch in epochs:
        yield epoch, np.random.default_rng([*seed, epoch]).permutation(images)


def training_batches(
    split: Split, size: int, batch_size: int, epochs: range, seed: tuple[int, int], views: Views
) -> tf.data.Dataset:
    """The batches of several epochs in a row, each epoch in an order and with views of its own.

    Args:
        split: the images to train on.
        size: of an image, px a side.
        batch_size: images a batch.
        epochs: the numbers of the epochs; an epoch's order and view depend on its number alone.
        seed: of the run and of the stage; they set the order.
        views: which view belongs to which epoch.

    Returns:
        As many batches in each epoch of float32 images (batch, size, size, 3) in [0, 255], int32 labels (batch,) and
        float32 weights (batch,), 0 where an image only fills the batch up.
    """

    def shown() -> Iterator[tuple[np.ndarray, int | None]]:
        for epoch, order in orders(len(split), epochs, seed):
            yield order, views.number(epoch)

    return _images(shown, len(epochs), split, size, batch_size, views)


def evaluation_batches(split: Split, size: int, batch_size: int) -> tf.data.Dataset:
    """Every image of `split` once, in order and as it is; batches as in `training_batches`."""
    return _in_order(split, size, batch_size, PLAIN, None)


def view_batches(split: Split, size: int, batch_size: int, views: Views, number: int | None) -> tf.data.Dataset:
    """One view of every image of `split`, in order; batches as in `training_batches`."""
    return _in_order(split, size, batch_size, views, number)


def array_batches(
    arrays: Callable[[int], Sequence[np.ndarray]],
    labels: np.ndarray,
    batch_size: int,
    orders: Iterable[tuple[int, np.ndarray]],
) -> tf.data.Dataset:
    """Batches of rows of arrays, such as kept activations, in place of images.

    Args:
        arrays: gives the arrays (images, ...) of an epoch.
        labels: int32 (images,).
        batch_size: rows a batch.
        orders: each epoch's number and the order of its rows.

    Returns:
        Batches of float32 rows (one tensor, or a tuple where there are several arrays), labels and weights, as in
        `training_batches`.
    """
    epochs = list(orders)
    first = arrays(epochs[0][0])

    def batches() -> Iterator[tuple]:
        for epoch, order in epochs:
            rows, weights = _evened(order, batch_size)
            for start in range(0, len(rows), batch_size):
                chosen = rows[start : start + batch_size]
                inputs = tuple(array[chosen].astype(np.float32, copy=False) for array in arrays(epoch))
                yield inputs if len(first) > 1 else inputs[0], labels[chosen], weights[start : start + batch_size]

    inputs = tuple(tf.TensorSpec((None, *array.shape[1:]), tf.float32) for array in first)
    signature = (
        inputs if len(first) > 1 else inputs[0],
        tf.TensorSpec([None], tf.int32),
        tf.TensorSpec([None], tf.float32),
    )
    count = sum(-(-len(order) // batch_size) for _, order in epochs)
    dataset = tf.data.Dataset.from_generator(batches, output_signature=signature)
    return ahead(dataset.apply(tf.data.experimental.assert_cardinality(count)))


def ahead(batches: tf.data.Dataset) -> tf.data.Dataset:
    """The same batches, of which some are made before they are asked for.

    TensorFlow does not tune how many. The thread that it tunes with sleeps twice as long each time, and the end of an
    iterator waits for it: training would now and then take up to twice as long.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return batches.prefetch(PREFETCH).with_options(options)


def sample(split: Split, size: int) -> Iterator[np.ndarray]:
    """Some images of `split` as they are, in batches of float32 (32 or fewer, size, size, 3) in [0, 255]."""
    chosen = np.random.default_rng(0).permutation(len(split))[:SAMPLE]
    for images, _, _ in evaluation_batches(split.take(chosen), size, 32):
        yield images.numpy()


def _evened(order: np.ndarray, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """`order` continued from its start until the last batch has a multiple of 8, and weights that are 0 there.

    Where no batch has a multiple of 8, the last one is filled up whole.
    """
    part = batch_size if batch_size % EVEN else EVEN
    weights = np.repeat([1.0, 0.0], [len(order), -len(order) % part]).astype(np.float32)
    return np.resize(order, len(weights)), weights


def _in_order(split: Split, size: int, batch_size: int, views: Views, number: int | None) -> tf.data.Dataset:
    return _images(lambda: [(np.arange(len(split)), number)], 1, split, size, batch_size, views)


def _images(
    shown: Callable[[], Iterable[tuple[np.ndarray, int | None]]],
    epochs: int,
    split: Split,
    size: int,
    batch_size: int,
    views: Views,
) -> tf.data.Dataset:
    """The batches of so many epochs; of each, `shown` gives the order of the images and the number of the view."""
    labels, keys = tf.constant(split.labels), tf.constant(split.keys())
    plain = views.number(0) is None

    def loaded(row, weight, number):
        # Stateless, or deterministic ops would read one image at a time.
        pixels = tf.numpy_function(lambda i: read(split.images[i], size), [row], tf.uint8, stateful=False)
        image = tf.cast(tf.ensure_shape(pixels, [size, size, 3]), tf.float32)
        if not plain:
            image = view(image, views.policy, views.seed, keys[row], number)
        return image, labels[row], weight

    def places() -> Iterator[tuple[np.ndarray, ...]]:
        for order, number in shown():
            rows, weights = _evened(order, batch_size)
            yield rows, weights, np.full(len(rows), -1 if number is None else number)

    def batches(*each) -> tf.data.Dataset:
        images = tf.data.Dataset.from_tensor_slices(each).map(loaded, SIDE_BY_SIDE, deterministic=True)
        return images.batch(batch_size)

    signature = tuple(tf.TensorSpec([None], dtype) for dtype in (tf.int64, tf.float32, tf.int64))
    dataset = tf.data.Dataset.from_generator(places, output_signature=signature).flat_map(batches)
    count = epochs * -(-len(split) // batch_size)
    return ahead(dataset.apply(tf.data.experimental.assert_cardinality(count)))
