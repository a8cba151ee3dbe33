"""Several supervisors for one student: the same weak model with other seeds, rows or tasks, or other weak models.

All are trained on the supervisor's own gold of A, and the first is always the supervisor itself; so an ensemble of one
is ``naive``, bitwise. The weak accuracy of a result stays that of the supervisor alone: what an ensemble of supervisors
gains counts as gain, whether or not the student has a part in it.
"""

from collections.abc import Sequence
from dataclasses import field, replace
from typing import Any, ClassVar

import numpy as np

from outgrow import steps
from outgrow.data import Examples, Features, Floats, Ints, Labels, Split, positions
from outgrow.engine.graph import Step, step
from outgrow.errors import UserError, unknown_name
from outgrow.labels import LabelModel, MeanVote
from outgrow.losses import Loss, Xent
from outgrow.models.settings import Logistic, Probe
from outgrow.models.spec import ModelSpec
from outgrow.runtime import Runtime
from outgrow.strategies.base import Learner, Naive, Setup, strategy
from outgrow.train.settings import Finetune

__all__ = ["Boosted", "CoSupervised", "Ensemble", "Raven", "samme"]

_PARTS = ("B", "B_val", "T")
_TRANSFER = ("B", "B_val")
_KINDS = {"seeds": "other orders and starts", "bagging": "bootstrap samples of A"}


@strategy("ensemble")
class Ensemble:
    """Train on the joint labels of several supervisors: the baseline that boosting and learned weights must beat.

    Bagging (Breiman 1996) trains each member but the first on as many rows of A as there are, drawn with replacement.
    """

    source: ClassVar[str] = "Breiman 1996 (bagging); baseline of arXiv 2410.04571 and arXiv 2510.21332"
    cost: ClassVar[str] = "one supervisor's training for each further member"

    size: int = 5
    """Supervisors of the weak model, itself included."""
    kind: str = "bagging"
    """How they differ: ``bagging`` or ``seeds``."""
    models: tuple[str, ...] = ()
    """Further weak models, trained as the supervisor is."""
    by: LabelModel = field(default_factory=MeanVote)
    """Makes one label of theirs: ``MeanVote`` or ``DawidSkene``."""
    loss: Loss = field(default_factory=Xent)

    def __post_init__(self) -> None:
        _check(self.size, self.kind, "ensemble")

    def __call__(self, setup: Setup) -> Step:
        votes = _votes(setup, self.size, self.kind, self.models, "ensemble")
        joint = votes[0] if len(votes) == 1 else Step(steps.combine, labels=votes, model=self.by)
        return Naive(loss=self.loss)(replace(setup, weak=joint))


@strategy("boosted")
class Boosted:
    """AdaBoost of supervisors: each next one sees more of the rows of A that those before got wrong.

    EnsemW2S (Agrawal et al. 2024), for any number of classes SAMME (Zhu et al. 2009, algorithm 2): with e the weighted
    error, alpha = log((1 - e) / e) + log(C - 1); weights of wrong rows times exp(alpha). Members are trained on as many
    rows as A has, drawn with these weights, as our learners know no weights; e is taken on A itself, so a supervisor
    that fits A to the last row leaves nothing to boost. One no better than chance gets no vote and changes no weight.
    The student's labels are the members' probabilities, averaged by alpha.
    """

    source: ClassVar[str] = "EnsemW2S, Agrawal et al. 2024 (arXiv 2410.04571); Zhu et al. 2009 (SAMME), algorithm 2"
    cost: ClassVar[str] = "one supervisor's training for each further member, one after the other"

    size: int = 5
    """Supervisors, itself included."""
    hard: bool = False
    """Members vote with their class, as in SAMME, and not with their probabilities."""
    loss: Loss = field(default_factory=Xent)

    def __post_init__(self) -> None:
        _check(self.size, "bagging", "boosted")

    def __call__(self, setup: Setup) -> Step:
        learner, own = setup.supervised("boosted")
        if self.size == 1 and not self.hard:
            return Naive(loss=self.loss)(setup)
        fitted = learner.fit(own, setup.split, "A", Xent(), setup.seed)
        on_a, votes = [learner.predict(fitted, setup.split, ("A",))], [setup.weak]
        for number in range(1, self.size):
            given = {"gold": own, "split": setup.split, "answers": tuple(on_a), "seed": _seed(setup, number)}
            fitted = _taught(learner, Step(draw_hard, **given), own, setup, number)
            on_a.append(learner.predict(fitted, setup.split, ("A",)))
            votes.append(learner.predict(fitted, setup.split, _PARTS))
        given = {"gold": own, "answers": tuple(on_a), "votes": tuple(votes), "hard": self.hard}
        return Naive(loss=self.loss)(replace(setup, weak=Step(boost, **given)))


