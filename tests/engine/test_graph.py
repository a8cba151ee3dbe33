"""Identity of steps: what changes a key and what does not, and the order they run in."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from outgrow.engine.graph import Step, canonical, in_order, step


def ours(value: Any) -> Any:
    """As if this package defined it: known by name and version, not by its source."""
    value.__module__ = "outgrow.made_up"
    return value


@ours
@dataclass(frozen=True, kw_only=True)
class Options:
    rate: float = 0.5
    names: tuple[str, ...] = ("a",)
    place: str = field(default="here", compare=False)


@step(version=1)
@ours
def source(rows: int, options: Options | None = None) -> int:
    return rows


@step(version=3)
@ours
def join(parts: tuple[int, ...], weights: Any = (), by: Any = None) -> int:
    return sum(parts)


@step(version=1)
@ours
def with_runtime(rows: int, runtime: object) -> int:
    return rows


def test_golden_keys() -> None:
    """A change here gives every step another key: users' stored results are no longer found. Never change lightly."""
    first = Step(source, rows=3)
    second = Step(source, rows=3, options=Options(rate=0.25, names=("é", "b")))
    keys = [
        first.key,
        second.key,
        Step(join, parts=(first, second), weights=((1.5, 1e-7), (2.0, None)), by={"b": True, "a": [first]}).key,
        Step(with_runtime, rows=-1).key,
    ]
    assert keys == [
        "e8379b17cdc86d4f0c5f2dc05a68c804bbb3a09590d71c871299782ed8530903",
        "6ecebffcea4442447ffceea29ad9e88fc32f83b135d3fded7d4c25492d04e6db",
        "de6a70fce7e3ae398420c74679e2749625d13583a963c521b19c9d060f84bc93",
        "51b5f3077f2447b6fbd20b5048ea29fe4ae3fb17c59abc44e55987a501df3f25",
    ]


def test_one_meaning_has_one_key() -> None:
    """Spelling, order of arguments, defaults, 1 and 1.0, lists and tuples make no difference."""
    assert Step(join, parts=(1, 2), by=3).key == Step(join, by=3, parts=[1, 2]).key
    assert Step(join, parts=(1, 2), weights=(), by=None).key == Step(join, parts=(1, 2)).key
    assert Step(join, parts=(1.0, 2)).key == Step(join, parts=(1, 2.0)).key
    assert Step(join, parts=(), by={"a": 1, "b": 2}).key == Step(join, parts=(), by={"b": 2, "a": 1}).key
    assert Step(join, parts=(), by=-0.0).key == Step(join, parts=(), by=0).key
    assert Step(source, rows=1, options=Options(place="there")).key == Step(source, rows=1, options=Options()).key


DIFFERENT: list[dict[str, Any]] = [
    {},
    {"by": 0},
    {"by": ""},
    {"by": False},
    {"by": 1},
    {"by": True},
    {"by": "1"},
    {"by": 0.1},
    {"by": 0.1 + 1e-16},
    {"by": 2**53},
    {"by": 2**53 + 1},
    {"by": (1, 2)},
    {"by": (2, 1)},
    {"by": ((1,), 2)},
    {"by": {"a": 1}},
    {"by": Options()},
    {"by": Options(rate=0.25)},
    {"by": Step(source, rows=1)},
    {"by": Step(source, rows=2)},
    {"by": Step(source, rows=1).key},
    {"weights": (1, 2)},
]


def test_every_difference_gives_another_key() -> None:
    keys = {Step(join, parts=(), **args).key for args in DIFFERENT}
    assert len(keys) == len(DIFFERENT)


def test_function_name_and_version_are_part_of_the_key() -> None:
    def made(name: str, version: int) -> Step:
        def fn(rows: int) -> int:
            return rows

        fn.__module__, fn.__qualname__ = "outgrow.made_up", name  # known by name and version, as ours are
        return Step(step(version=version)(fn), rows=1)

    assert made("f", 1).key == made("f", 1).key
    assert len({made("f", 1).key, made("f", 2).key, made("g", 1).key}) == 3


def test_a_change_deep_down_changes_every_key_above() -> None:
    def top(rows: int) -> Step:
        middle = Step(join, parts=(Step(source, rows=rows), Step(source, rows=7)))
        return Step(join, parts=(1,), by={"deep": [[middle]]})

    assert top(1).key == top(1).key != top(2).key


def test_a_wrong_argument_fails_when_the_step_is_made() -> None:
    for wrong in ({"row": 1}, {"rows": 1, "option": 2}, {}):
        with pytest.raises(TypeError):
            Step(source, **wrong)


