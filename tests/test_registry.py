"""One spelling of configured values: what is spelled reads back, and nothing in it is run."""

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outgrow.errors import UserError
from outgrow.losses import LOSSES, LogConf, Xent
from outgrow.models.settings import VIEWS
from outgrow.registry import REGISTRIES, Registered, Registry, read_call, spell_call
from outgrow.strategies import STRATEGIES, TRAINERS, Confidence, Naive, parse_strategy, parse_trainer
from outgrow.strategies.trainers import Finetune, Probe

shares = st.floats(0, 1)
logconfs = st.builds(
    LogConf,
    alpha=shares,
    warmup=shares,
    shares=st.sampled_from(["uniform", "weak"]),
    schedule=st.sampled_from(["linear", "released"]),
)
losses = logconfs | st.just(Xent())
strategies = st.builds(Naive, loss=losses) | st.builds(Confidence, loss=logconfs)
probes = st.builds(
    Probe,
    view=st.sampled_from(sorted(VIEWS)),
    epochs=st.integers(1, 99),
    lr=st.floats(1e-9, 1e3),
    l2=st.floats(0, 1e3),
    early_stopping=st.booleans(),
)
finetunes = st.builds(Finetune, lr=st.floats(1e-9, 0.5), dropout=st.booleans(), lora=st.integers(0, 64)) | st.builds(
    Finetune, head=st.just("words"), words=st.lists(st.text(min_size=1), min_size=1).map(tuple)
)


@given(losses)
def test_losses_read_back(value: Any) -> None:
    assert LOSSES.parse(LOSSES.spell(value)) == value


@given(strategies)
def test_strategies_read_back_with_the_loss_inside(value: Any) -> None:
    assert parse_strategy(STRATEGIES.spell(value)) == value


@given(probes | finetunes)
def test_trainers_read_back(value: Any) -> None:
    assert parse_trainer(TRAINERS.spell(value)) == value


literals = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3).map(tuple),
)


@given(st.from_regex(r"[A-Za-z][\w.-]{0,9}", fullmatch=True), st.dictionaries(st.sampled_from("abc"), literals))
def test_calls_read_back(name: str, arguments: dict[str, Any]) -> None:
    """Texts with any quotes, brackets, line breaks; negative numbers; tuples of tuples; names with - and dots."""
    assert read_call(spell_call(name, arguments), "task") == (name, arguments)


def test_the_shortest_spelling_says_only_what_differs() -> None:
    assert TRAINERS.spell(Probe()) == "probe"
    assert TRAINERS.spell(Probe(l2=0.5)) == "probe(l2=0.5)"
    assert STRATEGIES.spell(Naive()) == "naive"
    assert STRATEGIES.spell(Confidence(loss=LogConf(alpha=0.75))) == "confidence(loss=LogConf(alpha=0.75))"


@pytest.mark.parametrize("text", ["naive", " naive ", "naive()", "naive( )", "naive(loss=Xent)", "naive(loss=Xent())"])
def test_one_meaning_many_spellings(text: str) -> None:
    assert parse_strategy(text) == Naive(loss=Xent())


def test_lists_are_tuples() -> None:
    assert read_call("t(a=[1, 2])", "task") == ("t", {"a": (1, 2)})
    assert read_call("t(a=[[1], [2]])", "task") == ("t", {"a": ((1,), (2,))})


def said(text: str) -> str:
    with pytest.raises(UserError) as error:
        parse_strategy(text)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_unknown_names_offer_the_nearest() -> None:
    assert said("naiv").startswith("unknown strategy 'naiv'; did you mean naive")
    assert "did you mean loss?" in said("naive(los=Xent)")
    assert "did you mean LogConf" in said("naive(loss=LogCon)")
    assert "did you mean alpha?" in said("naive(loss=LogConf(alfa=1))")
    assert "known:" in said("zzz")


