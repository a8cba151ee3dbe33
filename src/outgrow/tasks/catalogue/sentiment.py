"""Sentiment with human ratings of every row: the ground truth of VADER (Hutto and Gilbert, ICWSM 2014).

About 20 people rated each text from -4 to 4. The class is the sign of their mean, and the distance of the mean from
zero says how clear a case the row is, which few benchmarks can tell.
"""

import io
import json
import re
import sys
import tarfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from outgrow.archives import VADER_SENTIMENT, fetch
from outgrow.data import Examples
from outgrow.errors import UserError
from outgrow.runtime import Runtime
from outgrow.tasks.registry import task

__all__ = ["sentiment_movies", "sentiment_news", "sentiment_reviews", "sentiment_tweets"]

_CLASSES = ("negative", "positive")
_OUTER = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
_FOLDER = "hutto_ICWSM_2014"
_MAX_BYTES = 8_000_000
"""No file read here has more than 2.3 MB."""
_SOURCE = "VADER ground truth (Hutto and Gilbert, ICWSM 2014), in the sdist of PyPI vaderSentiment 3.3.2"


@dataclass(frozen=True, kw_only=True)
class _Set:
    name: str
    file: str
    rows: int
    """In the file, before rows with a weak mean are left out."""


_MOVIES = _Set(name="movies", file="movieReviewSnippets", rows=10_605)
_NEWS = _Set(name="news", file="nytEditorialSnippets", rows=5_190)
_TWEETS = _Set(name="tweets", file="tweets", rows=4_200)
_REVIEWS = _Set(name="reviews", file="amazonReviewSnippets", rows=3_708)


@task(
    name="sentiment-movies",
    classes=_CLASSES,
    rows=10_043,
    content=VADER_SENTIMENT.sha256,
    archives=(VADER_SENTIMENT,),
    licence="MIT",
    source=_SOURCE,
    about="Is this sentence of a film review positive? By the mean of about 19 human ratings.",
    version=2,
)
def sentiment_movies(*, min_rating: float = 0.5, runtime: Runtime) -> Examples:
    """10,605 sentences of film reviews; 10,043 with |mean rating| > 0.5.

    Args:
        min_rating: leave out rows whose mean rating is no further from 0.
    """
    return _examples(_MOVIES, min_rating, runtime)


@task(
    name="sentiment-news",
    classes=_CLASSES,
    rows=2_788,
    content=VADER_SENTIMENT.sha256,
    archives=(VADER_SENTIMENT,),
    licence="MIT",
    source=_SOURCE,
    about="Is this sentence of a newspaper's opinion page positive? By the mean of 20 human ratings.",
    version=2,
)
def sentiment_news(*, min_rating: float = 0.5, runtime: Runtime) -> Examples:
    """5,190 sentences of 498 opinion pieces; 2,788 with |mean rating| > 0.5. A group is a piece.

    Args:
        min_rating: leave out rows whose mean rating is no further from 0.
    """
    return _examples(_NEWS, min_rating, runtime)


@task(
    name="sentiment-tweets",
    classes=_CLASSES,
    rows=3_362,
    content=VADER_SENTIMENT.sha256,
    archives=(VADER_SENTIMENT,),
    licence="MIT",
    source=_SOURCE,
    about="Is this tweet positive? By the mean of about 38 human ratings.",
    version=2,
)
def sentiment_tweets(*, min_rating: float = 0.5, rated: bool = False, runtime: Runtime) -> Examples:
    """4,200 tweets; 3,362 with |mean rating| > 0.5.

    Args:
        min_rating: rows with |mean rating| up to this are left out.
        rated: keep only the 3,163 tweets whose single ratings are known.
    """
    tweets = _examples(_TWEETS, min_rating, runtime)
    return tweets.take(tweets.ids[~np.isnan(tweets.meta["rater.1"])]) if rated else tweets


@task(
    name="sentiment-reviews",
    classes=_CLASSES,
    rows=2_943,
    content=VADER_SENTIMENT.sha256,
    archives=(VADER_SENTIMENT,),
    licence="MIT",
    source=_SOURCE,
    about="Is this sentence of a customer's product review positive? By the mean of 20 human ratings.",
    version=2,
)
def sentiment_reviews(*, min_rating: float = 0.5, runtime: Runtime) -> Examples:
    """3,708 sentences of 300 product reviews; 2,943 with |mean rating| > 0.5. A group is a review.

    Args:
        min_rating: leave out rows whose mean rating is no further from 0.
    """
    return _examples(_REVIEWS, min_rating, runtime)


