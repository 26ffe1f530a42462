"""`make check-data`: what is wrong with a dataset, and the balance of its classes."""

import sys
from pathlib import Path

import hydra
from rich.table import Table
from rich.text import Text

from thaw import progress
from thaw.cli import argv, command, terminal
from thaw.config import compose
from thaw.config.validate import validate
from thaw.data.checks import CLASS_EXCLUDED, balance
from thaw.data.dataset import load_dataset
from thaw.workspace import Workspace


def main() -> int:
    """Print everything that is wrong; status 1 if anything is."""
    return command.run(lambda: _check(sys.argv[1:]))


def _check(words: list[str]) -> int:
    console = terminal.console()
    compose.register()
    with hydra.initialize_config_dir(str(compose.CONF), version_base="1.3"):
        config = validate(hydra.compose("config", [*argv.prepared(words), "dataset.on_bad=skip"]))
    with terminal.Display(console) as display, progress.reporting_to(display):
        workspace = Workspace(Path(config.store)).create()
        dataset = load_dataset(config.dataset, config.seed, workspace.root)
    labels = {name: split.labels for name, split in dataset.splits().items()}
    shown = Table("class", *labels, title=Text(dataset.name), title_justify="left", header_style="bold")
    for column in shown.columns[1:]:
        column.justify = "right"
    for line in balance(dataset.class_names, labels):
        shown.add_row(*map(Text, line))
    console.print(shown)
    console.print(dataset.summary)
    for name, reason in sorted(dataset.excluded.items()):
        if reason != CLASS_EXCLUDED:
            console.print(f"  {name}: {reason}")
    return int(bool(dataset.excluded))


if __name__ == "__main__":
    sys.exit(main())
