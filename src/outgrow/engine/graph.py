"""Steps: plain functions with their arguments, identified by the hash of both.

Knows no machine learning. A step's key depends on what was asked for and on the code that does it, never on where or
how fast it runs (:class:`outgrow.runtime.Runtime` is passed separately and is never hashed). Functions and classes of
this package enter keys with name and version, a user's with module, name, version, and a digest of the source.
"""

import dataclasses
import hashlib
import inspect
import json
import math
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from functools import cache, cached_property, partial
from typing import Any, TypeVar

from outgrow import identity
from outgrow.errors import UserError

__all__ = [
    "EDITION",
    "Content",
    "Step",
    "StepFunction",
    "canonical",
    "forget",
    "in_order",
    "key_head",
    "key_of",
    "step",
]

F = TypeVar("F", bound=Callable[..., Any])


EDITION = 2
"""Part of every key and record. Results of other editions are never read."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Content:
    """What a result depends on, where that is less than its key says: a key changes with anything behind the inputs, as
    the texts of an edited table do whichever column was edited."""

    digest: Callable[[Mapping[str, Any]], str]
    """Identifies, from a step's arguments as values, all that its result depends on apart from the function."""
    adopt: Callable[[Any, Mapping[str, Any]], Any]
    """Makes another step's result with the same digest the result for these arguments."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepFunction:
    """What the runner knows about a function marked with :func:`step`."""

    fn: Callable[..., Any]
    version: int
    signature: inspect.Signature
    many: Callable[..., list[Any]] | None
    together: tuple[str, ...]
    """Arguments that must be equal for several steps to be run in one call of ``many``."""
    said: str = ""
    content: Content | None = None
    work: Callable[[Mapping[str, Any]], float | None] | None = None
    """How much there is to compute, from arguments of which some may still be steps; None if that is not known yet."""

    @cached_property
    def name(self) -> str:
        """``fit_probe``, or ``my_steps.fit_probe`` for a user's: names the folder of its results."""
        return identity.code_name(self.fn).replace("<locals>.", "")

    @cached_property
    def doing(self) -> str:
        """What it does, in the words that people are told; the function's own name if it has none."""
        return self.said or self.fn.__name__.replace("_", " ")

    @cached_property
    def takes_runtime(self) -> bool:
        """Whether it takes the runtime (device, batching, progress): the mark of a step that takes long."""
        return "runtime" in self.signature.parameters

    @cached_property
    def defaults(self) -> dict[str, Any]:
        """Its arguments in order, with their defaults (``inspect.Parameter.empty`` if there is none)."""
        return {name: p.default for name, p in self.signature.parameters.items() if name != "runtime"}

    @cached_property
    def required(self) -> frozenset[str]:
        """Its arguments without a default."""
        return frozenset(name for name, default in self.defaults.items() if default is inspect.Parameter.empty)

    @cached_property
    def form(self) -> str:
        """A template for the canonical JSON of its arguments, sorted by name, for :meth:`str.format`."""
        places = sorted((name, place) for place, name in enumerate(self.defaults))
        return "{{" + ",".join([f'"{name}":{{{place}}}' for name, place in places]) + "}}"

    @cached_property
    def is_users(self) -> bool:
        """Whether it is defined outside this package."""
        return not identity.is_inside(self.fn)

    @property
    def source(self) -> str | None:
        """Digest of the source of a user's function; None for ours, which are known by their version."""
        return identity.source_digest(self.fn) if self.is_users else None

    @property
    def head(self) -> str:
        """What is hashed before the arguments. A notebook may change it for a user's function."""
        return key_head(self.name, self.version, self.source)

    @cached_property
    def own_head(self) -> str:
        """:attr:`head` of one of ours, which never changes."""
        return self.head


@cache
def key_head(name: str, version: int, source: str | None) -> str:
    """Edition, function, version, and source digest, as text: the first part of what is hashed."""
    return json.dumps([EDITION, name, version, source])


def key_of(head: str, args_text: str) -> str:
    """The key of a step from :func:`key_head` and its arguments as canonical JSON."""
    return hashlib.sha256(f"{head}{args_text}".encode()).hexdigest()


_FUNCTIONS: dict[Callable[..., Any], StepFunction] = {}


