"""Prepare training data: a BEIR folder of Python documentation, held-out queries, or pairs made from documents."""

from __future__ import annotations

import argparse
from pathlib import Path

from ragcun.cli import ArgumentParser, run_script
from ragcun.errors import InputError


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = ArgumentParser(description=__doc__)
    source = "python_docs, a BEIR folder whose queries are split, or with --generate_pairs any file of documents"
    parser.add_argument("--documents", required=True, help=source)
    parser.add_argument("--output_dir", type=Path, help="folder to write: a BEIR folder, or the splits' pairs files")
    parser.add_argument("--seed", type=int, default=0, help="seed of all that is drawn (default: 0)")
    shares = "fractions of the documents in train, dev and test (default: 0.8 0.1 0.1)"
    parser.add_argument("--split", type=float, nargs=3, default=(0.8, 0.1, 0.1), metavar="FRACTION", help=shares)
    docs = parser.add_argument_group("python_docs")
    docs.add_argument("--max_documents", type=int, help="take a sample of this many documents")
    docs.add_argument("--packages", nargs="+", metavar="NAME", help="take these top-level packages only")
    folder = parser.add_argument_group("a BEIR folder")
    folder.add_argument("--split_name", default="train", help="split whose queries are divided (default: train)")
    folder.add_argument("--hold_out", type=float, default=0.2, help="fraction of its queries for dev (default: 0.2)")
    pairs = parser.add_argument_group("pairs made from documents")
    pairs.add_argument("--generate_pairs", action="store_true", help="make pairs of documents (.txt, JSON, CSV, BEIR)")
    pairs.add_argument("--method", default="first_sentence", help="how (default: %(default)s)")
    pairs.add_argument("--num_pairs", type=int, help="how many in all (default: one from each document)")
    pairs.add_argument("--masked_share", type=float, help="share of words that a mask_ method masks (default: 0.15)")
    pairs.add_argument("--mask", help="what stands for a masked word; '' drops it (default: [MASK])")
    pairs.add_argument("--output", type=Path, metavar="FILE", help="file of all pairs (.json, .jsonl), splits in order")
    return parser.parse_args()


def prepare(flags: argparse.Namespace) -> list[str]:
    """Prepare what the command line asks for, and return what was written."""
    from ragcun.data import augment, prepare

    if flags.generate_pairs:
        if flags.documents == "python_docs":
            raise InputError("--documents python_docs writes its own pairs; leave out --generate_pairs")
        if flags.output_dir is None and flags.output is None:
            raise InputError("--output_dir and --output are both missing: name a folder or a file to write")
        maker = augment.pair_maker(flags.method, flags.masked_share, flags.mask)
        places = (flags.output_dir, flags.output)
        return prepare.prepare_generated(flags.documents, maker, flags.split, flags.seed, flags.num_pairs, *places)
    if flags.output_dir is None:
        raise InputError("--output_dir is missing: name the folder to write")
    if flags.documents == "python_docs":
        sample = (flags.packages, flags.max_documents, tuple(flags.split), flags.seed)
        return prepare.prepare_python_docs(flags.output_dir, *sample)
    held_out = (flags.split_name, flags.hold_out, flags.seed)
    return prepare.prepare_held_out(Path(flags.documents), flags.output_dir, *held_out)


def main() -> None:
    """Prepare, and say what was written."""
    print("\n".join(prepare(parse_arguments())))


if __name__ == "__main__":
    run_script(main)
