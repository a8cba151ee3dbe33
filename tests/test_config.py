"""Presets: one name in Python, YAML and on the command line, and the training that the released code does."""

import math
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from outgrow import Grid, UserError, preset
from outgrow.cli import main
from outgrow.config import PRESETS, read_sweep, to_yaml
from outgrow.experiment import experiments_of, wire
from outgrow.losses import LogConf, Product, Xent
from outgrow.models.transformer import load_tokenizer
from outgrow.runtime import Runtime
from outgrow.strategies import parse_strategy, parse_trainer
from outgrow.strategies.trainers import Finetune
from outgrow.train.loop import finetune
from outgrow.train.model import build, predict, probabilities, token_rows
from outgrow.train.updates import batches
from tiny_models import make_model, make_task


def test_a_preset_has_one_name_everywhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from_python = preset("released_code", task=("boolq",), seeds=2)
    file = tmp_path / "grid.yaml"
    file.write_text("- seeds: 2\n  preset: released_code\n  task: boolq\n")  # in any order
    assert read_sweep(file) == [from_python]
    with pytest.raises(SystemExit, match="0"):
        main(["run", "--config", "released_code", "--task", "boolq", "--seeds", "2", "--print-config"])
    assert capsys.readouterr().out == to_yaml(from_python)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_can_be_run(name: str) -> None:
    for experiment in experiments_of(preset(name, weak=("hf:a/b@" + 40 * "0",), strong=("hf:c/d@" + 40 * "0",))):
        wire(experiment)


def test_an_unknown_preset_offers_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean released_code"):
        preset("released-code")
    file = tmp_path / "grid.yaml"
    file.write_text("task: boolq\npreset: release\n")
    with pytest.raises(UserError, match=r"line 2.*preset"):
        read_sweep(file)


def test_the_released_choices() -> None:
    """loss.py and train_simple.py at commit 6b450f2, as read."""
    grid = preset("released_code")
    strategies = [parse_strategy(text) for text in grid.strategy]
    losses = [strategy.loss for strategy in strategies]  # type: ignore[attr-defined]
    assert losses == [Xent(), LogConf(alpha=0.5, warmup=0.1, shares="weak", schedule="released"), Product()]
    assert losses[2] == Product(alpha=1.0, beta=1.0)
    (settings,) = (parse_trainer(text) for text in grid.train)
    assert settings == Finetune(
        epochs=2, batch_size=32, lr=5e-5, optimizer="adamw", weight_decay=0.0, schedule="cosine", warmup=0.0, clip=0.0,
        precision="fp32", dropout=False, lora=0, head="zero", pooling="last", max_tokens=1024, early_stopping=False,
        checks=1,
    )  # fmt: skip
    assert (grid.validation, grid.balance, grid.controls) == (0.0, False, False)
    assert Grid(**{**vars(grid), "controls": True}) != grid


def test_released_training_is_a_plain_loop_with_adam_and_cosine_annealing(tmp_path: Path) -> None:
    """torch's own Adam and CosineAnnealingLR, whole batches, nothing else; only the order of rows is ours."""
    folder = make_model(tmp_path / "gpt2", "gpt2")
    (trainer,) = preset("released_code").train
    settings = parse_trainer(trainer)
    assert isinstance(settings, Finetune)
    settings = Finetune(**{**vars(settings), "lr": 2e-2, "batch_size": 8, "max_tokens": 64})  # a small case of it
    texts, targets = make_task(24, seed=1)
    found = finetune(folder, texts, targets, [], targets[:0], Xent(), settings, 0, Runtime(device="cpu"))

    model = build(folder, settings, 2, seed=0).train()
    rows = token_rows(load_tokenizer(folder), texts, 64)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-2)
    total = math.ceil(24 / 8) * 2
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, total)
    for batch in batches(24, 8, 2, seed=0):
        logits = model([tokens for i in batch for tokens in rows[i]])
        torch.autograd.backward(F.cross_entropy(logits, torch.from_numpy(targets[batch])))
        optimizer.step()
        falling.step()
        optimizer.zero_grad()
    wanted = probabilities(model, rows, Runtime(device="cpu"), report=lambda done, total, unit: None, together=False)
    told = predict(folder, found, texts, Runtime(device="cpu"))
    np.testing.assert_allclose(told, wanted, atol=1e-4)
    assert np.abs(told - 0.5).max() > 0.1  # it has learned


