"""What predictors of gain said, beside what came: an analysis and a figure of runs that have forecasts.

:func:`outgrow.board.forecast.forecasts` makes the steps; without their results a page shows neither.
"""

import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import altair as alt
import numpy as np

from outgrow.board.statistics import on_tasks_like_these
from outgrow.metrics import Interval, Spread
from outgrow.report.figures import Chart, analysis, figure
from outgrow.report.plots import COLOURS, finished_chart
from outgrow.report.rows import TableRow, grouped, tidy, with_interval

if TYPE_CHECKING:
    import polars as pl

__all__ = ["PREDICTORS", "Predictor", "forecast_rows", "forecasts", "forecasts_figure", "pooled_rank", "within_tasks"]


class Predictor(NamedTuple):
    """What a predictor claims."""

    title: str
    kind: Literal["at least", "at most", "about", "more with", "less with"]
    """A bound, an estimate, or only a sign: the gain is claimed to grow or to shrink with it."""
    of: str = "gain"
    """The truth that it is about, as :func:`outgrow.results.table_of` names it in ``forecast``."""


PREDICTORS = {
    "misfit": Predictor("misfit, squared", "at least", "brier_gain"),
    "kl_misfit": Predictor("misfit, KL(f || w)", "at least", "xent_gain"),
    "risk": Predictor("weak Brier on A less misfit", "at most", "student_brier"),
    "disagreement": Predictor("err(f, w)", "at most"),
    "not_robust": Predictor("P(not R)", "less with"),
    "expansion": Predictor("P(not R) + err(f, w)", "less with"),
    "second": Predictor("second supervisor", "about"),
    "triplet": Predictor("triplet with another's student", "about"),
    "triplet_supervisors": Predictor("triplet of supervisors", "about"),
    "weak_error": Predictor("weak error on A", "more with"),
    "share_shift": Predictor("share shift A → T", "less with"),
    "domain_auc": Predictor("A against T, AUC", "less with"),
}
"""In the order of the page. Every one was fixed, with its direction, before any was compared with the truth."""
_NEAR_ONE = 1 - 1e-9  # Fisher's z of a rank correlation of 1 is infinite
_FEWEST = 3  # cells that rank anything


def forecast_rows(table: "pl.DataFrame") -> list[TableRow]:
    """A row for each predictor, seed and student that has a forecast: ``predictor``, ``predicted`` (None where it is
    undefined), ``truth`` of what it is about, ``gain``, and who it is: ``task``, ``weak``, ``strong``, ``strategy``,
    ``panel``, ``supervisor``, ``student``, ``method``, ``seed``."""
    made = []
    for row in tidy(table) if "forecast" in table.columns else ():
        for seed in json.loads(row["forecast"] or "[]"):
            who = ("task", "weak", "strong", "strategy", "panel", "supervisor", "student", "method")
            kept = {name: row[name] for name in who} | {"seed": seed["seed"], "gain": seed["gain"]}
            made += [
                kept | {"predictor": name, "predicted": seed.get(name), "truth": seed[about.of]}
                for name, about in PREDICTORS.items()
            ]
    return made


@analysis("forecasts")
def forecasts(table: "pl.DataFrame") -> "pl.DataFrame | None":
    """Each predictor of gain against the truth: how it ranks students, how far off it is, and how often a bound holds.

    ``rank_within`` is Spearman's correlation of predictor and accuracy gain (for ``risk``, the student's Brier score)
    among the students of one task, all pairs, strategies and seeds, mean over tasks; ``rank_over_all`` that of all
    students of all tasks; ``rank_methods`` that of the strategies of one pair at one seed, which is what one has to
    choose from, mean over pairs and seeds, then over tasks. A predictor that says that gain shrinks with it counts with
    its sign turned, so that 1 is a perfect predictor and 0 an idle one. Intervals take tasks for a sample of such
    tasks. ``predicted`` and ``truth`` are means of what a bound or an estimate is about (:class:`Predictor`), ``error``
    is the mean absolute difference, and ``bound_held`` the share of students for whom the bound did hold. None for a
    table without forecasts.
    """
    import polars as pl

    made = []
    for name, own in grouped(forecast_rows(table), "predictor").items():
        about, known = PREDICTORS[name], [r for r in own if r["predicted"] is not None]
        within, over_all = within_tasks(known), pooled_rank(known)
        row: TableRow = {"predictor": about.title, "claims": f"{about.of.replace('_', ' ')} {about.kind} it"}
        row |= {"students": len(known), "undefined": len(own) - len(known)}
        row |= _spelled("rank_within", within) | _spelled("rank_over_all", over_all)
        row |= _spelled("rank_methods", within_tasks(known, "weak", "strong", "seed"))
        measured = known if about.kind not in ("more with", "less with") else []
        row |= {column: _mean([r[column] for r in measured]) for column in ("predicted", "truth")}
        row["error"] = _mean([abs(r["predicted"] - r["truth"]) for r in measured])
        row["bound_held"] = _mean([_held(about, r) for r in measured if about.kind != "about"])
        made.append(row)
    return pl.DataFrame(made, infer_schema_length=None) if made else None


def _held(about: Predictor, row: TableRow) -> float:
    above = row["truth"] - row["predicted"]
    return float(above >= -1e-9 if about.kind == "at least" else above <= 1e-9)


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _spelled(name: str, found: Interval | None) -> TableRow:
    value, low, high = found or (None, None, None)
    return {name: value, f"{name}_low": _finite(low), f"{name}_high": _finite(high)}


def _finite(value: float | None) -> float | None:
    return None if value is None or math.isinf(value) else value


