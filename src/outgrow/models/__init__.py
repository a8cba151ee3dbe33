"""Pretrained models: from a spelling to frozen features, and heads on them."""

from outgrow.models.base import MODELS, ModelReader, model
from outgrow.models.glove import GloVe
from outgrow.models.images import Lite0, Lite1, Lite2, Pixels
from outgrow.models.synthetic import RandomFeatures, Vectors

__all__ = ["MODELS", "GloVe", "Lite0", "Lite1", "Lite2", "ModelReader", "Pixels", "RandomFeatures", "Vectors", "model"]
