"""Files of pairs by split, their hard negatives, and the statistics beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, product
from pathlib import Path
from typing import Any

from ragcun.data.beir import hold_out_queries, load_collection, pairs_from_collection, write_collection
from ragcun.data.negatives import MinedPairs
from ragcun.data.pairs import Row, pairs_extension, read_pairs, write_pairs
from ragcun.data.python_docs import build, extract, python_doc_roots
from ragcun.data.records import read_documents
from ragcun.data.splits import generate_pairs, split_pairs, without_leaks
from ragcun.data.synthetic_queries import PairMaker
from ragcun.errors import InputError
from ragcun.io import write_json

FILES = {"train": "train.json", "dev": "val.json", "test": "test_eval.json"}
"""The pairs file of each split, named as in the founding notes."""
STATISTICS = "statistics.json"


Miner = Callable[..., MinedPairs]
"""What adds hard negatives to pairs: `ragcun.retrieval.negatives.mine_negatives` with its settings."""


@dataclass(frozen=True)
class Outputs:
    """Where pairs go: a folder of the files in `FILES` and of `STATISTICS`, a file of all pairs, or both.

    Raises:
        InputError: the extension of `file` is not one of JSON.
    """

    folder: Path | None = None
    file: Path | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What the statistics say of how the pairs were made."""

    def __post_init__(self) -> None:
        if self.file is not None:
            pairs_extension(self.file)


@dataclass
class SplitPairs:
    """The pairs of one split, a row for each negative, and what is known of them."""

    rows: list[Row]
    counts: dict[str, Any]

    @classmethod
    def of(cls, rows: list[Row], source: str, miner: Miner | None, **mining: Any) -> SplitPairs:
        """Return the pairs with the negatives that `miner` adds; `mining` are its pool and known answers."""
        pairs = len({(query, positive) for query, positive, _ in rows})
        if miner is None or not rows:
            return cls(rows, {"pairs": pairs, "rows": len(rows)})
        mined = miner(rows, source, **mining)
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


def prepare_python_docs(
    output_dir: Path,
    packages: Sequence[str] | None,
    max_documents: int | None,
    split: tuple[float, float, float],
    seed: int,
    miner: Miner | None = None,
) -> list[str]:
    """Write the Python documentation as a BEIR folder with the splits train, dev and test, and pairs of two of them.

    Negatives of a split come from its own documents.

    Raises:
        InputError: a package is not installed, or the folder, the split or the number of documents is not possible.
    """
    entries = extract(python_doc_roots(), packages)
    corpus = build(entries, max_documents, seed, split)
    write_collection(output_dir, corpus.documents, corpus.queries, corpus.qrels_by_split)
    report = [f"{output_dir}: {len(corpus.documents)} documents of {len(entries)} found"]
    splits = [name for name in ("train", "dev") if name in corpus.qrels_by_split]
    return report + _write_pairs_of(output_dir, splits, miner, whole_corpus=False)


def prepare_held_out(
    folder: Path, output_dir: Path, split: str, fraction: float, seed: int, miner: Miner | None = None
) -> list[str]:
    """Write a BEIR folder whose split dev is held out of one split of another; the other splits are not copied.

    Negatives come from the whole corpus, which all splits share.

    Raises:
        InputError: `folder` is none, is `output_dir`, or its queries cannot be divided so.
    """
    _check_folder(folder)
    if output_dir.resolve() == folder.resolve():
        raise InputError(f"--output_dir {output_dir} is the folder that is read; name another one")
    whole = load_collection(folder, split)
    kept, held_out = hold_out_queries(whole, fraction, seed)
    write_collection(output_dir, whole.documents, whole.queries, {"train": kept.qrels, "dev": held_out.qrels})
    report = [
        f"{output_dir}: {len(whole.documents)} documents",
        f"  queries: {len(kept.queries)} in train, {len(held_out.queries)} in dev",
    ]
    return report + _write_pairs_of(output_dir, ["train"], miner, whole_corpus=True)


