"""Losses: each against a reference, what all of them keep, and the confidence loss with exact shares and warm-up."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from outgrow.errors import UserError
from outgrow.losses import (
    CACE,
    EDL,
    ELR,
    GCE,
    KL,
    LOSSES,
    AdaptConf,
    Complementary,
    Entropy,
    LogConf,
    Loss,
    MixesTargets,
    Product,
    ReverseKL,
    ReverseXent,
    StatefulLoss,
    Symmetric,
    Window,
    Xent,
    harden,
    offsets,
    stacked,
)
from outgrow.losses.base import certain
from outgrow.models.probe import ProbeJob, fit_probes, log_shares
from outgrow.models.settings import ProbeSettings
from outgrow.runtime import Runtime
from outgrow.train.loop import finetune
from outgrow.train.settings import FinetuneSettings
from tiny_models import WORDS

ALL = pytest.mark.parametrize("kind", list(LOSSES.values()), ids=list(LOSSES))
CLASSES = pytest.mark.parametrize("num_classes", [2, 3, 5])


def batch(n: int, num_classes: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits and soft labels (n, C), in double precision."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(n, num_classes, generator=generator, dtype=torch.float64)
    return logits, torch.rand(n, num_classes, generator=generator, dtype=torch.float64).log_softmax(-1).exp()


def uniform(num_classes: int) -> Tensor:
    return torch.tensor(1 / num_classes, dtype=torch.float64)


@CLASSES
def test_xent_is_cross_entropy_with_soft_targets(num_classes: int) -> None:
    logits, targets = batch(7, num_classes)
    torch.testing.assert_close(Xent()(logits, targets, 0.3), F.cross_entropy(logits, targets, reduction="none"))


@CLASSES
def test_logconf_without_alpha_is_xent(num_classes: int) -> None:
    logits, targets = batch(7, num_classes)
    for loss, progress in ((LogConf(alpha=0), 0.9), (LogConf(), 0.0)):
        torch.testing.assert_close(loss(logits, targets, progress), Xent()(logits, targets, progress))


def test_logconf_by_hand() -> None:
    """(1 - a) CE(f, weak) + a CE(f, hardened f), written out."""
    logits, targets = batch(8, 2)
    own = (logits[:, 1] - logits[:, 0]).argsort().argsort() >= 4  # the upper half
    log_probs = logits.log_softmax(-1)
    weak, self_ = -(targets * log_probs).sum(-1), torch.where(own, -log_probs[:, 1], -log_probs[:, 0])
    torch.testing.assert_close(LogConf(alpha=0.75)(logits, targets, 1.0), 0.25 * weak + 0.75 * self_)


@CLASSES
@pytest.mark.parametrize("loss", [Xent(), LogConf(), LogConf(shares="uniform", alpha=1.0)])
def test_gradients_match_finite_differences(loss: Loss, num_classes: int) -> None:
    logits, targets = batch(8, num_classes)
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda z: loss(z, targets, 0.7), (logits,))


@CLASSES
def test_the_gradient_is_softmax_minus_targets_so_none_flows_through_hardening(num_classes: int) -> None:
    """What the probe engine computes without autograd."""
    logits, targets = batch(8, num_classes)
    loss = LogConf(alpha=0.5)
    mixed = loss.targets(logits, targets, 1.0)
    logits.requires_grad_()
    (gradient,) = torch.autograd.grad(loss(logits, targets, 1.0).sum(), logits)
    torch.testing.assert_close(gradient, logits.detach().softmax(-1) - mixed)


@CLASSES
@pytest.mark.parametrize("loss", [Xent(), LogConf(), LogConf(shares="uniform")])
def test_renaming_the_classes_changes_nothing(loss: Loss, num_classes: int) -> None:
    logits, targets = batch(9, num_classes)
    for shift in range(1, num_classes):
        order = torch.arange(num_classes).roll(shift)
        torch.testing.assert_close(loss(logits[:, order], targets[:, order], 0.6), loss(logits, targets, 0.6))


def test_the_order_of_a_batch_changes_nothing() -> None:
    logits, targets = batch(9, 3)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    loss = LogConf()
    torch.testing.assert_close(loss(logits[order], targets[order], 0.6), loss(logits, targets, 0.6)[order])


# --- hardening --------------------------------------------------------------------------------------------------------


@given(st.integers(1, 40), st.floats(-9, 9), st.integers(0, 99))
def test_half_of_an_even_batch_becomes_each_class(half: int, bias: float, seed: int) -> None:
    """However sure the student is of one class (the paper: half of the batch each)."""
    logits, _ = batch(2 * half, 2, seed)
    hard = harden(logits + torch.tensor([0.0, bias], dtype=torch.float64), uniform(2))
    assert hard.sum(0).tolist() == [half, half]
    assert set(hard.flatten().tolist()) <= {0.0, 1.0}
    odds = logits[:, 1] - logits[:, 0]
    assert odds[hard[:, 1] == 1].min() > odds[hard[:, 1] == 0].max()


def test_the_middle_row_of_an_odd_batch_is_shared() -> None:
    logits = torch.tensor([[0.0, v] for v in (3.0, 1.0, 2.0)])
    assert harden(logits, uniform(2)).tolist() == [[0, 1], [1, 0], [0.5, 0.5]]


@given(st.integers(1, 64), st.floats(0, 1), st.integers(0, 99))
def test_weak_shares_harden_as_many_rows_as_the_weak_labels_say(n: int, share: float, seed: int) -> None:
    """The released code's option: round(n * mean weak) rows of the second class."""
    exact = n * share
    if abs(exact % 1 - 0.5) < 1e-6:  # half a row: either, or shared
        return
    logits, _ = batch(n, 2, seed)
    marginals = torch.tensor([[1 - share, share]], dtype=torch.float64)
    assert float(harden(logits, marginals)[:, 1].sum()) == round(exact)


