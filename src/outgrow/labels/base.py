"""What a transform of labels is, what it may use, and what several of them share."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol, TypeVar, dataclass_transform, runtime_checkable

import numpy as np
import numpy.typing as npt

from outgrow.data import Floats, Ids, Ints, Labels
from outgrow.errors import UserError
from outgrow.registry import Registry

__all__ = [
    "TRANSFORMS",
    "Transform",
    "TransformInputs",
    "between",
    "confidence",
    "handed",
    "highest",
    "in_range",
    "relabelled",
    "shared_certain",
    "transform",
]

Doubles = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, eq=False)
class TransformInputs:
    """What a transform may use beside the labels; only what it ``needs`` is there."""

    features: Doubles | None = None
    """(n, d) of the student's frozen model, standardized, one row for each label."""
    unlabelled: Doubles | None = None
    """(m, d) of the supervisor's rows, on the same scale: more texts, without any label."""
    gold: Labels | None = None
    """The truth of the rows that it may be bought for."""
    seed: int = 0


@runtime_checkable
class Transform(Protocol):
    """Labels in, labels out: other probabilities, or fewer rows. A frozen dataclass with defaults."""

    needs: ClassVar[frozenset[str]]
    """Of ``features``, ``unlabelled``, ``gold`` and ``seed``. Who needs gold says so in its name."""
    drops: ClassVar[bool]
    """Whether rows may be left out; if not, the result has the ids it was given."""
    soft: ClassVar[bool]
    """Whether certain labels would tell it nothing: then no ``Harden`` may come before it."""

    def __call__(self, labels: Labels, given: TransformInputs) -> Labels:
        """The transformed labels, in the order of those given."""
        ...


TRANSFORMS: Registry[type[Any]] = Registry("transform", "transforms", Transform)
"""Every transform by the name that spells it, which is its class name."""

T = TypeVar("T", bound=type[Any])


@dataclass_transform(frozen_default=True, kw_only_default=True)
def transform(cls: T) -> T:
    """Register a class as a transform, by its own name; see :meth:`outgrow.registry.Registry.add_class`."""
    return TRANSFORMS.add_class(cls.__name__, cls)


def handed(value: Any) -> Any:
    """What the step has handed over because the transform needs it."""
    assert value is not None
    return value


def relabelled(labels: Labels, probs: Floats, by: Any) -> Labels:
    """The same rows with other probabilities (n, C), which are made to sum to 1."""
    probs = probs / probs.sum(axis=1, keepdims=True)
    return replace(labels, probs=probs.astype(np.float32), source=f"{labels.source}, {type(by).__name__}")


def between(share: float, new: Floats, old: Floats) -> Doubles:
    """``share`` of the new probabilities and the rest of the old."""
    return np.asarray(share * new + (1 - share) * old, dtype=np.float64)


def shared_certain(probs: Floats) -> Doubles:
    """Probability 1 (n, C) on the most probable class, shared equally where several are."""
    top = (probs == probs.max(axis=1, keepdims=True)).astype(np.float64)
    return np.asarray(top / top.sum(axis=1, keepdims=True))


def confidence(probs: Floats) -> Doubles:
    """(n,) from 0 for even odds to 1 for certainty; for two classes 2 |p - 1/2|."""
    num_classes = probs.shape[1]
    return np.asarray((probs.max(axis=1).astype(np.float64) - 1 / num_classes) / (1 - 1 / num_classes))


def highest(values: Floats, count: int, ids: Ids) -> Mask:
    """Which of the n rows have the ``count`` highest values; of equal ones, those with the first ids."""
    chosen = np.zeros(len(values), dtype=bool)
    chosen[np.lexsort((ids, -values))[:count]] = True
    return chosen


def highest_of_each(values: Floats, share: float, classes: Ints, ids: Ids) -> Mask:
    """Which rows belong to the highest ``share`` (rounded up) of their class."""
    chosen = np.zeros(len(values), dtype=bool)
    for c in np.unique(classes):
        here = np.flatnonzero(classes == c)
        chosen[here] = highest(values[here], int(np.ceil(share * len(here) - 1e-9)), ids[here])
    return chosen


def in_range(value: Any, low: float, high: float, *names: str) -> None:
    """Raises :class:`UserError` unless the dataclass's numbers lie in [low, high]."""
    for name in names:
        number = getattr(value, name)
        if not low <= number <= high:
            wanted = f"in [{low:g}, {high:g}]" if high < float("inf") else f"at {low:g} or above"
            raise UserError(f"{type(value).__name__} {name} is {number}; it must lie {wanted}")
