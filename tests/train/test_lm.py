from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from outgrow import steps
from outgrow.config import Grid
from outgrow.data import Answers, Examples, Split
from outgrow.engine.graph import Step, in_order
from outgrow.engine.store import Store
from outgrow.errors import UserError
from outgrow.experiment import Experiment, experiments_of, sweep, wire
from outgrow.models.transformer import load_language_model, load_tokenizer
from outgrow.results import predictions
from outgrow.runtime import Runtime
from outgrow.strategies.trainers import Generate
from outgrow.train import checkpoints
from outgrow.train.lm import GenerativeModel, _accumulate, _losses, _pairs, decode, finetune_lm
from outgrow.train.settings import GenerateSettings
from tiny_models import WORDS, make_model

CPU = Runtime(device="cpu", say=lambda line: None)
LICHESS = Path(__file__).parents[1] / "rows" / "lichess_puzzles.csv"
# The answer follows from the prompt's first word.
PROMPTS = [f"{'good' if i % 2 else 'bad'} w{i % 7} w{i % 5}" + " zero" * (i % 3) for i in range(24)]
ANSWERS = ["yes w1" if i % 2 else "no" for i in range(24)]
SETTINGS = GenerateSettings(epochs=6, batch_size=8, lr=0.02, max_tokens=32, max_answer=4)


def writer(folder: Path, kind: str) -> Path:
    """A tiny decoder whose tokenizer has an end of text."""
    make_model(folder, kind)
    tokenizer = load_tokenizer(folder)
    tokenizer.eos_token = "[SEP]"
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return writer(tmp_path_factory.mktemp("writers") / request.param, request.param)


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return writer(tmp_path_factory.mktemp("writers") / "gpt2", "gpt2")


def same(a: GenerativeModel, b: GenerativeModel) -> bool:
    return a.state.keys() == b.state.keys() and all(torch.equal(a.state[k], b.state[k]) for k in a.state)


# --- the engine -------------------------------------------------------------------------------------------------------


def test_a_model_learns_to_write_its_answers(folder: Path) -> None:
    fitted = finetune_lm(folder, PROMPTS, ANSWERS, replace(SETTINGS, epochs=20, lr=0.01), 0, CPU)
    losses = [entry["loss"] for entry in fitted.history]
    assert losses[-1] < losses[0] / 4
    assert decode(folder, fitted, PROMPTS, SETTINGS, CPU) == ANSWERS
    assert decode(folder, None, PROMPTS, SETTINGS, CPU) != ANSWERS


def test_the_same_arguments_give_the_same_bits(folder: Path) -> None:
    a, b = (finetune_lm(folder, PROMPTS, ANSWERS, SETTINGS, 3, CPU) for _ in range(2))
    assert same(a, b)
    assert not same(a, finetune_lm(folder, PROMPTS, ANSWERS, SETTINGS, 4, CPU))


@pytest.mark.parametrize("microbatch", [1, 3, 100])
def test_microbatch_size_changes_the_gradient_by_rounding_only(folder: Path, microbatch: int) -> None:
    model, tokenizer = load_language_model(folder), load_tokenizer(folder)
    pairs = _pairs(tokenizer, PROMPTS, ANSWERS, SETTINGS)
    loss = _accumulate(model, pairs, 0, SETTINGS)
    whole = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    assert _accumulate(model, pairs, microbatch, SETTINGS) == pytest.approx(loss, rel=1e-5)
    for parameter, gradient in zip(model.parameters(), whole, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, atol=1e-5, rtol=1e-4)


def test_the_loss_is_that_of_the_answer_alone(folder: Path) -> None:
    """Against the plain way: all logits of one row, and only the answer's tokens counted."""
    model, tokenizer = load_language_model(folder), load_tokenizer(folder)
    pairs = _pairs(tokenizer, PROMPTS[:5], ANSWERS[:5], SETTINGS)
    together = _losses(model, pairs, SETTINGS)
    for pair, value in zip(pairs, together, strict=True):
        ids = torch.tensor([pair.prompt + pair.answer])
        log_probs = model(input_ids=ids).logits[0].log_softmax(dim=-1)
        places = range(len(pair.prompt), ids.shape[1])
        expected = -sum(log_probs[p - 1, ids[0, p]].item() for p in places)
        assert value.item() == pytest.approx(expected, rel=1e-4)
        assert pair.answer[-1] == tokenizer.eos_token_id


