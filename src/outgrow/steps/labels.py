"""Steps that change labels: transforms, several supervisors joined, and the controls. Gold only if handed over."""

import numpy as np

from outgrow.data import Features, Floats, Ints, Labels, Split, hardened, positions
from outgrow.engine.graph import step
from outgrow.errors import UserError
from outgrow.labels import LabelModel, Transform, TransformInputs

__all__ = ["cluster", "combine", "relabel", "shuffle"]

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
        made = transform(weak, TransformInputs(features=matrix, unlabelled=unlabelled, gold=gold, seed=seed or 0))
    same = np.isin(made.ids, weak.ids).all() and (transform.drops or len(made) == len(weak))
    assert same, "a transform made up rows, or lost some without saying so"
    return made


@step(version=1)
def combine(labels: tuple[Labels, ...], model: LabelModel) -> Labels:
    """One set of labels of several supervisors on the same rows."""
    return model(labels)


# --- labels for controls ----------------------------------------------------------------------------------------------


@step(version=1)
def shuffle(labels: Labels, seed: int) -> Labels:
    """The same labels dealt to other rows at random: all that is left of them is how often each class occurs."""
    order = np.random.default_rng(seed).permutation(len(labels))
    return Labels(ids=labels.ids, probs=labels.probs[order], source=f"shuffled {labels.source}")


@step(version=1)
def cluster(features: Features, labels: Labels, split: Split, view: str, seed: int) -> Labels:
    """No-label baseline on T: k-means with k = C on the features of B, clusters named by the weak majority.

    The weak labels say only which cluster is which class: log2(C!) bits.

    Choices have no classes to cluster. There, what differs most between candidates of one example scores them: the
    first principal component of the features minus their mean over the example's candidates (the CRC-TPC of Burns et
    al. 2022, "Discovering latent knowledge", appendix), the weak majority saying only which end of it is better: 1 bit.
    """
    from threadpoolctl import threadpool_limits

    from outgrow.data import positions

    matrix = features.views[view].astype(np.float64)
    train, test = (matrix[positions(split.parts[p], features.ids)] for p in ("B", "T"))
    weak = labels.take(split.parts["B"])
    with threadpool_limits(limits=1):  # a fixed number of threads: sums in one order, the same bits
        found = _clusters(train, test, weak.probs, seed) if matrix.ndim == 2 else _contrast(train, test, weak.probs)
    return Labels.from_classes(split.parts["T"], found, weak.probs.shape[1], "clusters")


def _clusters(train: Floats, test: Floats, weak: Floats, seed: int) -> Ints:
    """Classes of ``test`` (m, d) by k-means on ``train`` (n, d), named by the ``weak`` probabilities (n, C)."""
    from scipy.optimize import linear_sum_assignment
    from sklearn.cluster import KMeans

    center, scale = train.mean(axis=0), np.maximum(train.std(axis=0), 1e-9)
    means = KMeans(weak.shape[1], n_init=4, random_state=seed)
    found = means.fit_predict((train - center) / scale)
    votes = np.array([weak[found == k].sum(axis=0) for k in range(weak.shape[1])])
    _, names = linear_sum_assignment(-votes)
    classes: Ints = names[means.predict((test - center) / scale)]
    return classes


def _contrast(train: Floats, test: Floats, weak: Floats) -> Ints:
    """Candidates of ``test`` (m, C, d) taken by the first principal component of ``train`` (n, C, d) within examples,
    its sign by the ``weak`` probabilities (n, C)."""
    scale = np.maximum(train.std(axis=(0, 1)), 1e-9)
    within, of_test = ((part - part.mean(axis=1, keepdims=True)) / scale for part in (train, test))
    flat = within.reshape(-1, within.shape[-1])
    direction = np.linalg.eigh(flat.T @ flat)[1][:, -1]
    rows = np.arange(len(weak))
    up, down = (weak[rows, hardened(sign * (within @ direction))].sum() for sign in (1, -1))
    return hardened((of_test @ direction) * (1 if up >= down else -1))
