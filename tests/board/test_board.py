"""The scoreboard: its statistics against references and simulation, and the whole of it on a made-up task."""

import html
import io
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from outgrow import cli, steps
from outgrow.board import methods
from outgrow.board.methods import default_methods, settings_of, short_name
from outgrow.board.run import run_board
from outgrow.board.statistics import (
    holm,
    max_t,
    median_over_tasks,
    on_tasks_like_these,
    on_these_tasks,
    sign_flip,
)
from outgrow.board.summary import Board, BoardRow, Cell, Entry, summarise
from outgrow.config import Grid
from outgrow.data import Examples, Labels
from outgrow.engine.store import Store
from outgrow.errors import UserError
from outgrow.labels import TRANSFORMS
from outgrow.losses import LOSSES
from outgrow.metrics import Interval, Spread
from outgrow.report import figures, plots
from outgrow.report.board import findings, notes, print_board, write_board
from outgrow.results import table_of
from outgrow.runtime import Runtime
from outgrow.strategies import CONTROLS, STRATEGIES, canonical_strategy

# ---- synthetic boards

PAIRS = (("small", "large"), ("small", "larger"), ("large", "larger"))


def cells_of(num_tasks: int) -> list[Cell]:
    return [Cell(f"task-{t}", weak, strong, "probe") for t in range(num_tasks) for weak, strong in PAIRS]


def entry(difference: float, error: float, pgr: float | None = 0.5) -> Entry:
    """A cell whose difference was measured as ``difference`` with a standard error of ``error``."""
    return Entry(
        accuracy=Interval(0.8, 0.78, 0.82),
        difference=Spread(difference, error**2, math.inf).interval(),
        difference_variance=error**2,
        difference_df=math.inf,
        pgr=None if pgr is None else Interval(pgr, pgr - 0.1, pgr + 0.1),
        pgr_undefined="no gap" if pgr is None else None,
        setting="as it is",
        seconds=1.0,
        trainings=1,
    )


def board_of(
    effects: dict[str, float], num_tasks: int, seed: int = 0, of_task: float = 0.004, primary: Sequence[str] = ()
) -> Board:
    """Methods whose true mean difference is known; tasks differ by ``of_task``, cells by 0.002, rows by 0.004."""
    rng = np.random.default_rng(seed)
    cells = cells_of(num_tasks)
    entries: dict[str, dict[Cell, Entry]] = {"naive": {c: entry(0.0, 0.0) for c in cells}}
    for method, effect in effects.items():
        shift = {f"task-{t}": rng.normal(effect, of_task) for t in range(num_tasks)}
        entries[method] = {c: entry(rng.normal(shift[c.task], 0.002), 0.004) for c in cells}
    kinds = dict.fromkeys(entries, "method") | dict.fromkeys(CONTROLS, "control")
    rows = summarise(entries, cells, kinds, primary=primary)
    return Board(rows=rows, entries=entries, cells=cells, kinds=kinds, seeds=5)


def row_of(board: Board, method: str) -> BoardRow:
    return next(row for row in board.rows if row.method == method)


def test_a_planted_gain_is_found_and_so_is_a_planted_loss() -> None:
    board = board_of({"good": 0.03, "bad": -0.03, "alike": 0.0}, num_tasks=10)
    good, bad, alike = (row_of(board, m) for m in ("good", "bad", "alike"))
    assert (good.verdict, bad.verdict, alike.verdict) == ("better", "worse", "inconclusive")
    assert [row.method for row in board.rows if row.p is not None] == ["good", "alike", "bad"]
    assert good.difference is not None
    assert good.difference.low < 0.03 < good.difference.high
    assert good.wins == 30
    assert bad.losses == 30
    assert good.p == pytest.approx(2 / 2**10)  # every task on the same side: the least that ten tasks can give
    assert good.p_adjusted == pytest.approx(2 / 2**10)  # of three methods, and no larger for it
    assert good.correction == "max-T"
    assert findings(board) == [
        "Better than naive on tasks like these: good.",
        "Worse than naive on tasks like these: bad.",
        "On these very tasks, the 95 % interval of the mean difference lies above zero for 1 of 3 methods (good) and "
        "below zero for 1 (bad), not corrected for the number of methods.",
    ]


