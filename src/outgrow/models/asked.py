"""Language models that are asked: what a decoder's states say of a text right after the task's question.

A language model that reads only a text has no reason to work out what the task wants. After the question it has: the
last token's state holds the answer that it is about to give.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from outgrow.archives import known_sha256
from outgrow.data import Question
from outgrow.errors import UserError
from outgrow.models.packing import can_pack, layers_of, pack
from outgrow.models.settings import ASKED
from outgrow.models.transformer import (
    Cut,
    Tokens,
    load_language_model,
    load_tokenizer,
    over_batches,
    pad,
    tokens_read,
)
from outgrow.runtime import Runtime

__all__ = ["ask", "cut_text", "measure_asking"]

_DEPTHS = {"asked_half": 1 / 2, "asked": 2 / 3, "asked_three_quarters": 3 / 4}
"""Views of the last token to shares of the depth, as the layer ceil(share * layers); ``asked_last`` is all of it."""


class _Prompt(NamedTuple):
    """A text inside the question."""

    tokens: Tokens
    first: int
    """The text's first token."""
    end: int
    """The token after its last; not above ``first`` for a text without any."""
    is_cut: bool


def ask(
    folder: Path,
    texts: Sequence[str],
    question: Question,
    *,
    max_tokens: int | None,
    runtime: Runtime,
    bf16: bool = False,
) -> dict[str, npt.NDArray[np.float32]]:
    """What the language model in ``folder`` makes of each text inside a question, in one pass over it.

    The views of :data:`outgrow.models.settings.ASKED`, (n, d) float32 each; ``words``, the log probability (n, W) of
    each word's first token right after the question; and ``words_calibrated``, the same minus that of an empty text
    (Zhao et al. 2021). Those two are left out where two words begin with the same token, which is said. An empty text
    has the mean over the whole question.

    The same texts give the same bits, also continued after a kill. Batching and order change nothing beyond rounding:
    1e-5 in float32, and in bfloat16, where weights and layers have two to three digits, 2e-2, of a row's norm.

    Args:
        folder: a decoder.
        texts: n texts.
        question: with nothing left open, see :meth:`outgrow.data.Question.of`.
        max_tokens: the most tokens of a text and its question, as in :func:`tokens_read`; longer texts are cut at
            their end, never the question. How many were is said.
        runtime: device, batching and progress.
        bf16: load and run the model in bfloat16.

    Raises:
        UserError: if the folder holds no decoder, or the question leaves no room for a text.
        NotFinite: if the model gives numbers that are not finite.
    """
    tokenizer, most = load_tokenizer(folder), tokens_read(folder, max_tokens)
    prompts = _prompts(tokenizer, texts, question, most)
    if (cut := _cut(texts, prompts, most)).cut:
        runtime.say(
            f"warning: {cut.cut:,} of {cut.texts:,} texts were cut, so that text and question have at most {most} "
            "tokens; max_tokens=... reads more, where the model can"
        )
    model = load_language_model(folder, bf16=bf16).to(runtime.torch_device()).eval()
    words = _first_tokens(tokenizer, question)
    forward = _Forward(model, runtime.torch_device(), words)
    files = sorted([*folder.glob("*.safetensors"), folder / "config.json"]) if runtime.scratch else []
    made_of = f"asked {[known_sha256(file) for file in files]} {bf16} {words}"
    # The empty text calibrates the words.
    rows = [*prompts, *_prompts(tokenizer, [""], question, most)]
    joined = over_batches(forward, rows, forward.width, runtime, runtime.report, made_of, lambda row: len(row.tokens))
    of_texts, of_nothing = joined[:-1], joined[-1:]
    d = forward.dim
    views = {name: np.ascontiguousarray(of_texts[:, i * d : (i + 1) * d]) for i, name in enumerate(ASKED)}
    logs = np.ascontiguousarray(of_texts[:, len(ASKED) * d :])
    if len(set(words)) < len(words):
        runtime.say(
            "warning: the words of some classes begin with the same token, so that this pass cannot tell what the "
            "model would answer; words=... gives others"
        )
        return views
    return {**views, "words": logs, "words_calibrated": logs - of_nothing[:, len(ASKED) * d :]}


def measure_asking(folder: Path, texts: Sequence[str], question: Question, max_tokens: int | None) -> Cut:
    """How much of the texts the model in ``folder`` reads inside the question."""
    most = tokens_read(folder, max_tokens)
    return _cut(texts, _prompts(load_tokenizer(folder), texts, question, most), most)


def cut_text(tokenizer: Any, text: str, max_tokens: int) -> str:
    """The first tokens of a text, as text; a text that is short enough stays as it is."""
    marks = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)["offset_mapping"]
    return text if len(marks) <= max_tokens else text[: marks[max_tokens - 1][1]]


# --- prompts ----------------------------------------------------------------------------------------------------------


def _prompts(tokenizer: Any, texts: Sequence[str], question: Question, max_tokens: int) -> list[_Prompt]:
    """Each text inside the question, in at most ``max_tokens`` tokens: the text is cut at its end.

    Text and question are turned into tokens as a whole, since tokens may reach over their borders.
    """
    distinct = list(dict.fromkeys(texts))
    made = dict(zip(distinct, _tokenized(tokenizer, distinct, question), strict=True))
    for text in (text for text in distinct if len(made[text].tokens) > max_tokens):
        made[text] = _shortened(tokenizer, text, question, max_tokens)
    return [made[text] for text in texts]


