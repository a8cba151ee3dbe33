"""Every example of docs/extending.md runs through the real command, in a folder of its own, as a user would run it."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parent.parent / "docs" / "extending.md"
SECTIONS = re.findall(r"^## (An? [^\n]+)\n(.*?)(?=^## |\Z)", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
KINDS = {
    "A loss", "A label transform", "A label model", "A strategy", "A supervisor", "A task", "A model", "A trainer",
    "A figure", "An analysis",
}  # fmt: skip


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def test_there_is_an_example_of_every_kind() -> None:
    assert {title for title, _ in SECTIONS} == KINDS


@pytest.mark.parametrize(("title", "text"), SECTIONS, ids=[title for title, _ in SECTIONS])
def test_the_example_is_short_and_runs(title: str, text: str, tmp_path: Path) -> None:
    (code,) = blocks(text, "python")
    written = [line for line in code.splitlines() if line.strip() and not line.startswith(("from ", "import "))]
    assert len(written) <= 30
    (tmp_path / "my.py").write_text(code, encoding="utf-8")
    said = ""
    for command in "".join(blocks(text, "sh")).replace("\\\n", " ").splitlines():
        words = shlex.split(command)
        program = str(Path(sys.executable).with_name(words[0]))
        done = subprocess.run([program, *words[1:]], capture_output=True, text=True, check=False, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        said += done.stdout
    report = tmp_path / "outgrow-report"
    name = re.search(r'@(?:figure|analysis)\("([\w-]+)"\)', code)
    if name:
        assert name[1] in (report / "index.html").read_text(encoding="utf-8")
        assert {f.suffix for f in report.glob(f"{name[1]}.*")} == (
            {".svg", ".png"} if title == "A figure" else {".csv"}
        )
    else:
        assert "student" in said
        assert "± is half a 95 % interval" in said
    assert "--use my.py" in (report / "index.html").read_text(encoding="utf-8")
    assert not (set(os.listdir(tmp_path)) - {"my.py", "outgrow-store", "outgrow-report", "__pycache__"})
