"""A dataset: class names and three splits of labelled images, and any fraction of a split.

What belongs to which split is decided by a hash of the seed and the image's name alone, so that it does not
depend on the order of files, the platform or where the folder lies. Images come from `sources`, and pixels are read in
`decoding`.
"""

import hashlib
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from thaw import check, config
from thaw.errors import ThawError
from thaw.listing import Listing
from thaw.sources import SOURCES

HELD_OUT = 0.15  # of the images of a class, for the validation and for the test split each


@dataclass(frozen=True)
class Split:
    """Labelled images.

    Attributes:
        names: what identifies each image within the dataset, such as its path below the dataset's folder.
        labels: int32 (images,), the index of each image's class.
        images: a file each, or uint8 pixels (images, height, width) or (images, height, width, 3).
        contents: the SHA-256 of each file, or of each image's pixels.
    """

    names: tuple[str, ...]
    labels: np.ndarray
    images: Sequence[Path] | np.ndarray
    contents: tuple[bytes, ...]

    @staticmethod
    def of_pixels(names: tuple[str, ...], labels: np.ndarray, pixels: np.ndarray) -> "Split":
        """Images that are in memory."""
        return Split(names, labels, pixels, tuple(hashlib.sha256(image.tobytes()).digest() for image in pixels))

    def __len__(self) -> int:
        return len(self.names)

    def take(self, indices: np.ndarray) -> "Split":
        """The images at `indices`, in that order."""
        images = self.images[indices] if isinstance(self.images, np.ndarray) else [self.images[i] for i in indices]
        names, contents = (tuple(each[i] for i in indices) for each in (self.names, self.contents))
        return Split(names, self.labels[indices], images, contents)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of every image's name and content, in their order."""
        found = hashlib.sha256()
        for name, content in zip(self.names, self.contents, strict=True):
            found.update(name.encode() + b"\0" + content)
        return found.hexdigest()

    def keys(self) -> np.ndarray:
        """A number of 63 bits for each image, int64 (images,), fixed by its name."""
        digests = (hashlib.sha256(name.encode()).digest()[:8] for name in self.names)
        return np.array([int.from_bytes(digest) >> 1 for digest in digests], np.int64)


@dataclass(frozen=True)
class Dataset:
    """A dataset, checked and divided.

    Attributes:
        name: of the dataset.
        class_names: in the order of the labels.
        train, validation, test: the splits.
        left_out: what cannot be used, by name, with the reason.
        layout: how the source's splits were taken where that is not obvious; else nothing.
        contents: a short hash of every image's content and class, whatever it is called and whichever split it is in.
    """

    name: str
    class_names: tuple[str, ...]
    train: Split
    validation: Split
    test: Split
    left_out: dict[str, str] = field(default_factory=dict)
    layout: str = ""
    contents: str = ""

    def digest(self) -> str:
        """A short hash of every image's name, class and split."""
        return _digest(
            f"{split_name}\t{name}\t{self.class_names[label]}"
            for split_name, split in self.splits().items()
            for name, label in zip(split.names, split.labels, strict=True)
        )

    @property
    def summary(self) -> str:
        """How large it is and how even, in a sentence or two."""
        counts = np.bincount(self.train.labels, minlength=len(self.class_names))
        least, most = counts.min(), counts.max()
        each = f"{least} to {most}" if least < most else str(least)
        said = (
            f"{self.name}: {len(self.class_names)} classes, {len(self.train)} training, {len(self.validation)} "
            f"validation and {len(self.test)} test images; {each} training images a class"
        )
        if most > check.UNEVEN * least:
            said += ", which training.class_weights=balanced would make up for"
        said += f"; {len(self.left_out)} entries left out" if self.left_out else ""
        return f"{said}. {self.layout}" if self.layout else said

    def splits(self) -> dict[str, Split]:
        """The splits by name."""
        return {"train": self.train, "validation": self.validation, "test": self.test}


def load(dataset: config.Dataset, seed: int, store: Path) -> Dataset:
    """The dataset that the configuration names, checked and divided.

    Args:
        dataset: which.
        seed: of the run.
        store: the folder that remembers what files hold.

    Raises:
        ThawError: there is no such dataset, or something in it cannot be used and is not to be left out.
    """
    if dataset.source not in SOURCES:
        known = list(SOURCES)
        told = f"dataset.source={dataset.source} is not known; it is one of {', '.join(known)}"
        raise ThawError(f"{told}{config.nearest(dataset.source, known)}")
    listing = SOURCES[dataset.source](dataset, store)
    layout = ""
    if dataset.fold is None:
        layout = _arrange(listing, dataset.layout)
    given = listing.given if dataset.fold is None else set()
    found = check.examine(listing, given, _least(given, dataset), dataset.max_megapixels, store)
    if found.left_out and dataset.on_bad == "error":
        raise ThawError(
            f"{listing.name} has {len(found.left_out)} entries that cannot be used:\n{found.told}\n"
            "Mend or remove them, or leave them out with dataset.on_bad=skip"
        )
    class_names = tuple(sorted({listing.classes[index] for index in found.used}))
    number = {name: label for label, name in enumerate(class_names)}
    labels = np.array([number[listing.classes[index]] for index in found.used], np.int32)
    images = listing.images
    whole = Split(
        tuple(listing.names[index] for index in found.used),
        labels,
        images[found.used] if isinstance(images, np.ndarray) else [images[index] for index in found.used],
        tuple(found.contents[index] for index in found.used),
    )
    splits = [listing.splits[index] for index in found.used] if given else []
    contents = _digest(f"{listing.classes[index]}\t{found.contents[index].hex()}" for index in found.used)
    loaded = Dataset(listing.name, class_names, *_parts(whole, splits, dataset, seed), found.left_out, layout, contents)
    if dataset.images_per_class is None:
        return loaded
    few = {
        name: _first(split, _ranks(split.names, seed), lambda _: dataset.images_per_class)
        for name, split in loaded.splits().items()
    }
    return replace(loaded, **few)


