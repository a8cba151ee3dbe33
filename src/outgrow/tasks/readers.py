"""Rows of a file, one by one: CSV, TSV, JSON lines, JSON and Parquet; all but Parquet also compressed as .gz or .zst.

Every table that Outgrow reads is read here: a user's own, a public data set's, a list of puzzles. Nothing is guessed
and nothing is mended: an error names the file, the row and how to mend it.
"""

import codecs
import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

from outgrow.errors import UserError

__all__ = ["ENDINGS", "Row", "existing_file", "first_line", "format_of", "read_rows"]

ENDINGS = ".csv, .tsv, .jsonl, .ndjson, .json (each also .gz, .zst), .parquet"
_KINDS = {".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".parquet": "parquet"}
_COMPRESSED = (".gz", ".zst")
_QUOTES = (
    "a field that starts with a double quote must end with one, and quotes inside it must be doubled (for texts over "
    "131,072 characters use .jsonl or .parquet)"
)
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
    file = Path(path).expanduser()
    if not file.is_file():
        what = "is a folder" if file.is_dir() else "does not exist"
        raise UserError(f"{path} {what}; give the path of a file of one of these kinds: {endings} (here: {Path.cwd()})")
    return file


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

    Raises:
        UserError: if the file is empty, damaged or not of its format; and for a bad row, without ``bad_row``.
    """
    kind = format_of(file)
    bad = bad_row or _refuser(file)
    if kind != "csv" and delimiter is not None:
        raise UserError(f"{file}: only a .csv has a delimiter, and {delimiter!r} was given; leave it out")
    if file.stat().st_size == 0:
        raise UserError(f"{file}: the file is empty")
    if kind == "parquet":
        yield from _parquet_rows(file, columns)
        return
    with _opened_text(file, encoding) as lines:
        if kind in ("csv", "tsv"):
            delimiter = delimiter or ("\t" if kind == "tsv" else ",")
            if len(delimiter) != 1:
                raise UserError(f"{file}: a delimiter is one character, not {delimiter!r}")
            reader = csv.reader(
                lines,
                delimiter=delimiter,
                strict=not is_lenient,
                quoting=csv.QUOTE_NONE if is_lenient and kind == "tsv" else csv.QUOTE_MINIMAL,
            )
            yield from _csv_rows(reader, file, columns, header, delimiter, bad)
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
def _opened_text(file: Path, encoding: str | None) -> Iterator[IO[str]]:
    try:
        "".encode(encoding or "utf-8")  # refuses what is no encoding of text, which a look-up does not
        codec = codecs.lookup(encoding or "utf-8").name
    except LookupError:
        raise UserError(f"{file}: unknown encoding {encoding!r}; use for example 'utf-8' or 'latin-1'") from None
    codec = "utf-8-sig" if codec == "utf-8" else codec
    try:
        with _opened(file) as binary, io.TextIOWrapper(binary, encoding=codec, newline="") as lines:
            yield lines
    except UnicodeError:
        raise _undecodable(file, codec, encoding) from None
    except OSError as error:
        if file.suffix.lower() not in _COMPRESSED:
            raise
        raise UserError(f"{file}: the compressed file is damaged ({first_line(error)}); compress it again") from None


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


def _csv_rows(
    reader: Any,
    file: Path,
    columns: Callable[[list[str]], Iterable[str]],
    header: Sequence[str],
    delimiter: str,
    bad: BadRow,
) -> Iterator[Row]:
    index: dict[str, int] = {}
    start, width = 1, 0
    try:
        for fields in reader:
            number, start = start, reader.line_num + 1
            if not fields:  # an empty line
                continue
            if not width:
                width = len(fields)
                lacks_header = len(header) == width and not set(fields) & set(header)
                names = list(header) if lacks_header else fields
                index = {column: names.index(column) for column in columns(names)}
                if not lacks_header:
                    continue
            if len(fields) == width:
                yield Row("line", number, {column: fields[i] for column, i in index.items()})
            else:
                what = f"{len(fields)} fields where the header has {width}"
                bad(f"line {number}", what, f"put texts that hold {delimiter!r} or line breaks in double quotes")
    except csv.Error as error:
        raise UserError(f"{file}, in the row that starts at line {start}: {error}; {_QUOTES}") from None
    if not width:
        raise UserError(f"{file}: the file is empty")


def _json_entries(lines: IO[str], file: Path, kind: str, bad: BadRow) -> Iterator[tuple[str, int, Any]]:
    if kind == "json":
        try:
            entries = json.load(lines)
        except UnicodeError:
            raise
        except (ValueError, RecursionError) as error:
            raise UserError(f"{file}: not JSON ({first_line(error)}); {_OBJECT}") from None
        if not isinstance(entries, list):
            raise UserError(f"{file}: it holds no list; {_OBJECT}, in one list")
        yield from (("entry", number, entry) for number, entry in enumerate(entries, 1))
        return
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                entry = json.loads(line)
            except (ValueError, RecursionError) as error:
                reason = f" ({error.msg} at column {error.colno})" if isinstance(error, json.JSONDecodeError) else ""
                bad(f"line {number}", f"not JSON{reason}", _OBJECT)
            else:
                yield "line", number, entry


# --- Parquet ----------------------------------------------------------------------------------------------------------


def _parquet_rows(file: Path, columns: Callable[[list[str]], Iterable[str]]) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(file) as parquet:
            chosen = list(columns(parquet.schema_arrow.names))
            for batch in parquet.iter_batches(batch_size=4096, columns=chosen):
                for values in batch.to_pylist():
                    number += 1
                    yield Row("row", number, values)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{file} cannot be read as Parquet ({first_line(error)}); write it again") from None


def first_line(error: BaseException) -> str:
    """The first line of what an error of another library says, or its name."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
