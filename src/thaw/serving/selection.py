"""Chooses a recorded run, and the pictures to classify. Needs no TensorFlow."""

import glob
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from mlflow.entities import Run

from thaw.config.schema import Config
from thaw.config.validate import from_record
from thaw.data.dataset import Dataset, load_dataset
from thaw.data.sources import folder as source
from thaw.data.splits import classes_of
from thaw.drawings import is_drawing
from thaw.errors import ThawError, nearest
from thaw.normalization import stripped
from thaw.tracking import reader
from thaw.tracking.names import BEST_FIRST, RUNS
from thaw.tracking.store import Store

FINISHED = f"{RUNS} and attributes.status = 'FINISHED'"


@dataclass(frozen=True)
class Picture:
    """A picture to classify.

    Attributes:
        name: as it is shown.
        source: a file, or uint8 pixels.
        truths: candidates for its class, such as the folders around it; the first that the model knows counts.
        has_several: whether these are all its classes instead, in a multi-label dataset.
    """

    name: str
    source: Path | np.ndarray
    truths: tuple[str, ...]
    has_several: bool = False


def choose(store: Store, run: str | None, experiment: str | None) -> Run:
    """The run of that id; else the best finished one with a model of that experiment, or of the newest.

    Raises:
        ThawError: there is no such run or experiment, nothing is finished, or the run has no model.
    """
    client = store.client
    if run:
        try:
            chosen = client.get_run(run)
        except Exception as error:  # SQL and REST stores raise different ones
            raise ThawError(f"There is no run {run}; give an id as MLflow shows it") from error
    else:
        name, number = reader.experiment(client, experiment)
        best = client.search_runs([number], FINISHED, order_by=BEST_FIRST, max_results=1000)
        if not best:
            raise ThawError(f"The experiment {name} has no finished run; train one first: python train.py")
        chosen = next(filter(_has_model, best), best[0])  # averaged views have none
    if not _has_model(chosen):
        raise ThawError(
            f"The run {chosen.info.run_name} ({chosen.info.run_id}) has no model; train with tracking.model=true"
        )
    return chosen


def _has_model(run: Run) -> bool:
    return bool(run.outputs and run.outputs.model_outputs)


def files(given: list[str]) -> list[Picture]:
    """The pictures that files, folders and patterns name; the folders around a picture may be its class.

    Raises:
        ThawError: a folder has none.
    """
    found: list[Picture] = []
    for each in given:
        path = Path(each).expanduser()
        matching = (
            [path] if os.path.lexists(path) else [Path(file) for file in sorted(glob.glob(str(path), recursive=True))]
        )
        for match in matching or [path]:  # a missing file is reported with unreadable ones
            below = _below(match) if os.path.isdir(match) else [Picture(str(match), match, (_folder(match),))]
            if not below:
                raise ThawError(f"{each} contains no pictures; give files, folders of pictures, or patterns in quotes")
            found += below
    return found


def _below(folder: Path) -> list[Picture]:
    """Every file in a folder but annotations; what is not an image is reported when it is read."""
    real, unreadable = Path(os.path.abspath(folder)), dict[str, str]()
    below = [each.relative_to(real) for each in source.files(real, real.parent, unreadable)]
    below = [each for each in below if each.suffix.lower() not in source.ANNOTATIONS and not is_drawing(real / each)]
    below += [Path(os.path.relpath(real.parent / each, real)) for each in unreadable]
    return [
        Picture(str(folder / each), folder / each, (*map(stripped, each.parts[:-1]), stripped(real.name)))
        for each in sorted(below)
    ]


def _folder(path: Path) -> str:
    """The name of the folder of a file."""
    return stripped(Path(os.path.abspath(path)).parent.name)


def drawn(store: Store, run: Run, split: str, class_name: str | None, count: int, seed: int) -> list[Picture]:
    """Random pictures of the run's own dataset.

    Raises:
        ThawError: there is no such class, or the dataset is gone.
    """
    whole = _dataset(store, run)
    class_name = class_name and stripped(class_name)
    if class_name is not None and class_name not in whole.class_names:
        known = list(whole.class_names)
        raise ThawError(f"There is no class {class_name}; the run knows {', '.join(known)}{nearest(class_name, known)}")
    part = whole.splits()[split]
    classes = [classes_of(whole.class_names, label) for label in part.labels]
    among = [i for i, each in enumerate(classes) if class_name is None or class_name in each]
    chosen = np.random.default_rng(seed).permutation(among)[:count]
    return [Picture(part.names[i], part.images[i], classes[i], whole.is_multi_label) for i in chosen]


def worst(store: Store, run: Run, count: int) -> list[tuple[Picture, reader.Prediction]]:
    """The test images to whose true classes the run gave the lowest probability, lowest first, with its answers."""
    part = _dataset(store, run).test
    place = {name: index for index, name in enumerate(part.names)}
    answers = reader.predictions(store.client, run.info.run_id)
    if not answers:
        raise ThawError("The run has no recorded predictions, or they are lost; give image files instead")
    least = sorted(answers, key=lambda answer: answer.of_truth)[:count]
    return [
        (Picture(answer.file, part.images[place[answer.file]], answer.true_classes, answer.several), answer)
        for answer in least
    ]


def confused(store: Store, run: Run, count: int = 5) -> list[str]:
    """The most frequent mistakes of the run, in words."""
    wrong = Counter[str]()
    for answer in reader.predictions(store.client, run.info.run_id):
        true, predicted = answer.true_classes, answer.predicted_classes
        if answer.several:
            wrong.update(f"{name} missed" for name in true if name not in predicted)
            wrong.update(f"{name} predicted where it is not" for name in predicted if name not in true)
        elif true != predicted:
            wrong[f"{answer.truth} taken for {answer.predicted}"] += 1
    return [f"{words}: {number} time{'s' * (number > 1)}" for words, number in wrong.most_common(count)]


def recorded_config(store: Store, run: Run) -> Config:
    """The configuration that a run recorded, perhaps with another version.

    Raises:
        ThawError: it is gone.
    """
    text = reader.artifact(store.client, run.info.run_id, "config.yaml")
    if text is None:
        raise ThawError(f"The configuration of run {run.info.run_id} is gone from MLflow; choose another run")
    return from_record(yaml.safe_load(text))


def _dataset(store: Store, run: Run) -> Dataset:
    """The dataset that the run used.

    Raises:
        ThawError: it is gone, or has changed since.
    """
    config = recorded_config(store, run)
    dataset = load_dataset(config.dataset, config.seed, store.root)
    (recorded,) = run.inputs.dataset_inputs if run.inputs else []
    contents = {tag.key: tag.value for tag in recorded.tags}.get("contents", dataset.contents)
    if (recorded.dataset.digest, contents) != (dataset.digest(), dataset.contents):
        raise ThawError(f"{dataset.name} has changed since the run; give image files instead")
    return dataset
