"""Strategies: how weak labels become a student. Each is wiring over the same steps, a few lines, no trainer of its own.

A strategy is a frozen dataclass that maps a :class:`Setup` to the step whose result is the student's predictions on T.
Register another with :func:`strategy`; its name and fields are then spelled the same in Python, YAML and CLI.
"""

from outgrow.strategies.base import (
    CONTROLS,
    STRATEGIES,
    TRAINERS,
    Clusters,
    Confidence,
    Learner,
    Naive,
    Setup,
    Shuffled,
    Strategy,
    TrainingMethod,
    canonical_strategy,
    canonical_trainer,
    parse_strategy,
    parse_trainer,
    strategy,
)
from outgrow.strategies.chains import Bootstrap, Direct, GoldMatched, Refinement
from outgrow.strategies.coherence import ICM
from outgrow.strategies.ensembles import Boosted, CoSupervised, Ensemble, Raven
from outgrow.strategies.prompts import CCS, CRC, FewShot, ZeroShot
from outgrow.strategies.training import LPFT, Anchored, Generative, Oracle, Regularised

__all__ = [
    "CCS",
    "CONTROLS",
    "CRC",
    "FOR_ANSWERS",
    "ICM",
    "LPFT",
    "STRATEGIES",
    "TRAINERS",
    "VARIANTS",
    "Anchored",
    "Boosted",
    "Bootstrap",
    "Clusters",
    "CoSupervised",
    "Confidence",
    "Direct",
    "Ensemble",
    "FewShot",
    "Generative",
    "GoldMatched",
    "Learner",
    "Naive",
    "Oracle",
    "Raven",
    "Refinement",
    "Regularised",
    "Setup",
    "Shuffled",
    "Strategy",
    "TrainingMethod",
    "ZeroShot",
    "canonical_strategy",
    "canonical_trainer",
    "parse_strategy",
    "parse_trainer",
    "strategy",
]

FOR_ANSWERS = (Naive, Shuffled, Bootstrap, Direct, Refinement)
"""Strategies that do as well with written answers; all others need class probabilities."""

VARIANTS = (
    (
        "Burns et al. 2023, largest students",
        "auxiliary confidence loss with α 0.75",
        "confidence(loss=LogConf(alpha=0.75))",
    ),
    (
        "openai/weak-to-strong, as released",
        "the same with α 0.5, a jump at 10 %, the threshold at the weak mean",
        "confidence(loss=LogConf(warmup=0.1, marginals='weak', schedule='released'))",
    ),
)
"""Further configurations of one method that a paper or its code used: paper, what, spelling."""
