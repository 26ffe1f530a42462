"""Every picture. Colours are Okabe and Ito's, which people with any colour vision tell apart."""

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np

if TYPE_CHECKING:
    from thaw.classifier import Answer

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#777777"
GREEN, RED, LIGHT = "#009E73", "#D55E00", "#DDDDDD"
COLOURS = (BLUE, ORANGE, "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LINES, MARKERS = ("-", "--", ":", "-."), ("o", "s", "^", "D", "v", "P", "X")
LONGEST = 22  # signs of a class's name in a small picture
MANY = 40  # classes; the names of more are not legible
STYLE = {
    "font.size": 12,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.dpi": 110,
    "text.parse_math": False,
}  # names of classes may have a $


def learning_curves(history: list[dict[str, float]], boundary: int, path: Path) -> None:
    """Draw loss and accuracy against the epoch.

    Args:
        history: of each epoch `loss`, `accuracy`, `val_loss`, `val_accuracy`.
        boundary: how many epochs belong to the first stage; a line marks where the second begins.
        path: of the PNG.
    """
    epochs = np.arange(1, len(history) + 1)
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
        for axis, name, unit in zip(axes, ("loss", "accuracy"), ("Cross-entropy (nats)", "Accuracy"), strict=True):
            axis.plot(epochs, [each[name] for each in history], "o-", color=BLUE, label="training")
            axis.plot(epochs, [each[f"val_{name}"] for each in history], "s--", color=ORANGE, label="validation")
            if 0 < boundary < len(history):
                axis.axvline(boundary + 0.5, color=GREY, linestyle=":", label="fine-tuning begins")
            axis.set(xlabel="Epoch", ylabel=unit)
            axis.xaxis.get_major_locator().set_params(integer=True)
        axes[0].set_ylim(bottom=0)
        axes[0].legend(frameon=False)
        _save(figure, path)


def confusion_matrix(confusion: np.ndarray, class_names: tuple[str, ...], path: Path) -> None:
    """Draw how often each true class (row) was taken for each class (column); colours are shares of a row.

    Classes are numbered where there are too many for names.
    """
    named = len(class_names) <= MANY
    side = max(4.5, 0.55 * len(class_names) + 2) if named else 9
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(side + 1, side), layout="constrained")
        image = axis.imshow(shares, cmap="cividis", vmin=0, vmax=1)
        if named:
            ticks = np.arange(len(class_names))
            tilt = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if max(map(len, class_names)) > 2 else {}
            axis.set_xticks(ticks, class_names, **tilt)
            axis.set_yticks(ticks, class_names)
        number = "" if named else " (number)"
        axis.set(xlabel=f"Predicted class{number}", ylabel=f"True class{number}")
        axis.spines[:].set_visible(False)
        if len(class_names) <= 30:
            for row, column in np.argwhere(confusion):
                colour = "black" if shares[row, column] > 0.5 else "white"
                axis.text(column, row, confusion[row, column], ha="center", va="center", color=colour, fontsize=10)
        figure.colorbar(image, ax=axis, label="Share of the true class", shrink=0.8)
        _save(figure, path)


