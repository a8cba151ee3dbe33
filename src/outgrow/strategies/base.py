"""What a strategy is and may use, the registry, and the plainest ones: naive, confidence and the controls."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, ClassVar, Protocol, TypeVar, dataclass_transform, runtime_checkable

from outgrow import steps
from outgrow.engine.graph import Step
from outgrow.errors import UserError
from outgrow.labels import Harden, Transform
from outgrow.losses import LogConf, Loss, Xent
from outgrow.models.settings import Head, Logistic, Probe
from outgrow.models.spec import ModelSpec
from outgrow.registry import Registry
from outgrow.train.settings import Finetune, Generate

__all__ = [
    "CONTROLS",
    "STRATEGIES",
    "TRAINERS",
    "Clusters",
    "Confidence",
    "Learner",
    "Naive",
    "Setup",
    "Shuffled",
    "Strategy",
    "TrainingMethod",
    "canonical_strategy",
    "canonical_trainer",
    "parse_strategy",
    "parse_trainer",
    "strategy",
]

TRAINERS: Registry[type[Any]] = Registry("trainer", "trainers")
"""How a model is trained, by the name that spells it."""
for _name, _cls in {"probe": Probe, "logistic": Logistic, "finetune": Finetune, "generate": Generate}.items():
    TRAINERS.add(_name, _cls)


@dataclass(frozen=True, kw_only=True)
class Learner:
    """A model and how it is trained: the same two calls whether it is probed, finetuned or writes its answers."""

    model: ModelSpec
    trainer: Head | Finetune | Generate
    texts: Step
    """The task's pool of texts, without gold."""
    training: "TrainingMethod | None" = None
    """A strategy that trains in another way than the trainer's own; its ceiling is then trained so too."""

    def __post_init__(self) -> None:
        if self.model.is_static and not isinstance(self.trainer, Head):
            raise UserError(f"{self.model} has frozen features only and cannot be finetuned; train it with probe")

    @cached_property
    def features(self) -> Step:
        """Frozen features of all texts."""
        assert isinstance(self.trainer, Head)
        cut = None if self.model.is_static else self.trainer.max_tokens  # word vectors and images have no length to cut
        embed = steps.embed_bf16 if self.trainer.precision == "bf16" and cut is not None else steps.embed
        return Step(embed, model=self.model, texts=self.texts, max_tokens=cut)

    def frozen(self) -> tuple[Step, str]:
        """Features of the model as it is before any training, and the view of them that it is probed on.

        Of a student to be finetuned they are those that a probe of it would take.
        """
        if isinstance(self.trainer, Head):
            return self.features, self.trainer.view
        if isinstance(self.trainer, Generate):
            raise UserError("generate writes answers and has no features to relabel or cluster by; train with probe")
        probed = Probe(max_tokens=self.trainer.max_tokens)
        return Learner(model=self.model, trainer=probed, texts=self.texts).features, probed.view

    def fit(self, labels: Step, split: Step, part: str, loss: Loss, seed: int) -> Step:
        """Train on the labels of ``part``, early-stopped on those of ``part_val``.

        Raises:
            UserError: with any loss but cross-entropy, for answers to write (it is the language model's own) and for
                logistic (others have more than one minimum, or none that is a property of the labels alone).
        """
        if isinstance(self.trainer, Generate):
            if loss != Xent():
                raise UserError(
                    f"generate learns written answers by the language-model loss; {type(loss).__name__} needs class "
                    "probabilities, so take the strategy naive, or another trainer"
                )
            given = {"answers": labels, "split": split, "part": part, "settings": self.trainer, "seed": seed}
            return Step(steps.finetune_lm, model=self.model, texts=self.texts, **given)
        if self.training is not None:
            return self.training.fit(replace(self, training=None), labels, split, part, loss, seed)
        if isinstance(self.trainer, Logistic):
            if loss != Xent():
                raise UserError(
                    f"logistic solves cross-entropy to its one minimum; {type(loss).__name__} depends on the way, "
                    "so train with probe"
                )
            given = {"labels": labels, "split": split, "part": part, "logistic": self.trainer}
            return Step(steps.fit_logistic, features=self.features, **given)
        shared = {"labels": labels, "split": split, "part": part, "loss": loss, "seed": seed}
        if isinstance(self.trainer, Probe):
            return Step(steps.fit_probe, features=self.features, probe=self.trainer, **shared)
        return Step(steps.finetune, model=self.model, texts=self.texts, settings=self.trainer, **shared)

    def gold(self, pool: Step, split: Step, parts: tuple[str, ...]) -> Step:
        """The truth on some parts, as this trainer takes it: classes, or written answers."""
        kind = steps.gold_answers if isinstance(self.trainer, Generate) else steps.gold
        return Step(kind, pool=pool, split=split, parts=parts)

    def predict(self, fitted: Step, split: Step, parts: tuple[str, ...]) -> Step:
        """Class probabilities, or written answers, of a trained model on some parts."""
        if isinstance(self.trainer, Generate):
            return Step(steps.decode, fitted=fitted, model=self.model, texts=self.texts, split=split, parts=parts)
        if isinstance(self.trainer, Head):
            return Step(steps.predict_probe, fitted=fitted, features=self.features, split=split, parts=parts)
        return Step(
            steps.predict_finetuned, fitted=fitted, model=self.model, texts=self.texts, split=split, parts=parts
        )


