"""OpenVINO in place of torch: the same vectors within its arithmetic, a cache of their own, and what it refuses."""

import logging
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers.sentence_transformer.modules import StaticEmbedding

import ragcun.embeddings.openvino as backend
from ragcun import EmbeddingCache, InputError, IsotropicGaussianEncoder, TextBase
from ragcun.embeddings.base import ROLES, Base
from ragcun.embeddings.encode import bfloat16_features
from tests.embeddings.test_encode import cut_to_six_dimensions, last_token, on_cpu, without_prompt_in_pooling


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Many small batches, few texts to calibrate by, and a cache of the test's own."""
    monkeypatch.setattr(backend, "TOKENS", 64)
    monkeypatch.setattr("ragcun.embeddings.text_base.TOKENS", 64)
    monkeypatch.setattr(backend, "LENGTHS", (4, 8))
    monkeypatch.setenv("RAGCUN_CACHE", str(tmp_path))


@pytest.mark.parametrize("make", [on_cpu, without_prompt_in_pooling, cut_to_six_dimensions, last_token])
def test_vectors_are_those_of_torch(make, tiny_bert, texts, tmp_path):
    pytest.importorskip("openvino")
    base = TextBase(make(tiny_bert), "tiny")
    expected = {role: base.encode(texts[:60], role) for role in ROLES}
    weights, threads = base.fingerprint(), torch.get_num_threads()
    base.compute_in("float32", "openvino")
    torch.set_num_threads(3)
    try:
        for role in ROLES:
            np.testing.assert_allclose(base.encode(texts[:60], role), expected[role], rtol=1e-4, atol=1e-5)
    finally:
        torch.set_num_threads(threads)
    assert len(list(tmp_path.glob("openvino/*/model.xml"))) == 1
    base.compute_in("float32")
    assert base.fingerprint() == weights
    np.testing.assert_array_equal(base.encode(texts[:60], "query"), expected["query"])


def test_eight_bits_are_close_and_the_same_when_loaded_again(tiny_bert, texts, tmp_path, monkeypatch):
    logger, handler = pytest.importorskip("nncf").nncf_logger, logging.NullHandler()
    monkeypatch.setattr(logger, "handlers", [handler])
    base = TextBase.load(tiny_bert, device="cpu")
    expected = base.encode(texts[:60], "document")
    base.compute_in("int8", "openvino")
    found = base.encode(texts[:60], "document")
    assert handler.level == logging.NOTSET
    unit = [each / np.linalg.norm(each, axis=1, keepdims=True) for each in (expected, found)]
    cosine = (unit[0] * unit[1]).sum(axis=1)
    assert 0.97 < cosine.min() < cosine.max() < 1 - 1e-7
    (stored,) = tmp_path.glob("openvino/*/model.bin")
    openvino = pytest.importorskip("openvino")
    model = openvino.Core().read_model(stored.with_suffix(".xml"))
    products = [op for op in model.get_ordered_ops() if op.get_type_name() == "MatMul"]
    kept = [op for op in products if op.input_value(0).get_node().get_type_name() != "FakeQuantize"]
    narrowing = [op for op in products if backend._narrows(op)]
    assert [op.get_friendly_name() for op in kept] == [op.get_friendly_name() for op in narrowing[:1]]
    assert len(products) > len(narrowing) == 3
    written = stored.stat().st_mtime_ns
    again = TextBase.load(tiny_bert, device="cpu")
    again.compute_in("int8", "openvino")
    np.testing.assert_array_equal(again.encode(texts[:60], "document"), found)
    assert stored.stat().st_mtime_ns == written


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_a_checkpoint_holds_the_converted_model(dtype, tiny_bert, texts, tmp_path, monkeypatch):
    pytest.importorskip("nncf")
    base = TextBase.load(tiny_bert, device="cpu")
    base.compute_in(dtype, "openvino")
    encoder = IsotropicGaussianEncoder(base, 16)
    encoder.save_pretrained(tmp_path / "model")
    expected = encoder.encode_document(texts[:60])
    monkeypatch.setenv("RAGCUN_CACHE", str(tmp_path / "another"))
    for cache in (None, tmp_path / "models"):
        read = IsotropicGaussianEncoder.from_pretrained(tmp_path / "model", cache=cache)
        read.base.compute_in(dtype, "openvino")
        np.testing.assert_array_equal(read.encode_document(texts[:60]), expected)
    assert not (tmp_path / "another" / "openvino").exists()
    (stored,) = (tmp_path / "model" / "openvino").glob("*/model.bin")
    stored.write_bytes(stored.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"model\.bin does not match"):
        IsotropicGaussianEncoder.from_pretrained(tmp_path / "model")


def test_calibration_needs_no_data(base):
    drawn = backend.vocabulary_texts(base.model.tokenizer)
    assert drawn == backend.vocabulary_texts(base.model.tokenizer)
    assert len({text for batch in drawn for text in batch}) > 100


def test_each_backend_and_dtype_has_vectors_of_its_own(base, monkeypatch):
    pytest.importorskip("nncf")
    ways = [("float32", "torch"), ("bfloat16", "torch"), ("float32", "openvino"), ("int8", "openvino")]
    ways += [("bfloat16", "openvino")] if bfloat16_features() else []
    folders = set()
    for dtype, name in ways:
        base.compute_in(dtype, name)
        folders.add(EmbeddingCache(base).folder)
    monkeypatch.setattr(backend, "version", lambda _: "0")
    base.compute_in("float32", "openvino")
    assert len(folders | {EmbeddingCache(base).folder}) == len(ways) + 1


def test_what_openvino_cannot_compute_is_refused(base, monkeypatch):
    refused = partial(pytest.raises, InputError)
    with refused(match="int8 needs --base_backend openvino"):
        base.compute_in("int8")
    with refused(match="must be one of torch, openvino, got 'onnx'"):
        base.compute_in("float32", "onnx")
    with refused(match="--base_backend openvino needs a text model"):
        Base(4).compute_in("float32", "openvino")
    monkeypatch.setattr(backend, "require_package", lambda *_: None)
    monkeypatch.setattr(backend, "bfloat16_features", list)
    with refused(match="choose --base_dtype float32"):
        base.compute_in("bfloat16", "openvino")
    static = on_cpu(modules=[StaticEmbedding(base.model.tokenizer.backend_tokenizer, embedding_dim=4)])
    with refused(match="'table' is not a transformer"):
        TextBase(static, "table").compute_in("float32", "openvino")
    base.model.to("meta")
    with refused(match="computes on a CPU, not meta; add --device cpu"):
        base.compute_in("float32", "openvino")


def test_a_missing_package_names_its_extra(base, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"openvino is not installed.*ragcun\[openvino\]"):
        base.compute_in("float32", "openvino")


def test_importing_sends_no_statistics_of_use(tmp_path):
    """OpenVINO writes a client's number into the home folder before it reports anything."""
    pytest.importorskip("nncf")
    code = "from ragcun.embeddings.openvino import private\nwith private(): import openvino, nncf"
    environment = {name: value for name, value in os.environ.items() if name != "CI"} | {"HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    assert not (tmp_path / "intel").exists()
