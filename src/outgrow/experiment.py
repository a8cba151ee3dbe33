"""Experiments: wire supervisor, student, and ceiling into one result; expand grids; run."""

import contextlib
import functools
import gc
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import fields, replace
from itertools import combinations, product
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from outgrow import results, steps
from outgrow.config import Experiment, Grid
from outgrow.engine import runner
from outgrow.engine.graph import Step, forget
from outgrow.engine.progress import Progress
from outgrow.engine.runner import Monitor, Outcome, Plan
from outgrow.engine.store import Record, Store
from outgrow.errors import UserError
from outgrow.models.spec import ModelSpec, ladder
from outgrow.protocols import SUPERVISORS
from outgrow.registry import use, used_files
from outgrow.results import finished, table_of
from outgrow.runtime import Runtime
from outgrow.strategies import (
    CONTROLS,
    STRATEGIES,
    TRAINERS,
    FitRequest,
    Learner,
    Setup,
    TrainingMethod,
    canonical_strategy,
    is_control,
    parse_strategy,
    parse_trainer,
)
from outgrow.supervisors import Model, OwnLabels, Supervisor, SupervisorSetup, parse_supervisor
from outgrow.tasks import TASKS, Sizes, TaskSpec, load, question_of

if TYPE_CHECKING:
    import polars as pl

__all__ = [
    "Experiment",
    "Grid",
    "control_contrasts",
    "experiments_of",
    "grid_of",
    "grid_of_record",
    "open_store",
    "pairs",
    "plan",
    "predictions",
    "run",
    "run_steps",
    "runs",
    "sweep",
    "use_files",
    "wire",
    "wire_all",
]

_KINDS = (
    "outgrow.data:Examples",
    "outgrow.data:Labels",
    "outgrow.data:Answers",
    "outgrow.data:Features",
    "outgrow.data:Split",
    "outgrow.models.probe:FittedProbe",
    "outgrow.train.model:FinetunedModel",
    "outgrow.train.model:StartingHead",
    "outgrow.train.lm:GenerativeModel",
)
_TRANSFER = ("B", "B_val")
_FOLDS = 5
"""Students per seed that label each other's training rows, where a table has gold on most of its rows."""


def pairs(grid: Grid, accepted: frozenset[str] = frozenset()) -> list[tuple[str, str]]:
    """All pairs of supervisor and student. ``accepted`` are restricted models that may join a ladder."""
    if grid.weak:
        return list(product(grid.weak, grid.strong))
    if "," in grid.ladder:
        return list(combinations([m.strip() for m in grid.ladder.split(",")], 2))
    return list(combinations(ladder(grid.ladder, accepted), 2))


def experiments_of(grid: Grid, accepted: frozenset[str] = frozenset()) -> list[Experiment]:
    """All experiments of the grid, controls last."""
    use_files(grid.use)
    strategies = list(dict.fromkeys([*grid.strategy, *(CONTROLS if grid.controls else ())]))
    varied = {"task", "weak", "strong", "strategy", "train", "seeds"}
    rest: dict[str, Any] = {f.name: getattr(grid, f.name) for f in fields(Experiment) if f.name not in varied}
    rest["seeds"] = tuple(range(grid.first_seed, grid.first_seed + grid.seeds))
    return [
        Experiment(task=task, weak=weak, strong=strong, strategy=s, train=train, **rest)
        for task, train, s, (weak, strong) in product(grid.task, grid.train, strategies, pairs(grid, accepted))
        if s in grid.strategy or _has_control(train, s)
    ]


def _has_control(train: str, control: str) -> bool:
    return parse_trainer(train).output != "text" or parse_strategy(control).writes


def grid_of(experiment: Experiment) -> Grid:
    """The grid that contains only this experiment.

    Raises:
        UserError: if its seeds are not consecutive.
    """
    first, last = experiment.seeds[0], experiment.seeds[-1]
    if experiment.seeds != tuple(range(first, last + 1)):
        raise UserError(f"the seeds {list(experiment.seeds)} are not consecutive; run this experiment from Python")
    single = {name: (getattr(experiment, name),) for name in ("task", "weak", "strong", "strategy", "train")}
    kept = {f.name: getattr(experiment, f.name) for f in fields(Experiment) if f.name in {g.name for g in fields(Grid)}}
    return Grid(**{**kept, **single, "seeds": len(experiment.seeds), "first_seed": first, "controls": False})


