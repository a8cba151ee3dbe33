"""Sparse evidence: exact play is the minimax of brute force, all words are the whole text, order plays no part."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import MakeExperiment
from outgrow.data import Examples, Features, Labels, Split
from outgrow.engine.runner import StepsFailed
from outgrow.engine.store import Store
from outgrow.errors import UserError
from outgrow.experiment import run_steps, wire
from outgrow.models.glove import words_of
from outgrow.models.probe import FittedProbe
from outgrow.protocols.base import share_out
from outgrow.protocols.evidence import assign_sides, distinct_units, play, show
from outgrow.runtime import Runtime

CPU = Runtime(device="cpu", offline=True, say=lambda line: None)
PARTS = ("B", "T")
WORDS = [f"w{i}" for i in range(12)]
Arrays = Mapping[str, Any]


class World:
    """Texts of up to 9 words, a vector for each word, of which ``w0`` is not known, and a judge of two or three
    classes."""

    def __init__(self, seed: int, rows: int = 12, classes: int = 2, longest: int = 9) -> None:
        rng = np.random.default_rng(seed)
        ids = np.array([f"id-{i}" for i in range(rows)])
        texts = tuple(" ".join(rng.choice(WORDS, size=rng.integers(0, longest + 1))) for _ in ids)
        names = tuple("abc"[:classes])
        self.texts = Examples(ids=ids, inputs=texts, gold=None, classes=names, groups=ids)
        self.split = Split(parts={"B": ids[::2], "T": ids[1::2]})
        units = distinct_units(self.texts, "word")
        matrix = rng.normal(size=(len(units), 3)).astype(np.float32)
        matrix[[text == "w0" for text in units.texts]] = 0
        order = rng.permutation(len(units))  # features may come in any order
        self.features = Features(ids=units.ids[order], views={"mean": matrix[order]})
        self.vectors = dict(zip(units.texts, matrix, strict=True))
        self.judge = FittedProbe(
            view="mean", weight=rng.normal(size=(3, classes)).astype(np.float32), bias=np.zeros(classes, np.float32),
            center=rng.normal(size=3).astype(np.float32), scale=rng.uniform(0.5, 2, 3).astype(np.float32), history=(),
            best_epoch=0,
        )  # fmt: skip
        probs = rng.dirichlet(np.ones(classes), size=rows)
        self.beliefs = Labels(ids=ids, probs=probs, source="a strong model")
        self.seen: dict[str, Any] = {"texts": self.texts, "features": self.features, "view": "mean"}
        self.seen |= {"unit": "word", "grid": 7}

    def readable(self, row: str) -> list[str]:
        (text,) = self.texts.take(np.array([row])).texts
        return [word for word in words_of(text) if word != "w0"]

    def play(self, k: int, agents: int, side: str = "honest", **options: Any) -> tuple[Arrays, Arrays]:
        sides = assign_sides(self.beliefs, side, seed=3)
        given = {"split": self.split, "parts": PARTS, "k": k, "agents": agents, "judge": self.judge, "seed": 5}
        return sides, play(**self.seen, **given, sides=sides, **options)

    def pay(self, row: str, sides: Arrays) -> Any:
        """What the first agent gains by each readable word of a row: from the judge's own logits."""
        (at,) = np.flatnonzero(sides["ids"] == row)
        words = self.readable(row)
        vectors = np.array([self.vectors[w] for w in words]).reshape(len(words), 3)
        logits = (vectors / self.judge.scale) @ self.judge.weight
        return logits[:, sides["claim"][at]] - logits[:, sides["rival"][at]]


def shown_of(shown: Arrays) -> dict[str, list[int]]:
    return {row: [p for p in places if p >= 0] for row, places in zip(shown["ids"], shown["places"], strict=True)}


# --- exact play -------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), k=st.sampled_from([2, 4]), classes=st.integers(2, 3))
def test_exact_debate_is_the_minimax_of_brute_force(seed: int, k: int, classes: int) -> None:
    world = World(seed, classes=classes)
    sides, shown = world.play(k, agents=2)
    for row, places in shown_of(shown).items():
        pay = world.pay(row, sides)
        assert len(places) == len(set(places)) == min(k, len(pay))
        if len(pay) > k:
            every, m = range(len(pay)), k // 2
            first = max(
                min(pay[[*a, *b]].sum() for b in combinations([i for i in every if i not in a], m))
                for a in combinations(every, m)
            )
            second = min(
                max(pay[[*a, *b]].sum() for a in combinations([i for i in every if i not in b], m))
                for b in combinations(every, m)
            )
            assert first == pytest.approx(second, abs=1e-5)  # who moves first plays no part
            assert pay[places].sum() == pytest.approx(first, abs=1e-5)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), k=st.integers(1, 4), side=st.sampled_from(["honest", "lying", "coin"]))
def test_an_exact_consultant_shows_the_best_of_all_sets(seed: int, k: int, side: str) -> None:
    world = World(seed)
    sides, shown = world.play(k, agents=1, side=side)
    for row, places in shown_of(shown).items():
        pay = world.pay(row, sides)
        most = max((pay[list(s)].sum() for s in combinations(range(len(pay)), min(k, len(pay)))), default=0)
        assert pay[places].sum() == pytest.approx(most, abs=1e-5)


