"""Tokens, frozen features and the classifier: one result per text, whatever it is batched with."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from transformers import AutoModel, AutoModelForCausalLM

from outgrow.data import Examples
from outgrow.errors import UserError
from outgrow.models import resume as kept_rows
from outgrow.models import transformer
from outgrow.models.spec import ModelSpec
from outgrow.models.transformer import (
    Batch,
    Classifier,
    extract,
    load_classifier,
    load_tokenizer,
    measure_cut,
    measure_reading,
    pad,
    tokenize,
    tokens_read,
)
from outgrow.runtime import Runtime
from tiny_models import KINDS, WORDS, make_model, make_task

PLACES = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
CPU = Runtime(device="cpu")
TEXTS = ["good", "zero", "w1 zero", "zero zero", "w1 w2 bad zero w3 w4 w5", "w9 " * 30, "", "no yes", "w7 unheard of"]


@pytest.fixture(scope="module", params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("models") / request.param, request.param, layers=3)


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("models") / "gpt2", "gpt2")


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("models") / "bert", "bert")


def test_long_texts_keep_their_first_tokens(folder: Path) -> None:
    tokenizer = load_tokenizer(folder)
    words = [WORDS[5 + i % 20] for i in range(50)]
    (row,) = tokenize(tokenizer, [" ".join(words)], 10)
    specials = set(tokenizer.all_special_ids)
    kept = [i for i in row if i not in specials]
    assert len(row) == 10
    assert len(kept) == 10 - tokenizer.num_special_tokens_to_add()
    assert kept == tokenizer.convert_tokens_to_ids(words)[: len(kept)]


def test_no_text_is_dropped_or_empty(folder: Path) -> None:
    rows = tokenize(load_tokenizer(folder), TEXTS, 10)
    assert len(rows) == len(TEXTS)
    assert all(1 <= len(row) <= 10 for row in rows)
    assert tokenize(load_tokenizer(folder), [], 10) == []


def test_max_tokens_must_fit(bert: Path) -> None:
    with pytest.raises(UserError, match="at least 3"):
        tokenize(load_tokenizer(bert), ["good"], 2)
    with pytest.raises(UserError, match="at most max_tokens=128"):
        extract(bert, ["good"], max_tokens=129, runtime=CPU)


def test_padding_is_on_the_right_and_masked() -> None:
    batch = pad([(5, 0), (1, 2, 3)], "cpu")
    assert batch.mask.tolist() == [[1, 1, 0], [1, 1, 1]]
    assert batch.ids[:, :2].tolist() == [[5, 0], [1, 2]]


def reference(folder: Path, text: str, max_tokens: int) -> dict[str, Any]:
    """The views by hand: one text at a time, no padding, all layers kept."""
    model = AutoModel.from_pretrained(folder).eval()
    (row,) = tokenize(load_tokenizer(folder), [text], max_tokens)
    with torch.no_grad():
        out = model(input_ids=torch.tensor([row]), output_hidden_states=True)
    last, mid = out.last_hidden_state[0], out.hidden_states[2][0]
    return {"last_token": last[-1], "mean": last.mean(0), "mid_mean": mid.mean(0)}


def test_features_equal_those_of_each_text_alone(folder: Path) -> None:
    """Released code, defect 1: token id 0 read as padding, pooled position moved, no attention mask."""
    features = extract(folder, TEXTS, max_tokens=20, runtime=CPU)
    assert set(features) == {"last_token", "mean", "mid_mean"}
    for i, text in enumerate(TEXTS):
        for view, expected in reference(folder, text, 20).items():
            assert features[view].dtype == np.float32
            np.testing.assert_allclose(features[view][i], expected.numpy(), atol=1e-5)


def test_a_text_ending_in_id_zero_is_pooled_there(gpt2: Path) -> None:
    features = extract(gpt2, ["w1 zero", "w1", "w1 zero zero", "w2 w3 w4 w5 w6"], max_tokens=20, runtime=CPU)
    last = features["last_token"]
    assert min(np.abs(last[0] - last[1]).max(), np.abs(last[0] - last[2]).max()) > 1e-2


def test_features_are_bitwise_the_same_in_any_order(folder: Path) -> None:
    texts = make_task(60, seed=1)[0]
    order = list(range(60))
    random.Random(0).shuffle(order)
    once = extract(folder, texts, max_tokens=20, runtime=CPU)
    shuffled = extract(folder, [texts[i] for i in order], max_tokens=20, runtime=CPU)
    small = extract(folder, texts, max_tokens=20, runtime=Runtime(device="cpu", tokens_at_once=16))
    for view in once:
        assert (once[view][order] == shuffled[view]).all()
        np.testing.assert_allclose(once[view], small[view], atol=1e-5)


def test_equal_texts_are_computed_once_and_progress_is_told(bert: Path) -> None:
    told: list[tuple[int, int, str]] = []
    runtime = Runtime(device="cpu", tokens_at_once=4, report=lambda *progress: told.append(progress))
    features = extract(bert, ["good", "bad bad", "good", "good"], max_tokens=20, runtime=runtime)
    assert [(total, unit) for _, total, unit in told] == [(told[-1][0], "tokens")] * 2
    assert (features["mean"][0] == features["mean"][3]).all()


def test_bf16_features_are_near_those_in_float32(folder: Path) -> None:
    texts = make_task(40, seed=1)[0]
    full = extract(folder, texts, max_tokens=20, runtime=CPU)
    half = extract(folder, texts, max_tokens=20, runtime=CPU, bf16=True)
    for view, expected in full.items():
        assert half[view].dtype == np.float32
        apart = np.abs(half[view] - expected).max() / np.abs(expected).max()
        assert 1e-6 < apart < 0.1


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Finished rows are kept after every batch."""
    monkeypatch.setattr(kept_rows, "SECONDS", 0.0)


