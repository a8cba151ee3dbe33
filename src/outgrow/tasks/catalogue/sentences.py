"""Sentences and pairs of them among the 22 NLP sets of Burns et al. 2023 (their Table 1), and Amazon reviews.

Ethics, inference, grammar, paraphrase, word sense, sentiment: one formatter each, as in ``nlp``.
"""

from collections import defaultdict
from itertools import pairwise
from typing import Any

from outgrow.tasks.convert import Item, LabelledText, Pair, Skipped, from_hub, near_copies, same
from outgrow.tasks.hub import CONVERTED, Files, HubRow, HubSet, Place

__all__: list[str] = []
"""Importing this module registers the tasks."""

# --- ethics -----------------------------------------------------------------------------------------------------------


def _ethics_files(files: Files) -> Files:
    # Where a copy has three files called train, validation and test, test is the adversarially filtered one.
    if "validation" not in files:
        return files
    return {"train": files.get("train", ()), "test": files["validation"], "test_hard": files.get("test", ())}


def _ethics(part: str, train: int, test: int, hard: int, columns: tuple[str, ...], **more: Any) -> HubSet:
    rows = {"train": train, "test": test}
    return HubSet(
        name=f"ethics-{part}",
        places=(
            Place(
                repo="hendrycks/ethics",
                files={split: f"data/{part}/{split}.csv" for split in ("train", "test", "test_hard")},
                # Read with a header, the first row of each file of this part is lost.
                column_names=("baseline", "less_pleasant") if part == "utilitarianism" else None,
            ),
            Place(repo="EleutherAI/hendrycks_ethics", revision=CONVERTED, data_dir=part, rows=rows),
            Place(repo="lighteval/hendrycks_ethics", config=part, rows=rows),
        ),
        rows={**rows, "test_hard": hard},
        columns=columns,
        test="test",
        renamed=_ethics_files,
        licence="MIT",
        **more,
    )


def _runs(items: list[Item]) -> list[Item]:
    """Minimal pairs stand next to each other in the file and begin alike; 15 characters tell them (7,244 in train)."""
    run = 0
    tied = []
    for before, item in pairwise([None, *items]):
        assert item is not None
        assert isinstance(item.what, LabelledText)
        if before is not None:
            assert isinstance(before.what, LabelledText)
            is_next = before.split == item.split and before.number + 1 == item.number
            run += not (is_next and before.what.text[:15] == item.what.text[:15])
        tied.append(item._replace(what=item.what._replace(keys=(item.what.text, f"run {run}"))))
    return tied


@from_hub(
    _ethics("justice", 21_791, 2_704, 2_052, ("label", "scenario")),
    classes=("unreasonable", "reasonable"),
    hard_test=True,
    finish=_runs,
    about="Is this a fair claim, or a good reason to treat someone otherwise than usual?",
    traps="Minimal pairs are not marked in the data: neighbours in the file that begin alike are a group. Words that "
    "differ within a group tell the class in 66 % (--scan).",
)
def _justice(row: HubRow) -> LabelledText:
    return LabelledText(row.text("scenario"), row.whole("label", 2))


@from_hub(
    _ethics("deontology", 18_164, 3_596, 3_536, ("label", "scenario", "excuse")),
    rows=21_758,
    classes=("unreasonable", "reasonable"),
    hard_test=True,
    about="Is this a good excuse from a duty, or part of the duties of a role?",
    traps="Groups are scenarios; the column group_id of some copies is wrong for training. 325 of the 899 test "
    "scenarios are in training too. Words of the excuse alone tell the class in 73 % (--scan).",
)
def _deontology(row: HubRow) -> LabelledText:
    scenario = row.text("scenario")
    return LabelledText(f"{scenario}\n{row.text('excuse')}", row.whole("label", 2), (scenario,))


@from_hub(
    _ethics("virtue", 28_245, 4_975, 4_780, ("label", "scenario"), optional=("trait",)),
    rows=32_978,
    classes=("no", "yes"),
    hard_test=True,
    about="Does the person in the scenario show this trait of character?",
    traps="8.6 % of training and 20 % of the test are yes, so parts are balanced. 874 of the 995 test scenarios are in "
    "training too, with few yes there: take split_mode='pooled'. The trait alone tells the class in 73 % (--scan).",
)
def _virtue(row: HubRow) -> LabelledText:
    scenario = row.text("scenario")
    if "trait" in row:
        trait = row.text("trait")
    else:
        scenario, mark, trait = (part.strip() for part in scenario.rpartition(" [SEP] "))
        if not mark:
            raise row.wrong("scenario", "has no [SEP] before the trait")
    return LabelledText(f"{scenario}\nTrait: {trait}", row.whole("label", 2), (scenario,))


