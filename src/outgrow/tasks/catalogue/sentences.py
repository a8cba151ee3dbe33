"""Sentences and pairs of sentences: the other half of the 22 NLP sets of Burns et al. 2023 (their Table 1), and Amazon
reviews.

Ethics, inference, grammar, paraphrase, word sense, sentiment: one formatter each, as in ``nlp``.
"""

from typing import Any

from outgrow.tasks.convert import HubTask, Item, LabeledText, Pair, Skipped, near_copies, same
from outgrow.tasks.hub import CONVERTED, Files, HubRow, Place

__all__: list[str] = []
"""Importing this module registers the tasks."""

# --- ethics -----------------------------------------------------------------------------------------------------------


def _ethics_files(files: Files) -> Files:
    # In a copy with three files called train, validation and test, test is the adversarially filtered one.
    if "validation" not in files:
        return files
    return {"train": files.get("train", ()), "test": files["validation"], "test_hard": files.get("test", ())}


def _ethics(part: str, rows_of: tuple[int, int, int], **facts: Any) -> HubTask:
    """A part of the set, given the rows of its splits."""
    splits = dict(zip(("train", "test", "test_hard"), rows_of, strict=True))
    ordinary = {split: splits[split] for split in ("train", "test")}
    return HubTask(
        name=f"ethics-{part}",
        places=(
            Place(
                "hendrycks/ethics",
                files={split: f"data/{part}/{split}.csv" for split in splits},
                # The files of this part have no header; read with one, each loses its first row.
                column_names=("baseline", "less_pleasant") if part == "utilitarianism" else None,
            ),
            Place("EleutherAI/hendrycks_ethics", revision=CONVERTED, data_dir=part, splits=ordinary),
            Place("lighteval/hendrycks_ethics", config=part, splits=ordinary),
        ),
        splits=splits,
        renamed=_ethics_files,
        licence="MIT",
        **facts,
    )


def _runs(items: list[Item]) -> list[Item]:
    """Minimal pairs stand next to each other in the file and begin alike; 15 characters tell them (7,244 in train)."""
    run, tied = 0, []
    for before, item in zip([None, *items], items, strict=False):
        (text,) = item.keys
        if before is not None:
            is_next = (before.split, before.number + 1) == (item.split, item.number)
            run += not (is_next and before.keys[0][:15] == text[:15])
        tied.append(item.tied(text, f"run {run}"))
    return tied


@_ethics(
    "justice",
    (21_791, 2_704, 2_052),
    question="{text}\nIs this reasonable (yes or no):",
    words=("no", "yes"),
    columns=("label", "scenario"),
    classes=("unreasonable", "reasonable"),
    finish=_runs,
    about="Is this a fair claim, or a good reason to treat someone other than usual?",
    traps="The data does not mark minimal pairs: neighbors in the file that begin alike form a group. Words that "
    "differ within a group predict the class in 66 % (--scan).",
)
def _justice(row: HubRow) -> LabeledText:
    return LabeledText(row.text("scenario"), row.whole("label", 2))


@_ethics(
    "deontology",
    (18_164, 3_596, 3_536),
    question="{text}\nIs this reasonable (yes or no):",
    words=("no", "yes"),
    columns=("label", "scenario", "excuse"),
    rows=21_758,
    classes=("unreasonable", "reasonable"),
    about="Is this a good excuse from a duty, or part of the duties of a role?",
    traps="A group is a scenario; the column group_id of some copies is wrong for training. 325 of the 899 test "
    "scenarios are also in training. The words of the excuse alone predict the class in 73 % (--scan).",
)
def _deontology(row: HubRow) -> LabeledText:
    scenario = row.text("scenario")
    return LabeledText(f"{scenario}\n{row.text('excuse')}", row.whole("label", 2), (scenario,))


@_ethics(
    "virtue",
    (28_245, 4_975, 4_780),
    question="{text}\nDoes the person show this trait (yes or no):",
    words=("no", "yes"),
    columns=("label", "scenario", "trait?"),
    rows=32_978,
    classes=("no", "yes"),
    about="Does the person in the scenario show this character trait?",
    traps="8.6 % of training and 20 % of the test are yes, so the parts are balanced. 874 of the 995 test scenarios "
    "are also in training, with few yes there: use split_mode='pooled'. The trait alone predicts the class in 73 % "
    "(--scan).",
)
def _virtue(row: HubRow) -> LabeledText:
    scenario = row.text("scenario")
    if "trait" in row:
        trait = row.text("trait")
    else:
        scenario, mark, trait = (part.strip() for part in scenario.rpartition(" [SEP] "))
        if not mark:
            raise row.wrong("scenario", "has no [SEP] before the trait")
    return LabeledText(f"{scenario}\nTrait: {trait}", row.whole("label", 2), (scenario,))


