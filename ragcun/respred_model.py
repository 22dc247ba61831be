"""Where the founding notes import the residual predictor from."""

from ragcun.models.systems import ResidualPredictorEncoder as ResidualPredictorEncoder
