"""Examples from the rows of a public data set: the paper's conversions, grouping and official splits, in one place.

A set's formatter says what a row is. Everything that can leak or tilt a result is done here, for all sets alike.
"""

import hashlib
import heapq
import inspect
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, NamedTuple

import numpy as np

from outgrow.data import Examples, Input
from outgrow.errors import UserError
from outgrow.registry import OneOf
from outgrow.runtime import Runtime
from outgrow.tasks.grouping import group_names, near_duplicates, within_limit
from outgrow.tasks.hub import Empty, HubRow, HubSet, identity, place_of, read
from outgrow.tasks.registry import ASKING, LIMIT, TASKS, Option, Task, TaskFacts, options_of

__all__ = ["HubTask", "Item", "LabeledText", "Pair", "Question", "Skipped", "drawn", "near_copies", "same"]


class LabeledText(NamedTuple):
    """A text and its class."""

    text: str
    gold: int
    keys: tuple[str, ...] = ()
    """What the row shares with others; rows with a key in common form one group. Without any, its own text."""
    question: str = ""
    """The question that the row answers, if it answers one: each question keeps as many right as wrong answers."""
    meta: Mapping[str, float | str] = {}


class Question(NamedTuple):
    """A question with one right answer among several; a candidate's text is ``head + option + tail``."""

    head: str
    options: tuple[str, ...]
    right: int
    keys: tuple[str, ...]
    tail: str = ""
    giveaway: str | None = None
    """An option that is never shown, since its words alone would say that it is wrong. Questions where it is right are
    left out."""
    meta: Mapping[str, float | str] = {}


class Pair(NamedTuple):
    """Two texts of which one is better. Which comes first is drawn, since the file's order is the answer."""

    better: str
    worse: str
    keys: tuple[str, ...]
    meta: Mapping[str, float | str] = {}


class Skipped(NamedTuple):
    """A row that is left out, and why; the user is told how many."""

    why: str


class Item(NamedTuple):
    """What a formatter made of a row."""

    split: str
    number: int
    what: LabeledText | Question | Pair
    group: str = ""

    @property
    def keys(self) -> tuple[str, ...]:
        """What the item shares with others of its group."""
        return self.what.keys or ((self.what.text,) if isinstance(self.what, LabeledText) else ())

    def tied(self, *keys: str) -> "Item":
        """The same item with these keys."""
        return self._replace(what=self.what._replace(keys=keys))


Formatter = Callable[..., LabeledText | Question | Pair | Skipped]
_MODE = Option(
    "pooled",
    Annotated[str, OneOf("pooled", "official")],
    "where the test comes from: pooled (all labeled splits together, split by group) or official (the set's own test; "
    "training rows of a group that occurs there are left out).",
)
_FORM = Option(
    "pair",
    Annotated[str, OneOf("pair", "choice")],
    "what a row is: pair (one right and one wrong answer of each question, a text each, as in the paper) or choice "
    "(all answers of a question as candidates; the class is the place of the right one).",
)
_SEED = Option(0, int, "of what is drawn within a question: which wrong answer, which order.")
_HARD = Option(False, bool, "use the adversarially filtered test file instead of the ordinary one.")
_PLACES = {
    "data_dir": "a folder that holds the set in the hub's schema (a folder of its name with a file for each split, "
    "such as train.parquet); otherwise OUTGROW_DATA_DIR, otherwise the hub.",
    "repo": "another place on the hub, one of those that an error message names.",
    "revision": "another commit of it, 40 hexadecimal digits.",
}


def same(text: str) -> str:
    """``text`` without its case and white space, by which rows are compared."""
    return " ".join(text.lower().split())


def drawn(seed: int, *parts: str) -> int:
    """A number in [0, 2**64) that depends on the seed and the words alone, not on other draws or their order."""
    return int.from_bytes(hashlib.blake2b("\x1f".join((str(seed), *parts)).encode(), digest_size=8).digest(), "big")


