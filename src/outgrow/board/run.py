"""The scoreboard: methods x tasks x pairs, each method against ``naive``, with tasks as the unit of evidence.

A *cell* is one task and one pair of supervisor and student. In every cell all methods share supervisor, weak labels,
splits, seeds and test rows, so their difference to ``naive`` is paired. Over cells, tasks are what is resampled and
tested, because the pairs of one task share its rows.
"""

import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from outgrow.board.statistics import holm, mean, median, nested_interval, sign_flip
from outgrow.config import Grid
from outgrow.data import Floats
from outgrow.engine import runner
from outgrow.engine.graph import Step, in_order
from outgrow.engine.runner import Monitor, Outcome, StepsFailed
from outgrow.engine.store import Store
from outgrow.errors import UserError
from outgrow.experiment import experiments_of, wire
from outgrow.labels import TRANSFORMS
from outgrow.losses import LOSSES
from outgrow.metrics import Interval, pgr_replicates
from outgrow.reference import VARIANTS
from outgrow.runtime import Runtime
from outgrow.steps.compare import contrast, weak_agreement
from outgrow.strategies import CONTROLS, STRATEGIES, canonical_strategy, parse_strategy

if TYPE_CHECKING:
    import polars as pl

__all__ = [
    "ALL",
    "Board",
    "BoardRow",
    "Cell",
    "Entry",
    "default_methods",
    "run_board",
    "settings_of",
    "short_name",
    "summarise",
]

ALL = "all"
"""Stands for every method of the registries at its documented defaults."""
LEVEL = 0.05
REFERENCE = "naive"
_TRAININGS = ("fit", "finetune")  # how the names of steps that train a model begin
_MORE = ("regularised(l2=(10.0,))",)
"""Fixed settings that are no published variant and no default: strong regularisation without a choice."""

_GRIDS: dict[str, tuple[str, tuple[float, ...]]] = {
    "LogConf": ("alpha", (0.25, 0.5, 0.75)),
    "AdaptConf": ("temperature", (0.25, 0.5, 1.0)),
    "Product": ("beta", (0.5, 1.0, 2.0)),
    "Entropy": ("alpha", (0.25, 0.5, 0.75)),
    "Window": ("radius", (0.15, 0.25, 0.35)),
    "ReverseKL": ("eps", (0.01, 0.05, 0.1)),
    "ReverseXent": ("eps", (0.01, 0.05, 0.1)),
    "Symmetric": ("beta", (0.1, 0.5, 1.0)),
    "CACE": ("threshold", (0.05, 0.1, 0.2)),
    "GCE": ("q", (0.4, 0.7, 0.9)),
    "EDL": ("gamma", (0.25, 0.5, 0.75)),
    "ELR": ("strength", (1.0, 3.0, 7.0)),
    "AnchoredEM": ("anchor", (0.25, 0.5, 0.75)),
    "KNN": ("k", (10, 20, 50)),
    "KNNFilter": ("drop", (0.05, 0.1, 0.2)),
    "Smooth": ("alpha", (0.25, 0.5, 0.75)),
    "Temperature": ("t", (0.25, 0.5, 2.0)),
    "KeepConfident": ("share", (0.25, 0.5, 0.75)),
    "Reliability": ("strength", (0.25, 0.5, 1.0)),
    "LogisticRelabel": ("mix", (0.25, 0.5, 1.0)),
    "LogisticFilter": ("drop", (0.05, 0.1, 0.2)),
    "TwoStage": ("share", (0.25, 0.5, 0.75)),
    "Selective": ("threshold", (0.6, 0.7, 0.8)),
    "NoisyChannel": ("rounds", (1, 3, 5)),
}
"""What ``tune`` chooses among: an option of each loss or transform, and its values."""


# ---- methods


