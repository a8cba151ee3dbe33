"""The report is one page that carries everything it needs, says what the numbers carry, and executes no name."""

import ast
import base64
import hashlib
import html
import inspect
import io
import json
import re
import textwrap
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from fake_tables import NO_CEILING, NO_WEAK_TEST, TABLES, UNCOMPARED, fake_row, table
from outgrow.errors import UserError
from outgrow.report import run as report
from outgrow.report.figures import Picture
from outgrow.report.rows import tidy
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
@pytest.mark.parametrize("name", [*TABLES, *UNCOMPARED])
def test_every_table_makes_a_page_and_a_terminal_table(name: str, tmp_path: Path) -> None:
    frame = (TABLES | UNCOMPARED)[name]
    page = write(frame, tmp_path)
    assert all(head in page for head in ("All comparisons", "Controls", "What ran", "Run it again"))
    text = printed(frame)
    assert all(len(line) <= 110 or len(line.split()) <= 2 for line in text.splitlines())  # a word is never broken


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
    assert said.startswith(
        "The 95 % interval of the gain lies above zero in 1 of 3 comparisons, below zero in 1, uncorr"
    )
    assert "Median PGR: −0.08 (from −0.50 to 0.33), defined in 2 of 3 comparisons." in said
    assert "below" not in report.headline(table(fake_row(), unclear))
    assert "PGR: 0.33, defined in 1 of 2 comparisons." in report.headline(table(fake_row(), unclear))
    assert report.headline(TABLES["controls only"]) == "Only controls were run."


@pytest.mark.usefixtures("quick")
def test_a_student_not_above_its_controls_is_flagged(tmp_path: Path) -> None:
    """By the paired difference: that the intervals of two accuracies overlap says nothing."""
    near = (0.735, 0.72, 0.75)
    beaten = table(fake_row(), fake_row(strategy="clusters", student_accuracy=near))
    reached = table(
        fake_row(over_clusters=(0.005, -0.002, 0.012)), fake_row(strategy="clusters", student_accuracy=near)
    )
    assert "control" not in report.headline(beaten)
    assert "In 1 of 1 comparison the student is not shown to be above every control" in report.headline(reached)
    assert 'title="not above: clusters"' in write(reached, tmp_path)
    assert "naive !" in printed(reached)
    majority = table(fake_row(over_majority=(0.0, -0.01, 0.01)), fake_row(strategy="clusters"))
    assert 'title="not above: majority class"' in write(majority, tmp_path)


@pytest.mark.usefixtures("quick")
def test_small_tests_single_seeds_and_missing_controls_are_warned_of(tmp_path: Path) -> None:
    page = write(table(fake_row(num_test_per_seed=40, num_seeds=1, gain=(0.03, -0.05, 0.11))), tmp_path / "small")
    assert "test has 40 rows (1 seed): the 95 % interval of a gain is up to ±8.0 points" in page
    assert "single seed" in page
    assert "no controls were run" in page
    assert 'class="warnings"' not in write(table(fake_row(), fake_row(strategy="shuffled")), tmp_path / "fine")


@pytest.mark.usefixtures("quick")
def test_how_the_data_was_read_is_told_on_the_page_and_in_the_terminal(tmp_path: Path) -> None:
    notes = "240 rows, classes of column 'y': 'a' 1\n2 rows <left out>"
    frame = table(fake_row(notes=notes), fake_row(strategy="bootstrap", notes=notes))
    assert write(frame, tmp_path).count("<li>2 rows &lt;left out&gt;</li>") == 1
    assert printed(frame).count("240 rows, classes of column 'y': 'a' 1") == 1
    several = printed(table(fake_row(task="one", notes="note"), fake_row(task="other", notes="note")))
    assert "one: note" in several
    assert "other: note" in several


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


# --- what is said is what was computed -------------------------------------------------------------------------------

