"""The store as data frames: one row per experiment, or one per test example."""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from outgrow.data import Answers, Labels
from outgrow.engine.store import Record, Store
from outgrow.strategies import CONTROLS, is_control

if TYPE_CHECKING:
    import polars as pl

__all__ = ["ROLES", "finished", "predictions", "table_of"]

ROLES = ("weak", "student", "ceiling")
_SCORES = ("accuracy", "balanced_accuracy", "auroc", "xent", "brier", "ece", "legal")


def finished(store: Store) -> Iterator[Record]:
    """The records of all finished experiments in the store, and of what holds students against their controls."""
    for function in ("compare", "compare_answers", "against_controls"):
        yield from store.records(function)


def table_of(records: Iterable[Record]) -> "pl.DataFrame":
    """A tidy table from records of finished experiments, one row each.

    A record of ``against_controls`` among them adds to the rows of its student.

    Columns: the experiment's fields (``task``, ``weak``, ``strong``, ``strategy``, ``train`` ...), ``control`` and
    ``key``; for each role ``weak``, ``student``, ``ceiling`` its ``<role>_accuracy`` (and ``balanced_accuracy``,
    ``auroc``, ``xent``, ``brier``, ``ece``, and ``legal`` of written answers); ``gain`` (student - weak),
    ``balanced_gain``, ``gap`` (ceiling - weak), ``pgr`` and, where they are null, ``gain_undefined`` and
    ``pgr_undefined`` with the reason; ``agreement_all``, ``_supervisor_right``, ``_supervisor_wrong``; ``majority``
    (accuracy of always saying the most frequent class); ``over_majority``, ``over_shuffled``, ``over_clusters``
    (student - control, paired row by row; null if the control was not run); ``num_test`` (test rows over all seeds).
    ``<role>_ece_floor`` is what perfect calibration would show as ``ece``.
    ``scored_at`` is ``natural`` if the test has the class shares of the data, ``balanced`` if it has equally many rows
    of each class; ``folds`` is 2 or more where students were cross-fitted. Two columns are JSON: ``rows`` says how many
    rows went where or were left out (:func:`outgrow.steps.compare.rows_used`), ``per_class`` has each role's recall,
    precision and confusion matrix. All scores are null where no row has gold.
    Every number with an interval has two more columns, ``..._low`` and ``..._high``; a bound of ``pgr`` is null beside
    a number where it is not bounded on that side.
    """
    import polars as pl

    records = list(records)
    against = {_student(r): r["result"] for r in records if r["fn"] == "against_controls"}
    rows = [_row(r, against.get(_student(r), {})) for r in records if r["note"]]
    frame = pl.DataFrame(rows, infer_schema_length=None)
    nothing = [name for name, kind in frame.schema.items() if kind == pl.Null]  # such as every ceiling, where none is
    numbers = [name for name in nothing if name not in ("gain_undefined", "pgr_undefined", "weak_train", "per_class")]
    frame = frame.with_columns(
        pl.col(numbers).cast(pl.Float64), pl.col([n for n in nothing if n not in numbers]).cast(pl.String)
    )
    return frame.sort("task", "train", "control", "strategy", "weak", "strong") if rows else frame


def _student(record: Record) -> str:
    """Whose test predictions a record is about."""
    return repr([record["args"][name] for name in ("truth", "student")])


def _row(record: Record, against: Mapping[str, Any]) -> dict[str, Any]:
    experiment, result = record["note"]["experiment"], record["result"]
    row: dict[str, Any] = {**experiment, "weak_train": experiment["weak_train"] or experiment["train"]}
    row["seeds"] = " ".join(str(seed) for seed in experiment["seeds"])
    row["use"] = " ".join(f"{file['path']} ({file['sha256'][:12]})" for file in record["note"]["used"])
    row["num_seeds"] = len(experiment["seeds"])
    row["control"] = is_control(experiment["strategy"])
    row |= {"num_test": result["test_rows"], "num_test_per_seed": result["test_rows_per_seed"]}
    row |= {name: result[name] for name in ("num_classes", "majority")}
    scoring = record["note"]["scoring"]
    row |= {"scored_at": "balanced" if scoring["balance"] else "natural", "folds": scoring["folds"]}
    for role in ROLES:
        for name in _SCORES:
            row |= _spread(f"{role}_{name}", (result.get(role) or {}).get(name))
        row[f"{role}_ece_floor"] = (result.get(role) or {}).get("ece_floor")
    for name in ("gain", "balanced_gain", "gap", "pgr"):
        row |= _spread(name, result.get(name))
    row |= {"gain_undefined": result.get("gain_undefined"), "pgr_undefined": result["pgr_undefined"]}
    if result["pgr_undefined"] == "there is no ceiling":
        row["pgr_undefined"] = scoring["no_ceiling"]
    row["rows"] = json.dumps(result["rows"])
    row["per_class"] = None
    if result.get("per_class"):
        row["per_class"] = json.dumps({k: result[k] for k in ("classes", "abstained")} | result["per_class"])
    for name, value in {"majority": result["over_majority"], **dict.fromkeys(CONTROLS), **against}.items():
        row |= _spread(f"over_{name}", value)
    for name, value in result["agreement"].items():
        row |= _spread(f"agreement_{name}", value)
    return row | {"key": record["key"], "finished": record["finished"]}


def _spread(name: str, value: list[float | None] | None) -> dict[str, float | None]:
    middle, low, high = value or (None, None, None)
    return {name: middle, f"{name}_low": low, f"{name}_high": high}


def predictions(store: Store, key: str) -> "pl.DataFrame":
    """Every test example of one experiment, for each seed and role: ``seed``, ``role``, ``id``, ``gold``,
    ``predicted`` (class numbers) and the probabilities ``p0``, ``p1`` ...; of written answers ``gold`` and
    ``predicted`` are texts, and there are no probabilities. ``gold`` is null where the task has none, and a role has no
    row where it gave no label.

    Raises:
        UserError: if no experiment, or more than one, has a key that starts with ``key``.
    """
    import polars as pl

    record = store.find(key)
    args: Mapping[str, Any] = record["args"]
    frames = []
    for i, seed in enumerate(args["seeds"]):
        student: Labels | Answers = store.read_key(args["student"][i]["$step"])
        truth: Labels | Answers = store.read_key(args["truth"][i]["$step"]) if args["truth"] else student
        for role in (r for r in ROLES if args[r]):
            labels = store.read_key(args[role][i]["$step"])
            kept = truth.take(truth.ids[np.isin(truth.ids, labels.ids)])  # weak labels of the user's may lack some
            labels = labels.take(kept.ids)
            if isinstance(kept, Answers):
                columns = {"id": kept.ids.tolist(), "gold": kept.texts, "predicted": labels.texts}
            else:
                gold = kept.hard.tolist() if args["truth"] else [None] * len(kept)
                columns = {"id": kept.ids.tolist(), "gold": pl.Series(gold, dtype=pl.Int64), "predicted": labels.hard}
                columns |= {f"p{c}": labels.probs[:, c] for c in range(labels.probs.shape[1])}
            frames.append(
                pl.DataFrame(columns).select(pl.lit(seed).alias("seed"), pl.lit(role).alias("role"), pl.all())
            )
    return pl.concat(frames)
