"""The user's own table as a task: CSV, TSV, JSONL or Parquet, read row by row, checked row by row.

Nothing is guessed and nothing mended in silence: every problem is counted, and the first is shown with its line.
"""

import codecs
import csv
import gzip
import hashlib
import io
import json
import math
import re
import zlib
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from outgrow.archives import known_sha256
from outgrow.data import Examples
from outgrow.errors import UserError, nearest
from outgrow.tasks.registry import task

__all__ = ["table"]

_FORMATS = {".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
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
    path = _existing(options["path"])
    return f"{_format(path)}:{known_sha256(path)}"


@task(
    name="table",
    content=_content,
    licence="yours",
    source="a file of yours: .csv, .tsv, .jsonl, .ndjson (each also .gz) or .parquet",
    about="Your own texts and classes.",
)
def table(
    *,
    path: str,
    text: str = "text",
    label: str = "label",
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
        label: column of the gold classes: text, whole numbers (``1.0`` is ``1``) or true/false. Empty where gold is
            unknown; such a row may only go to part B.
        weak: column of the user's own weak labels, empty where there is none: class names, or for two classes the
            probability of the second one. Kept as meta columns ``weak.0``, ``weak.1`` ... (NaN where empty); a class
            name wins where the whole column can be read both ways.
        id: column of unique ids; without it rows are ``row-1``, ``row-2`` ... by their place in the file.
        group: column of what rows belong to (question, document, author), so that a split keeps them together;
            without it rows with the same text (but for case and white space) are a group. ``group`` naming the same
            column as ``id`` makes every row its own group.
        split: column that fixes each row's part: A (or train, supervisor, supervision), B (transfer, student) or
            T (test), in any case. Kept as meta column ``split``.
        classes: class names in the order wanted; without it those found, sorted (numbers by value).
        delimiter: of a CSV; a comma, and a tab for ``.tsv``, if not given.
        encoding: of a text format; a byte-order mark is skipped.

    Raises:
        UserError: one line with file, line, column and how to mend it.
    """
    file = _existing(path)
    names = {"text": text, "label": label, "weak": weak, "id": id, "group": group, "split": split}
    columns = {role: column for role, column in names.items() if column is not None}
    problems = _Problems(file=file)
    found = _Columns(columns=columns, problems=problems)
    for row in _rows(file, sorted(set(columns.values())), delimiter, encoding, problems):
        found.add(row)
    return found.examples(classes)


# --- problems ----------------------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class _Problems:
    """Counts what is wrong with rows, by kind, and keeps the first of each kind."""

    file: Path
    first: dict[str, tuple[str, str]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def add(self, place: str, what: str, mend: str, *, kind: str | None = None) -> None:
        kind = kind or mend
        self.first.setdefault(kind, (f"{place}: {what}", mend))
        self.counts[kind] = self.counts.get(kind, 0) + 1

    def check(self) -> None:
        if not self.first:
            return
        kind, (what, mend) = next(iter(self.first.items()))
        others = sum(self.counts.values()) - self.counts[kind]
        alike = f" ({self.counts[kind]} rows like this)" if self.counts[kind] > 1 else ""
        more = f" ({others} more problems of other kinds)" if others else ""
        raise UserError(f"{self.file}, {what}{alike}; {mend}{more}")

    def error(self, what: str, place: str | None = None) -> UserError:
        return UserError(f"{self.file}, {place}: {what}" if place else f"{self.file}: {what}")


# --- reading -----------------------------------------------------------------------------------------------------


class _Row(NamedTuple):
    number: int
    """Line in a text format, row in Parquet; 1-based."""
    place: str
    """``line 7`` or ``row 7``."""
    values: Mapping[str, Any]
    """Of the wanted columns; None where there is none."""


def _existing(path: str) -> Path:
    file = Path(path).expanduser()
    if not file.is_file():
        what = "is a folder" if file.is_dir() else "does not exist"
        raise UserError(f"{path} {what}; give the path of a .csv, .tsv, .jsonl or .parquet file (here: {Path.cwd()})")
    return file


def _format(file: Path) -> str:
    suffix = Path(file.stem).suffix if file.suffix.lower() == ".gz" else file.suffix
    kind = _FORMATS.get(suffix.lower())
    if kind is None or (kind == "parquet" and suffix != file.suffix):
        raise UserError(
            f"{file}: the ending {''.join(file.suffixes[-2:])!r} tells no format; name it .csv, .tsv, .jsonl, .ndjson "
            "(each also with .gz) or .parquet"
        )
    return kind


def _rows(
    file: Path, wanted: Sequence[str], delimiter: str | None, encoding: str, problems: _Problems
) -> Iterator[_Row]:
    kind = _format(file)
    if kind != "csv" and delimiter is not None:
        raise problems.error(f"only a .csv has a delimiter, and {delimiter!r} was given; leave it out")
    if file.stat().st_size == 0:
        raise problems.error("the file is empty")
    if kind == "parquet":
        yield from _parquet_rows(file, wanted, problems)
        return
    try:
        "".encode(encoding)  # refuses what is no text encoding, which looking it up does not
        codec = codecs.lookup(encoding).name
    except LookupError:
        raise problems.error(f"unknown encoding {encoding!r}; use for example 'utf-8' or 'latin-1'") from None
    codec = "utf-8-sig" if codec == "utf-8" else codec
    try:
        with _opened(file) as binary, io.TextIOWrapper(binary, encoding=codec, newline="") as lines:
            if kind == "jsonl":
                yield from _json_rows(lines, wanted, problems)
            else:
                yield from _csv_rows(lines, wanted, delimiter or ("\t" if kind == "tsv" else ","), problems)
    except UnicodeDecodeError:
        raise _undecodable(file, codec, encoding, problems) from None
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise problems.error(f"the gzip is damaged ({error}); compress it again") from None


def _opened(file: Path) -> IO[bytes]:
    return gzip.open(file, "rb") if file.suffix.lower() == ".gz" else open(file, "rb")  # type: ignore[return-value]


def _undecodable(file: Path, codec: str, encoding: str, problems: _Problems) -> UserError:
    """Find the line again: a text stream decodes ahead of the line it hands out."""
    decoder = codecs.getincrementaldecoder(codec)()
    with _opened(file) as binary:
        is_utf16 = binary.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
        other = "utf-16" if is_utf16 else "latin-1" if codec == "utf-8-sig" else "utf-8"
        mend = f"save it as {encoding}, or say what it is, for example encoding={other!r}"
        binary.seek(0)
        for number, line in enumerate(binary, 1):
            try:
                decoder.decode(line)
            except UnicodeDecodeError as error:
                wrong = error.object[error.start : error.start + 1].hex()
                return problems.error(f"byte 0x{wrong} is not {encoding}; {mend}", f"line {number}")
    return problems.error(f"the last character is cut off, or the file is not {encoding}; {mend}")


def _csv_rows(lines: IO[str], wanted: Sequence[str], delimiter: str, problems: _Problems) -> Iterator[_Row]:
    if len(delimiter) != 1:
        raise problems.error(f"a delimiter is one character, not {delimiter!r}")
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    start = 1
    header: list[str] = []
    index: dict[str, int] = {}
    try:
        for fields in reader:
            number, start = start, reader.line_num + 1
            if not fields:  # an empty line
                continue
            if not header:
                header, index = fields, _header_index(fields, wanted, delimiter, problems)
            elif len(fields) != len(header):
                problems.add(
                    f"line {number}",
                    f"{len(fields)} fields where the header has {len(header)}",
                    f"put texts that hold {delimiter!r} or line breaks in double quotes",
                )
            else:
                yield _Row(number, f"line {number}", {column: fields[i] for column, i in index.items()})
    except csv.Error as error:
        raise problems.error(
            f"{error}; a field that starts with a double quote must end with one, and quotes inside it be doubled "
            "(texts over 131,072 characters: use .jsonl or .parquet)",
            f"in the row that starts at line {start}",
        ) from None
    if not header:
        raise problems.error("the file is empty")


def _header_index(header: list[str], wanted: Sequence[str], delimiter: str, problems: _Problems) -> dict[str, int]:
    for column in wanted:
        if header.count(column) > 1:
            raise problems.error(
                f"the header has {header.count(column)} columns {column!r}; rename all but one", "line 1"
            )
        if column not in header and len(header) == 1:
            for other in (d for d in ",;\t|" if d != delimiter and d in header[0]):
                raise problems.error(
                    f"no column {column!r}: the header is the one field {header[0]!r}; give delimiter={other!r}",
                    "line 1",
                )
        if column not in header:
            raise _no_column(column, header, problems)
    return {column: header.index(column) for column in wanted}


def _no_column(column: str, known: Sequence[str], problems: _Problems) -> UserError:
    close = nearest(column, known)
    hint = f"did you mean {' or '.join(map(repr, close))}?" if close else f"it has {', '.join(map(repr, known[:20]))}"
    return problems.error(f"no column {column!r}; {hint}")


def _json_rows(lines: IO[str], wanted: Sequence[str], problems: _Problems) -> Iterator[_Row]:
    seen: dict[str, None] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        place, mend = f"line {number}", 'every line must be one JSON object such as {"text": "...", "label": "..."}'
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:
            reason = f" ({error.msg} at column {error.colno})" if isinstance(error, json.JSONDecodeError) else ""
            problems.add(place, f"not JSON{reason}", mend)
            continue
        if not isinstance(values, dict):
            problems.add(place, f"{line.strip()[:40]!r} is no object", mend)
            continue
        if len(seen) < 1000:  # only for naming the nearest column
            seen.update(dict.fromkeys(values))
        seen.update(dict.fromkeys(column for column in wanted if column in values))
        yield _Row(number, place, {column: values.get(column) for column in wanted})
    for column in wanted:
        if seen and column not in seen:
            raise _no_column(column, list(seen), problems)


def _parquet_rows(file: Path, wanted: Sequence[str], problems: _Problems) -> Iterator[_Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file) as parquet:
            for column in wanted:
                if column not in parquet.schema_arrow.names:
                    raise _no_column(column, parquet.schema_arrow.names, problems)
            number = 0
            for batch in parquet.iter_batches(batch_size=4096, columns=list(wanted)):
                columns = {column: batch.column(column).to_pylist() for column in wanted}
                for row in range(batch.num_rows):
                    number += 1
                    yield _Row(number, f"row {number}", {column: columns[column][row] for column in wanted})
    except (pa.ArrowException, OSError) as error:
        raise problems.error(f"it cannot be read as Parquet ({str(error).splitlines()[0]}); write it again") from None


# --- checking ----------------------------------------------------------------------------------------------------


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

    def add(self, row: _Row) -> None:
        """Take a row in; what is wrong with it is noted, and every list grows all the same."""
        self.num_rows += 1
        self.lines.append(row.number)
        self.unit = row.place.partition(" ")[0]
        text = self._text(row)
        name = self._id(row)
        label = self._class_name(row, "label")
        self.texts.append(text)
        self.labels.append(label)
        self.groups.append(self._group(row, text, name))
        if "weak" in self.columns:
            self.weak.append(self._weak(row))
        if "split" in self.columns:
            self.parts.append(self._part(row, label))

    def _wrong(self, row: _Row, role: str, what: str, mend: str) -> None:
        self.problems.add(f"{row.place}, column {self.columns[role]!r}", what, mend)

    def _text(self, row: _Row) -> str:
        value = row.values[self.columns["text"]]
        if value is None or (isinstance(value, str) and not value.strip()):
            self._wrong(row, "text", "the text is empty", "fill it in or drop the row")
        elif not isinstance(value, str):
            self._wrong(row, "text", f"{_short(value)} is no text", "store the column as text")
        elif _SURROGATE.search(value):
            self._wrong(
                row, "text", "the text holds half a character (a lone surrogate)", "write the file again as UTF-8"
            )
        else:
            return value
        return ""

    def _id(self, row: _Row) -> str:
        if "id" not in self.columns:
            name = f"row-{self.num_rows}"
        else:
            name = self._name(row, "id")
            if name in self.ids and name:
                first = f"{self.unit} {self.ids[name]}"
                self._wrong(row, "id", f"the id {name!r} is there already in {first}", "make ids unique")
        self.ids.setdefault(name, row.number)
        return name

    def _name(self, row: _Row, role: str) -> str:
        """A value of the id or group column as text."""
        value = row.values[self.columns[role]]
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if value is None or value == "":
            self._wrong(row, role, f"the {role} is empty", f"fill it in, or leave the option {role} out")
        elif isinstance(value, bool) or not isinstance(value, str | int) or _SURROGATE.search(str(value)):
            self._wrong(row, role, f"{_short(value)} is no {role}", "use texts or whole numbers")
        elif role == "id" and len(str(value)) > _MAX_ID:
            self._wrong(row, role, f"the id has {len(str(value))} characters", f"use ids of at most {_MAX_ID}")
        else:
            return str(value)
        return ""

    def _group(self, row: _Row, text: str, name: str) -> str:
        if "group" in self.columns:
            group = self._name(row, "group")
            # A whole passage may name the group; arrays of text are as wide as their longest entry.
            return group if len(group) <= 64 else hashlib.sha256(group.encode()).hexdigest()
        words = hashlib.sha256(" ".join(text.lower().split()).encode()).digest()
        return self.group_of_text.setdefault(words, name)

    def _class_name(self, row: _Row, role: str) -> str | None:
        value = row.values[self.columns[role]]
        name = _class_name(value)
        if name is None and not _is_empty(value):
            self._wrong(row, role, f"{_short(value)} is no class", "classes are texts, whole numbers or true/false")
        return None if name is None else self.interned.setdefault(name, name)

    def _weak(self, row: _Row) -> str | float | None:
        value = row.values[self.columns["weak"]]
        if isinstance(value, float) and not value.is_integer() and math.isfinite(value):
            return value  # a probability; which columns may hold them is known at the end
        return self._class_name(row, "weak")

    def _part(self, row: _Row, label: str | None) -> str:
        value = row.values[self.columns["split"]]
        part = _PARTS.get(value.strip().lower()) if isinstance(value, str) else None
        if part is None:
            self._wrong(
                row, "split", f"{_short(value)} is no part of a split", "use A, B or T (or train, transfer, test)"
            )
        elif part != "B" and label is None:
            self._wrong(row, "label", f"a row of part {part} has no label", "only rows of part B may have none")
        return part or ""

    def examples(self, classes: tuple[str | int | bool, ...] | None) -> Examples:
        """Everything as :class:`Examples`, once all rows are in."""
        if not self.num_rows:
            self.problems.check()
            raise self.problems.error("it has no rows")
        names = self._classes(classes)
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
        present = np.unique(gold[gold >= 0])
        if len(present) < 2:
            only = f"only the class {names[present[0]]!r}" if len(present) else "no label at all"
            raise self.problems.error(f"column {self.columns['label']!r} has {only}; at least two classes are needed")
        return Examples(
            ids=np.array(list(self.ids), dtype=np.str_),
            inputs=tuple(self.texts),
            gold=gold,
            classes=names,
            groups=np.array(self.groups, dtype=np.str_),
            meta=meta,
        )

    def _classes(self, given: tuple[str | int | bool, ...] | None) -> tuple[str, ...]:
        if given is not None:
            names = tuple(_class_name(name) or "" for name in given)
            if len(names) < 2 or "" in names or len(set(names)) < len(names):
                raise UserError(f"classes must be at least two different names, not {list(given)}")
            return names
        found = {label for label in self.labels if label is not None}
        labelled = sum(label is not None for label in self.labels)
        if len(found) > max(_MAX_NAMED_CLASSES, labelled // 2):
            raise self.problems.error(
                f"column {self.columns['label']!r} has {len(found)} different values in {labelled} rows, "
                "too many to be classes; name the column of the classes with label='...'"
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
                    what = f"{_short(value)} is no probability"
                    self._wrong_at(row, "weak", what, "write the second class's, from 0 to 1")
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
            self._wrong_at(row, role, f"unknown class {_short(values[row])}", f"the classes are {known}")

    def _wrong_at(self, row: int, role: str, what: str, mend: str) -> None:
        place = f"{self.unit} {self.lines[row]}, column {self.columns[role]!r}"
        self.problems.add(place, what, mend)


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


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
