"""The steps: the only place where the science meets the graph. Each is a plain function of values.

Gold reaches a step only through ``gold`` (and the class balance that ``split`` keeps); everything a student is made of
is derived from ``texts``, ``split`` and labels of a supervisor. A test walks every strategy's graph for it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from outgrow.data import Examples, Features, Floats, Ints, Labels, Split, hardened, positions
from outgrow.errors import UserError
from outgrow.graph import step
from outgrow.losses import Loss
from outgrow.metrics import (
    Interval,
    Outcomes,
    agreement,
    bootstrap_means,
    interval,
    per_example,
    pgr,
    pgr_interval,
    plain,
    scores,
)
from outgrow.models.numbers import embed_numbers
from outgrow.models.settings import VIEWS, Logistic, Probe
from outgrow.models.spec import ModelSpec
from outgrow.runtime import Runtime
from outgrow.tasks import Sizes, TaskSpec, split_examples
from outgrow.tasks import load as load_task
from outgrow.train.settings import Finetune

__all__ = [
    "cluster",
    "compare",
    "embed",
    "embed_bf16",
    "finetune",
    "fit_logistic",
    "fit_probe",
    "gap_and_pgr",
    "gold",
    "load",
    "predict_finetuned",
    "predict_probe",
    "shuffle",
    "split",
    "texts",
    "weak_column",
]

# --- examples ---------------------------------------------------------------------------------------------------------


@step(version=1)
def load(task: TaskSpec, runtime: Runtime) -> Examples:
    """The task's whole pool of examples, gold included."""
    return load_task(task, runtime)


@step(version=1)
def texts(pool: Examples) -> Examples:
    """The pool with nothing left that tells the truth."""
    return pool.without_gold()


@step(version=1)
def split(pool: Examples, sizes: Sizes, seed: int) -> Split:
    """Who trains the supervisor, who is labelled by it, who is the test."""
    return split_examples(pool, sizes, seed)


@step(version=1)
def gold(pool: Examples, split: Split, parts: tuple[str, ...]) -> Labels:
    """The truth on some parts, as certain labels."""
    chosen = pool.take(split.ids(parts))
    assert chosen.gold is not None
    if not len(chosen):
        raise UserError(
            f"part {parts[0]} has no rows to train a supervisor on: the column split names none; give rows to "
            f"{parts[0]}, or take weak labels of your own with weak='labels'"
        )
    if unknown := int((chosen.gold < 0).sum()):
        raise UserError(
            f"{unknown} of {len(chosen)} rows of {' and '.join(parts)} have no gold label, so no ceiling can be "
            "trained on them and no gold bought; run with ceiling=False, and without MixGold"
        )
    return Labels.from_classes(chosen.ids, chosen.gold, pool.num_classes, "gold")


@step(version=1)
def weak_column(pool: Examples, split: Split, parts: tuple[str, ...]) -> Labels:
    """The user's own weak labels, from a column of the table."""
    chosen = pool.take(split.ids(parts))
    columns = [chosen.meta.get(f"weak.{c}") for c in range(pool.num_classes)]
    if any(c is None for c in columns):
        raise UserError("the task has no weak labels of its own; name their column: table(..., weak='column')")
    probs = np.stack([np.asarray(c, dtype=np.float32) for c in columns], axis=1)
    if missing := int(np.isnan(probs).any(axis=1).sum()):
        first = chosen.ids[np.isnan(probs).any(axis=1)][0]
        raise UserError(f"{missing} rows of {', '.join(parts)} have no weak label, the first is {str(first)!r}")
    return Labels(ids=chosen.ids, probs=probs, source="weak column")


# --- probes on frozen features ----------------------------------------------------------------------------------------


@step(version=2)
def embed(model: ModelSpec, texts: Examples, max_tokens: int | None, runtime: Runtime) -> Features:
    """Frozen features of all texts, or all candidates, every view from one pass; ``max_tokens`` is None for a table of
    word vectors, and for a model that reads numbers or images."""
    return _embed(model, texts, max_tokens, runtime)


@step(version=1)
def embed_bf16(model: ModelSpec, texts: Examples, max_tokens: int, runtime: Runtime) -> Features:
    """:func:`embed` in bfloat16: on a GPU many times as fast, and not the same to the last digits."""
    return _embed(model, texts, max_tokens, runtime, bf16=True)


