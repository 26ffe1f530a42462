"""A comparison as a page to pass on and as a note for the lab notebook, both with charts."""

import base64
import io
import itertools
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import jinja2
import numpy as np
from matplotlib.figure import Figure
from mlflow import MlflowClient

from thaw import decoding, downloads, durable, grouping, prediction, records, tracking
from thaw.comparison import Comparison
from thaw.grouping import Variant, ordered
from thaw.plots import comparison as plots
from thaw.plots import style
from thaw.plots.training import confusion_matrix
from thaw.report import common, rows, sentences, title
from thaw.tracking import Store

CURVES = 14  # variants that are drawn; more are not told apart
FACETS = 4  # pairs of learning curves
MATRICES = 3
WORST, THUMBNAIL = 12, 160  # test images on the page, and their longer side in px
PAIRS = 5  # of classes that are confused most


@dataclass(frozen=True)
class Chart:
    """A chart of a comparison; `name` is that of a file without its ending."""

    title: str
    name: str
    figure: Figure
    caption: str = ""


def charts(found: Comparison, client: MlflowClient) -> Iterator[Chart]:
    """What the runs allow to draw."""
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
    if len(points) > 1 and not any(word in found.metric for word in grouping.LOWER_IS_BETTER):
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


def write(found: Comparison, store: Store, folder: Path) -> Path:
    """Write `report.html`, and record it with the newest sweep that it compares."""
    folder.mkdir(parents=True, exist_ok=True)
    headings, lines = rows(found)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
    )
    matrix, class_names = confusion(store.client, found.variants[0])
    worst, lost = _worst(found, store)
    page = environment.get_template("report.html").render(
        found=found, headings=headings, lines=lines, common=common(found), sentences=sentences(found),
        charts=[(each.title, style.svg(each.figure), each.caption) for each in charts(found, store.client)],
        runs=[(variant, run) for variant in found.variants for run in variant.runs],
        about=_about(found, store), per_class=per_class(matrix, class_names), worst=worst, lost=lost,
    )  # fmt: skip
    durable.write_text(folder / "report.html", page)
    parents = [run.parent for run in found.runs if run.parent]
    if parents:
        store.client.log_artifact(max(parents, key=parents.count), str(folder / "report.html"))
    return folder / "report.html"


def note(found: Comparison, store: Store, folder: Path) -> Path:
    """Write `EXPERIMENT.md` and its charts: a result to commit beside its question."""
    folder.mkdir(parents=True, exist_ok=True)
    name = found.experiment.replace("/", "_")
    text = [f"# {found.experiment}", "", *([found.question, ""] if found.question else [])]
    text += [f"**{each.summary}.**\n" for each in found.verdicts]
    text += [tracking.markdown(*rows(found)), "", common(found), "", *(f"- {each}" for each in sentences(found)), ""]
    for chart in charts(found, store.client):
        style.save(chart.figure, folder / f"{name}-{chart.name}.png")
        text.append(f"![{chart.title}]({name}-{chart.name}.png)\n")
        text += [f"{chart.caption}\n"] if chart.caption else []
    commands = dict.fromkeys(_commands(found, store.client))
    text += ["Made by:", "", *(f"    {command}" for command in commands)]
    path = folder / f"{name}.md"
    durable.write_text(path, "\n".join(text).rstrip() + "\n")
    return path


def confusion(client: MlflowClient, variant: Variant) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """The confusion matrices of a variant's runs added up, int (classes, classes), and the names of the classes.

    None where no run recorded its predictions, or the runs do not have the same classes.
    """
    matrix, class_names = None, ()
    for run in variant.runs:
        answers = records.predictions(client, run.id)
        names = tuple(answers[0].probabilities) if answers else ()
        if not names or (class_names and names != class_names):
            return None, ()
        if matrix is None:
            matrix, class_names = np.zeros((len(names), len(names)), int), names
        place = {name: number for number, name in enumerate(names)}
        for answer in answers:
            matrix[place[answer.truth], place[answer.predicted]] += 1
    return matrix, class_names


def confused(matrix: np.ndarray, class_names: tuple[str, ...]) -> list[str]:
    """The pairs of classes that are taken for each other most often, in words."""
    wrong = Counter({(row, column): matrix[row, column] for row, column in np.argwhere(matrix) if row != column})
    return [
        f"{class_names[row]} taken for {class_names[column]} ({count} of {matrix[row].sum()})"
        for (row, column), count in wrong.most_common(PAIRS)
    ]


def per_class(matrix: np.ndarray | None, class_names: tuple[str, ...]) -> list[tuple[str, float, float, float, int]]:
    """Of each class precision, recall and F1 in [0, 1], 0 where undefined, and the number of its test images."""
    if matrix is None:
        return []
    right = np.diag(matrix)
    precision = right / np.maximum(matrix.sum(axis=0), 1)
    recall = right / np.maximum(matrix.sum(axis=1), 1)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    return list(zip(class_names, precision, recall, f1, matrix.sum(axis=1), strict=True))


