"""`dataset=tfds`: a dataset of TensorFlow Datasets."""

import csv
import hashlib
from functools import partial
from pathlib import Path

import numpy as np

from thaw import downloads, files, runtime
from thaw.config import schema
from thaw.data.listing import SPLITS, Listing
from thaw.data.sources.table import list_table
from thaw.errors import ThawError
from thaw.workspace import Workspace


def listing(dataset: schema.Dataset, store: Path) -> Listing:
    """The images of a dataset of TensorFlow Datasets, exported once into files of the store, as they are encoded."""
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
        raise ThawError(f"dataset.name={dataset.name} cannot be loaded from TensorFlow Datasets: {error}") from error
    for name, fits in (("image", _is_image), ("label", _is_number)):
        if name not in builder.info.features or not fits(builder.info.features[name]):
            raise ThawError(f"{dataset.name} has no usable {name} feature; choose a dataset with an image and a label")
    paths = [Path(path) for split in builder.info.splits.values() for path in split.filepaths]
    state = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in paths if path.exists()]
    digest = hashlib.sha256(f"{builder.info.full_name} {state}".encode()).hexdigest()[:10]
    place = Workspace(store).datasets / f"{builder.info.name}-{digest}"
    try:
        files.create_once(place, partial(_export, tensorflow_datasets, builder))
    except tensorflow.errors.OpError as error:
        raise ThawError(
            f"{dataset.name} cannot be read in {builder.data_dir} ({error.message}); remove and download it again"
        ) from error
    return list_table(place / "labels.csv", place, dataset.name, schema.Columns(), dataset.fold is None)


def _is_image(feature) -> bool:
    return type(feature).__name__ == "Image"


def _is_number(feature) -> bool:
    return feature.shape == () and np.issubdtype(feature.np_dtype, np.integer)


def _export(tensorflow_datasets, builder, place: Path) -> None:
    """Write every image of a TensorFlow dataset in its own encoding, and a table of them."""
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
                label = int(example["label"])  # -1: no label
                writer.writerow([name, name_of(label) if label >= 0 else "", *[split] * divided])
