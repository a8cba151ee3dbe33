import dataclasses
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import numpy as np
import pytest

from outgrow import archives as packages
from outgrow.data import Examples
from outgrow.errors import UserError
from outgrow.experiment import Experiment, wire
from outgrow.identity import source_digest
from outgrow.runtime import Runtime
from outgrow.tasks import TASKS, TaskSpec, hub, load, where_from
from outgrow.tasks.convert import HubTask, LabeledText
from outgrow.tasks.hub import HubRow, HubSet, Place, commit_of, identity, read

SHA = "0123456789abcdef0123456789abcdef01234567"
ROWS = [{"text": f"text {i}", "label": i % 2, "unread": i} for i in range(6)]
TOY = HubTask(
    name="toy-hub",
    places=(Place("org/toy", revision=SHA), Place("other/toy")),
    splits={"train": 4, "test": 2},
    columns=("text", "label"),
    licence="CC BY-NC 9.9 (non-commercial)",
    classes=("even", "odd"),
    about="Toy rows.",
)


@pytest.fixture(autouse=True)
def own_places(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("OUTGROW_DATA_DIR", raising=False)
    monkeypatch.setenv("OUTGROW_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)

    def refused(*_: Any, **__: Any) -> None:
        raise ConnectionError("no network in tests\nwith a second line")

    monkeypatch.setattr(hub, "hub_unreachable", lambda: None)
    monkeypatch.setattr(datasets, "load_dataset", refused)
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", refused)
    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_commits", refused)


@pytest.fixture
def toy() -> Iterator[None]:
    @TOY
    def toy(row: HubRow) -> LabeledText:
        return LabeledText(row.text("text"), row.whole("label", 2))

    yield
    del TASKS._values["toy-hub"]


class Hub:
    """The library's loader over rows in memory; remembers what it was asked for."""

    def __init__(self, **splits: list[dict[str, Any]]) -> None:
        self.splits = {k: datasets.Dataset.from_list(v) for k, v in splits.items()}
        self.asked: list[tuple[Any, Any]] = []

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.asked.append((args, kwargs))
        return datasets.DatasetDict(self.splits)


def _write(folder: Path, **splits: list[dict[str, Any]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for split, rows in splits.items():
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{split}.jsonl").write_text(lines, encoding="utf-8")
    return folder


def _read(data_dir: Path, source: HubSet = TOY, **options: Any) -> list[HubRow]:
    return list(read(source, tuple(source.splits), {"data_dir": str(data_dir)} | options, Runtime())())


def _message(source: HubSet = TOY, runtime: Runtime | None = None, **options: Any) -> str:
    with pytest.raises(UserError) as error:
        list(read(source, tuple(source.splits), options, runtime or Runtime())())
    assert "\n" not in str(error.value)
    return str(error.value)


# --- a folder of one's own --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "layout",
    [
        "toy_hub/{}.parquet",
        "toy-hub/{}.jsonl",
        "toy_hub/{}.csv",
        "toy_hub/{}.json",
        "toy_hub/data/{}-00000-of-00001.parquet",
        "toy_hub/{}/0000.parquet",
        "{}.parquet",
    ],
)
def test_a_folder_is_read_in_every_layout(tmp_path: Path, layout: str) -> None:
    for split, rows in {"train": ROWS[:4], "test": ROWS[4:]}.items():
        file = tmp_path / "data sets" / layout.format(split)
        file.parent.mkdir(parents=True, exist_ok=True)
        table = datasets.Dataset.from_list(rows)
        match file.suffix:
            case ".parquet":
                table.to_parquet(str(file))
            case ".csv":
                table.to_csv(str(file))
            case ".jsonl":
                table.to_json(str(file))
            case _:
                file.write_text(json.dumps(rows), encoding="utf-8")
    found = _read(tmp_path / "data sets")
    assert [(r.split, r.number, r.text("text"), r.whole("label", 2)) for r in found] == [
        ("test" if i > 3 else "train", i % 4, f"text {i}", i % 2) for i in range(6)
    ]


def test_shards_are_read_in_order(tmp_path: Path) -> None:
    _write(
        tmp_path / "toy_hub",
        **{"train-00001-of-00002": ROWS[2:4], "train-00000-of-00002": ROWS[:2], "test": ROWS[4:]},
    )
    assert [r.text("text") for r in _read(tmp_path)] == [f"text {i}" for i in range(6)]


def test_a_cut_folder_is_told_and_used(tmp_path: Path) -> None:
    said: list[str] = []
    _write(tmp_path / "toy_hub", train=ROWS[:3])
    rows = read(TOY, ("train", "test"), {"data_dir": str(tmp_path)}, Runtime(say=said.append))
    assert len(list(rows())) == 3
    assert said == [
        f"toy-hub: {tmp_path / 'toy_hub'} has no test; continuing without",
        f"toy-hub: train in {tmp_path / 'toy_hub'} has 3 rows, the hub's has 4",
    ]


def test_the_environment_names_the_folder_and_is_passed_over_for_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, toy: None
) -> None:
    monkeypatch.setenv("OUTGROW_DATA_DIR", str(tmp_path))
    assert f"hub:org/toy@{SHA}::" in TaskSpec.parse("toy-hub").content  # nothing there
    _write(tmp_path / "toy_hub", train=ROWS[:4], test=ROWS[4:])
    assert len(load(TaskSpec.parse("toy-hub"), Runtime())) == 6
    assert "hub:org/toy" in TaskSpec.parse(f"toy-hub(revision='{SHA}')").content
    monkeypatch.setenv("OUTGROW_DATA_DIR", str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"OUTGROW_DATA_DIR=.*nowhere.* is no folder"):
        TaskSpec.parse("toy-hub")


def test_what_is_wrong_with_a_folder_is_one_clear_line(tmp_path: Path) -> None:
    assert "data_dir='nowhere' is no folder" in _message(data_dir="nowhere")
    assert f"{tmp_path} holds no toy_hub/train.parquet" in _message(data_dir=str(tmp_path))
    assert "give data_dir, or repo and revision, not both" in _message(data_dir=str(tmp_path), repo="other/toy")
    _write(tmp_path / "toy_hub", train=[{"txt": "a", "label": 1}])
    assert "train.jsonl: no column 'text'; did you mean 'txt'?; compare it with org/toy" in _message(
        data_dir=str(tmp_path)
    )
    (tmp_path / "toy_hub" / "train.jsonl").write_text("{", encoding="utf-8")
    assert "train.jsonl, line 1: not JSON (Expecting property name" in _message(data_dir=str(tmp_path))
    (tmp_path / "toy_hub" / "train.jsonl").write_text("[1]\n", encoding="utf-8")
    assert "train.jsonl, line 1: [1] is no JSON object" in _message(data_dir=str(tmp_path))
    for wrong, said in (("{}", "it holds no list"), ("[1]", "entry 1: 1 is no JSON object"), ("[", "not JSON (")):
        (tmp_path / "toy_hub" / "train.json").write_text(wrong, encoding="utf-8")
        (tmp_path / "toy_hub" / "train.jsonl").unlink(missing_ok=True)
        assert said in _message(data_dir=str(tmp_path))
    (tmp_path / "toy_hub" / "train.json").unlink()
    (tmp_path / "toy_hub" / "train.parquet").write_text("no parquet", encoding="utf-8")
    assert "cannot be read as Parquet" in _message(data_dir=str(tmp_path))
    (tmp_path / "toy_hub" / "train.parquet").unlink()
    (tmp_path / "toy_hub" / "train.csv").write_text("text,label\na,1,2\n", encoding="utf-8")
    assert "line 2: 3 fields where the header has 2" in _message(data_dir=str(tmp_path))
    (tmp_path / "toy_hub" / "train.csv").write_bytes(b"text,label\ncaf\xe9,1\n")
    assert "train.csv, line 2: byte 0xe9 is not utf-8; save it as utf-8; compare it" in _message(data_dir=str(tmp_path))


@pytest.mark.parametrize("hidden", [-1, "-1", "", None, " "])
def test_a_hidden_label_is_refused_and_not_filtered(hidden: Any) -> None:
    record = HubRow({"label": hidden}, "toy-hub", "here", "test", 7)
    with pytest.raises(UserError, match=r"toy-hub: row 7 of test in here: label .* hides the label"):
        record.whole("label", 2)


@pytest.mark.parametrize("label", [2, "two", 0.5, "nan", float("inf"), [1], {}])
def test_a_label_that_is_none_is_refused(label: Any) -> None:
    with pytest.raises(UserError, match=r"is no (label from 0 to 1|whole number)"):
        HubRow({"label": label}, "toy-hub", "here", "test", 7).whole("label", 2)


@pytest.mark.parametrize(("label", "number"), [(True, 1), ("False", 0), ("1\n", 1), (1.0, 1), (np.int64(0), 0)])
def test_labels_come_in_many_types(label: Any, number: int) -> None:
    assert HubRow({"label": label}, "toy-hub", "here", "test", 7).whole("label", 2) == number


# --- identity ---------------------------------------------------------------------------------------------------------


def test_a_folder_is_identified_by_content_not_by_place(tmp_path: Path, toy: None) -> None:
    for place in ("one", "two"):
        _write(tmp_path / place / "toy_hub", train=ROWS[:4], test=ROWS[4:])
    one, two = (TaskSpec.of("toy-hub", data_dir=str(tmp_path / place)) for place in ("one", "two"))
    assert one == two
    assert hash(one) == hash(two)
    assert str(one) == f"toy-hub(data_dir='{tmp_path / 'one'}')"
    assert TaskSpec.parse(str(one)) == one
    assert one.args == (("limit", None), ("split_mode", "pooled"))
    before = wire(Experiment(task=str(one), weak="minilm-l3", strong="minilm-l6")).key
    _write(tmp_path / "one" / "toy_hub", train=ROWS[:3])
    assert TaskSpec.of("toy-hub", data_dir=str(tmp_path / "one")) != two
    assert wire(Experiment(task=str(one), weak="minilm-l3", strong="minilm-l6")).key != before
    with pytest.raises(UserError, match="changed during the run"):
        load(one, Runtime())


def test_the_hub_is_identified_by_repository_and_commit(toy: None) -> None:
    spec = TaskSpec.parse("toy-hub")
    formatter = TASKS["toy-hub"].fn
    own = f"{formatter.__module__}.{formatter.__qualname__}@{source_digest(formatter)}"
    assert spec.content == f"v1:hub:org/toy@{SHA}:::{own}"
    assert TaskSpec.parse(f"toy-hub(repo='org/toy', revision='{SHA}')") == spec
    assert TaskSpec.parse(f"toy-hub(revision='{'f' * 40}')") != spec
    assert TaskSpec.parse(f"toy-hub(repo='other/toy', revision='{SHA}')") != spec
    with pytest.raises(UserError, match="revision='main' is no commit"):
        TaskSpec.parse("toy-hub(revision='main')")
    with pytest.raises(UserError, match=r"'some/toy' is not among the places .*: 'org/toy', 'other/toy'"):
        TaskSpec.parse("toy-hub(repo='some/toy')")


def test_a_commit_is_asked_for_once_and_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def dataset_info(_: Any, repo: str, *, revision: str, **__: Any) -> Any:
        asked.append((repo, revision))
        return type("Info", (), {"sha": SHA})

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", dataset_info)
    place = Place("other/toy", revision="refs/convert/parquet")
    assert commit_of(TOY, place) == commit_of(TOY, place) == SHA
    assert asked == [("other/toy", "refs/convert/parquet")]
    assert place.name == "other/toy@refs/convert/parquet"


def test_a_short_commit_is_completed(monkeypatch: pytest.MonkeyPatch) -> None:
    commits = [type("Commit", (), {"commit_id": c}) for c in ("f" * 40, SHA)]
    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_commits", lambda *_, **__: commits)
    assert commit_of(TOY, Place("other/toy", revision=SHA[:7])) == SHA
    with pytest.raises(UserError, match="the hub knows no commit abcdef0"):
        commit_of(TOY, Place("other/toy", revision="abcdef0"))


def test_a_hub_that_does_not_answer_is_one_line_within_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "hub_unreachable", packages.hub_unreachable)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda *_, **__: pytest.fail("asked all the same"))
    began = time.monotonic()
    with pytest.raises(UserError, match="the hub cannot be reached") as caught:
        commit_of(TOY, TOY.places[1])
    assert time.monotonic() - began < 10  # its client alone takes 24 s
    assert "\n" not in str(caught.value)


