"""Losses of a student on soft labels: one frozen dataclass each, named and hashed by its parameters.

A loss maps logits (..., n, C), target probabilities (..., n, C) and the share of training done so far to a loss for
each example (..., n). Leading axes are students trained side by side; a parameter may then be a tensor that
broadcasts against (..., n, C), see :func:`stacked`.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from outgrow.errors import UserError, unknown_name

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["LOSSES", "LogConf", "Loss", "MixesTargets", "Xent", "harden", "stacked"]


@runtime_checkable
class Loss(Protocol):
    """Logits and soft labels in, one loss per example out."""

    per_example: ClassVar[bool]
    """False where an example's loss depends on the rest of its batch; the engine then keeps the batch whole."""

    def __call__(self, logits: "Tensor", targets: "Tensor", progress: float) -> "Tensor":
        """Loss (..., n) from logits and targets (..., n, C) and ``progress`` in [0, 1]."""
        ...


@dataclass(frozen=True, kw_only=True)
class Xent:
    """Cross-entropy with soft targets: -sum_c target_c log softmax(logits)_c."""

    per_example: ClassVar[bool] = True

    def targets(self, logits: "Tensor", targets: "Tensor", progress: float) -> "Tensor":
        """The labels themselves."""
        return targets

    def __call__(self, logits: "Tensor", targets: "Tensor", progress: float) -> "Tensor":
        """Loss (..., n); see the class."""
        return _cross_entropy(self, logits, targets, progress)


@dataclass(frozen=True, kw_only=True)
class LogConf:
    """The auxiliary confidence loss of Burns et al. 2023 (section 4.3, appendix A.4), for C classes.

    (1 - a) CE(f, weak) + a CE(f, hardened f), where hardened f is the student's own prediction made certain and no
    gradient flows through it. ``a`` rises linearly from 0 to ``alpha`` over the first ``warmup`` of training.

    A class is taken where the student's probability stands highest above that class's threshold, and the thresholds
    are set in every batch such that the classes come out as often as ``marginals`` says: for two classes exactly, with
    ``uniform`` half of the batch each, as in the paper; for more classes (our extension) nearly. A row exactly at its
    threshold (an untrained head: all rows) has no belief to trust and is shared equally, where the released code gives
    the whole batch to class 0.
    """

    per_example: ClassVar[bool] = False

    alpha: float = 0.5
    """Final weight of the student's own beliefs; the paper took 0.75 for its largest students and 0.5 otherwise."""
    warmup: float = 0.2
    """Share of training over which the weight rises."""
    marginals: str = "uniform"
    """``uniform`` (the paper) or ``weak``: the mean of the weak labels in the batch (the released code)."""
    schedule: str = "linear"
    """``linear`` (the paper) or ``released``: progress itself up to ``warmup``, then 1 at once, so the weight jumps
    from ``warmup * alpha`` to ``alpha`` in one step (openai/weak-to-strong loss.py line 96)."""

    def __post_init__(self) -> None:
        _one_of("LogConf marginals", self.marginals, ("uniform", "weak"))
        _one_of("LogConf schedule", self.schedule, ("linear", "released"))
        for name in ("alpha", "warmup"):
            value = getattr(self, name)
            if isinstance(value, int | float) and not 0 <= value <= 1:
                raise UserError(f"LogConf {name} is {value}; it must lie in [0, 1]")

    def weight(self, progress: float) -> "Tensor":
        """The weight ``a`` at this share of training."""
        import torch

        warmup = torch.as_tensor(self.warmup)
        if self.schedule == "released":
            share = torch.where(warmup < progress, 1.0, progress)
        else:
            share = torch.where(warmup > 0, (progress / warmup.clamp_min(1e-12)).clamp_max(1.0), 1.0)
        return share * self.alpha

    def targets(self, logits: "Tensor", targets: "Tensor", progress: float) -> "Tensor":
        """Weak labels mixed with the student's hardened beliefs; cross-entropy is linear in its target, so this is
        the whole loss."""
        import torch

        marginals = 0.5 if logits.shape[-1] == 1 else 1 / logits.shape[-1]
        shares = targets.mean(dim=-2, keepdim=True) if self.marginals == "weak" else torch.as_tensor(marginals)
        return torch.lerp(targets, harden(logits, shares), self.weight(progress).to(targets.dtype))

    def __call__(self, logits: "Tensor", targets: "Tensor", progress: float) -> "Tensor":
        """Loss (..., n); see the class."""
        return _cross_entropy(self, logits, targets, progress)


