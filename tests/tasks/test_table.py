import gzip
import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from outgrow.data import Examples
from outgrow.errors import UserError
from outgrow.runtime import Runtime
from outgrow.tasks import TaskSpec, load

GOOD = "text,label\nfine,yes\nawful,no\n42,yes\n"


def read(path: Path, **options: Any) -> Examples:
    return load(TaskSpec.of("table", path=str(path), **options), Runtime())


def write(folder: Path, content: str | bytes, name: str = "mine.csv") -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def gold(data: Examples) -> list[int]:
    assert data.gold is not None
    return [int(c) for c in data.gold]


def message(path: Path, **options: Any) -> str:
    with pytest.raises(UserError) as error:
        read(path, **options)
    assert "\n" not in str(error.value)
    assert path.name in str(error.value)
    return str(error.value)


# --- what is read ------------------------------------------------------------------------------------------------


def test_a_csv_is_read_with_numbers_as_text(tmp_path: Path) -> None:
    data = read(write(tmp_path, GOOD))
    assert data.inputs == ("fine", "awful", "42")
    assert data.classes == ("no", "yes")
    assert gold(data) == [1, 0, 1]
    assert data.ids.tolist() == ["row-1", "row-2", "row-3"]


def test_every_format_gives_the_same(tmp_path: Path) -> None:
    rows = [{"text": 'He said "no",\nthen left', "label": 1}, {"text": "café", "label": 0}]
    quoted = 'text{0}label\n"He said ""no"",\nthen left"{0}1\ncafé{0}0\n'
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "d.parquet")
    parts = [gzip.compress(part.encode()) for part in (lines[:30], lines[30:])]  # as parallel programs write it
    paths = [
        write(tmp_path, quoted.format(","), "a.csv"),
        write(tmp_path, b"\xef\xbb\xbf" + quoted.format(",").replace("\n", "\r\n").encode(), "bom.csv"),
        write(tmp_path, quoted.format("\t"), "b.tsv"),
        write(tmp_path, gzip.compress(quoted.format(",").encode()), "a.csv.gz"),
        write(tmp_path, lines, "c.jsonl"),
        write(tmp_path, gzip.compress(lines.encode()), "c.ndjson.gz"),
        write(tmp_path, b"".join(parts), "parts.jsonl.gz"),
        write(tmp_path, pa.Codec("zstd").compress(quoted.format(",").encode(), asbytes=True), "a.csv.zst"),
        write(tmp_path, json.dumps(rows), "c.json"),
        tmp_path / "d.parquet",
    ]
    for path in paths:
        data = read(path)
        assert [t.replace("\r\n", "\n") for t in data.texts] == [row["text"] for row in rows], path
        assert (data.classes, gold(data)) == (("0", "1"), [1, 0]), path
    assert read(write(tmp_path, quoted.format(";"), "e.csv"), delimiter=";").classes == ("0", "1")
    assert read(write(tmp_path, quoted.format(",").encode("utf-16"), "f.csv"), encoding="utf-16").inputs[1] == "café"
    assert read(write(tmp_path, quoted.format(",").encode("latin-1"), "g.csv"), encoding="latin-1").inputs[1] == "café"


@pytest.mark.parametrize(
    ("labels", "classes", "expected"),
    [
        ([10, 9, 2], ("2", "9", "10"), [2, 1, 0]),
        ([1.0, None, 0.0], ("0", "1"), [1, -1, 0]),
        ([True, False, True], ("false", "true"), [1, 0, 1]),
        (["b", "a ", ""], ("a", "b"), [1, 0, -1]),
        (["1.0", "2", "1"], ("1", "2"), [0, 1, 0]),
    ],
)
def test_labels_of_any_type_become_class_names(
    tmp_path: Path, labels: list[Any], classes: tuple[str, ...], expected: list[int]
) -> None:
    pq.write_table(pa.table({"text": ["x", "y", "z"], "label": labels}), tmp_path / "a.parquet")
    write(tmp_path, "".join(json.dumps({"text": "t", "label": v}) + "\n" for v in labels), "a.jsonl")
    for name in ("a.parquet", "a.jsonl"):
        data = read(tmp_path / name)
        assert data.classes == classes
        assert gold(data) == expected


def test_columns_of_the_users_choice(tmp_path: Path) -> None:
    path = write(tmp_path, "key,body,y,who,part\n7,one,a,x,Train\n8,two,b,x,train\n9,three,a,z,TEST\n5,four,,z,b\n")
    data = read(path, text="body", label="y", id="key", group="who", split="part", classes=("b", "a"))
    assert data.ids.tolist() == ["7", "8", "9", "5"]
    assert gold(data) == [1, 0, 1, -1]
    assert data.groups.tolist() == ["x", "x", "z", "z"]
    assert data.meta["split"].tolist() == ["A", "A", "T", "B"]


