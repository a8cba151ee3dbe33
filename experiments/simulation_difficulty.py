"""Weak labels of the same accuracy, with errors a student can simulate, cannot, or half: what of the gap it recovers.

    python experiments/simulation_difficulty.py [FOLDER]

Two beds, 5 seeds: rated movie snippets with MiniLM-L6 as the student, and a linear teacher of 20 normal numbers, for
which theory says what errors at random leave. Writes simulation-difficulty.png and .svg into FOLDER. About 3 minutes on
2 cores. MiniLM-L6 has a ceiling of 0.80 on the snippets, so supervisors of 0.8 and 0.9 are beyond it: there PGR is
undefined, and errors it can simulate cannot be made at all. Expected at 0.7: PGR 0.40 at random, 0.41 half of each,
0.09 simulatable on the snippets; 0.90, 0.28, 0.00 on the synthetic bed; all of it in docs/log.md.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from outgrow import Experiment, sweep
from outgrow.tasks.catalogue.synthetic import expected_accuracy

if TYPE_CHECKING:
    import altair as alt
    import polars as pl

KINDS = {
    "at random": "kind='uniform'",
    "half of each": "kind='simulatable', share=0.5",
    "simulatable": "kind='simulatable'",
}
CONVERGED = "probe(epochs=60, batch_size=4096, lr=0.01, early_stopping=False)"
"""Near the optimum of the loss, which is what theory speaks of."""
ROWS, DIMS = 40_000, 20
BEDS: dict[str, dict[str, Any]] = {
    "Movie snippets, MiniLM-L6": {"task": "sentiment-movies", "strong": "minilm-l6"},
    "Synthetic, linear teacher": {
        "task": f"synthetic-gaussian(rows={ROWS}, dims={DIMS})",
        "strong": "vectors",
        "train": CONVERGED,
    },
}
TRAINING_ROWS = round(ROWS * 3 / 8 * 0.9)
"""Of B, less what is held out."""
ACCURACIES = (0.6, 0.7, 0.8, 0.9)
CEILING_OF_SNIPPETS = 0.75
"""No simulatable errors above this: the student's own probe is right in 0.80 of the rows, less in some seeds."""


def experiments_of(bed: str) -> "dict[Experiment, tuple[float, str]]":
    made = {}
    for accuracy in ACCURACIES:
        for kind, spelled in KINDS.items():
            if bed.startswith("Movie") and "simulatable" in spelled and accuracy > CEILING_OF_SNIPPETS:
                continue
            made[Experiment(weak=f"errors(accuracy={accuracy}, {spelled})", **BEDS[bed])] = (accuracy, kind)
    return made


def table() -> "pl.DataFrame":
    """A row for each bed, accuracy and kind of errors."""
    import polars as pl

    columns = ("weak_accuracy", "student_accuracy", "ceiling_accuracy", "pgr", "agreement_supervisor_wrong")
    rows = []
    for bed in BEDS:
        for experiment, (accuracy, kind) in experiments_of(bed).items():
            (found,) = sweep([experiment]).to_dicts()
            bounds = {f"{c}{end}": found[f"{c}{end}"] for c in columns for end in ("", "_low", "_high")}
            rows.append({"bed": bed, "label accuracy": accuracy, "errors": kind, **bounds})
    return pl.DataFrame(rows)


def chart(rows: "pl.DataFrame") -> "alt.HConcatChart":
    """Student accuracy over label accuracy, a panel for each bed; dashed is the supervisor, dotted is theory."""
    import altair as alt
    import polars as pl

    def y(field: str) -> alt.Y:
        return alt.Y(field, title="test accuracy").scale(domain=[0.55, 1.0], zero=False)

    # Side by side, so that intervals can be told apart; in its place where it is compared with the dashed line.
    beside = pl.col("errors").replace_strict(dict(zip(KINDS, (-0.005, 0.005, 0.0), strict=True)))
    rows = rows.with_columns((pl.col("label accuracy") + beside).alias("x"))
    x = alt.X("x:Q", title="accuracy of the weak labels").scale(domain=[0.57, 0.93])
    x = x.axis(values=list(ACCURACIES), format=".1f")
    color = alt.Color("errors:N", title="errors of the supervisor", sort=list(KINDS))
    shape = alt.Shape("errors:N", sort=list(KINDS), legend=None)
    panels = []
    for bed in BEDS:
        here = rows.filter(pl.col("bed") == bed)
        base = alt.Chart(here).encode(x=x, color=color)
        bars = base.mark_rule(strokeWidth=2).encode(y=y("student_accuracy_low:Q"), y2="student_accuracy_high:Q")
        lines = base.mark_line(point=alt.OverlayMarkDef(size=50)).encode(y=y("student_accuracy:Q"), shape=shape)
        ends = pl.DataFrame({"x": [0.58, 0.92], "y": [0.58, 0.92]})
        supervisor = alt.Chart(ends).mark_line(strokeDash=[6, 4], color="grey").encode(x=x, y=y("y:Q"))
        ceiling = alt.Chart(here).mark_rule(color="black").encode(y=y("mean(ceiling_accuracy):Q"))
        layers = [supervisor, ceiling, lines, bars]
        if bed.startswith("Synthetic"):
            grid = [0.58 + 0.01 * i for i in range(35)]
            curve = pl.DataFrame({"x": grid, "y": [expected_accuracy(p, TRAINING_ROWS, DIMS) for p in grid]})
            layers.append(alt.Chart(curve).mark_line(strokeDash=[2, 3], color="black").encode(x=x, y=y("y:Q")))
        panels.append(alt.layer(*layers).properties(width=330, height=300, title=bed))
    notes = [
        "Points: the student, 95 % intervals over 5 seeds and test rows. Dashed: its supervisor. Line: its ceiling.",
        "Dotted: what theory expects of errors at random. Simulatable: labels are linear in the student's features.",
    ]
    title = alt.TitleParams("What a student outgrows depends on where the errors fall", subtitle=notes)
    return alt.hconcat(*panels).properties(title=title)


if __name__ == "__main__":
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
    found = table()
    for row in found.to_dicts():
        numbers = [
            " ".join("undefined" if row[f"{c}{e}"] is None else f"{row[f'{c}{e}']:.3f}" for e in ("", "_low", "_high"))
            for c in ("weak_accuracy", "student_accuracy", "ceiling_accuracy", "pgr", "agreement_supervisor_wrong")
        ]
        print(row["bed"], row["label accuracy"], row["errors"], *numbers, sep=" | ")
    for ending in ("png", "svg"):
        chart(found).save(folder / f"simulation-difficulty.{ending}", scale_factor=2 if ending == "png" else 1)
