"""What fuzzing found, kept so that it stays fixed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ragcun.config import TrainConfig
from ragcun.data.beir import load_collection, read_qrels
from ragcun.data.beir_sets import CollectionFolder
from ragcun.embeddings.precomputed import open_matrix
from ragcun.errors import InputError
from ragcun.options import from_mapping, read_yaml
from ragcun.reporting.plots import loss_figure


def settings(path: Path) -> TrainConfig:
    return from_mapping(TrainConfig, read_yaml(path), str(path))


STEP = '{"kind": "step", "step": 1, "total": 0.5, "terms": '
CASES: dict[str, tuple[Callable[[Path], object], bytes, str]] = {
    "an indented header": (open_matrix, b"\x93NUMPY\x01\x00\x0d\x00\n      {\n{} \n", "is not a .npy file of vectors"),
    "a header with NUL": (open_matrix, b"\x93NUMPY\x01\x00\x06\x00\x00\x00\x00\x00\x00{", "is not a .npy file"),
    "a header that never ends": (open_matrix, b"\x93NUMPY\x01\x00\x06\x00\x00\x00\x00'''", "is not a .npy file"),
    "a term that is a list": (loss_figure, f'{STEP}{{"a": []}}}}\n'.encode(), "terms.a is [] where a finite number"),
    "terms that are a list": (loss_figure, f"{STEP}[1]}}\n".encode(), "terms is [1] where an object is expected"),
    "a step of 400 digits": (loss_figure, b'{"kind": "step", "step": ' + b"9" * 400 + b"}\n", "a count is expected"),
    "a setting that is missing": (settings, b"epochs: 3\n", "--train_data is missing"),
    "lists too deep": (settings, b"[" * 5000, "YAML"),
    "mappings too deep": (settings, b"{a: " * 5000, "YAML"),
    "a date that is impossible": (settings, b"a: 2021-99-99", "YAML"),
    "a number that is none": (settings, b"a: 0b", "a.txt"),
    "judgments with an empty id": (read_qrels, b"q\t \t1\n", "line 1: an id is empty"),
}


@pytest.mark.parametrize("name", CASES)
def test_what_was_found_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    read, content, message = CASES[name]
    path = tmp_path / ("a.part.json" if "note" in name else "a.npy" if "header" in name else "a.txt")
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "reads"), [("", False), (" ", False), ("a b", True), ("a\n", True), ("a\u00a0b", True)]
)
def test_ids_that_no_run_file_can_hold_are_refused_before_anything_is_encoded(
    key: str, reads: bool, tmp_path: Path
) -> None:
    """Training has no use for ids; an evaluation writes them between blanks."""
    (tmp_path / "qrels").mkdir()
    (tmp_path / "corpus.jsonl").write_text("\n".join(json.dumps({"_id": k, "text": "x"}) for k in (key, "d")))
    (tmp_path / "queries.jsonl").write_text(json.dumps({"_id": "q", "text": "x"}))
    (tmp_path / "qrels" / "test.tsv").write_text("q\td\t1\n")
    if reads:
        assert len(load_collection(tmp_path).documents) == 2
    with pytest.raises(InputError, match="white space" if reads else "the _id is empty"):
        CollectionFolder("toy", tmp_path, "test").load()
