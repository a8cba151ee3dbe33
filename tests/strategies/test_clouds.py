"""Clouds as a student, `auto`, and class shares matched: what they promise, and numbers of another implementation."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from conftest import MakeExperiment
from outgrow import steps
from outgrow.data import Features, Labels, Split
from outgrow.engine.store import Store
from outgrow.errors import UserError
from outgrow.experiment import run_steps, wire
from outgrow.models.settings import LogisticSettings
from outgrow.runtime import Runtime
from outgrow.steps.heads import _fit_cloud_heads

CPU = Runtime(device="cpu", offline=True, say=lambda line: None)
IDS = np.array([f"row-{i:03d}" for i in range(500)])
SPLIT = Split(parts={"A": IDS[:90], "A_val": IDS[90:100], "B": IDS[100:280], "B_val": IDS[280:300], "T": IDS[300:]})


def published() -> tuple[Features, Labels, Split, Any]:
    """900 rows of 40 normal numbers, six of which tell the class; a supervisor that is wrong in a quarter of B."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 900)
    signal = 0.6 * np.where(y, 1, -1)[:, None] * (np.arange(40) < 6)
    x = (rng.normal(size=(900, 40)) + signal).astype(np.float32)
    weak = np.where(rng.random(900) < 0.75, y, 1 - y)
    probs = np.full((900, 2), 0.2, np.float32)
    probs[np.arange(900), weak] = 0.8
    ids = np.array([f"row-{i:03d}" for i in range(900)])
    none = ids[:0]
    split = Split(parts={"B": ids[:400], "B_val": none, "A": ids[400:600], "A_val": none, "T": ids[600:]})
    return Features(ids=ids, views={"mean": x}), Labels(ids=ids, probs=probs, source="weak"), split, y[600:]


def heads(features: Features, labels: Labels, split: Split, shares: Any = "weak", view: str = "mean") -> dict[str, Any]:
    given: dict[str, Any] = {"features": features, "labels": labels, "split": split, "part": "B"}
    exact = steps.fit_logistic(**given, logistic=LogisticSettings(view=view, l2=1.0), runtime=CPU)
    options: dict[str, Any] = {"components": 256, "shrinkage": 0.3, "anchor": 1.0, "rounds": 50}
    clouds = steps.fit_cloud_head(**given, view=view, **options, shares=shares, runtime=CPU)
    matched = []
    for head in (exact, clouds):
        said = steps.predict_probe(head, features, split, steps.NOT_T)
        matched.append(steps.match_shares(head, said, labels, split, "B", shares))
    both = steps.blend_heads((exact, clouds), (1.0, 0.5), shares=shares, **given)
    return {"regression": exact, "matched": matched[0], "clouds": matched[1], "auto": both}


def test_the_numbers_are_those_of_the_implementation_that_was_run_on_unseen_tasks() -> None:
    features, labels, split, gold = published()
    test = features.views["mean"][600:]
    made = {name: head.logits(test) for name, head in heads(features, labels, split).items()}
    right = {name: round(float((z.argmax(axis=1) == gold).mean()), 4) for name, z in made.items()}
    assert right == {"regression": 0.8067, "matched": 0.8767, "clouds": 0.92, "auto": 0.9}
    assert made["auto"][0, 1] - made["auto"][0].mean() == pytest.approx(1.6931, abs=2e-4)


def scene(num_classes: int, choices: bool = False) -> tuple[Features, Labels, Any]:
    """Clouds, or candidates of which the right one lies apart; soft labels of which a third are wrong."""
    rng = np.random.default_rng(num_classes)
    truth = rng.integers(num_classes, size=500)
    shape = (500, num_classes, 8) if choices else (500, 8)
    rows = rng.normal(size=shape)
    if choices:
        rows[np.arange(500), truth, :3] += 1.5
    else:
        rows[np.arange(500), truth] += 2
    odds = 1.2 * np.eye(num_classes)[truth] + rng.normal(size=(500, num_classes))
    probs = np.exp(odds) / np.exp(odds).sum(axis=1, keepdims=True)
    labels = Labels(ids=IDS, probs=probs.astype(np.float32), source="weak")
    return Features(ids=IDS, views={"mean": rows.astype(np.float32)}), labels, truth


def said(head: Any, features: Features, parts: tuple[str, ...] = ("T",)) -> Any:
    return steps.predict_probe(head, features, SPLIT, parts).hard


