"""Groups recorded runs into variants: runs with the same choices, which differ in seed or fold alone."""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from thaw import statistics
from thaw.config.schema import Config
from thaw.statistics import Interval
from thaw.tracking.names import SHORT, SIZE
from thaw.tracking.reader import Run

# Parameters that differ between runs without being a choice to compare.
NOT_COMPARED = (
    "seed", "dataset.fold", "threads", "store", "weights.sha256", "backbone.layers", "tracking.uri",
    "tracking.experiment", "finish.name", "finish.views", "finish.temperature", "finish.wise_ft",
    "finish.soup", "unfrozen.layers", "unfrozen.blocks", "unfrozen.boundary",
)  # fmt: skip
GROUPS = ("loss", "regularisation", "optimizer", "schedule", "resolution")  # that came after the first recorded runs
LATER = {
    "recipe": "notebook",
    "finish": "none",
    "reinit": "0",
    "dataset.multi_label": "False",
    "dataset.columns.separator": "|",
    **{group: getattr(Config(), group).name for group in GROUPS},
}
LATER |= {
    f"{group}.{key}": str(value)
    for group in ("augmentation", *GROUPS)
    for key, value in getattr(Config(), group)
    .model_dump(exclude={"name"} if group == "augmentation" else None, exclude_none=True)
    .items()
}
Key = tuple[str, str, str]  # a run's seed, its fold if any, and the hash of its splits
SHARES = ("accuracy", "f1")  # metrics in [0, 1]
LOWER_IS_BETTER = ("loss", "error", "seconds", "parameters")


@dataclass(frozen=True)
class Variant:
    """Runs with the same choices.

    Attributes:
        values: the choices, by key.
        runs: sorted by seed.
        score: the mean of the metric with its interval; of no width if the runs do not determine one.
        over: what the interval is over: `3 seeds`, `520 test images`; empty without an interval.
    """

    values: dict[str, str]
    runs: list[Run]
    score: Interval
    over: str = ""

    @property
    def name(self) -> str:
        """Its choices, in few words."""
        return named(self.values) or self.runs[0].name

    @property
    def mixed(self) -> bool:
        """Whether some of its runs also differ in a choice that it averages over."""
        return _mixed(self.runs)

    def mean(self, metric: str) -> float | None:
        """The mean of another metric, such as `training_seconds`; None if it was not recorded."""
        found = [run.metrics[metric] for run in self.runs if metric in run.metrics]
        return float(np.mean(found)) if found else None


def completed(run: Run) -> Run:
    """The run with the keys that came after it, as they were until then."""
    of_stages = [key for key in run.params if key.startswith("training.") and key.endswith(".optimizer")]
    params = {key: value for key, value in run.params.items() if key not in of_stages}
    if of_stages:
        params["optimizer"] = "+".join(dict.fromkeys(run.params[key] for key in of_stages))
    return replace(run, params={**LATER, **params})


def varied_keys(runs: list[Run]) -> list[str]:
    """The parameters that vary: short ones, and others that these do not determine. Recipes determine short ones."""
    keys = dict.fromkeys(
        key for run in runs for key in run.params if key not in NOT_COMPARED and not key.startswith("images.")
    )
    chosen: list[str] = []
    for key in [*SHORT, *(key for key in keys if key not in SHORT)]:
        if len({run.params.get(key) for run in runs}) == 1:
            continue
        values: dict[tuple, set[str | None]] = {}
        for run in runs:
            values.setdefault(tuple(run.params.get(each) for each in chosen), set()).add(run.params.get(key))
        is_shown = key in SHORT and "recipe" not in chosen  # which determines others
        if is_shown or any(len(each) > 1 for each in values.values()):
            chosen.append(key)
    return chosen


def group_runs(runs: list[Run], varied: list[str], order_by: str, metric: str) -> list[Variant]:
    """Group runs by their choices.

    Args:
        runs: to group.
        varied: the keys that distinguish variants.
        order_by: the metric whose best mean comes first; ties go to the simplest variant.
        metric: of the variants' scores.
    """
    groups: dict[tuple, list[Run]] = {}
    for run in runs:
        groups.setdefault(tuple(run.params.get(key, "") for key in varied), []).append(run)
    found = [
        Variant(dict(zip(varied, values, strict=True)), sorted(each, key=lambda run: run.seed), *_score(each, metric))
        for values, each in groups.items()
    ]
    sign = 1 if any(word in order_by for word in LOWER_IS_BETTER) else -1

    def rank(variant: Variant) -> tuple:
        value = variant.mean(order_by)
        known = (True, 0.0) if value is None or math.isnan(value) else (False, sign * value)
        return *known, simplicity(variant)

    return sorted(found, key=rank)


def named(values: dict[str, str]) -> str:
    """Choices in few words: options of config groups stand alone, other values have their key."""
    words = (
        value if key in SHORT and not _is_number(value) else f"{key}={value or 'null'}" for key, value in values.items()
    )
    return " ".join(words)


def ordered(values: Iterable[str]) -> list[str]:
    """The different values of a key; numbers first, in order."""
    return sorted(set(values), key=lambda text: (as_number(text) is None, as_number(text) or 0, text))


def simplicity(variant: Variant) -> tuple:
    """Sort key: least unfrozen, least data, no augmentation, fewest trainable parameters."""
    depth, percent = (as_number(variant.values.get(key, "0")) for key in ("unfreeze", "fraction"))
    return (
        math.inf if depth is None else depth,
        percent or 0.0,
        variant.values.get("augmentation", "none") != "none",
        variant.mean(SIZE) or 0.0,
    )


def choices(runs: list[Run], keys: list[str]) -> set[tuple[str, ...]]:
    """The different choices of the runs for these keys."""
    return {tuple(run.params.get(key, "") for key in keys) for run in runs}


def _score(runs: list[Run], metric: str) -> tuple[Interval, str]:
    """The mean over several runs, or the single value, with its interval; and what that is over."""
    values = [run.metrics[metric] for run in runs]
    if _mixed(runs):  # they differ by choice, not by chance
        return Interval(*[float(np.mean(values))] * 3), ""
    if len(values) > 1:
        mean = statistics.mean(values)
        over = f"{len(values)} {'folds' if any('dataset.fold' in run.params for run in runs) else 'seeds'}"
        if not any(share in metric for share in SHARES):
            return mean, over
        return Interval(mean.value, max(0.0, mean.low), min(1.0, mean.high)), over
    images = int(runs[0].params.get("images.test", 0))
    if metric == "test_accuracy" and images:
        return statistics.proportion_interval(round(values[0] * images), images), f"{images} test images"
    return Interval(values[0], values[0], values[0]), ""


def _mixed(runs: list[Run]) -> bool:
    return any(len(each) > 1 for each in by_split(runs).values())


def by_split(runs: list[Run]) -> dict[Key, list[Run]]:
    """The runs by seed, fold and splits; several with one key differ in a choice that the variant averages over."""
    found: dict[Key, list[Run]] = {}
    for run in runs:
        found.setdefault((run.seed, run.params.get("dataset.fold", ""), run.images), []).append(run)
    return found


def _is_number(text: str) -> bool:
    return text == "all" or as_number(text) is not None


def as_number(text: str) -> float | None:
    """The number of a value such as `20` or `2blocks`; None for words."""
    try:
        return float(re.sub("blocks?$", "", text))
    except ValueError:
        return None