def _embed(model: ModelSpec, texts: Examples, max_tokens: int | None, runtime: Runtime, bf16: bool = False) -> Features:
    if texts.form == "image" or model.reads == "image":
        views = _embed_images(model, texts, runtime)
    elif model.numbers is not None:
        views = dict.fromkeys(VIEWS, embed_numbers(model.numbers, texts.texts))
    elif model.is_static:
        from outgrow.models.glove import embed_glove

        folder = model.folder(accept_license=runtime.accept_license, offline=runtime.offline, say=runtime.say)
        views = dict.fromkeys(VIEWS, embed_glove(folder, texts.texts))  # word vectors: no layers, no positions
    else:
        from outgrow.models.transformer import extract

        folder = model.folder(accept_license=runtime.accept_license, offline=runtime.offline, say=runtime.say)
        assert max_tokens is not None
        views = extract(folder, texts.texts, max_tokens=max_tokens, runtime=runtime, bf16=bf16)
    if texts.form == "choice":
        views = {name: matrix.reshape(len(texts), texts.num_classes, -1) for name, matrix in views.items()}
    return Features(ids=texts.ids, views=views)


def _embed_images(model: ModelSpec, images: Examples, runtime: Runtime) -> dict[str, Any]:
    from outgrow.models.images import Pixels, embed_images

    if images.form != "image":
        raise UserError(f"{model} reads images, and the task's inputs are texts; take a text model")
    if model.reads == "text":
        raise UserError(f"the task's inputs are images, which the text model {model} cannot read; take an image model")
    folder = None
    if not isinstance(model.images, Pixels):
        folder = model.folder(accept_license=runtime.accept_license, offline=runtime.offline, say=runtime.say)
    files = [content for content in images.inputs if isinstance(content, bytes)]
    return embed_images(model.images, folder, files, images.ids.tolist(), runtime)


def _fit_probes(arguments: Sequence[Mapping[str, Any]], runtime: Runtime) -> list[Any]:
    """Train all probes over the same features in one go; one at a time and together give the same."""
    from outgrow.models.probe import ProbeJob, fit_probes

    jobs = [ProbeJob(*_rows_of(a), a["loss"], a["probe"], a["seed"]) for a in arguments]
    return _by_view(fit_probes, jobs, arguments[0]["features"], runtime)


def _fit_logistics(arguments: Sequence[Mapping[str, Any]], runtime: Runtime) -> list[Any]:
    """Solve all heads over the same features in one go; one at a time and together give the same."""
    from outgrow.models.logistic import LogisticJob, fit_logistic

    jobs = [LogisticJob(*_rows_of(a), a["logistic"]) for a in arguments]
    return _by_view(fit_logistic, jobs, arguments[0]["features"], runtime)


def _rows_of(a: Mapping[str, Any]) -> tuple[Ints, Floats, Ints, Floats]:
    """Row numbers into the features and labels, of a part and of its held-out rows."""
    train, val = (a["labels"].take(a["split"].parts[name]) for name in (a["part"], f"{a['part']}_val"))
    rows, val_rows = (positions(kept.ids, a["features"].ids) for kept in (train, val))
    return rows, train.probs, val_rows, val.probs


def _by_view(fit: Callable[..., list[Any]], jobs: Sequence[Any], features: Features, runtime: Runtime) -> list[Any]:
    results: list[Any] = [None] * len(jobs)
    for view in dict.fromkeys(job.settings.view for job in jobs):
        numbers = [i for i, job in enumerate(jobs) if job.settings.view == view]
        for i, fitted in zip(numbers, fit(features.views[view], [jobs[i] for i in numbers], runtime), strict=True):
            results[i] = fitted
    return results


@step(version=3, many=_fit_probes, together=("features",))
def fit_probe(
    features: Features, labels: Labels, split: Split, part: str, loss: Loss, probe: Probe, seed: int, runtime: Runtime
) -> Any:
    """A linear head on frozen features, trained on the labels of ``part``, early-stopped on those of ``part_val``."""
    arguments = {k: v for k, v in locals().items() if k != "runtime"}
    return _fit_probes([arguments], runtime)[0]


