"""The images of a dataset as a source has them, and which names and files are of no use from the start."""

import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from thaw.decoding import unreadable
from thaw.names import is_unseen, plain, trimmed

SPLITS = {
    "train": "train", "training": "train", "test": "test", "testing": "test",
    "val": "validation", "valid": "validation", "validation": "validation",
}  # fmt: skip


@dataclass
class Listing:
    """The images of a dataset as its source has them.

    Attributes:
        name: of the dataset.
        names: what identifies each image within the dataset, such as its path below the dataset's folder.
        classes: the name of each image's class.
        images: a file each, or uint8 pixels (images, height, width) or (images, height, width, 3).
        class_names: of all classes, also those without images.
        given: which splits the source has divided its images into; none where Thaw is to divide them.
        splits: that of each image, where the source has divided them.
        refused: what the source found and cannot take, by name, and why.
    """

    name: str
    names: list[str] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)
    images: Sequence[Path] | np.ndarray = field(default_factory=list)
    class_names: set[str] = field(default_factory=set)
    given: set[str] = field(default_factory=set)
    splits: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, class_name: str, split: str, path: Path) -> None:
        """Take a file, or refuse it for what its name, its class and its kind tell."""
        shown = plain(name)
        trouble = class_trouble(class_name) or file_trouble(path)
        if trouble:
            self.refused[shown] = trouble
            return
        self.names.append(shown)
        self.classes.append(trimmed(class_name))
        self.class_names.add(trimmed(class_name))
        self.splits.append(split)
        self.images.append(path)


def class_trouble(name: str) -> str:
    """Why a class cannot be called that; nothing if it can."""
    if not name.strip():
        return "has no label"
    if any(map(is_unseen, name.strip())):
        return "has a class name with unprintable characters; rename it"
    return ""


def file_trouble(path: Path) -> str:
    """Why a path is of no use, as far as its name and kind tell; nothing if it may be an image."""
    try:
        str(path).encode()
        kind = path.stat().st_mode
    except UnicodeEncodeError:
        return "has a name that is not UTF-8"
    except ValueError:
        return "has a name that no file can have"
    except FileNotFoundError:
        return "is a link to nothing" if path.is_symlink() else "is not there"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    if not stat.S_ISREG(kind):
        return "is no file"
    return unreadable(path)
