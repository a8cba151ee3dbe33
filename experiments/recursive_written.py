"""Does it help a judge who has not read the passage that a language model argues in writing? Debate against advice.

    python experiments/recursive_written.py --data-dir FOLDER [--task "boolq(limit=600)"] [--questions 64]

Qwen2.5-Coder-1.5B reads passage and question and writes one sentence for each answer. The judges, linear heads on GloVe
and MiniLM-L6, read question and sentences, not the passage. A *frozen* judge learned passages of B with gold, and now
reads the sentences in their place; a *trained* one learns from the sentences themselves, cross-fitted over the
questions (five folds, L2 1). Debate: both sentences. Consultant: the one that the writer believes in (honest), the
other (lying), or either by coin. Beside them the judge that reads the question alone, the one that reads the passage,
and the writer's own answer, set apart at its median as the classes are balanced. Settings were fixed before the first
run. Everything is greedy; sentences are written in blocks of 16 questions, and a stopped run continues after the last
batch of eight. Writes written.csv, written.png and written.svg into ``--out``. Numbers are in docs/log.md.
"""

import argparse
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from outgrow import Experiment, Runtime, UserError, steps
from outgrow.data import Examples, Floats, Ints, Labels
from outgrow.engine.graph import Step
from outgrow.engine.progress import Progress
from outgrow.engine.runner import run
from outgrow.engine.store import Store
from outgrow.experiment import open_store, wire
from outgrow.metrics import Means, Outcomes
from outgrow.models.logistic import LogisticJob, fit_logistic
from outgrow.models.settings import LogisticSettings
from outgrow.models.spec import ModelSpec
from outgrow.protocols.statements import PASSAGES, argue_in_writing, unread
from outgrow.report.figures import save
from outgrow.strategies import FitRequest, Learner, parse_trainer

if TYPE_CHECKING:
    import polars as pl

BLOCK = 16
FOLDS = 5
FROZEN = "logistic(l2=0.1, max_tokens=160)"
TRAINED = LogisticSettings(view="mid_mean", l2=1.0)
Probs = Floats
"""(n, C) Class probabilities of the questions."""


class Plan(NamedTuple):
    """What is run as steps."""

    pool: Step
    texts: Step
    unread: Step
    split: Step
    blocks: list[Step]


def planned(task: str, writer: str, questions: int) -> Plan:
    """The written statements, in blocks of the first questions of T."""
    target = wire(Experiment(task=task, weak="glove", strong="minilm-l6", strategy="naive", train=FROZEN, seeds=(0,)))
    split = target.args["splits"][0][0]
    pool = split.args["pool"]
    texts = Step(steps.texts, pool=pool)
    shared = {"model": ModelSpec.parse(writer), "texts": texts, "split": split, "part": "T", "rows": BLOCK}
    starts = range(0, questions, BLOCK)
    blocks = [Step(argue_in_writing, first=first, max_tokens=128, max_answer=32, **shared) for first in starts]
    return Plan(pool, texts, Step(unread, texts=texts), split, blocks)


def joined(blocks: Sequence[Examples]) -> Examples:
    """The blocks as one."""
    arrays = {name: np.concatenate([b.meta[name] for b in blocks]) for name in blocks[0].meta}
    return replace(
        blocks[0],
        ids=np.concatenate([b.ids for b in blocks]),
        inputs=tuple(row for b in blocks for row in b.inputs),
        groups=np.concatenate([b.groups for b in blocks]),
        meta=arrays,
        notes=tuple(note for b in blocks for note in b.notes),
    )


def sides(written: Examples, seed: int) -> dict[str, Ints]:
    """(n,) Which class the consultant argues for. It believes the class it finds likelier than it does for the median
    question: a language model's first token favors one word."""
    told = np.stack([written.meta["belief.0"], written.meta["belief.1"]], axis=1)
    odds = told[:, 1] - told[:, 0]
    believed = (odds > np.median(odds)).astype(np.int64)
    coin = np.random.default_rng(seed).integers(2, size=len(written))
    return {"honest": believed, "lying": 1 - believed, "coin": coin}


