"""Choices: candidates scored by one head, by probes and by finetuned models."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from conftest import MakeExperiment, chosen_words
from outgrow import steps
from outgrow.data import Examples, Features, Floats, Ints, Labels, Split
from outgrow.engine.store import Store
from outgrow.errors import UserError
from outgrow.experiment import run
from outgrow.losses import LOSSES as ALL_LOSSES
from outgrow.losses import LogConf, Loss, StatefulLoss, Xent
from outgrow.models import probe as engine
from outgrow.models.probe import FittedProbe, ProbeJob, fit_probes
from outgrow.models.settings import ProbeSettings
from outgrow.models.spec import ModelSpec
from outgrow.models.transformer import load_tokenizer
from outgrow.runtime import Runtime
from outgrow.train.loop import FinetunedModel, finetune, predict
from outgrow.train.model import build, token_rows
from outgrow.train.settings import FinetuneSettings
from outgrow.train.updates import accumulate
from tiny_models import KINDS, make_model

CPU = Runtime(device="cpu")
N, D = 240, 12
TRAIN, VAL = np.arange(0, 150), np.arange(150, 190)
QUICK = ProbeSettings(epochs=3, batch_size=32, lr=0.02)
LOSSES: tuple[Loss, ...] = (Xent(), LogConf(alpha=0.75), LogConf(shares="uniform", schedule="released"))
EVERY_LOSS: tuple[Loss, ...] = (*LOSSES, *(made() for made in ALL_LOSSES.values()))


def candidates(num: int) -> Floats:
    """(N, C, D), every feature in its own unit."""
    rng = np.random.default_rng(num)
    return (rng.normal(size=(N, num, D)) * rng.uniform(0.1, 9, D) + rng.normal(size=D)).astype(np.float32)


def soft_labels(features: Floats, seed: int = 0) -> Floats:
    """(N, C) by a noisy linear scorer."""
    rng = np.random.default_rng(seed)
    logits = features / features.std((0, 1)) @ rng.normal(size=D) + rng.normal(size=features.shape[:2])
    odds = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(odds / odds.sum(1, keepdims=True), dtype=np.float32)


def job(features: Floats, **changed: Any) -> ProbeJob:
    labels = soft_labels(features, changed.pop("labels", 0))
    rows, val = changed.pop("rows", TRAIN), changed.pop("val", VAL)
    fields: dict[str, Any] = {"loss": Xent(), "settings": QUICK, "seed": 0, **changed}
    return ProbeJob(rows=rows, targets=labels[rows], val_rows=val, val_targets=labels[val], **fields)


def same(a: FittedProbe, b: FittedProbe) -> bool:
    arrays = ("weight", "bias", "center", "scale")
    return all(np.array_equal(getattr(a, k), getattr(b, k)) for k in arrays) and a.history == b.history


# --- probes: many at once ---------------------------------------------------------------------------------------------


def mixed_jobs(features: Floats) -> list[ProbeJob]:
    jobs = []
    for i in range(45):
        pick = np.random.default_rng(i)
        settings = replace(QUICK, lr=float(pick.choice([0.003, 0.02, 0.1])), l2=float(pick.choice([0, 0.01, 1])))
        loss: Loss = Xent() if i % 3 else LogConf(alpha=float(pick.uniform()), warmup=float(pick.uniform()))
        rows = TRAIN if i % 2 else TRAIN + 5
        jobs.append(job(features, labels=i % 7, settings=settings, loss=loss, seed=i % 4, rows=rows))
    return jobs


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("num", [2, 3, 5, 40])
def test_a_student_alone_is_the_same_among_many(num: int) -> None:
    """Bitwise, whatever stands beside it."""
    features = candidates(num)
    jobs = mixed_jobs(features)
    together = fit_probes(features, jobs, CPU)
    for i in (0, 1, 2, 5, 30, 44):
        assert same(fit_probes(features, [jobs[i]], CPU)[0], together[i])
    backwards = fit_probes(features, jobs[::-1], CPU)
    assert all(same(a, b) for a, b in zip(backwards, together[::-1], strict=True))


@pytest.mark.parametrize("num", [2, 3])
@pytest.mark.parametrize("n", [1, 2, 33, 37])
def test_odd_numbers_of_rows_leave_each_student_the_same_alone(num: int, n: int) -> None:
    features = candidates(num)
    jobs = [
        job(features, labels=i % 10, rows=np.arange(n), val=VAL[:7], loss=LogConf() if i % 2 else Xent())
        for i in range(31)
    ]
    together = fit_probes(features, jobs, CPU)
    assert all(same(fit_probes(features, [jobs[i]], CPU)[0], together[i]) for i in (0, 1, 29, 30))


@pytest.mark.parametrize("num", [2, 3])
def test_how_students_are_bundled_changes_nothing(num: int, monkeypatch: pytest.MonkeyPatch) -> None:
    features = candidates(num)
    jobs = mixed_jobs(features)
    together = fit_probes(features, jobs, CPU)
    for name, value in (("_MAX_COLUMNS", 32), ("_MAX_ROWS_BYTES", 1)):
        monkeypatch.setattr(engine, name, value)
        assert all(same(a, b) for a, b in zip(fit_probes(features, jobs, CPU), together, strict=True))


# --- probes: against references ---------------------------------------------------------------------------------------


def plain_loop(features: Floats, given: ProbeJob) -> Floats:
    """The scorer's weights (d,) after the last epoch, in double precision and torch's own words."""
    rows = features[given.rows].astype(np.float64)
    x = torch.from_numpy((rows - rows.mean((0, 1))) / rows.std((0, 1)))
    targets, settings = torch.from_numpy(given.targets.astype(np.float64)), given.settings
    weight = torch.zeros(D, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([weight], lr=settings.lr)
    generator = torch.Generator().manual_seed(given.seed)
    epochs = settings.passes(len(x))
    updates, done = epochs * math.ceil(len(x) / settings.batch_size), 0
    memory = torch.zeros_like(targets)
    for _ in range(epochs):
        for batch in torch.split(torch.randperm(len(x), generator=generator), settings.batch_size):
            logits, loss = x[batch] @ weight, given.loss
            if isinstance(loss, StatefulLoss):
                memory[batch] = loss.remember(memory[batch], logits)
                loss = loss.with_memory(memory[batch])
            losses: Tensor = loss(logits, targets[batch], done / updates)
            optimizer.zero_grad()
            (losses.mean() + settings.l2 / 2 * weight.square().sum()).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            done += 1
    return weight.detach().numpy()


@pytest.mark.parametrize("num", [2, 3])
@pytest.mark.parametrize(
    ("loss", "batch_size"), [*((loss, 32) for loss in EVERY_LOSS), *((loss, b) for loss in LOSSES for b in (50, 999))]
)
def test_a_plain_loop_gives_the_same(num: int, loss: Loss, batch_size: int) -> None:
    features = candidates(num)
    settings = replace(QUICK, early_stopping=False, l2=0.1, batch_size=batch_size)
    given = job(features, loss=loss, settings=settings, seed=3)
    (fitted,) = fit_probes(features, [given], CPU)
    np.testing.assert_allclose(fitted.weight[:, 0], plain_loop(features, given), atol=1e-4)
    assert fitted.weight.shape == (D, 1)
    assert fitted.bias.tolist() == [0]


def test_of_pairs_it_is_logistic_regression_on_differences() -> None:
    features = candidates(2)
    labels = soft_labels(features).argmax(1)
    certain = np.eye(2, dtype=np.float32)[labels]
    l2 = 0.1
    settings = ProbeSettings(epochs=400, batch_size=150, lr=0.02, l2=l2, early_stopping=False)
    (fitted,) = fit_probes(features, [ProbeJob(TRAIN, certain[TRAIN], VAL, certain[VAL], Xent(), settings, 0)], CPU)
    difference = (features[:, 1] - features[:, 0]) / fitted.scale
    reference = LogisticRegression(C=1 / (l2 * len(TRAIN)), fit_intercept=False, tol=1e-8, max_iter=5000)
    reference.fit(difference[TRAIN], labels[TRAIN])
    np.testing.assert_allclose(fitted.weight[:, 0], reference.coef_[0], atol=5e-3)
    np.testing.assert_allclose(fitted.predict(features), reference.predict_proba(difference), atol=5e-3)


@pytest.mark.parametrize("num", [2, 4])
def test_moments_are_of_all_candidates_of_the_training_rows(num: int) -> None:
    features = candidates(num)
    (fitted,) = fit_probes(features, [job(features)], CPU)
    flat = features[TRAIN].reshape(-1, D)
    np.testing.assert_allclose(fitted.center, flat.mean(0), rtol=1e-5)
    np.testing.assert_allclose(fitted.scale, flat.std(0), rtol=1e-5)


@pytest.mark.parametrize("num", [2, 3])
def test_the_kept_epoch_agrees_as_its_history_says(num: int) -> None:
    features = candidates(num)
    given = job(features, settings=ProbeSettings(epochs=8, lr=0.3, l2=0))
    (fitted,) = fit_probes(features, [given], CPU)
    probs, kept = fitted.predict(features[VAL]), fitted.history[fitted.best_epoch]
    assert (probs.argmax(1) == given.val_targets.argmax(1)).mean() == pytest.approx(kept["agreement"])
    assert -(given.val_targets * np.log(probs)).sum(1).mean() == pytest.approx(kept["xent"], rel=1e-4)
    assert kept["agreement"] == max(h["agreement"] for h in fitted.history)


# --- probes: the order of candidates ----------------------------------------------------------------------------------


@pytest.mark.parametrize("num", [2, 3, 5])
def test_predictions_follow_the_order_of_the_candidates(num: int) -> None:
    features = candidates(num)
    (fitted,) = fit_probes(features, [job(features)], CPU)
    probs, order = fitted.predict(features), np.random.default_rng(0).permutation(num)
    np.testing.assert_allclose(fitted.predict(features[:, order]), probs[:, order], atol=1e-6)
    if num == 2:
        np.testing.assert_allclose(fitted.predict(features[:, ::-1])[:, 1], 1 - probs[:, 1], atol=1e-6)


@pytest.mark.parametrize("num", [2, 3])
def test_shuffling_the_candidates_of_each_row_trains_the_same_scorer(num: int) -> None:
    features = candidates(num)
    labels = soft_labels(features)
    order = np.argsort(np.random.default_rng(1).random((N, num)), axis=1)
    shuffled = np.take_along_axis(features, order[:, :, None], axis=1)
    relabelled = np.take_along_axis(labels, order, axis=1)
    first, second = (
        fit_probes(x, [ProbeJob(TRAIN, y[TRAIN], VAL, y[VAL], Xent(), QUICK, 0)], CPU)[0]
        for x, y in ((features, labels), (shuffled, relabelled))
    )
    np.testing.assert_allclose(first.weight, second.weight, atol=1e-4)


def test_equal_candidates_are_a_toss() -> None:
    features = candidates(2)
    features[:, 1] = features[:, 0]
    (fitted,) = fit_probes(features, [job(features)], CPU)
    assert (fitted.predict(features) == 0.5).all()


@pytest.mark.parametrize("num", [2, 3])
def test_features_and_probes_come_back_from_disk(num: int, tmp_path: Path) -> None:
    features = candidates(num)
    (fitted,) = fit_probes(features, [job(features)], CPU)
    fitted.save(tmp_path)
    Features(ids=np.array([f"{i:03}" for i in range(N)]), views={"mean": features}).save(tmp_path)
    loaded = Features.load(tmp_path).views["mean"]
    assert np.array_equal(loaded, features)
    assert np.array_equal(FittedProbe.load(tmp_path).predict(loaded), fitted.predict(features))


# --- a task of choices ------------------------------------------------------------------------------------------------


def certain(data: Examples) -> Floats:
    assert data.gold is not None
    return np.eye(data.num_classes, dtype=np.float32)[data.gold]


@pytest.mark.parametrize("num", [2, 3])
def test_embedding_gives_the_features_of_every_candidate_in_its_place(model: Path, num: int) -> None:
    data, spec = chosen_words(rows=9, candidates=num), ModelSpec.parse(str(model))
    ids = np.array([f"{i}-{c}" for i in range(9) for c in range(num)])
    flat = Examples(ids=ids, inputs=data.texts, gold=None, classes=data.classes, groups=ids)
    found, expected = (steps.embed(spec, part, 20, CPU).views["mean"] for part in (data, flat))
    assert found.shape[:2] == (9, num)
    np.testing.assert_array_equal(found.reshape(9 * num, -1), expected)


@pytest.mark.parametrize(
    ("num", "train"),
    [(2, "probe(epochs=6, lr=0.03)"), (3, "finetune(epochs=2, lr=0.01, max_tokens=12, batch_size=8)")],
)
def test_a_whole_experiment_on_choices(make: MakeExperiment, store: Store, num: int, train: str) -> None:
    """Whatever places the right candidates have, a scorer that works beats the majority place by far."""
    experiment = make(
        task=f"chosen-words(candidates={num})",
        train=train,
        weak_train="probe(epochs=6, lr=0.03)",
        strategy="confidence",
    )
    (row,) = run(experiment, store.root, CPU, quiet=True).to_dicts()
    assert row["num_classes"] == num
    assert row["ceiling"] > 0.9
    assert row["majority"] == pytest.approx(1 / num)


# --- controls ---------------------------------------------------------------------------------------------------------


def clusters(features: Floats, weak: Floats) -> Ints:
    ids = np.array([f"{i:03}" for i in range(N)])
    split = Split(parts={"B": ids[:150], "T": ids[150:]})
    views = Features(ids=ids, views={"mean": features})
    return steps.cluster(views, Labels(ids=ids, probs=weak, source="test"), split, "mean", 0).hard


@pytest.mark.parametrize("num", [2, 3])
def test_clusters_score_by_what_differs_most_between_candidates(num: int) -> None:
    """The direction itself takes no label: the weak ones only turn it round, and what all candidates share is gone."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(N, num, D)).astype(np.float32) * 0.1 + 20 * rng.normal(size=(N, 1, D)).astype(
        np.float32
    )
    better = rng.integers(num, size=N)
    features[np.arange(N), better, :6] += 5
    weak = np.full((N, num), 0.4 / (num - 1), dtype=np.float32)
    weak[np.arange(N), better] = 0.6
    found = clusters(features, weak)
    assert (found == better[150:]).mean() == 1
    order = rng.permutation(num)
    assert (order[clusters(features[:, order], weak[:, order])] == found).all()
    if num == 2:
        assert (clusters(features, 1 - weak) == 1 - found).all()


