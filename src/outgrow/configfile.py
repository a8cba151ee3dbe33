"""Grids from YAML, spelled as in Python and on the command line; what is wrong is said with its line."""

from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from outgrow.config import Grid, preset_fields
from outgrow.errors import UserError, unknown_name

__all__ = ["read_grid", "read_sweep", "to_yaml"]


def read_grid(path: Path) -> dict[str, Any]:
    """The fields of one grid that a YAML file sets.

    Raises:
        UserError: if the file cannot be read or holds more than one grid.
    """
    grids = _read(path)
    if len(grids) != 1:
        raise UserError(f"{path} holds {len(grids)} grids; run it with `outgrow sweep {path}`")
    return grids[0]


def read_sweep(path: Path) -> list[Grid]:
    """The grids of a YAML file: a mapping for one, a list of mappings for several.

    Raises:
        UserError: if the file cannot be read; names file and line.
    """
    return [Grid(**grid) for grid in _read(path)]


def to_yaml(*grids: Grid) -> str:
    """Grids as YAML that :func:`read_sweep` reads back, every field written out; one alone is a mapping."""
    import yaml

    content = [{k: list(v) if isinstance(v, tuple) else v for k, v in asdict(grid).items()} for grid in grids]
    return yaml.safe_dump(content[0] if len(content) == 1 else content, sort_keys=False, allow_unicode=True, width=110)


def _read(path: Path) -> list[dict[str, Any]]:
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 (byte {error.start}); save it as UTF-8") from None
    try:
        content: Any = yaml.safe_load(text)
        node: Any = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "no YAML"
        raise UserError(f"{path}{line}: {problem}; check indentation, colons and quotes there") from None
    if not content:
        raise UserError(f"{path} is empty; `outgrow run --print-config` prints a complete one")
    grids = content if isinstance(content, list) else [content]
    nodes = node.value if isinstance(content, list) else [node]
    return [_grid(grid, where, path) for grid, where in zip(grids, nodes, strict=True)]


def _grid(content: Any, node: Any, path: Path) -> dict[str, Any]:
    if not isinstance(content, Mapping):
        raise UserError(f"{path} line {node.start_mark.line + 1}: expected field: value, found {content!r}")
    known = {f.name: f for f in fields(Grid)}
    lines = {key.value: value.start_mark.line + 1 for key, value in node.value}
    values: dict[str, Any] = {}
    for name, value in content.items():
        where = f"{path} line {lines.get(str(name), '?')}"
        if name == "preset":
            try:
                values = {**preset_fields(str(value)), **values}  # what else the file says goes over it
            except UserError as error:
                raise UserError(f"{where}: {error}") from None
            continue
        if name not in known:
            raise UserError(f"{where}: {unknown_name('field', str(name), known)}")
        values[name] = _fitted(value, known[name].type, f"{where}: {name}")
    return values


def _fitted(value: Any, kind: Any, what: str) -> Any:
    """``value`` as the field's annotation says; a single name stands for a list of one."""
    text = getattr(kind, "__name__", str(kind)) if isinstance(kind, type) else str(kind)
    if "tuple" in text:
        values = value if isinstance(value, list) else [value]
        if not all(isinstance(v, str) for v in values):
            raise UserError(f"{what} must be a name or a list of names, not {value!r}")
        return tuple(values)
    if value is None and "None" in text:
        return None
    for name, accepted in (("bool", (bool,)), ("float", (int, float)), ("int", (int,)), ("str", (str,))):
        if name in text:
            if not isinstance(value, accepted) or (isinstance(value, bool) and name != "bool"):
                raise UserError(f"{what} must be of type {name}, not {value!r}")
            return value
    raise AssertionError(f"field of type {text}")
