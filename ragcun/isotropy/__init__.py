"""Measures of isotropy, and reports of them with intervals; `measures` has each as a function of a matrix."""

from ragcun.isotropy.intervals import Measure, MeasureSettings
from ragcun.isotropy.pairs import Distribution, distribution
from ragcun.isotropy.report import IsotropyReport, SpaceReport, SystemReport, measure_space, measure_system
from ragcun.isotropy.spectrum import UndefinedMeasure, entropy_rank

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
