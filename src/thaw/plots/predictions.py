"""Pictures of pictures: what a model says of them and where it looked, and a batch as training sees it."""

import math
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from thaw.plots.style import GREEN, GREY, LIGHT, RED, SIZE, STYLE, save, short

if TYPE_CHECKING:
    from thaw.classifier import Answer


PAGE = 12  # pictures on one page
MOST = 120  # pictures that are drawn at all


def pages(answers: Sequence["Answer"], summary: str) -> Iterator[Figure]:
    """Pictures with what a model says of them, twelve on a page: framed green if it is right, orange if it is wrong.

    Where Grad-CAM was asked for, it stands beside the photograph, at the photograph's own sharpness.

    Args:
        answers: at most `MOST` are drawn.
        summary: how many are right, above the first page.
    """
    drawn = list(answers)[:MOST]
    for first in range(0, len(drawn), PAGE):
        yield _page(drawn[first : first + PAGE], summary)


def save_pages(figures: Iterable[Figure], path: Path) -> list[Path]:
    """Write the pages as they are drawn: `prediction.png`, `prediction-2.png`, ..."""
    paths = []
    for number, each in enumerate(figures, 1):
        paths.append(path if number == 1 else path.with_stem(f"{path.stem}-{number}"))
        save(each, paths[-1])
    return paths


def _page(answers: Sequence["Answer"], summary: str) -> Figure:
    explained = answers[0].heat is not None
    columns = min(2 if explained else 4, len(answers))
    lines = math.ceil(len(answers) / columns)
    with plt.rc_context(STYLE):
        figure = plt.figure(figsize=((5.2 if explained else 2.7) * columns, 3.5 * lines + 0.3), layout="constrained")
        figure.suptitle(summary)
        cells = figure.subfigures(lines, columns, squeeze=False)
        for cell, answer in zip(cells.flat, answers, strict=False):
            _answer(cell, answer)
        return figure


def _answer(cell, answer: "Answer") -> None:
    grid = cell.add_gridspec(2, 2 if answer.heat is not None else 1, height_ratios=[4, 1])
    picture, bars = cell.add_subplot(grid[0, 0]), cell.add_subplot(grid[1, :])
    best, probability = answer.top[0]
    right = None if answer.truth is None else answer.truth == best
    colour = GREY if right is None else GREEN if right else RED
    picture.imshow(answer.photograph)
    axes = [picture]
    if answer.heat is not None:
        axes.append(cell.add_subplot(grid[0, 1]))
        axes[1].imshow(_overlaid(answer.photograph, answer.heat))
    for axis in axes:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set(visible=True, color=colour, linewidth=3)
    if right is False:
        title = f"predicted {short(best)}, true {short(answer.truth)} ({answer.of_truth:.2f})"
    else:
        title = f"{short(best)} ({probability:.2f})"
    cell.suptitle(
        textwrap.fill(title, 34 if answer.heat is None else 60), fontsize=SIZE, color=colour if right is False else None
    )
    names = [name for name, _ in answer.top]
    bars.barh(range(len(names)), [value for _, value in answer.top], color=[colour, *[LIGHT] * len(names)])
    for place, (name, value) in enumerate(answer.top):
        bars.text(0.02, place, f"{short(name)} {100 * value:.0f} %", va="center")
    bars.invert_yaxis()
    bars.set(xlim=(0, 1), xticks=[], yticks=[])
    bars.spines[:].set_visible(False)


def _overlaid(photograph: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """The heat map in colour over the photograph in grey, float (height, width, 3) in [0, 1].

    Args:
        photograph: uint8 (height, width, 3).
        heat: float32 (height, width) in [0, 1].
    """
    grey = (photograph.astype(float) @ [0.299, 0.587, 0.114] / 255)[..., np.newaxis]
    weight = 0.75 * np.sqrt(heat)[..., np.newaxis]
    return np.clip((1 - weight) * (0.25 + 0.75 * grey) + weight * plt.get_cmap("turbo")(heat)[..., :3], 0, 1)


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
