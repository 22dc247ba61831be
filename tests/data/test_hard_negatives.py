"""Mined negatives: what is never mined, and the margins, against a second implementation of the scores in float64."""

import functools
import math
from collections import Counter

import bm25s
import numpy as np
import pytest
import Stemmer
from hypothesis import given, settings
from hypothesis import strategies as st

from ragcun import InputError, PairDataset
from ragcun.embeddings.analysis import K1, B
from ragcun.retrieval.negatives import MARGINS, MiningSettings, mine_negatives

WORDS = ["heat", "flow", "wing", "shock", "layer", "plate", "jet", "drag", "lift", "wave", "mach", "nozzle"]
OFF = -math.inf


class HashedWords:
    """An encoder that adds up a random vector for every word; the same on every run."""

    def encode_query(self, texts):
        return self.encode_document(texts)

    def encode_document(self, texts):
        vectors = {word: np.random.default_rng(i).normal(size=6) for i, word in enumerate(WORDS)}
        words = [[vectors.get(word, np.zeros(6)) for word in text.lower().split()] for text in texts]
        return np.array([np.sum([np.zeros(6), *found], axis=0) for found in words], np.float32)


def some_rows(seed: int, queries: int = 15, documents: int = 60, known: int = 3):
    """Queries of three words of an answer, one to three answers each; the pool holds all, some twice but for case."""
    drawn = np.random.default_rng(seed)
    pool = list(dict.fromkeys(" ".join(drawn.choice(WORDS, drawn.integers(5, 10))) for _ in range(documents)))
    rows = []
    for _ in range(queries):
        places = drawn.permutation(len(pool))[: drawn.integers(1, known + 1)]
        query = " ".join(drawn.choice(pool[places[0]].split(), 3))
        rows.extend((query, pool[place], None) for place in places)
    return rows, [*pool, *(text.upper() for text in pool[::3]), *(f" {text}  " for text in pool[::4])]


def same(text: str) -> str:
    return " ".join(text.split()).casefold()


def answers(rows) -> dict[str, set[str]]:
    """What is known of each query, queries and documents taken as the same but for case and blanks."""
    known: dict[str, set[str]] = {}
    for query, positive, _ in rows:
        known.setdefault(same(query), set()).add(same(positive))
    return known


def bm25_loop(documents: list[str]):
    """Scores of BM25 as Lucene computes it, from its formula, a document and a word at a time."""
    stem = Stemmer.Stemmer("english").stemWord
    stop = set(bm25s.stopwords.STOPWORDS_EN)
    tokens = [[stem(word) for word in text.lower().split() if word not in stop] for text in documents]
    mean = sum(map(len, tokens)) / len(tokens)
    frequency = Counter(word for found in tokens for word in set(found))

    def score(query: str, document: int) -> float:
        total = 0.0
        for word in (stem(word) for word in query.lower().split() if word not in stop):
            count, length = tokens[document].count(word), len(tokens[document])
            idf = math.log(1 + (len(tokens) - frequency[word] + 0.5) / (frequency[word] + 0.5))
            total += idf * count / (count + K1 * (1 - B + B * length / mean))
        return total

    return score


@functools.cache
def cosine_loop(query: str, document: str) -> float:
    left, right = HashedWords().encode_document([query, document]).astype(np.float64)
    norm = math.sqrt(sum(left**2)) * math.sqrt(sum(right**2))
    return float(sum(a * b for a, b in zip(left, right, strict=True)) / norm) if norm else 0.0


def mine(rows, pool=None, known=(), **chosen):
    return mine_negatives(rows, "made", pool, known, settings=MiningSettings(**chosen), encoder=HashedWords())


@pytest.mark.parametrize("method", MARGINS)
@pytest.mark.parametrize("choice", ["drawn", "hardest"])
@pytest.mark.parametrize("seed", range(5))
def test_no_answer_and_no_repetition_of_one_is_mined(method, choice, seed):
    rows, pool = some_rows(seed)
    rows.append((rows[0][0].upper(), pool[-1], None))
    pool += [row[0].title() for row in rows]
    mined = mine(rows, pool, method=method, choice=choice, per_query=6, margin=OFF)
    known = answers(rows)
    negatives = [(query, negative) for query, _, negative in mined.rows if negative]
    assert len(negatives) > len(rows)
    assert all(same(negative) not in known[same(query)] | {same(query)} for query, negative in negatives)
    assert {negative for _, negative in negatives} <= set(pool)
    per_pair = Counter((query, positive, same(negative)) for query, positive, negative in mined.rows if negative)
    assert set(per_pair.values()) == {1}


