"""Running a board: methods x tasks x pairs, each method against ``naive``."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np

from outgrow.board.methods import ALL, REFERENCE, default_methods, settings_of
from outgrow.board.summary import Board, Cell, Entry, summarise
from outgrow.config import Grid
from outgrow.engine import runner
from outgrow.engine.graph import Step, in_order
from outgrow.engine.runner import Monitor, Outcome, StepsFailed
from outgrow.engine.store import Store
from outgrow.errors import UserError
from outgrow.experiment import experiments_of, wire
from outgrow.metrics import Interval
from outgrow.results import count_tests
from outgrow.runtime import Runtime
from outgrow.steps.compare import contrast, weak_agreement
from outgrow.steps.examples import pooled
from outgrow.strategies import CONTROLS, canonical_strategy, parse_strategy

__all__ = ["run_board"]

_TRAININGS = ("fit", "finetune")  # how the names of steps that train a model begin
_REFERENCES = {"supervisor": "weak", "ceiling": "ceiling", "majority class": "majority"}
"""Rows that are no students, and what the result of ``contrast`` calls them."""


def run_board(
    grid: Grid,
    store: Store,
    runtime: Runtime,
    monitor: Monitor | None = None,
    *,
    tune: bool = False,
    primary: Sequence[str] = (),
) -> Board:
    """Run the methods that ``grid.strategy`` names (``all`` for every one) in every cell, and compare them.

    Stored results are reused. A method that fails in one cell is missing there and nowhere else.

    Args:
        grid: tasks, pairs, seeds; its controls run beside the methods.
        store: where results are kept.
        runtime: device, batching, licences you accept.
        monitor: is told about progress.
        tune: in each cell, for each method at its defaults, choose the setting that agrees best with weak validation
            labels.
        primary: methods you chose before you saw any number. They run beside those of ``grid.strategy`` and are
            corrected only for each other.

    Raises:
        UserError: before anything runs, for an unknown name or a combination that cannot be.
    """
    wired = _Wired(grid, runtime.accept_license, tune, primary)
    remarks = wired.seen_before(store)
    outcome, failure = _attempt(wired.targets(), store, runtime, monitor)
    finished = {key: target for key, target in wired.results.items() if store.is_done(target)}
    settings = _chosen(wired, finished, store)
    contrasts: dict[Cell, tuple[Step, dict[str, Step]]] = {}
    for cell in wired.cells:
        keys = {method: (settings[method, cell], cell) for method in wired.settings}
        results = {method: finished[key] for method, key in keys.items() if key in finished}
        if REFERENCE in results:
            contrasts[cell] = _contrast(results), results
    more, failed = _attempt([step for step, _ in contrasts.values()], store, runtime, monitor)
    references = [name for name in _REFERENCES if grid.ceiling or name != "ceiling"]
    entries: dict[str, dict[Cell, Entry]] = {m: {} for m in [*wired.settings, *references]}
    for cell, (step, results) in contrasts.items():
        if store.is_done(step):
            for method, entry in _entries(step, results, store).items():
                entries[method][cell] = replace(entry, setting=settings.get((method, cell), method))
    kinds = {**wired.kinds, **dict.fromkeys(_REFERENCES, "reference"), "majority class": "control"}
    return Board(
        rows=summarise(entries, wired.cells, kinds, {m: len(s) for m, s in wired.settings.items()}, wired.primary),
        entries=entries,
        cells=wired.cells,
        kinds=kinds,
        tuned=tune,
        seeds=grid.seeds,
        skipped=wired.skipped,
        experiments=list(finished.values()),
        outcome=replace(outcome, ran=outcome.ran + more.ran, seconds=outcome.seconds + more.seconds),
        failure=failure or failed,
        remarks=remarks,
        judge=grid.validate_with or "",
        tested=count_tests(map(store.record, finished.values()), store),
    )


def _attempt(
    targets: Iterable[Step], store: Store, runtime: Runtime, monitor: Monitor | None
) -> tuple[Outcome, StepsFailed | None]:
    try:
        return runner.run(targets, store, runtime, monitor), None
    except StepsFailed as failure:  # all that does not depend on the failed steps is done and can be shown
        return failure.outcome, failure


class _Wired:
    """The result of every setting of every method in every cell, as steps."""

    def __init__(self, grid: Grid, accepted: frozenset[str], tune: bool, primary: Sequence[str]) -> None:
        self.primary = _primary(primary)
        asked = [*self.primary, *(m for m in grid.strategy if m != ALL)]
        named = tuple(dict.fromkeys(canonical_strategy(m) for m in (REFERENCE, *asked)))
        methods = tuple(dict.fromkeys([*named, *(default_methods() if ALL in grid.strategy else ())]))
        controls = tuple(c for c in CONTROLS if grid.controls and c not in methods)
        plain = experiments_of(replace(grid, strategy=(REFERENCE,), controls=False), accepted)
        of_cell = {Cell(e.task, e.weak, e.strong, e.train): e for e in plain}
        self.cells = list(of_cell)
        self.results: dict[tuple[str, Cell], Step] = {}
        self.settings: dict[str, tuple[str, ...]] = {}
        self.skipped: dict[str, str] = {}
        taken: dict[str, str] = {}
        for method in (*methods, *controls):
            settings = settings_of(method) if tune else (method,)
            try:
                made = {(s, c): wire(replace(e, strategy=s)) for s, (c, e) in product(settings, of_cell.items())}
            except UserError as error:
                if method in named:
                    raise
                self.skipped[method] = str(error)
                continue
            if any(result.function.name != "compare" for result in made.values()):
                raise UserError(
                    "a board compares class probabilities and generate writes answers; train with probe or finetune"
                )
            if not all(result.args["truth"] for result in made.values()):
                raise UserError(
                    "a board scores methods, and one of its tables has no gold; add some, or use outgrow run"
                )
            first = next(iter(made.values()))
            same = taken.setdefault(first.args["student"][0].key, method)
            if method not in (*named, *controls) and not any(map(_trains, _own(first))):
                self.skipped[method] = "trains no student; name it to run it"
            elif same != method and method not in named:
                self.skipped[method] = f"the same student as {same}"
            else:
                self.settings[method] = settings
                self.results |= made
        self.kinds = {m: _kind(m, self.results[s[0], self.cells[0]]) for m, s in self.settings.items()}
        for method in self.primary:
            if (kind := self.kinds[method]) != "method":
                why = "uses gold labels of B" if kind == "gold" else "is a control"
                raise UserError(f"{method} {why} and is not tested; take it out of the primary methods")
        chosen_among = {s for settings in self.settings.values() if len(settings) > 1 for s in settings}
        self.agreements = {key: _agreements(result) for key, result in self.results.items() if key[0] in chosen_among}

    def targets(self) -> list[Step]:
        """Everything that must run before methods are compared."""
        return [*self.results.values(), *(step for steps in self.agreements.values() for step in steps)]

    def seen_before(self, store: Store) -> list[str]:
        """What to say if results of primary methods were there before these were named."""
        results = [self.results[s, cell] for m in self.primary for s in self.settings[m] for cell in self.cells]
        stored = sum(map(store.is_done, results))
        if not stored:
            return []
        return [
            f"{stored} of {len(results)} results of primary methods were in the store before this command ran. If you "
            "chose the methods after you saw those, their p-values are too small."
        ]


def _primary(methods: Sequence[str]) -> tuple[str, ...]:
    for method in methods:
        if method == ALL or canonical_strategy(method) == REFERENCE:
            raise UserError(f"{method} is no primary method: name single ones other than {REFERENCE}")
    return tuple(dict.fromkeys(map(canonical_strategy, methods)))


def _kind(method: str, result: Step) -> str:
    if getattr(parse_strategy(method), "source", "").startswith("control"):
        return "control"
    weak = {step.key for step in result.args["weak"]}
    golds = (s for s in in_order(result.args["student"], lambda step: step.key in weak) if s.function.name == "gold")
    return "gold" if any({"B", "B_val"} & {*gold.args["parts"]} for gold in golds) else "method"


def _agreements(result: Step) -> list[Step]:
    """Per seed, how the student agrees with the labels of B_val that the supervisor gave, or who validates instead;
    empty if it can only predict T."""
    made = []
    judge = "validation" if result.args["validation"] else "weak"
    students, weaks = ([fold for s in result.args[name] for fold in _folds(s)] for name in ("student", judge))
    for student, weak in zip(students, weaks, strict=True):
        if "parts" not in student.args or "split" not in weak.args:
            return []
        # A setting that drops rows has a split of its own; all are judged on the rows that the supervisor labeled.
        split = weak.args["split"]
        predicted = Step(student.fn, **{**student.args, "split": split, "parts": ("B_val",)})
        made.append(Step(weak_agreement, labels=predicted, weak=weak, split=split, part="B_val"))
    return made


def _folds(labels: Step) -> tuple[Step, ...]:
    """The labels that were pooled, if they were."""
    return tuple(labels.args["labels"]) if labels.fn is pooled else (labels,)


def _chosen(wired: _Wired, finished: Mapping[tuple[str, Cell], Step], store: Store) -> dict[tuple[str, Cell], str]:
    """The setting of each method in each cell: the one with the highest agreement with the weak validation labels, and
    of equals the one with the lowest cross-entropy; the method at its defaults if the agreement is unknown."""
    chosen = {}
    for (method, settings), cell in product(wired.settings.items(), wired.cells):
        scores = {}
        for setting in settings:
            steps = wired.agreements.get((setting, cell), [])
            if len(settings) > 1 and steps and (setting, cell) in finished and all(map(store.is_done, steps)):
                found = [store.read(step) for step in steps]
                agreement, xent = (float(np.mean([f[k] for f in found])) for k in ("agreement", "xent"))
                scores[setting] = (agreement, -xent)
        fallback = method if method in settings else settings[0]
        chosen[method, cell] = max(scores, key=scores.__getitem__) if scores else fallback
    return chosen


def _contrast(results: Mapping[str, Step]) -> Step:
    """The students of some results against that of ``naive``, each with its own ceiling."""
    plain = results[REFERENCE].args
    own = [result.args["ceiling"] for result in results.values()]
    ceilings = {_keys(ceiling): ceiling for ceiling in (plain["ceiling"], *own) if ceiling}
    return Step(
        contrast,
        **{name: plain[name] for name in ("texts", "truth", "weak", "seeds")},
        reference=plain["student"],
        students=tuple(result.args["student"] for result in results.values()),
        ceilings=tuple(ceilings.values()),
        ceiling_of=tuple(list(ceilings).index(_keys(ceiling)) if ceilings else 0 for ceiling in own),
    )


def _keys(steps: Sequence[Step]) -> tuple[str, ...]:
    return tuple(step.key for step in steps)


def _entries(step: Step, results: Mapping[str, Step], store: Store) -> dict[str, Entry]:
    """What a finished contrast says of each method, and of supervisor, ceiling and majority class."""
    found = store.read(step)

    def entry(numbers: Mapping[str, Any], **spent: Any) -> Entry:
        return Entry(
            accuracy=_interval(numbers["accuracy"]),
            difference=_interval(numbers["difference"]),
            difference_variance=_or_infinite(numbers["difference_variance"]),
            difference_df=_or_infinite(numbers["difference_df"]),
            pgr=_interval(numbers["pgr"]) if numbers["pgr"] is not None else None,
            pgr_undefined=numbers["pgr_undefined"],
            **spent,
        )

    students = zip(results.items(), found["students"], strict=True)
    entries = {method: entry(numbers, **_spent(result, store)) for (method, result), numbers in students}
    return entries | {shown: entry(found[name]) for shown, name in _REFERENCES.items() if found[name] is not None}


def _or_infinite(stored: float | None) -> float:
    return math.inf if stored is None else stored


def _interval(stored: Sequence[float | None]) -> Interval:
    value, low, high = stored
    assert value is not None
    return Interval(value, -math.inf if low is None else low, math.inf if high is None else high)


def _spent(result: Step, store: Store) -> dict[str, Any]:
    """Seconds and trainings per seed of the steps that only this student needs: not the supervisor's, not features."""
    own = _own(result)
    seconds = sum(store.record(step)["seconds"] for step in own)
    return {"seconds": seconds, "trainings": round(sum(map(_trains, own)) / len(result.args["seeds"]))}


def _own(result: Step) -> list[Step]:
    given = {step.key for step in in_order([*result.args["weak"], *result.args["truth"]])}
    return [s for s in in_order(result.args["student"]) if s.key not in given and s.function.name != "embed"]


def _trains(step: Step) -> bool:
    return step.function.name.startswith(_TRAININGS)
