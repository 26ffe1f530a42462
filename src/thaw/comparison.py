"""Recorded runs side by side: what varies, how good each variant is, and which differences are real.

Variants are ordered by validation accuracy and tested on the test images. Reads MLflow only; TensorFlow is not needed.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache

import numpy as np
from mlflow import MlflowClient

from thaw import grouping, records, statistics
from thaw.config import nearest
from thaw.errors import ThawError
from thaw.grouping import CHOOSING, REPORTED, SHORT, Key, Variant, choices
from thaw.records import Run
from thaw.statistics import Interval
from thaw.tracking import Store

TESTED = 4  # of the best variants, each against each other
RESULT = ("activations.dtype", "training.evaluate")  # shape a result, besides its stages and short parameters
SMALLEST = 0.001  # difference for which it is worth saying what would show it


@dataclass(frozen=True)
class Difference:
    """Two variants on the same test images.

    Attributes:
        better: the one with the better score on these.
        other: the other one.
        by: how much better, with its interval.
        test: what was tested, in words.
        p_value: of no difference.
        needs: what would show a difference of that size, in words; nothing where that is not known.
        corrected: the p-value corrected for being one of several (Holm).
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
        """What the numbers allow to say."""
        points = f"{100 * self.by.value:+.1f} points"
        if self.by.low < self.by.high:
            points += f", 95 % from {100 * self.by.low:+.1f} to {100 * self.by.high:+.1f}"
        numbers = f"{points}; {self.test}, p {_p(self.p_value)}, corrected {_p(self.corrected)}"
        if self.is_real:
            return f"{self.better.name} is better than {self.other.name} ({numbers})"
        needs = f"; {self.needs}" if self.needs else ""
        return f"{self.better.name} and {self.other.name} are not distinguishable ({numbers}{needs})"


@dataclass(frozen=True)
class Verdict:
    """What a comparison says of one choice.

    Attributes:
        key: the parameter.
        variant: with the choice that is asked about.
        baseline: what it is held against, which differs in that choice alone.
        difference: between the two.
    """

    key: str
    variant: Variant
    baseline: Variant
    difference: Difference

    @property
    def summary(self) -> str:
        """One sentence that answers the question, without the statistics."""
        if self.difference.by.value == 0 and all(run.note for run in self.variant.runs):
            note = self.variant.runs[0].note
            return f"No gain from {self.key} {self.variant.values[self.key]}: {note[0].lower()}{note[1:]}"
        sign = 1 if self.difference.better is self.variant else -1
        value, low, high = (sign * 100 * each for each in _ends(self.difference.by, sign))
        points = f"{value:+.1f} points"
        if low < high:
            points += f" ({low:+.1f} to {high:+.1f})"
        costs = [each.mean("training_seconds") for each in (self.variant, self.baseline)]
        cost = ""
        if all(costs) and not 0.95 < (times := costs[0] / costs[1]) < 1.05:
            cost = f", {times:{'.0f' if times >= 10 else '.2g'}} times the training time"
        chosen, held = self.variant.values[self.key], self.baseline.values[self.key]
        claim = ("hurts", "", "helps")[self.difference.is_real * sign + 1]
        return f"{_claim(self.key, chosen, held, claim)} {points}{cost}{self._context()}"

    def _context(self) -> str:
        """What both have in common, where more than this key varies."""
        same = {key: value for key, value in self.variant.values.items() if key != self.key}
        return f", with {grouping.named(same)}" if same else ""


def _claim(key: str, chosen: str, held: str, claim: str) -> str:
    one, other = (math.inf if each == "all" else grouping.as_number(each) for each in (chosen, held))
    grows = one is not None and other is not None and one > other
    if key == "unfreeze" and grows:
        layers = f"{chosen} layers"
        what = "unfreezing" if held == "0" else f"unfreezing more than {held} layers"
    elif key == "fraction" and grows:
        layers, what = f"{chosen} % of the training images", f"more data than {held} %"
    elif key == "augmentation" and held == "none":
        layers, what = chosen, "augmentation"
    elif claim:
        better, worse = (chosen, held) if claim == "helps" else (held, chosen)
        return f"{key}: {better} is better than {worse}; {chosen}"
    else:
        return f"No difference shown between {key} {chosen} and {held}: {chosen}"
    return f"{what[0].upper()}{what[1:]} {claim}: {layers}" if claim else f"No gain shown from {what}: {layers}"


def _ends(by: Interval, sign: int) -> tuple[float, float, float]:
    return (by.value, by.low, by.high) if sign > 0 else (by.value, by.high, by.low)


