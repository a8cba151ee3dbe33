"""Nobody changes the numbers of a loss, a transform, a label model or a step without raising its version.

Stored results are found under versions, so numbers that change without one bring back old results as new ones. Here
every such thing runs on small fixed inputs, and what comes out is pinned in ``golden.json`` under its name and version.

Where a test fails and you meant the change, raise the version, then pin the new numbers:

    python tests/test_versions.py

Where you changed the inputs in this file instead, delete the lines of what moved from ``golden.json``, and do the same.

Numbers are compared up to a small share of their typical size, so that another CPU's rounding does not matter.
"""

import functools
import hashlib
import importlib
import json
import pkgutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

import outgrow
from outgrow import labels, steps
from outgrow.data import Answers, Examples, Features, Labels, Question, Split
from outgrow.engine import graph
from outgrow.identity import is_inside
from outgrow.labels import LABEL_MODELS, TRANSFORMS, Transform, TransformInputs
from outgrow.losses import GCE, LOSSES, LogConf, Loss, MixesTargets, StatefulLoss
from outgrow.models.probe import FittedProbe
from outgrow.models.settings import VIEWS
from outgrow.models.spec import ModelSpec
from outgrow.protocols import bands, base, evidence, nested, statements
from outgrow.registry import REGISTRIES
from outgrow.runtime import Runtime
from outgrow.strategies import chains, coherence, ensembles, prompts, selection, training
from outgrow.strategies.trainers import Finetune, Generate, Logistic, Probe
from outgrow.supervisors import inject_errors, linear_errors, one_rating
from outgrow.tasks import Sizes, TaskSpec
from outgrow.train.lm import GenerativeModel
from tiny_models import WORDS, make_model

GOLDEN = Path(__file__).parent / "golden.json"
CPU = Runtime(device="cpu", say=lambda line: None)
CLOSE = {"loss": 1e-5, "transform": 1e-5, "label model": 1e-5, "step": 1e-3}
"""How far numbers may lie from what is pinned, as a share of the root mean square of their array."""
PARTS = ("B", "B_val", "T")
NO_NUMBERS = {
    "strategy": "it only wires steps: what it changes is in their arguments, which are hashed",
    "supervisor": "it only wires steps: what it changes is in their arguments, which are hashed",
    "trainer": "its fields are arguments of the steps that fit, which are pinned",
    "model": "read by the step embed, which is pinned with all that need no download",
    "task": "made by the step load; what the data sets give is pinned in tests/tasks",
    "figure": "a picture of numbers that stand",
    "analysis": "a table of numbers that stand",
}
"""Kinds of registered classes that are not pinned, and why."""
UNPINNED = {
    "embed_bf16": "rounding in bfloat16 differs between machines; it is embed, which is pinned, in other digits"
}
"""Step functions that are not pinned, and why."""

Case = Callable[[], Any]


# --- fixed inputs -----------------------------------------------------------------------------------------------------


class Scene(NamedTuple):
    """90 rows in groups of two, features in which the classes are clouds, and labels that are often wrong."""

    pool: Examples
    choices: Examples
    split: Split
    features: Features
    """Views ``mean`` (n, 6), and ``last_token`` (n, C, 6), as of choices."""
    weak: Labels
    votes: tuple[Labels, ...]
    gold: Labels


@functools.cache
def scene(num_classes: int) -> Scene:
    rng = np.random.default_rng(num_classes)
    n, names = 90, ("bad", "good", "no")[:num_classes]
    truth = rng.permutation(np.arange(n) % num_classes)
    ids = np.array([f"row-{i:02d}" for i in range(n)])
    words = rng.choice(WORDS[5:], size=(n, 3))
    texts = tuple(f"{w[0]} {names[c]} {w[1]} {w[2]}" for w, c in zip(words, truth, strict=True))
    meta: dict[str, Any] = {f"weak.{c}": (truth == c) * 0.5 + 0.5 / num_classes for c in range(num_classes)}
    meta |= {f"second.{c}": (np.roll(truth, 1) == c) * 0.5 + 0.5 / num_classes for c in range(num_classes)}
    meta |= {"rater.1": rng.integers(-1, 2, size=n).astype(np.float64), "difficulty": rng.random(n)}
    meta |= {"answer": np.array([names[c] for c in truth])}
    groups = np.array([f"group-{i // 2}" for i in range(n)])
    pool = Examples(ids=ids, inputs=texts, gold=truth, classes=names, groups=groups, meta=meta)
    stated = tuple(tuple(f"{name} {w[0]} {w[1]}" for name in names) for w in words)
    choices = Examples(ids=ids, inputs=stated, gold=truth, classes=names, groups=groups)
    order = rng.permutation(n)
    cuts = np.split(ids[order], [24, 30, 60, 69])
    split = Split(parts=dict(zip(("A", "A_val", "B", "B_val", "T"), map(np.sort, cuts), strict=True)))
    rows = (2 * np.eye(6)[truth] + rng.normal(size=(n, 6))).astype(np.float32)
    candidates = rng.normal(size=(n, num_classes, 6))
    candidates[np.arange(n), truth, 0] += 2
    views = {"mean": rows, "last_token": candidates.astype(np.float32)}
    given = [_labels(ids, truth, num_classes, rng, pull) for pull in (1.4, 0.6, 1.0)]
    gold = Labels.from_classes(ids, truth, num_classes, "gold")
    return Scene(pool, choices, split, Features(ids=ids, views=views), given[0], tuple(given), gold)


def _labels(ids: Any, truth: Any, num_classes: int, rng: np.random.Generator, pull: float) -> Labels:
    odds = pull * np.eye(num_classes)[truth] + rng.normal(size=(len(ids), num_classes))
    probs = np.exp(odds) / np.exp(odds).sum(axis=1, keepdims=True)
    return Labels(ids=ids, probs=probs.astype(np.float32), source="weak")


