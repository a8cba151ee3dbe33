"""Tasks: where examples come from, and how they are split."""

from outgrow.tasks import catalogue as _catalogue
from outgrow.tasks import table as _table
from outgrow.tasks.registry import (
    TASKS,
    TaskSpec,
    describe,
    limited,
    load,
    question_of,
    task,
    tasks_table,
    where_from,
)
from outgrow.tasks.splits import LEFT_OUT, Sizes, split_examples

__all__ = [
    "LEFT_OUT",
    "TASKS",
    "Sizes",
    "TaskSpec",
    "describe",
    "limited",
    "load",
    "question_of",
    "split_examples",
    "task",
    "tasks_table",
    "where_from",
]
_REGISTERED = (_catalogue, _table)
"""Importing a module of tasks registers them."""
