"""A short slice of benchmarks/torture.py: the long form is `make torture`, its table stands in docs/reliability.md."""

import subprocess
import sys
from pathlib import Path

import pytest

TORTURE = Path(__file__).parent.parent / "benchmarks" / "torture.py"


def run(*options: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, TORTURE, *options], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("fault", "rows"), [("fuzz", 9), ("killed", 1), ("damaged", 1), ("disk full", 1)])
def test_no_wrong_number_no_traceback_no_hang(fault: str, rows: int) -> None:
    done = run("--kills", "3", "--cases", "1500", "--others", "2", "--only", fault)
    assert done.returncode == 0, done.stderr
    counts = [line.split("|")[2:-1] for line in done.stdout.splitlines()[2:]]
    assert len(counts) == rows
    for trials, *outcomes in counts:
        assert int(trials.replace(",", "")) == sum(int(n.replace(",", "")) for n in outcomes) > 0
        assert [n.strip() for n in outcomes[-3:]] == ["0", "0", "0"]


def test_what_goes_wrong_is_seen(tmp_path: Path) -> None:
    """The zeros above mean something: a parser with a fault gives another code and is named."""
    broken = (
        "import sys, runpy, outgrow.config as c\n"
        "def read(path): raise KeyError('a bug')\n"
        "c.read_sweep = c.read_grid = read\n"
        "sys.argv = ['torture.py', '--cases', '40', '--only', 'YAML']\n"
        f"runpy.run_path({str(TORTURE)!r}, run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", broken], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "traceback: YAML of grids 0" in done.stderr
