"""Finetuning: exact batches, reproducible and resumable runs, and predictions that survive saving."""

import logging
import math
import shutil
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from outgrow.errors import UserError
from outgrow.losses import ELR, LogConf, Loss, Xent
from outgrow.models import transformer
from outgrow.models.packing import layers_of
from outgrow.models.transformer import Classifier, compile_layers, load_classifier, load_tokenizer, recompute_layers
from outgrow.runtime import Runtime
from outgrow.strategies.trainers import Finetune
from outgrow.train import checkpoints
from outgrow.train.loop import FinetunedModel, finetune, predict
from outgrow.train.model import build, token_rows
from outgrow.train.settings import FinetuneSettings
from outgrow.train.updates import accumulate, apply, batches, check_points, make_optimizer, rate
from tiny_models import KINDS, make_model, make_task

CPU = Runtime(device="cpu")
QUICK = FinetuneSettings(epochs=1, batch_size=8, lr=0.01, max_tokens=20, checks=2)
TRAIN, VAL = make_task(44, seed=1), make_task(20, seed=2)


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("models")
    return {kind: make_model(base / kind, kind) for kind in KINDS}


def train(folder: Path, settings: FinetuneSettings = QUICK, **changed: Any) -> FinetunedModel:
    arguments: dict[str, Any] = {"loss": Xent(), "seed": 0, "runtime": CPU, "start": None, "train": TRAIN, "val": VAL}
    arguments |= changed
    (texts, targets), (val_texts, val_targets) = arguments.pop("train"), arguments.pop("val")
    return finetune(folder, texts, targets, val_texts, val_targets, settings=settings, **arguments)


def same(a: FinetunedModel, b: FinetunedModel) -> bool:
    return a.history == b.history and a.state.keys() == b.state.keys() and all(
        torch.equal(a.state[k], b.state[k]) for k in a.state
    )  # fmt: skip


# --- it learns --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_learns_a_separable_task_and_predicts_it_after_saving(
    folders: dict[str, Path], kind: str, tmp_path: Path
) -> None:
    """Released code, defect 2: a finished run that is loaded again evaluates an untrained model."""
    settings = replace(QUICK, epochs=6)
    fitted = train(folders[kind], settings, train=make_task(200, seed=1))
    assert fitted.history[-1]["loss"] < 0.5 * fitted.history[0]["loss"]
    texts, gold = make_task(100, seed=3)
    fitted.save(tmp_path)
    loaded = FinetunedModel.load(tmp_path)
    assert same(fitted, loaded)
    assert loaded.settings == settings
    probs = predict(folders[kind], loaded, texts, CPU)
    assert probs.shape == (100, 2)
    assert probs.dtype == np.float32
    np.testing.assert_allclose(probs.sum(axis=1), 1, atol=1e-6)
    assert (probs.argmax(axis=1) == gold.argmax(axis=1)).mean() > 0.9
    # The very predictions that the best check in training made.
    best = max(fitted.history, key=lambda entry: (entry["agreement"], -entry["cross_entropy"]))
    val_probs = predict(folders[kind], loaded, VAL[0], CPU)
    assert float((val_probs.argmax(axis=1) == VAL[1].argmax(axis=1)).mean()) == best["agreement"]
    assert float(-(VAL[1] * np.log(val_probs)).sum(axis=1).mean()) == pytest.approx(best["cross_entropy"], abs=1e-7)


@pytest.mark.parametrize("kind", KINDS)
def test_lora_trains_adapters_and_head_only(folders: dict[str, Path], kind: str, tmp_path: Path) -> None:
    settings = replace(QUICK, lora=2)
    fitted = train(folders[kind], settings)
    assert all("lora_" in name or name == "head.weight" for name in fitted.state)
    assert len(fitted.state) > 1
    assert all(t.abs().max() > 0 for name, t in fitted.state.items() if "lora_B" in name)
    fitted.save(tmp_path)
    again = predict(folders[kind], FinetunedModel.load(tmp_path), VAL[0], CPU)
    assert (again == predict(folders[kind], fitted, VAL[0], CPU)).all()
    assert not same(fitted, train(folders[kind], settings, seed=1))


