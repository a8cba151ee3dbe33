"""The probe engine: many students in one product, each what it would be alone, and what a plain loop gives."""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as settings_of
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from outgrow.data import Floats
from outgrow.errors import UserError
from outgrow.losses import LOSSES, LogConf, Loss, Xent
from outgrow.models import probe as engine
from outgrow.models.probe import FittedProbe, ProbeJob, fit_probes
from outgrow.models.settings import ProbeSettings
from outgrow.runtime import Runtime

CPU = Runtime(device="cpu")
N, D = 300, 12
rng = np.random.default_rng(0)
FEATURES = (rng.normal(size=(N, D)) * rng.uniform(0.1, 9, D) + rng.normal(size=D)).astype(np.float32)
TRAIN, VAL = np.arange(0, 150), np.arange(150, 190)
QUICK = ProbeSettings(epochs=3, batch_size=32, lr=0.02)


def soft_labels(num_classes: int, seed: int = 0) -> Floats:
    """(N, C), learnable from the features."""
    made = np.random.default_rng(seed)
    standard = (FEATURES - FEATURES.mean(0)) / FEATURES.std(0)
    logits = standard @ made.normal(size=(D, num_classes)) + made.normal(size=(N, num_classes))
    odds = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(odds / odds.sum(1, keepdims=True), dtype=np.float32)


def job(num_classes: int = 2, **changed: Any) -> ProbeJob:
    labels = soft_labels(num_classes, changed.pop("labels", 0))
    rows, val = changed.pop("rows", TRAIN), changed.pop("val", VAL)
    fields: dict[str, Any] = {"loss": Xent(), "settings": QUICK, "seed": 0, **changed}
    return ProbeJob(rows=rows, targets=labels[rows], val_rows=val, val_targets=labels[val], **fields)


def fit(*jobs: ProbeJob) -> list[FittedProbe]:
    return fit_probes(FEATURES, jobs, CPU)


def same(a: FittedProbe, b: FittedProbe) -> bool:
    arrays = ("weight", "bias", "center", "scale")
    return (
        all(np.array_equal(getattr(a, k), getattr(b, k)) for k in arrays)
        and (a.history, a.best_epoch, a.view) == (b.history, b.best_epoch, b.view)
        and bool((a.predict(FEATURES) == b.predict(FEATURES)).all())
    )


# --- alone and among many ---------------------------------------------------------------------------------------------


def mixed_jobs() -> list[ProbeJob]:
    jobs = []
    for i in range(45):
        pick = np.random.default_rng(i)
        settings = replace(QUICK, lr=float(pick.choice([0.003, 0.02, 0.1])), l2=float(pick.choice([0, 0.01, 1])))
        loss: Loss = Xent() if i % 3 else LogConf(alpha=float(pick.uniform()), warmup=float(pick.uniform()))
        rows = TRAIN if i % 2 else TRAIN + 5
        chosen = {"labels": i % 7, "settings": settings, "loss": loss, "seed": i % 4, "rows": rows}
        jobs.append(job(2 + (i % 5 == 0), **chosen))
    return jobs


@pytest.mark.usefixtures("threads")
def test_a_student_alone_is_the_same_among_many() -> None:
    """Bitwise, whatever stands beside it: other rates, decays, losses, seeds, rows, numbers of classes."""
    jobs = mixed_jobs()
    together = fit(*jobs)
    for i in (0, 1, 2, 3, 5, 10, 30, 44):
        assert same(fit(jobs[i])[0], together[i])
    assert all(same(a, b) for a, b in zip(fit(*reversed(jobs)), reversed(together), strict=True))


def test_how_students_are_bundled_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = mixed_jobs()
    together = fit(*jobs)
    for name, value in (("_MAX_COLUMNS", 32), ("_MAX_ROWS_BYTES", 1)):
        monkeypatch.setattr(engine, name, value)
        assert all(same(a, b) for a, b in zip(fit(*jobs), together, strict=True))


def test_hundreds_over_the_same_rows_are_each_the_same_alone() -> None:
    jobs = [job(labels=i % 10, settings=replace(QUICK, lr=0.001 * (i + 1))) for i in range(300)]
    together = fit(*jobs)
    assert all(same(fit(jobs[i])[0], together[i]) for i in (0, 17, 299))


