"""Strategies and trainers: how weak labels become a student, and how a model learns labels.

A strategy is wiring over the same steps, a few lines: a frozen dataclass that maps a :class:`Setup` to the step whose
result is the student's predictions on T. Register another with :func:`strategy`, another trainer with :func:`trainer`;
their names and fields are then spelled the same in Python, YAML and on the command line.
"""

from outgrow.strategies.base import (
    CONTROLS,
    STRATEGIES,
    Clusters,
    Confidence,
    GoldOnly,
    Naive,
    Setup,
    Shuffled,
    Strategy,
    canonical_strategy,
    is_control,
    parse_strategy,
    strategy,
)
from outgrow.strategies.chains import Bootstrap, Direct, GoldMatched, Refine
from outgrow.strategies.clouds import Auto, CloudDiscriminant
from outgrow.strategies.coherence import ICM
from outgrow.strategies.ensembles import Boosted, CoSupervised, Ensemble, Raven
from outgrow.strategies.prompts import CCS, CRC, FewShot, ZeroShot
from outgrow.strategies.selection import Projected, Trusted
from outgrow.strategies.trainers import (
    TRAINERS,
    FitRequest,
    Learner,
    Trainer,
    TrainingMethod,
    parse_trainer,
    trainer,
)
from outgrow.strategies.training import LPFT, Anchored, GenerativeFinetuning, Oracle, Regularised

__all__ = [
    "CCS", "CONTROLS", "CRC", "ICM", "LPFT", "STRATEGIES", "TRAINERS", "VARIANTS", "Anchored", "Auto", "Boosted",
    "Bootstrap", "CloudDiscriminant", "Clusters", "CoSupervised", "Confidence", "Direct", "Ensemble", "FewShot",
    "FitRequest", "GenerativeFinetuning", "GoldMatched", "GoldOnly", "Learner", "Naive", "Oracle", "Projected", "Raven",
    "Refine", "Regularised", "Setup", "Shuffled", "Strategy", "Trainer", "TrainingMethod", "Trusted", "ZeroShot",
    "canonical_strategy", "is_control", "parse_strategy", "parse_trainer", "strategy", "trainer",
]  # fmt: skip

VARIANTS = (  # paper, what, spelling
    ("Burns et al. 2023, largest students", "auxiliary confidence loss with α 0.75",
     "confidence(loss=LogConf(alpha=0.75))"),
    ("openai/weak-to-strong, as released", "the same with α 0.5, a jump at 10 %, the threshold at the weak mean",
     "confidence(loss=LogConf(warmup=0.1, schedule='released'))"),
    ("Liu et al. 2026 (arXiv 2509.24005), Enhanced-W2S", "by its summary: retrain on the half of B that the student is "
     "surest of, with generalized cross-entropy; here from the start, and with the student's labels",
     "refine(keep=0.5, loss=GCE)"),
    ("ridge linear discriminant (Friedman 1989)", "the clouds of the soft weak labels, without EM and further texts",
     "clouds(rounds=0)"),
    ("Outgrow, the regression of auto alone", "exact logistic regression of the soft weak labels, L2 1, shares matched",
     "auto(weight=0.0)"),
)  # fmt: skip
"""Other configurations of a method that a paper or its code used."""