def test_same_texts_are_a_group_unless_the_user_groups(tmp_path: Path) -> None:
    path = write(tmp_path, "text,label,id\nSo  what,a,1\nother,b,2\nso what ,b,3\n")
    assert read(path).groups.tolist() == ["row-1", "row-2", "row-1"]
    assert read(path, id="id", group="id").groups.tolist() == ["1", "2", "3"]


@pytest.mark.parametrize(
    ("weak", "expected"),
    [
        (["yes", "no", ""], [[0, 1], [1, 0], [np.nan, np.nan]]),
        (["0.7", "1", "0"], [[0.3, 0.7], [0, 1], [1, 0]]),
        (["", "", "0.25"], [[np.nan, np.nan], [np.nan, np.nan], [0.75, 0.25]]),
    ],
)
def test_weak_labels_are_names_or_probabilities(tmp_path: Path, weak: list[str], expected: list[list[float]]) -> None:
    content = "text,label,weak\n" + "".join(
        f"{t},{y},{w}\n" for t, y, w in zip("abc", ("no", "yes", "no"), weak, strict=True)
    )
    meta = read(write(tmp_path, content), weak="weak").meta
    np.testing.assert_allclose(np.stack([meta["weak.0"], meta["weak.1"]], axis=1), expected)


@pytest.mark.parametrize("name", ["mine.csv", "mine.jsonl", "mine.parquet"])
@pytest.mark.parametrize("label", ["gold", None])
def test_a_table_without_gold_needs_weak_labels_and_classes(tmp_path: Path, name: str, label: str | None) -> None:
    rows = {"text": ["fine", "awful"], "rule": ["yes", "no"]}
    path = tmp_path / name
    match name.partition(".")[2]:
        case "csv":
            write(tmp_path, "text,rule\nfine,yes\nawful,no\n")
        case "jsonl":
            path.write_text("\n".join(json.dumps({k: v[i] for k, v in rows.items()}) for i in range(2)))
        case _:
            pq.write_table(pa.table(rows), path)
    data = read(path, label=label, weak="rule", classes=("yes", "no"))
    assert gold(data) == [-1, -1]
    assert data.classes == ("yes", "no")
    assert data.meta["weak.0"].tolist() == [1.0, 0.0]
    expected = f"no column {label!r}" if label else "label=None has no label at all; at least two classes are needed"
    assert expected in message(path, label=label, weak="rule")
    assert "did you mean 'rule'" in message(path, label="rul", weak="rule", classes=("yes", "no"))


def test_a_big_file_costs_only_the_columns_kept(tmp_path: Path) -> None:
    path = tmp_path / "big.csv"
    with open(path, "w", encoding="utf-8") as file:
        file.write("text,label,junk\n")
        for row in range(4000):
            file.write(f"text {row},{row % 2},{'x' * 10_000}\n")
    tracemalloc.start()
    data = read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(data) == 4000
    assert path.stat().st_size > 40_000_000
    assert peak < 6_000_000


