"""Optimizers, by their names in Keras.

To add one, add its name to `thaw.config.schema.Stage.optimizer`; one of your own is a module that registers its class
with `keras.saving.register_keras_serializable` and is imported here.
"""

import keras

SETTINGS = {"sgd": {"momentum": 0.9}}  # that differ from Keras' defaults


def build_optimizer(name: str, learning_rate: float) -> keras.Optimizer:
    """The optimizer of that name."""
    config = {"learning_rate": learning_rate, **SETTINGS.get(name, {})}
    return keras.optimizers.get({"class_name": name, "config": config})
