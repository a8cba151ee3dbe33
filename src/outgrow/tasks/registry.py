"""Tasks by name: each is a function that loads examples. And :class:`TaskSpec`: a task, its options and its data."""

import hashlib
import inspect
import io
import re
import string
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, NamedTuple, Self

import numpy as np

from outgrow.archives import Archive, megabytes
from outgrow.data import Examples, Input, Question
from outgrow.errors import UserError, unknown_name
from outgrow.identity import code_name, source_digest
from outgrow.registry import OneOf, Range, Registry, read_call, spell_call
from outgrow.runtime import Runtime, accepted_licenses
from outgrow.tasks.grouping import within_limit

__all__ = [
    "ASKING",
    "LIMIT",
    "TASKS",
    "Option",
    "Task",
    "TaskFacts",
    "TaskSpec",
    "describe",
    "limited",
    "load",
    "options_of",
    "question_of",
    "rendered",
    "task",
    "tasks_table",
    "where_from",
]

Function = Callable[..., Any]
Content = str | Callable[[Mapping[str, Any]], str]
_PLACES = ("path", "data_dir", "repo", "revision")


# --- registering ------------------------------------------------------------------------------------------------------


class Option(NamedTuple):
    """One option of a task."""

    default: Any
    """``inspect.Parameter.empty`` if the user has to set it."""
    hint: Any
    """Its type; ``Annotated`` with a :class:`Range` or :class:`OneOf` if it has bounds."""
    meaning: str


LIMIT = Option(None, Annotated[int | None, Range(1)], "at most this many rows: whole groups, drawn by hash; None: all.")


ASKING = {
    "question": Option(
        None,
        str | None,
        "what a language model is asked where a view or a strategy asks: holds {text}, may hold {classes}, the list of "
        "the words, and ends where the answer would begin; None: the task's own.",
    ),
    "words": Option(
        None,
        tuple | None,
        "a word for each class, in order, as the model would answer (of a choice: for a wrong and a right candidate); "
        "None: the task's own, or the classes' names.",
    ),
}
"""Options of every task, which change what a model is asked and not the examples."""


def options_of(*functions: Function, skip: int = 0) -> dict[str, Option]:
    """The options that functions take: all their parameters but the first ``skip`` and ``runtime``, which the runner
    passes. The ``Args`` of their docstrings explain them.

    Raises:
        UserError: if a parameter has no annotation.
    """
    found = {}
    for fn in functions:
        hints, meanings = typing.get_type_hints(fn, include_extras=True), _meanings(fn)
        for name, parameter in list(inspect.signature(fn).parameters.items())[skip:]:
            if parameter.kind is parameter.VAR_KEYWORD:
                continue
            if name not in hints:
                raise UserError(f"the task function {code_name(fn)} does not say the type of {name}; annotate it")
            if name != "runtime":
                found[name] = Option(parameter.default, hints[name], meanings.get(name, ""))
    return found


def _meanings(fn: Function) -> dict[str, str]:
    """What the ``Args`` of a docstring say of each parameter, on one line each."""
    section = re.search(r"^Args:\n((?: +.*\n?|\n)*)", inspect.getdoc(fn) or "", re.MULTILINE)
    entries = re.findall(r"^ {4}(\w+): ((?:.*\n?)(?:^ {8}.*\n?)*)", section[1] if section else "", re.MULTILINE)
    return {name: " ".join(said.replace("``", "").split()) for name, said in entries}