def test_primary_methods_are_corrected_for_each_other_only() -> None:
    effects = {"good": 0.03, "fine": 0.03, **{f"m{i}": 0.0 for i in range(6)}}
    board = board_of(effects, num_tasks=8, primary=("good", "fine"))
    for method in ("good", "fine"):
        row = row_of(board, method)
        assert (row.primary, row.correction, row.verdict) == (True, "Holm", "better")
        assert row.p == 2 / 2**8
        assert row.p_adjusted == 2 * 2 / 2**8
    alone = board_of({m: e for m, e in effects.items() if m not in ("good", "fine")}, num_tasks=8, seed=1)
    assert {row.correction for row in alone.rows if row.p is not None} == {"max-T"}
    others = [row for row in board.rows if row.p is not None and not row.primary]
    table = [
        [np.mean([board.entries[r.method][c].difference.value for c in task]) for r in others] for task in _tasks(board)
    ]
    assert [row.p_adjusted for row in others] == pytest.approx(max_t(np.array(table)))
    assert "Better than naive on tasks like these, among primary methods: fine, good." in [
        f.replace("good, fine", "fine, good") for f in findings(board)
    ]
    assert "No method is shown to be better than naive on tasks like these, among the others." in findings(board)
    assert notes(board)[0] == (
        "8 methods against naive in 24 cells of 8 tasks, 5 seeds each: 2 primary (Holm's correction among them), "
        "6 corrected by max-T over the same sign flips."
    )


def _tasks(board: Board) -> list[list[Cell]]:
    return [[cell for cell in board.cells if cell.task == task] for task in board.tasks]


def test_the_two_intervals_answer_two_questions() -> None:
    """Rows and seeds tell each task's difference to 0.1 points; tasks differ by 5: sure of these, not of others."""
    differences = (0.10, 0.04, -0.02, 0.06, -0.04, 0.01)
    cells = cells_of(6)
    of_task = dict(zip(("task-0", "task-1", "task-2", "task-3", "task-4", "task-5"), differences, strict=True))
    entries = {"naive": {c: entry(0.0, 0.0) for c in cells}, "m": {c: entry(of_task[c.task], 0.001) for c in cells}}
    (row,) = (r for r in summarise(entries, cells, dict.fromkeys(entries, "method")) if r.method == "m")
    assert row.difference is not None
    assert row.on_these_tasks is not None
    assert row.difference.value == row.on_these_tasks.value == pytest.approx(0.025)
    assert row.difference.low < 0 < row.difference.high
    assert row.on_these_tasks.low == pytest.approx(0.025 - 1.96 * 0.001 / math.sqrt(6), abs=1e-6)
    assert row.verdict == "inconclusive"


def test_the_same_gain_on_few_tasks_is_not_called_better() -> None:
    board = board_of({"good": 0.03, "other": 0.0}, num_tasks=4)
    good = row_of(board, "good")
    assert good.difference is not None
    assert good.difference.low > 0
    assert good.p == 0.125
    assert good.verdict == "inconclusive"
    said = " ".join(findings(board))
    assert "No method is shown to be better" in said
    assert "lies above zero for 1 of 2 methods (good)" in said
    assert "With 4 tasks this test cannot give a p below 0.12" in said
    assert "at least 6 tasks" in said
    enough = board_of({"good": 0.03, "other": 0.0}, num_tasks=board.tasks_needed)
    assert row_of(enough, "good").verdict == "better"
    assert "this test cannot" not in " ".join(findings(enough))
    several = board_of({"good": 0.03, "other": 0.03, "third": 0.0}, num_tasks=6, primary=("good", "other", "third"))
    assert several.tasks_needed == 7  # 2^-6 is 0.016, and 3 times that is below 0.05
    assert "corrected for 3 primary methods, is too large" in " ".join(findings(several))


def test_a_method_that_ties_by_construction_is_not_tested_and_does_not_count() -> None:
    cells = cells_of(6)
    rng = np.random.default_rng(0)
    same = {c: entry(0.0, 0.0) for c in cells}
    other = {c: entry(rng.normal(0.02, 0.002), 0.004) for c in cells}
    entries = {"naive": same, "twin": same, "rounded": {c: entry(1e-17, 0.0) for c in cells}, "other": other}
    board = Board(
        rows=summarise(entries, cells, dict.fromkeys(entries, "method"), primary=("twin", "other")),
        entries=entries,
        cells=cells,
        kinds={},
        seeds=1,
    )
    twin = row_of(board, "twin")
    assert (twin.wins, twin.ties, twin.losses, twin.verdict) == (0, 18, 0, "same")
    assert twin.p is twin.p_adjusted is None
    assert twin.difference == twin.on_these_tasks == Interval(0.0, 0.0, 0.0)
    assert twin.cost == 1.0
    assert row_of(board, "rounded").verdict == "same"
    assert row_of(board, "naive").verdict == ""
    assert (board.compared, len(board.primary)) == (1, 1)
    assert row_of(board, "other").p_adjusted == row_of(board, "other").p == 2 / 2**6  # Holm among one
    assert "Not tested, as every difference to naive is 0: rounded, twin." in notes(board)
    assert any("; one seed, so no variation between seeds is in it" in said for said in findings(board))


