"""Figures of several variants: learning curves, scores by choice, score against cost, and two choices at once."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from thaw.plots.style import (
    GRAY,
    HEIGHT,
    LINES,
    MARKERS,
    NAMES,
    SIZE,
    STYLE,
    WIDTH,
    colors,
    figure,
    legend_below,
    short,
)

NAMED = 8  # points of a chart that have names; more would cover each other
Epochs = list[dict[str, float]]


@dataclass(frozen=True)
class Curve:
    """The epochs of one run.

    Attributes:
        name: of its variant; curves of one name are drawn alike.
        epochs: of each epoch `val_loss`, `val_accuracy` and the number of its `stage`.
        kept: the index of the epoch whose weights were kept; None where that is not known.
    """

    name: str
    epochs: Epochs
    kept: int | None


@dataclass(frozen=True)
class Scored:
    """A variant's score.

    Attributes:
        value: the mean.
        low, high: the ends of its interval; equal where it has none.
        points: of each run.
        over: what the interval is over, in words.
    """

    value: float
    low: float
    high: float
    points: tuple[float, ...] = ()
    over: str = ""


@dataclass
class Group:
    """What is drawn alike: a name, its color and its marker."""

    name: str
    color: str
    marker: str
    line: str
    scores: dict[str, Scored] = field(default_factory=dict)


def learning_curves(curves: Sequence[Curve], values: Sequence[str], key: str, unit: str, title: str = "") -> Figure:
    """A validation metric against the epoch; a first stage that curves share is drawn once, in gray.

    Args:
        curves: what to draw; names in `values`.
        values: the names in the order of the legend; numbers get a sequence of colors.
        key: `val_loss` or `val_accuracy`.
        unit: of the vertical axis.
        title: of the legend.
    """
    shade = colors(list(values))
    first = {id(curve): sum(epoch["stage"] == 0 for epoch in curve.epochs) for curve in curves}
    heads = Counter(_head(curve, key) for curve in curves)
    shared = {head for head, count in heads.items() if count > 1 and head}
    with plt.rc_context(STYLE):
        drawn, axis = figure()
        for epoch in {boundary for curve in curves for boundary in _boundaries(curve)}:
            axis.axvline(epoch + 0.5, color=GRAY, linestyle=":", linewidth=1)
        for epoch in {first[id(curve)] for curve in curves if 0 < first[id(curve)] < len(curve.epochs)}:
            text: dict = {"xycoords": ("data", "axes fraction"), "va": "bottom", "color": GRAY}
            axis.annotate("fine-tuning", (epoch + 0.6, 1), **text)
        for number, head in enumerate(shared):
            label = "head, shared" if number == 0 else None
            axis.plot(range(1, len(head) + 1), head, ".-", color=GRAY, label=label)
        labeled = set()
        for curve in sorted(curves, key=lambda each: list(values).index(each.name)):
            points = [epoch[key] for epoch in curve.epochs]
            after = first[id(curve)] if _head(curve, key) in shared else 0
            label = curve.name if curve.name not in labeled else None
            labeled.add(curve.name)
            color, number = shade[curve.name], list(values).index(curve.name)
            if after == len(points):  # all of it is the head that others share
                axis.plot(after, points[-1], "D", color=color, label=label, linestyle="none")
            else:
                start = max(0, after - 1)
                line = LINES[number // len(NAMES) % len(LINES)]
                axis.plot(range(start + 1, len(points) + 1), points[start:], line, marker=".", color=color, label=label)
            if curve.kept is not None and curve.kept < len(points):
                ring: dict = {"markersize": 10, "fillstyle": "none", "color": color, "linestyle": "none"}
                axis.plot(curve.kept + 1, points[curve.kept], "o", **ring)
        axis.set(xlabel="Epoch (ring: the weights that were kept)", ylabel=unit)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        legend_below(drawn, axis, title or None)
        return drawn


def _boundaries(curve: Curve) -> list[int]:
    """How many epochs there are before each stage but the first."""
    stages = [epoch["stage"] for epoch in curve.epochs]
    return [place for place in range(1, len(stages)) if stages[place] != stages[place - 1]]


def _head(curve: Curve, key: str) -> tuple[float, ...]:
    """The values of the first stage, by which runs that share it are known."""
    return tuple(epoch[key] for epoch in curve.epochs if epoch["stage"] == 0)


def dots(groups: Sequence[Group], ticks: Sequence[str], label: str, score: str) -> Figure:
    """Scores by choice: each run a dot, each variant its mean with its interval.

    Args:
        groups: what differs in other choices, each with its scores by the value of this one.
        ticks: the values in their order.
        label: of the choice.
        score: what the score is.
    """
    over = {each.over for group in groups for each in group.scores.values() if each.low < each.high}
    named = f"{score} (95 % over {over.pop()})" if len(over) == 1 else f"{score} (95 % interval)" if over else score
    numbers = all(_number(tick) is not None for tick in ticks)
    step = min(0.16, 0.7 / max(len(groups), 1))
    long = not numbers and max(map(len, ticks)) > 9
    with plt.rc_context(STYLE):
        drawn, axis = figure(height=HEIGHT + (0.5 if long else 0))
        for number, group in enumerate(groups):
            aside = step * (number - (len(groups) - 1) / 2)
            places = [place + aside for place, tick in enumerate(ticks) if tick in group.scores]
            scores = [group.scores[tick] for tick in ticks if tick in group.scores]
            errors = np.transpose([_error(each) for each in scores])
            line = group.line if numbers and len(scores) > 1 else "none"
            axis.errorbar(
                places, [each.value for each in scores], errors, color=group.color, capsize=2.5, marker=group.marker,
                linestyle=line, linewidth=1, elinewidth=1.2, label=group.name if len(groups) > 1 else None,
            )  # fmt: skip
            for place, each in zip(places, scores, strict=True):
                if len(each.points) > 1:
                    run: dict = {"markersize": 3, "alpha": 0.45, "markeredgewidth": 0, "color": group.color}
                    axis.plot([place] * len(each.points), each.points, "o", **run)
        tilt: dict = {"rotation": 30, "ha": "right"} if long else {}
        axis.set_xticks(range(len(ticks)), [short(tick) for tick in ticks], **tilt)
        axis.set_xlim(-0.6, len(ticks) - 0.4)
        axis.set(xlabel=label, ylabel=named)
        legend_below(drawn, axis)
        return drawn


def pareto(points: dict[str, tuple[float, Scored]], score: str) -> Figure:
    """Scores against training time on a logarithmic axis, with the Pareto front: nothing is both better and quicker.

    Args:
        points: by name: seconds, and the score; more is better. Of many only those on the front are named.
        score: what the score is.
    """
    order = sorted(points.items(), key=lambda point: (point[1][0], -point[1][1].value))
    front: list[tuple[str, float, float]] = []
    for name, (seconds, each) in order:
        if not front or each.value > front[-1][2]:
            front.append((name, seconds, each.value))
    on_front = {name for name, *_ in front}
    are_few = len(points) <= NAMED
    with plt.rc_context(STYLE):
        drawn, axis = figure(height=HEIGHT + 0.3)
        times, values = [[each[part] for each in front] for part in (1, 2)]
        axis.step(times, values, where="post", color=GRAY, linestyle=":", label="Pareto front")
        for name, (seconds, each) in order:
            color = "#0072B2" if name in on_front else GRAY
            error = np.transpose([_error(each)])
            bar: dict = {"capsize": 2.5, "marker": "o", "linestyle": "none", "elinewidth": 1}
            axis.errorbar(seconds, each.value, error, color=color, **bar)
        axis.set_xscale("log")
        axis.margins(x=0.22, y=0.12)
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.xaxis.set_minor_formatter(NullFormatter())
        low, high = axis.get_ylim()
        used: list[tuple[float, float]] = []
        named = [(name, point) for name, point in order if are_few or name in on_front]
        for name, (seconds, each) in sorted(named, key=lambda each: each[1][1].value):
            y = each.value
            while any(abs(math.log(seconds / other)) < 1.2 and abs(y - at) < (high - low) * 0.05 for other, at in used):
                y += (high - low) * 0.05
            used.append((seconds, y))
            axis.annotate(short(name, 26), (seconds, y), (6, 3), textcoords="offset points", fontsize=SIZE - 1)
        axis.set(xlabel="Training time (s, logarithmic)", ylabel=f"{score} (95 % interval)")
        legend_below(drawn, axis)
        return drawn


def heat_map(
    values: np.ndarray, rows: list[str], columns: list[str], labels: tuple[str, str, str], title: str
) -> Figure:
    """A score for every pair of two choices, all others being the same.

    Args:
        values: float (rows, columns); NaN where there is no run.
        rows: the values of the first choice.
        columns: the values of the second.
        labels: of the rows, of the columns, and of the score.
        title: what the others are; nothing where nothing else varies.
    """
    with plt.rc_context(STYLE):
        drawn, axis = figure(max(WIDTH, 0.62 * len(columns) + 2.2), 0.4 * len(rows) + 1.5)
        image = axis.pcolormesh(values, cmap="cividis")
        axis.invert_yaxis()
        axis.set_xticks(np.arange(len(columns)) + 0.5, [short(each) for each in columns])
        axis.set_yticks(np.arange(len(rows)) + 0.5, [short(each) for each in rows])
        axis.tick_params(length=0)
        axis.set(xlabel=labels[1], ylabel=labels[0], title=title)
        axis.spines[:].set_visible(False)
        middle = np.nanmean([np.nanmin(values), np.nanmax(values)])
        for row, column in np.argwhere(~np.isnan(values)):
            color = "black" if values[row, column] > middle else "white"
            axis.text(column + 0.5, row + 0.5, f"{values[row, column]:.3f}", ha="center", va="center", color=color)
        drawn.colorbar(image, ax=axis, label=labels[2])
        return drawn


def _error(scored: Scored) -> tuple[float, float]:
    return max(0.0, scored.value - scored.low), max(0.0, scored.high - scored.value)


def groups(names: Sequence[str]) -> dict[str, Group]:
    """A group for each name, in their order, each drawn in its own way."""
    shade = colors(list(names))
    return {
        name: Group(name, shade[name], MARKERS[number % len(MARKERS)], LINES[number // 8 % len(LINES)])
        for number, name in enumerate(names)
    }


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return math.inf if text == "all" else None
