"""Steps that score: an experiment's three roles, several students side by side, agreement with the weak labels."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from outgrow.data import Answers, Examples, Floats, Ids, Ints, Labels, Split, hardened
from outgrow.engine.graph import step
from outgrow.errors import UserError
from outgrow.metrics import (
    HIGHEST,
    Interval,
    Means,
    Outcomes,
    agreement,
    balanced_values,
    class_values,
    confusion,
    ece_floor,
    ece_interval,
    per_example,
    pgr,
    plain,
    scores,
    widened,
)

__all__ = [
    "MOST_CLASSES",
    "against_controls",
    "compare",
    "content_of",
    "contrast",
    "gain_gap_and_pgr",
    "rows_used",
    "weak_agreement",
]

MOST_CLASSES = 100
"""Recall, precision and the confusion matrix are kept for at most so many classes."""
_COMPARED = ("accuracy", "balanced_accuracy")
_ONE_SIDED = "every weak label of the test names the same class"
_EPSILON = 1e-7  # probabilities are kept this far from 0 in logarithms


@step(version=4)
def compare(
    texts: Examples,
    truth: tuple[Labels, ...],
    weak: tuple[Labels, ...],
    student: tuple[Labels, ...],
    ceiling: tuple[Labels, ...],
    seeds: tuple[int, ...],
    splits: tuple[tuple[Split, ...], ...] = (),
    reading: Mapping[str, Mapping[str, int]] | None = None,
    validation: tuple[Labels, ...] = (),
) -> dict[str, Any]:
    """Supervisor, student and ceiling (empty for none) on the same test rows: scores, agreement, PGR, with intervals.

    One element of each tuple per seed; of ``splits``, which say how many rows went where, those of all folds.
    ``reading`` says how much of the texts ``weak`` and ``student`` read, if they cut them at all.
    All are scored on the test rows that the supervisor labelled. If it labelled none, there is neither its score nor
    gain, gap or PGR; if there is no ``truth``, there is no score at all. Accuracy weighs every row alike;
    ``balanced_accuracy`` is the mean recall of the classes. Intervals are those of :class:`outgrow.metrics.Means`.
    ``ece_floor`` is the calibration error that perfect calibration would show on as many rows; the lower end of ``ece``
    is lower by it. ``learned`` is the student's agreement with the weak labels minus that of always saying their most
    frequent class: below zero it has not learned even that.
    ``tests`` of the result are digests of the rows that each seed was scored on (:func:`content_of`).
    ``validation`` are the labels of a second supervisor that held-out rows were judged by, if one did: ``validation``
    of the result has its accuracy, its agreement with ``student`` and ``weak``, and the agreement with the student
    that is ``expected`` of errors independent given the truth: a·a2 + (1 − a)(1 − a2)/(C − 1).
    """
    rows: dict[str, Any] = {"notes": list(texts.notes), "classes": list(texts.classes)}
    rows |= {"rows": rows_used(len(texts), splits), "tests": [content_of(texts, t.ids) for t in truth]}
    rows["reading"] = {role: dict(counts) for role, counts in (reading or {}).items()}
    if not truth:
        return {**_unscored(weak, student), **rows, "num_classes": texts.num_classes}
    roles = {"weak": weak, "student": student, **({"ceiling": ceiling} if ceiling else {})}
    tests = [_labelled(t, w) for t, w in zip(truth, weak, strict=True)]
    if not sum(map(len, tests)):
        roles.pop("weak")
        tests = list(truth)
    gold = [t.hard for t in tests]
    abstained = [t.take(t.ids[~np.isin(t.ids, test.ids)]) for t, test in zip(truth, tests, strict=True)]
    outcomes, per_seed = [], []
    probs = {
        role: [of.take(t.ids).probs for of, t in zip(labels, tests, strict=True)] for role, labels in roles.items()
    }
    for i, seed in enumerate(seeds):
        said, right = {role: p[i] for role, p in probs.items()}, gold[i]
        found = _outcomes(texts.take(tests[i].ids).groups, said, right)
        judged = _judged(validation[i], tests[i], said) if validation else {}
        outcomes.append(Outcomes(groups=found.groups, values={**found.values, **judged}))
        scored: dict[str, Any] = {
            role: {**scores(p, right), "balanced_accuracy": _balanced(p, right), "ece_floor": ece_floor(p)}
            for role, p in said.items()
        }
        accuracy = [scored[role]["accuracy"] for role in roles]
        same = agreement(hardened(said["student"]), hardened(said["weak"]), right) if "weak" in roles else None
        recovered = pgr(*accuracy) if len(roles) == 3 else None
        per_seed.append({"seed": seed, "test_rows": len(right), **scored, "agreement": same, "pgr": recovered})
    outcomes = _with_balance(outcomes, probs, gold)
    same_labels = _same(roles)
    means = Means(outcomes, {f"{a}.{k}": f"{b}.{k}" for a, b in same_labels.items() for k in _COMPARED})
    shares = np.bincount(np.concatenate(gold), minlength=texts.num_classes) / sum(map(len, gold))
    one_sided = len(np.unique(np.concatenate([w.hard for w in weak]))) < 2
    result: dict[str, Any] = {
        **rows,
        "test_rows": sum(map(len, gold)),
        "test_rows_per_seed": len(gold[0]),
        "num_classes": texts.num_classes,
        "majority": max(float(np.bincount(g).max() / len(g)) for g in gold),
        "weak": None,
        "gain_undefined": None if "weak" in roles else "no test row has a weak label",
        "over_majority": means.difference("student.accuracy", "majority").interval(-1.0, 1.0),
        **_against_weak(means, "weak" in roles),
        **{role: _role_scores(role, means, per_seed, shares) for role in roles},
        **gain_gap_and_pgr(means, bool(ceiling), "weak" in roles),
        **({"pgr": None, "pgr_undefined": _ONE_SIDED} if one_sided and "weak" in roles and ceiling else {}),
        "validation": _validation(means, list(roles), texts.num_classes) if validation else None,
        "per_class": None,
        "abstained": _where_weak_abstains(texts, abstained, student),
        "per_seed": per_seed,
    }
    if by_class := _class_means([o.groups for o in outcomes], probs, gold, same_labels):
        result["per_class"] = _per_class(by_class, probs, gold)
        _widen_balanced(result, by_class, roles, np.flatnonzero(shares))
    plained: dict[str, Any] = plain(result)
    return plained


def content_of(pool: Examples, ids: Ids) -> str:
    """Which examples these are, in any order: a digest of their ids and inputs."""
    rows = pool.take(ids)
    pairs = (repr((str(id), shown)).encode() for id, shown in zip(rows.ids, rows.inputs, strict=True))
    return hashlib.sha256("".join(sorted(hashlib.sha256(pair).hexdigest() for pair in pairs)).encode()).hexdigest()


def _judged(judge: Labels, test: Labels, said: Mapping[str, Floats]) -> dict[str, Floats]:
    """Where the validating supervisor is right, and where each role says the same; nan where it gave no label."""
    known = np.isin(test.ids, judge.ids)
    classes = np.full(len(test), -1)
    classes[known] = judge.take(test.ids[known]).hard
    others = {"accuracy": test.hard, **{role: hardened(p) for role, p in said.items() if role != "ceiling"}}
    return {f"validation.{name}": np.where(known, classes == other, np.nan) for name, other in others.items()}


def _validation(means: Means, roles: Sequence[str], num_classes: int) -> dict[str, Any]:
    found: dict[str, Any] = dict.fromkeys(("accuracy", "weak", "student", "expected"))
    found |= {name: means.rate(f"validation.{name}") for name in ("accuracy", *roles) if name != "ceiling"}
    own, judge = (interval[0] for interval in (means.rate("student.accuracy"), found["accuracy"]))
    if own is not None and judge is not None:
        found["expected"] = own * judge + (1 - own) * (1 - judge) / (num_classes - 1)
    return found


def _labelled(truth: Labels, weak: Labels) -> Labels:
    """The test rows that the supervisor labelled."""
    return truth.take(truth.ids[np.isin(truth.ids, weak.ids)])


def _unscored(weak: Sequence[Labels], student: Sequence[Labels]) -> dict[str, Any]:
    """The result without gold: how often the student says what the supervisor says, where that says anything."""
    same = [s.take(w.ids).hard == w.hard for s, w in zip(student, weak, strict=True)]
    scores_of_gold = (
        "majority over_majority gain balanced_gain weak student gap pgr per_class abstained learned validation"
    )
    nothing = dict.fromkeys(scores_of_gold.split())
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
        values["agreement.majority"] = _majority(supervisor)
        values["agreement.supervisor_right"] = np.where(supervisor == right, same, np.nan)
        values["agreement.supervisor_wrong"] = np.where(supervisor != right, same, np.nan)
    values["majority"] = _majority(right)
    return Outcomes(groups=groups, values=values)


def _against_weak(means: Means, has_weak: bool) -> dict[str, Any]:
    kinds = ("all", "supervisor_right", "supervisor_wrong")
    if not has_weak:
        return {"balanced_gain": None, "learned": None, "agreement": dict.fromkeys(kinds)}
    balanced = means.spread({"student.balanced_accuracy": 1.0, "weak.balanced_accuracy": -1.0})
    return {
        "balanced_gain": balanced.interval(-1.0, 1.0),
        "learned": means.difference("agreement.all", "agreement.majority").interval(-1.0, 1.0),
        "agreement": {k: means.rate(f"agreement.{k}") for k in kinds},
    }


def _majority(right: Any) -> Floats:
    """Where always saying the most frequent class is right."""
    is_most: Floats = (right == np.bincount(right).argmax()).astype(np.float64)
    return is_most


def _same(given: Mapping[str, Sequence[Labels]]) -> dict[str, str]:
    """For each name the first name with the same labels, from the same source, at every seed."""
    first: dict[tuple[Any, ...], str] = {}
    found = {}
    for name, labels in given.items():
        found[name] = first.setdefault(tuple((x.source, x.ids.tobytes(), x.probs.tobytes()) for x in labels), name)
    return found


def _role_scores(role: str, means: Means, per_seed: Sequence[Mapping[str, Any]], shares: Floats) -> dict[str, Any]:
    summary: dict[str, Any] = {
        name: means.rate(f"{role}.{name}", highest=HIGHEST.get(name, 1.0)) for name in ("accuracy", "xent", "brier")
    }
    there = shares[shares > 0]  # a mean of recalls is known as well as if it came from fewer, equally many rows of each
    summary["balanced_accuracy"] = means.rate(f"{role}.balanced_accuracy", share=len(there) ** 2 / (1 / there).sum())
    summary["auroc"] = means.area(f"{role}.auroc", shares.min()) if shares.all() else [None] * 3
    floor = float(np.mean([s[role]["ece_floor"] for s in per_seed]))
    summary["ece"] = ece_interval(means.spread({f"{role}.ece": 1.0}), floor)
    return summary | {"ece_floor": floor}


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


def _class_means(
    groups: Sequence[Ids], probs: Mapping[str, Sequence[Floats]], gold: Sequence[Ints], same: Mapping[str, str]
) -> Means | None:
    """``role.recall.c`` and ``role.precision.c`` of each class c; None for more than :data:`MOST_CLASSES` classes."""
    num_classes = next(iter(probs.values()))[0].shape[1]
    if num_classes > MOST_CLASSES:
        return None
    seeds = [
        {
            f"{role}.{name}": value
            for role, p in probs.items()
            for name, value in class_values(hardened(p[i]), right, num_classes).items()
        }
        for i, right in enumerate(gold)
    ]
    names = {f"{a}.recall.{c}": f"{b}.recall.{c}" for a, b in same.items() for c in range(num_classes)}
    return Means([Outcomes(groups=g, values=v) for g, v in zip(groups, seeds, strict=True)], names)


def _per_class(means: Means, probs: Mapping[str, Sequence[Floats]], gold: Sequence[Ints]) -> dict[str, Any]:
    """Of each role ``recall`` and ``precision`` of each class with intervals, and the ``confusion`` matrix, over all
    seeds."""
    num_classes = next(iter(probs.values()))[0].shape[1]
    made: dict[str, Any] = {"rows": np.bincount(np.concatenate(gold), minlength=num_classes).tolist()}
    for role, of_seeds in probs.items():
        said = np.concatenate([hardened(p) for p in of_seeds])
        made[role] = {
            **{k: [means.rate(f"{role}.{k}.{c}") for c in range(num_classes)] for k in ("recall", "precision")},
            "confusion": confusion(said, np.concatenate(gold), num_classes),
        }
    return made


def _widen_balanced(result: dict[str, Any], means: Means, roles: Iterable[str], there: Ints) -> None:
    """No balanced accuracy or gain is known better than the recalls of the classes ``there`` that it is the mean of."""
    for role in roles:
        recalls = [means.rate(f"{role}.recall.{c}") for c in there]
        result[role]["balanced_accuracy"] = widened(result[role]["balanced_accuracy"], recalls)
    if result["balanced_gain"] is not None:
        apart = [means.difference(f"student.recall.{c}", f"weak.recall.{c}").interval(-1.0, 1.0) for c in there]
        result["balanced_gain"] = widened(result["balanced_gain"], apart)


def _where_weak_abstains(texts: Examples, tests: Sequence[Labels], student: Sequence[Labels]) -> dict[str, Any] | None:
    """The student's accuracy on the test rows that the supervisor did not label, which are in no other score."""
    if not sum(map(len, tests)):
        return None
    right = [_right(s.take(t.ids), t) for s, t in zip(student, tests, strict=True)]
    groups = [texts.take(t.ids).groups for t in tests]
    means = Means([Outcomes(groups=g, values={"right": r}) for g, r in zip(groups, right, strict=True)])
    return {"rows": len(tests[0]), "student": {"accuracy": means.rate("right")}}


