import json
import math
from collections import Counter

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from ragcun.embeddings import lexical
from ragcun.embeddings.analysis import Analyser
from ragcun.embeddings.lexical import LexicalChannel
from ragcun.errors import InputError

TOPICS = 6


def zipfian(count: int) -> list[str]:
    """Texts of Zipfian words, each text of one topic, so that as many singular values stand out."""
    ranks = np.minimum(np.random.default_rng(0).zipf(1.6, (count, 20)), 40)
    return [" ".join(f"word{row % TOPICS}x{rank}" for rank in ranks[row, : 5 + row % 16]) for row in range(count)]


def reference(texts: list[str], dim: int, power: float) -> np.ndarray:
    """Vectors of documents by the formulas, term by term, and numpy's SVD in float64."""
    terms = [Counter(each) for each in Analyser("en")(texts)]
    names, mean = sorted(set().union(*terms)), sum(each.total() for each in terms) / len(texts)
    weights = np.zeros((len(texts), len(names)))
    for row, counts in zip(weights, terms, strict=True):
        for term, tf in counts.items():
            df = sum(term in each for each in terms)
            idf = math.log(1 + (len(texts) - df + 0.5) / (df + 0.5))
            row[names.index(term)] = idf * tf / (tf + 0.9 * (0.6 + 0.4 * counts.total() / mean))
    weights /= np.linalg.norm(weights, axis=1, keepdims=True)
    _, values, rows = np.linalg.svd(weights)
    vectors = weights @ rows[:dim].T * values[:dim] ** power
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize("power", [0.0, -1.0])
def test_matches_the_formulas(power):
    texts = zipfian(60)
    found = LexicalChannel.fit(texts, TOPICS, power=power).encode(texts, "document")
    expected = reference(texts, TOPICS, power)
    np.testing.assert_allclose(found @ found.T, expected @ expected.T, atol=3e-3)


def test_vectors_are_deterministic_and_of_each_text_alone():
    texts = zipfian(100)
    one, other = (LexicalChannel.fit(texts, 16) for _ in range(2))
    assert one.fingerprint() == other.fingerprint()
    whole = one.encode(texts, "document")
    np.testing.assert_allclose(np.linalg.norm(whole, axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(whole[40:50], one.encode(texts[40:50], "document"))


def test_a_sample_and_many_blocks_give_nearly_the_same_space_and_the_rarest_of_many_terms_go(monkeypatch):
    texts = zipfian(2000)
    whole = LexicalChannel.fit(texts, TOPICS).encode(texts, "document")
    monkeypatch.setattr(lexical, "SVD_SAMPLE", 500)
    monkeypatch.setattr(lexical, "BLOCK", 300)
    sampled = LexicalChannel.fit(texts, TOPICS).encode(texts, "document")
    np.testing.assert_allclose(sampled @ sampled.T, whole @ whole.T, atol=0.02)
    monkeypatch.setattr(lexical, "FIT_SAMPLE", 1000)
    drawn = LexicalChannel.fit(texts, TOPICS)
    folded = drawn.encode(texts, "document")
    assert drawn.documents == 1000
    np.testing.assert_allclose(folded @ folded.T, whole @ whole.T, atol=0.05)
    monkeypatch.setattr(lexical, "MOST_TERMS", 50)
    channel = LexicalChannel.fit([f"common rare{i} rare{i + 1}" for i in range(100)], 4)
    assert len(channel.vocabulary) == 50
    assert "common" in channel.vocabulary


def test_texts_without_a_known_term_and_nothing_to_fit_on():
    texts = ["zebra lion", "", "lion tiger", "the"]
    channel = LexicalChannel.fit(texts)
    documents, (query,) = channel.encode([*texts, "unknown"], "document"), channel.encode(["unknown"], "query")
    np.testing.assert_array_equal(documents[[1, 3, 4]], np.stack([channel.mean] * 3))
    assert not query.any()
    for texts in ([], ["", "the"]):
        with pytest.raises(InputError, match=f"{len(texts)} documents"):
            LexicalChannel.fit(texts)
    with pytest.raises(ValueError, match="got 0"):
        LexicalChannel.fit(["zebra"], 0)


@pytest.mark.parametrize(
    ("texts", "dimension"),
    [
        (["the same words"] * 20, 1),
        ([f"word{i} common" for i in range(10)], 10),
        (["这是怎样清洗水壶的", "水壶坏了的时候"], 2),
        (["كيف يتم تنظيف المدارس", "الكتب في المدرسة"], 2),
    ],
)
def test_small_corpora_have_as_many_dimensions_as_their_rank(texts, dimension):
    channel = LexicalChannel.fit(texts)
    assert channel.dimension == dimension
    assert np.isfinite(channel.encode(texts, "query")).all()


def test_a_saved_channel_of_pieces_is_the_same_and_a_damaged_one_is_refused(tmp_path):
    tokenizer = Tokenizer(models.WordPiece({"[UNK]": 0, "ze": 1, "##bra": 2, "lion": 3}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    analyser = Analyser(pieces=tokenizer.to_str())
    channel = LexicalChannel.fit(["zebra lion", "lion", "zebra"], analyser=analyser)
    assert channel.vocabulary.keys() == {"ze", "##bra", "lion"}
    channel.save(tmp_path / "channel")
    loaded = LexicalChannel.load(tmp_path / "channel")
    assert loaded.fingerprint() == channel.fingerprint()
    np.testing.assert_array_equal(loaded.encode(["zebra"], "query"), channel.encode(["zebra"], "query"))

    config = tmp_path / "channel" / lexical.CONFIG
    settings = json.loads(config.read_text())
    for change in ({"vocabulary": ["ze"]}, {"vocabulary": None}, {"other": 1}, {"format": 9}):
        config.write_text(json.dumps({**settings, **change}))
        with pytest.raises(InputError, match="channel"):
            LexicalChannel.load(tmp_path / "channel")
