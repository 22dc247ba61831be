"""ObjectiveLoss: the objective as a loss of sentence-transformers, for those who train with their Trainer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import extract_model_from_parallel
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.utils import clip_grad_norm_
from torch.utils.hooks import RemovableHandle
from transformers import TrainerCallback

from ragcun.batch import Features, Views
from ragcun.errors import InputError
from ragcun.io import replacing_file
from ragcun.losses.gather import sum_over_ranks_, world_size
from ragcun.losses.objective import Objective
from ragcun.models.heads import Head, HeadShape, Stackable
from ragcun.models.systems import ResidualPredictor, follow, following
from ragcun.options import refuse
from ragcun.tensors import contiguous, copy_strictly, tensors_digest
from ragcun.training.step import ema_decay

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from transformers import TrainerState, TrainingArguments

STATE_NAME = "loss_state.safetensors"
HALF = {torch.bfloat16, torch.float16}


class ObjectiveLoss(nn.Module, TrainerCallback):
    """An `Objective` on the columns (query, positive[, negative]) of a `SentenceTransformerTrainer`.

    The loss may own a predictor, trained to predict the positive's embedding from the query's, and an EMA target, a
    copy of the model that gives what is predicted. Frozen weights are shared with it, not copied, so freeze before
    making the loss. The Trainer neither saves nor clips nor averages over ranks what a loss owns; the loss does, as the
    Trainer's callback, and a training step without it is refused::

        loss = ObjectiveLoss(model, Objective(lambda_isotropy=0.1))
        SentenceTransformerTrainer(model, args, train_dataset, loss=loss, callbacks=[loss.callback()]).train()

    Checkpoint folders get ``loss_state.safetensors``: predictor, target, step and a digest of the model's trained
    weights, which a resumed run loads, strictly. The target follows the model after every optimiser step that was
    taken. The gradients of model and predictor are clipped to `max_grad_norm` as one vector (`grad_norm` in the log is
    the model's alone), and the predictor's is averaged over ranks.

    Args:
        model: the model to train.
        objective: the terms and their weights.
        predictor: the predictor, or the shape of one to build; needed for the terms "predictive" and "residual".
        ema_decay: m of θ′ ← m·θ′ + (1 − m)·θ, the target's update after every optimiser step; None means no target:
            the positive's own embedding is predicted.
        ema_schedule: of m, a name in `EMA_SCHEDULES`.

    Raises:
        ValueError: the objective, the predictor and the target do not fit each other or the model.
    """

    def __init__(
        self,
        model: SentenceTransformer,
        objective: Objective,
        predictor: HeadShape | Stackable | None = None,
        ema_decay: float | None = None,
        ema_schedule: str = "constant",
    ) -> None:
        super().__init__()
        self.model = model
        self.objective = objective
        self.predictor = Head(predictor) if isinstance(predictor, HeadShape) else predictor
        self.ema_decay, self.ema_schedule = ema_decay, ema_schedule
        self._check()
        self.target = None if ema_decay is None else following(model, share_frozen=True)
        self.step: int | None = None
        self.autocast_dtype: torch.dtype | None = None
        self.resume_from: str | Path | None = None
        self._max_grad_norm = 0.0
        self._hooks: list[RemovableHandle] = []

    def _check(self) -> None:
        weights, predictor, decay = self.objective.weights, self.predictor, self.ema_decay
        follows, dim = decay is not None, self.model.get_embedding_dimension()
        maps = "" if predictor is None else f"{predictor.config.input_dim} to {predictor.config.output_dim}"
        unfit = "residual" in weights and not isinstance(predictor, ResidualPredictor)
        half = any(weight.requires_grad and weight.dtype in HALF for weight in self.model.parameters())
        idle = "a predictor needs lambda_predictive above 0; raise it or leave the predictor out"
        mistakes = {
            "lambda_predictive needs a predictor; give one or set it to 0": "predictive" in weights and not maps,
            idle: "predictive" not in weights and maps,
            "lambda_residual needs a ResidualPredictor as the predictor; give one or set it to 0": unfit,
            f"the predictor must map {dim} to {dim}, got {maps}": maps and maps != f"{dim} to {dim}",
            f"ema_decay must be 0 to 1, got {decay}": decay is not None and not 0 <= decay <= 1,
            "ema_decay needs a predictor: without one, nothing is compared with the target": follows and not maps,
            "half-precision weights lose small updates; load the model in float32, and set bf16": half,
        }
        refuse(mistakes)
        if decay is not None:
            ema_decay(0, 1, decay, self.ema_schedule)

    def forward(self, sentence_features: Iterable[Features], labels: Tensor | None = None) -> dict[str, Tensor]:
        """Return λ·term of each active term by its name; their sum is the objective's total.

        What is random in a term is drawn from the optimiser step's number, in evaluation from 0.
        """
        if labels is not None:
            raise ValueError("the objective takes no labels; keep only the columns query, positive and negative")
        step = self.step if self.online.training else 0
        if step is None:
            raise ValueError("no step has begun; give the trainer callbacks=[loss.callback()], or set loss.step")
        terms = self.objective(self.views(list(sentence_features)), step).terms
        return {name: weight * terms[name] for name, weight in self.objective.weights.items()}

    def views(self, columns: Sequence[Features]) -> Views:
        """Embed the two or three tokenised columns, predict from the query, and let the target embed the positive."""
        if not 2 <= len(columns) <= 3:
            raise ValueError(f"the objective takes 2 or 3 columns (query, positive, negative), got {len(columns)}")
        shown = [_embed(self.model, column) for column in columns]
        if self.predictor is None:
            return Views(*shown)
        query, target = shown[:2]
        self.predictor.train(self.online.training)
        with torch.autocast(query.device.type, self.autocast_dtype, enabled=self.autocast_dtype is not None):
            if self.target is not None:
                with torch.no_grad():
                    target = _embed(self.target.eval(), columns[1])
            return replace(Views(*shown), **self.predictor.predict(query), target=target)

    @property
    def online(self) -> SentenceTransformer:
        """The model that is trained, without what the Trainer wraps it in."""
        return extract_model_from_parallel(self.model, keep_torch_compile=False)

    @torch.no_grad()
    def follow(self, decay: float) -> None:
        """Move the target, where there is one, towards the model: θ′ ← decay·θ′ + (1 − decay)·θ; buffers are copied."""
        if self.target is not None:
            self._followers()
            follow(self.target, self.online, decay)

    def _followers(self) -> dict[str, Tensor]:
        if self.target is None:
            return {}
        online, weights = dict(self.online.named_parameters()), self.target.named_parameters()
        followers: dict[str, Tensor] = {name: weight for name, weight in weights if weight is not online[name]}
        if shared := [name for name in online if name not in followers and online[name].requires_grad]:
            raise ValueError(f"{shared[0]!r} was frozen when the loss was made; make the loss after unfreezing it")
        return followers

    def owned_state(self) -> dict[str, Tensor]:
        """Return the weights that this loss has beside the model's, by name, as they are, not copies."""
        predictor = {} if self.predictor is None else self.predictor.state_dict()
        owned = {f"predictor.{name}": tensor for name, tensor in predictor.items()}
        return owned | {f"target.{name}": weight for name, weight in self._followers().items()}

    def callback(self, resume_from: str | Path | None = None) -> TrainerCallback:
        """Return this loss, which belongs in the `callbacks` of one Trainer.

        A resumed run reads the checkpoint folder `resume_from`; None means ``checkpoint-N`` in its output folder.
        """
        self.resume_from = resume_from
        return self

    def get_config_dict(self) -> dict[str, Any]:
        """Return the settings, for the model card."""
        predictor = None if self.predictor is None else self.predictor.config.to_dict()
        own = {"predictor": predictor, "ema_decay": self.ema_decay, "ema_schedule": self.ema_schedule}
        return asdict(self.objective.config) | own

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: Any, **others: Any) -> None:
        """Load what the loss owns, or start it alike on all ranks; refuse sharded weights."""
        if args.fsdp or args.deepspeed:
            raise InputError("ObjectiveLoss needs unsharded weights on every rank; train without fsdp and deepspeed")
        self.autocast_dtype = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else None
        if world_size() > 1 and self.predictor is not None and not self._hooks:
            for tensor in self.predictor.state_dict().values():  # by now the model's weights are those of rank 0
                dist.broadcast(tensor, 0)
            trained = [weight for weight in self.predictor.parameters() if weight.requires_grad]
            self._hooks = [weight.register_post_accumulate_grad_hook(_average_gradient) for weight in trained]
        if state.global_step > 0:
            self._load(Path(self.resume_from or _checkpoint(args, state)), state.global_step)
        else:
            self.follow(0.0)

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: Any, **others: Any) -> None:
        """Tell the loss the number of the step, and set the Trainer's clipping aside where it is too narrow."""
        # The Trainer clips the model's gradient alone, before `on_pre_optimizer_step`. With fp16 gradients are unscaled
        # by then, because it measures their norm even where it does not clip.
        self.step = state.global_step + 1
        if self.predictor is not None and args.max_grad_norm > 0:
            self._max_grad_norm, args.max_grad_norm = args.max_grad_norm, 0.0

    def on_pre_optimizer_step(self, args: TrainingArguments, state: TrainerState, control: Any, **others: Any) -> None:
        """Clip the gradient of model and predictor together."""
        if self._max_grad_norm > 0:
            args.max_grad_norm, self._max_grad_norm = self._max_grad_norm, 0.0
            clip_grad_norm_(self.parameters(), args.max_grad_norm)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: Any, **others: Any) -> None:
        """Let the target follow, unless an overflow under fp16 made the optimiser leave this step out."""
        if self.ema_decay is not None and not others["optimizer"].step_was_skipped:
            decay = ema_decay(state.global_step, state.max_steps, self.ema_decay, self.ema_schedule)
            self.follow(decay)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: Any, **others: Any) -> None:
        """Write what the loss owns into the checkpoint folder; the file is complete or absent."""
        owned = self.owned_state()
        if owned and args.should_save:
            with replacing_file(_checkpoint(args, state) / STATE_NAME) as temporary:
                save_file(contiguous(owned), temporary, self._about(state.global_step))
        if world_size() > 1:
            dist.barrier()  # the others may read the file at once

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: Any, **others: Any) -> None:
        """End the steps; where the Trainer has loaded the best model, load what belongs to it."""
        while self._hooks:
            self._hooks.pop().remove()
        self.step = None
        if args.load_best_model_at_end and state.best_model_checkpoint is not None:
            self._load(Path(state.best_model_checkpoint), state.best_global_step)

    def _load(self, folder: Path, step: int | None) -> None:
        owned = self.owned_state()
        if not owned:
            return
        path = folder / STATE_NAME
        if not path.is_file():
            remedy = "use a checkpoint of this callback, outside output_dir with loss.callback(resume_from=FOLDER)"
            raise InputError(f"{path} is missing: predictor and target cannot be resumed; {remedy}")
        try:
            with safe_open(path, "pt") as file:
                if file.metadata() != self._about(step):
                    raise ValueError(f"it belongs to another step or model than the rest of {folder}")
            copy_strictly(owned, load_file(path))
        except (ValueError, OSError, SafetensorError) as error:
            raise InputError(f"{path} does not fit this loss ({error}); resume with the same settings") from error
        self.follow(1.0)  # leaves weights alone, takes the model's buffers

    def _about(self, step: int | None) -> dict[str, str]:
        weights = self.online.named_parameters()
        trained = {name: weight for name, weight in weights if weight.requires_grad}
        return {"step": str(step), "model": tensors_digest(trained)}


def _embed(model: nn.Module, column: Features) -> Tensor:
    # a model writes into the dictionary that it is given; a frozen one may be of half precision
    vectors: Tensor = model(dict(column))["sentence_embedding"]
    return vectors.float() if vectors.dtype in HALF else vectors


def _checkpoint(args: TrainingArguments, state: TrainerState) -> Path:
    return Path(args.output_dir or ".") / f"checkpoint-{state.global_step}"


def _average_gradient(weight: Tensor) -> None:
    # During the backward pass, as the model's: later, under fp16, a rank whose gradient alone overflowed would alone
    # leave the step out. What accumulated before is alike on all ranks and stays the same.
    if weight.grad is not None:
        sum_over_ranks_(weight.grad).div_(world_size())
