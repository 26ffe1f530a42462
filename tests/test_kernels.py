"""The same network, computed faster: folded batch normalization, and gradients of pointwise convolutions."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from thaw.models.kernels import Convolution, fast

CONVOLUTIONS = {
    "pointwise": lambda: layers.Conv2D(6, 1, use_bias=False),
    "pointwise, bias": lambda: layers.Conv2D(6, 1),
    "pointwise, strided": lambda: layers.Conv2D(6, 1, strides=2),
    "3 x 3": lambda: layers.Conv2D(6, 3, padding="same"),
    "strided": lambda: layers.Conv2D(6, 3, strides=2, use_bias=False),
    "dilated": lambda: layers.Conv2D(6, 3, dilation_rate=2, padding="same"),
    "depthwise": lambda: layers.DepthwiseConv2D(3, padding="same", use_bias=False),
    "depthwise, strided, two filters": lambda: layers.DepthwiseConv2D(3, 2, depth_multiplier=2),
    "separable": lambda: layers.SeparableConv2D(6, 3, padding="same", use_bias=False),
    "separable, strided": lambda: layers.SeparableConv2D(6, 3, strides=2),
}
NORMALIZATIONS = {
    "normalized": lambda: layers.BatchNormalization(epsilon=0.01),
    "normalized, no scale": lambda: layers.BatchNormalization(scale=False),
    "normalized, no center": lambda: layers.BatchNormalization(center=False),
    "bare": None,
}


def built(convolution, normalization) -> keras.Model:
    """Convolution, normalization and activation, with weights and statistics at random."""
    pixels = keras.Input((9, 9, 4))
    x = convolution()(pixels)
    if normalization:
        norm = normalization()
        x = norm(x)
        norm.trainable = False
    model = keras.Model(pixels, layers.ReLU()(x))
    numbers = np.random.default_rng(0)
    model.set_weights([numbers.uniform(0.2, 1, weight.shape) for weight in model.get_weights()])
    return model


@pytest.fixture
def pixels():
    return tf.constant(np.random.default_rng(1).normal(size=(8, 9, 9, 4)), tf.float32)


@pytest.mark.parametrize("normalization", NORMALIZATIONS.values(), ids=NORMALIZATIONS)
@pytest.mark.parametrize("convolution", CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_outputs_and_gradients_are_those_of_keras_layers(convolution, normalization, pixels):
    model = built(convolution, normalization)
    found = []
    for each in (model, fast(model, fold=True)):
        with tf.GradientTape() as tape:
            tape.watch(pixels)
            outputs = each(pixels, training=True)
            score = tf.reduce_sum(tf.square(outputs))
        found.append([outputs, *tape.gradient(score, [pixels, *each.trainable_variables])])
    assert [variable.path for variable in fast(model, fold=True).variables] == [
        variable.path for variable in model.variables
    ]
    for kept, mine in zip(*found, strict=True):
        np.testing.assert_allclose(mine, kept, rtol=1e-4, atol=1e-4)


def test_folded_normalization_costs_no_operation_of_its_own(pixels):
    folded = fast(built(CONVOLUTIONS["pointwise"], NORMALIZATIONS["normalized"]), fold=True)
    assert [type(layer) for layer in folded.layers[1:]] == [Convolution, layers.ReLU]


def test_normalization_that_trains_is_not_folded(pixels):
    model = built(CONVOLUTIONS["3 x 3"], NORMALIZATIONS["normalized"])
    copied = fast(model, fold=False)
    assert copied.layers[1:] == model.layers[1:]
    copied.layers[2].trainable = True
    before = copied.layers[2].moving_mean.numpy()
    copied(pixels, training=True)
    assert not np.array_equal(copied.layers[2].moving_mean.numpy(), before)


def test_a_convolution_whose_output_is_used_twice_or_returned_keeps_its_normalization(pixels):
    inputs = keras.Input((9, 9, 4))
    shared = layers.Conv2D(4, 3, padding="same")(inputs)
    normalization = layers.BatchNormalization(trainable=False)
    twice = keras.Model(inputs, layers.Add()([normalization(shared), shared]))
    returned = keras.Model(inputs, [shared, normalization(shared)])
    for model in (twice, returned):
        copied = fast(model, fold=True)
        assert not any(isinstance(layer, Convolution) for layer in copied.layers)
        for mine, kept in zip(*(keras.tree.flatten(each(pixels)) for each in (copied, model)), strict=True):
            np.testing.assert_array_equal(mine, kept)


def test_an_activation_of_the_convolution_comes_before_its_normalization(pixels):
    model = built(lambda: layers.Conv2D(4, 3, activation="relu"), NORMALIZATIONS["normalized"])
    np.testing.assert_array_equal(fast(model, fold=True)(pixels), model(pixels))


@pytest.mark.parametrize("options", [{"groups": 2}, {"data_format": "channels_first"}], ids=str)
def test_convolutions_of_other_kinds_stay_as_they_are(options):
    pixels = keras.Input((4, 9, 9) if "data_format" in options else (9, 9, 4))
    model = keras.Model(pixels, layers.BatchNormalization(trainable=False)(layers.Conv2D(4, 1, **options)(pixels)))
    assert [type(layer) for layer in fast(model, fold=True).layers] == [type(layer) for layer in model.layers]


def test_models_inside_a_model_are_replaced_too(pixels):
    inner = built(CONVOLUTIONS["separable"], NORMALIZATIONS["normalized"])
    inputs = keras.Input((9, 9, 4))
    model = keras.Model(inputs, layers.GlobalAveragePooling2D()(inner(inputs)))
    (nested,) = [layer for layer in fast(model, fold=True).layers if isinstance(layer, keras.Model)]
    assert any(isinstance(layer, Convolution) for layer in nested.layers)
    np.testing.assert_allclose(fast(model, fold=True)(pixels), model(pixels), rtol=1e-4)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_kernels_are_scaled_in_float32_and_applied_in_the_compute_dtype(policy, pixels):
    kept = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        model = built(CONVOLUTIONS["separable"], NORMALIZATIONS["normalized"])
        outputs = fast(model, fold=True)(pixels)
    finally:
        keras.config.set_dtype_policy(kept)
    assert outputs.dtype == policy.removeprefix("mixed_")
    np.testing.assert_allclose(tf.cast(outputs, tf.float32), tf.cast(model(pixels), tf.float32), rtol=0.05, atol=0.1)


@pytest.mark.parametrize("name", ["pointwise", "separable"])
def test_gradients_of_pointwise_convolutions_are_matrix_products(name, pixels):
    model = fast(built(CONVOLUTIONS[name], NORMALIZATIONS["normalized"]), fold=True)

    @tf.function
    def gradients(pixels):
        with tf.GradientTape() as tape:
            score = tf.reduce_sum(model(pixels))
        return tape.gradient(score, model.trainable_variables)

    graph = gradients.get_concrete_function(pixels).graph.as_graph_def()
    computed = {node.op for function in [graph, *graph.library.function] for node in _nodes(function)}
    assert "MatMul" in computed
    assert "Conv2DBackpropFilter" not in computed


def _nodes(function):
    return getattr(function, "node_def", None) or function.node
