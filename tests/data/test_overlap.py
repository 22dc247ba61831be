"""Training overlap: which documents were seen, which are hidden, and what is left of pairs and collections."""

import json
import math
import random
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragcun import InputError, PairDataset
from ragcun.data.beir import Collection, Document
from ragcun.data.overlap import (
    HELD_OUT,
    SEEN,
    HoldOut,
    read_held_out,
    read_seen,
    seen_queries,
    text_hash,
    text_hashes,
    training_documents,
)

HOLD_OUTS = st.builds(HoldOut, st.floats(0.01, 0.99), st.integers(-(2**63), 2**63 - 1))
TEXTS = st.text(st.characters(), min_size=1, max_size=8).filter(str.strip)
ROWS = st.lists(st.tuples(TEXTS, TEXTS, st.none() | TEXTS), min_size=1, max_size=30)
MANY = [f"text {i}" for i in range(20_000)]


def deviation(count: int, total: int, share: float) -> float:
    """How many standard deviations a binomial count is off its mean."""
    return abs(count - total * share) / math.sqrt(total * share * (1 - share))


@pytest.mark.parametrize("seed", [0, 1, -5, 2**63 - 1])
@pytest.mark.parametrize("fraction", [0.01, 0.3, 0.5, 0.9])
def test_the_share_hidden_is_the_fraction_whatever_the_seed(fraction: float, seed: int) -> None:
    """Hidden texts are a binomial count; it is 5 standard deviations off once in 1.7 million draws."""
    hidden = {text for text in MANY if HoldOut(fraction, seed).hides(text)}
    assert deviation(len(hidden), len(MANY), fraction) < 5
    more = {text for text in MANY if HoldOut(fraction + 0.05, seed).hides(text)}
    assert hidden < more  # a larger fraction hides what a smaller one hides
    other = {text for text in MANY if HoldOut(fraction, seed // 2 + 9).hides(text)}
    assert deviation(len(hidden & other), len(MANY), fraction**2) < 5  # seeds draw independently


@pytest.mark.parametrize(
    ("held_out", "hidden"),
    [(HoldOut(0.5, 0), "11111111111010110110100101000111"), (HoldOut(0.2, 1), "10000110001000000100001000010000")],
)
def test_what_is_hidden_never_changes(held_out: HoldOut, hidden: str) -> None:
    """A checkpoint says only fraction and seed: another hash would show it hidden documents that it was trained on."""
    assert "".join(str(int(held_out.hides(f"text {i}"))) for i in range(32)) == hidden


@given(held_out=HOLD_OUTS, texts=st.lists(TEXTS, min_size=1), seed=st.integers(0, 99))
def test_ids_order_and_other_documents_do_not_matter(held_out: HoldOut, texts: list[str], seed: int) -> None:
    def hidden(some: list[str], prefix: str) -> Counter[str]:
        documents = {f"{prefix}{i}": Document("", text) for i, text in enumerate(some)}
        collection = Collection("c", documents, {"q": "q"}, {"q": dict.fromkeys(documents, 1)}, "test")
        return Counter(document.content for document in held_out.hidden_only(collection).documents.values())

    alone = sum((hidden([text], "c") for text in texts), Counter[str]())
    assert hidden(texts, "a") == hidden(random.Random(seed).sample(texts, len(texts)), "b") == alone


@given(held_out=HOLD_OUTS, rows=ROWS)
def test_pairs_keep_all_but_what_is_hidden(held_out: HoldOut, rows: list[tuple[str, str, str | None]]) -> None:
    expected = {(q, p, None if n and held_out.hides(n) else n) for q, p, n in rows if not held_out.hides(p)}
    pairs = PairDataset.from_rows(rows, "file")
    if not expected:
        with pytest.raises(InputError, match=r"file: the positives of all .* are hidden"):
            held_out.without_hidden(pairs)
        return
    left = held_out.without_hidden(pairs)
    assert set(left.rows()) == expected
    assert len(left) == len(expected)
    assert not any(map(held_out.hides, left.documents))
    assert left.source == pairs.source


@given(held_out=HOLD_OUTS, texts=st.lists(TEXTS, min_size=1))
def test_visible_documents_are_the_complement_in_order(held_out: HoldOut, texts: list[str]) -> None:
    documents = [Document(text, "more") for text in texts]
    expected = [document for document in documents if not held_out.hides(f"{document.title} more".strip())]
    if expected:
        assert held_out.visible_documents(iter(documents)) == expected
    else:
        with pytest.raises(InputError, match=f"all {len(texts)} documents are hidden"):
            held_out.visible_documents(documents)


@pytest.mark.parametrize("seed", range(8))
def test_hidden_only_against_every_judgment(seed: int) -> None:
    """Documents repeat, judgments are 0, negative, or of documents that the corpus lacks."""
    rng = random.Random(seed)
    documents = {f"d{i}": Document(rng.choice(["", "T"]), f"text {rng.randrange(20)}") for i in range(25)}
    qrels = {f"q{i}": {f"d{rng.randrange(30)}": rng.choice([-1, 0, 1, 2]) for _ in range(3)} for i in range(25)}
    queries = {key: f"about {key}" for key in rng.sample(sorted(qrels), len(qrels))}
    whole = Collection("c", documents, queries, qrels, "test")
    held_out = HoldOut(rng.choice([0.2, 0.5, 0.8]), seed)
    part = held_out.hidden_only(whole)
    judgments = [(q, d, s) for q, judged in qrels.items() for d, s in judged.items()]
    relevant = {q for q, d, s in judgments if s > 0 and d in documents and held_out.hides(documents[d].content)}
    assert 0 < len(relevant) < len(qrels)
    assert list(part.documents) == [key for key in documents if held_out.hides(documents[key].content)]
    assert all(part.documents[key] is documents[key] for key in part.documents)
    left = {q: {d: s for d, s in judged.items() if d in part.documents} for q, judged in qrels.items()}
    assert list(part.qrels.items()) == [(query, judged) for query, judged in left.items() if query in relevant]
    assert list(part.queries.items()) == [(key, text) for key, text in queries.items() if key in relevant]
    assert (part.name, part.split) == (whole.name, whole.split)
    assert held_out.hidden_only(part) == part


def test_hidden_documents_among_the_sources_of_pairs_are_not_seen(tmp_path) -> None:
    texts = MANY[:40]
    (tmp_path / "documents.txt").write_text("\n".join(texts))
    held_out = HoldOut(0.5, 3)
    train = PairDataset.from_rows([("query", "part", "negative"), ("other", "part", None)], "test")
    seen = training_documents(train, str(tmp_path / "documents.txt"), None, held_out)
    assert seen == text_hashes(["part", *(text for text in texts if not held_out.hides(text))])
    assert training_documents(train, str(tmp_path / "documents.txt"), None) == text_hashes(["part", *texts])


def test_a_hidden_document_that_was_seen_after_all_leaves_no_part(caplog) -> None:
    held_out = HoldOut(0.5, 0)
    documents = {text: Document("", text) for text in MANY[:20]}
    collection = Collection("c", documents, {"q": "q"}, {"q": dict.fromkeys(documents, 1)}, "test")
    part = held_out.hidden_only(collection)
    visible = text_hashes(documents.keys() - part.documents.keys())
    assert held_out.unseen_part(collection, visible) == held_out.unseen_part(collection, frozenset()) == part
    assert not caplog.records
    assert held_out.unseen_part(collection, visible | text_hashes([next(iter(part.documents))])) is None
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "training saw 1 of the hidden documents" in caplog.text
    blank = replace(collection, documents={"d": Document("", "")})
    assert held_out.unseen_part(blank, visible) is not None


@pytest.mark.parametrize(
    "values",
    ["[]", "null", "0.5", "{}", '{"fraction": 0.5}', '{"fraction": 0.5, "seed": 0, "more": 1}', "{",
     '{"fraction": "0.5", "seed": 0}', '{"fraction": 0.5, "seed": 1.0}', '{"fraction": 0.5, "seed": true}',
     '{"fraction": 0.0, "seed": 0}', '{"fraction": 1.0, "seed": 0}', '{"fraction": NaN, "seed": 0}',
     '{"fraction": 0.5, "seed": 9223372036854775808}'],
)  # fmt: skip
def test_a_file_that_holds_something_else_is_one_sentence(tmp_path, values: str) -> None:
    (tmp_path / HELD_OUT).parent.mkdir()
    (tmp_path / HELD_OUT).write_text(values)
    with pytest.raises(InputError, match=r"held_out\.json") as caught:
        read_held_out(tmp_path)
    assert "\n" not in str(caught.value)


BLANKS = st.text(" \t\n\r\u00a0\u2003", min_size=1)
WORDS = st.lists(st.text(st.characters(exclude_categories=["Z", "C"]), min_size=1), min_size=1)


def keep(folder, value):
    (folder / SEEN).parent.mkdir(parents=True, exist_ok=True)
    (folder / SEEN).write_text(json.dumps(value))
    return folder


@given(held_out=HOLD_OUTS, words=WORDS, data=st.data())
def test_only_the_amount_of_white_space_is_passed_over(held_out, words, data):
    spaced = data.draw(BLANKS) + "".join(word + data.draw(BLANKS) for word in words)
    assert text_hash(spaced) == text_hash(" ".join(words))
    assert held_out.hides(spaced) == held_out.hides(" ".join(words))
    assert text_hash(" ".join([*words, "more"])) != text_hash(spaced)
    assert text_hashes([spaced, " ".join(words), " \n", ""]) == {text_hash(spaced)}
    assert len(text_hashes(["a b", "ab", "A b", "b a", "\ud800", "\ud801"])) == 6


def test_what_was_seen_stays_seen_and_unknown_stays_unknown(tmp_path, caplog):
    train = PairDataset.from_rows([("q", "new", None), ("q", "both", None)], "test")
    before = text_hashes(["old", "both"])
    known = keep(tmp_path / "known", sorted(before))
    assert training_documents(train, None, str(known)) == before | text_hashes(["new"])
    assert not caplog.records
    assert training_documents(train, None, str(tmp_path / "older")) is None
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "seen documents are unknown" in caplog.text


@pytest.mark.parametrize("value", [{}, None, [3], ["ab"], ["G" * 32], ["a" * 33], ["a" * 32 + "\n"]])
def test_what_are_no_hashes_is_refused(tmp_path, value):
    with pytest.raises(InputError, match="not an array of hashes"):
        read_seen(keep(tmp_path, value))


@pytest.mark.parametrize("seed", range(5))
def test_seen_queries_against_every_pair_of_texts(seed):
    """Documents repeat under other ids, judgments may be 0 or negative, or of a document that the corpus lacks."""
    rng = random.Random(seed)
    documents = {f"d{i}": Document(rng.choice(["", "T"]), rng.choice(["", "a", "b c", "b  c", "d"])) for i in range(15)}
    qrels = {f"q{i}": {f"d{rng.randrange(18)}": rng.choice([-1, 0, 1, 2]) for _ in range(3)} for i in range(25)}
    texts = ["T a", "b c ", "T"]
    known = {key for key, each in documents.items() if each.content.split() in [text.split() for text in texts]}
    expected = {query for query, judged in qrels.items() for key, score in judged.items() if score > 0 and key in known}
    collection = Collection("c", documents, dict.fromkeys(qrels, "text"), qrels, "test")
    assert seen_queries(collection, text_hashes(texts)) == expected
    assert 0 < len(expected) < len(qrels)
    assert seen_queries(collection, frozenset()) == frozenset()
