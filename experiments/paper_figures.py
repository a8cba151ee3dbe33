"""Figures 3, 5, 8, 9, 12 and 16 of Burns et al. 2023, redrawn from runs on packaged models and tasks.

    python experiments/paper_figures.py --ladder six --plan         what is missing, and how long it takes
    python experiments/paper_figures.py --ladder six                runs it, draws, writes paper-figures/
    python experiments/paper_figures.py --task sst2 --figure 5 12   some figures, on other tasks

Any ladder that ``outgrow run`` knows, or models separated by commas. What is stored is not run again, so a run that was
stopped goes on where it was, and one more task or rung costs only itself. Each figure is one function from a table of
runs; each writes ``figure-N.png``, ``.svg`` and, for those that average over tasks, ``.csv`` with every number drawn.

Accuracy and agreement are means over the tasks, with 95 % intervals of these tasks (rows and seeds are random, the
tasks are given); PGR is the median over the tasks where it is defined, as in the paper, with the interval between two
tasks that holds the median of all such tasks. Two to five tasks bound nothing, and then there is no bar; one task has
its own. Models stand in the order of the ladder where the paper has compute. Figure 3 has a third column where
``chess-puzzles`` is among the tasks; figure 16 is about ``sentiment-pairs``, which of two texts people liked more. All
students are probes unless ``--train`` says otherwise.
"""

import argparse
import math
import os
import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import altair as alt
import polars as pl

from outgrow import Experiment, Grid, Runtime, UserError, sweep
from outgrow.board.statistics import median_over_tasks
from outgrow.experiment import experiments_of, open_store, plan
from outgrow.metrics import Interval, widened
from outgrow.models.spec import ModelSpec
from outgrow.report import plots
from outgrow.report.figures import Chart, save
from outgrow.report.rows import TableRow, grouped, tidy
from outgrow.strategies import canonical_strategy
from outgrow.tasks import TaskSpec

TASKS = (
    "sentiment-movies(limit=2400)",
    "sentiment-news(limit=2400)",
    "sentiment-tweets(limit=2400)",
    "sentiment-reviews(limit=2400)",
    "sentiment-pairs(limit=1200)",
)
SHOTS = 5  # the paper's
PROMPTED = {
    "zero-shot": "zero-shot",
    f"{SHOTS}-shot, gold labels": f"few-shot(shots={SHOTS}, labels='gold')",
    f"{SHOTS}-shot, weak labels": f"few-shot(shots={SHOTS})",
}
KINDS = ("Text classification", "Comparisons (reward model)", "Chess puzzles")
GOLD = "gold labels"
DASHES = {
    "naive": [2, 3],
    "confidence": [1, 0],
    GOLD: [1, 0],
    **dict(zip(PROMPTED, ([6, 3], [8, 3, 2, 3], [8, 3, 2, 3]), strict=True)),
}
SHAPES = {
    "naive": "circle",
    "confidence": "triangle-up",
    GOLD: "circle",
    **dict(zip(PROMPTED, ("square", "diamond", "cross"), strict=True)),
}


# --- from a table of runs to what is drawn ----------------------------------------------------------------------------


def kind_of(task: str) -> str:
    """The panel of a task in figure 3."""
    name = task.partition("(")[0]
    if name.startswith("chess"):
        return KINDS[2]
    return KINDS[1] if TaskSpec.parse(task).kind == "choice" or name.endswith("-pairs") else KINDS[0]


def students(table: pl.DataFrame, *methods: str, kinds: Iterable[str] = KINDS) -> list[TableRow]:
    """The rows of these strategies, named as the paper names them, on tasks of these kinds."""
    named = {canonical_strategy(text): name for name, text in PROMPTED.items()} | {m: m for m in methods}
    kept = (r for r in tidy(table) if named.get(r["strategy"]) in methods)
    return [
        r | {"method": named[r["strategy"]], "kind": kind_of(r["task"])} for r in kept if kind_of(r["task"]) in kinds
    ]


def as_gold(rows: Sequence[TableRow]) -> list[TableRow]:
    """The ceilings of some rows as students of a supervisor named gold, each once."""
    names = ("accuracy", "accuracy_low", "accuracy_high")
    made = {
        (r["task"], r["student"]): r
        | {"supervisor": plots.CEILING, "method": GOLD}
        | {f"student_{name}": r[f"ceiling_{name}"] for name in names}
        for r in rows
        if r["ceiling_accuracy"] is not None
    }
    return list(made.values())


