"""What mining hard negatives gave, and what its guards dropped."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import NamedTuple

from ragcun.data.pairs import Row


@dataclass(frozen=True)
class MiningReport:
    """What was mined, and what the guards dropped.

    Attributes:
        pool: how many distinct documents could be negatives.
        repeated: how many documents of the pool repeat another one and were left out.
        queries: how many queries.
        pairs: how many distinct pairs of query and positive.
        asked: how many negatives were asked for: per query and pair, times pairs.
        mined: how many were found.
        known_positives: candidates of a query left out because they are known to answer it.
        duplicates: candidates of a query left out because they repeat an answer but for case and blanks, or answer a
            query that differs in these only.
        given: candidates of a query left out because a pair of it has them as a negative already.
        candidates: candidates of pairs at the ranks asked for, without those.
        margin: how many of these were left out because they score too near the pair's positive.
        pairs_with_fewer: pairs with fewer negatives than asked for, those with none among them.
        pairs_with_none: pairs without a mined negative.
        queries_with_fewer: queries with such a pair.
    """

    pool: int
    repeated: int
    queries: int
    pairs: int
    asked: int
    mined: int
    known_positives: int
    duplicates: int
    given: int
    candidates: int
    margin: int
    pairs_with_fewer: int
    pairs_with_none: int
    queries_with_fewer: int

    def to_dict(self) -> dict[str, int]:
        """Return the counts by name."""
        return asdict(self)

    def __str__(self) -> str:
        left_out = f"{self.known_positives} known positives, {self.duplicates} duplicates, {self.margin} by the margin"
        return (
            f"{self.mined} of {self.asked} negatives for {self.pairs} pairs from {self.pool} documents; left out: "
            f"{left_out}; fewer than asked for: {self.pairs_with_fewer} pairs ({self.pairs_with_none} have none)"
        )


class MinedPairs(NamedTuple):
    """Pairs with their negatives, a row for each, and the counts."""

    rows: list[Row]
    report: MiningReport