def test_the_naive_row_and_controls_are_not_tested() -> None:
    board = board_of({"good": 0.03, "shuffled": -0.3}, num_tasks=8)
    assert row_of(board, "naive").p is None
    assert row_of(board, "shuffled").p is None
    assert board.compared == 1
    assert row_of(board, "good").p_adjusted == row_of(board, "good").p


def test_undefined_and_missing_cells_are_counted_and_the_median_is_over_the_others() -> None:
    cells = cells_of(2)
    values = [0.1, None, 0.9, 0.3, None, 0.2]
    own = {c: entry(0.01, 0.004, v) for c, v in zip(cells, values, strict=True)}
    gone = {c: e for c, e in own.items() if c.task == "task-0"}
    none = {c: entry(0.01, 0.004, None) for c in cells}
    entries = {"naive": own, "gone": gone, "none": none}
    rows = {r.method: r for r in summarise(entries, cells, dict.fromkeys(entries, "method"))}
    assert rows["naive"].pgr is not None
    assert rows["naive"].pgr.value == pytest.approx((0.5 + 0.25) / 2)  # of two tasks
    assert rows["naive"].pgr[1:] == (-math.inf, math.inf)
    assert (rows["naive"].pgr_cells, rows["naive"].cells, rows["naive"].missing) == (4, 6, 0)
    assert (rows["gone"].pgr_cells, rows["gone"].cells, rows["gone"].missing) == (2, 3, 3)
    assert rows["gone"].p == 1.0  # one task: either sign is as far from zero
    assert rows["none"].pgr is None
    assert rows["none"].difference is not None


# ---- statistics


def reference_holm(p_values: Sequence[float]) -> list[float]:
    """By the definition: corrected p is the smallest level at which the step-down procedure rejects."""

    def rejects(level: float) -> set[int]:
        rejected: set[int] = set()
        for i in sorted(range(len(p_values)), key=lambda i: p_values[i]):
            if p_values[i] * (len(p_values) - len(rejected)) > level:
                break
            rejected.add(i)
        return rejected

    levels = sorted({p * k for p in p_values for k in range(1, len(p_values) + 1)})
    return [
        min((level for level in levels if level <= 1 and i in rejects(level)), default=1.0)
        for i in range(len(p_values))
    ]


@given(st.lists(st.integers(0, 20).map(lambda n: n / 20), max_size=7))
def test_holm_equals_the_step_down_procedure(p_values: list[float]) -> None:
    assert holm(p_values) == pytest.approx(reference_holm(p_values))


@given(st.lists(st.integers(-9, 9).map(float), min_size=1, max_size=8))
def test_sign_flip_equals_going_through_all_flips(differences: list[float]) -> None:
    flips = [
        abs(sum(s * x for s, x in zip(f, differences, strict=True))) for f in product((1, -1), repeat=len(differences))
    ]
    assert sign_flip(differences) == pytest.approx(np.mean([f >= abs(sum(differences)) for f in flips]))


def reference_max_t(table: list[list[float]]) -> list[float]:
    """By the definition, one hypothesis at a time: rows are tasks, columns methods."""
    num_tasks, num_methods = len(table), len(table[0])

    def statistic(signs: Sequence[int], method: int) -> float:
        column = [row[method] for row in table]
        size = math.sqrt(sum(x * x for x in column))
        return abs(sum(s * x for s, x in zip(signs, column, strict=True))) / size if size else 0.0

    flips = list(product((1, -1), repeat=num_tasks))
    observed = [statistic((1,) * num_tasks, m) for m in range(num_methods)]
    left, found, highest = sorted(range(num_methods), key=lambda m: -observed[m]), [1.0] * num_methods, 0.0
    while left:
        best = left[0]
        reached = [max(statistic(f, m) for m in left) >= observed[best] - 1e-9 for f in flips]
        highest = max(highest, sum(reached) / len(flips))
        found[best] = highest
        left = left[1:]
    return found


@given(
    st.integers(1, 4).flatmap(
        lambda m: st.lists(st.lists(st.integers(-9, 9).map(float), min_size=m, max_size=m), min_size=1, max_size=6)
    )
)
def test_max_t_equals_its_definition(table: list[list[float]]) -> None:
    assert max_t(np.array(table)) == pytest.approx(reference_max_t(table))


@given(st.integers(0, 10_000), st.integers(1, 40))
def test_the_least_p_of_max_t_does_not_depend_on_how_many_methods_there_are(seed: int, others: int) -> None:
    rng = np.random.default_rng(seed)
    good = 0.03 + 0.0001 * rng.normal(size=(9, 1))
    table = np.hstack([good, rng.normal(size=(9, others)) * rng.uniform(0.001, 0.1, others)])
    alone, *rest = max_t(table)
    assert alone >= 2 / 2**9
    assert alone <= min(rest)
    assert max_t(np.repeat(good, others, axis=1))[0] == 2 / 2**9
    missing = np.hstack([table, np.full((9, 1), np.nan)])
    assert max_t(missing)[:-1] == pytest.approx(max_t(table))
    assert max_t(missing)[-1] == 1.0


