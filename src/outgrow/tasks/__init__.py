"""Tasks: where examples come from, and how they are split."""

from outgrow.tasks import nlp as _nlp
from outgrow.tasks import sentences as _sentences
from outgrow.tasks import sentiment as _sentiment
from outgrow.tasks import table as _table
from outgrow.tasks.registry import TaskSpec, describe, load, task, tasks_table
from outgrow.tasks.splits import Sizes, small_test_warning, split_examples

__all__ = ["Sizes", "TaskSpec", "describe", "load", "small_test_warning", "split_examples", "task", "tasks_table"]
_REGISTERED = (_nlp, _sentences, _sentiment, _table)
"""Importing a module of tasks registers them."""