def default_methods() -> tuple[str, ...]:
    """Every method of the registries as a strategy: strategies, published variants, losses, transforms of labels."""
    listed = [
        *(name for name in STRATEGIES if name not in CONTROLS),
        *(spelling for _, _, spelling in VARIANTS),
        *_MORE,
        *(f"naive(loss={name})" for name in LOSSES),
        *(f"naive(transforms=({name},))" for name in TRANSFORMS),
    ]
    return tuple(dict.fromkeys(canonical_strategy(text) for text in listed))


def settings_of(method: str) -> tuple[str, ...]:
    """What ``tune`` chooses among for a method at its defaults; the method alone where it has no grid."""
    if method == "confidence":
        return settings_of("confidence(loss=LogConf)")
    for name, (option, values) in _GRIDS.items():
        bare = re.compile(rf"\b{name}\b(?!\()")
        if bare.search(method):
            return tuple(canonical_strategy(bare.sub(f"{name}({option}={value})", method)) for value in values)
    return (method,)


def short_name(method: str) -> str:
    """``GCE`` for ``naive(loss=GCE)``, ``KNN(k=5)`` for ``naive(transforms=(KNN(k=5),))``; others as they are."""
    found = re.fullmatch(r"(?:naive|confidence)\((?:loss=|transforms=\()(\w+(?:\([^()]*\))?)(?:,\))?\)", method)
    return found.group(1) if found else method


# ---- what is known of each method


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
    """Accuracy less that of ``naive``, paired by seed and test row."""
    difference_draws: Floats
    """(R,) its bootstrap replicates."""
    pgr: Interval | None
    pgr_undefined: str | None
    pgr_draws: Floats | None
    setting: str
    """What was run: the method, or the setting of it that was chosen."""
    seconds: float | None = None
    """Of the steps that are its own, over all seeds."""
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
    """``method``; ``gold`` for one that buys gold labels; ``control``; ``reference`` for what is no student."""
    settings: int
    """Number of settings it was chosen among in each cell; 1 if fixed."""
    cells: int
    """Cells it has a result in."""
    missing: int
    """Cells where it failed."""
    pgr: Interval | None
    pgr_cells: int
    """Cells whose PGR is defined: what the median is over."""
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
    """Seconds of its own steps as a multiple of those of ``naive``."""
    verdict: str
    """``better`` or ``worse`` where corrected p-value and interval both say so; ``not told apart`` otherwise."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Board:
    """Rows by mean difference, and what they were made of."""

    rows: Sequence[BoardRow]
    entries: Mapping[str, Mapping[Cell, Entry]]
    cells: Sequence[Cell]
    kinds: Mapping[str, str]
    tuned: bool = False
    seeds: int = 0
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Methods of ``all`` that cannot be here, with the reason."""
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
        """The smallest p-value that so many tasks can give."""
        return 2.0 ** (1 - len(self.tasks))

    @property
    def compared(self) -> int:
        """Number of methods that p-values are corrected for."""
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

        rows = []
        for row, cell in product(self.rows, self.cells):
            entry = self.entries[row.method].get(cell)
            about = {"method": row.method, "shown": short_name(row.method), "kind": row.kind, **cell._asdict()}
            about["status"] = "ok" if entry else "failed"
            numbers: dict[str, Any] = {"setting": None, "outcome": None, "pgr_undefined": None, "seconds": None}
            for name in ("accuracy", "difference", "pgr"):
                numbers |= _three(name, getattr(entry, name) if entry else None)
            if entry:
                numbers |= {k: getattr(entry, k) for k in ("setting", "outcome", "pgr_undefined")}
                numbers |= {"seconds": entry.seconds}
            rows.append(about | numbers)
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
        pgr=_over(defined, lambda e: e.pgr.value if e.pgr else math.nan, lambda e: e.pgr_draws, median),
        pgr_cells=len(defined),
        difference=_over(own, lambda e: e.difference.value, lambda e: e.difference_draws, mean),
        p=sign_flip(list(_by_task(own, lambda e: e.difference.value))) if tested else None,
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
        verdict = "not told apart"
        if p_holm <= LEVEL and row.difference.low > 0:
            verdict = "better"
        if p_holm <= LEVEL and row.difference.high < 0:
            verdict = "worse"
    return replace(row, p_holm=p_holm, verdict=verdict)


