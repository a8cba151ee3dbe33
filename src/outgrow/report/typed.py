"""Options as they are typed, in messages: the library spells them as in Python."""

import ast
import re
import shlex
from collections.abc import Collection, Mapping, Sequence

from outgrow.config import Grid

__all__ = ["as_typed", "unused"]

_NESTED = r"(?:[^()]|\((?:[^()]|\([^()]*\))*\))*"
_SPELLED = re.compile(
    rf"(?P<other>[\w-]+\({_NESTED}\)|`[^`]*`|(?<!\w)'[^']*'|(?<!\w)\"[^\"]*\")|"  # calls, commands, quoted texts
    rf"(?<![\w-])(?P<name>[a-z_]+)=(?P<value>\.\.\.|True|False|None|-?\d+(?:\.\d+)?|'[^']*'|\"[^\"]*\"|"
    rf"\({_NESTED}\)|\{{[^{{}}]*\}})"
)


def as_typed(message: str, flags: Mapping[str, Sequence[str]]) -> str:
    """A message with its options as flags: ``ceiling=False`` becomes ``--no-ceiling``.

    ``flags`` has the spellings of each option of the command, that of off second. A field of the grid that the command
    does not take stands in its YAML file.
    """

    def typed(found: re.Match[str]) -> str:
        name, text = found["name"], found["value"]
        if name in flags and name not in ("grid", "machine"):
            return _flag(flags[name], text)
        if name in Grid.__dataclass_fields__:
            return f"{name}: {text.lower() if text in ('True', 'False') else text}"
        return found[0]

    return _SPELLED.sub(lambda found: found[0] if found["other"] else typed(found), message)


def _flag(names: Sequence[str], text: str) -> str:
    """A flag with the value that Python spells ``text``; without one if that is ``...``."""
    value = ast.literal_eval(text)
    if isinstance(value, bool):
        return names[0] if value else names[1]
    if value is ...:
        return names[0]
    if value is None:
        return f"no {names[0]}"
    values = value if isinstance(value, tuple | set) else (value,)
    return " ".join([names[0], *(shlex.quote(str(v)) for v in values)])


def unused(words: Sequence[str], command: str, options: Collection[str]) -> str:
    """What to type for words that stand without a flag, after a command with these options: a task, a file of options,
    or nothing."""
    typed = " ".join(map(_quoted, words))
    if "grid" not in options:
        return f"`{command}` takes no {typed}; `outgrow {command} --help` lists its options"
    flag = "--config" if words[0].endswith((".yaml", ".yml")) and command != "board" else "--task"
    return f"{typed} stands without a flag; type outgrow {command} {flag} {typed}"


def _quoted(word: str) -> str:
    """A word as it is typed in a shell; one with single quotes in it, such as a task with options, in double ones."""
    return f'"{word}"' if "'" in word and not any(c in word for c in '"$`\\!') else shlex.quote(word)
