"""Sparse evidence: a weak judge sees k words of a text, k sentences, or k cells of an image; who picks them differs.

The judge is a linear head on the mean of what it sees: the mean of the units' vectors from a frozen model, each read by
itself (words by default, of GloVe), or the gray values of an image with all but k cells blank (Irving et al. 2018,
arXiv 1805.00899, section 3). Its log odds are then a sum over the units shown, so that the best move of an agent that
knows the judge is exact: the units with the most extreme scores.

A is dealt into three shares of equal size: one teaches the frozen judge on whole inputs, one the agents, and on one the
protocol is played, and the trained judge is taught by what came of it. No row serves twice.
"""

import functools
import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from outgrow import steps
from outgrow.data import Examples, Features, Floats, Ids, Ints, Labels, Split, positions
from outgrow.engine.graph import Step, step
from outgrow.errors import UserError
from outgrow.labels import MeanVote
from outgrow.models.glove import words_of
from outgrow.models.images import Pixels
from outgrow.protocols.base import LABELLED, Dealt, deal
from outgrow.registry import OneOf, Range
from outgrow.runtime import Runtime
from outgrow.supervisors import Supervisor, SupervisorSetup, supervisor

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

__all__ = ["Consultancy", "Debate", "RandomEvidence", "Settings", "assign_sides", "distinct_units", "play", "show"]

_SHARES = ("judge", "agents", "played")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n+")
SIDES = {
    "honest": "the class that the consultant's own model believes in",
    "lying": "the class that it finds second best",
    "coin": "either of them, by a fair coin for each row",
}
"""What a consultant argues for. Gold plays no part."""


@dataclass(frozen=True, kw_only=True)
class Settings(Supervisor):
    """What the judge is and how much it sees."""

    k: Annotated[int | None, Range(1)] = 2
    """How many units the judge sees of each row; None shows all. A row with fewer shows what it has."""
    unit: Annotated[str, OneOf("word", "sentence", "cell")] = "word"
    """What is shown: words or sentences of a text, or cells of an image."""
    judge: str | None = None
    """The judge's model. By default ``glove``, and ``pixels`` for cells."""
    grid: Annotated[int, Range(2, 64)] = 7
    """For cells: an image has so many in each direction; the side of ``pixels`` is a multiple of it."""
    trained: bool = True
    """Judge by a head taught by what the protocol shows; False for one that was only ever taught by whole inputs."""

    def _sight(self, dealt: Dealt) -> "_Sight":
        name = self.judge or ("pixels" if self.unit == "cell" else "glove")
        learner = dealt.learner(name)
        reader = learner.model.reader
        if self.unit == "cell" and not (isinstance(reader, Pixels) and reader.size % self.grid == 0):
            raise UserError(
                f"a judge of {self.grid} x {self.grid} cells reads gray values, as many in each cell, and {name} does "
                f"not; take judge='pixels(size={4 * self.grid})'"
            )
        texts = dealt.setup.student.texts
        if self.unit != "cell":
            learner = replace(learner, texts=Step(distinct_units, texts=texts, unit=self.unit))
        features, view = learner.features
        seen = {"texts": texts, "features": features, "view": view, "unit": self.unit, "grid": self.grid}
        return _Sight(dealt, seen, dealt.head(Step(show, **seen), "judge"))

    def _labels(self, sight: "_Sight", play_on: Any) -> Step:
        """Labels from what is shown, by ``play_on(parts)``; None where the whole input is."""
        shown = Step(show, **sight.seen, shown=play_on(LABELLED))
        return sight.dealt.heard(self._judge(sight, play_on), shown)

    def _judge(self, sight: "_Sight", play_on: Any) -> Step:
        if not self.trained:
            return sight.frozen
        return sight.dealt.head(Step(show, **sight.seen, shown=play_on(("played",))), "played")


class _Sight(NamedTuple):
    """How the judge sees."""

    dealt: Dealt
    seen: dict[str, Any]
    """What :func:`show` and :func:`play` need to know of it."""
    frozen: Step
    """The judge taught by whole inputs."""


