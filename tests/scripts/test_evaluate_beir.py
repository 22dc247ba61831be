import hashlib
import json
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ragcun import IsotropicGaussianEncoder, RetrievalEncoder, load_collection
from ragcun.data.beir_sets import SETS
from ragcun.isotropy.measures import isotropy_score
from ragcun.retrieval.hybrid import TRAINED_WEIGHT, WEIGHT
from ragcun.retrieval.metrics import evaluate_run, mean
from ragcun.retrieval.runs import read_run
from tests.models.helpers import moved


def test_a_checkpoint_is_shown_beside_its_untouched_base(evaluate, checkpoint, collection_folder, tmp_path):
    """And the run files reproduce the figures."""
    results, shown = evaluate("--model_path", checkpoint, "--baseline", "bm25")
    assert {"model", "datasets", "average", "distance", "untouched_base", "baselines", "manifest"} <= set(results)
    base = results["untouched_base"]["datasets"]["toy"]
    assert {"NDCG@10", "MRR@10", "Recall@100", "MAP@100", "P@10", "p_randomisation", "p_t"} <= set(base)
    assert base["n_queries"] == 20
    assert "untouched" in shown
    assert "bm25" in shown
    assert (tmp_path / "r.md").read_text().strip() in shown
    assert shlex.join(["ragcun", "report", str(checkpoint.parent), "--results", str(tmp_path / "r.json")]) in shown
    again, printed = evaluate("--model_path", checkpoint, "--baseline", "bm25", "--resume", "--json")
    assert json.loads(printed) == again
    folder = tmp_path / "r.runs" / "toy"
    collection = load_collection(collection_folder)
    for slug, figures in (("model", results["datasets"]["toy"]), ("untouched_base", base)):
        per_query = evaluate_run(read_run(folder / f"{slug}.trec"), collection.qrels)
        assert json.loads((folder / f"{slug}.per_query.json").read_text()) == per_query
        assert mean(per_query).items() <= figures.items()


def test_wrong_input_is_one_sentence_and_writes_nothing(fails_clearly, checkpoint, collection_folder, tmp_path):
    flags = ("--datasets", "toy", "--data_dir", collection_folder.parent, "--output_file", tmp_path / "r.json")
    (tmp_path / "bad.json").write_text("[1]")
    nowhere = tmp_path / "nowhere"
    for wrong, fact in (
        (("--model_path", nowhere), "nowhere"),
        (("--data_dir", nowhere), "nowhere"),
        (("--baseline", tmp_path / "bad.json"), "bad.json"),
        (("--feedback", 2), "--feedback needs --hybrid"),
        (("--hybrid", tmp_path / "none.trec"), "none.trec"),
    ):
        assert fact in fails_clearly("evaluate_beir", "--model_path", checkpoint, *flags, *wrong)
    assert "--device xpu:9" in fails_clearly("evaluate_beir", "--model", "bm25", "--device", "xpu:9", *flags)
    assert not (tmp_path / "r.json").exists()
    assert not (tmp_path / "r.runs").exists()


def test_a_set_is_downloaded_once_and_measured_by_the_split_of_beir(evaluate, collection_folder, tmp_path, monkeypatch):
    shutil.copytree(collection_folder, tmp_path / "made" / "msmarco")
    packed = Path(shutil.make_archive(str(tmp_path / "mirror" / "msmarco"), "zip", tmp_path / "made", "msmarco"))
    digest = hashlib.md5(packed.read_bytes()).hexdigest()
    monkeypatch.setitem(SETS, "msmarco", replace(SETS["msmarco"], md5=digest, queries=20))
    place = ("--model", "bm25", "--datasets", "msmarco", "--data_dir", tmp_path / "data")
    found, _ = evaluate(*place, "--mirror", f"file://{tmp_path}/mirror")
    shutil.rmtree(tmp_path / "mirror")
    again, _ = evaluate(*place)
    assert found["datasets"] == again["datasets"]
    assert found["manifest"]["collections"]["msmarco"]["split"] == "dev"


def test_other_weights_or_vectors_are_another_evaluation(
    evaluate, fails_clearly, save_checkpoint, collection_folder, tmp_path
):
    """Under the same name; a card with more in it is not."""
    checkpoint = save_checkpoint(tmp_path / "checkpoint", 1)
    flags = ("--model_path", checkpoint, "--resume")
    again = ("evaluate_beir", *flags, "--data_dir", collection_folder.parent, "--output_file", tmp_path / "r.json")
    evaluate(*flags)
    with (checkpoint / "README.md").open("a") as card:
        card.write("scores\n")
    evaluate(*flags)
    assert "truncate_dim" in fails_clearly(*again, "--truncate_dim", 8)
    shutil.rmtree(checkpoint)
    save_checkpoint(checkpoint, 2)
    assert "system model is" in fails_clearly(*again)


