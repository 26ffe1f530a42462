import h5py
import keras
import numpy as np
import pytest
from conftest import ROOT
from omegaconf import OmegaConf
from test_network import build

from thaw import checkpoints, config, data, durable, pipeline, stage
from thaw.config import Augmentation, Head
from thaw.errors import ThawError

FLIP = pipeline.Views(
    Augmentation(name="light", flip=True, rotation=0.0, zoom=0.0, translation=0.0, views=None), 0, None
)
DROPOUT = Head(pooling="avg", hidden=8, dropout=0.3)


def settings(**changes):
    values = {"epochs": 2, "learning_rate": 0.01, "optimizer": "adam", "patience": None, "fraction": 100.0}
    return config.Stage(**values).model_copy(update=changes)  # also beyond the ranges


def images(count=20, seed=0):
    generator = np.random.default_rng(seed)
    labels = np.arange(count, dtype=np.int32) % 3
    pixels = (
        generator.integers(0, 100, (count, 32, 32, 3), np.uint8) + (labels * 50).astype(np.uint8)[:, None, None, None]
    )
    return data.Split.of_pixels(tuple(f"{seed}/{i}" for i in range(count)), labels, pixels)


def folder(path):
    path.mkdir(parents=True, exist_ok=True)
    return path


def train(path, net=None, which=("head", 0, 0, 0), callbacks=(), evaluate="best", run="a", **changes):
    net = net or build(depth=3, head=DROPOUT)
    each = stage.Stage(*which, settings(**changes), evaluate)
    trained = stage.train(
        each,
        net,
        net.model,
        lambda epochs: pipeline.training_batches(images(), 32, 8, epochs, (0, each.number), FLIP),
        lambda: pipeline.evaluation_batches(images(10, 1), 32, 8),
        0,
        run,
        folder(path / each.name),
        callbacks,
    )
    return net, trained


def plan(unfreeze, **changes):
    training = OmegaConf.to_container(OmegaConf.load(ROOT / "conf/training/staged.yaml"), resolve=False)
    for name in ("head", "finetune"):
        training[name]["fraction"] = 100.0
    training["head"] |= changes
    return stage.plan(config.Training(**training), unfreeze)


def test_unfreeze_0_is_the_head_stage_alone():
    assert [(each.name, each.depth) for each in plan(0)] == [("head", 0)]


def test_epochs_run_on_from_the_head_to_fine_tuning():
    head, finetune = plan(20)
    assert (finetune.name, finetune.depth) == ("finetune", 20)
    assert [*head.epochs, *finetune.epochs] == list(range(10))
    assert (head.settings.learning_rate, finetune.settings.learning_rate) == (1e-3, 1e-4)


def test_a_stage_without_epochs_is_left_out():
    assert [each.name for each in plan("all", epochs=0)] == ["finetune"]


def test_a_stage_reports_every_epoch_and_leaves_only_what_it_came_to(tmp_path):
    seen = []
    told = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append((epoch, dict(logs))))
    net, trained = train(tmp_path, callbacks=[told])
    assert [epoch for epoch, _ in seen] == [0, 1]
    assert set(trained.history[0]) == {
        "loss", "accuracy", "val_loss", "val_accuracy", "learning_rate", "epoch_seconds", "waiting_seconds"
    }  # fmt: skip
    assert seen[0][1]["learning_rate"] == pytest.approx(0.01)
    assert sorted(path.name for path in (tmp_path / "head").iterdir()) == ["done.json", "kept.weights.h5"]
    with h5py.File(tmp_path / "head/kept.weights.h5") as kept:
        assert "layers" in kept
        assert "optimizer" not in kept


def test_losses_count_each_image_once(tmp_path):
    """Neither the filled-up last batch nor its weightless images move the mean."""
    net, trained = train(tmp_path, evaluate="last", epochs=1)
    split = images(10, 1)
    probabilities = net.model.predict(split.images.astype(np.float32), verbose=0)
    of_truth = probabilities[np.arange(10), split.labels]
    assert trained.history[0]["val_loss"] == pytest.approx(-np.log(of_truth).mean(), rel=1e-4)
    assert trained.history[0]["val_accuracy"] == pytest.approx((probabilities.argmax(1) == split.labels).mean())


