"""Other ways to train a student on the same labels; its ceiling is trained in the same way (design law 5).

And one that is not a method: ``oracle``, early stopping by ground truth, for analysis only.
"""

from dataclasses import dataclass, field, replace
from typing import Annotated, Any

import numpy as np

from outgrow import steps
from outgrow.data import Features, Floats, Labels, Split, positions
from outgrow.engine.graph import Step, step
from outgrow.errors import UserError
from outgrow.labels.structure import logistic_weights
from outgrow.losses import Loss, Xent
from outgrow.registry import Range
from outgrow.strategies.base import Naive, Setup, Strategy, strategy
from outgrow.strategies.trainers import FitRequest, Learner, TrainingMethod, reading_step
from outgrow.train.settings import GenerateSettings

__all__ = ["LPFT", "Anchored", "GenerativeFinetuning", "Oracle", "Regularised"]


@dataclass(frozen=True, kw_only=True)
class _Training(Strategy, TrainingMethod):
    loss: Loss = field(default_factory=Xent)

    def __call__(self, setup: Setup) -> Step:
        return Naive(loss=self.loss)(replace(setup, student=replace(setup.student, training=self)))


@strategy("regularised")
class Regularised(_Training):
    """A probe whose L2 is chosen from a grid by agreement with held-out weak labels; a single value is used as it is.

    Strong regularization as a method: tried in the appendix of Burns et al. 2023; in theory it keeps a student from
    fitting its supervisor's errors (Medvedev et al. 2025, Dong et al. 2025). Held-out weak labels have the same errors,
    so they may choose too small a value; one strong value, ``l2=(10.0,)``, avoids the choice. The ceiling chooses from
    the same grid.
    """

    version = 1
    source = "Burns et al. 2023, appendix; theory: Medvedev et al. 2025 (arXiv 2503.02877)"
    cost = "one probe for each value, all in one product"

    l2: Annotated[tuple[float, ...], Range(0)] = (0.001, 0.01, 0.1, 1.0, 10.0)
    """The grid. Of values with equal agreement and equal cross-entropy, the first is taken."""

    def __post_init__(self) -> None:
        if not self.l2:
            raise UserError("l2 of regularised is empty; give at least one number")

    def fit(self, learner: Learner, request: FitRequest) -> Step:
        fits = [replace(learner, trainer=trainer).fit(request) for trainer in learner.trainer.with_l2(self.l2)]
        return fits[0] if len(fits) == 1 else Step(best_probe, fitted=tuple(fits))


@strategy("lp-ft")
class LPFT(_Training):
    """Finetuning that starts from the head of a linear probe, so that the first updates need not bend the features.

    Kumar et al. 2022, section 3.3; modest gains in the appendix of Burns et al. 2023. The head, without bias as in all
    our finetuning, is the minimum of mean cross-entropy + ``l2`` / 2 |head|^2 on the same labels, with features scaled
    to a mean square of 1. ``loss`` is that of the finetuning.
    """

    version = 1
    source = "Kumar et al. 2022 (arXiv 2202.10054), LP-FT; Burns et al. 2023, appendix"
    cost = "one pass for features, then as finetuning"

    l2: Annotated[float, Range(0, above=True)] = 0.01

    def fit(self, learner: Learner, request: FitRequest) -> Step:
        settings = learner.trainer.finetuning("lp-ft")
        if settings.words or settings.pooling == "first":
            raise UserError("lp-ft starts the head from a probe of the last token or the mean; leave head and pooling")
        labels = {"labels": request.labels, "split": request.split, "part": request.part}
        start = Step(probe_heads, features=learner.features[0], l2=self.l2, **labels)
        return learner.fit(replace(request, start=start))


@strategy("anchored")
class Anchored(_Training):
    """Finetuning held near the pretrained weights: ``strength`` / 2 |w - start|^2 is added to the mean loss (L2-SP).

    Li et al. 2018, eq. 3, with one strength for body and head (their beta is of the order of alpha); the head starts at
    zero, where this is plain weight decay. No consistent gain in the appendix of Burns et al. 2023. Strength 0 is
    ``naive``.
    """

    version = 1
    source = "Li et al. 2018 (arXiv 1802.01483), L2-SP; Burns et al. 2023, appendix"
    cost = "one more copy of the weights"

    strength: Annotated[float, Range(0)] = 0.01

    def fit(self, learner: Learner, request: FitRequest) -> Step:
        if learner.trainer.finetuning("anchored").lora and self.strength:
            raise UserError("anchored holds weights near their start, which LoRA's adapters are not; set lora=0")
        return learner.fit(replace(request, anchor=self.strength))