def compared_curves(curves: dict[str, list[list[dict[str, float]]]], path: Path) -> None:
    """Draw validation loss and accuracy of several runs against the epoch; a ring marks where fine-tuning begins.

    Args:
        curves: by a name for the runs that have it in common, of each for each epoch `val_loss`, `val_accuracy` and
            `stage`; they are drawn alike.
        path: of the PNG.
    """
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, 2, figsize=(11, 4.6), layout="constrained")
        drawn = [(number, name, history) for number, (name, runs) in enumerate(curves.items()) for history in runs]
        for number, name, history in drawn:
            epochs = np.arange(1, len(history) + 1)
            colour, line = COLOURS[number % len(COLOURS)], LINES[number // len(COLOURS) % len(LINES)]
            label = name if history is curves[name][0] else None
            begins = [
                epoch for epoch in range(1, len(history)) if history[epoch]["stage"] > history[epoch - 1]["stage"]
            ]
            for axis, key in zip(axes, ("val_loss", "val_accuracy"), strict=True):
                values = [each[key] for each in history]
                axis.plot(epochs, values, line, marker=".", color=colour, label=label)
                for epoch in begins:
                    axis.plot(epoch + 1, values[epoch], "o", markersize=9, fillstyle="none", color=colour)
        for axis, unit in zip(axes, ("Validation cross-entropy (nats)", "Validation accuracy"), strict=True):
            axis.set(xlabel="Epoch (ring: fine-tuning begins)", ylabel=unit)
            axis.xaxis.get_major_locator().set_params(integer=True)
        _legend_below(figure, axes[0])
        _save(figure, path)


def against(
    lines: dict[str, dict[str, tuple[float, float, float]]],
    ticks: list[str],
    label: str,
    score: str,
    path: Path,
    logarithmic: bool,
) -> None:
    """Draw scores with their intervals against a parameter, one line for each name.

    Args:
        lines: by name, by the parameter's value, a score with the ends of its interval.
        ticks: the values in their order.
        label: of the parameter, with its unit.
        score: what the score is.
        path: of the PNG.
        logarithmic: whether the values are numbers above 0, to be drawn on a logarithmic axis.
    """
    places = [math.log10(float(tick)) for tick in ticks] if logarithmic else list(range(len(ticks)))
    beside = (0.03 if logarithmic else 0.08) * (places[-1] - places[0]) / max(len(ticks) - 1, 1)
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(7, 4.6), layout="constrained")
        for number, (name, points) in enumerate(lines.items()):
            aside = beside * (number - (len(lines) - 1) / 2) * min(1, 4 / len(lines))
            x = [place + aside for place, tick in zip(places, ticks, strict=True) if tick in points]
            values, low, high = np.transpose([points[tick] for tick in ticks if tick in points])
            axis.errorbar(
                x, values, [values - low, high - values], color=COLOURS[number % len(COLOURS)], capsize=3,
                marker=MARKERS[number % len(MARKERS)], label=name,
                linestyle=LINES[number // len(COLOURS) % len(LINES)],
            )  # fmt: skip
        axis.set_xticks(places, ticks)
        axis.set(xlabel=label, ylabel=f"{score} (95 % interval)")
        if len(lines) > 1:
            _legend_below(figure, axis)
        _save(figure, path)


def pareto(points: dict[str, tuple[float, float, float, float]], score: str, path: Path) -> None:
    """Draw scores with their intervals against training seconds, and the front that nothing beats in both.

    Args:
        points: by name: seconds, score, and the ends of its interval.
        score: what the score is; more is better.
        path: of the PNG.
    """
    order = sorted(points.items(), key=lambda point: (point[1][0], -point[1][1]))
    front: list[tuple[float, float]] = []
    for _, (seconds, value, _, _) in order:
        if not front or value > front[-1][1]:
            front.append((seconds, value))
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(8, 5.4), layout="constrained")
        axis.step(
            *zip(*front, strict=True), where="post", color=GREY, linestyle=":", label="nothing is better and quicker"
        )
        for number, (name, (seconds, value, low, high)) in enumerate(order):
            axis.errorbar(
                seconds, value, [[value - low], [high - value]], color=COLOURS[number % len(COLOURS)], capsize=3,
                marker=MARKERS[number % len(MARKERS)], linestyle="none", label=name,
            )  # fmt: skip
        axis.set(xlabel="Training time (s)", ylabel=f"{score} (95 % interval)")
        _legend_below(figure, axis)
        _save(figure, path)


def confusions(matrices: dict[str, np.ndarray], class_names: tuple[str, ...], path: Path) -> None:
    """Draw the shares of each true class (row) that were taken for each class (column), side by side by name."""
    side = min(6.0, max(3.0, 0.32 * len(class_names) + 0.9))
    names = [_short(name) for name in class_names] if len(class_names) <= 30 else []
    margin = 0.6 + 0.085 * max(map(len, names), default=0)  # inches
    with plt.rc_context(STYLE):
        size = (side * len(matrices) + margin + 1.2, side + margin + 0.6)
        figure, axes = plt.subplots(1, len(matrices), figsize=size, layout="constrained", squeeze=False, sharey=True)
        ticks = np.arange(len(names))
        tilt = {"rotation": 90} if max(map(len, class_names)) > 2 else {}
        for axis, (name, matrix) in zip(axes[0], matrices.items(), strict=True):
            shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
            image = axis.imshow(shares, cmap="cividis", vmin=0, vmax=1)
            axis.set_title(textwrap.fill(name, int(10 * side)), fontsize=11)
            axis.set_xticks(ticks, names, fontsize=9, **tilt)
            axis.set_yticks(ticks, names, fontsize=9)
            axis.set(xlabel="Predicted class")
            axis.spines[:].set_visible(False)
        axes[0][0].set(ylabel="True class")
        figure.colorbar(image, ax=axes, label="Share of the true class", shrink=0.9)
        _save(figure, path)