def test_runtime_is_no_argument_and_not_hashed() -> None:
    with pytest.raises(TypeError, match="runtime"):
        Step(with_runtime, rows=1, runtime=object())
    assert "runtime" not in Step(with_runtime, rows=1).canonical_args


def test_a_value_that_was_changed_has_another_key() -> None:
    """The text of the last value of a dataclass is kept; not where the value can change."""

    @dataclass
    class Open:
        rate: float = 0.5

    @dataclass(frozen=True)
    class Holder:
        rates: list[float]

    opened, holder = Open(), Holder([0.5])
    before = [canonical(opened), canonical(holder)]
    opened.rate, holder.rates[0] = 0.25, 0.25
    assert [canonical(opened), canonical(holder)] == [canonical(Open(0.25)), canonical(Holder([0.25]))]
    assert before == [canonical(Open()), canonical(Holder([0.5]))]


@given(st.lists(st.sampled_from([0, 1, False, True, 0.5]), max_size=8))
def test_equal_values_in_turn_keep_their_own_forms(rates: list[Any]) -> None:
    """True equals 1, and is not the same."""
    values = [Options(rate=rate) for rate in rates]
    found = [canonical(value)["rate"] for value in [v for v in values for _ in range(2)]]
    assert [repr(rate) for rate in found] == [repr(rate) for rate in rates for _ in range(2)]


def test_steps_of_one_key_are_equal() -> None:
    assert Step(source, rows=1) == Step(source, rows=1.0) != Step(source, rows=2)
    assert len({Step(source, rows=rows) for rows in (1, 1, 2)}) == 2


def test_a_note_is_not_part_of_the_key() -> None:
    noted = Step(source, rows=1)
    noted.note = {"experiment": "x"}
    assert noted.key == Step(source, rows=1).key


@pytest.mark.parametrize(
    "value",
    [float("nan"), float("inf"), {1: "a"}, {"$step": "a"}, {1, 2}, np.zeros(2), np.int64(1), object(), Options, b"x"],
)
def test_what_has_no_canonical_form_is_refused(value: Any) -> None:
    with pytest.raises(TypeError):
        canonical(value)
    with pytest.raises(TypeError):
        _ = Step(join, parts=(1, (value,))).key


def test_a_step_hidden_in_a_dataclass_is_refused() -> None:
    """It would be hashed, but neither run before nor replaced by its result."""
    with pytest.raises(TypeError, match="cannot hold steps"):
        _ = Step(source, rows=1, options=Options(names=(Step(source, rows=2),))).key  # type: ignore[arg-type]


def test_inputs_are_found_in_any_nesting_each_once() -> None:
    a, b = Step(source, rows=1), Step(source, rows=2)
    top = Step(join, parts=(b, Step(source, rows=1)), by={"x": [a, {"y": b}]})
    assert [s.key for s in top.inputs] == [b.key, a.key]


# --- order ------------------------------------------------------------------------------------------------------------


@st.composite
def graphs(draw: st.DrawFn) -> list[Step]:
    made: list[Step] = []
    for i in range(draw(st.integers(1, 25))):
        inputs = draw(st.lists(st.sampled_from(made), max_size=4)) if made else []
        made.append(Step(join, parts=tuple(inputs), by=i))
    return made


@given(graphs(), st.data())
def test_order_has_inputs_first_each_once_and_nothing_behind_what_is_done(
    made: list[Step], data: st.DataObject
) -> None:
    targets = data.draw(st.lists(st.sampled_from(made), min_size=1))
    done = {s.key for s in data.draw(st.sets(st.sampled_from(made)))}
    asked: list[str] = []

    def is_done(s: Step) -> bool:
        asked.append(s.key)
        return s.key in done

    order = [s.key for s in in_order(targets, is_done)]
    needed: set[str] = set()

    def need(s: Step) -> None:
        if s.key not in needed:
            needed.add(s.key)
            if s.key not in done:
                for i in s.inputs:
                    need(i)

    for target in targets:
        need(target)
    assert sorted(order) == sorted(needed)  # all that is needed, each once
    assert len(asked) == len(set(asked))  # a store may be far away
    by_key = {s.key: s for s in made}
    for place, key in enumerate(order):
        if key not in done:
            assert all(i.key in order[:place] for i in by_key[key].inputs)


def test_a_chain_of_thousands_needs_no_recursion() -> None:
    chain = Step(source, rows=0)
    for i in range(5_000):
        chain = Step(join, parts=(chain,), by=i)
    order = in_order([chain])
    assert len(order) == 5_001
    assert order[-1] is chain
