"""ragcun: better retrieval embeddings from an existing model, by a small head and honest evaluation.

Importing it is cheap: what a name needs is imported when the name is first used.
"""

from __future__ import annotations

import ast
import importlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

# Between products torch's threads (of libgomp) spin for about a millisecond: on shared cores several processes would
# halve each other's speed. A tenth costs one process alone nothing (benchmarks/processes.py).
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")

if TYPE_CHECKING:
    from ragcun.batch import Views as Views  # noqa: I001 (one line a module)
    from ragcun.config import HeadConfig as HeadConfig, ObjectiveConfig as ObjectiveConfig, TrainConfig as TrainConfig
    from ragcun.data.beir import Collection as Collection, load_collection as load_collection
    from ragcun.data.pairs import PairDataset as PairDataset, read_pairs as read_pairs
    from ragcun.embeddings.cache import EmbeddingCache as EmbeddingCache
    from ragcun.embeddings.text_base import TextBase as TextBase
    from ragcun.errors import InputError as InputError
    from ragcun.losses.objective import LossOutput as LossOutput, Objective as Objective
    from ragcun.losses import register_loss as register_loss
    from ragcun.models.checkpoint import push_to_hub as push_to_hub
    from ragcun.models.encoder import RetrievalEncoder as RetrievalEncoder, register_system as register_system
    from ragcun.models.heads import HeadShape as HeadShape
    from ragcun.models.systems import (
        AsymmetricProjectionModel as AsymmetricProjectionModel,
        IsotropicGaussianEncoder as IsotropicGaussianEncoder,
        MPNetLeJEPAIG as MPNetLeJEPAIG,
        ResidualPredictorEncoder as ResidualPredictorEncoder,
    )
    from ragcun.models.whitening import Calibration as Calibration, calibrate as calibrate
    from ragcun.retrieval.hybrid import fuse as fuse
    from ragcun.retrieval.memory import move_documents as move_documents
    from ragcun.retrieval.search import top_k as top_k
    from ragcun.training.fit_head import FittedHead as FittedHead, fit_head as fit_head, load_head as load_head
    from ragcun.training.loop import fit as fit
    from ragcun.training.summary import FitResult as FitResult
    from ragcun.training.st_trainer import ObjectiveLoss as ObjectiveLoss

_HOME = {
    alias.name: str(node.module)
    for node in ast.walk(ast.parse(Path(__file__).read_text(encoding="utf-8")))
    if isinstance(node, ast.ImportFrom) and str(node.module).startswith("ragcun.")
    for alias in node.names
}
"""The public names, each with the module that it is in: those that type checkers import above."""
__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'ragcun' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
