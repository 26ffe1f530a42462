"""Recorded runs side by side: what varies, how good each variant is and how sure that is, and what differs for real.

Read from MLflow alone; nothing here needs TensorFlow.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache

import numpy as np
from mlflow import MlflowClient

from thaw import grouping, records, statistics
from thaw.config import nearest
from thaw.errors import ThawError
from thaw.grouping import SHORT, Key, Variant, choices
from thaw.records import Run
from thaw.statistics import Interval
from thaw.tracking import Store

TESTED = 4  # of the best variants, each against each other


@dataclass(frozen=True)
class Difference:
    """Two variants on the same test images.

    Attributes:
        better: the one with the better score on these.
        other: the other one.
        by: how much better, with its interval.
        test: what was tested, in words.
        p_value: of no difference.
        corrected: the same for being one of several (Holm).
    """

    better: Variant
    other: Variant
    by: Interval
    test: str
    p_value: float
    corrected: float = field(default=1.0)

    @property
    def words(self) -> str:
        """What the numbers allow to say."""
        points = f"{100 * self.by.value:+.1f} points"
        if self.by.low < self.by.high:
            points += f", 95 % from {100 * self.by.low:+.1f} to {100 * self.by.high:+.1f}"
        told = f"{points}; {self.test}, p {_p(self.p_value)}, corrected {_p(self.corrected)}"
        if self.corrected < 1 - statistics.LEVEL:
            return f"{self.better.name} is better than {self.other.name} ({told})"
        return f"{self.better.name} and {self.other.name} are not distinguishable ({told})"


@dataclass(frozen=True)
class Comparison:
    """What was found.

    Attributes:
        experiment: its name.
        question: that its newest sweep asks, or nothing.
        metric: what variants are ordered by.
        varied: the keys that vary between them.
        left_open: the keys that vary within them.
        variants: best first.
        others: runs that are not finished, or did not record the metric.
        differences: between the best.
        unpaired: why some of the best were not tested against each other; nothing if all were.
    """

    experiment: str
    question: str
    metric: str
    varied: list[str]
    left_open: list[str]
    variants: list[Variant]
    others: list[Run]
    differences: list[Difference]
    unpaired: str


def compare(store: Store, experiment: str | None, metric: str, by: list[str], runs: list[str]) -> Comparison:
    """Compare the runs of an experiment, or some of them.

    Args:
        store: to read from.
        experiment: its name; None for the one with the newest run.
        metric: that says which is better, as recorded.
        by: the keys whose values make a variant; none: all that vary.
        runs: the ids of those to compare; none: all.

    Raises:
        ThawError: there is no such experiment, run, metric or key, or nothing is finished.
    """
    name, number = records.experiment(store.client, experiment)
    found = _distinct(records.runs(store, number))
    if unknown := set(runs) - {run.id for run in found}:
        raise ThawError(f"The experiment {name} has no run {', '.join(sorted(unknown))}; give ids as MLflow shows them")
    chosen = [run for run in found if not runs or run.id in runs]
    finished = [run for run in chosen if run.status == "FINISHED" and metric in run.metrics]
    if not finished:
        known = sorted({key for run in chosen for key in run.metrics})
        if any(run.status == "FINISHED" for run in chosen):
            raise ThawError(f"No run of {name} has recorded the metric {metric}{nearest(metric, known)}")
        raise ThawError(f"The experiment {name} has no finished run; train some first")
    varied = by or grouping.varied(finished)
    if unknown := [key for key in varied if not any(key in run.params for run in finished)]:
        keys = sorted({key for run in finished for key in run.params})
        raise ThawError(f"The runs of {name} have no parameter {unknown[0]}{nearest(unknown[0], keys)}")
    variants = grouping.grouped(finished, varied, metric)
    varying = grouping.varied(finished)
    left_open = [key for key in varying if any(len(choices(each.runs, [key])) > 1 for each in variants)]
    differences, unpaired = _differences(store.client, variants[:TESTED], left_open, metric)
    others = [run for run in chosen if run not in finished]
    question = records.question(store.client, number)
    return Comparison(name, question, metric, varied, left_open, variants, others, differences, unpaired)


def _distinct(runs: list[Run]) -> list[Run]:
    """Of finished runs with the same stages and choices the newest: one result, trained again or recorded again."""
    seen, kept = set(), []
    for run in runs:
        result = (run.stages, run.params.get("activations.dtype"), *(run.params.get(key) for key in SHORT))
        if run.status == "FINISHED" and run.stages:
            if result in seen:
                continue
            seen.add(result)
        kept.append(run)
    return kept


def _differences(
    client: MlflowClient, best: list[Variant], left_open: list[str], metric: str
) -> tuple[list[Difference], str]:
    """The best against each other, each pair on the same test images."""
    if metric != "test_accuracy":
        return [], f"only test_accuracy is tested for differences, not {metric}"
    answers = cache(lambda run: _answers(client, run))
    found, unpaired = [], []
    for first, second in itertools.combinations(best, 2):
        difference = _difference(first, second, left_open, answers)
        if difference:
            found.append(difference)
        else:
            unpaired.append(f"{first.name} and {second.name}")
    corrected = statistics.holm([each.p_value for each in found]) if found else []
    more = f" and {len(unpaired) - 1} other pairs" if len(unpaired) > 1 else ""
    what = f"the same images with the same {', '.join(left_open)}" if left_open else "the same images"
    told = f"not tested on {what}: {unpaired[0]}{more}" if unpaired else ""
    return [
        Difference(each.better, each.other, each.by, each.test, each.p_value, value)
        for each, value in zip(found, corrected, strict=True)
    ], told


def _difference(
    first: Variant, second: Variant, left_open: list[str], answers: Callable[[str], dict]
) -> Difference | None:
    """Over the seeds or folds that both have, if there are two; else over the test images of one run each."""
    one, other = grouping.by_split(first.runs), grouping.by_split(second.runs)
    shared = [key for key in one if key in other and choices(one[key], left_open) == choices(other[key], left_open)]
    folds = [key for key in shared if key[1]]
    seeds = list({seed: (seed, *rest) for seed, *rest in shared}.values())
    if len({fold for _, fold, _ in folds}) > 1:
        # As many test images for each training image as the fewest folds leave.
        overlap = max(1 / (int(run.params["dataset.folds"]) - 1) for key in folds for run in one[key])
        by, p_value = statistics.over_seeds(*_accuracies(folds, one, other), overlap)
        return _ordered(first, second, by, _paired(by, f"{len(folds)} folds", ", corrected"), p_value)
    if len(seeds) > 1:
        by, p_value = statistics.over_seeds(*_accuracies(seeds, one, other))
        both = " that both have" if len(seeds) < max(len(_seeds(first)), len(_seeds(second))) else ""
        return _ordered(first, second, by, _paired(by, f"{len(seeds)} seeds{both}"), p_value)
    if first.mixed or second.mixed:
        return None
    same = [(one[key][0], other[key][0]) for key in shared]
    same += [
        (run, another)
        for run, another in itertools.product(first.runs, second.runs)
        if run.images == another.images and choices([run], left_open) == choices([another], left_open)
    ]
    if not same:
        return None
    said = [answers(run.id) for run in same[0]]
    if set(said[0]) != set(said[1]) or not said[0]:
        return None
    right = [np.array([each[name] for name in sorted(each)]) for each in said]
    each = " of one run each" if len(first.runs) > 1 or len(second.runs) > 1 else ""
    test = f"exact McNemar test on {len(said[0])} images{each}"
    return _ordered(first, second, statistics.difference(*right), test, statistics.mcnemar(*right))


def _ordered(first: Variant, second: Variant, by: Interval, test: str, p_value: float) -> Difference:
    """The difference with the better one first: on what both were tested on it may be another than in all."""
    if by.value < 0:
        return Difference(second, first, Interval(-by.value, -by.high, -by.low), test, p_value)
    return Difference(first, second, by, test, p_value)


def _paired(by: Interval, over: str, corrected: str = "") -> str:
    """What `statistics.over_seeds` tested with, and whether that was corrected."""
    return f"paired t-test over {over}{corrected}" if by.low < by.high else f"sign test over {over}"


def _seeds(variant: Variant) -> set[str]:
    return {run.seed for run in variant.runs}


def _accuracies(keys: list[Key], *variants: dict[Key, list[Run]]) -> list[list[float]]:
    """For each variant its mean accuracy at each key."""
    return [[float(np.mean([run.metrics["test_accuracy"] for run in each[key]])) for key in keys] for each in variants]


def _answers(client: MlflowClient, run: str) -> dict[tuple[str, str], bool]:
    """Whether the run was right, by image and true class."""
    return {(each.file, each.truth): each.truth == each.predicted for each in records.predictions(client, run)}


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"= {value:.3f}"
