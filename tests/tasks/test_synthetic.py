"""Synthetic test-beds, and theory that says what must come out of them."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outgrow.data import Examples
from outgrow.engine.store import Store
from outgrow.errors import UserError
from outgrow.experiment import Experiment, run_steps
from outgrow.models.spec import ModelSpec
from outgrow.models.synthetic import RandomFeatures, Vectors
from outgrow.runtime import Runtime
from outgrow.tasks import TaskSpec, load
from outgrow.tasks.catalogue.synthetic import expected_accuracy

CPU = Runtime(device="cpu", offline=True)


def made(**options: int) -> Examples:
    return load(TaskSpec.of("synthetic-gaussian", **options), CPU)


# --- the task and its models ------------------------------------------------------------------------------------------


def test_texts_hold_the_numbers_to_the_bit() -> None:
    data = made(rows=50, dims=3)
    x = Vectors().embed(data.texts, CPU)
    assert x.shape == (50, 3)
    assert abs(x.mean()) < 0.5
    # One linear function gives every score: three equations find it, all others confirm it.
    weights, residual, *_ = np.linalg.lstsq(x.astype(np.float64), data.meta["score"], rcond=None)
    assert residual[0] < 1e-9
    assert np.linalg.norm(weights) == pytest.approx(1, abs=1e-5)
    assert data.gold is not None
    assert ((data.meta["score"] > 0) == data.gold).all()


@pytest.mark.parametrize("width", [0, 8])
def test_the_same_seed_gives_the_same_examples(width: int) -> None:
    first, again, other = (made(rows=40, teacher_width=width, seed=s) for s in (1, 1, 2))
    assert (first.inputs, first.gold.tolist()) == (again.inputs, again.gold.tolist())  # type: ignore[union-attr]
    assert first.inputs != other.inputs


def test_a_network_teacher_balances_its_classes_and_is_not_linear() -> None:
    data = made(rows=2000, dims=5, teacher_width=20)
    assert data.gold is not None
    assert data.gold.sum() == 1000
    x = np.c_[Vectors().embed(data.texts, CPU), np.ones(2000)]
    linear = x @ np.linalg.lstsq(x, data.meta["score"], rcond=None)[0]
    assert np.mean((data.meta["score"] - linear) ** 2) > 0.05 * np.var(data.meta["score"])


def test_narrow_random_features_are_the_first_units_of_wide_ones() -> None:
    texts = made(rows=20).texts
    wide, narrow, other = (m.embed(texts, CPU) for m in (RandomFeatures(width=9), RandomFeatures(width=4),
                                                             RandomFeatures(width=4, seed=1)))  # fmt: skip
    assert (wide[:, :4] == narrow).all()
    assert not (narrow == other).all()


@pytest.mark.parametrize("text", ["one two", "1 2 3", "", "1,2"])
def test_texts_that_are_no_numbers(text: str) -> None:
    with pytest.raises(UserError, match="text 2 holds"):
        Vectors().embed(("1 2", text), CPU)


def test_models_are_known_by_their_spelling() -> None:
    assert str(ModelSpec.parse("vectors( dims = 3 )")) == "vectors(dims=3)"
    assert ModelSpec.parse("random-features(width=256)") == ModelSpec.parse("random-features()")
    assert ModelSpec.parse("random-features(seed=1)") != ModelSpec.parse("random-features")
    assert ModelSpec.parse("vectors").is_static
    assert ModelSpec.parse("vectors").reader == Vectors()
    with pytest.raises(UserError, match="holds 20 numbers"):
        Vectors(dims=21).embed(made(rows=20).texts, CPU)


@pytest.mark.parametrize("options", [{"rows": 5}, {"dims": 0}, {"teacher_width": -1}, {"seed": -1}])
def test_what_cannot_be_made(options: dict[str, int]) -> None:
    ((name, value),) = options.items()
    with pytest.raises(UserError, match=f"{name} of task synthetic-gaussian is {value}; it must lie at"):
        made(**options)


# --- theory: errors at random -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("accuracy", "rows", "dims"), [(0.6, 2000, 20), (0.7, 500, 10), (0.9, 300, 40), (1.0, 200, 20)]
)
def test_the_expected_accuracy_is_that_of_least_squares(accuracy: float, rows: int, dims: int) -> None:
    data = made(rows=rows, dims=dims, seed=3)
    x = Vectors().embed(data.texts, CPU).astype(np.float64)
    assert data.gold is not None
    truth = np.linalg.lstsq(x, data.meta["score"], rcond=None)[0]
    found = []
    for seed in range(40):
        flips = np.where(np.random.default_rng(seed).random(rows) < accuracy, 1, -1)
        student = np.linalg.lstsq(x, (2 * data.gold - 1) * flips, rcond=None)[0]
        cosine = student @ truth / np.linalg.norm(student)
        found.append(1 - math.acos(cosine) / math.pi)
    # One draw of examples, 40 of errors: without errors nothing is averaged, so that case is the widest.
    assert np.mean(found) == pytest.approx(expected_accuracy(accuracy, rows, dims), abs=0.015)


@given(accuracy=st.floats(0.55, 1), dims=st.integers(2, 50), rows=st.integers(200, 10_000))
def test_random_errors_do_not_limit_a_student(accuracy: float, dims: int, rows: int) -> None:
    assert expected_accuracy(accuracy, rows, dims) <= expected_accuracy(accuracy, 10 * rows, dims)
    assert expected_accuracy(accuracy, rows, dims) <= expected_accuracy(1.0, rows, dims)
    assert expected_accuracy(accuracy, 10**9, dims) == pytest.approx(1, abs=0.01)


def test_whole_experiments_come_out_as_theory_says(store: Store) -> None:
    """Random errors are outgrown as far as their number lets expect; a supervisor the student can simulate is not."""
    simulated = (f"errors(accuracy=0.7{more})" for more in ("", ", soft=True", ", kind='simulatable'"))
    supervisors = (*simulated, "vectors(dims=5)")
    # Large batches, many steps: near the optimum, which is what theory speaks of.
    train = "probe(epochs=40, batch_size=256, lr=0.01, early_stopping=False)"
    task = "synthetic-gaussian(rows=6000)"
    experiments = [Experiment(task=task, weak=w, strong="vectors", train=train, seeds=(0, 1)) for w in supervisors]
    targets, _ = run_steps(experiments, store, CPU)
    uniform, soft, simulatable, blind = (store.read(t) for t in targets)
    expected, ceiling = (expected_accuracy(p, rows=2025, dims=20) for p in (0.7, 1.0))  # 6000 x 3/8, a tenth held out
    for found in (uniform, soft):
        assert found["weak"]["accuracy"][0] == pytest.approx(0.7, abs=0.001)
        assert found["student"]["accuracy"][0] == pytest.approx(expected, abs=0.02)
        assert found["ceiling"]["accuracy"][0] == pytest.approx(ceiling, abs=0.02)
        assert found["pgr"][0] == pytest.approx((expected - 0.7) / (ceiling - 0.7), abs=0.1)
    for found in (simulatable, blind):
        _, low, high = found["pgr"]
        assert low - 0.1 < 0 < high + 0.1
        assert found["agreement"]["supervisor_wrong"][0] > 0.85


# --- theory: gain is misfit -------------------------------------------------------------------------------------------


def features_and_truth(rows: int, width: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Wide random features of the synthetic task (n, width), and a truth that is linear in them (n,)."""
    data = made(rows=rows, dims=6, seed=seed)
    wide = RandomFeatures(width=width).embed(data.texts, CPU).astype(np.float64)
    return wide, wide @ np.random.default_rng(seed).standard_normal(width) / math.sqrt(width)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 99), width=st.integers(5, 40), weak_width=st.integers(1, 60), weak_seed=st.integers(0, 3))
