"""``ragcun export``: one side of a checkpoint, for libraries that do not tell queries from documents."""

from __future__ import annotations

from dataclasses import MISSING
from pathlib import Path
from typing import Literal

from ragcun.errors import InputError
from ragcun.options import flag

Side = Literal["query", "document"]
CARD = """# {name}

The {side} side of the ragcun checkpoint `{checkpoint}`, as a plain sentence-transformers model: `encode` embeds every
text as a {side}, with the prompt {prompt!r}. Embeddings are compared by Euclidean distance.
"""


def run(
    model_path: str = flag(MISSING, "checkpoint folder"),
    side: Side = flag(MISSING, "whose embeddings encode() is to give", choices=Side),
    output_dir: Path = flag(MISSING, "sentence-transformers folder to write"),
) -> str:
    """Write one side of a checkpoint as a plain sentence-transformers folder, and return where it is."""
    from ragcun.embeddings.joined import JoinedBase
    from ragcun.io import replacing_folder, write_text
    from ragcun.models.encoder import RetrievalEncoder

    if output_dir.is_dir() and any(output_dir.iterdir()):
        raise InputError(f"--output_dir {output_dir} holds files that would be lost; name a new or an empty folder")
    encoder = RetrievalEncoder.from_pretrained(model_path)
    if isinstance(encoder.base, JoinedBase) and not encoder.base.channel.analyser.pieces:
        remedy = "load it with ragcun, or train with --lexical_terms pieces or --lexical_dim 0"
        raise InputError(f"{model_path} has a lexical channel of words, which no plain folder holds; {remedy}")
    prompt = encoder.base.prompt(side)
    with replacing_folder(output_dir) as temporary:
        encoder.to_sentence_transformer(side).save_pretrained(str(temporary), create_model_card=False)
        card = CARD.format(name=output_dir.name, side=side, checkpoint=model_path, prompt=prompt)
        write_text(temporary / "README.md", card)
    return f"{side} side, prompt {prompt!r}: {output_dir}"
