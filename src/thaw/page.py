"""A comparison as a page to pass on and as a note for the lab notebook, both with charts."""

import base64
import itertools
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import jinja2
import numpy as np
from mlflow import MlflowClient

from thaw import durable, figures, records, tracking
from thaw.comparison import Comparison
from thaw.grouping import Variant
from thaw.report import UNITS, common, rows, sentences, title
from thaw.statistics import Interval
from thaw.tracking import Store

CURVES = 14  # variants or lines that are drawn; more are not told apart
MATRICES = 3


def charts(found: Comparison, client: MlflowClient, folder: Path, prefix: str = "") -> Iterator[tuple[str, Path]]:
    """Draw what the runs allow; a title and a PNG for each."""
    folder.mkdir(parents=True, exist_ok=True)
    score = title(found.metric)
    curves = {variant.name: _histories(client, variant) for variant in found.variants[:CURVES]}
    curves = {name: histories for name, histories in curves.items() if histories}
    if curves:
        told = "Learning curves" if len(found.variants) <= CURVES else f"Learning curves of the best {CURVES}"
        figures.compared_curves(curves, folder / f"{prefix}learning_curves.png")
        yield told, folder / f"{prefix}learning_curves.png"
    for key in ("unfreeze", "fraction"):
        if key in found.varied:
            path, lines = folder / f"{prefix}{key}.png", _lines(found, key)
            drawn = dict(list(lines.items())[:CURVES])
            figures.against(drawn, _ordered(found, key), UNITS[key], score, path, logarithmic=key == "fraction")
            yield f"{score} against {key}{f', the best {CURVES} lines' if len(lines) > CURVES else ''}", path
    points = {variant.name: (seconds, *_ends(variant.score)) for variant in found.variants[:CURVES]
              if (seconds := variant.cost("training_seconds")) is not None}  # fmt: skip
    if len(points) > 1 and "loss" not in found.metric:
        figures.pareto(points, score, folder / f"{prefix}cost.png")
        yield f"{score} against training time", folder / f"{prefix}cost.png"
    wide = [key for key in found.varied if len(_ordered(found, key)) > 1]
    for first, second in itertools.islice(itertools.combinations(wide, 2), 3):
        path = folder / f"{prefix}{first}_{second}.png"
        columns, lines = _ordered(found, second), _ordered(found, first)
        figures.heat_map(_grid(found, first, second), lines, columns, (title(first), title(second), score), path)
        yield f"{score} by {first} and {second}", path
    matrices, class_names = _matrices(client, found.variants[:MATRICES])
    if matrices:
        figures.confusions(matrices, class_names, folder / f"{prefix}confusion.png")
        yield "What is taken for what, by the best", folder / f"{prefix}confusion.png"


def write(found: Comparison, store: Store, folder: Path) -> Path:
    """Write `report.html` and its charts, and record the page with the newest sweep that it compares."""
    drawn = [
        (title, base64.b64encode(path.read_bytes()).decode()) for title, path in charts(found, store.client, folder)
    ]
    headings, lines = rows(found)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
    )
    page = environment.get_template("report.html").render(
        found=found, headings=headings, lines=lines, common=common(found), sentences=sentences(found), charts=drawn,
        runs=[(variant, run) for variant in found.variants for run in variant.runs],
    )  # fmt: skip
    durable.write_text(folder / "report.html", page)
    parents = [run.parent for variant in found.variants for run in variant.runs if run.parent]
    if parents:
        store.client.log_artifact(max(parents, key=parents.count), str(folder / "report.html"))
    return folder / "report.html"


def note(found: Comparison, store: Store, folder: Path) -> Path:
    """Write `EXPERIMENT.md` and its charts: a result to commit beside its question."""
    drawn = list(charts(found, store.client, folder, f"{found.experiment.replace('/', '_')}-"))
    commands = dict.fromkeys(_commands(found, store.client))
    text = [
        f"# {found.experiment}", "", found.question, "", tracking.markdown(*rows(found)), "", common(found), "",
        *(f"- {sentence}" for sentence in sentences(found)), "",
        *(f"![{title}]({path.name})\n" for title, path in drawn),
        "Made by:", "", *(f"    {command}" for command in commands),
    ]  # fmt: skip
    path = folder / f"{found.experiment.replace('/', '_')}.md"
    durable.write_text(path, "\n".join(text).rstrip() + "\n")
    return path


def _commands(found: Comparison, client: MlflowClient) -> Iterator[str]:
    """The commands that made the runs: of each its sweep's, if it belongs to one."""
    of_sweep = cache(lambda sweep: client.get_run(sweep).data.tags.get("thaw.command", ""))
    for variant in found.variants:
        for run in variant.runs:
            yield of_sweep(run.parent) if run.parent else run.command


def _ends(score: Interval) -> tuple[float, float, float]:
    return score.value, score.low, score.high


def _ordered(found: Comparison, key: str) -> list[str]:
    """The values of a parameter, numbers by size and before words."""
    values = {variant.values[key] for variant in found.variants}
    return sorted(values, key=lambda text: (figures.as_number(text) is None, figures.as_number(text) or 0, text))


def _lines(found: Comparison, key: str) -> dict[str, dict[str, tuple[float, float, float]]]:
    """The scores with their intervals by the parameter's value, for each choice of the others, best first."""
    lines: dict[str, dict[str, tuple[float, float, float]]] = {}
    for variant in found.variants:
        rest = Variant({each: value for each, value in variant.values.items() if each != key}, [], variant.score)
        name = rest.name if any(rest.values.values()) else "all runs"
        lines.setdefault(name, {})[variant.values[key]] = _ends(variant.score)
    return lines


def _grid(found: Comparison, first: str, second: str) -> np.ndarray:
    """The mean score for each pair of values, NaN where there is none."""
    grid = np.full((len(_ordered(found, first)), len(_ordered(found, second))), np.nan)
    for row, column in np.ndindex(*grid.shape):
        pair = (_ordered(found, first)[row], _ordered(found, second)[column])
        scores = [each.score.value for each in found.variants if (each.values[first], each.values[second]) == pair]
        if scores:
            grid[row, column] = np.mean(scores)
    return grid


def _histories(client: MlflowClient, variant: Variant) -> list[list[dict[str, float]]]:
    """Of each of the variant's runs, for each epoch what the curves show; without those that did not record it."""
    keys = ("val_loss", "val_accuracy", "stage")
    found = []
    for run in variant.runs:
        points = [client.get_metric_history(run.id, key) for key in keys]
        values = [[point.value for point in each] for each in zip(*points, strict=False)]
        found.append([dict(zip(keys, each, strict=True)) for each in values])
    return [history for history in found if history]


def _matrices(client: MlflowClient, variants: list[Variant]) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """The confusion matrices of each variant's first run, and the names of the classes, the same for all."""
    matrices: dict[str, np.ndarray] = {}
    class_names: tuple[str, ...] = ()
    for variant in variants:
        answers = records.predictions(client, variant.runs[0].id)
        names = tuple(answers[0].probabilities) if answers else ()
        if not names or (class_names and names != class_names):
            continue
        class_names = names
        matrix = np.zeros((len(names), len(names)), int)
        for answer in answers:
            matrix[names.index(answer.truth), names.index(answer.predicted)] += 1
        matrices[variant.name] = matrix
    return matrices, class_names
