"""What the terminal shows at any width: pinned screens, and that nothing is cut and no word broken.

The screens are pinned in ``terminal.txt``. Where a test fails and you meant the change, pin what is shown now:

    PYTHONPATH=src:tests python tests/test_terminal.py
"""

import ast
import dataclasses
import inspect
import io
import json
import pkgutil
import pydoc
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

import outgrow
from fake_tables import LADDER, NO_CEILING, TABLES, fake_row, table
from outgrow import cli
from outgrow.board.summary import Board, BoardRow, Cell
from outgrow.config import Grid
from outgrow.engine import graph
from outgrow.engine.progress import Progress, described
from outgrow.engine.runner import Outcome, StepsFailed
from outgrow.errors import UserError
from outgrow.experiment import open_store
from outgrow.metrics import Interval
from outgrow.report.board import print_board
from outgrow.report.listings import print_experiments, print_method, print_methods, print_tasks
from outgrow.report.run import headline, print_table
from outgrow.report.terminal import Column, Line, console, show_facts, show_listing, show_table, show_text
from outgrow.runtime import Runtime

PINNED = Path(__file__).with_name("terminal.txt")
WIDTHS = (80, 100, 160, None)
"""Columns of the terminal; None is a file or pipe."""
PACKAGE = Path(outgrow.__file__).parent
LONG = "naive(transforms=(KNN(k=5),), loss=LogConf(alpha=0.75, warmup=0.1))"

Call = Callable[..., tuple[int, str, str]]


def results() -> Any:
    """Two supervisors, three strategies, a control, no PGR for one."""
    rows = [
        fake_row(weak, "minilm-l6", strategy, finished="2026-11-28T06:46:16+0000", over_shuffled=(0.02, -0.01, 0.05))
        for weak in LADDER[:2]
        for strategy in ("naive", "confidence", LONG, "shuffled")
    ]
    judged = fake_row("glove", "mpnet-base", validate_with="minilm-l3", sealed="held back")
    undefined: dict[str, Any] = {"pgr": None, "pgr_undefined": "the gap's interval holds zero"}
    last = fake_row(strong="mpnet-base", finished="2026-11-28T06:46:17+0000", **undefined)
    return table(*rows, last, judged | {"finished": "2026-11-28T06:46:18+0000"})


def board() -> Board:
    """Two methods, the reference and a control. Fields that this file does not know are None."""
    cell = Cell("sentiment-movies", "glove", "minilm-l6", "probe")
    known: dict[str, Any] = {
        "settings": 1,
        "cells": 12,
        "missing": 0,
        "pgr": Interval(0.31, 0.2, 0.42),
        "pgr_cells": 11,
        "difference": Interval(0.012, 0.004, 0.02),
        "on_these_tasks": Interval(0.012, 0.008, 0.016),
        "correction": "",
        "worst": cell,
        "worst_difference": Interval(-0.01, -0.02, 0.0),
        "wins": 5,
        "ties": 6,
        "losses": 1,
        "trainings": 1.0,
        "cost": 1.4,
        "verdict": "",
    }
    tested = {"p": 0.012, "p_adjusted": 0.024, "correction": "max-T", "verdict": "better"}
    methods: dict[str, dict[str, Any]] = {
        "naive(loss=GCE)": {"kind": "method", "primary": True, **tested},
        LONG: {"kind": "method", **tested},
        "naive": {"kind": "method"},
        "shuffled": {"kind": "control", "cost": None},
    }
    names = [f.name for f in dataclasses.fields(BoardRow)]
    rows = [BoardRow(**dict.fromkeys(names) | known | own | {"method": method}) for method, own in methods.items()]  # type: ignore[arg-type]
    cells = [cell._replace(task=f"task-{t}") for t in range(12)]
    return Board(rows=rows, entries={}, cells=cells, kinds={}, seeds=5)


def listed(shown: Console) -> None:
    """A listing, facts, and a small table."""
    about = "Is this sentence from a film review positive? By the mean of about 19 human ratings."
    show_listing(shown, ["task", "rows", "a row"], [["sentiment-movies", "10,043", about], ["sst2", "?", "Short."]])
    show_facts(shown, [("source", f"{about} {about}"), ("license", "MIT"), ("empty", "")])
    columns = [Column("model", title=True), Column("size", "MB", number=True), Column("what it is", wraps=True)]
    show_table(shown, columns, [Line(["glove", "76.1", about * 2]), Line(["pixels", "–", "Gray values."])])