def texts_until(stop: int, scratch: Path, told: list[int]) -> Runtime:
    """A runtime under which a pass is killed once ``stop`` texts are done."""

    def report(done: int, total: int, unit: str) -> None:
        told.append(done)
        if done >= stop:
            raise KeyboardInterrupt

    return Runtime(device="cpu", tokens_at_once=16, scratch=scratch, report=report)


@pytest.mark.usefixtures("always")
def test_killed_features_go_on_to_the_same_bits(folder: Path, tmp_path: Path) -> None:
    texts = make_task(60, seed=1)[0]
    whole = extract(folder, texts, max_tokens=20, runtime=Runtime(device="cpu", tokens_at_once=16))
    done: list[int] = []
    for stop in (1, 20, 45):
        told: list[int] = []
        with pytest.raises(KeyboardInterrupt):
            extract(folder, texts, max_tokens=20, runtime=texts_until(stop, tmp_path, told))
        assert not done or told[0] == done[-1]  # nothing is computed twice
        done += told
    told = []
    features = extract(folder, texts, max_tokens=20, runtime=texts_until(1000, tmp_path, told))
    assert told[0] == done[-1] < told[1]
    for view, expected in whole.items():
        assert (features[view] == expected).all()


def extract_until_killed(folder: str, scratch: str) -> None:
    torch.set_num_threads(1)  # as here: other threads, other order of sums
    kept_rows.SECONDS = 0.0

    def report(done: int, total: int, unit: str) -> None:
        if done >= 30:
            os.kill(os.getpid(), signal.SIGKILL)

    runtime = Runtime(device="cpu", tokens_at_once=16, scratch=Path(scratch), report=report)
    extract(Path(folder), make_task(60, seed=1)[0], max_tokens=20, runtime=runtime)


@pytest.mark.slow
def test_killed_for_good_features_go_on_to_the_same_bits(bert: Path, tmp_path: Path) -> None:
    call = f"test_transformer.extract_until_killed({str(bert)!r}, {str(tmp_path)!r})"
    code = f"import sys; sys.path[:0] = {PLACES!r}; import test_transformer; {call}"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    told: list[int] = []
    features = extract(bert, make_task(60, seed=1)[0], max_tokens=20, runtime=texts_until(1000, tmp_path, told))
    assert told[0] >= 30
    whole = extract(bert, make_task(60, seed=1)[0], max_tokens=20, runtime=Runtime(device="cpu", tokens_at_once=16))
    for view, expected in whole.items():
        assert (features[view] == expected).all()


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("change", ["texts", "max_tokens", "budget", "model", "damage"])
def test_rows_of_something_else_are_not_taken_for_these(bert: Path, gpt2: Path, tmp_path: Path, change: str) -> None:
    texts = make_task(60, seed=1)[0]
    given: dict[str, Any] = {"folder": bert, "texts": texts, "max_tokens": 20}
    with pytest.raises(KeyboardInterrupt):
        extract(**given, runtime=texts_until(40, tmp_path, []))
    budget = 16
    if change == "damage":
        first = tmp_path / "rows-0.safetensors"
        first.write_bytes(first.read_bytes()[:-7])
    elif change == "budget":
        budget = 32
    else:
        given |= {"folder": gpt2} if change == "model" else {}
        given |= {"texts": texts[:50]} if change == "texts" else {}
        given |= {"max_tokens": 4} if change == "max_tokens" else {}
    expected = extract(**given, runtime=Runtime(device="cpu", tokens_at_once=budget))
    features = extract(**given, runtime=Runtime(device="cpu", tokens_at_once=budget, scratch=tmp_path))
    for view in expected:
        assert (features[view] == expected[view]).all()


