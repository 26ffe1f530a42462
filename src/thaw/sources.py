"""Where a dataset's images come from: each source lists them with their classes. Checks and splits come after.

A source of your own is a function here that takes the configuration of the dataset and the store, and returns a
`Listing`; enter it in `SOURCES`, and give it a YAML in `conf/dataset/`.
"""

import contextlib
import csv
import hashlib
import os
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np

from thaw import config, downloads, durable
from thaw.config import nearest
from thaw.decoding import ENDINGS
from thaw.errors import ThawError
from thaw.listing import Listing, class_trouble, file_trouble, plain

IGNORED = {"thumbs.db", "thumbs.db:encryptable", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "__macosx",
           "@eadir", "$recycle.bin", "system volume information"}  # beside all that begins with a dot  # fmt: skip
SPLITS = {
    "train": "train", "training": "train", "test": "test", "testing": "test",
    "val": "validation", "valid": "validation", "validation": "validation",
}  # fmt: skip


def digits(dataset: config.Dataset, store: Path) -> Listing:
    """1,797 scans of handwritten digits, 8 x 8 px (UCI "Optical Recognition of Handwritten Digits", test part)."""
    from sklearn.datasets import load_digits

    scans = load_digits()
    pixels = np.round(scans.images * (255 / 16)).astype(np.uint8)
    names = [f"digits/{index:04d}" for index in range(len(pixels))]
    classes = [str(scans.target_names[label]) for label in scans.target]
    return Listing(dataset.name, names, classes, pixels, set(classes))


def folder(dataset: config.Dataset, store: Path) -> Listing:
    """One folder per class, either below `train/`, `test/` and perhaps `val/`, or directly."""
    root = _path("dataset.path", dataset.path)
    if not os.path.isdir(root):
        raise ThawError(f"dataset.path={dataset.path} is not a folder; give one that has a folder of images per class")
    return _listed(root, dataset.name or root.resolve().name)


def table(dataset: config.Dataset, store: Path) -> Listing:
    """A CSV or Parquet file that names images, their labels and, where it has that column, their splits."""
    path = _path("dataset.path", dataset.path)
    if path.suffix.lower() not in (".csv", ".parquet") or not os.path.isfile(path):
        raise ThawError(f"dataset.path={dataset.path} is no table; give a .csv or .parquet file of images and labels")
    base = _path("dataset.root", dataset.root) if dataset.root else path.parent
    return _tabled(path, base, dataset.name or path.stem, dataset.columns, dataset.fold is None)


def archive(dataset: config.Dataset, store: Path) -> Listing:
    """An archive of such a folder, downloaded and unpacked once into Keras' cache."""
    if not dataset.url:
        raise ThawError("dataset.url has no value; give the address of a zip or tar file")
    root = downloads.unpacked(dataset.url, dataset.sha256)
    while len(inner := _folders(root)) == 1:  # archives wrap what they hold
        root = inner[0]
    return _listed(root, dataset.name)


def tfds(dataset: config.Dataset, store: Path) -> Listing:
    """A dataset of TensorFlow Datasets, whose encoded images are written into files of the store, once."""
    if not dataset.name:
        raise ThawError("dataset.name has no value; give the name of a TensorFlow dataset, such as tf_flowers")
    try:
        import tensorflow
        import tensorflow_datasets
    except ImportError as error:
        raise ThawError("dataset=tfds needs another package: pip install tensorflow-datasets") from error
    try:
        with downloads.hurried():
            builder = tensorflow_datasets.builder(dataset.name, data_dir=dataset.path)
            builder.download_and_prepare()
    except Exception as error:
        raise ThawError(f"dataset.name={dataset.name} cannot be had from TensorFlow Datasets: {error}") from error
    for name, fits in (("image", _is_image), ("label", _is_number)):
        if name not in builder.info.features or not fits(builder.info.features[name]):
            raise ThawError(f"{dataset.name} has no {name} that is one; give a dataset of images with one label each")
    paths = [Path(path) for split in builder.info.splits.values() for path in split.filepaths]
    state = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in paths if path.exists()]
    digest = hashlib.sha256(f"{builder.info.full_name} {state}".encode()).hexdigest()[:10]
    place = store / "datasets" / f"{builder.info.name}-{digest}"
    try:
        durable.made(place, partial(_export, tensorflow_datasets, builder))
    except tensorflow.errors.OpError as error:
        raise ThawError(f"{dataset.name} cannot be read in {builder.data_dir} ({error.message}); mend it") from error
    columns = config.Columns(image="file", label="class", split="split")
    return _tabled(place / "labels.csv", place, dataset.name, columns, dataset.fold is None)


SOURCES: dict[str, Callable[[config.Dataset, Path], Listing]] = {
    "digits": digits,
    "folder": folder,
    "table": table,
    "archive": archive,
    "tfds": tfds,
}


def _path(key: str, given: str | None) -> Path:
    if not given:
        raise ThawError(f"{key} has no value; give one with {key}=...")
    try:
        path = Path(given).expanduser()
        with contextlib.suppress(FileNotFoundError, NotADirectoryError, ValueError):
            path.stat()
    except RuntimeError as error:
        raise ThawError(f"{key}={given} names a home folder that is not known; give the whole path") from error
    except OSError as error:
        raise ThawError(f"{key}={given} cannot be read ({error.strerror}); give one that can") from error
    return path


