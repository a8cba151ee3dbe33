"""Nested reward models: a judge of pairs, a critic that quotes evidence to it, a critic of that judge, and so on.

Leike et al. 2018 (arXiv 1811.07871), recursive reward modeling, small enough for a CPU. At level 0 a weak judge learns
the gold of A. At each further level a critic, which reads more than the judge, quotes a few words of each candidate,
and a new judge learns the same gold from candidates and quotes. The critic of level 1 learns the gold of A too, or the
verdicts of level 0 on B; every later critic learns the verdicts of the judge below it. Gold of B and T plays no part.

Every quote comes from a critic that did not learn the row it is about: critics are cross-fitted where they learned.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Annotated, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from outgrow import steps
from outgrow.data import Examples, Features, Floats, Ids, Ints, Labels, Split, hardened, positions
from outgrow.engine.graph import Step, step
from outgrow.errors import UserError
from outgrow.metrics import Means, Outcomes
from outgrow.models.settings import VIEWS
from outgrow.protocols.base import L2, LABELLED
from outgrow.registry import OneOf, Range
from outgrow.runtime import Runtime
from outgrow.strategies import FitRequest, Learner
from outgrow.strategies.trainers import Logistic
from outgrow.supervisors import Supervisor, SupervisorSetup, supervisor

__all__ = ["Level", "Nested", "Round", "admission", "beside", "leave_out", "quote", "supervise", "take_units", "weigh"]

_ALL = ("A", "A_val", *LABELLED)

CRITIQUES = {
    "honest": ("honest", "honest"),
    "lying": ("honest", "lying"),
    "coin": ("coin", "coin"),
    "shuffled": ("shuffled", "shuffled"),
    "random": ("random", "random"),
}
"""How critics argue on A, where the judge learns, and on B and T, where it labels. ``lying`` turns after A."""


class Level(NamedTuple):
    """One judge."""

    labels: Step
    """Its verdicts on B, B_val and T."""
    fitted: Step
    features: Step
    """What it reads: candidates, and from level 1 on quotes beside them."""
    critique: Step | None = None
    """The quotes it reads."""
    admission: Step | None = None
    """Whether its critic knows more than the judge below."""


@supervisor("nested")
class Nested(Supervisor):
    """A weak judge of pairs that reads the quotes of a critic, at any number of levels.

    A critic scores each word, read alone, and quotes ``quotes`` words of each candidate: those that speak most for the
    candidate it argues for, and most against the others. All heads are exact logistic regressions on frozen features.
    """

    version = 1

    judge: str = "glove"
    """The judge's model."""
    critic: str = ""
    """The critics' model; empty for the student's."""
    levels: Annotated[int, Range(0)] = 1
    """How many critics; 0 is the judge alone."""
    quotes: Annotated[int, Range(1)] = 4
    """Units quoted of each candidate; a shorter candidate is quoted whole."""
    unit: Annotated[str, OneOf("words", "sentences")] = "words"
    critiques: Annotated[str, OneOf(*CRITIQUES)] = "honest"
    """``honest``: for the candidate that the critic believes in. ``lying``: honest on A, against its belief on B and T.
    ``coin``: for a candidate drawn at random. Controls: ``shuffled``, the honest quotes of another pair; ``random``
    words of the pair."""
    taught: Annotated[str, OneOf("gold", "verdicts")] = "gold"
    """What the first critic learns: the gold of A, or the verdicts of level 0 on B."""
    frozen: bool = False
    """Whether the judge of level 0 decides by the quotes alone, instead of a judge that learns from them."""
    l2: Annotated[float, Range(0, above=True)] = L2
    """Of judges and critics."""
    folds: Annotated[int, Range(2)] = 5
    """Of cross-fitting."""

    def __call__(self, setup: SupervisorSetup) -> Step:
        found = Round(self, setup).levels
        tests = tuple(level.admission for level in found if level.admission is not None)
        return Step(supervise, labels=found[-1].labels, admissions=tests) if tests else found[-1].labels


