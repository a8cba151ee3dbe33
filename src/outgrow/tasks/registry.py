"""Tasks by name: a plain function each; and :class:`TaskSpec`, a task with its options and its data's identity."""

import inspect
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import UnionType
from typing import Any, Self

import numpy as np

from outgrow.data import Examples
from outgrow.errors import UserError, unknown_name
from outgrow.runtime import Runtime
from outgrow.spelling import read_call, spell_call

__all__ = ["TaskSpec", "describe", "load", "task", "tasks_table"]

Content = str | Callable[[Mapping[str, Any]], str]


@dataclass(frozen=True, kw_only=True)
class _Task:
    fn: Callable[..., Examples]
    name: str
    kind: str
    version: int
    content: Content
    classes: tuple[str, ...] | None
    rows: int | None
    licence: str
    source: str
    about: str
    options: Mapping[str, inspect.Parameter]
    """The function's parameters that a user sets; ``runtime`` is handed over by the runner."""
    hints: Mapping[str, Any]

    def identity(self, options: Mapping[str, Any]) -> str:
        content = self.content if isinstance(self.content, str) else self.content(options)
        return f"v{self.version}:{content}"


_TASKS: dict[str, _Task] = {}


def task(
    *,
    name: str,
    content: Content,
    licence: str,
    source: str,
    about: str,
    kind: str = "classification",
    classes: tuple[str, ...] | None = None,
    rows: int | None = None,
    version: int = 1,
) -> Callable[[Callable[..., Examples]], Callable[..., Examples]]:
    """Register a plain function with keyword arguments that returns the whole pool of :class:`Examples`.

    Two parameter names are special: ``runtime`` is filled in by the runner, and ``path`` says where the data lies,
    so it is no part of the task's identity (``content`` is).

    Args:
        name: what users write.
        content: identity of the data: a pinned sha256, or a function of the options that finds it.
        licence: of the data.
        source: where the data comes from, for people.
        about: one sentence: what a row is, and what its class says.
        kind: what the columns of the logits are.
        classes: class names in order, where the task fixes them.
        rows: number of rows with the default options, where known.
        version: bump it by hand whenever the same data gives other examples.
    """

    def register(fn: Callable[..., Examples]) -> Callable[..., Examples]:
        assert name not in _TASKS, f"two tasks are called {name}"
        parameters = inspect.signature(fn).parameters
        _TASKS[name] = _Task(
            fn=fn,
            name=name,
            kind=kind,
            version=version,
            content=content,
            classes=classes,
            rows=rows,
            licence=licence,
            source=source,
            about=about,
            options={k: p for k, p in parameters.items() if k != "runtime"},
            hints=typing.get_type_hints(fn),
        )
        return fn

    return register


@dataclass(frozen=True, kw_only=True)
class TaskSpec:
    """A task, its options and the identity of its data. Equal meaning is an equal spec; make it with :meth:`parse`."""

    name: str
    args: tuple[tuple[str, Any], ...]
    """Every option but ``path``, defaults filled in, sorted by name."""
    content: str
    """Identity of the data, known without loading it: a file that changes, changes this and every step behind it."""
    path: str | None = field(default=None, compare=False)
    """Where the user's own file lies. Not compared and not hashed: the same file elsewhere is the same task."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``sentiment-movies`` or ``table(path='mine.csv', text='body', label='y')``.

        Raises:
            UserError: if the text cannot be read, the task or an option is unknown (the nearest are offered), an
                option is missing or of the wrong type, or the file it names is not there.
        """
        name, arguments = read_call(text, "task")
        return cls.of(name, **arguments)

    @classmethod
    def of(cls, name: str, /, **options: Any) -> Self:
        """The same from Python: ``TaskSpec.of("table", path="mine.csv")``.

        Raises:
            UserError: as :meth:`parse`.
        """
        entry = _entry(name)
        for option in options:
            if option not in entry.options:
                raise unknown_name(f"option of task {name}", option, entry.options)
        filled = {k: options.get(k, p.default) for k, p in entry.options.items()}
        for option, value in filled.items():
            if value is inspect.Parameter.empty:
                raise UserError(f"task {name} needs the option {option}; write {name}({option}=...)")
        fitted = {k: _fitted(v, entry.hints[k], f"option {k} of task {name}") for k, v in filled.items()}
        content = entry.identity(fitted)
        path = fitted.pop("path", None)
        return cls(name=name, args=tuple(sorted(fitted.items())), content=content, path=path)

    @property
    def options(self) -> dict[str, Any]:
        """All keyword arguments of the task's function, ``path`` among them where it takes one."""
        return dict(self.args) if self.path is None else {"path": self.path, **dict(self.args)}

    def __str__(self) -> str:
        """The one spelling that :meth:`parse` reads back: only what differs from the defaults."""
        defaults = {k: p.default for k, p in _entry(self.name).options.items()}
        return spell_call(self.name, {k: v for k, v in self.options.items() if v != defaults[k]})


