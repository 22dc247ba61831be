"""Preparing data on disk: a BEIR folder of Python documentation, held-out queries, or pairs made from documents.

Each function returns a report, a line for everything it wrote.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path

from ragcun.data.augment import PairMaker
from ragcun.data.beir import hold_out_queries, load_collection, pairs_from_collection, write_collection
from ragcun.data.documents import read_documents
from ragcun.data.pairs import write_pairs
from ragcun.data.python_docs import build, extract, python_doc_roots
from ragcun.data.splits import pairs_by_split
from ragcun.errors import InputError

FILES = {"train": "train.json", "dev": "val.json", "test": "test_eval.json"}
"""The pairs file of each split, named as in the founding notes."""


def prepare_python_docs(
    output_dir: Path,
    packages: Sequence[str] | None,
    max_documents: int | None,
    split: tuple[float, float, float],
    seed: int,
) -> list[str]:
    """Write the Python documentation as a BEIR folder with the splits train, dev and test, and pairs of two of them.

    Raises:
        InputError: a package is not installed, or the folder, the split or the number of documents is not possible.
    """
    entries = extract(python_doc_roots(), packages)
    corpus = build(entries, max_documents, seed, split)
    write_collection(output_dir, corpus.documents, corpus.queries, corpus.qrels_by_split)
    report = [f"{output_dir}: {len(corpus.documents)} documents of {len(entries)} found"]
    return report + _write_pairs_of(output_dir, [name for name in ("train", "dev") if name in corpus.qrels_by_split])


def prepare_held_out(folder: Path, output_dir: Path, split: str, fraction: float, seed: int) -> list[str]:
    """Write a BEIR folder whose split dev is held out of one split of another; the other splits are not copied.

    Raises:
        InputError: `folder` is none, is `output_dir`, or its queries cannot be divided so.
    """
    if folder.is_file():
        raise InputError(f"{folder} is a file of documents; add --generate_pairs to make pairs from it")
    if output_dir.resolve() == folder.resolve():
        raise InputError(f"--output_dir {output_dir} is the folder that is read; name another one")
    whole = load_collection(folder, split)
    kept, held_out = hold_out_queries(whole, fraction, seed)
    write_collection(output_dir, whole.documents, whole.queries, {"train": kept.qrels, "dev": held_out.qrels})
    report = [
        f"{output_dir}: {len(whole.documents)} documents",
        f"  queries: {len(kept.queries)} in train, {len(held_out.queries)} in dev",
    ]
    return report + _write_pairs_of(output_dir, ["train"])


def prepare_generated(
    documents: str | Path,
    maker: PairMaker,
    split: Sequence[float],
    seed: int,
    num_pairs: int | None = None,
    output_dir: Path | None = None,
    output: Path | None = None,
) -> list[str]:
    """Write pairs made from documents (see `pairs_by_split`), split by document.

    Args:
        documents: what `read_documents` reads.
        maker: makes a pair of a document.
        split: fractions of the documents in train, dev and test.
        seed: of all that is drawn.
        num_pairs: how many pairs in all; None takes one from each document.
        output_dir: folder of the pairs files in `FILES`, each written even where its split is empty.
        output: file of all pairs, .json or .jsonl, split after split.

    Raises:
        InputError: the documents cannot be read, none is long enough, or split or number is not possible.
    """
    splits = pairs_by_split(read_documents(documents), maker, seed, split, num_pairs)
    if not any(splits.values()):
        raise InputError(f"{documents}: no document is long enough for a pair; give longer ones or another --method")
    written = {} if output is None else {output: list(chain.from_iterable(splits.values()))}
    if output_dir is not None:
        written |= {output_dir / file: splits[name] for name, file in FILES.items()}
    for path, rows in written.items():
        write_pairs(path, rows)
    return [f"{path}: {len(rows)} pairs" for path, rows in written.items()]


def _write_pairs_of(output_dir: Path, splits: Iterable[str]) -> list[str]:
    """Write the pairs files of some splits of a BEIR folder into it."""
    report = []
    for split in splits:
        pairs = pairs_from_collection(load_collection(output_dir, split))
        path = output_dir / "pairs" / f"{split}.jsonl"
        write_pairs(path, pairs)
        report.append(f"  {path}: {len(pairs)} pairs")
    return report
