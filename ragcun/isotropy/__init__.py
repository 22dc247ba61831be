"""Measures of isotropy, and reports of them with intervals; `measures` has each as a function of a matrix."""

from ragcun.isotropy.moments import MeasureSettings
from ragcun.isotropy.pairs import distribution
from ragcun.isotropy.report import IsotropyReport, measure_space, measure_system
from ragcun.isotropy.spectrum import UndefinedMeasure

__all__ = ["IsotropyReport", "MeasureSettings", "UndefinedMeasure", "distribution", "measure_space", "measure_system"]
