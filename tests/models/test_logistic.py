"""The exact solver: the minimum that scikit-learn finds, to the last digits, and the same alone and among many."""

from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from outgrow.config import Experiment
from outgrow.data import Floats
from outgrow.engine.graph import Step, in_order
from outgrow.errors import UserError
from outgrow.experiment import open_store, run_steps, wire
from outgrow.models import logistic as engine
from outgrow.models.logistic import TOLERANCE, LogisticJob, fit_logistic
from outgrow.models.probe import FittedProbe
from outgrow.models.settings import LogisticSettings
from outgrow.runtime import Runtime
from outgrow.strategies import parse_trainer
from outgrow.strategies.trainers import Logistic

CPU = Runtime(device="cpu")
N, D = 300, 12
rng = np.random.default_rng(0)
FEATURES = (rng.normal(size=(N, D)) * rng.uniform(0.1, 9, D) + rng.normal(size=D)).astype(np.float32)
FEATURES[:, -1] = FEATURES[:, 0] + 0.01 * FEATURES[:, 1]  # nearly the same twice
CHOICES = rng.normal(size=(N, 4, D)).astype(np.float32)
TRAIN, VAL = np.arange(0, 150), np.arange(150, 190)


def soft_labels(num_classes: int, seed: int = 0) -> Floats:
    """(N, C), learnable from the features."""
    made = np.random.default_rng(seed)
    standard = (FEATURES - FEATURES.mean(0)) / FEATURES.std(0)
    logits = standard @ made.normal(size=(D, num_classes)) + made.normal(size=(N, num_classes))
    odds = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(odds / odds.sum(1, keepdims=True), dtype=np.float32)


def certain(probs: Floats) -> Floats:
    chosen: Floats = np.eye(probs.shape[1], dtype=np.float32)[probs.argmax(1)]
    return chosen


def job(num_classes: int = 2, *, l2: float = 0.01, hard: bool = False, **changed: Any) -> LogisticJob:
    labels = soft_labels(num_classes, changed.pop("labels", 0))
    labels = certain(labels) if hard else labels
    rows, val = changed.pop("rows", TRAIN), changed.pop("val", VAL)
    return LogisticJob(rows, labels[rows], val, labels[val], LogisticSettings(l2=l2))


def fit(*jobs: LogisticJob, features: Floats = FEATURES) -> list[FittedProbe]:
    return fit_logistic(features, jobs, CPU)


def same(a: FittedProbe, b: FittedProbe) -> bool:
    arrays = ("weight", "bias", "center", "scale")
    return all(np.array_equal(getattr(a, k), getattr(b, k)) for k in arrays) and a.history == b.history


def gradient(given: LogisticJob, fitted: FittedProbe, features: Floats) -> float:
    """Largest entry of the gradient of the objective, written down again in numpy and double precision."""
    standard = (features[given.rows].astype(np.float64) - fitted.center) / fitted.scale
    weight, bias = fitted.weight.astype(np.float64), fitted.bias.astype(np.float64)
    logits = standard @ weight + bias
    logits = logits[..., 0] if features.ndim == 3 else logits
    odds = np.exp(logits - logits.max(1, keepdims=True))
    slope = (odds / odds.sum(1, keepdims=True) - given.targets) / len(standard)
    if features.ndim == 3:
        return float(np.abs(np.einsum("nc,ncd->d", slope, standard) + given.settings.l2 * weight[:, 0]).max())
    in_weight = standard.T @ slope + given.settings.l2 * weight
    columns = slice(1, None) if slope.shape[1] == 2 else slice(None)  # two classes: one vector, the difference
    return max(float(np.abs(in_weight[:, columns]).max()), float(np.abs(slope.sum(0)).max()))


