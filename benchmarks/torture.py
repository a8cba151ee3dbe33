"""What Outgrow does when it is killed, when its files are damaged, when the disk is full, and when input is nonsense.

    python benchmarks/torture.py [--kills 300] [--cases 100000] [--seed 0] [--only kill]

Prints the table faults × outcomes of docs/reliability.md and exits with 1 if anything went wrong: a number that differs
from the undisturbed run, a traceback, or more than ten seconds for one case of a fuzzer. Every trial runs in a child
process, is drawn from the seed, and is named where it fails, so that it can be repeated.

Kills, damage, races and full disks work on real experiments (a probe on made-up Gaussian data: two seeds, naive, a
loss and the controls); what is compared is every stored result, to the last bit.
"""

import argparse
import contextlib
import gzip
import importlib
import io
import json
import os
import random
import resource
import shutil
import signal
import struct
import sys
import tarfile
import tempfile
import time
import traceback
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from outgrow import Runtime, UserError

WRONG, TRACE, HANG = "wrong number", "traceback", "hang"
GOOD = ("same result", "accepted", "one line")
PATIENCE = 10.0
"""Seconds that one fuzz case may take."""
LONGEST = 300.0
"""Seconds that one child may take."""


class Hang(BaseException):
    """A case took longer than its patience."""


class Tally(Counter[str]):
    """Outcomes of one fault, and the first failures by name."""

    def __init__(self) -> None:
        super().__init__()
        self.failures: list[str] = []

    def note(self, outcome: str, trial: str, said: str = "") -> None:
        """Count an outcome; one that is not good is kept with its trial."""
        self[outcome] += 1
        if outcome not in GOOD:
            self.failures.append(f"{outcome}: {trial}: {said}")


# --- children ---------------------------------------------------------------------------------------------------------


def in_child(work: Callable[[], Any], *, kill_after: float | None = None) -> tuple[str, str]:
    """Run ``work`` in a forked process; returns how it ended (done, one line, killed, traceback, hang) and its text."""
    with tempfile.TemporaryFile("w+") as said:
        if not (child := os.fork()):
            _work_and_exit(work, said)
        began = time.monotonic()
        while not (ended := os.waitpid(child, os.WNOHANG))[0]:
            spent = time.monotonic() - began
            if spent > (LONGEST if kill_after is None else kill_after):
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                return ("killed" if kill_after is not None else HANG), ""
            time.sleep(0.002)
        said.seek(0)
        text = said.read().strip()
    code = os.waitstatus_to_exitcode(ended[1])
    return {0: "done", 2: "one line", -signal.SIGKILL: "killed"}.get(code, TRACE), text or f"exit code {code}"


def _work_and_exit(work: Callable[[], Any], said: io.TextIOBase) -> None:
    code = 1
    try:
        with open(os.devnull, "w") as nothing, contextlib.redirect_stderr(nothing), contextlib.redirect_stdout(nothing):
            result = work()
        unlimited()
        said.write(json.dumps(result))
        code = 0
    except UserError as error:
        unlimited()
        said.write(str(error))
        code = 2 if "\n" not in str(error) else 1
    except BaseException as error:
        unlimited()
        said.write(_last_lines(error))
    finally:
        said.flush()
        os._exit(code)