def test_a_short_pass_writes_nothing(bert: Path, tmp_path: Path) -> None:
    extract(bert, ["good", "bad"], max_tokens=20, runtime=Runtime(device="cpu", scratch=tmp_path / "none"))
    assert not (tmp_path / "none").exists()


def test_no_texts_give_no_rows(bert: Path) -> None:
    assert extract(bert, [], max_tokens=20, runtime=CPU)["mean"].shape == (0, 16)


def test_code_beside_a_model_is_never_run(bert: Path, tmp_path: Path) -> None:
    """Released code, defect 16: trust_remote_code=True for every tokenizer."""
    folder = make_model(tmp_path / "m", "bert")
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Evil: pass\n")
    for file in ("config.json", "tokenizer_config.json"):
        content = json.loads((folder / file).read_text())
        content["auto_map"] = {
            "AutoConfig": "evil.Evil", "AutoModel": "evil.Evil", "AutoTokenizer": ["evil.Evil", "evil.Evil"],
        }  # fmt: skip
        (folder / file).write_text(json.dumps(content))
    extract(folder, ["good"], max_tokens=20, runtime=CPU)
    assert not (tmp_path / "ran").exists()


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "m", "bert")
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="safetensors"):
        load_classifier(folder, 2, max_tokens=20)


def test_missing_weights_are_an_error_and_not_random(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = make_model(tmp_path / "m", "gpt2")
    weights = load_file(folder / "model.safetensors")
    del weights["transformer.h.1.attn.c_attn.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"1 are missing, the first is h\.1\.attn"):
        load_classifier(folder, 2, max_tokens=20)
    with pytest.raises(UserError, match="no model"):
        load_classifier(tmp_path, 2, max_tokens=20)


def logits(model: Classifier, rows: list[tuple[int, ...]]) -> torch.Tensor:
    with torch.no_grad():
        out: torch.Tensor = model.eval()(rows)
    return out


@pytest.mark.parametrize("pooling", ["auto", "last", "first", "mean"])
def test_logits_do_not_depend_on_the_batch(folder: Path, pooling: str) -> None:
    model = load_classifier(folder, 3, max_tokens=20, pooling=pooling)
    torch.nn.init.normal_(model.head.weight)
    rows = tokenize(load_tokenizer(folder), TEXTS, 20)
    together = logits(model, rows)
    alone = torch.cat([logits(model, [row]) for row in rows])
    assert together.shape == (len(TEXTS), 3)
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


def test_what_fills_the_padding_makes_no_difference(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transformer, "can_pack", lambda body, padded: False)
    model = load_classifier(folder, 2, max_tokens=20)
    torch.nn.init.normal_(model.head.weight)
    before = logits(model, [(1,), (2, 3, 4)])
    batch = pad([(1,), (2, 3, 4)], "cpu")
    other = Batch(batch.ids.masked_fill(batch.mask == 0, 7), batch.mask)
    monkeypatch.setattr(transformer, "pad", lambda rows, device: other)
    torch.testing.assert_close(before, logits(model, [(1,), (2, 3, 4)]), atol=1e-6, rtol=0)


def test_auto_pooling_is_last_for_decoders_and_mean_for_encoders(folder: Path) -> None:
    expected = "mean" if folder.name == "bert" else "last"
    assert load_classifier(folder, 2, max_tokens=20).pooling == expected


def test_the_head_starts_at_zero_and_the_language_model_head_is_gone(folder: Path) -> None:
    """Released code, defect 15: only models with .transformer, and the LM head kept and saved."""
    model = load_classifier(folder, 2, max_tokens=20)
    assert model.head.weight.tolist() == torch.zeros(2, 16).tolist()
    assert [name for name, _ in model.named_parameters() if not name.startswith("body")] == ["head.weight"]
    assert not any("lm_head" in name or "cls" in name or "pooler" in name for name in model.state_dict())


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_the_head_can_start_from_label_words(tmp_path: Path, kind: str, tied: bool) -> None:
    folder = make_model(tmp_path / "m", kind, tied=tied)
    model = load_classifier(folder, 2, max_tokens=20, words=("no", "yes"))
    (row,) = tokenize(load_tokenizer(folder), ["w1 w2 w3"], 20)
    whole = AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        expected = whole(input_ids=torch.tensor([row])).logits[0, -1, [WORDS.index("no"), WORDS.index("yes")]]
    torch.testing.assert_close(logits(model, [row])[0], expected, atol=1e-5, rtol=0)
    assert set(model.state_dict()) == set(load_classifier(folder, 2, max_tokens=20).state_dict())


def test_label_words_that_do_not_fit_are_named(gpt2: Path, bert: Path) -> None:
    with pytest.raises(UserError, match="'no no' is 2 tokens"):
        load_classifier(gpt2, 2, max_tokens=20, words=("no no", "yes"))
    with pytest.raises(UserError, match="3 label words for 2 classes"):
        load_classifier(gpt2, 2, max_tokens=20, words=("no", "yes", "bad"))
    with pytest.raises(UserError, match="use head=zero"):
        load_classifier(bert, 2, max_tokens=20, words=("no", "yes"))
    with pytest.raises(UserError, match="did you mean mean"):
        load_classifier(bert, 2, max_tokens=20, pooling="meen")


def test_dropout_is_off_unless_asked_for(tmp_path: Path) -> None:
    for kind in KINDS:
        folder = make_model(tmp_path / kind, kind, dropout=0.5)
        rows = [(1, 2, 3), (4, 5)]
        for dropout in (False, True):
            model = load_classifier(folder, 2, max_tokens=20, dropout=dropout).train()
            torch.nn.init.normal_(model.head.weight)
            assert torch.equal(model(rows), model(rows)) is not dropout


def test_loading_leaves_the_random_state_alone(folder: Path) -> None:
    before = torch.random.get_rng_state()
    extract(folder, ["good"], max_tokens=20, runtime=CPU)
    assert torch.equal(before, torch.random.get_rng_state())


def test_by_default_texts_are_read_to_the_models_end_or_512_tokens(folder: Path, tmp_path: Path) -> None:
    long = ["good " * length for length in (3, 127, 140, 300)]
    assert tokens_read(folder, None) == 128
    assert tokens_read(folder, 7) == 7
    default, whole = (extract(folder, long, max_tokens=n, runtime=CPU)["mean"] for n in (None, 128))
    assert (default == whole).all()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 12)), min_size=1, max_size=12), st.integers(4, 10))