def test_queries_are_embedded_by_the_predictor_or_without(
    evaluate, fails_clearly, base, tiny_bert, collection_folder, tmp_path
):
    command = ("evaluate_beir", "--data_dir", collection_folder.parent, "--output_file", tmp_path / "r.json")
    IsotropicGaussianEncoder(base).save_pretrained(tmp_path / "without")
    for flag in ("--use_predictor", "--no_use_predictor"):
        message = fails_clearly(*command, "--model_path", tmp_path / "without", flag)
        assert f"{tmp_path / 'without'} has no predictor" in message
        assert "is not a checkpoint" in fails_clearly(*command, "--model", tiny_bert, flag)
    assert not (tmp_path / "r.json").exists()
    moved(IsotropicGaussianEncoder(base, use_predictor=True, predictor="linear")).save_pretrained(tmp_path / "with")
    model = ("--model_path", tmp_path / "with")
    more = ((), ("--no_use_predictor", "--resume"), ("--use_predictor",))
    trained, plain, predicted = (evaluate(*model, *flags)[0]["datasets"] for flags in more)
    assert trained == plain != predicted
    assert "system model is" in fails_clearly(*command, *model, "--resume")


def test_results_say_how_documents_lie_and_what_was_trained(
    run_script, evaluate, tiny_bert, collection_folder, tmp_path
):
    place = ("--train_data", collection_folder, "--output_dir", tmp_path / "run", "--epochs", 1, "--batch_size", 8)
    shape = ("--system", "isotropic_gaussian", "--output_dim", 8, "--no_normalize_output")
    run_script("train", "--device", "cpu", "--base_model", tiny_bert, *place, *shape)
    results, _ = evaluate("--model_path", tmp_path / "run", "--baseline", "bm25")
    encoder = RetrievalEncoder.from_pretrained(tmp_path / "run", "cpu")
    vectors = encoder.encode_document([each.content for each in load_collection(collection_folder).documents.values()])
    norms, space = np.linalg.norm(vectors, axis=1), results["datasets"]["toy"]["space"]
    expected = {"isotropy_score": isotropy_score(vectors), "mean_norm": norms.mean(), "norm_deviation": norms.std()}
    assert space == pytest.approx(expected, abs=1e-5)
    assert results["untouched_base"]["datasets"]["toy"]["space"]["mean_norm"] == pytest.approx(1)
    assert "space" not in results["baselines"]["bm25"]["datasets"]["toy"]
    assert results["trained_parameters"] == sum(weight.numel() for weight in encoder.head.parameters())
    assert "trained_parameters" not in results["untouched_base"]
    alone, _ = evaluate("--model", tiny_bert, "--baseline", tmp_path / "r.json", output="s.json")
    assert alone["untouched_base"] is None
    stored = next(iter(alone["baselines"].values()))["datasets"]["toy"]
    assert stored["space"] == space
    assert stored["p_randomisation"] == results["untouched_base"]["datasets"]["toy"]["p_randomisation"]


def test_model_and_base_are_fused_with_bm25_and_with_a_run_of_another_program(evaluate, checkpoint, tmp_path):
    """Fused rows have run files, tests and a record of the weight; a fixed weight of 0 leaves the ranking as it was."""
    evaluate("--model", "bm25")
    shutil.move(tmp_path / "r.runs" / "toy" / "model.trec", tmp_path / "lucene.trec")
    flags = ("--model_path", checkpoint, "--baseline", "bm25", "--feedback", 0)
    results, shown = evaluate(*flags, "--hybrid", "bm25")
    others, _ = evaluate(*flags, "--hybrid", tmp_path / "lucene.trec", "--fusion", "rrf", output="o.json")
    rows = {slug: each for slug, each in results["baselines"].items() if slug != "bm25"}
    assert len(rows) == len(others["baselines"]) - 1 == 2
    for slug, row in rows.items():
        assert row["model"].endswith(" + bm25")
        assert "p_randomisation" in row["datasets"]["toy"]
        share = TRAINED_WEIGHT if "best_model" in row["model"] else WEIGHT
        assert results["manifest"]["chosen"][slug]["toy"]["weight"]["chosen"] == share
        assert (tmp_path / "r.runs" / "toy" / f"{slug}.per_query.json").exists()
        assert f"toy, {row['model']}: weight {share}: " in shown
    zero, _ = evaluate(*flags, "--hybrid", "bm25", "--hybrid_weight", 0, output="z.json")
    ndcg = [system["datasets"]["toy"]["NDCG@10"] for system in (zero["untouched_base"], zero)]
    assert [each["datasets"]["toy"]["NDCG@10"] for each in zero["baselines"].values()][1:] == pytest.approx(ndcg)
    again, _ = evaluate(*flags, "--hybrid", "bm25", "--resume")
    assert again["manifest"]["chosen"] == results["manifest"]["chosen"]