def grid_of_record(record: Record) -> Grid:
    """The grid that reruns a stored experiment.

    Raises:
        UserError: if the record is one of a step, or holds no experiment of this edition.
    """
    name = f"{record['fn']}/{record['key'][:12]}"
    if not record["note"]:
        raise UserError(f"{name} is one step of an experiment; pick an experiment from `outgrow ls`")
    try:
        fields = record["note"]["experiment"]
        return grid_of(Experiment(**{**fields, "seeds": tuple(fields["seeds"])}))
    except UserError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{name} is no experiment of this edition ({type(error).__name__}: {error})") from None


def use_files(paths: Iterable[str]) -> None:
    """Load the user's files, and those of ``$OUTGROW_USE``, so that what they register can be named.

    Raises:
        UserError: as :func:`outgrow.registry.use`.
    """
    used_files()
    for path in paths:
        use(path)


def wire(experiment: Experiment) -> Step:
    """The step whose result is the experiment's. Checks every name and option; downloads nothing.

    Raises:
        UserError: for an unknown name or an impossible combination.
    """
    return wire_all([experiment])[0]


def wire_all(experiments: Iterable[Experiment]) -> list[Step]:
    """:func:`wire` for many. What they share is wired once, and the files they name are read once.

    Raises:
        UserError: as :func:`wire`.
    """
    experiments = list(experiments)
    forget()
    use_files(path for files in dict.fromkeys(e.use for e in experiments) for path in files)
    wiring = _Wiring(
        task=functools.cache(_task),
        model=functools.cache(ModelSpec.parse),
        setup=functools.cache(_setup),
        ceiling=functools.cache(_ceiling),
        used=[file._asdict() for file in used_files()],
    )
    shared = functools.cache(lambda plain: _shared(plain, wiring))
    with gc_paused():
        return [_wired(e, shared(replace(e, strategy="", seeds=tuple(e.seeds))), wiring) for e in experiments]


@contextlib.contextmanager
def gc_paused() -> Iterator[None]:
    """Pause garbage collection: steps form no cycles, and it would scan a sweep's half a million objects repeatedly."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


class _Wiring(NamedTuple):
    """What the experiments of one call share, cached by arguments."""

    task: Callable[[str], tuple[TaskSpec, Step, Step]]
    model: Callable[..., ModelSpec]
    setup: Callable[..., tuple[Setup, Step]]
    ceiling: Callable[[Step, Step, Learner, int], Step]
    used: list[dict[str, Any]]
    """The user's files that were loaded."""


class _Scoring(NamedTuple):
    """How students are scored."""

    balance: bool
    """Whether classes are balanced; if not, they keep the shares that they have in the data."""
    folds: int = 0
    """As in :class:`outgrow.tasks.Sizes`."""
    has_gold: bool = True
    """Without any, nothing is scored."""
    no_ceiling: str | None = None
    """Why no ceiling is trained."""


class _Shared(NamedTuple):
    """What experiments share that differ only in strategy."""

    known: dict[str, Any]
    """Their fields in canonical spelling."""
    pool: Step
    student: Learner
    scoring: _Scoring
    setups: tuple[Setup, ...]
    """One per seed, or one per fold of each seed."""
    truth: tuple[Step, ...]
    """One per seed, as are the following; empty if there is no gold."""
    weak: tuple[Step, ...]
    ceiling: tuple[Step, ...]
    """For students trained the trainer's own way."""
    reading: dict[str, Step]
    """How much of the texts supervisor and student read, where they may cut them."""


def _wired(experiment: Experiment, shared: _Shared, wiring: _Wiring) -> Step:
    strategy = parse_strategy(experiment.strategy)
    writes = shared.student.writes
    if writes and not strategy.writes:
        able = ", ".join(name for name, cls in STRATEGIES.items() if cls.writes)
        raise UserError(
            f"the strategy {experiment.strategy} needs class probabilities, and "
            f"{TRAINERS.name_of(shared.student.trainer)} writes answers; take one of {able}"
        )
    labels = {
        "truth": shared.truth,
        "weak": shared.weak,
        "student": _pooled([strategy(setup) for setup in shared.setups], shared.setups),
        "ceiling": shared.ceiling,
        "splits": tuple(tuple(s.split for s in shared.setups if s.seed == seed) for seed in shared.known["seeds"]),
    }
    if not shared.scoring.no_ceiling and (training := _training(experiment.strategy)) is not None:
        matched = replace(shared.student, training=training)
        limits = [wiring.ceiling(shared.pool, s.split, matched, s.seed) for s in shared.setups]
        labels["ceiling"] = _pooled(limits, shared.setups)
    seeds = shared.known["seeds"]
    if writes:
        target = Step(steps.compare_answers, pool=shared.pool, seeds=seeds, **labels)
    else:
        target = Step(steps.compare, texts=shared.student.texts, seeds=seeds, reading=shared.reading, **labels)
    spelled = {**vars(experiment), **shared.known, "strategy": canonical_strategy(experiment.strategy)}
    spelled["use"] = tuple([file["path"] for file in wiring.used])
    target.note = {"experiment": spelled, "used": wiring.used, "scoring": shared.scoring._asdict()}
    return target


