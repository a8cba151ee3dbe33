"""Finetuning of any transformer on soft labels: the loop, and checks on validation labels."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from outgrow.data import Floats, Reading, hardened
from outgrow.errors import UserError
from outgrow.losses import Loss, StatefulLoss
from outgrow.models.transformer import Classifier, compile_layers, load_tokenizer, recompute_layers, tokens_read
from outgrow.runtime import Runtime
from outgrow.train import checkpoints, distributed
from outgrow.train.checkpoints import Best, trained
from outgrow.train.heap import freed_memory_kept
from outgrow.train.memory import check_out_of_memory, fewer_tokens, plan_memory
from outgrow.train.model import (
    FinetunedModel,
    build,
    get_trained,
    outputs,
    predict,
    probabilities,
    set_trained,
    token_rows,
)
from outgrow.train.settings import FinetuneSettings
from outgrow.train.updates import TokenRow, Updates, accumulate

__all__ = ["FinetunedModel", "Start", "finetune", "predict"]

Start = Callable[[Classifier], Mapping[str, Tensor]]
"""Maps an untrained classifier to those of its tensors that start from other values."""


def finetune(
    folder: Path,
    texts: Sequence[Reading],
    targets: Floats,
    val_texts: Sequence[Reading],
    val_targets: Floats,
    loss: Loss,
    settings: FinetuneSettings,
    seed: int,
    runtime: Runtime,
    start: Start | None = None,
    anchor: float = 0.0,
) -> FinetunedModel:
    """Finetune the pretrained model in ``folder`` on soft labels; with ``Xent`` this is the naive way of Burns et al.

    The same arguments give the same bits on the same machine's CPU; the caller's random state is neither used nor
    changed. With ``runtime.scratch``, a run that was killed resumes from its last checkpoint, with the same result.

    Args:
        folder: config, tokenizer and safetensors of an encoder or decoder.
        texts: n training texts, or n tuples of C candidate texts, each scored by a head with one output.
        targets: (n, C) class probabilities.
        val_texts: m held-out texts or choices; may be empty without early stopping.
        val_targets: (m, C) labels from the same source as ``targets``, never ground truth for a student.
        loss: its mean over each batch is minimized.
        settings: everything else that changes the result.
        seed: draws the order of each epoch, LoRA adapters and dropout.
        runtime: device, microbatch (if none is given, planned from the free memory, and halved if that runs out) and
            gradient checkpointing, progress ("updates"), scratch.
        start: gives tensors to start from, such as ``begin`` of a model finetuned from this folder with this ``lora``.
        anchor: weight of |w - w at the start|^2 / 2, added to the loss (L2-SP, Li et al. 2018).

    Raises:
        UserError: if the model or ``start`` does not fit these settings, early stopping has no validation rows, or the
            loss is not finite.
        ValueError: if there is not one row of labels for each text, or not one candidate for each class.
    """
    if not len(texts) == len(targets) > 0 or len(val_texts) != len(val_targets):
        raise ValueError(f"{len(targets)} labels for {len(texts)} texts, {len(val_targets)} for {len(val_texts)} texts")
    if settings.early_stopping and not len(val_texts):
        raise UserError("early stopping needs validation rows; hold some out, or set early_stopping=False")
    rest = (loss, settings, seed, runtime.quiet(), _shapes if start and runtime.shard else start, anchor)
    distributed.run_on_ranks(finetune, folder, texts, targets, val_texts, val_targets, *rest)
    tokenizer = load_tokenizer(folder)
    most = tokens_read(folder, settings.max_tokens)
    rows, val_rows = (token_rows(tokenizer, part, most) for part in (texts, val_texts))
    tokens = 0
    if not runtime.microbatch and not settings.dropout:
        plan = plan_memory(folder, settings, [sum(map(len, row)) for row in rows], runtime)
        runtime.say(str(plan))
        tokens = distributed.min_over_ranks(plan.tokens)
    model = build(folder, settings, outputs(texts, targets.shape[1]), seed)
    begin = {**get_trained(model), **start(model)} if start else None
    if begin and (distributed.rank() == 0 or not runtime.shard):
        set_trained(model, begin)
    identity = checkpoints.identity_of(model, rows, targets, val_rows, val_targets, loss, settings, seed, anchor)
    if runtime.shard:
        identity = distributed.broadcast(identity)
    _place(model, begin, runtime)
    home = [(p, p.detach().clone()) for p in trained(model).values()] if anchor else []
    updates = Updates(model, settings, len(rows), seed, runtime, identity=identity, checks=settings.checks)
    device_targets = torch.as_tensor(targets, dtype=torch.float32, device=runtime.torch_device())
    run = _Finetuning(model, updates, rows, device_targets, val_rows, val_targets, loss, settings, anchor, home)
    with freed_memory_kept():
        _train(run, tokens)
    position = updates.position
    if position.best:
        checkpoints.restore(model, position.best.state)
    return FinetunedModel(
        state=get_trained(model), settings=settings, num_classes=targets.shape[1], history=tuple(position.history)
    )


def _shapes(model: Classifier) -> Mapping[str, Tensor]:
    """Stands for the start on other ranks if the model is cut: shapes without values, which rank 0 alone has."""
    return distributed.blank(trained(model))


def _place(model: Classifier, begin: Mapping[str, Tensor] | None, runtime: Runtime) -> None:
    """Move the model to the device, whole or cut over ranks, with layers as ``runtime`` wants them."""
    if runtime.compile:
        compile_layers(model.body, runtime)
    if runtime.gradient_checkpointing:
        recompute_layers(model.body)
    if not runtime.shard:
        model.to(runtime.torch_device())
        return
    distributed.shard(model, runtime.torch_device())
    if begin:
        set_trained(model, begin)


class _Finetuning(NamedTuple):
    model: Classifier
    updates: Updates
    rows: list[TokenRow]
    targets: Tensor
    """(n, C), on the model's device."""
    val_rows: list[TokenRow]
    val_targets: Floats
    loss: Loss
    settings: FinetuneSettings
    anchor: float
    home: list[tuple[torch.nn.Parameter, Tensor]]
    """Trained tensors and their values at the start; empty without an anchor."""


