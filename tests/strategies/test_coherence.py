"""Internal coherence maximization: the search against brute force and a slow score, prompts against a plain loop."""

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import MakeExperiment
from outgrow import steps
from outgrow.data import Examples
from outgrow.engine.graph import Step, in_order
from outgrow.engine.store import Store
from outgrow.errors import UserError
from outgrow.experiment import Experiment, open_store, run_steps, wire
from outgrow.models.transformer import load_language_model, load_tokenizer
from outgrow.runtime import Runtime
from outgrow.strategies.coherence import ICM, _Reader, anneal

CPU = Runtime(device="cpu", offline=True, say=lambda line: None)
SMALL = "icm(rows=6, context=2, updates=8, first=3)"
Question = tuple[int, tuple[tuple[int, int], ...]]


def student(experiment: Experiment) -> Step:
    return wire(experiment).args["student"][0]  # type: ignore[no-any-return]


class Magnets:
    """A made-up model: rows pull each other to the same class or apart, at random and as a hidden truth would."""

    def __init__(self, num_rows: int, num_classes: int, seed: int, truth: float = 0.0) -> None:
        rng = np.random.default_rng(seed)
        pull = rng.normal(size=(num_rows, num_rows))
        self.truth = rng.integers(num_classes, size=num_rows)
        same = self.truth[:, None] == self.truth
        self.pull = pull + pull.T + truth * np.where(same, 1.0, -1.0)
        self.lean = rng.normal(size=(num_rows, num_classes)) + truth / 4 * np.eye(num_classes)[self.truth]
        self.num_rows, self.num_classes, self.calls = num_rows, num_classes, 0

    def one(self, i: int, others: Sequence[tuple[int, int]]) -> Any:
        logits = self.lean[i].copy()
        for j, label in others:
            logits[label] += self.pull[i, j]
        return logits - np.log(np.exp(logits).sum())

    def __call__(self, questions: Sequence[Question]) -> Any:
        self.calls += len(questions)
        return np.stack([self.one(i, others) for i, others in questions])

    def score(self, labels: Sequence[int], neighbours: Any) -> float:
        """Mutual predictability, slowly."""
        terms: list[float] = [
            self.one(i, [(j, labels[j]) for j in neighbours[i] if labels[j] >= 0])[labels[i]]
            for i in range(self.num_rows)
            if labels[i] >= 0
        ]
        return float(sum(terms)) / len(terms)


def everyone(num_rows: int) -> Any:
    return np.stack([np.delete(np.arange(num_rows), i) for i in range(num_rows)])


@pytest.mark.parametrize("num_classes", [2, 3])
def test_annealing_finds_the_most_coherent_labels(num_classes: int) -> None:
    """The best of all there are, in most worlds where rows know of each other; elsewhere better than most. Where no
    row alone would change its mind the search stays, as the paper's does."""
    best, rank = 0, []
    for seed in range(10):
        for truth in (4.0, 0.0):
            world, neighbours = Magnets(5, num_classes, seed, truth), everyone(5)
            found = anneal(world, neighbours, num_classes, ICM(rows=5, updates=200, first=2, context=4), seed)
            scores = np.array([world.score(y, neighbours) for y in product(range(num_classes), repeat=5)])
            above = float((scores > world.score(found.tolist(), neighbours) + 1e-9).mean())
            best += truth > 0 and above == 0
            rank.append(above)
    assert best >= 3  # a random labelling: none
    assert np.mean(rank) < 0.1


@given(st.integers(2, 9), st.integers(2, 3), st.integers(1, 8), st.integers(1, 12), st.integers(0, 99))
@settings(deadline=None)
def test_every_row_gets_a_label_or_waits_its_turn(rows: int, classes: int, context: int, first: int, seed: int) -> None:
    neighbours = everyone(rows)[:, :context]
    search = ICM(rows=rows, context=context, first=first, updates=4 * rows)
    world = Magnets(rows, classes, seed)
    found = anneal(world, neighbours, classes, search, seed)
    assert found.shape == (rows,)
    assert ((found >= -1) & (found < classes)).all()
    assert (found >= 0).sum() >= min(first, rows)
    assert np.array_equal(found, anneal(Magnets(rows, classes, seed), neighbours, classes, search, seed))
    # What the class says of its cost: each update asks for its row and those that are read after it.
    most = int(np.bincount(neighbours.ravel(), minlength=rows).max())
    assert world.calls <= rows + search.updates * (most + 2)


def test_cold_and_without_chance_only_what_is_better_stands() -> None:
    """At alpha so large that heat is nothing, the score never falls while no row is waiting."""
    world, neighbours = Magnets(7, 2, 1), everyone(7)
    search = ICM(rows=7, context=6, first=7, alpha=1e9)
    ends = [anneal(world, neighbours, 2, ICM(**{**vars(search), "updates": n}), 3) for n in range(1, 30)]
    scores = [world.score(labels.tolist(), neighbours) for labels in ends]
    assert scores == sorted(scores)
    assert scores[-1] > scores[0]


