"""Datasets in which an image has any number of classes: labels, splits, losses, thresholds, metrics, commands."""

import csv
import json
import math
import sys
from dataclasses import replace

import commands
import numpy as np
import pytest
from conftest import TINY
from hypothesis import example, given, settings
from hypothesis import strategies as some
from networks import build, images, split_of
from PIL import Image
from sklearn import metrics

from thaw.config import schema
from thaw.config.validate import validate
from thaw.data.dataset import load_dataset
from thaw.data.splits import _deal, classes_of, fraction
from thaw.errors import ThawError
from thaw.modalities.images.modality import Images
from thaw.models.heads import Labels
from thaw.models.network import build_network
from thaw.plots.predictions import Classified
from thaw.runs.finishing import _loss
from thaw.tracking import reader
from thaw.training.batches import Views, training_batches
from thaw.training.evaluation import Evaluation, MultiLabelEvaluation
from thaw.training.losses import build_loss, build_metrics

CLASSES = ("a", "b", "c")


def table(folder, rows, header="file,class"):
    """A table of images that exist, each of other pixels."""
    (folder / "images").mkdir(exist_ok=True)
    for number, name in enumerate(dict.fromkeys(row.split(",")[0] for row in rows)):
        pixels = np.random.default_rng(number).integers(0, 256, (32, 32, 3), np.uint8)
        Image.fromarray(pixels).save(folder / name)
    (folder / "tags.csv").write_text("\n".join([header, *rows]) + "\n")
    return folder / "tags.csv"


def load(path, **changes):
    dataset = schema.Dataset(**{"source": "table", "path": str(path), "multi_label": True, **changes})
    return load_dataset(dataset, 0, path.parent / "store")


def tagged(count=60, seed=0):
    """Rows of images with up to three tags: a often, b less, c rarely."""
    drawn = np.random.default_rng(seed).random((count, 3)) < [0.6, 0.4, 0.15]
    return [f"images/{n}.png,{'|'.join(classes_of(CLASSES, row))}" for n, row in enumerate(drawn)]


def answers(count=200, seed=0):
    random = np.random.default_rng(seed)
    labels = (random.random((count, 3)) < [0.5, 0.3, 0.1]).astype(np.float32)
    probabilities = 1 / (1 + np.exp(-random.normal(2.0 * labels - 1.5, 1.0))).astype(np.float32)
    return MultiLabelEvaluation(CLASSES, tuple(map(str, range(count))), labels, probabilities)


# Labels and splits ====================================================================================================
def test_a_cell_and_several_rows_give_an_image_its_classes(tmp_path):
    rows = [*tagged(), "images/many.png,a", "images/many.png,c|a", "images/none.png,"]
    found = load(table(tmp_path, rows))
    assert found.class_names == CLASSES
    assert found.is_multi_label
    known = {
        name: classes_of(CLASSES, label)
        for split in found.splits().values()
        for name, label in zip(split.names, split.labels, strict=True)
    }
    assert len(known) == 62
    assert known["images/many.png"] == ("a", "c")
    assert known["images/none.png"] == ()
    for row in rows[:60]:
        name, classes = row.split(",")
        assert "|".join(known[name]) == classes
    assert "classes an image" in found.summary


def test_another_separator_separates(tmp_path):
    rows = [row.replace("|", " ") for row in tagged()]
    columns = schema.Columns(separator=" ")
    assert load(table(tmp_path, rows), columns=columns).class_names == CLASSES


@pytest.mark.parametrize(
    ("rows", "changes", "message"),
    [
        ([row.split("|")[0] for row in tagged()], {}, "No image in .* has several classes, separated by '|'"),
        (
            [row.replace("|", ";") for row in tagged()] + ["images/x.png,b|x"],
            {"columns": schema.Columns(separator=";")},
            "has a class name with |",
        ),
        ([row.replace("c", "rare") if n else row for n, row in enumerate(tagged(8))], {}, "needs 3 or more"),
    ],
)
def test_labels_that_cannot_be_used_are_refused(tmp_path, rows, changes, message):
    with pytest.raises(ThawError, match=message.replace("|", r"\|")):
        load(table(tmp_path, rows), **changes)


def test_a_class_that_is_too_rare_is_left_out_and_its_images_stay(tmp_path):
    rows = [*tagged(), "images/rare.png,a|rare"]
    found = load(table(tmp_path, rows), on_bad="skip")
    assert found.class_names == CLASSES
    assert sum(len(split) for split in found.splits().values()) == 61
    assert found.excluded == {"class rare": "has 1 different images, and needs 3 or more"}


def held_out(parts):
    """As `splits._hold_out` divides."""

    def part(place, count):
        behind = place // max(1, math.floor(count * 0.15 + 0.5))
        return behind + 1 if behind < parts else 0

    return part


