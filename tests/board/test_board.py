"""The scoreboard: its statistics against references and simulation, and the whole of it on a made-up task."""

import html
import io
import math
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

from outgrow import steps
from outgrow.board import methods
from outgrow.board.methods import default_methods, settings_of, short_name
from outgrow.board.run import run_board
from outgrow.board.statistics import holm, mean, median, nested_interval, sign_flip
from outgrow.board.summary import Board, BoardRow, Cell, Entry, summarise
from outgrow.config import Grid
from outgrow.data import Examples, Labels
from outgrow.engine.store import Store
from outgrow.errors import UserError
from outgrow.labels import TRANSFORMS
from outgrow.losses import LOSSES
from outgrow.metrics import Interval
from outgrow.report import figures, plots
from outgrow.report.board import findings, notes, print_board, write_board
from outgrow.results import table_of
from outgrow.runtime import Runtime
from outgrow.steps.compare import KEPT_DRAWS
from outgrow.strategies import CONTROLS, STRATEGIES, canonical_strategy

# ---- synthetic boards

PAIRS = (("small", "large"), ("small", "larger"), ("large", "larger"))


def cells_of(num_tasks: int) -> list[Cell]:
    return [Cell(f"task-{t}", weak, strong, "probe") for t in range(num_tasks) for weak, strong in PAIRS]


def entry(rng: np.random.Generator, difference: float, error: float, pgr: float | None = 0.5) -> Entry:
    """A cell whose difference was measured as ``difference`` with a standard error of ``error``."""
    draws = rng.normal(difference, error, size=200)
    low, high = np.quantile(draws, [0.025, 0.975])
    return Entry(
        accuracy=Interval(0.8, 0.78, 0.82),
        difference=Interval(difference, float(low), float(high)),
        difference_draws=draws,
        pgr=None if pgr is None else Interval(pgr, pgr - 0.1, pgr + 0.1),
        pgr_undefined="no gap" if pgr is None else None,
        pgr_draws=None if pgr is None else rng.normal(pgr, 0.05, size=200),
        setting="as it is",
        seconds=1.0,
        trainings=1,
    )


def board_of(effects: dict[str, float], num_tasks: int, seed: int = 0, of_task: float = 0.004) -> Board:
    """Methods whose true mean difference is known; tasks differ by ``of_task``, cells by 0.002, rows by 0.004."""
    rng = np.random.default_rng(seed)
    cells = cells_of(num_tasks)
    entries: dict[str, dict[Cell, Entry]] = {"naive": {c: entry(rng, 0.0, 0.0) for c in cells}}
    for method, effect in effects.items():
        shift = {f"task-{t}": rng.normal(effect, of_task) for t in range(num_tasks)}
        entries[method] = {c: entry(rng, rng.normal(shift[c.task], 0.002), 0.004) for c in cells}
    kinds = dict.fromkeys(entries, "method") | dict.fromkeys(CONTROLS, "control")
    return Board(rows=summarise(entries, cells, kinds), entries=entries, cells=cells, kinds=kinds, seeds=5)


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
    assert good.p_holm == pytest.approx(3 * 2 / 2**10)
    assert findings(board) == ["Better than naive: good.", "Worse than naive: bad."]


def test_the_same_gain_on_few_tasks_is_not_called_better() -> None:
    board = board_of({"good": 0.03, "other": 0.0}, num_tasks=4)
    good = row_of(board, "good")
    assert good.difference is not None
    assert good.difference.low > 0
    assert good.p == 0.125
    assert good.verdict == "inconclusive"
    said = " ".join(findings(board))
    assert "No method is shown to be better" in said
    assert "with 4 tasks" in said.lower()
    assert f"at least {board.tasks_needed} tasks" in said
    enough = board_of({"good": 0.03, "other": 0.0}, num_tasks=board.tasks_needed)
    assert row_of(enough, "good").verdict == "better"


def test_naive_against_itself_is_a_tie_everywhere() -> None:
    cells = cells_of(6)
    rng = np.random.default_rng(0)
    same = {c: entry(rng, 0.0, 0.0) for c in cells}
    (row,) = (r for r in summarise({"naive": same, "twin": same}, cells, {"naive": "method", "twin": "method"}) if r.p)
    assert (row.wins, row.ties, row.losses) == (0, 18, 0)
    assert row.p == row.p_holm == 1.0
    assert row.difference == Interval(0.0, 0.0, 0.0)
    assert row.cost == 1.0


def test_the_naive_row_and_controls_are_not_tested() -> None:
    board = board_of({"good": 0.03, "shuffled": -0.3}, num_tasks=8)
    assert row_of(board, "naive").p is None
    assert row_of(board, "shuffled").p is None
    assert board.compared == 1
    assert row_of(board, "good").p_holm == row_of(board, "good").p


