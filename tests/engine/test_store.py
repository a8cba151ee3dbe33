"""Results on disk: what is read is what was written, or it is said to be damaged."""

import errno
import hashlib
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from outgrow.data import Examples, Features, Labels, Split
from outgrow.engine import values
from outgrow.engine.graph import Step, step
from outgrow.engine.store import Damaged, OtherEdition, Store
from outgrow.errors import UserError
from outgrow.experiment import open_store
from outgrow.models.probe import FittedProbe
from outgrow.train.model import FinetunedModel
from outgrow.train.settings import FinetuneSettings


@step(version=1)
def made(name: str) -> dict[str, Any]:
    raise AssertionError("only its identity is used here")


@step(version=1)
def other(name: str) -> dict[str, Any]:
    raise AssertionError("only its identity is used here")


def plain_of(value: Any) -> Any:
    """Everything a value holds, comparable: arrays with their dtype, shape and bytes."""
    if isinstance(value, torch.Tensor):
        value = value.numpy()
    if isinstance(value, np.ndarray):
        text = value.dtype.kind == "U"
        return ("text" if text else value.dtype.str, value.shape, value.tolist() if text else value.tobytes())
    if hasattr(value, "__dataclass_fields__"):
        return {k: plain_of(v) for k, v in vars(value).items()}
    if isinstance(value, dict):
        return {k: plain_of(v) for k, v in value.items()}
    return value


def round_trip(value: Any) -> Any:
    with TemporaryDirectory() as folder:
        store = open_store(folder)
        store.write(Step(made, name="x"), value, {})
        return store.read(Step(made, name="x"))


# --- round trips ------------------------------------------------------------------------------------------------------

# numpy drops a text's trailing zero characters before we see it; half characters (surrogates) are refused on reading.
names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
FEW = settings(max_examples=30, deadline=None)


def id_arrays(size: int) -> st.SearchStrategy[Any]:
    return st.lists(names, min_size=size, max_size=size, unique=True).map(
        lambda found: np.array(found, dtype=np.str_) if found else np.array([], dtype="<U1")
    )


def columns(size: int) -> st.SearchStrategy[Any]:
    texts = st.lists(names, min_size=size, max_size=size).map(lambda v: np.array(v, dtype=np.str_))
    numbers = [hnp.arrays(kind, size) for kind in (np.float64, np.int64, np.bool_, np.float32)]
    return st.one_of(texts, *numbers)


@st.composite
def examples(draw: st.DrawFn) -> Examples:
    n = draw(st.integers(0, 5))
    return Examples(
        ids=draw(id_arrays(n)),
        inputs=tuple(draw(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=n, max_size=n))),
        gold=draw(st.none() | hnp.arrays(np.int64, n, elements=st.integers(-1, 2))),
        classes=tuple(draw(st.lists(names, min_size=2, max_size=3))),
        groups=np.array(draw(st.lists(names, min_size=n, max_size=n)), dtype=np.str_),
        meta=draw(st.dictionaries(names, columns(n), max_size=3)),
    )


@st.composite
def labels(draw: st.DrawFn) -> Labels:
    n, num_classes = draw(st.integers(0, 5)), draw(st.integers(2, 4))
    kind = draw(st.sampled_from([np.float32, np.float64]))
    weights = draw(hnp.arrays(np.float64, (n, num_classes), elements=st.floats(0.01, 1)))
    probs = (weights / weights.sum(axis=1, keepdims=True)).astype(kind)
    return Labels(ids=draw(id_arrays(n)), probs=probs, source=draw(names))


@FEW
@given(examples())
def test_examples_come_back(value: Examples) -> None:
    assert plain_of(round_trip(value)) == plain_of(value)


@FEW
@given(labels())
def test_labels_come_back(value: Labels) -> None:
    assert plain_of(round_trip(value)) == plain_of(value)


