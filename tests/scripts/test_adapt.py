"""Adapting to a corpus from the command line: without labels, in closed form, with hidden documents."""

import json
import logging
import random
import re
from pathlib import Path

import numpy as np
import pytest

import ragcun
from tests.conftest import WORDS

SCHEDULE = ("--device", "cpu", "--batch_size", 32, "--steps", 12, "--learning_rate", 3e-3)


@pytest.fixture
def train(run_script, tiny_bert, tmp_path):
    """Run train.py into a folder of that name, and return that."""

    def run(name, *flags):
        run_script("train", "--base_model", tiny_bert, *SCHEDULE, "--output_dir", tmp_path / name, *flags)
        return tmp_path / name

    return run


def loaded(run: Path) -> ragcun.AsymmetricProjectionModel:
    return ragcun.RetrievalEncoder.from_pretrained(run / "best_model", "cpu")


def test_a_run_without_labels_says_what_it_kept(train, texts, tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="ragcun")
    documents = [". ".join(text.capitalize() for text in texts[i : i + 3]) + "." for i in range(0, 270, 3)]
    (tmp_path / "prose.txt").write_text("\n".join(documents))
    run = train("run", "--corpus", tmp_path / "prose.txt")
    manifest = json.loads((run / "manifest.json").read_text())
    found = manifest["never_worse"]
    assert manifest["status"] == "finished"
    assert found["scores"].keys() == {"trained", "start", "base"}
    assert found["kept"] == "start"
    assert found["queries"] == 9
    assert all(0 <= score <= 1 for score in found["scores"].values())
    said = r"start kept, .* 20 queries cannot tell \(NDCG@10 on 9 queries of .*prose.txt, held-out sentences: (.*)\)"
    assert re.findall(said, caplog.text) == [", ".join(f"{name} {at:.4f}" for name, at in found["scores"].items())]


def test_one_sentence_documents_are_adapted_in_closed_form(train, tmp_path, caplog):
    """Nothing is trained: the checkpoint is the one of `calibrate`'s map, with the channel."""
    caplog.set_level(logging.INFO, logger="ragcun")
    lines = [" ".join(random.Random(i).choices(WORDS, k=8)) for i in range(60)]
    (tmp_path / "lines.txt").write_text("\n".join(lines))
    run = train("run", "--corpus", tmp_path / "lines.txt")
    assert "no pairs" in caplog.text
    encoder = loaded(run)
    vectors = encoder.base.encode(lines, "document"), encoder.base.encode(lines, "query")
    assert encoder.dimension == encoder.base.dimension > 16
    expected = ragcun.calibrate(*vectors)
    np.testing.assert_allclose(encoder.encode_document(lines), expected.embed_documents(vectors[0]), atol=1e-4)
    np.testing.assert_allclose(encoder.encode_query(lines), expected.embed_queries(vectors[1]), atol=1e-4)
    manifest = json.loads((run / "manifest.json").read_text())
    assert (manifest["status"], manifest["result"]["steps"], manifest["never_worse"]) == ("finished", 0, None)
