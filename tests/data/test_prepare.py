"""Splits of pairs, and what preparing writes: nothing of one split is in another, and every count adds up."""

from __future__ import annotations

import functools
import itertools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragcun.data.beir import Document
from ragcun.data.dedup import jaccard, shingles
from ragcun.data.negatives import MARGINS, MiningSettings
from ragcun.data.pairs import PairDataset, read_pairs, write_pairs
from ragcun.data.prepare import FILES, STATISTICS, Outputs, prepare_generated, prepare_pairs
from ragcun.data.splits import SPLITS, generate_pairs, split_pairs, without_leaks
from ragcun.data.synthetic_queries import PAIR_MAKERS
from ragcun.errors import InputError
from ragcun.retrieval.negatives import mine_negatives

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


def same(text: str) -> str:
    return " ".join(text.split()).casefold()


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
        for old, new in zip(data.rows(places), rows[name], strict=True):
            assert new[:2] == old[:2]
            assert new[2] == (None if old[2] and same(old[2]) in others - mine else old[2])


def test_shares_are_met_where_pairs_are_unconnected():
    data = PairDataset.from_rows([(f"q{i}", f"d{i}", None) for i in range(1000)], "made")
    splits = split_pairs(data, (0.8, 0.1, 0.1), 0)
    assert [len(rows) for rows in splits.values()] == [800, 100, 100]
    assert split_pairs(data, (0.8, 0.1, 0.1), 0)["dev"].tolist() == splits["dev"].tolist()
    assert split_pairs(data, (0.8, 0.1, 0.1), 1)["dev"].tolist() != splits["dev"].tolist()
    everything = split_pairs(data, (1, 0, 0), 0)
    assert [len(rows) for rows in everything.values()] == [1000, 0, 0]


def test_impossible_shares_of_pairs_are_refused():
    data = PairDataset.from_rows([("q", "d", None)], "made")
    with pytest.raises(InputError, match="sum to 1"):
        split_pairs(data, (0.5, 0.1, 0.1), 0)


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


@pytest.mark.parametrize("seed", range(3))
def test_no_near_duplicate_is_in_another_split(seed):
    made = generate_pairs(documents(), PAIR_MAKERS["mask_tokens"], seed, SHARES, None, near_duplicates=0.9)
    contents = {name: [shingles(positive) for _, positive, _ in made.rows(name)] for name in SPLITS}
    assert all(contents.values())
    for left, right in itertools.combinations(SPLITS, 2):
        assert all(jaccard(a, b) < 0.9 for a, b in itertools.product(contents[left], contents[right]))
    assert made.documents["near_duplicates"] == 20
    straddling = generate_pairs(documents(), PAIR_MAKERS["mask_tokens"], seed, SHARES, None)
    contents = {name: [shingles(positive) for _, positive, _ in straddling.rows(name)] for name in SPLITS}
    assert any(jaccard(a, b) >= 0.9 for a, b in itertools.product(contents["train"], contents["test"]))


def test_near_duplicates_do_not_depend_on_the_order():
    arguments = (PAIR_MAKERS["half"], 3, SHARES, 30, 0.9)
    assert generate_pairs(documents(), *arguments) == generate_pairs(documents()[::-1], *arguments)


@pytest.mark.parametrize("num_pairs", [None, 10, 200])
@pytest.mark.parametrize("method", ["first_sentence", "sentence", "half"])
def test_every_document_is_counted_once(method, num_pairs):
    read = [*documents(), Document("", "too short"), Document("", "")]
    counts = generate_pairs(read, PAIR_MAKERS[method], 0, SHARES, num_pairs, 0.9).documents
    assert counts["read"] == len(read) == 87
    assert counts["read"] == sum(count for name, count in counts.items() if name != "read")
    assert counts["repeated"] == 5
    assert counts["unused"] == 0 or num_pairs == 10


def miner(**chosen):
    return functools.partial(mine_negatives, settings=MiningSettings(**chosen))