# --- finetuning -------------------------------------------------------------------------------------------------------

SHORT = FinetuneSettings(epochs=1, batch_size=8, lr=0.01, max_tokens=20, checks=2)


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("choice-models")
    return {kind: make_model(base / kind, kind) for kind in KINDS}


def finetuned(
    folder: Path, data: Examples, settings: FinetuneSettings = SHORT, loss: Loss | None = None, **changed: Any
) -> FinetunedModel:
    texts, targets, held = data.readings, certain(data), len(data) // 4
    runtime = replace(CPU, **changed)
    return finetune(
        folder, texts[held:], targets[held:], texts[:held], targets[:held], loss or Xent(), settings, 0, runtime
    )


@pytest.mark.parametrize(("kind", "num"), [*zip(KINDS, (2, 3, 2), strict=True)])
def test_one_head_learns_to_score_and_follows_the_order_of_candidates(
    folders: dict[str, Path], kind: str, num: int, tmp_path: Path
) -> None:
    data = chosen_words(candidates=num)
    fitted = finetuned(folders[kind], data, replace(SHORT, epochs=3))
    assert fitted.state["head.weight"].shape[0] == 1
    fitted.save(tmp_path)
    loaded = FinetunedModel.load(tmp_path)
    probs = predict(folders[kind], loaded, data.readings, CPU)
    np.testing.assert_allclose(probs.sum(1), 1, atol=1e-6)
    assert (probs.argmax(1) == data.gold).mean() > 0.9
    order = np.random.default_rng(0).permutation(num)
    turned = [tuple(candidates[c] for c in order) for candidates in data.readings]
    np.testing.assert_allclose(predict(folders[kind], loaded, turned, CPU), probs[:, order], atol=1e-5)


