"""Splits of pairs and of documents, and their files: nothing of one split is in another, and every count adds up."""

import functools
import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ragcun.data.beir import Document
from ragcun.data.pairs import SPLITS, PairDataset, read_pairs, split_pairs, without_leaks, write_pairs
from ragcun.data.prepare import FILES, generate_pairs, prepare_pairs, write_splits
from ragcun.data.synthetic_queries import PAIR_MAKERS
from ragcun.data.texts import jaccard, shingles
from ragcun.errors import InputError
from ragcun.retrieval.negatives import MiningSettings, mine_negatives
from tests.data.test_hard_negatives import same

SHARES = (0.6, 0.2, 0.2)
ROWS = st.lists(
    st.tuples(st.integers(0, 15), st.integers(0, 25), st.none() | st.integers(0, 25)).filter(
        lambda row: row[1] != row[2]
    ),
    min_size=1,
    max_size=40,
)


def texts_of(rows) -> list[tuple[str, str, str | None]]:
    """Texts for numbers; odd and even ones differ in case and blanks only."""

    def text(kind: str, number: int) -> str:
        return f"{kind} {number // 2}" if number % 2 else f" {kind.upper()}  {number // 2}"

    return [(text("q", q), text("d", p), None if n is None else text("d", n)) for q, p, n in rows]


@settings(deadline=None)  # the first example imports scipy
@given(ROWS, st.integers(0, 100))
def test_splits_share_no_query_and_no_document(numbers, seed):
    data = PairDataset.from_rows(texts_of(numbers), "made")
    splits = split_pairs(data, SHARES, seed)
    assert list(splits) == list(SPLITS)
    assert sorted(itertools.chain.from_iterable(rows.tolist() for rows in splits.values())) == list(range(len(data)))
    kept, leaks = without_leaks(data, splits)
    rows = {name: list(kept.rows(places)) for name, places in splits.items()}
    for left, right in itertools.permutations(SPLITS, 2):
        assert {same(q) for q, _, _ in rows[left]}.isdisjoint(same(q) for q, _, _ in rows[right])
        assert {same(text) for _, *texts in rows[left] for text in texts if text}.isdisjoint(
            same(positive) for _, positive, _ in rows[right]
        )
    before, after = int((data.negative_ids >= 0).sum()), int((kept.negative_ids >= 0).sum())
    assert before - after == leaks
    for name, places in splits.items():
        mine = {same(positive) for _, positive, _ in rows[name]}
        others = {same(positive) for other in rows if other != name for _, positive, _ in rows[other]}
        for (query, positive, negative), new in zip(data.rows(places), rows[name], strict=True):
            assert new == (query, positive, None if negative and same(negative) in others - mine else negative)


def test_shares_are_met_where_pairs_are_unconnected():
    data = PairDataset.from_rows([(f"q{i}", f"d{i}", None) for i in range(1000)], "made")
    splits = split_pairs(data, (0.8, 0.1, 0.1), 0)
    assert [len(rows) for rows in splits.values()] == [800, 100, 100]
    assert split_pairs(data, (0.8, 0.1, 0.1), 0)["dev"].tolist() == splits["dev"].tolist()
    assert split_pairs(data, (0.8, 0.1, 0.1), 1)["dev"].tolist() != splits["dev"].tolist()
    everything = split_pairs(data, (1, 0, 0), 0)
    assert [len(rows) for rows in everything.values()] == [1000, 0, 0]


@pytest.mark.parametrize("shares", [(0.8, 0.2), (0.8, 0.1, 0.2), (1.2, -0.1, -0.1)])
def test_impossible_shares_are_refused(shares):
    data = PairDataset.from_rows([("q", "d", None)], "made")
    for split in (lambda: split_pairs(data, shares, 0), lambda: generate_pairs([], PAIR_MAKERS["half"], 0, shares)):
        with pytest.raises(InputError, match="sum to 1"):
            split()


def documents(count: int = 60, copies: int = 20, seed: int = 0) -> list[Document]:
    """Documents of four sentences, the first `copies` of them again with one word of 60 changed, some as they are."""
    drawn = np.random.default_rng(seed)

    def text() -> list[str]:
        return [
            f"W{drawn.integers(0, 9999)} " + " ".join(f"w{i}" for i in drawn.integers(0, 9999, 14)) for _ in range(4)
        ]

    made = [text() for _ in range(count)]
    near = [[*sentences[:3], sentences[3].rsplit(" ", 1)[0] + " other"] for sentences in made[:copies]]
    exact = made[copies : copies + 5]
    return [Document("", ". ".join(sentences) + ".") for sentences in (*made, *near, *exact)]


def generated(read, method: str, seed: int = 0, shares=SHARES, **chosen):
    """The rows of each split, and what became of the documents."""
    made, counts = generate_pairs(read, PAIR_MAKERS[method], seed, shares, **chosen)
    return {name: list(itertools.chain.from_iterable(each)) for name, each in made.items()}, counts


def similar(*both) -> bool:
    """Whether two lists of rows have positives that are near duplicates."""
    runs = ([shingles(positive) for _, positive, _ in rows] for rows in both)
    return any(jaccard(one, other) >= 0.9 for one, other in itertools.product(*runs))


