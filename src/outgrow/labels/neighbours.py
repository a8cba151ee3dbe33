"""Transforms that look at the nearest rows in the student's features (Euclidean, standardized)."""

from typing import Annotated, Any

import numpy as np

from outgrow.data import Floats, Ints, Labels
from outgrow.errors import UserError
from outgrow.labels.base import (
    Doubles,
    Transform,
    TransformInputs,
    between,
    confidence,
    handed,
    highest,
    relabelled,
    transform,
)
from outgrow.registry import Range

__all__ = ["KNN", "KNNFilter", "Overlap", "Smooth", "TopoFilter", "change_point", "drop_most", "smoothed"]

_PROBES = "blog.eleuther.ai/weak-to-strong and EleutherAI/w2s, probe.py"
_DISTANCES = "all distances between rows: n^2 d"


@transform
class KNN(Transform):
    """Each label becomes the mean of the labels of its k nearest rows, without its own."""

    version = 1
    needs = frozenset({"features"})
    source = f"{_PROBES}, knn relabel"
    cost = _DISTANCES

    k: Annotated[int, Range(1)] = 20
    mix: Annotated[float, Range(0, 1)] = 1.0
    """Share of the neighbours in the new label; 0 leaves the labels as they are."""

    def __call__(self, labels: Labels, given: TransformInputs) -> Labels:
        return relabelled(labels, between(self.mix, _around(labels, given, self), labels.probs), self)


@transform
class KNNFilter(Transform):
    """Drops the rows whose label is furthest from the mean of their k nearest rows' labels."""

    version = 1
    needs = frozenset({"features"})
    drops = True
    source = f"{_PROBES}, knn filter"
    cost = _DISTANCES

    k: Annotated[int, Range(1)] = 20
    drop: Annotated[float, Range(0, 1)] = 0.1
    """Share of rows dropped."""

    def __call__(self, labels: Labels, given: TransformInputs) -> Labels:
        return drop_most(labels, _around(labels, given, self), self.drop)


@transform
class TopoFilter(Transform):
    """Keeps only the largest connected part of each class in the graph of nearest rows, and of it no outliers.

    Wu et al. 2020: rows are joined with their k nearest; within each class (of hardened labels) the largest component
    stays; then a row is dropped unless a share zeta of its outlier_k nearest remaining rows has its class.
    """

    version = 1
    needs = frozenset({"features"})
    drops = True
    source = "Wu et al. 2020 (arXiv 2012.04835), TopoFilter; EleutherAI/w2s, topo.py"
    cost = _DISTANCES

    k: Annotated[int, Range(1)] = 4
    outlier_k: Annotated[int, Range(1)] = 32
    zeta: Annotated[float, Range(0, 1)] = 0.5
    """0 keeps outliers."""

    def __call__(self, labels: Labels, given: TransformInputs) -> Labels:
        from scipy.sparse.csgraph import connected_components

        features, classes = handed(given.features), labels.hard
        graph = _joined(_nearest(features, self.k, self))
        kept = []
        for c in np.unique(classes):
            here = np.flatnonzero(classes == c)
            _, parts = connected_components(graph[here][:, here], directed=False)
            kept.append(here[parts == np.bincount(parts).argmax()])
        core = np.sort(np.concatenate(kept))
        around = classes[core][_nearest(features[core], self.outlier_k, self)]
        same = (around == classes[core][:, None]).mean(axis=1)
        return labels.take(labels.ids[core[same >= self.zeta]])


