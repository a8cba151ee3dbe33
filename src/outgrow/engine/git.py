"""The git commit of a folder, read from its files.

git itself runs what a folder's configuration names (monitors, filters, hooks, diff tools), and there is no switch
against all of it. So nothing is run and no configuration is read: HEAD and the index are files.
"""

import hashlib
import os
import stat
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

__all__ = ["checkout"]

_HEX = frozenset("0123456789abcdef")
_MOST = 64 << 20  # bytes of an index, and of all files compared by content


class _Entry(NamedTuple):
    """A file as the index has it (gitformat-index(5))."""

    mtime: tuple[int, int]
    mode: int
    size: int
    digest: bytes
    flags: int
    name: bytes


def checkout(folder: Path) -> str | None:
    """The commit that is checked out around ``folder``; None where there is none.

    With ``+`` if a file differs from the index, ``?`` if that could not be told: an index of another form, or files
    whose line ends or content a configured filter may change. What is staged and not committed is not seen.
    """
    try:
        for root in (folder, *folder.parents):
            if (place := _git_folder(root / ".git")) is not None:
                commit = _head(place)
                return commit and commit + (_mark(root, place) if len(commit) == 40 else "?")
    except (OSError, ValueError):
        pass
    return None


def _git_folder(place: Path) -> Path | None:
    """The folder with HEAD: ``.git``, or the one that a work tree's file ``.git`` names."""
    if place.is_file():
        kind, _, named = _text(place).partition(":")
        place = place.parent / named.strip() if kind == "gitdir" else place
    return place if (place / "HEAD").is_file() else None


def _text(path: Path) -> str:
    with path.open(encoding="utf-8", errors="replace") as file:
        return file.read(4096)


def _head(place: Path) -> str | None:
    common = place / _text(place / "commondir").strip() if (place / "commondir").is_file() else place
    name = _text(place / "HEAD").strip()
    for _ in range(5):  # a reference may name another
        if not name.startswith("ref:"):
            return name if len(name) in (40, 64) and set(name) <= _HEX else None
        name = name.removeprefix("ref:").strip()
        if not name.startswith("refs/") or ".." in name:
            return None
        found = [p for p in (place / name, common / name) if p.is_file()]
        name = _text(found[0]).strip() if found else _packed(common, name)
    return None


def _packed(common: Path, name: str) -> str:
    packed = common / "packed-refs"
    if packed.is_file():
        for line in packed.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.endswith(f" {name}"):
                return line.partition(" ")[0]
    return ""


def _mark(root: Path, place: Path) -> str:
    """``+`` if a file of the index was changed or is missing, ``?`` if that cannot be told."""
    unsure = False
    try:
        for entry in _entries(place / "index"):
            changed = _changed(root, entry)
            if changed:
                return "+"
            unsure = unsure or changed is None
    except (OSError, ValueError, struct.error):
        return "?"
    return "?" if unsure else ""


def _entries(index: Path) -> Iterator[_Entry]:
    if not index.is_file() or index.stat().st_size > _MOST:
        raise ValueError("none, or too large")
    data = index.read_bytes()
    magic, version, count = struct.unpack_from(">4sII", data)
    if magic != b"DIRC" or version not in (2, 3):
        raise ValueError("an index of another form")
    at = 12
    for _ in range(count):
        fields = struct.unpack_from(">10I20sH", data, at)
        start = at + 62 + (2 if version == 3 and fields[11] & 0x4000 else 0)
        end = data.index(b"\0", start)
        yield _Entry((fields[2], fields[3]), fields[6], fields[9], fields[10], fields[11], data[start:end])
        at += (end - at) // 8 * 8 + 8  # filled with zeros, at least one, to a multiple of eight


def _changed(root: Path, entry: _Entry) -> bool | None:
    if entry.flags & 0x8000 or stat.S_IFMT(entry.mode) == 0o160000 or entry.mode == 0o40000:
        return False  # assumed unchanged; another repository; a folder of a sparse checkout
    path = os.path.join(os.fsencode(root), entry.name)
    try:
        now = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    is_link = stat.S_ISLNK(entry.mode)
    if stat.S_ISLNK(now.st_mode) != is_link or not (is_link or stat.S_ISREG(now.st_mode)):
        return True
    if now.st_size & 0xFFFFFFFF == entry.size and divmod(now.st_mtime_ns, 10**9) == entry.mtime:
        return False
    if entry.size and now.st_size & 0xFFFFFFFF != entry.size:
        return True
    if now.st_size > _MOST:
        return None
    content = os.readlink(path) if is_link else Path(os.fsdecode(path)).read_bytes()
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).digest()
    if blob == entry.digest:
        return False
    return None if b"\r\n" in content or (root / ".gitattributes").exists() else True  # a filter may have made it
