"""95 % intervals of scores, and paired tests of whether a difference between two variants is real."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy import stats

LEVEL = 0.95
POWER = 0.8
RESAMPLES = 9999

# Multiple of the image noise that is subtracted from the variance between seeds. In simulations with 2 to 10 seeds, 1
# makes the test conservative if seeds hardly vary, and 2 anti-conservative (6 % at level 5 %) if they vary a lot.
NOISE = 1.5


@dataclass(frozen=True)
class Interval:
    """An estimate and the 95 % interval around it."""

    value: float
    low: float
    high: float


def proportion_interval(correct: int, count: int) -> Interval:
    """A proportion of `count` independent trials (Wilson's score interval)."""
    bounds = stats.binomtest(correct, count).proportion_ci(LEVEL, method="wilson")
    return Interval(correct / count, float(bounds.low), float(bounds.high))


def mean(values: Sequence[float]) -> Interval:
    """The mean of two or more independent values (Student's t); equal values have an interval of no width."""
    center, error = float(np.mean(values)), float(stats.sem(values))
    if error == 0:
        return Interval(center, center, center)
    low, high = stats.t.interval(LEVEL, len(values) - 1, center, error)
    return Interval(center, float(low), float(high))


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


@dataclass(frozen=True)
class TwoLevel:
    """A difference over several seeds, and where its uncertainty comes from.

    Attributes:
        by: the mean difference with its interval.
        p_value: two-sided, of no difference.
        seeds: variance of a single seed's difference due to the seed, excluding the noise of the test images.
        images: variance of the mean difference due to the choice of test images.
        shared: the part of `images` that more seeds would not reduce.
    """

    by: Interval
    p_value: float
    seeds: float
    images: float
    shared: float


def two_level(first: Sequence[Mapping[str, bool]], second: Sequence[Mapping[str, bool]]) -> TwoLevel:
    """Whether one variant is better than another, over two or more seeds and their test images.

    A score varies with the seed and with the choice of test images (Bouthillier et al. 2021, arXiv 2103.03098), so both
    are resampled. Images: a paired bootstrap; an image that several seeds test is drawn for all of them. Seeds: too few
    to draw from, so their variance is drawn from its generalised pivotal distribution (Weerahandi 1993), less what the
    images explain of it. With hundreds of seeds or few images this becomes the t-test or the bootstrap alone.

    Where every seed tests the same images, pairs are formed by image and each variant's variance between seeds is
    estimated on its own, with twice the degrees of freedom of pairing by seed. If the variants are positively
    correlated across seeds, the test is conservative.

    Args:
        first: for each seed whether the first is right, by test image.
        second: the same for the second, for the same seeds and images.
    """
    count = len(first)
    images = sorted({name for each in first for name in each})
    place = {name: index for index, name in enumerate(images)}

    def scores(variant: Sequence[Mapping[str, bool]]) -> np.ndarray:
        """float (seeds, images); NaN where a seed does not test an image."""
        found = np.full((count, len(images)), np.nan)
        for row, answers in zip(found, variant, strict=True):
            row[[place[name] for name in answers]] = list(answers.values())
        return found

    one, other = scores(first), scores(second)
    differences = one - other
    value = float(np.nanmean(differences, axis=1).mean())
    if not np.nan_to_num(differences).any():
        return TwoLevel(Interval(value, value, value), 1.0, 0.0, 0.0, 0.0)
    noise = _image_noise(differences)
    shared = max(0.0, float(noise[~np.eye(count, dtype=bool)].mean()))
    random = np.random.default_rng(0)
    each = [differences] if np.isnan(differences).any() else [one, other]
    drawn = _seed_variances(each, random)
    deviations = _resampled_images(differences, random) + random.normal(size=RESAMPLES) * np.sqrt(drawn / count)
    low, high = np.quantile(deviations, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    p_value = (1 + int((np.abs(deviations) >= abs(value) - 1e-12).sum())) / (1 + RESAMPLES)
    between = sum(max(0.0, float(np.var(np.nanmean(each, axis=1), ddof=1)) - _own_noise(each)) for each in each)
    by = Interval(value, value - float(high), value - float(low))
    return TwoLevel(by, float(p_value), between, float(noise.mean()), shared)


def _image_noise(scores: np.ndarray) -> np.ndarray:
    """The covariance of the seeds' means that comes from the choice of images, float (seeds, seeds).

    Args:
        scores: float (seeds, images), NaN where a seed does not test an image.
    """
    tested = (~np.isnan(scores)).sum(axis=1, keepdims=True)
    parts = np.nan_to_num((scores - np.nanmean(scores, axis=1, keepdims=True)) / tested)
    return parts @ parts.T


def _own_noise(scores: np.ndarray) -> float:
    """The part of the variance between seeds that comes from images: what a seed does not share with the others."""
    noise = _image_noise(scores)
    return float(np.diag(noise).mean() - noise[~np.eye(len(noise), dtype=bool)].mean())


def _seed_variances(variants: list[np.ndarray], random: np.random.Generator) -> np.ndarray:
    """Draws of the variance that seeds cause in a difference, float (RESAMPLES,).

    Args:
        variants: the scores of both variants, or their differences alone.
    """
    variances = [float(np.var(np.nanmean(each, axis=1), ddof=1)) for each in variants]
    total, squares = sum(variances), sum(variance**2 for variance in variances)
    if total == 0:
        return np.zeros(RESAMPLES)
    freedom = (len(variants[0]) - 1) * total**2 / squares  # Welch 1947
    drawn = freedom * total / random.chisquare(freedom, RESAMPLES)
    return np.maximum(0.0, drawn - NOISE * sum(map(_own_noise, variants)))


def _resampled_images(differences: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Deviations of the mean over seeds when images are drawn anew, float (RESAMPLES,)."""
    tested = (~np.isnan(differences)).sum(axis=1, keepdims=True)
    parts = np.nan_to_num((differences - np.nanmean(differences, axis=1, keepdims=True)) / tested).mean(axis=0)
    values, counts = np.unique(parts.round(12), return_counts=True)  # few: what is drawn is how often each occurs
    drawn = random.multinomial(len(parts), counts / len(parts), RESAMPLES)
    return drawn @ values - parts.sum()


def seeds_needed(difference: float, found: TwoLevel, seeds: int) -> int | None:
    """How many seeds are needed to detect a difference with 80 % power at the 5 % level; None if more than 100.

    Args:
        difference: to be seen, in the unit of the scores.
        found: what was measured.
        seeds: how many of them it has.
    """
    alone = found.seeds + (found.images - found.shared) * seeds  # per seed: averages out over seeds
    for count in range(2, 101):
        freedom = 2 * (count - 1)
        reach = stats.t.ppf((1 + LEVEL) / 2, freedom) + stats.t.ppf(POWER, freedom)
        if reach * math.sqrt(found.shared + alone / count) <= abs(difference):
            return count
    return None


def images_needed(difference: float, variance: float, fixed: float = 0.0, seeds: int | None = None) -> float | None:
    """The factor by which the test set must grow to detect a difference with 80 % power at the 5 % level; None if none.

    Args:
        difference: to be seen, in the unit of the scores.
        variance: of the mean difference, from the choice of the images that there are.
        fixed: variance that more images do not reduce.
        seeds: how many `fixed` was estimated from, which makes it uncertain; None: there is none.
    """
    quantile = partial(stats.t.ppf, df=2 * (seeds - 1)) if seeds and fixed else stats.norm.ppf
    reach = float(quantile((1 + LEVEL) / 2) + quantile(POWER))
    room = (difference / reach) ** 2 - fixed
    return variance / room if room > 0 else None


def paired_t_test(first: Sequence[float], second: Sequence[float], overlap: float = 0.0) -> tuple[Interval, float]:
    """The mean difference of pairs and the p-value of Student's paired test that it is 0.

    If all differences are equal, their variance cannot be estimated: the interval has zero width, and the p-value is
    that of the sign test.

    Args:
        first: a score for each seed, or for each fold.
        second: the same for another variant.
        overlap: for folds the number of test images for each training image. As folds train on mostly the same images,
            their scores vary less than those of independent runs; the variance is corrected for that (Nadeau and
            Bengio 2003). 0 for seeds.
    """
    differences = np.subtract(first, second)
    count, center = len(differences), float(np.mean(differences))
    error = float(stats.sem(differences)) * (1 + count * overlap) ** 0.5
    if np.allclose(differences, center, rtol=0, atol=1e-9):
        return Interval(center, center, center), 1.0 if abs(center) < 1e-9 else 2.0 * 0.5**count
    low, high = stats.t.interval(LEVEL, count - 1, center, error)
    return Interval(center, float(low), float(high)), float(2 * stats.t.sf(abs(center) / error, count - 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for multiple testing (Holm 1979), in the order given."""
    order = np.argsort(p_values)
    scaled = np.asarray(p_values)[order] * np.arange(len(p_values), 0, -1)
    corrected = np.empty(len(p_values))
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(scaled))
    return corrected.tolist()
