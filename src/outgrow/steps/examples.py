"""Steps of examples: load a task, split it, read gold and weak labels from it.

Gold reaches a step only through :func:`gold` (and the class balance that :func:`split` keeps); everything a student is
made of is derived from ``texts``, ``split`` and labels of a supervisor. A test walks every strategy's graph for it.
"""

import numpy as np

from outgrow.data import Examples, Labels, Split
from outgrow.engine.graph import step
from outgrow.errors import UserError
from outgrow.runtime import Runtime
from outgrow.tasks import Sizes, TaskSpec, split_examples
from outgrow.tasks import load as load_task

__all__ = ["gold", "keep", "load", "split", "texts", "weak_column"]

_TRANSFER = ("B", "B_val")


@step(version=1)
def load(task: TaskSpec, runtime: Runtime) -> Examples:
    """The task's whole pool of examples, gold included."""
    return load_task(task, runtime)


@step(version=1)
def texts(pool: Examples) -> Examples:
    """The pool with nothing left that tells the truth."""
    return pool.without_gold()


@step(version=1)
def split(pool: Examples, sizes: Sizes, seed: int) -> Split:
    """Who trains the supervisor, who is labelled by it, who is the test."""
    return split_examples(pool, sizes, seed)


@step(version=1)
def gold(pool: Examples, split: Split, parts: tuple[str, ...]) -> Labels:
    """The truth on some parts, as certain labels."""
    chosen = pool.take(split.ids(parts))
    assert chosen.gold is not None
    if not len(chosen):
        raise UserError(
            f"part {parts[0]} has no rows to train a supervisor on: the column split names none; give rows to "
            f"{parts[0]}, or take weak labels of your own with weak='labels'"
        )
    if unknown := int((chosen.gold < 0).sum()):
        raise UserError(
            f"{unknown} of {len(chosen)} rows of {' and '.join(parts)} have no gold label, so no ceiling can be "
            "trained on them and no gold bought; run with ceiling=False, and without MixGold"
        )
    return Labels.from_classes(chosen.ids, chosen.gold, pool.num_classes, "gold")


@step(version=1)
def weak_column(pool: Examples, split: Split, parts: tuple[str, ...]) -> Labels:
    """The user's own weak labels, from a column of the table."""
    chosen = pool.take(split.ids(parts))
    columns = [chosen.meta.get(f"weak.{c}") for c in range(pool.num_classes)]
    if any(c is None for c in columns):
        raise UserError("the task has no weak labels of its own; name their column: table(..., weak='column')")
    probs = np.stack([np.asarray(c, dtype=np.float32) for c in columns], axis=1)
    if missing := int(np.isnan(probs).any(axis=1).sum()):
        first = chosen.ids[np.isnan(probs).any(axis=1)][0]
        raise UserError(f"{missing} rows of {', '.join(parts)} have no weak label, the first is {str(first)!r}")
    return Labels(ids=chosen.ids, probs=probs, source="weak column")


@step(version=1)
def keep(split: Split, labels: Labels) -> Split:
    """The split with only those rows of B and B_val that still have a label."""
    parts = dict(split.parts)
    for name in _TRANSFER:
        parts[name] = split.parts[name][np.isin(split.parts[name], labels.ids)]
    if not len(parts["B"]):
        raise UserError(f"no row of B is left to train a student on after {labels.source}; let it keep more")
    return Split(parts=parts)