@strategy("co-supervised")
class CoSupervised:
    """Specialists take turns: each row of B is labelled by the one the student of the round before agrees with most.

    Liu & Alahi 2024: x goes to the specialist k of least CE(f(x), w_k(x)), and stays if specialist and student name one
    class. Their further check, of local against global labels, is left out. Their specialists are given domains; ours
    are the clusters (k-means) of A in the supervisor's features, each a supervisor trained on the gold of its cluster.
    The first student has the supervisor's own labels; no rounds is ``naive``.
    """

    source: ClassVar[str] = "Liu & Alahi 2024 (arXiv 2402.15505), without the local-global check"
    cost: ClassVar[str] = "k-means, a supervisor's training for each specialist, a student for each round"

    size: int = 3
    """Specialists."""
    rounds: int = 1
    consistent: bool = True
    """Leave out rows where specialist and student name different classes."""
    loss: Loss = field(default_factory=Xent)

    def __post_init__(self) -> None:
        _check(self.size, "bagging", "co-supervised")
        if self.rounds < 0:
            raise UserError(f"rounds of co-supervised is {self.rounds}; it must be 0 or more")

    def __call__(self, setup: Setup) -> Step:
        learner, own = setup.supervised("co-supervised")
        if self.rounds == 0:
            return Naive(loss=self.loss)(setup)
        features, view = learner.frozen()
        shared = {"features": features, "gold": own, "split": setup.split, "view": view, "size": self.size}
        rows = [Step(cluster_of_a, **shared, number=k, seed=setup.seed) for k in range(self.size)]
        taught = [_taught(learner, part, own, setup, k) for k, part in enumerate(rows)]
        votes = tuple(learner.predict(fitted, setup.split, _TRANSFER) for fitted in taught)
        used = setup
        for _ in range(self.rounds):
            said = setup.predict(used.fit(used.weak, self.loss), _TRANSFER)
            labels = Step(assign, student=said, votes=votes, consistent=self.consistent)
            split = Step(steps.keep, split=setup.split, labels=labels) if self.consistent else setup.split
            used = replace(setup, weak=labels, split=split)
        return setup.predict(used.fit(used.weak, self.loss))


@strategy("raven")
class Raven:
    """Learned trust: supervisors weighted by how well the student, first taught where they all agree, agrees with them.

    RAVEN (2025): the student's loss is CE(f, sum_m pi_m w_m) with pi learned beside the student, after a start on easy
    rows. There pi follows the gradient in the same training; here student and pi take turns, so that any learner will
    do: for a student f, pi = softmax(-mean CE(f, w_m) / temperature), which is the minimum over pi of the paper's loss
    plus temperature times KL(pi || uniform), and then a fresh student learns all rows with that pi. No rounds is the
    mean of ``ensemble``, and so is a very high temperature.
    """

    source: ClassVar[str] = "RAVEN, 2025 (arXiv 2510.21332), alternating in place of joint"
    cost: ClassVar[str] = "as ensemble, and one more student for each round"

    size: int = 5
    kind: str = "bagging"
    models: tuple[str, ...] = ()
    """As in ``ensemble``."""
    rounds: int = 1
    temperature: float = 0.05
    """In nats of cross-entropy."""
    loss: Loss = field(default_factory=Xent)

    def __post_init__(self) -> None:
        _check(self.size, self.kind, "raven")
        if self.rounds < 0 or not self.temperature > 0:
            raise UserError(f"raven has rounds={self.rounds}, temperature={self.temperature}; at least 0, and above 0")

    def __call__(self, setup: Setup) -> Step:
        votes = _votes(setup, self.size, self.kind, self.models, "raven")
        if self.rounds == 0 or len(votes) == 1:
            joint = votes[0] if len(votes) == 1 else Step(steps.combine, labels=votes, model=MeanVote())
            return Naive(loss=self.loss)(replace(setup, weak=joint))
        easy = Step(unanimous, votes=votes)
        used = replace(setup, weak=easy, split=Step(steps.keep, split=setup.split, labels=easy))
        for _ in range(self.rounds):
            said = setup.predict(used.fit(used.weak, self.loss), _TRANSFER)
            labels = Step(trusted, student=said, votes=votes, temperature=self.temperature)
            used = replace(setup, weak=labels)
        return setup.predict(used.fit(used.weak, self.loss))


