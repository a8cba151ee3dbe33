"""Chains of students, each supervised by the one before: bootstrapping and its controls, and self-refinement."""

import hashlib
from collections.abc import Sequence
from dataclasses import field, replace
from typing import Annotated, NamedTuple

import numpy as np

from outgrow.data import Examples, Ids, Ints, Labels, Split, positions
from outgrow.engine.graph import Step, step
from outgrow.errors import UserError
from outgrow.labels import KeepConfident
from outgrow.losses import Loss, Xent
from outgrow.registry import Range
from outgrow.strategies.base import Naive, Setup, Strategy, strategy
from outgrow.strategies.trainers import FitRequest, Learner

__all__ = ["Bootstrap", "Direct", "GoldMatched", "Refine"]

_TRANSFER = ("B", "B_val")
_SHARES_OF_A = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)


@strategy("bootstrap")
class Bootstrap(Strategy):
    """A chain: the supervisor teaches a slightly stronger model, that one the next, the last the student.

    Burns et al. 2023, section 4.3.1: M1 labels for M2, M2 for M3, and so on to the student. For chess every model had
    fresh puzzles; ``fresh`` gives each model an equal share of B, so more models have fewer rows each. Otherwise every
    model is trained on all of B and labels the very rows it was trained on. Models between are trained as the student
    is, and stopped early by the labels they are given. With no models between, it is ``naive``.

    Its direct control is ``naive``, or for fresh shares ``direct(shares=...)`` with as many shares as trained models:
    the supervisor's labels on the rows of the chain's last stage. ``gold-matched`` shows what inherited errors cost.
    """

    version = 1
    writes = True
    source = "Burns et al. 2023 (arXiv 2312.09390), section 4.3.1"
    cost = "one training and one labelling of B more for each model between"

    through: tuple[str, ...] = ()
    """The models between supervisor and student, weak to strong."""
    fresh: bool = False
    """Give each model its own share of B, drawn by the hash of each row's group."""
    loss: Loss = field(default_factory=Xent)

    def __call__(self, setup: Setup) -> Step:
        end = _climb(setup, self.through, self.fresh, self.loss)
        return Naive(loss=self.loss)(replace(setup, split=end.split, weak=end.labels))


@strategy("direct")
class Direct(Strategy):
    """Control of a fresh chain: the supervisor's labels on the same last share of B, with no models between.

    ``direct(shares=3)`` has the rows of the last stage of a fresh ``bootstrap`` through two models. One share is
    ``naive``.
    """

    version = 1
    writes = True
    source = "control of Burns et al. 2023 (arXiv 2312.09390), section 4.3.1"
    cost = "one training"

    shares: Annotated[int, Range(1)] = 1
    """How many shares B is cut into; the last one is used."""
    loss: Loss = field(default_factory=Xent)

    def __call__(self, setup: Setup) -> Step:
        return Naive(loss=self.loss)(replace(setup, split=_share(setup, self.shares, self.shares - 1)))


@strategy("gold-matched")
class GoldMatched(Strategy):
    """Control of a chain: its last supervisor is replaced by the same model, equally accurate, that learned from gold.

    A student may be good because its last supervisor is accurate, or bad because errors were handed down the chain.
    Here the last model between is trained on gold of A, on six shares from 1/32 to all of its rows. Of the six, the one
    whose accuracy on A_val is nearest to the chain's labels for the student: it is as accurate, but its errors are its
    own. The accuracies are compared on the supervisor's held-out rows, so no gold of B or T is used; the six are
    stopped early on those rows, which flatters them a little. This is our own construction; Falcontwirl's replication
    has a control of the same name, and we do not know how it was made.
    """

    version = 1
    source = "control; after Falcontwirl/weak-to-strong-generalization-replication, our construction"
    cost = "the chain without its student, and seven trainings"

    through: tuple[str, ...] = ()
    """The models of the chain that it is a control for; at least one."""
    fresh: bool = False
    """As in ``bootstrap``."""
    loss: Loss = field(default_factory=Xent)

    def __call__(self, setup: Setup) -> Step:
        if not self.through:
            raise UserError("gold-matched replaces the last model of a chain; name the chain's models: through=(...)")
        _, own = setup.supervised("gold-matched")
        end = _climb(setup, self.through, self.fresh, self.loss)
        assert end.model is not None
        assert end.fitted is not None
        on_b, on_a = [], []
        for share in _SHARES_OF_A:
            some = setup.split if share == 1 else Step(some_of_a, split=setup.split, share=share, seed=setup.seed)
            taught = end.model.fit(FitRequest(labels=own, split=some, part="A", seed=setup.seed))
            on_b.append(end.model.predict(taught, end.split, _TRANSFER))
            on_a.append(end.model.predict(taught, end.split, ("A_val",)))
        chained = end.model.predict(end.fitted, end.split, ("A_val",))
        labels = Step(as_accurate, gold=own, wanted=chained, held_out=tuple(on_a), offered=tuple(on_b))
        return Naive(loss=self.loss)(replace(setup, split=end.split, weak=labels))


