"""Trainers: how a model learns labels. A trainer is a frozen dataclass whose fields are the settings its engine reads.

Register another with :func:`trainer`; its name and fields are then spelled the same in Python, in YAML and on the
command line.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, ClassVar, Protocol, Self, TypeVar, dataclass_transform, runtime_checkable

from outgrow import steps
from outgrow.data import Question
from outgrow.engine.graph import Step
from outgrow.errors import UserError
from outgrow.losses import Loss, Xent
from outgrow.models.settings import ASKED, ASKED_OR_MEAN, HeadSettings, LogisticSettings, ProbeSettings
from outgrow.models.spec import LANGUAGE_MODELS, ModelSpec
from outgrow.registry import Registered, Registry
from outgrow.train.settings import FinetuneSettings, GenerateSettings

__all__ = [
    "TRAINERS",
    "FitRequest",
    "Learner",
    "Trainer",
    "TrainingMethod",
    "parse_trainer",
    "trainer",
]


@dataclass(frozen=True, kw_only=True)
class FitRequest:
    """What a model is to learn."""

    labels: Step
    split: Step
    part: str
    """The rows to train on; early stopping looks at those of ``<part>_val``."""
    loss: Loss = field(default_factory=Xent)
    seed: int
    rows: Step | None = None
    """Labels of drawn rows to train on instead of the part's; a row drawn twice counts twice."""
    start: Step | None = None
    """A result whose ``begin`` gives tensors of the untrained classifier to start from."""
    anchor: float = 0.0
    """Weight of |w - w at the start|^2 / 2, added to the loss."""


class Trainer(Registered, Protocol):
    """How a model learns labels and then gives its own. Inherit from this class and override what differs.

    A trainer does all that a :class:`FitRequest` asks, or raises :class:`UserError` while the experiment is planned.
    """

    output: ClassVar[str] = "probs"
    """``probs`` for class probabilities, ``text`` for written answers."""
    seeded: ClassVar[bool] = True
    """Whether the result depends on the seed."""
    early_stopping: bool = False
    """Whether held-out labels decide when training stops. Most trainers make it a field."""
    shares: str | tuple[float, ...] = "none"
    """How often the trained model should say each class; a trainer of classes makes it a field."""

    def check(self, learner: "Learner") -> None:
        """Raise :class:`UserError` for a model that cannot be trained this way."""
        return

    def probed(self) -> "Trainer":
        """The linear probe that reads as much of each text as this trainer does; the trainer itself if it is one."""
        return Probe()

    def features(self, learner: "Learner") -> tuple[Step, str]:
        """Features of all texts from the model before any training, and the name of the view that a probe reads."""
        return self.probed().features(learner)

    def asked(self, learner: "Learner") -> Step:
        """What the model makes of the task's question before any training, see :func:`outgrow.steps.ask`."""
        return self.probed().asked(learner)

    def view_of(self, model: ModelSpec) -> str | None:
        """The view of the model that this trainer reads; None where it is no probe."""
        return None

    def reading(self, learner: "Learner") -> Step | None:
        """The step that counts the texts this trainer cuts; None where it reads them whole, or does not say."""
        return None

    def with_l2(self, values: Sequence[float]) -> "list[Trainer]":
        """This trainer with each of these strengths of L2; held-out labels choose among the models it makes."""
        raise UserError("regularised is a probe's L2; to keep finetuned weights near their start take anchored")

    def finetuning(self, what: str) -> FinetuneSettings:
        """The settings of the finetuning to which ``what``, a strategy's name, adds a start or an anchor."""
        name = TRAINERS.name_of(self)
        raise UserError(f"{what} changes how a classifier is finetuned, which {name} does not do; train with finetune")

    def fit(self, learner: "Learner", request: FitRequest) -> Step:
        """The step whose result is the trained model."""
        ...

    def predict(self, learner: "Learner", fitted: Step, split: Step, parts: tuple[str, ...]) -> Step:
        """The step whose result is the trained model's :class:`outgrow.data.Labels` on some parts, or its
        :class:`outgrow.data.Answers` if the output is text."""
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
    """A strategy that changes how the trainer trains; the ceiling is then trained the same way."""
    question: Question = field(default_factory=Question)
    """What the task asks, for models that are asked."""
    validation: Step | None = None
    """Labels of B_val by who did not teach. What is learned on B is stopped and chosen by these, not by its own."""

    def __post_init__(self) -> None:
        self.trainer.check(self)

    @cached_property
    def features(self) -> tuple[Step, str]:
        """See :meth:`Trainer.features`."""
        return self.trainer.features(self)

    @property
    def view(self) -> str | None:
        """The view that a probe of the model reads; None where it is trained another way."""
        return self.trainer.view_of(self.model)

    @property
    def asked(self) -> Step:
        """What the model makes of the task's question, see :func:`outgrow.steps.ask`; cut and as precise as its own
        features."""
        return self.trainer.asked(self)

    @property
    def reading_asked(self) -> Step:
        """The step that counts the texts that are cut inside the task's question."""
        given = {name: self.asked.args[name] for name in ("model", "texts", "max_tokens", "question")}
        return Step(steps.measure_asking, **given)

    @property
    def writes(self) -> bool:
        """Whether it works with written answers instead of class probabilities."""
        return self.trainer.output == "text"

    def check_classifies(self, what: str) -> None:
        """Check that it works with class probabilities, as ``what`` does.

        Raises:
            UserError: if it writes answers.
        """
        if self.writes:
            raise UserError(f"{what} class probabilities, and {TRAINERS.name_of(self.trainer)} writes answers")

    def for_model(self, text: str) -> "Learner":
        """A learner of the model that ``text`` spells, with the same trainer.

        Raises:
            UserError: if the model is unknown, or reads images and this one texts, or the other way round.
        """
        model, reads = ModelSpec.parse(text), self.model.reads
        if reads is not None and model.reads not in (None, reads):
            raise UserError(f"{text} reads {model.reads}s and {self.model} reads {reads}s; take one that fits")
        return replace(self, model=model, training=None)

    def gold(self, pool: Step, split: Step, parts: tuple[str, ...]) -> Step:
        """The truth on some parts, as classes or written answers."""
        return Step(steps.gold_answers if self.writes else steps.gold, pool=pool, split=split, parts=parts)

    def shuffled(self, labels: Step, seed: int) -> Step:
        """The same labels or answers, dealt to other rows."""
        if self.writes:
            return Step(steps.shuffle_answers, answers=labels, seed=seed)
        return Step(steps.shuffle, labels=labels, seed=seed)

    def fit(self, request: FitRequest) -> Step:
        """The step whose result is the trained model.

        Raises:
            UserError: if the trainer cannot do what is requested.
        """
        if request.start is not None or request.anchor:
            self.trainer.finetuning("a start or an anchor")
        if self.validation is not None and request.part == "B":
            given = {"labels": request.labels, "split": request.split, "part": request.part}
            judged = Step(steps.judged_by, validation=self.validation, **given)
            return replace(self, validation=None).fit(replace(request, labels=judged))
        if self.training is not None:
            return self.training.fit(replace(self, training=None), request)
        return self.matched(self.trainer.fit(self, request), request, self.trainer.shares)

    def matched(self, fitted: Step, request: FitRequest, shares: "Step | str | tuple[float, ...]") -> Step:
        """The trained model with its class shares matched; as it is for ``none``."""
        if shares == "none":
            return fitted
        said = self.trainer.predict(self, fitted, request.split, steps.NOT_T)
        given = {"labels": request.labels, "split": request.split, "part": request.part, "rows": request.rows}
        return Step(steps.match_shares, fitted=fitted, said=said, shares=shares, **given)

    def predict(self, fitted: Step, split: Step, parts: tuple[str, ...]) -> Step:
        """The step whose result is what the trained model says about some parts."""
        return self.trainer.predict(self, fitted, split, parts)