def load(spec: TaskSpec, runtime: Runtime) -> Examples:
    """The task's whole pool of examples, with gold where it is known (-1 where not).

    Raises:
        UserError: if the data changed since the spec was made, cannot be fetched, or is not in order.
    """
    entry = _entry(spec.name)
    if entry.identity(spec.options) != spec.content:
        raise UserError(f"the data of {spec} changed while the run was under way; start the run again")
    wants_runtime = "runtime" in inspect.signature(entry.fn).parameters
    return entry.fn(**spec.options, **({"runtime": runtime} if wants_runtime else {}))


def tasks_table() -> list[dict[str, Any]]:
    """One row per task, sorted by name: name, kind, classes, rows (None if unknown), licence, source, about."""
    columns = ("name", "kind", "classes", "rows", "licence", "source", "about")
    return [{c: getattr(_TASKS[name], c) for c in columns} for name in sorted(_TASKS)]


def describe(spec: str | TaskSpec, runtime: Runtime) -> dict[str, Any]:
    """A task's row of :func:`tasks_table` and what its data holds (the data is loaded, and fetched if need be).

    Returns:
        The columns of :func:`tasks_table` with ``classes`` and ``rows`` as loaded, and ``task`` (the spelling),
        ``options`` (name to value), ``balance`` (class name to rows), ``unknown`` (rows without gold), ``groups``,
        ``largest_group`` (rows), ``meta`` (column names) and ``examples`` (up to three rows: id, text, class, group).

    Raises:
        UserError: as :meth:`TaskSpec.parse` and :func:`load`.
    """
    spec = TaskSpec.parse(spec) if isinstance(spec, str) else spec
    data = load(spec, runtime)
    assert data.gold is not None, "a task yields gold"
    (about,) = (row for row in tasks_table() if row["name"] == spec.name)
    group_sizes = np.unique(data.groups, return_counts=True)[1]
    return {
        **about,
        "task": str(spec),
        "options": spec.options,
        "classes": data.classes,
        "rows": len(data),
        "balance": {name: int((data.gold == c).sum()) for c, name in enumerate(data.classes)},
        "unknown": int((data.gold < 0).sum()),
        "groups": len(group_sizes),
        "largest_group": int(group_sizes.max(initial=0)),
        "meta": sorted(data.meta),
        "examples": [_row(data, row) for row in _telling_rows(data.gold)],
    }


def _entry(name: str) -> _Task:
    if name not in _TASKS:
        raise unknown_name("task", name, _TASKS)
    return _TASKS[name]


def _fitted(value: Any, hint: Any, what: str) -> Any:
    """``value`` as its annotation says: 1 is a float where one is asked for, and a list is a tuple."""
    hints = typing.get_args(hint) if isinstance(hint, UnionType) else (hint,)
    kinds = [type(None) if h is None else typing.get_origin(h) or h for h in hints]
    value = tuple(value) if isinstance(value, list) else value
    if type(value) is int and float in kinds and int not in kinds:
        value = float(value)
    if type(value) not in kinds:
        wanted = " or ".join("nothing" if k is type(None) else k.__name__ for k in kinds)
        raise UserError(f"{what} must be {wanted}, not {value!r}")
    return value


def _telling_rows(gold: np.ndarray[Any, Any]) -> list[int]:
    """Up to three rows, one of each class first."""
    firsts = np.unique(gold, return_index=True)[1][:3]
    return list(dict.fromkeys([*sorted(firsts.tolist()), *range(min(3, len(gold)))]))[:3]


def _row(data: Examples, row: int) -> dict[str, Any]:
    assert data.gold is not None
    gold = int(data.gold[row])
    return {
        "id": str(data.ids[row]),
        "text": data.inputs[row],
        "class": data.classes[gold] if gold >= 0 else None,
        "group": str(data.groups[row]),
    }