def test_without_a_hub_the_line_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError) as error:
        identity(TOY, ("train",), {"repo": "other/toy"})
    for part in ("toy-hub (other/toy on the hub)", "no network in tests", "outgrow pull toy-hub", "data_dir=..."):
        assert part in str(error.value)
    assert "\n" not in str(error.value)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="no copy is here, and fetching is off"):
        identity(TOY, ("train",), {"repo": "other/toy"})


# --- fetching ---------------------------------------------------------------------------------------------------------


def test_the_hub_is_fetched_once_and_then_read_offline(monkeypatch: pytest.MonkeyPatch, toy: None) -> None:
    library = Hub(train=ROWS[:4], test=ROWS[4:])
    monkeypatch.setattr(datasets, "load_dataset", library)
    said: list[str] = []
    spec = TaskSpec.parse("toy-hub")
    first = load(spec, Runtime(say=said.append))
    assert library.asked == [(("org/toy", None), {"data_dir": None, "revision": SHA})]
    assert said == [f"fetching toy-hub from the hub: org/toy at {SHA} (licence: CC BY-NC 9.9 (non-commercial))"]
    again = load(spec, Runtime(offline=True, say=said.append))
    assert len(library.asked) == len(said) == 1
    assert first.inputs == again.inputs == tuple(f"text {i}" for i in range(6))


