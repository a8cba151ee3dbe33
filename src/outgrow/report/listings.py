"""What ``outgrow ls``, ``show``, ``tasks``, ``methods`` and ``models`` print: a line each, or one entry whole."""

import inspect
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import groupby
from typing import TYPE_CHECKING, Any

from outgrow.engine.progress import clock
from outgrow.engine.store import Damaged, OtherEdition, Store
from outgrow.errors import counted, megabytes, printable, unknown_name
from outgrow.models import MODELS
from outgrow.models.packaged import PACKAGED, models_table
from outgrow.registry import read_call
from outgrow.report.reference import listing, meanings
from outgrow.report.rows import cell_text, measured, number, with_interval
from outgrow.report.run import give_or_take
from outgrow.report.terminal import WIDE, Column, Line, show_facts, show_listing, show_table, show_text
from outgrow.results import ROLES, table_of
from outgrow.runtime import Runtime
from outgrow.tasks import TASKS, TaskSpec, describe, limited, load, tasks_table, where_from

if TYPE_CHECKING:
    import polars as pl
    from rich.console import Console

    from outgrow.engine.runner import Plan
    from outgrow.engine.store import Record

__all__ = [
    "print_counts",
    "print_experiments",
    "print_method",
    "print_methods",
    "print_models",
    "print_plan",
    "print_record",
    "print_scan",
    "print_task",
    "print_task_rows",
    "print_tasks",
    "warn_of_other_editions",
    "warn_of_unread",
]

_MOST = 20  # elements of a list that are shown one by one; --all shows them all
_NAMES = {
    "num_classes": "classes",
    "num_test": "test rows",
    "num_test_per_seed": "test rows per seed",
    "xent": "cross-entropy",
    "brier": "Brier",
    "auroc": "AUROC",
    "ece": "ECE",
    "pgr": "PGR",
}


_SHARES = ("accuracy", "majority", "agreement")
_DIFFERENCES = ("gain", "gap", "over", "learned")
"""Words in the names of numbers that are shown in percent, and in points of percent, as in the tables."""


# --- results ----------------------------------------------------------------------------------------------------------


def print_experiments(table: "pl.DataFrame", console: "Console", *, controls: bool) -> None:
    """Finished experiments: names, accuracies, PGR, and when each was done. Controls are counted, or listed too."""
    names = ("key", "task", "supervisor", "student", "strategy", "training")
    columns = [Column(name, title=True) for name in names]
    columns += [Column(role, "%", number=True) for role in ("weak", "student", "ceiling")]
    columns += [Column("PGR", number=True), Column("finished")]
    rows = [row for row in table.to_dicts() if controls or not row["control"]]
    lines = []
    for row in rows:
        titles = [row["key"][:12], *(row[name] for name in ("task", "weak", "strong", "strategy", "train"))]
        accuracies = [give_or_take(row, f"{role}_accuracy") for role in ROLES]
        recovered = "–" if row["control"] else measured(row, "pgr")
        lines.append(Line([*titles, *accuracies, recovered, _when(row["finished"])], "dim" if row["control"] else ""))
    show_table(console, columns, lines, least=WIDE)
    show_text(console, "± is half a 95 % interval, brackets are 95 % intervals", "dim")
    if folded := table.height - len(rows):
        show_text(console, f"{counted(folded, 'control')} not listed; `outgrow ls --all` lists them", "dim")


def _when(finished: str) -> str:
    """The minute of a record, in the reader's time zone."""
    return datetime.fromisoformat(finished).astimezone().strftime("%Y-%m-%d %H:%M")


def print_record(record: "Record", console: "Console") -> None:
    """One stored result for people: scores first, then what was asked for, then what made it; no hash but its own."""
    if record["note"]:
        _print_scores(record, console)
        fields = record["note"]["experiment"]
        asked = {name: fields.get(name) for name in ("task", "weak", "strong", "strategy", "train", "seeds")} | fields
    else:
        show_text(console, record["fn"], "bold")
        show_facts(console, _told(record["result"]) or [("stored as", ", ".join(record["files"]) or "nothing")])
        asked = {name: value for name, value in record["args"].items() if not _is_hash(value)}
    show_text(console, "\nasked for", "bold")
    show_facts(console, [(name, _plain(value)) for name, value in asked.items() if value is not None])
    show_text(console, "\nmade", "bold")
    made = {"finished": _when(record["finished"]), "time of this step": clock(record["seconds"])}
    made |= {name: _plain(record[name]) for name in ("versions", "host", "git") if record[name]}
    show_facts(console, [*made.items(), ("key", record["key"])])
    more = "`--config` prints the options that rerun it; " if record["note"] else ""
    show_text(console, f"\n{more}`--all` prints the whole record as JSON: every input, version and digest", "dim")


