"""Optimizers: Thaw's Adam is Keras' Adam, and what is added to a class of Keras against computations by hand."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from commands import runs_of, sweeps_of
from conftest import TINY
from networks import build

from thaw.config.schema import Optimizer
from thaw.errors import ThawError
from thaw.models.units import Block
from thaw.training.optimizers import (
    CLASSES,
    Accumulate,
    Adam,
    ValidateAverages,
    build_optimizer,
    check_devices,
    rate_factors,
    use_averages,
)

NUMBERS = np.random.default_rng(0)
INPUTS, LABELS = NUMBERS.normal(size=(20, 5)).astype("float32"), NUMBERS.integers(0, 3, 20)


def trained(optimizer):
    """A layer after a few steps, and the optimizer's variables."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(4), keras.layers.Dense(3, "softmax")])
    model.compile(optimizer, "sparse_categorical_crossentropy")
    numbers = np.random.default_rng(0)
    model.fit(numbers.normal(size=(40, 5)), numbers.integers(0, 3, 40), 8, epochs=3, shuffle=False, verbose=0)
    return [*model.get_weights(), *(variable.numpy() for variable in optimizer.variables)]


def test_adam_makes_the_steps_of_kerass():
    for mine, kept in zip(trained(Adam(0.01)), trained(keras.optimizers.Adam(0.01)), strict=True):
        np.testing.assert_allclose(mine, kept, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_adam_steps_in_mixed_precision(policy):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        values = trained(Adam(0.01))
    finally:
        keras.config.set_dtype_policy(before)
    assert all(np.isfinite(value).all() for value in values)
    assert not np.array_equal(values[0], trained(Adam(0.0))[0])


@pytest.mark.parametrize("name", CLASSES)
def test_every_name_gives_the_steps_of_keras(name):
    keras_ = keras.optimizers.get(
        {"class_name": "adam" if name == "adamw" else name, "config": {"learning_rate": 0.25}}
    )
    ours = build_optimizer(Optimizer(name=name), 0.25)
    assert float(ours.learning_rate) == 0.25
    for mine, kept in zip(trained(ours), trained(keras_), strict=True):
        np.testing.assert_allclose(mine, kept, rtol=1e-3, atol=1e-5)


def two_blocks():
    """A backbone of two blocks with a head: one kernel and one bias each."""
    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [
            keras.Input((5,)),
            keras.layers.Dense(4, "tanh", name="first"),
            keras.layers.Dense(4, "tanh", name="second"),
            keras.layers.Dense(3, "softmax", name="top"),
        ]
    )


def gradients(model, rows):
    with tf.GradientTape() as tape:
        loss = keras.losses.SparseCategoricalCrossentropy()(LABELS[rows], model(INPUTS[rows]))
    return [each.numpy() for each in tape.gradient(loss, [each.value for each in model.trainable_variables])]


def fitted(model, settings, epochs=1, batch_size=8, callbacks=(), factors=None, **options):
    """The model after a fit whose last batch is padded with rows of weight 0, as Thaw's are."""
    model.compile(
        build_optimizer(settings, 0.5, factors),
        keras.losses.SparseCategoricalCrossentropy(reduction="mean_with_sample_weight"),
    )
    model.optimizer.build(model.trainable_variables)
    padding = -len(INPUTS) % batch_size
    rows = np.resize(np.arange(len(INPUTS)), len(INPUTS) + padding)
    weights = np.repeat([1.0, 0.0], [len(INPUTS), padding])
    if settings.accumulate > 1:
        callbacks = [Accumulate(settings, len(INPUTS), batch_size), *callbacks]
    model.fit(
        INPUTS[rows], LABELS[rows], batch_size, epochs, sample_weight=weights, shuffle=False, verbose=0,
        callbacks=list(callbacks), **options,
    )  # fmt: skip
    return model.get_weights()


def test_the_rate_falls_with_each_block_towards_the_input():
    """One step of SGD by hand: the block below the head at 0.5 of the rate, the one below at 0.25, the head at 3."""
    factors, head = rate_factors(Optimizer(layer_decay=0.5, head_rate=3), [Block("a", 0, 1), Block("b", 1, 1)])
    assert (factors, head) == ([0.25, 0.5], 3)
    model = two_blocks()
    by_path = dict(zip([each.path for each in model.trainable_variables], np.repeat([*factors, head], 2), strict=True))
    before, change = model.get_weights(), gradients(model, np.arange(20))
    after = fitted(model, Optimizer(name="sgd"), batch_size=20, factors=by_path)
    for old, gradient, new, factor in zip(before, change, after, by_path.values(), strict=True):
        np.testing.assert_allclose(new, old - 0.5 * factor * gradient, rtol=1e-5, atol=1e-6)


def test_a_network_knows_the_block_of_each_variable():
    network = build(depth=3)
    blocks = network.backbone.blocks
    found = network.by_path([float(place) for place in range(len(blocks))], 99.0)
    assert found[network.head[-1].kernel.path] == 99
    for place, block in enumerate(blocks):
        for layer in network.backbone.units[block.first : block.first + block.size]:
            assert {found[each.path] for each in layer.trainable_variables} <= {place}
    assert network.plan("all") <= set(found)


