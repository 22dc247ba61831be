"""Every setting of a training run, its default and its help text, exactly once, in five groups."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal, get_args

from ragcun.options import check_one_of, flag, refuse, settle

TermKind = Literal["words", "pieces"]
Distance = Literal["euclidean", "cosine", "dot"]
DISTANCES: tuple[Distance, ...] = get_args(Distance)
TAUGHT = ("kl", "margin_mse")  # contrastive losses that learn a teacher's scores
Fusion = Literal["minmax", "zscore", "rrf"]
Precision = Literal["float32", "int8", "binary"]
LEXICAL_DIM = 512
WEIGHTS = ("contrastive", "isotropy", "reg", "predictive", "residual")
BASE_DTYPES = ("auto", "float32", "bfloat16", "float16", "int8")
BASE_DTYPE_HELP = "dtype of a frozen base's products: auto is native, float16 needs a GPU, int8 openvino"
BASE_BACKENDS = ("torch", "openvino")
BASE_BACKEND_HELP = "what computes a frozen base: torch, or openvino (faster on a CPU)"
CACHE_HELP = "cache of base vectors (default: $RAGCUN_CACHE or ~/.cache/ragcun)"
DEVICE_HELP = "cpu or cuda (default: a GPU where there is one)"
SEED_HELP = "random seed"
LARGEST_SEED = 2**32 - 1


@dataclass
class DataConfig:
    """Where training pairs and held-out data come from."""

    title: ClassVar[str] = "data"
    train_data: str | None = flag(None, "pairs (.jsonl, .csv …, or owner/name on the hub), or BEIR folder with qrels")
    documents: str | None = flag(None, "make training pairs from these documents, without labels", metavar="PATH")
    corpus: str | None = flag(None, "adapt to these documents, which also give negatives", metavar="PATH")
    queries: str | None = flag(None, "unlabelled queries for the whitening of the initial head", metavar="PATH")
    hold_out_documents: float = flag(0.0, "share of the documents hidden from training", at_least=0, below=1)
    teacher: str | None = flag(None, "model or TREC run whose scores --contrastive kl or margin_mse learns")
    pair_method: str = flag("first_sentence", "how pairs are made from --documents")
    val_data: str | None = flag(None, "pairs file or BEIR folder: choose the epoch with the lowest objective on it")
    dev_beir: str | None = flag(None, "BEIR folder: choose the epoch with the best NDCG@10 on it", metavar="DIR")
    dev_split: str = flag("dev", "split of --dev_beir")
    dev_fraction: float = flag(0.0, "share of the training queries held out for NDCG@10", at_least=0, below=1)
    never_worse: bool | None = flag(None, "keep base or initial weights if better (default: without labels)")
    cache_dir: str | None = flag(None, CACHE_HELP)


@dataclass
class ModelConfig:
    """The base and the encoder system on it."""

    title: ClassVar[str] = "model"
    system: str = flag("asymmetric", "encoder system", choices="models.encoder:SYSTEMS")
    base_model: str = flag("minilm", "hub name, folder, or minilm (the packaged all-MiniLM-L6-v2)")
    vectors: str | None = flag(None, "documents.npy, queries.npy and ids in .txt, in place of a base", metavar="DIR")
    target_model: str | None = flag(None, "embed documents by this model, untrained; --base_model embeds queries alone")
    base_dtype: str = flag("float32", BASE_DTYPE_HELP, choices=BASE_DTYPES)
    base_backend: str = flag("torch", BASE_BACKEND_HELP, choices=BASE_BACKENDS)
    load_checkpoint: str | None = flag(None, "initialize from this checkpoint; its model settings apply", metavar="DIR")
    freeze_base: bool | None = flag(None, "freeze the whole base (default: True)")
    freeze_early_layers: int = flag(0, "freeze token embeddings and the first N layers", bare=4, off=0, at_least=0)
    lora_rank: int | None = flag(None, "train only LoRA adapters of this rank in the base; 0 is off", at_least=0)
    lora_alpha: int | None = flag(None, "alpha of LoRA, divided by the rank (default: twice the rank)", at_least=1)
    lora_layers: int | None = flag(None, "LoRA in the last N transformer layers (default: all)", at_least=1)
    base_dropout: bool = flag(True, "dropout in a trained base; without it a CPU trains twice as fast")
    normalize_embeddings: bool = flag(True, "scale the base's vectors to length 1 before the head")


@dataclass
class LexicalConfig:
    """The lexical channel beside the base's vectors: a latent semantic analysis of the documents at hand."""

    title: ClassVar[str] = "lexical channel"
    lexical_dim: int | None = flag(None, f"its dimensions; 0 is off (default: {LEXICAL_DIM} at most)", at_least=0)
    lexical_weight: float | None = flag(None, "its weight (default: .1 to .5, from the documents)", at_least=1e-3)
    lexical_terms: TermKind = flag("words", "terms: stemmed words, or the base's word pieces", choices=TermKind)
    lexical_language: str = flag("auto", "language of the words, such as de or zh; none turns stemming off")


