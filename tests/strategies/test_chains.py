"""Chains of students and their controls: a chain of none is naive, shares are the rows of B, matched is matched."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import MakeExperiment
from outgrow import steps
from outgrow.data import Examples, Labels, Split
from outgrow.engine.graph import Step, in_order
from outgrow.engine.store import Store
from outgrow.errors import UserError
from outgrow.experiment import Experiment, open_store, run_steps, wire
from outgrow.labels import KeepConfident
from outgrow.runtime import Runtime
from outgrow.steps.answers import finetune_lm, gold_answers
from outgrow.strategies.chains import as_accurate, share_of_b, some_of_a
from tiny_models import make_model

CPU = Runtime(device="cpu", offline=True)
PROBE = "probe(epochs=6, lr=0.03)"
FINETUNE = "finetune(epochs=1, lr=0.01, batch_size=16, checks=1)"
BOTH = pytest.mark.parametrize("train", [PROBE, FINETUNE])


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model between supervisor and student."""
    return str(make_model(tmp_path_factory.mktemp("between") / "bert", "bert", layers=1))


def student(experiment: Experiment) -> Step:
    return wire(experiment).args["student"][0]  # type: ignore[no-any-return]


def run(store: Store, *experiments: Experiment) -> list[Any]:
    targets, _ = run_steps(experiments, store, CPU)
    return [store.read(t) for t in targets]


def fits(target: Step) -> list[Step]:
    return [s for s in in_order([target]) if s.fn in (steps.fit_probe, steps.finetune)]


# --- neutral settings -------------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize(
    "spelled",
    [
        "bootstrap",
        "bootstrap(fresh=True)",
        "direct",
        "direct(shares=1)",
        "refine(rounds=0)",
        "refine(rounds=0, keep=0.5)",
    ],
)
def test_no_chain_is_naive(make: MakeExperiment, spelled: str, train: str) -> None:
    """The very same step, so bitwise the same student."""
    assert student(make(strategy=spelled, train=train)).key == student(make(train=train)).key


# --- wiring -----------------------------------------------------------------------------------------------------------


@BOTH
def test_each_model_of_a_chain_learns_from_the_one_before(make: MakeExperiment, other: str, train: str) -> None:
    target = wire(make(strategy=f"bootstrap(through=({other!r}, {other!r}))", train=train))
    made, weak = target.args["student"][0], target.args["weak"][0]
    chain = []
    while made.key != weak.key:
        fitted = made.args["fitted"]
        chain.append(fitted)
        assert fitted.args["part"] == "B"
        made = fitted.args["labels"]
    assert len(chain) == 3
    names = [f.args["features"].args["model"] if f.fn is steps.fit_probe else f.args["model"] for f in chain]
    assert [str(n) == other for n in names] == [False, True, True]


def test_direct_has_the_rows_of_the_last_stage_of_a_fresh_chain(make: MakeExperiment, other: str) -> None:
    last = student(make(strategy=f"bootstrap(through=({other!r},), fresh=True)")).args["fitted"]
    control = student(make(strategy="direct(shares=2)")).args["fitted"]
    assert last.args["split"].key == control.args["split"].key
    assert {k for k in last.args if str(last.args[k]) != str(control.args[k])} == {"labels"}


def test_rounds_of_refinement_are_fresh_students(make: MakeExperiment) -> None:
    made = student(make(strategy="refine(rounds=2)"))
    trained = [f for f in fits(made) if f.args["part"] == "B"]
    assert len(trained) == 3
    assert len({str({k: v for k, v in f.args.items() if k != "labels"}) for f in trained}) == 1


