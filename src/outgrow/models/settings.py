"""Settings of the probe engines; apart from the engines, so that reading them needs no torch."""

from dataclasses import dataclass, field
from typing import Any

from outgrow.errors import UserError, unknown_name

__all__ = ["VIEWS", "Head", "Logistic", "Probe"]

VIEWS = {
    "last_token": "the last real token at the last layer",
    "mean": "the mean over tokens at the last layer",
    "mid_mean": "the mean over tokens at two thirds of the depth",
}
"""The views of a text that feature extraction stores, all from one pass; images have their own reading of them."""

PRECISIONS = ("fp32", "bf16")


def _precision() -> Any:
    return field(default="fp32", metadata={"added": True})


def _check_read(settings: "Head") -> None:
    if settings.view not in VIEWS:
        raise unknown_name("view", settings.view, VIEWS)
    if settings.precision not in PRECISIONS:
        raise unknown_name("precision", settings.precision, PRECISIONS)


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A linear head on frozen features, trained by minibatch Adam with L2."""

    view: str = "mid_mean"
    """Which features: a layer and a pooling, see ``VIEWS``."""
    epochs: int = 10
    batch_size: int = 32
    lr: float = 1e-3
    l2: float = 0.01
    """Weight of |w|^2 / 2 beside the mean loss; features are standardized, the bias is free."""
    max_tokens: int = 128
    """Texts are cut to their first so many tokens, special tokens counted in."""
    early_stopping: bool = True
    """Keep the epoch that agrees best with held-out labels from the same source as the training labels."""
    precision: str = _precision()
    """What a transformer computes the features in: ``fp32``, or ``bf16``, which GPUs do many times as fast."""

    def __post_init__(self) -> None:
        _check_read(self)
        for name in ("epochs", "batch_size", "max_tokens"):
            if getattr(self, name) < 1:
                raise UserError(f"probe {name} is {getattr(self, name)}; it must be at least 1")
        if not self.lr > 0 or self.l2 < 0:
            raise UserError(f"probe lr is {self.lr} and l2 {self.l2}; lr must be above 0 and l2 not below")


@dataclass(frozen=True, kw_only=True)
class Logistic:
    """A linear head on frozen features, the exact minimum of cross-entropy with L2: no epochs, no order, no seed."""

    view: str = "mid_mean"
    """Which features: a layer and a pooling, see ``VIEWS``."""
    l2: float = 0.01
    """Weight of |w|^2 / 2 beside the mean loss; features are standardized, the bias is free."""
    max_tokens: int = 128
    """Texts are cut to their first so many tokens, special tokens counted in."""
    precision: str = _precision()
    """What a transformer computes the features in: ``fp32``, or ``bf16``, which GPUs do many times as fast."""

    def __post_init__(self) -> None:
        _check_read(self)
        if self.max_tokens < 1:
            raise UserError(f"logistic max_tokens is {self.max_tokens}; it must be at least 1")
        if not self.l2 > 0:
            raise UserError(
                f"logistic l2 is {self.l2}; it must be above 0, or labels that a plane separates have no solution"
            )


Head = Probe | Logistic
"""Trainers of a linear head on frozen features."""