@dataclass(frozen=True, kw_only=True)
class TaskFacts:
    """What is known of a task. As a decorator (:data:`task`) it registers a function that loads the task.

    The function takes keyword-only arguments, which are the task's options, and returns the whole pool of
    :class:`Examples`. Some argument names are special. ``runtime`` is passed by the runner. ``path``, ``data_dir``,
    ``repo`` and ``revision`` say where the data lies; they do not enter the task's identity, which is ``content``.
    ``limit`` is an option of every task; a function without it gets the usual rule: whole groups, drawn by hash.
    """

    name: str
    """What users write."""
    licence: str
    """Of the data."""
    source: str
    """Where the data comes from, for people."""
    about: str
    """One sentence: what a row is and what its class says."""
    content: Content | None = None
    """Identity of the data: a pinned sha256, or a function that finds it from the options. Left out: the sha256 of the
    first of ``archives``."""
    kind: str = "classification"
    """What the columns of the logits are: ``choice`` for candidates, ``image`` for classes of images."""
    classes: tuple[str, ...] | None = None
    """Class names in order, if the task fixes them."""
    natural: bool = False
    """Whether the class shares of the data matter to its user, as those of a table do: parts then keep them, and the
    test is every labeled row that trained nothing. Otherwise classes are balanced, exactly in the test."""
    rows: int | None = None
    """Number of rows with the default options, if known."""
    traps: str = ""
    """What is known to mislead in this data and what was done about it, for people."""
    restricted: str = ""
    """What the licence limits, if users must accept it by the task's name before anything is fetched."""
    archives: tuple[Archive, ...] = ()
    """The pinned archives that hold the data, if any."""
    question: str = ""
    """What a language model is asked, see :class:`outgrow.data.Question`; empty for a plain question."""
    words: tuple[str, ...] = ()
    """A word for each class in that order, as a model would answer; empty for the classes' names."""
    where: Callable[[Mapping[str, Any]], str] | None = None
    """For data that comes another way: says in a few words, given the options, where it would come from now."""
    further: Mapping[str, Option] = field(default_factory=dict)
    """Options that the function takes as ``**options``, beside those of its signature."""
    version: int = 1
    """Raise it whenever the same data gives other examples."""

    def __call__(self, fn: Callable[..., Examples]) -> Callable[..., Examples]:
        """Register ``fn`` as the task; returns it unchanged.

        Raises:
            UserError: if another task has the name, or ``content`` is missing.
        """
        if self.content is None and not self.archives:
            raise UserError(f"the task {self.name} does not say which data it loads; add content='...' to @task")
        options = options_of(fn) | dict(self.further)
        wants_runtime = "runtime" in inspect.signature(fn).parameters
        limits_itself = "limit" in options

        def loaded(*, runtime: Runtime, **options: Any) -> Examples:
            limit = None if limits_itself else options.pop("limit")
            pool = fn(**options, **({"runtime": runtime} if wants_runtime else {}))
            return within_limit(pool, limit, self.name, lambda g: hashlib.sha256(f"limit {g}".encode()).digest())

        own = options if limits_itself else options | {"limit": LIMIT}
        TASKS.add(self.name, Task(self, (fn,), loaded, own | ASKING))
        return fn


task = TaskFacts
"""The decorator: ``@task(name=..., content=..., ...)`` over a function that loads examples."""


class Task(NamedTuple):
    """A registered task."""

    facts: TaskFacts
    code: tuple[Function, ...]
    """The functions that make its examples; the first is the one that was decorated."""
    load: Callable[..., Examples]
    """Called with ``runtime`` and every option but those of ``ASKING``."""
    options: Mapping[str, Option]

    @property
    def fn(self) -> Function:
        """The function that was decorated."""
        return self.code[0]

    def identity(self, options: Mapping[str, Any]) -> str:
        """What makes the examples, apart from the options: the data, and the code as its version or its source.

        Raises:
            UserError: if the data or the source of a user's function cannot be read.
        """
        content = self.facts.content or self.facts.archives[0].sha256
        parts = [f"v{self.facts.version}", content if isinstance(content, str) else content(options)]
        parts += [f"{code_name(fn)}@{digest}" for fn in self.code if (digest := source_digest(fn))]
        return ":".join(parts)


TASKS: Registry[Task] = Registry("task", "tasks")
"""Every task by name."""


