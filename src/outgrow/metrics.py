"""Scores of predictions, performance gap recovered (PGR), and their intervals. Arrays in, numbers out."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from outgrow.data import Floats, Ints, hardened

__all__ = [
    "HIGHEST",
    "Interval",
    "Means",
    "Outcomes",
    "Spread",
    "agreement",
    "balanced_values",
    "class_values",
    "complementary_accuracy",
    "confusion",
    "ece_floor",
    "ece_interval",
    "per_example",
    "pgr",
    "plain",
    "scores",
    "widened",
]

_EPSILON = 1e-7  # probabilities are kept this far from 0 under a logarithm
HIGHEST = {"xent": -math.log(_EPSILON), "brier": 2.0}
"""What a row can score at most; 1 for all other scores."""
_UPPER, _NORMAL = 0.975, 1.959963984540054  # the quantile that ends a 95 % interval, and where the normal has it
_FEW = 20  # what fewer groups of test rows show gets a small-sample interval
_BINS = 15
_TINY = 1e-9  # of rounding in sums
_FAR = 1e9  # a PGR whose interval reaches farther has no bound


class Interval(NamedTuple):
    """A number and the bounds of its 95 % interval."""

    value: float
    low: float
    high: float


# --- scores -----------------------------------------------------------------------------------------------------------


def per_example(probs: Floats, gold: Ints) -> dict[str, Floats]:
    """For each score one value per row (n,), whose mean is the score.

    ``probs`` is (n, C), ``gold`` (n,). ``accuracy`` is 0 or 1, ``xent`` in nats. ``brier`` is the squared distance
    between the probabilities and the truth, summed over classes (Brier 1950), so it lies in [0, 2]. ``auroc`` is the
    area under the ROC curve; for C > 2 the mean over classes, each against the rest; NaN if ``gold`` lacks a class.
    ``ece`` is the expected calibration error: \\|confidence - accuracy\\| in 15 equal-width bins of the highest
    probability, weighted by their share of rows (Guo et al. 2017, eq. 3). A row's value of these two is the score plus
    the row's influence on it.
    """
    rows = np.arange(len(gold))
    truth = np.zeros_like(probs, dtype=np.float64)
    truth[rows, gold] = 1.0
    return {
        "accuracy": (hardened(probs) == gold).astype(np.float64),
        "xent": -np.log(np.maximum(probs[rows, gold].astype(np.float64), _EPSILON)),
        "brier": ((probs - truth) ** 2).sum(axis=1),
        "auroc": _auroc_terms(probs, gold),
        "ece": _ece_terms(probs, gold),
    }


def _auroc_terms(probs: Floats, gold: Ints) -> Floats:
    """The area, plus for each row how far its share of correctly ordered pairs lies from it (DeLong et al. 1988)."""
    from scipy.stats import rankdata

    num_classes = probs.shape[1]
    columns = range(1, 2) if num_classes == 2 else range(num_classes)
    terms = np.zeros(len(gold))
    for c in columns:
        ranks, score = rankdata(probs[:, c]), probs[:, c]
        for own in (gold == c, gold != c):
            if not own.any():
                return np.full(len(gold), math.nan)
            below = (ranks[own] - rankdata(score[own])) / max((~own).sum(), 1)
            share = below if gold[own][0] == c else 1 - below
            terms[own] += share.mean() + (share - share.mean()) * (len(gold) / own.sum())
    return terms / len(columns)


def _ece_terms(probs: Floats, gold: Ints) -> Floats:
    """Confidence minus being right, with the sign of its sum in the row's bin."""
    confidence, which = _confidence(probs)
    apart = confidence - (hardened(probs) == gold)
    signed: Floats = apart * np.sign(np.bincount(which, weights=apart, minlength=_BINS))[which]
    return signed


def _confidence(probs: Floats) -> tuple[Floats, Ints]:
    """The highest probability of each row (n,), and the number of its bin (n,)."""
    confidence = probs.max(axis=1).astype(np.float64)
    return confidence, np.minimum((confidence * _BINS).astype(np.int64), _BINS - 1)


