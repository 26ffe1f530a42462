"""The charts of a comparison: learning curves, scores by choice, score against cost, heat maps, confusion matrices."""

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from mlflow import MlflowClient

from thaw.analysis.comparison import Comparison
from thaw.analysis.text import title
from thaw.analysis.variants import LOWER_IS_BETTER, Variant, named, ordered
from thaw.plots import comparison as plots
from thaw.plots.training import confusion_matrix
from thaw.tracking import reader

CURVES = 14  # variants that are drawn; more cannot be distinguished
FACETS = 4  # pairs of learning curves
MATRICES = 3
PAIRS = 5  # of classes that are confused most


@dataclass(frozen=True)
class Chart:
    """A chart of a comparison; `name` is that of a file without its suffix."""

    title: str
    name: str
    figure: Figure
    caption: str = ""


def charts(found: Comparison, client: MlflowClient) -> Iterator[Chart]:
    """Every chart that the runs allow."""
    score = title(found.metric)
    yield from _learning_curves(found, client)
    for key in found.varied:
        values = ordered(variant.values[key] for variant in found.variants)
        if 1 < len(values) <= CURVES:
            figure = plots.dots(_groups(found, key)[:CURVES], values, title(key), score)
            yield Chart(f"{score} by {key}", key, figure)
    points = {
        variant.name: (seconds, _scored(found, variant))
        for variant in found.variants[:CURVES]
        if (seconds := variant.mean("training_seconds"))
    }
    if len(points) > 1 and not any(word in found.metric for word in LOWER_IS_BETTER):
        yield Chart(f"{score} against training time", "cost", plots.pareto(points, score))
    yield from _heat_maps(found, score)
    for number, variant in enumerate(found.variants[:MATRICES], 1):
        matrix, class_names = confusion(client, variant)
        if matrix is not None:
            seeds = ", ".join(sorted({run.seed for run in variant.runs}, key=lambda text: (len(text), text)))
            several = f"Seeds {seeds} added up. " if len(variant.runs) > 1 else f"Seed {seeds}. " if seeds else ""
            figure = confusion_matrix(matrix, class_names)
            pairs = "; ".join(confused(matrix, class_names))
            caption = several + (f"Confused most: {pairs}." if pairs else "Nothing is confused.")
            yield Chart(f"Confusion matrix: {variant.name}", f"confusion-{number}", figure, caption)


def confusion(client: MlflowClient, variant: Variant) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """The sum of the confusion matrices of a variant's runs, int (classes, classes), and the class names.

    None if no run recorded its predictions, the runs do not have the same classes, or images have several.
    """
    matrix: np.ndarray | None = None
    class_names: tuple[str, ...] = ()
    for run in variant.runs:
        answers = reader.predictions(client, run.id)
        names = tuple(answers[0].probabilities) if answers else ()
        if not names or answers[0].several or (class_names and names != class_names):
            return None, ()
        if matrix is None:
            matrix, class_names = np.zeros((len(names), len(names)), int), names
        place = {name: number for number, name in enumerate(names)}
        for answer in answers:
            matrix[place[answer.truth], place[answer.predicted]] += 1
    return matrix, class_names


def confused(matrix: np.ndarray, class_names: tuple[str, ...]) -> list[str]:
    """The most frequent confusions, in words."""
    wrong = Counter({(row, column): matrix[row, column] for row, column in np.argwhere(matrix) if row != column})
    return [
        f"{class_names[row]} taken for {class_names[column]} ({count} of {matrix[row].sum()})"
        for (row, column), count in wrong.most_common(PAIRS)
    ]


def per_class(client: MlflowClient, variant: Variant) -> list[tuple[str, float, float, float, int]]:
    """Precision, recall and F1 of each class in [0, 1], 0 where undefined, and the number of its test images.

    Of all runs of a variant; empty if a run recorded no predictions, or the runs do not have the same classes.
    """
    answers = [reader.predictions(client, run.id) for run in variant.runs]
    if not all(answers) or len({tuple(each[0].probabilities) for each in answers}) > 1:
        return []
    true, predicted, right = Counter[str](), Counter[str](), Counter[str]()
    for answer in itertools.chain(*answers):
        true.update(answer.true_classes)
        predicted.update(answer.predicted_classes)
        right.update(set(answer.true_classes) & set(answer.predicted_classes))
    return [
        (
            name,
            right[name] / max(predicted[name], 1),
            right[name] / max(true[name], 1),
            2 * right[name] / max(true[name] + predicted[name], 1),
            true[name],
        )
        for name in answers[0][0].probabilities
    ]


