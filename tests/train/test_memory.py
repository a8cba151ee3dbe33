"""The plan of what finetuning needs is near what it takes, and running out of memory changes the time only."""

import importlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from outgrow.errors import UserError
from outgrow.losses import LogConf, Loss, Xent
from outgrow.models.packing import layers_of
from outgrow.models.transformer import load_classifier
from outgrow.runtime import Runtime
from outgrow.train import memory
from outgrow.train.loop import FinetunedModel, finetune
from outgrow.train.memory import plan_memory
from outgrow.train.settings import FinetuneSettings
from tiny_models import KINDS, make_model, make_task

TRAINING: Any = importlib.import_module("outgrow.train.loop")
CPU = Runtime(device="cpu", say=lambda line: None)
LENGTHS = [40] * 64


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("models")
    return {kind: make_model(base / kind, kind, layers=3) for kind in KINDS}


def kept_for_backward(folder: Path, num_tokens: int, *, bf16: bool = False) -> int:
    """Bytes of activations that torch really keeps of a forward pass, the weights not counted."""
    model = load_classifier(folder, 2, max_tokens=64, pooling="mean", bf16=bf16)
    own = {p.untyped_storage()._cdata for p in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage()._cdata not in own:
            kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = model([tuple(range(1, 21))] * (num_tokens // 20))
    assert len(out)
    return sum(t.untyped_storage().nbytes() for t in kept.values())


@pytest.mark.parametrize("kind", KINDS)
def test_the_plan_counts_what_is_kept(folders: dict[str, Path], kind: str) -> None:
    model = load_classifier(folders[kind], 2, max_tokens=64)
    plan = plan_memory(folders[kind], FinetuneSettings(), LENGTHS, CPU)
    weights = sum(4 * p.numel() for p in model.body.parameters())
    assert (plan.weights, plan.gradients, plan.optimizer) == (weights, weights, 2 * weights)
    really = kept_for_backward(folders[kind], 400) / 400
    widest = 8 * (64 if kind == "gpt2" else 32)  # of the feed-forward part
    assert 0.8 < (plan.per_token - widest) / really < 1.25


@pytest.mark.parametrize("kind", KINDS)
def test_the_plan_counts_what_autocast_keeps(folders: dict[str, Path], kind: str) -> None:
    """Smaller activations, and a copy of every weight of a product."""
    few, many = (kept_for_backward(folders[kind], n, bf16=True) for n in (400, 800))
    plan = plan_memory(folders[kind], FinetuneSettings(precision="bf16"), LENGTHS, CPU)
    assert plan.copies == pytest.approx(2 * few - many, rel=0.1)  # biases are copied too, and let go earlier
    widest = 8 * (64 if kind == "gpt2" else 32)
    assert 0.8 < (plan.per_token - widest) / ((many - few) / 400) < 1.25
    assert "bfloat16 copies" in str(plan)


def test_adapters_adafactor_and_recomputing_need_less(folders: dict[str, Path]) -> None:
    folder = folders["llama"]
    full = plan_memory(folder, FinetuneSettings(), LENGTHS, CPU)
    assert plan_memory(folder, FinetuneSettings(lora=1), LENGTHS, CPU).gradients < full.gradients / 2
    assert plan_memory(folder, FinetuneSettings(optimizer="adafactor"), LENGTHS, CPU).optimizer < full.optimizer / 4
    recomputed = plan_memory(folder, FinetuneSettings(), LENGTHS, replace(CPU, gradient_checkpointing=True))
    assert recomputed.per_token < 0.6 * full.per_token


def test_a_model_that_is_cut_needs_its_share_and_whole_layers(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    full = plan_memory(folders["llama"], FinetuneSettings(), LENGTHS, CPU)
    monkeypatch.setattr("outgrow.train.distributed.size", lambda: 4)
    cut = plan_memory(folders["llama"], FinetuneSettings(), LENGTHS, replace(CPU, shard=True))
    assert (cut.weights, cut.gradients, cut.optimizer) == (full.weights // 4, full.gradients // 4, full.optimizer // 4)
    assert cut.per_token == full.per_token
    model = load_classifier(folders["llama"], 2, max_tokens=64)
    layer = sum(4 * p.numel() for p in layers_of(model.body)[0].parameters())
    # Of 3 layers 2 are whole at a time, with their gradients, and what lies outside.
    assert cut.gathered == 2 * (full.weights - layer)
    assert "whole layers" in str(cut)
    adapters = plan_memory(folders["llama"], FinetuneSettings(lora=1), LENGTHS, replace(CPU, shard=True))
    assert adapters.gathered < 0.7 * cut.gathered


def test_the_microbatch_is_what_fits(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    settings = FinetuneSettings(batch_size=32)
    plan = plan_memory(folders["bert"], settings, LENGTHS, CPU)
    assert plan.tokens == plan.batch_tokens == 32 * 40
    for tokens in (400, 40, 3):
        room = plan.fixed + tokens * plan.per_token
        monkeypatch.setattr(memory, "memory_left", lambda runtime, room=room: int(room / memory._USED) + 1)
        smaller = plan_memory(folders["bert"], settings, LENGTHS, CPU)
        assert smaller.tokens == max(tokens, 40)
        assert ("this may not fit" in str(smaller)) is (tokens < 40 * memory._USED)


@pytest.mark.parametrize("loss", [Xent(), LogConf()])
def test_running_out_of_memory_halves_the_microbatch_and_changes_no_result(
    folders: dict[str, Path], loss: Loss, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts, targets = make_task(24, seed=0)
    settings = FinetuneSettings(epochs=1, lr=1e-3)

    def train(runtime: Runtime) -> FinetunedModel:
        return finetune(folders["bert"], texts, targets, texts[:8], targets[:8], loss, settings, 0, runtime)

    expected = train(CPU)
    said: list[str] = []
    original = TRAINING.accumulate

    def scarce(*args: Any, tokens: int, **named: Any) -> float:
        value: float = original(*args, tokens=tokens, **named)
        if tokens > 50:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return value

    monkeypatch.setattr(TRAINING, "accumulate", scarce)
    found = train(replace(CPU, say=said.append))
    assert any("out of memory; going on with" in line for line in said)
    for name, value in expected.state.items():
        torch.testing.assert_close(found.state[name], value, atol=1e-5, rtol=1e-4)


def test_a_single_example_that_does_not_fit_is_said_in_one_line(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    texts, targets = make_task(8, seed=0)

    def scarce(*args: Any, tokens: int, **named: Any) -> float:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    monkeypatch.setattr(TRAINING, "accumulate", scarce)
    with pytest.raises(UserError, match="ran out on a single example") as error:
        finetune(folders["bert"], texts, targets, texts, targets, Xent(), FinetuneSettings(epochs=1), 0, CPU)
    assert "\n" not in str(error.value)


def test_other_errors_are_not_taken_for_a_lack_of_memory(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    texts, targets = make_task(8, seed=0)

    def broken(*args: Any, **named: Any) -> float:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(TRAINING, "accumulate", broken)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        finetune(folders["bert"], texts, targets, texts, targets, Xent(), FinetuneSettings(epochs=1), 0, CPU)


def test_with_dropout_the_free_memory_decides_nothing(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its masks depend on the microbatches, so they are the user's to choose, and running out is said."""
    texts, targets = make_task(24, seed=0)
    settings = FinetuneSettings(epochs=1, dropout=True)

    def train() -> FinetunedModel:
        return finetune(folders["bert"], texts, targets, texts[:8], targets[:8], Xent(), settings, 0, CPU)

    expected = train()
    monkeypatch.setattr(memory, "memory_left", lambda runtime: 1)
    found = train()
    assert all(torch.equal(found.state[name], value) for name, value in expected.state.items())

    def scarce(*args: Any, tokens: int, **named: Any) -> float:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(TRAINING, "accumulate", scarce)
    with pytest.raises(UserError, match="give a smaller microbatch="):
        train()
