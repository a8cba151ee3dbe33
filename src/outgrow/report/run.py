"""The results as one self-contained HTML page with its pictures beside it, and as a table in the terminal."""

import hashlib
import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from outgrow.errors import UserError
from outgrow.report import page, plots
from outgrow.report.page import counted, figure, html_table, is_current, replace_file, rerun, shell
from outgrow.report.plots import TableRow, measured, tidy
from outgrow.tasks import small_test_warning

if TYPE_CHECKING:
    import polars as pl
    import rich.console

__all__ = ["headline", "print_table", "what_ran", "write_report"]

_OF_THE_RUN = ("seconds", "steps_run", "steps_reused")
"""What differs between a run and its repetition without any result being new."""
_HEADS = (
    "Supervisor",
    "Student",
    "Strategy",
    "Supervisor accuracy, %",
    "Student accuracy, %",
    "Ceiling accuracy, %",
    "Gain, points",
    "PGR",
)
_INTERVALS = (
    "Brackets and bars are 95 % intervals of a hierarchical bootstrap: seeds and, independently, groups of related "
    "test rows are drawn with replacement, 2,000 times; supervisor, student and ceiling share the draws, so gain and "
    "PGR are paired. They are not corrected for the number of comparisons."
)
_READING_CONTROLS = (
    "Shuffled: the same student trained on its supervisor's labels after they were shuffled, which keeps their "
    "frequencies but none of their meaning. Clusters: the student's features clustered without any label. Majority "
    "class: always the most frequent class. A student that is not clearly above all of them has learnt little from "
    "its supervisor; where only the clusters come close, the classes already lie apart in the strong model."
)


def write_report(table: "pl.DataFrame", folder: str | Path, *, title: str, provenance: Mapping[str, Any]) -> Path:
    """Write ``index.html`` with its figures (PNG, SVG) and ``results.csv`` into ``folder``; returns the page's path.

    The page needs no network and no other file. Nothing is written where the page already shows the same results.

    Args:
        table: as :func:`outgrow.experiment.results` gives it.
        folder: made if need be.
        title: of the page.
        provenance: what ran and how to run it again: ``command``, ``config`` (YAML), ``versions``, ``host``, ``git``,
            ``seconds``, ``steps_run``, ``steps_reused``, ``licences`` (pairs of name and licence); all optional.

    Raises:
        UserError: if the table is empty.
    """
    if table.is_empty():
        raise UserError("there are no finished experiments to report; `outgrow run` makes some")
    folder = Path(folder)
    written = folder / "index.html"
    inputs = _fingerprint(table, title, provenance)
    if is_current(written, inputs):
        return written
    folder.mkdir(parents=True, exist_ok=True)
    written.unlink(missing_ok=True)  # written last: the sign that all files are this table's
    figures = {}
    for name, chart in plots.figures(table).items():
        spec, svg, png = plots.render(chart)
        (folder / f"{name}.svg").write_text(svg, encoding="utf-8")
        (folder / f"{name}.png").write_bytes(png)
        figures[name] = figure(name, spec, svg)
    table.write_csv(folder / "results.csv")
    replace_file(written, _page(tidy(table), figures, title, provenance, inputs))
    return written


def headline(table: "pl.DataFrame") -> str:
    """The outcome in words, counted from the table."""
    return " ".join(_findings(tidy(table)))


def print_table(table: "pl.DataFrame", console: "rich.console.Console") -> None:
    """The table in the terminal, one block per task and trainer; controls last. Fits 110 columns."""
    from rich.table import Table
    from rich.text import Text

    rows = tidy(table)
    notes: dict[str, None] = {}
    for panel in dict.fromkeys(r["panel"] for r in rows):
        block = Table(title=Text(panel), title_justify="left", box=None, padding=(0, 1), header_style="bold")
        for head in ("supervisor", "student", "strategy"):
            block.add_column(head, overflow="fold", max_width=16)
        for head in ("weak %", "student %", "ceiling %", "gain, points", "PGR"):
            block.add_column(head, no_wrap=True, justify="right")
        for row in _controls_last(r for r in rows if r["panel"] == panel):
            flagged = _not_above(row, rows)
            names = [row["supervisor"], row["student"], row["method"] + (" !" if flagged else "")]
            numbers = [_give_or_take(row, f"{role}_accuracy") for role in ("weak", "student", "ceiling")]
            numbers += [measured(row, "gain", percent=True), "–" if row["control"] else measured(row, "pgr")]
            block.add_row(*(Text(n) for n in (*names, *numbers)), style="dim" if row["control"] else "")
            if row["pgr"] is None and not row["control"]:
                notes[f"PGR undefined: {row['pgr_undefined']}"] = None
            if flagged:
                notes["! this student is not clearly above its controls"] = None
        console.print(block)
    notes["± is half a 95 % interval, brackets are 95 % intervals"] = None
    for note in notes:
        console.print(Text(note, style="dim"))


