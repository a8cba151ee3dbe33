"""Transforms that look at the nearest rows in the student's features (Euclidean, standardized)."""

from typing import Any, ClassVar

import numpy as np

from outgrow.data import Floats, Ints, Labels
from outgrow.errors import UserError
from outgrow.labels.base import (
    Doubles,
    TransformInputs,
    between,
    confidence,
    handed,
    highest,
    in_range,
    relabelled,
    transform,
)

__all__ = ["KNN", "KNNFilter", "Overlap", "Smooth", "TopoFilter", "change_point", "drop_most", "nearest", "smoothed"]

_PROBES = "blog.eleuther.ai/weak-to-strong and EleutherAI/w2s, probe.py"
_DISTANCES = "all distances between rows: n^2 d"


@transform
class KNN:
    """Each label becomes the mean of the labels of its k nearest rows, its own not among them."""

    needs: ClassVar[frozenset[str]] = frozenset({"features"})
    drops: ClassVar[bool] = False
    soft: ClassVar[bool] = False
    source: ClassVar[str] = f"{_PROBES}, knn relabel"
    cost: ClassVar[str] = _DISTANCES

    k: int = 20
    mix: float = 1.0
    """Share of the neighbours in the new label; 0 leaves the labels as they are."""

    def __post_init__(self) -> None:
        in_range(self, 1, float("inf"), "k")
        in_range(self, 0, 1, "mix")

    def __call__(self, labels: Labels, given: TransformInputs) -> Labels:
        around = labels.probs[nearest(handed(given.features), self.k, self)].mean(axis=1, dtype=np.float64)
        return relabelled(labels, between(self.mix, around, labels.probs), self)


@transform
class KNNFilter:
    """Without the rows whose label is furthest from the mean of their k nearest rows' labels."""

    needs: ClassVar[frozenset[str]] = frozenset({"features"})
    drops: ClassVar[bool] = True
    soft: ClassVar[bool] = False
    source: ClassVar[str] = f"{_PROBES}, knn filter"
    cost: ClassVar[str] = _DISTANCES

    k: int = 20
    drop: float = 0.1
    """Share of rows left out."""

    def __post_init__(self) -> None:
        in_range(self, 1, float("inf"), "k")
        in_range(self, 0, 1, "drop")

    def __call__(self, labels: Labels, given: TransformInputs) -> Labels:
        around = labels.probs[nearest(handed(given.features), self.k, self)].mean(axis=1, dtype=np.float64)
        return drop_most(labels, around, self.drop)


@transform
class TopoFilter:
    """Only the largest connected part of each class in the graph of nearest rows, and of it no outliers.

    Wu et al. 2020: rows are joined with their k nearest; within each class (of hardened labels) the largest component
    stays; then a row goes unless a share zeta of its outlier_k nearest rows left has its class.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"features"})
    drops: ClassVar[bool] = True
    soft: ClassVar[bool] = False
    source: ClassVar[str] = "Wu et al. 2020 (arXiv 2012.04835), TopoFilter; EleutherAI/w2s, topo.py"
    cost: ClassVar[str] = _DISTANCES

    k: int = 4
    outlier_k: int = 32
    zeta: float = 0.5
    """0 leaves outliers in."""

    def __post_init__(self) -> None:
        in_range(self, 1, float("inf"), "k", "outlier_k")
        in_range(self, 0, 1, "zeta")

    def __call__(self, labels: Labels, given: TransformInputs) -> Labels:
        from scipy.sparse.csgraph import connected_components

        features, classes = handed(given.features), labels.hard
        graph = _joined(nearest(features, self.k, self))
        kept = []
        for c in np.unique(classes):
            here = np.flatnonzero(classes == c)
            _, parts = connected_components(graph[here][:, here], directed=False)
            kept.append(here[parts == np.bincount(parts).argmax()])
        core = np.sort(np.concatenate(kept))
        around = classes[core][nearest(features[core], self.outlier_k, self)]
        same = (around == classes[core][:, None]).mean(axis=1)
        return labels.take(labels.ids[core[same >= self.zeta]])


@transform
class Smooth:
    """Labels spread over the graph of nearest rows: (1 - alpha) (I - alpha P)^-1 labels, P one step of a random walk.

    Zhou et al. 2004 with the walk's matrix in place of the symmetric one, so that rows stay probabilities. Lang et al.
    2025 smooth weak labels over a graph; the abstract does not say how.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"features"})
    drops: ClassVar[bool] = False
    soft: ClassVar[bool] = False
    source: ClassVar[str] = "Zhou et al. 2004 (Learning with local and global consistency); Lang et al. 2025, part"
    cost: ClassVar[str] = _DISTANCES

    k: int = 20
    alpha: float = 0.5
    """How far a label travels; 0 leaves the labels as they are."""

    def __post_init__(self) -> None:
        in_range(self, 1, float("inf"), "k")
        in_range(self, 0, 0.999, "alpha")

    def __call__(self, labels: Labels, given: TransformInputs) -> Labels:
        return relabelled(labels, smoothed(labels.probs, handed(given.features), self.k, self.alpha, self), self)


