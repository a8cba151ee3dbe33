"""Predictions made certain, with each class as often as asked."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["harden", "offsets"]

_ROUNDS = 40  # of moving thresholds; nearly every batch needs fewer than ten
_NEVER = 1e4  # in log probability, below anything that a model says


def harden(logits: "Tensor", marginals: "Tensor") -> "Tensor":
    """Certain predictions (..., n, C) whose classes occur as often as ``marginals`` (..., 1, C) says, to rounding.

    A row takes the class whose log probability lies highest above that class's threshold. For two classes the threshold
    lies between the n * marginal highest rows and the rest (Hazen's quantile), so the shares are exact. For more, all
    thresholds move at once, each half of the way to where its class would win its share against the others as they are,
    until every class is less than one row off. This is the assignment of rows to classes with the highest total log
    probability, found through its prices (an auction). Rarely a class ends one row further off; two never occurred in
    the tests. Rows at a threshold are shared equally among the tied classes. One column (..., n, 1) holds the log-odds
    of the second of two classes.
    """
    import torch

    num_classes = logits.shape[-1]
    if num_classes <= 2:
        odds = logits if num_classes == 1 else logits[..., 1:] - logits[..., :1]
        share = marginals if marginals.ndim == 0 else marginals[..., -1:]
        second = (odds - _threshold(odds, share)).sign_().add_(1).div_(2)
        return second if num_classes == 1 else torch.cat([1 - second, second], dim=-1)
    return _balanced(logits.log_softmax(dim=-1), marginals)[0]


def offsets(logits: "Tensor", shares: "Tensor") -> "Tensor":
    """What to add to the logits of each class (C,) so that the highest of each row (n, C) is each class as often as
    ``shares`` (C,) says, to rounding: the thresholds of :func:`harden`, for rows to come."""
    import torch

    if logits.shape[-1] == 2:
        odds = logits[:, 1:] - logits[:, :1]
        threshold = torch.cat([torch.zeros_like(odds[:1, 0]), _threshold(odds, shares[None, 1:])[0]])
    else:
        threshold = _balanced(logits.log_softmax(dim=-1), shares[None])[1][0]
    return torch.where(shares > 0, -threshold, -_NEVER).clamp(-_NEVER, _NEVER)


def _balanced(log_probs: "Tensor", marginals: "Tensor") -> "tuple[Tensor, Tensor]":
    """The certain predictions, and the thresholds that give them."""
    import torch

    *outer, n, num_classes = log_probs.shape
    shares = marginals.to(log_probs.dtype).expand(*outer, 1, num_classes)
    log_probs = torch.where(shares > 0, log_probs, -_NEVER)  # a class without a share gets no row
    threshold = _quantile(log_probs, shares)
    hard, kept, furthest = (
        torch.empty_like(log_probs),
        threshold,
        torch.full((*outer, 1, 1), torch.inf, dtype=log_probs.dtype),
    )
    furthest = furthest.to(log_probs.device)
    for _ in range(_ROUNDS):
        standing = log_probs - torch.where(shares > 0, threshold, 0)
        two = standing.topk(2, dim=-1).values
        highest = standing == two[..., :1]
        found = highest.to(log_probs.dtype)
        found /= found.sum(dim=-1, keepdim=True)
        off = (found.sum(dim=-2, keepdim=True) - n * shares).abs().amax(dim=-1, keepdim=True)
        # A batch that is right stays as it is, whatever its neighbours still need.
        better = (off < furthest) & (furthest >= 1)
        hard, furthest = torch.where(better, found, hard), torch.where(better, off, furthest)
        kept = torch.where(better, threshold, kept)
        if bool((furthest < 1).all()):
            break
        ahead = log_probs - torch.where(highest, two[..., 1:], two[..., :1])
        threshold = torch.lerp(threshold, _quantile(ahead, shares), 0.5)
    return hard, kept


def _threshold(values: "Tensor", share: "Tensor") -> "Tensor":
    """The value (..., 1, C) that a ``share`` of the n values in each column lies above; beyond them for 0 and 1."""
    import torch

    threshold = _quantile(values, share)
    if share.ndim == 0:
        return threshold
    n = values.shape[-2]
    place = n * (1 - share) - 0.5
    return threshold.masked_fill(place < 0, -torch.inf).masked_fill(place > n - 1, torch.inf)


def _quantile(values: "Tensor", share: "Tensor") -> "Tensor":
    """As :func:`_threshold`, but never beyond the values; ``share`` is one number or (..., 1, C)."""
    import torch

    n = values.shape[-2]
    ranked = _ranked(values)
    place = n * (1 - share) - 0.5
    below = place.floor().clamp(0, n - 1).long()
    above = (below + 1).clamp_max(n - 1)
    part = (place - below).clamp(0, 1).to(values.dtype)
    if share.ndim == 0:
        return torch.lerp(ranked[..., below, None, :], ranked[..., above, None, :], part)
    return torch.lerp(ranked.gather(-2, below), ranked.gather(-2, above), part)


def _ranked(values: "Tensor") -> "Tensor":
    """Each column of n values in rising order."""
    import torch

    if values.device.type == "cpu":  # numpy's vectorized sort takes a tenth of torch's time on many short columns
        columns = values.movedim(-2, -1).clone(memory_format=torch.contiguous_format)
        columns.numpy().sort(axis=-1)
        return columns.movedim(-1, -2)
    return values.sort(dim=-2).values
