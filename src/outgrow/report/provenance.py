"""Where the numbers of a report come from: command, options, models, files of the user's, versions, licences."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from outgrow.config import PRESETS, Grid, read_grid, to_yaml
from outgrow.engine.runner import Outcome
from outgrow.engine.store import Store
from outgrow.errors import UserError, without_secrets
from outgrow.experiment import grid_of_record, open_store
from outgrow.models.packaged import models_table
from outgrow.registry import used_files
from outgrow.report.rows import TableRow
from outgrow.tasks import tasks_table

if TYPE_CHECKING:
    import polars as pl

__all__ = ["fields_named", "provenance", "what_ran"]


def provenance(
    table: "pl.DataFrame",
    store: Store,
    grids: Sequence[Grid],
    command: str,
    outcome: Outcome | None,
    tests: str = "",
) -> dict[str, Any]:
    """What a report says about its own making; ``outcome`` is None where nothing was run, ``tests`` is
    :func:`outgrow.report.scored.how_often_scored`."""
    record = store.find(table["key"][0])
    used = {*table["weak"], *table["strong"]}
    licences = [(str(m["name"]), str(m["licence"])) for m in models_table() if m["name"] in used]
    names = {task.partition("(")[0] for task in table["task"]}
    licences += [(t["name"], t["licence"]) for t in tasks_table() if t["name"] in names]
    return {
        "command": without_secrets(command),
        "config": without_secrets(to_yaml(*grids)) if grids else "",
        "files": {file.path: f"sha256 {file.sha256}" for file in used_files()},
        "versions": record["versions"],
        "host": record["host"],
        "git": record["git"],
        "seconds": outcome.seconds if outcome else 0.0,
        "steps_run": outcome.ran if outcome else 0,
        "steps_reused": outcome.reused if outcome else 0,
        "licences": licences,
        "tests": tests,
    }


def what_ran(rows: Sequence[TableRow], provenance: Mapping[str, Any]) -> dict[str, str]:
    """What made these rows, fact by fact; what is not known is left out."""

    def every(*names: str) -> str:
        return ", ".join(dict.fromkeys(str(r[name]) for r in rows for name in names))

    def pairs(name: str) -> str:
        return ", ".join(f"{k} {v}" for k, v in provenance.get(name, {}).items())

    parts = {"supervisor_rows": "supervisor", "transfer_rows": "transfer", "test_rows": "test"}
    asked = [f"{part} {', '.join(dict.fromkeys(str(r[k] or 'default') for r in rows))}" for k, part in parts.items()]
    steps = {"steps_run": "{} run", "steps_reused": "{} reused", "seconds": "{:.1f} seconds"}
    facts = {
        "Tasks": every("task"),
        "Models": every("weak", "strong"),
        "Strategies": every("strategy"),
        "Training": every("train", "weak_train"),
        "Validated with": ", ".join(dict.fromkeys(r["validate_with"] for r in rows if r.get("validate_with"))),
        "Rows asked for": "; ".join(asked),
        "Test rows per seed": every("num_test_per_seed"),
        "Classes": every("num_classes"),
        "Seeds": every("seeds"),
        "Tests": provenance.get("tests", ""),
        "Steps": ", ".join(text.format(provenance[k]) for k, text in steps.items() if k in provenance),
        "Your files": pairs("files"),
        "Versions": pairs("versions"),
        "Host": pairs("host"),
        "Git": provenance.get("git") or "",
        "Licences": ", ".join(f"{name} ({licence})" for name, licence in provenance.get("licences", [])),
    }
    return {what: text for what, text in facts.items() if text}


def fields_named(value: str, store: str | None) -> Mapping[str, Any]:
    """The fields of a grid that ``--config`` names: a preset, a YAML file, or the key of a result in the store.

    Raises:
        UserError: if it is none of these.
    """
    if value in PRESETS:
        return PRESETS[value]
    if Path(value).exists() or not value.isalnum():
        return read_grid(Path(value))
    try:
        return asdict(grid_of_record(open_store(store).find(value)))
    except UserError as error:
        raise UserError(f"config={value!r} is no file and no preset ({', '.join(PRESETS)}); {error}") from None
