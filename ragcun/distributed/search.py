"""A search in shards from beginning to end: what is left to do, doing it somewhere, and the run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from ragcun.data.beir import Collection, Qrels
from ragcun.data.locate import CollectionFolder
from ragcun.distance import Distance
from ragcun.distributed.cluster import Chain, Runner
from ragcun.distributed.merge import merge_results
from ragcun.distributed.model import ModelSpec, OpenModel, opened
from ragcun.distributed.pieces import (
    Record,
    is_whole,
    owned_folder,
    read_array,
    read_found,
    require_same,
    write_array,
    write_matrix,
)
from ragcun.distributed.shards import Shard, cut_shards, texts_digest
from ragcun.distributed.tasks import EncodeShard, SearchShard, vectors_record, write_texts
from ragcun.errors import InputError
from ragcun.retrieval.runs import Run, make_run
from ragcun.retrieval.top_k import id_order


@dataclass(frozen=True)
class ShardedSearch:
    """How a collection is searched.

    Attributes:
        folder: where vectors and results of shards lie; every machine must see it under this path.
        spec: the model.
        shards: how many.
        k: documents a query.
        distance: what is compared; None takes the model's own.
        memory_budget_bytes: bound on the working memory of one shard's search.
    """

    folder: Path
    spec: ModelSpec
    shards: int = 1
    k: int = 100
    distance: Distance | None = None
    memory_budget_bytes: int = 1 << 30


@dataclass(frozen=True)
class Plan:
    """A search whose texts are written out for those who encode them: what is left to do.

    Attributes:
        k: documents a query.
        query_ids: in order.
        document_ids: in the order of rows.
        qrels: the collection's judgments.
        order: piece with the places of documents among equal scores.
        encodings: of each shard whose vectors are not there, by its number.
        searches: of each shard.
    """

    k: int
    query_ids: list[str]
    document_ids: list[str]
    qrels: Qrels
    order: Path
    encodings: dict[int, EncodeShard]
    searches: list[SearchShard]

    @property
    def chains(self) -> list[Chain]:
        """What is left to do, by shard: encoding and search, or search alone; nothing of shards that are done."""
        both = [(self.encodings.get(search.shard.number), search) for search in self.searches]
        return [
            [search] if encoding is None else [encoding, search]
            for encoding, search in both
            if encoding is not None or not search.is_done
        ]


def search_collection(source: CollectionFolder, search: ShardedSearch, runner: Runner) -> tuple[Run, Qrels]:
    """Search a collection in shards, and return its run and judgments.

    The run is the same for any number of shards and any runner. A document with the query's own id is left out, as
    BEIR does; equal scores rank by document id. The collection's texts are let go before tasks run.

    Raises:
        InputError: the collection is wrong, another process works in the folder, a task failed of wrong input or its
            worker kept dying, and as of `plan_search`.
    """
    with owned_folder(search.folder):
        plan = plan_search(source.load(), search)
        runner(plan.chains)
        parts = (read_found(task.piece) for task in plan.searches)
        found = merge_results(parts, plan.k + 1, read_array(plan.order))
        return make_run(plan.query_ids, plan.document_ids, found.scores, found.indices, plan.k), plan.qrels


def plan_search(collection: Collection, search: ShardedSearch) -> Plan:
    """Encode the queries, and write the texts of every shard whose vectors are not there for the task that does it.

    Raises:
        InputError: the model cannot be opened, there are more shards than blocks, or the folder holds vectors of other
            texts, another model or other settings.
    """
    opened.cache_clear()
    model, documents = opened(search.spec), iter(collection.documents.values())
    shards = _cut(len(collection.documents), search)
    query_ids, document_ids = list(collection.queries), list(collection.documents)
    queries = _encode_queries(list(collection.queries.values()), model, search.folder)
    order = _write_order(document_ids, search.folder)
    encodings, searches = {}, []
    for shard in shards:
        texts = [document.content for document in islice(documents, shard.rows)]
        encoding, is_left = _encoding_of(shard, texts, model, search.folder)
        if is_left:
            encodings[shard.number] = encoding
        searches.append(_search_of(encoding, shard, search, model, queries, order))
    return Plan(search.k, query_ids, document_ids, collection.qrels, order[0], encodings, searches)


def _cut(rows: int, search: ShardedSearch) -> list[Shard]:
    try:
        return cut_shards(rows, search.shards, search.spec.block_rows)
    except ValueError as error:
        raise InputError(f"--shards: {error}; give fewer shards, or smaller --block_rows") from error


def _encode_queries(texts: Sequence[str], model: OpenModel, folder: Path) -> tuple[Path, Record]:
    """Return the piece with the vectors of the queries, and its record; those of other queries are replaced."""
    piece, record = folder / "queries.npy", vectors_record(model, texts, "query")
    if not is_whole(piece, record):
        write_matrix(piece, model.encode(texts, "query"), record)
    return piece, record


def _write_order(document_ids: Sequence[str], folder: Path) -> tuple[Path, Record]:
    """Return the piece with the places of documents among equal scores, and its record."""
    piece, record = folder / "order.npy", {"ids": texts_digest(document_ids), "rows": len(document_ids)}
    if not is_whole(piece, record):
        write_array(piece, id_order(document_ids), record)
    return piece, record


def _encoding_of(shard: Shard, texts: Sequence[str], model: OpenModel, folder: Path) -> tuple[EncodeShard, bool]:
    """Return the encoding of a shard and whether it is left to do; then its texts are written."""
    piece, record = shard.file(folder, "documents", ".npy"), vectors_record(model, texts, "document")
    encoding = EncodeShard(shard.file(folder, "texts", ".jsonl"), piece, model.spec, record)
    require_same(piece, record)
    if is_whole(piece, record):
        encoding.texts.unlink(missing_ok=True)
        return encoding, False
    write_texts(encoding.texts, texts)
    return encoding, True


def _search_of(
    encoding: EncodeShard,
    shard: Shard,
    search: ShardedSearch,
    model: OpenModel,
    queries: tuple[Path, Record],
    order: tuple[Path, Record],
) -> SearchShard:
    distance, k = search.distance or model.distance, search.k + 1
    made_from = {"documents": encoding.record, "queries": queries[1], "order": order[1], "k": k, "distance": distance}
    pieces = (queries[0], encoding.piece, order[0], shard.file(search.folder, "found", ".npz"))
    return SearchShard(*pieces, shard, k, distance, search.memory_budget_bytes, search.spec, made_from)
