"""``--use my.py``: a user's own loss through the real command, edited, recorded, rerun."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

OUTGROW = str(Path(sys.executable).with_name("outgrow"))
LOSS = """
from outgrow import loss


@loss
class Flooded:
    \"\"\"Cross-entropy kept above a floor.\"\"\"

    floor: float = 0.3

    def __call__(self, logits, targets, progress):
        plain = -(targets * logits.log_softmax(dim=-1)).sum(dim=-1)
        return (plain - self.floor).abs() + self.floor
"""
COMMAND = [
    "run", "--task", "synthetic-gaussian(rows=300)", "--weak", "vectors(dims=2)",
    "--strong", "random-features(width=32)",
    "--strategy", "naive(loss=Flooded)", "--seeds", "1", "--no-controls",
]  # fmt: skip


def outgrow(folder: Path, *words: str, expect: int = 0, env: dict[str, str] | None = None) -> str:
    import os

    done = subprocess.run(
        [OUTGROW, *words], capture_output=True, text=True, check=False, cwd=folder, env=os.environ | (env or {})
    )
    assert done.returncode == expect, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


def student(folder: Path) -> list[float]:
    """The last stored experiment's student: accuracy and cross-entropy."""
    found = []
    for path in (folder / "outgrow-store" / "compare").glob("*/record.json"):
        record = json.loads(path.read_text())["record"]
        found.append((record["finished"], path.stat().st_mtime_ns, record["result"]["student"]["xent"]))
    return list(max(found)[2])


def test_a_loss_edited_between_two_runs_gives_new_numbers(tmp_path: Path) -> None:
    """The fault that ruins science: the old numbers came back as new."""
    (tmp_path / "my.py").write_text(LOSS)
    first = outgrow(tmp_path, *COMMAND, "--use", "my.py")
    before = student(tmp_path)
    assert ", 0 reused" in first
    again = outgrow(tmp_path, *COMMAND, "--use", "my.py")
    assert "0 steps run" in again
    (tmp_path / "my.py").write_text(LOSS.replace("+ self.floor", "* 0.1"))
    edited = outgrow(tmp_path, *COMMAND, "--use", "my.py")
    assert "3 steps run" in edited  # the student, its predictions and the comparison; nothing else
    assert student(tmp_path) != before
    (tmp_path / "my.py").write_text(LOSS + "\n# a comment\n")
    assert "0 steps run" in outgrow(tmp_path, *COMMAND, "--use", "my.py")


def test_records_and_pages_carry_the_file_and_a_run_can_be_repeated_from_its_record(tmp_path: Path) -> None:
    (tmp_path / "my.py").write_text(LOSS)
    outgrow(tmp_path, *COMMAND, "--use", "my.py")
    (path,) = (tmp_path / "outgrow-store" / "compare").glob("*/record.json")
    note = json.loads(path.read_text())["record"]["note"]
    assert note["experiment"]["use"] == ["my.py"]
    assert [file["path"] for file in note["used"]] == ["my.py"]
    assert len(note["used"][0]["sha256"]) == 64
    page = (tmp_path / "outgrow-report" / "index.html").read_text()
    assert "--use my.py" in page
    assert note["used"][0]["sha256"][:12] in page
    shown = outgrow(tmp_path, "show", path.parent.name[:12], "--config")
    assert "my.py" in shown
    assert "0 steps run" in outgrow(tmp_path, "run", "--config", path.parent.name[:12])


def test_every_way_to_name_the_file(tmp_path: Path) -> None:
    (tmp_path / "my.py").write_text(LOSS)
    outgrow(tmp_path, *COMMAND, "--use", "my.py")
    assert "0 steps run" in outgrow(tmp_path, *COMMAND, env={"OUTGROW_USE": "my.py"})
    code = "from outgrow import Experiment, run; print(run(Experiment(task='synthetic-gaussian(rows=300)', "
    code += "weak='vectors(dims=2)', strong='random-features(width=32)', strategy='naive(loss=Flooded)', seeds=(0,), "
    code += "use=('my.py',)), quiet=True).shape)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
    assert len(list((tmp_path / "outgrow-store" / "compare").iterdir())) == 1
    yaml = outgrow(tmp_path, *COMMAND, "--use", "my.py", "--print-config")
    (tmp_path / "grid.yaml").write_text(yaml)
    assert "0 steps run" in outgrow(tmp_path, "sweep", "grid.yaml")
    assert "Flooded" in outgrow(tmp_path, "methods", "--use", "my.py")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "unknown loss"),
        (("--use", "nothere.py"), "cannot read nothere.py"),
        (("--use", "data.csv"), "name a Python file"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    (tmp_path / "data.csv").write_text("")
    found = outgrow(tmp_path, *COMMAND, *words, expect=2)
    assert said in found
    assert found.count("\n") == 1