@_ethics(
    "utilitarianism",
    (13_738, 4_808, 4_272),
    question="{text}\nWhich is more pleasant (first or second):",
    columns=("baseline", "less_pleasant|activity"),
    headerless=("baseline", "less_pleasant"),
    rows=18_381,
    classes=("second", "first"),
    choices=2,
    about="Which of two situations is more pleasant?",
    traps="The more pleasant one comes first in every row of the file, so the order is drawn. 'baseline' is the more "
    "pleasant one in one copy and the less pleasant one in another.",
)
def _utilitarianism(row: HubRow) -> Pair:
    better, worse = ("baseline", "less_pleasant") if "less_pleasant" in row else ("activity", "baseline")
    texts = row.text(better), row.text(worse)
    return Pair(*texts, texts)


# --- inference, grammar, paraphrase, word sense -----------------------------------------------------------------------


@HubTask(
    name="anli-r2",
    question="{text}\nDoes the hypothesis follow (yes or no):",
    words=("no", "yes"),
    places=(Place("facebook/anli", config="plain_text"),),
    splits={"train_r2": 45_460, "dev_r2": 1_000, "test_r2": 1_000},
    columns=("premise", "hypothesis", "label"),
    folders=("anli",),
    licence="CC BY-NC 4.0 (non-commercial)",
    classes=("not entailed", "entailed"),
    about="Does the hypothesis follow from the premise? Written to fool a model, second round.",
    traps="Neutral and contradiction are one class. The annotator's reason, which gives the label away, is never read.",
)
def _anli(row: HubRow) -> LabeledText:
    premise = row.text("premise")
    return LabeledText(f"{premise}\nHypothesis: {row.text('hypothesis')}", int(row.whole("label", 3) == 0), (premise,))


@HubTask(
    name="cola",
    question="Sentence: {text}\nIs it grammatical English (yes or no):",
    words=("no", "yes"),
    places=(Place("nyu-mll/glue", config="cola"),),
    splits={"train": 8_551, "validation": 1_043},
    columns=("sentence", "label"),
    licence="other (GLUE)",
    rows=9_569,
    classes=("unacceptable", "acceptable"),
    finish=near_copies,
    about="Is this sentence grammatical English?",
    traps="70 % are acceptable, so the parts are balanced. Sentences that differ in a word or two form a group; 2 % of "
    "the test rows still have a near-copy (--scan).",
)
def _cola(row: HubRow) -> LabeledText:
    return LabeledText(row.text("sentence"), row.whole("label", 2))


@HubTask(
    name="paws",
    question="{text}\nDo the two sentences mean the same (yes or no):",
    words=("no", "yes"),
    places=(
        Place(
            "google-research-datasets/paws",
            revision="161ece9501cf0a11f3e48bd356eaa82de46d6a09",
            config="labeled_final",
        ),
    ),
    splits={"train": 49_401, "validation": 8_000, "test": 8_000},
    columns=("sentence1", "sentence2", "label"),
    licence="other (free for any purpose)",
    classes=("different", "paraphrase"),
    about="Do two sentences with the same words mean the same?",
    traps="Pairs that share a sentence, directly or through others, form a group.",
)
def _paws(row: HubRow) -> LabeledText:
    both = row.text("sentence1"), row.text("sentence2")
    return LabeledText("\n".join(both), row.whole("label", 2), both)


@HubTask(
    name="wic",
    question="{text}\nAnswer (yes or no):",
    words=("no", "yes"),
    places=(Place("aps/super_glue", config="wic"), Place("hgissbkh/super_glue", config="wic")),
    splits={"train": 5_428, "validation": 638},
    columns=("word", "sentence1", "sentence2", "start1", "start2", "end1", "end2", "label"),
    folders=("super_glue_wic",),
    licence="other (research)",
    rows=6_066,
    classes=("different", "same"),
    about="Does a word have the same sense in two sentences?",
    traps="Rows that share a sentence, directly or through others, form a group; 98 of the 638 validation rows share "
    "one with training.",
)
def _wic(row: HubRow) -> LabeledText:
    # As stored: the offsets count the white space that text() removes.
    first, second = str(row["sentence1"]), str(row["sentence2"])
    text = f"{_marked(row, first, '1')}\n{_marked(row, second, '2')}\nSame sense of {row.text('word')}?"
    return LabeledText(text, row.whole("label", 2), (first, second))


