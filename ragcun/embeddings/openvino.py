"""A frozen transformer computed by OpenVINO on a CPU: converted and stored once, a stream for each thread."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import queue
import shutil
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn

from ragcun.embeddings.encode import Dtype, bfloat16_features, cache_folder
from ragcun.errors import InputError, require_package
from ragcun.io import replacing_folder

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from transformers import PreTrainedModel
    from transformers.modeling_outputs import BaseModelOutput

    from ragcun.batch import Role
    from ragcun.embeddings.base import Base

logger = logging.getLogger(__name__)

FOLDER = "openvino"
"""Of converted models, in the cache and in a checkpoint."""
TOKENS = 1024  # padded tokens in one batch; of 512 to 4096 the fastest with one thread a batch
LENGTHS, ROUNDS = (8, 16, 32, 64, 128, 256), 5  # of texts that calibrate, in tokens; batches of each length
MODEL = "model.xml"
INT8 = "but for a third of the narrowing products"
"""What has 8 bits; cached vectors go by it."""


class OpenVino:
    """OpenVINO in place of torch for a model's transformer; tokens and pooling stay those of sentence-transformers.

    ``int8``: weights (per channel) and activations (per tensor) of matrix products have 8 bits, the rest is bfloat16
    where that is native, and so is the first third of the products that narrow, whose errors matter most
    (docs/performance.md). Ranges of activations are those of texts drawn from the tokenizer's vocabulary, so that
    vectors depend on no data.

    Raises:
        InputError: a package is missing, the model is on a GPU or has no transformer, or bfloat16 is not native.
    """

    def __init__(self, model: SentenceTransformer, dtype: Dtype, name: str, checkpoint: Path | None = None) -> None:
        for package in ("openvino", *(["nncf"] if dtype == "int8" else [])):
            require_package(package, "openvino")
        if model.device.type != "cpu":
            raise InputError(f"--base_backend openvino computes on a CPU, not {model.device}; add --device cpu")
        if model.transformers_model is None:
            raise InputError(f"base model {name!r} is not a transformer; leave out --base_backend openvino")
        if dtype == "bfloat16" and not bfloat16_features():
            raise InputError("OpenVINO computes in bfloat16 only where that is native; choose --base_dtype float32")
        self.int8, narrow = dtype == "int8", dtype != "float32" and bfloat16_features()
        self.precision = "bf16" if narrow else "f32"
        libraries = ("openvino", "nncf") if self.int8 else ("openvino",)
        recipe = [INT8] if self.int8 else []
        self.settings = " ".join([dtype, self.precision, *recipe, *(f"{each} {version(each)}" for each in libraries)])
        self.checkpoint = checkpoint
        self.names: list[str] = []
        self.idle: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def __deepcopy__(self, memo: dict[int, Any]) -> OpenVino:
        return self  # the transformer is frozen

    def converted(self, base: Base, role: Role = "document") -> Path:
        """Return the folder of the converted model, in the checkpoint or the cache, where it is made if it is in none.

        Examples of inputs are texts of this role.
        """
        places = [place / FOLDER / base.fingerprint()[:32] for place in (self.checkpoint, cache_folder()) if place]
        folder = next(filter(Path.exists, places), places[-1])
        if not folder.exists():
            self._convert(folder, base.text_model, lambda texts: base(base.features(texts, role)))
        return folder

    def export(self, base: Base, checkpoint: Path) -> None:
        """Copy the converted model into a checkpoint, for machines without this cache."""
        found = self.converted(base)
        shutil.copytree(found, checkpoint / FOLDER / found.name)

    @contextlib.contextmanager
    def computing(self, base: Base, role: Role) -> Iterator[int]:
        """Put OpenVINO in the place of the transformer; yields how many batches to compute at once."""
        transformer: Any = base.text_model.transformers_model
        if not self.names:
            self._compile(self.converted(base, role) / MODEL)
        transformer.forward = self._infer  # of this object alone, in front of its class's method
        try:
            yield torch.get_num_threads()
        finally:
            del transformer.forward

    @torch.no_grad()
    def _convert(self, folder: Path, model: SentenceTransformer, compute: Callable[[list[str]], object]) -> None:
        logger.info("converting the base for OpenVINO, once, into %s", folder)
        transformer: Any = model.transformers_model
        texts = vocabulary_texts(model.tokenizer)
        example = recorded(transformer, compute, [[texts[0][0], texts[1][0]]])[0]  # one is padded
        with private(), warnings.catch_warnings(), replacing_folder(folder) as new:
            warnings.simplefilter("ignore")  # tracing warns of all that it takes as constant
            import openvino

            traced = _Positional(transformer, list(example))
            converted = openvino.convert_model(traced, example_input=tuple(example.values()))
            for port, name in zip(converted.inputs, example, strict=True):
                port.get_tensor().set_names({name})
            if self.int8:
                converted = quantised(converted, recorded(transformer, compute, texts))
            openvino.save_model(converted, new / MODEL, compress_to_fp16=False)

    def _compile(self, path: Path) -> None:
        with private():
            import openvino

        threads = torch.get_num_threads()
        settings = {"INFERENCE_PRECISION_HINT": self.precision, "INFERENCE_NUM_THREADS": threads}
        # processes that share cores must not all be bound to the first of them
        settings |= {"NUM_STREAMS": threads, "ENABLE_CPU_PINNING": False}
        compiled = openvino.Core().compile_model(path, "CPU", settings)
        self.names = [port.any_name for port in compiled.inputs]
        for _ in range(threads):
            self.idle.put(compiled.create_infer_request())

    def _infer(self, **inputs: Any) -> BaseModelOutput:
        from transformers.modeling_outputs import BaseModelOutput

        request = self.idle.get()
        try:
            states = request.infer({name: inputs[name].numpy() for name in self.names})[0].copy()
        finally:
            self.idle.put(request)
        return BaseModelOutput(last_hidden_state=torch.from_numpy(states))


def private() -> Any:
    """Return the context in which OpenVINO and nncf, also as they are imported, send no statistics of their use."""
    return mock.patch.dict(os.environ, CI="true")


class _Positional(nn.Module):
    """A transformer whose inputs have an order in place of names, and which returns its last hidden states alone."""

    def __init__(self, transformer: PreTrainedModel, names: list[str]) -> None:
        super().__init__()
        self.transformer, self.names = transformer, names

    def forward(self, *inputs: Tensor) -> Tensor:
        states: Tensor = self.transformer(**dict(zip(self.names, inputs, strict=True))).last_hidden_state
        return states


def vocabulary_texts(tokenizer: Any) -> list[list[str]]:
    """Return batches of texts of one length each, drawn uniformly from the vocabulary, the same ones every time."""
    generator = np.random.default_rng(0)
    shapes = [(TOKENS // length, length) for length in LENGTHS] * ROUNDS
    drawn = (generator.integers(tokenizer.vocab_size, size=shape).tolist() for shape in shapes)
    return [[tokenizer.decode(ids, skip_special_tokens=True) for ids in batch] for batch in drawn]


def recorded(
    transformer: Any, compute: Callable[[list[str]], object], batches: list[list[str]]
) -> list[dict[str, Tensor]]:
    """Return the tensors that a transformer is given for batches of texts."""
    forward, found = transformer.forward, []

    def record(**inputs: Any) -> Any:
        found.append({name: value for name, value in inputs.items() if isinstance(value, Tensor)})
        return forward(**inputs)

    transformer.forward = record
    try:
        for texts in batches:
            compute(texts)
    finally:
        del transformer.forward
    return found


def quantised(converted: Any, examples: list[dict[str, Tensor]]) -> Any:
    """Return a converted model with weights and activations in 8 bits, these scaled by examples."""
    import nncf

    logging.getLogger("nncf").setLevel(logging.ERROR)  # nncf.set_log_level changes handlers that others have added
    products = [op for op in converted.get_ordered_ops() if op.get_type_name() == "MatMul"]
    narrowing = [op.get_friendly_name() for op in products if _narrows(op)]
    data = nncf.Dataset([{name: value.numpy() for name, value in each.items()} for each in examples])
    with contextlib.redirect_stdout(io.StringIO()):  # progress bars
        return nncf.quantize(
            converted,
            data,
            model_type=nncf.ModelType.TRANSFORMER,
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(examples),
            ignored_scope=nncf.IgnoredScope(names=narrowing[: len(narrowing) // 3]),
        )


def _narrows(product: Any) -> bool:
    # whether a product's weights give fewer numbers than they take
    weights = product.input(1).get_partial_shape()
    outputs, inputs = weights.to_shape() if weights.is_static and len(weights) == 2 else (1, 1)
    return bool(inputs > outputs)
