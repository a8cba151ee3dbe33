"""What code is: the name and version of what this package defines, and a digest of the source of what a user defines.

A result is stored under what made it. Our own losses, transforms and steps say their ``version``, raised by hand when
their numbers change. What stands in a user's file has no such discipline, so its source is part of it: of the class, of
what it inherits, and of every function, class, constant and module of the user's that it mentions, near or far.
Comments and layout do not count.
"""

import ast
import dataclasses
import enum
import functools
import hashlib
import inspect
import json
import linecache
import re
import sys
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FunctionType, GenericAlias, ModuleType
from typing import Any

from outgrow.errors import UserError

__all__ = ["code_name", "forget", "is_inside", "pin", "source_digest"]

_PACKAGE = __name__.partition(".")[0]
_INSTALLED = tuple({str(Path(path).resolve()) for path in sysconfig.get_paths().values()})


def is_inside(value: Any) -> bool:
    """Whether a class or function is defined in this package, and not by a user."""
    return str(value.__module__).partition(".")[0] == _PACKAGE


def code_name(value: Any) -> str:
    """``GCE`` for what this package defines, ``my_losses.Flooded`` for a user's; a script goes by its file's name."""
    if is_inside(value):
        return str(value.__qualname__)
    module = str(value.__module__)
    if module == "__main__" and (file := getattr(sys.modules[module], "__file__", None)):
        module = Path(file).stem
    return f"{module}.{value.__qualname__}"


def source_digest(value: Any) -> str | None:
    """Sha256 of the source of a class or function of a user's, with all of the user's that it mentions.

    None for what this package defines.

    Raises:
        UserError: where a source cannot be read, or a value that is mentioned can be told neither by its content nor by
            the line that sets it.
    """
    if is_inside(value):
        return None
    if value not in _DIGESTS:
        found: dict[str, str] = {}
        _Walk(found, str(value.__module__).partition(".")[0]).code(value)
        _DIGESTS[value] = hashlib.sha256(json.dumps(sorted(found.items())).encode()).hexdigest()
    return _DIGESTS[value]


_DIGESTS: dict[Any, str] = {}
_SOURCES: dict[str, str] = {}
"""Text of each user's file as it was when it was loaded: it may have been edited since."""


def forget() -> None:
    """Digests are made anew when next asked for: a cell of a notebook may have replaced what they were made of."""
    _DIGESTS.clear()


def pin(value: Any) -> None:
    """Remember the text of the file in which a class or function of a user's is being defined, and of the user's files
    that it imports."""
    if not is_inside(value):
        home = str(value.__module__).partition(".")[0]
        _pin(sys.modules.get(value.__module__), home, set())


def _pin(module: ModuleType | None, home: str, seen: set[str]) -> None:
    if module is None or module.__name__ in seen:
        return
    seen.add(module.__name__)
    if file := _file_of(module):
        _SOURCES[file] = _read(file)
    for other in list(vars(module).values()):
        other = other if isinstance(other, ModuleType) else sys.modules.get(str(getattr(other, "__module__", None)))
        if isinstance(other, ModuleType) and _is_users(other.__name__, home):
            _pin(other, home, seen)


def _read(file: str) -> str:
    linecache.checkcache(file)
    return "".join(linecache.getlines(file))


def _file_of(module: ModuleType) -> str | None:
    file = getattr(module, "__file__", None)
    return str(file) if file else None


@functools.cache
def _is_standard(top: str) -> bool:
    return top in sys.stdlib_module_names


def _is_users(name: str, home: str) -> bool:
    """Whether a module belongs to the user: it is of the package that was asked about, or is installed nowhere."""
    top = name.partition(".")[0]
    if top == _PACKAGE or (_is_standard(top) and top != "__main__"):
        return False
    if top == home:
        return True
    file = _file_of(sys.modules[name]) if name in sys.modules else None
    return file is not None and not str(Path(file).resolve()).startswith(_INSTALLED)


class _Walk:
    """Collects the texts that a definition rests on, by the full name of what each is of."""

    def __init__(self, found: dict[str, str], home: str) -> None:
        self.found, self.home = found, home

    def code(self, value: Any) -> None:
        """A class or function."""
        value = inspect.unwrap(value) if callable(value) and not isinstance(value, type) else value
        title = code_name(value)
        if title in self.found:
            return
        if not _is_users(str(value.__module__), self.home):  # by name, and for ours by version
            self.found[title] = str(getattr(value, "version", "")) if is_inside(value) else ""
            return
        nodes = _definitions(value)
        self.found[title] = "\n".join(ast.dump(node) for node in nodes)
        if isinstance(value, type):
            for base in value.__mro__[1:-1]:
                self.code(base)
        names = _namespace(value)
        for name in _mentioned(nodes):
            if name in names:
                self.named(f"{value.__module__}.{name}", names[name])

    def named(self, title: str, value: Any) -> None:
        """What a name in a user's module stands for."""
        if title in self.found:
            return
        if isinstance(value, ModuleType):
            self.module(value)
        elif isinstance(value, type) or isinstance(inspect.unwrap(value) if callable(value) else value, FunctionType):
            self.code(value)
        elif (text := _text_of(value)) is not None:
            self.found[title] = text
        else:
            self.assigned(title, value)

    def module(self, module: ModuleType) -> None:
        """A whole module of the user's, and those that it imports."""
        title = f"module {module.__name__}"
        if title in self.found or not _is_users(module.__name__, self.home):
            return
        file = _file_of(module)
        self.found[title] = _SOURCES.get(file) or _read(file) if file else ""
        for value in list(vars(module).values()):
            other = value if isinstance(value, ModuleType) else sys.modules.get(str(getattr(value, "__module__", "")))
            if isinstance(other, ModuleType):
                self.module(other)

    def assigned(self, title: str, value: Any) -> None:
        """A value without a content of its own, such as a logger: the line of the module that sets it."""
        if is_inside(type(value)) or not hasattr(type(value), "__module__"):
            self.found[title] = code_name(type(value))
            return
        module, _, name = title.rpartition(".")
        tree = _tree_of(sys.modules.get(module))
        nodes = [node for node in (tree.body if tree else ()) if name in _targets(node)]
        if not nodes:
            raise UserError(
                f"{title} is a {type(value).__name__}, of which Outgrow cannot tell whether it changed; "
                "make it inside the function that uses it"
            )
        self.found[title] = "\n".join(ast.dump(node) for node in nodes)
        names = vars(sys.modules[module])
        for mentioned in _mentioned(nodes):
            if mentioned in names and mentioned != name:
                self.named(f"{module}.{mentioned}", names[mentioned])


