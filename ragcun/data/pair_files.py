"""Files of pairs by split, their hard negatives, and the statistics beside them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

from ragcun.data.mining_report import MinedPairs
from ragcun.data.pairs import Row, pairs_extension, write_pairs
from ragcun.files import write_json

FILES = {"train": "train.json", "dev": "val.json", "test": "test_eval.json"}
"""The pairs file of each split, named as in the founding notes."""
STATISTICS = "statistics.json"


class Miner(Protocol):
    """What adds hard negatives to pairs: `ragcun.retrieval.negatives.mine_negatives` with its settings."""

    def __call__(
        self, rows: Iterable[Row], source: str, pool: Iterable[str] | None = None, known: Iterable[tuple[str, str]] = ()
    ) -> MinedPairs:
        """Return the pairs with negatives from `pool` (None: all positives), none of them a known answer."""


@dataclass(frozen=True)
class Outputs:
    """Where pairs go.

    Attributes:
        folder: of the pairs files in `FILES`, each written even where its split is empty, and of `STATISTICS`.
        file: of all pairs, .json or .jsonl, split after split.
        settings: what the statistics say of how the pairs were made.

    Raises:
        InputError: the extension of `file` is another one.
    """

    folder: Path | None = None
    file: Path | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.file is not None:
            pairs_extension(self.file)


@dataclass
class SplitPairs:
    """The pairs of one split, a row for each negative, and what is known of them."""

    rows: list[Row]
    counts: dict[str, Any]

    @classmethod
    def of(
        cls,
        rows: list[Row],
        source: str,
        miner: Miner | None,
        pool: Iterable[str] | None = None,
        known: Iterable[tuple[str, str]] = (),
    ) -> SplitPairs:
        """Return the pairs with the negatives that `miner` adds; the other arguments are its own."""
        pairs = len({(query, positive) for query, positive, _ in rows})
        if miner is None or not rows:
            return cls(rows, {"pairs": pairs, "rows": len(rows)})
        mined = miner(rows, source, pool, known)
        return cls(mined.rows, {"pairs": pairs, "rows": len(mined.rows), "negatives": mined.report.to_dict()})

    def __str__(self) -> str:
        pairs, rows, negatives = self.counts["pairs"], self.counts["rows"], self.counts.get("negatives")
        counted = f"{pairs} pairs" + (f" in {rows} rows" if rows != pairs else "")
        if not negatives:
            return counted
        named = ("known_positives", "duplicates", "margin")
        left_out = ", ".join(f"{name.replace('_', ' ')} {negatives[name]}" for name in named)
        fewer = f"{negatives['pairs_with_fewer']} pairs have fewer"
        return f"{counted}; {negatives['mined']} of {negatives['asked']} negatives, {fewer} (left out: {left_out})"


def write_splits(splits: Mapping[str, SplitPairs], outputs: Outputs, counts: Mapping[str, Any]) -> list[str]:
    """Write the splits and their statistics; return what was written."""
    report = []
    if outputs.file is not None:
        write_pairs(outputs.file, chain.from_iterable(split.rows for split in splits.values()))
        total = {name: sum(split.counts[name] for split in splits.values()) for name in ("pairs", "rows")}
        report.append(f"{outputs.file}: {splits['all'] if 'all' in splits else SplitPairs([], total)}")
    if outputs.folder is not None:
        for name, file in FILES.items():
            write_pairs(outputs.folder / file, splits[name].rows)
            report.append(f"{outputs.folder / file}: {splits[name]}")
        by_split = {name: split.counts for name, split in splits.items()}
        write_json(outputs.folder / STATISTICS, {**counts, "splits": by_split, "settings": dict(outputs.settings)})
        report.append(f"statistics: {outputs.folder / STATISTICS}")
    return report
