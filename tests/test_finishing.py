"""Test-time augmentation, temperature scaling and weight averaging of trained runs."""

import numpy as np
import pytest
from commands import numbers, runs_of, sweeps_of
from conftest import TINY
from networks import build, images

from thaw.config import schema
from thaw.data.dataset import Dataset
from thaw.runs.finishing import TEST_VIEWS, _between, _loss, finishes
from thaw.runs.results import Results
from thaw.training.batches import PLAIN, Views, view_batches
from thaw.training.checkpoints import StageResult
from thaw.training.evaluation import Evaluation, evaluate
from thaw.training.stages import Stage

CLASSES = ("a", "b", "c")


def evaluation(probabilities, labels):
    names = tuple(map(str, range(len(labels))))
    return Evaluation(CLASSES, names, np.array(labels, np.int32), np.array(probabilities, np.float32))


def test_a_calibration_error_is_the_distance_of_confidence_and_accuracy():
    """By hand: at 0.8 three of four are right, at 0.5 one of two."""
    sure, unsure = [0.8, 0.1, 0.1], [0.5, 0.3, 0.2]
    found = evaluation([sure] * 4 + [unsure] * 2, [0, 0, 0, 1, 0, 1])
    confidence, accuracy, counts = found.calibration()
    np.testing.assert_allclose(confidence, [0.5, 0.8], rtol=1e-6)
    np.testing.assert_allclose(accuracy, [0.5, 0.75])
    assert counts.tolist() == [2, 4]
    assert found.metrics()["calibration_error"] == pytest.approx((4 * 0.05 + 2 * 0.0) / 6, abs=1e-6)


def test_the_loss_of_logits_is_that_of_their_probabilities():
    probabilities = np.random.default_rng(0).dirichlet(np.ones(3), 20)
    labels = np.arange(20) % 3
    expected = evaluation(probabilities, labels).metrics()["loss"]
    assert _loss(np.log(probabilities) + 7.0, labels) == pytest.approx(expected, rel=1e-5)


def test_weights_are_averaged_and_states_of_random_numbers_are_not():
    one, other = [np.array([0.0, 4.0], np.float32), np.array([1], np.int64)], [np.array([2.0, 0.0]), np.array([5])]
    between = _between(one, other, 0.25)
    np.testing.assert_allclose(between[0], [0.5, 3.0])
    assert between[1].tolist() == [5]


@pytest.fixture
def trained():
    """A network that is far too sure of itself, two stages, and what a run of it came to."""
    net = build(depth=3)
    net.head[-1].set_weights([each * 60 for each in net.head[-1].get_weights()])
    dataset = Dataset("numbers", CLASSES, images(12), images(30, 1), images(30, 2))
    stages = [Stage(name, n, 3 * n, 3 * n, n, 1, schema.Stage(), "best") for n, name in enumerate(("head", "finetune"))]
    results = {
        each.name: StageResult([{"val_loss": 1.0 - each.number, "val_accuracy": 0.5}], 0, 1.0, []) for each in stages
    }
    cut = net.cut(3)

    def batches(cut, split, views=PLAIN, number=None):
        tensors = view_batches(split, net.modality, 8, views, number)
        return tensors.map(lambda inputs, labels, weights: (cut.frozen(inputs), labels, weights))

    tested = evaluate(cut.tail, batches(cut, dataset.test), dataset.test, CLASSES)
    return net, Results(stages, results, stages[1], tested), batches, dataset


def tried(trained, settings, weights=None):
    net, before, batches, dataset = trained
    weights = weights or {"head": [0 * each for each in net.model.get_weights()]}
    return [
        (each, net.model.get_weights())
        for _, each in finishes(schema.Finish(**settings), net, before, weights, batches, dataset, 0)
    ]


def test_a_temperature_calibrates_and_changes_no_answer(trained):
    net, before, batches, dataset = trained
    weights = net.model.get_weights()
    ((found, scaled),) = tried(trained, {"temperature": True})
    assert found.name == "temperature"
    np.testing.assert_array_equal(found.results.evaluation.predicted, before.evaluation.predicted)
    assert found.results.evaluation.metrics()["loss"] < before.evaluation.metrics()["loss"]
    assert found.results.validation["loss"] < 5
    net.model.set_weights(scaled)
    plain = evaluate(net.model, view_batches(dataset.test, net.modality, 8, PLAIN, None), dataset.test, CLASSES)
    np.testing.assert_allclose(plain.probabilities, found.results.evaluation.probabilities, atol=1e-5)
    assert not np.array_equal(weights[-2], scaled[-2])


