"""Where a dataset's images come from: each source lists them with their classes. Checks and splits come after.

A source of your own is a function here that takes the configuration of the dataset and the store, and returns a
`Listing`; enter it in `SOURCES`, and give it a YAML in `conf/dataset/`.
"""

import contextlib
import csv
import hashlib
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from thaw import config, downloads, durable, folders, runtime, tables
from thaw.errors import ThawError
from thaw.listing import SPLITS, Listing


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
    return folders.listed(root, dataset.name or root.resolve().name, dataset.layout)


def table(dataset: config.Dataset, store: Path) -> Listing:
    """A CSV, TSV or Parquet file that names images, their labels and, where it has that column, their splits."""
    path = _path("dataset.path", dataset.path)
    if path.suffix.lower() not in (".csv", ".tsv", ".parquet") or not os.path.isfile(path):
        raise ThawError(
            f"dataset.path={dataset.path} is no table; give a .csv, .tsv or .parquet file of images and labels"
        )
    base = _path("dataset.root", dataset.root) if dataset.root else path.parent
    divided = dataset.fold is None and dataset.layout in ("auto", "validation")
    return tables.tabled(path, base, dataset.name or path.stem, dataset.columns, divided)


def archive(dataset: config.Dataset, store: Path) -> Listing:
    """An archive of such a folder, downloaded and unpacked once into Keras' cache."""
    if not dataset.url:
        raise ThawError("dataset.url has no value; give the address of a zip or tar file")
    root = downloads.unpacked(dataset.url, dataset.sha256)
    while len(inner := folders.inside(root)) == 1:  # archives wrap what they hold
        root = inner[0]
    return folders.listed(root, dataset.name, dataset.layout)


def tfds(dataset: config.Dataset, store: Path) -> Listing:
    """A dataset of TensorFlow Datasets, whose encoded images are written into files of the store, once."""
    if not dataset.name:
        raise ThawError("dataset.name has no value; give the name of a TensorFlow dataset, such as tf_flowers")
    try:
        with runtime.quiet():
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
    return tables.tabled(place / "labels.csv", place, dataset.name, columns, dataset.fold is None)


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
    path = Path(given)
    try:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError, ValueError):
            path.stat()
    except OSError as error:
        raise ThawError(f"{key}={given} cannot be read ({error.strerror}); give one that can") from error
    if os.path.isdir(path) and folders.is_system(path):
        raise ThawError(f"{key}={given} is a system directory; choose a folder of images")
    return path


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
