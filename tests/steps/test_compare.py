"""Steps that score: every low and high is an interval, and a student is held against its controls row by row."""

from typing import Any

import numpy as np
import pytest
from scipy import stats

from outgrow import steps
from outgrow.data import Answers, Examples, Floats, Labels

ROWS = 300


def drawn(seed: int, sharp: float, rows: int = ROWS) -> tuple[Examples, Labels, Labels]:
    """Texts, gold, and calibrated probabilities for it."""
    rng = np.random.default_rng(seed)
    ids = np.array([f"r{i:03d}" for i in range(rows)])
    p = 1 / (1 + np.exp(-sharp * rng.normal(size=rows)))
    gold = (rng.random(rows) < p).astype(np.int64)
    texts = Examples(ids=ids, inputs=("x",) * rows, gold=None, classes=("bad", "good"), groups=ids, meta={})
    return texts, Labels.from_classes(ids, gold, 2, "gold"), of_probs(ids, p)


def of_probs(ids: Any, p: Floats) -> Labels:
    return Labels(ids=ids, probs=np.stack([1 - p, p], axis=1).astype(np.float32), source="student")


def compared(truth: Labels, texts: Examples, seeds: int = 2, **roles: Labels) -> dict[str, Any]:
    given: dict[str, Any] = {name: (labels,) * seeds for name, labels in roles.items()}
    return steps.compare(texts=texts, truth=(truth,) * seeds, seeds=tuple(range(seeds)), **{"ceiling": (), **given})


@pytest.mark.parametrize("seeds", [1, 3])
def test_every_score_has_an_interval_and_not_the_range_of_the_seeds(seeds: int) -> None:
    texts, gold, student = drawn(0, 1.5)
    weak = drawn(1, 1.5)[2]
    found = compared(gold, texts, seeds, weak=weak, student=student)
    for role in ("weak", "student"):
        for name in ("accuracy", "xent", "brier", "auroc", "ece"):
            value, low, high = found[role][name]
            assert low < value < high, name  # all seeds are alike here: their range is a point
    for name in ("gain", "over_majority"):
        value, low, high = found[name]
        assert low < value < high
    majority = max(np.bincount(gold.hard)) / ROWS
    assert found["over_majority"][0] == pytest.approx(found["student"]["accuracy"][0] - majority)


def test_calibrated_probabilities_show_the_floor_and_an_interval_that_holds_zero() -> None:
    texts, gold, student = drawn(2, 1.5)
    ids = student.ids
    over = of_probs(ids, np.where(student.probs[:, 1] > 0.5, 0.999, 0.001))
    found = compared(gold, texts, weak=over, student=student)
    assert found["student"]["ece_floor"] == pytest.approx(found["student"]["ece"][0], rel=0.6)
    assert found["student"]["ece"][1] == 0
    assert found["weak"]["ece"][1] > 0.1 > 5 * found["weak"]["ece_floor"]


def test_auroc_has_delongs_variance() -> None:
    """DeLong et al. 1988, from all pairs of a positive and a negative row, written out."""
    texts, gold, student = drawn(5, 1.5)
    found = compared(gold, texts, 1, weak=student, student=student)
    score, positive = student.probs[:, 1], gold.hard == 1
    pairs = (score[positive][:, None] > score[~positive]) + 0.5 * (score[positive][:, None] == score[~positive])
    variance = sum(pairs.mean(axis=axis).var(ddof=1) / pairs.shape[1 - axis] for axis in (0, 1))
    area, low, high = found["student"]["auroc"]
    assert area == pytest.approx(pairs.mean())
    odds = np.log([low / (1 - low), high / (1 - high)])
    quantile = stats.t.ppf(0.975, min(positive.sum(), (~positive).sum()) - 1)
    assert np.diff(odds) / 2 == pytest.approx(quantile * np.sqrt(variance) / (area * (1 - area)), rel=0.01)


def test_a_separable_test_of_few_rows_is_no_certainty() -> None:
    """All right: nothing is 100.0 ± 0.0."""
    texts, _, _ = drawn(0, 1.0, 20)
    truth = np.arange(20) % 2
    gold, sure = Labels.from_classes(texts.ids, truth, 2, "gold"), of_probs(texts.ids, 0.02 + 0.96 * truth)
    weak = of_probs(texts.ids, 0.1 + 0.8 * truth)
    found = compared(gold, texts, weak=weak, student=sure, ceiling=of_probs(texts.ids, 0.01 + 0.98 * truth))
    assert found["student"]["accuracy"] == pytest.approx([1, 0.839, 1], abs=1e-3)
    assert found["student"]["auroc"][1] < 0.8
    assert found["gain"][1] < -0.1
    assert found["gain"][2] > 0.1
    assert found["pgr"] is None


def test_a_student_is_held_against_its_controls_row_by_row() -> None:
    texts, gold, student = drawn(3, 2.0)
    control = drawn(4, 2.0)[2]
    close = of_probs(student.ids, np.where(np.arange(ROWS) < 12, 1 - student.probs[:, 1], student.probs[:, 1]))
    given: dict[str, Any] = {"texts": texts, "truth": (gold, gold), "student": (student, student)}
    found = steps.against_controls(**given, controls=((control,) * 2, (close,) * 2), names=("far", "close"))
    apart = (student.hard == gold.hard).astype(float) - (close.hard == gold.hard)
    assert found["close"][0] == pytest.approx(apart.mean())
    assert found["far"][1] > 0
    assert found["close"][2] - found["close"][1] < (found["far"][2] - found["far"][1]) / 2  # paired

    def written(labels: Labels) -> Answers:
        return Answers(ids=labels.ids, texts=tuple(str(c) for c in labels.hard), source="written")

    answers: dict[str, Any] = {"texts": texts, "truth": (written(gold),) * 2, "student": (written(student),) * 2}
    same = steps.against_controls(**answers, controls=((written(control),) * 2,), names=("far",))
    assert same["far"] == found["far"]


def test_weak_labels_that_name_one_class_have_no_pgr() -> None:
    """Whatever a student does, it cannot have it from them; a ceiling is easily better."""
    texts, gold, sharp = drawn(5, 3.0)
    constant = of_probs(sharp.ids, np.full(ROWS, 0.9))
    found = compared(gold, texts, weak=constant, student=constant, ceiling=sharp)
    assert found["pgr"] is None
    assert found["pgr_undefined"] == "every weak label of the test names the same class"
    assert found["gain"] == [0, 0, 0]
    assert found["gap"][1] > 0


def test_a_reference_does_not_differ_from_itself() -> None:
    texts, gold, student = drawn(6, 2.0)
    weak = drawn(7, 1.0)[2]
    given: dict[str, Any] = {"weak": (weak,) * 2, "reference": (student,) * 2, "students": ((student,) * 2,)}
    found = steps.contrast(texts=texts, truth=(gold,) * 2, ceilings=(), ceiling_of=(0,), seeds=(0, 1), **given)
    for same in (found["reference"], found["students"][0]):
        assert same["difference"] == [0, 0, 0]
        assert same["difference_variance"] == 0