@runtime_checkable
class TrainingMethod(Protocol):
    """A strategy that changes how a model is trained and not on what, so that its ceiling must be trained so too."""

    def fit(self, learner: Learner, labels: Step, split: Step, part: str, loss: Loss, seed: int) -> Step:
        """The model that ``engine`` makes of the labels of ``part``, trained in this strategy's way."""
        ...


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What a strategy may use: texts, the split, weak labels, the learners, the supervisor's gold of A, a seed.

    No gold of B or T, but for two that say so by their names: the transform ``MixGold`` and the strategy ``oracle``.
    """

    split: Step
    weak: Step
    """The supervisor's labels on B, B_val and T."""
    student: Learner
    seed: int
    gold_b: Step | None = None
    """Gold of B, for a transform that says in its name that it buys some; nothing else may use it."""
    supervisor: Learner | None = None
    """The supervisor's model and trainer; None where the supervisor is no model (own labels, a rater, simulated)."""
    gold_a: Step | None = None
    """The supervisor's own labels: gold of A and A_val. None where there is no ``supervisor``."""
    gold_b_val: Step | None = None
    """Gold of B_val, for the strategy ``oracle`` alone, which is an analysis and no method."""
    form: str = "text"
    """What a row is: ``text``, ``choice`` or ``image``, see :class:`outgrow.data.Examples`."""

    def fit(self, labels: Step, loss: Loss) -> Step:
        """Train the student on the labels of B."""
        return self.student.fit(labels, self.split, "B", loss, self.seed)

    def transformed(self, *transforms: Transform) -> "Setup":
        """The same with weak labels of B and B_val that went through the transforms in turn, and the rows still left.

        Raises:
            UserError: for a transform that cannot be where it is.
        """
        if not transforms:
            return self
        split, weak = self.split, self.weak
        if isinstance(self.student.trainer, Generate):
            raise UserError(f"{type(transforms[0]).__name__} changes class probabilities, and generate writes answers")
        for place, transform in enumerate(transforms):
            name = type(transform).__name__
            if transform.soft and any(isinstance(t, Harden) for t in transforms[:place]):
                raise UserError(f"{name} needs soft labels and Harden before it makes them certain; put Harden last")
            uses: dict[str, Any] = {}
            if "features" in transform.needs and self.form == "choice":
                raise UserError(
                    f"{name} compares examples by one vector each, and a choice has one for each candidate; take "
                    "transforms of the labels alone, such as Harden or KeepConfident"
                )
            if "features" in transform.needs:
                uses["features"], uses["view"] = self.student.frozen()
            if "seed" in transform.needs:
                uses["seed"] = self.seed
            if "gold" in transform.needs:
                if self.gold_b is None:
                    raise UserError(f"{name} buys gold of B and this setup has none to sell")
                uses["gold"] = self.gold_b
            weak = Step(steps.relabel, labels=weak, split=split, transform=transform, **uses)
            if transform.drops:
                split = Step(steps.keep, split=split, labels=weak)
        return replace(self, split=split, weak=weak)

    def predict(self, fitted: Step, parts: tuple[str, ...] = ("T",)) -> Step:
        """The student's class probabilities."""
        return self.student.predict(fitted, self.split, parts)

    def only(self, what: str, *forms: str) -> None:
        """Fail at plan time where rows are of another form.

        Raises:
            UserError: saying that ``what`` cannot read these.
        """
        if self.form not in forms:
            raise UserError(
                f"{what} reads {' or '.join(f'{form}s' for form in forms)}, and the task's rows are {self.form}s"
            )

    def supervised(self, what: str) -> tuple[Learner, Step]:
        """The supervisor's learner and gold of A, of which ``what`` makes more supervisors.

        Raises:
            UserError: where the supervisor is no model, or writes answers.
        """
        if self.supervisor is None or self.gold_a is None:
            raise UserError(
                f"{what} trains further supervisors on the gold of A, and here the supervisor is no model (own labels, "
                "a rater, or simulated errors); name a model as weak, such as glove"
            )
        if isinstance(self.supervisor.trainer, Generate):
            raise UserError(f"{what} joins class probabilities of supervisors, and generate writes answers")
        return self.supervisor, self.gold_a