def _print_scores(record: "Record", console: "Console") -> None:
    (row,) = table_of([record]).to_dicts()
    names = [row["task"], f"{row['weak']} → {row['strong']}", row["strategy"], row["train"]]
    show_text(console, " · ".join([*names, counted(row["num_seeds"], "seed")]), "bold", hanging=4)
    with_bounds = [name for name in row if f"{name}_low" in row]
    metrics = [name.removeprefix("student_") for name in with_bounds if name.startswith("student_")]
    metrics = [m for m in metrics if any(row[f"{role}_{m}"] is not None for role in ROLES)]
    columns = [Column("", title=True), *(Column(_named(m), number=True) for m in metrics)]
    roles = [role for role in ROLES if row[f"{role}_accuracy"] is not None]
    show_table(console, columns, [Line([role, *(_figure(row, f"{role}_{m}") for m in metrics)]) for role in roles])
    others = [name for name in with_bounds if not name.startswith(tuple(f"{role}_" for role in ROLES))]
    others += ["majority", "num_classes", "num_test", "num_test_per_seed"]
    facts = [(_named(n), _figure(row, n)) for n in others]
    floors = {role: row[f"{role}_ece_floor"] for role in roles}
    by_chance = ", ".join(f"{role} {floor:.3f}" for role, floor in floors.items() if floor is not None)
    facts.append(("ECE by chance alone", by_chance))
    undefined = f"undefined: {row['pgr_undefined']}"
    show_facts(console, [(name, undefined if (name, text) == ("PGR", "–") else text) for name, text in facts])
    _print_seeds(record["result"]["per_seed"], console)


def _unit(name: str) -> str:
    words = set(name.split("_"))
    return "points" if words & {*_DIFFERENCES} else "%" if words & {*_SHARES} else ""


def _named(name: str) -> str:
    """A number's name for people, with its unit."""
    unit = {"%": " %", "points": ", points", "": ""}[_unit(name)]
    return _NAMES.get(name, name.replace("_", " ")) + unit


def _figure(row: dict[str, Any], name: str) -> str:
    """A number of a row with its interval, in the unit that stands beside its name."""
    value, low, high = row[name], row.get(f"{name}_low"), row.get(f"{name}_high")
    if not (unit := _unit(name)) or value is None:
        return cell_text(row, name)
    form = "+.1f" if unit == "points" else ".1f"
    return number(100 * value, form) if low is high is None else with_interval(value, low, high, form, scale=100)


def _print_seeds(seeds: Sequence[Mapping[str, Any]], console: "Console") -> None:
    columns = [Column("seed", title=True), Column("test rows", number=True)]
    columns += [*(Column(role, "%", number=True) for role in ROLES), Column("PGR", number=True)]
    lines = []
    for seed in seeds:
        accuracies = [f"{100 * seed[role]['accuracy']:.1f}" if role in seed else "" for role in ROLES]
        recovered = "" if seed["pgr"] is None else number(seed["pgr"])
        lines.append(Line([str(seed["seed"]), f"{seed['test_rows']:,}", *accuracies, recovered]))
    show_text(console, "\naccuracy seed by seed", "bold")
    show_table(console, columns, lines)


def _told(result: Any, name: str = "") -> list[tuple[str, str]]:
    """A stored JSON value as names and texts, nested names joined."""
    if isinstance(result, Mapping):
        return [fact for k, v in result.items() for fact in _told(v, f"{name} {k.replace('_', ' ')}".strip())]
    return [] if result is None else [(name or "result", _plain(result))]


def _is_hash(value: Any) -> bool:
    """Whether an argument is another step, or a list of them."""
    return "$step" in value if isinstance(value, Mapping) else isinstance(value, list) and any(map(_is_hash, value))


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        named = {k: v for k, v in value.items() if not k.startswith("$")}
        return ", ".join(f"{k} {_plain(v)}" for k, v in named.items()) or str(value.get("$class", "none"))
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value)) or "none" if len(value) <= _MOST else f"{len(value):,} of them"
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


# --- tasks ------------------------------------------------------------------------------------------------------------


