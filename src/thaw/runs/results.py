"""What came of a run, and what it records of that: metrics, figures, tables, the model."""

import time
from dataclasses import dataclass

import numpy as np

from thaw import statistics
from thaw.config import schema
from thaw.data.splits import Split
from thaw.models.network import Network
from thaw.models.units import Depth
from thaw.runs.saved_model import save_model
from thaw.tracking.journal import Record
from thaw.tracking.names import (
    KEPT_STAGE,
    NOTE,
    REMARK,
    SIZE,
    TEST,
    VALIDATION,
)
from thaw.training.checkpoints import StageResult
from thaw.training.evaluation import Evaluation
from thaw.training.stages import Stage

DIGITS = 6  # of an accuracy, which MLflow shows in full


@dataclass(frozen=True)
class Results:
    """The results of a run.

    Attributes:
        stages: that were trained, in order.
        by_stage: the result of each, by name.
        selected: the stage whose weights were tested.
        evaluation: of the test split.
        validation: its metrics, if they are not those of the selected epoch.
        other_seconds: of the training of other runs whose weights went into it.
    """

    stages: list[Stage]
    by_stage: dict[str, StageResult]
    selected: Stage
    evaluation: Evaluation
    validation: dict[str, float] | None = None
    other_seconds: float = 0.0

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
    def validated(self) -> dict[str, float]:
        """Loss and accuracy on the validation split of what was tested."""
        own = {"loss": self.selected_metrics["val_loss"], "accuracy": self.selected_metrics["val_accuracy"]}
        return self.validation or own

    @property
    def selected_place(self) -> int:
        """The index of that epoch in `history`."""
        return next(number for number, epoch in enumerate(self.history) if epoch is self.selected_metrics)

    @property
    def training_seconds(self) -> float:
        """Of all stages, whichever runs spent them."""
        return sum(result.seconds for result in self.by_stage.values()) + self.other_seconds

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
    evaluation, validated = results.evaluation, results.validated
    test = evaluation.metrics()
    accuracies = {VALIDATION: round(validated["accuracy"], DIGITS), TEST: round(test["accuracy"], DIGITS)}
    _record_tables(record, results)
    if tracking.model:
        save_model(network, results.selected.reached, len(evaluation.class_names), record.model_folder)
        record.model(record.model_folder, tracking.register_as)
    # TensorBoard's files have new names after a kill, so they are sent last.
    record.artifacts(record.files)
    record.artifacts(record.tensorboard, record.tensorboard.name)
    lines = [_scores(evaluation, validated["accuracy"]), *([f"{results.remark}."] if results.remark else []), about]
    record.tags({NOTE: "\n\n".join(lines), KEPT_STAGE: results.selected.name})
    if results.remark:
        record.tags({REMARK: results.remark})
    wall_seconds = time.perf_counter() - began
    record.metrics(
        {
            **{f"test_{name}": value for name, value in test.items()},
            "kept_val_loss": validated["loss"],
            **accuracies,
            "kept_epoch": results.selected.first_epoch + results.selected_result.selected_epoch,
            "wall_seconds": wall_seconds,
            **_speed(results, training),
            SIZE: _trainable_parameters(network, results.stages[-1].reached),
        }
    )
    record.outcome = {
        "val_accuracy": accuracies[VALIDATION],
        "test_accuracy": accuracies[TEST],
        "wall_seconds": wall_seconds,
        "training_seconds": results.training_seconds,
        "note": results.remark or None,
    }


def _record_tables(record: Record, results: Results) -> None:
    """Record the evaluation, and what the figures show."""
    evaluation, curves = results.evaluation, ("loss", "accuracy", "val_loss", "val_accuracy")
    evaluation.write_per_class(record.files / "per_class.csv")
    evaluation.write_predictions(record.files / "predictions.csv")
    confusion = evaluation.confusion()
    record.figures(
        history=[{name: epoch[name] for name in curves} for epoch in results.history],
        boundaries=results.boundaries,
        kept=results.selected_place,
        confusion=[] if confusion is None else _counts(confusion),
        classes=list(evaluation.class_names),
    )


def _counts(confusion: np.ndarray) -> list[tuple[int, int, int]]:
    """True class, predicted class and count, where there are any."""
    return [(int(truth), int(guess), int(confusion[truth, guess])) for truth, guess in np.argwhere(confusion)]


def _speed(results: Results, training: dict[str, Split]) -> dict[str, float]:
    """Seconds of training, throughput, and the input-bound fraction if it was measured."""
    seconds = results.training_seconds - results.other_seconds
    images = sum(len(training[name]) * len(result.history) for name, result in results.by_stage.items())
    waits = [epoch["waiting_seconds"] for epoch in results.history if "waiting_seconds" in epoch]
    return {
        "training_seconds": results.training_seconds,
        "images_per_second": images / seconds,
        **({"waiting_share": sum(waits) / seconds} if waits else {}),
    }


def _trainable_parameters(network: Network, depth: Depth) -> int:
    trains = network.plan(depth)
    return sum(int(np.prod(each.shape)) for each in network.model.variables if each.path in trains)


def _scores(evaluation: Evaluation, val_accuracy: float) -> str:
    """The accuracies of a run as Markdown."""
    right = evaluation.right
    score = statistics.proportion_interval(int(right.sum()), len(right))
    return (
        f"Validation accuracy **{val_accuracy:.3f}**, test accuracy **{score.value:.3f}** "
        f"(95 % from {score.low:.3f} to {score.high:.3f}, {len(right)} images)."
    )
