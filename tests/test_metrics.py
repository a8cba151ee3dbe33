"""Scores against references, PGR at its fixed points, and intervals that hold what they promise."""

import importlib.util
import math
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as sk

from outgrow.data import Floats, Ints
from outgrow.metrics import (
    HIGHEST,
    Interval,
    Means,
    Outcomes,
    agreement,
    balanced_values,
    class_values,
    complementary_accuracy,
    confusion,
    ece_floor,
    per_example,
    pgr,
    plain,
    scores,
    widened,
)

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
CLASSES = pytest.mark.parametrize("num_classes", [2, 3])


def predictions(n: int, num_classes: int, seed: int = 0) -> tuple[Floats, Ints]:
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.ones(num_classes), size=n).astype(np.float32)
    return probs, np.array([rng.choice(num_classes, p=p / p.sum()) for p in probs.astype(np.float64)])


# --- scores -----------------------------------------------------------------------------------------------------------


@CLASSES
def test_scores_match_scikit_learn(num_classes: int) -> None:
    probs, gold = predictions(200, num_classes)
    found = scores(probs, gold)
    certain = np.eye(num_classes)[gold]
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(gold, probs.argmax(1)))
    exact = probs.astype(np.float64)
    assert found["xent"] == pytest.approx(sk.log_loss(gold, exact / exact.sum(1, keepdims=True)), rel=1e-5)
    assert found["brier"] == pytest.approx(((probs - certain) ** 2).sum(1).mean())
    one_against_rest = [sk.roc_auc_score(gold == c, probs[:, c]) for c in range(num_classes)]
    assert found["auroc"] == pytest.approx(np.mean(one_against_rest))


def test_auroc_takes_probabilities_that_sum_to_one_only_nearly() -> None:
    """As labels may (to 0.001); scikit-learn alone would refuse three classes."""
    probs, gold = predictions(200, 3)
    assert scores(probs * np.float32(1.0008), gold)["auroc"] == pytest.approx(scores(probs, gold)["auroc"])


@CLASSES
def test_auroc_is_nan_where_a_class_is_missing(num_classes: int) -> None:
    probs, _ = predictions(10, num_classes)
    assert math.isnan(scores(probs, np.arange(10) % (num_classes - 1))["auroc"])


@CLASSES
def test_ece_matches_a_plain_loop(num_classes: int) -> None:
    probs, gold = predictions(300, num_classes)
    confidence, right = probs.max(1), probs.argmax(1) == gold
    total = 0.0
    for b in range(15):
        here = (confidence >= b / 15) & ((confidence < (b + 1) / 15) | (b == 14))
        if here.any():
            total += here.mean() * abs(confidence[here].mean() - right[here].mean())
    assert scores(probs, gold)["ece"] == pytest.approx(total, abs=1e-6)


def test_the_floor_of_ece_is_what_calibrated_probabilities_show() -> None:
    rng = np.random.default_rng(0)
    p = rng.uniform(0.02, 0.98, size=400)
    probs = np.stack([1 - p, p], axis=1)
    found = [scores(probs, (rng.random(400) < p).astype(np.int64))["ece"] for _ in range(300)]
    assert ece_floor(probs) == pytest.approx(np.mean(found), rel=0.05)
    assert ece_floor(np.eye(2)[[0, 1, 1]]) == 0


@CLASSES
def test_a_row_s_value_of_auroc_and_ece_holds_its_influence(num_classes: int) -> None:
    """Leaving the row out moves the score by (its value - the score) / n, as for a mean."""
    probs, gold = predictions(400, num_classes)
    values, whole = per_example(probs, gold), scores(probs, gold)
    for name, tolerance in (("auroc", 0.1), ("ece", 0.2)):
        moved = [
            (len(gold) - 1) * (whole[name] - scores(np.delete(probs, i, 0), np.delete(gold, i))[name])
            for i in range(100)
        ]
        assert np.std(values[name][:100] - whole[name] - moved) < tolerance * np.std(moved)