@step(version=1, many=_fit_logistics, together=("features",))
def fit_logistic(
    features: Features, labels: Labels, split: Split, part: str, logistic: Logistic, runtime: Runtime
) -> Any:
    """The exact logistic regression on the labels of ``part``; how well it fits those of ``part_val`` is noted."""
    arguments = {k: v for k, v in locals().items() if k != "runtime"}
    return _fit_logistics([arguments], runtime)[0]


@step(version=1)
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
    settings: Finetune,
    seed: int,
    runtime: Runtime,
) -> Any:
    """A finetuned transformer, trained on the labels of ``part``, early-stopped on those of ``part_val``."""
    from outgrow.train.finetune import finetune as finetune_model

    folder = model.folder(accept_license=runtime.accept_license, offline=runtime.offline, say=runtime.say)
    train, val = (labels.take(split.parts[name]) for name in (part, f"{part}_val"))
    inputs, val_inputs = (texts.take(kept.ids).readings for kept in (train, val))
    return finetune_model(folder, inputs, train.probs, val_inputs, val.probs, loss, settings, seed, runtime)


@step(version=2)
def predict_finetuned(
    fitted: Any, model: ModelSpec, texts: Examples, split: Split, parts: tuple[str, ...], runtime: Runtime
) -> Labels:
    """A finetuned model's class probabilities on some parts."""
    from outgrow.train.finetune import predict

    folder = model.folder(accept_license=runtime.accept_license, offline=runtime.offline, say=runtime.say)
    chosen = texts.take(split.ids(parts))
    return Labels(ids=chosen.ids, probs=predict(folder, fitted, chosen.readings, runtime), source="finetuned")


# --- labels for controls ----------------------------------------------------------------------------------------------


@step(version=1)
def shuffle(labels: Labels, seed: int) -> Labels:
    """The same labels dealt to other rows at random: all that is left of them is how often each class occurs."""
    order = np.random.default_rng(seed).permutation(len(labels))
    return Labels(ids=labels.ids, probs=labels.probs[order], source=f"shuffled {labels.source}")


@step(version=1)
def cluster(features: Features, labels: Labels, split: Split, view: str, seed: int) -> Labels:
    """No-label baseline on T: k-means with k = C on the features of B, clusters named by the weak majority.

    The weak labels say only which cluster is which class: log2(C!) bits.

    Choices have no classes to cluster. There, what differs most between candidates of one example scores them: the
    first principal component of the features minus their mean over the example's candidates (the CRC-TPC of Burns et
    al. 2022, "Discovering latent knowledge", appendix), the weak majority saying only which end of it is better: 1 bit.
    """
    from threadpoolctl import threadpool_limits

    from outgrow.data import positions

    matrix = features.views[view].astype(np.float64)
    train, test = (matrix[positions(split.parts[p], features.ids)] for p in ("B", "T"))
    weak = labels.take(split.parts["B"])
    with threadpool_limits(limits=1):  # a fixed number of threads: sums in one order, the same bits
        found = _clusters(train, test, weak.probs, seed) if matrix.ndim == 2 else _contrast(train, test, weak.probs)
    return Labels.from_classes(split.parts["T"], found, weak.probs.shape[1], "clusters")


def _clusters(train: Floats, test: Floats, weak: Floats, seed: int) -> Ints:
    """Classes of ``test`` (m, d) by k-means on ``train`` (n, d), named by the ``weak`` probabilities (n, C)."""
    from scipy.optimize import linear_sum_assignment
    from sklearn.cluster import KMeans

    center, scale = train.mean(axis=0), np.maximum(train.std(axis=0), 1e-9)
    means = KMeans(weak.shape[1], n_init=4, random_state=seed)
    found = means.fit_predict((train - center) / scale)
    votes = np.array([weak[found == k].sum(axis=0) for k in range(weak.shape[1])])
    _, names = linear_sum_assignment(-votes)
    classes: Ints = names[means.predict((test - center) / scale)]
    return classes


