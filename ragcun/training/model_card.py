"""The model card: what a checkpoint is, how it was made, and its scores beside the untouched base's."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from ragcun.errors import InputError
from ragcun.io import read_text, write_text

if TYPE_CHECKING:
    from ragcun.config import TrainConfig
    from ragcun.models.encoder import RetrievalEncoder
    from ragcun.training.result import FitResult

NEWLINE = "\n"
BEGIN, END = "<!-- scores: begin -->", "<!-- scores: end -->"

WITH_TEXTS = """Made by ragcun; it loads without it:

```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("path/to/this/folder")
queries = model.encode_query(["a question"])
documents = model.encode_document(["a document"])
print(model.similarity(queries, documents))  # minus the Euclidean distance
```"""

WITH_VECTORS = """It takes vectors of the model that it was trained on:

```python
import ragcun

head = ragcun.load_head("path/to/this/folder")
queries = head.embed_queries(query_vectors)
documents = head.embed_documents(document_vectors)
print(head.encoder.similarity(queries, documents))  # minus the Euclidean distance
```"""


def model_card(folder: Path, encoder: RetrievalEncoder, config: TrainConfig, result: FitResult) -> str:
    """Return the card of a checkpoint as Markdown with a YAML header."""
    tags = ["sentence-transformers", "sentence-similarity", "feature-extraction", "ragcun"]
    header = {"library_name": "sentence-transformers", "pipeline_tag": "sentence-similarity", "tags": tags}
    if not encoder.base.reads_texts:
        header = {"library_name": "ragcun", "pipeline_tag": "sentence-similarity", "tags": tags[1:]}
    if "/" in encoder.base.name and not Path(encoder.base.name).exists():
        header["base_model"] = encoder.base.name
    length = "length 1" if encoder.to_config().get("normalize_output") else "unnormalised"
    dump = yaml.safe_dump(config.to_dict(), sort_keys=False, allow_unicode=True)
    return f"""---
{yaml.safe_dump(header, sort_keys=False)}---

# {folder.parent.name}/{folder.name}

A `{encoder.system}` retrieval encoder on `{encoder.base.name}`: {encoder.dimension} dimensions, {length}, compared
by Euclidean distance. {WITH_TEXTS if encoder.base.reads_texts else WITH_VECTORS}

## Scores

{BEGIN}
{_selection(result)}
{END}
{f"{NEWLINE}{result.comparison}.{NEWLINE}" if result.comparison else ""}
## Configuration

```yaml
{dump}```
"""


def _selection(result: FitResult) -> str:
    """Return what the choice of the epoch was based on; these are not test scores."""
    score = "–" if result.score is None else f"{abs(result.score):.4f}"
    base = "–" if result.base_score is None else f"{result.base_score:.4f}"
    return "\n".join(
        [
            f"Epoch {result.best_epoch}, chosen by: {result.criterion}.",
            "",
            f"| system | {result.criterion} |",
            "|---|--:|",
            f"| untouched base | {base} |",
            f"| this model | {score} |",
        ]
    )


def write_scores(folder: str | Path, scores: str) -> None:
    """Put a Markdown text of test scores in place of the scores in a checkpoint's card.

    Raises:
        InputError: the folder has no card, or its card no place for scores.
    """
    path = Path(folder) / "README.md"
    card = read_text(path)
    before, begin, rest = card.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise InputError(f"{path} has no scores section; its card was not written by train.py")
    write_text(path, f"{before}{BEGIN}\n{scores.strip()}\n{END}{after}")
