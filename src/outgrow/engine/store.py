"""Stored results, one folder per key: ``<root>/<function>/<key>/`` with files and ``record.json``.

On a local disk a result is prepared in ``<root>/unfinished`` and its folder renamed as a whole; elsewhere the record is
written last. The record is the only sign that a step is done, so a process killed at any moment leaves a finished
result or none. Every read verifies the checksums of all files, the form of the record, and that its function, version,
source and arguments give the key of its folder. The root can be any fsspec URL; what is said of it holds no secrets.
"""

import contextlib
import errno
import glob
import hashlib
import json
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

from outgrow.engine import values
from outgrow.engine.graph import EDITION, Step, key_head, key_of
from outgrow.errors import UserError, disk_problem, without_secrets
from outgrow.runtime import abandoned, beside, cache_folder, owned, remove, sha256_of, user_path

__all__ = ["MARKS", "Damaged", "OtherEdition", "Record", "Store", "Unreachable"]

Record = dict[str, Any]
_FACTS: Record = {"seconds": 0.0, "finished": "", "together": 1, "note": None, "versions": {}, "git": None, "host": {}}
"""What the runner adds to a record."""
_FORM: Mapping[str, Any] = {
    **{"key": str, "fn": str, "version": int, "args": dict, "inputs": list, "kind": str | None, "files": dict},
    **{"seconds": int | float, "finished": str, "note": dict | None, "versions": dict, "git": str | None, "host": dict},
}
MARKS = "marks"
"""The folder of what is no result: see :meth:`Store.mark`."""
_ATTEMPTS = 20  # to put a result in place while other processes do the same
_LOOKS = 100  # single look-ups per function; listing a store of a million results takes longer than that many


class Damaged(UserError):
    """A stored result that is not what was written: a file is missing or altered, or it lies under another key."""


class Unreachable(UserError):
    """The store cannot be read or written at all: every further step would meet the same."""


class OtherEdition(Damaged):
    """A result from another edition of Outgrow, whose keys mean something else."""