def ece_floor(probs: Floats) -> float:
    """The calibration error (ECE) that perfectly calibrated probabilities (n, C) would show on as many rows.

    A mean of absolute values is above zero by chance alone: a bin whose rows are right with probability c by sqrt(2/pi)
    times the standard deviation of their number, which is the root of the sum of c (1 - c).
    """
    confidence, which = _confidence(probs)
    variances = np.bincount(which, weights=np.maximum(confidence * (1 - confidence), 0), minlength=_BINS)
    return float(math.sqrt(2 / math.pi) * np.sqrt(variances).sum() / max(len(probs), 1))


def scores(probs: Floats, gold: Ints) -> dict[str, float]:
    """All scores of one set of predictions (n, C) against the truth (n,), as :func:`per_example` defines them."""
    return {name: float(values.mean()) for name, values in per_example(probs, gold).items()}


def agreement(student: Ints, supervisor: Ints, gold: Ints) -> dict[str, float]:
    """Share of rows where student and supervisor predict the same class: over all rows, and where the supervisor is
    right or wrong (Burns et al. 2023, figure 8). NaN if there are no such rows."""
    same = (student == supervisor).astype(np.float64)
    right = supervisor == gold

    def mean(rows: NDArray[np.bool_]) -> float:
        return float(same[rows].mean()) if rows.any() else math.nan

    return {"all": mean(np.ones_like(right)), "supervisor_right": mean(right), "supervisor_wrong": mean(~right)}


# --- class by class ---------------------------------------------------------------------------------------------------


def balanced_values(right: Sequence[NDArray[np.bool_]], gold: Sequence[Ints]) -> list[Floats]:
    """One value per row, seed by seed, whose mean over all rows and seeds is the balanced accuracy: the mean of the
    recalls of the classes that occur.

    ``right`` says which rows are right, ``gold`` is their class, both (n,) for each seed. A row counts as far as it
    moves its class's recall (the recall's influence function), so that an interval of the mean is one of the balanced
    accuracy, class counts and all (delta method).
    """
    classes, every_gold = np.unique(np.concatenate(gold), return_inverse=True)
    every = np.concatenate(right).astype(np.float64)
    counts = np.bincount(every_gold)
    recall = np.bincount(every_gold, weights=every) / counts
    weight = len(every) / (len(classes) * counts)
    values = recall.mean() + weight[every_gold] * (every - recall[every_gold])
    return np.split(values, np.cumsum([len(g) for g in gold])[:-1])


def class_values(predicted: Ints, gold: Ints, num_classes: int) -> dict[str, Floats]:
    """``recall.c`` and ``precision.c`` of every class c, one value per row (n,): 1 where the prediction is right, NaN
    on rows that do not count, which are those of another class, or those predicted as one."""
    right = (predicted == gold).astype(np.float64)
    values = {}
    for c in range(num_classes):
        values[f"recall.{c}"] = np.where(gold == c, right, np.nan)
        values[f"precision.{c}"] = np.where(predicted == c, right, np.nan)
    return values


def confusion(predicted: Ints, gold: Ints, num_classes: int) -> list[list[int]]:
    """(C, C) How many rows of each class (outer) were predicted as each class (inner)."""
    flat = np.bincount(gold * num_classes + predicted, minlength=num_classes**2)
    counts: list[list[int]] = flat.reshape(num_classes, num_classes).tolist()
    return counts


def pgr(weak: float, student: float, ceiling: float) -> float:
    """Performance gap recovered, (student - weak) / (ceiling - weak): 0 is no better than the supervisor, 1 is the
    whole gap (Burns et al. 2023, section 3). NaN if there is no gap."""
    return (student - weak) / (ceiling - weak) if ceiling != weak else math.nan


# --- intervals --------------------------------------------------------------------------------------------------------


