"""Results files: what is written is read again, and what is wrong is refused by file and key."""

import json
from typing import Any

import pytest

from ragcun.errors import InputError
from ragcun.results import Results
from tests.reporting.conftest import about, changed, everything, results


@pytest.fixture
def read(tmp_path):
    """Write content to a file and read it as results."""

    def from_content(content: Any) -> Results:
        (tmp_path / "r.json").write_text(json.dumps(content))
        return Results.read(tmp_path / "r.json")

    return from_content


def test_results_hold_what_the_file_says(read):
    found = read(everything())
    assert [title for title, _ in found.systems] == ["minilm (untouched)", "bm25", "bm25-2",
                                                     "run/best_model, 128 dimensions, int8"]  # fmt: skip
    assert found.datasets == ["scifact", "cqadupstack"]
    assert found.parts_of("cqadupstack") == ["cqadupstack/android"]
    assert found.parts_of("scifact") == ["scifact"]
    assert found.manifest["data_dir"] == "data"
    assert found.collections["scifact"].queries == 300
    base = found.untouched_base.datasets["scifact"]
    assert (base.metrics, base.n_queries, base.p_randomisation) == ({"NDCG@10": 0.645}, 300, 0.2)
    assert base.part("unseen").p_randomisation == 0.01
    assert base.part("seen") is None
    assert base.part("held_out").n_documents == 9


def test_what_is_read_is_written_again(read, tmp_path):
    bare = results("minilm", {"scifact": 0.6}, base=None, future={"anything": [1]})
    for written in (everything(), bare):
        found = read(written)
        found.write(tmp_path / "again.json")
        assert json.loads((tmp_path / "again.json").read_text()) == written
        assert Results.read(tmp_path / "again.json") == found
    assert found.untouched_base is None
    assert found.systems == [("minilm", found.model)]


@pytest.mark.parametrize(
    ("place", "value", "named"),
    [
        ("average", ..., "average: Field required"),
        ("average", {}, "average of run/best_model, 128 dimensions, int8 lacks 'NDCG@10'"),
        ("model", 3, "model: .* got 3"),
        ("datasets", {}, "datasets is empty"),
        ("datasets/scifact/NDCG@10", None, "datasets.scifact.NDCG@10: .* got None"),
        ("datasets/scifact/NDCG@10", float("nan"), "datasets.scifact.NDCG@10: .* got nan"),
        ("datasets/scifact/NDCG@10", 10**400, "datasets.scifact.NDCG@10: .* got 1000"),
        ("datasets/scifact/NDCG@10", ..., "datasets.scifact: .* lacks 'NDCG@10'"),
        ("datasets/scifact/seen/n_queries", -1, "datasets.scifact.seen.n_queries: .* got -1"),
        ("truncate_dim", 1.5, "truncate_dim: .* got 1.5"),
        ("untouched_base/datasets/scifact", ..., "untouched_base.datasets lacks 'scifact'"),
        ("untouched_base/datasets/scifact/p_randomisation", ..., "untouched_base.datasets.scifact lacks 'p_randomi"),
        ("untouched_base/datasets/scifact/unseen/p_randomisation", ..., "scifact.unseen lacks 'p_randomisation'"),
        ("untouched_base/datasets/scifact/p_t", 2, "datasets.scifact.p_t: .* got 2"),
        ("baselines/bm25/datasets/scifact", 3, "baselines.bm25.datasets.scifact: .* got 3"),
        ("manifest/collections", ..., "manifest.collections lacks 'scifact'"),
        ("manifest/collections/scifact/part_of", "x", "manifest.collections.scifact.part_of is 'x'"),
    ],
)
def test_what_is_wrong_is_named_with_its_key(read, place, value, named):
    with pytest.raises(InputError, match=rf"r\.json: .*{named}"):
        read(changed(everything(), place.split("/"), value))


@pytest.mark.parametrize("name", ["/etc", "a/../../b", "a\\b", "a\0b", ""])
def test_a_dataset_stays_within_its_folder_and_other_files_are_no_results(read, name):
    for content in ([1], {"model": "m", "datasets": {}}):
        with pytest.raises(InputError, match=r"r\.json is not a results file"):
            read(content)
    with pytest.raises(InputError, match="not the name of a dataset"):
        read(results("m", {name: 0.5}, collections={name: about("scifact")}))