def test_the_head_starts_from_zero_so_every_candidate_is_as_good(folders: dict[str, Path]) -> None:
    data = chosen_words(rows=24, candidates=3)
    fitted = finetuned(folders["bert"], data, replace(SHORT, lr=1e-12, early_stopping=False))
    np.testing.assert_allclose(predict(folders["bert"], fitted, data.readings, CPU), 1 / 3, atol=1e-6)


@pytest.mark.parametrize("num", [2, 3])
@pytest.mark.parametrize("loss", LOSSES)
def test_the_microbatch_counts_whole_examples_and_changes_no_gradient(
    folders: dict[str, Path], num: int, loss: Loss
) -> None:
    data = chosen_words(rows=11, candidates=num)
    targets = torch.softmax(torch.linspace(-2, 2, 11 * num).reshape(11, num).sin() * 3, dim=1)

    def gradient(microbatch: int) -> tuple[float, Tensor, list[int]]:
        model = build(folders["gpt2"], SHORT, 1, seed=0).train()
        torch.nn.init.normal_(model.head.weight, generator=torch.Generator().manual_seed(0))
        sizes: list[int] = []
        model.register_forward_hook(lambda module, arguments, output: sizes.append(len(output)))
        rows = token_rows(load_tokenizer(folders["gpt2"]), data.readings, 20)
        value = accumulate(model, rows, targets, loss, 0.5, microbatch=microbatch, seed=(0, 0))
        return value, torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]), sizes

    value, expected, whole = gradient(0)
    assert whole == [11 * num]
    for microbatch in (1, 4):
        other, found, sizes = gradient(microbatch)
        assert other == pytest.approx(value, abs=1e-5)
        torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)
        assert max(sizes) == microbatch * num
        assert sum(sizes) == 11 * num * (1 if loss.per_example else 2)