@supervisor("random-evidence")
class RandomEvidence(Settings):
    """A weak judge sees k words drawn at random, or the mean of its verdicts on several draws."""

    version = 1
    source = "Irving et al. 2018 (arXiv 1805.00899), control"
    cost = "features of each distinct word; two heads"

    masks: Annotated[int, Range(1, 256)] = 1
    """Mean probabilities over so many draws: the judge's own ensemble, which is asked so many times. What it sees in
    all is up to ``masks`` times k."""

    def __call__(self, setup: SupervisorSetup) -> Step:
        sight = self._sight(deal(setup, *_SHARES))
        if self.k is None:
            return self._labels(sight, lambda parts: None)

        def drawn(number: int) -> Any:
            given = {"split": sight.dealt.split, "k": self.k, "agents": 0, "seed": setup.seed, "draw": number}
            return lambda parts: Step(play, **sight.seen, parts=parts, **given)

        judge = self._judge(sight, drawn(0))
        shown = (Step(show, **sight.seen, shown=drawn(number)(LABELLED)) for number in range(self.masks))
        said = tuple(sight.dealt.heard(judge, features) for features in shown)
        return Step(steps.combine, labels=said, model=MeanVote()) if len(said) > 1 else said[0]


@dataclass(frozen=True, kw_only=True)
class _Argued(Settings):
    agents: str | None = None
    """The model from whose features the agents' beliefs come, taught on rows of their own; by default the student's.
    """
    strength: Annotated[int | None, Range(1, 1024)] = None
    """How well agents play: the best of so many random moves. By default the exact best move; 1 is random evidence."""

    def __post_init__(self) -> None:
        if self.k is None:
            raise UserError("agents choose what the judge sees, so k is a number; random-evidence(k=None) shows all")

    def _played(self, setup: SupervisorSetup, agents: int, side: str, side_when_taught: str) -> Step:
        sight = self._sight(dealt := deal(setup, *_SHARES))
        learner = dealt.learner(self.agents)
        knows = dealt.taught(learner, "agents")
        given = {"split": dealt.split, "k": self.k, "agents": agents, "judge": sight.frozen, "moves": self.strength}

        def played(parts: tuple[str, ...]) -> Step:
            believed = learner.predict(knows, dealt.split, parts)
            argued = side if parts == LABELLED else side_when_taught
            sides = Step(assign_sides, beliefs=believed, side=argued, seed=setup.seed)
            return Step(play, **sight.seen, parts=parts, sides=sides, seed=setup.seed, **given)

        return self._labels(sight, played)


@supervisor("debate")
class Debate(_Argued):
    """Two debaters show a weak judge k/2 words each; they argue for the two classes likeliest to a strong model.

    Sides are assigned: with two classes, one debater argues for each, whatever the agents believe. Both know the frozen
    judge, and play against it; nobody shows a word twice.
    """

    version = 1
    source = "Irving et al. 2018 (arXiv 1805.00899); Kenton et al. 2024 (arXiv 2407.04622)"
    cost = "features of each distinct word and of all texts; three heads"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.k is not None and self.k % 2:
            raise UserError(f"each of the two debaters shows k/2 units, so k is even; take debate(k={self.k + 1})")

    def __call__(self, setup: SupervisorSetup) -> Step:
        return self._played(setup, agents=2, side="honest", side_when_taught="honest")


@supervisor("consultancy")
class Consultancy(_Argued):
    """One consultant shows a weak judge k words for its side: what its own model believes, the opposite, or by coin."""

    version = 1
    source = "Michael et al. 2023 (arXiv 2311.08702); Kenton et al. 2024 (arXiv 2407.04622)"
    cost = "features of each distinct word and of all texts; three heads"

    side: Annotated[str, OneOf(*SIDES)] = "coin"
    """One of ``SIDES``."""
    taught: Annotated[str | None, OneOf(*SIDES, None)] = None
    """The side argued for where the judge is taught; by default the same. ``consultancy(side='lying',
    taught='honest')`` betrays the trust of a judge that met honest consultants only."""

    def __call__(self, setup: SupervisorSetup) -> Step:
        return self._played(setup, agents=1, side=self.side, side_when_taught=self.taught or self.side)


