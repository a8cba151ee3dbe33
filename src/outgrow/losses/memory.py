"""A loss that holds on to what the student said about an example before it began to memorize wrong labels."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from outgrow.losses.base import Loss, MixesTargets, StatefulLoss, loss
from outgrow.registry import Range

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["ELR"]

_LEAST = 1e-4  # of 1 - <f, t>; the authors' code keeps f itself this far from 0 and 1


@loss
class ELR(StatefulLoss, Loss):
    """Early-learning regularization: CE(f, weak) + strength log(1 - <f, t>), t the mean of the student's past beliefs.

    Liu et al. 2020 (equation 6; t by temporal ensembling, equation 8): at every sight of an example, t becomes
    beta t + (1 - beta) f, starting from zeros; no gradient flows through it. The term falls as f agrees with what it
    said in earlier epochs, so a label that the student did not believe early on pulls less and less. 1 - <f, t> is kept
    at 1e-4 or above, and has no slope there.

    Called directly, this is the loss of examples seen for the first time; training keeps t, see
    :class:`outgrow.losses.StatefulLoss`. With one epoch it does little: t is then f itself, times 1 - beta.
    """

    version = 1
    source = "Liu et al. 2020 (arXiv 2007.00151), ELR, eq. 6 and 8, and its code"
    cost = "as Xent, and C numbers in memory for each example of each student"

    strength: Annotated[float, Range(0)] = 3.0
    """Lambda; the paper's value for CIFAR-10, from memory (7 for CIFAR-100); 0 is Xent."""
    beta: Annotated[float, Range(0, 1)] = 0.7
    """Share of t kept at each sight; the paper's value for CIFAR-10, from memory (0.9 for CIFAR-100); 1 is Xent."""

    def remember(self, memory: "Tensor", logits: "Tensor") -> "Tensor":
        """The running mean t (..., n, C) after this sight; see :class:`outgrow.losses.StatefulLoss`."""
        return self.beta * memory + (1 - self.beta) * _beliefs(logits.detach())

    def with_memory(self, memory: "Tensor") -> Loss:
        """The loss of the examples whose running mean t is ``memory`` (..., n, C)."""
        return _WithMemory(strength=self.strength, memory=memory)

    def __call__(self, logits: "Tensor", targets: "Tensor", progress: float) -> "Tensor":
        """Loss (..., n) of examples never seen before."""
        import torch

        first = self.remember(torch.zeros_like(logits), logits)
        return self.with_memory(first)(logits, targets, progress)


@dataclass(frozen=True, kw_only=True, eq=False)
class _WithMemory(MixesTargets, Loss):
    """The loss of one batch. Its gradient in the logits is softmax minus changed targets, in closed form."""

    strength: "float | Tensor"
    memory: "Tensor"

    def targets(self, logits: "Tensor", targets: "Tensor", progress: float) -> "Tensor":
        """Labels moved by -strength times the slope of log(1 - <f, t>); the move sums to 0 over the classes."""
        beliefs = _beliefs(logits)
        agreed = (beliefs * self.memory).sum(dim=-1, keepdim=True)
        apart = 1 - agreed
        slope = beliefs * (agreed - self.memory) / apart.clamp_min(_LEAST) * (apart > _LEAST)
        return targets - self.strength * slope[..., -targets.shape[-1] :]

    def __call__(self, logits: "Tensor", targets: "Tensor", progress: float) -> "Tensor":
        agreed = (_beliefs(logits) * self.memory).sum(dim=-1, keepdim=True)
        held = self.strength * (1 - agreed).clamp_min(_LEAST).log()
        return -(targets * logits.log_softmax(dim=-1)).sum(dim=-1) + held.squeeze(-1)


def _beliefs(logits: "Tensor") -> "Tensor":
    """Probabilities (..., n, C), also of one column of log-odds (..., n, 1)."""
    import torch

    if logits.shape[-1] > 1:
        return logits.softmax(dim=-1)
    second = logits.sigmoid()
    return torch.cat([1 - second, second], dim=-1)