# --- a task with its options ------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class TaskSpec:
    """A task, its options and its data's identity; make one with :meth:`parse`. Equal meaning gives equal specs."""

    name: str
    args: tuple[tuple[str, Any], ...]
    """Every option except those of ``places``, defaults filled in, sorted by name."""
    content: str
    """Identity of the data and of a user's code, known without loading: change the file, and this and every step
    behind it change."""
    places: tuple[tuple[str, Any], ...] = field(default=(), compare=False)
    """The options that say where the data lies, and what is asked of it, if given. Neither compared nor hashed: the
    same data elsewhere is the same task, and a question is an argument of the steps that ask it."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``sentiment-movies`` or ``table(path='mine.csv', text='body', label='y')``.

        Raises:
            UserError: if the text cannot be read, the task or an option is unknown (the nearest are offered), an
                option is missing or does not fit, or the file it names does not exist.
        """
        name, arguments = read_call(text, "task")
        return cls.of(name, **arguments)

    @classmethod
    def of(cls, name: str, /, **options: Any) -> Self:
        """The same from Python: ``TaskSpec.of("table", path="mine.csv")``.

        Raises:
            UserError: as :meth:`parse`.
        """
        entry = TASKS.entry(name)
        for option in options:
            if option not in entry.options:
                raise unknown_name(f"option of task {name}", option, entry.options)
        fitted = {}
        for option, (default, hint, _) in entry.options.items():
            value = options.get(option, default)
            if value is inspect.Parameter.empty:
                raise UserError(f"task {name} needs the option {option}; write {name}({option}=...)")
            fitted[option] = _fitted(value, hint, option, name)
        content = entry.identity(fitted)
        places = {k: fitted.pop(k) for k in (*_PLACES, *ASKING) if k in fitted}
        given = tuple((k, place) for k, place in places.items() if place is not None)
        return cls(name=name, args=tuple(sorted(fitted.items())), content=content, places=given)

    @property
    def kind(self) -> str:
        """``image`` if the inputs are images; otherwise what the columns of the logits are."""
        return TASKS.entry(self.name).facts.kind

    @property
    def expected_size(self) -> tuple[int, int] | None:
        """Rows and characters to expect before anything is loaded, 0 for what is not known; None if neither is."""
        path = self.options.get("path")
        if isinstance(path, str) and Path(path).is_file():
            return 0, Path(path).stat().st_size
        rows = TASKS.entry(self.name).facts.rows
        limit = self.options.get("limit")
        return (min(rows, limit) if limit else rows, 0) if rows else None

    @property
    def options(self) -> dict[str, Any]:
        """All keyword arguments of the task's function; those that say where its data lies only if given."""
        return {**dict(self.places), **dict(self.args)}

    def __str__(self) -> str:
        """The one spelling that :meth:`parse` reads back: only what differs from the defaults."""
        known = TASKS.entry(self.name).options
        return spell_call(self.name, {k: v for k, v in self.options.items() if v != known[k].default})


def _fitted(value: Any, hint: Any, option: str, task: str) -> Any:
    """``value`` as its annotation says, within its bounds: 1 becomes a float where one is asked for, a list a tuple."""
    bounds = getattr(hint, "__metadata__", ())
    plain = typing.get_args(hint)[0] if bounds else hint
    hints = typing.get_args(plain) if isinstance(plain, UnionType) else (plain,)
    kinds = [type(None) if h is None else typing.get_origin(h) or h for h in hints]
    value = tuple(value) if isinstance(value, list) else value
    if type(value) is int and float in kinds and int not in kinds:
        value = float(value)
    if type(value) not in kinds:
        wanted = " or ".join("nothing" if k is type(None) else k.__name__ for k in kinds)
        raise UserError(f"option {option} of task {task} must be {wanted}, not {value!r}")
    for bound in bounds:
        if value is not None and isinstance(bound, Range | OneOf):
            bound.check(f"{option} of task {task}", value)
    return value


