"""Questions and answers among the 22 NLP sets of Burns et al. 2023 (their Table 1): one formatter each.

The other half, rows that are classes of themselves, is in :mod:`outgrow.tasks.catalogue.sentences`.

Prompts of the paper are not public; these are plain ones. Models cut long texts at the end, so a passage that can be
longer than they read comes last, after the question and the answer. Numbers in comments were counted on the sets.
"""

import re
from collections.abc import Iterator
from typing import Any

from outgrow.tasks.convert import LabelledText, Question, Skipped, from_hub, near_copies
from outgrow.tasks.hub import CONVERTED, HubRow, HubSet, Place

__all__: list[str] = []
"""Importing this module registers the tasks."""

_NO_YES = ("no", "yes")

# --- questions on a passage -------------------------------------------------------------------------------------------

_BOOLQ = HubSet(
    name="boolq",
    places=(Place(repo="google/boolq"), Place(repo="aps/super_glue", config="boolq")),
    rows={"train": 9_427, "validation": 3_270},
    columns=("question", "passage", "answer|label"),
    licence="CC BY-SA 3.0",
)


@from_hub(
    _BOOLQ,
    classes=_NO_YES,
    rows=12_697,
    finish=near_copies,
    about="Is the answer to a question on a passage of Wikipedia yes?",
    traps="62 % are yes, so parts are balanced. 721 passages of the validation split are in training too. Passages "
    "that are nearly the same are a group. 3 % of test rows still have a near-copy (--scan).",
)
def _boolq(row: HubRow) -> LabelledText:
    # The copy in SuperGLUE calls the column label, and puts the title before the passage.
    gold = row.whole("answer" if "answer" in row else "label", 2)
    passage = row.text("passage")
    title, dashes, rest = passage.partition(" -- ")
    key = rest if dashes and "answer" not in row and len(title) < 120 else passage
    return LabelledText(f"Question: {row.text('question')}?\nPassage: {passage}", gold, (key,))


_MULTIRC = HubSet(
    name="multirc",
    places=(
        Place(repo="aps/super_glue", config="multirc"),
        Place(repo="hgissbkh/super_glue", config="multirc"),
    ),
    rows={"train": 27_243, "validation": 4_848},
    columns=("paragraph", "question", "answer", "label"),
    folders=("super_glue_multirc",),
    licence="other (research)",
)


@from_hub(
    _MULTIRC,
    per_question=True,
    about="Is this a right answer to a question on a passage? Several answers of a question may be right.",
    traps="As many right as wrong answers of each question are kept; 57 questions have only one kind.",
)
def _multirc(row: HubRow) -> LabelledText:
    passage, question = row.text("paragraph"), row.text("question")
    text = f"Question: {question}\nAnswer: {row.text('answer')}\nPassage: {passage}"
    return LabelledText(text, row.whole("label", 2), (passage,), question=f"{passage}\n{question}")


_DREAM = HubSet(
    name="dream",
    places=(
        Place(repo="dataset-org/dream", revision="ca4c45feaf089ecfc37579eb2c594375f70dbfd5", data_dir="plain_text"),
    ),
    rows={"train": 6_116, "validation": 2_040, "test": 2_041},
    columns=("dialogue", "question", "choice", "answer"),
    test="test",
    unpacked=lambda entry: _dream_rows(entry),
    originals="data/{train,dev,test}.json of github.com/nlpdata/dream",
    licence="non-commercial research only",
)


def _dream_rows(entry: Any) -> Iterator[dict[str, Any]]:
    """The original JSON: turns, questions, name of the dialogue."""
    turns, questions, _ = entry
    for question in questions:
        yield {"dialogue": turns, **question}


@from_hub(
    _DREAM,
    rows=20_394,
    choices=3,
    finish=near_copies,
    about="Is this the right answer to a question on a dialogue?",
    traps="The dialogue is shown (a common loader leaves it out). Options that repeat the answer are not drawn.",
)
def _dream(row: HubRow) -> Question | Skipped:
    dialogue = "\n".join(row.texts("dialogue"))
    options, answer = row.texts("choice"), row.text("answer")
    if answer not in options:
        return Skipped("the answer is none of the options")
    head = f"Question: {row.text('question')}\nAnswer: "
    return Question(head, options, options.index(answer), (dialogue,), tail=f"\nDialogue:\n{dialogue}")


_QUAIL = HubSet(
    name="quail",
    places=(
        Place(repo="textmachinelab/quail", config="quail"),
        Place(repo="textmachinelab/quail", revision=CONVERTED, data_dir="quail"),
    ),
    rows={"train": 10_246, "validation": 2_164},
    columns=("context_id", "context", "question", "answers", "correct_answer_id", "question_type"),
    licence="CC BY-NC-SA 4.0 (non-commercial)",
)
_UNANSWERABLE = "not enough information"


