"""Tasks by name: a plain function each; and :class:`TaskSpec`, a task with its options and its data's identity."""

import functools
import hashlib
import inspect
import io
import re
import string
import typing
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import UnionType
from typing import Any, Self

import numpy as np

from outgrow.archives import Archive, megabytes
from outgrow.data import Examples, Input
from outgrow.errors import UserError, unknown_name
from outgrow.registry import read_call, spell_call
from outgrow.runtime import Runtime, accepted_licenses
from outgrow.tasks.grouping import within_limit

__all__ = ["TaskSpec", "describe", "limited", "load", "rendered", "task", "tasks_table", "where_from"]

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
    traps: str
    restricted: str
    archives: tuple[Archive, ...]
    where: Callable[[Mapping[str, Any]], str] | None
    options: Mapping[str, inspect.Parameter]
    """The function's parameters that a user sets; ``runtime`` is handed over by the runner."""
    hints: Mapping[str, Any]

    def identity(self, options: Mapping[str, Any]) -> str:
        content = self.content if isinstance(self.content, str) else self.content(options)
        return f"v{self.version}:{content}"


_TASKS: dict[str, _Task] = {}
_PLACES = ("path", "data_dir", "repo", "revision")
_LIMIT = {"limit": inspect.Parameter("limit", inspect.Parameter.KEYWORD_ONLY, default=None)}


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
    traps: str = "",
    restricted: str = "",
    archives: tuple[Archive, ...] = (),
    where: Callable[[Mapping[str, Any]], str] | None = None,
    version: int = 1,
) -> Callable[[Callable[..., Examples]], Callable[..., Examples]]:
    """Register a plain function with keyword arguments that returns the whole pool of :class:`Examples`.

    Some parameter names are special: ``runtime`` is filled in by the runner, and ``path``, ``data_dir``, ``repo`` and
    ``revision`` say where the data lies, so they are no part of the task's identity (``content`` is). A function
    without a parameter ``limit`` gets that option all the same: whole groups of its examples, drawn by hash.

    Args:
        name: what users write.
        content: identity of the data: a pinned sha256, or a function of the options that finds it.
        licence: of the data.
        source: where the data comes from, for people.
        about: one sentence: what a row is, and what its class says.
        kind: what the columns of the logits are; ``image`` for classes of images.
        classes: class names in order, where the task fixes them.
        rows: number of rows with the default options, where known.
        traps: what is known to mislead in this data and what was done about it, for people.
        restricted: what the licence limits, where a user must accept it by the task's name before anything is
            fetched; empty for free use.
        archives: the pinned archives the data comes in, if any.
        where: says of the options where the data would come from now, in a few words, for data that comes otherwise.
        version: bump it by hand whenever the same data gives other examples.
    """

    def register(fn: Callable[..., Examples]) -> Callable[..., Examples]:
        assert name not in _TASKS, f"two tasks are called {name}"
        parameters = inspect.signature(fn).parameters
        limits_itself = "limit" in parameters
        _TASKS[name] = _Task(
            fn=fn if limits_itself else _with_limit(name, fn),
            name=name,
            kind=kind,
            version=version,
            content=content,
            classes=classes,
            rows=rows,
            licence=licence,
            source=source,
            about=about,
            traps=traps,
            restricted=restricted,
            archives=archives,
            where=where,
            options={k: p for k, p in parameters.items() if k != "runtime"} | ({} if limits_itself else _LIMIT),
            hints=typing.get_type_hints(fn) | ({} if limits_itself else {"limit": int | None}),
        )
        return fn

    return register


def _with_limit(name: str, fn: Callable[..., Examples]) -> Callable[..., Examples]:
    """``fn`` with one more option: at most ``limit`` rows of what it returns, whole groups in the order of their
    hashes, each that still fits."""

    @functools.wraps(fn)
    def limited_fn(*, limit: int | None, **options: Any) -> Examples:
        if limit is not None and limit < 1:
            raise UserError(f"limit of task {name} is {limit}; it must be at least 1")
        pool = fn(**options)
        if limit is None or len(pool) <= limit:
            return pool
        groups = pool.groups.tolist()
        chosen = within_limit(groups, limit, lambda g: hashlib.sha256(f"limit {g}".encode()).digest())
        if not chosen:
            smallest = min(Counter(groups).values())
            raise UserError(f"limit of task {name} is {limit}, and its smallest group has {smallest} rows")
        return pool.take(pool.ids[[g in chosen for g in groups]])

    return limited_fn


@dataclass(frozen=True, kw_only=True)
class TaskSpec:
    """A task, its options and the identity of its data. Equal meaning is an equal spec; make it with :meth:`parse`."""

    name: str
    args: tuple[tuple[str, Any], ...]
    """Every option but those of ``places``, defaults filled in, sorted by name."""
    content: str
    """Identity of the data, known without loading it: a file that changes, changes this and every step behind it."""
    places: tuple[tuple[str, str], ...] = field(default=(), compare=False)
    """The options that say where the data lies (:data:`_PLACES`), where given. Not compared and not hashed: the same
    data elsewhere is the same task."""

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
        places = {k: fitted.pop(k) for k in _PLACES if k in fitted}
        given = tuple((k, place) for k, place in places.items() if place is not None)
        return cls(name=name, args=tuple(sorted(fitted.items())), content=content, places=given)

    @property
    def kind(self) -> str:
        """``image`` where the inputs are images; else what the columns of the logits are."""
        return _entry(self.name).kind

    @property
    def options(self) -> dict[str, Any]:
        """All keyword arguments of the task's function; those that say where its data lies only where given."""
        return {**dict(self.places), **dict(self.args)}

    def __str__(self) -> str:
        """The one spelling that :meth:`parse` reads back: only what differs from the defaults."""
        defaults = {k: p.default for k, p in _entry(self.name).options.items()}
        return spell_call(self.name, {k: v for k, v in self.options.items() if v != defaults[k]})