def scores_of(rows, pool, method):
    """The pool without repeated texts, and the score of each text for a query, by the loops above."""
    texts = PairDataset.from_rows(rows, "made", pool).documents
    bm25, place = bm25_loop(texts), {text: i for i, text in enumerate(texts)}
    candidates = list({same(text): text for text in reversed(pool)}.values())
    return candidates, cosine_loop if method == "dense" else lambda query, text: bm25(query, place[text])


@pytest.mark.parametrize("margin", [0.0, 0.05, 0.3, -0.2])
@pytest.mark.parametrize(("first", "last"), [(0, 1000), (2, 12)])
@pytest.mark.parametrize("method", ["bm25", "dense"])
def test_all_candidates_at_the_ranks_and_below_the_margin_may_be_taken(method, first, last, margin):
    """Scores are computed again; 1e-5 is far above the rounding of float32 (6e-8 relative) for scores of about 10."""
    rows, pool = some_rows(7)
    mined = mine(rows, pool, method=method, margin=margin, per_query=1000, first=first, last=last, choice="hardest")
    known, (candidates, score) = answers(rows), scores_of(rows, pool, method)
    assert sum(row[2] is not None for row in mined.rows) > 20
    for query, positive in {row[:2] for row in rows}:
        found = {negative for q, p, negative in mined.rows if (q, p) == (query, positive) and negative}
        most = score(query, positive) - margin * abs(score(query, positive))
        scores = {text: score(query, text) for text in candidates if same(text) not in known[same(query)]}
        shown = {text: each for text, each in scores.items() if method == "dense" or each > 0}
        for text, each in shown.items():
            ranks = [sum(other > each + slack for other in shown.values()) for slack in (1e-5, -1e-5)]
            surely = first <= ranks[0] and ranks[1] <= last and each < most - 1e-5
            possibly = first < ranks[1] and ranks[0] < last and each < most + 1e-5
            assert surely <= (text in found) <= possibly
        assert found <= shown.keys()


@pytest.mark.parametrize("method", MARGINS)
def test_draws_follow_from_seed_and_pair_alone(method):
    rows, pool = some_rows(2)
    chosen = {"method": method, "per_query": 2, "margin": OFF}
    mined = mine(rows, pool, **chosen)
    np.random.seed(5)
    assert mine(rows, pool, **chosen) == mined
    assert mine(rows, pool, **chosen, seed=1).rows != mined.rows
    backwards = mine(rows[::-1], pool, **chosen)
    assert method == "random" or sorted(backwards.rows, key=repr) == sorted(mined.rows, key=repr)


def test_draws_are_as_likely_for_every_candidate():
    """4,000 draws of one of 10: a count has standard deviation √(4000·.1·.9) = 19, so 95 is five of them."""
    pool = [f"wing {word}" for word in WORDS[:10]]
    rows = [(f"wing number{i}", "wing plate lift wave", None) for i in range(4000)]
    for method in ("bm25", "random"):
        mined = mine(rows, pool, method=method, margin=OFF)
        counts = Counter(negative for _, _, negative in mined.rows)
        assert len(counts) == 10
        assert all(abs(count - 400) < 95 for count in counts.values())


