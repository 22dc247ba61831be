"""Stored rankings as a system: of an earlier evaluation, or a TREC run of any program."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from ragcun.data.beir import Collection
from ragcun.errors import InputError
from ragcun.io import file_digest, read_json
from ragcun.results import DocumentSpace, Results
from ragcun.retrieval.runs import Run, read_run

logger = logging.getLogger(__name__)


@dataclass
class StoredRetriever:
    """The rankings of an earlier evaluation, read from its TREC run files, or those of one run file of any program."""

    name: str
    folder: Path  # or file
    size: Mapping[str, Any] = field(default_factory=dict)
    own_ids: bool = False  # whether a file's documents of the query's own id are kept

    @property
    def fingerprint(self) -> str:
        """Return what the earlier evaluation recorded of its model, or a digest of the file."""
        if self.folder.is_file():
            return file_digest(self.folder)
        manifest = read_json(self.folder.with_suffix(".json")).get("manifest") or {}
        recorded = (manifest.get("settings") or {}).get("system model", "")
        return f"earlier evaluation of {self.name} {recorded} {json.dumps(self.size)}"

    def retrieve(self, collection: Collection, k: int) -> Run:
        """Read the run of this collection; of a single file, only its queries, with up to `k` documents each.

        Raises:
            InputError: a file ranks a document that the collection lacks, or has none of its queries.
        """
        if not self.folder.is_file():
            return read_run(self.folder / collection.name / "model.trec")
        run = read_run(self.folder)
        known = {query: run[query] for query in collection.queries if query in run}
        unknown = sorted(set().union(*known.values()) - collection.documents.keys())
        if unknown or not known:
            lacking = f"the document {unknown[0]!r:.60}" if unknown else "any of the queries"
            raise InputError(f"{self.folder}: {collection.name} has not {lacking} of this run; give a run on it")
        if missing := len(collection.queries) - len(known):
            logger.warning("%s lacks %d of the queries of %s", self.folder, missing, collection.name)
        own = {query: set() if self.own_ids else {query} for query in known}
        kept = {query: {name: run[query][name] for name in run[query] if name not in own[query]} for query in known}
        return {query: dict(islice(documents.items(), k)) for query, documents in kept.items()}

    def space(self, dataset: str) -> DocumentSpace | None:
        """Read how the embeddings of a dataset's documents lie; None where the earlier evaluation does not say."""
        earlier = None if self.folder.is_file() else Results.read(self.folder.with_suffix(".json")).model.datasets
        return earlier[dataset].space if earlier and dataset in earlier else None


def parts_of(retriever: Any) -> tuple[Any, ...]:
    """Return the systems that one is made of: mostly itself."""
    return tuple(getattr(retriever, "parts", (retriever,)))


def is_stored(retriever: Any) -> bool:
    """Return whether a system, or a part of it, has stored rankings alone."""
    return any(isinstance(each, StoredRetriever) for each in parts_of(retriever))
