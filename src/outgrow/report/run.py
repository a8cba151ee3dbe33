"""A table of runs as one self-contained HTML page with its pictures beside it, and as a table in the terminal."""

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from outgrow.errors import UserError, counted
from outgrow.report import figures, page
from outgrow.report.provenance import what_ran
from outgrow.report.rows import TableRow, grouped, measured, number, tidy
from outgrow.report.scored import class_sheets, how_scored, print_scoring
from outgrow.report.terminal import WIDE, Column, Line, show_table, show_text
from outgrow.strategies import CONTROLS

if TYPE_CHECKING:
    import polars as pl
    import rich.console

__all__ = ["cautions", "give_or_take", "headline", "print_table", "small_test_warnings", "write_report"]

_WIDE = 0.05  # half an interval
_LOPSIDED = 0.1  # an interval whose sides differ by a larger share of its width is printed with both ends


def write_report(table: "pl.DataFrame", folder: str | Path, *, title: str, provenance: Mapping[str, Any]) -> Path:
    """Write ``index.html``, ``results.csv``, every figure (PNG, SVG) and the table of every analysis (CSV) into
    ``folder``; returns the page's path.

    The page needs no network and no other file. Nothing is written if it already shows the same results.

    Args:
        table: as :func:`outgrow.results` gives it.
        folder: made if need be.
        title: of the page.
        provenance: what ran and how to run it again: ``command``, ``config`` (YAML), ``files`` (path to digest),
            ``versions``, ``host``, ``git``, ``seconds``, ``steps_run``, ``steps_reused``, ``licences`` (pairs of name
            and licence); all optional.

    Raises:
        UserError: if the table is empty; if a figure or an analysis failed, after the rest of the page is written.
    """
    if table.is_empty():
        raise UserError("there are no finished experiments to report; `outgrow run` makes some")
    written = Path(folder) / "index.html"
    records = sorted(json.dumps(row, default=str) for row in table.to_dicts())
    inputs = page.fingerprint(provenance, title, records, figures.digests())
    if page.is_current(written, inputs):
        return written
    written.parent.mkdir(parents=True, exist_ok=True)
    written.unlink(missing_ok=True)  # written last: the sign that all files are this table's
    table.write_csv(written.parent / "results.csv")
    compared = table.filter(table["gain"].is_not_null())  # pictures are of students with something to compare with
    shown = figures.show(compared, written.parent) if len(compared) else figures.Shown({}, {}, {})
    rows = tidy(table)
    students = [r for r in rows if not r["control"]]
    page.write_page(
        written,
        "run.html",
        "incomplete" if shown.failures else inputs,
        title=title,
        findings=_findings(rows),
        warnings=[*_warnings(rows), *cautions(table), *shown.failures],
        notes=data_notes(rows),
        students=students,
        scored={panel: how_scored(own) for panel, own in grouped(students, "panel").items()},
        sheets=class_sheets(students),
        reasons=list(dict.fromkeys(r["pgr_undefined"] for r in students if r["pgr"] is None)),
        pictures=shown.pictures,
        tables=shown.tables,
        facts=what_ran(rows, provenance),
        provenance=provenance,
    )
    if shown.failures:
        lines = "; ".join(shown.failures)
        raise UserError(f"{lines}; all else is in {written}") from next(iter(shown.failures.values()))
    return written


def headline(table: "pl.DataFrame") -> str:
    """The outcome in words, counted from the table."""
    return " ".join(_findings(tidy(table)))