def as_supervisors(rows: Sequence[TableRow]) -> list[TableRow]:
    """The supervisors of some rows, each once, to be drawn as level lines."""
    made = {(r["task"], r["supervisor"]): r for r in rows}
    return list(made.values())


def over_tasks(rows: Sequence[TableRow], field: str, *by: str, median: bool = False) -> list[TableRow]:
    """One row for each value of ``by``: ``value``, ``low``, ``high``, ``tasks`` (how many have a number), ``of``.

    The mean, with the interval of these tasks; or the median, with that of tasks like these. Each task has one row.
    """
    made = []
    for key, own in grouped(rows, *by).items():
        known = [r for r in own if r[field] is not None]
        assert len({r["task"] for r in known}) == len(known), "a task has one row"
        values = [r[field] for r in known]
        found = Interval(math.nan, math.nan, math.nan)
        if known and median:
            found = median_over_tasks(values)
        if len(known) == 1 or (known and not median):  # one task has its own interval
            middle = statistics.fmean(values)
            bounds = [
                Interval(r[field], _or(r[f"{field}_low"], -math.inf), _or(r[f"{field}_high"], math.inf)) for r in known
            ]
            found = widened(Interval(middle, middle, middle), bounds)
        numbers = {
            name: v if math.isfinite(v) else None for name, v in zip(("value", "low", "high"), found, strict=True)
        }
        names = dict(zip(by, key if len(by) > 1 else (key,), strict=True))
        made.append(names | numbers | {"rank": own[0]["rank"], "tasks": len(known), "of": len(own)})
    return [r for r in made if r["value"] is not None]


def _or(value: float | None, other: float) -> float:
    return other if value is None else value


# --- drawing ----------------------------------------------------------------------------------------------------------


class Panel(NamedTuple):
    """One panel: points that lines join, by student; and level lines."""

    title: str
    y: str
    points: list[TableRow]
    levels: Sequence[TableRow] = ()
    window: tuple[float, float] | None = None
    """The ends of the axis; bars are cut there, and points beyond it are drawn at its end."""


def drawn(panels: Sequence[Panel], title: str, about: list[str], columns: int) -> Chart:
    """The panels side by side: a hue for each supervisor, a dash and a shape for each method."""
    points = [p for panel in panels for p in panel.points]
    if not points:
        raise UserError(f"no run of {title!r} is in the table; add tasks or models")
    ranked = {p["student"]: p["rank"] for p in sorted(points, key=lambda p: p["rank"])}
    supervisors = [s for s in dict.fromkeys(p["supervisor"] for p in points) if s != plots.CEILING]
    methods = [m for m in DASHES if any(p["method"] == m for p in points)]
    hues = {s: plots.COLOURS[i % len(plots.COLOURS)] for i, s in enumerate(supervisors)}
    if any(p["supervisor"] == plots.CEILING for p in points):
        hues[plots.CEILING] = "#000000"
    look = {
        "x": alt.X(
            "student:N",
            sort=list(ranked),
            title="Student, weak to strong",
            axis=alt.Axis(labelAngle=-30),
            scale=alt.Scale(domain=list(ranked), padding=0.25),
        ),
        "color": alt.Color(
            "supervisor:N", title="Supervisor", scale=alt.Scale(domain=list(hues), range=list(hues.values()))
        ),
    }
    dash = alt.Scale(domain=methods, range=[DASHES[m] for m in methods])
    shape = alt.Scale(domain=methods, range=[SHAPES[m] for m in methods])
    look["strokeDash"] = alt.StrokeDash("method:N", title="Method", scale=dash)
    look["shape"] = alt.Shape("method:N", title="Method", scale=shape)
    made = [_panel(panel, look) for panel in panels if panel.points]
    concat = alt.concat(*made, columns=columns, spacing=28).resolve_scale(xOffset="independent")
    return plots.finished_chart(concat, title, about)


