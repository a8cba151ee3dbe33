"""Which of two is better? Pairs that people, or a model, compared: reward modeling as in Burns et al. 2023.

A pair is a choice of two texts; a model scores each by itself, p = sigma(r_second - r_first). The files put the better
one in a fixed place, so which comes first is drawn from a hash of the pair. A text holds the reply first and what it
replies to after it, the last turn of a conversation before the earlier ones: models cut long texts at the end, and
cutting the reply would leave nothing to compare. Pairs about the same prompt stay in one part of the split.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np

from outgrow.archives import VADER_SENTIMENT
from outgrow.data import Examples
from outgrow.errors import UserError
from outgrow.registry import OneOf, Range
from outgrow.runtime import Runtime
from outgrow.tasks.catalogue import sentiment
from outgrow.tasks.convert import HubTask, Item, Pair, Skipped, drawn, same
from outgrow.tasks.grouping import group_names
from outgrow.tasks.hub import CONVERTED, HubRow, Place
from outgrow.tasks.registry import task

__all__ = ["sentiment_pairs"]

_CLASSES = ("first", "second")
_PROMPTS_DIFFER, _NO_REPLY, _TIE = "the prompts of the pair differ", "a reply is empty", "a tie"


def _pair(
    better: str, worse: str, prompt: str, keys: tuple[str, ...], meta: Mapping[str, float | str] | None = None
) -> Pair | Skipped:
    """The pair with ``prompt`` below each reply, or why it is none."""
    if not better.strip() or not worse.strip():
        return Skipped(_NO_REPLY)
    if same(better) == same(worse):
        return Skipped("both texts of the pair are the same")
    first, second = (f"{reply.strip()}\n\n{prompt.strip()}" for reply in (better, worse))
    return Pair(first, second, keys, meta or {})


# --- Anthropic's helpful and harmless conversations -------------------------------------------------------------------


def _hh(folder: str, train: int, test: int) -> dict[str, Any]:
    return {
        # Without a folder the hub's loader takes all of them, and the red-team transcripts, which are no pairs.
        "places": (Place("Anthropic/hh-rlhf", data_dir=folder),),
        "splits": {"train": train, "test": test},
        "folders": (f"hh_rlhf_{folder.replace('-', '_')}",),
    }


_HH = {
    "harmless": _hh("harmless-base", 42_537, 2_312),
    "helpful": _hh("helpful-base", 43_835, 2_354),
    "helpful-online": _hh("helpful-online", 22_007, 1_137),
    "helpful-rejection-sampled": _hh("helpful-rejection-sampled", 52_421, 2_749),
}


@HubTask(
    name="hh-rlhf",
    question="{text}\nIs the last reply a good one (yes or no):",
    words=("no", "yes"),
    **_HH["harmless"],
    subsets=_HH,
    columns=("chosen", "rejected"),
    licence="MIT",
    kind="choice",
    classes=_CLASSES,
    about="Which of an assistant's two replies did a person find more harmless, or more helpful?",
    traps="Pairs whose conversations differ before the last reply, or with an empty reply, are left out. Harmless and "
    "helpful contradict each other: they are two tasks, never mixed. Conversations with the same first turn form a "
    "group.",
)
def _hh_rlhf(row: HubRow) -> Pair | Skipped:
    # Bai et al. 2022.
    (prompt, cut, better), (other, other_cut, worse) = (
        row.text(column).rpartition("\n\nAssistant:") for column in ("chosen", "rejected")
    )
    if not (cut and other_cut):
        return Skipped(_NO_REPLY)
    if prompt != other:
        return Skipped(_PROMPTS_DIFFER)
    before, human, asked = f"\n\n{prompt}".rpartition("\n\nHuman:")
    last = f"Human: {asked.strip()}" if human else prompt
    earlier = f"\n\nBefore that:\n{before.strip()}" if before.strip() else ""
    # The first turn stands for the conversation: later pairs of one conversation begin with it too.
    return _pair(better, worse, f"{last}{earlier}", (prompt.partition("\n\nAssistant:")[0],))


# --- Reddit answers by votes ------------------------------------------------------------------------------------------


def _clear_post(row: HubRow, min_ratio: Annotated[float, Range(1)] = 2.0) -> str | Skipped:
    """What a clear pair is drawn by.

    Args:
        min_ratio: leave out pairs whose higher score is less than this many times the lower; 1 keeps all but ties.
    """
    if float(row["score_ratio"]) < min_ratio:
        return Skipped(f"score_ratio below {min_ratio:g}")
    return row.text("post_id")


def _few_of_each(items: list[Item], per_post: Annotated[int, Range(1)] = 5) -> list[Item | Skipped]:
    """Pairs of posts that have very many of them.

    Args:
        per_post: keep at most this many pairs of a post, drawn by hash.
    """
    by_post: dict[str, list[tuple[int, int]]] = {}
    for number, item in enumerate(items):
        assert isinstance(item.what, Pair)
        by_post.setdefault(item.keys[0], []).append((drawn(0, item.what.better, item.what.worse), number))
    kept = {number for pairs in by_post.values() for _, number in sorted(pairs)[:per_post]}
    surplus = Skipped(f"more than {per_post} pairs on one post")
    return [item if number in kept else surplus for number, item in enumerate(items)]


@HubTask(
    name="shp",
    question="{text}\nIs this a good answer (yes or no):",
    words=("no", "yes"),
    places=(Place("stanfordnlp/SHP"),),
    splits={"train": 348_718, "validation": 18_436, "test": 18_409},
    columns=("post_id", "history", "human_ref_A", "human_ref_B", "labels", "score_A", "score_B", "score_ratio"),
    licence="see the data card (Reddit's text; labels MIT in an older card)",
    kind="choice",
    classes=_CLASSES,
    sampled=_clear_post,
    finish=_few_of_each,
    limit=40_000,
    about="Which of two answers to a post got more votes on Reddit?",
    traps="A few posts have very many pairs: at most per_post of each are kept. Votes follow time and place as well as "
    "quality; pairs with nearly equal scores are left out (min_ratio). Pairs about one post form a group. With "
    "limit=None, reading takes a gigabyte of memory.",
)
def _shp(row: HubRow) -> Pair | Skipped:
    # Ethayarajh et al. 2022. Scores, dates and the domain, which ends in the name of the split, stay out of the text.
    a, b = (float(row[f"score_{x}"]) for x in "AB")
    if a == b:
        return Skipped(_TIE)
    a_is_better = row.whole("labels", 2) == 1
    if a_is_better != (a > b):
        raise row.wrong("labels", f"contradicts the scores {a:g} and {b:g}")
    keys = (f"post {row.text('post_id')}", row.text("history"))
    meta = {"difficulty": 1 / float(row["score_ratio"])}
    better, worse = (str(row[f"human_ref_{x}"] or "") for x in ("AB" if a_is_better else "BA"))
    return _pair(better, worse, f"Post: {row.text('history')}", keys, meta)


# --- summaries compared by people -------------------------------------------------------------------------------------


@HubTask(
    name="summarize-from-feedback",
    question="{text}\nIs this a good summary (yes or no):",
    words=("no", "yes"),
    places=(
        Place("openai/summarize_from_feedback", revision=CONVERTED, data_dir="comparisons"),
        Place("vwxyzjn/summarize_from_feedback_oai_preprocessing_1706381144"),
    ),
    splits={"train": 92_858, "validation": 86_086},
    columns=("info", "summaries", "choice"),
    licence="labels: modified MIT; TL;DR posts: CC BY 4.0",
    kind="choice",
    classes=_CLASSES,
    sampled=lambda row: str(row["info"]["id"]) if isinstance(row["info"], dict) else "",
    limit=40_000,
    about="Which of two summaries of a post did a person choose?",
    traps="A post occurs again and again, so it is the group. Several people may have compared the same two summaries "
    "and chosen differently; both judgments are kept. News articles share the table (corpus='cnndm').",
)
def _summaries(row: HubRow, corpus: Annotated[str, OneOf("tldr", "cnndm", "both")] = "tldr") -> Pair | Skipped:
    """Two summaries of a post, compared (Stiennon et al. 2020).

    Args:
        corpus: tldr (Reddit), cnndm (news) or both.
    """
    info, summaries = row["info"], row["summaries"]
    if not isinstance(info, dict) or not isinstance(summaries, list) or len(summaries) != 2:
        raise row.wrong("summaries", "does not hold two summaries of a post")
    # The two corpora share one table: one fills post, the other article.
    which, text = ("tldr", info.get("post")) if info.get("post") else ("cnndm", info.get("article"))
    if not text:
        raise row.wrong("info", "has neither post nor article")
    if corpus not in (which, "both"):
        return Skipped(f"of the corpus {which}")
    choice = row.whole("choice", 2)
    # Which policy wrote a summary would almost tell which is better, so it stays out of the text.
    better, worse = (str(summaries[i].get("text") or "") for i in (choice, 1 - choice))
    title = f"{info['title']}\n" if info.get("title") else ""
    return _pair(better, worse, f"Post: {title}{text}", (f"post {info['id']}", text), {"corpus": which})


# --- replies rated by GPT-4 -------------------------------------------------------------------------------------------


@HubTask(
    name="ultrafeedback",
    question="{text}\nIs this a good reply (yes or no):",
    words=("no", "yes"),
    places=(Place("HuggingFaceH4/ultrafeedback_binarized", called={"train": "train_prefs", "test": "test_prefs"}),),
    splits={"train": 61_135, "test": 2_000},
    columns=("prompt", "prompt_id", "chosen", "rejected", "score_chosen", "score_rejected"),
    aliases={"train": ("train_prefs",), "test": ("test_prefs",)},
    folders=("ultrafeedback_binarized",),
    licence="MIT",
    kind="choice",
    classes=_CLASSES,
    about="Which of two replies did GPT-4 score higher? A model's judgment, not people's.",
    traps="Pairs with equal scores are left out. Pairs with the same prompt form a group.",
)
def _ultrafeedback(row: HubRow, min_gap: Annotated[float, Range(0)] = 0.0) -> Pair | Skipped:
    """Two replies to one prompt (Cui et al. 2023); ``difficulty`` is the negative gap of their scores.

    Args:
        min_gap: leave out pairs whose scores differ by no more than this.
    """
    gap = float(row["score_chosen"]) - float(row["score_rejected"])
    if gap <= min_gap:
        return Skipped(_TIE if gap == 0 else f"a score gap of at most {min_gap:g}")
    talks = [_turns(row, column) for column in ("chosen", "rejected")]
    if talks[0][:-1] != talks[1][:-1]:
        return Skipped(_PROMPTS_DIFFER)
    prompt = row.text("prompt")
    return _pair(talks[0][-1], talks[1][-1], f"Prompt: {prompt}", (prompt,), {"difficulty": -gap})


def _turns(row: HubRow, column: str) -> list[str]:
    turns = row[column]
    if not isinstance(turns, list) or not all(isinstance(t, dict) and "content" in t for t in turns) or len(turns) < 2:
        raise row.wrong(column, "is no conversation")
    return [str(turn["content"] or "") for turn in turns]


# --- rated sentences, paired here -------------------------------------------------------------------------------------

_ALL_RATED = 1e-6
"""The sets leave out sentences this near to neutral: those whose mean rating is 0."""


@task(
    name="sentiment-pairs",
    question="Review: {text}\nIs it positive (yes or no):",
    words=("no", "yes"),
    kind="choice",
    classes=_CLASSES,
    archives=(VADER_SENTIMENT,),
    licence="MIT",
    source=sentiment.SOURCE,
    about="Which of two sentences did people rate as more positive? People made the ratings, we made the pairs.",
    traps="A sentence is in one pair only, so no row gives another away; which comes first is drawn from a hash.",
    rows=5_282,
)
def sentiment_pairs(
    *,
    domain: Annotated[str, OneOf(*sentiment.SETS)] = "movies",
    min_gap: Annotated[float, Range(0, 8, above=True)] = 1.0,
    pairs: Annotated[int | None, Range(1)] = None,
    runtime: Runtime,
) -> Examples:
    """Pairs of sentences that about 20 people each rated from -4 to 4, for reward models without the hub.

    Nobody compared the two sentences of a pair: the better one has the higher mean rating. A sentence is in one pair
    at most, so no row gives another away. A document with several sentences is paired within itself; at most one
    sentence of each document is paired with another document's, and tied documents form a group.

    Meta column: ``difficulty``, the negative gap of the ratings.

    Args:
        domain: movies, news, tweets or reviews.
        min_gap: least difference of the two mean ratings.
        pairs: at most this many, drawn by hash; None: all.
    """
    rated = sentiment.rated_texts(domain, _ALL_RATED, runtime)
    matched = _matched(rated, min_gap)
    if not matched:
        raise UserError(f"sentiment-pairs: no two sentences of {domain} differ by {min_gap}; choose a smaller min_gap")
    tied = group_names(rated.ids, (rated.groups.tolist(),), np.array(matched, dtype=np.int64))
    made = {}
    for pair in matched:
        a, b = sorted(pair, key=lambda row: str(rated.ids[row]))
        name = f"{rated.ids[a]}-{str(rated.ids[b]).removeprefix(f'{domain}-')}"
        made[name] = (a, b) if drawn(0, name) % 2 else (b, a)  # the name knows nothing of the ratings
    ids = sorted(made, key=lambda name: drawn(0, "pairs", name))[:pairs]
    where = np.array([made[name] for name in ids], dtype=np.int64)
    rating = rated.meta["rating"]
    return Examples(
        ids=np.array(ids, dtype=np.str_),
        inputs=tuple((str(rated.inputs[a]), str(rated.inputs[b])) for a, b in where.tolist()),
        gold=rating[where].argmax(axis=1).astype(np.int64),
        classes=_CLASSES,
        groups=tied[where[:, 0]],
        meta={"difficulty": -np.abs(rating[where[:, 0]] - rating[where[:, 1]])},
    )


def _matched(rated: Examples, min_gap: float) -> list[tuple[int, int]]:
    """Disjoint pairs of rows whose ratings differ by ``min_gap``, drawn by hash: first within groups, then at most one
    row of each group with one of another, so that no long chain of groups is tied together."""
    rating = rated.meta["rating"]
    order = sorted(range(len(rated)), key=lambda i: drawn(0, str(rated.ids[i])))
    by_group: dict[str, list[int]] = {}
    for row in order:
        by_group.setdefault(str(rated.groups[row]), []).append(row)
    pairs, over = [], []
    for rows in by_group.values():
        within, left = _paired(rows, rating, min_gap)
        pairs += within
        over += left[:1]
    return pairs + _paired(over, rating, min_gap)[0]


def _paired(rows: Sequence[int], rating: Any, min_gap: float) -> tuple[list[tuple[int, int]], list[int]]:
    """Each row with the first before it that is still alone and differs enough; and the rows left alone."""
    pairs: list[tuple[int, int]] = []
    alone: list[int] = []
    for row in rows:
        mate = next((i for i, other in enumerate(alone) if abs(rating[row] - rating[other]) >= min_gap), None)
        if mate is None:
            alone.append(row)
        else:
            pairs.append((alone.pop(mate), row))
    return pairs, alone
