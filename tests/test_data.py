"""Examples of each form keep their inputs through a file, and texts are what text models read."""

from pathlib import Path

import numpy as np
import pytest

from outgrow.data import Examples, Input
from outgrow.errors import UserError

FORMS: dict[str, tuple[Input, ...]] = {
    "text": ("one", "two"),
    "choice": (("a", "b"), ("c", "d")),
    "image": (b"\x89PNG\x00", b"\x00\xff"),
}


def examples(inputs: tuple[Input, ...], classes: tuple[str, ...] = ("no", "yes")) -> Examples:
    ids = np.array([f"row-{i}" for i in range(len(inputs))], dtype=np.str_)
    gold = np.zeros(len(inputs), dtype=np.int64)
    return Examples(ids=ids, inputs=inputs, gold=gold, classes=classes, groups=ids)


@pytest.mark.parametrize("form", FORMS)
def test_inputs_come_back_from_a_file_as_they_were(form: str, tmp_path: Path) -> None:
    before = examples(FORMS[form])
    before.save(tmp_path)
    after = Examples.load(tmp_path)
    assert after.inputs == before.inputs
    assert after.form == before.form == form


def test_texts_of_a_choice_are_all_its_candidates_in_order() -> None:
    assert examples(FORMS["choice"]).texts == ("a", "b", "c", "d")
    assert examples(FORMS["text"]).texts == FORMS["text"]
    with pytest.raises(UserError, match="images, which a text model cannot read"):
        _ = examples(FORMS["image"]).texts


def test_a_choice_has_a_candidate_for_every_class() -> None:
    with pytest.raises(ValueError, match="as many candidates as there are classes"):
        examples(FORMS["choice"], ("a", "b", "c"))
    with pytest.raises(ValueError, match="several forms"):
        examples(("text", ("a", "b")))
