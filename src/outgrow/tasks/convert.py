"""Examples out of the rows of a public data set: the paper's conversions, grouping, official splits, in one place.

A set's own formatter says what a row is; everything that can leak or tilt a result is done here, for all sets alike.
"""

import hashlib
import heapq
import inspect
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from outgrow.data import Examples, Input
from outgrow.errors import UserError
from outgrow.runtime import Runtime
from outgrow.tasks.grouping import group_names, near_duplicates, within_limit
from outgrow.tasks.hub import Empty, HubRow, HubSet, identity, place_of, read
from outgrow.tasks.registry import task

__all__ = [
    "Formatter",
    "Item",
    "LabelledText",
    "Pair",
    "Question",
    "Skipped",
    "check_options",
    "drawn",
    "examples_of",
    "from_hub",
    "near_copies",
    "same",
    "splits_of",
]


class LabelledText(NamedTuple):
    """A text and its class."""

    text: str
    gold: int
    keys: tuple[str, ...] = ()
    """What the row shares with others: rows with a key in common are of one group. Without any, its own text."""
    question: str = ""
    """Where rows are answers to a question: as many right as wrong ones are kept of each question."""
    meta: Mapping[str, float | str] = {}


class Question(NamedTuple):
    """A question with one right answer among several; a candidate's text is ``head + option + tail``."""

    head: str
    options: tuple[str, ...]
    right: int
    keys: tuple[str, ...]
    tail: str = ""
    giveaway: str | None = None
    """An option whose words alone tell that it is wrong, once questions where it is right are left out."""
    meta: Mapping[str, float | str] = {}


class Pair(NamedTuple):
    """Two texts of which one is the better; which comes first is drawn, since the file's order is the answer."""

    better: str
    worse: str
    keys: tuple[str, ...]
    meta: Mapping[str, float | str] = {}


class Skipped(NamedTuple):
    """A row that is left out, and why; counted and told."""

    why: str


class Item(NamedTuple):
    """What a formatter made of a record."""

    split: str
    number: int
    what: LabelledText | Question | Pair


Formatter = Callable[[HubRow], LabelledText | Question | Pair | Skipped]
_PAIR_CLASSES = ("wrong", "right")
_FORMS, _MODES = ("pair", "choice"), ("pooled", "official")


def same(text: str) -> str:
    """``text`` but for case and white space: what rows are compared by."""
    return " ".join(text.lower().split())


def drawn(seed: int, *parts: str) -> int:
    """A number in [0, 2**64) from a seed and words alone, whatever else is drawn and in whichever order."""
    return int.from_bytes(hashlib.blake2b("\x1f".join((str(seed), *parts)).encode(), digest_size=8).digest(), "big")


def near_copies(items: list[Item]) -> list[Item]:
    """Items whose first keys (or texts) are nearly the same words share one more key; for ``finish``."""
    keys = [item.what.keys or ((item.what.text,) if isinstance(item.what, LabelledText) else ()) for item in items]
    different = list(dict.fromkeys(k[0] for k in keys))
    further: defaultdict[str, tuple[str, ...]] = defaultdict(tuple)
    for one, other in near_duplicates(different).tolist():
        for number in (one, other):
            further[different[number]] += (f"nearly {one}",)
    return [
        item._replace(what=item.what._replace(keys=(*k, *further[k[0]]))) for item, k in zip(items, keys, strict=True)
    ]


# --- registering ------------------------------------------------------------------------------------------------------

_MEANINGS = {
    "form": "``pair``: one right and one wrong answer of each question, a text each (the paper's way); ``choice``: all "
    "answers of a question as candidates, the class is the place of the right one.",
    "hard_test": "the adversarially filtered test file in place of the ordinary one.",
    "split_mode": "``pooled``: all labelled splits together, split by group; ``official``: the test is the set's own, "
    "training rows whose group occurs there are left out.",
    "limit": "at most so many rows, whole groups drawn by hash; None for all.",
    "seed": "of what is drawn within a question: which wrong answer, which order.",
    "data_dir": "a folder that holds the set in the hub's schema (a folder of its name with a file for each split, "
    "such as ``train.parquet``); else ``OUTGROW_DATA_DIR``, else the hub.",
    "repo": "another place on the hub, of those an error message names.",
    "revision": "another commit of it, 40 hexadecimal digits.",
}


