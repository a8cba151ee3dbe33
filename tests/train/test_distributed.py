"""Several processes give the update of one: the microbatches are dealt to them, the model may be cut over them."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from outgrow.cli import main
from outgrow.errors import UserError
from outgrow.losses import ELR, LogConf, Loss, Xent
from outgrow.models.packing import layers_of
from outgrow.runtime import Runtime
from outgrow.train import distributed, updates
from outgrow.train.checkpoints import snapshot
from outgrow.train.loop import FinetunedModel, finetune, predict
from outgrow.train.model import build
from outgrow.train.settings import FinetuneSettings
from outgrow.train.updates import accumulate, apply, make_optimizer
from several_processes import assert_same_run, torchrun
from tiny_models import KINDS, make_model, make_task

SETTINGS = FinetuneSettings(epochs=1, lr=1e-2, batch_size=10, max_tokens=16)
LOSSES: dict[str, Loss] = {"Xent": Xent(), "LogConf": LogConf(warmup=0), "ELR": ELR()}
# Four batches, the last of one row: fewer than there are processes.
TRAIN, VAL = make_task(31, seed=1), make_task(5, seed=2)
CPU = Runtime(device="cpu", say=lambda line: None)
CUT: dict[str, tuple[str, FinetuneSettings, Loss, int, float]] = {
    # model, settings, loss, examples at once (4 of 10: 3 microbatches on 2 ranks), anchor
    "bert": ("bert", SETTINGS, Xent(), 4, 0.0),
    "whole-batch": ("gpt2", SETTINGS, LogConf(warmup=0), 4, 0.0),
    "adafactor": ("llama", FinetuneSettings(**{**vars(SETTINGS), "optimizer": "adafactor"}), Xent(), 0, 0.0),
    "lora": ("llama", FinetuneSettings(**{**vars(SETTINGS), "lora": 2, "weight_decay": 0.1}), Xent(), 1, 0.0),
    "bf16": ("llama", FinetuneSettings(**{**vars(SETTINGS), "precision": "bf16", "epochs": 3}), Xent(), 4, 0.0),
    "memory": ("bert", FinetuneSettings(**{**vars(SETTINGS), "epochs": 3}), ELR(strength=10.0), 4, 0.0),
    "anchor": ("bert", FinetuneSettings(**{**vars(SETTINGS), "clip": 0.05}), LogConf(warmup=0), 0, 0.5),
}
SCRIPT = """
import sys
from dataclasses import replace
from pathlib import Path
from outgrow.losses import LogConf, Xent
from outgrow.errors import UserError
from outgrow.train import distributed
from outgrow.train.loop import finetune
from test_distributed import CPU, LOSSES, SETTINGS, TRAIN, VAL, cut_runs
folder, out = map(Path, sys.argv[1:])
distributed.join()
if distributed.rank():
    distributed.worker_loop()
else:
    try:  # every rank meets it, and the team goes on
        finetune(folder / "bert", *TRAIN, [], VAL[1][:0], Xent(), SETTINGS, 0, CPU)
    except UserError as error:
        print(error)
    for name, loss in LOSSES.items():
        fitted = finetune(folder / "bert", *TRAIN, *VAL, loss, SETTINGS, 0, CPU)
        (out / name).mkdir()
        fitted.save(out / name)
    cut_runs(folder, out)
    distributed.shutdown()
distributed.leave(0)
"""


def cut_runs(models: Path, out: Path) -> None:
    """On rank 0: every case of CUT with the model cut; then one that starts from another's weights, and predicts."""
    from dataclasses import replace

    cut = replace(CPU, shard=True)
    for name, (kind, settings, loss, microbatch, anchor) in CUT.items():
        recomputed = replace(cut, microbatch=microbatch, gradient_checkpointing=name == "lora")
        fitted = finetune(models / kind, *TRAIN, *VAL, loss, settings, 0, recomputed, anchor=anchor)
        (out / name).mkdir()
        fitted.save(out / name)
    distributed.run_on_ranks(pieces, models / "llama", out)
    pieces(models / "llama", out)
    distributed.run_on_ranks(copies, models / "llama", out)
    copies(models / "llama", out)
    first = FinetunedModel.load(out / "bert")
    second = finetune(models / "bert", *TRAIN, *VAL, Xent(), SETTINGS, 1, cut, start=first.begin)
    (out / "second").mkdir()
    second.save(out / "second")
    small = replace(cut, tokens_at_once=20)  # an odd number of batches
    probs = predict(models / "bert", first, TRAIN[0], small)
    torch.save(torch.from_numpy(probs), out / "probs.pt")