def test_weightless_images_do_not_move_the_weights():
    net, again = build(), build()
    x = np.random.default_rng(0).uniform(0, 255, (8, 32, 32, 3)).astype(np.float32)
    y, weights = np.arange(8) % 3, np.repeat([1.0, 0.0], [5, 3])
    for each, filling in ((net, x[:3]), (again, x[::-1][:3])):
        each.unfreeze(0)
        each.model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(reduction="mean_with_sample_weight"))
        each.model.train_on_batch(np.concatenate([x[:5], filling]), y, sample_weight=weights)
    np.testing.assert_allclose(net.model.get_weights()[-2], again.model.get_weights()[-2], rtol=1e-6)


def numbers(trained):
    return [{name: value for name, value in epoch.items() if "seconds" not in name} for epoch in trained.history]


def assert_equal_weights(net, other):
    for one, another in zip(net.model.get_weights(), other.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, another)


def test_two_runs_of_one_seed_are_equal_to_the_bit(tmp_path):
    results = []
    for number in range(2):
        net, head = train(tmp_path / str(number))
        net, finetune = train(tmp_path / str(number), net, ("finetune", 1, 3, 2), learning_rate=1e-3)
        results.append((net, numbers(head) + numbers(finetune)))
    assert results[0][1] == results[1][1]
    assert_equal_weights(results[0][0], results[1][0])


class Die(keras.callbacks.Callback):
    """Ends training at one moment, as a kill does: nothing that comes after it in the process is done."""

    def __init__(self, moment, epoch):
        super().__init__()
        self.moment, self.epoch = moment, epoch

    def on_epoch_begin(self, epoch, logs=None):
        if (self.moment, self.epoch) == ("begin", epoch):
            raise KeyboardInterrupt

    def on_train_batch_end(self, batch, logs=None):
        if self.moment == "batch" and self.model.optimizer.iterations.numpy() == 3 * (self.epoch - 2) + 2:
            raise KeyboardInterrupt

    def on_epoch_end(self, epoch, logs=None):
        if (self.moment, self.epoch) == ("end", epoch):
            raise KeyboardInterrupt


@pytest.mark.parametrize(("moment", "optimizer"), [("begin", "adam"), ("batch", "sgd"), ("end", "adam")])
def test_a_stage_that_was_killed_goes_on_as_if_nothing_had_happened(tmp_path, moment, optimizer):
    plan = {"which": ("finetune", 1, 3, 2), "epochs": 4, "optimizer": optimizer, "learning_rate": 3e-3}
    whole, straight = train(tmp_path / "whole", **plan)
    seen = []
    told = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append((epoch, logs["val_loss"])))
    for epoch in (2, 4):
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "killed", callbacks=[Die(moment, epoch)], **plan)
    resumed, trained = train(tmp_path / "killed", callbacks=[told], **plan)
    assert trained.by == ["a"]
    assert numbers(trained) == numbers(straight)
    assert seen == [(epoch, metrics["val_loss"]) for epoch, metrics in zip(range(2, 6), straight.history)]
    assert trained.kept == straight.kept
    assert_equal_weights(resumed, whole)
    assert sorted(path.name for path in (tmp_path / "killed/finetune").iterdir()) == ["done.json", "kept.weights.h5"]


def test_the_best_epoch_before_a_kill_is_remembered(tmp_path):
    spoilt = {"epochs": 4, "callbacks": [Spoil()]}
    whole, straight = train(tmp_path / "whole", **spoilt)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "killed", epochs=4, callbacks=[Spoil(), Die("begin", 2)])
    resumed, trained = train(tmp_path / "killed", **spoilt)
    assert trained.kept == straight.kept == 0
    assert_equal_weights(resumed, whole)


def test_patience_survives_a_kill(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, epochs=6, patience=2, callbacks=[Spoil(), Die("begin", 2)])
    _, trained = train(tmp_path, epochs=6, patience=2, callbacks=[Spoil()])
    assert len(trained.history) == 3


def test_a_finished_stage_is_handed_over_without_training(tmp_path):
    net, first = train(tmp_path)
    other = build(depth=3, head=DROPOUT)
    _, again = train(tmp_path, other, callbacks=[Die("begin", 99)], run="b")
    assert (first.by, again.by) == (["a"], ["a"])
    assert again.history == first.history
    assert_equal_weights(net, other)


