"""Tests that are counted, and one that opens once: what is held back, who may open it, and what is said."""

import os
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from outgrow import steps
from outgrow.board.run import run_board
from outgrow.board.sealed import open_sealed
from outgrow.config import Grid
from outgrow.data import Examples
from outgrow.doctor import clean
from outgrow.engine.graph import in_order
from outgrow.engine.store import Store
from outgrow.errors import UserError
from outgrow.experiment import experiments_of, open_store, run_steps, sweep, wire, wire_all
from outgrow.report.board import notes
from outgrow.report.rows import tidy
from outgrow.report.scored import how_often_scored, how_scored
from outgrow.results import Count, TimesScored, count_tests, finished, table_of, tally
from outgrow.runtime import Runtime
from outgrow.steps.compare import content_of
from outgrow.tasks import seal_examples
from test_experiment import own, paths_to_load, write_table

CLAIM = "an honest claim needs a sealed one (--sealed)"
CPU = Runtime(device="cpu", offline=True)


@pytest.fixture
def grid(model: Path) -> Grid:
    return Grid(
        task=("words(rows=300)",),
        weak=(str(model),),
        strong=(str(model),),
        seeds=2,
        train=("probe(epochs=2, lr=0.03)",),
        weak_train="probe(epochs=2, lr=0.03, max_tokens=4)",
        strategy=("naive", "confidence", "naive(loss=GCE)"),
        controls=False,
        sealed=True,
    )


def run(grid: Grid, store: Store) -> list[dict[str, Any]]:
    targets, _ = run_steps(experiments_of(grid), store, CPU)
    return [store.record(t) for t in targets]


# --- what is held back ------------------------------------------------------------------------------------------------