def test_many_tasks_are_sampled_and_agree_with_the_exact_test() -> None:
    rng = np.random.default_rng(1)
    exact = rng.normal(0.5, 1, size=14).tolist()
    padded = [*exact, 0.0, 0.0, 0.0]  # tasks without a difference change nothing
    assert sign_flip(padded) == pytest.approx(sign_flip(exact), abs=0.01)
    assert sign_flip([1.0] * 30) == pytest.approx(1 / 20_000)


def test_of_methods_equal_to_naive_the_p_values_are_uniform() -> None:
    """Cells of a task move together; a test that took cells for units would reject about one in four."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(2000):
        task = rng.normal(size=(8, 1))
        found.append(sign_flip((task + 0.3 * rng.normal(size=(8, 3))).mean(axis=1).tolist()))
    steps = np.arange(1, 20) / 20
    shares = np.array([(np.array(found) <= s).mean() for s in steps])
    assert np.abs(shares - steps).max() < 0.04
    assert shares[0] <= 0.05 + 0.01


@pytest.mark.slow
def test_no_method_of_many_equal_ones_is_called_better_more_often_than_the_level_says() -> None:
    boards = [board_of({f"m{i}": 0.0 for i in range(6)}, num_tasks=9, seed=s) for s in range(60)]
    wrong = sum(any(row.verdict in ("better", "worse") for row in board.rows) for board in boards)
    assert wrong <= 7  # 0.05 of 60 is 3; more than 7 happens by chance once in 100


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """Over tasks drawn at random, of rows and seeds alone, and of the median; each 2,000 times, so +- 1.5 points."""
    rng = np.random.default_rng(0)
    truth = rng.normal(0, 0.02, size=8)  # of the tasks that are given
    held = np.zeros(3)
    for _ in range(2000):
        noise = 0.006 * rng.normal(size=(8, 1))  # shared by the cells of a task: the worst that can be
        drawn, given_tasks = rng.normal(0, 0.02, size=(8, 1)) + noise, truth[:, None] + noise + np.zeros((8, 3))
        spreads = [[Spread(x, 0.006**2, math.inf) for x in task] for task in given_tasks.tolist()]
        over, fixed = on_tasks_like_these(drawn[:, 0].tolist()), on_these_tasks(spreads)
        median = median_over_tasks(rng.exponential(size=8).tolist())
        pairs = ((over, 0.0), (fixed, truth.mean()), (median, math.log(2)))
        held += [found.low <= so <= found.high for found, so in pairs]
    assert np.abs(held[:2] / 2000 - 0.95).max() < 0.015
    assert 0.94 < held[2] / 2000 <= 1.0  # 99 % of eight tasks: ends are tasks


def test_cells_of_a_task_are_not_several_pieces_of_evidence() -> None:
    once = on_these_tasks([[Spread(0.01, 1e-4, 9.0)], [Spread(0.03, 1e-4, 9.0)]])
    thrice = on_these_tasks([[Spread(0.01, 1e-4, 9.0)] * 3, [Spread(0.03, 1e-4, 9.0)] * 3])
    assert once == pytest.approx(thrice)
    assert once == pytest.approx(Spread(0.02, 5e-5, 18.0).interval())
    assert on_these_tasks([[Spread(0.01, math.inf, 0.0)], [Spread(0.03, 1e-4, 9.0)]]) == (0.02, -math.inf, math.inf)
    assert on_these_tasks([[Spread(0.0, 0.0, math.inf)]] * 2) == (0.0, 0.0, 0.0)


def test_one_task_bounds_nothing_and_few_bound_no_median() -> None:
    assert on_tasks_like_these([0.3]) == (0.3, -math.inf, math.inf)
    assert on_tasks_like_these([0.0, 0.02]) == pytest.approx(
        (0.01, 0.01 - 12.7062 * 0.01, 0.01 + 12.7062 * 0.01), rel=1e-5
    )
    assert median_over_tasks([1.0, 2.0, 3.0, 4.0, 5.0]) == (3.0, -math.inf, math.inf)
    assert median_over_tasks([6.0, 1.0, 2.0, 3.0, 4.0, 5.0]) == (3.5, 1.0, 6.0)
    assert median_over_tasks([float(i) for i in range(1, 13)]) == (6.5, 3.0, 10.0)


# ---- methods


def test_the_default_methods_are_those_of_the_registries() -> None:
    found = default_methods()
    assert found[0] == "naive"
    assert {m for m in found if m in STRATEGIES} == set(STRATEGIES) - set(CONTROLS)
    assert {f"naive(transforms=({t},))" for t in TRANSFORMS} <= set(found)
    assert {f"naive(loss={t})" for t in LOSSES} - set(found) == {"naive(loss=Xent)"}
    assert all(canonical_strategy(m) == m for m in found)


@pytest.mark.parametrize("method", default_methods())
def test_settings_to_choose_among_hold_the_default(method: str) -> None:
    settings = settings_of(method)
    assert method in settings
    assert len(set(settings)) == len(settings)


def test_every_grid_is_of_a_loss_transform_or_strategy_that_is_there() -> None:
    assert set(methods._GRIDS) <= {*LOSSES, *TRANSFORMS, *STRATEGIES}
    chosen = {method for method in default_methods() if len(settings_of(method)) > 1}
    assert len(chosen) >= len(methods._GRIDS)


def test_short_names() -> None:
    assert short_name("naive(loss=GCE)") == "GCE"
    assert short_name("naive(loss=GCE(q=0.4))") == "GCE(q=0.4)"
    assert short_name("naive(transforms=(KNN(k=5),))") == "KNN(k=5)"
    assert short_name("confidence(loss=LogConf(alpha=0.75))") == "LogConf(alpha=0.75)"
    for whole in ("naive", "naive(transforms=(KNN, Harden))", "naive(transforms=(KNN,), loss=GCE)"):
        assert short_name(whole) == whole


# ---- steps


def some_labels(ids: list[str], classes: Sequence[int], num_classes: int) -> Labels:
    return Labels.from_classes(np.array(ids), np.array(classes), num_classes, "test")


def contrast_of(right: dict[str, list[list[bool]]], num_classes: int = 2) -> dict[str, Any]:
    """A contrast of students of whom it is known where they are right; rows are handed over in other orders."""
    num = len(right["weak"][0])
    ids = [f"r{i}" for i in range(num)]
    gold = [i % num_classes for i in range(num)]
    texts = Examples(
        ids=np.array(ids),
        inputs=("x",) * num,
        gold=None,
        classes=tuple("abcd"[:num_classes]),
        groups=np.array(ids),
        meta={},
    )

    def said(role: str) -> tuple[Labels, ...]:
        made = []
        for seed in right[role]:
            classes = [g if ok else (g + 1) % num_classes for g, ok in zip(gold, seed, strict=True)]
            made.append(some_labels(ids, classes, num_classes).take(np.array(ids[::-1])))
        return tuple(made)

    seeds = tuple(range(len(right["weak"])))
    return steps.contrast(
        texts=texts,
        truth=tuple(some_labels(ids, gold, num_classes) for _ in seeds),
        weak=said("weak"),
        reference=said("reference"),
        students=(said("student"), said("reference")),
        ceilings=(said("ceiling"), said("own")) if "ceiling" in right else (),
        ceiling_of=(1, 0) if "ceiling" in right else (0, 0),
        seeds=seeds,
    )


@pytest.mark.parametrize("num_classes", [2, 4])
def test_a_contrast_is_paired_row_by_row(num_classes: int) -> None:
    rng = np.random.default_rng(0)
    weak = (rng.random((3, 400)) < 0.6).tolist()
    reference = (rng.random((3, 400)) < 0.8).tolist()
    better = [[True if i % 8 == 0 else ok for i, ok in enumerate(seed)] for seed in reference]
    perfect = [[True] * 400] * 3
    given = {"weak": weak, "reference": reference, "student": better, "ceiling": perfect, "own": better}
    found = contrast_of(given, num_classes)
    student, same = found["students"]
    expected = np.mean(better) - np.mean(reference)
    assert student["difference"][0] == pytest.approx(expected)
    assert 0 < student["difference"][1] < expected < student["difference"][2]
    unpaired = student["accuracy"][2] - student["accuracy"][1]
    assert student["difference"][2] - student["difference"][1] < unpaired / 2
    assert same["difference"] == [0.0, 0.0, 0.0]
    assert student["pgr"][0] == pytest.approx(1.0)  # against its own ceiling
    assert same["pgr"][0] == pytest.approx((np.mean(reference) - np.mean(weak)) / (1 - np.mean(weak)))
    assert found["majority"]["accuracy"][0] == pytest.approx(1 / num_classes)
    assert found["weak"]["pgr"][0] == 0.0
    assert found["ceiling"]["pgr"][0] == 1.0
    spread = Spread(expected, student["difference_variance"], student["difference_df"])
    assert spread.interval() == pytest.approx(student["difference"])


def test_a_contrast_says_why_there_is_no_pgr() -> None:
    half = [[i % 2 == 0 for i in range(60)]] * 2
    found = contrast_of({"weak": half, "reference": half, "student": half})
    assert found["students"][0]["pgr"] is None
    assert found["students"][0]["pgr_undefined"] == "there is no ceiling"
    found = contrast_of({"weak": half, "reference": half, "student": half, "ceiling": half, "own": half})
    assert "not shown to be better" in found["students"][0]["pgr_undefined"]


def test_agreement_with_the_weak_needs_no_gold() -> None:
    from outgrow.data import Split

    ids = np.array(["a", "b", "c"])
    weak = Labels(ids=ids, probs=np.array([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]], dtype=np.float32), source="weak")
    own = Labels(ids=ids[:2], probs=np.array([[0.6, 0.4], [0.6, 0.4]], dtype=np.float32), source="student")
    split = Split(parts={"B_val": ids[:2]})
    found = steps.weak_agreement(own, weak, split, "B_val")
    assert found["agreement"] == 0.5
    assert found["xent"] == pytest.approx(-(1.1 * np.log(0.6) + 0.9 * np.log(0.4)) / 2, rel=1e-6)


# ---- on real steps

METHODS = ("confidence", "naive(loss=GCE)", "naive(transforms=(KNN(k=5),))", "naive(transforms=(MixGold,))")


@pytest.fixture
def grid(model: Path) -> Grid:
    return Grid(
        task=("words", "words(classes=3)"),
        weak=(str(model),),
        strong=(str(model),),
        strategy=METHODS,
        train=("probe(epochs=3, lr=0.03)",),
        weak_train="probe(epochs=3, lr=0.03, max_tokens=4)",
        seeds=2,
    )


def test_a_board_of_real_students_agrees_with_their_own_results(grid: Grid, store: Store, tmp_path: Path) -> None:
    board = run_board(grid, store, Runtime())
    assert board.failure is None
    kinds = {row.method: row.kind for row in board.rows}
    assert kinds == {
        **dict.fromkeys(("naive", *METHODS), "method"),
        "naive(transforms=(MixGold,))": "gold",
        **dict.fromkeys((*CONTROLS, "majority class"), "control"),
        **dict.fromkeys(("supervisor", "ceiling"), "reference"),
    }
    assert board.compared == 3
    results = table_of([store.record(target) for target in board.experiments])
    assert len(results) == 2 * (len(METHODS) + 1 + len(CONTROLS))
    for r in results.to_dicts():
        cell = Cell(r["task"], r["weak"], r["strong"], r["train"])
        own, plain = board.entries[r["strategy"]][cell], board.entries["naive"][cell]
        assert own.accuracy.value == pytest.approx(r["student_accuracy"])
        assert own.difference.value == pytest.approx(own.accuracy.value - plain.accuracy.value)
        assert (own.pgr and own.pgr.value) == pytest.approx(r["pgr"])
        assert board.entries["supervisor"][cell].accuracy.value == pytest.approx(r["weak_accuracy"])
        assert own.trainings == (0 if r["strategy"] == "clusters" else 1)
    assert row_of(board, "naive").cost == 1.0
    again = run_board(grid, store, Runtime())
    assert again.outcome is not None
    assert again.outcome.ran == 0
    assert again.rows == board.rows


def test_settings_are_chosen_by_weak_validation_labels_and_never_see_gold(grid: Grid, store: Store) -> None:
    board = run_board(replace(grid, strategy=("naive(loss=GCE)",), controls=False), store, Runtime(), tune=True)
    assert row_of(board, "naive(loss=GCE)").settings == 3
    assert row_of(board, "naive").settings == 1
    records = {record["key"]: record for record in store.records()}
    for found in (r for r in records.values() if r["fn"] == "weak_agreement"):
        assert found["args"]["part"] == "B_val"
        behind, new = set[str](), {found["key"]}
        while new:
            behind |= new
            new = {i for key in new for i in records[key]["inputs"]} - behind
        golds = [records[key] for key in behind if records[key]["fn"] == "gold"]
        assert {part for g in golds for part in g["args"]["parts"]} == {"A", "A_val"}
    scores = [found["result"]["agreement"] for found in store.records("weak_agreement")]
    assert len(scores) == 3 * 2 * 2
    for cell in board.cells:
        assert board.entries["naive(loss=GCE)"][cell].setting in settings_of("naive(loss=GCE)")
    assert any("never gold" in note for note in notes(board))


def test_primary_methods_join_the_run_and_what_was_stored_before_is_said(grid: Grid, store: Store) -> None:
    small = replace(grid, strategy=("naive(loss=GCE)",), controls=False)
    first = run_board(small, store, Runtime(), primary=("confidence",))
    assert {row.method: row.correction for row in first.rows if row.p is not None} == {
        "confidence": "Holm",
        "naive(loss=GCE)": "max-T",
    }
    assert first.remarks == []
    again = run_board(small, store, Runtime(), primary=("naive(loss=GCE)", "naive(loss=GCE())"))
    assert row_of(again, "naive(loss=GCE)").correction == "Holm"
    assert "2 of 2 results of primary methods were in the store before" in notes(again)[-1]
    refused = {
        "all": "all is no primary method: name single ones",
        "naive": "naive is no primary method: name single ones",
        "shuffled": "shuffled is a control and is not tested; take it out of the primary methods",
        "naive(transforms=(MixGold,))": "uses gold labels of B and is not tested",
    }
    for method, message in refused.items():
        with pytest.raises(UserError, match=re.escape(message)):
            run_board(small, store, Runtime(), primary=(method,))


def test_a_method_that_fails_in_a_cell_is_missing_there_and_nowhere_else(
    grid: Grid, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    from outgrow.labels.neighbours import KNN

    whole = KNN.__call__

    def fails(self: KNN, labels: Labels, given: Any) -> Labels:
        if labels.probs.shape[1] == 3:
            raise UserError("no third class, please")
        return whole(self, labels, given)

    monkeypatch.setattr(KNN, "__call__", fails)
    board = run_board(grid, store, Runtime())
    assert board.failure is not None
    row = row_of(board, "naive(transforms=(KNN(k=5),))")
    assert (row.cells, row.missing) == (1, 1)
    assert all(r.missing == 0 for r in board.rows if r is not row)
    assert "Failed in some cells (their number) and judged by the others: KNN(k=5) (1)." in notes(board)
    assert board.cell_table().filter(pl.col("status") == "failed").height == 1


def test_a_named_method_that_cannot_be_is_refused_and_one_of_all_is_skipped(
    grid: Grid, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    impossible = "naive(transforms=(Harden, Temperature))"
    monkeypatch.setattr(
        "outgrow.board.run.default_methods", lambda: ("confidence", "naive(loss=LogConf)", impossible, "crc")
    )
    small = replace(grid, task=("words",), controls=False)
    board = run_board(replace(small, strategy=("all",)), store, Runtime())
    assert {row.method for row in board.rows if row.kind == "method"} == {"naive", "confidence"}
    assert board.skipped["naive(loss=LogConf)"] == "the same student as confidence"
    assert "put Harden last" in board.skipped[impossible]
    assert board.skipped["crc"].startswith("trains no student")
    assert any("put Harden last" in note for note in notes(board))
    with pytest.raises(UserError, match="put Harden last"):  # nothing has run by then
        run_board(replace(small, strategy=(impossible,)), store, Runtime())


def test_written_answers_have_no_board(model: Path, store: Store) -> None:
    grid = Grid(
        task=("chess-puzzles(form='move')",),
        weak=(str(model),),
        strong=(str(model),),
        train=("generate",),
        strategy=("naive",),
    )
    with pytest.raises(UserError, match="writes answers"):
        run_board(grid, store, Runtime())


# ---- the page

PROVENANCE = {"command": "outgrow board <b>", "versions": {"python": "3"}, "licences": [("words", "none")]}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("outgrow.report.page.javascript", lambda: "/* vega */")
    monkeypatch.setattr(
        "outgrow.report.figures.render", lambda chart: figures.Picture(chart.to_dict(), "<svg></svg>", b"png")
    )


@pytest.mark.usefixtures("quick")
def test_the_page_shows_every_method_every_cell_and_what_is_missing(grid: Grid, store: Store, tmp_path: Path) -> None:
    from rich.console import Console

    board = run_board(replace(grid, ceiling=False), store, Runtime())
    results = table_of([store.record(target) for target in board.experiments])
    page = write_board(board, results, tmp_path / "out", title="<Board>", provenance=PROVENANCE)
    text = page.read_text()
    assert "<Board>" not in text
    assert "outgrow board &lt;b&gt;" in text
    assert "No method is shown to be better than naive on tasks like these." in text
    assert "undefined" in text
    assert "there is no ceiling" in text
    assert text.count("<details>") == 2
    assert "ceiling" not in board.entries
    for row in board.rows:
        assert f'title="{html.escape(row.method)}"' in text
    before = page.stat().st_mtime_ns
    write_board(board, results, tmp_path / "out", title="<Board>", provenance={**PROVENANCE, "seconds": 3.0})
    assert page.stat().st_mtime_ns == before
    rows = pl.read_csv(tmp_path / "out" / "board.csv")
    assert rows["method"].to_list() == [row.method for row in board.rows]
    assert len(pl.read_csv(tmp_path / "out" / "cells.csv")) == len(board.rows) * len(board.cells)
    console = Console(width=160, record=True, file=io.StringIO())
    print_board(board, console)
    assert "MixGold (gold of B)" in console.export_text()


def test_heat_maps_tell_undefined_from_failed_from_zero() -> None:
    board = board_of({"good": 0.03}, num_tasks=2)
    first, second, *_ = board.cells
    own = dict(board.entries["good"])
    del own[first]
    own[second] = entry(0.0, 0.01, None)
    entries = {**board.entries, "good": own}
    rows = summarise(entries, board.cells, board.kinds)
    cells = Board(rows=rows, entries=entries, cells=board.cells, kinds=board.kinds).cell_table()
    for draw, labels in ((plots.heat_map, ["×", "0.0"]), (plots.heat_map_pgr, ["×", "–"])):
        chart = draw(cells)
        (values,) = chart.to_dict()["datasets"].values()
        of_good = [v for v in values if v["method"] == "good"]
        assert [v["label"].replace("−", "+") for v in of_good[:2]] == labels
        assert of_good[0]["colour"] is None
        svg = figures.render(chart).svg
        assert "×" in svg
        assert "good" in svg


# ---- every sentence a board can print

SENTENCES = (
    r"(Better|Worse) than naive on tasks like these(, among (?:primary methods|the others))?: (.+)\.",
    r"No method is shown to be better than naive on tasks like these(, among (?:primary methods|the others))?\.",
    r"On these very tasks, the 95 % interval of the mean difference lies above zero for "
    r"(\d+) of (\d+) methods?(?: \(.+?\))? and below zero for (\d+)(?: \(.+\))?, not corrected for the number of "
    r"methods(; one seed, so no variation between seeds is in it)?\.",
    r"With (\d+) tasks? this test cannot give a p below [\d.]+; that(?:, corrected for (\d+) primary methods,)? is too "
    r"large for any verdict\. You need at least (\d+) tasks before a method that wins on "
    r"every one could be called better\.",
)


@pytest.mark.parametrize("num_tasks", [1, 4, 6, 9])
@pytest.mark.parametrize("primary", [(), ("up",), ("up", "down", "flat")])
@pytest.mark.parametrize("seeds", [1, 5])
def test_every_finding_says_what_the_table_holds(num_tasks: int, primary: tuple[str, ...], seeds: int) -> None:
    """Each sentence is one of those above, and each of its numbers and names is counted again here."""
    effects = {"up": 0.05, "down": -0.05, "flat": 0.0, "other": 0.05}
    board = replace(board_of(effects, num_tasks, seed=3, primary=primary), seeds=seeds)
    tested = [row for row in board.rows if row.method in effects]
    families = {"": tested}
    if primary:
        families = {", among primary methods": [r for r in tested if r.method in primary]}
        families[", among the others"] = [r for r in tested if r.method not in primary]
    expected = set()
    for which, rows in families.items():
        for verdict, sign in (("Better", 1), ("Worse", -1)):
            sure = [r for r in rows if r.p_adjusted is not None and r.p_adjusted <= 0.05]
            names = [r.method for r in sure if r.difference and sign * r.difference.value > 0]
            if names:
                expected.add((verdict, which, ", ".join(names)))
            elif sign > 0:
                expected.add(("No", which, ""))
    seen = set()
    for said in findings(board):
        better, none, fixed, few = (re.fullmatch(pattern, said) for pattern in SENTENCES)
        assert sum(map(bool, (better, none, fixed, few))) == 1, said
        if better:
            seen.add((better[1], better[2] or "", better[3]))
        if none:
            seen.add(("No", none[1] or "", ""))
        if fixed:
            ends = [r.on_these_tasks for r in tested if r.on_these_tasks]
            counts = sum(e.low > 0 for e in ends), len(tested), sum(e.high < 0 for e in ends)
            assert tuple(map(int, fixed.groups()[:3])) == counts
            assert bool(fixed[4]) == (seeds == 1)
        if few:
            assert int(few[1]) == num_tasks
            assert 2.0 ** (1 - num_tasks) * max(len(primary), 1) > 0.05
            assert (
                2.0 ** (1 - int(few[3])) * max(len(primary), 1)
                <= 0.05
                < 2.0 ** (2 - int(few[3])) * max(len(primary), 1)
            )
    assert seen == expected
    assert not re.search("credibl|significant|has learned", " ".join([*findings(board), *notes(board)]))


def test_a_page_names_the_command_that_ran_also_where_a_recipe_gave_it(
    monkeypatch: pytest.MonkeyPatch, store: Store
) -> None:
    monkeypatch.setattr("sys.argv", ["experiments/recipe.py", "--offline"])
    with pytest.raises(SystemExit):
        cli.main(["ls", "--store", str(store.root)])
    assert cli._command() == f"outgrow ls --store {store.root}"
