"""What may be said of a student's gain before any gold of B or T is known: bounds, estimates, and warning signs.

The functions are arrays in, number out. None sees gold of B or T; those that use gold use that of A's held-out rows.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from outgrow.data import Examples, Features, Floats, Ints, Labels, Split, hardened, positions
from outgrow.engine.graph import step
from outgrow.labels.structure import standardized
from outgrow.metrics import plain

__all__ = [
    "accuracy_by_second",
    "disagreement",
    "domain_auc",
    "forecast",
    "kl_misfit",
    "misfit",
    "not_robust",
    "share_shift",
    "shift",
    "triplet_accuracy",
]

_EPSILON = 1e-7  # probabilities are kept this far from 0 under a logarithm, as in the scores
_NEIGHBOURS = 5
_FOLDS = 5
_L2 = 100.0  # of the classifier of A against T: there are nearly as many features as rows


def misfit(student: Floats, weak: Floats) -> float:
    """Mean squared distance of two sets of probabilities (n, C), summed over classes as the Brier score is.

    **Bound** (Charikar et al. 2024, arXiv 2405.15116, theorem 1): where the student is the least-squares projection of
    the weak labels onto a convex class of functions that holds the truth, it gains at least this much Brier score:
    E|w - y|² - E|f - y|² >= E|f - w|². A student with a logistic link, a finite sample, regularisation, or a truth that
    it cannot express breaks the premise.
    """
    return float(((student.astype(np.float64) - weak) ** 2).sum(axis=1).mean())


def kl_misfit(student: Floats, weak: Floats) -> float:
    """Mean KL divergence in nats of the weak labels from the student's, KL(f || w), both (n, C).

    **Bound** (after arXiv 2501.19105, Bregman divergences): where the student minimises KL(f || w) over a convex class
    that holds the truth, it gains at least this much cross-entropy. Training on weak labels minimises KL(w || f)
    instead, so that the premise does not hold for the students of this package; it is shown beside the truth.
    """
    f, w = (np.maximum(p.astype(np.float64), _EPSILON) for p in (student, weak))
    return float((f * np.log(f / w)).sum(axis=1).mean())


def disagreement(student: Ints, weak: Ints) -> float:
    """Share of rows (n,) where two say different classes: err(f, w).

    **Bound**, without any premise: two accuracies on the same rows differ by no more.
    """
    return float((student != weak).mean())


def not_robust(student: Ints, near: Ints) -> float:
    """Share of rows (n,) whose class differs from that of any of their neighbours (n, k), row numbers: P(not R).

    With err(f, w) this is what is free of labels in the bounds of Lang et al. 2024 (arXiv 2405.16043, theorem 4.1):
    err(f, y) <= 2a / (1 - 2a) P(not R) + err(f, w) + a (1 - 3c / 2) within a class whose weak labels err with a, if
    rows with wrong labels have neighbours with right ones (expansion c). A student that is steady among neighbours and
    near its labels can only be far from the truth if the labels' errors are steady too.
    """
    return float((student[near] != student[:, None]).any(axis=1).mean())


def triplet_accuracy(one: Ints, two: Ints, three: Ints, num_classes: int) -> float:
    """Accuracy of ``one`` from how often three predictions (n,) agree: NaN where they agree no more than by chance.

    **Exact** where the three err independently given the truth, and every class alike: with r = (C acc - 1) / (C - 1)
    and R the same of an agreement, R_12 = r_1 r_2, so r_1² = R_12 R_13 / R_23 (for two classes r = 1 - 2 err, the
    method of triplets of Fu et al. 2020, arXiv 2002.11955). Errors that two views share make both look better.
    An estimate above 1 is given as 1.
    """
    r12, r13, r23 = (_above_chance((a == b).mean(), num_classes) for a, b in ((one, two), (one, three), (two, three)))
    if min(r12, r13, r23) <= 0:
        return math.nan
    return _accuracy(min(1.0, math.sqrt(r12 * r13 / r23)), num_classes)


def accuracy_by_second(one: Ints, second: Ints, accuracy: float, num_classes: int) -> float:
    """Accuracy of ``one`` from how often it agrees with a second supervisor (n,) of known ``accuracy``; NaN if that is
    no better than chance.

    **Exact** under the independence of :func:`triplet_accuracy`: for two classes P(agree) = acc (2a - 1) + 1 - a.
    """
    known = _above_chance(accuracy, num_classes)
    if known <= 0:
        return math.nan
    return _accuracy(_above_chance((one == second).mean(), num_classes) / known, num_classes)


def share_shift(weak_a: Floats, weak_b: Floats) -> float:
    """How far the class shares that a supervisor gives to new rows (m, C) are from those it gives to A's held-out rows
    (n, C): half the sum of absolute differences, in [0, 1]. Chance alone shows something like sqrt(p (1 - p) / n)."""
    return float(np.abs(weak_a.mean(axis=0, dtype=np.float64) - weak_b.mean(axis=0, dtype=np.float64)).sum() / 2)


def domain_auc(a: Floats, b: Floats, groups_a: NDArray[Any], groups_b: NDArray[Any]) -> float:
    """How well features (n, d) of A are told from those of new rows (m, d): the area under the ROC curve of a logistic
    classifier on rows it did not train on. One half means no difference that it can see.

    Related rows, which share a group (n,) and (m,), are in the same fold. NaN with fewer groups than folds.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedGroupKFold
    from threadpoolctl import threadpool_limits

    if min(len(np.unique(groups_a)), len(np.unique(groups_b))) < _FOLDS:
        return math.nan
    rows, is_b = np.concatenate([a, b]).astype(np.float64), np.repeat([0, 1], [len(a), len(b)])
    scored = np.zeros(len(rows))
    folds = StratifiedGroupKFold(_FOLDS, shuffle=True, random_state=0)
    with threadpool_limits(limits=1):
        for train, held_out in folds.split(rows, is_b, np.concatenate([groups_a, groups_b])):
            fitted, shown = standardized(rows[train], rows[held_out])
            model = LogisticRegression(C=1 / _L2, max_iter=200).fit(fitted, is_b[train])
            scored[held_out] = model.decision_function(shown)
    return float(roc_auc_score(is_b, scored))


