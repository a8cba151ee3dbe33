"""Hidden classes: from one supervisor and the student's features, or from several supervisors alone."""

from collections.abc import Sequence
from typing import Annotated, NamedTuple

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
    wanted_shares,
)
from outgrow.labels.structure import principal_directions
from outgrow.registry import ClassShares, Range

__all__ = ["AnchoredEM", "Clouds", "DawidSkene", "MeanVote", "fit_clouds"]


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
    shares: Annotated[str | tuple[float, ...], ClassShares("none", "weak", "uniform")] = "none"
    """How often each class occurs: as the clouds find (``none``), as the mean of the weak labels says (``weak``),
    equally often, or the shares given."""

    def __call__(self, labels: Labels, given: TransformInputs) -> Labels:
        if not self.rounds:
            return relabelled(labels, labels.probs.astype(np.float64), self)
        features = np.concatenate([handed(given.features), handed(given.unlabelled)])
        centered = features - features.mean(axis=0)
        points = centered @ principal_directions(centered, min(self.components, len(centered) - 1))
        shares = wanted_shares(self.shares, labels.probs, "AnchoredEM")
        found = fit_clouds(points, labels.probs, self.anchor, self.shrinkage, self.rounds, shares)
        return relabelled(labels, found.belief[: len(labels)], self)


class Clouds(NamedTuple):
    """A linear discriminant: Gaussian clouds with one covariance."""

    weight: Doubles
    """(k, C), or (k, 1) for the score of a candidate."""
    bias: Doubles
    """(C,), or (1,)"""
    belief: Doubles
    """(N, C) The posterior of every row under these clouds and the anchor."""


def fit_clouds(
    points: Doubles, probs: Floats, anchor: float, shrinkage: float, rounds: int, shares: Doubles | None = None
) -> Clouds:
    """Clouds of the classes by EM, from soft labels of the first rows.

    Args:
        points: (N, k) centered rows, or (N, C, k) candidates, less the mean of their row.
        probs: (n, C) of the first n rows; no other has a label.
        anchor: weight of the labels' log-odds in the posterior.
        shrinkage: share of the spherical covariance.
        rounds: how often the posterior is updated, at most; it stops once nothing moves by 1e-6. With 0 the clouds are
            those of the soft labels alone, which is a ridge linear discriminant.
        shares: (C,) How often each class occurs; None to learn it from the posterior. Places of candidates have none.
    """
    anchored = np.zeros((len(points), probs.shape[1]))
    anchored[: len(probs)] = anchor * np.log(np.maximum(probs.astype(np.float64), 1e-6))
    fit = _choice_discriminant if points.ndim == 3 else _discriminant
    belief = probs.astype(np.float64)
    weight, bias = fit(points[: len(belief)], belief, shrinkage, shares)
    for _ in range(rounds):
        before = belief
        belief = _softmax(anchored + (points @ weight + bias).reshape(anchored.shape))
        if len(before) == len(belief) and np.abs(belief - before).max() < 1e-6:
            break
        weight, bias = fit(points, belief, shrinkage, shares)
    return Clouds(weight, bias, belief)


def _discriminant(
    points: Doubles, belief: Doubles, shrinkage: float, shares: Doubles | None
) -> tuple[Doubles, Doubles]:
    """Weights (k, C) and biases (C,) of clouds fitted to ``belief``: log of share times density."""
    mass = belief.sum(axis=0) + 1e-9
    means = (belief.T @ points) / mass[:, None]
    # Sum over classes of weighted scatter: total second moment minus that of the means (belief sums to 1 in each row).
    scatter = (points.T @ points - (means * mass[:, None]).T @ means) / len(points)
    weight = np.linalg.solve(_shrunk(scatter, shrinkage), means.T)
    prior = np.log(mass / mass.sum() if shares is None else np.maximum(shares, 1e-9))
    return weight, prior - (means * weight.T).sum(axis=1) / 2


def _choice_discriminant(
    points: Doubles, belief: Doubles, shrinkage: float, shares: Doubles | None
) -> tuple[Doubles, Doubles]:
    """The same (k, 1) for candidates: two clouds, of the right one and of the others, with one covariance.

    Of candidates less the mean of their row, the right one has the mean m, the others -m / (C - 1) each, and the
    covariance is (C - 1) / C of that of the candidates themselves.
    """
    n, num_classes, k = points.shape
    rows, others = points.reshape(-1, k), num_classes - 1
    mean = belief.reshape(-1) @ rows / n
    within = rows.T @ rows / len(rows) - np.outer(mean, mean) / others
    apart = mean * num_classes / others
    covariance = _shrunk(within * num_classes / others, shrinkage)
    return np.linalg.solve(covariance, apart)[:, None], np.zeros(1)


def _shrunk(covariance: Doubles, shrinkage: float) -> Doubles:
    k = len(covariance)
    sphere = max(np.trace(covariance) / k, 1e-12) * np.eye(k)
    return np.asarray((1 - shrinkage) * covariance + shrinkage * sphere)


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