@dataclass(frozen=True)
class Comparison:
    """What was found.

    Attributes:
        experiment: its name.
        question: that its newest sweep asks, or nothing.
        order_by: the metric that orders the variants.
        metric: of their scores.
        varied: the keys that vary between variants.
        averaged_over: the keys that vary within them.
        variants: best first.
        others: runs that are not finished, or did not record the metric.
        verdicts: what the differences say of each choice.
        differences: between the best, and to the simplest.
        unpaired: why some were not tested against each other; nothing if all were.
    """

    experiment: str
    question: str
    order_by: str
    metric: str
    varied: list[str]
    averaged_over: list[str]
    variants: list[Variant]
    others: list[Run]
    verdicts: list[Verdict]
    differences: list[Difference]
    unpaired: str

    @property
    def runs(self) -> list[Run]:
        """All that are compared."""
        return [run for variant in self.variants for run in variant.runs]


def compare(
    store: Store,
    experiment: str | None,
    metric: str = CHOOSING,
    by: list[str] | None = None,
    runs: list[str] | None = None,
    against: str | None = None,
) -> Comparison:
    """Compare the runs of an experiment, or some of them.

    Args:
        store: to read from.
        experiment: its name; None for the one with the newest run.
        metric: that says which is better, as recorded. By default validation accuracy, so that nothing is chosen on
            the test images; the scores are then those of the test.
        by: the keys whose values make a variant; none: all that vary.
        runs: the ids of those to compare; none: all.
        against: KEY=VALUE of the variants that the others are tested against; None: the best against each other and
            against the simplest.

    Raises:
        ThawError: there is no such experiment, run, metric, key or value, or nothing is finished.
    """
    name, number = records.experiment(store.client, experiment)
    recorded = records.runs(store, number)
    if unknown := set(runs or []) - {run.id for run in recorded}:
        raise ThawError(f"The experiment {name} has no run {', '.join(sorted(unknown))}; give ids as MLflow shows them")
    chosen = [run for run in recorded if run.id in runs] if runs else _distinct(recorded)
    reported = REPORTED if metric == CHOOSING else metric
    finished = [run for run in chosen if run.status == "FINISHED" and {metric, reported} <= set(run.metrics)]
    if not finished:
        known = sorted({key for run in chosen for key in run.metrics})
        if any(run.status == "FINISHED" for run in chosen):
            raise ThawError(f"No run of {name} has recorded the metric {metric}{nearest(metric, known)}")
        raise ThawError(f"The experiment {name} has no finished run; train some first")
    varied = by or grouping.varied(finished)
    if unknown := [key for key in varied if not any(key in run.params for run in finished)]:
        keys = sorted({key for run in finished for key in run.params})
        raise ThawError(f"The runs of {name} have no parameter {unknown[0]}{nearest(unknown[0], keys)}")
    variants = grouping.grouped(finished, varied, metric, reported)
    averaged_over = [
        key for key in grouping.varied(finished) if any(len(choices(each.runs, [key])) > 1 for each in variants)
    ]
    asked = [*_asked(variants, varied, against)]
    pairs = []
    if against is None:
        simplest = min(variants, key=grouping.simplicity)
        best = variants[:TESTED]
        pairs = [*itertools.combinations(best, 2), *((each, simplest) for each in best if each is not simplest)]
    pairs += [(variant, baseline) for _, variant, baseline in asked]
    differences, unpaired = _differences(store.client, pairs, averaged_over, reported)
    tested = {_pair(each.better, each.other): each for each in differences}
    verdicts = [
        Verdict(*each, tested[_pair(*each[1:])]) for each in asked if _pair(*each[1:]) in tested and _differ_in(*each)
    ]
    others = [run for run in chosen if run not in finished]
    return Comparison(
        name, records.question(store.client, number), metric, reported, varied, averaged_over, variants, others,
        verdicts, differences, unpaired,
    )  # fmt: skip


def _asked(variants: list[Variant], varied: list[str], against: str | None) -> Iterator[tuple[str, Variant, Variant]]:
    """For each key that varies the best variant that has one to be held against, and that one.

    With `against` each of the best, even if what it is held against differs in more than that key.

    Raises:
        ThawError: `against` names no key or value that varies.
    """
    if against is not None:
        key, _, value = against.partition("=")
        if key not in varied:
            raise ThawError(
                f"--against {against}: what varies is {', '.join(varied) or 'nothing'}; give KEY=VALUE of it"
            )
        known = grouping.ordered(variant.values[key] for variant in variants)
        if value not in known:
            raise ThawError(f"--against {against}: there is no such value; {key} is {', '.join(known)}")
        others = [each for each in variants if each.values[key] != value]
        for variant in others[:TESTED]:
            baselines = [each for each in variants if each.values[key] == value]
            yield key, variant, _counterpart(variant, baselines, key) or baselines[0]
        return
    for key in varied:
        values = grouping.ordered(variant.values[key] for variant in variants)
        plain = {"unfreeze": values[0], "fraction": values[0], "augmentation": "none"}.get(key)
        baselines = [each for each in variants if each.values[key] == plain] if plain in values else variants
        for variant in variants:
            if baseline := _counterpart(variant, baselines, key):
                yield key, variant, baseline
                break


