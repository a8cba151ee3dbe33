"""Made-up examples for which theory predicts how well a student does.

A row is a vector of independent standard normal numbers, written as text; the models ``vectors`` and
``random-features`` read it (:mod:`outgrow.models.synthetic`). The class is the sign of a known function of it.
"""

import math
from typing import Annotated

import numpy as np
import numpy.typing as npt

from outgrow.data import Examples
from outgrow.registry import Range
from outgrow.tasks.registry import task

__all__ = ["expected_accuracy", "synthetic_gaussian"]

_DIGITS = 4
"""Digits after the decimal point of every number."""


@task(
    name="synthetic-gaussian",
    classes=("negative", "positive"),
    rows=4000,
    content="made from its options",
    licence="none",
    source="drawn here",
    about="Made up: is a known function of these normal numbers positive?",
)
def synthetic_gaussian(
    *,
    rows: Annotated[int, Range(20)] = 4000,
    dims: Annotated[int, Range(1)] = 20,
    teacher_width: Annotated[int, Range(0)] = 0,
    seed: Annotated[int, Range(0)] = 0,
) -> Examples:
    """Normal vectors; the class is the sign of a linear function, or of a random two-layer network minus its median.

    The meta column ``score`` is the function's value; no model sees it.

    Args:
        rows: number of examples.
        dims: numbers in each.
        teacher_width: hidden units of the network; 0: a linear function, its weights drawn on the unit sphere.
        seed: of the numbers and the function.
    """
    draws, of_teacher = (np.random.default_rng((seed, i)) for i in range(2))
    x = draws.standard_normal((rows, dims)).round(_DIGITS)  # what the text says, to the bit
    score = _teacher(x, teacher_width, of_teacher)
    ids = np.array([f"gaussian-{i}" for i in range(rows)], dtype=np.str_)
    return Examples(
        ids=ids,
        inputs=tuple(" ".join(f"{v:.{_DIGITS}f}" for v in row) for row in x.tolist()),
        gold=(score > 0).astype(np.int64),
        classes=("negative", "positive"),
        groups=ids,
        meta={"score": score},
    )


def _teacher(x: npt.NDArray[np.float64], width: int, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    if not width:
        direction = rng.standard_normal(x.shape[1])
        return np.asarray(x @ (direction / np.linalg.norm(direction)))
    units, weights = rng.standard_normal((width, x.shape[1])), rng.standard_normal(width)
    score = np.maximum(x @ units.T / math.sqrt(x.shape[1]), 0) @ weights / math.sqrt(width)
    return np.asarray(score - np.median(score))


def expected_accuracy(label_accuracy: float, rows: int, dims: int) -> float:
    """Test accuracy of a linear student trained by least squares on labels with errors at random.

    For x ~ N(0, I_d), truth y = sign(w* . x) and labels flipped independently with probability 1 - p, the target has
    E[y x] = m w* with m = (2 p - 1) sqrt(2 / pi), and least squares adds an error of variance (1 - m^2) / (n - d - 1)
    in every direction. The student's direction is then off by an angle with tan^2 = (d - 1) (1 - m^2) / ((n - d - 1)
    m^2), and two half-spaces an angle a apart agree with probability 1 - a / pi. It goes to 1 as rows grow for every p
    above 1/2: random errors do not limit a student. Derived here; a first-order result (the fluctuation's mean is put
    for its distribution), within 0.01 of simulation in the tests.

    Args:
        label_accuracy: p, above 1/2.
        rows: n, the training rows, more than ``dims`` + 1.
        dims: d.
    """
    m = (2 * label_accuracy - 1) * math.sqrt(2 / math.pi)
    tangent = math.sqrt((dims - 1) * (1 - m**2) / ((rows - dims - 1) * m**2))
    return 1 - math.atan(tangent) / math.pi
