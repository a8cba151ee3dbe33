"""Steps that score: an experiment's three roles, several students side by side, agreement with the weak labels."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from outgrow.data import Examples, Floats, Ids, Ints, Labels, Split, hardened
from outgrow.engine.graph import step
from outgrow.errors import UserError
from outgrow.metrics import (
    Interval,
    Outcomes,
    agreement,
    balanced_values,
    bootstrap_means,
    class_values,
    confusion,
    interval,
    per_example,
    pgr,
    pgr_interval,
    plain,
    scores,
)

__all__ = ["KEPT_DRAWS", "MOST_CLASSES", "compare", "contrast", "gap_and_pgr", "weak_agreement"]

KEPT_DRAWS = 500
"""Bootstrap replicates of each accuracy that a contrast keeps, for intervals over many tasks and pairs."""
MOST_CLASSES = 100
"""Recall, precision and the confusion matrix are kept for at most so many classes."""
_EPSILON = 1e-7  # probabilities are kept this far from 0 in logarithms


@step(version=3)
def compare(
    texts: Examples,
    truth: tuple[Labels, ...],
    weak: tuple[Labels, ...],
    student: tuple[Labels, ...],
    ceiling: tuple[Labels, ...],
    seeds: tuple[int, ...],
    splits: tuple[tuple[Split, ...], ...] = (),
) -> dict[str, Any]:
    """Supervisor, student and ceiling (empty for none) on the same test rows: scores, agreement, PGR, with intervals.

    One element of each tuple per seed; of ``splits``, which say how many rows went where, those of all folds.
    All are scored on the test rows that the supervisor labelled. If it labelled none, there is neither its score nor
    gain, gap or PGR; if there is no ``truth``, there is no score at all. Accuracy weighs every row alike;
    ``balanced_accuracy`` is the mean recall of the classes.
    """
    rows = {"notes": list(texts.notes), "classes": list(texts.classes), "rows": rows_used(len(texts), splits)}
    if not truth:
        return {**_unscored(weak, student), **rows, "num_classes": texts.num_classes}
    roles = {"weak": weak, "student": student, **({"ceiling": ceiling} if ceiling else {})}
    tests = [_labelled(t, w) for t, w in zip(truth, weak, strict=True)]
    if not sum(map(len, tests)):
        roles.pop("weak")
        tests = list(truth)
    abstained = [t.take(t.ids[~np.isin(t.ids, test.ids)]) for t, test in zip(truth, tests, strict=True)]
    outcomes, per_seed = [], []
    probs = {
        role: [of.take(t.ids).probs for of, t in zip(labels, tests, strict=True)] for role, labels in roles.items()
    }
    for i, seed in enumerate(seeds):
        said, right = {role: p[i] for role, p in probs.items()}, tests[i].hard
        outcomes.append(_outcomes(texts.take(tests[i].ids).groups, said, right))
        scored = {role: {**scores(p, right), "balanced_accuracy": _balanced(p, right)} for role, p in said.items()}
        accuracy = [scored[role]["accuracy"] for role in roles]
        same = agreement(hardened(said["student"]), hardened(said["weak"]), right) if "weak" in roles else None
        recovered = pgr(*accuracy) if len(roles) == 3 else None
        per_seed.append({"seed": seed, "test_rows": len(right), **scored, "agreement": same, "pgr": recovered})
    outcomes = _with_balance(outcomes, probs, [t.hard for t in tests])
    means = bootstrap_means(outcomes)
    result = {
        **rows,
        "test_rows": sum(map(len, tests)),
        "test_rows_per_seed": len(tests[0]),
        "num_classes": texts.num_classes,
        "majority": max(float(np.bincount(t.hard).max() / len(t)) for t in tests),
        "weak": None,
        "gain_undefined": None if "weak" in roles else "no test row has a weak label",
        **_against_weak(means, "weak" in roles),
        **{role: _role_scores(role, means, per_seed) for role in roles},
        **gap_and_pgr(means, bool(ceiling), "weak" in roles),
        "per_class": _per_class([o.groups for o in outcomes], probs, [t.hard for t in tests]),
        "abstained": _where_weak_abstains(texts, abstained, student),
        "per_seed": per_seed,
    }
    plained: dict[str, Any] = plain(result)
    return plained


def _labelled(truth: Labels, weak: Labels) -> Labels:
    """The test rows that the supervisor labelled."""
    return truth.take(truth.ids[np.isin(truth.ids, weak.ids)])


def _unscored(weak: Sequence[Labels], student: Sequence[Labels]) -> dict[str, Any]:
    """The result without gold: how often the student says what the supervisor says, where that says anything."""
    same = [s.take(w.ids).hard == w.hard for s, w in zip(student, weak, strict=True)]
    nothing = dict.fromkeys(
        ("majority", "gain", "balanced_gain", "weak", "student", "gap", "pgr", "per_class", "abstained")
    )
    agreed = float(np.mean(np.concatenate(same))) if sum(map(len, same)) else None
    return {
        **nothing,
        "test_rows": 0,
        "test_rows_per_seed": 0,
        "gain_undefined": "no row has gold",
        "pgr_undefined": "no row has gold",
        "agreement": {"all": [agreed, None, None], "supervisor_right": None, "supervisor_wrong": None},
        "per_seed": [],
    }


def rows_used(num_rows: int, splits: Sequence[Sequence[Split]]) -> dict[str, Any]:
    """How many rows the task has and which it was made of: ``[fewest, most]`` over seeds of each part and of the rows
    that were ``left_out``, by reason. With folds, T is all of them, and the others are those of one fold."""

    if not splits:
        return {"task": num_rows, "left_out": {}}

    def spread(counts: Sequence[int]) -> list[int]:
        return [min(counts), max(counts)]

    parts = {p: spread([len(s.parts[p]) for folds in splits for s in folds]) for p in ("A", "A_val", "B", "B_val")}
    parts["T"] = spread([sum(len(s.parts["T"]) for s in folds) for folds in splits])
    firsts = [folds[0].left_out for folds in splits]
    reasons = dict.fromkeys(reason for left in firsts for reason in left)
    return {"task": num_rows, **parts, "left_out": {r: spread([left.get(r, 0) for left in firsts]) for r in reasons}}


def _outcomes(groups: Any, probs: Mapping[str, Floats], right: Any) -> Outcomes:
    values = {f"{role}.{k}": v for role, p in probs.items() for k, v in per_example(p, right).items()}
    if "weak" in probs:
        supervisor = probs["weak"].argmax(axis=1)
        same = (probs["student"].argmax(axis=1) == supervisor).astype(np.float64)
        values["agreement.all"] = same
        values["agreement.supervisor_right"] = np.where(supervisor == right, same, np.nan)
        values["agreement.supervisor_wrong"] = np.where(supervisor != right, same, np.nan)
    return Outcomes(groups=groups, values=values)


def _against_weak(means: Mapping[str, Floats], has_weak: bool) -> dict[str, Any]:
    kinds = ("all", "supervisor_right", "supervisor_wrong")
    if not has_weak:
        return {"gain": None, "balanced_gain": None, "agreement": dict.fromkeys(kinds)}
    gains = {"gain": "accuracy", "balanced_gain": "balanced_accuracy"}
    return {
        **{name: interval(means[f"student.{of}"] - means[f"weak.{of}"]) for name, of in gains.items()},
        "agreement": {k: interval(means[f"agreement.{k}"]) for k in kinds},
    }


def _role_scores(role: str, means: Mapping[str, Floats], per_seed: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    names = ("accuracy", "balanced_accuracy", "xent", "brier")
    summary: dict[str, Any] = {k: interval(means[f"{role}.{k}"]) for k in names}
    for name in ("auroc", "ece"):  # not means over rows: over seeds, with the range of the seeds
        values = [s[role][name] for s in per_seed]
        summary[name] = Interval(float(np.mean(values)), min(values), max(values))
    return summary


# --- class by class ---------------------------------------------------------------------------------------------------


def _balanced(probs: Floats, gold: Ints) -> float:
    return float(balanced_values([hardened(probs) == gold], [gold])[0].mean())


def _with_balance(
    outcomes: Sequence[Outcomes], probs: Mapping[str, Sequence[Floats]], gold: Sequence[Ints]
) -> list[Outcomes]:
    """The outcomes with what each row contributes to each role's balanced accuracy."""
    made = [dict(o.values) for o in outcomes]
    for role, of_seeds in probs.items():
        right = [hardened(p) == g for p, g in zip(of_seeds, gold, strict=True)]
        for values, balanced in zip(made, balanced_values(right, gold), strict=True):
            values[f"{role}.balanced_accuracy"] = balanced
    return [Outcomes(groups=o.groups, values=values) for o, values in zip(outcomes, made, strict=True)]


