"""Do protocols give labels from which a student learns more than from their weak judge? Debate, advice, easy to hard.

    python experiments/recursive.py evidence [--seeds 3] [--out FOLDER]
    python experiments/recursive.py bands [--seeds 3] [--out FOLDER]

``evidence``: a weak judge sees k words of a film review's sentence, or k cells of a picture, chosen at random, by two
debaters, or by a consultant; controls are the judge's own mean over random draws, agents of graded strength, and the
judge with the whole input. ``bands``: gold of the easy third of A alone, and who labels the harder thirds. What an arm
gives labels B, and a student is trained on it. Arms, sizes and settings were fixed before the first run.

Everything is kept in the store: the same command continues where it was stopped, and adds only what is new. Writes
recursive-<part>.csv, .md, .png and .svg into ``--out``. 10 to 20 minutes on 2 cores; numbers are in docs/log.md.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from outgrow import Experiment, Runtime
from outgrow.engine.graph import Step, in_order
from outgrow.engine.progress import Progress
from outgrow.engine.store import Store
from outgrow.experiment import open_store, run_steps
from outgrow.metrics import Interval, Means, Outcomes
from outgrow.protocols.base import LABELLED
from outgrow.protocols.evidence import assign_sides
from outgrow.report.figures import save

if TYPE_CHECKING:
    import altair as alt
    import polars as pl

Row = dict[str, Any]
Values = dict[str, Any]

REFERENCE = "random words, trained judge"
"""The weak supervisor of D1's PGR: what the judge achieves with as many words and nobody's help."""
EVIDENCE = {
    REFERENCE: "random-evidence({0})",
    "random words, frozen judge": "random-evidence({0}, trained=False)",
    "mean of 8 draws, trained judge": "random-evidence({0}, masks=8)",
    "mean of 8 draws, frozen judge": "random-evidence({0}, masks=8, trained=False)",
    "debate, best of 2 moves": "debate({0}, strength=2)",
    "debate, best of 8 moves": "debate({0}, strength=8)",
    "debate, trained judge": "debate({0})",
    "debate, frozen judge": "debate({0}, trained=False)",
    "consultant by coin": "consultancy({0})",
    "honest consultant": "consultancy({0}, side='honest')",
    "lying consultant, judge taught by lies": "consultancy({0}, side='lying')",
    "lying consultant, judge taught by honest ones": "consultancy({0}, side='lying', taught='honest')",
    "whole input": "random-evidence({1})",
}
"""Arms of D1; {0} is what the judge sees, {1} the same judge with everything."""
WORDS = {f"movies, {k} words": ("sentiment-movies(limit=5000)", "minilm-l6", f"k={k}", "k=None") for k in (2, 4)}
CELLS = "unit='cell', judge='pixels(size=14)'"
BEDS = {
    **WORDS,
    "clothing, 4 of 49 cells": (
        "fashion-mnist(limit=4000)", "pixels(size=14)", f"k=4, {CELLS}", f"k=None, {CELLS}",
    ),
}  # fmt: skip
"""Task, student, and what fills the arms of D1; the student's model is the agents' too, taught on other rows."""
BANDS = {
    "GloVe taught by easy gold": "one-band(model='glove')",
    "one jump: easy gold": "one-band",
    "climb by itself": "climb",
    "climb, bands labelled by GloVe": "climb(by='glove')",
    "mixed gold, as many rows": "one-band(band=None)",
    "hard gold, as many rows": "one-band(band=3)",
}
"""Arms of D2. The last two are analyses: nobody who needs them would have that gold."""
GLOVE, HARD = "GloVe taught by easy gold", "hard gold, as many rows"
RATED = {"movies": "sentiment-movies(limit=5000)", "reviews": "sentiment-reviews"}
TRAIN = "logistic(l2=1.0)"


def made(
    beds: Mapping[str, tuple[str, str, Mapping[str, str]]], seeds: int, store: Store
) -> dict[str, dict[str, Step]]:
    """The result step of each arm of each bed, run."""
    shared: dict[str, Any] = {"strategy": "naive", "train": TRAIN, "seeds": tuple(range(seeds))}
    experiments = {
        (bed, arm): Experiment(task=task, strong=strong, weak=weak, **shared)
        for bed, (task, strong, arms) in beds.items()
        for arm, weak in arms.items()
    }
    with Progress() as progress:
        targets, _ = run_steps(experiments.values(), store, Runtime(), progress)
    of: dict[str, dict[str, Step]] = {bed: {} for bed in beds}
    for (bed, arm), target in zip(experiments, targets, strict=True):
        of[bed][arm] = target
    return of


def right(store: Store, target: Step, role: str) -> list[Any]:
    """For each seed (n,) whether the role's class is the truth, on the rows of T in the order of the truth."""
    pairs = zip(target.args["truth"], target.args[role], strict=True)
    read = ((store.read(truth), store.read(labels)) for truth, labels in pairs)
    return [(said.take(truth.ids).hard == truth.hard).astype(float) for truth, said in read]


