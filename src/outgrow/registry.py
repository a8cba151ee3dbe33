"""One spelling of configured values in Python, on the command line and in YAML.

A value's spelling is the call that makes it: ``confidence``, ``LogConf(alpha=0.5)``,
``table(path='mine.csv', text='body')``. Only names and literals are read; nothing is evaluated.
"""

import ast
import dataclasses
import functools
import math
import re
import typing
from collections.abc import Callable, Mapping
from types import UnionType
from typing import Any

from outgrow.errors import UserError, unknown_name

__all__ = ["Registry", "make", "parse", "read_call", "spell", "spell_call"]

Registry = Mapping[str, Callable[..., Any]]
_CALL = re.compile(r"\s*([A-Za-z][\w.-]*)\s*(?:\((.*)\))?\s*", re.DOTALL)


def read_call(text: str, kind: str, nested: Registry | None = None) -> tuple[str, dict[str, Any]]:
    """Split ``name(a=1, b='x')`` into its name and its keyword arguments (literals, or nested spellings).

    Raises:
        UserError: if the text is no name or call, or an argument is neither a literal nor a registered name.
    """
    match = _CALL.fullmatch(text)
    if match is None:
        raise UserError(f"cannot read the {kind} {text!r}; write a name, or a call such as name(option=1)")
    name, arguments = match.groups()
    try:
        call = ast.parse(f"f({arguments or ''})", mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # the last two: thousands of nested brackets
        raise UserError(f"cannot read the {kind} {text!r}; check its brackets and quotes") from None
    assert isinstance(call, ast.Call)
    return name, _arguments(call, nested or {}, kind, text)


def parse(text: str, registry: Registry, kind: str, nested: Registry | None = None) -> Any:
    """Make the value that ``text`` spells from the factories in ``registry`` (``nested`` serves its arguments).

    Raises:
        UserError: if the text cannot be read, a name is unknown (the nearest are offered), or an argument does
            not fit.
    """
    name, arguments = read_call(text, kind, nested)
    return make(name, arguments, registry, kind)


def make(name: str, arguments: Mapping[str, Any], registry: Registry, kind: str) -> Any:
    """Call the factory registered as ``name``; a wrong name or argument is a :class:`UserError`."""
    if name not in registry:
        raise unknown_name(kind, name, registry)
    factory = registry[name]
    if not dataclasses.is_dataclass(factory):
        return factory(**arguments)
    known = [f.name for f in dataclasses.fields(factory) if f.init]
    hints = _hints(factory)
    fitted = {}
    for argument, value in arguments.items():
        if argument not in known:
            raise unknown_name(f"option of {kind} {name}", argument, known)
        fitted[argument] = _fitted(value, hints[argument], f"option {argument} of {kind} {name}")
    return factory(**fitted)


_hints = functools.cache(typing.get_type_hints)


def spell(value: Any, registry: Registry, nested: Registry | None = None) -> str:
    """The shortest text that :func:`parse` turns back into ``value``: only what differs from the defaults."""
    names = {factory: name for name, factory in {**(nested or {}), **registry}.items()}
    if type(value) is tuple:
        items = [spell(item, registry, nested) for item in value]
        return f"({items[0]},)" if len(items) == 1 else f"({', '.join(items)})"
    if type(value) not in names:
        return repr(value)
    differing = {
        field.name: getattr(value, field.name)
        for field in dataclasses.fields(value)
        if field.init and getattr(value, field.name) != _default(field)
    }
    return spell_call(names[type(value)], differing, nested or {})


def spell_call(name: str, arguments: Mapping[str, Any], nested: Registry | None = None) -> str:
    """``name(a=1)`` from a name and keyword arguments; the bare name where there are none."""
    inner = ", ".join(f"{k}={spell(v, nested or {}, nested)}" for k, v in arguments.items())
    return f"{name}({inner})" if inner else name


def _arguments(call: ast.Call, nested: Registry, kind: str, text: str) -> dict[str, Any]:
    names = [k.arg for k in call.keywords]
    if call.args or None in names:
        raise UserError(f"the arguments of the {kind} {text!r} must be written name=value")
    if len(set(names)) < len(names):
        raise UserError(f"an argument of the {kind} {text!r} is given twice")
    return {str(k.arg): _argument(k.value, nested, kind, text) for k in call.keywords}


def _argument(node: ast.expr, nested: Registry, kind: str, text: str) -> Any:
    if isinstance(node, ast.Name):
        return make(node.id, {}, nested, "value")
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        return make(node.func.id, _arguments(node, nested, kind, text), nested, "value")
    if isinstance(node, ast.Tuple | ast.List):
        return tuple(_argument(item, nested, kind, text) for item in node.elts)
    try:
        return _frozen(ast.literal_eval(node))
    except (ValueError, TypeError, RecursionError, MemoryError):
        raise UserError(f"cannot read an argument of the {kind} {text!r}; write a number or a quoted text") from None


def _frozen(literal: Any) -> Any:
    match literal:
        case None | bool() | int() | float() | str():
            return literal
        case list() | tuple():
            return tuple(_frozen(v) for v in literal)
    raise ValueError


_KINDS = {int: "a whole number", float: "a number", bool: "True or False", str: "a quoted text", tuple: "a list"}


def _fitted(value: Any, hint: Any, what: str) -> Any:
    """``value`` if it is what the annotation asks for; 1 is a float where one is asked for."""
    kinds = typing.get_args(hint) if isinstance(hint, UnionType) else (hint,)
    if type(value) is int and float in kinds and int not in kinds and abs(value) < 1e300:
        value = float(value)
    if not any(_is_a(value, kind) for kind in kinds):
        wanted = [_KINDS.get(typing.get_origin(k) or k) or ("None" if k is type(None) else k.__name__) for k in kinds]
        raise UserError(f"{what} must be {' or '.join(wanted)}, not {value!r}")
    return value


def _is_a(value: Any, kind: Any) -> bool:
    if typing.get_origin(kind) is tuple:  # of any length
        return type(value) is tuple and all(_is_a(v, typing.get_args(kind)[0]) for v in value)
    if kind in _KINDS:  # True is no whole number here
        return type(value) is kind and (kind is not float or math.isfinite(value))
    return kind is Any or isinstance(value, kind)


def _default(field: "dataclasses.Field[Any]") -> Any:
    return field.default_factory() if callable(field.default_factory) else field.default
