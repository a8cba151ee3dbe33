"""Language models that write answers: finetuning on the answers' tokens alone, and greedy decoding.

As Burns et al. 2023 did for chess: the weak model learns gold answers, writes its own for B, and the strong model
learns those.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from outgrow.errors import UserError
from outgrow.models.transformer import (
    Classifier,
    Tokens,
    load_language_model,
    load_tokenizer,
    pad,
    recompute_layers,
    tokenize,
)
from outgrow.runtime import Runtime
from outgrow.train import checkpoints
from outgrow.train.heap import freed_memory_kept
from outgrow.train.model import TrainedWeights, get_trained, set_trained
from outgrow.train.settings import GenerateSettings
from outgrow.train.updates import Updates

__all__ = ["GenerativeModel", "decode", "finetune_lm"]


@dataclass(frozen=True, kw_only=True, eq=False)
class GenerativeModel(TrainedWeights):
    """The result of :func:`finetune_lm`. The history has four entries in each epoch."""

    name = "generative"
    read_settings = GenerateSettings
    settings: GenerateSettings

    def begin(self, untrained: Classifier) -> Mapping[str, Tensor]:
        """The body for an untrained classifier to start from."""
        prefix = f"{untrained.body.base_model_prefix}."
        body = {f"body.{name.removeprefix(prefix)}": t for name, t in self.state.items() if name.startswith(prefix)}
        wanted = {name for name, _ in untrained.named_parameters() if name.startswith("body.")}
        assert body.keys() == wanted, "the language model's weights are not those of the body"
        return body


class _Pair(NamedTuple):
    prompt: Tokens
    answer: Tokens
    """Ends with the end of text."""


# --- training ---------------------------------------------------------------------------------------------------------


def finetune_lm(
    folder: Path,
    prompts: Sequence[str],
    answers: Sequence[str],
    settings: GenerateSettings,
    seed: int,
    runtime: Runtime,
    *,
    cut: bool = False,
) -> GenerativeModel:
    """Finetune the language model in ``folder`` to write each answer after its prompt and a space.

    The loss of an example is -log p(answer and end of text | prompt), the sum over the answer's tokens; the mean over
    each batch is minimized. The same arguments give the same bits on the same machine's CPU, and any
    ``runtime.microbatch`` the same up to rounding. With ``runtime.scratch``, a run that was killed resumes from its
    last checkpoint.

    Args:
        folder: config, tokenizer and safetensors of a decoder.
        prompts: n texts.
        answers: n texts; an empty one is just the end of text.
        settings: everything else that changes the result.
        seed: draws the order of each epoch.
        runtime: device, microbatch and gradient checkpointing, progress ("updates"), scratch.
        cut: cut answers of more than ``max_answer`` tokens, which a weak model may write, instead of refusing them.

    Raises:
        UserError: if the model cannot write, an answer is longer than ``max_answer``, or the loss is not finite.
        ValueError: if there is not one answer for each prompt.
    """
    if not len(prompts) == len(answers) > 0:
        raise ValueError(f"{len(answers)} answers for {len(prompts)} prompts")
    model = load_language_model(folder)
    tokenizer = load_tokenizer(folder)
    _check_room(model, settings)
    pairs = _pairs(tokenizer, prompts, answers, settings, cut=cut)
    identity = checkpoints.identity_of(model, pairs, settings, seed)
    if runtime.gradient_checkpointing:
        recompute_layers(model)
    model.to(runtime.torch_device()).train()
    updates = Updates(model, settings, len(pairs), seed, runtime, identity=identity, checks=4)
    with freed_memory_kept():
        for batch in updates:
            updates.apply(_accumulate(model, [pairs[i] for i in batch], runtime.microbatch, settings))
    return GenerativeModel(state=get_trained(model), settings=settings, history=tuple(updates.position.history))


def _accumulate(model: Any, pairs: Sequence[_Pair], microbatch: int, settings: GenerateSettings) -> float:
    """Add the gradient of the batch's mean loss to the model's; returns that loss."""
    # Rows of similar length together need less padding.
    ordered = sorted(pairs, key=lambda pair: -len(pair.prompt) - len(pair.answer))
    size = microbatch or len(pairs)
    total = 0.0
    for start in range(0, len(ordered), size):
        share = _losses(model, ordered[start : start + size], settings).sum() / len(pairs)
        torch.autograd.backward(share)
        total += share.item()
    return total


def _losses(model: Any, pairs: Sequence[_Pair], settings: GenerateSettings) -> Tensor:
    """-log p(answer | prompt) of each pair (n,)."""
    batch = pad([pair.prompt + pair.answer for pair in pairs], str(model.device))
    device = batch.ids.device
    row = torch.tensor([i for i, pair in enumerate(pairs) for _ in pair.answer], device=device)
    # The logits of one place predict the token at the next.
    place = torch.tensor([len(p.prompt) + k - 1 for p in pairs for k in range(len(p.answer))], device=device)
    kept, at = torch.unique(place, return_inverse=True)  # logits over the vocabulary only where they are needed
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=settings.precision == "bf16"):
        logits = model(input_ids=batch.ids, attention_mask=batch.mask, logits_to_keep=kept).logits
    each = F.cross_entropy(logits[row, at].float(), batch.ids[row, place + 1], reduction="none")
    return torch.zeros(len(pairs), device=device).index_add(0, row, each)


# --- decoding ---------------------------------------------------------------------------------------------------------


def decode(
    folder: Path, fitted: GenerativeModel | None, prompts: Sequence[str], settings: GenerateSettings, runtime: Runtime
) -> list[str]:
    """Answers of the most probable tokens (temperature 0), up to the end of text or ``max_answer`` tokens.

    Args:
        folder: the pretrained model that ``fitted`` was finetuned from.
        fitted: None for the pretrained model as it is (zero-shot).
        prompts: n texts; equal ones are computed once.
        settings: only ``max_tokens``, ``max_answer`` and ``precision`` are used.
        runtime: device, ``tokens_at_once``, progress ("texts").

    Returns:
        n answers, without white space around them.
    """
    model = load_language_model(folder)
    _check_room(model, settings)
    if fitted:
        set_trained(model, fitted.state)
    model.to(runtime.torch_device()).eval()
    tokenizer = load_tokenizer(folder)
    end = _end(tokenizer)
    rows = _prompt_rows(tokenizer, prompts, settings)
    written: dict[Tokens, str] = {}
    distinct = sorted(set(rows), key=lambda row: (-len(row), row))
    with torch.inference_mode():
        # Rows in a batch are equally long, so none is padded, and no answer depends on the other prompts.
        for length, group in groupby(distinct, key=len):
            same = list(group)
            size = max(1, runtime.token_budget() // (length + settings.max_answer))
            for start in range(0, len(same), size):
                part = same[start : start + size]
                for row, tokens in zip(part, _greedy(model, part, end, settings), strict=True):
                    written[row] = tokenizer.decode(tokens, skip_special_tokens=True).strip()
                runtime.report(len(written), len(distinct), "texts")
    return [written[row] for row in rows]


def _greedy(model: Any, rows: Sequence[Tokens], end: int, settings: GenerateSettings) -> list[list[int]]:
    """The tokens written after each of n rows of equal length, without the end of text."""
    ids = torch.tensor(rows, device=model.device)
    running = torch.ones(len(rows), dtype=torch.bool, device=model.device)
    out, past = [], None
    for _ in range(settings.max_answer):
        with torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=settings.precision == "bf16"):
            result = model(input_ids=ids, past_key_values=past, use_cache=True, logits_to_keep=1)
        past = result.past_key_values
        chosen = result.logits[:, -1].float().argmax(dim=-1)
        running &= chosen != end
        if not running.any():
            break
        out.append(torch.where(running, chosen, end))
        ids = chosen[:, None]
    if not out:
        return [[] for _ in rows]
    return [[token for token in row if token != end] for row in torch.stack(out, dim=1).tolist()]


# --- tokens -----------------------------------------------------------------------------------------------------------


def _pairs(
    tokenizer: Any, prompts: Sequence[str], answers: Sequence[str], settings: GenerateSettings, *, cut: bool = False
) -> list[_Pair]:
    end = _end(tokenizer)
    encoded = tokenizer([f" {answer}" if answer else "" for answer in answers], add_special_tokens=False)["input_ids"]
    for answer, ids in zip(answers, encoded, strict=True):
        if len(ids) >= settings.max_answer and not cut:
            raise UserError(
                f"the answer {answer!r} has {len(ids)} tokens and the end of text; use at least "
                f"max_answer={len(ids) + 1}"
            )
    rows = _prompt_rows(tokenizer, prompts, settings)
    return [_Pair(row, (*ids[: settings.max_answer - 1], end)) for row, ids in zip(rows, encoded, strict=True)]


def _prompt_rows(tokenizer: Any, prompts: Sequence[str], settings: GenerateSettings) -> list[Tokens]:
    """The last tokens of each prompt, leaving room for the longest answer: the same in training and decoding."""
    room = settings.max_tokens - settings.max_answer
    return [row[-room:] for row in tokenize(tokenizer, prompts, max_tokens=1_000_000)]


def _end(tokenizer: Any) -> int:
    if tokenizer.eos_token_id is None:
        raise UserError("the model's tokenizer has no end-of-text token (eos) to end an answer; use another model")
    end: int = tokenizer.eos_token_id
    return end


def _check_room(model: Any, settings: GenerateSettings) -> None:
    limit = getattr(model.config, "max_position_embeddings", None)
    if limit is not None and settings.max_tokens > limit:
        raise UserError(
            f"max_tokens={settings.max_tokens} is more than this model can read; use at most max_tokens={limit}"
        )