def _counterpart(variant: Variant, baselines: list[Variant], key: str) -> Variant | None:
    """The baseline that differs from the variant in that key alone."""
    return next((each for each in baselines if _differ_in(key, variant, each)), None)


def _differ_in(key: str, one: Variant, other: Variant) -> bool:
    """Whether two variants differ in that key alone."""
    return {other_key for other_key in one.values if one.values[other_key] != other.values[other_key]} == {key}


def _pair(one: Variant, other: Variant) -> frozenset[int]:
    return frozenset((id(one), id(other)))


def _distinct(runs: list[Run]) -> list[Run]:
    """Of finished runs with the same stages and choices the newest: one result, trained again or recorded again."""
    seen, kept = set(), []
    for run in runs:
        result = (run.stages, *(run.params.get(key) for key in (*RESULT, *SHORT)))
        if run.status == "FINISHED" and run.stages:
            if result in seen:
                continue
            seen.add(result)
        kept.append(run)
    return kept


def _differences(
    client: MlflowClient, pairs: list[tuple[Variant, Variant]], averaged_over: list[str], metric: str
) -> tuple[list[Difference], str]:
    """Each pair once, on the same test images; and why some were not tested."""
    if metric != REPORTED:
        return [], f"only {REPORTED} is tested for differences, not {metric}"
    answers = cache(lambda run: _answers(client, run))
    found, unpaired = [], []
    for first, second in {_pair(*each): each for each in pairs}.values():
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
    """Over the seeds or folds that both have, if there are two; else over the test images of one run each."""
    one, other = grouping.by_split(first.runs), grouping.by_split(second.runs)
    shared = [
        key for key in one if key in other and choices(one[key], averaged_over) == choices(other[key], averaged_over)
    ]
    folds = [key for key in shared if key[1]]
    seeds = list({seed: (seed, *rest) for seed, *rest in shared}.values())
    mixed = first.mixed or second.mixed
    if len({fold for _, fold, _ in folds}) > 1:
        # As many test images for each training image as the fewest folds leave.
        overlap = max(1 / (int(run.params["dataset.folds"]) - 1) for key in folds for run in one[key])
        by, p_value = statistics.paired_t_test(*_accuracies(folds, one, other), overlap)
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
        by, p_value = statistics.paired_t_test(*_accuracies(seeds, one, other))
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
    said = [answers(run.id) for run in same[0]]
    if set(said[0]) != set(said[1]) or not said[0]:
        return None
    right = [np.array([each[name] for name in sorted(each)]) for each in said]
    each = " of one run each" if len(first.runs) > 1 or len(second.runs) > 1 else ""
    test = f"exact McNemar test on {len(said[0])} images{each}"
    by = statistics.difference(*right)
    variance = float(np.var(right[0].astype(float) - right[1])) / len(right[0])
    needs = _needs_images(by.value, statistics.images_needed(by.value, variance), len(right[0]))
    return _ordered(first, second, by, test, statistics.mcnemar(*right), needs)


def _needs_images(difference: float, times: float | None, images: int) -> str:
    """How many test images would show a difference, in words; nothing where none would, or it is next to nothing."""
    if times is None or times <= 1 or abs(difference) < SMALLEST:
        return ""
    return f"{100 * abs(difference):.1f} points would need about {_rounded(times * images)} test images"


def _needs_more(found: statistics.TwoLevel, seeds: int, images: int) -> str:
    """How many seeds or test images would show a difference, in words."""
    difference = found.by.value
    times = statistics.images_needed(difference, found.images, found.seeds / seeds, seeds)
    count = statistics.seeds_needed(difference, found, seeds)
    times = times if times and times > 1 else None  # what there is did not do
    count = count if count and count > seeds else None
    if abs(difference) < SMALLEST or (times is None and count is None):
        return ""
    wanted = [f"{count} seeds"] * (count is not None) + [f"{_rounded((times or 0) * images)} test images"] * bool(times)
    return f"{100 * abs(difference):.1f} points would need about {' or '.join(wanted)}"


def _rounded(count: float) -> str:
    return f"{float(f'{count:.2g}'):,.0f}"


def _ordered(first: Variant, second: Variant, by: Interval, test: str, p_value: float, needs: str = "") -> Difference:
    """The difference with the better one first: on what both were tested on it may be another than in all."""
    if by.value < 0:
        return Difference(second, first, Interval(-by.value, -by.high, -by.low), test, p_value, needs)
    return Difference(first, second, by, test, p_value, needs)


def _t_test(by: Interval, over: str, corrected: str = "") -> str:
    """What `statistics.paired_t_test` tested with, and whether that was corrected."""
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