def means(store: Store, target: Step, values: Mapping[str, Sequence[Any]]) -> Means:
    """Means over seeds and rows of T of (n,) values for each seed."""
    texts = store.read(target.args["texts"])
    groups = [texts.take(store.read(truth).ids).groups for truth in target.args["truth"]]
    seeds = [Outcomes(groups=g, values={k: v[i] for k, v in values.items()}) for i, g in enumerate(groups)]
    return Means(seeds)


def paid(store: Store, target: Step) -> Values | None:
    """For each seed and row the judge's probability of what an advocate of the truth argues for, and of what an
    advocate of something false does; NaN where there is none. None without agents. An analysis: it reads gold of T."""
    found: dict[str, list[Any]] = {"true": [], "false": []}
    for step, weak in zip(target.args["truth"], target.args["weak"], strict=True):
        truth, said = store.read(step), store.read(weak)
        behind = [s for s in in_order([weak]) if s.fn is assign_sides and s.args["beliefs"].args["parts"] == LABELLED]
        if not behind:
            return None
        sides = store.read(behind[0])
        at = {name: i for i, name in enumerate(sides["ids"].tolist())}
        rows = [at[i] for i in truth.ids.tolist()]
        debate = any(s.args.get("agents") == 2 for s in in_order([weak]))
        advocates = [sides[who][rows] for who in ("claim", "rival")[: 2 if debate else 1]]
        probs, gold = said.take(truth.ids).probs, truth.hard
        p = [probs[np.arange(len(gold)), who] for who in advocates]
        for name, is_true in (("true", True), ("false", False)):
            kept = np.array(
                [np.where((who == gold) == is_true, q, np.nan) for who, q in zip(advocates, p, strict=True)]
            )
            count = np.isfinite(kept).sum(axis=0)
            found[name].append(np.where(count > 0, np.nansum(kept, axis=0) / np.maximum(count, 1), np.nan))
    return found


def evidence(store: Store, seeds: int) -> list[Row]:
    """A row for each bed and arm of D1."""
    beds = {
        bed: (task, strong, {arm: text.format(seen, whole) for arm, text in EVIDENCE.items()})
        for bed, (task, strong, seen, whole) in BEDS.items()
    }
    rows = []
    for bed, targets in made(beds, seeds, store).items():
        weak = right(store, targets[REFERENCE], "weak")
        ensemble = {kind: right(store, targets[f"mean of 8 draws, {kind} judge"], "weak") for kind in KINDS}
        for arm, target in targets.items():
            roles = {role: right(store, target, role) for role in ("weak", "student", "ceiling")}
            values: Values = {"reference": weak, "judge": roles["weak"], **roles}
            values |= {f"ensemble {kind}": v for kind, v in ensemble.items()}
            values["inherited"] = _inherited(store, target, roles["weak"])
            if (agents := paid(store, target)) is not None:
                values |= agents
            m = means(store, target, values)
            recovered, _ = m.pgr("reference", "student", "ceiling")
            kind = "frozen" if "frozen" in arm else "trained"
            row = {"bed": bed, "arm": arm, "words": _shown(beds[bed][2][arm]), "queries": 8 if "8 draws" in arm else 1}
            row |= _bounds("judge", m.rate("judge")) | _bounds("student", m.rate("student"))
            row |= _bounds("pgr", recovered) | _bounds("inherited", m.rate("inherited"))
            row |= _bounds("ceiling", m.rate("ceiling"))
            row |= _bounds("over_ensemble", m.difference("judge", f"ensemble {kind}").interval(-1, 1))
            asd = m.spread({"true": 1.0, "false": -1.0}).interval(-1, 1) if agents is not None else None
            rows.append(row | _bounds("asd", asd))
    return rows


KINDS = ("trained", "frozen")


