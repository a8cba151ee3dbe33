"""Several supervisors: one is naive, SAMME is scikit-learn's, trust follows accuracy, and gold of A is all they see."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.ensemble import AdaBoostClassifier
from sklearn.tree import DecisionTreeClassifier

from conftest import MakeExperiment
from outgrow import steps
from outgrow.data import Labels, Split
from outgrow.engine.graph import Step, in_order
from outgrow.engine.store import Store
from outgrow.errors import UserError
from outgrow.experiment import Experiment, open_store, run_steps, wire
from outgrow.runtime import Runtime
from outgrow.strategies.ensembles import assign, boost, cluster_of_a, draw, draw_hard, samme, trusted, unanimous
from outgrow.supervisors import SUPERVISORS

CPU = Runtime(device="cpu", offline=True)
PROBE = "probe(epochs=6, lr=0.03)"
FINETUNE = "finetune(epochs=1, lr=0.01, batch_size=16, checks=1)"
NAMES = ("ensemble", "boosted", "co-supervised", "raven")


def student(experiment: Experiment) -> Step:
    return wire(experiment).args["student"][0]  # type: ignore[no-any-return]


def run(store: Store, *experiments: Experiment) -> list[Any]:
    targets, _ = run_steps(experiments, store, CPU)
    return [store.read(t) for t in targets]


def labels(probs: Any, first: int = 0) -> Labels:
    ids = np.array([f"r{i}" for i in range(first, first + len(probs))])
    return Labels(ids=ids, probs=np.asarray(probs, dtype=np.float32), source="made up")


# --- one is naive -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("train", [PROBE, FINETUNE])
@pytest.mark.parametrize(
    "spelled", ["ensemble(size=1)", "ensemble(size=1, by=DawidSkene)", "ensemble(size=1, kind='seeds')",
                "boosted(size=1)", "raven(size=1)", "raven(size=1, rounds=0)", "co-supervised(rounds=0)"],
)  # fmt: skip
def test_an_ensemble_of_one_is_naive(make: MakeExperiment, spelled: str, train: str) -> None:
    """The very same step, so bitwise the same student."""
    assert student(make(strategy=spelled, train=train)).key == student(make(train=train)).key


def test_raven_without_rounds_is_the_mean_of_an_ensemble(make: MakeExperiment) -> None:
    assert student(make(strategy="raven(rounds=0)")).key == student(make(strategy="ensemble")).key


# --- whole experiments ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [2, 3])
def test_all_run_and_twice_the_same(make: MakeExperiment, model: Path, tmp_path: Path, classes: int) -> None:
    spelled = (
        "ensemble(size=3)", f"ensemble(size=2, kind='seeds', models=({str(model)!r},), by=DawidSkene)",
        "boosted(size=3)", "boosted(size=2, hard=True)", "co-supervised(rounds=2)", "raven(size=3)",
    )  # fmt: skip
    experiments = [make(task=f"words(rows=360, classes={classes})", strategy=s, seeds=(0,)) for s in spelled]
    first, second = (run(open_store(str(tmp_path / name)), *experiments) for name in ("a", "b"))
    assert first == second
    for found in first:
        assert found["num_classes"] == classes
    assert np.mean([found["student"]["accuracy"][0] for found in first]) > 1 / classes


def test_finetuned_supervisors_run(make: MakeExperiment, store: Store) -> None:
    shared = {
        "task": "words(rows=120, classes=3)",
        "train": FINETUNE,
        "weak_train": None,
        "seeds": (0,),
        "ceiling": False,
    }
    experiments = [make(strategy=s, **shared) for s in ("ensemble(size=2)", "boosted(size=2)", "co-supervised(size=2)")]
    for found in run(store, *experiments):
        assert found["num_classes"] == 3


@pytest.mark.parametrize("name", NAMES)
def test_members_see_gold_of_a_and_no_other(make: MakeExperiment, name: str) -> None:
    gold = [s for s in in_order([student(make(strategy=name))]) if s.fn is steps.gold]
    assert {s.args["parts"] for s in gold} == {("A", "A_val")}


# --- boosting ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_classes", [2, 3, 4])
@pytest.mark.filterwarnings("ignore")
def test_samme_is_that_of_scikit_learn(num_classes: int) -> None:
    """Errors, votes and weights of scikit-learn's AdaBoost, from its members' predictions alone."""
    rng = np.random.default_rng(num_classes)
    gold = np.arange(240) % num_classes
    x = np.eye(num_classes)[gold] + rng.normal(0, 1.0, size=(240, num_classes))
    theirs = AdaBoostClassifier(DecisionTreeClassifier(max_depth=1, random_state=0), n_estimators=6, random_state=0)
    theirs.fit(x, gold)
    assert len(theirs.estimators_) == 6
    answers = np.stack([member.predict(x) for member in theirs.estimators_])
    votes, weights = samme(answers != gold, num_classes)
    assert votes == pytest.approx(theirs.estimator_weights_)
    for m in range(6):
        _, before = samme(answers[:m] != gold, num_classes)
        assert before[answers[m] != gold].sum() == pytest.approx(theirs.estimator_errors_[m])
    ids = labels(np.eye(num_classes)[gold])
    voted = boost(ids, *(tuple(labels(np.eye(num_classes)[a]) for a in answers),) * 2, hard=True)
    scores = np.einsum("m,mnc->nc", votes, np.eye(num_classes)[answers])
    clear = np.sort(scores, axis=1)[:, -1] - np.sort(scores, axis=1)[:, -2] > 1e-9
    assert (voted.hard == theirs.predict(x))[clear].all()
    assert weights.sum() == pytest.approx(1)


@given(st.integers(2, 5), st.integers(1, 40))
def test_after_boosting_the_last_member_is_at_chance(num_classes: int, missed: int) -> None:
    """What alpha is for: on the new weights the member's error is 1 - 1/C."""
    wrong = np.zeros((1, 100), dtype=bool)
    wrong[0, :missed] = True
    votes, weights = samme(wrong, num_classes)
    assert votes[0] > 0
    assert weights[wrong[0]].sum() == pytest.approx(1 - 1 / num_classes)


