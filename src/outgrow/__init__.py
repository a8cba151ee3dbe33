"""Outgrow: weak-to-strong generalization, measured honestly.

    from outgrow import Grid, sweep
    print(sweep(Grid()))  # the default experiment, as a table

Run and read:
    Experiment, Grid, preset    what to run: one result, or every combination; a named set of options
    run, sweep, plan            run one experiment; run grids, as a table; say what would run
    runs                        every finished experiment of a store, as a table
    predictions                 what one experiment's models say of every test row
    Runtime, UserError          how and where to run; an error that you can fix, in one line

Add your own, in any file that ``use`` (or ``--use``) loads:
    loss, transform, label_model    a class: a loss; a change of weak labels; many labels into one
    strategy, trainer, supervisor   a class: weak labels to a student; how it is fitted; who labels
    task, model                     a function that loads data; a class that reads it into features
    figure, analysis                a function: a chart, or a table, on every report
    step, Step                      a function whose result is stored; it bound to its arguments
    Trainer                         what a trainer has to offer
    Range, OneOf                    the values that an option may have

Data:
    Examples, Split             rows with ids, gold and groups; which of them are A, B and T
    Labels, Features            class probabilities of rows, whoever made them; vectors of rows
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
    from outgrow.experiment import plan, predictions, run, runs, sweep
    from outgrow.labels import label_model, transform
    from outgrow.losses import loss
    from outgrow.models.base import model
    from outgrow.report.figures import analysis, figure
    from outgrow.strategies import strategy
    from outgrow.strategies.trainers import Trainer, trainer
    from outgrow.supervisors import supervisor
    from outgrow.tasks import task

_WHERE = {
    "data": ("Examples", "Features", "Labels", "Split"),
    "engine.graph": ("Step", "step"),
    "experiment": ("plan", "predictions", "run", "runs", "sweep"),
    "labels": ("label_model", "transform"),
    "losses": ("loss",),
    "models.base": ("model",),
    "report.figures": ("analysis", "figure"),
    "strategies": ("strategy",),
    "strategies.trainers": ("Trainer", "trainer"),
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
    "Trainer",
    "UserError",
    "analysis",
    "figure",
    "label_model",
    "loss",
    "model",
    "plan",
    "predictions",
    "preset",
    "run",
    "runs",
    "step",
    "strategy",
    "supervisor",
    "sweep",
    "task",
    "trainer",
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
