"""Tables of results as ``outgrow.results`` gives them, made up."""

import json
from typing import Any

import polars as pl


def fake_row(weak: str = "glove", strong: str = "minilm-l6", strategy: str = "naive", **changes: Any) -> dict[str, Any]:
    """One row as ``results`` gives it; ``name=(value, low, high)`` sets a number and its interval."""
    row: dict[str, Any] = {"task": "sentiment", "weak": weak, "strong": strong, "strategy": strategy}
    row |= {
        "train": "probe",
        "weak_train": "probe",
        "validate_with": None,
        "sealed": None,
        "seeds": "0 1",
        "num_seeds": 2,
        "ceiling": True,
    }
    row |= {"supervisor_rows": None, "transfer_rows": None, "test_rows": None, "validation": 0.1, "balance": True}
    row |= {"control": strategy in ("shuffled", "clusters"), "num_test": 2000, "num_test_per_seed": 1000}
    row |= {
        "num_classes": 2,
        "majority": 0.5,
        "pgr_undefined": None,
        "gain_undefined": None,
        "key": f"{weak}-{strong}-{strategy}",
    }
    row |= {"scored_at": "balanced", "folds": 0, "per_class": None}
    row |= {"rows": json.dumps({"task": 3000, "left_out": {"balance": [1200, 1210], "sizes": [2, 2]}})}
    spreads: dict[str, Any] = {
        "weak_accuracy": (0.71, 0.70, 0.72),
        "student_accuracy": (0.74, 0.73, 0.75),
        "ceiling_accuracy": (0.80, 0.79, 0.81),
        "weak_balanced_accuracy": (0.71, 0.70, 0.72),
        "student_balanced_accuracy": (0.73, 0.72, 0.74),
        "ceiling_balanced_accuracy": (0.80, 0.79, 0.81),
        "gain": (0.03, 0.01, 0.05),
        "balanced_gain": (0.02, 0.01, 0.03),
        "gap": (0.09, 0.07, 0.11),
        "pgr": (0.33, 0.11, 0.55),
        "over_majority": (0.24, 0.21, 0.27),
        "over_shuffled": (0.24, 0.21, 0.27),
        "over_clusters": (0.04, 0.01, 0.07),
        "agreement_all": (0.85, 0.84, 0.86),
        "agreement_supervisor_right": (0.90, 0.89, 0.91),
        "agreement_supervisor_wrong": (0.70, 0.68, 0.72),
    }
    for name, value in spreads.items():
        row |= dict(zip((name, f"{name}_low", f"{name}_high"), changes.pop(name, value) or (None,) * 3, strict=True))
    return row | changes


def table(*rows: dict[str, Any]) -> pl.DataFrame:
    return pl.DataFrame(list(rows), infer_schema_length=None)


NO_CEILING: dict[str, Any] = {
    "ceiling_accuracy": None,
    "gap": None,
    "pgr": None,
    "pgr_undefined": "there is no ceiling",
}
_ROLE: dict[str, Any] = {
    "recall": [[0.95, 0.9, 1.0], [0.4, 0.3, 0.5], [None, None, None]],
    "precision": [[0.9, 0.8, 1.0], [0.5, 0.4, 0.6], [None, None, None]],
    "confusion": [[1710, 90, 0], [120, 80, 0], [0, 0, 0]],
}
OWN: dict[str, Any] = {
    "scored_at": "natural",
    "folds": 5,
    "num_classes": 3,
    "rows": json.dumps({"task": 1030, "left_out": {"no_label": [6, 6]}}),
    "per_class": json.dumps(
        {
            "classes": ["fine", "<i>bad</i>", "never"],
            "abstained": {"rows": 24, "student": {"accuracy": [0.875, 0.7, 0.96]}},
            "rows": [1800, 200, 0],
            **dict.fromkeys(("weak", "student", "ceiling"), _ROLE),
        }
    ),
}
NO_WEAK_TEST: dict[str, Any] = {
    **OWN,
    **NO_CEILING,
    **dict.fromkeys(("weak_accuracy", "weak_balanced_accuracy", "gain", "balanced_gain", "agreement_all")),
    "gain_undefined": "no test row has a weak label",
    "per_class": json.dumps({"classes": list("abc"), "abstained": None, "rows": [9, 1, 0], "student": _ROLE}),
}
NO_GOLD: dict[str, Any] = {
    **NO_WEAK_TEST,
    **dict.fromkeys(("student_accuracy", "student_balanced_accuracy", "majority", "per_class")),
    "agreement_all": (0.9, None, None),
    **dict.fromkeys(("gain_undefined", "pgr_undefined"), "no row has gold"),
    **dict.fromkeys(("num_test", "num_test_per_seed"), 0),
}
LADDER = ["glove", "minilm-l3", "minilm-l6", "smollm2-135m", "mpnet-base"]
HUB = f"hf:some-organisation/{'a-very-long-model-name-' * 4}7b@{'0123456789' * 4}"
TABLES: dict[str, pl.DataFrame] = {
    "one pair": table(fake_row()),
    "no ceiling": table(fake_row(**NO_CEILING)),
    "undefined beside defined": table(fake_row(), fake_row("minilm-l3", pgr=None, pgr_undefined="no <gap>")),
    "unbounded": table(fake_row(pgr=(-8.6, None, None)), fake_row("minilm-l3", pgr=(0.5, -40.0, 70.0))),
    "ten pairs": table(
        *(
            fake_row(weak, strong, strategy)
            for i, weak in enumerate(LADDER)
            for strong in LADDER[i + 1 :]
            for strategy in ("naive", "confidence", "bootstrap(steps=3)", "shuffled", "clusters")
        )
    ),
    "long names": table(fake_row("/data/models/tiny", HUB), fake_row("/other/tiny", HUB), fake_row(HUB, "/data/x/y z")),
    "odd names": table(fake_row("</script><b>", "a'\"\\b", "odd('x')", task="t$'{x}\n")),
    "several tasks": table(*(fake_row(task=t, train=p) for t in ("a", "b") for p in ("probe", "finetune(epochs=2)"))),
    "four classes": table(fake_row(num_classes=4, majority=0.25)),
    "supervisor never wrong": table(fake_row(agreement_supervisor_wrong=None)),
    "your own": table(fake_row(**OWN), fake_row(strategy="shuffled", **OWN)),
    "controls only": table(fake_row(strategy="shuffled")),
}
UNCOMPARED: dict[str, pl.DataFrame] = {
    "no weak labels to test on": table(fake_row(**NO_WEAK_TEST), fake_row(strategy="shuffled", **NO_WEAK_TEST)),
    "no gold": table(fake_row(**NO_GOLD), fake_row(strategy="shuffled", **NO_GOLD)),
    "no gold beside gold": table(fake_row(**NO_GOLD), fake_row("minilm-l3")),
}
"""Without a gain in some rows: these are in the tables, and in no picture."""
