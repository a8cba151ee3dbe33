"""Several supervisors for one student: the same weak model with other seeds or rows, or other weak models.

All are trained on the supervisor's own gold of A, and the first is always the supervisor itself, so an ensemble of one
is ``naive`` to the last bit. The weak accuracy of a result stays that of the supervisor alone: what an ensemble of
supervisors gains counts as gain, whether or not the student contributes to it.
"""

from collections.abc import Sequence
from dataclasses import field, replace
from typing import Annotated

import numpy as np

from outgrow import steps
from outgrow.data import Features, Floats, Ints, Labels, Split, positions
from outgrow.engine.graph import Step, step
from outgrow.errors import UserError
from outgrow.labels import LabelModel, MeanVote
from outgrow.labels.structure import clustered, standardized
from outgrow.losses import Loss, Xent
from outgrow.registry import OneOf, Range
from outgrow.strategies.base import Naive, Setup, Strategy, strategy
from outgrow.strategies.trainers import TRAINERS, FitRequest, Learner

__all__ = ["Boosted", "CoSupervised", "Ensemble", "Raven", "samme"]

_PARTS = ("B", "B_val", "T")
_TRANSFER = ("B", "B_val")
_Kind = Annotated[str, OneOf("bagging", "seeds")]


@strategy("ensemble")
class Ensemble(Strategy):
    """Train on the joint labels of several supervisors: the baseline that boosting and learned weights must beat.

    Bagging (Breiman 1996) trains every member but the first on as many rows as A has, drawn with replacement.
    """

    version = 1
    source = "Breiman 1996 (bagging); baseline of arXiv 2410.04571 and arXiv 2510.21332"
    cost = "one supervisor's training for each further member"

    size: Annotated[int, Range(1)] = 5
    """How many supervisors of the weak model there are, including the supervisor itself."""
    kind: _Kind = "bagging"
    """What makes them different: ``bagging`` or ``seeds``."""
    models: tuple[str, ...] = ()
    """Other weak models, trained as the supervisor is."""
    by: LabelModel = field(default_factory=MeanVote)
    """Combines their labels: ``MeanVote`` or ``DawidSkene``."""
    loss: Loss = field(default_factory=Xent)

    def __call__(self, setup: Setup) -> Step:
        votes = _votes(setup, self.size, self.kind, self.models, "ensemble")
        joint = votes[0] if len(votes) == 1 else Step(steps.combine, labels=votes, model=self.by)
        return Naive(loss=self.loss)(replace(setup, weak=joint))


@strategy("boosted")
class Boosted(Strategy):
    """AdaBoost of supervisors: each one sees more of the rows of A that those before it got wrong.

    EnsemW2S (Agrawal et al. 2024), with SAMME (Zhu et al. 2009, algorithm 2) for any number of classes: with e the
    weighted error, alpha = log((1 - e) / e) + log(C - 1), and the weights of wrong rows are multiplied by exp(alpha).
    Our learners take no weights, so members are trained on as many rows as A has, drawn with these weights. e is
    measured on A itself, so a supervisor that fits every row of A leaves nothing to boost. A member no better than
    chance gets no vote and changes no weight. The student's labels are the members' probabilities, averaged with the
    weights alpha.
    """

    version = 1
    source = "EnsemW2S, Agrawal et al. 2024 (arXiv 2410.04571); Zhu et al. 2009 (SAMME), algorithm 2"
    cost = "one supervisor's training for each further member, one after the other"

    size: Annotated[int, Range(1)] = 5
    """How many supervisors there are, including the supervisor itself."""
    hard: bool = False
    """Members vote with their class, as in SAMME, instead of their probabilities."""
    loss: Loss = field(default_factory=Xent)

    def __call__(self, setup: Setup) -> Step:
        learner, own = setup.supervised("boosted")
        if self.size == 1 and not self.hard:
            return Naive(loss=self.loss)(setup)
        fitted = _taught(learner, own, setup)
        on_a, votes = [learner.predict(fitted, setup.split, ("A",))], [setup.weak]
        for number in range(1, self.size):
            given = {"gold": own, "split": setup.split, "answers": tuple(on_a), "seed": _seed(setup, number)}
            fitted = _taught(learner, own, setup, number, Step(draw_hard, **given))
            on_a.append(learner.predict(fitted, setup.split, ("A",)))
            votes.append(learner.predict(fitted, setup.split, _PARTS))
        given = {"gold": own, "answers": tuple(on_a), "votes": tuple(votes), "hard": self.hard}
        return Naive(loss=self.loss)(replace(setup, weak=Step(boost, **given)))


