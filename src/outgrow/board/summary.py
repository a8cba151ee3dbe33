"""A board: one entry per method and cell, one row per method over all cells.

A *cell* is one task and one pair of supervisor and student. In every cell all methods share supervisor, weak labels,
splits, seeds and test rows, so their difference to ``naive`` is paired. Across cells, tasks are the
unit of evidence, because the pairs of one task share its rows: every task counts once, by the mean over its cells.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from outgrow.board.methods import REFERENCE, short_name
from outgrow.board.statistics import (
    LEAST_P,
    holm,
    max_t,
    median_over_tasks,
    on_tasks_like_these,
    on_these_tasks,
    sign_flip,
)
from outgrow.engine.graph import Step
from outgrow.engine.runner import Outcome, StepsFailed
from outgrow.metrics import Interval, Spread
from outgrow.results import Count

if TYPE_CHECKING:
    import polars as pl

__all__ = ["LEVEL", "Board", "BoardRow", "Cell", "Entry", "cell_name", "summarise"]

LEVEL = 0.05


class Cell(NamedTuple):
    """One task, one pair, one way of training."""

    task: str
    weak: str
    strong: str
    train: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Entry:
    """One method in one cell."""

    accuracy: Interval
    difference: Interval
    """Accuracy minus that of ``naive``, paired by seed and test row."""
    difference_variance: float
    """Of its estimate, over seeds and groups of test rows; infinite where unknown."""
    difference_df: float
    """Degrees of freedom of that variance; infinite where nothing varies."""
    pgr: Interval | None
    pgr_undefined: str | None
    setting: str = ""
    """What was run: the method, or the setting of it that was chosen."""
    seconds: float | None = None
    """Of the steps that only it needs, over all seeds."""
    trainings: int | None = None

    @property
    def outcome(self) -> str:
        """``win``, ``loss`` or ``tie``: whether the interval of the difference lies above zero, below, or neither."""
        return "win" if self.difference.low > 0 else "loss" if self.difference.high < 0 else "tie"


@dataclass(frozen=True, kw_only=True)
class BoardRow:
    """One method over all cells."""

    method: str
    kind: str
    """``method``; ``gold`` for one that uses gold labels of B; ``control``; ``reference`` for what is no student."""
    primary: bool
    """Whether it was named before the run, with ``--primary``."""
    settings: int
    """Number of settings to choose from in each cell; 1 if fixed."""
    cells: int
    """Cells with a result."""
    missing: int
    """Cells where it failed."""
    pgr: Interval | None
    pgr_cells: int
    """Cells whose PGR is defined; ``pgr`` is the median over tasks of the median over a task's such cells."""
    difference: Interval | None
    """To ``naive``, on tasks like these: the mean over tasks, with the interval that takes tasks for random."""
    on_these_tasks: Interval | None
    """The same mean, with the interval that takes the tasks as given: only rows and seeds are random."""
    p: float | None
    """Of the sign-flip test, by itself; None for what is not tested."""
    p_adjusted: float | None
    correction: str
    """How ``p`` is corrected: ``Holm`` among primary methods, ``max-T`` among all others."""
    wins: int
    ties: int
    losses: int
    worst: Cell | None
    worst_difference: Interval | None
    trainings: float | None
    """Trainings per seed and cell."""
    cost: float | None
    """Seconds of its own steps, as a multiple of those of ``naive``."""
    verdict: str
    """``better`` or ``worse`` if ``p_adjusted`` is at most 0.05, else ``inconclusive``; ``same`` for a method whose
    every difference is zero, which is not tested; empty for what is no method."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Board:
    """Rows by mean difference, and what they were made of."""

    rows: Sequence[BoardRow]
    entries: Mapping[str, Mapping[Cell, Entry]]
    cells: Sequence[Cell]
    kinds: Mapping[str, str]
    tuned: bool = False
    seeds: int = 0
    skipped: Mapping[str, str] = field(default_factory=dict)
    """Methods of ``all`` that were not run, with the reason."""
    experiments: Sequence[Step] = ()
    """The finished result of each method in each cell, as ``outgrow run`` makes it."""
    outcome: Outcome | None = None
    failure: StepsFailed | None = None
    remarks: Sequence[str] = ()
    """What else a reader must know of how this board was made."""
    judge: str = ""
    """Who validates and does not teach, if not the supervisor's own labels."""
    tested: Count | None = None
    """How often the tests were scored."""

    @property
    def tasks(self) -> list[str]:
        """The tasks, in the order asked for."""
        return list(dict.fromkeys(cell.task for cell in self.cells))

    @property
    def least_p(self) -> float:
        """The smallest p-value that this number of tasks can give, before any correction."""
        return max(2.0 ** (1 - len(self.tasks)), LEAST_P)

    @property
    def compared(self) -> int:
        """Number of methods that are tested."""
        return sum(row.p is not None for row in self.rows)

    @property
    def primary(self) -> list[BoardRow]:
        """The primary methods that are tested."""
        return [row for row in self.rows if row.primary and row.p is not None]

    @property
    def tasks_needed(self) -> int:
        """Fewest tasks with which every method that is tested could be called better, if it won on all of them."""
        return 1 + math.ceil(math.log2(max(len(self.primary), 1) / LEVEL))

    def table(self) -> "pl.DataFrame":
        """One row per method: the fields of :class:`BoardRow`, intervals as three columns."""
        import polars as pl

        rows = []
        for row in self.rows:
            flat: dict[str, Any] = asdict(row)
            for name in ("pgr", "difference", "on_these_tasks", "worst_difference"):
                flat |= _three(name, flat[name])
            flat["worst"] = cell_name(row.worst) if row.worst else None
            rows.append(flat)
        return pl.DataFrame(rows, infer_schema_length=None)

    def cell_table(self) -> "pl.DataFrame":
        """One row per method and cell; ``status`` says ``failed`` where there is no result."""
        import polars as pl

        rows: list[dict[str, Any]] = []
        for row, cell in product(self.rows, self.cells):
            entry = self.entries[row.method].get(cell)
            line = {"method": row.method, "shown": short_name(row.method), "kind": row.kind, **cell._asdict()}
            line |= {"status": "ok" if entry else "failed"}
            line |= {
                k: getattr(entry, k, None) for k in ("setting", "outcome", "pgr_undefined", "seconds", "trainings")
            }
            for name in ("difference_variance", "difference_df"):
                line[name] = _finite(getattr(entry, name, None))
            for name in ("accuracy", "difference", "pgr"):
                line |= _three(name, getattr(entry, name, None))
            rows.append(line)
        return pl.DataFrame(rows, infer_schema_length=None)


