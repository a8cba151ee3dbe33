from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, event, given, settings
from hypothesis import strategies as st
from hypothesis.errors import UnsatisfiedAssumption

from outgrow.data import Examples, Split
from outgrow.errors import UserError
from outgrow.tasks.splits import Sizes, split_examples

PARTS = ("A", "A_val", "B", "B_val", "T")


def pool(
    gold: list[int],
    groups: Iterable[int] | None = None,
    num_classes: int = 2,
    split: list[str] | None = None,
    weak: list[int] | None = None,
) -> Examples:
    groups = range(len(gold)) if groups is None else groups
    meta: dict[str, Any] = {} if split is None else {"split": np.array(split, dtype=np.str_)}
    if weak is not None:
        meta |= {f"weak.{c}": np.where(np.array(weak) < 0, np.nan, np.array(weak) == c) for c in range(num_classes)}
    return Examples(
        ids=np.array([f"row-{i}" for i in range(len(gold))], dtype=np.str_),
        inputs=tuple(f"text {i}" for i in range(len(gold))),
        gold=np.array(gold, dtype=np.int64),
        classes=tuple("abcdefg"[:num_classes]),
        groups=np.array([f"g{g}" for g in groups], dtype=np.str_),
        meta=meta,
    )


def class_counts(data: Examples, split: Split, *parts: str) -> list[int]:
    gold = data.take(split.ids(parts)).gold
    assert gold is not None
    return [int((gold == c).sum()) for c in range(data.num_classes)]


def check(data: Examples, split: Split, *, balance: bool = True) -> None:
    """The laws of every split."""
    assert tuple(split.parts) == PARTS
    everything = split.ids(PARTS).tolist()
    assert len(set(everything)) == len(everything)
    assert set(everything) <= set(data.ids.tolist())
    groups = [set(data.take(split.parts[part]).groups.tolist()) for part in PARTS]
    assert sum(map(len, groups)) == len(set().union(*groups)), "a group is in two parts"
    assert not balance or len(set(class_counts(data, split, "T"))) == 1, "T is not balanced"
    assert len(everything) + sum(split.left_out.values()) == len(data), "a row is neither used nor counted"
    for part in ("A", "A_val", "T"):
        gold = data.take(split.parts[part]).gold
        assert gold is not None
        assert (gold >= 0).all(), "unknown gold outside B"
    for part in ("A", "B"):
        counts = class_counts(data, split, part, f"{part}_val")
        assert not balance or max(counts) <= max(1.1 * sum(counts) / len(counts), min(counts) + 1)
        assert len(split.parts[part])
    assert not balance or min(class_counts(data, split, "A")) > 0, "a class is missing in A"
    assert balance or np.count_nonzero(class_counts(data, split, "A", "A_val")) > 1, "there is nothing to learn from A"


def possible(data: Examples, sizes: Sizes, seed: int) -> Split:
    """The split, or another example where it is refused (any other exception fails the test)."""
    try:
        return split_examples(data, sizes, seed)
    except UserError:
        event("refused")
        raise UnsatisfiedAssumption from None


@st.composite
def pools(draw: st.DrawFn) -> Examples:
    num_classes = draw(st.integers(2, 4))
    sizes = draw(st.lists(st.integers(1, 12), min_size=8, max_size=60))
    if draw(st.booleans()):
        sizes[0] = sum(sizes)  # one huge group
    groups = [g for g, size in enumerate(sizes) for _ in range(size)]
    seed = draw(st.integers(0, 10_000))
    rng = np.random.default_rng(seed)
    weights = rng.dirichlet(np.full(num_classes, draw(st.sampled_from([0.5, 2.0, 50.0]))))
    gold = rng.choice(num_classes, size=len(groups), p=weights)
    gold[rng.random(len(groups)) < draw(st.sampled_from([0.0, 0.2]))] = -1
    return pool(gold.tolist(), groups, num_classes)


@given(pools(), st.integers(0, 5), st.sampled_from([0.0, 0.1, 0.4]), st.booleans())
@settings(max_examples=150, deadline=None)
def test_the_laws_hold_for_any_pool_that_can_be_split(
    data: Examples, seed: int, validation: float, balance: bool
) -> None:
    sizes = Sizes(validation=validation, balance=balance)
    split = possible(data, sizes, seed)
    check(data, split, balance=balance)
    assert (len(split.parts["A_val"]) > 0) == (validation > 0)
    rows = np.random.default_rng(seed + 1).permutation(len(data))
    again = split_examples(data.take(data.ids[rows]), sizes, seed)
    assert all(np.array_equal(split.parts[part], again.parts[part]) for part in PARTS)


