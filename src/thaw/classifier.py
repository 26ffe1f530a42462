"""A recorded model at work: classes and probabilities of pictures, and where in a picture they come from."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import keras
import mlflow
import numpy as np
import tensorflow as tf
from mlflow.entities import Run

from thaw import decoding, prediction, progress, records
from thaw.errors import ThawError
from thaw.pipeline import EVEN
from thaw.plots import predictions
from thaw.prediction import Picture
from thaw.tracking import Store

BATCH = 32
DRAWN = 480  # px of the longer side of a picture as it is drawn


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
        photograph: uint8 (height, width, 3), the picture in its own shape, for people; None for more than are drawn.
        top: the most probable classes with their probabilities, the most probable first.
        truth: its class, where that is known to the model.
        of_truth: the probability of that class; 0 where it is not known.
        heat: float32 (height, width) in [0, 1], where the answer comes from; None if that was not asked, or the picture
            is one of more than are drawn.
    """

    name: str
    photograph: np.ndarray | None
    top: list[tuple[str, float]]
    truth: str | None
    of_truth: float
    heat: np.ndarray | None

    @property
    def summary(self) -> str:
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
    class_names = tuple(records.artifact(store.client, run.info.run_id, "classes.txt").splitlines())
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
    batches = [pictures[first : first + BATCH] for first in range(0, len(pictures), BATCH)]
    for batch in progress.counted(batches, "predicting", len(batches), "batches"):
        read: list[tuple[Picture, np.ndarray]] = []
        for picture in batch:
            try:
                read.append((picture, decoding.read(picture.source, classifier.size, classifier.megapixels)))
            except ThawError as error:
                unreadable.append(str(error))
        if not read:
            continue
        pixels = np.stack([each for _, each in read])
        padded = np.resize(pixels, (len(read) + -len(read) % EVEN, *pixels.shape[1:])).astype(np.float32)
        probabilities = classifier.model.predict(padded, BATCH, verbose=0)[: len(read)]
        explained = explain and len(answers) < predictions.MOST
        heats = grad_cam(classifier.model, pixels.astype(np.float32)) if explained else [None] * len(read)
        for (picture, _), row, heat in zip(read, probabilities, heats, strict=True):
            order = np.argsort(-row)[:top]
            truth = next((each for each in picture.truths if each in classifier.class_names), None)
            of_truth = float(row[classifier.class_names.index(truth)]) if truth else 0.0
            top_classes = [(classifier.class_names[i], float(row[i])) for i in order]
            drawn = len(answers) < predictions.MOST
            photograph = decoding.photograph(picture.source, DRAWN) if drawn else None
            if drawn and heat is not None:
                heat = (
                    tf.image.resize(heat[..., np.newaxis], photograph.shape[:2], "bicubic")[..., 0].numpy().clip(0, 1)
                )
            answers.append(Answer(picture.name, photograph, top_classes, truth, of_truth, heat))
    return answers, unreadable


def grad_cam(model: keras.Model, pixels: np.ndarray) -> np.ndarray:
    """Where in a picture its most probable class comes from (Selvaraju et al. 2017, on the last feature maps).

    Args:
        model: a network of ours: a backbone, the layer `pooling`, and what follows it.
        pixels: float32 (pictures, size, size, 3) in [0, 255].

    Returns:
        float32 (pictures, height, width) in [0, 1], as large as the feature maps.
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
    return heat[..., 0].numpy()
