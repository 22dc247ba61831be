"""What preparing writes: pairs by split with negatives of their own split, and counts that add up."""

from __future__ import annotations

import functools
import itertools
import json

import numpy as np
import pytest

from ragcun.data.beir import Document
from ragcun.data.pairs import SPLITS, read_pairs, write_pairs
from ragcun.data.prepare import FILES, STATISTICS, prepare_generated, prepare_pairs, write_splits
from ragcun.data.synthetic_queries import PAIR_MAKERS
from ragcun.retrieval.negatives import MiningSettings, mine_negatives

SHARES = (0.6, 0.2, 0.2)


def documents() -> list[Document]:
    """Documents of four sentences of 15 random words."""
    drawn = np.random.default_rng(0)
    sentences = (" ".join(f"w{i}" for i in drawn.integers(0, 9999, 15)).capitalize() for _ in range(240))
    return [Document("", ". ".join(itertools.islice(sentences, 4)) + ".") for _ in range(60)]


def miner(**chosen):
    return functools.partial(mine_negatives, settings=MiningSettings(**chosen))


@pytest.mark.parametrize("method", ["random", "bm25"])
@pytest.mark.parametrize("maker", ["sentence", "half", "mask_spans"])
def test_negatives_are_of_the_same_split_and_of_another_document(tmp_path, method, maker):
    path = tmp_path / "d.jsonl"
    path.write_text("".join(json.dumps({"text": document.text}) + "\n" for document in documents()))

    def source_of(text: str) -> int:
        return max(range(len(words)), key=lambda place: len(words[place].intersection(text.split())))

    margin = None if method == "random" else -float("inf")
    add = miner(method=method, per_query=2, margin=margin)
    splits, counts = prepare_generated(path, PAIR_MAKERS[maker], SHARES, 0, 150, 0.9, add)
    write_splits(splits, {"documents": counts}, tmp_path / "out", tmp_path / "all.json", {"seed": 0})
    words = [set(document.text.split()) for document in documents()]
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
    splits, _ = prepare_pairs(tmp_path / "p.jsonl", SHARES, 0, miner=miner(method="random"))
    report = write_splits(splits, {}, tmp_path / "out")
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
    splits, leaks = prepare_pairs(tmp_path / "p.jsonl", (0.5, 0.25, 0.25), 0)
    assert 0 < leaks == 40 - sum(row[2] is not None for split in splits.values() for row in split.rows)
    for split in splits.values():
        assert {negative for *_, negative in split.rows if negative} <= {positive for _, positive, _ in split.rows}
