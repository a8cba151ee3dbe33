"""What a loss is, and losses of many students as one."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar, dataclass_transform, runtime_checkable

from outgrow.registry import Registered, Registry

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["LOSSES", "Loss", "MixesTargets", "StatefulLoss", "certain", "loss", "ramp", "smoothed", "stacked"]


@runtime_checkable
class Loss(Registered, Protocol):
    """Logits and soft labels in, one loss per example out."""

    per_example: ClassVar[bool] = True
    """False where an example's loss depends on the rest of its batch; the batch is then kept whole."""

    def __call__(self, logits: "Tensor", targets: "Tensor", progress: float) -> "Tensor":
        """Loss (..., n) from logits and targets (..., n, C) and ``progress`` in [0, 1]."""
        ...


@runtime_checkable
class MixesTargets(Protocol):
    """A loss that is a cross-entropy with changed targets: its gradient in the logits is softmax(logits) - targets."""

    def targets(self, logits: "Tensor", targets: "Tensor", progress: float) -> "Tensor":
        """The changed targets, from logits and labels (..., n, C), or from one column holding the log-odds and the
        probability of the second of two classes (..., n, 1). No gradient flows through them. By default the labels."""
        return targets

    def __call__(self, logits: "Tensor", targets: "Tensor", progress: float) -> "Tensor":
        """The loss (..., n) that the changed targets stand for."""
        return -(self.targets(logits.detach(), targets, progress) * logits.log_softmax(dim=-1)).sum(dim=-1)


@runtime_checkable
class StatefulLoss(Protocol):
    """A loss that depends on what the student said about each example in earlier epochs.

    Training keeps C numbers for each of the student's examples, zeros at first. Every update takes those of its batch,
    replaces them by :meth:`remember`, and trains on the loss :meth:`with_memory` of them.
    """

    def remember(self, memory: "Tensor", logits: "Tensor") -> "Tensor":
        """The new memory, from the old (..., n, C) and the logits of this sight of the examples, (..., n, C) or one
        column of log-odds (..., n, 1). No gradient flows through it."""
        ...

    def with_memory(self, memory: "Tensor") -> Loss:
        """The loss of the examples that this memory (..., n, C) belongs to."""
        ...


LOSSES: Registry[type[Any]] = Registry("loss", "losses", Loss)
"""Every loss by the name that spells it, which is its class name."""

T = TypeVar("T", bound=type[Any])


@dataclass_transform(frozen_default=True, kw_only_default=True)
def loss(cls: T) -> T:
    """Register a class as a loss, by its own name; see :meth:`outgrow.registry.Registry.add_class`."""
    return LOSSES.add_class(cls.__name__, cls)


def stacked(losses: Sequence[Loss]) -> Loss:
    """One loss for many students (students, n, C): each number that differs becomes a tensor (students, 1, 1).

    Raises:
        ValueError: if the losses are of different kinds or differ in a parameter that is not a number.
    """
    import torch

    first: Any = losses[0]
    if any(type(each) is not type(first) for each in losses):
        raise ValueError("losses of different kinds cannot be trained in one product")
    changed = {}
    for field in dataclasses.fields(first):
        values = [getattr(each, field.name) for each in losses]
        if all(v == values[0] for v in values):
            continue
        if not all(isinstance(v, int | float) for v in values):
            raise ValueError(f"losses that differ in {field.name} cannot be trained in one product")
        changed[field.name] = torch.tensor(values, dtype=torch.float32)[:, None, None]
    return dataclasses.replace(first, **changed)  # type: ignore[no-any-return]


def ramp(warmup: "float | Tensor", progress: float) -> "Tensor":
    """Share in [0, 1] that rises linearly over the first ``warmup`` of training; 1 at once without a warm-up."""
    import torch

    rise = torch.as_tensor(warmup)
    return torch.where(rise > 0, (progress / rise.clamp_min(1e-12)).clamp_max(1.0), 1.0)


def certain(values: "Tensor") -> "Tensor":
    """Probability 1 (..., n, C) on the largest of each row; rows that tie share it equally."""
    highest = (values == values.amax(dim=-1, keepdim=True)).to(values.dtype)
    return highest / highest.sum(dim=-1, keepdim=True)


def smoothed(targets: "Tensor", eps: "float | Tensor") -> "Tensor":
    """``targets`` (..., n, C) mixed with ``eps`` of the uniform distribution, and never quite 0."""
    import torch

    mixed = targets * (1 - eps) + eps / targets.shape[-1]
    return mixed.clamp_min(torch.finfo(targets.dtype).tiny)
