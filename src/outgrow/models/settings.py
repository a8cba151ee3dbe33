"""How a linear head is trained on frozen features. Apart from the engines, so that reading it needs no torch."""

import math
from dataclasses import dataclass
from typing import Annotated

from outgrow.registry import OneOf, Range

__all__ = ["ASKED", "ASKED_OR_MEAN", "VIEWS", "HeadSettings", "LogisticSettings", "ProbeSettings"]

_EPOCHS = 10
_UPDATES = 1000
"""At least so many for any number of rows. Fixed by what is left of synthetic labels on real features of 100 to 2,400
rows: the loss is within .03 nats of its minimum (.06 at the worst), and within .35 after 40 updates (docs/log.md)."""

VIEWS = {
    "last_token": "the last real token at the last layer",
    "mean": "the mean over tokens at the last layer",
    "mid_mean": "the mean over tokens at two thirds of the depth",
}
"""The views of a text that feature extraction stores, all from one pass; :mod:`outgrow.models.images` has those of
images."""


ASKED = {
    "asked": "the last token after the task's question, at two thirds of the depth",
    "asked_half": "the same at half of the depth",
    "asked_three_quarters": "the same at three quarters of the depth",
    "asked_last": "the same at the last layer",
    "asked_mean": "the mean over the text's tokens, inside the question, at two thirds of the depth",
    "asked_mean_last": "the same at the last layer",
}
"""The views of a text inside the task's question (:class:`outgrow.data.Question`), all from one pass of a language
model, beside ``words`` and ``words_calibrated``: the log probabilities of the classes' words as the next token. Which
depth ``asked`` reads was fixed before any result was seen: the same as of ``mid_mean``."""

ASKED_OR_MEAN = "asked_or_mid_mean"
"""``asked`` of language models, ``mid_mean`` of all others: for ladders that hold both."""


@dataclass(frozen=True, kw_only=True)
class HeadSettings:
    """A linear head on frozen features."""

    view: Annotated[str, OneOf(*VIEWS, *ASKED, ASKED_OR_MEAN)] = "mid_mean"
    """Which features: a layer and a pooling, see ``VIEWS``; or of language models, inside the task's question, see
    ``ASKED``. ``asked_or_mid_mean`` is ``asked`` of language models and ``mid_mean`` of all others."""
    l2: Annotated[float, Range(0)] = 0.01
    """Weight of |w|^2 / 2, added to the mean loss; features are standardized, and the bias is free."""
    max_tokens: Annotated[int | None, Range(1)] = None
    """Texts are cut to their first so many tokens, including special tokens; by default to 512, or as many as the model
    can take if those are fewer. Short texts cost the same under any. A question is never cut: the text is."""
    precision: Annotated[str, OneOf("auto", "fp32", "bf16")] = "auto"
    """How a transformer computes the features: ``fp32``, or ``bf16``, which is many times as fast on a GPU. ``auto`` is
    ``bf16`` for packaged models whose weights are kept so (qwen2.5-coder-1.5b), on any machine, else ``fp32``."""


@dataclass(frozen=True, kw_only=True)
class ProbeSettings(HeadSettings):
    """A linear head trained by minibatch Adam with L2."""

    epochs: Annotated[int | None, Range(1)] = None
    """Passes over the rows. By default 10, or where rows are few, as many as make 1,000 updates: the same for a student
    and its ceiling, whose rows are the same."""
    batch_size: Annotated[int, Range(1)] = 32
    lr: Annotated[float, Range(0, 1000, above=True)] = 1e-3
    """Of a weight; the bias, which one-sided labels push further, has ten times as much."""
    early_stopping: bool = True
    """Keep the epoch that agrees best with held-out labels from the same source as the training labels."""

    def passes(self, rows: int) -> int:
        """How many epochs a student of so many rows is trained."""
        updates = math.ceil(rows / self.batch_size)
        return self.epochs or max(_EPOCHS, math.ceil(_UPDATES / max(1, updates)))


@dataclass(frozen=True, kw_only=True)
class LogisticSettings(HeadSettings):
    """A linear head at the exact minimum of cross-entropy with L2: no epochs, no order, no seed."""

    l2: Annotated[float, Range(0, above=True)] = 0.01
    """As for a probe, but above 0: without it, labels that a plane separates have no solution."""
