"""Where the founding notes import the asymmetric system from."""

from ragcun.models.systems import AsymmetricProjectionModel as AsymmetricProjectionModel
