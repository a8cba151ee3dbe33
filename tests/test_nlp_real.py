"""The real sets, where a folder of them is there: ``OUTGROW_TEST_DATA``, else ``shared/data`` beside the repository."""

import os
from pathlib import Path

import numpy as np
import pytest

from outgrow.data import Examples, Ints
from outgrow.runtime import Runtime
from outgrow.tasks import Sizes, TaskSpec, load, split_examples, tasks_table

FOLDER = Path(os.environ.get("OUTGROW_TEST_DATA") or Path(__file__).parents[2] / "shared" / "data")
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
TINY = {"anli-r2": 6, "paws": 12, "quartz": 12}
"""Two to four rows of each split, in the true format."""


def _load(name: str, folder: Path = FOLDER, **options: str) -> Examples:
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