def _pooled(labels: Sequence[Step], setups: Sequence[Setup]) -> tuple[Step, ...]:
    """One step per seed: its labels of T, from all of its folds."""
    of_seed: dict[int, list[tuple[Step, Step]]] = {}
    for made, setup in zip(labels, setups, strict=True):
        of_seed.setdefault(setup.seed, []).append((made, setup.split))
    return tuple(
        Step(steps.pooled, labels=tuple(made for made, _ in folds), splits=tuple(split for _, split in folds))
        if len(folds) > 1
        else folds[0][0]
        for folds in of_seed.values()
    )


def control_contrasts(targets: Iterable[Step]) -> list[Step]:
    """For each experiment among the targets whose controls are among them too, a step that compares its student with
    the controls' row by row."""
    pairs: dict[str, list[tuple[str, Step]]] = defaultdict(list)
    for target in targets:
        assert target.note is not None
        spelled = target.note["experiment"]
        shared = {name: value for name, value in spelled.items() if name not in ("strategy", "ceiling", "use")}
        pairs[repr(shared)].append((spelled["strategy"], target))
    made = []
    for own in pairs.values():
        controls = {name: target.args["student"] for name, target in own if is_control(name)}
        scored = controls and own[0][1].args["truth"]
        for target in (target for name, target in own if scored and not is_control(name)):
            texts = target.args["texts" if "texts" in target.args else "pool"]
            given = {"truth": target.args["truth"], "student": target.args["student"]}
            against = {"controls": tuple(controls.values()), "names": tuple(controls)}
            made.append(Step(steps.against_controls, texts=texts, **given, **against))
    return made


@functools.cache
def _training(strategy: str) -> TrainingMethod | None:
    """The strategy where it changes how a model is trained. To ask takes as long as to wire a student."""
    parsed = parse_strategy(strategy)
    return parsed if isinstance(parsed, TrainingMethod) else None


def _shared(experiment: Experiment, wiring: _Wiring) -> _Shared:
    """Everything about the experiment except its strategy."""
    task, pool, texts = wiring.task(experiment.task)
    strong, trainer = wiring.model(experiment.strong), parse_trainer(experiment.train)
    question = question_of(task)
    student = Learner(model=strong, trainer=trainer, texts=texts, question=question)
    supervisor = parse_supervisor(experiment.weak)
    weak = SUPERVISORS.spell(supervisor) if supervisor else None
    if supervisor is None:
        model = wiring.model(experiment.weak, tuple(SUPERVISORS))
        weak, weak_trainer = str(model), parse_trainer(experiment.weak_train or experiment.train)
        supervisor = Model(learner=Learner(model=model, trainer=weak_trainer, texts=texts, question=question))
        _check_reads(model, task)
    _check_reads(strong, task)
    _check_answers(experiment, task, supervisor)
    scoring, own = _scoring(experiment, task, supervisor), isinstance(supervisor, OwnLabels)
    sizes = Sizes(
        supervisor=None if own else experiment.supervisor_rows,
        transfer=experiment.transfer_rows,
        test=experiment.test_rows,
        validation=experiment.validation,
        balance=scoring.balance,
        own_labels=own,
        folds=scoring.folds,
    )
    parts = [replace(sizes, fold=fold) for fold in range(max(1, scoring.folds))]
    made = [wiring.setup(pool, _form(task), s, supervisor, student, seed) for seed in experiment.seeds for s in parts]
    setups, truth = zip(*made, strict=True)
    ceiling = [] if scoring.no_ceiling else [wiring.ceiling(pool, s.split, student, s.seed) for s in setups]
    known = {"task": str(task), "weak": weak, "strong": str(strong), "balance": scoring.balance}
    return _Shared(
        known={**_spelled(experiment), **known, "ceiling": bool(ceiling)},
        pool=pool,
        student=student,
        scoring=scoring,
        setups=setups,
        truth=_pooled(truth, setups) if scoring.has_gold else (),
        weak=_pooled([setup.weak for setup in setups], setups),
        ceiling=_pooled(ceiling, setups) if ceiling else (),
        reading=_reading({"weak": supervisor.learner, "student": student}),
    )


