"""What a run records: the one place that knows both the parts of a run and their names in MLflow."""

import csv
import json
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import keras
import mlflow
import numpy as np
import tensorflow as tf
import yaml
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec

from thaw import provenance, statistics
from thaw.config import schema
from thaw.config.schema import Config
from thaw.data.dataset import Dataset
from thaw.data.splits import Split
from thaw.errors import redact
from thaw.models import units
from thaw.models.network import Network
from thaw.models.units import Depth
from thaw.plots.style import save
from thaw.plots.training import confusion_matrix, learning_curves
from thaw.runs.context import Context
from thaw.tracking.journal import Record
from thaw.tracking.markdown import code_block
from thaw.tracking.names import (
    CLEAN,
    COMMAND,
    COMMIT,
    DETAIL,
    KEPT_STAGE,
    KIND,
    NOTE,
    REMARK,
    SIZE,
    STAGES,
    TEST,
    VALIDATION,
    stage_tag,
)
from thaw.tracking.sender import Sent
from thaw.training.checkpoints import StageResult
from thaw.training.evaluation import Evaluation
from thaw.training.stages import Stage

DIGITS = 6  # of an accuracy, which MLflow shows in full
GROUPS = ("backbone", "weights", "dataset", "augmentation", "head", "training")


def opening(context: Context, uri: str, experiment: str, began: float, root: Path) -> dict:
    """The first line of a run's journal.

    Args:
        context: of the run.
        uri: of the tracking store, without credentials.
        experiment: in MLflow.
        began: when the run began, of `time.perf_counter`.
        root: of the checkout.
    """
    tags = {COMMAND: context.command, KIND: "run"}
    if state := provenance.git_state(root):
        tags |= {COMMIT: state[0], CLEAN: str(state[1]).lower()}
    parent = context.sweep.name if context.sweep else None
    milliseconds = int(1000 * (time.time() - time.perf_counter() + began))
    return {
        "uri": uri, "experiment": experiment, "name": context.name, "parent": parent, "tags": tags,
        "began": milliseconds,
    }  # fmt: skip


def describe_run(record: Record, config: Config, context: Context, network: Network, depth: Depth) -> str:
    """Record what is trained: choices as short parameters, then every key of the configuration.

    Returns:
        The description of the run as Markdown.
    """
    weights = network.backbone.weights
    if weights == "file":
        weights = f"{weights} ({Path(config.weights.path or '').name})"
    about = (
        f"{config.backbone.name} from {weights} weights on {config.dataset_name}, "
        f"{config.fraction:g} % of the training images, augmentation {config.augmentation.name}; "
        f"{_depth_in_words(config.unfreeze)}.\n\n{code_block(context.command)}"
    )
    record.tags({NOTE: about})
    short: dict[str, object] = {
        **{group: context.choices[group] for group in GROUPS if group in context.choices},
        "dataset": config.dataset_name,
        "weights": network.backbone.weights,
        "fraction": f"{config.fraction:g}",
        "unfreeze": config.unfreeze,
        "seed": config.seed,
    }
    derived = {
        "weights.sha256": network.backbone.digest,
        "backbone.layers": len(network.backbone.units),
        **network.modality.parameters,
        **units.describe(depth, network.backbone.blocks),
        "batch_norm": network.batch_norm,
        "threads": tf.config.threading.get_intra_op_parallelism_threads(),
    }
    record.params(short)
    _details(record, {**derived, **_flat(config.model_dump(exclude={"question"}))})
    (record.files / "config.yaml").write_text(redact(yaml.safe_dump(config.model_dump(), sort_keys=False)))
    (record.files / "command.txt").write_text(context.command + "\n")
    packages = "".join(f"{name}=={version}\n" for name, version in provenance.packages())
    (record.files / "packages.txt").write_text(f"# Python {sys.version.split()[0]}\n{packages}")
    return about


def describe_data(
    record: Record, settings: schema.Dataset, percent: float, dataset: Dataset, training: dict[str, Split]
) -> None:
    """Record which images the run uses, and for what.

    Args:
        record: of the run.
        settings: of the dataset.
        percent: of the training images that are used.
        dataset: all its splits.
        training: the images that each stage trains on, by its name.
    """
    counts = {name: len(split) for name, split in dataset.splits().items()}
    used = {name: len(split) for name, split in training.items()}
    profile = json.dumps({"images": counts, "trained on": used, "classes": len(dataset.class_names)})
    source = json.dumps({"source": settings.source, "path": settings.path})
    tags = {"fraction": f"{percent:g}", "contents": dataset.contents}
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
        writer.writerows([name, "", "", "", reason] for name, reason in sorted(dataset.excluded.items()))