def test_undefined_and_missing_cells_are_counted_and_the_median_is_over_the_others() -> None:
    rng = np.random.default_rng(0)
    cells = cells_of(2)
    values = [0.1, None, 0.9, 0.3, None, 0.2]
    own = {c: entry(rng, 0.01, 0.004, v) for c, v in zip(cells, values, strict=True)}
    gone = {c: e for c, e in own.items() if c.task == "task-0"}
    none = {c: entry(rng, 0.01, 0.004, None) for c in cells}
    entries = {"naive": own, "gone": gone, "none": none}
    rows = {r.method: r for r in summarise(entries, cells, dict.fromkeys(entries, "method"))}
    assert rows["naive"].pgr is not None
    assert rows["naive"].pgr.value == pytest.approx(0.25)
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


@given(st.lists(st.lists(st.integers(-9, 9).map(float), min_size=1, max_size=3), min_size=1, max_size=8))
def test_sign_flip_equals_going_through_all_flips(differences: list[list[float]]) -> None:
    sums = [sum(task) for task in differences]
    flips = [abs(sum(s * x for s, x in zip(f, sums, strict=True))) for f in product((1, -1), repeat=len(sums))]
    assert sign_flip(differences) == pytest.approx(np.mean([f >= abs(sum(sums)) for f in flips]))


def test_many_tasks_are_sampled_and_agree_with_the_exact_test() -> None:
    rng = np.random.default_rng(1)
    exact = [[x] for x in rng.normal(0.5, 1, size=14)]
    padded = [*exact, [0.0], [0.0], [0.0]]  # tasks without a difference change nothing
    assert sign_flip(padded) == pytest.approx(sign_flip(exact), abs=0.01)
    assert sign_flip([[1.0]] * 30) == pytest.approx(1 / 20_000)


def test_of_methods_equal_to_naive_the_p_values_are_uniform() -> None:
    """Cells of a task move together here; a test that took cells for units would reject about one in four."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(2000):
        task = rng.normal(size=(8, 1))
        found.append(sign_flip((task + 0.3 * rng.normal(size=(8, 3))).tolist()))
    steps = np.arange(1, 20) / 20
    shares = np.array([(np.array(found) <= s).mean() for s in steps])
    assert np.abs(shares - steps).max() < 0.04
    assert shares[0] <= 0.05 + 0.01


@pytest.mark.slow
def test_no_method_of_many_equal_ones_is_called_better_more_often_than_the_level_says() -> None:
    boards = [board_of({f"m{i}": 0.0 for i in range(6)}, num_tasks=9, seed=s) for s in range(60)]
    wrong = sum(any(row.verdict in ("better", "worse") for row in board.rows) for board in boards)
    assert wrong <= 7  # 0.05 of 60 is 3; more than 7 happens by chance once in 100


@given(st.lists(st.one_of(st.none(), st.integers(-5, 5)), min_size=1, max_size=9).filter(any))
def test_mean_and_median_leave_out_what_is_not_there(values: list[int | None]) -> None:
    row = np.array([[math.nan if v is None else float(v) for v in values]])
    assert mean(row)[0] == pytest.approx(np.nanmean(row))
    assert median(row)[0] == pytest.approx(np.nanmedian(row))


def test_median_orders_infinite_values() -> None:
    assert median(np.array([[math.inf, 1.0, -math.inf, math.nan]]))[0] == 1.0
    assert math.isnan(median(np.array([[math.inf, -math.inf]]))[0])


def test_the_interval_over_cells_widens_with_what_tasks_differ_by() -> None:
    rng = np.random.default_rng(0)

    def width(of_task: float) -> float:
        centres = [[m] * 3 for m in rng.normal(0, of_task, size=40)]
        draws = [[rng.normal(m, 0.01, size=300) for m in task] for task in centres]
        found = nested_interval(centres, draws, mean)
        return found.high - found.low

    assert width(0.0) < 0.01
    assert 0.05 < width(0.1) < 0.075  # 2 x 1.96 x 0.1 / sqrt(40) is 0.062


def test_the_interval_over_cells_holds_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(100):
        centres = rng.normal(0, 0.02, size=(20, 1)) + np.zeros((20, 3))
        draws = [[rng.normal(c, 0.001, size=100) for c in task] for task in centres]
        found = nested_interval(centres.tolist(), draws, mean)
        held += found.low <= 0 <= found.high
    assert 85 <= held <= 99


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


def test_every_grid_is_of_a_loss_or_a_transform_that_is_there() -> None:
    assert set(methods._GRIDS) <= {*LOSSES, *TRANSFORMS}
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
    better = [[True if i % 20 == 0 else ok for i, ok in enumerate(seed)] for seed in reference]
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
    assert len(student["draws"]) == KEPT_DRAWS
    assert np.mean(student["draws"]) == pytest.approx(np.mean(better), abs=0.01)


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
    assert "Failed in some cells and judged by the others: KNN(k=5)." in notes(board)
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
    assert "No method is shown to be better than naive." in text
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
    own[second] = entry(np.random.default_rng(0), 0.0, 0.01, None)
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