@dataclass
class HeadConfig:
    """The head on the base's vectors, and the predictor."""

    title: ClassVar[str] = "head"
    head: str = flag("linear", "kind of projection head", choices="models.heads:HEADS")
    head_init: str | None = flag(
        None,
        "initial head: identity, calibrated (whitening) or random (default: calibrated; identity with "
        "--normalize_embeddings False or --train_side document; random for mlp)",
        choices=("identity", "calibrated", "random"),
    )
    output_dim: int | None = flag(None, "length of the embeddings (default: the base's)", at_least=1)
    head_depth: int = flag(2, "linear layers of a residual or mlp head, 2 to 4", at_least=2, at_most=4)
    head_expansion: float = flag(2.0, "hidden width over the base's dimension, 1 to 4", at_least=1, at_most=4)
    activation: str = flag("gelu", "activation of head and predictor", choices="models.heads:ACTIVATIONS")
    dropout: float = flag(0.0, "dropout of head and predictor", at_least=0, below=1)
    normalize_output: bool | None = flag(None, "scale embeddings to length 1 (default: without predictor)")
    use_predictor: bool | None = flag(None, "predict the document's embedding from the query's (default: by --system)")
    predictor: str | None = flag(None, "predictor (default: residual; respred: mlp)", choices="models.heads:HEADS")
    query_embedding: str = flag("projection", "embedding of a query in retrieval", choices=("projection", "prediction"))
    train_side: str = flag("both", "side whose head is trained", choices=("both", "query", "document"))
    mix_with_base: float = flag(0.0, "weight of the base in the distances; appends its vector", at_least=0, below=1)


