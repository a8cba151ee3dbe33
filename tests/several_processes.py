"""Commands run by torchrun, and how their results are held against those of one process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from outgrow.train.model import FinetunedModel

TESTS = Path(__file__).parent


def torchrun(*command: str, processes: int = 2) -> subprocess.CompletedProcess[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join((str(TESTS), str(TESTS / "train"))),
        "TORCH_CPP_LOG_LEVEL": "ERROR",
    }
    return subprocess.run([*launcher, *command], capture_output=True, text=True, check=False, env=environment)


def assert_same_run(folder: Path, alone: FinetunedModel) -> None:
    """Weights within float tolerance, and the same checks."""
    found = load_file(folder / "finetuned.safetensors")
    assert found.keys() == alone.state.keys()
    history = json.loads((folder / "finetuned.json").read_text())["history"]
    if alone.settings.precision == "bf16":  # here, weights of norms are rounded to it too
        assert [h["loss"] for h in history] == pytest.approx([h["loss"] for h in alone.history], abs=0.005)
        return
    for key, value in alone.state.items():
        if key.endswith(("key.bias", "c_attn.bias")):
            continue  # softmax does not see it: its gradient is rounding alone, and Adam makes steps of that
        torch.testing.assert_close(found[key], value, atol=2e-4, rtol=1e-3)
    assert [h["agreement"] for h in history] == [h["agreement"] for h in alone.history]
    assert [h["loss"] for h in history] == pytest.approx([h["loss"] for h in alone.history], abs=1e-4)
