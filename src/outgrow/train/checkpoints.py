"""The checkpoint of a training run: one file, replaced as a whole, read without running anything in it."""

import hashlib
import logging
import os
import pickle
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from outgrow.train.fitted import put, taken

__all__ = ["SECONDS", "Best", "Position", "identity_of", "read", "write"]

SECONDS = 120.0
"""Least time between two checkpoints; a kill loses at most this much work."""
_NAME = "finetune.pt"
_log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Best:
    """The weights that agree best with the labels of the validation rows so far."""

    agreement: float
    cross_entropy: float
    state: dict[str, Tensor]


@dataclass(kw_only=True)
class Position:
    """How far a run is. Order, dropout and learning rate follow from ``update``, so no random state is kept."""

    update: int = 0
    """Updates done."""
    losses: list[float] = field(default_factory=list)
    """Loss of each update since the last check."""
    history: list[dict[str, Any]] = field(default_factory=list)
    best: Best | None = None
    memory: Tensor | None = None
    """(n, C), what a loss that remembers holds of each training example."""


def identity_of(model: nn.Module, *parts: object) -> str:
    """What a checkpoint must share with the run that resumes from it: the first weights and every argument."""
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            digest.update(name.encode())
            digest.update(parameter.detach().contiguous().numpy().data)
    for part in parts:
        digest.update(part.tobytes() if isinstance(part, np.ndarray) else repr(part).encode())
    return digest.hexdigest()


def write(folder: Path, identity: str, model: nn.Module, optimizer: torch.optim.Optimizer, position: Position) -> None:
    """Write the checkpoint beside its place and rename it: a kill leaves the old one or the new one, never half."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "identity": identity,
        "weights": taken(model),
        "optimizer": optimizer.state_dict(),
        "position": {**vars(position), "best": vars(position.best) if position.best else None},
    }
    beside = folder / f"{_NAME}.{os.getpid()}.tmp"
    torch.save(content, beside)
    beside.replace(folder / _NAME)


def read(folder: Path, identity: str, model: nn.Module, optimizer: torch.optim.Optimizer) -> Position:
    """Put the checkpoint's weights and optimizer state in place and say where it stands.

    Without a checkpoint, or with one that is damaged or of another run, training starts anew; the log says why.
    """
    path = folder / _NAME
    if not path.exists():
        return Position()
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, OSError, EOFError, pickle.UnpicklingError, ValueError, KeyError) as error:
        _log.warning("training starts anew: the checkpoint %s is damaged (%s)", path, error)
        return Position()
    if content["identity"] != identity:
        _log.warning("training starts anew: the checkpoint %s is of another run", path)
        return Position()
    put(model, content["weights"])
    optimizer.load_state_dict(content["optimizer"])
    best = content["position"].pop("best")
    return Position(**content["position"], best=Best(**best) if best else None)
