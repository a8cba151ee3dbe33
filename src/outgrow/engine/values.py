"""How a result is kept: as plain JSON in its record, or in files that numpy, polars or its own class reads.

A class reads and writes itself by ``save(folder)``, a method, and ``load(folder)``, a class method.
"""

import importlib
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from outgrow.errors import UserError

__all__ = ["load", "save"]


def save(value: Any, folder: Path) -> str | None:
    """Write ``value`` into ``folder``; returns what :func:`load` reads it back by, None for plain JSON (no files).

    Raises:
        TypeError: for an array of Python objects, which only a pickle could hold.
    """
    kind = type(value)
    if isinstance(value, np.ndarray):
        return _save_arrays({"array": value}, folder, "array")
    if isinstance(value, Mapping) and value and all(isinstance(v, np.ndarray) for v in value.values()):
        return _save_arrays(value, folder, "arrays")
    if (polars := sys.modules.get("polars")) and isinstance(value, polars.DataFrame):
        value.write_parquet(folder / "table.parquet")
        return "table"
    if hasattr(kind, "save") and hasattr(kind, "load"):
        value.save(folder)
        return f"{kind.__module__}:{kind.__qualname__}"
    return None


def _save_arrays(arrays: Mapping[str, Any], folder: Path, kind: str) -> str:
    for name, array in arrays.items():
        if array.dtype == object:
            raise TypeError(f"the array {name} holds Python objects; make it one of numbers or texts")
    np.savez(folder / f"{kind}.npz", **arrays)
    return kind


def load(kind: str, folder: Path, known: Iterable[str]) -> Any:
    """The value that :func:`save` wrote as ``kind``.

    A record may come from anybody, so a module that it names is imported only if it is one of the ``known``; a user's
    has to be there already.

    Raises:
        UserError: if the class is in a file of the user's that was not loaded.
    """
    if kind in ("array", "arrays"):
        with np.load(folder / f"{kind}.npz", allow_pickle=False) as file:
            return file["array"] if kind == "array" else dict(file)
    if kind == "table":
        import polars as pl

        return pl.read_parquet(folder / "table.parquet")
    module, _, name = kind.partition(":")
    found = importlib.import_module(module) if kind in known else sys.modules.get(module)
    cls: Any = found
    for part in name.split("."):
        cls = getattr(cls, part, None)
    if not isinstance(cls, type) or not hasattr(cls, "load"):
        raise UserError(f"a stored result is of the class {kind}, which is not loaded; name its file with use=...")
    return cls.load(folder)
