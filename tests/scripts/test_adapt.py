"""Adapting to a corpus from the command line: without labels, with few, and what the checkpoint then is."""

from __future__ import annotations

import json
import logging
import random
import re
from pathlib import Path

import numpy as np
import pytest

import ragcun
from ragcun.data.beir import Document, load_collection, write_collection
from ragcun.data.overlap import HoldOut
from ragcun.training.weights import share_of_trained
from tests.conftest import WORDS

SCHEDULE = ("--device", "cpu", "--batch_size", 32, "--steps", 12, "--learning_rate", 3e-3)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """BEIR folder ``prose``: 90 documents with a title and three sentences; queries are words of their documents."""
    drawn = random.Random(0)

    def sentence(words: int) -> str:
        return " ".join(drawn.choices(WORDS, k=words))

    made = [". ".join(sentence(6).capitalize() for _ in range(3)) + "." for _ in range(90)]
    documents = {f"d{i}": Document(sentence(2).capitalize(), text) for i, text in enumerate(made)}
    queries = {f"q{i}": " ".join(made[i].lower().replace(".", "").split()[2:6]) for i in range(80)}
    split_of = {"train": range(40), "dev": range(40, 60), "test": range(60, 80)}
    qrels = {split: {f"q{i}": {f"d{i}": 1} for i in numbers} for split, numbers in split_of.items()}
    folder = tmp_path_factory.mktemp("collections") / "prose"
    write_collection(folder, documents, queries, qrels)
    return folder


@pytest.fixture
def train(run_script, tiny_bert, tmp_path):
    """Run train.py into a folder of that name, and return that."""

    def run(name, *flags):
        run_script("train", "--base_model", tiny_bert, *SCHEDULE, "--output_dir", tmp_path / name, *flags)
        return tmp_path / name

    return run


def loaded(run: Path) -> ragcun.AsymmetricProjectionModel:
    return ragcun.RetrievalEncoder.from_pretrained(run / "best_model", "cpu")


def heads(run: Path) -> dict[str, np.ndarray]:
    return {name: value.double().numpy() for name, value in loaded(run).own_state().items()}


@pytest.fixture(scope="module")
def texts_of(corpus) -> tuple[list[str], list[str]]:
    """Queries and documents."""
    collection = load_collection(corpus, "test")
    return list(collection.queries.values()), [document.content for document in collection.documents.values()]


def test_a_run_without_labels_says_what_it_kept(train, corpus, caplog):
    caplog.set_level(logging.INFO, logger="ragcun")
    run = train("run", "--corpus", corpus)
    manifest = json.loads((run / "manifest.json").read_text())
    found = manifest["never_worse"]
    assert manifest["status"] == "finished"
    assert found["scores"].keys() == {"trained", "start", "base"}
    assert found["kept"] in found["scores"]
    assert found["queries"] == 9
    assert all(0 <= score <= 1 for score in found["scores"].values())
    (line,) = re.findall(
        r"never worse: (\w+) kept \(NDCG@10 on 9 queries of .*prose, held-out sentences: (.*)\)", caplog.text
    )
    assert line[0] == found["kept"]
    assert line[1] == ", ".join(f"{name} {score:.4f}" for name, score in found["scores"].items())


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


def test_queries_given_set_the_shift(train, corpus, texts_of, tiny_bert, tmp_path):
    """The query head is W(x − g), where g is the shift that `calibrate` gives of the corpus and these queries."""
    given = [f"word{i} word{i + 1}" for i in range(60)]
    (tmp_path / "queries.txt").write_text("\n".join(given))
    trained = "--corpus", corpus, "--never_worse", "False", "--lexical_dim", 0
    with_file, without = (
        heads(train(name, *trained, *flags))
        for name, flags in (("with", ("--queries", tmp_path / "queries.txt")), ("without", ()))
    )
    base = ragcun.TextBase.load(tiny_bert, device="cpu")
    vectors = base.encode(texts_of[1], "document"), base.encode(given, "query")
    shift = ragcun.calibrate(*vectors).query_shift
    weight, bias = with_file["head.layers.0.weight"], with_file["head.layers.0.bias"]
    np.testing.assert_allclose(bias, -weight @ shift, atol=1e-5)
    assert np.abs(bias).max() > 1e-2
    assert np.abs(bias - without["head.layers.0.bias"]).max() > 1e-3


def test_of_few_labels_little_is_taken(train, corpus, tmp_path):
    """5 queries: the heads that are kept lie at .7 · 5 / 105 of the way from the start to the trained ones."""
    collection = load_collection(corpus, "train")
    rows = [{"query": collection.queries[f"q{i}"], "positive": collection.documents[f"d{i}"].content} for i in range(5)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    flags = "--train_data", tmp_path / "pairs.jsonl", "--corpus", corpus
    shares = {"start": ("--trained_share", 0), "trained": ("--trained_share", 1), "kept": ()}
    found = {name: heads(train(name, *flags, *share)) for name, share in shares.items()}
    share = share_of_trained(5)
    assert share == pytest.approx(1 / 30)
    for name, kept in found["kept"].items():
        start, trained = found["start"][name], found["trained"][name]
        np.testing.assert_allclose(kept, (1 - share) * start + share * trained, atol=1e-6)
    assert max(np.abs(found["trained"][name] - found["start"][name]).max() for name in found["start"]) > 1e-3


def test_hidden_documents_are_ranked_apart(train, evaluate, corpus):
    run = train("run", "--train_data", corpus, "--hold_out_documents", 0.5)
    place = ("--datasets", "prose", "--data_dir", corpus.parent)
    results, shown = evaluate("--model_path", run / "best_model", *place)
    hidden = HoldOut(0.5, 0).hidden_only(load_collection(corpus, "test"))
    assert 25 < len(hidden.documents) < 65
    (line,) = [line for line in shown.splitlines() if line.startswith("| prose, held out")]
    cells = [cell.strip() for cell in line.split("|")[1:3]]
    assert cells == [f"prose, held out, {len(hidden.documents)} documents", str(len(hidden.queries))]
    held_out = results["datasets"]["prose"]["held_out"]
    assert (held_out["n_documents"], held_out["n_queries"]) == (len(hidden.documents), len(hidden.queries))