@pytest.mark.parametrize(
    "change",
    [
        {"optimizer": "adafactor", "lr": 0.05},
        {"precision": "bf16"},
        {"weight_decay": 0.1},
        {"schedule": "cosine"},
        {"clip": 0},
    ],
)
def test_other_settings_learn_too(folders: dict[str, Path], change: dict[str, Any]) -> None:
    fitted = train(folders["bert"], replace(QUICK, epochs=5, **change), train=make_task(200, seed=1))
    assert fitted.history[-1]["loss"] < 0.7 * fitted.history[0]["loss"]
    assert all(tensor.dtype == torch.float32 for tensor in fitted.state.values())


@pytest.mark.parametrize("kind", KINDS)
def test_bf16_is_in_the_products_and_nowhere_else(folders: dict[str, Path], kind: str) -> None:
    """Weights that are bfloat16 themselves lose the small steps of a small rate."""
    settings = replace(QUICK, precision="bf16")
    model = build(folders[kind], settings, 2, seed=0).train()
    seen: set[torch.dtype] = set()
    for layer in layers_of(model.body):
        product = next(m for m in layer.modules() if isinstance(m, torch.nn.Linear) or type(m).__name__ == "Conv1D")
        product.register_forward_hook(lambda module, inputs, output: seen.add(output.dtype))
    optimizer = make_optimizer(model, settings)
    accumulate(model, [((1, 2, 3),)], torch.eye(2)[:1], Xent(), 0.0, seed=(0, 0))
    assert seen == {torch.bfloat16}
    assert {p.grad.dtype for p in model.parameters() if p.grad is not None} == {torch.float32}
    before = [p.detach().clone() for p in model.parameters()]
    apply(optimizer, lr=1e-6, clip=1.0)  # bfloat16 would round such a step away
    assert any(not torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))
    assert optimizer.param_groups[0]["fused"]
    states = [v for state in optimizer.state.values() for v in state.values()]
    assert {v.dtype for v in states} == {p.dtype for p in model.parameters()} == {torch.float32}


def test_three_classes_and_soft_labels(folders: dict[str, Path]) -> None:
    targets = np.random.default_rng(0).dirichlet(np.ones(3), size=44).astype(np.float32)
    for loss in (Xent(), LogConf()):
        fitted = train(folders["gpt2"], loss=loss, train=(TRAIN[0], targets), val=(VAL[0], targets[:20]))
        assert predict(folders["gpt2"], fitted, VAL[0], CPU).shape == (20, 3)


def test_label_words_and_the_weights_of_an_earlier_run_can_be_the_start(folders: dict[str, Path]) -> None:
    barely = replace(QUICK, lr=1e-12, head="words", words=("bad", "good"), early_stopping=False)
    untouched = train(folders["gpt2"], barely)
    whole = load_classifier(folders["gpt2"], 2, max_tokens=20, words=("bad", "good"))
    torch.testing.assert_close(untouched.state["head.weight"], whole.head.weight.detach(), atol=1e-6, rtol=0)
    first = train(folders["gpt2"])
    second = train(folders["gpt2"], replace(QUICK, lr=1e-12, early_stopping=False), start=first.begin)
    torch.testing.assert_close(dict(second.state), dict(first.state), atol=1e-6, rtol=0)
    with pytest.raises(UserError, match="LoRA"):
        train(folders["gpt2"], replace(QUICK, lora=2), start=first.begin)


# --- order, seeds, schedules ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_rows", [1, 8, 21])
def test_every_row_comes_once_in_each_epoch_in_another_order(num_rows: int) -> None:
    """Released code, defect 13: the same order in every epoch. The last, smaller batch is kept."""
    made = list(batches(num_rows, 8, 3, seed=0))
    per_epoch = math.ceil(num_rows / 8)
    epochs = [np.concatenate(made[e * per_epoch : (e + 1) * per_epoch]).tolist() for e in range(3)]
    assert all(sorted(epoch) == list(range(num_rows)) for epoch in epochs)
    if num_rows > 8:
        assert len({tuple(epoch) for epoch in epochs}) == 3
        assert epochs[0] != np.concatenate(list(batches(num_rows, 8, 1, seed=1))).tolist()


def test_the_seed_decides_everything_and_nothing_else_does(folders: dict[str, Path]) -> None:
    torch.manual_seed(1)
    first = train(folders["llama"])
    torch.manual_seed(2)
    state = torch.random.get_rng_state()
    assert same(first, train(folders["llama"]))
    assert torch.equal(state, torch.random.get_rng_state())
    assert not same(first, train(folders["llama"], seed=1))