def held_at_once(monkeypatch: pytest.MonkeyPatch, jobs: list[ProbeJob]) -> int:
    """Most bytes of rows, labels and buffers that bundles hold at any time while ``jobs`` are trained."""
    lock, held, most, original = Lock(), 0, 0, engine._Bundle.train

    def watched(self: Any, report: Any) -> Any:
        nonlocal held, most
        size = sum(v.untyped_storage().nbytes() for v in vars(self).values() if isinstance(v, Tensor))
        with lock:
            held += size
            most = max(most, held)
        fitted = original(self, report)
        with lock:
            held -= size
        return fitted

    with monkeypatch.context() as patched:
        patched.setattr(engine._Bundle, "train", watched)
        fit(*jobs)
    return most


def test_ten_times_the_students_hold_no_more_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_MAX_COLUMNS", 32)
    few = [job(labels=i % 5, settings=replace(QUICK, epochs=1, lr=0.001 * (i + 1))) for i in range(64)]
    workers = torch.get_num_threads()
    one = held_at_once(monkeypatch, few[:32]) * workers
    assert held_at_once(monkeypatch, few * 10) <= one
    monkeypatch.setattr(engine, "_MAX_LABELS_BYTES", 4 * 4 * (len(TRAIN) + len(VAL)))
    assert held_at_once(monkeypatch, few) < one


def test_runs_repeat_and_the_seed_changes_the_order() -> None:
    first, again, other = fit(job())[0], fit(job())[0], fit(job(seed=1))[0]
    assert same(first, again)
    assert not same(first, other)


# --- against references -----------------------------------------------------------------------------------------------


def plain_loop(taught: ProbeJob) -> tuple[Floats, Floats]:
    """Weights (d, C - 1 or C) and bias after the last epoch, in double precision, one example after the other in
    torch's own words: Adam, autograd, randperm."""
    rows = FEATURES[taught.rows].astype(np.float64)
    x = torch.from_numpy((rows - rows.mean(0)) / rows.std(0))
    targets = torch.from_numpy(taught.targets.astype(np.float64))
    num_classes, settings = targets.shape[1], taught.settings
    width = 1 if num_classes == 2 else num_classes
    weight = torch.zeros(D, width, dtype=torch.float64, requires_grad=True)
    shares = ((targets.sum(0) + 0.5) / (len(x) + num_classes / 2)).log()
    bias = (shares[1:] - shares[0] if num_classes == 2 else shares - shares.mean()).requires_grad_()
    groups: list[dict[str, Any]] = [{"params": [weight]}, {"params": [bias], "lr": 10 * settings.lr}]
    optimizer = torch.optim.Adam(groups, lr=settings.lr)
    generator = torch.Generator().manual_seed(taught.seed)
    epochs = settings.passes(len(x))
    updates = epochs * math.ceil(len(x) / settings.batch_size)
    done = 0
    for _ in range(epochs):
        for batch in torch.split(torch.randperm(len(x), generator=generator), settings.batch_size):
            z = x[batch] @ weight + bias
            logits = torch.cat([torch.zeros_like(z), z], dim=1) if num_classes == 2 else z
            losses: Tensor = taught.loss(logits, targets[batch], done / updates)
            optimizer.zero_grad()
            (losses.mean() + settings.l2 / 2 * weight.square().sum()).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            done += 1
    return weight.detach().numpy(), bias.detach().numpy()


@pytest.mark.parametrize("num_classes", [2, 3])
@pytest.mark.parametrize("loss", [Xent(), LogConf(alpha=0.75), LogConf(shares="uniform", schedule="released")])
@pytest.mark.parametrize("batch_size", [32, 50, 999])
def test_a_plain_loop_gives_the_same(num_classes: int, loss: Loss, batch_size: int) -> None:
    """150 rows: the last batch is partial (32), none is (50), or one holds more than there is (999)."""
    settings = replace(QUICK, early_stopping=False, l2=0.1, batch_size=batch_size)
    taught = job(num_classes, loss=loss, settings=settings, seed=3)
    weight, bias = plain_loop(taught)
    (fitted,) = fit(taught)
    columns = slice(1, None) if num_classes == 2 else slice(None)
    np.testing.assert_allclose(fitted.weight[:, columns], weight, atol=1e-4)
    np.testing.assert_allclose(fitted.bias[columns], bias, atol=1e-4)


