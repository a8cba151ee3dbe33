"""The columns of the user's own table: how cells are read as classes, weak labels, ids, groups and parts.

Nothing is mended in silence: every problem is counted, and the first is shown with its line. What is read in one of
several possible ways, united or odd is said in the notes of the examples.
"""

import difflib
import hashlib
import math
import re
import unicodedata
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from outgrow.data import Examples
from outgrow.errors import UserError, counted
from outgrow.tasks.readers import Row, shown

__all__ = ["Columns", "Problems", "class_name", "code_of"]

NO_GOLD = "weak labels and the names of all classes: table(..., weak='column', classes=['...', '...'])"
"""What a table without gold needs."""
_MAX_ID = 256
_MAX_NAMED_CLASSES = 20
_MAX_CLASS = 256
_ROUNDING = 1e-6
"""By how much a probability may lie beyond 0 or 1: what single precision and printed digits leave."""
_UNKNOWN = frozenset(
    [
        "-1",
        "-9",
        "-99",
        "-999",
        "?",
        "-",
        "--",
        ".",
        "#n/a",
        "<na>",
        "n/a",
        "n.a.",
        "na",
        "nan",
        "nil",
        "none",
        "null",
        "unknown",
        "unk",
        "unlabeled",
        "unlabelled",
        "missing",
        "abstain",
        "undefined",
        "undecided",
    ]
)
"""What often stands for "no label", in lower case."""
_OPINIONS = ("weak", "second")
"""Roles of columns that hold somebody's labels."""
_PARTS = {
    **dict.fromkeys(("a", "train", "supervisor", "supervision"), "A"),
    **dict.fromkeys(("b", "transfer", "student"), "B"),
    **dict.fromkeys(("t", "test"), "T"),
}
_SURROGATE = re.compile("[\ud800-\udfff]")
_UNFIT = re.compile("[\ud800-\udfff\0]")
_WHOLE_FLOAT = re.compile(r"([+-]?\d+)\.0*")


@dataclass(kw_only=True)
class Problems:
    """Counts what is wrong with rows, by what mends it, and keeps the first of each kind."""

    file: Path
    first: dict[str, str] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, place: str, what: str, mend: str) -> None:
        """A problem at ``place``."""
        self.first.setdefault(mend, f"{place}: {what}")
        self.counts[mend] += 1

    def check(self) -> None:
        """Raise :class:`UserError` for the first problem, with how many there are."""
        for mend, what in self.first.items():
            others = self.counts.total() - self.counts[mend]
            alike = f" ({self.counts[mend]} rows like this)" if self.counts[mend] > 1 else ""
            more = f" ({others} more problems of other kinds)" if others else ""
            raise UserError(f"{self.file}, {what}{alike}; {mend}{more}")


