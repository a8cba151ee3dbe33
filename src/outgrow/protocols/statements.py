"""A language model argues in writing: a statement for each class of each text, and what the model itself believes.

Debates and advice in sentences, for judges that have not read the text (Khan et al. 2024, arXiv 2402.06782; Kenton et
al. 2024, arXiv 2407.04622). Everything is greedy, and finished batches are kept, so that a killed run continues.
"""

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from outgrow.data import Examples, Split
from outgrow.engine.graph import step
from outgrow.errors import UserError
from outgrow.models.spec import ModelSpec
from outgrow.runtime import Runtime, beside

__all__ = ["argue_in_writing", "unread"]

_ARGUE = "Which facts in the text speak for the answer {label}? State them in one short sentence."
_ASK = "What is the answer, {labels}? Answer with one word."
_TOGETHER = 8
"""Texts in a batch: part of what is computed, as padding rounds. Weights are read once for all of them."""


@step(version=1, said="write statements")
def argue_in_writing(
    model: ModelSpec,
    texts: Examples,
    split: Split,
    part: str,
    first: int,
    rows: int,
    max_tokens: int,
    max_answer: int,
    runtime: Runtime,
) -> Examples:
    """Some rows of a part, each with one sentence for each class that argues for it, as a choice.

    The rows are ``rows`` from row ``first`` of the part on. The model reads the text cut to its first ``max_tokens``
    tokens, and writes the most probable tokens, at most ``max_answer``; a sentence that is cut there stays as it is.
    Meta columns: ``belief.0`` and on, the log-probability of each class's first token where the model is asked for the
    answer; ``cut.0`` and on, 1 where the sentence reached the limit; ``text_cut``. The notes count what was cut; the
    rate is said.

    Raises:
        UserError: for rows that are no texts, or a model that cannot write.
    """
    if texts.form != "text":
        raise UserError(f"statements argue for the classes of a text, and the task's rows are {texts.form}s")
    chosen = texts.take(split.parts[part][first : first + rows])
    began = time.monotonic()
    writer = _Writer(model, chosen.classes, max_tokens, max_answer, runtime)
    order = sorted(range(len(chosen)), key=lambda i: -len(chosen.texts[i]))
    made: dict[int, _Written] = {}
    fresh = 0
    for at in range(0, len(order), _TOGETHER):
        here = order[at : at + _TOGETHER]
        found, is_new = writer.kept([chosen.texts[i] for i in here])
        made |= dict(zip(here, found, strict=True))
        fresh += is_new * sum(sum(w.tokens) for w in found)
        runtime.report(len(made), len(chosen), "texts")
    written, seconds = [made[i] for i in range(len(chosen))], time.monotonic() - began
    notes = _notes(written, model, max_tokens, max_answer)
    for note in (*notes, f"{fresh:,} tokens in {seconds:.0f} s: {fresh / seconds:.1f} a second, reading included"):
        runtime.say(note)
    return replace(
        chosen,
        inputs=tuple(w.sentences for w in written),
        meta=_columns(written, len(chosen.classes)),
        notes=notes,
    )


@step(version=1, said="hide texts")
def unread(texts: Examples) -> Examples:
    """What a judge knows that has not read the passage: each text up to its last labeled part, such as ``Passage:``.

    Raises:
        UserError: if a text has no second labeled part.
    """
    heads = []
    for i, text in enumerate(texts.texts):
        labeled = [line for line in text.splitlines() if line.partition(":")[1] and " " not in line.partition(":")[0]]
        where = next((line for line in labeled[1:] if line.startswith(PASSAGES)), None)
        if where is None:
            raise UserError(
                f"the row {str(texts.ids[i])!r} has no part that begins with {', '.join(PASSAGES)}; take a task of "
                "questions about a text, such as boolq, quail or dream"
            )
        heads.append(text.partition(f"\n{where}")[0])
    return replace(texts, inputs=tuple(heads))


PASSAGES = ("Passage:", "Dialogue:", "Text:")
"""How the part of a text begins that a judge does not read."""