@FEW
@given(st.data())
def test_features_and_splits_come_back(data: st.DataObject) -> None:
    n = data.draw(st.integers(0, 5))
    ids = data.draw(id_arrays(n))
    views = {view: data.draw(hnp.arrays(np.float32, (n, 3))) for view in ("mean", "last_token")}
    features = Features(ids=ids, views=views)
    assert plain_of(round_trip(features)) == plain_of(features)
    cut = data.draw(st.integers(0, n))
    parts = Split(parts={"A": ids[:cut], "B": ids[cut:]})
    back = round_trip(parts)
    assert {k: v.tolist() for k, v in back.parts.items()} == {k: v.tolist() for k, v in parts.parts.items()}


def fitted_probe() -> FittedProbe:
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {k: rng.normal(size=4).astype(np.float32) for k in ("center", "scale")}
    arrays |= {"weight": rng.normal(size=(4, 3)).astype(np.float32), "bias": np.zeros(3, np.float32)}
    return FittedProbe(view="mean", history=({"agreement": 0.1, "xent": 1 / 3},), best_epoch=0, **arrays)


def finetuned_model() -> FinetunedModel:
    state = {"head.weight": torch.randn(2, 3), "body.scale": torch.randn(())}
    history = ({"step": 3, "loss": 0.1, "agreement": None, "cross_entropy": None},)
    return FinetunedModel(
        state=state, settings=FinetuneSettings(words=("a", "b"), head="words"), num_classes=2, history=history
    )


@pytest.mark.parametrize("value", [fitted_probe(), finetuned_model()], ids=["probe", "finetuned"])
def test_trained_models_come_back(value: Any) -> None:
    assert plain_of(round_trip(value)) == plain_of(value)


