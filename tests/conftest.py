"""Shared doubles: tasks of made-up words, tiny models on disk, and stores."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
import torch

from outgrow.data import Examples
from outgrow.engine.store import Store
from outgrow.experiment import Experiment, open_store
from outgrow.models.transformer import load_tokenizer
from outgrow.tasks.registry import task
from tiny_models import WORDS, make_model

torch.set_num_threads(1)  # tiny tensors: threads that wait for each other would cost ten times the work itself


@task(name="words", content="made up", licence="none", source="tests", about="Which class word the text holds.")
def words(*, rows: int = 240, classes: int = 2, fixed: bool = False, poisoned: bool = False) -> Examples:
    """Texts with one class word among others; rows come in groups of up to two.

    ``fixed`` says the part of each row in a meta column; ``poisoned`` deals the gold of B and of T to wrong rows,
    class counts kept, so that nothing but gold itself differs.
    """
    rng = np.random.default_rng(0)
    names = ("bad", "good", "no")[:classes]
    gold = np.arange(rows) % classes
    # The class word often comes late: a supervisor that reads few tokens makes mistakes.
    places, fillers = rng.integers(4, size=rows), rng.choice(WORDS[5:], size=(rows, 3))
    texts = [" ".join([*f[:p], names[g], *f[p:]]) for g, p, f in zip(gold, places, fillers, strict=True)]
    parts = np.array(["A", "B", "T"])[(np.arange(rows) // classes) % 3]
    if poisoned:
        for part in ("B", "T"):
            here = np.flatnonzero(parts == part)
            gold[here] = rng.permutation(gold[here])
    order = rng.permutation(rows)
    return Examples(
        ids=np.array([f"id-{i}" for i in range(rows)])[order],
        inputs=tuple(texts[i] for i in order),
        gold=gold[order],
        classes=names,
        groups=np.array([f"group-{i if fixed else i // (2 * classes) * classes + i % classes}" for i in order]),
        meta={"difficulty": (order * 7 % 11).astype(np.float64), **({"split": parts[order]} if fixed else {})},
    )


@task(
    name="chosen-words", content="made up", licence="none", source="tests", about="Which text says good.", kind="choice"
)
def chosen_words(*, rows: int = 240, candidates: int = 2) -> Examples:
    """One candidate of each row says "good", the others "bad"; the words around are the same for all."""
    rng = np.random.default_rng(0)
    gold = rng.integers(candidates, size=rows)
    inputs = []
    for g in gold:
        before, after = (rng.choice(WORDS[5:], size=rng.integers(4)).tolist() for _ in range(2))
        inputs.append(tuple(" ".join([*before, "good" if c == g else "bad", *after]) for c in range(candidates)))
    ids = np.array([f"id-{i}" for i in range(rows)])
    classes = tuple(f"place {c}" for c in range(candidates))
    return Examples(ids=ids, inputs=tuple(inputs), gold=gold, classes=classes, groups=ids)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a random BERT with two layers."""
    folder: Path = make_model(tmp_path_factory.mktemp("models") / "bert", "bert")
    return folder


@pytest.fixture(scope="session")
def writer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a random Llama with two layers, whose tokenizer has an end of text."""
    folder: Path = make_model(tmp_path_factory.mktemp("writers") / "llama", "llama")
    tokenizer = load_tokenizer(folder)
    tokenizer.eos_token = "[SEP]"
    tokenizer.save_pretrained(folder)
    return folder


MakeExperiment = Callable[..., Experiment]


@pytest.fixture(scope="session")
def make(model: Path) -> MakeExperiment:
    """Make an experiment that runs offline in about a second: the supervisor reads two words of each text."""

    def make(**changed: Any) -> Experiment:
        fields: dict[str, Any] = {
            "task": "words",
            "weak": str(model),
            "strong": str(model),
            "train": "probe(epochs=6, lr=0.03)",
            "weak_train": "probe(epochs=6, lr=0.03, max_tokens=4)",
            "seeds": (0, 1),
        }
        return Experiment(**fields | changed)

    return make


@pytest.fixture(scope="session")
def lawful(make: MakeExperiment, model: Path, writer: Path) -> MakeExperiment:
    """Make an experiment with a strategy that does what it is for: with models between, a student that can write."""
    spelled = {
        "bootstrap": f"bootstrap(through=({str(model)!r},), fresh=True)",
        "direct": "direct(shares=2)",
        "ccs": "ccs(restarts=2, updates=50)",
        "icm": "icm(rows=6, context=2, updates=6, first=3)",
        "ensemble": "ensemble(size=2)",
        "boosted": "boosted(size=2)",
        "co-supervised": "co-supervised(size=2)",
        "raven": "raven(size=2)",
        "gold-matched": f"gold-matched(through=({str(model)!r},))",
    }
    writes = {"generative-finetuning", "zero-shot", "few-shot", "icm"}

    def lawful(strategy: str, **changed: Any) -> Experiment:
        strong = {"strong": str(writer)} if strategy in writes else {}
        return make(strategy=spelled.get(strategy, strategy), **strong | changed)

    return lawful


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """torch with one thread, and with two."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


@pytest.fixture(params=["disk", "memory"])
def any_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """A store on local disk and one at an fsspec URL."""
    if request.param == "disk":
        yield open_store(str(tmp_path / "store"))
    else:
        opened = open_store(f"memory://{uuid4().hex}")
        yield opened
        if opened.fs.exists(opened.path):
            opened.fs.rm(opened.path, recursive=True)
