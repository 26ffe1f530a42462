"""What a run records while it trains: what it is, its data, its epochs and stages."""

import contextlib
import csv
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import keras
import tensorflow as tf
import yaml

from thaw import provenance
from thaw.config import schema
from thaw.config.schema import Config
from thaw.config.values import Unfreeze
from thaw.data.dataset import Dataset
from thaw.data.splits import Split, class_text
from thaw.errors import redact
from thaw.locks import locked
from thaw.models import units
from thaw.models.network import Network
from thaw.runs.context import Context
from thaw.tracking import delivery, journal
from thaw.tracking.journal import Record
from thaw.tracking.markdown import code_block
from thaw.tracking.names import (
    CLEAN,
    COMMAND,
    COMMIT,
    DETAIL,
    KIND,
    NOTE,
    SHORT,
    STAGES,
    stage_tag,
)
from thaw.tracking.sent import Sent
from thaw.tracking.store import Store
from thaw.training.checkpoints import StageResult
from thaw.training.optimizers import rate_factors
from thaw.training.schedules import epoch_rates
from thaw.training.stages import Stage


def opening(context: Context, uri: str, experiment: str, kind: str, began: float, root: Path) -> dict:
    """The first line of a run's journal.

    Args:
        context: of the run.
        uri: of the tracking store, without credentials.
        experiment: in MLflow.
        kind: run, or rates for the learning-rate finder.
        began: when the run began, of `time.perf_counter`.
        root: of the checkout.
    """
    tags = {COMMAND: context.command, KIND: kind}
    if state := provenance.git_state(root):
        tags |= {COMMIT: state[0], CLEAN: str(state[1]).lower()}
    parent = context.sweep.name if context.sweep else None
    milliseconds = int(1000 * (time.time() - time.perf_counter() + began))
    return {
        "uri": uri, "experiment": experiment, "name": context.name, "parent": parent, "tags": tags,
        "began": milliseconds,
    }  # fmt: skip


