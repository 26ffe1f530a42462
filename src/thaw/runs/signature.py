"""Signatures: everything that a result depends on, as one hash.

They cover the relevant settings, the images and labels in use, the bytes of the initial weights, the stages before, the
seed, the devices, the versions of packages, and the code that shapes results; not where things lie, how runs are
recorded or launched, or how fast the work is done. The number of threads is left out as well: it changes only how sums
are rounded, and runs in parallel, which divide the cores, share stages. Needs no TensorFlow, so that a finished run is
recognized at once.
"""

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

from thaw import provenance
from thaw.config import schema
from thaw.config.schema import Config
from thaw.data import fingerprints
from thaw.data.dataset import Dataset
from thaw.data.splits import Split

if TYPE_CHECKING:
    from thaw.modalities.images.modality import Images
    from thaw.models.network import Network
    from thaw.training.stages import Stage

# Keys that name, locate, record or speed up a run.
IRRELEVANT: dict = {
    "store": True,
    "tracking": True,
    "threads": True,
    "rerun": True,
    "question": True,
    "dataset": {"source", "name", "path", "root", "columns", "url", "sha256", "on_bad", "max_megapixels"},
    "weights": {"path"},
    "augmentation": {"name"},
    "regularisation": {"name"},
    "resolution": {"name"},
    "finish": {"name"},
    "activations": {"keep", "max_gigabytes"},
    "training": {"strategy"},
}


def of_run(settings: dict, dataset: Dataset, weights: str, path: str | None, store: Path, devices: str) -> str:
    """The signature of a run.

    Args:
        settings: `relevant` ones.
        dataset: all its splits.
        weights: the source of the initial weights: imagenet, random or file. Together with the versions, which pin the
            hash of what Keras downloads, the seed and the images it determines their bytes; a file is hashed.
        path: of that file.
        store: keeps the hashes of files.
        devices: that `training.strategy` resolves to, as `Devices.key`.

    Returns:
        64 hexadecimal digits.
    """
    file = Path(path or "")
    content = fingerprints.digests([file], store)[0].hex() if weights == "file" and file.is_file() else ""
    return _hash(
        {
            **settings,
            "weights": [weights, content],
            "devices": devices,
            "classes": dataset.class_names,
            "images": [split.digest for split in dataset.splits().values()],
            "labels": [_labels(split) for split in dataset.splits().values()],
        }
    )


def relevant(config: Config) -> dict:
    """The part of a configuration that results depend on, with the versions and the code that compute them."""
    settings = config.model_dump(mode="json", exclude=IRRELEVANT)
    return {**settings, "versions": provenance.versions(), "code": provenance.code()}


def stage_settings(
    training: schema.Training,
    head: schema.Head,
    augmentation: schema.Augmentation,
    dtype: str,
    seed: int,
    devices: str,
) -> dict:
    """What all stages of a run depend on, besides network and data.

    Args:
        training: has batch size and precision.
        head: of the network.
        augmentation: of the training images.
        dtype: of cached features.
        seed: of the run.
        devices: as `Devices.key`.
    """
    return {
        "batch_size": training.batch_size,
        "sampling": training.sampling,
        "computed": [training.precision, devices],
        "head": head.model_dump(),
        "augmentation": augmentation.model_dump(exclude={"name"}),
        "dtype": dtype,
        "seed": seed,
        "versions": provenance.versions(),
        "code": provenance.code(),
    }


def of_stage(settings: dict, stage: "Stage", network: "Network", dataset: Dataset, train: Split, before: str) -> str:
    """The signature of a stage; its name is no part of it, so runs that call it differently share it.

    Args:
        settings: `stage_settings` of the run.
        stage: what is trained, and for how long.
        network: has the backbone with its initial weights.
        dataset: has the classes, and the validation images that select the epoch.
        train: the images that it trains on.
        before: the signature of the stage before, or empty.

    Returns:
        64 hexadecimal digits.
    """
    return _hash(
        {
            **settings,
            "stage": [stage.number, stage.depth, stage.first_epoch, stage.count, stage.evaluate],
            "stage_settings": stage.settings.model_dump(
                exclude={"epochs", "steps", "fraction", "unfreeze"}
            ),  # said by others
            "loss": stage.loss.model_dump(),
            "regularisation": stage.regularisation.model_dump(exclude={"name"}),
            "optimizer": stage.optimizer.model_dump(),
            "schedule": stage.schedule.model_dump(),
            "class_weights": stage.class_weights,
            "backbone": [network.backbone.model.name, network.backbone.digest, *network.modality.key],
            "batch_norm": network.batch_norm if stage.depth == "all" else "frozen",
            "classes": dataset.class_names,
            "images": [split.digest for split in (train, dataset.validation)],
            "labels": [_labels(split) for split in (train, dataset.validation)],
            "before": before,
        }
    )


def of_initial_weights(backbone: schema.Backbone, modality: "Images", seed: int, train: Split, precision: str) -> str:
    """The signature of random initial weights with their batch-norm statistics: 64 hexadecimal digits.

    Args:
        backbone: which network.
        modality: of its inputs.
        seed: of the weights.
        train: the images that the statistics are of.
        precision: that they are computed in.
    """
    return _hash(
        {
            "backbone": [backbone.name, backbone.alpha, *modality.key],
            "seed": seed,
            "computed": precision,
            "images": train.digest,
            "versions": provenance.versions(),
            "code": provenance.code(),
        }
    )


def _labels(split: Split) -> str:
    return hashlib.sha256(split.labels.tobytes()).hexdigest()


def _hash(parts: dict) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