def _learning_curves(found: Comparison, client: MlflowClient) -> Iterator[Chart]:
    """Loss and accuracy of validation; apart for names where numbers vary, too, so that colours say one thing."""
    numbers = [key for key in found.varied if key in ("unfreeze", "fraction")]
    across = [key for key in found.varied if key not in numbers] if numbers else []
    shown = found.variants[:CURVES]
    facets = list(dict.fromkeys(tuple(variant.values[key] for key in across) for variant in shown))[:FACETS]
    for facet in facets:
        curves, names = [], []
        for variant in shown:
            if tuple(variant.values[key] for key in across) != facet:
                continue
            name = grouping.named({key: value for key, value in variant.values.items() if key not in across})
            name = variant.values[numbers[0]] if len(numbers) == 1 else name or variant.name
            histories = _histories(client, variant)
            if histories:
                names.append(name)
                curves += [plots.Curve(name, *history) for history in histories]
        if not curves:
            continue
        where = grouping.named(dict(zip(across, facet, strict=True)))
        suffix = f"-{'-'.join(facet)}".replace("/", "_") if facet else ""
        legend = numbers[0] if len(numbers) == 1 else ""
        for key, unit in (("val_loss", "Validation cross-entropy (nats)"), ("val_accuracy", "Validation accuracy")):
            told = f"{unit.partition(' (')[0]}{f', {where}' if where else ''}"
            figure = plots.learning_curves(curves, ordered(names), key, unit, legend)
            yield Chart(told, f"curves-{key}{suffix}", figure)


def _histories(client: MlflowClient, variant: Variant) -> list[tuple[plots.Epochs, int | None]]:
    """Of each of the variant's runs what the curves show, and the place of the epoch that was kept.

    Runs without epochs are left out. A stage that stopped early leaves out steps.
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
            found.append((epochs, steps.index(kept) if kept in steps else None))
    return found


def _scored(found: Comparison, variant: Variant) -> plots.Scored:
    points = tuple(run.metrics[found.metric] for run in variant.runs)
    return plots.Scored(variant.score.value, variant.score.low, variant.score.high, points, variant.over)


def _groups(found: Comparison, key: str) -> list[plots.Group]:
    """The scores by the values of a key, for each choice of the others."""
    names = [
        grouping.named({other: value for other, value in each.values.items() if other != key})
        for each in found.variants
    ]
    groups = plots.groups(ordered(names))
    for name, variant in zip(names, found.variants, strict=True):
        groups[name].scores[variant.values[key]] = _scored(found, variant)
    return list(groups.values())


def _heat_maps(found: Comparison, score: str) -> Iterator[Chart]:
    """A map for each pair of choices, at the best variant's values of all others: never a mean over them."""
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
        where = f"with {grouping.named(fixed)}" if fixed else ""
        yield Chart(
            f"{score} by {first} and {second}", f"{first}_{second}", plots.heat_map(grid, lines, columns, labels, where)
        )


def _about(found: Comparison, store: Store) -> list[tuple[str, str]]:
    """What was compared, when, on which data and with which code, for the head of the page."""
    best = found.variants[0].runs[0]
    counts = [f"{best.params[f'images.{name}']} {name}" for name in ("train", "validation", "test")
              if f"images.{name}" in best.params]  # fmt: skip
    digests = sorted({run.images for run in found.runs} - {""})
    data = best.params.get("dataset", "")
    if counts:
        data += f": {', '.join(counts)} images in {best.params.get('classes', '?')} classes"
    if digests:
        data += f"; digest {digests[0]}" if len(digests) == 1 else f"; {len(digests)} divisions"
    commits = sorted({run.tags.get("mlflow.source.git.commit", "") for run in found.runs} - {""})
    dirty = any(run.tags.get("thaw.git_clean") == "false" for run in found.runs)
    newest = time.strftime("%Y-%m-%d", time.localtime(max(run.started for run in found.runs) / 1000))
    said = {
        "Written": time.strftime("%Y-%m-%d %H:%M"),
        "Runs": f"{len(found.runs)}, the newest of {newest}",
        "Data": data,
        "Versions": _versions(store.client, best.id),
        "Commit": ", ".join(each[:12] for each in commits) + (" with uncommitted changes" if dirty and commits else ""),
    }
    return [(key, value) for key, value in said.items() if value]


def _versions(client: MlflowClient, run: str) -> str:
    """The versions that shape results, as the run recorded them; nothing if that is lost."""
    try:
        lines = records.artifact(client, run, "packages.txt").splitlines()
    except Exception:  # every kind of artifact store has its own
        return ""
    found = dict(line.split("==") for line in lines if "==" in line)
    return ", ".join(f"{name} {found[name]}" for name in ("thaw", "tensorflow", "keras") if name in found)


def _worst(found: Comparison, store: Store) -> tuple[list[tuple[str, str, str, float]], str]:
    """The test images that the best run got most wrong: picture, true and predicted class, probability of the truth.

    Returns:
        These, and why there are none.
    """
    run = store.client.get_run(found.variants[0].runs[0].id)
    try:
        dataset = prediction.settings(store, run).dataset
        if dataset.source == "tfds":
            return [], ""  # which takes TensorFlow
        if dataset.source == "archive" and not downloads.is_unpacked(dataset.url, dataset.sha256):
            return [], f"they are not here; python predict.py --run {run.info.run_id} --worst 12 fetches them"
        return [
            (_thumbnail(picture.source), said.truth, said.predicted, said.probabilities[said.truth])
            for picture, said in prediction.worst(store, run, WORST)
            if said.truth != said.predicted
        ], ""
    except Exception as error:  # the page does not fail for a run of before, or one whose files or images are lost
        return [], " ".join(str(error).split())


def _thumbnail(source: Path | np.ndarray) -> str:
    """A small JPEG as a data URI."""
    from PIL import Image

    written = io.BytesIO()
    Image.fromarray(decoding.photograph(source, THUMBNAIL)).save(written, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(written.getvalue()).decode()}"


def _commands(found: Comparison, client: MlflowClient) -> Iterator[str]:
    """The commands that made the runs: of each its sweep's, if it belongs to one."""
    of_sweep = cache(lambda sweep: client.get_run(sweep).data.tags.get("thaw.command", ""))
    for run in found.runs:
        yield of_sweep(run.parent) if run.parent else run.command
