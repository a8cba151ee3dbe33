"""Everything that has a name: a registry for each kind, files of the user's that add to them, and one spelling.

A value's spelling is the call that makes it, the same in Python, on the command line and in YAML: ``confidence``,
``LogConf(alpha=0.5)``, ``table(path='mine.csv', text='body')``. Only names and literals are read; nothing is evaluated.
"""

import ast
import dataclasses
import functools
import hashlib
import importlib.util
import math
import os
import re
import sys
import typing
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, ClassVar, Generic, NamedTuple, Protocol, TypeVar, cast, get_args, get_origin

from outgrow import identity
from outgrow.errors import UserError, unknown_name
from outgrow.runtime import user_path

__all__ = [
    "REGISTRIES",
    "ClassShares",
    "OneOf",
    "Range",
    "Registered",
    "Registry",
    "UsedFile",
    "fitted",
    "named_object",
    "read_call",
    "spell_call",
    "use",
    "used_files",
]

_CALL = re.compile(r"\s*([A-Za-z][\w.-]*)\s*(?:\((.*)\))?\s*", re.DOTALL)
_MOST_CHARACTERS = 100_000
_Class = TypeVar("_Class", bound=type[Any])
_Value = TypeVar("_Value")


# --- what a field may hold --------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Range:
    """Bounds of a number in a registered class: ``q: Annotated[float, Range(0, 1)] = 0.7``."""

    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    """The number must lie above ``low``, not at it."""

    def __str__(self) -> str:
        if self.high == math.inf:
            return f"above {self.low:g}" if self.above else f"at {self.low:g} or above"
        return f"in {'(' if self.above else '['}{self.low:g}, {self.high:g}]"

    def check(self, what: str, value: Any) -> None:
        """Raises :class:`UserError` unless every number in ``value`` lies within; what is no number passes."""
        if not all(map(self._holds, value if isinstance(value, tuple) else (value,))):
            raise UserError(f"{what} is {value}; it must lie {self}")

    def _holds(self, number: Any) -> bool:
        if not isinstance(number, int | float):
            return True
        return bool((self.low < number if self.above else self.low <= number) and number <= self.high)


@dataclasses.dataclass(frozen=True)
class OneOf:
    """The values that a field of a registered class may have: ``kind: Annotated[str, OneOf("seeds", "bagging")]``."""

    values: tuple[Any, ...]

    def __init__(self, *values: Any) -> None:
        object.__setattr__(self, "values", values)

    def check(self, what: str, value: Any) -> None:
        """Raises :class:`UserError` unless ``value`` is one of them."""
        if value not in self.values:
            raise unknown_name(what, str(value), map(str, self.values))


@dataclasses.dataclass(frozen=True)
class ClassShares:
    """What a field may hold that says how often each class should occur: one of the given words, or the shares
    themselves: ``shares: Annotated[str | tuple[float, ...], ClassShares("weak", "uniform")] = "weak"``."""

    words: tuple[str, ...]

    def __init__(self, *words: str) -> None:
        object.__setattr__(self, "words", words)

    def check(self, what: str, value: Any) -> None:
        """Raises :class:`UserError` unless ``value`` is one of the words, or numbers above 0 that sum to 1."""
        if isinstance(value, str):
            OneOf(*self.words).check(what, value)
        elif min(value, default=0.0) <= 0 or abs(sum(value) - 1) > 1e-6:
            raise UserError(f"{what} is {value}; give each class a share above 0, so that they sum to 1")


def _bounds(cls: type[Any]) -> tuple[tuple[str, Range | OneOf | ClassShares], ...]:
    """The bounds of each field that has some."""
    hints = typing.get_type_hints(cls, include_extras=True)
    named = [(f.name, hints[f.name]) for f in dataclasses.fields(cls)]
    return tuple(
        (name, bound)
        for name, hint in named
        if get_origin(hint) is Annotated
        for bound in hint.__metadata__
        if isinstance(bound, Range | OneOf | ClassShares)
    )


_bounds_of: Callable[[Any], tuple[tuple[str, Range | OneOf | ClassShares], ...]] = functools.cache(_bounds)


# --- registries -------------------------------------------------------------------------------------------------------


class Registered(Protocol):
    """What a registered class says about itself, as class attributes. What it leaves out is set to these defaults."""

    version: ClassVar[int] = 1
    """Raise it by hand whenever the numbers change, so that results stored before are not taken for new ones."""
    source: ClassVar[str] = ""
    """The paper or code it comes from."""
    cost: ClassVar[str] = ""
    """What it takes, in a few words."""


