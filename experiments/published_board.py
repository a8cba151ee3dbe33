"""Write docs/board again from its cells.csv, with the statistics and words of this version. Trains nothing.

    python experiments/published_board.py

The cells are those of the run of 2026-11-23, whose store is gone. What one cell says (accuracy, difference, PGR, their
intervals, seconds) stays as that run wrote it; what is said over cells is computed anew. That run kept no variance of a
difference: it is taken from the width of its two-way bootstrap interval, with infinite degrees of freedom.
"""

import html
import math
import re
from pathlib import Path
from typing import Any

import polars as pl
from PIL import Image

from outgrow.board.methods import short_name
from outgrow.board.summary import Board, Cell, Entry, summarise
from outgrow.metrics import Interval
from outgrow.report.board import write_board

FOLDER = Path(__file__).parent.parent / "docs" / "board"
RENAMED = {"(Logistic,)": "(LogisticRelabel,)", "(Refine,)": "(TwoStage,)"}
COMMAND = (
    "python experiments/methods_board.py --data-dir data --offline "
    "--accept-license topics-20news,topics-r8,topics-bbc --out outgrow-board"
)
REMARKS = (
    "Recomputed from cells.csv, not from a new run: both intervals of the mean, PGR over tasks, p, adjusted p and "
    "verdict. The numbers of single cells, with wins, ties, losses and heat maps, are those of the run of 2026-11-23, "
    "whose intervals come from a two-way bootstrap; it kept no variances, so the interval on these tasks takes them "
    "from the widths of those intervals.",
    "That run used the names Logistic and Refine for LogisticRelabel and TwoStage.",
)
SEEDS = 5


def main() -> None:
    """Read the cells, summarise them, and write the folder."""
    cells = pl.read_csv(FOLDER / "cells.csv", infer_schema_length=None)
    counted = pl.read_csv(FOLDER / "board.csv", infer_schema_length=None)
    trainings = {renamed(r["method"]): r["trainings"] for r in counted.to_dicts()}
    entries: dict[str, dict[Cell, Entry]] = {}
    kinds = {}
    for row in cells.to_dicts():
        method = renamed(row["method"])
        kinds[method] = row["kind"]
        own = entries.setdefault(method, {})
        if row["status"] == "ok":
            own[Cell(row["task"], row["weak"], row["strong"], row["train"])] = entry(row, trainings[method])
    asked = list(dict.fromkeys(Cell(*key) for key in cells.select("task", "weak", "strong", "train").rows()))
    board = Board(
        rows=summarise(entries, asked, kinds),
        entries=entries,
        cells=asked,
        kinds=kinds,
        seeds=SEEDS,
        remarks=REMARKS,
    )
    facts = what_ran((FOLDER / "index.html").read_text(encoding="utf-8"))
    title = "Methods of weak-to-strong generalization, compared"
    print(write_board(board, None, FOLDER, title=title, provenance={"command": COMMAND}, facts=facts))
    for picture in FOLDER.glob("*.png"):  # an eighth of the size, and no difference to the eye
        Image.open(picture).convert("RGB").quantize(64).save(picture, optimize=True)
    methods = [row for row in board.rows if row.kind == "method"]
    print("loses cells in most tasks:", ", ".join(short_name(r.method) for r in methods if lost(entries[r.method]) > 6))


def entry(row: dict[str, Any], trainings: float | None) -> Entry:
    """One method in one cell."""
    difference = interval(row, "difference")
    return Entry(
        accuracy=interval(row, "accuracy"),
        difference=difference,
        difference_variance=((difference.high - difference.low) / (2 * 1.959964)) ** 2,
        difference_df=math.inf,
        pgr=None if row["pgr"] is None else interval(row, "pgr"),
        pgr_undefined=row["pgr_undefined"],
        setting=renamed(row["setting"]),
        seconds=row["seconds"],
        trainings=None if trainings is None else round(trainings),
    )


def interval(row: dict[str, Any], name: str) -> Interval:
    """A number of a row; an end without a bound is empty there."""
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return Interval(row[name], -math.inf if low is None else low, math.inf if high is None else high)


def lost(own: dict[Cell, Entry]) -> int:
    """Number of tasks where the method loses a cell."""
    return len({cell.task for cell, e in own.items() if e.outcome == "loss"})


def renamed(method: str) -> str:
    """The method under its present name."""
    for old, new in RENAMED.items():
        method = method.replace(old, new)
    return method


def what_ran(page: str) -> dict[str, str]:
    """What the published page says ran."""
    listed = page.partition("<h2>What ran</h2>")[2].partition("</dl>")[0]
    found = re.findall(r"<dt>(.*?)</dt>\s*<dd>(.*?)</dd>", listed, re.DOTALL)
    return {html.unescape(what): renamed(html.unescape(text)) for what, text in found}


if __name__ == "__main__":
    main()