@pytest.mark.parametrize("num_classes", [2, 3])
def test_run_to_convergence_it_is_logistic_regression(num_classes: int) -> None:
    labels = soft_labels(num_classes)
    certain = np.eye(num_classes, dtype=np.float32)[labels.argmax(1)]
    l2 = 0.1
    settings = ProbeSettings(epochs=1500, batch_size=150, lr=0.01, l2=l2, early_stopping=False)
    (fitted,) = fit(ProbeJob(TRAIN, certain[TRAIN], VAL, certain[VAL], Xent(), settings, 0))
    standard = (FEATURES - fitted.center) / fitted.scale
    # One weight vector of differences is penalised for two classes, as scikit-learn does.
    reference = LogisticRegression(C=1 / (l2 * len(TRAIN)), tol=1e-8, max_iter=5000)
    reference.fit(standard[TRAIN], labels[TRAIN].argmax(1))
    np.testing.assert_allclose(fitted.predict(FEATURES), reference.predict_proba(standard), atol=5e-3)


@dataclass(frozen=True, kw_only=True)
class PlainXent:
    """Cross-entropy that does not say its targets: the engine differentiates it."""

    per_example: ClassVar[bool] = True
    power: float = 1.0

    def __call__(self, logits: Tensor, targets: Tensor, progress: float) -> Tensor:
        return -(self.power * targets * logits.log_softmax(-1)).sum(-1)


@pytest.mark.parametrize("num_classes", [2, 3])
def test_a_loss_without_a_shortcut_is_differentiated(num_classes: int) -> None:
    shortcut, generic = (fit(job(num_classes, loss=loss))[0] for loss in (Xent(), PlainXent()))
    np.testing.assert_allclose(generic.weight, shortcut.weight, atol=1e-5)
    halves = fit(job(num_classes, loss=PlainXent()), job(num_classes, loss=PlainXent(power=0.5)))
    assert same(halves[0], generic)
    assert not same(halves[1], generic)


# --- one-sided labels and small tables ----------------------------------------------------------------------------


LOSSES_OF_ALL_KINDS = [kind() for kind in LOSSES.values()]


@pytest.mark.parametrize("num_classes", [2, 3])
@pytest.mark.parametrize("loss", LOSSES_OF_ALL_KINDS, ids=lambda loss: type(loss).__name__)
def test_labels_that_name_one_class_make_a_student_that_names_it(num_classes: int, loss: Loss) -> None:
    labels = np.eye(num_classes, dtype=np.float32)[np.full(N, num_classes - 1)]
    settings = ProbeSettings()
    (fitted,) = fit(ProbeJob(TRAIN, labels[TRAIN], VAL, labels[VAL], loss, settings, 0))
    assert (fitted.predict(FEATURES).argmax(1) == num_classes - 1).all()


@pytest.mark.parametrize("shares", [(0.873, 0.127), (0.97, 0.03), (0.5, 0.5), (0.8, 0.15, 0.05)])
@pytest.mark.parametrize("n", [60, 300, 900])
def test_the_default_says_each_class_as_often_as_its_labels(shares: tuple[float, ...], n: int) -> None:
    """Labels with noise, at shares far from even: mean probabilities are the shares, as at the exact minimum."""
    made = np.random.default_rng(n)
    x = made.normal(size=(n, 40)).astype(np.float32) * made.uniform(0.1, 9, 40).astype(np.float32)
    scores = x / x.std(0) @ made.normal(size=(40, len(shares))) + 5 * made.normal(size=(n, len(shares)))
    odds = np.argsort(scores[:, -1])
    classes = np.empty(n, dtype=np.int64)
    classes[odds] = np.repeat(np.arange(len(shares)), np.diff(np.round(np.cumsum([0, *shares]) * n).astype(int)))
    labels = np.eye(len(shares), dtype=np.float32)[classes]
    settings = ProbeSettings(early_stopping=False)
    (fitted,) = fit_probes(x, [ProbeJob(np.arange(n), labels, VAL[:0], labels[:0], Xent(), settings, 0)], CPU)
    np.testing.assert_allclose(fitted.predict(x).mean(0), labels.mean(0), atol=0.015)


