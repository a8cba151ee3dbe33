"""Easy to hard: bands hold what they say, gold is read of one band alone, and what is sure is kept."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from conftest import MakeExperiment
from outgrow import steps
from outgrow.data import Examples, Labels, Split
from outgrow.engine.graph import in_order
from outgrow.errors import UserError
from outgrow.experiment import wire
from outgrow.protocols.bands import add_sure, cut_bands, difficulty

IDS = np.array([f"id-{i:03}" for i in range(100)])
SPLIT = Split(parts=dict(zip(("A", "A_val", "B", "B_val", "T"), np.split(IDS, [50, 61, 75, 80]), strict=True)))
HARD = {"ids": IDS[::-1], "difficulty": np.random.default_rng(0).integers(5, size=100).astype(np.float64)}


def test_bands_are_in_order_of_difficulty_and_of_equal_size() -> None:
    of = dict(zip(HARD["ids"].tolist(), HARD["difficulty"].tolist(), strict=True))
    cut = cut_bands(HARD, SPLIT, bands=3)
    kept = [cut.parts[f"band{i}"] for i in (1, 2, 3)]
    assert [len(k) for k in kept] == [21, 20, 20]
    assert sorted(np.concatenate(kept)) == sorted(SPLIT.ids(("A", "A_val")))
    for easier, harder in pairwise(kept):
        assert max(of[i] for i in easier) <= min(of[i] for i in harder)
    mixed = cut_bands(HARD, SPLIT, bands=3, mixed=True).parts["mixed"]
    assert len(mixed) == 20
    assert [np.isin(k, mixed).sum() for k in kept] == [7, 7, 6]
    assert all((cut.parts[p] == SPLIT.parts[p]).all() for p in ("B", "B_val", "T"))


def test_what_cannot_be_cut_is_one_line() -> None:
    values = np.where(HARD["ids"] == "id-003", np.nan, HARD["difficulty"])
    with pytest.raises(UserError, match="1 of 61 rows of A have no difficulty, the first is 'id-003'"):
        cut_bands({"ids": HARD["ids"], "difficulty": values}, SPLIT, bands=3)
    with pytest.raises(UserError, match="take fewer bands"):
        cut_bands(HARD, replace(SPLIT, parts={**SPLIT.parts, "A": IDS[:3], "A_val": IDS[:0]}), bands=3)
    plain = Examples(ids=IDS[:1], inputs=("x",), gold=None, classes=("a", "b"), groups=IDS[:1])
    with pytest.raises(UserError, match="no column difficulty"):
        difficulty(plain)


def test_the_surest_of_each_class_is_kept_as_certain() -> None:
    gold = Labels.from_classes(IDS[:2], np.array([0, 1]), 2, "gold")
    p = np.array([0.9, 0.6, 0.7, 0.2, 0.4])
    said = Labels(ids=IDS[10:15], probs=np.stack([1 - p, p], axis=1), source="said")
    kept = add_sure(gold, said, keep=0.5)
    assert kept.ids.tolist() == ["id-000", "id-001", "id-010", "id-012", "id-013"]
    assert kept.probs.tolist() == [[1, 0], [0, 1], [0, 1], [0, 1], [1, 0]]
    assert len(add_sure(gold, said, keep=1.0)) == 7


@pytest.mark.parametrize(
    ("weak", "read"),
    [
        ("climb", {"band1"}),
        ("climb(bands=5, by='glove')", {"band1"}),
        ("one-band", {"band1"}),
        ("one-band(band=3)", {"band3"}),
        ("one-band(band=None)", {"mixed"}),
    ],
)
def test_gold_is_read_of_one_band_alone(make: MakeExperiment, weak: str, read: set[str]) -> None:
    (labels, _) = wire(make(weak=weak)).args["weak"]
    assert {p for s in in_order([labels]) if s.fn is steps.gold for p in s.args["parts"]} == read


def test_a_band_beyond_the_last_is_one_line(make: MakeExperiment) -> None:
    with pytest.raises(UserError, match="band is 4, and there are 3"):
        wire(make(weak="one-band(band=4)"))


def test_a_climb_that_keeps_nothing_is_one_jump(make: MakeExperiment, store: Any) -> None:
    from outgrow.experiment import run_steps
    from outgrow.runtime import Runtime

    experiments = [make(weak=text, weak_train=None, seeds=(0,)) for text in ("climb(keep=0.0)", "one-band")]
    targets, _ = run_steps(experiments, store, Runtime(device="cpu", offline=True, say=lambda line: None))
    climb, jump = (store.read(t.args["weak"][0]) for t in targets)
    assert climb.probs.tobytes() == jump.probs.tobytes()
