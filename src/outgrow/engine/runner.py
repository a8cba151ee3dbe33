"""Run steps in order, each at most once, in this process.

Quick steps run before long ones, so that mistakes show before hours of work. A failed step fails the steps that need it
and nothing else; if the user has to fix the failure, steps that only those needed are skipped too. Steps of one kind
over the same inputs run together through the function's ``many`` form. Stored results are reused; a damaged one is
reported and computed again.
"""

import functools
import json
import math
import platform
import resource
import shutil
import sys
import time
import traceback
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from importlib import metadata
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from outgrow.engine.git import checkout
from outgrow.engine.graph import Step, canonical, in_order
from outgrow.engine.store import Damaged, Store, Unreachable
from outgrow.errors import UserError, counted, disk_problem, without_secrets
from outgrow.runtime import Runtime

__all__ = ["Monitor", "Outcome", "Plan", "StepsFailed", "machine_rate", "plan", "run"]

_MOST_AT_ONCE = 2000  # steps in one call of a many form; limits what an interruption loses
_TIMED = 50  # stored steps of a function that an estimate reads; keys are hashes, so the first are a random sample
_REACHED = 0.5  # share of a plain product's rate that feature extraction had for MiniLM-L3, MiniLM-L6 on 2 cores
_START = 1.0  # seconds of a step that has work which go into its start, such as loading a model: at most half
_SIMILAR = 2.0  # times as much work, or half as much, is timed at a similar size
_KEPT_VALUES = 48  # results kept in memory for later steps


class Monitor:
    """Receives the events of a run. This one ignores them."""

    def start(self, to_run: int, reused: int) -> None:
        """The run starts, with this many steps to run and reused."""

    def begin(self, steps: list[Step]) -> None:
        """These steps start, in one call."""

    def report(self, done: int, total: int, unit: str) -> None:
        """Progress within the current call."""

    def end(self, steps: list[Step], seconds: float) -> None:
        """These steps are stored."""

    def say(self, line: str) -> None:
        """A message for the user."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run would do."""

    to_run: list[Step]
    reused: list[Step]
    seconds: float
    """Estimated from records of earlier steps of the same kind, or from the work they have and the machine's rate."""
    unknown: int
    """Steps of kinds that never ran in this store. Not counted in ``seconds``."""
    guessed: int
    """Steps whose estimate is a guess: none alike was timed here with the same model and at a similar size."""
    by_key: Mapping[str, float]
    """Estimated seconds of each step to run, where there is an estimate."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a run did."""

    ran: int
    reused: int
    failed: Mapping[str, BaseException]
    """The error of each failed step, by key. Steps that only failed because an input did are not listed."""
    skipped: int
    """Steps not run because an input failed, or because only steps that failed needed them."""
    seconds: float


class StepsFailed(Exception):
    """Some steps failed. All others are done and stored."""

    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome
        super().__init__("; ".join(self.lines))

    @property
    def lines(self) -> list[str]:
        """What went wrong, one line per distinct failure."""
        errors = self.outcome.failed.values()
        said = (str(e) if isinstance(e, UserError) else f"{type(e).__name__}: {e}" for e in errors)
        counts = Counter(map(without_secrets, said))
        lines = [f"{line} ({n} steps)" if n > 1 else line for line, n in counts.items()]
        if self.outcome.skipped:
            further = counted(self.outcome.skipped, "further step")
            lines[-1] += f" ({further} {'was' if self.outcome.skipped == 1 else 'were'} not run)"
        return lines

    @property
    def by_user(self) -> bool:
        """Whether the user can fix all of it."""
        return all(isinstance(e, UserError) for e in self.outcome.failed.values())


def plan(targets: Iterable[Step], store: Store) -> Plan:
    """What :func:`run` would do for these targets."""
    to_run, reused = _sorted(targets, store)
    timed = {name: list(islice(store.records(name), _TIMED)) for name in {s.function.name for s in to_run}}
    stored = {step.key: step for step in reused}
    read = functools.cache(lambda key: _read_or_none(store, stored[key]))
    found = {s.key: _estimate(s, timed[s.function.name], stored, read) for s in to_run}
    known = {key: e for key, e in found.items() if e is not None}
    return Plan(
        to_run=to_run,
        reused=reused,
        seconds=sum(e.seconds for e in known.values()),
        unknown=len(found) - len(known),
        guessed=sum(e.guess for e in known.values()),
        by_key={key: e.seconds for key, e in known.items()},
    )