def print_table(table: "pl.DataFrame", console: "rich.console.Console") -> None:
    """The table in the terminal, controls last, and the headline below it. Every name is whole."""
    columns = [Column("supervisor", title=True), Column("student", title=True), Column("strategy", title=True)]
    columns += [Column(name, "%", number=True) for name in ("weak", "student", "ceiling")]
    columns += [Column("gain", "points", number=True), Column("PGR", number=True)]
    notes: dict[str, None] = {}
    for panel, rows in grouped(tidy(table, whole=True), "panel").items():
        show_text(console, panel, "bold", hanging=2)
        lines = []
        for row in sorted(rows, key=lambda r: r["control"]):
            names = [row["supervisor"], row["student"], row["method"] + (" !" if row["not_above"] else "")]
            numbers = [give_or_take(row, f"{role}_accuracy") for role in ("weak", "student", "ceiling")]
            numbers += [measured(row, "gain", percent=True), "–" if row["control"] else measured(row, "pgr")]
            lines.append(Line([*names, *numbers], "dim" if row["control"] else ""))
            if row["pgr"] is None and not row["control"]:
                notes[f"PGR undefined: {row['pgr_undefined']}"] = None
            if row["not_above"]:
                notes[
                    f"! not shown to be above every control ({_not_beaten([row])}): a 95 % interval of student minus "
                    "control reaches zero"
                ] = None
        show_table(console, columns, lines, least=WIDE)
        print_scoring(rows, console)
    show_text(console, headline(table), "bold")
    for note in (*data_notes(tidy(table)), *notes, "± is half a 95 % interval, brackets are 95 % intervals"):
        show_text(console, note, "dim", hanging=2)


def _findings(rows: Sequence[TableRow]) -> list[str]:
    students = [r for r in rows if not r["control"]]
    if not students:
        return ["Only controls were run."]
    missing = dict.fromkeys(r["gain_undefined"] for r in students if r["gain"] is None)
    without = [
        f"No gain for {counted(sum(r['gain'] is None for r in students), 'student')}: {'; '.join(missing)}."
    ] * bool(missing)
    students = [r for r in students if r["gain"] is not None]
    if not students:
        return without
    of_all = f"of {counted(len(students), 'comparison')}"
    above = sum(r["gain_low"] > 0 for r in students)
    below = sum(r["gain_high"] < 0 for r in students)
    also = f", below zero in {below}" if below else ""
    single = sum(r["num_seeds"] == 1 for r in students)
    seeds = "" if not single else "; one seed" if single == len(students) else f"; one seed in {single}"
    many = ", uncorrected" if len(students) > 1 else ""
    said = [f"The 95 % interval of the gain lies above zero in {above} {of_all}{also}{many}{seeds}."]
    defined = [r["pgr"] for r in students if r["pgr"] is not None]
    if not defined:
        said.append(f"PGR is undefined in {len(students)} {of_all}.")
    else:
        middle, low, high = (number(f(defined)) for f in (statistics.median, min, max))
        value = f"Median PGR: {middle} (from {low} to {high})" if len(defined) > 1 else f"PGR: {middle}"
        said.append(f"{value}, defined in {len(defined)} {of_all}.")
    if flagged := sum(bool(r["not_above"]) for r in students):
        said.append(
            f"In {flagged} {of_all} the student is not shown to be above every control ({_not_beaten(students)}): the "
            "95 % interval of student minus control, row by row, does not lie above zero."
        )
    return [*said, *without]


def _not_beaten(rows: Sequence[TableRow]) -> str:
    return ", ".join(sorted({name for row in rows for name in row["not_above"]}))


def cautions(table: "pl.DataFrame") -> list[str]:
    """What a reader of the table has to know about how its models read and learned, one line each."""
    found = [line for row in tidy(table) for line in (*_read(row), *_learned(row), *_one_sided(row))]
    return list(dict.fromkeys(found))


