"""Rows of public data sets: from a folder of yours in the hub's schema, else from a pinned commit of the hub.

What is fetched is checked (columns, row counts), written to the cache as one Parquet file per split, and read from
there by the same code as a folder. The cache of the ``datasets`` library would not do: offline, it takes the newest
version it finds, whatever commit was asked for.
"""

import csv
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from outgrow.archives import hub_unreachable, known_sha256, new_folder, writing
from outgrow.errors import UserError
from outgrow.runtime import Runtime, cache_folder

__all__ = ["CONVERTED", "Empty", "HubRow", "HubSet", "Place", "commit_of", "identity", "place_of", "read"]

Files = Mapping[str, tuple[Path, ...]]
"""Split to its files, in order."""

CONVERTED = "refs/convert/parquet"
"""The hub's own conversion of sets that come as a script, which no library runs any more."""

_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHORT_COMMIT = re.compile(r"[0-9a-f]{7,39}")
_ENDINGS = ("parquet", "jsonl", "json", "csv", "tsv")
_HIDDEN = (-1, "-1", "", None)


@dataclass(frozen=True, kw_only=True)
class Place:
    """One repository of the hub that holds a set."""

    repo: str
    revision: str = "main"
    """40 hexadecimal digits where the commit is known; else a short commit or a branch, looked up once and kept."""
    config: str | None = None
    data_dir: str | None = None
    splits: Mapping[str, str] = field(default_factory=dict)
    """Our name of a split to the repository's, where they differ."""
    rows: Mapping[str, int | None] | None = None
    """Where this place has other splits, or other numbers of rows, than the set says."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Split to a CSV in the repository, for one that no builder of the library reads rightly."""
    column_names: tuple[str, ...] | None = None
    """Of ``files`` without a header."""

    @property
    def name(self) -> str:
        """What the option ``repo`` calls it."""
        return f"{self.repo}@{self.revision}" if self.revision.startswith("refs/") else self.repo


def _as_they_are(files: Files) -> Files:
    return files


@dataclass(frozen=True, kw_only=True)
class HubSet:
    """A data set: where it lies, what it holds, and what its own splits are called."""

    name: str
    """Also the name of its folder in a folder of data sets (with - or _)."""
    places: tuple[Place, ...]
    """The first is taken; the others are named when it fails."""
    rows: Mapping[str, int | None]
    """Labelled splits, and the rows each has on the hub where that is known."""
    columns: tuple[str, ...]
    """That must be there; ``a|b`` for either."""
    optional: tuple[str, ...] = ()
    licence: str
    train: str = "train"
    """The official training split."""
    test: str = "validation"
    """The official split to test on: the labelled test split, or validation where the test labels are hidden."""
    folders: tuple[str, ...] = ()
    """Further names of its folder."""
    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Split to further names of its file."""
    renamed: Callable[[Files], Files] = _as_they_are
    """Which split each file found is, where names mean different things in different copies."""
    headerless: tuple[str, ...] = ()
    """Columns of the original files, where those have no header."""
    unpacked: Callable[[Any], Iterator[dict[str, Any]]] | None = None
    """Rows of one entry of the original JSON, where that is nested."""
    originals: str = ""
    """Where the original files are, for the message of what to fetch by hand."""


class Empty(Exception):
    """A text that a row has to have is missing; holds the column's name."""