@dataclass(kw_only=True)
class Columns:
    """The wanted columns of the rows read so far, one entry per good row."""

    columns: Mapping[str, str]
    """Role (text, label, weak, second, id, group, split) to column name."""
    problems: Problems
    abstain: dict[str, int]
    """What stands for "no label", and how often it did."""
    notes: list[str] = field(default_factory=list)
    hint: str = ""
    """How to say that a class is none, if one looks like a code for no label."""
    other_forms: Counter[str] = field(default_factory=Counter)
    """Class names that were in another Unicode form than NFC, and how often."""
    texts: list[str] = field(default_factory=list)
    labels: list[str | None] = field(default_factory=list)
    weak: list[str | float | None] = field(default_factory=list)
    second: list[str | float | None] = field(default_factory=list)
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
        for role in filter(values.__contains__, _OPINIONS):
            getattr(self, role).append(self._opinion(role, values[role]))
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
        elif "\0" in value:
            self._wrong("text", "the text holds a NUL character", "take NUL characters out of the file")
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
        elif isinstance(value, bool) or not isinstance(value, str | int) or _UNFIT.search(_digits(value)):
            self._wrong(role, f"{shown(value)} is no {role}", "use texts or whole numbers")
        elif role == "id" and len(_digits(value)) > _MAX_ID:
            self._wrong(role, f"the id has {len(_digits(value))} characters", f"use ids of at most {_MAX_ID}")
        else:
            return _digits(value)
        return ""

    def _group(self, value: Any) -> str:
        group = self._name("group", value)
        # A whole passage may name the group; arrays of text are as wide as their longest entry.
        return group if len(group) <= 64 else hashlib.sha256(group.encode()).hexdigest()

    def _group_of(self, text: str, name: str) -> str:
        words = hashlib.sha256(" ".join(text.lower().split()).encode()).digest()
        return self.group_of_text.setdefault(words, name)

    def _class_name(self, role: str, value: Any) -> str | None:
        if self.abstain and (code := code_of(value)) in self.abstain:
            self.abstain[code] += 1
            return None
        name = class_name(value)
        if name is None and not _is_empty(value):
            what = f"classes are texts of at most {_MAX_CLASS} characters without NUL, whole numbers or true/false"
            self._wrong(role, f"{shown(value)} is no class", what)
        if name is None:
            return None
        if isinstance(value, str) and not name.isascii() and not unicodedata.is_normalized("NFC", value):
            self.other_forms[name] += 1
        return self.interned.setdefault(name, name)

    def _opinion(self, role: str, value: Any) -> str | float | None:
        if isinstance(value, float) and not value.is_integer() and math.isfinite(value) and not self.abstain:
            return value  # a probability; whether the column may hold them is known at the end
        if isinstance(value, float) and not value.is_integer() and math.isfinite(value):
            return None if self._class_name(role, repr(value)) is None else value
        return self._class_name(role, value)

    def _part(self, value: Any, label: str | None) -> str:
        part = _PARTS.get(value.strip().lower()) if isinstance(value, str) else None
        if part is None:
            self._wrong("split", f"{shown(value)} is no part of a split", "use A, B or T (or train, transfer, test)")
        elif part != "B" and label is None:
            self._wrong("label", f"a row of part {part} has no label", "only rows of part B may have none")
        return part or ""

    def examples(self, classes: tuple[str | int | bool, ...] | None, weak_class: str | None) -> Examples:
        """Everything as :class:`Examples`, once all rows are in."""
        if not self.num_rows:
            self.problems.check()
            raise UserError(f"{self.problems.file}: it has no rows")
        names = self._classes(classes)
        self._unite("label", self.labels, names)
        self._check_classes(names, classes is not None and "weak" in self.columns)
        number = {name: c for c, name in enumerate(names)}
        gold = np.array([-1 if label is None else number.get(label, -2) for label in self.labels], dtype=np.int64)
        self._note_unknown(np.flatnonzero(gold == -2), "label", self.labels, names)
        meta: dict[str, npt.NDArray[Any]] = {}
        self._note_classes(gold, names, classes is not None)
        for role in filter(self.columns.__contains__, _OPINIONS if names else ()):
            self._unite(role, getattr(self, role), names)
            probs = self._opinion_probs(role, names, weak_class)
            self._note_opinion(role, probs, gold, names)
            meta |= {f"{role}.{c}": probs[:, c] for c in range(len(names))}
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
            notes=tuple(self.notes),
        )

    def _check_classes(self, names: tuple[str, ...], may_lack_gold: bool) -> None:
        labels = set(self.labels)
        present = [name for name in names if name in labels]
        if len(present) < 2 and not may_lack_gold:
            self.problems.check()
            only = f"only the class {present[0]!r}" if present else "no label at all"
            raise UserError(
                f"{self.problems.file}: {self._label_column()} has {only}; at least two classes are needed, or "
                f"{NO_GOLD}"
            )

    def _label_column(self) -> str:
        return f"column {self.columns['label']!r}" if "label" in self.columns else "label=None"

    def _classes(self, given: tuple[str | int | bool, ...] | None) -> tuple[str, ...]:
        if given is not None:
            names = tuple(class_name(name) or "" for name in given)
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

    def _unite(self, role: str, values: list[Any], names: tuple[str, ...]) -> None:
        """Read values that are no class as the one class that they are a variant of, and say so."""
        of: dict[str, list[str]] = {}
        for name in names:
            of.setdefault(_key(name), []).append(name)
        only = {key: alike[0] for key, alike in of.items() if len(alike) == 1}
        known, united = set(names), Counter[tuple[str, str]]()
        for row, value in enumerate(values):
            if isinstance(value, str) and value not in known and (near := only.get(_key(value))) is not None:
                values[row] = near
                united[value, near] += 1
        if united:
            told = ", ".join(f"{value!r} as {name!r} ({_rows_of(n)})" for (value, name), n in united.most_common(10))
            self.notes.append(f"column {self.columns[role]!r}: read {told}")

    def _opinion_probs(self, role: str, names: Sequence[str], weak_class: str | None) -> npt.NDArray[np.float64]:
        values: list[str | float | None] = getattr(self, role)
        probs = np.full((len(values), len(names)), np.nan)
        given = [(row, value) for row, value in enumerate(values) if value is not None]
        column = f"column {self.columns[role]!r}"
        keys = [_key(name) for name in names]
        second = keys.index("1") if sorted(keys) == ["0", "1"] else 0 if keys == ["true", "false"] else 1
        is_binary = sorted(names) == ["0", "1"]
        if weak_class is not None:
            if len(names) != 2 or weak_class not in names:
                raise UserError(
                    f"{self.problems.file}: weak_class names the class whose probability {column} holds, one of two; "
                    f"{weak_class!r} does not fit the classes {', '.join(map(repr, names[:10]))}"
                )
            second = names.index(weak_class)
        numbers = sum(value not in names and _number(value) is not None for _, value in given if not _is_code(value))
        plain = sum(value in names and _probability(value) is None for _, value in given)
        is_told = weak_class is not None and role == "weak"
        if not is_told and (len(names) != 2 or not numbers or (numbers < plain and not is_binary)):
            self._read_names(role, given, probs, names)
            return probs
        rounded = 0
        for row, value in given:
            if (read := _probability(value)) is None:
                mend = f"write the probability of {names[second]!r}, from 0 to 1 (percent: divide by 100)"
                self._wrong(role, f"{shown(value)} is no probability", self._or_code(value, mend), row)
            else:
                rounded += not 0 <= read <= 1
                probs[row, second] = min(max(read, 0.0), 1.0)
                probs[row, 1 - second] = 1 - probs[row, second]
        other = names[1 - second]
        self.notes.append(
            f"{column} is read as the probability of {names[second]!r} ({_rows_of(len(given))}); if it is that of "
            f"{other!r}, say weak_class={other!r}"
        )
        if rounded:
            self.notes.append(f"{column}: {_rows_of(rounded)} beyond 0 or 1 by at most {_ROUNDING:g} rounded to it")
        return probs

    def _read_names(
        self, role: str, given: Sequence[tuple[int, Any]], probs: npt.NDArray[np.float64], names: Sequence[str]
    ) -> None:
        number = {name: c for c, name in enumerate(names)}
        strangers = []
        for row, value in given:
            if isinstance(value, str) and value in number:
                probs[row] = np.eye(len(names))[number[value]]
            else:
                strangers.append(row)
        self._note_unknown(np.array(strangers, dtype=np.int64), role, getattr(self, role), names)

    def _or_code(self, value: Any, mend: str) -> str:
        """How to mend a value that is no label: by the option, if it looks like a code for none."""
        code = code_of(value)
        return f"if it stands for no label, say abstain={code!r}" if _is_code(value) else mend

    # --- what is said ---

    def _note_classes(self, gold: npt.NDArray[np.int64], names: tuple[str, ...], are_given: bool) -> None:
        counts = np.bincount(gold[gold >= 0], minlength=len(names)).tolist()
        column = f"column {self.columns['label']!r}" if "label" in self.columns else "label"
        listed = ", ".join(f"{shown(name)} {count:,}" for name, count in list(zip(names, counts, strict=True))[:20])
        unknown = f"; without gold {int((gold == -1).sum()):,}" if (gold == -1).any() else ""
        more = f" and {len(names) - 20:,} more" if len(names) > 20 else ""
        self.notes.append(f"{_rows_of(len(gold))}, classes of {column}: {listed}{more}{unknown}")
        if forms := self.other_forms:
            told = ", ".join(f"{name!r} ({count:,})" for name, count in forms.most_common(10))
            self.notes.append(f"class names in another Unicode form were read as NFC: {told}")
        for code, count in self.abstain.items():
            self.notes.append(
                f"abstain: {_rows_of(count)} with {code!r} {'count' if count != 1 else 'counts'} as unlabeled"
            )
        if not are_given:
            self._note_odd(dict(zip(names, counts, strict=True)), column)

    def _note_odd(self, counts: Mapping[str, int], column: str) -> None:
        """Classes that look like a code for none, like another class, or like a slip, and how to say so."""
        negative = sum(name.startswith("-") for name in counts)
        codes = [n for n in counts if _is_code(n) and (not n.startswith("-") or (negative == 1 and len(counts) > 2))]
        for name in codes:
            mend = f"if it is none, say abstain={name!r}"
            self.hint = self.hint or f"; {name!r} looks like no label, {mend}"
            count = _rows_of(counts[name])
            self.notes.append(f"{column}: {name!r} ({count}) looks like a code for no label and is a class; {mend}")
        kept: dict[str, str] = {}
        for name in sorted((n for n in counts if n not in codes), key=lambda n: -counts[n]):
            if (near := kept.get(_key(name)) or self._slip_of(name, counts, list(kept.values()))) is None:
                kept[_key(name)] = name
                continue
            first = f"{self.unit} {self.lines[self.labels.index(name)]}"
            self.notes.append(
                f"{column}: {name!r} ({_rows_of(counts[name])}, the first in {first}) looks like {near!r} "
                f"({_rows_of(counts[near])}) and is a class of its own"
            )
        if len(kept) + len(codes) < len(counts) and 1 < len(kept) <= _MAX_NAMED_CLASSES:
            told = [name for name in counts if name in kept.values()]
            self.notes.append(f"if such a class is none, correct the file, or name those that are: classes={told}")

    @staticmethod
    def _slip_of(name: str, counts: Mapping[str, int], others: list[str]) -> str | None:
        """The far more frequent class that ``name`` may be a typing error of."""
        if _number(name) is not None:
            return None
        close = difflib.get_close_matches(name, others, n=1, cutoff=0.8)
        return next((other for other in close if counts[other] >= 20 * counts[name]), None)

    def _note_opinion(
        self, role: str, probs: npt.NDArray[np.float64], gold: npt.NDArray[np.int64], names: tuple[str, ...]
    ) -> None:
        given = ~np.isnan(probs[:, 0])
        said, column = probs[given].argmax(axis=1), f"column {self.columns[role]!r}"
        if not given.any():
            return
        counts = np.bincount(said, minlength=len(names))
        listed = ", ".join(
            f"{shown(name)} {count:,}" for name, count in list(zip(names, counts.tolist(), strict=True))[:20]
        )
        empty = f"; without weak label {int((~given).sum()):,}" if not given.all() else ""
        self.notes.append(f"weak labels of {column}: {listed}{empty}")
        if counts.max() == counts.sum() and len(said) > 1:
            name = names[int(counts.argmax())]
            self.notes.insert(
                0, f"every weak label of {column} says {name!r}: a student can only learn to say the same"
            )
            return
        known = gold[given] >= 0
        truth, told = gold[given][known], said[known]
        if not len(truth):
            return
        right = float((truth == told).mean())
        shares = [np.bincount(part, minlength=len(names)) / len(truth) for part in (truth, told)]
        chance = float(shares[0] @ shares[1])
        if right + 2 * math.sqrt(chance * (1 - chance) / len(truth)) < chance:
            self.notes.append(
                f"weak labels of {column} are worse than chance: right in {100 * right:.1f} % of "
                f"{_rows_of(len(truth))} with gold, by chance {100 * chance:.1f} %; are they turned round?"
            )

    def _note_unknown(
        self, rows: npt.NDArray[np.int64], role: str, values: Sequence[Any], names: Sequence[str]
    ) -> None:
        known = ", ".join(map(repr, names[:10])) + (", ..." if len(names) > 10 else "")
        for row in rows.tolist():
            mend = self._or_code(values[row], f"the classes are {known}{self.hint}")
            self._wrong(role, f"unknown class {shown(values[row])}", mend, row)


