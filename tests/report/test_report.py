"""The report is one page that carries everything it needs, says what the numbers carry, and executes no name."""

import base64
import hashlib
import io
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from rich.console import Console

from fake_tables import NO_CEILING, TABLES, fake_row, table
from outgrow.errors import UserError
from outgrow.report import run as report
from outgrow.report.figures import Picture
from outgrow.report.run import cautions

PROVENANCE: dict[str, Any] = {
    "command": "outgrow run --task 'a<b'",
    "config": "task: [sentiment]\n",
    "versions": {"outgrow": "0.1.0"},
    "host": {"cores": 2},
    "git": "abc123",
    "seconds": 12.5,
    "steps_run": 10,
    "steps_reused": 0,
    "licences": [("minilm-l6", "Apache-2.0")],
}
EVIL = "<script>alert(1)</script>&'\""


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No JavaScript and no pictures, which take the time."""
    monkeypatch.setattr("outgrow.report.page.javascript", lambda: "/* vega */")
    monkeypatch.setattr("outgrow.report.figures.render", lambda chart: Picture(chart.to_dict(), "<svg></svg>", b"png"))


def write(frame: pl.DataFrame, folder: Path, title: str = "A sweep", **changes: Any) -> str:
    page = report.write_report(frame, folder, title=title, provenance={**PROVENANCE, **changes})
    return page.read_text(encoding="utf-8")


class References(HTMLParser):
    """Tags of a page, and what they load or link to."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.targets: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.targets += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data")]


def references(page: str) -> References:
    parser = References()
    parser.feed(page)
    return parser


def test_the_page_carries_its_scripts_and_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUTGROW_CACHE", str(tmp_path / "cache"))
    page = write(TABLES["one pair"], tmp_path)
    found = references(page)
    names = ("accuracy", "pgr", "agreement", "controls")
    pictures = {f"{name}.{kind}" for name in names for kind in ("svg", "png")}
    local = {t for t in found.targets if not t.startswith("data:image/svg+xml;base64,")}
    assert local == {*pictures, "results.csv", "controls.csv"}
    assert all((tmp_path / name).is_file() for name in local)
    assert found.tags.count("img") == len(names)
    assert found.tags.count("script") == len(names) + 1
    assert len(re.findall(r"window\.vegaEmbed\s*=", page)) == 1
    before_the_script = page[: page.rindex("<script>")]
    assert "http:" not in before_the_script
    assert "https:" not in before_the_script
    assert "default-src 'none'" in page
    assert pl.read_csv(tmp_path / "results.csv")["seeds"].to_list() == ["0 1"]


@pytest.mark.usefixtures("quick")
def test_the_policy_lets_the_one_script_run_and_no_other(tmp_path: Path) -> None:
    page = write(TABLES["one pair"], tmp_path)
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    assert script.startswith("/* vega */")
    assert "vegaEmbed(" in script
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in page


@pytest.mark.usefixtures("quick")
def test_no_name_becomes_markup(tmp_path: Path) -> None:
    frame = table(
        fake_row(EVIL, f"b{EVIL}", EVIL, task=f"c{EVIL}", train=EVIL, pgr=None, pgr_undefined=EVIL),
        fake_row(EVIL, f"b{EVIL}", "shuffled", task=f"c{EVIL}", train=EVIL),
    )
    evil = {"command": EVIL, "config": EVIL, "git": EVIL, "versions": {EVIL: EVIL}, "host": {EVIL: EVIL}}
    page = write(frame, tmp_path, title=EVIL, **evil, licences=[(EVIL, EVIL)])
    assert EVIL not in page
    assert "<script>alert" not in page
    assert page.count("</script") == 4 + 1
    assert references(page).tags.count("script") == 4 + 1


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("name", TABLES)
def test_every_table_makes_a_page_and_a_terminal_table(name: str, tmp_path: Path) -> None:
    page = write(TABLES[name], tmp_path)
    assert all(head in page for head in ("All comparisons", "Controls", "What ran", "Run it again"))
    text = printed(TABLES[name])
    assert max(len(line) for line in text.splitlines()) <= 110