def probe(num_classes: int) -> FittedProbe:
    """A head that mostly finds the clouds."""
    weight = (np.eye(6)[:, :num_classes] + np.random.default_rng(5).normal(size=(6, num_classes)) / 4).astype("float32")
    zero, one = np.zeros(6, dtype=np.float32), np.ones(6, dtype=np.float32)
    return FittedProbe(
        view="mean", weight=weight, bias=zero[:num_classes], center=zero, scale=one, history=(), best_epoch=0
    )


@dataclass(frozen=True)
class Plain(MixesTargets, Loss):
    """Cross-entropy, written here: if the package's losses change, the steps should not move with them."""

    def targets(self, logits: Tensor, targets: Tensor, progress: float) -> Tensor:
        return targets

    def __call__(self, logits: Tensor, targets: Tensor, progress: float) -> Tensor:
        return -(targets * logits.log_softmax(-1)).sum(-1)


@dataclass(frozen=True)
class Squared(Loss):
    """Takes its gradient by autograd."""

    def __call__(self, logits: Tensor, targets: Tensor, progress: float) -> Tensor:
        return (1 + progress) * (logits.softmax(-1) - targets).square().sum(-1)


@dataclass(frozen=True)
class Holding(Squared, StatefulLoss):
    """Learns half of what it said before."""

    def remember(self, memory: Tensor, logits: Tensor) -> Tensor:
        return 0.5 * memory + 0.5 * logits.detach().softmax(-1)

    def with_memory(self, memory: Tensor) -> Loss:
        return _Held(memory)


@dataclass(frozen=True, eq=False)
class _Held(Loss):
    memory: Tensor

    def __call__(self, logits: Tensor, targets: Tensor, progress: float) -> Tensor:
        return -((targets + self.memory) / 2 * logits.log_softmax(-1)).sum(-1)


@dataclass(frozen=True)
class Halves(Transform):
    """Labels mixed with the signs of features."""

    needs = frozenset({"features", "unlabelled", "gold", "seed"})

    def __call__(self, labels: Labels, given: TransformInputs) -> Labels:
        assert given.features is not None
        assert given.unlabelled is not None
        num_classes = labels.probs.shape[1]
        seen = np.exp(given.features[:, :num_classes] + given.unlabelled[:, :num_classes].mean(axis=0))
        mixed = labels.probs + seen / seen.sum(axis=1, keepdims=True)
        return Labels(ids=labels.ids, probs=(mixed / 2).astype(np.float32), source=f"seed {given.seed}")


def model(root: Path, kind: str) -> ModelSpec:
    """A tiny model whose weights do not depend on the version of any library."""
    folder = root / kind
    if not folder.exists():
        from safetensors.numpy import load_file, save_file

        from outgrow.models.transformer import load_tokenizer

        make_model(folder, kind)
        weights, rng = load_file(folder / "model.safetensors"), np.random.default_rng(0)
        for name in sorted(weights):
            if weights[name].ndim > 1 and "orm" not in name:
                weights[name] = rng.normal(scale=0.3, size=weights[name].shape).astype(np.float32)
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        if kind == "llama":
            tokenizer = load_tokenizer(folder)
            tokenizer.eos_token = "[SEP]"
            tokenizer.save_pretrained(folder)
    return ModelSpec.parse(str(folder))


# --- what is pinned ---------------------------------------------------------------------------------------------------

OPTIONS = (
    "LogConf(shares='uniform', schedule='released')", "AdaptConf(warmup=0.8)", "Balance(shares=(0.2, 0.8))",
    "KeepConfident(per_class=False)", "KNN(mix=0.5)", "Overlap(rest=0.5)", "TopoFilter(k=2, outlier_k=8)",
    "LogisticRelabel(mix=0.5)", "ConfidentLearning(filter_by='both')", "DawidSkene(hard=False)",
    "LogConf(shares='none')", "AnchoredEM(shares='weak')",
)  # fmt: skip
"""Settings that take another path than the defaults do."""


def registered() -> dict[str, type[Any]]:
    """Every loss, transform and label model of the package, by kind and name."""
    kinds = {"loss": LOSSES, "transform": TRANSFORMS, "label model": LABEL_MODELS}
    return {f"{kind} {name}": cls for kind, r in kinds.items() for name, cls in r.items() if is_inside(cls)}


def cases_of_classes() -> dict[str, Case]:
    shown = {"loss": of_loss, "transform": of_transform, "label model": of_label_model}
    return {title: functools.partial(shown[title.rpartition(" ")[0]], cls) for title, cls in registered().items()}


def _settings(cls: type[Any]) -> Iterator[tuple[str, Any]]:
    registry = next(r for r in REGISTRIES.values() if cls in r.values())
    for text in (cls.__name__, *(o for o in OPTIONS if o.startswith(f"{cls.__name__}("))):
        yield text, registry.parse(text)


