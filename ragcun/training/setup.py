"""From a TrainConfig to what training needs: data, features, objective and encoder."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ragcun.batch import Role
from ragcun.config import TAUGHT, TrainConfig
from ragcun.data.beir import Collection, hold_out_queries, load_collection, pairs_from_collection, read_queries
from ragcun.data.overlap import HoldOut
from ragcun.data.pairs import PairDataset, Scores, read_pairs
from ragcun.data.records import is_collection, read_documents
from ragcun.data.synthetic_queries import adaptation_data, pairs_from_documents
from ragcun.embeddings.base import Base, VectorSource
from ragcun.embeddings.cache import vector_source
from ragcun.embeddings.joined import JoinedBase, fit_channel
from ragcun.embeddings.lexical import LexicalChannel
from ragcun.embeddings.precomputed import VectorStore, read_vectors
from ragcun.embeddings.target import Target, TargetBase, fit_mapping
from ragcun.embeddings.text_base import TextBase
from ragcun.errors import InputError, as_input_error
from ragcun.losses.objective import SCALED_BY_ROWS, Objective
from ragcun.models.encoder import SYSTEMS, RetrievalEncoder
from ragcun.models.heads import HeadShape
from ragcun.models.projection import ProjectionEncoder
from ragcun.options import refuse
from ragcun.retrieval.runs import StoredRetriever
from ragcun.training.batches import Teacher, teacher_of_scores, teacher_of_vectors
from ragcun.training.processes import Processes
from ragcun.training.summary import KEPT, model_settings

logger = logging.getLogger(__name__)

GROWN = ("use_predictor", "predictor", "query_embedding")
"""Settings by which a run may add to the checkpoint that it starts from."""
HOLD_OUT_SEED = 0
"""Which documents are hidden does not depend on a run's seed, so that runs can be compared."""


@dataclass(frozen=True)
class TrainingData:
    """Training pairs, and what the best epoch is chosen on: validation pairs, or a dev collection, or neither.

    ``check`` holds the judged queries by which the trained model is compared with its start and the base, once;
    ``queries`` has no labels, and a calibrated start takes its shift of queries from it (None: from those of `train`);
    ``vectors`` take the place of a base model's, ``teacher`` that of the model ``config.teacher``.
    """

    train: PairDataset
    val: PairDataset | None = None
    dev: Collection | None = None
    check: Collection | None = None
    queries: list[str] | None = None
    hold_out: HoldOut | None = None
    vectors: VectorStore | None = None
    teacher: Scores | VectorStore | None = None

    def hashes(self) -> dict[str, str]:
        """Return the SHA-256 of each set; ``texts`` are all others, and a teacher's scores of them."""
        sets = {"train": self.train, "val": self.val, "dev": self.dev, "check": self.check}
        found = {name: data.sha256() for name, data in sets.items() if data is not None}
        texts = [*self.train.unpaired(), *(self.queries or ())]
        texts += [json.dumps(self.teacher)] if isinstance(self.teacher, dict) else []
        return found | ({"texts": hashlib.sha256(json.dumps(texts).encode()).hexdigest()} if texts else {})


