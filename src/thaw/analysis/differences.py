"""Paired tests of variants on the same test images: effect size, significance, and the sample size needed."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache

import numpy as np
from mlflow import MlflowClient

from thaw import statistics
from thaw.analysis.variants import Key, Variant, by_split, choices
from thaw.statistics import Interval
from thaw.tracking import reader
from thaw.tracking.names import TEST
from thaw.tracking.reader import Run

SMALLEST = 0.001  # difference for which it is worth computing what would show it


@dataclass(frozen=True)
class Difference:
    """Two variants on the same test images.

    Attributes:
        better: the one with the better score on these.
        other: the other one.
        by: how much better, with its interval.
        test: what was tested, in words.
        p_value: of no difference.
        needs: what would show a difference of that size, in words; empty if not known.
        corrected: the Holm-adjusted p-value.
    """

    better: Variant
    other: Variant
    by: Interval
    test: str
    p_value: float
    needs: str = ""
    corrected: float = field(default=1.0)

    @property
    def is_real(self) -> bool:
        """Whether the test shows a difference."""
        return self.corrected < 1 - statistics.LEVEL

    @property
    def summary(self) -> str:
        """The conclusion with its numbers, in one sentence."""
        points = f"{100 * self.by.value:+.1f} points"
        if self.by.low < self.by.high:
            points += f", 95 % from {100 * self.by.low:+.1f} to {100 * self.by.high:+.1f}"
        numbers = f"{points}; {self.test}, p {_p(self.p_value)}, corrected {_p(self.corrected)}"
        if self.is_real:
            return f"{self.better.name} is better than {self.other.name} ({numbers})"
        needs = f"; {self.needs}" if self.needs else ""
        return f"{self.better.name} and {self.other.name} are not distinguishable ({numbers}{needs})"


def pair(one: Variant, other: Variant) -> frozenset[int]:
    """A key for two variants in any order."""
    return frozenset((id(one), id(other)))


def between(
    client: MlflowClient, pairs: list[tuple[Variant, Variant]], averaged_over: list[str], metric: str
) -> tuple[list[Difference], str]:
    """Test each pair once, on the same test images; also returns why some were not tested."""
    if metric != TEST:
        return [], f"only {TEST} is tested for differences, not {metric}"
    answers = cache(lambda run: _answers(client, run))
    found, unpaired = [], []
    for first, second in {pair(*each): each for each in pairs}.values():
        difference = _difference(first, second, averaged_over, answers)
        if difference:
            found.append(difference)
        else:
            unpaired.append(f"{first.name} and {second.name}")
    corrected = statistics.holm([each.p_value for each in found]) if found else []
    more = f" and {len(unpaired) - 1} other pairs" if len(unpaired) > 1 else ""
    what = f"the same images with the same {', '.join(averaged_over)}" if averaged_over else "the same images"
    reason = f"not tested on {what}: {unpaired[0]}{more}" if unpaired else ""
    return [replace(each, corrected=value) for each, value in zip(found, corrected, strict=True)], reason


def _difference(
    first: Variant, second: Variant, averaged_over: list[str], answers: Callable[[str], dict]
) -> Difference | None:
    """Test over the seeds or folds that both have, if there are two; else over the test images of one run each."""
    one, other = by_split(first.runs), by_split(second.runs)
    shared = [
        key for key in one if key in other and choices(one[key], averaged_over) == choices(other[key], averaged_over)
    ]
    folds = [key for key in shared if key[1]]
    seeds = list({key[0]: key for key in shared}.values())
    mixed = first.mixed or second.mixed
    if len({fold for _, fold, _ in folds}) > 1:
        # Test images per training image, of the fewest folds.
        overlap = max(1 / (int(run.params["dataset.folds"]) - 1) for key in folds for run in one[key])
        by, p_value = statistics.paired_t_test(_accuracies(folds, one), _accuracies(folds, other), overlap)
        return _ordered(first, second, by, _t_test(by, f"{len(folds)} folds", ", corrected"), p_value)
    if len(seeds) > 1:
        both = " that both have" if len(seeds) < max(len(_seeds(first)), len(_seeds(second))) else ""
        over = f"{len(seeds)} seeds{both}"
        said = [[answers(variant[key][0].id) for key in seeds] for variant in (one, other)]
        if not mixed and all(a and a.keys() == b.keys() for a, b in zip(*said, strict=True)):
            found = statistics.two_level(*said)
            images = len({image for each in said[0] for image in each})
            test = f"bootstrap over {over} and {images:,} images"
            return _ordered(first, second, found.by, test, found.p_value, _needs_more(found, len(seeds), images))
        by, p_value = statistics.paired_t_test(_accuracies(seeds, one), _accuracies(seeds, other))
        return _ordered(first, second, by, _t_test(by, over), p_value)
    if mixed:
        return None
    same = [(one[key][0], other[key][0]) for key in shared]
    same += [
        (run, another)
        for run, another in itertools.product(first.runs, second.runs)
        if run.images == another.images and choices([run], averaged_over) == choices([another], averaged_over)
    ]
    if not same:
        return None
    mine, theirs = (answers(run.id) for run in same[0])
    if set(mine) != set(theirs) or not mine:
        return None
    right = [np.array([each[name] for name in sorted(each)]) for each in (mine, theirs)]
    each = " of one run each" if len(first.runs) > 1 or len(second.runs) > 1 else ""
    test = f"exact McNemar test on {len(mine)} images{each}"
    by = statistics.difference(*right)
    variance = float(np.var(right[0].astype(float) - right[1])) / len(right[0])
    needs = _needs_images(by.value, statistics.images_needed(by.value, variance), len(right[0]))
    return _ordered(first, second, by, test, statistics.mcnemar(*right), needs)


def _needs_images(difference: float, times: float | None, images: int) -> str:
    """How many test images would show a difference, in words; empty if none would, or it is negligible."""
    if times is None or times <= 1 or abs(difference) < SMALLEST:
        return ""
    return f"{100 * abs(difference):.1f} points would need about {_rounded(times * images)} test images"


def _needs_more(found: statistics.TwoLevel, seeds: int, images: int) -> str:
    """How many seeds or test images would show a difference, in words."""
    difference = found.by.value
    times = statistics.images_needed(difference, found.images, found.seeds / seeds, seeds)
    count = statistics.seeds_needed(difference, found, seeds)
    times = times if times and times > 1 else None  # what there is was not enough
    count = count if count and count > seeds else None
    if abs(difference) < SMALLEST or (times is None and count is None):
        return ""
    wanted = [f"{count} seeds"] * (count is not None) + [f"{_rounded((times or 0) * images)} test images"] * bool(times)
    return f"{100 * abs(difference):.1f} points would need about {' or '.join(wanted)}"


def _rounded(count: float) -> str:
    return f"{float(f'{count:.2g}'):,.0f}"


def _ordered(first: Variant, second: Variant, by: Interval, test: str, p_value: float, needs: str = "") -> Difference:
    """The difference with the better one first, which on the shared images may differ from the overall order."""
    if by.value < 0:
        return Difference(second, first, Interval(-by.value, -by.high, -by.low), test, p_value, needs)
    return Difference(first, second, by, test, p_value, needs)


def _t_test(by: Interval, over: str, corrected: str = "") -> str:
    """Which test `statistics.paired_t_test` applied."""
    return f"paired t-test over {over}{corrected}" if by.low < by.high else f"sign test over {over}"


def _seeds(variant: Variant) -> set[str]:
    return {run.seed for run in variant.runs}


def _accuracies(keys: list[Key], variant: dict[Key, list[Run]]) -> list[float]:
    """The mean accuracy of a variant at each key."""
    return [float(np.mean([run.metrics[TEST] for run in variant[key]])) for key in keys]


def _answers(client: MlflowClient, run: str) -> dict[tuple[str, str], bool]:
    """Whether the run was right, by image and true class."""
    return {(each.file, each.truth): each.truth == each.predicted for each in reader.predictions(client, run)}


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"= {value:.3f}"
