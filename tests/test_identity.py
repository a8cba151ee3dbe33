"""Identity covers code: whatever a user's class or function rests on changes its digest, and nothing else does."""

import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from outgrow import identity, registry
from outgrow.engine.graph import Step, canonical, forget, step
from outgrow.errors import UserError
from outgrow.losses import GCE, LOSSES, Xent
from outgrow.registry import use

LOSS = """
import math
from typing import Annotated, ClassVar
import helpers
from outgrow import Range, loss

SCALE = 2.0
UNUSED = 1

def scaled(value):
    return SCALE * value  # doubled

class Base:
    def half(self, value):
        return value / 2

@loss
class Flooded(Base):
    per_example: ClassVar[bool] = True
    floor: Annotated[float, Range(0, 10)] = 0.1

    def __call__(self, logits, targets, progress):
        plain = -(targets * logits.log_softmax(dim=-1)).sum(dim=-1)
        return self.half(scaled(helpers.above(plain, self.floor)))

def not_used():
    return 1
"""
HELPERS = """
def above(values, floor):
    return (values - floor).abs() + floor
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the path, whose files are forgotten afterwards, as is all that they register."""
    monkeypatch.syspath_prepend(str(tmp_path))
    modules = set(sys.modules)
    kept = {kind: dict(r._values) for kind, r in registry.REGISTRIES.items()}
    yield tmp_path
    for kind, r in registry.REGISTRIES.items():
        r._values = kept[kind]
        r._parsed.clear()
    for name in set(sys.modules) - modules:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]
    for file in [f for f in registry._USED if tmp_path in f.parents]:
        del registry._USED[file]


def digest_of(folder: Path, loss: str = LOSS, helpers: str = HELPERS) -> str:
    """The digest of ``Flooded`` from these files, loaded as a new process would."""
    for name in ("flooded", "helpers"):
        sys.modules.pop(name, None)
    registry._USED.clear()
    (folder / "helpers.py").write_text(helpers)
    (folder / "flooded.py").write_text(loss)
    use(folder / "flooded.py")
    forget()
    digest = identity.source_digest(LOSSES["Flooded"])
    assert digest is not None
    return digest


CHANGES: dict[str, Callable[[str, str], tuple[str, str]]] = {
    "its body": lambda a, b: (a.replace("self.half(scaled(", "self.half(2 * scaled("), b),
    "a default": lambda a, b: (a.replace("= 0.1", "= 0.2"), b),
    "a bound": lambda a, b: (a.replace("Range(0, 10)", "Range(0, 20)"), b),
    "its base": lambda a, b: (a.replace("value / 2", "value / 3"), b),
    "a function that it calls": lambda a, b: (a.replace("SCALE * value", "SCALE + value"), b),
    "a constant that a function it calls reads": lambda a, b: (a.replace("SCALE = 2.0", "SCALE = 3.0"), b),
    "a module of the user's that it imports": lambda a, b: (a, b.replace("+ floor", "- floor")),
    "a class variable": lambda a, b: (a.replace("ClassVar[bool] = True", "ClassVar[bool] = False"), b),
}
SAME: dict[str, Callable[[str, str], tuple[str, str]]] = {
    "a comment": lambda a, b: (a.replace("# doubled", "# twice"), b),
    "layout": lambda a, b: (a.replace("SCALE * value", "SCALE   *   value").replace("UNUSED", "\n\n\nUNUSED"), b),
    "what it does not mention": lambda a, b: (a.replace("UNUSED = 1", "UNUSED = 2").replace("return 1", "return 2"), b),
}


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_a_class_rests_on_changes_its_digest(folder: Path, change: str) -> None:
    assert CHANGES[change](LOSS, HELPERS) != (LOSS, HELPERS)
    assert digest_of(folder) != digest_of(folder, *CHANGES[change](LOSS, HELPERS))


@pytest.mark.parametrize("change", SAME)
def test_nothing_else_does(folder: Path, change: str) -> None:
    assert SAME[change](LOSS, HELPERS) != (LOSS, HELPERS)
    assert digest_of(folder) == digest_of(folder, *SAME[change](LOSS, HELPERS))


