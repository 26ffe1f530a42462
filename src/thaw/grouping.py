"""Recorded runs into variants, which differ in what one chooses: what that is, and how good each is."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from thaw import statistics
from thaw.records import Run
from thaw.statistics import Interval

SHORT = ("backbone", "weights", "dataset", "fraction", "augmentation", "unfreeze", "head", "training")
# What differs between runs without being a choice that one would compare.
ASIDE = (
    "seed",
    "dataset.fold",
    "threads",
    "store",
    "weights.sha256",
    "backbone.layers",
    "tracking.uri",
    "tracking.experiment",
)
Key = tuple[str, str, str]  # a run's seed, its fold or nothing, and what identifies its test images
SHARES = ("accuracy", "f1")  # metrics in [0, 1]
LOWER_IS_BETTER = ("loss", "seconds", "parameters")
CHOOSING, REPORTED = "kept_val_accuracy", "test_accuracy"  # orders variants; stands beside it, and is tested


@dataclass(frozen=True)
class Variant:
    """The runs that differ in their seed alone, or in what `by` leaves open.

    Attributes:
        values: what varies between variants, by key.
        runs: by seed.
        score: the mean of the metric with its interval; without one where the runs say nothing of it.
        over: what the interval is over: `3 seeds`, `520 test images`; nothing without an interval.
    """

    values: dict[str, str]
    runs: list[Run]
    score: Interval
    over: str = ""

    @property
    def name(self) -> str:
        """What varies, in few words."""
        return named(self.values) or self.runs[0].name

    @property
    def mixed(self) -> bool:
        """Whether some of its runs differ in more than seed, fold and test images: in a choice that it leaves open."""
        return _mixed(self.runs)

    def mean(self, metric: str) -> float | None:
        """The mean of another metric, such as `training_seconds`; None where it was not recorded."""
        found = [run.metrics[metric] for run in self.runs if metric in run.metrics]
        return float(np.mean(found)) if found else None


def varied(runs: list[Run]) -> list[str]:
    """The parameters that vary: short ones, and others as far as these do not say the same."""
    keys = dict.fromkeys(
        key for run in runs for key in run.params if key not in ASIDE and not key.startswith("images.")
    )
    chosen: list[str] = []
    for key in [*SHORT, *(key for key in keys if key not in SHORT)]:
        if len({run.params.get(key) for run in runs}) == 1:
            continue
        told = {}
        for run in runs:
            told.setdefault(tuple(run.params.get(each) for each in chosen), set()).add(run.params.get(key))
        if key in SHORT or any(len(values) > 1 for values in told.values()):
            chosen.append(key)
    return chosen


def grouped(runs: list[Run], varied: list[str], order_by: str, metric: str) -> list[Variant]:
    """The runs by their choices for the keys in `varied`.

    Args:
        runs: recorded ones.
        varied: the keys that make a variant.
        order_by: the metric whose best mean comes first; of equal ones the simplest variant.
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
    """Choices in few words: an option of a group speaks for itself, other values need their key."""
    words = [value if key in SHORT and not _is_number(value) else f"{key}={value}" for key, value in values.items()]
    return " ".join(words)


def ordered(values: Iterable[str]) -> list[str]:
    """Values of a key, numbers by size and before words."""
    return sorted(set(values), key=lambda text: (as_number(text) is None, as_number(text) or 0, text))


def simplicity(variant: Variant) -> tuple:
    """Sorts variants: least unfrozen, least data, no augmentation, fewest weights that train."""
    depth, percent = (as_number(variant.values.get(key, "0")) for key in ("unfreeze", "fraction"))
    return (
        math.inf if depth is None else depth,
        percent or 0.0,
        variant.values.get("augmentation", "none") != "none",
        variant.mean("trainable_parameters") or 0.0,
    )


def choices(runs: list[Run], keys: list[str]) -> set[tuple[str, ...]]:
    """What the runs chose for these keys."""
    return {tuple(run.params.get(key, "") for key in keys) for run in runs}


def _score(runs: list[Run], metric: str) -> tuple[Interval, str]:
    """The mean over several runs, or the one value, with the interval around it; and what that is over."""
    values = [run.metrics[metric] for run in runs]
    if _mixed(runs):  # they vary by choice, not by chance
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
    """The runs by seed, fold and test images; several in a place where they differ in what a variant leaves open."""
    found: dict[Key, list[Run]] = {}
    for run in runs:
        found.setdefault((run.seed, run.params.get("dataset.fold", ""), run.images), []).append(run)
    return found


def _is_number(text: str) -> bool:
    return text == "all" or as_number(text) is not None


def as_number(text: str) -> float | None:
    """The number that a text is; None for words."""
    try:
        return float(text)
    except ValueError:
        return None
