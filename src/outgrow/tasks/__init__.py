"""Tasks: where examples come from, and how they are split."""

from outgrow.tasks import chess_puzzles as _chess_puzzles
from outgrow.tasks import nlp as _nlp
from outgrow.tasks import preference as _preference
from outgrow.tasks import sentences as _sentences
from outgrow.tasks import sentiment as _sentiment
from outgrow.tasks import synthetic as _synthetic
from outgrow.tasks import table as _table
from outgrow.tasks import topics as _topics
from outgrow.tasks import vision as _vision
from outgrow.tasks.registry import TaskSpec, describe, limited, load, task, tasks_table, where_from
from outgrow.tasks.splits import Sizes, small_test_warning, split_examples

__all__ = [
    "Sizes",
    "TaskSpec",
    "describe",
    "limited",
    "load",
    "small_test_warning",
    "split_examples",
    "task",
    "tasks_table",
    "where_from",
]
_REGISTERED = (_chess_puzzles, _nlp, _preference, _sentences, _sentiment, _synthetic, _table, _topics, _vision)
"""Importing a module of tasks registers them."""