def describe_run(
    record: Record, config: Config, context: Context, network: Network, stages: list[Stage], finish: str = "none"
) -> str:
    """Record what is trained: choices as short parameters, then every key of the configuration.

    `finish` is what was done to trained weights.

    Returns:
        The description of the run as Markdown.
    """
    weights, depth = network.backbone.weights, stages[-1].reached
    if weights == "file":
        weights = f"{weights} ({Path(config.weights.path or '').name})"
    about = (
        f"{config.backbone.name} from {weights} weights on {config.dataset_name}, "
        f"{config.fraction:g} % of the training images, augmentation {config.augmentation.name}; "
        f"{_depth_in_words(config.unfreeze)}.\n\n{code_block(context.command)}{_rates(network, stages[-1])}"
    )
    record.tags({NOTE: about})
    short: dict[str, object] = {
        **{key: context.choices[key] for key in SHORT if key in context.choices},
        "dataset": config.dataset_name,
        "weights": network.backbone.weights,
        "fraction": f"{config.fraction:g}",
        "unfreeze": config.unfreeze,
        "finish": finish,
        "seed": config.seed,
    }
    derived = {
        "weights.sha256": network.backbone.digest,
        "backbone.layers": len(network.backbone.units),
        **network.modality.parameters,
        **units.describe(depth, network.backbone.blocks),
        "batch_norm": network.batch_norm,
        "reinit": config.reinit,
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
                writer.writerow([name, class_text(dataset.class_names, label), split_name, " ".join(stages), ""])
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


def learning_curves_callbacks(
    record: Record, stage: Stage, first_step: int, steps: int
) -> list[keras.callbacks.Callback]:
    """TensorBoard files in the folder of the run: metrics of epochs, and the learning rate of each step if it varies.

    Args:
        record: of the run.
        stage: that trains.
        first_step: steps of the stages before.
        steps: of an epoch.
    """
    for part in ("train", "validation"):  # with the store's permissions, which TensorFlow would not set
        (record.tensorboard / part).mkdir(parents=True, exist_ok=True)
    curves = keras.callbacks.TensorBoard(record.tensorboard, write_graph=False)
    return [curves] if stage.schedule.is_constant else [curves, RateCurve(record, stage, first_step, steps)]


class RateCurve(keras.callbacks.Callback):
    """Writes the learning rate of each step for TensorBoard, also of epochs that were trained before.

    Args:
        record: of the run.
        stage: that trains.
        first_step: steps of the stages before.
        steps: of an epoch.
    """

    def __init__(self, record: Record, stage: Stage, first_step: int, steps: int):
        super().__init__()
        self.folder, self.stage, self.first_step, self.steps = record.tensorboard / "train", stage, first_step, steps

    def on_epoch_begin(self, epoch, logs=None):
        """Write them at once: they follow from the number of the epoch."""
        first = self.first_step + (epoch - self.stage.first_epoch) * self.steps
        suffix = f".rates-{epoch}"
        with tf.summary.create_file_writer(str(self.folder), filename_suffix=suffix).as_default() as writer:
            for step, rate in enumerate(epoch_rates(self.stage, epoch, self.steps), first):
                tf.summary.scalar("learning_rate", rate, step)
            writer.close()


def record_stage(record: Record, stages: list[Stage], stage: Stage, signature: str) -> None:
    """Record the signature of a stage that begins."""
    record.tags({STAGES: " ".join(each.name for each in stages), stage_tag(stage.name): signature})


@contextlib.contextmanager
def beside(folder: Path, store: Store, opening: dict) -> Iterator[Record | None]:
    """The record of a run that came of another one, in a folder of its own; None if it was recorded before a kill."""
    with locked(folder):
        delivery.forget_deleted(folder, store)
        if journal.finished(folder) is not None:
            yield None
            return
        with Record(folder, **opening) as record:
            yield record


def repeat_stages(
    record: Record, stages: list[Stage], signatures: dict[str, str], results: dict[str, StageResult]
) -> None:
    """Record the stages and epochs of a run with another one that uses its weights."""
    for stage in stages:
        record_stage(record, stages, stage, signatures[stage.name])
        for epoch, metrics in zip(stage.epochs, results[stage.name].history, strict=False):
            EpochRecorder(record, stage).on_epoch_end(epoch, metrics)


def record_reuse(record: Record, stage: Stage, result: StageResult) -> None:
    """Record which other runs trained the stage, or some of its epochs: by id in MLflow if they have one."""
    others = [name for name in result.trained_by if name != record.folder.name]
    if others:
        known = [Sent.of(record.folder.parent / name).run or name for name in others]
        record.tags({f"{stage_tag(stage.name)}.reused_from": ", ".join(known)})


def _depth_in_words(unfreeze: Unfreeze) -> str:
    """What trains, for people."""
    if unfreeze == 0:
        return "only the head trains"
    if unfreeze == "all":
        return "everything trains"
    if ".." in str(unfreeze):
        first, last = str(unfreeze).replace("block", "").split("..")
        return f"blocks {first} to {last} of the backbone train as well"
    number, is_blocks, _ = str(unfreeze).partition("block")
    what = f"{'block' if is_blocks else 'layer'}{'s' * (number != '1')}"
    return f"the last {number} {what} of the backbone train{'s' * (number == '1')} as well"


def _rates(network: Network, stage: Stage) -> str:
    """The learning rate of each block that trains as a Markdown table; empty if it is the same for all."""
    blocks, head = rate_factors(stage.optimizer, network.backbone.blocks)
    trains = {id(layer) for layer in network.training_units(stage.depth)}
    rows = [("head", head)]
    for block, factor in zip(reversed(network.backbone.blocks), reversed(blocks), strict=True):
        if any(id(layer) in trains for layer in network.backbone.units[block.first : block.first + block.size]):
            rows.append((block.name, factor))
    if {factor for _, factor in rows} == {1.0}:
        return ""
    lines = [f"| {name} | {stage.settings.learning_rate * factor:.3g} |" for name, factor in rows]
    return "\n\n" + "\n".join([f"| {stage.name} | learning rate |", "| --- | --: |", *lines])


def _details(record: Record, values: dict[str, object]) -> None:
    """Record detailed parameters, without credentials; unset ones are left out."""
    texts = {key: redact(value) if isinstance(value, str) else value for key, value in values.items()}
    record.params({DETAIL + key: value for key, value in texts.items() if value is not None})


def _flat(values: dict, prefix: str = "") -> dict[str, object]:
    """Nested values under dotted keys; top-level scalars are short parameters already."""
    found: dict[str, object] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{key}.")
        elif prefix:
            found[prefix + key] = value
    return found
