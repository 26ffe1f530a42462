import h5py
import keras
import numpy as np
import pytest
from networks import DROPOUT, FLIP, build, created, images, planned, policy, stage_settings

from thaw import files
from thaw.config import schema
from thaw.errors import ThawError
from thaw.modalities.images.modality import Images
from thaw.training.batches import Views, evaluation_batches, training_batches
from thaw.training.checkpoints import StageResult
from thaw.training.fit import Batches, fit_stage
from thaw.training.stages import Stage, selected_stage


def train(
    path,
    net=None,
    which=("head", 0, 0, 0),
    callbacks=(),
    evaluate="best",
    run="a",
    options=None,
    views=FLIP,
    **changes,
):
    net = net or build(depth=3, head=DROPOUT)
    stage = Stage(
        *which[:3], which[2], which[3], changes.get("epochs", 2), stage_settings(**changes), evaluate, **options or {}
    )
    batches = Batches(
        lambda epochs: training_batches(images(), Images(32), 8, epochs, (0, stage.number), views),
        lambda: evaluation_batches(images(10, 1), Images(32), 8),
        len(images()),
        8,
    )
    whole = net.cut("all")  # the whole network trains on images, not on cached features
    result = fit_stage(stage, net, whole, batches, 0, created(path / stage.name), callbacks, run)
    return net, result


@pytest.fixture(scope="module")
def backbone():
    return build("MobileNet").backbone


@pytest.fixture
def plan(backbone):
    def stages(unfreeze, training=None, **changes):
        training = training or schema.Training(head=schema.Stage(unfreeze=0, **changes))
        return planned(schema.Config(training=training, unfreeze=unfreeze), backbone)

    return stages


def test_unfreeze_0_is_the_head_stage_alone(plan):
    assert [(each.name, each.depth) for each in plan(0)] == [("head", 0)]


def test_epochs_run_on_from_the_head_to_fine_tuning(plan):
    head, finetune = plan(20)
    assert (finetune.name, finetune.depth) == ("finetune", 20)
    assert [*head.epochs, *finetune.epochs] == list(range(10))
    assert (head.settings.learning_rate, finetune.settings.learning_rate) == (1e-3, 1e-4)


def test_steps_take_the_place_of_epochs_unless_these_leave_the_stage_out(plan):
    """Of 100 images in batches of 32: four steps an epoch."""
    assert [(each.name, each.count) for each in plan(20, steps=9)] == [("head", 3), ("finetune", 5)]
    assert [each.name for each in plan(20, steps=9, epochs=0)] == ["finetune"]


def test_the_network_is_cut_before_everything_that_has_trained(plan):
    backwards = schema.Training(stages=["finetune", "head"], head=schema.Stage(unfreeze=0))
    assert [(each.name, each.depth, each.reached) for each in plan(20, backwards)] == [
        ("finetune", 20, 20),
        ("head", 0, 20),
    ]
    assert [each.reached for each in plan(20)] == [0, 20]


def test_a_stage_without_epochs_is_left_out(plan):
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


@pytest.mark.parametrize(
    ("moment", "optimizer", "schedule", "augmentation"),
    [
        pytest.param("begin", {"name": "adam"}, "constant", "light", marks=pytest.mark.slow),
        ("batch", {"name": "sgd", "momentum": 0.9}, "one_cycle", "mixup"),
        (
            "end",
            {"name": "adamw", "weight_decay": 0.1, "ema": 0.9, "accumulate": 2, "layer_decay": 0.5},
            "cosine",
            "strong",
        ),
        pytest.param(
            "batch", {"name": "lion", "ema": 0.5, "clip_norm": 1.0}, "linear", "cutmix", marks=pytest.mark.slow
        ),
    ],
)
def test_a_stage_that_was_killed_goes_on_as_if_nothing_had_happened(
    tmp_path, moment, optimizer, schedule, augmentation
):
    plan = {"views": Views(policy(augmentation), 0, None, 3)}
    plan |= {"which": ("finetune", 1, 3, 2), "epochs": 4, "learning_rate": 3e-3}
    plan["options"] = {
        "optimizer": schema.Optimizer(**optimizer),
        "schedule": schema.Schedule(name=schedule, warmup="25%"),
    }
    whole, straight = train(tmp_path / "whole", **plan)
    seen = []
    told = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append((epoch, logs["val_loss"])))
    for epoch in (2, 4):
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "killed", callbacks=[Die(moment, epoch)], **plan)
    resumed, trained = train(tmp_path / "killed", callbacks=[told], **plan)
    assert trained.trained_by == ["a"]
    assert numbers(trained) == numbers(straight)
    assert seen == [(epoch, metrics["val_loss"]) for epoch, metrics in zip(range(2, 6), straight.history)]
    assert trained.selected_epoch == straight.selected_epoch
    assert_equal_weights(resumed, whole)
    assert sorted(path.name for path in (tmp_path / "killed/finetune").iterdir()) == ["done.json", "kept.weights.h5"]