# --- the minimum ------------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(
    num_classes=st.sampled_from([2, 3, 5]),
    l2=st.floats(1e-4, 100),
    hard=st.booleans(),
    labels=st.integers(0, 5),
    n=st.integers(2, 170),
)
def test_the_gradient_vanishes_at_the_solution(num_classes: int, l2: float, hard: bool, labels: int, n: int) -> None:
    one = job(num_classes, l2=l2, hard=hard, labels=labels, rows=np.arange(n))
    (fitted,) = fit(one)
    assert gradient(one, fitted, FEATURES) <= 1.05 * TOLERANCE  # weights are handed back in single precision
    assert fitted.history[0]["gradient"] <= TOLERANCE


def reference(given: LogisticJob, fitted: FittedProbe) -> LogisticRegression:
    """scikit-learn on the same rows, each as often as it has classes, weighted with their probabilities."""
    standard = (FEATURES[given.rows].astype(np.float64) - fitted.center) / fitted.scale
    n, num_classes = given.targets.shape
    weights = given.targets.T.reshape(-1).astype(np.float64)
    classes = np.repeat(np.arange(num_classes), n)
    model = LogisticRegression(C=1 / (given.settings.l2 * n), tol=1e-9, max_iter=10000)
    kept = weights > 0
    return model.fit(np.tile(standard, (num_classes, 1))[kept], classes[kept], sample_weight=weights[kept])


@pytest.mark.parametrize("hard", [True, False])
@pytest.mark.parametrize("num_classes", [2, 3])
@pytest.mark.parametrize("l2", [1e-4, 0.01, 1.0])
def test_it_is_what_scikit_learn_finds(num_classes: int, hard: bool, l2: float) -> None:
    one = job(num_classes, l2=l2, hard=hard)
    (fitted,) = fit(one)
    known = reference(one, fitted)
    columns = slice(1, None) if num_classes == 2 else slice(None)
    np.testing.assert_allclose(fitted.weight[:, columns].T, known.coef_, atol=1e-3)
    np.testing.assert_allclose(fitted.bias[columns], known.intercept_, atol=1e-3)


@pytest.mark.parametrize("num_candidates", [2, 3, 4])
@pytest.mark.parametrize("l2", [1e-3, 0.1])
def test_choices_are_solved_too(num_candidates: int, l2: float) -> None:
    features = CHOICES[:, :num_candidates]
    targets = soft_labels(num_candidates, 3)
    one = LogisticJob(TRAIN, targets[TRAIN], VAL, targets[VAL], LogisticSettings(l2=l2))
    (fitted,) = fit(one, features=features)
    assert fitted.weight.shape == (D, 1)
    assert (fitted.bias == 0).all()
    assert gradient(one, fitted, features) <= 1.05 * TOLERANCE


def test_separable_labels_have_a_solution() -> None:
    plane = np.eye(2, dtype=np.float32)[(FEATURES[:, 1] > FEATURES[:, 1].mean()).astype(int)]
    for l2 in (1e-5, 1e-3):
        one = LogisticJob(TRAIN, plane[TRAIN], VAL, plane[VAL], LogisticSettings(l2=l2))
        (fitted,) = fit(one)
        assert gradient(one, fitted, FEATURES) <= 1.05 * TOLERANCE
        assert (fitted.predict(FEATURES[TRAIN]).argmax(1) == plane[TRAIN].argmax(1)).all()


def test_labels_of_one_class_are_learnt() -> None:
    for num_classes in (2, 3):
        targets = np.tile(np.eye(num_classes, dtype=np.float32)[1], (N, 1))
        (fitted,) = fit(LogisticJob(TRAIN, targets[TRAIN], VAL, targets[VAL], LogisticSettings()))
        assert (fitted.predict(FEATURES)[:, 1] > 0.999).all()


def test_constant_features_get_no_weight() -> None:
    wide = np.concatenate([FEATURES, np.full((N, 2), 7.5, np.float32), np.zeros((N, 1), np.float32)], axis=1)
    (fitted,) = fit(job(), features=wide)
    assert (fitted.weight[D:] == 0).all()
    np.testing.assert_allclose(fitted.predict(wide), fit(job())[0].predict(FEATURES), atol=1e-5)