def test_what_is_cut_is_counted(bert: Path, made: list[tuple[int, int]], max_tokens: int) -> None:
    """Texts that begin alike and end apart; a reference compares whole token rows."""
    texts = ["good " * start + "bad " * end for start, end in made]
    tokenizer = load_tokenizer(bert)
    whole = [tuple(row) for row in tokenize(tokenizer, texts, 100)]
    rows = tokenize(tokenizer, texts, max_tokens)
    merged = sum(any(rows[i] == rows[k] and whole[i] != whole[k] for k in range(len(texts))) for i in range(len(texts)))
    found = measure_cut(tokenizer, texts, rows, max_tokens)
    assert found == (max_tokens, len(texts), sum(len(row) > max_tokens for row in whole), merged)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(st.sampled_from(["good", "bad"]), max_size=6), min_size=1, max_size=8), st.integers(3, 8))
def test_what_is_cut_is_counted_from_either_end_with_and_without_special_tokens(
    bert: Path, given_words: list[list[str]], most: int
) -> None:
    texts = [" ".join(words) for words in given_words]
    for kept, specials in (("first", 2), ("plain", 0), ("last", 2)):
        counts = measure_reading(bert, texts, most, kept)
        assert counts.cut == sum(len(words) + specials > most for words in given_words)
        assert counts.texts == len(texts)
    ends = [words[max(0, len(words) + 1 - most) :] if len(words) + 2 > most else None for words in given_words]
    same = sum(
        any(given_words[i] != given_words[k] and ends[i] == ends[k] for k in range(len(texts)))
        for i in range(len(texts))
        if ends[i] is not None
    )
    assert measure_reading(bert, texts, most, "last").identical == same


def test_cut_texts_are_said_and_whole_ones_are_not(bert: Path) -> None:
    said: list[str] = []
    runtime = replace(CPU, say=said.append)
    texts = ["good bad good bad", "good bad good good", "good"]
    extract(bert, texts, max_tokens=8, runtime=runtime)
    assert not said
    extract(bert, texts, max_tokens=5, runtime=runtime)
    assert said == [
        "warning: 2 of 3 texts were cut to their first 5 tokens, 2 became identical; max_tokens=... reads more, where "
        "the model can"
    ]


def test_a_model_that_gives_nan_is_named_with_its_first_text_and_keeps_nothing(bert: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(bert, tmp_path / "broken"))
    weights = load_file(copied / "model.safetensors")
    name = next(n for n in weights if n.endswith("word_embeddings.weight"))
    token = load_tokenizer(copied)("bad", add_special_tokens=False)["input_ids"][0]
    weights[name][token] = float("nan")
    save_file(weights, copied / "model.safetensors", metadata={"format": "pt"})
    texts = Examples(
        ids=np.array(["a", "b", "c"]), inputs=("good", "good bad", "bad"), gold=None, classes=("0", "1"),
        groups=np.array(["a", "b", "c"]),
    )  # fmt: skip
    spec = ModelSpec.parse(str(copied))
    with pytest.raises(
        UserError, match=r"broken gives numbers that are not finite, first for the row 'b' \('good bad'\)"
    ):
        spec.embed(texts, 128, replace(CPU, scratch=tmp_path / "scratch"))
    assert not list(tmp_path.glob("scratch/*"))