def heat_map(values: np.ndarray, rows: list[str], columns: list[str], labels: tuple[str, str, str], path: Path) -> None:
    """Draw a score for every pair of two parameters' values.

    Args:
        values: float (rows, columns); NaN where there is no run.
        rows: the values of the first parameter.
        columns: the values of the second.
        labels: of the rows, of the columns, and of the score.
        path: of the PNG.
    """
    with plt.rc_context(STYLE):
        size = (0.9 * len(columns) + 3.4, 0.55 * len(rows) + 1.9)
        figure, axis = plt.subplots(figsize=size, layout="constrained")
        image = axis.imshow(values, cmap="cividis", aspect="auto")
        axis.set_xticks(np.arange(len(columns)), columns)
        axis.set_yticks(np.arange(len(rows)), rows)
        axis.set(xlabel=labels[1], ylabel=labels[0])
        axis.spines[:].set_visible(False)
        middle = np.nanmean([np.nanmin(values), np.nanmax(values)])
        for row, column in np.argwhere(~np.isnan(values)):
            colour = "black" if values[row, column] > middle else "white"
            axis.text(column, row, f"{values[row, column]:.3f}", ha="center", va="center", color=colour, fontsize=11)
        figure.colorbar(image, ax=axis, label=labels[2])
        _save(figure, path)


def answers(given: Sequence["Answer"], path: Path) -> None:
    """Draw pictures with what a model says of them: its most probable classes as bars, the frame green if it is right,
    red if it is wrong, and without a colour where nobody knows; and where the answer comes from, if that is known.
    """
    columns = min(4, len(given))
    lines = -(-len(given) // columns)
    with plt.rc_context(STYLE):
        figure = plt.figure(figsize=(2.9 * columns, 3.9 * lines), layout="constrained")
        grid = figure.add_gridspec(2 * lines, columns, height_ratios=[3, 1] * lines)
        for number, answer in enumerate(given):
            line, column = divmod(number, columns)
            picture, bars = (figure.add_subplot(grid[2 * line + part, column]) for part in (0, 1))
            picture.imshow(answer.pixels)
            if answer.heat is not None:
                picture.imshow(answer.heat, cmap="inferno", alpha=0.55 * answer.heat, vmin=0, vmax=1)
            colour = GREY if answer.truth is None else GREEN if answer.truth == answer.top[0][0] else RED
            picture.set_xticks([])
            picture.set_yticks([])
            picture.spines[:].set(visible=True, color=colour, linewidth=4)
            wrong = answer.truth not in (None, answer.top[0][0])
            told = _short(answer.top[0][0]) + (f", not {_short(answer.truth)}" if wrong else "")
            picture.set_title(textwrap.fill(told, LONGEST + 4), fontsize=11)
            names = [name for name, _ in answer.top]
            bars.barh(range(len(names)), [value for _, value in answer.top], color=[colour, *[LIGHT] * len(names)])
            for place, (name, value) in enumerate(answer.top):
                bars.text(0.02, place, f"{_short(name)} {100 * value:.0f} %", va="center", fontsize=9)
            bars.invert_yaxis()
            bars.set(xlim=(0, 1), xticks=[], yticks=[])
            bars.spines[:].set_visible(False)
        _save(figure, path)


def _short(name: str) -> str:
    """A class's name, or its beginning where it is long."""
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"


def _legend_below(figure: plt.Figure, axis: plt.Axes) -> None:
    """One legend for all, under the axes, so that it hides nothing."""
    handles, labels = axis.get_legend_handles_labels()
    widest = max(map(len, labels))
    columns = max(1, min(len(labels), int(11 * figure.get_size_inches()[0] / (widest + 6))))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False, fontsize=10)


def as_number(text: str) -> float | None:
    """The number that a text is; None for words."""
    try:
        return float(text)
    except ValueError:
        return None


def _save(figure: plt.Figure, path: Path) -> None:
    figure.savefig(path)
    plt.close(figure)
