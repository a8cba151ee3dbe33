"""Steps that change labels: transforms, several supervisors combined, and controls. Gold comes only as an argument."""

import numpy as np

from outgrow.data import Features, Floats, Ints, Labels, Split, positions
from outgrow.engine.graph import step
from outgrow.errors import UserError
from outgrow.labels import LabelModel, Transform, TransformInputs
from outgrow.labels.base import Doubles
from outgrow.labels.structure import clustered, picked_by_component, safe_scale, standardized

__all__ = ["cluster", "combine", "judged_by", "relabel", "shuffle"]

_TRANSFER = ("B", "B_val")


@step(version=2, said="transform labels")
def relabel(
    labels: Labels,
    split: Split,
    transform: Transform,
    features: Features | None = None,
    view: str | None = None,
    gold: Labels | None = None,
    seed: int | None = None,
) -> Labels:
    """Labels of B and B_val after one transform; T plays no part. Leave out what the transform does not need.

    Raises:
        UserError: if it needs one vector for each example and gets choices, or loses or invents rows.
    """
    from threadpoolctl import threadpool_limits

    weak = labels.take(split.ids(_TRANSFER))
    given = {}
    if features is not None:
        assert view is not None
        whole = features.views[view]
        if whole.ndim != 2:
            raise UserError(
                f"{type(transform).__name__} compares examples by one vector each, and a choice has one for each "
                "candidate; use transforms that look at the labels alone, such as Harden or KeepConfident"
            )
        ids = {"features": weak.ids}
        if "unlabelled" in transform.needs:
            ids["unlabelled"] = split.ids(("A", "A_val"))
        rows = [whole[positions(wanted, features.ids)].astype(np.float64) for wanted in ids.values()]
        given = dict(zip(ids, standardized(*rows), strict=True))
    with threadpool_limits(limits=1):  # a fixed number of threads: sums in one order, the same bits
        made = transform(weak, TransformInputs(**given, gold=gold, seed=seed or 0))
    if not np.isin(made.ids, weak.ids).all() or (len(made) != len(weak) and not transform.drops):
        raise UserError(
            f"{type(transform).__name__} returned {len(made)} rows for {len(weak)}; return rows that it was given, and "
            "set drops = True in the class if it leaves some out"
        )
    return made


@step(version=1, said="combine labels")
def combine(labels: tuple[Labels, ...], model: LabelModel) -> Labels:
    """One set of labels from those of several supervisors on the same rows."""
    return model(labels)


@step(version=1, said="take validation labels")
def judged_by(labels: Labels, validation: Labels, split: Split, part: str) -> Labels:
    """The labels of ``part`` that are taught, and of ``<part>_val`` those by which what was learned is judged."""
    taught, judge = labels.take(split.parts[part]), validation.take(split.parts[f"{part}_val"])
    probs = np.concatenate([taught.probs, judge.probs.astype(taught.probs.dtype)])
    source = f"{labels.source}, judged by {validation.source}"
    return Labels(ids=np.concatenate([taught.ids, judge.ids]), probs=probs, source=source)


# --- labels for controls ----------------------------------------------------------------------------------------------


@step(version=1, said="shuffle labels")
def shuffle(labels: Labels, seed: int) -> Labels:
    """The same labels, dealt to the rows at random: all they still tell is how often each class occurs."""
    order = np.random.default_rng(seed).permutation(len(labels))
    return Labels(ids=labels.ids, probs=labels.probs[order], source=f"shuffled {labels.source}")


@step(version=2, said="cluster rows")
def cluster(features: Features, labels: Labels, split: Split, view: str, seed: int) -> Labels:
    """No-label baseline on T: k-means with k = C on the features of B; the weak majority names the clusters.

    The weak labels say only which cluster is which class: log2(C!) bits.

    Choices have no classes to cluster. Their candidates are scored by the first principal component of the features
    minus their mean over the example's candidates (CRC-TPC of Burns et al. 2022, "Discovering latent knowledge",
    appendix). The weak majority says only which end of it is better: 1 bit.
    """
    matrix = features.views[view].astype(np.float64)
    train, test = (matrix[positions(split.parts[p], features.ids)] for p in ("B", "T"))
    weak = labels.take(split.parts["B"])
    find = _by_cluster if matrix.ndim == 2 else _by_contrast
    return Labels.from_classes(split.parts["T"], find(train, test, weak.probs, seed), weak.probs.shape[1], "clusters")


def _by_cluster(train: Doubles, test: Doubles, weak: Floats, seed: int) -> Ints:
    """Classes of ``test`` (m, d) by k-means on ``train`` (n, d), named by the ``weak`` probabilities (n, C)."""
    from scipy.optimize import linear_sum_assignment

    found, of_test = clustered(weak.shape[1], seed, *standardized(train, test))
    votes = np.array([weak[found == k].sum(axis=0) for k in range(weak.shape[1])])
    classes: Ints = linear_sum_assignment(-votes)[1][of_test]
    return classes


def _by_contrast(train: Doubles, test: Doubles, weak: Floats, seed: int) -> Ints:
    """Candidates of ``test`` (m, C, d) by the first principal component of ``train`` (n, C, d) within examples."""
    scale = safe_scale(train, axis=(0, 1))
    within, of_test = ((part - part.mean(axis=1, keepdims=True)) / scale for part in (train, test))
    return picked_by_component(within, of_test, weak)
