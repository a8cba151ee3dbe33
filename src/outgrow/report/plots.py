"""From the table of results to charts, one function per figure; interactive in HTML, static as SVG and PNG."""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from outgrow.errors import UserError
from outgrow.models.packaged import PACKAGED

if TYPE_CHECKING:
    import altair as alt
    import polars as pl

    Chart: TypeAlias = alt.LayerChart | alt.FacetChart

__all__ = [
    "accuracy",
    "agreement",
    "controls",
    "figures",
    "heat_map",
    "heat_map_pgr",
    "measured",
    "pgr",
    "render",
    "save",
    "tidy",
    "tidy_cells",
]

TableRow: TypeAlias = dict[str, Any]

CEILING = "ceiling (gold labels)"
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#7A5195", "#6B6B6B")
"""Okabe and Ito's palette, told apart with any colour vision, without yellow and black; then two more."""
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
_SPLITS = {"all": "All rows", "supervisor_right": "Supervisor right", "supervisor_wrong": "Supervisor wrong"}
_PGR_WINDOW = (-2.0, 3.0)
"""The PGR axis never shows more than this: a ratio over a small gap has intervals that would flatten all others."""
_FONT = "Arial, Helvetica, sans-serif"


def tidy(table: "pl.DataFrame") -> list[TableRow]:
    """The rows of :func:`outgrow.experiment.results`, ready to be shown: weak supervisors and students first.

    Each row gains ``supervisor``, ``student`` and ``method``, which are short and distinct names of ``weak``,
    ``strong`` and ``strategy``; ``panel``, which names task, trainer and whatever else differs between rows that are
    not to be compared; and ``rank``, which orders students.
    """
    rows: list[TableRow] = table.to_dicts()
    weak, strong = _ranks(rows, "weak", "weak_accuracy"), _ranks(rows, "strong", "ceiling_accuracy")
    methods = sorted({r["strategy"] for r in rows}, key=_strategy_order)
    names = _short_names({r[k] for r in rows for k in ("weak", "strong")})
    panels, short_methods = _panels(rows), _short_names(methods)
    rows.sort(key=lambda r: (weak[r["weak"]], strong[r["strong"]], r["control"], methods.index(r["strategy"])))
    return [
        {
            **row,
            "supervisor": names[row["weak"]],
            "student": names[row["strong"]],
            "method": short_methods[row["strategy"]],
            "panel": panels[_setting(row)],
            "rank": strong[row["strong"]],
        }
        for row in rows
    ]


def tidy_cells(cells: "pl.DataFrame") -> list[TableRow]:
    """The rows of :meth:`outgrow.board.run.Board.cell_table`, ready to be shown: ``shown`` names the method, ``pair``
    supervisor and student, ``panel`` the task and, where there are several, the trainer."""
    rows: list[TableRow] = cells.to_dicts()
    models = _short_names({r[k] for r in rows for k in ("weak", "strong")})
    tasks = _task_names({r["task"] for r in rows})
    trainers, methods = (_short_names({r[k] for r in rows}) for k in ("train", "shown"))
    return [
        {
            **row,
            "shown": methods[row["shown"]],
            "pair": f"{models[row['weak']]} → {models[row['strong']]}",
            "panel": tasks[row["task"]] + (f" · {trainers[row['train']]}" if len(trainers) > 1 else ""),
        }
        for row in rows
    ]


def measured(row: TableRow, name: str, percent: bool = False) -> str:
    """The number ``name`` of a row with its 95 % interval, as text; an unbounded end is ∞, no number is "undefined"."""
    if row[name] is None:
        return "undefined"
    sign = "+" if name in ("gain", "gap", "difference") else ""

    def text(value: float | None, unbounded: str) -> str:
        if value is None:
            return unbounded
        return f"{100 * value:{sign}.1f}" if percent else f"{value:{sign}.2f}"

    low, high = text(row[f"{name}_low"], "-∞"), text(row[f"{name}_high"], "∞")
    return f"{text(row[name], '')} [{low}, {high}]".replace("-", "−")


# ---- figures


