"""The analyses of the pages, one function each: from a table of runs to another table."""

import statistics
from typing import TYPE_CHECKING

from outgrow.report.figures import analysis
from outgrow.report.rows import grouped, tidy

if TYPE_CHECKING:
    import polars as pl

__all__ = ["controls", "strategies"]


@analysis("strategies")
def strategies(table: "pl.DataFrame") -> "pl.DataFrame | None":
    """One row per strategy over its comparisons: how many gains have a 95 % interval above or below zero (not corrected
    for their number), and median, lowest and highest PGR where it is defined."""
    import polars as pl

    rows = []
    for strategy, own in grouped((r for r in tidy(table) if not r["control"]), "strategy").items():
        defined = [r["pgr"] for r in own if r["pgr"] is not None]
        rows.append(
            {
                "strategy": strategy,
                "comparisons": len(own),
                "gains_above_zero": sum(r["gain_low"] > 0 for r in own),
                "gains_below_zero": sum(r["gain_high"] < 0 for r in own),
                "pgr_defined": len(defined),
                "median_pgr": statistics.median(defined) if defined else None,
                "lowest_pgr": min(defined, default=None),
                "highest_pgr": max(defined, default=None),
            }
        )
    return pl.DataFrame(rows, infer_schema_length=None) if len(rows) > 1 else None


@analysis("controls")
def controls(table: "pl.DataFrame") -> "pl.DataFrame":
    """One row per control of each pair: its accuracy with its 95 % interval (the majority class has none), and the
    strategies whose students' interval does not lie above that of the control."""
    import polars as pl

    made = []
    pairs = grouped(tidy(table), "panel", "supervisor", "student")
    for (panel, supervisor, student), own in sorted(pairs.items(), key=lambda item: item[0][0]):
        numbers = ("student_accuracy", "student_accuracy_low", "student_accuracy_high")
        found = [(r["method"], *(r[name] for name in numbers)) for r in own if r["control"]]
        for control, accuracy, low, high in [*found, ("majority class", own[0]["majority"], None, None)]:
            row = {"setting": panel, "supervisor": supervisor, "student": student, "control": control}
            row |= {"accuracy": accuracy, "accuracy_low": low, "accuracy_high": high}
            row["students_not_above"] = ", ".join(r["method"] for r in own if control in r["not_above"])
            made.append(row)
    return pl.DataFrame(made, infer_schema_length=None)
