"""Students of a part of B, chosen by what the supervisor's own features know."""

from dataclasses import field, replace
from typing import Annotated, Any

import numpy as np

from outgrow import steps
from outgrow.data import Features, Floats, Ids, Ints, Labels, Split, positions
from outgrow.engine.graph import Step, step
from outgrow.errors import UserError
from outgrow.labels.base import Doubles, highest_of_each
from outgrow.labels.structure import logistic, standardized
from outgrow.losses import Loss, Xent
from outgrow.registry import Range
from outgrow.strategies.base import Naive, Setup, Strategy, strategy
from outgrow.strategies.trainers import FitRequest

__all__ = ["Projected", "Trusted"]

_TRANSFER = ("B", "B_val")


@strategy("trusted")
class Trusted(Strategy):
    """Naive on the rows of B whose weak label a trust function believes, learned from the supervisor's errors on A.

    Trust functions (Uzunoglu, Zhang & Khashabi 2026) say from the supervisor's hidden state whether it is right. A
    supervisor is asked about the rows of A that it did not learn (by folds), so only gold of A is used. Theirs is a
    small network on all rows and keeps the most trusted of B. Ours is an exact logistic regression on the supervisor's
    frozen features for each class that it says, and keeps the same share of each class. A share of 1 is ``naive``.
    """

    version = 1
    source = "Uzunoglu, Zhang & Khashabi 2026 (arXiv 2606.01000), trust functions"
    cost = "the supervisor's training once more for each fold"

    share: Annotated[float, Range(0, 1, above=True)] = 0.5
    """Share of the rows of each weak class that are kept."""
    folds: Annotated[int, Range(2)] = 5
    l2: Annotated[float, Range(0, above=True)] = 0.1
    """Of the trust function, on standardized features."""
    loss: Loss = field(default_factory=Xent)

    def __call__(self, setup: Setup) -> Step:
        learner, own = setup.supervised("trusted")
        if self.share == 1:
            return Naive(loss=self.loss)(setup)
        of_fold = {"gold": own, "split": setup.split, "folds": self.folds, "seed": setup.seed}
        answers = []
        for number in range(self.folds):
            rows = Step(rows_of_other_folds, number=number, **of_fold)
            request = FitRequest(labels=own, split=setup.split, part="A", seed=setup.seed, rows=rows)
            answers.append(learner.predict(learner.fit(request), setup.split, ("A",)))
        held_out = Step(out_of_fold, answers=tuple(answers), **of_fold)
        features, view = learner.features
        given = {"features": features, "view": view, "gold": own, "held_out": held_out, "labels": setup.weak}
        kept = Step(trusted_rows, split=setup.split, share=self.share, l2=self.l2, **given)
        return _student_of(kept, setup, self.loss)


@strategy("projected")
class Projected(Strategy):
    """Naive on the rows whose weak label the supervisor's features cannot explain and the student's can.

    Representation projection of yuxinjinito/w2s-overlap, after the kernels of Xue et al. 2025: with K = X X^T / n of
    centered features and P = K (K + reg tr(K) / n I)^-1, the score of a row is \\|P_s (I - P_w) y\\|, where y are the
    hardened labels less their mean and P_w y is predicted by folds. The rows with the highest scores are kept. Its
    author reports no gain, and neither do we (docs/log.md). A share of 1 is ``naive``.
    """

    version = 1
    source = "yuxinjinito/w2s-overlap, rp; Xue et al. 2025 (arXiv 2502.00620)"
    cost = "two ridge regressions on frozen features"

    share: Annotated[float, Range(0, 1, above=True)] = 0.5
    """Share of all rows that are kept."""
    reg: Annotated[float, Range(0, above=True)] = 0.1
    """Of the kernels' mean eigenvalue; near 0 P explains every label."""
    folds: Annotated[int, Range(2)] = 5
    loss: Loss = field(default_factory=Xent)

    def __call__(self, setup: Setup) -> Step:
        setup.only("projected", "text", "image")
        if setup.supervisor is None:
            raise UserError("projected reads the supervisor's features, and here the supervisor is no model")
        if self.share == 1:
            return Naive(loss=self.loss)(setup)
        features, view = setup.student.features
        weak_features, weak_view = setup.supervisor.features
        given: dict[str, Any] = {"features": features, "view": view, "labels": setup.weak, "split": setup.split}
        given |= {"weak_features": weak_features, "weak_view": weak_view, "seed": setup.seed}
        kept = Step(projected_rows, share=self.share, reg=self.reg, folds=self.folds, **given)
        return _student_of(kept, setup, self.loss)


def _student_of(kept: Step, setup: Setup, loss: Loss) -> Step:
    split = Step(steps.keep, split=setup.split, labels=kept)
    return Naive(loss=loss)(replace(setup, split=split, weak=kept))


# --- their steps ------------------------------------------------------------------------------------------------------


