"""Nested reward models: quotes hold what they say, and a critic that knows no more than its judge changes nothing."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import MakeExperiment
from outgrow import steps
from outgrow.data import Examples, Features, Floats, Labels, Split, hardened
from outgrow.engine.graph import in_order
from outgrow.engine.store import Store
from outgrow.errors import UserError
from outgrow.experiment import open_store, run_steps, wire
from outgrow.models.base import model
from outgrow.models.probe import FittedProbe
from outgrow.protocols.nested import (
    CRITIQUES,
    admission,
    beside,
    leave_out,
    quote,
    supervise,
    take_units,
    units_of_row,
    weigh,
)
from outgrow.runtime import Runtime
from test_experiment import files, gold
from tiny_models import WORDS

VECTORS = np.random.default_rng(3).normal(size=(len(WORDS), 5))
VECTORS[-1] = 0  # a word that the model does not know
PARTS = ("A", "A_val", "B", "B_val", "T")


def embedded(texts: Sequence[str]) -> Floats:
    """The mean vector of the known words, as of GloVe; zeros where there is none."""
    rows = []
    for text in texts:
        known = [VECTORS[WORDS.index(w)] for w in text.split() if VECTORS[WORDS.index(w)].any()]
        rows.append(np.mean(known, axis=0) if known else np.zeros(VECTORS.shape[1]))
    return np.array(rows, dtype=np.float64)


@model("mean-of-words")
class MeanOfWords:
    """The mean of random vectors of the words in a text: linear, as a judge that knows words alone."""

    version: ClassVar[int] = 1
    reads: ClassVar[str] = "text"

    def embed(self, inputs: Sequence[str], runtime: Runtime) -> Any:
        return embedded(inputs).astype(np.float32)


def pairs(rng: np.random.Generator, rows: int = 40, longest: int = 6) -> tuple[Examples, Split]:
    texts = [
        tuple(" ".join(rng.choice(WORDS, size=rng.integers(1, longest + 1))) for _ in range(2)) for _ in range(rows)
    ]
    ids = np.array([f"id-{i:02}" for i in range(rows)])
    examples = Examples(ids=ids, inputs=tuple(texts), gold=None, classes=("first", "second"), groups=ids)
    cuts = np.split(rng.permutation(ids), [rows // 4, rows // 4 + 3, rows // 2, rows // 2 + 3])
    return examples, Split(parts=dict(zip(PARTS, cuts, strict=True)))


def head(rng: np.random.Generator) -> FittedProbe:
    d = VECTORS.shape[1]
    return FittedProbe(
        view="mean",
        weight=rng.normal(size=(d, 1)).astype(np.float32),
        bias=np.zeros(1, dtype=np.float32),
        center=rng.normal(size=(d,)).astype(np.float32),
        scale=(0.5 + rng.random((d,))).astype(np.float32),
        history=(),
        best_epoch=0,
    )


def features(examples: Examples) -> Features:
    matrix = embedded(examples.texts)
    shaped = matrix.reshape(len(examples), 2, -1) if examples.form == "choice" else matrix
    return Features(ids=examples.ids, views={"mean": shaped})


def quoted(
    examples: Examples, split: Split, critics: tuple[FittedProbe, ...], argues: tuple[str, str], quotes: int = 2
) -> Examples:
    units = take_units(examples, unit="words")
    read = {"units_read": features(units), "candidates_read": features(examples)}
    weighed = weigh(texts=examples, critics=critics, split=split, part="A", seed=1, **read)
    said: dict[str, Any] = {"unit": "words", "quotes": quotes, "argues": argues, "seed": 1, "level": 1}
    return quote(texts=examples, units=units, weighed=weighed, split=split, **said)


SEEDS = st.integers(0, 10_000)


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, quotes=st.integers(1, 8))
def test_a_critic_that_is_the_judge_never_changes_its_verdict(seed: int, quotes: int) -> None:
    """No new knowledge: of what the judge itself would quote for its verdict, it says the same, more surely."""
    rng = np.random.default_rng(seed)
    examples, split = pairs(rng)
    judge = head(rng)
    critique = quoted(examples, split, (judge,) * 6, ("honest", "honest"), quotes)
    at = features(examples.take(critique.ids)).views["mean"]
    readable = np.array([all(embedded([t])[0].any() for t in row) for row in examples.take(critique.ids).readings])
    before, after = (judge.predict(x) for x in (at, features(critique).views["mean"]))
    settled = readable & (np.abs(before[:, 0] - 0.5) > 1e-5)
    assert (hardened(before) == hardened(after))[settled].all()
    assert (after.max(axis=1) >= before.max(axis=1) - 1e-5)[settled].all()


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS, how=st.sampled_from(sorted(CRITIQUES)))
def test_who_quotes_everything_hides_nothing(seed: int, how: str) -> None:
    rng = np.random.default_rng(seed)
    examples, split = pairs(rng)
    critique = quoted(examples, split, tuple(head(rng) for _ in range(4)), CRITIQUES[how], quotes=6)
    if how == "shuffled":
        assert sorted(critique.inputs) == sorted(examples.inputs)
    else:
        assert critique.inputs == examples.take(critique.ids).inputs


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS)
def test_a_liar_argues_for_the_other_side_once_the_judge_has_learned(seed: int) -> None:
    rng = np.random.default_rng(seed)
    examples, split = pairs(rng)
    critics = tuple(head(rng) for _ in range(4))
    honest, lying, first, second = (
        quoted(examples, split, critics, ("honest", how)) for how in ("honest", "lying", "0", "1")
    )
    believed = np.stack([honest.meta["critic.0"], honest.meta["critic.1"]], axis=1)
    for i, name in enumerate(honest.ids):
        sides = (first.inputs[i], second.inputs[i])
        if name in split.ids(("A", "A_val")):
            assert honest.inputs[i] == lying.inputs[i] == sides[0] == sides[1]
        else:
            assert honest.inputs[i] == sides[believed[i].argmax()]
            assert lying.inputs[i] == sides[believed[i].argmin()]
    assert all((honest.meta[c] == lying.meta[c]).all() for c in ("critic.0", "critic.1"))


def test_quotes_are_the_words_that_speak_most_for_one_side_in_their_order() -> None:
    rng = np.random.default_rng(0)
    examples, split = pairs(rng)
    critics = tuple(head(rng) for _ in range(4))
    critique = quoted(examples, split, critics, ("honest", "honest"))
    for i, (name, row) in enumerate(zip(critique.ids, examples.take(critique.ids).readings, strict=True)):
        if name in split.parts["A"]:
            continue  # cross-fitted, below
        score = {w: critics[-1].predict(np.stack([embedded([w]), embedded(["zero"])], axis=1))[0, 0] for w in WORDS}
        side = int(critique.meta["critic.1"][i] > critique.meta["critic.0"][i])
        for c, text in enumerate(row):
            own, told = text.split(), str(critique.inputs[i][c]).split()
            known = [w for w in own if w != WORDS[-1]]
            assert len(told) == min(2, len(own))
            ranked = sorted((score[w] for w in known), reverse=c == side)[: len([w for w in told if w != WORDS[-1]])]
            assert sorted((score[w] for w in told if w != WORDS[-1]), reverse=c == side) == pytest.approx(ranked)
            places = iter(own)
            assert all(w in places for w in told)  # a subsequence


def test_rows_that_a_critic_learned_are_quoted_by_one_that_did_not() -> None:
    rng = np.random.default_rng(1)
    examples, split = pairs(rng)
    critics = tuple(head(rng) for _ in range(4))
    labels = Labels.from_classes(examples.ids, np.zeros(len(examples), dtype=np.int64), 2, "made")
    given: dict[str, Any] = {"texts": examples, "labels": labels, "split": split, "part": "A", "seed": 1}
    left = [leave_out(**given, fold=fold, folds=3) for fold in range(3)]
    out = [set(split.parts["A"]) - set(kept.ids) for kept in left]
    assert sorted(i for ids in out for i in ids) == sorted(split.parts["A"])
    critique = quoted(examples, split, critics, ("honest", "honest"))
    for fold, ids in enumerate(out):
        rows = critique.take(np.array(sorted(ids)))
        said = critics[fold].predict(features(examples.take(rows.ids)).views["mean"])
        assert rows.meta["critic.0"] == pytest.approx(said[:, 0])
    grouped = replace(examples, groups=np.array([f"group-{i // 5}" for i in range(len(examples))]))
    kept = leave_out(**{**given, "texts": grouped}, fold=0, folds=3)
    outside = set(split.parts["A"]) - set(kept.ids)
    together = {str(g) for g in grouped.take(kept.ids).groups}
    assert together.isdisjoint(str(g) for g in grouped.take(np.array(sorted(outside))).groups)
    with pytest.raises(UserError, match="cross-fitting in 11 folds"):
        leave_out(**given, fold=0, folds=11)


def test_shuffled_quotes_stay_in_their_part_and_leave_their_row() -> None:
    rng = np.random.default_rng(2)
    examples, split = pairs(rng, longest=12)
    critics = tuple(head(rng) for _ in range(4))
    honest, shuffled = (quoted(examples, split, critics, CRITIQUES[how]) for how in ("honest", "shuffled"))
    for part in PARTS:
        own, others = (e.take(split.parts[part]).inputs for e in (honest, shuffled))
        assert sorted(own) == sorted(others)
        assert sum(a == b for a, b in zip(own, others, strict=True)) <= 1  # two rows may hold the same words
    assert quoted(examples, split, critics, CRITIQUES["random"]).inputs != honest.inputs


def test_what_all_candidates_reply_to_is_not_quoted() -> None:
    row = ("No. Never!\n\nHuman: why not", "Yes, of course.\n\nHuman: why not")
    assert units_of_row(row, "words") == [["No.", "Never!"], ["Yes,", "of", "course."]]
    assert units_of_row(row, "sentences") == [["No.", "Never!"], ["Yes, of course."]]
    assert units_of_row(("same", "same"), "words") == [["same"], ["same"]]
    texts = Examples(ids=np.array(["a"]), inputs=("no choice",), gold=None, classes=("a", "b"), groups=np.array(["a"]))
    with pytest.raises(UserError, match="the task's rows are texts; take a task of pairs"):
        take_units(texts, unit="words")


def test_the_admission_test_is_of_rows_that_neither_learned_and_is_said() -> None:
    rng = np.random.default_rng(4)
    examples, split = pairs(rng, rows=120)
    wise, foolish = head(rng), head(rng)
    critique = quoted(examples, split, (wise,) * 6, ("honest", "honest"))
    truth = hardened(wise.predict(features(examples).views["mean"]))
    labels = Labels.from_classes(examples.ids, truth, 2, "gold")
    given: dict[str, Any] = {"critique": critique, "gold": labels, "split": split, "texts": examples, "seed": 1}
    test = admission(judge=features(examples), judges=(foolish,), **given)
    said = hardened(foolish.predict(features(examples.take(split.parts["A"])).views["mean"]))
    right = float((said == labels.take(split.parts["A"]).hard).mean())
    assert test["rows"] == 30
    assert test["critic"][0] == 1
    assert test["judge"][0] == pytest.approx(right)
    assert test["more"][0] == pytest.approx(1 - right)
    assert test["admitted"]
    same = admission(judge=features(examples), judges=(wise,) * 3, **given)
    assert not same["admitted"]
    lines: list[str] = []
    supervise(labels, (test, same), Runtime(say=lines.append))
    assert lines[0].endswith(f"the critic has 1.000 and the judge {right:.3f}: admitted")
    assert lines[1].startswith("level 2: ")
    assert "not better than the judge" in lines[1]


def test_candidates_stand_beside_their_quotes() -> None:
    examples, _ = pairs(np.random.default_rng(5))
    order = examples.take(examples.ids[::-1])
    joined = beside(candidates=features(examples), quotes=features(order), view="mean")
    assert (joined.ids == order.ids).all()
    assert (joined.views["mean"] == np.concatenate([features(order).views["mean"]] * 2, axis=-1)).all()


# --- whole experiments ------------------------------------------------------------------------------------------------

SPELLED = (
    "levels=0", "levels=1", "levels=2", "levels=2, taught='verdicts'", "levels=2, frozen=True", "critiques='lying'",
    "critiques='coin'", "critiques='random'", "critiques='shuffled'", "unit='sentences'", "critic='mean-of-words'",
)  # fmt: skip


def nested(make: MakeExperiment, options: str, **changed: Any) -> Any:
    weak = f"nested(judge='mean-of-words', folds=3, quotes=1, {options})"
    shared = {
        "task": "chosen-words",
        "train": "probe(epochs=2)",
        "weak_train": None,
        "strategy": "naive",
        "seeds": (0,),
    }
    return make(weak=weak, **shared | changed)


def test_only_gold_of_a_is_read_and_garbage_elsewhere_changes_no_label(
    make: MakeExperiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiments = [nested(make, options) for options in SPELLED]
    true, again, poisoned = (open_store(str(tmp_path / name)) for name in ("true", "again", "poisoned"))
    cpu = Runtime(device="cpu", say=lambda line: None)
    targets, _ = run_steps(experiments, true, cpu)
    run_steps(experiments[:3], again, cpu)
    known = steps.gold
    monkeypatch.setattr(steps, "gold", gold)
    run_steps(experiments, poisoned, cpu)
    before, after, repeated = files(true), files(poisoned), files(again)
    for target in targets:
        for made in (*target.args["weak"], *target.args["student"]):
            behind = in_order([made])
            assert {p for s in behind if s.fn is known for p in s.args["parts"]} == {"A", "A_val"}
            beside_load = {s.fn for s in behind if any(i.fn is steps.load for i in s.inputs)}
            assert beside_load == {known, steps.split, steps.texts}
            assert all(before[s.key] == after[s.key] for s in behind)
    assert all(before[key] == value for key, value in repeated.items())  # the same bits again
    found = [true.read(t)["weak"]["accuracy"][0] for t in targets]
    assert found[1] > found[5]  # a judge that learned to trust its critic follows the lie


def test_nested_composes_with_strategies_and_names_what_it_cannot_read(make: MakeExperiment, store: Store) -> None:
    cpu = Runtime(device="cpu", say=lambda line: None)
    targets, _ = run_steps(
        [nested(make, "levels=1", strategy=s) for s in ("confidence", "refine(rounds=1)")], store, cpu
    )
    assert all(store.read(t)["test_rows"] for t in targets)
    with pytest.raises(UserError, match="unknown model 'glov'; did you mean glove"):
        wire(make(weak="nested(judge='glov')"))
    with pytest.raises(UserError, match="critiques"):
        wire(make(weak="nested(critiques='honst')"))
