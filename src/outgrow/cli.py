"""The command ``outgrow``. Every command parses, calls one function of the library, and prints."""

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

from cyclopts import App, CycloptsError, Parameter
from cyclopts.config import Dict

from outgrow.config import PRESETS, Grid
from outgrow.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from outgrow.config import Experiment
    from outgrow.engine.store import Store
    from outgrow.runtime import Runtime
    from outgrow.tasks import TaskSpec

__all__ = ["main"]


def _version() -> str:
    from importlib.metadata import version

    return version("outgrow")


app = App(
    name="outgrow",
    help="Train a strong student on a weak supervisor's labels, and measure how far it outgrows its teacher.",
    version=_version,
    default_parameter=Parameter(consume_multiple=True, negative_iterable=(), negative_none=()),
)


@dataclass(frozen=True, kw_only=True)
class Machine:
    """How and where to run; changes no result."""

    device: str = "auto"
    """auto takes a GPU where one works, else the CPU; cpu, cuda, cuda:1, mps insist."""
    microbatch: int = 0
    """Examples per pass in finetuning; 0 takes the whole batch at once. Same result either way."""
    tokens_at_once: int = 0
    """Token budget of one batch in feature extraction and prediction; 0 takes what suits the device."""
    gradient_checkpointing: bool = False
    """Recompute activations in finetuning: less memory, more time."""
    compile: bool = False
    """Finetune through torch.compile, where a compiler is at hand: minutes to begin with, then perhaps faster."""
    shard: bool = False
    """Under torchrun: cut finetuned models into a piece for each process (FSDP2), for models larger than one card."""
    offline: bool = False
    """Fetch nothing; say what is missing instead."""
    data_dir: str | None = None
    """Folder of public data sets, read in place of the hub (a folder for each set); $OUTGROW_DATA_DIR."""
    accept_license: tuple[str, ...] = ()
    """Restricted models and tasks whose licences you accept, such as gemma-3-270m."""

    def runtime(self) -> "Runtime":
        """The library's form of these."""
        from outgrow.runtime import Runtime, accepted_licenses

        # A task is identified before there is a runtime, and on other machines too: these go by the environment.
        if self.data_dir is not None:
            os.environ["OUTGROW_DATA_DIR"] = self.data_dir
        if self.offline:
            os.environ["HF_HUB_OFFLINE"] = "1"
        return Runtime(
            device=self.device,
            microbatch=self.microbatch,
            tokens_at_once=self.tokens_at_once,
            gradient_checkpointing=self.gradient_checkpointing,
            compile=self.compile,
            shard=self.shard,
            offline=self.offline,
            accept_license=frozenset(self.accept_license) | accepted_licenses(),
        )


Flat = Parameter(name="*")
StorePlace = Annotated[
    str | None, Parameter(help="Folder or fsspec URL of results; $OUTGROW_STORE, else outgrow-store.")
]
ReportPlace = Annotated[Path, Parameter(help="Folder the report is written to.")]
_DEFAULT_GRID, _DEFAULT_MACHINE = Grid(), Machine()

# --- running ----------------------------------------------------------------------------------------------------------


@app.command
def run(
    *,
    grid: Annotated[Grid, Flat] = _DEFAULT_GRID,
    config: Annotated[
        str | None, Parameter(help="YAML file with these options, the key of a result to rerun, or released_code.")
    ] = None,
    print_config: Annotated[bool, Parameter(help="Print the options as YAML and stop.", negative=())] = False,
    store: StorePlace = None,
    report: ReportPlace = Path("outgrow-report"),
    machine: Annotated[Machine, Flat] = _DEFAULT_MACHINE,
) -> None:
    """Run supervisors, students and ceilings; print the table and write the report.

    Without arguments: the default experiment, real models and data on any laptop. What is stored already is reused.
    """
    if print_config:
        from outgrow.config import to_yaml

        print(to_yaml(grid), end="")
        return
    _run([grid], store, report, machine)


@app.command
def sweep(
    file: Annotated[Path, Parameter(help="YAML file with one grid or a list of grids.")],
    /,
    *,
    store: StorePlace = None,
    report: ReportPlace = Path("outgrow-report"),
    machine: Annotated[Machine, Flat] = _DEFAULT_MACHINE,
) -> None:
    """Run every grid of a file, shared steps once."""
    from outgrow.config import read_sweep

    _run(read_sweep(file), store, report, machine)


