"""Models larger than one card: FSDP2 cuts every weight, its gradient and its optimizer state into rows, a piece a rank.

Only the layer that is at work is whole, on every rank; its gradient is summed into pieces as soon as it is there. What
this module adds to torch's ``fully_shard`` is the way in and out: whole tensors from and to rank 0, and Adafactor on
pieces, which torch's own cannot do.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from outgrow.models.packing import layers_of
from outgrow.train import team

__all__ = ["Adafactor", "blank", "cut_as", "is_cut", "own", "shard", "span", "spread", "whole"]


def shard(model: Any, device: str) -> None:
    """Cut the tensors of a classifier, equal on all ranks, layer by layer; the pieces lie on ``device``.

    A layer is moved to the device and cut before the next one is, so no rank ever holds the whole model there.
    In bfloat16 a layer's weights are gathered as that: copies that autocast makes would be kept, of all layers, up to
    the backward pass. The states between layers, the gradients' sums and the pieces stay float32.
    Gradients are summed over ranks, not averaged: each rank's share of the loss is divided by the whole batch already.
    """
    bf16 = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False)
    policy = bf16 if model.bf16 else MixedPrecisionPolicy()
    mesh = init_device_mesh(torch.device(device).type, (team.size(),))
    for layer in layers_of(model.body):
        fully_shard(layer, mesh=mesh, reshard_after_forward=True, mp_policy=policy)
    fully_shard(model, mesh=mesh, reshard_after_forward=True)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)  # gloo knows no other


def is_cut(model: nn.Module) -> bool:
    """Whether :func:`shard` was called on the model."""
    return isinstance(model, FSDPModule)


def own(tensor: Tensor) -> Tensor:
    """This rank's piece of a tensor, in the tensor's own memory; all of it where it is not cut."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def span(tensor: Tensor) -> tuple[int, int] | None:
    """First row and number of rows of this rank's piece; None where the tensor is not cut."""
    if not isinstance(tensor, DTensor):
        return None
    each = -(-tensor.shape[0] // team.size())  # as torch.chunk: all but the last pieces have as many rows
    return min(team.rank() * each, tensor.shape[0]), tensor.to_local().shape[0]


def whole(tensor: Tensor) -> Tensor:
    """The tensor put together again. Every rank must ask for it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def spread(tensor: Tensor, value: Tensor) -> None:
    """Set a tensor to a ``value`` that rank 0 alone needs to have. Where it is cut, every rank must call."""
    if isinstance(tensor, DTensor):
        here = value.to(tensor.device) if team.rank() == 0 else torch.empty(tensor.shape, device=tensor.device)
        value = distribute_tensor(here, tensor.device_mesh, tensor.placements)
    tensor.copy_(value)


def cut_as(tensor: Tensor, piece: Tensor) -> Tensor:
    """A rank's ``piece`` of something as long as ``tensor`` is, cut as that is."""
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
    """Shapes without values, to tell other ranks what rank 0 will spread."""
    return {name: torch.empty_like(tensor, device="meta") for name, tensor in state.items()}


class Adafactor(torch.optim.Optimizer):
    """torch.optim.Adafactor (Shazeer & Stern 2018, relative step sizes clipped at ``lr``) on tensors cut into rows.

    Its row means lie with the rows, its column means and norms are sums over ranks, two for each tensor and update.
    """

    def __init__(self, groups: list[dict[str, Any]], lr: float) -> None:
        # The constants of torch's, which takes the smallest step of the number format as eps1.
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
                team.add_up(weight_norm)
            update = scaled.clamp_(min=eps1 * eps1).rsqrt_().mul_(gradient)
            update_norm = update.norm().square()
            team.add_up(update_norm)
            alpha = max(group["eps2"], (float(weight_norm) / size) ** 0.5) * min(group["lr"], step**-0.5)
            weight.add_(update, alpha=-alpha / max(1.0, (float(update_norm) / size) ** 0.5 / group["d"]))

    def _with_gradient(self) -> Iterator[tuple[dict[str, Any], Any]]:
        for group in self.param_groups:
            yield from ((group, p) for p in group["params"] if p.grad is not None)

    @staticmethod
    def _factored(
        state: dict[str, Tensor], gradient: Tensor, shape: torch.Size, share: float, eps1: float, weight_norm: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Estimate of the squared gradient of this rank's rows, and the weights' squared norm over all ranks."""
        row, column = state["row_var"], state["col_var"]
        row.lerp_(gradient.square().mean(dim=-1, keepdim=True), share)
        if gradient.ndim > 2:  # what is cut is neither rows nor columns of the matrices
            team.add_up(weight_norm)
            column.lerp_(gradient.square().mean(dim=-2, keepdim=True), share)
            mean = row.mean(dim=-2, keepdim=True)
        else:
            sums = torch.cat([gradient.square().sum(dim=0), row.sum()[None], weight_norm[None]])
            team.add_up(sums)
            column.lerp_(sums[None, :-2] / shape[0], share)
            mean, weight_norm = sums[-2] / shape[0], sums[-1]
        return (row @ column).div_(mean.clamp(min=eps1)), weight_norm


def _shapes(gradient: Tensor) -> dict[str, list[int]]:
    """What is kept of a squared gradient: of a matrix its row and column means."""
    if gradient.ndim == 1:
        return {"variance": list(gradient.shape)}
    return {"row_var": [*gradient.shape[:-1], 1], "col_var": [*gradient.shape[:-2], 1, gradient.shape[-1]]}
