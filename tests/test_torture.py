"""A short slice of benchmarks/torture.py: the long form is `make torture`, its table stands in docs/reliability.md."""

import importlib.util
import random
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

from outgrow.errors import UserError

TORTURE = Path(__file__).parent.parent / "benchmarks" / "torture.py"


@pytest.fixture
def torture() -> ModuleType:
    spec = importlib.util.spec_from_file_location("torture", TORTURE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_no_wrong_number_no_traceback_no_hang() -> None:
    command = [sys.executable, str(TORTURE), "--kills", "2", "--cases", "600", "--others", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    counts = [line.split("|")[2:-1] for line in done.stdout.splitlines()[2:]]
    assert len(counts) == 13
    for trials, *outcomes in counts:
        assert int(trials) == sum(map(int, outcomes)) > 0
        assert [n.strip() for n in outcomes[-3:]] == ["0", "0", "0"]


def test_what_goes_wrong_is_seen(torture: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """The zeros above mean something: each fault of a parser is counted, and named."""
    monkeypatch.setattr(torture, "PATIENCE", 0.05)

    def case(i: int, rng: random.Random) -> str:
        if i == 1:
            raise UserError("one line")
        if i == 2:
            raise KeyError("a bug")
        if i == 3:
            raise AssertionError("a damaged record changed a number")
        if i == 4:
            time.sleep(5)
        return "accepted"

    found = torture.fuzz("parser", lambda: case, 0, 5, 0)
    expected = {"accepted": 1, "one line": 1, "traceback": 1, "wrong number": 1, "hang": 1}
    assert found["outcomes"] == expected
    assert [line.split(":")[:2] for line in found["failures"]] == [
        ["traceback", " parser 2"],
        ["wrong number", " parser 3"],
        ["hang", " parser 4"],
    ]


def test_how_a_child_ends_is_seen(torture: ModuleType) -> None:
    def refuse() -> None:
        raise UserError("one line")

    def fail() -> None:
        raise KeyError("a bug")

    assert torture.in_child(lambda: 3) == ("done", "3")
    assert torture.in_child(refuse) == ("one line", "one line")
    assert torture.in_child(fail)[0] == "traceback"
    assert torture.in_child(lambda: time.sleep(5), kill_after=0.05)[0] == "killed"
