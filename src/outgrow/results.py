"""The store as data frames: one row per experiment, or one per test example."""

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import uuid4

import numpy as np

from outgrow.data import Answers, Labels
from outgrow.engine.store import Damaged, Record, Store
from outgrow.errors import UserError
from outgrow.strategies import CONTROLS, is_control

if TYPE_CHECKING:
    import polars as pl

__all__ = ["ROLES", "Count", "TimesScored", "count_tests", "finished", "predictions", "table_of", "tally"]

ROLES = ("weak", "student", "ceiling")
_SCORES = ("accuracy", "balanced_accuracy", "auroc", "xent", "brier", "ece", "legal")


def finished(store: Store, unread: list[Damaged] | None = None) -> Iterator[Record]:
    """The records of all finished experiments in the store, and of what holds students against their controls or
    forecasts their gain.

    Those that cannot be read are added to ``unread``.
    """
    about = {"against_controls": _against, "forecast": _forecast}
    for function in ("compare", "compare_answers", *about):
        for record in store.records(function, unread):
            try:
                _row(record, about[function](record) if function in about else {})
            except Damaged as damage:
                if unread is not None:
                    unread.append(damage)
            else:
                yield record


def table_of(records: Iterable[Record]) -> "pl.DataFrame":
    """A tidy table from records of finished experiments, one row each.

    A record of ``against_controls`` or ``forecast`` among them adds to the rows of its student.

    Columns: the experiment's fields (``task``, ``weak``, ``strong``, ``strategy``, ``train`` ...), ``control`` and
    ``key``; for each role ``weak``, ``student``, ``ceiling`` its ``<role>_accuracy`` (and ``balanced_accuracy``,
    ``auroc``, ``xent``, ``brier``, ``ece``, and ``legal`` of written answers); ``gain`` (student - weak),
    ``balanced_gain``, ``gap`` (ceiling - weak), ``pgr`` and, where they are null, ``gain_undefined`` and
    ``pgr_undefined`` with the reason; ``agreement_all``, ``_supervisor_right``, ``_supervisor_wrong``; ``majority``
    (accuracy of always saying the most frequent class); ``over_majority``, ``over_shuffled``, ``over_clusters``
    (student - control, paired row by row; null if the control was not run); ``num_test`` (test rows over all seeds).
    ``forecast`` is JSON, null where none was made: for every seed what each predictor of
    :func:`outgrow.steps.forecast` says, and the truth: ``gain``, ``brier_gain``, ``xent_gain``, ``student_brier``.
    ``<role>_ece_floor`` is what perfect calibration would show as ``ece``.
    ``scored_at`` is ``natural`` if the test has the class shares of the data, ``balanced`` if it has equally many rows
    of each class; ``folds`` is 2 or more where students were cross-fitted. Two columns are JSON: ``rows`` says how many
    rows went where or were left out (:func:`outgrow.steps.compare.rows_used`), ``per_class`` has each role's recall,
    precision and confusion matrix. ``notes`` says how the task's data was read, a line each.
    ``learned`` is the student's agreement with the weak labels minus that of their most frequent class;
    ``weak_texts_read``, ``_cut`` and ``_identical`` are the texts of the task, how many were cut at ``max_tokens``, and
    how many differ from another only in what was cut (null where nothing is cut); and the same of ``student``.
    ``weak_view`` and ``student_view`` are the features that their probes read (null where they are none).
    Where ``validate_with`` names a second supervisor, ``validation_accuracy`` is its accuracy on the test,
    ``validation_student`` and ``_weak`` its agreement with student and supervisor there, and ``validation_expected``
    what its agreement with the student would be if their errors were independent given the truth.
    ``sealed`` is ``held back`` where a second test was, ``opened`` where it is what was scored, else null.
    All scores are null where no row has gold.
    Every number with an interval has two more columns, ``..._low`` and ``..._high``; a bound of ``pgr`` is null beside
    a number where it is not bounded on that side.

    Raises:
        Damaged: if a record is not one of an experiment.
    """
    import polars as pl

    records = list(records)
    against = {_student(r): _against(r) for r in records if r["fn"] == "against_controls"}
    foreseen = {repr(r["args"]["student"]): _forecast(r) for r in records if r["fn"] == "forecast"}
    rows = [
        _row(r, against.get(_student(r), {}) | foreseen.get(repr(r["args"]["student"]), {}))
        for r in records
        if r["note"]
    ]
    frame = pl.DataFrame(rows, infer_schema_length=None)
    nothing = [name for name, kind in frame.schema.items() if kind == pl.Null]  # such as every ceiling, where none is
    words = (
        "gain_undefined",
        "pgr_undefined",
        "weak_train",
        "validate_with",
        "sealed",
        "per_class",
        "forecast",
        "weak_view",
        "student_view",
    )
    numbers = [name for name in nothing if name not in words]
    frame = frame.with_columns(
        pl.col(numbers).cast(pl.Float64), pl.col([n for n in nothing if n not in numbers]).cast(pl.String)
    )
    return frame.sort("task", "train", "control", "strategy", "weak", "strong") if rows else frame


