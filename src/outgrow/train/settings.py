"""How a transformer is trained: everything that changes the result. What does not, such as the device, the microbatch
size and gradient checkpointing, is in ``Runtime``.
"""

from dataclasses import dataclass
from typing import Annotated

from outgrow.errors import UserError
from outgrow.registry import ClassShares, OneOf, Range

__all__ = ["FinetuneSettings", "GenerateSettings", "OptimizerSettings"]


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """What every way to train a transformer's weights needs."""

    epochs: Annotated[int, Range(1)] = 2
    batch_size: Annotated[int, Range(1)] = 32
    lr: Annotated[float, Range(0, 1, above=True)] = 5e-5
    """Peak learning rate; 5e-5 is the released code's for models up to gpt2-medium, 1e-5 for larger ones."""
    optimizer: Annotated[str, OneOf("adamw", "adafactor")] = "adamw"
    """``adamw`` or ``adafactor`` (less memory), both torch's."""
    weight_decay: Annotated[float, Range(0)] = 0.0
    """On matrices only; never on biases and norms."""
    schedule: Annotated[str, OneOf("linear", "cosine", "constant")] = "linear"
    """Fall of the learning rate after warm-up: ``linear`` or ``cosine`` to zero, or ``constant``."""
    warmup: Annotated[float, Range(0, 1)] = 0.1
    """Share of all updates over which the learning rate rises linearly."""
    clip: Annotated[float, Range(0)] = 1.0
    """Largest norm of the gradient of the whole batch; 0 clips nothing."""
    precision: Annotated[str, OneOf("fp32", "bf16")] = "fp32"
    """``bf16`` runs the model in bfloat16 by autocast; weights, optimizer and loss stay float32."""
    max_tokens: Annotated[int | None, Range(1)] = None
    """Texts are cut to their first so many tokens, including special tokens; by default to 512, or as many as the model
    can take if those are fewer."""


@dataclass(frozen=True, kw_only=True)
class FinetuneSettings(OptimizerSettings):
    """A classifier whose weights, or LoRA adapters, are trained.

    Burns et al. 2023 report two epochs, batches of 32 and early stopping on weak labels, but neither optimizer nor
    learning rates. Fields that follow the released code instead say so.

    Raises:
        UserError: if only one of ``head='words'`` and ``words`` is given.
    """

    dropout: bool = False
    """Keep the model's own dropout. Off as in the released code: with dropout, the result depends on
    ``Runtime.microbatch`` and the number of processes."""
    lora: Annotated[int, Range(0)] = 0
    """Rank of LoRA adapters on every linear layer, scaled by alpha = 2 * rank; 0 finetunes all weights."""
    head: Annotated[str, OneOf("zero", "words")] = "zero"
    """Start of the head: ``zero``, or ``words``: the unembedding rows of ``words`` (decoders only). The paper is
    reported to use the words 0 and 1."""
    words: tuple[str, ...] = ()
    """One label word for each class, each a single token, such as ("no", "yes")."""
    pooling: Annotated[str, OneOf("auto", "last", "first", "mean")] = "auto"
    """What the head reads: the ``last`` token, the ``first``, or the ``mean`` of all; ``auto`` is ``last`` for decoders
    and ``mean`` for encoders."""
    early_stopping: bool = True
    """Keep the weights that agree best with the labels of the validation rows (weak labels, never ground truth)."""
    checks: Annotated[int, Range(1)] = 4
    """Checks on the validation rows in each epoch, the last at its end."""
    shares: Annotated[str | tuple[float, ...], ClassShares("none", "weak", "uniform")] = "none"
    """Shift the trained model's logits until its classes occur as often as this says; as in a probe."""

    def __post_init__(self) -> None:
        if (self.head == "words") != bool(self.words):
            raise UserError(f"head={self.head!r} with words={self.words!r}; head='words' and words=(...) go together")


@dataclass(frozen=True, kw_only=True)
class GenerateSettings(OptimizerSettings):
    """A language model that learns to write answers.

    For their chess puzzles Burns et al. 2023 report five epochs, batches of 32, no early stopping and decoding at
    temperature 0, but neither optimizer nor learning rate.

    Raises:
        UserError: if an answer leaves no token for the prompt.
    """

    epochs: Annotated[int, Range(1)] = 5
    max_tokens: Annotated[int, Range(1)] = 256
    """Prompt and answer together; a longer prompt is cut to its last tokens, which are next to the answer."""
    max_answer: Annotated[int, Range(1)] = 8
    """The most tokens of an answer, including the end of text."""

    def __post_init__(self) -> None:
        if self.max_tokens <= self.max_answer:
            raise UserError(f"max_tokens={self.max_tokens} leaves no room beside max_answer={self.max_answer}")
