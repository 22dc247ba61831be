"""What a run ends in: its result, and the model card of its checkpoint."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from jinja2 import Template

from ragcun.embeddings.joined import JoinedBase
from ragcun.errors import InputError
from ragcun.io import read_text, write_text

if TYPE_CHECKING:
    from ragcun.models.encoder import RetrievalEncoder

BEGIN, END = "<!-- scores: begin -->", "<!-- scores: end -->"
TEMPLATE = Template(read_text(Path(__file__).with_name("card.md.j2")), trim_blocks=True, keep_trailing_newline=True)


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
    return card(f"{folder.parent.name}/{folder.name}", encoder, about, settings, result, trained)


def card(
    title: str,
    encoder: RetrievalEncoder,
    about: str,
    settings: dict[str, Any],
    result: FitResult | None = None,
    trained: str = "",
) -> str:
    """Return the card of a checkpoint as Markdown with a YAML header; `write_scores` replaces the scores.

    These are at first what the choice of the epoch was based on, no test scores.
    """
    tags = ["sentence-transformers", "sentence-similarity", "feature-extraction", "ragcun"]
    usage = "texts" if encoder.base.reads_texts else "vectors"
    if isinstance(encoder.base, JoinedBase):
        usage = "texts" if encoder.base.channel.analyser.pieces else "channel"
        about += f" Its base has a lexical channel: {encoder.base.channel}."
    library, tags = (tags[0], tags) if usage == "texts" else ("ragcun", tags[1:])
    header = {"library_name": library, "pipeline_tag": "sentence-similarity", "tags": tags}
    if "/" in encoder.base.name and not Path(encoder.base.name).exists():
        header["base_model"] = encoder.base.name
    dumped = {"header": header, "settings": settings}
    shown = {name: yaml.safe_dump(each, sort_keys=False, allow_unicode=True) for name, each in dumped.items()}
    about_run = {"result": result, "trained": trained}
    return TEMPLATE.render(shown, title=title, about=about, usage=usage, begin=BEGIN, end=END, **about_run)


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
