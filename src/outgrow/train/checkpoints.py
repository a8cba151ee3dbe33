"""The checkpoint of a training run: a folder of safetensors, one from each rank, put in place as a whole.

If a tensor is cut over ranks, every rank's file has that rank's rows, so any number of processes can resume from it.
Only numbers and JSON are read; nothing in a checkpoint can run.
"""

import json
import logging
import shutil
from contextlib import ExitStack
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from outgrow.runtime import abandoned, owned, remove
from outgrow.train import distributed

__all__ = ["SECONDS", "Best", "Position", "identity_of", "read", "restore", "snapshot", "trained", "write"]

SECONDS = 120.0
"""Time between two checkpoints; a kill loses at most this much work."""
_NAME = "checkpoint"
_log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Best:
    """The weights that agree best with the labels of the validation rows so far."""

    agreement: float
    cross_entropy: float
    state: dict[str, Tensor]
    """From :func:`snapshot`."""


@dataclass(kw_only=True)
class Position:
    """How far a run is. Order, dropout and learning rate follow from ``update``, so there is no random state."""

    update: int = 0
    """Updates done."""
    losses: list[float] = field(default_factory=list)
    """The loss of each update since the last entry of the history."""
    history: list[dict[str, Any]] = field(default_factory=list)
    best: Best | None = None
    memory: Tensor | None = None
    """(n, C), what a stateful loss remembers of each training example."""


def identity_of(model: nn.Module, *parts: object) -> str:
    """A digest of the first weights and all arguments, which a checkpoint must share with the run that resumes it."""
    digest = sha256()
    for name, parameter in trained(model).items():
        digest.update(name.encode())
        digest.update(parameter.detach().contiguous().numpy().data)
    for part in parts:
        digest.update(part.tobytes() if isinstance(part, np.ndarray) else repr(part).encode())
    return digest.hexdigest()


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    """A copy on the CPU of this rank's pieces of the tensors that training changes."""
    return {name: distributed.own(p.detach()).to("cpu", copy=True).contiguous() for name, p in trained(model).items()}


def restore(model: nn.Module, pieces: dict[str, Tensor]) -> None:
    """Put back what :func:`snapshot` gave."""
    with torch.no_grad():
        for name, parameter in trained(model).items():
            distributed.own(parameter).copy_(pieces[name])


def write(folder: Path, identity: str, model: nn.Module, optimizer: torch.optim.Optimizer, position: Position) -> None:
    """Write the checkpoint beside its place and rename it: a kill leaves the old one or the new one, never half of one.

    If the model is cut, every rank must call. Processes on several machines must share ``folder``, or nothing is kept.
    """
    ranks = distributed.size() if distributed.is_cut(model) else 1
    place = folder / f"{_NAME}-{position.update:09}"
    unfinished = folder / owned(place.name)
    if ranks > 1:
        unfinished = distributed.broadcast(unfinished)
    if distributed.rank() == 0:
        for left in abandoned(folder.glob("*~*~*")):  # each as large as model and optimizer
            remove(left)
    try:
        unfinished.mkdir(parents=True, exist_ok=True)
        about = {"identity": identity, **_about(position)}
        file = unfinished / f"{distributed.rank()}-of-{ranks}.safetensors"
        save_file(_tensors(model, optimizer, position), file, metadata=about)
        if ranks > 1:
            distributed.barrier()
        if distributed.rank() == 0:
            _put_in_place(unfinished, place, ranks)
    finally:
        if distributed.rank() == 0:
            remove(unfinished)


def _tensors(model: nn.Module, optimizer: torch.optim.Optimizer, position: Position) -> dict[str, Tensor]:
    """What this rank writes."""
    tensors = {f"weights.{name}": tensor for name, tensor in snapshot(model).items()}
    for name, parameter in trained(model).items():
        for key, value in optimizer.state[parameter].items():
            if distributed.rank() == 0 or not _is_whole(key, parameter):
                tensors[f"optimizer.{name}.{key}"] = distributed.own(value.detach()).to("cpu").contiguous()
    if position.best:
        tensors |= {f"best.{name}": tensor for name, tensor in position.best.state.items()}
    if position.memory is not None and distributed.rank() == 0:
        tensors["memory"] = position.memory.to("cpu")
    return tensors


def _about(position: Position) -> dict[str, str]:
    said = {key: value for key, value in vars(position).items() if key not in ("best", "memory")}
    best = position.best and {"agreement": position.best.agreement, "cross_entropy": position.best.cross_entropy}
    return {"position": json.dumps(said), "best": json.dumps(best)}


