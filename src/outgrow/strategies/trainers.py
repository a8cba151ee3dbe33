"""Trainers: how a model learns labels. Each is one object with all that is particular to it.

A trainer is a frozen dataclass whose fields are the settings its engine reads. Register another with :func:`trainer`;
its name and fields are then spelled the same in Python, YAML and on the command line.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, ClassVar, Protocol, TypeVar, dataclass_transform, runtime_checkable

from outgrow import steps
from outgrow.engine.graph import Step
from outgrow.errors import UserError
from outgrow.losses import Loss, Xent
from outgrow.models.settings import HeadSettings, LogisticSettings, ProbeSettings
from outgrow.models.spec import ModelSpec
from outgrow.registry import Registered, Registry
from outgrow.train.settings import FinetuneSettings, GenerateSettings

__all__ = [
    "TRAINERS",
    "FitRequest",
    "Learner",
    "Trainer",
    "TrainingMethod",
    "canonical_trainer",
    "parse_trainer",
    "trainer",
]


@dataclass(frozen=True, kw_only=True)
class FitRequest:
    """What a model is to learn."""

    labels: Step
    split: Step
    part: str
    """Its rows are trained on; those of ``<part>_val`` decide early stopping."""
    loss: Loss = field(default_factory=Xent)
    seed: int
    rows: Step | None = None
    """Labels of drawn rows to train on in place of the part's; a row drawn twice counts twice."""
    start: Step | None = None
    """A stored result whose ``begin`` gives the tensors of an untrained classifier to start from."""
    anchor: float = 0.0
    """Weight of |w - w at the start|^2 / 2 beside the loss."""


class Trainer(Registered, Protocol):
    """How a model learns labels and then gives its own. Inherit from it: what you do not override stays as it is here.

    A trainer refuses what it cannot do with a :class:`UserError`, when experiments are planned.
    """

    output: ClassVar[str] = "probs"
    """``probs`` for class probabilities, ``text`` for written answers."""
    seeded: ClassVar[bool] = True
    """Whether the result depends on the seed."""
    early_stopping: bool = False
    """Whether held-out labels decide when training stops."""

    def check(self, learner: "Learner") -> None:
        """Refuse a model that cannot be trained this way."""
        return

    def probed(self) -> "Trainer":
        """A linear probe that reads as much of each text as this trainer; itself where it is one."""
        return Probe()

    def features(self, learner: "Learner") -> tuple[Step, str]:
        """Frozen features of all texts, as the model is before any training, and the view of them that is probed."""
        return self.probed().features(learner)

    def with_l2(self, values: Sequence[float]) -> "list[Trainer]":
        """This trainer at each strength of L2, for models of which held-out labels choose one."""
        raise UserError("regularised is a probe's L2; to keep finetuned weights near their start take anchored")

    def finetuning(self, what: str) -> FinetuneSettings:
        """The settings of the finetuning that ``what`` (a strategy's name) changes by a start or an anchor."""
        name = TRAINERS.name_of(self)
        raise UserError(f"{what} changes how a classifier is finetuned, which {name} does not do; train with finetune")

    def fit(self, learner: "Learner", request: FitRequest) -> Step:
        """The step whose result is the trained model."""
        ...

    def predict(self, learner: "Learner", fitted: Step, split: Step, parts: tuple[str, ...]) -> Step:
        """The step whose result is what a trained model says of some parts: :class:`outgrow.data.Labels`, or
        :class:`outgrow.data.Answers` where the output is text."""
        ...


TRAINERS: Registry[type[Any]] = Registry("trainer", "trainers", Trainer)
"""Every trainer by the name that spells it."""

T = TypeVar("T", bound=type[Any])


@dataclass_transform(frozen_default=True, kw_only_default=True)
def trainer(name: str) -> Callable[[T], T]:
    """Register a class as the trainer ``name``; see :meth:`outgrow.registry.Registry.add_class`."""
    return partial(TRAINERS.add_class, name)


