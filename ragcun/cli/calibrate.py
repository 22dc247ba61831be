"""What ``scripts/calibrate.py`` does: its flags, the fit, and the checkpoint."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from ragcun.cli.encoding_flags import add_encoding_flags
from ragcun.cli.parser import ArgumentParser
from ragcun.errors import InputError

if TYPE_CHECKING:
    from ragcun.embeddings.text_base import TextBase
    from ragcun.models.systems import AsymmetricProjectionModel

CLOSED_FORM = ("exponent", "eps", "shrinkage", "output_dim")
"""Flags that are settings of `ragcun.calibrate`."""


def parse_calibration(description: str | None) -> argparse.Namespace:
    """Parse the flags of `calibrate`."""
    parser = ArgumentParser(description=description)
    base = "hub name, folder or minilm (default: %(default)s)"
    parser.add_argument("--base_model", default="minilm", metavar="NAME", help=base)
    corpus = "documents: a BEIR folder, .txt (one a line), or .json, .jsonl, .csv with the field text"
    parser.add_argument("--corpus", required=True, metavar="PATH", help=corpus)
    queries = "queries without labels, as --corpus takes documents (default: sentences of the corpus stand in)"
    parser.add_argument("--queries", metavar="PATH", help=queries)
    split = "take those that this split of the BEIR folder in --queries judges (default: all, test ones too)"
    parser.add_argument("--query_split", metavar="NAME", help=split)
    parser.add_argument("--output_dir", required=True, type=Path, metavar="DIR", help="checkpoint folder to write")
    fewer = "take a sample of this many queries (default: all; 2,000 sentences where they stand in)"
    parser.add_argument("--max_queries", type=int, metavar="N", help=fewer)
    exponent = "0 moves queries alone, 0.5 whitens (default: %(default)s)"
    parser.add_argument("--exponent", type=float, default=0.15, help=exponent)
    parser.add_argument("--eps", type=float, default=1e-3, help="added to each variance (default: %(default)s)")
    shrinkage = "how many queries without a gap to the corpus count too (default: %(default)s)"
    parser.add_argument("--shrinkage", type=float, default=5.0, help=shrinkage)
    parser.add_argument("--output_dim", type=int, help="length of the embeddings (default: the base's)")
    sample = "take a sample of this many documents from a larger corpus (default: %(default)s)"
    parser.add_argument("--max_documents", type=int, default=100_000, help=sample)
    parser.add_argument("--seed", type=int, default=0, help="seed of all that is drawn (default: 0)")
    add_encoding_flags(parser)
    return parser.parse_args()


def calibrate(flags: argparse.Namespace) -> str:
    """Fit a head to a corpus in closed form, write it as a checkpoint, and return a summary of two lines.

    Raises:
        InputError: a setting or a file is wrong, or the output folder holds something else.
    """
    from ragcun.data.records import read_documents
    from ragcun.data.unlabelled import STAND_INS, read_queries, sample_documents, sample_queries, sentences_as_queries
    from ragcun.embeddings.text_base import TextBase

    _check_calibration(flags)
    documents = [document for document in read_documents(flags.corpus) if document.content]
    texts = [document.content for document in sample_documents(documents, flags.max_documents, flags.seed)]
    if flags.queries:
        queries = sample_queries(read_queries(flags.queries, flags.query_split), flags.max_queries, flags.seed)
        source = f"queries of {flags.queries}"
    else:
        queries = sentences_as_queries(documents, flags.max_queries or STAND_INS, flags.seed)
        source = "sentences of the corpus that stand in for queries"
    base = TextBase.load(flags.base_model, device=flags.device)
    base.compute_in(flags.base_dtype)
    try:
        encoder = _calibrated(base, texts, queries, flags)
    except ValueError as error:
        raise InputError(f"cannot calibrate by {flags.corpus}: {error}") from error
    fitted = f"{len(texts)} of {len(documents)} documents of {flags.corpus}, {len(queries)} {source}"
    encoder.save_pretrained(flags.output_dir, _calibration_card(encoder, fitted, flags), seen=frozenset())
    return f"fitted to {fitted}\n{encoder.dimension} dimensions of length 1; checkpoint: {flags.output_dir}"


def _check_calibration(flags: argparse.Namespace) -> None:
    from ragcun.models.checkpoint import is_checkpoint

    output = flags.output_dir
    if output.exists() and not output.is_dir():
        raise InputError(f"--output_dir {output} is a file; name a folder")
    if output.is_dir() and any(output.iterdir()) and not is_checkpoint(output):
        raise InputError(f"--output_dir {output} holds files that would be lost; name a new or an empty folder")
    if flags.query_split and not flags.queries:
        raise InputError("--query_split is of a BEIR folder in --queries, which is missing; name one")
    for name, least in (("max_documents", 2), ("max_queries", 1), ("batch_size", 1)):
        if (given := getattr(flags, name)) is not None and given < least:
            raise InputError(f"--{name} must be at least {least}, got {given}; give a larger number")


def _calibrated(
    base: TextBase, documents: list[str], queries: list[str], flags: argparse.Namespace
) -> AsymmetricProjectionModel:
    from ragcun.embeddings.cache import EmbeddingCache
    from ragcun.models.whitening import calibrate as fit_closed_form
    from ragcun.models.whitening import check_settings

    settings = {name: getattr(flags, name) for name in CLOSED_FORM}
    check_settings(**settings, dim=base.dimension)
    cache = EmbeddingCache(base, flags.cache_dir, flags.batch_size)
    vectors = cache.encode(documents, "document")
    return fit_closed_form(vectors, cache.encode(queries, "query"), **settings).encoder(base)


def _calibration_card(encoder: AsymmetricProjectionModel, fitted: str, flags: argparse.Namespace) -> str:
    from ragcun.training.saving import BEGIN, END

    settings = "\n".join(f"{name}: {json.dumps(getattr(flags, name))}" for name in (*CLOSED_FORM, "base_dtype"))
    return f"""---
library_name: sentence-transformers
pipeline_tag: sentence-similarity
tags: [sentence-transformers, sentence-similarity, feature-extraction, ragcun]
---

# {flags.output_dir.name}

A closed-form linear head on `{encoder.base.name}`, not trained: soft whitening, and a shift of queries towards the
documents. {encoder.dimension} dimensions, length 1, compared by Euclidean distance (cosine ranks alike). Use
`encode_query` and `encode_document`. Made by ragcun; it loads without it.

Fitted to {fitted}.

## Scores

{BEGIN}
Not evaluated yet.
{END}

## Configuration

```yaml
{settings}
```
"""
