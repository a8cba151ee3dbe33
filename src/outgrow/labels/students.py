"""Transforms that ask a logistic regression on the student's features: what a first student would say."""

from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np

from outgrow.data import Floats, Labels
from outgrow.errors import UserError
from outgrow.labels.base import (
    Doubles,
    Transform,
    TransformInputs,
    between,
    confidence,
    handed,
    highest_of_each,
    relabelled,
    transform,
)
from outgrow.labels.neighbours import drop_most, smoothed
from outgrow.labels.structure import logistic
from outgrow.registry import OneOf, Range

__all__ = ["ConfidentLearning", "LogisticFilter", "LogisticRelabel", "NoisyChannel", "Selective", "TwoStage"]

_PROBES = "blog.eleuther.ai/weak-to-strong and EleutherAI/w2s, probe.py"


@dataclass(frozen=True, kw_only=True)
class _CrossFitting(Transform):
    """Asks, about each row, a logistic regression that was fitted on the other folds."""

    needs = frozenset({"features", "seed"})
    cost = "a logistic regression for each fold"

    l2: Annotated[float, Range(0)] = 0.01
    """Weight of |w|^2 / 2 beside the mean loss, as in a probe."""
    folds: Annotated[int, Range(2)] = 5

    def predicted(self, given: TransformInputs, probs: Floats, seed: int) -> Doubles:
        """What the regressions on the labels ``probs`` (n, C) say (n, C)."""
        features = handed(given.features)
        n = len(features)
        if n < self.folds:
            raise UserError(f"{type(self).__name__} needs at least {self.folds} rows for its folds, there are {n}")
        place = np.random.default_rng([seed, 2]).permutation(n) % self.folds
        found = np.zeros(probs.shape, dtype=np.float64)
        for fold in range(self.folds):
            here = place == fold
            found[here] = logistic(features[~here], probs[~here], self.l2)(features[here])
        return found


@transform
class LogisticRelabel(_CrossFitting):
    """Each label becomes what a logistic regression says that was fitted on the labels of the other folds."""

    version = 1
    source = f"{_PROBES}, logreg relabel"

    mix: Annotated[float, Range(0, 1)] = 1.0
    """Share of the regression in the new label; 0 leaves the labels as they are."""

    def __call__(self, labels: Labels, given: TransformInputs) -> Labels:
        found = self.predicted(given, labels.probs, given.seed)
        return relabelled(labels, between(self.mix, found, labels.probs), self)


@transform
class LogisticFilter(_CrossFitting):
    """Drops the rows whose label is furthest from what a logistic regression on the other folds says."""

    version = 1
    drops = True
    source = f"{_PROBES}, logreg filter"

    drop: Annotated[float, Range(0, 1)] = 0.1
    """Share of rows dropped."""

    def __call__(self, labels: Labels, given: TransformInputs) -> Labels:
        return drop_most(labels, self.predicted(given, labels.probs, given.seed), self.drop)


@transform
class TwoStage(Transform):
    """Two stages: the sure rows with their weak labels, then those of the rest that a first student is sure of.

    Two-stage refinement of Shi et al. 2025, where sure means the same answer in several samples and both students are
    finetuned. Here the first student is a logistic regression on the frozen features, which labels the rows of the
    second stage, and sure means among the highest probabilities of a class.
    """

    version = 1
    needs = frozenset({"features"})
    drops = True
    soft = True
    source = "Shi et al. 2025 (arXiv 2503.04249), two-stage refinement"
    cost = "one logistic regression"

    share: Annotated[float, Range(0, 1)] = 0.5
    """Share of each class kept, first of the supervisor's, then of the student's; 1 keeps the weak labels."""
    l2: Annotated[float, Range(0)] = 0.01
    """Weight of |w|^2 / 2 beside the mean loss, as in a probe."""

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
class Selective(_CrossFitting):
    """The student's own label where it seems to know, P(IK), else the weak label smoothed over the graph of rows.

    Lang et al. 2025 train the classifier P(IK) on questions known to be answered correctly. Here, without gold, knowing
    is predicted from agreement: a logistic regression, fitted on other folds, says whether the student's answer (from
    another regression, fitted on other folds) will be the supervisor's.
    """

    version = 1
    source = "Lang et al. 2025 (arXiv 2511.14166), selective W2SG; P(IK) from agreement"
    cost = "two logistic regressions for each fold; all distances"

    threshold: Annotated[float, Range(0, 1)] = 0.7
    """P(IK) above which the student's own label is taken; 1 never takes it."""
    k: Annotated[int, Range(1)] = 20
    alpha: Annotated[float, Range(0, 0.999)] = 0.5
    """How far weak labels travel; 0 (with ``threshold`` 1) leaves the labels as they are."""

    def __call__(self, labels: Labels, given: TransformInputs) -> Labels:
        own = self.predicted(given, labels.probs, given.seed)
        same = (own.argmax(axis=1) == labels.hard).astype(np.float64)
        knows = self.predicted(given, np.stack([1 - same, same], axis=1), given.seed + 1)[:, 1]
        weak = smoothed(labels.probs, given, self)
        return relabelled(labels, np.where((knows > self.threshold)[:, None], own, weak), self)


@transform
class NoisyChannel(_CrossFitting):
    """The truth as the hidden word of a noisy channel: posterior p(y | x, weak) of student and channel, by EM.

    q(y | x, w) is proportional to p(y | x) p(w | y), with w the supervisor's class. In turns, a logistic regression is
    fitted to q (and asked about other folds only), the channel's C x C table is counted from q, and q is updated.
    """

    version = 1
    source = "idea list of safety-research/automated-w2s-research; Dawid & Skene 1979 with features"
    cost = "a logistic regression for each fold and round"

    rounds: Annotated[int, Range(0)] = 3
    """0 leaves the labels as they are."""

    def __call__(self, labels: Labels, given: TransformInputs) -> Labels:
        truth, heard = labels.probs.astype(np.float64), np.eye(labels.probs.shape[1])[labels.hard]
        for _ in range(self.rounds):
            believed = self.predicted(given, truth, given.seed)
            channel = truth.T @ heard + 1  # one more word of each kind, so that none is impossible
            channel /= channel.sum(axis=1, keepdims=True)
            truth = believed * (heard @ channel.T)
            truth /= truth.sum(axis=1, keepdims=True)
        return relabelled(labels, truth, self)


@transform
class ConfidentLearning(_CrossFitting):
    """Drops the rows that confident learning takes for mislabelled, by a logistic regression on the other folds.

    cleanlab's ``find_label_issues`` on the hardened labels.
    """

    version = 1
    drops = True
    source = "Northcutt et al. 2021 (arXiv 1911.00068), by cleanlab"

    filter_by: Annotated[
        str,
        OneOf("prune_by_noise_rate", "prune_by_class", "both", "confident_learning", "predicted_neq_given"),
    ] = "prune_by_noise_rate"
    """As in cleanlab."""

    def __call__(self, labels: Labels, given: TransformInputs) -> Labels:
        from cleanlab.filter import find_label_issues

        if len(np.unique(labels.hard)) < labels.probs.shape[1]:
            raise UserError("ConfidentLearning needs labels of every class; the supervisor gave some class to no row")
        found = self.predicted(given, labels.probs, given.seed)
        wrong = find_label_issues(labels=labels.hard, pred_probs=found, filter_by=self.filter_by, n_jobs=1)
        return replace(labels, source=f"{labels.source}, {type(self).__name__}").take(labels.ids[~wrong])
