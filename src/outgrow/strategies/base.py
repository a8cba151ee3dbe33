"""What a strategy is and may use, the registry, and the plainest ones: naive, confidence and the controls."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar, Protocol, TypeVar, dataclass_transform

from outgrow import steps
from outgrow.engine.graph import Step
from outgrow.errors import UserError
from outgrow.labels import Harden, Transform
from outgrow.losses import LogConf, Loss, Xent
from outgrow.registry import Registered, Registry
from outgrow.strategies.trainers import FitRequest, Learner

__all__ = [
    "CONTROLS",
    "STRATEGIES",
    "Clusters",
    "Confidence",
    "GoldOnly",
    "Naive",
    "Setup",
    "Shuffled",
    "Strategy",
    "canonical_strategy",
    "is_control",
    "parse_strategy",
    "strategy",
]


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What a strategy may use: texts, the split, weak labels, the learners, the supervisor's gold of A, a seed.

    Gold of B is only for the transform ``MixGold`` and the strategy ``oracle``, whose names say so. There is none of T.
    """

    split: Step
    weak: Step
    """The supervisor's labels on B, B_val and T."""
    student: Learner
    seed: int
    gold_b: Step | None = None
    """Gold of B, for a transform whose name says that it buys some; nothing else may use it."""
    supervisor: Learner | None = None
    """The supervisor's model and trainer; None if the supervisor is not a model (own labels, a rater, simulated)."""
    gold_a: Step | None = None
    """What the supervisor learned: gold of A and A_val. None if there is no ``supervisor``."""
    gold_b_val: Step | None = None
    """Gold of B_val, for the strategy ``oracle`` alone, which is an analysis and not a method."""
    form: str = "text"
    """What a row is: ``text``, ``choice`` or ``image``, see :class:`outgrow.data.Examples`."""

    def fit(self, loss: Loss) -> Step:
        """Train the student on the weak labels of B."""
        return self.student.fit(FitRequest(labels=self.weak, split=self.split, part="B", loss=loss, seed=self.seed))

    def transformed(self, *transforms: Transform) -> "Setup":
        """The setup after the transforms, in turn, of the weak labels of B and B_val; some may drop rows.

        Raises:
            UserError: if a transform cannot be used here, or not in this order.
        """
        if not transforms:
            return self
        split, weak = self.split, self.weak
        self.student.check_classifies(f"{type(transforms[0]).__name__} changes")
        for place, transform in enumerate(transforms):
            name = type(transform).__name__
            if transform.soft and any(isinstance(t, Harden) for t in transforms[:place]):
                raise UserError(f"{name} needs soft labels, and Harden before it makes them certain; put Harden last")
            uses: dict[str, Any] = {}
            if "features" in transform.needs and self.form == "choice":
                raise UserError(
                    f"{name} compares examples by one vector each, and a choice has one for each candidate; use "
                    "transforms of the labels alone, such as Harden or KeepConfident"
                )
            if "features" in transform.needs:
                uses["features"], uses["view"] = self.student.features
            if "seed" in transform.needs:
                uses["seed"] = self.seed
            if "gold" in transform.needs:
                if self.gold_b is None:
                    raise UserError(f"{name} buys gold of B, and rows of B have none here; leave {name} out")
                uses["gold"] = self.gold_b
            weak = Step(steps.relabel, labels=weak, split=split, transform=transform, **uses)
            if transform.drops:
                split = Step(steps.keep, split=split, labels=weak)
        return replace(self, split=split, weak=weak)

    def predict(self, fitted: Step, parts: tuple[str, ...] = ("T",)) -> Step:
        """What the trained student says about some parts."""
        return self.student.predict(fitted, self.split, parts)

    def only(self, what: str, *forms: str) -> None:
        """Check that the task's rows are of one of these forms.

        Raises:
            UserError: if ``what`` cannot read them.
        """
        if self.form not in forms:
            raise UserError(
                f"{what} reads {' or '.join(f'{form}s' for form in forms)}, and the task's rows are {self.form}s"
            )

    def supervised(self, what: str) -> tuple[Learner, Step]:
        """The supervisor's learner and its gold of A, from which ``what`` trains more supervisors.

        Raises:
            UserError: if the supervisor is not a model, or writes answers.
        """
        if self.supervisor is None or self.gold_a is None:
            raise UserError(
                f"{what} trains more supervisors on the gold of A, and here the supervisor is no model (own labels, a "
                "rater, or simulated errors); name a model as weak, such as glove"
            )
        self.supervisor.check_classifies(f"{what} joins")
        return self.supervisor, self.gold_a

    def guarded_shares(self) -> Step:
        """The weak labels' class shares if they can be trusted, see :func:`outgrow.steps.guard_shares`."""
        given = {"labels": self.weak, "split": self.split}
        if self.supervisor is None or self.gold_a is None:
            return Step(steps.guard_shares, **given)
        request = FitRequest(labels=self.gold_a, split=self.split, part="A", seed=self.seed)
        held_out = self.supervisor.predict(self.supervisor.fit(request), self.split, ("A_val",))
        return Step(steps.guard_shares, held_out=held_out, gold=self.gold_a, **given)


