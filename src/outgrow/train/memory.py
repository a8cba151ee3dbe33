"""How much memory finetuning needs, computed before any weight is loaded, and how many tokens fit at once.

The model is built from its config on torch's ``meta`` device, where tensors have shapes but no storage. One pass there
shows exactly what the backward pass would keep for each token, for any architecture.
"""

from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from outgrow.errors import UserError
from outgrow.models.packing import layers_of
from outgrow.models.transformer import load_config
from outgrow.runtime import Runtime
from outgrow.train import distributed
from outgrow.train.settings import FinetuneSettings

__all__ = ["MemoryPlan", "check_out_of_memory", "fewer_tokens", "memory_left", "plan_memory"]

_NAME = "outgrow_shapes"
_USED = 0.85
"""Share of the free memory that a plan may fill; the allocator wastes some of the rest."""
_PRODUCTS = (nn.functional.linear, torch.addmm, torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__, torch.bmm)
_TOKENS = 64
"""Length of the text that passes through the meta model."""


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """Bytes by purpose, and the tokens of one forward and backward pass."""

    weights: int
    gradients: int
    optimizer: int
    per_token: int
    """Bytes for each token that the backward pass keeps or works on."""
    available: int
    batch_tokens: int
    """Tokens of the largest batch."""
    longest: int
    """Tokens of the longest example, which cannot be split."""
    copies: int = 0
    """Copies of weights in bfloat16, which autocast keeps until the backward pass."""
    gathered: int = 0
    """Layers that are whole for a while, if the model is cut into pieces."""

    @property
    def fixed(self) -> int:
        """Bytes that do not depend on the microbatch."""
        return self.copies + self.weights + self.gradients + self.optimizer + self.gathered

    @property
    def tokens(self) -> int:
        """Tokens at once: the whole batch if it fits, else as many as do, but at least one example."""
        room = (int(self.available * _USED) - self.fixed) // self.per_token
        return max(self.longest, min(self.batch_tokens, room))

    @property
    def peak(self) -> int:
        """The most bytes during an update."""
        return self.fixed + self.tokens * self.per_token

    def __str__(self) -> str:
        share = "the whole batch" if self.tokens >= self.batch_tokens else f"of a batch of up to {self.batch_tokens:,}"
        short = "" if self.peak <= self.available else "; this may not fit: use lora, adafactor or checkpointing"
        more = f", whole layers {_size(self.gathered)}" if self.gathered else ""
        more += f", bfloat16 copies {_size(self.copies)}" if self.copies else ""
        return (
            f"memory: weights {_size(self.weights)}, gradients {_size(self.gradients)}, optimizer "
            f"{_size(self.optimizer)}{more}, activations {_size(self.per_token)} a token; {self.tokens:,} tokens "
            f"at once ({share}), {_size(self.peak)} of {_size(self.available)} free{short}"
        )


def plan_memory(folder: Path, settings: FinetuneSettings, examples: Iterable[int], runtime: Runtime) -> MemoryPlan:
    """Plan the finetuning of the model in ``folder``.

    Args:
        folder: only its config is read, not its weights.
        settings: batch size, optimizer, LoRA, precision.
        examples: tokens of each example, including all its candidates.
        runtime: device, gradient checkpointing, and whether the model is cut; then the plan is for one process.
    """
    body = _shapes(folder, settings)
    kept, copied = _kept(body, halves=settings.precision == "bf16")
    trained, every = _numbers(body)
    pieces = distributed.size() if runtime.shard else 1
    lengths = sorted(examples, reverse=True)
    states = {"adamw": 8 * trained, "adafactor": 4 * _rows_and_columns(body)}[settings.optimizer]
    return MemoryPlan(
        weights=4 * every // pieces,
        gradients=4 * trained // pieces,
        optimizer=states // pieces,
        gathered=_gathered(body) if runtime.shard else 0,
        per_token=_per_token(body, kept, runtime.gradient_checkpointing),
        copies=0 if runtime.shard else copied,
        available=memory_left(runtime),
        batch_tokens=sum(lengths[: settings.batch_size]),
        longest=lengths[0],
    )


def _numbers(module: nn.Module) -> tuple[int, int]:
    """How many numbers are trained, and how many there are."""
    sizes = [(p.numel() * p.requires_grad, p.numel()) for p in module.parameters()]
    return sum(trained for trained, _ in sizes), sum(every for _, every in sizes)


def _gathered(body: Any) -> int:
    """The most bytes that are whole in a backward pass: what is outside the layers, the layer at work and the next one,
    and their gradients before they are added up."""
    layers = [_numbers(layer) for layer in layers_of(body)]
    total: int = 4 * sum(
        of_body - sum(of_layers) + 2 * max(of_layers)
        for of_body, of_layers in zip(_numbers(body), zip(*layers, strict=True), strict=True)
    )
    return total


def memory_left(runtime: Runtime) -> int:
    """Free bytes of the device."""
    device = torch.device(runtime.torch_device())
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    import psutil

    return int(psutil.virtual_memory().available)


