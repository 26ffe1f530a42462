"""A dataset: class names and three splits of labelled images, and any fraction of a split.

What belongs to which split is decided by a hash of the seed and the image's name alone, so that it does not
depend on the order of files, the platform or where the folder lies. Pixels are read in `pipeline`.
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from thaw import config, fingerprint
from thaw.errors import ThawError

ENDINGS = {".jpg", ".jpeg", ".png", ".gif", ".bmp"}
IGNORED = {"thumbs.db", "desktop.ini"}
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
    """Class names in the order of the labels, and the three splits."""

    name: str
    class_names: tuple[str, ...]
    train: Split
    validation: Split
    test: Split

    def digest(self) -> str:
        """A short hash of every image's name, class and split."""
        lines = [
            f"{split_name}\t{name}\t{self.class_names[label]}"
            for split_name, split in self.splits().items()
            for name, label in zip(split.names, split.labels, strict=True)
        ]
        return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()[:16]

    def splits(self) -> dict[str, Split]:
        """The splits by name."""
        return {"train": self.train, "validation": self.validation, "test": self.test}


def load(dataset: config.Dataset, seed: int, store: Path) -> Dataset:
    """The dataset that the configuration names.

    Args:
        dataset: which.
        seed: of the run.
        store: the folder that remembers the contents of files.

    Raises:
        ThawError: there is no such folder, it has fewer than two classes, a class lacks images, or a file is no image.
    """
    loaded = SOURCES[dataset.source](dataset, seed, store)
    if dataset.images_per_class is None:
        return loaded
    few = {
        name: _first(split, _ranks(split.names, seed), lambda _: dataset.images_per_class)
        for name, split in loaded.splits().items()
    }
    return replace(loaded, **few)


def fraction(split: Split, percent: float, seed: int) -> Split:
    """That many per cent of each class of `split`: at least one image, to the nearest, halves up.

    For one seed a smaller fraction is a subset of a larger one.
    """
    return _first(split, _ranks(split.names, seed), lambda n: max(1, math.floor(n * percent / 100 + 0.5)))


def _digits(dataset: config.Dataset, seed: int, store: Path) -> Dataset:
    """1,797 scans of handwritten digits, 8 x 8 px (UCI "Optical Recognition of Handwritten Digits", test part)."""
    from sklearn.datasets import load_digits

    scans = load_digits()
    pixels = np.round(scans.images * (255 / 16)).astype(np.uint8)
    names = tuple(f"digits/{index:04d}" for index in range(len(pixels)))
    whole = Split.of_pixels(names, scans.target.astype(np.int32), pixels)
    train, validation, test = _divide(whole, seed, 2)
    return Dataset(dataset.name, tuple(map(str, scans.target_names)), train, validation, test)


def _folder(dataset: config.Dataset, seed: int, store: Path) -> Dataset:
    """One folder per class, either below `train/`, `test/` and perhaps `val/`, or directly."""
    root = Path(dataset.path).expanduser()
    if not root.is_dir():
        raise ThawError(f"dataset.path={dataset.path} is not a folder; give one that has a folder of images per class")
    name = dataset.name or root.resolve().name
    parts = {part: root / part for part in ("train", "val", "test") if (root / part).is_dir()}
    if "train" not in parts and "test" not in parts:
        class_names = _class_names(root)
        train, validation, test = _divide(_scan(root, root, class_names, store), seed, 2)
        return Dataset(name, class_names, train, validation, test)
    if "train" not in parts or "test" not in parts:
        absent = "train" if "test" in parts else "test"
        raise ThawError(f"{root} has no folder {absent}; with train/ there must be test/, and the other way round")
    class_names = _class_names(parts["train"])
    for folder in parts.values():
        if difference := set(class_names).symmetric_difference(_class_names(folder)):
            raise ThawError(
                f"{folder} and {parts['train']} do not have the same classes; only one of them has "
                f"{', '.join(sorted(difference))}"
            )
    found = {part: _scan(folder, root, class_names, store) for part, folder in parts.items()}
    if "val" in found:
        return Dataset(name, class_names, found["train"], found["val"], found["test"])
    train, validation = _divide(found["train"], seed, 1)
    return Dataset(name, class_names, train, validation, found["test"])


