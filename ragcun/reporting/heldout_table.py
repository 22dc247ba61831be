"""The Markdown table of results on documents that were hidden from training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ragcun.reporting.tables import cells_of, part_of, table_of

HELD_OUT = "held_out"


def held_out_table(results: Mapping[str, Any]) -> str:
    """Lay out NDCG@10 where hidden documents alone are ranked; empty where no dataset has such figures.

    A row for each dataset that has queries with a relevant hidden document; columns: how many documents are ranked, how
    many queries, each system, and the model's difference from the untouched base with the p-value. The best value of
    a row is bold; a system that cannot rank the hidden documents alone has a dash.

    Raises:
        InputError: a part of the results is missing.
    """
    rows = []
    for name, figures in part_of(results, "datasets", "the results").items():
        block = figures.get(HELD_OUT) or {}
        if block.get("n_queries", 0) == 0:
            continue
        counts = [f"{part_of(block, key, f'the held-out results on {name}'):,}" for key in ("n_documents", "n_queries")]
        rows.append([name, *counts, *cells_of(results, name, HELD_OUT)])
    return table_of(results, ["hidden documents", "documents", "queries"], rows)
