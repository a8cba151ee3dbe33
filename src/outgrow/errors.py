"""The one exception meant for users, and the words that messages share."""

import difflib
from collections.abc import Iterable

__all__ = ["UserError", "counted", "nearest", "unknown_name"]


class UserError(ValueError):
    """An error that the user can fix: one line that says what is wrong, where, and how to fix it.

    The command line prints the line without a traceback and exits with 2.
    """


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """Up to three known names that look most like ``name``, best first."""
    by_lower = {k.lower(): k for k in known}
    return [by_lower[m] for m in difflib.get_close_matches(name.lower(), by_lower, n=3, cutoff=0.45)]


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UserError:
    """The error for an unknown name. Suggests the nearest known ones."""
    known = sorted(known)
    close = nearest(name, known)
    hint = f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(known)}"
    return UserError(f"unknown {kind} {name!r}; {hint}")


def counted(number: int, what: str) -> str:
    """A number and what it counts: 1 task, 2 tasks."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"