def test_dropout_follows_the_seed(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "m", "bert", dropout=0.3)
    settings = replace(QUICK, dropout=True)
    first = train(folder, settings)
    assert same(first, train(folder, settings))
    assert not same(first, train(folder, QUICK))


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
def test_learning_rates_rise_and_fall_without_a_jump(schedule: str) -> None:
    settings = FinetuneSettings(lr=0.5, schedule=schedule, warmup=0.2)
    rates = [rate(update, 100, settings) for update in range(100)]
    assert max(rates) == rates[20] == 0.5
    assert min(rates) > 0
    assert rates[:21] == pytest.approx([0.5 * (k + 1) / 21 for k in range(21)])
    assert max(abs(a - b) for a, b in pairwise(rates)) < 0.5 / 20
    middle, last = {"linear": (0.25, 0.5 / 80), "cosine": (0.25, 0.0002), "constant": (0.5, 0.5)}[schedule]
    assert rates[60] == pytest.approx(middle)
    assert rates[99] == pytest.approx(last, abs=1e-4)


def test_no_warmup_starts_at_the_peak() -> None:
    assert rate(0, 10, FinetuneSettings(lr=0.5, warmup=0.0)) == 0.5


def test_the_loss_is_told_the_share_of_training_done(folders: dict[str, Path]) -> None:
    """Released code, defect 4: the weight of the confidence loss jumps at the end of its warm-up."""
    seen: list[float] = []

    class Spy(Xent):
        def __call__(self, logits: Tensor, targets: Tensor, progress: float) -> Tensor:
            seen.append(progress)
            return super().__call__(logits, targets, progress)

    train(folders["bert"], replace(QUICK, epochs=2), loss=Spy())
    assert seen == [k / 12 for k in range(12)]
    weights = [float(LogConf(alpha=0.75, warmup=0.2).weight(k / 1000)) for k in range(1001)]
    assert weights[0] == 0
    assert weights[-1] == 0.75
    assert max(b - a for a, b in pairwise(weights)) < 0.005


def test_checks_are_spread_over_each_epoch_and_close_it() -> None:
    assert check_points(10, 2, 4) == {3, 5, 8, 10, 13, 15, 18, 20}
    assert check_points(2, 1, 4) == {1, 2}


# --- exact batches ----------------------------------------------------------------------------------------------------


Prepare = Callable[[Classifier], None]


def gradient(
    folder: Path, loss: Loss, microbatch: int, *, prepare: Prepare = lambda model: None, dropout: bool = False
) -> tuple[float, Tensor]:
    model = load_classifier(folder, 2, max_tokens=20, dropout=dropout).train()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.nn.init.normal_(model.head.weight)
    prepare(model)
    rows = token_rows(load_tokenizer(folder), TRAIN[0][:11], 20)
    targets = torch.softmax(torch.linspace(-2, 2, 22).reshape(11, 2).sin() * 3, dim=1)
    value = accumulate(model, rows, targets, loss, 0.5, microbatch=microbatch, seed=(0, 0))
    return value, torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("loss", [Xent(), LogConf(alpha=0.75)], ids=["xent", "logconf"])
def test_the_microbatch_changes_no_gradient(folders: dict[str, Path], kind: str, loss: Loss) -> None:
    value, expected = gradient(folders[kind], loss, 0)
    for microbatch in (1, 4, 11, 100):
        other, found = gradient(folders[kind], loss, microbatch)
        assert other == pytest.approx(value, abs=1e-5)
        torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("loss", [Xent(), LogConf(alpha=0.75)], ids=["xent", "logconf"])
def test_whole_runs_agree_at_every_microbatch_size(folders: dict[str, Path], loss: Loss) -> None:
    """The last batch has 4 rows: the mean over the batch is meant, not a mean of the microbatches' means."""
    whole = train(folders["bert"], loss=loss)
    for microbatch in (1, 3):
        parts = train(folders["bert"], loss=loss, runtime=replace(CPU, microbatch=microbatch))
        assert [e["loss"] for e in parts.history] == pytest.approx([e["loss"] for e in whole.history], abs=1e-3)


