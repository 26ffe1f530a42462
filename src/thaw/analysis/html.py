"""A comparison as a self-contained page, and as a Markdown note for the lab notebook, both with charts."""

import base64
import io
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import jinja2
import numpy as np
from mlflow import MlflowClient
from PIL import Image

from thaw import files
from thaw.analysis.charts import charts, per_class
from thaw.analysis.comparison import Comparison
from thaw.analysis.text import common, sentences, table_rows
from thaw.plots import style
from thaw.tracking import reader
from thaw.tracking.markdown import table
from thaw.tracking.names import CLEAN, COMMAND, COMMIT
from thaw.tracking.store import Store


@dataclass(frozen=True)
class Mistake:
    """A test image that the best run got wrong.

    Attributes:
        picture: uint8 (height, width, 3), as it is shown.
        truth, predicted: its classes.
        probability: of the true class.
    """

    picture: np.ndarray
    truth: str
    predicted: str
    probability: float

    @property
    def thumbnail(self) -> str:
        """The picture as a data URI."""
        written = io.BytesIO()
        Image.fromarray(self.picture).save(written, "JPEG", quality=80)
        return f"data:image/jpeg;base64,{base64.b64encode(written.getvalue()).decode()}"


def write_report(found: Comparison, store: Store, folder: Path, worst: Sequence[Mistake], why_none: str) -> Path:
    """Write `report.html`, and record it with the newest sweep in the comparison.

    Args:
        found: the comparison.
        store: that has its runs.
        folder: to write to; created.
        worst: the worst mistakes of the best run.
        why_none: why there are none, if their images are missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    headings, lines = table_rows(found)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
    )
    page = environment.get_template("report.html").render(
        found=found, headings=headings, lines=lines, common=common(found), sentences=sentences(found),
        charts=[(each.title, style.svg(each.figure), each.caption) for each in charts(found, store.client)],
        runs=[(variant, run) for variant in found.variants for run in variant.runs],
        about=_about(found, store), per_class=per_class(store.client, found.variants[0]), worst=worst, lost=why_none,
    )  # fmt: skip
    files.write_text(folder / "report.html", page)
    parents = [run.parent for run in found.runs if run.parent]
    if parents:
        store.client.log_artifact(max(parents, key=parents.count), str(folder / "report.html"))
    return folder / "report.html"


def write_note(found: Comparison, store: Store, folder: Path) -> Path:
    """Write `EXPERIMENT.md` and its charts, to be committed beside the experiment's question."""
    folder.mkdir(parents=True, exist_ok=True)
    name = found.experiment.replace("/", "_")
    text = [f"# {found.experiment}", "", *([found.question, ""] if found.question else [])]
    text += [f"**{each.summary}.**\n" for each in found.verdicts]
    text += [table(*table_rows(found)), "", common(found), "", *(f"- {each}" for each in sentences(found)), ""]
    for chart in charts(found, store.client):
        style.save(chart.figure, folder / f"{name}-{chart.name}.png")
        text.append(f"![{chart.title}]({name}-{chart.name}.png)\n")
        text += [f"{chart.caption}\n"] if chart.caption else []
    commands = dict.fromkeys(_commands(found, store.client))
    text += ["Made by:", "", *(f"    {command}" for command in commands)]
    path = folder / f"{name}.md"
    files.write_text(path, "\n".join(text).rstrip() + "\n")
    return path


def _about(found: Comparison, store: Store) -> list[tuple[str, str]]:
    """What was compared, when, on which data and with which code."""
    best = found.variants[0].runs[0]
    counts = [f"{best.params[f'images.{name}']} {name}" for name in ("train", "validation", "test")
              if f"images.{name}" in best.params]  # fmt: skip
    digests = sorted({run.images for run in found.runs} - {""})
    data = best.params.get("dataset", "")
    if counts:
        data += f": {', '.join(counts)} images in {best.params.get('classes', '?')} classes"
    if digests:
        data += f"; digest {digests[0]}" if len(digests) == 1 else f"; {len(digests)} divisions"
    commits = sorted({run.tags.get(COMMIT, "") for run in found.runs} - {""})
    dirty = any(run.tags.get(CLEAN) == "false" for run in found.runs)
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
    """The versions that a run recorded; empty if that is lost."""
    lines = (reader.artifact(client, run, "packages.txt") or "").splitlines()
    found = dict(line.split("==") for line in lines if "==" in line)
    return ", ".join(f"{name} {found[name]}" for name in ("thaw", "tensorflow", "keras") if name in found)


def _commands(found: Comparison, client: MlflowClient) -> Iterator[str]:
    """The commands that reproduce the runs; of a sweep's run that of the sweep."""
    of_sweep = cache(lambda sweep: client.get_run(sweep).data.tags.get(COMMAND, ""))
    for run in found.runs:
        yield of_sweep(run.parent) if run.parent else run.command
