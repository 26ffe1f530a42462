import shutil

import numpy as np
import pytest
from datasets import folder
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import split_of

from thaw.config.schema import Dataset
from thaw.data.dataset import load_dataset
from thaw.data.splits import Split, _hold_out, class_weights, fraction

DIGITS = Dataset(source="digits", name="digits")


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    """`data.load` with a store of the tests' own."""
    return lambda source, seed: load_dataset(source, seed, tmp_path_factory.getbasetemp() / "store")


def names(split):
    return set(split.names)


def test_digits_are_1797_scans_of_ten_classes(load):
    digits = load(DIGITS, seed=0)
    assert digits.class_names == tuple("0123456789")
    assert sum(map(len, digits.splits().values())) == 1797
    assert digits.train.images.dtype == np.uint8
    assert digits.train.images.shape[1:] == (8, 8)
    assert digits.train.images.max() == 255


def test_splits_are_disjoint_stratified_and_complete(load):
    digits = load(DIGITS, seed=3)
    assert len(names(digits.train) | names(digits.validation) | names(digits.test)) == 1797
    for split in (digits.validation, digits.test):
        shares = np.bincount(split.labels) / np.bincount(np.concatenate([s.labels for s in digits.splits().values()]))
        assert shares == pytest.approx([0.15] * 10, abs=0.01)


def test_another_seed_divides_otherwise_and_the_same_seed_the_same_way(load):
    first, again, other = (load(DIGITS, seed).digest() for seed in (0, 0, 1))
    assert first == again != other


@settings(deadline=None, max_examples=60)
@given(
    counts=st.lists(st.integers(1, 300), min_size=2, max_size=6),
    percents=st.lists(st.floats(0.1, 100), min_size=2, max_size=4),
    seed=st.integers(0, 1000),
)
def test_fractions_are_stratified_nested_and_never_empty(counts, percents, seed):
    labels = np.repeat(np.arange(len(counts)), counts).astype(np.int32)
    split = split_of(tuple(f"image {i}" for i in range(len(labels))), labels, np.zeros((len(labels), 1, 1), np.uint8))
    before = set()
    for percent in sorted(percents):
        part = fraction(split, percent, seed)
        sizes = np.bincount(part.labels, minlength=len(counts))
        assert (sizes >= 1).all()
        assert (np.abs(sizes - np.array(counts) * percent / 100) <= 1).all()
        assert before <= names(part)
        before = names(part)
    assert names(fraction(split, 100, seed)) == names(split)


def test_a_fraction_does_not_depend_on_the_order_of_images(load):
    digits = load(DIGITS, seed=0).train
    shuffled = digits.take(np.random.default_rng(0).permutation(len(digits)))
    assert names(fraction(digits, 10, 0)) == names(fraction(shuffled, 10, 0))


def test_a_folder_of_classes_is_divided_by_class(load, pictures):
    root = pictures({"cat": 20, "dog": 10, "emu": 3})
    found = load(folder(root), seed=0)
    assert found.class_names == ("cat", "dog", "emu")
    assert [np.bincount(split.labels).tolist() for split in found.splits().values()] == [
        [14, 6, 1],
        [3, 2, 1],
        [3, 2, 1],
    ]


def test_a_moved_folder_is_the_same_dataset(load, pictures, tmp_path):
    root = pictures({"cat": 20, "dog": 10})
    before = load(folder(root, name="pets"), seed=0).digest()
    moved = shutil.move(root, tmp_path / "elsewhere")
    assert load(folder(moved, name="pets"), seed=0).digest() == before


def test_given_splits_are_kept_and_validation_is_hold_out_of_training_only(load, pictures):
    root = pictures({"train/a": 20, "train/b": 20, "test/a": 5, "test/b": 5})
    found = load(folder(root), seed=0)
    assert all(name.startswith("train/") for name in found.train.names + found.validation.names)
    assert (len(found.train), len(found.validation), len(found.test)) == (34, 6, 10)
    pictures({"train/a": 0, "train/b": 0, "test/a": 0, "test/b": 0, "val/a": 2, "val/b": 2})
    found = load(folder(root), seed=0)
    assert (len(found.train), len(found.validation), len(found.test)) == (40, 4, 10)


