"""LexicalChannel: latent semantic analysis of a corpus, which keeps words that a dense vector has no room for."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from tqdm.auto import tqdm

from ragcun.config import LEXICAL_DIM
from ragcun.embeddings.analysis import K1, LANGUAGES, Analyser, B, TermCounter
from ragcun.embeddings.base import Vectors, as_texts
from ragcun.errors import InputError
from ragcun.io import read_json, replacing_folder, write_json
from ragcun.tensors import normalize, tensors_digest

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

    from ragcun.batch import Role

logger = logging.getLogger(__name__)

BLOCK = 16384
"""Texts whose terms are counted, or that are projected, at a time."""
FIT_SAMPLE = 1_000_000
"""Documents that a channel is fitted on; of a larger corpus as many are drawn, and the others are folded in."""
SVD_SAMPLE = 100_000
"""Documents of which singular vectors are computed; where there are more, one step of subspace iteration sees all."""
MOST_TERMS = 200_000
"""Terms that are kept: those that are in the most documents."""
RANK = 1e-4
"""Singular values below this share of the first count as 0."""
FORMAT = 1
CONFIG, WEIGHTS = "lexical.json", "lexical.safetensors"
TENSORS = ("idf", "projection", "mean")


@dataclass(frozen=True, eq=False)
class LexicalChannel:
    """Vectors unit(w V S^power): w are a text's term weights, V and S right singular vectors and values of a corpus's.

    The weight of a term is BM25's saturated frequency (k1 0.9, b 0.4) times its idf ln(1 + (n − df + ½)/(df + ½)); rows
    of weights have length 1. A query without a known term is 0, a document without one the direction of the mean
    document. A text's word pieces count once, as modules of sentence-transformers count them, and it is 0 without known
    ones; the fit sees BM25's weights. Latent semantic analysis: Deerwester et al. 1990; randomized SVD: Halko et al.
    2011, algorithm 4.4.

    Shapes: idf ``(terms,)``, projection V S^power ``(terms, dimension)``, mean document's direction ``(dimension,)``.
    `mean_length` are a document's terms on average; `dim` dimensions were asked for, a small corpus has fewer; a
    `power` of −1 whitens the `documents` documents of the fit.
    """

    analyser: Analyser
    vocabulary: dict[str, int]
    idf: Vectors
    projection: Vectors
    mean: Vectors
    mean_length: float
    dim: int
    power: float
    documents: int

    @classmethod
    def fit(
        cls, texts: Sequence[str], dim: int | None = None, analyser: Analyser | None = None, power: float = -0.25
    ) -> LexicalChannel:
        """Fit a channel on documents; the defaults of `dim` and `analyser` are `lexical_dim` and their language's.

        Of more than a million documents, a million are drawn.

        Raises:
            InputError: no document has a term.
            ValueError: an argument is out of range.
        """
        dim = lexical_dim(len(texts)) if dim is None else dim
        if dim < 1 or not math.isfinite(power):
            raise ValueError(f"dim must be at least 1 and power finite, got {dim} and {power}")
        dim, power, analyser = int(dim), float(power), analyser or Analyser.of(texts)
        if len(texts) > FIT_SAMPLE:
            logger.info("the lexical channel is fitted on %d of %d documents", FIT_SAMPLE, len(texts))
            drawn = np.random.default_rng(0).choice(len(texts), FIT_SAMPLE, replace=False)
            texts = [texts[row] for row in np.sort(drawn).tolist()]
        matrix, vocabulary = _count_terms(texts, analyser)
        frequency = np.bincount(matrix.indices, minlength=len(vocabulary))
        idf = np.log(1 + (len(texts) - frequency + 0.5) / (frequency + 0.5)).astype(np.float32)
        mean_length = float(matrix.sum(dtype=np.float64)) / len(texts)
        _weigh(matrix, idf, mean_length)
        values, vectors = _right_singular_vectors(matrix, dim)
        projection = np.ascontiguousarray(vectors * values**power, dtype=np.float32)
        mean = normalize(np.asarray(matrix.mean(axis=0, dtype=np.float64)) @ projection)[0].astype(np.float32)
        mean *= analyser.pieces is None
        channel = cls(analyser, vocabulary, idf, projection, mean, mean_length, dim, power, len(texts))
        logger.info("lexical channel: %s", channel)
        return channel

    def __str__(self) -> str:
        terms = "word pieces" if self.analyser.pieces else f"terms ({LANGUAGES[self.analyser.language]})"
        return f"{self.dimension} dimensions, {len(self.vocabulary)} {terms}, fitted on {self.documents} documents"

    @property
    def dimension(self) -> int:
        """Length of the vectors."""
        return self.projection.shape[1]

    def encode(self, texts: Sequence[str], role: Role) -> Vectors:
        """Return the vectors of texts ``(len(texts), dimension)``, of length 1 or 0; documents need not be known."""
        texts, counter = as_texts(texts, role), TermCounter(self.analyser, self.vocabulary)
        out = np.empty((len(texts), self.dimension), dtype=np.float32)
        for rows in _blocks(len(texts), "lexical vectors"):
            weights = counter.count(texts[rows])
            if self.analyser.pieces:
                weights.data = self.idf[weights.indices]
            else:
                _weigh(weights, self.idf, self.mean_length)
            out[rows] = normalize(weights @ self.projection, copy=False)
        if role == "document":
            out[~out.any(axis=1)] = self.mean
        return out

    def save(self, folder: str | Path) -> None:
        """Write a folder of ``lexical.json`` and ``lexical.safetensors``; it is complete or absent."""
        with replacing_folder(folder) as temporary:
            write_json(temporary / CONFIG, {"format": FORMAT, **self._settings()})
            save_file(self._tensors(), temporary / WEIGHTS)

    @classmethod
    def load(cls, folder: str | Path) -> LexicalChannel:
        """Read what `save` wrote; InputError if it is missing or damaged."""
        path = Path(folder) / CONFIG
        settings = read_json(path)
        try:
            if settings.pop("format") != FORMAT:
                raise InputError(f"{path} has another format than {FORMAT}; use the version of ragcun that wrote it")
            tensors = load_file(Path(folder) / WEIGHTS)
            names = settings.pop("vocabulary")
            analyser = Analyser(**settings.pop("analyser"))
            vocabulary = {name: number for number, name in enumerate(names)}
            idf, projection, mean = (tensors.pop(name) for name in TENSORS)
            if tensors or (len(vocabulary), len(mean)) != projection.shape or idf.shape != (len(names),):
                raise ValueError("vocabulary and matrices differ in size")
            return cls(analyser, vocabulary, idf, projection, mean, **settings)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, OSError, SafetensorError) as error:
            raise InputError(f"lexical channel {folder} is corrupt ({error!r}); copy it again") from error

    def fingerprint(self) -> str:
        """Digest of all that decides the vectors."""
        tensors = {name: torch.from_numpy(value) for name, value in self._tensors().items()}
        return hashlib.sha256(f"{tensors_digest(tensors)} {json.dumps(self._settings())}".encode()).hexdigest()

    def _tensors(self) -> dict[str, Vectors]:
        return {name: getattr(self, name) for name in TENSORS}

    def _settings(self) -> dict[str, Any]:
        own = {name: getattr(self, name) for name in ("mean_length", "dim", "power", "documents")}
        return {"analyser": asdict(self.analyser), **own, "vocabulary": list(self.vocabulary)}


def lexical_dim(documents: int) -> int:
    """Return the dimensions of a channel by default: a quarter of its documents, between 256 and 512.

    With nearly as many dimensions as documents nothing is latent. Chosen on dev queries: docs/lexical.md.
    """
    return min(LEXICAL_DIM, max(LEXICAL_DIM // 2, documents // 4))


def _count_terms(texts: Sequence[str], analyser: Analyser) -> tuple[csr_matrix, dict[str, int]]:
    from scipy.sparse import vstack

    counter = TermCounter(analyser)
    counts = [counter.count(texts[rows]) for rows in _blocks(len(texts), "counting terms")]
    width = len(counter.vocabulary)
    if not width:
        raise InputError(f"none of {len(texts)} documents has a word for the lexical channel; give --lexical_dim 0")
    for part in counts:
        part.resize(part.shape[0], width)
    matrix = vstack(counts, format="csr")
    del counts
    if width <= MOST_TERMS:
        return matrix, counter.vocabulary
    logger.info("the lexical channel keeps the %d terms that are in the most documents, of %d", MOST_TERMS, width)
    kept = np.sort(np.argsort(-np.bincount(matrix.indices), kind="stable")[:MOST_TERMS])
    names = list(counter.vocabulary)
    return matrix[:, kept], {names[column]: number for number, column in enumerate(kept)}


def _weigh(counts: csr_matrix, idf: Vectors, mean_length: float) -> csr_matrix:
    # in place
    terms = np.diff(counts.indptr)
    lengths = np.asarray(counts.sum(axis=1), dtype=np.float32).ravel()
    counts.data /= counts.data + np.repeat(K1 * (1 - B + B / mean_length * lengths), terms).astype(np.float32)
    counts.data *= idf[counts.indices]
    return normalize(counts, copy=False)


def _right_singular_vectors(weights: csr_matrix, dim: int) -> tuple[Vectors, Vectors]:
    from scipy.linalg import qr
    from sklearn.utils.extmath import randomized_svd

    documents = weights.shape[0]
    sample = weights
    if documents > SVD_SAMPLE:
        sample = weights[np.sort(np.random.default_rng(0).choice(documents, SVD_SAMPLE, replace=False))]
    values, rows = randomized_svd(sample, dim, n_iter=4, random_state=0)[1:]
    rank = int((values > RANK * values[0]).sum())
    values, vectors = values[:rank], np.ascontiguousarray(rows[:rank].T)
    del rows, sample
    if documents > SVD_SAMPLE:
        moved = np.zeros_like(vectors)
        for block in _blocks(documents, "singular vectors"):
            part = weights[block]
            moved += part.T @ (part @ vectors)
        del vectors
        vectors, upper = qr(moved, overwrite_a=True, mode="economic", check_finite=False)  # NumPy's takes float64
        vectors *= np.sign(np.diag(upper))
        values = np.sqrt(np.abs(np.diag(upper)))
    return values, vectors


def _blocks(count: int, what: str) -> tqdm[slice]:
    return tqdm([slice(start, start + BLOCK) for start in range(0, count, BLOCK)], what, delay=2)
