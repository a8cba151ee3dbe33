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
    """Gains whose interval lies above or below zero, and median PGR, strategy by strategy.

    The intervals are at 95 %, not corrected for the number of comparisons; lowest and highest PGR stand beside the
    median, all over the comparisons where it is defined. None for fewer than two strategies.
    """
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
    """Accuracy of every control of each pair, and the strategies whose students are not shown to be above it.

    A student is if the 95 % interval of its accuracy minus the control's, paired by seed and test row, lies above zero.
    The majority class is the largest share of a class in any seed's test, without an interval.
    """
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