@given(
    rows=st.integers(40, 120),
    classes=st.integers(2, 4),
    size=st.integers(1, 3),
    fixed=st.booleans(),
    seed=st.integers(0, 9),
)
def test_whole_groups_are_sealed_balanced_and_whatever_the_order(
    rows: int, classes: int, size: int, fixed: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    gold = rng.permutation(np.arange(rows) % classes)
    gold[rng.random(rows) < 0.1] = -1
    groups = np.array([f"g{i // size}" for i in range(rows)])
    parts = np.array([("A", "B", "T", "T")[i // size % 4] for i in range(rows)])
    pool = Examples(
        ids=np.array([f"r{i}" for i in range(rows)]),
        inputs=tuple(f"text {i}" for i in range(rows)),
        gold=gold,
        classes=tuple("abcd"[:classes]),
        groups=groups,
        meta={"split": parts} if fixed else {},
    )
    try:
        split = seal_examples(pool, balance=True)
    except UserError:
        return
    of = {name: i for i, name in enumerate(pool.ids.tolist())}
    sealed, rest = ([of[name] for name in split.parts[part].tolist()] for part in ("S", "rest"))
    assert not set(groups[sealed]) & set(groups[rest])
    assert len(sealed) + len(rest) + split.left_out.get("sealed", 0) == rows
    counts = np.bincount(gold[sealed], minlength=classes)
    assert (gold[sealed] >= 0).all()
    assert counts.min() == counts.max() > 0
    assert not fixed or set(parts[sealed]) == {"T"}
    mixed = pool.take(pool.ids[rng.permutation(rows)])
    again = seal_examples(mixed, balance=True)
    assert all(np.array_equal(again.parts[part], split.parts[part]) for part in ("S", "rest"))
    natural = seal_examples(pool, balance=False)
    assert set(split.parts["S"]) <= set(natural.parts["S"])


def test_no_seed_trains_or_tests_on_sealed_rows(grid: Grid, store: Store) -> None:
    records = run(grid, store)
    target = wire(experiments_of(grid)[0])
    splits = [store.read(split) for folds in target.args["splits"] for split in folds]
    held = store.read(target.args["splits"][0][0].args["sealed"])
    for split in splits:
        assert not set(np.concatenate(list(split.parts.values()))) & set(held.parts["S"])
    assert len(held.parts["S"]) >= 40
    for record in records:
        rows = record["result"]["rows"]
        assert rows["left_out"]["sealed"] == [rows["task"] - len(held.parts["rest"])] * 2
        assert (
            sum(rows[p][0] for p in ("A", "A_val", "B", "B_val", "T")) + sum(n[0] for n in rows["left_out"].values())
            == 300
        )
    said = how_scored(tidy(table_of(records)))
    assert "a second test is sealed; `outgrow open METHOD` with the same options scores it, once" in said
    behind = in_order([s for role in ("student", "weak", "truth", "ceiling") for s in target.args[role]])
    assert not any(s.fn is steps.open_sealed for s in behind)


def test_sealing_brings_no_gold_to_a_student(grid: Grid) -> None:
    for opened in (False, True):
        (target,) = wire_all(experiments_of(replace(grid, strategy=("naive",))), opened=opened)
        for made in (*target.args["student"], *target.args["weak"]):
            own = {("texts",), ("seal",), ("split_unsealed",), ("gold", "A", "A_val")}
            assert set(paths_to_load(in_order([made]))) == own


def test_a_cross_fitted_table_has_no_row_to_seal(tmp_path: Path, model: Path) -> None:
    with pytest.raises(UserError, match="cross-fitted; set the sizes yourself"):
        wire(own(write_table(tmp_path), model, sealed=True))
    wire(own(write_table(tmp_path), model, sealed=True, transfer_rows=60, test_rows=40))


def test_too_few_rows_to_seal_any_are_one_line() -> None:
    pool = Examples(ids=np.array(["a", "b"]), inputs=("x", "y"), gold=np.array([0, 1]), classes=("n", "p"),
                    groups=np.array(["g", "g"]))  # fmt: skip
    with pytest.raises(UserError, match="too few to hold a sealed test back"):
        seal_examples(pool, balance=True)


# --- opening ----------------------------------------------------------------------------------------------------------


def test_it_opens_once_for_one_method_and_the_same_again_is_reuse(grid: Grid, store: Store) -> None:
    run(grid, store)
    made = open_sealed("confidence", grid, store, CPU)
    records = [store.record(t) for t in made.results]
    assert [r["note"]["experiment"]["strategy"] for r in records] == ["confidence", "naive"]
    held = store.read(made.results[0].args["splits"][0][0].args["sealed"])
    pool = store.read(made.results[0].args["splits"][0][0].args["sealed"].args["pool"])
    for record in records:
        assert record["result"]["tests"] == [content_of(pool, held.parts["S"])] * 2
        assert record["result"]["test_rows_per_seed"] == len(held.parts["S"])
        assert record["result"]["ceiling"] is not None
    ((pair, step),) = made.against
    assert pair.startswith("words(rows=300), ")
    difference = store.read(step)["naive"]
    accuracy = [r["result"]["student"]["accuracy"][0] for r in records]
    assert difference[0] == pytest.approx(accuracy[0] - accuracy[1])
    frame = table_of(records)
    assert set(frame["sealed"]) == {"opened"}
    assert "this is the sealed test, which opens once, for one method named before" in how_scored(tidy(frame))
    assert "confidence was named for the sealed test on 20" in made.said[0]
    assert len(made.said) == 1
    again = open_sealed("confidence( )", grid, store, CPU)
    assert again.outcome.ran == 0
    assert again.said[0].endswith(", and the test is open")
    for method, changes in (("naive(loss=GCE)", {}), ("naive", {}), ("confidence", {"seeds": 1})):
        with pytest.raises(UserError, match=r"was opened for confidence \(.*\) on 20.*, and it opens once") as error:
            open_sealed(method, Grid(**{**vars(grid), **changes}), store, CPU)
        assert "\n" not in str(error.value)
    assert len(list(store.records("compare"))) == 3 + 2


def test_the_opened_student_is_the_one_that_was_shown(grid: Grid, store: Store) -> None:
    """It is trained again, as its split is another, and comes out the same."""
    run(grid, store)
    made = open_sealed("confidence", grid, store, CPU)
    shown = next(
        t for t in map(wire, experiments_of(grid)) if store.record(t)["note"]["experiment"]["strategy"] == "confidence"
    )
    for role in ("student", "weak", "ceiling"):
        for one, two in zip(shown.args[role], made.results[0].args[role], strict=True):
            a, b = (store.read(s.args["fitted"]) for s in (one, two))
            assert np.array_equal(a.weight, b.weight)


def test_a_control_makes_no_claim(grid: Grid, store: Store) -> None:
    with pytest.raises(UserError, match="shuffled is a control"):
        open_sealed("shuffled", grid, store, CPU)
    with pytest.raises(UserError, match="unknown strategy"):
        open_sealed("nosuch", grid, store, CPU)
    assert not store.marks("")


def test_rows_that_were_scored_unsealed_are_said(grid: Grid, store: Store) -> None:
    run(Grid(**{**vars(grid), "sealed": False, "strategy": ("naive",)}), store)
    made = open_sealed("confidence", grid, store, CPU)
    assert "rows of the sealed test were scored before, in 1 result of this store" in made.said[1]


def test_of_two_who_open_at_once_at_most_one_goes_on(grid: Grid, store: Store) -> None:
    run(grid, store)
    held = wire(experiments_of(grid)[0]).args["splits"][0][0].args["sealed"]
    place = f"sealed-{content_of(store.read(held.args['pool']), store.read(held).parts['S'])}"
    outcomes: list[str] = []
    barrier = threading.Barrier(4)

    class Waiting(Store):
        """Everybody looks before anybody writes."""

        def mark(self, place: str, name: str, text: str = "") -> None:
            if place.startswith("sealed-"):
                barrier.wait(timeout=60)
            super().mark(place, name, text)
            if place.startswith("sealed-"):
                barrier.wait(timeout=60)

    def attempt(method: str) -> None:
        try:
            open_sealed(method, grid, Waiting(store.root, store.kinds), CPU)
            outcomes.append(method)
        except UserError:
            pass

    methods = ("confidence", "naive", "naive(loss=GCE)", "naive(transforms=(Harden,))")
    threads = [threading.Thread(target=attempt, args=(m,)) for m in methods]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outcomes) <= 1
    assert len(store.marks(place)) == len(outcomes)


def test_a_claim_that_somebody_garbled_is_still_a_claim(grid: Grid, store: Store) -> None:
    run(grid, store)
    held = wire(experiments_of(grid)[0]).args["splits"][0][0].args["sealed"]
    place = f"sealed-{content_of(store.read(held.args['pool']), store.read(held).parts['S'])}"
    for text in ("", "[]", '{"method": 1}', '{"method": "x", "named": "y", "pairs": [1]}'):
        store.mark(place, "other", text)
        with pytest.raises(UserError, match=r"opened for another method \(other pairs\) on another day"):
            open_sealed("confidence", grid, store, CPU)


# --- counting ---------------------------------------------------------------------------------------------------------


def test_methods_and_runs_are_counted_and_reuse_adds_none(grid: Grid, store: Store) -> None:
    plain = Grid(**{**vars(grid), "sealed": False, "strategy": ("naive", "confidence"), "controls": True})
    records = run(plain, store)
    assert tally(records, store) == []
    assert count_tests(records, store) == Count([TimesScored("words(rows=300)", None, 2, 1)], True)
    assert count_tests(records, store).tests[0].runs == 1
    more = run(Grid(**{**vars(plain), "strategy": ("naive", "naive(loss=GCE)")}), store)
    assert count_tests(more, store).tests == [TimesScored("words(rows=300)", None, 3, 2)]
    assert tally(finished(store), store) == [TimesScored("words(rows=300)", None, 3, 2)]
    said = list(clean(store, old=False, results=True, cache=False))
    assert not any("marks" in line for line in said)
    assert tally(more, store) == [TimesScored("words(rows=300)", None, 3, 2)]


def test_another_test_is_counted_apart_and_the_same_rows_are_one(grid: Grid, store: Store) -> None:
    plain = Grid(**{**vars(grid), "sealed": False, "strategy": ("naive",), "seeds": 1})
    count_tests(run(plain, store), store)
    same = Grid(**{**vars(plain), "train": ("probe(epochs=3, lr=0.03)",)})
    assert count_tests(run(same, store), store).tests[0][2:] == (2, 2)
    other = Grid(**{**vars(plain), "first_seed": 7})
    assert count_tests(run(other, store), store).tests[0][2:] == (1, 1)


def test_python_and_boards_count_too(grid: Grid, store: Store) -> None:
    plain = Grid(**{**vars(grid), "sealed": False})
    sweep(Grid(**{**vars(plain), "strategy": ("naive",)}), store.root, CPU, quiet=True)
    board = run_board(plain, store, CPU)
    assert board.tested == Count([TimesScored("words(rows=300)", None, 3, 2)], True)
    assert any(
        n.startswith("The test of words(rows=300) has been scored by 3 methods in 2 runs; an") for n in notes(board)
    )


@pytest.mark.parametrize(
    ("tests", "said"),
    [
        ([], ""),
        ([("a", None, 1, 1)], "the test of a has been scored by 1 method in 1 run"),
        ([("a", None, 14, 3)], f"the test of a has been scored by 14 methods in 3 runs; {CLAIM}"),
        (
            [("a", "held back", 2, 1)],
            "the test of a has been scored by 2 methods in 1 run; `outgrow open METHOD` scores the sealed one",
        ),
        ([("a", "opened", 2, 1)], "the sealed test of a has been scored by 2 methods in 1 run"),
        (
            [("a", None, 2, 1), ("b", None, 2, 1)],
            f"each of the 2 tests has been scored by 2 methods in 1 run; {CLAIM}",
        ),
        (
            [("a", None, 1, 1), ("b", None, 3, 2)],
            f"tests have been scored: a by 1 method in 1 run, b by 3 methods in 2 runs; {CLAIM}",
        ),
    ],
)
def test_how_often_is_one_line(tests: list[tuple[Any, ...]], said: str) -> None:
    found = [TimesScored(*t) for t in tests]
    assert how_often_scored(Count(found, True)) == said
    assert how_often_scored(Count(found, False)).endswith("is not counted" if said else "")


# --- stores -----------------------------------------------------------------------------------------------------------


def test_a_store_that_cannot_be_written_is_no_traceback(
    grid: Grid, store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    records = run(grid, store)

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", refuse)
    count = count_tests(records, store)
    assert not count.is_written
    assert how_often_scored(Count([TimesScored("a", None, 2, 1)], False)).endswith("so this run is not counted")
    with pytest.raises(UserError, match="Read-only") as error:
        store.mark("sealed-x", "y", "z")
    assert "\n" not in str(error.value)
    lines: list[str] = []
    sweep(grid, store.root, Runtime(device="cpu", offline=True, say=lines.append), quiet=True)
    assert any("cannot be written, so it does not count" in line for line in lines)


def test_marks_are_the_same_on_a_remote_store(tmp_path: Path) -> None:
    for store in (open_store(str(tmp_path / "here")), open_store(f"memory://marks-{os.getpid()}")):
        assert store.marks("test-x") == []
        assert store.mark_text("test-x", "b") == ""
        for name in ("b", "a", "b"):
            store.mark("test-x", name, f"says {name}")
        assert store.marks("test-x") == ["a", "b"]
        assert store.mark_text("test-x", "b") == "says b"
        store.unmark("test-x", "b")
        store.unmark("test-x", "b")
        assert store.marks("test-x") == ["a"]
        assert list(store.folders()) == []
        assert list(store.records()) == []


def test_a_remote_store_counts_and_opens(grid: Grid) -> None:
    store = open_store(f"memory://sealed-{os.getpid()}")
    small = Grid(**{**vars(grid), "strategy": ("naive",), "seeds": 1})
    assert count_tests(run(small, store), store).tests == [TimesScored("words(rows=300)", "held back", 1, 1)]
    open_sealed("confidence", small, store, CPU)
    with pytest.raises(UserError, match="opens once"):
        open_sealed("naive", small, store, CPU)


def test_the_content_of_a_test_is_its_rows_in_any_order() -> None:
    pool = Examples(ids=np.array(["a", "b", "c"]), inputs=("x", "y", "x"), gold=np.array([0, 1, 0]),
                    classes=("n", "p"), groups=np.array(["a", "b", "c"]))  # fmt: skip
    assert content_of(pool, np.array(["a", "b"])) == content_of(pool, np.array(["b", "a"]))
    assert len({content_of(pool, np.array(ids)) for ids in (["a", "b"], ["b", "c"], ["a"])}) == 3