@dataclass
class ObjectiveConfig:
    """What is minimised: loss weights λ, and the losses they weigh."""

    title: ClassVar[str] = "objective"
    lambda_contrastive: float = flag(1.0, "weight of the contrastive loss", at_least=0, below=math.inf)
    lambda_isotropy: float = flag(0.0, "weight of the isotropy loss", at_least=0, below=math.inf)
    lambda_reg: float = flag(0.0, "weight of the variance regularization (std - 1)^2", at_least=0, below=math.inf)
    lambda_predictive: float = flag(0.0, "weight of the predictive loss; needs a predictor", at_least=0, below=math.inf)
    lambda_residual: float = flag(0.0, "weight of the squared norm of respred's correction", at_least=0, below=math.inf)
    contrastive: str = flag("infonce", "contrastive loss", choices="losses.objective:CONTRASTIVE")
    isotropy: str = flag("covariance", "isotropy loss", choices="losses.objective:ISOTROPY")
    isotropy_form: str = flag("scale_free", "form of the covariance loss", choices="losses.covariance:ISOTROPY_FORMS")
    isotropy_transform: str | None = flag(
        None, "row transform (default: sqrt_dim of unit rows for sigreg, vicreg)", choices="losses.objective:TRANSFORMS"
    )
    isotropy_rows: str = flag("together", "isotropy of both sides or of each", choices="losses.objective:ISOTROPY_ROWS")
    num_slices: int = flag(256, "random directions of SIGReg, redrawn at every step", at_least=1)
    knots: str = flag("reference", "integration knots of SIGReg", choices="losses.sigreg:KNOTS")
    margin: float = flag(1.0, "margin of the margin losses, in the units of the embeddings", at_least=0, below=math.inf)
    temperature: float = flag(0.1, "temperature of InfoNCE, kl and margin_mse", above=0, below=math.inf)
    teacher_temperature: float | None = flag(None, "of the teacher's scores (default: --temperature)", above=0)
    distance: Distance = flag("euclidean", "distance of InfoNCE, kl and margin_mse", choices=Distance)
    symmetric: bool = flag(False, "InfoNCE also from documents to queries")
    soft_targets: bool = flag(True, "all known positives of a query share the target; else the others are masked")
    nested_dims: tuple[int, ...] = flag((), "Matryoshka dimensions to train as well", at_least=1)
    stopgrad: bool = flag(True, "no gradient through the predictor's target")

    def __post_init__(self) -> None:
        settle(self)

    @property
    def weights(self) -> dict[str, float]:
        """λ of each active term by the term's name."""
        off = {"isotropy"} if self.isotropy == "none" else set()
        values = {term: float(getattr(self, f"lambda_{term}")) for term in WEIGHTS if term not in off}
        return {term: value for term, value in values.items() if value != 0}


@dataclass
class OptimizationConfig:
    """Steps, rates, precision and memory, and mined negatives."""

    title: ClassVar[str] = "optimisation"
    epochs: int | None = flag(None, "passes over the training pairs (default: as many as --steps takes)", at_least=1)
    steps: int = flag(150, "optimizer steps, rounded to whole epochs, if --epochs is not given", at_least=1)
    batch_size: int = flag(128, "pairs per step and process", at_least=2)
    gradient_accumulation_steps: int = flag(1, "batches whose gradients are added before a step", at_least=1)
    positives_per_query: int = flag(1, "pairs of a query in an epoch, drawn anew in each; 0 takes all", at_least=0)
    mined_negatives: int | None = flag(None, "per query (default: 4; margin, trained untaught base: 0)", at_least=0)
    mined_first: int | None = flag(None, "first rank to mine (default: 0; without labels 10)", at_least=0)
    mined_last: int = flag(100, "mine ranks below this one", at_least=1)
    mine_every: int | None = flag(None, "mine again every N epochs, by the averaged weights; 0 is once", at_least=0)
    trained_share: float | None = flag(None, "share of trained weights (default: by queries)", at_least=0, at_most=1)
    average_decay: float = flag(0.99, "decay of the moving average of the weights; 0 is off", at_least=0, below=1)
    ema_decay: float = flag(0.999, "decay of the jepa system's EMA target, per step", at_least=0, at_most=1)
    ema_schedule: str = flag("constant", "schedule of --ema_decay towards 1", choices=("constant", "cosine", "linear"))
    learning_rate: float | None = flag(None, "learning rate of all parts without one of their own", at_least=0)
    base_learning_rate: float | None = flag(None, "rate of the base (default: 2e-5; LoRA 2e-4)", at_least=0)
    projection_learning_rate: float | None = flag(None, "rate of the head (default: 1e-3)", at_least=0)
    predictor_learning_rate: float | None = flag(None, "rate of the predictor (default: the head's)", at_least=0)
    weight_decay: float = flag(0.01, "weight decay of AdamW, on matrices", at_least=0)
    warmup_steps: int | None = flag(None, "steps of linear warm-up (default: a tenth of all)", at_least=0)
    max_grad_norm: float = flag(1.0, "clip gradients to this norm; 0 is off", at_least=0)
    mixed_precision: str = flag(
        "no", "auto: what the GPU computes natively", bare="auto", off="no", choices=("no", "fp16", "bf16", "auto")
    )
    gradient_checkpointing: bool = flag(False, "recompute the base's activations in the backward pass to save memory")
    grad_cache_size: int = flag(0, "gradient caching, N pairs at a time, to save memory; 0 is off", at_least=0)
    compile: bool = flag(False, "compile head and predictor with torch.compile")
    device: str | None = flag(None, DEVICE_HELP)
    encode_batch_size: int = flag(1024, "maximum batch size of a frozen base (smaller for long texts)", at_least=1)


