"""The images of a dataset as a source lists them, and which names and files are unusable from the start."""

import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from thaw.modalities.images.decode import unreadable
from thaw.normalization import is_unseen, normalized, stripped

SPLITS = {
    "train": "train", "training": "train", "test": "test", "testing": "test",
    "val": "validation", "valid": "validation", "validation": "validation",
}  # fmt: skip


@dataclass
class Listing:
    """The images of a dataset as its source lists them.

    Attributes:
        name: of the dataset.
        names: identify each image within the dataset, such as its path below the dataset's folder.
        classes: the names of each image's classes: one, or any number in a multi-label dataset.
        images: a file each, or uint8 pixels (images, height, width) or (images, height, width, 3).
        class_names: of all classes, also those without images.
        predefined_splits: into which the source has divided its images; none if Thaw is to divide them.
        splits: the split of each image, if predefined.
        rejected: why the source cannot take an entry, by name.
    """

    name: str
    names: list[str] = field(default_factory=list)
    classes: list[tuple[str, ...]] = field(default_factory=list)
    images: Sequence[Path] | np.ndarray = field(default_factory=list)
    class_names: set[str] = field(default_factory=set)
    predefined_splits: set[str] = field(default_factory=set)
    splits: list[str] = field(default_factory=list)
    rejected: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, classes: str | tuple[str, ...], split: str, path: Path) -> None:
        """Add a file with its class or several, or reject it for its name, its classes or its kind."""
        shown, classes = normalized(name), (classes,) if isinstance(classes, str) else classes
        problem = next(filter(None, map(class_problem, classes)), "") or file_problem(path)
        if problem:
            self.rejected[shown] = problem
            return
        self.names.append(shown)
        self.classes.append(tuple(map(stripped, classes)))
        self.class_names.update(self.classes[-1])
        self.splits.append(split)
        assert isinstance(self.images, list)
        self.images.append(path)


def class_problem(name: str) -> str:
    """Why a class cannot have that name; empty if it can."""
    if not name.strip():
        return "has no label"
    if any(map(is_unseen, name.strip())):
        return "has a class name with unprintable characters; rename it"
    return ""


def file_problem(path: Path) -> str:
    """Why a path cannot be an image, judged by its name and kind; empty if it may be one."""
    try:
        str(path).encode()
        kind = path.stat().st_mode
    except UnicodeEncodeError:
        return "has a name that is not UTF-8"
    except ValueError:
        return "has a name that no file can have"
    except FileNotFoundError:
        return "is a broken link" if path.is_symlink() else "does not exist"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    if not stat.S_ISREG(kind):
        return "is not a regular file"
    return unreadable(path)
