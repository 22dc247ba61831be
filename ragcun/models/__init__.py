"""Text bases, heads, encoder systems, and their folders on disk. Importing it makes every system known by name."""

from ragcun.models.asymmetric import AsymmetricProjectionModel
from ragcun.models.jepa import MPNetLeJEPAIG
from ragcun.models.projection import IsotropicGaussianEncoder
from ragcun.models.respred import ResidualPredictorEncoder

__all__ = ["AsymmetricProjectionModel", "IsotropicGaussianEncoder", "MPNetLeJEPAIG", "ResidualPredictorEncoder"]