def near_copies(items: list[Item]) -> list[Item]:
    """A ``finish``: items whose first keys (or texts) are nearly the same words share one more key."""
    different = list(dict.fromkeys(item.keys[0] for item in items))
    further: defaultdict[str, tuple[str, ...]] = defaultdict(tuple)
    for one, other in near_duplicates(different).tolist():
        for number in (one, other):
            further[different[number]] += (f"nearly {one}",)
    return [item.tied(*item.keys, *further[item.keys[0]]) for item in items]


# --- registering ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class HubTask(HubSet):
    """A public data set as a task: all facts about it. As a decorator it registers the formatter of its rows.

    The formatter takes a :class:`HubRow`. Its further arguments, and those of ``sampled`` and ``finish``, are options
    of the task. Every set has the options ``split_mode``, ``limit``, ``data_dir``, ``repo`` and ``revision``.
    """

    about: str
    traps: str = ""
    kind: str = "classification"
    """``choice`` for a set of :class:`Pair` whose rows are always two candidates."""
    classes: tuple[str, ...] = ("wrong", "right")
    """Class names in order; with ``form='choice'`` they are letters."""
    rows: int | None = None
    """Number of examples with the default options, if known."""
    question: str = ""
    """What a language model is asked, see :class:`outgrow.data.Question`; empty for a plain question."""
    words: tuple[str, ...] = ()
    """A word for each class in that order, as a model would answer; empty for the classes' names."""
    choices: int = 0
    """Candidates of a question; 0 if the set has no form ``choice``."""
    per_question: bool = False
    """Whether rows name the question that they answer."""
    finish: Callable[..., Sequence[Item | Skipped]] | None = None
    """Sees all items in the order of the files; gives keys and classes that no row alone can tell, or skips items."""
    sampled: Callable[..., str | Skipped] | None = None
    """What a row of a very large set is drawn by: ``limit`` then holds while reading."""
    limit: int | None = None
    """The default of the option."""
    subsets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """The values of an option ``subset``, if the set has several parts, and the fields that are different in each."""
    version: int = 1

    def __call__(self, formatter: Formatter) -> Formatter:
        """Register the formatter; returns it unchanged."""
        options: dict[str, Option] = {"split_mode": _MODE, "limit": LIMIT._replace(default=self.limit)}
        if self.choices:
            options["form"] = _FORM
        if self.choices or self.per_question:
            options["seed"] = _SEED
        if "test_hard" in self.splits:
            options["hard_test"] = _HARD
        if self.subsets:
            known = ", ".join(self.subsets)
            hint = Annotated[str, OneOf(*self.subsets)]
            options["subset"] = Option(next(iter(self.subsets)), hint, f"which part of the set: {known}.")
        options |= {name: Option(None, str | None, meaning) for name, meaning in _PLACES.items()}
        code = tuple(fn for fn in (formatter, self.sampled, self.finish) if fn is not None)

        def content(options: Mapping[str, Any]) -> str:
            chosen = self._subset(options)
            return identity(chosen, splits_of(chosen, options), options)

        def loaded(*, runtime: Runtime, **options: Any) -> Examples:
            return _examples(self._subset(options), formatter, options, runtime)

        shared = ("name", "licence", "about", "traps", "kind", "classes", "rows", "question", "words", "version")
        facts = TaskFacts(
            source=f"{self.places[0].repo} on the Hugging Face hub, or a folder of yours (data_dir)",
            content=content,
            where=lambda options: place_of(self._subset(options)),
            **{fact: getattr(self, fact) for fact in shared},
        )
        TASKS.add(self.name, Task(facts, code, loaded, options | options_of(*code, skip=1) | ASKING))
        return formatter

    def _subset(self, options: Mapping[str, Any]) -> "HubTask":
        return replace(self, **self.subsets[options["subset"]]) if self.subsets else self


def splits_of(source: HubSet, options: Mapping[str, Any]) -> tuple[str, ...]:
    """The splits to read, the test last."""
    *others, test = (split for split in source.splits if split != "test_hard")
    test = "test_hard" if options.get("hard_test") else test
    return (others[0], test) if options["split_mode"] == "official" else (*others, test)


