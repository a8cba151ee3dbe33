"""Files as users have them: round trips over formats, encodings and delimiters, and bytes that are no file at all."""

import csv
import encodings.aliases
import gzip
import io
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from outgrow.errors import UserError
from outgrow.tasks import readers
from outgrow.tasks.readers import Row, existing_file, read_rows

FEW = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
ROWS = [{"text": 'He said "no",\nthen left', "label": "yes"}, {"text": "café; tea", "label": "no"}]


def rows_of(file: Path, **how: Any) -> list[Row]:
    return list(read_rows(file, lambda there: [c for c in ("text", "label") if c in there], **how))


def refused(file: Path, **how: Any) -> str:
    with pytest.raises(UserError) as error:
        rows_of(file, **how)
    assert "\n" not in str(error.value)
    return str(error.value)


def as_csv(rows: list[dict[str, str]], delimiter: str = ",") -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, ["text", "label"], delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


# --- round trips ------------------------------------------------------------------------------------------------------

PLAIN = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=30).filter(str.strip)


@FEW
@given(
    texts=st.lists(PLAIN, min_size=1, max_size=5),
    delimiter=st.sampled_from(",;\t|: ~"),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "utf-7", "gb18030"]),
    packing=st.sampled_from(["", ".gz", ".zst"]),
)
def test_what_is_written_is_read(tmp_path: Path, texts: list[str], delimiter: str, encoding: str, packing: str) -> None:
    rows = [{"text": text, "label": "x"} for text in texts]
    content = as_csv(rows, delimiter).encode(encoding)
    packers: dict[str, Callable[[bytes], bytes]] = {
        "": bytes,
        ".gz": gzip.compress,
        ".zst": lambda b: pa.Codec("zstd").compress(b, asbytes=True),
    }
    file = tmp_path / f"a.csv{packing}"
    file.write_bytes(packers[packing](content))
    assert [r.values for r in rows_of(file, delimiter=delimiter, encoding=encoding)] == rows


@FEW
@given(values=st.lists(PLAIN, min_size=1, max_size=5))
def test_json_and_parquet_keep_every_character(tmp_path: Path, values: list[str]) -> None:
    rows = [{"text": value, "label": "x"} for value in values]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    (tmp_path / "a.json").write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    for name in ("a.jsonl", "a.json", "a.parquet"):
        assert [r.values for r in rows_of(tmp_path / name)] == rows


# --- fuzz -------------------------------------------------------------------------------------------------------------


def written(folder: Path) -> list[Path]:
    """One good file of each format."""
    table, content = pa.Table.from_pylist(ROWS), as_csv(ROWS).encode()
    contents = {
        "a.csv": content,
        "a.tsv": as_csv(ROWS, "\t").encode(),
        "a.jsonl": "".join(json.dumps(r) + "\n" for r in ROWS).encode(),
        "a.json": json.dumps(ROWS).encode(),
        "a.csv.gz": gzip.compress(content),
        "a.csv.zst": pa.Codec("zstd").compress(content, asbytes=True),
    }
    for name, made in contents.items():
        (folder / name).write_bytes(made)
    pq.write_table(table, folder / "a.parquet")
    return [folder / name for name in (*contents, "a.parquet")]


def mutated(content: bytes, rng: random.Random) -> bytes:
    made = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(made) + 1)
        match rng.randrange(4):
            case 0:
                del made[at : at + rng.randint(1, 20)]
            case 1:
                made[at:at] = rng.choice([b'"', b"\0", b"\xff", b"\r", b"\n", b"{", b"]", b"\xed\xa0\x80", b"\t", b","])
            case 2:
                made[at : at + 1] = bytes([rng.randrange(256)])
            case _:
                made[at:at] = made[max(0, at - 10) : at]
    return bytes(made)


def outcome(file: Path, **how: Any) -> str:
    try:
        rows_of(file, **how)
    except UserError as error:
        return "several lines" if "\n" in str(error) else "line"
    return "rows"


def outcomes(files: list[Path], number: int, seed: int) -> Iterator[str]:
    rng = random.Random(seed)
    encodings_ = ("utf-8", "utf-8", "utf-16", "latin-1", "utf-7", "shift_jis", "hz", "iso2022_jp")
    for file in files:
        good = file.read_bytes()
        for case in range(number):
            file.write_bytes(rng.randbytes(rng.randint(0, 200)) if case % 10 == 0 else mutated(good, rng))
            is_csv = file.name.split(".")[1] in ("csv", "tsv")
            how = {"quotes": rng.random() < 0.7} if is_csv else {}
            encoding = None if file.suffix == ".parquet" else rng.choice(encodings_)
            yield outcome(file, encoding=encoding, **how)


def test_damaged_files_give_rows_or_one_line(tmp_path: Path) -> None:
    assert {"rows", "line"} == set(outcomes(written(tmp_path), 150, seed=1))


@pytest.mark.slow
def test_many_damaged_files_give_rows_or_one_line(tmp_path: Path) -> None:
    assert {"rows", "line"} == set(outcomes(written(tmp_path), 2000, seed=2))