def _listed(root: Path, name: str) -> Listing:
    """The images below a folder that has a folder for each class, perhaps below one for each split."""
    found, parts = Listing(name), defaultdict(list)
    for each in _folders(root):
        if each.name.lower() in SPLITS:
            parts[SPLITS[each.name.lower()]].append(each)
    if not {"train", "test"} & set(parts):
        if divided := next((each for each in parts["validation"] if _folders(each) and not _images(each)), None):
            raise ThawError(
                f"{root} has a folder {divided.name} of classes, but neither train nor test; name those so, or move it"
            )
        parts = {"": [root]}
    elif absent := {"train", "test"} - set(parts):
        raise ThawError(
            f"{root} has no folder {absent.pop()}; with train/ there must be test/, and the other way round"
        )
    elif several := next((each for each in parts.values() if len(each) > 1), None):
        named = ", ".join(each.name for each in several)
        raise ThawError(f"{root} has several folders for one split ({named}); leave one of them")
    else:
        found.given = set(parts)
        _refuse_strays(found, root, root, {each.name for (each,) in parts.values()})
    for split, (place,) in parts.items():
        folders = _folders(place)
        _refuse_strays(found, root, place, {each.name for each in folders})
        for each in folders:
            if trouble := class_trouble(each.name):
                found.refused[plain(each.relative_to(root).as_posix())] = trouble
                continue
            found.class_names.add(plain(each.name).strip())
            for path in sorted(files(each, root, found.refused)):
                found.add(path.relative_to(root).as_posix(), each.name, split, path)
    _refuse_equal_names(found)
    return found


def _refuse_strays(found: Listing, root: Path, place: Path, expected: set[str]) -> None:
    """Name what looks like images beside the folders that are expected there, so that nothing vanishes in silence."""
    for each in sorted(place.iterdir()):
        if each.name in expected or _ignored(each.name):
            continue
        below = plain(each.relative_to(root).as_posix())
        if os.path.isdir(each):
            found.refused[below] = f"is none of {', '.join(sorted(expected))}"
        elif each.suffix.lower() in ENDINGS or not os.path.exists(each):
            found.refused[below] = "lies in no class" if os.path.exists(each) else "is a link to nothing"


def _refuse_equal_names(found: Listing) -> None:
    """Of files whose names differ in nothing that is seen, take none but the first."""
    seen: set[str] = set()
    keep = []
    for index, name in enumerate(found.names):
        if name in seen:
            found.refused[f"{name} (a second file of that name)"] = "has a name that differs in what is not seen"
        else:
            keep.append(index)
        seen.add(name)
    found.names, found.classes, found.splits, found.images = (
        [each[index] for index in keep] for each in (found.names, found.classes, found.splits, found.images)
    )


def _folders(root: Path) -> list[Path]:
    try:
        return sorted(each for each in root.iterdir() if os.path.isdir(each) and not _ignored(each.name))
    except OSError as error:
        raise ThawError(f"{root} cannot be read ({error.strerror}); give a folder that can") from error


def _ignored(name: str) -> bool:
    return name.startswith(".") or name.lower() in IGNORED


def _images(folder: Path) -> list[Path]:
    return [each for each in folder.iterdir() if each.suffix.lower() in ENDINGS]


def files(folder: Path, root: Path, refused: dict[str, str]) -> Iterator[Path]:
    """Every file below `folder` that is not to be ignored; links are followed once, and never back to the root.

    Args:
        folder: where to look.
        root: what names in `refused` start from.
        refused: takes folders that cannot be read, and why.
    """
    seen = {os.path.realpath(root), os.path.realpath(folder.parent)}
    folders, linked = [folder], deque[Path]()
    while folders or linked:
        here = folders.pop() if folders else linked.popleft()  # what really lies there comes before links to it
        real = os.path.realpath(here)
        if real in seen:
            continue
        seen.add(real)
        try:
            entries = sorted(os.scandir(here), key=lambda entry: entry.name, reverse=True)
        except OSError as error:
            refused[plain(here.relative_to(root).as_posix())] = f"cannot be read ({error.strerror})"
            continue
        for entry in entries:
            if _ignored(entry.name):
                continue
            if entry.is_dir(follow_symlinks=False):
                folders.append(here / entry.name)
            elif entry.is_symlink() and os.path.isdir(here / entry.name):
                linked.append(here / entry.name)
            else:
                yield here / entry.name