numbers = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
plain = st.recursive(
    st.none() | st.booleans() | st.text() | numbers,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


@FEW
@given(plain)
def test_plain_values_come_back(value: Any) -> None:
    assert round_trip(value) == value


# --- one result -------------------------------------------------------------------------------------------------------

ONE = Step(made, name="one")
LABELS = Labels.from_classes(np.array(["a", "b"]), np.array([0, 1]), 2, "gold")
EXAMPLES = Examples(
    ids=np.array(["a", "b"]),
    inputs=("x", "y"),
    gold=np.array([0, 1]),
    classes=("no", "yes"),
    groups=np.array(["a", "b"]),
)


def test_many_steps_are_looked_up_in_one_listing(any_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is found as by itself; a folder without a record is no result, and a store that is not there has none."""
    many = [Step(made, name=str(i)) for i in range(300)]
    assert not any(map(any_store.batch_is_done(), many))
    done = {s.key for s in many[::50]}
    for each in many[::50]:
        any_store.write(each, 1, {})
    any_store.fs.makedirs(any_store.folder(many[-1]))  # killed while it was written
    asked: list[Step] = []
    is_done = any_store.is_done

    def told(step: Step) -> bool:
        asked.append(step)
        return is_done(step)

    monkeypatch.setattr(any_store, "is_done", told)
    look = any_store.batch_is_done()
    assert [look(s) for s in many] == [s.key in done for s in many]
    assert len(asked) < 110
    assert not look(Step(other, name="1"))


def test_a_result_is_there_once_written_and_gone_once_deleted(any_store: Store) -> None:
    assert not any_store.is_done(ONE)
    with pytest.raises(Damaged):
        any_store.read(ONE)
    written = any_store.write(ONE, LABELS, {"seconds": 1.5})
    assert any_store.is_done(ONE)
    assert any_store.record(ONE) == written
    assert written["args"] == {"name": "one"}
    assert written["seconds"] == 1.5
    assert plain_of(any_store.read(ONE)) == plain_of(any_store.read_key(ONE.key)) == plain_of(LABELS)
    assert any_store.verify(any_store.folder(ONE)) == written
    any_store.delete(ONE)
    assert not any_store.is_done(ONE)
    assert not any_store.fs.exists(any_store.folder(ONE))
    any_store.delete(ONE)  # gone already: nothing to do


def test_the_same_value_gives_the_same_bytes(tmp_path: Path) -> None:
    for value in (EXAMPLES, LABELS, Features(ids=LABELS.ids, views={"mean": LABELS.probs}), fitted_probe()):
        stores = [open_store(str(tmp_path / type(value).__name__ / name)) for name in ("first", "second")]
        records = [s.write(ONE, value, {}) for s in stores]
        assert records[0] == records[1]  # checksums of every file among them
    bytes_of = [(Path(s.folder(ONE)) / "record.json").read_bytes() for s in stores]
    assert bytes_of[0] == bytes_of[1]


def test_results_are_found_by_function_and_by_the_start_of_their_key(any_store: Store) -> None:
    steps = [Step(made, name="one"), Step(made, name="two"), Step(other, name="one")]
    for s in steps:
        any_store.write(s, s.args["name"], {})
    assert sorted(r["key"] for r in any_store.records()) == sorted(s.key for s in steps)
    assert [r["key"] for r in any_store.records("test_store.other")] == [steps[2].key]
    for s in steps:
        assert any_store.find(s.key[:12])["key"] == s.key
    any_store.delete(steps[0])
    assert len(list(any_store.records())) == 2


def test_a_whole_key_is_looked_up_without_listing_the_results(
    any_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    any_store.write(ONE, LABELS, {})
    listed: list[str] = []
    ls = any_store.fs.ls

    def told(path: str, **options: Any) -> Any:
        listed.append(path)
        return ls(path, **options)

    monkeypatch.setattr(any_store.fs, "ls", told)
    monkeypatch.setattr(any_store.fs, "glob", lambda *_: pytest.fail("all results were listed"))
    assert any_store.find(ONE.key)["key"] == ONE.key
    assert plain_of(any_store.read_key(ONE.key)) == plain_of(any_store.read(ONE))
    assert any_store.is_done(ONE)
    assert set(listed) <= {any_store.path}
    with pytest.raises(UserError, match="0 results"):
        any_store.find("0" * 64)


def test_a_root_with_characters_of_patterns_works(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "runs [a-z]* {1}?"))
    store.write(ONE, 1, {})
    assert [r["key"] for r in store.records()] == [ONE.key]
    assert store.find(ONE.key[:8])["result"] == 1


@pytest.mark.parametrize("key", ["../x", "*", "", "..", "/etc", "[0-9]", "zz", "a/b", "?"])
def test_a_key_is_never_a_path_or_a_pattern(any_store: Store, key: str) -> None:
    any_store.write(ONE, 1, {})
    for look_up in (any_store.find, any_store.read_key):
        with pytest.raises(UserError, match="0 results" if key else "first characters of a key") as error:
            look_up(key)
        assert "\n" not in str(error.value)


def test_an_ambiguous_key_is_said(any_store: Store) -> None:
    by_start: dict[str, Step] = {}
    for i in range(17):  # two of seventeen keys share their first digit
        s = Step(made, name=str(i))
        any_store.write(s, i, {})
        if (first := s.key[0]) in by_start:
            with pytest.raises(UserError, match="2 results"):
                any_store.find(first)
            return
        by_start[first] = s


# --- damage -----------------------------------------------------------------------------------------------------------


def flip(content: bytes) -> bytes:
    return content[:-9] + bytes([content[-9] ^ 1]) + content[-8:]


def altered(content: bytes) -> bytes:
    """A record that says another result, its checksum left as it is."""
    wrapped = json.loads(content)
    wrapped["record"]["version"] = 2
    return json.dumps(wrapped).encode()


DAMAGES: dict[str, tuple[str, Callable[[bytes], bytes | None]]] = {
    "flipped bit": ("labels.parquet", flip),
    "cut off": ("labels.parquet", lambda content: content[: len(content) // 2]),
    "empty": ("labels.parquet", lambda _: b""),
    "missing": ("labels.parquet", lambda _: None),
    "record cut off": ("record.json", lambda content: content[: len(content) // 2]),
    "record altered": ("record.json", altered),
    "record is other JSON": ("record.json", lambda _: b"[1]"),
    "record without checksum": ("record.json", lambda content: json.dumps(json.loads(content)["record"]).encode()),
    "record is no text": ("record.json", lambda _: b"\xff\xfe\x00"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_noticed(any_store: Store, damage: str) -> None:
    any_store.write(ONE, LABELS, {})
    name, change = DAMAGES[damage]
    path = f"{any_store.folder(ONE)}/{name}"
    content = change(any_store.fs.cat_file(path))
    any_store.fs.rm(path)
    if content is not None:
        any_store.fs.pipe_file(path, content)
    for look in (lambda: any_store.read(ONE), lambda: any_store.verify(any_store.folder(ONE))):
        with pytest.raises(Damaged):
            look()
    if name == "record.json":
        assert list(any_store.records()) == []


@pytest.mark.parametrize("name", ["../planted", "../../planted", "/planted", "a/b", ".."])
def test_a_record_cannot_name_files_outside_its_folder(any_store: Store, name: str, tmp_path: Path) -> None:
    """A shared store may hold a record that somebody wrote by hand, checksum and all."""
    from outgrow.engine.store import _digest

    any_store.write(ONE, LABELS, {})
    path = f"{any_store.folder(ONE)}/record.json"
    record = json.loads(any_store.fs.cat_file(path))["record"]
    record["files"][name] = "0" * 64
    any_store.fs.pipe_file(path, json.dumps({"sha256": _digest(record), "record": record}).encode())
    with pytest.raises(Damaged, match=r"record\.json names"):
        any_store.read(ONE)


def test_the_record_is_written_last(any_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped before any of its file operations, a write leaves no result; run again, it leaves a whole one."""

    class Stopped(BaseException):
        pass

    if any_store.is_local:  # prepared beside, then renamed as a whole
        places: list[tuple[Any, str]] = [(values, "save"), (Path, "write_text"), (Path, "rename")]
    else:
        places = [(any_store.fs, "put_file"), (any_store.fs, "mv")]
    original = {name: getattr(place, name) for place, name in places}
    for at in range(3 if any_store.is_local else 6):  # three files, each put and moved
        count = 0

        def counted(name: str, at: int = at) -> Callable[..., Any]:
            def call(*args: Any, **options: Any) -> Any:
                nonlocal count
                if count == at:
                    raise Stopped
                count += 1
                return original[name](*args, **options)

            return call

        for place, name in places:
            monkeypatch.setattr(place, name, counted(name))
        with pytest.raises(Stopped):
            any_store.write(ONE, EXAMPLES, {})
        assert not any_store.is_done(ONE)
        assert list(any_store.folders()) == []
    for place, name in places:
        monkeypatch.setattr(place, name, original[name])
    any_store.write(ONE, EXAMPLES, {})
    assert plain_of(any_store.read(ONE)) == plain_of(EXAMPLES)
    if any_store.is_local:
        assert list(any_store.unfinished.iterdir()) == []


# --- what the disk refuses --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, "no space left"),
        (errno.EDQUOT, "no space left"),
        (errno.EROFS, "cannot use"),
        (errno.EACCES, "cannot use"),
    ],
)
def test_a_full_or_read_only_disk_is_one_line(
    store: Store, monkeypatch: pytest.MonkeyPatch, number: int, said: str
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(number, "refused")

    store.write(Step(made, name="before"), 1, {})
    monkeypatch.setattr(values, "save", refuse)
    with pytest.raises(UserError, match=said) as error:
        store.write(ONE, LABELS, {})
    assert "\n" not in str(error.value)
    assert store.root in str(error.value)
    assert [r["result"] for r in store.records()] == [1]  # what was finished stays


def test_a_root_that_cannot_be_opened_is_one_line() -> None:
    with pytest.raises(UserError, match="cannot open the store 'nosuch://x'"):
        open_store("nosuch://x")


def test_opening_creates_nothing(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "new"))
    assert list(store.records()) == []
    assert not store.is_done(ONE)
    assert not (tmp_path / "new").exists()


