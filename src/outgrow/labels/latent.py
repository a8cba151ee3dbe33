"""Hidden classes: of one supervisor and the student's features, or of several supervisors alone."""

from collections.abc import Sequence
from typing import Any, ClassVar, Protocol, TypeVar, dataclass_transform, runtime_checkable

import numpy as np

from outgrow.data import Floats, Labels
from outgrow.labels.base import Doubles, TransformInputs, handed, in_range, relabelled, transform
from outgrow.labels.structure import principal_directions
from outgrow.registry import Registry

__all__ = ["LABEL_MODELS", "AnchoredEM", "DawidSkene", "LabelModel", "MeanVote", "label_model"]


@transform
class AnchoredEM:
    """Classes as Gaussian clouds in the student's features, held near the weak labels; posterior by EM.

    Every class has a mean, all share one covariance, shrunk towards a multiple of the identity, on the top principal
    components. A row's log-odds are those of the clouds plus ``anchor`` times the supervisor's; rows without a label
    (the supervisor's own texts) help to place the clouds. With one covariance the posterior is linear in the features:
    a linear discriminant that is fitted to structure and label at once. Our own construction.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"features", "unlabelled"})
    drops: ClassVar[bool] = False
    soft: ClassVar[bool] = True
    source: ClassVar[str] = "Outgrow; EM for Gaussian mixtures (Dempster et al. 1977) anchored at soft labels"
    cost: ClassVar[str] = "principal components once: n d^2; then little"

    components: int = 256
    """Principal components used, as many as there are at most."""
    shrinkage: float = 0.3
    """Share of the spherical covariance."""
    anchor: float = 0.5
    """Weight of the supervisor's log-odds; a very large one gives its hardened labels."""
    rounds: int = 50
    """At most; fewer once nothing moves by 1e-6. 0 leaves the labels as they are."""

    def __post_init__(self) -> None:
        in_range(self, 1, float("inf"), "components")
        in_range(self, 1e-6, 1, "shrinkage")
        in_range(self, 0, float("inf"), "anchor", "rounds")

    def __call__(self, labels: Labels, given: TransformInputs) -> Labels:
        features = np.concatenate([handed(given.features), handed(given.unlabelled)])
        n = len(labels)
        centered = features - features.mean(axis=0)
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
    """Log of share times density (n, C) of clouds fitted to ``belief`` about ``known``, less what all classes share."""
    mass = belief.sum(axis=0) + 1e-9
    means = (belief.T @ known) / mass[:, None]
    # Sum over classes of weighted scatter: total second moment less that of the means (belief sums to 1 in each row).
    scatter = (known.T @ known - (means * mass[:, None]).T @ means) / len(known)
    k = scatter.shape[0]
    shrunk = (1 - shrinkage) * scatter + shrinkage * max(np.trace(scatter) / k, 1e-12) * np.eye(k)
    weights = np.linalg.solve(shrunk, means.T)
    return np.asarray(points @ weights - (means * weights.T).sum(axis=1) / 2 + np.log(mass / mass.sum()))


def _softmax(values: Doubles) -> Doubles:
    odds = np.exp(values - values.max(axis=1, keepdims=True))
    return np.asarray(odds / odds.sum(axis=1, keepdims=True))


# --- several supervisors ----------------------------------------------------------------------------------------------


@runtime_checkable
class LabelModel(Protocol):
    """Makes one set of labels from those of several supervisors on the same rows."""

    def __call__(self, votes: Sequence[Labels]) -> Labels:
        """Labels with the ids of the first, in its order."""
        ...


LABEL_MODELS: Registry[type[Any]] = Registry("label model", "label models", LabelModel)
"""Every label model by the name that spells it, which is its class name."""

T = TypeVar("T", bound=type[Any])


@dataclass_transform(frozen_default=True, kw_only_default=True)
def label_model(cls: T) -> T:
    """Register a class as a label model, by its own name; see :meth:`outgrow.registry.Registry.add_class`."""
    return LABEL_MODELS.add_class(cls.__name__, cls)


@label_model
class MeanVote:
    """The mean of the supervisors' probabilities: what any cleverer combination must beat."""

    source: ClassVar[str] = "baseline"
    cost: ClassVar[str] = "none"

    def __call__(self, votes: Sequence[Labels]) -> Labels:
        return relabelled(votes[0], _aligned(votes).mean(axis=0), self)


@label_model
class DawidSkene:
    """The truth hidden behind supervisors with a C x C table of errors each, by EM from the mean vote.

    Dawid & Skene 1979; a soft vote counts as that share of a vote for each class. Tables get ``prior`` votes of every
    kind more, so that nothing is impossible.
    """

    source: ClassVar[str] = "Dawid & Skene 1979 (Applied Statistics 28), maximum likelihood by EM"
    cost: ClassVar[str] = "little"

    rounds: int = 100
    """At most; fewer once nothing moves by 1e-8."""
    prior: float = 0.01
    hard: bool = True
    """Votes hardened first, as in the paper."""

    def __post_init__(self) -> None:
        in_range(self, 1, float("inf"), "rounds")
        in_range(self, 1e-12, float("inf"), "prior")

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