class Store:
    """Stored results under ``root`` (a path or any fsspec URL).

    ``kinds`` are the classes of results (``module:Class``) whose modules may be imported when one is read; see
    :mod:`outgrow.engine.values` for how others are stored.
    """

    def __init__(self, root: str, kinds: Iterable[str]) -> None:
        """Open the store. Nothing is created until the first result is written.

        Raises:
            UserError: if no such place can be opened, or a file stands there.
        """
        import fsspec

        self.root = without_secrets(str(root))
        """What the store is called: its path or URL, without secrets."""
        self.kinds = frozenset(kinds)
        if "://" not in str(root):
            user_path(str(root))
        try:
            self.fs, path = fsspec.url_to_fs(str(root))
        except Exception as error:  # each kind of file system logs in by a library of its own
            raise UserError(f"cannot open the store {self.root!r}: {error}") from None
        self.path: str = path.rstrip("/")
        self._has_bucket = False
        self.is_local = "file" in (self.fs.protocol if isinstance(self.fs.protocol, tuple) else (self.fs.protocol,))
        if self.is_local and os.path.lexists(self.path) and not os.path.isdir(self.path):
            what = "a file" if os.path.exists(self.path) else "a link to what is not there"
            raise UserError(f"the store {self.root} is {what}; name a folder with store=...")

    def folder(self, step: Step) -> str:
        """Where the result of ``step`` lies."""
        return f"{self.path}/{step.function.name}/{step.key}"

    def scratch(self, step: Step) -> Path:
        """A local folder for the checkpoints of a running step."""
        return self.unfinished / f"{step.function.name}-{step.key}"

    @property
    def unfinished(self) -> Path:
        """Where unfinished work lies: in a local store, else in the user's own cache."""
        if self.is_local:
            return Path(self.path) / "unfinished"
        return cache_folder() / "unfinished" / hashlib.sha256(self.root.encode()).hexdigest()[:16]

    def drop_abandoned(self) -> None:
        """Remove what killed processes were preparing here. Checkpoints stay: their step goes on from them."""
        for left in abandoned(self.unfinished.glob("*~*~*")) if self.is_local else ():
            remove(left)

    def is_done(self, step: Step) -> bool:
        """Whether a finished result exists. One look-up, whatever the size of the store."""
        record = f"{self.folder(step)}/record.json"
        return os.path.exists(record) if self.is_local else bool(self._ask("exists", record))

    def _ask(self, method: str, *args: Any, **options: Any) -> Any:
        """Call the file system.

        Raises:
            FileNotFoundError: if there is no such file.
            Unreachable: for any other error of a remote store, whose libraries have errors of their own; of a local
                one for errors of disk, path and permission.
        """
        try:
            return getattr(self.fs, method)(*args, **options)
        except FileNotFoundError:
            raise
        except Exception as error:
            if self.is_local:
                raise _problem(error, self.root) or error from None
            said = f"{type(error).__name__}: {error}".splitlines()[0]
            raise Unreachable(
                f"the store {self.root} cannot be reached or refuses ({said}); check the address, the network and your "
                "access, then run the same command again; finished steps are kept"
            ) from error

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
        self._ask("invalidate_cache", folder)  # others may have written since it was last listed
        try:
            return {str(found).rsplit("/", 1)[-1] for found in self._ask("ls", folder, detail=False)}
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
            try:
                return values.load(record["kind"], local, self.kinds)
            except UserError:
                raise
            except Exception as error:  # the files are those of the record, which anybody may have written
                raise Damaged(f"{folder} holds no {record['kind']} ({type(error).__name__}: {error})") from error

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
        with disk_errors(self.root), self._prepared(step) as local:
            kind = values.save(value, local)
            files = {p.name: sha256_of(p) for p in sorted(local.iterdir())}
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
                **_FACTS,
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

    @contextlib.contextmanager
    def _prepared(self, step: Step) -> Iterator[Path]:
        """An empty folder to prepare a result in: on the store's own disk, or in the folder for temporary files."""
        if self.is_local:
            self.unfinished.mkdir(parents=True, exist_ok=True)
        place = self.unfinished if self.is_local else None
        with tempfile.TemporaryDirectory(dir=place, prefix=owned("outgrow"), ignore_cleanup_errors=True) as temporary:
            local = Path(temporary) / step.key
            local.mkdir()
            yield local

    def mark(self, place: str, name: str, text: str = "") -> None:
        """Leave a small file for good: no result, and not removed with results. The same name again changes nothing.

        Raises:
            Unreachable: if it cannot be written.
        """
        folder = f"{self.path}/{MARKS}/{place}"
        if self.is_local:
            with disk_errors(self.root):
                Path(folder).mkdir(parents=True, exist_ok=True)
                with beside(Path(folder) / name) as unfinished:
                    unfinished.write_text(text, encoding="utf-8")
        else:
            self._ask("makedirs", folder, exist_ok=True)
            self._ask("pipe_file", f"{folder}/{name}", text.encode())

    def marks(self, place: str) -> list[str]:
        """The names of the marks at a place, sorted."""
        folder = f"{self.path}/{MARKS}/{place}"
        self._ask("invalidate_cache", folder)
        try:
            names = [str(found).rstrip("/").rsplit("/", 1)[-1] for found in self._ask("ls", folder, detail=False)]
        except FileNotFoundError:
            return []
        return sorted(name for name in names if "~" not in name)  # others are being written

    def mark_text(self, place: str, name: str) -> str:
        """What a mark says; nothing if it is gone."""
        with contextlib.suppress(FileNotFoundError):
            return bytes(self._ask("cat_file", f"{self.path}/{MARKS}/{place}/{name}")).decode(errors="replace")
        return ""

    def unmark(self, place: str, name: str) -> None:
        """Take a mark back."""
        with contextlib.suppress(FileNotFoundError):
            self._ask("rm_file", f"{self.path}/{MARKS}/{place}/{name}")

    def delete(self, step: Step) -> None:
        """Delete a result."""
        self.delete_folder(self.folder(step))

    def delete_folder(self, folder: str) -> None:
        """Delete the result in ``folder``, record first, so that a half-deleted result never counts as done."""
        if self.is_local:
            remove(Path(folder) / "record.json")
            remove(Path(folder))
            return
        with contextlib.suppress(FileNotFoundError):  # another process may be deleting it too
            if self._ask("exists", f"{folder}/record.json"):
                self._ask("rm", f"{folder}/record.json")
            if self._ask("exists", folder):
                self._ask("rm", folder, recursive=True)

    def folders(self, function: str | None = None) -> Iterator[str]:
        """The folders of all finished results, or of those of one step function."""
        for record in sorted(self._matching(f"{function or '*'}/*")):
            yield record.rsplit("/", 1)[0]

    def records(self, function: str | None = None, unread: list[Damaged] | None = None) -> Iterator[Record]:
        """The records of all finished results. Those that cannot be read are skipped, and added to ``unread``."""
        for folder in self.folders(function):
            try:
                yield self._read_record(folder)
            except Damaged as damage:
                if unread is not None:
                    unread.append(damage)

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
        if not key:
            raise UserError("give the first characters of a key; `outgrow ls` lists them")
        if len(key) == 64 and key.isalnum():  # a whole key: one look for each function, whatever the size of the store
            with contextlib.suppress(FileNotFoundError):
                places = [f"{function}/{key}/record.json" for function in self._ask("ls", self.path, detail=False)]
                found = [record for record in places if self._ask("exists", record)]
        elif key.isalnum():
            found = self._matching(f"*/{key}*")
        if len(found) != 1:
            raise UserError(
                f"{len(found)} results in {self.root} have a key that starts with {key!r}; see `outgrow ls`"
            )
        return found[0].rsplit("/", 1)[0]

    def _matching(self, pattern: str) -> list[str]:
        """The paths of all records in matching folders. The root is escaped, as it may contain glob characters."""
        return [str(r) for r in self._ask("glob", f"{glob.escape(self.path)}/{pattern}/record.json")]

    def _read_record(self, folder: str) -> Record:
        try:
            content = self._record_file(f"{folder}/record.json")
            wrapped = json.loads(content, parse_constant=_refuse)
            record: Record = wrapped["record"]
            if wrapped["sha256"] != _digest(record):
                raise Damaged(f"{folder}/record.json was altered")
            if b"\xed" in content or b"\\ud" in content.lower():  # half characters could not be written to a page
                json.dumps(record, ensure_ascii=False).encode()
            if record.get("edition") != EDITION:
                raise OtherEdition(
                    f"{folder} was stored by another edition of Outgrow; `outgrow clean --old` removes it"
                )
            record = {**_FACTS, **record}
            if wrong := [name for name, kind in _FORM.items() if not isinstance(record[name], kind)]:
                raise Damaged(f"{folder}/record.json holds no usable {wrong[0]}")
            for name in record["files"]:  # others may write to a shared store: file names must stay inside the folder
                if name in ("", ".", "..") or "/" in name or "\\" in name or "\0" in name:
                    raise Damaged(f"{folder}/record.json names {name!r}, which is no file of its folder")
            if (found := _place_of(record)) != tuple(folder.rsplit("/", 2)[1:]):
                raise Damaged(f"{folder} holds the result of {found[0]}/{found[1][:12]}, which is another step's")
        except UserError:
            raise
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise Damaged(f"{folder}/record.json cannot be read ({type(error).__name__})") from error
        return record

    def _record_file(self, path: str) -> bytes:
        if not self.is_local:
            return bytes(self._ask("cat_file", path))
        if not os.path.isfile(path):  # a pipe would never end
            raise FileNotFoundError(path)
        return Path(path).read_bytes()

    @contextlib.contextmanager
    def _local(self, folder: str, files: Mapping[str, str]) -> Iterator[Path]:
        """The verified files of a result on this machine: in place, or as a temporary copy from a remote store."""
        with contextlib.ExitStack() as stack:
            if self.is_local:
                local = Path(folder)
            else:
                stack.enter_context(disk_errors(self.root))
                temporary = tempfile.TemporaryDirectory(prefix=owned("outgrow"), ignore_cleanup_errors=True)
                local = Path(stack.enter_context(temporary))
                for name in files:
                    with contextlib.suppress(FileNotFoundError):
                        self._ask("get_file", f"{folder}/{name}", str(local / name))
            for name, expected in files.items():
                try:
                    found = sha256_of(local / name) if (local / name).is_file() else None
                except OSError as error:
                    raise Damaged(f"{folder}/{name} cannot be read ({error.strerror})") from error
                if found is None:
                    raise Damaged(f"{folder}/{name} is missing")
                if found != expected:
                    raise Damaged(f"{folder}/{name} does not have the checksum in its record")
            yield local

    def _put(self, local: Path, folder: str, names: list[str]) -> None:
        if self.is_local:
            _move(local, Path(folder))
            return
        # On object stores the first part of a path is a bucket, which makedirs would create: a mistyped name, or cost.
        bucket = self.path.partition("/")[0]
        if bucket and not self._has_bucket and not self._ask("exists", bucket):
            raise Unreachable(f"there is no bucket {bucket} for the store {self.root}; create it, or mend --store")
        self._has_bucket = True
        self._ask("makedirs", folder, exist_ok=True)
        for name in names:  # the record is the last
            unfinished = f"{folder}/.{name}.{uuid4().hex[:8]}"
            self._ask("put_file", str(local / name), unfinished)
            self._ask("mv", unfinished, f"{folder}/{name}")


def _move(local: Path, place: Path) -> None:
    """Rename a prepared result to its place. If another process was quicker, its result stays: it is the same."""
    place.parent.mkdir(parents=True, exist_ok=True)
    for attempt in range(_ATTEMPTS):
        try:
            local.rename(place)
            return
        except OSError as error:
            taken = error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR)
            if not taken or attempt == _ATTEMPTS - 1:
                raise
        if (place / "record.json").exists():
            return
        remove(place)  # without a record it is what a kill or a deletion left


def _place_of(record: Record) -> tuple[str, str]:
    """Function and key that the content of a record stands for, whatever key it claims."""
    args = json.dumps(record["args"], sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return record["fn"], key_of(key_head(record["fn"], record["version"], record["source"]), args)


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def _digest(record: Record) -> str:
    return hashlib.sha256(
        json.dumps(record, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    ).hexdigest()


@contextlib.contextmanager
def disk_errors(root: str) -> Iterator[None]:
    """Turn errors of disk, path and permission into one line."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise _problem(error, root) or error from None


def _problem(error: Exception, root: str) -> Unreachable | None:
    problem = disk_problem(error, root, "choose another with store=...")
    return Unreachable(problem) if problem else None
