"""scripts/evaluate_beir.py with small vectors, run as a user does."""

from __future__ import annotations

import json

import pytest

from ragcun import IsotropicGaussianEncoder, TextBase


@pytest.fixture(scope="module")
def checkpoint(tiny_bert, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint") / "best_model"
    IsotropicGaussianEncoder(TextBase.load(tiny_bert, device="cpu"), head="mlp").save_pretrained(folder)
    return folder


@pytest.fixture
def evaluate(run_script, collection_folder, tmp_path):
    """Evaluate on the toy collection; return the results and what was printed."""

    def run(*flags, out="r"):
        place = ("--datasets", "toy", "--data_dir", collection_folder.parent, "--output_file", tmp_path / f"{out}.json")
        done = run_script("evaluate_beir", "--device", "cpu", *flags, *place)
        assert done.code == 0, done.err
        return json.loads((tmp_path / f"{out}.json").read_text()), done.out

    return run


def size(system):
    return tuple(system.get(name) for name in ("precision", "truncate_dim", "bytes_per_vector"))


def rows(printed):
    lines = [line.strip("| \n").split(" | ") for line in printed.splitlines() if line.startswith("|")]
    return {line[0].strip(): line[1].strip() for line in lines}


def test_every_dense_system_records_the_size_of_its_vectors(evaluate, checkpoint, tiny_bert):
    flags = ("--model_path", checkpoint, "--precision", "binary", "--truncate_dim", 9, "--baseline", "bm25", tiny_bert)
    results, printed = evaluate(*flags)
    assert size(results) == ("binary", 9, 2)
    assert size(results["untouched_base"]) == ("float32", None, 64)
    made_small, bm25, baseline = results["baselines"].values()
    assert [size(made_small), size(baseline)] == [("binary", 9, 2), ("float32", None, 64)]
    assert made_small["model"] == baseline["model"] == tiny_bert
    assert not {"precision", "truncate_dim", "bytes_per_vector"} & bm25.keys()
    shown = rows(printed)
    assert shown["system"] == "bytes per vector"
    assert shown[f"{checkpoint}, 9 dimensions, binary"] == shown[f"{tiny_bert}, 9 dimensions, binary"] == "2"
    assert shown[f"{tiny_bert} (untouched)"] == "64"
    assert shown["bm25"] == "–"


def test_a_model_is_shown_beside_itself_untouched(evaluate, tiny_bert, caplog):
    alone, printed = evaluate("--model", tiny_bert)
    assert alone["untouched_base"] is None
    assert size(alone) == ("float32", None, 64)
    assert "bytes per vector" not in printed
    small, printed = evaluate("--model", tiny_bert, "--precision", "int8")
    assert small["untouched_base"]["datasets"]["toy"]["NDCG@10"] == alone["datasets"]["toy"]["NDCG@10"]
    assert small["baselines"] == {}
    assert "p_randomisation" in small["untouched_base"]["datasets"]["toy"]
    assert rows(printed)[f"{tiny_bert}, int8"] == "16"
    assert "unknown" not in caplog.text


def test_an_earlier_small_result_says_so_as_a_baseline(evaluate, checkpoint, tiny_bert, tmp_path):
    evaluate("--model_path", checkpoint, "--precision", "int8", out="earlier")
    results, printed = evaluate("--model", tiny_bert, "--baseline", tmp_path / "earlier.json")
    (stored,) = results["baselines"].values()
    assert size(stored) == ("int8", None, 16)
    assert rows(printed)[f"{checkpoint}, int8"] == "16"


def test_wrong_sizes_are_one_sentence_and_write_nothing(
    fails_clearly, checkpoint, tiny_bert, collection_folder, tmp_path
):
    place = ("--datasets", "toy", "--data_dir", collection_folder.parent, "--output_file", tmp_path / "r.json")
    message = fails_clearly("evaluate_beir", "--model_path", checkpoint, *place, "--truncate_dim", 17)
    assert "--truncate_dim 17" in message
    assert "16 dimensions" in message
    assert "--precision" in fails_clearly("evaluate_beir", "--model", tiny_bert, *place, "--precision", "int4")
    assert not (tmp_path / "r.json").exists()
    assert not (tmp_path / "r.runs").exists()
