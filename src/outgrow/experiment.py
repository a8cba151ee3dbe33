"""Experiments: supervisor, student and ceiling wired into one result; grids of them; and running them."""

import functools
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
from itertools import combinations, product
from typing import Any

from outgrow import runner, steps
from outgrow.errors import UserError
from outgrow.graph import Step
from outgrow.losses import Xent
from outgrow.models.spec import ModelSpec, ladder
from outgrow.runner import Monitor, Outcome, Plan
from outgrow.runtime import Runtime
from outgrow.store import Store
from outgrow.strategies import (
    CONTROLS,
    Engine,
    Setup,
    canonical_strategy,
    canonical_trainer,
    parse_strategy,
    parse_trainer,
)
from outgrow.tasks import Sizes, TaskSpec

__all__ = ["OWN_LABELS", "Experiment", "Grid", "open_store", "plan", "run_steps", "wire"]

OWN_LABELS = "labels"
"""Written for the supervisor where the weak labels are a column of the user's table."""

_KINDS = (
    "outgrow.data:Examples",
    "outgrow.data:Labels",
    "outgrow.data:Features",
    "outgrow.data:Split",
    "outgrow.models.probe:FittedProbe",
    "outgrow.train.fitted:FinetunedModel",
)
_TRANSFER = ("B", "B_val")


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One weak-to-strong result over several seeds. Every field is spelled as in YAML and on the command line."""

    task: str = "sentiment-movies"
    """Name of a task, with options: ``table(path='mine.csv', weak='guess')``."""
    weak: str = "glove"
    """The supervisor's model; ``labels`` takes the weak labels of the user's own table."""
    strong: str = "minilm-l6"
    """The model of student and ceiling."""
    strategy: str = "naive"
    """How the weak labels become a student, see ``outgrow methods``."""
    train: str = "probe"
    """How student and ceiling are trained: ``probe(...)`` or ``finetune(...)``."""
    weak_train: str | None = None
    """How the supervisor is trained; like the student where not said."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    supervisor_rows: int | None = None
    """Rows of A, which the supervisor is trained on; None for 3/8 of the data."""
    transfer_rows: int | None = None
    """Rows of B, which the supervisor labels for the student; None for 3/8 of the data."""
    test_rows: int | None = None
    """Rows of T; None for 1/4 of the data."""
    validation: float = 0.1
    """Share of A and of B held out for early stopping."""
    balance: bool = True
    """Balance A and B where a class has more than 1.1 times its fair share; T always is."""
    ceiling: bool = True
    """Train the ceiling. Without gold labels on B there is none, and no PGR."""

    def __post_init__(self) -> None:
        if not self.seeds:
            raise UserError("an experiment needs at least one seed")
        if len(set(self.seeds)) != len(self.seeds):
            raise UserError(f"seeds {list(self.seeds)} repeat; each seed is one draw")


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Experiments by the list: every task, pair, strategy and trainer with every other. What ``outgrow run`` takes."""

    task: tuple[str, ...] = ("sentiment-movies",)
    """Tasks, see ``outgrow tasks``."""
    ladder: str = "three"
    """``three``, ``six``, or models from weak to strong separated by commas; every weaker one supervises every
    stronger one."""
    weak: tuple[str, ...] = ()
    """Supervisors, in place of the ladder's (with ``strong``)."""
    strong: tuple[str, ...] = ()
    """Students, in place of the ladder's (with ``weak``)."""
    strategy: tuple[str, ...] = ("naive", "confidence")
    """Strategies, see ``outgrow methods``."""
    train: tuple[str, ...] = ("probe",)
    """Trainers of student and ceiling: probe(...) or finetune(...)."""
    weak_train: str | None = None
    """Trainer of the supervisors; like the student's where not said."""
    seeds: int = 5
    """Number of seeds, counted from 0."""
    supervisor_rows: int | None = None
    """Rows of A, which the supervisor is trained on; 3/8 of the data where not said."""
    transfer_rows: int | None = None
    """Rows of B, which the supervisor labels for the student; 3/8 of the data where not said."""
    test_rows: int | None = None
    """Rows of T; 1/4 of the data where not said."""
    validation: float = 0.1
    """Share of A and of B held out for early stopping."""
    balance: bool = True
    """Balance A and B where a class has more than 1.1 times its fair share."""
    ceiling: bool = True
    """Train ceilings; without gold labels on B there are none, and no PGR."""
    controls: bool = True
    """Run the controls (shuffled weak labels, clusters without labels) beside every pair."""

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise UserError(f"seeds is {self.seeds}; it must be at least 1")
        if bool(self.weak) != bool(self.strong):
            raise UserError("weak and strong go together; give both, or a ladder")
        for name in ("task", "strategy", "train"):
            if not getattr(self, name):
                raise UserError(f"{name} is empty; name at least one")

    def pairs(self, accepted: frozenset[str] = frozenset()) -> list[tuple[str, str]]:
        """Supervisor and student of every pair."""
        if self.weak:
            return list(product(self.weak, self.strong))
        if "," in self.ladder:
            return list(combinations([m.strip() for m in self.ladder.split(",")], 2))
        return list(combinations(ladder(self.ladder, accepted), 2))

    def experiments(self, accepted: frozenset[str] = frozenset()) -> list[Experiment]:
        """All experiments of the grid, controls last. ``accepted`` are restricted models that may join a ladder."""
        strategies = list(dict.fromkeys([*self.strategy, *(CONTROLS if self.controls else ())]))
        shared = {f.name for f in fields(Experiment)} - {"task", "weak", "strong", "strategy", "train", "seeds"}
        rest: dict[str, Any] = {name: getattr(self, name) for name in sorted(shared)}
        return [
            Experiment(
                task=task, weak=weak, strong=strong, strategy=s, train=train, seeds=tuple(range(self.seeds)), **rest
            )
            for task, train, s, (weak, strong) in product(self.task, self.train, strategies, self.pairs(accepted))
        ]


