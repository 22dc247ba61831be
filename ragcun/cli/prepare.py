"""What ``scripts/prepare_data.py`` does: its flags, and which of them make which files."""

from __future__ import annotations

import argparse
import functools
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from ragcun.cli.parser import ArgumentParser
from ragcun.data.negatives import Choice, Method, MiningSettings
from ragcun.errors import InputError

if TYPE_CHECKING:
    from ragcun.data.prepare import Miner, Outputs
    from ragcun.models.cached_encoder import CachedEncoder

NEAR_DUPLICATES = 0.9
MINING = ("negatives_per_query", "negative_ranks", "negative_margin", "negative_choice")
RANKED = MINING[1:]
DENSE = ("base_model", "cache_dir", "device")


def parse_preparation(description: str | None) -> argparse.Namespace:
    """Parse the flags of `prepare`."""
    parser = ArgumentParser(description=description)
    source = "python_docs, a BEIR folder whose queries are split, or with --generate_pairs any file of documents"
    parser.add_argument("--documents", help=source)
    parser.add_argument("--pairs", type=Path, metavar="FILE", help="instead: pairs to be split or given negatives")
    parser.add_argument("--output_dir", type=Path, help="folder to write: a BEIR folder, or the splits' pairs files")
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="file of all pairs (.json, .jsonl), splits in order"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of all that is drawn (default: 0)")
    shares = "fractions of the documents (or pairs) in train, dev and test (default: 0.8 0.1 0.1)"
    parser.add_argument("--split", type=float, nargs=3, default=(0.8, 0.1, 0.1), metavar="FRACTION", help=shares)
    docs = parser.add_argument_group("python_docs")
    docs.add_argument("--max_documents", type=int, help="take a sample of this many documents")
    docs.add_argument("--packages", nargs="+", metavar="NAME", help="take these top-level packages only")
    folder = parser.add_argument_group("a BEIR folder")
    folder.add_argument("--split_name", default="train", help="split whose queries are taken (default: train)")
    folder.add_argument("--hold_out", type=float, default=0.2, help="fraction of its queries for dev (default: 0.2)")
    _add_generation(parser)
    _add_mining(parser)
    return parser.parse_args()


def prepare(flags: argparse.Namespace) -> str:
    """Prepare what the flags ask for, and return what was written, a line each.

    Raises:
        InputError: flags contradict each other, or a file or a setting is wrong.
    """
    from ragcun.data import prepare as data

    _check_source(flags)
    _check_mining(flags)
    miner = _miner(flags)
    if flags.pairs is not None:
        return "\n".join(data.prepare_pairs(flags.pairs, flags.split, flags.seed, _outputs(flags), flags.pool, miner))
    if flags.generate_pairs:
        return "\n".join(_generated(flags, miner))
    if flags.output is not None and flags.output_dir is None and miner and flags.documents != "python_docs":
        return "\n".join(data.prepare_collection(Path(flags.documents), flags.split_name, _outputs(flags), miner))
    if flags.output_dir is None:
        raise InputError("--output_dir is missing: name the folder to write")
    if flags.output is not None:
        raise InputError("--output_dir is a BEIR folder here, which has its own pairs files; leave out --output")
    if flags.documents == "python_docs":
        sample = (flags.packages, flags.max_documents, tuple(flags.split), flags.seed)
        return "\n".join(data.prepare_python_docs(flags.output_dir, *sample, miner))
    held_out = (flags.split_name, flags.hold_out, flags.seed)
    return "\n".join(data.prepare_held_out(Path(flags.documents), flags.output_dir, *held_out, miner))


def _add_generation(parser: argparse.ArgumentParser) -> None:
    pairs = parser.add_argument_group("pairs made from documents")
    pairs.add_argument("--generate_pairs", action="store_true", help="make pairs of documents (.txt, JSON, CSV, BEIR)")
    pairs.add_argument("--method", default="first_sentence", help="how (default: %(default)s)")
    pairs.add_argument("--num_pairs", type=int, help="how many in all (default: one from each document)")
    pairs.add_argument("--masked_share", type=float, help="share of words that a mask_ method masks (default: 0.15)")
    pairs.add_argument("--mask", help="what stands for a masked word; '' drops it (default: [MASK])")
    near = f"similarity from which one of two documents goes, or none (default: {NEAR_DUPLICATES})"
    pairs.add_argument("--near_duplicates", type=_number_or_none(math.inf), metavar="SHARE", help=near)


def _add_mining(parser: argparse.ArgumentParser) -> None:
    mining = parser.add_argument_group("hard negatives")
    how = "add hard negatives: bm25 (where nothing follows), dense or random"
    methods = get_args(Method)
    mining.add_argument("--add_negatives", nargs="?", const="bm25", choices=methods, help=how)
    mining.add_argument("--negatives_per_query", type=int, metavar="N", help="how many each pair gets (default: 1)")
    ranks = "take ranks A to B - 1, counted from 0 without known positives (default: 0 100)"
    mining.add_argument("--negative_ranks", type=int, nargs=2, metavar=("A", "B"), help=ranks)
    margin = "keep candidates up to (1 - margin) of the positive's score, or none (default: 0.05 dense, 0 bm25)"
    mining.add_argument("--negative_margin", type=_number_or_none(-math.inf), metavar="MARGIN", help=margin)
    choice = "take the hardest of what is left, or draw (default: drawn)"
    mining.add_argument("--negative_choice", choices=get_args(Choice), help=choice)
    pool = "documents that negatives of --pairs come from, as --documents takes them (default: the positives)"
    mining.add_argument("--pool", metavar="PATH", help=pool)
    mining.add_argument("--base_model", metavar="NAME", help="ranks for dense: hub name, folder or minilm (default)")
    mining.add_argument("--cache_dir", metavar="DIR", help="its vectors (default: $RAGCUN_CACHE or ~/.cache/ragcun)")
    mining.add_argument("--device", help="where it runs: cpu or cuda (default: a GPU where there is one)")


