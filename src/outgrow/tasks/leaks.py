"""Leaks and giveaways of a task: what occurs in two parts of a split, and what predicts the class without the question.

Every figure comes with what chance would give and a 95 % interval over groups. A leak makes students look better than
they are. A giveaway is a shortcut: supervisor and student can share it without knowing the answer.
"""

import re
from collections.abc import Sequence
from itertools import takewhile
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from outgrow.data import Examples, Floats, Ids, Ints, Split
from outgrow.errors import UserError
from outgrow.metrics import Interval, Means, Outcomes
from outgrow.tasks.grouping import near_duplicates
from outgrow.tasks.splits import Sizes, split_examples

__all__ = ["Finding", "scan"]

Verdict = Literal["clean", "slight", "FOUND", "does not apply"]
_MAX_ROWS = 10_000
_FOLDS = 5
_SLIGHT = 0.05
"""A probe is slight if its interval begins below a twentieth of the way from chance to 1: real data is never quite
even, and one interval in forty lies above chance by chance."""
_RARE = 0.01
"""Copies are slight below this share of the test rows."""
_UNEVEN = 0.001
"""Below this p-value the places of right candidates are not drawn at random."""


class Finding(NamedTuple):
    """The result of one check."""

    check: str
    figure: Interval | None
    """None if the check does not apply."""
    chance: float
    """What the figure is if all is well."""
    verdict: Verdict
    about: str
    """What the figure is, in a few words; or why the check does not apply."""


def scan(data: Examples, split: Split | None = None, seed: int = 0, balance: bool = True) -> list[Finding]:
    """Run every check of the list in the docs, on at most 10,000 rows (whole groups, drawn at random).

    Args:
        data: a task's pool with gold.
        split: the split to check; by default the one that an experiment with this seed makes.
        balance: whether that experiment balances the classes.
        seed: of the split, the draw of rows and the order of shuffled answers.

    Raises:
        UserError: if fewer than two classes have gold, or the pool cannot be split.
    """
    assert data.gold is not None, "a scan needs gold"
    if len(np.unique(data.gold[data.gold >= 0])) < 2:
        raise UserError("a scan needs gold of at least two classes; add labels, or scan another task")
    split = split or split_examples(data, Sizes(balance=balance), seed)
    kept = _sampled(data, data.gold >= 0, seed)
    return [*_across_parts(data, split, seed), *_answers(kept, seed), *_surface(kept), _places(kept)]


# --- what occurs in two parts -----------------------------------------------------------------------------------------


def _across_parts(data: Examples, split: Split, seed: int) -> list[Finding]:
    parts = [split.ids([p for p in (name, f"{name}_val") if p in split.parts]) for name in "ABT"]
    everything = np.concatenate(parts)
    part = dict(zip(everything.tolist(), np.repeat(np.arange(3), [len(p) for p in parts]).tolist(), strict=True))
    used = data.take(everything)
    rows = _sampled(used, np.ones(len(used), dtype=np.bool_), seed)
    of = np.array([part[i] for i in rows.ids.tolist()], dtype=np.int64)
    texts = _comparable(rows)
    _, same = np.unique(texts, return_inverse=True)
    nothing = np.empty((0, 2), dtype=np.int64)
    found = [_torn(used, part), *_copies("exact copies", rows, of, same, nothing)]
    if rows.form == "image":
        return [*found, _does_not_apply("near-copies", "images are compared bit by bit only")]
    return [*found, *_copies("near-copies", rows, of, same, near_duplicates(texts))]


def _torn(data: Examples, part: dict[str, int]) -> Finding:
    homes: dict[str, set[int]] = {}
    for id, group in zip(data.ids.tolist(), data.groups.tolist(), strict=True):
        homes.setdefault(group, set()).add(part[id])
    torn = sum(len(home) > 1 for home in homes.values())
    share = Interval(*[torn / len(homes)] * 3)
    about = f"{torn} of {len(homes)} groups lie in two of A, B and T"
    return Finding("torn groups", share, 0.0, "FOUND" if torn else "clean", about)


