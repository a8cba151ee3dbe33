"""How a transformer is trained: everything that changes the result, and nothing that does not.

Device, microbatch size and gradient checkpointing are not here but in ``Runtime``: they change no result.
"""

from dataclasses import dataclass
from typing import Annotated

from outgrow.errors import UserError
from outgrow.registry import OneOf, Range

__all__ = ["FinetuneSettings", "GenerateSettings", "OptimizerSettings"]


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """What every training of a transformer's own weights has."""

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
    max_tokens: Annotated[int, Range(1)] = 128
    """Texts are cut to their first so many tokens, special tokens included."""


@dataclass(frozen=True, kw_only=True)
class FinetuneSettings(OptimizerSettings):
    """A classifier with all its weights, or adapters, trained.

    Two epochs, batches of 32 and early stopping on weak labels are reported of Burns et al. 2023 (its optimizer and
    learning rates are not); where the released code is followed instead, the field says so.

    Raises:
        UserError: if ``head`` and ``words`` do not fit each other.
    """

    dropout: bool = False
    """Keep the model's own dropout. Off as in the released code: with it, the masks drawn, and so the result, depend on
    ``Runtime.microbatch`` and the number of processes."""
    lora: Annotated[int, Range(0)] = 0
    """Rank of LoRA adapters on every linear layer, scaled by alpha = 2 * rank; 0 finetunes all weights."""
    head: Annotated[str, OneOf("zero", "words")] = "zero"
    """Start of the head: ``zero``, or ``words``: the unembedding rows of ``words`` (decoders), as is
    reported of the paper, there with the words 0 and 1."""
    words: tuple[str, ...] = ()
    """One label word for each class, each a single token, such as ("no", "yes")."""
    pooling: Annotated[str, OneOf("auto", "last", "first", "mean")] = "auto"
    """What the head reads: the ``last`` token, the ``first``, the ``mean`` of all; ``auto`` is last for decoders and
    mean for encoders."""
    early_stopping: bool = True
    """Keep the weights that agree best with the labels of the validation rows (weak ones; never ground truth)."""
    checks: Annotated[int, Range(1)] = 4
    """Checks on the validation rows in each epoch, the last at its end."""

    def __post_init__(self) -> None:
        if (self.head == "words") != bool(self.words):
            raise UserError(f"head={self.head!r} with words={self.words!r}; head='words' and words=(...) go together")


@dataclass(frozen=True, kw_only=True)
class GenerateSettings(OptimizerSettings):
    """A language model that learns to write answers.

    Five epochs, batches of 32, no early stopping and decoding at temperature 0 are reported of the chess puzzles of
    Burns et al. 2023; optimizer and learning rate are not.

    Raises:
        UserError: if no token is left for the prompt.
    """

    epochs: Annotated[int, Range(1)] = 5
    max_tokens: Annotated[int, Range(1)] = 256
    """Prompt and answer together; a longer prompt is cut to its last tokens, those next to the answer."""
    max_answer: Annotated[int, Range(1)] = 8
    """Tokens of an answer, the end of text included."""

    def __post_init__(self) -> None:
        if self.max_tokens <= self.max_answer:
            raise UserError(f"max_tokens={self.max_tokens} leaves no room beside max_answer={self.max_answer}")