# --- their steps ------------------------------------------------------------------------------------------------------


def _cut(text: str, unit: str) -> list[str]:
    """The units of a text, in order."""
    return words_of(text) if unit == "word" else [s for part in _SENTENCE_END.split(text) if (s := part.strip())]


def _all_units(texts: Examples, unit: str) -> list[list[str]]:
    if texts.form != "text":
        raise UserError(
            f"a judge of {unit}s reads one text for each row, and the task's rows are {texts.form}s; take "
            + ("unit='cell'" if texts.form == "image" else "a task of single texts")
        )
    return [_cut(text, unit) for text in texts.texts]


@step(version=1, said="cut texts")
def distinct_units(texts: Examples, unit: str) -> Examples:
    """Every distinct word or sentence of all texts as a row of its own, sorted."""
    names = sorted({name for row in _all_units(texts, unit) for name in row})
    ids = _unit_ids(len(names))
    return Examples(ids=ids, inputs=tuple(names), gold=None, classes=texts.classes, groups=ids)


def _unit_ids(count: int) -> Ids:
    return np.array([f"unit-{i}" for i in range(count)], dtype=np.str_)


def _of_rows(ids: Ids, *said: int | str) -> NDArray[np.uint64]:
    """(n,) 64 random bits for each id."""
    text = " ".join(map(str, said))
    hashed = b"".join(hashlib.sha256(f"{text} {name}".encode()).digest()[:8] for name in ids.tolist())
    return np.frombuffer(hashed, dtype="<u8").astype(np.uint64)


def _uniform(bits: NDArray[np.uint64]) -> Floats:
    """Numbers in [0, 1) from 64 bits each, mixed as SplitMix64 does (Steele, Lea and Flood 2014)."""
    z = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray((z ^ (z >> np.uint64(31))) >> np.uint64(11), dtype=np.float64) * 2.0**-53


class _Units(NamedTuple):
    """The units of n rows, U in all, one after the other; V vectors of d numbers, which units share."""

    ids: Ids
    row: Ints
    """(U,) The row of each unit."""
    first: Ints
    """(n + 1,) Where the units of each row begin."""
    kind: Ints
    """(U,) The vector of each unit."""
    vectors: "csr_matrix"
    """(V, d)"""

    def mean(self, units: Ints, row: Ints, n: int) -> Floats:
        """(n, d) The mean vector of some units for each of n rows, zeros where there is none. ``row`` is like
        ``units``; the order of the units plays no part, to the last bit."""
        from scipy.sparse import csr_matrix

        chosen = csr_matrix((np.ones(len(units)), (row, self.kind[units])), shape=(n, self.vectors.shape[0]))
        total = (chosen @ self.vectors).toarray()
        return np.asarray(total / np.maximum(np.bincount(row, minlength=n), 1)[:, None], dtype=np.float32)

    def scores(self, judge: Any) -> Floats:
        """(V, C) What each vector adds to the judge's logits, times the number of units shown."""
        weight = judge.weight.astype(np.float64) / judge.scale.astype(np.float64)[:, None]
        return np.asarray(self.vectors @ weight)


@functools.lru_cache(maxsize=2)
def _units(texts: Examples, features: Features, view: str, unit: str, grid: int) -> _Units:
    """The units of all rows. Kept while the very same objects are asked about, as they are a hundred times in a run."""
    matrix = features.views[view]
    if unit == "cell":
        return _cells(texts.ids, matrix[positions(texts.ids, features.ids)], grid)
    from scipy.sparse import csr_matrix

    cut = _all_units(texts, unit)
    names = sorted({name for row in cut for name in row})
    number = dict(zip(names, positions(_unit_ids(len(names)), features.ids).tolist(), strict=True))
    readable = np.asarray(matrix.any(axis=1))
    kinds = [[k for name in row if readable[k := number[name]]] for row in cut]
    counts = [len(k) for k in kinds]
    kind = np.array([k for row in kinds for k in row], dtype=np.int64)
    return _ragged(texts.ids, counts, kind, csr_matrix(matrix, dtype=np.float64))


