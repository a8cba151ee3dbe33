"""The steps that transform labels, drop rows and join several supervisors; gold is there only if handed over."""

import numpy as np

from outgrow.data import Features, Labels, Split, positions
from outgrow.errors import UserError
from outgrow.graph import step
from outgrow.labels import Given, LabelModel, Transform

__all__ = ["combine", "keep", "relabel"]

_TRANSFER = ("B", "B_val")


@step(version=2)
def relabel(
    labels: Labels,
    split: Split,
    transform: Transform,
    features: Features | None = None,
    view: str | None = None,
    gold: Labels | None = None,
    seed: int | None = None,
) -> Labels:
    """Labels of B and B_val after one transform; T plays no part. What the transform does not need is None."""
    from threadpoolctl import threadpool_limits

    weak = labels.take(split.ids(_TRANSFER))
    matrix = unlabelled = None
    if features is not None:
        assert view is not None
        whole = features.views[view]
        if whole.ndim != 2:
            raise UserError(
                f"{type(transform).__name__} compares examples by one vector each, and a choice has one for each "
                "candidate; take transforms of the labels alone, such as Harden or KeepConfident"
            )
        matrix = whole[positions(weak.ids, features.ids)].astype(np.float64)
        center, scale = matrix.mean(axis=0), matrix.std(axis=0)
        scale = np.where(scale > 1e-6 * max(1.0, float(scale.max(initial=0.0))), scale, 1.0)
        matrix = (matrix - center) / scale
        if "unlabelled" in transform.needs:
            rows = positions(split.ids(("A", "A_val")), features.ids)
            unlabelled = (whole[rows].astype(np.float64) - center) / scale
    with threadpool_limits(limits=1):  # a fixed number of threads: sums in one order, the same bits
        made = transform(weak, Given(features=matrix, unlabelled=unlabelled, gold=gold, seed=seed or 0))
    same = np.isin(made.ids, weak.ids).all() and (transform.drops or len(made) == len(weak))
    assert same, "a transform made up rows, or lost some without saying so"
    return made


@step(version=1)
def keep(split: Split, labels: Labels) -> Split:
    """The split with only those rows of B and B_val that still have a label."""
    parts = dict(split.parts)
    for name in _TRANSFER:
        parts[name] = split.parts[name][np.isin(split.parts[name], labels.ids)]
    if not len(parts["B"]):
        raise UserError(f"no row of B is left to train a student on after {labels.source}; let it keep more")
    return Split(parts=parts)


@step(version=1)
def combine(labels: tuple[Labels, ...], model: LabelModel) -> Labels:
    """One set of labels of several supervisors on the same rows."""
    return model(labels)
