"""Lists of all that is registered, and the docs' tables made from them.

``python -m outgrow.report.reference docs/methods.md docs/tasks.md`` renews the tables between the pages' markers.
"""

import ast
import dataclasses
import inspect
import sys
from collections.abc import Callable, Mapping
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from outgrow.identity import is_inside
from outgrow.protocols import SUPERVISORS
from outgrow.registry import REGISTRIES, Registry
from outgrow.report.figures import ANALYSES, FIGURES
from outgrow.strategies import STRATEGIES, TRAINERS, VARIANTS, canonical_strategy
from outgrow.tasks import tasks_table

__all__ = ["Method", "index", "listing", "meanings", "tasks_index", "write"]


class Method(NamedTuple):
    """One line of ``outgrow methods``."""

    kind: str
    name: str
    spelling: str
    """With all its options; one that must be given reads ``name=...``."""
    about: str
    """The first sentence of its docstring."""
    source: str
    """The paper it is from, and the file where it is defined if that is not in this package."""
    cost: str
    value: Any
    """The class or function."""
    defaults: Mapping[str, str]
    """Its options, and how their defaults are spelled."""


def listing() -> list[Method]:
    """Everything that can be named in a run and its report, kind by kind. Tasks and models have lists of their own."""
    labels = (REGISTRIES[kind] for kind in ("loss", "transform", "label model"))
    kinds = (STRATEGIES, *labels, TRAINERS, SUPERVISORS, FIGURES, ANALYSES)
    return [_method(registry, name) for registry in kinds for name in registry]


def index() -> str:
    """A Markdown table: a paper, what it did in one line, and how you spell that here."""
    rows = [
        *_papers(STRATEGIES, "{}"),
        *((paper, what, canonical_strategy(text)) for paper, what, text in VARIANTS),
        *_papers(REGISTRIES["loss"], "naive(loss={})"),
        *_papers(REGISTRIES["transform"], "naive(transforms=({},))"),
        *_papers(REGISTRIES["label model"], "ensemble(by={})"),
    ]
    lines = [f"| {_cell(paper)} | {_cell(what)} | `{spelling}` |" for paper, what, spelling in rows]
    return "\n".join(["| paper | what | spelling |", "|---|---|---|", *lines])


def _papers(registry: Registry[Any], spelling: str) -> list[tuple[str, str, str]]:
    """What the package itself defines: paper, what, spelling."""
    methods = [(name, _method(registry, name)) for name, value in registry.items() if is_inside(value)]
    return [(method.source, method.about, spelling.format(name)) for name, method in methods]


def tasks_index() -> str:
    """One row per task, and below it what is known to mislead in it."""
    lines = ["| task | a row | classes | rows | licence | source |", "|---|---|---|---|---|---|"]
    traps = []
    for task in tasks_table():
        classes = task["classes"] or ()
        named = ", ".join(classes) if 0 < len(classes) <= 3 else str(len(classes) or "yours")
        rows = f"{task['rows']:,}" if task["rows"] else "as there"
        licence = task["licence"] + (" ⚑" if task["restricted"] else "")
        cells = (f"`{task['name']}`", task["about"], named, rows, licence, task["source"])
        lines.append(f"| {' | '.join(map(_cell, cells))} |")
        if task["traps"]:
            traps.append(f"- `{task['name']}`: {task['traps']}")
    return "\n".join([*lines, "", "Traps, and what is done about them:", "", *traps])


_TABLES: Mapping[str, Callable[[], str]] = {"methods": index, "tasks": tasks_index}
"""What a page may hold between ``<!-- NAME: begin -->`` and ``<!-- NAME: end -->``."""


def write(page: str) -> str:
    """The text of a page with every table between its markers made anew."""
    for name, table in _TABLES.items():
        begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
        if begin in page:
            before, _, rest = page.partition(begin)
            _, found, after = rest.partition(end)
            assert found, f"the page lacks {end}"
            page = f"{before}{begin}\n\n{table()}\n\n{end}{after}"
    return page


def _method(registry: Registry[Any], name: str) -> Method:
    value = registry[name]
    doc = inspect.getdoc(value) or ""
    defaults = _defaults(value, registry)
    spelled = ", ".join(f"{option}={default}" for option, default in defaults.items())
    source = [getattr(value, "source", ""), "" if is_inside(value) else _file(value)]
    return Method(
        kind=registry.plural,
        name=name,
        spelling=f"{name}({spelled})" if spelled else name,
        about=doc.partition("\n")[0].rstrip("."),
        source=", ".join(filter(None, source)),
        cost=getattr(value, "cost", ""),
        value=value,
        defaults=defaults,
    )


def _defaults(value: Any, registry: Registry[Any]) -> dict[str, str]:
    """The options of a registered class and how their defaults are spelled; ... for one that must be given."""
    if not dataclasses.is_dataclass(value):
        return {}
    found = {}
    for option in (f for f in dataclasses.fields(value) if f.init):
        default = option.default_factory() if callable(option.default_factory) else option.default
        found[option.name] = "..." if default is dataclasses.MISSING else registry.spell(default)
    return found


def meanings(value: Any) -> dict[str, str]:
    """What the docstrings below the fields of a class and its bases say, on one line each; nothing of a function."""
    found: dict[str, str] = {}
    for base in reversed(value.__mro__[:-1] if isinstance(value, type) else ()):
        for field, text in pairwise(_bodies(base.__module__).get(base.__name__, [])):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, ast.Expr):
                said = text.value.value if isinstance(text.value, ast.Constant) else ""
                found[field.target.id] = " ".join(str(said).replace("``", "`").split())
    return found


@cache
def _bodies(module: str) -> dict[str, list[ast.stmt]]:
    """The statements of each class at the top of a module; none of a notebook's, which has no source."""
    try:
        tree = ast.parse(inspect.getsource(sys.modules[module]))
    except (KeyError, OSError, TypeError, SyntaxError):
        return {}
    return {node.name: node.body for node in tree.body if isinstance(node, ast.ClassDef)}


def _file(value: Any) -> str:
    """The name of the file that defines a class or function; of its module, such as a notebook's, if it has none."""
    file = getattr(sys.modules.get(value.__module__), "__file__", None)
    return Path(file).name if file else str(value.__module__)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    for given in map(Path, sys.argv[1:]):
        given.write_text(write(given.read_text(encoding="utf-8")), encoding="utf-8")
