import dataclasses
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest

from outgrow.archives import VADER_SENTIMENT
from outgrow.data import Examples
from outgrow.engine.graph import canonical
from outgrow.errors import UserError
from outgrow.registry import OneOf, Range, use
from outgrow.runtime import Runtime
from outgrow.tasks import TASKS, TaskSpec, describe, limited, load, registry, task, tasks_table, where_from


@pytest.fixture
def toy() -> Iterator[None]:
    """A task of a few lines, as dozens more will be."""

    @task(name="toy", classes=("no", "yes"), rows=4, content="1234", licence="MIT", source="here", about="Toy rows.")
    def toy(*, rows: int = 4, word: str = "word", runtime: Runtime) -> Examples:
        assert isinstance(runtime, Runtime)
        ids = np.array([f"toy-{i}" for i in range(rows)])
        return Examples(
            ids=ids,
            inputs=tuple(f"{word} {i}" for i in range(rows)),
            gold=np.array([-1 if i == 1 else int(i > 1) for i in range(rows)]),
            classes=("no", "yes"),
            groups=np.array([f"g{i // 2}" for i in range(rows)]),
        )

    yield
    del TASKS._values["toy"]


def test_a_spec_is_spelled_as_it_is_read(toy: None) -> None:
    for text in ("toy", "toy(rows=6)", 'toy(rows=6, word="it\'s")', "sentiment-movies(min_rating=1.5)"):
        assert str(TaskSpec.parse(text)) == text
        assert TaskSpec.parse(str(TaskSpec.parse(text))) == TaskSpec.parse(text)


def test_equal_meaning_is_an_equal_spec(toy: None) -> None:
    assert TaskSpec.parse("toy") == TaskSpec.parse("toy(word='word', rows=4)") == TaskSpec.of("toy", rows=4)
    assert TaskSpec.parse("sentiment-movies(min_rating=1)") == TaskSpec.parse("sentiment-movies(min_rating=1.0)")
    assert TaskSpec.parse("toy") != TaskSpec.parse("toy(rows=5)")
    assert TaskSpec.parse("toy").args == (("limit", None), ("rows", 4), ("word", "word"))