def _definitions(value: Any) -> list[ast.AST]:
    """The definition of a class or function in the source that it was loaded from.

    Raises:
        UserError: where it cannot be read.
    """
    kinds = (ast.ClassDef,) if isinstance(value, type) else (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
    lines = {fn.__code__.co_firstlineno for fn in _functions(value)}
    for tree in _trees(value):
        nodes: list[Any] = [node for node in ast.walk(tree) if isinstance(node, kinds)]
        name = value.__qualname__.rpartition(".")[2]
        nodes = [node for node in nodes if getattr(node, "name", "<lambda>") == name]
        if len(nodes) > 1:  # defined twice: those that hold the lines the code was compiled from
            nodes = [n for n in nodes if any(_first(n) <= line <= (n.end_lineno or 0) for line in lines)] or nodes[-1:]
        if nodes:
            return nodes
    raise UserError(
        f"the source of {code_name(value)} cannot be read, so Outgrow could not tell when it changes; "
        "define it in a file, and name that with use=..."
    )


def _first(node: Any) -> int:
    return int(min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", ()))]))


def _functions(value: Any) -> Iterator[FunctionType]:
    """The functions of a class that were written, or the function itself."""
    for member in vars(value).values() if isinstance(value, type) else (value,):
        for inner in (member, getattr(member, "__func__", None), getattr(member, "fget", None)):
            inner = inspect.unwrap(inner) if callable(inner) else inner
            if isinstance(inner, FunctionType) and not inner.__code__.co_filename.startswith("<string>"):
                yield inner


def _trees(value: Any) -> Iterator[ast.Module]:
    """Where the definition may stand: the module's file, else what its functions were compiled from, such as a cell."""
    if (tree := _tree_of(sys.modules.get(value.__module__))) is not None:
        yield tree
    for file in dict.fromkeys(fn.__code__.co_filename for fn in _functions(value)):
        if text := _SOURCES.get(file) or _read(file):
            yield _parsed(text)


def _tree_of(module: ModuleType | None) -> ast.Module | None:
    file = _file_of(module) if module else None
    text = (_SOURCES.get(file) or _read(file)) if file else ""
    return _parsed(text) if text else None


@functools.lru_cache(maxsize=64)
def _parsed(text: str) -> ast.Module:
    try:
        return ast.parse(text)
    except SyntaxError:  # edited since, and no Python now
        return ast.Module([], [])


def _namespace(value: Any) -> dict[str, Any]:
    """What names in a definition stand for: the module's, and those of functions around it."""
    module = sys.modules.get(value.__module__)
    names = dict(vars(module)) if module else {}
    for fn in _functions(value):
        names |= fn.__globals__ if not module else {}
        for name, cell in zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=True):
            try:
                names[name] = cell.cell_contents
            except ValueError:  # not set yet
                continue
    names.pop("__class__", None)
    return names


def _mentioned(nodes: Sequence[ast.AST]) -> list[str]:
    names = {n.id for node in nodes for n in ast.walk(node) if isinstance(n, ast.Name)}
    # An annotation in quotes names what it names.
    constants = [n.value for node in nodes for n in ast.walk(node) if isinstance(n, ast.Constant)]
    return sorted(names | {value for value in constants if isinstance(value, str) and value.isidentifier()})


def _targets(node: ast.AST) -> set[str]:
    """The names that a statement at the top of a module sets, however deep in it."""
    if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        return set()
    stored = (n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store))
    return set(stored)


def _text_of(value: Any) -> str | None:
    """The content of a plain value, None where there is no telling it."""
    match value:
        case None | bool() | int() | float() | complex() | str() | bytes():
            return repr(value)
        case enum.Enum():
            return f"{code_name(type(value))}.{value.name}"
        case re.Pattern():
            return repr((value.pattern, value.flags))
        case Path():
            return repr(str(value))
        case tuple() | list():
            return _joined(value)
        case set() | frozenset():
            return _joined(sorted(value, key=repr))
        case Mapping():
            return _joined([part for item in value.items() for part in item])
    if isinstance(value, type | GenericAlias) or type(value).__module__ == "typing":
        return repr(value)
    if dataclasses.is_dataclass(value):
        fields = _joined([getattr(value, f.name) for f in dataclasses.fields(value)])
        return None if fields is None else f"{code_name(type(value))}{fields}"
    if hasattr(value, "__array__") and hasattr(value, "shape"):
        import numpy as np

        array = np.asarray(value)
        if array.dtype != object:
            return f"{array.dtype}{array.shape}{hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()}"
    return None


def _joined(values: Any) -> str | None:
    texts = [_text_of(v) for v in values]
    return None if None in texts else f"({','.join(map(str, texts))})"
