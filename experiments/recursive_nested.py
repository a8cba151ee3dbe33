"""Do nested reward models help? A weak judge of pairs that reads quotes, at 0 to 3 levels, with every control.

    python experiments/recursive_nested.py [--data-dir FOLDER] [--task sentiment-pairs] [--seeds 3]

A GloVe judge, MiniLM-L6 critics, a MiniLM-L6 student trained on what each protocol labels; all heads are exact logistic
regressions (L2 .1). Settings were fixed before the first run. For each protocol: its accuracy on T; the agent score
difference, what the judge gives an advocate of the truth less what it gives an advocate of an error; the errors of the
judge alone that it repeats, and those that it adds; its student's accuracy; and how much of the gap between the judge
alone and the ceiling that student recovers. With 95 % intervals over seeds and pairs. First come the admission tests:
is each critic better on held-out rows of A than the judge that it is to help? Writes nested.csv, nested.png and
nested.svg into ``--out``. A stopped run continues where it was. Numbers are in docs/log.md.
"""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from outgrow import Experiment, Runtime
from outgrow.data import Labels
from outgrow.engine.graph import Step
from outgrow.engine.progress import Progress
from outgrow.engine.runner import run
from outgrow.engine.store import Store
from outgrow.experiment import open_store, wire
from outgrow.metrics import Means, Outcomes
from outgrow.models.spec import ModelSpec
from outgrow.protocols.nested import CRITIQUES, Nested, Round
from outgrow.report.figures import save
from outgrow.strategies import Learner, parse_trainer
from outgrow.supervisors import SupervisorSetup, parse_supervisor

if TYPE_CHECKING:
    import polars as pl

ARMS = {
    "judge alone": "nested(levels=0)",
    "1 critic": "nested(levels=1)",
    "2 critics": "nested(levels=2)",
    "3 critics": "nested(levels=3)",
    "1 critic, of verdicts": "nested(levels=1, taught='verdicts')",
    "2 critics, of verdicts": "nested(levels=2, taught='verdicts')",
    "3 critics, of verdicts": "nested(levels=3, taught='verdicts')",
    "critic = judge": "nested(critic='glove')",
    "random words": "nested(critiques='random')",
    "quotes of another pair": "nested(critiques='shuffled')",
    "side by coin": "nested(critiques='coin')",
    "lying": "nested(critiques='lying')",
    "frozen judge": "nested(frozen=True)",
    "frozen, critic = judge": "nested(frozen=True, critic='glove')",
    "frozen, random words": "nested(frozen=True, critiques='random')",
    "frozen, lying": "nested(frozen=True, critiques='lying')",
}
"""Protocols by the name in tables and the chart."""
ARGUED = ("1 critic", "2 critics", "3 critics", "side by coin", "frozen judge")
"""Protocols whose judge is asked what it gives advocates of either side. A liar's judge is that of one critic."""
NOBODY_ARGUES = ("judge alone", "random words", "quotes of another pair", "frozen, random words")
EQUAL_GOLD = "critic labels itself"
"""The critic of level 1 in place of the judge: the same gold, no evidence."""
TRAIN = "logistic(l2=0.1, max_tokens=64)"


class Arm(NamedTuple):
    """One protocol's steps, one per seed."""

    name: str
    labels: tuple[Step, ...]
    student: tuple[Step, ...]
    for_class: tuple[tuple[Step, ...], ...]
    """The judge's labels where all critics argue for the first class, or all for the second; empty if none argues."""
    admissions: tuple[tuple[Step, ...], ...]


class Wired(NamedTuple):
    """All there is to run for one task."""

    truth: tuple[Step, ...]
    ceiling: tuple[Step, ...]
    pool: Step
    arms: list[Arm]

    @property
    def targets(self) -> list[Step]:
        """Every step whose result is read."""
        own = [s for a in self.arms for s in (*a.labels, *a.student, *(s for pair in a.for_class for s in pair))]
        return [*self.truth, *self.ceiling, self.pool, *own, *(s for a in self.arms for t in a.admissions for s in t)]