def of_loss(cls: type[Any]) -> dict[str, Any]:
    """Values, gradients and, if it has them, changed targets and memory, with 2 and 3 classes."""
    found: dict[str, Any] = {}
    for text, loss in _settings(cls):
        for num_classes in (2, 3):
            rng = np.random.default_rng(num_classes)
            z, targets, memory = (torch.from_numpy(rng.normal(size=(11, num_classes))) for _ in range(3))
            targets, memory, name = targets.mul(2).softmax(-1), memory.softmax(-1) / 2, f"{text}, {num_classes} classes"
            for progress in (0.1, 0.7):
                still = z.clone().requires_grad_()
                values = loss(still, targets, progress)
                (slope,) = torch.autograd.grad(values.sum(), still)
                found[f"{name}, at {progress}"] = {"loss": values, "slope": slope}
            used = loss
            if isinstance(loss, StatefulLoss):
                found[f"{name}, memory"] = loss.remember(memory, z)
                used = loss.with_memory(memory)
                found[f"{name}, by memory"] = used(z, targets, 0.7)
            if isinstance(used, MixesTargets):
                found[f"{name}, targets"] = used.targets(z, targets, 0.7)
                if num_classes == 2:
                    found[f"{name}, one column"] = used.targets(z[:, 1:] - z[:, :1], targets[:, 1:], 0.7)
    return found


def of_transform(cls: type[Any]) -> dict[str, Any]:
    """Standardized features of B and of A, gold of half of B, with 2 and 3 classes."""
    found = {}
    for text, transform in _settings(cls):
        for num_classes in (2, 3) if "shares=(" not in text else (2,):
            s = scene(num_classes)
            rows = s.features.views["mean"].astype(np.float64)
            rows = (rows - rows.mean(axis=0)) / rows.std(axis=0)
            given = TransformInputs(features=rows[:60], unlabelled=rows[60:], gold=s.gold.take(s.gold.ids[:30]), seed=3)
            found[f"{text}, {num_classes} classes"] = transform(s.weak.take(s.weak.ids[:60]), given)
    return found


def of_label_model(cls: type[Any]) -> dict[str, Any]:
    """Three supervisors, with 2 and 3 classes."""
    return {f"{text}, {c} classes": made(scene(c).votes) for text, made in _settings(cls) for c in (2, 3)}


def cases_of_steps(root: Path) -> dict[Any, Case]:
    """Every step function with a call of it."""
    steps_of = (of_rows, of_labels, of_scores, of_features, of_heads, of_protocols, of_nested)
    return {fn: case for of in steps_of for fn, case in of().items()} | of_models(root)


def of_rows() -> dict[Any, Case]:
    s = scene(3)
    errors: dict[str, Any] = {"accuracy": 0.7, "share": 0.5, "soft": True, "seed": 1}
    kinds = (("difficulty", None), ("longest", None), ("class", 1), ("hardest", None))
    return {
        steps.load: lambda: steps.load(TaskSpec.parse("synthetic-gaussian(rows=40, dims=3, teacher_width=2)"), CPU),
        steps.texts: lambda: steps.texts(s.pool),
        steps.split: lambda: [
            steps.split(s.pool, sizes, seed=1)
            for sizes in (
                Sizes(),
                Sizes(test=12, validation=0.2),
                Sizes(balance=False),
                Sizes(balance=False, own_labels=True, folds=3, fold=1),
            )
        ],
        steps.gold: lambda: steps.gold(s.pool, s.split, ("A", "T")),
        steps.weak_column: lambda: steps.weak_column(s.pool, s.split, ("B",)),
        steps.second_column: lambda: steps.second_column(s.pool, s.split, ("B",)),
        steps.pooled: lambda: steps.pooled((s.weak, s.votes[1]), (s.split, Split(parts={"T": s.split.parts["A"]}))),
        steps.keep: lambda: steps.keep(s.split, s.weak.take(s.weak.ids[::2])),
        steps.seal: lambda: [steps.seal(s.pool, balance) for balance in (True, False)],
        steps.split_unsealed: lambda: steps.split_unsealed(s.pool, steps.seal(s.pool, True), Sizes(), seed=3),
        steps.open_sealed: lambda: steps.open_sealed(
            steps.split_unsealed(s.pool, steps.seal(s.pool, True), Sizes(), seed=3), steps.seal(s.pool, True)
        ),
        steps.keep_judged: lambda: steps.keep_judged(s.split, s.weak.take(s.weak.ids[::2])),
        chains.share_of_b: lambda: chains.share_of_b(s.pool, s.split, shares=2, number=1),
        chains.some_of_a: lambda: chains.some_of_a(s.split, share=0.4, seed=2),
        one_rating: lambda: one_rating(s.pool, s.split, PARTS, number=1),
        inject_errors: lambda: [
            inject_errors(s.pool, s.split, PARTS, kind=kind, of_class=c, belief=s.weak, **errors) for kind, c in kinds
        ],
        linear_errors: lambda: linear_errors(s.pool, s.split, PARTS, s.features, probe(3), **errors),
        prompts.state: lambda: prompts.state(s.pool, "{label} says {text}", ()),
        steps.gold_answers: lambda: steps.gold_answers(s.pool, s.split, ("B",)),
        steps.shuffle_answers: lambda: steps.shuffle_answers(steps.gold_answers(s.pool, s.split, ("B",)), seed=1),
    }


