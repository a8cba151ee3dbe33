"""Which of two is better? Pairs that people, or a model, compared: reward modelling as in Burns et al. 2023.

A pair is a choice of two texts; a model scores each by itself, p = sigma(r_second - r_first). The files put the better
one in a fixed place, so which comes first is drawn from a hash of the pair. A text holds the reply first and what it
replies to after it, the last turn of a conversation before the earlier ones: models cut long texts at the end, and
cutting the reply would leave nothing to compare. Pairs on the same prompt stay in one part of the split.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from outgrow.archives import VADER_SENTIMENT
from outgrow.data import Examples
from outgrow.errors import UserError, unknown_name
from outgrow.runtime import Runtime
from outgrow.tasks.catalogue import sentiment
from outgrow.tasks.convert import Formatter, Item, Pair, Skipped, check_options, drawn, examples_of, same, splits_of
from outgrow.tasks.grouping import group_names
from outgrow.tasks.hub import HubRow, HubSet, Place, identity, place_of, read
from outgrow.tasks.registry import task

__all__ = ["hh_rlhf", "sentiment_pairs", "shp", "summarize_from_feedback", "ultrafeedback"]

_CLASSES = ("first", "second")
_PROMPTS_DIFFER, _SAME_REPLY, _NO_REPLY, _TIE = (
    "the prompts of the pair differ",
    "both texts of the pair are the same",
    "a reply is empty",
    "a tie",
)


def _pair(
    better: str, worse: str, prompt: str, keys: tuple[str, ...], meta: Mapping[str, float | str] | None = None
) -> Pair | Skipped:
    """The pair with ``prompt`` below each reply, or why it is none."""
    if not better.strip() or not worse.strip():
        return Skipped(_NO_REPLY)
    if same(better) == same(worse):
        return Skipped(_SAME_REPLY)
    first, second = (f"{reply.strip()}\n\n{prompt.strip()}" for reply in (better, worse))
    return Pair(first, second, keys, meta or {})


def _pairs(
    source: HubSet,
    formatter: Formatter,
    options: Mapping[str, Any],
    runtime: Runtime,
    *,
    records: Callable[[], Iterator[HubRow]] | None = None,
    sampled: Callable[[HubRow], str] | None = None,
    finish: Callable[[list[Item]], list[Item]] | None = None,
) -> Examples:
    check_options(source, options)
    records = records or read(source, splits_of(source, options), options, runtime)
    options = {**options, "form": "choice"}
    made = examples_of(source, formatter, finish, sampled, records, _CLASSES, 2, options, runtime)
    return replace(made, classes=_CLASSES)


# --- Anthropic's helpful and harmless conversations -------------------------------------------------------------------


def _hh(folder: str, train: int, test: int) -> HubSet:
    return HubSet(
        name="hh-rlhf",
        # Without a folder the hub's loader takes all of them, and the red-team transcripts, which are no pairs.
        places=(Place(repo="Anthropic/hh-rlhf", data_dir=folder),),
        rows={"train": train, "test": test},
        columns=("chosen", "rejected"),
        test="test",
        folders=(f"hh_rlhf_{folder.replace('-', '_')}",),
        licence="MIT",
    )


_HH = {
    "harmless": _hh("harmless-base", 42_537, 2_312),
    "helpful": _hh("helpful-base", 43_835, 2_354),
    "helpful-online": _hh("helpful-online", 22_007, 1_137),
    "helpful-rejection-sampled": _hh("helpful-rejection-sampled", 52_421, 2_749),
}


def _hh_set(options: Mapping[str, Any]) -> HubSet:
    if options["subset"] not in _HH:
        raise unknown_name("subset of task hh-rlhf", options["subset"], _HH)
    return _HH[options["subset"]]


def _hh_row(row: HubRow) -> Pair | Skipped:
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


@task(
    name="hh-rlhf",
    kind="choice",
    classes=_CLASSES,
    content=lambda o: identity(_hh_set(o), splits_of(_hh_set(o), o), o),
    where=lambda o: place_of(_hh_set(o)),
    licence="MIT",
    source="Anthropic/hh-rlhf on the Hugging Face hub, or a folder of yours (data_dir)",
    about="Which of two replies of an assistant did a person find more harmless, or more helpful?",
    traps="Pairs whose conversations differ before the last reply, or with an empty reply, are left out. Harmless and "
    "helpful contradict each other: they are two tasks, never mixed.",
)
def hh_rlhf(
    *,
    subset: str = "harmless",
    split_mode: str = "pooled",
    limit: int | None = None,
    data_dir: str | None = None,
    repo: str | None = None,
    revision: str | None = None,
    runtime: Runtime,
) -> Examples:
    """Conversations with two last replies (Bai et al. 2022). Conversations with the same first turn are a group.

    Args:
        subset: ``harmless`` (harmless-base), ``helpful`` (helpful-base), ``helpful-online`` or
            ``helpful-rejection-sampled``.
        split_mode: ``pooled``: all splits together, split by group; ``official``: the test is the set's own, training
            rows whose group occurs there are left out.
        limit: at most so many rows, whole groups drawn by hash; None for all.
        data_dir: a folder that holds the set in the hub's schema; else ``OUTGROW_DATA_DIR``, else the hub.
        repo: another place on the hub, of those an error message names.
        revision: another commit of it, 40 hexadecimal digits.
    """
    options = {k: v for k, v in locals().items() if k != "runtime"}
    return _pairs(_hh_set(options), _hh_row, options, runtime)


# --- Reddit answers by votes ------------------------------------------------------------------------------------------

_SHP = HubSet(
    name="shp",
    places=(Place(repo="stanfordnlp/SHP"),),
    rows={"train": 348_718, "validation": 18_436, "test": 18_409},
    columns=("post_id", "history", "human_ref_A", "human_ref_B", "labels", "score_A", "score_B", "score_ratio"),
    test="test",
    licence="see the data card (Reddit's text; labels MIT in an older card)",
)


def _shp_row(row: HubRow) -> Pair | Skipped:
    a, b = (float(row[f"score_{x}"]) for x in "AB")
    if a == b:
        return Skipped(_TIE)
    a_is_better = row.whole("labels", 2) == 1
    if a_is_better != (a > b):
        raise row.wrong("labels", f"contradicts the scores {a:g} and {b:g}")
    keys = (f"post {row.text('post_id')}", row.text("history"))
    meta = {"difficulty": 1 / float(row["score_ratio"])}
    # The columns domain (it ends in the name of the split), scores and dates stay out of the text.
    better, worse = (str(row[f"human_ref_{x}"] or "") for x in ("AB" if a_is_better else "BA"))
    return _pair(better, worse, f"Post: {row.text('history')}", keys, meta)


@task(
    name="shp",
    kind="choice",
    classes=_CLASSES,
    content=lambda o: identity(_SHP, splits_of(_SHP, o), o),
    where=lambda o: place_of(_SHP),
    licence=_SHP.licence,
    source="stanfordnlp/SHP on the Hugging Face hub, or a folder of yours (data_dir)",
    about="Which of two answers to a post got more votes on Reddit?",
    traps="A few posts have very many pairs: at most per_post of each are kept. Votes follow time and place as well as "
    "quality; pairs of nearly equal score are left out (min_ratio).",
)
def shp(
    *,
    min_ratio: float = 2.0,
    per_post: int = 5,
    split_mode: str = "pooled",
    limit: int | None = 40_000,
    data_dir: str | None = None,
    repo: str | None = None,
    revision: str | None = None,
    runtime: Runtime,
) -> Examples:
    """Pairs of comments on one Reddit post (Ethayarajh et al. 2022). Pairs on one post are a group.

    Meta column: ``difficulty``, the lower score over the higher.

    Args:
        min_ratio: pairs whose higher score is less than so many times the lower are left out; 1 keeps all but ties.
        per_post: at most so many pairs of a post, drawn by hash.
        split_mode: ``pooled``: all splits together, split by group; ``official``: the test is the set's own, training
            rows whose group occurs there are left out.
        limit: at most so many rows, drawn while reading; None for all (a gigabyte of memory).
        data_dir: a folder that holds the set in the hub's schema; else ``OUTGROW_DATA_DIR``, else the hub.
        repo: another place on the hub, of those an error message names.
        revision: another commit of it, 40 hexadecimal digits.
    """
    options = {k: v for k, v in locals().items() if k != "runtime"}
    if not min_ratio >= 1 or per_post < 1:
        raise UserError(f"shp: min_ratio={min_ratio} and per_post={per_post}; each must be at least 1")
    records = read(_SHP, splits_of(_SHP, options), options, runtime)

    def clear() -> Iterator[HubRow]:
        left = 0
        for row in records():
            if float(row["score_ratio"]) >= min_ratio:
                yield row
            else:
                left += 1
        if left:
            runtime.say(f"shp: not taken: {left:,} (score_ratio below {min_ratio:g})")

    return _pairs(
        _SHP,
        _shp_row,
        options,
        runtime,
        records=clear,
        sampled=lambda row: row.text("post_id"),
        finish=lambda items: _few_of_each(items, per_post, "post", runtime),
    )


def _few_of_each(items: list[Item], most: int, what: str, runtime: Runtime) -> list[Item]:
    """At most so many items of one key, those whose texts hash lowest, in their order."""
    by_key: dict[str, list[tuple[int, int]]] = {}
    for number, item in enumerate(items):
        assert isinstance(item.what, Pair)
        order = drawn(0, item.what.better, item.what.worse)
        by_key.setdefault(item.what.keys[0], []).append((order, number))
    kept = sorted(number for pairs in by_key.values() for _, number in sorted(pairs)[:most])
    if len(kept) < len(items):
        runtime.say(f"shp: not taken: {len(items) - len(kept):,} (more than {most} pairs on one {what})")
    return [items[number] for number in kept]


# --- summaries compared by people -------------------------------------------------------------------------------------

_SUMMARIES = HubSet(
    name="summarize-from-feedback",
    places=(
        Place(repo="openai/summarize_from_feedback", revision="refs/convert/parquet", data_dir="comparisons"),
        Place(repo="vwxyzjn/summarize_from_feedback_oai_preprocessing_1706381144"),
    ),
    rows={"train": 92_858, "validation": 86_086},
    columns=("info", "summaries", "choice"),
    licence="labels: modified MIT; TL;DR posts: CC BY 4.0",
)
_CORPORA = ("tldr", "cnndm", "both")


def _summaries_row(row: HubRow, corpus: str) -> Pair | Skipped:
    info, summaries = row["info"], row["summaries"]
    if not isinstance(info, dict) or not isinstance(summaries, list) or len(summaries) != 2:
        raise row.wrong("summaries", "are no two summaries of a post")
    # The two corpora share one table: one fills post, the other article.
    which, text = ("tldr", info.get("post")) if info.get("post") else ("cnndm", info.get("article"))
    if not text:
        raise row.wrong("info", "has neither post nor article")
    if corpus not in (which, "both"):
        return Skipped(f"of the corpus {which}")
    choice = row.whole("choice", 2)
    # Which policy wrote a summary would tell nearly which is better, so it stays out of the text.
    better, worse = (str(summaries[i].get("text") or "") for i in (choice, 1 - choice))
    title = f"{info['title']}\n" if info.get("title") else ""
    return _pair(better, worse, f"Post: {title}{text}", (f"post {info['id']}", text), {"corpus": which})


@task(
    name="summarize-from-feedback",
    kind="choice",
    classes=_CLASSES,
    content=lambda o: identity(_SUMMARIES, splits_of(_SUMMARIES, o), o),
    where=lambda o: place_of(_SUMMARIES),
    licence=_SUMMARIES.licence,
    source="openai/summarize_from_feedback (comparisons) on the Hugging Face hub, or a folder of yours (data_dir)",
    about="Which of two summaries of a post did a person choose?",
    traps="A post comes up again and again, so it is the group. Several people may have compared the same two "
    "summaries and chosen differently; both judgements are kept. News articles share the table (corpus='cnndm').",
)
def summarize_from_feedback(
    *,
    corpus: str = "tldr",
    split_mode: str = "pooled",
    limit: int | None = 40_000,
    data_dir: str | None = None,
    repo: str | None = None,
    revision: str | None = None,
    runtime: Runtime,
) -> Examples:
    """Summaries of Reddit posts, two of each compared (Stiennon et al. 2020). Comparisons on one post are a group.

    Args:
        corpus: ``tldr`` (Reddit), ``cnndm`` (news) or ``both``.
        split_mode: ``pooled``: all splits together, split by group; ``official``: the test is the set's own, training
            rows whose group occurs there are left out.
        limit: at most so many rows, drawn while reading; None for all.
        data_dir: a folder that holds the set in the hub's schema; else ``OUTGROW_DATA_DIR``, else the hub.
        repo: another place on the hub, of those an error message names.
        revision: another commit of it, 40 hexadecimal digits.
    """
    options = {k: v for k, v in locals().items() if k != "runtime"}
    if corpus not in _CORPORA:
        raise unknown_name("corpus of task summarize-from-feedback", corpus, _CORPORA)

    def about_a_post(row: HubRow) -> str:
        return str(row["info"]["id"]) if isinstance(row["info"], dict) else ""

    return _pairs(_SUMMARIES, lambda row: _summaries_row(row, corpus), options, runtime, sampled=about_a_post)


# --- replies rated by GPT-4 -------------------------------------------------------------------------------------------

_ULTRA = HubSet(
    name="ultrafeedback",
    places=(
        Place(
            repo="HuggingFaceH4/ultrafeedback_binarized",
            splits={"train": "train_prefs", "test": "test_prefs"},
        ),
    ),
    rows={"train": 61_135, "test": 2_000},
    columns=("prompt", "prompt_id", "chosen", "rejected", "score_chosen", "score_rejected"),
    test="test",
    aliases={"train": ("train_prefs",), "test": ("test_prefs",)},
    folders=("ultrafeedback_binarized",),
    licence="MIT",
)


def _ultra_row(row: HubRow, min_gap: float) -> Pair | Skipped:
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


@task(
    name="ultrafeedback",
    kind="choice",
    classes=_CLASSES,
    content=lambda o: identity(_ULTRA, splits_of(_ULTRA, o), o),
    where=lambda o: place_of(_ULTRA),
    licence="MIT",
    source="HuggingFaceH4/ultrafeedback_binarized on the Hugging Face hub, or a folder of yours (data_dir)",
    about="Which of two replies did GPT-4 score higher? A model's judgement, not people's.",
    traps="Pairs of equal score are left out.",
)
def ultrafeedback(
    *,
    min_gap: float = 0.0,
    split_mode: str = "pooled",
    limit: int | None = None,
    data_dir: str | None = None,
    repo: str | None = None,
    revision: str | None = None,
    runtime: Runtime,
) -> Examples:
    """Replies of many models to one prompt, scored by GPT-4 (Cui et al. 2023). Pairs on the same prompt are a group.

    Meta column: ``difficulty``, the negative gap of the scores.

    Args:
        min_gap: pairs whose scores differ by no more are left out.
        split_mode: ``pooled``: all splits together, split by group; ``official``: the test is the set's own, training
            rows whose group occurs there are left out.
        limit: at most so many rows, whole groups drawn by hash; None for all.
        data_dir: a folder that holds the set in the hub's schema; else ``OUTGROW_DATA_DIR``, else the hub.
        repo: another place on the hub, of those an error message names.
        revision: another commit of it, 40 hexadecimal digits.
    """
    options = {k: v for k, v in locals().items() if k != "runtime"}
    if not min_gap >= 0:
        raise UserError(f"ultrafeedback: min_gap={min_gap} must be at least 0")
    return _pairs(_ULTRA, lambda row: _ultra_row(row, min_gap), options, runtime)


# --- rated sentences, paired here -------------------------------------------------------------------------------------

_DOMAINS: dict[str, Callable[..., Examples]] = {
    "movies": sentiment.sentiment_movies,
    "news": sentiment.sentiment_news,
    "tweets": sentiment.sentiment_tweets,
    "reviews": sentiment.sentiment_reviews,
}
_ALL_RATED = 1e-6
"""The sets leave out sentences at this distance from neutral and below: those whose mean rating is 0."""


@task(
    name="sentiment-pairs",
    kind="choice",
    classes=_CLASSES,
    content=VADER_SENTIMENT.sha256,
    licence="MIT",
    source="VADER ground truth (Hutto and Gilbert, ICWSM 2014), in the sdist of PyPI vaderSentiment 3.3.2",
    about="Which of two sentences did people rate as more positive? The ratings are people's, the pairing is ours.",
    traps="A sentence is in one pair only, so no row tells of another; which comes first is drawn from a hash.",
    rows=5_282,
    archives=(VADER_SENTIMENT,),
)
def sentiment_pairs(
    *, domain: str = "movies", min_gap: float = 1.0, pairs: int | None = None, runtime: Runtime
) -> Examples:
    """Pairs of sentences that about 20 people each rated from -4 to 4, for reward models that need no hub.

    Nobody compared the two of a pair: the better one is that with the higher mean rating. A sentence is in one pair at
    most, so no row tells of another. Pairs are made within a document where it has several sentences; one of each
    document at most is paired with another's, and tied documents are a group.

    Meta column: ``difficulty``, the negative gap of the ratings.

    Args:
        domain: ``movies``, ``news``, ``tweets`` or ``reviews``.
        min_gap: least difference of the two mean ratings.
        pairs: at most so many, drawn by hash; None for all.
    """
    if domain not in _DOMAINS:
        raise unknown_name("domain of task sentiment-pairs", domain, _DOMAINS)
    if not 0 < min_gap < 8 or (pairs is not None and pairs < 1):
        raise UserError(f"sentiment-pairs: min_gap={min_gap} must be above 0 and below 8, pairs={pairs} at least 1")
    rated = _DOMAINS[domain](min_rating=_ALL_RATED, runtime=runtime)
    matched = _matched(rated, min_gap)
    if not matched:
        raise UserError(f"sentiment-pairs: no two sentences of {domain} differ by {min_gap}; take a smaller min_gap")
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
