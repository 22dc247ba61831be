"""Saving: the result of a run, its record on disk, and the model card of its checkpoint."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ragcun.errors import InputError
from ragcun.io import read_text, write_text

if TYPE_CHECKING:
    from ragcun.data.overlap import HoldOut
    from ragcun.models.encoder import RetrievalEncoder
    from ragcun.training.run_dir import RunFolder
    from ragcun.training.selection import Comparison

logger = logging.getLogger(__name__)

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


@dataclass(frozen=True)
class FitResult:
    """The result of a run.

    Attributes:
        checkpoint: folder of the chosen model.
        best_epoch: the epoch chosen; 0 is the model before training.
        criterion: of the choice.
        score: its score, higher is better (minus the objective, for that criterion); None without a criterion.
        base_score: the untouched base's score on the same data, None where the criterion has none.
        steps: optimiser steps.
        seconds: time spent in training.
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


@dataclass(frozen=True)
class RunRecord:
    """Writes what a run is made of and what comes of it."""

    run: RunFolder
    settings: dict[str, Any]
    manifest: dict[str, Any]
    seen: frozenset[str] | None
    hold_out: HoldOut | None

    def start(self) -> None:
        """Write configuration and manifest."""
        self.run.write_config(self.settings)
        self.run.write_manifest(self.manifest | {"status": "running"})

    def save_model(self, folder: Path, encoder: RetrievalEncoder, result: FitResult, trained: bool = True) -> None:
        """Write a checkpoint folder with its model card, of trained weights or of the initial ones."""
        if self.run.recorded:
            card = model_card(folder, encoder, self.settings, result)
            fresh = not trained and self.settings["load_checkpoint"] is None
            encoder.save_pretrained(folder, card, frozenset() if fresh else self.seen, self.hold_out)

    def finish(self, encoder: RetrievalEncoder, result: FitResult, comparison: Comparison | None) -> FitResult:
        """Write the final checkpoint and the manifest; return the result with the comparison."""
        result = replace(result, comparison=None if comparison is None else str(comparison))
        self.save_model(self.run.best_model, encoder, result, comparison is None or comparison.kept == "trained")
        outcome = {name: value for name, value in asdict(result).items() if name != "checkpoint"}
        compared = None if comparison is None else asdict(comparison)
        self.run.write_manifest(self.manifest | {"status": "finished", "result": outcome, "never_worse": compared})
        if result.best_epoch == 0:
            logger.warning("no epoch was better than the start: the checkpoint is the model before training")
        return result


def model_card(folder: Path, encoder: RetrievalEncoder, settings: dict[str, Any], result: FitResult) -> str:
    """Return the card of a checkpoint as Markdown with a YAML header."""
    tags = ["sentence-transformers", "sentence-similarity", "feature-extraction", "ragcun"]
    header = {"library_name": "sentence-transformers", "pipeline_tag": "sentence-similarity", "tags": tags}
    if not encoder.base.reads_texts:
        header = {"library_name": "ragcun", "pipeline_tag": "sentence-similarity", "tags": tags[1:]}
    if "/" in encoder.base.name and not Path(encoder.base.name).exists():
        header["base_model"] = encoder.base.name
    length = "length 1" if encoder.to_config().get("normalize_output") else "unnormalised"
    dump = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
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