def _per_class(
    groups: Sequence[Ids], probs: Mapping[str, Sequence[Floats]], gold: Sequence[Ints]
) -> dict[str, Any] | None:
    """Of each role ``recall`` and ``precision`` of each class with intervals, and the ``confusion`` matrix, over all
    seeds; None for more than :data:`MOST_CLASSES` classes."""
    num_classes = next(iter(probs.values()))[0].shape[1]
    if num_classes > MOST_CLASSES:
        return None
    made: dict[str, Any] = {"rows": np.bincount(np.concatenate(gold), minlength=num_classes).tolist()}
    for role, of_seeds in probs.items():
        said = [hardened(p) for p in of_seeds]
        values = [class_values(s, g, num_classes) for s, g in zip(said, gold, strict=True)]
        means = bootstrap_means([Outcomes(groups=g, values=v) for g, v in zip(groups, values, strict=True)])
        made[role] = {
            **{k: [interval(means[f"{k}.{c}"]) for c in range(num_classes)] for k in ("recall", "precision")},
            "confusion": confusion(np.concatenate(said), np.concatenate(gold), num_classes),
        }
    return made


def _where_weak_abstains(texts: Examples, tests: Sequence[Labels], student: Sequence[Labels]) -> dict[str, Any] | None:
    """The student's accuracy on the test rows that the supervisor did not label, which are in no other score."""
    if not sum(map(len, tests)):
        return None
    right = [_right(s.take(t.ids), t) for s, t in zip(student, tests, strict=True)]
    groups = [texts.take(t.ids).groups for t in tests]
    means = bootstrap_means([Outcomes(groups=g, values={"right": r}) for g, r in zip(groups, right, strict=True)])
    return {"rows": len(tests[0]), "student": {"accuracy": interval(means["right"])}}


