"""Optimizers, by their names in Keras.

To add one, add its name to `thaw.config.schema.Stage.optimizer`; one of your own is a module that registers its class
with `keras.saving.register_keras_serializable` and is imported here.
"""

import keras
import tensorflow as tf

SETTINGS = {"sgd": {"momentum": 0.9}}  # that differ from Keras' defaults


class Adam(keras.optimizers.Adam):
    """Keras' Adam, computed by one operation for each variable in place of a dozen."""

    def update_step(self, gradient, variable, learning_rate):
        index, dtype = self._get_variable_index(variable), variable.dtype
        step = tf.cast(self.iterations + 1, dtype)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[index].value.handle,
            v=self._velocities[index].value.handle,
            beta1_power=tf.pow(tf.cast(self.beta_1, dtype), step),
            beta2_power=tf.pow(tf.cast(self.beta_2, dtype), step),
            lr=tf.cast(learning_rate, dtype),
            beta1=self.beta_1,
            beta2=self.beta_2,
            epsilon=self.epsilon,
            grad=tf.cast(gradient, dtype),
        )


def build_optimizer(name: str, learning_rate: float) -> keras.Optimizer:
    """The optimizer of that name."""
    if name == "adam":
        return Adam(learning_rate)
    config = {"learning_rate": learning_rate, **SETTINGS.get(name, {})}
    return keras.optimizers.get({"class_name": name, "config": config})