def accuracy(table: "pl.DataFrame") -> "Chart":
    """Test accuracy by student, a line per supervisor and strategy, with supervisors and ceilings (figure 5 of Burns
    et al. 2023)."""
    import altair as alt

    rows = _students(table)
    points = [_point(r, "student_accuracy") for r in rows]
    ceilings = [{**_point(r, "ceiling_accuracy"), **_AS_CEILING} for r in rows if r["ceiling_accuracy"] is not None]
    supervisors = [{**_point(r, "weak_accuracy"), "role": "supervisor"} for r in rows]
    values = [*points, *_once(ceilings, "panel", "student"), *_once(supervisors, "panel", "supervisor", "value")]
    look = _look(rows, ceiling=bool(ceilings))
    y = alt.Y("value:Q", title="Test accuracy (% of rows)", axis=_percent(), scale=alt.Scale(zero=False, padding=8))
    layers = [
        _of_role("supervisor").mark_rule(strokeWidth=1.2, opacity=0.75).encode(y=y, color=look.colour),
        *_lines(look, "ceiling", y, "Accuracy"),
        *_lines(look, "student", y, "Accuracy"),
    ]
    ceiling = "black: ceiling, the student's model trained on gold labels" if ceilings else "no ceiling was trained"
    about = [f"Thin level lines: the supervisors' own accuracy; {ceiling}.", "Bars: 95 % intervals."]
    return _panelled(layers, values, rows, "How accurate are students of weaker supervisors?", about)


def pgr(table: "pl.DataFrame") -> "Chart":
    """Performance gap recovered by student. Undefined ones are hollow crosses below the axis, never numbers."""
    import altair as alt

    rows = _students(table)
    defined = [r for r in rows if r["pgr"] is not None]
    bottom, top = _pgr_window(defined)
    points = [_clipped(_point(r, "pgr"), bottom, top) for r in defined]
    missing = [{**_point(r, "pgr"), "role": "undefined", "why": r["pgr_undefined"]} for r in rows if r["pgr"] is None]
    values = [*points, *missing]
    look = _look(rows, ceiling=False)
    y = alt.Y("value:Q", title="Performance gap recovered", axis=alt.Axis(grid=True), scale=_fixed(bottom, top))
    layers = [
        _level(0.0),
        _level(1.0),
        *_lines(look, "student", y, "PGR"),
        _of_role("student")
        .transform_filter("isValid(datum.beyond)")
        .mark_text(align="left", dx=8, dy=alt.ExprRef("datum.value < 0 ? -8 : 8"), fontSize=12)
        .encode(x=look.x, xOffset=look.offset, y=y, text="beyond:N", color=look.colour),
        _of_role("undefined")
        .mark_point(shape="cross", size=90, filled=False, strokeWidth=1.5)
        .encode(
            x=look.x,
            xOffset=look.offset,
            y=alt.value(_HEIGHT - 8),
            color=look.colour,
            tooltip=[*_TOOLTIP, alt.Tooltip("why:N", title="PGR undefined")],
        ),
    ]
    title = "How much of the gap between supervisor and ceiling do students recover?"
    return _panelled(layers, values, rows, title, _pgr_notes(points, len(missing), bottom, top))


