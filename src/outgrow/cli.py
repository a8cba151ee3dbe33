"""The command ``outgrow``. Each command parses its options, calls one library function, and prints."""

import contextlib
import math
import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

from cyclopts import App, CycloptsError, Parameter, UnusedCliTokensError
from cyclopts.config import Dict
from cyclopts.help import DefaultFormatter

from outgrow.config import Grid
from outgrow.errors import UserError, counted, disk_problem, printable, without_secrets
from outgrow.runtime import Report, Runtime, check_folder, stopped_by_signals

if TYPE_CHECKING:
    from cyclopts.help import HelpEntry
    from cyclopts.help.specs import ColumnSpec
    from rich.console import Console, ConsoleOptions

    from outgrow.config import Experiment
    from outgrow.engine.store import Store
    from outgrow.results import Count

__all__ = ["main"]


def _version() -> str:
    from importlib.metadata import version

    return version("outgrow")


def _default_shown(value: Any) -> str | None:
    """A default as it would be typed; nothing for an option that is off or empty unless it is given."""
    if value is None or value is False or value == "" or (isinstance(value, tuple | frozenset) and not value):
        return None
    return " ".join(map(str, value)) if isinstance(value, tuple) else "on" if value is True else str(value)


def _help_columns(
    console: "Console", options: "ConsoleOptions", entries: "list[HelpEntry]"
) -> "tuple[ColumnSpec, ...]":
    """Columns in which every option is whole, however narrow the terminal."""
    from cyclopts.help.specs import AsteriskColumn, ColumnSpec, DescriptionColumn, NameRenderer

    longest = max(len(word) for e in entries for label in e.display_labels_with_metavar for word in label.split())
    width = max(math.ceil(console.width * 0.35), longest + 2)  # lines after the first are indented by two
    names = ColumnSpec(renderer=NameRenderer(max_width=width), style="cyclopts.name", max_width=width, no_wrap=True)
    return (
        (AsteriskColumn, names, DescriptionColumn) if any(e.required for e in entries) else (names, DescriptionColumn)
    )


