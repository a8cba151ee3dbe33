"""The updates of a training: batches, learning rates, checkpoints, and the gradient of a batch from microbatches."""

import math
import time
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from outgrow.data import Ints
from outgrow.errors import UserError
from outgrow.losses import Loss, StatefulLoss
from outgrow.models.transformer import Classifier, Tokens
from outgrow.runtime import Runtime
from outgrow.train import checkpoints, distributed
from outgrow.train.checkpoints import Position
from outgrow.train.settings import OptimizerSettings

__all__ = ["TokenRow", "Updates", "accumulate", "apply", "batches", "check_points", "make_optimizer", "rate"]

TokenRow = tuple[Tokens, ...]
"""The token rows of one example: one for a text, C for a choice."""


class Updates:
    """The updates that a training has left, from its last checkpoint on: iterate over the batches, and call
    :meth:`apply` once the gradient of each is there.

    A run goes on from a checkpoint with the same ``identity``; the history gets ``checks`` entries in each epoch.
    """

    def __init__(
        self,
        model: nn.Module,
        settings: OptimizerSettings,
        num_rows: int,
        seed: int,
        runtime: Runtime,
        *,
        identity: str,
        checks: int,
    ) -> None:
        self.model, self.settings, self.num_rows, self.seed = model, settings, num_rows, seed
        self.runtime, self.identity = runtime, identity
        per_epoch = math.ceil(num_rows / settings.batch_size)
        self.total = per_epoch * settings.epochs
        self.looks = check_points(per_epoch, settings.epochs, checks)
        self.optimizer = make_optimizer(model, settings)
        scratch = runtime.scratch
        self.position = checkpoints.read(scratch, identity, model, self.optimizer) if scratch else Position()

    def __iter__(self) -> Iterator[Ints]:
        """Row numbers of each batch. After each update it reports, and writes a checkpoint if one is due."""
        settings, runtime, position = self.settings, self.runtime, self.position
        saved = time.monotonic()
        order = batches(self.num_rows, settings.batch_size, settings.epochs, self.seed)
        for batch in islice(order, position.update, None):
            yield batch
            if runtime.scratch and self._is_due(saved):
                checkpoints.write(runtime.scratch, self.identity, self.model, self.optimizer, position)
                saved = time.monotonic()
            runtime.report(position.update, self.total, "updates")

    def _is_due(self, saved: float) -> bool:
        """Whether this process writes a checkpoint now: rank 0's clock decides, and if the model is cut, for all."""
        due = time.monotonic() - saved >= checkpoints.SECONDS
        return distributed.broadcast(due) if distributed.is_cut(self.model) else due and distributed.rank() == 0

    def apply(self, loss: float) -> dict[str, Any] | None:
        """Update the weights with their gradients; returns the new entry of the history if one is due.

        Raises:
            UserError: if the loss is not finite.
        """
        position = self.position
        if not math.isfinite(loss):
            if not position.update:  # no update has been made that a smaller rate could have kept small
                raise UserError(
                    f"the loss is {loss} before the first update: the pretrained model or the loss gives numbers that "
                    "are not finite; take another model or loss, or precision='fp32'"
                )
            raise UserError(f"the loss is {loss} at update {position.update + 1} of {self.total}; use a smaller lr")
        apply(self.optimizer, rate(position.update, self.total, self.settings), self.settings.clip)
        position.update += 1
        position.losses.append(loss)
        if position.update not in self.looks:
            return None
        position.history.append({"step": position.update, "loss": sum(position.losses) / len(position.losses)})
        position.losses.clear()
        return position.history[-1]


def batches(num_rows: int, batch_size: int, epochs: int, seed: int) -> Iterator[Ints]:
    """Row numbers of each batch: every row once in each epoch, in another order each time.

    The last batch of an epoch may be smaller; no row is skipped.
    """
    for epoch in range(epochs):
        order = np.random.default_rng([seed, epoch]).permutation(num_rows)
        for start in range(0, num_rows, batch_size):
            yield order[start : start + batch_size]


def check_points(updates_per_epoch: int, epochs: int, checks: int) -> set[int]:
    """After how many updates the history gets an entry: ``checks`` times in each epoch, the last at its end."""
    within = {math.ceil(k * updates_per_epoch / checks) for k in range(1, checks + 1)}
    return {epoch * updates_per_epoch + step for epoch in range(epochs) for step in within}


def rate(update: int, total: int, settings: OptimizerSettings) -> float:
    """Learning rate of an update in 0 .. total - 1: a linear rise over the warm-up, then the schedule's fall.

    It depends on the position alone, so a resumed run needs no scheduler state; no update has rate zero.
    """
    rise = round(settings.warmup * total)
    if update < rise:
        return settings.lr * (update + 1) / (rise + 1)
    left = (total - update) / (total - rise)
    fall = {"constant": 1.0, "linear": left, "cosine": 0.5 - 0.5 * math.cos(math.pi * left)}
    return settings.lr * fall[settings.schedule]


def make_optimizer(model: nn.Module, settings: OptimizerSettings) -> torch.optim.Optimizer:
    """AdamW or Adafactor on the trained tensors, with weight decay on matrices only. Cut the model first."""
    trained = checkpoints.trained(model).values()
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if settings.optimizer == "adafactor":
        if distributed.is_cut(model):
            return distributed.Adafactor(groups, lr=settings.lr)
        return torch.optim.Adafactor(groups, lr=settings.lr)
    return torch.optim.AdamW(groups, lr=settings.lr, fused=True)


