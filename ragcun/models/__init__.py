"""Text bases, heads, encoder systems, and their folders on disk. Importing it makes every system known by name."""

from ragcun.models.systems import (
    AsymmetricProjectionModel,
    IsotropicGaussianEncoder,
    MPNetLeJEPAIG,
    ResidualPredictorEncoder,
)

__all__ = ["AsymmetricProjectionModel", "IsotropicGaussianEncoder", "MPNetLeJEPAIG", "ResidualPredictorEncoder"]