class Registry(Mapping[str, _Value], Generic[_Value]):
    """Named values of one kind, such as all losses. Whoever has a file of Python can add one.

    A name belongs to one value; of another kind there may be one of the same name. To register the same thing again, as
    a notebook cell does that is run twice, replaces it.
    """

    def __init__(self, kind: str, plural: str, protocol: type[Any] | None = None) -> None:
        """An empty registry.

        Args:
            kind: one word for one of them, such as ``loss``.
            plural: the same for several.
            protocol: what a field is annotated with that takes any of them, such as ``Loss``.
        """
        self.kind, self.plural, self.protocol = kind, plural, protocol
        self._values: dict[str, _Value] = {}
        self._parsed: dict[str, Any] = {}
        self._canonical: dict[str, str] = {}
        REGISTRIES[kind] = self

    def __getitem__(self, name: str) -> _Value:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def add(self, name: str, value: _Value) -> _Value:
        """Register ``value``, a class or a function, as ``name``; returns it unchanged.

        Raises:
            UserError: if the name stands already for something else; both places are named.
        """
        if not _CALL.fullmatch(name) or "(" in name:
            raise UserError(f"{name!r} cannot be the name of a {self.kind}; take letters, digits, '.', '_' and '-'")
        there = self._values.get(name)
        if there is not None and _title(there) != _title(value):
            raise UserError(
                f"two {self.plural} are called {name}: {_title(there)} ({_place(there)}) and {_title(value)} "
                f"({_place(value)}); give one of them another name"
            )
        self._values[name] = value
        _NAMED[_title(value)] = self.kind, name
        identity.pin(getattr(value, "fn", value))
        for registry in REGISTRIES.values():  # a spelling read before may hold the value that stood here
            registry._parsed.clear()
            registry._canonical.clear()
        return value

    def add_class(self, name: str, cls: _Class) -> _Class:
        """Register a class of plain fields: it becomes a frozen dataclass with keyword arguments, whose numbers are
        held to the bounds of their annotations (:class:`Range`, :class:`OneOf`) whenever one is made. Class attributes
        that it lacks are taken from the protocol's defaults, so it need not inherit from the protocol.

        Raises:
            UserError: as :meth:`add`.
        """
        if "__dataclass_params__" in vars(cls):
            raise UserError(f"the {self.kind} {name} is a dataclass already; leave @dataclass out, it is made one here")
        own = getattr(cls, "__post_init__", None)

        def check(self: Any) -> None:
            for field, bound in _bounds_of(type(self)):
                bound.check(f"{field} of {name}", getattr(self, field))
            if own is not None:
                own(self)

        cls.__post_init__ = check
        made = cast(_Class, dataclasses.dataclass(frozen=True, kw_only=True)(cls))
        for attribute in typing.get_type_hints(self.protocol) if self.protocol else ():
            if hasattr(self.protocol, attribute) and not hasattr(made, attribute):
                setattr(made, attribute, getattr(self.protocol, attribute))
        self.add(name, cast(Any, made))
        return made

    def parse(self, text: str) -> Any:
        """The value that ``text`` spells: the class of that name, called with the arguments.

        Raises:
            UserError: if the text cannot be read, a name is unknown (the nearest are offered), or an argument does not
                fit.
        """
        if text not in self._parsed:
            name, call = _read(text, self.kind)
            self._parsed[text] = self._make(name, _Arguments(call, self.kind, text))
        return self._parsed[text]

    def spell(self, value: Any) -> str:
        """The shortest text that :meth:`parse` turns back into ``value``: only what differs from the defaults."""
        return _spelled(value)

    def canonical(self, text: str) -> str:
        """The shortest spelling of what ``text`` spells."""
        if text not in self._canonical:
            self._canonical[text] = self.spell(self.parse(text))
        return self._canonical[text]

    def name_of(self, value: Any) -> str | None:
        """The name of an instance of a class registered here; None for anything else."""
        kind, name = named_object(value) or ("", None)
        return name if kind == self.kind else None

    def entry(self, name: str) -> _Value:
        """The value of that name.

        Raises:
            UserError: for an unknown name; the nearest are offered.
        """
        if name not in self._values:
            raise unknown_name(self.kind, name, self._values)
        return self._values[name]

    def _make(self, name: str, arguments: "_Arguments") -> Any:
        cls: Any = self.entry(name)
        known = {f.name: f for f in dataclasses.fields(cls) if f.init}
        hints, given = _hints(cls), {}
        for argument, node in arguments.nodes.items():
            if argument not in known:
                raise unknown_name(f"option of {self.kind} {name}", argument, known)
            what = f"option {argument} of {self.kind} {name}"
            given[argument] = fitted(arguments.value(node, hints[argument], what), hints[argument], what)
        missing = [f.name for f in known.values() if f.name not in given and _default(f) is dataclasses.MISSING]
        if missing:
            raise UserError(f"{self.kind} {name} needs {' and '.join(missing)}; write {name}({missing[0]}=...)")
        return cls(**given)


