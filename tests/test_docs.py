"""What README and docs say can be typed, can be typed."""

import re
import shlex
from pathlib import Path

import pytest

from outgrow.cli import app
from outgrow.models.packaged import PACKAGED
from outgrow.report.reference import write
from outgrow.strategies import STRATEGIES, canonical_strategy
from outgrow.tasks import TASKS, tasks_table

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def commands() -> list[str]:
    text = "\n".join(block.replace("\\\n", " ") for page in PAGES for block in blocks(page, "sh"))
    return [line for line in text.splitlines() if line.startswith("outgrow ")]


def test_there_are_commands_to_check() -> None:
    assert len(commands()) > 8


@pytest.mark.parametrize("command", commands())
def test_every_command_is_one(command: str) -> None:
    tokens = shlex.split(command, comments=True)[1:]
    app.config = ()
    app.parse_args(tokens, exit_on_error=False, print_error=False)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_python_block_compiles_and_imports_what_is_there(page: Path) -> None:
    for block in blocks(page, "python"):
        compile(block, str(page), "exec")
        for line in re.findall(r"^from outgrow.*", block, re.MULTILINE):
            exec(line, {})


def test_the_strategy_of_the_docs_works_and_its_spellings_parse() -> None:
    page = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    spelled = re.findall(r"\| `([^`]+)` \|$", page, re.MULTILINE)
    assert {s.partition("(")[0] for s in spelled} == set(STRATEGIES)
    for text in spelled:
        canonical_strategy(text)


def test_the_table_of_models_is_the_registry() -> None:
    models = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    for packaged in PACKAGED.values():
        megabytes = round(sum(a.size for a in packaged.archives) / 1e6)
        row = next(line for line in models.splitlines() if line.startswith(f"| `{packaged.name}`"))
        assert f"{packaged.parameters / 1e6:.1f} M" in row
        assert f"{megabytes} MB" in row
        assert packaged.licence.split()[0] in row


def test_the_table_of_tasks_is_up_to_date(monkeypatch: pytest.MonkeyPatch) -> None:
    own = {name: entry for name, entry in TASKS.items() if entry.fn.__module__.startswith("outgrow.")}
    monkeypatch.setattr(TASKS, "_values", own)  # without those that tests register
    page = (ROOT / "docs" / "tasks.md").read_text(encoding="utf-8")
    assert page == write(page), "run: python -m outgrow.report.reference docs/tasks.md"
    assert all(f"| `{task['name']}` |" in page for task in tasks_table())