@given(some.integers(0, 10_000), some.integers(2, 6), some.integers(6, 40), some.booleans())
@example(75, 6, 8, False)
@example(79, 6, 10, False)
@settings(deadline=None)
def test_every_class_has_training_images_however_classes_go_together(seed, classes, count, folds):
    random = np.random.default_rng(seed)
    labels = random.random((count, classes)) < random.random(classes) * 0.6
    parts, part = (5, lambda place, _: place % 5) if folds else (3, held_out(2))
    labels = labels[:, labels.sum(axis=0) >= max(parts, 3)]
    dealt = _deal(labels, parts, part)
    assert ((dealt >= 0) & (dealt < parts)).all()
    assert labels[dealt == 0].any(axis=0).all()


def test_rare_classes_that_go_together_are_trained(tmp_path):
    """Two images have both classes; by the rarest class alone, one of the classes could have none to train on."""
    for seed in range(6):
        rows = [*(f"images/x{n}.png,x" for n in range(1)), *(f"images/y{n}.png,y" for n in range(2))]
        rows += [f"images/xy{n}.png,x|y" for n in range(2)] + [f"images/z{n}.png,z" for n in range(9)]
        path = table(tmp_path, rows)
        found = load_dataset(schema.Dataset(source="table", path=str(path), multi_label=True), seed, tmp_path / "store")
        assert (found.train.labels.sum(axis=0) > 0).all()
        assert (fraction(found.train, 1, seed).labels.sum(axis=0) > 0).all()


def test_a_small_fraction_has_every_class():
    """p and q are the rarest class of four images each, of which two have y as well."""
    labels = np.array([[1, 0, 0]] * 2 + [[1, 0, 1]] * 2 + [[0, 1, 0]] * 2 + [[0, 1, 1]] * 2, np.float32)
    pixels = np.random.default_rng(0).integers(0, 256, (8, 4, 4, 3), np.uint8)
    for seed in range(10):
        whole = split_of(tuple(f"{n}.png" for n in range(8)), labels, pixels)
        assert fraction(whole, 1, seed).labels.any(axis=0).all()


def test_folds_test_every_image_once(tmp_path):
    path = table(tmp_path, tagged(40))
    tested = [name for fold in range(5) for name in load(path, fold=fold).test.names]
    assert len(tested) == len(set(tested)) == 40


def test_a_row_that_cannot_be_used_takes_its_image_along(tmp_path):
    rows = [*tagged(), "images/two.png,a", "images/two.png,b\u0007b"]
    found = load(table(tmp_path, rows), on_bad="skip")
    assert not any("two" in name for split in found.splits().values() for name in split.names)
    assert any("cannot be used without row" in reason for reason in found.excluded.values())


def test_what_a_manifest_left_out_stays_left_out(tmp_path):
    rows = [f"{row},train," for row in tagged()]
    path = table(tmp_path, [*rows, "images/left.png,,,is the same image as another"], "file,class,split,left out")
    found = load(path, on_bad="skip", layout="pooled")
    assert not any("left.png" in name for split in found.splits().values() for name in split.names)
    assert "is the same image as another" in found.excluded.values()


def test_every_split_has_its_share_of_every_class(tmp_path):
    found = load(table(tmp_path, tagged(300)))
    totals = sum(split.labels.sum(axis=0) for split in found.splits().values())
    for split in (found.validation, found.test):
        np.testing.assert_allclose(split.labels.sum(axis=0) / totals, 0.15, atol=0.06)
    half, tenth = (fraction(found.train, percent, 0) for percent in (50, 10))
    assert set(tenth.names) < set(half.names) < set(found.train.names)
    assert (tenth.labels.sum(axis=0) >= 1).all()


def test_a_manifest_makes_the_same_splits_again(tmp_path):
    found = load(table(tmp_path, tagged()))
    lines = ["file,class,split"]
    for name, split in found.splits().items():
        for file, label in zip(split.names, split.labels, strict=True):
            lines.append(f"{file},{'|'.join(classes_of(CLASSES, label))},{name}")
    (tmp_path / "again.csv").write_text("\n".join(lines))
    assert load(tmp_path / "again.csv").digest() == found.digest()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["+dataset.multi_label=true"], "dataset.multi_label=true takes a table, received dataset.source=digits"),
        (
            ["dataset=table", "dataset.path=tags.csv", "dataset.multi_label=true", "training.class_weights=balanced"],
            "training.class_weights=balanced takes one class an image",
        ),
        (
            ["dataset=table", "dataset.path=tags.csv", "dataset.multi_label=true", "training.sampling=balanced"],
            "training.sampling=balanced takes one class an image",
        ),
    ],
)
def test_what_needs_one_class_is_refused(composed, overrides, message):
    with pytest.raises(ThawError, match=message):
        validate(composed(*overrides))


