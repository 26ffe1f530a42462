"""Compares recorded runs: what varies, how good each variant is, and which differences are real.

Variants are ordered by validation accuracy and tested on the test images.
"""

import itertools
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

from thaw.analysis import differences
from thaw.analysis.differences import Difference, pair
from thaw.analysis.variants import (
    Variant,
    as_number,
    choices,
    completed,
    group_runs,
    named,
    ordered,
    simplicity,
    varied_keys,
)
from thaw.errors import ThawError, nearest
from thaw.statistics import Interval
from thaw.tracking import reader
from thaw.tracking.names import SHORT, TEST, VALIDATION
from thaw.tracking.reader import Run
from thaw.tracking.store import Store

TESTED = 4  # of the best variants, each against each other
RESULT = ("activations.dtype", "training.evaluate")  # shape a result, besides stages and short parameters


@dataclass(frozen=True)
class Verdict:
    """The answer to whether one choice helps.

    Attributes:
        key: the parameter.
        variant: with the choice in question.
        baseline: that differs in that choice alone.
        difference: between the two.
    """

    key: str
    variant: Variant
    baseline: Variant
    difference: Difference

    @property
    def summary(self) -> str:
        """The answer in one sentence, without the statistics."""
        if self.difference.by.value == 0 and all(run.note for run in self.variant.runs):
            note = self.variant.runs[0].note
            return f"No gain from {self.key} {self.variant.values[self.key]}: {note[0].lower()}{note[1:]}"
        sign = 1 if self.difference.better is self.variant else -1
        value, low, high = (sign * 100 * each for each in _ends(self.difference.by, sign))
        points = f"{value:+.1f} points"
        if low < high:
            points += f" ({low:+.1f} to {high:+.1f})"
        costs = [each.mean("training_seconds") for each in (self.variant, self.baseline)]
        cost, (own, theirs) = "", costs
        if own and theirs and not 0.95 < (times := own / theirs) < 1.05:
            cost = f", {times:{'.0f' if times >= 10 else '.2g'}} times the training time"
        chosen, held = self.variant.values[self.key], self.baseline.values[self.key]
        claim = ("hurts", "", "helps")[self.difference.is_real * sign + 1]
        return f"{_claim(self.key, chosen, held, claim)} {points}{cost}{self._context()}"

    def _context(self) -> str:
        """What both have in common, if more than this key varies."""
        same = {key: value for key, value in self.variant.values.items() if key != self.key}
        return f", with {named(same)}" if same else ""


def _claim(key: str, chosen: str, held: str, claim: str) -> str:
    one, other = (math.inf if each == "all" else as_number(each) for each in (chosen, held))
    grows = one is not None and other is not None and one > other
    if key == "unfreeze" and grows:
        layers = _depth(chosen)
        what = "unfreezing" if held == "0" else f"unfreezing more than {_depth(held)}"
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


def _depth(value: str) -> str:
    """20 layers, 1 block, 2 blocks, all layers."""
    blocks = re.fullmatch(r"(\d+)(blocks?)", value)
    return f"{blocks[1]} {blocks[2]}" if blocks else f"{value} layers"


def _ends(by: Interval, sign: int) -> tuple[float, float, float]:
    return (by.value, by.low, by.high) if sign > 0 else (by.value, by.high, by.low)


