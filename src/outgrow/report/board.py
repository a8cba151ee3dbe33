"""A board as one self-contained HTML page with its pictures and tables beside it, and as a table in the terminal."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from outgrow.board.methods import REFERENCE, short_name
from outgrow.board.summary import LEVEL, Board, BoardRow, cell_name
from outgrow.metrics import Interval
from outgrow.report import figures, page, plots
from outgrow.report.provenance import what_ran
from outgrow.report.rows import counted, tidy, tidy_cells, with_interval
from outgrow.report.terminal import WIDE, Column, Line, show_table, show_text

if TYPE_CHECKING:
    import polars as pl
    import rich.console

__all__ = ["findings", "notes", "print_board", "write_board"]

_BLOCKS = {
    "method": "Methods, best mean difference first",
    "gold": "Beside the comparison: these use gold labels of B",
    "control": "Controls, which a method must beat",
    "reference": "References, which are no students",
}


def write_board(
    board: Board, results: "pl.DataFrame", folder: str | Path, *, title: str, provenance: Mapping[str, Any]
) -> Path:
    """Write ``index.html``, the heat maps (PNG, SVG), ``board.csv`` and ``cells.csv``; returns the page's path.

    Nothing is written if the page already shows the same board.

    Args:
        board: as :func:`outgrow.board.run.run_board` gives it.
        results: the rows of :func:`outgrow.results.table_of` behind it.
        folder: made if need be.
        title: of the page.
        provenance: see :func:`outgrow.report.run.write_report`.
    """
    written = Path(folder) / "index.html"
    table, cells = board.table(), board.cell_table()
    said = findings(board), notes(board), str(board.failure)
    inputs = page.fingerprint(provenance, title, said, table.to_dicts(), cells.to_dicts())
    if page.is_current(written, inputs):
        return written
    written.parent.mkdir(parents=True, exist_ok=True)
    written.unlink(missing_ok=True)  # written last: the sign that all files are this board's
    table.write_csv(written.parent / "board.csv")
    cells.write_csv(written.parent / "cells.csv")
    charts = {"difference": plots.heat_map(cells), "pgr": plots.heat_map_pgr(cells)}
    blocks = {caption: [_texts(r) for r in board.rows if r.kind == kind] for kind, caption in _BLOCKS.items()}
    shown = tidy_cells(cells)
    return page.write_page(
        written,
        "board.html",
        inputs,
        title=title,
        findings=findings(board),
        warnings=[str(board.failure)] if board.failure else [],
        notes=notes(board),
        pictures={name: figures.write_picture(name, chart, written.parent) for name, chart in charts.items()},
        blocks={caption: rows for caption, rows in blocks.items() if rows},
        names={r["method"]: r["shown"] for r in shown},
        cells=shown,
        facts=what_ran(tidy(results), provenance),
        provenance=provenance,
    )


def findings(board: Board) -> list[str]:
    """The outcome in words, counted from the board."""
    better, worse = ([short_name(r.method) for r in board.rows if r.verdict == v] for v in ("better", "worse"))
    said = [f"Better than naive: {', '.join(better)}." if better else "No method is shown to be better than naive."]
    if worse:
        said.append(f"Worse than naive: {', '.join(worse)}.")
    if board.compared and board.least_p * board.compared > LEVEL:
        said.append(
            f"With {counted(len(board.tasks), 'task')} this test cannot give a p below {board.least_p:.2g}. Corrected "
            f"for {counted(board.compared, 'method')}, that is above {LEVEL}: you need at least {board.tasks_needed} "
            "tasks before even a method that wins on every one could be called better."
        )
    return said


def notes(board: Board) -> list[str]:
    """What the numbers rest on, and what is missing."""
    said = [
        f"{counted(board.compared, 'method')} against naive in {counted(len(board.cells), 'cell')} of "
        f"{counted(len(board.tasks), 'task')}, {counted(board.seeds, 'seed')} each."
    ]
    if board.tuned:
        fixed = [short_name(r.method) for r in board.rows if r.settings == 1 and r.p is not None]
        said.append(
            "Hyperparameters: chosen for each cell among the settings counted in the table, by agreement with weak "
            f"validation labels (B_val), never gold. Fixed, as they have no grid: {', '.join(fixed) or 'none'}."
        )
    else:
        said.append("Hyperparameters: fixed in advance at their documented defaults; nothing was tuned.")
    plain = next((row for row in board.rows if row.method == REFERENCE), None)
    if plain and plain.pgr_cells < plain.cells:
        said.append(f"PGR of naive is undefined in {plain.cells - plain.pgr_cells} of {plain.cells} cells.")
    if failed := [short_name(row.method) for row in board.rows if row.missing]:
        said.append(f"Failed in some cells and judged by the others: {', '.join(failed)}.")
    return said + [f"Skipped: {short_name(method)} ({reason})." for method, reason in board.skipped.items()]


def print_board(board: Board, console: "rich.console.Console") -> None:
    """The board in the terminal, and the findings below it. Every method is whole."""
    columns = {
        "method": Column("method", title=True),
        "pgr": Column("PGR, median", number=True),
        "defined": Column("defined", number=True),
        "difference": Column("to naive", "points", number=True),
        "p": Column("p", number=True),
        "p_holm": Column("Holm", number=True),
        "outcomes": Column("won/tied/lost", number=True),
        "worst": Column("worst", number=True),
        "cost": Column("cost", number=True),
        "verdict": Column("verdict"),
    }
    lines = []
    for kind in _BLOCKS:
        for row in (r for r in board.rows if r.kind == kind):
            method = short_name(row.method) + {"gold": " (gold of B)", "control": " (control)"}.get(row.kind, "")
            texts = {**_texts(row), "method": method}
            lines.append(Line([texts[name] for name in columns], "" if kind == "method" else "dim"))
    show_table(console, list(columns.values()), lines, least=WIDE)
    for finding in findings(board):
        show_text(console, finding, "bold")
    for note in notes(board):
        show_text(console, note, "dim", hanging=2)


def _texts(row: BoardRow) -> dict[str, str]:
    """The numbers of a row as text."""
    fixed = "fixed" if row.settings == 1 else f"best of {row.settings}"
    return {
        "method": row.method,
        "settings": "–" if row.trainings is None else fixed,
        "verdict": row.verdict,
        "pgr": with_interval(*row.pgr) if row.pgr else "undefined",
        "defined": f"{row.pgr_cells} of {row.cells}" + (f", {row.missing} failed" if row.missing else ""),
        "difference": _points(row.difference),
        "p": _p(row.p),
        "p_holm": _p(row.p_holm),
        "outcomes": f"{row.wins}/{row.ties}/{row.losses}",
        "worst": _points(row.worst_difference).partition(" ")[0],
        "worst_cell": cell_name(row.worst) if row.worst else "",
        "trainings": "–" if row.trainings is None else f"{row.trainings:.3g}",
        "cost": "–" if row.cost is None else f"{row.cost:.3g}×",
    }


def _points(value: Interval | None) -> str:
    return "none" if value is None else with_interval(*value, form="+.1f", scale=100)


def _p(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.3f}" if value >= 0.001 else f"{value:.1g}"