@pytest.mark.parametrize("seed", range(3))
def test_no_near_duplicate_is_in_another_split(seed):
    rows, counts = generated(documents(), "mask_tokens", seed, near_duplicates=0.9)
    assert all(rows.values())
    assert not any(similar(*both) for both in itertools.combinations(rows.values(), 2))
    assert counts["near_duplicates"] == 20
    straddling, _ = generated(documents(), "mask_tokens", seed)
    assert similar(straddling["train"], straddling["test"])


def test_splits_follow_from_the_seed_and_not_from_the_order():
    read, chosen = documents(), {"num_pairs": 30, "near_duplicates": 0.9}
    made, again, other = (
        generated(order, "sentence", seed, **chosen)[0]
        for order, seed in ((read, 3), ([*read[::-1], read[3]], 3), (read, 1))
    )
    assert again == made != other


@pytest.mark.parametrize("method", PAIR_MAKERS)
@pytest.mark.parametrize("num_pairs", [None, 30, 200])
def test_no_text_is_in_two_splits(method, num_pairs):
    read = [Document(f"Title {i}", document.text) for i, document in enumerate(documents(60, 0))]
    shared = [Document("Title 0", f"{a.text} {b.text}") for a, b in itertools.pairwise(read[:10])]
    shared += [Document("Title", document.text.upper()) for document in read[:20]] + read[:10]
    made, _ = generated([*read, *shared], method, num_pairs=num_pairs)
    texts = [{same(text) for row in rows for text in row[:2]} for rows in made.values()]
    assert all(texts)
    assert all(not one & other for one, other in itertools.combinations(texts, 2))


@pytest.mark.parametrize(("num_pairs", "sizes"), [(None, [84, 10, 11]), (50, [40, 5, 5]), (1, [1, 0, 0])])
def test_splits_of_documents_have_their_shares(num_pairs, sizes):
    made, _ = generated(documents(105, 0), "half", 0, (0.8, 0.1, 0.1), num_pairs=num_pairs)
    assert [len(made[name]) for name in SPLITS] == sizes


def test_several_pairs_of_a_document_are_in_one_split_and_first_ones_come_first(caplog):
    read = documents(10, 0)[:10]
    made, _ = generated(read, "mask_tokens", 0, (0.5, 0.3, 0.2), num_pairs=25)
    counts = [Counter(positive for _, positive, _ in made[name]) for name in SPLITS]
    assert [len(count) for count in counts] == [5, 3, 2]
    assert sorted(sum(counts, Counter()).values()) == [2] * 5 + [3] * 5
    assert not caplog.records
    generated(read, "half", num_pairs=20)
    assert "20 pairs were asked for, the documents give 10" in caplog.text


@pytest.mark.parametrize("num_pairs", [None, 10, 200])
@pytest.mark.parametrize("method", ["first_sentence", "sentence", "half"])
def test_every_document_is_counted_once(method, num_pairs):
    read = [*documents(), Document("", "too short"), Document("", "")]
    _, counts = generated(read, method, num_pairs=num_pairs, near_duplicates=0.9)
    assert counts["read"] == len(read) == 87
    assert counts["read"] == sum(count for name, count in counts.items() if name != "read")
    assert counts["repeated"] == 5
    assert counts["unused"] == 0 or num_pairs == 10


def miners(**chosen):
    return {chosen["method"]: functools.partial(mine_negatives, settings=MiningSettings(**chosen))}


def test_pairs_of_a_file_are_split_and_mined(tmp_path):
    rows = [(f"wing number {i}", f"lift of the wing number {i}", None) for i in range(50)]
    write_pairs(tmp_path / "p.jsonl", rows)
    splits, _ = prepare_pairs(tmp_path / "p.jsonl", SHARES, 0, None, miners(method="random"))
    report = write_splits(splits, {}, {}, tmp_path / "out")
    sets = {name: list(read_pairs(tmp_path / "out" / file).rows()) for name, file in FILES.items()}
    assert [len(split) for split in sets.values()] == [30, 10, 10]
    assert sorted(row[:2] for split in sets.values() for row in split) == sorted(row[:2] for row in rows)
    for split in sets.values():
        positives = {positive for _, positive, _ in split}
        assert all(negative in positives and negative != positive for _, positive, negative in split)
    assert report[0].startswith(f"{tmp_path / 'out' / 'train.json'}: 30 pairs; 30 of 30 negatives")


def test_a_negative_of_another_split_is_left_out_and_counted(tmp_path):
    rows = [(f"q{i}", f"d{i}", f"d{(i + 1) % 40}") for i in range(40)]
    write_pairs(tmp_path / "p.jsonl", rows)
    splits, leaks = prepare_pairs(tmp_path / "p.jsonl", (0.5, 0.25, 0.25), 0, None, {})
    assert 0 < leaks == 40 - sum(row[2] is not None for split in splits.values() for row in split.rows)
    for split in splits.values():
        assert {negative for *_, negative in split.rows if negative} <= {positive for _, positive, _ in split.rows}
