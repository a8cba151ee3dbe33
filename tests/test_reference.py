"""The paper index and the list of methods are the registries."""

from pathlib import Path

from outgrow.labels import LABEL_MODELS, TRANSFORMS
from outgrow.losses import LOSSES
from outgrow.reference import index, listing, write
from outgrow.strategies import STRATEGIES, parse_strategy

PAGE = Path(__file__).parent.parent / "docs" / "methods.md"


def test_the_paper_index_is_up_to_date() -> None:
    """If not: python -m outgrow.reference docs/methods.md."""
    text = PAGE.read_text(encoding="utf-8")
    assert write(text) == text


def test_every_method_is_indexed_once_and_its_spelling_parses() -> None:
    rows = [line.rpartition("| ")[2].removesuffix(" |") for line in index().splitlines()[2:]]
    assert len(rows) == len(set(rows)) >= sum(map(len, (STRATEGIES, LOSSES, TRANSFORMS, LABEL_MODELS)))
    for spelling in rows:
        if spelling.endswith("`"):
            parse_strategy(spelling.strip("`"))


def test_every_line_says_what_it_is() -> None:
    for method in listing():
        assert method.about
        if method.kind in ("strategies", "losses", "transforms", "label models"):
            assert method.source, method
            assert method.cost, method
