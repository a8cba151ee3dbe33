"""The figures of the pages, one function each: from a table of results to a chart.

Those of a table of runs are registered as anyone's are, see :mod:`outgrow.report.figures`; the heat maps are a board's.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import altair as alt

from outgrow.report.figures import Chart, figure
from outgrow.report.rows import TableRow, measured, number, strategy_order, tidy, tidy_cells

if TYPE_CHECKING:
    import polars as pl

__all__ = [
    "COLOURS",
    "accuracy",
    "agreement",
    "controls",
    "finished_chart",
    "heat_map",
    "heat_map_pgr",
    "pgr",
]

CEILING = "ceiling (gold labels)"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#7A5195", "#6B6B6B")
"""Okabe and Ito's palette, distinct with any colour vision, without yellow and black; then two more."""
_STYLES: dict[str, tuple[str, tuple[int, ...]]] = {
    "naive": ("circle", (2, 3)),
    "confidence": ("triangle-up", (1, 0)),
}
"""Shape and dash of the strategies of Burns et al. 2023, figure 5."""
_MORE_STYLES = (("square", (6, 3)), ("diamond", (8, 3, 2, 3)), ("triangle-down", (4, 2)), ("cross", (10, 4)))
_KINDS = {
    "supervisor": ("#D55E00", "diamond"),
    "student": ("#0072B2", "circle"),
    "shuffled weak labels": ("#7A5195", "square"),
    "clusters, no labels": ("#009E73", "triangle-up"),
    "majority class": ("#222222", "cross"),
}
_CONTROL_NAMES = {"shuffled": "shuffled weak labels", "clusters": "clusters, no labels"}
_BESIDE = {"gold": "gold of B", "control": "control"}
_SPLITS = {"all": "All rows", "supervisor_right": "Supervisor right", "supervisor_wrong": "Supervisor wrong"}
_PGR_WINDOW = (-2.0, 3.0)
"""The PGR axis never shows more: the interval of a ratio over a small gap would flatten all the others."""
_HEIGHT = 300
_HEAT_COLUMNS = 36  # side by side
_PERCENT = alt.Axis(labelExpr="format(100 * datum.value, '.3~f')")
_DODGED = alt.Scale(paddingInner=0.25, paddingOuter=0.15)


# ---- figures of a table of runs


@figure("accuracy")
def accuracy(table: "pl.DataFrame") -> Chart | None:
    """Test accuracy by student, a line per supervisor and strategy, with supervisors and ceilings.

    As figure 5 of Burns et al. 2023.
    """
    if not (rows := _students(table)):
        return None
    points = [_point(r, "student_accuracy") for r in rows]
    as_ceiling = {"role": "ceiling", "series": CEILING, "supervisor": CEILING, "method": "gold labels", "weak": "gold"}
    ceilings = [{**_point(r, "ceiling_accuracy"), **as_ceiling} for r in rows if r["ceiling_accuracy"] is not None]
    supervisors = [{**_point(r, "weak_accuracy"), "role": "supervisor"} for r in rows]
    values = [*points, *_once(ceilings, "panel", "student"), *_once(supervisors, "panel", "supervisor", "value")]
    look = _look(rows, ceiling=bool(ceilings))
    y = alt.Y("value:Q", title="Test accuracy (% of rows)", axis=_PERCENT, scale=alt.Scale(zero=False, padding=8))
    layers = [
        _of_role("supervisor").mark_rule(strokeWidth=1.2, opacity=0.75).encode(y=y, color=look.colour),
        *_lines(look, "ceiling", y, "Accuracy"),
        *_lines(look, "student", y, "Accuracy"),
    ]
    ceiling = (
        "Black: the ceiling, the student's model trained on gold labels." if ceilings else "No ceiling was trained."
    )
    about = [f"Thin level lines: the supervisors' own accuracy. {ceiling}", "Bars: 95 % intervals."]
    return _panelled(layers, values, rows, "How accurate are students of weaker supervisors?", about)


