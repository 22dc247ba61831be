"""The model that every process opens for itself, and the encoding of texts in blocks of fixed composition."""

from __future__ import annotations

import contextlib
import functools
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ragcun.batch import Role
from ragcun.distance import Distance
from ragcun.embeddings.base import Base
from ragcun.embeddings.encode import ROWS
from ragcun.embeddings.text_base import TextBase
from ragcun.io import file_digest
from ragcun.models.checkpoint import CONFIG, is_checkpoint
from ragcun.models.encoder import RetrievalEncoder


@dataclass(frozen=True)
class ModelSpec:
    """What a process needs to open a model and to compute as all others do.

    Attributes:
        name: checkpoint folder (a path that holds on every machine), hub name or model folder.
        device: where it computes; None takes a GPU where the process has one.
        base_dtype: in which arithmetic.
        batch_size: texts encoded at a time, at most.
        block_rows: texts of one block: batches never reach beyond it.
        threads: threads of the CPU.
    """

    name: str
    device: str | None = None
    base_dtype: str = "float32"
    batch_size: int = ROWS
    block_rows: int = ROWS
    threads: int = 1


class OpenModel:
    """A checkpoint, or a published model as it is, that turns texts into embeddings without a cache.

    Raises:
        InputError: there is no such model, it has no text model, or it cannot compute so.
    """

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec
        self.encoder = RetrievalEncoder.from_pretrained(spec.name, spec.device) if is_checkpoint(spec.name) else None
        self.base: Base = self.encoder.base if self.encoder else TextBase.load(spec.name, device=spec.device)
        self.base.require_texts()
        self.base.compute_in(spec.base_dtype)
        self.fingerprint = self._digest()

    @property
    def dimension(self) -> int:
        """Length of the embeddings."""
        return (self.encoder or self.base).dimension

    @property
    def distance(self) -> Distance:
        """The distance that the embeddings are compared by where nothing else is said."""
        return "euclidean" if self.encoder else self.base.distance

    def encode(self, texts: Sequence[str], role: Role) -> Iterator[NDArray[np.float32]]:
        """Yield the embeddings of one block of texts after the other, ``(rows, dimension)`` each.

        A vector depends in its last bits on the batch it was computed in (the shapes of float32 matrix products), and
        a batch holds texts of one block. So vectors are a function of the texts, the settings of `spec` and the kind
        of processor, but not of how many blocks a shard has.
        """
        for start in range(0, len(texts), self.spec.block_rows):
            block = list(texts[start : start + self.spec.block_rows])
            with torch_threads(self.spec.threads):
                vectors = self.base.encode(block, role, self.spec.batch_size)
                yield self.encoder.embed(vectors, role) if self.encoder else self.base.untouched_array(vectors)

    def _digest(self) -> str:
        """Digest of all that decides the embeddings: weights, modules, tokenizer, prompts and, of a checkpoint, heads.

        The latter by the file that holds the checksums of all others.
        """
        own = file_digest(Path(self.spec.name) / CONFIG) if self.encoder else ""
        facts = [self.base.fingerprint(), self.base.prompt("query"), self.base.prompt("document"), own]
        return hashlib.sha256("\0".join(facts).encode()).hexdigest()


@functools.lru_cache(maxsize=1)
def opened(spec: ModelSpec) -> OpenModel:
    """Return the model of this process, opened once for all its tasks.

    Raises:
        InputError: as of `OpenModel`.
    """
    return OpenModel(spec)


@contextlib.contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """Let torch compute with so many threads of the CPU."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
