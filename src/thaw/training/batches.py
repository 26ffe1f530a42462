"""Examples -> float32 batches, the same way in training, evaluation and serving.

CPU kernels compute bit-identical results for an example in batches of 8, 16, 24, ... examples, but not in other batch
sizes. So the last batch is padded to a multiple of 8 with examples of weight 0.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import starmap

import numpy as np
import tensorflow as tf

from thaw.config.schema import Augmentation
from thaw.data.splits import Split
from thaw.modalities.images.modality import Images, changes

PREFETCH = 4  # batches; TensorFlow's own choice grows to gigabytes if training is slower than reading
READ_PARALLELISM = 16  # examples that are read at once, as far as there are threads
BATCH_MULTIPLE = 8  # examples
IN_MEMORY = 64 * 2**20  # bytes of rows that are copied to memory as a whole, those of all epochs
SAMPLE = 512  # examples: enough for the statistics of batch normalization


@dataclass(frozen=True)
class Views:
    """Which view of the examples each epoch shows.

    Attributes:
        policy: how views differ from examples.
        seed: of the run.
        count: how many views there are; epochs cycle through them. None: a new one every epoch.
        classes: of the dataset; mixed views have shares of them for labels.
    """

    policy: Augmentation
    seed: int
    count: int | None
    classes: int = 0

    @property
    def are_mixed(self) -> bool:
        """Whether a view shows two examples."""
        return bool(self.policy.mixup or self.policy.cutmix)

    def number(self, epoch: int) -> int | None:
        """The view of an epoch; None if views are the examples themselves."""
        if not changes(self.policy):
            return None
        return epoch % self.count if self.count else epoch


PLAIN = Views(Augmentation(), 0, None)


def epoch_orders(
    labels: np.ndarray, epochs: range, seed: tuple[int, int], balanced: bool = False
) -> Iterator[tuple[int, np.ndarray]]:
    """Each epoch's number and the order of its examples, a function of the number and the seed alone.

    Args:
        labels: as in `Split`.
        epochs: their numbers.
        seed: of the run and of the stage.
        balanced: whether each class comes as often as any other, to one, in place of each example once.
    """
    for epoch in epochs:
        numbers = np.random.default_rng([*seed, epoch])
        yield epoch, _balanced_order(labels, numbers) if balanced else numbers.permutation(len(labels))


def _balanced_order(labels: np.ndarray, numbers: np.random.Generator) -> np.ndarray:
    """As many examples as there are; those of a class once each before any of them comes again."""
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    counts = np.full(len(members), len(labels) // len(members))
    counts[numbers.permutation(len(members))[: len(labels) % len(members)]] += 1
    chosen = []
    for own, count in zip(members, counts, strict=True):
        rounds = [numbers.permutation(own) for _ in range(-(-count // len(own)))]
        chosen.append(np.concatenate(rounds)[:count])
    return numbers.permutation(np.concatenate(chosen))


def training_batches(
    split: Split,
    modality: Images,
    batch_size: int,
    epochs: range,
    seed: tuple[int, int],
    views: Views,
    balanced: bool = False,
) -> tf.data.Dataset:
    """The batches of several epochs in a row, each epoch with an order and views of its own.

    Args:
        split: the examples to train on.
        modality: of the examples.
        batch_size: examples per batch.
        epochs: the numbers of the epochs; the order and view of an epoch depend on its number alone.
        seed: of the run and of the stage; they determine the order.
        views: which view each epoch shows.
        balanced: as for `epoch_orders`.

    Returns:
        The same number of batches in each epoch: tensors of the modality (batch, ...), int32 labels (batch,) and
        float32 weights (batch,), 0 for padding. Labels of mixed views, and multi-label ones, are float32 (batch,
        classes).
    """

    def shown() -> Iterator[tuple[np.ndarray, int | None]]:
        for epoch, order in epoch_orders(split.labels, epochs, seed, balanced):
            yield order, views.number(epoch)

    return _examples(shown, len(epochs) * -(-len(split) // batch_size), split, modality, batch_size, views)


def evaluation_batches(split: Split, modality: Images, batch_size: int) -> tf.data.Dataset:
    """Every example of `split` once, in order and unaugmented; batches as in `training_batches`."""
    return view_batches(split, modality, batch_size, PLAIN, None)


def view_batches(
    split: Split,
    modality: Images,
    batch_size: int,
    views: Views,
    number: int | None,
    rows: np.ndarray | None = None,
) -> tf.data.Dataset:
    """One view of every example of `split` in order, or of those in `rows`; batches as in `training_batches`."""
    shown = np.arange(len(split)) if rows is None else rows
    return _examples(lambda: [(shown, number)], -(-len(shown) // batch_size), split, modality, batch_size, views)


def array_batches(
    arrays: Callable[[int], Sequence[np.ndarray]],
    labels: np.ndarray,
    batch_size: int,
    orders: Iterable[tuple[int, np.ndarray]],
) -> tf.data.Dataset:
    """Batches of rows of arrays, such as cached features, in place of examples.

    Args:
        arrays: the arrays (examples, ...) of an epoch.
        labels: as in `Split`.
        batch_size: rows per batch.
        orders: each epoch's number and the order of its rows.

    Returns:
        Batches of float32 rows (one tensor, or a tuple of several), labels and weights, as in `training_batches`.
    """
    epochs = [(arrays(epoch), *_pad_to_multiple(order, batch_size)) for epoch, order in orders]
    first, rows, _ = epochs[0]
    row_bytes = sum(array.nbytes for array in first) / len(labels)
    read = _from_memory if row_bytes * len(rows) * len(epochs) <= IN_MEMORY else _from_arrays
    batches = read(labels, batch_size, epochs)
    count = len(epochs) * -(-len(rows) // batch_size)
    return prefetch(batches.apply(tf.data.experimental.assert_cardinality(count)))


Epochs = list[tuple[Sequence[np.ndarray], np.ndarray, np.ndarray]]  # arrays, rows and weights of each


def _from_memory(labels: np.ndarray, batch_size: int, epochs: Epochs) -> tf.data.Dataset:
    """The batches of few rows, copied as a whole: a Python generator takes longer than training a head on them."""

    def of_epoch(arrays: Sequence[np.ndarray], rows: np.ndarray, weights: np.ndarray) -> tf.data.Dataset:
        inputs = [array[rows].astype(np.float32, copy=False) for array in arrays]
        examples = tf.data.Dataset.from_tensor_slices((one_or_tuple(inputs), labels[rows], weights))
        return examples.batch(batch_size)

    return reduce(tf.data.Dataset.concatenate, starmap(of_epoch, epochs))


def _from_arrays(labels: np.ndarray, batch_size: int, epochs: Epochs) -> tf.data.Dataset:
    """The batches of arrays that are read while they are needed, as they may be larger than memory."""

    def batches() -> Iterator[tuple]:
        for arrays, rows, weights in epochs:
            for start in range(0, len(rows), batch_size):
                chosen = rows[start : start + batch_size]
                inputs = [array[chosen].astype(np.float32, copy=False) for array in arrays]
                yield one_or_tuple(inputs), labels[chosen], weights[start : start + batch_size]

    inputs = [tf.TensorSpec((None, *array.shape[1:]), tf.float32) for array in epochs[0][0]]
    labelled = tf.TensorSpec((None, *labels.shape[1:]), labels.dtype)
    signature = (one_or_tuple(inputs), labelled, tf.TensorSpec([None], tf.float32))
    return tf.data.Dataset.from_generator(batches, output_signature=signature)


def one_or_tuple(tensors: Sequence):
    """The elements of a dataset: a tuple of several tensors, or the only one."""
    return tuple(tensors) if len(tensors) > 1 else tensors[0]


def prefetch(batches: tf.data.Dataset) -> tf.data.Dataset:
    """Prefetch a fixed number of batches, with autotuning off.

    TensorFlow's autotuning thread doubles its sleep each time, and closing an iterator waits for it: training would
    occasionally take up to twice as long.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return batches.prefetch(PREFETCH).with_options(options)