BELOW: dict[str, Any] = {"gain": (-0.03, -0.05, -0.01), "pgr": (-0.5, -0.9, -0.1)}
UNCLEAR: dict[str, Any] = {"gain": (0.01, -0.01, 0.03), "pgr": None, "pgr_undefined": "no gap"}
NO_GOLD: dict[str, Any] = {"gain": None, "gain_undefined": "no row has gold", "pgr": None}
NO_GOLD |= {"pgr_undefined": "no row has gold"}
SHUFFLED = fake_row(strategy="shuffled")
ABOVE = "The 95 % interval of the gain lies above zero in"
NO_CONTROLS = "no controls were run; students are compared with the majority class only"
SEED = "some results have a single seed; their intervals leave out the variation between seeds"
ENDS = "± is half a 95 % interval, brackets are 95 % intervals"
NOT_ABOVE = "! not shown to be above every control (shuffled): a 95 % interval of student minus control reaches zero"
SAID: list[tuple[list[dict[str, Any]], str, list[str], list[str]]] = [
    # a table's rows, the headline, the warnings, the notes below the table in the terminal
    ([SHUFFLED], "Only controls were run.", [], [ENDS]),
    (
        [fake_row(), SHUFFLED],
        f"{ABOVE} 1 of 1 comparison. PGR: 0.33, defined in 1 of 1 comparison.",
        [],
        [ENDS],
    ),
    (
        [fake_row(**NO_WEAK_TEST), fake_row("minilm-l3"), SHUFFLED],
        f"{ABOVE} 1 of 1 comparison. PGR: 0.33, defined in 1 of 1 comparison. "
        "No gain for 1 student: no test row has a weak label.",
        [],
        ["PGR undefined: there is no ceiling", ENDS],
    ),
    (
        [fake_row(num_seeds=1), SHUFFLED],
        f"{ABOVE} 1 of 1 comparison; one seed. PGR: 0.33, defined in 1 of 1 comparison.",
        [SEED],
        [ENDS],
    ),
    (
        [fake_row(), fake_row("minilm-l3", num_seeds=1, **BELOW)],
        f"{ABOVE} 1 of 2 comparisons, below zero in 1, uncorrected; one seed in 1. "
        "Median PGR: −0.08 (from −0.50 to 0.33), defined in 2 of 2 comparisons.",
        [SEED, NO_CONTROLS],
        [ENDS],
    ),
    (
        [fake_row(**NO_CEILING), fake_row(strategy="confidence", **UNCLEAR | NO_CEILING), SHUFFLED],
        f"{ABOVE} 1 of 2 comparisons, uncorrected. PGR is undefined in 2 of 2 comparisons.",
        [],
        ["PGR undefined: there is no ceiling", ENDS],
    ),
    (
        [fake_row(), fake_row("minilm-l3", over_shuffled=(0.02, 0.0, 0.04), **UNCLEAR), SHUFFLED],
        f"{ABOVE} 1 of 2 comparisons, uncorrected. PGR: 0.33, defined in 1 of 2 comparisons. In 1 of 2 comparisons the "
        "student is not shown to be above every control (shuffled): the 95 % interval of student minus control, row by "
        "row, does not lie above zero.",
        [],
        ["PGR undefined: no gap", NOT_ABOVE, ENDS],
    ),
    (
        [fake_row(), fake_row("minilm-l3", **NO_GOLD), SHUFFLED],
        f"{ABOVE} 1 of 1 comparison. PGR: 0.33, defined in 1 of 1 comparison. No gain for 1 student: no row has gold.",
        [],
        ["PGR undefined: no row has gold", ENDS],
    ),
    (
        [fake_row(num_test_per_seed=40, gain=(0.03, -0.05, 0.11)), fake_row("minilm-l3", over_clusters=None), SHUFFLED],
        f"{ABOVE} 1 of 2 comparisons, uncorrected. "
        "Median PGR: 0.33 (from 0.33 to 0.33), defined in 2 of 2 comparisons.",
        [
            "sentiment: the test has 40 rows (2 seeds): the 95 % interval of a gain is up to ±8.0 points, so "
            "smaller gains cannot be shown; use more test rows or seeds",
            "1 student of 2 not compared with every control, row by row; "
            "run the student and its controls in one command",
        ],
        [ENDS],
    ),
]


@pytest.mark.parametrize(("rows", "headline", "warnings", "notes"), SAID)
def test_every_sentence_says_what_the_table_holds(
    rows: list[dict[str, Any]], headline: str, warnings: list[str], notes: list[str]
) -> None:
    frame = table(*rows)
    assert report.headline(frame) == headline
    assert report._warnings(tidy(frame)) == warnings
    assert squeezed(printed(frame)).endswith(squeezed(" ".join(notes)))


def squeezed(text: str) -> str:
    return "".join(text.split())


def test_no_sentence_is_left_out_above() -> None:
    """Every text of the report's functions occurs in what the tables above are expected to say."""
    expected = " ".join(" ".join([headline, *warnings, *notes]) for _, headline, warnings, notes in SAID)
    for function in (report._findings, report._warnings, report.small_test_warnings, report.print_table):
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(function))).body
        assert isinstance(tree, ast.FunctionDef)
        texts = (node.value for node in ast.walk(ast.Module(tree.body[1:], [])) if isinstance(node, ast.Constant))
        sentences = [text.strip() for text in texts if isinstance(text, str) and text.count(" ") > 1]
        assert sentences
        assert [s for s in sentences if s not in expected] == []


