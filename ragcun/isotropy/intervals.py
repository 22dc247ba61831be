"""Figures with their intervals, and the settings that all figures of a report share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from ragcun.isotropy.moments import GROUPS, MEMORY_BUDGET_BYTES

SAMPLE = 20_000
K = 10
LEVEL = 0.95
Values = Mapping[str, float | None]


@dataclass(frozen=True)
class MeasureSettings:
    """How a matrix is measured."""

    seed: int = 0  # of all that is drawn
    groups: int = GROUPS  # random groups of rows that are left out in turn for an interval
    k: int = K  # of k-occurrence
    sample: int = SAMPLE  # rows at most where all pairs of rows are compared, and pairs for a distribution of distances
    memory_budget_bytes: int = MEMORY_BUDGET_BYTES  # bound on working memory, beside the sample itself


@dataclass(frozen=True)
class Measure:
    """A measured value (None where undefined), its 95 % `interval`, and what as many rows of N(0, I) give.

    `n` is the number of rows, or pairs. Ends are None where there is no interval, `isotropic` where it says nothing.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int
    isotropic: float | None


def interval(value: float | None, *strata: Sequence[float | None]) -> tuple[float | None, float | None]:
    """95 % interval from the values v₁…v_G that are left when one of G random groups of rows is left out.

    value ± t·se with se² = (G − 1)/G · Σ_g (v_g − v̄)², the delete-group jackknife (Efron and Stein 1981; Shao and Wu
    1989), and t the 97.5 % point of Student's law with G − 1 degrees of freedom. The se² of strata that were sampled
    apart, as queries and documents, add up, and the fewest groups give t. It holds the expected value at this number of
    rows, and is not cut to the range of the measure; (None, None) where a value is undefined, or a stratum has fewer
    than 2 groups. Resamples of a bootstrap hold only 63 % distinct rows, on whose number these measures depend.
    """
    left = [[one for one in values if one is not None] for values in strata]
    groups = min(map(len, left))
    if value is None or groups < 2 or any(len(a) < len(b) for a, b in zip(left, strata, strict=True)):
        return None, None
    variance = sum((len(values) - 1) * float(np.var(values)) for values in left)
    half = float(stdtrit(groups - 1, (1 + LEVEL) / 2)) * variance**0.5
    return value - half, value + half


def join(values: Values, strata: Sequence[Sequence[Values]], n: int, isotropic: Values) -> dict[str, Measure]:
    """Combine values, those with a group of each stratum left out, and those of N(0, I) into `Measure` by name."""
    return {
        name: Measure(
            value, *interval(value, *([one[name] for one in left] for left in strata)), n, isotropic.get(name)
        )
        for name, value in values.items()
    }
