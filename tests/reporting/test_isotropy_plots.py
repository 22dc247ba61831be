"""Figures of isotropy reports: what is drawn is what the report says, and can be read and told apart."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import imread
from matplotlib.text import Text

from ragcun.errors import InputError
from ragcun.isotropy.pairs import distribution
from ragcun.reporting.isotropy_plots import (
    FIGURES,
    distances_figure,
    hubness_figure,
    norms_figure,
    pca_figure,
    plot_isotropy,
    spectrum_figure,
)
from ragcun.reporting.plots import GREY, LONGEST_NAME, MOST, looks
from tests.reporting.samples import isotropy_report, measured

K = 5


def with_documents(system, **values):
    """Return a measured system with other values in its space of documents."""
    space = dataclasses.replace(system.spaces["documents"], **values)
    return dataclasses.replace(system, spaces={**system.spaces, "documents": space})


@functools.cache
def systems_of(count):
    """Systems in an order that the figures have to change: the untouched base is the second of several."""
    base = measured("minilm", np.geomspace(1, 0.1, 12), untouched=True, unit=True)
    flat = np.r_[np.ones(8), np.zeros(4)]
    others = [
        measured("runs/2026-01-05/a-head-with-a-name/best_model", np.ones(12)),
        measured("sentence-transformers/all-mpnet-base-v2", flat),
        measured("$x$ and _y_", np.geomspace(9, 1, 12)),
    ]
    return [base] if count == 1 else [others[0], base, *others[1 : count - 1]]


@functools.cache
def figure_of(name, count):
    """Draw once what several tests read."""
    return FIGURES[name](systems_of(count))


@pytest.fixture(scope="module")
def four():
    return systems_of(4)


def lines_of(axes):
    return {line.get_label(): line for line in axes.lines if not line.get_label().startswith("_")}


def starting_with(named, start):
    (label,) = [label for label in named if label.startswith(start)]
    return named[label]


def legend_of(figure):
    (legend,) = figure.legends
    return [text.get_text() for text in legend.get_texts()]


def luminance(colour):
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))


def test_spectra_are_the_reports_over_their_mean(four):
    (axes,) = figure_of("spectrum", 4).axes
    named = lines_of(axes)
    assert axes.get_yscale() == "log"
    for system, start in zip(four, ("…/a-head", "minilm (untouched)", "sentence", r"\$x"), strict=True):
        eigenvalues = np.array(system.spaces["documents"].spectrum)
        line = starting_with(named, start)
        expected = np.where(eigenvalues > 1e-12 * eigenvalues.mean(), eigenvalues / eigenvalues.mean(), np.nan)
        np.testing.assert_allclose(line.get_ydata(), expected)
        np.testing.assert_array_equal(line.get_xdata(), np.arange(1, 13))
    assert list(starting_with(named, "isotropic").get_ydata()) == [1, 1]


def test_zero_eigenvalues_are_counted_and_do_not_stretch_the_axis():
    (axes,) = figure_of("spectrum", 4).axes
    assert "sentence-transformers/all-mpnet-base-v2, 4 of 12 are 0" in lines_of(axes)
    assert axes.get_ylim()[0] > 1e-4
    constant = with_documents(measured("constant", np.ones(12), judged=False), spectrum=[0.0] * 12)
    assert "constant, 12 of 12 are 0" in legend_of(spectrum_figure([constant]))


@pytest.mark.parametrize("space", ["documents", "queries"])
def test_hubness_is_the_share_of_rows_that_occur_so_often_or_oftener(four, space):
    (axes,) = hubness_figure(four, space).axes
    occurrence = four[1].spaces[space].k_occurrence
    times = np.repeat([int(value) for value in occurrence.counts], list(occurrence.counts.values()))
    line = starting_with(lines_of(axes), "minilm")
    np.testing.assert_allclose(line.get_ydata(), [(times >= x).mean() for x in line.get_xdata()])
    assert set(line.get_xdata()) == set(times) - {0}
    assert line.get_label() == f"minilm (untouched), {(times == 0).mean():.1%} never"
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    assert list(lines_of(axes)[f"mean of all: k = {K}"].get_xdata()) == [K, K]


def outline(axes, label):
    (patch,) = [patch for patch in axes.patches if patch.get_label() == label]
    return patch.get_data()


@pytest.mark.parametrize("side", ["documents", "queries"])
def test_norms_are_a_density_of_the_reports_counts(four, side):
    """Joined bins keep their rows: each one's area is the share of the rows between its edges."""
    norms = four[0].spaces[side].norms
    density, edges, _ = outline(figure_of("norms", 4).axes[1], side)
    assert len(density) <= 2 * norms.n ** (1 / 3) < 40
    assert set(edges) <= set(norms.edges)
    assert (edges[0], edges[-1]) == (norms.edges[0], norms.edges[-1])
    below = np.cumsum(norms.counts)[[norms.edges.index(edge) - 1 for edge in edges[1:]]]
    np.testing.assert_allclose(np.cumsum(density * np.diff(edges)), below / norms.n)