def test_the_hardest_come_first():
    rows = [("shock wave", "shock wave shock wave", None)]
    pool = ["shock wave drag", "shock drag lift", "wing", "wave shock"]
    mined = mine(rows, pool, choice="hardest", per_query=2, margin=OFF)
    assert [negative for _, _, negative in mined.rows] == ["wave shock", "shock wave drag"]
    passed_over = mine(rows, pool, choice="hardest", per_query=5, first=1, margin=OFF)
    assert [negative for _, _, negative in passed_over.rows] == ["shock wave drag", "shock drag lift"]


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.sampled_from(list(MARGINS)), st.integers(1, 12), st.integers(0, 8), st.integers(1, 40))
def test_counts_add_up(seed, method, per_query, first, more):
    rows, pool = some_rows(seed, queries=6, documents=20)
    mined = mine(rows, pool, method=method, per_query=per_query, first=first, last=first + more)
    report = mined.report
    pairs = dict.fromkeys(row[:2] for row in rows)
    negatives = Counter((query, positive) for query, positive, negative in mined.rows if negative)
    assert report.pairs == len(pairs)
    assert report.queries == len({query for query, _ in pairs})
    assert report.asked == per_query * len(pairs)
    assert report.mined == sum(negatives.values()) <= report.candidates - report.margin
    assert report.pairs_with_fewer == sum(negatives[pair] < per_query for pair in pairs)
    assert report.pairs_with_none == sum(not negatives[pair] for pair in pairs)
    assert report.queries_with_fewer == len({pair[0] for pair in pairs if negatives[pair] < per_query})
    assert report.pool == len({same(text) for text in pool})
    assert report.pool + report.repeated == len(pool)
    assert list(dict.fromkeys(row[:2] for row in mined.rows)) == list(pairs)
    assert report.margin == 0 or method != "random"
    if method != "random":
        free = mine(rows, pool, method=method, per_query=1000, first=first, last=first + more, margin=OFF).report
        assert (free.margin, free.candidates) == (0, report.candidates)
        assert free.mined == free.candidates


def test_guards_are_counted_by_their_reason_and_given_negatives_stay_and_are_not_mined_again():
    rows = [("wing", "Wing lift", None), ("wing", "wing drag", "wing wave")]
    pool = ["Wing lift", "wing  DRAG", "wing wave", "wing jet", "WING jet"]
    report = mine(rows, pool, margin=OFF, per_query=3).report
    assert (report.known_positives, report.duplicates, report.given) == (1, 1, 1)
    assert (report.pool, report.repeated, report.mined) == (4, 1, 2)
    rows = [("wing", "wing lift", "wing wave"), ("wing", "wing lift", "wing drag"), ("jet", "jet lift", None)]
    mined = mine(rows, ["wing wave", "wing drag", "wing jet", "jet wave"], margin=OFF, per_query=5)
    assert mined.rows[:3] == [*rows[:2], ("wing", "wing lift", "wing jet")]
    assert {negative for query, _, negative in mined.rows if query == "jet"} == {"wing jet", "jet wave"}


@pytest.mark.parametrize("method", MARGINS)
def test_further_known_answers_are_not_mined_and_the_pool_is_the_positives_where_none_is_given(method):
    pair, known = ("wing", "wing lift", None), [("wing", "WING wave"), ("other", "wing drag")]
    mined = mine([pair], ["wing wave", "wing drag"], known, method=method, per_query=2, margin=OFF)
    assert [negative for _, _, negative in mined.rows] == ["wing drag"]
    rows, _ = some_rows(6)
    negatives = {negative for _, _, negative in mine(rows, method=method, per_query=4).rows} - {None}
    assert negatives
    assert negatives <= {positive for _, positive, _ in rows}


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"method": "bm26"}, "method must be one of random, bm25, dense, got 'bm26'"),
        ({"choice": "best"}, "choice must be one of drawn, hardest, got 'best'"),
        ({"per_query": 0}, "per_query must be at least 1, got 0"),
        ({"first": 5, "last": 5}, "first < last, got 5 and 5"),
        ({"first": -1}, "first < last, got -1 and 100"),
        ({"margin": 1.0}, "margin must be below 1, got 1.0"),
        ({"margin": math.nan}, "margin must be below 1, got nan"),
    ],
)
def test_impossible_settings_are_refused(chosen, message):
    with pytest.raises(ValueError, match=message):
        MiningSettings(**chosen)


def test_an_empty_pool_and_a_missing_encoder_are_refused():
    with pytest.raises(InputError, match="made: the pool of negatives holds no text"):
        mine([("q", "p", None)], ["", " "])
    with pytest.raises(ValueError, match="needs an encoder"):
        mine_negatives([("q", "p", None)], "made", settings=MiningSettings(method="dense"))
