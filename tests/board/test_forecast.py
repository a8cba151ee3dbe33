"""Forecasts beside runs: no gold of B or T behind them, joined to their runs, and held against the truth."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest

from conftest import MakeExperiment
from fake_tables import fake_row
from outgrow import Experiment, Runtime, steps
from outgrow.board.forecast import forecasts
from outgrow.engine import runner
from outgrow.engine.graph import in_order
from outgrow.engine.store import Store
from outgrow.errors import UserError
from outgrow.experiment import wire, wire_all
from outgrow.report import figures
from outgrow.report.forecasts import PREDICTORS, forecast_rows, forecasts_figure, pooled_rank, within_tasks
from outgrow.report.forecasts import forecasts as analysed
from outgrow.results import finished, table_of

PROBE = "probe(epochs=3, lr=0.03)"


def probed(make: MakeExperiment, **changes: Any) -> Experiment:
    return replace(make(), train=PROBE, weak_train=None, **changes)


def test_no_gold_of_b_or_t_is_behind_a_forecast(make: MakeExperiment, model: Any, writer: Any) -> None:
    target = wire(probed(make))
    (made,) = forecasts([target], (str(writer), "glove", "minilm-l3"))
    assert {"second", "third", "other"} <= set(made.args)
    golds = [s for s in in_order([made]) if s.fn is steps.gold]
    assert {part for s in golds for part in s.args["parts"]} == {"A", "A_val"}
    (ceiling, *_) = target.args["ceiling"]  # the same walk finds what must not be there, where it is
    assert any("B" in s.args["parts"] for s in in_order([ceiling]) if s.fn is steps.gold)


def test_a_forecast_asks_what_its_run_asks(make: MakeExperiment, writer: Any) -> None:
    asked = "probe(epochs=3, lr=0.03, view='asked')"
    own: dict[str, Any] = {
        "task": "words(question='w1 {text} w2 (no or yes):')",
        "weak": str(writer),
        "strong": str(writer),
    }
    target = wire(replace(make(), train=asked, weak_train=None, **own))
    behind, beside = ({s.key for s in in_order([t]) if s.fn is steps.ask} for t in (target, *forecasts([target])))
    assert beside
    assert beside <= behind


def test_a_forecast_stands_beside_its_run_and_its_supervisor_is_the_runs_own(
    make: MakeExperiment, store: Store
) -> None:
    targets = wire_all([probed(make), probed(make, strategy="confidence"), probed(make, strategy="shuffled")])
    made = forecasts(targets)
    assert len(made) == 2  # none for a control
    fits = {s.key for s in in_order(targets) if s.fn is steps.fit_probe}
    assert {s.key for s in in_order(made) if s.fn is steps.fit_probe} <= fits
    runner.run([*targets, *made], store, Runtime(device="cpu", offline=True), None)
    table = table_of(finished(store))
    told = {r["strategy"]: r["forecast"] for r in table.to_dicts()}
    assert told["shuffled"] is None
    (first, _) = json.loads(told["naive"])
    (record,) = [r for r in store.records("compare") if r["key"] == targets[0].key]
    scored = record["result"]["per_seed"][0]
    assert first["gain"] == pytest.approx(scored["student"]["accuracy"] - scored["weak"]["accuracy"])
    assert first["brier_gain"] == pytest.approx(scored["weak"]["brier"] - scored["student"]["brier"])
    assert first["disagreement"] == pytest.approx(1 - scored["agreement"]["all"])
    assert abs(first["gain"]) <= first["disagreement"] + 1e-12


def test_what_cannot_be_forecast_is_one_line(make: MakeExperiment) -> None:
    with pytest.raises(UserError, match="trained on gold of A, and errors"):
        forecasts([wire(probed(make, weak="errors"))])
    with pytest.raises(UserError, match="held-out rows of A"):
        forecasts([wire(probed(make, validation=0.0))])


# --- against the truth ------------------------------------------------------------------------------------------------


def of_tasks(gains: dict[str, list[float]], said: Any) -> pl.DataFrame:
    """A table of runs with one student per task, a seed for each gain; ``said`` maps a gain to a forecast."""
    made = []
    for task, own in gains.items():
        seeds = [
            dict.fromkeys(PREDICTORS) | said(gain)
            | {"seed": i, "gain": gain, "brier_gain": gain, "xent_gain": gain, "student_brier": 0.5 - gain}
            for i, gain in enumerate(own)
        ]  # fmt: skip
        made.append(fake_row(task=task) | {"forecast": json.dumps(seeds)})
    return pl.DataFrame(made, infer_schema_length=None)


GAINS = {f"task {t}": (np.random.default_rng(t).normal(0.02, 0.02, size=9) + 0.01 * t).tolist() for t in range(4)}


def test_a_perfect_predictor_ranks_all_an_inverse_one_none_and_a_bound_is_counted() -> None:
    def said(gain: float) -> dict[str, float]:
        return {
            "misfit": gain - 0.01,
            "triplet": gain,
            "weak_error": -gain,
            "not_robust": -gain,
            "disagreement": gain - 1,
        }

    found = analysed(of_tasks(GAINS, said))
    assert found is not None
    by = {r["predictor"]: r for r in found.to_dicts()}
    misfit, triplet, inverse, turned, broken = (
        by[PREDICTORS[name].title] for name in ("misfit", "triplet", "weak_error", "not_robust", "disagreement")
    )
    for row in (misfit, triplet, turned):
        assert row["rank_within"] == pytest.approx(1)
        assert row["rank_over_all"] == pytest.approx(1)
    assert inverse["rank_within"] == pytest.approx(-1)
    assert (misfit["bound_held"], broken["bound_held"]) == (1.0, 0.0)
    assert triplet["bound_held"] is None
    assert (misfit["error"], triplet["error"]) == pytest.approx((0.01, 0.0))
    assert by[PREDICTORS["second"].title]["undefined"] == 36
    assert by[PREDICTORS["second"].title]["rank_within"] is None


def test_tasks_and_not_rows_are_what_an_interval_counts() -> None:
    """A forecast that only knows the task ranks students of all tasks, and none within a task."""
    level = {gain: t for t, own in enumerate(GAINS.values()) for gain in own}
    rng = np.random.default_rng(0)
    rows = forecast_rows(of_tasks(GAINS, lambda gain: {"triplet": level[gain] + 1e-6 * rng.random()}))
    known = [r for r in rows if r["predictor"] == "triplet"]
    within, pooled = within_tasks(known), pooled_rank(known)
    assert within is not None
    assert pooled is not None
    assert within.low < 0 < within.high
    assert pooled.value > 0.3 > within.value - 0.3
    doubled = pooled_rank([r for r in known for _ in range(10)])  # ten copies of every row tell no more
    assert doubled is not None
    assert doubled.high - doubled.low == pytest.approx(pooled.high - pooled.low, rel=0.05)


def test_methods_of_one_pair_are_ranked_among_themselves() -> None:
    """A forecast that knows the best method of every pair, and nothing of which pair gains."""
    rows = []
    for pair, level in (("a", 0.3), ("b", 0.0), ("c", 0.1)):
        for task in ("t", "u"):
            for i in range(3):
                gain = level + 0.01 * i
                rows.append(
                    {"predictor": "triplet", "task": task, "weak": pair, "predicted": i - 9 * level, "gain": gain}
                )
    among, over = within_tasks(rows, "weak"), within_tasks(rows)
    assert among is not None
    assert over is not None
    assert among.value == pytest.approx(1)
    assert over.value < 0


def test_one_task_bounds_nothing() -> None:
    rows = forecast_rows(of_tasks({"only": GAINS["task 0"]}, lambda gain: {"triplet": gain}))
    known = [r for r in rows if r["predictor"] == "triplet"]
    within, pooled = within_tasks(known), pooled_rank(known)
    assert within is not None
    assert pooled is not None
    assert np.isinf(within.high)
    assert (pooled.low, pooled.high) == (-1, 1)


def test_the_picture_leaves_out_what_is_undefined_and_a_table_without_forecasts_has_none() -> None:
    chart = forecasts_figure(of_tasks(GAINS, lambda gain: {"misfit": gain, "weak_error": 0.2 + gain}))
    assert chart is not None
    spec, svg, _ = figures.render(chart)
    assert len(spec["concat"]) == 2
    assert [len(panel["layer"]) for panel in spec["concat"]] == [2, 1]  # a sign of gain has no line to lie on
    assert "NaN" not in svg
    assert chart.to_dict(validate=True) == spec
    plain = pl.DataFrame([fake_row()], infer_schema_length=None)
    assert forecasts_figure(plain) is None
    assert analysed(plain) is None