def cell_name(cell: Cell) -> str:
    """``task, weak → strong``."""
    return f"{cell.task}, {cell.weak} → {cell.strong}"


def _three(name: str, value: Interval | Sequence[float] | None) -> dict[str, float | None]:
    numbers = value if value is not None else (None, None, None)
    return {f"{name}{end}": _finite(number) for end, number in zip(("", "_low", "_high"), numbers, strict=True)}


def _finite(number: float | None) -> float | None:
    return number if number is not None and math.isfinite(number) else None


def summarise(
    entries: Mapping[str, Mapping[Cell, Entry]],
    cells: Sequence[Cell],
    kinds: Mapping[str, str],
    settings: Mapping[str, int] | None = None,
    primary: Sequence[str] = (),
) -> list[BoardRow]:
    """The rows of a board, best mean difference first, from the entries of each method.

    Methods in ``primary`` are corrected for each other by Holm's method, all others by :func:`max_t`. A method whose
    every difference is zero trains as ``naive`` does: it is not tested and does not count.
    """
    tasks = list(dict.fromkeys(cell.task for cell in cells))
    rows = [_row(m, entries, cells, kinds[m], (settings or {}).get(m, 1), m in primary) for m in entries]
    means = {m: _means(entries[m]) for m in entries}
    tested = [m for m in entries if kinds[m] == "method" and any(map(_differs, entries[m].values()))]
    alone = {m: sign_flip(list(means[m].values())) for m in tested}
    named, others = [m for m in tested if m in primary], [m for m in tested if m not in primary]
    table = np.array([[means[m].get(task, math.nan) for m in others] for task in tasks])
    corrected = dict(zip(named, holm([alone[m] for m in named]), strict=True))
    corrected |= dict(zip(others, max_t(table) if others else (), strict=True))
    rows = [_judged(row, alone.get(row.method), corrected.get(row.method)) for row in rows]
    return sorted(rows, key=lambda r: (-r.difference.value if r.difference else math.inf, r.method))


