import numpy as np
import pytest
from networks import split_of

from thaw.config.schema import Augmentation
from thaw.modalities.images.modality import Images
from thaw.training import batches as batches_of
from thaw.training.batches import (
    PLAIN,
    Views,
    array_batches,
    epoch_orders,
    evaluation_batches,
    sample_examples,
    training_batches,
    view_batches,
)

FLIP = Augmentation(name="light", flip=True, rotation=0.0, zoom=0.0, translation=0.0, views=None)


def numbered(count):
    """Images whose every pixel is their label."""
    labels = np.arange(count, dtype=np.int32)
    pixels = np.broadcast_to(labels[:, None, None], (count, 8, 8)).astype(np.uint8)
    return split_of(tuple(f"image {i}" for i in range(count)), labels, pixels)


def test_an_epoch_shows_every_image_once_and_fills_its_last_batch_to_a_multiple_of_8_with_weightless_ones():
    batches = training_batches(numbered(21), Images(8), 16, range(2), (0, 0), PLAIN)
    assert batches.cardinality().numpy() == 4
    seen = [(images.numpy(), labels.numpy(), weights.numpy()) for images, labels, weights in batches]
    for images, labels, weights in seen:
        assert images.shape[1:] == (8, 8, 3)
        assert images.dtype == np.float32
        np.testing.assert_array_equal(images[:, 0, 0, 0], labels)
        assert set(weights) <= {0.0, 1.0}
    assert [len(labels) for _, labels, _ in seen] == [16, 8, 16, 8]
    for epoch in (seen[:2], seen[2:]):
        counted = [label for _, labels, weights in epoch for label in labels[weights > 0]]
        assert sorted(counted) == list(range(21))


@pytest.mark.parametrize(("size", "sizes"), [(32, [32, 8]), (24, [24, 16]), (20, [20, 20]), (3, [3] * 12)])
def test_the_last_batch_is_as_even_as_the_others_are(size, sizes):
    rows = array_batches(lambda _: [np.zeros((34, 3))], np.zeros(34, np.int32), size, [(0, np.arange(34))])
    shown = evaluation_batches(numbered(34), Images(8), size)
    for batches in (rows, shown):
        assert [len(labels) for _, labels, _ in batches] == sizes
        assert sum(float(weights.numpy().sum()) for *_, weights in batches) == 34


def test_batches_can_be_gone_through_again():
    for batches in (
        training_batches(numbered(11), Images(8), 8, range(2), (0, 0), PLAIN),
        evaluation_batches(numbered(11), Images(8), 8),
    ):
        assert labels_of(batches) == labels_of(batches) != []


def labels_of(batches):
    return [labels.numpy().tolist() for _, labels, _ in batches]


def test_an_epoch_depends_on_its_number_and_seed_and_not_on_those_before():
    both = labels_of(training_batches(numbered(16), Images(8), 8, range(2), (0, 0), PLAIN))
    assert labels_of(training_batches(numbered(16), Images(8), 8, range(1, 2), (0, 0), PLAIN)) == both[2:]
    assert both[:2] != both[2:]
    assert labels_of(training_batches(numbered(16), Images(8), 8, range(2), (1, 0), PLAIN)) != both
    assert labels_of(training_batches(numbered(16), Images(8), 8, range(2), (0, 1), PLAIN)) != both


def test_the_end_of_batches_waits_for_no_thread_that_tunes():
    rows = array_batches(lambda _: [np.zeros((8, 3))], np.zeros(8, np.int32), 8, [(0, np.arange(8))])
    shown = training_batches(numbered(8), Images(8), 8, range(1), (0, 0), PLAIN)
    for batches in (rows, shown, evaluation_batches(numbered(8), Images(8), 8)):
        assert batches.options().autotune.enabled is False


def test_evaluation_goes_through_in_order():
    batches = list(evaluation_batches(numbered(11), Images(8), 8))
    assert [labels.numpy().tolist() for _, labels, _ in batches] == [
        [0, 1, 2, 3, 4, 5, 6, 7],
        [8, 9, 10, 0, 1, 2, 3, 4],
    ]
    assert batches[1][2].numpy().tolist() == [1, 1, 1, 0, 0, 0, 0, 0]


