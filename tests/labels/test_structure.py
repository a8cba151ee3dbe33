"""Structure in features: what scaling, clusters, components and the small logistic regression promise."""

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from outgrow.labels.structure import (
    clustered,
    logistic_weights,
    picked_by_component,
    principal_directions,
    safe_scale,
    standardized,
)

RNG = np.random.default_rng(0)
POINTS = RNG.normal(size=(80, 5)) * [1, 3, 0.2, 9, 1] + 4
CHOICES = RNG.normal(size=(80, 3, 5))
TARGETS = RNG.dirichlet(np.ones(3), size=80)


def test_others_are_on_the_scale_of_the_first_and_constant_columns_stay_finite() -> None:
    train = np.concatenate([POINTS, np.full((80, 1), 7.0), 7 + 1e-9 * RNG.normal(size=(80, 1))], axis=1)
    made, others = standardized(train, train[:9] + 1)
    np.testing.assert_allclose(made[:, :5].mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(made[:, :5].std(axis=0), 1)
    np.testing.assert_allclose(others - made[:9], np.tile(1 / safe_scale(train), (9, 1)))
    assert np.abs(made[:, 5:]).max() < 1e-6  # a column that does not vary tells nothing, in other rows neither
    assert np.abs(others[:, 5:]).max() < 1.1


def test_clusters_of_the_same_rows_are_the_same() -> None:
    clouds = POINTS + 50 * np.repeat(np.eye(5)[:4], 20, axis=0)
    found, again = clustered(4, 3, clouds, clouds)
    assert (found == again).all()
    assert [len(set(found[at : at + 20])) for at in (0, 20, 40, 60)] == [1] * 4
    assert len(set(found)) == 4


def test_principal_directions_are_those_of_the_singular_values() -> None:
    centered = POINTS - POINTS.mean(axis=0)
    _, _, rows = np.linalg.svd(centered, full_matrices=False)
    np.testing.assert_allclose(np.abs(principal_directions(centered, 3)), np.abs(rows[:3].T), atol=1e-9)


def test_the_weak_labels_say_only_which_end_is_right() -> None:
    within = CHOICES - CHOICES.mean(axis=1, keepdims=True)
    direction = principal_directions(within.reshape(-1, 5))[:, 0]
    ends = [(within @ (sign * direction)).argmax(axis=1) for sign in (1, -1)]
    for end in ends:
        weak = 0.8 * np.eye(3)[end] + 0.2 / 3
        assert (picked_by_component(within, within, weak) == end).all()


@pytest.mark.parametrize(("vectors", "features"), [(3, POINTS), (1, CHOICES)], ids=["classes", "choices"])
@pytest.mark.parametrize("bias", [False, True])
def test_the_gradient_is_zero_at_the_logistic_weights(vectors: int, features: Any, bias: bool) -> None:
    found = logistic_weights(features, TARGETS, 0.1, vectors=vectors, bias=bias, gtol=1e-9, ftol=0)
    assert found.shape == (vectors, 5 + bias)
    weight = torch.from_numpy(found).requires_grad_()
    logits = (torch.from_numpy(features) @ weight[:, :5].T).view(80, 3)
    if bias:
        logits = logits + weight[:, 5]
    loss = F.cross_entropy(logits, torch.from_numpy(TARGETS)) + 0.05 * weight[:, :5].square().sum()
    (gradient,) = torch.autograd.grad(loss, weight)
    assert float(gradient.abs().max()) < 1e-7