@from_hub(
    _QUAIL,
    choices=3,
    finish=near_copies,
    about="Is this the right answer to a question on a text of about 340 words?",
    traps="'not enough information' is an option of every question and right for one type only: that type is left out "
    "and the option never shown. The adversarial split 'challenge' is not used. 3 % of test passages still have a "
    "near-copy (--scan).",
)
def _quail(row: HubRow) -> Question | Skipped:
    options = row.texts("answers")
    right = row.whole("correct_answer_id", len(options))
    if row["question_type"] == "Unanswerable":
        return Skipped("of the type Unanswerable")
    return Question(
        f"Question: {row.text('question')}\nAnswer: ",
        options,
        right,
        (row.text("context"), f"text {row.text('context_id')}"),
        tail=f"\nText: {row.text('context')}",
        giveaway=_UNANSWERABLE,
        meta={"question_type": row.text("question_type")},
    )


# --- common sense -----------------------------------------------------------------------------------------------------

_COSMOS = HubSet(
    name="cosmos-qa",
    places=(Place(repo="Samsoup/cosmos_qa"), Place(repo="allenai/cosmos_qa", revision=CONVERTED)),
    rows={"train": 25_262, "validation": 2_985},
    columns=("context", "question", "answer0", "answer1", "answer2", "answer3", "label"),
    licence="CC BY 4.0",
)
_NONE_OF_THEM = "None of the above choices ."


@from_hub(
    _COSMOS,
    choices=3,
    about="Is this the right answer to a question on an everyday story, between the lines?",
    traps="'None of the above choices .' is right in 12 % of the questions that offer it: those are left out and the "
    "option never shown. Words of the answer alone are right in 65 % (--scan).",
)
def _cosmos_qa(row: HubRow) -> Question:
    context = row.text("context")
    return Question(
        f"{context}\nQuestion: {row.text('question')}\nAnswer: ",
        tuple(row.text(f"answer{i}") for i in range(4)),
        row.whole("label", 4),
        (context,),
        giveaway=_NONE_OF_THEM,
    )


_SOCIAL_IQA = HubSet(
    name="social-i-qa",
    places=(
        Place(repo="lighteval/siqa"),
        Place(repo="allenai/social_i_qa", revision="9eb9490eb61bd4ffb5eaedf2ae22e260d8c4019e", data_dir="default"),
    ),
    rows={"train": 33_410, "validation": 1_954},
    columns=("context", "question", "answerA", "answerB", "answerC", "label"),
    licence="not stated",
)


@from_hub(
    _SOCIAL_IQA,
    choices=3,
    about="Is this the right answer to a question on what people do, want and feel?",
    traps="Labels count from 1; a mirror that counts from 0 is refused. Words of the answer alone are right in 57 % "
    "(--scan).",
)
def _social_i_qa(row: HubRow) -> Question:
    if str(row["label"]).strip() == "0":
        raise row.wrong("label", "counts from 0, and so belongs to a mirror with other labels; take lighteval/siqa")
    context = row.text("context")
    head = f"{context}\nQuestion: {row.text('question')}\nAnswer: "
    return Question(head, tuple(row.text(f"answer{c}") for c in "ABC"), row.whole("label", 3, first=1), (context,))


_HELLASWAG = HubSet(
    name="hellaswag",
    places=(Place(repo="Rowan/hellaswag", revision="049e808"),),
    rows={"train": 39_905, "validation": 10_042},
    columns=("ctx", "endings", "label", "source_id"),
    optional=("split_type",),
    licence="MIT",
)


@from_hub(
    _HELLASWAG,
    choices=4,
    about="Is this how a video's caption or a how-to goes on?",
    traps="Marks of the how-to texts ([header], [title], [step]) are taken out; rows of one video or article are a "
    "group.",
)
def _hellaswag(row: HubRow) -> Question:
    head = f"{without_tags(row.text('ctx'))} "
    meta = {"split_type": row.text("split_type")} if "split_type" in row else {"split_type": ""}
    options = tuple(without_tags(e) for e in row.texts("endings"))
    return Question(head, options, row.whole("label", 4), (row.text("source_id"),), meta=meta)


def without_tags(text: str) -> str:
    """A how-to text without its marks: a title becomes a sentence of its own."""
    if "[" not in text:
        return " ".join(text.split())
    text = re.sub(r"(?<=[^\s.!?])\s*\[title\]\s*", ". ", text)
    return " ".join(re.sub(r"\[(?:header|title|step|substeps?)\]", " ", text).split())


_PIQA = HubSet(
    name="piqa",
    places=(
        Place(repo="baber/piqa"),
        Place(repo="lighteval/piqa"),
        Place(repo="ybisk/piqa", revision=CONVERTED),
    ),
    rows={"train": 16_113, "validation": 1_838},
    columns=("goal", "sol1", "sol2", "label"),
    licence="AFL 3.0 (the author's; the hub's card says unknown)",
)


@from_hub(
    _PIQA,
    rows=35_884,
    choices=2,
    about="Does this reach the goal in the physical world?",
    traps="Rows of one goal are a group; 146 goals of the validation split are in training too.",
)
def _piqa(row: HubRow) -> Question:
    goal = row.text("goal")
    return Question(f"Goal: {goal}\nSolution: ", (row.text("sol1"), row.text("sol2")), row.whole("label", 2), (goal,))


