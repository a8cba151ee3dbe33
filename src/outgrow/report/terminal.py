"""Layout in the terminal: a table where all of it fits, else one block per row. Nothing is cut, no word is broken."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, NamedTuple

from outgrow.errors import printable, without_secrets

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["WIDE", "Column", "Line", "console", "show_facts", "show_listing", "show_table", "show_text"]

WIDE = 110
"""Columns of a terminal from which on results are shown as a table."""
_ENDLESS = 100_000  # the width of a file or pipe: its lines are as long as they are
_GAP = 2  # spaces between columns
_NOTHING = ("", "–")  # cells that a block leaves out
_NARROWEST = 24  # a column that wraps has at least this many


class Line(NamedTuple):
    """A row: one text per column, and a rich style."""

    cells: Sequence[str]
    style: str = ""


@dataclass(frozen=True)
class Column:
    """A column of a table, or the line of a block that stands for it."""

    name: str
    unit: str = ""
    """Follows the name in the head of a table, and the number in a block."""
    title: bool = False
    """Part of the first line of a block, where it needs no name. Titles come before the other columns."""
    number: bool = False
    """To the right in a table."""
    wraps: bool = False
    """May take several lines, between words."""

    @property
    def head(self) -> str:
        """Above the column."""
        return f"{self.name}{' ' if self.unit == '%' else ', '}{self.unit}" if self.unit else self.name

    def named(self, text: str) -> str:
        """A cell with its name and unit, as a block shows it."""
        unit = f" {self.unit}" if any(c.isdigit() for c in text) else ""
        return f"{self.name} {text}{unit if self.unit else ''}"


def console() -> "Console":
    """Standard output, as wide as the terminal or ``$COLUMNS``. Into a file or pipe, no line is wrapped."""
    from rich.console import Console

    found = Console(highlight=False)
    return found if found.is_terminal or "COLUMNS" in os.environ else Console(width=_ENDLESS, highlight=False)


def show_table(console: "Console", columns: Sequence[Column], lines: Sequence[Line], *, least: int = 0) -> None:
    """Rows below their heads if the console has ``least`` columns and every line fits, if need be below its titles;
    else a block for each row."""
    shown = [i for i, c in enumerate(columns) if c.title or any(line.cells[i] for line in lines)]
    columns, lines = [columns[i] for i in shown], [Line([line.cells[i] for i in shown], line.style) for line in lines]
    titles = sum(c.title for c in columns)  # they come first
    if console.width >= least and (widths := _widths(columns, lines, console.width)):
        _show_rows(console, [Line([c.head for c in columns], "bold"), *lines], columns, widths)
    elif least and console.width >= least and (widths := _rest_widths(columns, lines, console.width)):
        rest = columns[titles:]
        _show_rows(console, [Line([c.head for c in rest], "bold")], rest, widths, indent=2)
        for line in lines:
            _show_title(console, line.cells[:titles], line.style)
            _show_rows(console, [Line(line.cells[titles:], line.style)], rest, widths, indent=2)
    else:
        for line in lines:
            _show_block(console, columns, line, titles)


def show_listing(console: "Console", heads: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
    """One line for each entry: all cells but the last are whole, and the last ends in … where the line does."""
    from rich.cells import cell_len

    widths = [max(map(cell_len, cells)) for cells in zip(heads, *lines, strict=True)][:-1]
    left = max(console.width - sum(widths) - _GAP * len(widths), 1)
    for number, (*cells, last) in enumerate([heads, *lines]):
        first, *more = _wrapped(last, left)
        if more:
            first = f"{_wrapped(last, left - 2)[0]} …"
        padded = [c + " " * (w - cell_len(c)) for c, w in zip(cells, widths, strict=True)]
        _say(console, (" " * _GAP).join([*padded, first]), "" if number else "bold")


def show_facts(console: "Console", facts: Sequence[tuple[str, str]]) -> None:
    """Names and what they are, below each other; facts without a text are left out. Long texts wrap to their right."""
    from rich.cells import cell_len

    facts = [(name, text) for name, text in facts if text]
    width = max((cell_len(name) for name, _ in facts), default=0)
    for name, text in facts:
        first, *more = _wrapped(text, console.width - width - _GAP)
        _say(console, f"{name}{' ' * (width - cell_len(name) + _GAP)}{first}")
        for line in more:
            _say(console, " " * (width + _GAP) + line)


def show_text(console: "Console", text: str, style: str = "", indent: int = 0, hanging: int = 0) -> None:
    """A paragraph, wrapped between words; lines after the first are indented by ``hanging`` more."""
    for number, line in enumerate(_wrapped(text, console.width - indent - hanging)):
        _say(console, " " * (indent + hanging * (number > 0)) + line, style)


def _say(console: "Console", line: str, style: str = "") -> None:
    """One line. What is longer than the console, the terminal wraps: cut or broken, it could not be copied."""
    from rich.text import Text

    console.print(
        Text(printable(without_secrets(line.rstrip()))), style=style, overflow="ignore", crop=False, no_wrap=True
    )


def _wrapped(text: str, width: int) -> list[str]:
    """The lines of a text, broken between words only. Characters of East Asian scripts take two columns."""
    from rich.cells import cell_len

    lines: list[str] = []
    for given in text.split("\n"):
        if cell_len(given) <= width:  # as it is, with all its spaces
            lines.append(given)
            continue
        lines.append(given[: len(given) - len(given.lstrip())])
        for word in given.split():
            longer = f"{lines[-1]}{' ' if lines[-1].strip() else ''}{word}"
            if lines[-1].strip() and cell_len(longer) > width:
                lines.append(word)
            else:
                lines[-1] = longer
    return lines


def _widths(columns: Sequence[Column], lines: Sequence[Line], width: int) -> list[int] | None:
    """The width of each column, or None if a word or a column that does not wrap would have to be broken."""
    from rich.cells import cell_len

    texts = [[column.head, *(line.cells[i] for line in lines)] for i, column in enumerate(columns)]
    wanted = [max(cell_len(part) for text in own for part in text.split("\n")) for own in texts]
    words = [max((cell_len(word) for text in own for word in text.split()), default=0) for own in texts]
    least = [
        min(want, max(word, _NARROWEST)) if column.wraps else want
        for column, want, word in zip(columns, wanted, words, strict=True)
    ]
    spare = width - sum(least) - _GAP * (len(columns) - 1)
    if spare < 0:
        return None
    lacking = [want - has for want, has in zip(wanted, least, strict=True)]
    share = min(1.0, spare / sum(lacking)) if sum(lacking) else 0.0
    return [has + int(lack * share) for has, lack in zip(least, lacking, strict=True)]


def _rest_widths(columns: Sequence[Column], lines: Sequence[Line], width: int) -> list[int] | None:
    """The widths of the columns that are no titles, where those stand on lines of their own."""
    titles = sum(c.title for c in columns)
    return _widths(columns[titles:], [Line(line.cells[titles:]) for line in lines], width - 2)


def _show_rows(
    console: "Console", lines: Sequence[Line], columns: Sequence[Column], widths: Sequence[int], indent: int = 0
) -> None:
    from rich.cells import cell_len

    for line in lines:
        wrapped = [_wrapped(cell, width) for cell, width in zip(line.cells, widths, strict=True)]
        for parts in zip_longest(*wrapped, fillvalue=""):
            padded = []
            for part, column, width in zip(parts, columns, widths, strict=True):
                space = " " * (width - cell_len(part))
                padded.append(space + part if column.number else part + space)
            _say(console, " " * indent + (" " * _GAP).join(padded), line.style)


def _show_title(console: "Console", names: Sequence[str], style: str) -> None:
    """Names on one line; where that is too short for all of them, it ends between two."""
    for number, line in enumerate(_packed(names, console.width - 4, " · ")):
        show_text(console, line, style, indent=4 * (number > 0), hanging=4 * (number == 0))


def _show_block(console: "Console", columns: Sequence[Column], line: Line, titles: int) -> None:
    """The titles of a row on one line, its other cells below: as many on a line as fit, long texts on their own."""
    from rich.cells import cell_len

    _show_title(console, line.cells[:titles], line.style)
    told = [(c, cell) for c, cell in zip(columns[titles:], line.cells[titles:], strict=True) if cell not in _NOTHING]
    for packed in _packed([column.named(cell) for column, cell in told if not column.wraps], console.width - 2, "   "):
        if cell_len(packed) <= console.width - 2:
            _say(console, f"  {packed}", line.style)
        else:
            show_text(console, packed, line.style, indent=2, hanging=2)
    for text in (cell for column, cell in told if column.wraps):
        show_text(console, text, line.style, indent=2)


def _packed(items: Iterable[str], width: int, between: str) -> list[str]:
    """Items side by side, as many on a line as fit."""
    from rich.cells import cell_len

    packed: list[str] = []
    for item in items:
        if packed and cell_len(packed[-1]) + cell_len(between) + cell_len(item) <= width:
            packed[-1] += f"{between}{item}"
        else:
            packed.append(item)
    return packed