def _by_task(entries: Mapping[Cell, Entry], read: Callable[[Entry], Any]) -> list[list[Any]]:
    grouped: dict[str, list[Any]] = defaultdict(list)
    for cell, entry in entries.items():
        grouped[cell.task].append(read(entry))
    return list(grouped.values())


def _over(
    entries: Mapping[Cell, Entry],
    value: Callable[[Entry], float],
    draws: Callable[[Entry], Any],
    statistic: Callable[[Floats], Floats],
) -> Interval | None:
    if not entries:
        return None
    return nested_interval(_by_task(entries, value), _by_task(entries, draws), statistic)


def _trainings(entries: Mapping[Cell, Entry]) -> float | None:
    counts = [entry.trainings for entry in entries.values() if entry.trainings is not None]
    return float(np.mean(counts)) if counts else None


def _cost(entries: Mapping[Cell, Entry], reference: Mapping[Cell, Entry]) -> float | None:
    shared = [c for c in entries if c in reference and None not in (entries[c].seconds, reference[c].seconds)]
    spent, plain = (sum(e[c].seconds or 0.0 for c in shared) for e in (entries, reference))
    return spent / plain if plain else None


# ---- running


def run_board(
    grid: Grid, store: Store, runtime: Runtime, monitor: Monitor | None = None, *, tune: bool = False
) -> Board:
    """Run the methods that ``grid.strategy`` names (``all`` for every one) in every cell, and compare them.

    What is stored already is not run again; a method that fails in a cell is missing there and nowhere else.

    Args:
        grid: tasks, pairs, seeds; its controls are run beside the methods.
        store: where steps are kept.
        runtime: device, batching, licences accepted.
        monitor: told about progress.
        tune: choose, cell by cell, among the settings of each method that stands at its defaults the one that agrees
            best with weak validation labels.

    Raises:
        UserError: for anything the user can mend, before anything runs.
    """
    wired = _Wired(grid, runtime.accept_license, tune)
    outcome, failure = _attempt(wired.targets(), store, runtime, monitor)
    finished = {key: target for key, target in wired.results.items() if store.is_done(target)}
    chosen = _chosen(wired, finished, store)
    steps: dict[Cell, _Contrast] = {}
    for cell in wired.cells:
        if made := _contrast(wired, finished, {m: chosen[m, cell] for m in wired.methods}, cell):
            steps[cell] = made
    more, failed = _attempt([made.step for made in steps.values()], store, runtime, monitor)
    entries: dict[str, dict[Cell, Entry]] = {m: {} for m in [*wired.methods, *_REFERENCES]}
    for cell, made in steps.items():
        if store.is_done(made.step):
            for method, entry in _entries(made, store, wired, cell).items():
                entries[method][cell] = entry
    if not grid.ceiling:
        del entries["ceiling"]
    settings = {m: len(s) for m, s in wired.settings.items()}
    kinds = {**wired.kinds, **dict.fromkeys(_REFERENCES, "reference"), "majority class": "control"}
    return Board(
        rows=summarise(entries, wired.cells, kinds, settings),
        entries=entries,
        cells=wired.cells,
        kinds=kinds,
        tuned=tune,
        seeds=grid.seeds,
        left_out=wired.left_out,
        experiments=list(finished.values()),
        outcome=replace(outcome, ran=outcome.ran + more.ran, seconds=outcome.seconds + more.seconds),
        failure=failure or failed,
    )


_REFERENCES = {"supervisor": "weak", "ceiling": "ceiling", "majority class": "majority"}
"""Rows that are nobody's students, and what a contrast calls them."""


def _attempt(
    targets: Iterable[Step], store: Store, runtime: Runtime, monitor: Monitor | None
) -> tuple[Outcome, StepsFailed | None]:
    try:
        return runner.run(targets, store, runtime, monitor), None
    except StepsFailed as failure:  # what does not depend on the failed steps is done, and is shown
        return failure.outcome, failure


