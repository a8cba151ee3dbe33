"""Finetuning of any transformer on soft labels: the loop, checks on validation labels, and resume."""

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from outgrow.data import Floats, Reading, hardened
from outgrow.errors import UserError
from outgrow.losses import Loss, StatefulLoss
from outgrow.models.transformer import Classifier, compile_layers, load_tokenizer, recompute_layers
from outgrow.runtime import Runtime
from outgrow.train import checkpoints, distributed
from outgrow.train.checkpoints import Best, Position
from outgrow.train.heap import freed_memory_kept
from outgrow.train.memory import plan_memory, within_memory
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
from outgrow.train.settings import Finetune
from outgrow.train.updates import TokenRow, accumulate, apply, batches, check_points, make_optimizer, rate

__all__ = ["Finetune", "FinetunedModel", "finetune", "predict"]


def finetune(
    folder: Path,
    texts: Sequence[Reading],
    targets: Floats,
    val_texts: Sequence[Reading],
    val_targets: Floats,
    loss: Loss,
    settings: Finetune,
    seed: int,
    runtime: Runtime,
    start: FinetunedModel | None = None,
    anchor: float = 0.0,
) -> FinetunedModel:
    """Finetune the pretrained model in ``folder`` on soft labels; with ``Xent``, Burns et al. 2023's naive way.

    The same arguments give the same bits on the same machine's CPU; the caller's random state is neither used nor
    changed. With ``runtime.scratch``, a run that was killed goes on from its last checkpoint to the same result.

    Args:
        folder: config, tokenizer and safetensors of an encoder or decoder.
        texts: n training texts, or n tuples of C candidate texts, each scored by one head with one output.
        targets: (n, C) class probabilities.
        val_texts: m held-out texts, or choices; may be empty without early stopping.
        val_targets: (m, C) their labels, from the same source as ``targets``, never ground truth for a student.
        loss: what is minimised: its mean over each batch.
        settings: everything else that changes the result.
        seed: draws the order of each epoch, LoRA adapters and dropout.
        runtime: device, microbatch (planned from the memory that is free where none is given, and halved where it
            runs out all the same) and gradient checkpointing, progress ("updates"), scratch.
        start: weights to begin with, finetuned from the same folder with the same ``lora``.
        anchor: weight of |w - w at the start|^2 / 2 beside the loss (L2-SP, Li et al. 2018).

    Raises:
        UserError: if the model or ``start`` cannot be used with these settings, early stopping has no validation rows,
            or the loss stops being finite.
        ValueError: if there is not one row of labels for each text, or not a candidate for each class.
    """
    if not len(texts) == len(targets) > 0 or len(val_texts) != len(val_targets):
        raise ValueError(f"{len(targets)} labels for {len(texts)} texts, {len(val_targets)} for {len(val_texts)} texts")
    if settings.early_stopping and not len(val_texts):
        raise UserError("early stopping needs validation rows; hold some out, or set early_stopping=False")
    others = replace(start, state=distributed.blank(start.state)) if start and runtime.shard else start
    rest = (loss, settings, seed, runtime.quiet(), others, anchor)
    distributed.run_on_ranks(finetune, folder, texts, targets, val_texts, val_targets, *rest)
    num_classes = targets.shape[1]
    tokenizer = load_tokenizer(folder)
    rows, val_rows = (token_rows(tokenizer, part, settings.max_tokens) for part in (texts, val_texts))
    tokens = 0
    if not runtime.microbatch and not settings.dropout:
        plan = plan_memory(folder, settings, [sum(map(len, row)) for row in rows], runtime)
        runtime.say(str(plan))
        tokens = distributed.min_over_ranks(plan.tokens)
    model = build(folder, settings, outputs(texts, num_classes), seed)
    if start and (distributed.rank() == 0 or not runtime.shard):
        set_trained(model, start.state)
    identity = checkpoints.identity_of(model, rows, targets, val_rows, val_targets, loss, settings, seed, anchor)
    if runtime.compile:
        compile_layers(model.body, runtime)
    if runtime.gradient_checkpointing:
        recompute_layers(model.body)
    if runtime.shard:
        identity = distributed.broadcast(identity)
        distributed.shard(model, runtime.torch_device())
        if start:
            set_trained(model, start.state)
    else:
        model.to(runtime.torch_device())
    optimizer = make_optimizer(model, settings)
    home = [(p, p.detach().clone()) for p in model.parameters() if p.requires_grad] if anchor else []
    position = checkpoints.read(runtime.scratch, identity, model, optimizer) if runtime.scratch else Position()
    run = _Finetuning(
        model, optimizer, rows, targets, val_rows, val_targets, loss, settings, seed, identity, anchor, home
    )
    with freed_memory_kept():
        _train(run, position, runtime, tokens)
    if position.best:
        checkpoints.restore(model, position.best.state)
    return FinetunedModel(
        state=get_trained(model), settings=settings, num_classes=num_classes, history=tuple(position.history)
    )


