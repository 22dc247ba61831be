"""What a run ends in: its result, and the model card of its checkpoint."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ragcun.embeddings.joined import JoinedBase
from ragcun.errors import InputError
from ragcun.io import read_text, write_text

if TYPE_CHECKING:
    from ragcun.models.encoder import RetrievalEncoder

BEGIN, END = "<!-- scores: begin -->", "<!-- scores: end -->"

ENCODING = """
queries = model.encode_query(["a question"])
documents = model.encode_document(["a document"])
print(model.similarity(queries, documents))  # minus the Euclidean distance
```"""
WITH_TEXTS = f"""Made by ragcun; it loads without it:

```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("path/to/this/folder"){ENCODING}"""
WITH_CHANNEL = f"""Made by ragcun, which it needs: the vectors of the text model in `dense/`, a folder of
sentence-transformers, and of the lexical channel in `lexical/` are joined before the head.

```python
import ragcun

model = ragcun.RetrievalEncoder.from_pretrained("path/to/this/folder"){ENCODING}"""
WITH_VECTORS = """It takes vectors of the model that it was trained on:

```python
import ragcun

head = ragcun.load_head("path/to/this/folder")
queries = head.embed_queries(query_vectors)
documents = head.embed_documents(document_vectors)
print(head.encoder.similarity(queries, documents))  # minus the Euclidean distance
```"""


@dataclass(frozen=True)
class FitResult:
    """The result of a run.

    Attributes:
        best_epoch: 0 is the model before training.
        score: higher is better (minus the objective, for that criterion); None without a criterion.
        base_score: the untouched base's score on the same data.
        skipped: steps left out because a loss or the gradient was not finite.
        overflows: steps left out because fp16's loss scale was too large.
        comparison: which model `never_worse` kept and why, in a sentence; None where nothing was compared.
    """

    checkpoint: Path
    best_epoch: int
    criterion: str
    score: float | None
    base_score: float | None
    steps: int
    seconds: float
    comparison: str | None = None
    skipped: int = 0
    overflows: int = 0


def model_card(
    folder: Path, encoder: RetrievalEncoder, settings: dict[str, Any], result: FitResult, trained: str
) -> str:
    """Return the card of a trained checkpoint; `trained` says what was trained, in a line."""
    length = "length 1" if encoder.to_config().get("normalize_output") else "unnormalised"
    size = f"{encoder.dimension} dimensions, {length}"
    about = f"A `{encoder.system}` retrieval encoder on `{encoder.base.name}`: {size}."
    # What the choice of the epoch was based on; these are no test scores.
    score, base = ("–" if value is None else f"{abs(value):.4f}" for value in (result.score, result.base_score))
    scores = f"""Epoch {result.best_epoch}, chosen by: {result.criterion}.

| system | {result.criterion} |
|---|--:|
| untouched base | {base} |
| this model | {score} |"""
    compared = f"\nTrained: {trained}.\n" + (f"\n{result.comparison}.\n" if result.comparison else "")
    return card(f"{folder.parent.name}/{folder.name}", encoder, about, scores, settings, compared)


def card(
    title: str, encoder: RetrievalEncoder, about: str, scores: str, settings: dict[str, Any], compared: str = ""
) -> str:
    """Return the card of a checkpoint as Markdown with a YAML header; `write_scores` replaces the scores."""
    tags = ["sentence-transformers", "sentence-similarity", "feature-extraction", "ragcun"]
    header = {"library_name": "sentence-transformers", "pipeline_tag": "sentence-similarity", "tags": tags}
    usage = WITH_TEXTS if encoder.base.reads_texts else WITH_VECTORS
    if isinstance(encoder.base, JoinedBase):
        usage = WITH_TEXTS if encoder.base.channel.analyser.pieces else WITH_CHANNEL
        about += f" Its base has a lexical channel: {encoder.base.channel}."
    if usage is not WITH_TEXTS:
        header = {"library_name": "ragcun", "pipeline_tag": "sentence-similarity", "tags": tags[1:]}
    if "/" in encoder.base.name and not Path(encoder.base.name).exists():
        header["base_model"] = encoder.base.name
    dump = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
    return f"""---
{yaml.safe_dump(header, sort_keys=False)}---

# {title}

{about} Embeddings are compared by Euclidean distance. {usage}

## Scores

{BEGIN}
{scores}
{END}
{compared}
## Configuration

```yaml
{dump}```
"""


def write_scores(folder: str | Path, scores: str) -> None:
    """Put a Markdown text of test scores in place of the scores in a checkpoint's card.

    Raises:
        InputError: the folder has no card, or its card no place for scores.
    """
    path = Path(folder) / "README.md"
    shown = f"{BEGIN}\n{scores.strip()}\n{END}"
    card, found = re.subn(f"{BEGIN}.*?{END}", lambda _: shown, read_text(path), count=1, flags=re.DOTALL)
    if not found:
        raise InputError(f"{path} has no scores section; its card was not written by ragcun train")
    write_text(path, card)
