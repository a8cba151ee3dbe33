"""Does iterating close the gap? What is recovered against how far the supervisor is behind, on the ladder of seven.

    python experiments/disparity.py --accept-license topics-20news [--data-dir FOLDER]

Naive, the confidence loss, ``auto``, a bootstrap chain through every model between, and the student relabelling for
itself once and three times; and where a language model is the student, what it answers without any label. GloVe
supervises every other model, and every model supervises Qwen. Tasks, settings and seeds are those of
``seven_board.py``, and were fixed before the first run.

For each pair: median PGR over the tasks where it is defined, and the mean difference to naive over all tasks, with 95 %
intervals over tasks. Disparity is ceiling less supervisor, in points of accuracy, mean over tasks. Writes the chart,
``disparity.csv``, and for the widest pair ``widest.csv``, a row a task: supervisor, students, ceiling, and zero-shot.
Tasks whose supervisor is shown to be above chance are apart from those where it is not. Numbers are in docs/log.md.
"""

import argparse
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seven_board import FOLDER, PACKAGED, SETTINGS

from outgrow import Grid, Runtime
from outgrow.board.run import run_board
from outgrow.board.statistics import median_over_tasks
from outgrow.board.summary import Board
from outgrow.engine.progress import Progress
from outgrow.experiment import open_store
from outgrow.models.spec import LANGUAGE_MODELS, ladder
from outgrow.report.figures import save
from outgrow.strategies import canonical_strategy

if TYPE_CHECKING:
    import polars as pl

NAMES = {
    "naive": "naive",
    "confidence": "confidence loss",
    "auto": "auto",
    "bootstrap": "bootstrap chain",
    "refine(rounds=1)": "relabelled once",
    "refine(rounds=3)": "relabelled 3 times",
}
COLORS = ("#000000", "#0072b2", "#cc79a7", "#d55e00", "#74c476", "#238b45")
UNTAUGHT = "zero-shot(prompt='asked', by_batch=True)"


def methods_of(between: tuple[str, ...]) -> dict[str, str]:
    """What to run and what the chart calls it; a chain only where a model stands between."""
    methods = dict(NAMES)
    chain = methods.pop("bootstrap")
    if between:
        methods[f"bootstrap(through={between!r})"] = chain
    return {canonical_strategy(text): shown for text, shown in methods.items()}


def boards(
    tasks: tuple[str, ...], rungs: list[str], seeds: int, store: str | None, runtime: Runtime
) -> dict[tuple[str, str], tuple[Board, dict[str, str]]]:
    """The board of each pair, and what its methods are called."""
    opened, made = open_store(store), {}
    top = len(rungs) - 1
    for low, high in [*((0, high) for high in range(1, top + 1)), *((low, top) for low in range(1, top))]:
        methods = methods_of(tuple(rungs[low + 1 : high]))
        untaught = (UNTAUGHT,) if rungs[high] in LANGUAGE_MODELS else ()
        grid = Grid(
            task=tasks,
            weak=(rungs[low],),
            strong=(rungs[high],),
            strategy=(*methods, *untaught),
            train=(f"probe({SETTINGS})",),
            weak_train=f"logistic({SETTINGS})",
            seeds=seeds,
            controls=False,
        )
        with Progress() as progress:
            board = run_board(grid, opened, runtime, progress)
        if board.failure:
            raise SystemExit(str(board.failure))
        made[rungs[low], rungs[high]] = board, methods
    return made


def table(boards: dict[tuple[str, str], tuple[Board, dict[str, str]]]) -> "pl.DataFrame":
    """A row for each pair and method."""
    import polars as pl

    rows: list[dict[str, Any]] = []
    for (weak, strong), (board, methods) in boards.items():
        mean = {
            name: sum(e.accuracy.value for e in board.entries[name].values()) / len(board.cells)
            for name in ("supervisor", "ceiling")
        }
        for row in board.table().filter(pl.col("method").is_in(list(methods))).to_dicts():
            rows.append(
                {
                    "pair": f"{weak} → {strong}",
                    "disparity": mean["ceiling"] - mean["supervisor"],
                    "strategy": methods[row["method"]],
                    "method": row["method"],
                    "tasks": row["cells"],
                    **{k: row[k] for k in row if k.startswith(("pgr", "difference"))},
                }
            )
    return pl.DataFrame(rows, infer_schema_length=None).sort("disparity", maintain_order=True)


def widest(board: Board, methods: dict[str, str]) -> "pl.DataFrame":
    """A row for each task of one pair: accuracies and PGR of all methods, and whether the supervisor beats chance."""
    import polars as pl

    rows = []
    named = {"supervisor": "supervisor", **methods, "ceiling": "ceiling", UNTAUGHT: "zero-shot"}
    for cell in board.cells:
        weak, chance = board.entries["supervisor"][cell].accuracy, board.entries["majority class"][cell].accuracy
        row: dict[str, Any] = {"task": cell.task, "above_chance": weak.low > chance.value}
        for method, shown in named.items():
            entry = board.entries[canonical_strategy(method) if method == UNTAUGHT else method][cell]
            row |= {shown: entry.accuracy.value, f"{shown}, PGR": entry.pgr.value if entry.pgr else None}
        rows.append(row)
    return pl.DataFrame(rows, infer_schema_length=None)