def build_data(config: TrainConfig) -> TrainingData:
    """Read all data of a run."""
    dev = load_collection(config.dev_beir, config.dev_split) if config.dev_beir else None
    if config.dev_fraction and not (config.train_data and is_collection(config.train_data)):
        raise InputError("--dev_fraction holds out queries of a BEIR folder in --train_data; use --dev_beir")
    hold_out = HoldOut(config.hold_out_documents, HOLD_OUT_SEED) if config.hold_out_documents else None
    queries = read_queries(config.queries) if config.queries else None
    held_out, vectors = None, None
    run = config.teacher is not None and Path(config.teacher).is_file()
    scores: Scores | None = {} if config.contrastive in TAUGHT and (run or config.teacher is None) else None
    if run and not is_collection(str(config.train_data)):
        raise InputError(f"--teacher {config.teacher} has ids of a BEIR folder; give that in --train_data")
    if config.label_free:
        documents = read_documents(str(config.corpus))
        documents = documents if hold_out is None else hold_out.visible_documents(documents)
        made = adaptation_data(documents, str(config.corpus), config.seed)
        train, held_out, queries = made.pairs, made.held_out, queries or made.stand_ins
    else:
        train, dev, vectors = _labelled(config, dev, scores)
        train = train if hold_out is None else hold_out.without_hidden(train)
    val = None
    if config.val_data is not None:
        judged = is_collection(config.val_data)
        val = pairs_from_collection(load_collection(config.val_data, "dev")) if judged else read_pairs(config.val_data)
    closed_form = config.untrained or (config.label_free and not len(train) and config.start == "calibrated")
    if config.untrained:
        logger.info("%s: adapted by its words alone, nothing is trained; --trained_share .25 trains", config.corpus)
        contents = (document.content for document in documents)  # in their order, so that no seed decides the channel
        train = PairDataset.without_pairs(filter(None, contents), str(config.corpus))
    elif closed_form:
        logger.info("%s: no pairs, as documents are one sentence without a title; nothing is trained", train.source)
    held_out = None if closed_form else held_out
    for pairs in (train, val):
        if pairs is not None and len(pairs) < 2 and not (closed_form and pairs is train):
            raise InputError(f"{pairs.source} has {len(pairs)} pair; a batch needs at least 2")
    by_default = config.label_free and not closed_form
    never_worse = by_default if config.never_worse is None else config.never_worse
    check = (dev or held_out) if never_worse else None
    if never_worse and check is None and not is_collection(str(config.train_data)):
        raise InputError("--never_worse compares on held-out queries; add --dev_beir, or train on a BEIR folder")
    return TrainingData(train, val, dev, check, queries, hold_out, vectors, scores)


def _labelled(
    config: TrainConfig, dev: Collection | None, scores: Scores | None
) -> tuple[PairDataset, Collection | None, VectorStore | None]:
    vectors = None
    if config.documents is not None:
        train = pairs_from_documents(config.documents, config.pair_method, config.seed)
    elif is_collection(str(config.train_data)):
        collection = load_collection(str(config.train_data), "train")
        if scores is not None and config.teacher is not None:
            run = StoredRetriever(config.teacher, Path(config.teacher)).retrieve(collection, len(collection.documents))
            for key, found in run.items():
                scores[collection.queries[key]] = {collection.documents[d].content: s for d, s in found.items()}
        if config.dev_fraction:
            collection, dev = hold_out_queries(collection, config.dev_fraction, config.seed)
        train = pairs_from_collection(collection, whole_corpus=True)
        if config.vectors is not None:
            named = [collection] if dev is None else [collection, dev]
            vectors = read_vectors(config.vectors, named, config.normalize_embeddings)
    elif config.vectors is not None:
        raise InputError("--vectors are found by the ids of a BEIR folder; give one in --train_data")
    else:
        train = read_pairs(str(config.train_data), scores)
    if config.corpus is not None:
        contents = (document.content for document in read_documents(config.corpus))
        train = PairDataset.from_rows(train.rows(), train.source, filter(None, (*train.documents, *contents)))
    return train, dev, vectors


def build_teacher(config: TrainConfig, data: TrainingData, processes: Processes) -> Teacher | None:
    """Return the teacher of the training pairs: scores or vectors of the data, or a model; None for a loss without."""
    if config.contrastive not in TAUGHT:
        return None
    source: Scores | VectorSource | None = data.teacher
    if source is None:
        base = TextBase.load(str(config.teacher), device=str(processes.device))
        base.compute_in(config.base_dtype, config.base_backend)
        source = vector_source(base, config.cache_dir, config.encode_batch_size)
    if isinstance(source, dict):
        return teacher_of_scores(source, data.train, config.teacher or data.train.source, processes.device)
    return teacher_of_vectors(source, data.train, processes.device)


