"""Structure in features: scaling, clusters, principal components, and an exact logistic regression.

Arrays in, arrays out, in double precision. Sums are made in one order wherever a result is kept, so that the same
features give the same bits.
"""

from collections.abc import Callable

import numpy as np

from outgrow.data import Floats, Ints, hardened
from outgrow.labels.base import Doubles

__all__ = [
    "clustered",
    "logistic",
    "logistic_weights",
    "picked_by_component",
    "principal_directions",
    "safe_scale",
    "standardized",
]


def safe_scale(values: Floats, axis: int | tuple[int, ...] = 0) -> Doubles:
    """Standard deviations along ``axis``; 1 where a column does not vary, up to rounding."""
    scale = values.std(axis=axis)
    return np.where(scale > 1e-6 * max(1.0, float(scale.max(initial=0.0))), scale, 1.0)


def standardized(train: Doubles, *others: Doubles) -> tuple[Doubles, ...]:
    """``train`` (n, ...) and the others (m, ...), less the mean of ``train`` and over its standard deviation."""
    center, scale = train.mean(axis=0), safe_scale(train)
    return tuple((part - center) / scale for part in (train, *others))


def clustered(count: int, seed: int, train: Doubles, *others: Doubles) -> tuple[Ints, ...]:
    """The cluster of each row of ``train`` (n, d), by k-means on it, and the nearest one of each row of the others."""
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=1):  # sums in one order, the same bits
        means = KMeans(count, n_init=4, random_state=seed)
        return means.fit_predict(train), *(means.predict(part) for part in others)


def principal_directions(centered: Doubles, count: int = 1) -> Doubles:
    """The unit vectors (d, count) along which centered rows (n, d) vary most, the first one most of all."""
    return np.linalg.eigh(centered.T @ centered)[1][:, ::-1][:, :count]


def picked_by_component(train: Doubles, test: Doubles, weak: Floats) -> Ints:
    """The candidate of each row of ``test`` (m, C, d) that lies furthest along the principal component of ``train``.

    Both hold candidates less the mean of their row; ``weak`` (n, C) are the probabilities for ``train``. They say only
    which end of the component is the right one: one bit. Burns et al. 2022 (arXiv 2212.03827), appendix, CRC-TPC.
    """
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=1):  # sums in one order, the same bits
        direction = principal_directions(train.reshape(-1, train.shape[-1]))[:, 0]
        along, rows = train @ direction, np.arange(len(weak))
        up, down = (weak[rows, hardened(sign * along)].sum() for sign in (1, -1))
        return hardened((test @ direction) * (1 if up >= down else -1))


def logistic(features: Doubles, probs: Floats, l2: float) -> Callable[[Doubles], Doubles]:
    """Logistic regression of soft labels (n, C) on features (n, d); gives a function of features (m, d) to (m, C).

    The minimum of mean cross-entropy + l2/2 |w|^2, with a free bias, to scikit-learn's own tolerance. (scikit-learn
    takes a soft label only as C weighted rows, at C times the price.)
    """
    there = np.flatnonzero(probs.any(axis=0))  # a class that no row has is never predicted
    if len(there) < 2:
        alone = np.eye(probs.shape[1])[there[0]]
        return lambda others: np.tile(alone, (len(others), 1))
    weight = logistic_weights(features, probs[:, there], l2, vectors=1 if len(there) == 2 else len(there))

    def predict(others: Doubles) -> Doubles:
        found = np.zeros((len(others), probs.shape[1]))
        found[:, there] = np.exp(_log_probs(_logits(weight, others, len(others))))
        return found

    return predict


def logistic_weights(
    features: Doubles,
    probs: Floats,
    l2: float,
    *,
    vectors: int,
    bias: bool = True,
    gtol: float = 1e-4,
    ftol: float = 64 * np.finfo(np.float64).eps,
) -> Doubles:
    """Weights (V, d), or (V, d + 1) with the bias last, that minimize mean cross-entropy + l2/2 |w|^2.

    Args:
        features: (n, d), or (n, C, d) for choices, whose candidates are scored by one vector.
        probs: (n, C) soft labels.
        l2: the bias is not held.
        vectors: V. C, a logit for each class; or 1, the score of a candidate, or the log-odds of the second of two
            classes.
        bias: whether there is one.
        gtol: stop once no entry of the gradient is larger.
        ftol: stop once an update lowers the objective by a smaller share of it.
    """
    from scipy.optimize import minimize

    n, d = len(features), features.shape[-1]
    rows, wanted = features.reshape(-1, d), probs.astype(np.float64)

    def loss(flat: Doubles) -> tuple[float, Doubles]:
        weight = flat.reshape(vectors, -1)
        held, logits = weight[:, :d], _logits(weight, rows, n)
        logs = _log_probs(logits)
        slope = ((np.exp(logs) - wanted)[:, -logits.shape[1] :] / n).reshape(-1, vectors)
        gradient = slope.T @ rows + l2 * held
        if bias:
            gradient = np.concatenate([gradient, slope.sum(axis=0)[:, None]], axis=1)
        value = l2 / 2 * np.square(held).sum() - (wanted * logs).sum() / n
        return float(value), gradient.ravel()

    start = np.zeros(vectors * (d + bias))
    options = {"gtol": gtol, "ftol": ftol, "maxiter": 2000}
    found: Doubles = minimize(loss, start, jac=True, method="L-BFGS-B", options=options).x
    return found.reshape(vectors, -1)


def _logits(weight: Doubles, rows: Doubles, n: int) -> Doubles:
    """(n, V), or (n, C) of choices, whose rows are n * C candidates."""
    d = rows.shape[1]
    z = rows @ weight[:, :d].T
    return np.asarray(z + weight[:, d] if weight.shape[1] > d else z).reshape(n, -1)


def _log_probs(logits: Doubles) -> Doubles:
    from scipy.special import logsumexp

    z = logits if logits.shape[1] > 1 else np.concatenate([np.zeros_like(logits), logits], axis=1)
    return np.asarray(z - logsumexp(z, axis=1, keepdims=True))