def test_many_values_keep_their_bins():
    norms = distribution(np.random.default_rng(0).normal(9, 1, 9000))
    many = with_documents(measured("many", np.ones(3), judged=False), norms=norms)
    density, edges, _ = outline(norms_figure([many]).axes[0], "documents")
    assert list(edges) == norms.edges
    np.testing.assert_allclose(density, np.array(norms.counts) / 9000 / np.diff(edges))


def test_norms_of_unit_vectors_are_a_vertical_line_inside_the_panel():
    axes = figure_of("norms", 4).axes[0]
    assert axes.get_title() == "minilm (untouched)"
    assert [line.get_label() for line in axes.lines] == ["documents", "queries"]
    np.testing.assert_allclose([line.get_xdata() for line in axes.lines], 1)
    np.testing.assert_allclose(axes.get_xlim(), (0.9, 1.1))
    assert "equal" in axes.get_ylabel()


def test_distances_are_of_pairs_where_there_are_judged_queries(four):
    documents_only = measured("documents only", np.ones(5), judged=False)
    figure = distances_figure([*four, documents_only])
    pairs = four[0].pairs.distances
    for label, values in (("query to relevant document", "relevant"), ("query to random document", "random")):
        density, edges, _ = outline(figure.axes[1], label)
        assert (edges[0], edges[-1]) == (pairs[values].min, pairs[values].max)
        np.testing.assert_allclose((density * np.diff(edges)).sum(), 1)
    labels = [patch.get_label() for patch in figure.axes[-1].patches]
    assert labels == ["document to random document", "document to nearest document"]


def test_pca_links_queries_to_their_documents_on_equal_scales(four):
    figure = figure_of("pca", 4)
    assert len(figure.axes) == 4
    axes, pca = figure.axes[1], four[0].pairs.pca
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
def test_all_systems_are_named_and_the_untouched_base_comes_first(name, count):
    figure = figure_of(name, count)
    titles = [axes.get_title() for axes in figure.axes]
    named = titles if any(titles) else [label for label in legend_of(figure) if "isotropic" not in label]
    starts = ["minilm (untouched)", "…/a-head-with", "sentence-transformers", r"\$x\$ and _y_"][:count]
    for shown, start in zip(named, starts, strict=False):
        assert shown.startswith(start)
    assert len(named) >= count


@pytest.mark.parametrize("name", ["spectrum", "hubness"])
def test_systems_in_one_panel_differ_in_colour_and_in_line(name):
    """Neither colour vision nor colour is needed: styles of lines differ, and the base is the only solid one."""
    named = lines_of(figure_of(name, 4).axes[0])
    shown = [line for label, line in named.items() if not label.startswith(("isotropic", "mean"))]
    assert len({line.get_color() for line in shown}) == 4
    assert len({line.get_linestyle() for line in shown}) == 4
    assert all(line.get_linewidth() >= 1.2 for line in named.values())
    base = starting_with(named, "minilm")
    assert (base.get_color(), base.get_linestyle()) == (GREY, "-")
    assert all(line.get_linestyle() != "-" for line in shown if line is not base)
    assert max(luminance(line.get_color()) for line in shown) < 0.6
    assert all(abs(luminance(GREY) - luminance(line.get_color())) > 0.04 for line in shown if line is not base)


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize("count", [1, 4])
def test_letters_are_large_enough_for_print_and_inside_the_picture(name, count):
    figure = figure_of(name, count)
    figure.draw_without_rendering()
    assert figure.get_figwidth() <= 7
    everything = [text for text in figure.findobj(Text) if text.get_text() and text.get_visible()]
    assert min(text.get_fontsize() for text in everything) >= 8
    names = [
        text for axes in figure.axes for text in (axes.title, axes.xaxis.label, axes.yaxis.label) if text.get_text()
    ]
    for box in (text.get_window_extent() for text in [*names, *figure.legends[0].get_texts()]):
        assert min(box.x0, box.y0) >= -1
        assert box.x1 <= figure.bbox.x1 + 1
        assert box.y1 <= figure.bbox.y1 + 1
    boxes = [axes.title.get_window_extent() for axes in figure.axes if axes.get_title()]
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
    (legend,) = figure.legends
    assert not any(legend.get_window_extent().overlaps(axes.get_tightbbox()) for axes in figure.axes)


