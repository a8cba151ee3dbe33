"""Pretrained transformers as encoders of texts: tokens, frozen features, and a classifier on the body.

The same code runs every encoder (BERT, MPNet) and decoder (GPT-2, Llama, Gemma) that transformers knows. Texts become
token rows by one rule (:func:`tokenize`). Rows become batches without padding where the model allows it
(:mod:`outgrow.models.packing`), else padded batches with a real attention mask (:func:`pad`). A row's result does not
depend on what it is batched with.
"""

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from outgrow.archives import known_sha256
from outgrow.errors import NotFinite, UserError, unknown_name
from outgrow.models.folder import reading_model
from outgrow.models.packing import Packed, can_pack, layers_of, let_attention_be, pack, run_packed
from outgrow.models.resume import KeptRows
from outgrow.runtime import Report, Runtime

__all__ = [
    "Batch",
    "Classifier",
    "Tokens",
    "compile_layers",
    "extract",
    "load_classifier",
    "load_config",
    "load_language_model",
    "load_tokenizer",
    "measure_cut",
    "measure_reading",
    "over_batches",
    "pad",
    "quiet_transformers",
    "recompute_layers",
    "tokenize",
    "tokens_read",
]

Tokens = tuple[int, ...]
"""The token ids of one text; never empty."""

sys.modules.setdefault("kernels", None)  # type: ignore[arg-type]  # with this package, transformers runs code of the hub


_MOST_TOKENS = 512  # read by default: the positions of most encoders; a long text costs its length


class Batch(NamedTuple):
    """Token rows, padded on the right to the longest."""

    ids: Tensor
    """(n, t) int64."""
    mask: Tensor
    """(n, t) int64: 1 for tokens of the text, 0 for padding."""


