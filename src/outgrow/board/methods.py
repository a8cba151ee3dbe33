"""The methods of a board: all there are, the settings that each can be tuned over, and short names."""

import re

from outgrow.registry import REGISTRIES
from outgrow.strategies import CONTROLS, STRATEGIES, VARIANTS, canonical_strategy

__all__ = ["ALL", "REFERENCE", "default_methods", "settings_of", "short_name"]

ALL = "all"
"""Stands for every method of the registries at its documented defaults."""
REFERENCE = "naive"
_FIXED = ("regularised(l2=(10.0,))",)
"""Settings that are neither defaults nor published variants: here, strong regularisation without a search."""

_GRIDS: dict[str, tuple[str, tuple[float, ...]]] = {
    "LogConf": ("alpha", (0.25, 0.5, 0.75)),
    "AdaptConf": ("temperature", (0.25, 0.5, 1.0)),
    "Product": ("beta", (0.5, 1.0, 2.0)),
    "Entropy": ("alpha", (0.25, 0.5, 0.75)),
    "Window": ("radius", (0.15, 0.25, 0.35)),
    "ReverseKL": ("eps", (0.01, 0.05, 0.1)),
    "ReverseXent": ("eps", (0.01, 0.05, 0.1)),
    "Symmetric": ("beta", (0.1, 0.5, 1.0)),
    "CACE": ("threshold", (0.05, 0.1, 0.2)),
    "GCE": ("q", (0.4, 0.7, 0.9)),
    "EDL": ("gamma", (0.25, 0.5, 0.75)),
    "ELR": ("strength", (1.0, 3.0, 7.0)),
    "AnchoredEM": ("anchor", (0.25, 0.5, 0.75)),
    "KNN": ("k", (10, 20, 50)),
    "KNNFilter": ("drop", (0.05, 0.1, 0.2)),
    "Smooth": ("alpha", (0.25, 0.5, 0.75)),
    "Temperature": ("t", (0.25, 0.5, 2.0)),
    "KeepConfident": ("share", (0.25, 0.5, 0.75)),
    "Reliability": ("strength", (0.25, 0.5, 1.0)),
    "LogisticRelabel": ("mix", (0.25, 0.5, 1.0)),
    "LogisticFilter": ("drop", (0.05, 0.1, 0.2)),
    "TwoStage": ("share", (0.25, 0.5, 0.75)),
    "Selective": ("threshold", (0.6, 0.7, 0.8)),
    "NoisyChannel": ("rounds", (1, 3, 5)),
    "auto": ("weight", (0.25, 0.5, 1.0)),
    "clouds": ("anchor", (0.5, 1.0, 2.0)),
    "trusted": ("share", (0.25, 0.5, 0.75)),
    "projected": ("share", (0.25, 0.5, 0.75)),
}
"""What ``tune`` chooses from: one option of a loss, transform or strategy, and its values."""


def default_methods() -> tuple[str, ...]:
    """Every method of the registries as a strategy: strategies, published variants, losses, transforms of labels."""
    listed = [
        *(name for name in STRATEGIES if name not in CONTROLS),
        *(spelling for _, _, spelling in VARIANTS),
        *_FIXED,
        *(f"naive(loss={name})" for name in REGISTRIES["loss"]),
        *(f"naive(transforms=({name},))" for name in REGISTRIES["transform"]),
    ]
    return tuple(dict.fromkeys(canonical_strategy(text) for text in listed))


def settings_of(method: str) -> tuple[str, ...]:
    """The settings that ``tune`` chooses from for a method at its defaults; the method alone if it has no grid."""
    if method == "confidence":
        return settings_of("confidence(loss=LogConf)")
    for name, (option, values) in _GRIDS.items():
        bare = re.compile(rf"\b{name}\b(?!\()")
        if bare.search(method):
            return tuple(canonical_strategy(bare.sub(f"{name}({option}={value})", method)) for value in values)
    return (method,)


def short_name(method: str) -> str:
    """``GCE`` for ``naive(loss=GCE)``, ``KNN(k=5)`` for ``naive(transforms=(KNN(k=5),))``; others as they are."""
    found = re.fullmatch(r"(?:naive|confidence)\((?:loss=|transforms=\()(\w+(?:\([^()]*\))?)(?:,\))?\)", method)
    return found.group(1) if found else method