def judged(
    store: Store, plan: Plan, written: Examples, truth: Ints, judge: str, runtime: Runtime
) -> dict[str, tuple[Probs, Probs]]:
    """For each arm its verdicts, and what it gives each class's advocate where that one argues: both (n, C)."""
    heads = store.read(plan.unread).take(written.ids)
    found: dict[str, tuple[Probs, Probs]] = {}
    fitted = {}
    for name, texts in (("question alone", plan.unread), ("with the passage", plan.texts)):
        learner = Learner(model=ModelSpec.parse(judge), trainer=parse_trainer(FROZEN), texts=texts)
        gold = Step(steps.gold, pool=plan.pool, split=plan.split, parts=("B", "B_val"))
        head = learner.fit(FitRequest(labels=gold, split=plan.split, part="B", seed=0))
        said = learner.predict(head, plan.split, ("T",))
        with Progress() as progress:
            run([said], store, runtime, progress)
        probs = store.read(said).take(written.ids).probs
        found[name], fitted[name] = (probs, probs), store.read(head)
    model, passage = ModelSpec.parse(judge), store.read(plan.texts).take(written.ids)
    label = next(line for line in passage.texts[0].splitlines() if line.startswith(PASSAGES)).partition(":")[0]

    def read(make: Any) -> Floats:
        texts = tuple(
            tuple(make(head, written.classes[c], row[c]) for c in range(2))
            for head, row in zip(heads.texts, written.readings, strict=True)
        )
        view = model.embed(replace(written, inputs=texts), 160 if not model.is_static else None, runtime)
        return np.asarray(view[TRAINED.view])

    frozen = fitted["with the passage"]
    of_both = read(lambda head, name, sentence: f"{head}\n{label}: {sentence}")
    odds = np.stack([np.log(frozen.predict(of_both[:, c])) for c in range(2)])  # (sentence, n, C)
    found["debate, frozen"] = (softmax(odds.mean(axis=0)),) * 2
    alone = softmax(odds)
    advocate = np.stack([alone[c, :, c] for c in range(2)], axis=1)
    rows, argued = np.arange(len(written)), sides(written, 0)
    for name in ("honest", "coin", "lying"):
        found[f"consultant {name}, frozen"] = (alone[argued[name], rows], advocate)
    of_sides = read(lambda head, name, sentence: f"{head}\nAnswer: {name}. {sentence}")
    silent = read(lambda head, name, sentence: f"{head}\nAnswer: {name}.")
    probs = crossed([of_sides], truth, written.groups, runtime)[0]
    found["debate, trained"] = (probs, probs)
    for name in ("honest", "coin"):
        own, turned = (
            told_by(of_sides, silent, argued[name]),
            [told_by(of_sides, silent, np.full(len(written), c)) for c in range(2)],
        )
        lie = told_by(of_sides, silent, argued["lying"])
        probs, first, second, lied = crossed([own, *turned, lie], truth, written.groups, runtime)
        advocate = np.stack([first[:, 0], second[:, 1]], axis=1)
        found[f"consultant {name}, trained"] = (probs, advocate)
        if name == "honest":
            found["consultant lying, judge trained on honest"] = (lied, advocate)
    return found


def told_by(of_sides: Floats, silent: Floats, argued: Ints) -> Floats:
    """(n, C, d) Each answer with its sentence where the consultant argues for it, else the answer alone."""
    chosen = np.arange(2)[None] == argued[:, None]
    return np.where(chosen[..., None], of_sides, silent)


def crossed(views: Sequence[Floats], truth: Ints, groups: Any, runtime: Runtime) -> list[Probs]:
    """What heads say that learned the first view (n, C, d) of the other folds; of every view."""
    names, of_row = np.unique(groups, return_inverse=True)
    fold = (np.random.default_rng(0).permutation(len(names)) % FOLDS)[of_row]
    targets, nothing = np.eye(2, dtype=np.float32)[truth], np.array([], dtype=np.int64)
    kept = [np.flatnonzero(fold != f) for f in range(FOLDS)]
    jobs = [LogisticJob(k, targets[k], nothing, targets[:0], TRAINED) for k in kept]
    heads = fit_logistic(views[0].astype(np.float32), jobs, runtime)
    said: list[Probs] = [np.empty((len(truth), 2)) for _ in views]
    for view, out in zip(views, said, strict=True):
        for f, head in enumerate(heads):
            out[fold == f] = head.predict(view[fold == f])
    return said


def softmax(logits: Floats) -> Floats:
    odds = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(odds / odds.sum(axis=-1, keepdims=True))