REGISTRIES: dict[str, Registry[Any]] = {}
"""Every registry by its kind."""

_hints: Callable[[Any], dict[str, Any]] = functools.cache(typing.get_type_hints)


_NAMED: dict[str, tuple[str, str]] = {}
"""Kind and name of everything registered, by module and name of its class or function."""


def named_object(value: Any) -> tuple[str, str] | None:
    """Kind and name of an instance of a registered class; None for anything else."""
    return _NAMED.get(_title(type(value)))


def _title(value: Any) -> str:
    """Module and name of what is registered; of an entry that wraps a function, those of the function."""
    value = getattr(value, "fn", value)
    named = value if hasattr(value, "__qualname__") else type(value)
    return f"{named.__module__}.{named.__qualname__}"


def _place(value: Any) -> str:
    """File and line where something was defined, as far as Python knows."""
    import inspect

    value = getattr(value, "fn", value)
    try:
        return f"{inspect.getsourcefile(value)} line {inspect.getsourcelines(value)[1]}"
    except (OSError, TypeError):
        return "no file"


# --- spelling ---------------------------------------------------------------------------------------------------------


def read_call(text: str, kind: str) -> tuple[str, dict[str, Any]]:
    """Split ``name(a=1, b='x')`` into its name and its keyword arguments, which are literals.

    Raises:
        UserError: if the text is no name or call, or an argument is no literal.
    """
    name, call = _read(text, kind)
    arguments = _Arguments(call, kind, text)
    return name, {argument: arguments.literal(node) for argument, node in arguments.nodes.items()}


def spell_call(name: str, arguments: Mapping[str, Any]) -> str:
    """``name(a=1)`` from a name and keyword arguments; the bare name where there are none."""
    inner = ", ".join(f"{k}={_spelled(v)}" for k, v in arguments.items())
    return f"{name}({inner})" if inner else name


def _read(text: str, kind: str) -> tuple[str, ast.Call]:
    match = _CALL.fullmatch(text) if len(text) <= _MOST_CHARACTERS else None
    if match is None:
        shown = text if len(text) <= 200 else f"{text[:200]}..."
        raise UserError(f"cannot read the {kind} {shown!r}; write a name, or a call such as name(option=1)")
    name, arguments = match.groups()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)  # of 'C:\\data', on a line that nobody wrote
            call = ast.parse(f"f({arguments or ''})", mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # the last two: thousands of nested brackets
        call = None
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):  # the second: f(a=1)(b=2)
        raise UserError(f"cannot read the {kind} {text!r}; check its brackets and quotes")
    return name, call


class _Arguments:
    """The keyword arguments of a spelled call, not yet read."""

    def __init__(self, call: ast.Call, kind: str, text: str) -> None:
        self.kind, self.text = kind, text
        names = [k.arg for k in call.keywords]
        if call.args or None in names:
            raise UserError(f"the arguments of the {kind} {text!r} must be written name=value")
        if len(set(names)) < len(names):
            raise UserError(f"an argument of the {kind} {text!r} is given twice")
        self.nodes = {str(k.arg): k.value for k in call.keywords}

    def value(self, node: ast.expr, hint: Any, what: str) -> Any:
        """A literal, or what a name or call spells among the kinds of things that the annotation takes."""
        if isinstance(node, ast.Name):
            return self._named(node.id, ast.Call(node, [], []), hint, what)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            return self._named(node.func.id, node, hint, what)
        if isinstance(node, ast.Tuple | ast.List):
            inner = next((get_args(k)[0] for k in _kinds_of(hint) if get_origin(k) is tuple), hint)
            if inner is hint and hint is not Any:
                raise UserError(f"{what} must be {_wanted(_kinds_of(hint))}, not a list")
            return tuple(self.value(item, inner, what) for item in node.elts)
        return self.literal(node)

    def literal(self, node: ast.expr) -> Any:
        try:
            return _frozen(ast.literal_eval(node))
        except (ValueError, TypeError, RecursionError, MemoryError):
            raise UserError(
                f"cannot read an argument of the {self.kind} {self.text!r}; write a number or a quoted text"
            ) from None

    def _named(self, name: str, call: ast.Call, hint: Any, what: str) -> Any:
        kinds = _kinds_of(hint)
        taken = [r for r in REGISTRIES.values() if r.protocol in kinds or any(cls in kinds for cls in r.values())]
        if not taken:
            raise UserError(f"{what} must be {_wanted(kinds)}, not the name {name}")
        for registry in taken:
            if name in registry:
                return registry._make(name, _Arguments(call, registry.kind, self.text))
        raise unknown_name(f"{taken[0].kind} in {what}", name, [n for registry in taken for n in registry])