@given(pools(), st.integers(6, 24), st.integers(6, 24), st.integers(2, 16))
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
def test_sizes_asked_for_are_met_or_refused(data: Examples, supervisor: int, transfer: int, test: int) -> None:
    split = possible(data, Sizes(supervisor=supervisor, transfer=transfer, test=test), 0)
    check(data, split)
    assert len(split.ids(["A", "A_val"])) == supervisor
    assert len(split.ids(["B", "B_val"])) == transfer
    assert len(split.parts["T"]) == test - test % data.num_classes


@given(st.integers(10, 100), st.integers(2, 40), st.integers(2, 40), st.integers(2, 40))
@settings(max_examples=60, deadline=None)
def test_what_fits_is_not_refused(pairs: int, supervisor: int, transfer: int, test: int) -> None:
    assume(supervisor + transfer + test <= 2 * pairs - 2)
    sizes = Sizes(supervisor=supervisor, transfer=transfer, test=test, validation=0)
    split = split_examples(pool([0, 1] * pairs), sizes, 0)
    assert [len(split.parts[part]) for part in ("A", "B", "T")] == [supervisor, transfer, test - test % 2]


def test_default_shares_of_a_balanced_pool() -> None:
    data = pool([0, 1] * 500)
    split = split_examples(data, Sizes(), 0)
    check(data, split)
    assert [len(split.parts[part]) for part in PARTS] == [337, 37, 337, 37, 250]


def test_an_imbalanced_pool_is_balanced_in_every_part() -> None:
    data = pool([0] * 900 + [1] * 100)
    split = split_examples(data, Sizes(), 0)
    assert class_counts(data, split, "T") == [25, 25]
    assert class_counts(data, split, "A", "A_val") == [37, 37]
    natural = split_examples(data, Sizes(balance=False), 0)
    assert [len(natural.ids(parts)) for parts in (["A", "A_val"], ["B", "B_val"], ["T"])] == [375, 375, 250]
    assert class_counts(data, natural, "T")[1] < 50
    assert split.left_out == {"balance": 1000 - 74 - 74 - 50}
    assert natural.left_out == {}


def test_a_slight_imbalance_stays() -> None:
    data = pool([0] * 540 + [1] * 460)
    assert class_counts(data, split_examples(data, Sizes(), 0), "A", "A_val") == [202, 172]


def test_seeds_differ_and_validation_leaves_the_test_as_it_is() -> None:
    data = pool([0, 1] * 200)
    first, second = (split_examples(data, Sizes(), seed) for seed in (0, 1))
    assert set(first.parts["T"].tolist()) != set(second.parts["T"].tolist())
    other = split_examples(data, Sizes(validation=0.3), 0)
    assert np.array_equal(first.parts["T"], other.parts["T"])
    assert sorted(first.ids(["A", "A_val"]).tolist()) == sorted(other.ids(["A", "A_val"]).tolist())


def test_rows_without_gold_go_to_b_only() -> None:
    data = pool([0, 1] * 100 + [-1] * 300)
    split = split_examples(data, Sizes(), 0)
    check(data, split)
    assert len(split.ids(["B", "B_val"])) == 74 + 300
    assert len(split_examples(data, Sizes(transfer=100), 0).ids(["B", "B_val"])) == 100


def test_one_huge_group_leaves_the_other_parts_their_rows() -> None:
    data = pool([0, 1] * 500, [0] * 600 + list(range(1, 401)))
    split = split_examples(data, Sizes(), 0)
    check(data, split)
    assert len(split.parts["T"]) >= 150
    assert min(len(split.ids(["A", "A_val"])), len(split.ids(["B", "B_val"]))) >= 150


