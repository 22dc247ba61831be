import logging

import pytest

from ragcun.data.beir import (
    Document,
    hold_out_queries,
    load_collection,
    pairs_from_collection,
    query_folds,
    write_collection,
)
from ragcun.errors import InputError

DOCUMENTS = {"d1": Document("One", "first text"), "d2": Document("", "second"), 'd"3': Document("Drei", "")}
QUERIES = {"q2": "second?", "q1": "what is first", "q3": "judged in dev only"}
QRELS = {"test": {"q1": {"d1": 2, "d2": 0}, "q2": {"d2": 1, 'd"3': 1}}, "dev": {"q3": {"d1": 1}}}


@pytest.fixture
def folder(tmp_path):
    write_collection(tmp_path / "small", DOCUMENTS, QUERIES, QRELS)
    return tmp_path / "small"


def test_written_collection_is_read_back(folder):
    collection = load_collection(folder)
    assert (collection.name, collection.documents, collection.qrels) == ("small", DOCUMENTS, QRELS["test"])
    assert list(collection.queries.items()) == [("q2", "second?"), ("q1", "what is first")]
    assert [document.content for document in collection.documents.values()] == ["One first text", "second", "Drei"]
    assert load_collection(folder, "dev").queries == {"q3": QUERIES["q3"]}


@pytest.mark.parametrize(
    ("name", "split"), [("", "test"), ("", "dev"), ("scifact", "test"), ("nfcorpus", "dev"), ("cranfield", "test")]
)
def test_collections_equal_those_of_beirs_loader(request, folder, name, split):
    folder = request.getfixturevalue("shared_data") / name if name else folder
    loader = pytest.importorskip("beir.datasets.data_loader").GenericDataLoader
    corpus, queries, qrels = loader(str(folder)).load(split=split)
    ours = load_collection(folder, split)
    documents = {key: Document(value["title"] or "", value["text"]) for key, value in corpus.items()}
    assert (ours.documents, ours.queries, ours.qrels) == (documents, queries, qrels)


def test_judged_documents_outside_the_corpus_are_counted_and_without_relevant_ones_are_no_pairs(folder, caplog):
    (folder / "qrels" / "test.tsv").write_text("q1\td1\t1\nq1\tgone\t1\nq2\tgone\t1\nq2\tlost\t1\n")
    with caplog.at_level(logging.WARNING):
        collection = load_collection(folder)
    assert "2 judged documents are not in the corpus" in caplog.text
    assert collection.qrels == {"q1": {"d1": 1, "gone": 1}, "q2": {"gone": 1, "lost": 1}}
    assert collection.notes() == ["2 judged documents are not in the corpus; they count as not found"]
    write_collection(folder, {**DOCUMENTS, "d4": Document("", "")}, QUERIES, {**QRELS, "test": {"q1": {"d4": 1}}})
    with pytest.raises(InputError, match="small/test holds no pairs"):
        pairs_from_collection(load_collection(folder))


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("corpus.jsonl", None, "no such file: .*corpus.jsonl"),
        ("queries.jsonl", None, "no such file: .*queries.jsonl"),
        ("qrels/test.tsv", None, r"no judgments for the split 'test'.*: dev"),
        ("qrels/test.tsv", "query-id\tcorpus-id\tscore\n", "holds no judgments"),
        ("qrels/test.tsv", "q1\td1\t1\nq1 d1\n", "test.tsv, line 2: 2 columns where the first line has 3"),
        ("qrels/test.tsv", "q1\td1\n", "test.tsv, line 1: field .query_id. is missing.*there is 'q1', 'd1'"),
        ("qrels/test.tsv", "query-id\tcorpus-id\tscore\nq1\td1\tone\n", "test.tsv, line 2: the score .* got 'one'"),
        ("qrels/test.tsv", "q1\td1\t1.5\n", "test.tsv, line 1: the score .* got '1.5'"),
        ("qrels/test.tsv", "q1\td1\t1\nq1\td2\t17000000000\n", "line 2: .* at most 1000, got '17000000000'"),
        ("qrels/test.tsv", "a\tb\tc\nq1\td1\t1\n", "test.tsv, line 1: .*query_id.*there is 'a', 'b', 'c'"),
        ("qrels/test.tsv", "q\t \t1\n", "test.tsv, line 1: an id is empty"),
        ("qrels/test.tsv", "q1 my file 1\n", "test.tsv, line 1: expected query-id.*4 columns"),
        ("qrels/test.tsv", "q1\td1\t1\nq1\t0\td2\t1\n", "test.tsv, line 2: 4 columns"),
        ("qrels/test.tsv", "q9\td1\t1\n", "query 'q9' has no text"),
        ("queries.jsonl", '{"_id": "q1", "text": " "}\n{"_id": "q2", "text": "t"}\n', "query 'q1' has no text"),
        ("queries.jsonl", '{"_id": "q1", "text": "a"}\n{"_id": "q1", "text": "b"}\n', "line 2: _id 'q1' .* line 1"),
        ("corpus.jsonl", '{"_id": "d1", "text": "a"}\n\n{"_id": "d1", "text": "b"}\n', "line 3: _id 'd1' .* line 1"),
        ("corpus.jsonl", '{"_id": 1.5, "text": "a"}\n', 'line 1: field "_id" must be text, got float'),
        ("corpus.jsonl", "", "holds no documents"),
        ("corpus.jsonl", '{"_id": "D1", "text": "a"}\n', "test.tsv: no relevant .*corpus.* 'd1', .* 'D1'"),
        ("qrels/test.tsv", "q1\tx1\t1\nq2\td1\t0\n", "test.tsv: no relevant .*corpus.* 'x1', .* 'd1'"),
        ("qrels/test.tsv", "q1\td1\t0\nq2\td1\t-1\n", "test.tsv: no relevant .* none"),
    ],
)
def test_wrong_folder_is_refused_with_its_place(folder, file, content, message):
    (folder / file).unlink() if content is None else (folder / file).write_text(content)
    with pytest.raises(InputError, match=message):
        load_collection(folder)
    with pytest.raises(InputError, match="no such folder"):
        load_collection(folder / "absent")


