"""Evaluation of a network on a split: metrics, confusion matrix, and the prediction for every example."""

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from thaw.data.splits import Split

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

    def metrics(self) -> dict[str, float]:
        """Cross-entropy in nats; accuracy, the unweighted mean of the classes' F1, and calibration error in [0, 1]."""
        of_truth = self.probabilities[np.arange(len(self.labels)), self.labels].astype(np.float64)
        return {
            "loss": float(-np.log(np.clip(of_truth, 1e-7, 1.0)).mean()),
            "accuracy": float((self.predicted == self.labels).mean()),
            "macro_f1": float(self.per_class()["f1"].mean()),
            "calibration_error": self.calibration_error(),
        }

    def calibration(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mean probability, accuracy and count of the predictions in each of 15 bins of equal width that has some."""
        confidence = self.probabilities.max(axis=1).astype(np.float64)
        bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
        counts = np.bincount(bins, minlength=BINS)
        some = counts > 0
        means = [
            np.bincount(bins, each, BINS)[some] / counts[some] for each in (confidence, self.predicted == self.labels)
        ]
        return means[0], means[1], counts[some]

    def calibration_error(self) -> float:
        """The mean distance of probability and accuracy in [0, 1] over these bins (Guo et al. 2017)."""
        confidence, accuracy, counts = self.calibration()
        return float((counts * np.abs(confidence - accuracy)).sum() / counts.sum())

    def per_class(self) -> dict[str, np.ndarray]:
        """Precision, recall and F1 of each class in [0, 1], 0 where undefined, and the number of its examples."""
        classes = np.arange(len(self.class_names))
        scores = precision_recall_fscore_support(self.labels, self.predicted, labels=classes, zero_division=0.0)
        return dict(zip(("precision", "recall", "f1", "images"), scores, strict=True))

    def confusion(self) -> np.ndarray:
        """int64 (classes, classes): rows are true classes, columns predicted ones."""
        return confusion_matrix(self.labels, self.predicted, labels=np.arange(len(self.class_names)))

    def write_per_class(self, path: Path) -> None:
        """Write a CSV with a row for each class."""
        scores = self.per_class()
        rows = zip(self.class_names, *scores.values(), strict=True)
        _write(path, ["class", *scores], rows)

    def write_predictions(self, path: Path) -> None:
        """Write a CSV with a row for each example: name, true class, predicted class, probability of every class."""
        rows = (
            [name, self.class_names[truth], self.class_names[guess], *map(float, row)]
            for name, truth, guess, row in zip(self.names, self.labels, self.predicted, self.probabilities, strict=True)
        )
        _write(path, ["file", "true", "predicted", *self.class_names], rows)


def evaluate(model: keras.Model, batches: tf.data.Dataset, split: Split, class_names: tuple[str, ...]) -> Evaluation:
    """Predict every example of `split`, given as batches in the split's order."""
    probabilities = model.predict(batches, verbose=0)[: len(split)]
    return Evaluation(class_names, split.names, split.labels, probabilities)


def _write(path: Path, header: list[str], rows: Iterable) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
