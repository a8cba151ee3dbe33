"""The command ``outgrow``. Each command parses its options, calls one library function, and prints."""

import contextlib
import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

from cyclopts import App, CycloptsError, Parameter
from cyclopts.config import Dict

from outgrow.config import PRESETS, Grid
from outgrow.errors import UserError, disk_problem, printable, without_secrets
from outgrow.runtime import Report, Runtime, check_folder, stopped_by_signals

if TYPE_CHECKING:
    from rich.console import Console

    from outgrow.config import Experiment
    from outgrow.engine.store import Damaged, Store
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


_HIDDEN = Parameter(parse=False, show=False)


@dataclass(frozen=True, kw_only=True)
class Machine(Runtime):
    """How and where to run. Changes no result."""

    data_dir: str | None = None
    """Read public data sets from this folder (one subfolder per set) instead of the hub. Default: $OUTGROW_DATA_DIR."""
    say: Annotated[Callable[[str], None], _HIDDEN] = Runtime.say
    scratch: Annotated[Path | None, _HIDDEN] = None
    report: Annotated[Report, _HIDDEN] = Runtime.report

    def __post_init__(self) -> None:
        super().__post_init__()
        # A task is identified before there is a runtime, and on other machines too: these go by the environment.
        if self.data_dir is not None:
            os.environ["OUTGROW_DATA_DIR"] = self.data_dir
        if self.offline:
            os.environ["HF_HUB_OFFLINE"] = "1"


Flat = Parameter(name="*")
StorePlace = Annotated[
    str | None, Parameter(help="Folder or fsspec URL for results. Default: $OUTGROW_STORE, or outgrow-store.")
]
ReportPlace = Annotated[Path, Parameter(help="Write the report to this folder.")]
UseFiles = Annotated[
    tuple[str, ...],
    Parameter(
        name="--use",
        help="Load your own losses, strategies, tasks, ... from this Python file. Repeatable. $OUTGROW_USE adds more.",
        consume_multiple=False,  # a name may follow
    ),
]
_DEFAULT_GRID, _DEFAULT_MACHINE = Grid(), Machine()

# --- running ----------------------------------------------------------------------------------------------------------


