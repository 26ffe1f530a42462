"""Where a dataset's images come from: each source lists them with their classes. Checks and splits come after.

A source of your own is a function here that takes the configuration of the dataset and the store, and returns a
`Listing`; enter it in `SOURCES`, and give it a YAML in `conf/dataset/`.
"""

import os
import stat
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np

from thaw import config, downloads, durable
from thaw.config import nearest
from thaw.decoding import ENDINGS
from thaw.errors import ThawError

IGNORED = {"thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx"}  # beside all that begins with a dot
SPLITS = {"train": "train", "val": "validation", "valid": "validation", "validation": "validation", "test": "test"}


@dataclass
class Listing:
    """The images of a dataset as its source has them.

    Attributes:
        name: of the dataset.
        names: what identifies each image within the dataset, such as its path below the dataset's folder.
        classes: the name of each image's class.
        splits: the split of each image; None where Thaw is to divide them.
        images: a file each, or uint8 pixels (images, height, width) or (images, height, width, 3).
        class_names: of all classes, also those without images.
        refused: what the source found and cannot take, by name, and why.
    """

    name: str
    names: list[str] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)
    splits: list[str] | None = None
    images: Sequence[Path] | np.ndarray = field(default_factory=list)
    class_names: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)


def digits(dataset: config.Dataset, store: Path) -> Listing:
    """1,797 scans of handwritten digits, 8 x 8 px (UCI "Optical Recognition of Handwritten Digits", test part)."""
    from sklearn.datasets import load_digits

    scans = load_digits()
    pixels = np.round(scans.images * (255 / 16)).astype(np.uint8)
    names = [f"digits/{index:04d}" for index in range(len(pixels))]
    class_names = [str(name) for name in scans.target_names]
    return Listing(dataset.name, names, [class_names[label] for label in scans.target], None, pixels, class_names)


def folder(dataset: config.Dataset, store: Path) -> Listing:
    """One folder per class, either below `train/`, `test/` and perhaps `val/`, or directly."""
    root = Path(dataset.path).expanduser()
    if not root.is_dir():
        raise ThawError(f"dataset.path={dataset.path} is not a folder; give one that has a folder of images per class")
    return _listed(root, dataset.name or root.resolve().name)


def table(dataset: config.Dataset, store: Path) -> Listing:
    """A CSV or Parquet file that names images, their labels and, where it has that column, their splits."""
    import pandas

    path = Path(dataset.path).expanduser()
    readers = {".csv": _csv, ".parquet": pandas.read_parquet}
    if path.suffix.lower() not in readers or not path.is_file():
        raise ThawError(f"dataset.path={dataset.path} is no table; give a .csv or .parquet file of images and labels")
    try:
        rows = readers[path.suffix.lower()](path)
    except Exception as error:  # of a file that only ends like a table
        raise ThawError(f"dataset.path={dataset.path} cannot be read as a table ({error}); mend it") from error
    columns, known = dataset.columns, [str(each) for each in rows.columns]
    for key, name in (("image", columns.image), ("label", columns.label)):
        if name not in known:
            raise ThawError(
                f"{path} has no column {name}, only {', '.join(known)}; set dataset.columns.{key}=NAME"
                f"{nearest(name, known)}"
            )
    divided = columns.split in known
    found = Listing(dataset.name or path.stem, splits=[] if divided else None)
    base = Path(dataset.root).expanduser() if dataset.root else path.parent
    labels = {}
    for number, row in enumerate(rows.to_dict("records"), 2):
        name, label = _text(row[columns.image]), _text(row[columns.label])
        split = SPLITS.get(_text(row[columns.split]).lower(), "") if divided else None
        trouble = _row_trouble(name, label, split, labels) or _trouble(base / name)
        if trouble:
            found.refused[f"row {number} ({name})" if name else f"row {number}"] = trouble
        if not trouble or (name in labels and labels[name] != label):
            _add(found, unicodedata.normalize("NFC", Path(name).as_posix()), label, split, base / name)
        labels.setdefault(name, label)
    found.class_names = sorted(set(found.classes))
    return found


def archive(dataset: config.Dataset, store: Path) -> Listing:
    """An archive of such a folder, downloaded and unpacked once into Keras' cache."""
    root = downloads.unpacked(dataset.url, dataset.sha256)
    while len(inner := _folders(root)) == 1:  # archives wrap what they hold
        root = inner[0]
    return _listed(root, dataset.name)


def tfds(dataset: config.Dataset, store: Path) -> Listing:
    """A dataset of TensorFlow Datasets, whose encoded images are written into files of the store, once."""
    if not dataset.name:
        raise ThawError("dataset.name has no value; give the name of a TensorFlow dataset, such as tf_flowers")
    try:
        import tensorflow_datasets
    except ImportError as error:
        raise ThawError("dataset=tfds needs another package: pip install tensorflow-datasets") from error
    try:
        with downloads.hurried():
            builder = tensorflow_datasets.builder(dataset.name, data_dir=dataset.path)
            builder.download_and_prepare()
    except Exception as error:
        raise ThawError(f"dataset.name={dataset.name} cannot be had from TensorFlow Datasets: {error}") from error
    missing = [each for each in ("image", "label") if each not in builder.info.features]
    if missing:
        raise ThawError(f"{dataset.name} has no {' and no '.join(missing)}; give a dataset of labelled images")
    place = store / "datasets" / f"{builder.info.name}-{builder.info.version}"
    return _listed(durable.made(place, partial(_export, tensorflow_datasets, builder)), dataset.name)