class Strategy(Registered, Protocol):
    """Wires a student: maps what it may use to the step that predicts T."""

    writes: ClassVar[bool] = False
    """Whether it also works with written answers instead of class probabilities."""

    def reading(self, student: Learner) -> Step | None:
        """The step that counts the texts that the strategy cuts, if it reads them otherwise than its trainer does."""
        return None

    def __call__(self, setup: Setup) -> Step:
        """The step whose result is the student's :class:`outgrow.data.Labels` on T."""
        ...


STRATEGIES: Registry[type[Any]] = Registry("strategy", "strategies", Strategy)
"""Every strategy by the name that spells it."""

T = TypeVar("T", bound=type[Any])


@dataclass_transform(frozen_default=True, kw_only_default=True)
def strategy(name: str) -> Callable[[T], T]:
    """Register a class as the strategy ``name``; see :meth:`outgrow.registry.Registry.add_class`."""
    return partial(STRATEGIES.add_class, name)


@strategy("naive")
class Naive(Strategy):
    """Train the student on the weak labels, as they are or transformed (Burns et al. 2023, section 3)."""

    version = 1
    writes = True
    source = "Burns et al. 2023 (arXiv 2312.09390), section 3"
    cost = "one training"

    transforms: tuple[Transform, ...] = ()
    """Applied to the weak labels of B and B_val first, in this order."""
    loss: Loss = field(default_factory=Xent)

    def __call__(self, setup: Setup) -> Step:
        used = setup.transformed(*self.transforms)
        return used.predict(used.fit(self.loss))


@strategy("confidence")
class Confidence(Strategy):
    """Train with the auxiliary confidence loss (Burns et al. 2023, section 4.3.2)."""

    version = 1
    source = "Burns et al. 2023 (arXiv 2312.09390), section 4.3.2"
    cost = "one training; finetuned in microbatches, one more forward pass"

    loss: LogConf = field(default_factory=LogConf)

    def __call__(self, setup: Setup) -> Step:
        return Naive(loss=self.loss)(setup)


@strategy("shuffled")
class Shuffled(Strategy):
    """Control: train on the weak labels dealt to the wrong rows. A result above chance means that something leaks."""

    version = 1
    writes = True
    source = "control"
    cost = "one training"

    def __call__(self, setup: Setup) -> Step:
        blind = replace(setup.student, validation=None)  # a judge would bring back what shuffling took
        return Naive()(replace(setup, student=blind, weak=blind.shuffled(setup.weak, setup.seed)))


@strategy("clusters")
class Clusters(Strategy):
    """Control without labels: k-means on the student's features, clusters named by the weak majority."""

    version = 1
    source = "control"
    cost = "k-means"

    def __call__(self, setup: Setup) -> Step:
        features, view = setup.student.features
        return Step(steps.cluster, features=features, labels=setup.weak, split=setup.split, view=view, seed=setup.seed)


@strategy("gold-only")
class GoldOnly(Strategy):
    """Control: the student learns the supervisor's own gold of A and sees no weak label.

    What weak labels are worth is what a student of them has above this one: methods that use clean rows often lose to
    plain training on those rows (Zhu et al. 2023, arXiv 2305.17442).
    """

    version = 1
    source = "control"
    cost = "one training"

    def __call__(self, setup: Setup) -> Step:
        if setup.gold_a is None:
            raise UserError(
                "gold-only learns the gold of A, and here the supervisor is no model, so there is none; leave it out"
            )
        fitted = setup.student.fit(FitRequest(labels=setup.gold_a, split=setup.split, part="A", seed=setup.seed))
        return setup.predict(fitted)


CONTROLS = ("shuffled", "clusters")
"""Run for every pair; with the majority class, they show what a student must beat."""


def is_control(strategy: str) -> bool:
    """Whether a strategy, as it is spelled, is a control."""
    return strategy.partition("(")[0] in CONTROLS


def parse_strategy(text: str) -> Strategy:
    """The strategy that ``text`` spells, such as ``confidence(loss=LogConf(alpha=0.75))``."""
    made: Strategy = STRATEGIES.parse(text)
    return made


def canonical_strategy(text: str) -> str:
    """The shortest spelling of the same strategy."""
    return STRATEGIES.canonical(text)