def _put_in_place(unfinished: Path, place: Path, ranks: int) -> None:
    if len(list(unfinished.iterdir())) < ranks:
        _log.warning("no checkpoint: not all processes see the folder %s; use a store on a shared disk", place.parent)
        return
    shutil.rmtree(place, ignore_errors=True)
    unfinished.replace(place)
    for other in place.parent.glob(f"{_NAME}-*[0-9]"):
        if other != place:
            shutil.rmtree(other, ignore_errors=True)


def read(folder: Path, identity: str, model: nn.Module, optimizer: torch.optim.Optimizer) -> Position:
    """Load the checkpoint's weights and optimizer state, and return its position.

    Without a checkpoint, or if it is damaged or from another run, training starts from the beginning; the log says why.
    """
    for place in sorted(folder.glob(f"{_NAME}-*[0-9]"), reverse=True):
        try:
            with ExitStack() as stack:
                written = _Written(place, stack)
                if written.about["identity"] != identity:
                    _log.warning("training starts anew: the checkpoint %s is from another run", place)
                    continue
                weights, states, position = _as_now(written, model, optimizer)
        except (SafetensorError, OSError, ValueError, LookupError, TypeError) as error:
            _log.warning("training starts anew: the checkpoint %s is damaged (%s)", place, error)
            continue
        restore(model, weights)
        optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})
        return position
    return Position()


class _Written:
    """A checkpoint on disk, from any number of ranks."""

    def __init__(self, place: Path, stack: ExitStack) -> None:
        ranks = int(next(place.iterdir()).stem.rpartition("-")[2])
        paths = [place / f"{rank}-of-{ranks}.safetensors" for rank in range(ranks)]
        self.files: list[Any] = [stack.enter_context(safe_open(path, framework="pt")) for path in paths]
        self.names = [frozenset(file.keys()) for file in self.files]
        self.about: dict[str, str] = self.files[0].metadata()

    def rows(self, name: str, span: tuple[int, int] | None = None) -> Tensor:
        """A whole tensor, or ``span`` of it: the first row and how many rows."""
        holders = [file for file, names in zip(self.files, self.names, strict=True) if name in names]
        if span is None:
            parts = [file.get_tensor(name) for file in holders]
            return torch.cat(parts) if len(parts) > 1 else parts[0].clone()
        parts, (first, count) = [], span
        for piece in (file.get_slice(name) for file in holders):
            rows = piece.get_shape()[0]
            parts.append(piece[min(max(first, 0), rows) : min(max(first + count, 0), rows)])
            first -= rows
        return torch.cat(parts)


def _as_now(
    written: _Written, model: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[dict[str, Tensor], dict[int, dict[str, Tensor]], Position]:
    """This rank's pieces of the weights, the optimizer's state by the number of its tensor, and the position."""
    tensors = trained(model)
    spans = {name: distributed.span(parameter) for name, parameter in tensors.items()}
    numbers = {p: i for i, p in enumerate(p for group in optimizer.param_groups for p in group["params"])}
    states: dict[int, dict[str, Tensor]] = {i: {} for i in range(len(numbers))}
    for full in written.names[0]:
        kind, _, rest = full.partition(".")
        if kind == "optimizer":
            name, _, key = rest.rpartition(".")
            parameter = tensors[name]
            value = written.rows(full, None if _is_whole(key, parameter) else spans[name])
            # Our Adafactor keeps bare pieces; torch's AdamW keeps tensors that are cut as the weights are.
            bare = _is_whole(key, parameter) or isinstance(optimizer, distributed.Adafactor)
            states[numbers[parameter]][key] = value if bare else distributed.cut_as(parameter, value)
    position = Position(**json.loads(written.about["position"]))
    if best := json.loads(written.about["best"]):
        position.best = Best(**best, state={name: written.rows(f"best.{name}", spans[name]) for name in tensors})
    if "memory" in written.names[0]:
        position.memory = written.rows("memory")
    return {name: written.rows(f"weights.{name}", spans[name]) for name in tensors}, states, position


def _is_whole(key: str, parameter: Tensor) -> bool:
    """Whether every rank's optimizer keeps all of this, since it is not as long as the tensor itself."""
    return key == "step" or (key == "col_var" and parameter.ndim == 2)


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    """The tensors that training changes, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}
