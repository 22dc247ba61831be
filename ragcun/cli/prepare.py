"""``ragcun prepare``: training data, and which flags make which files."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, get_args

from ragcun.cli.flags import MiningFlags
from ragcun.errors import InputError
from ragcun.options import check_bounds, check_one_of, flag

if TYPE_CHECKING:
    from ragcun.data.prepare import Miner, Outputs

NEAR_DUPLICATES = 0.9
RANKED = ("negative_ranks", "negative_margin", "negative_choice")
DENSE = ("base_model", "cache_dir", "device")


def methods() -> Iterable[str]:
    """Return how negatives can be mined."""
    from ragcun.retrieval.negatives import Method

    return get_args(Method)


@dataclass
class SourceFlags:
    """What is read, and where it goes."""

    title: ClassVar[str] = "data"
    documents: str | None = flag(
        None,
        "python_docs, a BEIR folder whose queries are split, or with --generate_pairs any file of documents",
        metavar="PATH",
    )
    pairs: Path | None = flag(None, "instead: pairs to be split or given negatives")
    output_dir: Path | None = flag(None, "folder to write: a BEIR folder, or the splits' pairs files")
    output: Path | None = flag(None, "file of all pairs (.json, .jsonl), splits in order")
    split: tuple[float, float, float] = flag(
        (0.8, 0.1, 0.1), "shares of the documents (or pairs) in train, dev and test", count=3
    )
    seed: int = flag(0, "seed of everything random")
    max_documents: int | None = flag(None, "python_docs: draw a sample of this many documents")
    packages: tuple[str, ...] = flag((), "python_docs: these top-level packages only")
    split_name: str = flag("train", "a BEIR folder: split whose queries are taken")
    hold_out: float = flag(0.2, "a BEIR folder: share of its queries for dev")


@dataclass
class GenerationFlags:
    """How pairs are made from documents."""

    title: ClassVar[str] = "pairs made from documents"
    generate_pairs: bool = flag(False, "make pairs of documents (.txt, JSON, CSV, BEIR)")
    method: str = flag("first_sentence", "how a pair is made of a document")
    num_pairs: int | None = flag(None, "pairs in all (default: one from each document)")
    masked_share: float | None = flag(None, "share of words that a mask_ method masks (default: 0.15)")
    mask: str | None = flag(None, "what stands for a masked word; '' drops it (default: [MASK])", metavar="TEXT")
    near_duplicates: float | None = flag(
        NEAR_DUPLICATES, "drop near-duplicates above this similarity, or none", at_most=1
    )


@dataclass(kw_only=True)
class Options(MiningFlags, GenerationFlags, SourceFlags):
    """Flags of ``ragcun prepare``."""

    title: ClassVar[str] = "hard negatives"
    add_negatives: str | None = flag(
        None, "add hard negatives: bm25 (where nothing follows), dense or random", bare="bm25", choices=methods
    )
    pool: str | None = flag(
        None,
        "documents that negatives of --pairs come from, as --documents takes them (default: the positives)",
        metavar="PATH",
    )

    def __post_init__(self) -> None:
        check_bounds(self)
        check_one_of(self, "documents", "pairs")
        self._check_source()
        self._check_mining()

    def _check_source(self) -> None:
        """Refuse flags that do not say what is read and what is written."""
        if self.generate_pairs and self.pairs:
            raise InputError("--generate_pairs makes pairs of --documents, and --pairs has some; leave out one of them")
        if self.generate_pairs and self.documents == "python_docs":
            raise InputError("--documents python_docs writes its own pairs; leave out --generate_pairs")
        if self.near_duplicates != NEAR_DUPLICATES and not self.generate_pairs:
            raise InputError("--near_duplicates is of --generate_pairs; add that, or leave it out")
        if self.near_duplicates is not None and self.near_duplicates <= 0:
            raise InputError(f"--near_duplicates must be above 0, or none, got {self.near_duplicates}")
        if (self.generate_pairs or self.pairs) and self.output_dir is None and self.output is None:
            raise InputError("--output_dir and --output are both missing: name a folder or a file to write")
        if self.pairs and self.output_dir is None and self.add_negatives is None:
            raise InputError("--pairs are neither split nor given negatives; add --output_dir or --add_negatives")
        if self.pairs and self.output is not None and self.output.resolve() == self.pairs.resolve():
            raise InputError(f"--output {self.output} is the file that is read; name another one")

    def _check_mining(self) -> None:
        """Refuse flags of hard negatives that would have no effect."""
        method = self.add_negatives
        defaults = {field.name: field.default for field in fields(MiningFlags)}
        for name in (name for name, default in defaults.items() if getattr(self, name) != default):
            if method is None or (name in DENSE and method != "dense"):
                needed = "--add_negatives dense" if name in DENSE else "--add_negatives"
                raise InputError(f"--{name} is of {needed}; add that, or leave it out")
            if method == "random" and name in RANKED:
                raise InputError(f"--{name} needs a ranking, which random negatives have none of; leave it out")
        if self.pool is not None and (self.pairs is None or self.output_dir is not None or method is None):
            raise InputError(
                "--pool goes with --pairs, --add_negatives and --output, without --output_dir; leave it out"
            )


def run(options: Options) -> str:
    """Prepare what the flags ask for, and return what was written, a line each.

    Raises:
        InputError: flags contradict each other, or a file or a setting is wrong.
    """
    from ragcun.data import prepare as data

    miner, documents = _miner(options), str(options.documents)
    if options.pairs is not None:
        how = (options.split, options.seed, _outputs(options), options.pool, miner)
        return "\n".join(data.prepare_pairs(options.pairs, *how))
    if options.generate_pairs:
        return "\n".join(_generated(options, miner))
    if options.output is not None and options.output_dir is None and miner and options.documents != "python_docs":
        return "\n".join(data.prepare_collection(Path(documents), options.split_name, _outputs(options), miner))
    if options.output_dir is None:
        raise InputError("--output_dir is missing: name the folder to write")
    if options.output is not None:
        raise InputError("--output_dir is a BEIR folder here, which has its own pairs files; leave out --output")
    if documents == "python_docs":
        sample = (options.packages or None, options.max_documents, options.split, options.seed)
        return "\n".join(data.prepare_python_docs(options.output_dir, *sample, miner))
    held_out = (options.split_name, options.hold_out, options.seed)
    return "\n".join(data.prepare_held_out(Path(documents), options.output_dir, *held_out, miner))


def _generated(options: Options, miner: Miner | None) -> list[str]:
    from ragcun.data.prepare import prepare_generated
    from ragcun.data.synthetic_queries import pair_maker

    maker = pair_maker(options.method, options.masked_share, options.mask)
    how = (options.split, options.seed, options.num_pairs, _outputs(options), options.near_duplicates)
    return prepare_generated(str(options.documents), maker, *how, miner)


def _outputs(options: Options) -> Outputs:
    from ragcun.data.prepare import Outputs

    settings = {name: value for name, value in asdict(options).items() if name not in ("output_dir", "output")}
    settings |= {name: str(value) for name, value in settings.items() if isinstance(value, Path)}
    return Outputs(options.output_dir, options.output, settings)


def _miner(options: Options) -> Miner | None:
    """Return what adds negatives as the flags say, None where none are asked for."""
    if options.add_negatives is None:
        return None
    from ragcun.retrieval.negatives import mine_negatives

    settings = options.mining_settings(options.add_negatives, options.seed)
    encoder = options.mining_encoder() if options.add_negatives == "dense" else None
    return functools.partial(mine_negatives, settings=settings, encoder=encoder)