def _inherited(store: Store, target: Step, weak: Sequence[Any]) -> list[Any]:
    """For each seed 1 where the student repeats the label of T, NaN where that label is right."""
    found = []
    for step, said, student, ok in zip(*(target.args[r] for r in ("truth", "weak", "student")), weak, strict=True):
        ids = store.read(step).ids
        same = store.read(said).take(ids).hard == store.read(student).take(ids).hard
        found.append(np.where(ok == 1, np.nan, same.astype(float)))
    return found


def _shown(spelled: str) -> str:
    k = spelled.partition("k=")[2].partition(",")[0].rstrip(")")
    return "all" if k == "None" else f"up to {8 * int(k)}" if "masks=8" in spelled else k


def _bounds(name: str, found: Interval | None) -> Row:
    value, low, high = found or (None, None, None)
    return {name: value, f"{name}_low": low, f"{name}_high": high}


def bands(store: Store, seeds: int) -> list[Row]:
    """A row for each bed and arm of D2, on the hardest third of each seed's test rows, and on the easiest."""
    beds = {bed: (task, "minilm-l6", BANDS) for bed, task in RATED.items()}
    rows = []
    for bed, targets in made(beds, seeds, store).items():
        for third in ("easy", "hard"):
            weak, ceiling = (_of_third(store, targets[a], role, third) for a, role in ((GLOVE, "weak"), (HARD, "weak")))
            for arm, target in targets.items():
                of = {role: _of_third(store, target, role, third) for role in ("weak", "student", "ceiling")}
                chance = [np.where(np.isnan(v), np.nan, 0.5) for v in weak]
                values: Values = {"labels": of["weak"], "student": of["student"], "ceiling": of["ceiling"]}
                values |= {"glove": weak, "hard gold": ceiling, "chance": chance}
                m = means(store, target, values)
                row: Row = {"bed": bed, "third": third, "arm": arm, **_bounds("labels", m.rate("labels"))}
                row |= _bounds("student", m.rate("student")) | _bounds("ceiling", m.rate("ceiling"))
                row |= _bounds("sgr", m.pgr("chance", "labels", "hard gold")[0])
                rows.append(row | _bounds("pgr", m.pgr("glove", "student", "ceiling")[0]))
                jump = _of_third(store, targets["one jump: easy gold"], "weak", third)
                over = means(store, target, {"labels": of["weak"], "jump": jump}).difference("labels", "jump")
                rows[-1] |= _bounds("over_jump", over.interval(-1, 1))
    return rows


