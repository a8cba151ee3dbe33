"""What a score counts, in words and class by class: which rows, at which class shares, and what was left out."""

import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from outgrow.errors import counted
from outgrow.report.rows import TableRow, TextTable, measured, with_interval
from outgrow.report.terminal import Column, Line, show_table, show_text
from outgrow.results import Count
from outgrow.tasks import LEFT_OUT

if TYPE_CHECKING:
    import rich.console

__all__ = ["Sheet", "class_sheets", "how_often_scored", "how_scored", "print_scoring"]

_ROLES = {"weak": "supervisor", "student": "student", "ceiling": "ceiling"}
_MOST_ROWS = 20
"""The terminal shows at most so many classes; the page shows all."""
_MOST_SHEETS = 2
"""And the classes of at most so many students."""
_MOST_ACROSS = 6
"""And confusion matrices of at most so many."""


def how_scored(rows: Iterable[TableRow]) -> list[str]:
    """One sentence for each thing to know about how the rows of one panel are scored."""
    said: dict[str, None] = {}
    for row in rows:
        if row["control"]:
            continue
        more = (*_folds(row), *_sealed(row), *_validated(row), *_left_out(row), *_unused(row), *_abstained(row))
        said |= dict.fromkeys([_shares(row), *more])
    return list(said)


def how_often_scored(count: Count) -> str:
    """How often the tests of these results were scored, and what that means for a claim; one line, or none."""
    tests = count.tests
    if not tests:
        return ""
    often = list(dict.fromkeys(f"by {counted(t.methods, 'method')} in {counted(t.runs, 'run')}" for t in tests))
    if len(tests) == 1:
        said = f"the {'sealed ' * (tests[0].sealed == 'opened')}test of {tests[0].task} has been scored {often[0]}"
    elif len(often) == 1:
        said = f"each of the {len(tests)} tests has been scored {often[0]}"
    else:
        each = (f"{t.task} by {counted(t.methods, 'method')} in {counted(t.runs, 'run')}" for t in tests)
        said = f"tests have been scored: {', '.join(each)}"
    if any(t.sealed == "held back" for t in tests):
        said += "; `outgrow open METHOD` scores the sealed one"
    elif any(t.methods > 1 and not t.sealed for t in tests):
        said += "; an honest claim needs a sealed one (--sealed)"
    return said + ("" if count.is_written else "; the store cannot be written, so this run is not counted")


def _shares(row: TableRow) -> str:
    if row["student_accuracy"] is None:
        same = row["agreement_all"]
        also = "" if same is None else f", which agree with the weak labels on {100 * same:.1f} % of the rows"
        kept = "students are trained, and outgrow.predictions(key) gives their labels"
        return f"nothing is scored, for {row['gain_undefined']}: {kept}{also}"
    test = counted(row["num_test_per_seed"], "test row")
    if row["num_classes"] is None:
        return f"scored on {test} by exact match"
    if row["scored_at"] == "balanced":
        return f"scored on {test} with exactly balanced classes, as a research task is"
    found = _classes(row)
    shares = [f"{name} {100 * n / row['num_test']:.1f} %" for name, n in found] if len(found) <= 10 else []
    shown = f" ({', '.join(shares)})" if shares else ""
    missing = [repr(name) for name, n in found if not n]
    none = f"; no test row is of class {', '.join(missing[:5])}" if missing else ""
    return f"scored on {test} at natural class shares{shown}{none}"


def _classes(row: TableRow) -> list[tuple[str, int]]:
    """Each class with its test rows over all seeds."""
    found = json.loads(row["per_class"]) if row["per_class"] else {"classes": [], "rows": []}
    return list(zip(found["classes"], found["rows"], strict=True))


def _folds(row: TableRow) -> list[str]:
    if row["folds"] < 2:
        return []
    return [
        f"cross-fitted: {row['folds']} students per seed, and each is asked only about rows that it did not train on"
    ]


def _sealed(row: TableRow) -> list[str]:
    said = {
        "held back": "a second test is sealed; `outgrow open METHOD` with the same options scores it, once",
        "opened": "this is the sealed test, which opens once, for one method named before",
    }
    return [said[found]] if (found := row.get("sealed")) else []


def _validated(row: TableRow) -> list[str]:
    judge = row.get("validate_with")
    return [f"early stopping and settings are chosen by agreement with {judge}, which did not teach"] if judge else []