def test_more_random_moves_are_a_stronger_agent_and_one_is_random_evidence() -> None:
    world = World(0, rows=400)
    gained = []
    for moves in (1, 2, 8, 64, None):
        sides, shown = world.play(2, agents=1, moves=moves)
        gained.append(np.mean([world.pay(row, sides)[places].sum() for row, places in shown_of(shown).items()]))
    assert gained == sorted(gained)
    assert gained[-1] - gained[-2] < 0.1 * (gained[-1] - gained[0])  # 64 moves nearly exhaust 36 pairs
    _, once = world.play(2, agents=1, moves=1)
    given = {"split": world.split, "parts": PARTS, "k": 2, "agents": 0, "seed": 5}
    assert (once["places"] == play(**world.seen, **given)["places"]).all()


def test_debaters_of_any_strength_never_show_a_word_twice() -> None:
    world = World(1, rows=200)
    for moves in (1, 3, None):
        _, shown = world.play(4, agents=2, moves=moves)
        for row, places in shown_of(shown).items():
            assert len(set(places)) == len(places) == min(4, len(world.readable(row)))


# --- what the judge sees ----------------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), agents=st.integers(0, 2))
def test_all_words_are_the_whole_text(seed: int, agents: int) -> None:
    world = World(seed)
    whole = show(**world.seen, runtime=CPU)
    _, shown = world.play(10, agents)
    seen = show(**world.seen, shown=shown, runtime=CPU)
    rows = np.searchsorted(np.sort(whole.ids), seen.ids)
    assert seen.views["mean"].tobytes() == whole.views["mean"][np.argsort(whole.ids)][rows].tobytes()
    for row, vector in zip(whole.ids, whole.views["mean"], strict=True):
        words = world.readable(row)
        assert vector == pytest.approx(np.mean([world.vectors[w] for w in words], axis=0) if words else 0, abs=1e-6)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_the_order_of_the_evidence_plays_no_part(seed: int) -> None:
    world = World(seed)
    _, shown = world.play(4, agents=2)
    turned = {"ids": shown["ids"][::-1], "places": shown["places"][::-1, ::-1]}
    one, other = (show(**world.seen, shown=s, runtime=CPU).views["mean"] for s in (shown, turned))
    assert one.tobytes() == other[::-1].tobytes()
    assert world.judge.predict(one).tobytes() == world.judge.predict(other)[::-1].tobytes()


def test_draws_are_determined_by_seed_and_number_and_by_nothing_else() -> None:
    world = World(2, rows=60)
    given = {"split": world.split, "parts": PARTS, "k": 2, "agents": 0}

    def drawn(seed: int, draw: int) -> Any:
        return play(**world.seen, **given, seed=seed, draw=draw)["places"]

    assert (drawn(1, 0) == drawn(1, 0)).all()
    assert (drawn(1, 0) != drawn(1, 1)).any()
    assert (drawn(1, 0) != drawn(2, 0)).any()
    alone = play(**world.seen, **given | {"parts": ("T",)}, seed=1)
    assert (alone["places"] == drawn(1, 0)[-len(alone["ids"]) :]).all()
    sides = assign_sides(world.beliefs, "coin", seed=1)
    assert (sides["claim"] == assign_sides(world.beliefs, "coin", seed=1)["claim"]).all()


def test_random_words_are_drawn_evenly() -> None:
    world = World(3, rows=1)
    text = " ".join(WORDS[1:7])
    world.seen["texts"] = replace(world.texts, inputs=(text,))
    world.seen["features"] = Features(
        ids=distinct_units(world.seen["texts"], "word").ids, views={"mean": np.ones((6, 3), dtype=np.float32)}
    )
    split = Split(parts={"B": world.texts.ids})
    given = {"split": split, "parts": ("B",), "k": 2, "agents": 0, "seed": 0}
    places = np.concatenate([play(**world.seen, **given, draw=i)["places"][0] for i in range(600)])
    assert np.abs(np.bincount(places, minlength=6) - 200).max() < 50  # 3.9 standard deviations


def test_sides_are_what_a_model_believes_and_its_opposite() -> None:
    world = World(4, rows=2000, classes=3)
    by_rank = np.argsort(-world.beliefs.probs, axis=1)
    honest, lying, coin = (assign_sides(world.beliefs, side, seed=1) for side in ("honest", "lying", "coin"))
    assert (honest["claim"] == by_rank[:, 0]).all()
    assert (honest["rival"] == by_rank[:, 1]).all()
    assert (lying["claim"] == honest["rival"]).all()
    assert (lying["rival"] == honest["claim"]).all()
    assert (coin["claim"] == honest["claim"]).mean() == pytest.approx(0.5, abs=0.04)