@app.command
def run(
    *,
    grid: Annotated[Grid, Flat] = _DEFAULT_GRID,
    config: Annotated[
        str | None,
        Parameter(
            help="Read options from a YAML file, from a stored result (its key), or from the preset released_code."
        ),
    ] = None,
    print_config: Annotated[bool, Parameter(help="Print all options as YAML and exit.", negative=())] = False,
    store: StorePlace = None,
    report: ReportPlace = Path("outgrow-report"),
    machine: Annotated[Machine, Flat] = _DEFAULT_MACHINE,
) -> None:
    """Run supervisors, students, and ceilings; print a table and write a report.

    With no arguments this runs the default experiment, on real models and data; a laptop is enough. Stored results are
    reused.
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
    use: UseFiles = (),
    store: StorePlace = None,
    report: ReportPlace = Path("outgrow-report"),
    machine: Annotated[Machine, Flat] = _DEFAULT_MACHINE,
) -> None:
    """Run every grid in a YAML file. Steps that several grids share run once."""
    from outgrow.config import read_sweep

    _run([replace(grid, use=(*use, *grid.use)) for grid in read_sweep(file)], store, report, machine)


@dataclass(frozen=True, kw_only=True)
class BoardGrid(Grid):
    """A grid whose strategies are the methods to compare."""

    task: tuple[str, ...] = ("sentiment-movies", "sentiment-news", "sentiment-tweets", "sentiment-reviews")
    """Tasks to compare on, see ``outgrow tasks``. More tasks leave less to luck."""
    strategy: Annotated[tuple[str, ...], Parameter(name="--methods")] = ("all",)
    """Strategies to compare with naive, see ``outgrow methods``. ``all`` means every registered method at its
    defaults."""


_DEFAULT_BOARD = BoardGrid()


@app.command
def board(
    *,
    grid: Annotated[BoardGrid, Flat] = _DEFAULT_BOARD,
    tune: Annotated[
        bool,
        Parameter(
            help="Choose each method's settings per cell by agreement with weak validation labels, never by gold.",
            negative=(),
        ),
    ] = False,
    out: Annotated[Path, Parameter(help="Write the board to this folder.")] = Path("outgrow-board"),
    store: StorePlace = None,
    machine: Annotated[Machine, Flat] = _DEFAULT_MACHINE,
) -> None:
    """Compare methods with naive over tasks and model pairs; print a scoreboard and write a page.

    With no arguments this compares every method that can be trained as a probe, on four small tasks with five seeds.
    Stored results are reused.
    """
    from outgrow import experiment
    from outgrow.board.run import run_board
    from outgrow.engine.progress import Progress, clock
    from outgrow.report.board import print_board, write_board
    from outgrow.report.provenance import provenance
    from outgrow.results import table_of

    opened = experiment.open_store(store)
    check_folder(out, "--out")
    if machine.device != "auto":
        machine.torch_device()  # fail now, not hours into the run, if the device is missing
    with Progress() as progress:
        made = run_board(grid, opened, machine, progress, tune=tune)
    if made.experiments:
        results = table_of([opened.record(target) for target in made.experiments])
        command = _command()
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
        str | None,
        Parameter(
            help="Read options from a YAML file, from a stored result (its key), or from the preset released_code."
        ),
    ] = None,
    store: StorePlace = None,
    machine: Annotated[Machine, Flat] = _DEFAULT_MACHINE,
) -> None:
    """Show what a run would do, what it would reuse, and how long it may take. Runs nothing."""
    from collections import Counter

    from outgrow import experiment
    from outgrow.config import read_sweep
    from outgrow.engine.progress import clock

    grids = read_sweep(file) if file else [grid]
    experiments = _experiments(grids, machine)
    opened = experiment.open_store(store)
    _warn_of_other_editions(opened, "load")
    planned = experiment.plan(experiments, opened)
    counts = Counter(s.function.name for s in planned.to_run)
    rows = [[name, str(count)] for name, count in counts.most_common()]
    if rows:
        _print_rows(["step", "to run"], rows)
    reused = Counter(s.function.name for s in planned.reused)
    print(f"{len(experiments)} experiments: {len(planned.to_run)} steps to run, {sum(reused.values())} results reused")
    if planned.to_run:
        known = clock(planned.seconds) if planned.unknown < len(planned.to_run) else "unknown"
        more = (
            f", not counting {planned.unknown} steps of a kind that never ran in this store" if planned.unknown else ""
        )
        print(f"estimated time: {known}{more}")


def _experiments(grids: Sequence[Grid], machine: Machine) -> "list[Experiment]":
    from outgrow.experiment import experiments_of

    accepted = machine.accept_license
    return [e for grid in grids for e in experiments_of(grid, accepted)]


def _run(grids: Sequence[Grid], store: str | None, report: Path, machine: Machine) -> None:
    from outgrow import experiment
    from outgrow.engine import runner
    from outgrow.engine.progress import Progress
    from outgrow.results import table_of

    opened = experiment.open_store(store)
    check_folder(report, "--report")
    if machine.device != "auto":
        machine.torch_device()  # fail now, not hours into the run, if the device is missing
    _warn_of_other_editions(opened, "load")
    targets = experiment.wire_all(_experiments(grids, machine))
    planned = runner.plan(targets, opened)
    failure = None
    with Progress(planned.seconds if not planned.unknown else 0.0) as progress:
        try:
            outcome = runner.run(targets, opened, machine, progress)
        except runner.StepsFailed as failed:  # everything else is done; show it
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
    facts = provenance(table, store, grids, _command(), outcome)
    page = write_report(table, folder, title="Weak-to-strong generalization", provenance=facts)
    if outcome is not None:
        print(f"{outcome.ran} steps run, {outcome.reused} reused, {clock(outcome.seconds)}")
    print(f"report: {page}")


def _command() -> str:
    return shlex.join(["outgrow", *sys.argv[1:]])


# --- looking ----------------------------------------------------------------------------------------------------------


@app.command
def ls(*, store: StorePlace = None, steps: Annotated[bool, Parameter(negative=())] = False) -> None:
    """List finished experiments, or stored steps with --steps.

    Args:
        steps: count the stored steps of each kind instead.
    """
    from collections import defaultdict

    from outgrow.engine.store import Damaged
    from outgrow.experiment import open_store
    from outgrow.results import finished, table_of

    opened = open_store(store)
    unread: list[Damaged] = []
    if steps:
        seconds: dict[str, list[float]] = defaultdict(list)
        for record in opened.records(unread=unread):
            seconds[record["fn"]].append(record["seconds"])
        _warn_of_unread(unread)
        _print_rows(["step", "stored", "seconds"], [[k, str(len(v)), f"{sum(v):.1f}"] for k, v in seconds.items()])
        return
    rows = [
        [r["key"][:12], r["task"], f"{r['weak']} > {r['strong']}", r["strategy"], r["train"], _interval(r, "pgr")]
        for r in table_of(finished(opened, unread)).to_dicts()
    ]
    _warn_of_unread(unread)
    if not rows:
        more = f"; {_records(len(unread))} cannot be read" if unread else "; `outgrow run` makes some"
        print(f"no finished experiments in {opened.root}{more}")
    else:
        _print_rows(["key", "task", "pair", "strategy", "train", "PGR"], rows)


@app.command
def show(key: str, /, *, store: StorePlace = None, config: Annotated[bool, Parameter(negative=())] = False) -> None:
    """Print the record of one result: arguments, scores, seconds, versions, files.

    Args:
        key: the key of the result, or its first characters.
        config: print the options that rerun it as YAML instead.
    """
    import json

    from outgrow.config import to_yaml
    from outgrow.experiment import grid_of_record, open_store

    record = open_store(store).find(key)
    text = to_yaml(grid_of_record(record)) if config else json.dumps(record, indent=1, ensure_ascii=False)
    print(printable(without_secrets(text)))


@app.command
def report(*, use: UseFiles = (), store: StorePlace = None, folder: ReportPlace = Path("outgrow-report")) -> None:
    """Write a report on everything in the store."""
    from outgrow.engine.store import Damaged
    from outgrow.experiment import open_store, use_files
    from outgrow.results import finished, table_of

    use_files(use)
    opened = open_store(store)
    unread: list[Damaged] = []
    table = table_of(finished(opened, unread))
    _warn_of_unread(unread)
    if table.is_empty():
        more = f"{_records(len(unread))} cannot be read" if unread else "`outgrow run` makes some"
        raise UserError(f"no finished experiments in {opened.root}; {more}")
    _print_report(table, opened, folder, [], None)


@app.command
def tasks(
    name: str | None = None,
    /,
    *,
    limit: int | None = None,
    scan: Annotated[bool, Parameter(negative=())] = False,
    use: UseFiles = (),
    machine: Annotated[Machine, Flat] = _DEFAULT_MACHINE,
) -> None:
    """List all tasks and where their data would come from, or describe one task: rows, classes, groups, options.

    Args:
        name: a task with its options, such as "table(path='mine.csv')".
        limit: load at most this many rows. Groups stay whole.
        scan: look for leaks and for shortcuts that give the class away.
    """
    from outgrow.experiment import use_files
    from outgrow.tasks import TaskSpec, describe, limited, tasks_table, where_from

    use_files(use)
    if name is None:
        if scan or limit is not None:
            raise UserError("--scan and --limit work on one task; name it: outgrow tasks NAME --scan")
        rows = [
            [
                t["name"],
                t["kind"],
                str(len(t["classes"] or ())) if t["classes"] else "yours",
                f"{t['rows']:,}" if t["rows"] else "?",
                t["licence"],
                t["source"],
                where_from(t["name"], machine),
            ]
            for t in tasks_table()
        ]
        _print_rows(["task", "kind", "classes", "rows", "licence", "source", "from here"], rows)
        return
    spec = TaskSpec.parse(name) if limit is None else limited(name, limit)
    if scan:
        _print_scan(spec, machine)
    else:
        _print_task(describe(spec, machine))


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
        print(printable(f"\n[{example['id']}] {example['class']}\n{example['text']}"))


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
def models(*, use: UseFiles = ()) -> None:
    """List the packaged models from weak to strong, with their licences. Write hub models as hf:org/name@commit."""
    import inspect

    from outgrow.experiment import use_files
    from outgrow.models import MODELS
    from outgrow.models.packaged import PACKAGED, models_table

    use_files(use)
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
    others = [(name, cls) for name, cls in MODELS.items() if name not in PACKAGED]
    rows += [
        [name, "", "none", "yes", "", (inspect.getdoc(cls) or "").partition("\n")[0].rstrip(".")]
        for name, cls in others
    ]
    _print_rows(["model", "parameters", "download", "here", "licence", "what it is"], rows)


@app.command
def methods(*, use: UseFiles = ()) -> None:
    """List strategies, losses, label transforms, trainers, and supervisors, with their options and sources."""
    from itertools import groupby

    from outgrow.experiment import use_files
    from outgrow.report.reference import listing

    use_files(use)
    for kind, listed in groupby(listing(), lambda method: method.kind):
        rows = [[m.spelling, m.about, m.source, m.cost] for m in listed]
        _print_rows([kind, "what it does", "source", "cost"], rows)


# --- housekeeping -----------------------------------------------------------------------------------------------------


@app.command
def pull(*names: str, machine: Annotated[Machine, Flat] = _DEFAULT_MACHINE) -> None:
    """Download models and data now, so that later runs work offline.

    Args:
        names: models, ladders (three, six), or tasks. Default: what the default experiment needs.
    """
    from outgrow.doctor import pull as fetch

    fetch(names or ("three", "sentiment-movies"), machine, print)


@app.command
def doctor(*, store: StorePlace = None, machine: Annotated[Machine, Flat] = _DEFAULT_MACHINE) -> None:
    """Check devices, memory, disk, cache, versions, and stored results. Exits with 1 if something is wrong."""
    from outgrow.doctor import examine
    from outgrow.experiment import open_store

    findings = examine(machine, open_store(store))
    for finding in findings:
        print(printable(f"{'ok  ' if finding.ok else 'BAD '} {finding.what}: {finding.found}"))
    if not all(f.ok for f in findings):
        sys.exit(1)


@app.command
def clean(
    *,
    store: StorePlace = None,
    old: Annotated[bool, Parameter(negative=())] = False,
    results: Annotated[bool, Parameter(negative=())] = False,
    cache: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Remove what killed runs left behind.

    Args:
        old: also remove results of other editions of Outgrow, which this one never reads.
        results: also remove all stored results.
        cache: also remove downloaded models and data.
    """
    from outgrow.doctor import clean as remove
    from outgrow.experiment import open_store

    for line in remove(open_store(store), old=old, results=results, cache=cache):
        print(line)


