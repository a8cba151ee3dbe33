"""Transforms that ask a logistic regression on the student's features: what a first student would say."""

from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from outgrow.data import Floats, Labels
from outgrow.errors import UserError
from outgrow.labels.base import (
    Doubles,
    TransformInputs,
    between,
    confidence,
    handed,
    highest_of_each,
    in_range,
    relabelled,
    transform,
)
from outgrow.labels.neighbours import drop_most, smoothed
from outgrow.labels.structure import logistic

__all__ = [
    "ConfidentLearning",
    "Logistic",
    "LogisticFilter",
    "NoisyChannel",
    "Refine",
    "Selective",
    "cross_fitted",
]

_PROBES = "blog.eleuther.ai/weak-to-strong and EleutherAI/w2s, probe.py"
_FITS = "a logistic regression for each fold"


@transform
class Logistic:
    """Each label becomes what a logistic regression says that was fitted on the labels of the other folds."""

    needs: ClassVar[frozenset[str]] = frozenset({"features", "seed"})
    drops: ClassVar[bool] = False
    soft: ClassVar[bool] = False
    source: ClassVar[str] = f"{_PROBES}, logreg relabel"
    cost: ClassVar[str] = _FITS

    l2: float = 0.01
    """Weight of |w|^2 / 2 beside the mean loss, as of a probe."""
    folds: int = 5
    mix: float = 1.0
    """Share of the regression in the new label; 0 leaves the labels as they are."""

    def __post_init__(self) -> None:
        _check(self)
        in_range(self, 0, 1, "mix")

    def __call__(self, labels: Labels, given: TransformInputs) -> Labels:
        said = cross_fitted(handed(given.features), labels.probs, self, given.seed)
        return relabelled(labels, between(self.mix, said, labels.probs), self)


@transform
class LogisticFilter:
    """Without the rows whose label is furthest from what a logistic regression on the other folds says."""

    needs: ClassVar[frozenset[str]] = frozenset({"features", "seed"})
    drops: ClassVar[bool] = True
    soft: ClassVar[bool] = False
    source: ClassVar[str] = f"{_PROBES}, logreg filter"
    cost: ClassVar[str] = _FITS

    l2: float = 0.01
    """Weight of |w|^2 / 2 beside the mean loss, as of a probe."""
    folds: int = 5
    drop: float = 0.1
    """Share of rows left out."""

    def __post_init__(self) -> None:
        _check(self)
        in_range(self, 0, 1, "drop")

    def __call__(self, labels: Labels, given: TransformInputs) -> Labels:
        return drop_most(labels, cross_fitted(handed(given.features), labels.probs, self, given.seed), self.drop)


@transform
class Refine:
    """Two stages: the sure rows with their weak labels, and of the rest those a first student is sure of, as it says.

    Shi et al. 2025, where sure means the same answer in several samples and both students are finetuned. Here the first
    student is a logistic regression on the frozen features, and sure means among the highest probabilities of a class.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"features"})
    drops: ClassVar[bool] = True
    soft: ClassVar[bool] = True
    source: ClassVar[str] = "Shi et al. 2025 (arXiv 2503.04249), two-stage refinement"
    cost: ClassVar[str] = "one logistic regression"

    share: float = 0.5
    """Share of each class kept, first of the supervisor's, then of the student's; 1 keeps the weak labels."""
    l2: float = 0.01
    """Weight of |w|^2 / 2 beside the mean loss, as of a probe."""

    def __post_init__(self) -> None:
        _check(self)
        in_range(self, 0, 1, "share")

    def __call__(self, labels: Labels, given: TransformInputs) -> Labels:
        features = handed(given.features)
        first = highest_of_each(confidence(labels.probs), self.share, labels.hard, labels.ids)
        if not first.any() or first.all():
            return labels
        said = logistic(features[first], labels.probs[first], self.l2)(features)
        rest = np.flatnonzero(~first)
        sure = highest_of_each(confidence(said[rest]), self.share, said[rest].argmax(axis=1), labels.ids[rest])
        kept = first.copy()
        kept[rest[sure]] = True
        mixed = relabelled(labels, np.where(first[:, None], labels.probs, said), self)
        return mixed.take(labels.ids[kept])


@transform
class Selective:
    """The student's own label where it seems to know, P(IK), else the weak label smoothed over the graph of rows.

    Lang et al. 2025 train the classifier P(IK) on questions known to be answered rightly. Without gold, here knowing is
    foretold from agreement: a logistic regression, fitted on other folds, says whether the student's answer (of another
    regression, fitted on other folds) will be the supervisor's.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"features", "seed"})
    drops: ClassVar[bool] = False
    soft: ClassVar[bool] = False
    source: ClassVar[str] = "Lang et al. 2025 (arXiv 2511.14166), selective W2SG; P(IK) from agreement"
    cost: ClassVar[str] = "two logistic regressions for each fold; all distances"

    threshold: float = 0.7
    """P(IK) above which the own label is taken; 1 never."""
    k: int = 20
    alpha: float = 0.5
    """How far weak labels travel; 0 (with ``threshold`` 1) leaves the labels as they are."""
    l2: float = 0.01
    """Weight of |w|^2 / 2 beside the mean loss, as of a probe."""
    folds: int = 5

    def __post_init__(self) -> None:
        _check(self)
        in_range(self, 0, 1, "threshold")
        in_range(self, 1, float("inf"), "k")
        in_range(self, 0, 0.999, "alpha")

    def __call__(self, labels: Labels, given: TransformInputs) -> Labels:
        features = handed(given.features)
        own = cross_fitted(features, labels.probs, self, given.seed)
        same = (own.argmax(axis=1) == labels.hard).astype(np.float64)
        knows = cross_fitted(features, np.stack([1 - same, same], axis=1), self, given.seed + 1)[:, 1]
        weak = smoothed(labels.probs, features, self.k, self.alpha, self)
        return relabelled(labels, np.where((knows > self.threshold)[:, None], own, weak), self)


