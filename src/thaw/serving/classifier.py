"""Inference with a recorded model: class probabilities, and Grad-CAM heat maps."""

import csv
import io
import tempfile
from dataclasses import dataclass
from pathlib import Path

import keras
import mlflow
import numpy as np
from mlflow.entities import Run

from thaw import progress
from thaw.data.splits import classes_of
from thaw.errors import ThawError, one_line
from thaw.modalities.images.explain import grad_cam, resized
from thaw.modalities.images.modality import Images
from thaw.models.graph import at_pooling, has_frozen_normalization
from thaw.models.heads import has_several_classes
from thaw.models.kernels import fast
from thaw.plots.predictions import MOST, Classified
from thaw.serving.selection import Picture, recorded_config
from thaw.tracking import reader
from thaw.tracking.store import Store
from thaw.training.batches import BATCH_MULTIPLE

BATCH = 32
DRAWN = 480  # px of the longer side of a picture as it is drawn


@dataclass(frozen=True)
class Classifier:
    """A recorded model.

    Attributes:
        model: tensors of the modality -> probabilities float32 (batch, classes).
        fast: the same, with the kernels that training and evaluation use.
        class_names: in the order of its outputs.
        modality: of its inputs.
        thresholds: float (classes,), the probability from which a picture has a class; None: it has one class.
    """

    model: keras.Model
    fast: keras.Model
    class_names: tuple[str, ...]
    modality: Images
    thresholds: np.ndarray | None = None


def load(store: Store, run: Run) -> Classifier:
    """Load the model of a run without executing anything in it.

    Raises:
        ThawError: it does not load in Keras' safe mode.
    """
    model_id = run.outputs.model_outputs[0].model_id if run.outputs else ""
    location = store.client.get_logged_model(model_id).artifact_location
    with tempfile.TemporaryDirectory() as folder:
        place = mlflow.artifacts.download_artifacts(location, dst_path=folder, tracking_uri=store.uri)
        (file,) = Path(place).rglob("*.keras")
        try:
            model = keras.saving.load_model(file, compile=False, safe_mode=True)
        except Exception as error:
            raise ThawError(f"The model of run {run.info.run_id} does not load safely ({one_line(error)})") from error
    classes = reader.artifact(store.client, run.info.run_id, "classes.txt")
    if classes is None:
        raise ThawError(f"The class names of run {run.info.run_id} are gone from MLflow; choose another run")
    megapixels = recorded_config(store, run).dataset.max_megapixels
    return Classifier(
        model,
        fast(model, fold=has_frozen_normalization(model)),
        tuple(classes.splitlines()),
        Images(model.input_shape[1], megapixels),
        _thresholds(store, run) if has_several_classes(model.layers[-1]) else None,
    )


def _thresholds(store: Store, run: Run) -> np.ndarray:
    """Those that validation chose, in the order of the classes."""
    text = reader.artifact(store.client, run.info.run_id, "per_class.csv")
    if text is None:
        raise ThawError(f"The thresholds of run {run.info.run_id} are gone from MLflow; choose another run")
    return np.array([float(row["threshold"]) for row in csv.DictReader(io.StringIO(text, newline=""))])


def classify(
    classifier: Classifier, pictures: list[Picture], top: int, explain: bool
) -> tuple[list[Classified], list[str]]:
    """Classify pictures.

    Returns:
        An answer for each picture that can be read, and a sentence for each that cannot.
    """
    classified: list[Classified] = []
    unreadable: list[str] = []
    with progress.reporter().step("predicting", len(pictures), "images") as step:
        for first in range(0, len(pictures), BATCH):
            batch = pictures[first : first + BATCH]
            read: list[tuple[Picture, np.ndarray]] = []
            for picture in batch:
                try:
                    read.append((picture, classifier.modality.read(picture.source)))
                except ThawError as error:
                    unreadable.append(str(error))
            if read:
                classified += _answers(classifier, read, top, explain, len(classified))
            step.advance(len(batch))
    return classified, unreadable


def _answers(
    classifier: Classifier, read: list[tuple[Picture, np.ndarray]], top: int, explain: bool, before: int
) -> list[Classified]:
    """The answers for one batch of pictures with their examples, after `before` others; the first `MOST` are drawn."""
    examples = np.stack([each for _, each in read]).astype(np.float32)
    padded = np.resize(examples, (len(read) + -len(read) % BATCH_MULTIPLE, *examples.shape[1:]))
    probabilities = classifier.fast.predict(padded, BATCH, verbose=0)[: len(read)]
    heats = grad_cam(*at_pooling(classifier.model), examples) if explain and before < MOST else [None] * len(read)
    return [
        _classified(classifier, picture, row, heat, top, is_drawn=before + index < MOST)
        for index, ((picture, _), row, heat) in enumerate(zip(read, probabilities, heats, strict=True))
    ]


def _classified(
    classifier: Classifier, picture: Picture, row: np.ndarray, heat: np.ndarray | None, top: int, is_drawn: bool
) -> Classified:
    """One picture with its row of probabilities and its heat map."""
    names = classifier.class_names
    if classifier.thresholds is None:
        known = [each for each in picture.truths if each in names][:1]
        truth = tuple(known) if known else None
        predicted: tuple[str, ...] = (names[int(row.argmax())],)
    else:
        truth = picture.truths if picture.has_several else None
        predicted = classes_of(names, row >= classifier.thresholds)
    best = [(names[i], float(row[i])) for i in np.argsort(-row)[:top]]
    photograph = classifier.modality.show(picture.source, DRAWN) if is_drawn else None
    if photograph is not None and heat is not None:
        heat = resized(heat, photograph.shape[:2])
    several = classifier.thresholds is not None
    of_truth = float(row[names.index(truth[0])]) if truth and not several else 0.0
    return Classified(picture.name, photograph, best, predicted, truth, of_truth, heat, several)
