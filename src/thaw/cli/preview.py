"""`python train.py ... --preview`: a batch as training would see it, drawn before anything is trained."""

import sys
from collections.abc import Iterable
from pathlib import Path

import hydra
import numpy as np
from omegaconf import DictConfig

from thaw import composition, decoding, progress, runtime
from thaw.config import check
from thaw.errors import ThawError

FLAG = "--preview"
IMAGES, PLAIN_IMAGES = 6, 24  # with and without augmentation
VIEWS = 4
FILE = Path("preview.png")


def is_asked() -> bool:
    """Whether the command asks for it; Hydra then does not see that."""
    if FLAG not in sys.argv:
        return False
    sys.argv.remove(FLAG)
    if {"-m", "--multirun"} & set(sys.argv):
        raise ThawError("--preview shows one run; leave -m out and give one value for each key")
    return True


@hydra.main(config_path=str(composition.CONF), config_name="config", version_base="1.3")
def main(composed: DictConfig) -> None:
    """Draw the images of the first batch of the first stage, with their classes and the views of the first epochs."""
    config = check(composed)
    decoding.check_replaceable(FILE)
    from thaw import data

    dataset = data.load(config.dataset, config.seed, Path(config.store))
    shown = progress.reporter()
    shown.announce(dataset.summary)
    runtime.start(runtime.share_of_cores({}))
    from thaw import pipeline
    from thaw.plots import predictions
    from thaw.plots.style import save

    augmented = pipeline.Views(config.augmentation, config.seed, config.augmentation.views)
    is_plain = augmented.number(0) is None
    split = data.fraction(dataset.train, config.training.head.fraction, config.seed)
    ((_, order),) = pipeline.orders(len(split), range(1), (config.seed, 0))
    images = split.take(order[: PLAIN_IMAGES if is_plain else IMAGES])
    epochs = range(1 if is_plain else VIEWS)
    numbers = [augmented.number(epoch) for epoch in epochs]
    views = [
        _pixels(pipeline.view_batches(images, config.image_size, len(images), augmented, number), len(images))
        for number in numbers
    ]
    columns = [f"epoch {epoch + 1}" for epoch in epochs]
    rows = [(dataset.class_names[label], [view[index] for view in views]) for index, label in enumerate(images.labels)]
    title = f"{dataset.name}, {config.image_size} px, augmentation {config.augmentation.name}"
    save(predictions.batch(rows, columns, title), FILE)
    shown.announce(f"Drawn: {FILE}")


def _pixels(batches: Iterable[tuple], count: int) -> np.ndarray:
    """uint8 (count, size, size, 3), without what fills the batch up."""
    return np.concatenate([batch.numpy() for batch, *_ in batches])[:count].clip(0, 255).astype(np.uint8)
