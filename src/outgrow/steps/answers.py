"""Steps of written answers: what the other steps do with class probabilities, done with texts (exact match).

Gold reaches a step only through :func:`gold_answers` and the scorer, :func:`compare_answers`.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from outgrow.data import Answers, Examples, Floats, Split
from outgrow.engine.graph import step
from outgrow.errors import UserError
from outgrow.metrics import Means, Outcomes, plain
from outgrow.models.spec import ModelSpec
from outgrow.runtime import Runtime
from outgrow.steps.compare import content_of, gain_gap_and_pgr, rows_used
from outgrow.train.settings import GenerateSettings

__all__ = ["compare_answers", "decode", "finetune_lm", "gold_answers", "shuffle_answers"]


@step(version=1, said="take gold answers")
def gold_answers(pool: Examples, split: Split, parts: tuple[str, ...]) -> Answers:
    """The right answers on some parts."""
    chosen = pool.take(split.ids(parts))
    if "answer" not in chosen.meta:
        raise UserError("the task has no written answers; train with probe or finetune")
    return Answers(ids=chosen.ids, texts=tuple(chosen.meta["answer"].tolist()), source="gold")


@step(version=2, said="finetune to write")
def finetune_lm(
    model: ModelSpec,
    texts: Examples,
    answers: Answers | None,
    split: Split,
    part: str,
    settings: GenerateSettings,
    seed: int,
    runtime: Runtime,
) -> Any:
    """A language model that learned the answers of ``part`` and ``part_val``, or the texts if ``answers`` is None.

    Nothing is stopped early, so no rows are held out for it.
    """
    from outgrow.train.lm import finetune_lm as train

    folder = model.folder(runtime)
    ids = split.ids((part, f"{part}_val"))
    read = texts.take(ids).texts
    if answers is None:
        return train(folder, [""] * len(read), read, settings, seed, runtime, cut=True)
    return train(folder, read, answers.take(ids).texts, settings, seed, runtime, cut=answers.source != "gold")


@step(version=1, said="write answers")
def decode(
    fitted: Any, model: ModelSpec, texts: Examples, split: Split, parts: tuple[str, ...], runtime: Runtime
) -> Answers:
    """What a finetuned language model writes at temperature 0 on some parts."""
    from outgrow.train.lm import decode as write

    folder = model.folder(runtime)
    chosen = texts.take(split.ids(parts))
    written = write(folder, fitted, chosen.texts, fitted.settings, runtime)
    return Answers(ids=chosen.ids, texts=tuple(written), source="generate")


@step(version=1)
def shuffle_answers(answers: Answers, seed: int) -> Answers:
    """The same answers dealt to other rows at random."""
    order = np.random.default_rng(seed).permutation(len(answers))
    texts = tuple(answers.texts[i] for i in order)
    return Answers(ids=answers.ids, texts=texts, source=f"shuffled {answers.source}")


@step(version=4, said="score")
def compare_answers(
    pool: Examples,
    truth: tuple[Answers, ...],
    weak: tuple[Answers, ...],
    student: tuple[Answers, ...],
    ceiling: tuple[Answers, ...],
    seeds: tuple[int, ...],
    splits: tuple[tuple[Split, ...], ...] = (),
    reading: Mapping[str, Mapping[str, int]] | None = None,
) -> dict[str, Any]:
    """Supervisor, student and ceiling (empty for none) on the same test rows, by exact match with the ``truth``.

    The same result as :func:`outgrow.steps.compare.compare` gives, so that tables and reports hold both;
    scores of probabilities are left out, and ``legal``, the share of answers that are allowed at all (the pool's column
    ``allowed``), is added. ``majority`` is of always writing the most frequent right answer.
    ``reading`` says how much of the prompts ``weak`` and ``student`` read.
    """
    roles = {"weak": weak, "student": student, **({"ceiling": ceiling} if ceiling else {})}
    outcomes, per_seed = [], []
    for i, seed in enumerate(seeds):
        test = truth[i]
        written = {role: given[i].take(test.ids).texts for role, given in roles.items()}
        found = _outcomes(pool.take(test.ids), test.texts, written)
        outcomes.append(found)
        with np.errstate(invalid="ignore"):
            scored = {name: float(np.nanmean(v)) if np.isfinite(v).any() else None for name, v in found.values.items()}
        per_seed.append({"seed": seed, "test_rows": len(test), **scored})
    means = Means(outcomes)
    result = {
        "notes": list(pool.notes),
        "classes": [],
        "rows": rows_used(len(pool), splits),
        "reading": {role: dict(counts) for role, counts in (reading or {}).items()},
        "tests": [content_of(pool, test.ids) for test in truth],
        "test_rows": sum(len(t) for t in truth),
        "test_rows_per_seed": len(truth[0]),
        "num_classes": None,
        "majority": max(max(t.texts.count(text) for text in set(t.texts)) / len(t) for t in truth),
        "over_majority": means.difference("student.accuracy", "majority").interval(-1.0, 1.0),
        "agreement": {k: means.rate(f"agreement.{k}") for k in ("all", "supervisor_right", "supervisor_wrong")},
        **{role: {k: means.rate(f"{role}.{k}") for k in ("accuracy", "legal")} for role in roles},
        **gain_gap_and_pgr(means, bool(ceiling)),
        "per_seed": per_seed,
    }
    plained: dict[str, Any] = plain(result)
    return plained


def _outcomes(rows: Examples, right: Sequence[str], written: Mapping[str, Sequence[str]]) -> Outcomes:
    values: dict[str, Floats] = {}
    allowed = [set(moves.split()) for moves in rows.meta["allowed"].tolist()] if "allowed" in rows.meta else None
    for role, texts in written.items():
        values[f"{role}.accuracy"] = np.array([a == b for a, b in zip(texts, right, strict=True)], dtype=np.float64)
        legal = [np.nan] * len(texts) if allowed is None else [t in ok for t, ok in zip(texts, allowed, strict=True)]
        values[f"{role}.legal"] = np.array(legal, dtype=np.float64)
    supervisor_right = values["weak.accuracy"] == 1
    same = np.array([a == b for a, b in zip(written["student"], written["weak"], strict=True)], dtype=np.float64)
    values["agreement.all"] = same
    values["agreement.supervisor_right"] = np.where(supervisor_right, same, np.nan)
    values["agreement.supervisor_wrong"] = np.where(supervisor_right, np.nan, same)
    most = max(right, key=Counter(right).__getitem__)
    values["majority"] = np.array([text == most for text in right], dtype=np.float64)
    return Outcomes(groups=rows.groups, values=values)