# --- the model's part -------------------------------------------------------------------------------------------------


def texts(*inputs: Any) -> Examples:
    ids = np.array([f"r{i}" for i in range(len(inputs))])
    classes = ("bad", "good") if isinstance(inputs[0], str) else tuple(map(str, range(len(inputs[0]))))
    return Examples(ids=ids, inputs=inputs, gold=None, classes=classes, groups=ids)


class _Spec:
    precision = "fp32"

    def __init__(self, folder: Path) -> None:
        self.place = folder

    def folder(self, runtime: Runtime) -> Path:
        return self.place


def plain(writer: Path, prompt: str, words: Sequence[str]) -> Any:
    """Log-probabilities of single-token words after a prompt, one row at a time."""
    model, tokenizer = load_language_model(writer).eval(), load_tokenizer(writer)
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([tokenizer(prompt)["input_ids"]])).logits[0, -1]
    told = logits[[tokenizer.convert_tokens_to_ids(w) for w in words]].double().log_softmax(0)
    return told.numpy()


def test_rows_are_read_after_others_with_their_labels(writer: Path) -> None:
    shown = texts("w1 w2 w3", "w4", "w5 w6")
    search = ICM(prompt="w7 {text} w8 {label}", max_tokens=2)
    reader = _Reader(_Spec(writer), shown, search, CPU)  # type: ignore[arg-type]
    found = reader.logs([("w9", ((0, 1), (2, 0))), ("w4", ())])
    first = plain(writer, "w7 w1 w2 w8 good\n\nw7 w5 w6 w8 bad\n\nw7 w9 w8", ["bad", "good"])
    assert np.allclose(found, [first, plain(writer, "w7 w4 w8", ["bad", "good"])], atol=1e-4)


def test_of_a_choice_exactly_one_candidate_is_right(writer: Path) -> None:
    """The probability that one is right and all others wrong, among the C ways that this can be."""
    shown = texts(("w1", "w2", "w3"), ("w4", "w5", "w6"))
    search = ICM(claim="{text} w8 {label}")
    reader = _Reader(_Spec(writer), shown, search, CPU)  # type: ignore[arg-type]
    (found,) = reader.logs([(shown.readings[1], ((0, 2),))])
    before = "w1 w8 no\n\nw2 w8 no\n\nw3 w8 yes\n\n"
    no, yes = np.stack([plain(writer, f"{before}{w} w8", ["no", "yes"]) for w in ("w4", "w5", "w6")]).T
    ways = np.array([yes[c] + sum(no[k] for k in range(3) if k != c) for c in range(3)])
    assert np.allclose(found, ways - np.log(np.exp(ways).sum()), atol=1e-4)


@pytest.mark.parametrize(
    "task",
    ["words(rows=120)", "words(rows=120, classes=3)", "chosen-words(candidates=2)", "chosen-words(candidates=3)"],
)
def test_it_runs_and_twice_the_same(make: MakeExperiment, writer: Path, tmp_path: Path, task: str) -> None:
    shared = {"task": task, "strong": str(writer), "seeds": (0,), "ceiling": False}
    experiment = make(strategy=SMALL, **shared)
    results = []
    for name in ("a", "b"):
        store = open_store(str(tmp_path / name))
        (target,), _ = run_steps([experiment], store, CPU)
        results.append(store.read(target))
    assert results[0] == results[1]
    step = student(experiment)
    found, split = store.read(step.args["found"]), store.read(step.args["split"])
    assert set(found.ids) <= set(split.parts["B"])
    assert len(found) <= 6
    assert np.array_equal(store.read(step).ids, split.parts["T"])


def test_no_label_of_anyone_is_used(make: MakeExperiment, writer: Path) -> None:
    behind = in_order([student(make(strategy="icm", strong=str(writer)))])
    assert not any(s.fn is steps.gold for s in behind)
    assert {s.fn for s in behind} & {steps.fit_probe, steps.predict_probe, steps.finetune} == set()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"strategy": "icm"}, "is no language model"),
        ({"strategy": "icm(context=0)"}, "context of icm is 0"),
        ({"strategy": "icm(cold=20.0)"}, "must not lie above hot"),
        ({"strategy": "icm(claim='{text}')"}, "end with {label}"),
    ],
)
def test_what_cannot_be_is_said_at_once(make: MakeExperiment, change: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said) as error:
        wire(make(**change))
    assert "\n" not in str(error.value)


def test_a_small_part_is_labelled_as_far_as_it_goes(make: MakeExperiment, writer: Path, store: Store) -> None:
    experiment = make(task="words(rows=60)", strategy="icm(context=2, updates=2)", strong=str(writer), seeds=(0,))
    run_steps([experiment], store, CPU)
    step = student(experiment)
    assert set(store.read(step.args["found"]).ids) <= set(store.read(step.args["split"]).parts["B"])