def _tokenized(tokenizer: Any, texts: Sequence[str], question: Question) -> list[_Prompt]:
    before, after = question.around
    if not texts:
        return []
    whole = [f"{before}{text}{after}" for text in texts]
    encoded = tokenizer(whole, return_offsets_mapping=True, truncation=False, padding=False, verbose=False)
    closing = {t for t in (tokenizer.eos_token_id, tokenizer.sep_token_id) if t is not None}
    prompts = []
    for text, ids, marks in zip(texts, encoded["input_ids"], encoded["offset_mapping"], strict=True):
        tokens = ids[:-1] if len(ids) > 1 and ids[-1] in closing else ids  # the text goes on with the answer
        begin, end = len(before), len(before) + len(text)
        inside = [i for i, (a, b) in enumerate(marks[: len(tokens)]) if a < end and b > begin and b > a]
        first, last = (inside[0], inside[-1] + 1) if inside else (0, 0)
        prompts.append(_Prompt(tuple(tokens), first, last, is_cut=False))
    return prompts


def _shortened(tokenizer: Any, text: str, question: Question, max_tokens: int) -> _Prompt:
    (bare,) = _tokenized(tokenizer, [""], question)
    room = max_tokens - len(bare.tokens)
    while room > 0:
        (prompt,) = _tokenized(tokenizer, [cut_text(tokenizer, text, room)], question)
        if (surplus := len(prompt.tokens) - max_tokens) <= 0:
            return prompt._replace(is_cut=True)
        room -= surplus  # a token more or less where text and question meet
    raise UserError(
        f"max_tokens={max_tokens} leaves no room for a text: the question alone has {len(bare.tokens)} tokens; give "
        f"at least max_tokens={len(bare.tokens) + 8}, or a shorter question"
    )


def _cut(texts: Sequence[str], prompts: Sequence[_Prompt], max_tokens: int) -> Cut:
    sources: dict[Tokens, set[str]] = {}
    for text, prompt in zip(texts, prompts, strict=True):
        if prompt.is_cut:
            sources.setdefault(prompt.tokens, set()).add(text)
    cut = [prompt for prompt in prompts if prompt.is_cut]
    return Cut(max_tokens, len(texts), len(cut), sum(len(sources[prompt.tokens]) > 1 for prompt in cut))


def _first_tokens(tokenizer: Any, question: Question) -> tuple[int, ...]:
    """The first token of each word as it would follow the question: the first that differs from the question's own."""
    _, after = question.around
    tail, *rest = (
        tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        for text in (after, *(f"{after} {word}" for word in question.words))
    )
    return tuple(next((t for t, own in zip(row, [*tail, None], strict=False) if t != own), row[-1]) for row in rest)


# --- the pass ---------------------------------------------------------------------------------------------------------


class _Forward:
    """One batch of prompts through the model: states at some depths, and the next token's probabilities."""

    def __init__(self, model: Any, device: str, words: tuple[int, ...]) -> None:
        self.model, self.device = model, device
        self.words = torch.tensor(words, device=device)
        body = model.base_model
        depth: int = body.config.num_hidden_layers
        self.dim: int = body.config.hidden_size
        self.width = len(ASKED) * self.dim + len(words)
        self.packs = can_pack(body, self._padded)
        self.caught: dict[int, Tensor] = {}
        self.at = {view: math.ceil(depth * share) for view, share in _DEPTHS.items()} | {"asked_last": depth}
        for number in {place for place in self.at.values() if place < depth}:
            layers_of(body)[number - 1].register_forward_hook(self._catch(number))
        # The last layer's output is taken after the final norm, which is outside the layer itself.
        body.register_forward_hook(lambda module, given, output: self.caught.update({depth: output[0]}))

    def _catch(self, number: int) -> Any:
        def catch(module: nn.Module, given: Any, output: Any) -> None:
            self.caught[number] = output if isinstance(output, Tensor) else output[0]

        return catch

    def _padded(self, rows: Sequence[Sequence[int]]) -> Tensor:
        batch = pad([tuple(row) for row in rows], self.device)
        states: Tensor = self.model.base_model(input_ids=batch.ids, attention_mask=batch.mask).last_hidden_state
        return states[batch.mask.bool()]

    def __call__(self, prompts: Sequence[_Prompt]) -> Tensor:
        """(n, width): the views of ``ASKED`` in their order, and the words' log probabilities."""
        rows = [prompt.tokens for prompt in prompts]
        lengths = torch.tensor([len(row) for row in rows], device=self.device)
        if self.packs:
            packed = pack(rows, self.device)
            starts, last = packed.starts[:-1].long(), packed.last().long()
            given = {"input_ids": packed.ids, "position_ids": packed.positions, "packed": packed}
            logits = self.model(**given, logits_to_keep=last).logits[0]
        else:
            batch = pad(rows, self.device)
            starts = torch.arange(len(rows), device=self.device) * batch.ids.shape[1]
            last = starts + lengths - 1
            ends, place = torch.unique(lengths - 1, return_inverse=True)  # logits only where a prompt ends
            found = self.model(input_ids=batch.ids, attention_mask=batch.mask, logits_to_keep=ends).logits
            logits = found[torch.arange(len(rows), device=self.device), place]
        spans = [(p.first, p.end) if p.end > p.first else (0, len(p.tokens)) for p in prompts]
        inside = [slice(s + first, s + end) for s, (first, end) in zip(starts.tolist(), spans, strict=True)]
        states = {number: found.reshape(-1, self.dim) for number, found in self.caught.items()}
        views = {view: states[number][last].float() for view, number in self.at.items()}
        for view, source in (("asked_mean", "asked"), ("asked_mean_last", "asked_last")):
            of_all = states[self.at[source]]
            views[view] = torch.stack([of_all[part].float().mean(dim=0) for part in inside])
        logs = logits.float().log_softmax(dim=-1)[:, self.words]
        return torch.cat([*(views[view] for view in ASKED), logs], dim=1)