def test_the_confidence_loss_keeps_the_shares_of_its_labels() -> None:
    """12.7 % positive, one label in ten wrong: half of every batch as positive is far from the truth."""
    made = np.random.default_rng(0)
    n = 3000
    x = made.normal(size=(n, 40)).astype(np.float32)
    z = x @ made.normal(size=40) / 40**0.5 + made.normal(size=n)
    truth = (z > np.quantile(z, 0.873)).astype(np.int64)
    labels = np.eye(2, dtype=np.float32)[np.where(made.uniform(size=n) < 0.1, made.permutation(truth), truth)]
    val, test = np.arange(500, 900), np.arange(900, n)
    losses, longest = (Xent(), LogConf(), LogConf(shares="uniform")), ProbeSettings(early_stopping=False)
    jobs = [ProbeJob(np.arange(500), labels[:500], val, labels[val], loss, longest, 0) for loss in losses]
    said = [p.predict(x[test]) for p in fit_probes(x, jobs, CPU)]
    naive, follows, even = ((probs.argmax(1) == truth[test]).mean() for probs in said)
    of_naive, of_follows, of_even = (probs[:, 1].mean() for probs in said)
    assert abs(of_follows - of_naive) < 0.03
    assert of_even > of_naive + 0.1
    assert follows > naive - 0.01
    assert even < naive - 0.05


@settings_of(max_examples=20, deadline=None)
@given(st.integers(1, 6000), st.sampled_from([1, 8, 32, 5000]))
def test_few_rows_get_as_many_updates_as_many(n: int, batch_size: int) -> None:
    per_epoch = math.ceil(n / batch_size)
    epochs = ProbeSettings(batch_size=batch_size).passes(n)
    assert epochs * per_epoch >= 1000
    assert epochs == 10 or (epochs - 1) * per_epoch < 1000
    assert ProbeSettings(batch_size=batch_size, epochs=3).passes(n) == 3


def test_the_gradient_that_is_left_is_kept_and_a_large_one_is_said() -> None:
    said: list[str] = []
    short = replace(QUICK, epochs=1, lr=1e-4)
    runtime = replace(CPU, say=said.append)
    (early,) = fit_probes(FEATURES, [job(settings=short)], runtime)
    assert said == [
        "warning: 1 of 1 probes stopped far from their optimum (largest gradient "
        f"{early.history[-1]['gradient']:.2g}); train longer: probe(epochs=...)"
    ]
    (late,) = fit_probes(FEATURES, [job(settings=ProbeSettings(epochs=400, lr=0.003))], runtime)
    assert len(said) == 1
    assert late.history[-1]["gradient"] < 0.02 < 0.15 < early.history[-1]["gradient"]


@dataclass(frozen=True, kw_only=True)
class NotFinite(PlainXent):
    def __call__(self, logits: Tensor, targets: Tensor, progress: float) -> Tensor:
        return super().__call__(logits, targets, progress) * (logits[..., 0] - logits[..., 0]).log()


def test_a_loss_that_is_not_finite_is_one_line() -> None:
    with pytest.raises(UserError, match=r"the loss NotFinite gave a gradient that is not finite"):
        fit(job(loss=NotFinite()))


# --- order, early stopping, edges -------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 33, 34, 37, 61])
def test_odd_numbers_of_rows_leave_each_student_the_same_alone(n: int) -> None:
    jobs = [job(labels=i % 10, rows=np.arange(n), loss=LogConf() if i % 2 else Xent()) for i in range(31)]
    together = fit(*jobs)
    assert all(same(fit(jobs[i])[0], together[i]) for i in (0, 1, 29, 30))