def test_both_passes_of_a_whole_batch_loss_draw_the_same_dropout(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "m", "bert", dropout=0.3)
    seen: list[Tensor] = []

    def watch(model: Classifier) -> None:
        model.register_forward_hook(lambda module, inputs, logits: seen.append(logits.detach()))

    gradient(folder, LogConf(), 4, prepare=watch, dropout=True)
    first, second = torch.cat(seen[:3]), torch.cat(seen[3:])
    assert len(seen) == 6
    assert torch.equal(first, second)
    gradient(folder, LogConf(), 4, prepare=watch)
    assert not torch.allclose(first, torch.cat(seen[6:9]), atol=1e-3)


class Held:
    """What autograd keeps of one tensor; lives as long as the graph needs it."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def most_kept(folder: Path, loss: Loss, microbatch: int, prepare: Prepare = lambda model: None) -> int:
    """The most bytes that autograd keeps for the backward pass at any one time."""
    alive: weakref.WeakSet[Held] = weakref.WeakSet()
    peak = 0

    def keep(tensor: Tensor) -> Held:
        nonlocal peak
        held = Held(tensor)
        alive.add(held)
        peak = max(peak, sum(h.tensor.nbytes for h in alive if not isinstance(h.tensor, torch.nn.Parameter)))
        return held

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda held: held.tensor):
        gradient(folder, loss, microbatch, prepare=prepare)
    return peak


@pytest.mark.parametrize("loss", [Xent(), LogConf()], ids=["xent", "logconf"])
def test_one_microbatch_is_in_memory_at_a_time(folders: dict[str, Path], loss: Loss) -> None:
    """Released code, defect 8: the logits of all microbatches, and so all their graphs, are kept."""
    assert most_kept(folders["bert"], loss, 1) < 0.25 * most_kept(folders["bert"], loss, 0)


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_checkpointing_recomputes_and_changes_nothing(folders: dict[str, Path], kind: str) -> None:
    """Released code, defect 7: the switch is on, and no block is ever checkpointed."""
    runs = 0

    def count(module: object, inputs: object, output: object) -> None:
        nonlocal runs
        runs += 1

    def prepare(model: Classifier) -> None:
        recompute_layers(model.body)
        for layer in layers_of(model.body):
            # Within the layer, past the checkpoint: the layer's own hook would see its first run only.
            next(iter(layer.children())).register_forward_hook(count)
        assert model.packs  # without padding, as always

    value, expected = gradient(folders[kind], LogConf(), 0)
    again, found = gradient(folders[kind], LogConf(), 0, prepare=prepare)
    assert runs == 2 * 2
    assert again == value
    assert torch.equal(found, expected)
    assert most_kept(folders[kind], Xent(), 0, prepare) < 0.6 * most_kept(folders[kind], Xent(), 0)


@pytest.mark.parametrize("lora", [0, 2])
def test_a_run_with_checkpointing_is_the_same_run(
    folders: dict[str, Path], lora: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(QUICK, lora=lora)
    plain = train(folders["llama"], settings)
    used = []

    def spy(*arguments: Any, **named: Any) -> Any:
        used.append(1)
        return checkpoint(*arguments, **named)

    monkeypatch.setattr(transformer, "checkpoint", spy)
    assert same(plain, train(folders["llama"], settings, runtime=replace(CPU, gradient_checkpointing=True)))
    assert used


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # torch.compile hides its own, which as errors it would trip over
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a compiler")
def test_compiled_layers_change_no_gradient(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))  # one made for other vector instructions crashed this
    said: list[str] = []
    runtime = replace(CPU, say=said.append)

    def prepare(model: Classifier) -> None:
        compile_layers(model.body, runtime)
        recompute_layers(model.body)

    for microbatch in (0, 3):  # texts of other lengths in every part: compiled once for all of them
        value, expected = gradient(folders["llama"], LogConf(), microbatch)
        other, found = gradient(folders["llama"], LogConf(), microbatch, prepare=prepare)
        assert other == pytest.approx(value, abs=1e-5)
        torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)
    assert not said


@pytest.mark.parametrize("wrapped", [False, True])
def test_without_a_compiler_training_goes_on_and_says_so(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch, wrapped: bool
) -> None:
    from torch._dynamo.exc import BackendCompilerFailed

    def missing(*arguments: Any, **named: Any) -> Any:
        cause = RuntimeError("InvalidCxxCompiler: No working C++ compiler found in ...\n\nSet TORCHDYNAMO_VERBOSE=1")
        raise BackendCompilerFailed("inductor", cause, None) if wrapped else cause

    plain = train(folders["llama"])
    monkeypatch.setattr(torch, "compile", missing)
    said: list[str] = []
    assert same(plain, train(folders["llama"], runtime=replace(CPU, compile=True, say=said.append)))
    (line,) = [line for line in said if "memory" not in line]
    assert line == (
        "nothing is compiled: torch.compile does not work here "
        "(InvalidCxxCompiler: No working C++ compiler found in ...)"
    )


def test_the_gradient_of_the_whole_batch_is_clipped(folders: dict[str, Path]) -> None:
    """One plain step, so that its length is the clipped norm times the rate at any microbatch size."""
    for microbatch in (0, 2):
        model = load_classifier(folders["bert"], 2, max_tokens=20).train()
        torch.nn.init.normal_(model.head.weight)
        before = torch.cat([p.detach().flatten().clone() for p in model.parameters()])
        rows = token_rows(load_tokenizer(folders["bert"]), TRAIN[0][:6], 20)
        targets = torch.as_tensor(TRAIN[1][:6])
        accumulate(model, rows, targets, Xent(), 0.0, microbatch=microbatch, seed=(0, 0))
        apply(torch.optim.SGD(model.parameters(), lr=9.0), lr=0.1, clip=0.01)
        after = torch.cat([p.detach().flatten() for p in model.parameters()])
        assert float((after - before).norm()) == pytest.approx(0.001, rel=0.02)


def test_weight_decay_spares_biases_and_norms(folders: dict[str, Path]) -> None:
    model = load_classifier(folders["bert"], 2, max_tokens=20)
    matrices, rest = make_optimizer(model, replace(QUICK, weight_decay=0.1)).param_groups
    assert (matrices["weight_decay"], rest["weight_decay"]) == (0.1, 0.0)
    assert {p.ndim for p in rest["params"]} == {1}


# --- early stopping ---------------------------------------------------------------------------------------------------


def test_the_weights_that_agree_best_are_kept(folders: dict[str, Path]) -> None:
    """Validation labels that contradict the training labels: the longer the training, the worse the agreement."""
    contrary = (VAL[0], VAL[1][:, ::-1].copy())
    settings = replace(QUICK, epochs=5, checks=4)
    stopped = train(folders["bert"], settings, val=contrary, train=make_task(200, seed=1))
    agreements = [entry["agreement"] for entry in stopped.history]
    assert max(agreements) > agreements[-1]
    probs = predict(folders["bert"], stopped, contrary[0], CPU)
    assert (probs.argmax(axis=1) == contrary[1].argmax(axis=1)).mean() == max(agreements)
    last = train(folders["bert"], replace(settings, early_stopping=False), val=contrary, train=make_task(200, seed=1))
    assert last.history == stopped.history
    probs = predict(folders["bert"], last, contrary[0], CPU)
    assert (probs.argmax(axis=1) == contrary[1].argmax(axis=1)).mean() == agreements[-1]


def test_early_stopping_needs_validation_rows(folders: dict[str, Path]) -> None:
    nothing: tuple[list[str], npt.NDArray[np.float32]] = ([], np.zeros((0, 2), dtype=np.float32))
    with pytest.raises(UserError, match="early_stopping=False"):
        train(folders["bert"], val=nothing)
    fitted = train(folders["bert"], replace(QUICK, early_stopping=False), val=nothing)
    assert fitted.history[-1]["agreement"] is None


# --- resume -----------------------------------------------------------------------------------------------------------


class Killed(Exception):
    pass


def killed_after(updates: int, scratch: Path) -> Runtime:
    def report(done: int, total: int, unit: str) -> None:
        if done == updates:
            raise Killed

    return Runtime(device="cpu", scratch=scratch, report=report)


@pytest.mark.parametrize(
    ("settings", "loss"),
    [
        (replace(QUICK, epochs=2), LogConf()),
        (replace(QUICK, epochs=2, lora=2), LogConf()),
        (replace(QUICK, epochs=2, optimizer="adafactor"), LogConf()),
        (replace(QUICK, epochs=2), ELR()),  # what it remembers of each example is in the checkpoint
    ],
    ids=["adamw", "lora", "adafactor", "memory"],
)
def test_a_resumed_run_is_bitwise_the_uninterrupted_one(
    folders: dict[str, Path], settings: FinetuneSettings, loss: Loss, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "SECONDS", 0.0)
    whole = train(folders["bert"], settings, loss=loss)
    for updates in (2, 7):
        with pytest.raises(Killed):
            train(folders["bert"], settings, loss=loss, runtime=killed_after(updates, tmp_path))
    done: list[int] = []
    runtime = Runtime(device="cpu", scratch=tmp_path, report=lambda n, total, unit: done.append(n))
    assert same(whole, train(folders["bert"], settings, loss=loss, runtime=runtime))
    assert done == [8, 9, 10, 11, 12]


def test_a_damaged_or_foreign_checkpoint_is_said_and_left(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(checkpoints, "SECONDS", 0.0)
    whole = train(folders["bert"])
    runtime = Runtime(device="cpu", scratch=tmp_path)
    with pytest.raises(Killed):
        train(folders["bert"], seed=1, runtime=killed_after(3, tmp_path))
    with caplog.at_level(logging.WARNING):
        assert same(whole, train(folders["bert"], runtime=runtime))
    assert "another run" in caplog.text
    (file,) = tmp_path.glob("checkpoint-*/*")
    content = file.read_bytes()
    for damaged in (b"", b"nonsense", content[: len(content) // 2]):
        file.write_bytes(damaged)
        caplog.clear()
        assert same(whole, train(folders["bert"], runtime=runtime))
        assert "damaged" in caplog.text


def test_a_checkpoint_runs_no_code(folders: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Released code, defect 16: torch.load without weights_only."""

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (open, (str(tmp_path / "ran"), "w"))

    (tmp_path / "s" / "checkpoint-000000001").mkdir(parents=True)
    torch.save({"identity": Evil()}, tmp_path / "s" / "checkpoint-000000001" / "0-of-1.safetensors")
    train(folders["bert"], runtime=Runtime(device="cpu", scratch=tmp_path / "s"))
    assert not (tmp_path / "ran").exists()
    assert "damaged" in caplog.text