class Round:
    """The wiring of one supervisor for one seed. Analyses read its levels."""

    def __init__(self, options: Nested, setup: SupervisorSetup) -> None:
        self.options, self.setup = options, setup
        probe: Any = setup.student.trainer.probed()
        view = probe.view if probe.view in VIEWS else Logistic.view  # words alone are asked nothing
        self.head = Logistic(l2=options.l2, view=view, max_tokens=probe.max_tokens, precision=probe.precision)
        alike = replace(setup.student, trainer=self.head, training=None)
        self.judge = alike.for_model(options.judge)
        self.critic = alike.for_model(options.critic) if options.critic else alike
        self.gold = self.judge.gold(setup.pool, setup.split, ("A", "A_val"))

    @cached_property
    def levels(self) -> list[Level]:
        """The judges, level 0 first."""
        request = FitRequest(labels=self.gold, split=self.setup.split, part="A", seed=self.setup.seed)
        fitted = self.judge.fit(request)
        labels = self.judge.predict(fitted, self.setup.split, LABELLED)
        made = [Level(labels, fitted, self.judge.features[0])]
        for number in range(1, self.options.levels + 1):
            made.append(self._next(number, made))
        return made

    def read(self, first: Level, critique: Step, learned: Step | None = None) -> tuple[Step, Step, Step]:
        """Features, head and labels of a judge that reads ``critique``.

        Args:
            first: level 0, who decides if judges are frozen.
            critique: the quotes.
            learned: the head of a judge that learned from other quotes; None for one that learns from these.
        """
        quoted = Learner(model=self.judge.model, trainer=self.head, texts=critique).features[0]
        if self.options.frozen:
            features, fitted = quoted, first.fitted
        else:
            features = Step(beside, candidates=self.judge.features[0], quotes=quoted, view=self.head.view)
            given = {"labels": self.gold, "split": self.setup.split, "part": "A", "logistic": self.head, "rows": None}
            fitted = learned or Step(steps.fit_logistic, features=features, **given)
        said = Step(steps.predict_probe, fitted=fitted, features=features, split=self.setup.split, parts=LABELLED)
        return features, fitted, said

    def critique(self, taught: Step, part: str, argues: tuple[str, str], number: int) -> Step:
        """What a critic quotes that learned the labels ``taught`` of ``part``."""
        options, critic = self.options, self.critic
        units = Step(take_units, texts=critic.texts, unit=options.unit)
        alone = Learner(model=critic.model, trainer=self.head, texts=units).features[0]
        weighed = Step(
            weigh,
            texts=critic.texts,
            units_read=alone,
            candidates_read=critic.features[0],
            critics=self._crossed(critic, taught, part, critic.fit),
            split=self.setup.split,
            part=part,
            seed=self.setup.seed,
        )
        return Step(
            quote,
            texts=critic.texts,
            units=units,
            weighed=weighed,
            split=self.setup.split,
            unit=options.unit,
            quotes=options.quotes,
            argues=argues,
            seed=self.setup.seed,
            level=number,
        )

    def taught(self, number: int, below: Sequence[Level]) -> tuple[Step, str]:
        """What the critic of a level learns, and of which part."""
        return (self.gold, "A") if number == 1 and self.options.taught == "gold" else (below[number - 1].labels, "B")

    def _next(self, number: int, below: Sequence[Level]) -> Level:
        taught, part = self.taught(number, below)
        critique = self.critique(taught, part, CRITIQUES[self.options.critiques], number)
        features, fitted, labels = self.read(below[0], critique)
        test = Step(
            admission,
            judge=below[-1].features,
            judges=(below[0].fitted,) if self.options.frozen and number > 1 else self._judges(below[-1]),
            critique=critique,
            gold=self.gold,
            split=self.setup.split,
            texts=self.judge.texts,
            seed=self.setup.seed,
        )
        return Level(labels, fitted, features, critique, test)

    def _judges(self, level: Level) -> tuple[Step, ...]:
        """Judges like that of a level, each of which did not learn one fold of A."""
        given = {"features": level.features, "logistic": self.head, "labels": self.gold}

        def fit(request: FitRequest) -> Step:
            return Step(steps.fit_logistic, split=request.split, part=request.part, rows=request.rows, **given)

        return self._crossed(self.judge, self.gold, "A", fit)[:-1]

    def _crossed(
        self, learner: Learner, labels: Step, part: str, fit: Callable[[FitRequest], Step]
    ) -> tuple[Step, ...]:
        """A head for each fold of a part that did not learn it, and last one that learned the whole part."""
        split, seed, folds = self.setup.split, self.setup.seed, self.options.folds
        shared: dict[str, Any] = {"labels": labels, "split": split, "part": part}
        left = [
            Step(leave_out, texts=learner.texts, fold=fold, folds=folds, seed=seed, **shared) for fold in range(folds)
        ]
        requests = [FitRequest(rows=rows, seed=seed, **shared) for rows in (*left, None)]
        return tuple(fit(request) for request in requests)