def of_labels() -> dict[Any, Case]:
    s = scene(3)
    own, b = s.gold.take(s.split.parts["A"]), [v.take(s.split.parts["B"]) for v in s.votes]
    on_a, held_out = (tuple(v.take(s.split.parts[part]) for v in s.votes) for part in ("A", "A_val"))
    given: dict[str, Any] = {"split": s.split, "seed": 4}
    fitted = tuple(
        SimpleNamespace(name=name, best_epoch=0, history=[{"agreement": a, "xent": x}])
        for name, a, x in (("low", 0.7, 0.4), ("far", 0.8, 0.5), ("near", 0.8, 0.45))
    )
    return {
        steps.relabel: lambda: steps.relabel(s.weak, s.split, Halves(), s.features, "mean", s.gold, seed=7),
        steps.judged_by: lambda: steps.judged_by(s.weak, s.votes[1], s.split, "B"),
        steps.combine: lambda: steps.combine(s.votes, labels.MeanVote()),
        steps.shuffle: lambda: steps.shuffle(s.weak, seed=2),
        chains.as_accurate: lambda: chains.as_accurate(s.gold, held_out[2], held_out[:2], tuple(b[:2])),
        prompts.draw_shots: lambda: prompts.draw_shots(s.weak, s.split, "B", count=5, seed=1),
        ensembles.draw: lambda: ensembles.draw(s.gold, **given),
        ensembles.draw_hard: lambda: ensembles.draw_hard(s.gold, answers=on_a[:2], **given),
        ensembles.boost: lambda: [ensembles.boost(own, on_a, s.votes, hard) for hard in (False, True)],
        ensembles.assign: lambda: [ensembles.assign(b[2], tuple(b[:2]), consistent) for consistent in (False, True)],
        ensembles.unanimous: lambda: ensembles.unanimous(s.votes),
        ensembles.trusted: lambda: ensembles.trusted(b[2], s.votes, temperature=0.3),
        selection.rows_of_other_folds: lambda: selection.rows_of_other_folds(s.gold, folds=3, number=1, **given),
        selection.out_of_fold: lambda: selection.out_of_fold(s.gold, answers=on_a, folds=3, **given),
        training.best_probe: lambda: training.best_probe(fitted).name,
    }


def of_scores() -> dict[Any, Case]:
    s = scene(3)
    halves = np.array_split(s.gold.ids, 2)
    truth = tuple(s.gold.take(ids) for ids in halves)
    weak, student, ceiling = ((v, v) for v in (s.votes[1], s.votes[2], s.votes[0]))
    few = tuple(s.votes[1].take(ids[::2]) for ids in halves)
    splits = ((s.split,), (s.split,))
    roles: dict[str, Any] = {"truth": truth, "weak": weak, "seeds": (0, 1)}

    def written(given: tuple[Labels, ...]) -> tuple[Answers, ...]:
        named = [(v.ids, tuple(s.pool.classes[c] for c in v.hard)) for v in given]
        return tuple(Answers(ids=ids, texts=texts, source="written") for ids, texts in named)

    answers: dict[str, Any] = {
        "truth": written(truth),
        "weak": written(weak),
        "student": written(student),
        "splits": splits,
        "seeds": (0, 1),
    }
    return {
        steps.compare: lambda: [
            steps.compare(s.pool, student=student, ceiling=limit, splits=splits, **given)
            for limit, given in (
                (ceiling, roles),
                ((), roles),
                ((), roles | {"truth": ()}),
                ((), roles | {"weak": few}),
                ((), roles | {"validation": few}),
            )
        ],
        steps.contrast: lambda: steps.contrast(
            s.pool, reference=student, students=(weak, ceiling), ceilings=(ceiling,), ceiling_of=(0, 0), **roles
        ),
        steps.against_controls: lambda: steps.against_controls(
            s.pool, truth, student, controls=(weak, ceiling), names=("weak", "ceiling")
        ),
        steps.shift: lambda: steps.shift(s.pool, s.features, "mean", s.split, s.weak.take(s.split.parts["A"]), s.weak),
        steps.forecast: lambda: steps.forecast(
            student,
            weak,
            weak_a=student,
            gold_a=(s.gold, s.gold),
            shifts=({}, {}),
            features=s.features,
            view="mean",
            second=ceiling,
            second_a=weak,
            third=weak,
            other=student,
        ),
        steps.weak_agreement: lambda: steps.weak_agreement(s.votes[1], s.weak, s.split, "B"),
        steps.compare_answers: lambda: steps.compare_answers(s.pool, ceiling=written(ceiling), **answers),
    }


def of_features() -> dict[Any, Case]:
    s = scene(3)
    given: dict[str, Any] = {"features": s.features, "labels": s.weak, "split": s.split}
    search: dict[str, Any] = {"restarts": 2, "updates": 20, "lr": 0.02, "decay": 0.01, "seed": 1}
    kept: dict[str, dict[str, Any]] = {"mean": {"share": 0.5, "l2": 0.1}, "last_token": {"share": 0.3, "l2": 1.0}}
    narrow = Features(ids=s.features.ids, views={"mean": s.features.views["mean"][:, :1]})
    clusters: dict[str, Any] = {"features": s.features, "gold": s.gold, "split": s.split, "size": 2, "seed": 1}
    return {
        steps.cluster: lambda: [steps.cluster(**given, view=view, seed=1) for view in ("mean", "last_token")],
        prompts.search_consistent: lambda: prompts.search_consistent(**given, view="last_token", **search),
        prompts.top_component: lambda: prompts.top_component(**given, view="last_token"),
        ensembles.cluster_of_a: lambda: [
            ensembles.cluster_of_a(**clusters, view=view, number=1) for view in ("mean", "last_token")
        ],
        steps.predict_probe: lambda: steps.predict_probe(probe(3), s.features, s.split, ("T",)),
        selection.trusted_rows: lambda: [
            selection.trusted_rows(view=view, gold=s.gold, held_out=s.votes[1].take(s.split.parts["A"]), **given, **own)
            for view, own in kept.items()
        ],
        selection.projected_rows: lambda: selection.projected_rows(
            view="mean", weak_features=narrow, weak_view="mean", share=0.5, reg=0.1, folds=3, seed=1, **given
        ),
    }


