"""LexicalChannel: latent semantic analysis of a corpus, which keeps words that a dense vector has no room for."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from sklearn.preprocessing import normalize
from sklearn.utils.extmath import randomized_svd
from tqdm.auto import tqdm

from ragcun.config import LEXICAL_DIM, TermKind
from ragcun.embeddings.analysis import LANGUAGES, Analyser, TermCounter
from ragcun.errors import InputError
from ragcun.io import read_json, replacing_folder, write_json
from ragcun.tensors import naming_disk_errors, tensors_digest

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from ragcun.batch import Role

logger = logging.getLogger(__name__)

Matrix = NDArray[np.float32]
K1, B = 0.9, 0.4
BLOCK = 16384
"""Texts whose terms are counted, or that are projected, at a time."""
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

    Args:
        analyser: how texts become terms.
        vocabulary: the column of each term.
        idf: of each term ``(terms,)``.
        projection: V S^power ``(terms, dimension)``.
        mean: direction of the mean document ``(dimension,)``.
        mean_length: terms of a document on average.
        dim: dimensions that were asked for; the rank of a small corpus is lower.
        power: exponent of the singular values; −1 whitens the documents.
        documents: how many it was fitted on.
    """

    analyser: Analyser
    vocabulary: dict[str, int]
    idf: Matrix
    projection: Matrix
    mean: Matrix
    mean_length: float
    dim: int
    power: float
    documents: int

    @classmethod
    def fit(
        cls,
        texts: Sequence[str],
        dim: int = LEXICAL_DIM,
        terms: TermKind = "words",
        language: str = "auto",
        power: float = -0.25,
        tokenizer: Tokenizer | None = None,
        prompts: Sequence[str] = (),
        seed: int = 0,
    ) -> LexicalChannel:
        """Fit a channel on documents; `language` is a code of `analysis.LANGUAGES`, or auto; pieces need `tokenizer`.

        Pieces of `prompts`, which the text model puts before texts, are no terms.

        Raises:
            InputError: no document has a term.
            ValueError: an argument is out of range.
        """
        if dim < 1 or not math.isfinite(power):
            raise ValueError(f"dim must be at least 1 and power finite, got {dim} and {power}")
        if (terms == "pieces") != (tokenizer is not None):
            raise ValueError(f"terms='pieces' takes a tokenizer, words take none; got terms={terms!r}")
        if tokenizer is None:
            analyser = Analyser.of(texts, language)
        else:
            analyser = Analyser(pieces=tokenizer.to_str())
            analyser = replace(
                analyser, dropped=sorted({piece for pieces in analyser.split(prompts) for piece in pieces})
            )
        return cls._fit(texts, analyser, dim, power, seed)

    def refit(self, texts: Sequence[str], seed: int = 0) -> LexicalChannel:
        """Return a channel of the same settings for other documents; vectors of the two do not compare."""
        return self._fit(texts, self.analyser, self.dim, self.power, seed)

    @classmethod
    def _fit(cls, texts: Sequence[str], analyser: Analyser, dim: int, power: float, seed: int) -> LexicalChannel:
        counter = TermCounter(analyser)
        counts = [counter.count(block) for block in _blocks(texts, "counting terms")]
        width = len(counter.vocabulary)
        for part in counts:
            part.resize(part.shape[0], width)
        matrix = sp.vstack(counts, format="csr") if width else sp.csr_matrix((len(texts), 0))
        del counts
        frequency = np.bincount(matrix.indices, minlength=width)
        kept = np.sort(np.argsort(-frequency, kind="stable")[:MOST_TERMS])
        if not len(kept):
            raise InputError(f"none of {len(texts)} documents has a word, so there is no lexical channel; turn it off")
        if len(kept) < width:
            logger.info("the lexical channel keeps the %d terms of the most documents, of %d", len(kept), width)
            matrix = matrix[:, kept]
        frequency = frequency[kept]
        idf = np.log(1 + (len(texts) - frequency + 0.5) / (frequency + 0.5)).astype(np.float32)
        mean_length = float(matrix.sum(dtype=np.float64)) / len(texts)
        _weigh(matrix, idf, mean_length)
        values, vectors = _right_singular_vectors(matrix, dim, seed)
        projection = np.ascontiguousarray(vectors * values**power, dtype=np.float32)
        mean = normalize(np.asarray(matrix.mean(axis=0, dtype=np.float64)) @ projection)[0].astype(np.float32)
        mean *= analyser.pieces is None
        names = list(counter.vocabulary)
        vocabulary = {names[column]: number for number, column in enumerate(kept)}
        channel = cls(analyser, vocabulary, idf, projection, mean, mean_length, dim, power, len(texts))
        logger.info("lexical channel: %s", channel)
        return channel

    def __str__(self) -> str:
        terms = "word pieces" if self.pieces else f"terms ({LANGUAGES[self.analyser.language]})"
        return f"{self.dimension} dimensions, {len(self.vocabulary)} {terms}, fitted on {self.documents} documents"

    @property
    def pieces(self) -> bool:
        """Whether terms are word pieces; sentence-transformers alone computes the vectors then."""
        return self.analyser.pieces is not None

    @property
    def dimension(self) -> int:
        """Length of the vectors."""
        return self.projection.shape[1]

    def encode(self, texts: Sequence[str], role: Role) -> Matrix:
        """Return the vectors of texts ``(len(texts), dimension)``, of length 1 or 0; documents need not be known."""
        counter = TermCounter(self.analyser, self.vocabulary)
        out = np.empty((len(texts), self.dimension), dtype=np.float32)
        start = 0
        for block in _blocks(texts, "lexical vectors"):
            weights = counter.count(block)
            if not self.pieces:
                _weigh(weights, self.idf, self.mean_length)
            else:
                weights.data = self.idf[weights.indices]
            out[start : start + len(block)] = normalize(weights @ self.projection, copy=False)
            start += len(block)
        if role == "document":
            out[~out.any(axis=1)] = self.mean
        return out

    def save(self, folder: str | Path) -> None:
        """Write a folder of ``lexical.json`` and ``lexical.safetensors``; it is complete or absent."""
        with replacing_folder(folder) as temporary, naming_disk_errors():
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

    def _tensors(self) -> dict[str, Matrix]:
        return {name: getattr(self, name) for name in TENSORS}

    def _settings(self) -> dict[str, Any]:
        names = ("mean_length", "dim", "power", "documents")
        own = {name: getattr(self, name) for name in names}
        return {"analyser": asdict(self.analyser), **own, "vocabulary": list(self.vocabulary)}