# --- their steps ------------------------------------------------------------------------------------------------------


@step(version=1, said="take units")
def take_units(texts: Examples, unit: str) -> Examples:
    """Every distinct word or sentence of the candidates, as a text.

    Raises:
        UserError: if rows are no choices.
    """
    if texts.form != "choice":
        raise UserError(
            f"nested compares candidates, and the task's rows are {texts.form}s; take a task of pairs, such as "
            "sentiment-pairs"
        )
    found = sorted({u for row in texts.readings for own in units_of_row(row, unit) for u in own})
    ids = np.array([f"unit {i}" for i in range(len(found))])
    return Examples(ids=ids, inputs=tuple(found), gold=None, classes=texts.classes, groups=ids)


@step(version=1, said="leave out folds")
def leave_out(texts: Examples, labels: Labels, split: Split, part: str, fold: int, folds: int, seed: int) -> Labels:
    """The labels of a part without those of one fold of it."""
    own = labels.take(split.parts[part])
    return own.take(own.ids[_folded(texts, own.ids, folds, seed) != fold])


@step(version=1, said="weigh evidence")
def weigh(
    texts: Examples,
    units_read: Features,
    candidates_read: Features,
    critics: tuple[Any, ...],
    split: Split,
    part: str,
    seed: int,
) -> dict[str, npt.NDArray[Any]]:
    """What critics make of the rows of all parts, n in the order A, A_val, B, B_val, T, and of u units.

    ``critics`` are linear heads that learned labels of ``part``: one for each fold that did not learn it, and last one
    that learned all, for the rows of other parts. ``who`` (n,) is the number of each row's critic; ``believed`` (n, C)
    are its class probabilities; ``scores`` (critics, u) what each gives each unit alone: NaN for a unit that the model
    cannot read (no known word: features of zeros).
    """
    ids = split.ids(_ALL)
    who = np.full(len(ids), len(critics) - 1)
    who[positions(split.parts[part], ids)] = _folded(texts, split.parts[part], len(critics) - 1, seed)
    scores = _scores(units_read, critics)
    return {"who": who, "believed": _said(candidates_read, critics, ids, who), "scores": scores}


