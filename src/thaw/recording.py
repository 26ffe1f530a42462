"""What a run's record holds: the one place that knows both the parts of a run and their names in MLflow."""

import csv
import json
import shutil
import sys
import time
from pathlib import Path

import keras
import mlflow
import numpy as np
import tensorflow as tf
import yaml
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec

from thaw import delivery, statistics, tracking
from thaw.backbone import Backbone
from thaw.checkpoints import Trained
from thaw.config import Config
from thaw.data import Dataset, Split
from thaw.errors import redact
from thaw.evaluation import Evaluation
from thaw.job import Job
from thaw.journal import Record
from thaw.network import Network
from thaw.plots import training as plots
from thaw.stage import Stage

DIGITS = 6  # of an accuracy, which MLflow shows in full
GROUPS = ("backbone", "weights", "dataset", "augmentation", "head", "training")


def describe_data(record: Record, config: Config, dataset: Dataset, training: dict[str, Split]) -> None:
    """Record which images the run uses, and for what.

    Args:
        record: of the run.
        config: of the run.
        dataset: all its splits.
        training: the images that each stage trains on, by the stage's name.
    """
    counts = {name: len(split) for name, split in dataset.splits().items()}
    used = {name: len(split) for name, split in training.items()}
    profile = json.dumps({"images": counts, "trained on": used, "classes": len(dataset.class_names)})
    source = json.dumps({"source": config.dataset.source, "path": config.dataset.path})
    tags = {"fraction": f"{config.fraction:g}", "contents": dataset.contents}
    record.dataset(dataset.name, dataset.digest(), source, profile, tags)
    _details(
        record,
        {
            "images.train": max(used.values()),
            "images.validation": counts["validation"],
            "images.test": counts["test"],
            "classes": len(dataset.class_names),
        },
    )
    (record.files / "classes.txt").write_text("\n".join(dataset.class_names) + "\n", encoding="utf-8")
    stages_of = {name: set(split.names) for name, split in training.items()}
    with (record.files / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "class", "split", "stages", "left out"])
        for split_name, split in dataset.splits().items():
            for name, label in zip(split.names, split.labels, strict=True):
                stages = [stage for stage, names in stages_of.items() if name in names]
                writer.writerow([name, dataset.class_names[label], split_name, " ".join(stages), ""])
        writer.writerows([name, "", "", "", reason] for name, reason in sorted(dataset.left_out.items()))


def describe_network(record: Record, config: Config, job: Job, backbone: Backbone, network: Network) -> None:
    """Record what is trained: the choices under short names, then every key of the configuration."""
    record.tags({tracking.NOTE: _about(config, network, job.command)})
    short = {
        **{group: job.choices[group] for group in GROUPS},
        "dataset": config.dataset_name,
        "weights": backbone.weights,
        "fraction": f"{config.fraction:g}",
        "unfreeze": config.unfreeze,
        "seed": config.seed,
    }
    derived = {
        "weights.sha256": backbone.digest,
        "backbone.layers": len(network.backbone.model.layers),
        "image_size": config.image_size,
        "batch_norm": network.batch_norm,
        "threads": tf.config.threading.get_intra_op_parallelism_threads(),
    }
    record.params(short)
    _details(record, {**derived, **_flat(config.model_dump(exclude={"question"}))})
    (record.files / "config.yaml").write_text(redact(yaml.safe_dump(config.model_dump(), sort_keys=False)))
    (record.files / "command.txt").write_text(job.command + "\n")
    packages = "".join(f"{name}=={version}\n" for name, version in tracking.packages())
    (record.files / "packages.txt").write_text(f"# Python {sys.version.split()[0]}\n{packages}")


class Epochs(keras.callbacks.Callback):
    """Sends the metrics of each epoch of a stage in one request; epochs count on from stage to stage."""

    def __init__(self, record: Record, stage: Stage):
        super().__init__()
        self.record, self.stage = record, stage

    def on_epoch_end(self, epoch, logs=None):
        """Send what the callbacks before left in `logs`."""
        training = {"loss": "train_loss", "accuracy": "train_accuracy"}
        # MLflow's page of several runs draws the metric that was recorded first.
        values = {"val_accuracy": logs["val_accuracy"]}
        values |= {training.get(name, name): float(value) for name, value in logs.items()}
        self.record.metrics({**values, "stage": self.stage.number}, epoch)


def note_reuse(record: Record, stage: Stage, trained: Trained) -> None:
    """Record which other runs trained the stage, or some of its epochs: by their ids in MLflow, where they have one."""
    others = [name for name in trained.by if name != record.folder.name]
    if others:
        known = [delivery.Sent.of(record.folder.parent / name).run or name for name in others]
        record.tags({f"thaw.{stage.name}.reused_from": ", ".join(known)})


