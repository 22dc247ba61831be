"""scripts/report.py, run as a user does, on a run that train.py and evaluate_beir.py made."""

from __future__ import annotations

import json


def test_a_real_run_makes_a_page(run_script, evaluate, fails_clearly, tiny_bert, collection_folder, tmp_path):
    run = tmp_path / "run"
    base = ("--base_model", tiny_bert, "--train_data", collection_folder, "--device", "cpu", "--epochs", 2)
    run_script("train", *base, "--batch_size", 8, "--log_interval", 1, "--output_dir", run)
    results, _ = evaluate("--model_path", run / "best_model", "--baseline", "bm25", output=run / "results.json")
    shown = run_script("report", run)
    assert shown.strip() == f"report: {run / 'report.html'}"
    page = (run / "report.html").read_text(encoding="utf-8")
    for system in (results, results["untouched_base"], results["baselines"]["bm25"]):
        assert f"{system['datasets']['toy']['NDCG@10']:.4f}" in page
    manifest = json.loads((run / "manifest.json").read_text())
    for digest in manifest["data_sha256"].values():
        assert digest in page
    assert "No collapse was seen in" in page or "collapse at step" in page
    assert "Against the untouched base, by NDCG@10" in page
    assert page.count("data:image/png;base64,") == 2
    assert "Texts and judgments are not shown" not in page
    assert len(page) < 3_000_000
    assert "config.yaml" in fails_clearly("report", tmp_path / "nowhere", "--output", tmp_path / "page.html")
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "st')
    assert "metrics.jsonl, line" in fails_clearly("report", run, "--output", tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()
