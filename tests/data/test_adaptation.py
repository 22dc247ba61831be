"""What a corpus gives to train on and to judge by: no held-out document is trained on, and nothing hangs on others."""

import random

import pytest

from ragcun.data import synthetic_queries as adaptation
from ragcun.data.beir import Document
from ragcun.data.synthetic_queries import Adaptation, adaptation_data
from ragcun.data.texts import split_sentences
from ragcun.errors import InputError
from tests.data.test_augment import prose

DOCUMENTS = prose(80)


@pytest.fixture(scope="module")
def made() -> Adaptation:
    return adaptation_data(DOCUMENTS, "made", seed=3)


def by_content(documents: list[Document]) -> dict[str, Document]:
    return {document.content: document for document in documents}


def queries_of(made: Adaptation) -> dict[str, list[str]]:
    queries: dict[str, list[str]] = {}
    for query, positive, _ in made.pairs.rows():
        queries.setdefault(positive, []).append(query)
    return queries


def held_documents(made: Adaptation) -> set[str]:
    judged = {key for judgments in made.held_out.qrels.values() for key in judgments}
    return {made.held_out.documents[key].content for key in judged}


def test_no_held_out_document_is_in_a_pair_and_every_document_is_a_candidate(made: Adaptation) -> None:
    held = held_documents(made)
    assert len(held) == 8
    assert held.isdisjoint(positive for _, positive, _ in made.pairs.rows())
    assert held == set(made.pairs.unpaired())
    sentences = set(made.held_out.queries.values())
    assert sentences.isdisjoint(made.pairs.queries)
    candidates = made.pairs.documents, [document.content for document in made.held_out.documents.values()]
    assert [set(each) for each in candidates] == [set(by_content(DOCUMENTS))] * 2


def test_positives_are_whole_documents_and_queries_their_title_and_a_sentence(made: Adaptation) -> None:
    documents, queries = by_content(DOCUMENTS), queries_of(made)
    assert all(negative is None for _, _, negative in made.pairs.rows())
    assert set(queries) == set(documents) - held_documents(made)
    for content, asked in queries.items():
        document = documents[content]
        titles = [document.title] if document.title else []
        assert asked[: len(titles)] == titles
        (sentence,) = asked[len(titles) :]
        assert sentence in split_sentences(document.text)


def test_a_held_out_sentence_is_judged_to_be_of_its_own_document_and_each_has_a_stand_in(made: Adaptation) -> None:
    held_out = made.held_out
    assert held_out.queries.keys() == held_out.qrels.keys()
    assert len(set(held_out.queries.values())) == len(held_out.queries)
    for key, sentence in held_out.queries.items():
        ((document, score),) = held_out.qrels[key].items()
        assert score == 1
        assert sentence in split_sentences(held_out.documents[document].text)
    owners = [[d.content for d in DOCUMENTS if query in split_sentences(d.text)] for query in made.stand_ins]
    assert sorted(owner for (owner,) in owners) == sorted(by_content(DOCUMENTS))


def as_values(made: Adaptation) -> tuple[object, ...]:
    return list(made.pairs.rows()), made.pairs.documents, made.held_out, made.stand_ins


def test_the_seed_decides_and_neither_order_nor_repeated_documents_do(made: Adaptation) -> None:
    random.seed(99)
    assert as_values(adaptation_data(DOCUMENTS, "made", seed=3)) == as_values(made)
    other = adaptation_data(DOCUMENTS, "made", seed=4)
    assert held_documents(other) != held_documents(made)
    assert other.stand_ins != made.stand_ins
    shuffled = [*DOCUMENTS, *DOCUMENTS[:9]]
    random.Random(5).shuffle(shuffled)
    again = adaptation_data(shuffled, "made", seed=3)
    assert as_values(again) == as_values(made)
    assert again.pairs.sha256() == made.pairs.sha256()


def test_the_pairs_of_a_document_do_not_depend_on_the_others(made: Adaptation) -> None:
    again = adaptation_data([*DOCUMENTS[:40], *prose(60, seed=8)], "made", seed=3)

    first, second = queries_of(made), queries_of(again)
    shared = first.keys() & second.keys()
    assert len(shared) > 25
    assert all(first[content] == second[content] for content in shared)


def test_a_document_of_one_sentence_and_no_title_makes_no_pair_with_itself() -> None:
    short = [Document("", f"Only sentence number {i}.") for i in range(20)]
    made = adaptation_data([*DOCUMENTS, *short], "made", seed=0)
    assert all(query != positive for query, positive, _ in made.pairs.rows())
    assert {document.content for document in short} <= set(made.pairs.unpaired())


def test_documents_without_text_do_not_count_and_twenty_with_text_are_needed() -> None:
    blank = [Document("a title alone", " "), Document("", "")] * 20
    made = adaptation_data([*DOCUMENTS, *blank], "made", seed=3)
    assert set(made.pairs.documents) == set(by_content(DOCUMENTS))
    assert len(adaptation_data(DOCUMENTS[:20], "made", seed=0).held_out.queries) == 2
    with pytest.raises(InputError, match=r"corpus\.txt has 19 documents with text; .* at least 20"):
        adaptation_data([*DOCUMENTS[:19], *blank], "corpus.txt", seed=0)


def test_a_larger_corpus_is_sampled_without_regard_to_order(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, most in (("MOST_DOCUMENTS", 60), ("MOST_HELD_OUT", 5), ("STAND_INS", 9)):
        monkeypatch.setattr(adaptation, name, most)
    made, reverse = (adaptation_data(docs, "made", seed=1) for docs in (DOCUMENTS, DOCUMENTS[::-1]))
    assert (len(made.held_out.documents), len(made.held_out.queries), len(made.stand_ins)) == (60, 5, 9)
    assert as_values(made) == as_values(reverse)