def _panel(panel: Panel, look: dict[str, Any]) -> alt.LayerChart | alt.FacetChart:
    bottom, top = panel.window or (-math.inf, math.inf)

    def within(value: float | None) -> float | None:
        return None if value is None else min(max(value, bottom), top)

    values = [
        p | {end: within(p[end]) for end in ("value", "low", "high")} | {"series": f"{p['supervisor']}, {p['method']}"}
        for p in panel.points
    ]
    series = list(dict.fromkeys(v["series"] for v in values))
    offset = alt.XOffset("series:N", scale=alt.Scale(domain=series))  # bars side by side
    scale = (
        alt.Scale(zero=False, nice=False, padding=8)
        if panel.window is None
        else alt.Scale(domain=panel.window, zero=False)
    )
    y = alt.Y("value:Q", title=panel.y, scale=scale, axis=alt.Axis(format=".0%" if panel.window is None else ".1f"))
    tooltip = [
        alt.Tooltip(f"{f}:N") for f in ("supervisor", "student", "method", "value", "low", "high", "tasks", "of")
    ]
    base = alt.Chart(alt.InlineData(values=values)).encode(x=look["x"], xOffset=offset, color=look["color"])
    layers: list[Any] = [
        base.transform_filter("isValid(datum.low) && isValid(datum.high)")
        .mark_rule(strokeWidth=1.5, opacity=0.6)
        .encode(y=alt.Y("low:Q", title=panel.y, scale=scale), y2="high:Q"),
        base.mark_line(strokeWidth=1.8).encode(y=y, strokeDash=look["strokeDash"], detail="series:N"),
        base.mark_point(filled=True, size=65, opacity=1).encode(y=y, shape=look["shape"], tooltip=tooltip),
    ]
    if panel.levels:
        levels = alt.Chart(alt.InlineData(values=list(panel.levels)))
        layers.insert(0, levels.mark_rule(strokeWidth=1.2, opacity=0.7).encode(y=y, color=look["color"]))
    if panel.window is not None:
        ends = alt.Chart(alt.InlineData(values=[{"value": 0.0}, {"value": 1.0}]))
        layers.insert(0, ends.mark_rule(color="#999").encode(y=y))
    return alt.layer(*layers).properties(width=300, height=230, title=panel.title)


WHO = ("supervisor", "student", "method")
WINDOW = (-0.5, 1.5)
MEANS = "Means over {}; bars: 95 % intervals of these tasks. Thin level lines: the supervisors themselves."
MEDIANS = (
    "PGR: median over the tasks where it is defined; a bar needs one or six of them. The axis ends at −0.5 and 1.5."
)


def _count(rows: Sequence[TableRow]) -> str:
    found = len({r["task"] for r in rows})
    return f"{found} task{'s' if found > 1 else ''}"


def _accuracy(rows: Sequence[TableRow], title: str) -> Panel:
    points = over_tasks([*rows, *as_gold(rows)], "student_accuracy", *WHO)
    return Panel(title, "Test accuracy", points, over_tasks(as_supervisors(rows), "weak_accuracy", "supervisor"))


def _pgr(rows: Sequence[TableRow], title: str) -> Panel:
    defined = sum(r["pgr"] is not None for r in rows)
    title = f"{title}; PGR defined in {defined} of {len(rows)} runs"
    return Panel(title, "Performance gap recovered", over_tasks(rows, "pgr", *WHO, median=True), window=WINDOW)


# --- the figures ------------------------------------------------------------------------------------------------------


def figure_3(table: pl.DataFrame) -> tuple[Chart, list[Panel]]:
    """Naive students: accuracy above, PGR below, for text, comparisons and chess. Black: gold labels; a hue for each
    supervisor. The paper: students are above their supervisors, PGR grows with student and supervisor on text, is near
    a tenth for reward models, and falls with the size of the gap in chess."""
    rows = students(table, "naive")
    kinds = [k for k in KINDS if any(r["kind"] == k for r in rows)]
    of = {k: [r for r in rows if r["kind"] == k] for k in kinds}
    panels = [_accuracy(of[k], f"{k}, {_count(of[k])}") for k in kinds] + [_pgr(of[k], k) for k in kinds]
    about = [MEANS.format("the tasks of a kind"), MEDIANS, "Black: the student's model trained on gold labels."]
    return drawn(panels, "Figure 3: naive students of weaker supervisors", about, max(1, len(kinds))), panels