def _left_out(row: TableRow) -> list[str]:
    """How many rows were used and left out, by reason."""
    found = json.loads(row["rows"])
    total = [sum(n[end] for n in found["left_out"].values()) for end in (0, 1)]
    if not total[1]:
        return []
    reasons = [f"{_span(*n)} {LEFT_OUT[reason]}" for reason, n in found["left_out"].items()]
    return [f"{_span(*total)} of {found['task']:,} rows were left out: {'; '.join(reasons)}"]


def _unused(row: TableRow) -> list[str]:
    """A size that was asked for and has no use."""
    asked, there = row.get("supervisor_rows"), json.loads(row["rows"]).get("A")
    if asked is None or there != [0, 0]:
        return []
    return [f"no supervisor is trained, so the {counted(asked, 'supervisor row')} asked for are not used"]


def _span(fewest: int, most: int) -> str:
    return f"{most:,}" if fewest == most else f"{fewest:,} to {most:,}"


def _abstained(row: TableRow) -> list[str]:
    found = json.loads(row["per_class"] or "{}").get("abstained")
    if not found:
        return []
    rows, accuracy = counted(found["rows"], "gold row"), _percent(found["student"]["accuracy"])
    return [f"{rows} without a weak label are in no other score; there the student's accuracy is {accuracy} %"]


class Sheet(NamedTuple):
    """One student, class by class."""

    title: str
    balanced: str
    """Balanced accuracy of each role, as a sentence."""
    classes: TextTable
    """Rows, recall and precision of each class."""
    confusions: list[tuple[str, TextTable]]
    """For each role, rows of each class (down) by predicted class (across), over all seeds."""


def class_sheets(rows: Iterable[TableRow]) -> list[Sheet]:
    """A sheet for every student that is scored at natural class shares; controls have none."""
    return [_sheet(r) for r in rows if r["scored_at"] == "natural" and r["per_class"] and not r["control"]]


def _sheet(row: TableRow) -> Sheet:
    found = json.loads(row["per_class"])
    names: list[str] = found["classes"]
    roles = {role: shown for role, shown in _ROLES.items() if role in found}
    heads = [("class", False), ("rows, all seeds", True), ("by", False), ("recall, %", True), ("precision, %", True)]
    lines = [
        [
            *((name, f"{found['rows'][c]:,}") if shown == next(iter(roles.values())) else ("", "")),
            shown,
            *(_percent(found[role][what][c]) for what in ("recall", "precision")),
        ]
        for c, name in enumerate(names)
        for role, shown in roles.items()
    ]
    balanced = [f"{shown} {measured(row, f'{role}_balanced_accuracy', percent=True)}" for role, shown in roles.items()]
    if row["balanced_gain"] is not None:
        balanced.append(f"gain {measured(row, 'balanced_gain', percent=True)} points")
    return Sheet(
        title=f"{row['supervisor']} → {row['student']}, {row['method']}",
        balanced=f"balanced accuracy (mean recall of the classes), %: {', '.join(balanced)}",
        classes=TextTable(heads, lines),
        confusions=[(shown, _matrix(names, found[role]["confusion"])) for role, shown in roles.items()],
    )


def _percent(value: Sequence[float | None]) -> str:
    middle, low, high = value
    return "–" if middle is None else with_interval(middle, low, high, ".1f", 100)


def _matrix(names: Sequence[str], counts: Sequence[Sequence[int]]) -> TextTable:
    heads = [("gold", False), *((f"said {name}", True) for name in names)]
    return TextTable(heads, [[name, *(f"{n:,}" for n in row)] for name, row in zip(names, counts, strict=True)])


def print_scoring(rows: Sequence[TableRow], console: "rich.console.Console") -> None:
    """How the rows of one panel are scored and, at natural class shares, the scores of each class."""
    for sentence in how_scored(rows):
        show_text(console, sentence, "dim", hanging=2)
    sheets = class_sheets(rows)
    for sheet in sheets:
        show_text(console, f"{sheet.title}: {sheet.balanced}", hanging=2)
        num_classes = len(sheet.confusions[0][1].rows)
        if num_classes > _MOST_ROWS or len(sheets) > _MOST_SHEETS:
            show_text(console, f"the page has the scores of its {num_classes} classes", "dim", hanging=2)
            continue
        _print(sheet.classes, console)
        for shown, matrix in sheet.confusions if num_classes <= _MOST_ACROSS else ():
            _print(TextTable([(f"{shown}: gold", False), *matrix.heads[1:]], matrix.rows), console)


def _print(table: TextTable, console: "rich.console.Console") -> None:
    columns = [Column(head, number=is_number) for head, is_number in table.heads]
    show_table(console, columns, [Line(row) for row in table.rows])
