"""Steps that score: an experiment's three roles, several students side by side, agreement with the weak labels."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from outgrow.data import Examples, Floats, Labels, Split
from outgrow.engine.graph import step
from outgrow.metrics import (
    Interval,
    Outcomes,
    agreement,
    bootstrap_means,
    interval,
    per_example,
    pgr,
    pgr_interval,
    plain,
    scores,
)

__all__ = ["KEPT_DRAWS", "compare", "contrast", "gap_and_pgr", "weak_agreement"]

KEPT_DRAWS = 500
"""Bootstrap replicates of each accuracy that a contrast keeps, for intervals over many tasks and pairs."""
_EPSILON = 1e-7  # probabilities are kept this far from 0 in logarithms


@step(version=2)
def compare(
    texts: Examples,
    truth: tuple[Labels, ...],
    weak: tuple[Labels, ...],
    student: tuple[Labels, ...],
    ceiling: tuple[Labels, ...],
    seeds: tuple[int, ...],
    reading: Mapping[str, Mapping[str, int]] | None = None,
) -> dict[str, Any]:
    """Supervisor, student and ceiling (empty for none) on the same test rows: scores, agreement, PGR, with intervals.

    ``reading`` says how much of the texts ``weak`` and ``student`` read, if they cut them at all. ``learned`` is the
    student's agreement with the weak labels minus that of always saying their most frequent class: below zero it has
    not learned even that.
    One element of each tuple per seed. Intervals are 95 % of the hierarchical bootstrap over seeds and test groups.
    """
    roles = {"weak": weak, "student": student, **({"ceiling": ceiling} if ceiling else {})}
    outcomes, per_seed = [], []
    for i, seed in enumerate(seeds):
        test = truth[i]
        right = test.hard
        probs = {role: labels[i].take(test.ids).probs for role, labels in roles.items()}
        outcomes.append(_outcomes(texts.take(test.ids).groups, probs, right))
        scored = {role: scores(p, right) for role, p in probs.items()}
        same = agreement(probs["student"].argmax(axis=1), probs["weak"].argmax(axis=1), right)
        accuracy = [scored[role]["accuracy"] for role in roles]
        recovered = pgr(*accuracy) if ceiling else None
        per_seed.append({"seed": seed, "test_rows": len(test), **scored, "agreement": same, "pgr": recovered})
    means = bootstrap_means(outcomes)
    result = {
        "test_rows": sum(len(t) for t in truth),
        "test_rows_per_seed": len(truth[0]),
        "num_classes": truth[0].probs.shape[1],
        "majority": max(float(np.bincount(t.hard).max() / len(t)) for t in truth),
        "gain": interval(means["student.accuracy"] - means["weak.accuracy"]),
        "agreement": {k: interval(means[f"agreement.{k}"]) for k in ("all", "supervisor_right", "supervisor_wrong")},
        "learned": interval(means["agreement.all"] - means["agreement.majority"]),
        **{role: _role_scores(role, means, per_seed) for role in roles},
        **gap_and_pgr(means, bool(ceiling)),
        "reading": {role: dict(counts) for role, counts in (reading or {}).items()},
        "per_seed": per_seed,
    }
    plained: dict[str, Any] = plain(result)
    return plained


def _outcomes(groups: Any, probs: Mapping[str, Floats], right: Any) -> Outcomes:
    values = {f"{role}.{k}": v for role, p in probs.items() for k, v in per_example(p, right).items()}
    supervisor = probs["weak"].argmax(axis=1)
    same = (probs["student"].argmax(axis=1) == supervisor).astype(np.float64)
    values["agreement.all"] = same
    values["agreement.majority"] = (supervisor == np.bincount(supervisor).argmax()).astype(np.float64)
    values["agreement.supervisor_right"] = np.where(supervisor == right, same, np.nan)
    values["agreement.supervisor_wrong"] = np.where(supervisor != right, same, np.nan)
    return Outcomes(groups=groups, values=values)


def _role_scores(role: str, means: Mapping[str, Floats], per_seed: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    summary: dict[str, Any] = {k: interval(means[f"{role}.{k}"]) for k in ("accuracy", "xent", "brier")}
    for name in ("auroc", "ece"):  # not means over rows: over seeds, with the range of the seeds
        values = [s[role][name] for s in per_seed]
        summary[name] = Interval(float(np.mean(values)), min(values), max(values))
    return summary


def gap_and_pgr(means: Mapping[str, Floats], has_ceiling: bool) -> dict[str, Any]:
    """``gap``, ``pgr`` and, where there is none, the reason ``pgr_undefined``, from bootstrap means of accuracies."""
    if not has_ceiling:
        return {"gap": None, "pgr": None, "pgr_undefined": "there is no ceiling"}
    weak, student, ceiling = (means[f"{role}.accuracy"] for role in ("weak", "student", "ceiling"))
    recovered, undefined = pgr_interval(weak, student, ceiling)
    return {"gap": interval(ceiling - weak), "pgr": recovered, "pgr_undefined": undefined}


@step(version=1)
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