def check_out_of_memory(error: BaseException, *, fixed: bool) -> None:
    """Return if an update ran out of memory and can be tried again with fewer tokens at once.

    ``fixed`` means that the microbatches must stay as they are, since dropout masks depend on them. Several processes
    all end, since this one's part of the batch is missing.

    Raises:
        BaseException: ``error`` itself, if it has another cause.
        UserError: if the microbatches are fixed.
    """
    is_lack = isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)
    if not is_lack:
        raise error
    if distributed.size() > 1:
        distributed.abort(
            f"the memory of process {distributed.rank()} ran out; give a smaller microbatch=..., and run again"
        )
    if fixed:
        raise UserError("the memory ran out; give a smaller microbatch=...") from error


def fewer_tokens(model: nn.Module, tokens: int, whole: int, runtime: Runtime) -> int:
    """Drop the half-made gradient, and return half as many tokens at once (0 stands for ``whole``, the batch's).

    Raises:
        UserError: if not even a single example fits.
    """
    model.zero_grad(set_to_none=True)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if tokens == 1:
        raise UserError(
            "the memory ran out on a single example; use gradient_checkpointing=True, lora, a smaller max_tokens or a "
            "smaller model"
        )
    tokens = (tokens or whole) // 2
    runtime.say(f"out of memory; going on with {tokens:,} tokens at once, which does not change the result")
    return tokens


def _shapes(folder: Path, settings: FinetuneSettings) -> Any:
    """The model's body on the meta device, with adapters if the settings ask for them."""
    from transformers import AttentionInterface, AutoModel

    from outgrow.train.model import with_adapters

    AttentionInterface.register(_NAME, _attention)
    config = load_config(folder)
    config.use_cache = False
    with torch.device("meta"):
        body = AutoModel.from_config(config)
        if getattr(body, "pooler", None) is not None:
            body.pooler = None
        if getattr(body, "_supports_attention_backend", False):
            body.set_attn_implementation(_NAME)
        return with_adapters(body, settings.lora) if settings.lora else body


def _per_token(body: Any, whole: int, recompute: bool) -> int:
    depth = len(layers_of(body))
    if recompute:  # one layer's activations at a time, and every layer's input
        whole = whole // depth + 4 * body.config.hidden_size * _TOKENS * depth
    # In the backward pass the gradient of the widest state is in memory too, once before and once after its function.
    return whole // _TOKENS + 2 * 4 * _widest(body)


class _Halves(TorchFunctionMode):
    """Does what autocast does not do on the meta device: products take bfloat16, norms float32."""

    def __init__(self) -> None:
        super().__init__()
        self.copies: dict[nn.Parameter, Tensor] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _PRODUCTS:
            args, kwargs = [self._half(a) for a in args], {k: self._half(a) for k, a in kwargs.items()}
        elif func is nn.functional.layer_norm:
            args = [a.float() if isinstance(a, Tensor) else a for a in args]
        return func(*args, **kwargs)

    def _half(self, value: Any) -> Any:
        if not isinstance(value, Tensor) or value.dtype != torch.float32:
            return value
        if not isinstance(value, nn.Parameter):
            return value.to(torch.bfloat16)
        if value not in self.copies:
            self.copies[value] = value.to(torch.bfloat16)
        return self.copies[value]


def _kept(body: Any, *, halves: bool) -> tuple[int, int]:
    """Bytes that the backward pass would keep after a forward pass of ``_TOKENS`` tokens, without weights, and bytes of
    weights copied in bfloat16."""
    ids, mode = torch.zeros(1, _TOKENS, dtype=torch.int64, device="meta"), _Halves()
    own = {p.untyped_storage()._cdata for p in body.parameters()}
    kept: dict[int, Tensor] = {}  # the tensors themselves: once one is gone, its address is reused

    def keep(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage()._cdata not in own:
            kept.setdefault(tensor.untyped_storage()._cdata, tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), mode if halves else nullcontext():
        out = body(input_ids=ids).last_hidden_state
    del out
    copies = {tensor.untyped_storage()._cdata: tensor for tensor in mode.copies.values()}
    copied = sum(tensor.untyped_storage().nbytes() for tensor in copies.values())
    return sum(t.untyped_storage().nbytes() for place, t in kept.items() if place not in copies), copied


def _widest(body: Any) -> int:
    """Width of the widest state between two layers; GPT-2's Conv1D is a linear layer too."""
    weights = [getattr(m, "weight", None) for m in body.modules() if not isinstance(m, nn.Embedding)]
    return max(max(w.shape) for w in weights if isinstance(w, Tensor) and w.ndim == 2)


def _rows_and_columns(body: Any) -> int:
    """How many numbers Adafactor keeps: row and column means of each matrix."""
    trained = [p for p in body.parameters() if p.requires_grad]
    return sum(sum(p.shape) if p.ndim > 1 else p.numel() for p in trained)


class _Stored(torch.autograd.Function):
    """Attention as far as memory is concerned: a state shaped like the queries, and what its gradient needs."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = torch.empty_like(query)
        ctx.save_for_backward(query, key, value, out)
        return out  # nothing is trained here, so there is no backward


def _attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **others: Any
) -> tuple[Tensor, None]:
    out: Tensor = _Stored.apply(query, key, value)  # type: ignore[no-untyped-call]
    return out.transpose(1, 2), None


def _size(count: int) -> str:
    value, unit = (count / 1e9, "GB") if count >= 1e9 else (count / 1e6, "MB") if count >= 1e6 else (count / 1e3, "kB")
    return f"{value:.3g} {unit}"