# --- making examples --------------------------------------------------------------------------------------------------


class _Made(NamedTuple):
    """A row of the examples to be."""

    id: str
    input: Input
    gold: int


def _examples(source: HubTask, formatter: Formatter, options: Mapping[str, Any], runtime: Runtime) -> Examples:
    left: Counter[str] = Counter()
    items = _items(source, formatter, options, runtime, left)
    test = splits_of(source, options)[-1] if options["split_mode"] == "official" else None
    items = _grouped(source.name, _once(items, test, left))
    if test is not None:
        items = _apart(source, items, test, left)
    is_choice = source.kind == "choice" or options.get("form") == "choice"
    choices = max(2, source.choices) if is_choice else 0
    made = list(_made(source.name, items, options.get("seed", 0), choices, left))
    told = ", ".join(f"{count:,} ({why})" for why, count in left.items())
    if not made:
        raise UserError(f"{source.name}: no row is left to learn from; give more data, or another form")
    rows, of = zip(*made, strict=True)
    meta: dict[str, Any] = {"official": _texts([item.split for item in of])}
    if test is not None:
        meta["split"] = _texts(["T" if item.split == test else "AB"[drawn(0, item.group) % 2] for item in of])
    for column in items[0].what.meta:
        values = [item.what.meta[column] for item in of]
        meta[column] = _texts(values) if isinstance(values[0], str) else np.array(values, dtype=np.float64)
    pool = Examples(
        ids=_texts([row.id for row in rows]),
        inputs=tuple(row.input for row in rows),
        gold=np.array([row.gold for row in rows], dtype=np.int64),
        classes=tuple("ABCDEFGH"[: source.choices]) if is_choice and source.choices else source.classes,
        groups=_texts([item.group for item in of]),
        meta=meta,
        notes=(f"left out: {told}",) if left else (),
    )
    return within_limit(pool, options["limit"], source.name, lambda group: (drawn(0, "limit", group), group))


def _items(
    source: HubTask, formatter: Formatter, options: Mapping[str, Any], runtime: Runtime, left: Counter[str]
) -> list[Item]:
    """What the formatter makes of every row. Rows that are left out are counted in ``left``."""

    def kept(found: Iterable[Any]) -> Iterator[Any]:
        for one in found:
            if isinstance(one, Skipped):
                left[one.why] += 1
            else:
                yield one

    rows: Iterable[HubRow] = read(source, splits_of(source, options), options, runtime)()
    if source.sampled is not None:
        rows = _few(rows, _with_options(source.sampled, options), options["limit"], kept)
    form = _with_options(formatter, options)
    made = ((row, form(row)) for row in rows)
    items = list(kept(w if isinstance(w, Skipped) else Item(row.split, row.number, w) for row, w in made))
    return list(kept(_with_options(source.finish, options)(items))) if items and source.finish else items


def _with_options(fn: Callable[..., Any], options: Mapping[str, Any]) -> Callable[[Any], Any]:
    """``fn`` of one argument, given the options that it names; a row that lacks a text is skipped."""
    own = {name: options[name] for name in inspect.signature(fn).parameters if name in options}

    def called(row: Any) -> Any:
        try:
            return fn(row, **own)
        except Empty as empty:
            return Skipped(f"without {empty}")

    return called


def _few(
    rows: Iterable[HubRow],
    key: Callable[[HubRow], str | Skipped],
    limit: int | None,
    kept: Callable[[Iterable[Any]], Iterator[Any]],
) -> Iterator[HubRow]:
    """The ``limit`` rows whose keys hash lowest, in the order of the file; no other row stays in memory."""
    keyed = ((key(row), number, row) for number, row in enumerate(rows))
    ranked = kept(k if isinstance(k, Skipped) else (drawn(0, same(k)), number, row) for k, number, row in keyed)
    if limit is not None:
        ranked = iter(sorted(heapq.nsmallest(limit, ranked, key=lambda r: r[:2]), key=lambda r: r[1]))
    for _, _, row in ranked:
        yield row


