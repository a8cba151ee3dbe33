"""A board as one self-contained HTML page with its pictures and tables beside it, and as a table in the terminal."""

import hashlib
import json
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from outgrow.board import run as boards
from outgrow.board.run import LEVEL, REFERENCE, Board, BoardRow, cell_name, short_name
from outgrow.metrics import Interval
from outgrow.report import page, plots
from outgrow.report.page import counted, figure, html_table, is_current, replace_file, rerun, shell
from outgrow.report.plots import measured, tidy, tidy_cells
from outgrow.report.run import what_ran

if TYPE_CHECKING:
    import polars as pl
    import rich.console

__all__ = ["findings", "print_board", "write_board"]

_HEADS = (
    "Method",
    "Settings",
    "Verdict",
    "Median PGR",
    "PGR defined",
    "Difference to naive, points",
    "p",
    "p, Holm",
    "Wins / ties / losses",
    "Worst cell, points",
    "Trainings",
    "Cost",
)
_BLOCKS = {
    "method": "Methods, best mean difference first",
    "gold": "Beside the contest: these use gold labels of B",
    "control": "Controls, which a method must beat",
    "reference": "References, which are no students",
}
_READING = (
    "A cell is one task and one pair of supervisor and student. Difference: test accuracy less that of naive, paired "
    "by seed and test row, then the mean over cells. PGR: each student against the ceiling trained as it was, then the "
    "median over the cells where it is defined. Brackets: 95 % intervals; over cells, tasks are drawn with "
    "replacement, then pairs within them, then seeds and groups of test rows. p: two-sided sign-flip test of the mean "
    "difference, where the signs of all cells of a task flip together, because tasks are the unit. Holm: corrected for "
    "the number of methods. Better or worse is said only where the corrected p is at most 0.05 and the interval leaves "
    "out zero. A win or a loss is a cell whose own 95 % interval leaves out zero, not corrected for the number of "
    "cells. Trainings: models fitted per seed and cell, beyond the supervisor all share. Cost: seconds of "
    "the method's own steps as a multiple of naive's; probes over the same features are trained in one product and "
    "share its time equally, so there it tells relabelling and further trainings apart, not losses."
)


def write_board(
    board: Board, results: "pl.DataFrame", folder: str | Path, *, title: str, provenance: Mapping[str, Any]
) -> Path:
    """Write ``index.html``, the heat maps (PNG, SVG), ``board.csv`` and ``cells.csv``; returns the page's path.

    Nothing is written where the page already shows the same board.

    Args:
        board: as :func:`outgrow.board.run.run_board` gives it.
        results: the rows of :func:`outgrow.results.table_of` behind it.
        folder: made if need be.
        title: of the page.
        provenance: see :func:`outgrow.report.run.write_report`.
    """
    folder = Path(folder)
    written = folder / "index.html"
    cells = board.cell_table()
    inputs = _fingerprint(board, cells, title, provenance)
    if is_current(written, inputs):
        return written
    folder.mkdir(parents=True, exist_ok=True)
    written.unlink(missing_ok=True)  # written last: the sign that all files are this board's
    figures = {}
    for name, chart in (("difference", plots.heat_map(cells)), ("pgr", plots.heat_map_pgr(cells))):
        spec, svg, png = plots.render(chart)
        (folder / f"{name}.svg").write_text(svg, encoding="utf-8")
        (folder / f"{name}.png").write_bytes(png)
        figures[name] = figure(name, spec, svg)
    board.table().write_csv(folder / "board.csv")
    cells.write_csv(folder / "cells.csv")
    replace_file(written, shell(title, _body(board, cells, results, figures, title, provenance), inputs))
    return written


def findings(board: Board) -> list[str]:
    """The outcome in words, counted from the board."""
    better, worse = ([short_name(r.method) for r in board.rows if r.verdict == v] for v in ("better", "worse"))
    said = [
        f"Better than naive: {', '.join(better)}." if better else "No method is shown to be better than naive.",
        f"Worse than naive: {', '.join(worse)}." if worse else "",
    ]
    num = len(board.tasks)
    if board.compared and board.least_p * board.compared > LEVEL:
        said.append(
            f"With {counted(num, 'task')} this test cannot give a p below {board.least_p:.2g}, and "
            f"corrected for {counted(board.compared, 'method')} that is above {LEVEL}: at least {board.tasks_needed} "
            "tasks are needed before even a method that wins on every one could be called better."
        )
    return [s for s in said if s]