@pytest.mark.parametrize("num_classes", [3, 5, 10])
@pytest.mark.parametrize("bias", [0, 0.5, 2])
@pytest.mark.parametrize("n", [12, 32, 90])
def test_classes_come_out_as_often_as_asked_to_rounding(num_classes: int, bias: float, n: int) -> None:
    """However much the student prefers some classes; 200 batches at once, of which nearly all are within a row."""
    generator = torch.Generator().manual_seed(n)
    logits = 2 * torch.randn(200, n, num_classes, generator=generator) + bias * torch.arange(num_classes)
    shares = torch.rand(200, 1, num_classes, generator=generator).softmax(-1)
    for marginals in (torch.tensor(1 / num_classes), shares):
        hard = harden(logits, marginals)
        torch.testing.assert_close(hard.sum(-1), torch.ones(200, n))
        off = (hard.sum(-2) - n * marginals.expand(200, 1, num_classes)[:, 0]).abs().amax(-1)
        assert off.max() < 2
        assert (off > 1 + 1e-5).float().mean() < 0.06


def test_thresholds_are_the_prices_of_the_best_assignment() -> None:
    """Whole shares: the same rows as the assignment with the highest total log probability (Hungarian method)."""
    from scipy.optimize import linear_sum_assignment

    for seed in range(20):
        logits, _ = batch(24, 3, seed)
        log_probs = logits.log_softmax(-1)
        _, places = linear_sum_assignment(-log_probs.repeat_interleave(8, dim=-1).numpy())
        assert (harden(logits, uniform(3)).argmax(-1).numpy() == places // 8).all()


def test_a_class_without_a_share_gets_no_row() -> None:
    logits, _ = batch(12, 3)
    hard = harden(logits + torch.tensor([5.0, 0, 0]), torch.tensor([[0.0, 0.5, 0.5]], dtype=torch.float64))
    assert hard.sum(0).tolist() == [0, 6, 6]


def test_a_batch_hardens_the_same_beside_others() -> None:
    logits = torch.randn(50, 33, 5, generator=torch.Generator().manual_seed(0))
    together = harden(logits, torch.tensor(0.2))
    assert all(torch.equal(harden(z, torch.tensor(0.2)), h) for z, h in zip(logits, together, strict=True))


@CLASSES
@pytest.mark.parametrize("marginals", ["uniform", "weak"])
@pytest.mark.parametrize("n", [1, 8, 9])
def test_an_untrained_head_shares_every_row_equally(num_classes: int, marginals: str, n: int) -> None:
    """Released code, defect 6: equal logits give the whole batch to class 0."""
    targets = torch.full((n, num_classes), 1 / num_classes)
    mixed = LogConf(alpha=1.0, shares=marginals).targets(torch.zeros(n, num_classes), targets, 1.0)
    torch.testing.assert_close(mixed, targets)


def test_rows_tied_at_the_threshold_are_shared_and_others_keep_their_class() -> None:
    odds = torch.tensor([5.0, 1.0, 1.0, 1.0, 1.0, -5.0])
    hard = harden(torch.stack([torch.zeros(6), odds], dim=-1), torch.tensor(0.5))
    assert hard[:, 1].tolist() == [1, 0.5, 0.5, 0.5, 0.5, 0]


# --- warm-up ----------------------------------------------------------------------------------------------------------


def weights(loss: LogConf, *progress: float) -> list[float]:
    return [float(loss.weight(p)) for p in progress]


@given(st.floats(0.01, 1), st.floats(0, 1), st.floats(0, 1))
def test_the_weight_rises_continuously_from_nothing_to_alpha(warmup: float, alpha: float, progress: float) -> None:
    loss = LogConf(alpha=alpha, warmup=warmup)
    assert weights(loss, 0, warmup, 1) == pytest.approx([0, alpha, alpha], abs=1e-6)
    here, next_ = weights(loss, progress, min(1, progress + 1e-4))
    assert here - 1e-6 <= next_ <= here + alpha * 1e-4 / warmup + 1e-6


def test_without_warm_up_the_weight_is_alpha_at_once() -> None:
    assert weights(LogConf(alpha=0.5, warmup=0), 0, 0.5, 1) == [0.5, 0.5, 0.5]


def test_the_released_schedule_jumps() -> None:
    """Released code, defect 4: progress itself until the warm-up ends, then 1: from .05 to .5 in one step."""
    released = LogConf(alpha=0.5, warmup=0.1, schedule="released")
    assert weights(released, 0, 0.0999, 0.1001, 1) == pytest.approx([0, 0.04995, 0.5, 0.5])
    assert weights(LogConf(alpha=0.5, warmup=0.1), 0.0999, 0.1001) == pytest.approx([0.4995, 0.5])


# --- the same in other shapes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", [Xent(), LogConf(), LogConf(shares="uniform"), LogConf(warmup=0.9)])
@pytest.mark.parametrize("n", [8, 9])
def test_one_column_of_log_odds_is_the_same_as_two(loss: Any, n: int) -> None:
    logits, targets = batch(n, 2)
    odds = logits[:, 1:] - logits[:, :1]
    one, two = loss.targets(odds, targets[:, 1:], 0.5), loss.targets(logits, targets, 0.5)
    torch.testing.assert_close(one, two[:, 1:])
    torch.testing.assert_close(odds.sigmoid() - one, (logits.softmax(-1) - two)[:, 1:])


@CLASSES
def test_stacked_losses_are_the_separate_ones(num_classes: int) -> None:
    for marginals in ("uniform", "weak"):
        losses = [LogConf(alpha=a, warmup=w, shares=marginals) for a, w in ((0.5, 0.2), (0.75, 0.2), (0, 0), (1, 1))]
        logits, targets = (torch.stack(v) for v in zip(*(batch(8, num_classes, s) for s in range(4)), strict=True))
        for progress in (0.0, 0.1, 0.9):
            together = stacked(losses)(logits, targets, progress)
            alone = [loss(z, t, progress) for loss, z, t in zip(losses, logits, targets, strict=True)]
            torch.testing.assert_close(together, torch.stack(alone), rtol=1e-6, atol=1e-6)


def test_losses_of_other_options_cannot_be_stacked() -> None:
    assert stacked([LogConf(), LogConf()]) == LogConf()
    with pytest.raises(ValueError, match="shares"):
        stacked([LogConf(), LogConf(shares="uniform")])


def test_losses_of_other_kinds_cannot_be_stacked() -> None:
    with pytest.raises(ValueError, match="kinds"):
        stacked([Xent(), LogConf()])


# --- class shares -----------------------------------------------------------------------------------------------------


@given(st.integers(20, 200), st.integers(2, 5), st.integers(0, 1000))
def test_shifted_logits_have_the_shares_that_were_asked_for(n: int, num_classes: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits = torch.from_numpy(rng.normal(size=(n, num_classes)) * rng.uniform(0.1, 20))
    shares = torch.from_numpy(rng.dirichlet(np.full(num_classes, 3.0)))
    shifted = logits + offsets(logits, shares)
    counts = torch.bincount(shifted.argmax(dim=-1), minlength=num_classes)
    assert (counts - n * shares).abs().max() <= 1
    assert (counts == harden(logits, shares[None]).sum(dim=0).round()).all()


def test_a_class_without_a_share_is_never_said() -> None:
    logits = torch.from_numpy(np.random.default_rng(0).normal(size=(50, 3)))
    for shares in ([0.0, 0.4, 0.6], [0.0, 1.0, 0.0]):
        said = (logits + offsets(logits, torch.tensor(shares, dtype=torch.float64))).argmax(dim=-1)
        assert not (said == 0).any()
    said = logits[:, :2] + offsets(logits[:, :2], torch.tensor([1.0, 0.0], dtype=torch.float64))
    assert (said.argmax(dim=-1) == 0).all()


@pytest.mark.parametrize("num_classes", [2, 3])
def test_the_confidence_loss_takes_shares(num_classes: int) -> None:
    rng = np.random.default_rng(1)
    z = torch.from_numpy(rng.normal(size=(120, num_classes)))
    targets = torch.from_numpy(rng.dirichlet(np.ones(num_classes), size=120))

    def own(shares: Any) -> Tensor:
        return LogConf(alpha=1.0, shares=shares).targets(z, targets, 1.0)

    assert torch.equal(own("none"), certain(z))
    assert torch.equal(own((1 / num_classes,) * num_classes), own("uniform"))
    told = tuple(targets.mean(dim=0).tolist())
    assert torch.equal(own(told), own("weak"))
    if num_classes == 2:
        column = LogConf(alpha=1.0, shares=told).targets(z[:, 1:] - z[:, :1], targets[:, 1:], 1.0)
        assert torch.equal(column[:, 0], own(told)[:, 1])
        column = LogConf(alpha=1.0, shares="none").targets(z[:, 1:] - z[:, :1], targets[:, 1:], 1.0)
        assert torch.equal(column[:, 0], own("none")[:, 1])
    with pytest.raises(UserError, match="LogConf has 5 shares"):
        own((0.2,) * 5)


# --- labels that only exclude -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_classes", [2, 3, 6])
def test_the_loss_of_a_complement_is_that_of_not_being_the_class(num_classes: int) -> None:
    rng = np.random.default_rng(2)
    z = torch.from_numpy(rng.normal(size=(40, num_classes)))
    excluded = torch.from_numpy(rng.integers(num_classes, size=40))
    allowed = 1 - torch.nn.functional.one_hot(excluded, num_classes).double()
    found = Complementary()(z, allowed / (num_classes - 1), 1.0)
    f = z.softmax(dim=-1)[torch.arange(40), excluded]
    assert torch.allclose(found, -torch.log(1 - f))
    sure = torch.nn.functional.one_hot(excluded, num_classes).double()
    assert torch.allclose(Complementary()(z, sure, 1.0), Xent()(z, sure, 1.0))


def test_complements_teach_the_class() -> None:
    """Fitted to labels that only exclude, the probabilities are those of the classes."""
    rng = np.random.default_rng(3)
    truth = torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64)
    classes = torch.from_numpy(rng.choice(3, p=truth.numpy(), size=4000))
    excluded = (classes + torch.from_numpy(rng.integers(1, 3, size=4000))) % 3
    allowed = (1 - torch.nn.functional.one_hot(excluded, 3).double()) / 2
    z = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
    step = torch.optim.LBFGS([z], max_iter=100)

    def mean() -> Tensor:
        step.zero_grad()
        value = Complementary()(z.expand(4000, 3), allowed, 1.0).mean()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    step.step(mean)  # type: ignore[no-untyped-call]
    seen = torch.bincount(excluded, minlength=3).double() / 4000
    assert torch.allclose(z.detach().softmax(dim=-1)[0], 1 - 2 * seen, atol=1e-3)
    assert torch.allclose(z.detach().softmax(dim=-1)[0], truth, atol=0.03)


# --- options ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"alpha": 1.01}, "alpha of LogConf is 1.01"),
        ({"alpha": float("nan")}, "alpha of LogConf is nan"),
        ({"warmup": -0.1}, "warmup of LogConf is -0.1"),
        ({"shares": "weakly"}, "did you mean weak"),
        ({"shares": (0.5, 0.6)}, "sum to 1"),
        ({"shares": (0.0, 1.0)}, "a share above 0"),
        ({"shares": ()}, "a share above 0"),
        ({"schedule": "linea"}, "did you mean linear"),
    ],
)
def test_wrong_options_are_one_line(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said) as error:
        LogConf(**options)
    assert "\n" not in str(error.value)