@pytest.mark.parametrize("n", [1, 31, 32, 33, 150])
def test_every_example_comes_once_in_each_epoch(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []
    original = engine._Bundle._gradient

    def watched(self: Any, weight: Tensor, rows: Tensor, targets: Tensor, progress: float) -> None:
        seen.append(rows[0] - self.offset[0])
        original(self, weight, rows, targets, progress)

    monkeypatch.setattr(engine._Bundle, "_gradient", watched)
    fit(job(rows=np.arange(n)))
    per_epoch, passes = math.ceil(n / QUICK.batch_size), QUICK.passes(n)
    epochs = [torch.cat(seen[e * per_epoch : (e + 1) * per_epoch]).tolist() for e in range(passes)]
    assert len(seen) == per_epoch * passes
    assert all(sorted(epoch) == list(range(n)) for epoch in epochs)
    if n > 4:
        assert len(set(map(tuple, epochs))) == passes  # released code, defect 13


def test_the_epoch_that_agrees_best_with_the_validation_labels_is_kept() -> None:
    settings = ProbeSettings(epochs=12, lr=0.3, l2=0)
    for labels in range(5):
        (fitted,) = fit(job(labels=labels, settings=settings))
        best = max(range(12), key=lambda e: (fitted.history[e]["agreement"], -fitted.history[e]["xent"]))
        assert fitted.best_epoch == best
        probs = fitted.predict(FEATURES[VAL])
        wanted = soft_labels(2, labels)[VAL]
        agreement = float((probs.argmax(1) == wanted.argmax(1)).mean())
        assert agreement == pytest.approx(fitted.history[best]["agreement"])
        xent = float(-(wanted * np.log(probs)).sum(1).mean())
        assert xent == pytest.approx(fitted.history[best]["xent"], rel=1e-4)


def test_early_stopping_is_the_shorter_training() -> None:
    """The kept epoch is the last of a run that ends there (a constant rate, and cross-entropy knows no progress)."""
    settings = ProbeSettings(epochs=12, lr=0.3, l2=0)
    (fitted,) = fit(job(labels=1, settings=settings))
    assert 0 < fitted.best_epoch < 11
    (shorter,) = fit(job(labels=1, settings=replace(settings, epochs=fitted.best_epoch + 1, early_stopping=False)))
    assert (shorter.weight == fitted.weight).all()


def test_without_early_stopping_the_last_epoch_is_kept_and_no_validation_is_needed() -> None:
    settings = replace(QUICK, early_stopping=False)
    (empty,) = fit(job(settings=settings, val=np.arange(0)))
    (full,) = fit(job(settings=settings))
    assert empty.best_epoch == full.best_epoch == QUICK.passes(len(TRAIN)) - 1
    assert (empty.weight == full.weight).all()


def test_early_stopping_without_validation_rows_is_refused() -> None:
    with pytest.raises(UserError, match="early stopping needs validation rows"):
        fit(job(val=np.arange(0)))


def test_constant_features_are_harmless() -> None:
    wide = np.concatenate([FEATURES, np.full((N, 2), 7.5, np.float32), np.zeros((N, 1), np.float32)], axis=1)
    (fitted,) = fit_probes(wide, [job()], CPU)
    assert (fitted.weight[D:] == 0).all()
    np.testing.assert_allclose(fitted.predict(wide), fit(job())[0].predict(FEATURES), atol=1e-5)


def test_a_zero_matrix_of_features_still_learns_the_shares() -> None:
    labels = np.tile(np.array([[0.2, 0.8]], dtype=np.float32), (N, 1))
    settings = ProbeSettings(epochs=100, lr=0.05, early_stopping=False)
    (fitted,) = fit_probes(
        np.zeros((N, 4), np.float32), [ProbeJob(TRAIN, labels[TRAIN], VAL, labels[VAL], Xent(), settings, 0)], CPU
    )
    np.testing.assert_allclose(fitted.predict(np.zeros((1, 4))), [[0.2, 0.8]], atol=1e-3)


def test_the_bias_is_free_of_l2() -> None:
    labels = np.tile(np.array([[0.2, 0.8]], dtype=np.float32), (N, 1))
    settings = ProbeSettings(epochs=100, lr=0.05, l2=100, early_stopping=False)
    (fitted,) = fit(ProbeJob(TRAIN, labels[TRAIN], VAL, labels[VAL], Xent(), settings, 0))
    assert fitted.predict(FEATURES)[:, 1].mean() == pytest.approx(0.8, abs=0.01)


def test_half_precision_features_are_taken() -> None:
    half = FEATURES.astype(np.float16)
    (fitted,) = fit_probes(half, [job()], CPU)
    (reference,) = fit_probes(half.astype(np.float32), [job()], CPU)
    assert same(fitted, reference)


def test_progress_ends_at_its_total() -> None:
    reports: list[tuple[int, int, str]] = []
    fit_probes(FEATURES, mixed_jobs(), replace(CPU, report=lambda *r: reports.append(r)))
    assert [r[0] for r in reports] == sorted(r[0] for r in reports)
    assert reports[-1][0] == reports[-1][1]


def test_it_comes_back_from_disk(tmp_path: Path) -> None:
    (fitted,) = fit(job(3))
    fitted.save(tmp_path)
    assert same(FittedProbe.load(tmp_path), fitted)