def ece_interval(error: "Spread", floor: float) -> Interval:
    """The 95 % interval of a calibration error whose :func:`ece_floor` is ``floor``.

    Chance adds up to that much where calibration is good, and next to nothing where it is bad; the lower end allows for
    all of it, the upper end for none.
    """
    value, low, high = error.interval()
    return Interval(value, max(0.0, low - floor), min(1.0, high))


def widened(mean: Interval, parts: Sequence[Interval]) -> Interval:
    """The interval of a mean of ``parts``, made at least as wide as it is if they vary independently.

    What moves from each part's value to its end adds up as variances do (Zou and Donner 2008), so that parts that are
    all right, or all wrong, keep the width that :meth:`Means.rate` gives them.
    """
    down, up = (
        math.sqrt(sum((part.value - end) ** 2 for part, end in zip(parts, ends, strict=True))) / len(parts)
        for ends in ([p.low for p in parts], [p.high for p in parts])
    )
    return Interval(mean.value, min(mean.low, mean.value - down), max(mean.high, mean.value + up))


@dataclass(frozen=True, kw_only=True, eq=False)
class Outcomes:
    """Per-example values on one seed's test set, to be averaged."""

    groups: NDArray[Any]
    """(n,) Related rows share a group and vary together."""
    values: Mapping[str, Floats]
    """(n,) by name; rows that do not count for a mean hold NaN."""


class Spread(NamedTuple):
    """A number, the variance of its estimate, and the degrees of freedom that the variance is known with."""

    value: float
    variance: float
    """Infinite where all rows are of one group and one seed."""
    df: float
    """Infinite where nothing varies."""

    @property
    def quantile(self) -> float:
        """How many standard errors the 95 % interval reaches to either side."""
        from scipy.special import stdtrit

        return float(stdtrit(self.df, _UPPER)) if 0 < self.df < math.inf else _NORMAL

    def interval(self, low: float = -math.inf, high: float = math.inf) -> Interval:
        """The 95 % t interval, cut at what the number can be."""
        half = self.quantile * math.sqrt(self.variance)
        return Interval(self.value, max(low, self.value - half), min(high, self.value + half))


