"""Steps that embed, train and predict."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from outgrow.data import Examples, Features, Floats, Ints, Labels, Question, Split, positions
from outgrow.engine.graph import Content, Step, canonical, step
from outgrow.losses import Loss
from outgrow.models.settings import LogisticSettings, ProbeSettings
from outgrow.models.spec import ModelSpec
from outgrow.runtime import Runtime
from outgrow.train.settings import FinetuneSettings

__all__ = [
    "ask",
    "embed",
    "embed_bf16",
    "finetune",
    "fit_logistic",
    "fit_probe",
    "measure_asking",
    "measure_reading",
    "predict_finetuned",
    "predict_probe",
]

# --- probes on frozen features ----------------------------------------------------------------------------------------


def _texts_and_model(a: Mapping[str, Any]) -> str:
    """All that features depend on: neither ids nor any column beside the inputs is among it."""
    return _with_inputs(a, [canonical(a["model"]), a["max_tokens"]])


def _asked_and_model(a: Mapping[str, Any]) -> str:
    """All that the features of a question depend on: texts, model and precision, and what is asked of these texts."""
    question = canonical(a["question"].of(a["texts"]))
    return _with_inputs(a, [canonical(a["model"]), a["max_tokens"], a["bf16"], question])


def _with_inputs(a: Mapping[str, Any], others: list[Any]) -> str:
    made = hashlib.sha256(json.dumps(others).encode())
    for reading in a["texts"].inputs:
        parts = reading if isinstance(reading, tuple) else (reading,)
        made.update(f"{len(parts)}:".encode())
        for part in parts:
            data = part if isinstance(part, bytes) else part.encode(errors="surrogatepass")
            made.update(f"{len(data)}:".encode() + data)
    return made.hexdigest()


_TOKENS_OF_A_ROW = 40  # where a task's texts are not loaded yet; rated movie snippets have 28
_CHARACTERS_OF_A_TOKEN = 4


def _work(a: Mapping[str, Any]) -> float | None:
    """Operations of one pass: two for each parameter and token. None for what is no transformer of texts."""
    parameters, texts = a["model"].layer_parameters, a["texts"]
    if parameters is None:
        return None
    most = a["max_tokens"] or 512
    more = len(a["question"].template) / _CHARACTERS_OF_A_TOKEN if "question" in a else 0.0
    if isinstance(texts, Examples):
        if texts.form == "image":
            return None
        tokens: float = sum(min(most, 2 + more + len(text) / _CHARACTERS_OF_A_TOKEN) for text in set(texts.texts))
    else:
        pool = texts.args.get("pool") if isinstance(texts, Step) else None
        size = pool.args["task"].expected_size if isinstance(pool, Step) and "task" in pool.args else None
        if size is None:
            return None
        rows, characters = size
        tokens = characters / _CHARACTERS_OF_A_TOKEN if characters else (_TOKENS_OF_A_ROW + more) * rows
    return float(2 * parameters * tokens)


_OF_TEXTS = Content(digest=_texts_and_model, adopt=lambda features, a: replace(features, ids=a["texts"].ids))


@step(version=2, content=_OF_TEXTS, work=_work, said="embed inputs")
def embed(model: ModelSpec, texts: Examples, max_tokens: int | None, runtime: Runtime) -> Features:
    """Frozen features of all inputs, every view from one pass. ``max_tokens`` is None for the model's default."""
    return Features(ids=texts.ids, views=model.embed(texts, max_tokens, runtime))


@step(version=1, content=_OF_TEXTS, work=_work, said="embed inputs in bfloat16")
def embed_bf16(model: ModelSpec, texts: Examples, max_tokens: int | None, runtime: Runtime) -> Features:
    """:func:`embed` in bfloat16: many times as fast on a GPU, and not the same to the last digits."""
    return Features(ids=texts.ids, views=model.embed(texts, max_tokens, runtime, bf16=True))


@step(
    version=1,
    content=Content(digest=_asked_and_model, adopt=lambda features, a: replace(features, ids=a["texts"].ids)),
    work=_work,
    said="ask about inputs",
)
def ask(
    model: ModelSpec, texts: Examples, question: Question, max_tokens: int | None, bf16: bool, runtime: Runtime
) -> Features:
    """Frozen features of all inputs inside the task's question, every view from one pass, and the log probabilities of
    the classes' words: see :func:`outgrow.models.asked.ask`."""
    return Features(ids=texts.ids, views=model.embed(texts, max_tokens, runtime, bf16=bf16, question=question))


@step(version=1, said="count tokens")
def measure_asking(
    model: ModelSpec, texts: Examples, question: Question, max_tokens: int | None, runtime: Runtime
) -> dict[str, int]:
    """:func:`measure_reading` of texts inside a question, of which the text alone is cut."""
    from outgrow.models.asked import measure_asking as measure

    return measure(model.folder(runtime), texts.texts, question.of(texts), max_tokens)._asdict()


@step(version=1, said="count tokens")
def measure_reading(model: ModelSpec, texts: Examples, max_tokens: int | None, runtime: Runtime) -> dict[str, int]:
    """How much of the texts a transformer reads: ``max_tokens``, ``texts`` (a choice has one for each candidate), how
    many were ``cut`` to that, and how many of them became ``identical`` to another."""
    from outgrow.models.transformer import measure_reading as measure

    return measure(model.folder(runtime), texts.texts, max_tokens)._asdict()