def notes(board: Board) -> list[str]:
    """What the numbers rest on, and what is missing."""
    rows = {row.method: row for row in board.rows}
    plain = rows.get(REFERENCE)
    said = [
        f"{counted(board.compared, 'method')} against naive in {counted(len(board.cells), 'cell')} of "
        f"{counted(len(board.tasks), 'task')}, {counted(board.seeds, 'seed')} each."
    ]
    if board.tuned:
        fixed = [short_name(r.method) for r in board.rows if r.settings == 1 and r.p is not None]
        said.append(
            "Hyperparameters: chosen for each cell among the settings counted in the table, by agreement with weak "
            f"validation labels (B_val), never gold. Fixed for want of a grid: {', '.join(fixed) or 'none'}."
        )
    else:
        said.append("Hyperparameters: fixed in advance at their documented defaults; nothing was tuned.")
    if plain and plain.pgr_cells < plain.cells:
        said.append(f"PGR of naive is undefined in {plain.cells - plain.pgr_cells} of {plain.cells} cells.")
    if failed := [short_name(row.method) for row in board.rows if row.missing]:
        said.append(f"Failed in some cells, and judged by the others: {', '.join(failed)}.")
    said += [f"Left out: {short_name(method)} ({reason})." for method, reason in board.left_out.items()]
    return said


def print_board(board: Board, console: "rich.console.Console") -> None:
    """The board in the terminal."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 1), header_style="bold")
    table.add_column("method", overflow="fold", max_width=34)
    for head in ("PGR, median", "of", "to naive, points", "p", "Holm", "w/t/l", "worst", "cost", "verdict"):
        table.add_column(head, no_wrap=True, justify="left" if head == "verdict" else "right")
    for kind in _BLOCKS:
        for row in (r for r in board.rows if r.kind == kind):
            name = short_name(row.method) + {"gold": " (gold of B)", "control": " (control)"}.get(row.kind, "")
            worst = _points(row.worst_difference, brackets=False)
            numbers = [_ratio(row.pgr), f"{row.pgr_cells}/{row.cells}", _points(row.difference)]
            numbers += [_p(row.p), _p(row.p_holm), f"{row.wins}/{row.ties}/{row.losses}", worst, _cost(row)]
            table.add_row(*(Text(n) for n in (name, *numbers, row.verdict)), style="" if kind == "method" else "dim")
    console.print(table)
    for note in [*findings(board), *notes(board)]:
        console.print(Text(note, style="dim"))


# ---- the page


def _body(
    board: Board,
    cells: "pl.DataFrame",
    results: "pl.DataFrame",
    figures: Mapping[str, str],
    title: str,
    provenance: Mapping[str, Any],
) -> str:
    listed = "".join(f"<li>{escape(note)}</li>" for note in notes(board))
    warnings = f'<ul class="warnings"><li>{escape(str(board.failure))}</li></ul>' if board.failure else ""
    names = {r["method"]: r["shown"] for r in tidy_cells(cells)}
    blocks = "".join(_block(board, kind, names) for kind in _BLOCKS)
    details = "".join(_detail(panel, cells) for panel in dict.fromkeys(r["panel"] for r in tidy_cells(cells)))
    return f"""<h1>{escape(title)}</h1>
