"""The results as one self-contained HTML page with its pictures beside it, and as a table in the terminal."""

import base64
import hashlib
import json
import os
import statistics
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from outgrow import plots
from outgrow.errors import UserError
from outgrow.plots import Row, measured, tidy
from outgrow.runtime import cache_folder
from outgrow.tasks import small_test_warning

if TYPE_CHECKING:
    import polars as pl
    import rich.console

__all__ = ["headline", "print_table", "write_report"]

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
    page = folder / "index.html"
    inputs = _fingerprint(table, title, provenance)
    if _is_current(page, inputs):
        return page
    folder.mkdir(parents=True, exist_ok=True)
    page.unlink(missing_ok=True)  # written last: the sign that all files are this table's
    figures = {}
    for name, chart in plots.figures(table).items():
        spec, svg, png = plots.render(chart)
        (folder / f"{name}.svg").write_text(svg, encoding="utf-8")
        (folder / f"{name}.png").write_bytes(png)
        figures[name] = _figure(name, spec, svg)
    table.write_csv(folder / "results.csv")
    _replace(page, _page(tidy(table), figures, title, provenance, inputs))
    return page


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


def _findings(rows: Sequence[Row]) -> list[str]:
    students = [r for r in rows if not r["control"]]
    if not students:
        return ["Only controls were run."]
    num = len(students)
    above = sum(r["gain_low"] > 0 for r in students)
    below = sum(r["gain_high"] < 0 for r in students)
    defined = [r["pgr"] for r in students if r["pgr"] is not None]
    said = [f"In {above} of {_count(num, 'comparison')} the student is credibly more accurate than its supervisor."]
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
        said.append(f"Not clearly above the controls: {flagged} of {_count(num, 'student')}.")
    return said


def _not_above(row: Row, rows: Sequence[Row]) -> list[str]:
    """The controls of a student whose intervals reach its own: it may be no better than they are."""
    if row["control"]:
        return []
    rivals = [r for r in rows if r["control"] and all(r[k] == row[k] for k in ("panel", "weak", "strong"))]
    reached = [r["method"] for r in rivals if r["student_accuracy_high"] >= row["student_accuracy_low"]]
    return reached + ["majority class"] * (row["majority"] >= row["student_accuracy_low"])


def _warnings(rows: Sequence[Row]) -> list[str]:
    sizes = sorted({r["num_test_per_seed"] for r in rows})
    found = [warning for n in sizes if (warning := small_test_warning(n))]
    if any(r["num_seeds"] == 1 for r in rows):
        found.append("some results rest on a single seed, so their intervals leave out how much seeds differ")
    if not any(r["control"] for r in rows):
        found.append("no controls were run; students are only compared with the majority class")
    return found


def _count(num: int, what: str) -> str:
    return f"{num} {what}" if num == 1 else f"{num} {what}s"


def _plain(value: float) -> str:
    return f"{value:.2f}".replace("-", "−")


def _give_or_take(row: Row, name: str) -> str:
    if row[name] is None:
        return "none"
    return f"{100 * row[name]:.1f} ±{50 * (row[f'{name}_high'] - row[f'{name}_low']):.1f}"


def _controls_last(rows: Iterable[Row]) -> list[Row]:
    return sorted(rows, key=lambda r: r["control"])


# ---- the page


