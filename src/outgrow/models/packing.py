"""Batches without padding: the texts of a batch are concatenated, and no text sees another.

Linear layers then work on real tokens only. Attention is computed within each text, through transformers' interface for
attention functions: texts of one length together, and in training, where a random batch has many lengths, texts of
similar length, padded for this one product. On a GPU in half precision, torch's own kernel for texts of different
lengths does it. Where the head reads one token of each text, the last layer's feed-forward part, and BERT's queries,
are computed for those tokens only.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from itertools import groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

__all__ = ["Packed", "can_pack", "layers_of", "let_attention_be", "pack", "run_packed"]

_NAME = "outgrow_packed"
_CLOSE = 1e-3
"""Largest difference between a packed and a padded pass of the same texts in float32, relative to the states' norm."""
_CLOSE_IN_HALF = 0.05
"""The same in half precision, whose numbers have two to three digits; positions that start elsewhere differ by more."""


class Packed(NamedTuple):
    """Concatenated texts."""

    ids: Tensor
    """(1, tokens) int64."""
    positions: Tensor
    """(1, tokens) int64: the position of each token in its own text."""
    starts: Tensor
    """(n + 1,) int32: where each text starts, and the end."""
    runs: tuple[tuple[int, int], ...]
    """Neighbors of the same length: how many texts, and their length."""

    @property
    def longest(self) -> int:
        """Tokens of the longest text."""
        return max(length for _, length in self.runs)

    def first(self) -> Tensor:
        """Place of each text's first token (n,)."""
        return self.starts[:-1]

    def last(self) -> Tensor:
        """Place of each text's last token (n,)."""
        return self.starts[1:] - 1

    def means(self, hidden: Tensor) -> Tensor:
        """Means over each text's tokens: (tokens, d) -> (n, d)."""
        sizes = [count * length for count, length in self.runs]
        parts = zip(torch.split(hidden, sizes), self.runs, strict=True)
        return torch.cat([part.view(count, length, -1).mean(dim=1) for part, (count, length) in parts])


def pack(rows: Sequence[Sequence[int]], device: str) -> Packed:
    """Concatenate token rows in their order. Rows sorted by length make the longest runs, and so the least work."""
    lengths = [len(row) for row in rows]
    ids = torch.tensor([token for row in rows for token in row])[None]
    positions = torch.cat([torch.arange(length) for length in lengths])[None]
    starts = torch.tensor([0, *lengths]).cumsum(0, dtype=torch.int32)
    runs = tuple((len(list(same)), length) for length, same in groupby(lengths))
    return Packed(ids.to(device), positions.to(device), starts.to(device), runs)


def layers_of(body: Any) -> nn.ModuleList:
    """The layers of an encoder or decoder, from first to last."""
    depth = body.config.num_hidden_layers
    return next(m for m in body.modules() if isinstance(m, nn.ModuleList) and len(m) == depth)


def can_pack(body: Any, padded: Callable[[Sequence[Sequence[int]]], Tensor]) -> bool:
    """Prepare ``body`` for :func:`run_packed` and return whether that works; otherwise leave it as it was.

    A model qualifies if its attention goes through transformers' interface, and if short texts give the same packed as
    padded. That shows positions that start elsewhere (RoBERTa), attention biases (MPNet) and anything else.

    Args:
        body: a model in float32, without cache.
        padded: gives the last layer's hidden states (all tokens, d) of token rows run with padding, without the
            padding.
    """
    if not getattr(body, "_supports_attention_backend", False):
        return False
    from transformers import AttentionInterface

    AttentionInterface.register(_NAME, _attention)
    top = body.config.vocab_size - 1
    rows = [[min(top, 3 + 7 * i % 11) for i in range(length)] for length in (5, 3, 3)]
    before = body.config._attn_implementation
    with torch.no_grad():
        expected = padded(rows)
        batch = pack(rows, str(expected.device))
        body.set_attn_implementation(_NAME)
        try:
            found = run_packed(body, batch)
        except (RuntimeError, TypeError):  # also raised by _attention for what it does not support
            found = None
        if found is not None and _close(found, expected):
            _shorten_last_layer(body, batch, found)
            return True
    body.set_attn_implementation(before)
    return False


def _close(found: Tensor, expected: Tensor) -> bool:
    close = _CLOSE if found.dtype == torch.float32 else _CLOSE_IN_HALF
    return found.shape == expected.shape and float((found - expected).norm() / expected.norm()) < close


def let_attention_be() -> None:
    """Keep torch.compile out of the attention: it would recompile for the text lengths of every batch."""
    from transformers import AttentionInterface

    AttentionInterface.register(_NAME, torch.compiler.disable(_attention))  # type: ignore[no-untyped-call]