def test_every_registered_loss_keeps_the_protocols() -> None:
    for name, kind in LOSSES.items():
        assert kind.__name__ == name
        assert isinstance(kind(), Loss)
        assert kind.source
        assert kind.cost


def test_a_loss_without_targets_is_a_loss_too() -> None:
    @dataclass(frozen=True)
    class Square(Loss):
        def __call__(self, logits: Tensor, targets: Tensor, progress: float) -> Tensor:
            return ((logits.softmax(-1) - targets) ** 2).sum(-1)

    assert isinstance(Square(), Loss)
    assert not isinstance(Square(), MixesTargets)


# --- every loss -------------------------------------------------------------------------------------------------------

STOPS = {LogConf, Product, AdaptConf, ELR}  # a part of these is meant to carry no gradient
NEUTRAL: dict[type[Any], Loss] = {
    LogConf: LogConf(alpha=0),
    Entropy: Entropy(alpha=0),
    Window: Window(radius=1),
    Product: Product(beta=0),
    Symmetric: Symmetric(beta=0),
    CACE: CACE(threshold=0),
    GCE: GCE(q=0),
    ELR: ELR(strength=0),
    Xent: Xent(),
}


@ALL
@CLASSES
def test_losses_are_finite_everywhere(kind: type[Any], num_classes: int) -> None:
    """Certain labels, certain students, both at once, in single precision."""
    logits = torch.cat([100 * torch.eye(num_classes), -100 * torch.eye(num_classes), torch.zeros(2, num_classes)])
    for labels in (torch.eye(num_classes), torch.full((num_classes, num_classes), 1 / num_classes)):
        targets = labels[torch.arange(len(logits)) % num_classes].roll(1, 0)
        z = logits.clone().requires_grad_()
        values = kind()(z, targets, 0.7)
        (slope,) = torch.autograd.grad(values.sum(), z)
        assert values.shape == (len(logits),)
        assert values.isfinite().all()
        assert slope.isfinite().all()


