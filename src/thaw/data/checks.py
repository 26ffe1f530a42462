"""Dataset checks: undecodable files, duplicates across splits, conflicting labels, classes with too few images."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from thaw.data import fingerprints
from thaw.data.listing import Listing
from thaw.data.splits import class_counts
from thaw.errors import ThawError
from thaw.modalities.images import decode

CLASS_EXCLUDED = "is of a class that is left out"
LISTED = 50  # lines about single images; more are only counted
IMBALANCE = 10  # ratio of the largest class to the smallest that is pointed out


@dataclass(frozen=True)
class CheckReport:
    """The result of a check.

    Attributes:
        contents: the SHA-256 of each image of the listing.
        excluded: why entries cannot be used, by name; files that were no candidates included.
        used: the indices of the images that can be used.
        class_names: of the classes that can be used, sorted.
    """

    contents: list[bytes]
    excluded: dict[str, str]
    used: np.ndarray
    class_names: tuple[str, ...]

    @property
    def summary(self) -> str:
        """Everything that cannot be used, one line each."""
        lines = [f"  {name}: {reason}" for name, reason in sorted(self.excluded.items()) if reason != CLASS_EXCLUDED]
        more = [f"  and {len(lines) - LISTED} more; make check-data names them all"] if len(lines) > LISTED else []
        return "\n".join([*lines[:LISTED], *more])


def examine(
    listing: Listing, predefined: set[str], fewest: dict[str, int], megapixels: float, store: Path
) -> CheckReport:
    """Check every image of a dataset, each content once.

    Args:
        listing: from the source.
        predefined: the splits that are kept; none if all images are divided again.
        fewest: how many different images each class needs in each of them; under an empty name, in total.
        megapixels: larger files are not decoded.
        store: keeps the results.

    Raises:
        ThawError: fewer than two classes can be used.
    """
    contents, reasons = _contents(listing, megapixels, store)
    splits = listing.splits if predefined else [""] * len(listing.names)
    reasons |= _contradictions(listing, contents, splits, reasons)
    left = [index for index in range(len(listing.names)) if index not in reasons]
    different = {(splits[index], name, contents[index]) for index in left for name in listing.classes[index]}
    short = _short_classes(listing.class_names, Counter(each[:2] for each in different), fewest)
    reasons |= {
        index: CLASS_EXCLUDED
        for index in left
        if listing.classes[index] and all(name in short for name in listing.classes[index])
    }
    excluded = listing.rejected | {listing.names[index]: reason for index, reason in reasons.items()}
    excluded |= {f"class {name}": reason for name, reason in short.items()}
    used = np.array([index for index in left if index not in reasons], np.int64)
    class_names = {name for index in used for name in listing.classes[index]} - set(short)
    report = CheckReport(contents, excluded, used, tuple(sorted(class_names)))
    if len(class_names) < 2:
        named = sorted(listing.class_names)
        found = f"it has {', '.join(named[:5])}{' and more' * (len(named) > 5)}" if named else "it has none"
        unusable = f", of which these cannot be used:\n{report.summary}" if excluded else ""
        raise ThawError(f"{listing.name} needs at least two classes of images; {found}{unusable}")
    return report


def _contents(listing: Listing, megapixels: float, store: Path) -> tuple[list[bytes], dict[int, str]]:
    """The SHA-256 of each image, and why some do not decode."""
    images = listing.images
    if isinstance(images, np.ndarray):
        return [hashlib.sha256(image.tobytes()).digest() for image in images], {}
    rules = f"{decode.VERSION}, up to {megapixels:g} megapixels"
    sizes = [path.stat().st_size / 1e6 for path in images]
    largest = 10 + 8 * megapixels  # MB: red, green, blue and alpha of 16 bits each, and metadata
    fitting = [index for index, size in enumerate(sizes) if size <= largest]
    validator = partial(decode.problem, megapixels=megapixels)
    results = fingerprints.validated([images[index] for index in fitting], store, rules, validator)
    contents = [b""] * len(sizes)
    problems = {
        index: f"is {size:.0f} MB, too large for an image" for index, size in enumerate(sizes) if size > largest
    }
    for index, (digest, problem) in zip(fitting, results, strict=True):
        contents[index] = digest
        if problem:
            problems[index] = problem
    return contents, problems


def _contradictions(
    listing: Listing, contents: list[bytes], splits: Sequence[str], known: dict[int, str]
) -> dict[int, str]:
    """Exclude every copy of an image with two labels; of one in two splits keep test before validation before train."""
    same: dict[bytes, list[int]] = defaultdict(list)
    for index, content in enumerate(contents):
        if index not in known:
            same[content].append(index)
    found = {}
    for indices in same.values():
        first, *others = indices
        if not others:
            continue
        if other := next((each for each in others if listing.classes[each] != listing.classes[first]), None):
            for index in indices:
                another = other if listing.classes[index] == listing.classes[first] else first
                found[index] = f"is the same image as {listing.names[another]}, which has another label"
        elif len({splits[index] for index in indices}) > 1:
            stays = min(indices, key=lambda index: ("test", "validation", "train").index(splits[index]))
            for index in indices:
                if splits[index] != splits[stays]:
                    found[index] = f"is the same image as {listing.names[stays]}, which is in another split"
    return found


def _short_classes(class_names: set[str], counts: Counter[tuple[str, str]], fewest: dict[str, int]) -> dict[str, str]:
    """The classes with fewer different images than the splits need, and what they lack."""
    found: dict[str, str] = {}
    for name in sorted(class_names):
        for split, needed in fewest.items():
            if counts[split, name] < needed:
                where = f" in {split}" if split else ""
                found.setdefault(name, f"has {counts[split, name]} different images{where}, and needs {needed} or more")
    return found


def balance(class_names: Sequence[str], labels: dict[str, np.ndarray]) -> list[list[str]]:
    """The number of images of each class in each split, a row for each class."""
    counts = {split: class_counts(each, len(class_names)) for split, each in labels.items()}
    return [[name, *(str(each[number]) for each in counts.values())] for number, name in enumerate(class_names)]
