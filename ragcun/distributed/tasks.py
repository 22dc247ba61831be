"""What one process does for one shard: encode its texts, and search its vectors. Each leaves a piece on disk."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ragcun.distance import Distance
from ragcun.distributed.model import ModelSpec, OpenModel, opened, torch_threads
from ragcun.distributed.pieces import Record, is_whole, read_array, record_of, write_found, write_matrix
from ragcun.distributed.shards import Shard, texts_digest
from ragcun.errors import InputError
from ragcun.io import read_json_lines, write_json_lines
from ragcun.retrieval.search import top_k
from ragcun.retrieval.top_k import SearchResult


@dataclass(frozen=True)
class EncodeShard:
    """Encode the texts of a shard; nothing happens where that is done already.

    Attributes:
        texts: JSON lines with the texts; removed when their vectors are written.
        piece: where the vectors go.
        spec: the model.
        record: what the vectors are made from.
    """

    texts: Path
    piece: Path
    spec: ModelSpec
    record: Record

    def __call__(self) -> None:
        """Do it.

        Raises:
            InputError: the model of this machine, or the texts, are not those of the record.
        """
        if is_whole(self.piece, self.record):
            return
        texts = [row["text"] for _, row in read_json_lines(self.texts)]
        model = opened(self.spec)
        if model.fingerprint != self.record["model"]:
            raise InputError(
                f"the model {self.spec.name} on {platform.node()} is not the one that the search was started with; "
                "bring the same files to every machine"
            )
        if texts_digest(texts) != self.record["texts"]:
            raise InputError(f"{self.texts} was changed while it was waited for; start the search again")
        write_matrix(self.piece, model.encode(texts, "document"), self.record)
        self.texts.unlink()


@dataclass(frozen=True)
class SearchShard:
    """Search the vectors of a shard exactly; nothing happens where that is done already.

    Attributes:
        queries: piece with the vectors of the queries.
        documents: piece with those of the shard.
        order: piece with the places of all documents of the corpus among equal scores.
        piece: where the result goes.
        shard: which rows of the corpus these are.
        k: how many documents a query.
        distance: what is compared.
        memory_budget_bytes: bound on working memory.
        spec: where, and with how many threads, it computes.
        record: what the result is made from.
    """

    queries: Path
    documents: Path
    order: Path
    piece: Path
    shard: Shard
    k: int
    distance: Distance
    memory_budget_bytes: int
    spec: ModelSpec
    record: Record

    @property
    def is_done(self) -> bool:
        """Whether the result is there; one of another search counts as not there."""
        return record_of(self.piece) == self.record and self.piece.is_file()

    def __call__(self) -> None:
        """Do it; indices are rows of the corpus."""
        if self.is_done:
            return
        queries, documents = read_array(self.queries), read_array(self.documents)
        order = np.array(read_array(self.order)[self.shard.start : self.shard.stop])
        how = (self.k, self.distance, self.memory_budget_bytes, self.spec.device)
        with torch_threads(self.spec.threads):
            found = top_k(queries, documents, *how, order=order)
        write_found(self.piece, SearchResult(found.scores, found.indices + self.shard.start), self.record)


Task = EncodeShard | SearchShard


def vectors_record(model: OpenModel, texts: Sequence[str], role: str) -> Record:
    """Return what the vectors of texts are made from: model, texts, and all that decides the last bits."""
    spec = model.spec
    return {
        "model": model.fingerprint,
        "texts": texts_digest(texts),
        "role": role,
        "rows": len(texts),
        "dimension": model.dimension,
        "dtype": "float32",
        "base_dtype": spec.base_dtype,
        "batch_size": spec.batch_size,
        "block_rows": spec.block_rows,
        "threads": spec.threads,
        "device": spec.device or "auto",
    }


def write_texts(file: Path, texts: Sequence[str]) -> None:
    """Write the texts of a shard for the task that encodes them."""
    write_json_lines(file, ({"text": text} for text in texts))