def _texts(values: Sequence[Any]) -> Any:
    return np.array(values, dtype=np.str_)


def _once(items: list[Item], test: str | None, left: Counter[str]) -> list[Item]:
    """Each item once: repeated in both parts of an official split, the test keeps it."""
    seen: set[Any] = set()
    kept = []
    for number in sorted(range(len(items)), key=lambda n: items[n].split != test):
        match items[number].what:
            case LabeledText() as row:
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


def _grouped(name: str, items: list[Item]) -> list[Item]:
    """The items with their groups, each named after the first item that a shared key ties to it."""
    first: dict[str, int] = {}
    pairs = [(first.setdefault(same(key), number), number) for number, item in enumerate(items) for key in item.keys]
    ids = _texts([f"{name}-{item.split}-{item.number}" for item in items])
    groups = group_names(ids, (), np.array(pairs, dtype=np.int64).reshape(-1, 2)).tolist() if items else []
    return [Item(i.split, i.number, i.what, group) for i, group in zip(items, groups, strict=True)]


def _apart(source: HubTask, items: list[Item], test: str, left: Counter[str]) -> list[Item]:
    """Without the training rows of groups that occur in the test."""
    train, there = next(iter(source.splits)), {item.split for item in items}
    if lacking := [split for split in (train, test) if split not in there]:
        raise UserError(
            f"{source.name}: split_mode='official' needs the splits {train} and {test}, and there are no rows "
            f"of {' or '.join(lacking)}; use split_mode='pooled'"
        )
    in_test = {item.group for item in items if item.split == test}
    keep = [item for item in items if item.split == test or item.group not in in_test]
    if len(keep) < len(items):
        left["their group is in the test"] += len(items) - len(keep)
    return keep


def _made(name: str, items: list[Item], seed: int, choices: int, left: Counter[str]) -> Iterator[tuple[_Made, Item]]:
    surplus = _surplus(items, seed)
    for number, item in enumerate(items):
        id = f"{name}-{item.split}-{item.number}"
        match item.what:
            case LabeledText() if number in surplus:
                left["more answers of one class to a question than of the other"] += 1
            case LabeledText() as row:
                yield _Made(id, row.text, row.gold), item
            case Pair() as versus:
                yield _versus(id, versus, seed, bool(choices)), item
            case Question() as asked:
                yield from ((one, item) for one in _asked(id, asked, seed, choices, left))


def _surplus(items: list[Item], seed: int) -> set[int]:
    """Numbers of the rows to leave out, so that each question has as many right as wrong answers."""
    answers: defaultdict[str, tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
    for number, item in enumerate(items):
        if isinstance(item.what, LabeledText) and item.what.question:
            answers[item.what.question][item.what.gold].append(number)
    surplus = set()
    for question, both in answers.items():
        keep, number = min(map(len, both)), drawn(seed, question)
        for numbers in both:
            numbers.sort(key=lambda n: drawn(number, items[n].what.text))  # type: ignore[union-attr]
            surplus.update(numbers[keep:])
    return surplus


def _versus(id: str, versus: Pair, seed: int, is_choice: bool) -> _Made:
    flipped = drawn(seed, versus.better, versus.worse) % 2
    first, second = (versus.worse, versus.better) if flipped else (versus.better, versus.worse)
    if is_choice:
        return _Made(id, (first, second), flipped)
    return _Made(id, f"First: {first}\nSecond: {second}", 1 - flipped)


def _asked(id: str, asked: Question, seed: int, choices: int, left: Counter[str]) -> Iterator[_Made]:
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
            yield _Made(f"{id}-{n}", f"{asked.head}{asked.options[place]}{asked.tail}", gold)
        return
    candidates = [asked.right, *(wrong[text] for text in order[: choices - 1])]
    # The right place is drawn anew: in some sets it is always the first, in others some places are favored.
    shift = drawn(question, "place", right) % choices
    candidates = candidates[-shift:] + candidates[:-shift]
    texts = tuple(f"{asked.head}{asked.options[place]}{asked.tail}" for place in candidates)
    yield _Made(id, texts, shift)
