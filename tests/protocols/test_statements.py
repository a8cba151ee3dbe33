"""What a language model writes is what it would write alone, is counted where it is cut, and outlives a kill."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from outgrow.data import Examples, Split
from outgrow.errors import UserError
from outgrow.models.spec import ModelSpec
from outgrow.models.transformer import load_language_model, load_tokenizer
from outgrow.protocols import statements
from outgrow.protocols.statements import argue_in_writing, unread
from outgrow.runtime import Runtime
from tiny_models import WORDS

ROWS = 11
IDS = np.array([f"id-{i:02}" for i in range(ROWS)])
RNG = np.random.default_rng(0)
TEXTS = Examples(
    ids=IDS,
    inputs=tuple(" ".join(RNG.choice(WORDS, size=RNG.integers(1, 9))) for _ in range(ROWS)),
    gold=None,
    classes=("no", "yes"),
    groups=IDS,
)
SPLIT = Split(parts={"T": IDS})
GIVEN: dict[str, Any] = {"texts": TEXTS, "split": SPLIT, "part": "T", "max_tokens": 6, "max_answer": 5}


def alone(folder: Path, ids: list[int], most: int) -> tuple[str, bool]:
    """The greedy answer by one whole pass for each token, and whether it was cut."""
    model, tokenizer = load_language_model(folder).eval(), load_tokenizer(folder)
    stop = {tokenizer.eos_token_id, *tokenizer("\n", add_special_tokens=False)["input_ids"]}
    written: list[int] = []
    for _ in range(most + 1):
        with torch.inference_mode():
            token = int(model(torch.tensor([ids + written])).logits[0, -1].argmax())
        if token in stop:
            return tokenizer.decode(written, skip_special_tokens=True).strip(), False
        written.append(token)
    return tokenizer.decode(written[:most], skip_special_tokens=True).strip(), True


def test_a_statement_is_what_the_model_writes_after_its_prompt_alone(writer: Path) -> None:
    lines: list[str] = []
    made = argue_in_writing(ModelSpec.parse(str(writer)), first=1, rows=9, runtime=Runtime(say=lines.append), **GIVEN)
    assert (made.ids == IDS[1:10]).all()
    tokenizer = load_tokenizer(writer)
    for i, row in enumerate(made.readings):
        whole = TEXTS.texts[i + 1].split()
        text, cut = " ".join(whole[:6]), len(whole) > 6
        assert made.meta["text_cut"][i] == cut
        starts = tokenizer(text)["input_ids"]
        starts = starts[:-1] if starts[-1] == tokenizer.eos_token_id else starts
        for c, name in enumerate(TEXTS.classes):
            request = f"\n\n{statements._ARGUE.format(label=name)}\nAnswer:"
            ends = tokenizer(request, add_special_tokens=False)["input_ids"]
            assert (row[c], bool(made.meta[f"cut.{c}"][i])) == alone(writer, starts + ends, 5)
    assert np.isfinite(made.meta["belief.0"]).all()
    were_cut = int(sum(made.meta[f"cut.{c}"].sum() for c in range(2)))
    assert f"{were_cut} were cut at 5 tokens" in made.notes[0]
    assert f"{int(made.meta['text_cut'].sum())} of 9 texts were cut to 6 tokens" in made.notes[1]
    assert lines[-1].endswith("a second, reading included")


def test_a_killed_run_continues_after_the_batches_it_kept(
    writer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, kept = ModelSpec.parse(str(writer)), Runtime(scratch=tmp_path / "scratch", say=lambda line: None)
    whole = argue_in_writing(model, first=0, rows=ROWS, runtime=Runtime(say=lambda line: None), **GIVEN)
    write, calls = statements._Writer.write, []

    def dies(self: Any, texts: Any) -> Any:
        calls.append(len(texts))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return write(self, texts)

    monkeypatch.setattr(statements._Writer, "write", dies)
    with pytest.raises(KeyboardInterrupt):
        argue_in_writing(model, first=0, rows=ROWS, runtime=kept, **GIVEN)
    again = argue_in_writing(model, first=0, rows=ROWS, runtime=kept, **GIVEN)
    assert calls == [8, 3, 3]
    assert again.inputs == whole.inputs
    assert again.notes == whole.notes
    assert all((again.meta[name] == whole.meta[name]).all() for name in whole.meta)


def test_a_judge_that_did_not_read_knows_the_question_alone() -> None:
    rows = (
        "Question: is it so?\nPassage: It is.\nPassage: no",
        "Question: who?\nAnswer: she\nDialogue:\nM: Who?\nW: She.",
        "Question: what?\nAnswer: this\nText: a text: of some words",
    )
    ids = IDS[:3]
    given = Examples(ids=ids, inputs=rows, gold=None, classes=("no", "yes"), groups=ids)
    expected = ("Question: is it so?", "Question: who?\nAnswer: she", "Question: what?\nAnswer: this")
    assert unread(given).inputs == expected
    with pytest.raises(UserError, match="the row 'id-00' has no part that begins with Passage:"):
        unread(TEXTS)


def test_what_cannot_argue_is_one_line(model: Path, writer: Path) -> None:
    quiet = Runtime(say=lambda line: None)
    choices = Examples(ids=IDS[:1], inputs=(("a", "b"),), gold=None, classes=("no", "yes"), groups=IDS[:1])
    with pytest.raises(UserError, match="argue for the classes of a text"):
        argue_in_writing(ModelSpec.parse(str(writer)), first=0, rows=1, runtime=quiet, **{**GIVEN, "texts": choices})
    with pytest.raises(UserError, match="no language model"):
        argue_in_writing(ModelSpec.parse(str(model)), first=0, rows=1, runtime=quiet, **GIVEN)