def _student(record: Record) -> str:
    """Whose test predictions a record is about."""
    return repr([record["args"][name] for name in ("truth", "student")])


def _against(record: Record) -> dict[str, Any]:
    """What a record of ``against_controls`` adds to the row of its student."""
    with _held(record):
        return {k: v for name, value in record["result"].items() for k, v in _spread(f"over_{name}", value).items()}


def _forecast(record: Record) -> dict[str, Any]:
    """What a record of ``forecast`` adds to the row of its student, before the truth is put beside it."""
    with _held(record):
        seeds = record["result"]["per_seed"]
        if not all(isinstance(v, float | None) for seed in seeds for v in seed.values()):
            raise TypeError("a forecast holds what is no number")
        return {"forecast": seeds}


def _row(record: Record, against: Mapping[str, Any]) -> dict[str, Any]:
    """Records come from files that others may have written: each value is held to what a table can show."""
    if not record["note"]:
        return {}
    with _held(record):
        row: dict[str, Any] = {**dict.fromkeys((*_TEXTS, *_NUMBERS)), **_columns(record), **against}
        row["forecast"] = _beside_truth(against["forecast"], record["result"]) if "forecast" in against else None
        unscored = row["gain_undefined"] is not None
        for name, value in row.items():
            if not _fits(name, value) and not (unscored and name in _SCORED and value is None):
                raise ValueError(f"{name} is {str(value)[:40]!r}")
    return row


@contextmanager
def _held(record: Record) -> Iterator[None]:
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise Damaged(
            f"{record['fn']}/{record['key'][:12]} is no experiment of this edition ({type(error).__name__}: {error})"
        ) from None


def _fits(name: str, value: Any) -> bool:
    if name in _TEXTS:
        return isinstance(value, str)
    if isinstance(value, int | float):
        return math.isfinite(value) and abs(value) < 2**53
    return (value is None or isinstance(value, str)) and name not in (*_NUMBERS, *_SCORED)


_NUMBERS = ("num_seeds", "num_test", "num_test_per_seed", "folds")
_SCORED = ("majority", "student_accuracy", "student_accuracy_low", "student_accuracy_high")
"""Numbers, unless nothing was scored."""
_TEXTS = ("task", "weak", "strong", "strategy", "train", "weak_train", "seeds", "use", "key", "finished")


def _columns(record: Record) -> dict[str, Any]:
    experiment, result = record["note"]["experiment"], record["result"]
    row: dict[str, Any] = {**experiment, "weak_train": experiment["weak_train"] or experiment["train"]}
    row.setdefault("validate_with", None)
    row["sealed"] = _sealed(record["note"])
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
    for name in ("gain", "gap", "pgr"):
        row |= _spread(name, result[name])
    row |= _spread("balanced_gain", result.get("balanced_gain"))
    row |= {"gain_undefined": result.get("gain_undefined"), "pgr_undefined": result["pgr_undefined"]}
    if result["pgr_undefined"] == "there is no ceiling":
        row["pgr_undefined"] = scoring["no_ceiling"]
    row["rows"] = json.dumps(result["rows"])
    row["per_class"] = None
    if result.get("per_class"):
        row["per_class"] = json.dumps({k: result[k] for k in ("classes", "abstained")} | result["per_class"])
    for name, value in {"majority": result["over_majority"], **dict.fromkeys(CONTROLS)}.items():
        row |= _spread(f"over_{name}", value)
    row["notes"] = "\n".join(result.get("notes", ()))
    row |= _spread("learned", result.get("learned"))
    judged = result.get("validation") or {}
    for name in ("accuracy", "student", "weak"):
        row |= _spread(f"validation_{name}", judged.get(name))
    row["validation_expected"] = judged.get("expected")
    for role in ("weak", "student"):
        row |= {f"{role}_texts_{name}": value for name, value in _reading(result, role).items()}
        row[f"{role}_view"] = record["note"].get("views", {}).get(role)
    for name, value in result["agreement"].items():
        row |= _spread(f"agreement_{name}", value)
    return row | {"key": record["key"], "finished": record["finished"]}


def _beside_truth(foreseen: list[dict[str, Any]], result: Mapping[str, Any]) -> str:
    """JSON of what was forecast and what came, seed by seed."""
    seeds = []
    for seed, said in zip(result["per_seed"], foreseen, strict=True):
        weak, student = seed["weak"], seed["student"]
        came = {"gain": student["accuracy"] - weak["accuracy"], "student_brier": student["brier"]}
        came |= {f"{name}_gain": weak[name] - student[name] for name in ("brier", "xent")}
        seeds.append({"seed": seed["seed"], **said, **came})
    return json.dumps(seeds)