class _Row(NamedTuple):
    id: str
    rating: float
    text: str
    sd: float
    """Standard deviation over the raters; NaN where the file of ratings gives another mean for this id."""
    ratings: tuple[float, ...]
    """The first ratings of the row, as many as every row of the set has; NaN where ``sd`` is."""


def _examples(source: _Set, min_rating: float, runtime: Runtime) -> Examples:
    if not 0 < min_rating < 4:
        raise UserError(f"min_rating of task sentiment-{source.name} must be above 0 and below 4, not {min_rating}")
    say = partial(print, file=sys.stderr)
    rows = _read(fetch(VADER_SENTIMENT, offline=runtime.offline, needed_by=f"sentiment-{source.name}", say=say), source)
    groups = _groups(rows)
    kept = [i for i, row in enumerate(rows) if abs(row.rating) > min_rating]
    rating = np.array([rows[i].rating for i in kept], dtype=np.float64)
    ratings = np.array([rows[i].ratings for i in kept], dtype=np.float64)
    return Examples(
        ids=np.array([f"{source.name}-{rows[i].id}" for i in kept], dtype=np.str_),
        inputs=tuple(rows[i].text for i in kept),
        gold=(rating > 0).astype(np.int64),
        classes=_CLASSES,
        groups=np.array([f"{source.name}-{groups[i]}" for i in kept], dtype=np.str_),
        meta={
            "rating": rating,
            "difficulty": 4 - np.abs(rating),  # in (0, 4): the nearer people's mean is to neutral, the harder
            "rating_sd": np.array([rows[i].sd for i in kept], dtype=np.float64),
            **{f"rater.{k + 1}": ratings[:, k] for k in range(ratings.shape[1])},
        },
    )


def _read(archive: Path, source: _Set) -> list[_Row]:
    """All rows of one set, straight out of the tar.gz inside the tar.gz: nothing is written, nothing executed."""
    inner = _member(archive.read_bytes(), _OUTER)
    texts = _fields(_member(inner, f"{_FOLDER}/{source.file}_GroundTruth.txt"), 3)
    ratings = {row[0]: row for row in _fields(_member(inner, f"{_FOLDER}/{source.file}_anonDataRatings.txt"), 4)}
    assert len(texts) == source.rows, f"{source.file} has {len(texts)} rows, expected {source.rows}"
    single = {number: [float(r) for r in json.loads(row[3])] for number, row in ratings.items()}
    everywhere = min(len(s) for s in single.values())  # 15 of the movies, 20 of the others
    rows = []
    for number, mean, text in texts:
        _, raters_mean, sd, _ = ratings[number]
        # 199 tweets (invented variants of real ones) have another mean in the file of ratings, so it is not of them.
        same = abs(float(mean) - float(raters_mean)) < 1e-6
        known = tuple(single[number][:everywhere]) if same else (float("nan"),) * everywhere
        rows.append(_Row(number, float(mean), text, float(sd) if same else float("nan"), known))
    return rows


def _member(archive: bytes, name: str) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as tar:
        info = tar.getmember(name)
        assert info.isreg(), f"{name} is no plain file"
        assert info.size <= _MAX_BYTES, f"{name} has {info.size} bytes, at most {_MAX_BYTES} are expected"
        file = tar.extractfile(info)
        assert file is not None
        return file.read()


def _fields(content: bytes, num_fields: int) -> list[list[str]]:
    # The files are UTF-8, one with a byte-order mark; read as Latin-1, its first id would be lost and é become Ã©.
    lines = content.decode("utf-8-sig").replace("\r\n", "\n").rstrip("\n").split("\n")
    rows = [line.split("\t") for line in lines]
    assert all(len(row) == num_fields for row in rows), f"a row has not {num_fields} fields"
    return rows


def _groups(rows: list[_Row]) -> list[str]:
    """For each row the first id it is tied to: through the document (``12_3`` is of document 12) or the same words."""
    parent: dict[str, str] = {}

    def root(node: str) -> str:
        while parent.setdefault(node, node) != node:
            node = parent[node]
        return node

    for row in rows:
        words = " ".join(re.findall(r"\w+", row.text.lower())) or row.text.strip()
        document = row.id.partition("_")[0]
        parent[root(f"words {words}")] = root(f"document {document}")
    roots = [root(f"document {row.id.partition('_')[0]}") for row in rows]
    first = {r: rows[i].id.partition("_")[0] for i, r in reversed(list(enumerate(roots)))}
    return [first[r] for r in roots]