# --- what a user can get wrong ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"optimizer": "adam"}, "did you mean adamw"),
        ({"schedule": "linaer"}, "did you mean linear"),
        ({"precision": "fp16"}, "did you mean bf16|did you mean fp32"),
        ({"epochs": 0}, "at 1 or above"),
        ({"lora": -1}, "at 0 or above"),
        ({"lr": 0.0}, r"in \(0, 1\]"),
        ({"warmup": 1.1}, r"in \[0, 1\]"),
        ({"head": "words"}, "go together"),
        ({"words": ("no", "yes")}, "go together"),
    ],
)
def test_wrong_settings_name_the_nearest(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Finetune(**change)


def test_a_loss_that_diverges_is_an_error(folders: dict[str, Path]) -> None:
    class Broken(Xent):
        def __call__(self, logits: Tensor, targets: Tensor, progress: float) -> Tensor:
            return super().__call__(logits, targets, progress) * (math.nan if progress > 0.5 else 1)

    with pytest.raises(UserError, match="loss is nan at update 5 of 6; use a smaller lr"):
        train(folders["bert"], loss=Broken())


def test_a_loss_that_is_nan_from_the_start_is_not_blamed_on_the_rate(folders: dict[str, Path]) -> None:
    class Broken(Xent):
        def __call__(self, logits: Tensor, targets: Tensor, progress: float) -> Tensor:
            return super().__call__(logits, targets, progress) * math.nan

    with pytest.raises(
        UserError, match="loss is nan before the first update: the pretrained model or the loss"
    ) as told:
        train(folders["bert"], loss=Broken())
    assert "lr" not in str(told.value)


def test_rows_and_labels_must_match(folders: dict[str, Path]) -> None:
    short: tuple[Sequence[str], npt.NDArray[np.float32]] = (TRAIN[0][:-1], TRAIN[1])
    with pytest.raises(ValueError, match="44 labels for 43 texts"):
        train(folders["bert"], train=short)