def _fit_probes(arguments: Sequence[Mapping[str, Any]], runtime: Runtime) -> list[Any]:
    """Train all probes on the same features together; each comes out the same as if it were alone."""
    from outgrow.models.probe import ProbeJob, fit_probes

    jobs = [ProbeJob(*_rows_of(a), a["loss"], a["probe"], a["seed"]) for a in arguments]
    return _by_view(fit_probes, jobs, arguments[0]["features"], runtime)


def _fit_logistics(arguments: Sequence[Mapping[str, Any]], runtime: Runtime) -> list[Any]:
    """Solve all heads on the same features together; each comes out the same as if it were alone."""
    from outgrow.models.logistic import LogisticJob, fit_logistic

    jobs = [LogisticJob(*_rows_of(a), a["logistic"]) for a in arguments]
    return _by_view(fit_logistic, jobs, arguments[0]["features"], runtime)


def _rows_of(a: Mapping[str, Any]) -> tuple[Ints, Floats, Ints, Floats]:
    """Row numbers into the features, and labels: to train on, and held out."""
    train, val = _taught(a["labels"], a["split"], a["part"], a["rows"])
    rows, val_rows = (positions(kept.ids, a["features"].ids) for kept in (train, val))
    return rows, train.probs, val_rows, val.probs


def _taught(labels: Labels, split: Split, part: str, rows: Labels | None) -> tuple[Labels, Labels]:
    """The labels to train on, and the held-out ones."""
    return labels.take(split.parts[part]) if rows is None else rows, labels.take(split.parts[f"{part}_val"])


def _by_view(fit: Callable[..., list[Any]], jobs: Sequence[Any], features: Features, runtime: Runtime) -> list[Any]:
    results: list[Any] = [None] * len(jobs)
    for view in dict.fromkeys(job.settings.view for job in jobs):
        numbers = [i for i, job in enumerate(jobs) if job.settings.view == view]
        for i, fitted in zip(numbers, fit(features.views[view], [jobs[i] for i in numbers], runtime), strict=True):
            results[i] = fitted
    return results


@step(version=4, many=_fit_probes, together=("features",), said="train probes")
def fit_probe(
    features: Features,
    labels: Labels,
    split: Split,
    part: str,
    loss: Loss,
    probe: ProbeSettings,
    seed: int,
    runtime: Runtime,
    rows: Labels | None = None,
) -> Any:
    """A linear head on frozen features, trained on the labels of ``part``, early-stopped on those of ``part_val``.

    ``rows`` are labels of drawn rows to train on instead of the part's; a row drawn twice counts twice.
    """
    arguments = {k: v for k, v in locals().items() if k != "runtime"}
    return _fit_probes([arguments], runtime)[0]


@step(version=1, many=_fit_logistics, together=("features",), said="solve heads")
def fit_logistic(
    features: Features,
    labels: Labels,
    split: Split,
    part: str,
    logistic: LogisticSettings,
    runtime: Runtime,
    rows: Labels | None = None,
) -> Any:
    """The exact logistic regression on the labels of ``part``, or on ``rows`` as in :func:`fit_probe`.

    Its history tells how well it fits the labels of ``part_val``.
    """
    arguments = {k: v for k, v in locals().items() if k != "runtime"}
    return _fit_logistics([arguments], runtime)[0]


@step(version=1, said="predict with probes")
def predict_probe(fitted: Any, features: Features, split: Split, parts: tuple[str, ...]) -> Labels:
    """A probe's class probabilities on some parts."""
    ids = split.ids(parts)
    rows = positions(ids, features.ids)
    return Labels(ids=ids, probs=fitted.predict(features.views[fitted.view][rows]), source="probe")


# --- finetuning -------------------------------------------------------------------------------------------------------


@step(version=4)
def finetune(
    model: ModelSpec,
    texts: Examples,
    labels: Labels,
    split: Split,
    part: str,
    loss: Loss,
    settings: FinetuneSettings,
    seed: int,
    runtime: Runtime,
    rows: Labels | None = None,
    start: Any = None,
    anchor: float = 0.0,
) -> Any:
    """A finetuned transformer, trained on the labels of ``part``, early-stopped on those of ``part_val``.

    ``rows`` as in :func:`fit_probe`. ``start`` is a result whose ``begin`` gives tensors of the untrained classifier to
    start from; ``anchor`` is the weight of |w - w at the start|^2 / 2, added to the loss.
    """
    from outgrow.train.loop import finetune as finetune_model

    folder = model.folder(runtime)
    train, val = _taught(labels, split, part, rows)
    readings, begin = texts.readings, start.begin if start else None
    inputs, val_inputs = ([readings[i] for i in positions(kept.ids, texts.ids)] for kept in (train, val))
    given = (inputs, train.probs, val_inputs, val.probs, loss, settings, seed, runtime)
    return finetune_model(folder, *given, start=begin, anchor=anchor)


@step(version=2, said="predict")
def predict_finetuned(
    fitted: Any, model: ModelSpec, texts: Examples, split: Split, parts: tuple[str, ...], runtime: Runtime
) -> Labels:
    """A finetuned model's class probabilities on some parts."""
    from outgrow.train.loop import predict

    folder = model.folder(runtime)
    chosen = texts.take(split.ids(parts))
    return Labels(ids=chosen.ids, probs=predict(folder, fitted, chosen.readings, runtime), source="finetuned")
