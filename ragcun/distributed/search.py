"""Exact search of a corpus in shards, each encoded and searched by a task that writes into a shared folder.

Shards consist of whole blocks, and a batch never crosses a block, so that neither the number of shards nor the process
decides which texts are encoded together, and with it the last bits of their vectors.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from tqdm.auto import tqdm

from ragcun.batch import Role
from ragcun.config import Distance
from ragcun.data.beir import Collection, Qrels
from ragcun.data.beir_sets import CollectionFolder
from ragcun.embeddings.encode import ROWS
from ragcun.embeddings.hub import CONFIG
from ragcun.embeddings.precomputed import rows_of
from ragcun.embeddings.text_base import TextBase
from ragcun.errors import InputError, require_same
from ragcun.io import file_digest, read_json, read_json_lines, replacing_file, write_json, write_json_lines
from ragcun.models.checkpoint import is_checkpoint
from ragcun.models.encoder import RetrievalEncoder
from ragcun.retrieval.runs import Run, make_run
from ragcun.retrieval.search import SearchResult, id_order, top_k
from ragcun.retrieval.systems import Embedded, once


@dataclass(frozen=True)
class ShardedSearch:
    """How a collection is encoded and searched; every machine must see `folder` and `model` under these paths."""

    folder: Path  # of vectors and results of shards
    model: str  # checkpoint folder, hub name or model folder
    shards: int = 1
    k: int = 100
    distance: Distance | None = None  # None takes the model's own
    memory_budget_bytes: int = 1 << 30  # of one shard's search
    device: str | None = None  # None takes a GPU where the process has one
    base_dtype: str = "float32"
    base_backend: str = "torch"
    batch_size: int = ROWS
    block_rows: int = ROWS
    threads: int = 1  # of one shard


class OpenModel:
    """A checkpoint or an untouched model that encodes texts in blocks, without a cache (InputError: it cannot)."""

    def __init__(self, search: ShardedSearch) -> None:
        self.search, name, device = search, search.model, search.device
        self.encoder = RetrievalEncoder.from_pretrained(name, device) if is_checkpoint(name) else None
        self.base = self.encoder.base if self.encoder else TextBase.load(name, device=device)
        self.base.compute_in(search.base_dtype, search.base_backend)
        self.dimension = (self.encoder or self.base).dimension
        self.distance: Distance = "euclidean" if self.encoder else self.base.distance
        own = file_digest(Path(name) / CONFIG) if self.encoder else ""
        prompts = [self.base.prompt("query"), self.base.prompt("document")]
        self.fingerprint = _digest([self.base.fingerprint(), *prompts, own])

    def encode(self, texts: Sequence[str], role: Role) -> Iterator[NDArray[np.float32]]:
        """Yield the embeddings ``(rows, dimension)`` of one block of texts after the other."""
        for start in range(0, len(texts), rows := self.search.block_rows):
            vectors = self.base.encode(list(texts[start : start + rows]), role, self.search.batch_size)
            yield self.encoder.embed(vectors, role) if self.encoder else self.base.untouched_array(vectors)


opened = functools.lru_cache(maxsize=1)(OpenModel)  # one per process, for all its shards


@dataclass(frozen=True)
class Shard:
    """Consecutive rows of the corpus: what the task that encodes and searches them needs."""

    number: int  # from 1
    search: ShardedSearch
    start: int  # first row in the corpus
    order: NDArray[np.int64]  # ranks of the rows among equal scores
    made_from: dict[str, Any]  # equal records mean equal vectors
    searched: dict[str, Any]  # k, distance and digest of queries and document ids

    def file(self, name: str, suffix: str) -> Path:
        """Return the path of a file of this shard, such as ``documents-00003-of-00016.npy``."""
        return self.search.folder / f"{name}-{self.number:05d}-of-{self.search.shards:05d}.{suffix}"

    @property
    def is_encoded(self) -> bool:
        """Return whether the vectors are there."""
        return _record(self.file("documents", "npy")) == self.made_from

    @property
    def is_done(self) -> bool:
        """Return whether vectors and result are there."""
        return self.is_encoded and _record(self.file("result", "npz")) == self.made_from | self.searched

    def run(self) -> None:
        """Encode and search the shard, or what is left to do (InputError: this machine's model is another one)."""
        with _torch_threads(self.search.threads):
            if not self.is_encoded:
                self._encode()
            if not self.is_done:
                self._search()

    def _encode(self) -> None:
        texts = [row["text"] for _, row in read_json_lines(self.file("texts", "jsonl"))]
        model = opened(self.search)
        if model.fingerprint != self.made_from["model"]:
            here = f"the model {self.search.model} on {platform.node()}"
            raise InputError(f"{here} differs from that of the searching machine; copy the same files to every machine")
        with _writing(self.file("documents", "npy"), self.made_from) as file:
            _write_matrix(file, model.encode(texts, "document"), (len(texts), model.dimension))
        self.file("texts", "jsonl").unlink()

    def _search(self) -> None:
        queries = np.load(self.search.folder / "queries.npy")
        documents = np.load(self.file("documents", "npy"), mmap_mode="r")
        distance, budget = self.searched["distance"], self.search.memory_budget_bytes
        found = top_k(queries, documents, self.search.k + 1, distance, budget, self.search.device, order=self.order)
        with _writing(self.file("result", "npz"), self.made_from | self.searched) as file, file.open("wb") as stream:
            np.savez(stream, scores=found.scores, indices=found.indices + self.start)


Runner = Callable[[Sequence[Shard]], None]


def run_here(shards: Sequence[Shard]) -> None:
    """Run shards in this process, one after the other."""
    for shard in tqdm(shards, desc="shards", unit="shard", delay=2):
        shard.run()


def search_collection(
    source: CollectionFolder | Collection,
    search: ShardedSearch,
    runner: Runner = run_here,
    queries: NDArray[np.float32] | None = None,
) -> tuple[Run, Qrels]:
    """Search a collection in shards, and return its run and judgments; finished shards are not run again.

    The run is the same for any number of shards and any runner; equal scores rank by document id. `queries` are vectors
    to search for, in the order of the collection's; None: those of their texts.

    Raises:
        InputError: the input is wrong, another process works in the folder or it holds other vectors, or a task failed.
    """
    collection = source if isinstance(source, Collection) else source.load()
    if queries is None:
        opened.cache_clear()
    opened(search)
    cut_shards(len(collection.documents), search)  # what is wrong with the input leaves no folder
    (folder := search.folder).mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / "lock", timeout=0):
            shards = _prepare(collection, search, queries)
            if left := [shard for shard in shards if not shard.is_done]:
                runner(left)
            for stale in folder.glob(".*.tmp"):
                stale.unlink(missing_ok=True)
            query_ids, document_ids = list(collection.queries), list(collection.documents)
            order, k = id_order(document_ids), min(search.k + 1, len(document_ids))
            best = SearchResult.empty(len(query_ids), k)
            for shard in shards:
                with np.load(shard.file("result", "npz")) as part:
                    best.update(SearchResult(part["scores"], part["indices"]), order)
            found = best.scores, best.indices, search.k, collection.own_ids
            return make_run(query_ids, document_ids, *found), collection.qrels
    except Timeout as error:
        raise InputError(f"another process is using {folder}; wait for it, or name another --work_dir") from error