def of_heads() -> dict[Any, Case]:
    s = scene(3)
    given: dict[str, Any] = {"features": s.features, "labels": s.weak, "split": s.split, "part": "B"}
    rows: dict[str, Any] = {
        "features": s.features,
        "rows": s.weak.take(s.split.parts["A"][[0, 1, 1, *range(2, 20)]]),
        "labels": s.gold,
        "part": "A",
    }
    clouds: dict[str, Any] = {"components": 4, "shrinkage": 0.3, "anchor": 1.0, "rounds": 5}
    two = np.full(6, 2, dtype=np.float32)
    settings = Probe(view="mean", epochs=3, batch_size=8, lr=0.02)
    fits = [(loss, settings) for loss in (Plain(), Squared(), Holding())]
    fits.append((Plain(), Probe(view="last_token", epochs=3, batch_size=8, lr=0.02, l2=0.1, early_stopping=False)))
    exact = [Logistic(view=view) for view in ("mean", "last_token")]
    return {
        steps.fit_probe: lambda: [
            *(steps.fit_probe(**given, loss=loss, probe=p, seed=2, runtime=CPU) for loss, p in fits),
            steps.fit_probe(**rows, split=s.split, loss=Plain(), probe=settings, seed=2, runtime=CPU),
        ],
        steps.fit_cloud_head: lambda: [
            steps.fit_cloud_head(**given, view=view, shares=shares, runtime=CPU, **clouds)
            for view, shares in (("mean", "weak"), ("mean", "none"), ("last_token", "none"))
        ],
        steps.blend_heads: lambda: [
            steps.blend_heads(
                (probe(3), replace(probe(3), scale=two, bias=two[:3])), (1.0, 0.5), **given, shares=shares
            )
            for shares in ("weak", "none", {"shares": "weak", "rows": 30}, {"shares": "none", "rows": 30})
        ],
        steps.match_shares: lambda: [
            steps.match_shares(probe(3), s.votes[1], s.weak, s.split, "B", shares)
            for shares in ("weak", "uniform", (0.2, 0.3, 0.5), {"shares": "weak", "rows": 30})
        ],
        steps.guard_shares: lambda: [
            steps.guard_shares(s.weak, s.split, CPU, held_out=told, gold=s.gold)
            for told in (None, s.votes[2].take(s.split.parts["A_val"]))
        ],
        steps.fit_logistic: lambda: [
            *(steps.fit_logistic(**given, logistic=which, runtime=CPU) for which in exact),
            steps.fit_logistic(**rows, split=s.split, logistic=exact[0], runtime=CPU),
        ],
    }


def of_nested() -> dict[Any, Case]:
    s = scene(2)
    texts = replace(s.choices, inputs=tuple((f"{row[0]} {row[1]}", str(row[1])) for row in s.choices.readings))
    units = nested.take_units(texts, unit="words")
    rng = np.random.default_rng(6)
    alone = rng.normal(size=(len(units), 6)).astype(np.float32)
    read = Features(ids=units.ids, views={"last_token": alone})
    zero = np.zeros(1, dtype=np.float32)
    weights = rng.normal(size=(4, 6, 1)).astype(np.float32)
    critics = tuple(replace(probe(2), view="last_token", weight=w, bias=zero) for w in weights)
    shared: dict[str, Any] = {"texts": texts, "split": s.split, "seed": 1}
    weighed = nested.weigh(units_read=read, candidates_read=s.features, critics=critics, part="A", **shared)

    def quoted(argues: tuple[str, str]) -> Examples:
        given: dict[str, Any] = {"units": units, "weighed": weighed, "unit": "words", "quotes": 2, "level": 1}
        return nested.quote(argues=argues, **shared, **given)

    honest = quoted(("honest", "honest"))
    passages = replace(s.pool, inputs=tuple(f"Question: {t}?\nText: {t}" for t in s.pool.texts))
    return {
        nested.take_units: lambda: [nested.take_units(texts, unit=unit) for unit in ("words", "sentences")],
        nested.leave_out: lambda: nested.leave_out(labels=s.weak, part="A", fold=1, folds=3, **shared),
        nested.weigh: lambda: weighed,
        nested.quote: lambda: [quoted(argues) for argues in (*nested.CRITIQUES.values(), ("honest", "0"))],
        nested.beside: lambda: nested.beside(s.features, s.features, view="last_token"),
        nested.admission: lambda: nested.admission(
            judge=s.features, judges=critics[:3], critique=honest, gold=s.gold, **shared
        ),
        nested.supervise: lambda: nested.supervise(s.weak, (), CPU),
        statements.unread: lambda: statements.unread(passages),
    }


def of_protocols() -> dict[Any, Case]:
    s = scene(3)
    units = evidence.distinct_units(s.pool, "word")
    rng = np.random.default_rng(0)
    read = Features(ids=units.ids, views={"mean": rng.normal(size=(len(units), 6)).astype(np.float32)})
    gray = Features(ids=s.pool.ids, views={"mean": rng.random((len(s.pool), 16)).astype(np.float32)})
    shown = replace(s.pool, inputs=(b"",) * len(s.pool))
    words: dict[str, Any] = {"texts": s.pool, "features": read, "view": "mean", "unit": "word", "grid": 2}
    cells: dict[str, Any] = {"texts": shown, "features": gray, "view": "mean", "unit": "cell", "grid": 2}
    sides = evidence.assign_sides(s.weak, "coin", seed=1)
    given: dict[str, Any] = {"split": s.split, "parts": PARTS, "k": 2, "seed": 1}
    argued: dict[str, Any] = {**given, "sides": sides, "judge": probe(3)}
    hard = bands.difficulty(s.pool)
    said = s.votes[1].take(s.split.parts["B"])

    return {
        base.share_out: lambda: base.share_out(s.pool, s.split, ("judge", "agents"), seed=1),
        evidence.distinct_units: lambda: evidence.distinct_units(s.pool, "word"),
        evidence.assign_sides: lambda: [evidence.assign_sides(s.weak, side, seed=1) for side in evidence.SIDES],
        evidence.play: lambda: [
            evidence.play(**words, agents=0, draw=2, **given),
            *(evidence.play(**words, agents=n, moves=q, **argued) for n, q in ((1, None), (2, None), (2, 3))),
        ],
        evidence.show: lambda: [
            evidence.show(**words, runtime=CPU),
            evidence.show(**words, shown=evidence.play(**words, agents=0, **given), runtime=CPU),
            evidence.show(**cells, shown=evidence.play(**cells, agents=0, **given), runtime=CPU),
        ],
        bands.difficulty: lambda: bands.difficulty(s.pool),
        bands.cut_bands: lambda: [bands.cut_bands(hard, s.split, 3, mixed) for mixed in (False, True)],
        bands.add_sure: lambda: bands.add_sure(s.gold.take(s.split.parts["A"]), said, keep=0.4),
    }