@dataclass(frozen=True, kw_only=True)
class BoardGrid(Grid):
    """A grid whose strategies are the methods of a board."""

    task: tuple[str, ...] = ("sentiment-movies", "sentiment-news", "sentiment-tweets", "sentiment-reviews")
    """Tasks, see ``outgrow tasks``; the more, the less a method can win by luck."""
    strategy: Annotated[tuple[str, ...], Parameter(name="--methods")] = ("all",)
    """Strategies to be compared with naive, see ``outgrow methods``; ``all`` stands for every one of the registries
    at its documented defaults."""


_DEFAULT_BOARD = BoardGrid()


@app.command
def board(
    *,
    grid: Annotated[BoardGrid, Flat] = _DEFAULT_BOARD,
    tune: Annotated[
        bool,
        Parameter(help="Choose each method's settings per cell by weak validation labels, never gold.", negative=()),
    ] = False,
    out: Annotated[Path, Parameter(help="Folder the board is written to.")] = Path("outgrow-board"),
    store: StorePlace = None,
    machine: Annotated[Machine, Flat] = _DEFAULT_MACHINE,
) -> None:
    """Compare methods over tasks and pairs, each against naive: print the scoreboard and write its page.

    Without arguments: every method that can be trained as a probe, four small tasks, five seeds. What is stored
    already is reused.
    """
    from outgrow import experiment
    from outgrow.board.run import run_board
    from outgrow.engine.progress import Progress, clock
    from outgrow.report.board import print_board, write_board
    from outgrow.report.provenance import provenance
    from outgrow.results import table_of

    opened, runtime = experiment.open_store(store), machine.runtime()
    if runtime.device != "auto":
        runtime.torch_device()  # a device asked for by name is there or the run does not start
    with Progress() as progress:
        made = run_board(grid, opened, runtime, progress, tune=tune)
    if made.experiments:
        results = table_of([opened.record(target) for target in made.experiments])
        command = shlex.join(["outgrow", *sys.argv[1:]])
        title = "Methods of weak-to-strong generalization, compared"
        facts = provenance(results, opened, [], command, made.outcome)
        print_board(made, _console())
        page = write_board(made, results, out, title=title, provenance=facts)
        if made.outcome is not None:
            print(f"{made.outcome.ran} steps run, {made.outcome.reused} reused, {clock(made.outcome.seconds)}")
        print(f"board: {page}")
    if made.failure:
        raise made.failure


@app.command
def plan(
    file: Annotated[Path | None, Parameter(help="YAML file with one grid or a list of grids.")] = None,
    /,
    *,
    grid: Annotated[Grid, Flat] = _DEFAULT_GRID,
    config: Annotated[
        str | None, Parameter(help="YAML file with these options, the key of a result, or released_code.")
    ] = None,
    store: StorePlace = None,
    machine: Annotated[Machine, Flat] = _DEFAULT_MACHINE,
) -> None:
    """Show what would run, what is reused and how long it may take, and do nothing."""
    from collections import Counter

    from outgrow import experiment
    from outgrow.config import read_sweep
    from outgrow.engine.progress import clock

    grids = read_sweep(file) if file else [grid]
    experiments = _experiments(grids, machine)
    planned = experiment.plan(experiments, experiment.open_store(store))
    counts = Counter(s.function.name for s in planned.to_run)
    rows = [[name, str(count)] for name, count in counts.most_common()]
    if rows:
        _print_rows(["step", "to run"], rows)
    reused = Counter(s.function.name for s in planned.reused)
    print(f"{len(experiments)} experiments: {len(planned.to_run)} steps to run, {sum(reused.values())} results reused")
    if planned.to_run:
        known = clock(planned.seconds) if planned.unknown < len(planned.to_run) else "unknown"
        more = f", without {planned.unknown} steps never timed in this store" if planned.unknown else ""
        print(f"estimated time: {known}{more}")


def _experiments(grids: Sequence[Grid], machine: Machine) -> "list[Experiment]":
    from outgrow.experiment import experiments_of

    accepted = machine.runtime().accept_license
    return [e for grid in grids for e in experiments_of(grid, accepted)]


