"""Transforms of weak labels before a student is trained on them: one frozen dataclass each.

A transform maps :class:`outgrow.data.Labels` to labels with other probabilities or fewer rows, and says what else it
needs (the student's frozen features, a seed, bought gold). Several are applied in order:
``naive(transforms=(KNN(k=20), Harden), loss=GCE)``. A label model makes one set of labels from those of several
supervisors.
"""

from outgrow.labels.base import LABEL_MODELS, TRANSFORMS, LabelModel, Transform, TransformInputs, label_model, transform
from outgrow.labels.latent import AnchoredEM, DawidSkene, MeanVote
from outgrow.labels.neighbours import KNN, KNNFilter, Overlap, Smooth, TopoFilter
from outgrow.labels.plain import Balance, Complement, Harden, KeepConfident, MixGold, Reliability, Temperature
from outgrow.labels.students import (
    ConfidentLearning,
    LogisticFilter,
    LogisticRelabel,
    NoisyChannel,
    Selective,
    TwoStage,
)

__all__ = [
    "KNN", "LABEL_MODELS", "TRANSFORMS", "AnchoredEM", "Balance", "Complement", "ConfidentLearning", "DawidSkene",
    "Harden", "KNNFilter", "KeepConfident", "LabelModel", "LogisticFilter", "LogisticRelabel", "MeanVote", "MixGold",
    "NoisyChannel", "Overlap", "Reliability", "Selective", "Smooth", "Temperature", "TopoFilter", "Transform",
    "TransformInputs", "TwoStage", "label_model", "transform",
]  # fmt: skip