app = App(
    name="outgrow",
    help="Train a strong student on a weak supervisor's labels, and measure how far it outgrows its teacher.",
    version=_version,
    default_parameter=Parameter(
        consume_multiple=True, negative_iterable=(), negative_none=(), show_default=_default_shown
    ),
    help_formatter=DefaultFormatter(column_specs=_help_columns),
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
MachineFlat = Parameter(name="*", group="Machine: changes no result")
StorePlace = Annotated[
    str | None, Parameter(help="Folder or fsspec URL for results. Default: $OUTGROW_STORE, or outgrow-store.")
]
ReportPlace = Annotated[Path, Parameter(help="Write the report to this folder.")]
ConfigFrom = Annotated[
    str | None,
    Parameter(help="Read options from a YAML file, from a stored result (its key), or from the preset released_code."),
]
UseFiles = Annotated[
    tuple[str, ...],
    Parameter(
        name="--use",
        help="Load your own losses, strategies, tasks, ... from this Python file. Repeatable. $OUTGROW_USE adds more.",
        consume_multiple=False,  # a name may follow
    ),
]
_typed: list[str] = []
"""The arguments of the command that runs. A recipe hands :func:`main` more than its own ``sys.argv`` holds."""
_DEFAULT_GRID, _DEFAULT_MACHINE = Grid(), Machine()

# --- running ----------------------------------------------------------------------------------------------------------


@app.command
def run(
    *,
    grid: Annotated[Grid, Flat] = _DEFAULT_GRID,
    config: ConfigFrom = None,
    print_config: Annotated[bool, Parameter(help="Print all options as YAML and exit.", negative=())] = False,
    store: StorePlace = None,
    report: ReportPlace = Path("outgrow-report"),
    machine: Annotated[Machine, MachineFlat] = _DEFAULT_MACHINE,
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
    machine: Annotated[Machine, MachineFlat] = _DEFAULT_MACHINE,
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
    primary: Annotated[
        tuple[str, ...],
        Parameter(
            help="A method you chose before seeing any number; it is corrected only for the other primary ones. "
            "Repeatable.",
            consume_multiple=False,
        ),
    ] = (),
    out: Annotated[Path, Parameter(help="Write the board to this folder.")] = Path("outgrow-board"),
    store: StorePlace = None,
    machine: Annotated[Machine, MachineFlat] = _DEFAULT_MACHINE,
) -> None:
    """Compare methods with naive over tasks and model pairs; print a scoreboard and write a page.

    With no arguments this compares every method that can be trained as a probe, on four small tasks with five seeds.
    Stored results are reused.
    """
    from outgrow.board.run import run_board
    from outgrow.engine.progress import Progress, clock
    from outgrow.report.board import print_board, write_board
    from outgrow.report.provenance import provenance
    from outgrow.report.terminal import console
    from outgrow.results import table_of

    opened = _ready(store, out, "--out", machine)
    with Progress() as progress:
        made = run_board(grid, opened, machine, progress, tune=tune, primary=primary)
    if made.experiments:
        results = table_of([opened.record(target) for target in made.experiments])
        command = _command()
        title = "Methods of weak-to-strong generalization, compared"
        facts = provenance(results, opened, [], command, made.outcome)
        print_board(made, console())
        page = write_board(made, results, out, title=title, provenance=facts)
        if made.outcome is not None:
            print(
                f"{counted(made.outcome.ran, 'step')} run, {made.outcome.reused} reused, {clock(made.outcome.seconds)}"
            )
        print(f"board: {page}")
    if made.failure:
        raise made.failure


@app.command
def plan(
    file: Annotated[Path | None, Parameter(help="YAML file with one grid or a list of grids.")] = None,
    /,
    *,
    grid: Annotated[Grid, Flat] = _DEFAULT_GRID,
    config: ConfigFrom = None,
    store: StorePlace = None,
    machine: Annotated[Machine, MachineFlat] = _DEFAULT_MACHINE,
) -> None:
    """Show what a run would do, what it would reuse, and how long it may take. Runs nothing."""
    from outgrow import experiment
    from outgrow.config import read_sweep
    from outgrow.report.listings import print_plan, warn_of_other_editions
    from outgrow.report.terminal import console

    if file and "(" in file.name and not file.exists():
        raise UserError(_unused([str(file)], "plan"))
    if file and grid != _DEFAULT_GRID:
        raise UserError(f"give options or {file}, not both: what the file says would stand; write the options into it")
    grids = read_sweep(file) if file else [grid]
    experiments = _experiments(grids, machine)
    opened = experiment.open_store(store)
    warn_of_other_editions(opened, "load")
    planned = experiment.plan(experiments, opened)
    print_plan(console(), len(experiments), planned)


def _experiments(grids: Sequence[Grid], machine: Machine) -> "list[Experiment]":
    from outgrow.experiment import experiments_of

    accepted = machine.accept_license
    return [e for grid in grids for e in experiments_of(grid, accepted)]


def _ready(store: str | None, folder: Path, flag: str, machine: Machine) -> "Store":
    """The store. Fails now, not hours into the run, if the folder to write to or the device is missing."""
    from outgrow.experiment import open_store

    opened = open_store(store)
    if opened.is_local:
        check_folder(Path(opened.path), "--store")
    check_folder(folder, flag)
    if machine.device != "auto":
        machine.torch_device()
    return opened


def _run(grids: Sequence[Grid], store: str | None, report: Path, machine: Machine) -> None:
    from outgrow import experiment
    from outgrow.engine import runner
    from outgrow.engine.progress import Progress
    from outgrow.report.listings import warn_of_other_editions
    from outgrow.results import count_tests, table_of

    opened = _ready(store, report, "--report", machine)
    warn_of_other_editions(opened, "load")
    targets = experiment.wire_all(_experiments(grids, machine))
    targets += experiment.control_contrasts(targets)
    planned = runner.plan(targets, opened)
    failure = None
    with Progress(planned) as progress:
        try:
            outcome = runner.run(targets, opened, machine, progress)
        except runner.StepsFailed as failed:  # everything else is done; show it
            failure, outcome = failed, failed.outcome
    if records := [opened.record(t) for t in targets if opened.is_done(t)]:
        _print_report(table_of(records), opened, report, grids, outcome, count_tests(records, opened))
    if failure:
        raise failure


def _print_report(
    table: Any, store: "Store", folder: Path, grids: Sequence[Grid], outcome: Any, count: "Count"
) -> None:
    from outgrow.engine.progress import clock
    from outgrow.report.provenance import provenance
    from outgrow.report.run import cautions, print_table, small_test_warnings, write_report
    from outgrow.report.scored import how_often_scored
    from outgrow.report.terminal import console, show_text

    print_table(table, console())
    if often := how_often_scored(count):
        show_text(console(), often, "dim", hanging=2)
    for warning in (*small_test_warnings(table.to_dicts()), *cautions(table)):
        print(f"warning: {warning}", file=sys.stderr)
    facts = provenance(table, store, grids, _command(), outcome, often)
    page = write_report(table, folder, title="Weak-to-strong generalization", provenance=facts)
    if outcome is not None:
        print(f"{counted(outcome.ran, 'step')} run, {outcome.reused} reused, {clock(outcome.seconds)}")
    print(f"report: {page}")


def _command() -> str:
    return without_secrets(shlex.join(["outgrow", *_typed]))


@app.command(name="open")
def open_test(
    method: str,
    /,
    *,
    grid: Annotated[Grid, Flat] = _DEFAULT_GRID,
    config: ConfigFrom = None,
    store: StorePlace = None,
    report: ReportPlace = Path("outgrow-sealed"),
    machine: Annotated[Machine, MachineFlat] = _DEFAULT_MACHINE,
) -> None:
    """Score one method and naive on the sealed test that ``run --sealed`` held back, with the options of that run.

    The method is named in the store before anything is scored, and each sealed test opens once. The same command again
    shows what is stored.

    Args:
        method: The method you make a claim for, such as confidence. It replaces the strategies of the options.
    """
    from outgrow.board.sealed import open_sealed
    from outgrow.engine.progress import Progress
    from outgrow.report.board import print_opening
    from outgrow.report.terminal import console
    from outgrow.results import count_tests, table_of

    opened = _ready(store, report, "--report", machine)
    with Progress() as progress:
        made = open_sealed(method, grid, opened, machine, progress)
    records = [opened.record(target) for target in made.results]
    _print_report(table_of(records), opened, report, [grid], made.outcome, count_tests(records, opened))
    print_opening(method, made, opened, console())


# --- looking ----------------------------------------------------------------------------------------------------------


@app.command
def ls(
    *,
    store: StorePlace = None,
    every: Annotated[bool, Parameter(name="--all", negative=())] = False,
    steps: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """List finished experiments with accuracies, PGR, and dates.

    Args:
        every: List controls too.
        steps: Count the stored steps of each kind instead.
    """
    from collections import defaultdict

    from outgrow.engine.store import Damaged
    from outgrow.experiment import open_store
    from outgrow.report.listings import print_counts, print_experiments, warn_of_other_editions, warn_of_unread
    from outgrow.report.terminal import console
    from outgrow.results import finished, table_of

    opened = open_store(store)
    unread: list[Damaged] = []
    if steps:
        seconds: dict[str, list[float]] = defaultdict(list)
        for record in opened.records(unread=unread):
            seconds[record["fn"]].append(record["seconds"])
        warn_of_unread(unread)
        warn_of_other_editions(opened)
        rows = [(name, f"{len(spent):,}", f"{sum(spent):,.1f}") for name, spent in seconds.items()]
        print_counts(console(), ("step", "stored", "seconds"), rows)
        return
    table = table_of(finished(opened, unread))
    warn_of_unread(unread)
    warn_of_other_editions(opened)
    if table.is_empty():
        more = f"{counted(len(unread), 'record')} cannot be read" if unread else "`outgrow run` makes some"
        print(f"no finished experiments in {opened.root}; {more}")
    else:
        print_experiments(table, console(), controls=every)


@app.command
def show(
    key: str,
    /,
    *,
    store: StorePlace = None,
    config: Annotated[bool, Parameter(negative=())] = False,
    every: Annotated[bool, Parameter(name="--all", negative=())] = False,
) -> None:
    """Show one result: its scores, what was asked for, and what made it.

    Args:
        key: The key of the result, or its first characters.
        config: Print the options that rerun it as YAML instead.
        every: Print the whole record as JSON instead, with every input, version, and digest.
    """
    import json

    from outgrow.config import to_yaml
    from outgrow.experiment import grid_of_record, open_store
    from outgrow.report.listings import print_record
    from outgrow.report.terminal import console

    record = open_store(store).find(key)
    if not config and not every:
        print_record(record, console())
        return
    text = to_yaml(grid_of_record(record)) if config else json.dumps(record, indent=1, ensure_ascii=False)
    print(printable(without_secrets(text)))


@app.command
def report(
    *,
    use: UseFiles = (),
    store: StorePlace = None,
    folder: Annotated[ReportPlace, Parameter(name=("--folder", "--report"))] = Path("outgrow-report"),
) -> None:
    """Write a report on everything in the store."""
    from outgrow.engine.store import Damaged
    from outgrow.experiment import open_store, use_files
    from outgrow.report.listings import warn_of_unread
    from outgrow.results import Count, finished, table_of, tally

    use_files(use)
    opened = open_store(store)
    check_folder(folder, "--folder")
    unread: list[Damaged] = []
    records = list(finished(opened, unread))
    table = table_of(records)
    warn_of_unread(unread)
    if table.is_empty():
        more = f"{counted(len(unread), 'record')} cannot be read" if unread else "`outgrow run` makes some"
        raise UserError(f"no finished experiments in {opened.root}; {more}")
    _print_report(table, opened, folder, [], None, Count(tally(records, opened), is_written=True))


@app.command
def tasks(
    name: str | None = None,
    /,
    *,
    limit: int | None = None,
    scan: Annotated[bool, Parameter(negative=())] = False,
    use: UseFiles = (),
    machine: Annotated[Machine, MachineFlat] = _DEFAULT_MACHINE,
) -> None:
    """List all tasks and where their data would come from, or describe one: rows, classes, groups, options.

    Args:
        name: A task, alone or with options, such as "table(path='mine.csv')".
        limit: Load at most this many rows. Groups stay whole.
        scan: Look for leaks and for shortcuts that give the class away.
    """
    from outgrow.experiment import use_files
    from outgrow.report.listings import print_scan, print_task, print_task_rows, print_tasks
    from outgrow.report.terminal import console

    use_files(use)
    if name is None:
        if scan or limit is not None:
            raise UserError("--scan and --limit work on one task; name it: outgrow tasks NAME --scan")
        print_tasks(console(), machine)
    elif scan:
        print_scan(name, limit, console(), machine)
    else:
        shown = console()
        print_task(name, shown, machine)
        try:
            print_task_rows(name, limit, shown, machine)
        except UserError as error:
            if "(" in name or limit is not None:
                raise
            print(f"\nIts rows are not shown: {_as_typed(str(error), 'tasks')}")


@app.command
def models(*, use: UseFiles = ()) -> None:
    """List the packaged models from weak to strong, with their licenses. Write hub models as hf:org/name@commit."""
    from outgrow.experiment import use_files
    from outgrow.report.listings import print_models
    from outgrow.report.terminal import console

    use_files(use)
    print_models(console())


@app.command
def methods(name: str | None = None, /, *, use: UseFiles = ()) -> None:
    """List strategies, losses, label transforms, trainers, and supervisors, or describe one: options, source, cost.

    Args:
        name: One of them, such as LogConf.
    """
    from outgrow.experiment import use_files
    from outgrow.report.listings import print_method, print_methods
    from outgrow.report.terminal import console

    use_files(use)
    if name is None:
        print_methods(console())
    else:
        print_method(name, console())


# --- housekeeping -----------------------------------------------------------------------------------------------------


@app.command
def pull(*names: str, machine: Annotated[Machine, MachineFlat] = _DEFAULT_MACHINE) -> None:
    """Download models and data now, so that later runs work offline.

    Args:
        names: Models, ladders (three, six, seven), or tasks. Default: what the default experiment needs.
    """
    from outgrow.doctor import pull as fetch

    fetch(names or ("three", "sentiment-movies"), machine, print)


@app.command
def doctor(*, store: StorePlace = None, machine: Annotated[Machine, MachineFlat] = _DEFAULT_MACHINE) -> None:
    """Check devices, memory, disk, cache, versions, and stored results. Exits with 1 if something is wrong."""
    from outgrow.doctor import examine
    from outgrow.experiment import open_store
    from outgrow.report.terminal import console, show_facts

    findings = examine(machine, open_store(store))
    show_facts(console(), [(f"{'ok ' if f.ok else 'BAD'}  {f.what}", f.found) for f in findings])
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
        old: Also remove results of other editions of Outgrow, which this one never reads.
        results: Also remove all stored results.
        cache: Also remove downloaded models and data.
    """
    from outgrow.doctor import clean as remove
    from outgrow.experiment import open_store

    opened, removed = open_store(store), False
    for line in remove(opened, old=old, results=results, cache=cache):
        removed = True
        print(line)
    if not removed:
        print(f"nothing to remove: killed runs left nothing in {opened.root}")


# --- shared -----------------------------------------------------------------------------------------------------------


def _configured(tokens: Sequence[str]) -> dict[str, Any]:
    """The fields that ``--config`` sets, by file, preset, or result. Flags on the command line override them."""
    value = None
    for i, token in enumerate(tokens):
        if token == "--config" and i + 1 < len(tokens):
            value = tokens[i + 1]
        elif token.startswith("--config="):
            value = token.partition("=")[2]
    if value is None or tokens[0] not in ("run", "plan", "open"):
        return {}
    from outgrow.report.provenance import fields_named

    stores = [tokens[i + 1] for i, t in enumerate(tokens[:-1]) if t == "--store"]
    fields = fields_named(value, stores[0] if stores else None)
    return {k.replace("_", "-"): list(v) if isinstance(v, tuple) else v for k, v in fields.items() if v is not None}


def main(tokens: Sequence[str] | None = None) -> None:
    """Run the command line. Exits with 0, with 2 for an error the user can fix, with 1 for any other failure.

    Under torchrun, rank 0 runs the command and the other ranks help it finetune.
    """
    tokens = list(sys.argv[1:] if tokens is None else tokens)
    _typed[:] = tokens
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    if several:
        _help_or_lead()
    with _exit_code(tokens[0] if tokens else "") as code:
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
def _exit_code(command: str) -> Iterator[list[int]]:
    """Print errors the user can fix as one line; the list holds the exit code afterwards."""
    code = [0]
    try:
        with stopped_by_signals():
            yield code
            sys.stdout.flush()  # a full disk or a closed pipe may show only now
    except UnusedCliTokensError as error:
        _say(_unused(error.unused_tokens or [], command))
        code[0] = 2
    except CycloptsError as error:
        _say(str(error))
        code[0] = 2
    except UserError as error:
        _say(_as_typed(str(error), command))
        code[0] = 2
    except KeyboardInterrupt as stop:
        _say("interrupted. Finished steps are kept; run the same command again to continue")
        code[0] = 128 + (stop.args[0] if stop.args else signal.SIGINT)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it ends
        code[0] = 1
    except Exception as error:
        code[0] = _failure(error, command)


def _unused(words: Sequence[str], command: str) -> str:
    from outgrow.report.typed import unused

    return unused(words, command, {a.field_info.name for a in app[command].assemble_argument_collection()})


def _failure(error: Exception, command: str) -> int:
    from outgrow.engine.runner import StepsFailed

    if isinstance(error, StepsFailed):
        for line in error.lines:
            _say(_as_typed(line, command))
        return 2 if error.by_user else 1
    if problem := disk_problem(error, getattr(error, "filename", None) or "the output", "see `outgrow doctor`"):
        _say(str(problem))
        return 2
    import traceback

    print(without_secrets("".join(traceback.format_exception(error))), file=sys.stderr, end="")
    return 1


def _say(line: str) -> None:
    print(f"outgrow: {printable(without_secrets(' '.join(line.split())))}", file=sys.stderr)


def _as_typed(message: str, command: str) -> str:
    """A message of the library with its options as they are typed after ``command``."""
    from outgrow.report.typed import as_typed

    taken = app[command if command in app else "run"].assemble_argument_collection()
    return as_typed(message, {a.field_info.name: a.names for a in taken if a.parameter.parse is not False})