class Strategy(Protocol):
    """Wires a student: from what it may use to the step that predicts T."""

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
class Naive:
    """Train the student on the weak labels, as they are or transformed (Burns et al. 2023, section 3)."""

    source: ClassVar[str] = "Burns et al. 2023 (arXiv 2312.09390), section 3"
    cost: ClassVar[str] = "one training"

    transforms: tuple[Transform, ...] = ()
    """What is done to the weak labels of B and B_val first, in this order."""
    loss: Loss = field(default_factory=Xent)

    def __call__(self, setup: Setup) -> Step:
        used = setup.transformed(*self.transforms)
        return used.predict(used.fit(used.weak, self.loss))


@strategy("confidence")
class Confidence:
    """Train with the auxiliary confidence loss (Burns et al. 2023, section 4.3.2)."""

    source: ClassVar[str] = "Burns et al. 2023 (arXiv 2312.09390), section 4.3.2"
    cost: ClassVar[str] = "one training; finetuned in microbatches, one more forward pass"

    loss: LogConf = field(default_factory=LogConf)

    def __call__(self, setup: Setup) -> Step:
        return Naive(loss=self.loss)(setup)


@strategy("shuffled")
class Shuffled:
    """Control: train on the weak labels dealt to the wrong rows. Better than chance means that something leaks."""

    source: ClassVar[str] = "control"
    cost: ClassVar[str] = "one training"

    def __call__(self, setup: Setup) -> Step:
        if isinstance(setup.student.trainer, Generate):
            dealt = Step(steps.shuffle_answers, answers=setup.weak, seed=setup.seed)
        else:
            dealt = Step(steps.shuffle, labels=setup.weak, seed=setup.seed)
        return setup.predict(setup.fit(dealt, Xent()))


@strategy("clusters")
class Clusters:
    """Control without labels: k-means on the student's features, clusters named by the weak majority."""

    source: ClassVar[str] = "control"
    cost: ClassVar[str] = "k-means"

    def __call__(self, setup: Setup) -> Step:
        features, view = setup.student.frozen()
        return Step(steps.cluster, features=features, labels=setup.weak, split=setup.split, view=view, seed=setup.seed)


CONTROLS = ("shuffled", "clusters")
"""Run beside every pair; with the majority class they say what a student must beat."""


def parse_strategy(text: str) -> Strategy:
    """The strategy that ``text`` spells, such as ``confidence(loss=LogConf(alpha=0.75))``."""
    made: Strategy = STRATEGIES.parse(text)
    return made


def parse_trainer(text: str) -> Head | Finetune | Generate:
    """The trainer that ``text`` spells, such as ``probe(l2=0.1)`` or ``finetune(epochs=2)``."""
    made: Head | Finetune | Generate = TRAINERS.parse(text)
    return made


def canonical_strategy(text: str) -> str:
    """The shortest spelling of the same strategy."""
    return STRATEGIES.canonical(text)


def canonical_trainer(text: str) -> str:
    """The shortest spelling of the same trainer."""
    return TRAINERS.canonical(text)
