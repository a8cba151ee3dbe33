"""Nested reward models: a judge of pairs, a critic that quotes evidence to it, a critic of that judge, and so on.

Leike et al. 2018 (arXiv 1811.07871), recursive reward modeling, small enough for a CPU. At level 0 a weak judge learns
the gold of A. At each further level a critic, which reads more than the judge, quotes a few words of each candidate,
and a new judge learns the same gold from candidates and quotes. The critic of level 1 learns the gold of A too, or the
verdicts of level 0 on B; every later critic learns the verdicts of the judge below it. Gold of B and T plays no part.

Every quote comes from a critic that did not learn the row it is about: critics are cross-fitted where they learned.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Annotated, Any, NamedTuple

import numpy as np

from outgrow import steps
from outgrow.data import Examples, Features, Floats, Ids, Ints, Labels, Split, hardened, positions
from outgrow.engine.graph import Step, step
from outgrow.errors import UserError
from outgrow.metrics import Means, Outcomes
from outgrow.models.settings import LogisticSettings
from outgrow.protocols.base import L2, LABELLED
from outgrow.registry import OneOf, Range
from outgrow.runtime import Runtime
from outgrow.strategies import FitRequest, Learner
from outgrow.strategies.trainers import Logistic
from outgrow.supervisors import Supervisor, SupervisorSetup, supervisor

__all__ = ["Level", "Nested", "Round", "admission", "beside", "quote", "supervise", "take_units"]

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
        self.head = Logistic(l2=options.l2, view=probe.view, max_tokens=probe.max_tokens, precision=probe.precision)
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
        texts, options = self.critic.texts, self.options
        units = Step(take_units, texts=texts, unit=options.unit)
        alone = Learner(model=self.critic.model, trainer=self.head, texts=units).features[0]
        return Step(
            quote,
            texts=texts,
            units=units,
            units_read=alone,
            candidates_read=self.critic.features[0],
            labels=taught,
            split=self.setup.split,
            part=part,
            head=self.head,
            unit=options.unit,
            quotes=options.quotes,
            argues=argues,
            folds=options.folds,
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
        frozen = self.options.frozen and number > 1
        test = Step(
            admission,
            judge=below[-1].features,
            critique=critique,
            gold=self.gold,
            split=self.setup.split,
            head=self.head,
            frozen=below[0].fitted if frozen else None,
            folds=self.options.folds,
            seed=self.setup.seed,
            groups=self.judge.texts,
        )
        return Level(labels, fitted, features, critique, test)


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
    found = sorted({u for row in texts.inputs for own in units_of_row(row, unit) for u in own})
    ids = np.array([f"unit {i}" for i in range(len(found))])
    return Examples(ids=ids, inputs=tuple(found), gold=None, classes=texts.classes, groups=ids)


@step(version=1, said="quote evidence")
def quote(
    texts: Examples,
    units: Examples,
    units_read: Features,
    candidates_read: Features,
    labels: Labels,
    split: Split,
    part: str,
    head: LogisticSettings,
    unit: str,
    quotes: int,
    argues: tuple[str, str],
    folds: int,
    seed: int,
    level: int,
    runtime: Runtime,
) -> Examples:
    """What a critic quotes of each candidate of every row, as choices, units in their order.

    The critic is a logistic regression on its features of candidates, which learned ``labels`` on ``part``. On those
    rows it is cross-fitted. A unit's score is what the critic gives it alone. Units that the model cannot read (no
    known word: features of zeros) are quoted last. ``argues`` says how the critic argues on A and A_val, and how on
    all other rows: as in ``CRITIQUES``, or for the class of this number.

    Meta columns ``critic.0`` and on: the critic's own class probabilities, which no judge reads.
    """
    rows = texts.take(split.ids(_ALL))
    folded = _folded(rows, split.parts[part], folds, seed)
    heads = _heads(candidates_read, labels.take(split.parts[part]), folded, folds, head, runtime)
    who = np.full(len(rows), folds)
    who[positions(split.parts[part], rows.ids)] = folded
    matrix = candidates_read.views[head.view][positions(rows.ids, candidates_read.ids)]
    believed = np.stack([fitted.predict(matrix) for fitted in heads])[who, np.arange(len(rows))]
    scores = _scores(units_read.views[head.view], heads)
    place = {str(u): i for i, u in enumerate(units.inputs)}
    rng = np.random.default_rng((seed, level))
    on_a = np.isin(rows.ids, split.ids(("A", "A_val")))
    argued = [_argued(how, believed, rng) for how in argues]
    chance = rng.random(sum(len(text) for row in rows.readings for text in row))  # at least one for each unit
    made, used = [], 0
    for i, row in enumerate(rows.readings):
        how, sides = (argues[0], argued[0]) if on_a[i] else (argues[1], argued[1])
        own = []
        for c, found in enumerate(units_of_row(row, unit)):
            if how == "random":
                worth = chance[used : used + len(found)]
            else:
                told = scores[who[i], [place[u] for u in found]]
                worth = np.where(np.isnan(told), -np.inf, told if c == sides[i] else -told)
            used += len(found)
            best = np.sort(np.argsort(-worth, kind="stable")[:quotes])
            own.append(" ".join(found[j] for j in best))
        made.append(tuple(own))
    order = _dealt(rows.ids, split, argues, rng)
    meta = {f"critic.{c}": believed[:, c] for c in range(believed.shape[1])}
    return replace(rows, inputs=tuple(made[j] for j in order), meta=meta, notes=())


@step(version=1, said="join features")
def beside(candidates: Features, quotes: Features, view: str) -> Features:
    """Features of each candidate and of what is quoted of it, one after the other: (n, C, 2d)."""
    whole = candidates.views[view][positions(quotes.ids, candidates.ids)]
    return Features(ids=quotes.ids, views={view: np.concatenate([whole, quotes.views[view]], axis=-1)})


@step(version=1, said="test critics")
def admission(
    judge: Features,
    critique: Examples,
    gold: Labels,
    split: Split,
    head: LogisticSettings,
    frozen: Any,
    folds: int,
    seed: int,
    groups: Examples,
    runtime: Runtime,
) -> dict[str, Any]:
    """Accuracy on A of the critic and of the judge that it is to help, both on rows that they did not learn.

    ``frozen`` is the judge if it learns nothing from quotes; else it is cross-fitted. ``more`` is the critic's accuracy
    less the judge's, with its 95 % interval over rows; a critic is ``admitted`` if it is above 0.
    """
    rows = groups.take(split.parts["A"])
    truth = gold.take(rows.ids)
    matrix = judge.views[head.view][positions(rows.ids, judge.ids)]
    if frozen is None:
        folded = _folded(rows, rows.ids, folds, seed)
        heads = _heads(judge, truth, folded, folds, head, runtime)
        said = np.stack([fitted.predict(matrix) for fitted in heads])[folded, np.arange(len(rows))]
    else:
        said = frozen.predict(matrix)
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


def _heads(
    features: Features, labels: Labels, folded: Ints, folds: int, head: LogisticSettings, runtime: Runtime
) -> list[Any]:
    """The head that did not learn each fold, in order, and last the one that learned all."""
    from outgrow.models.logistic import LogisticJob, fit_logistic

    rows, nothing = positions(labels.ids, features.ids), np.array([], dtype=np.int64)
    kept = [*(np.flatnonzero(folded != fold) for fold in range(folds)), np.arange(len(rows))]
    jobs = [LogisticJob(rows[k], labels.probs[k], nothing, labels.probs[:0], head) for k in kept]
    return fit_logistic(features.views[head.view], jobs, runtime)


def _scores(read: Floats, heads: Sequence[Any]) -> Floats:
    """(heads, units) What each head gives each unit alone; NaN for those that the model cannot read."""
    exact = read.astype(np.float64)
    told = np.stack([((exact - h.center) / h.scale @ h.weight.astype(np.float64))[:, 0] for h in heads])
    told[:, ~exact.any(axis=1)] = np.nan
    return told


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
