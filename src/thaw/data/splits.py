"""Splits: training, validation and test images, folds, and fractions of a split.

Membership is decided by a hash of the seed and the image's name alone, so it does not depend on the order of files, the
platform or the folder's location.
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from thaw.config import schema
from thaw.data.listing import Listing
from thaw.errors import ThawError

HELD_OUT = 0.15  # of the images of a class, for validation and for test each


@dataclass(frozen=True)
class Split:
    """Labelled images.

    Attributes:
        names: identify each image within the dataset, such as its path below the dataset's folder.
        labels: int32 (images,), the index of each image's class; of a multi-label dataset float32 (images, classes), 1
            for each class that an image has, else 0.
        images: a file each, or uint8 pixels (images, height, width) or (images, height, width, 3).
        contents: the SHA-256 of each file, or of each image's pixels.
    """

    names: tuple[str, ...]
    labels: np.ndarray
    images: Sequence[Path] | np.ndarray
    contents: tuple[bytes, ...]

    def __len__(self) -> int:
        return len(self.names)

    def take(self, indices: np.ndarray) -> "Split":
        """The images at `indices`, in that order."""
        images = self.images[indices] if isinstance(self.images, np.ndarray) else [self.images[i] for i in indices]
        names = tuple(self.names[i] for i in indices)
        return Split(names, self.labels[indices], images, tuple(self.contents[i] for i in indices))

    @cached_property
    def strata(self) -> np.ndarray:
        """int (images,): the class that each image counts for in a fraction; of several the rarest, -1 without any."""
        if self.labels.ndim == 1:
            return self.labels
        rarity = np.where(self.labels > 0, self.labels.sum(axis=0), np.inf)
        return np.where(self.labels.any(axis=1), rarity.argmin(axis=1), -1)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of every image's name and content, in order."""
        found = hashlib.sha256()
        for name, content in zip(self.names, self.contents, strict=True):
            found.update(name.encode() + b"\0" + content)
        return found.hexdigest()

    def keys(self) -> np.ndarray:
        """A 63-bit hash of each image's name, int64 (images,)."""
        digests = (hashlib.sha256(name.encode()).digest()[:8] for name in self.names)
        return np.array([int.from_bytes(digest) >> 1 for digest in digests], np.int64)


def fraction(split: Split, percent: float, seed: int) -> Split:
    """`percent` of each class, rounded to the nearest image, at least one.

    For one seed a smaller fraction is a subset of a larger one.
    """
    return first_of_each_class(split, ranks(split.names, seed), lambda n: max(1, math.floor(n * percent / 100 + 0.5)))


def class_counts(labels: np.ndarray, classes: int) -> np.ndarray:
    """How many images have each class, int64 (classes,)."""
    if labels.ndim == 1:
        return np.bincount(labels, minlength=classes)
    return labels.sum(axis=0).astype(np.int64)


def classes_of(class_names: Sequence[str], label: np.ndarray) -> tuple[str, ...]:
    """The classes of an image, one unless the dataset is multi-label; `label` is a row of `Split.labels`."""
    if label.ndim == 0:
        return (class_names[int(label)],)
    return tuple(name for name, has in zip(class_names, label, strict=True) if has)


def class_text(class_names: Sequence[str], label: np.ndarray) -> str:
    """The classes of an image with | between them."""
    return "|".join(classes_of(class_names, label))


def class_weights(labels: np.ndarray) -> tuple[float, ...]:
    """The weight of each class that balances all: images / (classes * images of the class)."""
    counts = np.bincount(labels)
    return tuple((len(labels) / (len(counts) * counts)).tolist())


def arrange(listing: Listing, layout: str) -> str:
    """Decide which of the source's splits are kept; explains it if that is not obvious.

    Raises:
        ThawError: there are splits, but none to train on.
    """
    if layout in ("pooled", "classes"):
        listing.predefined_splits = set()
    splits = listing.predefined_splits
    if not splits:
        return ""
    if "train" not in splits:
        named = ", ".join(sorted(splits))
        raise ThawError(f"{listing.name} has no training images, only {named}; give some, or dataset.layout=pooled")
    if splits == {"train"}:
        listing.predefined_splits = set()
        return "There is no held-out split: train is divided into training, validation and test images."
    if splits == {"train", "validation"}:
        if layout == "validation":
            return "There is no test split: test images are divided from train."
        listing.predefined_splits = {"train", "test"}
        listing.splits = ["test" if each == "validation" else each for each in listing.splits]
        return (
            "There is no test split: the validation images are used for testing, and new validation images are held "
            "out from train (dataset.layout=validation prevents that)."
        )
    return ""


def fewest_examples(predefined: set[str], dataset: schema.Dataset) -> dict[str, int]:
    """How many different images each class needs in each predefined split; under an empty name, in total."""
    if predefined:
        needed = {"train": 1 + len({"validation", "test"} - predefined), "validation": 1, "test": 1}
        return {name: count for name, count in needed.items() if name in predefined}
    # Of what a fold leaves, one goes to training and one to validation.
    return {"": 3 if dataset.fold is None else max(dataset.folds, 4 if dataset.folds == 2 else 3)}


