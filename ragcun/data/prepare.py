"""Files of pairs by split, their hard negatives, and the statistics beside them."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain, compress, product
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tqdm.auto import tqdm

from ragcun.data.beir import Document, hold_out_queries, load_collection, pairs_from_collection, write_collection
from ragcun.data.pairs import Row, read_pairs, split_by_shares, split_pairs, without_leaks, write_pairs
from ragcun.data.python_docs import build, extract, python_doc_roots
from ragcun.data.records import read_documents
from ragcun.data.synthetic_queries import Pair, PairMaker, document_digest, pairs_of_document
from ragcun.data.texts import first_of_near_duplicates, text_key
from ragcun.errors import InputError
from ragcun.io import write_json

if TYPE_CHECKING:
    from ragcun.retrieval.negatives import MinedPairs

logger = logging.getLogger(__name__)

FILES = {"train": "train.json", "dev": "val.json", "test": "test_eval.json"}
STATISTICS = "statistics.json"

Miner = Callable[..., "MinedPairs"]
"""What adds hard negatives to pairs: `ragcun.retrieval.negatives.mine_negatives` with its settings."""
Miners = Mapping[str, Miner]  # by the name of the method


class SplitPairs(NamedTuple):
    """The pairs of one split, a row for each negative, and what is known of them for the statistics."""

    rows: list[Row]
    counts: dict[str, Any]
    summary: str


def with_negatives(rows: list[Row], source: str, miners: Miners, **mining: Any) -> SplitPairs:
    """Return the pairs with the negatives that each miner adds; `mining` are the pool and known answers."""
    counts: dict[str, Any] = {"pairs": len({row[:2] for row in rows}), "rows": len(rows)}
    if not miners or not rows:
        return SplitPairs(rows, counts, _counted(counts))
    reports, mining = {}, {name: values and list(values) for name, values in mining.items()}
    for method, miner in miners.items():
        rows, reports[method] = miner(rows, source, **mining)
    by_method = {method: vars(report) for method, report in reports.items()}
    counts |= {"rows": len(rows), "negatives": by_method if len(miners) > 1 else vars(reports[method])}
    return SplitPairs(rows, counts, "; ".join([_counted(counts), *map(str, reports.values())]))


def _counted(counts: Mapping[str, int]) -> str:
    return f"{counts['pairs']} pairs" + (f" in {counts['rows']} rows" if counts["rows"] != counts["pairs"] else "")


def write_splits(
    splits: Mapping[str, SplitPairs],
    counts: Mapping[str, Any],
    settings: Mapping[str, Any],
    folder: Path | None = None,
    file: Path | None = None,
) -> list[str]:
    """Write all pairs into `file`, and into `folder` the splits and their statistics; return what was written."""
    report = []
    if file is not None:
        write_pairs(file, chain.from_iterable(split.rows for split in splits.values()))
        total = {name: sum(split.counts[name] for split in splits.values()) for name in ("pairs", "rows")}
        report.append(f"{file}: {splits['all'].summary if 'all' in splits else _counted(total)}")
    if folder is not None:
        for name, path in FILES.items():
            write_pairs(folder / path, splits[name].rows)
            report.append(f"{folder / path}: {splits[name].summary}")
        by_split = {name: split.counts for name, split in splits.items()}
        write_json(folder / STATISTICS, {**counts, "splits": by_split, "settings": settings})
        report.append(f"statistics: {folder / STATISTICS}")
    return report


def prepare_python_docs(
    output_dir: Path,
    packages: Sequence[str] | None,
    max_documents: int | None,
    split: tuple[float, float, float],
    seed: int,
    miners: Miners,
) -> list[str]:
    """Write the Python documentation as a BEIR folder; the pairs of a split take negatives from its own documents."""
    entries = extract(python_doc_roots(), packages)
    documents, queries, qrels_by_split = build(entries, max_documents, seed, split)
    write_collection(output_dir, documents, queries, qrels_by_split)
    report = [f"{output_dir}: {len(documents)} documents of {len(entries)} found"]
    splits = [name for name in ("train", "dev") if name in qrels_by_split]
    return report + [_write_pairs_of(output_dir, name, miners, whole_corpus=False) for name in splits]


def prepare_held_out(
    folder: Path, output_dir: Path, split: str, fraction: float, seed: int, miners: Miners
) -> list[str]:
    """Write a BEIR folder with the queries of a split of another as train and dev, negatives from the whole corpus."""
    if output_dir.resolve() == folder.resolve():
        raise InputError(f"--output_dir {output_dir} is the folder that is read; name another one")
    whole = load_collection(folder, split)
    kept, held_out = hold_out_queries(whole, fraction, seed)
    write_collection(output_dir, whole.documents, whole.queries, {"train": kept.qrels, "dev": held_out.qrels})
    queries = f"  queries: {len(kept.queries)} in train, {len(held_out.queries)} in dev"
    pairs = _write_pairs_of(output_dir, "train", miners, whole_corpus=True)
    return [f"{output_dir}: {len(whole.documents)} documents", queries, pairs]


def _write_pairs_of(output_dir: Path, split: str, miners: Miners, whole_corpus: bool) -> str:
    made, path = prepare_collection(output_dir, split, miners, whole_corpus), output_dir / "pairs" / f"{split}.jsonl"
    write_pairs(path, made.rows)
    return f"  {path}: {made.summary}"


def prepare_collection(folder: Path, split: str, miners: Miners, whole_corpus: bool = True) -> SplitPairs:
    """Return the pairs of one split of a BEIR folder, with negatives from its corpus, or from the positives alone.

    Documents that other splits judge relevant are candidates too: to spare them would tell training which they are.
    """
    collection = load_collection(folder, split)
    pairs = pairs_from_collection(collection, whole_corpus)
    own = ((collection.queries[key], collection.documents[key].content) for key in collection.own_ids)
    return with_negatives(list(pairs.rows()), pairs.source, miners, pool=pairs.documents, known=own)


def generate_pairs(
    documents: Iterable[Document],
    maker: PairMaker,
    seed: int,
    shares: Sequence[float],
    num_pairs: int | None = None,
    near_duplicates: float | None = None,
) -> tuple[dict[str, Sequence[list[Row]]], dict[str, int]]:
    """Return by split the pairs of each document that makes some, and what became of how many documents.

    Documents are taken in the order of a hash of seed and content, each content once, without near duplicates of an
    earlier one (see `first_of_near_duplicates`; None keeps all). A pair that shares a text (but for case and blanks)
    with a pair of an earlier document is left out: its query would have two answers, one perhaps in another split.
    `num_pairs` takes the first documents, or several pairs of each where there are too few; None takes one of each.
    """
    split_by_shares([], shares)
    read = list(documents)
    distinct = [document for _, document in sorted({document_digest(item, seed): item for item in read}.items())]
    fresh = distinct
    if near_duplicates is not None:
        kept = first_of_near_duplicates([document.content for document in distinct], near_duplicates, seed)
        fresh = list(compress(distinct, kept))
    limit = len(fresh) if num_pairs is None else num_pairs
    by_document, counts = _unshared_pairs(fresh, maker, seed, limit)
    drawn = sorted((draw, place) for place, pairs in enumerate(by_document) for draw in range(len(pairs)))[:limit]
    taken = Counter(place for _, place in drawn)
    rows: list[list[Row]] = [[(*pair, None) for pair in made[: taken[place]]] for place, made in enumerate(by_document)]
    logger.info("%d pairs from %d of %d distinct documents", len(drawn), len(taken), len(distinct))
    if num_pairs is not None and len(drawn) < num_pairs:
        logger.warning("%d pairs were asked for, the documents give %d", num_pairs, len(drawn))
    before = {"repeated": len(read) - len(distinct), "near_duplicates": len(distinct) - len(fresh)}
    return split_by_shares(rows, shares), {"read": len(read), **before, **counts}


def _unshared_pairs(
    documents: list[Document], maker: PairMaker, seed: int, limit: int
) -> tuple[list[list[Pair]], dict[str, int]]:
    """Return the pairs of each document that makes some, without those that share a text with an earlier document."""
    times = max(1, -(-limit // max(1, len(documents))))
    seen: set[bytes] = set()
    by_document: list[list[Pair]] = []
    counts = {"too_short": 0, "shared": 0, "unused": len(documents), "used": 0}
    for document in tqdm(documents, desc="make pairs", unit=" documents", delay=2, leave=False):
        pairs = pairs_of_document(document, maker, seed, times)
        fresh = [pair for pair in pairs if not any(text_key(text) in seen for text in pair)]
        seen.update(text_key(text) for pair in fresh for text in pair)
        counts["unused"] -= 1
        counts["used" if fresh else "shared" if pairs else "too_short"] += 1
        by_document += [fresh] if fresh else []
        if len(by_document) == limit:
            break
    return by_document, counts


def negatives_of_generated(
    made: Mapping[str, Sequence[list[Row]]], source: str, miners: Miners
) -> dict[str, SplitPairs]:
    """Return the pairs of `generate_pairs` (InputError: none), with positives of other documents as negatives."""
    if not any(made.values()):
        raise InputError(f"{source}: no document is long enough for a pair; give longer ones or another --method")
    splits = {}
    for name, by_document in made.items():
        known = ((one[0], other[1]) for rows in by_document for one, other in product(rows, rows))
        splits[name] = with_negatives([*chain.from_iterable(by_document)], f"{source} ({name})", miners, known=known)
        splits[name].counts["documents"] = len(by_document)
    return splits


def prepare_pairs(
    pairs: str | Path, split: Sequence[float] | None, seed: int, pool: str | Path | None, miners: Miners
) -> tuple[dict[str, SplitPairs], int]:
    """Return the pairs of a file with negatives, and how many negatives answered queries of another split.

    With `split` they are split (see `split_pairs`), and negatives come from the positives of the same split, else from
    the documents in `pool`.
    """
    data = read_pairs(pairs)
    if split is None:
        texts = None if pool is None else [document.content for document in read_documents(pool)]
        return {"all": with_negatives(list(data.rows()), data.source, miners, pool=texts)}, 0
    places = split_pairs(data, split, seed)
    data, leaks = without_leaks(data, places)
    splits = {
        name: with_negatives(list(data.rows(rows)), f"{data.source} ({name})", miners) for name, rows in places.items()
    }
    return splits, leaks