@transform
class Smooth(Transform):
    """Labels spread over the graph of nearest rows: (1 - alpha) (I - alpha P)^-1 labels, P one step of a random walk.

    Zhou et al. 2004, with the walk's matrix in place of the symmetric one, so that rows stay probabilities. Lang et al.
    2025 smooth weak labels over a graph; their abstract does not say how.
    """

    version = 1
    needs = frozenset({"features"})
    source = "Zhou et al. 2004 (Learning with local and global consistency); Lang et al. 2025, part"
    cost = _DISTANCES

    k: Annotated[int, Range(1)] = 20
    alpha: Annotated[float, Range(0, 0.999)] = 0.5
    """How far a label travels; 0 leaves the labels as they are."""

    def __call__(self, labels: Labels, given: TransformInputs) -> Labels:
        return relabelled(labels, smoothed(labels.probs, given, self), self)


@transform
class Overlap(Transform):
    """Keeps only sure rows that lie near an unsure one: there, Shin et al. 2025 say, weak labels teach what is hard.

    Unsure are the rows below the change point of the sorted confidences; overlapping are the sure rows whose largest
    absolute cosine with an unsure row lies above the change point of those. The paper selects among data sources by
    their share of such rows; with one source, this selects the rows themselves.
    """

    version = 1
    needs = frozenset({"features", "seed"})
    drops = True
    soft = True
    source = "Shin et al. 2025 (arXiv 2412.03881), overlap density; SprocketLab/datacentric_w2s"
    cost = _DISTANCES

    rest: Annotated[float, Range(0, 1)] = 0.0
    """Share of the other rows kept, drawn at random; 1 keeps all."""

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


def _nearest(features: Doubles, k: int, by: Transform) -> Ints:
    """Rows (n, k) nearest to each row, without itself."""
    from sklearn.neighbors import NearestNeighbors

    if len(features) <= k:
        raise UserError(f"{type(by).__name__} looks at {k} neighbours and there are {len(features)} rows; lower k")
    found: Ints = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(features).kneighbors(return_distance=False)
    return found


def _around(labels: Labels, given: TransformInputs, by: KNN | KNNFilter) -> Doubles:
    """The mean label (n, C) of the k nearest rows of each."""
    near = _nearest(handed(given.features), by.k, by)
    return np.asarray(labels.probs[near].mean(axis=1, dtype=np.float64))


def drop_most(labels: Labels, others: Floats, share: float) -> Labels:
    """The labels without the ``share`` of rows that differ most from ``others`` (n, C), in total variation."""
    far = np.abs(labels.probs - others).sum(axis=1) / 2
    return labels.take(labels.ids[~highest(far, round(share * len(labels)), labels.ids)])


def smoothed(probs: Floats, given: TransformInputs, by: Any) -> Doubles:
    """Probabilities (n, C) spread over the graph of the ``by.k`` nearest rows, ``by.alpha`` far."""
    graph = _joined(_nearest(handed(given.features), by.k, by))
    steps = np.asarray(graph.sum(axis=1)).reshape(-1, 1)
    spread = start = probs.astype(np.float64)
    for _ in range(20_000):  # contracts by alpha each time
        before, spread = spread, by.alpha * (graph @ spread) / steps + (1 - by.alpha) * start
        if np.abs(spread - before).max() < 1e-10:
            break
    return spread


def change_point(values: Floats) -> float:
    """The first value of the upper part when the sorted values are cut in two parts where least squares fit best."""
    ranked = np.sort(values.astype(np.float64))
    n = np.arange(1, len(ranked))
    total, squares = np.cumsum(ranked), np.cumsum(ranked**2)
    left = squares[:-1] - total[:-1] ** 2 / n
    right = (squares[-1] - squares[:-1]) - (total[-1] - total[:-1]) ** 2 / (len(ranked) - n)
    return float(ranked[int(np.argmin(left + right)) + 1]) if len(ranked) > 1 else float(ranked[0])


def _joined(neighbours: Ints) -> Any:
    """Sparse matrix (n, n) with ones where one of two rows is among the nearest of the other."""
    from scipy.sparse import csr_array

    n, k = neighbours.shape
    graph = csr_array((np.ones(n * k), (np.repeat(np.arange(n), k), neighbours.ravel())), shape=(n, n))
    return graph.maximum(graph.T).tocsr()