LOSSES: dict[str, type[Any]] = {"Xent": Xent, "LogConf": LogConf}
"""Every loss by the name that spells it."""


@runtime_checkable
class MixesTargets(Protocol):
    """A loss that is a cross-entropy with changed targets: its gradient in the logits is softmax(logits) - targets."""

    def targets(self, logits: "Tensor", targets: "Tensor", progress: float) -> "Tensor":
        """The changed targets, from logits and labels (..., n, C), or from one column holding the log-odds and the
        probability of the second of two classes (..., n, 1). No gradient flows through them."""
        ...


def harden(logits: "Tensor", marginals: "Tensor") -> "Tensor":
    """Certain predictions (..., n, C) whose classes occur about as often as ``marginals`` (..., 1, C) says.

    The threshold of class c lies between its n * marginal_c highest probabilities and the rest (Hazen's quantile). For
    two classes the shares are exact; a row at the threshold is shared equally among the tied classes. One column
    (..., n, 1) holds the log-odds of the second of two classes.
    """
    import torch

    num_classes = logits.shape[-1]
    if num_classes <= 2:
        odds = logits if num_classes == 1 else logits[..., 1:] - logits[..., :1]
        share = marginals if marginals.ndim == 0 else marginals[..., -1:]
        second = (odds - _threshold(odds, share)).sign_().add_(1).div_(2)
        return second if num_classes == 1 else torch.cat([1 - second, second], dim=-1)
    log_probs = logits.log_softmax(dim=-1)
    standing = log_probs - _threshold(log_probs, marginals)
    highest = (standing == standing.amax(dim=-1, keepdim=True)).to(logits.dtype)
    return highest / highest.sum(dim=-1, keepdim=True)


def _threshold(values: "Tensor", share: "Tensor") -> "Tensor":
    """The value (..., 1, C) that a ``share`` of the n values in each column lies above."""
    import torch

    n = values.shape[-2]
    ranked = _ranked(values)
    place = n * (1 - share) - 0.5
    below = place.floor().clamp(0, n - 1).long()
    above = (below + 1).clamp_max(n - 1)
    part = (place - below).clamp(0, 1).to(values.dtype)
    if share.ndim == 0:
        return torch.lerp(ranked[..., below, None, :], ranked[..., above, None, :], part)
    threshold = torch.lerp(ranked.gather(-2, below), ranked.gather(-2, above), part)
    return threshold.masked_fill(place < 0, -torch.inf).masked_fill(place > n - 1, torch.inf)


def _ranked(values: "Tensor") -> "Tensor":
    """Each column of n values in rising order."""
    import torch

    if values.device.type == "cpu":  # numpy's vectorized sort takes a tenth of torch's time on many short columns
        columns = values.movedim(-2, -1).clone(memory_format=torch.contiguous_format)
        columns.numpy().sort(axis=-1)
        return columns.movedim(-1, -2)
    return values.sort(dim=-2).values


def stacked(losses: Sequence[Loss]) -> Loss:
    """One loss for many students (students, n, C): each number that differs becomes a tensor (students, 1, 1).

    Raises:
        ValueError: if the losses are of different kinds or differ in a parameter that is not a number.
    """
    import torch

    first: Any = losses[0]
    if any(type(loss) is not type(first) for loss in losses):
        raise ValueError("losses of different kinds cannot be trained in one product")
    changed = {}
    for field in dataclasses.fields(first):
        values = [getattr(loss, field.name) for loss in losses]
        if all(v == values[0] for v in values):
            continue
        if not all(isinstance(v, int | float) for v in values):
            raise ValueError(f"losses that differ in {field.name} cannot be trained in one product")
        changed[field.name] = torch.tensor(values, dtype=torch.float32)[:, None, None]
    return dataclasses.replace(first, **changed)  # type: ignore[no-any-return]


def _cross_entropy(loss: MixesTargets, logits: "Tensor", targets: "Tensor", progress: float) -> "Tensor":
    return -(loss.targets(logits.detach(), targets, progress) * logits.log_softmax(dim=-1)).sum(dim=-1)


def _one_of(what: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise unknown_name(what, value, known)
