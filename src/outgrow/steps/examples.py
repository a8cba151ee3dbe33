"""Steps of examples: load a task, split it, read gold and weak labels from it.

Gold reaches a step only through :func:`gold` (and the class balance that :func:`split` keeps); everything a student is
made of is derived from ``texts``, ``split`` and labels of a supervisor. A test walks every strategy's graph for it.
"""

from dataclasses import replace

import numpy as np

from outgrow.data import Examples, Labels, Split
from outgrow.engine.graph import step
from outgrow.errors import UserError
from outgrow.runtime import Runtime
from outgrow.tasks import Sizes, TaskSpec, seal_examples, split_examples
from outgrow.tasks import load as load_task

__all__ = [
    "gold",
    "keep",
    "keep_judged",
    "load",
    "open_sealed",
    "pooled",
    "seal",
    "second_column",
    "split",
    "split_unsealed",
    "texts",
    "weak_column",
]

_TRANSFER = ("B", "B_val")


@step(version=1, said="load tasks")
def load(task: TaskSpec, runtime: Runtime) -> Examples:
    """The task's whole pool of examples, gold included."""
    return load_task(task, runtime)


@step(version=1, said="take texts")
def texts(pool: Examples) -> Examples:
    """The pool with nothing left that tells the truth."""
    return pool.without_gold()


@step(version=2, said="split rows")
def split(pool: Examples, sizes: Sizes, seed: int) -> Split:
    """Who trains the supervisor, who is labelled by it, who is the test."""
    return split_examples(pool, sizes, seed)


@step(version=1, said="hold back sealed tests")
def seal(pool: Examples, balance: bool) -> Split:
    """A second test ``S``, and the ``rest`` of the pool."""
    return seal_examples(pool, balance)


@step(version=1, said="split rows")
def split_unsealed(pool: Examples, sealed: Split, sizes: Sizes, seed: int) -> Split:
    """:func:`split` of what is not sealed."""
    found = split_examples(pool.take(sealed.parts["rest"]), sizes, seed)
    held = len(sealed.parts["S"]) + sealed.left_out.get("sealed", 0)
    return replace(found, left_out={**found.left_out, "sealed": held})


@step(version=1, said="open sealed tests")
def open_sealed(split: Split, sealed: Split) -> Split:
    """The split with the sealed test in place of T."""
    left_out = {**split.left_out, "open": len(split.parts["T"]), "sealed": sealed.left_out.get("sealed", 0)}
    return Split(parts={**split.parts, "T": sealed.parts["S"]}, left_out={k: n for k, n in left_out.items() if n})


@step(version=1, said="take gold labels")
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
            "trained on them and no gold bought; run with ceiling=False, and without oracle and MixGold"
        )
    return Labels.from_classes(chosen.ids, chosen.gold, pool.num_classes, "gold")


@step(version=2, said="take weak labels")
def weak_column(pool: Examples, split: Split, parts: tuple[str, ...]) -> Labels:
    """The user's own weak labels, from a column of the table, on the rows of some parts that have one.

    Only rows with a label are in B, see :class:`outgrow.tasks.Sizes`. Rows of T may lack one: they are left out here,
    and their number is said where the others are scored.
    """
    return _labels_of("weak", pool.take(split.ids(parts)))


@step(version=1, said="take second labels")
def second_column(pool: Examples, split: Split, parts: tuple[str, ...]) -> Labels:
    """:func:`weak_column` of the column ``second``."""
    return _labels_of("second", pool.take(split.ids(parts)))


def _labels_of(role: str, chosen: Examples) -> Labels:
    columns = [chosen.meta.get(f"{role}.{c}") for c in range(chosen.num_classes)]
    if any(c is None for c in columns):
        raise UserError(f"the task has no {role} labels of its own; name their column: table(..., {role}='column')")
    probs = np.stack([np.asarray(c, dtype=np.float32) for c in columns], axis=1)
    given = ~np.isnan(probs).any(axis=1)
    return Labels(ids=chosen.ids[given], probs=probs[given], source=f"{role} column")


@step(version=1, said="join folds")
def pooled(labels: tuple[Labels, ...], splits: tuple[Split, ...]) -> Labels:
    """Labels of the tests of several splits as one: what each fold's own student says of its own rows."""
    kept = [of.take(ids[np.isin(ids, of.ids)]) for of, s in zip(labels, splits, strict=True) for ids in [s.parts["T"]]]
    ids, probs = (np.concatenate(arrays) for arrays in zip(*((k.ids, k.probs) for k in kept), strict=True))
    return Labels(ids=ids, probs=probs, source=labels[0].source)


@step(version=1, said="drop rows")
def keep(split: Split, labels: Labels) -> Split:
    """The split with only those rows of B and B_val that still have a label."""
    parts = dict(split.parts)
    for name in _TRANSFER:
        parts[name] = split.parts[name][np.isin(split.parts[name], labels.ids)]
    if not len(parts["B"]):
        raise UserError(f"no row of B is left to train a student on after {labels.source}; let it keep more")
    return replace(split, parts=parts)


@step(version=1, said="drop rows")
def keep_judged(split: Split, validation: Labels) -> Split:
    """The split with only those rows of B_val that whoever validates has labelled; the others are counted."""
    there = np.isin(split.parts["B_val"], validation.ids)
    if not there.any():
        raise UserError("no held-out row of B has a label to validate with; fill the column in, or hold out more rows")
    left_out = dict(split.left_out) if there.all() else {**split.left_out, "unjudged": int((~there).sum())}
    return replace(split, parts={**split.parts, "B_val": split.parts["B_val"][there]}, left_out=left_out)
