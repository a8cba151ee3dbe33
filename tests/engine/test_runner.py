"""Running steps: each once, failures contained, damage mended, and a kill at any instant survived."""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from outgrow.data import Split
from outgrow.engine import runner, values
from outgrow.engine.graph import Content, Step, step
from outgrow.engine.runner import Monitor, Outcome, StepsFailed, plan, run
from outgrow.engine.store import Store
from outgrow.errors import UserError
from outgrow.runtime import Runtime

PLACES = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
CALLS: list[tuple[str, Any]] = []
"""Every call of a step function below: its name, and what tells it apart."""


@pytest.fixture(autouse=True)
def calls() -> Iterator[list[tuple[str, Any]]]:
    CALLS.clear()
    yield CALLS
    BROKEN.clear()


BROKEN: dict[Any, Exception] = {}
"""What fails now, by the argument of the step."""


@step(version=1)
def number(value: int) -> int:
    CALLS.append(("number", value))
    if value in BROKEN:
        raise BROKEN[value]
    return value


@step(
    version=1,
    content=Content(digest=lambda a: str(a["value"] % 10), adopt=lambda result, a: [a["value"], result[1]]),
)
def last_digit(value: int) -> list[int]:
    CALLS.append(("last_digit", value))
    return [value, value % 10]


@step(version=1, work=lambda a: a["amount"] * 1e9 if isinstance(a["amount"], int) else None)
def heavy(model: str, amount: int) -> int:
    return amount


@step(version=1)
def add(parts: tuple[int, ...], name: str = "") -> int:
    CALLS.append(("add", parts))
    return sum(parts)


def _scale_many(arguments: list[dict[str, Any]], runtime: Runtime) -> list[Any]:
    CALLS.append(("scale", [a["by"] for a in arguments]))
    for a in arguments:
        if a["by"] in BROKEN:
            raise BROKEN[a["by"]]
    return [a["value"] * a["by"] for a in arguments]


@step(version=1, many=_scale_many, together=("value",))
def scale(value: int, by: int, runtime: Runtime) -> int:
    raise AssertionError("the many form serves one, too")


@step(version=1)
def talk(text: str, runtime: Runtime) -> str:
    runtime.say(text)
    runtime.report(1, 2, "words")
    assert runtime.scratch is not None
    runtime.scratch.mkdir(parents=True)
    (runtime.scratch / "checkpoint").write_text("half")
    return runtime.device


@step(version=1)
def anything(value: str) -> dict[str, Any]:
    made: dict[str, Any] = {"nan": float("nan"), "set": {1}, "tuple": (1, (2,)), "keys": {1: "a"}}
    return made[value]  # type: ignore[no-any-return]


@step(version=1)
def shape_of(value: Any) -> str:
    return repr(value)


class Heard(Monitor):
    def __init__(self) -> None:
        self.started: list[tuple[int, int]] = []
        self.said: list[str] = []
        self.reports: list[tuple[int, int, str]] = []
        self.ended: list[str] = []

    def start(self, to_run: int, reused: int) -> None:
        self.started.append((to_run, reused))

    def report(self, done: int, total: int, unit: str) -> None:
        self.reports.append((done, total, unit))

    def end(self, steps: list[Step], seconds: float) -> None:
        self.ended += [s.key for s in steps]

    def say(self, line: str) -> None:
        self.said.append(line)


def go(store: Store, *targets: Step, monitor: Monitor | None = None) -> Outcome:
    return run(targets, store, Runtime(device="cpu"), monitor)


def failing(store: Store, *targets: Step, monitor: Monitor | None = None) -> StepsFailed:
    with pytest.raises(StepsFailed) as failed:
        go(store, *targets, monitor=monitor)
    return failed.value


def diamond() -> tuple[Step, Step]:
    low = Step(number, value=1)
    left, right = Step(add, parts=(low, 10)), Step(add, parts=(low, 20))
    return low, Step(add, parts=(left, right))