class EpochRecorder(keras.callbacks.Callback):
    """Records the metrics of each epoch of a stage; epochs count on from stage to stage."""

    def __init__(self, record: Record, stage: Stage):
        super().__init__()
        self.record, self.stage = record, stage

    def on_epoch_end(self, epoch, logs=None):
        """Record what the callbacks before left in `logs`."""
        training = {"loss": "train_loss", "accuracy": "train_accuracy"}
        # MLflow's page of several runs draws the metric that was recorded first.
        values = {"val_accuracy": logs["val_accuracy"]}
        values |= {training.get(name, name): float(value) for name, value in logs.items()}
        self.record.metrics({**values, "stage": self.stage.number}, epoch)


def learning_curves_callback(record: Record) -> keras.callbacks.TensorBoard:
    """TensorBoard files in the folder of the run."""
    for part in ("train", "validation"):  # with the store's permissions, which TensorFlow would not set
        (record.tensorboard / part).mkdir(parents=True, exist_ok=True)
    return keras.callbacks.TensorBoard(record.tensorboard, write_graph=False)


def record_stage(record: Record, stages: list[Stage], stage: Stage, signature: str) -> None:
    """Record the signature of a stage that begins."""
    record.tags({STAGES: " ".join(each.name for each in stages), stage_tag(stage.name): signature})


def record_reuse(record: Record, stage: Stage, result: StageResult) -> None:
    """Record which other runs trained the stage, or some of its epochs: by id in MLflow if they have one."""
    others = [name for name in result.trained_by if name != record.folder.name]
    if others:
        known = [Sent.of(record.folder.parent / name).run or name for name in others]
        record.tags({f"{stage_tag(stage.name)}.reused_from": ", ".join(known)})


@dataclass(frozen=True)
class Results:
    """The results of a run.

    Attributes:
        stages: that were trained, in order.
        by_stage: the result of each, by name.
        selected: the stage whose weights were tested.
        evaluation: of the test split.
    """

    stages: list[Stage]
    by_stage: dict[str, StageResult]
    selected: Stage
    evaluation: Evaluation

    @property
    def history(self) -> list[dict[str, float]]:
        """The metrics of all epochs."""
        return [epoch for stage in self.stages for epoch in self.by_stage[stage.name].history]

    @property
    def boundaries(self) -> list[int]:
        """How many epochs there were before each stage but the first."""
        lengths = [len(self.by_stage[stage.name].history) for stage in self.stages]
        return np.cumsum(lengths[:-1], dtype=int).tolist()

    @property
    def selected_result(self) -> StageResult:
        """The result of the selected stage."""
        return self.by_stage[self.selected.name]

    @property
    def selected_metrics(self) -> dict[str, float]:
        """The metrics of the epoch whose weights were tested."""
        return self.selected_result.history[self.selected_result.selected_epoch]

    @property
    def selected_place(self) -> int:
        """The index of that epoch in `history`."""
        return next(number for number, epoch in enumerate(self.history) if epoch is self.selected_metrics)

    @property
    def training_seconds(self) -> float:
        """Of all stages, whichever runs spent them."""
        return sum(result.seconds for result in self.by_stage.values())

    @property
    def remark(self) -> str:
        """A note if the last stage did not lower the validation loss; empty if it did."""
        losses = [result.history[result.selected_epoch]["val_loss"] for result in self.by_stage.values()]
        *earlier, last = losses
        if not any(not loss > last for loss in earlier):  # NaN is no better, either
            return ""
        if self.selected is self.stages[-1]:
            whose = "its"
        else:
            whose = "the head's" if self.selected.name == "head" else f"{self.selected.name}'s"
        return f"Fine-tuning did not lower the validation loss; {whose} weights were kept"


