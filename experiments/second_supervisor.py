"""Who should choose a student: its own teacher, or a second supervisor that did not teach? Three sets of rated texts.

    python experiments/second_supervisor.py

Ten candidates of each student (four strengths of L2, five methods, the probe of the default), none of them stopped or
chosen by any label. Each rule ranks them by agreement on the held-out rows of B; the table has the rank correlation
with accuracy on the test, and the points of accuracy that following the rule gains over the mean candidate. Candidates,
rules, rows and seeds were written down before the first run. ``gold`` looks at what no student may see. 24 minutes on
one thread of two busy cores. Expected: the second supervisor .52, the teacher .43, gold .67; docs/log.md.
"""

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import polars as pl
from scipy.stats import spearmanr

from outgrow import Experiment, sweep
from outgrow.engine import runner
from outgrow.engine.graph import Step
from outgrow.experiment import open_store, wire_all
from outgrow.runtime import Runtime
from outgrow.steps import gold
from outgrow.strategies import canonical_strategy

TASKS = ("sentiment-movies(limit=2000)", "sentiment-reviews(limit=2000)", "sentiment-tweets(limit=2000)")
STUDENTS = {"minilm-l3": "minilm-l6", "minilm-l6": "minilm-l3"}
"""Each student of GloVe, and the model that validates."""
SEEDS = (0, 1, 2)
PROBE = "probe(early_stopping=False)"
CANDIDATES = [
    *((f"logistic(l2={l2})", "naive") for l2 in (0.003, 0.03, 0.3, 3.0)),
    ("logistic(l2=0.03)", "naive(transforms=(Harden,))"),
    ("logistic(l2=0.03)", "naive(transforms=(KNN,))"),
    ("logistic(l2=0.03)", "naive(transforms=(KeepConfident,))"),
    ("logistic(l2=0.03)", "refine(rounds=3)"),
    (PROBE, "confidence"),
    (PROBE, "naive"),
]
SIZES: dict[str, Any] = {"validation": 0.3}
RULES = ("own teacher", "least agreement", "second supervisor", "other students", "gold (oracle)")


def judged(target: Step, number: int) -> dict[str, Step]:
    """What one candidate says of B_val and T at one seed, and who judges it there."""
    student, weak, second = (target.args[role][number] for role in ("student", "weak", "validation"))
    split = weak.args["split"]
    pool = target.args["truth"][number].args["pool"]
    return {
        "held out": Step(student.fn, **{**student.args, "split": split, "parts": ("B_val",)}),
        "gold": Step(gold, pool=pool, split=split, parts=("B_val",)),
        "test": student,
        "truth": target.args["truth"][number],
        "weak": weak,
        "second": second,
    }


def cell(found: list[dict[str, Any]]) -> dict[str, tuple[float, float]]:
    """Of each rule its rank correlation with test accuracy, and what the first of its ranking gains over the mean."""
    test = np.array([(f["test"].hard == f["truth"].take(f["test"].ids).hard).mean() for f in found])
    ids = found[0]["held out"].ids
    said = np.stack([f["held out"].take(ids).hard for f in found])
    agreed = {who: (said == found[0][who].take(ids).hard).mean(axis=1) for who in ("weak", "second", "gold")}
    alike = [(said[i] == np.delete(said, i, axis=0)).mean() for i in range(len(said))]
    merits = (agreed["weak"], -agreed["weak"], agreed["second"], np.array(alike), agreed["gold"])
    return {
        rule: (float(spearmanr(merit, test).statistic), float(test[merit == merit.max()].mean() - test.mean()))
        for rule, merit in zip(RULES, merits, strict=True)
    }


def main() -> None:
    """Run, and print the two tables."""
    store, runtime = open_store(), Runtime()
    found: dict[str, list[dict[str, tuple[float, float]]]] = {task: [] for task in TASKS}
    for task in TASKS:
        for strong, second in STUDENTS.items():
            shared = Experiment(task=task, weak="glove", strong=strong, weak_train=PROBE, seeds=SEEDS, ceiling=False,
                                validate_with=second, **SIZES)  # fmt: skip
            targets = wire_all([replace(shared, train=t, strategy=canonical_strategy(s)) for t, s in CANDIDATES])
            made = [[judged(target, number) for target in targets] for number in range(len(SEEDS))]
            runner.run([step for seed in made for own in seed for step in own.values()], store, runtime)
            read = [[{k: store.read(step) for k, step in own.items()} for own in seed] for seed in made]
            found[task] += [cell(seed) for seed in read]
    print(f"{'rule':20}" + "".join(f"{task.partition('(')[0]:>28}" for task in [*TASKS, "all, with standard error"]))
    for rule in RULES:
        by_task = [np.array([c[rule] for c in found[task]]) for task in TASKS]
        every = np.concatenate(by_task)
        error = np.nanstd(every, axis=0, ddof=1) / np.sqrt(len(every))
        columns = [f"{rank:.2f} {100 * gain:+.2f} pts" for rank, gain in (np.nanmean(c, axis=0) for c in by_task)]
        rank, gain = np.nanmean(every, axis=0)
        columns.append(f"{rank:.2f} ±{error[0]:.2f} {100 * gain:+.2f} ±{100 * error[1]:.2f}")
        print(f"{rule:20}" + "".join(f"{column:>28}" for column in columns))
    table = sweep([*_chosen()], quiet=True)
    apart = [pl.col(name).filter(pl.col("validate_with").is_not_null()).first() for name in SHOWN]
    plain = pl.col("student_accuracy").filter(pl.col("validate_with").is_null()).first()
    pairs = table.group_by("task", "strong", "strategy", maintain_order=True).agg(plain.alias("by the teacher"), *apart)
    pairs = pairs.with_columns((100 * (pl.col("student_accuracy") - pl.col("by the teacher"))).alias("difference"))
    with pl.Config(tbl_rows=-1, tbl_cols=-1, tbl_width_chars=200, float_precision=3):
        print(pairs.drop("student_accuracy"))
        print(pairs.group_by("strategy", maintain_order=True).agg(pl.col("difference").mean()))


SHOWN = ("student_accuracy", "validation_accuracy", "validation_student", "validation_expected")


def _chosen() -> Iterator[Experiment]:
    """Students that are stopped early or chosen, by the teacher's own labels and by the second supervisor's."""
    for task, (strong, second), strategy in product(TASKS, STUDENTS.items(), ("naive", "confidence", "regularised")):
        for judge in (None, second):
            yield Experiment(task=task, weak="glove", strong=strong, strategy=strategy, seeds=SEEDS, ceiling=False,
                             validate_with=judge, **SIZES)  # fmt: skip


if __name__ == "__main__":
    main()