def _learning_curves(found: Comparison, client: MlflowClient) -> Iterator[Chart]:
    """Validation loss and accuracy; if words and numbers vary, a chart for each word, so that colors mean one thing."""
    numbers = [key for key in found.varied if key in ("unfreeze", "fraction")]
    across = [key for key in found.varied if key not in numbers] if numbers else []
    shown = found.variants[:CURVES]
    facets = list(dict.fromkeys(tuple(variant.values[key] for key in across) for variant in shown))[:FACETS]
    for facet in facets:
        curves, names = [], []
        for variant in shown:
            if tuple(variant.values[key] for key in across) != facet:
                continue
            name = named({key: value for key, value in variant.values.items() if key not in across})
            name = variant.values[numbers[0]] if len(numbers) == 1 else name or variant.name
            histories = _histories(client, variant)
            if histories:
                names.append(name)
                curves += [plots.Curve(name, *history) for history in histories]
        if not curves:
            continue
        where = named(dict(zip(across, facet, strict=True)))
        suffix = f"-{'-'.join(facet)}".replace("/", "_") if facet else ""
        legend = numbers[0] if len(numbers) == 1 else ""
        for key, unit in (("val_loss", "Validation cross-entropy (nats)"), ("val_accuracy", "Validation accuracy")):
            told = f"{unit.partition(' (')[0]}{f', {where}' if where else ''}"
            figure = plots.learning_curves(curves, ordered(names), key, unit, legend)
            yield Chart(told, f"curves-{key}{suffix}", figure)


def _histories(client: MlflowClient, variant: Variant) -> list[tuple[plots.Epochs, int | None]]:
    """The epochs of each of a variant's runs, and the index of the kept one.

    Runs without epochs are left out. A stage that stopped early skips steps.
    """
    keys = ("val_loss", "val_accuracy", "stage")
    found = []
    for run in variant.runs:
        points = [client.get_metric_history(run.id, key) for key in keys]
        by_step = [{point.step: point.value for point in each} for each in points]
        steps = sorted(set.intersection(*map(set, by_step)))
        if steps:
            epochs = [dict(zip(keys, (each[step] for each in by_step), strict=True)) for step in steps]
            kept = run.metrics.get("kept_epoch")
            found.append((epochs, steps.index(int(kept)) if kept in steps else None))
    return found


def _scored(found: Comparison, variant: Variant) -> plots.Scored:
    points = tuple(run.metrics[found.metric] for run in variant.runs)
    return plots.Scored(variant.score.value, variant.score.low, variant.score.high, points, variant.over)


def _groups(found: Comparison, key: str) -> list[plots.Group]:
    """The scores by the values of a key, for each choice of the others."""
    names = [named({other: value for other, value in each.values.items() if other != key}) for each in found.variants]
    groups = plots.groups(ordered(names))
    for name, variant in zip(names, found.variants, strict=True):
        groups[name].scores[variant.values[key]] = _scored(found, variant)
    return list(groups.values())


def _heat_maps(found: Comparison, score: str) -> Iterator[Chart]:
    """A map for each pair of keys, with all other keys at the best variant's values, never averaged over."""
    best = found.variants[0].values
    wide = [key for key in found.varied if len({variant.values[key] for variant in found.variants}) > 1]
    for first, second in itertools.islice(itertools.combinations(wide, 2), 3):
        fixed = {key: value for key, value in best.items() if key not in (first, second)}
        variants = [each for each in found.variants if all(each.values[key] == fixed[key] for key in fixed)]
        lines, columns = (ordered(each.values[key] for each in variants) for key in (first, second))
        if min(len(lines), len(columns)) < 2 or len(lines) * len(columns) > 200:
            continue
        grid = np.full((len(lines), len(columns)), np.nan)
        for each in variants:
            grid[lines.index(each.values[first]), columns.index(each.values[second])] = each.score.value
        labels = (title(first), title(second), score)
        where = f"with {named(fixed)}" if fixed else ""
        yield Chart(
            f"{score} by {first} and {second}", f"{first}_{second}", plots.heat_map(grid, lines, columns, labels, where)
        )