@transform
class Overlap:
    """Only sure rows that lie near an unsure one: there, Shin et al. 2025 say, weak labels teach what is hard.

    Unsure are the rows below the change point of the sorted confidences; overlapping are the sure rows whose largest
    cosine (absolute) with an unsure one is above the change point of those. Theirs selects among data sources by the
    share of such rows; with one source the rows themselves are what can be selected.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"features", "seed"})
    drops: ClassVar[bool] = True
    soft: ClassVar[bool] = True
    source: ClassVar[str] = "Shin et al. 2025 (arXiv 2412.03881), overlap density; SprocketLab/datacentric_w2s"
    cost: ClassVar[str] = _DISTANCES

    rest: float = 0.0
    """Share of the other rows kept, drawn at random; 1 keeps all."""

    def __post_init__(self) -> None:
        in_range(self, 0, 1, "rest")

    def __call__(self, labels: Labels, given: TransformInputs) -> Labels:
        sure = confidence(labels.probs)
        if np.ptp(sure) < 1e-6:
            raise UserError("Overlap needs soft labels: all of these are equally sure")
        unsure = sure < change_point(sure)
        features = handed(given.features)
        units = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
        near = np.abs(units @ units[unsure].T).max(axis=1)
        kept = ~unsure & (near >= change_point(near[~unsure]))
        others = np.flatnonzero(~kept)
        luck = np.random.default_rng([given.seed, 1]).random(len(others))
        kept[others[highest(luck, round(self.rest * len(others)), labels.ids[others])]] = True
        return labels.take(labels.ids[kept])


def nearest(features: Doubles, k: int, of: Any) -> Ints:
    """Rows (n, k) nearest to each row, itself left out."""
    from sklearn.neighbors import NearestNeighbors

    if len(features) <= k:
        raise UserError(f"{type(of).__name__} looks at {k} neighbours and there are {len(features)} rows; lower k")
    found: Ints = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(features).kneighbors(return_distance=False)
    return found


def drop_most(labels: Labels, others: Floats, share: float) -> Labels:
    """Without the ``share`` of rows that differ most from ``others`` (n, C), in total variation."""
    far = np.abs(labels.probs - others).sum(axis=1) / 2
    return labels.take(labels.ids[~highest(far, round(share * len(labels)), labels.ids)])


def smoothed(probs: Floats, features: Doubles, k: int, alpha: float, of: Any) -> Doubles:
    """Probabilities (n, C) spread over the graph of nearest rows."""
    graph = _joined(nearest(features, k, of))
    steps = np.asarray(graph.sum(axis=1)).reshape(-1, 1)
    spread = start = probs.astype(np.float64)
    for _ in range(20_000):  # contracts by alpha each time
        before, spread = spread, alpha * (graph @ spread) / steps + (1 - alpha) * start
        if np.abs(spread - before).max() < 1e-10:
            break
    return spread


def change_point(values: Floats) -> float:
    """The value from which on the sorted values differ most from those before: two segments, least squares."""
    ranked = np.sort(values.astype(np.float64))
    n = np.arange(1, len(ranked))
    total, squares = np.cumsum(ranked), np.cumsum(ranked**2)
    left = squares[:-1] - total[:-1] ** 2 / n
    right = (squares[-1] - squares[:-1]) - (total[-1] - total[:-1]) ** 2 / (len(ranked) - n)
    return float(ranked[int(np.argmin(left + right)) + 1]) if len(ranked) > 1 else float(ranked[0])


def _joined(neighbours: Ints) -> Any:
    """Sparse matrix (n, n) of ones where one of two rows is among the other's nearest."""
    from scipy.sparse import csr_array

    n, k = neighbours.shape
    graph = csr_array((np.ones(n * k), (np.repeat(np.arange(n), k), neighbours.ravel())), shape=(n, n))
    return graph.maximum(graph.T).tocsr()