@figure("pgr")
def pgr(table: "pl.DataFrame") -> Chart | None:
    """Performance gap recovered by student.

    An undefined one is a hollow cross below the axis, never a number.
    """
    if not (rows := _students(table)):
        return None
    defined = [r for r in rows if r["pgr"] is not None]
    bottom, top = _pgr_window(defined)
    points = [_clipped(_point(r, "pgr"), bottom, top) for r in defined]
    missing = [{**_point(r, "pgr"), "role": "undefined", "why": r["pgr_undefined"]} for r in rows if r["pgr"] is None]
    look = _look(rows, ceiling=False)
    scale = alt.Scale(domain=[bottom, top], nice=False, zero=False)
    y = alt.Y("value:Q", title="Performance gap recovered", axis=alt.Axis(grid=True), scale=scale)
    layers = [
        *(alt.Chart().mark_rule(color="#777", strokeWidth=1).encode(y=alt.YDatum(level)) for level in (0.0, 1.0)),
        *_lines(look, "student", y, "PGR"),
        _placed(look, "student")
        .transform_filter("isValid(datum.beyond)")
        .mark_text(align="left", dx=8, dy=alt.ExprRef("datum.value < 0 ? -8 : 8"), fontSize=12)
        .encode(y=y, text="beyond:N"),
        _placed(look, "undefined")
        .mark_point(shape="cross", size=90, filled=False, strokeWidth=1.5)
        .encode(y=alt.value(_HEIGHT - 8), tooltip=_tooltips(**_NAMES, why="PGR undefined")),
    ]
    title = "How much of the gap between supervisor and ceiling do students recover?"
    return _panelled(layers, [*points, *missing], rows, title, _pgr_notes(points, len(missing), bottom, top))