class ShardRows:
    """The document vectors of all shards, of which some rows are read."""

    def __init__(self, search: ShardedSearch) -> None:
        files = sorted(search.folder.glob(f"documents-*-of-{search.shards:05d}.npy"))
        self.parts = [np.load(file, mmap_mode="r") for file in files]

    def take(self, rows: NDArray[np.int64], axis: int = 0) -> NDArray[np.float32]:
        """Return some rows, as an array does."""
        return rows_of(self.parts, rows)


@dataclass
class ShardedRetriever:
    """A search in shards as a system, whose queries `HybridRetriever` can move."""

    name: str
    sharded: ShardedSearch
    runner: Runner
    size: Mapping[str, Any] = field(default_factory=dict)

    @once
    def retrieve(self, collection: Collection, k: int) -> Run:
        """Encode the collection and search."""
        return search_collection(collection, replace(self.sharded, k=k), self.runner)[0]

    def embedded(self, collection: Collection) -> Embedded:
        """Return the vectors after `retrieve`."""
        model, queries = opened(self.sharded), np.load(self.sharded.folder / "queries.npy")
        return Embedded(queries, ShardRows(self.sharded), self.sharded.distance or model.distance)

    def search(self, collection: Collection, embedded: Embedded, k: int) -> Run:
        """Search for given vectors of queries."""
        return search_collection(collection, replace(self.sharded, k=k), self.runner, embedded.queries)[0]