@ALL
@CLASSES
def test_gradients_of_all_losses(kind: type[Any], num_classes: int) -> None:
    """Against finite differences where the whole of the loss has one, else against the changed targets."""
    logits, targets = batch(8, num_classes)
    loss = kind()
    logits.requires_grad_()
    if kind not in STOPS:
        assert torch.autograd.gradcheck(lambda z: loss(z, targets, 0.7), (logits,))
    if isinstance(loss, MixesTargets):
        (slope,) = torch.autograd.grad(kind()(logits, targets, 0.7).sum(), logits)
        still = logits.detach()
        torch.testing.assert_close(slope, still.softmax(-1) - loss.targets(still, targets, 0.7))


@ALL
@CLASSES
def test_renaming_the_classes_changes_no_loss(kind: type[Any], num_classes: int) -> None:
    logits, targets = batch(9, num_classes)
    logits[0], targets[0] = 0, 1 / num_classes  # ties too
    for shift in range(1, num_classes):
        order = torch.arange(num_classes).roll(shift)
        torch.testing.assert_close(kind()(logits[:, order], targets[:, order], 0.6), kind()(logits, targets, 0.6))


@ALL
def test_only_differences_of_logits_matter(kind: type[Any]) -> None:
    """What makes one log-odds as good as two logits."""
    logits, targets = batch(9, 3)
    torch.testing.assert_close(kind()(logits + 3, targets, 0.6), kind()(logits, targets, 0.6))