# ---- findings


def _findings(rows: Sequence[TableRow]) -> list[str]:
    students = [r for r in rows if not r["control"]]
    if not students:
        return ["Only controls were run."]
    num = len(students)
    above = sum(r["gain_low"] > 0 for r in students)
    below = sum(r["gain_high"] < 0 for r in students)
    defined = [r["pgr"] for r in students if r["pgr"] is not None]
    said = [f"In {above} of {counted(num, 'comparison')} the student is credibly more accurate than its supervisor."]
    if below:
        said.append(f"In {below} it is credibly less accurate.")
    if len(defined) == 1:
        said.append(f"PGR is {_plain(defined[0])} in the one comparison where it is defined.")
    elif defined:
        spread = f"from {_plain(min(defined))} to {_plain(max(defined))}"
        where = f"where it is defined, {len(defined)} of {num}" if len(defined) < num else f"of all {num}"
        said.append(f"Median PGR {where}: {_plain(statistics.median(defined))} ({spread}).")
    if len(defined) < num:
        said.append(f"PGR is undefined in {num - len(defined)} of {num}.")
    if flagged := sum(bool(_not_above(r, rows)) for r in students):
        said.append(f"Not clearly above the controls: {flagged} of {counted(num, 'student')}.")
    return said


def _not_above(row: TableRow, rows: Sequence[TableRow]) -> list[str]:
    """The controls of a student whose intervals reach its own: it may be no better than they are."""
    if row["control"]:
        return []
    rivals = [r for r in rows if r["control"] and all(r[k] == row[k] for k in ("panel", "weak", "strong"))]
    reached = [r["method"] for r in rivals if r["student_accuracy_high"] >= row["student_accuracy_low"]]
    return reached + ["majority class"] * (row["majority"] >= row["student_accuracy_low"])


def _warnings(rows: Sequence[TableRow]) -> list[str]:
    sizes = sorted({r["num_test_per_seed"] for r in rows})
    found = [warning for n in sizes if (warning := small_test_warning(n))]
    if any(r["num_seeds"] == 1 for r in rows):
        found.append("some results rest on a single seed, so their intervals leave out how much seeds differ")
    if not any(r["control"] for r in rows):
        found.append("no controls were run; students are only compared with the majority class")
    return found


def _plain(value: float) -> str:
    return f"{value:.2f}".replace("-", "−")


def _give_or_take(row: TableRow, name: str) -> str:
    if row[name] is None:
        return "none"
    return f"{100 * row[name]:.1f} ±{50 * (row[f'{name}_high'] - row[f'{name}_low']):.1f}"


def _controls_last(rows: Iterable[TableRow]) -> list[TableRow]:
    return sorted(rows, key=lambda r: r["control"])


# ---- the page


def _page(
    rows: Sequence[TableRow], figures: Mapping[str, str], title: str, provenance: Mapping[str, Any], inputs: str
) -> str:
    warnings = "".join(f"<li>{escape(w)}</li>" for w in _warnings(rows))
    controls = _controls_table(rows) if any(r["control"] for r in rows) else "<p>No controls were run.</p>"
    body = f"""<h1>{escape(title)}</h1>
<p class="headline">{escape(" ".join(_findings(rows)))}</p>
{f'<ul class="warnings">{warnings}</ul>' if warnings else ""}
{figures.get("accuracy", "")}
{figures.get("pgr", "")}
<h2>All comparisons</h2>
{_students_table(rows)}
<p class="note">{_INTERVALS} <a href="results.csv">results.csv</a> holds every number, and AUROC, cross-entropy, Brier
score and calibration error besides.</p>
<h2>Agreement with the supervisor</h2>
{figures.get("agreement", "")}
<h2>Controls</h2>
<p>{_READING_CONTROLS}</p>
{figures["controls"]}
{controls}
<h2>What ran</h2>
{what_ran(rows, provenance)}
<h2>Run it again</h2>
{rerun(provenance)}"""
    return shell(title, body, inputs)


def _students_table(rows: Sequence[TableRow]) -> str:
    """One table per panel, with the reasons of undefined PGRs and the flags of the controls as footnotes."""
    students = [r for r in rows if not r["control"]]
    reasons = list(dict.fromkeys(r["pgr_undefined"] for r in students if r["pgr"] is None))
    blocks = []
    for panel in dict.fromkeys(r["panel"] for r in students):
        body = "".join(_student_line(r, rows, reasons) for r in students if r["panel"] == panel)
        blocks.append(html_table(panel, _HEADS, body))
    notes = [f"<li>PGR undefined: {escape(reason)}.</li>" for reason in reasons]
    listed = f'<ol class="note">{"".join(notes)}</ol>' if notes else ""
    bold = "Bold gains have an interval that leaves out zero. "
    flag = "⚑ marks a student that is not clearly above all its controls: the intervals reach each other."
    return "".join(blocks) + listed + f'<p class="note">{bold}{flag}</p>'