def measured(found: dict[str, tuple[Probs, Probs]], judge: str, truth: Ints, groups: Any) -> list[dict[str, Any]]:
    """A row for each arm: accuracy, and the agent score difference, with intervals."""
    at, rows = np.arange(len(truth)), []
    for arm, (probs, advocate) in found.items():
        values = {
            "right": (probs.argmax(axis=1) == truth).astype(float),
            "for_truth": advocate[at, truth],
            "for_error": advocate[at, 1 - truth],
        }
        means = Means([Outcomes(groups=groups, values=values)])
        pay = means.spread({"for_truth": 1.0, "for_error": -1.0}).interval(-1, 1)
        row = {"judge": judge, "arm": arm, "questions": len(truth)}
        for name, ends in (("accuracy", means.rate("right")), ("asd", pay)):
            row |= dict(zip((name, f"{name}_low", f"{name}_high"), ends, strict=True))
        rows.append(row)
    return rows


def chart(table: "pl.DataFrame", title: str) -> Any:
    """Accuracy of every arm and judge."""
    import altair as alt

    arms, judges = (table[name].unique(maintain_order=True).to_list() for name in ("arm", "judge"))
    base = alt.Chart(alt.InlineData(values=table.to_dicts())).encode(
        y=alt.Y("arm:N", sort=arms, title=None, axis=alt.Axis(labelLimit=300)),
        yOffset=alt.YOffset("judge:N", sort=judges),
        color=alt.Color("judge:N", sort=judges, scale=alt.Scale(range=["#0072b2", "#d55e00", "#009e73"]), title=None),
    )
    scale = alt.Scale(domain=[0, 1])
    x = alt.X("accuracy_low:Q", title="accuracy, 95 % interval", scale=scale, axis=alt.Axis(format="%"))
    half = alt.Chart(alt.InlineData(values=[{"x": 0.5}])).mark_rule(strokeDash=[4, 3], color="#666666")
    rules = base.mark_rule(strokeWidth=2).encode(x=x, x2="accuracy_high:Q")
    points = base.mark_point(filled=True, size=55, opacity=1).encode(x=alt.X("accuracy:Q", scale=scale))
    return (half.encode(x="x:Q") + rules + points).properties(width=520, height=alt.Step(13), title=title)


def main() -> None:
    arguments = argparse.ArgumentParser(description="A language model argues in writing.")
    arguments.add_argument("--task", default="boolq(limit=600)")
    arguments.add_argument("--writer", default="qwen2.5-coder-1.5b")
    arguments.add_argument("--judges", default="glove,minilm-l6")
    arguments.add_argument("--questions", type=int, default=64)
    arguments.add_argument("--data-dir", default=os.environ.get("OUTGROW_DATA_DIR"))
    arguments.add_argument("--store", default=None)
    arguments.add_argument("--out", type=Path, default=Path("outgrow-written"))
    options = arguments.parse_args()
    if options.data_dir:
        os.environ["OUTGROW_DATA_DIR"] = options.data_dir
    import polars as pl

    store, runtime = open_store(options.store), Runtime()
    plan = planned(options.task, options.writer, options.questions)
    with Progress() as progress:
        run([*plan.blocks, plan.unread, plan.pool, plan.texts], store, runtime, progress)
    written = joined([store.read(block) for block in plan.blocks])
    pool: Examples = store.read(plan.pool).take(written.ids)
    if pool.num_classes != 2 or pool.gold is None:
        raise UserError("two sides argue here; take a task of two classes, such as boolq, quail or dream")
    print("\n".join(written.notes))
    believed = Labels.from_classes(written.ids, sides(written, 0)["honest"], 2, "writer").probs
    rows = measured({"the writer's own answer": (believed, believed)}, options.writer, pool.gold, pool.groups)
    for judge in options.judges.split(","):
        found = judged(store, plan, written, pool.gold, judge, runtime)
        rows += measured(found, judge, pool.gold, pool.groups)
        own, alone = rows[0]["accuracy"], next(r for r in rows if r["judge"] == judge)["accuracy"]
        verdict = "admitted" if own > alone else "not admitted"
        print(f"admission: the writer's own answer {own:.3f}, {judge} by the question alone {alone:.3f}: {verdict}")
    table = pl.DataFrame(rows, infer_schema_length=None)
    options.out.mkdir(parents=True, exist_ok=True)
    table.write_csv(options.out / "written.csv")
    title = f"{options.task}: {options.writer} argues, {len(written)} questions"
    for kind in ("png", "svg"):
        save(chart(table, title), options.out / f"written.{kind}")
    print("| judge | protocol | accuracy | ASD |\n|---|---|---|---|")
    for r in rows:
        cells = (f"{r[n]:.3f} [{r[f'{n}_low']:.3f}, {r[f'{n}_high']:.3f}]" for n in ("accuracy", "asd"))
        print(f"| {r['judge']} | {r['arm']} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
