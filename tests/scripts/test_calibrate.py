"""calibrate.py: from a corpus to a checkpoint that evaluates, and one sentence where that is not possible."""

import shlex

import numpy as np
import pytest

from ragcun import AsymmetricProjectionModel, InputError, TextBase, calibrate, load_collection
from ragcun.data.beir import Document, read_queries
from ragcun.data.synthetic_queries import sample_documents, sample_queries, sentences_as_queries
from ragcun.embeddings.joined import JoinedBase
from ragcun.embeddings.lexical import LexicalChannel


@pytest.fixture
def flags(tiny_bert, collection_folder, tmp_path):
    """Flags that name base, corpus and output."""
    return ("--base_model", tiny_bert, "--corpus", collection_folder, "--output_dir", tmp_path / "made")


@pytest.mark.parametrize("lexical", [0, 8])
def test_a_corpus_and_queries_become_a_checkpoint(run_script, flags, tiny_bert, collection_folder, tmp_path, lexical):
    """Of dense vectors alone, or of dense and lexical ones together."""
    channel = ("--lexical_dim", lexical, *(("--lexical_weight", 0.25) if lexical else ()))
    asked = "--queries", collection_folder, "--query_split", "train", "--shrinkage", 2
    shown = run_script("calibrate", *flags, *asked, *channel)
    *_, command = shown.splitlines()
    place = ("--update_card", "--output_file", tmp_path / "results.json")
    assert "untouched" in run_script("evaluate_beir", *shlex.split(command)[3:], *place)
    assert "toy" in (tmp_path / "made" / "README.md").read_text()
    assert "120 of 120 documents" in shown
    assert "30 queries" in shown
    collection = load_collection(collection_folder, "train")
    contents, queries = [each.content for each in collection.documents.values()], list(collection.queries.values())
    encoder = AsymmetricProjectionModel.from_pretrained(tmp_path / "made", device="cpu")
    base = TextBase.load(tiny_bert, device="cpu")
    if lexical:
        base, fitted = JoinedBase(base, encoder.base.channel, 0.25), LexicalChannel.fit(contents, lexical)
        assert encoder.base.channel.vocabulary.keys() == fitted.vocabulary.keys()
        assert (encoder.base.channel.documents, encoder.base.channel.dimension) == (120, lexical)
    assert base.fingerprint() == encoder.base.fingerprint()
    vectors = base.encode(contents, "document"), base.encode(queries, "query")
    expected = calibrate(*vectors, shrinkage=2)
    np.testing.assert_allclose(encoder.encode_query(queries), expected.embed_queries(vectors[1]), atol=1e-4)
    np.testing.assert_allclose(encoder.encode_document(contents), expected.embed_documents(vectors[0]), atol=1e-4)


def test_sentences_stand_in_for_queries_and_a_run_repeats(run_script, flags, tmp_path):
    weights = []
    for seed in (0, 0, 1):
        shown = run_script("calibrate", *flags, "--seed", seed, "--max_documents", 50, "--max_queries", 60)
        assert "50 of 120 documents" in shown
        assert "60 sentences" in shown
        encoder = AsymmetricProjectionModel.from_pretrained(tmp_path / "made", device="cpu")
        weights.append(encoder.head.layers[0].weight.detach().numpy())
    np.testing.assert_array_equal(weights[0], weights[1])
    assert not np.array_equal(weights[0], weights[2])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made"]


@pytest.mark.parametrize(
    ("arguments", "fact"),
    [
        (("--corpus", "same.txt"), "all the same"),
        (("--queries", "one.txt", "--query_split", "train"), "leave the split out"),
        (("--output_dim", "17", "--lexical_dim", "0"), "output_dim must be 1 to 16"),
    ],
)
def test_wrong_input_writes_nothing(fails_clearly, flags, tmp_path, monkeypatch, arguments, fact):
    monkeypatch.chdir(tmp_path)
    for name, text in (("same", "word1 word2\nword1 word2\n"), ("one", "word1 word2\n")):
        (tmp_path / f"{name}.txt").write_text(text)
    before = sorted(tmp_path.iterdir())
    assert fact in fails_clearly("calibrate", *flags, *arguments)
    assert sorted(tmp_path.iterdir()) == before


def test_only_checkpoints_are_replaced(fails_clearly, flags, tmp_path):
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "thesis.txt").write_text("mine")
    assert "would be lost" in fails_clearly("calibrate", *flags)
    assert (tmp_path / "made" / "thesis.txt").read_text() == "mine"


def test_queries_are_read_from_files_and_folders(collection_folder, tmp_path):
    (tmp_path / "q.txt").write_text("first\n\nsecond\n")
    (tmp_path / "q.jsonl").write_text('{"_id": "1", "text": "first"}\n{"_id": "2", "text": " "}\n"second"\n')
    assert read_queries(tmp_path / "q.txt") == read_queries(tmp_path / "q.jsonl") == ["first", "second"]
    everything = read_queries(collection_folder)
    assert len(everything) == 70
    assert read_queries(collection_folder, "dev") == everything[30:50]
    (tmp_path / "blank.jsonl").write_text('{"text": " "}\n')
    with pytest.raises(InputError, match="holds no queries"):
        read_queries(tmp_path / "blank.jsonl")


def test_samples_of_queries_and_sentences_follow_from_the_seed_and_not_from_the_order():
    queries = [f"q{i}" for i in range(100)]
    drawn = sample_queries(queries, 50, seed=0)
    assert len(set(drawn)) == 50
    assert drawn == sample_queries(queries, 50, seed=0) != sample_queries(queries, 50, seed=1)
    assert sample_queries(queries, None, 0) == sample_queries(queries, 100, 0) == queries
    documents = [Document(f"Title {i}", f"First {i} of it. Second {i} is here! Third {i} ends.") for i in range(40)]
    drawn = sentences_as_queries(documents, 40, seed=0)
    assert drawn == sentences_as_queries(documents[::-1], 40, seed=0) != sentences_as_queries(documents, 40, seed=1)
    assert {sentence.split()[1] for sentence in drawn} == {str(i) for i in range(40)}
    assert {sentence.split()[0] for sentence in drawn} == {"First", "Second", "Third"}
    assert sentences_as_queries(documents, 10, seed=0) == drawn[:10]
    assert sentences_as_queries([Document("A title. Another", "")], 5, 0)[0] in ("A title.", "Another")
    assert sample_documents(documents, 3, 0) == sample_documents(documents[::-1], 5, 0)[:3]
