"""The sweep as a notebook would write it: the loop that Thaw is measured against."""

import sys
from pathlib import Path

import keras
import tensorflow as tf
from cases import Case, Head

from thaw.models.backbones.applications import application


def sweep(case: Case, folder: Path) -> None:
    """Train every run from the start, one after another."""
    for head in case.heads:
        for depth, rate in case.fine_tuning:
            keras.backend.clear_session()
            keras.utils.set_random_seed(head.seed)
            run(case, head, depth, rate, folder / f"{head}-{depth}-{rate}")


def run(case: Case, head: Head, depth: int, rate: float, folder: Path) -> float:
    """Feature extraction, then fine-tuning of the last `depth` layers; the accuracy on the test images."""
    size = (case.size, case.size)
    load = keras.utils.image_dataset_from_directory
    train = load(f"{case.photographs}/train", image_size=size, batch_size=32, seed=0, verbose=False)
    train = train.prefetch(tf.data.AUTOTUNE)
    held_out = {"image_size": size, "batch_size": 32, "shuffle": False, "verbose": False}
    validation = load(f"{case.photographs}/val", **held_out).prefetch(tf.data.AUTOTUNE)
    test = load(f"{case.photographs}/test", **held_out).prefetch(tf.data.AUTOTUNE)

    module, constructor = application(case.network)
    base = constructor(include_top=False, input_shape=(*size, 3), weights=str(case.weights), **case.arguments)
    base.trainable = False
    inputs = keras.Input((*size, 3))
    x = inputs
    if case.augmentation == "standard":
        x = keras.layers.RandomFlip("horizontal")(x)
        x = keras.layers.RandomRotation(0.2)(x)
        x = keras.layers.RandomZoom(0.2)(x)
        x = keras.layers.RandomTranslation(0.2, 0.2)(x)
    x = base(module.preprocess_input(x), training=False)
    x = keras.layers.GlobalAveragePooling2D()(x)
    if head.hidden:
        x = keras.layers.Dense(head.hidden, "relu")(x)
    model = keras.Model(inputs, keras.layers.Dense(case.classes, "softmax")(x))

    callbacks = [
        keras.callbacks.ModelCheckpoint(
            folder / "best.weights.h5", monitor="val_loss", save_best_only=True, save_weights_only=True
        ),
        keras.callbacks.TensorBoard(folder / "tensorboard"),
    ]
    settings = {"loss": "sparse_categorical_crossentropy", "metrics": ["accuracy"]}
    model.compile(keras.optimizers.Adam(head.rate), **settings)
    model.fit(train, epochs=case.epochs, validation_data=validation, callbacks=callbacks, verbose=0)
    if depth:
        base.trainable = True
        for layer in base.layers[:-depth]:
            layer.trainable = False
        for layer in base.layers:
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.trainable = False
        model.compile(keras.optimizers.Adam(rate), **settings)
        model.fit(
            train,
            initial_epoch=case.epochs,
            epochs=2 * case.epochs,
            validation_data=validation,
            callbacks=callbacks,
            verbose=0,
        )
    return model.evaluate(test, verbose=0)[1]


if __name__ == "__main__":
    sweep(Case.read(sys.argv[1]), Path(sys.argv[2]))