@strategy("generative-finetuning")
class GenerativeFinetuning(_Training):
    """The student first reads the texts of B as a language model, without labels, and then learns the weak labels.

    Burns et al. 2023, section 5.2.2: there for reward models, on dialogs and completions with the preferences ignored.
    All candidates of a choice are read. Every text begins with the tokenizer's first special token and ends with the
    end of text, even if it is cut; its loss is the sum over its tokens. The ceiling reads the same texts. Zero epochs
    is ``naive``.
    """

    version = 1
    source = "Burns et al. 2023 (arXiv 2312.09390), section 5.2.2"
    cost = "one language-model training on the texts of B, shared with the ceiling"

    epochs: Annotated[int, Range(0)] = 1
    """Over the texts of B and B_val."""
    lr: Annotated[float, Range(0, 1, above=True)] = 1e-5
    """Peak learning rate of the reading."""
    max_tokens: Annotated[int, Range(3)] = 128
    """Texts are cut to this many tokens, including the one before and the one after them."""

    def reading(self, student: Learner) -> Step | None:
        """That of the language model, which reads less than the classifier after it."""
        return reading_step(student, self.max_tokens - 2, "plain") if self.epochs else None

    def fit(self, learner: Learner, request: FitRequest) -> Step:
        name = "generative-finetuning"
        settings = learner.trainer.finetuning(name)
        learner.model.check_language_model(f"{name} reads texts as a language model")
        if self.epochs == 0:
            return learner.fit(request)
        if settings.lora:
            raise UserError(f"{name} changes the weights that LoRA's adapters would be put on; set lora=0")
        writes = GenerateSettings(
            epochs=self.epochs,
            batch_size=settings.batch_size,
            lr=self.lr,
            precision=settings.precision,
            max_tokens=self.max_tokens,
            max_answer=self.max_tokens - 1,
        )
        texts = {"model": learner.model, "texts": learner.texts, "answers": None, "split": request.split}
        read = Step(steps.finetune_lm, part=request.part, settings=writes, seed=request.seed, **texts)
        return learner.fit(replace(request, start=read))


@strategy("oracle")
class Oracle(Strategy):
    """Analysis, not a method: weak labels, but early stopping by the gold of B_val, which no student may see.

    The ground-truth early stopping of Burns et al. 2023, section 5.1.1 and figures 7, 13 and 17. They call it
    "cheating", as it uses the test set; ours uses held-out rows of B, so the test stays untouched. It shows what
    stopping at the right time would have gained. No other strategy lets gold of B reach a student.
    """

    version = 1
    source = "Burns et al. 2023 (arXiv 2312.09390), section 5.1.1; for analysis only"
    cost = "one training"

    loss: Loss = field(default_factory=Xent)

    def __call__(self, setup: Setup) -> Step:
        if not setup.student.trainer.early_stopping:
            raise UserError("oracle is early stopping by ground truth, and this trainer does not stop early")
        if setup.gold_b_val is None:
            raise UserError("oracle stops by the gold of B, and rows of B have none here; leave oracle out")
        if setup.student.validation is not None:
            raise UserError(
                "oracle is early stopping by ground truth, so no second supervisor has a say; leave out "
                "validate_with=..., or the strategy oracle"
            )
        stopped = replace(setup.student, validation=setup.gold_b_val)
        return Naive(loss=self.loss)(replace(setup, student=stopped))


# --- their steps ------------------------------------------------------------------------------------------------------


@step(version=1)
def best_probe(fitted: tuple[Any, ...]) -> Any:
    """The probe whose best epoch agrees best with its held-out labels; the lower cross-entropy decides a tie."""

    def merit(probe: Any) -> tuple[float, float]:
        best = probe.history[probe.best_epoch]
        return best["agreement"], -best["xent"]

    return max(fitted, key=merit)


@step(version=1)
def probe_heads(features: Features, labels: Labels, split: Split, part: str, l2: float) -> Any:
    """Heads for a classifier of the same model to begin with, from a linear probe of what each pooling reads."""
    import torch

    from outgrow.train.model import StartingHead

    train = labels.take(split.parts[part])
    rows = positions(train.ids, features.ids)
    views = {"last": features.views["last_token"], "mean": features.views["mean"]}
    heads = {name: torch.from_numpy(linear_head(view[rows], train.probs, l2)) for name, view in views.items()}
    return StartingHead(heads=heads)


def linear_head(features: Floats, targets: Floats, l2: float) -> Floats:
    """The head (C, d), or (1, d) for choices, that is the minimum of mean cross-entropy + l2 / 2 |head|^2.

    ``features`` is (n, d), or (n, C, d) of choices, divided by their root mean square for the fit; ``targets`` (n, C).
    """
    from threadpoolctl import threadpool_limits

    scale = float(np.sqrt(np.mean(np.square(features, dtype=np.float64)))) or 1.0
    vectors = 1 if features.ndim == 3 else targets.shape[1]
    with threadpool_limits(limits=1):  # sums in one order, the same bits
        head = logistic_weights(
            features.astype(np.float64) / scale, targets, l2, vectors=vectors, bias=False, gtol=1e-9
        )
    return (head / scale).astype(np.float32)
