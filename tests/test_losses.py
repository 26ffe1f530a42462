"""Losses, penalties and balanced sampling against computations by hand."""

from dataclasses import replace

import numpy as np
import pytest
from networks import build, created, images, stage_settings
from pydantic import ValidationError

from thaw.config import schema
from thaw.modalities.images.modality import Images
from thaw.training.batches import PLAIN, epoch_orders, evaluation_batches, training_batches
from thaw.training.fit import Batches, fit_stage
from thaw.training.losses import Classification, build_metrics
from thaw.training.stages import Stage

LABELS = np.array([0, 1, 1])
SHARES = np.array([[1, 0], [0.3, 0.7], [0, 1]], np.float32)
PROBABILITIES = np.array([[0.8, 0.2], [0.3, 0.7], [0.6, 0.4]], np.float32)
EVERY = np.ones(3, np.float32)


def loss_of(labels, class_weights=None, **settings):
    return float(Classification(schema.Loss(**settings), class_weights)(labels, PROBABILITIES, sample_weight=EVERY))


def test_class_weights_weigh_the_loss_alone():
    labels, probabilities = (
        np.array([0, 1, 1, 0]),
        np.array([[0.8, 0.2], [0.3, 0.7], [0.6, 0.4], [0.5, 0.5]], np.float32),
    )
    each = -np.log([0.8, 0.7, 0.4, 0.5])
    counted = np.array([1, 1, 1, 0], np.float32)  # the last fills the batch up
    loss = Classification(schema.Loss(), (3.0, 0.5))(labels, probabilities, sample_weight=counted)
    assert float(loss) == pytest.approx((3 * each[0] + 0.5 * each[1] + 0.5 * each[2]) / 3)


def test_label_smoothing_divides_a_share_among_all_classes():
    """Szegedy et al. 2016: q = (1 - e) q + e / K."""
    smoothed = 0.8 * np.eye(2)[LABELS] + 0.2 / 2
    expected = -(smoothed * np.log(PROBABILITIES)).sum(1).mean()
    assert loss_of(LABELS, label_smoothing=0.2) == pytest.approx(expected, rel=1e-5)
    assert loss_of(LABELS, (1.0, 1.0), label_smoothing=0.2) == pytest.approx(expected, rel=1e-5)


def test_the_focal_loss_counts_what_is_predicted_well_less():
    """Lin et al. 2017: (1 - p)^gamma times the cross-entropy."""
    truth = PROBABILITIES[np.arange(3), LABELS]
    assert loss_of(LABELS, name="focal", gamma=2.0) == pytest.approx(
        -((1 - truth) ** 2 * np.log(truth)).mean(), rel=1e-5
    )
    assert loss_of(LABELS, name="focal", gamma=0.0) == pytest.approx(loss_of(LABELS), rel=1e-5)


def test_shares_of_classes_are_labels_as_well():
    each = -(SHARES * np.log(PROBABILITIES)).sum(1)
    assert loss_of(SHARES) == pytest.approx(each.mean(), rel=1e-5)
    weighted = each * (SHARES @ np.array([3.0, 0.5]))
    assert loss_of(SHARES, (3.0, 0.5)) == pytest.approx(weighted.mean(), rel=1e-5)
    assert loss_of(np.eye(2, dtype=np.float32)[LABELS], (3.0, 0.5)) == pytest.approx(loss_of(LABELS, (3.0, 0.5)))


@pytest.mark.parametrize("labels", [LABELS, np.eye(2, dtype=np.float32)[LABELS]])
def test_what_is_shown_is_cross_entropy_and_accuracy_whatever_the_loss(labels):
    found = {}
    for metric in build_metrics():
        metric.update_state(labels, PROBABILITIES, sample_weight=np.array([1, 1, 0], np.float32))
        found[metric.name] = float(metric.result())
    assert found == pytest.approx({"loss": -np.log([0.8, 0.7]).mean(), "accuracy": 1.0})


def fitted(tmp_path, initial=None, **settings):
    """A network and its kernels after one step of SGD on nothing but the penalty: no gradient passes the head."""
    net = build(depth=3)
    net.head[-1].set_weights([0 * each for each in net.head[-1].get_weights()])
    split = images(8)
    stage = Stage(
        "finetune", 1, "all", "all", 0, 1, stage_settings(epochs=1, learning_rate=0.5), "last",
        regularisation=schema.Regularisation(**settings), optimizer=schema.Optimizer(name="sgd"),
    )  # fmt: skip
    batches = Batches(
        lambda epochs: training_batches(split, Images(32), 8, epochs, (0, 1), PLAIN),
        lambda: evaluation_batches(split, Images(32), 8),
        8,
        8,
    )
    before = net.kernels("all")
    net = replace(net, initial=initial or {})
    fit_stage(stage, net, net.cut("all"), batches, 0, created(tmp_path / stage.name), [], "a")
    return before, net.kernels("all")


@pytest.mark.parametrize("towards", [0.0, 0.25])
def test_the_backbone_is_drawn_to_zero_or_to_its_initial_weights(tmp_path, towards):
    """L2-SP, Li et al. 2018: the gradient of half the squared distance is the distance."""
    initial = {path: value + towards for path, value in build(depth=3).kernels("all").items()} if towards else {}
    before, after = fitted(tmp_path, initial, backbone=0.2)
    assert before
    for path, old in before.items():
        target = initial.get(path, np.zeros_like(old))
        np.testing.assert_allclose(after[path], old - 0.5 * 0.2 * (old - target), rtol=1e-4, atol=1e-6)


def test_every_class_comes_as_often_as_any_other():
    labels = np.repeat(np.array([0, 1, 2], np.int32), [80, 15, 6])
    orders = dict(epoch_orders(labels, range(3), (0, 0), balanced=True))
    for order in orders.values():
        assert len(order) == len(labels)
        assert np.bincount(labels[order]).max() - np.bincount(labels[order]).min() <= 1
        for label, count in enumerate((80, 15, 6)):
            times = np.bincount(order, minlength=len(labels))[labels == label]
            assert times.max() - times.min() <= 1, "none comes again before all of its class have come"
            assert len(times) == count
    assert len({order.tobytes() for order in orders.values()}) == 3
    ((_, again),) = epoch_orders(labels, range(2, 3), (0, 0), balanced=True)
    np.testing.assert_array_equal(again, orders[2])


def test_classes_are_balanced_once():
    with pytest.raises(ValidationError, match=r"training.class_weights=balanced and training.sampling=balanced"):
        schema.Training.model_validate({"class_weights": "balanced", "sampling": "balanced"})


def test_losses_and_penalties_are_recorded_and_make_other_runs(command, client):
    from conftest import TINY

    status, _, err = command("-m", *TINY, "loss=crossentropy,focal", "regularisation=none,dropout", "unfreeze=3")
    assert status == 0, err
    runs = client().search_runs(["1"], "tags.`thaw.kind` = 'run'")
    chosen = {(run.data.params["loss"], run.data.params["regularisation"]) for run in runs}
    assert chosen == {(loss, kind) for loss in ("crossentropy", "focal") for kind in ("none", "dropout")}
    assert len({run.data.tags["thaw.finetune"] for run in runs}) == 4
    assert {run.data.params["with.head.dropout"] for run in runs} == {"0.0", "0.5"}
