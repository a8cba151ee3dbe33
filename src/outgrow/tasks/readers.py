"""Rows of a file, one by one: CSV, TSV, JSON lines, JSON and Parquet; all but Parquet also compressed as .gz or .zst.

Every table that Outgrow reads is read here: a user's own, a public data set's, a list of puzzles. Nothing is guessed
and nothing is mended: an error names the file, the row and how to mend it.
"""

import codecs
import csv
import io
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

from outgrow.errors import UserError, nearest

__all__ = ["ENDINGS", "NoColumn", "Row", "existing_file", "first_line", "format_of", "no_column", "read_rows", "shown"]

ENDINGS = ".csv, .tsv, .jsonl, .ndjson, .json (each also .gz, .zst), .parquet"
_KINDS = {".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".parquet": "parquet"}
_COMPRESSED = (".gz", ".zst")
_QUOTES = (
    "a field that starts with a double quote must end with one, and quotes inside it must be doubled; quotes=False "
    "reads quotes as text (for texts over 131,072 characters use .jsonl or .parquet)"
)
_NO_FILE_ENCODINGS = {"idna", "mbcs", "oem", "punycode", "raw-unicode-escape", "undefined", "unicode-escape"}
_MAX_LINE = 1 << 26
_MAX_JSON = 1 << 28
"""Characters of a line, and of a whole JSON list: a few kilobytes may unpack to more than any memory holds."""
_LONG_SPAN = 10
"""Lines of one row from which on it is said that rows span lines."""
_SEPARATOR = re.compile(r"\ufeff?sep=(.)\r?\n?")
_OBJECT = 'write each row as one JSON object such as {"text": "...", "label": "..."}'

BadRow = Callable[[str, str, str], None]
"""Told of a row that cannot be read: its place, what is wrong, how to mend it."""


class Row(NamedTuple):
    """One row as it is in the file."""

    unit: str
    """``line`` of a text, ``entry`` of a JSON list or ``row`` of a Parquet file."""
    number: int
    """Counted from 1; the line where the row starts."""
    values: dict[str, Any]
    """The chosen columns; None where a JSON object lacks one."""

    @property
    def place(self) -> str:
        """``line 7``."""
        return f"{self.unit} {self.number}"


def existing_file(path: str, endings: str = ENDINGS) -> Path:
    """The file at ``path``.

    Raises:
        UserError: if there is none.
    """
    try:
        file = Path(path).expanduser()
        if file.is_file():
            return file
        what = "is a folder" if file.is_dir() else "does not exist"
    except (OSError, RuntimeError, ValueError) as error:  # a name too long, no such user, half a character
        what = f"is no path ({getattr(error, 'strerror', None) or first_line(error)})"
    named = path if len(path) <= 200 and path.isprintable() else shown(path, 200)
    raise UserError(f"{named} {what}; give the path of a file of one of these kinds: {endings} (here: {Path.cwd()})")


def format_of(file: Path, endings: str = ENDINGS) -> str:
    """``csv``, ``tsv``, ``jsonl``, ``json`` or ``parquet``, by the ending of the file's name.

    Raises:
        UserError: for any other ending.
    """
    is_compressed = file.suffix.lower() in _COMPRESSED
    kind = _KINDS.get(Path(file.stem if is_compressed else file.name).suffix.lower())
    if kind is None or (kind == "parquet" and is_compressed):
        ending = "".join(file.suffixes[-2:])
        raise UserError(f"{file}: {ending!r} files cannot be read; give a file of one of these kinds: {endings}")
    return kind


class NoColumn(UserError):
    """A table lacks a column."""

    column: str
    nearest: Sequence[str]
    """The columns that it may have been meant to name."""


def no_column(where: str, there: Sequence[str], *wanted: str) -> NoColumn:
    """The error for a missing column, any of those wanted, with the nearest ones offered."""
    close = nearest(wanted[0], there)
    hint = f"did you mean {' or '.join(map(repr, close))}?" if close else f"it has {', '.join(map(shown, there[:20]))}"
    error = NoColumn(f"{where}: no column {' or '.join(map(repr, wanted))}; {hint}")
    error.column, error.nearest = wanted[0], close
    return error


def read_rows(
    file: Path,
    columns: Callable[[list[str]], Iterable[str]],
    *,
    delimiter: str | None = None,
    encoding: str | None = None,
    is_lenient: bool = False,
    header: Sequence[str] = (),
    unpacked: Callable[[Any], Iterable[Any]] | None = None,
    bad_row: BadRow | None = None,
    quotes: bool = True,
    say: Callable[[str], None] | None = None,
) -> Iterator[Row]:
    """The rows of a table, read as they are asked for.

    Args:
        file: its ending says the format.
        columns: chooses the columns to read from those there are; raises if one is missing. Called once, or for JSON
            once per object.
        delimiter: of a CSV; by default a comma, and a tab for ``.tsv``.
        encoding: of a text; UTF-8 if the user has no choice. A byte-order mark is skipped.
        is_lenient: read CSV as published sets are written: quotes in a ``.tsv`` are plain characters, and what follows
            a closing quote belongs to the field.
        header: columns of a CSV that may lack its header.
        unpacked: the rows of a JSON entry that is a list.
        bad_row: is told of rows that cannot be read, which are then skipped; by default the first is an error.
        quotes: whether a double quote in a CSV or TSV may hold a field together; if not, it is a character like others.
        say: is told what looks odd and is read all the same.

    Raises:
        UserError: if the file is empty, damaged or not of its format; and for a bad row, without ``bad_row``.
    """
    kind = format_of(file)
    bad = bad_row or _refuser(file)
    if kind != "csv" and delimiter is not None:
        raise UserError(f"{file}: only a .csv has a delimiter, and {delimiter!r} was given; leave it out")
    if kind not in ("csv", "tsv") and not quotes:
        raise UserError(f"{file}: quotes=False is for .csv and .tsv; leave it out")
    if file.stat().st_size == 0:
        raise UserError(f"{file}: the file is empty")
    if kind == "parquet":
        yield from _parquet_rows(file, columns)
        return
    with _opened_text(file, encoding) as lines:
        if kind in ("csv", "tsv"):
            first, *_ = [*itertools.islice(lines, 1), ""]
            named = _SEPARATOR.fullmatch(first) if kind == "csv" else None  # a first line that spreadsheets write
            delimiter = delimiter or (named[1] if named else "\t" if kind == "tsv" else ",")
            if len(delimiter) != 1 or delimiter in '\n\r"\0' or "\ud800" <= delimiter <= "\udfff":
                raise UserError(f"{file}: a delimiter is one character that is no quote or line end, not {delimiter!r}")
            reader = csv.reader(
                lines if named else itertools.chain([first], lines),
                delimiter=delimiter,
                strict=not is_lenient,
                quoting=csv.QUOTE_NONE if not quotes or (is_lenient and kind == "tsv") else csv.QUOTE_MINIMAL,
            )
            yield from _csv_rows(_Csv(reader, file, delimiter, int(named is not None), bad, say), columns, header)
            return
        for unit, number, entry in _json_entries(lines, file, kind, bad):
            for found in unpacked(entry) if unpacked and isinstance(entry, list) else (entry,):
                if isinstance(found, dict):
                    yield Row(unit, number, {column: found.get(column) for column in columns(list(found))})
                else:
                    bad(f"{unit} {number}", f"{json.dumps(found)[:40]} is no JSON object", _OBJECT)


def _refuser(file: Path) -> BadRow:
    def refuse(place: str, what: str, mend: str) -> None:
        raise UserError(f"{file}, {place}: {what}; {mend}")

    return refuse


# --- text -------------------------------------------------------------------------------------------------------------


@contextmanager
def _opened_text(file: Path, encoding: str | None) -> Iterator["_Lines"]:
    try:
        "".encode(encoding or "utf-8")  # refuses what is no encoding of text, which a look-up does not
        codec = codecs.lookup(encoding or "utf-8").name
    except (LookupError, ValueError):
        codec = "undefined"
    if codec.replace("_", "-") in _NO_FILE_ENCODINGS:
        raise UserError(f"{file}: unknown encoding {encoding!r}; use for example 'utf-8' or 'latin-1'")
    codec = "utf-8-sig" if codec == "utf-8" else codec
    try:
        try:
            with _opened(file) as binary, io.TextIOWrapper(binary, encoding=codec, newline="") as text:
                yield _Lines(text, file)
        except UnicodeError:
            raise _undecodable(file, codec, encoding) from None
    except OSError as error:
        if file.suffix.lower() not in _COMPRESSED:
            raise UserError(f"{file} cannot be read ({first_line(error)})") from None
        raise UserError(f"{file}: the compressed file is damaged ({first_line(error)}); compress it again") from None


class _Lines(Iterator[str]):
    """The lines of a text with their ends. A line or text that would fill the memory is an error."""

    def __init__(self, text: IO[str], file: Path) -> None:
        self._text, self._file, self._number = text, file, 0

    def __next__(self) -> str:
        self._number += 1
        if not (line := self._text.readline(_MAX_LINE)):
            raise StopIteration
        if len(line) == _MAX_LINE:
            raise UserError(
                f"{self._file}, line {self._number}: the line has {_MAX_LINE:,} characters or more; is it a table?"
            )
        return line

    def whole(self) -> str:
        """The rest of the text."""
        text = self._text.read(_MAX_JSON)
        if len(text) == _MAX_JSON:
            raise UserError(
                f"{self._file}: it has {_MAX_JSON:,} characters or more; write it as .jsonl, which is read row by row"
            )
        return text


def _opened(file: Path) -> IO[bytes]:
    if file.suffix.lower() not in _COMPRESSED:
        return open(file, "rb")
    import pyarrow as pa

    stream: IO[bytes] = pa.input_stream(str(file), compression={".gz": "gzip", ".zst": "zstd"}[file.suffix.lower()])
    return stream


def _undecodable(file: Path, codec: str, encoding: str | None) -> UserError:
    """The error with the line, found again: a text stream decodes ahead of the line that it hands out."""
    decoder = codecs.getincrementaldecoder(codec)()
    named = encoding or "utf-8"
    with _opened(file) as binary:
        is_utf16 = binary.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    other = "utf-16" if is_utf16 else "latin-1" if codec == "utf-8-sig" else "utf-8"
    mend = f"save it as {named}" + (f", or say what it is, for example encoding={other!r}" if encoding else "")
    number = 1
    with _opened(file) as binary:
        while piece := binary.read(1 << 16):
            try:
                decoder.decode(piece)
            except UnicodeDecodeError as error:
                wrong = error.object[error.start : error.start + 1].hex()
                number += error.object[: error.start].count(b"\n")
                return UserError(f"{file}, line {number}: byte 0x{wrong} is not {named}; {mend}")
            except UnicodeError:
                break
            number += piece.count(b"\n")
    return UserError(f"{file}: the last character is cut off, or the file is not {named}; {mend}")


class _Csv(NamedTuple):
    """A reader of CSV, and what its errors name."""

    reader: Any
    file: Path
    delimiter: str
    skipped: int
    """Lines before those that the reader gets."""
    bad: BadRow
    say: Callable[[str], None] | None


def _csv_rows(source: _Csv, columns: Callable[[list[str]], Iterable[str]], header: Sequence[str]) -> Iterator[Row]:
    index: dict[str, int] = {}
    start, width = 1 + source.skipped, 0
    spans = _Spans()
    try:
        for fields in source.reader:
            number, start = start, source.reader.line_num + 1 + source.skipped
            if not fields:  # an empty line
                continue
            if not width:
                width = len(fields)
                lacks_header = len(header) == width and not set(fields) & set(header)
                names = list(header) if lacks_header else fields
                if any("\0" in name for name in names):
                    what = "it holds NUL characters; if the text is UTF-16, say encoding='utf-16-le' or 'utf-16-be'"
                    raise UserError(f"{source.file}, line {number}: {what}")
                index = {column: names.index(column) for column in columns(names)}
                if not lacks_header:
                    continue
            if start - number > 1:
                spans.add(number, start - number, fields, source.delimiter, width)
            if len(fields) == width:
                yield Row("line", number, {column: fields[i] for column, i in index.items()})
            else:
                what = f"{len(fields)} fields where the header has {width}"
                mend = f"put texts that hold {source.delimiter!r} or line breaks in double quotes"
                source.bad(f"line {number}", what, mend)
    except csv.Error as error:
        raise UserError(f"{source.file}, in the row that starts at line {start}: {error}; {_QUOTES}") from None
    if not width:
        raise UserError(f"{source.file}: the file is empty")
    if source.say and (told := spans.told()):
        source.say(told)


@dataclass
class _Spans:
    """Counts rows that span lines: a stray quote swallows all lines up to the next one."""

    rows: int = 0
    longest: tuple[int, int] = (0, 0)
    """Lines of the longest row, and minus the line where it starts."""
    alike: int = 0
    """Lines inside fields that would be rows by themselves."""

    def add(self, number: int, lines: int, fields: Sequence[str], delimiter: str, width: int) -> None:
        self.rows += 1
        self.longest = max(self.longest, (lines, -number))
        inner = (line for field in fields for line in field.splitlines()[1:])
        self.alike += sum(width > 1 and line.count(delimiter) == width - 1 for line in inner)

    def told(self) -> str | None:
        lines, start = self.longest
        if lines < _LONG_SPAN and not self.alike:
            return None
        alike = f"; {self.alike:,} lines inside texts look like rows" if self.alike else ""
        rows = "1 row spans" if self.rows == 1 else f"{self.rows:,} rows span"
        return (
            f"{rows} several lines, the longest {lines:,} lines from line {-start}{alike}: if a stray double quote "
            "joins them, quotes=False reads quotes as text"
        )


def _json_entries(lines: _Lines, file: Path, kind: str, bad: BadRow) -> Iterator[tuple[str, int, Any]]:
    if kind == "json":
        text = lines.whole()
        try:
            entries = json.loads(text, object_pairs_hook=_object)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{file}: not JSON ({_why_not_json(error)}); {_OBJECT}") from None
        if not isinstance(entries, list):
            raise UserError(f"{file}: it holds no list; {_OBJECT}, in one list")
        yield from (("entry", number, entry) for number, entry in enumerate(entries, 1))
        return
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                entry = json.loads(line.rstrip(), object_pairs_hook=_object)
            except (ValueError, RecursionError) as error:
                bad(f"line {number}", f"not JSON ({_why_not_json(error)})", _OBJECT)
            else:
                yield "line", number, entry


def _why_not_json(error: BaseException) -> str:
    if isinstance(error, json.JSONDecodeError):
        where = f"line {error.lineno}, column {error.colno}" if error.lineno > 1 else f"column {error.colno}"
        return f"{error.msg} at {where}"
    return "it is nested too deeply" if isinstance(error, RecursionError) else first_line(error).partition(";")[0]


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {shown(next(n for n in names if names.count(n) > 1))} stands twice in an object")
    return made


# --- Parquet ----------------------------------------------------------------------------------------------------------


def _parquet_rows(file: Path, columns: Callable[[list[str]], Iterable[str]]) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(file) as parquet:
            chosen = list(columns(parquet.schema_arrow.names))
            for batch in parquet.iter_batches(batch_size=4096, columns=chosen):
                for values in _python_rows(batch, file, number):
                    number += 1
                    yield Row("row", number, values)
    except (pa.ArrowException, OSError, MemoryError, UnicodeError, OverflowError) as error:
        raise UserError(f"{file} cannot be read as Parquet ({first_line(error)}); write it again") from None


def _python_rows(batch: Any, file: Path, before: int) -> list[dict[str, Any]]:
    """The rows of a batch. Parquet holds values that Python does not: years past 9999, texts that are not UTF-8."""
    try:
        rows: list[dict[str, Any]] = batch.to_pylist()
        return rows
    except (ValueError, OverflowError):
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            for row in range(len(column)):
                try:
                    column[row].as_py()
                except (ValueError, OverflowError) as error:
                    what = f"row {before + row + 1}, column {name!r}: {first_line(error)}"
                    raise UserError(f"{file}, {what}; write the column again, as text in UTF-8") from None
        raise


def shown(value: Any, length: int = 60) -> str:
    """A value as an error shows it, in at most ``length`` characters."""
    try:
        text = repr(value)
    except ValueError:  # a whole number of more digits than Python prints
        text = f"a {type(value).__name__} of more than 4,300 digits"
    return text if len(text) <= length else f"{text[: length - 3]}..."


def first_line(error: BaseException) -> str:
    """The first line of what an error of another library says, or its name."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