def damage(store: Store, step: Step) -> None:
    path = Path(store.folder(step)) / "record.json"
    path.write_text(path.read_text().replace('"result"', '"tampered"'))


# --- once -------------------------------------------------------------------------------------------------------------


def test_each_step_runs_once_and_never_again(any_store: Store) -> None:
    _, top = diamond()
    heard = Heard()
    first = go(any_store, top, top, Step(number, value=1), monitor=heard)
    assert any_store.read(top) == 32
    assert (first.ran, first.reused, first.skipped, first.failed) == (4, 0, 0, {})
    assert len(CALLS) == 4
    assert heard.started == [(4, 0)]
    assert len(heard.ended) == len(set(heard.ended)) == 4
    second = go(any_store, top)
    assert (second.ran, second.reused) == (0, 1)
    assert len(CALLS) == 4


def test_only_what_is_missing_runs(store: Store) -> None:
    _, top = diamond()
    go(store, top)
    wider = Step(add, parts=(top, Step(number, value=5)))
    outcome = go(store, wider)
    assert (outcome.ran, outcome.reused) == (2, 1)
    assert store.read(wider) == 37


def test_records_say_how_a_result_came_about(store: Store) -> None:
    target = Step(number, value=3)
    target.note = {"why": "test"}
    go(store, target)
    record = store.record(target)
    assert record["note"] == {"why": "test"}
    assert record["seconds"] >= 0
    assert record["peak_memory_bytes"] > 1 << 20
    assert {"python", "torch", "numpy"} <= record["versions"].keys()
    assert record["finished"]
    assert record["host"]


@pytest.mark.parametrize("value", ["tuple", "keys"])
def test_a_step_sees_the_same_value_whether_its_input_is_new_or_was_stored(store: Store, value: str) -> None:
    new, stored = (Step(shape_of, value={"v": Step(anything, value=value), "of": of}) for of in ("new", "stored"))
    go(store, new)
    go(store, stored)
    assert store.read(new).replace("new", "stored") == store.read(stored)


def test_what_a_step_says_reaches_the_monitor_and_its_scratch_goes_when_it_is_done(store: Store) -> None:
    heard, target = Heard(), Step(talk, text="hello")
    go(store, target, monitor=heard)
    assert heard.said == ["hello"]
    assert heard.reports == [(1, 2, "words")]
    assert store.read(target) == "cpu"
    assert not store.scratch(target).exists()


# --- failures ---------------------------------------------------------------------------------------------------------


def test_a_failure_fails_its_descendants_and_nothing_else(store: Store) -> None:
    BROKEN[1] = RuntimeError("no luck")
    low, top = diamond()
    fine = Step(add, parts=(Step(number, value=2),))
    heard = Heard()
    failed = failing(store, top, fine, monitor=heard)
    assert failed.outcome.failed == {low.key: BROKEN[1]}
    assert (failed.outcome.ran, failed.outcome.skipped) == (2, 3)
    assert failed.lines == ["RuntimeError: no luck (3 further steps were not run)"]
    assert not failed.by_user
    assert store.read(fine) == 2
    assert not any(store.is_done(s) for s in (low, top, *top.inputs))
    assert "Traceback" in heard.said[0]
    BROKEN.clear()
    assert go(store, top, fine).ran == 4  # mended, the rest is made


def test_what_the_user_can_mend_is_one_line_and_every_failure_counts(store: Store) -> None:
    BROKEN.update({1: UserError("name a column"), 2: UserError("name a row")})
    heard = Heard()
    steps = [Step(number, value=v) for v in (1, 2)]
    failed = failing(store, *steps, monitor=heard)
    assert failed.by_user
    assert failed.lines == ["name a column", "name a row"]
    assert heard.said == []  # said once, at the end, by the error
    BROKEN[2] = RuntimeError("bug")
    assert not failing(store, *steps).by_user