def from_hub(
    source: HubSet,
    *,
    about: str,
    traps: str = "",
    classes: tuple[str, ...] = _PAIR_CLASSES,
    rows: int | None = None,
    choices: int = 0,
    per_question: bool = False,
    finish: Callable[[list[Item]], list[Item]] | None = None,
    sampled: Callable[[HubRow], str] | None = None,
    limit: int | None = None,
    hard_test: bool = False,
    version: int = 1,
) -> Callable[[Formatter], Formatter]:
    """Register the decorated formatter as a task.

    Args:
        source: the set.
        about: as for :func:`outgrow.tasks.registry.task`.
        traps: as there.
        classes: as there; for ``form='choice'`` they are letters.
        rows: as there.
        choices: candidates of a question; 0 where the set has no form ``choice``.
        per_question: whether rows carry the question that they answer.
        finish: sees all items in the order of the files; gives keys or classes that no row alone can tell.
        sampled: what a row of a very large set is drawn by, so that ``limit`` holds while reading.
        limit: its default.
        hard_test: whether the set has a second, harder test split called ``test_hard``.
        version: as there.
    """
    defaults: dict[str, tuple[Any, Any]] = {}
    if choices:
        defaults["form"] = (str, "pair")
    if hard_test:
        defaults["hard_test"] = (bool, False)
    defaults |= {"split_mode": (str, "pooled"), "limit": (int | None, limit)}
    if choices or per_question:
        defaults["seed"] = (int, 0)
    defaults |= dict.fromkeys(("data_dir", "repo", "revision"), (str | None, None))

    def register(formatter: Formatter) -> Formatter:
        def loaded(*, runtime: Runtime, **options: Any) -> Examples:
            check_options(source, options)
            splits = splits_of(source, options)
            records = read(source, splits, options, runtime)
            return examples_of(source, formatter, finish, sampled, records, classes, choices, options, runtime)

        loaded.__doc__ = "\n".join([about, "", "Args:", *(f"    {o}: {_MEANINGS[o]}" for o in defaults)])
        loaded.__annotations__ = {o: hint for o, (hint, _) in defaults.items()} | {"runtime": Runtime}
        keyword = inspect.Parameter.KEYWORD_ONLY
        loaded.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [inspect.Parameter(o, keyword, default=default) for o, (_, default) in defaults.items()]
            + [inspect.Parameter("runtime", keyword)]
        )
        task(
            name=source.name,
            classes=classes,
            rows=rows,
            content=lambda options: identity(source, splits_of(source, options), options),
            where=lambda options: place_of(source),
            licence=source.licence,
            source=f"{source.places[0].repo} on the Hugging Face hub, or a folder of yours (data_dir)",
            about=about,
            traps=traps,
            version=version,
        )(loaded)
        return formatter

    return register


def check_options(source: HubSet, options: Mapping[str, Any]) -> None:
    """Refuse a form, a split mode or a limit that cannot be.

    Raises:
        UserError: naming what can.
    """
    for option, known in (("form", _FORMS), ("split_mode", _MODES)):
        if options.get(option, known[0]) not in known:
            raise UserError(f"{source.name}: {option}={options[option]!r} must be {' or '.join(map(repr, known))}")
    if options["limit"] is not None and options["limit"] < 1:
        raise UserError(f"{source.name}: limit={options['limit']} must be at least 1; leave it out for all rows")


def splits_of(source: HubSet, options: Mapping[str, Any]) -> tuple[str, ...]:
    """The splits to read, the test last."""
    test = "test_hard" if options.get("hard_test") else source.test
    if options["split_mode"] == "official":
        return source.train, test
    others = tuple(s for s in source.rows if s not in ("test_hard", source.test))
    return *others, test


# --- making examples --------------------------------------------------------------------------------------------------


class _Made(NamedTuple):
    """A row of the examples to be."""

    id: str
    input: Input
    gold: int
    item: int
    """Number of the item it was made of."""