def sample_examples(split: Split, modality: Images) -> Iterator[np.ndarray]:
    """Some examples of `split` in batches of 32 or fewer tensors, float32 (batch, ...)."""
    chosen = np.random.default_rng(0).permutation(len(split))[:SAMPLE]
    for tensors, _, _ in evaluation_batches(split.take(chosen), modality, 32):
        yield tensors.numpy()


def _pad_to_multiple(order: np.ndarray, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """`order` repeated from its start until the last batch has a multiple of 8, and weights that are 0 there.

    If the batch size itself is no multiple of 8, the last batch is filled completely.
    """
    part = batch_size if batch_size % BATCH_MULTIPLE else BATCH_MULTIPLE
    weights = np.repeat([1.0, 0.0], [len(order), -len(order) % part]).astype(np.float32)
    return np.resize(order, len(weights)), weights


def _examples(
    shown: Callable[[], Iterable[tuple[np.ndarray, int | None]]],
    count: int,
    split: Split,
    modality: Images,
    batch_size: int,
    views: Views,
) -> tf.data.Dataset:
    """The batches of several epochs, `count` in all; `shown` gives each one's order of the examples and its view."""
    labels, keys = tf.constant(split.labels), tf.constant(split.keys())
    plain = views.number(0) is None

    def view(row, number) -> tf.Tensor:
        # stateful=False: with deterministic ops, a stateful function would read one example at a time.
        decoded = tf.numpy_function(lambda i: modality.read(split.images[i]), [row], tf.uint8, stateful=False)
        tensor = modality.tensor(decoded)
        return tensor if plain else modality.augment(tensor, views.policy, views.seed, keys[row], number)

    def load(row, weight, number):
        if not views.are_mixed:
            return view(row, number), labels[row], weight
        other = modality.partner(len(split), views.seed, keys[row], number)
        tensor, share = modality.mix(
            view(row, number), view(other, number), views.policy, views.seed, keys[row], number
        )
        own, others = (
            labels[each] if len(labels.shape) == 2 else tf.one_hot(labels[each], views.classes) for each in (row, other)
        )
        return tensor, share * own + (1 - share) * others, weight

    def places() -> Iterator[tuple[np.ndarray, ...]]:
        for order, number in shown():
            rows, weights = _pad_to_multiple(order, batch_size)
            yield rows, weights, np.full(len(rows), -1 if number is None else number)

    def batches(*each) -> tf.data.Dataset:
        examples = tf.data.Dataset.from_tensor_slices(each).map(load, READ_PARALLELISM, deterministic=True)
        return examples.batch(batch_size)

    signature = tuple(tf.TensorSpec([None], dtype) for dtype in (tf.int64, tf.float32, tf.int64))
    dataset = tf.data.Dataset.from_generator(places, output_signature=signature).flat_map(batches)
    return prefetch(dataset.apply(tf.data.experimental.assert_cardinality(count)))