def test_a_step_over_several_batches_is_that_of_all_their_examples():
    """20 examples by 8, two batches a step: one step of 16 and one of 4, whose batch is padded; twice over."""
    model, settings = two_blocks(), Optimizer(name="sgd", accumulate=2)
    expected = two_blocks()
    for _ in range(2):
        for rows in (np.arange(16), np.arange(16, 20)):
            change = gradients(expected, rows)
            expected.set_weights([old - 0.5 * each for old, each in zip(expected.get_weights(), change, strict=True)])
    found = fitted(model, settings, epochs=2)
    assert int(model.optimizer.iterations) == 4
    for ours, theirs in zip(found, expected.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("lost", [0, 1, 2])
def test_a_batch_that_overflows_is_left_out_of_its_step(lost):
    """Mixed precision skips it: the step has the mean of the others, or that of the next step's batches as well."""
    variable = keras.Variable([0.0])
    optimizer = build_optimizer(Optimizer(name="sgd", accumulate=2), 1.0)
    optimizer.build([variable])
    scaled = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=1.0)
    scaled.build([variable])
    tell = Accumulate(Optimizer(accumulate=2), 48, 8)
    tell.set_model(type("Model", (), {"optimizer": scaled}))
    batches = [1.0, 3.0, 5.0, 7.0, 9.0, 11.0]
    batches[lost] = np.inf
    for number, gradient in enumerate(batches):
        tell.on_train_batch_begin(number)
        scaled.apply([scaled.scale_loss(tf.constant([gradient]))], [variable])
    expected = {0: 3 + 6 + 10, 1: (1 + 5 + 7) / 3 + 10, 2: 2 + 7 + 10}[lost]
    assert float(variable[0]) == pytest.approx(-expected, rel=1e-6)


@pytest.mark.parametrize("name", ["adamw", "sgd", "lion"])
def test_kernels_decay_and_biases_do_not(name):
    model = two_blocks()
    model.set_weights([each + 1 for each in model.get_weights()])
    before = model.get_weights()
    optimizer = build_optimizer(Optimizer(name=name, weight_decay=0.1), 0.5)
    optimizer.apply([np.zeros(each.shape, "float32") for each in before], model.trainable_variables)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_allclose(new, old * (1 - 0.5 * 0.1) if old.ndim > 1 else old, rtol=1e-6)


def test_gradients_are_clipped_together():
    model = two_blocks()
    before, change = model.get_weights(), gradients(model, np.arange(20))
    norm = np.sqrt(sum((each**2).sum() for each in change))
    after = fitted(model, Optimizer(name="sgd", clip_norm=float(norm / 4)), batch_size=20)
    for old, gradient, new in zip(before, change, after, strict=True):
        np.testing.assert_allclose(new, old - 0.5 * gradient / 4, rtol=1e-4, atol=1e-6)


class Weights(keras.callbacks.Callback):
    """Keeps the weights after each batch, in validation, and at the end of an epoch."""

    def __init__(self):
        super().__init__()
        self.after, self.validated, self.ended = [], [], []

    def on_train_batch_end(self, batch, logs=None):
        self.after.append(self.model.get_weights())

    def on_test_begin(self, logs=None):
        self.validated.append(self.model.get_weights())

    def on_epoch_end(self, epoch, logs=None):
        self.ended.append(self.model.get_weights())


def test_averages_move_once_a_step_and_are_validated_and_the_weights_come_back_to_the_bit():
    model, seen = two_blocks(), Weights()
    plain = Weights()
    fitted(two_blocks(), Optimizer(name="sgd"), 3, callbacks=[plain], validation_data=(INPUTS, LABELS))
    fitted(
        model, Optimizer(name="sgd", ema=0.2), 3, callbacks=[ValidateAverages(), seen], validation_data=(INPUTS, LABELS)
    )
    for ours, theirs in zip(seen.after + seen.ended, plain.after + plain.ended, strict=True):
        for one, other in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(one, other)
    average = seen.after[0]
    for step, weights in enumerate(seen.after):
        momentum = min(0.2, step / (step + 9))
        average = [momentum * old + (1 - momentum) * new for old, new in zip(average, weights, strict=True)]
        if step % 3 == 2:
            for one, other in zip(average, seen.validated[step // 3], strict=True):
                np.testing.assert_allclose(one, other, rtol=1e-5)
    use_averages(model)
    for one, other in zip(average, model.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)


@pytest.mark.parametrize("change", [{"ema": 0.9}, {"accumulate": 2}, {"clip_norm": 1.0}])
def test_what_needs_one_device_is_refused_on_several(change):
    ((key, value),) = change.items()
    with pytest.raises(ThawError, match=rf"optimizer.{key}={value:g} needs a single .* uses 2; give training.strategy"):
        check_devices(Optimizer(**change), 2)
    check_devices(Optimizer(**change), 1)
    check_devices(Optimizer(), 2)


def test_a_sweep_over_optimizers_is_recorded_with_the_rate_of_each_block(command, client):
    changes = ["optimizer.layer_decay=0.5", "optimizer.clip_norm=1.0", "unfreeze=2blocks", "seed=3"]
    status, _, err = command("-m", *TINY, "optimizer=adam,lion", *changes)
    assert status == 0, err
    (parent,) = sweeps_of(client())
    runs = {run.data.params["optimizer"]: run for run in runs_of(client(), parent)}
    assert set(runs) == {"adam", "lion"}
    note = runs["lion"].data.tags["mlflow.note.content"]
    assert "| finetune | learning rate |\n| --- | --: |\n| head | 0.0001 |\n" in note
    assert "| 5e-05 |\n" in note
    assert note.endswith("| 2.5e-05 |")