def test_a_state_that_was_half_written_is_not_seen(tmp_path, monkeypatch):
    plan = {"epochs": 3}
    whole, straight = train(tmp_path / "whole", **plan)

    def torn(path):
        if path.name == "new-state.npz" and straight is not None:
            path.write_bytes(path.read_bytes()[:1000])
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(durable, "flush", torn)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "killed", **plan)
    resumed, trained = train(tmp_path / "killed", **plan)
    assert numbers(trained) == numbers(straight)
    assert_equal_weights(resumed, whole)


def test_all_who_trained_a_stage_are_named(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, epochs=3, callbacks=[Die("begin", 1)])
    assert train(tmp_path, epochs=3, run="b")[1].by == ["a", "b"]


class Spoil(keras.callbacks.Callback):
    """Makes every epoch after the first useless, so that the first is the best."""

    def on_epoch_begin(self, epoch, logs=None):
        if epoch > 0:
            self.model.layers[-1].bias.assign([1000.0 * epoch, 0.0, 0.0])


@pytest.mark.parametrize(("evaluate", "kept"), [("best", 0), ("last", 2)])
def test_the_kept_weights_are_those_of_the_epoch_asked_for(tmp_path, evaluate, kept):
    net, weights = build(depth=3, head=DROPOUT), {}
    watch = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: weights.update({epoch: net.model.get_weights()})
    )
    _, trained = train(tmp_path, net, callbacks=[Spoil(), watch], evaluate=evaluate, epochs=3)
    assert trained.kept == kept
    for one, other in zip(net.model.get_weights(), weights[kept], strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_stage_stops_early_when_asked_to(tmp_path):
    _, trained = train(tmp_path, callbacks=[Spoil()], epochs=6, patience=2)
    assert len(trained.history) == 3
    assert trained.kept == 0


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "rmsprop", "sgd"])
def test_every_optimizer_trains(tmp_path, optimizer):
    net, _ = train(tmp_path, optimizer=optimizer, epochs=1)
    assert net.model.optimizer.iterations.numpy() == 3


def test_class_weights_weigh_the_loss_alone():
    labels, probabilities = (
        np.array([0, 1, 1, 0]),
        np.array([[0.8, 0.2], [0.3, 0.7], [0.6, 0.4], [0.5, 0.5]], np.float32),
    )
    each = -np.log([0.8, 0.7, 0.4, 0.5])
    counted = np.array([1, 1, 1, 0], np.float32)  # the last fills the batch up
    loss = stage._Balanced((3.0, 0.5))(labels, probabilities, sample_weight=counted)
    assert float(loss) == pytest.approx((3 * each[0] + 0.5 * each[1] + 0.5 * each[2]) / 3)


@pytest.mark.parametrize(("ended", "words"), [(True, "head reused"), (False, "head resumed after 3")])
def test_what_was_trained_before_is_said(tmp_path, ended, words):
    from thaw.progress import Reporter
    from thaw.runs.progress import EpochProgress

    plan = {"epochs": 9, "patience": 1, "learning_rate": 1e-12}
    if ended:  # early, after two epochs without any gain
        train(tmp_path, **plan)
    else:
        die = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: epoch == 2 and 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train(tmp_path, callbacks=[die], **{**plan, "patience": None})
    seen = EpochProgress(Reporter(), [stage.Stage("head", 0, 0, 0, settings(**plan), "best")])
    train(tmp_path, callbacks=[seen], **{**plan, "patience": 1 if ended else None})
    assert seen.reused == [words]


def test_a_stage_whose_loss_is_no_number_is_not_chosen_and_that_is_said():
    from thaw import recording

    trained = {
        name: checkpoints.Trained([{"val_loss": loss}], 0, 1.0, [])
        for name, loss in (("head", 1.0), ("finetune", np.nan))
    }
    assert stage.selected(trained, "best") == "head"
    said = recording._note(trained, plan(20)[0])
    assert said == "Fine-tuning did not lower the validation loss; the head's weights were kept"


def test_a_loss_that_is_not_finite_ends_the_stage(tmp_path):
    with pytest.raises(
        ThawError, match=r"head diverged in epoch \d: its loss is .*; give a lower training.head.learning"
    ):
        train(tmp_path, optimizer="sgd", learning_rate=1e36, epochs=4)