def test_decoding_is_the_library_s_greedy_decoding(folder: Path) -> None:
    fitted = finetune_lm(folder, PROMPTS, ANSWERS, replace(SETTINGS, epochs=1), 0, CPU)
    model, tokenizer = load_language_model(folder), load_tokenizer(folder)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(fitted.state[name])
    for prompt, text in zip(PROMPTS, decode(folder, fitted, PROMPTS, SETTINGS, CPU), strict=True):
        ids = torch.tensor([tokenizer(prompt)["input_ids"]])
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=4,
            eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.eos_token_id,
        )  # fmt: skip
        assert text == tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True).strip()


def test_what_is_written_does_not_depend_on_the_other_prompts(folder: Path) -> None:
    fitted = finetune_lm(folder, PROMPTS, ANSWERS, replace(SETTINGS, epochs=2), 0, CPU)
    together = decode(folder, fitted, PROMPTS, SETTINGS, CPU)
    alone = [decode(folder, fitted, [p], SETTINGS, replace(CPU, tokens_at_once=1))[0] for p in PROMPTS]
    assert together == alone
    assert decode(folder, fitted, PROMPTS[::-1], SETTINGS, CPU) == together[::-1]


def test_a_long_prompt_keeps_its_end(gpt2: Path) -> None:
    settings = replace(SETTINGS, max_tokens=8)
    (pair,) = _pairs(load_tokenizer(gpt2), [" ".join(WORDS)], ["yes"], settings)
    assert len(pair.prompt) == 4
    assert load_tokenizer(gpt2).decode(pair.prompt).split() == WORDS[-4:]


def test_what_a_weak_model_wrote_is_learned_whatever_it_is(gpt2: Path) -> None:
    tokenizer = load_tokenizer(gpt2)
    wrote = ["", "no no no no no no", "yes"]
    pairs = _pairs(tokenizer, PROMPTS[:3], wrote, SETTINGS, cut=True)
    assert [tokenizer.decode(pair.answer) for pair in pairs] == ["[SEP]", "no no no [SEP]", "yes [SEP]"]
    fitted = finetune_lm(gpt2, PROMPTS[:3], wrote, SETTINGS, 0, CPU, cut=True)
    assert np.isfinite([entry["loss"] for entry in fitted.history]).all()


def test_a_killed_run_goes_on_to_the_same_result(gpt2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "SECONDS", 0.0)
    whole = finetune_lm(gpt2, PROMPTS, ANSWERS, SETTINGS, 0, CPU)

    class Killed(Exception):
        pass

    def kill(done: int, total: int, unit: str) -> None:
        if done == 7:
            raise Killed

    with pytest.raises(Killed):
        finetune_lm(gpt2, PROMPTS, ANSWERS, SETTINGS, 0, replace(CPU, scratch=tmp_path, report=kill))
    seen: list[int] = []
    again = replace(CPU, scratch=tmp_path, report=lambda done, total, unit: seen.append(done))
    resumed = finetune_lm(gpt2, PROMPTS, ANSWERS, SETTINGS, 0, again)
    assert seen[0] == 8
    assert same(whole, resumed)
    assert resumed.history == whole.history


def test_a_model_is_stored_to_the_last_bit(gpt2: Path, tmp_path: Path) -> None:
    fitted = finetune_lm(gpt2, PROMPTS, ANSWERS, replace(SETTINGS, epochs=1), 0, CPU)
    fitted.save(tmp_path)
    loaded = GenerativeModel.load(tmp_path)
    assert same(fitted, loaded)
    assert (loaded.settings, loaded.history) == (fitted.settings, fitted.history)


