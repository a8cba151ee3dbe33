import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from outgrow.data import Examples
from outgrow.errors import UserError
from outgrow.runtime import Runtime
from outgrow.tasks import Sizes, TaskSpec, load, split_examples, tasks_table
from outgrow.tasks.catalogue.nlp import _mc_taco, without_tags
from outgrow.tasks.catalogue.sentences import _polarity, _runs, _with_longest
from outgrow.tasks.convert import Item, LabeledText, Pair, Question, _asked, _surplus, _versus, same
from outgrow.tasks.hub import HubRow

ROWS = Path(__file__).parents[1] / "rows"
MULTIPLE_CHOICE = {
    "cosmos-qa": 3,
    "dream": 3,
    "ethics-utilitarianism": 2,
    "hellaswag": 4,
    "openbookqa": 4,
    "piqa": 2,
    "quail": 3,
    "quartz": 2,
    "sciq": 4,
    "social-i-qa": 3,
}
NATIVE = (
    "amazon-polarity",
    "anli-r2",
    "boolq",
    "cola",
    "ethics-deontology",
    "ethics-justice",
    "ethics-virtue",
    "mc-taco",
    "multirc",
    "paws",
    "sst2",
    "twitter-sentiment",
    "wic",
)
ALL = (*MULTIPLE_CHOICE, *NATIVE)


def _load(name: str, data_dir: Path = ROWS, said: list[str] | None = None, **options: Any) -> Examples:
    say = said.append if said is not None else lambda _: None
    return load(TaskSpec.of(name, data_dir=str(data_dir), **options), Runtime(say=say))


def _write(folder: Path, **splits: list[dict[str, Any]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for split, rows in splits.items():
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{split}.jsonl").write_text(text, encoding="utf-8")
    return folder


def _fixture(folder: str, split: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (ROWS / folder / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()]


def _group(data: Examples, text: str) -> str:
    (group,) = {g for t, g in zip(data.inputs, data.groups, strict=True) if text in str(t)}
    return str(group)


# --- every set --------------------------------------------------------------------------------------------------------


def test_all_22_sets_of_the_paper_and_amazon_are_registered() -> None:
    table = {row["name"]: row for row in tasks_table()}
    assert len(ALL) == 23
    for name in ALL:
        assert all(table[name][c] for c in ("licence", "source", "about", "classes", "traps"))
    restricted = {"anli-r2", "sciq", "dream", "quail"}
    assert {n for n in ALL if "non-commercial" in table[n]["licence"]} == restricted


@pytest.mark.parametrize("mode", ["pooled", "official"])
@pytest.mark.parametrize("name", ALL)
def test_rows_are_whole_and_groups_stay_apart(name: str, mode: str) -> None:
    data = _load(name, split_mode=mode)
    assert data.gold is not None
    assert data.form == "text"
    assert set(data.gold.tolist()) <= {0, 1}
    assert all(isinstance(t, str) and t.strip() == t and t for t in data.inputs)
    assert not any("SECRETHINT" in t or "[SEP]" in t for t in data.texts)
    assert data.num_classes == 2
    assert ("split" in data.meta) == (mode == "official")
    if mode == "official":
        parts = data.meta["split"]
        assert set(parts.tolist()) <= {"A", "B", "T"}
        assert all(len(set(parts[data.groups == g].tolist())) == 1 for g in set(data.groups.tolist()))
        tested = set(data.meta["official"][parts == "T"].tolist())
        assert len(tested) == 1
        assert tested.isdisjoint(data.meta["official"][parts != "T"].tolist())


@pytest.mark.parametrize(("name", "choices"), MULTIPLE_CHOICE.items())
def test_pairs_are_one_right_and_one_wrong_row_and_choices_hold_the_right_one_once(name: str, choices: int) -> None:
    pairs, chosen = _load(name), _load(name, form="choice")
    assert pairs.gold is not None
    assert chosen.gold is not None
    assert chosen.classes == tuple("ABCD"[:choices])
    assert chosen.form == "choice"
    assert all(len(set(c)) == choices for c in chosen.inputs)
    if name != "ethics-utilitarianism":
        by_question = Counter((i.rpartition("-")[0], int(g)) for i, g in zip(pairs.ids, pairs.gold, strict=True))
        assert set(by_question.values()) == {1}
        assert len(by_question) == 2 * len({q for q, _ in by_question})
        right = {i.rpartition("-")[0]: t for i, t, g in zip(pairs.ids, pairs.inputs, pairs.gold, strict=True) if g}
        wrong = {i.rpartition("-")[0]: t for i, t, g in zip(pairs.ids, pairs.inputs, pairs.gold, strict=True) if not g}
        for i, candidates, gold in zip(chosen.ids, chosen.inputs, chosen.gold, strict=True):
            assert candidates[gold] == right[i]
            assert wrong[i] in candidates


@pytest.mark.parametrize("name", ALL)
def test_loading_twice_gives_the_same(name: str) -> None:
    one, two = _load(name), _load(name)
    assert one.inputs == two.inputs
    assert one.groups.tolist() == two.groups.tolist()


def test_options_that_do_not_fit_are_one_clear_line() -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"form": "both"}, "unknown form of task piqa 'both'; known: choice, pair"),
        ({"split_mode": "own"}, "unknown split_mode of task piqa 'own'; known: official, pooled"),
        ({"limit": 0}, "limit of task piqa is 0; it must lie at 1 or above"),
    ]
    for options, message in wrong:
        with pytest.raises(UserError, match=message):
            _load("piqa", **options)
    with pytest.raises(UserError, match="unknown option of task boolq 'form'"):
        _load("boolq", form="choice")