def _above_chance(agreement: float, num_classes: int) -> float:
    return (num_classes * float(agreement) - 1) / (num_classes - 1)


def _accuracy(above_chance: float, num_classes: int) -> float:
    return ((num_classes - 1) * above_chance + 1) / num_classes


# --- steps ------------------------------------------------------------------------------------------------------------


@step(version=1, said="compare A with T")
def shift(texts: Examples, features: Features, view: str, split: Split, weak_a: Labels, weak: Labels) -> dict[str, Any]:
    """Signs that T (and so B) is unlike A, as a supervisor sees it: :func:`share_shift` and :func:`domain_auc`.

    ``features`` are the supervisor's; ``weak_a`` its labels of A's held-out rows, ``weak`` those of T.
    """
    matrix = features.views[view]
    flat = matrix if matrix.ndim == 2 else matrix.mean(axis=1)  # a choice: the mean of its candidates
    parts = [split.ids(("A", "A_val")), split.parts["T"]]
    (a, b), (groups_a, groups_b) = (
        [flat[positions(ids, features.ids)] for ids in parts],
        [texts.take(ids).groups for ids in parts],
    )
    found: dict[str, Any] = plain(
        {
            "share_shift": share_shift(weak_a.probs, weak.take(parts[1]).probs),
            "domain_auc": domain_auc(a, b, groups_a, groups_b),
        }
    )
    return found


