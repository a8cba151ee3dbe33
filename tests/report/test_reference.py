"""The paper index and the list of methods are the registries."""

from pathlib import Path
from typing import Any

import pytest

from outgrow.identity import is_inside
from outgrow.labels import LABEL_MODELS, TRANSFORMS
from outgrow.losses import LOSSES, loss
from outgrow.report.reference import index, listing, write
from outgrow.strategies import STRATEGIES, parse_strategy
from outgrow.supervisors import parse_supervisor

PAGE = Path(__file__).parents[2] / "docs" / "methods.md"


def test_the_paper_index_is_up_to_date() -> None:
    """If not: python -m outgrow.report.reference docs/methods.md."""
    text = PAGE.read_text(encoding="utf-8")
    assert write(text) == text


def test_every_method_is_indexed_once_and_its_spelling_parses() -> None:
    everything = [value for r in (STRATEGIES, LOSSES, TRANSFORMS, LABEL_MODELS) for value in r.values()]
    rows = [line.rpartition("| ")[2].removesuffix(" |") for line in index().splitlines()[2:]]
    assert len(rows) == len(set(rows)) >= sum(map(is_inside, everything))
    for spelling in rows:
        if spelling.startswith("`--weak "):
            assert parse_supervisor(spelling.strip("`").removeprefix("--weak ")) is not None
        elif spelling.endswith("`"):
            parse_strategy(spelling.strip("`"))


def test_every_line_says_what_it_is() -> None:
    for method in listing():
        assert method.about
        if method.kind in ("strategies", "losses", "transforms", "label models"):
            assert method.source, method
            assert method.cost, method


def test_what_must_be_given_and_what_comes_from_outside_is_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LOSSES, "_values", dict(LOSSES))

    @loss
    class Shifted:
        """Cross-entropy of shifted logits. It serves no purpose."""

        by: float
        kind: str = "plain"

        def __call__(self, logits: Any, targets: Any, progress: float) -> Any:
            return logits

    (listed,) = (method for method in listing() if method.spelling.startswith("Shifted"))
    assert listed.kind == "losses"
    assert listed.spelling == "Shifted(by=..., kind='plain')"
    assert listed.about == "Cross-entropy of shifted logits. It serves no purpose"
    assert listed.source == "test_reference.py"
    assert "Shifted" not in index()  # the docs' table is of the package alone


def test_figures_and_analyses_are_listed() -> None:
    listed = {(method.kind, method.spelling) for method in listing()}
    assert {("figures", "pgr"), ("figures", "controls"), ("analyses", "controls"), ("analyses", "strategies")} <= listed
