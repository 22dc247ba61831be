"""Isotropy reports: what is read, what is refused by file and key, tables, and figures."""

import dataclasses
import functools
import itertools

import numpy as np
import pytest
from matplotlib.image import imread
from matplotlib.text import Text

from ragcun.errors import InputError
from ragcun.isotropy.report import IsotropyReport
from ragcun.reporting.isotropy import FIGURES, LABELS, isotropy_table, measure_tables, plot_isotropy
from ragcun.reporting.plots import GREY
from tests.reporting.conftest import changed, isotropy_report, legend_of, measured

DOCUMENTS = ("systems", 0, "spaces", "documents")
K = 5
STARTS = ("minilm (untouched)", "…/a-head-with", "sentence-transformers", r"\$x\$ and _y_")


@functools.cache
def systems_of(count):
    """Systems in an order that the figures have to change: the untouched base is the second of several."""
    base = measured("minilm", np.geomspace(1, 0.1, 12), untouched=True, unit=True)
    others = [
        measured("runs/2026-01-05/a-head-with-a-name/best_model", np.ones(12)),
        measured("sentence-transformers/all-mpnet-base-v2", np.r_[np.ones(8), np.zeros(4)]),
        measured("$x$ and _y_", np.geomspace(9, 1, 12)),
    ]
    return [base] if count == 1 else [others[0], base, *others[1 : count - 1]]


def test_a_report_is_read_as_it_was_measured(write):
    report = IsotropyReport.read(write("isotropy.json", isotropy_report(*systems_of(4))))
    assert (report.name, report.n_documents, report.n_queries) == ("scifact", 150, 30)
    assert report.systems == systems_of(4)


def test_tables_hold_every_measure_of_every_system():
    systems = systems_of(2)
    tables = measure_tables(systems)
    assert [table.caption.split(",")[0] for table in tables] == [
        "documents", "queries", "together", "queries and their relevant documents",
    ]  # fmt: skip
    assert tables[0].header == ["measure", systems[0].model, "minilm (untouched)", "isotropic", "rows"]
    (isoscore,) = [row for row in tables[0].rows if row[0] == "isoscore"]
    measure = systems[1].spaces["documents"].measures["isoscore"]
    assert isoscore[2] == f"{measure.value:.4g} ({measure.low:.4g} … {measure.high:.4g})"
    assert isoscore[4] == "150"
    markdown = isotropy_table(IsotropyReport("scifact", 150, 30, systems))
    assert (markdown.count("scifact: "), markdown.count("| IsoScore")) == (4, 3)
    assert {name for table in tables for name, *_ in table.rows} == LABELS.keys()


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["format"], 2, "not an isotropy report of format 1"),
        (["systems"], [], "systems is empty"),
        (DOCUMENTS, ..., r"systems\[0\]\.spaces lacks 'documents'"),
        ((*DOCUMENTS, "distances", "nearest"), ..., r"documents\.distances lacks 'nearest'"),
        ((*DOCUMENTS, "norms", "counts", 0), ..., r"documents\.norms: .* has 41 edges for 39 counts"),
        (["systems", 0, "pairs", "pca", "links", 0], [0, 999], r"pca: .* links a row that does not exist"),
    ],
)
def test_what_is_wrong_is_named_with_its_key(write, path, value, message):
    with pytest.raises(InputError, match=rf"isotropy\.json.*{message}"):
        IsotropyReport.read(write("isotropy.json", changed(isotropy_report(*systems_of(1)), path, value)))


@functools.cache
def figure_of(name, count=4):
    """Draw once what several tests read."""
    return FIGURES[name](systems_of(count))


@functools.cache
def documents_only():
    return measured("documents only", np.ones(5), judged=False)


def lines_of(axes):
    return {line.get_label(): line for line in axes.lines if not line.get_label().startswith("_")}


def starting_with(named, start):
    (label,) = [label for label in named if label.startswith(start)]
    return named[label]


def test_spectra_are_the_reports_over_their_mean_without_zeros():
    (axes,) = figure_of("spectrum").axes
    named = lines_of(axes)
    assert axes.get_yscale() == "log"
    base = starting_with(named, "minilm")
    assert (base.get_color(), base.get_linestyle()) == (GREY, "-")
    for system, start in zip(systems_of(4), ("…/a-head", "minilm (untouched)", "sentence", r"\$x"), strict=True):
        eigenvalues = np.array(system.spaces["documents"].spectrum)
        expected = np.where(eigenvalues > 1e-12 * eigenvalues.mean(), eigenvalues / eigenvalues.mean(), np.nan)
        np.testing.assert_allclose(starting_with(named, start).get_ydata(), expected)
        np.testing.assert_array_equal(starting_with(named, start).get_xdata(), np.arange(1, 13))
    assert list(starting_with(named, "isotropic").get_ydata()) == [1, 1]
    assert "sentence-transformers/all-mpnet-base-v2, 4 of 12 are 0" in named
    assert axes.get_ylim()[0] > 1e-4
    space = dataclasses.replace(documents_only().spaces["documents"], spectrum=[0.0] * 12)
    constant = dataclasses.replace(documents_only(), spaces={"documents": space})
    assert "documents only, 12 of 12 are 0" in legend_of(FIGURES["spectrum"]([constant]))