def _check(size: int, kind: str, name: str) -> None:
    if size < 1:
        raise UserError(f"size of {name} is {size}; it must be at least 1")
    if kind not in _KINDS:
        raise unknown_name("kind of ensemble", kind, _KINDS)


def _seed(setup: Setup, number: int) -> int:
    return setup.seed + 1000 * number


def _votes(setup: Setup, size: int, kind: str, models: Sequence[str], name: str) -> tuple[Step, ...]:
    """Labels of B, B_val and T of every member."""
    learner, own = setup.supervised(name)
    if kind == "seeds" and size > 1 and isinstance(learner.trainer, Logistic):
        raise UserError(f"logistic has one solution whatever the seed; give {name} kind='bagging', or train with probe")
    votes = [setup.weak]
    for number in range(1, size):
        seed = _seed(setup, number)
        if kind == "seeds":
            fitted = learner.fit(own, setup.split, "A", Xent(), seed)
        else:
            fitted = _taught(learner, Step(draw, gold=own, split=setup.split, seed=seed), own, setup, number)
        votes.append(learner.predict(fitted, setup.split, _PARTS))
    for model in models:
        spec = ModelSpec.parse(model)
        if learner.model.reads is not None and spec.reads not in (None, learner.model.reads):
            raise UserError(
                f"{model} reads {spec.reads}s and the supervisor {learner.model.reads}s; take one that fits"
            )
        other = Learner(model=spec, trainer=learner.trainer, texts=learner.texts)
        votes.append(other.predict(other.fit(own, setup.split, "A", Xent(), setup.seed), setup.split, _PARTS))
    return tuple(votes)


def _taught(learner: Learner, rows: Step, own: Step, setup: Setup, number: int) -> Step:
    """The learner trained on drawn rows of A, stopped early by all of A_val."""
    given = {"rows": rows, "gold": own, "split": setup.split, "seed": _seed(setup, number)}
    if isinstance(learner.trainer, Probe):
        return Step(fit_probe_rows, features=learner.features, probe=learner.trainer, **given)
    if isinstance(learner.trainer, Logistic):
        del given["seed"]
        return Step(fit_logistic_rows, features=learner.features, logistic=learner.trainer, **given)
    return Step(finetune_rows, model=learner.model, texts=learner.texts, settings=learner.trainer, **given)


# --- their steps: rows, and members trained on them -------------------------------------------------------------------


@step(version=1)
def draw(gold: Labels, split: Split, seed: int) -> Labels:
    """As many rows of A as there are, drawn with replacement: an id may come several times."""
    ids = split.parts["A"]
    return gold.take(ids[np.random.default_rng(seed).integers(len(ids), size=len(ids))])


@step(version=1)
def draw_hard(gold: Labels, split: Split, answers: tuple[Labels, ...], seed: int) -> Labels:
    """As many rows of A as there are, drawn with the weights that boosting gives them after these answers on A."""
    ids = split.parts["A"]
    own = gold.take(ids)
    _, weights = samme(np.stack([a.take(ids).hard != own.hard for a in answers]), own.probs.shape[1])
    return own.take(ids[np.random.default_rng(seed).choice(len(ids), size=len(ids), p=weights)])