def test_each_epoch_has_views_of_its_own_and_evaluation_has_none():
    flip = Views(FLIP, 0, None)
    slope = np.broadcast_to(np.arange(8, dtype=np.uint8) * 30, (16, 8, 8))
    split = split_of(tuple(map(str, range(16))), np.arange(16, dtype=np.int32), slope)
    first, second = (
        {int(label): int(image[0, 0, 0]) for images, labels, _ in batches for image, label in zip(images, labels)}
        for batches in (training_batches(split, Images(8), 8, range(e, e + 1), (0, 0), flip) for e in (0, 1))
    )
    assert set(first.values()) == {0, 210}
    assert first != second
    assert {int(i[0, 0, 0]) for images, _, _ in evaluation_batches(split, Images(8), 8) for i in images} == {0}


def test_a_part_of_a_view_is_that_of_the_whole():
    """With the partners that mixed images have in the whole split."""
    mixed = Views(Augmentation(mixup=0.5), 0, None, 16)
    (whole,) = view_batches(numbered(16), Images(8), 16, mixed, 1)
    rows = np.array([3, 9, 12])
    (part,) = view_batches(numbered(16), Images(8), 8, mixed, 1, rows)
    assert part[2].numpy().tolist() == [1, 1, 1, 0, 0, 0, 0, 0]
    for one, other in zip(part[:2], whole[:2], strict=True):
        np.testing.assert_array_equal(one.numpy()[:3], other.numpy()[rows])


def test_a_sample_is_of_plain_images_in_batches():
    batches = list(sample_examples(numbered(40), Images(8)))
    assert [batch.shape for batch in batches] == [(32, 8, 8, 3), (8, 8, 8, 3)]


def test_views_come_in_turn_or_one_an_epoch():
    assert [Views(FLIP, 0, None).number(epoch) for epoch in range(4)] == [0, 1, 2, 3]
    assert [Views(FLIP, 0, 3).number(epoch) for epoch in range(7)] == [0, 1, 2, 0, 1, 2, 0]
    assert [PLAIN.number(epoch) for epoch in range(2)] == [None, None]


@pytest.mark.parametrize("room", [0, batches_of.IN_MEMORY])
@pytest.mark.parametrize("count", [1, 2])
def test_rows_of_arrays_come_as_images_would(count, room, monkeypatch):
    monkeypatch.setattr(batches_of, "IN_MEMORY", room)
    arrays = [np.arange(42, dtype=np.float32).reshape(21, 2) * (n + 1) for n in range(count)]
    order = list(epoch_orders(numbered(21).labels, range(2), (0, 0)))
    batches = array_batches(lambda _: arrays, numbered(21).labels, 8, order)
    assert batches.cardinality().numpy() == 6
    assert labels_of(batches) == labels_of(training_batches(numbered(21), Images(8), 8, range(2), (0, 0), PLAIN))
    for inputs, labels, _ in batches:
        tensors = inputs if count > 1 else (inputs,)
        for n, tensor in enumerate(tensors):
            np.testing.assert_array_equal(tensor, np.stack([labels * 2, labels * 2 + 1], 1) * (n + 1))


@pytest.mark.parametrize("room", [0, batches_of.IN_MEMORY])
def test_rows_are_float32_of_the_arrays_of_their_epoch(room, monkeypatch):
    monkeypatch.setattr(batches_of, "IN_MEMORY", room)
    arrays = [[np.full((8, 2), epoch, np.float16)] for epoch in range(2)]
    orders = [(epoch, np.arange(8)) for epoch in range(2)]
    for shown in (arrays, [arrays[1], arrays[1]]):
        seen = [rows.numpy() for rows, _, _ in array_batches(shown.__getitem__, numbered(8).labels, 8, orders)]
        np.testing.assert_array_equal(seen, np.stack([each[0] for each in shown]).astype(np.float32))
        assert {rows.dtype for rows in seen} == {np.dtype(np.float32)}
