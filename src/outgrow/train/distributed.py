"""Several processes on one update: ``torchrun --nproc-per-node N --no-python outgrow run ...``.

Rank 0 runs the plan as a single process would, and it alone reads and writes the store. The other ranks wait; for each
finetuning they get its arguments from rank 0 and compute their share of every batch's microbatches. Gradients are
summed over ranks before the update, and losses that need the whole batch see all of it, so without dropout the number
of ranks changes a result only as the order of a sum does.

With ``Runtime.shard`` FSDP2 also cuts every weight, its gradient and its optimizer state into rows, one piece for each
rank: only the layer at work is whole. This module adds the way in and out (whole tensors from and to rank 0) to torch's
``fully_shard``, and Adafactor on pieces, which torch does not have.
"""

import atexit
import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from typing import Any, NoReturn, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from outgrow.errors import UserError
from outgrow.models.packing import layers_of
from outgrow.registry import use, used_files

__all__ = [
    "Adafactor",
    "abort",
    "all_reduce",
    "all_reduce_gradients",
    "barrier",
    "blank",
    "broadcast",
    "cut_as",
    "is_cut",
    "join",
    "leave",
    "min_over_ranks",
    "own",
    "rank",
    "run_on_ranks",
    "shard",
    "shutdown",
    "size",
    "span",
    "spread",
    "whole",
    "worker_loop",
]

_Any = TypeVar("_Any")


def join() -> None:
    """Join the processes that torchrun (or ``accelerate launch``) started; does nothing in a single process."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        # Ranks wait for the next finetuning as long as rank 0 is busy with other steps. If no backend is named, torch
        # takes nccl for tensors on GPUs and gloo for everything else, such as arguments.
        dist.init_process_group(timeout=timedelta(days=30))


def size() -> int:
    """Number of processes; 1 if there is only this one."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if size() > 1 else 0


def run_on_ranks(job: Callable[..., Any], *arguments: Any) -> None:
    """On rank 0, before it calls ``job`` itself: make every other rank call it with the same arguments.

    The user's files go first: arguments such as a loss of theirs can be read only where their module is loaded.
    """
    if size() > 1 and rank() == 0:
        dist.broadcast_object_list([[file.path for file in used_files()]])
        dist.broadcast_object_list([(job, arguments)])


def worker_loop() -> None:
    """On every other rank: make the calls that rank 0 asks for, until it shuts down."""
    while True:
        box: list[Any] = [None]
        dist.broadcast_object_list(box)
        if box[0] is None:
            dist.destroy_process_group()
            return
        for path in box[0]:
            use(path)
        dist.broadcast_object_list(box)
        job, arguments = box[0]
        with contextlib.suppress(UserError):  # rank 0 gets the same error, reports it, and goes on
            job(*arguments)


def shutdown() -> None:
    """On rank 0, at the end: let the other ranks end too."""
    if size() > 1:
        dist.broadcast_object_list([None])
        dist.destroy_process_group()


def leave(code: int) -> NoReturn:
    """On every rank, last: end this process as ``sys.exit`` would, but without shutting down the interpreter.

    torch's caches keep a cut model's process group after it was destroyed, and with it gloo's threads. If one of them
    takes Python's lock during shutdown, to release the last tensor it sent, the process aborts: a finished run would
    end as a failed one.
    """
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def min_over_ranks(value: int) -> int:
    """The smallest of all ranks' values, on all ranks."""
    if size() == 1:
        return value
    box = torch.tensor(value)
    dist.all_reduce(box, op=dist.ReduceOp.MIN)
    return int(box)


def broadcast(value: _Any) -> _Any:
    """Rank 0's value, on all ranks."""
    box = [value]
    if size() > 1:
        dist.broadcast_object_list(box)
    return box[0]


def barrier() -> None:
    """Wait until every rank is here."""
    min_over_ranks(0)


def abort(line: str) -> NoReturn:
    """End this process at once, and so all others, which would wait for it forever."""
    print(f"outgrow: {line}", file=sys.stderr, flush=True)
    os._exit(1)


def all_reduce(values: Tensor) -> None:
    """Add up all ranks' values, in place, on all ranks."""
    if size() > 1:
        dist.all_reduce(values)


def all_reduce_gradients(model: nn.Module) -> None:
    """Add up all ranks' gradients, in place, on all ranks."""
    if size() == 1:
        return
    for parameter in model.parameters():
        if parameter.requires_grad:
            if parameter.grad is None:  # a rank may have had no microbatch
                parameter.grad = torch.zeros_like(parameter)
            dist.all_reduce(parameter.grad)


# --- a model cut over ranks -------------------------------------------------------------------------------------------


def shard(model: Any, device: str) -> None:
    """Cut the tensors of a classifier, which are equal on all ranks, layer by layer; the pieces are on ``device``.

    A layer is moved to the device and cut before the next one is, so no rank ever holds the whole model there.
    With bf16, a layer's weights are gathered in bfloat16: copies made by autocast would be kept, for all layers, until
    the backward pass. The states between layers, the sums of gradients and the pieces stay float32.
    Gradients are summed over ranks, not averaged: each rank's share of the loss is already divided by the whole batch.
    """
    bf16 = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False)
    policy = bf16 if model.bf16 else MixedPrecisionPolicy()
    mesh = init_device_mesh(torch.device(device).type, (size(),))
    for layer in layers_of(model.body):
        fully_shard(layer, mesh=mesh, reshard_after_forward=True, mp_policy=policy)
    fully_shard(model, mesh=mesh, reshard_after_forward=True)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)  # gloo has no other