def test_what_cannot_be_is_said(gpt2: Path, model: Path, tmp_path: Path) -> None:
    def fit(folder: Path, settings: GenerateSettings = SETTINGS, answers: list[str] = ANSWERS) -> None:
        finetune_lm(folder, PROMPTS, answers, settings, 0, CPU)

    with pytest.raises(UserError, match="is an encoder, which cannot write"):
        fit(model)
    with pytest.raises(UserError, match="no end-of-text token"):
        fit(make_model(tmp_path / "endless", "gpt2"))
    with pytest.raises(UserError, match="use at least max_answer=5"):
        fit(gpt2, answers=["no no no no"] * 24)
    with pytest.raises(UserError, match="use at most max_tokens=128"):
        fit(gpt2, replace(SETTINGS, max_tokens=129))
    with pytest.raises(UserError, match="leaves no room beside max_answer=8"):
        Generate(max_tokens=8)
    with pytest.raises(UserError, match="did you mean adamw"):
        Generate(optimizer="adam")


# --- the comparison ---------------------------------------------------------------------------------------------------


def pool_of(right: list[str]) -> Examples:
    n = len(right)
    return Examples(
        ids=np.array([f"i{i}" for i in range(n)]),
        inputs=tuple("q" for _ in right),
        gold=np.zeros(n, dtype=np.int64),
        classes=("move",),
        groups=np.array([f"g{i}" for i in range(n)]),
        meta={"answer": np.array(right), "allowed": np.array(["a b c"] * n)},
    )


def compared(right: list[str], weak: list[str], student: list[str], ceiling: list[str]) -> dict[str, Any]:
    pool = pool_of(right)
    made = [Answers(ids=pool.ids, texts=tuple(texts), source="") for texts in (right, weak, student, ceiling)]
    truth, supervisor, pupil, top = ((made_by,) for made_by in made)
    return steps.compare_answers(pool, truth, supervisor, pupil, top, seeds=(0,))


written = st.lists(st.sampled_from(["a", "b", "x"]), min_size=30, max_size=30)


@settings(max_examples=20, deadline=None)
@given(written, written)
def test_scores_are_shares_of_rows(weak: list[str], student: list[str]) -> None:
    right = ["a", "b", "c"] * 10
    result = compared(right, weak, student, right)
    for role, texts in (("weak", weak), ("student", student)):
        assert result[role]["accuracy"][0] == pytest.approx(
            np.mean([t == r for t, r in zip(texts, right, strict=True)])
        )
        assert result[role]["legal"][0] == pytest.approx(np.mean([t != "x" for t in texts]))
    assert result["agreement"]["all"][0] == pytest.approx(np.mean([a == b for a, b in zip(weak, student, strict=True)]))


def test_pgr_is_zero_at_the_supervisor_and_one_at_the_ceiling() -> None:
    right = ["a"] * 40
    weak, ceiling = ["b"] * 20 + ["a"] * 20, ["b"] * 4 + ["a"] * 36
    assert compared(right, weak, weak, ceiling)["pgr"][0] == 0
    assert compared(right, weak, ceiling, ceiling)["pgr"][0] == 1
    undefined = compared(right, weak, ceiling, weak)
    assert undefined["pgr"] is None
    assert "not shown to be better" in undefined["pgr_undefined"]


def test_gold_answers_come_from_the_tasks_column() -> None:
    pool = pool_of(["a", "b", "c", "a"])
    split = Split(parts={"A": pool.ids[:2], "T": pool.ids[2:]})
    assert steps.gold_answers(pool, split, ("T",)).texts == ("c", "a")
    with pytest.raises(UserError, match="no written answers"):
        steps.gold_answers(replace(pool, meta={}), split, ("T",))


def test_shuffled_answers_are_the_same_ones_elsewhere() -> None:
    ids = np.array([f"i{i}" for i in range(50)])
    given = Answers(ids=ids, texts=tuple(f"a{i}" for i in range(50)), source="weak")
    dealt = steps.shuffle_answers(given, 0)
    assert sorted(dealt.texts) == sorted(given.texts)
    assert dealt.texts != given.texts
    assert dealt.texts == steps.shuffle_answers(given, 0).texts