def agreement(table: "pl.DataFrame") -> "Chart":
    """How often students answer as their supervisor: on all rows, where it is right and where it is wrong (figure 8
    of Burns et al. 2023)."""
    import altair as alt

    rows = _students(table)
    values = [{**_point(r, f"agreement_{split}"), "split": title} for split, title in _SPLITS.items() for r in rows]
    width = max(180, _width(rows) // 2)
    look = _look(rows, ceiling=False, width=width)
    y = alt.Y("value:Q", title="Agreement (% of rows)", axis=_percent(), scale=alt.Scale(zero=False, padding=8))
    known = [v for v in values if v["value"] is not None]
    layered = alt.layer(*_lines(look, "student", y, "Agreement"), data=_inline(known))
    column = alt.Column("split:N", title=None, sort=list(_SPLITS.values()))
    panels = _panel_names(rows)
    header = alt.Header(labelExpr="split(datum.label, ' · ')", labelLimit=220)
    row = alt.Row("panel:N", title=None, sort=panels, header=header) if len(panels) > 1 else alt.Undefined
    chart = layered.properties(width=width, height=200).facet(column=column, row=row)
    chart = chart.resolve_scale(x="independent", xOffset="independent")
    about = ["High agreement where the supervisor is wrong: the student imitates mistakes.", "Bars: 95 % intervals."]
    return _finished(chart, "Do students repeat their supervisors' mistakes?", about)


def controls(table: "pl.DataFrame") -> "Chart":
    """Accuracy of what needs no good supervisor — shuffled weak labels, clusters, the majority class — beside the
    student and its supervisor, pair by pair."""
    import altair as alt

    everything = tidy(table)
    students = _once([r for r in everything if not r["control"]], "panel", "weak", "strong")  # naive where it ran
    values = [v for r in everything if r["control"] or r in students for v in _control_points(r)]
    values = _once(values, "panel", "pair", "kind")
    pairs = list(dict.fromkeys(v["pair"] for v in values))
    kinds = [k for k in _KINDS if any(v["kind"] == k for v in values)]
    colours = alt.Scale(domain=kinds, range=[_KINDS[k][0] for k in kinds])
    y = alt.Y("pair:N", sort=pairs, title=None, axis=alt.Axis(grid=False), scale=_dodge())
    base = alt.Chart().encode(
        y=y,
        yOffset=alt.YOffset("kind:N", scale=alt.Scale(domain=kinds)),
        color=alt.Color("kind:N", title=None, scale=colours),
        tooltip=[*(alt.Tooltip(f"{k}:N", title=k.capitalize()) for k in ("pair", "kind")), "text:N"],
    )
    shapes = alt.Scale(domain=kinds, range=[_KINDS[k][1] for k in kinds])
    x = alt.X("value:Q", title="Test accuracy (% of rows)", axis=_percent(), scale=alt.Scale(zero=False, padding=10))
    bars = base.transform_filter("isValid(datum.low)").mark_rule(strokeWidth=2).encode(x=alt.X("low:Q"), x2="high:Q")
    dots = base.mark_point(filled=True, size=80, opacity=1).encode(
        x=x, shape=alt.Shape("kind:N", title=None, scale=shapes)
    )
    layered = alt.layer(bars, dots, data=_inline(values)).properties(width=520, height=alt.Step(15))
    panels = _panel_names(everything)
    chart: Chart = layered
    if len(panels) > 1:
        facet = alt.Facet("panel:N", title=None, sort=panels)
        chart = layered.facet(facet, columns=1).resolve_scale(y="independent")
    methods = " or ".join(dict.fromkeys(r["method"] for r in students)) or "none"
    about = [f"Each row: supervisor → student; strategy: {methods}. Bars: 95 % intervals."]
    return _finished(chart, "Do students beat what needs no good supervisor?", about)


def heat_map(cells: "pl.DataFrame") -> "Chart":
    """Methods against cells of a board, by the difference to ``naive`` in points; bold where its interval leaves out
    zero.

    Args:
        cells: as :meth:`outgrow.board.run.Board.cell_table` gives it.
    """
    rows = [r for r in _heat_rows(cells) if r["method"] != "naive"]
    values = [
        {
            **_heat(r, "difference"),
            "label": "×" if r["difference"] is None else _signed(100 * r["difference"]),
            "strength": "bold" if r["outcome"] in ("win", "loss") else "plain",
            "colour": None if r["difference"] is None else 100 * r["difference"],
        }
        for r in rows
    ]
    of_methods = [abs(v["colour"]) for v in values if v["colour"] is not None and v["kind"] == "method"]
    end = max(1.0, max(of_methods, default=1.0))
    about = [
        "Percentage points of test accuracy above or below naive, in the same cell, on the same rows.",
        "Bold: the 95 % interval leaves out zero (not corrected for the number of cells). ×: failed.",
    ]
    return _heat_map(values, rows, "What does each method add to naive finetuning?", about, (-end, end), "Points")


def heat_map_pgr(cells: "pl.DataFrame") -> "Chart":
    """Methods against cells of a board, by performance gap recovered; ``–`` where it is undefined. See
    :func:`heat_map`."""
    rows = _heat_rows(cells)
    values = []
    for r in rows:
        missing = "×" if r["status"] == "failed" else "–"
        label = missing if r["pgr"] is None else f"{r['pgr']:.2f}".replace("-", "−")
        values.append({**_heat(r, "pgr"), "label": label, "strength": "plain", "colour": r["pgr"]})
    about = ["0 is the supervisor, 1 the ceiling; colours end at −1 and 1.", "–: PGR undefined. ×: failed."]
    return _heat_map(values, rows, "How much of the gap does each method recover?", about, (-1.0, 1.0), "PGR")


def figures(table: "pl.DataFrame") -> "dict[str, Chart]":
    """Every figure that the table has rows for, by the name of its file."""
    from altair.utils.schemapi import debug_mode

    by_student = {"accuracy": accuracy, "pgr": pgr, "agreement": agreement} if _students(table) else {}
    with debug_mode(False):  # checking every part against the schema takes longer than the rest; the tests check
        return {name: draw(table) for name, draw in {**by_student, "controls": controls}.items()}


class Rendered(NamedTuple):
    """A chart as its Vega-Lite specification and as static pictures."""

    spec: dict[str, Any]
    svg: str
    png: bytes


def render(chart: "Chart") -> Rendered:
    """The chart as SVG and as PNG at twice the size, without a browser."""
    import vl_convert

    spec = chart.to_dict(validate=False)
    svg: str = vl_convert.vegalite_to_svg(spec)
    return Rendered(spec, svg, vl_convert.svg_to_png(svg, scale=2))


def save(chart: "Chart", path: str | Path) -> Path:
    """Write the chart to ``path``, whose ending says how: ``.svg``, or ``.png`` at twice the size.

    Raises:
        UserError: for any other ending.
    """
    path = Path(path)
    if path.suffix not in (".svg", ".png"):
        raise UserError(f"cannot save a chart as {path.name}; end the name in .svg or .png")
    rendered = render(chart)
    path.write_bytes(rendered.png if path.suffix == ".png" else rendered.svg.encode())
    return path


# ---- names and order


def _ranks(rows: Sequence[TableRow], field: str, by: str) -> dict[str, float]:
    """Where each model stands: on the packaged ladder where all are packaged, by accuracy otherwise."""
    models = {r[field] for r in rows}
    if models <= set(PACKAGED):
        return {m: float(list(PACKAGED).index(m)) for m in models}
    ranks = {}
    for model in models:
        own = [r for r in rows if r[field] == model]
        values = [r[by] for r in own if r[by] is not None] or [r["student_accuracy"] for r in own]
        ranks[model] = sum(values) / len(values)
    return ranks


def _strategy_order(name: str) -> tuple[bool, bool, str]:
    return name != "naive", name != "confidence", name


def _short_names(names: Iterable[str]) -> dict[str, str]:
    """Short, distinct names: the last part of a path or hub id, as much as fits."""
    names = sorted(names)
    plain = {n: _abridged(re.sub(r"(?:hf:)?[^\s'\"=(@]*/([^/\s'\"@]+)(?:@\w+)?", r"\1", n)) for n in names}
    taken = list(plain.values())
    clashing = [n for n in names if taken.count(plain[n]) > 1]
    return {n: f"{plain[n]} #{clashing.index(n) + 1}" if n in clashing else plain[n] for n in names}


def _task_names(tasks: Iterable[str]) -> dict[str, str]:
    """Without arguments where that tells them apart."""
    tasks = set(tasks)
    bare = [t.partition("(")[0] for t in tasks]
    short = _short_names(tasks)
    return {t: name if bare.count(name := t.partition("(")[0]) == 1 and name != "table" else short[t] for t in tasks}


def _abridged(text: str, most: int = 26) -> str:
    return text if len(text) <= most else f"{text[: most // 2 + 2]}…{text[-(most // 2 - 3) :]}"


_HEAT_COLUMNS = 36  # side by side

_SETTINGS = ("task", "train", "weak_train", "supervisor_rows", "transfer_rows", "test_rows", "validation", "balance")


def _setting(row: TableRow) -> tuple[Any, ...]:
    return (*(row[name] for name in _SETTINGS), row["num_seeds"])


def _panels(rows: Sequence[TableRow]) -> dict[tuple[Any, ...], str]:
    """A name for every setting, from the task and whatever differs."""
    settings = sorted({_setting(r) for r in rows}, key=repr)
    tasks, trainers = _task_names({s[0] for s in settings}), _short_names({t for s in settings for t in s[1:3]})
    names = (*_SETTINGS, "num_seeds")
    differing = [i for i in range(3, len(names)) if len({s[i] for s in settings}) > 1]
    labels = {}
    for setting in settings:
        parts = [tasks[setting[0]], trainers[setting[1]]]
        if setting[2] != setting[1]:
            parts.append(f"supervisor {trainers[setting[2]]}")
        parts += [f"{names[i].replace('num_', '').replace('_', ' ')} {_said(setting[i])}" for i in differing]
        labels[setting] = " · ".join(parts)
    return labels


def _said(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return "default" if value is None else str(value)


def _panel_names(rows: Sequence[TableRow]) -> list[str]:
    return sorted({r["panel"] for r in rows})


# ---- data of the charts

_AS_CEILING: TableRow = {
    "role": "ceiling",
    "supervisor": CEILING,
    "series": CEILING,
    "method": "gold labels",
    "weak": "gold",
}


def _students(table: "pl.DataFrame") -> list[TableRow]:
    return [r for r in tidy(table) if not r["control"]]


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


_BESIDE = {"gold": "gold of B", "control": "control"}


def _heat_rows(cells: "pl.DataFrame") -> list[TableRow]:
    """Methods first, then what is no contestant, marked as such."""
    order = ("method", *_BESIDE)
    rows = sorted((r for r in tidy_cells(cells) if r["kind"] in order), key=lambda r: order.index(r["kind"]))
    beside = {kind: f" ({what})" for kind, what in _BESIDE.items()}
    return [{**r, "shown": r["shown"] + beside.get(r["kind"], "")} for r in rows]


def _signed(points: float) -> str:
    return f"{points:+.1f}".replace("-", "−") if abs(points) >= 0.05 else "0.0"


def _heat(row: TableRow, name: str) -> TableRow:
    kept = {k: row[k] for k in ("method", "kind", "task", "weak", "strong", "setting", "shown", "pair", "panel")}
    text = "failed" if row["status"] == "failed" else measured(row, name, percent=name != "pgr")
    return {**kept, "text": text, "why": row["pgr_undefined"] if name == "pgr" else None}


def _heat_map(
    values: Sequence[TableRow],
    rows: Sequence[TableRow],
    title: str,
    about: list[str],
    ends: tuple[float, float],
    what: str,
) -> "Chart":
    """Coloured rectangles with their numbers, a panel for every task, in as many rows as a wide page asks for."""
    import altair as alt

    methods, pairs, panels = (list(dict.fromkeys(r[k] for r in rows)) for k in ("shown", "pair", "panel"))
    scale = alt.Scale(domain=[ends[0], 0.0, ends[1]], range=["#D55E00", "#f7f7f7", "#0072B2"], clamp=True)
    base = alt.Chart().encode(
        x=alt.X("pair:N", sort=pairs, title=None, axis=alt.Axis(labelAngle=-90, orient="bottom", grid=False)),
        y=alt.Y("shown:N", sort=methods, title=None, axis=alt.Axis(grid=False)),
        tooltip=[
            alt.Tooltip("method:N", title="Method"),
            alt.Tooltip("setting:N", title="Setting"),
            alt.Tooltip("task:N", title="Task"),
            alt.Tooltip("weak:N", title="Supervisor"),
            alt.Tooltip("strong:N", title="Student"),
            alt.Tooltip("text:N", title=what),
            alt.Tooltip("why:N", title="PGR undefined"),
        ],
    )
    end = max(abs(e) for e in ends)
    ink = alt.condition(f"abs(datum.colour) > {0.6 * end}", alt.value("white"), alt.value("#222"))
    text = base.encode(text="label:N", color=ink)
    layers = [
        base.transform_filter("isValid(datum.colour)")
        .mark_rect(stroke="white", strokeWidth=1, aria=False)
        .encode(color=alt.Color("colour:Q", scale=scale, title=what)),
        # A missing number is no number of the scale: grey, never the colour of zero.
        base.transform_filter("!isValid(datum.colour)").mark_rect(
            stroke="white", strokeWidth=1, color="#d4d4d4", aria=False
        ),
        text.transform_filter("datum.strength !== 'bold'").mark_text(fontSize=11, aria=False),
        text.transform_filter("datum.strength === 'bold'").mark_text(fontSize=11, fontWeight="bold", aria=False),
    ]
    layered = alt.layer(*layers, data=_inline(values)).properties(
        width=alt.Step(46),
        height=alt.Step(19),  # room for −12.3
    )
    header = alt.Header(labelExpr="split(datum.label, ' · ')", labelLimit=46 * len(pairs), labelFontSize=12)
    facet = alt.Facet("panel:N", title=None, sort=panels, header=header)
    wrapped = layered.facet(facet=facet, columns=max(1, _HEAT_COLUMNS // len(pairs)), spacing=6)
    return _finished(wrapped.resolve_scale(x="independent"), title, about)


def _once(values: Sequence[TableRow], *fields: str) -> list[TableRow]:
    return list({tuple(v[f] for f in fields): v for v in reversed(values)}.values())[::-1]


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
    """The point within the axis; ``beyond`` tells the number of one that lies outside, ``cut`` if any of it does."""
    low = -math.inf if point["low"] is None else point["low"]
    high = math.inf if point["high"] is None else point["high"]
    shown = min(max(point["value"], bottom), top)
    beyond = f"{point['value']:.1f}".replace("-", "−") if shown != point["value"] else None
    cut = low < bottom or high > top
    return {**point, "value": shown, "low": max(low, bottom), "high": min(high, top), "beyond": beyond, "cut": cut}


def _pgr_notes(points: Sequence[TableRow], num_undefined: int, bottom: float, top: float) -> list[str]:
    notes = ["Grey level lines: 0 is the supervisor, 1 the ceiling. Bars: 95 % intervals."]
    if cut := sum(p["cut"] for p in points):
        where = f"{bottom:.1f} and {top:.1f}".replace("-", "−")
        notes.append(f"{cut} interval{'s reach' if cut > 1 else ' reaches'} beyond the axis, which ends at {where}.")
    if beyond := sum(p["beyond"] is not None for p in points):
        notes.append(f"{beyond} point{'s lie' if beyond > 1 else ' lies'} beyond it: at its edge, with the number.")
    if num_undefined:
        notes.append(f"Hollow crosses: PGR undefined ({num_undefined}): no ceiling credibly above the supervisor.")
    return notes


# ---- encodings


@dataclass(frozen=True, kw_only=True)
class _Look:
    """The encodings that all figures by student share, so that they read alike."""

    x: "alt.X"
    offset: "alt.XOffset"
    colour: "alt.Color"
    shape: "alt.Shape"
    dash: "alt.StrokeDash"


def _look(rows: Sequence[TableRow], ceiling: bool, width: int | None = None) -> _Look:
    import altair as alt

    supervisors = list(dict.fromkeys(r["supervisor"] for r in rows))
    students = list(dict.fromkeys(r["student"] for r in sorted(rows, key=lambda r: r["rank"])))
    methods = sorted({r["method"] for r in rows}, key=_strategy_order)
    series = list(dict.fromkeys(f"{r['supervisor']}, {r['method']}" for r in rows)) + [CEILING] * ceiling
    colours = [_COLOURS[i % len(_COLOURS)] for i in range(len(supervisors))] + ["#000000"] * ceiling
    others = [m for m in methods if m not in _STYLES]
    styles = {**_STYLES, **{m: _MORE_STYLES[i % len(_MORE_STYLES)] for i, m in enumerate(others)}}
    dashes = alt.Scale(domain=methods, range=[list(styles[m][1]) for m in methods])
    shapes = alt.Scale(domain=methods, range=[styles[m][0] for m in methods])
    legend = alt.Legend(symbolFillColor="#444", symbolStrokeWidth=0)
    crowded = len(students) * max((7 * len(s) for s in students), default=0) > (width or _width(rows))
    axis = alt.Axis(labelAngle=-30 if crowded else 0)
    return _Look(
        x=alt.X("student:N", sort=students, title="Student, weak to strong", axis=axis, scale=_dodge()),
        offset=alt.XOffset("series:N", scale=alt.Scale(domain=series)),
        colour=alt.Color(
            "supervisor:N", title="Supervisor", scale=alt.Scale(domain=supervisors + [CEILING] * ceiling, range=colours)
        ),
        shape=alt.Shape("method:N", title="Strategy", scale=shapes, legend=legend),
        dash=alt.StrokeDash("method:N", title="Strategy", scale=dashes, legend=legend),
    )


_HEIGHT = 300
_TOOLTIP = ("weak:N", "strong:N", "strategy:N")


def _of_role(role: str) -> "alt.Chart":
    import altair as alt

    return alt.Chart().transform_filter(f"datum.role === '{role}'")


def _lines(look: _Look, role: str, y: "alt.Y", what: str) -> "list[alt.Chart]":
    """Interval bars, a line and points of one role."""
    import altair as alt

    at = _of_role(role).encode(x=look.x, xOffset=look.offset, color=look.colour)
    line, point = at.encode(y=y), at.encode(y=y)
    if role == "student":
        line, point = line.encode(strokeDash=look.dash, detail="series:N"), point.encode(shape=look.shape)
    bars = at.transform_filter("isValid(datum.low) && isValid(datum.high)").encode(y="low:Q", y2="high:Q")
    tooltip = [
        alt.Tooltip("weak:N", title="Supervisor"),
        alt.Tooltip("strong:N", title="Student"),
        alt.Tooltip("strategy:N", title="Strategy"),
        alt.Tooltip("text:N", title=what),
    ]
    return [
        bars.mark_rule(strokeWidth=1.6, opacity=0.65),
        line.mark_line(strokeWidth=1.8),
        point.mark_point(filled=True, size=75, opacity=1).encode(tooltip=tooltip),
    ]


def _level(value: float) -> "alt.Chart":
    import altair as alt

    level: alt.Chart = alt.Chart().mark_rule(color="#777", strokeWidth=1).encode(y=alt.YDatum(value))
    return level


def _inline(values: Sequence[TableRow]) -> "alt.InlineData":
    import altair as alt

    return alt.InlineData(values=list(values))


def _percent() -> "alt.Axis":
    import altair as alt

    return alt.Axis(labelExpr="format(100 * datum.value, '.3~f')")


def _fixed(low: float, high: float) -> "alt.Scale":
    import altair as alt

    return alt.Scale(domain=[low, high], nice=False, zero=False)


def _dodge() -> "alt.Scale":
    import altair as alt

    return alt.Scale(paddingInner=0.25, paddingOuter=0.15)


# ---- assembly


def _width(rows: Sequence[TableRow]) -> int:
    series, students = {(r["supervisor"], r["method"]) for r in rows}, {r["student"] for r in rows}
    return min(900, max(400, len(students) * (50 + 18 * len(series))))


def _panelled(
    layers: "Sequence[alt.Chart]", values: Sequence[TableRow], rows: Sequence[TableRow], title: str, about: list[str]
) -> "Chart":
    """The layers over the values, side by side for every panel."""
    import altair as alt

    width, panels = _width(rows), _panel_names(rows)
    layered = alt.layer(*layers, data=_inline(values)).properties(width=width, height=_HEIGHT)
    if len(panels) < 2:
        return _finished(layered, title, about)
    facet = alt.Facet("panel:N", title=None, sort=panels)
    return _finished(
        layered.facet(facet, columns=2 if width <= 420 else 1).resolve_scale(x="independent", xOffset="independent"),
        title,
        about,
    )


def _finished(chart: "Chart", title: str, about: list[str]) -> "Chart":
    import altair as alt

    heading = alt.TitleParams(
        title, subtitle=about, anchor="start", fontSize=16, subtitleFontSize=12, subtitleColor="#555", offset=14
    )
    finished: Chart = (
        chart.properties(title=heading)
        .configure(background="white", font=_FONT, padding=12)
        .configure_axis(labelFontSize=12, titleFontSize=13, titleFontWeight="normal", gridColor="#e8e8e8")
        .configure_axisX(labelLimit=170, labelOverlap=False)
        .configure_axisY(labelLimit=320)
        .configure_legend(labelFontSize=12, titleFontSize=12, labelLimit=240, symbolSize=90, symbolOpacity=1)
        .configure_header(labelFontSize=13, labelLimit=600)
        .configure_view(stroke="#ccc")
    )
    return finished