def wired(task: str, strong: str, seeds: int) -> Wired:
    """The steps of every arm."""
    arms, first = [], None
    for name, weak in {**ARMS, EQUAL_GOLD: strong}.items():
        experiment = Experiment(
            task=task, weak=weak, strong=strong, strategy="naive", train=TRAIN, seeds=tuple(range(seeds))
        )
        target = wire(experiment)
        first = first or target
        splits = [of_seed[0] for of_seed in target.args["splits"]]
        texts = target.args["texts"]
        student = Learner(model=ModelSpec.parse(strong), trainer=parse_trainer(TRAIN), texts=texts)
        for_class: list[tuple[Step, ...]] = []
        tests: list[tuple[Step, ...]] = []
        options = parse_supervisor(weak)
        setups = [
            SupervisorSetup(pool=split.args["pool"], split=split, student=student, seed=seed)
            for seed, split in enumerate(splits)
        ]
        for found in [Round(options, setup) for setup in setups] if isinstance(options, Nested) else []:
            tests.append(tuple(level.admission for level in found.levels if level.admission is not None))
            if name in ARGUED:
                for_class.append(argued(found))
        arms.append(Arm(name, target.args["weak"], target.args["student"], tuple(for_class), tuple(tests)))
    assert first is not None
    return Wired(first.args["truth"], first.args["ceiling"], splits[0].args["pool"], arms)


def argued(found: Round) -> tuple[Step, ...]:
    """The last judge's labels where its critic argues for the first class on B and T, and where for the second."""
    number = found.options.levels
    taught, part = found.taught(number, found.levels)
    on_a = CRITIQUES[found.options.critiques][0]
    turned = [found.critique(taught, part, (on_a, side), number) for side in "01"]
    return tuple(found.read(found.levels[0], critique, found.levels[-1].fitted)[2] for critique in turned)


def measured(store: Store, plan: Wired) -> list[dict[str, Any]]:
    """A row for each arm."""
    pool = store.read(plan.pool)
    truths: list[Labels] = [store.read(s) for s in plan.truth]

    def right(labels: tuple[Step, ...]) -> list[Any]:
        read = [store.read(s).take(t.ids) for s, t in zip(labels, truths, strict=True)]
        return [(said.hard == t.hard).astype(float) for said, t in zip(read, truths, strict=True)]

    base, ceiling = right(plan.arms[0].labels), right(plan.ceiling)
    rows = []
    for arm in plan.arms:
        own, student = right(arm.labels), right(arm.student)
        outcomes = []
        for i, truth in enumerate(truths):
            values = {"base": base[i], "own": own[i], "student": student[i], "ceiling": ceiling[i]}
            values["repeated"] = np.where(base[i] == 0, 1 - own[i], np.nan)
            values["added"] = np.where(base[i] == 1, 1 - own[i], np.nan)
            values |= paid(store, arm, i, truth)
            outcomes.append(Outcomes(groups=pool.take(truth.ids).groups, values=values))
        means = Means(outcomes, {"own": "base"} if arm is plan.arms[0] else {})
        found = {
            "accuracy": means.rate("own"),
            "over_judge": means.difference("own", "base").interval(-1, 1),
            "asd": means.spread({"for_truth": 1.0, "for_error": -1.0}).interval(-1, 1)
            if "for_truth" in values
            else None,
            "repeated": means.rate("repeated"),
            "added": means.rate("added"),
            "student": means.rate("student"),
            "pgr": means.pgr("base", "student", "ceiling")[0],
            "ceiling": means.rate("ceiling"),
        }
        row: dict[str, Any] = {"arm": arm.name}
        for name, interval in found.items():
            ends = interval if interval is not None else (None, None, None)
            row |= dict(zip((name, f"{name}_low", f"{name}_high"), ends, strict=True))
        rows.append(row)
    return rows


def paid(store: Store, arm: Arm, seed: int, truth: Labels) -> dict[str, Any]:
    """What the judge gives the advocate of each row's truth, and the advocate of an error; nothing if not asked."""
    rows = np.arange(len(truth))
    if arm.name not in (*ARGUED, *NOBODY_ARGUES):
        return {}
    if not arm.for_class:  # both sides live with the same verdict
        probs = store.read(arm.labels[seed]).take(truth.ids).probs
        return {"for_truth": probs[rows, truth.hard], "for_error": probs[rows, 1 - truth.hard]}
    by_side = np.stack([store.read(s).take(truth.ids).probs for s in arm.for_class[seed]])
    return {
        "for_truth": by_side[truth.hard, rows, truth.hard],
        "for_error": by_side[1 - truth.hard, rows, 1 - truth.hard],
    }