def _weigh(counts: sp.csr_matrix, idf: Matrix, mean_length: float) -> sp.csr_matrix:
    # in place
    terms = np.diff(counts.indptr)
    lengths = np.asarray(counts.sum(axis=1), dtype=np.float32).ravel()
    counts.data /= counts.data + np.repeat(K1 * (1 - B + B / mean_length * lengths), terms).astype(np.float32)
    counts.data *= idf[counts.indices]
    return normalize(counts, copy=False)


def _right_singular_vectors(weights: sp.csr_matrix, dim: int, seed: int) -> tuple[Matrix, Matrix]:
    documents = weights.shape[0]
    sample = weights
    if documents > SVD_SAMPLE:
        sample = weights[np.sort(np.random.default_rng(seed).choice(documents, SVD_SAMPLE, replace=False))]
    _, values, rows = randomized_svd(sample, dim, n_iter=4, random_state=seed)
    rank = int((values > RANK * values[0]).sum())
    values, vectors = values[:rank], np.ascontiguousarray(rows[:rank].T)
    if documents > SVD_SAMPLE:
        moved = np.zeros_like(vectors)
        for start in tqdm(range(0, documents, BLOCK), "singular vectors", delay=2):
            block = weights[start : start + BLOCK]
            moved += block.T @ (block @ vectors)
        vectors, upper = np.linalg.qr(moved)
        vectors *= np.sign(np.diag(upper))
        values = np.sqrt(np.abs(np.diag(upper)))
    return values, vectors


def _blocks(texts: Sequence[str], what: str) -> tqdm[Sequence[str]]:
    starts = range(0, len(texts), BLOCK)
    return tqdm((texts[start : start + BLOCK] for start in starts), what, len(starts), delay=2)
