"""MS MARCO from files with the hub's layout: what is kept of rows, the split by query, and going on after a failure."""

from __future__ import annotations

import json
import random
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ragcun.data import part_file
from ragcun.data.dedup import text_key
from ragcun.data.dev_queries import DevQueries
from ragcun.data.hub_data import BrokenStreamError, RowStream, open_rows
from ragcun.data.hub_split import resolve_split
from ragcun.data.msmarco import PairKeeper, gathered, write_split_pairs
from ragcun.data.pairs import read_pairs
from ragcun.data.part_file import PartFile, gather, restore
from ragcun.errors import InputError


def passages_row(query, passages):
    """Make a row of the hub's layout; passages that answer begin with an asterisk."""
    texts = [text.removeprefix("*") for text in passages]
    fields = {"is_selected": [int(text.startswith("*")) for text in passages], "passage_text": texts}
    return {"query": query, "query_id": 1, "passages": {**fields, "url": ["u"] * len(texts)}, "answers": ["a"]}


def write_folder(folder, rows, n_files=1, split="train"):
    """Write rows into parquet files, in small row groups."""
    folder.mkdir(parents=True, exist_ok=True)
    schema = pa.Table.from_pylist(rows).schema
    for place in range(n_files):
        part = rows[len(rows) * place // n_files : len(rows) * (place + 1) // n_files]
        path = folder / f"{split}-{place:05d}-of-{n_files:05d}.parquet"
        pq.write_table(pa.Table.from_pylist(part, schema), path, row_group_size=4)
    return folder


def some_rows(count, seed=0):
    """Draw rows with repeated queries and passages, empty ones, some without an answer, and a quarter seen before."""
    draw = random.Random(seed)
    texts = [f"passage {draw.randrange(60)} über Wärme" for _ in range(count)] + ["", "  "]
    rows = [
        passages_row(
            draw.choice([f"query {draw.randrange(count)}", f"Query  {draw.randrange(count)}"]),
            [draw.choice(["", "", "*"]) + draw.choice(texts) for _ in range(draw.randrange(1, 6))],
        )
        for _ in range(count)
    ]
    return [draw.choice(rows[:place]) if place % 4 == 3 else row for place, row in enumerate(rows)]


def keep(folder, part, dev, wanted=None, stream=None):
    """Keep what a folder's rows hold in a part file, or go on with that; return the keeper and what there is."""
    keeper = PairKeeper(dev, wanted)
    file = PartFile(part, {"seed": 0})
    restore(file, keeper)
    if not file.finished:
        stream = stream or open_rows(resolve_split(str(folder), None, "train", file.revision))
        keeper.expect(stream)
        gather(stream, file, keeper)
    return keeper, gathered(file.rows(), dev, wanted)


def nobody():
    return DevQueries(0, 0.0)


def test_selected_passages_are_positives_and_the_others_are_offered(tmp_path):
    rows = [
        passages_row("wie heiß?", ["cold", "*sehr heiß 🔥\u2028ja", "warm", "*hot"]),
        passages_row("no answer", ["a", "b"]),
        passages_row("  ", ["*a"]),
        passages_row("only blanks", ["* ", "b"]),
        passages_row("and", ["*one", "", "one", "ONE ", "two", "two"]),
    ]
    keeper, found = keep(write_folder(tmp_path / "d", rows), tmp_path / "rows.part", nobody())
    assert found.given(2) == [
        ("wie heiß?", "sehr heiß 🔥\u2028ja", "cold"),
        ("wie heiß?", "sehr heiß 🔥\u2028ja", "warm"),
        ("wie heiß?", "hot", "cold"),
        ("wie heiß?", "hot", "warm"),
        ("and", "one", "two"),
    ]
    expected = {"rows_read": 5, "rows_kept": 2, "pairs": 3, "rows_without_positive": 2, "rows_without_query": 1}
    assert keeper.counts == Counter({**expected, "empty_passages": 2})
    assert found.pool == ["sehr heiß 🔥\u2028ja", "hot", "cold", "warm", "one", "two"]


def test_passages_may_be_a_list_of_objects(tmp_path):
    rows = [passages_row("q", ["a", "*b", "c"]), passages_row("r", ["*d"])]
    turned = [
        {
            **row,
            "passages": [
                dict(zip(row["passages"], one, strict=True)) for one in zip(*row["passages"].values(), strict=True)
            ],
        }
        for row in rows
    ]
    _, fields = keep(write_folder(tmp_path / "fields", rows), tmp_path / "1.part", nobody())
    _, objects = keep(write_folder(tmp_path / "objects", turned), tmp_path / "2.part", nobody())
    assert fields == objects
    assert fields.given(1) == [("q", "b", "a"), ("r", "d", None)]


@pytest.mark.parametrize("query", ["query", "anchor"])
def test_triplets_have_one_or_several_negatives(tmp_path, query):
    rows = [
        {query: "q1", "positive": "p1", **{f"negative_{i}": f"n{i}" for i in range(1, 12)}},
        {query: "q1", "positive": "p2", **{f"negative_{i}": "p1" if i == 1 else None for i in range(1, 12)}},
    ]
    _, found = keep(write_folder(tmp_path / "d", rows), tmp_path / "rows.part", nobody())
    in_order = [("q1", "p1", f"n{i}") for i in range(1, 12)]
    assert found.given(20) == [*in_order, ("q1", "p2", None)]
    single = [{query: "q", "positive": "p", "negative": "n"}, {query: "Q ", "positive": "P", "negative": "m"}]
    keeper, found = keep(write_folder(tmp_path / "s", single), tmp_path / "s.part", nobody())
    assert found.given(1) == [("q", "p", "n")]
    assert keeper.counts["repeated_pairs"] == 1


def test_what_a_row_offers_is_never_a_known_answer_of_its_query(tmp_path):
    rows = some_rows(300)
    _, found = keep(write_folder(tmp_path / "d", rows), tmp_path / "rows.part", nobody())
    answers = {
        (text_key(row["query"]), text_key(text))
        for row in rows
        for text, chosen in zip(row["passages"]["passage_text"], row["passages"]["is_selected"], strict=True)
        if chosen and text.strip()
    }
    made = found.given(9)
    assert {(text_key(query), text_key(positive)) for query, positive, _ in made} == answers
    negatives = [(text_key(query), text_key(text)) for query, _, text in made if text]
    assert len(negatives) > 100
    assert not answers & set(negatives)


@pytest.mark.parametrize("held_out", [{"fraction": 0.3}, {"fraction": 0.0, "number": 25}])
def test_no_query_is_in_both_files_and_counts_are_those_of_a_recount(tmp_path, held_out):
    dev = DevQueries(3, **held_out)
    keeper, found = keep(write_folder(tmp_path / "d", some_rows(300)), tmp_path / "rows.part", dev)
    made = write_split_pairs(tmp_path, found.given(1), dev, {})
    train, dev_pairs = (read_pairs(tmp_path / f"{name}.jsonl") for name in ("train", "dev"))
    queries = [{text_key(query) for query in data.queries} for data in (train, dev_pairs)]
    assert not queries[0] & queries[1]
    assert keeper.have() == len(train) == made[tmp_path / "train.jsonl"]
    assert keeper.counts["pairs"] == len(train) + len(dev_pairs)
    statistics = json.loads((tmp_path / "statistics.json").read_text())
    assert [statistics[name]["pairs"] for name in ("train", "dev")] == [len(train), len(dev_pairs)]
    if "number" in held_out:
        assert len(queries[1]) == 25


def test_who_is_held_out_does_not_depend_on_the_order():
    queries = [f"query {i}" for i in range(2000)]
    drawn = []
    for order in (queries, queries[::-1], random.Random(0).sample(queries, 2000)):
        by_number, by_fraction = DevQueries(1, 0.0, 100), DevQueries(1, 0.1)
        for query in (*order, *order[:50]):
            by_number.add(query, 2)
            by_fraction.add(query, 1)
        assert by_number.train_pairs + 2 * sum(query in by_number for query in (*order, *order[:50])) == 4100
        drawn.append([[query for query in queries if query in dev] for dev in (by_number, by_fraction)])
    assert drawn[0] == drawn[1] == drawn[2]
    assert len(drawn[0][0]) == 100
    assert set(drawn[0][0]) < set(drawn[0][1])  # both are those with the smallest hashes, here 100 and about 200
    # 2,000 draws at 0.1: standard deviation 13.4; six of these are exceeded with a probability of 2e-9
    assert abs(len(drawn[0][1]) - 200) < 81
    assert DevQueries(1, 0.0, 0).train_pairs == 0
    assert [query for query in queries if query in DevQueries(2, 0.1)] != drawn[0][1]


@pytest.mark.parametrize("number", [None, 10])
@pytest.mark.parametrize("wanted", [60, 61, 62, 63])
def test_enough_pairs_stop_the_stream_early(tmp_path, number, wanted):
    rows = some_rows(400)
    folder = write_folder(tmp_path / "d", rows, n_files=3)
    dev = DevQueries(0, 0.1, number)
    keeper, found = keep(folder, tmp_path / "rows.part", dev, wanted)
    train = [pair for pair in found.pairs if pair[0] not in dev]
    assert len(train) == wanted
    assert keeper.counts["rows_read"] < 250
    everything = DevQueries(0, 0.1, number)
    _, whole = keep(write_folder(tmp_path / "cut", rows[: keeper.counts["rows_read"]]), tmp_path / "c.part", everything)
    assert train == [pair for pair in whole.pairs if pair[0] not in everything][:wanted]
    assert len(found.pairs) - wanted == sum(pair[0] in everything for pair in whole.pairs)


class Failing(RowStream):
    """A stream that fails after some rows."""

    def __init__(self, stream, rows, error):
        self.__dict__.update(stream.__dict__)
        self.left, self.error = rows, error

    def __iter__(self):
        rows = super().__iter__()
        while self.left:
            self.left -= 1
            yield next(rows)
        raise self.error


@pytest.mark.parametrize("error", [BrokenStreamError("lost"), KeyboardInterrupt()])
@pytest.mark.parametrize("layout", ["parquet", "jsonl"])
def test_going_on_after_any_failure_gives_the_same_bytes(tmp_path, monkeypatch, error, layout):
    monkeypatch.setattr(part_file, "SAVE_EVERY", 7)
    rows = some_rows(60)
    folder = write_folder(tmp_path / "d", rows, n_files=3)
    if layout == "jsonl":
        for place, path in enumerate(sorted(folder.iterdir())):
            lines = "".join(json.dumps(row) + "\n" for row in rows[20 * place : 20 * place + 20])
            path.unlink()
            (folder / f"train-{place}.jsonl").write_text(lines)
    whole, found = keep(folder, tmp_path / "whole.part", DevQueries(0, 0.2))
    for rows_before in (0, 1, 6, 7, 8, 19, 20, 21, 40, 59):
        part = tmp_path / f"{rows_before}.part"
        for more in (rows_before, 5):
            stream = Failing(open_rows(resolve_split(str(folder), None, "train")), more, error)
            with pytest.raises(type(error)):
                keep(folder, part, DevQueries(0, 0.2), stream=stream)
            if isinstance(error, KeyboardInterrupt):  # rows after the last note, half a line among them
                with part.open("ab") as file:
                    file.write(b'{"query": "torn')
            if rows_before + 5 >= 60:
                break
        again, found_again = keep(folder, part, DevQueries(0, 0.2))
        assert part.read_bytes() == (tmp_path / "whole.part").read_bytes()
        assert again.counts == whole.counts
        assert found_again == found


def test_rows_of_both_formats_are_the_same(tmp_path):
    rows = [{"query": f"q{i}", "positive": f"p{i}", "negative": f"n{i}"} for i in range(9)]
    _, parquet = keep(write_folder(tmp_path / "p", rows, 2), tmp_path / "p.part", nobody())
    (tmp_path / "j [1] *").mkdir()
    (tmp_path / "j [1] *" / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    _, lines = keep(tmp_path / "j [1] *", tmp_path / "j.part", nobody())
    assert parquet == lines


def test_a_split_is_found_by_the_names_of_its_files(tmp_path):
    for split in ("train", "validation"):
        write_folder(tmp_path / "d" / "v1.1", [passages_row(split, ["*a"])], split=split)
    write_folder(tmp_path / "d" / "data", [passages_row("data", ["*a"])])
    names = [(None, "train"), ("v1.1", "train"), ("v1.1", "validation")]
    sources = [resolve_split(str(tmp_path / "d"), subset, split) for subset, split in names]
    assert [next(iter(open_rows(source)))["query"] for source in sources] == ["data", "train", "validation"]
    with pytest.raises(InputError, match=r"no test\*.parquet .* there is train-.*validation-"):
        resolve_split(str(tmp_path / "d"), "v1.1", "test")


def test_wrong_columns_are_named_with_those_expected(tmp_path):
    folder = write_folder(tmp_path / "ids", [{"query_id": 1, "positive_id": 2, "negative_id": 3}])
    with pytest.raises(InputError, match="columns query_id, positive_id, negative_id; expected: query and passages"):
        keep(folder, tmp_path / "rows.part", nobody())
    folder = write_folder(tmp_path / "numbers", [{"query": 1, "positive": 2, "negative": 3}])
    with pytest.raises(InputError, match="query holds 1, not text"):
        keep(folder, tmp_path / "rows.part", nobody())
    folder = write_folder(tmp_path / "texts", [{"query": "q", "passages": {"passage_text": ["a"]}}])
    with pytest.raises(InputError, match="is_selected"):
        keep(folder, tmp_path / "rows.part", nobody())


def test_damaged_files_are_input_errors(tmp_path):
    folder = write_folder(tmp_path / "d", some_rows(40), n_files=2)
    second = sorted(folder.iterdir())[1]
    second.write_bytes(second.read_bytes()[:-40])
    with pytest.raises(InputError, match="cannot be read on"):
        keep(folder, tmp_path / "rows.part", nobody())
    sorted(folder.iterdir())[0].write_bytes(b"nothing")
    with pytest.raises(InputError, match="cannot open"):
        keep(folder, tmp_path / "other.part", nobody())
    with pytest.raises(InputError, match="other files than when the download began"):
        keep(folder, tmp_path / "rows.part", nobody())


def test_nothing_left_for_training_is_an_input_error(tmp_path):
    dev = DevQueries(0, 0.0, 5)
    _, found = keep(write_folder(tmp_path / "d", [passages_row("q", ["*a"])]), tmp_path / "rows.part", dev)
    with pytest.raises(InputError, match="no pair is left for training of 1"):
        write_split_pairs(tmp_path, found.given(1), dev, {})
    assert not (tmp_path / "train.jsonl").exists()