def _contrast(train: Floats, test: Floats, weak: Floats) -> Ints:
    """Candidates of ``test`` (m, C, d) taken by the first principal component of ``train`` (n, C, d) within examples,
    its sign by the ``weak`` probabilities (n, C)."""
    scale = np.maximum(train.std(axis=(0, 1)), 1e-9)
    within, of_test = ((part - part.mean(axis=1, keepdims=True)) / scale for part in (train, test))
    flat = within.reshape(-1, within.shape[-1])
    direction = np.linalg.eigh(flat.T @ flat)[1][:, -1]
    rows = np.arange(len(weak))
    up, down = (weak[rows, hardened(sign * (within @ direction))].sum() for sign in (1, -1))
    return hardened((of_test @ direction) * (1 if up >= down else -1))


# --- scoring ----------------------------------------------------------------------------------------------------------


@step(version=1)
def compare(
    texts: Examples,
    truth: tuple[Labels, ...],
    weak: tuple[Labels, ...],
    student: tuple[Labels, ...],
    ceiling: tuple[Labels, ...],
    seeds: tuple[int, ...],
) -> dict[str, Any]:
    """Supervisor, student and ceiling (empty for none) on the same test rows: scores, agreement, PGR, with intervals.

    One element of each tuple per seed. Intervals are 95 % of the hierarchical bootstrap over seeds and test groups.
    """
    roles = {"weak": weak, "student": student, **({"ceiling": ceiling} if ceiling else {})}
    outcomes, per_seed = [], []
    for i, seed in enumerate(seeds):
        test = truth[i]
        right = test.hard
        probs = {role: labels[i].take(test.ids).probs for role, labels in roles.items()}
        outcomes.append(_outcomes(texts.take(test.ids).groups, probs, right))
        scored = {role: scores(p, right) for role, p in probs.items()}
        same = agreement(probs["student"].argmax(axis=1), probs["weak"].argmax(axis=1), right)
        accuracy = [scored[role]["accuracy"] for role in roles]
        recovered = pgr(*accuracy) if ceiling else None
        per_seed.append({"seed": seed, "test_rows": len(test), **scored, "agreement": same, "pgr": recovered})
    means = bootstrap_means(outcomes)
    result = {
        "test_rows": sum(len(t) for t in truth),
        "test_rows_per_seed": len(truth[0]),
        "num_classes": truth[0].probs.shape[1],
        "majority": max(float(np.bincount(t.hard).max() / len(t)) for t in truth),
        "gain": interval(means["student.accuracy"] - means["weak.accuracy"]),
        "agreement": {k: interval(means[f"agreement.{k}"]) for k in ("all", "supervisor_right", "supervisor_wrong")},
        **{role: _role_scores(role, means, per_seed) for role in roles},
        **gap_and_pgr(means, bool(ceiling)),
        "per_seed": per_seed,
    }
    plained: dict[str, Any] = plain(result)
    return plained


def _outcomes(groups: Any, probs: Mapping[str, Floats], right: Any) -> Outcomes:
    values = {f"{role}.{k}": v for role, p in probs.items() for k, v in per_example(p, right).items()}
    supervisor = probs["weak"].argmax(axis=1)
    same = (probs["student"].argmax(axis=1) == supervisor).astype(np.float64)
    values["agreement.all"] = same
    values["agreement.supervisor_right"] = np.where(supervisor == right, same, np.nan)
    values["agreement.supervisor_wrong"] = np.where(supervisor != right, same, np.nan)
    return Outcomes(groups=groups, values=values)


def _role_scores(role: str, means: Mapping[str, Floats], per_seed: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    summary: dict[str, Any] = {k: interval(means[f"{role}.{k}"]) for k in ("accuracy", "xent", "brier")}
    for name in ("auroc", "ece"):  # not means over rows: over seeds, with the range of the seeds
        values = [s[role][name] for s in per_seed]
        summary[name] = Interval(float(np.mean(values)), min(values), max(values))
    return summary


def gap_and_pgr(means: Mapping[str, Floats], has_ceiling: bool) -> dict[str, Any]:
    """``gap``, ``pgr`` and, where there is none, the reason ``pgr_undefined``, from bootstrap means of accuracies."""
    if not has_ceiling:
        return {"gap": None, "pgr": None, "pgr_undefined": "there is no ceiling"}
    weak, student, ceiling = (means[f"{role}.accuracy"] for role in ("weak", "student", "ceiling"))
    recovered, undefined = pgr_interval(weak, student, ceiling)
    return {"gap": interval(ceiling - weak), "pgr": recovered, "pgr_undefined": undefined}