def test_the_best_epoch_before_a_kill_is_remembered(tmp_path):
    spoilt = {"epochs": 4, "callbacks": [Spoil()]}
    whole, straight = train(tmp_path / "whole", **spoilt)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "killed", epochs=4, callbacks=[Spoil(), Die("begin", 2)])
    resumed, trained = train(tmp_path / "killed", **spoilt)
    assert trained.selected_epoch == straight.selected_epoch == 0
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
    assert (first.trained_by, again.trained_by) == (["a"], ["a"])
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
        patch.setattr(files, "flush", torn)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "killed", **plan)
    resumed, trained = train(tmp_path / "killed", **plan)
    assert numbers(trained) == numbers(straight)
    assert_equal_weights(resumed, whole)


def test_all_who_trained_a_stage_are_named(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, epochs=3, callbacks=[Die("begin", 1)])
    assert train(tmp_path, epochs=3, run="b")[1].trained_by == ["a", "b"]


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
    assert trained.selected_epoch == kept
    for one, other in zip(net.model.get_weights(), weights[kept], strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_stage_stops_early_when_asked_to(tmp_path):
    _, trained = train(tmp_path, callbacks=[Spoil()], epochs=6, patience=2)
    assert len(trained.history) == 3
    assert trained.selected_epoch == 0


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "rmsprop", "sgd", "lion"])
def test_every_optimizer_trains(tmp_path, optimizer):
    net, _ = train(tmp_path, options={"optimizer": schema.Optimizer(name=optimizer)}, epochs=1)
    assert net.cut("all").tail.optimizer.iterations.numpy() == 3
    assert not net.model.compiled, "the recorded model has no optimizer"


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
    seen = EpochProgress(Reporter(), [Stage("head", 0, 0, 0, 0, 9, stage_settings(**plan), "best")])
    train(tmp_path, callbacks=[seen], **{**plan, "patience": 1 if ended else None})
    assert seen.reused == [words]


def test_a_stage_whose_loss_is_no_number_is_not_chosen_and_that_is_said(plan):
    from thaw.runs.results import Results

    results = {
        name: StageResult([{"val_loss": loss}], 0, 1.0, []) for name, loss in (("head", 1.0), ("finetune", np.nan))
    }
    assert selected_stage(results, "best") == "head"
    stages = plan(20)
    remark = Results(stages, results, stages[0], evaluation=None).remark
    assert remark == "Fine-tuning did not lower the validation loss; the head's weights were kept"


GRADUAL = schema.Training(
    stages=["head", "block1", "block2", "block3"],
    head=schema.Stage(unfreeze=0),
    **{f"block{n}": schema.Stage(unfreeze=f"{n}block{'s' * (n > 1)}") for n in (1, 2, 3)},
)


@pytest.mark.parametrize(
    ("unfreeze", "depths"),
    [
        (0, [("head", 0)]),
        ("1block", [("head", 0), ("block1", 6)]),
        ("3blocks", [("head", 0), ("block1", 6), ("block2", 12), ("block3", 19)]),
        (12, [("head", 0), ("block1", 6), ("block2", 12)]),
        (14, [("head", 0), ("block1", 6), ("block2", 12), ("block3", 14)]),
        ("all", [("head", 0), ("block1", 6), ("block2", 12), ("block3", 19)]),
    ],
)
def test_gradual_unfreezing_goes_as_deep_as_the_run_and_skips_what_adds_nothing(plan, unfreeze, depths):
    stages = plan(unfreeze, GRADUAL)
    assert [(each.name, each.depth) for each in stages] == depths
    assert [each.first_epoch for each in stages] == list(range(0, 5 * len(stages), 5))


def test_a_stage_may_repeat_the_depth_of_the_one_before(plan):
    training = schema.Training(stages=["head", "again"], head=schema.Stage(unfreeze=0), again=schema.Stage(unfreeze=0))
    assert [(each.name, each.number) for each in plan("all", training)] == [("head", 0), ("again", 1)]


def test_a_stage_deeper_than_the_backbone_is_refused_by_its_key(plan):
    training = schema.Training(stages=["head"], head=schema.Stage(unfreeze="99blocks"))
    with pytest.raises(ThawError, match=r"training.head.unfreeze=99blocks is beyond MobileNet, which has 14"):
        plan("all", training)


def test_a_loss_that_is_not_finite_ends_the_stage(tmp_path):
    with pytest.raises(
        ThawError, match=r"head diverged in epoch \d: its loss is .*; give a lower training.head.learning"
    ):
        train(tmp_path, options={"optimizer": schema.Optimizer(name="sgd")}, learning_rate=1e36, epochs=4)