def prepare_collection(folder: Path, split: str, outputs: Outputs, miner: Miner) -> list[str]:
    """Write the pairs of one split of a BEIR folder, with negatives from its corpus, into the file of `outputs`.

    Documents that other splits judge relevant are candidates too: to spare them would tell training which they are.

    Raises:
        InputError: `folder` is none, has no such split, or the split has no pairs.
    """
    _check_folder(folder)
    pairs = pairs_from_collection(load_collection(folder, split), whole_corpus=True)
    mined = SplitPairs.of(list(pairs.rows()), pairs.source, miner, pool=pairs.documents)
    return write_splits({"all": mined}, outputs, {})


def prepare_generated(
    documents: str | Path,
    maker: PairMaker,
    split: Sequence[float],
    seed: int,
    num_pairs: int | None,
    outputs: Outputs,
    near_duplicates: float | None = None,
    miner: Miner | None = None,
) -> list[str]:
    """Write pairs made from documents, split by document; the arguments are those of `generate_pairs`.

    Negatives of a split are positives of the same split that come from other documents than the pair.

    Raises:
        InputError: the documents cannot be read, none is long enough, or split or number is not possible.
    """
    made = generate_pairs(read_documents(documents), maker, seed, split, num_pairs, near_duplicates)
    if not any(made.by_document.values()):
        raise InputError(f"{documents}: no document is long enough for a pair; give longer ones or another --method")
    splits = {}
    for name, by_document in made.by_document.items():
        known = chain.from_iterable(
            product((query for query, _, _ in rows), (positive for _, positive, _ in rows))
            for rows in by_document
            if len(rows) > 1
        )
        splits[name] = SplitPairs.of(made.rows(name), f"{documents} ({name})", miner, known=known)
        splits[name].counts["documents"] = len(by_document)
    counted = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in made.documents.items())
    return [f"{documents}: documents: {counted}", *write_splits(splits, outputs, {"documents": made.documents})]


def prepare_pairs(
    pairs: str | Path,
    split: Sequence[float],
    seed: int,
    outputs: Outputs,
    pool: str | Path | None = None,
    miner: Miner | None = None,
) -> list[str]:
    """Write the pairs of a file, split where `outputs` names a folder (see `split_pairs`), with negatives.

    Negatives come from the documents in `pool` where pairs are not split, else from the positives of the same split.

    Raises:
        InputError: a file cannot be read, or the split is not possible.
    """
    data = read_pairs(pairs)
    if outputs.folder is None:
        texts = None if pool is None else [document.content for document in read_documents(pool)]
        return write_splits({"all": SplitPairs.of(list(data.rows()), data.source, miner, pool=texts)}, outputs, {})
    places = split_pairs(data, split, seed)
    data, leaks = without_leaks(data, places)
    splits = {
        name: SplitPairs.of(list(data.rows(rows)), f"{data.source} ({name})", miner) for name, rows in places.items()
    }
    return write_splits(splits, outputs, {"negatives_of_other_splits": leaks})


def _check_folder(folder: Path) -> None:
    if folder.is_file():
        raise InputError(f"{folder} is a file of documents; add --generate_pairs to make pairs from it")


def _write_pairs_of(output_dir: Path, splits: Iterable[str], miner: Miner | None, whole_corpus: bool) -> list[str]:
    """Write the pairs files of some splits of a BEIR folder into it."""
    report = []
    for name in splits:
        pairs = pairs_from_collection(load_collection(output_dir, name), whole_corpus)
        pool = pairs.documents if whole_corpus else None
        split = SplitPairs.of(list(pairs.rows()), pairs.source, miner, pool=pool)
        path = output_dir / "pairs" / f"{name}.jsonl"
        write_pairs(path, split.rows)
        report.append(f"  {path}: {split}")
    return report