@from_hub(
    _ethics(
        "utilitarianism",
        13_738,
        4_808,
        4_272,
        ("baseline", "less_pleasant|activity"),
        headerless=("baseline", "less_pleasant"),
    ),
    rows=18_381,
    classes=("second", "first"),
    choices=2,
    hard_test=True,
    about="Which of two situations is the more pleasant?",
    traps="The more pleasant one comes first in every row of the file, so the order is drawn. 'baseline' is the more "
    "pleasant one in one copy and the less pleasant one in another.",
)
def _utilitarianism(row: HubRow) -> Pair:
    better, worse = ("baseline", "less_pleasant") if "less_pleasant" in row else ("activity", "baseline")
    texts = row.text(better), row.text(worse)
    return Pair(*texts, texts)


# --- inference, grammar, paraphrase, word sense -----------------------------------------------------------------------

_ANLI = HubSet(
    name="anli-r2",
    places=(Place(repo="facebook/anli", config="plain_text"),),
    rows={"train_r2": 45_460, "dev_r2": 1_000, "test_r2": 1_000},
    columns=("premise", "hypothesis", "label"),
    train="train_r2",
    test="test_r2",
    folders=("anli",),
    licence="CC BY-NC 4.0 (non-commercial)",
)


@from_hub(
    _ANLI,
    classes=("not entailed", "entailed"),
    about="Does the hypothesis follow from the premise? Written to fool a model, second round.",
    traps="Neutral and contradiction are one class. The annotator's reason, which gives the label away, is never read.",
)
def _anli(row: HubRow) -> LabelledText:
    premise = row.text("premise")
    return LabelledText(f"{premise}\nHypothesis: {row.text('hypothesis')}", int(row.whole("label", 3) == 0), (premise,))


_COLA = HubSet(
    name="cola",
    places=(Place(repo="nyu-mll/glue", config="cola"),),
    rows={"train": 8_551, "validation": 1_043},
    columns=("sentence", "label"),
    licence="other (GLUE)",
)


@from_hub(
    _COLA,
    rows=9_569,
    classes=("unacceptable", "acceptable"),
    finish=near_copies,
    about="Is this sentence grammatical English?",
    traps="70 % are acceptable, so parts are balanced. Sentences that differ in a word or two are a group. 2 % of test "
    "rows still have a near-copy (--scan).",
)
def _cola(row: HubRow) -> LabelledText:
    return LabelledText(row.text("sentence"), row.whole("label", 2))


_PAWS = HubSet(
    name="paws",
    places=(
        Place(
            repo="google-research-datasets/paws",
            revision="161ece9501cf0a11f3e48bd356eaa82de46d6a09",
            config="labeled_final",
        ),
    ),
    rows={"train": 49_401, "validation": 8_000, "test": 8_000},
    columns=("sentence1", "sentence2", "label"),
    test="test",
    licence="other (free for any purpose)",
)


@from_hub(
    _PAWS,
    classes=("different", "paraphrase"),
    about="Do two sentences of the same words mean the same?",
    traps="Pairs that share a sentence, directly or through others, are a group.",
)
def _paws(row: HubRow) -> LabelledText:
    both = row.text("sentence1"), row.text("sentence2")
    return LabelledText("\n".join(both), row.whole("label", 2), both)


_WIC = HubSet(
    name="wic",
    places=(Place(repo="aps/super_glue", config="wic"), Place(repo="hgissbkh/super_glue", config="wic")),
    rows={"train": 5_428, "validation": 638},
    columns=("word", "sentence1", "sentence2", "start1", "start2", "end1", "end2", "label"),
    folders=("super_glue_wic",),
    licence="other (research)",
)


@from_hub(
    _WIC,
    rows=6_066,
    classes=("different", "same"),
    about="Does a word have the same sense in two sentences?",
    traps="Rows that share a sentence, directly or through others, are a group; 98 of the 638 validation rows share "
    "one with training.",
)
def _wic(row: HubRow) -> LabelledText:
    # As stored: offsets count the white space that text() takes away.
    first, second = str(row["sentence1"]), str(row["sentence2"])
    text = f"{_marked(row, first, '1')}\n{_marked(row, second, '2')}\nSame sense of {row.text('word')}?"
    return LabelledText(text, row.whole("label", 2), (first, second))