def test_what_the_held_out_rows_say_is_noted() -> None:
    for num_classes in (2, 3):
        one = job(num_classes)
        (fitted,) = fit(one)
        probs = fitted.predict(FEATURES[VAL])
        said = fitted.history[0]
        assert said["agreement"] == pytest.approx((probs.argmax(1) == one.val_targets.argmax(1)).mean())
        assert said["xent"] == pytest.approx(-(one.val_targets * np.log(probs)).sum(1).mean(), rel=1e-4)
    assert (fit(job(val=np.arange(0)))[0].weight == fit(job())[0].weight).all()


# --- invariances ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_classes", [2, 3])
def test_order_of_rows_and_names_of_classes_do_not_matter(num_classes: int) -> None:
    one = job(num_classes)
    turn = np.random.default_rng(0).permutation(len(TRAIN))
    turned = one._replace(rows=one.rows[turn], targets=one.targets[turn])
    renamed = one._replace(targets=one.targets[:, ::-1].copy(), val_targets=one.val_targets[:, ::-1].copy())
    first, second, third = (f.predict(FEATURES) for f in fit(one, turned, renamed))
    np.testing.assert_allclose(second, first, atol=1e-4)
    np.testing.assert_allclose(third[:, ::-1], first, atol=1e-4)


def test_a_repeated_row_counts_as_often() -> None:
    doubled = job(rows=np.concatenate([TRAIN, TRAIN]))
    np.testing.assert_allclose(fit(doubled)[0].weight, fit(job())[0].weight, atol=1e-4)


def mixed_jobs() -> list[LogisticJob]:
    jobs = []
    for i in range(60):
        pick = np.random.default_rng(i)
        l2 = float(10 ** pick.uniform(-4, 1))
        rows = TRAIN if i % 2 else np.arange(5, 5 + 20 * (1 + i % 4))
        jobs.append(job(2 + (i % 5 == 0), l2=l2, hard=i % 3 == 0, labels=i % 7, rows=rows))
    return jobs


@pytest.mark.usefixtures("threads")
def test_a_student_alone_is_the_same_among_many() -> None:
    """Bitwise, whatever stands beside it: other labels, strengths, rows, numbers of classes."""
    jobs = mixed_jobs()
    together = fit(*jobs)
    for i in (0, 1, 2, 3, 5, 10, 30, 59):
        assert same(fit(jobs[i])[0], together[i])
    assert all(same(a, b) for a, b in zip(fit(*reversed(jobs)), reversed(together), strict=True))


@pytest.mark.parametrize("num_candidates", [2, 3])
def test_a_student_of_choices_alone_is_the_same_among_many(num_candidates: int) -> None:
    jobs = []
    for i in range(21):
        targets = soft_labels(num_candidates, i)
        jobs.append(LogisticJob(TRAIN, targets[TRAIN], VAL, targets[VAL], LogisticSettings(l2=0.001 * (i + 1))))
    features = CHOICES[:, :num_candidates]
    together = fit(*jobs, features=features)
    assert all(same(fit(jobs[i], features=features)[0], together[i]) for i in (0, 7, 20))


def test_wide_features_leave_each_student_the_same_alone() -> None:
    """Sizes at which the product is cut into blocks."""
    made = np.random.default_rng(2)
    features = made.normal(size=(1500, 400)).astype(np.float32)
    rows = np.arange(1400)
    jobs = []
    for i in range(70):
        second = 1 / (1 + np.exp(-features @ made.normal(size=400) / 10))
        targets = np.stack([1 - second, second], axis=1).astype(np.float32)
        jobs.append(LogisticJob(rows, targets[rows], VAL, targets[VAL], LogisticSettings(l2=0.003 * (1 + i % 9))))
    together = fit(*jobs, features=features)
    assert all(same(fit(jobs[i], features=features)[0], together[i]) for i in (0, 33, 69))


def test_how_students_are_divided_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = mixed_jobs()
    together = fit(*jobs)
    for name, value in (("_ROUNDS", 1), ("_STUDENTS", 4), ("_TOGETHER", 1), ("_MAX_BYTES", 1)):
        monkeypatch.setattr(engine, name, value)
        assert all(same(a, b) for a, b in zip(fit(*jobs), together, strict=True))


