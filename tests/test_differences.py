"""docs/differences.md names a test for every difference, and those tests exist; here are those with no other home."""

import ast
import re
from pathlib import Path

import numpy as np
import pytest

from outgrow.data import Examples
from outgrow.tasks import Sizes, split_examples

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "differences.md").read_text(encoding="utf-8")
NAMED = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)


def defined_in(file: str) -> set[str]:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


def test_every_difference_names_a_test() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith("| released code |")]
    assert len(rows) > 20
    for row in rows:
        assert re.search(r"`tests/[\w/]+\.py::test_\w+`", row), row
    assert len(NAMED) == len(re.findall(r"tests/[\w/]+\.py", PAGE))  # no file without its test


@pytest.mark.parametrize(("file", "name"), sorted(set(NAMED)))
def test_every_named_test_exists(file: str, name: str) -> None:
    assert name in defined_in(file)


@pytest.mark.parametrize("seed", range(3))
def test_rows_are_drawn_from_the_whole_pool(seed: int) -> None:
    """Of a pool sorted by where rows come from, every part has rows of every source, in its share."""
    n = 2000
    ids = np.array([f"r{i:04}" for i in range(n)])
    pool = Examples(ids=ids, inputs=("",) * n, gold=np.arange(n) % 2, classes=("a", "b"), groups=ids)
    split = split_examples(pool, Sizes(supervisor=200, transfer=200, test=200), seed)
    for part in ("A", "B", "T"):
        source = np.array([int(i[1:]) // 500 for i in split.parts[part]])
        assert np.bincount(source, minlength=4).min() > 25