class Means:
    """Means of per-row values over all seeds and rows, and how far they would vary with other seeds and test rows.

    Seeds often share test rows, and related rows share a group. Two rows vary together if they share a seed or a group.
    The variance sums over such pairs of rows (Cameron, Gelbach and Miller 2011), over the share of pairs that are not
    such, which makes it unbiased however the seeds overlap; it is never less than the variance over groups alone, or
    over seeds alone. Degrees of freedom are Satterthwaite's, or fewer: with few seeds these are too many wherever seeds
    happen to agree, so that no interval is narrower than Banerjee's (1960), which gives what groups do not explain the
    t quantile of the seeds. A single seed leaves the variation between seeds out.

    Args:
        seeds: one per seed, all with the same names.
        same: names whose values come from the same predictions as another name's: their difference is zero for sure,
            and not only on these rows.
    """

    def __init__(self, seeds: Sequence[Outcomes], same: Mapping[str, str] | None = None) -> None:
        names = list(seeds[0].values)
        values = np.stack([np.concatenate([s.values[name] for s in seeds]) for name in names], dtype=np.float64)
        groups = np.unique(np.concatenate([s.groups for s in seeds]), return_inverse=True)[1]
        seed = np.repeat(np.arange(len(seeds)), [len(s.groups) for s in seeds])
        cells, cell = np.unique(seed * (groups.max(initial=0) + 1) + groups, return_inverse=True)
        self._seed, self._group = np.divmod(cells, groups.max(initial=0) + 1)
        counted = np.isfinite(values)
        self._sums = _summed(cell, np.where(counted, values, 0.0), len(cells))
        self._counts = _summed(cell, counted.astype(np.float64), len(cells))
        self._column = {name: names.index((same or {}).get(name, name)) for name in names}
        self._fit()

    def _fit(self) -> None:
        totals = self._counts.sum(axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            self._means = self._sums.sum(axis=1) / totals
            residuals = (self._sums - self._counts * self._means[:, None]) / totals[:, None]  # (K, cells)
            self._parts = [_summed(by, residuals) for by in (self._seed, self._group)] + [residuals]
            shares = [_summed(by, self._counts) for by in (self._seed, self._group)] + [self._counts]
            p_seed, p_group, p_cell = (((s / totals[:, None]) ** 2).sum(axis=1) for s in shares)
        self._num_seeds, self._num_groups = ((s > 0).sum(axis=1) for s in shares[:2])
        self._free = (1 - p_seed, 1 - p_group, 1 - p_seed - p_group + p_cell)
        self._effective = 1 / p_group  # groups, were they of equal size (Kish 1965)

    def spread(self, weights: Mapping[str, float]) -> Spread:
        """The weighted sum of some means. Means that leave out other rows than each other may be mixed."""
        used, w = self._weights(weights.items())
        (variances,) = self._variances(used, w[:, None]).T[0]
        return self._spread(used, float(w @ self._means[used]), variances)

    def rate(self, *names: str, highest: float = 1.0, share: float = 1.0) -> Interval:
        """The mean of the means ``names``, of values between 0 and ``highest``.

        A t interval; where nearly all rows are at an end (fewer than 20 groups are not) it passes into Wilson's (1927),
        with as many rows as there are groups at most, so that it never collapses. ``share`` of the rows can be wrong.
        """
        used, w = self._weights((name, 1 / len(names)) for name in names)
        spread = self.spread(dict.fromkeys(names, 1 / len(names)))
        if math.isnan(spread.value):
            return Interval(math.nan, math.nan, math.nan)
        found = spread.interval(0.0, highest)
        few = self._few(self._sums[used], [self._counts[used] * end for end in (0.0, highest)])
        if not few or math.isinf(spread.variance):
            return found
        p, variance = spread.value / highest, spread.variance / highest**2
        n = float(share / (w**2 / self._effective[used]).sum())
        n = min(n, p * (1 - p) / variance) if variance > 0 else n
        pull = spread.quantile**2 / n
        middle, half = p + pull / 2, math.sqrt(max(pull * (p * (1 - p) + pull / 4), 0.0))
        ends = (highest * max(0.0, min(1.0, (middle + side * half) / (1 + pull))) for side in (-1, 1))
        low, high = (few * end + (1 - few) * plain for end, plain in zip(ends, found[1:], strict=True))
        return Interval(spread.value, min(low, spread.value), max(high, spread.value))

    def area(self, name: str, rarest: float) -> Interval:
        """The mean ``name``, of a row's share in an area under the ROC curve (AUROC): a t interval of its log odds.

        ``rarest`` is the share of rows in the rarest class, which limits the degrees of freedom. An area of 0 or 1 has
        the interval of :meth:`rate`, as if it came from the rows of that class.
        """
        spread = self.spread({name: 1.0})
        if not _TINY < spread.value < 1 - _TINY or not 0 < spread.variance < math.inf:
            return self.rate(name, share=rarest)
        df = max(1.0, min(spread.df, rarest * self._effective[self._column[name]] - 1))
        wide = Spread(spread.value, spread.variance, df)
        odds = math.log(spread.value / (1 - spread.value))
        half = wide.quantile * math.sqrt(wide.variance) / (spread.value * (1 - spread.value))
        return Interval(spread.value, *(1 / (1 + math.exp(-odd)) for odd in (odds - half, odds + half)))

    def difference(self, a: str, b: str) -> Spread:
        """The mean ``a`` minus the mean ``b``, of values that are 0 or 1 on the same rows.

        Where the two differ in fewer than 20 groups, or in all but fewer than 20, variance is added, as if a difference
        could have hidden in one more group to either side (after Bonett and Price 2012).
        """
        used, w = self._weights([(a, 1.0), (b, -1.0)])
        variances = self._variances(used, w[:, None])[:, 0, 0]
        return self._spread(used, float(w @ self._means[used]), variances, self._hidden(a, b))

    def pgr(self, weak: str, student: str, ceiling: str) -> tuple[Interval | None, str | None]:
        """PGR with its 95 % interval after Fieller (1954), or None and the reason why it is undefined.

        The interval holds every theta for which gain - theta * gap is not told from zero. It is bounded exactly where
        the interval of the gap lies above zero; elsewhere any value, however large, would be noise.
        """
        from scipy.optimize import brentq

        used = np.array([self._column[name] for name in (student, weak, ceiling)])
        contrasts = np.array([[1.0, 0.0], [-1.0, -1.0], [0.0, 1.0]])  # gain and gap
        variances, (gain, gap) = self._variances(used, contrasts), (contrasts.T @ self._means[used]).tolist()
        of_gain, of_both, of_gap = variances[:, 0, 0], variances[:, 0, 1], variances[:, 1, 1]
        hidden = [self._hidden(*pair) for pair in ((student, weak), (student, ceiling), (ceiling, weak))]
        _, low, high = self._spread(used, gap, of_gap, hidden[2]).interval(-1.0, 1.0)
        if not low > 0:
            span = f"{gap:+.3f}, 95 % interval {low:+.3f} to {high:+.3f}"
            return None, f"the ceiling is not shown to be better than the supervisor (gap {span})"
        for other, sure in ((weak, 0.0), (ceiling, 1.0)):
            if self._column[student] == self._column[other]:
                return Interval(sure, sure, sure), None

        def outside(theta: float) -> float:
            # Of values that sum to a difference, the hidden variances add up as those of distances do.
            more = (1 - theta) * hidden[0] + theta * hidden[1] - theta * (1 - theta) * hidden[2]
            of_sum = of_gain - 2 * theta * of_both + theta**2 * of_gap
            spread = self._spread(used, gain - theta * gap, of_sum, max(0.0, more))
            return spread.value**2 - spread.quantile**2 * spread.variance

        middle, ends = gain / gap, []
        for side in (-1, 1):
            step = 0.25
            while outside(middle + side * step) <= 0 and step < _FAR:
                step *= 2
            end = brentq(outside, middle, middle + side * step, xtol=1e-12) if step < _FAR else math.inf
            ends.append(end if step < _FAR else side * end)
        return Interval(middle, *ends), None

    def _weights(self, weights: Iterable[tuple[str, float]]) -> tuple[Ints, Floats]:
        """Columns and their weights; the same predictions cancel each other."""
        total = np.zeros(len(self._means))
        for name, weight in weights:
            total[self._column[name]] += weight
        used = np.flatnonzero(total)
        return used, total[used]

    def _variances(self, used: Ints, contrasts: Floats) -> Floats:
        """(3, Q, Q): over seeds, over groups, and over both, of Q contrasts (len(used), Q)."""
        made = []
        with np.errstate(invalid="ignore", divide="ignore"):
            for free, signs in zip(self._free, ((1, 0, 0), (0, 1, 0), (1, 1, -1)), strict=True):
                scaled = contrasts / np.sqrt(np.maximum(free[used], 0))[:, None]
                terms = [(s, scaled.T @ part[used]) for s, part in zip(signs, self._parts, strict=True) if s]
                made.append(sum(s * (term @ term.T) for s, term in terms))
        return np.stack(made)

    def _spread(self, used: Ints, value: float, variances: Floats, hidden: float = 0.0) -> Spread:
        from scipy.special import stdtridf, stdtrit

        if not len(used):
            return Spread(0.0, 0.0, math.inf)
        seeds, groups = int(self._num_seeds[used].min()), int(self._num_groups[used].min())
        over_seeds, over_groups, both = variances.tolist()
        if groups < 2:
            return Spread(value, math.inf, 0.0)
        if seeds < 2:
            over_seeds, both = 0.0, 0.0
        variance = max(over_seeds, over_groups, both, 0.0) + hidden
        free = float(self._effective[used].min()) - 1  # one group with most of the rows tells little
        known = over_seeds**2 / max(seeds - 1, 1) + over_groups**2 / free
        spread = Spread(value, variance, variance**2 / known if known > 0 else math.inf)
        if both > over_groups:
            parts = zip((both - over_groups, over_groups + hidden), (seeds - 1, free), strict=True)
            least = math.sqrt(sum(part * float(stdtrit(df, _UPPER)) ** 2 for part, df in parts) / variance)
            if least > spread.quantile:
                return Spread(value, variance, float(stdtridf(_UPPER, least)))
        return spread

    def _few(self, sums: Floats, usual: Sequence[Floats]) -> float:
        """From 1 where no group departs from what is usual to 0 where 20 do; of several usual values the commonest."""
        seen = []
        for value in usual:
            departs = np.zeros(self._group.max(initial=0) + 1, dtype=np.bool_)
            departs[self._group[(np.abs(sums - value) > _TINY).any(axis=0)]] = True
            seen.append(int(departs.sum()))
        return max(0.0, 1 - min(seen) / _FEW)

    def _hidden(self, a: str, b: str) -> float:
        """The variance that a difference is given because so few groups, or so nearly all, show one."""
        i, j = self._column[a], self._column[b]
        apart, counts = self._sums[i] - self._sums[j], self._counts[i]
        few = self._few(apart[None], [value * counts for value in (-1.0, 0.0, 1.0)]) if i != j else 0.0
        return float(few * (_NORMAL / self._effective[i]) ** 2)


def _summed(by: Ints, values: Floats, length: int = 0) -> Floats:
    """Sums over the columns of (K, n) that have the same number (n,)."""
    return np.stack([np.bincount(by, weights=row, minlength=length) for row in values])


def plain(value: Any) -> Any:
    """Numbers and intervals as plain JSON values; NaN and infinity become None."""
    match value:
        case Interval():
            return [plain(v) for v in value]
        case Mapping():
            return {k: plain(v) for k, v in value.items()}
        case float() | np.floating():
            return float(value) if math.isfinite(value) else None
        case list() | tuple():
            return [plain(v) for v in value]
    return value


# --- labels that only exclude -----------------------------------------------------------------------------------------


def complementary_accuracy(
    predicted: Ints, excluded: Ints, num_classes: int, right: NDArray[np.bool_] | None = None
) -> Interval:
    """Accuracy from labels that say only "not this class", with a few ordinary ones if there are some.

    If each of n rows excludes one of its K - 1 wrong classes at random, 1 - (K - 1) P(predicted = excluded) is the
    accuracy, without bias, and may fall below 0 by chance (Yin, Ishida & Sugiyama 2026, arXiv 2510.22500). ``right``
    says whether the predictions of m other rows with ordinary labels are right; the two estimates are pooled by inverse
    variance. Variances of shares have two rows of each kind added (Agresti & Coull 1998), so that none is 0.

    Args:
        predicted: (n,) the predicted class of each row; rows must be unrelated.
        excluded: (n,) the class that the row is not.
        num_classes: K.
        right: (m,) of other rows.
    """
    counts = [(int((predicted == excluded).sum()), len(predicted), num_classes - 1)]
    if right is not None and len(right):
        counts.append((int((~right).sum()), len(right), 1))
    estimates = [1 - times * hits / n for hits, n, times in counts]
    smoothed = [((hits + 2) / (n + 4), n + 4, times) for hits, n, times in counts]
    precision = np.array([n / (times**2 * share * (1 - share)) for share, n, times in smoothed])
    value = float(precision @ np.array(estimates) / precision.sum())
    reach = _NORMAL / math.sqrt(precision.sum())
    return Interval(value, value - reach, value + reach)
