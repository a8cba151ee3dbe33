"""Rows of public data sets: from a folder of yours in the hub's schema, or from a pinned commit of the hub.

What is fetched is checked (columns, row counts), written to the cache as one Parquet file per split, and read from
there by the same code as a folder. The cache of the ``datasets`` library would not do: offline, it takes the newest
version it finds, whatever commit was asked for.
"""

import hashlib
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Any

from outgrow.archives import hub_unreachable, known_sha256, new_folder, writing
from outgrow.errors import UserError
from outgrow.runtime import Runtime, beside, cache_folder, user_path
from outgrow.tasks.readers import first_line, no_column, read_rows, shown

__all__ = ["CONVERTED", "Empty", "HubRow", "HubSet", "Place", "commit_of", "identity", "place_of", "read"]

Files = Mapping[str, tuple[Path, ...]]
"""Split to its files, in order."""

CONVERTED = "refs/convert/parquet"
"""The hub's own conversion of sets that come as a script, which no library runs any more."""

_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHORT_COMMIT = re.compile(r"[0-9a-f]{7,39}")
_ENDINGS = ("parquet", "jsonl", "json", "csv", "tsv")
_HIDDEN = (-1, "-1", "", None)


@dataclass(frozen=True)
class Place:
    """One repository of the hub that holds a set."""

    repo: str
    _: KW_ONLY
    revision: str = "main"
    """40 hexadecimal digits if the commit is known; otherwise a short commit or a branch, looked up once and kept."""
    config: str | None = None
    data_dir: str | None = None
    called: Mapping[str, str] = field(default_factory=dict)
    """Our name of a split to the repository's, where they differ."""
    splits: Mapping[str, int | None] | None = None
    """Splits and their numbers of rows, if they differ here from those of the set."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Split to a CSV in the repository, for a set that the library's builders read wrongly."""
    column_names: tuple[str, ...] | None = None
    """Of ``files`` without a header."""

    @property
    def name(self) -> str:
        """What the option ``repo`` calls it."""
        return f"{self.repo}@{self.revision}" if self.revision.startswith("refs/") else self.repo


@dataclass(frozen=True, kw_only=True)
class HubSet:
    """A data set: where it lies, what it holds, and what its own splits are called."""

    name: str
    """Also the name of its folder in a folder of data sets (with - or _)."""
    places: tuple[Place, ...]
    """The first is used; the error names the others when it fails."""
    splits: Mapping[str, int | None]
    """The labeled splits, each with its number of rows on the hub, if known. The official training split comes first.
    The official test comes last: the labeled test split, or validation if the test labels are hidden. After it, a
    second, harder test may follow as ``test_hard``."""
    columns: tuple[str, ...]
    """Columns that must be there, ``a|b`` for either; with ``?`` those that may be."""
    licence: str
    folders: tuple[str, ...] = ()
    """Further names of its folder."""
    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Split to further names of its file."""
    renamed: Callable[[Files], Files] = field(default=lambda files: files)
    """Which split each file found is, if names mean different things in different copies."""
    headerless: tuple[str, ...] = ()
    """Columns of the original files, if those have no header."""
    unpacked: Callable[[Any], Iterator[dict[str, Any]]] | None = None
    """Rows of one entry of the original JSON, if that is nested."""
    originals: str = ""
    """Where the original files are, for the message that says what to fetch by hand."""


class Empty(Exception):
    """A text that a row has to have is missing; holds the column's name."""


