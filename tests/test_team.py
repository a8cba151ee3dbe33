"""Two processes give the update of one: the same microbatches, dealt to ranks, and their gradients summed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from outgrow.losses import LogConf, Loss, Xent
from outgrow.runtime import Runtime
from outgrow.train.finetune import finetune
from outgrow.train.settings import Finetune
from tiny_models import make_model, make_task

SETTINGS = Finetune(epochs=1, lr=1e-2, batch_size=10, max_tokens=16)
LOSSES: dict[str, Loss] = {"Xent": Xent(), "LogConf": LogConf(warmup=0)}
SCRIPT = """
import sys
from pathlib import Path
from outgrow.losses import LogConf, Xent
from outgrow.errors import UserError
from outgrow.runtime import Runtime
from outgrow.train import team
from outgrow.train.finetune import finetune
from test_team import LOSSES, SETTINGS
from tiny_models import make_task
folder, out = map(Path, sys.argv[1:])
team.join()
if team.rank():
    team.serve()
else:
    texts, targets = make_task(25, seed=1)
    quiet = Runtime(device="cpu", say=lambda line: None)
    try:  # every rank meets it, and the team goes on
        finetune(folder, texts, targets, [], targets[:0], Xent(), SETTINGS, 0, quiet)
    except UserError as error:
        print(error)
    for name, loss in LOSSES.items():
        fitted = finetune(folder, texts, targets, texts[:5], targets[:5], loss, SETTINGS, 0, quiet)
        (out / name).mkdir()
        fitted.save(out / name)
    team.dismiss()
"""


def torchrun(*command: str, processes: int = 2) -> subprocess.CompletedProcess[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(__file__).parent),
        "TORCH_CPP_LOG_LEVEL": "ERROR",
    }
    return subprocess.run([*launcher, *command], capture_output=True, text=True, check=False, env=environment)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("models") / "bert", "bert")


@pytest.mark.slow
def test_two_ranks_give_what_one_gives(folder: Path, tmp_path: Path) -> None:
    script = tmp_path / "work.py"
    script.write_text(SCRIPT)
    done = torchrun(str(script), str(folder), str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "early stopping needs validation rows" in done.stdout
    texts, targets = make_task(25, seed=1)
    for name, loss in LOSSES.items():
        alone = finetune(
            folder, texts, targets, texts[:5], targets[:5], loss, SETTINGS, 0, Runtime(device="cpu", microbatch=3)
        )
        together = load_file(tmp_path / name / "finetuned.safetensors")
        assert together.keys() == alone.state.keys()
        for key, value in alone.state.items():
            if key.endswith("key.bias"):
                continue  # softmax does not see it: its gradient is rounding alone, and Adam makes steps of that
            torch.testing.assert_close(together[key], value, atol=2e-4, rtol=1e-3)
        history = json.loads((tmp_path / name / "finetuned.json").read_text())["history"]
        assert [h["agreement"] for h in history] == [h["agreement"] for h in alone.history]


@pytest.mark.slow
def test_a_command_run_by_a_team_writes_what_one_process_writes(folder: Path, tmp_path: Path) -> None:
    lines = ["text,label", *(f"{'good' if i % 2 else 'bad'} w{i % 20} w{i // 20},{i % 2}" for i in range(120))]
    (tmp_path / "mine.csv").write_text("\n".join(lines))
    command = [
        "run", "--task", f"table(path='{tmp_path}/mine.csv')", "--weak", str(folder), "--strong", str(folder),
        "--train", "finetune(epochs=1, max_tokens=8, lr=0.01)", "--strategy", "confidence", "--seeds", "1",
        "--no-controls", "--report", str(tmp_path / "report"),
    ]  # fmt: skip
    outgrow = str(Path(sys.executable).parent / "outgrow")
    done = torchrun("--no-python", outgrow, *command, "--store", str(tmp_path / "team"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("steps run") == 1
    again = subprocess.run(
        [outgrow, *command, "--store", str(tmp_path / "team")], capture_output=True, text=True, check=True
    )
    assert "0 steps run" in again.stdout
    wrong = torchrun("--no-python", outgrow, "run", "--task", "nothing")
    assert "unknown task" in wrong.stderr
