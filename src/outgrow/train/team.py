"""Several processes on one update (data parallel): ``torchrun --nproc-per-node N --no-python outgrow run ...``.

Rank 0 runs the plan as a single process would: it alone reads and writes the store. The other ranks wait; for each
finetuning they get its arguments from rank 0 and take their share of every batch's microbatches. Gradients are summed
over ranks before the update, and losses that need the whole batch see all of it, so without dropout the number of ranks
changes a result only as the order of a sum does. With ``Runtime.shard`` each also holds a part of the model only
(:mod:`outgrow.train.shards`).
"""

import atexit
import contextlib
import os
import sys
from collections.abc import Callable
from datetime import timedelta
from typing import Any, NoReturn, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from outgrow.errors import UserError

__all__ = [
    "add_up",
    "add_up_gradients",
    "dismiss",
    "give_up",
    "join",
    "lead",
    "least",
    "leave",
    "rank",
    "serve",
    "size",
    "told",
    "wait",
]


_Any = TypeVar("_Any")


def join() -> None:
    """Join the processes that torchrun (or ``accelerate launch``) started; nothing to do in a single one."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        # Ranks wait for the next finetuning as long as rank 0 is busy with other steps. Without a name torch takes nccl
        # for what lies on GPUs, and gloo for what does not, such as the arguments that are led.
        dist.init_process_group(timeout=timedelta(days=30))


def size() -> int:
    """Number of processes; 1 outside of a team."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if size() > 1 else 0


def lead(job: Callable[..., Any], *arguments: Any) -> None:
    """Rank 0, before it calls ``job`` itself: have every other rank call it with the same arguments."""
    if size() > 1 and rank() == 0:
        dist.broadcast_object_list([(job, arguments)])


def serve() -> None:
    """Every other rank: call what rank 0 leads until it dismisses."""
    while True:
        box: list[Any] = [None]
        dist.broadcast_object_list(box)
        if box[0] is None:
            dist.destroy_process_group()
            return
        job, arguments = box[0]
        with contextlib.suppress(UserError):  # rank 0 meets the same one, says it, and goes on with the plan
            job(*arguments)


def dismiss() -> None:
    """Rank 0, at the end: let the others go."""
    if size() > 1:
        dist.broadcast_object_list([None])
        dist.destroy_process_group()


def leave(code: int) -> NoReturn:
    """Every rank, last: end this process as ``sys.exit`` would, but without taking the interpreter down.

    torch's caches keep a cut model's process group after it was destroyed, and with it gloo's threads. One that takes
    Python's lock to let go of the last tensor it sent, while the interpreter goes down, aborts the process: a finished
    run would end as a failed one.
    """
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def least(value: int) -> int:
    """The smallest of every rank's values, on all ranks."""
    if size() == 1:
        return value
    box = torch.tensor(value)
    dist.all_reduce(box, op=dist.ReduceOp.MIN)
    return int(box)


def told(value: _Any) -> _Any:
    """Rank 0's value, on all ranks."""
    box = [value]
    if size() > 1:
        dist.broadcast_object_list(box)
    return box[0]


def wait() -> None:
    """Until every rank is here."""
    least(0)


def give_up(line: str) -> NoReturn:
    """End this process at once, and with it the team: the others wait for what will not come."""
    print(f"outgrow: {line}", file=sys.stderr, flush=True)
    os._exit(1)


def add_up(values: Tensor) -> None:
    """Add up every rank's values, in place, on all ranks."""
    if size() > 1:
        dist.all_reduce(values)


def add_up_gradients(model: nn.Module) -> None:
    """Add up every rank's gradient, in place, on all ranks."""
    if size() == 1:
        return
    for parameter in model.parameters():
        if parameter.requires_grad:
            if parameter.grad is None:  # a rank may have had no microbatch
                parameter.grad = torch.zeros_like(parameter)
            dist.all_reduce(parameter.grad)
