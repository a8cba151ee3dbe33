"""The table of tasks in the docs, written from the registry: ``python -m outgrow.tasks.document docs/tasks.md``."""

import sys
from pathlib import Path

from outgrow.tasks import tasks_table

__all__ = ["markdown_table", "updated"]

_BEGIN, _END = "<!-- tasks: begin -->", "<!-- tasks: end -->"


def markdown_table() -> str:
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


def updated(page: str) -> str:
    """The page with the present table between its two markers."""
    before, rest = page.split(_BEGIN)
    _, after = rest.split(_END)
    return f"{before}{_BEGIN}\n\n{markdown_table()}\n\n{_END}{after}"


if __name__ == "__main__":
    (path,) = map(Path, sys.argv[1:])
    path.write_text(updated(path.read_text(encoding="utf-8")), encoding="utf-8")