def _read_or_none(store: Store, step: Step) -> Any:
    try:
        return store.read(step)
    except Damaged:
        return None


def _sorted(targets: Iterable[Step], store: Store) -> tuple[list[Step], list[Step]]:
    """The steps to run for these targets, inputs first, and the stored steps that they start from."""
    done: dict[str, bool] = {}
    look = store.batch_is_done()

    def is_done(step: Step) -> bool:
        done[step.key] = look(step)
        return done[step.key]

    steps = in_order(targets, is_done)
    return [s for s in steps if not done[s.key]], [s for s in steps if done[s.key]]


class _Estimate(NamedTuple):
    seconds: float
    guess: bool


def _estimate(
    step: Step, records: list[dict[str, Any]], stored: Mapping[str, Step], read: Callable[[str], Any]
) -> _Estimate | None:
    """Median seconds of the stored steps of its function that share the most arguments with it.

    Where the work is known, a part of these seconds is the start, and the rest grows with the work; from a smaller step
    to a larger one no faster than by the machine's rate of multiplications, since what a small step spends is mostly
    its start. What has work and was never timed is guessed by that rate alone. A time of steps that share no input with
    this one, so that they may be of another size, is a guess too.
    """
    records = [r for r in records if "taken_from" not in r]
    work = None
    if step.function.work is not None:
        given = {k: read(v.key) if isinstance(v, Step) and v.key in stored else v for k, v in step.args.items()}
        work = step.function.work(given)
    if work is not None:
        records = [r for r in records if r.get("work")]
        if not records:
            return _Estimate(_START + work / machine_rate(), guess=True)
    if not records:
        return None
    args = json.loads(step.canonical_args)
    alike = [sum(r["args"].get(k) == v for k, v in args.items()) for r in records]
    chosen = [r for r, a in zip(records, alike, strict=True) if a == max(alike)]
    inputs = [name for name, value in step.args.items() if isinstance(value, Step)]
    if work is None:
        seconds = sorted(r["seconds"] for r in chosen)
        guess = bool(inputs) and not any(r["args"].get(name) == args[name] for r in chosen for name in inputs)
    else:
        seconds = sorted(_scaled(r["seconds"], r["work"], work) for r in chosen)
        similar = any(1 / _SIMILAR <= work / r["work"] <= _SIMILAR for r in chosen)
        guess = not similar or max(alike) < len(args) - len(inputs)
    return _Estimate(float(seconds[len(seconds) // 2]), guess)


def _scaled(seconds: float, timed: float, work: float) -> float:
    """The seconds of ``work`` operations, by a step that took ``seconds`` for ``timed`` of them."""
    start = min(_START, seconds / 2)
    pace = (seconds - start) / timed
    return start + work * (min(pace, 1 / machine_rate()) if work > _SIMILAR * timed else pace)


@functools.cache
def machine_rate() -> float:
    """Floating point operations in a second that a model may reach on this machine's processor: a share of what a
    product of matrices does, measured once."""
    import numpy as np

    side = 512
    matrix = np.ones((side, side), dtype=np.float32)
    best = math.inf
    for _ in range(4):
        began = time.perf_counter()
        matrix @ matrix
        best = min(best, time.perf_counter() - began)
    return _REACHED * 2 * side**3 / best


def run(targets: Iterable[Step], store: Store, runtime: Runtime, monitor: Monitor | None = None) -> Outcome:
    """Run what is missing until every target is stored.

    Raises:
        StepsFailed: if a step failed, after everything else is done.
        Unreachable: at once if the store cannot be read or written.
    """
    began = time.monotonic()
    store.drop_abandoned()
    scheduler = _Scheduler(list(targets), store, runtime, monitor or Monitor())
    scheduler.drop_damaged_targets()
    pending, reused = _sorted(scheduler.targets, store)
    scheduler.monitor.start(len(pending), len(reused))
    skipped = scheduler.run_all(pending)
    outcome = Outcome(
        ran=scheduler.ran,
        reused=len(reused),
        failed=scheduler.failed,
        skipped=skipped,
        seconds=time.monotonic() - began,
    )
    if outcome.failed:
        raise StepsFailed(outcome)
    return outcome


@dataclass
class _Scheduler:
    targets: list[Step]
    store: Store
    runtime: Runtime
    monitor: Monitor
    values: "OrderedDict[str, Any]" = field(default_factory=OrderedDict)
    contents: dict[str, dict[str, str]] = field(default_factory=dict)
    """By function: the key of a stored step for each content."""
    failed: dict[str, BaseException] = field(default_factory=dict)
    ran: int = 0

    def drop_damaged_targets(self) -> None:
        for target in self.targets:
            if self.store.is_done(target):
                try:
                    self.store.verify(self.store.folder(target))
                except Damaged as damage:
                    self.monitor.say(f"stored result damaged, computing {target} again: {damage}")
                    self.store.delete(target)

    def run_all(self, pending: list[Step]) -> int:
        """Run every pending step whose inputs succeed; returns how many could not run.

        Quick steps run first, then long ones (those that take the runtime), in the order in which they became ready.
        Steps with a many form wait until nothing else is ready, so that as many as possible run together.
        """
        by_key = {s.key: s for s in pending}
        waiting = {s.key: sum(i.key in by_key for i in s.inputs) for s in pending}
        children: dict[str, list[Step]] = defaultdict(list)
        for step in pending:
            for needed in step.inputs:
                children[needed.key].append(step)
        unneeded = _Unneeded(by_key, children, {t.key for t in self.targets})
        quick: deque[Step] = deque()
        long: deque[Step] = deque()
        together: OrderedDict[str, list[Step]] = OrderedDict()

        def ready(step: Step) -> None:
            if step.function.many is not None:
                together.setdefault(_group(step), []).append(step)
            else:
                (long if step.function.takes_runtime else quick).append(step)

        for step in pending:
            if not waiting[step.key]:
                ready(step)
        left = len(pending)
        while quick or long or together:
            if quick or long:
                batch = [(quick or long).popleft()]
            else:
                name, group = next(iter(together.items()))
                batch, rest = group[:_MOST_AT_ONCE], group[_MOST_AT_ONCE:]
                if rest:
                    together[name] = rest
                else:
                    del together[name]
            batch = [s for s in batch if s.key not in unneeded.keys]
            for step in self._execute(batch) if batch else ():
                left -= 1
                for child in children[step.key]:
                    waiting[child.key] -= 1
                    if not waiting[child.key]:
                        ready(child)
            for step in batch:
                if isinstance(self.failed.get(step.key), UserError):
                    unneeded.add(step)
        return left - sum(
            key in by_key for key in self.failed
        )  # the recomputation of a damaged input may have failed too

    def _execute(self, steps: list[Step]) -> list[Step]:
        """Run steps in one call and store their results; returns those that succeeded."""
        self.monitor.begin(steps)
        began, first = time.monotonic(), steps[0]
        runtime = replace(
            self.runtime, scratch=self.store.scratch(first), report=self.monitor.report, say=self.monitor.say
        )
        try:
            arguments = [{name: self._resolved(value) for name, value in s.args.items()} for s in steps]
            extra: dict[str, Any] = {}
            if first.function.many is not None:
                results = first.function.many(arguments, runtime=runtime)
            else:
                extra, results = self._taken(first, arguments[0])
                named = {"runtime": runtime} if first.function.takes_runtime else {}
                results = results or [first.fn(**arguments[0], **named)]
        except Unreachable:  # no step could be read or stored
            raise
        except Exception as error:
            if len(steps) > 1:  # find the one at fault, so that the others succeed
                return [s for step in steps for s in self._execute([step])]
            self._fail(first, error)
            return []
        seconds = time.monotonic() - began
        stored = []
        for step, result in zip(steps, results, strict=True):
            facts = {**_facts(), "seconds": seconds / len(steps), "together": len(steps), "note": step.note, **extra}
            try:
                record = self.store.write(step, result, facts)
            except UserError:  # the disk is full or read-only: no step could be stored
                raise
            except (TypeError, ValueError) as error:  # this result cannot be stored, such as NaN in plain JSON
                self._fail(step, error)
                continue
            shutil.rmtree(self.store.scratch(step), ignore_errors=True)
            self._keep(step.key, result if record["kind"] else record["result"])  # plain values as a reader gets them
            stored.append(step)
        self.ran += len(stored)
        self.monitor.end(stored, seconds)
        return stored

    def _taken(self, step: Step, arguments: Mapping[str, Any]) -> tuple[dict[str, Any], list[Any]]:
        """What the record is to say of a step's work and content, and its result, if a stored step of the same content
        has it."""
        function, facts = step.function, dict[str, Any]()
        if function.work is not None and (work := function.work(arguments)) is not None:
            facts["work"] = work
        if function.content is None:
            return facts, []
        facts["content"] = content = f"{function.head} {function.content.digest(arguments)}"
        known = self.contents.get(function.name)
        if known is None:  # the stored contents of one function are read once in a run
            known = {r["content"]: r["key"] for r in self.store.records(function.name) if "content" in r}
            self.contents[function.name] = known
        if (source := known.setdefault(content, step.key)) != step.key:
            try:
                adopted = function.content.adopt(self.store.read_key(source), arguments)
                return {**facts, "taken_from": source}, [adopted]
            except Damaged as damage:
                self.monitor.say(f"stored result damaged, computing {step} anew: {damage}")
            except UserError:  # it is gone meanwhile
                pass
        return facts, []

    def _fail(self, step: Step, error: Exception) -> None:
        error = disk_problem(error, "the disk", "see `outgrow doctor`") or error
        self.failed[step.key] = error
        if not isinstance(error, UserError):  # a user's mistake is reported once, at the end
            trace = "".join(traceback.format_exception(error)).rstrip()
            self.monitor.say(without_secrets(f"{trace}\n{step} failed"))

    def _resolved(self, value: Any) -> Any:
        match value:
            case Step():
                return self._value(value)
            case tuple() | list():
                return type(value)(self._resolved(v) for v in value)
            case Mapping():
                return {k: self._resolved(v) for k, v in value.items()}
        return value

    def _value(self, step: Step) -> Any:
        """The result of an input step. A damaged one is computed again, with everything it needs."""
        if step.key in self.values:
            self.values.move_to_end(step.key)
            return self.values[step.key]
        if step.key in self.failed:  # it was damaged and could not be computed again
            raise self.failed[step.key]
        try:
            value = self.store.read(step)
        except Damaged as damage:
            self.monitor.say(f"stored result damaged, computing {step} again: {damage}")
            self.store.delete(step)
            for missing in in_order([step], self.store.is_done):
                if not self.store.is_done(missing) and not self._execute([missing]):
                    raise self.failed[missing.key] from None
            value = self.store.read(step)
        self._keep(step.key, value)
        return value

    def _keep(self, key: str, value: Any) -> None:
        self.values[key] = value
        self.values.move_to_end(key)
        while len(self.values) > _KEPT_VALUES:
            self.values.popitem(last=False)


@dataclass
class _Unneeded:
    """Steps that no remaining target needs. If the user has to fix a failure, all that depends on it will change, so
    computing the rest of its inputs now would be wasted. After any other failure the rest still runs, for the next
    attempt to reuse."""

    by_key: Mapping[str, Step]
    children: Mapping[str, list[Step]]
    targets: set[str]
    keys: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._users = {key: len(self.children.get(key, ())) + (key in self.targets) for key in self.by_key}

    def add(self, failed: Step) -> None:
        """This step failed: skip the steps that need it, and the steps that only those needed."""
        stack = [failed]
        while stack:
            step = stack.pop()
            if step.key in self.keys:
                continue
            self.keys.add(step.key)
            stack += self.children.get(step.key, ())
            for needed in step.inputs:
                if needed.key in self.by_key:
                    self._users[needed.key] -= 1
                    if not self._users[needed.key]:
                        stack.append(needed)


def _group(step: Step) -> str:
    shared = {name: canonical(step.args[name]) for name in step.function.together}
    return json.dumps([step.function.name, shared], sort_keys=True)


@functools.cache
def _versions() -> dict[str, str]:
    names = ("outgrow", "torch", "transformers", "tokenizers", "numpy", "scikit-learn", "peft")
    installed = {d.metadata["Name"].lower() for d in metadata.distributions()}
    return {"python": platform.python_version(), **{n: metadata.version(n) for n in names if n in installed}}


def _facts() -> dict[str, Any]:
    kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "peak_memory_bytes": kib * (1 if sys.platform == "darwin" else 1024),
        "versions": _versions(),
        "git": checkout(Path.cwd()),
        "host": {"system": platform.platform(), "machine": platform.machine()},
    }
