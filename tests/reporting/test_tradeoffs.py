"""NDCG@10 against bytes per vector and against isotropy: what is read and joined, and what is drawn where."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from ragcun.errors import InputError
from ragcun.isotropy.spectrum import Measure
from ragcun.reporting.plots import GREY
from ragcun.reporting.tradeoffs import isotropy_ndcg_figure, isotropy_points, size_figure, size_points
from tests.reporting.conftest import isotropy_report, legend_of, measured, results, system

BASE = {"scifact": 0.64, "nfcorpus": 0.31}


def sized(content, precision="float32", cut=None):
    """Add how the vectors of a system with 384 dimensions are stored."""
    size = int({"float32": 4, "int8": 1, "binary": 0.125}[precision] * (cut or 384))
    return content | {"precision": precision, "truncate_dim": cut, "bytes_per_vector": size}


@pytest.fixture
def several(write):
    """Results of a model with vectors of three sizes beside its base, BM25 and, in the last, the base's small ones."""
    small = sized(system("minilm", {"scifact": 0.62, "nfcorpus": 0.29}), "binary")
    paths = []
    for name, values, vectors, baselines in (
        ("full", (0.70, 0.33), (), ()), ("cut", (0.60, 0.30), ("float32", 128), ()),
        ("binary", (0.66, 0.32), ("binary",), (small,)),
    ):  # fmt: skip
        values = dict(zip(BASE, values, strict=True))
        baselines = (system("bm25", dict.fromkeys(values, 0.3)), *baselines)
        content = results("head", values, base_values=BASE, baselines=baselines)
        content["untouched_base"] = sized(content["untouched_base"])
        paths.append(write(f"{name}.json", sized(content, *vectors)))
    return paths