def _marked(row: HubRow, sentence: str, which: str) -> str:
    """The sentence with stars around the word, whose form may differ from the dictionary's."""
    start, end = (row.whole(f"{name}{which}", len(sentence) + 1) for name in ("start", "end"))
    if start >= end:
        raise row.wrong(f"end{which}", "is not behind the word's start")
    return f"{sentence[:start]}*{sentence[start:end]}*{sentence[end:]}".strip()


# --- sentiment --------------------------------------------------------------------------------------------------------


def _with_longest(items: list[Item]) -> list[Item]:
    """Each phrase tied to the longest text that holds it: rows of training are pieces of sentences' parse trees.

    Only texts that no longer one holds are cut into all their pieces, so the work grows with the number of sentences.
    """
    rows_of: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)
    for number, item in enumerate(items):
        assert isinstance(item.what, LabelledText)
        rows_of[tuple(same(item.what.text).split())].append(number)
    holder: dict[tuple[str, ...], str] = {}
    for words in sorted(rows_of, key=lambda w: (-len(w), w)):
        if words in holder:
            continue
        whole = " ".join(words)
        for start in range(len(words)):
            for end in range(start + 1, len(words) + 1):
                if (piece := words[start:end]) in rows_of:
                    holder.setdefault(piece, whole)
    tied = list(items)
    for words, numbers in rows_of.items():
        for number in numbers:
            tied[number] = items[number]._replace(what=items[number].what._replace(keys=(holder[words],)))
    return tied


_SST2 = HubSet(
    name="sst2",
    places=(Place(repo="stanfordnlp/sst2", revision="8d51e7e"), Place(repo="nyu-mll/glue", config="sst2")),
    rows={"train": 67_349, "validation": 872},
    columns=("sentence", "label"),
    licence="not stated",
)


@from_hub(
    _SST2,
    classes=("negative", "positive"),
    finish=_with_longest,
    about="Is this sentence, or piece of one, of a film review positive?",
    traps="Training rows are pieces of sentences: each is of one group with the longest row that holds it. Validation "
    "rows are whole sentences, so an official test is longer than training.",
)
def _sst2(row: HubRow) -> LabelledText:
    return LabelledText(row.text("sentence"), row.whole("label", 2))


def _polarity(items: list[Item]) -> list[Item]:
    """Classes out of the codes of three copies: 0 and 1; 0, 1 (neutral) and 2; 0, 2 (neutral) and 4."""
    codes = sorted({item.what.gold for item in items if isinstance(item.what, LabelledText)})
    positive = next((p for p in (4, 2, 1) if p in codes), 1)
    return [
        item._replace(what=item.what._replace(gold=int(item.what.gold == positive)))
        for item in items
        if isinstance(item.what, LabelledText) and item.what.gold in (0, positive)
    ]


_TWITTER = HubSet(
    name="twitter-sentiment",
    places=(
        Place(repo="EleutherAI/twitter-sentiment", revision="7c4f320"),
        Place(
            repo="cardiffnlp/tweet_eval",
            config="sentiment",
            rows={"train": 45_615, "validation": 2_000, "test": 12_284},
        ),
    ),
    rows={"train": None, "test": None},
    columns=("text", "label|sentiment"),
    test="test",
    licence="not stated",
)


@from_hub(
    _TWITTER,
    classes=("negative", "positive"),
    finish=_polarity,
    sampled=lambda row: row.text("text"),
    limit=100_000,
    about="Is this tweet positive? Labels are probably those of emoticons, and noisy.",
    traps="Which set the paper used is not certain. Copies code the classes in three ways, told apart by the codes; "
    "neutral rows are left out. Length alone tells the class in 56 % (--scan).",
)
def _twitter(row: HubRow) -> LabelledText | Skipped:
    return LabelledText(row.text("text"), row.whole("label" if "label" in row else "sentiment", 5))


_AMAZON = HubSet(
    name="amazon-polarity",
    places=(Place(repo="fancyzhx/amazon_polarity", revision="9d9c45c"),),
    rows={"train": 3_600_000, "test": 400_000},
    columns=("title", "content", "label"),
    test="test",
    licence="Apache 2.0",
)


@from_hub(
    _AMAZON,
    classes=("negative", "positive"),
    sampled=lambda row: row.text("content"),
    limit=100_000,
    about="Is this review of a product positive (4 or 5 stars), or negative (1 or 2)? One of the released code's sets.",
    traps="A group is a review's text; rows are drawn from the whole file, not taken from its start.",
)
def _amazon_polarity(row: HubRow) -> LabelledText:
    content = row.text("content")
    return LabelledText(f"{str(row['title'] or '').strip()}\n{content}".strip(), row.whole("label", 2), (content,))