@pytest.mark.parametrize("classes", [2, 3])
def test_chains_of_probes_run_and_twice_the_same(
    make: MakeExperiment, other: str, tmp_path: Path, classes: int
) -> None:
    through, task = f"through=({other!r},)", f"words(rows=1440, classes={classes})"
    chains = (f"bootstrap({through}, fresh=True)", f"bootstrap({through})", f"gold-matched({through})")
    spelled = (*chains, "direct(shares=2)", "refine(rounds=2, keep=0.7)")
    experiments = [make(task=task, strategy=s, seeds=(0,)) for s in spelled]
    first, second = (run(open_store(str(tmp_path / name)), *experiments) for name in ("a", "b"))
    assert first == second
    for found in first:
        assert found["num_classes"] == classes
    assert np.mean([found["student"]["accuracy"][0] for found in first]) > 1 / classes


def test_chains_of_finetuned_models_run(make: MakeExperiment, other: str, store: Store) -> None:
    spelled = (f"bootstrap(through=({other!r},), fresh=True)", "refine(keep=0.7)")
    shared = {"task": "words(rows=120, classes=3)", "train": FINETUNE, "seeds": (0,), "ceiling": False}
    for found in run(store, *(make(strategy=s, **shared) for s in spelled)):
        assert found["num_classes"] == 3


def test_kept_rows_are_the_surest_of_the_round_before(make: MakeExperiment, store: Store) -> None:
    experiment = make(strategy="refine(rounds=1, keep=0.5)", seeds=(0,))
    run(store, experiment)
    fitted = student(experiment).args["fitted"]
    kept, said = store.read(fitted.args["labels"]), store.read(fitted.args["labels"].args["labels"])
    surest = KeepConfident(share=0.5)
    assert fitted.args["labels"].args["transform"] == surest
    assert len(kept) == pytest.approx(len(said) / 2, abs=2)


# --- steps ------------------------------------------------------------------------------------------------------------


def pool(groups: list[int]) -> tuple[Examples, Split]:
    n = len(groups)
    ids = np.array([f"r{i}" for i in range(n)])
    names = np.array([f"g{g}" for g in groups])
    made = Examples(ids=ids, inputs=("x",) * n, gold=None, classes=("a", "b"), groups=names)
    parts = {"A": ids[:0], "A_val": ids[:0], "B": ids[: n - n // 4], "B_val": ids[n - n // 4 :], "T": ids[:0]}
    return made, Split(parts=parts)


@given(st.lists(st.integers(0, 400), min_size=60, max_size=120), st.integers(1, 4))
def test_shares_are_the_rows_of_b_each_once_and_keep_groups_together(groups: list[int], shares: int) -> None:
    texts, split = pool(groups)
    cut = [share_of_b(texts, split, shares, i) for i in range(shares)]
    for part in ("B", "B_val"):
        assert sorted(np.concatenate([c.parts[part] for c in cut])) == sorted(split.parts[part])
    where: dict[str, set[int]] = {}
    for i, c in enumerate(cut):
        for name in texts.take(c.parts["B"]).groups:
            where.setdefault(str(name), set()).add(i)
    assert all(len(places) == 1 for places in where.values())
    largest = max(np.unique(texts.groups, return_counts=True)[1])
    sizes = [len(c.parts["B"]) for c in cut]
    assert max(sizes) - min(sizes) <= 2 * largest


def test_a_share_depends_on_groups_and_not_on_the_order_of_rows() -> None:
    texts, split = pool(list(range(80)))
    turned = texts.take(texts.ids[::-1])
    other = Split(parts={k: v[::-1] for k, v in split.parts.items()})
    assert set(share_of_b(texts, split, 3, 1).parts["B"]) == set(share_of_b(turned, other, 3, 1).parts["B"])


def test_too_many_shares_are_refused() -> None:
    texts, split = pool([0] * 8)
    with pytest.raises(UserError, match="too few groups"):
        share_of_b(texts, split, 2, 0)


def test_smaller_shares_of_a_lie_within_larger_ones() -> None:
    ids = np.array([f"a{i}" for i in range(64)])
    split = Split(parts={"A": ids, "T": np.array(["t"])})
    sets = [set(some_of_a(split, share, seed=3).parts["A"]) for share in (1 / 32, 1 / 4, 1.0)]
    assert sets[0] < sets[1] < sets[2] == set(ids)
    assert [len(s) for s in sets] == [2, 16, 64]


def test_the_nearest_in_accuracy_is_taken() -> None:
    ids = np.array([f"a{i}" for i in range(10)])
    gold = Labels.from_classes(ids, np.zeros(10, dtype=np.int64), 2, "gold")

    def right(count: int) -> Labels:
        return Labels.from_classes(ids, (np.arange(10) >= count).astype(np.int64), 2, str(count))

    held_out = tuple(map(right, (3, 6, 9)))
    for wanted, chosen in ((4, "3"), (5, "6"), (7, "6"), (10, "9")):
        assert as_accurate(gold, right(wanted), held_out, held_out).source == chosen


# --- what cannot be ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"strategy": "bootstrap(through=('minilm',))"}, "did you mean minilm-l"),
        ({"strategy": "bootstrap(through=('glove',))", "train": "finetune"}, "cannot be finetuned"),
        ({"strategy": "bootstrap(through=('pixels',))"}, "reads images"),
        ({"strategy": "gold-matched"}, "name the chain's models"),
        ({"strategy": "gold-matched(through=('glove',))", "weak": "errors"}, "the supervisor is no model"),
        ({"strategy": "direct(shares=0)"}, "at 1 or above"),
        ({"strategy": "refine(rounds=-1)"}, "at 0 or above"),
        ({"strategy": "refine(keep=0.0)"}, r"in \(0, 1\]"),
    ],
)
def test_what_cannot_be_is_said_at_once(make: MakeExperiment, change: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said) as error:
        wire(make(**change))
    assert "\n" not in str(error.value)