def _row(
    method: str,
    entries: Mapping[str, Mapping[Cell, Entry]],
    cells: Sequence[Cell],
    kind: str,
    settings: int,
    primary: bool,
) -> BoardRow:
    own = {cell: entries[method][cell] for cell in cells if cell in entries[method]}
    outcomes = [entry.outcome for entry in own.values()]
    worst = min(own, key=lambda cell: own[cell].difference.value, default=None)
    recovered = [[e.pgr.value for e in task if e.pgr is not None] for task in _by_task(own).values()]
    defined = [values for values in recovered if values]
    spreads = [
        [Spread(e.difference.value, e.difference_variance, e.difference_df) for e in task]
        for task in _by_task(own).values()
    ]
    return BoardRow(
        method=method,
        kind=kind,
        primary=primary,
        settings=settings,
        cells=len(own),
        missing=len(cells) - len(own),
        pgr=median_over_tasks([float(np.median(values)) for values in defined]) if defined else None,
        pgr_cells=sum(map(len, defined)),
        difference=on_tasks_like_these(list(_means(own).values())) if own else None,
        on_these_tasks=on_these_tasks(spreads) if own else None,
        p=None,
        p_adjusted=None,
        correction="",
        wins=outcomes.count("win"),
        ties=outcomes.count("tie"),
        losses=outcomes.count("loss"),
        worst=worst,
        worst_difference=own[worst].difference if worst else None,
        trainings=_trainings(own),
        cost=_cost(own, entries.get(REFERENCE, {})),
        verdict="",
    )


def _judged(row: BoardRow, p: float | None, p_adjusted: float | None) -> BoardRow:
    if p is None or p_adjusted is None or row.difference is None:
        same = row.kind == "method" and row.method != REFERENCE and row.cells
        return replace(row, verdict="same" if same else "")
    verdict = "inconclusive"
    if p_adjusted <= LEVEL:
        verdict = "better" if row.difference.value > 0 else "worse"
    return replace(row, p=p, p_adjusted=p_adjusted, correction="Holm" if row.primary else "max-T", verdict=verdict)


def _by_task(entries: Mapping[Cell, Entry]) -> dict[str, list[Entry]]:
    tasks: dict[str, list[Entry]] = defaultdict(list)
    for cell, entry in entries.items():
        tasks[cell.task].append(entry)
    return tasks


def _differs(entry: Entry) -> bool:
    return abs(entry.difference.value) > 1e-12  # no rounding


def _means(entries: Mapping[Cell, Entry]) -> dict[str, float]:
    """The mean difference to ``naive`` in each task."""
    return {t: float(np.mean([e.difference.value for e in own])) for t, own in _by_task(entries).items()}


def _trainings(entries: Mapping[Cell, Entry]) -> float | None:
    counts = [entry.trainings for entry in entries.values() if entry.trainings is not None]
    return float(np.mean(counts)) if counts else None


def _cost(entries: Mapping[Cell, Entry], reference: Mapping[Cell, Entry]) -> float | None:
    shared = [c for c in entries if c in reference and None not in (entries[c].seconds, reference[c].seconds)]
    spent, plain = (sum(e[c].seconds or 0.0 for c in shared) for e in (entries, reference))
    return spent / plain if plain else None