def admitted(store: Store, plan: Wired) -> list[str]:
    """What each arm's admission tests say."""
    lines = []
    for arm in plan.arms:
        for level, tests in enumerate(zip(*arm.admissions, strict=True), start=1):
            found = [store.read(test) for test in tests]
            critic, judge = (np.mean([f[name][0] for f in found]) for name in ("critic", "judge"))
            passed = sum(f["admitted"] for f in found)
            lines.append(
                f"{arm.name}, level {level}: critic {critic:.3f}, judge below {judge:.3f} "
                f"({found[0]['rows']} rows of A): admitted in {passed} of {len(found)} seeds"
            )
    return lines


def chart(table: "pl.DataFrame", task: str) -> Any:
    """The protocol's accuracy and its student's, with the judge alone and the ceiling as lines."""
    import altair as alt

    names = table["arm"].to_list()
    kinds = {"accuracy": "the protocol", "student": "its student"}
    values = [
        {"arm": row["arm"], "who": shown, "value": row[k], "low": row[f"{k}_low"], "high": row[f"{k}_high"]}
        for row in table.to_dicts()
        for k, shown in kinds.items()
    ]
    low = min(v["low"] for v in values)
    scale = alt.Scale(domain=[max(0.0, low - 0.02), min(1.0, max(v["high"] for v in values) + 0.02)], nice=False)
    y = alt.Y("arm:N", sort=names, title=None, axis=alt.Axis(labelLimit=260))
    offset = alt.YOffset("who:N", sort=list(kinds.values()))
    colors = alt.Scale(domain=list(kinds.values()), range=["#0072b2", "#d55e00"])
    base = alt.Chart(alt.InlineData(values=values)).encode(
        y=y, yOffset=offset, color=alt.Color("who:N", scale=colors, title=None)
    )
    x = alt.X("low:Q", title="accuracy on T, 95 % interval", scale=scale, axis=alt.Axis(format="%"))
    lines = [
        {"at": table["accuracy"][0], "what": "judge alone"},
        {"at": table["ceiling"][0], "what": "ceiling"},
    ]
    rules = (
        alt.Chart(alt.InlineData(values=lines))
        .mark_rule(strokeDash=[4, 3], color="#666666")
        .encode(x=alt.X("at:Q", scale=scale))
    )
    bars = base.mark_rule(strokeWidth=2).encode(x=x, x2="high:Q")
    points = base.mark_point(filled=True, size=55, opacity=1).encode(x=alt.X("value:Q", scale=scale))
    title = f"{task}: a GloVe judge that reads critics' quotes (dashes: the judge alone, the ceiling)"
    return (rules + bars + points).properties(width=560, height=alt.Step(13), title=title)


def shown(row: dict[str, Any], name: str, form: str = ".3f") -> str:
    """``.81 [.79, .83]``."""
    value, low, high = (row[f"{name}{end}"] for end in ("", "_low", "_high"))
    if value is None:
        return "undefined" if name == "pgr" else "–"
    return f"{value:{form}} [{low:{form}}, {high:{form}}]" if low is not None else f"{value:{form}} [no interval]"


def main() -> None:
    arguments = argparse.ArgumentParser(description="Nested reward models, measured.")
    arguments.add_argument("--task", default="sentiment-pairs")
    arguments.add_argument("--strong", default="minilm-l6")
    arguments.add_argument("--seeds", type=int, default=3)
    arguments.add_argument("--data-dir", default=os.environ.get("OUTGROW_DATA_DIR"))
    arguments.add_argument("--store", default=None)
    arguments.add_argument("--out", type=Path, default=Path("outgrow-nested"))
    options = arguments.parse_args()
    if options.data_dir:
        os.environ["OUTGROW_DATA_DIR"] = options.data_dir
    import polars as pl

    store, plan = open_store(options.store), wired(options.task, options.strong, options.seeds)
    with Progress() as progress:
        run(plan.targets, store, Runtime(), progress)
    print("\n".join(admitted(store, plan)))
    table = pl.DataFrame(measured(store, plan), infer_schema_length=None)
    options.out.mkdir(parents=True, exist_ok=True)
    table.write_csv(options.out / "nested.csv")
    for kind in ("png", "svg"):
        save(chart(table, options.task), options.out / f"nested.{kind}")
    print("| protocol | accuracy | over the judge alone | ASD | errors repeated | added | student | PGR |")
    print("|---|---|---|---|---|---|---|---|")
    for row in table.to_dicts():
        cells = [shown(row, n) for n in ("accuracy", "over_judge", "asd", "repeated", "added", "student")]
        print(f"| {row['arm']} | {' | '.join(cells)} | {shown(row, 'pgr', '.2f')} |")
    print(f"ceiling {shown(table.to_dicts()[0], 'ceiling')}")


if __name__ == "__main__":
    main()
