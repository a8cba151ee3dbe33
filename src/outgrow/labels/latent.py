"""Hidden classes: from one supervisor and the student's features, or from several supervisors alone."""

from collections.abc import Sequence
from typing import Annotated

import numpy as np

from outgrow.data import Floats, Labels
from outgrow.labels.base import (
    Doubles,
    LabelModel,
    Transform,
    TransformInputs,
    handed,
    label_model,
    relabelled,
    transform,
)
from outgrow.labels.structure import principal_directions
from outgrow.registry import Range

__all__ = ["AnchoredEM", "DawidSkene", "MeanVote"]


@transform
class AnchoredEM(Transform):
    """Classes as Gaussian clouds in the student's features, held near the weak labels; posterior by EM.

    Every class has a mean; all share one covariance, shrunk towards a multiple of the identity, on the top principal
    components. A row's log-odds are those of the clouds plus ``anchor`` times the supervisor's; rows without a label
    (the supervisor's own texts) help to place the clouds. With one covariance the posterior is linear in the features:
    a linear discriminant fitted to structure and labels at once. Our own construction.
    """

    version = 1
    needs = frozenset({"features", "unlabelled"})
    soft = True
    source = "Outgrow; EM for Gaussian mixtures (Dempster et al. 1977) anchored at soft labels"
    cost = "principal components once: n d^2; then little"

    components: Annotated[int, Range(1)] = 256
    """How many principal components are used at most."""
    shrinkage: Annotated[float, Range(1e-6, 1)] = 0.3
    """Share of the spherical covariance."""
    anchor: Annotated[float, Range(0)] = 0.5
    """Weight of the supervisor's log-odds; a very large one gives its hardened labels."""
    rounds: Annotated[int, Range(0)] = 50
    """At most; it stops once nothing moves by 1e-6. 0 leaves the labels as they are."""

    def __call__(self, labels: Labels, given: TransformInputs) -> Labels:
        features = np.concatenate([handed(given.features), handed(given.unlabelled)])
        n, centered = len(labels), features - features.mean(axis=0)
        points = centered @ principal_directions(centered, min(self.components, len(centered) - 1))
        anchor = np.zeros((len(points), labels.probs.shape[1]))
        anchor[:n] = self.anchor * np.log(np.maximum(labels.probs.astype(np.float64), 1e-6))
        belief = labels.probs.astype(np.float64)
        for _ in range(self.rounds):
            before = belief
            belief = _softmax(anchor + _log_odds(points, points[: len(before)], before, self.shrinkage))
            if len(before) == len(belief) and np.abs(belief - before).max() < 1e-6:
                break
        return relabelled(labels, belief[:n], self)


def _log_odds(points: Doubles, known: Doubles, belief: Doubles, shrinkage: float) -> Doubles:
    """Log of share times density (n, C) of clouds fitted to ``belief`` on ``known``, minus what all classes share."""
    mass = belief.sum(axis=0) + 1e-9
    means = (belief.T @ known) / mass[:, None]
    # Sum over classes of weighted scatter: total second moment minus that of the means (belief sums to 1 in each row).
    scatter = (known.T @ known - (means * mass[:, None]).T @ means) / len(known)
    k = scatter.shape[0]
    shrunk = (1 - shrinkage) * scatter + shrinkage * max(np.trace(scatter) / k, 1e-12) * np.eye(k)
    weights = np.linalg.solve(shrunk, means.T)
    return np.asarray(points @ weights - (means * weights.T).sum(axis=1) / 2 + np.log(mass / mass.sum()))


def _softmax(values: Doubles) -> Doubles:
    odds = np.exp(values - values.max(axis=1, keepdims=True))
    return np.asarray(odds / odds.sum(axis=1, keepdims=True))


# --- several supervisors ----------------------------------------------------------------------------------------------


@label_model
class MeanVote(LabelModel):
    """The mean of the supervisors' probabilities: what any cleverer combination must beat."""

    version = 1
    source = "baseline"
    cost = "none"

    def __call__(self, votes: Sequence[Labels]) -> Labels:
        return relabelled(votes[0], _aligned(votes).mean(axis=0), self)


@label_model
class DawidSkene(LabelModel):
    """The truth hidden behind supervisors, each with its own C x C table of errors, by EM from the mean vote.

    Dawid & Skene 1979; a soft vote counts as that share of a vote for each class. Every entry of a table gets ``prior``
    extra votes, so that nothing is impossible.
    """

    version = 1
    source = "Dawid & Skene 1979 (Applied Statistics 28), maximum likelihood by EM"
    cost = "little"

    rounds: Annotated[int, Range(1)] = 100
    """At most; it stops once nothing moves by 1e-8."""
    prior: Annotated[float, Range(1e-12)] = 0.01
    hard: bool = True
    """Harden the votes first, as in the paper."""

    def __call__(self, votes: Sequence[Labels]) -> Labels:
        probs = _aligned(votes)
        heard = np.eye(probs.shape[2])[probs.argmax(axis=2)] if self.hard else probs
        truth = heard.mean(axis=0)
        for _ in range(self.rounds):
            tables = np.einsum("nc,mnk->mck", truth, heard) + self.prior
            tables /= tables.sum(axis=2, keepdims=True)
            share = truth.mean(axis=0) + 1e-12
            before = truth
            truth = _softmax(np.log(share) + np.einsum("mnk,mck->nc", heard, np.log(tables)))
            if np.abs(truth - before).max() < 1e-8:
                break
        return relabelled(votes[0], truth, self)


def _aligned(votes: Sequence[Labels]) -> Floats:
    """Probabilities (m, n, C) of all supervisors on the rows of the first."""
    return np.stack([vote.take(votes[0].ids).probs.astype(np.float64) for vote in votes])