@ALL
@CLASSES
def test_per_example_losses_do_not_see_the_rest_of_the_batch(kind: type[Any], num_classes: int) -> None:
    logits, targets = batch(8, num_classes)
    whole, alone = (
        kind()(logits, targets, 0.6),
        torch.cat([kind()(logits[i : i + 1], targets[i : i + 1], 0.6) for i in range(8)]),
    )
    assert torch.allclose(whole, alone) == kind.per_example


@pytest.mark.parametrize("loss", NEUTRAL.values(), ids=lambda loss: type(loss).__name__)
@CLASSES
def test_neutral_settings_are_xent(loss: Loss, num_classes: int) -> None:
    logits, targets = batch(8, num_classes)
    torch.testing.assert_close(loss(logits, targets, 0.6), Xent()(logits, targets, 0.6))


def test_a_ramp_begins_at_xent() -> None:
    logits, targets = batch(8, 3)
    for loss in (Entropy(), AdaptConf(warmup=0.3), LogConf()):
        torch.testing.assert_close(loss(logits, targets, 0.0), Xent()(logits, targets, 0.0))


@ALL
@CLASSES
def test_numbers_of_many_students_broadcast(kind: type[Any], num_classes: int) -> None:
    names = [f.name for f in fields(kind) if isinstance(f.default, float)]
    losses = [replace(kind(), **{n: getattr(kind(), n) * (1 - 0.2 * i) for n in names}) for i in range(3)]
    logits, targets = (torch.stack(v) for v in zip(*(batch(8, num_classes, s) for s in range(3)), strict=True))
    together = stacked(losses)(logits, targets, 0.8)
    alone = [loss(z, t, 0.8) for loss, z, t in zip(losses, logits, targets, strict=True)]
    torch.testing.assert_close(together, torch.stack(alone), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("loss", [Xent(), KL(), LogConf(), Product(), AdaptConf()], ids=lambda v: type(v).__name__)
@pytest.mark.parametrize("n", [8, 9])
def test_one_column_gives_the_same_targets_as_two(loss: Any, n: int) -> None:
    logits, targets = batch(n, 2)
    logits[0], targets[1], targets[2, 0], targets[2, 1] = 0, 0.5, 1, 0
    odds = logits[:, 1:] - logits[:, :1]
    torch.testing.assert_close(loss.targets(odds, targets[:, 1:], 0.5), loss.targets(logits, targets, 0.5)[:, 1:])


FEATURES = np.random.default_rng(0).normal(size=(600, 8)).astype(np.float32)


def clean(num_classes: int) -> Any:
    """Certain labels that a linear head can learn, (600, C)."""
    directions = np.random.default_rng(1).normal(size=(8, num_classes))
    return np.eye(num_classes, dtype=np.float32)[(FEATURES @ directions).argmax(1)]


def probes(num_classes: int, *losses: Loss) -> list[Any]:
    labels, rows = clean(num_classes), np.arange(600)
    settings = ProbeSettings(epochs=8, lr=0.02, l2=0.0)
    jobs = [
        ProbeJob(rows[:300], labels[:300], rows[300:360], labels[300:360], loss, settings, seed)
        for seed, loss in enumerate(losses)
    ]
    return fit_probes(FEATURES, jobs, Runtime(device="cpu"))


@pytest.mark.parametrize("num_classes", [2, 3])
def test_probes_learn_with_every_loss(num_classes: int) -> None:
    """On clean labels, from a head of zeros, far beyond chance."""
    right = clean(num_classes)[360:].argmax(1)
    for loss, fitted in zip(LOSSES.values(), probes(num_classes, *(kind() for kind in LOSSES.values())), strict=True):
        accuracy = (fitted.predict(FEATURES[360:]).argmax(1) == right).mean()
        assert accuracy > 0.8, loss


@pytest.mark.parametrize("num_classes", [2, 3])
@ALL
def test_a_student_alone_is_the_same_among_many_with_every_loss(kind: type[Any], num_classes: int) -> None:
    names = [f.name for f in fields(kind) if isinstance(f.default, float)]
    losses = [replace(kind(), **{n: getattr(kind(), n) * (1 - 0.1 * i) for n in names}) for i in range(5)]
    together = probes(num_classes, *losses)
    for i in (0, 3):
        rows = np.arange(600)
        labels = clean(num_classes)
        settings = ProbeSettings(epochs=8, lr=0.02, l2=0.0)
        given = ProbeJob(rows[:300], labels[:300], rows[300:360], labels[300:360], losses[i], settings, i)
        (alone,) = fit_probes(FEATURES, [given], Runtime(device="cpu"))
        assert np.array_equal(alone.weight, together[i].weight)
        assert np.array_equal(alone.bias, together[i].bias)


@pytest.mark.parametrize("num_classes", [2, 3])
@ALL
def test_finetuning_takes_every_loss_in_microbatches_as_in_whole_batches(
    kind: type[Any], num_classes: int, model: Path
) -> None:
    texts = [" ".join(WORDS[5 + i % 7 : 9 + i % 5]) for i in range(12)]
    labels = np.eye(num_classes, dtype=np.float32)[np.arange(12) % num_classes] * 0.7 + 0.3 / num_classes
    settings = FinetuneSettings(epochs=1, batch_size=6, lr=0.01, max_tokens=8, early_stopping=False)
    whole, parts = (
        finetune(model, texts, labels, [], labels[:0], kind(), settings, 0, Runtime(device="cpu", microbatch=m))
        for m in (6, 2)
    )
    assert all(torch.allclose(whole.state[k], parts.state[k], atol=1e-3) for k in whole.state)
    assert all(v.isfinite().all() for v in whole.state.values())


# --- each against its formula -----------------------------------------------------------------------------------------

Reference = Callable[[Any, Any, Any], float]


def entropy_of(p: Any) -> float:
    return -sum(float(v * np.log(v)) for v in p if v > 0)


def cross(p: Any, q: Any) -> float:
    return -sum(float(a * np.log(b)) for a, b in zip(p, q, strict=True) if a > 0)


def soft(p: Any, eps: float = 0.01) -> Any:
    return [(1 - eps) * v + eps / len(p) for v in p]


def hot(p: Any) -> Any:
    return np.eye(len(p))[int(np.argmax(p))]


def adaptive(z: Any, f: Any, w: Any) -> float:
    own, weak = np.exp(cross(hot(f), f) / 0.5), np.exp(cross(hot(w), f) / 0.5)
    b = own / (own + weak)
    return float((1 - b) * cross(w, f) + b * cross(hot(f), f))


def pooled(z: Any, f: Any, w: Any) -> float:
    pool = f**1.0 * w**1.0
    return cross(pool / pool.sum(), f)


def evidential(z: Any, f: Any, w: Any) -> float:
    """Progress 0.7, gamma 0.5; the divergence from torch's own Dirichlet."""
    alpha = np.maximum(z - z.mean(), 0) + 1
    flat = torch.distributions.Dirichlet(torch.ones(len(z), dtype=torch.float64))

    def part(k: int) -> float:
        rest = torch.tensor(alpha)
        rest[k] = 1
        far = torch.distributions.kl_divergence(torch.distributions.Dirichlet(rest), flat)
        return float(np.log(alpha.sum()) - np.log(alpha[k]) + 0.7 * far)

    return float(0.5 * sum(w[k] * part(k) for k in range(len(z))) + 0.5 * part(int(np.argmax(z))))


def first_sight(z: Any, f: Any, w: Any) -> float:
    """The running mean of beliefs is 0.3 f when an example is seen first."""
    return cross(w, f) + 3 * float(np.log(1 - 0.3 * f @ f))


REFERENCES: list[tuple[Loss, Reference]] = [
    (ELR(), first_sight),
    (KL(), lambda z, f, w: cross(w, f) - entropy_of(w)),
    (Entropy(), lambda z, f, w: 0.5 * cross(w, f) + 0.5 * entropy_of(f)),
    (Window(), lambda z, f, w: cross(w, f) if max(f) < 1 / len(f) + 0.15 else 0.0),
    (ReverseKL(), lambda z, f, w: cross(f, soft(w)) - entropy_of(f)),
    (ReverseXent(), lambda z, f, w: cross(f, soft(w))),
    (Symmetric(), lambda z, f, w: cross(w, f) + 0.1 * cross(f, soft(w))),
    (CACE(), lambda z, f, w: cross(w, f) if max(w) - 1 / len(w) >= 0.1 else cross(f, soft(w))),
    (GCE(), lambda z, f, w: sum(w * (1 - f**0.7) / 0.7)),
    (AdaptConf(), adaptive),
    (Product(), pooled),
    (EDL(), evidential),
]


@CLASSES
@pytest.mark.parametrize(("loss", "reference"), REFERENCES, ids=lambda v: type(v).__name__)
def test_losses_are_their_formulas(loss: Loss, reference: Reference, num_classes: int) -> None:
    """Row by row in plain numpy, after the warm-up."""
    logits, targets = batch(40, num_classes)
    logits[:20] /= 8  # unsure students too
    found = loss(logits, targets, 0.7)
    rows = zip(logits.numpy(), logits.softmax(-1).numpy(), targets.numpy(), strict=True)
    assert found.tolist() == pytest.approx([reference(z, f, w) for z, f, w in rows], rel=1e-9, abs=1e-12)


def test_kl_is_torchs() -> None:
    logits, targets = batch(7, 3)
    expected = F.kl_div(logits.log_softmax(-1), targets, reduction="none").sum(-1)
    torch.testing.assert_close(KL()(logits, targets, 0.3), expected)
    reverse = F.kl_div(targets.log(), logits.softmax(-1), reduction="none").sum(-1)
    torch.testing.assert_close(ReverseKL(eps=0)(logits, targets, 0.3), reverse)


def test_reverse_kl_is_least_at_the_smoothed_label() -> None:
    _, targets = batch(7, 3)
    at = ReverseKL(eps=0.3)((0.7 * targets + 0.1).log(), targets, 0.0)
    torch.testing.assert_close(at, torch.zeros_like(at))


def test_gce_lies_between_cross_entropy_and_absolute_error() -> None:
    logits, targets = batch(9, 3)
    torch.testing.assert_close(GCE(q=1e-6)(logits, targets, 0.0), Xent()(logits, targets, 0.0), rtol=1e-4, atol=1e-5)
    certain = F.one_hot(targets.argmax(-1), 3).double()
    error = (logits.softmax(-1) - certain).abs().sum(-1) / 2
    torch.testing.assert_close(GCE(q=1)(logits, certain, 0.0), error)


def test_adaptive_confidence_trusts_itself_by_half_at_most() -> None:
    logits = torch.tensor([[0.0, 9.0], [0.0, 0.1], [0.0, 9.0]])
    targets = torch.tensor([[0.2, 0.8], [0.8, 0.2], [0.8, 0.2]])
    mixed = AdaptConf().targets(logits, targets, 1.0)
    assert float(mixed[0, 1]) == pytest.approx(0.9)  # agreement: half of the label, half of the own class
    assert float(mixed[1, 1]) == pytest.approx(0.2 + 0.8 / (1 + np.exp(0.2)), rel=1e-5)
    assert float(mixed[2, 1]) == pytest.approx(0.2, abs=1e-6)  # sure and against the supervisor: its label stays


# --- a loss that remembers --------------------------------------------------------------------------------------------

REMEMBERING = [kind for kind in LOSSES.values() if issubclass(kind, StatefulLoss)]


def test_early_learning_regularization_remembers() -> None:
    assert ELR in REMEMBERING


@CLASSES
def test_the_memory_is_the_running_mean_of_past_beliefs(num_classes: int) -> None:
    loss, memory = ELR(beta=0.6), torch.zeros(5, num_classes, dtype=torch.float64)
    seen = [batch(5, num_classes, seed)[0].requires_grad_() for seed in range(4)]
    for logits in seen:
        memory = loss.remember(memory, logits)
    weights = [0.4 * 0.6**k for k in (3, 2, 1, 0)]
    wanted = sum(w * z.detach().softmax(-1) for w, z in zip(weights, seen, strict=True))
    torch.testing.assert_close(memory, wanted)
    assert not memory.requires_grad


@CLASSES
def test_the_gradient_by_the_memory_is_that_of_the_formula(num_classes: int) -> None:
    """By autograd and by finite differences, of the batch's loss and of the changed targets that probes train on."""
    logits, targets = batch(8, num_classes)
    memory = 0.9 * batch(8, num_classes, seed=1)[1]
    loss: Any = ELR().with_memory(memory)
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda z: loss(z, targets, 0.7), (logits,))
    (slope,) = torch.autograd.grad(loss(logits, targets, 0.7).sum(), logits)
    still = logits.detach()
    torch.testing.assert_close(slope, still.softmax(-1) - loss.targets(still, targets, 0.7))