@transform
class NoisyChannel:
    """The truth as the hidden word of a noisy channel: posterior p(y | x, weak) of student and channel, by EM.

    q(y | x, w) is proportional to p(y | x) p(w | y), with w the supervisor's class. In turns: a logistic regression is
    fitted to q (and speaks of other folds only), the channel's C x C table is counted from q, and q is made anew.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"features", "seed"})
    drops: ClassVar[bool] = False
    soft: ClassVar[bool] = False
    source: ClassVar[str] = "idea list of safety-research/automated-w2s-research; Dawid & Skene 1979 with features"
    cost: ClassVar[str] = "a logistic regression for each fold and round"

    rounds: int = 3
    """0 leaves the labels as they are."""
    l2: float = 0.01
    """Weight of |w|^2 / 2 beside the mean loss, as of a probe."""
    folds: int = 5

    def __post_init__(self) -> None:
        _check(self)
        in_range(self, 0, float("inf"), "rounds")

    def __call__(self, labels: Labels, given: TransformInputs) -> Labels:
        truth, heard = labels.probs.astype(np.float64), np.eye(labels.probs.shape[1])[labels.hard]
        for _ in range(self.rounds):
            believed = cross_fitted(handed(given.features), truth, self, given.seed)
            channel = truth.T @ heard + 1  # one word more of each, so that none is impossible
            channel /= channel.sum(axis=1, keepdims=True)
            truth = believed * (heard @ channel.T)
            truth /= truth.sum(axis=1, keepdims=True)
        return relabelled(labels, truth, self)


@transform
class ConfidentLearning:
    """Without the rows that confident learning takes for mislabelled, by a logistic regression on the other folds.

    cleanlab's ``find_label_issues`` on the hardened labels.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"features", "seed"})
    drops: ClassVar[bool] = True
    soft: ClassVar[bool] = False
    source: ClassVar[str] = "Northcutt et al. 2021 (arXiv 1911.00068), by cleanlab"
    cost: ClassVar[str] = _FITS

    filter_by: str = "prune_by_noise_rate"
    """As in cleanlab: ``prune_by_noise_rate``, ``prune_by_class``, ``both``, ``confident_learning``,
    ``predicted_neq_given``."""
    l2: float = 0.01
    """Weight of |w|^2 / 2 beside the mean loss, as of a probe."""
    folds: int = 5

    def __post_init__(self) -> None:
        from outgrow.errors import unknown_name

        known = ("prune_by_noise_rate", "prune_by_class", "both", "confident_learning", "predicted_neq_given")
        if self.filter_by not in known:
            raise unknown_name("ConfidentLearning filter_by", self.filter_by, known)
        _check(self)

    def __call__(self, labels: Labels, given: TransformInputs) -> Labels:
        from cleanlab.filter import find_label_issues

        if len(np.unique(labels.hard)) < labels.probs.shape[1]:
            raise UserError("ConfidentLearning needs labels of every class; the supervisor gave some class to no row")
        said = cross_fitted(handed(given.features), labels.probs, self, given.seed)
        wrong = find_label_issues(labels=labels.hard, pred_probs=said, filter_by=self.filter_by, n_jobs=1)
        return replace(labels, source=f"{labels.source}, {type(self).__name__}").take(labels.ids[~wrong])


def cross_fitted(features: Doubles, probs: Floats, of: Any, seed: int) -> Doubles:
    """What a logistic regression says (n, C) of each row that was fitted on the other folds."""
    n, folds = len(features), of.folds
    if n < folds:
        raise UserError(f"{type(of).__name__} needs at least {folds} rows for its folds, there are {n}")
    place = np.random.default_rng([seed, 2]).permutation(n) % folds
    said = np.zeros(probs.shape, dtype=np.float64)
    for fold in range(folds):
        here = place == fold
        said[here] = logistic(features[~here], probs[~here], of.l2)(features[here])
    return said


def _check(value: Any) -> None:
    in_range(value, 0, float("inf"), "l2")
    if hasattr(value, "folds"):
        in_range(value, 2, float("inf"), "folds")