@step(version=1)
def cluster_of_a(
    features: Features, gold: Labels, split: Split, view: str, size: int, number: int, seed: int
) -> Labels:
    """The rows of A in cluster ``number`` of ``size``, by k-means on standardized features; of a choice, their mean."""
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    ids = split.parts["A"]
    if len(ids) < size:
        raise UserError(f"A has {len(ids)} rows for {size} specialists; take fewer")
    matrix = features.views[view][positions(ids, features.ids)].astype(np.float64)
    matrix = matrix.mean(axis=1) if matrix.ndim == 3 else matrix
    matrix = (matrix - matrix.mean(axis=0)) / np.maximum(matrix.std(axis=0), 1e-9)
    with threadpool_limits(limits=1):  # sums in one order, the same bits
        found = KMeans(size, n_init=4, random_state=seed).fit_predict(matrix)
    if not (found == number).any():
        raise UserError(f"A falls into fewer than {size} clusters of different texts; take fewer specialists")
    return gold.take(ids[found == number])


@step(version=1)
def fit_probe_rows(
    features: Features, rows: Labels, gold: Labels, split: Split, probe: Probe, seed: int, runtime: Runtime
) -> Any:
    """A linear head trained on drawn rows of A, repeated ones counted, early-stopped on A_val."""
    from outgrow.models.probe import ProbeJob, fit_probes

    val = gold.take(split.parts["A_val"])
    places, val_places = (positions(labels.ids, features.ids) for labels in (rows, val))
    job = ProbeJob(places, rows.probs, val_places, val.probs, Xent(), probe, seed)
    return fit_probes(features.views[probe.view], [job], runtime)[0]


@step(version=1)
def fit_logistic_rows(
    features: Features, rows: Labels, gold: Labels, split: Split, logistic: Logistic, runtime: Runtime
) -> Any:
    """The exact logistic regression on drawn rows of A, repeated ones counted; how well it fits A_val is noted."""
    from outgrow.models.logistic import LogisticJob, fit_logistic

    val = gold.take(split.parts["A_val"])
    places, val_places = (positions(labels.ids, features.ids) for labels in (rows, val))
    job = LogisticJob(places, rows.probs, val_places, val.probs, logistic)
    return fit_logistic(features.views[logistic.view], [job], runtime)[0]


@step(version=2)
def finetune_rows(
    model: ModelSpec,
    texts: Examples,
    rows: Labels,
    gold: Labels,
    split: Split,
    settings: Finetune,
    seed: int,
    runtime: Runtime,
) -> Any:
    """A transformer finetuned on drawn rows of A, repeated ones counted, early-stopped on A_val."""
    from outgrow.train.loop import finetune

    folder = model.folder(runtime)
    val = gold.take(split.parts["A_val"])
    inputs, val_inputs = _readings(texts, rows), _readings(texts, val)
    return finetune(folder, inputs, rows.probs, val_inputs, val.probs, Xent(), settings, seed, runtime)


def _readings(texts: Examples, labels: Labels) -> list[Any]:
    readings = texts.readings
    return [readings[i] for i in positions(labels.ids, texts.ids)]


# --- their steps: labels of several members ---------------------------------------------------------------------------


def samme(wrong: Floats, num_classes: int) -> tuple[Floats, Floats]:
    """The vote of each of m members (m,), and the weight of each of n rows (n,) after all of them.

    Zhu et al. 2009, algorithm 2: ``wrong`` (m, n) says who erred where, in the order of boosting. The weighted error is
    kept half a row away from 0, where the vote would be infinite; a member no better than chance has the vote 0.
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
    """The members' labels averaged by the votes that their answers on A have earned them."""
    own = gold.take(answers[0].ids)
    earned, _ = samme(np.stack([a.take(own.ids).hard != own.hard for a in answers]), own.probs.shape[1])
    if not earned.sum():
        raise UserError("no supervisor is better than chance on its own rows, so boosting has none to follow")
    return _averaged(votes, earned, "boosted", hard=hard)


@step(version=1)
def assign(student: Labels, votes: tuple[Labels, ...], consistent: bool) -> Labels:
    """For each row the label of the specialist that the student's probabilities are nearest to in cross-entropy."""
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
    """The supervisors' labels averaged by the student's trust in each."""
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