class _Wired:
    """The result of every setting of every method in every cell, as steps."""

    def __init__(self, grid: Grid, accepted: frozenset[str], tune: bool) -> None:
        asked = [m for m in grid.strategy if m != ALL]
        named = tuple(dict.fromkeys(canonical_strategy(m) for m in (REFERENCE, *asked)))
        methods = tuple(dict.fromkeys([*named, *(default_methods() if ALL in grid.strategy else ())]))
        controls = tuple(c for c in CONTROLS if grid.controls and c not in methods)
        plain = experiments_of(replace(grid, strategy=(REFERENCE,), controls=False), accepted)
        self.seeds = plain[0].seeds
        self.of_cell = {Cell(e.task, e.weak, e.strong, e.train): e for e in plain}
        self.cells = list(self.of_cell)
        self.results: dict[tuple[str, Cell], Step] = {}
        self.settings: dict[str, tuple[str, ...]] = {}
        self.left_out: dict[str, str] = {}
        taken: dict[str, str] = {}
        for method in (*methods, *controls):
            settings = settings_of(method) if tune else (method,)
            try:
                made = {(s, c): wire(replace(e, strategy=s)) for s, (c, e) in product(settings, self.of_cell.items())}
            except UserError as error:
                if method in named:
                    raise
                self.left_out[method] = str(error)
                continue
            if any(result.function.name != "compare" or "texts" not in result.args for result in made.values()):
                raise UserError(
                    "a board compares class probabilities, and generate writes answers; take probe or finetune"
                )
            first = next(iter(made.values()))
            students = first.args["student"][0].key
            if method not in (*named, *controls) and not any(_trains(step) for step in _own(first)):
                self.left_out[method] = "trains no student; name it to have it here"
                continue
            if taken.setdefault(students, method) != method and method not in named:
                self.left_out[method] = f"the same student as {taken[students]}"
                continue
            self.settings[method] = settings
            self.results |= made
        self.methods = list(self.settings)
        self.kinds = {m: self._kind(m) for m in self.methods}
        chosen_among = {s for settings in self.settings.values() if len(settings) > 1 for s in settings}
        self.agreements = {key: _agreements(result) for key, result in self.results.items() if key[0] in chosen_among}

    def targets(self) -> list[Step]:
        """Everything that is to be run before methods are compared."""
        agreements = [step for steps in self.agreements.values() for step in steps]
        return [*self.results.values(), *agreements]

    def _kind(self, method: str) -> str:
        if getattr(parse_strategy(method), "source", "").startswith("control"):
            return "control"
        result = self.results[self.settings[method][0], self.cells[0]]
        weak = {step.key for step in result.args["weak"]}
        behind = in_order(result.args["student"], lambda step: step.key in weak)
        bought = (
            step
            for step in behind
            if step.function.name == "gold" and not {"B", "B_val"}.isdisjoint(step.args["parts"])
        )
        return "gold" if any(bought) else "method"


def _agreements(result: Step) -> list[Step]:
    """Per seed, how the student agrees with the weak labels of B_val; nothing where it can only predict T."""
    made = []
    for student, weak in zip(result.args["student"], result.args["weak"], strict=True):
        if "parts" not in student.args or "split" not in weak.args:
            return []
        # Settings that drop rows have a split of their own; all are judged on the rows the supervisor labelled.
        split = weak.args["split"]
        says = Step(student.fn, **{**student.args, "split": split, "parts": ("B_val",)})
        made.append(Step(weak_agreement, labels=says, weak=weak, split=split, part="B_val"))
    return made


def _chosen(wired: _Wired, finished: Mapping[tuple[str, Cell], Step], store: Store) -> dict[tuple[str, Cell], str]:
    """The setting of each method in each cell: the one that agrees with most weak validation labels, of equal ones the
    one with the lower cross-entropy; its first where nothing can be told."""
    chosen = {}
    for method, cell in product(wired.methods, wired.cells):
        settings = wired.settings[method]
        scores = {}
        for setting in settings:
            steps = wired.agreements.get((setting, cell), [])
            if len(settings) > 1 and steps and (setting, cell) in finished and all(map(store.is_done, steps)):
                found = [store.read(step) for step in steps]
                means = {k: float(np.mean([f[k] for f in found])) for k in ("agreement", "xent")}
                scores[setting] = (means["agreement"], -means["xent"])
        fallback = method if method in settings else settings[0]
        chosen[method, cell] = max(scores, key=scores.__getitem__) if scores else fallback
    return chosen


