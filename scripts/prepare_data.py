"""Prepare a BEIR folder: from the documentation of the installed Python packages, or with held-out training queries."""

from __future__ import annotations

import argparse
from pathlib import Path

from ragcun.cli import ArgumentParser, run_script


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--documents", required=True, help="python_docs, or a BEIR folder whose queries are split")
    parser.add_argument("--output_dir", type=Path, required=True, help="BEIR folder to write")
    parser.add_argument("--seed", type=int, default=0, help="seed of the sample and of the split (default: 0)")
    docs = parser.add_argument_group("python_docs")
    docs.add_argument("--max_documents", type=int, help="take a sample of this many documents")
    docs.add_argument("--packages", nargs="+", metavar="NAME", help="take these top-level packages only")
    shares = "fractions of the documents in train, dev and test (default: 0.8 0.1 0.1)"
    docs.add_argument("--split", type=float, nargs=3, default=(0.8, 0.1, 0.1), metavar="FRACTION", help=shares)
    folder = parser.add_argument_group("a BEIR folder")
    folder.add_argument("--split_name", default="train", help="split whose queries are divided (default: train)")
    folder.add_argument("--hold_out", type=float, default=0.2, help="fraction of its queries for dev (default: 0.2)")
    return parser.parse_args()


def prepare_python_docs(arguments: argparse.Namespace) -> None:
    """Write the Python documentation as a BEIR folder with the splits train, dev and test, and pairs of two of them."""
    from ragcun.data.beir import write_collection
    from ragcun.data.python_docs import build, extract, python_doc_roots

    entries = extract(python_doc_roots(), arguments.packages)
    corpus = build(entries, arguments.max_documents, arguments.seed, tuple(arguments.split))
    write_collection(arguments.output_dir, corpus.documents, corpus.queries, corpus.qrels_by_split)
    print(f"{arguments.output_dir}: {len(corpus.documents)} documents of {len(entries)} found")
    write_pairs_of(arguments.output_dir, [split for split in ("train", "dev") if split in corpus.qrels_by_split])


def prepare_held_out(arguments: argparse.Namespace) -> None:
    """Write a BEIR folder whose split dev is held out of one split of another; the other splits are not copied."""
    from ragcun.data.beir import hold_out_queries, load_collection, write_collection
    from ragcun.errors import InputError

    if arguments.output_dir.resolve() == Path(arguments.documents).resolve():
        raise InputError(f"--output_dir {arguments.output_dir} is the folder that is read; name another one")
    whole = load_collection(arguments.documents, arguments.split_name)
    kept, held_out = hold_out_queries(whole, arguments.hold_out, arguments.seed)
    qrels = {"train": kept.qrels, "dev": held_out.qrels}
    write_collection(arguments.output_dir, whole.documents, whole.queries, qrels)
    print(f"{arguments.output_dir}: {len(whole.documents)} documents")
    print(f"  queries: {len(kept.queries)} in train, {len(held_out.queries)} in dev")
    write_pairs_of(arguments.output_dir, ["train"])


def write_pairs_of(output_dir: Path, splits: list[str]) -> None:
    """Write the pairs files of some splits of a BEIR folder into it."""
    from ragcun.data.beir import load_collection, pairs_from_collection
    from ragcun.data.pairs import write_pairs

    for split in splits:
        pairs = pairs_from_collection(load_collection(output_dir, split))
        path = output_dir / "pairs" / f"{split}.jsonl"
        write_pairs(path, pairs)
        print(f"  {path}: {len(pairs)} pairs")


def main() -> None:
    """Prepare what the command line asks for."""
    arguments = parse_arguments()
    (prepare_python_docs if arguments.documents == "python_docs" else prepare_held_out)(arguments)


if __name__ == "__main__":
    run_script(main)
