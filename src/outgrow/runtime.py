"""How and where a step runs: all that does not change its result, and so is never part of its key."""

import hashlib
import os
import platform
import re
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from outgrow.errors import UserError

__all__ = [
    "Report",
    "Runtime",
    "abandoned",
    "accepted_licenses",
    "beside",
    "cache_folder",
    "check_folder",
    "owned",
    "remove",
    "sha256_of",
    "stopped_by_signals",
    "user_path",
]

Report = Callable[[int, int, str], None]
"""Told how far a step is: done, total, unit (such as "texts")."""


def _silent(*_: object) -> None:
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
        for name in ("microbatch", "tokens_at_once"):
            if getattr(self, name) < 0:
                flag = name.replace("_", "-")
                raise UserError(f"--{flag} is {getattr(self, name)}; give 0 for the default, or a number above it")
        if self.shard and int(os.environ.get("WORLD_SIZE", "1")) < 2:
            raise UserError(
                "shard=True needs several processes, and this is one; start "
                "`torchrun --nproc-per-node N --no-python outgrow ... --shard`, or leave it out"
            )

    def quiet(self) -> "Runtime":
        """The same without a listener, for another process."""
        return replace(self, say=_silent, report=_silent)

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
        return user_path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or user_path("~/.cache")) / "outgrow"


def user_path(text: str) -> Path:
    """The path that a user wrote, with ``~`` and ``~name`` read as home folders.

    Raises:
        UserError: if there is no such home, or it holds a zero character.
    """
    if "\0" in text:
        raise UserError(f"{text!r} is no path: it holds a zero character")
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise UserError(f"{text}: {text.partition('/')[0]} names no home folder here; write the path in full") from None


# --- temporary files --------------------------------------------------------------------------------------------------

_OWNER = re.compile(r"~([\w-]+)~(\d+)~")
_DAY = 86_400.0


def owned(what: str) -> str:
    """``what`` with the machine and process that it belongs to, so that what a killed process leaves is known."""
    return f"{what}~{_machine()}~{os.getpid()}~"


def _machine() -> str:
    return re.sub(r"[^\w-]", "-", platform.node()) or "host"


def abandoned(paths: Iterable[Path]) -> list[Path]:
    """Those that :func:`owned` names and whose process is gone; of another machine: those a day old."""
    return [path for path in paths if (found := _OWNER.search(path.name)) and _is_gone(path, found[1], int(found[2]))]


def _is_gone(path: Path, machine: str, process: int) -> bool:
    if machine != _machine():
        try:
            return time.time() - path.lstat().st_mtime > _DAY
        except FileNotFoundError:
            return False
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:  # it runs, as somebody else
        pass
    return False


def sha256_of(path: Path) -> str:
    """The sha256 of a file, read piece by piece."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remove(path: Path) -> None:
    """Delete a file or folder, as far as that is possible."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def beside(place: Path) -> Iterator[Path]:
    """A path beside ``place`` to write to, which becomes ``place`` when the block ends: the old content or the new,
    never half of one. What fails leaves nothing, and what killed processes left there is removed."""
    for left in abandoned(place.parent.glob("*~*~*")):
        remove(left)
    unfinished = place.with_name(owned(place.name))
    try:
        yield unfinished
        unfinished.replace(place)
    finally:
        if os.path.lexists(unfinished):
            remove(unfinished)


def check_folder(folder: Path, flag: str) -> None:
    """Fail now, not hours into the run, if the folder to write to can be none. Leaves nothing behind.

    Raises:
        UserError: if a file stands there or above, or the folder cannot be made; ``flag`` names another place.
    """
    there = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    if not there.is_dir():
        raise UserError(f"{there} is a file, so {folder} can be no folder; name another with {flag}")
    missing = [path for path in (folder, *folder.absolute().parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be made: {error.strerror}; name another with {flag}") from None
    finally:
        for path in missing:
            with suppress(OSError):  # it was not made, or another process put something there
                path.rmdir()


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """A terminal that closes and a scheduler that ends its job stop a command as Ctrl-C does: said, and tidied up."""

    def stop(number: int, _: object) -> None:
        raise KeyboardInterrupt(number)

    before = {}
    if threading.current_thread() is threading.main_thread():
        for name in ("SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)  # Windows has no SIGHUP
            if number is not None and signal.getsignal(number) == signal.SIG_DFL:  # nohup ignores it
                before[number] = signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
