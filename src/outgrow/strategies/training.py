"""Other ways to train a student on the same labels: its ceiling is trained in the same way (design law 4).

And one that is no method: ``oracle``, early stopping by ground truth, for analysis only.
"""

from collections.abc import Mapping
from dataclasses import field, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from outgrow.data import Examples, Features, Floats, Labels, Split, positions
from outgrow.engine.graph import Step, step
from outgrow.errors import UserError
from outgrow.losses import Loss, Xent
from outgrow.models.settings import Head, Logistic, Probe
from outgrow.models.spec import ModelSpec
from outgrow.runtime import Runtime
from outgrow.strategies.base import Learner, Naive, Setup, TrainingMethod, strategy
from outgrow.train.settings import Finetune, Generate

if TYPE_CHECKING:
    from outgrow.train.model import FinetunedModel

__all__ = ["LPFT", "Anchored", "Generative", "Oracle", "Regularised"]


@strategy("regularised")
class Regularised:
    """A probe with the L2 of a grid that agrees best with held-out weak labels; one value is that value.

    Strong regularisation as a method: tried in the appendix of Burns et al. 2023; in theory what keeps a student from
    fitting its supervisor's errors (Medvedev et al. 2025, Dong et al. 2025). Held-out weak labels hold the same errors,
    so they may choose too little of it; a single strong value, ``l2=(10.0,)``, is the fixed form. The ceiling chooses
    from the same grid.
    """

    source: ClassVar[str] = "Burns et al. 2023, appendix; theory: Medvedev et al. 2025 (arXiv 2503.02877)"
    cost: ClassVar[str] = "one probe for each value, all in one product"

    l2: tuple[float, ...] = (0.001, 0.01, 0.1, 1.0, 10.0)
    """The grid; of values that agree equally well, in both agreement and cross-entropy, the first is taken."""
    loss: Loss = field(default_factory=Xent)

    def __post_init__(self) -> None:
        if not self.l2 or min(self.l2) < 0:
            raise UserError(f"l2 of regularised is {self.l2}; give at least one number, none below 0")

    def __call__(self, setup: Setup) -> Step:
        return _trained_by(self, setup, self.loss)

    def fit(self, learner: Learner, labels: Step, split: Step, part: str, loss: Loss, seed: int) -> Step:
        """See :class:`TrainingMethod`."""
        if not isinstance(learner.trainer, Head):
            raise UserError("regularised is a probe's L2; to keep finetuned weights near their start take anchored")
        if len(self.l2) > 1 and isinstance(learner.trainer, Probe) and not learner.trainer.early_stopping:
            raise UserError("regularised chooses by held-out labels; give one l2, or leave early_stopping on")
        trainers = [replace(learner.trainer, l2=value) for value in self.l2]
        fits = [replace(learner, trainer=trainer).fit(labels, split, part, loss, seed) for trainer in trainers]
        return fits[0] if len(fits) == 1 else Step(best_probe, fitted=tuple(fits))


@strategy("lp-ft")
class LPFT:
    """Finetuning that starts from a linear probe's head, so that the first updates need not bend the features.

    Kumar et al. 2022, section 3.3; in the appendix of Burns et al. 2023 with modest gains. The head, without bias as in
    all our finetuning, is the minimum of mean cross-entropy + ``l2`` / 2 |head|^2 on the same labels, with features
    scaled to a mean square of 1.
    """

    source: ClassVar[str] = "Kumar et al. 2022 (arXiv 2202.10054), LP-FT; Burns et al. 2023, appendix"
    cost: ClassVar[str] = "one pass for features, then as finetuning"

    l2: float = 0.01
    loss: Loss = field(default_factory=Xent)
    """Of the finetuning; the probe has cross-entropy."""

    def __post_init__(self) -> None:
        if not self.l2 > 0:
            raise UserError(f"l2 of lp-ft is {self.l2}; it must be above 0")

    def __call__(self, setup: Setup) -> Step:
        return _trained_by(self, setup, self.loss)

    def fit(self, learner: Learner, labels: Step, split: Step, part: str, loss: Loss, seed: int) -> Step:
        """See :class:`TrainingMethod`."""
        settings = _finetuned(learner, "lp-ft")
        if settings.words or settings.pooling == "first":
            raise UserError("lp-ft starts the head from a probe of the last token or the mean; leave head and pooling")
        features, _ = learner.frozen()
        given = {"labels": labels, "split": split, "part": part, "loss": loss, "settings": settings, "seed": seed}
        texts = {"model": learner.model, "texts": learner.texts}
        return Step(finetune_probed, features=features, l2=self.l2, **texts, **given)


