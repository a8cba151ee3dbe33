"""Losses: cross-entropy on soft labels, and the confidence loss with exact shares, ties and warm-up."""

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from outgrow.errors import UserError
from outgrow.losses import LOSSES, LogConf, Loss, MixesTargets, Xent, harden, stacked

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
@pytest.mark.parametrize("loss", [Xent(), LogConf(), LogConf(marginals="weak", alpha=1.0)])
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
@pytest.mark.parametrize("loss", [Xent(), LogConf(), LogConf(marginals="weak")])
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
def test_weak_marginals_harden_as_many_rows_as_the_weak_labels_say(n: int, share: float, seed: int) -> None:
    """The released code's option: round(n * mean weak) rows of the second class."""
    exact = n * share
    if abs(exact % 1 - 0.5) < 1e-6:  # half a row: either, or shared
        return
    logits, _ = batch(n, 2, seed)
    marginals = torch.tensor([[1 - share, share]], dtype=torch.float64)
    assert float(harden(logits, marginals)[:, 1].sum()) == round(exact)


@CLASSES
@pytest.mark.parametrize("bias", [0, 0.5, 1])
def test_thresholds_undo_a_preference_for_some_classes(num_classes: int, bias: float) -> None:
    """For two classes exactly; for more, the most frequent class comes out far nearer its share than by argmax."""
    logits, _ = batch(60 * num_classes, num_classes)
    logits += bias * torch.arange(num_classes)
    hard = harden(logits, uniform(num_classes))
    torch.testing.assert_close(hard.sum(-1), torch.ones(len(hard), dtype=torch.float64))
    excess = hard.mean(0).max() - 1 / num_classes
    by_argmax = F.one_hot(logits.argmax(-1)).double().mean(0).max() - 1 / num_classes
    assert excess < 0.05 + (0 if num_classes == 2 else by_argmax / 4)


@CLASSES
@pytest.mark.parametrize("marginals", ["uniform", "weak"])
@pytest.mark.parametrize("n", [1, 8, 9])
def test_an_untrained_head_shares_every_row_equally(num_classes: int, marginals: str, n: int) -> None:
    """Released code, defect 6: equal logits give the whole batch to class 0."""
    targets = torch.full((n, num_classes), 1 / num_classes)
    mixed = LogConf(alpha=1.0, marginals=marginals).targets(torch.zeros(n, num_classes), targets, 1.0)
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


@pytest.mark.parametrize("loss", [Xent(), LogConf(), LogConf(marginals="weak"), LogConf(warmup=0.9)])
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
        losses = [LogConf(alpha=a, warmup=w, marginals=marginals) for a, w in ((0.5, 0.2), (0.75, 0.2), (0, 0), (1, 1))]
        logits, targets = (torch.stack(v) for v in zip(*(batch(8, num_classes, s) for s in range(4)), strict=True))
        for progress in (0.0, 0.1, 0.9):
            together = stacked(losses)(logits, targets, progress)
            alone = [loss(z, t, progress) for loss, z, t in zip(losses, logits, targets, strict=True)]
            torch.testing.assert_close(together, torch.stack(alone), rtol=1e-6, atol=1e-6)


def test_losses_of_other_options_cannot_be_stacked() -> None:
    assert stacked([LogConf(), LogConf()]) == LogConf()
    with pytest.raises(ValueError, match="marginals"):
        stacked([LogConf(), LogConf(marginals="weak")])


def test_losses_of_other_kinds_cannot_be_stacked() -> None:
    with pytest.raises(ValueError, match="kinds"):
        stacked([Xent(), LogConf()])


# --- options ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"alpha": 1.01}, "alpha is 1.01"),
        ({"alpha": float("nan")}, "alpha is nan"),
        ({"warmup": -0.1}, "warmup is -0.1"),
        ({"marginals": "weakly"}, "did you mean weak"),
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
        assert isinstance(kind(), MixesTargets)


def test_a_loss_without_targets_is_a_loss_too() -> None:
    @dataclass(frozen=True)
    class Square:
        per_example: ClassVar[bool] = True

        def __call__(self, logits: Tensor, targets: Tensor, progress: float) -> Tensor:
            return ((logits.softmax(-1) - targets) ** 2).sum(-1)

    assert isinstance(Square(), Loss)
    assert not isinstance(Square(), MixesTargets)