def gain_gap_and_pgr(means: Means, has_ceiling: bool, has_weak: bool = True) -> dict[str, Any]:
    """``gain``, ``gap``, ``pgr`` and, where there is none, the reason ``pgr_undefined``, from means of accuracies."""
    weak, student, ceiling = (f"{role}.accuracy" for role in ("weak", "student", "ceiling"))
    if not has_weak:
        return {"gain": None, "gap": None, "pgr": None, "pgr_undefined": "no test row has a weak label"}
    gain = means.difference(student, weak).interval(-1.0, 1.0)
    if not has_ceiling:
        return {"gain": gain, "gap": None, "pgr": None, "pgr_undefined": "there is no ceiling"}
    recovered, undefined = means.pgr(weak, student, ceiling)
    gap = means.difference(ceiling, weak).interval(-1.0, 1.0)
    return {"gain": gain, "gap": gap, "pgr": recovered, "pgr_undefined": undefined}


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
    PGR. Accuracy, its difference to the reference and PGR have the 95 % intervals of :class:`outgrow.metrics.Means`;
    ``difference_variance`` and ``difference_df`` are the variance of the difference and its degrees of freedom (null
    where nothing varies). Listed with the students are ``weak``, the reference's ``ceiling`` and ``majority``, which
    always says the most frequent class.
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
        right["majority"] = _majority(test.hard)
        outcomes.append(Outcomes(groups=texts.take(test.ids).groups, values=right))
    means = Means(outcomes, _same(given))

    def compared(name: str, ceiling: int = 0) -> dict[str, Any]:
        recovered: tuple[Interval | None, str | None] = (None, "there is no ceiling")
        if ceilings:
            recovered = means.pgr("weak", name, f"ceiling {ceiling}")
        difference = means.difference(name, "reference")
        return {
            "accuracy": means.rate(name),
            "difference": difference.interval(-1.0, 1.0),
            "difference_variance": difference.variance,
            "difference_df": difference.df,
            "pgr": recovered[0],
            "pgr_undefined": recovered[1],
            "ceiling": ceiling,
        }

    result = {
        "test_rows": len(truth[0]),
        "weak": compared("weak"),
        "majority": compared("majority"),
        "reference": compared("reference"),
        "ceiling": compared("ceiling 0") if ceilings else None,
        "students": [compared(f"student {i}", own) for i, own in enumerate(ceiling_of)],
    }
    plained: dict[str, Any] = plain(result)
    return plained