@strategy("anchored")
class Anchored:
    """Finetuning held near the pretrained weights: ``strength`` / 2 |w - start|^2 beside the mean loss (L2-SP).

    Li et al. 2018, eq. 3, with one strength for body and head (their beta is of the order of alpha); the head starts at
    zero, where this is plain weight decay. In the appendix of Burns et al. 2023 without consistent gain. Strength 0 is
    ``naive``.
    """

    source: ClassVar[str] = "Li et al. 2018 (arXiv 1802.01483), L2-SP; Burns et al. 2023, appendix"
    cost: ClassVar[str] = "one more copy of the weights"

    strength: float = 0.01
    loss: Loss = field(default_factory=Xent)

    def __post_init__(self) -> None:
        if self.strength < 0:
            raise UserError(f"strength of anchored is {self.strength}; it must not be below 0")

    def __call__(self, setup: Setup) -> Step:
        return _trained_by(self, setup, self.loss)

    def fit(self, learner: Learner, labels: Step, split: Step, part: str, loss: Loss, seed: int) -> Step:
        """See :class:`TrainingMethod`."""
        settings = _finetuned(learner, "anchored")
        if self.strength == 0:
            return learner.fit(labels, split, part, loss, seed)
        if settings.lora:
            raise UserError("anchored holds weights near their start, which LoRA's adapters are not; set lora=0")
        given = {"labels": labels, "split": split, "part": part, "loss": loss, "settings": settings, "seed": seed}
        return Step(finetune_anchored, model=learner.model, texts=learner.texts, anchor=self.strength, **given)


@strategy("generative")
class Generative:
    """The student first reads the texts of B as a language model, no labels involved, then learns the weak labels.

    Burns et al. 2023, section 5.2.2: there for reward models, on dialogs and completions with the preferences ignored;
    of a choice, all candidates are read. Every text begins with the tokenizer's first special token and ends, where it
    is cut too, with the end of text; a text's loss is the sum over its tokens. The ceiling reads the same. No epochs is
    ``naive``.
    """

    source: ClassVar[str] = "Burns et al. 2023 (arXiv 2312.09390), section 5.2.2"
    cost: ClassVar[str] = "one language-model training on the texts of B, shared with the ceiling"

    epochs: int = 1
    """Over the texts of B and B_val."""
    lr: float = 1e-5
    """Peak learning rate of the reading."""
    max_tokens: int = 128
    """Texts are cut to so many tokens, one before and one after them counted in."""
    loss: Loss = field(default_factory=Xent)

    def __post_init__(self) -> None:
        if self.epochs < 0 or self.max_tokens < 3:
            raise UserError(f"generative has epochs={self.epochs}, max_tokens={self.max_tokens}; at least 0 and 3")
        if not 0 < self.lr < 1:
            raise UserError(f"lr of generative is {self.lr}; it must lie between 0 and 1, as 1e-5 does")

    def __call__(self, setup: Setup) -> Step:
        return _trained_by(self, setup, self.loss)

    def fit(self, learner: Learner, labels: Step, split: Step, part: str, loss: Loss, seed: int) -> Step:
        """See :class:`TrainingMethod`."""
        settings = _finetuned(learner, "generative")
        learner.model.check_language_model("generative reads texts as a language model")
        if self.epochs == 0:
            return learner.fit(labels, split, part, loss, seed)
        if settings.lora:
            raise UserError("generative changes the weights that LoRA's adapters would be put on; set lora=0")
        reading = Generate(
            epochs=self.epochs,
            batch_size=settings.batch_size,
            lr=self.lr,
            precision=settings.precision,
            max_tokens=self.max_tokens,
            max_answer=self.max_tokens - 1,
        )
        texts = {"model": learner.model, "texts": learner.texts}
        read = Step(read_texts, split=split, part=part, settings=reading, seed=seed, **texts)
        given = {"labels": labels, "split": split, "part": part, "loss": loss, "settings": settings, "seed": seed}
        return Step(finetune_reader, read=read, **texts, **given)


