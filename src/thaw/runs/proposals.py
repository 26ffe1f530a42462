"""What a run with `find_rate=true` records: the loss against the learning rate of each stage, and a proposal."""

import csv
import time
from collections.abc import Mapping

from thaw.plots.style import save
from thaw.plots.training import rate_curves
from thaw.tracking.journal import Record
from thaw.tracking.names import NOTE
from thaw.training.rate_finder import FoundRates


def record_proposals(record: Record, found: Mapping[str, FoundRates], about: str, began: float) -> None:
    """Record curves, figure and proposals, and the outcome.

    Args:
        record: of the run.
        found: of each stage, by name.
        about: the description of the run as Markdown.
        began: when the run began, of `time.perf_counter`.
    """
    with (record.files / "learning_rates.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["stage", "learning_rate", "smoothed_loss"])
        for name, each in found.items():
            writer.writerows([name, rate, loss] for rate, loss in zip(each.rates, each.losses, strict=True))
    curves = {name: (each.rates, each.losses, each.proposed) for name, each in found.items()}
    save(rate_curves(curves), record.files / "learning_rates.png")
    record.artifacts(record.files)
    proposed = {f"training.{name}.learning_rate": float(f"{each.proposed:.2g}") for name, each in found.items()}
    words = " ".join(f"{key}={value:g}" for key, value in proposed.items())
    record.tags({NOTE: f"Proposed: `{words}`\n\n{about}"})
    wall_seconds = time.perf_counter() - began
    record.metrics({**{f"proposed.{name}": value for name, value in proposed.items()}, "wall_seconds": wall_seconds})
    record.outcome = {"wall_seconds": wall_seconds, "proposed": words}
