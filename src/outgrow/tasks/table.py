"""The user's own table as a task: read row by row, checked row by row."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from outgrow.archives import known_sha256
from outgrow.data import Examples
from outgrow.errors import UserError, nearest
from outgrow.tasks.columns import NO_GOLD, Columns, Problems, class_name, code_of
from outgrow.tasks.readers import ENDINGS, NoColumn, Row, existing_file, format_of, no_column, read_rows, shown
from outgrow.tasks.registry import task

__all__ = ["table"]


def _content(options: Mapping[str, Any]) -> str:
    file = existing_file(options["path"])
    return f"{format_of(file)}:{known_sha256(file)}"


@task(
    name="table",
    content=_content,
    licence="yours",
    source=f"a file of yours: {ENDINGS}",
    about="Your own texts and classes.",
    version=2,
    natural=True,
)
def table(
    *,
    path: str,
    text: str = "text",
    label: str | None = "label",
    weak: str | None = None,
    second: str | None = None,
    id: str | None = None,
    group: str | None = None,
    split: str | None = None,
    classes: tuple[str | int | bool, ...] | None = None,
    abstain: tuple[str | int | float, ...] | str | int | float | None = None,
    weak_class: str | int | bool | None = None,
    delimiter: str | None = None,
    encoding: str = "utf-8",
    quotes: bool = True,
) -> Examples:
    """Examples from the user's own file. Memory grows with the columns named here, not with the file.

    Args:
        path: the file; its ending says the format.
        text: column of the texts. Numbers in a CSV are texts as well.
        label: column of the gold classes: text, whole numbers (``1.0`` is ``1``) or true/false. None, or a name that no
            column resembles, if there is no gold at all; ``weak`` and ``classes`` are then needed. Empty if gold is
            unknown; such a row can only go to part B.
        weak: column of your own weak labels, empty where there is none: class names, or for two classes the
            probability of one of them. Kept as meta columns ``weak.0``, ``weak.1`` ... (NaN where empty). The column
            holds probabilities if ``weak_class`` is given, or if at least as many of its values are numbers that are no
            class as are classes that are no probability; otherwise it holds class names. A note says which.
        second: column of further weak labels, made apart from ``weak``, for ``validate_with='second'``; read like it.
        id: column of unique ids; without it rows are ``row-1``, ``row-2`` ... by their place in the file.
        group: column of what rows belong to (question, document, author); a split keeps a group together. Without it
            rows with the same text, ignoring case and white space, are a group. Name the ``id`` column to make every
            row its own group.
        split: column that fixes each row's part: A (or train, supervisor, supervision), B (transfer, student) or
            T (test), in any case. Kept as meta column ``split``.
        classes: class names in the order you want; without it those found, sorted (numbers by value). A label that is
            none of them but differs only in case, spaces, Unicode form or leading zeros is read as that class.
        abstain: what stands for "no label" in the label and weak columns, such as 'N/A' or -1.
        weak_class: the class whose probability the weak column holds; by default the class 1 or true, else the
            second.
        delimiter: of a CSV; by default a comma, and a tab for ``.tsv``.
        encoding: of a text format; a byte-order mark is skipped.
        quotes: whether double quotes hold a CSV or TSV field together; False reads them as text.

    Raises:
        UserError: one line with the file, line, column and how to mend it.
    """
    file = existing_file(path)
    if second is not None and second == weak:
        raise UserError(f"{second!r} is the column of weak labels that teach; name another with second='...'")
    names = {"text": text, "label": label, "weak": weak, "second": second, "id": id, "group": group, "split": split}
    columns = {role: column for role, column in names.items() if column is not None}
    may_lack = label if weak is not None and classes is not None else None
    problems = Problems(file=file)
    codes = abstain if isinstance(abstain, tuple) else () if abstain is None else (abstain,)
    found = Columns(columns=columns, problems=problems, abstain={code_of(value): 0 for value in codes})
    how = {"delimiter": delimiter, "encoding": encoding, "quotes": quotes, "say": found.notes.append}
    try:
        for row in _rows(file, sorted(set(columns.values())), may_lack, how, problems):
            found.add(row)
    except NoColumn as error:
        if error.column == label and not error.nearest:
            raise UserError(f"{error}; if there is no gold at all, give {NO_GOLD}") from None
        raise
    return found.examples(classes, None if weak_class is None else class_name(weak_class))


# --- reading ----------------------------------------------------------------------------------------------------------


def _rows(
    file: Path,
    wanted: Sequence[str],
    may_lack: str | None,
    how: Mapping[str, Any],
    problems: Problems,
) -> Iterator[Row]:
    """The wanted columns of each row, except one that may be missing if no other resembles it. An object of JSON may
    lack some, but not every one of them."""
    kind = format_of(file)
    seen: dict[str, None] = {}

    def chosen(there: Sequence[str]) -> Sequence[str]:
        if kind in ("json", "jsonl"):
            if len(seen) < 1000:  # only for naming the nearest column
                seen.update(dict.fromkeys(there))
            seen.update(dict.fromkeys(column for column in wanted if column in there))
        else:
            lacks = may_lack not in there and not nearest(may_lack or "", there)
            needed = [column for column in wanted if not lacks or column != may_lack]
            _check_header(there, needed, how["delimiter"] or ("\t" if kind == "tsv" else ","), file)
            return needed
        return wanted

    yield from read_rows(file, chosen, bad_row=problems.add, **how)
    for column in wanted:
        if seen and column not in seen and (column != may_lack or nearest(column, list(seen))):
            raise no_column(str(file), list(seen), column)


def _check_header(header: Sequence[str], wanted: Sequence[str], delimiter: str, file: Path) -> None:
    for column in wanted:
        if (count := header.count(column)) > 1:
            raise UserError(f"{file}, line 1: the header has {count} columns {column!r}; rename all but one")
        for other in ",;\t|" if not count and len(header) == 1 else "":
            if other != delimiter and other in header[0]:
                what = f"no column {column!r}: the header is the one field {shown(header[0])}"
                raise UserError(f"{file}, line 1: {what}; give delimiter={other!r}")
        if not count:
            raise no_column(str(file), header, column)
