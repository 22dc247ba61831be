"""IsotropicGaussianEncoder: one head for queries and documents, with an optional predictor."""

from __future__ import annotations

from ragcun.models.projection import ProjectionEncoder


class IsotropicGaussianEncoder(ProjectionEncoder):
    """Text base → projection head → unnormalised embedding, shared by queries and documents.

    With a predictor, the target of its guess is the positive's projection. Arguments as of `ProjectionEncoder`.
    """

    system = "isotropic_gaussian"
