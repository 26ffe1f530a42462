"""A comparison in words: a table, what differs for real, what is left out."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from thaw.comparison import Comparison
from thaw.grouping import SHORT

# What a variant costs: seconds of training, weights that train, training images a second.
COSTS = {
    "training_seconds": ("seconds", "{:.1f}"),
    "trainable_parameters": ("weights", "{:,.0f}"),
    "images_per_second": ("images/s", "{:.0f}"),
}
NAMED = 20  # runs that were left out; more are only counted
UNITS = {
    "unfreeze": "Unfrozen layers at the end of the backbone",
    "fraction": "Training images used (%)",
    "training_seconds": "Training time (s)",
    "test_accuracy": "Test accuracy",
    "test_loss": "Test cross-entropy (nats)",
    "test_macro_f1": "Test macro F1",
}


def rows(found: Comparison) -> tuple[list[str], list[list[str]]]:
    """The table: headings, and for each variant what varies, score and interval, seeds and cost; best first."""
    repeated = any(len(variant.runs) > 1 for variant in found.variants)
    costs = {metric: told for metric, told in COSTS.items() if any(v.cost(metric) is not None for v in found.variants)}
    names = [name for name, _ in costs.values()]
    headings = [*found.varied, f"{title(found.metric)} (95 %)", *["runs"] * repeated, *names]
    lines = []
    for variant in found.variants:
        score = variant.score
        interval = f" ({score.low:.3f}–{score.high:.3f})" if score.low < score.high else ""
        values = [(variant.cost(metric), form) for metric, (_, form) in costs.items()]
        told = ["–" if value is None else form.format(value) for value, form in values]
        count = [str(len(variant.runs))] * repeated
        lines.append([*variant.values.values(), f"{score.value:.3f}{interval}", *count, *told])
    return headings, lines


def tell(found: Comparison, console: Console) -> None:
    """Print the table, what differs for real, and what is left out."""
    headings, lines = rows(found)
    told = Text(f"{found.experiment}: {found.question}".rstrip(": "))
    shown = Table(title=told, title_justify="left", header_style="bold")
    for number, heading in enumerate(headings):
        justify = "left" if number < len(found.varied) else "right"
        narrowest = len("(0.000–1.000)") if number == len(found.varied) else None
        shown.add_column(Text(heading), justify=justify, overflow="fold", min_width=narrowest)
    for line in lines:
        shown.add_row(*map(Text, line))
    console.print(shown)
    for sentence in sentences(found):
        console.print(sentence, markup=False)


def sentences(found: Comparison) -> list[str]:
    """Whether differences are real, and what the table leaves out."""
    said = [f"{each.words}." for each in found.differences]
    if any(variant.mixed for variant in found.variants):
        said.append(f"Means over {', '.join(found.left_open)} have no interval; name it with --by as well.")
    if found.unpaired:
        said.append(f"{found.unpaired[0].upper()}{found.unpaired[1:]}.")
    counts = {status: [run.name for run in found.others if run.status == status] for status in _statuses(found)}
    for status, names in counts.items():
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        said.append(f"Left out, {status}: {len(names)} ({', '.join(names[:NAMED])}{more}).")
    return said


def common(found: Comparison) -> str:
    """What all runs have in common, of what one chooses."""
    runs = [run for variant in found.variants for run in variant.runs]
    values = {key: {run.params.get(key) for run in runs} for key in SHORT}
    same = [f"{key} {each.pop()}" for key, each in values.items() if len(each) == 1 and None not in each]
    return f"The same in all runs: {', '.join(same)}." if same else ""


def _statuses(found: Comparison) -> list[str]:
    return sorted({run.status for run in found.others})


def title(metric: str) -> str:
    """What a metric is called on paper."""
    return UNITS.get(metric, metric)