@pytest.mark.parametrize("choices", [False, True], ids=["texts", "choices"])
@pytest.mark.parametrize("num_classes", [2, 3, 5])
def test_they_outgrow_labels_of_any_number_of_classes(num_classes: int, choices: bool) -> None:
    features, labels, truth = scene(num_classes, choices)
    made = heads(features, labels, SPLIT, "none" if choices else "weak")
    weak = (labels.hard[300:] == truth[300:]).mean()
    for name in ("clouds", "auto"):
        assert (said(made[name], features) == truth[300:]).mean() > weak + 0.05


def clouds_of(features: Features, labels: Labels, shares: Any = "none", **options: Any) -> Any:
    given: dict[str, Any] = {"features": features, "labels": labels, "split": SPLIT, "part": "B", "view": "mean"}
    options = {"components": 256, "shrinkage": 0.3, "anchor": 1.0, "rounds": 50, **options}
    return steps.fit_cloud_head(**given, **options, shares=shares, runtime=CPU)


@pytest.mark.parametrize("num_classes", [2, 3])
def test_a_heavy_anchor_gives_the_discriminant_of_the_weak_classes(num_classes: int) -> None:
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    features, labels, _ = scene(num_classes)
    rows = features.views["mean"]
    alone = Split(parts={**SPLIT.parts, "A": IDS[:0], "A_val": IDS[:0], "B_val": IDS[:0]})
    given: dict[str, Any] = {"features": features, "labels": labels, "split": alone, "part": "B", "view": "mean"}
    options: dict[str, Any] = {"components": 8, "shrinkage": 1e-6, "anchor": 1e4, "rounds": 50, "shares": "none"}
    found = steps.fit_cloud_head(**given, **options, runtime=CPU).predict(rows)
    plain = LinearDiscriminantAnalysis(solver="lsqr").fit(rows[100:280], labels.hard[100:280])
    np.testing.assert_allclose(found, plain.predict_proba(rows), atol=2e-3)


def test_clouds_are_the_same_alone_and_among_others() -> None:
    features, labels, _ = scene(3)
    alone = clouds_of(features, labels)
    given: dict[str, Any] = {"features": features, "split": SPLIT, "part": "B", "view": "mean", "components": 256}
    given |= {"shrinkage": 0.3, "rounds": 50, "shares": "none"}
    together = _fit_cloud_heads(
        [{**given, "labels": of, "anchor": a} for of in (labels, scene(3)[1]) for a in (0.5, 1.0)], CPU
    )
    for made in together[1::2]:
        assert np.array_equal(made.weight, alone.weight)
        assert np.array_equal(made.bias, alone.bias)


@pytest.mark.parametrize("shares", ["weak", "uniform", (0.6, 0.3, 0.1)])
def test_matched_shares_are_those_that_were_asked_for(shares: Any) -> None:
    features, labels, _ = scene(3)
    made = heads(features, labels, SPLIT, shares)
    wanted = {"weak": labels.probs[100:280].mean(axis=0), "uniform": np.full(3, 1 / 3)}.get(str(shares), shares)
    for name in ("matched", "clouds"):
        found = np.bincount(said(made[name], features, steps.NOT_T), minlength=3)
        assert np.abs(found - 300 * np.asarray(wanted)).max() <= 1.5


def test_shares_that_do_not_fit_are_one_line() -> None:
    features, labels, _ = scene(3)
    with pytest.raises(UserError, match="clouds has 2 shares and the task 3 classes"):
        clouds_of(features, labels, (0.5, 0.5))


# --- whole experiments ------------------------------------------------------------------------------------------------

TRAINERS = ("probe(epochs=4, lr=0.03, shares='uniform')", "logistic(l2=0.1, shares=(0.3, 0.7))",
            "finetune(epochs=1, lr=0.01, batch_size=16, checks=1, shares='weak')")  # fmt: skip