# --- what is refused ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "options", "expected"),
    [
        ("", {}, "the file is empty"),
        ("\n\n", {}, "the file is empty"),
        ("text,label\n", {}, "it has no rows"),
        ("txt,label\na,b\n", {}, "no column 'text'; did you mean 'txt'?"),
        ("text;label\na;b\n", {}, "give delimiter=';'"),
        ("text,text,label\na,b,c\n", {}, "2 columns 'text'"),
        (
            'text,label\n"a\nb",x\nfine,y,z\nfine,x,x\n',
            {},
            "line 4: 3 fields where the header has 2 (2 rows like this)",
        ),
        ('text,label\nok,x\n"open,y\n', {}, "in the row that starts at line 3"),
        ('text,label\n"a"b,x\n', {}, "in the row that starts at line 2"),
        ("text,label\n ,x\nfine,y\n,x\n", {}, "line 2, column 'text': the text is empty (2 rows like this)"),
        ("text,label\na,x\nb,x\n", {}, "only the class 'x'; at least two"),
        ("text,label\na,\nb,\n", {}, "no label at all"),
        ("text,label\na,x\nb,y\n\nc,z\n", {"classes": ("x", "y")}, "line 5, column 'label': unknown class 'z'"),
        (
            "text,label,i\na,x,1\nb,y,2\nc,x,1\n",
            {"id": "i"},
            "line 4, column 'i': the id '1' is already in line 2",
        ),
        ("text,label,i\na,x,1\nb,y,\n", {"id": "i"}, "line 3, column 'i': the id is empty"),
        (
            "text,label,s\na,x,A\nb,y,C\n",
            {"split": "s"},
            "line 3, column 's': 'C' is no part of a split; use A, B or T",
        ),
        ("text,label,s\na,x,A\nb,,T\n", {"split": "s"}, "line 3, column 'label': a row of part T has no label"),
        ("text,label,w\na,x,x\nb,y,q\n", {"weak": "w"}, "line 3, column 'w': unknown class 'q'"),
        ("text,label,w\na,x,.5\nb,y,1.5\n", {"weak": "w"}, "line 3, column 'w': '1.5' is no probability"),
        ("text,label,w\na,x,.5\nb,y,x\n", {"weak": "w"}, "line 3, column 'w': 'x' is no probability"),
        ("text,label\na,x\n", {"delimiter": "ab"}, "a delimiter is one character"),
        ("text,label\na,x\n", {"encoding": "klingon"}, "unknown encoding 'klingon'"),
        ("text,label\n,x\nb,y,z\n", {}, "(1 more problems of other kinds)"),
    ],
)
def test_a_csv_that_is_not_in_order(tmp_path: Path, content: str, options: dict[str, Any], expected: str) -> None:
    assert expected in message(write(tmp_path, content), **options)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('{"text": "a", "label": "x"}\n{"text": \n[1]\n', "line 2: not JSON (Expecting value at column"),
        ('[1]\n{"text": "a", "label": "x"}\n', "line 1: [1] is no JSON object"),
        ('{"txt": "a", "label": "x"}\n', "no column 'text'; did you mean 'txt'?"),
        ('{"text": 3, "label": "x"}\n', "line 1, column 'text': 3 is no text"),
        ('{"text": "a", "label": 0.5}\n', "line 1, column 'label': 0.5 is no class"),
        ('{"text": "a", "label": {"b": 1}}\n', "{'b': 1} is no class"),
        ('{"text": "\\ud800", "label": "x"}\n', "lone surrogate"),
        ("[" * 100_000, "line 1: not JSON"),
        ("\n", "it has no rows"),
    ],
)
def test_a_jsonl_that_is_not_in_order(tmp_path: Path, content: str, expected: str) -> None:
    assert expected in message(write(tmp_path, content, "mine.jsonl"))


def test_a_wrong_encoding_is_reported_with_its_line(tmp_path: Path) -> None:
    path = write(tmp_path, b"text,label\n" + b"fine,x\n" * 5000 + b"caf\xe9,y\n")
    told = message(path)
    assert "line 5002: byte 0xe9 is not utf-8" in told
    assert "encoding='latin-1'" in told
    assert len(read(path, encoding="latin-1")) == 5001
    assert "encoding='utf-16'" in message(write(tmp_path, GOOD.encode("utf-16"), "wide.csv"))
    assert "line 5002: byte 0xe9" in message(write(tmp_path, gzip.compress(path.read_bytes()), "packed.csv.gz"))
    assert "is not utf-16; save it as utf-16, or say" in message(write(tmp_path, GOOD, "plain.csv"), encoding="utf-16")


def test_labels_that_are_no_classes_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "text,label\n" + "".join(f"t{i},v{i}\n" for i in range(50)))
    assert "50 different values in 50 rows" in message(path)


def test_files_that_are_not_what_their_name_says(tmp_path: Path) -> None:
    assert "cannot be read as Parquet" in message(write(tmp_path, "hello", "a.parquet"))
    packed = gzip.compress(GOOD.encode())
    altered = packed[:-8] + bytes(4) + packed[-4:]  # another checksum
    for name, content in {"a": b"hello", "b": packed[:-9], "c": packed[:-8], "d": altered}.items():
        assert "the compressed file is damaged" in message(write(tmp_path, content, f"{name}.csv.gz"))
    assert "the compressed file is damaged" in message(write(tmp_path, "hello", "a.csv.zst"))
    assert "'.xlsx' files cannot be read; give a file of one of these kinds: .csv, .tsv" in message(
        write(tmp_path, GOOD, "a.xlsx")
    )
    assert "'.parquet.gz' files cannot be read" in message(write(tmp_path, GOOD, "a.parquet.gz"))
    assert "it holds no list" in message(write(tmp_path, '{"text": "a"}', "a.json"))
    assert "a.json: not JSON (Expecting property name" in message(write(tmp_path, "[{]", "a.json"))
    assert "entry 2: 7 is no JSON object" in message(write(tmp_path, '[{"text": "a", "label": 1}, 7]', "a.json"))
    pq.write_table(pa.table({"txt": ["a"], "label": ["b"]}), tmp_path / "c.parquet")
    assert "no column 'text'; did you mean 'txt'?" in message(tmp_path / "c.parquet")
    pq.write_table(pa.table({"text": ["a", None], "label": ["b", "c"]}), tmp_path / "d.parquet")
    assert "row 2, column 'text': the text is empty" in message(tmp_path / "d.parquet")
    (tmp_path / "folder").mkdir()
    assert "is a folder" in message(tmp_path / "folder")
