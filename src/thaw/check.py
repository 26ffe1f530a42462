"""Whether a dataset can be trusted: files that do not decode, images in two splits or under two labels, thin classes.

`make check-data dataset.path=DIR` does it alone.
"""

import hashlib
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from thaw import decoding, fingerprint
from thaw.errors import ThawError
from thaw.listing import Listing

CLASS_LEFT_OUT = "is of a class that is left out"
TOLD = 50  # lines about single images; more are only counted
UNEVEN = 10  # times as many images in the largest class as in the smallest


@dataclass(frozen=True)
class Findings:
    """What a check came to.

    Attributes:
        contents: the SHA-256 of each image of the listing.
        left_out: what cannot be used, by name, and why; files that were no candidates included.
        used: the indices of the images that can be used.
    """

    contents: list[bytes]
    left_out: dict[str, str]
    used: np.ndarray

    @property
    def told(self) -> str:
        """All that cannot be used, a line each."""
        lines = [f"  {name}: {reason}" for name, reason in sorted(self.left_out.items()) if reason != CLASS_LEFT_OUT]
        more = [f"  and {len(lines) - TOLD} more; make check-data names them all"] if len(lines) > TOLD else []
        return "\n".join([*lines[:TOLD], *more])


def examine(listing: Listing, given: set[str], least: dict[str, int], megapixels: float, store: Path) -> Findings:
    """Check every image of a dataset, once for each content.

    Args:
        listing: as the source has it.
        given: which of its splits stay as they are; none where all images are divided anew.
        least: how many different images each class needs in each of them; under an empty name, altogether.
        megapixels: a file with more is not decoded.
        store: the folder that remembers what was found.

    Raises:
        ThawError: what can be used has fewer than two classes.
    """
    contents, reasons = _contents(listing, megapixels, store)
    splits = listing.splits if given else [""] * len(listing.names)
    reasons |= _contradictions(listing, contents, splits, reasons)
    left = [index for index in range(len(listing.names)) if index not in reasons]
    different = {(splits[index], listing.classes[index], contents[index]) for index in left}
    short = _short_classes(listing.class_names, Counter(each[:2] for each in different), least)
    reasons |= {index: CLASS_LEFT_OUT for index in left if listing.classes[index] in short}
    left_out = listing.refused | {listing.names[index]: reason for index, reason in reasons.items()}
    left_out |= {f"class {name}": reason for name, reason in short.items()}
    used = np.array([index for index in left if index not in reasons], np.int64)
    if len({listing.classes[index] for index in used}) < 2:
        named = sorted(listing.class_names)
        found = f"it has {', '.join(named[:5])}{' and more' * (len(named) > 5)}" if named else "it has none"
        said = f", of which these cannot be used:\n{Findings(contents, left_out, used).told}" if left_out else ""
        raise ThawError(f"{listing.name} needs at least two classes of images; {found}{said}")
    return Findings(contents, left_out, used)


def _contents(listing: Listing, megapixels: float, store: Path) -> tuple[list[bytes], dict[int, str]]:
    """The SHA-256 of each image, and which do not decode, and why."""
    if isinstance(listing.images, np.ndarray):
        return [hashlib.sha256(image.tobytes()).digest() for image in listing.images], {}
    rules = f"{decoding.VERSION}, up to {megapixels:g} megapixels"
    judge = partial(decoding.trouble, megapixels=megapixels)
    sizes = [path.stat().st_size / 1e6 for path in listing.images]
    most = 10 + 8 * megapixels  # megabytes: 16 bit each of red, green, blue and alpha, and what is noted beside
    fitting = [index for index, size in enumerate(sizes) if size <= most]
    judged = fingerprint.judged([listing.images[index] for index in fitting], store, rules, judge)
    contents = [b""] * len(sizes)
    troubles = {index: f"has {size:.0f} MB, more than an image can" for index, size in enumerate(sizes) if size > most}
    for index, (digest, said) in zip(fitting, judged, strict=True):
        contents[index] = digest
        if said:
            troubles[index] = said
    return contents, troubles


def _contradictions(
    listing: Listing, contents: list[bytes], splits: list[str], known: dict[int, str]
) -> dict[int, str]:
    """The same image under two labels is of no use in any place; in two splits only the one that is tested stays."""
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


def _short_classes(class_names: set[str], counts: Counter[tuple[str, str]], least: dict[str, int]) -> dict[str, str]:
    """The classes with fewer different images than the splits need, and the first that they lack."""
    found: dict[str, str] = {}
    for name in sorted(class_names):
        for split, needed in least.items():
            if counts[split, name] < needed:
                where = f" in {split}" if split else ""
                found.setdefault(name, f"has {counts[split, name]} different images{where}, and needs {needed} or more")
    return found


def balance(class_names: Sequence[str], labels: dict[str, np.ndarray]) -> list[list[str]]:
    """How many images of each class each split has, a line for each class."""
    counts = {split: np.bincount(each, minlength=len(class_names)) for split, each in labels.items()}
    return [[name, *(str(each[number]) for each in counts.values())] for number, name in enumerate(class_names)]


def main() -> int:
    """`make check-data`: what is wrong with a dataset, and the balance of its classes; status 1 if anything is."""
    from hydra import compose, initialize_config_dir
    from rich.table import Table
    from rich.text import Text

    from thaw import composition, data, progress, workspace
    from thaw.cli import terminal
    from thaw.config import check
    from thaw.errors import sentence

    console = terminal.console()
    try:
        composition.register()
        composition.take_texts_as_typed()
        with initialize_config_dir(str(composition.CONF), version_base="1.3"):
            settings = check(compose("config", [*sys.argv[1:], "dataset.on_bad=skip"]))
        with terminal.Display(console) as display, progress.reporting_to(display):
            dataset = data.load(settings.dataset, settings.seed, workspace.opened(Path(settings.store)))
    except Exception as error:
        told = sentence(error) or composition.explain(error)
        if told is None:
            raise
        console.print(told)
        return 1
    labels = {name: split.labels for name, split in dataset.splits().items()}
    shown = Table("class", *labels, title=Text(dataset.name), title_justify="left", header_style="bold")
    for column in shown.columns[1:]:
        column.justify = "right"
    for line in balance(dataset.class_names, labels):
        shown.add_row(*map(Text, line))
    console.print(shown)
    console.print(dataset.summary)
    for name, reason in sorted(dataset.left_out.items()):
        if reason != CLASS_LEFT_OUT:
            console.print(f"  {name}: {reason}")
    return int(bool(dataset.left_out))


if __name__ == "__main__":
    sys.exit(main())