def pieces(folder: Path, out: Path) -> None:
    """On every rank: how much of weights, gradient and optimizer state it holds."""
    model = build(folder, SETTINGS, 2, seed=0)
    every = sum(p.numel() for p in model.parameters())
    distributed.shard(model, "cpu")
    optimizer = make_optimizer(model, SETTINGS)
    accumulate(model, [((1, 2, 3),)], torch.eye(2)[:1], Xent(), 0.0, seed=(0, 0))
    gradients = sum(distributed.own(p.grad).numel() for p in model.parameters() if p.grad is not None)
    apply(optimizer, 0.1, 1.0)
    states = sum(
        distributed.own(v).numel() for state in optimizer.state.values() for k, v in state.items() if k != "step"
    )
    held = {"every": every, "weights": sum(len(v.flatten()) for v in snapshot(model).values())}
    (out / f"held-{distributed.rank()}.json").write_text(json.dumps(held | {"gradients": gradients, "states": states}))


def copies(folder: Path, out: Path) -> None:
    """On every rank: bytes of layers' weights in bfloat16 that a forward pass leaves for the backward pass."""
    found = {}
    for name in ("autocast", "cut"):
        model = build(folder, FinetuneSettings(**{**vars(SETTINGS), "precision": "bf16"}), 2, seed=0)
        shapes = {p.shape for layer in layers_of(model.body) for p in layer.parameters() if p.ndim == 2}
        if name == "cut":
            distributed.shard(model, "cpu")
        kept: dict[int, torch.Tensor] = {}

        def keep(tensor: torch.Tensor, kept: dict[int, torch.Tensor] = kept) -> torch.Tensor:
            kept[tensor.untyped_storage()._cdata] = tensor
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            out_logits = model([(1, 2, 3)])
        halves = [t for t in kept.values() if t.dtype == torch.bfloat16 and {t.shape, t.shape[::-1]} & shapes]
        found[name] = sum(t.untyped_storage().nbytes() for t in halves)  # 0 of what is given back until it is needed
        out_logits.sum().backward()
    (out / f"kept-{distributed.rank()}.json").write_text(json.dumps(found))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("models")
    for kind in KINDS:
        make_model(base / kind, kind)
    return base