def test_one_column_remembers_and_recalls_as_two() -> None:
    logits, targets = batch(9, 2)
    memory = 0.5 * batch(9, 2, seed=1)[1]
    odds = logits[:, 1:] - logits[:, :1]
    one, two = (ELR().remember(memory, z) for z in (odds, logits))
    torch.testing.assert_close(one, two)
    of_one: Any = ELR().with_memory(one)
    of_two: Any = ELR().with_memory(two)
    torch.testing.assert_close(of_one.targets(odds, targets[:, 1:], 0.5), of_two.targets(logits, targets, 0.5)[:, 1:])


def test_what_was_believed_early_outweighs_the_label() -> None:
    """The point of it: a long memory of one class turns the pull of a label that says the other."""
    logits = torch.tensor([[1.0, 0.0]])
    label = torch.tensor([[0.0, 1.0]])
    loss: Any = ELR().with_memory(torch.tensor([[0.9, 0.05]]))
    beliefs = logits.softmax(-1)
    assert (beliefs - label)[0, 1] < 0 < (beliefs - loss.targets(logits, label, 0.0))[0, 1]


def plainly(num_classes: int, strength: float, beta: float, settings: ProbeSettings, seed: int) -> Any:
    """Weights (d + 1, C) of a probe after training with ELR, by loops over rows and Adam, in double precision."""
    labels = 0.8 * clean(num_classes)[:30].astype(np.float64) + 0.2 / num_classes
    x = FEATURES[:30].astype(np.float64)
    x = np.c_[(x - x.mean(0)) / x.std(0), np.ones(30)]
    w, first, second = (np.zeros((9, num_classes)) for _ in range(3))
    starts = log_shares(labels.astype(np.float32))
    w[-1] = starts - starts.mean()
    rates = settings.lr * np.r_[np.ones(8), 10][:, None]
    memory = np.zeros((30, num_classes))
    orders, updates = torch.Generator().manual_seed(seed), 0
    for _ in range(settings.passes(30)):
        order = torch.randperm(30, generator=orders).numpy()
        for at in range(0, 30, settings.batch_size):
            gradient, rows = np.zeros_like(w), order[at : at + settings.batch_size]
            for i in rows:
                f = np.exp(x[i] @ w) / np.exp(x[i] @ w).sum()
                memory[i] = beta * memory[i] + (1 - beta) * f
                slope = f - labels[i]
                for c in range(num_classes):
                    inner = sum(f[k] * ((k == c) - f[c]) * memory[i, k] for k in range(num_classes))
                    slope[c] -= strength * inner / (1 - f @ memory[i])
                gradient += np.outer(x[i], slope) / len(rows)
            updates += 1
            first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
            w -= rates * first / (1 - 0.9**updates) / (np.sqrt(second / (1 - 0.999**updates)) + 1e-8)
    return w


