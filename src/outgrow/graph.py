"""Steps: plain functions with their arguments, identified by the hash of both.

Knows no machine learning. A step's key depends on what was asked for, never on where or how fast it runs
(:class:`outgrow.runner.Runtime` is handed over separately and cannot be hashed).
"""

import dataclasses
import hashlib
import inspect
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any, TypeVar

__all__ = ["Step", "StepFunction", "canonical", "in_order", "step"]

F = TypeVar("F", bound=Callable[..., Any])


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepFunction:
    """What the runner knows of a function that was marked with :func:`step`."""

    name: str
    version: int
    signature: inspect.Signature
    many: Callable[..., list[Any]] | None
    together: tuple[str, ...]
    """Arguments that must be equal for several steps to be run in one call of ``many``."""

    @property
    def takes_runtime(self) -> bool:
        """Whether it is told device, batching and where to report progress: the mark of a step that takes long."""
        return "runtime" in self.signature.parameters


_FUNCTIONS: dict[Callable[..., Any], StepFunction] = {}


def step(
    *, version: int, many: Callable[..., list[Any]] | None = None, together: tuple[str, ...] = ()
) -> Callable[[F], F]:
    """Mark a plain function as a step; it stays callable as it is.

    Args:
        version: bump it by hand whenever the function's result changes for the same arguments.
        many: a function taking a list of argument dictionaries and returning one result for each, in order.
        together: names of the arguments that all steps of one ``many`` call share.
    """

    def mark(fn: F) -> F:
        signature = inspect.signature(fn)
        _FUNCTIONS[fn] = StepFunction(
            name=fn.__name__, version=version, signature=signature, many=many, together=together
        )
        return fn

    return mark


class Step:
    """A function bound to its arguments, some of which may be other steps.

    Binding happens here, so a wrong argument name is a ``TypeError`` at plan time. A parameter called ``runtime``
    is filled in by the runner and is not part of the identity.
    """

    def __init__(self, fn: Callable[..., Any], **args: Any) -> None:
        """Bind ``fn`` (marked with :func:`step`) to keyword arguments."""
        self.fn = fn
        self.function = _FUNCTIONS[fn]
        signature = self.function.signature
        hidden = {name: None for name in signature.parameters if name == "runtime"}
        if "runtime" in args:
            raise TypeError("runtime is handed over by the runner and is no argument of a step")
        bound = signature.bind(**args, **hidden)
        bound.apply_defaults()
        self.args: dict[str, Any] = {k: v for k, v in bound.arguments.items() if k not in hidden}
        # Made here and not when first asked for: inputs have theirs already, so no chain of steps is too long.
        self.canonical_args = json.dumps(
            canonical(self.args), sort_keys=True, separators=(",", ":"), ensure_ascii=False
        )
        """The arguments as canonical JSON, input steps replaced by their keys."""
        head = json.dumps([self.function.name, self.function.version])
        self.key = hashlib.sha256(f"{head}{self.canonical_args}".encode()).hexdigest()
        """sha256 over function name, function version and canonical arguments."""
        self.note: dict[str, Any] | None = None
        """Kept in the record for the reader, such as the experiment behind a result; no part of the identity."""

    @cached_property
    def inputs(self) -> tuple["Step", ...]:
        """The steps this one needs, each once, in the order of the arguments."""
        return tuple({s.key: s for s in _steps_in(self.args)}.values())

    def __repr__(self) -> str:
        return f"{self.function.name}/{self.key[:12]}"


def canonical(value: Any) -> Any:
    """``value`` as plain JSON, one form for one meaning.

    Dataclasses become their class name and fields; steps become their keys; tuples and lists are the same.

    Raises:
        TypeError: for anything that has no such form, for NaN and infinity, and for a step inside a dataclass.
    """
    match value:
        case Step():
            return {"$step": value.key}
        case None | bool() | int() | str():
            return value
        case float():
            if not math.isfinite(value):
                raise TypeError(f"{value} has no canonical form")
            return int(value) if value.is_integer() and abs(value) < 2**53 else value
        case tuple() | list():
            return [canonical(v) for v in value]
        case Mapping():
            if not all(isinstance(k, str) and not k.startswith("$") for k in value):
                raise TypeError("mappings in arguments must have text keys that do not start with $")
            return {k: canonical(v) for k, v in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if f.compare}
        if any(_steps_in(fields)):
            raise TypeError(f"a {type(value).__name__} cannot hold steps; hand them over as arguments of their own")
        fields = {k: canonical(v) for k, v in fields.items()}
        return {"$class": type(value).__name__, **fields}
    raise TypeError(f"{type(value).__name__} cannot be an argument of a step")


def in_order(targets: Iterable[Step], is_done: Callable[[Step], bool] = lambda _: False) -> list[Step]:
    """Every step needed for ``targets``, inputs first, each once; what lies behind a finished step is left out."""
    ordered: dict[str, Step] = {}
    stack: list[tuple[Step, bool]] = [(t, False) for t in reversed(list(targets))]
    finished: dict[str, bool] = {}
    while stack:  # a stack, not recursion: chains of thousands of steps are legal
        current, inputs_placed = stack.pop()
        if current.key in ordered:
            continue
        if current.key not in finished:
            finished[current.key] = is_done(current)
        if inputs_placed or finished[current.key]:
            ordered[current.key] = current
        else:
            stack.append((current, True))
            stack.extend((s, False) for s in reversed(current.inputs) if s.key not in ordered)
    return list(ordered.values())


def _steps_in(value: Any) -> Iterator[Step]:
    match value:
        case Step():
            yield value
        case tuple() | list():
            for v in value:
                yield from _steps_in(v)
        case Mapping():
            for v in value.values():
                yield from _steps_in(v)