# --- YAML that is refused, or means what it says ----------------------------------------------------------------------


def bomb() -> str:
    """Lists of ten aliases of the list before: 426 bytes that mean ten thousand million entries."""
    lines = ["- &z0 [x,x,x,x,x,x,x,x,x,x]"]
    lines += [f"- &z{i} [{','.join([f'*z{i - 1}'] * 10)}]" for i in range(1, 10)]
    return "\n".join(lines)


REFUSED = {
    "seeds: !!int abc": "'abc' is no int",
    "balance: !!bool maybe": "'maybe' is no bool",
    "validation: !!float abc": "'abc' is no float",
    "seeds: !!timestamp abc": "'abc' is no timestamp",
    "seeds: 2020-13-45": "seeds must be of type int, not '2020-13-45'",
    "seeds: 1:30": "seeds must be of type int, not '1:30'",
    "seeds: 010": "seeds must be of type int, not '010'",
    "balance: on": "balance must be of type bool, not 'on'",
    "seeds: 2\nseeds: 3": "line 2: 'seeds' is given twice",
    "- task: [x]\n  ? task\n  : [y]": "line 2: 'task' is given twice",
    "seeds: 1000000000": "at most 10,000",
    "seeds: " + "9" * 300: "at most 10,000",
    "seeds: " + "9" * 5000: "line 1: a number of 5,000 digits is too long",
    "first_seed: -1": "first_seed=-1",
    "first_seed: 5000000000": "first_seed=5000000000",
    "supervisor_rows: -5": "supervisor_rows=-5",
    "validation: .nan": "must be of type float",
    "validation: 1": "a share from 0 to below 1",
    "task: &a [*a]": "contains itself",
    "task: &a {x: *a}": "contains itself",
    "task: " + "[" * 5000: "nested too deeply",
    "task: " + "{a: " * 5000: "nested too deeply",
    bomb(): "more than 10,000 entries long",
    "task: [" + "x," * 30_000 + "]": "too long",
    "task: !!python/object/apply:os.system ['touch PWNED']": "could not determine a constructor",
    "task: !!python/name:os.system": "could not determine a constructor",
    "1: 2": "unknown field '1'",
    "~: 2": "line 1: a value without a field's name",
    "seeds: 2\nnull: 3": "line 2: a value without a field's name",
    "true: 2": "line 1: unknown field 'True'",
    "seeds: 1\n<<:\n  seedz: 2": "line 3: unknown field 'seedz'",
    "seeds: 1\n<<: [{test_rows: x}]": "line 2: test_rows must be of type int",
    "? [a]\n: b": "unhashable",
    "- null": "expected field: value",
    "a: 1\n---\nb: 2": "another document",
    "hello": "expected field: value, found 'hello'",
    "null": "is empty",
    'task: "a\x00b"': "special characters are not allowed",
}


@pytest.mark.parametrize("text", REFUSED, ids=lambda text: text[:30])
def test_yaml_that_means_nothing_is_one_line_at_once(text: str, tmp_path: Path) -> None:
    (tmp_path / "grid.yaml").write_text(text)
    began = time.monotonic()
    with pytest.raises(UserError) as error:
        read_sweep(tmp_path / "grid.yaml")
    assert REFUSED[text] in str(error.value)
    assert "grid.yaml" in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 600
    assert time.monotonic() - began < 2
    assert not Path("PWNED").exists()


def test_yaml_means_what_it_says(tmp_path: Path) -> None:
    file = tmp_path / "grid.yaml"
    file.write_text(
        "\ufefftask: &t [x, 'on']\nstrategy: *t\nvalidation: 1e-1\nseeds: 1_000\nbalance: False\nweak_train: ~"
    )
    [grid] = read_sweep(file)
    assert (grid.task, grid.strategy, grid.validation, grid.seeds) == (("x", "on"), ("x", "on"), 0.1, 1000)
    assert grid.balance is False
    assert grid.weak_train is None
    file.write_text("<<: {seeds: 3}\ntask: [x]")
    assert read_sweep(file)[0].seeds == 3
