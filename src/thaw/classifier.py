"""A recorded model at work: classes and probabilities of pictures, and where in a picture they come from."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import keras
import mlflow
import numpy as np
import tensorflow as tf
from mlflow.entities import Run

from thaw import decoding, prediction
from thaw.errors import ThawError
from thaw.pipeline import EVEN
from thaw.prediction import Picture
from thaw.tracking import Store

BATCH = 32


@dataclass(frozen=True)
class Classifier:
    """A recorded model.

    Attributes:
        model: pixels float32 (batch, size, size, 3) in [0, 255] -> probabilities float32 (batch, classes).
        class_names: in the order of its outputs.
        size: of the pictures that it takes, px a side.
        megapixels: files with more are refused, as they were when the run looked at its dataset.
    """

    model: keras.Model
    class_names: tuple[str, ...]
    size: int
    megapixels: float


@dataclass(frozen=True)
class Answer:
    """What the model says of one picture.

    Attributes:
        name: of the picture.
        pixels: uint8 (size, size, 3), as the model saw it.
        top: the most probable classes with their probabilities, the most probable first.
        truth: its class, where that is known to the model.
        heat: float32 (size, size) in [0, 1], where the answer comes from; None if that was not asked.
    """

    name: str
    pixels: np.ndarray
    top: list[tuple[str, float]]
    truth: str | None
    heat: np.ndarray | None

    @property
    def words(self) -> str:
        """For people."""
        told = ", ".join(f"{name} {100 * probability:.1f} %" for name, probability in self.top)
        if self.truth is None:
            return f"{self.name}: {told}"
        return f"{self.name}: {told} ({'right' if self.truth == self.top[0][0] else f'wrong, it is {self.truth}'})"

    def line(self) -> dict:
        """For programs."""
        (name, probability), *_ = self.top
        top = [{"class": each, "probability": value} for each, value in self.top]
        return {"file": self.name, "class": name, "probability": probability, "top": top, "true": self.truth}


def load(store: Store, run: Run) -> Classifier:
    """The model that a run recorded, loaded without executing anything that is in it.

    Raises:
        ThawError: it does not load in Keras' safe mode.
    """
    mlflow.set_tracking_uri(store.uri)
    with tempfile.TemporaryDirectory() as folder:
        place = mlflow.artifacts.download_artifacts(
            artifact_uri=f"models:/{run.outputs.model_outputs[0].model_id}", dst_path=folder
        )
        (file,) = Path(place).rglob("*.keras")
        try:
            model = keras.saving.load_model(file, compile=False, safe_mode=True)
        except Exception as error:
            reason = " ".join(str(error).split())[:300]
            raise ThawError(f"The model of run {run.info.run_id} does not load safely ({reason})") from error
    class_names = tuple(prediction.artifact(store.client, run, "classes.txt").splitlines())
    return Classifier(model, class_names, model.input_shape[1], prediction.settings(store, run).dataset.max_megapixels)


def classify(
    classifier: Classifier, pictures: list[Picture], top: int, explain: bool
) -> tuple[list[Answer], list[str]]:
    """Ask the model about pictures.

    Returns:
        An answer for each that can be read, and a sentence for each that cannot.
    """
    answers: list[Answer] = []
    unreadable: list[str] = []
    for first in range(0, len(pictures), BATCH):
        read: list[tuple[Picture, np.ndarray]] = []
        for picture in pictures[first : first + BATCH]:
            try:
                read.append((picture, decoding.read(picture.source, classifier.size, classifier.megapixels)))
            except ThawError as error:
                unreadable.append(str(error))
        if not read:
            continue
        pixels = np.stack([each for _, each in read])
        evened = np.resize(pixels, (len(read) + -len(read) % EVEN, *pixels.shape[1:])).astype(np.float32)
        probabilities = classifier.model.predict(evened, BATCH, verbose=0)[: len(read)]
        heats = grad_cam(classifier.model, pixels.astype(np.float32)) if explain else [None] * len(read)
        for (picture, seen), row, heat in zip(read, probabilities, heats, strict=True):
            order = np.argsort(-row)[:top]
            truth = picture.truth if picture.truth in classifier.class_names else None
            named = [(classifier.class_names[i], float(row[i])) for i in order]
            answers.append(Answer(picture.name, seen, named, truth, heat))
    return answers, unreadable


def grad_cam(model: keras.Model, pixels: np.ndarray) -> np.ndarray:
    """Where in a picture its most probable class comes from (Selvaraju et al. 2017, on the last feature maps).

    Args:
        model: a network of ours: a backbone, the layer `pooling`, and what follows it.
        pixels: float32 (pictures, size, size, 3) in [0, 255].

    Returns:
        float32 (pictures, size, size) in [0, 1].
    """
    pooling = model.get_layer("pooling")
    head = model.layers[model.layers.index(pooling) :]
    features = keras.Model(model.input, pooling.input)(pixels, training=False)
    with tf.GradientTape() as tape:
        tape.watch(features)
        x = features
        for layer in head:
            x = layer(x, training=False) if isinstance(layer, keras.layers.Dropout) else layer(x)
        score = tf.math.log(tf.reduce_max(x, axis=1) + 1e-12)
    weights = tf.reduce_mean(tape.gradient(score, features), axis=(1, 2), keepdims=True)
    heat = tf.nn.relu(tf.reduce_sum(weights * features, axis=-1, keepdims=True))
    heat /= tf.reduce_max(heat, axis=(1, 2, 3), keepdims=True) + 1e-12
    return tf.image.resize(heat, pixels.shape[1:3])[..., 0].numpy()
