"""Language models that are asked: as a plain loop finds; the question is never cut, and keys know it."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from conftest import MakeExperiment
from outgrow import steps
from outgrow.data import Examples, Question
from outgrow.engine.graph import Step, in_order
from outgrow.engine.runner import StepsFailed
from outgrow.engine.store import Store
from outgrow.errors import UserError
from outgrow.experiment import Experiment, Grid, experiments_of, run_steps, wire, wire_all
from outgrow.models import asked, resume
from outgrow.models.asked import ask, measure_asking
from outgrow.models.settings import ASKED
from outgrow.models.spec import ModelSpec
from outgrow.models.transformer import load_language_model, load_tokenizer
from outgrow.report.run import cautions
from outgrow.results import table_of
from outgrow.runtime import Runtime
from outgrow.tasks import TASKS, TaskSpec, question_of
from tiny_models import WORDS, make_model, make_task

CPU = Runtime(device="cpu", offline=True, say=lambda line: None)
WHOLE = Question(template="w1 {text} w2 w3", words=("no", "yes"))
TEXTS = [*make_task(20, 0)[0], "", "good", "good"]


@pytest.fixture(scope="session", params=["llama", "gpt2"])
def decoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random decoder with four layers."""
    return make_model(tmp_path_factory.mktemp("decoders") / request.param, request.param, layers=4)


def by_hand(folder: Path, texts: Sequence[str], bf16: bool = False) -> dict[str, np.ndarray[Any, Any]]:
    """The views of ``WHOLE``, one text at a time, by transformers alone."""
    tokenizer, model = load_tokenizer(folder), load_language_model(folder, bf16=bf16).eval()
    head = load_language_model(folder).get_output_embeddings()
    special = tokenizer.num_special_tokens_to_add()
    rows: dict[str, list[Any]] = {}
    for text in texts:
        ids = tokenizer(f"w1 {text} w2 w3")["input_ids"]
        with torch.inference_mode():
            out = model(input_ids=torch.tensor([ids]), output_hidden_states=True)
            logs = head(out.hidden_states[4][0, -1].float()).log_softmax(dim=-1)
        count = len(text.split())
        inside = slice(special + 1, special + 1 + count) if count else slice(None)
        at = {number: out.hidden_states[number][0].float() for number in (2, 3, 4)}
        found = {
            "asked": at[3][-1],
            "asked_half": at[2][-1],
            "asked_three_quarters": at[3][-1],
            "asked_last": at[4][-1],
            "asked_mean": at[3][inside].mean(dim=0),
            "asked_mean_last": at[4][inside].mean(dim=0),
            "words": logs[tokenizer.convert_tokens_to_ids(["no", "yes"])],
        }
        for view, row in found.items():
            rows.setdefault(view, []).append(row.numpy())
    views = {view: np.stack(made) for view, made in rows.items()}
    return {**views, "words_calibrated": views["words"] - views["words"][texts.index("")]}


@pytest.mark.parametrize("bf16", [False, True])
def test_every_view_is_that_of_one_text_at_a_time(decoder: Path, bf16: bool) -> None:
    found, wanted = ask(decoder, TEXTS, WHOLE, max_tokens=None, runtime=CPU, bf16=bf16), by_hand(decoder, TEXTS, bf16)
    assert found.keys() == wanted.keys() == {*ASKED, "words", "words_calibrated"}
    for view, matrix in found.items():
        assert matrix.dtype == np.float32
        assert matrix.shape == wanted[view].shape
        error = np.linalg.norm(matrix - wanted[view], axis=1)
        assert (error <= (2e-2 if bf16 else 1e-5) * np.linalg.norm(wanted[view], axis=1) + 1e-6).all(), view


def test_neither_batches_nor_order_change_a_text(decoder: Path) -> None:
    whole = ask(decoder, TEXTS, WHOLE, max_tokens=None, runtime=CPU)
    single = ask(decoder, TEXTS[::-1], WHOLE, max_tokens=None, runtime=replace(CPU, tokens_at_once=1))
    for view, matrix in whole.items():
        assert np.allclose(matrix, single[view][::-1], rtol=1e-5, atol=1e-5), view


