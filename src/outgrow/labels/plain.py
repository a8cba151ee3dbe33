"""Transforms that use nothing but the labels."""

from dataclasses import replace
from typing import Annotated

import numpy as np

from outgrow.data import Labels
from outgrow.errors import UserError
from outgrow.labels.base import (
    Transform,
    TransformInputs,
    between,
    confidence,
    handed,
    highest,
    highest_of_each,
    relabelled,
    shared_certain,
    transform,
    wanted_shares,
)
from outgrow.registry import ClassShares, Range

__all__ = ["Balance", "Complement", "Harden", "KeepConfident", "MixGold", "Reliability", "Temperature"]


@transform
class Harden(Transform):
    """The supervisor's class made certain; classes that tie share the row."""

    version = 1
    source = "Burns et al. 2023 (chess labels are moves); Wu & Sahai 2024 (arXiv 2410.04638)"
    cost = "none"

    def __call__(self, labels: Labels, given: TransformInputs) -> Labels:
        return relabelled(labels, shared_certain(labels.probs), self)


@transform
class Temperature(Transform):
    """Probabilities to the power 1/t: t below 1 sharpens the labels, above 1 softens them."""

    version = 1
    soft = True
    source = "Hinton et al. 2015 (arXiv 1503.02531), section 2"
    cost = "none"

    t: Annotated[float, Range(1e-3)] = 0.5
    """1 leaves the labels as they are."""

    def __call__(self, labels: Labels, given: TransformInputs) -> Labels:
        log_probs = np.log(np.maximum(labels.probs.astype(np.float64), 1e-300)) / self.t
        return relabelled(labels, np.exp(log_probs - log_probs.max(axis=1, keepdims=True)), self)


@transform
class Balance(Transform):
    """Log-odds shifted by one number per class until the mean of the labels is what the classes should be.

    EleutherAI/w2s subtracts the mean log-odds (loss.py, balance_batch); here the mean probabilities meet their target,
    for C classes and over all labels at once.
    """

    version = 1
    soft = True
    source = "EleutherAI/w2s, loss.py, balance_batch"
    cost = "none"

    shares: Annotated[str | tuple[float, ...], ClassShares("uniform")] = "uniform"
    """Share of each class, or ``uniform``."""

    def __call__(self, labels: Labels, given: TransformInputs) -> Labels:
        aim = wanted_shares(self.shares, labels.probs, "Balance")
        assert aim is not None
        if len(labels) and labels.probs.max(axis=1).min() > 1 - 1e-6:
            raise UserError("Balance needs soft labels: certain ones say nothing about which rows to move")
        odds = np.maximum(labels.probs.astype(np.float64), 1e-12)
        for _ in range(10_000):  # iterative proportional fitting; a few hundred rounds are enough
            probs = odds / odds.sum(axis=1, keepdims=True)
            mean = probs.mean(axis=0)
            if np.abs(mean - aim).max() < 1e-9:
                break
            odds = probs * (aim / mean)
        return relabelled(labels, probs, self)


@transform
class Complement(Transform):
    """Every label says only one class that the row is not: drawn among all but the supervisor's, the others equal.

    Partitioned supervision (Yin, Ishida & Sugiyama 2026): experts who know one class each can say "not mine". Here
    the supervisor's class stands for theirs, to see what so little a label is worth; train with ``Complementary``.
    Labels of your own table can be of this kind: give every class but the excluded one the same probability.
    """

    version = 1
    needs = frozenset({"seed"})
    source = "Yin, Ishida & Sugiyama 2026 (arXiv 2510.22500); Ishida et al. 2017 (arXiv 1705.07541)"
    cost = "none"

    def __call__(self, labels: Labels, given: TransformInputs) -> Labels:
        n, num_classes = labels.probs.shape
        further = np.random.default_rng([given.seed, 5]).integers(1, num_classes, size=n)
        probs = np.ones((n, num_classes))
        probs[np.arange(n), (labels.hard + further) % num_classes] = 0
        return relabelled(labels, probs, self)


@transform
class KeepConfident(Transform):
    """Only the rows the supervisor is surest of, by its highest probability."""

    version = 1
    drops = True
    soft = True
    source = "Burns et al. 2023, appendix; safety-research/automated-w2s-research, confident-only"
    cost = "none"

    share: Annotated[float, Range(0, 1)] = 0.5
    """Share of rows kept; 1 keeps all."""
    per_class: bool = True
    """Keep the same share of each class, so that the class the supervisor is surest of does not take over."""

    def __call__(self, labels: Labels, given: TransformInputs) -> Labels:
        sure = confidence(labels.probs)
        classes = labels.hard if self.per_class else np.zeros(len(labels), dtype=np.int64)
        return labels.take(labels.ids[highest_of_each(sure, self.share, classes, labels.ids)])


@transform
class Reliability(Transform):
    """The supervisor's class weighted by its reliability r, its probability: r certain + (1 - r) uniform.

    Guo & Yang 2024 weight the loss on the class by the share r of several prompts that gave it; here one supervisor's
    probability stands for that share. Cross-entropy is linear in the label, so the first part is their weighted loss;
    where they drop the remaining weight 1 - r, the row here asks for even odds.
    """

    version = 1
    soft = True
    source = "Guo & Yang 2024 (arXiv 2406.19032), reliability re-weighting, as label shrinkage"
    cost = "none"

    strength: Annotated[float, Range(0, 1)] = 1.0
    """0 leaves the labels as they are."""

    def __call__(self, labels: Labels, given: TransformInputs) -> Labels:
        weight = labels.probs.max(axis=1, keepdims=True).astype(np.float64)
        shrunk = weight * shared_certain(labels.probs) + (1 - weight) / labels.probs.shape[1]
        return relabelled(labels, between(self.strength, shrunk, labels.probs), self)


@transform
class MixGold(Transform):
    """Ground truth for a random share of B: a student that buys gold, no longer supervised by the weak labels alone.

    Mallen & Belrose 2024. Rows for early stopping keep their weak labels. Outgrow's law is that gold of B never reaches
    a student; this transform breaks it on purpose, and no other does.
    """

    version = 1
    needs = frozenset({"gold", "seed"})
    source = "Mallen & Belrose 2024 (arXiv 2410.13215), quantity and quality"
    cost = "gold labels"

    share: Annotated[float, Range(0, 1)] = 0.1
    """Share of B whose truth is bought; 0 buys nothing."""

    def __call__(self, labels: Labels, given: TransformInputs) -> Labels:
        truth: Labels = handed(given.gold)
        on_sale = np.flatnonzero(np.isin(labels.ids, truth.ids))
        luck = np.random.default_rng([given.seed, 0]).random(len(on_sale))
        bought = on_sale[highest(luck, round(self.share * len(on_sale)), labels.ids[on_sale])]
        probs = labels.probs.copy()
        probs[bought] = truth.take(labels.ids[bought]).probs
        return replace(labels, probs=probs, source=f"{labels.source}, {len(bought)} rows of gold")
