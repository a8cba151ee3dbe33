"""Prompts and structure in features: probabilities equal a reference, examples are rows of A or B, a bit is a bit."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from conftest import MakeExperiment
from outgrow import steps
from outgrow.data import Features, Labels, Split
from outgrow.engine import runner
from outgrow.engine.graph import Step, in_order
from outgrow.engine.runner import StepsFailed
from outgrow.engine.store import Store
from outgrow.errors import UserError
from outgrow.experiment import Experiment, open_store, run_steps, wire
from outgrow.models.transformer import load_language_model, load_tokenizer
from outgrow.runtime import Runtime
from outgrow.strategies.prompts import (
    draw_shots,
    inconsistency,
    search_consistent,
    top_component,
    word_log_probs,
)

CPU = Runtime(device="cpu", offline=True, say=lambda line: None)
TEXTS = ["w1 good w2", "w3", "", "bad w5 w6 w7 w8"]


def student(experiment: Experiment) -> Step:
    return wire(experiment).args["student"][0]  # type: ignore[no-any-return]


def run(store: Store, *experiments: Experiment) -> list[Any]:
    targets, _ = run_steps(experiments, store, CPU)
    return [store.read(t) for t in targets]


# --- prompts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["w4 ", "w4"])
def test_log_probabilities_of_words_are_those_of_one_row_at_a_time(writer: Path, ending: str) -> None:
    """Words of one and of two tokens, batched and padded, against a plain loop."""
    model, tokenizer = load_language_model(writer).eval(), load_tokenizer(writer)
    words = ["good", "bad yes"] if ending.endswith(" ") else [" good", " bad yes"]
    prompts = [f"{text} {ending}" for text in TEXTS]
    found = word_log_probs(model, tokenizer, prompts, words, CPU)
    for i, prompt in enumerate(prompts):
        for c, word in enumerate(words):
            row = tokenizer(prompt + word)["input_ids"]
            count = len(word.split())
            with torch.inference_mode():
                logs = model(input_ids=torch.tensor([row])).logits[0].log_softmax(dim=-1)
            wanted = sum(float(logs[len(row) - count + k - 1, row[len(row) - count + k]]) for k in range(count))
            assert found[i, c] == pytest.approx(wanted, abs=1e-4)
    few = word_log_probs(model, tokenizer, prompts, words, Runtime(device="cpu", tokens_at_once=1))
    assert np.allclose(found, few, atol=1e-4)


def test_all_words_of_the_vocabulary_share_one(writer: Path) -> None:
    model, tokenizer = load_language_model(writer).eval(), load_tokenizer(writer)
    words = [f" {word}" for word in tokenizer.get_vocab() if word != "[SEP]"]
    found = word_log_probs(model, tokenizer, ["w1 w2"], words, CPU)
    with torch.inference_mode():
        ids = torch.tensor([tokenizer("w1 w2")["input_ids"]])
        end = model(input_ids=ids).logits[0, -1].softmax(dim=-1)[tokenizer.eos_token_id]
    assert np.exp(found).sum() + float(end) == pytest.approx(1, abs=1e-4)


def test_no_examples_is_zero_shot(make: MakeExperiment, writer: Path) -> None:
    """The very same step, so bitwise the same student; for gold of A too."""
    keys = {
        student(make(strategy=s, strong=str(writer))).key
        for s in ("zero-shot", "few-shot(shots=0)", "few-shot(shots=0, labels='gold')")
    }
    assert len(keys) == 1


def test_zero_shot_takes_nothing_of_any_label(make: MakeExperiment, writer: Path) -> None:
    behind = in_order([student(make(strategy="zero-shot", strong=str(writer)))])
    assert not any(s.fn is steps.gold for s in behind)


@pytest.mark.parametrize(("labels", "part"), [("weak", "B"), ("gold", "A")])
def test_examples_come_from_where_they_should(
    make: MakeExperiment, writer: Path, store: Store, labels: str, part: str
) -> None:
    experiment = make(strategy=f"few-shot(shots=5, labels={labels!r})", strong=str(writer), seeds=(0,))
    run(store, experiment)
    drawn = student(experiment).args["shots"]
    shots, source = store.read(drawn), store.read(drawn.args["labels"])
    assert len(shots) == 5
    assert set(shots.ids) <= set(store.read(drawn.args["split"]).parts[part])
    assert np.array_equal(shots.hard, source.take(shots.ids).hard)
    assert sorted(np.bincount(shots.hard, minlength=2)) == [2, 3]


@given(st.lists(st.integers(0, 2), min_size=4, max_size=30), st.integers(0, 12), st.integers(0, 5))
def test_examples_are_as_even_as_can_be_and_each_comes_once(classes: list[int], count: int, seed: int) -> None:
    ids = np.array([f"r{i}" for i in range(len(classes))])
    labels = Labels.from_classes(ids, np.array(classes), 3, "made up")
    shots = draw_shots(labels, Split(parts={"B": ids}), "B", count, seed)
    assert len(shots) == len(set(shots.ids)) == min(count, len(ids))
    have, there = np.bincount(shots.hard, minlength=3), np.bincount(classes, minlength=3)
    for a in range(3):
        for b in range(3):
            assert have[a] <= have[b] + 1 or have[b] == there[b]
    assert np.array_equal(shots.ids, draw_shots(labels, Split(parts={"B": ids}), "B", count, seed).ids)


@pytest.mark.parametrize("classes", [2, 3])
def test_all_run_and_twice_the_same(make: MakeExperiment, writer: Path, tmp_path: Path, classes: int) -> None:
    spelled = ("zero-shot", "zero-shot(calibrated=False, words=('w1', 'w2', 'w3 w4'))", "few-shot(shots=3)",
               "few-shot(labels='gold')", "ccs(restarts=2, updates=30)", "crc(view='mean')")  # fmt: skip
    shared = {"task": f"words(rows=120, classes={classes})", "strong": str(writer), "seeds": (0,), "ceiling": False}
    experiments = [make(strategy=s, **shared) for s in spelled if classes == 3 or "words" not in s]
    first, second = (run(open_store(str(tmp_path / name)), *experiments) for name in ("a", "b"))
    assert first == second
    assert all(found["num_classes"] == classes for found in first)


def test_an_encoder_does_for_statements(make: MakeExperiment, store: Store) -> None:
    for found in run(store, *(make(strategy=s, seeds=(0,), ceiling=False) for s in ("ccs(updates=30)", "crc"))):
        assert 0 <= found["student"]["accuracy"][0] <= 1


# --- structure in features --------------------------------------------------------------------------------------------


def world(classes: int, seed: int = 0, noise: float = 0.5) -> tuple[Features, Labels, Split, Any]:
    """Statements that hold truth along one direction, the class word along others, and noise."""
    rng = np.random.default_rng(seed)
    n, d = 300, 12
    gold = rng.integers(classes, size=n)
    truth, word = rng.standard_normal(d), 4 * rng.standard_normal((classes, d))
    said = np.where(np.arange(classes) == gold[:, None], 1.0, -1.0)[..., None] * truth
    x = (said + word + noise * rng.standard_normal((n, classes, d))).astype(np.float32)
    ids = np.array([f"r{i}" for i in range(n)])
    weak = np.where(rng.random(n) < 0.7, gold, rng.integers(classes, size=n))
    split = Split(parts={"B": ids[:200], "T": ids[200:]})
    return Features(ids=ids, views={"mean": x}), Labels.from_classes(ids, weak, classes, "weak"), split, gold[200:]


@pytest.mark.parametrize("classes", [2, 3, 4])
def test_truth_is_found_where_it_is(classes: int) -> None:
    features, weak, split, gold = world(classes)
    search = {"restarts": 4, "updates": 300, "lr": 0.01, "decay": 0.01}
    for found in (
        search_consistent(features, weak, split, "mean", **search, seed=0),  # type: ignore[arg-type]
        top_component(features, weak, split, "mean"),
    ):
        assert (found.hard == gold).mean() > 0.9


def test_the_weak_labels_are_one_bit() -> None:
    """Other weak labels of the same bent change nothing; opposite ones turn two classes round."""
    features, weak, split, _ = world(2)
    noisier = Labels.from_classes(weak.ids, np.where(np.arange(300) % 5 == 0, 1 - weak.hard, weak.hard), 2, "weak")
    opposite = Labels.from_classes(weak.ids, 1 - weak.hard, 2, "weak")

    def components(labels: Labels) -> Labels:
        return top_component(features, labels, split, "mean")

    def searched(labels: Labels) -> Labels:
        return search_consistent(features, labels, split, "mean", 3, 300, 0.01, 0.01, 0)

    for find in (components, searched):
        found = find(weak)
        assert np.array_equal(find(noisier).probs, found.probs)
        assert np.array_equal(find(opposite).hard, 1 - found.hard)


@given(st.floats(0, 1), st.floats(0, 1))
def test_the_loss_of_two_classes_is_the_papers(yes: float, no: float) -> None:
    wanted = (yes - (1 - no)) ** 2 + min(yes, no) ** 2
    assert float(inconsistency(torch.tensor([[yes, no]], dtype=torch.float64))) == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_one_true_statement_is_consistent_and_nothing_else(classes: int) -> None:
    for number in range(2**classes):
        truths = torch.tensor([[float(number >> c & 1) for c in range(classes)]])
        assert (float(inconsistency(truths)) == 0) == (number.bit_count() == 1)


# --- what cannot be ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"strategy": "zero-shot"}, "is no language model"),
        ({"strategy": "few-shot", "strong": "minilm-l6"}, "such as smollm2-135m"),
        ({"strategy": "zero-shot(prompt='{text}')"}, "end with {label}"),
        ({"strategy": "few-shot(shots=-1)"}, "at 0 or above"),
        ({"strategy": "few-shot(labels='own')"}, "known: gold, weak"),
        ({"strategy": "few-shot(labels='gold')", "weak": "errors", "strong": "smollm2-135m"}, "is no model"),
        ({"strategy": "ccs", "strong": "glove"}, "adds the same to every text"),
        ({"strategy": "crc(view='last')"}, "last_token"),
        ({"strategy": "ccs(prompt='{text}')"}, "once each"),
        ({"strategy": "ccs(restarts=0)"}, "at 1 or above"),
    ],
)
def test_what_cannot_be_is_said_at_once(make: MakeExperiment, change: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said) as error:
        wire(make(**change))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("spelled", "said"),
    [("zero-shot(words=('w1',))", "1 label words for 2 classes"), ("few-shot(shots=40)", "the model takes 128")],
)
def test_what_only_the_data_can_tell_is_said_when_it_runs(
    make: MakeExperiment, writer: Path, store: Store, spelled: str, said: str
) -> None:
    with pytest.raises(StepsFailed, match=said) as failed:
        run(store, make(strategy=spelled, strong=str(writer), seeds=(0,), ceiling=False))
    assert failed.value.by_user


# --- what is cut ------------------------------------------------------------------------------------------------------


def test_what_prompts_and_answers_cut_is_counted(make: MakeExperiment, writer: Path, store: Store) -> None:
    """Each by what the strategy reads itself, whatever the trainer would read."""
    cases = {
        "naive": 0,
        "zero-shot(words=('good', 'bad'), max_tokens={})": 1,
        "few-shot(shots=1, words=('good', 'bad'), max_tokens={})": 1,
        "ccs(restarts=1, updates=1, max_tokens={})": 1,
        "crc(max_tokens={})": 1,
        "icm(rows=4, context=1, updates=1, first=1, max_tokens={})": 1,
    }
    for spelled, cuts in cases.items():
        for most in (2, 200) if cuts else (200,):
            made = make(strong=str(writer), strategy=spelled.format(most), seeds=(0,))
            step = wire(made).args["reading"]["student"]
            counts = run_one(store, step)
            assert (counts["cut"] > 0) == (most == 2)
            assert counts["texts"] >= counts["cut"]
            assert spelled == "naive" or counts["max_tokens"] == most


def run_one(store: Store, step: Step) -> dict[str, int]:
    runner.run([step], store, CPU)
    return store.read(step)  # type: ignore[no-any-return]
