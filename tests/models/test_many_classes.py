"""More than two classes, from labels to the report."""

from pathlib import Path

import numpy as np
import pytest

from conftest import MakeExperiment
from outgrow.data import Features, Labels, Split
from outgrow.engine.graph import Step
from outgrow.engine.store import Store
from outgrow.experiment import Experiment, run_steps
from outgrow.report.run import write_report
from outgrow.results import predictions, table_of
from outgrow.runtime import Runtime
from outgrow.steps import cluster


@pytest.mark.parametrize("num_classes", [2, 3, 8])
def test_clusters_are_named_one_to_one_whatever_their_order(num_classes: int) -> None:
    rng = np.random.default_rng(0)
    gold = np.arange(40 * num_classes) % num_classes
    centers = 20 * np.eye(num_classes)[rng.permutation(num_classes)]
    ids = np.array([f"r{i:03}" for i in range(len(gold))])
    features = Features(ids=ids, views={"mean": (centers[gold] + rng.normal(size=centers[gold].shape)).astype("f4")})
    half = len(ids) // 2
    split = Split(parts={"A": ids[:0], "B": ids[:half], "T": ids[half:]})
    # A supervisor that is right more often than it takes any other class, so names can be told.
    wrong = rng.random(half) < 0.4
    labels = np.where(wrong, (gold[:half] + 1) % num_classes, gold[:half])
    weak = Labels.from_classes(ids[:half], labels, num_classes, "weak")
    found = cluster(features, weak, split, "mean", 0)
    assert (found.take(split.parts["T"]).hard == gold[half:]).all()


def test_three_classes_go_through_everything(make: MakeExperiment, store: Store, tmp_path: Path) -> None:
    strategies = ("naive", "confidence", "clusters", "shuffled")
    task = "words(rows=900, classes=3)"
    experiments: list[Experiment] = [make(task=task, strategy=s, seeds=(0,)) for s in strategies]
    targets: list[Step]
    targets, _ = run_steps(experiments, store, Runtime(device="cpu"))
    table = table_of([store.record(t) for t in targets])
    assert table["num_classes"].to_list() == [3] * 4
    assert table["majority"].to_list() == pytest.approx([1 / 3] * 4)
    for role in ("weak", "student", "ceiling"):
        for score in ("accuracy", "auroc", "ece"):
            assert table[f"{role}_{score}"].is_between(0, 1).all()
    assert table["ceiling_accuracy"][0] > 0.5
    rows = predictions(store, str(table["key"][0]))
    assert rows.columns[-3:] == ["p0", "p1", "p2"]
    assert len(set(rows["gold"])) == 3
    assert set(rows["predicted"]) <= set(rows["gold"])
    page = write_report(table, tmp_path / "report", title="Three", provenance={}).read_text(encoding="utf-8")
    assert "33.3" in page  # the majority class