# --- a result under a key that is not its own -------------------------------------------------------------------------


@pytest.mark.parametrize("function", ["test_store.made", "test_store.other"])
def test_a_result_copied_over_another_is_damage(tmp_path: Path, function: str) -> None:
    """Of the same function, or of another: both folders are whole, and one of them lies."""
    store = open_store(str(tmp_path))
    right, wrong = Step(made, name="right"), Step(made if function.endswith("made") else other, name="wrong")
    store.write(right, LABELS, {})
    store.write(wrong, Labels.from_classes(LABELS.ids, 1 - LABELS.hard, 2, "wrong"), {})
    shutil.rmtree(store.folder(right))
    shutil.copytree(store.folder(wrong), store.folder(right))
    for read in (store.read, store.record, lambda s: store.read_key(s.key), lambda s: store.verify(store.folder(s))):
        with pytest.raises(Damaged, match="another step's"):
            read(right)
    assert [r["key"] for r in store.records()] == [wrong.key]


@pytest.mark.parametrize("changed", [{"fn": "other"}, {"version": 2}, {"source": None}, {"args": {"name": "wrong"}}])
def test_a_record_that_claims_a_key_it_does_not_have_is_damage(tmp_path: Path, changed: dict[str, Any]) -> None:
    """Even with a checksum that fits: whatever it says of itself must give the key of its folder."""
    store = open_store(str(tmp_path))
    store.write(ONE, 1, {})
    path = Path(store.folder(ONE)) / "record.json"
    record = json.loads(path.read_text())["record"] | changed
    text = json.dumps(record, sort_keys=True, separators=(",", ":"))
    path.write_text(json.dumps({"sha256": hashlib.sha256(text.encode()).hexdigest(), "record": record}))
    with pytest.raises(Damaged, match="another step's"):
        store.read(ONE)