_MC_TACO = HubSet(
    name="mc-taco",
    places=(Place(repo="marcov/mc_taco_promptsource"), Place(repo="CogComp/mc_taco", revision=CONVERTED)),
    rows={"test": 9_442, "validation": 3_783},
    columns=("sentence", "question", "answer", "label"),
    optional=("category",),
    train="test",
    test="validation",
    aliases={"validation": ("dev_3783",), "test": ("test_9442",)},
    headerless=("sentence", "question", "answer", "label", "category"),
    originals="dataset/{dev_3783,test_9442}.tsv of github.com/CogComp/MCTACO",
    licence="not stated",
)


@from_hub(
    _MC_TACO,
    rows=6_170,
    per_question=True,
    about="Is this a right answer to a question on time: how long, how often, when, in which order?",
    traps="There is no training split: the larger one, called test, serves as one. As many right as wrong answers of "
    "each question are kept, which leaves out questions with only one kind. Words of the answer alone are right in 67 "
    "% (--scan).",
)
def _mc_taco(row: HubRow) -> LabelledText:
    sentence, question = row.text("sentence"), row.text("question")
    label = row["label"]
    gold = _NO_YES.index(label.strip()) if label in _NO_YES else row.whole("label", 2)
    text = f"{sentence}\nQuestion: {question}\nAnswer: {row.text('answer')}"
    return LabelledText(text, gold, (sentence,), question=f"{sentence}\n{question}")


# --- science ----------------------------------------------------------------------------------------------------------

_OPENBOOKQA = HubSet(
    name="openbookqa",
    places=(Place(repo="allenai/openbookqa", config="additional"),),
    rows={"train": 4_957, "validation": 500, "test": 500},
    columns=("question_stem", "choices", "answerKey"),
    optional=("fact1", "humanScore"),
    test="test",
    folders=("openbookqa_additional",),
    licence="not stated",
)


@from_hub(
    _OPENBOOKQA,
    rows=11_790,
    choices=4,
    about="Is this the right answer to a question of elementary science?",
    traps="Right and wrong answers are both shown as texts (common loaders show the letter for the right one). "
    "Questions that rest on the same fact are a group, where the data names the fact. Words of the answer alone are "
    "right in 61 % (--scan).",
)
def _openbookqa(row: HubRow) -> Question:
    stem = row.text("question_stem")
    keys = (stem, f"fact: {row.text('fact1')}") if "fact1" in row else (stem,)
    # How many people got it wrong.
    meta = {"difficulty": 1 - float(row["humanScore"]) if "humanScore" in row else float("nan")}
    return Question(f"{stem}\nAnswer: ", *_lettered(row), keys, meta=meta)


def _lettered(row: HubRow) -> tuple[tuple[str, ...], int]:
    """Texts of the options, and the place of the right one."""
    choices, key = row["choices"], row.text("answerKey")
    if not isinstance(choices, dict) or key not in [str(c).strip() for c in choices.get("label", ())]:
        raise row.wrong("answerKey", f"is no label of the choices {choices!r:.80}")
    return tuple(str(t).strip() for t in choices["text"]), [str(c).strip() for c in choices["label"]].index(key)


_QUARTZ = HubSet(
    name="quartz",
    places=(Place(repo="allenai/quartz", revision="28c1dbb"),),
    rows={"train": 2_696, "validation": 384, "test": 784},
    columns=("question", "choices", "answerKey", "para", "para_id"),
    test="test",
    licence="CC BY 4.0",
)


@from_hub(
    _QUARTZ,
    choices=2,
    about="Is this the right answer to a question on a qualitative relation (the faster, the more ...)?",
    traps="Annotations that tell the answer are never read; questions on one sentence, flipped twins among them, are "
    "a group.",
)
def _quartz(row: HubRow) -> Question:
    head = f"{row.text('para')}\nQuestion: {row.text('question')}\nAnswer: "
    return Question(head, *_lettered(row), (row.text("para_id"),))


_SCIQ = HubSet(
    name="sciq",
    places=(Place(repo="allenai/sciq"),),
    rows={"train": 11_679, "validation": 1_000, "test": 1_000},
    columns=("question", "correct_answer", "distractor1", "distractor2", "distractor3"),
    optional=("support",),
    test="test",
    licence="CC BY-NC 3.0 (non-commercial)",
)


@from_hub(
    _SCIQ,
    choices=4,
    about="Is this the right answer to a question of a science exam?",
    traps="The supporting passage, which mostly holds the answer's very words, is not shown; questions that share one "
    "are a group. Words of the answer alone are right in 56 % (--scan).",
)
def _sciq(row: HubRow) -> Question:
    question = row.text("question")
    keys = (question, f"support: {row.text('support')}") if "support" in row and row["support"].strip() else (question,)
    options = tuple(row.text(c) for c in ("correct_answer", "distractor1", "distractor2", "distractor3"))
    return Question(f"Question: {question}\nAnswer: ", options, 0, keys)
