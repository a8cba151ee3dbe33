"""A board: one entry per method and cell, one row per method over all cells.

A *cell* is one task and one pair of supervisor and student. In every cell all methods share supervisor, weak labels,
splits, seeds and test rows, so their difference to ``naive`` is paired. Across cells, tasks are
resampled and tested, because the pairs of one task share its rows.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from outgrow.board.methods import REFERENCE, short_name
from outgrow.board.statistics import holm, mean, median, nested_interval, sign_flip
from outgrow.data import Floats
from outgrow.engine.graph import Step
from outgrow.engine.runner import Outcome, StepsFailed
from outgrow.metrics import Interval

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
    difference_draws: Floats
    """(R,) its bootstrap replicates."""
    pgr: Interval | None
    pgr_undefined: str | None
    pgr_draws: Floats | None
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
    settings: int
    """Number of settings to choose from in each cell; 1 if fixed."""
    cells: int
    """Cells with a result."""
    missing: int
    """Cells where it failed."""
    pgr: Interval | None
    pgr_cells: int
    """Cells whose PGR is defined; ``pgr`` is the median over them."""
    difference: Interval | None
    p: float | None
    p_holm: float | None
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
    """``better`` or ``worse`` if ``p_holm`` is at most 0.05 and the interval of ``difference`` excludes zero, else
    ``inconclusive``; empty for what is not tested."""


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

    @property
    def tasks(self) -> list[str]:
        """The tasks, in the order asked for."""
        return list(dict.fromkeys(cell.task for cell in self.cells))

    @property
    def least_p(self) -> float:
        """The smallest p-value that this number of tasks can give."""
        return 2.0 ** (1 - len(self.tasks))

    @property
    def compared(self) -> int:
        """Number of methods that the p-values are corrected for."""
        return sum(row.p is not None for row in self.rows)

    @property
    def tasks_needed(self) -> int:
        """Fewest tasks with which a method that wins on all of them could be called better."""
        return 1 + math.ceil(math.log2(max(self.compared, 1) / LEVEL))

    def table(self) -> "pl.DataFrame":
        """One row per method: the fields of :class:`BoardRow`, intervals as three columns."""
        import polars as pl

        rows = []
        for row in self.rows:
            flat: dict[str, Any] = asdict(row)
            for name in ("pgr", "difference", "worst_difference"):
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
            line |= {k: getattr(entry, k, None) for k in ("setting", "outcome", "pgr_undefined", "seconds")}
            for name in ("accuracy", "difference", "pgr"):
                line |= _three(name, getattr(entry, name, None))
            rows.append(line)
        return pl.DataFrame(rows, infer_schema_length=None)


def cell_name(cell: Cell) -> str:
    """``task, weak → strong``."""
    return f"{cell.task}, {cell.weak} → {cell.strong}"


def _three(name: str, value: Interval | Sequence[float] | None) -> dict[str, float | None]:
    numbers = value if value is not None else (None, None, None)
    return {
        f"{name}{end}": n if n is None or math.isfinite(n) else None
        for end, n in zip(("", "_low", "_high"), numbers, strict=True)
    }


def summarise(
    entries: Mapping[str, Mapping[Cell, Entry]],
    cells: Sequence[Cell],
    kinds: Mapping[str, str],
    settings: Mapping[str, int] | None = None,
) -> list[BoardRow]:
    """The rows of a board, best mean difference first, from the entries of each method."""
    rows = [_row(m, entries, cells, kinds[m], (settings or {}).get(m, 1)) for m in entries]
    tested = [row for row in rows if row.p is not None]
    corrected = dict(zip([r.method for r in tested], holm([r.p or 0.0 for r in tested]), strict=True))
    rows = [_judged(row, corrected.get(row.method)) for row in rows]
    return sorted(rows, key=lambda r: (-r.difference.value if r.difference else math.inf, r.method))


def _row(
    method: str, entries: Mapping[str, Mapping[Cell, Entry]], cells: Sequence[Cell], kind: str, settings: int
) -> BoardRow:
    own = {cell: entries[method][cell] for cell in cells if cell in entries[method]}
    outcomes = [entry.outcome for entry in own.values()]
    worst = min(own, key=lambda cell: own[cell].difference.value, default=None)
    defined = {cell: entry for cell, entry in own.items() if entry.pgr is not None}
    tested = kind == "method" and method != REFERENCE and own
    return BoardRow(
        method=method,
        kind=kind,
        settings=settings,
        cells=len(own),
        missing=len(cells) - len(own),
        pgr=_over(defined, "pgr", median),
        pgr_cells=len(defined),
        difference=_over(own, "difference", mean),
        p=sign_flip([[e.difference.value for e in task] for task in _by_task(own)]) if tested else None,
        p_holm=None,
        wins=outcomes.count("win"),
        ties=outcomes.count("tie"),
        losses=outcomes.count("loss"),
        worst=worst,
        worst_difference=own[worst].difference if worst else None,
        trainings=_trainings(own),
        cost=_cost(own, entries.get(REFERENCE, {})),
        verdict="",
    )


def _judged(row: BoardRow, p_holm: float | None) -> BoardRow:
    verdict = ""
    if p_holm is not None and row.difference is not None:
        verdict = "inconclusive"
        if p_holm <= LEVEL and row.difference.low > 0:
            verdict = "better"
        if p_holm <= LEVEL and row.difference.high < 0:
            verdict = "worse"
    return replace(row, p_holm=p_holm, verdict=verdict)


def _by_task(entries: Mapping[Cell, Entry]) -> list[list[Entry]]:
    tasks: dict[str, list[Entry]] = defaultdict(list)
    for cell, entry in entries.items():
        tasks[cell.task].append(entry)
    return list(tasks.values())


def _over(entries: Mapping[Cell, Entry], name: str, statistic: Callable[[Floats], Floats]) -> Interval | None:
    """The mean or median over cells of a number that entries have, with its interval."""
    if not entries:
        return None
    tasks = _by_task(entries)
    values = [[getattr(entry, name).value for entry in task] for task in tasks]
    return nested_interval(values, [[getattr(entry, f"{name}_draws") for entry in task] for task in tasks], statistic)


def _trainings(entries: Mapping[Cell, Entry]) -> float | None:
    counts = [entry.trainings for entry in entries.values() if entry.trainings is not None]
    return float(np.mean(counts)) if counts else None


def _cost(entries: Mapping[Cell, Entry], reference: Mapping[Cell, Entry]) -> float | None:
    shared = [c for c in entries if c in reference and None not in (entries[c].seconds, reference[c].seconds)]
    spent, plain = (sum(e[c].seconds or 0.0 for c in shared) for e in (entries, reference))
    return spent / plain if plain else None