@step(version=1, said="quote evidence")
def quote(
    texts: Examples,
    units: Examples,
    weighed: dict[str, npt.NDArray[Any]],
    split: Split,
    unit: str,
    quotes: int,
    argues: tuple[str, str],
    seed: int,
    level: int,
) -> Examples:
    """What critics quote of each candidate of every row, as choices, units in their order.

    Of the candidate that a critic argues for it quotes the units with the highest scores, of the others those with the
    lowest; units that it cannot read come last. ``argues`` says how it argues on A and A_val, and how on all other
    rows: as in ``CRITIQUES``, or for the class of this number.

    Meta columns ``critic.0`` and on: the critic's own class probabilities, which no judge reads.
    """
    rows = texts.take(split.ids(_ALL))
    who, believed, scores = (weighed[name] for name in ("who", "believed", "scores"))
    place = {str(u): i for i, u in enumerate(units.inputs)}
    rng = np.random.default_rng((seed, level))
    sides = np.stack([_argued(how, believed, rng) for how in argues])
    on_a = np.isin(rows.ids, split.ids(("A", "A_val")))
    # One entry for each unit of each candidate: whose it is, and what it is worth to the critic.
    found = [
        (i, c, u) for i, row in enumerate(rows.readings) for c, own in enumerate(units_of_row(row, unit)) for u in own
    ]
    row, candidate = (np.array([f[k] for f in found], dtype=np.int64) for k in (0, 1))
    told = scores[who[row], [place[u] for _, _, u in found]]
    worth = np.where(candidate == sides[np.where(on_a, 0, 1)[row], row], told, -told)
    drawn = np.array([how == "random" for how in argues])[np.where(on_a, 0, 1)[row]]
    worth = np.where(drawn, rng.random(len(found)), np.where(np.isnan(told), -np.inf, worth))
    kept = _best(row * rows.num_classes + candidate, worth, quotes)
    quoted: list[list[list[str]]] = [[[] for _ in range(rows.num_classes)] for _ in range(len(rows))]
    for i, c, u in (found[j] for j in kept):
        quoted[i][c].append(u)
    order = _dealt(rows.ids, split, argues, rng)
    inputs = tuple(tuple(" ".join(own) for own in quoted[j]) for j in order)
    meta = {f"critic.{c}": believed[:, c] for c in range(believed.shape[1])}
    return replace(rows, inputs=inputs, meta=meta, notes=())


@step(version=1, said="join features")
def beside(candidates: Features, quotes: Features, view: str) -> Features:
    """Features of each candidate and of what is quoted of it, one after the other: (n, C, 2d)."""
    whole = candidates.views[view][positions(quotes.ids, candidates.ids)]
    return Features(ids=quotes.ids, views={view: np.concatenate([whole, quotes.views[view]], axis=-1)})


@step(version=1, said="test critics")
def admission(
    judge: Features,
    judges: tuple[Any, ...],
    critique: Examples,
    gold: Labels,
    split: Split,
    texts: Examples,
    seed: int,
) -> dict[str, Any]:
    """Accuracy on A of the critic and of the judge that it is to help, both on rows that they did not learn.

    ``judges`` are one for each fold of A, which did not learn it, or a single one for all. ``more`` is the critic's
    accuracy less the judge's, with its 95 % interval over rows; a critic is ``admitted`` if it is above 0.
    """
    rows = texts.take(split.parts["A"])
    truth = gold.take(rows.ids)
    who = _folded(texts, rows.ids, len(judges), seed) if len(judges) > 1 else np.zeros(len(rows), dtype=np.int64)
    said = _said(judge, judges, rows.ids, who)
    known = critique.take(rows.ids).meta
    believed = np.stack([known[f"critic.{c}"] for c in range(said.shape[1])], axis=1)
    right = {name: (hardened(p) == truth.hard).astype(float) for name, p in (("judge", said), ("critic", believed))}
    means = Means([Outcomes(groups=rows.groups, values=right)])
    more = means.difference("critic", "judge").interval(-1.0, 1.0)
    found = {name: means.rate(name) for name in right}
    return {"rows": len(rows), **found, "more": more, "admitted": bool(more[0] > 0)}


