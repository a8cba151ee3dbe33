"""Questions and answers: half of the 22 NLP sets of Burns et al. 2023 (their Table 1), one formatter each.

The other half, sets whose rows have a class of their own, is in :mod:`outgrow.tasks.catalogue.sentences`.

The paper's prompts are not public; these are plain ones. Models cut long texts at the end, so a passage that may be too
long for them comes last, after the question and the answer. Numbers in ``traps`` were counted on the sets.
"""

import re
from collections.abc import Iterator
from typing import Any

from outgrow.tasks.convert import HubTask, LabeledText, Question, Skipped, near_copies
from outgrow.tasks.hub import CONVERTED, HubRow, Place

__all__: list[str] = []
"""Importing this module registers the tasks."""

_NO_YES = ("no", "yes")

# --- questions on a passage -------------------------------------------------------------------------------------------


@HubTask(
    name="boolq",
    question="{text}\nAnswer (yes or no):",
    words=("no", "yes"),
    places=(Place("google/boolq"), Place("aps/super_glue", config="boolq")),
    splits={"train": 9_427, "validation": 3_270},
    columns=("question", "passage", "answer|label"),
    licence="CC BY-SA 3.0",
    classes=_NO_YES,
    rows=12_697,
    finish=near_copies,
    about="Is the answer to this question about a Wikipedia passage yes?",
    traps="62 % are yes, so the parts are balanced. 721 passages of the validation split are also in training. "
    "Passages that are nearly the same form a group; 3 % of the test rows still have a near-copy (--scan).",
)
def _boolq(row: HubRow) -> LabeledText:
    # The copy in SuperGLUE calls the column label, and puts the title before the passage.
    gold = row.whole("answer" if "answer" in row else "label", 2)
    passage = row.text("passage")
    title, dashes, rest = passage.partition(" -- ")
    key = rest if dashes and "answer" not in row and len(title) < 120 else passage
    return LabeledText(f"Question: {row.text('question')}?\nPassage: {passage}", gold, (key,))


@HubTask(
    name="multirc",
    question="{text}\nIs this answer right (yes or no):",
    words=("no", "yes"),
    places=(Place("aps/super_glue", config="multirc"), Place("hgissbkh/super_glue", config="multirc")),
    splits={"train": 27_243, "validation": 4_848},
    columns=("paragraph", "question", "answer", "label"),
    folders=("super_glue_multirc",),
    licence="other (research)",
    per_question=True,
    about="Is this a right answer to a question about a passage? A question may have several right answers.",
    traps="Each question keeps as many right as wrong answers; 57 questions have only one kind and drop out.",
)
def _multirc(row: HubRow) -> LabeledText:
    passage, question = row.text("paragraph"), row.text("question")
    text = f"Question: {question}\nAnswer: {row.text('answer')}\nPassage: {passage}"
    return LabeledText(text, row.whole("label", 2), (passage,), question=f"{passage}\n{question}")


def _dream_rows(entry: Any) -> Iterator[dict[str, Any]]:
    """The original JSON: turns, questions, name of the dialogue."""
    turns, questions, _ = entry
    for question in questions:
        yield {"dialogue": turns, **question}


@HubTask(
    name="dream",
    question="{text}\nIs this answer right (yes or no):",
    words=("no", "yes"),
    places=(Place("dataset-org/dream", revision="ca4c45feaf089ecfc37579eb2c594375f70dbfd5", data_dir="plain_text"),),
    splits={"train": 6_116, "validation": 2_040, "test": 2_041},
    columns=("dialogue", "question", "choice", "answer"),
    unpacked=_dream_rows,
    originals="data/{train,dev,test}.json of github.com/nlpdata/dream",
    licence="non-commercial research only",
    rows=20_394,
    choices=3,
    finish=near_copies,
    about="Is this the right answer to a question about a dialogue?",
    traps="The dialogue is shown (a common loader leaves it out). Options that repeat the answer are never drawn.",
)
def _dream(row: HubRow) -> Question | Skipped:
    dialogue = "\n".join(row.texts("dialogue"))
    options, answer = row.texts("choice"), row.text("answer")
    if answer not in options:
        return Skipped("the answer is none of the options")
    head = f"Question: {row.text('question')}\nAnswer: "
    return Question(head, options, options.index(answer), (dialogue,), tail=f"\nDialogue:\n{dialogue}")


@HubTask(
    name="quail",
    question="{text}\nIs this answer right (yes or no):",
    words=("no", "yes"),
    places=(
        Place("textmachinelab/quail", config="quail"),
        Place("textmachinelab/quail", revision=CONVERTED, data_dir="quail"),
    ),
    splits={"train": 10_246, "validation": 2_164},
    columns=("context_id", "context", "question", "answers", "correct_answer_id", "question_type"),
    licence="CC BY-NC-SA 4.0 (non-commercial)",
    choices=3,
    finish=near_copies,
    about="Is this the right answer to a question about a text of some 340 words?",
    traps="'not enough information' is an option of every question but is right for one type only: that type is left "
    "out, and the option is never shown. The adversarial split 'challenge' is not used. 3 % of the test passages "
    "still have a near-copy (--scan).",
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
        giveaway="not enough information",
        meta={"question_type": row.text("question_type")},
    )


