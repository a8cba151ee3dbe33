"""Outgrow: weak-to-strong generalization, measured honestly.

from outgrow import Grid, sweep
print(sweep(Grid()))  # the default experiment, as a table
"""

from typing import TYPE_CHECKING, Any

from outgrow.config import Experiment, Grid, preset
from outgrow.errors import UserError
from outgrow.runtime import Runtime

if TYPE_CHECKING:
    from outgrow.experiment import plan, results, run, sweep

__all__ = ["Experiment", "Grid", "Runtime", "UserError", "plan", "preset", "results", "run", "sweep"]


def __getattr__(name: str) -> Any:
    """Functions come with their imports at first use, so that importing outgrow costs nothing."""
    if name in ("plan", "results", "run", "sweep"):
        from outgrow import experiment

        return getattr(experiment, name)
    raise AttributeError(f"module 'outgrow' has no attribute {name!r}")
