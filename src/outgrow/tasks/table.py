"""The user's own table as a task: read row by row, checked row by row.

Nothing is guessed and nothing is mended: every problem is counted, and the first is shown with its line.
"""

import hashlib
import math
import re
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from outgrow.archives import known_sha256
from outgrow.data import Examples
from outgrow.errors import UserError, nearest
from outgrow.tasks.readers import ENDINGS, Row, existing_file, format_of, no_column, read_rows, shown
from outgrow.tasks.registry import task

__all__ = ["table"]

_MAX_ID = 256
_MAX_NAMED_CLASSES = 20
_PARTS = {
    **dict.fromkeys(("a", "train", "supervisor", "supervision"), "A"),
    **dict.fromkeys(("b", "transfer", "student"), "B"),
    **dict.fromkeys(("t", "test"), "T"),
}
_SURROGATE = re.compile("[\ud800-\udfff]")
_WHOLE_FLOAT = re.compile(r"([+-]?\d+)\.0*")


def _content(options: Mapping[str, Any]) -> str:
    file = existing_file(options["path"])
    return f"{format_of(file)}:{known_sha256(file)}"


@task(
    name="table",
    content=_content,
    licence="yours",
    source=f"a file of yours: {ENDINGS}",
    about="Your own texts and classes.",
    natural=True,
)
def table(
    *,
    path: str,
    text: str = "text",
    label: str | None = "label",
    weak: str | None = None,
    id: str | None = None,
    group: str | None = None,
    split: str | None = None,
    classes: tuple[str | int | bool, ...] | None = None,
    delimiter: str | None = None,
    encoding: str = "utf-8",
) -> Examples:
    """Examples from the user's own file. Memory grows with the columns named here, not with the file.

    Args:
        path: the file; its ending says the format.
        text: column of the texts. Numbers in a CSV are texts as well.
        label: column of the gold classes: text, whole numbers (``1.0`` is ``1``) or true/false. None, or a name that no
            column resembles, if there is no gold at all; ``weak`` and ``classes`` are then needed. Empty if gold is
            unknown; such a row can only go to part B.
        weak: column of your own weak labels, empty where there is none: class names, or for two classes the
            probability of the second one. Kept as meta columns ``weak.0``, ``weak.1`` ... (NaN where empty). If the
            whole column can be read both ways, it holds class names.
        id: column of unique ids; without it rows are ``row-1``, ``row-2`` ... by their place in the file.
        group: column of what rows belong to (question, document, author); a split keeps a group together. Without it
            rows with the same text, ignoring case and white space, are a group. Name the ``id`` column to make every
            row its own group.
        split: column that fixes each row's part: A (or train, supervisor, supervision), B (transfer, student) or
            T (test), in any case. Kept as meta column ``split``.
        classes: class names in the order you want; without it those found, sorted (numbers by value).
        delimiter: of a CSV; by default a comma, and a tab for ``.tsv``.
        encoding: of a text format; a byte-order mark is skipped.

    Raises:
        UserError: one line with the file, line, column and how to mend it.
    """
    file = existing_file(path)
    names = {"text": text, "label": label, "weak": weak, "id": id, "group": group, "split": split}
    columns = {role: column for role, column in names.items() if column is not None}
    may_lack = label if weak is not None and classes is not None else None
    problems = _Problems(file=file)
    found = _Columns(columns=columns, problems=problems)
    for row in _rows(file, sorted(set(columns.values())), may_lack, delimiter, encoding, problems):
        found.add(row)
    return found.examples(classes)


# --- problems ---------------------------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class _Problems:
    """Counts what is wrong with rows, by what mends it, and keeps the first of each kind."""

    file: Path
    first: dict[str, str] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, place: str, what: str, mend: str) -> None:
        self.first.setdefault(mend, f"{place}: {what}")
        self.counts[mend] += 1

    def check(self) -> None:
        for mend, what in self.first.items():
            others = self.counts.total() - self.counts[mend]
            alike = f" ({self.counts[mend]} rows like this)" if self.counts[mend] > 1 else ""
            more = f" ({others} more problems of other kinds)" if others else ""
            raise UserError(f"{self.file}, {what}{alike}; {mend}{more}")


# --- reading ----------------------------------------------------------------------------------------------------------


def _rows(
    file: Path,
    wanted: Sequence[str],
    may_lack: str | None,
    delimiter: str | None,
    encoding: str,
    problems: _Problems,
) -> Iterator[Row]:
    """The wanted columns of each row, except one that may be missing if no other resembles it. An object of JSON may
    lack some, but not every one of them."""
    kind = format_of(file)
    seen: dict[str, None] = {}

    def chosen(there: Sequence[str]) -> Sequence[str]:
        if kind in ("json", "jsonl"):
            if len(seen) < 1000:  # only for naming the nearest column
                seen.update(dict.fromkeys(there))
            seen.update(dict.fromkeys(column for column in wanted if column in there))
        else:
            lacks = may_lack not in there and not nearest(may_lack or "", there)
            needed = [column for column in wanted if not lacks or column != may_lack]
            _check_header(there, needed, delimiter or ("\t" if kind == "tsv" else ","), file)
            return needed
        return wanted

    yield from read_rows(file, chosen, delimiter=delimiter, encoding=encoding, bad_row=problems.add)
    for column in wanted:
        if seen and column not in seen and (column != may_lack or nearest(column, list(seen))):
            raise no_column(str(file), list(seen), column)