def test_the_users_own_split_is_kept() -> None:
    parts = ["A"] * 40 + ["B"] * 40 + ["T"] * 20
    data = pool([0, 1] * 45 + [1] * 10, split=parts)
    split = split_examples(data, Sizes(), 0)
    check(data, split)
    of = dict(zip(data.ids.tolist(), parts, strict=True))
    for part in PARTS:
        assert {of[i] for i in split.parts[part].tolist()} == {part[0]}
    assert len(split.ids(["A", "A_val"])) == 40
    assert class_counts(data, split, "T") == [5, 5]
    assert len(split_examples(data, Sizes(supervisor=10), 0).ids(["A", "A_val"])) == 10


# --- natural class shares ---------------------------------------------------------------------------------------------


@given(pools(), st.integers(0, 3), st.booleans())
@settings(max_examples=80, deadline=None)
def test_without_balance_no_class_has_a_say(data: Examples, seed: int, fixed: bool) -> None:
    """Poisoned gold, which rows have any kept: every part is the same, the validation rows of A excepted."""
    gold = data.gold
    assert gold is not None
    if fixed:
        part = {g: "ABT"[i % 3] for i, g in enumerate(np.unique(data.groups).tolist())}
        parts = [part[g] if known else "B" for g, known in zip(data.groups.tolist(), gold >= 0, strict=True)]
        torn = {g for g, p in zip(data.groups.tolist(), parts, strict=True) if p != part[g]}
        data = replace(data, meta={"split": np.array(["B" if g in torn else part[g] for g in data.groups.tolist()])})
    split = possible(data, Sizes(balance=False), seed)
    rng = np.random.default_rng(seed)
    other = replace(data, gold=np.where(gold < 0, -1, rng.integers(data.num_classes, size=len(data))))
    again = possible(other, Sizes(balance=False), seed)
    assert all(np.array_equal(split.parts[part], again.parts[part]) for part in ("B", "B_val", "T"))
    assert sorted(split.ids(["A", "A_val"])) == sorted(again.ids(["A", "A_val"]))
    assert set(data.ids[gold >= 0].tolist()) <= set(split.ids(PARTS).tolist())


@given(pools(), st.integers(0, 5))
@settings(max_examples=80, deadline=None)
def test_held_out_rows_of_b_are_drawn_whatever_their_gold(data: Examples, seed: int) -> None:
    """With balance as well, where parts and class counts stay the same."""
    first = possible(data, Sizes(), seed)
    used = data.take(first.ids(PARTS))
    b = np.isin(used.ids, first.ids(["B", "B_val"]))
    part = np.where(b, "B", np.where(np.isin(used.ids, first.parts["T"]), "T", "A"))
    assert used.gold is not None
    other = used.gold.copy()
    other[b] = np.random.default_rng(seed).permutation(other[b])
    one, two = (possible(replace(used, gold=gold, meta={"split": part}), Sizes(), seed) for gold in (used.gold, other))
    assert sorted(one.ids(["B", "B_val"])) == sorted(used.ids[b])
    assert np.array_equal(one.parts["B_val"], two.parts["B_val"])


def test_the_test_gets_every_gold_row_that_trains_nothing() -> None:
    data = pool([0] * 90 + [1] * 10)
    split = split_examples(data, Sizes(supervisor=20, transfer=30, balance=False), 0)
    assert [len(split.ids(p)) for p in (["A", "A_val"], ["B", "B_val"], ["T"])] == [20, 30, 50]
    asked = split_examples(data, Sizes(supervisor=20, transfer=30, test=10, balance=False), 0)
    assert len(asked.parts["T"]) == 10
    assert asked.left_out == {"sizes": 40}


def test_own_labels_leave_a_to_the_test() -> None:
    data = pool([0, 1] * 40, split=["A", "A", "B", "T"] * 20, weak=[0, 1] * 40)
    split = split_examples(data, Sizes(balance=False, own_labels=True), 0)
    assert [len(split.parts[p]) for p in PARTS] == [0, 0, 18, 2, 60]
    drawn = split_examples(replace(data, meta={k: v for k, v in data.meta.items() if k != "split"}),
                           Sizes(balance=False, own_labels=True, transfer=30), 0)  # fmt: skip
    assert [len(drawn.parts[p]) for p in PARTS] == [0, 0, 27, 3, 50]


def test_own_labels_of_a_research_task_are_tested_on_balanced_classes() -> None:
    data = pool([0] * 90 + [1] * 30, weak=[0, 1] * 60)
    split = split_examples(data, Sizes(own_labels=True), 0)
    assert not len(split.ids(["A", "A_val"]))
    assert class_counts(data, split, "T") == [18, 18]
    assert split.left_out == {"balance": 120 - 36 - len(split.ids(["B", "B_val"]))}


