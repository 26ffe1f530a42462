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


def test_the_interval_of_a_proportion_is_wilsons():
    found = statistics.proportion_interval(81, 263)  # Newcombe 1998, table I: 0.2553 to 0.3662
    assert (found.low, found.high) == (pytest.approx(0.2553, abs=1e-4), pytest.approx(0.3662, abs=1e-4))
    assert statistics.proportion_interval(360, 360).high == 1.0
    assert statistics.proportion_interval(360, 360).low < 1.0


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
    interval, p = statistics.paired_t_test([0.91, 0.81, 0.71], [0.90, 0.80, 0.69])
    assert interval.value == pytest.approx(0.0133, abs=1e-4)
    assert p == pytest.approx(0.0572, abs=1e-3)
    assert statistics.paired_t_test([0.5, 0.6], [0.5, 0.6])[1] == 1.0


def test_seeds_that_differ_by_the_same_are_no_proof():
    interval, p = statistics.paired_t_test([0.80, 0.65], [0.65, 0.50])
    assert interval.low == interval.high == pytest.approx(0.15)
    assert p == 0.5
    assert statistics.paired_t_test([0.9] * 6, [0.8] * 6)[1] == scipy.stats.binomtest(6, 6).pvalue


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
    found = statistics.proportion_interval(*pair)
    assert 0 <= found.low <= found.value + 1e-12
    assert found.value - 1e-12 <= found.high <= 1


def test_folds_that_share_training_images_are_less_sure_than_seeds():
    first, second = [0.80, 0.84, 0.79, 0.83, 0.82], [0.78, 0.80, 0.78, 0.80, 0.79]
    seeds, p_seeds = statistics.paired_t_test(first, second)
    folds, p_folds = statistics.paired_t_test(first, second, overlap=1 / 4)
    assert seeds.value == folds.value
    assert (folds.high - folds.value) / (seeds.high - seeds.value) == pytest.approx((1 + 5 / 4) ** 0.5)
    assert p_seeds == pytest.approx(scipy.stats.ttest_rel(first, second).pvalue)
    assert p_folds > p_seeds


def simulated(random, seeds, gain=0.0, seed_deviation=0.0, own_images=False, images=300):
    """Two classifiers, right or wrong by image for each seed: some images are harder, some for one of them only."""
    drawn = [[], []]
    for seed in range(seeds):
        if seed == 0 or own_images:
            hardness, taste = random.normal(size=images), 0.5 * random.normal(size=(2, images))
        for variant in range(2):
            score = 0.75 + gain * variant + seed_deviation * random.normal() + hardness + taste[variant]
            right = score + 0.5 * random.normal(size=images) > 0
            names = [f"{seed if own_images else 0}/{number}" for number in range(images)]
            drawn[variant].append(dict(zip(names, right.tolist(), strict=True)))
    return drawn


def claims(monkeypatch, repeats, **case):
    """How often the two-level test and the t-test over seeds claim a difference."""
    monkeypatch.setattr(statistics, "RESAMPLES", 999)
    random, found = np.random.default_rng(0), np.zeros(2)
    for _ in range(repeats):
        first, second = simulated(random, **case)
        means = [[np.mean(list(each.values())) for each in variant] for variant in (first, second)]
        found += statistics.two_level(first, second).p_value < 0.05, statistics.paired_t_test(*means)[1] < 0.05
    return found / repeats


@pytest.mark.parametrize("own_images", [False, True])
@pytest.mark.parametrize(("seeds", "seed_deviation"), [(2, 0.1), (3, 0.0), (3, 0.1), (5, 0.3)])
def test_no_difference_is_claimed_more_often_than_stated(monkeypatch, seeds, seed_deviation, own_images):
    repeats = 400
    ours, _ = claims(monkeypatch, repeats, seeds=seeds, seed_deviation=seed_deviation, own_images=own_images)
    assert ours <= 0.05 + 2 * (0.05 * 0.95 / repeats) ** 0.5


def test_a_t_test_over_seeds_takes_the_luck_of_the_test_images_for_a_difference(monkeypatch):
    ours, t_test = claims(monkeypatch, 400, seeds=5)
    assert ours < 0.06 < 0.12 < t_test


def test_a_difference_is_seen_that_three_seeds_hide_from_a_t_test(monkeypatch):
    ours, t_test = claims(monkeypatch, 300, seeds=3, seed_deviation=0.1, gain=0.32)
    assert ours > t_test + 0.05


def test_seeds_without_any_difference_have_none():
    first, _ = simulated(np.random.default_rng(0), 3)
    found = statistics.two_level(first, first)
    assert (found.by, found.p_value) == (statistics.Interval(0.0, 0.0, 0.0), 1.0)


def test_what_would_show_a_difference_is_simulated_to_do_so(monkeypatch):
    """80 % power at 5 %: the number of seeds that is named sees the difference about that often."""
    random = np.random.default_rng(1)
    needed = []
    for _ in range(60):
        found = statistics.two_level(*simulated(random, 5, gain=0.3, seed_deviation=0.2, own_images=True))
        needed.append(statistics.seeds_needed(0.065, found, 5) or 100)
    seeds = int(np.median(needed))
    ours, _ = claims(monkeypatch, 200, seeds=seeds, gain=0.3, seed_deviation=0.2, own_images=True)
    assert 0.65 < ours < 0.95, seeds


def test_images_that_are_needed_follow_from_the_variance():
    # A difference of 2 points on 500 images of which one in ten differs: (1.96 + 0.84)^2 x 0.1 / 0.02^2 = 1,962.
    times = statistics.images_needed(0.02, 0.1 / 500)
    assert times * 500 == pytest.approx(1962, rel=0.01)
    assert statistics.images_needed(0.02, 0.1 / 500, fixed=0.001) is None