def test_where_a_set_would_come_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, toy: None) -> None:
    assert where_from("toy-hub", Runtime()) == "hub, not fetched"
    monkeypatch.setattr(datasets, "load_dataset", Hub(train=ROWS[:4], test=ROWS[4:]))
    load(TaskSpec.parse("toy-hub"), Runtime(say=lambda _: None))
    assert where_from("toy-hub", Runtime()) == "cached"
    monkeypatch.setenv("OUTGROW_DATA_DIR", str(tmp_path))
    assert where_from("toy-hub", Runtime()) == "cached"  # a folder that lacks it
    _write(tmp_path / "toy_hub", train=ROWS[:4], test=ROWS[4:])
    assert where_from("toy-hub", Runtime()) == "local folder"


def test_where_a_set_on_a_branch_would_come_from_asks_nobody() -> None:
    branch = dataclasses.replace(TOY, places=TOY.places[1:])
    assert hub.place_of(branch) == "hub, not fetched"


def test_offline_the_line_names_set_fallback_and_data_dir(monkeypatch: pytest.MonkeyPatch) -> None:
    for runtime in (Runtime(offline=True), Runtime()):
        line = _message(runtime=runtime)
        for part in (
            "toy-hub (org/toy on the hub)",
            "outgrow pull toy-hub",
            "toy-hub(repo='other/toy')",
            "data_dir=...",
        ):
            assert part in line
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "no copy is here, and fetching is off" in _message()


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ({"train": ROWS[:3], "test": ROWS[4:]}, "train of org/toy has 3 rows where 4 are expected; try toy-hub(repo="),
        ({"train": ROWS[:4]}, "org/toy has no split 'test', it has train; try toy-hub(repo='other/toy')"),
        (
            {"train": [{"text": "a", "y": 1}] * 4, "test": ROWS[4:]},
            "org/toy: no column 'label'; it has 'text', 'y'; try toy-hub(repo=",
        ),
    ],
)
def test_a_hub_that_changed_is_refused_and_nothing_kept(
    monkeypatch: pytest.MonkeyPatch, splits: Any, message: str
) -> None:
    monkeypatch.setattr(datasets, "load_dataset", Hub(**splits))
    assert message in _message()
    monkeypatch.setattr(datasets, "load_dataset", Hub(train=ROWS[:4], test=ROWS[4:]))
    assert len(list(read(TOY, ("train", "test"), {}, Runtime())())) == 6


