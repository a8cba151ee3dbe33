"""What README and docs say can be typed, can be typed."""

import re
import shlex
from pathlib import Path

import pytest

from outgrow.cli import app
from outgrow.models.packaged import PACKAGED
from outgrow.report.reference import write
from outgrow.strategies import STRATEGIES, canonical_strategy
from outgrow.supervisors import parse_supervisor
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
    supervised = [s.removeprefix("--weak ") for s in spelled if s.startswith("--weak ")]
    strategies = [s for s in spelled if not s.startswith("--weak ")]
    assert {s.partition("(")[0] for s in strategies} == set(STRATEGIES)
    assert all(parse_supervisor(text) is not None for text in supervised)
    for text in strategies:
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


# ---- links, pictures, and commands of recipes


def recipes() -> list[str]:
    """Every ``python FILE ...`` that pages and published reports show."""
    published = [*(ROOT / "docs").rglob("*.html")]
    text = "\n".join(page.read_text(encoding="utf-8").replace("\\\n", " ") for page in [*PAGES, *published])
    found = re.findall(r"(?:^ *|<pre>|`)(python (?:experiments|benchmarks)/\w+\.py[^\n`<|]*)", text, re.MULTILINE)
    return sorted({command.strip() for command in found} - {c.strip() for c in _in_the_log()})


def _in_the_log() -> list[str]:
    """The log keeps commands as they were typed then."""
    log = (ROOT / "docs" / "log.md").read_text(encoding="utf-8")
    return re.findall(r"python (?:experiments|benchmarks)/board\.py[^\n`<|]*", log)


@pytest.mark.parametrize("command", recipes())
def test_every_recipe_shown_is_a_file(command: str) -> None:
    assert (ROOT / shlex.split(command, comments=True)[1]).is_file()


def test_the_board_can_be_run_again_as_its_page_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the recipe hands to ``outgrow`` parses: the published page once showed a command that does not exist."""
    import runpy

    page = (ROOT / "docs" / "board" / "index.html").read_text(encoding="utf-8")
    (shown,) = re.findall(r"<h2>Run it again</h2>\s*<pre>(.*?)</pre>", page)
    assert shown in recipes()
    _, script, *options = shlex.split(shown)
    handed: list[list[str]] = []
    monkeypatch.setattr("outgrow.cli.main", handed.append)
    monkeypatch.setattr("sys.argv", [script, *options])
    runpy.run_path(str(ROOT / script), run_name="__main__")
    app.config = ()
    for name in ("OUTGROW_DATA_DIR", "HF_HUB_OFFLINE"):  # these options set them, and the test puts them back
        monkeypatch.setenv(name, "")
    app.parse_args(handed[0], exit_on_error=False, print_error=False)


@pytest.mark.parametrize("page", [*PAGES, ROOT / "docs" / "board" / "index.html"], ids=lambda page: page.name)
def test_every_link_and_picture_resolves(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    if page.suffix == ".html":
        links = re.findall(r'<a href="([^"#:]+)"', text)
        assert {"board.csv", "cells.csv", "difference.png", "pgr.svg"} <= set(links)
    else:
        prose = re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)
        links = re.findall(r"\]\(([^)\s]+)\)", prose)
    for link in links:
        if "://" in link or link.startswith("mailto:"):
            continue
        file, _, anchor = link.partition("#")
        target = page.parent / file if file else page
        assert target.exists(), link
        if anchor and target.suffix == ".md":
            assert anchor in headings(target), link


def headings(page: Path) -> set[str]:
    """The anchors of a page's headings, as MkDocs makes them."""
    found = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    plain = (re.sub(r"[^\w\s-]", "", title.lower()).strip() for title in found)
    return {re.sub(r"[\s-]+", "-", title) for title in plain}