def step(
    *,
    version: int,
    many: Callable[..., list[Any]] | None = None,
    together: tuple[str, ...] = (),
    said: str = "",
    content: Content | None = None,
    work: Callable[[Mapping[str, Any]], float | None] | None = None,
) -> Callable[[F], F]:
    """Mark a plain function as a step. It can still be called as before.

    Its result is stored: plain JSON values, a numpy array, a mapping of arrays, a polars frame, or an object with
    ``save(folder)`` and ``load(folder)``. A function outside this package says which by its return annotation.

    Args:
        version: raise it whenever the function's result changes for the same arguments.
        many: a function taking a list of argument dictionaries and returning one result for each, in order.
        together: names of the arguments that all steps of one ``many`` call share.
        said: what the function does, for people who watch a run: ``train probes``. Default: its name.
        content: how to tell that another step's result is this one's, so that nothing is computed; not with ``many``.
        work: how many floating point operations it takes, about; it estimates the time of what was never timed.
    """
    made = partial(StepFunction, version=version, many=many, together=together, said=said, content=content, work=work)

    def mark(fn: F) -> F:
        identity.pin(fn)
        _FUNCTIONS[fn] = made(fn=fn, signature=inspect.signature(fn))
        return fn

    return mark


class Step:
    """A function bound to its arguments, some of which may be other steps.

    A wrong argument name is a ``TypeError`` here, before anything runs. The runner fills in a parameter called
    ``runtime``; it is not part of the identity.
    """

    __slots__ = ("args", "fn", "function", "inputs", "key", "note")

    def __init__(self, fn: Callable[..., Any], **args: Any) -> None:
        """Bind ``fn`` (marked with :func:`step`) to keyword arguments."""
        self.fn = fn
        self.function = function = _FUNCTIONS[fn]
        if function.is_users:
            _check_result(fn)
        if "runtime" in args:
            raise TypeError("the runner passes runtime; it is not an argument of a step")
        if args.keys() != function.defaults.keys() and not function.required <= args.keys() <= function.defaults.keys():
            # Says what is wrong.
            function.signature.bind(**args, **({"runtime": None} if function.takes_runtime else {}))
        self.args: dict[str, Any] = function.defaults | args
        # Computed now, not lazily: the inputs have their keys already, so long chains need no recursion.
        found: dict[str, Step] = {}
        args_text = function.form.format(*[_text(value, found) for value in self.args.values()])
        head = function.head if function.is_users else function.own_head
        self.key = hashlib.sha256(f"{head}{args_text}".encode()).hexdigest()
        """sha256 over the function's name, version and source, and the canonical arguments."""
        self.inputs = tuple(found.values())
        """The steps this one needs, each once, in argument order."""
        self.note: dict[str, Any] | None = None
        """Kept in the record for readers, such as the experiment behind a result. Not part of the identity."""

    @property
    def canonical_args(self) -> str:
        """The arguments as canonical JSON, input steps replaced by their keys. Not cached: sweeps hold many steps."""
        return self.function.form.format(*[_text(value, {}) for value in self.args.values()])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Step) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    def __repr__(self) -> str:
        return f"{self.function.name}/{self.key[:12]}"


def canonical(value: Any) -> Any:
    """``value`` as plain JSON: one form per meaning.

    Dataclasses become class, version, and fields, plus a source digest for a user's class. Steps become their keys.
    Tuples and lists are the same.

    Raises:
        TypeError: for anything that has no such form, for NaN and infinity, and for a step inside a dataclass.
    """
    return json.loads(_text(value, {}))


