"""The store as data frames: one row per experiment, or one per test example."""

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from outgrow.data import Answers, Labels
from outgrow.engine.store import Record, Store
from outgrow.strategies import CONTROLS

if TYPE_CHECKING:
    import polars as pl

__all__ = ["finished", "predictions", "table_of"]

_ROLES = ("weak", "student", "ceiling")
_SCORES = ("accuracy", "auroc", "xent", "brier", "ece", "legal")


def finished(store: Store) -> Iterator[Record]:
    """The records of all finished experiments in the store."""
    for function in ("compare", "compare_answers"):
        yield from store.records(function)


def table_of(records: Iterable[Record]) -> "pl.DataFrame":
    """A tidy table from records of finished experiments.

    Columns: the experiment's fields (``task``, ``weak``, ``strong``, ``strategy``, ``train`` ...), ``control`` and
    ``key``; for each role ``weak``, ``student``, ``ceiling`` its ``<role>_accuracy`` (and ``auroc``, ``xent``,
    ``brier``, ``ece``, and ``legal`` of written answers); ``gain`` (student - weak), ``gap`` (ceiling - weak), ``pgr``
    and, where that is null, ``pgr_undefined`` with the reason; ``learned`` (the student's agreement with the weak
    labels minus that of their most frequent class); ``weak_texts_read``, ``_cut`` and ``_identical`` (texts of the
    task, how many were cut at ``max_tokens``, and how many differ from another only in what was cut; null
    where nothing is cut) and the same of ``student``; ``agreement_all``, ``_supervisor_right``,
    ``_supervisor_wrong``; ``majority`` (accuracy of always saying the most frequent class); ``num_test`` (test rows
    over all seeds).
    Every number with an interval has two more columns, ``..._low`` and ``..._high``; a bound of ``pgr`` is null beside
    a number where it is not bounded on that side.
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
    row |= _spread("learned", result.get("learned"))
    for role in ("weak", "student"):
        row |= {f"{role}_texts_{name}": value for name, value in _reading(result, role).items()}
    for name, value in result["agreement"].items():
        row |= _spread(f"agreement_{name}", value)
    return row | {"key": record["key"], "finished": record["finished"]}


def _reading(result: Mapping[str, Any], role: str) -> dict[str, int | None]:
    counts = result.get("reading", {}).get(role) or {}
    return {name: counts.get(key) for name, key in (("read", "texts"), ("cut", "cut"), ("identical", "identical"))}


def _spread(name: str, value: list[float | None] | None) -> dict[str, float | None]:
    middle, low, high = value or (None, None, None)
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
