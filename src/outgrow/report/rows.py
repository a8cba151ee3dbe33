"""Rows of a table of results, ready to be shown: short names, panels, an order, and numbers as text."""

import math
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from outgrow.models.packaged import PACKAGED

if TYPE_CHECKING:
    import polars as pl

__all__ = [
    "TableRow",
    "TextTable",
    "as_text",
    "cell_text",
    "grouped",
    "measured",
    "number",
    "strategy_order",
    "tidy",
    "tidy_cells",
    "with_interval",
]

TableRow: TypeAlias = dict[str, Any]

_SETTING = (
    *(
        "task",
        "train",
        "weak_train",
        "validate_with",
        "supervisor_rows",
        "transfer_rows",
        "test_rows",
        "validation",
        "balance",
    ),
    "num_seeds",
    "sealed",
)
"""Rows are compared with each other only if they agree in all of these."""
_OFF = ("validate_with", "sealed")
"""Settings that nothing stands for where there is none."""
_IS_LOW = re.compile("over_(.*)_low")


def tidy(table: "pl.DataFrame", *, whole: bool = False) -> list[TableRow]:
    """The rows of :func:`outgrow.results`, weak supervisors and students first.

    Each row gains ``supervisor``, ``student`` and ``method``, which are short and distinct names of ``weak``,
    ``strong`` and ``strategy``; ``panel``, which names task, trainer and any other setting that differs between rows;
    with ``whole``, names are as they are spelled, so that they can be typed;
    ``rank``, which orders students; and ``not_above``, the names of the controls that a student is not shown to be
    above: the 95 % interval of its paired difference to them does not lie above zero.
    """
    rows: list[TableRow] = table.to_dicts()
    weak, strong = _ranks(rows, "weak", "weak_accuracy"), _ranks(rows, "strong", "ceiling_accuracy")
    strategies = sorted({r["strategy"] for r in rows}, key=strategy_order)
    short = _as_spelled if whole else _short_names
    models, methods = short({r[k] for r in rows for k in ("weak", "strong")}), short(strategies)
    panels = _panels(rows, whole)
    rows.sort(key=lambda r: (weak[r["weak"]], strong[r["strong"]], r["control"], strategies.index(r["strategy"])))
    return [
        {
            **row,
            "supervisor": models[row["weak"]],
            "student": models[row["strong"]],
            "method": methods[row["strategy"]],
            "panel": panels[_setting(row)],
            "rank": strong[row["strong"]],
            "not_above": [] if row["control"] else _not_above(row),
        }
        for row in rows
    ]


def _not_above(row: TableRow) -> list[str]:
    lows = {match[1]: low for name, low in row.items() if (match := _IS_LOW.fullmatch(name)) and low is not None}
    return ["majority class" if name == "majority" else name for name, low in lows.items() if low <= 0]


def tidy_cells(cells: "pl.DataFrame") -> list[TableRow]:
    """The rows of :meth:`outgrow.board.summary.Board.cell_table`. Each row gains ``pair``, which names supervisor and
    student, and ``panel``, which names the task and, if there are several, the trainer; ``shown`` is made short."""
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
    """The number ``name`` of a row with its 95 % interval; no number is "undefined"."""
    if row[name] is None:
        return "undefined"
    sign = "+" if name in ("gain", "balanced_gain", "gap", "difference") else ""
    numbers = (row[name], row[f"{name}_low"], row[f"{name}_high"])
    return with_interval(*numbers, form=f"{sign}.1f" if percent else f"{sign}.2f", scale=100 if percent else 1)


def with_interval(value: float, low: float | None, high: float | None, form: str = ".2f", scale: float = 1) -> str:
    """``0.33 [0.11, 0.55]``; an end without a bound, which is None or infinite, is ∞."""
    ends = (-math.inf if low is None else low, math.inf if high is None else high)
    middle, start, stop = (number(scale * v, form) for v in (value, *ends))
    return f"{middle} [{start}, {stop}]"


def number(value: float, form: str = ".2f") -> str:
    """A number as text, with a true minus sign. Zero has no sign; +0.0 is a little above it."""
    text = format(value, form) if value else format(0.0, form.lstrip("+"))
    return text.replace("-", "−").replace("+inf", "∞").replace("inf", "∞")


def grouped(rows: Iterable[TableRow], *fields: str) -> dict[Any, list[TableRow]]:
    """The rows by their value of one field, or their values of several, in the order of first appearance."""
    groups: dict[Any, list[TableRow]] = {}
    for row in rows:
        key = tuple(row[field] for field in fields)
        groups.setdefault(key if len(fields) > 1 else key[0], []).append(row)
    return groups


