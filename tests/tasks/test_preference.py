"""Pairs of preferences: which is better is kept, nothing else gives it away, and what is no comparison is left out."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from outgrow.archives import VADER_SENTIMENT
from outgrow.data import Examples
from outgrow.errors import UserError
from outgrow.runtime import Runtime
from outgrow.tasks import Sizes, TaskSpec, load, split_examples
from outgrow.tasks.catalogue import preference, sentiment

ROWS = Path(__file__).parents[1] / "rows"
REAL = Path(os.environ.get("OUTGROW_TEST_DATA") or Path(__file__).parents[3] / "shared" / "data")
SETS = ("hh-rlhf", "shp", "summarize-from-feedback", "ultrafeedback")


def read(task: str, **options: Any) -> tuple[Examples, str]:
    """The examples, and what was said while they were read."""
    said: list[str] = []
    spec = TaskSpec.of(task, **{"data_dir": str(ROWS), **options})
    return load(spec, Runtime(offline=True, say=said.append)), "\n".join(said)


def better(data: Examples) -> list[str]:
    """The reply that was preferred in each row."""
    assert data.gold is not None
    return [str(pair[g]).partition("\n\n")[0] for pair, g in zip(data.inputs, data.gold, strict=True)]


@pytest.mark.parametrize("name", SETS)
def test_a_row_is_a_choice_of_two_and_groups_hold_together(name: str) -> None:
    data, _ = read(name)
    assert data.form == "choice"
    assert data.classes == ("first", "second")
    by_prompt: dict[str, set[str]] = {}
    for texts, group in zip(data.inputs, data.groups, strict=True):
        first, second = (str(t).partition("\n\n")[2] for t in texts)
        assert first == second != ""
        by_prompt.setdefault(first, set()).add(str(group))
    assert all(len(groups) == 1 for groups in by_prompt.values())


# --- hh-rlhf ----------------------------------------------------------------------------------------------------------


def test_conversations_keep_the_preferred_reply_and_show_the_last_turn_first() -> None:
    data, said = read("hh-rlhf")
    assert better(data) == [
        "Rub the rim on rough concrete, then squeeze the sides.",
        "Squeeze the sides until the lid pops.",
        "Talk to them first; a friendly word often helps.",
        "Use rough concrete.",
        "Something short, such as Miso.",
    ]
    assert data.inputs[1][0].endswith(  # type: ignore[union-attr]
        "\n\nHuman: And then?\n\nBefore that:\nHuman: How do I open a tin without an opener?"
        "\n\nAssistant: Rub the rim on concrete."
    )
    (line,) = (x for x in said.splitlines() if "left out" in x)
    for why in (
        "1 (the prompts of the pair differ)",
        "2 (a reply is empty)",
        "1 (both texts of the pair are the same)",
    ):
        assert why in line


def test_conversations_that_begin_alike_are_one_group_and_leave_an_official_training_part() -> None:
    data, _ = read("hh-rlhf")
    assert data.groups[0] == data.groups[1] == data.groups[3]
    assert len(set(data.groups)) == 3
    official, said = read("hh-rlhf", split_mode="official")
    assert better(official)[1:] == ["Use rough concrete.", "Something short, such as Miso."]
    assert "2 (their group is in the test)" in said


def test_subsets_are_apart_and_the_red_team_is_no_set_of_pairs() -> None:
    with pytest.raises(UserError, match="helpful"):
        read("hh-rlhf", subset="helpfull")
    with pytest.raises(UserError, match="hh_rlhf_helpful_base"):
        read("hh-rlhf", subset="helpful")
    with pytest.raises(UserError, match="has no column 'chosen'"):
        read("hh-rlhf", data_dir=str(ROWS / "hh_rlhf_red_team"))
    assert {facts["places"][0].data_dir for facts in preference._HH.values()} == {
        "harmless-base", "helpful-base", "helpful-online", "helpful-rejection-sampled"
    }  # fmt: skip


# --- shp --------------------------------------------------------------------------------------------------------------


def test_label_1_means_that_a_won_and_close_votes_are_left_out() -> None:
    data, said = read("shp")
    assert better(data) == [
        "Your yeast is old.",
        "Your oven is too cold for yeast.",
        "Add a spoon of sugar.",
        "Warm water wakes the yeast.",
        "Let it rest overnight in the fridge.",
    ]
    assert "2 (score_ratio below 2)" in said
    assert "1 (both texts of the pair are the same)" in said
    assert len(set(data.groups[:3])) == 1
    np.testing.assert_allclose(data.meta["difficulty"], [0.1, 0.5, 1 / 3, 1 / 3, 0.1])
    everything, said = read("shp", min_ratio=1.0)
    assert "Knead it for ten minutes." in better(everything)
    assert "1 (a tie)" in said


def test_a_post_gives_so_many_pairs_and_its_domain_is_not_shown() -> None:
    data, said = read("shp", per_post=1)
    assert len(data) == 3
    assert "2 (more than 1 pairs on one post)" in said
    assert not any("askbakers" in text for text in data.texts)
    with pytest.raises(UserError, match="per_post of task shp is 0; it must lie at 1 or above"):
        read("shp", per_post=0)


def test_a_label_against_the_scores_is_an_error_with_its_row(tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (ROWS / "shp" / "train.jsonl").read_text(encoding="utf-8").splitlines()]
    rows[1]["labels"] = 1
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    with pytest.raises(UserError, match=r"row 1 of train .*contradicts the scores 6 and 12"):
        read("shp", data_dir=str(tmp_path))


# --- summaries --------------------------------------------------------------------------------------------------------


def test_summaries_follow_choice_and_both_judgements_of_a_pair_are_kept() -> None:
    data, said = read("summarize-from-feedback")
    assert better(data) == [
        "Baked a cake without sugar.",
        "Baked a cake without sugar.",
        "I like cakes.",
        "Joked about bosses to my boss.",
    ]
    assert len(set(data.groups[:3])) == 1
    for why in ("1 (both texts of the pair are the same)", "1 (a reply is empty)", "1 (of the corpus cnndm)"):
        assert why in said
    assert not any("policy" in text or "worker" in text for text in data.texts)


def test_the_news_are_asked_for_by_name() -> None:
    assert better(read("summarize-from-feedback", corpus="cnndm")[0]) == ["The river rose by a metre."]
    assert len(read("summarize-from-feedback", corpus="both")[0]) == 5
    with pytest.raises(UserError, match="cnndm"):
        read("summarize-from-feedback", corpus="cnn")


# --- ultrafeedback ----------------------------------------------------------------------------------------------------


def test_ties_and_differing_prompts_are_left_out_and_the_gap_is_the_difficulty() -> None:
    data, said = read("ultrafeedback")
    assert better(data) == [
        "The Rhine, the Nile and the Mekong.",
        "Rain taps the roof all night.",
        "Amazon, Volga, Seine.",
        "Air scatters blue light most.",
    ]
    assert data.meta["difficulty"].tolist() == [-4.5, -0.5, -7, -8]
    assert data.groups[0] == data.groups[2]
    assert "1 (a tie)" in said
    assert "1 (the prompts of the pair differ)" in said
    assert len(read("ultrafeedback", min_gap=1.0)[0]) == 3


# --- the order of a pair ----------------------------------------------------------------------------------------------


def test_the_order_depends_on_the_pair_alone(tmp_path: Path) -> None:
    talk = "\n\nHuman: Question {}?\n\nAssistant: "
    rows = [{"chosen": talk.format(i) + f"Good {i}.", "rejected": talk.format(i) + f"Bad {i}."} for i in range(400)]
    for name, chosen in (("all", rows), ("back", rows[::-1]), ("half", rows[::2])):
        (tmp_path / name).mkdir()
        (tmp_path / name / "train.jsonl").write_text("\n".join(map(json.dumps, chosen)), encoding="utf-8")
    orders = {
        name: dict(zip(better(data), data.gold.tolist(), strict=True))  # type: ignore[union-attr]
        for name in ("all", "back", "half")
        for data in [read("hh-rlhf", data_dir=str(tmp_path / name))[0]]
    }
    assert orders["all"] == orders["back"]
    assert orders["half"].items() <= orders["all"].items()
    assert 150 < sum(orders["all"].values()) < 250


# --- rated sentences --------------------------------------------------------------------------------------------------


def rated(ratings: list[float], groups: list[int]) -> Examples:
    ids = np.array([f"movies-{i}" for i in range(len(ratings))])
    return Examples(
        ids=ids,
        inputs=tuple(f"sentence {i}" for i in range(len(ratings))),
        gold=np.zeros(len(ratings), dtype=np.int64),
        classes=("negative", "positive"),
        groups=np.array([f"movies-{g}" for g in groups]),
        meta={"rating": np.array(ratings, dtype=np.float64)},
    )


def paired(data: Examples, **options: Any) -> Examples:
    def loaded(domain: str, min_rating: float, runtime: Runtime) -> Examples:
        assert domain == "movies"
        assert min_rating < 0.01
        return data

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sentiment, "rated_texts", loaded)
        return load(TaskSpec.of("sentiment-pairs", **options), Runtime())


@given(st.lists(st.tuples(st.floats(-4, 4), st.integers(0, 8)), min_size=2, max_size=60), st.floats(0.1, 3))
def test_a_sentence_is_in_one_pair_and_the_higher_rated_wins(rows: list[tuple[float, int]], min_gap: float) -> None:
    source = rated([r for r, _ in rows], [g for _, g in rows])
    try:
        pairs = paired(source, min_gap=min_gap)
    except UserError:
        ratings = np.array([r for r, _ in rows])
        assert max(np.ptp(ratings[source.groups == g]) for g in set(source.groups)) < min_gap
        return
    number = {text: i for i, text in enumerate(source.inputs)}
    used = [number[text] for text in pairs.texts]
    assert len(set(used)) == len(used)
    groups_of: dict[str, set[str]] = {}
    assert pairs.gold is not None
    for (a, b), gold, group, difficulty in zip(
        zip(used[::2], used[1::2], strict=True), pairs.gold, pairs.groups, pairs.meta["difficulty"], strict=True
    ):
        gap = rows[b][0] - rows[a][0]
        assert gold == (gap > 0)
        assert abs(gap) >= min_gap
        assert difficulty == -abs(gap)
        for row in (a, b):
            groups_of.setdefault(str(source.groups[row]), set()).add(str(group))
    assert all(len(groups) == 1 for groups in groups_of.values())  # so that no document is in two parts of a split
    for group in set(pairs.groups):
        assert sum(group in own for own in groups_of.values()) <= 2


def test_pairs_are_as_many_as_asked_and_the_same_whatever_their_number() -> None:
    rng = np.random.default_rng(0)
    source = rated(rng.uniform(-4, 4, 600).tolist(), list(range(600)))
    everything, few = paired(source), paired(source, pairs=50)
    assert len(everything) > 250
    assert len(few) == 50
    assert everything.take(few.ids).inputs == few.inputs
    assert 0.4 < np.mean(everything.gold) < 0.6  # type: ignore[arg-type]
    for wrong, said in (
        ({"min_gap": 0.0}, r"min_gap of task sentiment-pairs is 0.0; it must lie in \(0, 8\]"),
        ({"min_gap": 8.5}, r"min_gap of task sentiment-pairs is 8.5; it must lie in \(0, 8\]"),
        ({"min_gap": 8.0}, "no two sentences of movies differ by 8.0; choose a smaller min_gap"),
        ({"pairs": 0}, "pairs of task sentiment-pairs is 0; it must lie at 1 or above"),
        ({"domain": "films"}, "unknown domain of task sentiment-pairs 'films'; known: movies"),
    ):
        with pytest.raises(UserError, match=said):
            paired(source, **wrong)


# --- real data --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(not VADER_SENTIMENT.is_cached, reason="the archive was never fetched here")
@pytest.mark.parametrize(
    ("domain", "rows"), [("movies", 5_282), ("news", 1_824), ("tweets", 2_075), ("reviews", 1_635)]
)
def test_the_real_ratings(domain: str, rows: int) -> None:
    data = load(TaskSpec.of("sentiment-pairs", domain=domain), Runtime(offline=True))
    assert len(data) == rows
    split_examples(data, Sizes(), seed=0)


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason="no folder of real data sets (OUTGROW_TEST_DATA)")
@pytest.mark.parametrize(
    ("folder", "rows", "differ", "empty"), [("harmless_base", 2_303, 5, 4), ("harmless_single_turn", 11_956, 27, 17)]
)
def test_the_real_conversations(folder: str, rows: int, differ: int, empty: int) -> None:
    data, said = read("hh-rlhf", data_dir=str(REAL / f"hh_rlhf_{folder}"))
    assert len(data) == rows
    assert f"{differ} (the prompts of the pair differ)" in said
    assert f"{empty} (a reply is empty)" in said
    parts = split_examples(data, Sizes(), seed=0).parts
    groups = [set(data.take(ids).groups) for ids in (parts["A"], parts["B"], parts["T"])]
    assert sum(map(len, groups)) == len(set.union(*groups))