@strategy("co-supervised")
class CoSupervised(Strategy):
    """Specialists share the work: each row of B is labeled by the one that the previous student agrees with most.

    Liu & Alahi 2024: x goes to the specialist k with the least CE(f(x), w_k(x)), and stays if specialist and student
    name the same class. We leave out their further check of local against global labels. Their specialists come from
    given domains; ours are supervisors trained on the gold of one cluster each (k-means of A in the supervisor's
    features). The first student has the supervisor's own labels; zero rounds is ``naive``.
    """

    version = 1
    source = "Liu & Alahi 2024 (arXiv 2402.15505), without the local-global check"
    cost = "k-means, a supervisor's training for each specialist, a student for each round"

    size: Annotated[int, Range(1)] = 3
    """How many specialists there are."""
    rounds: Annotated[int, Range(0)] = 1
    consistent: bool = True
    """Leave out rows where specialist and student name different classes."""
    loss: Loss = field(default_factory=Xent)

    def __call__(self, setup: Setup) -> Step:
        learner, own = setup.supervised("co-supervised")
        if self.rounds == 0:
            return Naive(loss=self.loss)(setup)
        features, view = learner.features
        shared = {"features": features, "gold": own, "split": setup.split, "view": view, "size": self.size}
        rows = [Step(cluster_of_a, **shared, number=k, seed=setup.seed) for k in range(self.size)]
        taught = [_taught(learner, own, setup, k, part) for k, part in enumerate(rows)]
        votes = tuple(learner.predict(fitted, setup.split, _TRANSFER) for fitted in taught)
        used = setup
        for _ in range(self.rounds):
            said = setup.predict(used.fit(self.loss), _TRANSFER)
            labels = Step(assign, student=said, votes=votes, consistent=self.consistent)
            split = Step(steps.keep, split=setup.split, labels=labels) if self.consistent else setup.split
            used = replace(setup, weak=labels, split=split)
        return setup.predict(used.fit(self.loss))


@strategy("raven")
class Raven(Strategy):
    """Learned trust: supervisors count by how well the student, taught first where they all agree, agrees with them.

    RAVEN (2025): the student's loss is CE(f, sum_m pi_m w_m), and pi is learned with the student after a start on easy
    rows. In the paper pi follows the gradient in the same training. Here student and pi take turns, so any learner can
    be used: for a student f, pi = softmax(-mean CE(f, w_m) / temperature), the minimum over pi of the paper's loss plus
    temperature times KL(pi || uniform); then a fresh student learns all rows with that pi. Zero rounds is the mean of
    ``ensemble``, and so is a very high temperature.
    """

    version = 1
    source = "RAVEN, 2025 (arXiv 2510.21332), alternating in place of joint"
    cost = "as ensemble, and one more student for each round"

    size: Annotated[int, Range(1)] = 5
    kind: _Kind = "bagging"
    models: tuple[str, ...] = ()
    """As in ``ensemble``."""
    rounds: Annotated[int, Range(0)] = 1
    temperature: Annotated[float, Range(0, above=True)] = 0.05
    """In nats of cross-entropy."""
    loss: Loss = field(default_factory=Xent)

    def __call__(self, setup: Setup) -> Step:
        votes = _votes(setup, self.size, self.kind, self.models, "raven")
        if self.rounds == 0 or len(votes) == 1:
            joint = votes[0] if len(votes) == 1 else Step(steps.combine, labels=votes, model=MeanVote())
            return Naive(loss=self.loss)(replace(setup, weak=joint))
        easy = Step(unanimous, votes=votes)
        used = replace(setup, weak=easy, split=Step(steps.keep, split=setup.split, labels=easy))
        for _ in range(self.rounds):
            said = setup.predict(used.fit(self.loss), _TRANSFER)
            labels = Step(trusted, student=said, votes=votes, temperature=self.temperature)
            used = replace(setup, weak=labels)
        return setup.predict(used.fit(self.loss))


def _seed(setup: Setup, number: int) -> int:
    return setup.seed + 1000 * number


def _taught(learner: Learner, own: Step, setup: Setup, number: int = 0, rows: Step | None = None) -> Step:
    """Member ``number`` trained on gold of A, or on drawn rows of it, and stopped early by all of A_val."""
    request = FitRequest(labels=own, split=setup.split, part="A", seed=_seed(setup, number), rows=rows)
    return learner.fit(request)


def _votes(setup: Setup, size: int, kind: str, models: Sequence[str], name: str) -> tuple[Step, ...]:
    """Labels of B, B_val and T of every member."""
    learner, own = setup.supervised(name)
    if kind == "seeds" and size > 1 and not learner.trainer.seeded:
        trained = TRAINERS.name_of(learner.trainer)
        raise UserError(
            f"{trained} has one solution whatever the seed; give {name} kind='bagging', or train with probe"
        )
    votes = [setup.weak]
    for number in range(1, size):
        given = {"gold": own, "split": setup.split, "seed": _seed(setup, number)}
        rows = Step(draw, **given) if kind == "bagging" else None
        votes.append(learner.predict(_taught(learner, own, setup, number, rows), setup.split, _PARTS))
    for other in map(learner.for_model, models):
        votes.append(other.predict(_taught(other, own, setup), setup.split, _PARTS))
    return tuple(votes)


# --- their steps: rows that members are trained on -------------------------------------------------------------------


@step(version=1)
def draw(gold: Labels, split: Split, seed: int) -> Labels:
    """As many rows as A has, drawn from it with replacement: an id may occur several times."""
    ids = split.parts["A"]
    return gold.take(ids[np.random.default_rng(seed).integers(len(ids), size=len(ids))])