def _text(value: Any, found: dict[str, Step], owner: type[Any] | None = None) -> str:
    """The canonical form as JSON text with sorted keys. Written directly, as a sweep needs it a hundred thousand times.

    Adds the steps in ``value`` to ``found``, by key. ``owner`` is the dataclass that holds the value.
    """
    if value is None:
        return "null"
    kind = type(value)
    if kind is Step:
        if owner is not None:
            raise TypeError(f"a {owner.__name__} cannot hold steps; pass them as arguments of their own")
        found.setdefault(value.key, value)
        return f'{{"$step":"{value.key}"}}'
    if isinstance(value, str):
        return _quoted(value)
    if kind is bool:
        return "true" if value else "false"
    if isinstance(value, int):
        return int.__repr__(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise TypeError(f"{value} has no canonical form")
        return int.__repr__(int(value)) if value.is_integer() and abs(value) < 2**53 else float.__repr__(value)
    if isinstance(value, tuple | list):
        return f"[{','.join([_text(v, found, owner) for v in value])}]"
    if (last := _LAST.get(kind)) is not None and last[0] is value:
        return last[1]
    if dataclasses.is_dataclass(kind):
        return _text_of_fields(value, found)
    if isinstance(value, Mapping):
        if not all(isinstance(k, str) and not k.startswith("$") for k in value):
            raise TypeError("mappings in arguments must have text keys that do not start with $")
        return f"{{{','.join([f'{_quoted(k)}:{_text(value[k], found, owner)}' for k in sorted(value)])}}}"
    raise TypeError(f"{kind.__name__} cannot be an argument of a step")


_quoted = json.encoder.encode_basestring
_LAST: dict[type[Any], tuple[Any, str]] = {}
"""The last value of each dataclass and its text: consecutive steps of a sweep share trainers and losses."""


def _text_of_fields(value: Any, found: dict[str, Step]) -> str:
    kind = type(value)
    fields = "".join([f',"{name}":{_text(getattr(value, name), found, kind)}' for name in _fields_of(kind)])
    text = f"{{{_title(kind)}{fields}}}"
    if _cannot_change(value):
        _LAST[kind] = value, text
    return text


def _title(kind: type[Any]) -> str:
    """How a class appears in keys: name, version if it has one, and source digest if it is a user's."""
    title = f'"$class":{_quoted(identity.code_name(kind))}'
    if (source := identity.source_digest(kind)) is not None:
        title += f',"$source":"{source}"'
    version = getattr(kind, "version", None)
    return f'{title},"$version":{version}' if isinstance(version, int) else title


def _cannot_change(value: Any) -> bool:
    """Whether it is frozen and everything in it is hashable."""
    try:
        return value.__dataclass_params__.frozen and hash(value) is not None
    except TypeError:
        return False


def identity_fields(kind: type[Any]) -> tuple[str, ...]:
    """The fields that are part of a dataclass's identity, sorted."""
    return tuple(sorted(f.name for f in dataclasses.fields(kind) if f.compare))


_fields_of: Callable[[Any], tuple[str, ...]] = cache(identity_fields)


def forget() -> None:
    """Digest code anew: a user may have replaced a class or function since the last keys were made."""
    _LAST.clear()
    identity.forget()


@cache
def _check_result(fn: Callable[..., Any]) -> None:
    """Raises :class:`UserError` unless a user's function says that it returns what can be stored."""
    try:
        returns = typing.get_type_hints(fn).get("return", Any)
    except NameError as error:
        raise UserError(
            f"the step {identity.code_name(fn)} has an annotation that cannot be resolved: {error}"
        ) from None
    if not _is_storable(returns):
        raise UserError(
            f"the step {identity.code_name(fn)} must say what it returns, as a type that can be stored: dict, list, "
            "str, int, float, bool, numpy.ndarray, dict[str, numpy.ndarray], polars.DataFrame, or a class with save "
            f"and load; it says {returns if returns is not Any else 'nothing'}"
        )


_PLAIN = (dict, list, tuple, str, int, float, bool, type(None))


def _is_storable(hint: Any) -> bool:
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        return all(map(_is_storable, typing.get_args(hint)))
    kind = typing.get_origin(hint) or hint
    if not isinstance(kind, type) or kind is object:
        return False
    named = f"{kind.__module__.partition('.')[0]}.{kind.__name__}"
    return (
        kind in _PLAIN
        or named in ("numpy.ndarray", "polars.DataFrame", "collections.Mapping")
        or (hasattr(kind, "save") and hasattr(kind, "load"))
    )


def in_order(targets: Iterable[Step], is_done: Callable[[Step], bool] = lambda _: False) -> list[Step]:
    """Every step that ``targets`` need, inputs first, each once. Stops at finished steps."""
    ordered: dict[str, Step] = {}
    opened: set[str] = set()
    stack = list(targets)[::-1]
    while stack:  # a stack, not recursion: chains may have thousands of steps
        current = stack[-1]
        if current.key in ordered:
            stack.pop()
        elif current.key in opened or is_done(current):
            ordered[current.key] = stack.pop()
        else:
            opened.add(current.key)
            stack += [s for s in reversed(current.inputs) if s.key not in ordered]
    return list(ordered.values())