def test_an_interruption_is_not_a_failure_of_a_step(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(store, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        go(store, Step(number, value=1))


@pytest.mark.parametrize("value", ["nan", "set"])
def test_a_result_that_cannot_be_stored_fails_its_step_only(store: Store, value: str) -> None:
    bad, fine = Step(anything, value=value), Step(number, value=1)
    failed = failing(store, Step(shape_of, value=bad), bad, fine)
    assert list(failed.outcome.failed) == [bad.key]
    assert failed.outcome.skipped == 1
    assert store.read(fine) == 1


def test_a_store_that_cannot_be_written_ends_the_run_at_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise UserError("no space left")

    monkeypatch.setattr(store, "write", full)
    with pytest.raises(UserError, match="no space left"):
        go(store, Step(number, value=1), Step(number, value=2))
    assert CALLS == [("number", 1)]


# --- many at once -----------------------------------------------------------------------------------------------------


def test_all_that_is_ready_goes_together(store: Store) -> None:
    """Also what becomes ready late: the single steps run first."""
    low = Step(number, value=3)
    late = Step(number, value=4)
    steps = [Step(scale, value=low, by=by) for by in range(5)]
    others = [Step(scale, value=late, by=by) for by in range(3)]
    go(store, *steps[:3], *others, *steps[3:])
    groups = [args for name, args in CALLS if name == "scale"]
    assert sorted(map(sorted, groups)) == [[0, 1, 2], [0, 1, 2, 3, 4]]
    assert [store.read(s) for s in steps] == [0, 3, 6, 9, 12]
    assert [store.read(s) for s in others] == [0, 4, 8]
    assert store.record(steps[0])["together"] == 5


def test_one_bad_member_does_not_fail_the_others(store: Store) -> None:
    BROKEN[2] = ValueError("bad member")
    low = Step(number, value=3)
    steps = [Step(scale, value=low, by=by) for by in range(4)]
    above = [Step(add, parts=(s,)) for s in steps]
    failed = failing(store, *above)
    assert failed.outcome.failed == {steps[2].key: BROKEN[2]}
    assert failed.outcome.skipped == 1
    assert [store.read(above[i]) for i in (0, 1, 3)] == [0, 3, 9]


def test_a_call_of_many_is_bounded(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "_MOST_AT_ONCE", 4)
    steps = [Step(scale, value=1, by=by) for by in range(10)]
    go(store, *steps)
    assert [args for _, args in CALLS] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert [store.read(s) for s in steps] == list(range(10))


# --- what goes first --------------------------------------------------------------------------------------------------


@step(version=1)
def slow(value: int, of: int, runtime: Runtime) -> int:
    CALLS.append(("slow", of))
    return value


def test_quick_steps_run_before_long_ones_and_those_before_what_goes_together(store: Store) -> None:
    first, second = Step(number, value=1), Step(number, value=2)
    long = [Step(slow, value=first, of=i) for i in range(2)]
    behind = Step(add, parts=(long[0],))
    joined = [Step(scale, value=3, by=by) for by in range(2)]
    go(store, *joined, *long, behind, Step(add, parts=(second,)))
    assert CALLS == [
        ("number", 1),
        ("number", 2),
        ("add", (2,)),
        ("slow", 0),
        ("add", (1,)),  # ready only now, and still before the next long one
        ("slow", 1),
        ("scale", [0, 1]),
    ]


def test_what_only_a_mistaken_target_needs_is_not_run(store: Store) -> None:
    """The long step is ready first; by then the user's mistake is known."""
    BROKEN[7] = UserError("too few rows")
    pool = Step(number, value=1)
    mistaken, own = Step(number, value=7), Step(slow, value=pool, of=0)
    shared = Step(slow, value=pool, of=1)
    bad = Step(add, parts=(Step(scale, value=own, by=2), shared, mistaken))
    good = Step(add, parts=(shared,))
    failed = failing(store, bad, good)
    assert [of for name, of in CALLS if name == "slow"] == [1]
    assert failed.outcome.failed == {mistaken.key: BROKEN[7]}
    assert (failed.outcome.ran, failed.outcome.skipped) == (3, 3)
    assert store.read(good) == 1


def test_a_target_is_run_though_what_else_needs_it_cannot(store: Store) -> None:
    BROKEN[7] = UserError("too few rows")
    asked = Step(slow, value=Step(number, value=1), of=0)
    failing(store, Step(add, parts=(asked, Step(number, value=7))), asked)
    assert store.read(asked) == 1


def test_after_a_failure_that_is_no_mistake_the_rest_goes_on(store: Store) -> None:
    """Out of memory at one seed: the others' work is there when the run is repeated."""
    BROKEN[7] = MemoryError("one seed")
    other = Step(slow, value=Step(number, value=1), of=0)
    failing(store, Step(add, parts=(Step(number, value=7), other)))
    assert store.read(other) == 1


# --- damage -----------------------------------------------------------------------------------------------------------


def test_a_damaged_target_is_said_and_computed_again(store: Store) -> None:
    _, top = diamond()
    go(store, top)
    damage(store, top)
    heard = Heard()
    outcome = go(store, top, monitor=heard)
    assert store.read(top) == 32
    assert outcome.ran == 1
    assert len(heard.said) == 1
    assert "damaged" in heard.said[0]


def test_a_damaged_input_is_said_and_computed_again_with_all_it_needs(store: Store) -> None:
    low, top = diamond()
    go(store, top)
    damage(store, top)
    for s in (low, *top.inputs):
        damage(store, s)
    heard = Heard()
    go(store, top, monitor=heard)
    assert store.read(top) == 32
    assert store.read(low) == 1
    assert len(heard.said) == 4
    assert all("damaged" in line for line in heard.said)


def test_a_damaged_input_that_cannot_be_made_again_fails_what_needs_it(store: Store) -> None:
    low = Step(number, value=1)
    go(store, low)
    damage(store, low)
    BROKEN[1] = UserError("the file is gone")
    CALLS.clear()
    needing = [Step(scale, value=low, by=by) for by in range(5)]
    fine = Step(number, value=2)
    failed = failing(store, *needing, Step(add, parts=(needing[0],)), fine)
    assert store.read(fine) == 2
    assert set(failed.outcome.failed) == {low.key, *(s.key for s in needing)}
    assert failed.outcome.skipped == 1
    assert str(failed).startswith("the file is gone")
    assert CALLS.count(("number", 1)) == 1  # tried once, not once for each that needs it


# --- plans ------------------------------------------------------------------------------------------------------------


def test_a_step_of_a_content_that_is_stored_takes_it_and_computes_nothing(any_store: Store) -> None:
    """Also across runs, and through what was itself taken; keys stay apart."""
    run([Step(last_digit, value=13)], any_store, Runtime())
    targets = [Step(last_digit, value=v) for v in (23, 33, 4)]
    run(targets, any_store, Runtime())
    assert [any_store.read(t) for t in targets] == [[23, 3], [33, 3], [4, 4]]
    assert [value for name, value in CALLS if name == "last_digit"] == [13, 4]
    assert any_store.record(targets[0])["taken_from"] == Step(last_digit, value=13).key
    assert "taken_from" not in any_store.record(targets[2])


def test_a_result_that_is_gone_is_not_taken(store: Store) -> None:
    first, heard = Step(last_digit, value=13), Heard()
    run([first], store, Runtime())
    record = Path(store.folder(first)) / "record.json"
    run([Step(last_digit, value=53)], store, Runtime())
    store.delete(Step(last_digit, value=53))
    store.delete(first)
    assert not record.exists()
    run([Step(last_digit, value=63)], store, Runtime(), heard)
    assert store.read(Step(last_digit, value=63)) == [63, 3]
    assert CALLS[-1] == ("last_digit", 63)


def test_a_plan_counts_and_estimates_and_runs_nothing(store: Store) -> None:
    assert plan([Step(number, value=1)], store).unknown == 1
    for value, seconds in ((1, 1.0), (2, 3.0), (3, 100.0)):
        store.write(Step(number, value=value), value, {"seconds": seconds})
    low, top = diamond()
    found = plan([top, Step(number, value=9)], store)
    assert [s.key for s in found.reused] == [low.key]
    assert {s.key for s in found.to_run} == {top.key, *(s.key for s in top.inputs), Step(number, value=9).key}
    assert found.unknown == 3  # no add was ever timed
    assert found.seconds == 3.0  # the median of three numbers
    assert CALLS == []


def test_an_estimate_takes_the_most_similar_steps(store: Store) -> None:
    for name, seconds in (("quick", 1.0), ("slow", 50.0)):
        for part in (1, 2, 3):
            store.write(Step(add, parts=(part,), name=name), part, {"seconds": seconds})
    assert plan([Step(add, parts=(9,), name="slow")], store).seconds == 50.0


def test_what_was_never_timed_is_estimated_from_its_work(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "machine_rate", lambda: 1e9)
    first = plan([Step(heavy, model="a", amount=7)], store)
    assert (first.seconds, first.guessed, first.unknown) == (8.0, 1, 0)
    store.write(Step(heavy, model="a", amount=2), 2, {"seconds": 6.0, "work": 2e9})
    same = plan([Step(heavy, model="a", amount=5)], store)
    assert (same.seconds, same.guessed) == (1 + 5 * 1.0, 1)  # more than twice the work: at most the machine's rate
    for amount, seconds, guessed in ((1, 3.5, 0), (3, 8.5, 0), (4, 11.0, 0), (5, 6.0, 1), (100, 101.0, 1)):
        given = Step(number, value=amount)  # as the texts of features: an input, whose result says how much there is
        store.write(given, amount, {})
        found = plan([Step(heavy, model="a", amount=given)], store)
        assert (found.seconds, found.guessed) == (seconds, guessed)
    other = plan([Step(heavy, model="b", amount=5), Step(heavy, model="b", amount=1)], store)
    assert (other.seconds, other.guessed) == (1 + 5 * 1.0 + 1 + 2.5, 2)
    assert sum(other.by_key.values()) == 9.5


def test_a_time_of_other_inputs_is_called_a_guess(store: Store) -> None:
    """A probe on a table of 240 rows says little of one on 10,000."""
    small, large = Step(number, value=1), Step(number, value=2)
    store.write(Step(add, parts=small, name="probe"), 1, {"seconds": 4.0})
    assert plan([Step(add, parts=large, name="probe")], store).guessed == 1
    assert plan([Step(add, parts=small, name="other")], store).guessed == 0


def test_work_is_in_the_record_and_what_was_taken_times_nothing(store: Store) -> None:
    run([Step(heavy, model="a", amount=3), Step(last_digit, value=3)], store, Runtime())
    assert store.record(Step(heavy, model="a", amount=3))["work"] == 3e9
    store.write(Step(last_digit, value=13), [13, 3], {"seconds": 900.0, "taken_from": "x"})
    assert plan([Step(last_digit, value=9)], store).seconds < 1


def test_the_rate_of_the_machine_is_measured() -> None:
    assert 1e8 < runner.machine_rate() < 1e14


def test_an_estimate_reads_a_bounded_number_of_records(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "_TIMED", 3)
    for value in range(8):
        store.write(Step(number, value=value), value, {"seconds": 2.0})
    read: list[str] = []
    read_record = store._read_record

    def counted(folder: str) -> Any:
        read.append(folder)
        return read_record(folder)

    monkeypatch.setattr(store, "_read_record", counted)
    assert plan([Step(number, value=v) for v in range(10, 20)], store).seconds == 20.0
    assert len(read) == 3


# --- kill -9 ----------------------------------------------------------------------------------------------------------


@step(version=1)
def link(before: Any, place: int) -> Split:
    kill_if_due()
    seen = "" if before is None else before.parts["A"][0]
    digest = hashlib.sha256(f"{seen}{place}".encode()).hexdigest()
    return Split(parts={"A": np.array([digest]), "B": np.array([f"{digest}-{i}" for i in range(50)])})


BEFORE_DEATH: list[int] = []
"""How many instants this process survives, if it is to die by its own hand."""


def kill_if_due() -> None:
    if BEFORE_DEATH:
        BEFORE_DEATH[0] -= 1
        if not BEFORE_DEATH[0]:
            os.kill(os.getpid(), signal.SIGKILL)


def deadly(original: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **options: Any) -> Any:
        kill_if_due()
        result = original(*args, **options)
        kill_if_due()
        return result

    return call


def run_chain(root: str, instants: int = 0) -> None:
    """Four steps in a row. The instants to die at: in a step, before and after each stage of storing."""
    store = Store(root, ["outgrow.data:Split"])
    BEFORE_DEATH[:] = [instants] if instants else []
    for owner, name in ((values, "save"), (Path, "write_text"), (Path, "rename")) if instants else ():
        setattr(owner, name, deadly(getattr(owner, name)))
    target = None
    for place in range(4):
        target = Step(link, before=target, place=place)
    assert target is not None
    run([target], store, Runtime(device="cpu"))


def stored(root: Path) -> Mapping[str, Any]:
    """Every result of a store: its files' bytes, and its record but for when, where and how long."""
    store = Store(str(root), ["outgrow.data:Split"])
    found = {}
    for record in store.records():
        folder = root / record["fn"] / record["key"]
        store.verify(str(folder))
        same = {k: record[k] for k in ("key", "fn", "version", "args", "inputs", "kind", "files", "result")}
        found[record["key"]] = (same, {name: (folder / name).read_bytes() for name in record["files"]})
    return found


def die_and_go_on(base: str) -> None:
    """Run in a process of its own: for every instant, a child that dies there and one that goes on."""
    runner._facts()  # what is looked up once, is looked up before the children
    run_chain(f"{base}/whole")
    for instant in range(1, 1000):
        children = []
        for instants in (instant, 0):
            if not (child := os.fork()):
                run_chain(f"{base}/{instant}", instants)
                os._exit(0)
            children.append(os.waitpid(child, 0)[1])
        assert children[1] == 0
        if children[0] == 0:  # it outlived all instants
            print(json.dumps(instant))
            return
        assert os.WTERMSIG(children[0]) == signal.SIGKILL


def in_own_process(call: str) -> "subprocess.Popen[str]":
    code = f"import sys; sys.path[:0] = {PLACES!r}; import test_runner; test_runner.{call}"
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


def test_killed_at_any_instant_a_run_goes_on_to_the_same_result(tmp_path: Path) -> None:
    """Each of four steps dies in its function, and before and after each of the four stages of storing."""
    out, _ = in_own_process(f"die_and_go_on({str(tmp_path)!r})").communicate(timeout=60)
    last = json.loads(out)
    assert last == 4 * (1 + 2 * 4) + 1
    whole = stored(tmp_path / "whole")
    assert len(whole) == 4
    assert all(stored(tmp_path / str(instant)) == whole for instant in range(1, last + 1))


def test_killed_from_outside_at_random_instants(tmp_path: Path) -> None:
    rng = random.Random(0)
    run_chain(str(tmp_path / "whole"))
    for _ in range(6):
        child = in_own_process(f"run_chain({str(tmp_path / 'killed')!r})")
        time.sleep(rng.uniform(0.2, 0.6))
        child.kill()
        child.communicate()
    run_chain(str(tmp_path / "killed"))
    assert stored(tmp_path / "killed") == stored(tmp_path / "whole")