def _cells(ids: Ids, gray: Floats, grid: int) -> _Units:
    """The cells of images (n, size * size), times their number, so that the mean of all cells is the image."""
    from scipy.sparse import csr_matrix

    n, pixels = gray.shape
    size = math.isqrt(pixels)
    place = np.arange(size) * grid // size
    order = np.argsort((place[:, None] * grid + place).ravel(), kind="stable")
    cells, inside = grid * grid, pixels // (grid * grid)
    data = gray[:, order].ravel().astype(np.float64) * cells
    shape = (n * cells, pixels)
    vectors = csr_matrix((data, np.tile(order, n), np.arange(n * cells + 1) * inside), shape=shape)
    return _ragged(ids, [cells] * n, np.arange(n * cells), vectors)


def _ragged(ids: Ids, counts: Sequence[int], kind: Ints, vectors: "csr_matrix") -> _Units:
    first = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
    return _Units(ids, np.repeat(np.arange(len(ids)), counts), first, kind, vectors)


class _Draws:
    """Random numbers for units, each from its row's id, its place in the row, and how often it was asked for one."""

    def __init__(self, units: _Units, seed: int, draw: int) -> None:
        place = np.arange(len(units.row)) - units.first[units.row]
        self._next = _of_rows(units.ids, seed, draw)[units.row] + place.astype(np.uint64) * _PLACE

    def next(self) -> Floats:
        """(U,) Numbers in [0, 1)."""
        self._next = self._next + _STEP
        return _uniform(self._next)


_STEP, _PLACE = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD1B54A32D192ED03)
"""Odd numbers far from each other's multiples, so that no two units and draws share a place in the sequence."""


@step(version=1, said="assign sides")
def assign_sides(beliefs: Labels, side: str, seed: int) -> Mapping[str, NDArray[Any]]:
    """What is argued for in each row: ``claim`` (n,), by the first agent, and ``rival`` (n,), by the second, or by
    nobody: the two classes that a strong model finds likeliest, in this order for ``honest``, swapped for ``lying``."""
    order = np.argsort(-beliefs.probs, axis=1, kind="stable")
    toss = np.asarray(_uniform(_of_rows(beliefs.ids, seed, "side")) < 0.5)
    swapped = {"honest": np.zeros_like(toss), "lying": np.ones_like(toss), "coin": toss}[side]
    claim, rival = (np.where(swapped, order[:, 1 - i], order[:, i]) for i in (0, 1))
    return {"ids": beliefs.ids, "claim": claim, "rival": rival}


@step(version=1, said="show evidence")
def show(
    texts: Examples,
    features: Features,
    view: str,
    unit: str,
    grid: int,
    runtime: Runtime,
    shown: Mapping[str, NDArray[Any]] | None = None,
) -> Features:
    """What the judge sees: the mean of the units in ``shown``, or of all units of every row; view ``mean``.

    ``shown`` has ``ids`` (n,) and ``places`` (n, k) among the row's readable units, -1 for none. Units whose vector is
    zero are not readable, such as a word that GloVe does not know.
    """
    units = _units(texts, features, view, unit, grid)
    if shown is None:
        if none := int((np.diff(units.first) == 0).sum()):
            runtime.say(
                f"note: {none} of {len(texts)} rows have no {unit} that the judge can read; it sees zeros there"
            )
        matrix = units.mean(np.arange(len(units.row)), units.row, len(texts))
        return Features(ids=texts.ids, views={"mean": matrix})
    ids, places = shown["ids"], shown["places"]
    row, column = np.nonzero(places >= 0)
    chosen = units.first[positions(ids, texts.ids)[row]] + places[row, column]
    return Features(ids=ids, views={"mean": units.mean(chosen, row, len(ids))})


