"""One spelling of configured values in Python, on the command line and in YAML.

A value's spelling is the call that makes it: ``confidence``, ``LogConf(alpha=0.5)``,
``table(path='mine.csv', text='body')``. Only names and literals are read; nothing is evaluated.
"""

import ast
import dataclasses
import re
from collections.abc import Callable, Mapping
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
    except (SyntaxError, ValueError):
        raise UserError(f"cannot read the {kind} {text!r}; check its brackets and quotes") from None
    assert isinstance(call, ast.Call)
    if call.args or any(k.arg is None for k in call.keywords):
        raise UserError(f"the arguments of the {kind} {text!r} must be written name=value")
    return name, {str(k.arg): _argument(k.value, nested or {}, kind, text) for k in call.keywords}


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
    known = [f.name for f in dataclasses.fields(factory) if f.init] if dataclasses.is_dataclass(factory) else None
    for argument in arguments:
        if known is not None and argument not in known:
            raise unknown_name(f"option of {kind} {name}", argument, known)
    return factory(**arguments)


def spell(value: Any, registry: Registry, nested: Registry | None = None) -> str:
    """The shortest text that :func:`parse` turns back into ``value``: only what differs from the defaults."""
    names = {factory: name for name, factory in {**(nested or {}), **registry}.items()}
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


def _argument(node: ast.expr, nested: Registry, kind: str, text: str) -> Any:
    if isinstance(node, ast.Name):
        return make(node.id, {}, nested, "value")
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.args:
        arguments = {str(k.arg): _argument(k.value, nested, kind, text) for k in node.keywords}
        return make(node.func.id, arguments, nested, "value")
    try:
        value = ast.literal_eval(node)
    except (ValueError, TypeError):
        raise UserError(f"cannot read an argument of the {kind} {text!r}; write a number or a quoted text") from None
    return tuple(value) if isinstance(value, list) else value


def _default(field: "dataclasses.Field[Any]") -> Any:
    return field.default_factory() if callable(field.default_factory) else field.default