def test_weights_between_stages_are_taken_only_if_validation_is_better(trained):
    net = trained[0]
    weights = net.model.get_weights()
    ((found, between),) = tried(trained, {"wise_ft": True})  # a network this sure is better with smaller weights
    assert found.name == "wise_ft"
    np.testing.assert_allclose(between[-2], 0.1 * weights[-2], rtol=1e-5)
    net.model.set_weights(weights)
    ((rejected, _),) = tried(trained, {"wise_ft": True}, {"head": weights})
    assert rejected is None
    for one, other in zip(weights, net.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_nothing_is_evaluated_unless_something_is_asked_for(trained):
    net, before, _, dataset = trained
    assert list(finishes(schema.Finish(), net, before, {}, lambda *_, **__: 1 / 0, dataset, 0)) == []


def test_the_test_images_are_looked_at_for_what_validation_accepts_alone(trained):
    net, before, batches, dataset = trained
    seen = []

    def watched(cut, split, **view):
        seen.append(split is dataset.test)
        return batches(cut, split, **view)

    head = {"head": net.model.get_weights()}
    ((_, rejected),) = finishes(schema.Finish(wise_ft=True), net, before, head, watched, dataset, 0)
    assert rejected is None
    assert seen
    assert not any(seen)


def test_views_are_averaged(trained):
    net, before, batches, dataset = trained
    ((found, _),) = tried(trained, {"views": 3})
    assert not found.has_model
    cut, views = net.cut(3), Views(TEST_VIEWS, 0, 3)
    each = [before.evaluation.probabilities] + [
        evaluate(cut.tail, batches(cut, dataset.test, views, n), dataset.test, CLASSES).probabilities for n in (1, 2)
    ]
    np.testing.assert_allclose(found.results.evaluation.probabilities, np.mean(each, axis=0), atol=1e-6)


def test_what_validation_accepts_is_a_run_of_its_own_beside_the_one_it_came_from(command, client, tmp_path):
    run = [*TINY, "unfreeze=3", "training.head.learning_rate=0.1", "training.head.epochs=4", "training.evaluate=last"]
    assert command("-m", *run, "seed=0")[0] == 0
    (alone,) = client().search_runs(["1"], "tags.`thaw.kind` = 'run'")
    elsewhere = f"store={tmp_path / 'b' / 'mlruns'}"
    status, out, err = command("-m", *run, "seed=0", "finish=all", elsewhere)
    assert status == 0, err
    there = type(client())(f"sqlite:///{tmp_path / 'b' / 'mlruns' / 'mlflow.db'}")
    (parent,) = sweeps_of(there)
    runs = {each.data.params["finish"]: each for each in runs_of(there, parent)}
    own = runs.pop("none")
    assert numbers(there, own) == numbers(client(), alone), "the run is the same with and without it"
    assert "temperature" in runs
    for name, each in runs.items():
        assert f"{name} · accepted by validation" in out
        assert each.data.metrics["kept_val_loss"] < own.data.metrics["kept_val_loss"]
        assert each.data.tags["thaw.head"] == own.data.tags["thaw.head"]
        assert each.info.run_name.endswith(f"finish={name}")
        assert numbers(there, each)["val_loss"] == numbers(there, own)["val_loss"]
        paths = [file.path for file in there.list_artifacts(each.info.run_id)]
        assert {"predictions.csv", "reliability.png", "config.yaml"} <= set(paths)
    for name in {"wise_ft", "temperature", "tta"} - set(runs):
        assert f"{name} · not accepted" in out
    assert {each.info.status for each in runs_of(there, parent)} == {"FINISHED"}
    status, out, err = command("-m", *run, "seed=0", "finish=all", elsewhere)
    assert status == 0, err
    assert len(runs_of(there, parent)) == len(runs) + 1
    for each in runs_of(there, parent):
        there.delete_run(each.info.run_id)
    status, out, err = command("-m", *run, "seed=0", "finish=all", elsewhere)
    assert status == 0, err
    assert len(runs_of(there, parent)) == len(runs) + 1, "what was deleted is recorded again"


def test_predictions_come_from_a_run_with_a_model(command, client, tmp_path):
    """Test-time augmentation may be the best and has none."""
    from thaw.serving.selection import choose
    from thaw.tracking.store import connect

    status, _, err = command(*TINY, "training.head.learning_rate=0.1", "finish=tta", "tracking.model=true")
    assert status == 0, err
    runs = {each.data.params["finish"]: each for each in client().search_runs(["1"])}
    assert set(runs) == {"none", "tta"}
    for name, accuracy in (("none", 0.1), ("tta", 0.9)):
        client().log_metric(runs[name].info.run_id, "kept_val_accuracy", accuracy)
    store = connect(None, tmp_path / "mlruns")
    assert choose(store, None, None).info.run_id == runs["none"].info.run_id
