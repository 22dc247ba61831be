from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from ragcun.errors import InputError
from ragcun.reporting.plots import BLUE, GREY, VERMILLION, plot_loss_curves


def write_metrics(path, dev=True, base=True, validation=True, steps=200, terms=("contrastive", "sigreg", "covariance")):
    rng = np.random.default_rng(0)
    rows = [{"kind": "base", "dev": {"NDCG@10": 0.645}}] if base else []
    for step in range(1, steps + 1):
        parts = {name: 2 * np.exp(-step / 60) + 0.1 * rng.random() + i for i, name in enumerate(terms)}
        rows.append({"kind": "step", "step": step, "total": sum(parts.values()), "terms": parts, "learning_rate": {}})
        if step % 50 == 0:
            rows.append({
                "kind": "epoch", "epoch": step // 50, "step": step, "val_total": 3.5 if validation else None,
                "dev": {"NDCG@10": 0.645 + step / 1e4} if dev else None,
            })  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def pixels(image, colour):
    return int((np.abs(image[..., :3] - to_rgb(colour)).max(-1) < 0.02).sum())


def test_draws_what_the_run_has(tmp_path):
    plot_loss_curves(write_metrics(tmp_path / "metrics.jsonl"), tmp_path / "plots" / "loss.png")
    image = imread(tmp_path / "plots" / "loss.png")
    assert pixels(image, BLUE) > 1000
    assert pixels(image, VERMILLION) > 50
    assert pixels(image, GREY) > 50
    assert [path.name for path in (tmp_path / "plots").iterdir()] == ["loss.png"]


def test_base_and_validation_are_drawn_only_where_there_are_values(tmp_path):
    plot_loss_curves(write_metrics(tmp_path / "m", base=False, validation=False), tmp_path / "loss.png")
    image = imread(tmp_path / "loss.png")
    assert pixels(image, VERMILLION) == 0


@pytest.mark.parametrize(
    ("terms", "dev", "columns", "rows"), [((), False, 1, 1), (("a", "b"), False, 3, 1), (("a", "b"), True, 3, 2)]
)
def test_one_panel_per_term_and_one_for_dev(tmp_path, terms, dev, columns, rows):
    plot_loss_curves(write_metrics(tmp_path / "m", terms=terms, dev=dev), tmp_path / "loss.png")
    height, width = imread(tmp_path / "loss.png").shape[:2]
    assert (width, height) == (420 * columns, 300 * rows)


def test_one_step_shows(tmp_path):
    plot_loss_curves(write_metrics(tmp_path / "m", steps=1, terms=()), tmp_path / "loss.png")
    assert pixels(imread(tmp_path / "loss.png"), BLUE) > 0


def test_the_process_keeps_its_pyplot_to_itself():
    import subprocess

    code = "import sys, ragcun.reporting.plots; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("text", ["", "\n", '{"kind": "base", "dev": {"NDCG@10": 0.6}}\n'])
def test_a_run_without_steps_is_refused(tmp_path, text):
    (tmp_path / "m").write_text(text)
    with pytest.raises(InputError, match="no row of kind 'step'"):
        plot_loss_curves(tmp_path / "m", tmp_path / "loss.png")
    assert not (tmp_path / "loss.png").exists()


@pytest.mark.parametrize("row", ['{"kind": "step", "step": 1}', '{"kind": "step", "total": 1.0}', '{"kind": "epoch"}'])
def test_a_row_without_its_numbers_is_named(tmp_path, row):
    (tmp_path / "m").write_text('{"kind": "step", "step": 1, "total": 1.0}\n' + row + "\n")
    with pytest.raises(InputError, match=r"line 2: '(step|total)' is None"):
        plot_loss_curves(tmp_path / "m", tmp_path / "loss.png")