# --- experiments ------------------------------------------------------------------------------------------------------

MOVES = f"chess-puzzles(path='{LICHESS}', form='move', position='pieces', notation='uci')"
TRAIN = "generate(epochs=1, max_tokens=64, max_answer=6)"


def experiment(folder: Path, **changed: Any) -> Experiment:
    fields: dict[str, Any] = {
        "task": MOVES, "weak": str(folder), "strong": str(folder), "train": TRAIN, "seeds": (0,), "validation": 0.0,
        "supervisor_rows": 7, "transfer_rows": 7, "test_rows": 7,
    }  # fmt: skip
    return Experiment(**fields | changed)


def test_no_student_has_gold_of_b_or_t_among_its_ancestors(gpt2: Path) -> None:
    for strategy in ("naive", "shuffled"):
        target = wire(experiment(gpt2, strategy=strategy, validation=0.2))
        (student,) = target.args["student"]
        for ancestor in in_order([student]):
            assert ancestor.fn is not steps.gold
            if ancestor.fn is steps.gold_answers:
                assert set(ancestor.args["parts"]) == {"A", "A_val"}
            for argument in ancestor.args.values():
                if isinstance(argument, Step) and argument.fn is steps.load:
                    assert ancestor.fn in (steps.texts, steps.split, steps.gold_answers)


def test_the_ceiling_differs_from_its_student_in_the_answers_alone(gpt2: Path) -> None:
    target = wire(experiment(gpt2))
    (student,), (ceiling,) = target.args["student"], target.args["ceiling"]
    of_student, of_ceiling = (s.args["fitted"].args for s in (student, ceiling))
    differing = {k for k in of_student if repr(of_student[k]) != repr(of_ceiling[k])}
    assert differing == {"answers"}


def test_the_generative_recipe_runs_and_is_stored(gpt2: Path, store: Store) -> None:
    table = sweep([experiment(gpt2), experiment(gpt2, strategy="shuffled")], store.path, CPU, quiet=True)
    row = table.to_dicts()[0]
    assert row["num_test"] == 7
    assert 0 <= row["student_legal"] <= 1
    assert row["student_auroc"] is None
    seen = predictions(store, row["key"])
    assert set(seen["role"]) == {"weak", "student", "ceiling"}
    known = {p.split(",")[2].split()[1] for p in LICHESS.read_text().splitlines()[1:]}
    assert set(seen["gold"]) <= known


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"strategy": "confidence"}, "the strategy confidence needs class probabilities"),
        ({"strategy": "clusters"}, "the strategy clusters needs class probabilities"),
        ({"strategy": "naive(loss=LogConf())"}, "generate learns written answers by the language-model loss"),
        ({"train": "probe"}, "which probe cannot; train with generate"),
        ({"weak_train": "probe"}, "which probe cannot; train with generate"),
        ({"weak": "errors(accuracy=0.8)"}, "gives class probabilities; answers are written by a model"),
        ({"task": f"chess-puzzles(path='{LICHESS}')"}, "generate writes answers, and the task"),
        ({"strong": "glove"}, "train it with probe"),
    ],
)
def test_what_cannot_go_together_is_refused_at_plan_time(gpt2: Path, changed: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said.replace("(", r"\(").replace(")", r"\)")):
        wire(experiment(gpt2, **changed))


def test_a_grid_leaves_out_the_control_that_written_answers_cannot_have(gpt2: Path) -> None:
    grid = Grid(task=(MOVES,), weak=(str(gpt2),), strong=(str(gpt2),), strategy=("naive",), train=(TRAIN,))
    assert [e.strategy for e in experiments_of(grid)] == ["naive", "shuffled"]
    chosen = replace(grid, strategy=("naive", "clusters"))
    assert "clusters" in [e.strategy for e in experiments_of(chosen)]  # asked for: refused with the reason