@dataclass(frozen=True, kw_only=True)
class Learner:
    """A model and how it is trained."""

    model: ModelSpec
    trainer: Trainer
    texts: Step
    """The task's pool of texts, without gold."""
    training: "TrainingMethod | None" = None
    """A strategy that trains in another way than the trainer's own; its ceiling is then trained so too."""

    def __post_init__(self) -> None:
        self.trainer.check(self)

    @cached_property
    def features(self) -> tuple[Step, str]:
        """See :meth:`Trainer.features`."""
        return self.trainer.features(self)

    @property
    def writes(self) -> bool:
        """Whether it learns and gives written answers, not class probabilities."""
        return self.trainer.output == "text"

    def check_classifies(self, what: str) -> None:
        """Refuse written answers.

        Raises:
            UserError: saying that ``what`` is done with class probabilities.
        """
        if self.writes:
            raise UserError(f"{what} class probabilities, and {TRAINERS.name_of(self.trainer)} writes answers")

    def for_model(self, text: str) -> "Learner":
        """Another model, trained in the trainer's own way.

        Raises:
            UserError: for an unknown model, or one that reads something else.
        """
        model, reads = ModelSpec.parse(text), self.model.reads
        if reads is not None and model.reads not in (None, reads):
            raise UserError(f"{text} reads {model.reads}s and {self.model} reads {reads}s; take one that fits")
        return Learner(model=model, trainer=self.trainer, texts=self.texts)

    def gold(self, pool: Step, split: Step, parts: tuple[str, ...]) -> Step:
        """The truth on some parts, in the form that this learner takes."""
        return Step(steps.gold_answers if self.writes else steps.gold, pool=pool, split=split, parts=parts)

    def shuffled(self, labels: Step, seed: int) -> Step:
        """The same labels, in the form that this learner takes, dealt to other rows."""
        if self.writes:
            return Step(steps.shuffle_answers, answers=labels, seed=seed)
        return Step(steps.shuffle, labels=labels, seed=seed)

    def fit(self, request: FitRequest) -> Step:
        """The trained model."""
        if self.training is not None:
            return self.training.fit(replace(self, training=None), request)
        return self.trainer.fit(self, request)

    def predict(self, fitted: Step, split: Step, parts: tuple[str, ...]) -> Step:
        """What a trained model says of some parts."""
        return self.trainer.predict(self, fitted, split, parts)


@runtime_checkable
class TrainingMethod(Protocol):
    """A strategy that changes how a model is trained and not on what, so that its ceiling must be trained so too."""

    def fit(self, learner: Learner, request: FitRequest) -> Step:
        """The model that ``learner`` makes of what is requested, trained in this strategy's way."""
        ...


def parse_trainer(text: str) -> Trainer:
    """The trainer that ``text`` spells, such as ``probe(l2=0.1)`` or ``finetune(epochs=2)``."""
    made: Trainer = TRAINERS.parse(text)
    return made


def canonical_trainer(text: str) -> str:
    """The shortest spelling of the same trainer."""
    return TRAINERS.canonical(text)


# --- linear heads on frozen features ----------------------------------------------------------------------------------


class _Head(HeadSettings, Trainer):
    def probed(self) -> Trainer:
        return self

    def features(self, learner: Learner) -> tuple[Step, str]:
        cut = None if learner.model.is_static else self.max_tokens  # word vectors and images have no length to cut
        embed = steps.embed_bf16 if self.precision == "bf16" and cut is not None else steps.embed
        return Step(embed, model=learner.model, texts=learner.texts, max_tokens=cut), self.view

    def with_l2(self, values: Sequence[float]) -> list[Trainer]:
        return [replace(self, l2=value) for value in values]

    def predict(self, learner: Learner, fitted: Step, split: Step, parts: tuple[str, ...]) -> Step:
        return Step(steps.predict_probe, fitted=fitted, features=learner.features[0], split=split, parts=parts)

    def _given(self, learner: Learner, request: FitRequest) -> dict[str, Any]:
        """What both fitting steps take."""
        if request.start is not None or request.anchor:
            self.finetuning("a start or an anchor")
        given = {"labels": request.labels, "split": request.split, "part": request.part, "rows": request.rows}
        return {"features": learner.features[0], **given}