def figure_5(table: pl.DataFrame) -> tuple[Chart, list[Panel]]:
    """The confidence loss beside naive on text: accuracy and PGR. Dotted with circles: naive; solid with triangles:
    confidence. The paper: the loss helps most where the gap is largest, up to a median PGR of four fifths."""
    rows = students(table, "naive", "confidence", kinds=KINDS[:1])
    panels = [_accuracy(rows, _count(rows)), _pgr(rows, _count(rows))]
    about = [MEANS.format(_count(rows)), MEDIANS, "Dotted: naive. Solid, triangles: confidence. Black: gold labels."]
    return drawn(panels, "Figure 5: the confidence loss", about, 2), panels


def _agreement(rows: Sequence[TableRow], title: str) -> tuple[Chart, list[Panel]]:
    parts = {"all": "All rows", "supervisor_right": "Supervisor right", "supervisor_wrong": "Supervisor wrong"}
    panels = [
        Panel(what, "Agreement with supervisor", over_tasks(rows, f"agreement_{part}", *WHO))
        for part, what in parts.items()
    ]
    about = [
        f"Means over {_count(rows)}; bars: 95 % intervals of these tasks.",
        "High agreement where the supervisor is wrong: the student imitates its mistakes.",
    ]
    return drawn(panels, title, about, 3), panels


def figure_8(table: pl.DataFrame) -> tuple[Chart, list[Panel]]:
    """How often students say what their supervisor says, on all rows, where it is right, where it is wrong: text, naive
    and confidence. The paper: larger students agree less with errors, and the loss lowers that further."""
    rows = students(table, "naive", "confidence", kinds=KINDS[:1])
    return _agreement(rows, "Figure 8: do students imitate mistakes?")


def figure_16(table: pl.DataFrame) -> tuple[Chart, list[Panel]]:
    """Figure 8 for comparisons of two texts, the paper's reward models: there students of all sizes agree much with
    their supervisor's errors."""
    rows = students(table, "naive", "confidence", kinds=KINDS[1:2])
    return _agreement(rows, "Figure 16: the same for comparisons of two texts")


def figure_9(table: pl.DataFrame) -> tuple[Chart, list[Panel]]:
    """Language models that are asked, beside students that are trained. (a) Zero-shot, few-shot with gold, trained on
    gold; (b) few-shot with weak labels, by supervisor; (c) that, naive and confidence. The paper: few-shot comes near
    to finetuning for the largest models only, and few-shot with weak labels beats naive there."""
    rows = students(table, "naive", "confidence", *PROMPTED, kinds=KINDS[:1])
    asked = {r["student"] for r in rows if r["method"] in PROMPTED}
    rows = [r for r in rows if r["student"] in asked]
    zero, gold, weak = ([r for r in rows if r["method"] == name] for name in PROMPTED)
    # No supervisor has a part in these: any row of the student serves.
    unlabelled = list({(r["task"], r["student"]): r | {"supervisor": plots.CEILING} for r in zero}.values())
    shown = list({(r["task"], r["student"]): r | {"supervisor": plots.CEILING} for r in gold}.values())
    trained = [r for r in rows if r["method"] in ("naive", "confidence")]
    levels = over_tasks(as_supervisors(rows), "weak_accuracy", "supervisor")

    def accuracies(*given: Sequence[TableRow]) -> list[TableRow]:
        return over_tasks([r for own in given for r in own], "student_accuracy", *WHO)

    panels = [
        Panel("No weak labels", "Test accuracy", accuracies(unlabelled, shown, as_gold(trained))),
        Panel(f"{SHOTS} weak labels in the prompt", "Test accuracy", accuracies(weak), levels),
        Panel("Asked or trained", "Test accuracy", accuracies(weak, trained), levels),
    ]
    about = [MEANS.format(_count(rows)), "Black: zero-shot, few-shot with gold, and a probe of all gold labels."]
    return drawn(panels, "Figure 9: asking the student against training it", about, 3), panels


def figure_12(table: pl.DataFrame) -> tuple[Chart, list[Panel]]:
    """Figure 5a task by task."""
    kept = [k for k in table["task"].unique() if kind_of(k) == KINDS[0]]
    chart = plots.accuracy(table.filter(pl.col("task").is_in(kept) & pl.col("strategy").is_in(("naive", "confidence"))))
    if chart is None:
        raise UserError("no run of figure 12 is in the table; add tasks or models")
    return chart, []