@dataclass(frozen=True, slots=True)
class HubRow:
    """One row as it is in the file. A value that does not fit is an error with its place."""

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
            Empty: if there is none; the originals have such rows too, and they are counted and left out.
            UserError: if it is something else.
        """
        value = self.values[column]
        if value is None or (isinstance(value, str) and not value.strip()):
            raise Empty(column)
        if not isinstance(value, str):
            raise self.wrong(column, "is no text")
        return value.strip()

    def texts(self, column: str) -> tuple[str, ...]:
        """The column's list of texts. An empty text stays, since a label may count by place.

        Raises:
            UserError: if it is no list of texts.
        """
        value = self.values[column]
        if not isinstance(value, list | tuple) or not all(isinstance(v, str) for v in value):
            raise self.wrong(column, "is no list of texts (a CSV cannot hold one: use .parquet or .jsonl)")
        return tuple(v.strip() for v in value)

    def whole(self, column: str, size: int, first: int = 0) -> int:
        """A label from ``first`` to ``first + size - 1``, counted from 0: a number, its text, or true/false.

        Raises:
            UserError: for a hidden label (-1, empty), and for any other value.
        """
        value = self.values[column]
        value = value.strip() if isinstance(value, str) else value
        if value in _HIDDEN:
            raise self.wrong(column, "hides the label; remove this split, it cannot be used")
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
        return UserError(
            f"{self.set_name}: row {self.number} of {self.split} in {self.where}: {column} "
            f"{shown(self.values.get(column))} {why}; is this really {self.set_name}, in the hub's schema?"
        )


# --- which data -------------------------------------------------------------------------------------------------------


def identity(source: HubSet, splits: tuple[str, ...], options: Mapping[str, Any]) -> str:
    """What the data is: the sha256 of the files of a folder, or repository and commit of the hub.

    Raises:
        UserError: if a folder that was named does not exist, or the commit is unknown and cannot be looked up.
    """
    files = _local(source, options)
    if files is not None:
        parts = [f"{split}:{known_sha256(f)}" for split in splits for f in files.get(split, ())]
        return f"files:{hashlib.sha256(' '.join(parts).encode()).hexdigest()}"
    place = _place(source, options)
    commit = options.get("revision") or commit_of(source, place)
    return ":".join(["hub", f"{place.repo}@{commit}", place.config or "", place.data_dir or ""])


def place_of(source: HubSet) -> str:
    """Where the set would come from on this machine with its default options, in a few words. Asks nobody.

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
    """The commit of a place. An unknown one is asked for once and kept in the cache, so that it stays.

    Raises:
        UserError: if the hub has to be asked and cannot be.
    """
    if _COMMIT.fullmatch(place.revision):
        return place.revision
    kept = _kept_commit(place)
    if kept.is_file():
        return kept.read_text(encoding="utf-8").strip()
    _check_may_fetch(source, place)
    from huggingface_hub import HfApi

    try:
        api = HfApi()
        if _SHORT_COMMIT.fullmatch(place.revision):
            commits = (c.commit_id for c in api.list_repo_commits(place.repo, repo_type="dataset"))
            commit = next((c for c in commits if c.startswith(place.revision)), None)
        else:
            commit = api.dataset_info(place.repo, revision=place.revision, timeout=20).sha
    except Exception as error:  # whatever the hub's client and its transport raise; the message holds it
        raise _missing(source, place, f"the hub was asked for its commit and said: {first_line(error)}") from error
    if commit is None or not _COMMIT.fullmatch(commit):
        raise _missing(source, place, f"the hub knows no commit {place.revision}")
    with writing(kept.parent), beside(kept) as unfinished:
        unfinished.write_text(commit, encoding="utf-8")
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
    """The set's files in the folder that the option or the environment names; None if it comes from the hub."""
    chosen = options.get("data_dir")
    wants_hub = options.get("repo") is not None or options.get("revision") is not None
    if chosen is not None and wants_hub:
        raise UserError(f"{source.name}: give data_dir, or repo and revision, not both")
    named = chosen or (None if wants_hub else os.environ.get("OUTGROW_DATA_DIR"))
    if not named:
        return None
    folder = user_path(named)
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
            f"{source.name}: {folder} holds no {next(reversed(names))}/{next(iter(source.splits))}.parquet (nor .csv, "
            f".jsonl); it needs a folder of that name with {', '.join(source.splits)}"
        )
    return None


def _found(source: HubSet, folder: Path) -> Files:
    configs = sorted({f"{name}/" for place in source.places for name in (place.config, place.data_dir) if name})
    patterns = [
        f"{inside}{{0}}{pattern}{ending}"
        for inside in ("", "data/", *configs)
        for ending in _ENDINGS
        for pattern in (".", "-*-of-*.", "/*.")
    ]
    usual = {"validation": ("dev", "val")}
    found = {}
    for split in dict.fromkeys([*source.splits, "train", "validation", "test"]):
        names = (split, *source.aliases.get(split, ()), *usual.get(split, ()))
        globbed = (folder.glob(pattern.format(name)) for name in names for pattern in patterns)
        if files := next(filter(None, (tuple(sorted(f for f in g if f.is_file())) for g in globbed)), ()):
            found[split] = files
    return {split: files for split, files in source.renamed(found).items() if split in source.splits}


# --- reading ----------------------------------------------------------------------------------------------------------