@strategy("oracle")
class Oracle:
    """Analysis, no method: weak labels, but stopped early by the gold of B_val, which no student may see.

    The ground-truth early stopping of Burns et al. 2023, section 5.1.1 and figures 7, 13 and 17 (there "cheating", on
    the test set; here on held-out rows of B, so that the test stays untouched): what stopping at the right time would
    have given. The one strategy that breaks the law that gold of B never reaches a student.
    """

    source: ClassVar[str] = "Burns et al. 2023 (arXiv 2312.09390), section 5.1.1; for analysis only"
    cost: ClassVar[str] = "one training"

    loss: Loss = field(default_factory=Xent)

    def __call__(self, setup: Setup) -> Step:
        trainer = setup.student.trainer
        if isinstance(trainer, Generate | Logistic) or not trainer.early_stopping:
            raise UserError("oracle is early stopping by ground truth, and this trainer does not stop early")
        assert setup.gold_b_val is not None
        labels = Step(oracle_stop, labels=setup.weak, gold=setup.gold_b_val, split=setup.split)
        return setup.predict(setup.fit(labels, self.loss))


def _trained_by(training: TrainingMethod, setup: Setup, loss: Loss) -> Step:
    return Naive(loss=loss)(replace(setup, student=replace(setup.student, training=training)))


def _finetuned(learner: Learner, name: str) -> Finetune:
    if not isinstance(learner.trainer, Finetune):
        raise UserError(f"{name} changes how a model is finetuned, and a probe leaves it as it is; train with finetune")
    return learner.trainer


# --- their steps ------------------------------------------------------------------------------------------------------


@step(version=1)
def oracle_stop(labels: Labels, gold: Labels, split: Split) -> Labels:
    """Weak labels on B, ground truth on B_val: for the strategy ``oracle`` and nothing else."""
    weak, truth = labels.take(split.parts["B"]), gold.take(split.parts["B_val"])
    probs = np.concatenate([weak.probs, truth.probs.astype(weak.probs.dtype)])
    return Labels(ids=np.concatenate([weak.ids, truth.ids]), probs=probs, source=f"{labels.source}, oracle")


@step(version=1)
def best_probe(fitted: tuple[Any, ...]) -> Any:
    """The probe whose best epoch agrees best with its held-out labels; the lower cross-entropy decides a tie."""

    def merit(probe: Any) -> tuple[float, float]:
        best = probe.history[probe.best_epoch]
        return best["agreement"], -best["xent"]

    return max(fitted, key=merit)


@step(version=2)
def finetune_anchored(
    model: ModelSpec,
    texts: Examples,
    labels: Labels,
    split: Split,
    part: str,
    loss: Loss,
    settings: Finetune,
    anchor: float,
    seed: int,
    runtime: Runtime,
) -> Any:
    """A transformer finetuned with anchor / 2 |w - start|^2 beside the loss."""
    rows = _Rows(texts, labels, split, part)
    return _finetune(model, rows, loss, settings, seed, runtime, anchor=anchor)


@step(version=2)
def finetune_probed(
    model: ModelSpec,
    texts: Examples,
    features: Features,
    labels: Labels,
    split: Split,
    part: str,
    loss: Loss,
    settings: Finetune,
    l2: float,
    seed: int,
    runtime: Runtime,
) -> Any:
    """A transformer finetuned from the head of a linear probe of its own last layer."""
    rows = _Rows(texts, labels, split, part)

    def start(first: Any) -> Mapping[str, Any]:
        view = features.views[{"last": "last_token", "mean": "mean"}[first.pooling]]
        return {"head.weight": linear_head(view[positions(rows.ids, features.ids)], rows.targets, l2)}

    return _finetune(model, rows, loss, settings, seed, runtime, start)


