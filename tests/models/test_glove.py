from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from outgrow.models.glove import GloVe
from outgrow.runtime import Runtime

WORDS = ["do", "n't", "it", "'s", "good", "film", ",", ".", "...", "--", "u.s.", "1,000", "mid-1990s", "well", "acted"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the vectors are read from. Each word's vector has a 1 in its own place, so a mean shows which words were
    counted, and how often."""
    monkeypatch.setattr("outgrow.models.glove.model_folder", lambda name, runtime: tmp_path)
    np.save(tmp_path / "vectors.npy", np.eye(len(WORDS), dtype=np.float32))
    (tmp_path / "words.txt").write_text("\n".join(WORDS), encoding="utf-8")
    return tmp_path


def embed(texts: Sequence[str]) -> npt.NDArray[np.float32]:
    return GloVe().embed(texts, Runtime(device="cpu", offline=True))


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
    (mean,) = embed([text])
    np.testing.assert_allclose(mean, counts / counts.sum(), rtol=1e-6)


@pytest.mark.parametrize("text", ["", "   ", "xyzzy"])
def test_no_known_word_gives_zeros(folder: Path, text: str) -> None:
    embedded = embed([text])
    assert embedded.dtype == np.float32
    assert embedded.shape == (1, len(WORDS))
    assert not embedded.any()


def test_a_text_does_not_depend_on_the_others(folder: Path) -> None:
    rng = np.random.default_rng(0)
    np.save(folder / "vectors.npy", rng.normal(size=(500, 50)).astype(np.float32))
    (folder / "words.txt").write_text("\n".join(f"w{i}" for i in range(500)), encoding="utf-8")
    texts = [" ".join(f"w{i}" for i in rng.integers(500, size=rng.integers(1, 40))) for _ in range(50)]
    together = embed(texts)
    alone = np.concatenate([embed([text]) for text in texts])
    assert together.tobytes() == alone.tobytes()
    assert embed(texts[::-1])[::-1].tobytes() == together.tobytes()


def test_nothing_in_gives_nothing_out(folder: Path) -> None:
    assert embed([]).shape == (0, len(WORDS))
