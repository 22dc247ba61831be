"""ragcun: better retrieval embeddings from an existing model, by a small head and honest evaluation.

Importing it is cheap: what a name needs is imported when the name is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

_HOME = {
    "Calibration": "ragcun.models.whitening",
    "ResidualPredictorEncoder": "ragcun.models.systems",
    "MPNetLeJEPAIG": "ragcun.models.systems",
    "AsymmetricProjectionModel": "ragcun.models.systems",
    "Collection": "ragcun.data.beir",
    "EmbeddingCache": "ragcun.embeddings.cache",
    "FitResult": "ragcun.training.model_card",
    "FittedHead": "ragcun.training.fit_head",
    "HeadConfig": "ragcun.config",
    "HeadShape": "ragcun.models.heads",
    "InputError": "ragcun.errors",
    "IsotropicGaussianEncoder": "ragcun.models.systems",
    "LossOutput": "ragcun.losses.objective",
    "ObjectiveLoss": "ragcun.training.st_trainer",
    "ObjectiveConfig": "ragcun.config",
    "Objective": "ragcun.losses.objective",
    "PairDataset": "ragcun.data.pairs",
    "RetrievalEncoder": "ragcun.models.encoder",
    "TextBase": "ragcun.embeddings.text_base",
    "TrainConfig": "ragcun.config",
    "Views": "ragcun.batch",
    "calibrate": "ragcun.models.whitening",
    "fit": "ragcun.training.loop",
    "fit_head": "ragcun.training.fit_head",
    "load_collection": "ragcun.data.beir",
    "load_head": "ragcun.training.fit_head",
    "register_loss": "ragcun.losses.registry",
    "register_system": "ragcun.models.encoder",
    "read_pairs": "ragcun.data.pairs",
    "top_k": "ragcun.retrieval.search",
}

__all__ = [
    "AsymmetricProjectionModel",
    "Calibration",
    "Collection",
    "EmbeddingCache",
    "FitResult",
    "FittedHead",
    "HeadConfig",
    "HeadShape",
    "InputError",
    "IsotropicGaussianEncoder",
    "LossOutput",
    "MPNetLeJEPAIG",
    "Objective",
    "ObjectiveConfig",
    "ObjectiveLoss",
    "PairDataset",
    "ResidualPredictorEncoder",
    "RetrievalEncoder",
    "TextBase",
    "TrainConfig",
    "Views",
    "__version__",
    "calibrate",
    "fit",
    "fit_head",
    "load_collection",
    "load_head",
    "read_pairs",
    "register_loss",
    "register_system",
    "top_k",
]

if TYPE_CHECKING:
    from ragcun.batch import Views
    from ragcun.config import HeadConfig, ObjectiveConfig, TrainConfig
    from ragcun.data.beir import Collection, load_collection
    from ragcun.data.pairs import PairDataset, read_pairs
    from ragcun.embeddings.cache import EmbeddingCache
    from ragcun.embeddings.text_base import TextBase
    from ragcun.errors import InputError
    from ragcun.losses.objective import LossOutput, Objective
    from ragcun.losses.registry import register_loss
    from ragcun.models.encoder import RetrievalEncoder, register_system
    from ragcun.models.heads import HeadShape
    from ragcun.models.systems import (
        AsymmetricProjectionModel,
        IsotropicGaussianEncoder,
        MPNetLeJEPAIG,
        ResidualPredictorEncoder,
    )
    from ragcun.models.whitening import Calibration, calibrate
    from ragcun.retrieval.search import top_k
    from ragcun.training.fit_head import FittedHead, fit_head, load_head
    from ragcun.training.loop import fit
    from ragcun.training.model_card import FitResult
    from ragcun.training.st_trainer import ObjectiveLoss


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'ragcun' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
