"""Models for synthetic tasks: they read texts made of numbers, and nothing about them is pretrained.

In the test-beds of theory a supervisor differs from its student in what it sees (:class:`Vectors`) or in how many
random features it has (:class:`RandomFeatures`: the two-layer networks with a frozen first layer of Medvedev et al.
2025).
"""

from collections.abc import Sequence
from typing import Annotated, ClassVar

import numpy as np
import numpy.typing as npt

from outgrow.errors import UserError
from outgrow.models.base import Array, model
from outgrow.registry import Range
from outgrow.runtime import Runtime

__all__ = ["RandomFeatures", "Vectors"]


@model("vectors")
class Vectors:
    """The numbers themselves: all of them, or the first ``dims``."""

    version: ClassVar[int] = 1
    reads: ClassVar[str] = "text"

    dims: Annotated[int | None, Range(1)] = None

    def embed(self, inputs: Sequence[str], runtime: Runtime) -> Array:
        """Features (n, dims)."""
        x = _numbers(inputs)
        if self.dims is not None and self.dims > x.shape[1]:
            raise UserError(f"vectors(dims={self.dims}) was asked for, but a text holds {x.shape[1]} numbers")
        return np.asarray(x[:, : self.dims], dtype=np.float32)


@model("random-features")
class RandomFeatures:
    """Rectified random projections, relu(W x / sqrt(d)) with W normal and drawn from ``seed``.

    With one seed, a narrow model has the first units of a wide one. Models of different seeds share no unit.
    """

    version: ClassVar[int] = 1
    reads: ClassVar[str] = "text"

    width: Annotated[int, Range(1)] = 256
    seed: Annotated[int, Range(0)] = 0

    def embed(self, inputs: Sequence[str], runtime: Runtime) -> Array:
        """Features (n, width)."""
        x = _numbers(inputs)
        units = np.random.default_rng(self.seed).standard_normal((self.width, x.shape[1]))
        return np.asarray(np.maximum(x @ units.T / np.sqrt(x.shape[1]), 0), dtype=np.float32)


def _numbers(texts: Sequence[str]) -> npt.NDArray[np.float64]:
    """The numbers (n, d) that the texts hold.

    Raises:
        UserError: if a text holds anything but numbers, or more or fewer of them than the first.
    """
    rows = []
    for i, text in enumerate(texts):
        try:
            rows.append([float(word) for word in text.split()])
        except ValueError:
            raise UserError(
                f"text {i + 1} holds more than numbers ({text[:40]!r}); vectors and random-features read synthetic "
                "tasks, take another model for words"
            ) from None
        if not rows[-1] or len(rows[-1]) != len(rows[0]):
            raise UserError(f"text {i + 1} holds {len(rows[-1])} numbers and the first {len(rows[0])}; they must agree")
    return np.array(rows, dtype=np.float64)