@step(version=1, said="compare with controls")
def against_controls(
    texts: Examples,
    truth: tuple[Labels | Answers, ...],
    student: tuple[Labels | Answers, ...],
    controls: tuple[tuple[Labels | Answers, ...], ...],
    names: tuple[str, ...],
) -> dict[str, Any]:
    """Accuracy of a student minus that of each of its controls, by name: paired by seed and test row, with intervals.

    ``truth``, ``student`` and each of ``controls`` have one element per seed.
    """
    outcomes = []
    for i, test in enumerate(truth):
        given = {"student": student[i], **{name: control[i] for name, control in zip(names, controls, strict=True)}}
        right = {name: _right(labels.take(test.ids), test) for name, labels in given.items()}
        outcomes.append(Outcomes(groups=texts.take(test.ids).groups, values=right))
    means = Means(outcomes)
    plained: dict[str, Any] = plain({name: means.difference("student", name).interval(-1.0, 1.0) for name in names})
    return plained


def _right(labels: Labels | Answers, truth: Labels | Answers) -> Floats:
    said, so = ((x.hard if isinstance(x, Labels) else np.array(x.texts)) for x in (labels, truth))
    right: Floats = (said == so).astype(np.float64)
    return right


@step(version=1)
def weak_agreement(labels: Labels, weak: Labels, split: Split, part: str) -> dict[str, float]:
    """How well predictions agree with the weak labels of ``part``: share of rows with the same class, cross-entropy in
    nats. What a setting may be chosen by: no gold."""
    ids = split.parts[part]  # a column that validates may lack labels
    said, taught = (given.take(ids[np.isin(ids, weak.ids)]) for given in (labels, weak))
    logs = np.log(np.maximum(said.probs.astype(np.float64), _EPSILON))
    return {
        "agreement": float((said.hard == taught.hard).mean()),
        "xent": float(-(taught.probs.astype(np.float64) * logs).sum(axis=1).mean()),
    }