@step(version=1, said="take verdicts")
def supervise(labels: Labels, admissions: tuple[dict[str, Any], ...], runtime: Runtime) -> Labels:
    """The labels of the last judge, after saying whether each critic was better than the judge that it helped."""
    for level, test in enumerate(admissions, start=1):
        verdict = "admitted" if test["admitted"] else "not better than the judge; no gain is to be expected"
        runtime.say(
            f"level {level}: on {test['rows']:,} rows of A that neither learned, the critic has "
            f"{test['critic'][0]:.3f} and the judge {test['judge'][0]:.3f}: {verdict}"
        )
    return replace(labels, source="nested")


# --- their parts ------------------------------------------------------------------------------------------------------


def units_of_row(row: str | tuple[str, ...], unit: str) -> list[list[str]]:
    """The words or sentences of each candidate, in order; not those of paragraphs that all candidates share, as the
    prompt that replies answer: they cannot tell which is better."""
    candidates = (row,) if isinstance(row, str) else row
    if unit == "words" and not any("\n" in text for text in candidates):
        return [text.split() for text in candidates]
    paragraphs = [re.split(r"\n\s*\n", text) for text in candidates]
    shared = set.intersection(*map(set, paragraphs)) if len(candidates) > 1 else set()
    own = [" \n".join(p for p in of if p not in shared) or " \n".join(of) for of in paragraphs]
    if unit == "words":
        return [text.split() for text in own]
    return [[s.strip() for s in re.split(r"(?<=[.!?])\s+|\n", text) if s.strip()] for text in own]


def _folded(rows: Examples, ids: Ids, folds: int, seed: int) -> Ints:
    """(n,) The fold of each of ``ids``, groups whole, dealt at random."""
    groups = rows.groups[positions(ids, rows.ids)]
    names, of_row = np.unique(groups, return_inverse=True)
    if len(names) < folds:
        raise UserError(f"cross-fitting in {folds} folds needs as many groups of rows, and there are {len(names)}")
    dealt = np.random.default_rng((seed, folds)).permutation(len(names)) % folds
    return np.asarray(dealt[of_row], dtype=np.int64)


def _said(read: Features, heads: Sequence[Any], ids: Ids, who: Ints) -> Floats:
    """(n, C) The class probabilities that each row's own head gives."""
    matrix = read.views[heads[0].view][positions(ids, read.ids)]
    told = np.empty(matrix.shape[:2])
    for number, head in enumerate(heads):
        told[who == number] = head.predict(matrix[who == number])
    return told


def _scores(read: Features, heads: Sequence[Any]) -> Floats:
    """(heads, units) What each head gives each unit alone; NaN for those that the model cannot read."""
    exact = read.views[heads[0].view].astype(np.float64)
    told = np.stack([((exact - h.center) / h.scale @ h.weight.astype(np.float64))[:, 0] for h in heads])
    told[:, ~exact.any(axis=1)] = np.nan
    return told


def _best(of: Ints, worth: Floats, most: int) -> Ints:
    """Places of the ``most`` entries worth most of each value of ``of``, in their order; of equals the first."""
    order = np.lexsort([-worth, of])
    starts = np.searchsorted(of[order], of[order])
    return np.sort(order[np.arange(len(order)) - starts < most])


def _argued(how: str, believed: Floats, rng: np.random.Generator) -> Ints:
    """(n,) The class that each critique argues for."""
    if how == "lying":
        return np.asarray(believed.argmin(axis=1), dtype=np.int64)
    if how == "coin":
        return rng.integers(believed.shape[1], size=len(believed))
    return np.full(len(believed), int(how)) if how.isdecimal() else hardened(believed)


def _dealt(ids: Ids, split: Split, argues: tuple[str, str], rng: np.random.Generator) -> Ints:
    """(n,) Whose quotes each row gets: its own, or, where they are shuffled, those of another row of its part."""
    order = np.arange(len(ids))
    for part in _ALL:
        if argues[part not in ("A", "A_val")] == "shuffled":
            here = positions(split.parts[part], ids)
            mixed = rng.permutation(here)
            order[mixed] = np.roll(mixed, 1)
    return order