@given(pools(), st.integers(2, 6), st.integers(0, 3), st.sampled_from([0.0, 0.3]), st.booleans())
@settings(max_examples=80, deadline=None)
def test_folds_test_every_gold_row_once_and_train_on_all_else(
    data: Examples, folds: int, seed: int, abstains: float, no_gold: bool
) -> None:
    rng = np.random.default_rng(seed)
    weak = np.where(rng.random(len(data)) < abstains, -1, rng.integers(2, size=len(data)))
    gold = np.full(len(data), -1) if no_gold else data.gold
    assert gold is not None
    data = replace(pool(gold.tolist(), None, data.num_classes, weak=weak.tolist()), groups=data.groups)
    sizes = Sizes(balance=False, own_labels=True, folds=folds)
    splits = [possible(data, replace(sizes, fold=fold), seed) for fold in range(folds)]
    tested = np.concatenate([s.parts["T"] for s in splits])
    assert sorted(tested) == sorted(data.ids[gold >= 0] if (gold >= 0).any() else data.ids)
    for split in splits:
        test_groups = set(data.take(split.parts["T"]).groups.tolist())
        labeled = data.ids[weak >= 0]
        outside = [g not in test_groups for g in data.take(labeled).groups.tolist()]
        mixed = set(data.groups[gold >= 0].tolist())
        assert set(split.ids(["B", "B_val"]).tolist()) <= set(labeled[outside].tolist())
        trained = set(split.ids(["B", "B_val"]).tolist())
        others = [i for i, g in zip(labeled.tolist(), data.take(labeled).groups.tolist(), strict=True)
                  if g not in test_groups and g in mixed]  # fmt: skip
        assert set(others) <= trained
    neither = int(((weak < 0) & (gold < 0)).sum()) if (gold >= 0).any() else 0
    assert splits[0].left_out == ({"no_label": neither} if neither else {})


def test_one_fold_tests_on_all_gold_and_trains_on_the_rest() -> None:
    data = pool([0, 1] * 10 + [-1] * 40, weak=[0, 1] * 30)
    split = split_examples(data, Sizes(balance=False, own_labels=True, folds=1), 0)
    assert [len(split.parts[p]) for p in PARTS] == [0, 0, 36, 4, 20]


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "sizes", "expected"),
    [
        (pool([0, 1] * 20, [0, 1] * 20), Sizes(), "has 2 groups and needs at least 5"),
        (pool([0, 1] * 20, [0, 1, 2] * 13 + [0]), Sizes(), "has 3 groups and needs at least 5"),
        (
            pool([0, 1] * 20),
            Sizes(supervisor=50),
            "supervisor_rows=50 were asked for, but part A has only 40 labeled rows",
        ),
        (
            pool([0, 1] * 20),
            Sizes(test=30, supervisor=20),
            "supervisor_rows=20 were asked for, but part A has only 10 labeled",
        ),
        (pool([0] * 90 + [1] * 10), Sizes(test=40), "need 20 of class 'b', but part T has only 10;"),
        (pool([0] * 90 + [1] * 10), Sizes(supervisor=40), "20 of class 'b', but part A has only 10;"),
        (pool([0, 1] * 20, num_classes=3), Sizes(), "class 'c' is missing in part A (the pool has 0 rows"),
        (pool([0] * 50 + [1]), Sizes(), "class 'b' is missing in part"),
        (pool([0, 1, 0, 1, 0, 1], range(6)), Sizes(), "cannot spare one for validation without losing a class"),
        (
            pool([0, 1] * 20, [0, 0, *range(1, 39)], split=["A", "T"] + ["A", "B"] * 19),
            Sizes(),
            "1 groups have rows in two parts of the column split, the first is 'g0' in A and T",
        ),
    ],
)
def test_what_cannot_be_split_is_one_clear_line(data: Examples, sizes: Sizes, expected: str) -> None:
    with pytest.raises(UserError) as error:
        split_examples(data, sizes, 0)
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(UserError, match="test=0 is too small"):
        Sizes(test=0)
    with pytest.raises(UserError, match=r"validation=1\.0 must be a share"):
        Sizes(validation=1.0)
