"""Evidence across tasks: a sign-flip test of whole tasks, its correction for many methods, nested intervals."""

from collections.abc import Callable, Sequence

import numpy as np

from outgrow.data import Floats
from outgrow.metrics import Interval, interval

__all__ = ["holm", "mean", "median", "nested_interval", "sign_flip"]

_REPLICATES = 4000
_MOST_EXACT = 14  # tasks whose flips of signs are all gone through; more are sampled
_SAMPLED = 20_000  # flips


def sign_flip(differences: Sequence[Sequence[float]], seed: int = 0) -> float:
    """Two-sided p-value that a mean of paired differences is zero, by flipping signs of whole tasks.

    ``differences`` has one list per task: the differences of its cells. If a method and the reference did not differ,
    each task's differences would be just as likely with all their signs flipped. The p-value is the share of flips
    whose mean is at least as far from zero as the observed one (Fisher 1935). Up to 14 tasks every flip is counted, so
    the level is exact; with more, flips are sampled. The smallest p-value of T tasks is 2^(1-T): few tasks cannot show
    anything.
    """
    sums = np.array([sum(task) for task in differences], dtype=np.float64)
    others = len(sums) - 1  # a flip and its opposite are as far from zero
    if others < _MOST_EXACT:
        bits = (np.arange(2**others)[:, None] >> np.arange(others)) & 1
    else:
        bits = np.random.default_rng(seed).integers(2, size=(_SAMPLED, others))
        bits[0] = 0  # what was observed is one of the flips
    totals = np.abs(sums[0] + (1 - 2 * bits) @ sums[1:])
    return float((totals >= abs(sums.sum()) - 1e-12).mean())


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for their number (Holm 1979): the chance of any false rejection is at most the level.

    The k-th smallest of m is multiplied by m - k + 1, is no smaller than those before it, and is at most 1.
    """
    order = np.argsort(p_values, kind="stable")
    corrected, highest = [1.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, p_values[i] * (len(p_values) - rank)))
        corrected[i] = highest
    return corrected


def nested_interval(
    estimates: Sequence[Sequence[float]],
    draws: Sequence[Sequence[Floats]],
    statistic: Callable[[Floats], Floats],
    seed: int = 0,
) -> Interval:
    """A mean or median over cells with a 95 % interval that resamples tasks, then pairs within them, then rows.

    ``estimates`` has one list per task, ``draws`` a bootstrap (R,) of each cell. A replicate draws tasks with
    replacement, then pairs of each drawn task with replacement, then one replicate of the test rows, the same for all
    pairs of a drawn task, because they share its test. ``statistic`` maps (B, m) to (B,) and ignores NaN.
    """
    counts = np.array([len(task) for task in draws])
    most, length = counts.max(), min(len(d) for task in draws for d in task)
    table = np.full((len(draws), most, length), np.nan)
    for i, task in enumerate(draws):
        for j, values in enumerate(task):
            table[i, j] = values[:length]
    rng = np.random.default_rng(seed)
    tasks = rng.integers(len(draws), size=(_REPLICATES, len(draws)))
    rows = rng.integers(length, size=tasks.shape)
    sizes = counts[tasks]
    pairs = (rng.random((*tasks.shape, most)) * sizes[..., None]).astype(np.int64)
    values = table[tasks[..., None], pairs, rows[..., None]]
    values[np.arange(most) >= sizes[..., None]] = np.nan
    observed = np.array([[value for task in estimates for value in task]])
    return interval(np.concatenate([statistic(observed), statistic(values.reshape(_REPLICATES, -1))]))


def mean(values: Floats) -> Floats:
    """Mean of each row without NaN."""
    known = ~np.isnan(values)
    return np.asarray(np.where(known, values, 0.0).sum(axis=1) / known.sum(axis=1))


def median(values: Floats) -> Floats:
    """Median of each row without NaN; infinite values keep their order."""
    ordered = np.sort(values, axis=1)  # NaN last
    known = (~np.isnan(values)).sum(axis=1)
    rows = np.arange(len(values))
    with np.errstate(invalid="ignore"):  # -inf and inf in the middle have no mean: NaN, which an interval leaves out
        return np.asarray((ordered[rows, (known - 1) // 2] + ordered[rows, known // 2]) / 2)
