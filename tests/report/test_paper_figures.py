"""The recipe of the paper's figures: what is averaged, what is drawn, and which runs it needs."""

import importlib.util
import math
from pathlib import Path
from types import ModuleType
from typing import Any

import polars as pl
import pytest

from fake_tables import LADDER, fake_row, table
from outgrow import Grid
from outgrow.errors import UserError
from outgrow.report import figures
from outgrow.report.rows import TableRow

RECIPE = Path(__file__).parent.parent.parent / "experiments" / "paper_figures.py"
TEXT = ("sentiment-movies", "sentiment-news")
PAIRS = "sentiment-pairs"
SPLITS = ("all", "supervisor_right", "supervisor_wrong")


@pytest.fixture(scope="module")
def recipe() -> ModuleType:
    spec = importlib.util.spec_from_file_location("paper_figures", RECIPE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def runs(recipe: ModuleType, tasks: tuple[str, ...] = (*TEXT, PAIRS), models: list[str] = LADDER) -> pl.DataFrame:
    """Every pair of the ladder on every task; the first task has 10 points more of everything."""
    made = []
    for t, task in enumerate(tasks):
        high = 0.1 if not t else 0.0
        for i, weak in enumerate(models):
            for strong in models[i + 1 :]:
                for strategy in ("naive", "confidence", "shuffled", *recipe.PROMPTED.values()):
                    accuracy = (0.74 + high, 0.72 + high, 0.76 + high)
                    made.append(fake_row(weak, strong, strategy, task=task, student_accuracy=accuracy))
    return table(*made)


def test_means_have_the_interval_of_independent_tasks_and_medians_that_of_order(recipe: ModuleType) -> None:
    rows: list[TableRow] = recipe.students(runs(recipe), "naive", kinds=recipe.KINDS[:1])
    (first, *_) = recipe.over_tasks(rows, "student_accuracy", *recipe.WHO)
    assert first["value"] == pytest.approx((0.84 + 0.74) / 2)
    assert first["high"] - first["value"] == pytest.approx(math.hypot(0.02, 0.02) / 2)
    assert (first["tasks"], first["of"]) == (2, 2)
    few = recipe.over_tasks(rows, "pgr", *recipe.WHO, median=True)
    assert all(r["low"] is r["high"] is None for r in few)  # two tasks bound no median
    seven = [fake_row(task=f"t{i}", pgr=(i / 10, 0, 1)) | {"supervisor": "a", "rank": 0} for i in range(7)]
    (median,) = recipe.over_tasks(seven, "pgr", "supervisor", median=True)
    assert (median["value"], median["low"], median["high"]) == pytest.approx((0.3, 0.0, 0.6))


def test_a_task_without_a_number_counts_as_missing_and_not_as_zero(recipe: ModuleType) -> None:
    rows = [fake_row(task="a"), fake_row(task="b", pgr=None, pgr_undefined="no gap")]
    (found,) = recipe.over_tasks([r | {"supervisor": "x", "rank": 0} for r in rows], "pgr", "supervisor", median=True)
    assert (found["value"], found["tasks"], found["of"]) == (0.33, 1, 2)
    assert (found["low"], found["high"]) == pytest.approx((0.11, 0.55))  # the one task's own
    nothing = [fake_row(task="b", pgr=None) | {"supervisor": "x", "rank": 0}]
    assert recipe.over_tasks(nothing, "pgr", "supervisor", median=True) == []


def test_every_figure_is_drawn_and_valid(recipe: ModuleType) -> None:
    everything = runs(recipe)
    for number, draw in recipe.FIGURES.items():
        chart, panels = draw(everything)
        spec = chart.to_dict(validate=True)
        _, svg, _ = figures.render(chart)
        assert "NaN" not in svg, number
        points = [p for panel in panels for p in panel.points]
        assert {p["student"] for p in points} <= {*LADDER}
        assert not any("shuffled" in str(v) for v in spec["datasets"].values()), number


def test_figures_hold_the_runs_that_they_are_about(recipe: ModuleType) -> None:
    everything = runs(recipe)
    _, three = recipe.figure_3(everything)
    assert [p.title.partition(",")[0].partition(";")[0] for p in three] == [*recipe.KINDS[:2]] * 2
    methods: dict[int, set[Any]] = {
        number: {p["method"] for panel in recipe.FIGURES[number](everything)[1] for p in panel.points}
        for number in (3, 5, 8, 9, 16)
    }
    assert methods[3] == {"naive", recipe.GOLD}
    assert methods[5] == {"naive", "confidence", recipe.GOLD}
    assert methods[8] == methods[16] == {"naive", "confidence"}
    assert methods[9] == {"naive", "confidence", recipe.GOLD, *recipe.PROMPTED}
    _, (every, right, wrong) = recipe.figure_16(everything)
    assert {p["of"] for panel in (every, right, wrong) for p in panel.points} == {1}
    assert {p["value"] for p in wrong.points} == {0.7}


def test_what_is_not_there_is_said(recipe: ModuleType) -> None:
    with pytest.raises(UserError, match="no run of 'Figure 16"):
        recipe.figure_16(runs(recipe, TEXT))


def test_the_runs_of_a_figure_are_planned_on_any_ladder(recipe: ModuleType) -> None:
    ladder = "glove,minilm-l3,smollm2-135m"
    grid = Grid(task=(*TEXT, PAIRS), ladder=ladder, train=("probe(max_tokens=64)",), seeds=2, controls=False)
    plain = recipe.missing_runs((3, 5, 8, 12, 16), grid, 200, frozenset())
    assert {(e.weak, e.strong) for e in plain} == {
        ("glove", "minilm-l3"), ("glove", "smollm2-135m"), ("minilm-l3", "smollm2-135m")
    }  # fmt: skip
    asked = [e for e in recipe.missing_runs((9,), grid, 150, frozenset()) if e.test_rows == 150]
    assert {e.strong for e in asked} == {"smollm2-135m"}
    assert {e.task for e in asked} == {*TEXT}
    assert {e.strategy for e in asked} == {"naive", "confidence", *recipe.PROMPTED.values()}
    assert {e.ceiling for e in asked if e.strategy == "naive"} == {True}
