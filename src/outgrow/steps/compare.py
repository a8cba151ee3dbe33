"""Steps that score: an experiment's three roles, several students side by side, agreement with the weak labels."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from outgrow.data import Answers, Examples, Floats, Labels, Split
from outgrow.engine.graph import step
from outgrow.metrics import (
    HIGHEST,
    Interval,
    Means,
    Outcomes,
    agreement,
    ece_floor,
    ece_interval,
    per_example,
    pgr,
    plain,
    scores,
)

__all__ = ["against_controls", "compare", "contrast", "gain_gap_and_pgr", "weak_agreement"]

_EPSILON = 1e-7  # probabilities are kept this far from 0 in logarithms


@step(version=2)
def compare(
    texts: Examples,
    truth: tuple[Labels, ...],
    weak: tuple[Labels, ...],
    student: tuple[Labels, ...],
    ceiling: tuple[Labels, ...],
    seeds: tuple[int, ...],
) -> dict[str, Any]:
    """Supervisor, student and ceiling (empty for none) on the same test rows: scores, agreement, PGR, with intervals.

    One element of each tuple per seed. Intervals are those of :class:`outgrow.metrics.Means`. ``ece_floor`` is the
    calibration error that perfect calibration would show on as many rows; the lower end of ``ece`` is lower by it.
    """
    roles = {"weak": weak, "student": student, **({"ceiling": ceiling} if ceiling else {})}
    outcomes, per_seed = [], []
    for i, seed in enumerate(seeds):
        test = truth[i]
        right = test.hard
        probs = {role: labels[i].take(test.ids).probs for role, labels in roles.items()}
        outcomes.append(_outcomes(texts.take(test.ids).groups, probs, right))
        scored: dict[str, Any] = {role: scores(p, right) | {"ece_floor": ece_floor(p)} for role, p in probs.items()}
        same = agreement(probs["student"].argmax(axis=1), probs["weak"].argmax(axis=1), right)
        accuracy = [scored[role]["accuracy"] for role in roles]
        recovered = pgr(*accuracy) if ceiling else None
        per_seed.append({"seed": seed, "test_rows": len(test), **scored, "agreement": same, "pgr": recovered})
    means = Means(outcomes, {f"{a}.accuracy": f"{b}.accuracy" for a, b in _same(roles).items()})
    rarest = min(float(np.bincount(t.hard, minlength=t.probs.shape[1]).min() / len(t)) for t in truth)
    result = {
        "test_rows": sum(len(t) for t in truth),
        "test_rows_per_seed": len(truth[0]),
        "num_classes": truth[0].probs.shape[1],
        "majority": max(float(np.bincount(t.hard).max() / len(t)) for t in truth),
        "over_majority": means.difference("student.accuracy", "majority").interval(-1.0, 1.0),
        "agreement": {k: means.rate(f"agreement.{k}") for k in ("all", "supervisor_right", "supervisor_wrong")},
        **{role: _role_scores(role, means, per_seed, rarest) for role in roles},
        **gain_gap_and_pgr(means, bool(ceiling)),
        "per_seed": per_seed,
    }
    plained: dict[str, Any] = plain(result)
    return plained


def _outcomes(groups: Any, probs: Mapping[str, Floats], right: Any) -> Outcomes:
    values = {f"{role}.{k}": v for role, p in probs.items() for k, v in per_example(p, right).items()}
    supervisor = probs["weak"].argmax(axis=1)
    same = (probs["student"].argmax(axis=1) == supervisor).astype(np.float64)
    values["agreement.all"] = same
    values["agreement.supervisor_right"] = np.where(supervisor == right, same, np.nan)
    values["agreement.supervisor_wrong"] = np.where(supervisor != right, same, np.nan)
    values["majority"] = _majority(right)
    return Outcomes(groups=groups, values=values)


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


def _role_scores(role: str, means: Means, per_seed: Sequence[Mapping[str, Any]], rarest: float) -> dict[str, Any]:
    summary: dict[str, Any] = {
        name: means.rate(f"{role}.{name}", highest=HIGHEST.get(name, 1.0)) for name in ("accuracy", "xent", "brier")
    }
    summary["auroc"] = means.area(f"{role}.auroc", rarest) if rarest else [None] * 3
    floor = float(np.mean([s[role]["ece_floor"] for s in per_seed]))
    summary["ece"] = ece_interval(means.spread({f"{role}.ece": 1.0}), floor)
    return summary | {"ece_floor": floor}


def gain_gap_and_pgr(means: Means, has_ceiling: bool) -> dict[str, Any]:
    """``gain``, ``gap``, ``pgr`` and, where there is none, the reason ``pgr_undefined``, from means of accuracies."""
    weak, student, ceiling = (f"{role}.accuracy" for role in ("weak", "student", "ceiling"))
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
    said, taught = (given.take(split.parts[part]) for given in (labels, weak))
    logs = np.log(np.maximum(said.probs.astype(np.float64), _EPSILON))
    return {
        "agreement": float((said.hard == taught.hard).mean()),
        "xent": float(-(taught.probs.astype(np.float64) * logs).sum(axis=1).mean()),
    }