@given(
    st.lists(
        st.tuples(st.floats(-0.2, 0.2), st.floats(0.001, 0.1), st.booleans(), st.sampled_from([1, 3]), st.booleans()),
        min_size=1,
        max_size=6,
    )
)
def test_the_headline_counts_right_whatever_the_table(given: list[tuple[float, float, bool, int, bool]]) -> None:
    rows = []
    for i, (gain, half, defined, seeds, above) in enumerate(given):
        changes: dict[str, Any] = {"gain": (gain, gain - half, gain + half), "num_seeds": seeds}
        changes |= {} if defined else {"pgr": None, "pgr_undefined": "no gap"}
        rows.append(fake_row(strategy=f"s{i}", over_clusters=(0.0, 0.01 if above else -0.01, 0.02), **changes))
    said, total = report.headline(table(*rows)), len(rows)
    of_all = f"of {total} comparison{'s' * (total > 1)}"
    counts = [sum(g - h > 0 for g, h, *_ in given), sum(g + h < 0 for g, h, *_ in given)]
    single = sum(seeds == 1 for *_, seeds, _ in given)
    assert f"above zero in {counts[0]} {of_all}" in said
    assert (f"below zero in {counts[1]}" in said) == (counts[1] > 0)
    assert ("uncorrected" in said) == (total > 1)
    assert ("one seed" in said) == (single > 0)
    num_defined = sum(d for _, _, d, _, _ in given)
    assert f"efined in {num_defined or total} {of_all}" in said
    flagged = sum(not above for *_, above in given)
    assert (f"In {flagged} {of_all} the student is not shown" in said) == (flagged > 0)


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


def test_a_student_that_says_one_class_only_is_named() -> None:
    classes = {"classes": ["fine", "rare"], "rows": [90, 10], "abstained": None}
    for confusion, said in (([[90, 0], [10, 0]], True), ([[90, 0], [9, 1]], False)):
        per_class = json.dumps(classes | {"student": {"confusion": confusion}})
        found = cautions(table(fake_row(per_class=per_class), fake_row(strategy="shuffled", per_class=per_class)))
        assert [f.endswith("by naive says 'fine' for every test row") for f in found] == [True] * said


def test_a_size_that_has_no_use_is_said() -> None:
    own = json.loads(fake_row(**NO_GOLD)["rows"]) | {"A": [0, 0]}
    row = fake_row(rows=json.dumps(own), supervisor_rows=50)
    said = "no supervisor is trained, so the 50 supervisor rows asked for are not used"
    assert said in " ".join(printed(table(row)).split())
    assert said not in " ".join(printed(table(fake_row(supervisor_rows=50))).split())


def test_an_empty_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no finished experiments"):
        report.write_report(pl.DataFrame(), tmp_path, title="", provenance={})
    assert not list(tmp_path.iterdir())


# --- what a score counts ----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("quick")
def test_a_table_is_said_to_be_scored_at_natural_shares_class_by_class(tmp_path: Path) -> None:
    page, text = write(TABLES["your own"], tmp_path), printed(TABLES["your own"])
    for said in (page, text):
        words = " ".join(said.split())
        assert "cored on 1,000 test rows at natural class shares (fine 90.0 %, " in words
        assert "no test row is of class 'never'" in html.unescape(words)
        assert "6 of 1,030 rows were left out: 6 with neither gold nor a weak label" in words
        assert "24 gold rows without a weak label are in no other score" in words
        assert "there the student's accuracy is 87.5 [70.0, 96.0] %" in html.unescape(words)
        assert "5 students per seed, and each is asked only about rows that it did not train on" in words
        assert "supervisor 71.0 [70.0, 72.0], student 73.0 [72.0, 74.0], ceiling 80.0 [79.0, 81.0]" in words
        assert "gain +2.0 [+1.0, +3.0] points" in words
        assert "40.0 [30.0, 50.0]" in words
        assert "1,710" in words
        assert "<i>bad" not in page
    assert page.count("confusion matrix") >= 3


@pytest.mark.usefixtures("quick")
def test_a_research_task_is_said_to_be_balanced_and_what_that_cost(tmp_path: Path) -> None:
    page, text = write(TABLES["one pair"], tmp_path), printed(TABLES["one pair"])
    for said in (page, text):
        words = " ".join(said.split())
        assert "cored on 1,000 test rows with exactly balanced classes" in words
        assert (
            "1,202 to 1,212 of 3,000 rows were left out: 1,200 to 1,210 to balance the classes (--no-balance" in words
        )
    assert "Class by class" not in page


@pytest.mark.usefixtures("quick")
def test_without_gold_the_page_says_that_nothing_is_scored(tmp_path: Path) -> None:
    frame = UNCOMPARED["no gold"]
    words = " ".join(write(frame, tmp_path).split())
    assert "Nothing is scored, for no row has gold: students are trained" in words
    assert "which agree with the weak labels on 90.0 % of the rows" in words
    assert report.headline(frame) == "No gain for 1 student: no row has gold."
    beside = report.headline(UNCOMPARED["no gold beside gold"])
    assert "above zero in 1 of 1 comparison" in beside
    assert beside.endswith("No gain for 1 student: no row has gold.")