@step(version=1, said="argue")
def play(
    texts: Examples,
    features: Features,
    view: str,
    unit: str,
    grid: int,
    split: Split,
    parts: tuple[str, ...],
    k: int,
    agents: int,
    seed: int,
    draw: int = 0,
    sides: Mapping[str, NDArray[Any]] | None = None,
    judge: Any = None,
    moves: int | None = None,
) -> Mapping[str, NDArray[Any]]:
    """Which units are shown in some parts: ``ids`` (n,) and ``places`` (n, k) among the row's readable units, in their
    order, -1 for none.

    Draws depend on a row's id, the seed and the number of the ``draw`` alone: not on the split or on other rows.
    ``agents`` is 0 for k units at random, 1 for a consultant, 2 for a debate. An agent is paid the judge's logit of its
    class less that of the other side's, a sum over units. ``moves`` is None for exact play, else the number of random
    moves of which an agent takes the best. Draws do not depend on the split.
    """
    units = _units(texts, features, view, unit, grid)
    if agents and (sides is None or judge is None):
        raise ValueError("agents need sides and a judge")
    draws = _Draws(units, seed, draw)
    chosen = np.zeros(len(units.row), dtype=np.bool_)
    if not agents:
        chosen = _least(units, draws.next(), ~chosen, k)
    else:
        assert sides is not None
        pay = _pay(units, sides, units.scores(judge))
        for sign in (1, -1)[:agents]:
            chosen |= _move(units, sign * pay, ~chosen, k // agents, moves, draws)
    ids = split.ids(parts)
    return {"ids": ids, "places": _places(units, chosen, k)[positions(ids, texts.ids)]}


def _pay(units: _Units, sides: Mapping[str, NDArray[Any]], scores: Floats) -> Floats:
    """(U,) What each unit adds to the first agent's pay; 0 in rows without sides."""
    classes = np.zeros((2, len(units.ids)), dtype=np.int64)
    classes[:, positions(sides["ids"], units.ids)] = sides["claim"], sides["rival"]
    claim, rival = classes[:, units.row]
    return np.asarray(scores[units.kind, claim] - scores[units.kind, rival])


def _move(
    units: _Units, pay: Floats, allowed: NDArray[np.bool_], m: int, moves: int | None, draws: "_Draws"
) -> NDArray[np.bool_]:
    """(U,) The m units of each row that an agent shows of the ``allowed``."""
    if moves is None:
        return _least(units, -pay, allowed, m)
    best = np.full(len(units.ids), -np.inf)
    chosen = np.zeros(len(pay), dtype=np.bool_)
    for _ in range(moves):
        tried = _least(units, draws.next(), allowed, m)
        paid = np.bincount(units.row[tried], weights=pay[tried], minlength=len(best))
        better = paid > best
        chosen = np.where(better[units.row], tried, chosen)
        best = np.where(better, paid, best)
    return chosen


def _least(units: _Units, value: Floats, allowed: NDArray[np.bool_], m: int) -> NDArray[np.bool_]:
    """(U,) The m allowed units of each row with the least values; of equal ones the first."""
    order = np.lexsort((value, ~allowed, units.row))
    chosen = np.zeros(len(value), dtype=np.bool_)
    chosen[order] = np.arange(len(value)) - units.first[units.row] < m
    return chosen & allowed


def _places(units: _Units, chosen: NDArray[np.bool_], k: int) -> Ints:
    """(n, k) The places of the chosen units within their rows, then -1."""
    unit = np.flatnonzero(chosen)
    row = units.row[unit]
    places = np.full((len(units.ids), k), -1, dtype=np.int64)
    begins = np.searchsorted(row, np.arange(len(units.ids)))
    places[row, np.arange(len(row)) - begins[row]] = unit - units.first[row]
    return places