def test_every_codec_reads_or_is_refused(tmp_path: Path) -> None:
    names = sorted({*encodings.aliases.aliases, *encodings.aliases.aliases.values(), "idna", "punycode", "undefined"})
    file = tmp_path / "a.csv"
    for content in (b"text,label\na,x\n", b"text,label\na..b\\x\xff\xfe\0,x\n", b"\x80\x81\x82"):
        file.write_bytes(content)
        for name in (*names, "\0", "", "\udc80", "unicode_escape", "raw_unicode_escape"):
            assert outcome(file, encoding=name) in ("rows", "line")
    for name in ("rot13", "zip", "hex", "idna", "punycode", "undefined", "unicode_escape", "\0"):
        assert f"unknown encoding {name!r}" in refused(file, encoding=name)


# --- kinds of damage --------------------------------------------------------------------------------------------------


def test_paths_that_are_none(tmp_path: Path) -> None:
    for path in ("~nosuchuser/a.csv", "x" * 5000 + ".csv", "a\0b.csv", "\udc80.csv", "a\nb.csv"):
        with pytest.raises(UserError) as error:
            existing_file(path)
        assert "\n" not in str(error.value)
        assert len(str(error.value)) < 600


@pytest.mark.parametrize("delimiter", ["\n", "\r", '"', "\0", "\udc80", "", "ab"])
def test_delimiters_that_are_none(tmp_path: Path, delimiter: str) -> None:
    (tmp_path / "a.csv").write_text("text,label\na,x\n")
    if delimiter:
        assert "a delimiter is one character" in refused(tmp_path / "a.csv", delimiter=delimiter)
    else:
        assert len(rows_of(tmp_path / "a.csv", delimiter=delimiter)) == 1


def test_a_first_line_that_names_the_separator(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("\ufeffsep=;\r\ntext;label\r\na, b;x\r\n", encoding="utf-8")
    (row,) = rows_of(tmp_path / "a.csv")
    assert row == Row("line", 3, {"text": "a, b", "label": "x"})


def test_wide_characters_without_a_mark(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes("text,label\na,x\n".encode("utf-16-le"))
    assert "encoding='utf-16-le'" in refused(tmp_path / "a.csv")
    assert len(rows_of(tmp_path / "a.csv", encoding="utf-16-le")) == 1


def test_a_stray_quote_is_said_and_quotes_can_be_text(tmp_path: Path) -> None:
    lines = [f"text {i}\tx" for i in range(50)]
    lines[5], lines[30] = '"so\tx', 'text 30"\tx'
    (tmp_path / "a.tsv").write_text("\n".join(["text\tlabel", *lines, ""]))
    told: list[str] = []
    assert len(rows_of(tmp_path / "a.tsv", say=told.append)) == 25
    assert (
        "1 row spans several lines, the longest 26 lines from line 7; 24 lines inside texts look like rows" in told[0]
    )
    assert "quotes=False" in told[0]
    assert len(rows_of(tmp_path / "a.tsv", quotes=False, say=told.append)) == 50
    assert len(told) == 1
    lines[30] = "text 30\tx"
    (tmp_path / "a.tsv").write_text("\n".join(["text\tlabel", *lines, ""]))
    assert "quotes=False reads quotes as text" in refused(tmp_path / "a.tsv")
    (tmp_path / "b.jsonl").write_text('{"text": "a"}\n')
    assert "quotes=False is for .csv and .tsv" in refused(tmp_path / "b.jsonl", quotes=False)


def test_texts_of_a_few_lines_are_ordinary(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(as_csv([{"text": "one\ntwo\nthree", "label": "x"}] * 5))
    told: list[str] = []
    assert len(rows_of(tmp_path / "a.csv", say=told.append)) == 5
    assert not told


def test_a_key_that_stands_twice(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a", "label": "x", "label": "y"}\n')
    assert "the key 'label' stands twice" in refused(tmp_path / "a.jsonl")
    (tmp_path / "a.jsonl").write_text('{"text": %s, "label": "x"}\n' % ("9" * 5000))
    assert "line 1: not JSON (Exceeds the limit" in refused(tmp_path / "a.jsonl")


def test_what_would_fill_the_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "_MAX_LINE", 10_000)
    monkeypatch.setattr(readers, "_MAX_JSON", 10_000)
    for name, content in {"a.csv.gz": "text,label\n", "a.jsonl.gz": "", "a.json.gz": "["}.items():
        (tmp_path / name).write_bytes(gzip.compress((content + "a" * 10_000_000).encode()))
        assert "10,000 characters or more" in refused(tmp_path / name)


def test_parquet_values_that_python_does_not_have(tmp_path: Path) -> None:
    late = pa.array([0, 2**62], pa.timestamp("us"))
    pq.write_table(pa.table({"text": late, "label": ["a", "b"]}), tmp_path / "a.parquet")
    assert "row 2, column 'text': date value out of range" in refused(tmp_path / "a.parquet")
    raw = pa.array([b"fine", b"\xff"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"text": raw, "label": ["a", "b"]}), tmp_path / "b.parquet")
    assert "row 2, column 'text': 'utf-8' codec" in refused(tmp_path / "b.parquet")
