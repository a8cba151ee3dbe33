"""Every figure draws every kind of table, and never shows an undefined PGR as a number."""

from typing import Any

import polars as pl
import pytest

from outgrow import plots
from outgrow.errors import UserError


def fake_row(weak: str = "glove", strong: str = "minilm-l6", strategy: str = "naive", **changes: Any) -> dict[str, Any]:
    """One row as ``results`` gives it; ``name=(value, low, high)`` sets a number and its interval."""
    row: dict[str, Any] = {"task": "sentiment", "weak": weak, "strong": strong, "strategy": strategy}
    row |= {"train": "probe", "weak_train": "probe", "seeds": "0 1", "num_seeds": 2, "ceiling": True}
    row |= {"supervisor_rows": None, "transfer_rows": None, "test_rows": None, "validation": 0.1, "balance": True}
    row |= {"control": strategy in ("shuffled", "clusters"), "num_test": 2000, "num_test_per_seed": 1000}
    row |= {"num_classes": 2, "majority": 0.5, "pgr_undefined": None, "key": f"{weak}-{strong}-{strategy}"}
    spreads: dict[str, Any] = {
        "weak_accuracy": (0.71, 0.70, 0.72),
        "student_accuracy": (0.74, 0.73, 0.75),
        "ceiling_accuracy": (0.80, 0.79, 0.81),
        "gain": (0.03, 0.01, 0.05),
        "gap": (0.09, 0.07, 0.11),
        "pgr": (0.33, 0.11, 0.55),
        "agreement_all": (0.85, 0.84, 0.86),
        "agreement_supervisor_right": (0.90, 0.89, 0.91),
        "agreement_supervisor_wrong": (0.70, 0.68, 0.72),
    }
    for name, value in spreads.items():
        row |= dict(zip((name, f"{name}_low", f"{name}_high"), changes.pop(name, value) or (None,) * 3, strict=True))
    return row | changes


def table(*rows: dict[str, Any]) -> pl.DataFrame:
    return pl.DataFrame(list(rows), infer_schema_length=None)


def drawn(chart: Any) -> list[dict[str, Any]]:
    (values,) = chart.to_dict()["datasets"].values()
    assert isinstance(values, list)
    return values


NO_CEILING: dict[str, Any] = {
    "ceiling_accuracy": None,
    "gap": None,
    "pgr": None,
    "pgr_undefined": "there is no ceiling",
}
LADDER = ["glove", "minilm-l3", "minilm-l6", "smollm2-135m", "mpnet-base"]
HUB = f"hf:some-organisation/{'a-very-long-model-name-' * 4}7b@{'0123456789' * 4}"
TABLES: dict[str, pl.DataFrame] = {
    "one pair": table(fake_row()),
    "no ceiling": table(fake_row(**NO_CEILING)),
    "undefined beside defined": table(fake_row(), fake_row("minilm-l3", pgr=None, pgr_undefined="no <gap>")),
    "unbounded": table(fake_row(pgr=(-8.6, None, None)), fake_row("minilm-l3", pgr=(0.5, -40.0, 70.0))),
    "ten pairs": table(
        *(
            fake_row(weak, strong, strategy)
            for i, weak in enumerate(LADDER)
            for strong in LADDER[i + 1 :]
            for strategy in ("naive", "confidence", "bootstrap(steps=3)", "shuffled", "clusters")
        )
    ),
    "long names": table(fake_row("/data/models/tiny", HUB), fake_row("/other/tiny", HUB), fake_row(HUB, "/data/x/y z")),
    "odd names": table(fake_row("</script><b>", "a'\"\\b", "odd('x')", task="t$'{x}\n")),
    "several tasks": table(*(fake_row(task=t, train=p) for t in ("a", "b") for p in ("probe", "finetune(epochs=2)"))),
    "four classes": table(fake_row(num_classes=4, majority=0.25)),
    "supervisor never wrong": table(fake_row(agreement_supervisor_wrong=None)),
    "controls only": table(fake_row(strategy="shuffled")),
}


@pytest.mark.parametrize("name", TABLES)
def test_every_figure_draws_every_table(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    charts = plots.figures(TABLES[name])
    assert list(charts)[-1] == "controls"
    assert ("accuracy" in charts) == (name != "controls only")
    for chart in charts.values():
        spec, svg, png = plots.render(chart)
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
    assert "Hollow crosses: PGR undefined (1)" in str(chart.to_dict()["title"])


def test_a_huge_interval_does_not_flatten_the_chart_and_the_subtitle_says_so() -> None:
    chart = plots.pgr(TABLES["unbounded"])
    points = [v for v in drawn(chart) if v["role"] == "student"]
    assert min(v["low"] for v in points) == -2
    assert max(v["high"] for v in points) == 3
    assert {v["beyond"] for v in points} == {"−8.6", None}
    assert "2 intervals reach beyond the axis" in str(chart.to_dict()["title"])


def test_controls_are_not_students() -> None:
    everything = TABLES["ten pairs"]
    for figure in (plots.accuracy, plots.pgr, plots.agreement):
        assert {"shuffled", "clusters"}.isdisjoint(v["strategy"] for v in drawn(figure(everything)))
    kinds = {v["kind"] for v in drawn(plots.controls(everything))}
    assert kinds == {"supervisor", "student", "shuffled weak labels", "clusters, no labels", "majority class"}


def test_students_stand_in_ladder_order_or_by_ceiling() -> None:
    def students(frame: pl.DataFrame) -> list[str]:
        return list(dict.fromkeys(r["student"] for r in sorted(plots.tidy(frame), key=lambda r: r["rank"])))

    assert students(TABLES["ten pairs"]) == LADDER[1:]
    low, high = (0.7, 0.69, 0.71), (0.9, 0.89, 0.91)
    own = table(fake_row("w", "aaa", ceiling_accuracy=high), fake_row("w", "bbb", ceiling_accuracy=low))
    assert students(own) == ["bbb", "aaa"]


def test_names_are_short_and_stay_distinct() -> None:
    rows = plots.tidy(TABLES["long names"])
    assert {r["supervisor"] for r in rows} >= {"tiny #1", "tiny #2"}
    assert all(len(r["student"]) <= 30 and "/" not in r["student"] for r in rows)


def test_rows_that_differ_in_more_than_the_task_are_in_panels_of_their_own() -> None:
    rows = plots.tidy(table(fake_row(test_rows=100), fake_row(test_rows=None)))
    assert {r["panel"] for r in rows} == {"sentiment · probe · test rows 100", "sentiment · probe · test rows default"}


def test_a_number_is_told_with_its_interval() -> None:
    row = fake_row(gain=(-0.012, -0.02, 0.004), pgr=(0.5, None, 3.25))
    assert plots.measured(row, "gain", percent=True) == "−1.2 [−2.0, +0.4]"
    assert plots.measured(row, "pgr") == "0.50 [−∞, 3.25]"
    assert plots.measured(fake_row(pgr=None), "pgr") == "undefined"


def test_a_chart_is_saved_as_its_ending_says(tmp_path: Any) -> None:
    chart = plots.accuracy(TABLES["one pair"])
    assert plots.save(chart, tmp_path / "a.svg").read_text().startswith("<svg")
    assert plots.save(chart, tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(UserError, match="end the name in"):
        plots.save(chart, tmp_path / "a.gif")
