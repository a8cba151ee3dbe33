"""Strategies: how weak labels become a student. Each is wiring over the same steps, a few lines, no trainer of its own.

A strategy is a frozen dataclass that maps a :class:`Setup` to the step whose result is the student's predictions on T.
Register another with :func:`strategy`; its name and fields are then spelled the same in Python, YAML and CLI.
"""

from outgrow.strategies.base import (
    CONTROLS,
    FOR_ANSWERS,
    NESTED,
    STRATEGIES,
    TRAINERS,
    Clusters,
    Confidence,
    Engine,
    Naive,
    Setup,
    Shuffled,
    Strategy,
    Training,
    canonical_strategy,
    canonical_trainer,
    parse_strategy,
    parse_trainer,
    strategy,
)

__all__ = [
    "CONTROLS",
    "FOR_ANSWERS",
    "NESTED",
    "STRATEGIES",
    "TRAINERS",
    "Clusters",
    "Confidence",
    "Engine",
    "Naive",
    "Setup",
    "Shuffled",
    "Strategy",
    "Training",
    "canonical_strategy",
    "canonical_trainer",
    "parse_strategy",
    "parse_trainer",
    "strategy",
]
