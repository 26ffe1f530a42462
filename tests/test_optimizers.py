"""Optimizers: Thaw's Adam is Keras' Adam."""

import keras
import numpy as np
import pytest

from thaw.training.optimizers import Adam, build_optimizer


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


def test_every_name_gives_the_optimizer_with_its_learning_rate():
    for name in ("adam", "sgd", "rmsprop"):
        optimizer = build_optimizer(name, 0.25)
        assert type(optimizer).__name__.lower() == name
        assert float(optimizer.learning_rate) == 0.25