@dataclass(frozen=True, slots=True)
class HubRow:
    """One row as it is in the file; what does not fit is an error with its place."""

    values: Mapping[str, Any]
    set_name: str
    where: str
    split: str
    number: int
    """Counted from 0 in its split."""

    def __contains__(self, column: str) -> bool:
        return self.values.get(column) is not None

    def __getitem__(self, column: str) -> Any:
        return self.values[column]

    def text(self, column: str) -> str:
        """The column's text without white space around it.

        Raises:
            Empty: if there is none; such rows are in the originals too, and are counted and left out.
            UserError: if it is something else.
        """
        value = self.values[column]
        if value is None or (isinstance(value, str) and not value.strip()):
            raise Empty(column)
        if not isinstance(value, str):
            raise self.wrong(column, "is no text")
        return value.strip()

    def texts(self, column: str) -> tuple[str, ...]:
        """The column's list of texts; an empty one stays, since a label may count by place.

        Raises:
            UserError: if it is no list of texts.
        """
        value = self.values[column]
        if not isinstance(value, list | tuple) or not all(isinstance(v, str) for v in value):
            raise self.wrong(column, "is no list of texts (a CSV holds none: use .parquet or .jsonl)")
        return tuple(v.strip() for v in value)

    def whole(self, column: str, size: int, first: int = 0) -> int:
        """A label from ``first`` to ``first + size - 1``, counted from 0: a number, its text, or true/false.

        Raises:
            UserError: for a hidden label (-1, empty), and for any other.
        """
        value = self.values[column]
        value = value.strip() if isinstance(value, str) else value
        if value in _HIDDEN:
            raise self.wrong(column, "hides the label; take the split out, it cannot be used")
        value = {"true": 1, "false": 0}.get(str(value).lower(), value)
        try:
            number = int(value)
        except (TypeError, ValueError, OverflowError):
            raise self.wrong(column, "is no whole number") from None
        if number != float(value) or not first <= number < first + size:
            raise self.wrong(column, f"is no label from {first} to {first + size - 1}")
        return number - first

    def wrong(self, column: str, why: str) -> UserError:
        """The error for this row."""
        value = repr(self.values.get(column))
        shown = value if len(value) <= 60 else f"{value[:57]}..."
        return UserError(
            f"{self.set_name}: row {self.number} of {self.split} in {self.where}: {column} {shown} {why}; "
            "is it the set it is named after, in the hub's schema?"
        )


# --- which data -------------------------------------------------------------------------------------------------------


def identity(source: HubSet, splits: tuple[str, ...], options: Mapping[str, Any]) -> str:
    """What the data is: the sha256 of the files of a folder, or repository and commit of the hub.

    Raises:
        UserError: if a folder that was named is not there, or the commit is not known and cannot be looked up.
    """
    files = _local(source, options)
    if files is not None:
        parts = [f"{split}:{known_sha256(f)}" for split in splits for f in files.get(split, ())]
        return f"files:{hashlib.sha256(' '.join(parts).encode()).hexdigest()}"
    place = _place(source, options)
    commit = options.get("revision") or commit_of(source, place)
    return ":".join(["hub", f"{place.repo}@{commit}", place.config or "", place.data_dir or ""])


def place_of(source: HubSet) -> str:
    """Where the set would come from on this machine, without options, in a few words. Asks nobody.

    Raises:
        UserError: if ``OUTGROW_DATA_DIR`` names no folder.
    """
    if _local(source, {}) is not None:
        return "local folder"
    place = source.places[0]
    is_known = _COMMIT.fullmatch(place.revision) or _kept_commit(place).is_file()
    return "cached" if is_known and _cached(source, place, commit_of(source, place)).is_dir() else "hub, not fetched"


def _kept_commit(place: Place) -> Path:
    return cache_folder() / "commits" / f"{place.repo}@{place.revision}".replace("/", "--")


def _cached(source: HubSet, place: Place, commit: str) -> Path:
    name = f"{source.name}-{hashlib.sha256(repr((place, commit)).encode()).hexdigest()[:16]}"
    return cache_folder() / "sets" / name