def test_images_per_class_bounds_every_split(load, pictures):
    root = pictures({"train/a": 20, "train/b": 20, "test/a": 5, "test/b": 1})
    found = load(folder(root, images_per_class=2), seed=0)
    assert [np.bincount(split.labels).tolist() for split in found.splits().values()] == [[2, 2], [2, 2], [2, 1]]


def test_hidden_files_are_passed_over_and_nested_ones_found(load, pictures):
    root = pictures({"cat": 4, "dog": 4, "dog/young": 2})
    (root / "cat" / ".hidden").write_text("x")
    (root / "cat" / "Thumbs.db").write_text("x")
    found = load(folder(root), seed=0)
    assert sum(map(len, found.splits().values())) == 10


def test_keys_depend_on_names_alone(load):
    digits = load(DIGITS, seed=0).train
    some = digits.take(np.array([5, 2]))
    assert some.keys().tolist() == [digits.keys()[5], digits.keys()[2]]
    assert len(set(digits.keys())) == len(digits)


@settings(deadline=None, max_examples=40)
@given(
    counts=st.lists(st.integers(3, 60), min_size=2, max_size=5),
    copies=st.integers(0, 20),
    seed=st.integers(0, 1000),
)
def test_parts_are_complete_disjoint_and_copies_go_together(counts, copies, seed):
    labels = np.repeat(np.arange(len(counts)), counts).astype(np.int32)
    contents = [str(i).encode() for i in range(len(labels))]
    for each in np.random.default_rng(copies).integers(3, counts[0], copies) if counts[0] > 3 else []:
        contents[each] = contents[2]
    split = Split(tuple(map(str, range(len(labels)))), labels, [None] * len(labels), tuple(contents))
    parts = _hold_out(split, seed, 2)
    assert sorted(name for part in parts for name in part.names) == sorted(split.names)
    assert all(set(part.labels) == set(labels) for part in parts)
    holders = [number for number, part in enumerate(parts) if contents[2] in part.contents]
    assert len(holders) == 1


@pytest.mark.parametrize("folds", [2, 5])
def test_folds_test_every_image_once_and_are_stratified(load, folds):
    tested, sizes = [], []
    for fold in range(folds):
        found = load(DIGITS.model_copy(update={"fold": fold, "folds": folds}), seed=1)
        assert not names(found.test) & (names(found.train) | names(found.validation))
        assert len(found.test) + len(found.train) + len(found.validation) == 1797
        tested += found.test.names
        sizes.append(np.bincount(found.test.labels))
    assert len(tested) == len(set(tested)) == 1797
    assert (np.ptp(sizes, axis=0) <= 1).all()


def test_folds_divide_given_splits_anew(load, pictures):
    root = pictures({"train/a": 20, "train/b": 20, "test/a": 5, "test/b": 5})
    found = load(folder(root, fold=0), seed=0)
    assert (len(found.train), len(found.validation), len(found.test)) == (34, 6, 10)
    tested = [load(folder(root, fold=fold), seed=0).test.names for fold in range(5)]
    assert sum(name.startswith("test") for names in tested for name in names) == 10


def test_class_weights_make_all_classes_count_alike():
    labels = np.repeat([0, 1, 2], [10, 30, 60])
    weights = np.array(class_weights(labels))
    np.testing.assert_allclose(weights * [10, 30, 60], 100 / 3)


def test_an_uneven_dataset_is_said_to_be_one(load, pictures):
    found = load(folder(pictures({"a": 60, "b": 3})), seed=0)
    assert "training.class_weights=balanced" in found.summary
    assert "pictures: 2 classes" in found.summary
