"""Supervisors: who gives the weak labels. A smaller model, your own column, a human rater, or simulated errors.

A supervisor is a frozen dataclass that maps a :class:`SupervisorSetup` to the step that labels B, B_val and T.
Register another with :func:`supervisor`; its name and fields are then spelled the same in Python, in YAML and on the
command line. The step of a simulated supervisor sees gold of B and T; nothing else behind a student does.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any, ClassVar, NamedTuple, Protocol, TypeVar, dataclass_transform

import numpy as np
import numpy.typing as npt

from outgrow import steps
from outgrow.data import Examples, Features, Floats, Ints, Labels, Split, hardened, positions
from outgrow.engine.graph import Step, step
from outgrow.errors import UserError
from outgrow.registry import OneOf, Range, Registered, Registry
from outgrow.strategies import FitRequest, Learner

__all__ = [
    "SIMULATED",
    "SUPERVISORS",
    "Errors",
    "Model",
    "OwnLabels",
    "Rater",
    "SecondLabels",
    "Supervisor",
    "SupervisorSetup",
    "parse_supervisor",
    "supervisor",
]

_PARTS = ("B", "B_val", "T")
KINDS = {
    "uniform": "rows drawn at random",
    "class": "rows of one class first (of_class, counted from 0)",
    "longest": "the longest texts first",
    "shortest": "the shortest texts first",
    "difficulty": "by the task's column difficulty, the highest first",
    "hardest": "where the student's model, trained on the gold of A, believes least in the truth",
    "simulatable": "a linear function of the student's own features",
}
"""Where simulated errors fall."""


@dataclass(frozen=True, kw_only=True)
class SupervisorSetup:
    """What a supervisor may use: everything, including gold. Only its labels reach the student."""

    pool: Step
    """The task's examples with gold and meta columns."""
    split: Step
    student: Learner
    seed: int


class Supervisor(Registered, Protocol):
    """Wires weak labels: maps what it may use to the step that gives them."""

    learner: Learner | None = None
    """Its model and trainer, if it is a model: some strategies train more supervisors like it."""
    abstains: ClassVar[bool] = False
    """Whether it may leave rows without a label."""

    def __call__(self, setup: SupervisorSetup) -> Step:
        """The step whose result is the supervisor's :class:`outgrow.data.Labels` on B, B_val and T."""
        ...


SUPERVISORS: Registry[type[Any]] = Registry("supervisor", "supervisors", Supervisor)
"""Every supervisor except models, by the name that spells it."""

T = TypeVar("T", bound=type[Any])


@dataclass_transform(frozen_default=True, kw_only_default=True)
def supervisor(name: str) -> Callable[[T], T]:
    """Register a class as the supervisor ``name``; see :meth:`outgrow.registry.Registry.add_class`."""
    return partial(SUPERVISORS.add_class, name)


@dataclass(frozen=True, kw_only=True)
class Model(Supervisor):
    """A model trained on the gold of A (Burns et al. 2023, section 3). Spelled as the model itself."""

    version = 1

    learner: Learner

    def __call__(self, setup: SupervisorSetup) -> Step:
        return _trained(self.learner, setup, _PARTS)


@supervisor("labels")
class OwnLabels(Supervisor):
    """The weak labels of your own table, from its column ``weak``."""

    version = 1
    abstains = True

    def __call__(self, setup: SupervisorSetup) -> Step:
        return Step(steps.weak_column, pool=setup.pool, split=setup.split, parts=_PARTS)


@supervisor("second")
class SecondLabels(Supervisor):
    """The labels of a second column of your own table, ``second``: to validate with, not to teach."""

    version = 1
    abstains = True

    def __call__(self, setup: SupervisorSetup) -> Step:
        return Step(steps.second_column, pool=setup.pool, split=setup.split, parts=_PARTS)


@supervisor("rater")
class Rater(Supervisor):
    """One human rating of each row, by its place among the row's ratings; the sign is the label, and 0 is undecided.

    The published ratings are anonymous: the same place in two rows may be two people. The truth is the mean of all
    ratings of the row, including this one.
    """

    version = 1

    number: Annotated[int, Range(1)] = 1
    """Counted from 1."""

    def __call__(self, setup: SupervisorSetup) -> Step:
        return Step(one_rating, pool=setup.pool, split=setup.split, parts=_PARTS, number=self.number)