def _sealed(note: Mapping[str, Any]) -> str | None:
    """What the scored rows have to do with a sealed test: ``opened``, ``held back``, or nothing."""
    return "opened" if note["scoring"].get("opened") else "held back" if note["experiment"].get("sealed") else None


def _reading(result: Mapping[str, Any], role: str) -> dict[str, int | None]:
    counts = result.get("reading", {}).get(role) or {}
    return {name: counts.get(key) for name, key in (("read", "texts"), ("cut", "cut"), ("identical", "identical"))}


def _spread(name: str, value: list[float | None] | None) -> dict[str, float | None]:
    middle, low, high = value or (None, None, None)
    if not all(v is None or (isinstance(v, int | float) and not isinstance(v, bool)) for v in (middle, low, high)):
        raise TypeError(f"{name} holds what is no number")
    return {name: middle, f"{name}_low": low, f"{name}_high": high}


class TimesScored(NamedTuple):
    """How often the tests of one task were scored in a store. With several seeds, the test that was scored most."""

    task: str
    sealed: str | None
    """As the column of :func:`table_of`."""
    methods: int
    runs: int


def tally(records: Iterable[Record], store: Store, run: str | None = None) -> list[TimesScored]:
    """How many methods were ever scored on each test of these results, controls apart, and in how many runs.

    A test is known by its rows: their ids and inputs. With ``run``, results that are not counted yet are counted as
    scored in the run of this name; what was reused adds nothing. What is counted stays, also when results are removed.

    Raises:
        UserError: if something is to be counted and the store cannot be written.
    """
    found: dict[tuple[str, str | None], TimesScored] = {}
    listed: dict[str, list[list[str]]] = {}
    for record in records:
        if not record["note"] or is_control(record["note"]["experiment"]["strategy"]):
            continue
        with _held(record):
            experiment, tests = record["note"]["experiment"], list(dict.fromkeys(record["result"].get("tests", ())))
            name = (str(experiment["task"]), _sealed(record["note"]))
        method = _short_digest([experiment[name] for name in ("strategy", "train")] + [experiment.get("validate_with")])
        for test in tests:
            if test not in listed:
                listed[test] = [n.split("-") for n in store.marks(f"test-{test}") if n.count("-") == 2]
            known = listed[test]
            if run is not None and all(record["key"][:16] != name[0] for name in known):
                known.append([record["key"][:16], method, run])
                store.mark(f"test-{test}", "-".join(known[-1]), experiment["strategy"])
        numbers = [(len({n[1] for n in listed[t]}), len({n[2] for n in listed[t]})) for t in tests]
        if numbers:
            before = found.get(name, TimesScored(*name, 0, 0))
            found[name] = TimesScored(*name, *max(max(numbers), (before.methods, before.runs)))
    return [tested for tested in found.values() if tested.methods]


class Count(NamedTuple):
    """:func:`tally`, and whether these results are in it."""

    tests: list[TimesScored]
    is_written: bool


def count_tests(records: Iterable[Record], store: Store) -> Count:
    """:func:`tally` in a run of its own; where the store cannot be written, of what was counted before."""
    records = list(records)
    try:
        return Count(tally(records, store, uuid4().hex[:12]), True)
    except UserError:
        return Count(tally(records, store), False)


def _short_digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:12]


def predictions(store: Store, key: str) -> "pl.DataFrame":
    """Every test example of one experiment, for each seed and role: ``seed``, ``role``, ``id``, ``gold``,
    ``predicted`` (class names), and the probabilities ``p0``, ``p1`` ... of the classes in order.

    Written answers have no probabilities. ``gold`` is null where the task has none, and a role has no row where it gave
    no label.

    Raises:
        UserError: if no result, or more than one, has a key that starts with ``key``, or if it is no experiment.
    """
    import polars as pl

    record = store.find(key)
    if not record["note"]:
        raise UserError(
            f"{record['fn']}/{record['key'][:12]} is one step; name an experiment, as `outgrow ls` lists them"
        )
    args, names = record["args"], record["result"].get("classes") or []
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
                gold = [names[c] for c in kept.hard] if args["truth"] else [None] * len(kept)
                said = [names[c] for c in labels.hard]
                columns = {"id": kept.ids.tolist(), "gold": pl.Series(gold, dtype=pl.String), "predicted": said}
                columns |= {f"p{c}": labels.probs[:, c] for c in range(labels.probs.shape[1])}
            frames.append(
                pl.DataFrame(columns).select(pl.lit(seed).alias("seed"), pl.lit(role).alias("role"), pl.all())
            )
    return pl.concat(frames)