class _Contrast(NamedTuple):
    step: Step
    methods: Mapping[str, str]
    """Method to the setting that is compared, in the order of the step's students."""
    results: Mapping[str, Step]


def _contrast(
    wired: _Wired, finished: Mapping[tuple[str, Cell], Step], settings: Mapping[str, str], cell: Cell
) -> _Contrast | None:
    results = {m: finished[s, cell] for m, s in settings.items() if (s, cell) in finished}
    if REFERENCE not in results:
        return None
    plain = results[REFERENCE].args
    ceilings = {_keys(result): result.args["ceiling"] for result in (results[REFERENCE], *results.values())}
    ceilings.pop((), None)
    step = Step(
        contrast,
        **{name: plain[name] for name in ("texts", "truth", "weak", "seeds")},
        reference=plain["student"],
        students=tuple(result.args["student"] for result in results.values()),
        ceilings=tuple(ceilings.values()),
        ceiling_of=tuple(list(ceilings).index(_keys(result)) if ceilings else 0 for result in results.values()),
    )
    return _Contrast(step, {m: settings[m] for m in results}, results)


def _keys(result: Step) -> tuple[str, ...]:
    return tuple(step.key for step in result.args["ceiling"])


def _entries(made: _Contrast, store: Store, wired: _Wired, cell: Cell) -> dict[str, Entry]:
    found = store.read(made.step)
    draws = {name: np.array(found[name]["draws"]) for name in ("weak", "reference")}
    ceilings = [np.array(values) for values in found["ceiling_draws"]]
    entries = {}
    for (method, setting), numbers in zip(made.methods.items(), found["students"], strict=True):
        spent = _spent(made.results[method], store)
        entries[method] = _entry(numbers, draws, ceilings, setting, *spent)
    for shown, name in _REFERENCES.items():
        if found[name] is not None:
            entries[shown] = _entry(found[name], draws, ceilings, shown, None, None)
    return entries


def _entry(
    numbers: Mapping[str, Any],
    draws: Mapping[str, Floats],
    ceilings: Sequence[Floats],
    setting: str,
    seconds: float | None,
    trainings: int | None,
) -> Entry:
    own = np.array(numbers["draws"])
    known = numbers["pgr"] is not None
    return Entry(
        accuracy=_interval(numbers["accuracy"]),
        difference=_interval(numbers["difference"]),
        difference_draws=own - draws["reference"],
        pgr=_interval(numbers["pgr"]) if known else None,
        pgr_undefined=numbers["pgr_undefined"],
        pgr_draws=pgr_replicates(draws["weak"], own, ceilings[numbers["ceiling"]]) if known else None,
        setting=setting,
        seconds=seconds,
        trainings=trainings,
    )


def _interval(stored: Sequence[float | None]) -> Interval:
    value, low, high = stored
    assert value is not None
    return Interval(value, -math.inf if low is None else low, math.inf if high is None else high)


def _spent(result: Step, store: Store) -> tuple[float, int]:
    """Seconds and trainings per seed of the steps that only this student needs: not the supervisor's, not features."""
    own = _own(result)
    return sum(store.record(s)["seconds"] for s in own), round(sum(map(_trains, own)) / len(result.args["seeds"]))


def _own(result: Step) -> list[Step]:
    given = {step.key for step in in_order([*result.args["weak"], *result.args["truth"]])}
    return [s for s in in_order(result.args["student"]) if s.key not in given and s.function.name != "embed"]


def _trains(step: Step) -> bool:
    return step.function.name.startswith(_TRAININGS)