class _Finetuning(NamedTuple):
    model: Classifier
    optimizer: torch.optim.Optimizer
    rows: list[TokenRow]
    targets: Floats
    val_rows: list[TokenRow]
    val_targets: Floats
    loss: Loss
    settings: Finetune
    seed: int
    identity: str
    anchor: float
    home: list[tuple[torch.nn.Parameter, Tensor]]
    """Trained tensors and what they were at the start; none without an anchor."""


def _train(run: _Finetuning, position: Position, runtime: Runtime, tokens: int) -> None:
    """Make all updates from ``position`` on, and move it along; ``tokens`` is the most of a microbatch, 0 for any."""
    model, settings = run.model, run.settings
    targets = torch.as_tensor(run.targets, dtype=torch.float32, device=runtime.torch_device())
    per_epoch = math.ceil(len(run.rows) / settings.batch_size)
    total = per_epoch * settings.epochs
    looks = check_points(per_epoch, settings.epochs, settings.checks)
    saved = time.monotonic()
    if isinstance(run.loss, StatefulLoss):
        known = torch.zeros_like(targets) if position.memory is None else position.memory
        position.memory = known.to(targets.device)
    model.train()
    order = batches(len(run.rows), settings.batch_size, settings.epochs, run.seed)
    for batch in islice(order, position.update, None):
        places = torch.as_tensor(batch, device=targets.device)
        memory = None if position.memory is None else position.memory[places]
        value, tokens = within_memory(
            partial(
                accumulate,
                model,
                [run.rows[i] for i in batch],
                targets[places],
                run.loss,
                position.update / total,
                seed=(run.seed, position.update),
                microbatch=runtime.microbatch,
                memory=memory,
            ),
            model,
            tokens,
            sum(len(text) for i in batch for text in run.rows[i]),
            runtime,
            fixed=settings.dropout,
        )
        if not math.isfinite(value):
            raise UserError(f"the loss is {value} at update {position.update + 1} of {total}; use a smaller lr")
        if memory is not None and position.memory is not None:
            position.memory[places] = memory
        for parameter, at_start in run.home:
            if parameter.grad is not None:
                parameter.grad.add_(parameter.detach() - at_start, alpha=run.anchor)
        apply(run.optimizer, rate(position.update, total, settings), settings.clip)
        position.update += 1
        position.losses.append(value)
        if position.update in looks:
            _check(run, position, runtime)
        if runtime.scratch and _due(saved, runtime):
            checkpoints.write(runtime.scratch, run.identity, model, run.optimizer, position)
            saved = time.monotonic()
        runtime.report(position.update, total, "updates")


def _due(saved: float, runtime: Runtime) -> bool:
    """Whether this process writes a checkpoint now: rank 0 alone does, by its clock, or every rank its piece."""
    due = time.monotonic() - saved >= checkpoints.SECONDS
    return distributed.broadcast(due) if runtime.shard else due and distributed.rank() == 0


def _check(run: _Finetuning, position: Position, runtime: Runtime) -> None:
    """Add an entry to the history, and keep the weights if they are the best so far (a tie goes to the earlier)."""
    loss = sum(position.losses) / len(position.losses)
    position.losses.clear()
    entry = {"step": position.update, "loss": loss, "agreement": None, "cross_entropy": None}
    position.history.append(entry)
    if not run.val_rows:
        return
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