@trainer("probe")
class Probe(ProbeSettings, _Head):
    """A linear head on frozen features, trained by minibatch Adam with L2."""

    version = 1

    def with_l2(self, values: Sequence[float]) -> list[Trainer]:
        if len(values) > 1 and not self.early_stopping:
            raise UserError("regularised chooses by held-out labels; give one l2, or leave early_stopping on")
        return super().with_l2(values)

    def fit(self, learner: Learner, request: FitRequest) -> Step:
        return Step(steps.fit_probe, probe=self, loss=request.loss, seed=request.seed, **self._given(learner, request))


@trainer("logistic")
class Logistic(LogisticSettings, _Head):
    """A linear head on frozen features, the exact minimum of cross-entropy with L2: no epochs, no order, no seed."""

    version = 1
    seeded = False

    def fit(self, learner: Learner, request: FitRequest) -> Step:
        if request.loss != Xent():
            raise UserError(
                f"logistic solves cross-entropy to its one minimum; {type(request.loss).__name__} depends on the way, "
                "so train with probe"
            )
        return Step(steps.fit_logistic, logistic=self, **self._given(learner, request))


# --- a transformer's own weights --------------------------------------------------------------------------------------


def _check_has_weights(model: ModelSpec) -> None:
    if model.is_static:
        raise UserError(f"{model} has frozen features only and cannot be finetuned; train it with probe")


@trainer("finetune")
class Finetune(FinetuneSettings, Trainer):
    """A transformer with a linear head, finetuned on soft labels: all weights, or LoRA adapters."""

    version = 1

    def check(self, learner: Learner) -> None:
        _check_has_weights(learner.model)

    def probed(self) -> Trainer:
        return Probe(max_tokens=self.max_tokens)

    def finetuning(self, what: str) -> FinetuneSettings:
        return self

    def fit(self, learner: Learner, request: FitRequest) -> Step:
        return Step(steps.finetune, model=learner.model, texts=learner.texts, settings=self, **vars(request))

    def predict(self, learner: Learner, fitted: Step, split: Step, parts: tuple[str, ...]) -> Step:
        given = {"fitted": fitted, "split": split, "parts": parts}
        return Step(steps.predict_finetuned, model=learner.model, texts=learner.texts, **given)


@trainer("generate")
class Generate(GenerateSettings, Trainer):
    """A language model that learns to write answers, by the loss of their tokens, and writes its own."""

    version = 1
    output = "text"

    def check(self, learner: Learner) -> None:
        _check_has_weights(learner.model)

    def features(self, learner: Learner) -> tuple[Step, str]:
        raise UserError("generate writes answers and has no features to relabel or cluster by; train with probe")

    def fit(self, learner: Learner, request: FitRequest) -> Step:
        if request.loss != Xent():
            raise UserError(
                f"generate learns written answers by the language-model loss; {type(request.loss).__name__} needs "
                "class probabilities, so take the strategy naive, or another trainer"
            )
        if request.start is not None or request.anchor or request.rows is not None:
            raise UserError(
                "generate learns all answers of a part from the pretrained weights; take the strategy naive"
            )
        given = {"answers": request.labels, "split": request.split, "part": request.part, "seed": request.seed}
        return Step(steps.finetune_lm, model=learner.model, texts=learner.texts, settings=self, **given)

    def predict(self, learner: Learner, fitted: Step, split: Step, parts: tuple[str, ...]) -> Step:
        given = {"fitted": fitted, "split": split, "parts": parts}
        return Step(steps.decode, model=learner.model, texts=learner.texts, **given)
