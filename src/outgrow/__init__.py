"""Outgrow: weak-to-strong generalization, measured honestly.

from outgrow import Grid, sweep
print(sweep(Grid()))  # the default experiment, as a table
"""

import importlib
from typing import TYPE_CHECKING, Any

from outgrow.config import Experiment, Grid, preset
from outgrow.errors import UserError
from outgrow.registry import OneOf, Range, use
from outgrow.runtime import Runtime

if TYPE_CHECKING:
    from outgrow.data import Examples, Features, Labels, Split
    from outgrow.engine.graph import Step, step
    from outgrow.experiment import plan, run, runs, sweep
    from outgrow.labels import label_model, transform
    from outgrow.losses import loss
    from outgrow.strategies import strategy
    from outgrow.supervisors import supervisor
    from outgrow.tasks import task

_WHERE = {
    "data": ("Examples", "Features", "Labels", "Split"),
    "engine.graph": ("Step", "step"),
    "experiment": ("plan", "run", "runs", "sweep"),
    "labels": ("label_model", "transform"),
    "losses": ("loss",),
    "strategies": ("strategy",),
    "supervisors": ("supervisor",),
    "tasks": ("task",),
}
"""The module of each function that comes with its imports at first use, so that importing outgrow costs nothing."""

__all__ = [
    "Examples",
    "Experiment",
    "Features",
    "Grid",
    "Labels",
    "OneOf",
    "Range",
    "Runtime",
    "Split",
    "Step",
    "UserError",
    "label_model",
    "loss",
    "plan",
    "preset",
    "run",
    "runs",
    "step",
    "strategy",
    "supervisor",
    "sweep",
    "task",
    "transform",
    "use",
]


def __getattr__(name: str) -> Any:
    for module, names in _WHERE.items():
        if name in names:
            return getattr(importlib.import_module(f"outgrow.{module}"), name)
    raise AttributeError(f"module 'outgrow' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
