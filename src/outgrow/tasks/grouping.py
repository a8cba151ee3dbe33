"""Which rows belong together: near-duplicates by their words, groups from pairs, whole groups within a limit."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from outgrow.data import Examples, Ids, Ints
from outgrow.errors import UserError

__all__ = ["group_names", "near_duplicates", "within_limit"]

_SHINGLE = 5
_MAX_SHARED = 200
"""A run of words shared by more texts than this is boilerplate; it does not make two of them near-duplicates."""


def near_duplicates(texts: Sequence[str], share: float = 0.7) -> Ints:
    """Pairs of texts (p, 2), each once, where the longer text contains at least ``share`` of the shorter.

    What is compared is each text's set of runs of five words (or all its words, if it has fewer), ignoring case and
    spacing. This finds a copy with a changed title, a copy cut short, and a reply that quotes everything; it does not
    pair two articles that share a sentence.
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


def group_names(ids: Ids, keys: Iterable[Sequence[str]], pairs: Ints | None = None) -> Ids:
    """The group of each row (n,), named after the first id in it. A pair or an equal key puts two rows in one group; an
    empty key does not."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    edges = [np.empty((0, 2), dtype=np.int64) if pairs is None else pairs]
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


def within_limit(pool: Examples, limit: int | None, name: str, rank: Callable[[str], Any]) -> Examples:
    """At most ``limit`` rows of the pool of task ``name``: whole groups in the order of their rank, skipping each that
    no longer fits.

    Raises:
        UserError: if not even the smallest group fits.
    """
    if limit is None or len(pool) <= limit:
        return pool
    groups = pool.groups.tolist()
    sizes = Counter(groups)
    chosen, rows = set(), 0
    for group in sorted(sizes, key=rank):
        if rows + sizes[group] <= limit:
            chosen.add(group)
            rows += sizes[group]
    if not chosen:
        raise UserError(f"limit of task {name} is {limit}, but its smallest group has {min(sizes.values())} rows")
    return pool.take(pool.ids[[g in chosen for g in groups]])


def _shingles(text: str) -> list[str]:
    words = text.lower().split()
    return [" ".join(words[i : i + _SHINGLE]) for i in range(max(1, len(words) - _SHINGLE + 1))]