@step(version=2)
def read_texts(
    model: ModelSpec, texts: Examples, split: Split, part: str, settings: Generate, seed: int, runtime: Runtime
) -> Any:
    """A language model finetuned on the texts of ``part`` and ``part_val``, labels unseen."""
    from outgrow.train.lm import finetune_lm

    folder = model.folder(runtime)
    read = texts.take(split.ids((part, f"{part}_val"))).texts
    return finetune_lm(folder, [""] * len(read), read, settings, seed, runtime, cut=True)


@step(version=2)
def finetune_reader(
    model: ModelSpec,
    texts: Examples,
    read: Any,
    labels: Labels,
    split: Split,
    part: str,
    loss: Loss,
    settings: Finetune,
    seed: int,
    runtime: Runtime,
) -> Any:
    """A transformer finetuned from the weights of the language model that ``read`` texts."""

    def start(first: Any) -> Mapping[str, Any]:
        prefix = f"{first.body.base_model_prefix}."
        body = {f"body.{name.removeprefix(prefix)}": t for name, t in read.state.items() if name.startswith(prefix)}
        wanted = {name for name, _ in first.named_parameters() if name.startswith("body.")}
        assert body.keys() == wanted, "the language model's weights are not those of the body"
        return body

    return _finetune(model, _Rows(texts, labels, split, part), loss, settings, seed, runtime, start)


class _Rows:
    """Texts and labels of a part and of its held-out rows."""

    def __init__(self, texts: Examples, labels: Labels, split: Split, part: str) -> None:
        train, val = (labels.take(split.parts[name]) for name in (part, f"{part}_val"))
        self.ids, self.targets, self.val_targets = train.ids, train.probs, val.probs
        self.inputs, self.val_inputs = (texts.take(kept.ids).readings for kept in (train, val))


def _finetune(
    model: ModelSpec,
    rows: _Rows,
    loss: Loss,
    settings: Finetune,
    seed: int,
    runtime: Runtime,
    start: Any = None,
    anchor: float = 0.0,
) -> "FinetunedModel":
    """``start`` maps the untrained classifier to those of its tensors that are to begin elsewhere."""
    from outgrow.train.loop import finetune
    from outgrow.train.model import FinetunedModel, build, get_trained, outputs

    folder = model.folder(runtime)
    num_classes = rows.targets.shape[1]
    begin = None
    if start is not None:
        first = build(folder, settings, outputs(rows.inputs, num_classes), seed)
        state = {**get_trained(first), **start(first)}
        begin = FinetunedModel(state=state, settings=settings, num_classes=num_classes, history=())
    given = (rows.inputs, rows.targets, rows.val_inputs, rows.val_targets)
    return finetune(folder, *given, loss, settings, seed, runtime, start=begin, anchor=anchor)


def linear_head(features: Floats, targets: Floats, l2: float, steps: int = 200) -> Any:
    """The head (C, d), or (1, d) for choices, that is the minimum of mean cross-entropy + l2 / 2 |head|^2.

    ``features`` is (n, d), or (n, C, d) of choices, divided by their root mean square for the fit; ``targets`` (n, C).
    By L-BFGS in double precision, from zero.
    """
    import torch

    scale = float(np.sqrt(np.mean(np.square(features, dtype=np.float64)))) or 1.0
    x, wanted = (torch.from_numpy(np.asarray(a, dtype=np.float64)) for a in (features / scale, targets))
    head = torch.zeros(1 if x.ndim == 3 else wanted.shape[1], x.shape[-1], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [head], max_iter=steps, line_search_fn="strong_wolfe", tolerance_grad=1e-9, tolerance_change=0.0
    )

    def objective() -> Any:
        optimizer.zero_grad()
        logits = (x @ head.T).view(len(x), -1)
        value = -(wanted * logits.log_softmax(dim=-1)).sum(dim=-1).mean() + l2 / 2 * head.square().sum()
        torch.autograd.backward(value)
        return value

    optimizer.step(objective)  # type: ignore[no-untyped-call]
    return (head.detach() / scale).to(torch.float32)