def unlimited() -> None:
    """What is said goes to a file too."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def _last_lines(error: BaseException) -> str:
    return " | ".join("".join(traceback.format_exception(error)).strip().splitlines()[-3:])[:500]


# --- real experiments -------------------------------------------------------------------------------------------------


def experiment(store: Path) -> None:
    """Two students and their controls, two seeds, stored in ``store``. Raises if a step fails."""
    from outgrow.config import Grid
    from outgrow.engine.runner import StepsFailed
    from outgrow.experiment import sweep

    grid = Grid(
        task=("synthetic-gaussian(rows=240, dims=4)",),
        weak=("vectors(dims=2)",),
        strong=("vectors",),
        strategy=("naive", "confidence"),
        train=("probe(epochs=2)",),
        seeds=2,
    )
    try:
        sweep(grid, store=str(store), quiet=True)
    except StepsFailed as failed:
        if failed.by_user:
            raise UserError(failed.lines[0]) from failed
        raise


def contents(store: Path) -> dict[str, Any]:
    """Every result of a store by key, as far as it must not depend on when and where it was made."""
    from outgrow.experiment import open_store

    opened, found = open_store(str(store)), {}
    for record in opened.records():
        opened.verify(f"{store}/{record['fn']}/{record['key']}")
        found[record["key"]] = [record[k] for k in ("fn", "version", "args", "kind", "files", "result")]
    return found


def is_same(store: Path, whole: dict[str, Any]) -> bool:
    ended, text = in_child(lambda: contents(store))
    return ended == "done" and json.loads(text) == whole


def leftovers(store: Path) -> list[str]:
    """What killed processes left in a store after a later run ended well."""
    return [str(p) for p in store.glob("**/*~*~*")] + [str(p) for p in store.glob("*/*/.*")]


def finish(tally: Tally, trial: str, store: Path, whole: dict[str, Any]) -> None:
    """Run to the end in the same store, and compare."""
    ended, text = in_child(lambda: experiment(store))
    if ended != "done":
        tally.note(ended if ended == HANG else TRACE, trial, text)
    elif not is_same(store, whole):
        tally.note(WRONG, trial)
    elif left := leftovers(store):
        tally.note(WRONG, trial, f"left behind: {left[0]}")
    else:
        tally.note("same result", trial)


def kill(base: Path, whole: dict[str, Any], seconds: float, trials: int, rng: random.Random) -> Tally:
    """SIGKILL at a random instant; the next run goes on in the same store, and may be killed too."""
    tally, killed, round_ = Tally(), 0, 0
    while killed < trials:
        store, before, round_ = base / f"kill-{round_}", killed, round_ + 1
        for _ in range(min(6, trials - killed)):
            ended, text = in_child(partial(experiment, store), kill_after=rng.uniform(0.01, seconds))
            if ended == "killed":
                killed += 1
                ended, text = in_child(partial(look, store))
            if ended != "done":
                tally.note(ended if ended == HANG else TRACE, f"kill round {round_}", text)
        final = Tally()
        finish(final, f"kill round {round_}", store, whole)
        for outcome in final:  # each kill of the round came to this
            tally[outcome] += killed - before
        tally.failures += final.failures
        shutil.rmtree(store, ignore_errors=True)
    return tally


def look(store: Path) -> None:
    """What ``ls``, ``show`` and ``doctor`` read."""
    from outgrow.doctor import _stored
    from outgrow.experiment import open_store
    from outgrow.results import finished, table_of

    opened = open_store(str(store))
    table_of(finished(opened, []))
    _stored(opened)
    for folder in list(opened.folders())[:3]:
        with contextlib.suppress(UserError):
            opened.find(folder.rsplit("/", 1)[1])


def damage(base: Path, finished: Path, whole: dict[str, Any], trials: int, rng: random.Random) -> Tally:
    """One to three stored files are changed, cut, emptied, deleted, exchanged, or made a folder."""
    tally = Tally()
    for trial in range(trials):
        store = base / f"damage-{trial}"
        shutil.copytree(finished, store)
        files = sorted(p for p in store.glob("*/*/*") if p.is_file())
        done = [spoil(rng.choice(files), rng.choice(files), rng) for _ in range(rng.randint(1, 3))]
        ended, text = in_child(partial(look, store))
        if ended not in ("done", "one line"):
            tally.note(ended if ended == HANG else TRACE, f"look at damage {trial} ({done})", text)
        finish_damaged(tally, f"damage {trial} ({done})", store, whole)
        shutil.rmtree(store, ignore_errors=True)
    return tally


def finish_damaged(tally: Tally, trial: str, store: Path, whole: dict[str, Any]) -> None:
    """Targets and all they read are computed again where damaged; a damaged file that nothing reads stays, unread."""
    ended, text = in_child(lambda: experiment(store))
    if ended != "done":
        tally.note(ended if ended == HANG else TRACE, trial, text)
        return
    ended, text = in_child(lambda: verified(store))
    same = ended == "done" and all(whole[key] == value for key, value in json.loads(text).items())
    tally.note("same result" if same else WRONG, trial, text[:200])


def verified(store: Path) -> dict[str, Any]:
    """As :func:`contents`, without what is damaged and says so; every experiment must be there."""
    from outgrow.engine.store import Damaged
    from outgrow.experiment import open_store

    opened, found = open_store(str(store)), {}
    for record in opened.records():
        try:
            opened.verify(f"{store}/{record['fn']}/{record['key']}")
        except Damaged:
            continue
        found[record["key"]] = [record[k] for k in ("fn", "version", "args", "kind", "files", "result")]
    if sum(value[0] == "compare" for value in found.values()) < len(list(opened.folders("compare"))):
        raise AssertionError("an experiment is missing or damaged after the run")
    return found


def spoil(file: Path, other: Path, rng: random.Random) -> str:
    """Damage a file in one of seven ways; says which."""
    if not file.is_file():
        return "gone already"
    content = file.read_bytes()
    way = rng.choice(["flip", "cut", "empty", "delete", "exchange", "folder", "noise"])
    if way == "flip" and content:
        at = rng.randrange(len(content))
        file.write_bytes(content[:at] + bytes([content[at] ^ (1 << rng.randrange(8))]) + content[at + 1 :])
    elif way == "cut":
        file.write_bytes(content[: rng.randrange(len(content) + 1)])
    elif way == "exchange" and other.is_file():
        file.write_bytes(other.read_bytes())
    elif way == "noise":
        file.write_bytes(rng.randbytes(len(content)))
    else:
        file.unlink()
        if way == "empty":
            file.touch()
        elif way == "folder":
            file.mkdir()
    return f"{way} {file.parent.parent.name}/{file.name}"


def race(base: Path, whole: dict[str, Any], trials: int) -> Tally:
    """Four processes run the same experiments in one store at once."""
    tally = Tally()
    for trial in range(trials):
        store = base / f"race-{trial}"
        children = []
        for _ in range(4):
            if not (child := os.fork()):
                with open(os.devnull, "w+") as said:
                    _work_and_exit(partial(experiment, store), said)
            children.append(child)
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        if any(codes):
            tally.note(TRACE, f"race {trial}", f"exit codes {codes}")
        finish(tally, f"race {trial}", store, whole)
        shutil.rmtree(store, ignore_errors=True)
    return tally


def full(base: Path, whole: dict[str, Any], trials: int, rng: random.Random) -> Tally:
    """No file may grow beyond a random size, as on a disk that fills up; then there is space again."""
    tally = Tally()
    for trial in range(trials):
        store, most = base / f"full-{trial}", int(2 ** rng.uniform(0, 15))

        def limited(store: Path = store, most: int = most) -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))
            experiment(store)

        ended, text = in_child(limited)
        if ended not in ("done", "one line"):
            tally.note(ended if ended == HANG else TRACE, f"files of at most {most} bytes", text)
        if ended == "one line" and "no space left" not in text:
            tally.note(TRACE, f"files of at most {most} bytes", f"said {text}")
        if ended == "one line" and (left := leftovers(store)):
            tally.note(WRONG, f"files of at most {most} bytes", f"left behind: {left[0]}")
        finish(tally, f"files of at most {most} bytes", store, whole)
        shutil.rmtree(store, ignore_errors=True)
    return tally


# --- fuzz -------------------------------------------------------------------------------------------------------------

PIECES = (
    *("0", "1", "-1", "1e999", "nan", "None", "true", "null", "~", "9" * 400, "''", '"', "'", "(", ")", "[", "]", "{"),
    *("}", ":", ",", "=", "*a", "&a", "<<", "- ", "? ", "\n", "\n\n", " ", "\t", "\0", "\x1b[2J", "\u202e", "\ud800"),
    *("é", "\U0001f600", "../", "/", "\\", "%s", "!!int", "!!python/name:os.system", "---", "#", "\ufeff", "1:30"),
    *("x" * 300, "[" * 60, "(" * 60, "seeds", "task", "naive", "loss", "Xent", "path", "__class__", "//", "~x/"),
)


def mutated(text: str, rng: random.Random) -> str:
    """A text with a few pieces put in, taken out, doubled, or exchanged for others."""
    for _ in range(rng.choice([1, 1, 2, 4])):
        at, to = sorted((rng.randrange(len(text) + 1), rng.randrange(len(text) + 1)))
        to = min(to, at + 30)
        middle = rng.choice(["", rng.choice(PIECES), text[at:to] * 2, rng.choice(PIECES) + text[at:to]])
        text = (text[:at] + middle + text[to:])[:20_000]
    return text


def mangled(content: bytes, rng: random.Random) -> bytes:
    """Bytes with a few changed, cut out, put in, or their end cut off."""
    changed = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 6])):
        at = rng.randrange(len(changed) + 1)
        match rng.randrange(6):
            case 0 if changed:
                changed[at % len(changed)] ^= 1 << rng.randrange(8)
            case 1 if changed:
                changed[at % len(changed)] = rng.choice([0, 255, 127, 128, 34, 44, 10, 13])
            case 2:
                del changed[at : at + rng.randint(1, 40)]
            case 3:
                changed[at:at] = rng.randbytes(rng.randint(1, 20))
            case 4:
                del changed[at:]
            case _:
                changed[at : at + 4] = struct.pack(
                    "<I", rng.choice([0, 1, 0x7FFFFFFF, 0xFFFFFFFF, rng.getrandbits(32)])
                )
    return bytes(changed[:200_000])


def other_json(value: Any, rng: random.Random, odds: float = 0.03) -> Any:
    """JSON of the same shape with a few values exchanged, and keys renamed or taken out."""
    if rng.random() < odds:
        odd = [None, True, -1, 0, 1.5, 10**30, 1e308, "", "x\x1b[2J", "\ud800", [], {}, [value], {"$step": value}]
        return rng.choice(odd)
    if isinstance(value, dict):
        kept = {k: other_json(v, rng, odds) for k, v in value.items() if rng.random() > odds / 3}
        if kept and rng.random() < odds:
            kept[rng.choice(["", "edition", "files", "\ud800", "../x"])] = kept.pop(rng.choice(list(kept)))
        return kept
    if isinstance(value, list):
        return [other_json(v, rng, odds) for v in value]
    return value


Case = Callable[[int, random.Random], str]
"""Runs case number i; returns ``accepted`` or raises."""


def yaml_case(base: Path) -> Case:
    from outgrow.config import Grid, read_grid, read_sweep, to_yaml

    texts = [
        to_yaml(Grid()),
        to_yaml(Grid(), Grid(seeds=2)),
        "seeds: 2\n",
        "- {task: [x], seeds: 3}\n- preset: released_code",
    ]
    texts += [
        "a: &a [x,x]\nb: [*a,*a]\n",
        "<<: {seeds: 3}\ntask: [x]",
        "seeds: !!int 3",
        "validation: 1e-1",
        "task: &a [*a]",
    ]
    file = base / "grid.yaml"

    def case(i: int, rng: random.Random) -> str:
        file.write_text(
            mutated(rng.choice(texts), rng), encoding="utf-8", errors=rng.choice(["replace", "surrogatepass"])
        )
        (read_sweep if i % 2 else read_grid)(file)
        return "accepted"

    return case


def spelling_case(base: Path) -> Case:
    from outgrow.models.spec import ModelSpec
    from outgrow.registry import REGISTRIES
    from outgrow.tasks import TaskSpec

    importlib.import_module("outgrow.experiment")  # fills the registries
    kinds: Sequence[tuple[Callable[[str], Any], str]] = (
        (REGISTRIES["strategy"].parse, "confidence(loss=LogConf(alpha=0.5, warmup=0.1))"),
        (REGISTRIES["trainer"].parse, "probe(l2=0.5, epochs=3, view='mean')"),
        (REGISTRIES["trainer"].parse, "finetune(epochs=2, lr=5e-5, head='words', words=(' no', ' yes'))"),
        (REGISTRIES["loss"].parse, "LogConf(alpha=0.5)"),
        (REGISTRIES["supervisor"].parse, "errors(accuracy=0.9)"),
        (ModelSpec.parse, "random-features(width=8, seed=1)"),
        (TaskSpec.parse, "synthetic-gaussian(rows=40, dims=3)"),
    )

    def case(i: int, rng: random.Random) -> str:
        parse, text = rng.choice(kinds)
        str(parse(mutated(text, rng)))
        return "accepted"

    return case


def command_case(base: Path) -> Case:
    from outgrow import cli

    flags = ["--seeds", "--first-seed", "--microbatch", "--tokens-at-once", "--test-rows", "--validation", "--task"]
    flags += [
        "--weak",
        "--strong",
        "--strategy",
        "--train",
        "--ladder",
        "--device",
        "--balance",
        "--no-ceiling",
        "--config",
    ]
    values = ["3", "-2", "1000000000", "0.1", "nan", "naive", "glove", "probe(l2=1)", "x,y", "released_code"]

    def case(i: int, rng: random.Random) -> str:
        tokens = ["run", "--print-config"]
        for _ in range(rng.randint(1, 3)):
            tokens += [rng.choice(flags), *([mutated(rng.choice(values), rng)] if rng.random() < 0.8 else [])]
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                cli.main(tokens)
            except SystemExit as ended:
                if ended.code not in (0, 2) or "Traceback" in err.getvalue() or "\x1b" in err.getvalue():
                    raise AssertionError(f"exit code {ended.code} for {tokens}: {err.getvalue()[-300:]}") from None
                if ended.code == 2:
                    raise UserError(err.getvalue().strip()) from None
        return "accepted"

    return case


def record_case(base: Path, finished: Path) -> Case:
    """Records of experiments and of steps, exchanged for others with and without a checksum that fits."""
    from outgrow.engine.store import Damaged, _digest
    from outgrow.experiment import open_store
    from outgrow.report.rows import tidy
    from outgrow.results import finished as experiments
    from outgrow.results import table_of

    store = base / "records"
    shutil.copytree(finished, store)
    opened = open_store(str(store))
    places = [Path(f) / "record.json" for f in opened.folders("compare")]
    texts = {place: place.read_bytes() for place in places}
    rows = {row["key"]: row for row in table_of(experiments(opened)).to_dicts()}

    def case(i: int, rng: random.Random) -> str:
        place = rng.choice(places)
        record = json.loads(texts[place])["record"]
        fits = rng.random() < 0.7
        if fits:
            record = other_json(record, rng, rng.choice([0.005, 0.03]))
            with contextlib.suppress(ValueError, UnicodeError):
                place.write_bytes(json.dumps({"sha256": _digest(record), "record": record}).encode())
        else:
            place.write_bytes(mangled(texts[place], rng))
        unread: list[Damaged] = []
        try:
            table = table_of(experiments(opened, unread))
            tidy(table)
            if not fits and any(rows[row["key"]] != row for row in table.to_dicts()):
                raise AssertionError("a damaged record changed a number")
            opened.find(place.parent.name)
            return "accepted" if not unread else "one line"
        finally:
            place.write_bytes(texts[place])

    return case


def result_case(base: Path, finished: Path) -> Case:
    """Files of stored results, mangled, with a record whose checksums fit: as somebody with access could write them."""
    from outgrow.archives import sha256_of
    from outgrow.engine.store import _digest
    from outgrow.experiment import open_store

    store = base / "results"
    shutil.copytree(finished, store)
    opened = open_store(str(store))
    by_kind: dict[str, list[Path]] = {}
    for record in opened.records():
        for name in record["files"]:
            by_kind.setdefault(name, []).append(store / record["fn"] / record["key"] / name)

    def case(i: int, rng: random.Random) -> str:
        file = rng.choice(by_kind[rng.choice(sorted(by_kind))])
        place = file.parent / "record.json"
        before, record_before = file.read_bytes(), place.read_bytes()
        try:
            file.write_bytes(mangled(before, rng))
            record = json.loads(record_before)["record"]
            record["files"][file.name] = sha256_of(file)
            place.write_bytes(json.dumps({"sha256": _digest(record), "record": record}).encode())
            opened.read_key(file.parent.name)
            return "accepted"
        finally:
            file.write_bytes(before)
            place.write_bytes(record_before)

    return case


def archive_case(base: Path) -> Case:
    from outgrow.archives import unpack

    files = {"a": b"text" * 50, "sub/b": os.urandom(300), "sub/deep/c": b""}
    wholes = []
    for mode in ("w:gz", "w:xz", "w:bz2", "w"):
        with tarfile.open(fileobj=(out := io.BytesIO()), mode=mode) as tar:
            for name, content in files.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        wholes.append(out.getvalue())
    data = wholes[1]
    head = f"{'data.tar.xz':<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n".encode()
    wholes.append(b"!<arch>\n" + head + data)
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        with zipfile.ZipFile(out := io.BytesIO(), "w", method) as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        wholes.append(out.getvalue())
    path, folder = base / "archive", base / "unpacked"

    def case(i: int, rng: random.Random) -> str:
        path.write_bytes(mangled(rng.choice(wholes), rng))
        try:
            unpack(path, ["a", "sub/"], folder, max_bytes=10_000)
            return "accepted"
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    return case


def git_case(base: Path) -> Case:
    from outgrow.engine.git import checkout

    root = base / "repository"
    git = root / ".git"
    git.mkdir(parents=True)
    (root / "a").write_text("x")
    entry = struct.pack(">10I20sH", 0, 0, 0, 0, 0, 0, 0o100644, 0, 0, 1, b"d" * 20, 1) + b"a\0"
    index = b"DIRC" + struct.pack(">II", 2, 1) + entry + b"\0" * 20

    def case(i: int, rng: random.Random) -> str:
        (git / "HEAD").write_bytes(
            mangled(rng.choice([b"ref: refs/heads/main\n", b"a" * 40]), rng) if i % 3 else b"a" * 40
        )
        (git / "packed-refs").write_bytes(mangled(b"b" * 40 + b" refs/heads/main\n", rng))
        (git / "index").write_bytes(mangled(index, rng))
        checkout(root)
        return "accepted"

    return case


def model_case(base: Path) -> Case:
    """Settings of a model folder, as far as they are read before transformers."""
    from outgrow.models.spec import ModelSpec

    folder = base / "model"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"\2\0\0\0\0\0\0\0{}")
    settings = {
        "config.json": {"architectures": ["BertModel"], "model_type": "bert", "attn_implementation": "sdpa"},
        "tokenizer_config.json": {"vocab_file": "vocab.txt", "fast_tokenizer_files": ["tokenizer.json"]},
        "model.safetensors.index.json": {"metadata": {}, "weight_map": {"w": "model.safetensors"}},
        "tokenizer.json": {},
    }

    def case(i: int, rng: random.Random) -> str:
        for name, content in settings.items():
            text = json.dumps(other_json(content, rng, 0.1)).encode()
            (folder / name).write_bytes(mangled(text, rng) if rng.random() < 0.3 else text)
        spec = ModelSpec.parse(str(folder))
        str(spec.is_language_model)
        return "accepted"

    return case


def table_case(base: Path) -> Case:
    """A user's table in every format."""
    import polars as pl

    from outgrow.tasks import TaskSpec, load

    rows = [{"text": f"text {i}, é", "label": "ab"[i % 2], "weak": "ab"[i % 3 % 2]} for i in range(24)]
    frame = pl.DataFrame(rows)
    frame.write_parquet(out := io.BytesIO())
    comma = frame.write_csv().encode()
    lines = "\n".join(json.dumps(row) for row in rows).encode()
    wholes = {
        "t.csv": comma,
        "t.tsv": frame.write_csv(separator="\t").encode(),
        "t.jsonl": lines,
        "t.json": json.dumps(rows).encode(),
        "t.parquet": out.getvalue(),
        "t.csv.gz": gzip.compress(comma),
        "t.jsonl.gz": gzip.compress(lines),
    }

    def case(i: int, rng: random.Random) -> str:
        name, whole = rng.choice(sorted(wholes.items()))
        path = base / name
        path.write_bytes(mangled(whole, rng))
        coding = rng.choice(
            ["", "", ", encoding='latin-1'", ", encoding='utf-16'", ", encoding='hex'", ", encoding='idna'"]
        )
        load(
            TaskSpec.parse(f"table(path={str(path)!r}, weak='weak'{coding if '.parquet' not in name else ''})"),
            Runtime(),
        )
        return "accepted"

    return case


