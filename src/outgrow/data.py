"""The values that travel between steps: examples, labels, features, splits. All carry ids; all are frozen.

Arrays are never joined by row order. :func:`positions` finds rows by id and fails if one is missing; a join by order,
as in the code released with the paper, breaks silently when a row moves or drops out.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, cast

import numpy as np
import numpy.typing as npt

from outgrow.errors import UserError

__all__ = [
    "Answers",
    "Examples",
    "Features",
    "Floats",
    "Ids",
    "Input",
    "Ints",
    "Labels",
    "Question",
    "Reading",
    "Split",
    "hardened",
    "positions",
]

Ids = npt.NDArray[np.str_]
Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.int64]
Reading = str | tuple[str, ...]
"""What a text model reads of one example: a text, or the candidate texts of a choice, which it scores one by one."""
Input = Reading | bytes
"""What a model reads of one example: a text; the candidate texts of a choice, one for each class; or an image file."""


def positions(wanted: Ids, ids: Ids) -> Ints:
    """Row numbers in ``ids`` of each of ``wanted``.

    Raises:
        ValueError: if an id is missing.
    """
    order = np.argsort(ids, kind="stable")
    found = np.searchsorted(ids, wanted, sorter=order)
    rows = order[np.minimum(found, len(ids) - 1)] if len(ids) else np.zeros(len(wanted), dtype=np.int64)
    wrong = np.flatnonzero(ids[rows] != wanted) if len(ids) else np.arange(len(wanted))
    if len(wrong):
        raise ValueError(f"{len(wrong)} of {len(wanted)} ids are missing, the first is {wanted[wrong[0]]!r}")
    return rows.astype(np.int64)


def hardened(probs: Floats) -> Ints:
    """The most probable class of each row, (n, C) -> (n,); of tied classes the first."""
    return np.asarray(probs.argmax(axis=-1), dtype=np.int64)


@dataclass(frozen=True, kw_only=True, eq=False)
class Examples:
    """What a task yields: ids, inputs, gold classes (-1 for unknown), groups and meta columns, all (n,)."""

    ids: Ids
    inputs: tuple[Input, ...]
    """All have one form: texts, choices or images."""
    gold: Ints | None
    """None if gold was removed on purpose (:meth:`without_gold`)."""
    classes: tuple[str, ...]
    groups: Ids
    """Rows of one group (same question, passage, source) never end up in different parts of a split."""
    meta: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    """Further columns (n,), such as ``difficulty`` or the user's own ``weak`` label."""
    notes: tuple[str, ...] = ()
    """What a user should know of how the data was read: counts, guesses, what was left out. Each is one line."""

    def __post_init__(self) -> None:
        n = len(self.ids)
        for name, column in {"inputs": self.inputs, "gold": self.gold, "groups": self.groups, **self.meta}.items():
            if column is not None and len(column) != n:
                raise ValueError(f"{name} has {len(column)} rows, ids {n}")
        unique, counts = np.unique(self.ids, return_counts=True)
        if len(unique) != n:
            repeated = unique[counts > 1]
            raise UserError(f"{len(repeated)} ids are repeated, the first is {str(repeated[0])!r}; ids must be unique")
        if len({type(i) for i in self.inputs}) > 1:
            raise ValueError("inputs are of several forms")
        if self.form == "choice" and any(len(i) != self.num_classes for i in self.inputs):
            raise ValueError("a choice has as many candidates as there are classes")

    @property
    def form(self) -> Literal["text", "choice", "image"]:
        """``text``: one text per example. ``choice``: C candidate texts, scored one by one; the class is the place of
        the right one. ``image``: bytes of an image file."""
        first = self.inputs[0] if self.inputs else ""
        return "choice" if isinstance(first, tuple) else "image" if isinstance(first, bytes) else "text"

    @property
    def readings(self) -> tuple[Reading, ...]:
        """What a text model reads of each example (n,): its text, or the texts of its candidates.

        Raises:
            UserError: for images.
        """
        if self.form == "image":
            raise UserError("the task's inputs are images, which a text model cannot read; use an image model")
        return cast(tuple[Reading, ...], self.inputs)

    @property
    def texts(self) -> tuple[str, ...]:
        """Every text (n,), or every candidate of every choice, in order (n * C,).

        Raises:
            UserError: for images.
        """
        return tuple(text for r in self.readings for text in ((r,) if isinstance(r, str) else r))

    @property
    def num_classes(self) -> int:
        """Number of classes C."""
        return len(self.classes)

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, ids: Ids) -> Self:
        """The rows with these ids, in this order."""
        rows = positions(ids, self.ids)
        return replace(
            self,
            ids=self.ids[rows],
            inputs=tuple(self.inputs[r] for r in rows),
            gold=None if self.gold is None else self.gold[rows],
            groups=self.groups[rows],
            meta={k: v[rows] for k, v in self.meta.items()},
        )

    def without_gold(self) -> Self:
        """The same rows without gold and meta, so that nothing left tells the truth."""
        return replace(self, gold=None, meta={})

    def save(self, folder: Path) -> None:
        """Write ``examples.parquet`` and ``classes.json``."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        columns: dict[str, Any] = {
            "id": self.ids.astype(object),
            "input": self.inputs,
            "group": self.groups.astype(object),
        }
        if self.gold is not None:
            columns["gold"] = self.gold
        for name, column in self.meta.items():
            columns[f"meta.{name}"] = column.astype(object) if column.dtype.kind == "U" else column
        pq.write_table(pa.table(columns), folder / "examples.parquet")
        (folder / "classes.json").write_text(json.dumps(self.classes), encoding="utf-8")
        if self.notes:
            (folder / "notes.json").write_text(json.dumps(self.notes), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what :meth:`save` wrote."""
        table, notes = _read_parquet(folder / "examples.parquet"), folder / "notes.json"
        meta = {name.removeprefix("meta."): table[name] for name in table.column_names if name.startswith("meta.")}
        return cls(
            ids=_text(table["id"].to_pylist()),
            inputs=tuple(tuple(i) if isinstance(i, list) else i for i in table["input"].to_pylist()),
            gold=table["gold"].to_numpy() if "gold" in table.column_names else None,
            classes=tuple(json.loads((folder / "classes.json").read_text(encoding="utf-8"))),
            groups=_text(table["group"].to_pylist()),
            # A text column without rows is stored without a type.
            meta={
                k: _text(v.to_pylist()) if str(v.type) in ("string", "null") else v.to_numpy() for k, v in meta.items()
            },
            notes=tuple(json.loads(notes.read_text(encoding="utf-8"))) if notes.is_file() else (),
        )


