import json

import pytest
import yaml


@pytest.fixture
def sweep(write_sweep, tmp_path):
    """Flags of a sweep of two configurations, with other settings of its base."""
    parameters = {"lambda_isotropy": {"values": [0.0, 10.0]}}
    place = ("--output_dir", tmp_path / "out")
    return lambda **base: ("sweep", "--config", write_sweep(base, parameters=parameters), *place)


def test_a_sweep_leaves_its_report_and_settings_that_train(run_script, sweep, tmp_path):
    shown = run_script(*sweep())
    out = tmp_path / "out"
    files = {"study.log", "report.md", "report.json", "best_config.yaml"}
    assert {path.name for path in out.iterdir()} - {".sweep.lock"} == files
    assert (out / "report.md").read_text() in shown
    best = json.loads((out / "report.json").read_text())["best"]
    assert best["settings"] == yaml.safe_load((out / "best_config.yaml").read_text())
    run_script("train", "--config", out / "best_config.yaml")
    manifest = json.loads((out / "best" / "manifest.json").read_text())
    assert manifest["result"]["score"] == best["scores"][0]
    assert manifest["result"]["base_score"] == best["base_score"]


def test_resume_adds_trials_and_overwrite_begins_again(run_script, fails_clearly, sweep, tmp_path):
    def trials():
        return len(json.loads((tmp_path / "out" / "report.json").read_text())["rows"])

    run_script(*sweep(), "--trials", 1, "--keep_runs")
    assert trials() == 1
    assert (tmp_path / "out" / "runs" / "trial-0000" / "seed-1" / "best_model").is_dir()
    assert "--resume, or --overwrite" in fails_clearly(*sweep())
    run_script(*sweep(), "--resume")
    assert trials() == 2
    assert (tmp_path / "out" / "runs" / "trial-0000").is_dir()
    run_script(*sweep(), "--trials", 1, "--overwrite")
    assert trials() == 1
    assert not (tmp_path / "out" / "runs").exists()


@pytest.mark.parametrize("name", ["train_data", "dev_beir", "base_model"])
def test_mistakes_are_found_before_anything_runs(fails_clearly, sweep, tmp_path, name):
    assert "nowhere.jsonl" in fails_clearly(*sweep(**{name: "./nowhere.jsonl"}))
    assert not (tmp_path / "out").exists()


def test_a_sweep_whose_trials_all_fail_says_why(fails_clearly, sweep, tmp_path):
    message = fails_clearly(*sweep(projection_learning_rate=1e30, max_grad_norm=0))
    assert "all 2 trials failed" in message
    assert "lower --learning_rate" in message
    assert not (tmp_path / "out" / "best_config.yaml").exists()
