"""``ragcun prepare``: training data, and which flags make which files."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

from ragcun.cli.flags import MiningFlags
from ragcun.config import SEED_HELP
from ragcun.options import check_one_of, flag, refuse

PYTHON = "python_docs"
NEAR_DUPLICATES = 0.9
RANKED = ("negative_ranks", "negative_margin", "negative_choice")
DENSE = ("base_model", "cache_dir", "device")


@dataclass
class SourceFlags:
    """What is read, and where it goes."""

    title: ClassVar[str] = "data"
    documents: str | None = flag(
        None, "python_docs, BEIR folder whose queries are split, or with --generate_pairs any documents", metavar="PATH"
    )
    pairs: Path | None = flag(None, "instead: pairs to split or to add negatives to")
    output_dir: Path | None = flag(None, "folder to write: a BEIR folder, or the splits' pairs files")
    output: Path | None = flag(None, "file of all pairs (.json, .jsonl), splits in order")
    split: tuple[float, float, float] = flag((0.8, 0.1, 0.1), "shares of documents (or pairs): train, dev and test")
    seed: int = flag(0, SEED_HELP, at_least=0)
    max_documents: int | None = flag(None, "python_docs: draw a sample of this many documents", at_least=1)
    packages: tuple[str, ...] = flag((), "python_docs: these top-level packages only")
    split_name: str = flag("train", "a BEIR folder: split whose queries are taken")
    hold_out: float = flag(0.2, "a BEIR folder: share of its queries for dev")


@dataclass
class GenerationFlags:
    """How pairs are made from documents."""

    title: ClassVar[str] = "pairs made from documents"
    generate_pairs: bool = flag(False, "make pairs of documents (.txt, JSON, CSV, BEIR)")
    method: str = flag("first_sentence", "how a pair is made from a document")
    num_pairs: int | None = flag(None, "pairs in all (default: one from each document)", at_least=1)
    masked_share: float | None = flag(None, "share of words that a mask_ method masks (default: 0.15)")
    mask: str | None = flag(None, "replacement of a masked word; '' drops it (default: [MASK])", metavar="TEXT")
    near_duplicates: float | None = flag(
        NEAR_DUPLICATES, "drop near-duplicates above this similarity; none keeps all", at_most=1
    )


@dataclass(kw_only=True)
class Options(MiningFlags, GenerationFlags, SourceFlags):
    """Flags of ``ragcun prepare``."""

    title: ClassVar[str] = "hard negatives"
    add_negatives: tuple[str, ...] = flag(
        (),
        "add hard negatives from bm25 (the default), dense or random; several add theirs each",
        bare=("bm25",),
        choices="retrieval.negatives:Method",
    )
    pool: str | None = flag(None, "documents for the negatives of --pairs (default: the positives)", metavar="PATH")

    def __post_init__(self) -> None:
        from ragcun.data.pairs import require_json_name

        check_one_of(self, "documents", "pairs")
        if self.output is not None:
            require_json_name(self.output)
        documents, pairs, folder, file = self.documents, self.pairs, self.output_dir, self.output
        makes, mines, similar = self.generate_pairs, self.add_negatives, self.near_duplicates
        is_file, is_read = documents and Path(documents).is_file(), pairs and file and file.resolve() == pairs.resolve()
        splits, mines_file = not makes and not pairs, file and mines and documents != PYTHON
        both, idle = folder and file, pairs and folder is None and not mines
        loose = self.pool and (folder or not pairs or not mines)
        mistakes = {
            "--generate_pairs makes pairs of --documents, and --pairs has some; leave out one of them": makes and pairs,
            f"{documents} is a file of documents; add --generate_pairs to make pairs from it": is_file and not makes,
            "--documents python_docs writes its own pairs; leave out --generate_pairs": makes and documents == PYTHON,
            "--near_duplicates is of --generate_pairs; add that": similar != NEAR_DUPLICATES and not makes,
            f"--near_duplicates must be above 0, or none, got {similar}": similar is not None and similar <= 0,
            "--output_dir and --output are both missing: name one of them": not (splits or folder or file),
            "--pairs are neither split nor given negatives; add --output_dir or --add_negatives": idle,
            f"--output {file} is the file that is read; name another one": is_read,
            "--output_dir is missing: name the folder to write": splits and not folder and not mines_file,
            "--output_dir is a BEIR folder here, with its own pairs files; leave out --output": splits and both,
            "--pool goes with --pairs, --add_negatives and --output alone": loose,
        }
        for name in (field.name for field in fields(MiningFlags) if getattr(self, field.name) != field.default):
            needed = "--add_negatives dense" if name in DENSE else "--add_negatives"
            useless = not mines or (name in DENSE and "dense" not in mines)
            mistakes[f"--{name} is of {needed}; add that, or leave it out"] = useless
            unranked = name in RANKED and set(mines) == {"random"}
            mistakes[f"--{name} needs a ranking, which random negatives have none of; leave it out"] = unranked
        refuse(mistakes)


def run(options: Options) -> str:
    """Prepare what the flags ask for, and return what was written, a line each."""
    from ragcun.data import prepare as data
    from ragcun.data.records import read_documents
    from ragcun.data.synthetic_queries import pair_maker

    folder, file, split, seed = options.output_dir, options.output, options.split, options.seed
    documents, name = str(options.documents), options.split_name
    miners = {method: options.miner(method, seed) for method in options.add_negatives}
    report: list[str] = []
    counts: dict[str, Any] = {}
    if options.pairs is not None:
        splits, leaks = data.prepare_pairs(options.pairs, split if folder else None, seed, options.pool, miners)
        counts = {"negatives_of_other_splits": leaks}
    elif options.generate_pairs:
        maker = pair_maker(options.method, options.masked_share, options.mask)
        chosen = (maker, seed, split, options.num_pairs, options.near_duplicates)
        made, counts["documents"] = data.generate_pairs(read_documents(documents), *chosen)
        splits = data.negatives_of_generated(made, documents, miners)
        counted = (f"{count} {what.replace('_', ' ')}" for what, count in counts["documents"].items())
        report = [f"{documents}: documents: {', '.join(counted)}"]
    elif folder is None:
        splits = {"all": data.prepare_collection(Path(documents), name, miners)}
    elif documents == PYTHON:
        sample = (options.packages or None, options.max_documents, split, seed)
        return "\n".join(data.prepare_python_docs(folder, *sample, miners))
    else:
        return "\n".join(data.prepare_held_out(Path(documents), folder, name, options.hold_out, seed, miners))
    settings = {name: value for name, value in asdict(options).items() if name not in ("output_dir", "output")}
    settings |= {name: str(value) for name, value in settings.items() if isinstance(value, Path)}
    return "\n".join([*report, *data.write_splits(splits, counts, settings, folder, file)])