@dataclass(frozen=True)
class Comparison:
    """The result of a comparison.

    Attributes:
        experiment: its name.
        question: of its newest sweep, or empty.
        order_by: the metric that orders the variants.
        metric: of their scores.
        varied: the keys that vary between variants.
        averaged_over: the keys that vary within them.
        variants: best first.
        others: runs that are not finished, or did not record the metric.
        verdicts: for each choice whether it helps.
        differences: between the best variants, and to the simplest.
        unpaired: why some were not tested against each other; empty if all were.
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
        """All runs that are compared."""
        return [run for variant in self.variants for run in variant.runs]


def compare(
    store: Store,
    experiment: str | None,
    metric: str = VALIDATION,
    by: list[str] | None = None,
    runs: list[str] | None = None,
    against: str | None = None,
) -> Comparison:
    """Compare the runs of an experiment, or some of them.

    Args:
        store: to read from.
        experiment: its name; None: the one with the newest run.
        metric: orders variants. By default validation accuracy, so that nothing is chosen on the test images; the
            scores are then test accuracies.
        by: the keys that distinguish variants; none: all that vary.
        runs: the ids of the runs to compare; none: all.
        against: KEY=VALUE of the variants to test the others against; None: the best against each other and against
            the simplest.

    Raises:
        ThawError: there is no such experiment, run, metric, key or value, or nothing is finished.
    """
    name, number = reader.experiment(store.client, experiment)
    recorded = [completed(run) for run in reader.runs(store, number)]
    if unknown := set(runs or []) - {run.id for run in recorded}:
        raise ThawError(f"The experiment {name} has no run {', '.join(sorted(unknown))}; give ids as MLflow shows them")
    chosen = [run for run in recorded if run.id in runs] if runs else _distinct(recorded)
    reported = TEST if metric == VALIDATION else metric
    finished = [run for run in chosen if run.status == "FINISHED" and {metric, reported} <= set(run.metrics)]
    if not finished:
        known = sorted({key for run in chosen for key in run.metrics})
        if any(run.status == "FINISHED" for run in chosen):
            raise ThawError(f"No run of {name} has recorded the metric {metric}{nearest(metric, known)}")
        raise ThawError(f"The experiment {name} has no finished run; train some first")
    varied = by or varied_keys(finished)
    if missing := [key for key in varied if not any(key in run.params for run in finished)]:
        keys = sorted({key for run in finished for key in run.params})
        raise ThawError(f"The runs of {name} have no parameter {missing[0]}{nearest(missing[0], keys)}")
    variants = group_runs(finished, varied, metric, reported)
    averaged_over = [
        key for key in varied_keys(finished) if any(len(choices(each.runs, [key])) > 1 for each in variants)
    ]
    asked = [*_asked(variants, varied, against)]
    pairs = []
    if against is None:
        simplest = min(variants, key=simplicity)
        best = variants[:TESTED]
        pairs = [*itertools.combinations(best, 2), *((each, simplest) for each in best if each is not simplest)]
    pairs += [(variant, baseline) for _, variant, baseline in asked]
    tests, unpaired = differences.between(store.client, pairs, averaged_over, reported)
    tested = {pair(each.better, each.other): each for each in tests}
    verdicts = [
        Verdict(*each, tested[pair(*each[1:])]) for each in asked if pair(*each[1:]) in tested and _differ_in(*each)
    ]
    others = [run for run in chosen if run not in finished]
    return Comparison(
        name, reader.question(store.client, number), metric, reported, varied, averaged_over, variants, others,
        verdicts, tests, unpaired,
    )  # fmt: skip


def _asked(variants: list[Variant], varied: list[str], against: str | None) -> Iterator[tuple[str, Variant, Variant]]:
    """For each varying key the best variant that has a baseline, and that baseline.

    With `against` each of the best variants, even if the baseline differs in more than that key.

    Raises:
        ThawError: `against` is no key or value that varies.
    """
    if against is not None:
        key, _, value = against.partition("=")
        if key not in varied:
            raise ThawError(
                f"--against {against}: what varies is {', '.join(varied) or 'nothing'}; give KEY=VALUE of it"
            )
        known = ordered(variant.values[key] for variant in variants)
        if value not in known:
            raise ThawError(f"--against {against}: there is no such value; {key} is {', '.join(known)}")
        others = [each for each in variants if each.values[key] != value]
        for variant in others[:TESTED]:
            baselines = [each for each in variants if each.values[key] == value]
            yield key, variant, _counterpart(variant, baselines, key) or baselines[0]
        return
    for key in varied:
        values = ordered(variant.values[key] for variant in variants)
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


def _distinct(runs: list[Run]) -> list[Run]:
    """The newest of finished runs with the same stages and choices, which are one result recorded more than once."""
    seen, kept = set(), []
    for run in runs:
        result = (run.stages, *(run.params.get(key) for key in (*RESULT, *SHORT)))
        if run.status == "FINISHED" and run.stages:
            if result in seen:
                continue
            seen.add(result)
        kept.append(run)
    return kept