def test_a_padded_pass_gives_the_same(decoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = ask(decoder, TEXTS, WHOLE, max_tokens=None, runtime=CPU)
    monkeypatch.setattr(asked, "can_pack", lambda body, padded: False)
    padded = ask(decoder, TEXTS, WHOLE, max_tokens=None, runtime=CPU)
    for view, matrix in packed.items():
        assert np.allclose(matrix, padded[view], rtol=1e-4, atol=1e-4), view


_WORD = st.sampled_from([*WORDS, "[SEP]"])


@given(st.lists(st.lists(_WORD, max_size=20).map(" ".join), min_size=1, max_size=6), st.integers(6, 24))
def test_the_text_is_cut_and_never_the_question(writer: Path, texts: list[str], max_tokens: int) -> None:
    tokenizer = load_tokenizer(writer)
    prompts = asked._prompts(tokenizer, texts, WHOLE, max_tokens)
    head, tail = tokenizer("w1")["input_ids"], tokenizer("w2 w3", add_special_tokens=False)["input_ids"]
    for text, prompt in zip(texts, prompts, strict=True):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        room = max_tokens - len(head) - len(tail)
        assert list(prompt.tokens) == [*head, *ids[:room], *tail]
        assert prompt.is_cut == (len(ids) > room)
        assert list(prompt.tokens[prompt.first : prompt.end]) == ids[:room]
    cut = measure_asking(writer, texts, WHOLE, max_tokens)
    assert cut[:3] == (max_tokens, len(texts), sum(prompt.is_cut for prompt in prompts))


def test_what_is_cut_is_said_and_a_question_without_room_refused(writer: Path) -> None:
    said: list[str] = []
    ask(writer, ["good " * 9, "bad"], WHOLE, max_tokens=8, runtime=replace(CPU, say=said.append))
    assert said == [
        "warning: 1 of 2 texts were cut, so that text and question have at most 8 tokens; max_tokens=... reads more, "
        "where the model can"
    ]
    with pytest.raises(UserError, match="the question alone has 4 tokens; give at least max_tokens=12"):
        ask(writer, ["good"], WHOLE, max_tokens=4, runtime=CPU)


def test_words_that_begin_alike_are_said_and_give_no_zero_shot(writer: Path) -> None:
    said: list[str] = []
    alike = Question(template="w1 {text} w2", words=("no w3", "no w4"))
    views = ask(writer, ["good"], alike, max_tokens=None, runtime=replace(CPU, say=said.append))
    assert views.keys() == ASKED.keys()
    assert "begin with the same token" in said[0]


def test_an_encoder_is_no_model_to_ask(model: Path) -> None:
    with pytest.raises(UserError, match="encoder"):
        ask(model, ["good"], WHOLE, max_tokens=None, runtime=CPU)


class _Killed(Exception):
    pass


@pytest.mark.parametrize("bf16", [False, True])
def test_a_killed_pass_goes_on_and_gives_the_same_bits(
    decoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bf16: bool
) -> None:
    monkeypatch.setattr(resume, "SECONDS", 0.0)
    told: list[int] = []

    def report(done: int, total: int, unit: str) -> None:
        told.append(done)
        if len(told) == 4:
            raise _Killed

    runtime = replace(CPU, tokens_at_once=30, scratch=tmp_path / "scratch", report=report)
    with pytest.raises(_Killed):
        ask(decoder, TEXTS, WHOLE, max_tokens=None, runtime=runtime, bf16=bf16)
    before, told[:] = told[-2], [0] * 5  # the file of the last batch was written before it was reported
    continued = ask(decoder, TEXTS, WHOLE, max_tokens=None, runtime=runtime, bf16=bf16)
    assert told[5] >= before > 0
    whole = ask(decoder, TEXTS, WHOLE, max_tokens=None, runtime=replace(CPU, tokens_at_once=30), bf16=bf16)
    assert all(np.array_equal(whole[view], continued[view]) for view in whole)
    # Another question is another pass.
    other = replace(WHOLE, template="w3 {text} w2 w3")
    told[:] = [0] * 5
    ask(decoder, TEXTS, other, max_tokens=None, runtime=runtime, bf16=bf16)
    assert 0 < told[5] <= 30  # its first batch


# --- questions --------------------------------------------------------------------------------------------------------


def examples(classes: Sequence[str], inputs: Sequence[Any] = ("w1",)) -> Examples:
    ids = np.array([f"r{i}" for i in range(len(inputs))])
    return Examples(ids=ids, inputs=tuple(inputs), gold=None, classes=tuple(classes), groups=ids)


def test_a_plain_question_lists_the_classes() -> None:
    assert Question().of(examples(("a", "b", "c"))) == Question(
        template="{text}\nLabel (a, b or c):", words=("a", "b", "c")
    )
    many = [f"class {i}" for i in range(21)]
    assert Question().of(examples(many)).template == "{text}\nLabel:"
    assert Question().of(examples(("A", "B"), [("x", "y")])) == Question(
        template="{text}\nIs this right (no or yes):", words=("no", "yes")
    )


def test_words_follow_the_classes_that_are_left() -> None:
    asked = Question(template="{text} {classes}?", words=("x", "y", "z"), classes=("a", "b", "c"))
    assert asked.of(examples(("c", "a"))) == Question(template="{text} z or x?", words=("z", "x"))


@pytest.mark.parametrize(
    ("question", "said"),
    [
        (lambda: Question(template="no place"), "must hold {text} once"),
        (lambda: Question(template="{text} then "), "ends with white space"),
        (lambda: Question(words=("a", " ")), "a word of .* is empty"),
        (lambda: Question(words=("a",)).of(examples(("x", "y"))), "1 words .* for 2 classes"),
    ],
)
def test_a_question_that_cannot_be_asked_is_refused(question: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        question()


def test_every_task_of_texts_has_a_question_with_a_word_for_each_class() -> None:
    ours = {name: entry.facts for name, entry in TASKS.items() if entry.fn.__module__.startswith("outgrow.")}
    asking = {name: facts for name, facts in ours.items() if facts.question}
    assert set(ours) - set(asking) <= {"fashion-mnist", "imagenet", "images", "mnist", "synthetic-gaussian", "table"}
    for facts in asking.values():
        Question(template=facts.question, words=facts.words)
        wanted = 2 if facts.kind == "choice" or facts.classes is None else len(facts.classes)
        assert len(facts.words or facts.classes or ()) == wanted, facts.name


def test_an_option_of_any_task_changes_the_question_and_nothing_that_is_loaded() -> None:
    asking = "question='{text} Good (yes or no):', words=('n', 'y')"
    plain, other = TaskSpec.parse("sentiment-news"), TaskSpec.parse(f"sentiment-news({asking})")
    assert plain == other
    assert Step(steps.load, task=plain).key == Step(steps.load, task=other).key
    assert question_of(other) == Question(template="{text} Good (yes or no):", words=("n", "y"))
    assert TaskSpec.parse(str(other)).options == other.options


# --- experiments ------------------------------------------------------------------------------------------------------


def asks(experiment: Experiment) -> set[Step]:
    return {s for s in in_order([wire(experiment)]) if s.fn is steps.ask}


@pytest.fixture
def table(tmp_path: Path) -> str:
    rows = [f"w{i} {('bad', 'good')[i % 2]} w{i % 7},{('bad', 'good')[i % 2]}" for i in range(120)]
    path = tmp_path / "mine.csv"
    path.write_text("\n".join(["text,label", *rows]))
    return str(path)


def test_a_student_is_asked_and_learns(make: MakeExperiment, writer: Path, store: Store) -> None:
    own = "words(question='{text}', words=('no', 'yes'))"
    fields = {"task": own, "strong": str(writer), "seeds": (0,), "weak_train": "probe(epochs=6, lr=0.03, max_tokens=4)"}
    spelled = ("naive", "zero-shot(prompt='asked')", "zero-shot(prompt='asked', by_batch=True)")
    asking, *controls = (make(**fields, train="probe(view='asked_mean')", strategy=strategy) for strategy in spelled)
    targets, _ = run_steps([asking, *controls], store, CPU)
    made, zero_shot, _ = (store.read(t) for t in targets)
    assert made["ceiling"]["accuracy"][0] > 0.65 > zero_shot["student"]["accuracy"][0]
    features = store.read(next(iter(asks(asking))))
    says = store.read(targets[1].args["student"][0])
    logs = features.views["words_calibrated"][[features.ids.tolist().index(i) for i in says.ids]]
    assert np.allclose(np.log(says.probs[:, 1] / says.probs[:, 0]), logs[:, 1] - logs[:, 0], atol=1e-4)
    even = store.read(targets[2].args["student"][0])
    lean = np.log(even.probs[:, 1] / even.probs[:, 0]) - np.log(says.probs[:, 1] / says.probs[:, 0])
    assert np.allclose(lean, lean[0], atol=1e-4)
    lines = cautions(table_of([store.record(t) for t in targets]))
    assert any("probes read mid_mean of bert and asked_mean of llama" in line for line in lines), lines


def test_zero_shot_of_a_choice_compares_the_candidates(make: MakeExperiment, writer: Path, store: Store) -> None:
    task = "chosen-words(candidates=3, question='w1 {text} w2', words=('no', 'yes'))"
    given = {"task": task, "strong": str(writer), "seeds": (0,), "ceiling": False}
    (target,), _ = run_steps(
        [make(**given, train="probe(view='asked')", strategy="zero-shot(prompt='asked')")], store, CPU
    )
    (features,) = (store.read(s) for s in in_order([target]) if s.fn is steps.ask)
    assert {view: matrix.shape[1:] for view, matrix in features.views.items()} == {
        **dict.fromkeys(ASKED, (3, 16)), "words": (3, 2), "words_calibrated": (3, 2)
    }  # fmt: skip
    assert store.read(target.args["student"][0]).probs.shape[1] == 3


def test_keys_know_the_question_and_results_only_what_was_asked(
    make: MakeExperiment, writer: Path, table: str, store: Store
) -> None:
    given = {"strong": str(writer), "weak": str(writer), "weak_train": None, "train": "probe(view='asked', epochs=1)"}

    def of(*more: str) -> Experiment:
        return make(task=f"table(path={table!r}, {', '.join(more)})", seeds=(0,), **given)

    one, other = of("question='w1 {text} w2'"), of("question='w1 {text} w3'")
    words = of("question='w1 {text} w2'", "words=('no', 'yes')")
    keys = [asks(e).pop().key for e in (one, other, words, of())]
    assert len(set(keys)) == 4
    assert len({s.key for s in in_order(wire_all([one, other])) if s.fn is steps.ask}) == 2  # wired in one call, too
    run_steps([one, other], store, CPU)
    first, second = (store.read(asks(e).pop()).views["asked"] for e in (one, other))
    assert not np.array_equal(first, second)
    # The words of the classes are the classes' names, spelled out: the same pass, so nothing is asked again.
    same = of("question='w1 {text} w2'", "words=('bad', 'good')")
    run_steps([same], store, CPU)
    assert store.record(asks(same).pop())["taken_from"] == keys[0]


def test_mixed_ladders_ask_those_that_can_be_asked(
    make: MakeExperiment, model: Path, writer: Path, store: Store
) -> None:
    with pytest.raises(UserError, match="is none; take view='asked_or_mid_mean'"):
        wire(make(train="probe(view='asked')"))
    grid = Grid(
        task=("words",), ladder=f"glove,{model},{writer}", train=("probe(view='asked_or_mid_mean')",), seeds=1,
        strategy=("naive",), controls=False,
    )  # fmt: skip
    fits = {s for s in in_order(wire_all(experiments_of(grid))) if s.fn is steps.fit_probe}
    views = {(str(s.args["features"].args["model"]), s.args["probe"].view, s.args["features"].fn) for s in fits}
    assert views == {
        ("glove", "mid_mean", steps.embed),
        (str(model), "mid_mean", steps.embed),
        (str(writer), "asked", steps.ask),
    }
    # It is what one would get by naming the views, to the key.
    named = make(weak_train="probe", strong=str(writer), train="probe(view='asked')")
    mixed = make(weak_train=None, strong=str(writer), train="probe(view='asked_or_mid_mean')")
    assert wire(named).key == wire(mixed).key


def test_precision_is_the_models_own_and_part_of_the_key(writer: Path) -> None:
    assert ModelSpec.parse("qwen2.5-coder-1.5b").precision == "bf16"
    assert ModelSpec.parse("smollm2-135m").precision == ModelSpec.parse(str(writer)).precision == "fp32"

    def features(strong: str, train: str) -> Step:
        experiment = Experiment(task="words", strong=strong, train=train, weak_train="probe")
        return wire(experiment).args["ceiling"][0].args["features"]  # type: ignore[no-any-return]

    assert features("qwen2.5-coder-1.5b", "probe(view='asked')").args["bf16"]
    assert not features("qwen2.5-coder-1.5b", "probe(view='asked', precision='fp32')").args["bf16"]
    assert not features("smollm2-135m", "probe(view='asked')").args["bf16"]
    assert features("qwen2.5-coder-1.5b", "probe").fn is steps.embed_bf16
    assert features("smollm2-135m", "probe").fn is steps.embed


def test_zero_shot_says_what_it_cannot_ask(make: MakeExperiment, writer: Path, model: Path, store: Store) -> None:
    with pytest.raises(UserError, match="no language model"):
        wire(make(strategy="zero-shot(prompt='asked')"))
    with pytest.raises(UserError, match="give others to the task"):
        wire(make(strong=str(writer), strategy="zero-shot(prompt='asked', words=('a', 'b'))"))
    alike = "words(question='{text} w1', words=('no w1', 'no w2'))"
    with pytest.raises(StepsFailed, match="begin with the same token"):
        run_steps([make(task=alike, strong=str(writer), strategy="zero-shot(prompt='asked')", seeds=(0,))], store, CPU)
