"""``ragcun push``: a checkpoint onto the model hub."""

from __future__ import annotations

from dataclasses import MISSING
from pathlib import Path

from ragcun.cli.parser import Output
from ragcun.options import flag


def run(
    model_path: Path = flag(MISSING, "checkpoint folder"),
    repo: str = flag(MISSING, "repository on the hub (owner/name); made where there is none"),
    private: bool = flag(False, "make a new repository private"),
) -> str:
    """Upload a checkpoint, and return its address."""
    from ragcun.models.checkpoint import push_to_hub

    url = push_to_hub(model_path, repo, private)
    return Output(f"checkpoint: {url}", {"url": url})