def commit_of(source: HubSet, place: Place) -> str:
    """The commit of a place. One that is not known is asked for once and kept in the cache, so that it stays.

    Raises:
        UserError: if the hub has to be asked and cannot be.
    """
    if _COMMIT.fullmatch(place.revision):
        return place.revision
    kept = _kept_commit(place)
    if kept.is_file():
        return kept.read_text(encoding="utf-8").strip()
    from huggingface_hub import HfApi, constants

    if constants.is_offline_mode():
        raise _missing(source, place, "no copy is here, and fetching is off")
    _check_reachable(source, place)
    try:
        api = HfApi()
        if _SHORT_COMMIT.fullmatch(place.revision):
            commits = (c.commit_id for c in api.list_repo_commits(place.repo, repo_type="dataset"))
            commit = next((c for c in commits if c.startswith(place.revision)), None)
        else:
            commit = api.dataset_info(place.repo, revision=place.revision, timeout=20).sha
    except Exception as error:  # whatever the hub's client and its transport raise; told in full below
        raise _missing(source, place, f"the hub was asked for its commit and said: {_first_line(error)}") from error
    if commit is None or not _COMMIT.fullmatch(commit):
        raise _missing(source, place, f"the hub knows no commit {place.revision}")
    with writing(kept.parent):
        temporary = kept.with_name(f".{kept.name}.{os.getpid()}")
        temporary.write_text(commit, encoding="utf-8")
        os.replace(temporary, kept)
    return commit


def _place(source: HubSet, options: Mapping[str, Any]) -> Place:
    wanted, revision = options.get("repo"), options.get("revision")
    if revision is not None and not _COMMIT.fullmatch(revision):
        raise UserError(f"{source.name}: revision={revision!r} is no commit; give its 40 hexadecimal digits")
    if wanted is None:
        return source.places[0]
    for place in source.places:
        if wanted == place.name:
            return place
    known = ", ".join(repr(p.name) for p in source.places)
    raise UserError(f"{source.name}: repo={wanted!r} is not among the places it is known to be at: {known}")


def _local(source: HubSet, options: Mapping[str, Any]) -> Files | None:
    """Files of the set in the folder that the option or the environment names; None where the hub is to be taken."""
    chosen = options.get("data_dir")
    wants_hub = options.get("repo") is not None or options.get("revision") is not None
    if chosen is not None and wants_hub:
        raise UserError(f"{source.name}: give data_dir, or repo and revision, not both")
    named = chosen or (None if wants_hub else os.environ.get("OUTGROW_DATA_DIR"))
    if not named:
        return None
    folder = Path(named).expanduser()
    if not folder.is_dir():
        origin = "data_dir" if chosen else "OUTGROW_DATA_DIR"
        raise UserError(f"{source.name}: {origin}={named!r} is no folder; name the folder that holds the data sets")
    names = dict.fromkeys(n for name in (source.name, *source.folders) for n in (name, name.replace("-", "_")))
    places = [folder / name for name in names] + ([folder] if chosen else [])
    for place in places:
        files = _found(source, place) if place.is_dir() else {}
        if files:
            return files
    if chosen:
        raise UserError(
            f"{source.name}: {folder} holds no {next(reversed(names))}/{source.train}.parquet (nor .csv, .jsonl); it "
            f"needs a folder of that name with {_and(source.rows)}"
        )
    return None


def _found(source: HubSet, folder: Path) -> Files:
    splits = dict.fromkeys([*source.rows, "train", "validation", "test"])
    usual = {"validation": ("dev", "val")}
    found = {}
    for split in splits:
        for name in (split, *source.aliases.get(split, ()), *usual.get(split, ())):
            if files := _files_of(source, folder, name):
                found[split] = files
                break
    return {split: files for split, files in source.renamed(found).items() if split in source.rows}


def _files_of(source: HubSet, folder: Path, split: str) -> tuple[Path, ...]:
    configs = {p for place in source.places for p in (place.config, place.data_dir) if p}
    folders = ["", "data/", *(f"{c}/" for c in sorted(configs))]
    for inside in folders:
        for ending in _ENDINGS:
            for pattern in (f"{split}.{ending}", f"{split}-*-of-*.{ending}", f"{split}/*.{ending}"):
                if files := tuple(sorted(f for f in folder.glob(inside + pattern) if f.is_file())):
                    return files
    return ()


# --- reading ----------------------------------------------------------------------------------------------------------


