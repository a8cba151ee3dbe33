"""Scores against references, PGR at its fixed points, and intervals that hold what they promise."""

import math
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sk

from outgrow.data import Floats, Ints
from outgrow.metrics import (
    Interval,
    Outcomes,
    agreement,
    auroc,
    balanced_values,
    bootstrap_means,
    class_values,
    confusion,
    ece,
    interval,
    per_example,
    pgr,
    pgr_interval,
    plain,
    scores,
)

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
    assert auroc(probs * np.float32(1.0008), gold) == pytest.approx(auroc(probs, gold))


@CLASSES
def test_auroc_is_nan_where_a_class_is_missing(num_classes: int) -> None:
    probs, _ = predictions(10, num_classes)
    assert math.isnan(auroc(probs, np.arange(10) % (num_classes - 1)))


@CLASSES
def test_ece_matches_a_plain_loop(num_classes: int) -> None:
    probs, gold = predictions(300, num_classes)
    confidence, right = probs.max(1), probs.argmax(1) == gold
    total = 0.0
    for b in range(15):
        here = (confidence >= b / 15) & ((confidence < (b + 1) / 15) | (b == 14))
        if here.any():
            total += here.mean() * abs(confidence[here].mean() - right[here].mean())
    assert ece(probs, gold) == pytest.approx(total, abs=1e-6)


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


def test_pgr_is_undefined_where_the_ceiling_is_not_shown_to_be_better() -> None:
    for ceiling in (0.6, 0.62, 0.4):
        means = bootstrap_means([outcomes(200, {"weak": 0.6, "student": 0.7, "ceiling": ceiling})])
        found, reason = pgr_interval(means["weak"], means["student"], means["ceiling"])
        assert found is None
        assert reason is not None
        assert "not shown to be better" in reason


@pytest.mark.parametrize("seed", range(5))
def test_pgr_has_finite_bounds_where_the_gap_is_credible(seed: int) -> None:
    means = bootstrap_means([outcomes(150, {"weak": 0.6, "student": 0.7, "ceiling": 0.75}, seed)])
    found, reason = pgr_interval(means["weak"], means["student"], means["ceiling"])
    if found is None:  # the draw decides; then the gap's interval holds zero
        assert interval(means["ceiling"] - means["weak"]).low <= 0
    else:
        assert reason is None
        assert all(map(math.isfinite, found))
        assert found.low <= found.value <= found.high


def test_pgr_bounds_are_finite_even_at_the_edge_of_credible() -> None:
    """2.4 % of the replicates without a gap: their ratios are infinite, and outside the central 95 %."""
    ceiling = np.concatenate([[0.7], np.full(48, 0.5), np.full(1952, 0.7)])
    for student in (0.65, 0.55):
        found, _ = pgr_interval(np.full(2001, 0.6), np.full(2001, student), ceiling)
        assert found is not None
        assert all(map(math.isfinite, found))


def test_supervisor_and_ceiling_have_pgr_0_and_1_in_every_replicate() -> None:
    means = bootstrap_means([outcomes(400, {"weak": 0.6, "ceiling": 0.9}, s) for s in range(3)])
    for student, expected in (("weak", 0), ("ceiling", 1)):
        found, _ = pgr_interval(means["weak"], means[student], means["ceiling"])
        assert found == Interval(expected, expected, expected)


# --- bootstrap --------------------------------------------------------------------------------------------------------


def width(found: Interval) -> float:
    return found.high - found.low


def test_element_0_is_the_mean_and_runs_repeat() -> None:
    seeds = [outcomes(n, {"a": 0.7}, s) for s, n in enumerate((30, 50))]
    means = bootstrap_means(seeds)["a"]
    assert means[0] == np.concatenate([s.values["a"] for s in seeds]).mean()
    assert len(means) == 2001
    assert (bootstrap_means(seeds)["a"] == means).all()
    assert (bootstrap_means(seeds, seed=1)["a"][1:] != means[1:]).any()