def _rank(rows: Sequence[TableRow]) -> float:
    """Spearman's correlation with the accuracy gain (of what is about no gain, with what it is about), with the sign
    that the predictor claims; NaN where either is constant."""
    from scipy.stats import rankdata

    if len(rows) < _FEWEST:
        return math.nan
    about = PREDICTORS[rows[0]["predictor"]]
    names = ("predicted", "gain" if about.of.endswith("gain") else "truth")
    said, came = (np.array([r[name] for r in rows], dtype=np.float64) for name in names)
    if not np.ptp(said) or not np.ptp(came):
        return math.nan
    return (-1.0 if about.kind == "less with" else 1.0) * float(np.corrcoef(rankdata(said), rankdata(came))[0, 1])


def within_tasks(rows: Sequence[TableRow], *within: str) -> Interval | None:
    """The mean over tasks of the rank correlation within each, with the t interval over tasks; one task bounds nothing.

    With names of columns, a task's is the mean of those of its rows that agree in them all. None where nothing is
    ranked.
    """
    found = []
    for own in grouped(rows, "task").values():
        parts = grouped(own, "task", *within).values() if within else [own]
        ranks = [rank for part in parts if not math.isnan(rank := _rank(part))]
        found += [float(np.mean(ranks))] if ranks else []
    return on_tasks_like_these(found) if found else None


def pooled_rank(rows: Sequence[TableRow]) -> Interval | None:
    """The rank correlation over all rows, with the interval that leaves out one task at a time.

    The variance is the jackknife's over T tasks, of Fisher's z, with T - 1 degrees of freedom: rows of one task are no
    independent draws. One task bounds nothing. None where nothing is ranked.
    """
    tasks, value = grouped(rows, "task"), _rank(rows)
    if math.isnan(value):
        return None
    without = [_rank([r for r in rows if r["task"] != task]) for task in tasks] if len(tasks) > 1 else []
    if not without or any(map(math.isnan, without)):
        return Interval(value, -1.0, 1.0)
    z = np.arctanh(np.clip(without, -_NEAR_ONE, _NEAR_ONE))
    variance = float((len(z) - 1) / len(z) * ((z - z.mean()) ** 2).sum())
    middle = math.atanh(max(-_NEAR_ONE, min(_NEAR_ONE, value)))
    _, low, high = Spread(middle, variance, len(z) - 1.0).interval()
    return Interval(value, math.tanh(low), math.tanh(high))


@figure("forecasts")
def forecasts_figure(table: "pl.DataFrame") -> Chart | None:
    """What each predictor said against what came, a point for each student and seed, a panel for each predictor.

    The line is where a forecast equals the truth: a lower bound that holds has its points above it, an upper bound
    below. A predictor that is only a sign of gain has no such line. None for a table without forecasts.
    """
    rows = forecast_rows(table)
    tasks = list(dict.fromkeys(r["panel"] for r in rows))
    colours = alt.Scale(domain=tasks, range=[COLOURS[i % len(COLOURS)] for i in range(len(tasks))])
    panels: list[Any] = []
    for name, about in PREDICTORS.items():
        known = [r for r in rows if r["predictor"] == name and r["predicted"] is not None]
        if known:
            panels.append(_scatter(name, about, known, colours))
    if not panels:
        return None
    notes = [
        "A point is one student at one seed; colour is the task. Rank: Spearman's correlation with the accuracy gain "
        "within a task, mean over tasks, 95 % interval.",
        "Black line: forecast = truth. A lower bound (≥) that holds has its points above the line, an upper bound (≤) "
        "below. No gold of B or T was used for any forecast.",
    ]
    return finished_chart(alt.concat(*panels, columns=3, spacing=24), "Who can tell the gain without gold?", notes)


_UNITS = {"gain": "Accuracy gain", "brier_gain": "Brier gain", "xent_gain": "Cross-entropy gain, nats"}
_SIGNS = {"at least": "≥", "at most": "≤", "about": "≈", "more with": "grows with", "less with": "shrinks with"}


def _scatter(name: str, about: Predictor, rows: Sequence[TableRow], colours: alt.Scale) -> Chart:
    names = ("predicted", "truth", "panel", "weak", "strong", "strategy", "seed")
    values = [{field: r[field] for field in names} for r in rows]
    what = _UNITS.get(about.of, "Student's Brier score")
    axis = alt.Axis(tickCount=5, labelOverlap=True)
    x = alt.X("predicted:Q", title=about.title, axis=axis, scale=alt.Scale(zero=False, padding=8))
    y = alt.Y("truth:Q", title=what, scale=alt.Scale(zero=False, padding=8))
    titles = dict(zip(names, ("Forecast", what, "Task", "Supervisor", "Student", "Strategy", "Seed"), strict=True))
    tooltip = [alt.Tooltip(f"{field}:N", title=title) for field, title in titles.items()]
    points = (
        alt.Chart(alt.InlineData(values=values))
        .mark_point(filled=True, size=26, opacity=0.6)
        .encode(x=x, y=y, color=alt.Color("panel:N", title="Task", scale=colours), tooltip=tooltip)
    )
    layers = [points]
    if about.kind not in ("more with", "less with"):
        ends = [{"predicted": end, "truth": end} for end in (f(r["predicted"] for r in rows) for f in (min, max))]
        layers.insert(0, alt.Chart(alt.InlineData(values=ends)).mark_line(color="#222", strokeWidth=1).encode(x=x, y=y))
    rank = within_tasks(rows)
    said = f"rank {with_interval(*rank)}" if rank else "no rank correlation"
    title = alt.TitleParams(f"{what} {_SIGNS[about.kind]} {about.title}", subtitle=said, fontSize=12, anchor="start")
    chart: Chart = alt.layer(*layers).properties(width=250, height=210, title=title)
    return chart
