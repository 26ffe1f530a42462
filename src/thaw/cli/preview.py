"""`train.py --preview`: draws a batch as training sees it, before anything is trained."""

from collections.abc import Iterable
from pathlib import Path

import hydra
import numpy as np
from omegaconf import DictConfig

from thaw import drawings, progress, runtime
from thaw.config import compose
from thaw.config.validate import validate
from thaw.errors import ThawError

FLAG = "--preview"
IMAGES, PLAIN_IMAGES = 6, 24  # with and without augmentation
VIEWS = 4
FILE = Path("preview.png")


def is_asked(words: list[str]) -> tuple[bool, list[str]]:
    """Whether the command line asks for it, and its words without the flag, which Hydra does not know.

    Raises:
        ThawError: it asks for a sweep.
    """
    if FLAG not in words:
        return False, words
    if {"-m", "--multirun"} & set(words):
        raise ThawError("--preview shows one run; leave -m out and give one value for each key")
    return True, [word for word in words if word != FLAG]


@hydra.main(config_path=str(compose.CONF), config_name="config", version_base="1.3")
def main(composed: DictConfig) -> None:
    """Draw the images of the first batch of the first stage, with their classes and the views of the first epochs."""
    config = validate(composed)
    drawings.check_replaceable(FILE)
    from thaw.data.dataset import load_dataset
    from thaw.data.splits import classes_of, fraction

    dataset = load_dataset(config.dataset, config.seed, Path(config.store))
    shown = progress.reporter()
    shown.announce(dataset.summary)
    runtime.start(runtime.share_of_cores({}))
    from thaw.modalities.images.modality import Images
    from thaw.plots import predictions
    from thaw.plots.style import save
    from thaw.training.batches import Views, epoch_orders, view_batches

    augmented = Views(config.augmentation, config.seed, config.augmentation.views, len(dataset.class_names))
    is_plain = augmented.number(0) is None
    modality, first = Images.of(config.dataset, config.backbone), config.training.section(config.training.stages[0])
    split = fraction(dataset.train, first.fraction or config.fraction, config.seed)
    balanced = config.training.sampling == "balanced"
    ((_, order),) = epoch_orders(split.labels, range(1), (config.seed, 0), balanced)
    chosen = order[: PLAIN_IMAGES if is_plain else IMAGES]
    epochs = range(1 if is_plain else VIEWS)
    numbers = [augmented.number(epoch) for epoch in epochs]
    views = [
        _pixels(view_batches(split, modality, len(chosen), augmented, number, chosen), len(chosen))
        for number in numbers
    ]
    columns = [f"epoch {epoch + 1}" for epoch in epochs]
    rows = [
        (", ".join(classes_of(dataset.class_names, label)), [view[index] for view in views])
        for index, label in enumerate(split.labels[chosen])
    ]
    title = f"{dataset.name}, {modality.description}, augmentation {config.augmentation.name}"
    save(predictions.batch(rows, columns, title), FILE)
    shown.announce(f"Drawn: {FILE}")


def _pixels(batches: Iterable[tuple], count: int) -> np.ndarray:
    """uint8 (count, size, size, 3), without padding."""
    return np.concatenate([batch.numpy() for batch, *_ in batches])[:count].clip(0, 255).astype(np.uint8)
