"""A finetuned model: what training changed and how, enough to predict with the pretrained folder beside it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from outgrow.errors import UserError
from outgrow.models.transformer import Classifier, Tokens, load_classifier, load_tokenizer, over_batches, tokenize
from outgrow.runtime import Report, Runtime
from outgrow.train.settings import Finetune

__all__ = ["FinetunedModel", "build", "predict", "probabilities", "put", "taken"]


@dataclass(frozen=True, kw_only=True, eq=False)
class FinetunedModel:
    """The result of :func:`outgrow.train.finetune.finetune`."""

    state: Mapping[str, Tensor]
    """Trained tensors only, float32 on the CPU: body and head, or LoRA adapters and head."""
    settings: Finetune
    num_classes: int
    history: tuple[Mapping[str, Any], ...]
    """One entry for each check: ``step`` (updates done), ``loss`` (mean since the last check), ``agreement`` and
    ``cross_entropy`` with the labels of the validation rows (None where there are none)."""

    def save(self, folder: Path) -> None:
        """Write ``finetuned.safetensors`` and ``finetuned.json``."""
        record = {"settings": asdict(self.settings), "num_classes": self.num_classes, "history": self.history}
        save_file(dict(self.state), folder / "finetuned.safetensors")
        (folder / "finetuned.json").write_text(json.dumps(record), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what :meth:`save` wrote, to the last bit."""
        record = json.loads((folder / "finetuned.json").read_text(encoding="utf-8"))
        settings = Finetune(**{**record["settings"], "words": tuple(record["settings"]["words"])})
        state = load_file(folder / "finetuned.safetensors")
        history = tuple(record["history"])
        return cls(state=state, settings=settings, num_classes=record["num_classes"], history=history)


def predict(
    model_folder: Path, fitted: FinetunedModel, texts: Sequence[str], runtime: Runtime
) -> npt.NDArray[np.float32]:
    """Class probabilities (n, C) of texts, by the same computation that the checks in training use.

    ``model_folder`` holds the pretrained model that ``fitted`` was finetuned from.
    """
    settings = replace(fitted.settings, head="zero", words=())  # the trained head takes the place of either start
    model = build(model_folder, settings, fitted.num_classes, seed=0)
    put(model, fitted.state)
    rows = tokenize(load_tokenizer(model_folder), texts, settings.max_tokens)
    return probabilities(model.to(runtime.torch_device()), rows, runtime, runtime.report)


def probabilities(
    model: Classifier, rows: Sequence[Tokens], runtime: Runtime, report: Report
) -> npt.NDArray[np.float32]:
    """Class probabilities (n, C) of token rows; leaves the model in eval mode."""
    model.eval()
    width = model.head.out_features
    return over_batches(lambda batch: model(batch).softmax(dim=-1), rows, width, runtime, report)


def build(folder: Path, settings: Finetune, num_classes: int, seed: int) -> Classifier:
    """The classifier as it is before the first update; ``seed`` draws the LoRA adapters. On the CPU."""
    with torch.random.fork_rng(devices=[]):  # a fork: the caller's random state is left as it was
        torch.manual_seed(seed)
        model = load_classifier(
            folder,
            num_classes,
            max_tokens=settings.max_tokens,
            words=settings.words,
            pooling=settings.pooling,
            bf16=settings.precision == "bf16",
            dropout=settings.dropout,
        )
        if settings.lora:
            model.body = _with_adapters(model.body, settings.lora)
    return model


def taken(model: Classifier) -> dict[str, Tensor]:
    """A copy on the CPU of the tensors that training changes."""
    return {k: p.detach().to("cpu", copy=True).contiguous() for k, p in model.named_parameters() if p.requires_grad}


def put(model: Classifier, state: Mapping[str, Tensor]) -> None:
    """Put back what :func:`taken` took.

    Raises:
        UserError: if these are not the trained tensors of this model, all of them and no others.
    """
    trained = {k: p for k, p in model.named_parameters() if p.requires_grad}
    if trained.keys() != state.keys() or any(p.shape != state[k].shape for k, p in trained.items()):
        raise UserError("these weights belong to another model, or to other LoRA settings; use the ones they came from")
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(state[name])


def _with_adapters(body: Any, rank: int) -> Any:
    from peft import LoraConfig, inject_adapter_in_model

    # GPT-2's layers are Conv1D, stored transposed; said here, peft need not warn that it found out by itself.
    transposed = any(type(m).__name__ == "Conv1D" for m in body.modules())
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", fan_in_fan_out=transposed)
    return inject_adapter_in_model(config, body)