def test_packaged_data_is_identified_without_fetching() -> None:
    assert VADER_SENTIMENT.sha256 in TaskSpec.parse("sentiment-news").content


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sentiment-movie", "unknown task 'sentiment-movie'; did you mean sentiment-movies"),
        ("toy(row=3)", "unknown option of task toy 'row'; did you mean rows"),
        ("toy(rows='3')", "option rows of task toy must be a whole number, not '3'"),
        ("toy(rows=True)", "option rows of task toy must be a whole number, not True"),
        ("toy(runtime=1)", "unknown option of task toy 'runtime'"),
        ("table", "task table needs the option path"),
        ("table(path='nowhere.csv')", "nowhere.csv does not exist"),
        ("sentiment-movies(", "cannot read the task"),
    ],
)
def test_what_does_not_fit_is_one_clear_line(toy: None, text: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        TaskSpec.parse(text)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def _csv(path: Path, texts: str = "good,1\nbad,0\n") -> TaskSpec:
    path.write_text(f"text,label\n{texts}", encoding="utf-8")
    return TaskSpec.of("table", path=str(path))


def test_a_file_is_identified_by_its_content_not_by_its_place(tmp_path: Path) -> None:
    one = _csv(tmp_path / "one.csv")
    assert one == _csv(tmp_path / "two.csv")
    assert canonical(one) == canonical(_csv(tmp_path / "two.csv"))
    assert one != _csv(tmp_path / "three.csv", "good,1\nbad,2\n")
    assert TaskSpec.parse(str(one)) == one
    assert str(one) == f"table(path='{tmp_path / 'one.csv'}')"


def test_a_file_that_changes_under_way_is_refused(tmp_path: Path) -> None:
    spec = _csv(tmp_path / "one.csv")
    assert len(load(spec, Runtime())) == 2
    _csv(tmp_path / "one.csv", "good,1\nbad,0\nugly,0\n")
    with pytest.raises(UserError, match="changed during the run"):
        load(spec, Runtime())


def test_a_list_of_classes_keeps_its_order(tmp_path: Path) -> None:
    spec = TaskSpec.parse(f"table(path='{_csv(tmp_path / 'one.csv').options['path']}', classes=[1, 0])")
    assert load(spec, Runtime()).classes == ("1", "0")
    assert hash(spec) == hash(TaskSpec.parse(str(spec)))


def test_the_table_of_tasks_is_plain_and_sorted() -> None:
    table = tasks_table()
    names = [row["name"] for row in table]
    assert names == sorted(names)
    assert {"sentiment-movies", "sentiment-news", "sentiment-reviews", "sentiment-tweets", "table"} <= set(names)
    assert all(row["licence"] and row["source"] and row["about"] for row in table)


def test_describe_tells_what_the_data_holds(toy: None) -> None:
    told: dict[str, Any] = describe("toy(rows=5)", Runtime())
    assert told["task"] == "toy(rows=5)"
    assert told["balance"] == {"no": 1, "yes": 3}
    assert (told["unknown"], told["rows"], told["groups"], told["largest_group"]) == (1, 5, 3, 2)
    assert {row["class"] for row in told["examples"]} == {"no", None, "yes"}
    assert told["options"] == {"rows": 5, "word": "word", "limit": None, "question": None, "words": None}


def test_the_meaning_of_options_comes_from_the_docstring(tmp_path: Path) -> None:
    told = describe(str(_csv(tmp_path / "one.csv")), Runtime())
    assert told["meanings"]["path"] == "the file; its ending says the format."
    assert told["meanings"]["label"].endswith("Empty if gold is unknown; such a row can only go to part B.")
    assert set(told["meanings"]) == set(told["options"])
    for name, entry in TASKS.items():
        if entry.fn.__module__.startswith("outgrow."):
            assert all(option.meaning for option in entry.options.values()), f"{name}: an option without a meaning"


def test_where_data_comes_from_is_told_without_loading_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUTGROW_CACHE", str(tmp_path))
    monkeypatch.delenv("OUTGROW_ACCEPT_LICENSE", raising=False)
    assert where_from("sentiment-news", Runtime()) == "download, 2.5 MB"
    archive = dataclasses.replace(VADER_SENTIMENT, size=3)
    archive.cached_path.parent.mkdir()
    archive.cached_path.write_bytes(b"abc")
    entry = TASKS["sentiment-news"]
    cached = entry._replace(facts=dataclasses.replace(entry.facts, archives=(archive,)))
    monkeypatch.setitem(TASKS._values, "sentiment-news", cached)
    assert where_from("sentiment-news", Runtime()) == "package, cached"
    assert where_from("table", Runtime()) == "your file"
    assert where_from("synthetic-gaussian", Runtime()) == "made here"
    assert where_from("topics-bbc", Runtime()) == "license not accepted"
    assert where_from("topics-bbc", Runtime(accept_license=frozenset(["topics-bbc"]))) == "download, 3.0 MB"


def test_a_limit_is_an_option_of_every_task(toy: None) -> None:
    assert limited("topics-r8(min_rows=200)", 5) == TaskSpec.of("topics-r8", min_rows=200, limit=5)
    whole = load(TaskSpec.of("toy", rows=40), Runtime())
    for limit in (1, 2, 7, 39, 40, 50):
        if limit == 1:
            with pytest.raises(UserError, match="limit of task toy is 1, but its smallest group has 2 rows"):
                load(limited("toy(rows=40)", limit), Runtime())
            continue
        few = load(limited("toy(rows=40)", limit), Runtime())
        assert len(few) == min(limit // 2 * 2, 40)  # groups of two stay whole
        assert np.unique(few.groups, return_counts=True)[1].tolist() == [2] * (len(few) // 2)
        assert few.ids.tolist() == [i for i in whole.ids if i in set(few.ids)]
    with pytest.raises(UserError, match="limit of task toy is 0; it must lie at 1 or above"):
        load(limited("toy", 0), Runtime())


def test_inputs_are_shown_as_people_read_them() -> None:
    from PIL import Image

    assert registry.rendered("as it is") == "as it is"
    assert registry.rendered(("one", "two")) == "A) one\nB) two"
    assert registry.rendered(tuple("x" * 27)).splitlines()[26] == "27) x"
    file = io.BytesIO()
    Image.new("L", (28, 14)).save(file, "PNG")
    assert registry.rendered(file.getvalue()) == f"28 x 14 PNG, {len(file.getvalue())} bytes"


# --- a task of a user's -----------------------------------------------------------------------------------------------

OWN = """
import numpy as np

from outgrow import Examples, task

SUFFIX = "!"


def shout(text):
    return text.upper() + SUFFIX


@task(name="own-rows", content="in the file", licence="mine", source="my file", about="Is it loud?")
def own_rows(*, rows: int = 4) -> Examples:
    ids = np.array([f"own-{i}" for i in range(rows)])
    texts = tuple(shout(f"row {i}") if i % 2 else f"row {i}" for i in range(rows))
    return Examples(ids=ids, inputs=texts, gold=np.arange(rows) % 2, classes=("quiet", "loud"), groups=ids)
"""


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Path]:
    file = tmp_path / f"own_{tmp_path.name}.py"
    file.write_text(OWN, encoding="utf-8")
    yield file
    TASKS._values.pop("own-rows", None)


def test_code_of_a_user_is_part_of_what_the_data_is(own: Path) -> None:
    def content(source: str) -> str:
        own.write_text(source, encoding="utf-8")
        use(own)
        return TaskSpec.parse("own-rows").content

    first = content(OWN)
    assert first.startswith(f"v1:in the file:{own.stem}.own_rows@")
    assert content(OWN.replace("import numpy as np", "import numpy as np  # a comment")) == first
    assert content(OWN.replace("i % 2", "i % 3", 1)) != first
    assert content(OWN.replace("upper", "title")) != first, "a function that it calls"
    assert content(OWN.replace('"!"', '"?"')) != first, "a constant that the function mentions"
    assert content(OWN) == first
    assert load(TaskSpec.parse("own-rows"), Runtime()).inputs == ("row 0", "ROW 1!", "row 2", "ROW 3!")


def test_a_spec_made_before_an_edit_is_refused(own: Path) -> None:
    use(own)
    spec = TaskSpec.parse("own-rows")
    own.write_text(OWN.replace("upper", "title"), encoding="utf-8")
    use(own)
    with pytest.raises(UserError, match="changed during the run"):
        load(spec, Runtime())


def test_a_task_inside_the_package_goes_by_its_version() -> None:
    assert TaskSpec.parse("synthetic-gaussian").content == "v1:made from its options"
    assert TaskSpec.parse("sentiment-news").content == f"v2:{VADER_SENTIMENT.sha256}"


def test_a_name_belongs_to_one_task(toy: None) -> None:
    facts = TASKS["toy"].facts
    assert facts(TASKS["toy"].fn) is TASKS["toy"].fn  # the same again, as a notebook does

    def other(*, rows: int = 4) -> Examples:
        raise AssertionError

    with pytest.raises(UserError, match=r"two tasks are called toy: .*test_task_registry.* and .*other .*; give one"):
        facts(other)


def test_options_are_held_to_their_bounds() -> None:
    @task(name="toy", content="1", licence="MIT", source="here", about="Toy rows.")
    def bounded(*, share: Annotated[float, Range(0, 1)] = 0.5, kind: Annotated[str, OneOf("a", "b")] = "a") -> Examples:
        raise AssertionError

    try:
        assert TaskSpec.parse("toy(share=1)").args == (("kind", "a"), ("limit", None), ("share", 1.0))
        with pytest.raises(UserError, match=r"share of task toy is 1\.5; it must lie in \[0, 1\]"):
            TaskSpec.parse("toy(share=1.5)")
        with pytest.raises(UserError, match="unknown kind of task toy 'c'; known: a, b"):
            TaskSpec.parse("toy(kind='c')")
    finally:
        del TASKS._values["toy"]


def test_what_a_task_leaves_unsaid_is_one_clear_line() -> None:
    def loose(*, rows=4):  # type: ignore[no-untyped-def]
        raise AssertionError

    with pytest.raises(UserError, match=r"loose does not say the type of rows; annotate it"):
        task(name="toy", content="1", licence="MIT", source="here", about="Toy rows.")(loose)
    with pytest.raises(UserError, match="the task toy does not say which data it loads"):
        task(name="toy", licence="MIT", source="here", about="Toy rows.")(loose)
