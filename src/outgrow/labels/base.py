"""What a transform of labels is, what it may use, and what several of them share; and what a label model is."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol, TypeVar, dataclass_transform, runtime_checkable

import numpy as np
import numpy.typing as npt

from outgrow.data import Floats, Ids, Ints, Labels
from outgrow.errors import UserError
from outgrow.registry import Registered, Registry

__all__ = [
    "LABEL_MODELS",
    "TRANSFORMS",
    "LabelModel",
    "Transform",
    "TransformInputs",
    "between",
    "confidence",
    "handed",
    "highest",
    "highest_of_each",
    "label_model",
    "relabelled",
    "shared_certain",
    "transform",
    "wanted_shares",
]

Doubles = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
T = TypeVar("T", bound=type[Any])


@dataclass(frozen=True, kw_only=True, eq=False)
class TransformInputs:
    """What a transform may use besides the labels; only what it ``needs`` is there."""

    features: Doubles | None = None
    """(n, d) from the student's frozen model, standardized, one row for each label."""
    unlabelled: Doubles | None = None
    """(m, d) for the supervisor's rows, on the same scale: more texts, without any label."""
    gold: Labels | None = None
    """The truth for the rows whose gold can be bought."""
    seed: int = 0


@runtime_checkable
class Transform(Registered, Protocol):
    """Labels in, labels out: other probabilities, or fewer rows. A frozen dataclass with defaults."""

    needs: ClassVar[frozenset[str]] = frozenset()
    """Of ``features``, ``unlabelled``, ``gold`` and ``seed``. A transform that needs gold says so in its name."""
    drops: ClassVar[bool] = False
    """Whether rows may be left out; if not, the result has the ids it was given."""
    soft: ClassVar[bool] = False
    """Whether certain labels would tell it nothing: then no ``Harden`` may come before it."""

    def __call__(self, labels: Labels, given: TransformInputs) -> Labels:
        """The transformed labels, in the order of those given."""
        ...


TRANSFORMS: Registry[type[Any]] = Registry("transform", "transforms", Transform)
"""Every transform by the name that spells it, which is its class name."""


@dataclass_transform(frozen_default=True, kw_only_default=True)
def transform(cls: T) -> T:
    """Register a class as a transform, by its own name; see :meth:`outgrow.registry.Registry.add_class`."""
    return TRANSFORMS.add_class(cls.__name__, cls)


@runtime_checkable
class LabelModel(Registered, Protocol):
    """Makes one set of labels from those of several supervisors on the same rows."""

    def __call__(self, votes: Sequence[Labels]) -> Labels:
        """Labels with the ids of the first, in its order."""
        ...


LABEL_MODELS: Registry[type[Any]] = Registry("label model", "label models", LabelModel)
"""Every label model by the name that spells it, which is its class name."""


@dataclass_transform(frozen_default=True, kw_only_default=True)
def label_model(cls: T) -> T:
    """Register a class as a label model, by its own name; see :meth:`outgrow.registry.Registry.add_class`."""
    return LABEL_MODELS.add_class(cls.__name__, cls)


def handed(value: Any) -> Any:
    """What the step has passed because the transform needs it."""
    assert value is not None
    return value


def relabelled(labels: Labels, probs: Floats, by: Any) -> Labels:
    """The same rows with other probabilities (n, C), scaled to sum to 1."""
    probs = probs / probs.sum(axis=1, keepdims=True)
    return replace(labels, probs=probs.astype(np.float32), source=f"{labels.source}, {type(by).__name__}")


def between(share: float, new: Floats, old: Floats) -> Doubles:
    """``share`` of the new probabilities and the rest of the old."""
    return np.asarray(share * new + (1 - share) * old, dtype=np.float64)


def wanted_shares(shares: str | Sequence[float], probs: Floats, what: str) -> Doubles | None:
    """How often each class should occur (C,): ``weak`` is the mean of the labels (n, C), None stands for ``none``.

    Raises:
        UserError: if the shares given to ``what`` are not one for each class.
    """
    num_classes = probs.shape[1]
    match shares:
        case "none":
            return None
        case "weak":
            return np.asarray(probs.mean(axis=0, dtype=np.float64))
        case "uniform":
            return np.full(num_classes, 1 / num_classes)
    if len(shares) != num_classes:
        raise UserError(f"{what} has {len(shares)} shares and the task {num_classes} classes")
    return np.asarray(shares, dtype=np.float64)


def shared_certain(probs: Floats) -> Doubles:
    """Probability 1 (n, C) on the most probable class, shared equally where several tie."""
    top = (probs == probs.max(axis=1, keepdims=True)).astype(np.float64)
    return np.asarray(top / top.sum(axis=1, keepdims=True))


def confidence(probs: Floats) -> Doubles:
    """(n,) from 0 for even odds to 1 for certainty; for two classes 2 |p - 1/2|."""
    num_classes = probs.shape[1]
    return np.asarray((probs.max(axis=1).astype(np.float64) - 1 / num_classes) / (1 - 1 / num_classes))


def highest(values: Floats, count: int, ids: Ids) -> Mask:
    """Which of the n rows have the ``count`` highest values; among equal ones, the first ids win."""
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