def test_gain_is_misfit_for_a_linear_student(seed: int, width: int, weak_width: int, weak_seed: int) -> None:
    """Charikar et al. 2024 (2405.15116): squared loss, truth in the student's class, which here is a subspace, so that
    projection gives equality: |weak - truth|^2 - |student - truth|^2 = |student - weak|^2."""
    wide, truth = features_and_truth(120, width, seed)
    seen = RandomFeatures(width=weak_width, seed=weak_seed).embed(made(rows=120, dims=6, seed=seed).texts, CPU)
    half = np.arange(120) < 60
    weak = seen @ np.linalg.lstsq(seen[half].astype(np.float64), truth[half], rcond=1e-6)[0]
    student = wide @ np.linalg.lstsq(wide, weak, rcond=1e-10)[0]
    gain = np.sum((weak - truth) ** 2) - np.sum((student - truth) ** 2)
    misfit = np.sum((student - weak) ** 2)
    assert gain == pytest.approx(misfit, rel=1e-5, abs=1e-6 * (1 + np.sum(weak**2)))
    if weak_seed == 0 and weak_width <= width:  # the supervisor's units are the student's: nothing is gained
        assert misfit <= 1e-6 * (1 + np.sum(weak**2))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 99), noise=st.floats(0.01, 3), slack=st.floats(1, 3))
def test_gain_is_at_least_misfit_for_a_convex_student(seed: int, noise: float, slack: float) -> None:
    """The same with weights no longer than a bound, which is convex and no subspace: at least, not equal."""
    wide, truth = features_and_truth(120, 20, seed)
    rng = np.random.default_rng(seed)
    bound = slack * float(np.linalg.norm(np.linalg.lstsq(wide, truth, rcond=None)[0]))
    weak = truth + noise * rng.standard_normal(120) * truth.std()
    student = wide @ bounded_least_squares(wide, weak, bound)
    gain = np.sum((weak - truth) ** 2) - np.sum((student - truth) ** 2)
    assert gain >= np.sum((student - weak) ** 2) - 1e-6 * np.sum(weak**2)


def bounded_least_squares(x: np.ndarray, y: np.ndarray, bound: float) -> np.ndarray:
    """argmin |x w - y| over |w| <= bound: ridge, its strength found by halving."""
    gram, product = x.T @ x, x.T @ y
    low, high = -12.0, 8.0

    def solution(strength: float) -> np.ndarray:
        return np.asarray(np.linalg.solve(gram + 10**strength * np.eye(len(gram)), product))

    if np.linalg.norm(solution(low)) <= bound:
        return solution(low)
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if np.linalg.norm(solution(middle)) > bound else (low, middle)
    return solution(high)
