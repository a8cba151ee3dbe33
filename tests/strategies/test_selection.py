"""Rows of B chosen by what the supervisor's features know."""

from typing import Any

import numpy as np
import pytest

from conftest import MakeExperiment
from outgrow.data import Features, Labels, Split
from outgrow.engine.store import Store
from outgrow.errors import UserError
from outgrow.experiment import run_steps, wire
from outgrow.runtime import Runtime
from outgrow.strategies.selection import (
    out_of_fold,
    projected_rows,
    projection_scores,
    rows_of_other_folds,
    trusted_rows,
)

CPU = Runtime(device="cpu", offline=True, say=lambda line: None)
IDS = np.array([f"r{i:03d}" for i in range(400)])
SPLIT = Split(parts={"A": IDS[:150], "A_val": IDS[150:160], "B": IDS[160:320], "B_val": IDS[320:340], "T": IDS[340:]})


def labels_of(classes: Any, num_classes: int) -> Labels:
    return Labels.from_classes(IDS, np.asarray(classes), num_classes, "weak")


@pytest.mark.parametrize("shape", [(400, 5), (400, 3, 5)], ids=["texts", "choices"])
def test_what_the_supervisor_gets_wrong_on_a_is_not_trusted_on_b(shape: tuple[int, ...]) -> None:
    """It errs where the last number of what it reads is high: that is learned on A, and those rows of B go."""
    rng = np.random.default_rng(0)
    truth = rng.integers(3, size=400)
    rows = rng.normal(size=shape).astype(np.float32)
    said = (truth + (rng.random(400) < 0.5)) % 3
    rows[..., -1] = 0
    place: Any = (np.arange(400), said, -1) if len(shape) == 3 else (np.arange(400), -1)
    rows[place] = np.where(said == truth, -1, 1) + rng.normal(size=400) / 2
    features = Features(ids=IDS, views={"mean": rows})
    gold, weak = labels_of(truth, 3), labels_of(said, 3)
    given: dict[str, Any] = {"labels": weak, "split": SPLIT, "share": 0.4, "l2": 0.1}
    kept = trusted_rows(features, "mean", gold, weak.take(SPLIT.parts["A"]), **given)
    in_b = kept.ids[np.isin(kept.ids, SPLIT.parts["B"])]
    assert np.isin(SPLIT.parts["B_val"], kept.ids).all()
    right = (weak.take(in_b).hard == gold.take(in_b).hard).mean()
    assert right > 0.85 > (weak.take(SPLIT.parts["B"]).hard == gold.take(SPLIT.parts["B"]).hard).mean()
    if len(shape) == 2:
        counts = np.bincount(weak.take(SPLIT.parts["B"]).hard)
        assert (np.bincount(weak.take(in_b).hard) == np.ceil(0.4 * counts)).all()


def test_a_class_that_the_supervisor_never_said_of_a_has_the_mean_trust() -> None:
    said = np.where(np.arange(400) < 160, 0, np.arange(400) % 2)
    features = Features(ids=IDS, views={"mean": np.random.default_rng(0).normal(size=(400, 3)).astype(np.float32)})
    gold, weak = labels_of(np.arange(400) % 2, 2), labels_of(said, 2)
    given: dict[str, Any] = {"labels": weak, "split": SPLIT, "share": 0.5, "l2": 0.1}
    kept = trusted_rows(features, "mean", gold, weak.take(SPLIT.parts["A"]), **given)
    assert set(kept.hard) == {0, 1}


def test_folds_of_a_leave_every_row_out_once() -> None:
    gold = labels_of(np.arange(400) % 2, 2)
    given: dict[str, Any] = {"gold": gold, "split": SPLIT, "folds": 3, "seed": 5}
    learned = [rows_of_other_folds(**given, number=k) for k in range(3)]
    assert sum(len(rows) for rows in learned) == 2 * 150
    answers = tuple(
        Labels(ids=IDS[:150], probs=np.tile(np.eye(3, dtype=np.float32)[k], (150, 1)), source="fold") for k in range(3)
    )
    by = out_of_fold(answers=answers, **given)
    for row, who in zip(by.ids, by.hard, strict=True):
        assert row not in learned[who].ids
    with pytest.raises(UserError, match="A has 150 rows for 200 folds"):
        rows_of_other_folds(gold, SPLIT, folds=200, number=0, seed=0)


