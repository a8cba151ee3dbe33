"""Figures and analyses from outside the package are on the page beside its own, and one that fails is told."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import altair as alt
import polars as pl
import pytest

from fake_tables import TABLES, fake_row, table
from outgrow.errors import UserError
from outgrow.registry import use
from outgrow.report import analyses, page
from outgrow.report import run as report
from outgrow.report.figures import ANALYSES, FIGURES, analysis, figure
from outgrow.report.rows import as_text

FRAME = TABLES["ten pairs"]


@pytest.fixture(autouse=True)
def restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test registers is gone after it; no JavaScript, which takes the time."""
    monkeypatch.setattr("outgrow.report.page.javascript", lambda: "/* vega */")
    for registry in (FIGURES, ANALYSES):
        monkeypatch.setattr(registry, "_values", dict(registry))
    yield
    sys.modules.pop("my_figures", None)


def write(folder: Path, frame: pl.DataFrame = FRAME) -> str:
    return report.write_report(frame, folder, title="A sweep", provenance={}).read_text(encoding="utf-8")


def test_figures_and_analyses_from_outside_are_on_the_page_and_beside_it(tmp_path: Path) -> None:
    @figure("by-student")
    def by_student(table: pl.DataFrame) -> Any:
        return alt.Chart(table, title="<b>By student</b>").mark_point().encode(x="strong", y="student_accuracy")

    @figure("untitled")
    def untitled(table: pl.DataFrame) -> Any:
        return alt.Chart(table).mark_bar().encode(x="gain")

    @figure("for-other-tables")
    def nothing(table: pl.DataFrame) -> None:
        return None

    @analysis("by-supervisor")
    def by_supervisor(table: pl.DataFrame) -> pl.DataFrame:
        gains = pl.col("gain").mean(), pl.col("gain_low").min(), pl.col("gain_high").max()
        return table.group_by("weak", maintain_order=True).agg(*gains).with_columns(note=pl.lit("<i>&"))

    @analysis("for-other-tables")
    def no_table(table: pl.DataFrame) -> None:
        return None

    text = write(tmp_path)
    assert text.index("<h2>Controls</h2>") < text.index("<h2>More figures</h2>") < text.index("<h2>More analyses</h2>")
    assert 'alt="&lt;b&gt;By student&lt;/b&gt;"' in text
    assert 'alt="untitled"' in text
    assert "for-other-tables" not in text
    for name in ("by-student", "untitled", "accuracy", "controls"):
        assert (tmp_path / f"{name}.svg").read_text().startswith("<svg")
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert f'<a href="{name}.png">' in text
    assert '<td>glove</td><td class="number">0.030 [0.010, 0.050]</td><td>&lt;i&gt;&amp;</td>' in text
    assert '<a href="by-supervisor.csv">' in text
    assert pl.read_csv(tmp_path / "by-supervisor.csv")["gain_high"].to_list() == [0.05] * FRAME["weak"].n_unique()


def test_one_that_fails_is_named_after_all_else_is_written(tmp_path: Path) -> None:
    @figure("broken")
    def broken(table: pl.DataFrame) -> Any:
        return table["no such column"]

    @figure("undrawable")
    def undrawable(table: pl.DataFrame) -> Any:
        return alt.Chart(table).mark_point().encode(x="gain", y=alt.Y("gain", sort=3))  # type: ignore[arg-type]

    @analysis("not-a-table")
    def not_a_table(table: pl.DataFrame) -> Any:
        return {"gain": 1}

    @analysis("unreadable")
    def unreadable(table: pl.DataFrame) -> pl.DataFrame:
        return pl.DataFrame({"x": ["a"], "x_low": [0.1], "x_high": [0.2]})

    @analysis("good")
    def good(table: pl.DataFrame) -> pl.DataFrame:
        return table.select("gain")

    line = broken.__code__.co_firstlineno + 2
    for _ in range(2):  # the second time too: such a page is never current
        with pytest.raises(UserError) as raised:
            write(tmp_path)
        said = str(raised.value)
        assert f"the figure broken failed in test_figures.py line {line}: ColumnNotFoundError:" in said
        assert "the figure undrawable failed in test_figures.py: SchemaValidationError:" in said
        assert "the analysis not-a-table failed in test_figures.py: TypeError: it returned a dict" in said
        assert "the analysis unreadable failed in test_figures.py: TypeError" in said
        assert f"all else is in {tmp_path / 'index.html'}" in said
        assert "\n" not in said
    text = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "<li>the figure broken failed in test_figures.py" in text
    assert 'href="good.csv"' in text
    assert 'href="pgr.svg"' in text
    del (
        FIGURES._values["broken"],
        FIGURES._values["undrawable"],
        ANALYSES._values["not-a-table"],
        ANALYSES._values["unreadable"],
    )
    assert "failed" not in write(tmp_path)


