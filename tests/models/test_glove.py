from pathlib import Path

import numpy as np
import pytest

from outgrow.models.glove import embed_glove

WORDS = ["do", "n't", "it", "'s", "good", "film", ",", ".", "...", "--", "u.s.", "1,000", "mid-1990s", "well", "acted"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Each word's vector has a 1 in its own place, so a mean shows which words were counted, and how often."""
    np.save(tmp_path / "vectors.npy", np.eye(len(WORDS), dtype=np.float32))
    (tmp_path / "words.txt").write_text("\n".join(WORDS), encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Don't", ["do", "n't"]),
        ("It’s good", ["it", "'s", "good"]),
        ("DO it, do it.", ["do", "it", ",", "do", "it", "."]),
        ("good..... film …", ["good", "...", "film", "..."]),
        ("good—film ---- it", ["good", "--", "film", "--", "it"]),
        ("U.S. film", ["u.s.", "film"]),
        ("1,000 mid-1990s", ["1,000", "mid-1990s"]),
        ("well-acted", ["well", "acted"]),  # unknown as one word
        ("xyzzy good", ["good"]),
    ],
)
def test_counts_words_as_glove_was_made(folder: Path, text: str, words: list[str]) -> None:
    counts = np.array([words.count(w) for w in WORDS])
    (mean,) = embed_glove(folder, [text])
    np.testing.assert_allclose(mean, counts / counts.sum(), rtol=1e-6)


@pytest.mark.parametrize("text", ["", "   ", "xyzzy"])
def test_no_known_word_gives_zeros(folder: Path, text: str) -> None:
    embedded = embed_glove(folder, [text])
    assert embedded.dtype == np.float32
    assert embedded.shape == (1, len(WORDS))
    assert not embedded.any()


def test_a_text_does_not_depend_on_the_others(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    np.save(tmp_path / "vectors.npy", rng.normal(size=(500, 50)).astype(np.float32))
    (tmp_path / "words.txt").write_text("\n".join(f"w{i}" for i in range(500)), encoding="utf-8")
    texts = [" ".join(f"w{i}" for i in rng.integers(500, size=rng.integers(1, 40))) for _ in range(50)]
    together = embed_glove(tmp_path, texts)
    alone = np.concatenate([embed_glove(tmp_path, [text]) for text in texts])
    assert together.tobytes() == alone.tobytes()
    assert embed_glove(tmp_path, texts[::-1])[::-1].tobytes() == together.tobytes()


def test_nothing_in_gives_nothing_out(folder: Path) -> None:
    assert embed_glove(folder, []).shape == (0, len(WORDS))