def test_a_result_of_another_edition_is_recognised_and_never_read(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    store.write(ONE, 1, {})
    path = Path(store.folder(ONE)) / "record.json"
    record = json.loads(path.read_text())["record"]
    del record["edition"], record["source"]  # as the first edition wrote them
    text = json.dumps(record, sort_keys=True, separators=(",", ":"))
    path.write_text(json.dumps({"sha256": hashlib.sha256(text.encode()).hexdigest(), "record": record}))
    with pytest.raises(OtherEdition, match="outgrow clean --old"):
        store.read(ONE)
    assert list(store.records()) == []
    assert store.of_other_editions() == store.of_other_editions("test_store.made") == [store.folder(ONE)]
    assert store.of_other_editions("load") == []


def test_row_groups_that_claim_other_rows_are_no_parquet(tmp_path: Path) -> None:
    """Arrow reads a group of 17 thousand million rows to its end, which takes hours."""
    LABELS.save(tmp_path)
    about = pq.read_metadata(tmp_path / "labels.parquet")
    assert len(Labels.load(tmp_path)) == about.num_rows
    claimed = SimpleNamespace(
        num_rows=about.num_rows, num_row_groups=1, row_group=lambda i: SimpleNamespace(num_rows=7**9)
    )
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(pq, "read_metadata", lambda path: claimed)
        with pytest.raises(ValueError, match="do not add up"):
            Labels.load(tmp_path)


# --- results of a user's steps ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        np.arange(6.0).reshape(2, 3),
        np.array(["a", "é"]),
        {"weight": np.ones((2, 2), dtype=np.float32), "ids": np.array(["x"])},
    ],
    ids=["array", "texts", "arrays"],
)
def test_arrays_come_back(value: Any) -> None:
    assert plain_of(round_trip(value)) == plain_of(value)


def test_frames_come_back() -> None:
    import polars as pl

    frame = pl.DataFrame({"a": [1, 2], "b": ["x", None]})
    assert round_trip(frame).equals(frame)


def test_an_array_of_objects_is_refused() -> None:
    with pytest.raises(TypeError, match="holds Python objects"):
        round_trip(np.array([object()]))


class Weights:
    """A user's own class, which writes and reads itself."""

    def __init__(self, value: float) -> None:
        self.value = value

    def save(self, folder: Path) -> None:
        (folder / "value.txt").write_text(str(self.value))

    @classmethod
    def load(cls, folder: Path) -> "Weights":
        return cls(float((folder / "value.txt").read_text()))


def test_an_own_class_comes_back_where_its_file_is_loaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    store.write(ONE, Weights(2.5), {})
    assert store.read(ONE).value == 2.5
    monkeypatch.delitem(sys.modules, "test_store")  # nothing that a record names is imported
    with pytest.raises(UserError, match="name its file with use="):
        store.read(ONE)