def test_the_official_test_needs_both_splits(tmp_path: Path) -> None:
    _write(tmp_path / "boolq", validation=_fixture("boolq", "validation"))
    assert len(_load("boolq", tmp_path)) == 2
    with pytest.raises(UserError, match=r"split_mode='official' needs the splits train and validation.* no rows of tr"):
        _load("boolq", tmp_path, split_mode="official")


def test_training_rows_of_a_group_in_the_test_are_left_out_and_told() -> None:
    said: list[str] = []
    data = _load("boolq", said=said, split_mode="official")
    assert data.meta["split"].tolist().count("T") == 2
    assert not any("Orm" in str(t) for t, p in zip(data.inputs, data.meta["split"], strict=True) if p != "T")
    assert any("2 (their group is in the test)" in line for line in said)


def test_a_limit_takes_whole_groups_whatever_the_order(tmp_path: Path) -> None:
    rows = [
        {"question": f"is {i} odd", "answer": bool(i % 2), "passage": f"On the number {i // 3}."} for i in range(300)
    ]
    _write(tmp_path / "boolq", train=rows)
    whole = _load("boolq", tmp_path)
    some = _load("boolq", tmp_path, limit=50)
    assert 48 <= len(some) <= 50
    sizes = Counter(whole.groups.tolist())
    assert Counter(some.groups.tolist()) == {g: sizes[g] for g in set(some.groups.tolist())}
    assert len({int(g.rpartition("-")[2]) // 100 for g in some.groups}) == 3  # not the start of the file
    with pytest.raises(UserError, match="limit of task boolq is 2, but its smallest group has 3 rows"):
        _load("boolq", tmp_path, limit=2)


def test_a_native_set_splits_and_balances(tmp_path: Path) -> None:
    rows = [{"question": f"is {i} big", "answer": i % 3 > 0, "passage": f"On {i // 2}."} for i in range(400)]
    _write(tmp_path / "boolq", train=rows[:300], validation=rows[300:])
    for mode in ("pooled", "official"):
        data = _load("boolq", tmp_path, split_mode=mode)
        split = split_examples(data, Sizes(), seed=0)
        assert data.gold is not None
        test = data.take(split.parts["T"])
        assert test.gold is not None
        assert np.bincount(test.gold).tolist() == [len(test) // 2] * 2
        if mode == "official":
            assert set(test.meta["official"].tolist()) == {"validation"}


# --- drawing ----------------------------------------------------------------------------------------------------------


@given(
    st.lists(st.text("abB ", min_size=1).map(lambda s: f"x{s}"), min_size=3, max_size=6, unique_by=same),
    st.integers(0, 5),
    st.integers(0, 3),
    st.data(),
)
def test_a_draw_is_fair_to_the_order_of_options(options: list[str], right: int, seed: int, data: st.DataObject) -> None:
    right %= len(options)
    order = data.draw(st.permutations(range(len(options))))
    asked = Question("Q: ", tuple(options), right, ("k",))
    turned = Question("Q: ", tuple(options[o] for o in order), order.index(right), ("k",))
    one, two = ([(m.input, m.gold) for m in _asked("i", q, seed, 0, Counter())] for q in (asked, turned))
    assert one == two
    for choices in range(2, len(options) + 1):
        (choice,) = _asked("i", asked, seed, choices, Counter())
        assert choice.input[choice.gold] == f"Q: {options[right]}"
        assert len(set(choice.input)) == choices


def test_draws_depend_on_the_seed_and_the_question_alone() -> None:
    asked = [Question(f"Q{i}: ", tuple("abcd"), 0, ("k",)) for i in range(400)]
    wrong = [
        next(str(m.input)[-1] for m in _asked("i", q, s, 0, Counter()) if not m.gold) for s in (0, 1) for q in asked
    ]
    assert all(90 < n < 180 for n in Counter(wrong[:400]).values())
    assert 60 < sum(a == b for a, b in zip(wrong[:400], wrong[400:], strict=True)) < 210
    places = Counter(next(iter(_asked("i", q, 0, 4, Counter()))).gold for q in asked)
    assert all(70 < n < 130 for n in places.values())


def test_an_empty_answer_is_neither_drawn_nor_right() -> None:
    left: Counter[str] = Counter()
    assert [m.input for m in _asked("i", Question("Q ", ("a", "", "b"), 0, ()), 0, 0, left)] in (
        ["Q a", "Q b"],
        ["Q b", "Q a"],
    )
    assert not list(_asked("i", Question("Q ", ("a", "", "b"), 1, ()), 0, 0, left))
    assert left == {"the right answer is empty": 1}


def test_which_of_two_comes_first_is_even_and_not_the_answer() -> None:
    made = [_versus("i", Pair(f"good {i}", f"bad {i}", ()), 0, False) for i in range(400)]
    assert 160 < sum(m.gold for m in made) < 240
    assert all((m.gold == 1) == str(m.input).startswith("First: good") for m in made)
    chosen = [_versus("i", Pair(f"good {i}", f"bad {i}", ()), 0, True) for i in range(400)]
    assert all(m.input[m.gold] == f"good {i}" for i, m in enumerate(chosen))


@given(st.lists(st.tuples(st.sampled_from("pqr"), st.integers(0, 1)), max_size=30), st.integers(0, 3))
def test_each_question_keeps_as_many_right_as_wrong_answers(answers: list[tuple[str, int]], seed: int) -> None:
    items = [Item("train", i, LabeledText(f"{q} {i}", g, question=q)) for i, (q, g) in enumerate(answers)]
    surplus = _surplus(items, seed)
    kept = Counter(a for i, a in enumerate(answers) if i not in surplus)
    given_ = Counter(answers)
    for question in "pqr":
        assert kept[question, 0] == kept[question, 1] == min(given_[question, 0], given_[question, 1])


# --- traps, set by set ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "giveaway", "questions"), [("cosmos-qa", "none of the above", 3), ("quail", "not enough information", 3)]
)
@pytest.mark.parametrize("form", ["pair", "choice"])
@pytest.mark.parametrize("seed", range(5))
def test_the_giveaway_option_is_neither_right_nor_shown(
    name: str, giveaway: str, questions: int, form: str, seed: int
) -> None:
    said: list[str] = []
    data = _load(name, said=said, form=form, seed=seed)
    assert len(data) == questions * (2 if form == "pair" else 1)
    assert not any(giveaway in text.lower() for text in data.texts)
    assert any("1 (of the type Unanswerable)" in s or "1 (the right answer is 'None of" in s for s in said)


def test_quail_does_not_use_the_adversarial_split() -> None:
    assert not any("f900" in g or "challenge" in g for g in _load("quail").groups)


def test_dream_shows_the_dialogue_and_never_draws_a_copy_of_the_answer() -> None:
    said: list[str] = []
    for seed in range(6):
        data = _load("dream", seed=seed)
        assert data.gold is not None
        wrong = [t for t, g in zip(data.inputs, data.gold, strict=True) if "shoes?" in str(t) and not g]
        assert len(wrong) == 1
        assert "They are old." in str(wrong[0])
    assert all("M: " in t and "W: " in t for t in data.texts)
    assert _group(data, "The bakery shuts at six") == _group(data, "What will the man do?")  # in train and validation
    assert len(_load("dream", said=said, form="choice")) == 4
    assert any("1 (too few different answers)" in s for s in said)


def test_dream_reads_the_original_files(tmp_path: Path) -> None:
    folder = tmp_path / "dream"
    folder.mkdir()
    for ours, theirs in (("train", "train"), ("validation", "dev"), ("test", "test")):
        rows = _fixture("dream", ours)
        nested = [
            [r["dialogue"], [{k: r[k] for k in ("question", "choice", "answer")}], r["dialogue_id"]] for r in rows
        ]
        (folder / f"{theirs}.json").write_text(json.dumps(nested), encoding="utf-8")
    assert _load("dream", tmp_path).inputs == _load("dream").inputs


def test_ethics_takes_the_ordinary_test_unless_told(tmp_path: Path) -> None:
    ordinary = _load("ethics-virtue", split_mode="official")
    hard = _load("ethics-virtue", split_mode="official", hard_test=True)
    assert any("hasty" in t for t in ordinary.texts)
    assert not any("vain" in t for t in ordinary.texts)
    assert any("vain" in t for t in hard.texts)
    assert not any("hasty" in t for t in hard.texts)
    assert {"test_hard"} == set(hard.meta["official"][hard.meta["split"] == "T"].tolist())
    # The copy whose validation is the ordinary test and whose test is the hard one.
    folder = tmp_path / "ethics_virtue"
    folder.mkdir()
    for ours, theirs in (("train", "train"), ("test", "validation"), ("test_hard", "test")):
        (folder / f"{theirs}.csv").write_bytes((ROWS / "ethics_virtue" / f"{ours}.csv").read_bytes())
    assert _load("ethics-virtue", tmp_path, split_mode="official").inputs == ordinary.inputs
    assert _load("ethics-virtue", tmp_path, split_mode="official", hard_test=True).inputs == hard.inputs
    # The copy without a hard test.
    (folder / "test.csv").unlink()
    (folder / "validation.csv").rename(folder / "test.csv")
    assert _load("ethics-virtue", tmp_path, split_mode="official").inputs == ordinary.inputs
    with pytest.raises(UserError, match="no rows of test_hard"):
        _load("ethics-virtue", tmp_path, split_mode="official", hard_test=True)


def test_virtue_splits_off_the_trait_and_drops_copies(tmp_path: Path) -> None:
    said: list[str] = []
    data = _load("ethics-virtue", said=said)
    assert data.inputs.count("Ida gave her seat to the old man.\nTrait: greedy") == 1
    assert any("1 (repeated)" in s for s in said)
    assert len({g for t, g in zip(data.inputs, data.groups, strict=True) if "Tom ran" in str(t)}) == 1  # train and test
    row = {"group_id": 0, "label": 1, "scenario": "Ida gave her seat to the old man.", "trait": "kind"}
    _write(tmp_path / "ethics_virtue", train=[row])
    assert _load("ethics-virtue", tmp_path).inputs == ("Ida gave her seat to the old man.\nTrait: kind",)
    _write(tmp_path / "ethics_virtue", train=[{"label": 1, "scenario": "Ida gave her seat."}])
    with pytest.raises(UserError, match=r"has no \[SEP\] before the trait"):
        _load("ethics-virtue", tmp_path)


def test_deontology_groups_by_scenario_not_by_group_id(tmp_path: Path) -> None:
    data = _load("ethics-deontology")
    assert len({g for t, g in zip(data.inputs, data.groups, strict=True) if "feed the horse" in str(t)}) == 1
    assert "Aren't you supposed to feed the horse?\nNo because my sister fed it" in data.inputs
    rows = [
        {"group_id": i // 4, "label": i % 2, "scenario": f"I keep bees, {i // 3}.", "excuse": f"So {i}."}
        for i in range(12)
    ]
    _write(tmp_path / "ethics_deontology", train=rows)
    assert len(set(_load("ethics-deontology", tmp_path).groups.tolist())) == 4


def test_justice_groups_neighbours_that_begin_alike() -> None:
    data = _load("ethics-justice")
    assert Counter(Counter(data.groups.tolist()).values()) == {2: 3, 1: 1}
    assert _group(data, "Ann soup") != _group(data, "refund")
    texts = ["I deserve a prize because I won.", "I deserve a prince because I won.", "He sings.", "I d."]
    items = [Item("train", i, LabeledText(t, 0)) for i, t in enumerate(texts)]
    runs = [i.what.keys[1] for i in _runs(items)]
    assert runs[0] == runs[1] != runs[2] != runs[3]
    gap = [
        Item("train", 0, LabeledText(texts[0], 0)),
        Item("train", 2, LabeledText(texts[1], 0)),
        Item("test", 3, LabeledText(texts[1], 0)),
    ]
    assert len({i.what.keys[1] for i in _runs(gap)}) == 3  # neighbours of one file only


def test_utilitarianism_knows_both_namings_and_needs_no_header(tmp_path: Path) -> None:
    data = _load("ethics-utilitarianism", form="choice")
    assert data.gold is not None
    assert len(data) == 6  # the first row of each file is a row
    better = {c[g] for c, g in zip(data.inputs, data.gold, strict=True)}
    assert {"I swam in the lake", "I napped in the sun", "I won a raffle. It was a cake."} <= better
    assert _group(data, "cake") == _group(data, "mud")  # they share the spoon
    assert len(set(data.groups.tolist())) == 5
    # With a header, and with the names of the other copies, where "baseline" is the less pleasant.
    pairs = [("I swam in the lake", "I fell in the lake"), ("I met an old friend", "I missed an old friend")]
    folder = tmp_path / "one" / "ethics_utilitarianism"
    folder.mkdir(parents=True)
    lines = "\n".join(",".join(p) for p in [("baseline", "less_pleasant"), *pairs])
    (folder / "train.csv").write_text(lines, encoding="utf-8")
    rows = [{"activity": a, "baseline": b, "rating": ""} for a, b in pairs]
    _write(tmp_path / "two" / "ethics_utilitarianism", train=rows)
    one, two = (_load("ethics-utilitarianism", tmp_path / place) for place in ("one", "two"))
    assert one.inputs == two.inputs
    assert one.gold is not None
    assert two.gold is not None
    assert one.gold.tolist() == two.gold.tolist()
    assert len(one) == 2


def test_openbookqa_shows_texts_and_reads_stray_spaces(tmp_path: Path) -> None:
    data = _load("openbookqa")
    assert data.gold is not None
    right = {str(t) for t, g in zip(data.inputs, data.gold, strict=True) if g}
    assert right == {
        "A puddle vanishes at noon because\nAnswer: water evaporates",
        "Wet laundry dries fastest\nAnswer: in the wind and sun",
        "A magnet will pick up\nAnswer: an iron nail",
        "An owl hunts at\nAnswer: night",
    }
    assert not any(t.rpartition("Answer: ")[2] in "ABCD" for t in data.texts)
    assert _group(data, "puddle") == _group(data, "laundry")  # one fact
    assert data.meta["difficulty"].max() == 0.5
    rows = [{k: r[k] for k in ("id", "question_stem", "choices", "answerKey")} for r in _fixture("openbookqa", "train")]
    _write(tmp_path / "openbookqa", train=rows)
    plain = _load("openbookqa", tmp_path)
    assert len(set(plain.groups.tolist())) == 2
    assert np.isnan(plain.meta["difficulty"]).all()
    _write(tmp_path / "openbookqa", train=[rows[0] | {"answerKey": "E"}])
    with pytest.raises(UserError, match="answerKey 'E' is no label of the choices"):
        _load("openbookqa", tmp_path)


def test_wic_marks_the_form_in_the_text_and_ties_shared_sentences() -> None:
    data = _load("wic")
    assert data.inputs[0] == "We sat on the *banks* of the stream.\nThe *bank* lends money.\nSame sense of bank?"
    assert _group(data, "stream") == _group(data, "fog")  # through two other rows, across splits
    assert len(set(data.groups.tolist())) == 4


def test_paws_ties_pairs_through_either_sentence() -> None:
    data = _load("paws")
    assert _group(data, "Bo beat Ada") == _group(data, "At chess")
    assert _group(data, "The red house is old") == _group(data, "Red is the old house")
    assert len(set(data.groups.tolist())) == 5


def test_social_iqa_counts_from_one_and_refuses_the_other_mirror(tmp_path: Path) -> None:
    data = _load("social-i-qa", form="choice")
    assert data.gold is not None
    right = [c[g].rpartition("Answer: ")[2] for c, g in zip(data.inputs, data.gold, strict=True)]
    assert right == ["generous", "thank Robin", "annoyed"]  # the repeated question is there once
    rows = [r | {"label": str(int(r["label"]) - 1)} for r in _fixture("social_i_qa", "train")]
    _write(tmp_path / "social_i_qa", train=rows)
    with pytest.raises(UserError, match="counts from 0, so this is a mirror with other labels"):
        _load("social-i-qa", tmp_path)


def test_hellaswag_reads_text_labels_and_drops_tags() -> None:
    data = _load("hellaswag")
    assert not any("[" in t for t in data.texts)
    assert any(t.startswith("How to dry herbs. Pick them early. Cut whole stems ") for t in data.texts)
    assert set(data.meta["split_type"].tolist()) == {"indomain", "zeroshot"}
    assert _group(data, "kneels") == _group(data, "turns the pedal")
    assert without_tags("[header] How to sit [title] Sit down. [step] Bend [substeps] Slowly.") == (
        "How to sit. Sit down. Bend Slowly."
    )
    assert without_tags("Stop. [title] Then go") == "Stop. Then go"


@pytest.mark.parametrize("folder", ["cola", "sst2", "hellaswag"])
def test_splits_with_hidden_labels_are_never_read(folder: str, tmp_path: Path) -> None:
    assert not any("hidden" in t.lower() or "A cat sits" in t for t in _load(folder).texts)
    _write(tmp_path / folder, train=_fixture(folder, "test"))
    with pytest.raises(UserError, match="hides the label"):
        _load(folder, tmp_path)


def test_piqa_rows_of_one_goal_are_a_group_across_splits() -> None:
    data = _load("piqa")
    jars = {g for t, g in zip(data.inputs, data.groups, strict=True) if "tight jar" in str(t)}
    assert len(jars) == 1
    assert (data.groups == jars.pop()).sum() == 6


def test_mc_taco_trains_on_the_split_called_test_and_hides_the_category() -> None:
    data = _load("mc-taco", split_mode="official")
    assert set(data.meta["official"][data.meta["split"] == "T"].tolist()) == {"validation"}
    assert sorted(data.gold.tolist() if data.gold is not None else []) == [0, 0, 1, 1]
    assert not any("What happened last?" in t for t in data.texts)  # it has no wrong answer


def test_mc_taco_reads_the_original_files(tmp_path: Path) -> None:
    folder = tmp_path / "mc_taco"
    folder.mkdir()
    for ours, theirs in (("test", "test_9442"), ("validation", "dev_3783")):
        rows = [
            "\t".join((r["sentence"], r["question"], r["answer"], ("no", "yes")[r["label"]], "Event Duration"))
            for r in _fixture("mc_taco", ours)
        ]
        quoted = 'He said "now.\tWhen?\t"now\tyes\tTypical Time\nHe said "now.\tWhen?\tthen"\tno\tTypical Time'
        (folder / f"{theirs}.tsv").write_text("\n".join([*rows, quoted] if ours == "test" else rows), encoding="utf-8")
    data = _load("mc-taco", tmp_path)
    assert set(_load("mc-taco").inputs) < set(data.inputs)
    assert 'He said "now.\nQuestion: When?\nAnswer: "now' in data.inputs
    record = HubRow({"sentence": "S", "question": "Q", "answer": "A", "label": "maybe"}, "mc-taco", "here", "test", 0)
    with pytest.raises(UserError, match="is no whole number"):
        _mc_taco(record)


def test_multirc_keeps_as_many_right_as_wrong_answers_of_each_question() -> None:
    said: list[str] = []
    data = _load("multirc", said=said)
    assert data.gold is not None
    assert Counter((str(t).partition("\n")[0], int(g)) for t, g in zip(data.inputs, data.gold, strict=True)) == {
        (f"Question: {q}", g): 1
        for q in ("When does the ferry sail?", "What freezes?", "What happened to the hall?")
        for g in (0, 1)
    }
    assert any("1 (without answer)" in s and "3 (more answers of one class" in s for s in said)


def test_boolq_reads_true_and_false_and_the_copy_in_superglue(tmp_path: Path) -> None:
    data = _load("boolq")
    assert data.gold is not None
    assert data.gold.tolist() == [0, 1, 0, 1, 1, 0]
    assert str(data.inputs[0]).startswith("Question: does the ferry to orm sail in january?\nPassage: The ferry")
    rows = [
        {"question": r["question"], "passage": f"Orm -- {r['passage']}", "label": int(r["answer"]), "idx": i}
        for i, r in enumerate(_fixture("boolq", "train"))
    ]
    _write(tmp_path / "boolq", train=rows)
    copy = _load("boolq", tmp_path)
    assert copy.gold is not None
    assert copy.gold.tolist() == [0, 1, 0, 1]


def test_anli_is_entailed_or_not() -> None:
    data = _load("anli-r2")
    assert data.gold is not None
    assert data.gold.tolist() == [1, 0, 0, 1, 0, 0, 1]
    assert len(set(data.groups.tolist())) == 3


def test_sciq_does_not_show_the_passage_but_groups_by_it() -> None:
    data = _load("sciq")
    assert not any("carries" in t for t in data.texts)
    assert _group(data, "pumps") == _group(data, "carry")
    assert len(_load("sciq", form="choice")) == 4  # the spider's question has only three different answers


def test_cola_drops_copies_and_ties_near_ones(tmp_path: Path) -> None:
    assert len(_load("cola")) == 5
    texts = [
        "The tall man who lives next door sings at night.",
        "The tall man who lives next door sings at nights.",
        "He.",
    ]
    _write(tmp_path / "cola", train=[{"sentence": t, "label": i % 2} for i, t in enumerate(texts)])
    groups = _load("cola", tmp_path).groups.tolist()
    assert groups[0] == groups[1] != groups[2]


@pytest.mark.parametrize("name", ["boolq", "dream", "quail"])
def test_near_copies_of_a_passage_are_one_group(name: str, tmp_path: Path) -> None:
    passage = "The old ferry to the island of Orm sails every morning at six from the northern pier of the harbour"
    rows = []
    for i, text in enumerate(
        (passage, f"{passage} in summer.", "Another text without a single word of the first one.")
    ):
        boolq = {"passage": text, "question": "is it so", "answer": i == 0}
        dream = {"dialogue": [text], "choice": ["a", "b", "c"]}
        quail = {"context_id": f"c{i}", "context": text, "answers": list("abcd"), "correct_answer_id": 1}
        rows.append(boolq | dream | quail | {"question_type": "T", "answer": "a" if name == "dream" else i == 0})
    _write(tmp_path / name, train=rows)
    groups = list(dict.fromkeys(_load(name, tmp_path).groups.tolist()))
    assert len(groups) == 2


def test_which_row_of_a_pair_comes_first_is_drawn() -> None:
    first = [next(iter(_asked("i", Question(f"Q{i} ", ("a", "b"), 0, ()), 0, 0, Counter()))).gold for i in range(400)]
    assert 160 < sum(first) < 240


def test_sst2_ties_a_phrase_to_the_longest_row_that_holds_it() -> None:
    data = _load("sst2")
    assert _group(data, "about losing") == _group(data, "warm and funny")
    assert len({g for t, g in zip(data.inputs, data.groups, strict=True) if "endless" in str(t)}) == 1  # across splits
    assert _group(data, "funny bones") != _group(data, "about losing")
    assert len(set(data.groups.tolist())) == 4


@given(st.lists(st.lists(st.sampled_from("abc"), min_size=1, max_size=6).map(" ".join), min_size=1, max_size=12))
def test_containment_is_that_of_a_slow_search(texts: list[str]) -> None:
    tied = [i.what.keys[0] for i in _with_longest([Item("train", n, LabeledText(t, 0)) for n, t in enumerate(texts)])]
    for text, key in zip(texts, tied, strict=True):
        holders = [t for t in texts if f" {text} " in f" {t} "]
        longest = max(len(t.split()) for t in holders)
        maximal = [t for t in holders if not any(t != o and f" {t} " in f" {o} " for o in texts)]
        assert key in maximal
        assert len(key.split()) == longest


@pytest.mark.slow
def test_containment_of_67_000_phrases_takes_seconds() -> None:
    rng = np.random.default_rng(0)
    items: list[Item] = []
    while len(items) < 67_000:
        words = [f"w{w}" for w in rng.zipf(1.3, size=19) % 15_000]
        cuts = [sorted(rng.choice(20, size=2, replace=False).tolist()) for _ in range(9)]
        items += [Item("train", len(items), LabeledText(" ".join(words[a:b]), 0)) for a, b in [(0, 19), *cuts]]
    start = time.process_time()
    tied = _with_longest(items)
    assert time.process_time() - start < 20
    assert len({i.what.keys for i in tied}) < 8_000


@pytest.mark.parametrize(
    ("codes", "gold"), [([0, 1, 1], [0, 1, 1]), ([0, 1, 2], [0, 1]), ([0, 2, 4], [0, 1]), ([4, 0], [1, 0])]
)
def test_twitter_copies_code_the_classes_in_three_ways(codes: list[int], gold: list[int], tmp_path: Path) -> None:
    items = [Item("train", n, LabeledText(f"t{n}", c)) for n, c in enumerate(codes)]
    kept = [i.what for i in _polarity(items) if isinstance(i, Item)]
    assert [what.gold for what in kept if isinstance(what, LabeledText)] == gold
    column = "sentiment" if 4 in codes else "label"
    _write(tmp_path / "twitter_sentiment", train=[{"text": f"t{n}", column: c} for n, c in enumerate(codes)])
    data = _load("twitter-sentiment", tmp_path)
    assert data.gold is not None
    assert data.gold.tolist() == gold


def test_amazon_takes_reviews_without_a_title() -> None:
    data = _load("amazon-polarity")
    assert "Great kettle\nBoils fast! No leaks." in data.inputs
    assert "Does what it says." in data.inputs
    assert len(_load("amazon-polarity", limit=3)) == 3