def _check_header(header: Sequence[str], wanted: Sequence[str], delimiter: str, file: Path) -> None:
    for column in wanted:
        if (count := header.count(column)) > 1:
            raise UserError(f"{file}, line 1: the header has {count} columns {column!r}; rename all but one")
        for other in ",;\t|" if not count and len(header) == 1 else "":
            if other != delimiter and other in header[0]:
                what = f"no column {column!r}: the header is the one field {header[0]!r}"
                raise UserError(f"{file}, line 1: {what}; give delimiter={other!r}")
        if not count:
            raise no_column(str(file), header, column)


# --- checking ---------------------------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class _Columns:
    """The wanted columns of the rows read so far, one entry per good row."""

    columns: Mapping[str, str]
    """Role (text, label, weak, id, group, split) to column name."""
    problems: _Problems
    texts: list[str] = field(default_factory=list)
    labels: list[str | None] = field(default_factory=list)
    weak: list[str | float | None] = field(default_factory=list)
    parts: list[str] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    ids: dict[str, int] = field(default_factory=dict)
    """Id to its line."""
    num_rows: int = 0
    interned: dict[str, str] = field(default_factory=dict)
    """Each class name once, however many rows have it."""
    group_of_text: dict[bytes, str] = field(default_factory=dict)
    lines: "array[int]" = field(default_factory=lambda: array("q"))
    unit: str = "line"

    def add(self, row: Row) -> None:
        """Take a row in. What is wrong with it is noted, and every list grows all the same."""
        self.num_rows += 1
        self.lines.append(row.number)
        self.unit = row.unit
        values = {role: row.values.get(column) for role, column in self.columns.items()}
        text = self._text(values["text"])
        name = self._id(values["id"]) if "id" in values else f"row-{self.num_rows}"
        self.ids.setdefault(name, row.number)
        label = self._class_name("label", values.get("label"))
        self.texts.append(text)
        self.labels.append(label)
        self.groups.append(self._group(values["group"]) if "group" in values else self._group_of(text, name))
        if "weak" in values:
            self.weak.append(self._weak(values["weak"]))
        if "split" in values:
            self.parts.append(self._part(values["split"], label))

    def _wrong(self, role: str, what: str, mend: str, row: int = -1) -> None:
        """Note what is wrong with a row, the last one by default."""
        self.problems.add(f"{self.unit} {self.lines[row]}, column {self.columns[role]!r}", what, mend)

    def _text(self, value: Any) -> str:
        if value is None or (isinstance(value, str) and not value.strip()):
            self._wrong("text", "the text is empty", "fill it in or drop the row")
        elif not isinstance(value, str):
            self._wrong("text", f"{shown(value)} is no text", "store the column as text")
        elif _SURROGATE.search(value):
            self._wrong("text", "the text holds half a character (a lone surrogate)", "write the file again as UTF-8")
        else:
            return value
        return ""

    def _id(self, value: Any) -> str:
        name = self._name("id", value)
        if name in self.ids and name:
            first = f"{self.unit} {self.ids[name]}"
            self._wrong("id", f"the id {name!r} is already in {first}", "make ids unique")
        return name

    def _name(self, role: str, value: Any) -> str:
        """A value of the id or group column as text."""
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if value is None or value == "":
            self._wrong(role, f"the {role} is empty", f"fill it in, or leave the option {role} out")
        elif isinstance(value, bool) or not isinstance(value, str | int) or _SURROGATE.search(str(value)):
            self._wrong(role, f"{shown(value)} is no {role}", "use texts or whole numbers")
        elif role == "id" and len(str(value)) > _MAX_ID:
            self._wrong(role, f"the id has {len(str(value))} characters", f"use ids of at most {_MAX_ID}")
        else:
            return str(value)
        return ""

    def _group(self, value: Any) -> str:
        group = self._name("group", value)
        # A whole passage may name the group; arrays of text are as wide as their longest entry.
        return group if len(group) <= 64 else hashlib.sha256(group.encode()).hexdigest()

    def _group_of(self, text: str, name: str) -> str:
        words = hashlib.sha256(" ".join(text.lower().split()).encode()).digest()
        return self.group_of_text.setdefault(words, name)

    def _class_name(self, role: str, value: Any) -> str | None:
        name = _class_name(value)
        if name is None and not _is_empty(value):
            self._wrong(role, f"{shown(value)} is no class", "classes are texts, whole numbers or true/false")
        return None if name is None else self.interned.setdefault(name, name)

    def _weak(self, value: Any) -> str | float | None:
        if isinstance(value, float) and not value.is_integer() and math.isfinite(value):
            return value  # a probability; whether the column may hold them is known at the end
        return self._class_name("weak", value)

    def _part(self, value: Any, label: str | None) -> str:
        part = _PARTS.get(value.strip().lower()) if isinstance(value, str) else None
        if part is None:
            self._wrong("split", f"{shown(value)} is no part of a split", "use A, B or T (or train, transfer, test)")
        elif part != "B" and label is None:
            self._wrong("label", f"a row of part {part} has no label", "only rows of part B may have none")
        return part or ""

    def examples(self, classes: tuple[str | int | bool, ...] | None) -> Examples:
        """Everything as :class:`Examples`, once all rows are in."""
        if not self.num_rows:
            self.problems.check()
            raise UserError(f"{self.problems.file}: it has no rows")
        names = self._classes(classes)
        self._check_classes(names, classes is not None and "weak" in self.columns)
        number = {name: c for c, name in enumerate(names)}
        gold = np.array([-1 if label is None else number.get(label, -2) for label in self.labels], dtype=np.int64)
        self._note_unknown(np.flatnonzero(gold == -2), "label", self.labels, names)
        meta: dict[str, npt.NDArray[Any]] = {}
        if "weak" in self.columns:
            probs = self._weak_probs(names)
            meta = {f"weak.{c}": probs[:, c] for c in range(len(names))}
        if "split" in self.columns:
            meta["split"] = np.array(self.parts, dtype=np.str_)
        self.problems.check()
        return Examples(
            ids=np.array(list(self.ids), dtype=np.str_),
            inputs=tuple(self.texts),
            gold=gold,
            classes=names,
            groups=np.array(self.groups, dtype=np.str_),
            meta=meta,
        )

    def _check_classes(self, names: tuple[str, ...], may_lack_gold: bool) -> None:
        labels = set(self.labels)
        present = [name for name in names if name in labels]
        if len(present) < 2 and not may_lack_gold:
            self.problems.check()
            only = f"only the class {present[0]!r}" if present else "no label at all"
            raise UserError(
                f"{self.problems.file}: {self._label_column()} has {only}; at least two classes are needed, or weak "
                "labels and the names of all classes: weak='...', classes=['...', '...']"
            )

    def _label_column(self) -> str:
        return f"column {self.columns['label']!r}" if "label" in self.columns else "label=None"

    def _classes(self, given: tuple[str | int | bool, ...] | None) -> tuple[str, ...]:
        if given is not None:
            names = tuple(_class_name(name) or "" for name in given)
            if len(names) < 2 or "" in names or len(set(names)) < len(names):
                raise UserError(f"classes must be at least two different names, not {list(given)}")
            return names
        found = {label for label in self.labels if label is not None}
        labeled = sum(label is not None for label in self.labels)
        if len(found) > max(_MAX_NAMED_CLASSES, labeled // 2):
            where = f"{self.problems.file}: {self._label_column()}"
            raise UserError(
                f"{where} has {len(found)} different values in {labeled} rows, too many to be classes; "
                "name the column of the classes with label='...'"
            )
        numbers = {name: _number(name) for name in found}
        if all(value is not None for value in numbers.values()):
            return tuple(sorted(found, key=lambda name: (numbers[name], name)))
        return tuple(sorted(found))

    def _weak_probs(self, names: tuple[str, ...]) -> npt.NDArray[np.float64]:
        number = {name: c for c, name in enumerate(names)}
        probs = np.full((len(self.weak), len(names)), np.nan)
        given = [(row, value) for row, value in enumerate(self.weak) if value is not None]
        strangers = [value for _, value in given if value not in number]
        if len(names) == 2 and any(_number(value) is not None for value in strangers):
            for row, value in given:
                second = _number(value)
                if second is None or not 0 <= second <= 1:
                    what = f"{shown(value)} is no probability"
                    self._wrong("weak", what, "write that of the second class, from 0 to 1", row)
                else:
                    probs[row] = 1 - second, second
            return probs
        for row, value in given:
            if isinstance(value, str) and value in number:
                probs[row] = np.eye(len(names))[number[value]]
        bad = np.array([row for row, value in given if value not in number], dtype=np.int64)
        self._note_unknown(bad, "weak", self.weak, names)
        return probs

    def _note_unknown(
        self, rows: npt.NDArray[np.int64], role: str, values: Sequence[Any], names: tuple[str, ...]
    ) -> None:
        known = ", ".join(map(repr, names[:10])) + (", ..." if len(names) > 10 else "")
        for row in rows.tolist():
            self._wrong(role, f"unknown class {shown(values[row])}", f"the classes are {known}", row)


def _is_empty(value: Any) -> bool:
    return (
        value is None or (isinstance(value, str) and not value.strip()) or (isinstance(value, float) and value != value)
    )


def _class_name(value: Any) -> str | None:
    """One name for one meaning, whatever format the value came from; None for what is no class."""
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case float():
            return str(int(value)) if value.is_integer() else None
        case str() if value.strip() and not _SURROGATE.search(value):
            name = value.strip()
            whole = _WHOLE_FLOAT.fullmatch(name)  # integers next to an empty cell are written 1.0 by data frames
            return whole[1] if whole else name
    return None


def _number(value: str | float) -> float | None:
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
