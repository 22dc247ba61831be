"""TrainConfig: every setting of a training run, once. Flags, YAML files and the saved run all come from it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ragcun.cli.parser import flag
from ragcun.dtype import BASE_DTYPE_HELP, BASE_DTYPES
from ragcun.errors import InputError

SYSTEMS = ("isotropic_gaussian", "jepa", "respred", "asymmetric")
PRECISIONS = ("no", "fp16", "bf16", "auto")
TRACKERS = ("none", "tensorboard", "wandb")
HEAD_INITS = ("identity", "calibrated", "random")
RATES = ("learning_rate", "base_learning_rate", "projection_learning_rate", "predictor_learning_rate")
COUNTS = (
    *("positives_per_query", "freeze_early_layers", "grad_cache_size"),
    *("save_interval", "state_interval", "collapse_checks", "max_skipped", "seed"),
)
LARGEST_SEED = 2**32 - 1


@dataclass
class TrainConfig:
    """Settings of `ragcun.fit` and ``scripts/train.py``; each field is a flag of the same name.

    A rate that is not given is `learning_rate` where that is given, else its own default. The base is frozen unless
    ``freeze_base`` is False or ``freeze_early_layers`` asks for a part of it only.
    """

    # data
    train_data: str | None = flag(None, "pairs file (.json, .jsonl, .csv), or BEIR folder whose training qrels to use")
    output_dir: str = flag("checkpoints/run", "folder of the run; best_model/ in it is the checkpoint")
    documents: str | None = flag(None, "make training pairs from these documents instead of --train_data")
    corpus: str | None = flag(
        None, "adapt to these documents: mine negatives in them and, without --train_data, make the pairs from them too"
    )
    queries: str | None = flag(None, "queries without labels, as --corpus takes documents, for a calibrated start")
    hold_out_documents: float = flag(
        0.0, "hide this share of the documents from training; evaluate_beir.py ranks them apart"
    )
    pair_method: str = flag("first_sentence", "how pairs are made from --documents")
    val_data: str | None = flag(None, "pairs file or BEIR folder: choose the epoch with the lowest objective on it")
    dev_beir: str | None = flag(None, "BEIR folder: choose the epoch with the best NDCG@10 on it")
    dev_split: str = flag("dev", "split of --dev_beir")
    dev_fraction: float = flag(
        0.0, "hold out this share of a BEIR folder's training queries, choose by NDCG@10 on them"
    )
    never_worse: bool | None = flag(
        None,
        "keep the start, or the base, where the trained model is worse on held-out data (default: with --corpus alone)",
        bare=True,
        off=False,
    )
    cache_dir: str | None = flag(None, "folder of cached base vectors (default: $RAGCUN_CACHE or ~/.cache/ragcun)")
    # model
    system: str = flag("asymmetric", "encoder system", choices=SYSTEMS)
    vectors: str | None = flag(
        None, "folder of vectors in place of a base model: documents.npy, queries.npy, and their ids in .txt"
    )
    base_model: str = flag("minilm", "hub name, folder, or minilm (the packaged all-MiniLM-L6-v2)")
    base_dtype: str = flag("float32", BASE_DTYPE_HELP, choices=BASE_DTYPES)
    load_checkpoint: str | None = flag(None, "go on from this checkpoint's weights; its model settings apply")
    freeze_base: bool | None = flag(None, "freeze the whole base (default: True)", bare=True, off=False)
    freeze_early_layers: int = flag(0, "freeze token embeddings and the first N transformer layers", bare=4, off=0)
    normalize_embeddings: bool = flag(True, "scale the base's vectors to length 1 before the head")
    output_dim: int | None = flag(None, "length of the embeddings (default: the base's)")
    normalize_output: bool | None = flag(
        None, "scale embeddings to length 1 (default: unless there is a predictor)", bare=True, off=False
    )
    nested_dims: tuple[int, ...] = flag((), "sizes below the full one at which embeddings are to serve, cut short")
    head: str = flag("linear", "kind of projection head", choices=("residual", "linear", "mlp"))
    head_init: str | None = flag(
        None,
        "where the head starts: as the base, as the closed form of calibrate.py, or at random (default: calibrated; "
        "identity with --normalize_embeddings False or --train_side document; mlp: random)",
        choices=HEAD_INITS,
    )
    train_side: str = flag(
        "both", "whose head is trained; the other side's vectors stay the base's", choices=("both", "query", "document")
    )
    mix_with_base: float = flag(
        0.0, "share of the base in the distances: embeddings get the base's vector beside the head's output"
    )
    head_depth: int = flag(2, "linear layers of the head's network, 2 to 4")
    head_expansion: float = flag(2.0, "hidden width as a multiple of the base's dimension, 1 to 4")
    activation: str = flag("gelu", "activation of head and predictor", choices=("gelu", "relu", "silu", "tanh"))
    dropout: float = flag(0.0, "dropout of head and predictor")
    use_predictor: bool | None = flag(
        None,
        "have a predictor from query to document embedding (default: as the system is defined)",
        bare=True,
        off=False,
    )
    predictor: str | None = flag(
        None, "kind of predictor, as --head (default: residual; respred: mlp)", choices=("residual", "linear", "mlp")
    )
    query_embedding: str = flag(
        "projection", "what a query's embedding is in retrieval", choices=("projection", "prediction")
    )
    ema_decay: float = flag(0.999, "decay of the jepa system's EMA target, per optimiser step")
    ema_schedule: str = flag(
        "constant", "course of the decay; the others rise to 1", choices=("constant", "cosine", "linear")
    )
    # objective
    lambda_contrastive: float = flag(1.0, "weight of the contrastive loss")
    lambda_isotropy: float = flag(0.0, "weight of the isotropy loss")
    lambda_reg: float = flag(0.0, "weight of the variance regularisation (std - 1)^2")
    lambda_predictive: float = flag(0.0, "weight of the predictive loss (needs a predictor)")
    lambda_residual: float = flag(0.0, "weight of the size of respred's correction (the founding notes: .01)")
    contrastive: str = flag("infonce", "contrastive loss", choices=("infonce", "margin", "in_batch_margin"))
    margin: float = flag(1.0, "margin of the margin losses")
    temperature: float = flag(0.1, "temperature of InfoNCE")
    symmetric: bool = flag(False, "InfoNCE from documents to queries too")
    soft_targets: bool = flag(True, "InfoNCE towards all known positives of a query alike; else others are masked")
    mined_negatives: int | None = flag(
        None, "mined hard negatives per query and step (default: 4 with InfoNCE and a frozen base, else 0)"
    )
    mined_first: int | None = flag(
        None, "first rank in the start's ranking, positives left out, that is mined (default: 0; without labels 10)"
    )
    mined_last: int = flag(100, "rank at which mining ends")
    positives_per_query: int = flag(1, "pairs of each query in an epoch, drawn anew in each; 0 shows all pairs")
    distance: str = flag("euclidean", "distance of InfoNCE", choices=("euclidean", "cosine", "dot"))
    isotropy: str = flag("covariance", "isotropy loss", choices=("covariance", "sigreg", "gor", "vicreg", "none"))
    isotropy_form: str = flag(
        "scale_free", "scale_free, or absolute (as in the founding notes)", choices=("scale_free", "absolute")
    )
    isotropy_transform: str = flag(
        "none",
        "what is done to embeddings before the isotropy loss",
        choices=("none", "standardize", "standardize_l2", "unit_scale", "sqrt_dim"),
    )
    isotropy_rows: str = flag(
        "together", "isotropy of queries and documents together, or of each side", choices=("together", "each")
    )
    num_slices: int = flag(256, "random directions of SIGReg, redrawn at every step")
    knots: str = flag("reference", "integration knots of SIGReg", choices=("reference", "paper"))
    stopgrad: bool = flag(True, "hold the predictor's target constant")
    # optimisation
    epochs: int | None = flag(None, "passes over the training pairs (default: as many as --steps takes)")
    steps: int = flag(150, "optimiser steps of the run, rounded to whole epochs, where --epochs is not given")
    trained_share: float | None = flag(
        None,
        "share of the trained weights in the final ones, the rest being the start's (default: .7 n / (n + 100) for n "
        "training queries, .25 without labels; 1 for parts that start at random, with a trained base or a predictor)",
    )
    average_decay: float = flag(0.99, "decay of the average of the weights that is judged and kept; 0 keeps the last")
    batch_size: int = flag(128, "pairs of one step and process")
    gradient_accumulation_steps: int = flag(1, "batches whose gradients are added before a step")
    learning_rate: float | None = flag(None, "rate of all parts whose own rate is not given")
    base_learning_rate: float | None = flag(None, "rate of the base (default: 2e-5)")
    projection_learning_rate: float | None = flag(None, "rate of the head (default: 1e-3)")
    predictor_learning_rate: float | None = flag(None, "rate of the predictor (default: the head's)")
    weight_decay: float = flag(0.01, "weight decay of AdamW, on matrices")
    warmup_steps: int | None = flag(None, "steps of linear warm-up before the cosine (default: a tenth of all)")
    max_grad_norm: float = flag(1.0, "clip gradients to this norm; 0 does not clip")
    mixed_precision: str = flag(
        "no", "fp16, bf16, or auto: what a GPU does natively", bare="auto", off="no", choices=PRECISIONS
    )
    gradient_checkpointing: bool = flag(False, "recompute the base's activations in the backward pass to save memory")
    grad_cache_size: int = flag(
        0, "embed at most so many pairs of a batch at a time, by gradient caching, to save memory; 0 is off"
    )
    compile: bool = flag(False, "compile head and predictor with torch.compile")
    device: str | None = flag(None, "cpu or cuda (default: a GPU where there is one)")
    encode_batch_size: int = flag(1024, "texts encoded at a time with a frozen base, at most: of long ones fewer")
    # the run
    seed: int = flag(42, "seed of everything random")
    tracker: str = flag("none", "also send the rows of metrics.jsonl to this tracker", choices=TRACKERS)
    log_interval: int = flag(10, "steps between rows of metrics.jsonl")
    save_interval: int = flag(0, "epochs between kept checkpoints epoch-N/; 0 keeps only the best")
    on_collapse: str = flag("warn", "what to do when embeddings collapse", choices=("warn", "stop"))
    on_nan: str = flag("stop", "what to do when a loss or gradient is not finite", choices=("stop", "skip"))
    max_skipped: int = flag(10, "steps that --on_nan skip leaves out in a run; one more ends it")
    collapse_checks: int = flag(10, "looks for a collapse in a run; 0 looks never")
    state_interval: int = flag(0, "steps between resume points inside an epoch; 0 makes one after each epoch")
    resume: bool = flag(False, "go on from the newest resume point in --output_dir, or start where there is none")
    overwrite: bool = flag(False, "replace an earlier run in --output_dir")

    def __post_init__(self) -> None:
        if self.freeze_base is None:
            self.freeze_base = self.freeze_early_layers == 0
        if self.train_data and self.documents:
            raise InputError("--train_data and --documents both say where pairs come from; give one of them")
        if not (self.train_data or self.documents or self.corpus):
            raise InputError(
                "--train_data is missing: give a pairs file (.json, .jsonl, .csv) or a BEIR folder, or --corpus"
            )
        self._check_base()
        first, last = self.mined_ranks
        if not 0 <= first < last:
            raise InputError(f"--mined_last must be above --mined_first, {first}, got {last}")
        if self.hold_out_documents and self.documents:
            raise InputError("--hold_out_documents goes with --train_data or --corpus, not with --documents")
        self._at_least("batch_size", 2)
        if self.epochs is not None:
            self._at_least("epochs", 1)
        if self.mined_negatives is not None:
            self._at_least("mined_negatives", 0)
        for name in ("mix_with_base", "hold_out_documents", "average_decay", "dev_fraction"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"--{name} must be at least 0 and below 1, got {getattr(self, name)}")
        if self.trained_share is not None and not 0 <= self.trained_share <= 1:
            raise InputError(f"--trained_share must be from 0 to 1, got {self.trained_share}")
        for name in ("steps", "gradient_accumulation_steps", "log_interval", "encode_batch_size", "num_slices"):
            self._at_least(name, 1)
        for name in (*COUNTS, "max_grad_norm", "weight_decay"):
            self._at_least(name, 0)
        for name in ("warmup_steps", *RATES):
            if getattr(self, name) is not None:
                self._at_least(name, 0)
        if self.seed > LARGEST_SEED:
            raise InputError(f"--seed must be at most {LARGEST_SEED}, got {self.seed}")
        if self.dev_fraction and self.dev_beir:
            raise InputError("--dev_fraction and --dev_beir both name a dev set; give one of them")
        if not 0 <= self.ema_decay <= 1:
            raise InputError(f"--ema_decay must be from 0 to 1, got {self.ema_decay}")
        if self.never_worse and not self.freeze_base:
            raise InputError("--never_worse compares heads on one frozen base; leave it out, or freeze the base")
        if self.resume and self.overwrite:
            raise InputError("--resume and --overwrite contradict each other; give one of them")

    def _check_base(self) -> None:
        if self.base_dtype != "float32" and not self.freeze_base:
            raise InputError(
                "--base_dtype is of a frozen base, and a trained one stays float32; leave it out (--mixed_precision "
                "speeds training up)"
            )
        for name in ("documents", "corpus", "queries", "val_data") if self.vectors else ():
            if getattr(self, name):
                raise InputError(f"--vectors has no vectors for --{name}; give a BEIR folder in --train_data alone")
        if self.vectors and self.base_model != "minilm":
            raise InputError("--vectors and --base_model both name a base; give one of them")
        if self.vectors and not self.freeze_base:
            raise InputError("--vectors cannot be trained, only heads on them; leave the base frozen")

    def _at_least(self, name: str, least: float) -> None:
        value = getattr(self, name)
        if not value >= least:
            raise InputError(f"--{name} must be at least {least}, got {value}")

    @property
    def start(self) -> str:
        """Where the head starts: identity, calibrated or random."""
        if self.head_init is not None:
            return self.head_init
        if self.head == "mlp":
            return "random"
        return "calibrated" if self.normalize_embeddings and self.train_side != "document" else "identity"

    @property
    def label_free(self) -> bool:
        """Whether the pairs are made from the documents of --corpus."""
        return self.corpus is not None and not self.train_data and not self.documents

    @property
    def mines(self) -> int:
        """Mined negatives per query and step."""
        if self.mined_negatives is not None:
            return self.mined_negatives
        return 4 if self.contrastive == "infonce" and self.freeze_base else 0

    @property
    def mined_ranks(self) -> tuple[int, int]:
        """Ranks that are mined: from the first to before the second."""
        if self.mined_first is not None:
            return self.mined_first, self.mined_last
        return (10 if self.label_free else 0), self.mined_last

    @property
    def rates(self) -> dict[str, float]:
        """The learning rate of each part by name, all defaults filled in."""
        head = _first(self.projection_learning_rate, self.learning_rate, 1e-3)
        return {
            "base": _first(self.base_learning_rate, self.learning_rate, 2e-5),
            "head": head,
            "predictor": _first(self.predictor_learning_rate, self.learning_rate, head),
        }

    def warmup(self, total_steps: int) -> int:
        """Return the steps of warm-up in a run of `total_steps`."""
        return self.warmup_steps if self.warmup_steps is not None else max(1, total_steps // 10)

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as plain values."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


def _first(*values: float | None) -> float:
    return next(value for value in values if value is not None)