def _scoring(experiment: Experiment, task: TaskSpec, supervisor: Supervisor) -> _Scoring:
    """How to score. A table with weak labels of its own is looked at: how much gold it has decides what is possible.

    All its gold is the test. If more rows with a weak label have no gold than have some, the student trains on those;
    otherwise it is cross-fitted, so that no row is labelled by a student that trained on it. Sizes or parts that the
    user gives come first.
    """
    balance = experiment.balance and not TASKS[task.name].facts.natural
    no_ceiling = None if experiment.ceiling else "there is no ceiling"
    if not isinstance(supervisor, OwnLabels) or not TASKS[task.name].facts.natural:
        return _Scoring(balance, no_ceiling=no_ceiling)
    seen = _seen(task)
    if seen.ungolden and no_ceiling is None:
        no_ceiling = f"there is no ceiling: {seen.ungolden:,} rows of B have no gold to train it on"
    if seen.is_parted or experiment.transfer_rows or experiment.test_rows:
        return _Scoring(balance, no_ceiling=no_ceiling)
    folds = 1 if seen.golden and seen.ungolden >= seen.golden else min(_FOLDS, max(2, seen.groups))
    return _Scoring(balance, folds=folds, has_gold=seen.golden > 0, no_ceiling=no_ceiling)


class _Seen(NamedTuple):
    """What a table with weak labels of its own holds."""

    golden: int
    """Rows with gold."""
    ungolden: int
    """Rows for B with a weak label and without gold."""
    groups: int
    """Groups with rows to test on."""
    is_parted: bool
    """Whether a column fixes the parts."""


@functools.lru_cache(maxsize=32)
def _seen(task: TaskSpec) -> _Seen:
    pool = load(task, Runtime().quiet())
    assert pool.gold is not None
    known, parts = pool.gold >= 0, pool.meta.get("split")
    weak = np.asarray(pool.meta.get("weak.0", np.zeros(len(pool))), dtype=np.float64)
    for_b = ~known & ~np.isnan(weak) & (True if parts is None else parts == "B")
    groups = np.unique(pool.groups[known] if known.any() else pool.groups)
    return _Seen(int(known.sum()), int(for_b.sum()), len(groups), parts is not None)


def _reading(learners: dict[str, Learner | None]) -> dict[str, Step]:
    found = {role: learner.trainer.reading(learner) for role, learner in learners.items() if learner is not None}
    return {role: step for role, step in found.items() if step is not None}


def _task(text: str) -> tuple[TaskSpec, Step, Step]:
    """A task, its pool, and its texts without gold."""
    task = TaskSpec.parse(text)
    pool = Step(steps.load, task=task)
    return task, pool, Step(steps.texts, pool=pool)


def _form(task: TaskSpec) -> str:
    """What a row of the task is: ``text``, ``choice``, or ``image``."""
    form = task.options.get("form", task.kind)
    return form if form in ("choice", "image") else "text"


def _setup(
    pool: Step, form: str, sizes: Sizes, supervisor: Supervisor, student: Learner, seed: int
) -> tuple[Setup, Step]:
    """What a strategy may use for one seed, and the gold labels of T."""
    split = Step(steps.split, pool=pool, sizes=sizes, seed=seed)
    weak = supervisor(SupervisorSetup(pool=pool, split=split, student=student, seed=seed))
    gold_b = Step(steps.gold, pool=pool, split=split, parts=("B",))  # reaches a student only through MixGold
    given: dict[str, Any] = {"gold_b": gold_b, "gold_b_val": Step(steps.gold, pool=pool, split=split, parts=("B_val",))}
    if (learner := supervisor.learner) is not None:
        given |= {"supervisor": learner, "gold_a": learner.gold(pool, split, ("A", "A_val"))}
    setup = Setup(split=split, weak=weak, student=student, seed=seed, form=form, **given)
    return setup, student.gold(pool, split, ("T",))


def _ceiling(pool: Step, split: Step, student: Learner, seed: int) -> Step:
    """The ceiling's predictions: as its student in all but the labels (design law 4)."""
    gold = student.gold(pool, split, _TRANSFER)
    return student.predict(student.fit(FitRequest(labels=gold, split=split, part="B", seed=seed)), split, ("T",))