def wire(experiment: Experiment) -> Step:
    """The step whose result is the experiment's. Every name and option is checked here; nothing is fetched.

    Raises:
        UserError: for an unknown name or a combination that cannot be.
    """
    experiment = _canonical(experiment)
    pool = Step(steps.load, task=_task(experiment.task))
    texts = Step(steps.texts, pool=pool)
    trainer = parse_trainer(experiment.train)
    student = Engine(model=_model(experiment.strong), trainer=trainer, texts=texts)
    supervisor = None
    if experiment.weak != OWN_LABELS:
        supervisor = Engine(
            model=_model(experiment.weak), trainer=parse_trainer(experiment.weak_train or experiment.train), texts=texts
        )
    sizes = Sizes(
        supervisor=experiment.supervisor_rows,
        transfer=experiment.transfer_rows,
        test=experiment.test_rows,
        validation=experiment.validation,
        balance=experiment.balance,
    )
    seeds = [_wire_seed(experiment, pool, sizes, supervisor, student, seed) for seed in experiment.seeds]
    truth, weak, students, ceilings = zip(*seeds, strict=True)
    target = Step(
        steps.compare,
        texts=texts,
        truth=truth,
        weak=weak,
        student=students,
        ceiling=ceilings if experiment.ceiling else (),
        seeds=experiment.seeds,
    )
    target.note = {"experiment": asdict(experiment)}
    return target


def _wire_seed(
    experiment: Experiment, pool: Step, sizes: Sizes, supervisor: Engine | None, student: Engine, seed: int
) -> tuple[Step, Step, Step, Step | None]:
    """Truth on T, and the predictions of supervisor, student and ceiling, for one seed."""
    split = Step(steps.split, pool=pool, sizes=sizes, seed=seed)
    if supervisor is None:
        weak = Step(steps.weak_column, pool=pool, split=split, parts=(*_TRANSFER, "T"))
    else:
        own = Step(steps.gold, pool=pool, split=split, parts=("A", "A_val"))
        weak = supervisor.predict(supervisor.fit(own, split, "A", Xent(), seed), split, (*_TRANSFER, "T"))
    predicted = parse_strategy(experiment.strategy)(Setup(split=split, weak=weak, student=student, seed=seed))
    ceiling = None
    if experiment.ceiling:  # as its student in all but the labels (design law 4)
        transfer_gold = Step(steps.gold, pool=pool, split=split, parts=_TRANSFER)
        ceiling = student.predict(student.fit(transfer_gold, split, "B", Xent(), seed), split, ("T",))
    return Step(steps.gold, pool=pool, split=split, parts=("T",)), weak, predicted, ceiling


def _canonical(experiment: Experiment) -> Experiment:
    """Equal meaning, equal spelling."""
    train = canonical_trainer(experiment.train)
    weak_train = canonical_trainer(experiment.weak_train) if experiment.weak_train else train
    return replace(
        experiment,
        task=str(_task(experiment.task)),
        strategy=canonical_strategy(experiment.strategy),
        train=train,
        weak_train=None if weak_train == train else weak_train,
        seeds=tuple(experiment.seeds),
    )


def _task(text: str) -> TaskSpec:
    return _task_now(text) if "path=" in text else _cached_task(text)


def _task_now(text: str) -> TaskSpec:
    return TaskSpec.parse(text)


_cached_task = functools.cache(_task_now)  # packaged data never changes; a user's file may, between two runs


@functools.cache
def _model(text: str) -> ModelSpec:
    return ModelSpec.parse(text)


def open_store(root: str) -> Store:
    """The store at ``root``, able to read every kind of result."""
    return Store(root, _KINDS)


def plan(experiments: Iterable[Experiment], store: Store) -> Plan:
    """What running these experiments would do, without doing it."""
    return runner.plan([wire(e) for e in experiments], store)


def run_steps(
    experiments: Iterable[Experiment], store: Store, runtime: Runtime, monitor: Monitor | None = None
) -> tuple[list[Step], Outcome]:
    """Run experiments, shared steps once; returns the step of each result and what was done."""
    targets = [wire(e) for e in experiments]
    return targets, runner.run(targets, store, runtime, monitor)
