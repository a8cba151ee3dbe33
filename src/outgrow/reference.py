"""Lists of all that is registered, and the docs' tables made from them.

``python -m outgrow.reference docs/methods.md docs/tasks.md`` writes the tables between the pages' markers anew.
"""

import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

from outgrow.labels import LABEL_MODELS, TRANSFORMS
from outgrow.losses import LOSSES
from outgrow.registry import spell_call
from outgrow.strategies import STRATEGIES, TRAINERS, VARIANTS, canonical_strategy
from outgrow.supervisors import SUPERVISORS
from outgrow.tasks import tasks_table

__all__ = ["Method", "index", "listing", "tasks_index", "write"]


class Method(NamedTuple):
    """One line of ``outgrow methods``."""

    kind: str
    spelling: str
    """With all its options."""
    about: str
    """The first sentence of what it says of itself."""
    source: str
    cost: str


def listing() -> list[Method]:
    """Everything that can be chosen, kind by kind."""
    kinds: dict[str, Mapping[str, type[Any]]] = {
        "strategies": STRATEGIES,
        "losses": LOSSES,
        "transforms": TRANSFORMS,
        "label models": LABEL_MODELS,
        "trainers": TRAINERS,
        "supervisors": SUPERVISORS,
    }
    return [_method(kind, name, cls) for kind, registry in kinds.items() for name, cls in registry.items()]


def index() -> str:
    """A Markdown table from papers to what each did, in one line, and how it is spelled here."""
    rows = [
        *((m.source, m.about, f"`{name}`") for name, m in _named("strategies", STRATEGIES)),
        *((paper, what, f"`{canonical_strategy(text)}`") for paper, what, text in VARIANTS),
        *((m.source, m.about, f"`naive(loss={name})`") for name, m in _named("losses", LOSSES)),
        *((m.source, m.about, f"`naive(transforms=({name},))`") for name, m in _named("transforms", TRANSFORMS)),
        *((m.source, m.about, f"`ensemble(by={name})`") for name, m in _named("", LABEL_MODELS)),
    ]
    lines = ["| paper | what | spelling |", "|---|---|---|"]
    for paper, what, spelling in rows:
        lines.append(f"| {_cell(paper)} | {_cell(what)} | {spelling} |")
    return "\n".join(lines)


def tasks_index() -> str:
    """One row per task, and below it what is known to mislead in each."""
    lines = ["| task | a row | classes | rows | licence | source |", "|---|---|---|---|---|---|"]
    traps = []
    for task in tasks_table():
        classes = task["classes"] or ()
        named = ", ".join(classes) if 0 < len(classes) <= 3 else str(len(classes) or "yours")
        rows = f"{task['rows']:,}" if task["rows"] else "as there"
        licence = task["licence"] + (" ⚑" if task["restricted"] else "")
        cells = (f"`{task['name']}`", task["about"], named, rows, licence, task["source"])
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
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


def _named(kind: str, registry: Mapping[str, type[Any]]) -> list[tuple[str, Method]]:
    return [(name, _method(kind, name, cls)) for name, cls in registry.items()]


def _method(kind: str, name: str, cls: type[Any]) -> Method:
    first = (inspect.getdoc(cls) or "").partition("\n")[0]
    value = cls()
    spelling = spell_call(name, {f.name: getattr(value, f.name) for f in fields(cls)})
    return Method(kind, spelling, first.rstrip("."), getattr(cls, "source", ""), getattr(cls, "cost", ""))


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    for given in map(Path, sys.argv[1:]):
        given.write_text(write(given.read_text(encoding="utf-8")), encoding="utf-8")
