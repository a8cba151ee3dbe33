"""Sentiment with human ratings of every row: the ground truth of VADER (Hutto and Gilbert, ICWSM 2014).

About 20 people rated each text from -4 to 4. The class is the sign of their mean. The distance of the mean from zero
says how clear a case the row is, which few benchmarks can tell.
"""

import io
import json
import re
import tarfile
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np

from outgrow.archives import VADER_SENTIMENT, fetch
from outgrow.data import Examples
from outgrow.errors import UserError
from outgrow.registry import Range
from outgrow.runtime import Runtime
from outgrow.tasks.grouping import group_names
from outgrow.tasks.registry import TaskFacts

__all__ = ["SETS", "SOURCE", "rated_texts"]

SOURCE = "VADER ground truth (Hutto and Gilbert, ICWSM 2014), in the sdist of PyPI vaderSentiment 3.3.2"
_CLASSES = ("negative", "positive")
_OUTER = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
_FOLDER = "hutto_ICWSM_2014"


class _Set(NamedTuple):
    called: str
    file: str
    rows: int
    """In the file."""
    clear_rows: int
    """Of them, those kept by default."""
    text: str
    raters: str


SETS = {
    "movies": _Set("Review", "movieReviewSnippets", 10_605, 10_043, "sentence from a film review", "about 19"),
    "news": _Set("Sentence", "nytEditorialSnippets", 5_190, 2_788, "sentence from a newspaper's opinion page", "20"),
    "tweets": _Set("Tweet", "tweets", 4_200, 3_362, "tweet", "about 38"),
    "reviews": _Set("Review", "amazonReviewSnippets", 3_708, 2_943, "sentence from a customer's product review", "20"),
}
"""The files by their names. A group is a film review, an opinion piece (498), a tweet or a product review (300)."""


def _facts(name: str) -> TaskFacts:
    return TaskFacts(
        name=f"sentiment-{name}",
        classes=_CLASSES,
        rows=SETS[name].clear_rows,
        archives=(VADER_SENTIMENT,),
        licence="MIT",
        source=SOURCE,
        about=f"Is this {SETS[name].text} positive? By the mean of {SETS[name].raters} human ratings.",
        question=f"{SETS[name].called}: {{text}}\nSentiment (positive or negative):",
        version=2,
    )


_MinRating = Annotated[float, Range(0, 4, above=True)]


def _register(name: str) -> None:
    @_facts(name)
    def load(*, min_rating: _MinRating = 0.5, runtime: Runtime) -> Examples:
        """Rows of one set.

        Args:
            min_rating: leave out rows whose mean rating is no further from 0 than this.
        """
        return rated_texts(name, min_rating, runtime)


for _name in ("movies", "news", "reviews"):
    _register(_name)


@_facts("tweets")
def _tweets(*, min_rating: _MinRating = 0.5, rated: bool = False, runtime: Runtime) -> Examples:
    """Rows of the tweets.

    Args:
        min_rating: leave out rows whose mean rating is no further from 0 than this.
        rated: keep only the 3,163 tweets whose single ratings are known.
    """
    tweets = rated_texts("tweets", min_rating, runtime)
    return tweets.take(tweets.ids[~np.isnan(tweets.meta["rater.1"])]) if rated else tweets


class _Row(NamedTuple):
    id: str
    rating: float
    text: str
    sd: float
    """Standard deviation over the raters; NaN if the file of ratings gives another mean for this id."""
    ratings: tuple[float, ...]
    """The first ratings of the row, as many as every row of the set has; NaN where ``sd`` is."""


def rated_texts(name: str, min_rating: float, runtime: Runtime) -> Examples:
    """The texts of one set whose mean rating is further from 0 than ``min_rating``. A group is a document.

    Raises:
        UserError: if there are none, or the archive cannot be fetched.
    """
    archive = fetch(VADER_SENTIMENT, offline=runtime.offline, needed_by=f"sentiment-{name}", say=runtime.say)
    rows = _read(archive, SETS[name])
    groups = _groups(rows)
    kept = [i for i, row in enumerate(rows) if abs(row.rating) > min_rating]
    if not kept:
        raise UserError(f"min_rating={min_rating} of task sentiment-{name} leaves no row; choose a smaller one")
    rating = np.array([rows[i].rating for i in kept], dtype=np.float64)
    ratings = np.array([rows[i].ratings for i in kept], dtype=np.float64)
    return Examples(
        ids=np.array([f"{name}-{rows[i].id}" for i in kept], dtype=np.str_),
        inputs=tuple(rows[i].text for i in kept),
        gold=(rating > 0).astype(np.int64),
        classes=_CLASSES,
        groups=np.array([f"{name}-{groups[i]}" for i in kept], dtype=np.str_),
        meta={
            "rating": rating,
            "difficulty": 4 - np.abs(rating),  # in (0, 4): the nearer the mean is to neutral, the harder
            "rating_sd": np.array([rows[i].sd for i in kept], dtype=np.float64),
            **{f"rater.{k + 1}": ratings[:, k] for k in range(ratings.shape[1])},
        },
    )


def _read(archive: Path, source: _Set) -> list[_Row]:
    """All rows of one set, straight from the tar.gz inside the tar.gz: nothing is written, nothing is executed."""
    inner = _member(archive.read_bytes(), _OUTER)
    texts = _fields(_member(inner, f"{_FOLDER}/{source.file}_GroundTruth.txt"), 3)
    ratings = {row[0]: row for row in _fields(_member(inner, f"{_FOLDER}/{source.file}_anonDataRatings.txt"), 4)}
    assert len(texts) == source.rows, f"{source.file} has {len(texts)} rows, expected {source.rows}"
    single = {number: [float(r) for r in json.loads(row[3])] for number, row in ratings.items()}
    everywhere = min(len(s) for s in single.values())  # 15 of the movies, 20 of the others
    rows = []
    for number, mean, text in texts:
        _, raters_mean, sd, _ = ratings[number]
        # 199 tweets (invented variants of real ones) have another mean in the file of ratings, so those are not theirs.
        same = abs(float(mean) - float(raters_mean)) < 1e-6
        known = tuple(single[number][:everywhere]) if same else (float("nan"),) * everywhere
        rows.append(_Row(number, float(mean), text, float(sd) if same else float("nan"), known))
    return rows


def _member(archive: bytes, name: str) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as tar:
        file = tar.extractfile(name)
        assert file is not None, f"{name} is no plain file"
        return file.read()


def _fields(content: bytes, num_fields: int) -> list[list[str]]:
    # The files are UTF-8, one with a byte-order mark; read as Latin-1, its first id would be lost and é become Ã©.
    lines = content.decode("utf-8-sig").replace("\r\n", "\n").rstrip("\n").split("\n")
    rows = [line.split("\t") for line in lines]
    assert all(len(row) == num_fields for row in rows), f"a row has not {num_fields} fields"
    return rows


def _groups(rows: list[_Row]) -> list[str]:
    """For each row the first document it is tied to: its own (``12_3`` belongs to 12), or one with the same words."""
    documents = [row.id.partition("_")[0] for row in rows]
    words = [" ".join(re.findall(r"\w+", row.text.lower())) or row.text.strip() for row in rows]
    tied = group_names(np.array(documents, dtype=np.str_), (documents, words), np.empty((0, 2), dtype=np.int64))
    return [str(name) for name in tied]
