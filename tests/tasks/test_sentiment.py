import io
import tarfile
from pathlib import Path

import numpy as np
import pytest

from outgrow.archives import VADER_SENTIMENT
from outgrow.errors import UserError
from outgrow.runtime import Runtime
from outgrow.tasks import TaskSpec, load
from outgrow.tasks.catalogue import sentiment

TEXTS = "\r\n".join(
    [
        "1_1\t2.26666666667\tA splash of Jiří's café – lovely.",
        "1_2\t-0.6\tToo tepid",
        "2_1\t0.5\tNeither here nor there.",
        "2_2\t-3\tTOO tepid!",
        "3_1\t1.5\t:)",
        "4_1\t-1.5\t:(",
    ]
)
RATINGS = "\r\n".join(  # in another order, with a byte-order mark, and 3_1 rated by other people
    [
        "\ufeff4_1\t-1.5\t0.5\t[-1, -2]",
        "3_1\t2.5\t0.5\t[2, 3]",
        "2_2\t-3\t1\t[-2, -4]",
        "2_1\t0.5\t0.5\t[0, 1]",
        "1_2\t-0.6\t0.8\t[0, -1, -1]",
        "1_1\t2.266666667\t1.06249\t[3, 2, 2]",
    ]
)


def _tar_gz(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reviews, six rows of them, in an archive of the true format."""
    inner = {
        "hutto_ICWSM_2014/amazonReviewSnippets_GroundTruth.txt": TEXTS.encode(),
        "hutto_ICWSM_2014/amazonReviewSnippets_anonDataRatings.txt": RATINGS.encode(),
    }
    archive = tmp_path / "archive.tar.gz"
    archive.write_bytes(_tar_gz({sentiment._OUTER: _tar_gz(inner)}))
    monkeypatch.setattr(sentiment, "fetch", lambda *_, **__: archive)
    monkeypatch.setitem(sentiment.SETS, "reviews", sentiment.SETS["reviews"]._replace(rows=6))


@pytest.mark.usefixtures("tiny")
def test_rows_are_read_kept_and_joined_by_id() -> None:
    data = load(TaskSpec.parse("sentiment-reviews"), Runtime())
    assert data.ids.tolist() == [f"reviews-{i}" for i in ("1_1", "1_2", "2_2", "3_1", "4_1")]
    assert data.inputs[0] == "A splash of Jiří's café – lovely."
    assert data.gold is not None
    assert data.gold.tolist() == [1, 0, 0, 1, 0]
    np.testing.assert_allclose(data.meta["rating"], [2.26666666667, -0.6, -3, 1.5, -1.5])
    np.testing.assert_allclose(data.meta["difficulty"], [1.73333333333, 3.4, 1, 2.5, 2.5])
    np.testing.assert_allclose(data.meta["rating_sd"], [1.06249, 0.8, 1, np.nan, 0.5])
    # As many ratings as every row has, none where another row's stand in the file.
    assert [name for name in data.meta if name.startswith("rater.")] == ["rater.1", "rater.2"]
    np.testing.assert_allclose(data.meta["rater.1"], [3, 0, -2, np.nan, -1])
    np.testing.assert_allclose(data.meta["rater.2"], [2, -1, -4, np.nan, -2])


@pytest.mark.usefixtures("tiny")
def test_tweets_whose_ratings_are_not_known_can_be_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sentiment.SETS, "tweets", sentiment.SETS["reviews"])
    for spelled, rows in (("sentiment-tweets", 5), ("sentiment-tweets(rated=True)", 4)):
        data = load(TaskSpec.parse(spelled), Runtime())
        assert len(data) == rows
        assert np.isnan(data.meta["rater.1"]).sum() == rows - 4


@pytest.mark.usefixtures("tiny")
def test_a_document_and_what_shares_its_words_are_one_group() -> None:
    groups = load(TaskSpec.parse("sentiment-reviews"), Runtime()).groups.tolist()
    assert groups == ["reviews-1", "reviews-1", "reviews-1", "reviews-3", "reviews-4"]


@pytest.mark.usefixtures("tiny")
def test_min_rating_decides_what_is_kept() -> None:
    assert len(load(TaskSpec.parse("sentiment-reviews(min_rating=2)"), Runtime())) == 2
    for wrong in (0, 4.5, -1):
        with pytest.raises(UserError, match=r"min_rating of task sentiment-reviews is .*; it must lie in \(0, 4\]"):
            load(TaskSpec.parse(f"sentiment-reviews(min_rating={wrong})"), Runtime())
    with pytest.raises(UserError, match=r"min_rating=4\.0 of task sentiment-reviews leaves no row"):
        load(TaskSpec.parse("sentiment-reviews(min_rating=4)"), Runtime())


def test_offline_and_not_fetched_says_how_to_mend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUTGROW_CACHE", str(tmp_path))
    with pytest.raises(UserError, match="outgrow pull sentiment-news"):
        load(TaskSpec.parse("sentiment-news"), Runtime(offline=True))


@pytest.mark.slow
@pytest.mark.skipif(not VADER_SENTIMENT.is_cached, reason="the archive was never fetched here")
@pytest.mark.parametrize(
    ("name", "negative", "positive", "all_rows"),
    [
        ("movies", 5061, 4982, 10_605),
        ("news", 1688, 1100, 5_190),
        ("tweets", 1062, 2300, 4_200),
        ("reviews", 1218, 1725, 3_708),
    ],
)
def test_the_real_archive(name: str, negative: int, positive: int, all_rows: int) -> None:
    data = load(TaskSpec.parse(f"sentiment-{name}"), Runtime(offline=True))
    assert np.bincount(data.gold if data.gold is not None else []).tolist() == [negative, positive]
    assert not any("Ã" in text or "\ufffd" in text for text in data.inputs)
    rows = sentiment._read(VADER_SENTIMENT.cached_path, sentiment.SETS[name])
    assert len(rows) == all_rows
    assert sum(np.isnan(row.sd) for row in rows) == (199 if name == "tweets" else 0)
    assert {len(row.ratings) for row in rows} == {15 if name == "movies" else 20}