<p class="headline">{escape(" ".join(findings(board)))}</p>
{warnings}
<ul>{listed}</ul>
{figures["difference"]}
<h2>Scoreboard</h2>
{blocks}
<p class="note">{_READING}</p>
<p class="note"><a href="board.csv">board.csv</a> holds this table, <a href="cells.csv">cells.csv</a> every cell.</p>
<h2>Gap recovered</h2>
{figures["pgr"]}
<h2>Task by task</h2>
{details}
<h2>What ran</h2>
{what_ran(tidy(results), provenance)}
<h2>Run it again</h2>
{rerun(provenance)}"""


def _block(board: Board, kind: str, names: Mapping[str, str]) -> str:
    rows = [row for row in board.rows if row.kind == kind]
    return html_table(_BLOCKS[kind], _HEADS, "".join(_line(row, names[row.method]) for row in rows)) if rows else ""


def _line(row: BoardRow, name: str) -> str:
    settings = "–" if row.trainings is None else "fixed" if row.settings == 1 else f"best of {row.settings}"
    defined = f"{row.pgr_cells} of {row.cells}" + (f", {row.missing} failed" if row.missing else "")
    worst = ""
    if row.worst and row.worst_difference:
        value = escape(_points(row.worst_difference, brackets=False))
        worst = f'<abbr title="{escape(cell_name(row.worst))}">{value}</abbr>'
    verdict = f"<strong>{row.verdict}</strong>" if row.verdict in ("better", "worse") else row.verdict
    numbers = [_ratio(row.pgr), defined, _points(row.difference), _p(row.p), _p(row.p_holm)]
    numbers += [f"{row.wins} / {row.ties} / {row.losses}"]
    trainings = "–" if row.trainings is None else f"{row.trainings:.3g}"
    shown = [*map(escape, numbers), worst, trainings, _cost(row)]
    names = f"{_named(row.method, name)}<td>{settings}</td><td>{verdict}</td>"
    cells = "".join(f'<td class="number">{cell}</td>' for cell in shown)
    return f"<tr>{names}{cells}</tr>\n"


def _named(method: str, shown: str) -> str:
    return f'<td><span title="{escape(method)}">{escape(shown)}</span></td>'


def _detail(panel: str, cells: "pl.DataFrame") -> str:
    """Every method in every pair of one task, folded away."""
    rows = [r for r in tidy_cells(cells) if r["panel"] == panel]
    pairs = list(dict.fromkeys(r["pair"] for r in rows))
    found = {(r["method"], r["pair"]): r for r in rows}
    heads = ["Method", *(f"{escape(p)}: {what}" for p in pairs for what in ("difference, points", "PGR"))]
    body = ""
    for method in dict.fromkeys(r["method"] for r in rows):
        own = [found[method, pair] for pair in pairs]
        numbers = "".join(_detailed(r) for r in own)
        body += f"<tr>{_named(method, own[0]['shown'])}{numbers}</tr>\n"
    table = html_table("Bold: the interval leaves out zero.", heads, body, names=1)
    return f"<details><summary>{escape(panel)}</summary>{table}</details>\n"


def _detailed(row: Mapping[str, Any]) -> str:
    if row["status"] == "failed":
        return '<td class="number">failed</td><td class="number">failed</td>'
    difference, pgr = escape(measured(dict(row), "difference", percent=True)), escape(measured(dict(row), "pgr"))
    if row["outcome"] in ("win", "loss"):
        difference = f"<strong>{difference}</strong>"
    if row["pgr"] is None:
        pgr = f'<abbr title="{escape(row["pgr_undefined"])}">undefined</abbr>'
    chosen = f' title="{escape(row["setting"])}"' if row["setting"] != row["method"] else ""
    return f'<td class="number"{chosen}>{difference}</td><td class="number">{pgr}</td>'


# ---- numbers as text


def _points(value: Interval | None, brackets: bool = True) -> str:
    if value is None:
        return "none"
    middle, low, high = (f"{100 * v:+.1f}" if abs(v) >= 0.0005 else "0.0" for v in value)
    return (f"{middle} [{low}, {high}]" if brackets else middle).replace("-", "−")


def _ratio(value: Interval | None) -> str:
    if value is None:
        return "undefined"
    return f"{value.value:.2f} [{value.low:.2f}, {value.high:.2f}]".replace("-", "−").replace("inf", "∞")


def _p(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.3f}" if value >= 0.001 else f"{value:.1g}"


def _cost(row: BoardRow) -> str:
    return "–" if row.cost is None else f"{row.cost:.3g}×"


def _fingerprint(board: Board, cells: "pl.DataFrame", title: str, provenance: Mapping[str, Any]) -> str:
    """Changes if and only if the page would: numbers, notes, what made them, and the code that draws it."""
    kept = {k: v for k, v in provenance.items() if k not in ("seconds", "steps_run", "steps_reused")}
    said = [*findings(board), *notes(board), str(board.failure)]
    inputs = json.dumps([title, kept, said, board.table().to_dicts(), cells.to_dicts()], default=str)
    modules = (__file__, boards.__file__, page.__file__, plots.__file__)
    code = [Path(module).read_bytes() for module in modules]
    return hashlib.sha256(b"\0".join([inputs.encode(), *code])).hexdigest()
