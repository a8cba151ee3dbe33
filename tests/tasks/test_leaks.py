"""Every kind of leak is planted and found, and data without it is passed."""

import re
from pathlib import Path

import numpy as np
import pytest

from outgrow.cli import main
from outgrow.data import Examples, Input, Split
from outgrow.errors import UserError
from outgrow.tasks.leaks import Finding, scan

N = 600
RNG = np.random.default_rng(0)
VOCABULARY = [f"w{i}" for i in range(400)]


def _words(count: int = 12) -> str:
    return " ".join(RNG.choice(VOCABULARY, count))


def _examples(inputs: list[Input], gold: list[int], groups: list[str] | None = None, ids: str = "r{:04}") -> Examples:
    num_classes = len(inputs[0]) if isinstance(inputs[0], tuple) else max(gold) + 1
    names = np.array([ids.format(i, gold[i]) for i in range(len(inputs))])
    return Examples(
        ids=names,
        inputs=tuple(inputs),
        gold=np.array(gold),
        classes=tuple(f"c{c}" for c in range(num_classes)),
        groups=names if groups is None else np.array(groups),
    )


def _found(data: Examples, split: Split | None = None) -> dict[str, Finding]:
    return {f.check: f for f in scan(data, split)}


def _texts(num_classes: int = 2) -> tuple[list[Input], list[int]]:
    return [_words() for _ in range(N)], [int(c) for c in RNG.integers(num_classes, size=N)]


def _verdicts(found: dict[str, Finding]) -> set[str]:
    return {f.verdict for f in found.values()}


@pytest.mark.parametrize("num_classes", [2, 5])
def test_clean_texts_are_passed(num_classes: int) -> None:
    found = _found(_examples(*_texts(num_classes)))
    assert _verdicts(found) <= {"clean", "slight", "does not apply"}
    assert found["answer alone"].verdict == found["place of the right candidate"].verdict == "does not apply"
    length = found["length"]
    assert length.chance == pytest.approx(1 / num_classes)
    assert length.figure is not None
    assert length.figure.low <= length.figure.value <= length.figure.high


def test_a_torn_group_is_found() -> None:
    texts, gold = _texts()
    data = _examples(texts, gold, groups=[f"g{i // 2}" for i in range(N)])
    third = N // 3
    even = Split(parts={p: np.sort(data.ids)[i * third : (i + 1) * third] for i, p in enumerate("ABT")})
    assert _found(data, even)["torn groups"].verdict == "clean"
    ids = np.sort(data.ids)
    torn = Split(parts={"A": ids[: third - 1], "B": ids[third - 1 : 2 * third], "T": ids[2 * third :]})
    finding = _found(data, torn)["torn groups"]
    assert finding.verdict == "FOUND"
    assert finding.about.startswith("1 of 300 groups")


def test_copies_across_parts_are_counted() -> None:
    texts, gold = _texts()
    data = _examples(texts, gold)
    third = N // 3
    split = Split(parts={p: data.ids[i * third : (i + 1) * third] for i, p in enumerate("ABT")})
    for k in range(10):
        texts[2 * third + k] = str(texts[k]).upper() + "  "  # in T as in A
    for k in range(10, 30):
        texts[2 * third + k] = "so " + str(texts[third + k])  # in T nearly as in B
    found = _found(_examples(texts, gold), split)
    exact, near = found["exact copies, T"].figure, found["near-copies, T"].figure
    assert exact is not None
    assert near is not None
    assert exact.value == pytest.approx(10 / third)
    assert near.value == pytest.approx(30 / third)
    assert found["near-copies, T"].verdict == "FOUND"
    assert found["exact copies, B"].verdict == found["near-copies, B"].verdict == "clean"