def _run(grids: Sequence[Grid], store: str | None, report: Path, machine: Machine) -> None:
    from outgrow import experiment
    from outgrow.engine import runner
    from outgrow.engine.progress import Progress
    from outgrow.results import table_of

    opened, runtime = experiment.open_store(store), machine.runtime()
    if runtime.device != "auto":
        runtime.torch_device()  # a device asked for by name is there or the run does not start
    targets = experiment.wire_all(_experiments(grids, machine))
    planned = runner.plan(targets, opened)
    failure = None
    with Progress(planned.seconds if not planned.unknown else 0.0) as progress:
        try:
            outcome = runner.run(targets, opened, runtime, progress)
        except runner.StepsFailed as failed:  # what does not depend on the failed steps is done, and is shown
            failure, outcome = failed, failed.outcome
    if finished := [t for t in targets if opened.is_done(t)]:
        _print_report(table_of([opened.record(t) for t in finished]), opened, report, grids, outcome)
    if failure:
        raise failure


def _print_report(table: Any, store: "Store", folder: Path, grids: Sequence[Grid], outcome: Any) -> None:
    from outgrow.engine.progress import clock
    from outgrow.report.provenance import provenance
    from outgrow.report.run import print_table, write_report
    from outgrow.tasks import small_test_warning

    print_table(table, _console())
    for rows in sorted(set(table["num_test_per_seed"])):
        if warning := small_test_warning(rows):
            print(f"warning: {warning}", file=sys.stderr)
    facts = provenance(table, store, grids, shlex.join(["outgrow", *sys.argv[1:]]), outcome)
    page = write_report(table, folder, title="Weak-to-strong generalization", provenance=facts)
    if outcome is not None:
        print(f"{outcome.ran} steps run, {outcome.reused} reused, {clock(outcome.seconds)}")
    print(f"report: {page}")


# --- looking ----------------------------------------------------------------------------------------------------------


@app.command
def ls(*, store: StorePlace = None, steps: Annotated[bool, Parameter(negative=())] = False) -> None:
    """List the finished experiments, or with --steps what is stored of every step.

    Args:
        steps: count stored steps by function instead.
    """
    from collections import defaultdict

    from outgrow.experiment import open_store
    from outgrow.results import table_of

    opened = open_store(store)
    if steps:
        seconds: dict[str, list[float]] = defaultdict(list)
        for record in opened.records():
            seconds[record["fn"]].append(record["seconds"])
        _print_rows(["step", "stored", "seconds"], [[k, str(len(v)), f"{sum(v):.1f}"] for k, v in seconds.items()])
        return
    rows = [
        [r["key"][:12], r["task"], f"{r['weak']} > {r['strong']}", r["strategy"], r["train"], _interval(r, "pgr")]
        for r in table_of(opened.records("compare")).to_dicts()
    ]
    if not rows:
        print(f"no finished experiments in {opened.root}; `outgrow run` makes some")
    else:
        _print_rows(["key", "task", "pair", "strategy", "train", "PGR"], rows)


@app.command
def show(key: str, /, *, store: StorePlace = None, config: Annotated[bool, Parameter(negative=())] = False) -> None:
    """Print the record of a result: arguments, scores, seconds, versions, files.

    Args:
        key: the key of a result, or its first digits.
        config: print the options that rerun it, as YAML.
    """
    import json

    from outgrow.config import to_yaml
    from outgrow.experiment import open_store

    record = open_store(store).find(key)
    print(to_yaml(_grid_of_record(record)) if config else json.dumps(record, indent=1, ensure_ascii=False))


@app.command
def report(*, store: StorePlace = None, folder: ReportPlace = Path("outgrow-report")) -> None:
    """Write the report of everything in the store."""
    from outgrow.experiment import open_store
    from outgrow.results import table_of

    opened = open_store(store)
    table = table_of(opened.records("compare"))
    if table.is_empty():
        raise UserError(f"no finished experiments in {opened.root}; `outgrow run` makes some")
    _print_report(table, opened, folder, [], None)