def test_splits_of_a_mirror_are_renamed_and_counted_its_own_way(monkeypatch: pytest.MonkeyPatch) -> None:
    place = Place("org/mirror", revision=SHA, called={"test": "validation"}, splits={"train": 2, "test": 3})
    monkeypatch.setattr(datasets, "load_dataset", Hub(train=ROWS[:2], validation=ROWS[2:5]))
    source = dataclasses.replace(TOY, places=(place,))
    rows = list(read(source, ("train", "test"), {}, Runtime())())
    assert [r.split for r in rows] == ["train"] * 2 + ["test"] * 3


def test_a_folder_of_the_same_name_does_not_hide_the_hub(tmp_path: Path) -> None:
    (tmp_path / "org" / "toy").mkdir(parents=True)
    assert "here is a folder org/toy, which hides the hub's" in _message()


def test_files_without_a_header_keep_their_first_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real library reads them: files in place of the hub's, everything else as it is."""
    monkeypatch.undo()
    monkeypatch.setenv("OUTGROW_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hub, "hub_unreachable", lambda: None)
    real = datasets.load_dataset

    def from_disk(builder: str, *, data_files: dict[str, str], **more: Any) -> Any:
        assert data_files == {"train": f"hf://datasets/org/toy@{SHA}/data/train.csv"}
        (tmp_path / "train.csv").write_text('"None",0\n"b, c",1\n', encoding="utf-8")
        files = {"train": str(tmp_path / "train.csv")}
        return real(builder, data_files=files, cache_dir=str(tmp_path / "hf"), **more)

    monkeypatch.setattr(datasets, "load_dataset", from_disk)
    place = Place(
        "org/toy",
        revision=SHA,
        files={"train": "data/train.csv"},
        column_names=("text", "label"),
        splits={"train": 2},
    )
    rows = list(read(dataclasses.replace(TOY, places=(place,)), ("train",), {}, Runtime())())
    assert [(r.text("text"), r.whole("label", 2)) for r in rows] == [("None", 0), ("b, c", 1)]


def test_a_spec_is_hashed_and_pickled_with_its_place(tmp_path: Path, toy: None) -> None:
    import pickle

    _write(tmp_path / "toy_hub", train=ROWS[:4], test=ROWS[4:])
    spec = pickle.loads(pickle.dumps(TaskSpec.of("toy-hub", data_dir=str(tmp_path))))
    data = load(spec, Runtime())
    assert isinstance(data, Examples)
    assert len(data) == 6


def test_what_a_set_is_sampled_by_holds_while_reading(tmp_path: Path) -> None:
    big = dataclasses.replace(
        TOY, name="toy-big", splits={"train": None, "test": None}, sampled=lambda r: r.text("text"), limit=100
    )

    @big
    def many(row: HubRow) -> LabeledText:
        formatted.append(row.number)
        return LabeledText(row.text("text"), row.whole("label", 2))

    try:
        formatted: list[int] = []
        rows = [{"text": f"text {i}", "label": i * 7 % 3 % 2} for i in range(1000)]
        rows[7]["text"] = " "  # left out, whether or not it is drawn
        _write(tmp_path / "toy_big", train=rows, test=rows[:1])
        data = load(TaskSpec.of("toy-big", data_dir=str(tmp_path)), Runtime(say=lambda _: None))
        assert len(formatted) == 100
        assert formatted == sorted(formatted)
        assert np.mean(formatted) == pytest.approx(500, abs=120)  # from everywhere, not from the start
        shuffled = [rows[i] for i in np.random.default_rng(0).permutation(1000)]
        _write(tmp_path / "toy_big", train=shuffled)
        other = load(TaskSpec.of("toy-big", data_dir=str(tmp_path)), Runtime(say=lambda _: None))
        assert set(other.inputs) == set(data.inputs)
        said: list[str] = []
        assert len(load(TaskSpec.of("toy-big", data_dir=str(tmp_path), limit=None), Runtime(say=said.append))) == 999
        assert "toy-big: left out: 1 (without text), 1 (repeated)" in said
    finally:
        del TASKS._values["toy-big"]