def _pairs(right: str = "", wrong: str = "") -> Examples:
    """Questions with a right and a wrong answer, a text each."""
    texts: list[Input] = []
    for _ in range(N // 2):
        question = f"{_words(8)} Answer: "
        texts += [question + f"{_words(4)} {right}".strip(), question + f"{_words(4)} {wrong}".strip()]
    order = RNG.permutation(N)
    return _examples([texts[i] for i in order], [int(i % 2 == 0) for i in order], groups=[f"q{i // 2}" for i in order])


def test_clean_answers_are_passed_and_words_that_give_them_away_are_found() -> None:
    found = _found(_pairs())
    assert found["answer alone"].verdict in ("clean", "slight")
    assert found["question with another's answer"].verdict in ("clean", "slight")
    assert _verdicts(found) <= {"clean", "slight", "does not apply"}
    planted = _found(_pairs(wrong="never ever"))
    assert planted["answer alone"].verdict == "FOUND"
    assert planted["question with another's answer"].verdict in ("clean", "slight")


def test_a_question_that_tells_is_found() -> None:
    texts: list[Input] = []
    gold, groups = [], []
    for g in range(N // 4):  # a passage with two questions, all answers to one right and to the other wrong
        passage = _words(6)
        for truth, word in ((1, "surely"), (0, "hardly")):
            question = f"{passage} {word} {_words(3)} "
            texts += [question + _words(4), question + _words(4)]
            gold += [truth, truth]
            groups += [f"p{g}"] * 4 if truth else []
    found = _found(_examples(texts, gold, groups))
    assert found["question with another's answer"].verdict == "FOUND"


def _choices(place: list[int], num: int = 4, right: str = "", hint: bool = False) -> Examples:
    inputs: list[Input] = []
    for c in place:
        question = f"{_words(6)} {f'hint{c}' if hint else ''} Answer: "
        inputs.append(tuple(f"{question}{_words(3)}{right if k == c else ''}" for k in range(num)))
    return _examples(inputs, place)


def test_choices_clean_and_planted() -> None:
    place = [int(c) for c in RNG.integers(4, size=N)]
    clean = _found(_choices(place))
    assert _verdicts(clean) <= {"clean", "slight"}
    assert clean["answer alone"].chance == 0.25
    assert _found(_choices(place, right=" indeed"))["answer alone"].verdict == "FOUND"
    assert _found(_choices(place, right=" a b c d"))["length"].verdict == "FOUND"
    assert _found(_choices(place, hint=True))["question with another's answer"].verdict == "FOUND"


def test_the_place_of_the_right_candidate_must_be_even() -> None:
    uneven = [0 if i % 3 else int(c) for i, c in enumerate(RNG.integers(4, size=N))]
    finding = _found(_choices(uneven))["place of the right candidate"]
    assert finding.verdict == "FOUND"
    assert finding.figure is not None
    assert finding.figure.value == pytest.approx(np.mean(np.array(uneven) == 0))


def test_length_place_and_id_that_tell_are_found() -> None:
    texts, gold = _texts(3)
    longer: list[Input] = [str(t) + " more" * 3 * c for t, c in zip(texts, gold, strict=True)]
    assert _found(_examples(longer, gold))["length"].verdict == "FOUND"
    in_order = _found(_examples(texts, sorted(gold)))
    assert in_order["place in the pool"].verdict == in_order["id"].verdict == "FOUND"
    by_id = _found(_examples(texts, gold, ids="r{0:04}-{1}"))
    assert by_id["id"].verdict == "FOUND"
    assert by_id["place in the pool"].verdict in ("clean", "slight")


def test_images_are_compared_bit_by_bit() -> None:
    images: list[Input] = [RNG.bytes(30) for _ in range(N)]
    images[400:420] = images[:20]
    data = _examples(images, [i % 2 for i in range(N)])
    split = Split(parts={"A": data.ids[:200], "B": data.ids[200:400], "T": data.ids[400:]})
    found = _found(data, split)
    assert found["exact copies, T"].verdict == "FOUND"
    assert found["near-copies"].verdict == "does not apply"


def test_a_scan_is_the_same_every_time_and_needs_two_classes() -> None:
    data = _pairs()
    assert scan(data) == scan(data)
    with pytest.raises(UserError, match="two classes"):
        scan(_examples(["a", "b"], [0, 0]))


def test_the_command_prints_the_findings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")  # findings are stacked on a narrow terminal
    lines = [f"{_words()},{i % 2}" for i in range(80)]
    (tmp_path / "mine.csv").write_text("\n".join(["text,label", *lines]), encoding="utf-8")
    with pytest.raises(SystemExit) as done:
        main(["tasks", f"table(path='{tmp_path / 'mine.csv'}')", "--scan"])
    printed = capsys.readouterr().out
    assert not done.value.code
    assert all(f.check in printed for f in scan(_pairs()) if "copies" in f.check)
    assert re.search(
        r"^id\n  figure 1\.000   chance 0\.500   95 % \[0\.\d+, 1\.000\]   verdict FOUND", printed, re.M
    )  # classes alternate
    with pytest.raises(SystemExit) as done:
        main(["tasks", "--scan"])
    assert done.value.code == 2