@supervisor("errors")
class Errors(Supervisor):
    """Gold with simulated errors: as many in each part as ``accuracy`` leaves, placed by ``kind``.

    What a student recovers depends on the structure of the errors and not only on their number (Burns et al. 2023,
    section 5.1 and the appendix on simulation difficulty, figures 24 to 26). We know the paper's structures only at
    second hand, so these constructions are our own.
    """

    version = 1

    accuracy: Annotated[float, Range(0, 1)] = 0.8
    kind: Annotated[str, OneOf(*KINDS)] = "uniform"
    """One of ``KINDS``."""
    share: Annotated[float, Range(0, 1)] = 1.0
    """Share of the errors that follow ``kind``; the others are drawn at random. For ``simulatable``, the share of rows
    that the function labels: 0.5 mixes errors that a student can and cannot learn."""
    of_class: int | None = None
    """For kind ``class``: the class that errors fall on, counted from 0."""
    soft: bool = False
    """Give the label the probability ``accuracy`` instead of 1, and share the rest among the other classes."""

    def __post_init__(self) -> None:
        if self.kind == "uniform" and self.share != 1:
            raise UserError("share says how many errors follow a structure, and errors of kind uniform have none")
        if (self.kind == "class") != (self.of_class is not None):
            raise UserError("kind='class' and of_class go together: errors(kind='class', of_class=0)")

    def __call__(self, setup: SupervisorSetup) -> Step:
        shared = {"pool": setup.pool, "split": setup.split, "accuracy": self.accuracy, "share": self.share}
        shared |= {"soft": self.soft, "seed": setup.seed}
        if self.kind == "simulatable":  # a student can represent what is linear in its features
            probe = replace(setup.student, trainer=setup.student.trainer.probed())
            fitted = _fitted(probe, setup)
            return Step(linear_errors, features=probe.features[0], fitted=fitted, parts=_PARTS, **shared)
        belief = _trained(setup.student, setup, _PARTS) if self.kind == "hardest" else None
        return Step(inject_errors, parts=_PARTS, kind=self.kind, of_class=self.of_class, belief=belief, **shared)


def _trained(learner: Learner, setup: SupervisorSetup, parts: tuple[str, ...]) -> Step:
    return learner.predict(_fitted(learner, setup), setup.split, parts)


def _fitted(learner: Learner, setup: SupervisorSetup) -> Step:
    own = learner.gold(setup.pool, setup.split, ("A", "A_val"))
    return learner.fit(FitRequest(labels=own, split=setup.split, part="A", seed=setup.seed))


def parse_supervisor(text: str) -> Supervisor | None:
    """The supervisor that ``text`` spells, such as ``errors(accuracy=0.7)``; None if it must spell a model.

    Raises:
        UserError: if an option is unknown or does not fit.
    """
    if text.partition("(")[0].strip() not in SUPERVISORS:
        return None
    made: Supervisor = SUPERVISORS.parse(text)
    return made


# --- their steps ------------------------------------------------------------------------------------------------------


@step(version=1)
def one_rating(pool: Examples, split: Split, parts: tuple[str, ...], number: int) -> Labels:
    """The sign of rating ``number`` of each row: negative, positive, or half each if it is 0."""
    chosen = pool.take(split.ids(parts))
    known = sum(name.startswith("rater.") for name in chosen.meta)
    if f"rater.{number}" not in chosen.meta:
        has = f"ratings 1 to {known}" if known else "no single ratings; the sentiment tasks have some"
        raise UserError(f"there is no rating {number}: the task has {has}")
    rating = chosen.meta[f"rater.{number}"]
    if missing := int(np.isnan(rating).sum()):
        raise UserError(
            f"{missing} rows of {', '.join(parts)} have no single ratings, the first is "
            f"{str(chosen.ids[np.isnan(rating)][0])!r}; sentiment-tweets(rated=True) skips them"
        )
    positive = (np.sign(rating) + 1) / 2
    return Labels(ids=chosen.ids, probs=np.stack([1 - positive, positive], axis=1).astype(np.float32), source="rater")