def _spelled(value: Any) -> str:
    if type(value) is tuple:
        items = [_spelled(item) for item in value]
        return f"({items[0]},)" if len(items) == 1 else f"({', '.join(items)})"
    named = named_object(value)
    if named is None:
        return repr(value)
    differing = {
        field.name: getattr(value, field.name)
        for field in dataclasses.fields(value)
        if field.init and getattr(value, field.name) != _default(field)
    }
    return spell_call(named[1], differing)


def _frozen(literal: Any) -> Any:
    match literal:
        case None | bool() | int() | float() | str():
            return literal
        case list() | tuple():
            return tuple(_frozen(v) for v in literal)
    raise ValueError


_KINDS = {int: "a whole number", float: "a number", bool: "True or False", str: "a quoted text", tuple: "a list"}


def _kinds_of(hint: Any) -> tuple[Any, ...]:
    """The types that an annotation allows."""
    return get_args(hint) if isinstance(hint, UnionType) else (hint,)


def _wanted(kinds: Sequence[Any]) -> str:
    named = [_KINDS.get(get_origin(k) or k) or ("None" if k is type(None) else k.__name__) for k in kinds]
    return " or ".join(named)


def fitted(value: Any, hint: Any, what: str) -> Any:
    """``value`` if it is what the annotation asks for; 1 is a float where one is asked for.

    Raises:
        UserError: if it is something else.
    """
    kinds = _kinds_of(hint)
    if type(value) is int and float in kinds and int not in kinds and abs(value) < 1e300:
        value = float(value)
    if not any(_is_a(value, kind) for kind in kinds):
        raise UserError(f"{what} must be {_wanted(kinds)}, not {value!r}")
    return value


def _is_a(value: Any, kind: Any) -> bool:
    if get_origin(kind) is tuple:  # of any length
        return type(value) is tuple and all(_is_a(v, get_args(kind)[0]) for v in value)
    if kind in _KINDS:  # True is no whole number here
        return type(value) is kind and (kind is not float or math.isfinite(value))
    named = named_object(value)
    return kind is Any or isinstance(value, kind) or (named is not None and REGISTRIES[named[0]].protocol is kind)


def _default(field: "dataclasses.Field[Any]") -> Any:
    return field.default_factory() if callable(field.default_factory) else field.default


# --- files of the user's ----------------------------------------------------------------------------------------------


class UsedFile(NamedTuple):
    """A file of the user's that was loaded with :func:`use`."""

    path: str
    """As it was named."""
    sha256: str


_USED: dict[Path, UsedFile] = {}


def use(path: str | Path) -> UsedFile:
    """Load a Python file, so that what it registers can be named. The same file is loaded once, until it changes.

    Raises:
        UserError: if it is no Python file that can be loaded, or its name is that of a module loaded already.
    """
    file = user_path(str(path)).resolve()
    if file.suffix != ".py" or not file.stem.isidentifier():
        raise UserError(f"{path} cannot be used: name a Python file such as my_losses.py, of letters, digits and '_'")
    try:
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(f"cannot read {path}, named with use=...: {error.strerror}") from None
    if file in _USED and _USED[file].sha256 == digest:
        return _USED[file]
    standing = sys.modules.get(file.stem)
    place = getattr(standing, "__file__", None)
    if standing is not None and (place is None or Path(place).resolve() != file):
        raise UserError(f"{path} is called like the module {file.stem} ({place or 'built in'}); rename the file")
    if standing is None or file in _USED:
        _load(file, str(path))
    _USED[file] = UsedFile(str(path), digest)
    return _USED[file]


def _load(file: Path, named: str) -> None:
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[file.stem] = module  # before it runs: its classes are looked up there
    try:
        spec.loader.exec_module(module)
    except UserError:
        del sys.modules[file.stem]
        raise
    except Exception as error:
        del sys.modules[file.stem]
        line = _line_in(file, error)
        raise UserError(f"{named}{line}: {type(error).__name__}: {error}; mend the file, then run again") from error


def _line_in(file: Path, error: BaseException) -> str:
    """Where in ``file`` the error arose."""
    if isinstance(error, SyntaxError):
        return f" line {error.lineno}"
    trace, line = error.__traceback__, ""
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(file):
            line = f" line {trace.tb_lineno}"
        trace = trace.tb_next
    return line


def used_files() -> list[UsedFile]:
    """The files that were loaded, in their order. The first call loads those of ``$OUTGROW_USE``."""
    for path in os.environ.get("OUTGROW_USE", "").split(os.pathsep):
        if path:
            use(path)
    return list(_USED.values())