def load(spec: TaskSpec, runtime: Runtime) -> Examples:
    """The task's whole pool of examples, with gold where it is known (-1 where not). Its notes are said.

    Raises:
        UserError: if the data changed since the spec was made, cannot be fetched, is damaged, or comes under a licence
            that was not accepted.
    """
    entry = TASKS.entry(spec.name)
    if not _may_use(entry, runtime):
        raise UserError(
            f"{spec.name} has a restricted licence, {entry.facts.licence}: {entry.facts.restricted}; if you accept "
            f"that, pass accept_license={{{spec.name!r}}} or set OUTGROW_ACCEPT_LICENSE={spec.name}"
        )
    if entry.identity(spec.options) != spec.content:
        raise UserError(f"the data of {spec} changed during the run; start the run again")
    pool = entry.load(runtime=runtime, **{k: v for k, v in spec.options.items() if k not in ASKING})
    for note in pool.notes:
        runtime.say(f"{spec.name}: {note}")
    return pool


def question_of(spec: TaskSpec) -> Question:
    """What a language model is asked about the task's examples.

    Raises:
        UserError: for a question without a place for the text.
    """
    facts, options = TASKS.entry(spec.name).facts, spec.options
    of_candidates = "form" in options and options["form"] == "choice" and not facts.words
    own = "" if of_candidates else facts.question  # the task's question is about both texts of a pair
    template, words = options.get("question") or own, options.get("words")
    if words is not None:
        return Question(template=template, words=tuple(map(str, words)))
    return Question(template=template, words=facts.words, classes=(facts.classes or ()) if facts.words else ())


def limited(text: str, limit: int) -> TaskSpec:
    """The task that ``text`` spells, with at most ``limit`` rows.

    Raises:
        UserError: as :meth:`TaskSpec.parse`.
    """
    name, arguments = read_call(text, "task")
    return TaskSpec.of(name, **{**arguments, "limit": limit})


def _may_use(entry: Task, runtime: Runtime) -> bool:
    return not entry.facts.restricted or entry.facts.name in runtime.accept_license | accepted_licenses()


# --- showing tasks ----------------------------------------------------------------------------------------------------


def tasks_table() -> list[dict[str, Any]]:
    """One row per task, sorted by name: name, kind, classes, rows (None if unknown), licence, source, about, traps,
    restricted."""
    columns = ("name", "kind", "classes", "rows", "licence", "source", "about", "traps", "restricted")
    return [{c: getattr(TASKS[name].facts, c) for c in columns} for name in sorted(TASKS)]


def where_from(name: str, runtime: Runtime) -> str:
    """Where the task's data would come from on this machine, in a few words. Loads and fetches nothing."""
    entry = TASKS.entry(name)
    if not _may_use(entry, runtime):
        return "license not accepted"
    missing = sum(archive.size for archive in entry.facts.archives if not archive.is_cached)
    if entry.facts.archives:
        return f"download, {megabytes(missing)}" if missing else "package, cached"
    if entry.facts.where:
        return entry.facts.where({name: option.default for name, option in entry.options.items()})
    if "path" in entry.options:
        return "your file"
    return "your folder" if "data_dir" in entry.options else "made here"


def describe(spec: str | TaskSpec, runtime: Runtime) -> dict[str, Any]:
    """A task's row of :func:`tasks_table` and what its data holds. Loads the data, and fetches it if need be.

    Returns:
        The columns of :func:`tasks_table` with ``classes`` and ``rows`` as loaded, and ``task`` (the spelling),
        ``form`` (of the inputs), ``options`` (name to value), ``meanings`` (name of option to what it does),
        ``balance`` (class name to rows), ``unknown`` (rows without gold), ``groups``, ``largest_group`` (rows),
        ``meta`` (column names), ``notes`` (how the data was read) and ``examples`` (up to three rows: id, text as
        people read it, class, group).

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
        "meanings": {name: option.meaning for name, option in TASKS[spec.name].options.items()},
        "classes": data.classes,
        "rows": len(data),
        "balance": {name: int((data.gold == c).sum()) for c, name in enumerate(data.classes)},
        "unknown": int((data.gold < 0).sum()),
        "groups": len(group_sizes),
        "largest_group": int(group_sizes.max(initial=0)),
        "meta": sorted(data.meta),
        "notes": list(data.notes),
        "examples": [_row(data, row) for row in _telling_rows(data.gold)],
    }


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
