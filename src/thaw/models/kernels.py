"""The same network with the same variables, computed faster on a CPU.

Batch normalization in inference mode is folded into the convolution before it, which saves a pass over memory:
`gamma * (convolution(x, kernel) - mean) / sqrt(variance + epsilon) + beta` is a convolution with a scaled kernel and a
bias. The gradients of pointwise convolutions are computed as matrix products, since TensorFlow's kernels for these
convolutions are slower.

Frozen passes, training, evaluation and prediction all compute it this way, so that their numbers are equal to the bit.
What a run records is the network as Keras built it.
"""

import keras
import tensorflow as tf

from thaw.models.graph import nodes, sole_consumers

CONVOLUTIONS = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D, keras.layers.SeparableConv2D)


class Convolution(keras.layers.Layer):
    """A convolution with the batch normalization after it, if any; its variables are those of these layers.

    Args:
        layer: one of `CONVOLUTIONS`, float (batch, height, width, channels) -> the same.
        normalization: of its output, in inference mode.
    """

    def __init__(self, layer: keras.layers.Layer, normalization: keras.layers.BatchNormalization | None):
        super().__init__(name=layer.name, dtype=layer.dtype_policy, autocast=False)
        self.layer, self.normalization = layer, normalization
        self.built = True

    def compute_output_spec(self, inputs):
        return self.layer.compute_output_spec(inputs)

    def call(self, inputs):
        layer, x = self.layer, tf.cast(inputs, self.compute_dtype)
        is_separable = isinstance(layer, keras.layers.SeparableConv2D)
        is_depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
        kernel = tf.convert_to_tensor(layer.pointwise_kernel if is_separable else layer.kernel)
        bias = tf.convert_to_tensor(layer.bias) if layer.use_bias else None
        if self.normalization is not None:
            scale, shift = _scale_and_shift(self.normalization)
            kernel = kernel * (tf.reshape(scale, kernel.shape[2:]) if is_depthwise else scale)
            bias = shift if bias is None else bias * scale + shift
        kernel = tf.cast(kernel, self.compute_dtype)
        if is_separable:
            x = _depthwise(layer, x, tf.cast(layer.depthwise_kernel, self.compute_dtype))
        if is_depthwise:
            x = _depthwise(layer, x, kernel)
        elif _is_pointwise(layer):
            x = _pointwise(x, kernel)
        else:
            x = tf.nn.conv2d(x, kernel, layer.strides, layer.padding.upper(), dilations=layer.dilation_rate)
        if bias is not None:
            x = tf.nn.bias_add(x, tf.cast(bias, self.compute_dtype))
        return layer.activation(x)


def fast(model: keras.Model, *, fold: bool) -> keras.Model:
    """A functional model of the same layers and variables, in which `Convolution` replaces what it can.

    Args:
        model: to be computed faster.
        fold: whether its batch normalization stays in inference mode.
    """
    folded = _folded(model) if fold else {}
    gone = {id(normalization) for normalization in folded.values()}

    def replaced(layer: keras.Operation) -> keras.Operation:
        normalization = folded.get(id(layer))
        return Convolution(layer, normalization) if normalization or _is_pointwise(layer) else layer

    def call(layer: keras.Operation, inputs, *arguments, **options):
        return inputs if id(layer) in gone else layer(inputs, *arguments, **options)

    return keras.models.clone_model(model, clone_function=replaced, call_function=call, recursive=True)


def _folded(model: keras.Model) -> dict[int, keras.layers.BatchNormalization]:
    """For the ids of convolutions, the batch normalization that alone takes their output."""
    found: dict[int, keras.layers.BatchNormalization] = {}
    for node in nodes(model):
        if isinstance(node, keras.Model):
            found |= _folded(node)
    for node, consumer in sole_consumers(model):
        is_normalization = isinstance(consumer, keras.layers.BatchNormalization) and consumer.axis in (-1, 3)
        if is_normalization and _is_known(node) and node.activation is keras.activations.linear:
            found[id(node)] = consumer
    return found


def _is_known(node: keras.Operation) -> bool:
    """Whether `Convolution` computes that layer."""
    return type(node) in CONVOLUTIONS and node.data_format == "channels_last" and getattr(node, "groups", 1) == 1


def _is_pointwise(node: keras.Operation) -> bool:
    """Whether a layer multiplies each pixel by the same matrix, or does so at its end."""
    if not _is_known(node) or isinstance(node, keras.layers.DepthwiseConv2D):
        return False
    return isinstance(node, keras.layers.SeparableConv2D) or (node.kernel_size, node.strides) == ((1, 1), (1, 1))


def _scale_and_shift(normalization: keras.layers.BatchNormalization) -> tuple[tf.Tensor, tf.Tensor]:
    """What batch normalization multiplies by and adds in inference mode, float32 (channels,)."""
    scale = tf.math.rsqrt(tf.convert_to_tensor(normalization.moving_variance) + normalization.epsilon)
    if normalization.scale:
        scale = scale * tf.convert_to_tensor(normalization.gamma)
    shift = -tf.convert_to_tensor(normalization.moving_mean) * scale
    return scale, shift + tf.convert_to_tensor(normalization.beta) if normalization.center else shift


def _depthwise(layer: keras.layers.Layer, x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    strides = (1, *layer.strides, 1)
    return tf.nn.depthwise_conv2d(x, kernel, strides, layer.padding.upper(), dilations=layer.dilation_rate)


@tf.RegisterGradient("ThawPointwise")
def _gradients(operation: tf.Operation, upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The gradients of a convolution with a kernel (1, 1, channels, filters), as matrix products."""
    x, kernel = operation.inputs
    filters = tf.reshape(upstream, (-1, kernel.shape[3]))
    of_x = tf.matmul(filters, kernel[0, 0], transpose_b=True)
    of_kernel = tf.matmul(tf.reshape(x, (-1, kernel.shape[2])), filters, transpose_a=True)
    return tf.reshape(of_x, tf.shape(x)), of_kernel[tf.newaxis, tf.newaxis]


@tf.function
def _pointwise(x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """A convolution with `_gradients`; `tf.custom_gradient` would keep every graph that it is traced in forever."""
    with tf.compat.v1.get_default_graph().gradient_override_map({"Conv2D": "ThawPointwise"}):
        return tf.nn.conv2d(x, kernel, 1, "VALID")