def _train(run: _Finetuning, tokens: int) -> None:
    """Make all updates that are left; a microbatch has at most ``tokens`` tokens (0: any number)."""
    position, runtime, targets = run.updates.position, run.updates.runtime, run.targets
    if isinstance(run.loss, StatefulLoss):
        known = torch.zeros_like(targets) if position.memory is None else position.memory
        position.memory = known.to(targets.device)
    run.model.train()
    for batch in run.updates:
        rows, places = [run.rows[i] for i in batch], torch.as_tensor(batch, device=targets.device)
        memory = None if position.memory is None else position.memory[places]
        value = None
        while value is None:
            try:
                value = accumulate(
                    run.model,
                    rows,
                    targets[places],
                    run.loss,
                    position.update / run.updates.total,
                    seed=(run.updates.seed, position.update),
                    microbatch=runtime.microbatch,
                    tokens=tokens,
                    memory=memory,
                )
            except (RuntimeError, MemoryError) as error:
                check_out_of_memory(error, fixed=run.settings.dropout)
            if value is None:  # after the except clause, whose traceback would hold on to what is to be freed
                tokens = fewer_tokens(run.model, tokens, sum(len(text) for row in rows for text in row), runtime)
        if memory is not None and position.memory is not None:
            position.memory[places] = memory
        for parameter, at_start in run.home:
            if parameter.grad is not None:
                parameter.grad.add_(parameter.detach() - at_start, alpha=run.anchor)
        if (entry := run.updates.apply(value)) is not None:
            _check(run, entry)


def _check(run: _Finetuning, entry: dict[str, Any]) -> None:
    """Complete an entry of the history, and keep the weights if they are better than all before."""
    entry |= {"agreement": None, "cross_entropy": None}
    if not run.val_rows:
        return
    position, runtime = run.updates.position, run.updates.runtime
    probs = probabilities(run.model, run.val_rows, runtime, lambda done, total, unit: None, together=True)
    run.model.train()
    agreement = float((hardened(probs) == hardened(run.val_targets)).mean())
    log_probs = np.log(np.maximum(probs, np.finfo(np.float32).tiny))
    cross_entropy = float(-(run.val_targets * log_probs).sum(axis=1).mean())
    entry |= {"agreement": agreement, "cross_entropy": cross_entropy}
    best = position.best
    if run.settings.early_stopping and (
        best is None or (agreement, -cross_entropy) > (best.agreement, -best.cross_entropy)
    ):
        position.best = Best(agreement=agreement, cross_entropy=cross_entropy, state=checkpoints.snapshot(run.model))