def _marked(row: HubRow, sentence: str, which: str) -> str:
    """The sentence with stars around the word, whose form may differ from the dictionary's."""
    start, end = (row.whole(f"{name}{which}", len(sentence) + 1) for name in ("start", "end"))
    if start >= end:
        raise row.wrong(f"end{which}", "does not lie behind the word's start")
    return f"{sentence[:start]}*{sentence[start:end]}*{sentence[end:]}".strip()


# --- sentiment --------------------------------------------------------------------------------------------------------


def _with_longest(items: list[Item]) -> list[Item]:
    """Each phrase tied to the longest text that holds it: rows of training are pieces of sentences' parse trees.

    Only texts that no longer text holds are cut into all their pieces, so the work grows with the number of sentences.
    """
    words_of = [tuple(same(item.keys[0]).split()) for item in items]
    known = set(words_of)
    holder: dict[tuple[str, ...], str] = {}
    for words in sorted(known, key=lambda w: (-len(w), w)):
        if words in holder:
            continue
        whole = " ".join(words)
        for start in range(len(words)):
            for end in range(start + 1, len(words) + 1):
                if (piece := words[start:end]) in known:
                    holder.setdefault(piece, whole)
    return [item.tied(holder[words]) for item, words in zip(items, words_of, strict=True)]


@HubTask(
    name="sst2",
    question="Review: {text}\nSentiment (positive or negative):",
    places=(Place("stanfordnlp/sst2", revision="8d51e7e"), Place("nyu-mll/glue", config="sst2")),
    splits={"train": 67_349, "validation": 872},
    columns=("sentence", "label"),
    licence="not stated",
    classes=("negative", "positive"),
    finish=_with_longest,
    about="Is this sentence, or piece of a sentence, from a film review positive?",
    traps="Training rows are pieces of sentences; each shares a group with the longest row that holds it. Validation "
    "rows are whole sentences, so the official test has longer texts than training.",
)
def _sst2(row: HubRow) -> LabeledText:
    return LabeledText(row.text("sentence"), row.whole("label", 2))


def _polarity(items: list[Item]) -> list[Item | Skipped]:
    """Classes from the codes of three copies: 0 and 1; 0, 1 (neutral) and 2; 0, 2 (neutral) and 4."""
    texts = [item.what for item in items if isinstance(item.what, LabeledText)]
    codes = {text.gold for text in texts}
    positive = next((p for p in (4, 2, 1) if p in codes), 1)
    return [
        item._replace(what=text._replace(gold=int(text.gold == positive)))
        if text.gold in (0, positive)
        else Skipped("neutral")
        for item, text in zip(items, texts, strict=True)
    ]


@HubTask(
    name="twitter-sentiment",
    question="Tweet: {text}\nSentiment (positive or negative):",
    places=(
        Place("EleutherAI/twitter-sentiment", revision="7c4f320"),
        Place(
            "cardiffnlp/tweet_eval", config="sentiment", splits={"train": 45_615, "validation": 2_000, "test": 12_284}
        ),
    ),
    splits={"train": None, "test": None},
    columns=("text", "label|sentiment"),
    licence="not stated",
    classes=("negative", "positive"),
    finish=_polarity,
    sampled=lambda row: row.text("text"),
    limit=100_000,
    about="Is this tweet positive? The labels are noisy; they were probably made from emoticons.",
    traps="It is not certain which set the paper used. Copies code the classes in three ways, told apart by the codes; "
    "neutral rows are left out. Length alone predicts the class in 56 % (--scan).",
)
def _twitter(row: HubRow) -> LabeledText:
    return LabeledText(row.text("text"), row.whole("label" if "label" in row else "sentiment", 5))


@HubTask(
    name="amazon-polarity",
    question="Review: {text}\nSentiment (positive or negative):",
    places=(Place("fancyzhx/amazon_polarity", revision="9d9c45c"),),
    splits={"train": 3_600_000, "test": 400_000},
    columns=("title", "content", "label"),
    licence="Apache 2.0",
    classes=("negative", "positive"),
    sampled=lambda row: row.text("content"),
    limit=100_000,
    about="Is this product review positive (4 or 5 stars) or negative (1 or 2)? One of the sets in the released code.",
    traps="A group is the text of a review. Rows are drawn from the whole file, not taken from its start.",
)
def _amazon_polarity(row: HubRow) -> LabeledText:
    content = row.text("content")
    return LabeledText(f"{str(row['title'] or '').strip()}\n{content}".strip(), row.whole("label", 2), (content,))
