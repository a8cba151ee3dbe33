"""Strategies: how weak labels become a student. Each is wiring over the same steps, a few lines, no trainer of its own.

A strategy is a frozen dataclass that maps a :class:`Setup` to the step whose result is the student's predictions on T.
Register another with :func:`strategy`; its name and fields are then spelled the same in Python, YAML and CLI.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from outgrow import steps
from outgrow.errors import UserError
from outgrow.graph import Step
from outgrow.losses import LOSSES, LogConf, Loss, Xent
from outgrow.models.settings import Probe
from outgrow.models.spec import ModelSpec
from outgrow.spelling import parse, spell
from outgrow.train.settings import Finetune

__all__ = [
    "CONTROLS",
    "STRATEGIES",
    "TRAINERS",
    "Clusters",
    "Confidence",
    "Engine",
    "Naive",
    "Setup",
    "Shuffled",
    "Strategy",
    "parse_strategy",
    "parse_trainer",
    "strategy",
]

TRAINERS: dict[str, type[Any]] = {"probe": Probe, "finetune": Finetune}
"""How a model is trained, by the name that spells it."""


@dataclass(frozen=True, kw_only=True)
class Engine:
    """A model and how it is trained: the same two calls whether it is probed or finetuned."""

    model: ModelSpec
    trainer: Probe | Finetune
    texts: Step
    """The task's pool of texts, without gold."""

    def __post_init__(self) -> None:
        if self.model.is_static and isinstance(self.trainer, Finetune):
            raise UserError(f"{self.model} is a table of word vectors and cannot be finetuned; train it with probe")

    def features(self) -> Step:
        """Frozen features of all texts."""
        assert isinstance(self.trainer, Probe)
        cut = None if self.model.is_static else self.trainer.max_tokens  # word vectors have no length to cut to
        return Step(steps.embed, model=self.model, texts=self.texts, max_tokens=cut)

    def fit(self, labels: Step, split: Step, part: str, loss: Loss, seed: int) -> Step:
        """Train on the labels of ``part``, early-stopped on those of ``part_val``."""
        shared = {"labels": labels, "split": split, "part": part, "loss": loss, "seed": seed}
        if isinstance(self.trainer, Probe):
            return Step(steps.fit_probe, features=self.features(), probe=self.trainer, **shared)
        return Step(steps.finetune, model=self.model, texts=self.texts, settings=self.trainer, **shared)

    def predict(self, fitted: Step, split: Step, parts: tuple[str, ...]) -> Step:
        """Class probabilities of a trained model on some parts."""
        if isinstance(self.trainer, Probe):
            return Step(steps.predict_probe, fitted=fitted, features=self.features(), split=split, parts=parts)
        return Step(
            steps.predict_finetuned, fitted=fitted, model=self.model, texts=self.texts, split=split, parts=parts
        )


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What a strategy may use: texts, the split, weak labels, the student's engine, a seed. No gold of B or T."""

    split: Step
    weak: Step
    """The supervisor's labels on B, B_val and T."""
    student: Engine
    seed: int

    def fit(self, labels: Step, loss: Loss) -> Step:
        """Train the student on the labels of B."""
        return self.student.fit(labels, self.split, "B", loss, self.seed)

    def predict(self, fitted: Step, parts: tuple[str, ...] = ("T",)) -> Step:
        """The student's class probabilities."""
        return self.student.predict(fitted, self.split, parts)


class Strategy(Protocol):
    """Wires a student: from what it may use to the step that predicts T."""

    def __call__(self, setup: Setup) -> Step:
        """The step whose result is the student's :class:`outgrow.data.Labels` on T."""
        ...


STRATEGIES: dict[str, type[Any]] = {}
"""Every strategy by the name that spells it."""

T = TypeVar("T", bound=type[Any])


def strategy(name: str) -> Callable[[T], T]:
    """Register a frozen dataclass as the strategy ``name``."""

    def register(cls: T) -> T:
        assert name not in STRATEGIES, f"two strategies are called {name}"
        STRATEGIES[name] = cls
        return cls

    return register


@strategy("naive")
@dataclass(frozen=True, kw_only=True)
class Naive:
    """Train the student on the weak labels as they are (Burns et al. 2023, section 3)."""

    loss: Loss = field(default_factory=Xent)

    def __call__(self, setup: Setup) -> Step:
        """See :class:`Strategy`."""
        return setup.predict(setup.fit(setup.weak, self.loss))


@strategy("confidence")
@dataclass(frozen=True, kw_only=True)
class Confidence:
    """Train with the auxiliary confidence loss (Burns et al. 2023, section 4.3.2)."""

    loss: LogConf = field(default_factory=LogConf)

    def __call__(self, setup: Setup) -> Step:
        """See :class:`Strategy`."""
        return Naive(loss=self.loss)(setup)


@strategy("shuffled")
@dataclass(frozen=True, kw_only=True)
class Shuffled:
    """Control: train on the weak labels dealt to the wrong rows. Better than chance means that something leaks."""

    def __call__(self, setup: Setup) -> Step:
        """See :class:`Strategy`."""
        labels = Step(steps.shuffle, labels=setup.weak, seed=setup.seed)
        return setup.predict(setup.fit(labels, Xent()))


@strategy("clusters")
@dataclass(frozen=True, kw_only=True)
class Clusters:
    """Control without labels: k-means on the student's features, clusters named by the weak majority."""

    def __call__(self, setup: Setup) -> Step:
        """See :class:`Strategy`."""
        trainer = setup.student.trainer
        view = trainer.view if isinstance(trainer, Probe) else Probe().view
        probed = trainer if isinstance(trainer, Probe) else Probe(max_tokens=trainer.max_tokens)
        features = Engine(model=setup.student.model, trainer=probed, texts=setup.student.texts).features()
        return Step(steps.cluster, features=features, labels=setup.weak, split=setup.split, view=view, seed=setup.seed)


CONTROLS = ("shuffled", "clusters")
"""Run beside every pair; with the majority class they say what a student must beat."""


def parse_strategy(text: str) -> Strategy:
    """The strategy that ``text`` spells, such as ``confidence(loss=LogConf(alpha=0.75))``."""
    made: Strategy = parse(text, STRATEGIES, "strategy", LOSSES)
    return made


def parse_trainer(text: str) -> Probe | Finetune:
    """The trainer that ``text`` spells, such as ``probe(l2=0.1)`` or ``finetune(epochs=2)``."""
    made: Probe | Finetune = parse(text, TRAINERS, "trainer")
    return made


def canonical_strategy(text: str) -> str:
    """The shortest spelling of the same strategy."""
    return spell(parse_strategy(text), STRATEGIES, LOSSES)


def canonical_trainer(text: str) -> str:
    """The shortest spelling of the same trainer."""
    return spell(parse_trainer(text), TRAINERS)
