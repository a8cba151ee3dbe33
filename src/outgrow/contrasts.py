"""Students of one task and pair side by side: paired differences, and agreement with the weak labels."""

from typing import Any

import numpy as np

from outgrow.data import Examples, Floats, Labels, Split
from outgrow.graph import step
from outgrow.metrics import Interval, Outcomes, bootstrap_means, interval, pgr_interval, plain

__all__ = ["KEPT_DRAWS", "contrast", "weak_agreement"]

KEPT_DRAWS = 500
"""Bootstrap replicates of each accuracy that a contrast keeps, for intervals over many tasks and pairs."""
_EPSILON = 1e-7  # probabilities are kept this far from 0 in logarithms


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
