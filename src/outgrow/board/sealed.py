"""Opening a sealed test: once, for one method that is named before its first row is scored.

Who opens writes a claim into the store, looks whether anybody else did, and only then scores. Of two who open at the
same moment at most one goes on, on a local disk as on an object store.
"""

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from outgrow.config import Experiment, Grid
from outgrow.engine import runner
from outgrow.engine.graph import Step
from outgrow.engine.runner import Monitor, Outcome
from outgrow.engine.store import Record, Store
from outgrow.errors import UserError, counted
from outgrow.experiment import experiments_of, wire_all
from outgrow.runtime import Runtime
from outgrow.steps.compare import against_controls, content_of
from outgrow.strategies import canonical_strategy, is_control

__all__ = ["Opening", "open_sealed"]

_REFERENCE = "naive"


class Opening(NamedTuple):
    """What came out of a sealed test."""

    results: list[Step]
    """Of the method and of naive, for every pair."""
    against: list[tuple[str, Step]]
    """Of each pair, what it is and the step that compares the method with naive row by row."""
    said: list[str]
    """When the method was named, and what else a reader must know."""
    outcome: Outcome


def open_sealed(method: str, grid: Grid, store: Store, runtime: Runtime, monitor: Monitor | None = None) -> Opening:
    """Score one method, naive and their ceilings on the sealed tests of a grid.

    The same call again reuses what is stored. ``grid`` is that of the runs that held the test back, or part of it.

    Raises:
        UserError: if a test was opened before for something else, or the method is a control.
    """
    method = canonical_strategy(method)
    if is_control(method):
        raise UserError(f"{method} is a control; name the method that you make a claim for")
    strategies = tuple(dict.fromkeys((method, _REFERENCE)))
    asked = replace(grid, sealed=True, strategy=strategies, controls=False)
    experiments = experiments_of(asked, runtime.accept_license)
    targets = wire_all(experiments, opened=True)
    if not all(target.args["truth"] for target in targets):
        raise UserError("a sealed test needs gold, and one of these tables has none; add some")
    seals = {seal.key: seal for target in targets for seal in _seals(target)}
    pools = {pool.key: pool for seal in seals.values() for pool in seal.inputs}
    runner.run([*seals.values(), *pools.values()], store, runtime, monitor)
    named = _claim(method, experiments, targets, list(seals.values()), store)
    apart = _scored_openly(list(seals.values()), store)
    pairs = _pairs(experiments, targets, method)
    outcome = runner.run([*targets, *(step for _, step in pairs)], store, runtime, monitor)
    return Opening(targets, pairs, [*named, *apart], outcome)


def _seals(target: Step) -> Iterator[Step]:
    for folds in target.args["splits"]:
        yield from (split.args["sealed"] for split in folds if "sealed" in split.args)
        yield from (split.args["split"].args["sealed"] for split in folds if "sealed" not in split.args)


def _content(seal: Step, store: Store) -> str:
    return content_of(store.read(seal.args["pool"]), store.read(seal).parts["S"])


def _claim(
    method: str, experiments: Sequence[Experiment], targets: Sequence[Step], seals: Sequence[Step], store: Store
) -> list[str]:
    """Name the method for each sealed test, unless another was named."""
    own = hashlib.sha256("".join(sorted(target.key for target in targets)).encode()).hexdigest()[:16]
    places = {f"sealed-{_content(seal, store)}": seal.args["pool"].args["task"] for seal in seals}
    for place, task in places.items():
        _refuse_others(place, str(task), own, store)
    pairs = dict.fromkeys(f"{e.weak} → {e.strong}" for e in experiments)
    claim = {"method": method, "pairs": list(pairs), "named": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())}
    said = []
    for place, task in places.items():
        again = own in store.marks(place)
        if not again:
            store.mark(place, own, json.dumps(claim, ensure_ascii=False))
            try:
                _refuse_others(place, str(task), own, store)
            except UserError:
                store.unmark(place, own)
                raise
        when = _read(store.mark_text(place, own)).get("named", "before")
        said.append(f"{task}: {method} was named for the sealed test on {when}{', and the test is open' * again}")
    return said


def _refuse_others(place: str, task: str, own: str, store: Store) -> None:
    others = [name for name in store.marks(place) if name != own]
    if others:
        told = _read(store.mark_text(place, others[0]))
        who = f"{told.get('method', 'another method')} ({', '.join(told.get('pairs', ['other pairs']))})"
        raise UserError(
            f"the sealed test of {task} was opened for {who} on {told.get('named', 'another day')}, and it opens once; "
            "a new claim needs new rows"
        )


def _read(text: str) -> Mapping[str, Any]:
    """A claim; anybody may have written to the store."""
    try:
        told = json.loads(text)
        fits = isinstance(told["method"], str) and isinstance(told["named"], str)
        return told if fits and all(isinstance(pair, str) for pair in told["pairs"]) else {}
    except (ValueError, KeyError, TypeError):
        return {}


def _scored_openly(seals: Sequence[Step], store: Store) -> list[str]:
    """What to say where rows of a sealed test are in tests that were scored without sealing one."""
    said = []
    for seal in seals:
        ids, task = store.read(seal).parts["S"], str(seal.args["pool"].args["task"])
        seen: dict[str, bool] = {}
        results = 0
        for record in (r for name in ("compare", "compare_answers") for r in store.records(name)):
            if _is_open(record, task):
                keys = [truth["$step"] for truth in record["args"]["truth"]]
                for key in keys:
                    if key not in seen:
                        seen[key] = bool(np.isin(store.read_key(key).ids, ids).any())
                results += any(seen[key] for key in keys)
        if results:
            said.append(
                f"{task}: rows of the sealed test were scored before, in {counted(results, 'result')} of this store "
                "that sealed none; the claim is that much weaker"
            )
    return said


def _is_open(record: Record, task: str) -> bool:
    experiment = (record["note"] or {}).get("experiment", {})
    return experiment.get("task") == task and not experiment.get("sealed")


def _pairs(experiments: Sequence[Experiment], targets: Sequence[Step], method: str) -> list[tuple[str, Step]]:
    """For each pair, the method against naive on the same rows."""
    plain: dict[str, Step] = {}
    own: dict[str, Step] = {}
    for experiment, target in zip(experiments, targets, strict=True):
        name = f"{experiment.task}, {experiment.weak} → {experiment.strong}, {experiment.train}"
        (own if canonical_strategy(experiment.strategy) == method else plain)[name] = target
    made = []
    for name in own.keys() & plain.keys() if method != _REFERENCE else ():
        texts = own[name].args["texts" if "texts" in own[name].args else "pool"]
        given = {role: own[name].args[role] for role in ("truth", "student")}
        against = {"controls": (plain[name].args["student"],), "names": (_REFERENCE,)}
        made.append((name, Step(against_controls, texts=texts, **given, **against)))
    return sorted(made, key=lambda pair: pair[0])
