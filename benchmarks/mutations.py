"""Damage every file of a checkpoint in every way and count what loading says; see docs/troubleshooting.md."""

from __future__ import annotations

import argparse
import itertools
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ragcun import InputError, IsotropicGaussianEncoder, TextBase
from ragcun.data.overlap import HoldOut, text_hashes
from ragcun.models.encoder import RetrievalEncoder
from ragcun.retrieval.systems import EncodingOptions, open_system

KINDS = ("truncated", "bit flipped", "emptied", "deleted", "of another model")
NOT_COVERED = ("README.md",)
"""The model card: nothing that is computed follows from it, and evaluating with --update_card rewrites it."""
TEXTS = ["word1 word2 word3", "word4", "word5 word6 unknown"]


class Outcome(NamedTuple):
    """What came of one mutation: ``refused``, ``same embeddings``, ``other embeddings`` or an exception's name."""

    file: str
    kind: str
    result: str


def tiny_checkpoint(folder: Path, seed: int) -> None:
    """Write a checkpoint of a random BERT of 16 dimensions with a random head."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    torch.manual_seed(seed)
    with tempfile.TemporaryDirectory() as place:
        vocabulary = Path(place) / "vocab.txt"
        words = [f"word{i}" for i in range(20 + seed)]
        vocabulary.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]))
        BertTokenizerFast.from_pretrained(place, model_max_length=32 - seed).save_pretrained(place)
        config = BertConfig(
            vocab_size=len(words) + 5,
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=32 + seed,
        )
        BertModel(config).save_pretrained(place)
        modules = [Transformer(place, max_seq_length=32 - seed), Pooling(16, ("mean", "max")[seed % 2]), Normalize()]
        prompts = {"query": f"word{seed} ", "document": ""}
        base = TextBase(SentenceTransformer(modules=modules, device="cpu", prompts=prompts), f"tiny {seed}")
        encoder = IsotropicGaussianEncoder(base, head="mlp", output_dim=12 + seed)
        seen, hidden = text_hashes([f"seen {seed}"]), HoldOut(0.1 + seed / 10, seed)
        encoder.save_pretrained(folder, f"# {seed}\n", seen, hidden)


def mutated(content: bytes, kind: str, other: bytes, chance: random.Random) -> bytes | None:
    """Return a file's content after a mutation, None where the file goes; it differs from what it was."""
    if kind == "bit flipped":
        place = chance.randrange(8 * len(content))
        changed = bytearray(content)
        changed[place // 8] ^= 1 << place % 8
        return bytes(changed)
    if kind == "truncated":
        return content[: chance.randrange(len(content))]
    return {"emptied": b"", "deleted": None}.get(kind, other)


def outcomes(folder: Path, other: Path, count: int, seed: int) -> Iterator[Outcome]:
    """Mutate one file at a time, files and kinds in turn, load the folder, and bring the file back."""
    chance = random.Random(seed)
    expected = embeddings(RetrievalEncoder.from_pretrained(folder, "cpu"))
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    turns = itertools.cycle(list(itertools.product(KINDS, files)))
    with tempfile.TemporaryDirectory() as cache:
        ways = itertools.cycle([load_by_folder, lambda folder: load_as_system(folder, Path(cache))])
        for kind, file in itertools.islice(turns, count):
            before = (folder / file).read_bytes()
            others = [(other / name).read_bytes() for name in (file, *files)]
            after = mutated(before, kind, next(each for each in others if each != before), chance)
            (folder / file).unlink() if after is None else (folder / file).write_bytes(after)
            yield Outcome(str(file), kind, result_of(next(ways), folder, expected))
            (folder / file).write_bytes(before)


def result_of(load: Callable[[Path], Any], folder: Path, expected: NDArray[np.float32]) -> str:
    """Load a folder and say what came of it."""
    try:
        found = embeddings(load(folder))
    except InputError as error:
        return "refused" if "\n" not in str(error) and str(folder) in str(error) else "refused without its place"
    except Exception as error:  # noqa: BLE001 - any other exception is what is counted
        return type(error).__name__
    return "same embeddings" if np.array_equal(found, expected) else "other embeddings"


def load_by_folder(folder: Path) -> Any:
    return RetrievalEncoder.from_pretrained(folder, "cpu")


def load_as_system(folder: Path, cache: Path) -> Any:
    return open_system(str(folder), EncodingOptions(cache, device="cpu")).retriever.encoder.encoder


def embeddings(encoder: Any) -> NDArray[np.float32]:
    return np.concatenate([encoder.encode_query(TEXTS), encoder.encode_document(TEXTS)])


def table(found: list[Outcome]) -> str:
    """Lay out the counts: a row for each file, a column for each kind, and what was not refused."""
    lines = [f"| file | {' | '.join(KINDS)} |", f"|---|{'---|' * len(KINDS)}"]
    for file in sorted({outcome.file for outcome in found}):
        cells = []
        for kind in KINDS:
            counts = Counter(each.result for each in found if (each.file, each.kind) == (file, kind))
            cells.append(", ".join(f"{count} {result}" for result, count in sorted(counts.items())))
        lines.append(f"| {file} | {' | '.join(cells)} |")
    counts = Counter(each.result for each in found)
    lines.append(f"\n{len(found)} mutations: " + ", ".join(f"{n} {result}" for result, n in counts.most_common()))
    lines.append(f"not covered by checksums: {', '.join(NOT_COVERED)}")
    return "\n".join(lines)


def failures(found: list[Outcome]) -> list[Outcome]:
    """Return what was neither refused nor harmless in a file that decides nothing."""
    return [
        each
        for each in found
        if each.result != "refused" and not (each.file in NOT_COVERED and each.result == "same embeddings")
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=200, help="how many mutations (default: 200)")
    parser.add_argument("--seed", type=int, default=0)
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder, other = Path(place) / "model", Path(place) / "other"
        tiny_checkpoint(folder, 0)
        tiny_checkpoint(other, 1)
        found = list(outcomes(folder, other, flags.count, flags.seed))
    print(table(found))
    sys.exit(1 if failures(found) else 0)


if __name__ == "__main__":
    main()
