"""A board as one self-contained HTML page with its pictures and tables beside it, and as a table in the terminal."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from outgrow.board.methods import REFERENCE, short_name
from outgrow.board.sealed import Opening
from outgrow.board.summary import LEVEL, Board, BoardRow, cell_name
from outgrow.engine.store import Store
from outgrow.errors import counted
from outgrow.report import figures, page, plots
from outgrow.report.provenance import what_ran
from outgrow.report.rows import tidy, tidy_cells, with_interval
from outgrow.report.scored import how_often_scored
from outgrow.report.terminal import WIDE, Column, Line, show_table, show_text

if TYPE_CHECKING:
    import polars as pl
    import rich.console

__all__ = ["findings", "notes", "print_board", "print_opening", "write_board"]

_BLOCKS = {
    "method": "Methods, best mean difference first",
    "gold": "Beside the comparison: these use gold labels of B",
    "control": "Controls, which a method must beat",
    "reference": "References, which are no students",
}
_MARKS = {"gold": " (gold of B)", "control": " (control)", "primary": " (primary)"}


def write_board(
    board: Board,
    results: "pl.DataFrame | None",
    folder: str | Path,
    *,
    title: str,
    provenance: Mapping[str, Any],
    facts: Mapping[str, str] | None = None,
) -> Path:
    """Write ``index.html``, the heat maps (PNG, SVG), ``board.csv`` and ``cells.csv``; returns the page's path.

    Nothing is written if the page already shows the same board.

    Args:
        board: as :func:`outgrow.board.run.run_board` gives it.
        results: the rows of :func:`outgrow.results.table_of` behind it; None if they are gone.
        folder: made if need be.
        title: of the page.
        provenance: see :func:`outgrow.report.run.write_report`.
        facts: what ran, fact by fact, where there are no ``results`` to tell it.
    """
    written = Path(folder) / "index.html"
    table, cells = board.table(), board.cell_table()
    said = findings(board), notes(board), str(board.failure)
    inputs = page.fingerprint(provenance, title, said, facts, table.to_dicts(), cells.to_dicts())
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
        facts=dict(facts or {}) if results is None else what_ran(tidy(results), provenance),
        provenance=provenance,
    )


def findings(board: Board) -> list[str]:
    """The outcome in words, counted from the board."""
    said = []
    for which, rows in _families(board).items():
        found = {v: [short_name(r.method) for r in rows if r.verdict == v] for v in ("better", "worse")}
        for verdict, names in found.items():
            if names:
                said.append(f"{verdict.capitalize()} than naive on tasks like these{which}: {', '.join(names)}.")
        if not found["better"]:
            said.append(f"No method is shown to be better than naive on tasks like these{which}.")
    said += _on_these_tasks(board)
    if board.compared and board.least_p * max(len(board.primary), 1) > LEVEL:
        corrected = f", corrected for {len(board.primary)} primary methods," if len(board.primary) > 1 else ""
        said.append(
            f"With {counted(len(board.tasks), 'task')} this test cannot give a p below {board.least_p:.2g}; that"
            f"{corrected} is too large for any verdict. You need at least {board.tasks_needed} tasks before a method "
            "that wins on every one could be called better."
        )
    return said


def _families(board: Board) -> dict[str, list[BoardRow]]:
    """The methods that are corrected for each other, by what to call them; nothing where there is only one family."""
    tested = [row for row in board.rows if row.p is not None]
    if not board.primary:
        return {"": tested}
    families = {", among primary methods": board.primary, ", among the others": [r for r in tested if not r.primary]}
    return {which: rows for which, rows in families.items() if rows}


def _on_these_tasks(board: Board) -> list[str]:
    """On how many methods the intervals agree that take the tasks as given."""
    tested = [row for row in board.rows if row.p is not None and row.on_these_tasks is not None]
    if not tested:
        return []
    above, below = (
        [short_name(r.method) for r in tested if r.on_these_tasks and side * r.on_these_tasks[end] > 0]
        for side, end in ((1, 1), (-1, 2))
    )
    return [
        "On these very tasks, the 95 % interval of the mean difference lies above zero for "
        f"{_among(above, len(tested))} and below zero for {_among(below)}, not corrected for the number of methods"
        f"{'; one seed, so no variation between seeds is in it' if board.seeds == 1 else ''}."
    ]


def _among(names: list[str], total: int | None = None) -> str:
    number = f"{len(names)}" if total is None else f"{len(names)} of {counted(total, 'method')}"
    return f"{number} ({', '.join(names)})" if names else number


def notes(board: Board) -> list[str]:
    """What the numbers rest on, and what is missing."""
    others = board.compared - len(board.primary)
    families = [f"{len(board.primary)} primary (Holm's correction among them)"] if board.primary else []
    families += [f"{others} corrected by max-T over the same sign flips"] if others else []
    said = [
        f"{counted(board.compared, 'method')} against naive in {counted(len(board.cells), 'cell')} of "
        f"{counted(len(board.tasks), 'task')}, {counted(board.seeds, 'seed')} each"
        f"{': ' if families else ''}{', '.join(families)}."
    ]
    if same := [short_name(row.method) for row in board.rows if row.verdict == "same"]:
        said.append(f"Not tested, as every difference to naive is 0: {', '.join(same)}.")
    if board.tuned:
        fixed = [short_name(r.method) for r in board.rows if r.settings == 1 and r.p is not None]
        said.append(
            "Hyperparameters: chosen for each cell among the settings counted in the table, by agreement with "
            f"{f'{board.judge}, which did not teach,' if board.judge else 'weak validation labels'} on held-out rows "
            f"(B_val), never gold. Fixed, as they have no grid: {', '.join(fixed) or 'none'}."
        )
    else:
        said.append("Hyperparameters: fixed in advance at their documented defaults; nothing was tuned.")
    plain = next((row for row in board.rows if row.method == REFERENCE), None)
    if plain and plain.pgr_cells < plain.cells:
        said.append(f"PGR of naive is undefined in {plain.cells - plain.pgr_cells} of {counted(plain.cells, 'cell')}.")
    if failed := [f"{short_name(row.method)} ({row.missing})" for row in board.rows if row.missing]:
        said.append(f"Failed in some cells (their number) and judged by the others: {', '.join(failed)}.")
    said += [f"Skipped: {short_name(method)} ({reason})." for method, reason in board.skipped.items()]
    often = how_often_scored(board.tested) if board.tested else ""
    return [*said, *([f"{often[0].upper()}{often[1:]}."] if often else []), *board.remarks]


def print_board(board: Board, console: "rich.console.Console") -> None:
    """The board in the terminal, and the findings below it. Every method is whole."""
    columns = {
        "method": Column("method", title=True),
        "pgr": Column("PGR, median", number=True),
        "defined": Column("defined", number=True),
        "difference": Column("on tasks like these", "points", number=True),
        "on_these_tasks": Column("on these tasks", "points", number=True),
        "p": Column("p", number=True),
        "p_adjusted": Column("adjusted", number=True),
        "outcomes": Column("won/tied/lost", number=True),
        "worst": Column("worst", number=True),
        "cost": Column("cost", number=True),
        "verdict": Column("verdict"),
    }
    lines = []
    for kind in _BLOCKS:
        for row in (r for r in board.rows if r.kind == kind):
            method = short_name(row.method) + _MARKS.get("primary" if row.primary else row.kind, "")
            texts = {**_texts(row), "method": method}
            lines.append(Line([texts[name] for name in columns], "" if kind == "method" else "dim"))
    show_table(console, list(columns.values()), lines, least=WIDE)
    for finding in findings(board):
        show_text(console, finding, "bold")
    for note in notes(board):
        show_text(console, note, "dim", hanging=2)


def print_opening(method: str, made: Opening, store: Store, console: "rich.console.Console") -> None:
    """What a sealed test says of the method, pair by pair, and when it was named."""
    for pair, step in made.against:
        value, low, high = store.read(step)["naive"]
        difference = with_interval(value, low, high, "+.1f", 100)
        show_text(console, f"{pair}: {method} minus naive {difference} points, paired by seed and row", "bold")
    for line in made.said:
        show_text(console, line, hanging=2)


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
        "on_these_tasks": _points(row.on_these_tasks),
        "p": _p(row.p),
        "p_adjusted": _p(row.p_adjusted),
        "correction": row.correction,
        "primary": "primary" if row.primary else "",
        "outcomes": f"{row.wins}/{row.ties}/{row.losses}",
        "worst": _points(row.worst_difference).partition(" ")[0],
        "worst_cell": cell_name(row.worst) if row.worst else "",
        "trainings": "–" if row.trainings is None else f"{row.trainings:.3g}",
        "cost": "–" if row.cost is None else f"{row.cost:.3g}×",
    }


def _points(value: tuple[float, float, float] | None) -> str:
    return "none" if value is None else with_interval(*value, form="+.1f", scale=100)


def _p(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.3f}" if value >= 0.001 else f"{value:.1g}"
