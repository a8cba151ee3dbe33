"""The recipes for images, on tiny folders and with a stand-in for torchvision."""

import importlib.util
import io
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from outgrow.errors import UserError
from outgrow.experiment import sweep, wire
from outgrow.runtime import Runtime

EXPERIMENTS = Path(__file__).parent.parent / "experiments"


def recipe(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXPERIMENTS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Brightness(nn.Module):
    """Tells four classes apart by how bright the middle is, and is often wrong."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        bright = pixels.mean(dim=(1, 2, 3))
        return -((bright[:, None] - torch.tensor([0.2, 0.4, 0.6, 0.8])) ** 2) * 30


@pytest.fixture
def torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    def transform(image: Image.Image) -> torch.Tensor:
        assert image.mode == "RGB"
        return torch.from_numpy(np.array(image, dtype=np.float32) / 255).permute(2, 0, 1)

    weights = SimpleNamespace(transforms=lambda: transform)
    models: Any = ModuleType("torchvision.models")
    models.AlexNet_Weights = SimpleNamespace(IMAGENET1K_V1=weights)
    models.alexnet = lambda weights: Brightness()
    monkeypatch.setitem(sys.modules, "torchvision", ModuleType("torchvision"))
    monkeypatch.setitem(sys.modules, "torchvision.models", models)


def put_images(place: Path) -> None:
    rng = np.random.default_rng(0)
    for c in range(4):
        folder = place / "val" / f"n0{c}"
        folder.mkdir(parents=True)
        for i in range(50):
            shown = rng.normal(51 * (c + 1) + rng.normal(0, 25), 20, (8, 8)).clip(0, 255).astype(np.uint8)
            buffer = io.BytesIO()
            Image.fromarray(shown).save(buffer, "JPEG")
            (folder / f"{i}.JPEG").write_bytes(buffer.getvalue())


def test_imagenet_recipe_on_four_classes(tmp_path: Path, torchvision: None, monkeypatch: pytest.MonkeyPatch) -> None:
    module = recipe("vision_imagenet")
    put_images(tmp_path / "imagenet")
    runtime = Runtime(device="cpu", offline=True)
    made = module.experiments(str(tmp_path / "imagenet"), ["pixels(size=8)"])
    monkeypatch.setattr(module, "NUM_CLASSES", 4)
    (few,) = module.experiments(str(tmp_path / "imagenet"), ["pixels(size=8)"])
    assert (few.supervisor_rows, few.transfer_rows, few.test_rows) == (4, 156, 40)
    assert (made[0].supervisor_rows, made[0].transfer_rows, made[0].test_rows) == (1_000, 39_000, 10_000)
    row = sweep([few], str(tmp_path / "store"), runtime, quiet=True).row(0, named=True)
    assert row["weak"] == "alexnet"
    assert 0.4 < row["weak_accuracy"] < 0.95
    assert row["student_accuracy"] > 0.4


def test_without_torchvision_it_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    module = recipe("vision_imagenet")
    monkeypatch.setitem(sys.modules, "torchvision.models", None)
    with pytest.raises(UserError, match="pip install torchvision"):
        module.main(["folder", "model"])
    with pytest.raises(UserError, match="name the folder"):
        module.main([])


def test_offline_recipe_can_be_wired() -> None:
    """Every name is known and every model reads images; nothing is fetched."""
    made = recipe("vision_offline").experiments()
    keys = {wire(experiment).key for experiment in made}
    assert len(keys) == len(made)
    assert {e.strategy for e in made} >= {"naive", "confidence"}
