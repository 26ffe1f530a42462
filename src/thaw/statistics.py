"""How sure a number is: 95 % intervals, and paired tests of whether a difference is real."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

LEVEL = 0.95
RESAMPLES = 9999


@dataclass(frozen=True)
class Interval:
    """An estimate and the 95 % interval around it."""

    value: float
    low: float
    high: float


def share(correct: int, count: int) -> Interval:
    """A share of `count` independent trials (Wilson's score interval)."""
    bounds = stats.binomtest(correct, count).proportion_ci(LEVEL, method="wilson")
    return Interval(correct / count, float(bounds.low), float(bounds.high))


def mean(values: Sequence[float]) -> Interval:
    """The mean of two or more independent values (Student's t); equal values have an interval of no width."""
    centre, error = float(np.mean(values)), float(stats.sem(values))
    if error == 0:
        return Interval(centre, centre, centre)
    low, high = stats.t.interval(LEVEL, len(values) - 1, centre, error)
    return Interval(centre, float(low), float(high))


def mcnemar(first: np.ndarray, second: np.ndarray) -> float:
    """The exact two-sided p-value for two classifiers being right equally often.

    Args:
        first: bool (images,), where the first is right.
        second: the same for the second, on the same images (McNemar 1947; exact: binomial on those that differ).
    """
    only_first, only_second = int((first & ~second).sum()), int((~first & second).sum())
    if only_first + only_second == 0:
        return 1.0
    return float(stats.binomtest(only_first, only_first + only_second, 0.5).pvalue)


def difference(first: np.ndarray, second: np.ndarray) -> Interval:
    """How much more often the first is right than the second: a paired bootstrap over images, percentiles.

    Args:
        first: bool (images,), where the first is right.
        second: the same for the second, on the same images.
    """
    each = first.astype(np.float64) - second.astype(np.float64)
    value = float(each.mean())
    if not each.any():
        return Interval(value, value, value)
    found = stats.bootstrap(
        (each,), np.mean, n_resamples=RESAMPLES, confidence_level=LEVEL, method="percentile", vectorized=True,
        batch=1000, rng=np.random.default_rng(0),
    )  # fmt: skip
    return Interval(value, float(found.confidence_interval.low), float(found.confidence_interval.high))


def over_seeds(first: Sequence[float], second: Sequence[float], overlap: float = 0.0) -> tuple[Interval, float]:
    """The mean difference of pairs and the p-value of Student's paired test that it is 0.

    Differences that are all the same say nothing of how they vary; their interval has no width, and the p-value is that
    of the sign test.

    Args:
        first: a score for each seed, or for each fold.
        second: the same for another variant.
        overlap: for folds the number of test images for each training image. As folds train on mostly the same images,
            their scores vary less than those of independent runs; the variance is corrected for that (Nadeau and
            Bengio 2003). 0 for seeds.
    """
    differences = np.subtract(first, second)
    count, centre = len(differences), float(np.mean(differences))
    error = float(stats.sem(differences)) * (1 + count * overlap) ** 0.5
    if np.allclose(differences, centre, rtol=0, atol=1e-9):
        return Interval(centre, centre, centre), 1.0 if abs(centre) < 1e-9 else 2.0 * 0.5**count
    low, high = stats.t.interval(LEVEL, count - 1, centre, error)
    return Interval(centre, float(low), float(high)), float(2 * stats.t.sf(abs(centre) / error, count - 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for being several (Holm 1979), in the order given."""
    order = np.argsort(p_values)
    scaled = np.asarray(p_values)[order] * np.arange(len(p_values), 0, -1)
    corrected = np.empty(len(p_values))
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(scaled))
    return corrected.tolist()
