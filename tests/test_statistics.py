import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from thaw import statistics


def answers(both=0, first=0, second=0, neither=0):
    """Where two classifiers are right: on so many images both, only the first, only the second, neither."""
    one = np.repeat([True, True, False, False], [both, first, second, neither])
    other = np.repeat([True, False, True, False], [both, first, second, neither])
    return one, other


def test_the_interval_of_a_share_is_wilsons():
    found = statistics.share(81, 263)  # Newcombe 1998, table I: 0.2553 to 0.3662
    assert (found.low, found.high) == (pytest.approx(0.2553, abs=1e-4), pytest.approx(0.3662, abs=1e-4))
    assert statistics.share(360, 360).high == 1.0
    assert statistics.share(360, 360).low < 1.0


def test_the_interval_of_a_mean_is_students():
    found = statistics.mean([0.80, 0.82, 0.84, 0.86, 0.88])
    assert found.value == pytest.approx(0.84)
    assert found.high - found.value == pytest.approx(2.776 * 0.0141421, abs=1e-4)
    assert statistics.mean([0.5, 0.5]) == statistics.Interval(0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("first", "second", "p"),
    [(1, 1, 1.0), (0, 0, 1.0), (0, 5, 0.0625), (0, 6, 0.03125), (10, 20, 0.0987), (2, 12, 0.0129)],
)
def test_mcnemar_is_the_binomial_test_of_those_that_differ(first, second, p):
    assert statistics.mcnemar(*answers(100, first, second, 20)) == pytest.approx(p, abs=1e-4)


def test_a_difference_has_an_interval_that_repeats():
    one, other = answers(80, 15, 5, 20)
    found = statistics.difference(one, other)
    assert found.value == pytest.approx(10 / 120)
    assert found.low == pytest.approx(0.0083, abs=0.01)
    assert found.high == pytest.approx(0.155, abs=0.01)
    assert found == statistics.difference(one, other)
    assert statistics.difference(one, one) == statistics.Interval(0.0, 0.0, 0.0)


def test_seeds_are_paired():
    interval, p = statistics.over_seeds([0.91, 0.81, 0.71], [0.90, 0.80, 0.69])
    assert interval.value == pytest.approx(0.0133, abs=1e-4)
    assert p == pytest.approx(0.0572, abs=1e-3)
    assert statistics.over_seeds([0.5, 0.6], [0.5, 0.6])[1] == 1.0


def test_seeds_that_differ_by_the_same_are_no_proof():
    interval, p = statistics.over_seeds([0.80, 0.65], [0.65, 0.50])
    assert interval.low == interval.high == pytest.approx(0.15)
    assert p == 0.5
    assert statistics.over_seeds([0.9] * 6, [0.8] * 6)[1] == scipy.stats.binomtest(6, 6).pvalue


def test_holm_as_in_the_textbook():
    assert statistics.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_corrected_values_keep_their_order_and_never_shrink(p_values):
    corrected = statistics.holm(p_values)
    assert all(low <= high <= 1 for low, high in zip(p_values, corrected))
    ordered = [corrected[i] for i in np.argsort(p_values, kind="stable")]
    assert ordered == sorted(ordered)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_a_share_lies_in_its_interval(pair):
    found = statistics.share(*pair)
    assert 0 <= found.low <= found.value + 1e-12
    assert found.value - 1e-12 <= found.high <= 1


def test_folds_that_share_training_images_are_less_sure_than_seeds():
    first, second = [0.80, 0.84, 0.79, 0.83, 0.82], [0.78, 0.80, 0.78, 0.80, 0.79]
    seeds, p_seeds = statistics.over_seeds(first, second)
    folds, p_folds = statistics.over_seeds(first, second, overlap=1 / 4)
    assert seeds.value == folds.value
    assert (folds.high - folds.value) / (seeds.high - seeds.value) == pytest.approx((1 + 5 / 4) ** 0.5)
    assert p_seeds == pytest.approx(scipy.stats.ttest_rel(first, second).pvalue)
    assert p_folds > p_seeds
