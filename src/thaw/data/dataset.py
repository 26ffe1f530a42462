"""A dataset: class names and three splits of labeled images, checked and divided."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from thaw.config import schema
from thaw.data import checks
from thaw.data.listing import Listing
from thaw.data.sources import archive, digits, folder, table, tfds
from thaw.data.splits import (
    Split,
    arrange,
    class_counts,
    class_text,
    divide,
    fewest_examples,
    first_of_each_class,
    ranks,
)
from thaw.errors import ThawError, nearest

SOURCES: dict[str, Callable[[schema.Dataset, Path], Listing]] = {
    "archive": archive.listing,
    "digits": digits.listing,
    "folder": folder.listing,
    "table": table.listing,
    "tfds": tfds.listing,
}


@dataclass(frozen=True)
class Dataset:
    """A dataset, checked and divided.

    Attributes:
        name: of the dataset.
        class_names: in the order of the labels.
        train, validation, test: the splits.
        excluded: why entries are not used, by name.
        layout: how the source's splits were interpreted, if that is not obvious; else empty.
        contents: hash of every image's content and class, independent of names and splits.
    """

    name: str
    class_names: tuple[str, ...]
    train: Split
    validation: Split
    test: Split
    excluded: dict[str, str] = field(default_factory=dict)
    layout: str = ""
    contents: str = ""

    def digest(self) -> str:
        """Hash of every image's name, class and split."""
        return _digest(
            f"{split_name}\t{name}\t{class_text(self.class_names, label)}"
            for split_name, split in self.splits().items()
            for name, label in zip(split.names, split.labels, strict=True)
        )

    @property
    def is_multi_label(self) -> bool:
        """Whether an image has any number of classes."""
        return self.train.labels.ndim == 2

    @property
    def summary(self) -> str:
        """Its size and balance, in one or two sentences."""
        counts = class_counts(self.train.labels, len(self.class_names))
        least, most = counts.min(), counts.max()
        each = f"{least} to {most}" if least < most else str(least)
        text = (
            f"{self.name}: {len(self.class_names)} classes, {len(self.train)} training, {len(self.validation)} "
            f"validation and {len(self.test)} test images; {each} training images a class"
        )
        if self.is_multi_label:
            text += f", {counts.sum() / len(self.train):.1f} classes an image"
        elif most > checks.IMBALANCE * least:
            text += ", which training.class_weights=balanced would make up for"
        text += f"; {len(self.excluded)} entries left out" if self.excluded else ""
        return f"{text}. {self.layout}" if self.layout else text

    def splits(self) -> dict[str, Split]:
        """The splits by name."""
        return {"train": self.train, "validation": self.validation, "test": self.test}


def load_dataset(dataset: schema.Dataset, seed: int, store: Path) -> Dataset:
    """List, check and divide a dataset.

    Args:
        dataset: which.
        seed: of the run.
        store: keeps the hashes of files.

    Raises:
        ThawError: there is no such dataset, or it has entries that cannot be used and `on_bad` is `error`.
    """
    if dataset.source not in SOURCES:
        known = list(SOURCES)
        message = f"dataset.source={dataset.source} is not known; it is one of {', '.join(known)}"
        raise ThawError(f"{message}{nearest(dataset.source, known)}")
    listing = SOURCES[dataset.source](dataset, store)
    layout = ""
    if dataset.fold is None:
        layout = arrange(listing, dataset.layout)
    predefined = listing.predefined_splits if dataset.fold is None else set()
    report = checks.examine(listing, predefined, fewest_examples(predefined, dataset), dataset.max_megapixels, store)
    if report.excluded and dataset.on_bad == "error":
        raise ThawError(
            f"{listing.name} has {len(report.excluded)} entries that cannot be used:\n{report.summary}\n"
            "Mend or remove them, or leave them out with dataset.on_bad=skip"
        )
    class_names = report.class_names
    labels = _labels([listing.classes[index] for index in report.used], class_names, dataset.multi_label)
    images = listing.images
    whole = Split(
        tuple(listing.names[index] for index in report.used),
        labels,
        images[report.used] if isinstance(images, np.ndarray) else [images[index] for index in report.used],
        tuple(report.contents[index] for index in report.used),
    )
    splits = [listing.splits[index] for index in report.used] if predefined else []
    contents = _digest(f"{'|'.join(listing.classes[index])}\t{report.contents[index].hex()}" for index in report.used)
    train, validation, test = divide(whole, splits, dataset, seed)
    loaded = Dataset(listing.name, class_names, train, validation, test, report.excluded, layout, contents)
    most = dataset.images_per_class
    if most is None:
        return loaded

    def fewer(split: Split) -> Split:
        return first_of_each_class(split, ranks(split.names, seed), lambda _: most)

    return replace(loaded, train=fewer(train), validation=fewer(validation), test=fewer(test))


def _labels(classes: Sequence[tuple[str, ...]], class_names: Sequence[str], multi_label: bool) -> np.ndarray:
    """The labels of images with these classes, as `Split` has them; without classes that are left out."""
    number = {name: label for label, name in enumerate(class_names)}
    known = [[number[name] for name in each if name in number] for each in classes]
    if not multi_label:
        return np.array(known, np.int32)[:, 0]
    labels = np.zeros((len(known), len(number)), np.float32)
    for row, each in zip(labels, known, strict=True):
        row[each] = 1
    return labels


def _digest(lines: Iterable[str]) -> str:
    """A short hash of lines, whatever their order."""
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()[:16]