def build_objective(config: TrainConfig, encoder: RetrievalEncoder | None = None) -> Objective:
    """Return the objective that a configuration describes, for an encoder."""
    if config.mines and config.contrastive not in ("infonce", *TAUGHT):
        raise InputError(f"--mined_negatives cannot be used with --contrastive {config.contrastive}; leave it out")
    unit = encoder is not None and encoder.to_config().get("normalize_output")
    scaled = unit and config.isotropy in SCALED_BY_ROWS and "isotropy" in config.weights
    if scaled and config.isotropy_transform is None:
        logger.info("--isotropy %s: rows of length 1 are scaled to length √D for it (sqrt_dim)", config.isotropy)
        config = dataclasses.replace(config, isotropy_transform="sqrt_dim")
    with as_input_error("objective"):
        return Objective(config)


def build_base(
    config: TrainConfig, data: TrainingData, processes: Processes, kept: LexicalChannel | None
) -> tuple[Base | None, VectorSource | None]:
    """Return the base of given vectors, or a text model with a target or a lexical channel, and vectors given or made.

    For a plain text model both are None. The channel, unless a resumed run has `kept` one, is fitted on the documents
    of the training data: the corpus, but for hidden documents, or those of the pairs. So is the map to a target.
    """
    name = None if config.load_checkpoint else config.target_model
    if not (config.lexical or name):
        if config.lexical_dim is None:
            logger.info("no lexical channel: by default it goes with texts and a new, frozen and normalised base")
        return None if data.vectors is None else data.vectors.base, data.vectors
    base: Base = data.vectors.base if data.vectors is not None else _new_base(config)
    base.to(processes.device)
    base.freeze()
    base.compute_in(config.base_dtype, config.base_backend)
    dense = partial(vector_source, base, config.cache_dir, config.encode_batch_size, data.vectors)
    if isinstance(base, TextBase) and name is not None:
        target = Target(name)
        target.base(str(processes.device)).compute_in(config.base_dtype, config.base_backend)
        documents = partial(vector_source, target.base(), config.cache_dir, config.encode_batch_size)
        texts: dict[Role, list[str]] = {"document": data.train.documents, "query": data.train.queries}
        mapping = processes.on_main(lambda: fit_mapping(dense(), documents(), texts))
        return TargetBase(base, target, mapping, config.normalize_embeddings), data.vectors
    source = dense()
    channel, weight = processes.on_main(lambda: fit_channel(source, data.train.documents, config, kept))
    return JoinedBase(base, channel, weight, config.normalize_embeddings), source


def _new_base(config: TrainConfig) -> TextBase:
    return TextBase.load(config.base_model, config.normalize_embeddings, config.device)


def build_encoder(config: TrainConfig, base: Base | None = None) -> RetrievalEncoder:
    """Build the encoder that a configuration describes, or load the checkpoint it goes on from; freeze its base."""
    encoder = _from_checkpoint(config) if config.load_checkpoint else _new(config, base)
    _require_fit(config, encoder)
    if config.lora_rank:
        encoder.base.add_lora(config.lora_rank, config.lora_alpha, config.lora_layers)
    encoder.freeze_base(bool(config.freeze_base), config.freeze_early_layers)
    encoder.base.compute_in(config.base_dtype, config.base_backend)
    if config.train_side != "both":
        with as_input_error(f"--train_side {config.train_side}"):
            encoder.freeze_side("document" if config.train_side == "query" else "query")
    if config.gradient_checkpointing and not encoder.base.frozen:
        encoder.base.checkpoint_activations()
    if not (config.base_dropout or encoder.base.frozen):
        encoder.base.turn_dropout_off()
    return encoder