def load(spec: TaskSpec, runtime: Runtime) -> Examples:
    """The task's whole pool of examples, with gold where it is known (-1 where not).

    Raises:
        UserError: if the data changed since the spec was made, cannot be fetched, is not in order, or comes under a
            licence that was not accepted.
    """
    entry = _entry(spec.name)
    if not _may_use(entry, runtime):
        raise UserError(
            f"{spec.name} has a restricted licence, {entry.licence}: {entry.restricted}; if you accept that, "
            f"pass --accept-license {spec.name} or set OUTGROW_ACCEPT_LICENSE={spec.name}"
        )
    if entry.identity(spec.options) != spec.content:
        raise UserError(f"the data of {spec} changed while the run was under way; start the run again")
    wants_runtime = "runtime" in inspect.signature(entry.fn).parameters
    return entry.fn(**spec.options, **({"runtime": runtime} if wants_runtime else {}))


def tasks_table() -> list[dict[str, Any]]:
    """One row per task, sorted by name: name, kind, classes, rows (None if unknown), licence, source, about, traps,
    restricted."""
    columns = ("name", "kind", "classes", "rows", "licence", "source", "about", "traps", "restricted")
    return [{c: getattr(_TASKS[name], c) for c in columns} for name in sorted(_TASKS)]


def where_from(name: str, runtime: Runtime) -> str:
    """Where the task's data would come from on this machine, in a few words. Loads and fetches nothing."""
    entry = _entry(name)
    if not _may_use(entry, runtime):
        return f"needs --accept-license {name}"
    missing = sum(archive.size for archive in entry.archives if not archive.is_cached)
    if entry.archives:
        return f"download, {megabytes(missing)}" if missing else "package, cached"
    if entry.where:
        return entry.where({option: p.default for option, p in entry.options.items()})
    if "path" in entry.options:
        return "your file"
    return "your folder" if "data_dir" in entry.options else "made here"


def describe(spec: str | TaskSpec, runtime: Runtime) -> dict[str, Any]:
    """A task's row of :func:`tasks_table` and what its data holds (the data is loaded, and fetched if need be).

    Returns:
        The columns of :func:`tasks_table` with ``classes`` and ``rows`` as loaded, and ``task`` (the spelling),
        ``form`` (of the inputs), ``options`` (name to value), ``meanings`` (name of option to what its docstring
        says), ``balance`` (class name to rows), ``unknown`` (rows without gold), ``groups``, ``largest_group`` (rows),
        ``meta`` (column names) and ``examples`` (up to three rows: id, text as people read it, class, group).

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
        "form": data.form,
        "options": spec.options,
        "meanings": _meanings(_entry(spec.name).fn),
        "classes": data.classes,
        "rows": len(data),
        "balance": {name: int((data.gold == c).sum()) for c, name in enumerate(data.classes)},
        "unknown": int((data.gold < 0).sum()),
        "groups": len(group_sizes),
        "largest_group": int(group_sizes.max(initial=0)),
        "meta": sorted(data.meta),
        "examples": [_row(data, row) for row in _telling_rows(data.gold)],
    }


def limited(text: str, limit: int) -> TaskSpec:
    """The task that ``text`` spells, of which only ``limit`` rows are loaded.

    Raises:
        UserError: as :meth:`TaskSpec.parse`.
    """
    name, arguments = read_call(text, "task")
    return TaskSpec.of(name, **{**arguments, "limit": limit})


def _may_use(entry: _Task, runtime: Runtime) -> bool:
    return not entry.restricted or entry.name in runtime.accept_license | accepted_licenses()


def _meanings(fn: Callable[..., Examples]) -> dict[str, str]:
    """What the ``Args`` of a docstring say of each option, on one line each."""
    section = re.search(r"^Args:\n((?: +.*\n?|\n)*)", inspect.getdoc(fn) or "", re.MULTILINE)
    entries = re.findall(r"^ {4}(\w+): ((?:.*\n?)(?:^ {8}.*\n?)*)", section[1] if section else "", re.MULTILINE)
    said_of = {name: " ".join(said.replace("``", "").split()) for name, said in entries}
    return {"limit": "at most so many rows, whole groups drawn by hash; None for all.", **said_of}


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
        "text": rendered(data.inputs[row]),
        "class": data.classes[gold] if gold >= 0 else None,
        "group": str(data.groups[row]),
    }


def rendered(value: Input) -> str:
    """An input as people read it: a text as it is, candidates by letter, an image by its size."""
    match value:
        case str():
            return value
        case tuple():
            names = string.ascii_uppercase if len(value) <= 26 else [str(i + 1) for i in range(len(value))]
            return "\n".join(f"{name}) {text}" for name, text in zip(names, value, strict=False))
        case bytes():
            from PIL import Image

            with Image.open(io.BytesIO(value)) as image:
                return f"{image.width} x {image.height} {image.format}, {len(value):,} bytes"