def test_the_projection_is_the_papers() -> None:
    rng = np.random.default_rng(1)
    weak, strong, y = rng.normal(size=(60, 4)) + 3, rng.normal(size=(60, 90)), rng.integers(2, size=60)
    place, reg = np.arange(60) % 4, 0.1

    def smoother(rows: Any, asked: Any) -> Any:
        kernel = (rows - rows.mean(axis=0)) @ (rows - rows.mean(axis=0)).T / len(rows)
        across = (asked - rows.mean(axis=0)) @ (rows - rows.mean(axis=0)).T / len(rows)
        return across @ np.linalg.inv(kernel + reg * np.trace(kernel) / len(rows) * np.eye(len(rows)))

    wanted = np.eye(2)[y] - np.eye(2)[y].mean(axis=0)
    said = np.zeros_like(wanted)
    for fold in range(4):
        said[place == fold] = smoother(weak[place != fold], weak[place == fold]) @ wanted[place != fold]
    true = np.linalg.norm(smoother(strong, strong) @ (wanted - said), axis=1)
    np.testing.assert_allclose(projection_scores(weak, strong, np.eye(2)[y], place, reg), true, rtol=1e-6)
    # Nothing is explained with a large ridge; with none the student's kernel explains all that the supervisor's cannot.
    np.testing.assert_allclose(projection_scores(weak, strong, np.eye(2)[y], place, 1e9), 0, atol=1e-6)
    free = projection_scores(weak, strong, np.eye(2)[y], place, 1e-9)
    assert np.abs(free - np.linalg.norm(wanted - said, axis=1)).max() < 0.35  # the mean of the rows is not explained


def test_rows_that_only_the_student_explains_are_kept() -> None:
    """Half of the labels are a function of what both see, the others of what the student alone sees."""
    rng = np.random.default_rng(2)
    shared, own = rng.normal(size=(2, 400))
    by_own = np.arange(400) % 2 == 0
    classes = (np.where(by_own, own, shared) > 0).astype(np.int64)
    shared, own = np.where(by_own, 0, shared), np.where(by_own, own, 0)
    strong = Features(ids=IDS, views={"mean": np.stack([shared, own], axis=1).astype(np.float32)})
    weak = Features(ids=IDS, views={"first": shared[:, None].astype(np.float32)})
    given: dict[str, Any] = {"labels": labels_of(classes, 2), "split": SPLIT, "reg": 0.1, "folds": 5, "seed": 0}
    kept = projected_rows(strong, "mean", weak, "first", share=0.5, **given)
    in_b = np.isin(IDS, kept.ids) & np.isin(IDS, SPLIT.parts["B"])
    assert in_b.sum() == 80
    assert by_own[in_b].mean() > 0.75


@pytest.mark.parametrize("name", ["trusted", "projected"])
def test_a_share_of_one_is_naive(make: MakeExperiment, name: str) -> None:
    plain, whole = (wire(make(strategy=s)).args["student"] for s in ("naive", f"{name}(share=1.0)"))
    assert [s.key for s in plain] == [s.key for s in whole]


@pytest.mark.parametrize("train", ["logistic", "finetune(epochs=1, batch_size=32)"])
def test_fewer_rows_train_the_student(make: MakeExperiment, store: Store, train: str) -> None:
    experiments = [
        make(strategy=s, train=train, weak_train="logistic(max_tokens=4)", seeds=(0,), ceiling=False)
        for s in ("trusted", "projected(share=0.25)")
    ]
    targets, _ = run_steps(experiments, store, CPU)
    for target, share in zip(targets, (0.5, 0.25), strict=True):
        (split,) = {s.key: s for s in _behind(target.args["student"][0]) if s.fn.__name__ == "keep"}.values()
        whole, kept = (len(store.read(s).parts["B"]) for s in (split.args["split"], split))
        assert kept == pytest.approx(share * whole, abs=1.5)


def _behind(target: Any) -> Any:
    from outgrow.engine.graph import in_order

    return in_order([target])


def test_a_choice_has_no_projection(make: MakeExperiment) -> None:
    with pytest.raises(UserError, match="projected reads texts or images"):
        wire(make(task="chosen-words", strategy="projected"))
