"""Recorded runs into variants, which differ in what one chooses: what that is, and how good each is."""

import math
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


@dataclass(frozen=True)
class Variant:
    """The runs that differ in their seed alone, or in what `by` leaves open.

    Attributes:
        values: what varies between variants, by key.
        runs: by seed.
        score: the mean of the metric with its interval; without one where the runs say nothing of it.
    """

    values: dict[str, str]
    runs: list[Run]
    score: Interval

    @property
    def name(self) -> str:
        """What varies, in few words."""
        words = [value if key in SHORT and not _is_number(value) else f"{key}={value}"
                 for key, value in self.values.items()]  # fmt: skip
        return " ".join(words) or self.runs[0].name

    @property
    def mixed(self) -> bool:
        """Whether some of its runs differ in more than seed, fold and test images: in a choice that it leaves open."""
        return _mixed(self.runs)

    def cost(self, metric: str) -> float | None:
        """The mean of a metric such as `training_seconds`; None where it was not recorded."""
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


def grouped(runs: list[Run], varied: list[str], metric: str) -> list[Variant]:
    """The runs by their choices for the keys in `varied`; the variant with the best mean of the metric first."""
    groups: dict[tuple, list[Run]] = {}
    for run in runs:
        groups.setdefault(tuple(run.params.get(key, "") for key in varied), []).append(run)
    found = [
        Variant(dict(zip(varied, values, strict=True)), sorted(each, key=lambda run: run.seed), _score(each, metric))
        for values, each in groups.items()
    ]
    sign = 1 if any(word in metric for word in LOWER_IS_BETTER) else -1

    def rank(variant: Variant) -> tuple[bool, float]:
        value = variant.score.value
        return (True, 0.0) if math.isnan(value) else (False, sign * value)

    return sorted(found, key=rank)


def choices(runs: list[Run], keys: list[str]) -> set[tuple[str, ...]]:
    """What the runs chose for these keys."""
    return {tuple(run.params.get(key, "") for key in keys) for run in runs}


def _score(runs: list[Run], metric: str) -> Interval:
    """Over several runs their mean; of one the interval that the number of test images alone gives to an accuracy."""
    values = [run.metrics[metric] for run in runs]
    if _mixed(runs):  # they vary by choice, not by chance
        return Interval(*[float(np.mean(values))] * 3)
    if len(values) > 1:
        mean = statistics.mean(values)
        if not any(share in metric for share in SHARES):
            return mean
        return Interval(mean.value, max(0.0, mean.low), min(1.0, mean.high))
    images = int(runs[0].params.get("images.test", 0))
    if metric == "test_accuracy" and images:
        return statistics.share(round(values[0] * images), images)
    return Interval(values[0], values[0], values[0])


def _mixed(runs: list[Run]) -> bool:
    return any(len(each) > 1 for each in by_split(runs).values())


def by_split(runs: list[Run]) -> dict[Key, list[Run]]:
    """The runs by seed, fold and test images; several in a place where they differ in what a variant leaves open."""
    found: dict[Key, list[Run]] = {}
    for run in runs:
        found.setdefault((run.seed, run.params.get("dataset.fold", ""), run.images), []).append(run)
    return found


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return text == "all"
    return True