def test_perfect_and_certainly_wrong_predictions() -> None:
    gold = np.array([0, 1, 1])
    right, wrong = np.eye(2)[gold], np.eye(2)[1 - gold]
    assert scores(right, gold) == pytest.approx({"accuracy": 1, "xent": 0, "brier": 0, "auroc": 1, "ece": 0})
    found = scores(wrong, gold)
    assert found == pytest.approx({"accuracy": 0, "xent": -math.log(1e-7), "brier": 2, "auroc": 0, "ece": 1})


def test_agreement_splits_by_where_the_supervisor_is_right() -> None:
    student, supervisor, gold = np.array([[1, 1, 0, 0, 1], [1, 0, 0, 0, 1], [1, 0, 0, 1, 0]])
    found = agreement(student, supervisor, gold)
    assert found == {"all": 4 / 5, "supervisor_right": 2 / 3, "supervisor_wrong": 1.0}
    assert math.isnan(agreement(student, gold, gold)["supervisor_wrong"])


# --- class by class ---------------------------------------------------------------------------------------------------


@given(st.integers(0, 1000), st.integers(2, 5), st.integers(1, 3))
def test_balanced_values_average_to_the_mean_recall(seed: int, num_classes: int, num_seeds: int) -> None:
    rng = np.random.default_rng(seed)
    shares = rng.dirichlet(np.ones(num_classes))
    gold = [rng.choice(num_classes, size=40, p=shares) for _ in range(num_seeds)]
    said = [np.where(rng.random(40) < 0.6, g, rng.integers(num_classes, size=40)) for g in gold]
    values = balanced_values([s == g for s, g in zip(said, gold, strict=True)], gold)
    assert [len(v) for v in values] == [40] * num_seeds
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # classes that are predicted and do not occur
        expected = sk.balanced_accuracy_score(np.concatenate(gold), np.concatenate(said))
    assert np.concatenate(values).mean() == pytest.approx(expected)


def test_balanced_values_spread_as_the_balanced_accuracy_does() -> None:
    """Their standard error is that of the balanced accuracy over new samples: class counts vary, too."""
    rng = np.random.default_rng(0)
    found, errors = [], []
    for _ in range(600):
        gold = (rng.random(1000) < 0.1).astype(np.int64)
        right = rng.random(1000) < np.where(gold == 1, 0.5, 0.97)
        (values,) = balanced_values([right], [gold])
        found.append(values.mean())
        errors.append(values.std() / np.sqrt(1000))
    assert np.mean(errors) == pytest.approx(np.std(found), rel=0.1)


def test_recall_and_precision_count_their_own_rows() -> None:
    gold, said = np.array([0, 0, 0, 1, 1, 2]), np.array([0, 0, 1, 1, 0, 1])
    values = class_values(said, gold, 4)
    means = {k: float(np.nanmean(v)) if np.isfinite(v).any() else None for k, v in values.items()}
    assert [means[f"recall.{c}"] for c in range(4)] == [2 / 3, 1 / 2, 0, None]
    assert [means[f"precision.{c}"] for c in range(4)] == [2 / 3, 1 / 3, None, None]
    assert confusion(said, gold, 4) == [[2, 1, 0, 0], [1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]]


# --- PGR --------------------------------------------------------------------------------------------------------------


@given(st.floats(0, 1), st.floats(0, 1))
def test_pgr_is_0_at_the_supervisor_and_1_at_the_ceiling(weak: float, ceiling: float) -> None:
    if weak == ceiling:
        assert math.isnan(pgr(weak, 0.5, ceiling))
    else:
        assert pgr(weak, weak, ceiling) == 0
        assert pgr(weak, ceiling, ceiling) == 1


def outcomes(n: int, accuracies: dict[str, float], seed: int = 0, groups: Any = None) -> Outcomes:
    rng = np.random.default_rng(seed)
    values = {name: (rng.random(n) < p).astype(np.float64) for name, p in accuracies.items()}
    return Outcomes(groups=np.arange(n).astype(str) if groups is None else groups, values=values)


def difference(means: Means, a: str, b: str) -> Interval:
    return means.difference(a, b).interval(-1, 1)