def test_whole_runs_agree_at_every_microbatch_size_and_repeat_to_the_bit(folders: dict[str, Path]) -> None:
    data = chosen_words(rows=40, candidates=3)
    for loss in (Xent(), LogConf()):
        first, again, small = (finetuned(folders["bert"], data, loss=loss, microbatch=m) for m in (0, 0, 3))
        assert all(torch.equal(first.state[k], again.state[k]) for k in first.state)
        probs = [predict(folders["bert"], fitted, data.readings, CPU) for fitted in (first, small)]
        np.testing.assert_allclose(probs[1], probs[0], atol=1e-3)


def test_what_cannot_be_is_refused(folders: dict[str, Path]) -> None:
    data = chosen_words(rows=12)
    with pytest.raises(UserError, match="use head='zero'"):
        finetuned(folders["gpt2"], data, replace(SHORT, head="words", words=("no", "yes")))
    with pytest.raises(ValueError, match="as many candidates as there are classes"):
        finetune(
            folders["bert"],
            data.readings,
            np.full((12, 3), 1 / 3),
            data.readings,
            np.full((12, 3), 1 / 3),
            Xent(),
            SHORT,
            0,
            CPU,
        )
    fitted = finetuned(folders["bert"], data)
    with pytest.raises(UserError, match="another model"):
        predict(folders["bert"], fitted, data.texts, CPU)