def test_the_digest_is_of_what_was_loaded_not_of_what_the_file_is_now(folder: Path) -> None:
    """An editor saves while a notebook holds the old code: results of the old code must not get the new code's key."""
    before = digest_of(folder)
    (folder / "flooded.py").write_text(LOSS.replace("value / 2", "value / 3"))
    (folder / "helpers.py").write_text(HELPERS.replace("+ floor", "- floor"))
    forget()
    assert identity.source_digest(LOSSES["Flooded"]) == before
    use(folder / "flooded.py")  # loads it anew
    forget()
    assert identity.source_digest(LOSSES["Flooded"]) != before


def test_another_process_finds_the_same_digest(folder: Path) -> None:
    here = digest_of(folder)
    code = (
        f"import sys; sys.path.insert(0, {str(folder)!r}); from outgrow import identity, use; "
        f"from outgrow.losses import LOSSES; use({str(folder / 'flooded.py')!r}); "
        "print(identity.source_digest(LOSSES['Flooded']))"
    )
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert there.strip() == here


def test_ours_are_known_by_name_and_version(folder: Path) -> None:
    assert identity.source_digest(GCE) is None
    assert canonical(GCE(q=0.5)) == {"$class": "GCE", "$version": GCE.version, "q": 0.5}
    digest = digest_of(folder)
    assert canonical(LOSSES["Flooded"]()) == {
        "$class": "flooded.Flooded",
        "$source": digest,
        "$version": 1,
        "floor": 0.1,
    }


