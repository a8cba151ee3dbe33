"""Transforms of the labels alone."""

from dataclasses import replace
from typing import ClassVar

import numpy as np

from outgrow.data import Labels
from outgrow.errors import UserError
from outgrow.labels.base import (
    TransformInputs,
    between,
    confidence,
    handed,
    highest,
    highest_of_each,
    in_range,
    relabelled,
    shared_certain,
    transform,
)

__all__ = ["Balance", "Harden", "KeepConfident", "MixGold", "Reliability", "Temperature"]

_NONE = "none"


@transform
class Harden:
    """The supervisor's class made certain; classes that tie share the row."""

    needs: ClassVar[frozenset[str]] = frozenset()
    drops: ClassVar[bool] = False
    soft: ClassVar[bool] = False
    source: ClassVar[str] = "Burns et al. 2023 (chess labels are moves); Wu & Sahai 2024 (arXiv 2410.04638)"
    cost: ClassVar[str] = _NONE

    def __call__(self, labels: Labels, given: TransformInputs) -> Labels:
        return relabelled(labels, shared_certain(labels.probs), self)


@transform
class Temperature:
    """Probabilities to the power 1/t: t below 1 sharpens the labels, above 1 softens them."""

    needs: ClassVar[frozenset[str]] = frozenset()
    drops: ClassVar[bool] = False
    soft: ClassVar[bool] = True
    source: ClassVar[str] = "Hinton et al. 2015 (arXiv 1503.02531), section 2"
    cost: ClassVar[str] = _NONE

    t: float = 0.5
    """1 leaves the labels as they are."""

    def __post_init__(self) -> None:
        in_range(self, 1e-3, float("inf"), "t")

    def __call__(self, labels: Labels, given: TransformInputs) -> Labels:
        log_probs = np.log(np.maximum(labels.probs.astype(np.float64), 1e-300)) / self.t
        return relabelled(labels, np.exp(log_probs - log_probs.max(axis=1, keepdims=True)), self)


@transform
class Balance:
    """Log-odds moved by one number for each class until the mean of the labels is what the classes should be.

    EleutherAI/w2s subtracts the mean log-odds (loss.py, balance_batch); here the mean probabilities meet their aim, for
    C classes and over all labels at once.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    drops: ClassVar[bool] = False
    soft: ClassVar[bool] = True
    source: ClassVar[str] = "EleutherAI/w2s, loss.py, balance_batch"
    cost: ClassVar[str] = _NONE

    marginals: tuple[float, ...] = ()
    """Share of each class; equal ones where not said."""

    def __post_init__(self) -> None:
        if self.marginals and (min(self.marginals) <= 0 or abs(sum(self.marginals) - 1) > 1e-6):
            raise UserError(f"Balance marginals are {self.marginals}; they must be above 0 and sum to 1")

    def __call__(self, labels: Labels, given: TransformInputs) -> Labels:
        num_classes = labels.probs.shape[1]
        if self.marginals and len(self.marginals) != num_classes:
            raise UserError(f"Balance has {len(self.marginals)} marginals and the task {num_classes} classes")
        if len(labels) and labels.probs.max(axis=1).min() > 1 - 1e-6:
            raise UserError("Balance needs soft labels: certain ones say nothing about which rows to move")
        aim = np.asarray(self.marginals or np.full(num_classes, 1 / num_classes))
        odds = np.maximum(labels.probs.astype(np.float64), 1e-12)
        for _ in range(10_000):  # iterative proportional fitting; few hundreds are enough
            probs = odds / odds.sum(axis=1, keepdims=True)
            mean = probs.mean(axis=0)
            if np.abs(mean - aim).max() < 1e-9:
                break
            odds = probs * (aim / mean)
        return relabelled(labels, probs, self)


@transform
class KeepConfident:
    """Only the rows the supervisor is surest of, by its highest probability."""

    needs: ClassVar[frozenset[str]] = frozenset()
    drops: ClassVar[bool] = True
    soft: ClassVar[bool] = True
    source: ClassVar[str] = "Burns et al. 2023, appendix; safety-research/automated-w2s-research, confident-only"
    cost: ClassVar[str] = _NONE

    share: float = 0.5
    """Share of rows kept; 1 keeps all."""
    per_class: bool = True
    """The same share of each class, so that the class of the surest does not take over."""

    def __post_init__(self) -> None:
        in_range(self, 0, 1, "share")

    def __call__(self, labels: Labels, given: TransformInputs) -> Labels:
        sure = confidence(labels.probs)
        classes = labels.hard if self.per_class else np.zeros(len(labels), dtype=np.int64)
        return labels.take(labels.ids[highest_of_each(sure, self.share, classes, labels.ids)])


@transform
class Reliability:
    """The supervisor's class with its reliability r, its probability, as weight: r certain + (1 - r) uniform.

    Guo & Yang 2024 weight the loss on the class by the share r of several prompts that gave it; one supervisor's
    probability stands for that share. Cross-entropy being linear in the label, the first part is their weighted loss;
    in place of weight 1 - r taken away, the row asks for even odds.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    drops: ClassVar[bool] = False
    soft: ClassVar[bool] = True
    source: ClassVar[str] = "Guo & Yang 2024 (arXiv 2406.19032), reliability re-weighting, as label shrinkage"
    cost: ClassVar[str] = _NONE

    strength: float = 1.0
    """0 leaves the labels as they are."""

    def __post_init__(self) -> None:
        in_range(self, 0, 1, "strength")

    def __call__(self, labels: Labels, given: TransformInputs) -> Labels:
        weight = labels.probs.max(axis=1, keepdims=True).astype(np.float64)
        shrunk = weight * shared_certain(labels.probs) + (1 - weight) / labels.probs.shape[1]
        return relabelled(labels, between(self.strength, shrunk, labels.probs), self)


@transform
class MixGold:
    """Ground truth for a share of B drawn at random: a student that buys gold, no longer supervised by the weak alone.

    Mallen & Belrose 2024. Rows for early stopping keep their weak labels. Outgrow's law that gold of B reaches no
    student is set aside by this transform, by design and by nothing else.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"gold", "seed"})
    drops: ClassVar[bool] = False
    soft: ClassVar[bool] = False
    source: ClassVar[str] = "Mallen & Belrose 2024 (arXiv 2410.13215), quantity and quality"
    cost: ClassVar[str] = "gold labels"

    share: float = 0.1
    """Share of B whose truth is bought; 0 buys nothing."""

    def __post_init__(self) -> None:
        in_range(self, 0, 1, "share")

    def __call__(self, labels: Labels, given: TransformInputs) -> Labels:
        truth: Labels = handed(given.gold)
        on_sale = np.flatnonzero(np.isin(labels.ids, truth.ids))
        luck = np.random.default_rng([given.seed, 0]).random(len(on_sale))
        bought = on_sale[highest(luck, round(self.share * len(on_sale)), labels.ids[on_sale])]
        probs = labels.probs.copy()
        probs[bought] = truth.take(labels.ids[bought]).probs
        return replace(labels, probs=probs, source=f"{labels.source}, {len(bought)} rows of gold")