def gap_and_pgr(means: Mapping[str, Floats], has_ceiling: bool, has_weak: bool = True) -> dict[str, Any]:
    """``gap``, ``pgr`` and, where there is none, the reason ``pgr_undefined``, from bootstrap means of accuracies."""
    if not has_ceiling:
        return {"gap": None, "pgr": None, "pgr_undefined": "there is no ceiling"}
    if not has_weak:
        return {"gap": None, "pgr": None, "pgr_undefined": "no test row has a weak label"}
    weak, student, ceiling = (means[f"{role}.accuracy"] for role in ("weak", "student", "ceiling"))
    recovered, undefined = pgr_interval(weak, student, ceiling)
    return {"gap": interval(ceiling - weak), "pgr": recovered, "pgr_undefined": undefined}


@step(version=2)
def contrast(
    texts: Examples,
    truth: tuple[Labels, ...],
    weak: tuple[Labels, ...],
    reference: tuple[Labels, ...],
    students: tuple[tuple[Labels, ...], ...],
    ceilings: tuple[tuple[Labels, ...], ...],
    ceiling_of: tuple[int, ...],
    seeds: tuple[int, ...],
) -> dict[str, Any]:
    """Students against one reference student on the same test rows, seed by seed and row by row.

    ``truth``, ``weak``, ``reference`` and each of ``students`` and ``ceilings`` have one element per seed.
    ``ceiling_of`` says which ceiling is each student's own; the first is the reference's. Without ceilings there is no
    PGR. Accuracy, its difference to the reference and PGR have 95 % intervals of the two-way bootstrap of
    :func:`outgrow.metrics.bootstrap_means`; all of them share its draws, the first of which are kept as ``draws``. Two
    contrasts whose seeds test on the same rows have the same draws. Listed with the students are ``weak``, the
    reference's ``ceiling`` and ``majority``, which always says the most frequent class.
    """
    given = {"weak": weak, "reference": reference}
    given |= {f"ceiling {number}": ceiling for number, ceiling in enumerate(ceilings)}
    given |= {f"student {number}": student for number, student in enumerate(students)}
    truth = tuple(_labelled(t, w) for t, w in zip(truth, weak, strict=True))
    if not all(map(len, truth)):
        raise UserError("no test row has a weak label to compare with; add some, or use outgrow run")
    outcomes = []
    for i in range(len(seeds)):
        test = truth[i]
        right = {name: _right(labels[i].take(test.ids), test) for name, labels in given.items()}
        right["majority"] = (test.hard == np.bincount(test.hard).argmax()).astype(np.float64)
        outcomes.append(Outcomes(groups=texts.take(test.ids).groups, values=right))
    means = bootstrap_means(outcomes)

    def compared(name: str, ceiling: int = 0) -> dict[str, Any]:
        recovered: tuple[Interval | None, str | None] = (None, "there is no ceiling")
        if ceilings:
            recovered = pgr_interval(means["weak"], means[name], means[f"ceiling {ceiling}"])
        return {
            "accuracy": interval(means[name]),
            "difference": interval(means[name] - means["reference"]),
            "pgr": recovered[0],
            "pgr_undefined": recovered[1],
            "ceiling": ceiling,
            "draws": _kept(means[name]),
        }

    result = {
        "test_rows": len(truth[0]),
        "weak": compared("weak"),
        "majority": compared("majority"),
        "reference": compared("reference"),
        "ceiling": compared("ceiling 0") if ceilings else None,
        "ceiling_draws": [_kept(means[f"ceiling {number}"]) for number in range(len(ceilings))],
        "students": [compared(f"student {i}", own) for i, own in enumerate(ceiling_of)],
    }
    plained: dict[str, Any] = plain(result)
    return plained


def _kept(means: Floats) -> list[float]:
    kept: list[float] = np.round(means[1 : KEPT_DRAWS + 1], 6).tolist()
    return kept


def _right(labels: Labels, truth: Labels) -> Floats:
    right: Floats = (labels.hard == truth.hard).astype(np.float64)
    return right


@step(version=1)
def weak_agreement(labels: Labels, weak: Labels, split: Split, part: str) -> dict[str, float]:
    """How well predictions agree with the weak labels of ``part``: share of rows with the same class, cross-entropy in
    nats. What a setting may be chosen by: no gold."""
    said, taught = (given.take(split.parts[part]) for given in (labels, weak))
    logs = np.log(np.maximum(said.probs.astype(np.float64), _EPSILON))
    return {
        "agreement": float((said.hard == taught.hard).mean()),
        "xent": float(-(taught.probs.astype(np.float64) * logs).sum(axis=1).mean()),
    }
