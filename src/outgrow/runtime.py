"""How and where a step runs: everything that must not change its result, and so is never part of its key."""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from outgrow.errors import UserError

__all__ = ["Report", "Runtime", "accepted_licenses", "cache_folder"]

Report = Callable[[int, int, str], None]
"""Told how far a step is: done, total, unit (such as "texts")."""


def _silent(done: int, total: int, unit: str) -> None:
    pass


def _unsaid(line: str) -> None:
    pass


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr)


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """Device, batching and progress of a run. Handed to step functions as ``runtime``; unhashed by design."""

    device: str = "auto"
    """``auto`` takes a GPU where one works and the CPU otherwise; ``cpu``, ``cuda``, ``cuda:1``, ``mps`` insist."""
    microbatch: int = 0
    """Examples per forward and backward pass in finetuning; 0 takes the whole batch at once. Same result either way."""
    tokens_at_once: int = 0
    """Token budget of one batch in feature extraction and prediction; 0 takes what suits the device."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, more time, same result."""
    compile: bool = False
    """Run a model's layers through torch.compile in finetuning, where a compiler is at hand: minutes to begin with,
    then perhaps faster; same result up to rounding."""
    shard: bool = False
    """Cut a model that is finetuned into pieces, one for each process that torchrun started (FSDP2): for models larger
    than one card, same result."""
    offline: bool = False
    """Fetch nothing; fail with what is missing instead."""
    accept_license: frozenset[str] = frozenset()
    """Restricted models and tasks whose licences the user accepts."""
    say: Callable[[str], None] = _to_stderr
    """Told what a user should know while a step runs, such as what is fetched."""
    scratch: Path | None = None
    """Where a long step keeps its checkpoints; set by the runner, gone when the step is done."""
    report: Report = _silent

    def __post_init__(self) -> None:
        if self.shard and int(os.environ.get("WORLD_SIZE", "1")) < 2:
            raise UserError(
                "a model can be sharded over several processes only, and this is one; start "
                "`torchrun --nproc-per-node N --no-python outgrow ... --shard`, or leave --shard out"
            )

    def quiet(self) -> "Runtime":
        """The same for another process, to which nobody listens."""
        return replace(self, say=_unsaid, report=_silent)

    def token_budget(self) -> int:
        """``tokens_at_once``, or 1,536 on a CPU (more falls out of its caches) and 32,768 on a GPU."""
        return self.tokens_at_once or (1536 if self.torch_device() == "cpu" else 32768)

    def torch_device(self) -> str:
        """The device to use, checked to exist.

        Raises:
            UserError: if a device was asked for by name and is not there; never a silent fall back to the CPU.
        """
        import torch

        if self.device == "auto":
            return "cuda" if torch.cuda.is_available() else "cpu"
        kind = self.device.partition(":")[0]
        there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
        if kind not in there:
            raise UserError(f"unknown device {self.device!r}; use auto, cpu, cuda, cuda:N or mps")
        if not there[kind]:
            raise UserError(
                f"device {self.device!r} was asked for but torch {torch.__version__} sees none; "
                "install a build of torch for it (`outgrow doctor` tells more), or use --device cpu"
            )
        return self.device


def accepted_licenses() -> frozenset[str]:
    """Restricted models and tasks accepted through ``OUTGROW_ACCEPT_LICENSE``, with commas or spaces between."""
    return frozenset(os.environ.get("OUTGROW_ACCEPT_LICENSE", "").replace(",", " ").split())


def cache_folder() -> Path:
    """Where fetched weights and data are kept: ``$OUTGROW_CACHE``, else ``~/.cache/outgrow``."""
    if chosen := os.environ.get("OUTGROW_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "outgrow"
