"""Models of synthetic tasks: they read texts of numbers, and nothing about them is pretrained.

In theory's test-beds a supervisor differs from its student in what it sees (:class:`Vectors`) or in how many random
features it has (:class:`RandomFeatures`, the two-layer networks with a frozen first layer of Medvedev et al. 2025).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from outgrow.errors import UserError
from outgrow.registry import Registry

__all__ = ["NUMBER_MODELS", "RandomFeatures", "Vectors", "embed_numbers"]


@dataclass(frozen=True, kw_only=True)
class Vectors:
    """The numbers themselves: all of them, or the first ``dims``."""

    dims: int | None = None

    def __post_init__(self) -> None:
        if self.dims is not None and self.dims < 1:
            raise UserError(f"dims of vectors is {self.dims}; it must be at least 1")

    def __call__(self, x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Features (n, dims) of numbers (n, d)."""
        if self.dims is not None and self.dims > x.shape[1]:
            raise UserError(f"vectors(dims={self.dims}) was asked for, but a text holds {x.shape[1]} numbers")
        return x[:, : self.dims]


@dataclass(frozen=True, kw_only=True)
class RandomFeatures:
    """Rectified random projections, relu(W x / sqrt(d)) with W normal and drawn from ``seed``.

    With the same seed a narrow one is the first units of a wide one; with another seed they share none.
    """

    width: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        if self.width < 1 or self.seed < 0:
            raise UserError(
                f"width of random-features is {self.width} and seed {self.seed}; at least 1 and 0 are needed"
            )

    def __call__(self, x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Features (n, width) of numbers (n, d)."""
        units = np.random.default_rng(self.seed).standard_normal((self.width, x.shape[1]))
        return np.asarray(np.maximum(x @ units.T / np.sqrt(x.shape[1]), 0))


NUMBER_MODELS: Registry[type[Vectors] | type[RandomFeatures]] = Registry("model of numbers", "models of numbers")
"""By the name that spells them."""
NUMBER_MODELS.add("vectors", Vectors)
NUMBER_MODELS.add("random-features", RandomFeatures)


def embed_numbers(model: Vectors | RandomFeatures, texts: Sequence[str]) -> npt.NDArray[np.float32]:
    """The model's features (n, width) of texts of numbers.

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
    return np.asarray(model(np.array(rows, dtype=np.float64)), dtype=np.float32)
