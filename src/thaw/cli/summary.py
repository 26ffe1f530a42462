"""What `train.py` prints at its end."""

import shlex

from rich.console import Console
from rich.table import Table
from rich.text import Text

from thaw.cli.command import store_option, ui_command
from thaw.cli.terminal import link
from thaw.runs.outcome import Outcome
from thaw.sweeps.summary import Summary, rows


def results_table(outcomes: list[Outcome], varied: list[str]) -> Table:
    """The runs of a sweep, best first."""
    headings, lines = rows(outcomes, varied)
    title = f"{len(outcomes)} run{'s' * (len(outcomes) != 1)}, best validation accuracy first"
    shown = Table(title=title, title_justify="left", header_style="bold")
    for number, heading in enumerate(headings):
        text = 0 < number <= len(varied) or heading == "status"
        shown.add_column(Text(heading), justify="left" if text else "right", overflow="fold" if text else "ellipsis")
    for line in lines:
        shown.add_row(*map(Text, line))
    return shown


def print_sweep(summary: Summary, console: Console) -> None:
    """Print the table of a sweep, what failed, and where to look next."""
    outcomes, root = summary.outcomes, summary.workspace.root
    if outcomes:
        console.print(results_table(outcomes, summary.varied))
    for number, each in enumerate(outcomes, 1):
        if each.error:
            console.print(f"{number} {each.name} {each.status}: {each.error}")
    for note in dict.fromkeys(each.note for each in outcomes if each.note):
        console.print(f"{note}: {', '.join(each.name for each in outcomes if each.note == note)}.")
    if summary.missing:
        console.print(f"{summary.missing[0]} of {summary.missing[1]} runs did not start.")
    if summary.printed:
        console.print(f"What the jobs printed is in {summary.printed} until the same command completes the sweep.")
    if summary.pages:
        console.print(f"Side by side in MLflow (start it with {ui_command(root)}):")
        for title, page in summary.pages.items():
            console.print(link(console, f"  {title}", page))
        experiment = shlex.quote(summary.experiment)
        console.print(f"Intervals and tests: python compare.py {experiment}{store_option(root)}")
    _print_store(summary, console)


def print_run(summary: Summary, console: Console) -> None:
    """Print where a single run is recorded."""
    for each in summary.outcomes:
        if each.note:
            console.print(f"{each.note}.")
    for page in summary.pages.values():
        console.print(link(console, f"In MLflow (start it with {ui_command(summary.workspace.root)})", page))
    _print_store(summary, console)


def _print_store(summary: Summary, console: Console) -> None:
    summary.workspace.remove_empty_launches()
    pending = summary.pending
    if pending.pending:
        why = f" ({pending.reason})" if pending.reason else ""
        console.print(
            f"{pending.runs} runs have {pending.pending} entries not yet sent to MLflow{why}; the next command or "
            "make sync sends them."
        )
    console.print(Text(f"Store: {summary.workspace.usage()}", style="dim"))