@pytest.mark.parametrize("num_classes", [3, 5])
def test_probes_that_remember_are_those_of_a_plain_loop(num_classes: int) -> None:
    """Seven epochs in batches that do not divide the rows, two students of other numbers side by side."""
    settings = ProbeSettings(epochs=7, batch_size=8, lr=0.05, l2=0.0, early_stopping=False)
    labels = (0.8 * clean(num_classes) + 0.2 / num_classes).astype(np.float32)
    losses = [ELR(strength=2.0, beta=0.7), ELR(strength=5.0, beta=0.9)]
    none = np.arange(0)
    jobs = [ProbeJob(np.arange(30), labels[:30], none, labels[:0], loss, settings, 3) for loss in losses]
    for loss, fitted in zip(losses, fit_probes(FEATURES, jobs, Runtime(device="cpu")), strict=True):
        wanted = plainly(num_classes, loss.strength, loss.beta, settings, 3)
        plain = plainly(num_classes, 0.0, 0.0, settings, 3)
        assert np.abs(wanted - plain).max() > 0.05  # it does something
        assert np.allclose(np.r_[fitted.weight, fitted.bias[None]], wanted, atol=2e-4)


def test_two_classes_held_as_one_logit_remember_as_the_plain_loop_with_two() -> None:
    """Both of two columns make Adam's step, so their difference moves twice as far as one logit does."""
    settings = ProbeSettings(epochs=7, batch_size=8, lr=0.05, l2=0.0, early_stopping=False)
    labels = (0.8 * clean(2) + 0.1).astype(np.float32)
    job = ProbeJob(np.arange(30), labels[:30], np.arange(0), labels[:0], ELR(), settings, 3)
    (fitted,) = fit_probes(FEATURES, [job], Runtime(device="cpu"))
    wanted = plainly(2, 3.0, 0.7, replace(settings, lr=0.025), 3)
    found = np.r_[fitted.weight, fitted.bias[None]]
    assert np.allclose(found[:, 1] - found[:, 0], wanted[:, 1] - wanted[:, 0], atol=2e-4)