FUZZERS: dict[str, tuple[Callable[..., Case], float]] = {
    "YAML of grids": (yaml_case, 0.15),
    "spellings": (spelling_case, 0.25),
    "command line": (command_case, 0.05),
    "records of results": (record_case, 0.10),
    "files of results": (result_case, 0.10),
    "archives": (archive_case, 0.12),
    "git folders": (git_case, 0.08),
    "settings of models": (model_case, 0.08),
    "tables": (table_case, 0.07),
}
"""Each parser, and its share of the cases."""


@contextlib.contextmanager
def patience(seconds: float) -> Iterator[None]:
    def over(*_: Any) -> None:
        raise Hang

    signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def fuzz(name: str, make: Callable[[], Case], first: int, last: int, seed: int) -> dict[str, Any]:
    """Run the cases of one parser; returns the outcomes and the failures."""
    case, tally = make(), Tally()
    for i in range(first, last):
        try:
            with patience(PATIENCE):
                outcome = case(i, random.Random(f"{name} {seed} {i}"))
            tally.note(outcome.partition(" ")[0] if outcome.startswith("accepted") else outcome, f"{name} {i}")
        except UserError as error:
            tally.note("one line" if "\n" not in str(error) else TRACE, f"{name} {i}", str(error))
        except Hang:
            tally.note(HANG, f"{name} {i}")
        except AssertionError as error:
            tally.note(WRONG if "number" in str(error) else TRACE, f"{name} {i}", str(error))
        except BaseException as error:
            tally.note(TRACE, f"{name} {i}", _last_lines(error))
    return {"outcomes": dict(tally), "failures": tally.failures[:20]}