# --- written answers --------------------------------------------------------------------------------------------------

LICHESS = Path(__file__).parents[1] / "rows" / "lichess_puzzles.csv"


@pytest.mark.parametrize("strategy", ["bootstrap", "refine"])
def test_chains_go_with_written_answers(make: MakeExperiment, writer: Path, store: Store, strategy: str) -> None:
    """Chess, where the paper's chains were: the models between write the next one's lessons."""
    spelled = f"bootstrap(through=({str(writer)!r},), fresh=True)" if strategy == "bootstrap" else "refine"
    task = f"chess-puzzles(path={str(LICHESS)!r}, form='move', position='pieces', notation='uci')"
    train = "generate(epochs=1, max_tokens=64, max_answer=6)"
    rows = {"supervisor_rows": 7, "transfer_rows": 7, "test_rows": 7, "validation": 0.0, "seeds": (0,)}
    experiment = make(
        task=task, weak=str(writer), strong=str(writer), train=train, weak_train=None, strategy=spelled, **rows
    )
    (found,) = run(store, experiment)
    assert 0 <= found["student"]["accuracy"][0] <= 1
    assert found["reading"].keys() == {"weak", "student"}  # prompts are cut to their last tokens
    assert all(counts["max_tokens"] == 64 - 6 and counts["texts"] > 20 for counts in found["reading"].values())
    behind = in_order([student(experiment)])
    assert {p for s in behind if s.fn is gold_answers for p in s.args["parts"]} == {"A", "A_val"}
    trained = [s.args["split"].key for s in behind if s.fn is finetune_lm]
    assert len(trained) == 3
    assert len(set(trained)) == (3 if strategy == "bootstrap" else 1)


@pytest.mark.parametrize(
    "strategy", ["refine(keep=0.5)", "ensemble", "regularised", "gold-matched(through=('glove',))"]
)
def test_what_needs_probabilities_is_refused_written_answers(make: MakeExperiment, writer: Path, strategy: str) -> None:
    task = f"chess-puzzles(path={str(LICHESS)!r}, form='move', position='pieces', notation='uci')"
    with pytest.raises(UserError, match="generate writes answers"):
        wire(
            make(task=task, weak=str(writer), strong=str(writer), train="generate", weak_train=None, strategy=strategy)
        )