SCREENS: dict[str, Callable[[Console], None]] = {
    "results": lambda shown: print_table(results(), shown),
    "experiments": lambda shown: print_experiments(results(), shown, controls=False),
    "board": lambda shown: print_board(board(), shown),
    "listings": listed,
}


def shown_at(width: int | None, screen: Callable[[Console], None]) -> str:
    """What a screen prints, without spaces at the ends of lines."""
    file = io.StringIO()
    screen(Console(file=file, width=width or console().width, highlight=False))
    return "".join(f"{line.rstrip()}\n" for line in file.getvalue().splitlines())


def pinned(name: str, width: int | None) -> str:
    return f"=== {name}, {f'{width} columns' if width else 'no terminal'}\n"


def all_screens() -> str:
    return "".join(pinned(n, w) + shown_at(w, screen) for n, screen in SCREENS.items() for w in WIDTHS)


# --- the screens ------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setenv("TZ", "UTC")


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", SCREENS)
def test_a_screen_is_as_pinned(name: str, width: int | None) -> None:
    """If you meant the change: PYTHONPATH=src:tests python tests/test_terminal.py."""
    _, _, rest = PINNED.read_text(encoding="utf-8").partition(pinned(name, width))
    assert shown_at(width, SCREENS[name]) == rest.partition("=== ")[0]


def words(text: str) -> set[str]:
    return set(re.split(r"[\s·]+", text))


@pytest.mark.parametrize("width", [40, 80, 100, 109, 110, 160, None])
@pytest.mark.parametrize("name", TABLES)
def test_supervisor_student_and_strategy_are_whole_at_any_width(name: str, width: int | None) -> None:
    rows = TABLES[name].to_dicts()
    text = shown_at(width, lambda shown: print_table(TABLES[name], shown))
    for row in rows:
        for field in ("weak", "strong", "strategy"):
            assert words(row[field]) <= words(text), (field, text)
    assert words(headline(TABLES[name])) <= words(text)
    if width:
        assert all(cell_len(line) <= width or len(line.split()) == 1 for line in text.splitlines())


@pytest.mark.parametrize("width", [80, 100, 109])
def test_below_110_columns_results_and_boards_are_stacked_with_every_number(width: int) -> None:
    text = shown_at(width, SCREENS["results"])
    assert text.count("weak 71.0 ±1.0 %   student 74.0 ±1.0 %   ceiling 80.0 ±1.0 %") == 10
    assert text.count("PGR 0.33 [0.11, 0.55]") == 7  # all but the controls and the undefined one
    assert text.count("PGR undefined") == 2
    for method in ("GCE (primary)", LONG, "naive", "shuffled (control)"):
        assert f"\n{method}\n" in "\n" + shown_at(width, SCREENS["board"])


NAMES = st.text("abcé-_('=中文 ", min_size=1, max_size=60).filter(lambda name: name.split())


@given(
    st.lists(
        st.tuples(NAMES, NAMES, st.sampled_from(["–", "", "0.31 [0.20, 0.42]", "12.5"]), NAMES), min_size=1, max_size=4
    ),
    st.integers(20, 200),
    st.sampled_from([0, 110]),
)
def test_no_table_cuts_or_breaks_a_word(rows: list[tuple[str, str, str, str]], width: int, least: int) -> None:
    columns = [Column("name", title=True), Column("kind", title=True), Column("n", "%", number=True)]
    columns.append(Column("about", wraps=True))
    text = shown_at(width, lambda shown: show_table(shown, columns, [Line(row) for row in rows], least=least))
    for row in rows:
        for cell in row:
            assert words(cell) - {"–"} <= words(text)
    assert all(cell_len(line) <= width or len(line.split()) == 1 for line in text.splitlines())


@given(NAMES, st.integers(10, 120), st.integers(0, 4))
def test_a_paragraph_keeps_its_words_in_order(text: str, width: int, hanging: int) -> None:
    shown = shown_at(width, lambda shown: show_text(shown, text, hanging=hanging))
    assert shown.split() == text.split()
    assert all(cell_len(line) <= width or len(line.split()) == 1 for line in shown.splitlines())