def _digest(lines: Iterable[str]) -> str:
    """A short hash of lines, whatever their order."""
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()[:16]


def _arrange(listing: Listing, layout: str) -> str:
    """Decide which of the source's splits stay as they are; say so in a sentence where that is not obvious.

    Raises:
        ThawError: there are splits, but none to train on.
    """
    if layout in ("pooled", "classes"):
        listing.given = set()
    if not listing.given:
        return ""
    if "train" not in listing.given:
        named = ", ".join(sorted(listing.given))
        raise ThawError(f"{listing.name} has no training images, only {named}; give some, or dataset.layout=pooled")
    if listing.given == {"train"}:
        listing.given = set()
        return "There is no held-out split: train is divided into training, validation and test images."
    if listing.given == {"train", "validation"}:
        if layout == "validation":
            return "There is no test split: test images are divided from train."
        listing.given = {"train", "test"}
        listing.splits = ["test" if each == "validation" else each for each in listing.splits]
        return (
            "There is no test split: validation is tested on, and validation images are divided from train "
            "(dataset.layout=validation keeps it for validation)."
        )
    return ""


def fraction(split: Split, percent: float, seed: int) -> Split:
    """That many per cent of each class of `split`: at least one image, to the nearest, halves up.

    For one seed a smaller fraction is a subset of a larger one.
    """
    return _first(split, _ranks(split.names, seed), lambda n: max(1, math.floor(n * percent / 100 + 0.5)))


def class_weights(labels: np.ndarray) -> tuple[float, ...]:
    """For each class the weight that makes all count alike: images / (classes x images of the class)."""
    counts = np.bincount(labels)
    return tuple((len(labels) / (len(counts) * counts)).tolist())


def _least(given: set[str], dataset: config.Dataset) -> dict[str, int]:
    """How many different images each class needs in each given split; under an empty name, altogether."""
    if given:
        needed = {"train": 1 + len({"validation", "test"} - given), "validation": 1, "test": 1}
        return {name: count for name, count in needed.items() if name in given}
    # Of what a fold leaves, one goes to training and one to validation.
    return {"": 3 if dataset.fold is None else max(dataset.folds, 4 if dataset.folds == 2 else 3)}


def _parts(whole: Split, splits: list[str], dataset: config.Dataset, seed: int) -> list[Split]:
    """Training, validation and test images: as they were given, as the fold says, or divided here."""
    if splits:
        given = {name: whole.take(np.flatnonzero([each == name for each in splits])) for name in set(splits)}
        missing = [name for name in ("validation", "test") if name not in given]
        given["train"], *held_out = _held_out(given["train"], seed, len(missing))
        given |= zip(missing, held_out, strict=True)
        return [given["train"], given["validation"], given["test"]]
    if dataset.fold is None:
        return _held_out(whole, seed, 2)
    rest, test = _assigned(whole, seed, 2, lambda place, _: int(place % dataset.folds == dataset.fold))
    return [*_held_out(rest, seed, 1), test]


def _held_out(whole: Split, seed: int, parts: int) -> list[Split]:
    """`whole` without some parts, then these parts, each `HELD_OUT` of every class and at least one image."""

    def part(place: int, count: int) -> int:
        behind = place // max(1, math.floor(count * HELD_OUT + 0.5))
        return behind + 1 if behind < parts else 0

    return _assigned(whole, seed, parts + 1, part)


def _assigned(whole: Split, seed: int, parts: int, part: Callable[[int, int], int]) -> list[Split]:
    """`whole` in parts, class by class; copies of one image go together.

    Args:
        whole: the images.
        seed: of their order.
        parts: how many.
        part: for a place in the order of a class and how many different images that has, the number of a part.
    """
    members: list[list[int]] = [[] for _ in range(parts)]
    for indices in _by_class(whole, _ranks(whole.names, seed)):
        copies: dict[bytes, list[int]] = {}
        for index in indices:
            copies.setdefault(whole.contents[index], []).append(index)
        for place, group in enumerate(copies.values()):
            members[part(place, len(copies))] += group
    return [whole.take(np.sort(np.array(each))) for each in members]


def _first(split: Split, ranks: list[bytes], count: Callable[[int], int]) -> Split:
    """The first `count(n)` of the n images of each class in the order of `ranks`."""
    chosen = [index for indices in _by_class(split, ranks) for index in indices[: count(len(indices))]]
    return split.take(np.sort(np.array(chosen)))


def _by_class(split: Split, ranks: list[bytes]) -> list[list[int]]:
    """For each class its images' indices in the order of `ranks`."""
    found: dict[int, list[int]] = {}
    for index in sorted(range(len(split)), key=ranks.__getitem__):
        found.setdefault(int(split.labels[index]), []).append(index)
    return [found[label] for label in sorted(found)]


def _ranks(names: Sequence[str], seed: int) -> list[bytes]:
    return [hashlib.sha256(f"{seed} {name}".encode()).digest() for name in names]