@step(version=1)
def inject_errors(
    pool: Examples,
    split: Split,
    parts: tuple[str, ...],
    accuracy: float,
    kind: str,
    share: float,
    of_class: int | None,
    belief: Labels | None,
    soft: bool,
    seed: int,
) -> Labels:
    """Gold with errors in exactly round((1 - accuracy) n) rows of each part, ``share`` of them placed by ``kind``.

    ``belief`` are the class probabilities of a model, for kind ``hardest``. If there are several wrong classes, a row
    gets one of them at random.
    """
    given = []
    for part, rng in zip(parts, _generators(seed, len(parts)), strict=True):
        rows = pool.take(split.parts[part])
        gold = _known_gold(rows, part)
        num_wrong = round((1 - accuracy) * len(rows))
        num_structured = round(share * num_wrong)
        order = np.lexsort([rng.random(len(rows)), -_priority(rows, gold, kind, of_class, belief)])
        of_kind = order if kind != "class" else order[gold[order] == of_class]
        if num_structured > len(of_kind):
            raise UserError(
                f"{num_structured} errors of part {part} must fall on class {of_class}, which has {len(of_kind)} rows "
                "there; ask for a higher accuracy or a smaller share"
            )
        others = order[num_structured:] if kind != "class" else order[gold[order] != of_class]
        if num_wrong - num_structured > len(others):
            raise UserError(
                f"{num_wrong - num_structured} errors of part {part} must fall on classes other than {of_class}, which "
                f"have {len(others)} rows there; ask for a higher accuracy or a larger share"
            )
        wrong = np.concatenate([of_kind[:num_structured], rng.permutation(others)[: num_wrong - num_structured]])
        given.append(_flipped(gold, wrong, pool.num_classes, rng))
    return _as_labels(split.ids(parts), np.concatenate(given), pool.num_classes, accuracy if soft else 1.0)


@step(version=1)
def linear_errors(
    pool: Examples,
    split: Split,
    parts: tuple[str, ...],
    features: Features,
    fitted: Any,
    accuracy: float,
    share: float,
    soft: bool,
    seed: int,
) -> Labels:
    """Labels that one linear function of the student's features gives to ``share`` of the rows.

    The function is turned from a probe of the gold of A towards a random linear map, until it is wrong in exactly
    round((1 - accuracy) n) rows of B and B_val together. One function cannot be exact everywhere: of 32 random maps,
    each turned in this way, the one that comes nearest to the wanted number on T is taken, which leaves a row or two.
    The other rows have gold with random errors, as many as make up the wanted number in each part.
    """
    gold = {part: _known_gold(pool.take(split.parts[part]), part) for part in parts}
    predicted = _turned_function(split, gold, features, fitted, accuracy, np.random.default_rng((seed, len(parts))))
    given = []
    for part, rng in zip(parts, _generators(seed, len(parts)), strict=True):
        rows = rng.permutation(len(gold[part]))
        by_function, others = np.split(rows, [round(share * len(rows))])
        classes = gold[part].copy()
        classes[by_function] = predicted[part][by_function]
        more = round((1 - accuracy) * len(rows)) - int((classes != gold[part]).sum())
        given.append(_flipped(classes, others[: max(0, more)], pool.num_classes, rng))
    return _as_labels(split.ids(parts), np.concatenate(given), pool.num_classes, accuracy if soft else 1.0)


SIMULATED = (inject_errors, linear_errors)
"""Steps that may see gold of B and T, besides the scorer and the ceiling. What comes out is a weak label."""


def _generators(seed: int, number: int) -> list[np.random.Generator]:
    return [np.random.default_rng((seed, i)) for i in range(number)]


def _known_gold(rows: Examples, part: str) -> Ints:
    assert rows.gold is not None
    if unknown := int((rows.gold < 0).sum()):
        raise UserError(f"{unknown} of {len(rows)} rows of {part} have no gold label, from which errors are simulated")
    return rows.gold


def _priority(rows: Examples, gold: Ints, kind: str, of_class: int | None, belief: Labels | None) -> Floats:
    """(n,) How early each row gets an error: the highest first."""
    match kind:
        case "class":
            if of_class is None or not 0 <= of_class < rows.num_classes:
                raise UserError(f"of_class is {of_class}, but the task's classes are 0 to {rows.num_classes - 1}")
        case "longest" | "shortest":
            texts = [r if isinstance(r, str) else "".join(r) for r in rows.readings]
            return np.array([len(t) for t in texts], dtype=np.float64) * (1 if kind == "longest" else -1)
        case "difficulty":
            if "difficulty" not in rows.meta:
                raise UserError("the task has no column difficulty; use kind='hardest', which asks the student's model")
            difficulty = np.asarray(rows.meta["difficulty"], dtype=np.float64)
            if missing := int(np.isnan(difficulty).sum()):
                raise UserError(f"{missing} of {len(rows)} rows have no difficulty; use kind='hardest'")
            return difficulty
        case "hardest":
            assert belief is not None
            return np.asarray(-belief.take(rows.ids).probs[np.arange(len(rows)), gold], dtype=np.float64)
    return np.zeros(len(rows))


