"""Every figure draws every kind of table, and never shows an undefined PGR as a number."""

from typing import Any

import polars as pl
import pytest

from fake_tables import LADDER, TABLES, fake_row, table
from outgrow.errors import UserError
from outgrow.report import figures, plots
from outgrow.report.rows import measured, tidy


def drawn(chart: Any) -> list[dict[str, Any]]:
    (values,) = chart.to_dict()["datasets"].values()
    assert isinstance(values, list)
    return values


def title(chart: Any) -> str:
    return str(chart.to_dict()["title"])


@pytest.mark.parametrize("name", TABLES)
def test_every_figure_draws_every_table(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    charts = {figure: draw(TABLES[name]) for figure, draw in figures.FIGURES.items()}
    assert list(charts) == ["accuracy", "pgr", "agreement", "controls", "forecasts"]
    missing = [f for f, chart in charts.items() if not chart]
    assert missing == [*charts][:3] * (name == "controls only") + ["forecasts"]  # none of these tables has any
    for chart in filter(None, charts.values()):
        spec, svg, png = figures.render(chart)
        assert spec == chart.to_dict(validate=True)
        assert svg.startswith("<svg")
        assert "NaN" not in svg
        assert png.startswith(b"\x89PNG")
    assert not capfd.readouterr().err


def test_an_undefined_pgr_is_a_hollow_cross_and_no_number() -> None:
    chart = plots.pgr(TABLES["undefined beside defined"])
    (missing,) = [v for v in drawn(chart) if v["role"] == "undefined"]
    assert missing["value"] is missing["low"] is missing["high"] is None
    assert missing["text"] == "undefined"
    assert "Hollow crosses: PGR undefined (1)" in title(chart)


def test_a_huge_interval_does_not_flatten_the_chart_and_the_subtitle_says_so() -> None:
    chart = plots.pgr(TABLES["unbounded"])
    points = [v for v in drawn(chart) if v["role"] == "student"]
    assert min(v["low"] for v in points) == -2
    assert max(v["high"] for v in points) == 3
    assert {v["beyond"] for v in points} == {"−8.6", None}
    assert "2 intervals reach beyond the axis" in title(chart)


def test_controls_are_not_students() -> None:
    everything = TABLES["ten pairs"]
    for draw in (plots.accuracy, plots.pgr, plots.agreement):
        assert {"shuffled", "clusters"}.isdisjoint(v["strategy"] for v in drawn(draw(everything)))
    kinds = {v["kind"] for v in drawn(plots.controls(everything))}
    assert kinds == {"supervisor", "student", "shuffled weak labels", "clusters, no labels", "majority class"}


def test_students_stand_in_ladder_order_or_by_ceiling() -> None:
    def students(frame: pl.DataFrame) -> list[str]:
        return list(dict.fromkeys(r["student"] for r in sorted(tidy(frame), key=lambda r: r["rank"])))

    assert students(TABLES["ten pairs"]) == LADDER[1:]
    low, high = (0.7, 0.69, 0.71), (0.9, 0.89, 0.91)
    own = table(fake_row("w", "aaa", ceiling_accuracy=high), fake_row("w", "bbb", ceiling_accuracy=low))
    assert students(own) == ["bbb", "aaa"]


def test_names_are_short_and_stay_distinct() -> None:
    rows = tidy(TABLES["long names"])
    assert {r["supervisor"] for r in rows} >= {"tiny #1", "tiny #2"}
    assert all(len(r["student"]) <= 30 and "/" not in r["student"] for r in rows)


def test_rows_that_differ_in_more_than_the_task_are_in_panels_of_their_own() -> None:
    rows = tidy(table(fake_row(test_rows=100), fake_row(test_rows=None)))
    assert {r["panel"] for r in rows} == {"sentiment · probe · test rows 100", "sentiment · probe · test rows default"}


def test_a_number_is_told_with_its_interval() -> None:
    row = fake_row(gain=(-0.012, -0.02, 0.004), pgr=(0.5, None, 3.25))
    assert measured(row, "gain", percent=True) == "−1.2 [−2.0, +0.4]"
    assert measured(row, "pgr") == "0.50 [−∞, 3.25]"
    assert measured(fake_row(pgr=None), "pgr") == "undefined"


def test_a_chart_is_saved_as_its_ending_says(tmp_path: Any) -> None:
    chart = plots.accuracy(TABLES["one pair"])
    assert chart is not None
    assert figures.save(chart, tmp_path / "a.svg").read_text().startswith("<svg")
    assert figures.save(chart, tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(UserError, match="end the name in"):
        figures.save(chart, tmp_path / "a.gif")