_AT_ONCE = 2000


def fuzzed(base: Path, finished: Path, name: str, cases: int, seed: int) -> Tally:
    """One parser in child processes of some thousand cases each: a crash costs one of them, and is seen."""
    tally = Tally()
    make_case = FUZZERS[name][0]
    for first in range(0, cases, _AT_ONCE):
        last = min(first + _AT_ONCE, cases)
        with tempfile.TemporaryDirectory(dir=base) as own:
            given = (Path(own), finished) if make_case in (record_case, result_case) else (Path(own),)

            def work(given: Any = given, first: int = first, last: int = last) -> dict[str, Any]:
                return fuzz(name, lambda: make_case(*given), first, last, seed)

            ended, text = in_child(work)
        if ended != "done":
            tally.note(ended if ended == HANG else TRACE, f"{name} {first} to {last}", text)
            continue
        found = json.loads(text)
        tally.update(found["outcomes"])
        tally.failures += found["failures"]
    return tally


# --- all of it --------------------------------------------------------------------------------------------------------


def import_all(base: Path) -> None:
    """Import here, once, what a run imports. Nothing is used before the forks: threads would not survive them."""

    def names() -> list[str]:
        experiment(base / "first")
        look(base / "first")
        return [name for name in sys.modules if not name.startswith("_")]

    ended, text = in_child(names)
    assert ended == "done", text
    for name in json.loads(text):
        with contextlib.suppress(Exception):
            importlib.import_module(name)