@runtime_checkable
class TrainingMethod(Protocol):
    """A strategy that changes how a model is trained, and not on what: its ceiling must be trained the same way."""

    def fit(self, learner: Learner, request: FitRequest) -> Step:
        """The step whose result is the learner's model, trained in this strategy's way."""
        ...


def parse_trainer(text: str) -> Trainer:
    """The trainer that ``text`` spells, such as ``probe(l2=0.1)`` or ``finetune(epochs=2)``."""
    made: Trainer = TRAINERS.parse(text)
    return made


def reading_step(learner: Learner, max_tokens: int | None, kept: str = "first", texts: Step | None = None) -> Step:
    """The step that counts which of the task's texts, or of ``texts``, the learner's model cuts."""
    given = {"texts": texts or learner.texts, "max_tokens": max_tokens, "kept": kept}
    return Step(steps.measure_reading, model=learner.model, **given)


def _unmatched(trainer: Any) -> Any:
    """The trainer as the step that trains reads it: class shares are matched after it, so models are shared."""
    return trainer if trainer.shares == "none" else replace(trainer, shares="none")


# --- linear heads on frozen features ----------------------------------------------------------------------------------


class _Head(HeadSettings, Trainer):
    def check(self, learner: Learner) -> None:
        if self.view in ASKED and not learner.model.is_language_model:
            raise UserError(
                f"view={self.view!r} asks a language model, and {learner.model} is none; take view={ASKED_OR_MEAN!r}, "
                f"which is mid_mean for such models, or take a language model, such as {LANGUAGE_MODELS[0]}"
            )

    def probed(self) -> Trainer:
        return self

    def settled(self, model: ModelSpec) -> Self:
        """These settings with nothing left to the model: its own precision, and the view that it can give."""
        precision = model.precision if self.precision == "auto" else self.precision
        able = "asked" if model.is_language_model else "mid_mean"
        return replace(self, precision=precision, view=able if self.view == ASKED_OR_MEAN else self.view)

    def view_of(self, model: ModelSpec) -> str | None:
        return self.settled(model).view

    def asked(self, learner: Learner) -> Step:
        given = {"model": learner.model, "texts": learner.texts, "max_tokens": self.max_tokens}
        bf16 = self.settled(learner.model).precision == "bf16"
        return Step(steps.ask, question=learner.question, bf16=bf16, **given)

    def features(self, learner: Learner) -> tuple[Step, str]:
        model, own = learner.model, self.settled(learner.model)
        if own.view in ASKED:
            return learner.asked, own.view
        cut = None if model.is_static else self.max_tokens  # word vectors and images have no length to cut
        embed = steps.embed_bf16 if own.precision == "bf16" and not model.is_static else steps.embed
        return Step(embed, model=model, texts=learner.texts, max_tokens=cut), own.view

    def reading(self, learner: Learner) -> Step | None:
        if learner.model.is_static:
            return None
        asks = self.settled(learner.model).view in ASKED
        return learner.reading_asked if asks else reading_step(learner, self.max_tokens)

    def with_l2(self, values: Sequence[float]) -> list[Trainer]:
        return [replace(self, l2=value) for value in values]

    def predict(self, learner: Learner, fitted: Step, split: Step, parts: tuple[str, ...]) -> Step:
        return Step(steps.predict_probe, fitted=fitted, features=learner.features[0], split=split, parts=parts)

    def _given(self, learner: Learner, request: FitRequest) -> dict[str, Any]:
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
        probe = _unmatched(self.settled(learner.model))
        return Step(steps.fit_probe, probe=probe, loss=request.loss, seed=request.seed, **self._given(learner, request))