class TextTable(NamedTuple):
    """A table as text."""

    heads: list[tuple[str, bool]]
    """Name of each column, and whether it holds numbers."""
    rows: list[list[str]]


def as_text(frame: "pl.DataFrame") -> TextTable:
    """Any data frame as text; a column ``x`` with ``x_low`` and ``x_high`` beside it becomes one, with intervals."""
    bounds = {f"{name}{end}" for name in frame.columns for end in ("_low", "_high")}
    names = [name for name in frame.columns if name not in bounds]
    heads = [(name.replace("_", " ").replace("pgr", "PGR"), frame.schema[name].is_numeric()) for name in names]
    return TextTable(heads, [[cell_text(row, name) for name in names] for row in frame.to_dicts()])


def cell_text(row: TableRow, name: str) -> str:
    """The number or text ``name`` of a row, with its interval if it has one; nothing is –."""
    value, low, high = row[name], row.get(f"{name}_low"), row.get(f"{name}_high")
    plain = low is None and high is None
    if value is None or (plain and not isinstance(value, float)):
        return "–" if value is None else str(value)
    form = ".3f" if abs(value) < 1000 else ",.0f"
    return number(value, form) if plain else with_interval(value, low, high, form)


def strategy_order(name: str) -> tuple[bool, bool, str]:
    """A key that sorts ``naive`` first, then ``confidence``, then the others by name."""
    return name != "naive", name != "confidence", name


def _ranks(rows: Sequence[TableRow], field: str, by: str) -> dict[str, float]:
    """The rank of each model: its place on the packaged ladder if all are packaged, else its mean accuracy."""
    models = {r[field] for r in rows}
    if models <= set(PACKAGED):
        return {m: float(list(PACKAGED).index(m)) for m in models}
    ranks = {}
    for model in models:
        own = [r for r in rows if r[field] == model]
        values = [r[by] for r in own if r[by] is not None] or [r["student_accuracy"] or 0.0 for r in own]
        ranks[model] = sum(values) / len(values)
    return ranks


def _short_names(names: Iterable[str]) -> dict[str, str]:
    """Short, distinct names: the last part of a path or hub id, as much as fits."""
    names = sorted(names)
    plain = {n: _abridged(re.sub(r"(?:hf:)?[^\s'\"=(@]*/([^/\s'\"@]+)(?:@\w+)?", r"\1", n)) for n in names}
    taken = list(plain.values())
    clashing = [n for n in names if taken.count(plain[n]) > 1]
    return {n: f"{plain[n]} #{clashing.index(n) + 1}" if n in clashing else plain[n] for n in names}


def _as_spelled(names: Iterable[str]) -> dict[str, str]:
    return {name: name for name in names}


def _task_names(tasks: Iterable[str]) -> dict[str, str]:
    """Names without arguments, where these suffice to tell the tasks apart."""
    tasks = set(tasks)
    bare = [t.partition("(")[0] for t in tasks]
    short = _short_names(tasks)
    return {t: name if bare.count(name := t.partition("(")[0]) == 1 and name != "table" else short[t] for t in tasks}


def _abridged(text: str, most: int = 26) -> str:
    return text if len(text) <= most else f"{text[: most // 2 + 2]}…{text[-(most // 2 - 3) :]}"


def _setting(row: TableRow) -> tuple[Any, ...]:
    return tuple(row[name] for name in _SETTING)


def _panels(rows: Sequence[TableRow], whole: bool) -> dict[tuple[Any, ...], str]:
    """A name for every setting: task, trainer, and the other fields that differ between settings."""
    settings = sorted({_setting(r) for r in rows}, key=repr)
    spelled, trained = {s[0] for s in settings}, {t for s in settings for t in s[1:3]}
    tasks, trainers = (
        (_as_spelled(spelled), _as_spelled(trained)) if whole else (_task_names(spelled), _short_names(trained))
    )
    differing = [i for i in range(3, len(_SETTING)) if len({s[i] for s in settings}) > 1]
    panels = {}
    for setting in settings:
        parts = [tasks[setting[0]], trainers[setting[1]]]
        if setting[2] != setting[1]:
            parts.append(f"supervisor {trainers[setting[2]]}")
        told = [i for i in differing if setting[i] is not None or _SETTING[i] not in _OFF]
        parts += [f"{_SETTING[i].replace('num_', '').replace('_', ' ')} {_value(setting[i])}" for i in told]
        panels[setting] = " · ".join(parts)
    return panels


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return "default" if value is None else str(value)
