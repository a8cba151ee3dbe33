"""Evidence across tasks: sign-flip tests of whole tasks, their corrections, and intervals for tasks drawn and fixed."""

import functools
import math
from collections.abc import Sequence

import numpy as np

from outgrow.data import Floats
from outgrow.metrics import Interval, Spread

__all__ = ["LEAST_P", "holm", "max_t", "median_over_tasks", "on_tasks_like_these", "on_these_tasks", "sign_flip"]

_MOST_EXACT = 14  # tasks whose flips of signs are all gone through; more are sampled
_SAMPLED = 20_000  # flips
LEAST_P = 1 / _SAMPLED
"""The smallest p-value that sampled flips can give."""


def sign_flip(differences: Sequence[float], seed: int = 0) -> float:
    """Two-sided p-value that a mean of paired differences (T,), one per task, is zero, by flipping their signs.

    The p-value is the share of flips whose mean is at least as far from zero as the observed one (Fisher 1935). It is
    exact if method and reference are exchangeable, which makes a difference of d as likely as one of -d in every task.
    A mean of zero is not enough: where a few tasks differ much and to one side, the test rejects too often. Up to 14
    tasks every flip is counted; with more, flips are sampled. The smallest p-value of T tasks is 2^(1-T).
    """
    return max_t(np.array(differences, dtype=np.float64)[:, None], seed)[0]


def max_t(differences: Floats, seed: int = 0) -> list[float]:
    """P-values of M methods over T tasks (T, M), corrected for their number by the step-down max-T method.

    All methods of a task flip together, so their correlation counts. The method with the largest statistic is held
    against the largest statistic of all in each flip, the next one against that of the methods left, and so on; no
    p-value is less than one before it (Westfall and Young 1993, algorithm 4.1; Romano and Wolf 2005). The chance of
    any false rejection is at most the level, under what :func:`sign_flip` assumes of the methods together, and the
    smallest p-value is 2^(1-T) however many methods there are. The statistic is \\|sum\\| / sqrt(sum of squares), which
    grows with Student's t. Tasks without a result hold NaN and say nothing.
    """
    table = np.nan_to_num(differences)
    sizes = np.sqrt((table**2).sum(axis=0))
    statistics = np.abs(_flips(len(table), seed) @ table) / np.where(sizes > 0, sizes, 1.0)
    order = np.argsort(-statistics[0], kind="stable")
    highest = np.maximum.accumulate(statistics[:, order[::-1]], axis=1)[:, ::-1]  # of a method and those after it
    reached = (highest >= statistics[0, order] - 1e-9).mean(axis=0)
    corrected = np.empty(len(order))
    corrected[order] = np.maximum.accumulate(reached)
    found: list[float] = corrected.tolist()
    return found


@functools.lru_cache(maxsize=8)
def _flips(num_tasks: int, seed: int) -> Floats:
    """Signs (F, T); the first flip is what was observed. A flip and its opposite count once."""
    others = num_tasks - 1
    if others < _MOST_EXACT:
        bits = (np.arange(2**others)[:, None] >> np.arange(others)) & 1
    else:
        bits = np.random.default_rng(seed).integers(2, size=(_SAMPLED, others))
        bits[0] = 0
    return np.hstack([np.ones((len(bits), 1)), 1.0 - 2 * bits])


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


def on_tasks_like_these(differences: Sequence[float]) -> Interval:
    """The mean over tasks (T,), with the 95 % t interval that takes tasks for a sample of such tasks.

    Noise of rows and seeds is part of what task means vary by. One task bounds nothing.
    """
    tasks = np.array(differences, dtype=np.float64)
    if len(tasks) < 2:
        return Spread(float(tasks.mean()), math.inf, 0.0).interval()
    return Spread(float(tasks.mean()), float(tasks.var(ddof=1)) / len(tasks), len(tasks) - 1.0).interval()


def on_these_tasks(cells: Sequence[Sequence[Spread]]) -> Interval:
    """The mean over tasks, with the 95 % t interval that takes the tasks as given: only rows and seeds are random.

    ``cells`` has one list per task, of the differences in its cells. Tasks share no rows, so their variances add up.
    Cells of one task share rows, seeds and often a model: the standard error of their mean is taken to be the mean of
    theirs, which it never exceeds, with the fewest degrees of freedom among them.
    """
    means = [float(np.mean([cell.value for cell in task])) for task in cells]
    variances = [float(np.mean([math.sqrt(cell.variance) for cell in task])) ** 2 for task in cells]
    freedoms = [min((cell.df for cell in task if cell.variance > 0), default=math.inf) for task in cells]
    variance = sum(variances)
    if math.isinf(variance):
        return Spread(float(np.mean(means)), math.inf, 0.0).interval()
    known = sum(v**2 / df for v, df in zip(variances, freedoms, strict=True) if v > 0)
    df = variance**2 / known if known > 0 else math.inf
    return Spread(float(np.mean(means)), variance / len(cells) ** 2, df).interval()


def median_over_tasks(values: Sequence[float]) -> Interval:
    """The median over tasks (T,), with the interval between two of them that holds the median of all such tasks at
    least 95 % of the time, whatever their distribution (Thompson 1936). Fewer than six tasks bound nothing."""
    from scipy.stats import binom

    ordered = sorted(values)
    outside = int(binom.ppf(0.025, len(ordered), 0.5))  # ends are this far in from either side
    low, high = (ordered[outside - 1], ordered[-outside]) if outside else (-math.inf, math.inf)
    return Interval(float(np.median(ordered)), low, high)