def _flipped(classes: Ints, rows: Ints, num_classes: int, rng: np.random.Generator) -> Ints:
    """``classes`` with another class, drawn at random, in these rows."""
    given = classes.copy()
    given[rows] = (given[rows] + rng.integers(1, num_classes, size=len(rows))) % num_classes
    return given


def _as_labels(ids: Any, classes: Ints, num_classes: int, confidence: float) -> Labels:
    probs = np.full((len(ids), num_classes), (1 - confidence) / (num_classes - 1), dtype=np.float32)
    probs[np.arange(len(ids)), classes] = confidence
    return Labels(ids=ids, probs=probs, source="simulated errors")


# --- a function of the student's features with a given number of errors -----------------------------------------------

_MAPS = 32
_TURNS = 50
"""Times that the angle is halved: far finer than the angles at which single rows change class."""


class _Scored(NamedTuple):
    """Logits of one part: of the probe (n, C), and of each random map (M, n, C), scaled to the same spread."""

    probe: Floats
    maps: Floats

    def classes(self, angles: Floats) -> Ints:
        """(M, n) Classes after turning from the probe towards each map by its angle (M,)."""
        cos, sin = (f(angles)[:, None, None] for f in (np.cos, np.sin))
        return hardened(cos * self.probe + sin * self.maps)


def _turned_function(
    split: Split,
    gold: dict[str, Ints],
    features: Features,
    fitted: Any,
    accuracy: float,
    rng: np.random.Generator,
) -> dict[str, Ints]:
    """The classes on each part."""
    maps = rng.standard_normal((_MAPS, *fitted.weight.shape))
    scored = {part: _scored(split.parts[part], features, fitted, maps) for part in gold}
    spread = [np.concatenate([getattr(scored[p], of) for p in gold], axis=-2) for of in ("probe", "maps")]
    scales = [(s - s.mean(axis=-1, keepdims=True)).std(axis=(-2, -1), keepdims=True) for s in spread]
    scored = {p: _Scored(s.probe / scales[0], s.maps / scales[1]) for p, s in scored.items()}

    def wrong(part: str, angles: npt.NDArray[np.float64]) -> Ints:
        return np.asarray((scored[part].classes(angles) != gold[part]).sum(axis=1))

    wanted, wanted_t = (round((1 - accuracy) * n) for n in (len(gold["B"]) + len(gold["B_val"]), len(gold["T"])))
    low, high = np.zeros(_MAPS), np.full(_MAPS, np.pi)
    fewest, most = (int((wrong("B", a) + wrong("B_val", a))[0]) for a in (low, high))
    if not fewest <= wanted <= most:
        rows = len(gold["B"]) + len(gold["B_val"])
        raise UserError(
            f"simulatable errors at accuracy {1 - wanted / rows:.3f} cannot be made: the student's probe has "
            f"{1 - fewest / rows:.3f} on B and its opposite {1 - most / rows:.3f}; ask for an accuracy between, or use "
            "a stronger student"
        )
    for _ in range(_TURNS):  # rows change class one at a time, so the number that is wrong passes the wanted one
        middle = (low + high) / 2
        few = wrong("B", middle) + wrong("B_val", middle) <= wanted
        low, high = np.where(few, middle, low), np.where(few, high, middle)
    best = int(np.argmin(np.abs(wrong("T", low) - wanted_t)))
    return {part: s.classes(low)[best] for part, s in scored.items()}


def _scored(ids: Any, features: Features, fitted: Any, maps: Floats) -> _Scored:
    rows = features.views[fitted.view][positions(ids, features.ids)].astype(np.float64)
    standard = (rows - fitted.center) / fitted.scale
    probe = standard @ fitted.weight.astype(np.float64) + fitted.bias
    random = np.stack([standard @ m for m in maps])
    if rows.ndim == 3:  # choices: one column, the score of each candidate
        return _Scored(probe[..., 0], random[..., 0])
    return _Scored(probe, random)