SOURCES: dict[str, Callable[[config.Dataset, Path], Listing]] = {
    "digits": digits,
    "folder": folder,
    "table": table,
    "archive": archive,
    "tfds": tfds,
}


def _listed(root: Path, name: str) -> Listing:
    """The images below a folder that has a folder for each class, perhaps below one for each split."""
    below = {each.name.lower(): each for each in _folders(root)}
    parts = {key: below[key] for key in SPLITS if key in below}
    found = Listing(name)
    if not {"train", "test"} & set(parts):
        parts = {"": root}
    elif absent := {"train", "test"} - set(parts):
        raise ThawError(
            f"{root} has no folder {absent.pop()}; with train/ there must be test/, and the other way round"
        )
    elif len(parts) > 3:
        several = ", ".join(part for part in parts if SPLITS[part] == "validation")
        raise ThawError(f"{root} has several folders for validation ({several}); leave one of them")
    else:
        found.splits = []
    found.images = []
    for part, folder in parts.items():
        for each in _folders(folder):
            class_name = unicodedata.normalize("NFC", _shown(each.name))
            if not class_name.isprintable():
                raise ThawError(f"The folder {each.name!r} has a name that does not print; give the class another")
            found.class_names.append(class_name)
            for path in sorted(_files(each, found.refused, set())):
                below = path.relative_to(root).as_posix()
                if trouble := _trouble(path):
                    found.refused[_shown(below)] = trouble
                else:
                    _add(found, unicodedata.normalize("NFC", below), class_name, SPLITS.get(part), path)
    found.class_names = sorted(set(found.class_names))
    return found


def _add(found: Listing, name: str, class_name: str, split: str | None, image: Path) -> None:
    found.names.append(name)
    found.classes.append(class_name)
    found.images.append(image)
    if found.splits is not None:
        found.splits.append(split)


def _folders(root: Path) -> list[Path]:
    return sorted(each for each in root.iterdir() if each.is_dir() and not _ignored(each.name))


def _ignored(name: str) -> bool:
    return name.startswith(".") or name.lower() in IGNORED


def _files(folder: Path, refused: dict[str, str], seen: set[str]) -> Iterator[Path]:
    """Every file below `folder` that is not to be ignored; links are followed, but in no circle."""
    real = os.path.realpath(folder)
    if real in seen:
        return
    seen.add(real)
    try:
        entries = list(os.scandir(folder))
    except OSError as error:
        refused[str(folder)] = f"cannot be read ({error.strerror})"
        return
    for entry in entries:
        if _ignored(entry.name):
            continue
        if entry.is_dir():
            yield from _files(folder / entry.name, refused, seen)
        else:
            yield folder / entry.name


def _trouble(path: Path) -> str:
    """Why a path is of no use, as far as its name and kind tell; nothing if it may be an image."""
    try:
        str(path).encode()
        kind = path.stat().st_mode
    except UnicodeEncodeError:
        return "has a name that is not UTF-8"
    except FileNotFoundError:
        return "is a link to nothing" if path.is_symlink() else "is not there"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    if not stat.S_ISREG(kind):
        return "is no file"
    if path.suffix.lower() not in ENDINGS:
        return f"does not end in {', '.join(sorted(ENDINGS))}"
    return ""


def _row_trouble(name: str, label: str, split: str | None, labels: dict[str, str]) -> str:
    if not name:
        return "names no image"
    if not label:
        return "has no label"
    if split == "":
        return f"has a split that is none of {', '.join(SPLITS)}"
    if name in labels:
        return "is listed before" if labels[name] == label else f"is listed before as {labels[name]}"
    return ""


def _csv(path: Path):
    import pandas

    return pandas.read_csv(path, dtype=str, keep_default_na=False)


def _shown(name: str) -> str:
    """A name that prints, whatever bytes it has."""
    return name.encode("utf-8", "backslashreplace").decode()


def _text(value: object) -> str:
    """A cell as text; nothing for a missing one."""
    return "" if value is None or value != value else str(value).strip()


def _export(tensorflow_datasets, builder, place: Path) -> None:
    """Write every image of a TensorFlow dataset as it is encoded there, below its split and class."""
    names = builder.info.features["label"].int2str
    divided = {"train", "test"} <= set(builder.info.splits)
    for split in builder.info.splits if divided else ["all"]:
        if divided and split not in SPLITS:
            continue
        decoders = {"image": tensorflow_datasets.decode.SkipDecoding()}
        examples = tensorflow_datasets.as_numpy(builder.as_dataset(split, decoders=decoders, shuffle_files=False))
        for number, example in enumerate(examples):
            class_name = PurePosixPath(names(int(example["label"]))).name
            content = example["image"]
            ending = "png" if content.startswith(b"\x89PNG") else "jpg"
            file = place / (split if divided else "") / class_name / f"{number:07d}.{ending}"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