def _of_third(store: Store, target: Step, role: str, third: str) -> list[Any]:
    """:func:`right`, NaN beyond the hardest or easiest third of each seed's test rows (of equals, the first ids)."""
    pool = store.read(target.args["texts"].args["pool"])
    found = []
    for step, values in zip(target.args["truth"], right(store, target, role), strict=True):
        hard = pool.take(store.read(step).ids).meta["difficulty"] * (1 if third == "hard" else -1)
        first = np.argsort(-hard, kind="stable")[: len(hard) // 3]
        kept = np.full(len(values), np.nan)
        kept[first] = values[first]
        found.append(kept)
    return found


# --- table and chart --------------------------------------------------------------------------------------------------


def _cell(row: Row, name: str, percent: bool) -> str:
    value, low, high = (row[f"{name}{end}"] for end in ("", "_low", "_high"))
    if value is None:
        return "–"
    scale, digits = (100, 1) if percent else (1, 2)
    return f"{scale * value:.{digits}f} [{scale * low:.{digits}f}, {scale * high:.{digits}f}]"


def markdown(rows: Sequence[Row], plain: Mapping[str, str], scores: Mapping[str, tuple[str, bool]]) -> str:
    """A table: ``plain`` columns as they are, ``scores`` with intervals, as points of a hundred where asked."""
    titles = [*plain.values(), *(title for title, _ in scores.values())]
    lines = [f"| {' | '.join(titles)} |", "|" + "---|" * len(titles)]
    for row in rows:
        cells = [str(row[c]) for c in plain] + [_cell(row, c, percent) for c, (_, percent) in scores.items()]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def chart(rows: Sequence[Row], names: Mapping[str, str], panels: Sequence[str], title: str) -> "alt.TopLevelMixin":
    """Accuracy of labels and student, an arm a line; a panel for each bed. The dashed line is the ceiling."""
    import altair as alt

    known, arms = list(names.values()), list(dict.fromkeys(r["arm"] for r in rows))
    colors = alt.Scale(domain=known, range=["#7f7f7f", "#0072b2"])
    shape = alt.Scale(domain=known, range=["circle", "diamond"])

    def panel(bed: str) -> Any:
        own = [r for r in rows if r["bed"] == bed]
        values = [
            {"arm": r["arm"], "what": shown, **{end: r[f"{name}{end}"] for end in ("", "_low", "_high")}}
            for r in own
            for name, shown in names.items()
        ]
        values = [{"value" + k if k in ("", "_low", "_high") else k: v for k, v in d.items()} for d in values]
        y = alt.Y("arm:N", sort=arms, title=None, axis=alt.Axis(labelLimit=320))
        base = alt.Chart(alt.InlineData(values=values)).encode(
            y=y,
            yOffset=alt.YOffset("what:N", sort=known),
            color=alt.Color("what:N", scale=colors, sort=known, title=None),
        )
        x = alt.X("value_low:Q", title="test accuracy", scale=alt.Scale(zero=False), axis=alt.Axis(format=".0%"))
        rule = base.mark_rule(strokeWidth=2).encode(x=x, x2="value_high:Q")
        symbol = alt.Shape("what:N", scale=shape, sort=known, title=None)
        point = base.mark_point(filled=True, size=60, opacity=1).encode(x="value:Q", shape=symbol)
        limit = (
            alt.Chart(alt.InlineData(values=[{"x": own[0]["ceiling"]}])).mark_rule(strokeDash=[4, 3]).encode(x="x:Q")
        )
        return (limit + rule + point).properties(width=300, height=26 * len(arms), title=bed)

    return alt.hconcat(*(panel(bed) for bed in panels)).properties(title=title)


Part = tuple[Callable[[Store, int], list[Row]], dict[str, str], dict[str, tuple[str, bool]]]
PARTS: dict[str, Part] = {
    "evidence": (
        evidence,
        {"bed": "bed", "arm": "arm", "words": "units", "queries": "queries"},
        {
            "judge": ("judge %", True), "over_ensemble": ("judge less mean of 8 draws, points", True),
            "asd": ("ASD", False), "student": ("student %", True), "pgr": ("PGR", False),
            "inherited": ("errors repeated %", True),
        },
    ),
    "bands": (
        bands,
        {"bed": "bed", "third": "test rows", "arm": "arm"},
        {
            "labels": ("labels %", True), "over_jump": ("labels less one jump's, points", True),
            "sgr": ("SGR", False), "student": ("student %", True), "pgr": ("PGR", False),
        },
    ),
}  # fmt: skip


def drawn(part: str, rows: Sequence[Row]) -> "alt.TopLevelMixin":
    if part == "evidence":
        names = {"judge": "judge's labels", "student": "student of them"}
        return chart(rows, names, list(BEDS), "A judge that sees a few words: who chooses them? (dashed: ceiling)")
    hard = [{**r, "bed": f"{r['bed']}, hard third of the test"} for r in rows if r["third"] == "hard"]
    names = {"labels": "labels", "student": "student of them"}
    return chart(
        hard, names, list(dict.fromkeys(r["bed"] for r in hard)), "From easy gold to hard rows (dashed: ceiling)"
    )


def table(rows: Sequence[Row]) -> "pl.DataFrame":
    import polars as pl

    return pl.DataFrame(list(rows), infer_schema_length=None)


def main() -> None:
    arguments = argparse.ArgumentParser(description="Protocols as supervisors.")
    arguments.add_argument("part", choices=PARTS)
    arguments.add_argument("--seeds", type=int, default=3)
    arguments.add_argument("--store", default=None)
    arguments.add_argument("--out", type=Path, default=Path("outgrow-recursive"))
    options = arguments.parse_args()
    run, plain, scores = PARTS[options.part]
    rows = run(open_store(options.store), options.seeds)
    options.out.mkdir(parents=True, exist_ok=True)
    place = options.out / f"recursive-{options.part}"
    table(rows).write_csv(place.with_suffix(".csv"))
    said = markdown(rows, plain, scores)
    place.with_suffix(".md").write_text(said, encoding="utf-8")
    for kind in (".png", ".svg"):
        save(drawn(options.part, rows), place.with_suffix(kind))
    print(said)


if __name__ == "__main__":
    main()