def lines(axes, label):
    return [(list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines if line.get_label() == label]


def test_a_models_line_joins_the_best_for_so_many_bytes_and_the_base_is_a_star(several):
    """128 dimensions (512 bytes, 0.60) are worse than signs (48 bytes, 0.66): a point, and not on the line."""
    figure = size_figure(size_points(several))
    assert [axes.get_title() for axes in figure.axes] == ["scifact", "nfcorpus"]
    for axes in figure.axes:
        assert (axes.get_xscale(), axes.get_ylabel()) == ("log", "NDCG@10")
        assert [axes.xaxis.get_major_formatter()(tick) for tick in axes.get_xticks()] == ["48", "512", "1536"]
    assert sorted(legend_of(figure)) == ["binary", "float32", "head", "int8", "minilm", "minilm (untouched)"]
    scifact = figure.axes[0]
    assert lines(scifact, "head") == [([48, 1536], [0.66, 0.70])]
    assert any(list(line.get_xydata()[0]) == [512, 0.60] for line in scifact.lines if line.get_marker() == "o")
    assert lines(scifact, "minilm") == [([48, 1536], [0.62, 0.64])]
    assert lines(scifact, "minilm (untouched)") == [([1536], [0.64])]
    assert [line.get_marker() for line in scifact.lines if line.get_label() == "minilm (untouched)"] == ["*"]
    assert [line.get_color() for line in scifact.lines if list(line.get_ydata()) == [0.64, 0.64]] == [GREY]


def test_sizes_that_are_missing_or_contradict_each_other_are_named(write, several):
    assert len(size_points([*several, several[0]])) == len(size_points(several)) == 10
    alone = sized(results("head", {"scifact": 0.71}, base=None))
    for content, message in (
        (alone, r"full\.json and .*r\.json disagree on NDCG@10 of head on scifact"),
        (results("head", BASE), r"r\.json .*lacks the size .* of minilm"),
        (alone | {"precision": "int4"}, r"r\.json.* 'int4' of head"),
    ):
        with pytest.raises(InputError, match=message):
            size_points([*several, write("r.json", content)])


def embedded(name, untouched=False, **values):
    """Return a measured system with given values of measures of its documents."""
    found = measured(name, np.ones(3), untouched, judged=False, n=30)
    measures = {measure: Measure(value, None, None, 12, None) for measure, value in values.items()}
    space = dataclasses.replace(found.spaces["documents"], measures=measures)
    return dataclasses.replace(found, spaces={"documents": space})


@pytest.fixture
def isotropy(write):
    return lambda name, data, *systems: write(name, isotropy_report(*systems, data=data))


@pytest.fixture
def files(write, isotropy):
    """Two models and their base on two collections; reports of both."""
    small = sized(system("a", {"scifact": 0.5, "nfcorpus": 0.2}), "int8")
    found = [
        write("a.json", "a", {"scifact": 0.70, "nfcorpus": 0.33}, base_values=BASE, baselines=(small,)),
        write("b.json", "b", {"scifact": 0.60, "nfcorpus": 0.34}, base_values=BASE),
    ]
    scifact = embedded("minilm", True, isoscore=0.2), embedded("a", isoscore=0.5), embedded("b", isoscore=0.1)
    nfcorpus = embedded("a", isoscore=0.4), embedded("c", isoscore=0.9)
    return found, [isotropy("s.json", "scifact", *scifact), isotropy("n.json", "nfcorpus", *nfcorpus)]


def test_a_folder_is_the_same_model_however_it_is_written(write, isotropy, tmp_path, monkeypatch):
    (tmp_path / "best_model").mkdir()
    monkeypatch.chdir(tmp_path)
    report = isotropy("i.json", "scifact", embedded("best_model", isoscore=0.2))
    ours = write("r.json", str(tmp_path / "best_model"), {"scifact": 0.7})
    points = isotropy_points([ours], [report], "isoscore", "documents")
    assert list(points[["system", "ndcg"]].itertuples(index=False, name=None)) == [("best_model", 0.7)]


@pytest.mark.parametrize("side", ["results", "isotropy"])
def test_a_base_is_untouched_where_either_side_says_so(write, isotropy, side):
    beside = write("r.json", "a", {"scifact": 0.7}, base_values=BASE)
    alone = write("alone.json", "minilm", {"scifact": 0.64}, base=None)
    report = isotropy("i.json", "scifact", embedded("minilm", side == "isotropy", isoscore=0.2))
    points = isotropy_points([beside if side == "results" else alone], [report], "isoscore", "documents")
    assert list(points["untouched"]) == [True]


def test_other_spaces_and_pairs_have_measures_of_their_own(write, isotropy):
    ours, found = [write("r.json", "a", {"scifact": 0.7})], measured("a", np.ones(4))
    report = [isotropy("i.json", "scifact", found)]
    queries, pairs = found.spaces["queries"].measures, found.pairs.measures
    for measure, space, measures in (("isoscore", "queries", queries), ("gap", "pairs", pairs)):
        assert list(isotropy_points(ours, report, measure, space)["value"]) == [measures[measure].value]


def axes_of(*rows):
    """Draw systems of (name, value, ndcg, low, high) on one dataset."""
    rows = [(*row, None, None)[:5] for row in rows]
    frame = pd.DataFrame(rows, columns=["system", "value", "ndcg", "low", "high"])
    (axes,) = isotropy_ndcg_figure(frame.assign(dataset="scifact", untouched=False), "x", "documents").axes
    return axes


def test_each_system_is_a_point_of_its_own_look_in_every_panel(files):
    figure = isotropy_ndcg_figure(isotropy_points(*files, "isoscore", "documents"), "isoscore", "pairs")
    scifact, nfcorpus = figure.axes
    first, second = (
        {line.get_label(): (*line.get_xydata()[0], line.get_color(), line.get_marker())
         for line in axes.lines if not line.get_label().startswith("_")}
        for axes in (scifact, nfcorpus)
    )  # fmt: skip
    places = {name: place[:2] for name, place in first.items()}
    assert places == {"minilm (untouched)": (0.2, 0.64), "a": (0.5, 0.70), "b": (0.1, 0.60)}
    assert second == {"a": (0.4, 0.33, *first["a"][2:])}
    assert len({place[2] for place in first.values()}) == len({place[3] for place in first.values()}) == 3
    assert first["minilm (untouched)"][2:] == (GREY, "*")
    assert legend_of(figure) == ["minilm (untouched)", "a", "b"]
    assert (scifact.get_xlabel(), scifact.get_ylabel()) == ("IsoScore (0 to 1)", "NDCG@10")
    dashed = [
        [line.get_xydata().tolist() for line in axes.lines if line.get_linestyle() == "--"] for axes in figure.axes
    ]
    assert dashed == [[[[0, 0.64], [1, 0.64]], [[0.2, 0], [0.2, 1]]], []]


def test_intervals_are_drawn_where_there_are_any():
    drawn = [line.get_xydata().tolist() for line in axes_of(("a", 0.5, 0.7, 0.4, 0.65), ("b", 0.3, 0.6)).lines]
    assert [line for line in drawn if len(line) == 2] == [[[0.4, 0.7], [0.65, 0.7]]]


@pytest.mark.parametrize(
    ("values", "ndcg", "title"),
    [
        ((1, 2, 30, 40), (0.1, 0.2, 0.9, 0.3), "scifact: Spearman's ρ = +0.80, n = 4"),
        ((-1, -2, -3, -4), (0.1, 0.2, 0.9, 1), "scifact: Spearman's ρ = −1.00, n = 4"),
        ((1, 2, 30), (0.1, 0.2, 0.9), "scifact: n = 3"),
        ((1, 1, 1, 1), (0.1, 0.2, 0.9, 0.3), "scifact: no rank correlation"),
    ],
)
def test_the_title_has_the_rank_correlation_from_four_systems_on(values, ndcg, title):
    """By hand: with ranks 1 2 3 4 against 1 2 4 3, ρ = 1 − 6·(0 + 0 + 1 + 1) / (4·15) = 0.8."""
    assert axes_of(*zip("abcd", values, ndcg, strict=False)).get_title().replace("\n", " ").startswith(title)


@pytest.mark.parametrize(("values", "scale"), [((1, 500), "log"), ((1, 50), "linear"), ((0, 500), "linear")])
def test_values_far_apart_get_a_log_axis(values, scale):
    axes = axes_of(*((str(value), value, 0.5) for value in values))
    assert axes.get_xscale() == scale
    assert ("log scale" in axes.get_xlabel()) == (scale == "log")


@pytest.mark.parametrize(
    ("measure", "space", "further", "message"),
    [
        ("isoscor", "documents", None, "'isoscor' of documents; did you mean 'isoscore'"),
        ("zzz", "documents", None, "'zzz' of documents; possible are isoscore"),
        ("isoscore", "queries", None, r"s\.json, .*n\.json has measures of queries"),
        ("isoscore", "documents", 0.11, r"s\.json and .*again\.json disagree on isoscore of documents of b on sci"),
    ],
)
def test_wrong_measures_spaces_and_reports_are_named(files, isotropy, measure, space, further, message):
    again = [isotropy("again.json", "scifact", embedded("b", isoscore=further))] if further else []
    with pytest.raises(InputError, match=message):
        isotropy_points(files[0], [*files[1], *again], measure, space)


def test_systems_without_a_value_or_without_results_are_left_out_and_named_where_none_is_left(files, write, isotropy):
    ours = [write(f"{name}.json", name, {"scifact": 0.7}) for name in "ab"]
    report = isotropy("i.json", "scifact", embedded("a", alpha_req=None), embedded("b", alpha_req=1.0))
    assert list(isotropy_points(ours, [report], "alpha_req", "documents")["system"]) == ["b"]
    other = [write("other.json", "d", {"fiqa": 0.3}, base=None)]
    with pytest.raises(InputError, match="results are of d on fiqa, the isotropy reports of a on nfcorpus, c on nfcor"):
        isotropy_points(other, files[1][1:], "isoscore", "documents")
    with pytest.raises(InputError, match="the isotropy reports of nothing"):
        isotropy_points(ours, [isotropy("i.json", "scifact", embedded("a", alpha_req=None))], "alpha_req", "documents")