def test_identical_student_and_weak_gain_exactly_nothing() -> None:
    made = outcomes(100, {"weak": 0.7})
    means = bootstrap_means([Outcomes(groups=made.groups, values={**made.values, "student": made.values["weak"]})])
    assert interval(means["student"] - means["weak"]) == Interval(0, 0, 0)


def test_the_order_of_rows_does_not_matter() -> None:
    made = outcomes(60, {"a": 0.7, "b": 0.5}, groups=(np.arange(60) // 3).astype(str))
    order = np.random.default_rng(1).permutation(60)
    turned = Outcomes(groups=made.groups[order], values={k: v[order] for k, v in made.values.items()})
    for name, means in bootstrap_means([made]).items():
        np.testing.assert_allclose(bootstrap_means([turned])[name], means, rtol=1e-12)


def test_rows_of_a_group_are_drawn_together() -> None:
    """Ten copies of each of 40 rows are worth 40 rows, not 400."""
    few = outcomes(40, {"a": 0.7})
    copied = {"a": np.repeat(few.values["a"], 10)}
    grouped = interval(bootstrap_means([Outcomes(groups=np.repeat(few.groups, 10), values=copied)])["a"])
    by_rows = interval(bootstrap_means([Outcomes(groups=np.arange(400).astype(str), values=copied)])["a"])
    assert grouped == interval(bootstrap_means([few])["a"])
    assert width(grouped) > 2.5 * width(by_rows)  # sqrt(10) = 3.2


def test_seeds_that_share_test_rows_are_no_new_rows() -> None:
    one = outcomes(100, {"a": 0.7})
    five = [one] * 5
    assert width(interval(bootstrap_means(five)["a"])) == pytest.approx(width(interval(bootstrap_means([one])["a"])))
    others = [outcomes(100, {"a": 0.7}, s) for s in range(5)]
    apart = [Outcomes(groups=np.char.add(f"{i}-", s.groups), values=s.values) for i, s in enumerate(others)]
    assert width(interval(bootstrap_means(apart)["a"])) < 0.8 * width(interval(bootstrap_means([one])["a"]))


def test_differences_between_seeds_widen_the_interval() -> None:
    groups = np.arange(1000).astype(str)

    def made(means: list[float]) -> float:
        seeds = [Outcomes(groups=groups, values={"a": np.full(1000, m)}) for m in means]
        return width(interval(bootstrap_means(seeds)["a"]))

    assert made([0.7, 0.7, 0.7]) == pytest.approx(0)
    assert made([0.6, 0.7, 0.8]) > 0.1


def test_rows_that_do_not_count_are_left_out() -> None:
    full = outcomes(50, {"a": 0.7})
    holes = np.where(np.arange(50) < 20, full.values["a"], np.nan)
    means = bootstrap_means([Outcomes(groups=full.groups, values={"a": holes})])["a"]
    assert means[0] == full.values["a"][:20].mean()
    nothing = bootstrap_means([Outcomes(groups=full.groups, values={"a": np.full(50, np.nan)})])["a"]
    assert all(map(math.isnan, interval(nothing)))


@pytest.mark.slow
def test_a_95_percent_interval_holds_the_truth_about_95_times_in_100() -> None:
    held = 0
    for seed in range(300):
        found = interval(bootstrap_means([outcomes(120, {"a": 0.7}, seed)], replicates=300)["a"])
        held += found.low <= 0.7 <= found.high
    assert 0.91 <= held / 300 <= 0.985


def test_plain_is_json_without_nan() -> None:
    value = {"a": Interval(1.0, math.nan, math.inf), "b": (np.float32(0.5), 3, "x"), "c": None, "d": True}
    assert plain(value) == {"a": [1.0, None, None], "b": [0.5, 3, "x"], "c": None, "d": True}


def test_per_example_values_are_means_when_averaged() -> None:
    probs, gold = predictions(50, 3)
    found = scores(probs, gold)
    assert all(found[name] == values.mean() for name, values in per_example(probs, gold).items())
