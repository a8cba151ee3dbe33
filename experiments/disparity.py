"""Does iterating close the gap? What is recovered against how far the supervisor is behind, on one ladder.

    python experiments/disparity.py --accept-license topics-20news,topics-r8,topics-bbc [--data-dir FOLDER]

Naive, the confidence loss, a bootstrap chain through every model between, and the student relabelling for itself in
1, 3 and 5 rounds; tasks, ladder and seeds are those of ``board.py``, settings the defaults, fixed before the first run.
For each pair: median PGR over the tasks where it is defined, and the mean difference to naive over all tasks, with 95 %
intervals that resample tasks, seeds and test rows. Disparity is ceiling less supervisor, in points of accuracy, mean
over tasks. Writes disparity.png, disparity.svg and disparity.csv into ``--out``; numbers are in docs/log.md.
"""

import argparse
import os
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from methods_board import FOLDER, LADDER, OFFLINE

from outgrow import Grid, Runtime
from outgrow.board.run import run_board
from outgrow.engine.progress import Progress
from outgrow.experiment import open_store
from outgrow.report.figures import save
from outgrow.strategies import canonical_strategy

if TYPE_CHECKING:
    import polars as pl

NAMES = {
    "naive": "naive",
    "confidence": "confidence loss",
    "bootstrap": "bootstrap chain",
    "refine(rounds=1)": "relabelled once",
    "refine(rounds=3)": "relabelled 3 times",
    "refine(rounds=5)": "relabelled 5 times",
}
COLORS = ("#000000", "#0072b2", "#d55e00", "#c7e9c0", "#74c476", "#238b45")


def methods_of(between: tuple[str, ...]) -> dict[str, str]:
    """What to run and what the chart calls it; a chain only where a model stands between."""
    methods = dict(NAMES)
    chain = methods.pop("bootstrap")
    if between:
        methods[f"bootstrap(through={between!r})"] = chain
    return {canonical_strategy(text): shown for text, shown in methods.items()}


def table(tasks: tuple[str, ...], ladder: list[str], seeds: int, store: str | None, runtime: Runtime) -> "pl.DataFrame":
    """A row for each pair and method."""
    import polars as pl

    opened = open_store(store)
    rows: list[dict[str, Any]] = []
    for low, high in combinations(range(len(ladder)), 2):
        methods = methods_of(tuple(ladder[low + 1 : high]))
        grid = Grid(
            task=tasks,
            weak=(ladder[low],),
            strong=(ladder[high],),
            strategy=tuple(methods),
            train=("probe(max_tokens=64)",),
            seeds=seeds,
            controls=False,
        )
        with Progress() as progress:
            board = run_board(grid, opened, runtime, progress)
        if board.failure:
            raise SystemExit(str(board.failure))
        mean = {
            name: sum(e.accuracy.value for e in board.entries[name].values()) / len(board.cells)
            for name in ("supervisor", "ceiling")
        }
        for row in board.table().filter(pl.col("kind") == "method").to_dicts():
            rows.append(
                {
                    "pair": f"{ladder[low]} → {ladder[high]}",
                    "disparity": mean["ceiling"] - mean["supervisor"],
                    "strategy": methods[row["method"]],
                    "method": row["method"],
                    "tasks": row["cells"],
                    **{k: row[k] for k in row if k.startswith(("pgr", "difference"))},
                }
            )
    return pl.DataFrame(rows, infer_schema_length=None).sort("disparity", maintain_order=True)


def chart(rows: "pl.DataFrame") -> Any:
    """PGR above, the difference to naive below, against disparity; each pair's methods stand side by side."""
    import altair as alt

    known = list(NAMES.values())
    at = {pair: i for i, pair in enumerate(dict.fromkeys(rows["pair"]))}
    values = [
        {**row, "label": f"{row['pair']}, {100 * row['disparity']:.1f} points", "order": at[row["pair"]]}
        for row in rows.to_dicts()
    ]
    labels = list(dict.fromkeys(v["label"] for v in values))

    def panel(name: str, title: str, kept: list[dict[str, Any]], form: str, low: float, high: float) -> Any:
        clipped = [
            {**v, f"{name}_low": max(v[f"{name}_low"], low), f"{name}_high": min(v[f"{name}_high"], high)}
            for v in kept
            if v[name] is not None and low <= v[name] <= high
        ]
        x = alt.X(
            "label:N",
            sort=labels,
            title=None,
            axis=alt.Axis(labelAngle=0, labelLimit=300, labelExpr="split(datum.label, ', ')"),
        )
        offset = alt.XOffset("strategy:N", sort=known)
        color = alt.Color("strategy:N", sort=known, scale=alt.Scale(domain=known, range=list(COLORS)), title=None)
        scale = alt.Scale(domain=[low, high])
        base = alt.Chart(alt.InlineData(values=clipped)).encode(x=x, xOffset=offset, color=color)
        rule = base.mark_rule(strokeWidth=2).encode(
            y=alt.Y(f"{name}_low:Q", title=title, scale=scale, axis=alt.Axis(format=form)), y2=f"{name}_high:Q"
        )
        point = base.mark_point(filled=True, size=55, opacity=1).encode(y=alt.Y(f"{name}:Q", title=title, scale=scale))
        zero = alt.Chart(alt.InlineData(values=[{"y": 0}])).mark_rule(color="#999999").encode(y="y:Q")
        return (zero + rule + point).properties(width=760, height=230)

    bound = max(max(abs(v["difference_low"]), abs(v["difference_high"])) for v in values)
    compared = [v for v in values if v["strategy"] != NAMES["naive"]]
    return alt.vconcat(
        panel("pgr", "PGR, median over tasks", values, ".1f", -1.0, 1.0),
        panel("difference", "accuracy less naive's", compared, "+.0%", -bound, bound),
    ).properties(title="Supervisor → student by disparity: does iterating close the gap?")


def main() -> None:
    arguments = argparse.ArgumentParser(description="PGR against disparity.")
    arguments.add_argument("--accept-license", default="", help="tasks whose licences you accept, separated by commas")
    arguments.add_argument("--data-dir", default=os.environ.get("OUTGROW_DATA_DIR"))
    arguments.add_argument("--ladder", default=LADDER)
    arguments.add_argument("--seeds", type=int, default=5)
    arguments.add_argument("--store", default=None)
    arguments.add_argument("--out", type=Path, default=Path("outgrow-disparity"))
    options = arguments.parse_args()
    if options.data_dir:
        os.environ["OUTGROW_DATA_DIR"] = options.data_dir
    tasks = OFFLINE + (FOLDER if options.data_dir else ())
    runtime = Runtime(accept_license=frozenset(options.accept_license.split(",")) - {""})
    rows = table(tasks, options.ladder.split(","), options.seeds, options.store, runtime)
    options.out.mkdir(parents=True, exist_ok=True)
    rows.write_csv(options.out / "disparity.csv")
    for kind in ("png", "svg"):
        save(chart(rows), options.out / f"disparity.{kind}")
    for row in rows.to_dicts():
        recovered = (
            "undefined" if row["pgr"] is None else f"{row['pgr']:.2f} [{row['pgr_low']:.2f}, {row['pgr_high']:.2f}]"
        )
        points = [100 * row[f"difference{end}"] for end in ("", "_low", "_high")]
        print(
            f"{row['pair']:28} {100 * row['disparity']:5.1f} points  {row['strategy']:20} PGR {recovered:22} "
            f"({row['pgr_cells']} of {row['tasks']} tasks)  {points[0]:+.1f} [{points[1]:+.1f}, {points[2]:+.1f}]"
        )


if __name__ == "__main__":
    main()
