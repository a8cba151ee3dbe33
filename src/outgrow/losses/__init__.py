"""Losses of a student on soft labels: one frozen dataclass each, named and hashed by its parameters.

A loss maps logits (..., n, C), target probabilities (..., n, C) and the share of training done so far to a loss for
each example (..., n). Leading axes are students trained side by side; a parameter may then be a tensor that
broadcasts against (..., n, C), see :func:`stacked`. Adding the same number to all logits of an example changes nothing.
"""

from outgrow.losses.base import LOSSES, Loss, MixesTargets, StatefulLoss, loss, stacked
from outgrow.losses.hardening import harden, offsets
from outgrow.losses.memory import ELR
from outgrow.losses.mixed import KL, AdaptConf, LogConf, Product, Xent
from outgrow.losses.robust import CACE, EDL, GCE, Complementary, Entropy, ReverseKL, ReverseXent, Symmetric, Window

__all__ = [
    "CACE", "EDL", "ELR", "GCE", "KL", "LOSSES", "AdaptConf", "Complementary", "Entropy", "LogConf", "Loss",
    "MixesTargets", "Product", "ReverseKL", "ReverseXent", "StatefulLoss", "Symmetric", "Window", "Xent", "harden",
    "loss", "offsets", "stacked",
]  # fmt: skip
