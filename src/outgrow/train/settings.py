"""How a transformer is finetuned: everything that changes the result, and nothing that does not."""

from dataclasses import dataclass

from outgrow.errors import UserError, unknown_name

__all__ = ["Finetune", "Generate"]

_CHOICES = {
    "optimizer": ("adamw", "adafactor"),
    "schedule": ("linear", "cosine", "constant"),
    "precision": ("fp32", "bf16"),
    "head": ("zero", "words"),
    "pooling": ("auto", "last", "first", "mean"),
}
_AT_LEAST = {"epochs": 1, "batch_size": 1, "weight_decay": 0, "clip": 0, "lora": 0, "max_tokens": 1, "checks": 1}
_AT_LEAST_GENERATE = {**{k: _AT_LEAST[k] for k in ("epochs", "batch_size", "weight_decay", "clip")}, "max_answer": 1}


@dataclass(frozen=True, kw_only=True)
class Finetune:
    """Optimisation of a finetuned model.

    Two epochs, batches of 32 and early stopping on weak labels are reported of Burns et al. 2023 (its optimizer and
    learning rates are not); where the released code is followed instead, the field says so.

    Device, microbatch size and gradient checkpointing are not here but in ``Runtime``: they change no result.

    Raises:
        UserError: if a value is not allowed; the nearest that is, is named.
    """

    epochs: int = 2
    batch_size: int = 32
    lr: float = 5e-5
    """Peak learning rate; 5e-5 is the released code's for models up to gpt2-medium, 1e-5 for larger ones."""
    optimizer: str = "adamw"
    """``adamw`` or ``adafactor`` (less memory), both torch's."""
    weight_decay: float = 0.0
    """On matrices only; never on biases and norms."""
    schedule: str = "linear"
    """Fall of the learning rate after warm-up: ``linear`` or ``cosine`` to zero, or ``constant``."""
    warmup: float = 0.1
    """Share of all updates over which the learning rate rises linearly."""
    clip: float = 1.0
    """Largest norm of the gradient of the whole batch; 0 clips nothing."""
    precision: str = "fp32"
    """``bf16`` runs the body in bfloat16 by autocast; weights and optimizer stay float32."""
    dropout: bool = False
    """Keep the model's own dropout. Off as in the released code: with it, the masks drawn, and so the result, depend on
    ``Runtime.microbatch`` and the number of processes."""
    lora: int = 0
    """Rank of LoRA adapters on every linear layer, scaled by alpha = 2 * rank; 0 finetunes all weights."""
    head: str = "zero"
    """Start of the head: ``zero``, or ``words``: the unembedding rows of ``words`` (decoders), as is
    reported of the paper, there with the words 0 and 1."""
    words: tuple[str, ...] = ()
    """One label word for each class, each a single token, such as ("no", "yes")."""
    pooling: str = "auto"
    """What the head reads: the ``last`` token, the ``first``, the ``mean`` of all; ``auto`` is last for decoders and
    mean for encoders."""
    max_tokens: int = 128
    """Texts are cut to their first so many tokens, special tokens counted in."""
    early_stopping: bool = True
    """Keep the weights that agree best with the labels of the validation rows (weak ones; never ground truth)."""
    checks: int = 4
    """Checks on the validation rows in each epoch, the last at its end."""

    def __post_init__(self) -> None:
        _check(self, tuple(_CHOICES), _AT_LEAST)
        if (self.head == "words") != bool(self.words):
            raise UserError(f"head={self.head!r} with words={self.words!r}; head='words' and words=(...) go together")


@dataclass(frozen=True, kw_only=True)
class Generate:
    """Optimisation of a language model that learns to write answers.

    Five epochs, batches of 32, no early stopping and decoding at temperature 0 are reported of the chess puzzles of
    Burns et al. 2023; optimizer and learning rate are not.

    Raises:
        UserError: if a value is not allowed; the nearest that is, is named.
    """

    epochs: int = 5
    batch_size: int = 32
    lr: float = 5e-5
    """Peak learning rate."""
    optimizer: str = "adamw"
    """``adamw`` or ``adafactor`` (less memory), both torch's."""
    weight_decay: float = 0.0
    """On matrices only; never on biases and norms."""
    schedule: str = "linear"
    """Fall of the learning rate after warm-up: ``linear`` or ``cosine`` to zero, or ``constant``."""
    warmup: float = 0.1
    """Share of all updates over which the learning rate rises linearly."""
    clip: float = 1.0
    """Largest norm of the gradient of the whole batch; 0 clips nothing."""
    precision: str = "fp32"
    """``bf16`` runs the model in bfloat16 by autocast; weights, optimizer and loss stay float32."""
    max_tokens: int = 256
    """Prompt and answer together; a longer prompt is cut to its last tokens, those next to the answer."""
    max_answer: int = 8
    """Tokens of an answer, the end of text counted in."""

    def __post_init__(self) -> None:
        _check(self, ("optimizer", "schedule", "precision"), _AT_LEAST_GENERATE)
        if self.max_tokens <= self.max_answer:
            raise UserError(f"max_tokens={self.max_tokens} leaves no room beside max_answer={self.max_answer}")


def _check(settings: Finetune | Generate, choices: tuple[str, ...], at_least: dict[str, int]) -> None:
    for name in choices:
        if getattr(settings, name) not in _CHOICES[name]:
            raise unknown_name(name, getattr(settings, name), _CHOICES[name])
    for name, least in at_least.items():
        if not getattr(settings, name) >= least:
            raise UserError(f"{name}={getattr(settings, name)} is too small; it must be at least {least}")
    if not 0 < settings.lr < 1:
        raise UserError(f"lr={settings.lr} must lie between 0 and 1, as 5e-5 does")
    if not 0 <= settings.warmup < 1:
        raise UserError(f"warmup={settings.warmup} is a share of the updates; it must lie in [0, 1), as 0.1 does")