def _tabled(path: Path, base: Path, name: str, columns: config.Columns, divided: bool) -> Listing:
    """The images that a table names.

    Args:
        path: of the table.
        base: the folder that its paths start from.
        name: of the dataset.
        columns: what they are called.
        divided: whether the splits that it may name count.
    """
    rows, known = _rows(path)
    for key, column in (("image", columns.image), ("label", columns.label)):
        if column not in known:
            raise ThawError(
                f"{path} has no column {column}, only {', '.join(known)}; set dataset.columns.{key}=NAME"
                f"{nearest(column, known)}"
            )
    divided = divided and columns.split in known
    above = _above([row[columns.image] for _, row in rows])
    base = Path(above or base)
    there = partial(_there, {}, base)
    found = Listing(name)
    same: dict[str, list[tuple[str, str, str, str]]] = defaultdict(list)
    for number, row in rows:
        image, label = row[columns.image], row[columns.label]
        split = (row[columns.split] or "").strip().lower() if divided else ""
        where = f"row {number} ({plain(image)})" if image else f"row {number}"
        if image is None or label is None:
            found.refused[where] = "has a cell that is no text and no number"
        elif not image:
            found.refused[where] = "names no image"
        elif divided and split not in SPLITS:
            found.refused[where] = "has a split that is none of train, val and test"
        elif trouble := class_trouble(label):
            found.refused[where] = trouble
        else:
            below = Path(os.path.relpath(image, above) if above else os.path.normpath(image)).as_posix()
            same[plain(below)].append((where, below, plain(label).strip(), SPLITS.get(split, "")))
    for listed in same.values():
        where, below, label, split = listed[0]
        if len({each[2:] for each in listed}) > 1:
            found.refused |= {each[0]: "is listed several times, with other labels or splits" for each in listed}
            continue
        found.refused |= {each[0]: "is listed before" for each in listed[1:]}
        if trouble := file_trouble(there(below)):
            found.refused[where] = trouble
        else:
            found.add(below, label, split, there(below))
    if divided:
        found.given = {"train", "test", *found.splits}
    return found


def _above(names: list[str | None]) -> str | None:
    """The folder that has all images where every name is a whole path, so that it does not matter where that lies."""
    if not names or not all(name and os.path.isabs(name) for name in names):
        return None
    return os.path.commonpath([os.path.dirname(os.path.normpath(name)) for name in names])


def _there(known: dict[Path, dict[str, str]], base: Path, name: str) -> Path:
    """The file of that name, or the one whose name reads the same, as those in a manifest do.

    Args:
        known: keeps the names in folders that were looked through.
        base: the folder to start from.
        name: of the file.
    """
    if "\0" in name or os.path.lexists(base / name):
        return base / name
    place = base
    for part in Path(name).parts:
        if not os.path.lexists(place / part):
            if place not in known:
                known[place] = {}
                with contextlib.suppress(OSError):
                    known[place] = {plain(each): each for each in os.listdir(place)}
            part = known[place].get(plain(part), part)
        place = place / part
    return place


def _rows(path: Path) -> tuple[list[tuple[int, dict[str, str | None]]], list[str]]:
    """The rows of a table with their numbers, as a text editor counts them, and its columns; None for odd cells."""
    import pandas

    try:
        if path.suffix.lower() == ".csv":
            frame = pandas.read_csv(
                path, dtype=str, keep_default_na=False, skip_blank_lines=False, encoding="utf-8-sig"
            )
        else:
            frame = pandas.read_parquet(path, dtype_backend="numpy_nullable")
            frame = frame.reset_index() if frame.index.name else frame
    except Exception as error:  # of a file that only ends like a table
        raise ThawError(f"dataset.path={path} cannot be read as a table ({error}); mend it") from error
    frame.columns = [str(each).strip() for each in frame.columns]
    if twice := sorted(frame.columns[frame.columns.duplicated()]):
        raise ThawError(f"dataset.path={path} has several columns {twice[0]}; rename or remove one")

    def text(value: object) -> str | None:
        if not pandas.api.types.is_scalar(value) or isinstance(value, bytes):
            return None
        if pandas.isna(value):
            return ""
        return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)

    rows = [{key: text(value) for key, value in row.items()} for row in frame.to_dict("records")]
    return [(number, row) for number, row in enumerate(rows, 2) if any(row.values())], list(frame.columns)


def _is_image(feature) -> bool:
    return type(feature).__name__ == "Image"


def _is_number(feature) -> bool:
    return feature.shape == () and np.issubdtype(feature.np_dtype, np.integer)


def _export(tensorflow_datasets, builder, place: Path) -> None:
    """Write every image of a TensorFlow dataset as it is encoded there, and a table of them."""
    name_of = getattr(builder.info.features["label"], "int2str", str)
    divided = {"train", "test"} <= set(builder.info.splits)
    with (place / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "class", "split"] if divided else ["file", "class"])
        for split in [each for each in builder.info.splits if each in SPLITS] if divided else ["all"]:
            decoders = {"image": tensorflow_datasets.decode.SkipDecoding()}
            examples = tensorflow_datasets.as_numpy(builder.as_dataset(split, decoders=decoders, shuffle_files=False))
            for number, example in enumerate(examples):
                content = example["image"]
                ending = "png" if content.startswith(b"\x89PNG") else "jpg"
                name = f"{split}-{number:07d}.{ending}"
                (place / name).write_bytes(content)
                label = int(example["label"])  # of what has none it is -1
                writer.writerow([name, name_of(label) if label >= 0 else "", *[split] * divided])
