"""Text bases, heads, encoder systems, and their folders on disk. Importing it makes every system known by name."""

from ragcun.models.isotropic_gaussian import IsotropicGaussianEncoder

__all__ = ["IsotropicGaussianEncoder"]