def _page(
    rows: Sequence[Row], figures: Mapping[str, str], title: str, provenance: Mapping[str, Any], inputs: str
) -> str:
    script = _javascript() + _START
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:"
    warnings = "".join(f"<li>{escape(w)}</li>" for w in _warnings(rows))
    controls = _controls_table(rows) if any(r["control"] for r in rows) else "<p>No controls were run.</p>"
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="outgrow-inputs" content="{inputs}">
<title>{escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>{escape(title)}</h1>
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
{_what_ran(rows, provenance)}
<h2>Run it again</h2>
{_rerun(provenance)}
<script>{script}</script>
</body>
</html>
"""


def _figure(name: str, spec: dict[str, Any], svg: str) -> str:
    """The static picture, which stays where scripts are off, and the chart that takes its place."""
    spec.pop("$schema")
    text = json.dumps(spec).replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
    picture = base64.b64encode(svg.encode()).decode()
    heading = escape(spec["title"]["text"])
    links = " ".join(f'<a href="{name}.{kind}">{kind.upper()}</a>' for kind in ("svg", "png"))
    return f"""<figure>
<div class="chart"><img alt="{heading}" src="data:image/svg+xml;base64,{picture}"></div>
<script type="application/json">{text}</script>
<figcaption>{links}</figcaption>
</figure>"""


def _students_table(rows: Sequence[Row]) -> str:
    """One table per panel, with the reasons of undefined PGRs and the flags of the controls as footnotes."""
    students = [r for r in rows if not r["control"]]
    reasons = list(dict.fromkeys(r["pgr_undefined"] for r in students if r["pgr"] is None))
    blocks = []
    for panel in dict.fromkeys(r["panel"] for r in students):
        body = "".join(_student_line(r, rows, reasons) for r in students if r["panel"] == panel)
        blocks.append(_html_table(panel, _HEADS, body))
    notes = [f"<li>PGR undefined: {escape(reason)}.</li>" for reason in reasons]
    listed = f'<ol class="note">{"".join(notes)}</ol>' if notes else ""
    bold = "Bold gains have an interval that leaves out zero. "
    flag = "⚑ marks a student that is not clearly above all its controls: the intervals reach each other."
    return "".join(blocks) + listed + f'<p class="note">{bold}{flag}</p>'


def _student_line(row: Row, rows: Sequence[Row], reasons: Sequence[str]) -> str:
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


def _controls_table(rows: Sequence[Row]) -> str:
    blocks = []
    controls = [r for r in rows if r["control"]]
    for panel in dict.fromkeys(r["panel"] for r in controls):
        own = [r for r in controls if r["panel"] == panel]
        body = "".join(_line(r, [_accuracy(r, "student"), f"{100 * r['majority']:.1f}"]) for r in own)
        blocks.append(
            _html_table(panel, ("Supervisor", "Student", "Control", "Accuracy, %", "Majority class, %"), body)
        )
    return "".join(blocks)


def _line(row: Row, cells: Sequence[str], flag: str = "") -> str:
    """A table row: the names, told in full when pointed at, then the cells, which are HTML."""
    pairs = (("weak", "supervisor"), ("strong", "student"), ("strategy", "method"))
    names = "".join(f'<td title="{escape(row[full])}">{escape(row[short])}</td>' for full, short in pairs)
    names = names.removesuffix("</td>") + flag + "</td>"
    numbers = "".join(f'<td class="number">{cell}</td>' for cell in cells)
    return f"<tr>{names}{numbers}</tr>\n"


def _accuracy(row: Row, role: str) -> str:
    name = f"{role}_accuracy"
    return "none" if row[name] is None else escape(measured(row, name, percent=True))


def _html_table(caption: str, heads: Sequence[str], body: str) -> str:
    head = "".join(f"<th>{h}</th>" for h in heads)
    return (
        f'<div class="scroll"><table><caption>{escape(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table></div>\n"
    )


def _what_ran(rows: Sequence[Row], provenance: Mapping[str, Any]) -> str:
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


def _rerun(provenance: Mapping[str, Any]) -> str:
    blocks = []
    if command := provenance.get("command"):
        blocks.append(f"<pre>{escape(command)}</pre>")
    if config := provenance.get("config"):
        blocks.append(f"<p>The same as YAML:</p><pre>{escape(config)}</pre>")
    return "\n".join(blocks) or "<p>The command was not recorded.</p>"


# ---- files


def _fingerprint(table: "pl.DataFrame", title: str, provenance: Mapping[str, Any]) -> str:
    """Changes if and only if the page would: results, what made them, and the code that draws it."""
    kept = {k: v for k, v in provenance.items() if k not in _OF_THE_RUN}
    inputs = json.dumps([title, kept, sorted(json.dumps(r, default=str) for r in table.to_dicts())], default=str)
    code = [Path(module).read_bytes() for module in (__file__, plots.__file__)]
    return hashlib.sha256(b"\0".join([inputs.encode(), *code])).hexdigest()


def _is_current(page: Path, inputs: str) -> bool:
    if not page.is_file():
        return False
    with page.open(encoding="utf-8") as file:
        return f'<meta name="outgrow-inputs" content="{inputs}">' in file.read(4096)


def _replace(path: Path, text: str) -> None:
    """Write all or nothing."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def _javascript() -> str:
    """Vega, Vega-Lite and Vega-Embed in one script. Bundling takes seconds, so the bundle is kept in the cache."""
    import vl_convert

    path = cache_folder() / "javascript" / f"vega-{version('vl-convert-python')}.js"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        bundle = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
        _replace(path, bundle.replace("</script", "<\\/script"))
    return path.read_text(encoding="utf-8")


_START = """
for (const spec of document.querySelectorAll('script[type="application/json"]')) {
  const chart = document.createElement("div");
  const place = spec.previousElementSibling;
  // ast: expressions are interpreted, not compiled, so that the page's security policy needs no eval.
  vegaEmbed(chart, JSON.parse(spec.textContent), {mode: "vega-lite", ast: true, renderer: "svg", actions: false})
    .then(() => place.replaceChildren(chart));
}
"""

_STYLE = """
:root { color-scheme: light dark; --text: #1d2329; --soft: #59636e; --line: #d5dae0; --back: #fff; --box: #f5f7f9;
  --link: #0b5cad; --warn: #fff4d6; }
@media (prefers-color-scheme: dark) { :root { --text: #e4e8ec; --soft: #a2acb6; --line: #3c444d; --back: #15191e;
  --box: #20262d; --link: #79b8ff; --warn: #43370f; } }
body { font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; color: var(--text);
  background: var(--back); max-width: 1080px; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
h1 { font-size: 1.8rem; line-height: 1.25; margin: 0 0 .75rem; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 2.75rem 0 .75rem; }
a { color: var(--link); }
p, dl, .note { max-width: 75ch; }
.headline { font-size: 1.15rem; }
.warnings { background: var(--warn); border-radius: 6px; padding: .7rem 1rem .7rem 2.2rem; }
.note, figcaption { color: var(--soft); font-size: .875rem; }
figure { margin: 1.5rem 0; }
figcaption a { margin-right: .5rem; }
.chart { overflow-x: auto; background: #fff; border: 1px solid var(--line); border-radius: 6px; }
.chart img, .chart svg { display: block; max-width: none; }
.scroll { overflow-x: auto; margin: 0 0 1rem; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--soft); padding: .25rem 0; }
th, td { text-align: left; padding: .38rem .8rem .38rem 0; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { font-weight: 600; vertical-align: bottom; white-space: normal; line-height: 1.3; }
th:nth-child(n+4), .number { text-align: right; }
th:last-child, td:last-child { padding-right: 0; }
td[title] { white-space: normal; overflow-wrap: anywhere; min-width: 5.5rem; }
abbr { cursor: help; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .3rem 1.25rem; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
pre { background: var(--box); border: 1px solid var(--line); border-radius: 6px; padding: .8rem 1rem; overflow-x: auto;
  font-size: .85rem; }
@media print { :root { --text: #000; --soft: #444; --line: #bbb; --back: #fff; --box: #fff; --warn: #fff;
  --link: #000; }
  body { max-width: none; padding: 0; font-size: 11pt; } figure, tr, pre { break-inside: avoid; }
  h2 { break-after: avoid; } pre { white-space: pre-wrap; } .chart svg, .chart img { max-width: 100%; height: auto; } }
"""