@dataclass
class RunConfig:
    """The run folder, logging, and what to do when something goes wrong."""

    title: ClassVar[str] = "run"
    output_dir: str = flag("checkpoints/run", "folder of the run; best_model/ in it is the checkpoint")
    seed: int = flag(42, SEED_HELP, at_least=0, at_most=LARGEST_SEED)
    tracker: str = flag("none", "also send metrics.jsonl to this tracker", choices=("none", "tensorboard", "wandb"))
    log_interval: int = flag(10, "steps between rows of metrics.jsonl", at_least=1)
    save_interval: int = flag(0, "epochs between kept checkpoints epoch-N/; 0 keeps only the best", at_least=0)
    state_interval: int = flag(0, "steps between resume checkpoints; 0 makes one after each epoch", at_least=0)
    on_collapse: str = flag("warn", "what to do when embeddings collapse", choices=("warn", "stop"))
    collapse_checks: int = flag(10, "number of collapse checks per run; 0 is off", at_least=0)
    on_nan: str = flag("stop", "what to do when a loss or gradient is not finite", choices=("stop", "skip"))
    max_skipped: int = flag(10, "steps that --on_nan skip leaves out; one more ends the run", at_least=0)
    resume: bool = flag(False, "resume from the newest checkpoint in --output_dir, or start where there is none")
    overwrite: bool = flag(False, "replace an earlier run in --output_dir")


