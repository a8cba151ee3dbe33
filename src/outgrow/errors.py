"""The one exception meant for users, the words that messages share, and text made safe to show: no secrets, nothing
that acts on a terminal."""

import difflib
import errno
import os
import re
from collections.abc import Iterable

__all__ = [
    "NotFinite",
    "UserError",
    "counted",
    "disk_problem",
    "megabytes",
    "nearest",
    "printable",
    "unknown_name",
    "without_secrets",
]


_LINE_FEED = re.compile(r"\s*[\n\r]\s*")


class UserError(ValueError):
    """An error that the user can fix: one line that says what is wrong, where, and how to fix it.

    The command line prints the line without a traceback and exits with 2. Secrets in URLs are left out of it.
    """

    def __init__(self, line: object = "") -> None:
        """``line`` is what the user reads; line feeds in it, such as those of a library's message, become spaces."""
        super().__init__(without_secrets(_LINE_FEED.sub(" ", str(line).strip())))


class NotFinite(Exception):
    """A model gave NaN or infinity; ``place`` is the number of the first such input, counted from 0."""

    def __init__(self, place: int) -> None:
        self.place = place
        super().__init__(f"numbers that are not finite for input {place + 1}")


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """Up to three known names that look most like ``name``, or that it is a part of, best first."""
    by_lower, name = {k.lower(): k for k in known}, name.lower()
    close = difflib.get_close_matches(name, by_lower, n=3, cutoff=0.6)
    close += [k for k in by_lower if len(name) > 2 and name in k and k not in close]
    return [by_lower[k] for k in close[:3]]


def unknown_name(kind: str, name: str, known: Iterable[str], listed: str = "") -> UserError:
    """The error for an unknown name. Suggests the nearest known ones; where none is near, says them all, or which
    command has ``listed`` them."""
    known = sorted(known)
    close = nearest(name[:200], known)  # the comparison is quadratic
    all_of_them = f"`{listed}` lists them" if listed else f"known: {', '.join(known)}"
    hint = f"did you mean {' or '.join(close)}?" if close else all_of_them
    return UserError(f"unknown {kind} {name[:200]!r}; {hint}")


def counted(number: int, what: str) -> str:
    """A number and what it counts: 1 task, 2 tasks."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def megabytes(num_bytes: int) -> str:
    """A size as people read it."""
    return f"{num_bytes / 1e6:.1f} MB"


# --- safe to show -----------------------------------------------------------------------------------------------------

_USERINFO = re.compile(r"""(?<=://)(?:[^\s/?#'"]*|[^\s/:@'"]+:(?!\d+/)[^\s@'"]*)@""")
_QUERY = re.compile(r"""(://[^\s?#'"]*\?)([^\s#'"]+)""")
_VALUE = re.compile(r"=[^&;]*")
_ACTS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)
"""Terminal escapes and other control characters, marks that turn the direction of writing, what has no width, and
halves of characters. Not: tab, line feed, and the joiners that Persian and emoji are written with."""


def without_secrets(text: str) -> str:
    """``text`` with user, password and the values of the query left out of every URL in it."""
    if "://" not in text:
        return text
    text = _USERINFO.sub("", text)
    return _QUERY.sub(lambda found: found[1] + _VALUE.sub("=***", found[2]), text)


def printable(text: str) -> str:
    """``text`` as it may go to a terminal: what would act on it, or hide in it, is written as an escape."""
    return _ACTS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


# --- the disk ---------------------------------------------------------------------------------------------------------

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_REFUSED = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG),
    *(errno.ELOOP, errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.ENODEV, errno.ENXIO),
)
_OS_ERROR = re.compile(r"os error (\d+)")  # how libraries written in Rust name one


def disk_problem(error: BaseException, where: str, mend: str) -> UserError | None:
    """The line for an error of disk, path or permission while writing to ``where``; None for any other error.

    Any error of the operating system that names a path is one. Libraries written in Rust (safetensors, polars) have
    errors of their own for it.
    """
    number = getattr(error, "errno", None)
    if number is None and (found := _OS_ERROR.search(str(error))):
        number = int(found[1])
    if "No usable temporary directory" in str(error):
        return UserError("there is no folder for temporary files that can be written; set TMPDIR to one")
    if number in _FULL:
        return UserError(
            f"no space left while writing to {where}; free some and run again ({mend}); finished steps are kept"
        )
    name = getattr(error, "filename", None)
    of_path = isinstance(error, OSError) and isinstance(name, str | bytes)
    if number is not None and (number in _REFUSED or of_path):
        name = os.fsdecode(name) if isinstance(name, str | bytes) and of_path else where
        what = f"{where} ({name})" if name != where else where
        return UserError(f"cannot use {what}: {os.strerror(number)}; {mend}")
    return None