@figure("agreement")
def agreement(table: "pl.DataFrame") -> Chart | None:
    """How often students predict what their supervisor does: on all rows, where it is right, where it is wrong.

    As figure 8 of Burns et al. 2023.
    """
    if not (rows := _students(table)):
        return None
    values = [{**_point(r, f"agreement_{split}"), "split": title} for split, title in _SPLITS.items() for r in rows]
    known = [v for v in values if v["value"] is not None]
    width = max(180, _width(rows) // 2)
    y = alt.Y("value:Q", title="Agreement (% of rows)", axis=_PERCENT, scale=alt.Scale(zero=False, padding=8))
    layers = _lines(_look(rows, ceiling=False, width=width), "student", y, "Agreement")
    layered = alt.layer(*layers, data=alt.InlineData(values=known)).properties(width=width, height=200)
    column = alt.Column("split:N", title=None, sort=list(_SPLITS.values()))
    panels = _panel_names(rows)
    header = alt.Header(labelExpr="split(datum.label, ' · ')", labelLimit=220)
    row = alt.Row("panel:N", title=None, sort=panels, header=header) if len(panels) > 1 else alt.Undefined
    chart = layered.facet(column=column, row=row).resolve_scale(x="independent", xOffset="independent")
    about = ["High agreement where the supervisor is wrong: the student imitates mistakes.", "Bars: 95 % intervals."]
    return finished_chart(chart, "Do students repeat their supervisors' mistakes?", about)


@figure("controls")
def controls(table: "pl.DataFrame") -> Chart:
    """Accuracy of each pair's student and supervisor beside what needs no good supervisor.

    That is a student of shuffled weak labels, clusters, and the majority class.
    """
    everything = tidy(table)
    students = _once([r for r in everything if not r["control"]], "panel", "weak", "strong")  # naive where it ran
    values = [v for r in everything if r["control"] or r in students for v in _control_points(r)]
    values = _once(values, "panel", "pair", "kind")
    pairs = list(dict.fromkeys(v["pair"] for v in values))
    kinds = [k for k in _KINDS if any(v["kind"] == k for v in values)]
    colours, shapes = (alt.Scale(domain=kinds, range=[_KINDS[k][i] for k in kinds]) for i in (0, 1))
    base = alt.Chart().encode(
        y=alt.Y("pair:N", sort=pairs, title=None, axis=alt.Axis(grid=False), scale=_DODGED),
        yOffset=alt.YOffset("kind:N", scale=alt.Scale(domain=kinds)),
        color=alt.Color("kind:N", title=None, scale=colours),
        tooltip=_tooltips(pair="Pair", kind="Kind", text="Accuracy"),
    )
    x = alt.X("value:Q", title="Test accuracy (% of rows)", axis=_PERCENT, scale=alt.Scale(zero=False, padding=10))
    bars = base.transform_filter("isValid(datum.low)").mark_rule(strokeWidth=2).encode(x=alt.X("low:Q"), x2="high:Q")
    shape = alt.Shape("kind:N", title=None, scale=shapes)
    dots = base.mark_point(filled=True, size=80, opacity=1).encode(x=x, shape=shape)
    layered = alt.layer(bars, dots, data=alt.InlineData(values=values)).properties(width=520, height=alt.Step(15))
    chart = _faceted(layered, everything, columns=1, y="independent")
    methods = " or ".join(dict.fromkeys(r["method"] for r in students)) or "none"
    about = [f"Each row: supervisor → student; strategy: {methods}. Bars: 95 % intervals."]
    return finished_chart(chart, "Do students beat what needs no good supervisor?", about)


# ---- figures of a board


def heat_map(cells: "pl.DataFrame") -> Chart:
    """Methods against cells of a board, by the difference to ``naive`` in points; bold where its interval excludes
    zero.

    Args:
        cells: as :meth:`outgrow.board.summary.Board.cell_table` gives it.
    """
    rows = [r for r in _heat_rows(cells) if r["method"] != "naive"]
    points = [None if r["difference"] is None else 100 * r["difference"] for r in rows]
    values = [
        {
            **_heat(r, "difference", point),
            "label": "×" if point is None else number(point, "+.1f"),
            "strength": "bold" if r["outcome"] in ("win", "loss") else "plain",
        }
        for r, point in zip(rows, points, strict=True)
    ]
    of_methods = [abs(v["colour"]) for v in values if v["colour"] is not None and v["kind"] == "method"]
    end = max(1.0, max(of_methods, default=1.0))
    about = [
        "Percentage points of test accuracy above or below naive, in the same cell, on the same rows.",
        "Bold: the 95 % interval excludes zero (not corrected for the number of cells). ×: failed.",
    ]
    return _heat_map(values, "What does each method add to naive?", about, end, "Points")


def heat_map_pgr(cells: "pl.DataFrame") -> Chart:
    """Methods against cells of a board, by performance gap recovered; ``–`` where it is undefined.

    Args:
        cells: as :meth:`outgrow.board.summary.Board.cell_table` gives it.
    """
    values = []
    for r in _heat_rows(cells):
        missing = "×" if r["status"] == "failed" else "–"
        label = missing if r["pgr"] is None else number(r["pgr"])
        values.append({**_heat(r, "pgr", r["pgr"]), "label": label, "strength": "plain"})
    about = ["0 is the supervisor, 1 the ceiling; colours end at −1 and 1.", "–: PGR undefined. ×: failed."]
    return _heat_map(values, "How much of the gap does each method recover?", about, 1.0, "PGR")


# ---- data of the charts


def _students(table: "pl.DataFrame") -> list[TableRow]:
    return [r for r in tidy(table) if not r["control"]]


def _panel_names(rows: Sequence[TableRow]) -> list[str]:
    return sorted({r["panel"] for r in rows})


def _once(values: Sequence[TableRow], *fields: str) -> list[TableRow]:
    """The first of the values that agree in all ``fields``."""
    return list({tuple(v[f] for f in fields): v for v in reversed(values)}.values())[::-1]


def _point(row: TableRow, name: str) -> TableRow:
    kept = {k: row[k] for k in ("panel", "supervisor", "student", "method", "weak", "strong", "strategy")}
    return {
        **kept,
        "role": "student",
        "series": f"{row['supervisor']}, {row['method']}",
        "value": row[name],
        "low": row[f"{name}_low"],
        "high": row[f"{name}_high"],
        "text": measured(row, name, percent=name != "pgr"),
    }


def _control_points(row: TableRow) -> list[TableRow]:
    pair = {"panel": row["panel"], "pair": f"{row['supervisor']} → {row['student']}"}
    kind = _CONTROL_NAMES.get(row["strategy"].partition("(")[0], "student")
    kinds = {kind: "student_accuracy", "supervisor": "weak_accuracy"}
    points = [{**_point(row, name), **pair, "kind": kind} for kind, name in kinds.items()]
    majority = {"value": row["majority"], "low": None, "high": None, "text": f"{100 * row['majority']:.1f}"}
    return [*points, {**pair, **majority, "kind": "majority class"}]


def _pgr_window(rows: Sequence[TableRow]) -> tuple[float, float]:
    """The stretch of the PGR axis to show: all points and intervals, but no more than the widest window."""
    lows = [r["pgr_low"] if r["pgr_low"] is not None else -math.inf for r in rows]
    highs = [r["pgr_high"] if r["pgr_high"] is not None else math.inf for r in rows]
    return max(_PGR_WINDOW[0], min([-0.2, *lows]) - 0.1), min(_PGR_WINDOW[1], max([1.1, *highs]) + 0.1)


def _clipped(point: TableRow, bottom: float, top: float) -> TableRow:
    """The point within the axis; ``beyond`` is the number of a point outside it, ``cut`` says if any of it is."""
    low = -math.inf if point["low"] is None else point["low"]
    high = math.inf if point["high"] is None else point["high"]
    shown = min(max(point["value"], bottom), top)
    beyond = number(point["value"], ".1f") if shown != point["value"] else None
    cut = low < bottom or high > top
    return {**point, "value": shown, "low": max(low, bottom), "high": min(high, top), "beyond": beyond, "cut": cut}


def _pgr_notes(points: Sequence[TableRow], num_undefined: int, bottom: float, top: float) -> list[str]:
    notes = ["Grey level lines: 0 is the supervisor, 1 the ceiling. Bars: 95 % intervals."]
    if cut := sum(p["cut"] for p in points):
        where = f"{number(bottom, '.1f')} and {number(top, '.1f')}"
        notes.append(f"{cut} interval{'s reach' if cut > 1 else ' reaches'} beyond the axis, which ends at {where}.")
    if beyond := sum(p["beyond"] is not None for p in points):
        notes.append(f"{beyond} point{'s lie' if beyond > 1 else ' lies'} beyond it: at its edge, with the number.")
    if num_undefined:
        notes.append(
            f"Hollow crosses: PGR undefined ({num_undefined}): no ceiling is shown to be above the supervisor."
        )
    return notes


def _heat_rows(cells: "pl.DataFrame") -> list[TableRow]:
    """Methods first, then what is compared beside them, marked as such."""
    order = ("method", *_BESIDE)
    rows = sorted((r for r in tidy_cells(cells) if r["kind"] in order), key=lambda r: order.index(r["kind"]))
    beside = {kind: f" ({what})" for kind, what in _BESIDE.items()}
    return [{**r, "shown": r["shown"] + beside.get(r["kind"], "")} for r in rows]


def _heat(row: TableRow, name: str, colour: float | None) -> TableRow:
    kept = {k: row[k] for k in ("method", "kind", "task", "weak", "strong", "setting", "shown", "pair", "panel")}
    text = "failed" if row["status"] == "failed" else measured(row, name, percent=name != "pgr")
    return {**kept, "colour": colour, "text": text, "why": row["pgr_undefined"] if name == "pgr" else None}


# ---- encodings


@dataclass(frozen=True, kw_only=True)
class _Look:
    """The encodings that all figures by student share, so that they read alike."""

    x: alt.X
    offset: alt.XOffset
    colour: alt.Color
    shape: alt.Shape
    dash: alt.StrokeDash


def _look(rows: Sequence[TableRow], ceiling: bool, width: int | None = None) -> _Look:
    supervisors = list(dict.fromkeys(r["supervisor"] for r in rows))
    students = list(dict.fromkeys(r["student"] for r in sorted(rows, key=lambda r: r["rank"])))
    methods = sorted({r["method"] for r in rows}, key=strategy_order)
    series = list(dict.fromkeys(f"{r['supervisor']}, {r['method']}" for r in rows)) + [CEILING] * ceiling
    colours = [COLOURS[i % len(COLOURS)] for i in range(len(supervisors))] + ["#000000"] * ceiling
    others = [m for m in methods if m not in _STYLES]
    styles = {**_STYLES, **{m: _MORE_STYLES[i % len(_MORE_STYLES)] for i, m in enumerate(others)}}
    dashes = alt.Scale(domain=methods, range=[list(styles[m][1]) for m in methods])
    shapes = alt.Scale(domain=methods, range=[styles[m][0] for m in methods])
    legend = alt.Legend(symbolFillColor="#444", symbolStrokeWidth=0)
    crowded = len(students) * max((7 * len(s) for s in students), default=0) > (width or _width(rows))
    axis = alt.Axis(labelAngle=-30 if crowded else 0)
    scale = alt.Scale(domain=supervisors + [CEILING] * ceiling, range=colours)
    return _Look(
        x=alt.X("student:N", sort=students, title="Student, weak to strong", axis=axis, scale=_DODGED),
        offset=alt.XOffset("series:N", scale=alt.Scale(domain=series)),
        colour=alt.Color("supervisor:N", title="Supervisor", scale=scale),
        shape=alt.Shape("method:N", title="Strategy", scale=shapes, legend=legend),
        dash=alt.StrokeDash("method:N", title="Strategy", scale=dashes, legend=legend),
    )


_NAMES = {"weak": "Supervisor", "strong": "Student", "strategy": "Strategy"}


def _tooltips(**titles: str) -> list[alt.Tooltip]:
    """A tooltip for each field, under its title."""
    return [alt.Tooltip(f"{field}:N", title=title) for field, title in titles.items()]


def _of_role(role: str) -> alt.Chart:
    return alt.Chart().transform_filter(f"datum.role === '{role}'")


def _placed(look: _Look, role: str) -> alt.Chart:
    """What is shown of one role, each series beside the others of its student."""
    return _of_role(role).encode(x=look.x, xOffset=look.offset, color=look.colour)


def _lines(look: _Look, role: str, y: alt.Y, what: str) -> list[alt.Chart]:
    """Interval bars, a line and points of one role."""
    at = _placed(look, role)
    line, point = at.encode(y=y), at.encode(y=y)
    if role == "student":
        line, point = line.encode(strokeDash=look.dash, detail="series:N"), point.encode(shape=look.shape)
    bars = at.transform_filter("isValid(datum.low) && isValid(datum.high)").encode(y="low:Q", y2="high:Q")
    return [
        bars.mark_rule(strokeWidth=1.6, opacity=0.65),
        line.mark_line(strokeWidth=1.8),
        point.mark_point(filled=True, size=75, opacity=1).encode(tooltip=_tooltips(**_NAMES, text=what)),
    ]


# ---- assembly


def _width(rows: Sequence[TableRow]) -> int:
    series, students = {(r["supervisor"], r["method"]) for r in rows}, {r["student"] for r in rows}
    return min(900, max(400, len(students) * (50 + 18 * len(series))))


def _panelled(
    layers: Sequence[alt.Chart], values: Sequence[TableRow], rows: Sequence[TableRow], title: str, about: list[str]
) -> Chart:
    """The layers over the values, side by side for every panel."""
    width = _width(rows)
    layered = alt.layer(*layers, data=alt.InlineData(values=list(values))).properties(width=width, height=_HEIGHT)
    chart = _faceted(layered, rows, columns=2 if width <= 420 else 1, x="independent", xOffset="independent")
    return finished_chart(chart, title, about)


def _faceted(layered: Any, rows: Sequence[TableRow], columns: int, **scales: Any) -> Chart:
    """The chart once for every panel, if there are several."""
    panels = _panel_names(rows)
    chart: Chart = layered
    if len(panels) > 1:
        chart = layered.facet(alt.Facet("panel:N", title=None, sort=panels), columns=columns).resolve_scale(**scales)
    return chart


def _heat_map(values: Sequence[TableRow], title: str, about: list[str], end: float, what: str) -> Chart:
    """Coloured rectangles with their numbers, a panel for every task, wrapped into rows on a wide page. The colours
    run from ``-end`` to ``end``."""
    methods, pairs, panels = (list(dict.fromkeys(v[k] for v in values)) for k in ("shown", "pair", "panel"))
    scale = alt.Scale(domain=[-end, 0.0, end], range=["#D55E00", "#f7f7f7", "#0072B2"], clamp=True)
    names = {"method": "Method", "setting": "Setting", "task": "Task", "weak": "Supervisor", "strong": "Student"}
    base = alt.Chart().encode(
        x=alt.X("pair:N", sort=pairs, title=None, axis=alt.Axis(labelAngle=-90, orient="bottom", grid=False)),
        y=alt.Y("shown:N", sort=methods, title=None, axis=alt.Axis(grid=False)),
        tooltip=_tooltips(**names, text=what, why="PGR undefined"),
    )
    ink = alt.condition(f"abs(datum.colour) > {0.6 * end}", alt.value("white"), alt.value("#222"))
    text = base.encode(text="label:N", color=ink)
    rectangle: dict[str, Any] = {"stroke": "white", "strokeWidth": 1, "aria": False}
    layers = [
        base.transform_filter("isValid(datum.colour)")
        .mark_rect(**rectangle)
        .encode(color=alt.Color("colour:Q", scale=scale, title=what)),
        # A missing number is not on the scale: grey, never the colour of zero.
        base.transform_filter("!isValid(datum.colour)").mark_rect(color="#d4d4d4", **rectangle),
        text.transform_filter("datum.strength !== 'bold'").mark_text(fontSize=11, aria=False),
        text.transform_filter("datum.strength === 'bold'").mark_text(fontSize=11, fontWeight="bold", aria=False),
    ]
    layered = alt.layer(*layers, data=alt.InlineData(values=list(values)))
    layered = layered.properties(width=alt.Step(46), height=alt.Step(19))  # room for −12.3
    header = alt.Header(labelExpr="split(datum.label, ' · ')", labelLimit=46 * len(pairs), labelFontSize=12)
    facet = alt.Facet("panel:N", title=None, sort=panels, header=header)
    wrapped = layered.facet(facet=facet, columns=max(1, _HEAT_COLUMNS // len(pairs)), spacing=6)
    return finished_chart(wrapped.resolve_scale(x="independent"), title, about)


def finished_chart(chart: Chart, title: str, about: list[str]) -> Chart:
    """The chart with a title, what is to be known of it below that, and the look of all figures."""
    heading = alt.TitleParams(
        title, subtitle=about, anchor="start", fontSize=16, subtitleFontSize=12, subtitleColor="#555", offset=14
    )
    finished: Chart = (
        chart.properties(title=heading)
        .configure(background="white", font="Arial, Helvetica, sans-serif", padding=12)
        .configure_axis(labelFontSize=12, titleFontSize=13, titleFontWeight="normal", gridColor="#e8e8e8")
        .configure_axisX(labelLimit=170, labelOverlap=False)
        .configure_axisY(labelLimit=320)
        .configure_legend(labelFontSize=12, titleFontSize=12, labelLimit=240, symbolSize=90, symbolOpacity=1)
        .configure_header(labelFontSize=13, labelLimit=600)
        .configure_view(stroke="#ccc")
    )
    return finished