@pytest.fixture(scope="module")
def together(folders: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a team of two made."""
    out = tmp_path_factory.mktemp("team")
    (out / "work.py").write_text(SCRIPT)
    done = torchrun(str(out / "work.py"), str(folders), str(out))
    assert done.returncode == 0, done.stderr
    assert "early stopping needs validation rows" in done.stdout
    return out


@pytest.mark.slow
@pytest.mark.parametrize("name", LOSSES)
def test_two_ranks_give_what_one_gives(folders: Path, together: Path, name: str) -> None:
    alone = finetune(folders / "bert", *TRAIN, *VAL, LOSSES[name], SETTINGS, 0, Runtime(device="cpu", microbatch=3))
    assert_same_run(together / name, alone)


@pytest.mark.slow
@pytest.mark.parametrize("name", CUT)
def test_a_model_cut_over_two_ranks_gives_what_one_gives(folders: Path, together: Path, name: str) -> None:
    """3 microbatches on 2 ranks, and a batch of 1 row, included."""
    kind, settings, loss, _, anchor = CUT[name]
    assert_same_run(together / name, finetune(folders / kind, *TRAIN, *VAL, loss, settings, 0, CPU, anchor=anchor))


@pytest.mark.slow
def test_a_cut_model_keeps_no_copy_of_its_weights_in_bfloat16(together: Path) -> None:
    """Autocast would: of every weight, from the forward pass to the backward pass, on every rank."""
    for rank in range(2):
        kept = json.loads((together / f"kept-{rank}.json").read_text())
        assert kept["autocast"] > 0
        assert kept["cut"] == 0


@pytest.mark.slow
def test_a_rank_holds_its_half_of_everything(together: Path) -> None:
    held = [json.loads((together / f"held-{rank}.json").read_text()) for rank in range(2)]
    every = held[0]["every"]
    for kind, total in (("weights", every), ("gradients", every), ("states", 2 * every)):
        assert sum(h[kind] for h in held) == total
        assert max(h[kind] for h in held) <= 0.51 * total


def test_leaving_ends_a_process_before_the_interpreter_is_taken_down() -> None:
    """gloo's threads live on after a cut model: taking the interpreter down under them aborted finished runs."""
    script = """
import atexit, sys
from outgrow.train import distributed
class Late:
    def __del__(self):
        print("taken down")
late = Late()
atexit.register(print, "at exit")
print("said")
END(3)
"""
    for end, expected in (("sys.exit", ["said", "at exit", "taken down"]), ("distributed.leave", ["said", "at exit"])):
        done = subprocess.run(
            [sys.executable, "-c", script.replace("END", end)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 3, done.stderr
        assert done.stdout.split("\n")[:-1] == expected


@pytest.mark.parametrize(("rank", "expected"), [(0, ["join", "shutdown", 2]), (1, ["join", "worker_loop", 0])])
def test_a_command_of_a_team_ends_by_leaving_it(
    monkeypatch: pytest.MonkeyPatch, rank: int, expected: list[str | int]
) -> None:
    did: list[str | int] = []

    def leave(code: int) -> None:
        did.append(code)
        raise KeyboardInterrupt  # the process would be gone

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(distributed, "rank", lambda: rank)
    monkeypatch.setattr(distributed, "leave", leave)
    for name in ("join", "worker_loop", "shutdown"):
        monkeypatch.setattr(distributed, name, lambda name=name: did.append(name))
    with pytest.raises(KeyboardInterrupt):
        main(["run", "--task", "nothing"])
    assert did == expected


def test_one_process_cannot_shard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(UserError, match="start `torchrun --nproc-per-node N") as error:
        Runtime(shard=True)
    assert "\n" not in str(error.value)
    done = subprocess.run(
        [str(Path(sys.executable).parent / "outgrow"), "run", "--shard"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1


@given(
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=20),
    most=st.integers(1, 20),
    tokens=st.integers(0, 200),
    ranks=st.integers(2, 5),
)
def test_microbatches_are_dealt_evenly(sizes: list[int], most: int, tokens: int, ranks: int) -> None:
    """Every example once, no rank more passes than before, and the largest pass no larger."""
    order = sorted(range(len(sizes)), key=lambda i: -sizes[i])
    before = updates._parts(order, sizes, most, tokens)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distributed, "size", lambda: ranks)
        after = updates._evenly(before, order, sizes, most)
    assert [i for part in after for i in part] == order
    assert len(after) <= math.ceil(len(before) / ranks) * ranks
    assert max(map(len, after)) <= most

    def largest(parts: list[list[int]]) -> int:
        return max(sum(sizes[i] for i in part) for part in parts)

    assert largest(after) <= largest(before)


@pytest.mark.slow
def test_a_cut_model_starts_from_given_weights_and_predicts(folders: Path, together: Path) -> None:
    first = FinetunedModel.load(together / "bert")
    assert_same_run(
        together / "second", finetune(folders / "bert", *TRAIN, *VAL, Xent(), SETTINGS, 1, CPU, start=first.begin)
    )
    expected = torch.from_numpy(predict(folders / "bert", first, TRAIN[0], CPU))
    torch.testing.assert_close(torch.load(together / "probs.pt", weights_only=True), expected, atol=1e-5, rtol=0)


@pytest.mark.slow
def test_a_command_run_by_a_team_writes_what_one_process_writes(folders: Path, tmp_path: Path) -> None:
    lines = ["text,label", *(f"{'good' if i % 2 else 'bad'} w{i % 20} w{i // 20},{i % 2}" for i in range(120))]
    (tmp_path / "mine.csv").write_text("\n".join(lines))
    model = str(folders / "bert")
    command = [
        "run", "--task", f"table(path='{tmp_path}/mine.csv')", "--weak", model, "--strong", model,
        "--train", "finetune(epochs=1, max_tokens=8, lr=0.01)", "--strategy", "confidence", "--seeds", "1",
        "--no-controls", "--report", str(tmp_path / "report"),
    ]  # fmt: skip
    outgrow = str(Path(sys.executable).parent / "outgrow")
    done = torchrun("--no-python", outgrow, *command, "--shard", "--store", str(tmp_path / "team"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("steps run") == 1
    again = subprocess.run(
        [outgrow, *command, "--store", str(tmp_path / "team")], capture_output=True, text=True, check=True
    )
    assert "0 steps run" in again.stdout
    wrong = torchrun("--no-python", outgrow, "run", "--task", "nothing")
    assert "unknown task" in wrong.stderr