def read(
    source: HubSet, splits: tuple[str, ...], options: Mapping[str, Any], runtime: Runtime
) -> Callable[[], Iterator[HubRow]]:
    """A function that goes through the rows of these splits, in order, as often as it is called.

    A split that a folder lacks, and a number of rows other than the hub's, are told; a folder may be cut.

    Raises:
        UserError: if the data is not here and cannot be fetched, or lacks a column, or the hub's rows are not those
            expected.
    """
    files = _local(source, options)
    is_local = files is not None
    if files is None:
        place = _place(source, options)
        commit = options.get("revision") or commit_of(source, place)
        files = {s: (f,) for s, f in _fetched(source, place, commit, runtime).items()}
        where = f"{place.repo}@{commit[:12]}"
        mend = _other_ways(source, place)
    else:
        where = str(next(iter(files.values()))[0].parent)
        mend = f"compare it with {source.places[0].repo} on the hub"
    if not any(split in files for split in splits):
        raise UserError(f"{source.name}: {where} has none of the splits {_and(splits)}; {mend}")
    missing = [s for s in splits if s not in files]
    if missing:
        runtime.say(f"{source.name}: {where} has no {' and no '.join(missing)}; going on without")

    def rows() -> Iterator[HubRow]:
        for split in splits:
            number = -1
            for number, values in enumerate(chain.from_iterable(_rows(source, f, mend) for f in files.get(split, ()))):
                yield HubRow(values, source.name, where, split, number)
            expected = source.rows[split]
            if is_local and split in files and expected not in (None, number + 1):
                runtime.say(f"{source.name}: {split} in {where} has {number + 1} rows, the hub's has {expected}")

    return rows


def _rows(source: HubSet, file: Path, mend: str) -> Iterator[dict[str, Any]]:
    match file.suffix:
        case ".parquet":
            yield from _parquet_rows(source, file, mend)
        case ".csv" | ".tsv":
            yield from _csv_rows(source, file, mend)
        case _:
            yield from _json_rows(source, file, mend)


def _parquet_rows(source: HubSet, file: Path, mend: str) -> Iterator[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file) as parquet:
            columns = _columns(source, parquet.schema_arrow.names, file, mend)
            for batch in parquet.iter_batches(batch_size=4096, columns=columns):
                yield from batch.to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{source.name}: {file} cannot be read as Parquet ({_first_line(error)}); {mend}") from error


def _csv_rows(source: HubSet, file: Path, mend: str) -> Iterator[dict[str, Any]]:
    # The originals in TSV hold single quotes of both kinds as plain characters.
    is_tsv = file.suffix == ".tsv"
    with open(file, encoding="utf-8-sig", newline="") as lines:
        reader = csv.reader(lines, delimiter="\t" if is_tsv else ",", quoting=csv.QUOTE_NONE if is_tsv else 0)
        first = next(reader, [])
        if source.headerless and not set(first) & set(source.headerless) and len(first) == len(source.headerless):
            header, body = list(source.headerless), chain([first], reader)
        else:
            header, body = first, chain(reader)
        _columns(source, header, file, mend)
        try:
            for fields in body:
                if fields and len(fields) != len(header):
                    raise UserError(
                        f"{source.name}: {file}, line {reader.line_num}: {len(fields)} fields where the header has "
                        f"{len(header)}; {mend}"
                    )
                if fields:
                    yield dict(zip(header, fields, strict=True))
        except (csv.Error, UnicodeDecodeError) as error:
            raise UserError(f"{source.name}: {file} cannot be read as CSV ({error}); {mend}") from error