_MOST_NAMED = 20
"""Classes that a question lists at most: each costs a token or two of every text."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """What a language model is asked about an example: a template round its text, and a word for each class."""

    version: ClassVar[int] = 1

    template: str = ""
    """Holds ``{text}`` once, and ends where the answer would begin; ``{classes}`` becomes the list of the words. Empty
    for a plain question that lists the words, or of a choice's candidate asks whether it is right."""
    words: tuple[str, ...] = ()
    """A word for each class, in order; of a choice, for a wrong and a right candidate. Empty for the classes' names."""
    classes: tuple[str, ...] = ()
    """The names of the classes that the words stand for, where a task may leave out some; empty for those it has."""

    def __post_init__(self) -> None:
        if self.template and self.template.count("{text}") != 1:
            raise UserError(f"the question {self.template!r} must hold {{text}} once")
        if self.template != self.template.rstrip():
            raise UserError(f"the question {self.template!r} ends with white space; a word brings its own, so remove it")
        if not all(word.strip() for word in self.words):
            raise UserError(f"a word of {self.words!r} is empty; give one for each class, in order")

    def of(self, examples: Examples) -> "Question":
        """The question with nothing left open: what these examples are asked.

        Raises:
            UserError: if there is not one word for each class.
        """
        names = ("no", "yes") if examples.form == "choice" else examples.classes
        known = dict(zip(self.classes, self.words, strict=False))
        words = tuple(known[name] for name in names) if known.keys() >= set(names) else self.words or names
        if len(words) != len(names):
            raise UserError(f"{len(words)} words {words!r} for {len(names)} classes {names!r}; give one for each")
        plain = "Is this right ({classes}):" if examples.form == "choice" else "Label ({classes}):"
        template = self.template or "{text}\n" + (plain if len(words) <= _MOST_NAMED else "Label:")
        listed = " or ".join(filter(None, (", ".join(words[:-1]), words[-1])))
        parts = (part.replace("{classes}", listed) for part in template.partition("{text}")[::2])
        return Question(template="{text}".join(parts), words=words)

    @property
    def around(self) -> tuple[str, str]:
        """What comes before a text and after it."""
        before, _, after = self.template.partition("{text}")
        return before, after


@dataclass(frozen=True, kw_only=True, eq=False)
class Labels:
    """One row of class probabilities per example: gold, weak, a student's or a human's."""

    ids: Ids
    probs: Floats
    """(n, C), rows sum to 1."""
    source: str

    def __post_init__(self) -> None:
        if self.probs.ndim != 2 or len(self.probs) != len(self.ids):
            raise ValueError(f"probs has shape {self.probs.shape} for {len(self.ids)} ids")
        if not np.isfinite(self.probs).all() or (len(self.ids) and np.abs(self.probs.sum(axis=1) - 1).max() > 1e-3):
            raise ValueError("every row of probs must be finite and sum to 1")
        if len(self.ids) and self.probs.min() < 0:
            raise ValueError("probs must not be negative")

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def hard(self) -> Ints:
        """The most probable class of each row (n,)."""
        return hardened(self.probs)

    def take(self, ids: Ids) -> Self:
        """The rows with these ids, in their order."""
        rows = positions(ids, self.ids)
        return replace(self, ids=self.ids[rows], probs=self.probs[rows])

    @classmethod
    def from_classes(cls, ids: Ids, classes: Ints, num_classes: int, source: str) -> Self:
        """Certain labels: probability 1 on the given class. ``classes`` is (n,)."""
        return cls(ids=ids, probs=np.eye(num_classes, dtype=np.float32)[classes], source=source)

    def save(self, folder: Path) -> None:
        """Write ``labels.parquet``."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        columns: dict[str, Any] = {"id": self.ids.astype(object)}
        columns |= {f"p{c}": self.probs[:, c] for c in range(self.probs.shape[1])}
        table = pa.table(columns).replace_schema_metadata({"source": self.source})
        pq.write_table(table, folder / "labels.parquet")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what :meth:`save` wrote."""
        table = _read_parquet(folder / "labels.parquet")
        num_classes = len(table.column_names) - 1
        probs = np.stack([table[f"p{c}"].to_numpy() for c in range(num_classes)], axis=1)
        source = (table.schema.metadata or {}).get(b"source", b"").decode()
        return cls(ids=_text(table["id"].to_pylist()), probs=probs, source=source)