def test_a_member_at_chance_or_without_fault() -> None:
    at_chance, faultless = np.zeros((1, 10), dtype=bool), np.zeros((1, 10), dtype=bool)
    at_chance[0, :5] = True
    votes, weights = samme(at_chance, 2)
    assert votes == [0]
    assert weights == pytest.approx(np.full(10, 0.1))
    votes, weights = samme(faultless, 2)
    assert votes == pytest.approx(np.log(19))
    assert weights == pytest.approx(np.full(10, 0.1))
    assert samme(~faultless, 2)[0] == [0]


def test_hard_rows_are_drawn_more_often() -> None:
    gold = labels(np.eye(2)[np.zeros(100, dtype=int)])
    split = Split(parts={"A": gold.ids, "T": np.array(["t"])})
    wrong = np.zeros(100, dtype=int)
    wrong[:10] = 1
    drawn = draw_hard(gold, split, (labels(np.eye(2)[wrong]),), seed=0)
    assert len(drawn) == 100
    assert 35 < np.isin(drawn.ids, gold.ids[:10]).sum() < 65
    plain = draw(gold, split, seed=0)
    assert len(plain) == 100
    assert 55 < len(set(plain.ids)) < 71  # 1 - 1/e of them
    assert plain.probs.tobytes() == draw(gold, split, seed=0).probs.tobytes()


# --- specialists and trust --------------------------------------------------------------------------------------------


def test_specialists_share_a_out(make: MakeExperiment, store: Store) -> None:
    experiment = make(strategy="co-supervised(size=3)", seeds=(0,))
    run(store, experiment)
    rows = [s for s in in_order([student(experiment)]) if s.fn is cluster_of_a]
    split = store.read(rows[0].args["split"])
    assert sorted(np.concatenate([store.read(r).ids for r in rows])) == sorted(split.parts["A"])


def test_a_row_goes_to_the_specialist_the_student_agrees_with() -> None:
    said = labels([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])
    first, second = labels([[0.8, 0.2], [0.7, 0.3], [0.1, 0.9]]), labels([[0.3, 0.7], [0.1, 0.9], [0.2, 0.8]])
    found = assign(said, (first, second), consistent=False)
    assert np.allclose(found.probs, [first.probs[0], second.probs[1], second.probs[2]])
    assert list(assign(said, (first, second), consistent=True).ids) == ["r0", "r1"]
    assert np.allclose(assign(said, (said,), consistent=True).probs, said.probs)


def test_only_rows_that_all_agree_on_are_easy() -> None:
    first, second = labels([[0.8, 0.2], [0.7, 0.3], [0.1, 0.9]]), labels([[0.6, 0.4], [0.1, 0.9], [0.2, 0.8]])
    easy = unanimous((first, second))
    assert list(easy.ids) == ["r0", "r2"]
    assert np.allclose(easy.probs, [[0.7, 0.3], [0.15, 0.85]])


def test_trust_follows_accuracy_and_heat_makes_it_even() -> None:
    rng = np.random.default_rng(0)
    gold = rng.integers(3, size=400)

    def member(accuracy: float) -> Labels:
        wrong = rng.random(400) > accuracy
        return labels(np.eye(3)[(gold + wrong * rng.integers(1, 3, size=400)) % 3])

    votes = tuple(member(a) for a in (0.5, 0.9, 0.7))
    said = labels(0.85 * np.eye(3)[gold] + 0.05)
    found = trusted(said, votes, temperature=0.5)
    told = np.stack([v.probs for v in votes])
    trust = np.linalg.lstsq(told.reshape(3, -1).T, found.probs.ravel(), rcond=None)[0]
    assert trust[1] > trust[2] > trust[0] > 0
    assert trust.sum() == pytest.approx(1, abs=1e-4)
    assert np.allclose(trusted(said, votes, temperature=1e9).probs, told.mean(axis=0), atol=1e-5)
    assert np.allclose(trusted(said, votes, temperature=1e-6).probs, votes[1].probs)


# --- what cannot be ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weak", [name for name in SUPERVISORS if name != "second"])  # which does not teach
@pytest.mark.parametrize("name", NAMES)
def test_supervisors_that_are_no_models_have_no_like(make: MakeExperiment, name: str, weak: str) -> None:
    with pytest.raises(UserError, match="the supervisor is no model") as error:
        wire(make(strategy=name, weak=weak, weak_train=None))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("spelled", "said"),
    [
        ("ensemble(size=0)", "at 1 or above"),
        ("ensemble(kind='baging')", "did you mean bagging"),
        ("ensemble(by=LogConf)", "unknown label model in option by"),
        ("ensemble(models=('pixels',))", "reads images"),
        ("raven(temperature=0.0)", "above 0"),
        ("co-supervised(rounds=-1)", "at 0 or above"),
    ],
)
def test_what_cannot_be_is_said_at_once(make: MakeExperiment, spelled: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        wire(make(strategy=spelled))
