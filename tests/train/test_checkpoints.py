"""A checkpoint is whole or not there, runs nothing, and any number of processes can go on from it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from outgrow.losses import ELR
from outgrow.runtime import Runtime
from outgrow.train import checkpoints
from outgrow.train.loop import FinetunedModel, finetune
from outgrow.train.settings import FinetuneSettings
from several_processes import assert_same_run, torchrun
from tiny_models import make_model, make_task

TRAIN, VAL = make_task(60, seed=1), make_task(5, seed=2)
SETTINGS = FinetuneSettings(epochs=1, lr=1e-2, batch_size=10, max_tokens=16)
LOSS = ELR()  # what it remembers of each example goes along
SCRIPT = """
import os, sys
from pathlib import Path
from outgrow.runtime import Runtime
from outgrow.train import checkpoints, distributed
from outgrow.train.loop import finetune
from test_checkpoints import LOSS, SETTINGS, TRAIN, VAL
folder, out, until = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
checkpoints.SECONDS = 0.0
save_file, written = checkpoints.save_file, 0

def dying(tensors, path, metadata):
    global written
    written += 1
    save_file(tensors, path, metadata=metadata)
    if written == until and distributed.rank() == 1:
        os.truncate(path, 100)
        os._exit(1)

checkpoints.save_file = dying
distributed.join()
if distributed.rank():
    distributed.worker_loop()
else:
    first = []
    runtime = Runtime(
        device="cpu", shard=True, scratch=out / "scratch", say=lambda line: None,
        report=lambda done, total, unit: first or first.append(done),
    )
    fitted = finetune(folder, *TRAIN, *VAL, LOSS, SETTINGS, 0, runtime)
    fitted.save(out)
    print("went on with update", first[0])
    distributed.shutdown()
distributed.leave(0)
"""


class Killed(Exception):
    pass


def train(folder: Path, **runtime: Any) -> FinetunedModel:
    quiet = Runtime(device="cpu", say=lambda line: None, **runtime)
    return finetune(folder, *TRAIN, *VAL, LOSS, SETTINGS, 0, quiet)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("models") / "llama", "llama")


@pytest.mark.slow
def test_two_processes_then_one_then_two_go_on(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first two are killed while one writes its half of the third checkpoint: the second one counts."""
    (tmp_path / "work.py").write_text(SCRIPT)
    command = (str(tmp_path / "work.py"), str(folder), str(tmp_path))
    assert torchrun(*command, "3").returncode != 0
    assert {p.name for p in tmp_path.glob("scratch/checkpoint-*/*")} >= {"0-of-2.safetensors", "1-of-2.safetensors"}
    monkeypatch.setattr(checkpoints, "SECONDS", 0.0)
    seen: list[int] = []

    def report(done: int, total: int, unit: str) -> None:
        seen.append(done)
        if done == 4:
            raise Killed

    with pytest.raises(Killed):
        train(folder, scratch=tmp_path / "scratch", report=report)
    assert seen == [3, 4]
    done = torchrun(*command, "0")
    assert done.returncode == 0, done.stderr
    assert "went on with update 5" in done.stdout
    assert_same_run(tmp_path, train(folder))


def test_a_kill_while_writing_leaves_the_checkpoint_before(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "SECONDS", 0.0)
    written = 0

    def dying(tensors: dict[str, torch.Tensor], path: Path, metadata: dict[str, str]) -> None:
        nonlocal written
        written += 1
        save_file(tensors, path, metadata=metadata)
        if written == 4:
            path.write_bytes(path.read_bytes()[:500])
            raise Killed

    monkeypatch.setattr(checkpoints, "save_file", dying)
    with pytest.raises(Killed):
        train(folder, scratch=tmp_path)
    seen: list[int] = []
    whole = train(folder)
    resumed = train(folder, scratch=tmp_path, report=lambda done, total, unit: seen.append(done))
    assert seen == [4, 5, 6]
    assert whole.history == resumed.history
    assert all(torch.equal(whole.state[k], resumed.state[k]) for k in whole.state)
    assert len(list(tmp_path.glob("checkpoint-*[0-9]"))) == 1


def test_processes_that_share_no_disk_are_told_and_leave_no_checkpoint(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    beside = tmp_path / "checkpoint-1.tmp"
    beside.mkdir()
    (beside / "0-of-2.safetensors").touch()
    checkpoints._put_in_place(beside, tmp_path / "checkpoint-000000001", ranks=2)
    assert "shared disk" in caplog.text
    assert not (tmp_path / "checkpoint-000000001").exists()


@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
def test_rows_come_back_from_any_number_of_pieces(ranks: int, tmp_path: Path) -> None:
    """As torch.chunk cuts them; with 5 ranks and 7 rows the last has none."""
    from contextlib import ExitStack

    whole = torch.arange(14.0).reshape(7, 2)
    each = -(-7 // ranks)
    for rank in range(ranks):
        tensors = {"weights.a": whole[rank * each : (rank + 1) * each].clone()}
        if rank == 0:
            tensors["step"] = torch.tensor(3.0)
        save_file(tensors, tmp_path / f"{rank}-of-{ranks}.safetensors", metadata={"identity": "x"})
    with ExitStack() as stack:
        written = checkpoints._Written(tmp_path, stack)
        assert torch.equal(written.rows("weights.a"), whole)
        assert float(written.rows("step")) == 3
        for first in range(8):
            for count in range(8 - first):
                assert torch.equal(written.rows("weights.a", (first, count)), whole[first : first + count])


def test_a_checkpoint_is_safetensors_alone(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "SECONDS", 0.0)

    def report(done: int, total: int, unit: str) -> None:
        raise Killed

    with pytest.raises(Killed):
        train(folder, scratch=tmp_path, report=report)
    assert {path.suffix for path in tmp_path.glob("*/*")} == {".safetensors"}