FIGURES: dict[int, Callable[[pl.DataFrame], tuple[Chart, list[Panel]]]] = {
    3: figure_3,
    5: figure_5,
    8: figure_8,
    9: figure_9,
    12: figure_12,
    16: figure_16,
}


# --- the runs ---------------------------------------------------------------------------------------------------------


def missing_runs(wanted: Sequence[int], grid: Grid, asked_rows: int, accepted: frozenset[str]) -> list[Experiment]:
    """Every experiment that these figures need: naive and confidence on all tasks; prompts to the language models of
    the ladder on text, scored on ``asked_rows`` test rows, where few-shot is slow."""
    made = experiments_of(grid, accepted)
    if 9 not in wanted:
        return made
    text = tuple(task for task in grid.task if kind_of(task) == KINDS[0])
    pairs = dict.fromkeys((e.weak, e.strong) for e in made if ModelSpec.parse(e.strong).is_language_model)
    for weak, strong in pairs if text else ():
        prompts = {"task": text, "weak": (weak,), "strong": (strong,), "ceiling": False, "test_rows": asked_rows}
        fields = vars(grid) | {"ladder": Grid.ladder} | prompts | {"strategy": tuple(PROMPTED.values())}
        trained = fields | {"strategy": ("naive", "confidence"), "ceiling": True}
        made += [e for own in (fields, trained) for e in experiments_of(Grid(**own), accepted)]
    return made


def of_figure(number: int, table: pl.DataFrame, asked_rows: int) -> pl.DataFrame:
    """The runs that a figure draws: figure 9's are scored on fewer test rows than all others'."""
    few = pl.col("test_rows").is_not_null() & (pl.col("test_rows") == asked_rows)
    return table.filter(few if number == 9 else ~few)


def main() -> None:
    arguments = argparse.ArgumentParser(description="Figures of Burns et al. 2023 on packaged models.")
    arguments.add_argument("--figure", type=int, nargs="+", choices=list(FIGURES), default=list(FIGURES))
    arguments.add_argument("--task", nargs="+", default=list(TASKS))
    arguments.add_argument("--ladder", default="six", help="a ladder's name, or models separated by commas")
    arguments.add_argument("--train", default="probe(max_tokens=64)")
    arguments.add_argument("--seeds", type=int, default=3)
    arguments.add_argument("--asked-rows", type=int, default=200, help="test rows of figure 9")
    arguments.add_argument("--accept-license", default="", help="what you accept, separated by commas")
    arguments.add_argument("--data-dir", default=os.environ.get("OUTGROW_DATA_DIR"))
    arguments.add_argument("--store", default=None)
    arguments.add_argument("--out", type=Path, default=Path("paper-figures"))
    arguments.add_argument("--plan", action="store_true", help="say what is missing and how long it takes, then stop")
    options = arguments.parse_args()
    if options.data_dir:
        os.environ["OUTGROW_DATA_DIR"] = options.data_dir
    runtime = Runtime(accept_license=frozenset(options.accept_license.split(",")) - {""})
    shared: dict[str, Any] = {"task": tuple(options.task), "ladder": options.ladder, "train": (options.train,)}
    grid = Grid(**shared, seeds=options.seeds, controls=False)
    wanted = missing_runs(options.figure, grid, options.asked_rows, runtime.accept_license)
    planned = plan(wanted, open_store(options.store))
    guess = f", {planned.unknown} of them never timed here" if planned.unknown else ""
    print(
        f"{len(wanted)} experiments: {len(planned.to_run)} steps to run{guess}, {len(planned.reused)} reused, about "
        f"{planned.seconds / 60:.0f} minutes"
    )
    if options.plan:
        return
    table = sweep(wanted, options.store, runtime)
    options.out.mkdir(parents=True, exist_ok=True)
    for number in options.figure:
        try:
            chart, panels = FIGURES[number](of_figure(number, table, options.asked_rows))
        except UserError as error:
            print(f"figure {number} is not drawn: {error}")
            continue
        for kind in ("png", "svg"):
            save(chart, options.out / f"figure-{number}.{kind}")
        rows = [{"panel": panel.title, "what": panel.y, **point} for panel in panels for point in panel.points]
        if rows:
            pl.DataFrame(rows, infer_schema_length=None).write_csv(options.out / f"figure-{number}.csv")
        print(f"figure {number}: {options.out / f'figure-{number}.png'}")


if __name__ == "__main__":
    main()