def examples_of(
    source: HubSet,
    formatter: Formatter,
    finish: Callable[[list[Item]], list[Item]] | None,
    sampled: Callable[[HubRow], str] | None,
    records: Callable[[], Iterator[HubRow]],
    classes: tuple[str, ...],
    choices: int,
    options: Mapping[str, Any],
    runtime: Runtime,
) -> Examples:
    """All examples of a set; the arguments are those of :func:`from_hub`, and ``options`` what its task was given.

    Raises:
        UserError: if nothing is left, or an official split is not there.
    """
    left: Counter[str] = Counter()
    rows: Iterable[HubRow] = records()
    limit = options["limit"]
    if sampled is not None and limit is not None:
        rows = _few(rows, sampled, limit)
    items = []
    for record in rows:
        try:
            what = formatter(record)
        except Empty as empty:
            what = Skipped(f"without {empty}")
        if isinstance(what, Skipped):
            left[what.why] += 1
        else:
            items.append(Item(record.split, record.number, what))
    items = finish(items) if finish is not None else items
    test = splits_of(source, options)[-1] if options["split_mode"] == "official" else None
    items = _once(items, test, left)
    groups = _groups(source.name, items)
    if test is not None:
        items, groups = _apart(source, items, groups, test, left)
    is_choice = options.get("form") == "choice"
    seed = options.get("seed", 0)
    made = list(_made(source.name, items, seed, choices if is_choice else 0, left))
    made = _limited(made, groups, limit)
    if left:
        told = ", ".join(f"{count:,} ({why})" for why, count in left.items())
        runtime.say(f"{source.name}: left out: {told}")
    if not made:
        raise UserError(f"{source.name}: no row is left to learn from; give more data, or another form or limit")
    of = [m.item for m in made]
    meta: dict[str, Any] = {"official": _texts([items[i].split for i in of])}
    if test is not None:
        meta["split"] = _texts(["T" if items[i].split == test else "AB"[drawn(0, groups[i]) % 2] for i in of])
    for column in items[0].what.meta:
        values = [items[i].what.meta[column] for i in of]
        meta[column] = _texts(values) if isinstance(values[0], str) else np.array(values, dtype=np.float64)
    return Examples(
        ids=_texts([m.id for m in made]),
        inputs=tuple(m.input for m in made),
        gold=np.array([m.gold for m in made], dtype=np.int64),
        classes=tuple("ABCDEFGH"[:choices]) if is_choice else classes,
        groups=_texts([groups[i] for i in of]),
        meta=meta,
    )


def _texts(values: Sequence[Any]) -> Any:
    return np.array(values, dtype=np.str_)


def _few(rows: Iterable[HubRow], key: Callable[[HubRow], str], limit: int) -> Iterator[HubRow]:
    """Those ``limit`` rows whose keys hash lowest, in the order of the file; the rest is never kept."""
    numbered = ((drawn(0, same(key(row))), n, row) for n, row in enumerate(rows))
    for _, _, row in sorted(heapq.nsmallest(limit, numbered, key=lambda r: r[:2]), key=lambda r: r[1]):
        yield row


def _once(items: list[Item], test: str | None, left: Counter[str]) -> list[Item]:
    """Each item once: repeated in both parts of an official split, the test keeps it."""
    seen: set[Any] = set()
    kept = []
    for number in sorted(range(len(items)), key=lambda n: items[n].split != test):
        match items[number].what:
            case LabelledText() as row:
                content: Any = (row.text, row.gold)
            case Pair() as versus:
                content = (versus.better, versus.worse)
            case Question() as asked:
                content = (asked.head, asked.tail, frozenset(asked.options), asked.options[asked.right])
        if content in seen:
            left["repeated"] += 1
        else:
            seen.add(content)
            kept.append(number)
    return [items[n] for n in sorted(kept)]


def _groups(name: str, items: list[Item]) -> list[str]:
    """For each item the first one that it is tied to by a shared key, as text."""
    first: dict[str, int] = {}
    pairs = [
        (first.setdefault(same(key), number), number)
        for number, item in enumerate(items)
        for key in item.what.keys or ((item.what.text,) if isinstance(item.what, LabelledText) else ())
    ]
    ids = _texts([f"{name}-{item.split}-{item.number}" for item in items])
    return [str(g) for g in group_names(ids, (), np.array(pairs, dtype=np.int64).reshape(-1, 2))] if items else []