@step(version=1)
def draw_hard(gold: Labels, split: Split, answers: tuple[Labels, ...], seed: int) -> Labels:
    """As many rows as A has, drawn from it with the weights that boosting gives them after these answers on A."""
    ids = split.parts["A"]
    own = gold.take(ids)
    _, weights = samme(np.stack([a.take(ids).hard != own.hard for a in answers]), own.probs.shape[1])
    return own.take(ids[np.random.default_rng(seed).choice(len(ids), size=len(ids), p=weights)])


@step(version=2)
def cluster_of_a(
    features: Features, gold: Labels, split: Split, view: str, size: int, number: int, seed: int
) -> Labels:
    """The rows of A in cluster ``number`` of ``size``, by k-means on standardized features; of a choice, their mean."""
    ids = split.parts["A"]
    if len(ids) < size:
        raise UserError(f"A has {len(ids)} rows for {size} specialists; use fewer")
    matrix = features.views[view][positions(ids, features.ids)].astype(np.float64)
    (found,) = clustered(size, seed, *standardized(matrix.mean(axis=1) if matrix.ndim == 3 else matrix))
    if not (found == number).any():
        raise UserError(f"A falls into fewer than {size} clusters of different texts; use fewer specialists")
    return gold.take(ids[found == number])


# --- their steps: labels of several members ---------------------------------------------------------------------------


def samme(wrong: Floats, num_classes: int) -> tuple[Floats, Floats]:
    """The vote of each of m members (m,), and the weight of each of n rows (n,) after all of them.

    Zhu et al. 2009, algorithm 2: ``wrong`` (m, n) says which member errs on which row, in the order of boosting. The
    weighted error is at least half a row, as the vote would be infinite at 0; a member no better than chance has the
    vote 0.
    """
    num_rows = wrong.shape[1]
    weights = np.full(num_rows, 1 / num_rows)
    votes = []
    for missed in wrong:
        error = max(float(weights[missed].sum()), 0.5 / num_rows)
        vote = max(0.0, np.log((1 - error) / error) + np.log(num_classes - 1)) if error < 1 else 0.0
        votes.append(vote)
        weights = weights * np.exp(vote * missed)
        weights = weights / weights.sum()
    return np.array(votes), weights


@step(version=1)
def boost(gold: Labels, answers: tuple[Labels, ...], votes: tuple[Labels, ...], hard: bool) -> Labels:
    """The members' labels, averaged with the votes that their answers on A earned them."""
    own = gold.take(answers[0].ids)
    earned, _ = samme(np.stack([a.take(own.ids).hard != own.hard for a in answers]), own.probs.shape[1])
    if not earned.sum():
        raise UserError("no supervisor is better than chance on its own rows; boost a stronger weak model")
    return _averaged(votes, earned, "boosted", hard=hard)


@step(version=1)
def assign(student: Labels, votes: tuple[Labels, ...], consistent: bool) -> Labels:
    """For each row, the label of the specialist nearest to the student's probabilities in cross-entropy."""
    told = np.stack([v.take(student.ids).probs for v in votes])
    costs = _cross_entropy(student, told)
    rows = np.arange(len(student))
    chosen = told[costs.argmin(axis=0), rows]
    kept = rows[chosen.argmax(axis=1) == student.hard] if consistent else rows
    return Labels(ids=student.ids[kept], probs=chosen[kept], source="specialists")


@step(version=1)
def unanimous(votes: tuple[Labels, ...]) -> Labels:
    """The mean label of the rows whose class all supervisors agree on."""
    mean = _averaged(votes, np.ones(len(votes)), "unanimous")
    classes = _classes(votes)
    return mean.take(mean.ids[(classes == classes[0]).all(axis=0)])


@step(version=1)
def trusted(student: Labels, votes: tuple[Labels, ...], temperature: float) -> Labels:
    """The supervisors' labels, averaged with the student's trust in each."""
    told = np.stack([v.take(student.ids).probs for v in votes])
    costs = _cross_entropy(student, told).mean(axis=1) / temperature
    trust = np.exp(costs.min() - costs)
    return _averaged([v.take(student.ids) for v in votes], trust, "trusted")


def _cross_entropy(student: Labels, told: Floats) -> Floats:
    """(m, n) of the student's probabilities with the labels ``told`` (m, n, C)."""
    logs = np.log(np.maximum(student.probs.astype(np.float64), 1e-7))
    return np.asarray(-(told * logs).sum(axis=2))


def _classes(votes: Sequence[Labels]) -> Ints:
    return np.stack([v.take(votes[0].ids).hard for v in votes])


def _averaged(votes: Sequence[Labels], weights: Floats, source: str, *, hard: bool = False) -> Labels:
    told = np.stack([v.take(votes[0].ids).probs.astype(np.float64) for v in votes])
    if hard:
        told = np.eye(told.shape[2])[_classes(votes)]
    probs = np.einsum("m,mnc->nc", weights / weights.sum(), told)
    probs /= probs.sum(axis=1, keepdims=True)
    return Labels(ids=votes[0].ids, probs=probs.astype(np.float32), source=source)