def _json_rows(source: HubSet, file: Path, mend: str) -> Iterator[dict[str, Any]]:
    try:
        with open(file, encoding="utf-8-sig") as lines:
            entries = json.load(lines) if file.suffix == ".json" else (json.loads(s) for s in lines if s.strip())
            for number, entry in enumerate(entries):
                unpacked = source.unpacked(entry) if source.unpacked and isinstance(entry, list) else (entry,)
                for row in unpacked:
                    if not isinstance(row, dict):
                        raise UserError(f"{source.name}: entry {number} of {file} is no JSON object; {mend}")
                    _columns(source, list(row), file, mend)
                    yield row
    except (ValueError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{source.name}: {file} cannot be read as JSON ({_first_line(error)}); {mend}") from error


def _columns(source: HubSet, there: list[str], file: Path, mend: str) -> list[str]:
    """The columns to read of those that are there."""
    for wanted in source.columns:
        if not set(wanted.split("|")) & set(there):
            raise UserError(
                f"{source.name}: {file} has no column {' or '.join(map(repr, wanted.split('|')))}; it has "
                f"{', '.join(map(repr, there))}; {mend}"
            )
    known = {name for wanted in source.columns for name in wanted.split("|")} | set(source.optional)
    return [name for name in there if name in known]


# --- fetching ---------------------------------------------------------------------------------------------------------


def _fetched(source: HubSet, place: Place, commit: str, runtime: Runtime) -> dict[str, Path]:
    """Parquet files of all labelled splits in the cache, complete and checked."""
    folder = _cached(source, place, commit)
    rows = place.rows or source.rows
    if not folder.is_dir():
        from huggingface_hub import constants

        if runtime.offline or constants.is_offline_mode():
            raise _missing(source, place, "no copy is here, and fetching is off")
        _check_reachable(source, place)
        runtime.say(f"fetching {source.name} from the hub: {place.repo} at {commit} (licence: {source.licence})")
        loaded = _loaded(source, place, commit)
        with new_folder(folder) as inside:
            for split, expected in rows.items():
                _save(source, place, loaded, split, expected, inside / f"{split}.parquet")
    return {split: folder / f"{split}.parquet" for split in rows}


def _save(source: HubSet, place: Place, loaded: Any, split: str, expected: int | None, file: Path) -> None:
    theirs = place.splits.get(split, split)
    if theirs not in loaded:
        raise UserError(
            f"{source.name}: {place.repo} has no split {theirs!r}, it has {_and(loaded)}; {_other_ways(source, place)}"
        )
    rows = loaded[theirs]
    _columns(source, rows.column_names, Path(place.repo), _other_ways(source, place))
    if expected not in (None, len(rows)):
        raise UserError(
            f"{source.name}: {theirs} of {place.repo} has {len(rows)} rows where {expected} are expected; "
            f"{_other_ways(source, place)}"
        )
    rows.to_parquet(str(file))


def _loaded(source: HubSet, place: Place, commit: str) -> Any:
    import datasets

    if Path(place.repo).exists():  # the library would read it instead of the hub's, and say nothing
        raise UserError(f"{source.name}: here is a folder {place.repo}, which hides the hub's; run elsewhere")
    try:
        if place.files:
            files = {split: f"hf://datasets/{place.repo}@{commit}/{path}" for split, path in place.files.items()}
            names = {"column_names": list(place.column_names)} if place.column_names else {}
            # A text such as "None" is a text.
            return datasets.load_dataset("csv", data_files=files, keep_default_na=False, **names)
        return datasets.load_dataset(place.repo, place.config, data_dir=place.data_dir, revision=commit)
    except Exception as error:  # whatever the library and its transport raise; told below, and kept as the cause
        raise _missing(source, place, f"the hub's copy could not be loaded: {_first_line(error)}") from error


def _check_reachable(source: HubSet, place: Place) -> None:
    if why := hub_unreachable():
        raise _missing(source, place, f"no copy is here, and the hub cannot be reached: {why}")


def _missing(source: HubSet, place: Place, why: str) -> UserError:
    return UserError(
        f"{source.name} ({place.repo} on the hub): {why}; run `outgrow pull {source.name}` where the hub can be "
        f"reached, or {_other_ways(source, place)}"
    )


def _other_ways(source: HubSet, place: Place) -> str:
    others = [f"{source.name}(repo={p.name!r})" for p in source.places if p is not place]
    folder = (
        f"give the folder that holds {source.name.replace('-', '_')}/{source.train}.parquet and so on "
        f"with --data-dir{f' (original files: {source.originals})' if source.originals else ''}"
    )
    return f"try {' or '.join(others)}, or {folder}" if others else folder


def _and(names: Mapping[str, Any] | tuple[str, ...]) -> str:
    return ", ".join(names)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
