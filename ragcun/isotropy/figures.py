"""A figure with its interval, and the settings that all figures of a report share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ragcun.isotropy.intervals import GROUPS, interval
from ragcun.isotropy.rows import MEMORY_BUDGET_BYTES

SAMPLE = 20_000
K = 10
Values = Mapping[str, float | None]


@dataclass(frozen=True)
class MeasureSettings:
    """How spaces are measured.

    Attributes:
        seed: of all that is drawn.
        groups: how many random groups of rows are left out in turn for an interval.
        k: of k-occurrence.
        sample: rows at most for what compares all pairs of rows, and pairs at most for a distribution of distances.
        memory_budget_bytes: bound on working memory, beside the sample itself.
    """

    seed: int = 0
    groups: int = GROUPS
    k: int = K
    sample: int = SAMPLE
    memory_budget_bytes: int = MEMORY_BUDGET_BYTES


@dataclass(frozen=True)
class Measure:
    """A figure.

    Attributes:
        value: None where undefined.
        low: lower end of the 95 % interval of `jackknife.interval`, None where there is none.
        high: its upper end.
        n: rows, or pairs, that it was computed on.
        isotropic: what as many rows of N(0, I) give; None where that says nothing.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int
    isotropic: float | None


def join(values: Values, left: Sequence[Values], n: int, isotropic: Values) -> dict[str, Measure]:
    """Join values, those with a group left out, and those of N(0, I)."""
    return {
        name: Measure(value, *interval(value, [one[name] for one in left]), n, isotropic.get(name))
        for name, value in values.items()
    }
