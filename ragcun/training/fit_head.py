"""fit_head: from vectors and pairs alone, without texts, to a trained head."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ragcun.batch import Role
from ragcun.config import TAUGHT, TrainConfig
from ragcun.data.beir import Collection, Document
from ragcun.data.pairs import PairDataset
from ragcun.embeddings.joined import JoinedBase
from ragcun.embeddings.precomputed import VectorStore, check_vectors
from ragcun.isotropy.pairs import checked_pairs
from ragcun.models.projection import ProjectionEncoder
from ragcun.training.loop import fit_encoder
from ragcun.training.run_dir import Callback, RunFolder
from ragcun.training.setup import TrainingData
from ragcun.training.summary import TEMPLATE, FitResult, card, in_words, trained_parts

Pairs = Iterable[tuple[int, int]]
IN_MEMORY = "vectors in memory"
OF_TEXTS = (
    *("documents", "corpus", "queries", "hold_out_documents", "val_data", "dev_beir", "dev_fraction"),
    *("load_checkpoint", "freeze_early_layers", "resume", "vectors", "save_interval", "teacher"),
)
"""Settings that speak of texts, of files or of a base to be trained."""


@dataclass(frozen=True)
class FittedHead:
    """A head trained on vectors; its embeddings are compared by Euclidean distance.

    Attributes:
        encoder: the encoder, whose base passes vectors on and encodes no texts.
        history: the rows that a run logs: losses by step, probes, and scores of the dev queries by epoch.
        result: the epoch that was kept and its score, `checkpoint` apart; None of a head that was loaded.
        config: the settings; None of a head that was loaded.
    """

    encoder: ProjectionEncoder
    history: list[dict[str, Any]] = field(default_factory=list)
    result: FitResult | None = None
    config: TrainConfig | None = None

    def embed_queries(self, vectors: ArrayLike, texts: Sequence[str] | None = None) -> NDArray[np.float32]:
        """Map query vectors ``(n, base_dim)``, and texts for a lexical channel, to ``(n, dim)``; or ValueError."""
        return self._embed(vectors, texts, "query")

    def embed_documents(self, vectors: ArrayLike, texts: Sequence[str] | None = None) -> NDArray[np.float32]:
        """Map document vectors as `embed_queries` does those of queries."""
        return self._embed(vectors, texts, "document")

    def _embed(self, vectors: ArrayLike, texts: Sequence[str] | None, role: Role) -> NDArray[np.float32]:
        base = self.encoder.base
        rows = check_vectors(vectors, "vectors", base.untouched.dimension)
        if isinstance(base, JoinedBase):
            if texts is None or len(texts) != len(rows):
                raise ValueError(f"this head has a lexical channel; give the text of each of the {len(rows)} vectors")
            rows = base.join(rows, base.lexical(texts, role))
        elif texts is not None:
            raise ValueError("this head has no lexical channel, so it takes no texts; leave them out")
        return self.encoder.embed(rows, role)

    def save(self, folder: str | Path) -> None:
        """Write a checkpoint folder that `load_head` reads; an older folder there is replaced."""
        folder, parameters = Path(folder), None
        page = f"# {folder.name}\n\n{TEMPLATE.module.with_vectors}\n"
        if self.result is not None and self.config is not None:
            trained = trained_parts(self.config, self.encoder)
            parameters = trained["parameters"]
            title, settings = f"{folder.parent.name}/{folder.name}", self.config.to_dict()
            page = card(title, self.encoder, settings, self.result, in_words(trained))
        self.encoder.save_pretrained(folder, page, trained=parameters)


def load_head(folder: str | Path, device: str | None = None) -> FittedHead:
    """Load a head that `FittedHead.save`, or ``ragcun train --vectors``, wrote; InputError if that cannot be read."""
    return FittedHead(ProjectionEncoder.from_pretrained(folder, device))


def fit_head(
    query_vectors: ArrayLike,
    document_vectors: ArrayLike,
    pairs: Pairs,
    *,
    dev_pairs: tuple[ArrayLike, Pairs] | None = None,
    teacher_vectors: tuple[ArrayLike, ArrayLike] | None = None,
    config: TrainConfig | None = None,
    callbacks: Sequence[Callback] = (),
    **settings: Any,
) -> FittedHead:
    """Train a head on vectors; nothing is written to disk.

    It is the training of `ragcun.fit`, with its defaults; a calibrated start takes the queries that are in `pairs`.
    Join a lexical channel before: ``[unit(vectors), √a · channel.encode(texts, role)]`` (docs/vectors.md).

    Args:
        query_vectors: base vectors of queries ``(n_q, dim)``.
        document_vectors: base vectors of documents ``(n_d, dim)``.
        pairs: index of a query and of a document that answers it; several of a query or document may be given.
        dev_pairs: vectors of other queries, and pairs of them with `document_vectors`: the epoch with the best
            NDCG@10 on them is kept.
        teacher_vectors: another model's of the same queries and documents, whose cosines are the teacher's scores.
        config: settings; what it says of texts and files is not used.
        callbacks: each receives every row of `FittedHead.history` as it is made.
        **settings: fields of `TrainConfig` that take the place of those in `config`.

    Raises:
        ValueError: vectors, pairs or settings are not possible.
        TypeError: a setting is no field of `TrainConfig`.
    """
    chosen = _settings(config, settings)
    if chosen.never_worse and dev_pairs is None:
        raise ValueError("never_worse compares on held-out queries; give dev_pairs")
    if (chosen.contrastive in TAUGHT) != (teacher_vectors is not None):
        raise ValueError("teacher_vectors go with contrastive kl or margin_mse; give both or neither")
    data = _on_vectors(query_vectors, document_vectors, pairs, dev_pairs, teacher_vectors, chosen)
    run, history = RunFolder(None), list[dict[str, Any]]()
    run.followers += [history.append, *callbacks]
    encoder, result = fit_encoder(chosen, data, run)
    return FittedHead(cast("ProjectionEncoder", encoder.eval()), history, result, chosen)


def _on_vectors(
    query_vectors: ArrayLike,
    document_vectors: ArrayLike,
    pairs: Pairs,
    dev_pairs: tuple[ArrayLike, Pairs] | None,
    teacher_vectors: tuple[ArrayLike, ArrayLike] | None,
    config: TrainConfig,
) -> TrainingData:
    documents = check_vectors(document_vectors, "document_vectors")
    queries = check_vectors(query_vectors, "query_vectors", documents.shape[1])
    names, asked = [f"d{i}" for i in range(len(documents))], [f"q{i}" for i in range(len(queries))]
    checked = checked_pairs(list(pairs), "pairs", len(queries), len(documents))
    rows = ((asked[q], names[d], None) for q, d in checked.tolist())
    train = PairDataset.from_rows(rows, IN_MEMORY, names)
    if len(train) < 2:
        raise ValueError(f"pairs must hold at least 2 different pairs, got {len(train)}")
    sets, dev = [(asked, queries)], None
    if dev_pairs is not None:
        others = check_vectors(dev_pairs[0], "dev_pairs", documents.shape[1])
        qrels: dict[str, dict[str, int]] = {}
        for query, document in checked_pairs(list(dev_pairs[1]), "dev_pairs", len(others), len(documents)).tolist():
            qrels.setdefault(f"dev{query}", {})[names[document]] = 1
        dev = Collection("dev_pairs", {name: Document("", name) for name in names}, {q: q for q in qrels}, qrels, "dev")
        sets.append(([f"dev{i}" for i in range(len(others))], others))
    store, teacher = VectorStore([(names, documents)], sets, config.normalize_embeddings), None
    if teacher_vectors is not None:
        theirs, shown = (check_vectors(side, "teacher_vectors") for side in teacher_vectors)
        if (len(theirs), len(shown), theirs.shape[1]) != (len(queries), len(documents), shown.shape[1]):
            raise ValueError(f"teacher_vectors must be of all queries and documents, got {theirs.shape}, {shown.shape}")
        teacher = VectorStore([(names, shown)], [(asked, theirs)])
    return TrainingData(train, None, dev, dev if config.never_worse else None, vectors=store, teacher=teacher)


def _settings(config: TrainConfig | None, settings: dict[str, Any]) -> TrainConfig:
    chosen = replace(config or TrainConfig(train_data=IN_MEMORY), **settings)
    if chosen.lexical_dim:
        raise ValueError("a lexical channel needs texts; append its vectors to yours, and leave lexical_dim out")
    chosen.lexical_dim = 0
    for name in OF_TEXTS:
        if getattr(chosen, name) != getattr(TrainConfig, name):
            raise ValueError(f"{name} cannot be used with vectors; leave it out")
    return chosen