def apply(optimizer: torch.optim.Optimizer, lr: float, clip: float) -> None:
    """One update with the gradient, clipped to the norm ``clip`` (0: not at all), which is then dropped."""
    if clip:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        torch.nn.utils.clip_grad_norm_(parameters, clip)
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def accumulate(
    model: Classifier,
    rows: Sequence[TokenRow],
    targets: Tensor,
    loss: Loss,
    progress: float,
    *,
    seed: Sequence[int],
    microbatch: int = 0,
    tokens: int = 0,
    memory: Tensor | None = None,
) -> float:
    """Add the gradient of the batch's mean loss to the model's; returns that loss.

    Exact for any ``microbatch`` and ``tokens`` (0: the whole batch at once), even if the loss needs statistics of the
    whole batch: then the logits of all microbatches are computed without a graph, the gradient of the loss is taken
    with respect to them, and each microbatch carries its part back. One microbatch's graph is alive at a time.

    Args:
        model: in train mode.
        rows: the token rows of each of the batch's n examples.
        targets: (n, C), on the model's device.
        loss: what is minimized.
        progress: the share of training done before this update, in [0, 1].
        seed: with the number of the microbatch, the seed of the dropout masks, which are the same in both passes.
        microbatch: the most examples, each with all its candidates, in one pass; 0 for no limit.
        tokens: the most tokens in one pass, which has at least one example; 0 for no limit.
        memory: (n, C), what a stateful loss remembers of these examples; replaced at the very end.
    """
    parts = _microbatches(rows, microbatch or len(rows), tokens)
    mine = list(enumerate(parts))[distributed.rank() :: distributed.size()]
    if distributed.is_cut(model) and len(mine) < math.ceil(len(parts) / distributed.size()):
        mine.append((len(parts), []))  # a pass gathers weights from every rank, so all make as many

    def logits_of(number: int, part: list[int]) -> Tensor:
        return _logits(model, [rows[i] for i in part or parts[-1][-1:]], (*seed, number))[: len(part)]

    if loss.per_example or len(parts) == 1:
        mean, seen = torch.zeros((), device=targets.device), torch.zeros_like(targets)
        for number, part in mine:
            logits, used = logits_of(number, part), loss
            if memory is not None:
                assert isinstance(loss, StatefulLoss)
                seen[part] = loss.remember(memory[part], logits.detach())
                used = loss.with_memory(seen[part])
            share = (used(logits, targets[part], progress) if part else logits).sum() / len(rows)
            torch.autograd.backward(share)
            mean += share.detach()
        distributed.all_reduce(mean)
        if memory is not None:
            distributed.all_reduce(seen)
            memory.copy_(seen)
    else:
        whole = torch.zeros_like(targets)
        with torch.no_grad():
            for number, part in mine:
                whole[part] = logits_of(number, part)
        distributed.all_reduce(whole)
        mean = loss(whole.requires_grad_(), targets, progress).mean()
        (gradient,) = torch.autograd.grad(mean, whole)
        for number, part in mine:
            torch.autograd.backward(logits_of(number, part), gradient[part])
    if not distributed.is_cut(model):  # there each backward pass has added up its own
        distributed.all_reduce_gradients(model)
    return mean.item()


def _microbatches(rows: Sequence[TokenRow], most: int, tokens: int) -> list[list[int]]:
    """Row numbers in microbatches of at most ``most`` examples and ``tokens`` tokens (0: any number)."""
    # Rows of similar length together need less padding; the mean over the batch has no order.
    order = sorted(range(len(rows)), key=lambda i: -max(map(len, rows[i])))
    sizes = [sum(map(len, row)) for row in rows]
    parts = _parts(order, sizes, most, tokens)
    return parts if distributed.size() == 1 else _evenly(parts, order, sizes, most)


def _parts(order: Sequence[int], sizes: Sequence[int], most: int, tokens: int) -> list[list[int]]:
    """``order`` cut into microbatches of at most ``most`` examples and ``tokens`` tokens (0: any number)."""
    parts: list[list[int]] = []
    filled = 0
    for i in order:
        if not parts or len(parts[-1]) == most or (tokens and filled + sizes[i] > tokens):
            parts.append([])
            filled = 0
        parts[-1].append(i)
        filled += sizes[i]
    return parts


def _evenly(parts: list[list[int]], order: Sequence[int], sizes: Sequence[int], most: int) -> list[list[int]]:
    """The same number of microbatches for every rank, the largest as small as possible."""
    count = math.ceil(len(parts) / distributed.size()) * distributed.size()
    limits = range(max(sizes), sum(sizes) + 1)
    least = bisect_left(limits, True, key=lambda tokens: len(_parts(order, sizes, most, tokens)) <= count)
    return _parts(order, sizes, most, limits[least])


def _logits(model: Classifier, rows: Sequence[TokenRow], seed: Sequence[int]) -> Tensor:
    """Logits (n, C), the C outputs for a text or the one output for each of C candidates, with the dropout masks of
    this seed; the caller's random state stays as it was."""
    device = model.head.weight.device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0]))
        out: Tensor = model([tokens for row in rows for tokens in row])
    return out.view(len(rows), -1)