def of_models(root: Path) -> dict[Any, Case]:
    return {**of_reading(root), **of_prompting(root), **of_finetuning(root), **of_writing(root)}


def of_reading(root: Path) -> dict[Any, Case]:
    s = scene(3)
    few = s.pool.take(s.pool.ids[:8])
    vectors = steps.load(TaskSpec.parse("synthetic-gaussian(rows=40, dims=3)"), CPU)
    shown = Examples(ids=few.ids[:2], inputs=(_png(1), _png(2)), gold=None, classes=few.classes, groups=few.ids[:2])
    cases: list[tuple[Any, Examples, int | None]] = [
        (model(root, "bert"), few, 4),
        (model(root, "gpt2"), s.choices.take(s.pool.ids[:8]), 16),
        (ModelSpec.parse("vectors(dims=2)"), vectors, None),
        (ModelSpec.parse("random-features(width=5, seed=1)"), vectors, None),
        (ModelSpec.parse("pixels(size=4)"), shown, None),
    ]
    return {
        steps.embed: lambda: [steps.embed(of, texts, cut, CPU) for of, texts, cut in cases],
        steps.ask: lambda: [
            steps.ask(model(root, "llama"), texts, question, 12, False, CPU)
            for texts, question in (
                (few, Question(template="w1 {text} w2 {classes} w3", words=("no", "yes", "good"))),
                (cases[1][1], Question(words=("no", "yes"))),
            )
        ],
        steps.measure_asking: lambda: [
            steps.measure_asking(model(root, "llama"), few, Question(template="w1 {text} w2"), most, CPU)
            for most in (5, 9)
        ],
        steps.measure_reading: lambda: [
            steps.measure_reading(of, texts, cut, CPU, kept)
            for of, texts, cut in cases[:2]
            for kept in ("first", "plain", "last")
        ],
    }


