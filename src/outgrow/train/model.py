"""A finetuned model: what training changed and how, enough to predict together with the pretrained folder."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from outgrow.data import Reading
from outgrow.errors import NotFinite, UserError
from outgrow.models.transformer import (
    Classifier,
    Tokens,
    load_classifier,
    load_tokenizer,
    over_batches,
    tokenize,
    tokens_read,
)
from outgrow.runtime import Report, Runtime
from outgrow.train import distributed
from outgrow.train.checkpoints import trained
from outgrow.train.settings import FinetuneSettings
from outgrow.train.updates import TokenRow

__all__ = [
    "FinetunedModel",
    "StartingHead",
    "TrainedWeights",
    "build",
    "get_trained",
    "outputs",
    "predict",
    "probabilities",
    "set_trained",
    "token_rows",
    "with_adapters",
]


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainedWeights:
    """The tensors that training changed, and how it went. Saved as ``<name>.safetensors`` and ``<name>.json``."""

    name: ClassVar[str]
    read_settings: ClassVar[type[Any]]
    """The class of the settings that the engine reads."""
    state: Mapping[str, Tensor]
    """Trained tensors only, float32 on the CPU."""
    settings: Any
    history: tuple[Mapping[str, Any], ...]
    """Entries with ``step`` (updates done), ``loss`` (mean since the entry before), and what a subclass adds."""

    def save(self, folder: Path) -> None:
        """Write the tensors and the record."""
        record = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "state"}
        # Only what the engine reads: a trainer of your own may add fields.
        record["settings"] = {f.name: getattr(self.settings, f.name) for f in fields(self.read_settings)}
        save_file(dict(self.state), folder / f"{self.name}.safetensors")
        (folder / f"{self.name}.json").write_text(json.dumps(record), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what :meth:`save` wrote, to the last bit."""
        record = json.loads((folder / f"{cls.name}.json").read_text(encoding="utf-8"))
        record, settings = (
            {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
            for values in (record, record["settings"])
        )
        record["settings"] = cls.read_settings(**settings)
        return cls(**record, state=load_file(folder / f"{cls.name}.safetensors"))


@dataclass(frozen=True, kw_only=True, eq=False)
class FinetunedModel(TrainedWeights):
    """The result of :func:`outgrow.train.loop.finetune`: a trained body and head, or LoRA adapters and head.

    The history has an entry for each check, with ``agreement`` and ``cross_entropy`` with the labels of the validation
    rows (None if there are none).
    """

    name = "finetuned"
    read_settings = FinetuneSettings
    settings: FinetuneSettings
    num_classes: int
    offsets: tuple[float, ...] = ()
    """What is added to each class's logit, where class shares were matched."""

    def shifted(self, offsets: npt.NDArray[np.float64]) -> Self:
        """The same model with ``offsets`` (C,) on its logits."""
        return replace(self, offsets=tuple(offsets.tolist()))

    def begin(self, untrained: Classifier) -> Mapping[str, Tensor]:
        """All trained tensors, for an untrained classifier to start from."""
        return self.state


@dataclass(frozen=True, kw_only=True, eq=False)
class StartingHead:
    """Heads for an untrained classifier to start from, one for each pooling."""

    heads: Mapping[str, Tensor]
    """(C, d), or (1, d) for choices, by the name of the pooling."""

    def begin(self, untrained: Classifier) -> Mapping[str, Tensor]:
        """The head for an untrained classifier to start from."""
        return {"head.weight": self.heads[untrained.pooling]}

    def save(self, folder: Path) -> None:
        """Write ``heads.safetensors``."""
        save_file(dict(self.heads), folder / "heads.safetensors")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what :meth:`save` wrote."""
        return cls(heads=load_file(folder / "heads.safetensors"))


def predict(
    model_folder: Path, fitted: FinetunedModel, texts: Sequence[Reading], runtime: Runtime
) -> npt.NDArray[np.float32]:
    """Class probabilities (n, C) of texts or choices, computed as the checks in training do.

    ``model_folder`` holds the pretrained model that ``fitted`` was finetuned from.
    """
    if runtime.shard:
        others = replace(fitted, state=distributed.blank(fitted.state))
        distributed.run_on_ranks(predict, model_folder, others, texts, runtime.quiet())
    settings = replace(fitted.settings, head="zero", words=())  # the trained head replaces either start
    model = build(model_folder, settings, outputs(texts, fitted.num_classes), seed=0)
    if runtime.shard:
        distributed.shard(model, runtime.torch_device())
    set_trained(model.to(runtime.torch_device()), fitted.state)
    rows = token_rows(load_tokenizer(model_folder), texts, tokens_read(model_folder, settings.max_tokens))
    probs = probabilities(model, rows, runtime, runtime.report, together=runtime.shard)
    if not fitted.offsets:
        return probs
    logits = torch.from_numpy(probs).double().clamp_min(1e-300).log() + torch.tensor(fitted.offsets)
    return logits.softmax(dim=-1).float().numpy()


def probabilities(
    model: Classifier, rows: Sequence[TokenRow], runtime: Runtime, report: Report, *, together: bool = False
) -> npt.NDArray[np.float32]:
    """Class probabilities (n, C) of examples' token rows; leaves the model in eval mode.

    With ``together`` every rank must call: they take turns, batch by batch, and all get all of it.
    """
    model.eval()
    flat = [tokens for row in rows for tokens in row]
    turns = _in_turns if together and distributed.size() > 1 else _alone
    try:
        out = turns(model, flat, runtime, report)
    except NotFinite as found:
        raise UserError(
            f"the finetuned model gives numbers that are not finite, first for text {found.place + 1} of {len(flat)}; "
            "nothing is stored; train it with a smaller lr, or take another model"
        ) from None
    return torch.from_numpy(out).view(len(rows), -1).softmax(dim=-1).numpy()


def _alone(model: Classifier, rows: Sequence[Tokens], runtime: Runtime, report: Report) -> npt.NDArray[np.float32]:
    return over_batches(model, rows, model.head.out_features, runtime, report)


def _in_turns(model: Classifier, rows: Sequence[Tokens], runtime: Runtime, report: Report) -> npt.NDArray[np.float32]:
    """Outputs of every row; each batch is computed by one rank and sent to all."""
    turn, width = 0, model.head.out_features

    def forward(here: Sequence[Tokens]) -> Tensor:
        nonlocal turn
        turn += 1
        if (turn - 1) % distributed.size() != distributed.rank():
            return torch.zeros(len(here), width)
        with (
            torch.inference_mode(False),
            torch.no_grad(),
        ):  # or FSDP2 could not train with what it gathers
            out: Tensor = model(here)
            return out

    every = over_batches(forward, rows, width, runtime, report)
    if distributed.is_cut(model) and 0 < turn % distributed.size() <= distributed.rank():
        with torch.no_grad():  # a pass gathers weights from every rank, so all make as many
            model(rows[:1])
    distributed.all_reduce(torch.from_numpy(every))
    return every


def outputs(texts: Sequence[Reading], num_classes: int) -> int:
    """Number of outputs of the head: one for each class of a text; a single score for each candidate of a choice.

    Raises:
        ValueError: if a choice does not have one candidate for each class.
    """
    choices = [text for text in texts if not isinstance(text, str)]
    if len(choices) not in (0, len(texts)) or any(len(candidates) != num_classes for candidates in choices):
        raise ValueError(f"a choice has as many candidates as there are classes, here {num_classes}")
    return 1 if choices else num_classes


def token_rows(tokenizer: Any, texts: Sequence[Reading], max_tokens: int) -> list[TokenRow]:
    """The token rows of each example: one for a text, one for each candidate of a choice."""
    candidates = [(text,) if isinstance(text, str) else text for text in texts]
    flat = iter(tokenize(tokenizer, [text for texts in candidates for text in texts], max_tokens))
    return [tuple(islice(flat, len(texts))) for texts in candidates]


def build(folder: Path, settings: FinetuneSettings, num_outputs: int, seed: int) -> Classifier:
    """The classifier before the first update, on the CPU; ``seed`` draws the LoRA adapters.

    Raises:
        UserError: as :func:`outgrow.models.transformer.load_classifier`, or if label words would start a head that
            scores candidates.
    """
    if settings.words and num_outputs == 1:
        raise UserError("head='words' has a word for each class, but one output scores all candidates; use head='zero'")
    with torch.random.fork_rng(devices=[]):  # the caller's random state stays as it was
        torch.manual_seed(seed)
        model = load_classifier(
            folder,
            num_outputs,
            max_tokens=tokens_read(folder, settings.max_tokens),
            words=settings.words,
            pooling=settings.pooling,
            bf16=settings.precision == "bf16",
            dropout=settings.dropout,
        )
        if settings.lora:
            model.body = with_adapters(model.body, settings.lora)
    return model


def get_trained(model: nn.Module) -> dict[str, Tensor]:
    """A copy on the CPU of the tensors that training changes. If the model is cut, every rank must call, and only rank
    0 gets them."""
    state = {}
    for name, parameter in trained(model).items():
        tensor = distributed.whole(parameter.detach())
        if distributed.rank() == 0 or not distributed.is_cut(model):
            state[name] = tensor.to("cpu", copy=True).contiguous()
    return state


def set_trained(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Put back what :func:`get_trained` gave. If the model is cut, every rank must call, and rank 0's values count.

    Raises:
        UserError: if these are not exactly the trained tensors of this model.
    """
    tensors = trained(model)
    if tensors.keys() != state.keys() or any(p.shape != state[k].shape for k, p in tensors.items()):
        raise UserError("these weights belong to another model, or to other LoRA settings; use the ones they came from")
    with torch.no_grad():
        for name, parameter in tensors.items():
            distributed.spread(parameter, state[name])


def with_adapters(body: Any, rank: int) -> Any:
    """The body with LoRA adapters on every linear layer; nothing else is trained."""
    from peft import LoraConfig, inject_adapter_in_model

    # GPT-2's layers are Conv1D, stored transposed; peft would find out by itself, with a warning.
    transposed = any(type(m).__name__ == "Conv1D" for m in body.modules())
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", fan_in_fan_out=transposed)
    return inject_adapter_in_model(config, body)