def _check_reads(model: ModelSpec, task: TaskSpec) -> None:
    shown = "image" if task.kind == "image" else "text"
    if model.reads not in (None, shown):
        raise UserError(f"the task {task.name} is of {shown}s, and {model} reads {model.reads}s; take one that fits")


def _check_answers(experiment: Experiment, task: TaskSpec, supervisor: Supervisor) -> None:
    """Written answers go with a task that has them, with trainers that write, and with what needs no classes."""
    written = task.options.get("form") == "move"
    for spelled in (experiment.train, experiment.weak_train or experiment.train):
        trainer = parse_trainer(spelled)
        if trainer.output == "text" and not written:
            raise UserError(
                f"{TRAINERS.name_of(trainer)} writes answers, and the task {experiment.task} has classes; "
                "take chess-puzzles(form='move'), or train with probe or finetune"
            )
        if written and trainer.output != "text":
            raise UserError(
                f"the answers of {experiment.task} are texts to write, which {spelled} cannot; train with generate, or "
                "take form='choice'"
            )
    if written and supervisor.learner is None:
        raise UserError(f"the supervisor {experiment.weak} gives class probabilities; answers are written by a model")


def _spelled(experiment: Experiment) -> dict[str, Any]:
    """Its trainers and seeds in the one spelling."""
    train = TRAINERS.canonical(experiment.train)
    weak_train = TRAINERS.canonical(experiment.weak_train) if experiment.weak_train else train
    return {"train": train, "weak_train": None if weak_train == train else weak_train, "seeds": experiment.seeds}


def open_store(root: str | None = None) -> Store:
    """Open the store at ``root``. Default: ``$OUTGROW_STORE``, or ``outgrow-store``."""
    return Store(root or os.environ.get("OUTGROW_STORE") or "outgrow-store", _KINDS)


def plan(experiments: Iterable[Experiment], store: Store) -> Plan:
    """What running these experiments would do."""
    targets = wire_all(experiments)
    return runner.plan([*targets, *control_contrasts(targets)], store)


def run(
    experiment: Experiment,
    store: str | None = None,
    runtime: Runtime | None = None,
    *,
    quiet: bool = False,
) -> "pl.DataFrame":
    """Run one experiment; returns its row of :func:`outgrow.runs`. Stored results are reused."""
    return sweep([experiment], store, runtime, quiet=quiet)


def sweep(
    experiments: Grid | Iterable[Experiment],
    store: str | None = None,
    runtime: Runtime | None = None,
    *,
    quiet: bool = False,
) -> "pl.DataFrame":
    """Run many experiments; shared steps run once. Returns their rows of :func:`outgrow.runs`.

    Args:
        experiments: a grid or a list.
        store: folder or fsspec URL. Default: ``$OUTGROW_STORE``, or ``outgrow-store``.
        runtime: device, batching, accepted licences.
        quiet: show no progress.

    Raises:
        UserError: for anything the user can fix.
        StepsFailed: if steps failed. All others are done and stored.
    """
    runtime = runtime or Runtime()
    if isinstance(experiments, Grid):
        experiments = experiments_of(experiments, runtime.accept_license)
    opened = open_store(store)
    with contextlib.nullcontext() if quiet else Progress() as progress:
        targets, _ = run_steps(experiments, opened, runtime, progress)
    return table_of([opened.record(t) for t in [*targets, *control_contrasts(targets)]])


def runs(store: str | None = None) -> "pl.DataFrame":
    """One row per finished experiment in the store: its fields, and every score with its interval.

    See :func:`outgrow.results.table_of` for the columns.
    """
    return table_of(finished(open_store(store)))


def predictions(key: str, store: str | None = None) -> "pl.DataFrame":
    """Every test example of one experiment in the store, for each seed and role, with what was said of it.

    ``key`` is the start of an experiment's key, as ``outgrow ls`` and :func:`runs` show it. See
    :func:`outgrow.results.predictions` for the columns.
    """
    return results.predictions(open_store(store), key)


def run_steps(
    experiments: Iterable[Experiment], store: Store, runtime: Runtime, monitor: Monitor | None = None
) -> tuple[list[Step], Outcome]:
    """Run experiments, and hold each student against its controls among them; shared steps run once. Returns the step
    of each result, and what was done."""
    targets = wire_all(experiments)
    return targets, runner.run([*targets, *control_contrasts(targets)], store, runtime, monitor)
