import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ragcun import EmbeddingCache, RetrievalEncoder, TextBase, load_collection, load_head
from ragcun.data.overlap import text_hash


@pytest.fixture(scope="module")
def vectors(tmp_path_factory, tiny_bert, collection_folder):
    """The tiny BERT's own vectors of the toy collection, as ``DIR/toy``."""
    folder = tmp_path_factory.mktemp("vectors") / "toy"
    folder.mkdir()
    cache = EmbeddingCache(TextBase.load(tiny_bert))
    parts = [load_collection(collection_folder, split) for split in ("train", "dev", "test")]
    queries = {key: text for part in parts for key, text in part.queries.items()}
    documents = {key: document.content for key, document in parts[0].documents.items()}
    for name, role, texts in (("queries", "query", queries), ("documents", "document", documents)):
        (folder / f"{name}.txt").write_text("".join(f"{key}\n" for key in texts))
        np.save(folder / f"{name}.npy", cache.encode(list(texts.values()), role))
    return folder.parent


@pytest.fixture
def arguments(collection_folder):
    """Flags of a short run on the toy collection."""
    short = ("--device", "cpu", "--steps", 12, "--batch_size", 8, "--lexical_dim", 0)
    return ("--train_data", collection_folder, *short, "--dev_beir", collection_folder)


@pytest.fixture
def evaluated(evaluate):
    """Evaluate a checkpoint on the toy collection and return the figures of each system."""

    def run(*flags):
        results, shown = evaluate("--baseline", "bm25", *flags)
        systems = {"model": results, "base": results["untouched_base"], "bm25": results["baselines"]["bm25"]}
        return {slug: system["datasets"]["toy"] for slug, system in systems.items()}, shown

    return run


@pytest.fixture
def trained(run_script, arguments, vectors, tiny_bert, tmp_path):
    """Train from the identity, by vectors and by texts; return both checkpoints."""

    def run(*flags):
        of = {"vectors": ("--vectors", vectors), "texts": ("--base_model", tiny_bert)}
        for name, source in of.items():
            more = ("--head_init", "identity", *flags, "--output_dir", tmp_path / name)
            run_script("train", *arguments, *source, *more)
        return [tmp_path / name / "best_model" for name in of]

    return run


def test_vectors_give_what_texts_give(trained, evaluated, vectors, collection_folder):
    by_vectors, by_texts = trained()
    ours, theirs = (load_file(folder / "ragcun" / "parts.safetensors") for folder in (by_vectors, by_texts))
    assert ours.keys() == theirs.keys()
    for key, weights in theirs.items():
        torch.testing.assert_close(ours[key], weights, rtol=1e-5, atol=1e-6)
    files = {path.relative_to(by_vectors).as_posix() for path in by_vectors.rglob("*.*")}
    parts = {f"ragcun/{name}" for name in ("encoder.json", "parts.safetensors", "seen_documents.json")}
    assert files == {"README.md"} | parts

    expected, _ = evaluated("--model_path", by_texts)
    found, shown = evaluated("--model_path", by_vectors, "--vectors", vectors)
    assert expected.keys() == found.keys()
    for system, figures in expected.items():
        assert figures.keys() == found[system].keys() >= {"NDCG@10", "seen", "unseen"}
        for metric in ("NDCG@1", "NDCG@10", "Recall@100"):
            assert found[system][metric] == pytest.approx(figures[metric], abs=1e-12)
    assert "vectors (untouched)" in shown
    seen = json.loads((by_vectors / "ragcun" / "seen_documents.json").read_text())
    train = load_collection(collection_folder, "train")
    positives = {key for judged in train.qrels.values() for key in judged}
    assert set(seen) == {text_hash(train.documents[key].content) for key in positives}


def test_a_head_is_loaded_and_gone_on_from(run_script, fails_clearly, arguments, vectors, tmp_path):
    first = ("--vectors", vectors / "toy", "--output_dir", tmp_path / "a")
    run_script("train", *arguments, *first)
    head = load_head(tmp_path / "a" / "best_model", "cpu")
    assert head.embed_queries(np.load(vectors / "toy" / "queries.npy")).shape == (70, 16)
    goes_on = ("--load_checkpoint", tmp_path / "a" / "best_model", "--output_dir", tmp_path / "b")
    run_script("train", *arguments, "--vectors", vectors, *goes_on)
    assert "no text model" in fails_clearly("train", *arguments, *goes_on, "--overwrite")
    model = ("--model_path", tmp_path / "a" / "best_model", "--data_dir", arguments[1].parent)
    assert "no text model" in fails_clearly("evaluate_beir", *model, "--output_file", tmp_path / "e.json")