@app.command
def tasks(
    name: str | None = None,
    /,
    *,
    limit: int | None = None,
    scan: Annotated[bool, Parameter(negative=())] = False,
    machine: Annotated[Machine, Flat] = _DEFAULT_MACHINE,
) -> None:
    """List the tasks and where each would come from here, or show one: rows, classes, groups, options.

    Args:
        name: a task with its options, such as "table(path='mine.csv')".
        limit: load at most so many rows, whole groups drawn by hash.
        scan: look for leaks and for give-aways of the class.
    """
    from outgrow.tasks import TaskSpec, describe, limited, tasks_table, where_from

    runtime = machine.runtime()
    if name is None:
        if scan or limit is not None:
            raise UserError("--scan and --limit need the name of a task")
        rows = [
            [
                t["name"],
                t["kind"],
                str(len(t["classes"] or ())) if t["classes"] else "yours",
                f"{t['rows']:,}" if t["rows"] else "?",
                t["licence"],
                t["source"],
                where_from(t["name"], runtime),
            ]
            for t in tasks_table()
        ]
        _print_rows(["task", "kind", "classes", "rows", "licence", "source", "from here"], rows)
        return
    spec = TaskSpec.parse(name) if limit is None else limited(name, limit)
    if scan:
        _print_scan(spec, runtime)
    else:
        _print_task(describe(spec, runtime))


def _print_task(found: dict[str, Any]) -> None:
    balance = ", ".join(f"{label} {count:,}" for label, count in found["balance"].items())
    unknown = f", without gold {found['unknown']:,}" if found["unknown"] else ""
    rows = [
        ["a row", f"{found['about']} ({found['form']})"],
        ["rows", f"{found['rows']:,} ({balance}{unknown})"],
        ["groups", f"{found['groups']:,}, the largest with {found['largest_group']:,} rows"],
        ["further columns", ", ".join(found["meta"]) or "none"],
        ["traps handled", found["traps"] or "none known"],
        ["source", found["source"]],
        ["licence", found["licence"] + (f": {found['restricted']}" if found["restricted"] else "")],
        *([f"option {k}", f"{v!r}: {found['meanings'].get(k, '')}".strip(": ")] for k, v in found["options"].items()),
    ]
    _print_rows([found["task"], ""], rows)
    for example in found["examples"]:
        print(f"\n[{example['id']}] {example['class']}\n{example['text']}")


def _print_scan(spec: "TaskSpec", runtime: "Runtime") -> None:
    from outgrow.tasks import load
    from outgrow.tasks.leaks import scan as scan_task

    findings = scan_task(load(spec, runtime))
    rows = []
    for f in findings:
        numbers = ["", "", ""]
        if f.figure is not None:
            numbers = [f"{f.figure.value:.3f}", f"{f.chance:.3f}", f"[{f.figure.low:.3f}, {f.figure.high:.3f}]"]
        rows.append([f.check, *numbers, f.verdict, f.about])
    _print_rows(["check", "figure", "chance", "95 %", "verdict", "what the figure is"], rows)


@app.command
def models() -> None:
    """List the packaged models, weak to strong, with their licences. Hub models are written hf:org/name@commit."""
    from outgrow.models.packaged import models_table

    rows = [
        [
            str(m["name"]),
            f"{int(m['parameters']) / 1e6:,.1f} M",
            f"{int(m['download_bytes']) / 1e6:,.0f} MB",
            "yes" if m["cached"] else "no",
            str(m["licence"]) + (" (restricted)" if m["restricted"] else ""),
            str(m["description"]),
        ]
        for m in models_table()
    ]
    _print_rows(["model", "parameters", "download", "here", "licence", "what it is"], rows)


@app.command
def methods() -> None:
    """List strategies, losses, transforms of labels, trainers, and supervisors that are no models: options, sources."""
    from itertools import groupby

    from outgrow.report.reference import listing

    for kind, listed in groupby(listing(), lambda method: method.kind):
        rows = [[m.spelling, m.about, m.source, m.cost] for m in listed]
        _print_rows([kind, "what it does", "source", "cost"], rows)


# --- housekeeping -----------------------------------------------------------------------------------------------------


@app.command
def pull(*names: str, machine: Annotated[Machine, Flat] = _DEFAULT_MACHINE) -> None:
    """Fetch models and data now, so that later runs work offline.

    Args:
        names: models, ladders (three, six) or tasks; nothing for what the default experiment needs.
    """
    from outgrow.doctor import pull as fetch

    fetch(names or ("three", "sentiment-movies"), machine.runtime(), print)