def _png(seed: int) -> bytes:
    from io import BytesIO

    from PIL import Image

    file = BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(256, size=(8, 12, 3), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


def of_prompting(root: Path) -> dict[Any, Case]:
    s = scene(3)
    given: dict[str, Any] = {"model": model(root, "llama"), "split": s.split, "runtime": CPU}
    asked: dict[str, Any] = {"prompt": "{text} yes {label}", "words": (), "max_tokens": 3}
    shots = Labels.from_classes(s.split.parts["A"][:2], np.array([0, 2]), 3, "shots")
    search = coherence.ICM(rows=5, context=2, updates=5, first=2)
    found = Labels.from_classes(s.split.parts["B"][:6], np.arange(6) % 3, 3, "icm")
    return {
        prompts.answer_prompts: lambda: [
            prompts.answer_prompts(**given, texts=s.pool, parts=("T",), shots=few, calibrated=calibrated, **asked)
            for few, calibrated in ((None, True), (shots, False))
        ],
        prompts.answer_asked: lambda: [
            prompts.answer_asked(_asked(s.pool.ids, each), s.split, ("T",), how)
            for each in ((3,), (3, 2))
            for how in ("", "empty", "batch")
        ],
        coherence.search_coherent: lambda: [
            coherence.search_coherent(**given, texts=texts, search=search, seed=1) for texts in (s.pool, s.choices)
        ],
        coherence.tell_by_coherent: lambda: coherence.tell_by_coherent(
            **given, texts=s.pool, found=found, search=search, seed=1
        ),
        statements.argue_in_writing: lambda: statements.argue_in_writing(
            **given, texts=s.pool, part="T", first=1, rows=3, max_tokens=3, max_answer=4
        ),
    }


def _asked(ids: Any, shape: tuple[int, ...]) -> Features:
    """Log probabilities of words as a pass over a model would give them."""
    rng = np.random.default_rng(0)
    logs = {name: rng.normal(size=(len(ids), *shape)).astype(np.float32) for name in ("words", "words_calibrated")}
    return Features(ids=ids, views=logs)


def of_finetuning(root: Path) -> dict[Any, Case]:
    s = scene(3)
    split = Split(parts={name: ids[:9] for name, ids in s.split.parts.items()})
    settings = Finetune(epochs=2, batch_size=4, lr=0.01, max_tokens=8, checks=2)
    of: dict[str, Any] = {"model": model(root, "bert"), "texts": s.pool}
    writer = model(root, "llama")
    given: dict[str, Any] = {
        "labels": s.weak,
        "split": split,
        "part": "B",
        "loss": Plain(),
        "seed": 1,
        "runtime": CPU,
        "settings": settings,
    }
    features = Features(ids=s.pool.ids, views={v: np.tile(s.features.views["mean"], (1, 3))[:, :16] for v in VIEWS})
    ways: list[dict[str, Any]] = [
        {},
        {"rows": s.weak.take(split.parts["B"][[0, 0, 1, 2, 3]])},
        {"anchor": 0.5},
        {"start": training.probe_heads(features, s.weak, split, "B", 0.1)},
        {"loss": Squared()},
        {"loss": Holding()},
        {"texts": s.choices, "model": model(root, "gpt2")},
        {"settings": Finetune(epochs=1, batch_size=4, lr=0.01, lora=2, optimizer="adafactor", schedule="cosine")},
        {"model": writer, "start": GenerativeModel(state=_weights(writer), settings=Generate(), history=())},
    ]
    return {
        steps.finetune: lambda: [_head(steps.finetune(**of | given | way)) for way in ways],
        steps.predict_finetuned: lambda: steps.predict_finetuned(
            _untrained(of["model"], settings), **of, split=split, parts=("T",), runtime=CPU
        ),
        training.probe_heads: lambda: training.probe_heads(features, s.weak, split, "B", 0.1).heads,
    }


def _untrained(spec: ModelSpec, settings: Finetune) -> Any:
    from outgrow.train.model import FinetunedModel, build, get_trained

    state = get_trained(build(spec.folder(CPU), settings, 3, seed=0))
    state["head.weight"] = torch.from_numpy(np.random.default_rng(0).normal(size=(3, 16)).astype(np.float32))
    return FinetunedModel(state=state, settings=settings, num_classes=3, history=())


def _head(fitted: Any) -> Any:
    """What came out on top: weights further down may turn the other way where a gradient is next to nothing."""
    return {"head": fitted.state["head.weight"], "history": fitted.history}


def of_writing(root: Path) -> dict[Any, Case]:
    s = scene(3)
    split = Split(parts={name: ids[:9] for name, ids in s.split.parts.items()})
    of: dict[str, Any] = {"model": model(root, "llama"), "texts": s.pool}
    settings = Generate(epochs=2, batch_size=4, lr=0.01, max_tokens=16, max_answer=3)
    read = Generate(epochs=1, batch_size=4, lr=0.01, max_tokens=8, max_answer=7)
    answers = steps.gold_answers(s.pool, split, ("B", "B_val"))
    untrained = SimpleNamespace(state=_weights(of["model"]), settings=settings)
    return {
        steps.finetune_lm: lambda: [
            steps.finetune_lm(**of, answers=given, split=split, part="B", settings=how, seed=1, runtime=CPU).history
            for given, how in ((answers, settings), (None, read))
        ],
        steps.decode: lambda: steps.decode(untrained, **of, split=split, parts=("T",), runtime=CPU),
    }


def _weights(spec: ModelSpec) -> Mapping[str, Tensor]:
    from outgrow.models.transformer import load_language_model
    from outgrow.train.model import get_trained

    return get_trained(load_language_model(spec.folder(CPU)))


# --- how it is pinned -------------------------------------------------------------------------------------------------


def pins(root: Path) -> dict[str, Case]:
    """Everything that is pinned, under its name and version."""
    of_class, of_step = cases_of_classes(), cases_of_steps(root)
    classes = {f"{title}@{cls.version}": of_class[title] for title, cls in registered().items()}
    marked = {fn: graph._FUNCTIONS[fn] for fn in of_step}
    return classes | {f"step {marked[fn].name}@{marked[fn].version}": case for fn, case in of_step.items()}


def summary(value: Any, name: str = "") -> dict[str, Any]:
    """A few numbers of every array in ``value``, by name: how many it has, their root mean square, their mean, a sum in
    which places matter, and the first four; a number alone stands for itself.

    Of texts: how many, the first two, and a digest of all.
    """
    match value:
        case Labels():
            return summary({"ids": value.ids, "probs": value.probs}, name)
        case Split():
            return summary(value.parts, name)
        case Examples():
            gold = {} if value.gold is None else {"gold": value.gold}
            inputs = [str(i) for i in value.inputs]
            return summary({"ids": value.ids, "inputs": inputs, "groups": value.groups, **gold, **value.meta}, name)
        case Features():
            return summary(value.views, name)
        case Answers():
            return summary({"ids": value.ids, "texts": list(value.texts)}, name)
        case FittedProbe():
            seen = [{k: v for k, v in entry.items() if k != "gradient"} for entry in value.history]  # that is rounding
            return summary({"weight": value.weight, "bias": value.bias, "history": seen}, name)
        case Tensor():
            return summary(value.detach().numpy(), name)
        case Mapping():
            return {k: v for key, part in value.items() for k, v in summary(part, f"{name} {key}".strip()).items()}
    array = np.asarray(value) if not isinstance(value, list | tuple) or _is_flat(value) else None
    if array is None:
        return {k: v for i, part in enumerate(value) for k, v in summary(part, f"{name} {i}".strip()).items()}
    if array.dtype.kind not in "bif":
        texts = [str(text) for text in array.ravel().tolist()]
        return {name: [len(texts), *texts[:2], hashlib.sha256("\n".join(texts).encode()).hexdigest()[:12]]}
    flat = array.ravel().astype(np.float64)
    numbers = flat.tolist()
    if len(flat) != 1:
        placed = float(flat @ np.cos(np.arange(len(flat)))) / max(1, len(flat))
        numbers = [_size(flat), flat.mean() if len(flat) else 0.0, placed, *flat[:4]]
    return {name: [len(flat), *(float(f"{number:.7g}") for number in numbers)]}


def _is_flat(values: Any) -> bool:
    return all(isinstance(v, int | float | str) for v in values)


def _size(flat: Any) -> float:
    return float(np.sqrt(np.mean(np.square(flat)))) if len(flat) else 0.0


def differences(title: str, pinned: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """A line for every part of a summary that is not what it was."""
    close = CLOSE[title.rpartition(" ")[0]]
    said = [f"  {name}: there is no such result any more" for name in pinned.keys() - found.keys()]
    said += [f"  {name}: is new" for name in found.keys() - pinned.keys()]
    for name in pinned.keys() & found.keys():
        before, now = pinned[name], found[name]
        numbers = all(isinstance(v, int | float) for v in (*before, *now)) and len(before) == len(now)
        if not (before == now or (numbers and np.allclose(before, now, rtol=0, atol=close * abs(before[1])))):
            said.append(f"  {name}: was {before}, is {now}")
    return sorted(said)


def check(title: str, case: Case, pinned: Mapping[str, Any]) -> None:
    """Fails unless the numbers are those pinned under this version."""
    name, _, version = title.rpartition("@")
    again = "then pin its numbers with: python tests/test_versions.py"
    assert title in pinned, f"{name} has nothing pinned for version {version}. If you raised it, {again[5:]}"
    moved = differences(title, pinned[title], summary(case()))
    assert not moved, "\n".join(
        [f"{name} gives other numbers under version {version}. Raise its version, {again}", *moved]
    )


# --- the tests --------------------------------------------------------------------------------------------------------

PINNED: dict[str, Any] = json.loads(GOLDEN.read_text(encoding="utf-8")) if GOLDEN.exists() else {}


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    return pins(tmp_path_factory.mktemp("versions"))


@pytest.mark.parametrize("kind", ["loss", "transform", "label model", "step"])
def test_numbers_change_with_their_version_only(kind: str, cases: dict[str, Case]) -> None:
    chosen = [title for title in cases if title.startswith(f"{kind} ")]
    assert len(chosen) >= 2
    failed = []
    for title in chosen:
        try:
            check(title, cases[title], PINNED)
        except AssertionError as error:
            failed.append(str(error))
    assert not failed, "\n".join(failed)


def test_everything_with_numbers_is_pinned(cases: dict[str, Case]) -> None:
    for module in pkgutil.walk_packages(outgrow.__path__, "outgrow."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    ours = {fn: f for fn, f in graph._FUNCTIONS.items() if is_inside(fn) and fn.__module__ in sys.modules}  # no doubles
    marked = {fn: f for fn, f in ours.items() if f.name not in UNPINNED}
    inside = {f"step {f.name}@{f.version}" for f in marked.values()}
    for kind, registry in REGISTRIES.items():
        if kind not in NO_NUMBERS:
            inside |= {f"{kind} {name}@{cls.version}" for name, cls in registry.items() if is_inside(cls)}
    assert inside == cases.keys()


def versioned(cases: Mapping[str, Case], name: str) -> str:
    return next(title for title in cases if title.startswith(f"{name}@"))


def _a_little_more(original: Any) -> Any:
    return lambda *given, **named: original(*given, **named) ** 1.1


MUTATIONS: dict[str, tuple[Any, str]] = {
    "loss GCE": (GCE, "__call__"),
    "loss LogConf": (LogConf, "weight"),
    "transform Smooth": (labels.neighbours, "smoothed"),
    "transform KNN": (labels.neighbours, "_around"),
    "label model MeanVote": (labels.latent, "_aligned"),
    "step compare": (importlib.import_module("outgrow.steps.compare"), "ece_floor"),
    "step search_consistent": (prompts, "_sigmoid"),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_changed_body_fails(name: str, cases: dict[str, Case], monkeypatch: pytest.MonkeyPatch) -> None:
    title = versioned(cases, name)
    check(title, cases[title], PINNED)
    owner, body = MUTATIONS[name]
    monkeypatch.setattr(owner, body, _a_little_more(getattr(owner, body)))
    with pytest.raises(AssertionError, match=rf"{name} gives other numbers under version \d+\. Raise") as error:
        check(title, cases[title], PINNED)
    assert ": was [" in str(error.value)


def test_a_raised_version_asks_to_be_pinned(cases: dict[str, Case]) -> None:
    with pytest.raises(AssertionError, match="loss GCE has nothing pinned for version 99"):
        check("loss GCE@99", cases[versioned(cases, "loss GCE")], PINNED)


def test_what_is_pinned_is_never_pinned_anew(cases: dict[str, Case]) -> None:
    before, changed = (cases[versioned(cases, f"loss {name}")] for name in ("GCE", "Xent"))
    first = pinned_with({"loss GCE@1": before}, {})
    assert pinned_with({"loss GCE@1": before}, first) == first
    with pytest.raises(SystemExit, match="loss GCE@1"):
        pinned_with({"loss GCE@1": changed}, first)
    assert pinned_with({"loss GCE@2": changed}, first).keys() == {"loss GCE@1", "loss GCE@2"}


# --- to pin -----------------------------------------------------------------------------------------------------------


def pinned_with(cases: Mapping[str, Case], pinned: Mapping[str, Any]) -> dict[str, Any]:
    """What is pinned with what is new; older versions of a name stay, a name that is gone does not."""
    found = {title: summary(case()) for title, case in cases.items()}
    moved = [title for title in found.keys() & pinned.keys() if differences(title, pinned[title], found[title])]
    if moved:
        sys.exit(f"not pinned: {', '.join(sorted(moved))} would change under its version; raise that first")
    names = {title.rpartition("@")[0] for title in cases}
    kept = {title: pin for title, pin in pinned.items() if title.rpartition("@")[0] in names}
    return dict(sorted({**found, **kept}.items()))


def main() -> None:
    """Pin what has no pin yet."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as root:
        made = pinned_with(pins(Path(root)), PINNED)
    lines = [f"{json.dumps(title)}: {json.dumps(pin)}" for title, pin in made.items()]
    GOLDEN.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    print(f"{len(made)} pinned, {len(made.keys() - PINNED.keys())} of them new")


if __name__ == "__main__":
    main()
