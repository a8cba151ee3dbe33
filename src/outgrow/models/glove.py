"""Texts as the mean of their GloVe word vectors: the weakest packaged model, blind to context and word order."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

import numpy as np

from outgrow.models.base import Array, model
from outgrow.models.packaged import model_folder
from outgrow.runtime import Runtime

__all__ = ["GloVe", "words_of"]

# GloVe 6B counts words as Stanford's tokenizer splits them: "do" "n't", "it" "'s", "u.s.", "1,000", "mid-1990s".
_TOKEN = re.compile(
    r"""
    [^\W\d_]+(?=n't\b) | n't\b                          # do n't
    | '(?:s|re|ve|ll|d|m)\b                             # it 's
    | (?:[^\W\d_]\.){2,}                                # u.s.
    | \d+(?:[.,]\d+)+                                   # 1,000
    | \w+(?:(?:-|'(?!(?:s|re|ve|ll|d|m)\b))\w+)*        # mid-1990s, o'brien
    | \.{2,} | -{2,}
    | [^\w\s]
    """,
    re.VERBOSE,
)
_TYPOGRAPHIC = str.maketrans({"‘": "'", "’": "'", "“": '"', "”": '"', "–": "-", "—": "--", "…": "..."})


@model("glove")
class GloVe:
    """The mean GloVe vector of the words in a text; zeros for a text with no known word.

    Unknown words are skipped; an unknown word with hyphens counts as its parts. A text's row does not depend on the
    other texts, to the last bit.
    """

    version: ClassVar[int] = 1
    reads: ClassVar[str] = "text"

    def embed(self, inputs: Sequence[str], runtime: Runtime) -> Array:
        """Features (n, 50)."""
        folder = model_folder("glove", runtime)
        vectors = np.asarray(np.load(folder / "vectors.npy", mmap_mode="r"))
        words = (folder / "words.txt").read_text(encoding="utf-8").split("\n")
        rows = dict(zip(words, range(len(words)), strict=True))
        means = np.zeros((len(inputs), vectors.shape[1]), dtype=np.float32)
        for i, text in enumerate(inputs):
            if found := list(_known(text, rows)):
                means[i] = vectors[found].mean(axis=0, dtype=np.float64)
        return means


def words_of(text: str) -> list[str]:
    """The words of a text as GloVe counts them, in order and in lower case, without punctuation."""
    return [t for t in _TOKEN.findall(text.translate(_TYPOGRAPHIC).lower()) if any(c.isalnum() for c in t)]


def _known(text: str, rows: Mapping[str, int]) -> Iterator[int]:
    """Rows of the known words of a text."""
    for token in _TOKEN.findall(text.translate(_TYPOGRAPHIC).lower()):
        if token.startswith((".", "--")):
            token = token if len(token) == 1 else token[0] * (3 if token[0] == "." else 2)  # ".." and "----" too
        if token in rows:
            yield rows[token]
        elif "-" in token:
            yield from (rows[part] for part in token.split("-") if part in rows)