# --- texts to batches -------------------------------------------------------------------------------------------------


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer in ``folder``. Code in the folder is never run."""
    from transformers import AutoTokenizer

    with reading_model(folder):
        return AutoTokenizer.from_pretrained(_existing(folder), local_files_only=True, trust_remote_code=False)


def load_config(folder: Path) -> Any:
    """The settings of the model in ``folder``. Code in the folder is never run."""
    from transformers import AutoConfig

    with reading_model(folder):
        return AutoConfig.from_pretrained(_existing(folder), local_files_only=True, trust_remote_code=False)


def tokenize(tokenizer: Any, texts: Sequence[str], max_tokens: int) -> list[Tokens]:
    """Token ids of each text: its first ``max_tokens`` tokens, including special tokens such as [CLS] and [SEP].

    No text is dropped. (The released code drops long ones per tokenizer, so it scores models on different rows.) A
    text without any token, as "" is for GPT-2, becomes one token: the first the tokenizer has of bos, cls, eos and
    pad, else id 0.

    Raises:
        UserError: if ``max_tokens`` leaves no room for text beside the special tokens.
    """
    specials = tokenizer.num_special_tokens_to_add()
    if max_tokens <= specials:
        raise UserError(
            f"max_tokens={max_tokens} leaves no room for text; this tokenizer needs at least {specials + 1}"
        )
    if not texts:
        return []
    tokenizer.truncation_side = "right"
    encoded = tokenizer(list(texts), truncation=True, max_length=max_tokens, padding=False)["input_ids"]
    candidates = (tokenizer.bos_token_id, tokenizer.cls_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, 0)
    stand_in = next(c for c in candidates if c is not None)
    return [tuple(row) or (stand_in,) for row in encoded]


class Cut(NamedTuple):
    """How much of some texts a model reads."""

    max_tokens: int
    texts: int
    cut: int
    """Texts that have more than ``max_tokens`` tokens."""
    identical: int
    """Texts that differ from another one only in what was cut."""

    def __str__(self) -> str:
        same = f", {self.identical:,} became identical" if self.identical else ""
        return f"{self.cut:,} of {self.texts:,} texts were cut to their first {self.max_tokens} tokens{same}"


def measure_cut(tokenizer: Any, texts: Sequence[str], rows: Sequence[Tokens], max_tokens: int) -> Cut:
    """What cutting these texts to ``rows`` left out. Tokenizes again only the texts that may be longer."""
    full = [i for i, row in enumerate(rows) if len(row) >= max_tokens]
    whole = (
        tokenizer([texts[i] for i in full], truncation=False, padding=False, verbose=False)["input_ids"] if full else []
    )
    sources: dict[Tokens, set[Tokens]] = {}
    for i, row in zip(full, whole, strict=True):
        sources.setdefault(rows[i], set()).add(tuple(row))
    identical = sum(len(sources[rows[i]]) > 1 for i in full)
    return Cut(max_tokens, len(texts), sum(len(row) > max_tokens for row in whole), identical)


def measure_reading(folder: Path, texts: Sequence[str], max_tokens: int | None) -> Cut:
    """How much of the texts the model in ``folder`` reads."""
    tokenizer, most = load_tokenizer(folder), tokens_read(folder, max_tokens)
    return measure_cut(tokenizer, texts, tokenize(tokenizer, texts, most), most)


def tokens_read(folder: Path, max_tokens: int | None) -> int:
    """``max_tokens``, or by default 512, or fewer if the model in ``folder`` can take no more."""
    if max_tokens is not None:
        return max_tokens
    from transformers import AutoConfig, AutoModel

    config = AutoConfig.from_pretrained(_existing(folder), local_files_only=True, trust_remote_code=False)
    with quiet_transformers(), torch.device("meta"):
        limit = _positions(AutoModel.from_config(config, trust_remote_code=False))
    return min(_MOST_TOKENS, limit or _MOST_TOKENS)


def pad(rows: Sequence[Tokens], device: str) -> Batch:
    """Pad on the right, whichever side the tokenizer prefers.

    Every text then starts at position 0 without position ids, and no token of a decoder sees the padding. The mask
    hides it from encoders and from pooling, so the id that fills it does not matter. It is 0, and a 0 within a text is
    still a token like any other. (The released code takes id 0 for padding.)
    """
    ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
        mask[i, : len(row)] = 1
    return Batch(ids.to(device), mask.to(device))


def over_batches(
    forward: Callable[[Sequence[Any]], Tensor],
    rows: Sequence[Any],
    width: int,
    runtime: Runtime,
    report: Report,
    model: str | None = None,
    size: Callable[[Any], int] = len,
) -> npt.NDArray[np.float32]:
    """``forward`` (n rows -> (n, width)) of every row, in their order, without gradients: (n, width) float32.

    Equal rows are computed once. Rows of similar length share a batch of at most ``runtime.token_budget()`` tokens,
    longest first, so that a batch too large for memory fails at once. Which rows share a batch depends on the set of
    rows, not on their order. If ``model`` identifies what ``forward`` is made of, finished rows are kept in
    ``runtime.scratch``, and a killed pass continues from there, to the same bits. A row is its tokens, or anything
    else that can be sorted and has ``size`` tokens.

    Raises:
        NotFinite: at the first batch with a number that is not finite.
    """
    distinct = sorted(set(rows), key=lambda row: (-size(row), row))
    out = np.empty((len(distinct), width), dtype=np.float32)
    budget = runtime.token_budget()
    kept = None
    if model is not None and runtime.scratch is not None:
        kept = KeptRows(runtime.scratch, model, distinct, width, budget, runtime.torch_device())
    done = kept.read(out) if kept else 0
    at = [0, *accumulate(map(size, distinct))]
    with torch.inference_mode():
        while done < len(distinct):
            here = distinct[done : done + max(1, budget // size(distinct[done]))]
            out[done : done + len(here)] = forward(here).float().cpu().numpy()
            if len(wrong := np.flatnonzero(~np.isfinite(out[done : done + len(here)]).all(axis=1))):
                raise NotFinite(rows.index(here[wrong[0]]))  # before it is kept
            done += len(here)
            if kept:
                kept.write(out, done)
            report(at[done], at[-1], "tokens")  # not texts: the long ones come first
    place = {row: i for i, row in enumerate(distinct)}
    return out[[place[row] for row in rows]]


def _states(body: Any, batch: Batch | Packed) -> Tensor:
    """Hidden states after the last layer: (n, t, d) for a padded batch, (tokens, d) for a packed one."""
    if isinstance(batch, Packed):
        return run_packed(body, batch)
    states: Tensor = body(input_ids=batch.ids, attention_mask=batch.mask).last_hidden_state
    return states


def _packs(body: Any) -> bool:
    """Whether this model can run batches without padding; if so, it is prepared for that."""

    def padded(rows: Sequence[Sequence[int]]) -> Tensor:
        batch = pad([tuple(row) for row in rows], str(next(body.parameters()).device))
        return _states(body, batch)[batch.mask.bool()]

    return can_pack(body, padded)


def _pool(hidden: Tensor, batch: Batch | Packed, pooling: str) -> Tensor:
    """One vector per text from its hidden states, (n, d) float32, without the padding."""
    if isinstance(batch, Packed):
        if pooling == "mean":
            return batch.means(hidden.float())
        return hidden[batch.first() if pooling == "first" else batch.last()].float()
    mask = batch.mask
    if pooling == "first":
        return hidden[:, 0].float()
    lengths = mask.sum(dim=1)
    if pooling == "last":
        return hidden[torch.arange(len(hidden), device=hidden.device), lengths - 1].float()
    return torch.einsum("nt,ntd->nd", mask.float(), hidden.float()) / lengths[:, None]


# --- frozen features --------------------------------------------------------------------------------------------------


def extract(
    folder: Path, texts: Sequence[str], *, max_tokens: int | None, runtime: Runtime, bf16: bool = False
) -> dict[str, npt.NDArray[np.float32]]:
    """Frozen features of texts in one pass over the model: for each view an (n, d) float32 matrix.

    Views: ``last_token`` (last token of the text, last layer), ``mean`` (mean over the text's tokens, last layer),
    ``mid_mean`` (mean over the text's tokens after layer ceil(2/3 of the depth), where probes often read best). All are
    stored, so all layers always run. The same texts give the same bits. Batching and order change nothing beyond
    rounding (1e-5). With ``bf16`` the layers run in bfloat16; weights and pooling stay float32.

    ``max_tokens`` is as in :func:`tokens_read`. How many texts were cut is said.

    Raises:
        UserError: if the folder holds no usable model, or ``max_tokens`` is more or less than it can take.
        NotFinite: if the model gives numbers that are not finite.
    """
    device = runtime.torch_device()
    tokenizer = load_tokenizer(folder)
    body = _load_body(folder).to(device).eval()
    max_tokens = max_tokens or min(_MOST_TOKENS, _positions(body) or _MOST_TOKENS)
    _check_max_tokens(body, max_tokens)
    packs = _packs(body)
    depth = body.config.num_hidden_layers
    middle = math.ceil(depth * 2 / 3)
    caught: list[Tensor] = []

    def catch(module: nn.Module, arguments: Any, output: Any) -> None:
        caught.append(output if isinstance(output, Tensor) else output[0])

    def forward(rows: Sequence[Tokens]) -> Tensor:
        batch = pack(rows, device) if packs else pad(rows, device)
        with torch.autocast(torch.device(device).type, dtype=torch.bfloat16, enabled=bf16):
            last = _states(body, batch)
        # The last layer's output is taken after the final norm, which is outside the layer itself.
        mid = caught.pop().view_as(last) if middle < depth else last
        return torch.cat([_pool(last, batch, "last"), _pool(last, batch, "mean"), _pool(mid, batch, "mean")], dim=1)

    if middle < depth:
        layers_of(body)[middle - 1].register_forward_hook(catch)
    width = body.config.hidden_size
    rows = tokenize(tokenizer, texts, max_tokens)
    if (cut := measure_cut(tokenizer, texts, rows, max_tokens)).cut:
        runtime.say(f"warning: {cut}; max_tokens=... reads more, where the model can")
    files = sorted([*folder.glob("*.safetensors"), folder / "config.json"]) if runtime.scratch else []
    made_of = f"{[known_sha256(file) for file in files]} {bf16}"
    joined = over_batches(forward, rows, 3 * width, runtime, runtime.report, made_of)
    names = ("last_token", "mean", "mid_mean")
    return {name: np.ascontiguousarray(joined[:, i * width : (i + 1) * width]) for i, name in enumerate(names)}


# --- classifier -------------------------------------------------------------------------------------------------------


class Classifier(nn.Module):
    """A body without its language-model head, and a linear head to C logits over one pooled vector per text.

    ``pooling`` is ``last`` (the text's last token), ``mean``, ``first``, or ``auto``: ``last`` for decoders, where only
    the last token has seen the whole text, and ``mean`` for encoders. The head has no bias, as in the paper's released
    code. It starts at zero, or from the unembedding's rows of C label words (as is reported of Burns et al. 2023). With
    ``bf16`` the body runs in bfloat16 (weights stay float32). Pooling and head never do: logits rounded to bfloat16
    tie.
    """

    def __init__(self, body: Any, num_classes: int, *, pooling: str = "auto", bf16: bool = False) -> None:
        super().__init__()
        if pooling not in ("auto", "last", "first", "mean"):
            raise unknown_name("pooling", pooling, ("auto", "last", "first", "mean"))
        self.body: nn.Module = body
        self.head = nn.Linear(body.config.hidden_size, num_classes, bias=False)
        nn.init.zeros_(self.head.weight)
        self.pooling = pooling if pooling != "auto" else "mean" if _is_encoder(body.config) else "last"
        self.bf16 = bf16
        self.packs = _packs(body)

    def forward(self, rows: Sequence[Tokens]) -> Tensor:
        """Logits (n, C) float32 of n rows of tokens."""
        device = self.head.weight.device
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.bf16):
            if self.packs and self.pooling != "mean":
                packed = pack(rows, str(device))
                only = packed.first() if self.pooling == "first" else packed.last()
                pooled = run_packed(self.body, packed, only)
            else:
                batch = pack(rows, str(device)) if self.packs else pad(rows, str(device))
                pooled = _pool(_states(self.body, batch), batch, self.pooling)
        logits: Tensor = self.head(pooled.float())
        return logits


def load_classifier(
    folder: Path,
    num_classes: int,
    *,
    max_tokens: int,
    words: Sequence[str] = (),
    pooling: str = "auto",
    bf16: bool = False,
    dropout: bool = False,
) -> Classifier:
    """A classifier on the pretrained body in ``folder``, on the CPU; its head starts from ``words`` if there are any.

    Dropout is off unless asked for, as in the released code. The microbatch size then cannot change a result.

    Raises:
        UserError: if the folder holds no usable model, ``max_tokens`` is more than it can take, or the words do not
            fit: not one per class, not one token each, or the model has no unembedding.
    """
    if not words:
        classifier = Classifier(_load_body(folder, dropout=dropout), num_classes, pooling=pooling, bf16=bf16)
    elif len(words) != num_classes:
        raise UserError(f"{len(words)} label words for {num_classes} classes; give one for each class, in order")
    else:
        body, rows = _load_with_words(folder, words, dropout=dropout)
        classifier = Classifier(body, num_classes, pooling=pooling, bf16=bf16)
        classifier.head.weight.data.copy_(rows)
    _check_max_tokens(classifier.body, max_tokens)
    return classifier


def recompute_layers(body: Any) -> None:
    """Gradient checkpointing: keep only each layer's input, and run the layer again in the backward pass.

    Transformers' own switch is missing in some models (MPNet), does nothing in eval() (the released code never
    noticed), and changes its name between versions.
    """
    for layer in layers_of(body):
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)


def compile_layers(body: Any, runtime: Runtime) -> None:
    """Compile each layer for batches of any shape. If torch.compile does not work here, say so and change nothing.

    Call it before :func:`recompute_layers` and sharding, which then work on compiled layers.
    """
    try:
        torch.compile(torch.sin)(torch.ones(2, device=runtime.torch_device()))
    except RuntimeError as error:
        cause = getattr(error, "inner_exception", error)  # torch wraps what its backend raised
        reason = next((line for line in str(cause).splitlines() if line.strip()), type(cause).__name__)
        runtime.say(f"nothing is compiled: torch.compile does not work here ({reason.strip()})")
        return
    let_attention_be()
    for layer in layers_of(body):
        layer.forward = torch.compile(layer.forward, dynamic=True)


def _load_body(folder: Path, *, dropout: bool = False) -> Any:
    """The model in ``folder`` without its language-model head, float32, on the CPU, without dropout unless asked for.

    Raises:
        UserError: if there is no model, it is an encoder-decoder, or weights are missing (they would be random).
    """
    from transformers import AutoModel

    body = _load(AutoModel, folder, dropout)
    if isinstance(getattr(body, "pooler", None), nn.Module):
        # BERT's own pooler is not used here. Many checkpoints lack it, and its weights would be random.
        body.pooler = None
    return body


def _load_with_words(folder: Path, words: Sequence[str], *, dropout: bool = False) -> tuple[Any, Tensor]:
    """The body of a decoder, and the rows (C, d) of its unembedding for C label words.

    Raises:
        UserError: as in :func:`_load_body`; if the model is an encoder; if a word is not exactly one token.
    """
    from transformers import AutoModelForCausalLM

    if _is_encoder(load_config(folder)):
        raise UserError(f"the model in {folder} is an encoder and has no unembedding to take words from; use head=zero")
    tokenizer = load_tokenizer(folder)
    tokens = [tokenizer(word, add_special_tokens=False)["input_ids"] for word in words]
    for word, ids in zip(words, tokens, strict=True):
        if len(ids) != 1 or ids[0] == tokenizer.unk_token_id:
            raise UserError(
                f"the label word {word!r} is {len(ids)} tokens to this model, or unknown to it; each must be one token "
                "(a leading space may help: ' no'), or use head=zero"
            )
    model = _load(AutoModelForCausalLM, folder, dropout)
    rows: Tensor = model.get_output_embeddings().weight.detach()[[ids[0] for ids in tokens]].clone()
    return model.base_model, rows


def load_language_model(folder: Path, *, bf16: bool = False) -> Any:
    """The decoder in ``folder`` with its language-model head, float32 or bfloat16, on the CPU, without dropout.

    Raises:
        UserError: as for a classifier, and for an encoder, which cannot write.
    """
    from transformers import AutoModelForCausalLM

    if _is_encoder(load_config(folder)):
        raise UserError(f"the model in {folder} is an encoder, which cannot write; take a decoder (GPT-2, Llama)")
    return _load(AutoModelForCausalLM, folder, dropout=False, bf16=bf16)


def _is_encoder(config: Any) -> bool:
    """Whether every token sees the whole text (BERT, MPNet), and not only what precedes it (GPT-2, Llama)."""
    from transformers import MODEL_FOR_MASKED_LM_MAPPING

    return type(config) in MODEL_FOR_MASKED_LM_MAPPING


def _check_max_tokens(body: Any, max_tokens: int) -> None:
    """Fail if the model has fewer positions than ``max_tokens``."""
    limit = _positions(body)
    if limit is not None and max_tokens > limit:
        raise UserError(f"max_tokens={max_tokens} is more than this model can take; use at most max_tokens={limit}")


def _positions(body: Any) -> int | None:
    """How many tokens the model can take, None for any number. Models like RoBERTa count from padding + 1."""
    limit: int | None = getattr(body.config, "max_position_embeddings", None)
    if limit is None:
        return None
    for name, module in body.named_modules():
        if isinstance(module, nn.Embedding) and "position" in name and module.padding_idx is not None:
            limit = module.num_embeddings - module.padding_idx - 1
    return limit


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers' progress bars and notes off the terminal while a model loads; what matters is our error."""
    from transformers.utils import logging

    bars, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _load(auto: Any, folder: Path, dropout: bool, *, bf16: bool = False) -> Any:
    config = load_config(folder)
    if config.is_encoder_decoder:
        raise UserError(f"the model in {folder} is an encoder-decoder; use an encoder or a decoder")
    if not dropout:
        # Set in the config and not with eval(), because gradient checkpointing only works in train().
        for name, value in config.to_dict().items():
            if "drop" in name and isinstance(value, float):
                setattr(config, name, 0.0)
    config.use_cache = False
    # A pooler that a checkpoint lacks is drawn at random.
    with reading_model(folder), quiet_transformers(), torch.random.fork_rng(devices=[]):
        model, info = auto.from_pretrained(
            folder,
            config=config,
            dtype=torch.bfloat16 if bf16 else torch.float32,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    missing = sorted(key for key in info["missing_keys"] if not key.startswith("pooler."))
    if missing:
        raise UserError(
            f"the weights in {folder} are incomplete: {len(missing)} are missing, the first is {missing[0]}"
        )
    return model


def _existing(folder: Path) -> Path:
    if not (folder / "config.json").is_file():
        raise UserError(f"no model in {folder}: it has no config.json")
    return folder