def _check_source(flags: argparse.Namespace) -> None:
    """Refuse flags that do not say what is read and what is written."""
    pairs, nowhere = flags.pairs is not None, flags.output_dir is None and flags.output is None
    if (flags.documents is None) != pairs:
        raise InputError(f"--documents and --pairs are {'both given' if pairs else 'both missing'}: name one of them")
    if flags.generate_pairs and pairs:
        raise InputError("--generate_pairs makes pairs of --documents, and --pairs has some; leave out one of them")
    if flags.generate_pairs and flags.documents == "python_docs":
        raise InputError("--documents python_docs writes its own pairs; leave out --generate_pairs")
    if flags.near_duplicates is not None and not flags.generate_pairs:
        raise InputError("--near_duplicates is of --generate_pairs; add that, or leave it out")
    if (flags.generate_pairs or pairs) and nowhere:
        raise InputError("--output_dir and --output are both missing: name a folder or a file to write")
    if pairs and flags.output_dir is None and flags.add_negatives is None:
        raise InputError("--pairs are neither split nor given negatives; add --output_dir or --add_negatives")
    if pairs and flags.output is not None and flags.output.resolve() == flags.pairs.resolve():
        raise InputError(f"--output {flags.output} is the file that is read; name another one")


def _check_mining(flags: argparse.Namespace) -> None:
    """Refuse flags of hard negatives that would have no effect."""
    method = flags.add_negatives
    given = [name for name in (*MINING, *DENSE) if getattr(flags, name) is not None]
    for name in given:
        if method is None or (name in DENSE and method != "dense"):
            needed = "--add_negatives" if name in MINING else "--add_negatives dense"
            raise InputError(f"--{name} is of {needed}; add that, or leave it out")
        if method == "random" and name in RANKED:
            raise InputError(f"--{name} needs a ranking, which random negatives have none of; leave it out")
    if flags.pool is not None and (flags.pairs is None or flags.output_dir is not None or method is None):
        raise InputError("--pool is of --pairs FILE --add_negatives --output FILE, without --output_dir; leave it out")


def _generated(flags: argparse.Namespace, miner: Miner | None) -> list[str]:
    from ragcun.data.prepare import prepare_generated
    from ragcun.data.synthetic_queries import pair_maker

    maker = pair_maker(flags.method, flags.masked_share, flags.mask)
    near = NEAR_DUPLICATES if flags.near_duplicates is None else flags.near_duplicates
    if not (0 < near <= 1 or near == math.inf):
        raise InputError(f"--near_duplicates must be above 0 and at most 1, or none, got {near}")
    how = (flags.split, flags.seed, flags.num_pairs, _outputs(flags))
    return prepare_generated(flags.documents, maker, *how, None if near == math.inf else near, miner)


def _outputs(flags: argparse.Namespace) -> Outputs:
    from ragcun.data.prepare import Outputs

    places = ("output_dir", "output")
    given = {name: value for name, value in vars(flags).items() if value is not None and name not in places}
    settings = {name: "none" if value in (math.inf, -math.inf) else value for name, value in given.items()}
    settings |= {name: str(value) for name, value in given.items() if isinstance(value, Path)}
    return Outputs(flags.output_dir, flags.output, settings)


def _miner(flags: argparse.Namespace) -> Miner | None:
    """Return what adds negatives as the flags say, None where none are asked for."""
    if flags.add_negatives is None:
        return None
    first, last = flags.negative_ranks or (None, None)
    given = {
        "per_query": flags.negatives_per_query,
        "first": first,
        "last": last,
        "margin": flags.negative_margin,
        "choice": flags.negative_choice,
    }
    chosen: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    try:
        settings = MiningSettings(method=flags.add_negatives, seed=flags.seed, **chosen)
    except ValueError as error:
        raise InputError(f"negatives cannot be mined so: {error}") from error
    from ragcun.retrieval.negatives import mine_negatives

    return functools.partial(mine_negatives, settings=settings, encoder=_encoder(flags))


def _encoder(flags: argparse.Namespace) -> CachedEncoder | None:
    if flags.add_negatives != "dense":
        return None
    from ragcun.embeddings.cache import EmbeddingCache
    from ragcun.embeddings.text_base import TextBase
    from ragcun.models.cached_encoder import CachedEncoder

    base = TextBase.load(flags.base_model or "minilm", device=flags.device)
    return CachedEncoder(EmbeddingCache(base, flags.cache_dir))


def _number_or_none(none: float) -> Any:
    """Return a parser of a number, or of the word none, which means `none`."""

    def number(text: str) -> float:
        return none if text.lower() == "none" else float(text)

    return number