def torture(*, kills: int, cases: int, others: int, seed: int, only: str = "") -> dict[str, Tally]:
    """Every fault, and what came of it. ``others``: trials of damage, races and full disks."""
    rng, found = random.Random(seed), {}
    with tempfile.TemporaryDirectory(prefix="torture-") as temporary:
        base = Path(temporary)
        os.environ["OUTGROW_CACHE"] = str(base / "cache")
        import_all(base)
        began = time.monotonic()
        ended, text = in_child(lambda: experiment(base / "whole"))
        assert ended == "done", text
        seconds = time.monotonic() - began
        whole = json.loads(in_child(lambda: contents(base / "whole"))[1])
        faults: dict[str, Callable[[], Tally]] = {
            "killed (SIGKILL at a random instant)": lambda: kill(base, whole, seconds, kills, rng),
            "stored files damaged": lambda: damage(base, base / "whole", whole, others, rng),
            "four processes at once in one store": lambda: race(base, whole, max(others // 5, 1)),
            "disk full (files limited to 1 B to 32 KiB)": lambda: full(base, whole, others, rng),
        }
        for name, (_, share) in FUZZERS.items():
            faults[f"fuzz: {name}"] = partial(fuzzed, base, base / "whole", name, max(round(share * cases), 1), seed)
        for fault, run in faults.items():
            if only in fault:
                began = time.monotonic()
                found[fault] = run()
                print(f"{fault}: {dict(found[fault])} in {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    return found


def as_markdown(found: dict[str, Tally]) -> str:
    """The table of docs/reliability.md."""
    columns = [*GOOD, WRONG, TRACE, HANG]
    lines = [f"| fault | trials | {' | '.join(columns)} |", "|---|" + "--:|" * (len(columns) + 1)]
    for fault, tally in found.items():
        lines.append(f"| {fault} | {sum(tally.values()):,} | {' | '.join(f'{tally[c]:,}' for c in columns)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument(
        "--others", type=int, default=60, help="trials of damage and full disks; a fifth of it of races"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="faults whose name holds this")
    given = parser.parse_args()
    found = torture(kills=given.kills, cases=given.cases, others=given.others, seed=given.seed, only=given.only)
    print(as_markdown(found))
    failures = [line for tally in found.values() for line in tally.failures[:8]]
    for line in failures:
        print(line, file=sys.stderr)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