def test_ten_times_the_students_hold_no_more_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits, labels, weights and remembered steps of what is solved at a time, in bytes."""
    lock, held, most, original = Lock(), 0, 0, engine._Solver.solve
    monkeypatch.setattr(engine, "_MAX_BYTES", limit := 1 << 18)

    def watched(self: Any) -> Any:
        nonlocal held, most
        _, logits = self.targets.shape
        students, weights = self.weight.shape
        size = 4 * students * (3 * logits + (2 * engine._PAIRS + 7) * weights) + self.solved.nbytes
        with lock:
            held += size
            most = max(most, held)
        fitted = original(self)
        with lock:
            held -= size
        return fitted

    monkeypatch.setattr(engine._Solver, "solve", watched)
    jobs = [job(labels=i % 5, l2=0.01 * (1 + i % 3)) for i in range(40)]
    for several in (jobs, jobs * 10):
        most = 0
        fit(*several)
        assert limit / 4 < most <= limit * torch.get_num_threads()


# --- edges ------------------------------------------------------------------------------------------------------------


def test_no_penalty_is_refused() -> None:
    for l2 in (0.0, -1.0):
        with pytest.raises(UserError, match=r"l2 of logistic is .* above 0"):
            Logistic(l2=l2)


def test_a_student_that_does_not_get_there_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_MOST_UPDATES", 1)
    with pytest.raises(UserError, match=r"l2=0\.0001 stopped at a gradient of"):
        fit(job(l2=1e-4))


def test_progress_ends_at_its_total() -> None:
    reports: list[tuple[int, int, str]] = []
    fit_logistic(FEATURES, mixed_jobs(), replace(CPU, report=lambda *r: reports.append(r)))
    assert [r[0] for r in reports] == sorted(r[0] for r in reports)
    assert reports[-1] == (60, 60, "students")


def test_it_comes_back_from_disk(tmp_path: Path) -> None:
    (fitted,) = fit(job(3))
    fitted.save(tmp_path)
    assert same(FittedProbe.load(tmp_path), fitted)


# --- as a trainer -----------------------------------------------------------------------------------------------------


def experiment(strategy: str, train: str = "logistic(l2=0.1)") -> Experiment:
    task, weak = "synthetic-gaussian(rows=600)", "vectors(dims=5)"
    return Experiment(task=task, weak=weak, strong="vectors", strategy=strategy, train=train, seeds=(0, 1))


def planned(strategy: str) -> list[Step]:
    return in_order([wire(experiment(strategy))])


def test_experiments_run_with_it(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    given = [experiment(s) for s in ("naive", "regularised", "ensemble(kind='bagging', size=2)")]
    targets, outcome = run_steps(given, store, CPU)
    assert not outcome.failed
    for result in map(store.read, targets):
        assert result["ceiling"]["accuracy"][0] > 0.8
    _, outcome = run_steps(given, store, CPU)
    assert outcome.ran == 0


def test_it_is_spelled_as_a_trainer() -> None:
    assert parse_trainer("logistic(view='mean', l2=0.1)") == Logistic(view="mean", l2=0.1)
    names = {s.function.name for s in planned("naive")}
    assert "fit_logistic" in names
    assert "fit_probe" not in names


@pytest.mark.parametrize(
    "strategy", ["regularised", "ensemble(kind='bagging')", "bootstrap", "naive(transforms=(KNN,))"]
)
def test_strategies_of_cross_entropy_are_wired(strategy: str) -> None:
    assert "fit_logistic" in {s.function.name for s in planned(strategy)}


@pytest.mark.parametrize(
    ("strategy", "why"),
    [
        ("confidence", "to use LogConf, take probe"),
        ("naive(loss=GCE)", "to use GCE, take probe"),
        ("oracle", "does not stop early"),
        ("ensemble(kind='seeds')", "one solution whatever the seed"),
        ("lp-ft", "train with finetune"),
    ],
)
def test_what_cannot_be_is_refused_when_planned(strategy: str, why: str) -> None:
    with pytest.raises(UserError, match=why):
        planned(strategy)