def results(
    record: Record,
    config: Config,
    network: Network,
    training: dict[str, Split],
    trained: dict[str, Trained],
    chosen: Stage,
    answers: Evaluation,
    began: float,
) -> None:
    """Record what came of the run.

    Args:
        record: of the run.
        config: of the run.
        network: as evaluated.
        training: the images that each stage trained on.
        trained: what each stage came to.
        chosen: the stage whose weights were tested.
        answers: for the test split.
        began: when the run began, of `time.perf_counter`.
    """
    stages = list(trained.values())
    history = [epoch for stage in stages for epoch in stage.history]
    images = sum(len(training[name]) * len(stage.history) for name, stage in trained.items())
    kept = trained[chosen.name].history[trained[chosen.name].kept]
    val_accuracy, test_accuracy = (
        round(each, DIGITS) for each in (kept["val_accuracy"], answers.metrics()["accuracy"])
    )
    place = next(number for number, epoch in enumerate(history) if epoch is kept)
    plots.save(plots.learning_curves(history, len(stages[0].history), place), record.files / "learning_curves.png")
    confusion = plots.confusion_matrix(answers.confusion(), answers.class_names)
    plots.save(confusion, record.files / "confusion_matrix.png")
    answers.write_per_class(record.files / "per_class.csv")
    answers.write_predictions(record.files / "predictions.csv")
    if config.tracking.model:
        _save(network.model, config.image_size, len(answers.class_names), record.folder / "model")
        record.model(record.folder / "model", config.tracking.register_as)
    # TensorBoard's files have new names after a kill, so that they go last.
    record.artifacts(record.files)
    record.artifacts(record.folder / "tensorboard", "tensorboard")
    test = {f"test_{name}": value for name, value in answers.metrics().items()} | {"test_accuracy": test_accuracy}
    training_seconds = sum(stage.seconds for stage in stages)
    trains = network.plan(config.unfreeze)
    waits = [epoch["waiting_seconds"] for epoch in history if "waiting_seconds" in epoch]
    note = _note(trained, chosen)
    about = _about(config, network, (record.files / "command.txt").read_text().strip())
    lines = [_scored(answers, kept["val_accuracy"]), *[f"{note}."] * bool(note), about]
    record.tags({tracking.NOTE: "\n\n".join(lines), "thaw.kept_stage": chosen.name})
    if note:
        record.tags({"thaw.note": note})
    wall_seconds = time.perf_counter() - began
    record.metrics(
        {
            **test,
            "kept_val_loss": kept["val_loss"],
            "kept_val_accuracy": val_accuracy,
            "kept_epoch": chosen.first_epoch + trained[chosen.name].kept,
            "wall_seconds": wall_seconds,
            "training_seconds": training_seconds,
            "images_per_second": images / training_seconds,
            **({"waiting_share": sum(waits) / training_seconds} if waits else {}),
            "trainable_parameters": sum(
                v.shape.num_elements() for v in network.model.trainable_variables if v.path in trains
            ),
        }
    )
    record.outcome = {
        "val_accuracy": val_accuracy,
        "test_accuracy": test_accuracy,
        "wall_seconds": wall_seconds,
        "training_seconds": training_seconds,
        "note": note or None,
    }


def _note(trained: dict[str, Trained], chosen: Stage) -> str:
    """That a later stage left worse weights than an earlier one; nothing if it did not."""
    losses = {name: stage.history[stage.kept]["val_loss"] for name, stage in trained.items()}
    *earlier, last = losses
    if not any(not losses[name] > losses[last] for name in earlier):  # NaN is no better, either
        return ""
    whose = "the head's" if chosen.name == "head" else "its"
    return f"Fine-tuning did not lower the validation loss; {whose} weights were kept"


def _scored(answers: Evaluation, val_accuracy: float) -> str:
    """What a run came to, as Markdown."""
    right = answers.predicted == answers.labels
    score = statistics.proportion_interval(int(right.sum()), len(right))
    return (
        f"Validation accuracy **{val_accuracy:.3f}**, test accuracy **{score.value:.3f}** "
        f"(95 % from {score.low:.3f} to {score.high:.3f}, {len(right)} images)."
    )


def _about(config: Config, network: Network, command: str) -> str:
    """What a run is, and the command that makes it alone, as Markdown."""
    depths = {0: "only the head trains", "all": "everything trains"}
    weights = network.backbone.weights
    if weights == "file":
        weights = f"{weights} ({Path(config.weights.path).name})"
    return (
        f"{config.backbone.name} from {weights} weights on {config.dataset_name}, "
        f"{config.fraction:g} % of the training images, augmentation {config.augmentation.name}; "
        f"{depths.get(config.unfreeze, f'the last {config.unfreeze} layers of the backbone train as well')}."
        f"\n\n{tracking.code(command)}"
    )


def _details(record: Record, values: dict[str, object]) -> None:
    """Record further parameters, without credentials; what is not set has none."""
    texts = {key: redact(value) if isinstance(value, str) else value for key, value in values.items()}
    record.params({tracking.DETAIL + key: value for key, value in texts.items() if value is not None})


def _save(model: keras.Model, size: int, classes: int, folder: Path) -> None:
    """Save for MLflow: pixels float32 (batch, size, size, 3) in [0, 255] -> probabilities (batch, classes)."""
    signature = ModelSignature(
        Schema([TensorSpec(np.dtype("float32"), (-1, size, size, 3))]),
        Schema([TensorSpec(np.dtype("float32"), (-1, classes))]),
    )
    used = ("keras", "numpy", "tensorflow")
    requirements = [f"{name}=={version}" for name, version in tracking.packages() if name in used]
    shutil.rmtree(folder, ignore_errors=True)  # a run that was killed here left it half written
    mlflow.tensorflow.save_model(model, folder, signature=signature, pip_requirements=requirements)


def _flat(values: dict, prefix: str = "") -> dict[str, object]:
    """Nested values under dotted keys; top-level scalars are left to the short parameters."""
    found = {}
    for key, value in values.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{key}.")
        elif prefix:
            found[prefix + key] = value
    return found