BAD = [
    "", "(", "naive(", "naive)", "naive(loss=)", "naive(Xent)", "naive(1)", "naive(**{'loss': 1})", "naive naive",
    "naive(loss=LogConf(0.5))", "naive(loss=LogConf(**{'alpha': 1}))", "naive(loss=Xent, loss=Xent)", "naive(loss=\0)",
    "naive(a\n=1", "1naive", "-naive", "naive; naive", "naive(loss='Xent)", "naive(loss=" + "(" * 300 + ")" * 300 + ")",
    "naive(loss=-'a')", "naive(loss={[]: 1})", "naive(loss=" + "-" * 50_000 + "1)", "naive(loss=LogConf(alpha=1e999))",
    "naive(loss=Xent)(loss=Xent)", "naive.x(loss=Xent)", "naive(loss=Xent).x(loss=Xent)", "naive[0](loss=Xent)",
    "naive(loss=Xent)[0](loss=Xent)", "naive(loss=Xent)+naive(loss=Xent)", "naive(loss=Xent)#", "[0](loss=Xent)",
    "naive(loss=LogConf(alpha=1)(alpha=2))", "naive(loss=LogConf.x(alpha=1))", "naive(loss=Xent)\n(loss=Xent)",
    "naive(loss='C:\\data')", ".x(loss=Xent)", "naive(" + "[" * 5000 + ")", "naive" * 50_000,
]  # fmt: skip


@pytest.mark.parametrize("text", BAD)
def test_what_cannot_be_read_is_one_line(text: str) -> None:
    said(text)


@pytest.mark.parametrize("text", ["naive(loss=3)", "naive(loss='Xent')", "confidence(loss=Xent)", "naive(loss=None)"])
def test_a_loss_must_be_a_loss(text: str) -> None:
    """And for ``confidence`` the confidence loss; found when it is parsed, not when the step runs."""
    said(text)


@pytest.mark.parametrize(
    "text",
    [
        "probe(epochs='3')",
        "probe(lr='x')",
        "probe(epochs=2.5)",
        "probe(early_stopping=1)",
        "finetune(lr='a')",
        "probe(lr=1e999)",
        "finetune(words=('a', 1), head='words')",
    ],
)
def test_a_value_of_the_wrong_type_is_one_line(text: str) -> None:
    with pytest.raises(UserError) as error:
        parse_trainer(text)
    assert "\n" not in str(error.value)


RAN: list[int] = []


@dataclass(frozen=True, kw_only=True)
class Trap:
    at: "Trap | int | None" = None


@pytest.mark.parametrize(
    "argument",
    [
        "__import__('os').system('true')",
        "__import__(name='os')",
        "RAN.append(1)",
        "RAN.append(at=1)",
        "(lambda: 1)()",
        "[x for x in (1,)]",
        "open",
        "open(at='/etc/passwd')",
        "trap.__class__",
        "2 ** 9999999999",
        "f'{1}'",
        "(y := 1)",
        "'a' * 1000",
        "().__class__.__bases__",
        "print(at=1)",
        "trap(at=__import__('os'))",
        "...",
    ],
)
def test_nothing_is_evaluated(argument: str) -> None:
    things: Registry[type[Any]] = Registry("thing", "things", Trap)
    things.add("trap", Trap)
    try:
        with pytest.raises(UserError):
            things.parse(f"trap(at={argument})")
    finally:
        del REGISTRIES["thing"]
    assert RAN == []


class Sized(Registered, Protocol):
    large: ClassVar[bool] = False


def test_a_class_gets_the_defaults_of_its_protocol_and_need_not_inherit() -> None:
    things: Registry[type[Any]] = Registry("thing", "things", Sized)

    class Thing:
        version = 2
        cost: str

    try:
        made: Any = things.add_class("thing", Thing)
    finally:
        del REGISTRIES["thing"]
    assert (made.version, made.source, made.large) == (2, "", False)
    assert made(cost="much").cost == "much"  # a field keeps its name, and stays required
    with pytest.raises(TypeError):
        made()