def test_hubness_is_the_share_of_rows_that_occur_so_often_or_oftener():
    (axes,) = figure_of("hubness").axes
    occurrence = systems_of(4)[1].spaces["documents"].k_occurrence
    times = np.repeat([int(value) for value in occurrence.counts], list(occurrence.counts.values()))
    line = starting_with(lines_of(axes), "minilm")
    np.testing.assert_allclose(line.get_ydata(), [(times >= x).mean() for x in line.get_xdata()])
    assert set(line.get_xdata()) == set(times) - {0}
    assert line.get_label() == f"minilm (untouched), {(times == 0).mean():.1%} never"
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    assert list(lines_of(axes)[f"mean of all: k = {K}"].get_xdata()) == [K, K]


@pytest.mark.parametrize(
    ("name", "label", "values_of"),
    [
        ("norms", "queries", lambda system: system.spaces["queries"].norms),
        ("distances", "query to relevant document", lambda system: system.pairs.distances["relevant"]),
        ("distances", "query to random document", lambda system: system.pairs.distances["random"]),
        ("distances", "document to nearest document", lambda system: system.spaces["documents"].distances["nearest"]),
    ],
)
def test_histograms_are_a_density_of_the_reports_counts(name, label, values_of):
    """Joined bins keep their rows: each one's area is the share of the rows between its edges."""
    values = values_of(systems_of(4)[0])
    (patch,) = [patch for patch in figure_of(name).axes[1].patches if patch.get_label() == label]
    density, edges, _ = patch.get_data()
    assert len(density) <= 2 * values.n ** (1 / 3) < 40
    assert set(edges) <= set(values.edges)
    assert (edges[0], edges[-1]) == (values.edges[0], values.edges[-1]) == (values.min, values.max)
    below = np.cumsum(values.counts)[[values.edges.index(edge) - 1 for edge in edges[1:]]]
    np.testing.assert_allclose(np.cumsum(density * np.diff(edges)), below / values.n)


def test_without_judged_queries_distances_are_of_documents():
    labels = [patch.get_label() for patch in FIGURES["distances"]([documents_only()]).axes[0].patches]
    assert labels == ["document to random document", "document to nearest document"]


def test_norms_of_unit_vectors_are_a_vertical_line_inside_the_panel():
    axes = figure_of("norms").axes[0]
    assert axes.get_title() == "minilm (untouched)"
    assert [line.get_label() for line in axes.lines] == ["documents", "queries"]
    np.testing.assert_allclose([line.get_xdata() for line in axes.lines], 1)
    np.testing.assert_allclose(axes.get_xlim(), (0.9, 1.1))
    assert "equal" in axes.get_ylabel()


def test_pca_links_queries_to_their_documents_on_equal_scales():
    axes, pca = figure_of("pca").axes[1], systems_of(4)[0].pairs.pca
    named = lines_of(axes)
    np.testing.assert_allclose(named["query"].get_xydata(), pca.queries)
    np.testing.assert_allclose(named["relevant document"].get_xydata(), pca.documents)
    (links,) = axes.collections
    ends = [[pca.queries[query], pca.documents[document]] for query, document in pca.links]
    np.testing.assert_allclose(links.get_segments(), ends)
    for place, (share, label) in enumerate(zip(pca.explained, (axes.get_xlabel(), axes.get_ylabel()), strict=True), 1):
        assert label == f"principal axis {place} ({share:.1%} of variance)"
    assert axes.get_aspect() == 1
    assert named["query"].get_marker() != named["relevant document"].get_marker()


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize("count", [1, 4])
def test_systems_are_named_base_first_with_letters_inside_the_picture(name, count):
    figure = figure_of(name, count)
    titles = [axes.get_title() for axes in figure.axes]
    named = titles if any(titles) else [label for label in legend_of(figure) if "isotropic" not in label]
    assert len(named) >= count
    assert all(shown.startswith(start) for shown, start in zip(named, STARTS[:count], strict=False))
    figure.draw_without_rendering()
    assert figure.get_figwidth() <= 7
    assert min(text.get_fontsize() for text in figure.findobj(Text) if text.get_text() and text.get_visible()) >= 8
    (legend,) = figure.legends
    labels = [label for axes in figure.axes for label in (axes.xaxis.label, axes.yaxis.label)]
    assert all(label.get_text() for label in labels)
    shown = [axes.title for axes in figure.axes if axes.get_title()]
    for box in (text.get_window_extent() for text in (*labels, *shown, *legend.get_texts())):
        assert min(box.x0, box.y0, figure.bbox.x1 - box.x1, figure.bbox.y1 - box.y1) >= -1
    boxes = [title.get_window_extent() for title in shown]
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
    assert not any(legend.get_window_extent().overlaps(axes.get_tightbbox()) for axes in figure.axes)


@pytest.mark.parametrize("judged", [True, False])
def test_all_files_are_written_complete_and_pca_only_of_judged_queries(write, tmp_path, judged):
    systems = systems_of(4)[:2] if judged else [documents_only()]
    written = plot_isotropy(write("isotropy.json", isotropy_report(*systems)), tmp_path / "plots")
    assert [path.name for path in written] == [f"{name}.png" for name in FIGURES if judged or name != "pca"]
    assert sorted((tmp_path / "plots").iterdir()) == sorted(written)
    assert all(min(imread(path).shape[:2]) > 500 for path in written)
