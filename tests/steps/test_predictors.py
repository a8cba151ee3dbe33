"""Predictors of gain: each equals a value worked out by hand, holds where its premises hold, and sees no gold of B."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outgrow import steps
from outgrow.data import Examples, Features, Floats, Ints, Labels, Split
from outgrow.steps.forecast import (
    accuracy_by_second,
    disagreement,
    domain_auc,
    kl_misfit,
    misfit,
    not_robust,
    share_shift,
    triplet_accuracy,
)

STUDENT = np.array([[0.9, 0.1], [0.5, 0.5]], dtype=np.float32)
WEAK = np.array([[0.6, 0.4], [0.2, 0.8]], dtype=np.float32)


def test_by_hand() -> None:
    assert misfit(STUDENT, WEAK) == pytest.approx(2 * 0.09)
    by_hand = 0.9 * math.log(0.9 / 0.6) + 0.1 * math.log(0.1 / 0.4) + 0.5 * (math.log(0.5 / 0.2) + math.log(0.5 / 0.8))
    assert kl_misfit(STUDENT, WEAK) == pytest.approx(by_hand / 2, rel=1e-5)
    assert disagreement(np.array([0, 1, 2, 0]), np.array([0, 2, 2, 1])) == 0.5
    near = np.array([[1, 2], [0, 2], [0, 1], [0, 1]])
    assert not_robust(np.array([0, 0, 0, 1]), near) == 0.25
    assert not_robust(np.array([0, 0, 1, 1]), near) == 1.0
    assert share_shift(STUDENT, WEAK) == pytest.approx(0.3)


def test_no_step_away_from_the_weak_labels_forecasts_no_gain() -> None:
    assert misfit(WEAK, WEAK) == kl_misfit(WEAK, WEAK) == 0.0
    hard = WEAK.argmax(axis=1)
    assert disagreement(hard, hard) == 0.0
    assert share_shift(WEAK, WEAK) == 0.0


@settings(deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 5))
def test_misfit_is_a_bound_where_its_premise_holds(seed: int, classes: int) -> None:
    """The convex class: probabilities that are constant on blocks of rows; the truth is one of them."""
    rng = np.random.default_rng(seed)
    block = rng.integers(4, size=60)
    truth = rng.dirichlet(np.ones(classes), size=4)[block]
    weak = rng.dirichlet(np.ones(classes), size=60)
    student = np.stack([weak[block == b].mean(axis=0) if (block == b).any() else weak[0] for b in range(4)])[block]
    gain = misfit(weak, truth) - misfit(student, truth)
    # The class is a subspace of functions, so that the bound is an equality (Pythagoras).
    assert gain == pytest.approx(misfit(student, weak), abs=1e-12)


@settings(deadline=None)
@given(st.integers(0, 10_000))
def test_misfit_is_strictly_a_bound_on_a_class_with_an_edge(seed: int) -> None:
    """Probabilities between two ends: a projection onto an interval, which is convex and no subspace."""
    rng = np.random.default_rng(seed)
    low, high = np.sort(rng.random(2))
    truth, weak = rng.uniform(low, high, size=50), rng.random(50)
    pairs = [np.stack([1 - p, p], axis=1) for p in (truth, weak, np.clip(weak, low, high))]
    assert misfit(pairs[1], pairs[0]) - misfit(pairs[2], pairs[0]) >= misfit(pairs[2], pairs[1]) - 1e-12


@settings(deadline=None)
@given(st.integers(0, 10_000))
def test_kl_misfit_is_a_bound_where_its_premise_holds(seed: int) -> None:
    """The convex class: p <= 1/2 for the first class. The student is its point of least KL(f || w)."""
    rng = np.random.default_rng(seed)
    weak, truth = np.clip(rng.random(50), 1e-3, 1 - 1e-3), rng.uniform(0.01, 0.5, size=50)
    w, y, f = (np.stack([p, 1 - p], axis=1) for p in (weak, truth, np.minimum(weak, 0.5)))
    assert kl_misfit(y, w) - kl_misfit(y, f) >= kl_misfit(f, w) - 1e-9


def drawn(rng: np.random.Generator, gold: Ints, accuracy: float, classes: int) -> Ints:
    """Predictions that are wrong at random, each wrong class alike."""
    other = (gold + rng.integers(1, classes, size=len(gold))) % classes
    return np.where(rng.random(len(gold)) < accuracy, gold, other)


@pytest.mark.parametrize("classes", [2, 3, 8])
def test_triplet_finds_accuracies_of_independent_errors(classes: int) -> None:
    rng = np.random.default_rng(0)
    gold = rng.integers(classes, size=400_000)
    one, two, three = (drawn(rng, gold, accuracy, classes) for accuracy in (0.9, 0.7, 0.8))
    assert triplet_accuracy(one, two, three, classes) == pytest.approx(0.9, abs=0.005)
    assert triplet_accuracy(two, three, one, classes) == pytest.approx(0.7, abs=0.005)
    assert triplet_accuracy(one, two, three, classes) == triplet_accuracy(one, three, two, classes)
    assert accuracy_by_second(one, two, 0.7, classes) == pytest.approx(0.9, abs=0.005)
    assert accuracy_by_second(three, two, 0.7, classes) == pytest.approx(0.8, abs=0.005)


def test_triplet_is_exact_on_every_pattern_of_errors() -> None:
    """Two classes; errors 1/4, 1/4, 1/2 - 1/4 and so on, counted out: no luck in it."""
    wrong = np.array([[a, b, c] for a in range(4) for b in range(4) for c in range(8)])
    one, two, three = ((wrong[:, i] < 1).astype(np.int64) for i in range(3))
    assert triplet_accuracy(one, two, three, 2) == pytest.approx(3 / 4)
    assert triplet_accuracy(three, one, two, 2) == pytest.approx(7 / 8)
    assert accuracy_by_second(one, three, 7 / 8, 2) == pytest.approx(3 / 4)
    gold = np.resize([0, 1, 1], len(wrong))
    one, two, three = (np.abs(gold - view) for view in (one, two, three))
    assert triplet_accuracy(one, two, three, 2) == pytest.approx(3 / 4)  # names of classes mean nothing


def test_shared_errors_make_two_views_look_better() -> None:
    rng = np.random.default_rng(1)
    gold = rng.integers(2, size=100_000)
    one, apart = drawn(rng, gold, 0.7, 2), drawn(rng, gold, 0.7, 2)
    copy = np.where(rng.random(len(gold)) < 0.8, one, gold)
    assert triplet_accuracy(one, copy, apart, 2) > 0.75


def test_views_that_agree_by_chance_alone_say_nothing() -> None:
    same, other = np.array([0, 1, 0, 1]), np.array([0, 0, 1, 1])
    assert math.isnan(triplet_accuracy(same, other, same, 2))
    assert math.isnan(accuracy_by_second(same, other, 0.5, 2))
    # Both others agree with the first more than with each other, by luck: no accuracy above 1 is given.
    assert triplet_accuracy(np.array([0, 0, 0, 0, 1]), np.zeros(5, dtype=int), np.array([0, 0, 0, 1, 1]), 2) == 1


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 1000), st.integers(2, 4))
def test_the_order_of_rows_and_of_classes_changes_nothing(seed: int, classes: int) -> None:
    rng = np.random.default_rng(seed)
    f, w = (rng.dirichlet(np.ones(classes), size=30) for _ in range(2))
    rows, names = rng.permutation(30), rng.permutation(classes)
    for predictor in (misfit, kl_misfit, share_shift):
        assert predictor(f[rows][:, names], w[rows][:, names]) == pytest.approx(predictor(f, w))
    one, two, three = (rng.integers(classes, size=30) for _ in range(3))
    whole = pytest.approx(triplet_accuracy(one, two, three, classes), nan_ok=True)
    assert triplet_accuracy(one[rows], two[rows], three[rows], classes) == whole
    assert triplet_accuracy(names[one], names[two], names[three], classes) == whole


def test_a_shifted_domain_is_told_and_the_same_one_is_not() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(200, 5)), rng.normal(size=(150, 5))
    groups_a, groups_b = np.arange(200).astype(str), np.arange(200, 350).astype(str)
    assert abs(domain_auc(a, b, groups_a, groups_b) - 0.5) < 0.1
    assert domain_auc(a, b + 2, groups_a, groups_b) > 0.95
    assert math.isnan(domain_auc(a[:4], b, groups_a[:4], groups_b))


def test_rows_of_one_group_do_not_tell_a_domain_apart() -> None:
    """Copies of few rows: a classifier that saw a copy knows the domain of the others."""
    rng = np.random.default_rng(0)
    few = rng.normal(size=(40, 30))
    owner = np.repeat(np.arange(40), 5)
    rows, names = few[owner], owner.astype(str)
    grouped = domain_auc(rows[:100], rows[100:], names[:100], names[100:])
    alone = domain_auc(rows[:100], rows[100:], *np.split(np.arange(200).astype(str), 2))
    assert alone > 0.85
    assert grouped < 0.7


# --- the steps --------------------------------------------------------------------------------------------------------

IDS = np.array([f"r{i:02d}" for i in range(60)])
SPLIT = Split(parts={"A": IDS[:20], "A_val": IDS[20:30], "B": IDS[30:35], "B_val": IDS[35:36], "T": IDS[36:]})


def labels(seed: int, ids: Any) -> Labels:
    probs = np.random.default_rng(seed).dirichlet(np.ones(2), size=len(ids))
    return Labels(ids=ids, probs=probs.astype(np.float32), source="test")


def forecast(shuffled: Any = None, **changes: Any) -> dict[str, Any]:
    order = np.arange(60) if shuffled is None else shuffled
    features = Features(ids=IDS[order], views={"mean": _matrix()[order]})
    texts = Examples(ids=IDS, inputs=("x",) * 60, gold=None, classes=("a", "b"), groups=IDS, meta={})
    weak, weak_a = labels(0, IDS[30:]), labels(1, SPLIT.parts["A_val"])
    shifts = steps.shift(texts=texts, features=features, view="mean", split=SPLIT, weak_a=weak_a, weak=weak)
    seeds: dict[str, Any] = {"student": labels(2, SPLIT.parts["T"]), "weak": weak, "weak_a": weak_a, "shifts": shifts}
    seeds["gold_a"] = labels(3, SPLIT.parts["A_val"][::-1])
    seeds |= {"second": labels(4, IDS[30:]), "second_a": labels(3, SPLIT.parts["A_val"])}
    seeds |= {"third": labels(5, IDS[30:]), "other": labels(6, SPLIT.parts["T"])}
    given_seeds = {name: (value,) for name, value in (seeds | changes).items() if value is not None}
    found: dict[str, Any] = steps.forecast(features=features, view="mean", **given_seeds)["per_seed"][0]
    return found


def _matrix() -> Floats:
    return np.random.default_rng(7).normal(size=(60, 3)).astype(np.float32)


def test_a_forecast_joins_by_id_and_says_what_the_functions_say() -> None:
    found = forecast()
    assert found == pytest.approx(forecast(shuffled=np.random.default_rng(0).permutation(60)), nan_ok=True)
    student, weak = labels(2, SPLIT.parts["T"]), labels(0, IDS[30:]).take(SPLIT.parts["T"])
    assert found["misfit"] == pytest.approx(misfit(student.probs, weak.probs))
    assert found["disagreement"] == disagreement(student.hard, weak.hard)
    assert found["expansion"] == pytest.approx(found["disagreement"] + found["not_robust"])
    gold, weak_a = labels(3, SPLIT.parts["A_val"][::-1]), labels(1, SPLIT.parts["A_val"])
    assert found["weak_error"] == disagreement(weak_a.hard, gold.take(weak_a.ids).hard)
    assert found["risk"] == pytest.approx(misfit(weak_a.probs, gold.take(weak_a.ids).probs) - found["misfit"])


def test_without_more_supervisors_no_triplet_and_of_choices_no_neighbours() -> None:
    alone = dict.fromkeys(("second", "second_a", "third", "other"))
    assert {"second", "triplet", "triplet_supervisors"}.isdisjoint(forecast(**alone))
    assert "triplet" in forecast()
    cubes = Features(ids=IDS, views={"mean": np.repeat(_matrix()[:, None], 2, axis=1)})
    student, weak = (labels(2, SPLIT.parts["T"]),), (labels(0, IDS[30:]),)
    gold = (labels(3, SPLIT.parts["A_val"]),)
    found = steps.forecast(
        student=student, weak=weak, weak_a=gold, gold_a=gold, shifts=({},), features=cubes, view="mean"
    )["per_seed"][0]
    assert found["not_robust"] is found["expansion"] is None