def print_tasks(console: "Console", runtime: Runtime) -> None:
    """All tasks, a line each."""
    lines = [
        [t["name"], f"{t['rows']:,}" if t["rows"] else "?", where_from(t["name"], runtime), t["about"]]
        for t in tasks_table()
    ]
    show_listing(console, ["task", "rows", "from here", "a row"], lines)
    show_text(console, "`outgrow tasks NAME` shows a whole entry: classes, traps, options, license, rows", "dim")


def print_task_rows(text: str, limit: int | None, console: "Console", runtime: Runtime) -> None:
    """What the data of a task holds: rows, classes, groups, and up to three rows.

    Raises:
        UserError: if it cannot be loaded.
    """
    found = describe(TaskSpec.parse(text) if limit is None else limited(text, limit), runtime)
    balance = ", ".join(f"{label} {count:,}" for label, count in found["balance"].items())
    unknown = f", without gold {found['unknown']:,}" if found["unknown"] else ""
    show_text(console, f"\n{found['task']}", "bold")
    show_facts(
        console,
        [
            ("rows", f"{found['rows']:,} ({balance}{unknown})"),
            ("form", found["form"]),
            ("groups", f"{found['groups']:,}, the largest with {counted(found['largest_group'], 'row')}"),
            ("further columns", ", ".join(found["meta"]) or "none"),
        ],
    )
    for example in found["examples"]:
        show_text(console, f"\n[{example['id']}] {example['class']}", "bold")
        show_text(console, example["text"])


def print_task(text: str, console: "Console", runtime: Runtime) -> None:
    """What is known of a task, and its options. Loads no data.

    Raises:
        UserError: if there is no such task.
    """
    name, given = read_call(text, "task")
    entry = TASKS.entry(name)
    facts = entry.facts
    show_text(console, name, "bold")
    show_facts(
        console,
        [
            ("a row", facts.about),
            ("kind", facts.kind),
            ("classes", ", ".join(facts.classes) if facts.classes else "as in the data"),
            ("rows", f"{facts.rows:,}" if facts.rows else "as in the data"),
            *([("question", _question(text))] if facts.kind != "image" else []),
            ("traps handled", facts.traps or "none known"),
            ("source", facts.source),
            ("from here", where_from(name, runtime)),
            ("license", facts.licence + (f": {facts.restricted}" if facts.restricted else "")),
        ],
    )
    show_text(console, "\noptions", "bold")
    show_facts(
        console, [(k, f"{_value(given.get(k, o.default))}: {o.meaning}".rstrip(": ")) for k, o in entry.options.items()]
    )


def _question(text: str) -> str:
    """What a language model is asked, on one line, and the words of the classes."""
    name, given = read_call(text, "task")
    facts = TASKS.entry(name).facts
    asked = given.get("question") or facts.question or "a plain one that lists the words"
    words = given.get("words") or facts.words
    return repr(asked)[1:-1] + (f", answered by {', '.join(map(str, words))}" if words else "")


def _value(value: Any) -> str:
    return "must be given" if value is inspect.Parameter.empty else repr(value)


# --- methods and models -----------------------------------------------------------------------------------------------


def print_methods(console: "Console") -> None:
    """Everything that can be named in a run, kind by kind, a line each."""
    methods = listing()
    width = max(len(method.name) for method in methods)
    for kind, listed in groupby(methods, lambda method: method.kind):
        show_listing(console, [kind.ljust(width), ""], [[m.name, m.about.replace("``", "`")] for m in listed])
        show_text(console, "")
    show_text(console, "`outgrow methods NAME` shows a whole entry: options, source, cost", "dim")


def print_method(text: str, console: "Console") -> None:
    """Every strategy, loss, transform, trainer ... of that name, whole.

    Raises:
        UserError: if there is none.
    """
    methods = listing()
    name = text.partition("(")[0].strip()
    found = [method for method in methods if method.name == name]
    if not found:
        raise unknown_name("method", name, {method.name for method in methods}, "outgrow methods")
    for place, method in enumerate(found):
        heading = f"{method.spelling} [{method.kind}]"
        show_text(console, f"\n{heading}" if place else heading, "bold", hanging=4)
        show_text(console, _reflowed(inspect.getdoc(method.value) or ""))
        said = meanings(method.value)
        options = [(o, f"{d}: {said.get(o, '')}".removesuffix(": ")) for o, d in method.defaults.items()]
        show_facts(console, [*options, ("source", method.source), ("cost", method.cost)])


