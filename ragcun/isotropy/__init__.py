"""Measures of isotropy, and reports of them with intervals; `measures` has each as a function of a matrix."""

from ragcun.isotropy.distributions import Distribution, distribution
from ragcun.isotropy.errors import UndefinedMeasure
from ragcun.isotropy.figures import Measure, MeasureSettings
from ragcun.isotropy.report import IsotropyReport, SystemReport, measure_system
from ragcun.isotropy.space import SpaceReport, measure_space
from ragcun.isotropy.spectrum import entropy_rank

__all__ = [
    "Distribution",
    "IsotropyReport",
    "Measure",
    "MeasureSettings",
    "SpaceReport",
    "SystemReport",
    "UndefinedMeasure",
    "distribution",
    "entropy_rank",
    "measure_space",
    "measure_system",
]
