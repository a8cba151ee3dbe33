"""Scores of predictions, performance gap recovered (PGR), and their intervals. Arrays in, numbers out."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from outgrow.data import Floats, Ints, hardened

__all__ = [
    "Interval",
    "Outcomes",
    "agreement",
    "auroc",
    "balanced_values",
    "bootstrap_means",
    "class_values",
    "confusion",
    "ece",
    "interval",
    "per_example",
    "pgr",
    "pgr_interval",
    "pgr_replicates",
    "plain",
    "scores",
]

_EPSILON = 1e-7  # probabilities are kept this far from 0 under a logarithm
CONFIDENCE = 0.95
_AT_ONCE = 250  # bootstrap replicates in one matrix product


class Interval(NamedTuple):
    """A number and the bounds of its 95 % interval."""

    value: float
    low: float
    high: float


def per_example(probs: Floats, gold: Ints) -> dict[str, Floats]:
    """Scores that are means over examples, one value per row (n,): ``accuracy`` (0 or 1), ``xent`` in nats, ``brier``.

    ``probs`` is (n, C), ``gold`` (n,). The Brier score is the squared distance between the probabilities and the truth,
    summed over classes (Brier 1950), so it lies in [0, 2].
    """
    rows = np.arange(len(gold))
    truth = np.zeros_like(probs, dtype=np.float64)
    truth[rows, gold] = 1.0
    return {
        "accuracy": (hardened(probs) == gold).astype(np.float64),
        "xent": -np.log(np.maximum(probs[rows, gold].astype(np.float64), _EPSILON)),
        "brier": ((probs - truth) ** 2).sum(axis=1),
    }


def auroc(probs: Floats, gold: Ints) -> float:
    """Area under the ROC curve; for C > 2 the mean over classes, each against the rest. NaN if ``gold`` lacks a
    class."""
    from sklearn.metrics import roc_auc_score

    num_classes = probs.shape[1]
    if len(np.unique(gold)) < num_classes:
        return math.nan
    columns = range(1, 2) if num_classes == 2 else range(num_classes)
    return float(np.mean([roc_auc_score(gold == c, probs[:, c]) for c in columns]))


def ece(probs: Floats, gold: Ints, bins: int = 15) -> float:
    """Expected calibration error: |confidence - accuracy| in equal-width bins of the highest probability, weighted by
    their share of rows (Guo et al. 2017, eq. 3)."""
    confidence = probs.max(axis=1).astype(np.float64)
    which = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    right = (hardened(probs) == gold).astype(np.float64)
    gaps = np.bincount(which, weights=confidence - right, minlength=bins)
    return float(np.abs(gaps).sum() / max(len(gold), 1))


def scores(probs: Floats, gold: Ints) -> dict[str, float]:
    """All scores of one set of predictions (n, C) against the truth (n,)."""
    means = {name: float(values.mean()) for name, values in per_example(probs, gold).items()}
    return {**means, "auroc": auroc(probs, gold), "ece": ece(probs, gold)}


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


@dataclass(frozen=True, kw_only=True, eq=False)
class Outcomes:
    """Per-example values on one seed's test set, to be averaged."""

    groups: NDArray[np.str_]
    """(n,) Related rows share a group and are resampled together."""
    values: Mapping[str, Floats]
    """(n,) by name; rows that do not count for a mean hold NaN."""


def bootstrap_means(seeds: Sequence[Outcomes], replicates: int = 2000, seed: int = 0) -> dict[str, Floats]:
    """Mean of every value over all seeds and rows: element 0 is the estimate, the rest are bootstrap replicates.

    Each replicate draws seeds with replacement and, independently, test groups with replacement; a group drawn twice
    counts twice in every seed that tests on it. Seeds often share test rows, and this (pigeonhole, Owen 2007) bootstrap
    does not mistake them for new ones. All values share the draws, so differences and ratios of the results are paired.
    """
    names = list(seeds[0].values)
    groups, codes = np.unique(np.concatenate([s.groups for s in seeds]), return_inverse=True)
    ends = np.cumsum([len(s.groups) for s in seeds])
    sums = np.zeros((len(seeds), len(groups), 2 * len(names)))
    for which, (outcomes, code) in enumerate(zip(seeds, np.split(codes, ends[:-1]), strict=True)):
        for k, name in enumerate(names):
            values = np.asarray(outcomes.values[name], dtype=np.float64)
            counted = np.isfinite(values)
            sums[which, :, k] = np.bincount(code[counted], weights=values[counted], minlength=len(groups))
            sums[which, :, len(names) + k] = np.bincount(code[counted], minlength=len(groups))
    table = sums.transpose(1, 0, 2).reshape(len(groups), -1)
    rng = np.random.default_rng(seed)
    totals = [sums.sum(axis=(0, 1))[None]]
    for at in range(0, replicates, _AT_ONCE):
        count = min(_AT_ONCE, replicates - at)
        seed_weights = _draws(rng, count, len(seeds))
        by_seed = (_draws(rng, count, len(groups)) @ table).reshape(count, len(seeds), -1)
        totals.append(np.einsum("rs,rsk->rk", seed_weights, by_seed))
    total = np.concatenate(totals)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = total[:, : len(names)] / total[:, len(names) :]
    return {name: means[:, k] for k, name in enumerate(names)}


def _draws(rng: np.random.Generator, replicates: int, n: int) -> Floats:
    """How often each of n items is drawn in n draws with replacement (replicates, n)."""
    return np.stack([np.bincount(rng.integers(n, size=n), minlength=n) for _ in range(replicates)]).astype(np.float64)


def interval(estimate_and_replicates: Floats) -> Interval:
    """The estimate with the central 95 % of its replicates; NaN replicates (no such rows drawn) are skipped."""
    estimate, replicates = float(estimate_and_replicates[0]), estimate_and_replicates[1:]
    replicates = replicates[~np.isnan(replicates)]
    if not len(replicates):
        return Interval(estimate, math.nan, math.nan)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(replicates, [tail, 1 - tail], method="inverted_cdf")
    return Interval(estimate, float(low), float(high))


def pgr_interval(weak: Floats, student: Floats, ceiling: Floats) -> tuple[Interval | None, str | None]:
    """PGR with its interval from paired bootstrap means, or None and the reason why it is undefined.

    PGR divides by the gap between ceiling and supervisor. Where the 95 % interval of that gap does not lie above zero,
    any value, however large, would be noise.
    """
    gap = interval(ceiling - weak)
    if not gap.low > 0:
        span = f"{gap.value:+.3f}, 95 % interval {gap.low:+.3f} to {gap.high:+.3f}"
        return None, f"the ceiling is not shown to be better than the supervisor (gap {span})"
    return interval(pgr_replicates(weak, student, ceiling)), None


def pgr_replicates(weak: Floats, student: Floats, ceiling: Floats) -> Floats:
    """PGR of every bootstrap replicate; plus or minus infinity for the few without a gap, whose ratio means nothing."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = (student - weak) / (ceiling - weak)
    return np.where(ceiling > weak, ratios, np.where(student > weak, np.inf, -np.inf))


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
