"""A model reader of the user's: one class in a file outside the package."""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from conftest import MakeExperiment
from outgrow.data import Examples
from outgrow.engine.graph import Step, in_order
from outgrow.engine.store import Store
from outgrow.errors import UserError
from outgrow.experiment import sweep, wire
from outgrow.models import MODELS, model
from outgrow.models.settings import VIEWS
from outgrow.models.spec import ModelSpec
from outgrow.registry import use
from outgrow.runtime import Runtime

CPU = Runtime(device="cpu", offline=True, say=lambda line: None)
CODE = '''
from pathlib import Path

import numpy as np

from outgrow.models import model


@model("word-counts")
class WordCounts:
    """How often each of some words occurs."""

    reads = "text"

    words: tuple[str, ...] = ("good", "bad")
    lexicon: str | None = None

    def embed(self, inputs, runtime):
        words = Path(self.lexicon).read_text().split() if self.lexicon else self.words
        return np.array([[text.split().count(word) for word in words] for text in inputs])
'''


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Path]:
    """The user's file, loaded."""
    path = tmp_path / "my_word_counts.py"
    path.write_text(CODE)
    use(path)
    yield path
    del sys.modules[path.stem], MODELS._values["word-counts"]
    MODELS._parsed.clear()


def edit(file: Path, old: str, new: str) -> None:
    file.write_text(CODE.replace(old, new))
    use(file)


def texts(*inputs: str) -> Examples:
    ids = np.array([f"i{n}" for n in range(len(inputs))])
    return Examples(ids=ids, inputs=inputs, gold=None, classes=("a", "b"), groups=ids)


def embeds(target: Step) -> set[str]:
    return {step.key for step in in_order([target]) if step.function.name == "embed"}


def test_a_probe_experiment_takes_it_as_weak_and_as_strong(file: Path, make: MakeExperiment, store: Store) -> None:
    weak = "word-counts(words=('zero', 'w0'))"
    row = sweep([make(weak=weak, strong="word-counts")], str(store.root), CPU, quiet=True).row(0, named=True)
    assert (row["weak"], row["strong"]) == (weak, "word-counts")
    assert row["weak_accuracy"] < 0.8
    assert row["ceiling_accuracy"] == 1


def test_its_options_are_its_identity(file: Path, tmp_path: Path) -> None:
    plain = ModelSpec.parse("word-counts")
    assert str(ModelSpec.parse("word-counts( words = ('good', 'bad') )")) == "word-counts"
    assert ModelSpec.parse("word-counts(words=('good', 'bad'))") == plain
    assert ModelSpec.parse("word-counts(words=('good',))") != plain
    lexicon = tmp_path / "lexicon.txt"
    lexicon.write_text("good")
    named = ModelSpec.parse(f"word-counts(lexicon={str(lexicon)!r})")
    lexicon.write_text("good bad")
    assert ModelSpec.parse(str(named)) != named


def test_its_code_is_its_identity(file: Path, make: MakeExperiment) -> None:
    experiment = make(weak="word-counts(words=('good',))", strong="word-counts")
    before, spec = embeds(wire(experiment)), ModelSpec.parse("word-counts")
    assert len(before) == 2
    assert "my_word_counts.WordCounts" in spec.content
    edit(file, "    def embed", "    # says how\n    def embed")
    assert embeds(wire(experiment)) == before
    edit(file, "count(word)", "count(word) + 1")
    assert not embeds(wire(experiment)) & before
    # What was wired before the edit still runs the code that its key tells.
    found = [s.embed(texts("good", "bad"), None, CPU)["mean"].tolist() for s in (spec, ModelSpec.parse("word-counts"))]
    assert found == [[[1, 0], [0, 1]], [[2, 1], [1, 2]]]
    edit(file, "    reads", "    version = 2\n    reads")
    assert ModelSpec.parse("word-counts") != spec


def test_it_has_frozen_features_only(file: Path, make: MakeExperiment) -> None:
    with pytest.raises(UserError, match="word-counts has frozen features only and cannot be finetuned") as caught:
        wire(make(strong="word-counts", train="finetune"))
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="word-counts is no language model"):
        ModelSpec.parse("word-counts").check_language_model("this writes")
    with pytest.raises(UserError, match="words of model word-count"):
        ModelSpec.parse("word-counts(words=1)")


def test_choices_get_a_row_for_each_candidate(file: Path) -> None:
    ids = np.array(["i0"])
    choice = Examples(ids=ids, inputs=(("bad bad", "good"),), gold=None, classes=("a", "b"), groups=ids)
    views = ModelSpec.parse("word-counts").embed(choice, None, CPU)
    assert views.keys() == VIEWS.keys()
    assert views["mean"].dtype == np.float32
    assert views["mean"].tolist() == [[[0, 2], [1, 0]]]


@pytest.mark.parametrize(
    ("returned", "match"),
    [
        ("np.zeros(len(inputs))", r"shape \[\(2,\)\] for 2 inputs; it must return one \(2, d\) matrix"),
        ("np.zeros((1, 3))", r"shape \[\(1, 3\)\] for 2 inputs"),
        ("{'mean': np.zeros((2, 3))}", "or one for each of last_token, mean, mid_mean"),
        ("np.full((2, 3), np.nan)", "not finite"),
    ],
)
def test_what_are_no_features_is_refused(file: Path, returned: str, match: str) -> None:
    edit(
        file, "return np.array([[text.split().count(word) for word in words] for text in inputs])", f"return {returned}"
    )
    with pytest.raises(UserError, match=match):
        ModelSpec.parse("word-counts").embed(texts("good", "bad"), None, CPU)


@pytest.mark.parametrize("name", ["minilm-l6", "glove", "vectors"])
def test_a_name_that_stands_is_refused_with_both_places(name: str) -> None:
    class Mine:
        reads = "text"

        def embed(self, inputs: object, runtime: Runtime) -> None: ...

    with pytest.raises(UserError, match=rf"two models are called {name}: .*outgrow.models.*test_base.*\.Mine"):
        model(name)(Mine)


@pytest.mark.parametrize("lacking", ["reads", "embed"])
def test_a_reader_says_what_it_reads_and_embeds(lacking: str) -> None:
    members = {"reads": "text", "embed": lambda self, inputs, runtime: inputs}
    del members[lacking]
    with pytest.raises(UserError, match=r"needs a method embed\(inputs, runtime\), and reads = 'text' or 'image'"):
        model("half")(type("Half", (), members))