def test_units_that_cannot_be_read_are_counted() -> None:
    world, said = World(5), []
    world.seen["texts"] = replace(world.texts, inputs=("w0 w0", *world.texts.inputs[1:]))
    none = 1 + sum(not [w for w in words_of(t) if w != "w0"] for t in world.texts.texts[1:])
    show(**world.seen, runtime=Runtime(device="cpu", say=said.append))
    assert said == [f"note: {none} of 12 rows have no word that the judge can read; it sees zeros there"]


def test_words_have_no_punctuation_and_sentences_keep_it() -> None:
    texts = ("It's a U.S. film, isn't it?! Yes.\nNo", "")
    of = Examples(ids=np.array(["a", "b"]), inputs=texts, gold=None, classes=("x", "y"), groups=np.array(["a", "b"]))
    assert words_of(texts[0]) == ["it", "'s", "a", "u.s.", "film", "is", "n't", "it", "yes", "no"]
    assert distinct_units(of, "sentence").texts == ("It's a U.S.", "No", "Yes.", "film, isn't it?!")
    choices = replace(of, inputs=(("x", "y"), ("x", "z")))
    with pytest.raises(UserError, match="reads one text for each row"):
        distinct_units(choices, "word")


def test_cells_are_blank_but_where_they_are_shown() -> None:
    rng = np.random.default_rng(0)
    ids = np.array(["a", "b"])
    images = rng.random((2, 4, 4)).astype(np.float32)
    texts = Examples(ids=ids, inputs=(b"x", b"y"), gold=None, classes=("x", "y"), groups=ids)
    features = Features(ids=ids, views={"mean": images.reshape(2, 16)})
    seen: dict[str, Any] = {"texts": texts, "features": features, "view": "mean", "unit": "cell", "grid": 2}
    whole = show(**seen, runtime=CPU).views["mean"]
    assert whole == pytest.approx(images.reshape(2, 16))
    one = show(**seen, shown={"ids": ids, "places": np.array([[1], [2]])}, runtime=CPU).views["mean"].reshape(2, 4, 4)
    blank = np.zeros_like(images)
    blank[0, :2, 2:], blank[1, 2:, :2] = 4 * images[0, :2, 2:], 4 * images[1, 2:, :2]
    assert one == pytest.approx(blank)


# --- shares of A ------------------------------------------------------------------------------------------------------


def test_a_is_dealt_out_whole_and_related_rows_stay_together() -> None:
    ids = np.array([f"id-{i:03}" for i in range(300)])
    groups = np.array([f"group-{i // 4}" for i in range(300)])
    texts = Examples(ids=ids, inputs=("x",) * 300, gold=None, classes=("a", "b"), groups=groups)
    split = Split(parts=dict(zip(("A", "A_val", "B", "B_val", "T"), np.split(ids, [120, 160, 200, 220]), strict=True)))
    made = share_out(texts, split, ("judge", "agents", "played"), seed=1)
    kept = [made.parts[name] for name in ("judge", "agents", "played")]
    assert sorted(np.concatenate(kept)) == sorted(split.ids(("A", "A_val")))
    assert max(map(len, kept)) - min(map(len, kept)) <= 8
    of = [set(texts.take(k).groups) for k in kept]
    assert sum(map(len, of)) == len(set.union(*of))
    assert all((made.parts[p] == split.parts[p]).all() for p in ("B", "B_val", "T"))
    assert set(share_out(texts, split, ("judge", "agents", "played"), seed=2).parts["judge"]) != set(kept[0])
    with pytest.raises(UserError, match="too few groups"):
        share_out(texts, replace(split, parts={**split.parts, "A": ids[:2], "A_val": ids[:0]}), ("a", "b"), seed=1)


# --- as supervisors ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("weak", "said"),
    [
        ("debate(k=3)", r"take debate\(k=4\)"),
        ("debate(k=None)", r"random-evidence\(k=None\) shows all"),
        ("consultancy(side='true')", "known: "),
        ("random-evidence(unit='cell', judge='glove')", "reads gray values"),
        ("random-evidence(k=0)", "it must lie"),
        ("debate(judge='pixels')", "reads images"),
    ],
)
def test_what_cannot_be_is_one_line(make: MakeExperiment, weak: str, said: str) -> None:
    with pytest.raises(UserError, match=said) as error:
        wire(make(weak=weak))
    assert "\n" not in str(error.value)


def test_words_of_choices_are_refused_in_one_line(make: MakeExperiment, model: Any, store: Store) -> None:
    with pytest.raises(StepsFailed, match="reads one text for each row"):
        run_steps([make(task="chosen-words", weak=f"debate(judge={str(model)!r})", seeds=(0,))], store, CPU)


def test_an_ensemble_of_one_mask_is_that_mask_and_equal_questions_are_equal_steps(make: MakeExperiment) -> None:
    def weak(text: str) -> Any:
        return wire(make(weak=text)).args["weak"][0]

    one, three = weak("random-evidence"), weak("random-evidence(masks=3)")
    assert three.args["labels"][0] == one
    assert weak("consultancy(side='honest')") == weak("consultancy(side='honest', taught='honest')")
    assert weak("debate") != weak("debate(trained=False)")
