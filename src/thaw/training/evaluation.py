"""Evaluation of a network on a split: metrics, confusion matrix, and the prediction for every example."""

import csv
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from sklearn.metrics import (
    average_precision_score,
    confusion_matrix,
    precision_recall_curve,
    precision_recall_fscore_support,
)

from thaw.data.splits import Split, class_text

BINS = 15  # of calibration


@dataclass(frozen=True)
class Evaluation:
    """The network's answers for a split.

    Attributes:
        class_names: in the order of the labels.
        names: of the examples.
        labels: int32 (examples,), true classes.
        probabilities: float32 (examples, classes), rows add up to 1.
    """

    class_names: tuple[str, ...]
    names: tuple[str, ...]
    labels: np.ndarray
    probabilities: np.ndarray

    @property
    def predicted(self) -> np.ndarray:
        """int64 (examples,), the most probable class."""
        return self.probabilities.argmax(axis=1)

    @property
    def right(self) -> np.ndarray:
        """bool (examples,)."""
        return self.predicted == self.labels

    def metrics(self) -> dict[str, float]:
        """Cross-entropy in nats; accuracy, the unweighted mean of the classes' F1, and calibration error in [0, 1]."""
        of_truth = self.probabilities[np.arange(len(self.labels)), self.labels].astype(np.float64)
        return {
            "loss": float(0.0 - np.log(np.clip(of_truth, 1e-7, 1.0)).mean()),
            "accuracy": float(self.right.mean()),
            "macro_f1": float(self.per_class()["f1"].mean()),
            "calibration_error": self.calibration_error(),
        }

    def with_thresholds_of(self, validation: "Evaluation") -> "Evaluation":
        """The same with the thresholds that validation chooses; one class an example takes none."""
        return self

    def calibration(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mean probability, accuracy and count of the predictions in each of 15 bins of equal width that has some."""
        return _calibration(self.probabilities.max(axis=1), self.right)

    def calibration_error(self) -> float:
        """The mean distance of probability and accuracy in [0, 1] over these bins (Guo et al. 2017)."""
        confidence, accuracy, counts = self.calibration()
        return float((counts * np.abs(confidence - accuracy)).sum() / counts.sum())

    def per_class(self) -> dict[str, np.ndarray]:
        """Precision, recall and F1 of each class in [0, 1], 0 where undefined, and the number of its examples."""
        classes = np.arange(len(self.class_names))
        scores = precision_recall_fscore_support(self.labels, self.predicted, labels=classes, zero_division=0.0)
        return dict(zip(("precision", "recall", "f1", "images"), scores, strict=True))

    def confusion(self) -> np.ndarray | None:
        """int64 (classes, classes): rows are true classes, columns predicted ones; None for several labels."""
        return confusion_matrix(self.labels, self.predicted, labels=np.arange(len(self.class_names)))

    def write_per_class(self, path: Path) -> None:
        """Write a CSV with a row for each class."""
        scores = self.per_class()
        rows = zip(self.class_names, *scores.values(), strict=True)
        _write(path, ["class", *scores], rows)

    def write_predictions(self, path: Path) -> None:
        """Write a CSV with a row for each example: name, true and predicted class, probability of every class.

        Several classes are written with | between them, under headings that say so.
        """
        rows = (
            [name, class_text(self.class_names, truth), class_text(self.class_names, guess), *map(float, row)]
            for name, truth, guess, row in zip(self.names, self.labels, self.predicted, self.probabilities, strict=True)
        )
        headings = ["true", "predicted"] if self.labels.ndim == 1 else ["true classes", "predicted classes"]
        _write(path, ["file", *headings, *self.class_names], rows)


@dataclass(frozen=True)
class MultiLabelEvaluation(Evaluation):
    """The network's answers for a split of examples that have any number of classes.

    Attributes:
        labels: float32 (examples, classes), 1 for each class of an example, else 0.
        probabilities: float32 (examples, classes), of each class by itself.
        thresholds: float (classes,): the probability from which an example has a class; None: one half.
    """

    thresholds: np.ndarray | None = None

    @property
    def predicted(self) -> np.ndarray:
        """bool (examples, classes)."""
        return self.probabilities >= (0.5 if self.thresholds is None else self.thresholds)

    @property
    def right(self) -> np.ndarray:
        """bool (examples,): whether all classes of an example, and no others, are predicted."""
        return (self.predicted == (self.labels > 0)).all(axis=1)

    def metrics(self) -> dict[str, float]:
        """Binary cross-entropy in nats, the mean over classes; the share of examples whose classes are all right; the
        unweighted means of the classes' F1 and average precision, the latter of classes that have examples; and
        calibration error. All but the first are in [0, 1]."""
        by_class = self.per_class()
        of_labels = np.where(self.labels > 0, self.probabilities, 1.0 - self.probabilities).astype(np.float64)
        return {
            "loss": float(0.0 - np.log(np.clip(of_labels, 1e-7, 1.0)).mean()),
            "accuracy": float(self.right.mean()),
            "macro_f1": float(by_class["f1"].mean()),
            "mean_average_precision": float(by_class["average_precision"][by_class["images"] > 0].mean()),
            "calibration_error": self.calibration_error(),
        }

    def calibration(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mean probability, share of examples that have the class, and count; of all examples and classes in bins."""
        return _calibration(self.probabilities.ravel(), self.labels.ravel())

    def per_class(self) -> dict[str, np.ndarray]:
        """As of one class an example; also average precision, 0 without examples, and the threshold."""
        scores = precision_recall_fscore_support(self.labels, self.predicted, average=None, zero_division=0.0)
        found = dict(zip(("precision", "recall", "f1", "images"), scores, strict=True))
        by_class = zip(self.labels.T, self.probabilities.T, strict=True)
        average = [average_precision_score(*each) if each[0].any() else 0.0 for each in by_class]
        thresholds = np.broadcast_to(0.5 if self.thresholds is None else self.thresholds, len(self.class_names))
        return {**found, "average_precision": np.array(average), "threshold": thresholds}

    def confusion(self) -> None:
        """None, as no class is taken for another."""
        return None

    def with_thresholds_of(self, validation: Evaluation) -> "MultiLabelEvaluation":
        """The same with the threshold of each class that gives the highest F1 on validation; one half without examples.

        It is half-way to the next lower probability there.
        """
        by_class = zip(validation.labels.T, validation.probabilities.T, strict=True)
        return replace(self, thresholds=np.array([_best_threshold(*each) for each in by_class]))


def _best_threshold(labels: np.ndarray, probabilities: np.ndarray) -> float:
    if not labels.any():
        return 0.5
    precision, recall, thresholds = precision_recall_curve(labels, probabilities)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    best = float(thresholds[np.argmax(f1[:-1])])
    below = probabilities[probabilities < best]
    return (best + float(below.max())) / 2 if len(below) else best / 2


def _calibration(confidence: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The means of both and the count in each bin of confidence that has some."""
    confidence = confidence.astype(np.float64)
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    counts = np.bincount(bins, minlength=BINS)
    some = counts > 0
    means = [np.bincount(bins, each, BINS)[some] / counts[some] for each in (confidence, right)]
    return means[0], means[1], counts[some]


def evaluate(model: keras.Model, batches: tf.data.Dataset, split: Split, class_names: tuple[str, ...]) -> Evaluation:
    """Predict every example of `split`, given as batches in the split's order."""
    probabilities = model.predict(batches, verbose=0)[: len(split)]
    kind = MultiLabelEvaluation if split.labels.ndim == 2 else Evaluation
    return kind(class_names, split.names, split.labels, probabilities)


def _write(path: Path, header: list[str], rows: Iterable) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