@step(version=1, said="forecast gains")
def forecast(
    student: tuple[Labels, ...],
    weak: tuple[Labels, ...],
    weak_a: tuple[Labels, ...],
    gold_a: tuple[Labels, ...],
    shifts: tuple[dict[str, Any], ...],
    features: Features,
    view: str,
    second: tuple[Labels, ...] = (),
    second_a: tuple[Labels, ...] = (),
    third: tuple[Labels, ...] = (),
    other: tuple[Labels, ...] = (),
) -> dict[str, Any]:
    """What every predictor says of a student's gain on T, seed by seed, without gold of T or B.

    All tuples have one element per seed. ``weak_a`` are the supervisor's labels of A's held-out rows, and ``gold_a``
    their gold; ``shifts`` are results of :func:`shift`; ``features`` are the student's. ``second`` and ``third`` are
    labels of T by two more supervisors, ``second_a`` those of A's held-out rows by the first of them, ``other`` those
    of a student of the third; without them there is no triplet. Numbers that are undefined are null.

    ``misfit``, ``kl_misfit``, ``disagreement``, ``not_robust`` (among 5 neighbours in T; null for choices),
    ``expansion`` (the sum of the last two), ``share_shift`` and ``domain_auc`` are as their functions say.
    ``weak_error`` is the supervisor's error on A's held-out rows. ``risk`` is its Brier score there less the misfit,
    which bounds the student's from above where the misfit's premises hold. ``second``, ``triplet`` (supervisor or
    student, second supervisor, student of the third) and ``triplet_supervisors`` (supervisor or student, second and
    third supervisor) estimate the gain: accuracy of the student less the supervisor's.
    """
    per_seed = []
    for i, (own, taught) in enumerate(zip(student, weak, strict=True)):
        ids = own.ids
        w, gold = taught.take(ids), gold_a[i].take(weak_a[i].ids)
        found = _of_pair(own, w) | {"not_robust": _steadiness(own, features, view)}
        apart = found["not_robust"]
        found["expansion"] = None if apart is None else found["disagreement"] + apart
        found["weak_error"] = disagreement(weak_a[i].hard, gold.hard)
        found["risk"] = misfit(weak_a[i].probs, gold.probs) - found["misfit"]
        found |= shifts[i]
        if second:
            views = [labels[i].take(ids).hard for labels in (second, third, other)]
            known = 1 - disagreement(second_a[i].take(gold.ids).hard, gold.hard)
            found |= _by_views(own.hard, w.hard, views, known, own.probs.shape[1])
        per_seed.append(found)
    plained: dict[str, Any] = plain({"per_seed": per_seed})
    return plained


def _of_pair(student: Labels, weak: Labels) -> dict[str, Any]:
    return {
        "misfit": misfit(student.probs, weak.probs),
        "kl_misfit": kl_misfit(student.probs, weak.probs),
        "disagreement": disagreement(student.hard, weak.hard),
    }


def _steadiness(student: Labels, features: Features, view: str) -> float | None:
    from sklearn.neighbors import NearestNeighbors

    matrix = features.views[view]
    if matrix.ndim > 2 or len(student) <= _NEIGHBOURS:
        return None
    (rows,) = standardized(matrix[positions(student.ids, features.ids)].astype(np.float64))
    near = NearestNeighbors(n_neighbors=_NEIGHBOURS, algorithm="brute").fit(rows).kneighbors(return_distance=False)
    return not_robust(hardened(student.probs), near)


def _by_views(student: Ints, weak: Ints, views: list[Ints], known: float, num_classes: int) -> dict[str, float]:
    """Estimated accuracy of the student less that of the supervisor, in three ways."""
    second, third, other = views

    def gain(estimate: Any) -> float:
        return float(estimate(student) - estimate(weak))

    return {
        "second": gain(lambda one: accuracy_by_second(one, second, known, num_classes)),
        "triplet": gain(lambda one: triplet_accuracy(one, second, other, num_classes)),
        "triplet_supervisors": gain(lambda one: triplet_accuracy(one, second, third, num_classes)),
    }
