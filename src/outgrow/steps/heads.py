"""Steps that make linear heads without gradients: clouds, class shares matched, several heads blended into one."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from outgrow.data import Features, Floats, Ints, Labels, Split, positions
from outgrow.engine.graph import step
from outgrow.labels.base import Doubles, wanted_shares
from outgrow.labels.latent import fit_clouds
from outgrow.labels.structure import principal_directions
from outgrow.runtime import Runtime
from outgrow.steps.fit import taught

__all__ = ["NOT_T", "Shares", "blend_heads", "fit_cloud_head", "guard_shares", "match_shares"]

NOT_T = ("A", "A_val", "B", "B_val")
"""Where class shares are counted and clouds are placed: all texts but those of the test."""
Shares = str | tuple[float, ...] | Mapping[str, Any]
"""``weak``, ``uniform``, ``none``, numbers, or what :func:`guard_shares` decided."""


_FAR = 0.1  # of the mean weak label from the shares of the weak classes, as half the summed difference
_OFF = 4.0  # times the squared distance that chance leaves between them and the truth on held-out rows


@step(version=1, said="check class shares")
def guard_shares(
    labels: Labels, split: Split, runtime: Runtime, held_out: Labels | None = None, gold: Labels | None = None
) -> dict[str, Any]:
    """Whether the mean weak label of B says how often the classes occur: ``shares`` is ``weak`` if so, else ``none``.

    Not if it lies more than .1 (half the summed difference) from the shares of the weak classes. Nor if, on the
    supervisor's held-out rows of A, its squared distance from the shares of the gold classes is above 4 times what
    chance leaves in so few rows. Where the supervisor is no model, there are no such rows to look at. A head is then
    matched only if its own shares lie further from the mean weak label than those of as many rows as B has would by
    chance: nearer ones are as good as it. The constants were fixed on development tasks (docs/log.md).

    Args:
        labels: of B; others are not read.
        split: says which rows are B.
        runtime: says it where shares are not matched.
        held_out: what the supervisor says of rows of A that it did not learn.
        gold: of those rows.
    """
    weak = labels.take(split.parts["B"])
    soft = weak.probs.mean(axis=0, dtype=np.float64)
    hard = np.bincount(weak.hard, minlength=len(soft)) / len(weak)
    found: dict[str, Any] = {"rows": len(weak), "weak": soft.tolist(), "weak_classes": hard.tolist(), "shares": "weak"}
    found["distance"] = float(np.abs(soft - hard).sum() / 2)
    if found["distance"] > _FAR:
        found["why"] = f"the mean weak label and the shares of the weak classes are {found['distance']:.2f} apart"
    elif held_out is not None and gold is not None and len(held_out) > 1:
        off = gold.take(held_out.ids).probs.astype(np.float64) - held_out.probs
        found["off"] = float(len(off) * np.square(off.mean(axis=0)).sum() / max(off.var(axis=0).sum(), 1e-9))
        if found["off"] > _OFF:
            found["why"] = (
                f"on {len(off)} held-out rows of A the supervisor's mean label is {found['off']:.1f} times as far from "
                "the truth, squared, as chance leaves it"
            )
    if "why" in found:
        found["shares"] = "none"
        runtime.say(f"class shares are not matched: {found['why']}")
    return found


def _wanted(shares: Shares, probs: Floats, what: str) -> Doubles | None:
    return wanted_shares(shares["shares"] if isinstance(shares, Mapping) else shares, probs, what)


def _offsets(logits: Doubles, wanted: Doubles | None, shares: Shares) -> Doubles:
    """What to add to the logits (n, C) so that classes occur as often on these rows as is ``wanted`` (C,)."""
    import torch

    from outgrow.losses import offsets

    if wanted is None:
        return np.zeros(logits.shape[1])
    if isinstance(shares, Mapping):
        own = np.bincount(logits.argmax(axis=1), minlength=len(wanted)) / len(logits)
        if np.square(own - wanted).sum() <= (wanted * (1 - wanted)).sum() / shares["rows"]:
            return np.zeros(len(wanted))
    return np.asarray(offsets(torch.from_numpy(logits), torch.from_numpy(wanted)).numpy())


@step(version=1, said="match class shares")
def match_shares(
    fitted: Any, said: Labels, labels: Labels, split: Split, part: str, shares: Shares, rows: Labels | None = None
) -> Any:
    """A trained model whose logits are shifted, by one number for each class, until its classes occur as often on the
    rows of ``said``, its predictions, as ``shares`` says. ``weak`` is the mean of the labels it was trained on."""
    wanted = _wanted(shares, taught(labels, split, part, rows)[0].probs, "the trainer")
    if wanted is None:
        return fitted
    return fitted.shifted(_offsets(np.log(np.maximum(said.probs.astype(np.float64), 1e-300)), wanted, shares))


class _Basis(NamedTuple):
    """Standardized texts on their principal components."""

    center: Floats
    scale: Floats
    axes: Doubles
    """(d, k)"""
    points: Doubles
    """(N, k), or (N, C, k) candidates, less the mean of their row."""


def _basis(matrix: Floats, rows: Ints, components: int) -> _Basis:
    from outgrow.models.probe import moments

    center, scale = moments(matrix, rows)
    standard = (matrix[rows].astype(np.float64) - center) / scale
    if standard.ndim == 3:
        standard -= standard.mean(axis=1, keepdims=True)
    flat = standard.reshape(-1, matrix.shape[-1])
    axes = principal_directions(flat, min(components, len(flat) - 1))
    return _Basis(center, scale, axes, standard @ axes)


def _fit_cloud_heads(arguments: Sequence[Mapping[str, Any]], runtime: Runtime) -> list[Any]:
    """All clouds on the same features; those on the same texts share the principal components."""
    from threadpoolctl import threadpool_limits

    known: dict[Any, _Basis] = {}
    with threadpool_limits(limits=1):  # sums in one order, the same bits
        return [_fit_cloud_head(a, known) for a in arguments]


def _fit_cloud_head(a: Mapping[str, Any], known: dict[Any, _Basis]) -> Any:
    from outgrow.models.probe import FittedProbe

    train, _ = taught(a["labels"], a["split"], a["part"], a.get("rows"))
    texts = a["split"].ids(NOT_T)
    order = np.concatenate([train.ids, texts[~np.isin(texts, train.ids)]])
    view, features = a["view"], a["features"]
    places, matrix = positions(order, features.ids), features.views[view]
    which = (view, a["components"], places.tobytes())
    if which not in known:
        known[which] = _basis(matrix, places, a["components"])
    basis = known[which]
    wanted = None if matrix.ndim == 3 else _wanted(a["shares"], train.probs, "clouds")
    found = fit_clouds(basis.points, train.probs, a["anchor"], a["shrinkage"], a["rounds"], wanted)
    return FittedProbe(
        view=view,
        weight=(basis.axes @ found.weight).astype(np.float32),
        bias=found.bias.astype(np.float32),
        center=basis.center,
        scale=basis.scale,
        history=(),
        best_epoch=0,
    )


@step(version=1, many=_fit_cloud_heads, together=("features",), said="fit clouds")
def fit_cloud_head(
    features: Features,
    labels: Labels,
    split: Split,
    part: str,
    view: str,
    components: int,
    shrinkage: float,
    anchor: float,
    rounds: int,
    shares: Shares,
    runtime: Runtime,
    rows: Labels | None = None,
) -> Any:
    """The linear discriminant of :func:`outgrow.labels.latent.fit_clouds`: labels of ``part``, texts of all but T."""
    arguments = {k: v for k, v in locals().items() if k != "runtime"}
    return _fit_cloud_heads([arguments], runtime)[0]


@step(version=1, said="blend heads")
def blend_heads(
    heads: tuple[Any, ...],
    weights: tuple[float, ...],
    features: Features,
    labels: Labels,
    split: Split,
    part: str,
    shares: Shares,
    rows: Labels | None = None,
) -> Any:
    """One head whose logits are the weighted sum of those of several, on the first one's view.

    Each is first shifted until its class shares on all texts but T's are as ``shares`` says, and scaled there to a mean
    absolute logit of 1, logits taken less their mean over the classes.
    """
    first, matrix = heads[0], features.views[heads[0].view]
    texts = matrix[positions(split.ids(NOT_T), features.ids)]
    wanted = None if matrix.ndim == 3 else _wanted(shares, taught(labels, split, part, rows)[0].probs, "the blend")
    weight, bias = np.zeros(first.weight.shape), np.zeros(first.bias.shape)
    for head, share in zip(heads, weights, strict=True):
        logits = head.logits(texts)
        added = _offsets(logits, wanted, shares)
        logits += added
        size = np.abs(logits - logits.mean(axis=1, keepdims=True)).mean() + 1e-9
        slope = head.weight.astype(np.float64) / head.scale[:, None]
        start = head.bias + (0.0 if matrix.ndim == 3 else added)
        weight += share / size * slope * first.scale[:, None]
        bias += share / size * (start + (first.center.astype(np.float64) - head.center) @ slope)
    return replace(first, weight=weight.astype(np.float32), bias=bias.astype(np.float32), history=(), best_epoch=0)
