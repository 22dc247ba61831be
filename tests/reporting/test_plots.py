from __future__ import annotations

import json

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from ragcun.errors import InputError
from ragcun.reporting.plots import BLUE, GREY, VERMILLION, loss_figure, plot_loss_curves, rank_figure, write_png


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


@pytest.mark.parametrize("text", ["", "\n", '{"kind": "base", "dev": {"NDCG@10": 0.6}}\n'])
def test_a_run_without_steps_is_refused(tmp_path, text):
    (tmp_path / "m").write_text(text)
    with pytest.raises(InputError, match="no row of kind 'step'"):
        plot_loss_curves(tmp_path / "m", tmp_path / "loss.png")
    assert not (tmp_path / "loss.png").exists()


@pytest.mark.parametrize("row", ['{"kind": "step", "step": 1}', '{"kind": "step", "total": 1.0}', '{"kind": "epoch"}'])
def test_a_row_without_its_numbers_is_named(tmp_path, row):
    (tmp_path / "m").write_text('{"kind": "step", "step": 1, "total": 1.0}\n' + row + "\n")
    with pytest.raises(InputError, match=r"line 2: (step|total) is None"):
        plot_loss_curves(tmp_path / "m", tmp_path / "loss.png")


def test_the_loss_figure_holds_the_runs_numbers(tmp_path):
    path = write_metrics(tmp_path / "m", steps=100, terms=("sigreg",))
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    steps = [row for row in rows if row["kind"] == "step"]
    figure = loss_figure(path)
    assert [axes.get_title() for axes in figure.axes] == ["total loss", "sigreg (unweighted)", "dev NDCG@10"]
    total, term = (figure.axes[i].lines[0] for i in (0, 1))
    assert list(total.get_xdata()) == list(term.get_xdata()) == list(range(1, 101))
    assert list(total.get_ydata()) == [row["total"] for row in steps]
    assert list(term.get_ydata()) == [row["terms"]["sigreg"] for row in steps]
    assert [list(line.get_ydata()) for line in figure.axes[2].lines] == [[0.65, 0.655], [0.645, 0.645]]


def probe(step, **figures):
    values = {"rank_query": 90.5 - step, "rank_document": 100.25 - step / 2, "rank_bound": 127.0}
    return {"kind": "probe", "epoch": 0, "step": step, "figures": values | figures, "model": {}}


def collapse(step, kind):
    return {"kind": "collapse", "epoch": 1, "step": step, "collapse": kind, "message": "", "figures": {}}


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in [{"kind": "step", "step": 1, "total": 1.0}, *rows]))
    return path


def test_ranks_of_both_sides_are_drawn_over_the_steps(tmp_path):
    figure = rank_figure(write_rows(tmp_path / "m", [probe(0), probe(10), probe(20)]))
    (axes,) = figure.axes
    drawn = {line.get_label(): line for line in axes.lines}
    assert list(drawn["queries"].get_ydata()) == [90.5, 80.5, 70.5]
    assert list(drawn["documents"].get_ydata()) == [100.25, 95.25, 90.25]
    assert list(drawn["queries"].get_xdata()) == list(drawn["documents"].get_xdata()) == [0, 10, 20]
    assert list(drawn["highest rank the batch can show"].get_ydata()) == [127.0, 127.0]
    assert {line.get_linestyle() for line in drawn.values()} == {"-", "--", ":"}
    assert drawn["queries"].get_marker() != drawn["documents"].get_marker()
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("step", "effective rank (dimensions)")
    assert axes.get_ylim()[0] == 0
    assert sorted(text.get_text() for text in figure.legends[0].get_texts()) == sorted(drawn)
    write_png(figure, tmp_path / "rank.png")
    image = imread(tmp_path / "rank.png")
    assert min(pixels(image, BLUE), pixels(image, VERMILLION)) > 100


def test_collapses_are_marked_where_they_were_found(tmp_path):
    rows = [probe(0), probe(10), collapse(10, "dimensional"), probe(20), collapse(20, "drift")]
    (axes,) = rank_figure(write_rows(tmp_path / "m", rows)).axes
    marked = {line.get_label(): line for line in axes.lines if "collapse" in line.get_label()}
    assert {label: list(line.get_xdata()) for label, line in marked.items()} == {
        "dimensional collapse, step 10": [10, 10],
        "drift collapse, step 20": [20, 20],
    }
    assert len({line.get_marker() for line in marked.values()}) == 2
    assert all(list(line.get_ydata()) == [0, 1] for line in marked.values())
    assert all(line.get_transform() == axes.get_xaxis_transform() for line in marked.values())


def test_a_run_that_was_not_probed_has_no_rank_figure(tmp_path):
    assert rank_figure(write_metrics(tmp_path / "m")) is None


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (probe(1) | {"step": None}, "line 2: step is None"),
        (probe(1, rank_query=None), "line 2: figures.rank_query is None"),
        (probe(1, rank_document="9"), "line 2: figures.rank_document is '9'"),
        (probe(1) | {"figures": None}, "line 2: figures is None"),
        (collapse(1, None), "line 2: collapse is None"),
        (collapse("x", "drift"), "line 2: step is 'x'"),
    ],
)
def test_a_row_of_the_probe_without_its_numbers_is_named(tmp_path, row, message):
    with pytest.raises(InputError, match=message):
        rank_figure(write_rows(tmp_path / "m", [row]))
