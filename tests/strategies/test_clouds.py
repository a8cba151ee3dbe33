"""Clouds as a student, `auto`, and class shares matched: what they promise, and numbers of another implementation."""

from typing import Any

import numpy as np
import pytest

from outgrow import steps
from outgrow.data import Features, Labels, Split
from outgrow.models.settings import LogisticSettings
from outgrow.runtime import Runtime

CPU = Runtime(device="cpu", say=lambda line: None)


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
    options = {"components": 256, "shrinkage": 0.3, "anchor": 1.0, "rounds": 50}
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