def _require_fit(config: TrainConfig, encoder: RetrievalEncoder) -> None:
    size, shows, side, placed = encoder.dimension, encoder.shows, config.train_side, encoder.base.keeps_documents
    lengths = f"--nested_dims must be below {size}, the length of the embeddings; leave it out"
    predicts = f"--lambda_predictive {config.lambda_predictive} needs a predictor; add --use_predictor"
    residual = f"--lambda_residual {config.lambda_residual} needs a residual predictor: --system respred"
    both = f"--train_side {side}: a trained base changes both sides; leave it out, or the base frozen"
    stay = "documents stay as the target model embeds them; leave it out"
    mistakes = {
        lengths: any(length >= size for length in config.nested_dims),
        predicts: config.lambda_predictive > 0 and "predicted" not in shows,
        residual: config.lambda_residual > 0 and "residual" not in shows,
        both: side != "both" and not (config.freeze_base or placed),
        f"--nested_dims: {stay}": placed and config.nested_dims,
        f"--mix_with_base: {stay}": placed and config.mix_with_base,
        f"--train_side document: {stay}": placed and side == "document",
    }
    refuse(mistakes)


def _new(config: TrainConfig, base: Base | None) -> RetrievalEncoder:
    base = base or _new_base(config)
    system = SYSTEMS[config.system]
    if base.keeps_documents and not issubclass(system, ProjectionEncoder):
        raise InputError(f"--target_model: a {config.system} encoder does not keep documents as they are; leave it out")
    if base.keeps_documents and config.lambda_predictive:
        config.query_embedding = "prediction"  # which is what meets documents, as these have no head that meets queries
    if config.start == "calibrated" and (config.output_dim or 0) > base.dimension:
        wide = f"--output_dim {config.output_dim} is above the {base.dimension} dimensions of the base"
        if config.head_init is not None:
            raise InputError(f"{wide}, which --head_init calibrated cannot start; choose identity")
        logger.info("%s: the head starts as the identity, padded with zeros, not as the whitening", wide)
        config.head_init = "identity"
    with as_input_error("head"):
        dim, out = base.dimension, base.dimension if config.output_dim is None else config.output_dim
        shape = (config.head_depth, config.head_expansion, config.activation, config.dropout)
        start = "random" if config.start == "random" else "preserving"
        matrix = config.start == "calibrated" and config.head == "residual"
        head = HeadShape(config.head, dim, out, *shape, matrix_skip=matrix, start=start)
        predicts = system.always_predicts if config.use_predictor is None else config.use_predictor
        predictor = HeadShape(config.predictor or system.predictor_kind, out, out, *shape) if predicts else None
        parts = {"head": head.to_dict(), "predictor": None if predictor is None else predictor.to_dict()}
        normalize = predictor is None if config.normalize_output is None else config.normalize_output
        rest = {"query_embedding": config.query_embedding, "normalize_output": normalize}
        encoder = system.from_config(base, parts | rest)
    return encoder


def _from_checkpoint(config: TrainConfig) -> RetrievalEncoder:
    encoder = RetrievalEncoder.from_pretrained(str(config.load_checkpoint), config.device)
    for name, value in model_settings(encoder).items():
        given = getattr(config, name)
        if name not in (*GROWN, *KEPT) and given not in (getattr(TrainConfig, name), value):
            where = f"checkpoint {config.load_checkpoint}, whose {name} is {value}"
            raise InputError(f"--{name} {given} does not fit {where}; leave it out")
    loaded = encoder.to_config()
    asked = dict(loaded)
    if config.use_predictor and loaded["predictor"] is None:
        out, kind = encoder.dimension, config.predictor or encoder.predictor_kind
        shape = {"kind": kind, "input_dim": out, "output_dim": out, "matrix_skip": False, "start": "preserving"}
        asked["predictor"] = loaded["head"] | shape
    if config.query_embedding == "prediction":
        asked["query_embedding"] = config.query_embedding
    if asked == loaded:
        return encoder
    with as_input_error(f"--load_checkpoint {config.load_checkpoint}"):
        changed = type(encoder).from_config(encoder.base, asked)
    changed.load_state_dict({**changed.state_dict(), **encoder.state_dict()})
    return changed


def build_features(config: TrainConfig, base: Base, vectors: VectorSource | None) -> VectorSource | None:
    """Return where a frozen base's vectors come from: those given, or a cache; None where the base is trained."""
    if not (base.frozen or base.keeps_documents):
        return None
    source = vector_source(base, config.cache_dir, config.encode_batch_size, vectors)
    return source if base.frozen else None  # a trained base with a target reads its documents there