def _prepare(collection: Collection, search: ShardedSearch, queries: NDArray[np.float32] | None) -> list[Shard]:
    model, texts, document_ids = opened(search), list(collection.queries.values()), list(collection.documents)
    with replacing_file(search.folder / "queries.npy") as file, _torch_threads(search.threads):
        vectors = model.encode(texts, "query") if queries is None else [queries]
        _write_matrix(file, vectors, (len(texts), model.dimension))
    moved = [] if queries is None else [file_digest(search.folder / "queries.npy")]
    order, distance = id_order(document_ids), search.distance or model.distance
    settings = {key: getattr(search, key) for key in ("device", "base_dtype", "batch_size", "block_rows", "threads")}
    searched = {"k": search.k, "distance": distance, "searched_for": _digest([*texts, *document_ids, *moved])}
    documents, shards = iter(collection.documents.values()), []
    for number, (start, stop) in enumerate(cut_shards(len(document_ids), search), start=1):
        texts = [document.content for document in islice(documents, stop - start)]
        record = {"model": model.fingerprint, "texts": _digest(texts), "rows": len(texts), **settings}
        shard = Shard(number, search, start, order[start:stop], record, searched)
        vectors_file, remedy = shard.file("documents", "npy"), "name another --work_dir, or delete that folder"
        require_same(_record(vectors_file) or record, record, f"{vectors_file} was made from other input", remedy)
        if not shard.is_encoded:
            write_json_lines(shard.file("texts", "jsonl"), ({"text": text} for text in texts))
        shards.append(shard)
    return shards


def cut_shards(rows: int, search: ShardedSearch) -> list[tuple[int, int]]:
    """Cut a corpus into shards of consecutive blocks, whose numbers differ by at most one (InputError: too few)."""
    size, shards = search.block_rows, search.shards
    blocks = -(-rows // size)
    if blocks < shards:
        raise InputError(f"--shards: {rows} rows are {blocks} blocks of {size}; give at most {blocks}, not {shards}")
    return list(pairwise(min(rows, number * blocks // shards * size) for number in range(shards + 1)))


def _digest(texts: Sequence[str]) -> str:
    return hashlib.blake2b(json.dumps(texts).encode(), digest_size=32).hexdigest()


@contextlib.contextmanager
def _writing(file: Path, record: dict[str, Any]) -> Iterator[Path]:
    # the record, beside the file, is removed before and written last
    file.with_suffix(".json").unlink(missing_ok=True)
    with replacing_file(file) as temporary:
        yield temporary
    write_json(file.with_suffix(".json"), record)


def _record(file: Path) -> dict[str, Any] | None:
    record = file.with_suffix(".json")
    return dict(read_json(record)) if record.is_file() and file.is_file() else None


def _write_matrix(file: Path, blocks: Iterable[NDArray[np.float32]], shape: tuple[int, int]) -> None:
    matrix, start = np.lib.format.open_memmap(file, mode="w+", dtype=np.float32, shape=shape), 0
    for block in blocks:
        matrix[start : start + len(block)] = block
        start += len(block)
    matrix.flush()


@contextlib.contextmanager
def _torch_threads(threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
