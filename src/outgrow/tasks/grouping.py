"""Rows that belong together: near-duplicates by their words, groups out of pairs, and whole groups within a limit."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from outgrow.data import Ids, Ints

__all__ = ["group_names", "near_duplicates", "within_limit"]

_SHINGLE = 5
_MAX_SHARED = 200
"""A run of words in more texts than this is boilerplate and says nothing about any two of them."""


def near_duplicates(texts: Sequence[str], share: float = 0.7) -> Ints:
    """Pairs of texts (p, 2), each once, where the shorter one is ``share`` contained in the other.

    Contained are its different runs of five words (all its words, where it has fewer), so a copy with a changed title,
    a cut copy and a reply that quotes everything are found, and a sentence two articles share is not. Case and spacing
    do not count.
    """
    from scipy.sparse import csr_matrix
    from sklearn.feature_extraction.text import HashingVectorizer

    vectorizer = HashingVectorizer(
        analyzer=_shingles, n_features=2**24, binary=True, norm=None, alternate_sign=False, dtype=np.float32
    )
    hashed = vectorizer.transform(texts)
    _, column, frequency = np.unique(hashed.indices, return_inverse=True, return_counts=True)
    shingles = csr_matrix((hashed.data, column, hashed.indptr))
    size = np.diff(hashed.indptr)
    telling = shingles[:, np.flatnonzero((frequency > 1) & (frequency <= _MAX_SHARED))]
    common = (telling @ telling.T).tocoo()
    wanted = (common.row < common.col) & (common.data >= share * np.minimum(size[common.row], size[common.col]))
    return np.stack([common.row[wanted], common.col[wanted]], axis=1).astype(np.int64)


def group_names(ids: Ids, keys: Iterable[Sequence[str]], pairs: Ints) -> Ids:
    """For each row the first id it is tied to, by a pair or by an equal key (an empty key ties nothing) (n,)."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    edges = [pairs]
    for column in keys:
        first: dict[str, int] = {}
        tied = [(first.setdefault(key, row), row) for row, key in enumerate(column) if key]
        edges.append(np.array(tied, dtype=np.int64).reshape(-1, 2))
    start, end = np.concatenate(edges).T
    graph = coo_matrix((np.ones(len(start), dtype=np.bool_), (start, end)), shape=(len(ids), len(ids)))
    _, component = connected_components(graph, directed=False)
    _, row = np.unique(component, return_index=True)
    names: Ids = ids[row[component]]
    return names


def within_limit(groups: Iterable[str], limit: int, rank: Callable[[str], Any]) -> set[str]:
    """Whole groups of at most ``limit`` rows together, of one group name for each row: in the order of their rank, each
    that still fits."""
    sizes = Counter(groups)
    chosen, rows = set(), 0
    for group in sorted(sizes, key=rank):
        if rows + sizes[group] <= limit:
            chosen.add(group)
            rows += sizes[group]
    return chosen


def _shingles(text: str) -> list[str]:
    words = text.lower().split()
    return [" ".join(words[i : i + _SHINGLE]) for i in range(max(1, len(words) - _SHINGLE + 1))]