@pytest.mark.parametrize("width", [80, 100, 160, None])
@pytest.mark.parametrize("screen", [lambda c: print_tasks(c, Runtime()), print_methods])
def test_listings_take_one_line_each(width: int | None, screen: Callable[[Console], None]) -> None:
    lines = shown_at(width, screen).splitlines()
    wide = shown_at(None, screen).splitlines()
    assert len(lines) == len(wide)
    assert [line.split()[:1] for line in lines] == [line.split()[:1] for line in wide]  # names are whole
    assert all(cell_len(line) <= (width or 10**6) for line in lines)
    assert not any("…" in line for line in wide)  # a file has the room
    for line, whole in zip(lines, wide, strict=True):
        assert line == whole or (line.endswith(" …") and whole.startswith(line.removesuffix(" …")))


def test_the_width_is_the_terminals_or_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    assert console().width > 10_000  # a pipe: no line is wrapped
    for width in (80, 100, 160):
        monkeypatch.setenv("COLUMNS", str(width))
        assert console().width == width


# --- commands ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OUTGROW_STORE", raising=False)
    monkeypatch.setenv("COLUMNS", "80")

    def run(*tokens: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as exit_:
            cli.main(list(tokens))
        out, err = capsys.readouterr()
        return int(exit_.value.code or 0), out, err

    return run


def test_a_run_says_its_headline_and_is_listed_and_shown(call: Call, model: Path) -> None:
    trained = ["--train", "probe(epochs=3, lr=0.03)", "--strategy", "naive"]
    code, out, err = call(
        "run", "--task", "words", "--weak", str(model), "--strong", str(model), "--seeds", "2", *trained
    )
    assert code == 0, err
    table_ = outgrow.runs("outgrow-store")
    assert headline(table_) in " ".join(out.split())
    assert "_" not in re.sub(r"\S*[/\\]\S*", "", err), err  # no name of a function; paths aside
    student = table_.filter(~table_["control"])
    _, listing_, _ = call("ls")
    assert student["key"][0][:12] in listing_
    assert f"student {100 * student['student_accuracy'][0]:.1f} ±" in listing_
    assert re.search(r"finished 20\d\d-\d\d-\d\d \d\d:\d\d", listing_)
    assert "shuffled" not in listing_
    assert "2 controls not listed" in listing_
    assert "shuffled" in call("ls", "--all")[1]
    record = open_store("outgrow-store").find(student["key"][0])
    _, shown, _ = call("show", student["key"][0][:12])
    assert shown.index("accuracy") < shown.index("asked for") < shown.index("versions") < shown.index(record["key"])
    for text in (
        f"{100 * student['student_accuracy'][0]:.1f} [",
        "accuracy",
        "%",
        "gain, points",
        "over majority, points",
    ):
        assert text in shown  # percent and points, as in the tables
    assert not set(re.findall(r"\b[0-9a-f]{64}\b", shown)) - {record["key"]}
    assert json.loads(call("show", record["key"], "--all")[1]) == record
    for step in ("embed", "fit_probe", "load", "split", "gold"):  # any step can be shown
        key = next(open_store("outgrow-store").records(step))["key"]
        code, shown, err = call("show", key)
        assert code == 0, err
        assert step in shown
        assert key in shown


def test_an_entry_is_whole_without_its_data(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    code, out, err = call("tasks", "sciq", "--offline")
    assert (code, err) == (0, "")
    for said in ("wrong, right", "split_mode", "CC BY-NC 3.0", "Its rows are not shown", "--data-dir"):
        assert said in out
    code, out, err = call("tasks", "table")
    assert code == 0
    assert "path must be given" in " ".join(out.split())
    code, _, err = call("tasks", "scic")
    assert code == 2
    assert "did you mean sciq" in err
    code, _, err = call("tasks", "table(path='nowhere.csv')")  # options are a question about data
    assert code == 2
    assert "nowhere.csv" in err


def test_a_method_is_shown_whole_by_its_name(call: Call) -> None:
    code, out, _ = call("methods", "LogConf")
    assert code == 0
    told = " ".join(out.split())
    for said in ("alpha", "shares", "Burns et al. 2023", "a sort of each batch", "Share of training over which"):
        assert said in told
    assert out.splitlines()[0].startswith("LogConf(")
    assert call("methods", "naive(loss=GCE)")[1].startswith("naive(transforms=(), loss=Xent)")
    code, _, err = call("methods", "LogConv")
    assert code == 2
    assert "did you mean LogConf" in err


def test_every_method_has_an_entry_without_internal_words() -> None:
    from outgrow.report.reference import listing

    for method in listing():
        text = shown_at(80, lambda shown, name=method.name: print_method(name, shown))  # type: ignore[misc]
        assert "<factory>" not in text
        assert "``" not in text
        assert words(method.spelling) <= words(text)


@pytest.mark.parametrize("width", [60, 80, 100])
@pytest.mark.parametrize("command", sorted(c for c in cli.app if not c.startswith("-")))
def test_help_breaks_no_option_and_speaks_no_python(
    command: str, width: int, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    out = call(command, "--help")[1]
    told = set(re.findall(r"--[a-z][a-z-]*", out))
    flags = {
        n for a in cli.app[command].assemble_argument_collection() if a.show for n in a.names if n.startswith("--")
    }
    assert {flag for flag in flags if not flag.startswith("--empty-")} <= told | {"--*"}
    for python in ("('", "',)", "{}", "()", "True", "False", "None"):
        assert f"default: {python}" not in " ".join(out.replace("│", " ").split())


# --- words ------------------------------------------------------------------------------------------------------------


def step_functions() -> list[graph.StepFunction]:
    for module in pkgutil.walk_packages([str(PACKAGE)], "outgrow."):
        if module.name.split(".")[1] in ("steps", "strategies", "supervisors"):
            __import__(module.name)
    return [function for function in graph._FUNCTIONS.values() if not function.is_users]


def test_no_step_is_told_by_the_name_of_its_function() -> None:
    functions = step_functions()
    assert len(functions) > 30
    assert not [
        function.doing for function in functions if re.search(r"[_.\d]", function.doing.replace("bfloat16", ""))
    ]


def test_progress_counts_one_step_as_one(capsys: pytest.CaptureFixture[str]) -> None:
    from outgrow.steps import fit_probe, load

    progress = Progress()
    progress.start(1, 0)
    progress.end([graph.Step(load, task="x")], seconds=3.0)
    assert capsys.readouterr().err == "1 step to run, 0 reused\nload tasks: 3.0 s (1 of 1 step)\n"
    given = {"features": 0, "labels": 0, "split": 0, "loss": 0, "probe": 0, "seed": 0}
    names = graph._FUNCTIONS[fit_probe].required
    assert described([graph.Step(fit_probe, **given | dict.fromkeys(names, 0))] * 8) == "train probes ×8"
    failed = StepsFailed(Outcome(ran=0, reused=0, failed={"a": UserError("no")}, skipped=1, seconds=0.0))
    assert failed.lines == ["no (1 further step was not run)"]


def test_dir_and_help_list_the_public_functions() -> None:
    assert set(outgrow.__all__) <= set(dir(outgrow))
    text = pydoc.render_doc(
        outgrow,
        renderer=pydoc.plaintext,  # type: ignore[attr-defined]
    )
    functions = [name for name in outgrow.__all__ if inspect.isfunction(getattr(outgrow, name))]
    assert {"run", "sweep", "runs", "plan", "loss", "strategy"} <= set(functions)
    for name in functions:
        assert re.search(rf"^    {name}\(", text, re.MULTILINE), name
    for name in outgrow.__all__:  # said in the first lines, before hundreds of lines of classes
        assert re.search(rf"\b{name}\b", outgrow.__doc__ or ""), name


# --- errors name what can be typed ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "command", "typed"),
    [
        ("run with ceiling=False, or not", "run", "run with --no-ceiling, or not"),
        ("run with ceiling=False, or not", "sweep", "run with ceiling: false, or not"),
        ("set balance=True.", "plan", "set --balance."),
        ("or set validation=0", "run", "or set --validation 0"),
        ("is validation=0.5; fewer", "run", "is --validation 0.5; fewer"),
        ("strategy=('naive', 'a b')", "board", "--methods naive 'a b'"),
        ("accept_license={'gemma'} is needed", "pull", "--accept-license gemma is needed"),
        ("give weak=... and strong=...", "run", "give --weak and --strong"),
        ("(microbatch=...) helps", "sweep", "(--microbatch) helps"),
        ("name it: table(..., weak='column')", "run", "name it: table(..., weak='column')"),
        ("errors(kind='class', of=(0, f(1)))", "run", "errors(kind='class', of=(0, f(1)))"),
        ("cannot read 'seeds=3' here", "run", "cannot read 'seeds=3' here"),
        ("run `outgrow x ceiling=False` there", "run", "run `outgrow x ceiling=False` there"),
        ("lora=0 is no flag", "run", "lora=0 is no flag"),
        ("device='cpu'", "show", "device='cpu'"),  # show takes no device
    ],
)
def test_options_are_translated_for_the_command(message: str, command: str, typed: str) -> None:
    assert cli._as_typed(message, command) == typed


def messages() -> list[tuple[str, str]]:
    """Every text of an exception in the package, with its place; what is filled in reads {}."""
    found = []
    for file in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and "Error" in ast.unparse(node.func):
                for argument in node.args:
                    parts = argument.values if isinstance(argument, ast.JoinedStr) else [argument]
                    text = "".join(str(p.value) if isinstance(p, ast.Constant) else "{}" for p in parts)
                    found.append((f"{file.relative_to(PACKAGE)}:{node.lineno}", text))
    return found


def test_the_library_spells_options_as_in_python_and_the_command_line_as_flags() -> None:
    """In Python nobody can type --no-ceiling, and in a terminal nobody ceiling=False."""
    texts = messages()
    assert len(texts) > 150
    flags = [(p, t) for p, t in texts if re.search(r"(?<![\w-])--[a-z]", re.sub("`[^`]*`", "", t)) and p[:4] != "cli."]
    assert not flags
    options = {f.name for f in (*dataclasses.fields(Grid), *dataclasses.fields(Runtime))}
    translated = 0
    for place, text in texts:
        typed = cli._as_typed(text.replace("={}", "=1").replace("{{}}", "{'x'}"), "run")
        left = re.findall(r"(?<![\w(.])([a-z_]+)=", re.sub(r"[\w-]+\([^()]*(?:\([^()]*\)[^()]*)*\)|`[^`]*`", "", typed))
        assert not options & set(left), (place, typed)
        translated += typed != text and "--" in typed
    assert translated > 8


@pytest.mark.parametrize("option", sorted(f.name for f in dataclasses.fields(Grid)))
def test_every_option_of_a_grid_can_be_typed_as_translated(option: str) -> None:
    default = getattr(Grid(weak=("a",), strong=("b",)), option)
    value = {type(None): 3, bool: not default}.get(type(default), default)
    if option in ("weak_train", "validate_with"):
        value = "probe"
    if option == "balance":
        value = True
    spelled = cli._as_typed(f"{option}={value!r}", "run")
    assert spelled.startswith("--")
    pair = {"weak": ["--strong", "b"], "strong": ["--weak", "a"]}.get(option, ["--weak", "a", "--strong", "b"])
    cli.app.config = ()
    _, bound, _ = cli.app.parse_args(["run", *shlex.split(spelled), *pair], exit_on_error=False)
    assert getattr(bound.arguments["grid"], option) == value


def test_the_line_of_a_refused_run_can_be_typed(call: Call) -> None:
    _, _, err = call("run", "--weak", "glove")
    assert "give both --weak and --strong, or neither and --ladder" in err
    _, _, err = call("run", "--shard")
    assert err.startswith("outgrow: --shard needs several processes")


def test_no_ceiling_is_told_as_no_number() -> None:
    text = shown_at(80, lambda shown: print_table(table(fake_row(**NO_CEILING)), shown))
    assert "ceiling none" in text
    assert "PGR undefined" in text


if __name__ == "__main__":
    import os

    os.environ["TZ"] = "UTC"
    os.environ.pop("COLUMNS", None)
    PINNED.write_text(all_screens(), encoding="utf-8")
