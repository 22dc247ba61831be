"""``ragcun calibrate``: a head fitted to a corpus in closed form, and its checkpoint."""

from __future__ import annotations

import json
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from ragcun.cli.flags import EncodingFlags
from ragcun.errors import InputError
from ragcun.options import check_bounds, flag

if TYPE_CHECKING:
    from ragcun.embeddings.text_base import TextBase
    from ragcun.models.systems import AsymmetricProjectionModel

CLOSED_FORM = ("exponent", "eps", "shrinkage", "output_dim")
"""Flags that are settings of `ragcun.calibrate`."""


@dataclass(kw_only=True)
class Options(EncodingFlags):
    """Flags of ``ragcun calibrate``."""

    title: ClassVar[str] = "whitening"
    base_model: str = flag("minilm", "hub name, folder or minilm")
    corpus: str = flag(
        MISSING,
        "documents: a BEIR folder, .txt (one a line), or .json, .jsonl, .csv with the field text",
        metavar="PATH",
    )
    queries: str | None = flag(
        None, "queries without labels, in the same formats (default: sentences of the corpus)", metavar="PATH"
    )
    query_split: str | None = flag(
        None, "only queries that this split of the BEIR folder in --queries judges (default: all, test ones too)"
    )
    output_dir: Path = flag(MISSING, "checkpoint folder to write")
    max_queries: int | None = flag(
        None, "draw a sample of this many queries (default: all; 2,000 sentences of the corpus)", at_least=1
    )
    exponent: float = flag(0.15, "0 moves queries alone, 0.5 whitens")
    eps: float = flag(1e-3, "added to each variance")
    shrinkage: float = flag(5.0, "weight, in queries, of no gap between queries and documents")
    output_dim: int | None = flag(None, "length of the embeddings (default: the base's)")
    max_documents: int = flag(100_000, "draw a sample of this many documents from a larger corpus", at_least=2)
    seed: int = flag(0, "seed of everything random")

    def __post_init__(self) -> None:
        check_bounds(self)
        if self.query_split and not self.queries:
            raise InputError("--query_split is of a BEIR folder in --queries, which is missing; name one")


def run(options: Options) -> str:
    """Fit a head to a corpus in closed form, write it as a checkpoint, and return a summary of two lines.

    Raises:
        InputError: a setting or a file is wrong, or the output folder holds something else.
    """
    from ragcun.data.beir import read_queries
    from ragcun.data.records import read_documents
    from ragcun.data.unlabelled import STAND_INS, sample_documents, sample_queries, sentences_as_queries
    from ragcun.embeddings.text_base import TextBase

    _check_output(options.output_dir)
    documents = [document for document in read_documents(options.corpus) if document.content]
    texts = [document.content for document in sample_documents(documents, options.max_documents, options.seed)]
    if options.queries:
        queries = sample_queries(read_queries(options.queries, options.query_split), options.max_queries, options.seed)
        source = f"queries of {options.queries}"
    else:
        queries = sentences_as_queries(documents, options.max_queries or STAND_INS, options.seed)
        source = "sentences of the corpus that stand in for queries"
    base = TextBase.load(options.base_model, device=options.device)
    base.compute_in(options.base_dtype)
    try:
        encoder = _calibrated(base, texts, queries, options)
    except ValueError as error:
        raise InputError(f"cannot calibrate by {options.corpus}: {error}") from error
    fitted = f"{len(texts)} of {len(documents)} documents of {options.corpus}, {len(queries)} {source}"
    encoder.save_pretrained(options.output_dir, _calibration_card(encoder, fitted, options), seen=frozenset())
    return f"fitted to {fitted}\n{encoder.dimension} dimensions of length 1; checkpoint: {options.output_dir}"


def _check_output(output: Path) -> None:
    from ragcun.models.checkpoint import is_checkpoint

    if output.exists() and not output.is_dir():
        raise InputError(f"--output_dir {output} is a file; name a folder")
    if output.is_dir() and any(output.iterdir()) and not is_checkpoint(output):
        raise InputError(f"--output_dir {output} holds files that would be lost; name a new or an empty folder")


def _calibrated(
    base: TextBase, documents: list[str], queries: list[str], options: Options
) -> AsymmetricProjectionModel:
    from ragcun.embeddings.cache import EmbeddingCache
    from ragcun.models.whitening import calibrate as fit_closed_form
    from ragcun.models.whitening import check_settings

    settings = {name: getattr(options, name) for name in CLOSED_FORM}
    check_settings(**settings, dim=base.dimension)
    cache = EmbeddingCache(base, options.cache_dir, options.batch_size)
    vectors = cache.encode(documents, "document")
    return fit_closed_form(vectors, cache.encode(queries, "query"), **settings).encoder(base)


def _calibration_card(encoder: AsymmetricProjectionModel, fitted: str, options: Options) -> str:
    from ragcun.training.run_dir import BEGIN, END

    settings = "\n".join(f"{name}: {json.dumps(getattr(options, name))}" for name in (*CLOSED_FORM, "base_dtype"))
    return f"""---
library_name: sentence-transformers
pipeline_tag: sentence-similarity
tags: [sentence-transformers, sentence-similarity, feature-extraction, ragcun]
---

# {options.output_dir.name}

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