def record_results(
    record: Record,
    tracking: schema.Tracking,
    network: Network,
    training: dict[str, Split],
    results: Results,
    about: str,
    began: float,
) -> None:
    """Record the results of a run: figures, tables, the model, metrics and the outcome.

    Args:
        record: of the run.
        tracking: whether to record and register the model.
        network: as evaluated.
        training: the images that each stage trained on, by its name.
        results: of the run.
        about: its description as Markdown.
        began: when the run began, of `time.perf_counter`.
    """
    evaluation, selected = results.evaluation, results.selected_metrics
    test = evaluation.metrics()
    accuracies = {VALIDATION: round(selected["val_accuracy"], DIGITS), TEST: round(test["accuracy"], DIGITS)}
    _write_files(record, results)
    if tracking.model:
        _save_model(network, len(evaluation.class_names), record.model_folder)
        record.model(record.model_folder, tracking.register_as)
    # TensorBoard's files have new names after a kill, so they are sent last.
    record.artifacts(record.files)
    record.artifacts(record.tensorboard, record.tensorboard.name)
    lines = [_scores(evaluation, selected["val_accuracy"]), *([f"{results.remark}."] if results.remark else []), about]
    record.tags({NOTE: "\n\n".join(lines), KEPT_STAGE: results.selected.name})
    if results.remark:
        record.tags({REMARK: results.remark})
    wall_seconds = time.perf_counter() - began
    record.metrics(
        {
            **{f"test_{name}": value for name, value in test.items()},
            "kept_val_loss": selected["val_loss"],
            **accuracies,
            "kept_epoch": results.selected.first_epoch + results.selected_result.selected_epoch,
            "wall_seconds": wall_seconds,
            **_speed(results, training),
            SIZE: _trainable_parameters(network, results.stages[-1].depth),
        }
    )
    record.outcome = {
        "val_accuracy": accuracies[VALIDATION],
        "test_accuracy": accuracies[TEST],
        "wall_seconds": wall_seconds,
        "training_seconds": results.training_seconds,
        "note": results.remark or None,
    }


def _write_files(record: Record, results: Results) -> None:
    evaluation = results.evaluation
    curves = learning_curves(results.history, results.boundaries, results.selected_place)
    save(curves, record.files / "learning_curves.png")
    save(confusion_matrix(evaluation.confusion(), evaluation.class_names), record.files / "confusion_matrix.png")
    evaluation.write_per_class(record.files / "per_class.csv")
    evaluation.write_predictions(record.files / "predictions.csv")


def _speed(results: Results, training: dict[str, Split]) -> dict[str, float]:
    """Seconds of training, throughput, and the input-bound fraction if it was measured."""
    seconds = results.training_seconds
    images = sum(len(training[name]) * len(result.history) for name, result in results.by_stage.items())
    waits = [epoch["waiting_seconds"] for epoch in results.history if "waiting_seconds" in epoch]
    return {
        "training_seconds": seconds,
        "images_per_second": images / seconds,
        **({"waiting_share": sum(waits) / seconds} if waits else {}),
    }


def _trainable_parameters(network: Network, depth: Depth) -> int:
    trains = network.plan(depth)
    return sum(int(np.prod(each.shape)) for each in network.model.trainable_variables if each.path in trains)


def _scores(evaluation: Evaluation, val_accuracy: float) -> str:
    """The accuracies of a run as Markdown."""
    right = evaluation.predicted == evaluation.labels
    score = statistics.proportion_interval(int(right.sum()), len(right))
    return (
        f"Validation accuracy **{val_accuracy:.3f}**, test accuracy **{score.value:.3f}** "
        f"(95 % from {score.low:.3f} to {score.high:.3f}, {len(right)} images)."
    )


def _depth_in_words(unfreeze: schema.Unfreeze) -> str:
    """What trains, for people."""
    if unfreeze == 0:
        return "only the head trains"
    if unfreeze == "all":
        return "everything trains"
    number, is_blocks, _ = str(unfreeze).partition("block")
    what = f"{'block' if is_blocks else 'layer'}{'s' * (number != '1')}"
    return f"the last {number} {what} of the backbone train{'s' * (number == '1')} as well"


def _details(record: Record, values: dict[str, object]) -> None:
    """Record detailed parameters, without credentials; unset ones are left out."""
    texts = {key: redact(value) if isinstance(value, str) else value for key, value in values.items()}
    record.params({DETAIL + key: value for key, value in texts.items() if value is not None})


def _save_model(network: Network, classes: int, folder: Path) -> None:
    """Save the network in MLflow's format."""
    signature = ModelSignature(
        Schema([TensorSpec(np.dtype("float32"), (-1, *network.modality.shape))]),
        Schema([TensorSpec(np.dtype("float32"), (-1, classes))]),
    )
    used = ("keras", "numpy", "tensorflow")
    requirements = [f"{name}=={version}" for name, version in provenance.packages() if name in used]
    shutil.rmtree(folder, ignore_errors=True)  # left half-written by a kill
    mlflow.tensorflow.save_model(network.model, folder, signature=signature, pip_requirements=requirements)


def _flat(values: dict, prefix: str = "") -> dict[str, object]:
    """Nested values under dotted keys; top-level scalars are short parameters already."""
    found: dict[str, object] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{key}.")
        elif prefix:
            found[prefix + key] = value
    return found