def test_names_are_taken_once_and_results_is_the_table(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"two figures are called pgr: outgrow.report.plots.pgr .* and test_figures"):
        figure("pgr")(lambda table: None)
    with pytest.raises(UserError, match=r"results\.csv holds the table itself"):
        analysis("results")
    analysis("pgr")(lambda table: None)  # another kind


def test_an_edited_figure_is_drawn_again(tmp_path: Path) -> None:
    file = tmp_path / "my_figures.py"
    body = (
        "import altair as alt\nfrom outgrow.report import figure\n\n@figure('mine')\ndef mine(table):\n"
        "    return alt.Chart(table, title='TITLE').mark_point().encode(x='gain')\n"
    )
    for title in ("First", "Second"):
        file.write_text(body.replace("TITLE", title))
        use(file)
        assert f'alt="{title}"' in write(tmp_path / "out")
    first = (tmp_path / "out" / "index.html").stat().st_mtime_ns
    write(tmp_path / "out")
    assert (tmp_path / "out" / "index.html").stat().st_mtime_ns == first


def test_an_edited_template_or_module_makes_the_page_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = {file.name for file in page.code_files()}
    assert {"page.html", "run.html", "board.html", "style.css", "start.js", "plots.py", "run.py", "rows.py"} <= names
    file = tmp_path / "a.html"
    monkeypatch.setattr(page, "code_files", lambda: [file])
    made = []
    for text in ("one", "two", "one"):
        file.write_text(text)
        made.append(page.fingerprint({}, "a title"))
    assert made[0] == made[2] != made[1]


def test_controls_name_the_students_that_are_not_above_them() -> None:
    close = (0.735, 0.72, 0.75)
    frame = table(
        fake_row(student_accuracy=(0.74, 0.73, 0.75), over_clusters=(0.005, -0.002, 0.012)),
        fake_row(strategy="confidence", student_accuracy=(0.79, 0.78, 0.8)),
        fake_row(strategy="clusters", student_accuracy=close),
        fake_row("minilm-l3"),
    )
    found = analyses.controls(frame)
    assert found is not None
    made = found.rows_by_key(["supervisor", "control"], named=True, unique=True)
    assert made["glove", "clusters"]["students_not_above"] == "naive"
    assert tuple(made["glove", "clusters"][f"accuracy{end}"] for end in ("", "_low", "_high")) == close
    assert made["minilm-l3", "majority class"]["students_not_above"] == ""
    assert len(made) == 3


def test_strategies_are_counted_by_intervals_and_compared_only_if_several() -> None:
    frame = table(
        fake_row(pgr=(0.2, 0.1, 0.3)),
        fake_row("minilm-l3", pgr=(0.6, 0.1, 0.9), gain=(-0.02, -0.03, -0.01)),
        fake_row(strategy="confidence", pgr=None, gain=(0.0, -0.1, 0.1)),
        fake_row(strategy="shuffled"),
    )
    made = analyses.strategies(frame)
    assert made is not None
    assert made.row(0) == ("naive", 2, 1, 1, 2, 0.4, 0.2, 0.6)
    assert made.row(1) == ("confidence", 1, 0, 0, 0, None, None, None)
    assert analyses.strategies(table(fake_row(), fake_row(strategy="shuffled"))) is None


def test_a_table_as_text_joins_intervals_and_tells_numbers() -> None:
    frame = pl.DataFrame({"x": [-0.5, None], "x_low": [-0.75, None], "x_high": [1.0, None], "y_low": [2000.4, 1.0]})
    shown = as_text(frame.with_columns(what=pl.lit("a")))
    assert shown.heads == [("x", True), ("y low", True), ("what", False)]
    assert shown.rows == [["−0.500 [−0.750, 1.000]", "2,000", "a"], ["–", "1.000", "a"]]