def test_pgr_is_undefined_where_the_ceiling_is_not_shown_to_be_better() -> None:
    for ceiling in (0.6, 0.62, 0.4):
        means = Means([outcomes(200, {"weak": 0.6, "student": 0.7, "ceiling": ceiling})])
        found, reason = means.pgr("weak", "student", "ceiling")
        assert found is None
        assert reason is not None
        assert "not shown to be better" in reason


@given(st.integers(0, 10_000), st.integers(1, 4), st.floats(0.6, 0.85), st.integers(1, 3))
def test_pgr_is_bounded_where_the_gap_lies_above_zero_and_ends_where_fieller_says(
    seed: int, num_seeds: int, ceiling: float, group: int
) -> None:
    accuracies = {"weak": 0.6, "student": 0.68, "ceiling": ceiling}
    means = Means(
        [outcomes(150, accuracies, seed + s, (np.arange(150) // group).astype(str)) for s in range(num_seeds)]
    )
    found, reason = means.pgr("weak", "student", "ceiling")
    assert (found is not None) == (difference(means, "ceiling", "weak").low > 0) == (reason is None)
    if found is None:
        return
    assert found.low < found.value < found.high
    for theta in found[1:]:
        if math.isfinite(theta):  # there the contrast's own t interval just touches zero
            at = means.spread({"student": 1.0, "weak": theta - 1, "ceiling": -theta})
            assert abs(at.value) == pytest.approx(at.quantile * math.sqrt(at.variance), rel=1e-6)


def test_the_same_predictions_have_pgr_0_and_1_and_differ_by_exactly_nothing() -> None:
    made = [outcomes(400, {"weak": 0.6, "ceiling": 0.9}, s) for s in range(3)]
    for role, expected in (("weak", 0), ("ceiling", 1)):
        seeds = [Outcomes(groups=m.groups, values={**m.values, "student": m.values[role]}) for m in made]
        known = Means(seeds, {"student": role})
        assert known.pgr("weak", "student", "ceiling")[0] == (expected, expected, expected)
        assert difference(known, "student", role) == (0, 0, 0)
        assert known.spread({"student": 1.0, role: -1.0}).interval() == (0, 0, 0)
        found, _ = Means(seeds).pgr("weak", "student", "ceiling")  # equal on these rows is not equal
        assert found is not None
        assert found.low < expected < found.high
        assert found.value == pytest.approx(expected)


# --- variance ---------------------------------------------------------------------------------------------------------


def width(found: Interval) -> float:
    return found.high - found.low


def made_seeds(rng: np.random.Generator, num_seeds: int, num_groups: int) -> list[Outcomes]:
    """Seeds that test on some of the groups, which have several rows; two values, the second with holes."""
    seeds = []
    for _ in range(num_seeds):
        groups = rng.integers(num_groups, size=int(rng.integers(5, 30)))
        b = np.where(rng.random(len(groups)) < 0.2, np.nan, rng.normal(size=len(groups)))
        b[:2] = 1.0, 2.0
        seeds.append(Outcomes(groups=groups, values={"a": rng.normal(size=len(groups)), "b": b}))
    return seeds


@given(st.integers(0, 10_000), st.integers(1, 4), st.integers(5, 20))
def test_the_variance_is_the_sum_over_pairs_of_rows_that_share_a_seed_or_a_group(
    case: int, num_seeds: int, num_groups: int
) -> None:
    """Written out pair by pair."""
    seeds = made_seeds(np.random.default_rng(case), num_seeds, num_groups)
    seed = np.repeat(np.arange(num_seeds), [len(s.groups) for s in seeds])
    group = np.concatenate([s.groups for s in seeds])
    values = np.concatenate([s.values["a"] for s in seeds])
    r = (values - values.mean()) / len(values)
    same_seed, same_group = seed[:, None] == seed, group[:, None] == group

    def summed(together: Any) -> float:
        return float((np.outer(r, r) * together).sum() / (1 - together.mean()))

    over_seeds, over_groups = (summed(t) if num_seeds > 1 or t is same_group else 0.0 for t in (same_seed, same_group))
    both = summed(same_seed | same_group) if num_seeds > 1 else 0.0
    variance = max(over_seeds, over_groups, both)
    found = Means(seeds).spread({"a": 1.0})
    assert found.value == pytest.approx(values.mean())
    assert found.variance == pytest.approx(variance)
    effective = 1 / (np.unique(group, return_counts=True)[1] ** 2).sum() * len(group) ** 2  # Kish's number of groups
    known = over_seeds**2 / max(num_seeds - 1, 1) + over_groups**2 / (effective - 1)
    half = stats.t.ppf(0.975, variance**2 / known) * math.sqrt(variance)
    if both > over_groups:  # Banerjee's interval, which holds at least 95 % whatever the shares of the two parts
        quantiles = (stats.t.ppf(0.975, df) for df in (num_seeds - 1, effective - 1))
        parts = (both - over_groups, over_groups)
        half = max(half, math.sqrt(sum(q**2 * part for q, part in zip(quantiles, parts, strict=True))))
    assert found.interval()[1:] == pytest.approx((values.mean() - half, values.mean() + half))


@given(st.integers(0, 10_000), st.integers(1, 4))
def test_one_seed_of_independent_rows_has_student_s_interval(case: int, factor: int) -> None:
    rng = np.random.default_rng(case)
    values = factor * rng.normal(size=int(rng.integers(5, 50)))
    found = Means([Outcomes(groups=np.arange(len(values)), values={"a": values})]).spread({"a": 1.0}).interval()
    expected = stats.t.interval(0.95, len(values) - 1, values.mean(), stats.sem(values))
    assert found[1:] == pytest.approx(expected)


def test_a_difference_is_that_of_the_paired_values() -> None:
    seeds = [outcomes(300, {"a": 0.8, "b": 0.6}, s) for s in range(4)]
    apart = [Outcomes(groups=s.groups, values={"d": s.values["a"] - s.values["b"]}) for s in seeds]
    assert difference(Means(seeds), "a", "b") == pytest.approx(Means(apart).spread({"d": 1.0}).interval())


def test_the_order_of_rows_does_not_matter() -> None:
    made = outcomes(60, {"a": 0.7, "b": 0.5}, groups=(np.arange(60) // 3).astype(str))
    order = np.random.default_rng(1).permutation(60)
    turned = Outcomes(groups=made.groups[order], values={k: v[order] for k, v in made.values.items()})
    assert difference(Means([made]), "a", "b") == pytest.approx(difference(Means([turned]), "a", "b"))


def test_rows_of_a_group_vary_together() -> None:
    """Ten copies of each of 40 rows are worth 40 rows, not 400."""
    few = outcomes(40, {"a": 0.7})
    copied = {"a": np.repeat(few.values["a"], 10)}
    grouped = Means([Outcomes(groups=np.repeat(few.groups, 10), values=copied)]).rate("a")
    by_rows = Means([Outcomes(groups=np.arange(400), values=copied)]).rate("a")
    assert grouped == pytest.approx(Means([few]).rate("a"))
    assert width(grouped) > 2.5 * width(by_rows)  # sqrt(10) = 3.2


def test_seeds_that_share_test_rows_are_no_new_rows() -> None:
    one = outcomes(100, {"a": 0.7})
    assert width(Means([one] * 5).rate("a")) == pytest.approx(width(Means([one]).rate("a")))
    others = [outcomes(100, {"a": 0.7}, s) for s in range(5)]
    apart = [Outcomes(groups=np.char.add(f"{i}-", s.groups), values=s.values) for i, s in enumerate(others)]
    assert width(Means(apart).rate("a")) < 0.8 * width(Means([one]).rate("a"))


def test_differences_between_seeds_widen_the_interval() -> None:
    def made(accuracies: list[float]) -> float:
        return width(Means([outcomes(1000, {"a": m}, s) for s, m in enumerate(accuracies)]).rate("a"))

    assert made([0.6, 0.7, 0.8]) > 4 * made([0.7, 0.7, 0.7])


def test_rows_that_do_not_count_are_left_out() -> None:
    full = outcomes(50, {"a": 0.7})
    holes = np.where(np.arange(50) < 20, full.values["a"], np.nan)
    found = Means([Outcomes(groups=full.groups, values={"a": holes})]).rate("a")
    first = Outcomes(groups=full.groups[:20], values={"a": full.values["a"][:20]})
    assert found == pytest.approx(Means([first]).rate("a"))
    nothing = Means([Outcomes(groups=full.groups, values={"a": np.full(50, np.nan)})]).rate("a")
    assert all(map(math.isnan, nothing))


# --- few rows, few errors ---------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 5)), min_size=1, max_size=40), st.integers(1, 3))
def test_no_interval_collapses_or_leaves_what_can_be(rows: list[tuple[bool, bool, int]], num_seeds: int) -> None:
    a, b, groups = (np.array(column) for column in zip(*rows, strict=True))
    values = {"a": a.astype(np.float64), "b": b.astype(np.float64)}
    means = Means([Outcomes(groups=groups, values=values)] * num_seeds)
    for found, lowest in ((means.rate("a"), 0.0), (means.rate("a", "b"), 0.0), (difference(means, "a", "b"), -1.0)):
        assert lowest <= found.low <= found.value <= found.high <= 1
        assert width(found) > 0.05


@pytest.mark.parametrize(("n", "low"), [(2, 0.342), (20, 0.839), (142, 0.974), (2000, 0.998)])
def test_all_right_is_wilsons_interval(n: int, low: float) -> None:
    means = Means([outcomes(n, {"right": 1.0, "wrong": 0.0, "same": 1.0})])
    assert means.rate("right") == pytest.approx((1, low, 1), abs=1e-3)
    assert means.rate("wrong") == pytest.approx((0, 0, 1 - low), abs=1e-3)
    assert difference(means, "right", "same") == pytest.approx((0, -min(3.84 / n, 1), min(3.84 / n, 1)), abs=1e-3)
    assert means.spread({"right": 1.0}).interval() == (1, 1, 1)  # what it is kept from


def test_pgr_of_142_rows_all_right_is_no_certainty() -> None:
    weak = (np.arange(142) % 4 > 0).astype(np.float64)
    values = {"weak": weak, "student": np.ones(142), "ceiling": np.ones(142)}
    found, _ = Means([Outcomes(groups=np.arange(142), values=values)]).pgr("weak", "student", "ceiling")
    assert found is not None
    assert found.value == pytest.approx(1)
    assert found.low == pytest.approx(0.895, abs=1e-3)  # a difference of 3.84 / 142 to the ceiling, of a gap of 0.254
    assert found.high == pytest.approx(1.118, abs=1e-3)


def test_cross_entropy_and_brier_score_of_few_certain_rows_do_not_collapse() -> None:
    values = per_example(np.eye(2), np.array([0, 1]))
    means = Means([Outcomes(groups=np.arange(2), values={k: values[k] for k in HIGHEST})])
    for name, highest in HIGHEST.items():
        assert means.rate(name, highest=highest) == pytest.approx((0, 0, 0.658 * highest), abs=0.01)


def test_one_group_tells_nothing() -> None:
    means = Means([outcomes(50, {"weak": 0.1, "student": 0.9}, groups=np.zeros(50))] * 3)
    assert difference(means, "student", "weak")[1:] == (-1, 1)
    assert means.rate("student")[1:] == (0, 1)


# --- coverage ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def coverage() -> Any:
    spec = importlib.util.spec_from_file_location("coverage_benchmark", BENCHMARKS / "coverage.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.parametrize("layout", [1.0, 0.25, 0.0])
@pytest.mark.parametrize(("seeds", "group"), [(3, 1), (5, 5)])
def test_intervals_hold_the_truth_as_often_as_they_say(coverage: Any, layout: float, seeds: int, group: int) -> None:
    """A slice of ``benchmarks/coverage.py``. Of 400 replicates, 380 are expected to hold it, give or take 4.4."""
    for found in coverage.cells(400 / coverage.REPLICATES[seeds, 200], [coverage.Setting(seeds, 200, layout, group)]):
        for name in ("accuracy", "gain", "gap", "pgr"):
            assert found[name] >= 0.95 - 4 * math.sqrt(0.95 * 0.05 / 400), found
            assert found[name] < 1 or found["replicates"] < 400, found


def test_plain_is_json_without_nan() -> None:
    value = {"a": Interval(1.0, math.nan, math.inf), "b": (np.float32(0.5), 3, "x"), "c": None, "d": True}
    assert plain(value) == {"a": [1.0, None, None], "b": [0.5, 3, "x"], "c": None, "d": True}


def test_per_example_values_are_means_when_averaged() -> None:
    probs, gold = predictions(50, 3)
    found = scores(probs, gold)
    assert all(found[name] == values.mean() for name, values in per_example(probs, gold).items())


def test_balanced_accuracy_is_known_no_better_than_the_recalls_it_is_the_mean_of() -> None:
    recalls = [Interval(0.0, 0.0, 0.1), Interval(1.0, 0.99, 1.0)]
    assert widened(Interval(0.5, 0.5, 0.5), recalls) == pytest.approx((0.5, 0.495, 0.55))
    assert widened(Interval(0.5, 0.3, 0.7), recalls) == (0.5, 0.3, 0.7)


def test_one_group_with_most_of_the_rows_tells_little() -> None:
    rng = np.random.default_rng(0)
    held = {}
    for sizes in ([700] + [1] * 100, [8] * 100):
        groups = np.repeat([f"g{i}" for i in range(len(sizes))], sizes)
        inside = []
        for _ in range(200):
            hard = np.repeat(0.7 + 0.05 * rng.normal(size=len(sizes)), sizes)
            values = {name: (rng.random(len(groups)) < hard).astype(float) for name in ("a", "b")}
            values["b"] = (rng.random(len(groups)) < 1.4 - hard).astype(float)  # the difference varies by group too
            _, low, high = Means([Outcomes(groups=groups, values=values)]).difference("a", "b").interval(-1, 1)
            inside.append(low <= 0 <= high)
        held[len(sizes)] = np.mean(inside)
    assert min(held.values()) > 0.9


# --- labels that only exclude -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_classes", [2, 3, 10])
@pytest.mark.parametrize("ordinary", [0, 60])
def test_labels_that_only_exclude_tell_the_accuracy(num_classes: int, ordinary: int) -> None:
    """Over 2,000 samples of 300 rows: without bias, and inside the interval as often as it says."""
    rng = np.random.default_rng(num_classes + ordinary)
    accuracy, values, inside = 0.75, [], 0
    for _ in range(2000):
        truth = rng.integers(num_classes, size=300)
        shift = rng.integers(1, num_classes, size=(2, 300))
        predicted = np.where(rng.random(300) < accuracy, truth, (truth + shift[0]) % num_classes)
        right = rng.random(ordinary) < accuracy if ordinary else None
        found = complementary_accuracy(predicted, (truth + shift[1]) % num_classes, num_classes, right)
        values.append(found.value)
        inside += found.low <= accuracy <= found.high
    assert np.mean(values) == pytest.approx(
        accuracy, abs=4 * np.std(values) / np.sqrt(2000) + (0.004 if ordinary else 0)
    )
    assert 0.93 < inside / 2000 < 0.98


def test_ordinary_labels_narrow_the_interval_and_weigh_by_what_they_tell() -> None:
    rng = np.random.default_rng(0)
    predicted, excluded = rng.integers(5, size=(2, 400))
    alone = complementary_accuracy(predicted, excluded, 5)
    with_few = complementary_accuracy(predicted, excluded, 5, np.ones(50, dtype=bool))
    assert with_few.high - with_few.low < alone.high - alone.low
    assert alone.value < with_few.value < 1
    assert complementary_accuracy(predicted, excluded, 5, np.ones(0, dtype=bool)) == alone
