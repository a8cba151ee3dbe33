"""The store as data frames: one row per experiment, or one per test example."""

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from outgrow.data import Answers, Labels
from outgrow.engine.store import Damaged, Record, Store
from outgrow.strategies import CONTROLS

if TYPE_CHECKING:
    import polars as pl

__all__ = ["finished", "predictions", "table_of"]

_ROLES = ("weak", "student", "ceiling")
_SCORES = ("accuracy", "auroc", "xent", "brier", "ece", "legal")


def finished(store: Store, unread: list[Damaged] | None = None) -> Iterator[Record]:
    """The records of all finished experiments in the store. Those that cannot be read are added to ``unread``."""
    for function in ("compare", "compare_answers"):
        for record in store.records(function, unread):
            try:
                _row(record)
            except Damaged as damage:
                if unread is not None:
                    unread.append(damage)
            else:
                yield record


def table_of(records: Iterable[Record]) -> "pl.DataFrame":
    """A tidy table from records of finished experiments.

    Columns: the experiment's fields (``task``, ``weak``, ``strong``, ``strategy``, ``train`` ...), ``control`` and
    ``key``; for each role ``weak``, ``student``, ``ceiling`` its ``<role>_accuracy`` (and ``auroc``, ``xent``,
    ``brier``, ``ece``, and ``legal`` of written answers); ``gain`` (student - weak), ``gap`` (ceiling - weak), ``pgr``
    and, where that is null, ``pgr_undefined`` with the reason; ``agreement_all``, ``_supervisor_right``,
    ``_supervisor_wrong``; ``majority`` (accuracy of always saying the most frequent class); ``num_test`` (test rows
    over all seeds).
    Every number with an interval has two more columns, ``..._low`` and ``..._high``; a bound of ``pgr`` is null beside
    a number where it is not bounded on that side.

    Raises:
        Damaged: if a record is not one of an experiment.
    """
    import polars as pl

    rows = [_row(record) for record in records if record["note"]]
    frame = pl.DataFrame(rows, infer_schema_length=None)
    nothing = [name for name, kind in frame.schema.items() if kind == pl.Null]  # such as every ceiling, where none is
    numbers = [name for name in nothing if name not in ("pgr_undefined", "weak_train")]
    frame = frame.with_columns(
        pl.col(numbers).cast(pl.Float64), pl.col([n for n in nothing if n not in numbers]).cast(pl.String)
    )
    return frame.sort("task", "train", "control", "strategy", "weak", "strong") if rows else frame


def _row(record: Record) -> dict[str, Any]:
    """Records come from files that others may have written: each value is held to what a table can show."""
    if not record["note"]:
        return {}
    try:
        row = dict.fromkeys((*_TEXTS, *_NUMBERS)) | _columns(record)
        for name, value in row.items():
            if not _fits(name, value):
                raise ValueError(f"{name} is {str(value)[:40]!r}")
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise Damaged(
            f"{record['fn']}/{record['key'][:12]} is no experiment of this edition ({type(error).__name__}: {error})"
        ) from None
    return row


def _fits(name: str, value: Any) -> bool:
    if name in _TEXTS:
        return isinstance(value, str)
    if isinstance(value, int | float):
        return math.isfinite(value) and abs(value) < 2**53
    return (value is None or isinstance(value, str)) and name not in _NUMBERS


_NUMBERS = (
    *("num_seeds", "num_test", "num_test_per_seed", "num_classes", "majority"),
    *("student_accuracy", "student_accuracy_low", "student_accuracy_high"),
)
_TEXTS = ("task", "weak", "strong", "strategy", "train", "weak_train", "seeds", "use", "key", "finished")


def _columns(record: Record) -> dict[str, Any]:
    experiment, result = record["note"]["experiment"], record["result"]
    row: dict[str, Any] = {**experiment, "weak_train": experiment["weak_train"] or experiment["train"]}
    row["seeds"] = " ".join(str(seed) for seed in experiment["seeds"])
    row["use"] = " ".join(f"{file['path']} ({file['sha256'][:12]})" for file in record["note"]["used"])
    row["num_seeds"] = len(experiment["seeds"])
    row["control"] = experiment["strategy"].partition("(")[0] in CONTROLS
    row |= {"num_test": result["test_rows"], "num_test_per_seed": result["test_rows_per_seed"]}
    row |= {name: result[name] for name in ("num_classes", "majority")}
    for role in _ROLES:
        for name in _SCORES:
            row |= _spread(f"{role}_{name}", (result.get(role) or {}).get(name))
    for name in ("gain", "gap", "pgr"):
        row |= _spread(name, result[name])
    row["pgr_undefined"] = result["pgr_undefined"]
    for name, value in result["agreement"].items():
        row |= _spread(f"agreement_{name}", value)
    return row | {"key": record["key"], "finished": record["finished"]}


def _spread(name: str, value: list[float | None] | None) -> dict[str, float | None]:
    middle, low, high = value or (None, None, None)
    if not all(v is None or (isinstance(v, int | float) and not isinstance(v, bool)) for v in (middle, low, high)):
        raise TypeError(f"{name} holds what is no number")
    return {name: middle, f"{name}_low": low, f"{name}_high": high}


def predictions(store: Store, key: str) -> "pl.DataFrame":
    """Every test example of one experiment, for each seed and role: ``seed``, ``role``, ``id``, ``gold``,
    ``predicted`` (class numbers) and the probabilities ``p0``, ``p1`` ...; of written answers ``gold`` and
    ``predicted`` are texts, and there are no probabilities.

    Raises:
        UserError: if no experiment, or more than one, has a key that starts with ``key``.
    """
    import polars as pl

    record = store.find(key)
    args: Mapping[str, Any] = record["args"]
    frames = []
    for i, seed in enumerate(args["seeds"]):
        truth: Labels | Answers = store.read_key(args["truth"][i]["$step"])
        for role in (r for r in _ROLES if args[r]):
            labels = store.read_key(args[role][i]["$step"]).take(truth.ids)
            if isinstance(truth, Answers):
                columns = {"id": truth.ids.tolist(), "gold": truth.texts, "predicted": labels.texts}
            else:
                columns = {"id": truth.ids.tolist(), "gold": truth.hard, "predicted": labels.hard}
                columns |= {f"p{c}": labels.probs[:, c] for c in range(labels.probs.shape[1])}
            frames.append(
                pl.DataFrame(columns).select(pl.lit(seed).alias("seed"), pl.lit(role).alias("role"), pl.all())
            )
    return pl.concat(frames)
