"""The shape of the library stays what README says, and within its budget."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def house() -> ModuleType:
    spec = importlib.util.spec_from_file_location("house", ROOT / "benchmarks" / "house.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def measured(house: ModuleType) -> dict[str, int | float | str]:
    found: dict[str, int | float | str] = house.measured(ROOT)
    return found


def test_the_path_from_command_to_gradient_is_what_readme_says(measured: dict[str, int | float | str]) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    said = re.search(r"Command to gradient, (\d+) frames:\s+`([^`]+)`", readme)
    assert said is not None
    path = " ".join(said[2].split())
    assert path == str(measured["the frames"]).replace(" > ", " -> ")
    assert int(said[1]) == measured["frames to the backward pass"]


@pytest.mark.parametrize(
    ("what", "most"),
    [
        ("modules at the top", 14),
        ("isinstance on trainers", 0),
        ("frames to the backward pass", 10),
        ("imports between parts", 150),
        ("median function, lines", 8),
        ("longest file, lines", 700),
    ],
)
def test_the_house_keeps_its_budget(measured: dict[str, int | float | str], what: str, most: int) -> None:
    found = measured[what]
    assert isinstance(found, int | float)
    assert found <= most


def test_a_type_switch_on_trainers_is_counted(
    house: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The count of zero above means something."""
    package = tmp_path / "src" / "outgrow"
    package.mkdir(parents=True)
    (package / "a.py").write_text(
        "def f(x):\n    return isinstance(x, Probe | int), isinstance(x, Other)\n\ndef g(): ...\n"
    )
    monkeypatch.setattr(house, "frames", lambda checkout: ["one"])
    assert house.measured(tmp_path)["isinstance on trainers"] == 1