class _Written(NamedTuple):
    """What was written of one text."""

    sentences: tuple[str, ...]
    tokens: tuple[int, ...]
    """Of each sentence."""
    cut: tuple[bool, ...]
    belief: tuple[float, ...]
    text_cut: bool


def _columns(written: Sequence[_Written], num_classes: int) -> dict[str, Any]:
    meta: dict[str, Any] = {"text_cut": np.array([int(w.text_cut) for w in written], dtype=np.int64)}
    for c in range(num_classes):
        meta[f"belief.{c}"] = np.array([w.belief[c] for w in written], dtype=np.float64)
        meta[f"cut.{c}"] = np.array([int(w.cut[c]) for w in written], dtype=np.int64)
    return meta


def _notes(written: Sequence[_Written], model: ModelSpec, max_tokens: int, max_answer: int) -> tuple[str, ...]:
    sentences = [cut for w in written for cut in w.cut]
    empty = sum(not s for w in written for s in w.sentences)
    return (
        f"{model} wrote {len(sentences):,} statements of {sum(sum(w.tokens) for w in written):,} tokens on "
        f"{len(written):,} texts; {sum(sentences):,} were cut at {max_answer} tokens, {empty:,} are empty",
        f"{sum(w.text_cut for w in written):,} of {len(written):,} texts were cut to {max_tokens} tokens before",
    )


class _Writer:
    """Writes batch by batch, and keeps each finished batch in the runtime's scratch folder."""

    def __init__(
        self, model: ModelSpec, classes: tuple[str, ...], max_tokens: int, max_answer: int, runtime: Runtime
    ) -> None:
        from outgrow.models.transformer import load_tokenizer

        model.check_language_model("statements are written")
        self.model, self.classes, self.max_tokens, self.max_answer = model, classes, max_tokens, max_answer
        self.runtime, self.folder = runtime, model.folder(runtime)
        self.tokenizer = load_tokenizer(self.folder)
        self.loaded: Any = None

    def kept(self, texts: Sequence[str]) -> tuple[list[_Written], bool]:
        """What is written of these texts, from a file if it was written before; and whether it is new."""
        identity = [self.model.content, self.classes, self.max_tokens, self.max_answer, *texts]
        name = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:24]
        path: Path | None = self.runtime.scratch / f"written-{name}.json" if self.runtime.scratch else None
        if path is not None and path.is_file():
            rows = json.loads(path.read_text(encoding="utf-8"))
            return [_Written._make(tuple(v) if isinstance(v, list) else v for v in row) for row in rows], False
        written = self.write(texts)
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            with beside(path) as unfinished:
                unfinished.write_text(json.dumps(written), encoding="utf-8")
        return written, True

    def write(self, texts: Sequence[str]) -> list[_Written]:
        """Read each text once; from there, go on with a request for each class, and with a question for the answer."""
        import torch

        from outgrow.models.asked import cut_text
        from outgrow.models.transformer import load_language_model

        if self.loaded is None:
            loaded = load_language_model(self.folder, bf16=self.model.precision == "bf16")
            self.loaded = loaded.to(self.runtime.torch_device()).eval()
        short = [cut_text(self.tokenizer, text, self.max_tokens) for text in texts]
        opening, closing = self._chat()
        count = len(self.classes)
        requests = [_ARGUE.format(label=name) for name in self.classes] + [_ASK.format(labels=_listed(self.classes))]
        starts = [self._tokens(f"{opening}{text}") for text in short]
        ends = [self._tokens(f"\n\n{request}{closing}", special=False) for request in requests]
        with torch.inference_mode():
            pass_ = _Pass(self.loaded, starts)
            logits = pass_.fork(ends)  # (texts, classes + 1, vocabulary)
            told = logits[:, -1].float().log_softmax(dim=-1)[:, self._first_tokens()]
            pass_.keep([i * (count + 1) + c for i in range(len(texts)) for c in range(count)])
            rows = pass_.write(logits[:, :-1].flatten(0, 1), self._ends(), self.max_answer)
        made = []
        for i, text in enumerate(texts):
            own = rows[i * count : (i + 1) * count]
            sentences = tuple(self.tokenizer.decode(row.tokens, skip_special_tokens=True).strip() for row in own)
            facts = (tuple(len(row.tokens) for row in own), tuple(row.is_cut for row in own), tuple(told[i].tolist()))
            made.append(_Written(sentences, *facts, short[i] != text))
        return made

    def _chat(self) -> tuple[str, str]:
        """What comes before a text, and after a request, where the model was trained to converse."""
        if not getattr(self.tokenizer, "chat_template", None):
            return "", "\nAnswer:"
        turn = [{"role": "user", "content": "{content}"}]
        whole = self.tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
        before, _, after = whole.partition("{content}")
        return before, after

    def _tokens(self, text: str, *, special: bool = True) -> list[int]:
        special = special and not getattr(self.tokenizer, "chat_template", None)  # a template brings its own
        ids: list[int] = self.tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"]
        closing = {self.tokenizer.eos_token_id, self.tokenizer.sep_token_id}
        return ids[:-1] if special and len(ids) > 1 and ids[-1] in closing else ids  # the text goes on

    def _first_tokens(self) -> list[int]:
        """The first token of each class's name, capitalized as at the start of an answer if that tells them apart."""
        for form in (str.capitalize, str):
            spelled = [self._tokens(form(name), special=False)[0] for name in self.classes]
            if len(set(spelled)) == len(spelled):
                return spelled
        raise UserError(f"two of the classes {_listed(self.classes)} begin with the same token")

    def _ends(self) -> set[int]:
        """Tokens that end a statement: the end of text or turn, and any that holds a line break."""
        ends = {self.tokenizer.eos_token_id, self.tokenizer.convert_tokens_to_ids("<|im_end|>")}
        return {t for t in (*ends, *self._tokens("\n", special=False)) if t is not None}


