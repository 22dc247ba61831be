"""The names of the encoder systems, the only place where a name becomes a class."""

from __future__ import annotations

from ragcun.models.encoder import RetrievalEncoder
from ragcun.models.isotropic_gaussian import IsotropicGaussianEncoder

SYSTEMS: dict[str, type[RetrievalEncoder]] = {cls.system: cls for cls in (IsotropicGaussianEncoder,)}