# --- common sense -----------------------------------------------------------------------------------------------------


@HubTask(
    name="cosmos-qa",
    question="{text}\nIs this answer right (yes or no):",
    words=("no", "yes"),
    places=(Place("Samsoup/cosmos_qa"), Place("allenai/cosmos_qa", revision=CONVERTED)),
    splits={"train": 25_262, "validation": 2_985},
    columns=("context", "question", "answer0", "answer1", "answer2", "answer3", "label"),
    licence="CC BY 4.0",
    choices=3,
    about="Is this the right answer to a question about an everyday story, read between the lines?",
    traps="'None of the above choices .' is right in 12 % of the questions that offer it: those are left out, and the "
    "option is never shown. The words of the answer alone predict the class in 65 % (--scan).",
)
def _cosmos_qa(row: HubRow) -> Question:
    context = row.text("context")
    return Question(
        f"{context}\nQuestion: {row.text('question')}\nAnswer: ",
        tuple(row.text(f"answer{i}") for i in range(4)),
        row.whole("label", 4),
        (context,),
        giveaway="None of the above choices .",
    )


@HubTask(
    name="social-i-qa",
    question="{text}\nIs this answer right (yes or no):",
    words=("no", "yes"),
    places=(
        Place("lighteval/siqa"),
        Place("allenai/social_i_qa", revision="9eb9490eb61bd4ffb5eaedf2ae22e260d8c4019e", data_dir="default"),
    ),
    splits={"train": 33_410, "validation": 1_954},
    columns=("context", "question", "answerA", "answerB", "answerC", "label"),
    licence="not stated",
    choices=3,
    about="Is this the right answer to a question about what people do, want and feel?",
    traps="Labels count from 1; a mirror that counts from 0 is refused. The words of the answer alone predict the "
    "class in 57 % (--scan).",
)
def _social_i_qa(row: HubRow) -> Question:
    if str(row["label"]).strip() == "0":
        raise row.wrong("label", "counts from 0, so this is a mirror with other labels; use lighteval/siqa")
    context = row.text("context")
    head = f"{context}\nQuestion: {row.text('question')}\nAnswer: "
    return Question(head, tuple(row.text(f"answer{c}") for c in "ABC"), row.whole("label", 3, first=1), (context,))


@HubTask(
    name="hellaswag",
    question="{text}\nIs this how it goes on (yes or no):",
    words=("no", "yes"),
    places=(Place("Rowan/hellaswag", revision="049e808"),),
    splits={"train": 39_905, "validation": 10_042},
    columns=("ctx", "endings", "label", "source_id", "split_type?"),
    licence="MIT",
    choices=4,
    about="Is this how the caption of a video, or a how-to, continues?",
    traps="The marks of the how-to texts ([header], [title], [step]) are removed. Rows of one video or article form a "
    "group.",
)
def _hellaswag(row: HubRow) -> Question:
    head = f"{without_tags(row.text('ctx'))} "
    meta = {"split_type": row.text("split_type")} if "split_type" in row else {"split_type": ""}
    options = tuple(without_tags(e) for e in row.texts("endings"))
    return Question(head, options, row.whole("label", 4), (row.text("source_id"),), meta=meta)


def without_tags(text: str) -> str:
    """A how-to text without its marks; a title becomes a sentence of its own."""
    if "[" not in text:
        return " ".join(text.split())
    text = re.sub(r"(?<=[^\s.!?])\s*\[title\]\s*", ". ", text)
    return " ".join(re.sub(r"\[(?:header|title|step|substeps?)\]", " ", text).split())


@HubTask(
    name="piqa",
    question="{text}\nDoes this solution work (yes or no):",
    words=("no", "yes"),
    places=(Place("baber/piqa"), Place("lighteval/piqa"), Place("ybisk/piqa", revision=CONVERTED)),
    splits={"train": 16_113, "validation": 1_838},
    columns=("goal", "sol1", "sol2", "label"),
    licence="AFL 3.0 (the author's; the hub's card says unknown)",
    rows=35_884,
    choices=2,
    about="Does this solution reach the goal in the physical world?",
    traps="Rows with the same goal form a group; 146 goals of the validation split are also in training.",
)
def _piqa(row: HubRow) -> Question:
    goal = row.text("goal")
    return Question(f"Goal: {goal}\nSolution: ", (row.text("sol1"), row.text("sol2")), row.whole("label", 2), (goal,))