def _copies(check: str, rows: Examples, part: Ints, same: Ints, pairs: Ints) -> list[Finding]:
    """Shares of the rows of T, and of B, that occur again in a part trained on before: with an equal ``same`` (n,), or
    in one of the pairs (p, 2)."""
    found = []
    for name, own, others in (("T", 2, (0, 1)), ("B", 1, (0,))):
        copied = np.isin(same, same[np.isin(part, others)])
        for a, b in (pairs.T, pairs.T[::-1]):
            copied[a[(part[a] == own) & np.isin(part[b], others)]] = True
        mine = part == own
        share = _mean(rows.groups[mine], copied[mine].astype(np.float64))
        verdict: Verdict = "clean" if share.value == 0 else "slight" if share.value < _RARE else "FOUND"
        where = "A or B" if name == "T" else "A"
        about = f"{int(copied[mine].sum())} of {int(mine.sum())} rows of {name} are also in {where}"
        found.append(Finding(f"{check}, {name}", share, 0.0, verdict, about))
    return found


def _comparable(rows: Examples) -> list[str]:
    """One text for each row, equal for equal rows: candidates in any order, images as their bytes."""
    if rows.form == "image":
        return [i.hex() for i in rows.inputs if isinstance(i, bytes)]
    texts = ("\n".join(sorted(i)) if isinstance(i, tuple) else str(i) for i in rows.inputs)
    return [" ".join(text.lower().split()) for text in texts]


# --- what predicts the class without the question ---------------------------------------------------------------------


class _Asked(NamedTuple):
    """Texts taken apart: the words that a row shares with other answers to its question, and its own."""

    prompts: list[str]
    answers: list[str]
    rows: Ints


def _answers(data: Examples, seed: int) -> list[Finding]:
    names = ("answer alone", "question with another's answer")
    if data.form == "image":
        return [_does_not_apply(name, "images have no words") for name in names]
    if data.form == "choice":
        return _choice_answers(data, names)
    asked = _taken_apart(data)
    if 2 * len(asked.rows) < len(data):
        return [_does_not_apply(name, "rows are single texts, not answers to a question") for name in names]
    rows = data.take(data.ids[asked.rows])
    order = np.random.default_rng(seed).permutation(len(asked.rows))
    strangers = [f"{prompt} {asked.answers[o]}" for prompt, o in zip(asked.prompts, order, strict=True)]
    said = "balanced accuracy of a bag of words"
    return [
        _told(names[0], _probe(_bag(asked.answers), rows), rows, f"{said} of what differs within a question"),
        _told(names[1], _probe(_bag(strangers), rows), rows, said),
    ]


def _choice_answers(data: Examples, names: Sequence[str]) -> list[Finding]:
    choices = [own for own in data.inputs if isinstance(own, tuple)]
    words = [[_words(candidate) for candidate in own] for own in choices]
    shared = [min(_num_shared(own[0], other) for other in own[1:]) for own in words]
    heads = ["".join(own[0][:length]) for own, length in zip(words, shared, strict=True)]
    tails = ["".join(candidate[length:]) for own, length in zip(words, shared, strict=True) for candidate in own]
    alone = _pick(_bag(tails), data)
    prompts = _probe(_bag(heads), data)
    return [
        _told(names[0], alone, data, "accuracy of a bag of words of the candidates, without the words they share"),
        _told(names[1], prompts, data, "balanced accuracy for the right place, from the shared words alone"),
    ]