@strategy("refine")
class Refine(Strategy):
    """The student relabels B for a fresh copy of itself, round after round; zero rounds is ``naive``.

    Born-again networks (Furlanello et al. 2018, eq. 3); EleutherAI's strong-to-strong training, in which two rounds
    gave no consistent gain.
    """

    version = 1
    writes = True
    source = "Furlanello et al. 2018 (arXiv 1805.04770); EleutherAI/w2s, strong to strong"
    cost = "one training and one labelling of B more for each round"

    rounds: Annotated[int, Range(0)] = 1
    keep: Annotated[float, Range(0, 1, above=True)] = 1.0
    """Share of each class's rows that the next student is trained on: the most confident ones."""
    loss: Loss = field(default_factory=Xent)

    def __call__(self, setup: Setup) -> Step:
        used = setup
        for _ in range(self.rounds):
            said = setup.predict(used.fit(self.loss), _TRANSFER)
            used = replace(setup, weak=said)
            if self.keep < 1:
                used = used.transformed(KeepConfident(share=self.keep))
        return setup.predict(used.fit(self.loss))


class _End(NamedTuple):
    """Where a chain stands when it is the student's turn."""

    labels: Step
    split: Step
    model: Learner | None
    """The last model between; None if there is none."""
    fitted: Step | None


def _climb(setup: Setup, through: Sequence[str], fresh: bool, loss: Loss) -> _End:
    learners = [setup.student.for_model(name) for name in through]
    num_shares = len(learners) + 1 if fresh else 1
    splits = [_share(setup, num_shares, i if fresh else 0) for i in range(len(learners) + 1)]
    end = _End(setup.weak, splits[0], None, None)
    for learner, here, following in zip(learners, splits, splits[1:], strict=False):
        request = FitRequest(labels=end.labels, split=here, part="B", loss=loss, seed=setup.seed)
        fitted = learner.fit(request)
        end = _End(learner.predict(fitted, following, _TRANSFER), following, learner, fitted)
    return end


def _share(setup: Setup, shares: int, number: int) -> Step:
    if shares == 1:
        return setup.split
    return Step(share_of_b, texts=setup.student.texts, split=setup.split, shares=shares, number=number)


# --- their steps ------------------------------------------------------------------------------------------------------


@step(version=1)
def share_of_b(texts: Examples, split: Split, shares: int, number: int) -> Split:
    """The split with B and B_val replaced by their share ``number`` (from 0); related rows stay together.

    Groups are sorted by their sha256, and that order is cut into runs with numbers of rows as equal as groups allow.
    """
    parts = dict(split.parts)
    for name in _TRANSFER:
        ids = split.parts[name]
        parts[name] = ids[_shares(texts.groups[positions(ids, texts.ids)], shares) == number]
    if not len(parts["B"]):
        raise UserError(f"B has too few groups of rows for {shares} fresh shares; use fewer models, or fresh=False")
    return replace(split, parts=parts)


def _shares(groups: Ids, shares: int) -> Ints:
    """(n,) The share of each row: the one that the middle of its group's rows falls into."""
    names, group, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    hashed = [hashlib.sha256(str(name).encode()).digest() for name in names]
    order = sorted(range(len(names)), key=lambda i: hashed[i])
    middle = np.empty(len(names))
    middle[order] = np.cumsum(sizes[order]) - sizes[order] / 2
    return np.asarray((middle * shares / max(1, len(groups))).astype(np.int64)[group])


@step(version=1)
def some_of_a(split: Split, share: float, seed: int) -> Split:
    """The split with a random share of A; with the same seed, a smaller share lies within a larger one."""
    ids = split.parts["A"]
    drawn = np.sort(np.random.default_rng(seed).permutation(len(ids))[: max(2, round(share * len(ids)))])
    return replace(split, parts={**split.parts, "A": ids[drawn]})


@step(version=1)
def as_accurate(gold: Labels, wanted: Labels, held_out: tuple[Labels, ...], offered: tuple[Labels, ...]) -> Labels:
    """Of the ``offered`` labels, those whose model's accuracy on ``held_out`` rows is nearest to that of ``wanted``.

    A tie goes to the first.
    """

    def accuracy(labels: Labels) -> float:
        return float((labels.hard == gold.take(labels.ids).hard).mean())

    if not len(wanted):
        raise UserError("gold-matched compares accuracies on held-out rows of A, and there are none; hold some out")
    distances = [abs(accuracy(given) - accuracy(wanted)) for given in held_out]
    return offered[int(np.argmin(distances))]
