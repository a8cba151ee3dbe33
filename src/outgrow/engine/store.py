"""Stored results, one folder per key: ``<root>/<function>/<key>/`` with files and ``record.json``.

The record is written last and is the only sign that a step is done, so a process killed at any moment leaves either a
finished result or none. Every read verifies the checksums of all files, and that the record's function, version, source
and arguments give the key of its folder. The root can be any fsspec URL.
"""

import contextlib
import errno
import glob
import hashlib
import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

from outgrow.engine import values
from outgrow.engine.graph import EDITION, Step, key_head, key_of
from outgrow.errors import UserError

__all__ = ["Damaged", "OtherEdition", "Record", "Store"]

Record = dict[str, Any]
_LOOKS = 100  # single look-ups per function; listing a store of a million results takes longer than that many


class Damaged(Exception):
    """A stored result that is not what was written: a file is missing or altered, or it lies under another key."""


class OtherEdition(Damaged):
    """A result from another edition of Outgrow, whose keys mean something else."""


class Store:
    """Stored results under ``root`` (a path or any fsspec URL).

    ``kinds`` are the classes of results (``module:Class``) whose modules may be imported when one is read; see
    :mod:`outgrow.engine.values` for how others are stored.
    """

    def __init__(self, root: str, kinds: Iterable[str]) -> None:
        """Open the store. Nothing is created until the first result is written."""
        import fsspec

        self.root = str(root)
        self.kinds = frozenset(kinds)
        try:
            self.fs, path = fsspec.url_to_fs(self.root)
        except (ValueError, ImportError) as error:
            raise UserError(f"cannot open the store {self.root!r}: {error}") from None
        self.path: str = path.rstrip("/")
        self.is_local = "file" in (self.fs.protocol if isinstance(self.fs.protocol, tuple) else (self.fs.protocol,))

    def folder(self, step: Step) -> str:
        """Where the result of ``step`` lies."""
        return f"{self.path}/{step.function.name}/{step.key}"

    def scratch(self, step: Step) -> Path:
        """A local folder for the checkpoints of a running step."""
        root = Path(self.path) if self.is_local else Path(tempfile.gettempdir()) / "outgrow"
        return root / "unfinished" / f"{step.function.name}-{step.key}"

    def is_done(self, step: Step) -> bool:
        """Whether a finished result exists. One look-up, whatever the size of the store."""
        record = f"{self.folder(step)}/record.json"
        return os.path.exists(record) if self.is_local else bool(self.fs.exists(record))

    def batch_is_done(self) -> Callable[[Step], bool]:
        """:meth:`is_done` for the many steps of one plan.

        From the hundredth step of a function on, the function's folders are listed once and only steps that have one
        are looked up: a sweep asks for a hundred thousand steps, and the store may be remote.
        """
        asked: Counter[str] = Counter()
        listed: dict[str, set[str]] = {}

        def is_done(step: Step) -> bool:
            function = step.function.name
            asked[function] += 1
            if asked[function] < _LOOKS:
                return self.is_done(step)
            if function not in listed:
                listed[function] = self._keys(function)
            return step.key in listed[function] and self.is_done(step)

        return is_done

    def _keys(self, function: str) -> set[str]:
        """The keys of a function's results, including unfinished ones."""
        folder = f"{self.path}/{function}"
        self.fs.invalidate_cache(folder)  # others may have written since it was last listed
        try:
            return {str(found).rsplit("/", 1)[-1] for found in self.fs.ls(folder, detail=False)}
        except FileNotFoundError:
            return set()

    def record(self, step: Step) -> Record:
        """The record of a finished step.

        Raises:
            Damaged: if it is missing, unreadable or altered.
        """
        return self._read_record(self.folder(step))

    def read(self, step: Step) -> Any:
        """The result of a finished step, verified.

        Raises:
            Damaged: if a file is missing or its checksum differs.
        """
        return self._read(self.folder(step))

    def read_key(self, key: str) -> Any:
        """The result with this key, verified.

        Raises:
            UserError: if there is none.
            Damaged: if a file is missing or its checksum differs.
        """
        return self._read(self._folder_of(key))

    def _read(self, folder: str) -> Any:
        record = self._read_record(folder)
        if record["kind"] is None:
            return record["result"]
        with self._local(folder, record["files"]) as local:
            return values.load(record["kind"], local, self.kinds)

    def verify(self, folder: str) -> Record:
        """Check every file of one stored result; returns its record.

        Raises:
            Damaged: if a file is missing or its checksum differs.
        """
        record = self._read_record(folder)
        with self._local(folder, record["files"]):
            return record

    def write(self, step: Step, value: Any, facts: Record) -> Record:
        """Store a result; ``facts`` (seconds, versions, host ...) go into the record.

        Raises:
            UserError: if the disk is full or not writable. Finished steps are kept.
        """
        with disk_errors(self.root), tempfile.TemporaryDirectory(prefix="outgrow-") as temporary:
            local = Path(temporary)
            kind = values.save(value, local)
            files = {p.name: _sha256(p) for p in sorted(local.iterdir())}
            content = {
                "edition": EDITION,
                "key": step.key,
                "fn": step.function.name,
                "version": step.function.version,
                "source": step.function.source,
                "args": json.loads(step.canonical_args),
                "inputs": [s.key for s in step.inputs],
                "kind": kind,
                "files": files,
                "result": None if kind else value,
                **facts,
            }
            text = json.dumps(content, ensure_ascii=False, allow_nan=False)
            record: Record = json.loads(text)  # exactly what a reader will get
            (local / "record.json").write_text(
                json.dumps({"sha256": _digest(record), "record": record}, ensure_ascii=False, indent=1),
                encoding="utf-8",
            )
            self._put(local, self.folder(step), [*files, "record.json"])
        return record

    def delete(self, step: Step) -> None:
        """Delete a result."""
        self.delete_folder(self.folder(step))

    def delete_folder(self, folder: str) -> None:
        """Delete the result in ``folder``, record first, so that a half-deleted result never counts as done."""
        if self.fs.exists(f"{folder}/record.json"):
            self.fs.rm(f"{folder}/record.json")
        if self.fs.exists(folder):
            self.fs.rm(folder, recursive=True)

    def folders(self, function: str | None = None) -> Iterator[str]:
        """The folders of all finished results, or of those of one step function."""
        for record in sorted(self._matching(f"{function or '*'}/*")):
            yield record.rsplit("/", 1)[0]

    def records(self, function: str | None = None) -> Iterator[Record]:
        """The records of all finished results. Damaged ones are skipped; ``outgrow doctor`` reports them."""
        for folder in self.folders(function):
            with contextlib.suppress(Damaged):
                yield self._read_record(folder)

    def of_other_editions(self, function: str | None = None) -> list[str]:
        """The folders of results from other editions of Outgrow, or of those of one function. They are never read."""
        found = []
        for folder in self.folders(function):
            try:
                self._read_record(folder)
            except OtherEdition:
                found.append(folder)
            except Damaged:
                continue
        return found

    def find(self, key: str) -> Record:
        """The record whose key starts with ``key``.

        Raises:
            UserError: if there is none, or more than one.
        """
        return self._read_record(self._folder_of(key))

    def _folder_of(self, key: str) -> str:
        found: list[str] = []
        if len(key) == 64 and key.isalnum():  # a whole key: one look for each function, whatever the size of the store
            with contextlib.suppress(FileNotFoundError):
                places = [f"{function}/{key}/record.json" for function in self.fs.ls(self.path, detail=False)]
                found = [record for record in places if self.fs.exists(record)]
        elif key.isalnum():
            found = self._matching(f"*/{key}*")
        if len(found) != 1:
            raise UserError(
                f"{len(found)} results in {self.root} have a key that starts with {key!r}; see `outgrow ls`"
            )
        return found[0].rsplit("/", 1)[0]

    def _matching(self, pattern: str) -> list[str]:
        """The paths of all records in matching folders. The root is escaped, as it may contain glob characters."""
        return [str(r) for r in self.fs.glob(f"{glob.escape(self.path)}/{pattern}/record.json")]

    def _read_record(self, folder: str) -> Record:
        try:
            wrapped = json.loads(self.fs.cat_file(f"{folder}/record.json"))
            record: Record = wrapped["record"]
            if wrapped["sha256"] != _digest(record):
                raise Damaged(f"{folder}/record.json was altered")
            if record.get("edition") != EDITION:
                raise OtherEdition(
                    f"{folder} was stored by another edition of Outgrow; `outgrow clean --old` removes it"
                )
            for name in record["files"]:  # others may write to a shared store: file names must stay inside the folder
                if name in ("", ".", "..") or "/" in name or "\\" in name:
                    raise Damaged(f"{folder}/record.json names {name!r}, which is no file of its folder")
            if (found := _place_of(record)) != tuple(folder.rsplit("/", 2)[1:]):
                raise Damaged(f"{folder} holds the result of {found[0]}/{found[1][:12]}, which is another step's")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise Damaged(f"{folder}/record.json cannot be read ({type(error).__name__})") from error
        return record

    @contextlib.contextmanager
    def _local(self, folder: str, files: Mapping[str, str]) -> Iterator[Path]:
        """The verified files of a result on this machine: in place, or as a temporary copy from a remote store."""
        with contextlib.ExitStack() as stack:
            if self.is_local:
                local = Path(folder)
            else:
                local = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="outgrow-")))
                for name in files:
                    with contextlib.suppress(FileNotFoundError):
                        self.fs.get_file(f"{folder}/{name}", str(local / name))
            for name, expected in files.items():
                path = local / name
                if not path.is_file():
                    raise Damaged(f"{folder}/{name} is missing")
                if _sha256(path) != expected:
                    raise Damaged(f"{folder}/{name} does not have the checksum in its record")
            yield local

    def _put(self, local: Path, folder: str, names: list[str]) -> None:
        self.fs.makedirs(folder, exist_ok=True)
        for name in names:  # the record is the last
            unfinished = f"{folder}/.{name}.{uuid4().hex[:8]}"
            self.fs.put_file(str(local / name), unfinished)
            self.fs.mv(unfinished, f"{folder}/{name}")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _place_of(record: Record) -> tuple[str, str]:
    """Function and key that the content of a record stands for, whatever key it claims."""
    args = json.dumps(record["args"], sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return record["fn"], key_of(key_head(record["fn"], record["version"], record["source"]), args)


def _digest(record: Record) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@contextlib.contextmanager
def disk_errors(root: str) -> Iterator[None]:
    """Turn disk errors into one line."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            free = shutil.disk_usage(tempfile.gettempdir()).free
            raise UserError(
                f"no space left while writing to {root} (temporary folder: {free >> 20} MiB free); free some space and "
                "run again; finished steps are kept"
            ) from None
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            raise UserError(f"cannot write to {root}: {error.strerror}; choose another with store=...") from None
        raise