def _reflowed(doc: str) -> str:
    """A docstring whose paragraphs are one line each; those with indented lines, such as code, stay as they are."""
    paragraphs = doc.replace("``", "`").split("\n\n")
    return "\n\n".join(p if "\n " in p or p.startswith(" ") else p.replace("\n", " ") for p in paragraphs)


def print_models(console: "Console") -> None:
    """Models, each with its size, what its download takes, whether it is here, its license, and what it is."""
    columns = [Column("model", title=True), Column("parameters", number=True), Column("download", number=True)]
    columns += [Column("here"), Column("license"), Column("what it is", wraps=True)]
    lines = [
        Line(
            [
                str(m["name"]),
                f"{int(m['parameters']) / 1e6:,.1f} M",
                megabytes(int(m["download_bytes"])),
                "yes" if m["cached"] else "no",
                str(m["licence"]) + (" (restricted)" if m["restricted"] else ""),
                str(m["description"]),
            ]
        )
        for m in models_table()
    ]
    for name, reader in MODELS.items():
        if name not in PACKAGED:
            about = (inspect.getdoc(reader) or "").partition("\n")[0].rstrip(".").replace("``", "`")
            lines.append(Line([name, "", "none", "yes", "", about]))
    show_table(console, columns, lines)


# --- small tables -----------------------------------------------------------------------------------------------------


def print_counts(console: "Console", heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A name in each row, then numbers."""
    columns = [Column(heads[0], title=True), *(Column(head, number=True) for head in heads[1:])]
    show_table(console, columns, [*map(Line, rows)])


def print_scan(name: str, limit: int | None, console: "Console", runtime: Runtime) -> None:
    """What the search for leaks and shortcuts finds in a task, loaded whole or with at most ``limit`` rows."""
    from outgrow.tasks.leaks import scan

    spec = TaskSpec.parse(name) if limit is None else limited(name, limit)
    columns = [Column("check", title=True), *(Column(name, number=True) for name in ("figure", "chance", "95 %"))]
    columns += [Column("verdict"), Column("what the figure is", wraps=True)]
    lines = []
    for f in scan(load(spec, runtime), balance=not TASKS[spec.name].facts.natural):
        numbers = ["", "", ""]
        if f.figure is not None:
            numbers = [f"{f.figure.value:.3f}", f"{f.chance:.3f}", f"[{f.figure.low:.3f}, {f.figure.high:.3f}]"]
        lines.append(Line([f.check, *numbers, f.verdict, f.about]))
    show_table(console, columns, lines)


# --- warnings ---------------------------------------------------------------------------------------------------------


def warn_of_other_editions(store: Store, function: str | None = None) -> None:
    """Looks at the results of one function, or at all of them, which takes a while in a large store."""
    if store.of_other_editions(function):
        print(
            f"warning: {store.root} holds results of another edition of Outgrow, which are not used; "
            "`outgrow clean --old` removes them",
            file=sys.stderr,
        )


def warn_of_unread(unread: Sequence[Damaged]) -> None:
    """On standard error, what was left out because it cannot be read; results of other editions are told elsewhere."""
    if damaged := [damage for damage in unread if not isinstance(damage, OtherEdition)]:
        line = (
            f"warning: left out {counted(len(damaged), 'record')} that cannot be read, the first: {damaged[0]}; run "
            "the same command again to mend them, `outgrow doctor` counts them"
        )
        print(printable(line), file=sys.stderr)


def print_plan(console: "Console", experiments: int, planned: "Plan") -> None:
    """What a number of experiments would run, and how long that takes."""
    counts = Counter(s.function.doing for s in planned.to_run)
    if counts:
        print_counts(console, ("step", "to run"), [(name, f"{count:,}") for name, count in counts.most_common()])
    steps, reused = counted(len(planned.to_run), "step"), counted(len(planned.reused), "result")
    print(f"{counted(experiments, 'experiment')}: {steps} to run, {reused} reused")
    if planned.to_run:
        known = clock(planned.seconds) if planned.unknown < len(planned.to_run) else "unknown"
        more = (
            f", not counting {counted(planned.unknown, 'step')} of a kind that never ran in this store"
            if planned.unknown
            else ""
        )
        guess = (
            f", a guess for {counted(planned.guessed, 'step')} not timed here at a similar size"
            if planned.guessed
            else ""
        )
        print(f"estimated time: {known}{guess}{more}")