class _Row(NamedTuple):
    tokens: list[int]
    is_cut: bool


class _Pass:
    """One batch through a language model. Rows are padded on the left, behind a mask."""

    def __init__(self, model: Any, starts: Sequence[Sequence[int]]) -> None:
        import torch

        self.model, self.device = model, model.device
        width = max(map(len, starts))
        ids = torch.tensor([[0] * (width - len(row)) + list(row) for row in starts], device=self.device)
        self.mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in starts], device=self.device)
        self.cache = self._step(ids, self.mask, None).past_key_values

    def fork(self, ends: Sequence[Sequence[int]]) -> Any:
        """Go on from each row with each of the endings: logits (n, endings, vocabulary) after them."""
        import torch

        n, count, width = len(self.mask), len(ends), max(map(len, ends))
        ids = torch.tensor([[0] * (width - len(row)) + list(row) for row in ends], device=self.device).repeat(n, 1)
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in ends], device=self.device)
        self.cache.batch_repeat_interleave(count)
        self.mask = torch.cat([self.mask.repeat_interleave(count, dim=0), mask.repeat(n, 1)], dim=1)
        logits = self._step(ids, self.mask, self.cache).logits[:, -1]
        return logits.view(n, count, -1)

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows only."""
        import torch

        kept = torch.tensor(rows, device=self.device)
        self.cache.batch_select_indices(kept)
        self.mask = self.mask[kept]

    def write(self, logits: Any, ends: set[int], most: int) -> list[_Row]:
        """The most probable tokens of each row, up to one that ends it, or ``most`` of them."""
        import torch

        rows: list[list[int]] = [[] for _ in self.mask]
        running = [True] * len(rows)
        for place in range(most + 1):
            chosen = logits.float().argmax(dim=-1)
            for i, token in enumerate(chosen.tolist()):
                running[i] = running[i] and token not in ends
                if running[i] and place < most:
                    rows[i].append(token)
            if not any(running) or place == most:
                break
            self.mask = torch.cat([self.mask, self.mask.new_ones(len(rows), 1)], dim=1)
            logits = self._step(chosen[:, None], self.mask, self.cache).logits[:, -1]
        return [_Row(row, is_cut) for row, is_cut in zip(rows, running, strict=True)]

    def _step(self, ids: Any, mask: Any, cache: Any) -> Any:
        places = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        return self.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=places,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )


def _listed(names: Sequence[str]) -> str:
    return " or ".join(names)