def run_packed(body: Any, batch: Packed, only: Tensor | None = None) -> Tensor:
    """Hidden states after the last layer (tokens, d), or (n, d) for the tokens at the places ``only`` (n,)."""
    hidden: Tensor = body(
        input_ids=batch.ids,
        position_ids=batch.positions,
        packed=batch,
        **({} if only is None else {"only": only}),
    ).last_hidden_state
    hidden = hidden.squeeze(0)
    return hidden if only is None or len(hidden) == len(only) else hidden.index_select(0, only)


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    packed: Packed,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    is_causal: bool | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attention within each text. ``query`` is (1, heads, tokens, d), or (1, heads, n, d) with one query per text that
    sees the whole text. ``key`` and ``value`` may have fewer heads."""
    if any(others.get(name) is not None for name in ("softcap", "s_aux", "head_mask", "position_bias")):
        raise NotImplementedError("an attention with more than scores and values")
    causal = bool(getattr(module, "is_causal", False)) if is_causal is None else is_causal
    window = sliding_window if sliding_window and packed.longest > sliding_window else None
    q, k, v = (t.squeeze(0).transpose(0, 1) for t in (query, key, value))
    if q.is_cuda and q.dtype in (torch.float16, torch.bfloat16) and not dropout:
        out = _varlen(q, k, v, packed, scaling, causal, window)
    elif module.training and window is None:
        out = _by_groups(q, k, v, packed, scaling, causal, dropout)
    else:
        out = _by_runs(q, k, v, packed, scaling, causal, window, dropout)
    return out[None], None


def _by_runs(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    packed: Packed,
    scaling: float | None,
    causal: bool,
    window: int | None,
    dropout: float,
) -> Tensor:
    """One call for all neighbors of the same length. Everything is (tokens, heads, d), or ``q`` (n, heads, d)."""
    sizes = [count * length for count, length in packed.runs]
    asking = sizes if len(q) == len(k) else [count for count, _ in packed.runs]
    pieces = []
    for (count, length), *parts in zip(
        packed.runs, torch.split(q, asking), torch.split(k, sizes), torch.split(v, sizes), strict=True
    ):
        mask = None
        if window is not None and length > window:
            place = torch.arange(length, device=q.device)
            back = place[:, None] - place[None, :]
            mask = (back < window) & (back >= 0) if causal else back.abs() < window
        pieces.append(_attended(parts, count, mask, scaling, causal, dropout))
    return torch.cat(pieces)


def _by_groups(
    q: Tensor, k: Tensor, v: Tensor, packed: Packed, scaling: float | None, causal: bool, dropout: float
) -> Tensor:
    """One call for neighbors of similar length, the shorter ones padded. Everything is (tokens, heads, d), or ``q``
    (n, heads, d).

    Calls for few texts cost more overhead than work. Padding comes last, where causal attention does not look.
    """
    groups, *at = _layout(packed.runs)
    places, gaps = (t.to(q.device) for t in at)
    sizes = [len(lengths) * max(lengths) for lengths in groups]
    all_ask = len(q) == len(k)
    asking = sizes if all_ask else [len(lengths) for lengths in groups]
    k, v = (_Spread.apply(t, places, gaps) for t in (k, v))  # type: ignore[no-untyped-call]
    if all_ask:
        q = _Spread.apply(q, places, gaps)  # type: ignore[no-untyped-call]
    pieces = []
    for lengths, *parts in zip(
        groups, torch.split(q, asking), torch.split(k, sizes), torch.split(v, sizes), strict=True
    ):
        longest = max(lengths)
        mask = None
        if not causal and min(lengths) < longest:
            mask = torch.arange(longest, device=q.device) < torch.tensor(lengths, device=q.device)[:, None, None, None]
        pieces.append(_attended(parts, len(lengths), mask, scaling, causal, dropout))
    out = torch.cat(pieces)
    if all_ask:
        out = _Gather.apply(out, places, gaps)  # type: ignore[no-untyped-call]
    return out


def _attended(
    parts: Sequence[Tensor],
    texts: int,
    mask: Tensor | None,
    scaling: float | None,
    causal: bool,
    dropout: float,
) -> Tensor:
    """Attention within texts of one length: queries, keys and values are (texts * length, heads, d). There may be fewer
    queries than keys, the same number for each text."""
    queries, keys, values = (p.view(texts, -1, *p.shape[1:]).transpose(1, 2) for p in parts)
    found = nn.functional.scaled_dot_product_attention(
        queries,
        keys,
        values,
        attn_mask=mask,
        dropout_p=dropout,
        is_causal=causal and mask is None,
        scale=scaling,
        enable_gqa=queries.shape[1] != keys.shape[1],
    )
    return found.transpose(1, 2).flatten(0, 1)


@lru_cache(maxsize=16)
def _layout(runs: tuple[tuple[int, int], ...]) -> tuple[list[list[int]], Tensor, Tensor]:
    """Groups of neighboring texts, as lengths, the longest at most 1.5 times the shortest; the place of each token
    once the texts of a group are padded to its longest; and the places left empty."""
    groups: list[list[int]] = []
    for length in [length for count, length in runs for _ in range(count)]:
        if groups and 2 * max(*groups[-1], length) <= 3 * min(*groups[-1], length):
            groups[-1].append(length)
        else:
            groups.append([length])
    filled = torch.cat([(torch.arange(max(g)) < torch.tensor(g)[:, None]).flatten() for g in groups])
    return groups, filled.nonzero().squeeze(1), filled.logical_not().nonzero().squeeze(1)


def _placed(rows: Tensor, places: Tensor, gaps: Tensor) -> Tensor:
    """A table with the rows (n, ...) at ``places`` and zeros in the ``gaps``."""
    table = rows.new_empty(len(places) + len(gaps), *rows.shape[1:])
    return table.index_copy_(0, places, rows).index_fill_(0, gaps, 0)


class _Spread(torch.autograd.Function):
    """Put rows at their places. Autograd's own backward pass would add rows one by one."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, places: Tensor, gaps: Tensor) -> Tensor:
        ctx.save_for_backward(places)
        return _placed(rows, places, gaps)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gradient.index_select(0, ctx.saved_tensors[0]), None, None