# Loss and metrics =====================================================================================================
def test_the_loss_is_the_mean_over_examples_and_classes():
    found = answers()
    own = build_loss(schema.Loss(), None, multi_label=True)
    expected = np.mean([metrics.log_loss(*each) for each in zip(found.labels.T, found.probabilities.T, strict=True)])
    assert float(own(found.labels, found.probabilities)) == pytest.approx(expected, rel=1e-5)
    assert found.metrics()["loss"] == pytest.approx(expected, rel=1e-5)


def test_smoothing_and_focal_loss_are_those_of_each_class():
    label, probability = np.array([[1.0, 0.0]], np.float32), np.array([[0.8, 0.4]], np.float32)
    smooth = build_loss(schema.Loss(label_smoothing=0.2), None, multi_label=True)
    by_hand = -np.mean([0.9 * np.log(0.8) + 0.1 * np.log(0.2), 0.1 * np.log(0.4) + 0.9 * np.log(0.6)])
    assert float(smooth(label, probability)) == pytest.approx(by_hand, rel=1e-5)
    focal = build_loss(schema.Loss(name="focal", gamma=2.0), None, multi_label=True)
    by_hand = -np.mean([0.2**2 * np.log(0.8), 0.4**2 * np.log(0.6)])
    assert float(focal(label, probability)) == pytest.approx(by_hand, rel=1e-5)


def test_the_metrics_of_epochs_are_those_of_the_evaluation():
    found = answers()
    for metric in build_metrics(multi_label=True):
        metric.update_state(found.labels, found.probabilities, np.ones(len(found.labels)))
        assert float(metric.result()) == pytest.approx(found.metrics()[metric.name], rel=1e-5)


def test_metrics_are_those_of_scikit_learn():
    found = answers().with_thresholds_of(answers(seed=1))
    predicted = found.probabilities >= found.thresholds
    expected = {
        "accuracy": metrics.accuracy_score(found.labels, predicted),
        "macro_f1": metrics.f1_score(found.labels, predicted, average="macro"),
        "mean_average_precision": metrics.average_precision_score(found.labels, found.probabilities, average="macro"),
    }
    assert {name: value for name, value in found.metrics().items() if name in expected} == pytest.approx(expected)


def test_a_class_without_examples_has_no_part_in_the_mean_average_precision():
    found = answers()
    found = replace(found, labels=found.labels * [1, 1, 0])
    expected = metrics.average_precision_score(found.labels[:, :2], found.probabilities[:, :2], average="macro")
    assert found.metrics()["mean_average_precision"] == pytest.approx(expected)
    assert found.with_thresholds_of(found).thresholds[2] == 0.5


def test_no_threshold_has_a_higher_f1_on_validation():
    found = answers()
    chosen = found.with_thresholds_of(found).metrics()["macro_f1"]
    best = [
        max(metrics.f1_score(labels, probabilities >= each) for each in probabilities)
        for labels, probabilities in zip(found.labels.T, found.probabilities.T, strict=True)
    ]
    assert chosen == pytest.approx(np.mean(best))
    assert chosen > found.metrics()["macro_f1"]


def test_one_class_an_example_takes_no_thresholds():
    found = Evaluation(CLASSES, ("x",), np.array([1]), np.array([[0.2, 0.5, 0.3]], np.float32))
    assert found.with_thresholds_of(found) is found


def test_the_loss_of_logits_is_that_of_their_probabilities():
    found = answers()
    logits = np.log(found.probabilities) - np.log1p(-found.probabilities)
    assert _loss(logits, found.labels) == pytest.approx(found.metrics()["loss"], rel=1e-5)


# Networks and batches =================================================================================================
def test_a_network_gives_each_class_a_probability_of_its_own():
    base = build().backbone
    network = build_network(base, schema.Head(), Labels(3, multi_label=True), Images(32), 0, 0)
    assert network.labels == Labels(3, multi_label=True)
    assert build().labels == Labels(3)
    pixels = np.full((1, 32, 32, 3), 90.0, np.float32)
    logits = base.model(base.preprocess(pixels.copy())).numpy().mean(axis=(1, 2))
    dense = network.head[-1]
    expected = 1 / (1 + np.exp(-(logits @ dense.kernel.numpy() + dense.bias.numpy())))
    np.testing.assert_allclose(network.model(pixels), expected, rtol=1e-5)