_rows_of = partial(counted, what="row")


def _digits(value: Any) -> str:
    """A text or whole number as text; of a number of thousands of digits, more characters than any name may have."""
    try:
        return str(value)
    except ValueError:
        return "9" * 5000


def code_of(value: Any) -> str:
    """How a value is compared with what stands for no label."""
    return class_name(value) or _digits(value).strip()


def _is_code(value: Any) -> bool:
    return isinstance(value, str) and value.lower() in _UNKNOWN


def _key(name: str) -> str:
    """What variants of one class name share: without case, spaces, compatibility forms and leading zeros."""
    key = " ".join(unicodedata.normalize("NFKC", name).casefold().split())
    return str(int(key)) if key.isascii() and key.isdigit() else key


def _probability(value: str | float) -> float | None:
    """The number that ``value`` is, if it lies in [0, 1] up to rounding."""
    number = _number(value)
    return number if number is not None and -_ROUNDING <= number <= 1 + _ROUNDING else None


def _is_empty(value: Any) -> bool:
    return (
        value is None or (isinstance(value, str) and not value.strip()) or (isinstance(value, float) and value != value)
    )


def class_name(value: Any) -> str | None:
    """One name for one meaning, whatever format the value came from; None for what is no class."""
    match value:
        case bool():
            name = "true" if value else "false"
        case int():
            name = _digits(value)
        case float() if value.is_integer():
            name = str(int(value))
        case str() if not _UNFIT.search(value):
            name = unicodedata.normalize("NFC", value).strip()
            whole = _WHOLE_FLOAT.fullmatch(name)  # integers next to an empty cell are written 1.0 by data frames
            name = whole[1] if whole else name
        case _:
            return None
    return name if 0 < len(name) <= _MAX_CLASS else None


def _number(value: str | float) -> float | None:
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