class _Gather(torch.autograd.Function):
    """Take the rows from their places, each of which is used once."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, places: Tensor, gaps: Tensor) -> Tensor:
        ctx.save_for_backward(places, gaps)
        return table.index_select(0, places)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return _placed(gradient, *ctx.saved_tensors), None, None


def _varlen(
    q: Tensor, k: Tensor, v: Tensor, packed: Packed, scaling: float | None, causal: bool, window: int | None
) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    starts, longest = packed.starts, packed.longest
    reach = longest if window is None else window - 1
    sides = (-1 if window is None else reach, 0 if causal else -1 if window is None else reach)
    asking, most = starts, longest
    if len(q) < len(k):
        asking, most = torch.arange(len(starts), dtype=starts.dtype, device=starts.device), 1
    out = varlen_attn(
        q, k, v, asking, starts, most, longest, scale=scaling, window_size=sides, enable_gqa=q.shape[1] != k.shape[1]
    )
    assert isinstance(out, Tensor)
    return out


# --- the last layer, where only some of its tokens are read -----------------------------------------------------------


def _shorten_last_layer(body: Any, batch: Packed, states: Tensor) -> None:
    """Let the last layer take ``only`` if it is built as in BERT or Llama; other layers compute every token.

    ``states`` are those of all tokens of ``batch``. A layer that gives others this way is left as it was.
    """
    layer: Any = layers_of(body)[-1]
    parts = {name for name, _ in layer.named_children()}
    if parts == {"attention", "intermediate", "output"} and not getattr(body.config, "is_decoder", False):
        shorter = partial(_as_in_bert, layer)
    elif parts == {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}:
        shorter = partial(_as_in_llama, layer)
    else:
        return
    whole = layer.forward

    def forward(hidden_states: Tensor, *rest: Any, only: Tensor | None = None, **named: Any) -> Any:
        if only is None:
            return whole(hidden_states, *rest, **named)
        return shorter(hidden_states, only, **named)

    layer.forward = forward
    only = batch.last()
    try:
        same = _close(run_packed(body, batch, only), states.index_select(0, only))
    except (AttributeError, RuntimeError, TypeError):
        same = False
    if not same:
        layer.forward = whole


def _as_in_bert(layer: Any, hidden: Tensor, only: Tensor, *, packed: Packed, **others: Any) -> Tensor:
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    inner, asking = layer.attention.self, hidden.index_select(1, only)
    q, k, v = (
        part(states).unflatten(-1, (-1, inner.attention_head_size)).transpose(1, 2)
        for part, states in ((inner.query, asking), (inner.key, hidden), (inner.value, hidden))
    )
    dropout = inner.dropout.p if inner.training else 0.0
    attended, _ = ALL_ATTENTION_FUNCTIONS[_NAME](
        inner, q, k, v, None, packed=packed, scaling=inner.scaling, dropout=dropout
    )
    found: Tensor = layer.feed_forward_chunk(layer.attention.output(attended.flatten(2), asking))
    return found


def _as_in_llama(layer: Any, hidden: Tensor, only: Tensor, **named: Any) -> Tensor:
    attended, _ = layer.self_attn(hidden_states=layer.input_layernorm(hidden), **named)
    kept = hidden.index_select(1, only) + attended.index_select(1, only)
    found: Tensor = kept + layer.mlp(layer.post_attention_layernorm(kept))
    return found