def test_mixed_views_have_shares_of_the_classes_of_both():
    labels = (np.random.default_rng(0).random((8, 3)) < 0.5).astype(np.float32)
    split = split_of(images(8).names, labels, images(8).images)
    views = Views(schema.Augmentation(name="mixup", mixup=1.0), 0, None, 3)
    ((_, mixed, _),) = training_batches(split, Images(32), 8, range(1), (0, 0), views)
    ((_, plain, _),) = training_batches(split, Images(32), 8, range(1), (0, 0), Views(schema.Augmentation(), 0, None))
    for row, own in zip(mixed.numpy(), plain.numpy(), strict=True):
        assert ((row >= 0) & (row <= 1)).all()
        # What both have or both lack is whole; of the others one image has the share, the other one the rest.
        shares = row[own > 0].tolist() + (1 - row[own == 0]).tolist()
        others = {round(share, 4) for share in shares} - {1.0}
        assert len(others) <= 1


# From end to end ======================================================================================================
def test_tags_are_trained_compared_and_predicted(tmp_path, command, client, monkeypatch, capsys):
    import compare
    import predict

    rows = tagged(40)
    path = table(tmp_path, rows)
    tiny = [each for each in TINY if "images_per_class" not in each and each != "tracking.model=false"]
    own = ["dataset=table", f"dataset.path={path}", "dataset.multi_label=true", "unfreeze=0,1", "finish=temperature"]
    chosen_on = []
    with_thresholds_of = MultiLabelEvaluation.with_thresholds_of
    monkeypatch.setattr(
        MultiLabelEvaluation,
        "with_thresholds_of",
        lambda self, validation: chosen_on.append(set(validation.names)) or with_thresholds_of(self, validation),
    )
    status, _, err = command("-m", *tiny, *own)
    assert status == 0, err
    assert chosen_on
    assert all(names == set(load(path).validation.names) for names in chosen_on)  # not on what is tested
    (sweep,) = commands.sweeps_of(client())
    runs = commands.runs_of(client(), sweep)
    assert len(runs) >= 2
    for run in runs:
        assert 0 <= run.data.metrics["test_mean_average_precision"] <= 1
        found = reader.predictions(client(), run.info.run_id)
        true = {row.split(",")[0]: tuple(filter(None, row.split(",")[1].split("|"))) for row in rows}
        assert all(each.true_classes == true[each.file] for each in found)
        right = np.mean([each.true_classes == each.predicted_classes for each in found])
        assert run.data.metrics["test_accuracy"] == pytest.approx(right)
        per_class = reader.artifact(client(), run.info.run_id, "per_class.csv")
        thresholds = {row["class"]: float(row["threshold"]) for row in csv.DictReader(per_class.splitlines())}
        for each in found:
            over = {name for name, value in each.probabilities.items() if value >= thresholds[name]}
            assert over == set(each.predicted_classes)
        names = [each.path for each in client().list_artifacts(run.info.run_id)]
        assert "learning_curves.png" in names
        assert "confusion_matrix.png" not in names

    def run_command(module, *words):
        monkeypatch.setattr(
            sys, "argv", [f"{module.__name__}.py", *map(str, words), "--store", str(tmp_path / "mlruns")]
        )
        monkeypatch.chdir(tmp_path)
        assert module.main() == 0
        return capsys.readouterr().out

    assert "accuracy" in run_command(compare, "--out", tmp_path / "page")
    page = (tmp_path / "page" / "report.html").read_text()
    assert "Classes, as the best sees them" in page
    assert "Confusion matrix" not in page
    one = runs[0].info.run_id
    lines = run_command(predict, "--run", one, "--split", "test", "--count", 99, "--json").splitlines()
    known = {each.file: each for each in reader.predictions(client(), one)}
    assert len(lines) == len(known)
    for line in map(json.loads, lines):
        assert line["classes"] == list(known[line["file"]].predicted_classes)
        assert line["true"] == list(known[line["file"]].true_classes)
    assert "missed" in (said := run_command(predict, "--run", one, "--worst", 3)) or "where it is not" in said
    assert len(run_command(predict, "--run", one, tmp_path / "images" / "1.png").splitlines()) == 1


def test_answers_are_put_into_words():
    own = dict(zip(CLASSES, (0.9, 0.7, 0.1), strict=True))
    one = Classified("x.png", None, list(own.items()), ("a", "b"), ("a",), 0.0, None, several=True)
    assert one.summary == "x.png: a and b · a 90.0 %, b 70.0 %, c 10.0 % (wrong, it is a)"
    none = replace(one, predicted=(), truth=())
    assert none.summary == "x.png: no class · a 90.0 %, b 70.0 %, c 10.0 % (right)"
    assert none.line()["classes"] == []


def test_the_probability_of_the_truth_is_that_of_exactly_these_classes():
    own = dict(zip(CLASSES, (0.9, 0.7, 0.1), strict=True))
    assert reader.Prediction("x", "a|b", "a", own, several=True).of_truth == pytest.approx(0.9 * 0.7 * 0.9)
    assert reader.Prediction("x", "", "a", own, several=True).of_truth == pytest.approx(0.1 * 0.3 * 0.9)
    assert reader.Prediction("x", "b", "a", own).of_truth == 0.7
