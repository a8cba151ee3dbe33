"""Transforms of weak labels before a student is trained on them: one frozen dataclass each.

A transform maps :class:`outgrow.data.Labels` to labels with other probabilities or fewer rows, and says what else it
needs (the student's frozen features, a seed, bought gold). They are put one after the other:
``naive(transforms=(KNN(k=20), Harden), loss=GCE)``. A label model makes one set of labels of several supervisors'.
"""

from outgrow.labels.base import TRANSFORMS, Transform, TransformInputs, transform
from outgrow.labels.latent import LABEL_MODELS, AnchoredEM, DawidSkene, LabelModel, MeanVote
from outgrow.labels.neighbours import KNN, KNNFilter, Overlap, Smooth, TopoFilter
from outgrow.labels.plain import Balance, Harden, KeepConfident, MixGold, Reliability, Temperature
from outgrow.labels.students import ConfidentLearning, Logistic, LogisticFilter, NoisyChannel, Refine, Selective

__all__ = [
    "KNN",
    "LABEL_MODELS",
    "TRANSFORMS",
    "AnchoredEM",
    "Balance",
    "ConfidentLearning",
    "DawidSkene",
    "Harden",
    "KNNFilter",
    "KeepConfident",
    "LabelModel",
    "Logistic",
    "LogisticFilter",
    "MeanVote",
    "MixGold",
    "NoisyChannel",
    "Overlap",
    "Refine",
    "Reliability",
    "Selective",
    "Smooth",
    "Temperature",
    "TopoFilter",
    "Transform",
    "TransformInputs",
    "transform",
]