@HubTask(
    name="mc-taco",
    question="{text}\nIs this answer right (yes or no):",
    words=("no", "yes"),
    places=(Place("marcov/mc_taco_promptsource"), Place("CogComp/mc_taco", revision=CONVERTED)),
    splits={"test": 9_442, "validation": 3_783},
    columns=("sentence", "question", "answer", "label", "category?"),
    aliases={"validation": ("dev_3783",), "test": ("test_9442",)},
    headerless=("sentence", "question", "answer", "label", "category"),
    originals="dataset/{dev_3783,test_9442}.tsv of github.com/CogComp/MCTACO",
    licence="not stated",
    rows=6_170,
    per_question=True,
    about="Is this a right answer to a question about time: how long, how often, when, in which order?",
    traps="There is no training split: the larger split, called test, serves as one. Each question keeps as many right "
    "as wrong answers; questions with only one kind drop out. The words of the answer alone predict the class in 67 % "
    "(--scan).",
)
def _mc_taco(row: HubRow) -> LabeledText:
    sentence, question = row.text("sentence"), row.text("question")
    label = row["label"]
    gold = _NO_YES.index(label.strip()) if label in _NO_YES else row.whole("label", 2)
    text = f"{sentence}\nQuestion: {question}\nAnswer: {row.text('answer')}"
    return LabeledText(text, gold, (sentence,), question=f"{sentence}\n{question}")


# --- science ----------------------------------------------------------------------------------------------------------


@HubTask(
    name="openbookqa",
    question="{text}\nIs this answer right (yes or no):",
    words=("no", "yes"),
    places=(Place("allenai/openbookqa", config="additional"),),
    splits={"train": 4_957, "validation": 500, "test": 500},
    columns=("question_stem", "choices", "answerKey", "fact1?", "humanScore?"),
    folders=("openbookqa_additional",),
    licence="not stated",
    rows=11_790,
    choices=4,
    about="Is this the right answer to a question about elementary science?",
    traps="Right and wrong answers are both shown as texts (common loaders show the letter of the right one). "
    "Questions that rest on the same fact form a group, if the data names the fact. The words of the answer alone "
    "predict the class in 61 % (--scan).",
)
def _openbookqa(row: HubRow) -> Question:
    stem = row.text("question_stem")
    keys = (stem, f"fact: {row.text('fact1')}") if "fact1" in row else (stem,)
    # The share of people who got it wrong.
    meta = {"difficulty": 1 - float(row["humanScore"]) if "humanScore" in row else float("nan")}
    return Question(f"{stem}\nAnswer: ", *_lettered(row), keys, meta=meta)


def _lettered(row: HubRow) -> tuple[tuple[str, ...], int]:
    """Texts of the options, and the place of the right one."""
    choices, key = row["choices"], row.text("answerKey")
    if not isinstance(choices, dict) or key not in [str(c).strip() for c in choices.get("label", ())]:
        raise row.wrong("answerKey", f"is no label of the choices {choices!r:.80}")
    return tuple(str(t).strip() for t in choices["text"]), [str(c).strip() for c in choices["label"]].index(key)


@HubTask(
    name="quartz",
    question="{text}\nIs this answer right (yes or no):",
    words=("no", "yes"),
    places=(Place("allenai/quartz", revision="28c1dbb"),),
    splits={"train": 2_696, "validation": 384, "test": 784},
    columns=("question", "choices", "answerKey", "para", "para_id"),
    licence="CC BY 4.0",
    choices=2,
    about="Is this the right answer to a question about a qualitative relation (the faster, the more ...)?",
    traps="Annotations that give the answer away are never read. Questions about one sentence, with their flipped "
    "twins, form a group.",
)
def _quartz(row: HubRow) -> Question:
    head = f"{row.text('para')}\nQuestion: {row.text('question')}\nAnswer: "
    return Question(head, *_lettered(row), (row.text("para_id"),))


@HubTask(
    name="sciq",
    question="{text}\nIs this answer right (yes or no):",
    words=("no", "yes"),
    places=(Place("allenai/sciq"),),
    splits={"train": 11_679, "validation": 1_000, "test": 1_000},
    columns=("question", "correct_answer", "distractor1", "distractor2", "distractor3", "support?"),
    licence="CC BY-NC 3.0 (non-commercial)",
    choices=4,
    about="Is this the right answer to a question from a science exam?",
    traps="The supporting passage, which mostly holds the answer word for word, is not shown; questions that share one "
    "form a group. The words of the answer alone predict the class in 56 % (--scan).",
)
def _sciq(row: HubRow) -> Question:
    question = row.text("question")
    keys = (question, f"support: {row.text('support')}") if "support" in row and row["support"].strip() else (question,)
    options = tuple(row.text(c) for c in ("correct_answer", "distractor1", "distractor2", "distractor3"))
    return Question(f"Question: {question}\nAnswer: ", options, 0, keys)
