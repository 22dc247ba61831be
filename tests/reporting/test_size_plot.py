"""The plot of NDCG@10 against bytes per vector: what it reads, and what it draws where."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest
from matplotlib.image import imread

from ragcun.errors import InputError
from ragcun.reporting.plots import GREY
from ragcun.reporting.size_plot import STYLES, plot_sizes, read_points, size_figure

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "plot_sizes.py"
BASE = {"scifact": 0.64, "nfcorpus": 0.31}


def system(name, values, precision="float32", cut=None, dim=384):
    size = {"float32": 4, "int8": 1, "binary": 0.125}[precision] * (cut or dim)
    datasets = {dataset: {"NDCG@10": value} for dataset, value in values.items()}
    record = {"precision": precision, "truncate_dim": cut, "bytes_per_vector": int(size)}
    return {"model": name, **record, "datasets": datasets}


@pytest.fixture
def write(tmp_path):
    """Write a results file of a model, the untouched base, and baselines; return its path."""

    def to_file(name, model, base=system("minilm", BASE), baselines=()):  # noqa: B008
        others = {"bm25": {"model": "bm25", "datasets": {"scifact": {"NDCG@10": 0.67}}}}
        others |= {f"b{i}": baseline for i, baseline in enumerate(baselines)}
        (tmp_path / name).write_text(json.dumps({**model, "untouched_base": base, "baselines": others}))
        return tmp_path / name

    return to_file


@pytest.fixture
def several(write):
    small = system("minilm", {"scifact": 0.62, "nfcorpus": 0.29}, "binary")
    return [
        write("full.json", system("head", {"scifact": 0.70, "nfcorpus": 0.33})),
        write("cut.json", system("head", {"scifact": 0.60, "nfcorpus": 0.30}, cut=128)),
        write("binary.json", system("head", {"scifact": 0.66, "nfcorpus": 0.32}, "binary"), baselines=[small]),
    ]


def figure_of(paths):
    return size_figure([point for path in paths for point in read_points(path)])


def lines(axes, label):
    return [(list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines if line.get_label() == label]


def test_all_systems_with_vectors_are_read(several):
    points = read_points(several[2])
    found = {(p.model, p.dataset, p.precision, p.size, p.value, p.untouched) for p in points}
    assert found == {
        ("minilm", "scifact", "float32", 1536, 0.64, True), ("minilm", "nfcorpus", "float32", 1536, 0.31, True),
        ("minilm", "scifact", "binary", 48, 0.62, False), ("minilm", "nfcorpus", "binary", 48, 0.29, False),
        ("head", "scifact", "binary", 48, 0.66, False), ("head", "nfcorpus", "binary", 48, 0.32, False),
    }  # fmt: skip


def test_a_panel_for_each_dataset_on_a_log_axis_with_its_sizes_as_ticks(several):
    figure = figure_of(several)
    assert [axes.get_title() for axes in figure.axes] == ["scifact", "nfcorpus"]
    for axes in figure.axes:
        assert axes.get_xscale() == "log"
        assert "bytes" in axes.get_xlabel()
        assert axes.get_ylabel() == "NDCG@10"
        assert list(axes.get_xticks()) == [48, 512, 1536]
        assert [axes.xaxis.get_major_formatter()(tick) for tick in axes.get_xticks()] == ["48", "512", "1536"]


def test_a_models_line_joins_the_best_for_so_many_bytes(several):
    """128 dimensions (512 bytes, 0.60) are worse than signs (48 bytes, 0.66): a point, and not on the line."""
    scifact = figure_of(several).axes[0]
    assert lines(scifact, "head") == [([48, 1536], [0.66, 0.70])]
    assert any(list(line.get_xydata()[0]) == [512, 0.60] for line in scifact.lines if line.get_marker() == "o")
    assert lines(scifact, "minilm") == [([48, 1536], [0.62, 0.64])]


def test_the_untouched_base_is_a_star_on_a_line_of_its_own(several):
    scifact = figure_of(several).axes[0]
    assert lines(scifact, "minilm (untouched)") == [([1536], [0.64])]
    level = [line for line in scifact.lines if list(line.get_ydata()) == [0.64, 0.64]]
    assert [line.get_color() for line in level] == [GREY]
    assert [line.get_marker() for line in scifact.lines if line.get_label() == "minilm (untouched)"] == ["*"]


def test_the_legend_names_each_line_and_precision_once(several):
    (legend,) = figure_of(several).legends
    labels = [text.get_text() for text in legend.get_texts()]
    assert sorted(labels) == ["binary", "float32", "head", "int8", "minilm", "minilm (untouched)"]


def test_models_are_told_apart(write):
    many = [write(f"{i}.json", system(f"m{i}", {"scifact": 0.5 + i / 100}, "int8")) for i in range(len(STYLES))]
    scifact = figure_of(many).axes[0]
    styles = {(line.get_color(), line.get_linestyle()) for line in scifact.lines if line.get_label().startswith("m")}
    assert len(styles - {(GREY, ":")}) == len(STYLES)
    with pytest.raises(InputError, match=f"{len(STYLES) + 1} models to draw; give results of 1 to {len(STYLES)}"):
        figure_of([*many, write("more.json", system("one-more", {"scifact": 0.4}))])


def test_repeated_systems_are_drawn_once_and_contradictions_refused(write, tmp_path, several):
    again = write("again.json", system("minilm", BASE), base=None)
    plot_sizes([*several, again], tmp_path / "plot.png")
    other = write("other.json", system("head", {"scifact": 0.71}))
    with pytest.raises(InputError, match=r"full\.json and .*other\.json disagree on NDCG@10 of head on scifact"):
        plot_sizes([*several, other], tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


def test_files_that_do_not_fit_are_named(write, tmp_path):
    (tmp_path / "bad.json").write_text("[1]")
    with pytest.raises(InputError, match=r"bad\.json is not a results file"):
        read_points(tmp_path / "bad.json")
    old = system("head", BASE)
    del old["bytes_per_vector"]
    with pytest.raises(InputError, match=r"old\.json does not say how large the vectors of head are"):
        read_points(write("old.json", old))
    with pytest.raises(InputError, match=r"odd\.json: precision 'int4' of head"):
        read_points(write("odd.json", system("head", BASE) | {"precision": "int4"}))
    lacks = system("head", BASE) | {"datasets": {"scifact": {"MRR@10": 0.5}}}
    with pytest.raises(InputError, match=r"lacks\.json lacks NDCG@10 of head on scifact"):
        read_points(write("lacks.json", lacks))


def test_the_script_writes_a_png(several, tmp_path, monkeypatch, capsys):
    output = tmp_path / "plots" / "sizes.png"
    monkeypatch.setattr(sys, "argv", ["plot_sizes.py", *map(str, several), "--output", str(output)])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    assert imread(output).shape[1] > imread(output).shape[0] > 100
    assert str(output) in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["plot_sizes.py", str(tmp_path / "nowhere.json"), "--output", str(output)])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    assert stop.value.code == 2
    assert "nowhere.json" in capsys.readouterr().err