@pytest.mark.parametrize("method", ["random", "bm25"])
@pytest.mark.parametrize("maker", ["sentence", "half", "mask_spans"])
def test_negatives_are_of_the_same_split_and_of_another_document(tmp_path, method, maker):
    path = tmp_path / "d.jsonl"
    path.write_text("".join(json.dumps({"text": document.text}) + "\n" for document in documents(copies=0)))

    def source_of(text: str) -> int:
        return max(range(len(words)), key=lambda place: len(words[place].intersection(text.split())))

    outputs = Outputs(tmp_path / "out", tmp_path / "all.json", {"seed": 0})
    margin = None if method == "random" else -float("inf")
    add = miner(method=method, per_query=2, margin=margin)
    prepare_generated(path, PAIR_MAKERS[maker], SHARES, 0, 150, outputs, 0.9, add)
    words = [set(document.text.split()) for document in documents(copies=0)]
    rows = {name: list(read_pairs(tmp_path / "out" / file).rows()) for name, file in FILES.items()}
    statistics = json.loads((tmp_path / "out" / STATISTICS).read_text())
    for name in SPLITS:
        own = {positive for _, positive, _ in rows[name]}
        negatives = [negative for _, _, negative in rows[name] if negative]
        assert set(negatives) <= own
        counted = statistics["splits"][name]
        assert counted["rows"] == len(rows[name])
        assert counted["pairs"] == len({row[:2] for row in rows[name]})
        assert counted["negatives"]["mined"] == len(negatives) > 0
    for _, positive, negative in itertools.chain.from_iterable(rows.values()):
        if negative:
            assert source_of(positive) != source_of(negative)
    assert statistics["documents"]["used"] == sum(split["documents"] for split in statistics["splits"].values())
    assert list(read_pairs(tmp_path / "all.json").rows()) == [row for name in SPLITS for row in rows[name]]
    assert statistics["settings"] == {"seed": 0}


def test_pairs_of_a_file_are_split_and_mined(tmp_path):
    rows = [(f"wing number {i}", f"lift of the wing number {i}", None) for i in range(50)]
    write_pairs(tmp_path / "p.jsonl", rows)
    outputs = Outputs(tmp_path / "out")
    report = prepare_pairs(tmp_path / "p.jsonl", SHARES, 0, outputs, miner=miner(method="random"))
    sets = {name: list(read_pairs(tmp_path / "out" / file).rows()) for name, file in FILES.items()}
    assert [len(split) for split in sets.values()] == [30, 10, 10]
    assert sorted(row[:2] for split in sets.values() for row in split) == sorted(row[:2] for row in rows)
    for split in sets.values():
        positives = {positive for _, positive, _ in split}
        assert all(negative in positives and negative != positive for _, positive, negative in split)
    assert report[0] == (
        f"{tmp_path / 'out' / 'train.json'}: 30 pairs; 30 of 30 negatives, 0 pairs have fewer "
        f"(left out: known positives {sum_known(tmp_path)}, duplicates 0, margin 0)"
    )


def sum_known(folder) -> int:
    return json.loads((folder / "out" / STATISTICS).read_text())["splits"]["train"]["negatives"]["known_positives"]


def test_a_negative_of_another_split_is_left_out_and_counted(tmp_path):
    rows = [(f"q{i}", f"d{i}", f"d{(i + 1) % 40}") for i in range(40)]
    write_pairs(tmp_path / "p.jsonl", rows)
    prepare_pairs(tmp_path / "p.jsonl", (0.5, 0.25, 0.25), 0, Outputs(tmp_path / "out"))
    sets = [list(read_pairs(tmp_path / "out" / file).rows()) for file in FILES.values()]
    kept = [row for split in sets for row in split if row[2]]
    statistics = json.loads((tmp_path / "out" / STATISTICS).read_text())
    assert 0 < statistics["negatives_of_other_splits"] == 40 - len(kept)
    for split in sets:
        assert {negative for _, _, negative in split if negative} <= {positive for _, positive, _ in split}


def test_wrong_extensions_are_refused_before_anything_is_made(tmp_path):
    with pytest.raises(InputError, match=r"name the file \.jsonl or \.json"):
        Outputs(tmp_path, tmp_path / "p.csv")


def test_the_methods_of_the_flags_are_those_with_a_margin():
    from typing import get_args

    from ragcun.data.negatives import Method

    assert set(get_args(Method)) == set(MARGINS)