def printed(frame: pl.DataFrame) -> str:
    console = Console(file=io.StringIO(), width=110)
    report.print_table(frame, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.usefixtures("quick")
def test_an_undefined_pgr_is_no_number_and_its_reason_is_told(tmp_path: Path) -> None:
    frame = table(fake_row(**NO_CEILING))
    page = write(frame, tmp_path)
    comparisons, _, _ = page.partition("<h2>Controls</h2>")
    cells = re.findall(r'<td class="number">(.*?)</td>', comparisons)
    assert cells[-1] == '<abbr title="there is no ceiling">undefined</abbr><sup>1</sup>'
    assert cells[2] == "none"
    assert "<li>PGR undefined: there is no ceiling.</li>" in page
    assert "PGR is undefined in 1 of 1 comparison." in report.headline(frame)
    assert "PGR undefined: there is no ceiling" in printed(frame)


def test_the_headline_counts_intervals() -> None:
    worse = fake_row("minilm-l3", gain=(-0.03, -0.05, -0.01), pgr=(-0.5, -0.9, -0.1))
    unclear = fake_row(strategy="confidence", gain=(0.01, -0.01, 0.03), pgr=None, pgr_undefined="no gap")
    said = report.headline(table(fake_row(), worse, unclear))
    assert said.startswith("The 95 % interval of the gain lies above zero in 1 of 3 comparisons, below zero in 1 (not ")
    assert "Median PGR: −0.08 (from −0.50 to 0.33), defined in 2 of 3 comparisons." in said
    assert "below" not in report.headline(table(fake_row(), unclear))
    assert "PGR: 0.33, defined in 1 of 2 comparisons." in report.headline(table(fake_row(), unclear))
    assert report.headline(TABLES["controls only"]) == "Only controls were run."


@pytest.mark.usefixtures("quick")
def test_a_student_not_above_its_controls_is_flagged(tmp_path: Path) -> None:
    low, high = (0.51, 0.49, 0.53), (0.735, 0.72, 0.75)
    beaten = table(fake_row(), fake_row(strategy="shuffled", student_accuracy=low))
    reached = table(fake_row(), fake_row(strategy="clusters", student_accuracy=high))
    assert "controls" not in report.headline(beaten)
    said = "In 1 of 1 comparison the interval of the student's accuracy does not lie above all controls."
    assert said in report.headline(reached)
    assert 'title="not above: clusters"' in write(reached, tmp_path)
    assert "naive !" in printed(reached)
    of_another_pair = table(fake_row(), fake_row("minilm-l3", strategy="clusters", student_accuracy=high))
    assert "controls" not in report.headline(of_another_pair)


@pytest.mark.usefixtures("quick")
def test_small_tests_single_seeds_and_missing_controls_are_warned_of(tmp_path: Path) -> None:
    page = write(table(fake_row(num_test_per_seed=40, num_seeds=1)), tmp_path / "small")
    assert "test has 40 rows" in page
    assert "single seed" in page
    assert "no controls were run" in page
    assert 'class="warnings"' not in write(table(fake_row(), fake_row(strategy="shuffled")), tmp_path / "fine")


@pytest.mark.usefixtures("quick")
def test_the_page_is_written_again_only_if_it_would_say_something_new(tmp_path: Path) -> None:
    frame = TABLES["one pair"]
    write(frame, tmp_path)
    page = tmp_path / "index.html"
    first = page.stat().st_mtime_ns
    assert "12.5 seconds" in write(frame, tmp_path, seconds=0.1, steps_run=0, steps_reused=10)
    assert page.stat().st_mtime_ns == first
    assert "other-commit" in write(frame, tmp_path, git="other-commit")
    write(TABLES["no ceiling"], tmp_path)
    assert "there is no ceiling" in page.read_text(encoding="utf-8")


@pytest.mark.usefixtures("quick")
def test_cut_texts_and_students_that_have_not_learned_are_warned_of(tmp_path: Path) -> None:
    frame = table(fake_row(), fake_row(strategy="shuffled"))
    columns = ("weak_texts_cut", "weak_texts_read", "weak_texts_identical")
    whole = frame.with_columns(
        *(pl.lit(None, pl.Int64).alias(name) for name in columns),
        *(pl.lit(n).alias(f"student_texts_{k}") for k, n in (("cut", 0), ("read", 600), ("identical", 0))),
        *(pl.lit(0.2).alias(name) for name in ("learned", "learned_low", "learned_high")),
    )
    assert cautions(frame) == cautions(whole) == []
    cut = whole.with_columns(pl.lit(600).alias("student_texts_cut"), pl.lit(12).alias("student_texts_identical"))
    found = cautions(cut)
    assert any(
        "600 of 600 texts were cut at max_tokens for" in f and f.endswith(", 12 became identical") for f in found
    )
    assert any("read different amounts of the texts (100 % and 0 % of them were cut)" in f for f in found)
    assert "12 became identical" in write(cut, tmp_path)
    both = cut.with_columns(pl.lit(598).alias(columns[0]), pl.lit(600).alias(columns[1]), pl.lit(0).alias(columns[2]))
    assert not any("different amounts" in f for f in cautions(both))
    behind = whole.with_columns(pl.lit(-0.112).alias("learned"), pl.lit(-0.01).alias("learned_high"))
    assert len(cautions(behind)) == 1  # a control may
    assert "has not learned: it agrees with the weak labels of" in cautions(behind)[0]
    assert "11.2 points less often than their most frequent class does" in cautions(behind)[0]


def test_an_empty_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no finished experiments"):
        report.write_report(pl.DataFrame(), tmp_path, title="", provenance={})
    assert not list(tmp_path.iterdir())