def read(
    source: HubSet, splits: tuple[str, ...], options: Mapping[str, Any], runtime: Runtime
) -> Callable[[], Iterator[HubRow]]:
    """A function that goes through the rows of these splits, in order, as often as it is called.

    A folder may lack a split or hold another number of rows than the hub; the user is told.

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
        raise UserError(f"{source.name}: {where} has none of the splits {', '.join(splits)}; {mend}")
    missing = [s for s in splits if s not in files]
    if missing:
        runtime.say(f"{source.name}: {where} has no {' and no '.join(missing)}; continuing without")

    def rows() -> Iterator[HubRow]:
        for split in splits:
            number = -1
            values = (row for file in files.get(split, ()) for row in _rows(source, file, mend))
            for number, row in enumerate(values):
                yield HubRow(row, source.name, where, split, number)
            expected = source.splits[split]
            if is_local and split in files and expected not in (None, number + 1):
                runtime.say(f"{source.name}: {split} in {where} has {number + 1} rows, the hub's has {expected}")

    return rows


def _rows(source: HubSet, file: Path, mend: str) -> Iterator[dict[str, Any]]:
    try:
        for row in read_rows(
            file,
            lambda there: _columns(source, there, str(file)),
            is_lenient=True,
            header=source.headerless,
            unpacked=source.unpacked,
        ):
            yield row.values
    except UserError as error:
        raise UserError(f"{source.name}: {error}; {mend}") from error


def _columns(source: HubSet, there: Sequence[str], where: str) -> list[str]:
    """The columns to read, of those that are there."""
    known: set[str] = set()
    for wanted in source.columns:
        names = wanted.removesuffix("?").split("|")
        if not wanted.endswith("?") and not set(names).intersection(there):
            raise no_column(where, there, *names)
        known.update(names)
    return [name for name in there if name in known]


# --- fetching ---------------------------------------------------------------------------------------------------------


def _fetched(source: HubSet, place: Place, commit: str, runtime: Runtime) -> dict[str, Path]:
    """Parquet files of all labeled splits in the cache, complete and checked."""
    folder = _cached(source, place, commit)
    splits = place.splits or source.splits
    if not folder.is_dir():
        _check_may_fetch(source, place, runtime.offline)
        runtime.say(f"fetching {source.name} from the hub: {place.repo} at {commit} (licence: {source.licence})")
        loaded = _loaded(source, place, commit)
        with new_folder(folder) as inside:
            for split, expected in splits.items():
                _save(source, place, loaded, split, expected, inside / f"{split}.parquet")
    return {split: folder / f"{split}.parquet" for split in splits}


def _save(source: HubSet, place: Place, loaded: Any, split: str, expected: int | None, file: Path) -> None:
    theirs = place.called.get(split, split)
    try:
        if theirs not in loaded:
            raise UserError(f"{place.repo} has no split {theirs!r}, it has {', '.join(loaded)}")
        rows = loaded[theirs]
        _columns(source, rows.column_names, place.repo)
        if expected not in (None, len(rows)):
            raise UserError(f"{theirs} of {place.repo} has {len(rows)} rows where {expected} are expected")
    except UserError as error:
        raise UserError(f"{source.name}: {error}; {_other_ways(source, place)}") from None
    rows.to_parquet(str(file))


def _loaded(source: HubSet, place: Place, commit: str) -> Any:
    import datasets

    if Path(place.repo).exists():  # the library would read it instead of the hub's, without a word
        raise UserError(f"{source.name}: here is a folder {place.repo}, which hides the hub's; run elsewhere")
    try:
        if place.files:
            files = {split: f"hf://datasets/{place.repo}@{commit}/{path}" for split, path in place.files.items()}
            names = {"column_names": list(place.column_names)} if place.column_names else {}
            # A text such as "None" is a text.
            return datasets.load_dataset("csv", data_files=files, keep_default_na=False, **names)
        return datasets.load_dataset(place.repo, place.config, data_dir=place.data_dir, revision=commit)
    except Exception as error:  # whatever the library and its transport raise; the message holds it
        raise _missing(source, place, f"the hub's copy could not be loaded: {first_line(error)}") from error


def _check_may_fetch(source: HubSet, place: Place, is_offline: bool = False) -> None:
    from huggingface_hub import constants

    if is_offline or constants.is_offline_mode():
        raise _missing(source, place, "no copy is here, and fetching is off")
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
        f"give the folder that holds {source.name.replace('-', '_')}/{next(iter(source.splits))}.parquet and so on "
        f"with data_dir=...{f' (original files: {source.originals})' if source.originals else ''}"
    )
    return f"try {' or '.join(others)}, or {folder}" if others else folder