def _student_line(row: TableRow, rows: Sequence[TableRow], reasons: Sequence[str]) -> str:
    reached = ", ".join(_not_above(row, rows))
    flag = f' <abbr title="not clearly above: {escape(reached)}">⚑</abbr>' if reached else ""
    gain = escape(measured(row, "gain", percent=True))
    if row["gain_low"] > 0 or row["gain_high"] < 0:
        gain = f"<strong>{gain}</strong>"
    pgr = escape(measured(row, "pgr"))
    if row["pgr"] is None:
        reason = row["pgr_undefined"]
        pgr = f'<abbr title="{escape(reason)}">undefined</abbr><sup>{reasons.index(reason) + 1}</sup>'
    return _line(row, [*(_accuracy(row, role) for role in ("weak", "student", "ceiling")), gain, pgr], flag)


def _controls_table(rows: Sequence[TableRow]) -> str:
    blocks = []
    controls = [r for r in rows if r["control"]]
    for panel in dict.fromkeys(r["panel"] for r in controls):
        own = [r for r in controls if r["panel"] == panel]
        body = "".join(_line(r, [_accuracy(r, "student"), f"{100 * r['majority']:.1f}"]) for r in own)
        blocks.append(html_table(panel, ("Supervisor", "Student", "Control", "Accuracy, %", "Majority class, %"), body))
    return "".join(blocks)


def _line(row: TableRow, cells: Sequence[str], flag: str = "") -> str:
    """A table row: the names, told in full when pointed at, then the cells, which are HTML."""
    pairs = (("weak", "supervisor"), ("strong", "student"), ("strategy", "method"))
    names = "".join(f'<td title="{escape(row[full])}">{escape(row[short])}</td>' for full, short in pairs)
    names = names.removesuffix("</td>") + flag + "</td>"
    numbers = "".join(f'<td class="number">{cell}</td>' for cell in cells)
    return f"<tr>{names}{numbers}</tr>\n"


def _accuracy(row: TableRow, role: str) -> str:
    name = f"{role}_accuracy"
    return "none" if row[name] is None else escape(measured(row, name, percent=True))


def what_ran(rows: Sequence[TableRow], provenance: Mapping[str, Any]) -> str:
    """What made these rows, as a list of definitions."""

    def every(*names: str) -> str:
        return ", ".join(dict.fromkeys(str(r[name]) for r in rows for name in names))

    def pairs(value: Mapping[str, Any]) -> str:
        return ", ".join(f"{k} {v}" for k, v in value.items())

    sizes = {"supervisor_rows": "supervisor", "transfer_rows": "transfer", "test_rows": "test"}
    asked = [f"{said} {', '.join(dict.fromkeys(str(r[k] or 'default') for r in rows))}" for k, said in sizes.items()]
    seeds = ", ".join(dict.fromkeys(r["seeds"] for r in rows))
    steps = [
        f"{provenance[k]} {said}" for k, said in (("steps_run", "run"), ("steps_reused", "reused")) if k in provenance
    ]
    took = [f"{provenance['seconds']:.1f} seconds"] if "seconds" in provenance else []
    facts = {
        "Tasks": every("task"),
        "Models": every("weak", "strong"),
        "Strategies": every("strategy"),
        "Training": every("train", "weak_train"),
        "Rows asked for": "; ".join(asked),
        "Test rows per seed": every("num_test_per_seed"),
        "Classes": every("num_classes"),
        "Seeds": seeds,
        "Steps": ", ".join([*steps, *took]),
        "Versions": pairs(provenance.get("versions", {})),
        "Host": pairs(provenance.get("host", {})),
        "Git": provenance.get("git") or "",
        "Licences": ", ".join(f"{name} ({licence})" for name, licence in provenance.get("licences", [])),
    }
    listed = "".join(f"<dt>{k}</dt><dd>{escape(v)}</dd>\n" for k, v in facts.items() if v)
    return f"<dl>{listed}</dl>"


# ---- files


def _fingerprint(table: "pl.DataFrame", title: str, provenance: Mapping[str, Any]) -> str:
    """Changes if and only if the page would: results, what made them, and the code that draws it."""
    kept = {k: v for k, v in provenance.items() if k not in _OF_THE_RUN}
    inputs = json.dumps([title, kept, sorted(json.dumps(r, default=str) for r in table.to_dicts())], default=str)
    code = [Path(module).read_bytes() for module in (__file__, page.__file__, plots.__file__)]
    return hashlib.sha256(b"\0".join([inputs.encode(), *code])).hexdigest()
