"""A comparison as text: verdicts, a table, which differences are real, what is left out."""

from collections import Counter
from typing import Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from thaw.analysis.comparison import Comparison
from thaw.analysis.variants import LATER
from thaw.durations import duration
from thaw.tracking.names import SHORT, SIZE, VALIDATION


def _short(count: float) -> str:
    """A number of weights with about three digits: 12.8 k, 7.33 M."""
    return f"{count / 1e6:.2f} M" if count >= 1e6 else f"{count / 1e3:.1f} k" if count >= 1e4 else f"{count:,.0f}"


COSTS = {  # of a variant
    "training_seconds": ("training time", duration),
    SIZE: ("trainable params", _short),
    "images_per_second": ("images/s", "{:,.0f}".format),
}
NAMED = 20  # runs that are left out by name; more are only counted
TITLES = {
    "unfreeze": "Unfrozen layers at the end of the backbone",
    "fraction": "Training images used (%)",
    "training_seconds": "Training time (s)",
    VALIDATION: "Validation accuracy",
    "test_accuracy": "Test accuracy",
    "test_loss": "Test cross-entropy (nats)",
    "test_macro_f1": "Test macro F1",
}


def table_rows(found: Comparison) -> tuple[list[str], list[list[str]]]:
    """The table: headings, and for each variant choices, scores with interval, runs and cost; best first."""
    repeated = any(len(variant.runs) > 1 for variant in found.variants)
    costs = {metric: cost for metric, cost in COSTS.items() if any(v.mean(metric) is not None for v in found.variants)}
    chosen = [title(found.order_by).lower()] if found.order_by != found.metric else []
    over = {variant.over for variant in found.variants} - {""}
    interval = f" (95 % over {over.pop()})" if len(over) == 1 else " (95 %)" if over else ""
    headings = [
        *found.varied, *chosen, f"{title(found.metric).lower()}{interval}", *["runs"] * repeated,
        *(name for name, _ in costs.values()),
    ]  # fmt: skip
    lines = []
    for variant in found.variants:
        score = variant.score
        interval = f" ({score.low:.3f}–{score.high:.3f})" if score.low < score.high else ""
        values = [(variant.mean(metric), form) for metric, (_, form) in costs.items()]
        cost = ["–" if value is None else form(value) for value, form in values]
        count = [str(len(variant.runs))] * repeated
        ordered = [f"{variant.mean(found.order_by):.3f}"] * len(chosen)
        lines.append([*(each or "–" for each in variant.values.values()), *ordered, f"{score.value:.3f}{interval}",
                      *count, *cost])  # fmt: skip
    return headings, lines


def print_comparison(found: Comparison, console: Console) -> None:
    """Print verdicts, table, differences, and what is left out."""
    console.print(Text(f"{found.experiment}: {found.question}" if found.question else found.experiment, "bold"))
    for verdict in found.verdicts:
        console.print(Text(f"→ {verdict.summary}."))
    headings, lines = table_rows(found)
    shown = Table(title=None, header_style="bold")
    for number, heading in enumerate(headings):
        justify: Literal["left", "right"] = "left" if number < len(found.varied) else "right"
        words = [*heading.split(), "(0.000–1.000)" if heading.startswith(title(found.metric).lower()) else ""]
        narrowest = max(map(len, words))  # so that no word is broken
        shown.add_column(Text(heading), justify=justify, overflow="fold", min_width=narrowest)
    for line in lines:
        shown.add_row(*map(Text, line))
    console.print(shown)
    for sentence in sentences(found):
        console.print(Text(sentence))


def sentences(found: Comparison) -> list[str]:
    """Which differences are real, and what the table leaves out."""
    said = [f"{each.summary}." for each in found.differences]
    if any(variant.mixed for variant in found.variants):
        over = ", ".join(found.averaged_over)
        said.append(f"Rows average over {over}, so no interval is shown; add {over} to --by.")
    if found.unpaired:
        said.append(f"{found.unpaired[0].upper()}{found.unpaired[1:]}.")
    notes = Counter(run.note for run in found.runs if run.note)
    said += [f"{note} ({count} of {len(found.runs)} runs)." for note, count in notes.items()]
    for status in sorted({run.status for run in found.others}):
        names = [run.name for run in found.others if run.status == status]
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        said.append(f"Left out, {status}: {len(names)} ({', '.join(names[:NAMED])}{more}).")
    return said


def common(found: Comparison) -> str:
    """The choices that all runs have in common, but the defaults of recipe, loss, optimizer and so on."""
    values = {key: {run.params.get(key) for run in found.runs} for key in SHORT}
    same = [
        f"{key} {each.pop()}"
        for key, each in values.items()
        if len(each) == 1 and None not in each and each != {LATER.get(key)}
    ]
    return f"The same in all runs: {', '.join(same)}." if same else ""


def title(metric: str) -> str:
    """The title of a metric or key in tables and charts."""
    return TITLES.get(metric, metric)