def _apart(
    source: HubSet, items: list[Item], groups: list[str], test: str, left: Counter[str]
) -> tuple[list[Item], list[str]]:
    """Without the training rows of groups that occur in the test."""
    there = {item.split for item in items}
    if lacking := [split for split in (source.train, test) if split not in there]:
        raise UserError(
            f"{source.name}: split_mode='official' needs the splits {source.train} and {test}, and there are no rows "
            f"of {' or '.join(lacking)}; take split_mode='pooled'"
        )
    in_test = {group for item, group in zip(items, groups, strict=True) if item.split == test}
    keep = [n for n, item in enumerate(items) if item.split == test or groups[n] not in in_test]
    if len(keep) < len(items):
        left["their group is in the test"] += len(items) - len(keep)
    return [items[n] for n in keep], [groups[n] for n in keep]


def _made(name: str, items: list[Item], seed: int, choices: int, left: Counter[str]) -> Iterator[_Made]:
    surplus = _surplus(items, seed)
    for number, item in enumerate(items):
        id = f"{name}-{item.split}-{item.number}"
        match item.what:
            case LabelledText() as row:
                if number in surplus:
                    left["more answers of one class to a question than of the other"] += 1
                else:
                    yield _Made(id, row.text, row.gold, number)
            case Pair() as versus:
                yield _versus(id, versus, number, seed, bool(choices))
            case Question() as asked:
                yield from _asked(id, asked, number, seed, choices, left)


def _surplus(items: list[Item], seed: int) -> set[int]:
    """Numbers of the rows to leave out, so that each question has as many right as wrong answers."""
    answers: defaultdict[str, tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
    for number, item in enumerate(items):
        if isinstance(item.what, LabelledText) and item.what.question:
            answers[item.what.question][item.what.gold].append(number)
    surplus = set()
    for question, both in answers.items():
        keep, number = min(map(len, both)), drawn(seed, question)
        for numbers in both:
            numbers.sort(key=lambda n: drawn(number, items[n].what.text))  # type: ignore[union-attr]
            surplus.update(numbers[keep:])
    return surplus


def _versus(id: str, versus: Pair, number: int, seed: int, is_choice: bool) -> _Made:
    flipped = drawn(seed, versus.better, versus.worse) % 2
    first, second = (versus.worse, versus.better) if flipped else (versus.better, versus.worse)
    if is_choice:
        return _Made(id, (first, second), flipped, number)
    return _Made(id, f"First: {first}\nSecond: {second}", 1 - flipped, number)


def _asked(id: str, asked: Question, number: int, seed: int, choices: int, left: Counter[str]) -> Iterator[_Made]:
    right = asked.options[asked.right]
    never = {"", same(right), same(asked.giveaway or "")}
    wrong: dict[str, int] = {}
    for place, option in enumerate(asked.options):
        if same(option) not in never:
            wrong.setdefault(same(option), place)
    if asked.giveaway is not None and same(right) == same(asked.giveaway):
        left[f"the right answer is {asked.giveaway!r}"] += 1
        return
    if not same(right):
        left["the right answer is empty"] += 1
        return
    # Sorted first: the same question with its options in another order draws the same.
    question = drawn(seed, asked.head, asked.tail)
    order = sorted(wrong, key=lambda text: (drawn(question, text), text))
    if len(order) < max(1, choices - 1):
        left["too few different answers"] += 1
        return
    if not choices:
        pair = [(asked.right, 1), (wrong[order[0]], 0)]
        # Not the option's own number: where the right one is always the first, that would be the class.
        for n, (place, gold) in enumerate(pair[:: 1 - 2 * (drawn(question, "order") % 2)]):
            yield _Made(f"{id}-{n}", f"{asked.head}{asked.options[place]}{asked.tail}", gold, number)
        return
    candidates = [asked.right, *(wrong[text] for text in order[: choices - 1])]
    # The right place is drawn anew: in some sets it is always the first, in others some places are favoured.
    shift = drawn(question, "place", right) % choices
    candidates = candidates[-shift:] + candidates[:-shift]
    texts = tuple(f"{asked.head}{asked.options[place]}{asked.tail}" for place in candidates)
    yield _Made(id, texts, shift, number)


def _limited(made: list[_Made], groups: list[str], limit: int | None) -> list[_Made]:
    """Whole groups in the order of their hashes, each that still fits."""
    if limit is None or len(made) <= limit:
        return made
    chosen = within_limit((groups[m.item] for m in made), limit, lambda g: (drawn(0, "limit", g), g))
    return [m for m in made if groups[m.item] in chosen]