def _warn_of_other_editions(store: "Store", function: str | None = None) -> None:
    """Looks at the results of one function, or at all of them, which takes a while in a large store."""
    if store.of_other_editions(function):
        print(
            f"warning: {store.root} holds results of another edition of Outgrow, which are not used; "
            "`outgrow clean --old` removes them",
            file=sys.stderr,
        )


def _warn_of_unread(unread: "Sequence[Damaged]") -> None:
    from outgrow.engine.store import OtherEdition

    others = sum(isinstance(damage, OtherEdition) for damage in unread)
    if others:
        print(
            f"warning: {others} results of another edition of Outgrow are not used; `outgrow clean --old` removes them",
            file=sys.stderr,
        )
    if damaged := [damage for damage in unread if not isinstance(damage, OtherEdition)]:
        print(
            printable(
                f"warning: left out {_records(len(damaged))} that cannot be read, the first: {damaged[0]}; run the "
                "same command again to mend them, `outgrow doctor` counts them"
            ),
            file=sys.stderr,
        )


def _records(number: int) -> str:
    return f"{number} record{'s' * (number > 1)}"


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
        table.add_row(*(Text(printable(cell)) for cell in row))
    _console().print(table)


def _console() -> "Console":
    """Standard output. Files and pipes get wide lines, so that nothing is cut."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=160)


def _configured(tokens: Sequence[str]) -> dict[str, Any]:
    """The fields that ``--config`` sets, by file, preset, or result. Flags on the command line override them."""
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
        from outgrow.experiment import grid_of_record, open_store

        stores = [tokens[i + 1] for i, t in enumerate(tokens[:-1]) if t == "--store"]
        fields = asdict(grid_of_record(open_store(stores[0] if stores else None).find(value)))
    return {k.replace("_", "-"): list(v) if isinstance(v, tuple) else v for k, v in fields.items() if v is not None}


def main(tokens: Sequence[str] | None = None) -> None:
    """Run the command line. Exits with 0, with 2 for an error the user can fix, with 1 for any other failure.

    Under torchrun, rank 0 runs the command and the other ranks help it finetune.
    """
    tokens = list(sys.argv[1:] if tokens is None else tokens)
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    if several:
        _help_or_lead()
    with _exit_code() as code:
        configured = _configured(tokens) if tokens else {}
        app.config = (Dict(configured, source="--config", use_commands_as_keys=False),) if configured else ()
        command, bound, _ = app.parse_args(tokens, exit_on_error=False, print_error=False)
        command(*bound.args, **bound.kwargs)
    if several:
        _leave(code[0])
    sys.exit(code[0])


def _help_or_lead() -> None:
    """Join the other ranks. Only rank 0 returns; the others work until it is done, then exit."""
    from outgrow.train import distributed

    distributed.join()
    if distributed.rank():
        distributed.worker_loop()
        distributed.leave(0)


def _leave(code: int) -> NoReturn:
    from outgrow.train import distributed

    distributed.shutdown()
    distributed.leave(code)


@contextlib.contextmanager
def _exit_code() -> Iterator[list[int]]:
    """Print errors the user can fix as one line; the list holds the exit code afterwards."""
    code = [0]
    try:
        with stopped_by_signals():
            yield code
            sys.stdout.flush()  # a full disk or a closed pipe may show only now
    except (UserError, CycloptsError) as error:
        _say(str(error))
        code[0] = 2
    except KeyboardInterrupt as stop:
        _say("interrupted. Finished steps are kept; run the same command again to continue")
        code[0] = 128 + (stop.args[0] if stop.args else signal.SIGINT)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it ends
        code[0] = 1
    except Exception as error:
        code[0] = _failure(error)


def _failure(error: Exception) -> int:
    from outgrow.engine.runner import StepsFailed

    if isinstance(error, StepsFailed):
        for line in error.lines:
            _say(line)
        return 2 if error.by_user else 1
    if problem := disk_problem(error, getattr(error, "filename", None) or "the output", "see `outgrow doctor`"):
        _say(str(problem))
        return 2
    import traceback

    print(without_secrets("".join(traceback.format_exception(error))), file=sys.stderr, end="")
    return 1


def _say(line: str) -> None:
    print(f"outgrow: {printable(without_secrets(' '.join(line.split())))}", file=sys.stderr)