SOURCES: dict[str, Callable[[config.Dataset, int, Path], Dataset]] = {"digits": _digits, "folder": _folder}


def _class_names(folder: Path) -> tuple[str, ...]:
    names = tuple(sorted(each.name for each in folder.iterdir() if each.is_dir() and not each.name.startswith(".")))
    if len(names) < 2:
        found = f"only {names[0]}" if names else "none"
        raise ThawError(f"{folder} needs at least two classes, each a folder of images; it has {found}")
    return names


def _scan(folder: Path, root: Path, class_names: tuple[str, ...], store: Path) -> Split:
    """Every image below `folder`, named by its path below `root`."""
    files, labels = [], []
    for label, class_name in enumerate(class_names):
        below = (path for path in sorted((folder / class_name).rglob("*")) if path.is_file())
        images = [path for path in below if not path.name.startswith(".") and path.name.lower() not in IGNORED]
        if not images:
            raise ThawError(f"The class {class_name} has no images in {folder}; add some or remove its folder")
        files += images
        labels += [label] * len(images)
    if wrong := [path for path in files if not _is_image(path)]:
        named = ", ".join(map(str, wrong[:5])) + (f" and {len(wrong) - 5} more" if len(wrong) > 5 else "")
        raise ThawError(f"Not an image: {named}; mend or remove (allowed are {', '.join(sorted(ENDINGS))})")
    names = tuple(path.relative_to(root).as_posix() for path in files)
    return Split(names, np.array(labels, np.int32), files, tuple(fingerprint.of(files, store)))


def _is_image(path: Path) -> bool:
    """Whether the ending is one of ours and the file opens as an image; pixels are not decoded yet."""
    if path.suffix.lower() not in ENDINGS:
        return False
    try:
        with Image.open(path):
            return True
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError):
        return False


def _divide(whole: Split, seed: int, held_out: int) -> list[Split]:
    """`whole` without `held_out` parts, then these parts, each `HELD_OUT` of every class and at least one image."""
    ranks = _ranks(whole.names, seed)
    members: list[list[int]] = [[] for _ in range(held_out + 1)]
    for label, (indices, name) in _by_class(whole, ranks).items():
        if len(indices) <= held_out:
            raise ThawError(
                f"The class {Path(name).parent.name or label} has {len(indices)} images, which cannot be divided into "
                f"{held_out + 1} splits; give it at least {held_out + 1}"
            )
        size = max(1, math.floor(len(indices) * HELD_OUT + 0.5))
        for part in range(held_out):
            members[part + 1] += indices[part * size : (part + 1) * size]
        members[0] += indices[held_out * size :]
    return [whole.take(np.sort(np.array(each))) for each in members]


def _first(split: Split, ranks: list[bytes], count: Callable[[int], int]) -> Split:
    """The first `count(n)` of the n images of each class in the order of `ranks`."""
    chosen = [index for indices, _ in _by_class(split, ranks).values() for index in indices[: count(len(indices))]]
    return split.take(np.sort(np.array(chosen)))


def _by_class(split: Split, ranks: list[bytes]) -> dict[int, tuple[list[int], str]]:
    """For each label its images' indices in the order of `ranks`, and the name of one."""
    found: dict[int, list[int]] = {}
    for index in sorted(range(len(split)), key=ranks.__getitem__):
        found.setdefault(int(split.labels[index]), []).append(index)
    return {label: (found[label], split.names[found[label][0]]) for label in sorted(found)}


def _ranks(names: Sequence[str], seed: int) -> list[bytes]:
    return [hashlib.sha256(f"{seed} {name}".encode()).digest() for name in names]