def _read(row: TableRow) -> list[str]:
    """Texts that were cut, and whether supervisor and student read the same."""
    lines, shares = [], {}
    for role, model in (("weak", row["supervisor"]), ("student", row["student"])):
        count, texts, same = (row.get(f"{role}_texts_{name}") for name in ("cut", "read", "identical"))
        shares[model] = count / texts if count else 0.0
        if count:
            also = f", {same:,} became identical" if same else ""
            lines.append(f"{row['panel']}: {count:,} of {texts:,} texts were cut at max_tokens for {model}{also}")
    if max(shares.values()) - min(shares.values()) > 0.01:
        (less, most), (more, fewest) = sorted(shares.items(), key=lambda s: -s[1])
        lines.append(
            f"{row['panel']}: {less} and {more} read different amounts of the texts ({100 * most:.0f} % and "
            f"{100 * fewest:.0f} % of them were cut), so their gap is in part one of reading"
        )
    views = row.get("weak_view"), row.get("student_view")
    if None not in views and len(set(views)) > 1:
        models = (row["supervisor"], row["student"])
        of_each = " and ".join(f"{view} of {model}" for view, model in zip(views, models, strict=True))
        lines.append(f"{row['panel']}: probes read {of_each}")
    return lines


def _learned(row: TableRow) -> list[str]:
    """A student that trails what its weak labels say most often; a control may."""
    if row["control"] or (row.get("learned_high") or 0) >= 0:
        return []
    return [
        f"{row['panel']}: {row['student']} by {row['method']} has not learned: it agrees with the weak labels of "
        f"{row['supervisor']} {abs(100 * row['learned']):.1f} points less often than their most frequent class does"
    ]


def _one_sided(row: TableRow) -> list[str]:
    """A student that answers every test row alike, whatever it was taught; a control may."""
    found = json.loads(row.get("per_class") or "{}")
    said = [sum(column) for column in zip(*found.get("student", {}).get("confusion", []), strict=True)]
    if row["control"] or sum(map(bool, said)) != 1 or len(said) < 2:
        return []
    name = found["classes"][next(c for c, count in enumerate(said) if count)]
    return [f"{row['panel']}: {row['student']} by {row['method']} says {name!r} for every test row"]


def _warnings(rows: Sequence[TableRow]) -> list[str]:
    found = small_test_warnings(rows)
    if any(r["num_seeds"] == 1 for r in rows):
        found.append("some results have a single seed; their intervals leave out the variation between seeds")
    if not any(r["control"] for r in rows):
        found.append("no controls were run; students are compared with the majority class only")
    elif lacking := sum(any(r[f"over_{c}"] is None for c in CONTROLS) for r in rows if not r["control"]):
        found.append(
            f"{counted(lacking, 'student')} of {sum(not r['control'] for r in rows)} not compared with every control, "
            "row by row; run the student and its controls in one command"
        )
    return found


def small_test_warnings(rows: Sequence[TableRow]) -> list[str]:
    """For each task and size of test whose widest 95 % interval of a gain is wider than ±5 points: what it cannot
    show."""
    found = []
    students = (r for r in rows if not r["control"] and r["gain"] is not None)
    for (task, size, seeds), own in sorted(grouped(students, "task", "num_test_per_seed", "num_seeds").items()):
        half = max((r["gain_high"] - r["gain_low"]) / 2 for r in own)
        if half > _WIDE:
            found.append(
                f"{task}: the test has {counted(size, 'row')} ({counted(seeds, 'seed')}): the 95 % interval of a gain "
                f"is up to ±{100 * half:.1f} points, so smaller gains cannot be shown; use more test rows or seeds"
            )
    return found


def data_notes(rows: Sequence[TableRow]) -> list[str]:
    """How the data of each task was read, in the words of its loader; with the task's name if there are several."""
    notes = dict.fromkeys((r["task"], note) for r in rows for note in (r.get("notes") or "").splitlines())
    several = len({r["task"] for r in rows}) > 1
    return [f"{task}: {note}" if several else note for task, note in notes]


def give_or_take(row: TableRow, name: str) -> str:
    """A share in percent with half its interval, ``71.8 ±2.1``; no number is "none"."""
    if row[name] is None:
        return "none"
    below, above = row[name] - row[f"{name}_low"], row[f"{name}_high"] - row[name]
    if abs(above - below) > _LOPSIDED * (above + below):
        return measured(row, name, percent=True)
    return f"{100 * row[name]:.1f} ±{50 * (below + above):.1f}"
