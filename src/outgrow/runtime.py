"""How and where a step runs: all that does not change its result, and so is never part of its key."""

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
    """How and where to run. Nothing here changes a result, so nothing here is hashed."""

    device: str = "auto"
    """Where to compute: auto, cpu, cuda, cuda:1 or mps. auto uses a GPU if there is one; the others fail if the device
    is missing."""
    microbatch: int = 0
    """Examples per forward and backward pass in finetuning; 0 passes the whole batch at once. The result is the
    same."""
    tokens_at_once: int = 0
    """Tokens per batch in feature extraction and prediction; 0 takes 1,536 on a CPU, else 32,768."""
    gradient_checkpointing: bool = False
    """In finetuning, compute activations again in the backward pass: less memory, more time, the same result."""
    compile: bool = False
    """Finetune through torch.compile, if there is a compiler: it takes minutes to start, then may be faster. The result
    is the same up to rounding."""
    shard: bool = False
    """Under torchrun, split a finetuned model over the processes (FSDP2), for models larger than one GPU."""
    offline: bool = False
    """Fetch nothing; fail and say what is missing."""
    accept_license: frozenset[str] = frozenset()
    """Restricted models and tasks whose licenses you accept, such as gemma-3-270m."""

    # The rest is set by the library, and is no option of the command line.
    say: Callable[[str], None] = _to_stderr
    """Told what a user should know while a step runs, such as what is fetched."""
    report: Report = _silent
    """Told how far a step is."""
    scratch: Path | None = None
    """Where a long step keeps its checkpoints. The runner sets it, and removes it when the step is done."""

    def __post_init__(self) -> None:
        if self.shard and int(os.environ.get("WORLD_SIZE", "1")) < 2:
            raise UserError(
                "shard=True needs several processes, and this is one; start "
                "`torchrun --nproc-per-node N --no-python outgrow ... --shard`, or leave it out"
            )

    def quiet(self) -> "Runtime":
        """The same without a listener, for another process."""
        return replace(self, say=_unsaid, report=_silent)

    def token_budget(self) -> int:
        """``tokens_at_once``, or what suits the device: more than 1,536 falls out of a CPU's caches."""
        return self.tokens_at_once or (1536 if self.torch_device() == "cpu" else 32768)

    def torch_device(self) -> str:
        """The device to use.

        Raises:
            UserError: if a device was asked for by name and is not there; it never falls back to the CPU silently.
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
                "install a build of torch for it (`outgrow doctor` tells more), or use device='cpu'"
            )
        return self.device


def accepted_licenses() -> frozenset[str]:
    """Restricted models and tasks accepted through ``OUTGROW_ACCEPT_LICENSE``, separated by commas or spaces."""
    return frozenset(os.environ.get("OUTGROW_ACCEPT_LICENSE", "").replace(",", " ").split())


def cache_folder() -> Path:
    """Where fetched weights and data are kept: ``$OUTGROW_CACHE``, else ``~/.cache/outgrow``."""
    if chosen := os.environ.get("OUTGROW_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "outgrow"
