"""Going on with an evaluation: what makes two of them one and the same, and what an earlier one left."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ragcun.errors import InputError
from ragcun.io import file_digest, read_json
from ragcun.models.cached_encoder import CachedEncoder
from ragcun.models.checkpoint import CONFIG, is_checkpoint
from ragcun.retrieval.bm25 import K1, B
from ragcun.retrieval.comparison import BASE, HIDDEN, MODEL, TESTED, Contest
from ragcun.retrieval.evaluate import BM25Retriever, DenseRetriever, Retriever, StoredRetriever

SETTINGS = "settings"
"""In the manifest: `settings_of` the evaluation."""


def settings_of(contest: Contest, distance: str) -> dict[str, Any]:
    """Return all that decides figures beside the collections, as JSON has it; each system is told by a digest."""
    held_out = contest.held_out and contest.held_out.to_dict()
    settings = {
        "model": contest.model.name,
        "distance": distance,
        "vectors": dict(contest.model.size),
        "cutoffs": list(contest.cutoffs),
        "tested": TESTED,
        "seed": contest.seed,
        HIDDEN: held_out,
        **{f"system {slug}": fingerprint(retriever) for slug, retriever in contest.systems.items()},
    }
    return dict(json.loads(json.dumps(settings)))


def fingerprint(retriever: Retriever) -> str:
    """Return what tells a system from another one, or from itself with other weights or vectors.

    Of a checkpoint it is the digest of the file that holds the checksums of all its others; of any other model that of
    its weights, tokenizer and settings; of an earlier evaluation what that one has recorded of its model.
    """
    vectors = json.dumps(dict(retriever.size))
    if isinstance(retriever, BM25Retriever):
        return f"bm25 k1={K1} b={B}"
    if isinstance(retriever, StoredRetriever):
        stored = read_json(retriever.folder.with_suffix(".json"))
        earlier = (stored.get("manifest") or {}).get(SETTINGS) or {}
        return f"earlier evaluation of {retriever.name} {earlier.get(f'system {MODEL}', '')} {vectors}"
    if not isinstance(retriever, DenseRetriever) or not isinstance(retriever.encoder, CachedEncoder):
        return f"{type(retriever).__name__} {retriever.name} {vectors}"
    own = file_digest(Path(retriever.name) / CONFIG) if is_checkpoint(retriever.name) else ""
    return f"{retriever.encoder.cache.fingerprint} {own} {retriever.distance} {vectors}"


def read_earlier(output_file: Path, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the results that an evaluation with the same settings left; None where there is no file.

    Raises:
        InputError: the file holds no results, or those of another evaluation; what differs is named.
    """
    if not output_file.exists():
        return None
    results = read_json(output_file)
    parts = {"datasets", BASE, "baselines", "manifest"}
    is_whole = isinstance(results, dict) and parts <= results.keys() and isinstance(results["manifest"], dict)
    before = results["manifest"].get(SETTINGS) if is_whole else None
    if not isinstance(before, dict):
        raise InputError(
            f"{output_file} is no evaluation that can be gone on with; leave out --resume, or name another"
        )
    for key in {**before, **settings}:
        if before.get(key) != settings.get(key):
            raise InputError(
                f"{output_file} is of another evaluation: {key} is {before.get(key)!r} there and "
                f"{settings.get(key)!r} now; go on with what it was, or name another --output_file"
            )
    return dict(results)


def require_same(name: str, before: Mapping[str, Any], now: Mapping[str, Any], output_file: Path) -> None:
    """Check that a collection is the one that was evaluated.

    Raises:
        InputError: it has another split, size or content.
    """
    for fact, value in now.items():
        if before.get(fact) != value:
            raise InputError(
                f"{name} is not what {output_file} has figures of: {fact} is {before.get(fact)!r} there and {value!r} "
                "now; bring that collection back, or evaluate without --resume"
            )
