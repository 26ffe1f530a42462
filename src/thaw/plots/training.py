"""Figures of one run: its learning curves, and its confusion matrix."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from thaw.plots.style import BLUE, GRAY, HEIGHT, ORANGE, SIZE, STYLE, WIDTH, figure, legend_below, save, short

NUMBERED = 15  # classes; the cells of more have no room for numbers
NAMED = 40  # classes; the names of more are not legible
LARGEST = 400  # classes drawn as vectors; more as pixels


def draw_run(
    folder: Path,
    history: Sequence[dict[str, float]],
    boundaries: Sequence[int],
    kept: int,
    confusion: Sequence[tuple[int, int, int]],
    classes: Sequence[str],
) -> None:
    """Write the figures of a run to a folder.

    Args:
        folder: for the PNGs.
        history, boundaries, kept: as in `learning_curves`.
        confusion: true class, predicted class and count, where there are any.
        classes: their names.
    """
    matrix = np.zeros((len(classes), len(classes)), int)
    for truth, guess, count in confusion:
        matrix[truth, guess] = count
    save(learning_curves(history, boundaries, kept), folder / "learning_curves.png")
    if confusion:  # there is none of several labels
        save(confusion_matrix(matrix, classes), folder / "confusion_matrix.png")


def rate_curves(found: Mapping[str, tuple[Sequence[float], Sequence[float], float]]) -> Figure:
    """Loss against the learning rate, for each stage beside the others.

    Args:
        found: rates, smoothed losses and the proposed rate, by stage.
    """
    with plt.rc_context(STYLE):
        drawn, axes = plt.subplots(
            1, len(found), figsize=(len(found) * WIDTH, HEIGHT + 0.3), layout="constrained", squeeze=False
        )
        for axis, (name, (rates, losses, proposed)) in zip(axes[0], found.items(), strict=True):
            axis.plot(rates, losses, color=BLUE, label="smoothed loss")
            axis.axvline(proposed, color=ORANGE, linestyle="--", label=f"proposed: {proposed:.2g}")
            axis.set(xscale="log", title=name, xlabel="Learning rate", ylabel="Cross-entropy (nats)")
            axis.xaxis.set_major_formatter("{x:g}")
            axis.legend(frameon=False)
    return drawn


def learning_curves(history: Sequence[dict[str, float]], boundaries: Sequence[int], kept: int) -> Figure:
    """Loss and accuracy against the epoch.

    Args:
        history: of each epoch `loss`, `accuracy`, `val_loss`, `val_accuracy`.
        boundaries: how many epochs there are before each stage but the first; lines mark where these begin.
        kept: the index of the epoch whose weights were kept, which is ringed.
    """
    epochs = np.arange(1, len(history) + 1)
    with plt.rc_context(STYLE):
        drawn, axes = plt.subplots(1, 2, figsize=(2 * WIDTH, HEIGHT + 0.3), layout="constrained")
        for axis, name, unit in zip(axes, ("loss", "accuracy"), ("Cross-entropy (nats)", "Accuracy"), strict=True):
            values = {"training": [each[name] for each in history]}
            values["validation"] = [each[f"val_{name}"] for each in history]
            axis.plot(epochs, values["training"], "o-", color=BLUE, label="training")
            axis.plot(epochs, values["validation"], "s--", color=ORANGE, label="validation")
            ring = {"markersize": 11, "fillstyle": "none", "color": ORANGE, "label": "kept epoch"}
            axis.plot(epochs[kept], values["validation"][kept], "o", linestyle="none", **ring)
            begins = "fine-tuning begins" if len(boundaries) == 1 else "a stage begins"
            for number, boundary in enumerate(boundaries):
                axis.axvline(boundary + 0.5, color=GRAY, linestyle=":", label=None if number else begins)
            axis.set(xlabel="Epoch", ylabel=unit)
            axis.xaxis.get_major_locator().set_params(integer=True)
        axes[0].set_ylim(bottom=0)
        legend_below(drawn, axes[0])
        return drawn


def reliability(found: Mapping[str, tuple[np.ndarray, np.ndarray, float]]) -> Figure:
    """Accuracy against predicted probability, where the diagonal is perfect calibration.

    Args:
        found: mean probability and accuracy of each bin, and the calibration error, by what they are of.
    """
    with plt.rc_context(STYLE):
        drawn, axis = figure(WIDTH, HEIGHT + 0.5)
        axis.plot([0, 1], [0, 1], color=GRAY, linestyle=":")
        for (name, (confidence, accuracy, error)), line, color in zip(
            found.items(), ("o-", "s--"), (BLUE, ORANGE), strict=False
        ):
            axis.plot(confidence, accuracy, line, color=color, label=f"{name}: calibration error {error:.3f}")
        axis.set(xlabel="Mean predicted probability", ylabel="Accuracy", xlim=(0, 1), ylim=(0, 1))
        legend_below(drawn, axis)
        return drawn


def confusion_matrix(confusion: np.ndarray, class_names: Sequence[str], title: str = "") -> Figure:
    """How often each true class (row) was taken for each class (column); colors are proportions of a row.

    Args:
        confusion: int (classes, classes), counts.
        class_names: in their order; numbers stand for them where there are too many.
        title: what it shows, above.
    """
    count = len(class_names)
    named = count <= NAMED
    names = [short(name) for name in class_names] if named else []
    margin = 0.075 * max(map(len, names), default=0) + 0.55  # inches for names
    side = min(7.5, max(2.2, 0.3 * count)) if named else 5.5
    proportions = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    with plt.rc_context(STYLE):
        drawn, axis = figure(max(WIDTH, side + margin + 0.9), side + margin + (0.35 if title else 0.1))
        if count <= LARGEST:
            image: Any = axis.pcolormesh(proportions, cmap="cividis", vmin=0, vmax=1)
            axis.invert_yaxis()
            offset = 0.5
        else:
            image, offset = axis.imshow(proportions, cmap="cividis", vmin=0, vmax=1), 0.0
        axis.set_aspect("equal")
        if named:
            tilt: dict = {"rotation": 90} if max(map(len, names)) > 2 else {}
            axis.set_xticks(np.arange(count) + offset, names, **tilt)
            axis.set_yticks(np.arange(count) + offset, names)
        number = "" if named else " (number)"
        axis.set(xlabel=f"Predicted class{number}", ylabel=f"True class{number}", title=title)
        axis.spines[:].set_visible(False)
        axis.tick_params(length=0)
        if count <= NUMBERED:
            size = SIZE if confusion.max() < 1000 else SIZE - 2
            for row, column in np.argwhere(confusion):
                color = "black" if proportions[row, column] > 0.5 else "white"
                place = (column + offset, row + offset)
                axis.text(*place, f"{confusion[row, column]}", ha="center", va="center", color=color, fontsize=size)
        drawn.colorbar(image, ax=axis, label="Proportion of the true class", shrink=0.85)
        return drawn