@dataclass(frozen=True, kw_only=True, eq=False)
class Answers:
    """One written answer per example: the counterpart of :class:`Labels` for tasks without classes."""

    ids: Ids
    texts: tuple[str, ...]
    """(n,)."""
    source: str

    def __post_init__(self) -> None:
        if len(self.texts) != len(self.ids):
            raise ValueError(f"{len(self.texts)} answers for {len(self.ids)} ids")

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, ids: Ids) -> Self:
        """The rows with these ids, in their order."""
        rows = positions(ids, self.ids)
        return replace(self, ids=self.ids[rows], texts=tuple(self.texts[r] for r in rows))

    def save(self, folder: Path) -> None:
        """Write ``answers.json``."""
        record = {"source": self.source, "ids": self.ids.tolist(), "texts": self.texts}
        (folder / "answers.json").write_text(json.dumps(record), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what :meth:`save` wrote."""
        record = json.loads((folder / "answers.json").read_text(encoding="utf-8"))
        return cls(ids=_text(record["ids"]), texts=tuple(record["texts"]), source=record["source"])


@dataclass(frozen=True, kw_only=True, eq=False)
class Features:
    """Features of a frozen model: float32 for each view (a layer and a pooling), (n, d), or (n, C, d) for the C
    candidates of choices."""

    ids: Ids
    views: Mapping[str, npt.NDArray[np.float32]]

    def __post_init__(self) -> None:
        for name, matrix in self.views.items():
            if matrix.ndim not in (2, 3) or len(matrix) != len(self.ids):
                raise ValueError(f"view {name} has shape {matrix.shape} for {len(self.ids)} ids")

    def save(self, folder: Path) -> None:
        """Write ``features.safetensors`` and ``ids.json``."""
        from safetensors.numpy import save_file

        save_file({k: np.ascontiguousarray(v) for k, v in self.views.items()}, folder / "features.safetensors")
        (folder / "ids.json").write_text(json.dumps(self.ids.tolist()), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what :meth:`save` wrote."""
        from safetensors.numpy import load_file

        ids = json.loads((folder / "ids.json").read_text(encoding="utf-8"))
        return cls(ids=_text(ids), views=load_file(folder / "features.safetensors"))


@dataclass(frozen=True, kw_only=True, eq=False)
class Split:
    """Ids of each part: ``A`` trains the supervisor, the supervisor labels ``B`` for the student, ``T`` is the test.

    ``A_val`` and ``B_val`` are held-out rows of A and B for early stopping; of ``B_val`` only weak labels are seen.
    """

    parts: Mapping[str, Ids]
    left_out: Mapping[str, int] = field(default_factory=dict)
    """How many rows of the pool are in no part, by reason (:data:`outgrow.tasks.splits.LEFT_OUT`)."""

    def __post_init__(self) -> None:
        everything = np.concatenate(list(self.parts.values()))
        if len(np.unique(everything)) != len(everything):
            raise ValueError("an id is in two parts of the split")

    def ids(self, parts: Sequence[str]) -> Ids:
        """The ids of several parts, in order."""
        return np.concatenate([self.parts[p] for p in parts])

    def save(self, folder: Path) -> None:
        """Write ``split.json``."""
        content = {"parts": {k: v.tolist() for k, v in self.parts.items()}, "left_out": dict(self.left_out)}
        (folder / "split.json").write_text(json.dumps(content), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what :meth:`save` wrote."""
        content = json.loads((folder / "split.json").read_text(encoding="utf-8"))
        return cls(parts={k: _text(v) for k, v in content["parts"].items()}, left_out=content["left_out"])


def _text(values: Sequence[str]) -> Ids:
    return np.array(values, dtype=np.str_) if len(values) else np.array([], dtype="<U1")


def _read_parquet(path: Path) -> Any:
    """A pyarrow table from a file that anybody may have written.

    Raises:
        ValueError: if its row groups do not add up to its rows. Arrow would read on for hours (pyarrow 26).
    """
    import pyarrow.parquet as pq

    about = pq.read_metadata(path)
    if sum(about.row_group(i).num_rows for i in range(about.num_row_groups)) != about.num_rows:
        raise ValueError(f"the row groups of {path.name} do not add up to its {about.num_rows} rows")
    return pq.read_table(path)