def _taken_apart(data: Examples) -> _Asked:
    """Rows that share their beginning with another row of their group, in groups that hold several classes.

    Sorted by text, the row with the longest common beginning stands next to a row.
    """
    assert data.gold is not None
    order = np.lexsort([np.array(data.inputs, dtype=object).astype(np.str_), data.groups])
    words = [_words(str(data.inputs[row])) for row in order]
    shared = [0] * (len(order) + 1)
    for i in range(1, len(order)):
        if data.groups[order[i]] == data.groups[order[i - 1]]:
            shared[i] = _num_shared(words[i - 1], words[i])
    groups, number = np.unique(data.groups, return_inverse=True)
    classes = [set(data.gold[number == g].tolist()) for g in range(len(groups))] if len(groups) < len(data) else []
    prompts, answers, rows = [], [], []
    for i, row in enumerate(order.tolist()):
        length = max(shared[i], shared[i + 1])
        if length and classes and len(classes[number[row]]) > 1:
            prompts.append("".join(words[i][:length]))
            answers.append("".join(words[i][length:]))
            rows.append(row)
    return _Asked(prompts, answers, np.array(rows, dtype=np.int64))


def _words(text: str) -> list[str]:
    return re.findall(r"\S+\s*", text)


def _num_shared(one: list[str], other: list[str]) -> int:
    """How many words the common beginning of two texts has."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def _surface(data: Examples) -> list[Finding]:
    """Length, place in the pool, and id."""
    tree = "balanced accuracy of a decision tree"
    place, by_id, classes = np.arange(len(data)), np.argsort(np.argsort(data.ids)), data.num_classes
    last = np.array(
        [int(numbers[-1][-9:]) if (numbers := re.findall(r"\d+", name)) else -1 for name in data.ids.tolist()]
    )
    unseen = f"{tree}; no model sees it"
    found = [_length(data, tree)]
    for name, columns, about in (
        ("place in the pool", [place], f"{unseen}, but then the first rows are no fair sample"),
        ("id", [by_id, last], unseen),
    ):
        each = [part for column in columns for part in (column, column % 2, column % classes)]
        found.append(_told(name, _probe(np.stack(each, axis=1).astype(np.float64), data), data, about))
    return found


def _length(data: Examples, tree: str) -> Finding:
    if data.form != "choice":
        sizes = [[len(i), len(i.split())] for i in data.inputs if not isinstance(i, tuple)]
        return _told("length", _probe(np.array(sizes, dtype=np.float64), data), data, f"{tree} on characters and words")
    choices = [own for own in data.inputs if isinstance(own, tuple)]
    chars = np.array([[len(c) for c in own] for own in choices], dtype=np.float64)
    words = np.array([[len(c.split()) for c in own] for own in choices], dtype=np.float64)
    columns = [a - a.mean(axis=1, keepdims=True) for a in (chars, words)]
    ranks = [a.argsort(axis=1).argsort(axis=1) for a in (chars, words)]
    features = np.stack([*columns, *ranks], axis=2).reshape(-1, 4)
    return _told("length", _pick(features, data), data, "accuracy of a decision tree on the lengths of the candidates")


def _places(data: Examples) -> Finding:
    from scipy.stats import chisquare

    assert data.gold is not None
    name = "place of the right candidate"
    if data.form != "choice":
        return _does_not_apply(name, "rows are no choices")
    counts = np.bincount(data.gold, minlength=data.num_classes)
    p = float(chisquare(counts).pvalue)
    most = int(counts.argmax())
    share = _mean(data.groups, (data.gold == most).astype(np.float64))
    about = f"share of the most frequent place, {data.classes[most]}; chi-square p = {p:.2g}"
    return Finding(name, share, 1 / data.num_classes, "FOUND" if p < _UNEVEN else "clean", about)


# --- probes -----------------------------------------------------------------------------------------------------------


def _bag(texts: Sequence[str]) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer

    words = TfidfVectorizer(min_df=2, sublinear_tf=True, token_pattern=r"\S+")
    return words.fit_transform([text or "(nothing)" for text in texts] + ["(nothing)"] * 2)[: len(texts)]


def _folds(data: Examples) -> list[tuple[Ints, Ints]]:
    from sklearn.model_selection import GroupKFold

    folds = GroupKFold(min(_FOLDS, len(np.unique(data.groups))), shuffle=True, random_state=0)
    return list(folds.split(data.gold, groups=data.groups))


def _model(features: Any) -> Any:
    """A linear probe for words, a tree for the few columns that may matter in any way."""
    from sklearn.linear_model import RidgeClassifier
    from sklearn.tree import DecisionTreeClassifier

    if not isinstance(features, np.ndarray):
        return RidgeClassifier(class_weight="balanced")
    return DecisionTreeClassifier(max_leaf_nodes=64, min_samples_leaf=10, class_weight="balanced", random_state=0)


def _probe(features: Any, data: Examples) -> Interval:
    """Cross-validated balanced accuracy of the class from the features (n, d), no group on both sides of a fold."""
    from threadpoolctl import threadpool_limits

    assert data.gold is not None
    predicted = np.full(len(data), -1)
    with threadpool_limits(limits=1):
        for train, test in _folds(data):
            if len(np.unique(data.gold[train])) > 1:
                predicted[test] = _model(features).fit(features[train], data.gold[train]).predict(features[test])
    return _balanced(predicted, data)


def _pick(features: Any, data: Examples) -> Interval:
    """Cross-validated accuracy of the candidate with the highest score, from features (n * C, d) of each."""
    from threadpoolctl import threadpool_limits

    assert data.gold is not None
    num_classes = data.num_classes
    is_right = (np.arange(num_classes) == data.gold[:, None]).ravel()
    places = np.arange(len(data) * num_classes).reshape(len(data), num_classes)
    predicted = np.full(len(data), -1)
    # Candidates that look the same are told apart by a coin, not by their order.
    coin = np.random.default_rng(0).random((len(data), num_classes))
    with threadpool_limits(limits=1):
        for train, test in _folds(data):
            model = _model(features).fit(features[places[train].ravel()], is_right[places[train].ravel()])
            rows = features[places[test].ravel()]
            linear = hasattr(model, "decision_function")
            scores = model.decision_function(rows) if linear else model.predict_proba(rows)[:, 1]
            scores = scores.reshape(len(test), num_classes)
            ties = np.where(np.isclose(scores, scores.max(axis=1, keepdims=True)), coin[test], -1)
            predicted[test] = ties.argmax(axis=1)
    return _mean(data.groups, (predicted == data.gold).astype(np.float64))


def _balanced(predicted: Ints, data: Examples) -> Interval:
    """Mean over classes of the share of its rows that are right."""
    assert data.gold is not None
    right = (predicted == data.gold).astype(np.float64)
    values = {str(c): np.where(data.gold == c, right, np.nan) for c in np.unique(data.gold).tolist()}
    return Means([Outcomes(groups=data.groups, values=values)]).rate(*values)


def _mean(groups: Ids, values: Floats) -> Interval:
    if not len(values):
        return Interval(0.0, 0.0, 1.0)
    return Means([Outcomes(groups=groups, values={"": values})]).rate("")


def _told(check: str, figure: Interval, data: Examples, about: str) -> Finding:
    assert data.gold is not None
    chance = 1 / len(np.unique(data.gold))
    verdict: Verdict = "clean"
    if figure.low > chance:
        verdict = "slight" if figure.low < chance + _SLIGHT * (1 - chance) else "FOUND"
    return Finding(check, figure, chance, verdict, about)


def _does_not_apply(check: str, why: str) -> Finding:
    return Finding(check, None, 0.0, "does not apply", why)


def _sampled(data: Examples, wanted: npt.NDArray[np.bool_], seed: int) -> Examples:
    """The wanted rows, in their order; if there are too many, whole groups drawn at random."""
    rows = np.flatnonzero(wanted)
    if len(rows) > _MAX_ROWS:
        _, number, sizes = np.unique(data.groups[rows], return_inverse=True, return_counts=True)
        order = np.random.default_rng(seed).permutation(len(sizes))
        rows = rows[np.isin(number, order[np.cumsum(sizes[order]) <= _MAX_ROWS])]
    return data.take(data.ids[rows])