def test_evaluation_says_which_vectors_do_not_fit(run_script, fails_clearly, arguments, vectors, tiny_bert, tmp_path):
    (tmp_path / "p.json").write_text('[["a", "b"], ["c", "d"]]')
    pairs = ("--train_data", tmp_path / "p.json", "--vectors", vectors, "--output_dir", tmp_path / "p")
    assert "BEIR folder" in fails_clearly("train", *arguments, *pairs)
    common = ("--data_dir", arguments[1].parent, "--output_file", tmp_path / "e.json", "--vectors")
    assert "--model_path" in fails_clearly("evaluate_beir", *common, vectors, "--model", tiny_bert)
    run_script("train", *arguments, "--base_model", tiny_bert, "--output_dir", tmp_path / "t")
    run_script("train", *arguments, "--vectors", vectors, "--output_dir", tmp_path / "v")
    model = ("--model_path", tmp_path / "t" / "best_model")
    assert "has a text model" in fails_clearly("evaluate_beir", *common, vectors, *model)
    longer = tmp_path / "longer"
    longer.mkdir()
    for name in ("documents", "queries"):
        (longer / f"{name}.txt").write_text((vectors / "toy" / f"{name}.txt").read_text())
        np.save(longer / f"{name}.npy", np.tile(np.load(vectors / "toy" / f"{name}.npy"), 2))
    model = ("--model_path", tmp_path / "v" / "best_model")
    assert "length 32, the checkpoint takes 16" in fails_clearly("evaluate_beir", *common, longer, *model)


def test_the_channel_of_the_texts_joins_vectors_as_it_joins_a_text_model(
    trained, run_script, fails_clearly, arguments, evaluated, vectors, collection_folder, tmp_path
):
    by_vectors, by_texts = trained("--lexical_dim", 8)
    head, encoder = load_head(by_vectors, "cpu"), RetrievalEncoder.from_pretrained(by_texts)
    collection = load_collection(collection_folder, "test")
    texts = [document.content for document in collection.documents.values()]
    rows = np.load(vectors / "toy" / "documents.npy")
    np.testing.assert_allclose(head.embed_documents(rows, texts), encoder.encode_document(texts), atol=1e-4)
    for given in (None, texts[1:]):
        with pytest.raises(ValueError, match="text of each of the 120 vectors"):
            head.embed_documents(rows, given)
    model, joined = ("--model_path", by_vectors, "--vectors", vectors), ("--vectors", vectors, "--lexical_dim", 8)
    (expected, _), (found, _) = evaluated("--model_path", by_texts), evaluated(*model)
    for system, figures in expected.items():
        assert found[system]["NDCG@10"] == pytest.approx(figures["NDCG@10"], abs=1e-9)
    chosen, _ = evaluated(*model, "--hybrid", "bm25", "--memory")
    assert chosen["model"] == found["model"]  # the rows of its dev queries are found beside it
    model += ("--datasets", "toy", "--data_dir", collection_folder.parent, "--output_file", tmp_path / "run.trec")
    assert f"toy: NDCG@10 {found['model']['NDCG@10']:.4f}" in run_script("search_corpus", *model)
    run_script("search_corpus", *model, "--hybrid", "bm25", "--feedback", 2)
    assert "one shard" in fails_clearly("search_corpus", *model, "--shards", 2)
    goes_on = ("--load_checkpoint", by_vectors, "--output_dir", tmp_path / "on", "--vectors", vectors)
    run_script("train", *arguments[:-4], *arguments[-2:], *goes_on)
    assert load_head(tmp_path / "on" / "best_model").encoder.base.channel.dimension == 8
    pieces = (*joined, "--lexical_terms", "pieces", "--output_dir", tmp_path / "p")
    assert "choose words" in fails_clearly("train", *arguments, *pieces)