def _fold_of(ids: Ids, folds: int, seed: int, what: str) -> Ints:
    if len(ids) < folds:
        raise UserError(f"{what} has {len(ids)} rows for {folds} folds; use fewer")
    return np.asarray(np.random.default_rng([seed, 4]).permutation(len(ids)) % folds)


@step(version=1, said="leave out a fold")
def rows_of_other_folds(gold: Labels, split: Split, folds: int, number: int, seed: int) -> Labels:
    """The rows of A outside fold ``number``."""
    ids = split.parts["A"]
    return gold.take(ids[_fold_of(ids, folds, seed, "A") != number])


@step(version=1, said="join folds of A")
def out_of_fold(gold: Labels, split: Split, answers: tuple[Labels, ...], folds: int, seed: int) -> Labels:
    """What supervisors say of A, each row by the one that did not learn it."""
    ids = split.parts["A"]
    told = np.stack([a.take(ids).probs for a in answers])
    return Labels(ids=ids, probs=told[_fold_of(ids, folds, seed, "A"), np.arange(len(ids))], source="out of fold")


@step(version=1, said="trust rows")
def trusted_rows(
    features: Features,
    view: str,
    gold: Labels,
    held_out: Labels,
    labels: Labels,
    split: Split,
    share: float,
    l2: float,
) -> Labels:
    """The labels of the rows of B that are most likely right, by a function of the supervisor's features and its class,
    fitted on A; those of B_val stay.

    A choice is read as the chosen candidate's features less the mean of all, and its places are no classes.
    """
    weak = labels.take(split.parts["B"])
    right = (held_out.hard == gold.take(held_out.ids).hard).astype(np.float64)
    known, asked = (_chosen(features, view, of) for of in (held_out, weak))
    known, asked = standardized(known, asked)
    is_choice = features.views[view].ndim == 3
    said, says = (np.zeros(len(of), dtype=np.int64) if is_choice else of.hard for of in (held_out, weak))
    trust = np.full(len(weak), right.mean())
    for c in np.unique(says):
        if (said == c).any():
            of_class = np.stack([1 - right, right], axis=1)[said == c]
            trust[says == c] = logistic(known[said == c], of_class, l2)(asked[says == c])[:, 1]
    kept = weak.ids[highest_of_each(trust, share, says, weak.ids)]
    return labels.take(np.concatenate([kept, split.parts["B_val"]]))


def _chosen(features: Features, view: str, labels: Labels) -> Doubles:
    """(n, d), of choices the candidate that the labels choose."""
    rows = features.views[view][positions(labels.ids, features.ids)].astype(np.float64)
    if rows.ndim == 3:
        rows = rows[np.arange(len(rows)), labels.hard] - rows.mean(axis=1)
    return np.asarray(rows)


@step(version=1, said="project labels")
def projected_rows(
    features: Features,
    view: str,
    weak_features: Features,
    weak_view: str,
    labels: Labels,
    split: Split,
    share: float,
    reg: float,
    folds: int,
    seed: int,
) -> Labels:
    """The labels of the rows of B with the highest scores of :class:`Projected`; those of B_val stay."""
    from threadpoolctl import threadpool_limits

    weak = labels.take(split.parts["B"])
    strong_rows, weak_rows = (
        of.views[name][positions(weak.ids, of.ids)].astype(np.float64)
        for of, name in ((features, view), (weak_features, weak_view))
    )
    place = _fold_of(weak.ids, folds, seed, "B")
    with threadpool_limits(limits=1):  # sums in one order, the same bits
        scores = projection_scores(weak_rows, strong_rows, np.eye(weak.probs.shape[1])[weak.hard], place, reg)
    kept = weak.ids[highest_of_each(scores, share, np.zeros(len(weak), dtype=np.int64), weak.ids)]
    return labels.take(np.concatenate([kept, split.parts["B_val"]]))


def projection_scores(weak: Doubles, strong: Doubles, wanted: Doubles, place: Ints, reg: float) -> Floats:
    """(n,) \\|P_s (I - P_w) y\\| of each row, from features (n, d) of each side, labels (n, C), and folds (n,)."""
    unexplained = wanted - wanted.mean(axis=0)
    said = np.zeros_like(unexplained)
    for fold in np.unique(place):
        here = place == fold
        said[here] = _ridge(weak[~here], unexplained[~here], weak[here], reg)
    return np.asarray(np.linalg.norm(_ridge(strong, unexplained - said, strong, reg), axis=1))


def _ridge(train: Doubles, wanted: Doubles, asked: Doubles, reg: float) -> Doubles:
    """K' (K + reg tr(K) / n I)^-1 ``wanted``, where K is X X^T / n of the centered rows to train on."""
    center, n = train.mean(axis=0), len(train)
    train, asked = train - center, asked - center
    gram = train.T @ train
    penalty = reg * np.trace(gram) / n + 1e-12
    return np.asarray(asked @ np.linalg.solve(gram + penalty * np.eye(len(gram)), train.T @ wanted))