def test_a_loss_that_inherits_from_ours_follows_our_version(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = "from outgrow import loss\nfrom outgrow.losses import GCE\n@loss\nclass Flooded(GCE):\n    more: int = 1\n"
    before = digest_of(folder, mine)
    monkeypatch.setattr(GCE, "version", GCE.version + 1)
    forget()
    assert identity.source_digest(LOSSES["Flooded"]) != before


# --- notebooks --------------------------------------------------------------------------------------------------------

CELLS = r"""
import linecache
from outgrow import identity, loss
from outgrow.engine.graph import forget
from outgrow.losses import LOSSES

def cell(number, text):
    name = f"<cell {number}>"
    linecache.cache[name] = (len(text), None, text.splitlines(True), name)
    exec(compile(text, name, "exec"), globals())
    forget()
    return identity.source_digest(LOSSES["Mine"]) if "Mine" in LOSSES else None

HELP = "def help_me(x):\n    return x\n"
MINE = "@loss\nclass Mine:\n    def __call__(self, logits, targets, progress):\n        return help_me(logits)\n"
cell(1, HELP)
first = cell(2, MINE)
print(first == cell(3, MINE), LOSSES["Mine"] is Mine)
print(first != cell(4, MINE.replace("help_me(logits)", "help_me(logits) + 1")))
print(first == cell(5, MINE), first != cell(6, HELP.replace("return x", "return 2 * x")))
"""


def test_a_cell_that_is_run_twice_replaces_its_loss_and_follows_its_helpers() -> None:
    done = subprocess.run([sys.executable, "-c", CELLS], capture_output=True, text=True, check=False)
    assert done.stdout.split("\n")[:3] == ["True True", "True", "True True"], done.stderr


def test_a_source_that_cannot_be_read_is_refused_in_one_line() -> None:
    code = textwrap.dedent(
        """
        from outgrow import loss, identity
        from outgrow.losses import LOSSES
        exec("@loss\\nclass Mine:\\n    def __call__(self, logits, targets, progress):\\n        return logits")
        identity.source_digest(LOSSES["Mine"])
        """
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "UserError: the source of" in done.stderr
    assert "define it in a file" in done.stderr


def test_a_value_that_cannot_be_told_is_refused(folder: Path) -> None:
    odd = LOSS.replace("SCALE = 2.0", "globals().update(SCALE=object())")
    with pytest.raises(UserError, match=r"flooded\.SCALE is a object"):
        digest_of(folder, odd)
    assert digest_of(folder, LOSS.replace("SCALE = 2.0", "SCALE = object()"))  # the line that sets it tells


# --- names ------------------------------------------------------------------------------------------------------------


def test_a_name_that_stands_is_refused_with_both_places(folder: Path) -> None:
    (folder / "mine.py").write_text("from outgrow import loss\n@loss\nclass GCE:\n    def __call__(self): ...\n")
    places = r"two losses are called GCE: .*robust.GCE .*robust.py line \d+.*mine.GCE .*mine.py line 2"
    with pytest.raises(UserError, match=places):
        use(folder / "mine.py")
    assert LOSSES["GCE"] is GCE
    assert "mine" not in sys.modules


def test_names_of_different_kinds_do_not_shadow_each_other(folder: Path) -> None:
    """A loss ``KNN`` beside the transform ``KNN``: each is found where its kind is asked for."""
    from outgrow.labels import KNN
    from outgrow.strategies import STRATEGIES, parse_strategy

    (folder / "mine.py").write_text(
        "from outgrow import loss\n@loss\nclass KNN:\n    k: int = 7\n    def __call__(self, *a): ...\n"
    )
    use(folder / "mine.py")
    made: Any = parse_strategy("naive(transforms=(KNN(k=3),), loss=KNN)")
    assert made.transforms == (KNN(k=3),)
    assert type(made.loss) is LOSSES["KNN"]
    assert made.loss.k == 7
    assert STRATEGIES.spell(made) == "naive(transforms=(KNN(k=3),), loss=KNN)"


def test_a_file_that_cannot_be_used_is_one_line(folder: Path) -> None:
    (folder / "wrong.py").write_text("from outgrow import loss\n\n1 / 0\n")
    (folder / "random.py").write_text("")
    (folder / "syntax.py").write_text("def f(:\n")
    for name, said in {
        "wrong.py": r"wrong.py line 3: ZeroDivisionError: division by zero",
        "random.py": r"is called like the module random",
        "syntax.py": r"syntax.py line 1: SyntaxError",
        "missing.py": r"cannot read .*missing.py",
        "my-file.py": r"name a Python file",
        "table.csv": r"name a Python file",
    }.items():
        with pytest.raises(UserError, match=said) as error:
            use(folder / name)
        assert "\n" not in str(error.value)


# --- steps of a user's ------------------------------------------------------------------------------------------------


@step(version=1)
def texts(pool: int) -> dict[str, int]:
    return {"pool": pool}


def test_a_step_named_like_one_of_ours_has_its_own_key_and_folder() -> None:
    from outgrow import steps

    mine, ours = Step(texts, pool=1), Step(steps.texts, pool=1)
    assert (mine.function.name, ours.function.name) == ("test_identity.texts", "texts")
    assert mine.key != ours.key


def test_what_cannot_be_stored_is_refused_when_a_step_is_made() -> None:
    def made(returns: Any) -> Step:
        def fn(x: int):  # type: ignore[no-untyped-def]
            return x

        fn.__annotations__["return"] = returns
        return Step(step(version=1)(fn), x=1)

    import numpy as np
    import polars as pl

    for kept in (dict[str, Any], list[int], float, np.ndarray, dict[str, np.ndarray], pl.DataFrame, int | None):
        assert made(kept)
    for refused in (Any, object, Path, Xent, set, Callable[[], int]):
        with pytest.raises(UserError, match="must say what it returns"):
            made(refused)


FLOATS = np.ndarray[tuple[Any, ...], Any]
"""An alias of a type: it has an array's attributes, and is none."""


@step(version=1)
def of_alias(rows: int) -> dict[str, int]:
    return {"rows": rows + len(str(FLOATS))}


def test_code_that_names_an_alias_of_arrays_has_a_key() -> None:
    assert Step(of_alias, rows=1).key != Step(of_alias, rows=2).key