def is_cut(model: nn.Module) -> bool:
    """Whether :func:`shard` was called on the model."""
    return isinstance(model, FSDPModule)


def own(tensor: Tensor) -> Tensor:
    """This rank's piece of a tensor, in the tensor's own memory; all of it if it is not cut."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def span(tensor: Tensor) -> tuple[int, int] | None:
    """First row and number of rows of this rank's piece; None if the tensor is not cut."""
    if not isinstance(tensor, DTensor):
        return None
    each = -(-tensor.shape[0] // size())  # as torch.chunk does: only the last pieces may have fewer rows
    return min(rank() * each, tensor.shape[0]), tensor.to_local().shape[0]


def whole(tensor: Tensor) -> Tensor:
    """The tensor put together again. Every rank must call."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def spread(tensor: Tensor, value: Tensor) -> None:
    """Set a tensor to a ``value``. If the tensor is cut, every rank must call, and rank 0's value counts."""
    if isinstance(tensor, DTensor):
        here = value.to(tensor.device) if rank() == 0 else torch.empty(tensor.shape, device=tensor.device)
        value = distribute_tensor(here, tensor.device_mesh, tensor.placements)
    tensor.copy_(value)


def cut_as(tensor: Tensor, piece: Tensor) -> Tensor:
    """This rank's ``piece`` of something as long as ``tensor``, as a tensor cut in the same way."""
    if not isinstance(tensor, DTensor):
        return piece
    return DTensor.from_local(
        piece.to(tensor.device),
        tensor.device_mesh,
        tensor.placements,
        run_check=False,
        shape=tensor.shape,
        stride=tensor.stride(),
    )


def blank(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Shapes without values: what other ranks need to know about tensors that rank 0 will spread."""
    return {name: torch.empty_like(tensor, device="meta") for name, tensor in state.items()}


class Adafactor(torch.optim.Optimizer):
    """torch.optim.Adafactor (Shazeer & Stern 2018, relative step sizes clipped at ``lr``) on tensors cut into rows.

    Each rank keeps the row means of its rows; column means and norms are sums over ranks, two per tensor and update.
    """

    def __init__(self, groups: list[dict[str, Any]], lr: float) -> None:
        # The constants are torch's, which uses the smallest step of the number format as eps1.
        super().__init__(groups, {"lr": lr, "eps2": 1e-3, "d": 1.0, "beta2_decay": -0.8, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update."""
        for group, parameter in self._with_gradient():
            state = self.state[parameter]
            weight, gradient = parameter.to_local(), parameter.grad.to_local()
            if not state:
                state["step"] = torch.zeros(())
                shapes = _shapes(gradient)
                state.update({name: gradient.new_zeros(shape) for name, shape in shapes.items()})
            state["step"] += 1
            step = float(state["step"])
            share = step ** group["beta2_decay"]
            size = parameter.numel()
            eps1 = torch.finfo(parameter.dtype).eps
            weight_norm = weight.norm().square()
            if group["weight_decay"]:
                weight.mul_(1 - group["lr"] * group["weight_decay"])
            if gradient.ndim > 1:
                scaled, weight_norm = self._factored(state, gradient, parameter.shape, share, eps1, weight_norm)
            else:
                state["variance"].lerp_(gradient * gradient, share)
                scaled = state["variance"].clone()
                all_reduce(weight_norm)
            update = scaled.clamp_(min=eps1 * eps1).rsqrt_().mul_(gradient)
            update_norm = update.norm().square()
            all_reduce(update_norm)
            alpha = max(group["eps2"], (float(weight_norm) / size) ** 0.5) * min(group["lr"], step**-0.5)
            weight.add_(update, alpha=-alpha / max(1.0, (float(update_norm) / size) ** 0.5 / group["d"]))

    def _with_gradient(self) -> Iterator[tuple[dict[str, Any], Any]]:
        for group in self.param_groups:
            yield from ((group, p) for p in group["params"] if p.grad is not None)

    @staticmethod
    def _factored(
        state: dict[str, Tensor], gradient: Tensor, shape: torch.Size, share: float, eps1: float, weight_norm: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Estimate of the squared gradient for this rank's rows, and the weights' squared norm over all ranks."""
        row, column = state["row_var"], state["col_var"]
        row.lerp_(gradient.square().mean(dim=-1, keepdim=True), share)
        if gradient.ndim > 2:  # the cut goes through neither rows nor columns of the matrices
            all_reduce(weight_norm)
            column.lerp_(gradient.square().mean(dim=-2, keepdim=True), share)
            mean = row.mean(dim=-2, keepdim=True)
        else:
            sums = torch.cat([gradient.square().sum(dim=0), row.sum()[None], weight_norm[None]])
            all_reduce(sums)
            column.lerp_(sums[None, :-2] / shape[0], share)
            mean, weight_norm = sums[-2] / shape[0], sums[-1]
        return (row @ column).div_(mean.clamp(min=eps1)), weight_norm


def _shapes(gradient: Tensor) -> dict[str, list[int]]:
    """Shapes of what is kept of a squared gradient: row and column means if it is a matrix."""
    if gradient.ndim == 1:
        return {"variance": list(gradient.shape)}
    return {"row_var": [*gradient.shape[:-1], 1], "col_var": [*gradient.shape[:-2], 1, gradient.shape[-1]]}
