"""Where the numbers of a report come from: command, options, models, versions, licences."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from outgrow.config import Grid, to_yaml
from outgrow.engine.runner import Outcome
from outgrow.engine.store import Store
from outgrow.models.packaged import models_table
from outgrow.tasks import tasks_table

if TYPE_CHECKING:
    import polars as pl

__all__ = ["provenance"]


def provenance(
    table: "pl.DataFrame", store: Store, grids: Sequence[Grid], command: str, outcome: Outcome | None
) -> dict[str, Any]:
    """What a report says about its own making; ``outcome`` is None where nothing was run."""
    record = store.find(table["key"][0])
    used = {*table["weak"], *table["strong"]}
    licences = [(str(m["name"]), str(m["licence"])) for m in models_table() if m["name"] in used]
    names = {task.partition("(")[0] for task in table["task"]}
    licences += [(t["name"], t["licence"]) for t in tasks_table() if t["name"] in names]
    return {
        "command": command,
        "config": to_yaml(*grids) if grids else "",
        "versions": record["versions"],
        "host": record["host"],
        "git": record["git"],
        "seconds": outcome.seconds if outcome else 0.0,
        "steps_run": outcome.ran if outcome else 0,
        "steps_reused": outcome.reused if outcome else 0,
        "licences": licences,
    }