def divide(whole: Split, splits: list[str], dataset: schema.Dataset, seed: int) -> list[Split]:
    """Training, validation and test images: predefined, by fold, or divided here.

    Args:
        whole: all images.
        splits: the predefined split of each image; none if there are no predefined splits.
        dataset: has the fold.
        seed: of the run.
    """
    if splits:
        parts = {name: whole.take(np.flatnonzero([each == name for each in splits])) for name in set(splits)}
        missing = [name for name in ("validation", "test") if name not in parts]
        parts["train"], *held_out = _hold_out(parts["train"], seed, len(missing))
        parts |= zip(missing, held_out, strict=True)
        return [parts["train"], parts["validation"], parts["test"]]
    if dataset.fold is None:
        return _hold_out(whole, seed, 2)
    folds = _assign(whole, seed, dataset.folds, lambda place, _: place % dataset.folds)
    rest = np.sort(np.concatenate([each for number, each in enumerate(folds) if number != dataset.fold]))
    return [*_hold_out(whole.take(rest), seed, 1), whole.take(folds[dataset.fold])]


def _hold_out(whole: Split, seed: int, parts: int) -> list[Split]:
    """The rest of `whole`, then `parts` held-out parts, each `HELD_OUT` of every class and at least one image."""

    def part(place: int, count: int) -> int:
        behind = place // max(1, math.floor(count * HELD_OUT + 0.5))
        return behind + 1 if behind < parts else 0

    return [whole.take(each) for each in _assign(whole, seed, parts + 1, part)]


def _assign(whole: Split, seed: int, parts: int, part: Callable[[int, int], int]) -> list[np.ndarray]:
    """The indices of the images of each part, every class divided by itself; duplicates stay in the same part.

    Args:
        whole: the images.
        seed: of their order.
        parts: how many.
        part: (position in the order of a class, number of different images of the class) -> number of a part.
    """
    order = ranks(whole.names, seed)
    members: list[list[int]] = [[] for _ in range(parts)]
    if whole.labels.ndim == 2:
        copies = _copies(whole, sorted(range(len(whole)), key=order.__getitem__))
        labels = whole.labels[[group[0] for group in copies]] > 0
        for number, group in zip(_deal(labels, parts, part), copies, strict=True):
            members[number] += group
    else:
        for indices in _by_class(whole, order):
            copies = _copies(whole, indices)
            for place, group in enumerate(copies):
                members[part(place, len(copies))] += group
    return [np.sort(np.array(each, np.int64)) for each in members]


def _copies(whole: Split, indices: Sequence[int]) -> list[list[int]]:
    """The indices of each different image, in their order."""
    found: dict[bytes, list[int]] = {}
    for index in indices:
        found.setdefault(whole.contents[index], []).append(index)
    return list(found.values())


def _deal(labels: np.ndarray, parts: int, part: Callable[[int, int], int]) -> np.ndarray:
    """The part of each image with any number of classes, int (images,), by iterative stratification.

    From the rarest class on, each image goes to the part that lacks most of that class (Sechidis et al. 2011, "On the
    Stratification of Multi-Label Data"). Then a part without a class gets an image of it from one that keeps others;
    the first part, which is trained on, from any.

    Args:
        labels: bool (images, classes), in the order in which images are dealt.
        parts: how many.
        part: as for `_assign`.
    """
    labels = np.column_stack([labels, ~labels.any(axis=1)])  # without any class: one more
    counts = labels.sum(axis=0)
    lacks = np.array([np.bincount([part(i, n) for i in range(n)], minlength=parts) for n in counts], np.int64).T
    found = np.full(len(labels), -1)
    for label in np.argsort(counts, kind="stable"):
        for image in np.flatnonzero(labels[:, label] & (found < 0)):
            others = lacks[:, labels[image]].sum(axis=1)
            found[image] = np.lexsort((-others, -lacks[:, label]))[0]
            lacks[found[image], labels[image]] -= 1
    has = np.array([labels[found == number].sum(axis=0) for number in range(parts)])
    for number, label in zip(*np.nonzero((has == 0) & (counts > 0)), strict=True):
        for image in np.flatnonzero(labels[:, label]):
            if number == 0 or (has[found[image], labels[image]] > 1).all():
                has[found[image], labels[image]] -= 1
                has[number, labels[image]] += 1
                found[image] = number
                break
    return found


def first_of_each_class(split: Split, order: list[bytes], count: Callable[[int], int]) -> Split:
    """The first `count(n)` of the n images of each class, sorted by `order`; each class has its first image."""
    chosen = {index for indices in _by_class(split, order) for index in indices[: count(len(indices))]}
    if split.labels.ndim == 2:
        first = np.argsort(order)
        chosen |= {
            int(first[split.labels[first, label].argmax()]) for label in np.flatnonzero(split.labels.any(axis=0))
        }
    return split.take(np.sort(np.array(list(chosen))))


def _by_class(split: Split, order: list[bytes]) -> list[list[int]]:
    """The indices of the images of each class, sorted by `order`."""
    found: dict[int, list[int]] = {}
    for index in sorted(range(len(split)), key=order.__getitem__):
        found.setdefault(int(split.strata[index]), []).append(index)
    return [found[label] for label in sorted(found)]


def ranks(names: Sequence[str], seed: int) -> list[bytes]:
    """Sort keys that put images in a random order, fixed by the seed and each name."""
    return [hashlib.sha256(f"{seed} {name}".encode()).digest() for name in names]