@pytest.mark.parametrize("num_classes", [2, 3])
@pytest.mark.parametrize("loss", [ELR(strength=0.0), ELR(beta=1.0)])
def test_a_neutral_loss_that_remembers_trains_as_xent_to_the_bit(loss: Loss, num_classes: int) -> None:
    fitted, plain = probes(num_classes, loss), probes(num_classes, Xent())
    assert np.array_equal(fitted[0].weight, plain[0].weight)


@pytest.mark.parametrize("kind", REMEMBERING)
def test_finetuning_remembers_across_epochs_in_any_microbatch(kind: type[Any], model: Path) -> None:
    texts = [" ".join(WORDS[5 + i % 7 : 9 + i % 5]) for i in range(12)]
    labels = np.eye(2, dtype=np.float32)[np.arange(12) % 2] * 0.7 + 0.15
    settings = FinetuneSettings(epochs=8, batch_size=5, lr=0.01, max_tokens=8, early_stopping=False, warmup=0.0)

    def trained(loss: Loss, microbatch: int) -> Any:
        cpu = Runtime(device="cpu", microbatch=microbatch)
        return finetune(model, texts, labels, [], labels[:0], loss, settings, 0, cpu).state["head.weight"]

    whole, parts, forgetful = trained(kind(), 5), trained(kind(), 2), trained(Forgetful(), 5)
    assert torch.allclose(whole, parts, atol=1e-4)
    assert (whole - forgetful).abs().max() > 20 * (whole - parts).abs().max() + 1e-4


@dataclass(frozen=True)
class Forgetful(Loss):
    """ELR of examples that are always new: what an engine without memory would train with."""

    def __call__(self, logits: Tensor, targets: Tensor, progress: float) -> Tensor:
        return ELR()(logits, targets, progress)


def test_an_untrained_evidential_head_has_a_slope() -> None:
    """relu has none at zero."""
    logits = torch.zeros(1, 2, requires_grad=True)
    (slope,) = torch.autograd.grad(EDL()(logits, torch.tensor([[0.0, 1.0]]), 0.0).sum(), logits)
    assert slope[0, 1] < 0 < slope[0, 0]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: GCE(q=1.5), "q of GCE is 1.5"),
        (lambda: AdaptConf(temperature=0), "temperature of AdaptConf is 0"),
        (lambda: Product(beta=-1), "at 0 or above"),
        (lambda: EDL(gamma=float("nan")), "gamma of EDL is nan"),
    ],
)
def test_numbers_out_of_range_are_one_line(make: Callable[[], Loss], said: str) -> None:
    with pytest.raises(UserError, match=said):
        make()