@pytest.mark.parametrize("name", FIGURES)
def test_axes_are_named_with_units(name):
    units = {
        "spectrum": ("dimension", "mean eigenvalue (log scale)"), "norms": ("Euclidean length", "per unit of length"),
        "distances": ("Euclidean distance", "per unit of distance"), "hubness": ("times", "share of documents"),
        "pca": ("% of variance", "% of variance"),
    }[name]  # fmt: skip
    axes = figure_of(name, 4).axes[-1]
    assert units[0] in axes.get_xlabel()
    assert units[1] in axes.get_ylabel()


def test_figures_without_data_say_so():
    documents_only = [measured("documents only", np.ones(5), judged=False)]
    with pytest.raises(InputError, match="no system has embeddings of queries"):
        spectrum_figure(documents_only, "queries")
    with pytest.raises(InputError, match="no system has embeddings of together"):
        hubness_figure(documents_only, "together")
    with pytest.raises(InputError, match="no system has judged queries"):
        pca_figure(documents_only)


def test_looks_are_all_different_and_limited():
    found = looks([f"m{i}" for i in range(MOST)], [False] * MOST)
    assert len({(look.colour, look.line) for look in found}) == MOST
    assert all(a.colour != b.colour and a.line != b.line for a, b in itertools.pairwise(found))
    with pytest.raises(InputError, match=f"{MOST + 1} systems to draw; give 1 to {MOST}"):
        looks(["m"] * (MOST + 1), [False] * (MOST + 1))
    with pytest.raises(InputError, match="0 systems"):
        looks([], [])


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("sentence-transformers/all-mpnet-base-v2", "sentence-transformers/all-mpnet-base-v2"),
        ("/home/me/runs/2026/a-head-with-a-name/best_model", "…/2026/a-head-with-a-name/best_model"),
        (f"runs/{'w' * 60}/best_model", f"…{'w' * (LONGEST_NAME - 12)}/best_model"),
        ("_a $1", r"_a \$1"),
    ],
)
def test_long_names_are_shown_by_their_ends(name, shown):
    assert [look.name for look in looks([name], [False])] == [shown]
    assert [look.name for look in looks([name], [True])] == [f"{shown} (untouched)"]


def test_names_that_would_be_shortened_to_one_stay_whole():
    names = [f"{run}/{'x' * LONGEST_NAME}" for run in "ab"]
    assert [look.name for look in looks(names, [False, False])] == names


def test_all_files_are_written_complete(write, tmp_path, four):
    written = plot_isotropy(write("isotropy.json", isotropy_report(*four[:2])), tmp_path / "plots")
    assert [path.name for path in written] == [f"{name}.png" for name in FIGURES]
    assert sorted(path.name for path in (tmp_path / "plots").iterdir()) == sorted(path.name for path in written)
    for path in written:
        height, width = imread(path).shape[:2]
        assert (width > 1000, height > 500) == (True, True)


def test_there_is_no_pca_without_judged_queries(write, tmp_path):
    report = isotropy_report(measured("documents only", np.ones(5), judged=False))
    written = plot_isotropy(write("isotropy.json", report), tmp_path / "plots")
    assert [path.stem for path in written] == ["spectrum", "norms", "distances", "hubness"]


@pytest.mark.slow
def test_drawing_needs_neither_torch_nor_pyplot():
    code = "import sys, ragcun.reporting.isotropy_plots, ragcun.reporting.tradeoffs; "
    code += "sys.exit(sum(name in sys.modules for name in ('torch', 'matplotlib.pyplot')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
