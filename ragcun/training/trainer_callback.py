"""ObjectiveCallback: saves, resumes, averages, clips and moves what an `ObjectiveLoss` owns."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch import distributed as dist
from torch.nn.utils import clip_grad_norm_
from torch.utils.hooks import RemovableHandle
from transformers import TrainerCallback

from ragcun.errors import InputError
from ragcun.files import replacing_file
from ragcun.losses.distributed import sum_over_ranks_, world_size
from ragcun.models.weights import contiguous, copy_strictly, naming_disk_errors, tensors_digest
from ragcun.training.schedule import ema_decay

if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState, TrainingArguments

    from ragcun.training.trainer_loss import ObjectiveLoss

STATE_NAME = "loss_state.safetensors"


class ObjectiveCallback(TrainerCallback):
    """Lets a Trainer treat what an `ObjectiveLoss` owns as it treats the model; made by `ObjectiveLoss.callback`.

    - Every checkpoint folder gets ``loss_state.safetensors``: predictor, target, step and a digest of the model's
      trained weights. A resumed run loads it, strictly, or stops.
    - The target follows the model once after every optimiser step that was taken.
    - The gradient of model and predictor is clipped to `max_grad_norm` as one vector. The Trainer clips the model's
      alone, and does so before `on_pre_optimizer_step`, when the model's norm before clipping can no longer be known;
      so its own clipping is set aside from `on_step_begin` to there. With fp16 gradients are unscaled by then, because
      the Trainer measures their norm even where it does not clip. The `grad_norm` that it logs is the model's alone.
    - The predictor's gradient is averaged over ranks during the backward pass, where that of the model is too. Later
      would be too late under fp16: a rank whose gradient alone overflowed would alone leave the step out.

    Args:
        loss: the loss; one for each Trainer.
        resume_from: the checkpoint folder to resume from, where it is not ``checkpoint-N`` in the Trainer's output
            folder.
    """

    def __init__(self, loss: ObjectiveLoss, resume_from: str | Path | None = None) -> None:
        self.loss = loss
        self.resume_from = resume_from
        self._max_grad_norm = 0.0
        self._hooks: list[RemovableHandle] = []

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: Any
    ) -> None:
        """Load what the loss owns, or start it alike on all ranks.

        Raises:
            InputError: the checkpoint has no usable state of the loss, or the weights are to be sharded.
        """
        if args.fsdp or args.deepspeed:
            raise InputError("ObjectiveLoss needs whole weights on every rank; train without fsdp and deepspeed")
        loss = self.loss
        loss.autocast_dtype = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else None
        if state.global_step > 0:
            default = _checkpoint(args, state)
            self._load(default if self.resume_from is None else Path(self.resume_from), state.global_step)
        else:
            # By now the model's weights are those of rank 0.
            self._broadcast()
            loss.follow(0.0)
        self._unhook()
        if world_size() > 1 and loss.predictor is not None:
            trained = [weight for weight in loss.predictor.parameters() if weight.requires_grad]
            self._hooks = [weight.register_post_accumulate_grad_hook(_average_gradient) for weight in trained]

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: Any
    ) -> None:
        """Tell the loss the number of the step, and set the Trainer's clipping aside where it is too narrow."""
        self.loss.step = state.global_step + 1
        if self.loss.predictor is not None and args.max_grad_norm > 0:
            self._max_grad_norm, args.max_grad_norm = args.max_grad_norm, 0.0

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: Any
    ) -> None:
        """Clip the gradient of model and predictor together."""
        if self._max_grad_norm > 0:
            args.max_grad_norm, self._max_grad_norm = self._max_grad_norm, 0.0
            clip_grad_norm_(self.loss.parameters(), args.max_grad_norm)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: Any) -> None:
        """Let the target follow, unless an overflow under fp16 made the optimiser leave this step out."""
        if self.loss.ema_decay is not None and not others["optimizer"].step_was_skipped:
            decay = ema_decay(state.global_step, state.max_steps, self.loss.ema_decay, self.loss.ema_schedule)
            self.loss.follow(decay)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: Any) -> None:
        """Write what the loss owns into the checkpoint folder; the file is complete or absent."""
        owned = self.loss.owned_state()
        if owned and args.should_save:
            with replacing_file(_checkpoint(args, state) / STATE_NAME) as temporary, naming_disk_errors():
                save_file(contiguous(owned), temporary, self._about(state.global_step))
        if world_size() > 1:
            dist.barrier()  # the others may read the file at once

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: Any
    ) -> None:
        """End the steps; where the Trainer has gone back to the best model, go back to what belonged to it."""
        self._unhook()
        self.loss.step = None
        if args.load_best_model_at_end and state.best_model_checkpoint is not None:
            self._load(Path(state.best_model_checkpoint), state.best_global_step)

    def _load(self, folder: Path, step: int | None) -> None:
        owned = self.loss.owned_state()
        if not owned:
            return
        path = folder / STATE_NAME
        if not path.is_file():
            raise InputError(
                f"{path} is missing, so predictor and target cannot go on; resume a checkpoint that was trained with "
                "this callback, and if it lies outside output_dir, give loss.callback(resume_from=FOLDER)"
            )
        try:
            with safe_open(path, "pt") as file:
                about = file.metadata()
            if about != self._about(step):
                raise InputError(f"{path} belongs to another step or model than the rest of {folder}; copy that again")
            copy_strictly(owned, load_file(path))
        except InputError:
            raise
        except (ValueError, OSError, SafetensorError) as error:
            raise InputError(f"{path} does not fit this loss ({error}); resume with the same settings") from error
        self.loss.follow(1.0)  # leaves weights alone, takes the model's buffers

    def _about(self, step: int | None) -> dict[str, str]:
        """Return what ties a file to its checkpoint: the step, and a digest of the model's trained weights."""
        weights = self.loss.online.named_parameters()
        trained = {name: weight for name, weight in weights if weight.requires_grad}
        return {"step": str(step), "model": tensors_digest(trained)}

    def _broadcast(self) -> None:
        if world_size() > 1 and self.loss.predictor is not None:
            for tensor in self.loss.predictor.state_dict().values():
                dist.broadcast(tensor, 0)

    def _unhook(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = []


def _checkpoint(args: TrainingArguments, state: TrainerState) -> Path:
    return Path(args.output_dir or ".") / f"checkpoint-{state.global_step}"


def _average_gradient(weight: Tensor) -> None:
    """Replace a gradient by its mean over ranks.

    With gradient accumulation the mean of earlier batches is in it already, on all ranks alike, and stays what it is.
    """
    if weight.grad is not None:
        sum_over_ranks_(weight.grad).div_(world_size())
