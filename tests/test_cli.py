"""The command line: what a user types, what comes back, and one line for everything that is wrong."""

import errno
import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from outgrow import cli
from outgrow.config import Grid, read_sweep, to_yaml
from outgrow.engine.store import Store
from outgrow.errors import UserError
from outgrow.experiment import open_store, runs

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Run a command line in an empty folder; returns exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OUTGROW_STORE", raising=False)

    def run(*tokens: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as exit_:
            cli.main(list(tokens))
        out, err = capsys.readouterr()
        code = exit_.value.code
        return (code if isinstance(code, int) else 0), out, err

    return run


@pytest.fixture
def words(model: Path) -> list[str]:
    """Flags of a run that takes about a second."""
    trained = ["--train", "probe(epochs=3, lr=0.03)", "--weak-train", "probe(epochs=3, lr=0.03, max_tokens=4)"]
    return ["--task", "words", "--weak", str(model), "--strong", str(model), "--seeds", "2", *trained]


def one_line(err: str) -> str:
    """The single line of a refusal."""
    lines = err.strip().splitlines()
    assert len(lines) == 1, err
    assert lines[0].startswith("outgrow: ")
    assert "Traceback" not in err
    return lines[0]


# --- what works -------------------------------------------------------------------------------------------------------


def test_run_prints_the_table_writes_the_report_and_runs_nothing_twice(call: Call, words: list[str]) -> None:
    code, out, err = call("run", *words)
    assert code == 0, err
    assert Path("outgrow-report/index.html").is_file()
    assert " 0 reused" in out
    code, out, _ = call("run", *words)
    assert code == 0
    assert out.count("0 steps run") == 1


def test_plan_shows_what_run_then_does(call: Call, words: list[str]) -> None:
    _, before, _ = call("plan", *words)
    assert "0 results reused" in before
    call("run", *words)
    _, after, _ = call("plan", *words)
    assert "0 steps to run" in after


def test_yaml_and_flags_spell_the_same_and_flags_go_over_the_file(call: Call, words: list[str]) -> None:
    _, printed, _ = call("run", *words, "--print-config")
    Path("mine.yaml").write_text(printed)
    assert call("run", "--config", "mine.yaml", "--print-config")[1] == printed
    changed = call("run", "--config", "mine.yaml", "--seeds", "7", "--print-config")[1]
    assert changed == printed.replace("seeds: 2", "seeds: 7")


def test_a_record_reruns_itself(call: Call, words: list[str]) -> None:
    call("run", *words)
    key = next(open_store("outgrow-store").records("compare"))["key"]
    code, out, err = call("run", "--config", key[:16])
    assert code == 0, err
    assert "0 steps run, 1 reused" in out
    _, config, _ = call("show", key, "--config")
    Path("again.yaml").write_text(config)
    assert "0 steps run, 1 reused" in call("sweep", "again.yaml")[1]


def test_listings(call: Call, words: list[str]) -> None:
    assert "no finished experiments" in call("ls")[1]
    call("run", *words)
    assert "naive" in call("ls")[1]
    assert "fit_probe" in call("ls", "--steps")[1]
    assert "sentiment-movies" in call("tasks")[1]
    assert "groups" in call("tasks", "words")[1]
    models = call("models")[1]
    assert "minilm-l6" in models
    assert "Apache-2.0" in models
    methods = call("methods")[1]
    assert "confidence" in methods
    assert "LogConf" in methods
    assert call("report", "--folder", "page")[0] == 0
    assert Path("page/index.html").is_file()


def test_doctor_finds_a_damaged_result_and_run_mends_it(call: Call, words: list[str]) -> None:
    call("run", *words)
    good = call("doctor")[1]
    assert "all intact" in good
    damaged = next(Path("outgrow-store/fit_probe").glob("*/probe.safetensors"))
    damaged.write_bytes(damaged.read_bytes()[:-1])
    code, out, _ = call("doctor")
    assert code == 1
    assert "1 damaged" in out


def test_records_that_cannot_be_read_are_counted_and_shown_as_such(call: Call, words: list[str]) -> None:
    call("run", *words)
    [first, *others] = [Path(folder) / "record.json" for folder in open_store("outgrow-store").folders("compare")]
    whole = first.read_text(encoding="utf-8")
    first.write_text(whole.replace('"version": ', '"version": 1'))
    for command in ("ls", "report"):
        code, out, err = call(command)
        assert code == 0
        assert "left out 1 record that cannot be read, the first: " in err
        assert "run the same command again to mend them" in " ".join(err.split())
        assert first.parent.name[:12] not in out
    code, _, err = call("show", first.parent.name)
    assert code == 2
    assert "was altered" in one_line(err)
    for other in others:
        other.write_text("{}")
    code, out, err = call("ls")
    assert f"{1 + len(others)} records cannot be read" in out
    code, _, err = call("report")
    assert code == 2
    assert f"no finished experiments in outgrow-store; {1 + len(others)} records cannot be read" in err


OTHER_FORMS: list[Callable[[Any], Any]] = [
    lambda record: record["result"].pop("gain"),
    lambda record: record["result"].update(student=7),
    lambda record: record["result"]["student"].update(accuracy=[None, 0.1, 0.2]),
    lambda record: record["result"].update(majority="most"),
    lambda record: record["note"]["experiment"].pop("task"),
    lambda record: record["note"]["experiment"].update(task=["x"]),
    lambda record: record.update(note=[1]),
    lambda record: record.update(seconds="long"),
    lambda record: record["result"].update(num_classes=10**30),
    lambda record: record["result"].update(majority=float("nan")),
    lambda record: record["result"].update(pgr_undefined="\ud800"),
]


def test_a_record_of_another_form_is_left_out_even_with_a_checksum_that_fits(call: Call, words: list[str]) -> None:
    call("run", *words, "--no-controls")
    [place] = [Path(folder) / "record.json" for folder in open_store("outgrow-store").folders("compare")][:1]
    whole = place.read_text()
    for change in OTHER_FORMS:
        record = json.loads(whole)["record"]
        change(record)
        text = json.dumps(record, sort_keys=True, separators=(",", ":"))
        place.write_text(json.dumps({"sha256": hashlib.sha256(text.encode()).hexdigest(), "record": record}))
        code, _, err = call("ls")
        assert code == 0
        assert "1 record that cannot be read" in err


def test_doctor_says_loudly_that_a_gpu_asked_for_is_not_used(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    code, out, _ = call("doctor", "--device", "cuda")
    assert code == 1
    assert "NONE: device 'cuda' was asked for" in out


def test_clean_removes_leftovers_and_keeps_results(call: Call, words: list[str], tmp_path: Path) -> None:
    call("run", *words)
    left = Path("outgrow-store/fit_probe/0123")
    left.mkdir()
    (left / "probe.safetensors").write_bytes(b"half")
    results = len(list(open_store("outgrow-store").folders()))
    assert "left by killed runs" in call("clean")[1]
    assert not left.exists()
    assert len(list(open_store("outgrow-store").folders())) == results
    assert "nothing to remove" in call("clean")[1]
    assert f"{results} results removed" in call("clean", "--results")[1]


# --- what is wrong ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tokens", "said"),
    [
        (["run", "--task", "sentiment-movie"], "did you mean sentiment-movies"),
        (["run", "--ladder", "glove,minilm-l7"], "did you mean minilm-l6"),
        (["run", "--ladder", "eight"], "unknown ladder 'eight'"),
        (["run", "--strategy", "confidense"], "did you mean confidence"),
        (["run", "--strategy", "naive(loss=LogCon)"], "did you mean LogConf"),
        (["run", "--strategy", "naive(los=Xent)"], "did you mean loss"),
        (["run", "--train", "prob"], "did you mean probe"),
        (["run", "--train", "probe(view='meen')"], "did you mean mean"),
        (["run", "--train", "probe(epochs=0)"], "at 1 or above"),
        (["run", "--train", "finetune", "--weak", "glove", "--strong", "minilm-l6"], "train it with probe"),
        (["run", "--weak", "glove"], "give both --weak and --strong"),
        (["run", "--sedes", "3"], "--seeds"),
        (["run", "--seeds", "0"], "at least 1"),
        (["run", "--seeds", "many"], "--seeds"),
        (["run", "--seeds", "1000000000"], "at most 10,000"),
        (["run", "--first-seed", "-1"], "--first-seed -1"),
        (["run", "--microbatch", "-2"], "--microbatch is -2"),
        (["run", "--report", __file__], "can be no folder; name another with --report"),
        (["run", "--store", __file__], "is a file; name a folder with --store"),
        (["run", "--use", "~nosuchuser/my.py"], "names no home folder"),
        (["run", "--ladder", "~nosuchuser/x,minilm-l6"], "names no home folder"),
        (["rum"], "run"),
        (["run", "--device", "tpu"], "unknown device 'tpu'"),
        (["run", "--ladder", "hf:org/name@main,minilm-l6"], "pinned"),
        (["run", "--ladder", "./nowhere,minilm-l6"], "no model folder"),
        (["run", "--config", "nowhere.yaml"], "cannot read nowhere.yaml"),
        (["sweep", "nowhere.yaml"], "cannot read nowhere.yaml"),
        (["show", "abcdef"], "0 results"),
        (["pull", "minilm-l5"], "did you mean minilm-l"),
        (["run", "--store", "nothing://x"], "cannot open the store"),
        (["run", "--store", "/proc/x"], "/proc/x cannot be made: No such file or directory; name another with --store"),
        (["run", "--report", "/proc/x/y"], "name another with --report"),
        (["board", "--out", "/proc/x"], "name another with --out"),
        (["report", "--report", "/proc/x"], "name another with --folder"),
        (["run", "table(path='x.csv')"], "type outgrow run --task \"table(path='x.csv')\""),
        (["plan", "table(path='x.csv')"], "type outgrow plan --task \"table(path='x.csv')\""),
        (["board", "wic", "cola"], "type outgrow board --task wic cola"),
        (["run", "grid.yaml", "--seeds", "2"], "type outgrow run --config grid.yaml"),
        (["models", "glove"], "`models` takes no glove"),
        (["tasks", "wic", "cola"], "`tasks` takes no cola"),
        (["plan", "grid.yaml", "--seeds", "2"], "give options or grid.yaml, not both"),
        (["run", "--config", "nosuch"], "--config nosuch is no file and no preset (released_code)"),
        (["show", ""], "give the first characters of a key"),
        (["methods", "nosuch"], "outgrow methods"),
    ],
)
def test_a_wrong_word_is_one_line_with_the_nearest(call: Call, tokens: list[str], said: str) -> None:
    code, _, err = call(*tokens)
    assert code == 2
    assert said in one_line(err)


@pytest.mark.parametrize(
    ("yaml", "said"),
    [
        ("task: [a\nseeds: 3", "bad.yaml line 2"),
        ("task: words\nsedes: 3", "bad.yaml line 2: unknown field 'sedes'; did you mean seeds"),
        ("seeds: three", "bad.yaml line 1: seeds must be of type int"),
        ("strategy: [1, 2]", "bad.yaml line 1: strategy must be a name or a list of names"),
        ("just words", "expected field: value"),
        ("", "bad.yaml is empty"),
        ("- seeds: 1\n- 5", "bad.yaml line 2"),
    ],
)
def test_wrong_yaml_is_one_line_with_its_line(call: Call, yaml: str, said: str) -> None:
    Path("bad.yaml").write_text(yaml)
    code, _, err = call("sweep", "bad.yaml")
    assert code == 2
    assert said in one_line(err)


@pytest.mark.parametrize(
    ("rows", "options", "said"),
    [
        ("text,label\na,x\nb,y\n", "label='lable'", "no column 'lable'"),
        ("text,label\na,x\nb,y\nc,z\n", "classes=('x', 'y')", "line 4"),
        ("text\na\nb\n", "", "give weak labels and the names of all classes: table(..., weak="),
        ("text,labl\na,x\nb,y\n", "", "did you mean 'labl'?"),
        ("text,label\na,x\nb,x\n", "", "or weak labels and the names of all classes: table(..., weak="),
        ("", "", "empty"),
        ("text,label\n", "", "no rows"),
        ("text,label\na,x\nb,x\n", "", "class"),
        ("id,text,label\n1,a,x\n1,b,y\n", "id='id'", "line 3"),
        ("text,label\na,x\nb,y\nc,y\n", "", "group"),
        ("text,label\na,x\nb,y,z\n", "", "line 3"),
    ],
)
def test_a_wrong_table_is_one_line_with_its_place(call: Call, model: Path, rows: str, options: str, said: str) -> None:
    Path("mine.csv").write_text(rows)
    task = f"table(path='mine.csv'{', ' + options if options else ''})"
    code, _, err = call("run", "--task", task, "--weak", str(model), "--strong", str(model), "--no-controls")
    assert code == 2
    lines = [line for line in err.splitlines() if line.startswith("outgrow: ")]
    assert said in lines[0]
    assert "Traceback" not in err


def test_a_small_test_is_warned_of_with_the_width_of_its_interval(call: Call, words: list[str]) -> None:
    _, _, err = call("run", *words)
    half = max((row["gain_high"] - row["gain_low"]) / 2 for row in runs().filter(control=False).to_dicts())
    assert f"95 % interval of a gain is up to ±{100 * half:.1f} points" in err


def test_no_space_left_is_one_line_and_finished_steps_stay(
    call: Call, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Store._put
    stored: list[str] = []

    def full(self: Store, local: Path, folder: str, names: list[str]) -> None:
        if len(stored) == 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        stored.append(folder)
        whole(self, local, folder, names)

    monkeypatch.setattr(Store, "_put", full)
    code, _, err = call("run", *words)
    assert code == 2
    said = [line for line in err.splitlines() if line.startswith("outgrow: ")]
    assert len(said) == 1
    assert "no space left" in said[0]
    monkeypatch.setattr(Store, "_put", whole)
    assert len(list(open_store("outgrow-store").folders())) == 5
    code, out, _ = call("run", *words)
    assert code == 0
    assert "reused" in out


def test_what_is_not_the_users_fault_gives_one(call: Call, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("a bug")

    monkeypatch.setattr("outgrow.models.probe.fit_probes", broken)
    code, _, err = call("run", *words)
    assert code == 1
    assert "RuntimeError: a bug" in err
    assert "Traceback" in err  # a bug's trace is shown; a user's mistake has none


def test_what_does_not_depend_on_a_failed_step_is_run_and_shown(
    call: Call, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise UserError("the control is out of order")

    monkeypatch.setattr("sklearn.cluster.KMeans", broken)
    code, out, err = call("run", *words)
    assert code == 2
    assert "the control is out of order (4 further steps were not run)" in err  # the other seed and three comparisons
    assert "naive" in out
    assert Path("outgrow-report/index.html").is_file()


# --- speed ------------------------------------------------------------------------------------------------------------


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from outgrow.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'numpy', 'polars', 'sklearn', 'altair', 'pyarrow'} & set(sys.modules)\n"
        "sys.exit(', '.join(sorted(heavy)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_import_outgrow_costs_nothing() -> None:
    code = "import sys, outgrow; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_grids_survive_yaml(tmp_path: Path) -> None:
    grids = [Grid(), Grid(task=("words",), seeds=2, weak_train="probe(l2=0.1)", weak=("a",), strong=("b", "c"))]
    for chosen in (grids[:1], grids):
        path = tmp_path / "grids.yaml"
        path.write_text(to_yaml(*chosen))
        assert read_sweep(path) == chosen