def test_writing_never_loses_files_of_another_kind(folder):
    with pytest.raises(InputError, match=r"holds qrels/dev.tsv, which would be lost"):
        write_collection(folder, DOCUMENTS, QUERIES, {"test": QRELS["test"]})
    assert load_collection(folder, "dev").qrels == QRELS["dev"]
    write_collection(folder, {"d1": DOCUMENTS["d1"]}, QUERIES, QRELS)
    assert list(load_collection(folder, "dev").documents) == ["d1"]
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"notes.txt"):
        write_collection(folder, DOCUMENTS, QUERIES, QRELS)


@pytest.fixture
def forty(tmp_path):
    queries = {f"q{i}": f"Text {i // 2}" if i % 2 else f" text {i // 2}" for i in range(40)}
    write_collection(tmp_path / "forty", DOCUMENTS, queries, {"train": {query: {"d1": 1} for query in queries}})
    return load_collection(tmp_path / "forty", "train")


@pytest.mark.parametrize("fraction", [0.05, 0.25, 0.5, 0.95])
def test_hold_out_divides_the_queries(forty, fraction):
    kept, held = hold_out_queries(forty, fraction, seed=3)
    assert kept.queries.keys() | held.queries.keys() == forty.queries.keys()
    assert not kept.queries.keys() & held.queries.keys()
    assert len(held.queries) == fraction * 40
    assert kept.queries.keys() == kept.qrels.keys()
    assert held.queries.keys() == held.qrels.keys()
    assert kept.documents == held.documents == forty.documents
    assert (kept.split, held.split) == ("train", "train-held-out")
    texts = [{text.strip().lower() for text in side.queries.values()} for side in (kept, held)]
    assert not texts[0] & texts[1]
    assert hold_out_queries(forty, fraction, seed=3) == (kept, held) != hold_out_queries(forty, fraction, seed=2)


def test_folds_hold_each_query_out_once_and_split_no_text(forty):
    folds = [*query_folds(forty, 7, seed=3)]
    assert sorted(key for _, held in folds for key in held.queries) == sorted(forty.queries)
    for kept, held in folds:
        assert kept.queries.keys() == forty.queries.keys() - held.queries.keys() == kept.qrels.keys()
        texts = [{text.strip().lower() for text in side.queries.values()} for side in (kept, held)]
        assert texts[1]
        assert not texts[0] & texts[1]
    with pytest.raises(InputError, match=r"20 distinct .* 41 folds"):
        next(query_folds(forty, 41, seed=0))


@pytest.mark.parametrize("fraction", [-0.1, 0.0, 0.01, 0.99, 1.0, float("nan")])
def test_hold_out_must_leave_both_sides_some(forty, fraction):
    with pytest.raises(InputError, match="cannot hold out"):
        hold_out_queries(forty, fraction, seed=0)
