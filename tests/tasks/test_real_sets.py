"""The real sets of texts, digits and puzzles: in folder ``OUTGROW_TEST_DATA``, else ``shared/data`` beside this one."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from outgrow.data import Examples, Ints
from outgrow.runtime import Runtime
from outgrow.tasks import Sizes, TaskSpec, describe, load, split_examples, tasks_table

FOLDER = Path(os.environ.get("OUTGROW_TEST_DATA") or Path(__file__).parents[3] / "shared" / "data")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not FOLDER.is_dir(), reason="no folder of real data sets (OUTGROW_TEST_DATA)"),
]

# Rows as loaded by default from that folder, share of class 1, and questions as choices (None: no such form), which
# are fewer where options repeat: SciQ's training rows there are rebuilt and mostly have too few different ones.
REAL = {
    "amazon-polarity": (10_034, 0.49, None),
    "anli-r2": (1_000, 0.33, None),
    "boolq": (12_697, 0.62, None),
    "cola": (9_569, 0.70, None),
    "cosmos-qa": (5_452, 0.5, 2_726),
    "dream": (20_394, 0.5, 10_196),
    "ethics-deontology": (21_758, 0.53, None),
    "ethics-justice": (22_694, 0.54, None),
    "ethics-utilitarianism": (18_381, 0.49, 18_381),
    "ethics-virtue": (32_978, 0.10, None),
    "hellaswag": (50_000, 0.5, 25_000),
    "mc-taco": (6_170, 0.5, None),
    "multirc": (18_440, 0.5, None),
    "openbookqa": (11_790, 0.5, 5_892),
    "piqa": (35_884, 0.5, 17_942),
    "quail": (3_846, 0.5, 1_922),
    "sciq": (21_310, 0.5, 2_611),
    "social-i-qa": (43_666, 0.5, 21_805),
    "sst2": (20_836, 0.56, None),
    "twitter-sentiment": (19_915, 0.50, None),
    "wic": (6_066, 0.5, None),
}
PUZZLES = {
    "lichess_puzzles_2020/train.parquet": (3_000, 2_902),
    "lichess_puzzles_2020/test.parquet": (2_999, 2_892),
    "lichess_puzzles_kagi/test.parquet": (1_000, 996),
}
"""Both of Lichess's tables: puzzles of at most 3,000, and those with four legal moves to choose from."""
DIGITS = (980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009)
"""Of each of the ten in MNIST's test set, as published."""
TINY = {"anli-r2": 6, "paws": 12, "quartz": 12}
"""Two to four rows of each split, in the true format."""


def _load(name: str, folder: Path = FOLDER, **options: str | None) -> Examples:
    return load(TaskSpec.of(name, data_dir=str(folder), **options), Runtime(say=lambda _: None))


def _check_whole(data: Examples) -> Ints:
    assert data.gold is not None
    assert len(np.unique(data.ids)) == len(data)
    assert all(t.strip() and t.strip() == t for t in data.texts)
    assert data.gold.min() == 0
    return data.gold


@pytest.mark.parametrize("name", REAL)
def test_a_real_set_is_read_whole_and_splits_by_group(name: str) -> None:
    rows, share, questions = REAL[name]
    data = _load(name)
    gold = _check_whole(data)
    assert len(data) == rows
    (stated,) = (t["rows"] for t in tasks_table() if t["name"] == name)
    assert stated in (None, rows)
    assert gold.mean() == pytest.approx(share, abs=0.01)
    split = split_examples(data, Sizes(), seed=0)
    groups = [set(data.take(split.ids(parts)).groups.tolist()) for parts in (("A", "A_val"), ("B", "B_val"), ("T",))]
    assert sum(map(len, groups)) == len(set.union(*groups))
    test = data.take(split.parts["T"]).gold
    assert test is not None
    assert np.bincount(test).tolist() == [len(test) // 2] * 2
    if questions is not None:
        chosen = _load(name, form="choice")
        places = np.bincount(_check_whole(chosen))
        assert len(chosen) == questions
        assert (abs(places / len(chosen) - 1 / chosen.num_classes) < 0.04).all()


@pytest.mark.parametrize("name", ["boolq", "dream", "ethics-virtue", "mc-taco", "piqa", "wic"])
def test_official_parts_share_no_group(name: str) -> None:
    data = _load(name, split_mode="official")
    parts = data.meta["split"]
    groups = [set(data.groups[parts == p].tolist()) for p in "ABT"]
    assert all(groups)
    assert sum(map(len, groups)) == len(set.union(*groups))
    split_examples(data, Sizes(), seed=0)


@pytest.mark.parametrize("name", TINY)
def test_the_true_format_is_read(name: str) -> None:
    assert len(_load(name, FOLDER / "_tiny")) == TINY[name]


@pytest.mark.parametrize("table", PUZZLES)
def test_lichess_puzzles_are_legal_positions_with_one_answer(table: str) -> None:
    def puzzles(form: str) -> Examples:
        spec = TaskSpec.of("chess-puzzles", path=str(FOLDER / table), form=form, limit=3_000)
        return load(spec, Runtime(say=lambda _: None))

    written, chosen = puzzles("move"), puzzles("choice")
    gold = _check_whole(chosen)
    assert (len(written), len(chosen)) == PUZZLES[table]
    allowed = [set(moves.split()) for moves in written.meta["allowed"]]
    assert all(answer in moves for answer, moves in zip(written.meta["answer"], allowed, strict=True))
    answers = zip(chosen.inputs, gold, chosen.meta["answer"], strict=True)
    assert all(candidates[right].split()[-1] == answer for candidates, right, answer in answers)
    assert (abs(np.bincount(gold) / len(chosen) - 1 / chosen.num_classes) < 0.04).all()
    assert 300 < np.nanmin(chosen.meta["difficulty"]) < np.nanmax(chosen.meta["difficulty"]) < 3_500
    split = split_examples(chosen, Sizes(), seed=0)
    groups = [set(chosen.take(split.ids(parts)).groups.tolist()) for parts in (("A", "A_val"), ("B", "B_val"), ("T",))]
    assert sum(map(len, groups)) == len(set.union(*groups))


def test_digits_are_as_many_as_published() -> None:
    data = _load("mnist", limit=None)
    assert data.gold is not None
    assert tuple(np.bincount(data.gold[np.char.startswith(data.ids, "test")])) == DIGITS
    assert json.dumps(describe(TaskSpec.of("mnist", data_dir=str(FOLDER), limit=100), Runtime())["examples"])