@dataclass
class TrainConfig(RunConfig, OptimizationConfig, ObjectiveConfig, HeadConfig, LexicalConfig, ModelConfig, DataConfig):
    """Settings of `ragcun.fit` and ``ragcun train``; each field is a flag of the same name.

    A rate that is not given is `learning_rate` where that is given, else its own default. The base is frozen unless
    ``freeze_base`` is False, ``freeze_early_layers`` asks for a part of it only, or ``lora_rank`` for adapters.
    """

    given: ClassVar[frozenset[str]] = frozenset()
    """What the command line names, if only to repeat a default; `parse_config` sets it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        partly = self.freeze_early_layers or self.lora_rank
        self.freeze_base = not partly if self.freeze_base is None else self.freeze_base
        for pair in (("train_data", "documents"), ("dev_fraction", "dev_beir"), ("resume", "overwrite")):
            check_one_of(self, *pair, needed=False)
        trained, (first, last) = not self.freeze_base, self.mined_ranks
        pairs, hidden = self.train_data or self.documents or self.corpus, self.hold_out_documents and self.documents
        computed = trained and (self.base_dtype, self.base_backend) != ("float32", "torch")
        taught, placed = self.contrastive in TAUGHT, self.lora_rank and self.freeze_early_layers
        mistakes = {
            "--train_data is missing: give a pairs file (.jsonl, .csv …), a BEIR folder, or --corpus": not pairs,
            "--hold_out_documents goes with --train_data or --corpus, not with --documents": hidden,
            "--base_dtype and --base_backend are for a frozen base; --mixed_precision speeds training up": computed,
            "--lora_rank trains the base; give --freeze_base False": self.lora_rank and self.freeze_base,
            "--lora_layers, not --freeze_early_layers, says where LoRA is; leave the other out": placed,
            "--lexical_dim needs a new and normalised base; leave it out": self.lexical_dim and not self.lexical,
            "--teacher is for --contrastive kl or margin_mse; choose one of them": self.teacher and not taught,
            "--val_data has no teacher's scores; choose the epoch by --dev_beir": self.val_data and taught,
            "--mine_every needs mined negatives; add --mined_negatives 4": self.mine_every and not self.mines,
            "--mine_every: a teacher's scores, which mine, do not change; leave it out": self.mine_every and taught,
            f"--mined_last must be above --mined_first, {first}, got {last}": first >= last,
        }
        if self.vectors is not None:
            for name in ("documents", "corpus", "queries", "val_data"):
                message = f"--vectors has no vectors for --{name}; give a BEIR folder in --train_data alone"
                mistakes[message] = getattr(self, name)
            mistakes["--vectors and --base_model both name a base; give one of them"] = self.base_model != "minilm"
            of_model = self.lexical and self.lexical_terms == "pieces"
            mistakes["--lexical_terms pieces are those of a text model; with --vectors choose words"] = of_model
            mistakes["--vectors cannot be trained, only heads on them; leave the base frozen"] = trained
        if self.target_model is not None:
            mistakes["--target_model embeds texts by two models; leave --vectors out"] = self.vectors
            mistakes["--target_model has no place for a lexical channel; leave --lexical_dim out"] = self.lexical_dim
            self.train_side = "query" if self.train_side == "both" else self.train_side
        refuse(mistakes)

    @property
    def lexical(self) -> bool:
        """Whether the base gets a lexical channel: by default where it is frozen and no side is to stay as it is."""
        on = self.freeze_base and self.train_side == "both" if self.lexical_dim is None else self.lexical_dim > 0
        return bool(on and self.normalize_embeddings and not self.load_checkpoint)

    @property
    def start(self) -> str:
        """Initial head: identity, calibrated (whitening) or random."""
        if self.head_init is not None or self.head == "mlp":
            return self.head_init or "random"
        as_it_is = self.untrained or not self.normalize_embeddings or self.train_side == "document"
        return "identity" if as_it_is else "calibrated"

    @property
    def label_free(self) -> bool:
        """Whether the pairs are made from the documents of --corpus."""
        return self.corpus is not None and not self.train_data and not self.documents

    @property
    def untrained(self) -> bool:
        """Whether documents without labels give the lexical channel alone: training on it gains nothing sure."""
        asked = self.trained_share is not None or self.epochs is not None or self.steps != type(self).steps
        return self.label_free and self.lexical and not (asked or self.teacher)

    @property
    def mines(self) -> int:
        """Mined negatives per query and step."""
        default = 4 if self.contrastive in TAUGHT or (self.contrastive == "infonce" and self.freeze_base) else 0
        return default if self.mined_negatives is None else self.mined_negatives

    @property
    def mined_ranks(self) -> tuple[int, int]:
        """Ranks that are mined: from the first to before the second."""
        first = 10 if self.label_free else 0
        return first if self.mined_first is None else self.mined_first, self.mined_last

    @property
    def rates(self) -> dict[str, float]:
        """The learning rate of each part by name, all defaults filled in."""
        head = (self.projection_learning_rate, self.learning_rate, 1e-3)
        predictor = (self.predictor_learning_rate, self.learning_rate, *head)
        base = (self.base_learning_rate, self.learning_rate, 2e-4 if self.lora_rank else 2e-5)
        rates = {"base": base, "head": head, "predictor": predictor}
        return {part: next(rate for rate in given if rate is not None) for part, given in rates.items()}

    def warmup(self, total_steps: int) -> int:
        """Return the steps of warm-up in a run of `total_steps`."""
        return max(1, total_steps // 10) if self.warmup_steps is None else self.warmup_steps

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as plain values."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
