"""Figures of images: predictions with Grad-CAM heat maps, and augmented training batches."""

import math
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from thaw.plots.style import GRAY, GREEN, LIGHT, RED, SIZE, STYLE, save, short

PAGE = 12  # pictures on one page
MOST = 120  # pictures that are drawn at all


@dataclass(frozen=True)
class Classified:
    """A picture with the classes that a model predicts for it.

    Attributes:
        name: of the picture.
        image: uint8 (height, width, 3), the picture in its own aspect ratio; None beyond those that are drawn.
        top: the most probable classes with their probabilities, in order.
        predicted: the most probable class; with `several` those above their thresholds.
        truth: its class, if the model knows it, or all its classes; None if that is not known.
        of_truth: the probability of its class; 0 if it is not known, or there may be several.
        heat: float32 (height, width) in [0, 1], the Grad-CAM heat map; None if not requested, or for pictures beyond
            those that are drawn.
        several: whether a picture has any number of classes.
    """

    name: str
    image: np.ndarray | None
    top: list[tuple[str, float]]
    predicted: tuple[str, ...]
    truth: tuple[str, ...] | None
    of_truth: float
    heat: np.ndarray | None
    several: bool = False

    @property
    def is_right(self) -> bool | None:
        """Whether exactly the true classes are predicted; None if these are not known."""
        return None if self.truth is None else set(self.truth) == set(self.predicted)

    @property
    def summary(self) -> str:
        """For people."""
        classes = ", ".join(f"{name} {100 * probability:.1f} %" for name, probability in self.top)
        if self.several:
            classes = f"{_words(self.predicted)} · {classes}"
        if self.truth is None:
            return f"{self.name}: {classes}"
        return f"{self.name}: {classes} ({'right' if self.is_right else f'wrong, it is {_words(self.truth)}'})"

    def line(self) -> dict:
        """For programs."""
        top = [{"class": each, "probability": value} for each, value in self.top]
        if self.several:
            true = None if self.truth is None else list(self.truth)
            return {"file": self.name, "classes": list(self.predicted), "top": top, "true": true}
        best = {"class": self.top[0][0], "probability": self.top[0][1]}
        return {"file": self.name, **best, "top": top, "true": self.truth[0] if self.truth else None}


def _words(classes: Iterable[str]) -> str:
    return " and ".join(classes) or "no class"


def pages(classified: Sequence[Classified], summary: str) -> Iterator[Figure]:
    """Images with their predictions, twelve per page: framed green if correct, orange if wrong.

    With Grad-CAM, the heat map is drawn beside the image, over a full-resolution copy of it.

    Args:
        classified: at most `MOST` are drawn.
        summary: how many are right, above the first page.
    """
    drawn = list(classified)[:MOST]
    for first in range(0, len(drawn), PAGE):
        yield _page(drawn[first : first + PAGE], summary)


def save_pages(figures: Iterable[Figure], path: Path) -> list[Path]:
    """Write the pages as they are drawn: `prediction.png`, `prediction-2.png`, ..."""
    paths = []
    for number, each in enumerate(figures, 1):
        paths.append(path if number == 1 else path.with_stem(f"{path.stem}-{number}"))
        save(each, paths[-1])
    return paths


def _page(classified: Sequence[Classified], summary: str) -> Figure:
    explained = classified[0].heat is not None
    columns = min(2 if explained else 4, len(classified))
    lines = math.ceil(len(classified) / columns)
    with plt.rc_context(STYLE):
        figure = plt.figure(figsize=((5.2 if explained else 2.7) * columns, 3.5 * lines + 0.3), layout="constrained")
        figure.suptitle(summary)
        cells = figure.subfigures(lines, columns, squeeze=False)
        for cell, each in zip(cells.flat, classified, strict=False):
            _cell(cell, each)
        return figure


def _cell(cell, drawn: Classified) -> None:
    grid = cell.add_gridspec(2, 2 if drawn.heat is not None else 1, height_ratios=[4, 1])
    picture, bars = cell.add_subplot(grid[0, 0]), cell.add_subplot(grid[1, :])
    color = GRAY if drawn.is_right is None else GREEN if drawn.is_right else RED
    picture.imshow(drawn.image)
    axes = [picture]
    if drawn.image is not None and drawn.heat is not None:
        axes.append(cell.add_subplot(grid[0, 1]))
        axes[1].imshow(_overlaid(drawn.image, drawn.heat))
    for axis in axes:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set(visible=True, color=color, linewidth=3)
    title = _words(map(short, drawn.predicted))
    is_wrong = drawn.truth is not None and not drawn.is_right
    if is_wrong:
        title = f"predicted {title}, true {_words(map(short, drawn.truth or ()))}"
    if not drawn.several:
        title += f" ({drawn.of_truth if is_wrong else drawn.top[0][1]:.2f})"
    cell.suptitle(
        textwrap.fill(title, 34 if drawn.heat is None else 60),
        fontsize=SIZE, color=color if drawn.is_right is False else None,
    )  # fmt: skip
    names = [name for name, _ in drawn.top]
    colors = [color if name in drawn.predicted else LIGHT for name in names]
    bars.barh(range(len(names)), [value for _, value in drawn.top], color=colors)
    for place, (name, value) in enumerate(drawn.top):
        bars.text(0.02, place, f"{short(name)} {100 * value:.0f} %", va="center")
    bars.invert_yaxis()
    bars.set(xlim=(0, 1), xticks=[], yticks=[])
    bars.spines[:].set_visible(False)


def _overlaid(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """The heat map in color over the image in gray, float (height, width, 3) in [0, 1].

    Args:
        image: uint8 (height, width, 3).
        heat: float32 (height, width) in [0, 1].
    """
    gray = (image.astype(float) @ [0.299, 0.587, 0.114] / 255)[..., np.newaxis]
    weight = 0.75 * np.sqrt(heat)[..., np.newaxis]
    return np.clip((1 - weight) * (0.25 + 0.75 * gray) + weight * plt.get_cmap("turbo")(heat)[..., :3], 0, 1)


def batch(rows: Sequence[tuple[str, Sequence[np.ndarray]]], titles: Sequence[str], title: str) -> Figure:
    """Images as training sees them, a row for each image and a column for each view of it.

    Args:
        rows: the class of each image and its views, uint8 (size, size, 3).
        titles: of the columns; several images a row where there is only one view.
        title: above.
    """
    flat = len(titles) == 1
    columns = min(6, len(rows)) if flat else len(titles)
    lines = math.ceil(len(rows) / columns) if flat else len(rows)
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            lines, columns, figsize=(1.9 * columns, 2.1 * lines + 0.4), layout="constrained", squeeze=False
        )
        figure.suptitle(title)
        for axis in axes.flat:
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
        for number, (name, views) in enumerate(rows):
            for column, pixels in enumerate(views):
                axis = axes[divmod(number, columns)] if flat else axes[number, column]
                axis.imshow(pixels)
                if flat:
                    axis.set_title(short(name))
                elif number == 0:
                    axis.set_title(titles[column])
                if not flat and column == 0:
                    axis.set_ylabel(short(name))
        return figure