@app.command
def doctor(*, store: StorePlace = None, machine: Annotated[Machine, Flat] = _DEFAULT_MACHINE) -> None:
    """Check devices, memory, disk, cache, versions and stored results; exit code 1 if something is wrong."""
    from outgrow.doctor import examine
    from outgrow.experiment import open_store

    findings = examine(machine.runtime(), open_store(store))
    for finding in findings:
        print(f"{'ok  ' if finding.ok else 'BAD '} {finding.what}: {finding.found}")
    if not all(f.ok for f in findings):
        sys.exit(1)


@app.command
def clean(
    *,
    store: StorePlace = None,
    results: Annotated[bool, Parameter(negative=())] = False,
    cache: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Remove what killed runs left behind.

    Args:
        results: remove all stored results too.
        cache: remove fetched models and data too.
    """
    from outgrow.doctor import clean as remove
    from outgrow.experiment import open_store

    for line in remove(open_store(store), results=results, cache=cache):
        print(line)


# --- shared -----------------------------------------------------------------------------------------------------------


def _interval(row: dict[str, Any], name: str) -> str:
    if row[name] is None:
        return "undefined"
    return f"{row[name]:.2f} [{row[f'{name}_low']:.2f}, {row[f'{name}_high']:.2f}]"


def _print_rows(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in header:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    _console().print(table)


def _console() -> "Console":
    """Standard output; files and pipes get wide lines, so that nothing in them is cut."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=160)


def _grid_of_record(record: dict[str, Any]) -> Grid:
    from outgrow.config import Experiment
    from outgrow.experiment import grid_of

    if not record["note"]:
        raise UserError(
            f"{record['fn']}/{record['key'][:12]} is a step inside an experiment; rerun an experiment of `outgrow ls`"
        )
    fields = record["note"]["experiment"]
    return grid_of(Experiment(**{**fields, "seeds": tuple(fields["seeds"])}))


def _configured(tokens: Sequence[str]) -> dict[str, Any]:
    """The fields set by the file, preset or result named with ``--config``; flags on the command line go over them."""
    from dataclasses import asdict

    value = None
    for i, token in enumerate(tokens):
        if token == "--config" and i + 1 < len(tokens):
            value = tokens[i + 1]
        elif token.startswith("--config="):
            value = token.partition("=")[2]
    if value is None or tokens[0] not in ("run", "plan"):
        return {}
    fields: Mapping[str, Any]
    if value in PRESETS:
        fields = PRESETS[value]
    elif Path(value).exists() or not value.isalnum():
        from outgrow.config import read_grid

        fields = read_grid(Path(value))
    else:
        from outgrow.experiment import open_store

        stores = [tokens[i + 1] for i, t in enumerate(tokens[:-1]) if t == "--store"]
        fields = asdict(_grid_of_record(open_store(stores[0] if stores else None).find(value)))
    return {k.replace("_", "-"): list(v) if isinstance(v, tuple) else v for k, v in fields.items() if v is not None}


def main(tokens: Sequence[str] | None = None) -> None:
    """Run the command line; exits with 0, with 2 for what the user can mend, with 1 for anything else that failed."""
    tokens = list(sys.argv[1:] if tokens is None else tokens)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        _in_team(tokens)
    sys.exit(_main(tokens))


def _in_team(tokens: list[str]) -> NoReturn:
    """One of several processes that torchrun started: the first runs the command, the others help it finetune."""
    from outgrow.train import distributed

    distributed.join()
    if distributed.rank():
        distributed.worker_loop()
        distributed.leave(0)
    try:
        code = _main(tokens)
    finally:
        distributed.shutdown()
    distributed.leave(code)


def _main(tokens: list[str]) -> int:
    try:
        configured = _configured(tokens) if tokens else {}
        app.config = (Dict(configured, source="--config", use_commands_as_keys=False),) if configured else ()
        command, bound, _ = app.parse_args(tokens, exit_on_error=False, print_error=False)
        command(*bound.args, **bound.kwargs)
    except (UserError, CycloptsError) as error:
        print(f"outgrow: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("outgrow: interrupted; finished steps are kept, run the same command again to go on", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 1
    except Exception as error:
        from outgrow.engine.runner import StepsFailed

        if not isinstance(error, StepsFailed):
            raise
        for line in error.lines:
            print(f"outgrow: {line}", file=sys.stderr)
        return 2 if error.by_user else 1
    return 0