@pytest.mark.parametrize("train", TRAINERS)
def test_a_trainers_classes_have_the_shares_that_were_asked_for(make: MakeExperiment, store: Store, train: str) -> None:
    plain = train.partition(", shares")[0] + ")"
    experiments = [make(train=t, weak_train="logistic(max_tokens=4)", seeds=(0,)) for t in (train, plain)]
    (target, unmatched), _ = run_steps(experiments, store, CPU)
    for role in ("student", "ceiling"):
        (matched,), (free,) = target.args[role], unmatched.args[role]
        shifted = matched.args["fitted"]
        assert shifted.args["fitted"].key == free.args["fitted"].key  # trained once
        split = store.read(shifted.args["split"])
        labels = store.read(shifted.args["labels"]).take(split.parts["B"]).probs
        wanted = {"weak": float(labels[:, 1].mean()), "uniform": 0.5}.get(shifted.args["shares"], 0.7)
        before = np.log(np.maximum(store.read(shifted.args["said"]).probs.astype(np.float64), 1e-300))
        on_t = [np.log(store.read(made).probs.astype(np.float64)) for made in (free, matched)]
        moved = (on_t[1] - on_t[0]) @ [-1, 1]
        if "finetune" in train:
            assert moved.mean() == pytest.approx(np.dot(store.read(shifted).offsets, [-1, 1]), abs=1e-3)
        assert moved.std() < 1e-3  # one number for all rows
        assert ((before @ [-1, 1] + moved.mean()) > 0).mean() == pytest.approx(wanted, abs=1.5 / len(before))


def test_the_regression_alone_is_the_logistic_trainer(make: MakeExperiment) -> None:
    alone = wire(make(strategy="auto(weight=0.0, shares='weak')", train="logistic(view='mean')"))
    trained = wire(make(strategy="naive", train="logistic(l2=1.0, view='mean', shares='weak')"))
    for role in ("student", "ceiling"):
        assert [s.key for s in alone.args[role]] == [s.key for s in trained.args[role]]


# --- the guard --------------------------------------------------------------------------------------------------------


def test_without_a_model_only_the_labels_are_looked_at() -> None:
    _, labels, _ = scene(2)
    assert steps.guard_shares(labels, SPLIT, CPU)["shares"] == "weak"
    one_sided = replace(labels, probs=np.tile(np.array([0.55, 0.45], dtype=np.float32), (500, 1)))
    found = steps.guard_shares(one_sided, SPLIT, CPU)
    assert found["shares"] == "none"
    assert found["distance"] == pytest.approx(0.45, abs=1e-6)
    assert "0.45 apart" in found["why"]


def test_a_calibrated_supervisor_is_seldom_distrusted() -> None:
    """Over 300 samples of 50 held-out rows; one that says .3 for .127 is found out nearly always."""
    rng = np.random.default_rng(1)
    distrusted = {0.127: 0, 0.3: 0}
    for said in distrusted:
        for _ in range(300):
            split = Split(parts={**SPLIT.parts, "A": IDS[:50], "A_val": IDS[50:100]})
            gold = Labels.from_classes(IDS, (rng.random(500) < 0.127).astype(np.int64), 2, "gold")
            weak = Labels.from_classes(IDS, (rng.random(500) < said).astype(np.int64), 2, "weak")
            found = steps.guard_shares(weak, split, CPU, held_out=weak.take(split.parts["A_val"]), gold=gold)
            distrusted[said] += found["shares"] == "none"
    assert distrusted[0.127] < 0.1 * 300
    assert distrusted[0.3] > 0.5 * 300


def test_heads_whose_own_shares_are_near_are_left_alone() -> None:
    features, labels, _ = scene(3)
    given: dict[str, Any] = {"features": features, "labels": labels, "split": SPLIT, "part": "B"}
    exact = steps.fit_logistic(**given, logistic=LogisticSettings(view="mean", l2=1.0), runtime=CPU)
    told = steps.predict_probe(exact, features, SPLIT, steps.NOT_T)
    soft = labels.probs[100:280].mean(axis=0)
    own = np.bincount(told.hard, minlength=3) / 300
    distance, chance = np.square(own - soft).sum(), (soft * (1 - soft)).sum()
    rows = chance / distance
    for used, moved in ((rows * 1.01, True), (rows * 0.99, False)):
        shares = {"shares": "weak", "rows": used}
        made = steps.match_shares(exact, told, labels, SPLIT, "B", shares)
        assert np.array_equal(made.bias, exact.bias) != moved
    assert steps.match_shares(exact, told, labels, SPLIT, "B", {"shares": "none", "rows": 1}) is exact


def test_a_choice_takes_no_shares(make: MakeExperiment) -> None:
    for changed in ({"train": "probe(shares='uniform')"}, {"weak_train": "logistic(shares='weak')"}):
        with pytest.raises(UserError, match="matches shares of classes, and chosen-words has choices"):
            wire(make(task="chosen-words", **changed))
    with pytest.raises(UserError, match="a choice has places"):
        wire(make(task="chosen-words", strategy="auto(shares=(0.5, 0.5))"))
    plain, words = (wire(make(task="chosen-words", strategy=s)) for s in ("auto", "auto(shares='weak')"))
    assert plain.args["student"][0].key == words.args["student"][0].key
