import csv

import numpy as np
import pytest
from PIL import Image

from thaw.plots import style, training
from thaw.training.evaluation import Evaluation

ANSWERS = Evaluation(
    ("cat", "dog", "emu"),
    ("a.png", "b.png", "c.png", "d.png"),
    np.array([0, 0, 1, 1], np.int32),
    np.array([[0.8, 0.1, 0.1], [0.2, 0.5, 0.3], [0.1, 0.8, 0.1], [0.3, 0.4, 0.3]], np.float32),
)


def test_metrics_are_those_worked_out_by_hand():
    metrics = ANSWERS.metrics()
    assert metrics["loss"] == pytest.approx(-np.log([0.8, 0.2, 0.8, 0.4]).mean(), rel=1e-6)
    assert metrics["accuracy"] == 0.75
    assert metrics["macro_f1"] == pytest.approx((2 / 3 + 0.8 + 0) / 3)


def test_a_class_without_images_or_guesses_scores_nothing_and_says_so():
    scores = ANSWERS.per_class()
    assert scores["precision"].tolist() == pytest.approx([1, 2 / 3, 0])
    assert scores["recall"].tolist() == [0.5, 1, 0]
    assert scores["images"].tolist() == [2, 2, 0]


def test_confusion_has_true_classes_in_rows():
    assert ANSWERS.confusion().tolist() == [[1, 1, 0], [0, 2, 0], [0, 0, 0]]


def test_a_certain_error_costs_much_but_not_everything():
    sure = Evaluation(("a", "b"), ("x",), np.array([0]), np.array([[0.0, 1.0]], np.float32))
    assert sure.metrics()["loss"] == pytest.approx(-np.log(1e-7))


def test_predictions_are_written_image_by_image(tmp_path):
    ANSWERS.write_predictions(tmp_path / "predictions.csv")
    rows = list(csv.DictReader((tmp_path / "predictions.csv").open()))
    assert [(row["file"], row["true"], row["predicted"]) for row in rows][1] == ("b.png", "cat", "dog")
    assert [float(rows[0][name]) for name in ("cat", "dog", "emu")] == pytest.approx([0.8, 0.1, 0.1])


def test_the_picture_of_many_classes_stays_small(tmp_path):
    for count in (training.NAMED, 400):
        drawn = training.confusion_matrix(np.eye(count, dtype=int), tuple(map(str, range(count))))
        style.save(drawn, tmp_path / "a.png")
        assert max(Image.open(tmp_path / "a.png").size) <= 3000
