"""The plot of NDCG@10 against isotropy: which systems are joined, what is drawn where, and what is refused."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from ragcun.errors import InputError
from ragcun.reporting.pays_plot import AXIS_NAMES, pays_figure, plot_isotropy_against_ndcg
from ragcun.reporting.pays_points import Measured, Point, read_points
from ragcun.reporting.plots import GREY

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "plot_isotropy_ndcg.py"
FLAT = {"mean": 1.0, "min": 1.0, "max": 1.0, "edges": [0.5, 1.5], "counts": [3]}


def measures_of(**values):
    return {name: {"value": value, "low": None, "high": None} for name, value in values.items()}


def space_of(measures):
    occurrence = {"k": 2, "n": 3, "counts": {"2": 3}}
    distances = {"random": FLAT, "nearest": FLAT}
    return {
        "n": 3, "dim": 2, "measures": measures, "spectrum": [1.0, 0.5], "norms": FLAT, "distances": distances,
        "k_occurrence": occurrence,
    }  # fmt: skip


def embedded(model, untouched=False, queries=None, pairs=None, **values):
    spaces = {"documents": space_of(measures_of(**values))}
    if queries is not None:
        spaces["queries"] = space_of(measures_of(**queries))
    system = {"model": model, "untouched": untouched, "distance": "euclidean", "spaces": spaces}
    if pairs is not None:
        pca = {"queries": [], "documents": [], "links": [], "explained": [0.5, 0.5]}
        distances = {"relevant": FLAT, "random": FLAT}
        system["pairs"] = {"measures": measures_of(**pairs), "distances": distances, "pca": pca}
    return system


def retrieved(model, **vectors):
    record = {"precision": "float32", "truncate_dim": None, **vectors.pop("record", {})}
    return {"model": model, **record, "datasets": {name: {"NDCG@10": value} for name, value in vectors.items()}}


@pytest.fixture
def write(tmp_path):
    """Write a results file or an isotropy report; return its path."""

    def to_file(name, content):
        (tmp_path / name).write_text(json.dumps(content))
        return tmp_path / name

    return to_file


@pytest.fixture
def results(write):
    def to_file(name, model, base=None, baselines=()):
        collections = {data: {"split": "test", "queries": 9, "documents": 30} for data in model["datasets"]}
        others = {f"b{i}": baseline for i, baseline in enumerate(baselines)}
        manifest = {"collections": collections}
        return write(name, {**model, "untouched_base": base, "baselines": others, "manifest": manifest})

    return to_file


@pytest.fixture
def isotropy(write):
    def to_file(name, data, *systems):
        described = {"name": data, "n_documents": 30, "n_queries": 9}
        return write(name, {"format": 1, "data": described, "systems": systems})

    return to_file


@pytest.fixture
def files(results, isotropy):
    """Two models and their base on two collections; reports of both."""
    base = retrieved("minilm", scifact=0.64, nfcorpus=0.31)
    bm25 = {"model": "bm25", "datasets": {"scifact": {"NDCG@10": 0.67}, "nfcorpus": {"NDCG@10": 0.32}}}
    small = retrieved("a", scifact=0.5, nfcorpus=0.2, record={"precision": "int8"})
    found = [
        results("a.json", retrieved("a", scifact=0.70, nfcorpus=0.33), base, [bm25, small]),
        results("b.json", retrieved("b", scifact=0.60, nfcorpus=0.34), base),
    ]
    scifact = [
        embedded("minilm", untouched=True, isoscore=0.2),
        embedded("a", isoscore=0.5),
        embedded("b", isoscore=0.1),
    ]
    nfcorpus = [embedded("a", isoscore=0.4), embedded("c", isoscore=0.9)]
    return found, [isotropy("s.json", "scifact", *scifact), isotropy("n.json", "nfcorpus", *nfcorpus)]


def test_systems_are_joined_by_model_and_dataset(files):
    found = {
        (p.measured.model, p.dataset, p.measured.value, p.ndcg, p.untouched)
        for p in read_points(*files, "isoscore", "documents")
    }
    assert found == {
        ("minilm", "scifact", 0.2, 0.64, True), ("a", "scifact", 0.5, 0.70, False), ("b", "scifact", 0.1, 0.60, False),
        ("a", "nfcorpus", 0.4, 0.33, False),
    }  # fmt: skip


def test_a_folder_is_the_same_model_however_it_is_written(results, isotropy, tmp_path, monkeypatch):
    (tmp_path / "best_model").mkdir()
    monkeypatch.chdir(tmp_path)
    report = isotropy("i.json", "scifact", embedded("best_model", isoscore=0.2))
    ours = results("r.json", retrieved(str(tmp_path / "best_model"), scifact=0.7))
    (point,) = read_points([ours], [report], "isoscore", "documents")
    assert (point.measured.model, point.ndcg) == ("best_model", 0.7)


def test_a_base_is_untouched_where_either_side_says_so(results, isotropy):
    base = retrieved("minilm", scifact=0.64)
    one = results("r.json", retrieved("a", scifact=0.7), base)
    reports = [isotropy("i.json", "scifact", embedded("minilm", isoscore=0.2))]
    assert [point.untouched for point in read_points([one], reports, "isoscore", "documents")] == [True]
    alone = results("alone.json", base)
    reports = [isotropy("i.json", "scifact", embedded("minilm", untouched=True, isoscore=0.2))]
    assert [point.untouched for point in read_points([alone], reports, "isoscore", "documents")] == [True]


def test_other_spaces_and_pairs_have_measures_of_their_own(results, isotropy):
    ours = [results("r.json", retrieved("a", scifact=0.7))]
    report = [isotropy("i.json", "scifact", embedded("a", isoscore=0.2, queries={"isoscore": 0.3}, pairs={"gap": 0.4}))]
    for measure, space, value in (("isoscore", "documents", 0.2), ("isoscore", "queries", 0.3), ("gap", "pairs", 0.4)):
        (point,) = read_points(ours, report, measure, space)
        assert point.measured.value == value


def point(model, value, ndcg, dataset="scifact", untouched=False, low=None, high=None):
    return Point(dataset, Measured(model, value, low, high, untouched), ndcg, untouched)


def drawn(axes):
    return {
        line.get_label(): (float(line.get_xdata()[0]), float(line.get_ydata()[0]), line.get_color(), line.get_marker())
        for line in axes.lines
        if not line.get_label().startswith("_")
    }


def test_each_system_is_a_point_of_its_own_look_in_every_panel(files):
    figure = pays_figure(read_points(*files, "isoscore", "documents"), "IsoScore, documents")
    scifact, nfcorpus = figure.axes
    first = drawn(scifact)
    assert {name: place[:2] for name, place in first.items()} == {
        "minilm (untouched)": (0.2, 0.64),
        "a": (0.5, 0.70),
        "b": (0.1, 0.60),
    }
    assert drawn(nfcorpus)["a"] == (0.4, 0.33, *first["a"][2:])
    assert len({place[2] for place in first.values()}) == len({place[3] for place in first.values()}) == 3
    assert first["minilm (untouched)"][2:] == (GREY, "*")
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["minilm (untouched)", "a", "b"]
    for axes in (scifact, nfcorpus):
        assert (axes.get_xlabel(), axes.get_ylabel()) == ("IsoScore, documents", "NDCG@10")


def test_dashed_lines_go_through_the_base(files):
    scifact, nfcorpus = pays_figure(read_points(*files, "isoscore", "documents"), "IsoScore").axes
    dashed = [line for line in scifact.lines if line.get_linestyle() == "--"]
    assert [(list(line.get_xdata()), list(line.get_ydata())) for line in dashed] == [
        ([0, 1], [0.64, 0.64]),
        ([0.2, 0.2], [0, 1]),
    ]
    assert not [line for line in nfcorpus.lines if line.get_linestyle() == "--"]


def test_intervals_are_drawn_where_there_are_any():
    (axes,) = pays_figure([point("a", 0.5, 0.7, low=0.4, high=0.65), point("b", 0.3, 0.6)], "IsoScore").axes
    bars = [line for line in axes.lines if len(line.get_xdata()) == 2]
    assert [(list(line.get_xdata()), list(line.get_ydata())) for line in bars] == [([0.4, 0.65], [0.7, 0.7])]


def test_the_title_has_the_rank_correlation_from_four_systems_on():
    """By hand: with ranks 1 2 3 4 against 1 2 4 3, ρ = 1 − 6·(0 + 0 + 1 + 1) / (4·15) = 0.8."""
    points = [point("a", 1, 0.1), point("b", 2, 0.2), point("c", 30, 0.9), point("d", 40, 0.3)]
    assert pays_figure(points, "x").axes[0].get_title() == "scifact: Spearman's ρ = +0.80, n = 4"
    falling = [
        point(name, -value, ndcg) for name, value, ndcg in (("a", 1, 0.1), ("b", 2, 0.2), ("c", 3, 0.9), ("d", 4, 1))
    ]
    assert "ρ = −1.00, n = 4" in pays_figure(falling, "x").axes[0].get_title()
    assert pays_figure(points[:3], "x").axes[0].get_title() == "scifact: n = 3"
    equal = [point(name, 1, ndcg) for name, ndcg in zip("abcd", (0.1, 0.2, 0.3, 0.4), strict=True)]
    assert "no rank correlation" in pays_figure(equal, "x").axes[0].get_title()


@pytest.mark.parametrize(("values", "scale"), [((1, 500), "log"), ((1, 50), "linear"), ((0, 500), "linear")])
def test_values_far_apart_get_a_log_axis(values, scale):
    (axes,) = pays_figure([point(str(value), value, 0.5) for value in values], "condition number").axes
    assert axes.get_xscale() == scale
    assert ("log scale" in axes.get_xlabel()) == (scale == "log")


def test_the_longest_axis_names_fit_under_their_panels():
    for measure, name in sorted(AXIS_NAMES.items(), key=lambda item: -len(item[1]))[:4]:
        points = [point("a", 1, 0.1), point("b", 2000, 0.1, "nfcorpus"), point("a", 1, 0.3, "nfcorpus")]
        figure = pays_figure(points, f"{name}, documents")
        figure.draw_without_rendering()
        for axes in figure.axes:
            box = axes.xaxis.label.get_window_extent()
            assert box.x0 >= 0, measure
            assert box.x1 <= figure.bbox.x1, measure
            assert box.width < figure.bbox.width / 2, measure


def test_nothing_in_common_names_both_sides(files, results):
    other = results("other.json", retrieved("d", fiqa=0.3))
    with pytest.raises(
        InputError, match=r"results are of d on fiqa, the isotropy reports of a on nfcorpus, c on nfcorpus"
    ):
        read_points([other], files[1][1:], "isoscore", "documents")


def test_wrong_measures_and_spaces_are_named(files):
    with pytest.raises(InputError, match="unknown measure 'isoscor' of documents; did you mean 'isoscore'"):
        read_points(*files, "isoscor", "documents")
    with pytest.raises(InputError, match="unknown measure 'zzz' of documents; possible are isoscore"):
        read_points(*files, "zzz", "documents")
    with pytest.raises(InputError, match=r"no system in .*s\.json, .*n\.json has measures of queries"):
        read_points(*files, "isoscore", "queries")


def test_systems_without_a_value_are_left_out(results, isotropy):
    ours = [results(f"{name}.json", retrieved(name, scifact=0.7)) for name in "ab"]
    report = isotropy("i.json", "scifact", embedded("a", alpha_req=None), embedded("b", alpha_req=1.0))
    assert [p.measured.model for p in read_points(ours, [report], "alpha_req", "documents")] == ["b"]
    with pytest.raises(InputError, match="the isotropy reports of nothing"):
        read_points(ours, [isotropy("i.json", "scifact", embedded("a", alpha_req=None))], "alpha_req", "documents")


def test_files_that_contradict_each_other_are_refused(files, results, isotropy):
    other = results("other.json", retrieved("a", scifact=0.71))
    with pytest.raises(
        InputError, match=r"a\.json and .*other\.json disagree on NDCG@10 of a on scifact \(0\.7 and 0\.71\)"
    ):
        read_points([*files[0], other], files[1], "isoscore", "documents")
    again = isotropy("again.json", "scifact", embedded("b", isoscore=0.11))
    with pytest.raises(
        InputError, match=r"s\.json and .*again\.json disagree on isoscore of documents of b on scifact"
    ):
        read_points(files[0], [*files[1], again], "isoscore", "documents")


def test_files_of_another_kind_are_refused(files):
    with pytest.raises(InputError, match=r"s\.json is not a results file"):
        read_points(files[1], files[1], "isoscore", "documents")
    with pytest.raises(InputError, match=r"a\.json is not an isotropy report"):
        read_points(files[0], files[0], "isoscore", "documents")


def test_the_script_writes_a_png(files, tmp_path, monkeypatch, capsys):
    output = tmp_path / "plots" / "pays.png"
    given = ["--results", *map(str, files[0]), "--isotropy", *map(str, files[1]), "--output", str(output)]
    monkeypatch.setattr(sys, "argv", ["plot_isotropy_ndcg.py", *given])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    assert np.ptp(imread(output)) == 1
    assert str(output) in capsys.readouterr().out
    output.unlink()
    monkeypatch.setattr(sys, "argv", ["plot_isotropy_ndcg.py", *given, "--measure", "isoscor"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    assert stop.value.code == 2
    assert "did you mean 'isoscore'" in capsys.readouterr().err
    assert not output.exists()


def test_the_png_names_measure_and_space(files, tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr("ragcun.reporting.pays_plot.write_png", lambda figure, output: figures.append(figure))
    plot_isotropy_against_ndcg(*files, tmp_path / "pays.png")
    assert figures[0].axes[0].get_xlabel() == "IsoScore (0 to 1), documents"