@trainer("logistic")
class Logistic(LogisticSettings, _Head):
    """A linear head on frozen features, the exact minimum of cross-entropy with L2: no epochs, no order, no seed."""

    version = 1
    seeded = False

    def fit(self, learner: Learner, request: FitRequest) -> Step:
        if request.loss != Xent():
            name = type(request.loss).__name__
            raise UserError(
                f"logistic solves cross-entropy exactly and takes no other loss; to use {name}, take probe; or name "
                "strategies without it, such as strategy='naive'"
            )
        own = _unmatched(self.settled(learner.model))
        return Step(steps.fit_logistic, logistic=own, **self._given(learner, request))


# --- a transformer's own weights --------------------------------------------------------------------------------------


class _Transformer(Trainer):
    def check(self, learner: Learner) -> None:
        if learner.model.is_static:
            raise UserError(f"{learner.model} has frozen features only and cannot be finetuned; train it with probe")


@trainer("finetune")
class Finetune(FinetuneSettings, _Transformer):
    """A transformer with a linear head, finetuned on soft labels: all weights, or LoRA adapters."""

    version = 1

    def probed(self) -> Trainer:
        return Probe(max_tokens=self.max_tokens)

    def finetuning(self, what: str) -> FinetuneSettings:
        return self

    def reading(self, learner: Learner) -> Step | None:
        return reading_step(learner, self.max_tokens)

    def fit(self, learner: Learner, request: FitRequest) -> Step:
        settings = _unmatched(self)
        return Step(steps.finetune, model=learner.model, texts=learner.texts, settings=settings, **vars(request))

    def predict(self, learner: Learner, fitted: Step, split: Step, parts: tuple[str, ...]) -> Step:
        given = {"fitted": fitted, "split": split, "parts": parts}
        return Step(steps.predict_finetuned, model=learner.model, texts=learner.texts, **given)


@trainer("generate")
class Generate(GenerateSettings, _Transformer):
    """A language model that learns to write answers from the loss of their tokens, and then writes its own."""

    version = 1
    output = "text"

    def reading(self, learner: Learner) -> Step | None:
        return reading_step(learner, self.max_tokens - self.max_answer, "last")

    def features(self, learner: Learner) -> tuple[Step, str]:
        raise UserError("generate writes answers, so there are no features to relabel or cluster by; train with probe")

    def fit(self, learner: Learner, request: FitRequest) -> Step:
        if request.loss != Xent():
            raise UserError(
                f"generate learns written answers by the language-model loss; {type(request.loss).__name__} needs "
                "class probabilities, so take the strategy naive, or another trainer"
            )
        if request.rows is not None:
            raise UserError("generate learns all answers of a part, not drawn ones; take the strategy naive")
        given = {"answers": request.labels, "split": request.split, "part": request.part, "seed": request.seed}
        return Step(steps.finetune_lm, model=learner.model, texts=learner.texts, settings=self, **given)

    def predict(self, learner: Learner, fitted: Step, split: Step, parts: tuple[str, ...]) -> Step:
        given = {"fitted": fitted, "split": split, "parts": parts}
        return Step(steps.decode, model=learner.model, texts=learner.texts, **given)