def medians(rows: "pl.DataFrame", methods: dict[str, str]) -> list[str]:
    """The median PGR of every method, over tasks whose supervisor beats chance and over the others."""
    import polars as pl

    lines = []
    for above, what in ((True, "supervisor above chance"), (False, "supervisor not shown to be above chance")):
        own = rows.filter(pl.col("above_chance") == above)
        for shown in methods.values():
            known = own[f"{shown}, PGR"].drop_nulls().to_list()
            found = median_over_tasks(known) if known else None
            said = f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]" if found else "undefined"
            lines.append(f"{what}: {shown:20} median PGR {said} ({len(known)} of {len(own)} tasks)")
    return lines


def chart(rows: "pl.DataFrame") -> Any:
    """PGR above, the difference to naive below, against disparity; each pair's methods stand side by side."""
    import altair as alt

    known = list(NAMES.values())
    at = {pair: i for i, pair in enumerate(dict.fromkeys(rows["pair"]))}
    values = [
        {
            **row,
            "label": f"{row['pair'].replace(' → ', ' →, ')}, {100 * row['disparity']:.1f} points",
            "order": at[row["pair"]],
        }
        for row in rows.to_dicts()
    ]
    labels = list(dict.fromkeys(v["label"] for v in values))

    def panel(name: str, title: str, kept: list[dict[str, Any]], form: str, low: float, high: float) -> Any:
        clipped = []
        for v in kept:
            if v[name] is not None and low <= v[name] <= high:
                ends = v[f"{name}_low"], v[f"{name}_high"]  # None: not bounded on that side
                at_least, at_most = or_free(ends[0], low), or_free(ends[1], high)
                clipped.append({**v, f"{name}_low": max(at_least, low), f"{name}_high": min(at_most, high)})
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
        return (zero + rule + point).properties(width=1000, height=230)

    bound = max(max(abs(v["difference_low"]), abs(v["difference_high"])) for v in values)
    compared = [v for v in values if v["strategy"] != NAMES["naive"]]
    return alt.vconcat(
        panel("pgr", "PGR, median over tasks", values, ".1f", -1.0, 1.0),
        panel("difference", "accuracy less naive's", compared, "+.0%", -bound, bound),
    ).properties(title="Supervisor → student by disparity: does iterating close the gap?")


def or_free(end: float | None, free: float) -> float:
    """The end of an interval, or infinity where it has none."""
    return free if end is None else end


def main() -> None:
    arguments = argparse.ArgumentParser(description="PGR against disparity.")
    arguments.add_argument("--accept-license", default="", help="tasks whose licences you accept, separated by commas")
    arguments.add_argument("--data-dir", default=os.environ.get("OUTGROW_DATA_DIR"))
    arguments.add_argument("--ladder", default="seven")
    arguments.add_argument("--seeds", type=int, default=5)
    arguments.add_argument("--store", default=None)
    arguments.add_argument("--out", type=Path, default=Path("outgrow-disparity"))
    options = arguments.parse_args()
    if options.data_dir:
        os.environ["OUTGROW_DATA_DIR"] = options.data_dir
    tasks = PACKAGED + (FOLDER if options.data_dir else ())
    runtime = Runtime(accept_license=frozenset(options.accept_license.split(",")) - {""})
    rungs = options.ladder.split(",") if "," in options.ladder else list(ladder(options.ladder))
    made = boards(tasks, rungs, options.seeds, options.store, runtime)
    rows, (board, methods) = table(made), made[rungs[0], rungs[-1]]
    options.out.mkdir(parents=True, exist_ok=True)
    rows.write_csv(options.out / "disparity.csv")
    single = widest(board, methods)
    single.write_csv(options.out / "widest.csv")
    for kind in ("png", "svg"):
        save(chart(rows), options.out / f"disparity.{kind}")
    for row in rows.to_dicts():
        recovered = (
            "undefined"
            if row["pgr"] is None
            else f"{row['pgr']:.2f} "
            f"[{or_free(row['pgr_low'], -math.inf):.2f}, {or_free(row['pgr_high'], math.inf):.2f}]"
        )
        points = [100 * row[f"difference{end}"] for end in ("", "_low", "_high")]
        print(
            f"{row['pair']:28} {100 * row['disparity']:5.1f} points  {row['strategy']:20} PGR {recovered:22} "
            f"({row['pgr_cells']} of {row['tasks']} tasks)  {points[0]:+.1f} [{points[1]:+.1f}, {points[2]:+.1f}]"
        )
    print(f"\n{rungs[0]} → {rungs[-1]}", *medians(single, methods), sep="\n")


if __name__ == "__main__":
    main()
