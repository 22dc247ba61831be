"""Plots of a training run hold its numbers; names and looks of systems; what plotting may import."""

import itertools
import subprocess
import sys

import pytest

from ragcun.errors import InputError
from ragcun.reporting.plots import LONGEST_NAME, MOST, looks, loss_figure, rank_figure
from tests.data.test_pairs import write_rows
from tests.reporting.conftest import legend_of

STEP = {"kind": "step", "step": 1, "total": 1.0}


def metrics(scores=True, terms=("sigreg",)):
    rows = [{"kind": "base", "dev": {"NDCG@10": 0.645}}] if scores else []
    for step in range(1, 101):
        parts = {name: 2 / step + i for i, name in enumerate(terms)}
        rows.append({"kind": "step", "step": step, "total": sum(parts.values()), "terms": parts, "learning_rate": {}})
        if step % 50 == 0:
            measured = {"val_total": 3.5, "dev": {"NDCG@10": 0.645 + step / 1e4}}
            rows.append({"kind": "epoch", "epoch": step // 50, "step": step} | (measured if scores else {}))
    return rows


def probe(step, **figures):
    values = {"rank_query": 90.5 - step, "rank_document": 100.25 - step / 2, "rank_bound": 127.0}
    return {"kind": "probe", "epoch": 0, "step": step, "figures": values | figures, "model": {}}


def collapse(step, kind):
    return {"kind": "collapse", "step": step, "collapse": kind}


def test_the_loss_figure_holds_the_runs_numbers(tmp_path):
    rows = metrics()
    steps = [row for row in rows if row["kind"] == "step"]
    figure = loss_figure(write_rows(tmp_path / "m", rows))
    assert [axes.get_title() for axes in figure.axes] == ["total loss", "sigreg (unweighted)", "dev NDCG@10"]
    total, term = (figure.axes[i].lines[0] for i in (0, 1))
    assert list(total.get_xdata()) == list(term.get_xdata()) == list(range(1, 101))
    assert list(total.get_ydata()) == [row["total"] for row in steps]
    assert list(term.get_ydata()) == [row["terms"]["sigreg"] for row in steps]
    assert [list(line.get_ydata()) for line in figure.axes[2].lines] == [[0.65, 0.655], [0.645, 0.645]]
    assert legend_of(figure) == ["training", "validation", "model", "untouched base"]
    (axes,) = loss_figure(write_rows(tmp_path / "m", metrics(scores=False, terms=()))).axes
    assert [line.get_label() for line in axes.lines] == ["training"]


def test_one_step_has_a_marker_and_none_is_refused(tmp_path):
    (axes,) = loss_figure(write_rows(tmp_path / "m", [STEP])).axes
    assert axes.lines[0].get_marker() == "."
    with pytest.raises(InputError, match="no row of kind 'step'"):
        loss_figure(write_rows(tmp_path / "m", [{"kind": "base"}]))


@pytest.mark.parametrize(
    ("draw", "row", "message"),
    [
        (loss_figure, {"kind": "step", "step": 1}, "total: .* None"),
        (loss_figure, STEP | {"terms": {"a": []}}, "terms.a: Input should be a valid number"),
        (loss_figure, STEP | {"terms": [1]}, "terms: Input should be a valid dictionary"),
        (loss_figure, STEP | {"step": 10**399}, "step: Input should be less than"),
        (rank_figure, probe(1) | {"step": None}, "step: .* None"),
        (rank_figure, probe(1, rank_document="9"), "figures.rank_document: .* '9'"),
        (rank_figure, collapse(1, None), "collapse: .* None"),
    ],
)
def test_a_row_without_its_numbers_is_named(tmp_path, draw, row, message):
    with pytest.raises(InputError, match=f"line 2: {message}"):
        draw(write_rows(tmp_path / "m", [STEP, row]))


def test_ranks_of_both_sides_and_collapses_are_drawn_over_the_steps(tmp_path):
    rows = [STEP, probe(0), probe(10), collapse(10, "dimensional"), probe(20), collapse(20, "drift")]
    figure = rank_figure(write_rows(tmp_path / "m", rows))
    (axes,), steps = figure.axes, [0, 10, 20]
    drawn = [(line.get_label(), list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines]
    assert drawn == [
        ("queries", steps, [90.5, 80.5, 70.5]), ("documents", steps, [100.25, 95.25, 90.25]),
        ("highest rank the batch can show", [0, 1], [127.0, 127.0]),
        ("dimensional collapse, step 10", [10, 10], [0, 1]), ("drift collapse, step 20", [20, 20], [0, 1]),
    ]  # fmt: skip
    assert len({(line.get_linestyle(), line.get_marker()) for line in axes.lines}) == 5
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("step", "effective rank (dimensions)")
    assert axes.get_ylim()[0] == 0
    assert legend_of(figure) == [label for label, _, _ in drawn]
    assert rank_figure(write_rows(tmp_path / "m", [STEP])) is None


def test_looks_are_all_different_and_limited():
    found = looks([f"m{i}" for i in range(MOST)], [False] * MOST)
    assert len({(look.colour, look.line) for look in found}) == MOST
    assert all(a.colour != b.colour and a.line != b.line for a, b in itertools.pairwise(found))
    for count in (0, MOST + 1):
        with pytest.raises(InputError, match=f"{count} systems to draw; give 1 to {MOST}"):
            looks(["m"] * count, [False] * count)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("sentence-transformers/all-mpnet-base-v2", "sentence-transformers/all-mpnet-base-v2"),
        ("/home/me/runs/2026/a-head-with-a-name/best_model", "…/2026/a-head-with-a-name/best_model"),
        (f"runs/{'w' * 60}/best_model", f"…{'w' * (LONGEST_NAME - 12)}/best_model"),
        ("_a $1", r"_a \$1"),
    ],
)
def test_long_names_are_shown_by_their_ends_unless_they_would_be_one(name, shown):
    assert [look.name for look in looks([name, name], [False, True])] == [shown, f"{shown} (untouched)"]
    names = [f"{run}/{'x' * LONGEST_NAME}" for run in "ab"]
    assert [look.name for look in looks(names, [False, False])] == names


@pytest.mark.slow
def test_imports_are_light():
    code, heavy = "import sys\n", ["torch", "matplotlib.pyplot", "scipy", "matplotlib"]
    for module, unwanted in (("formats", heavy), ("tradeoffs", heavy[:2]), ("html", heavy[:1])):
        code += f"import ragcun.reporting.{module}\nassert not {{*{unwanted}}} & set(sys.modules), {module!r}\n"
    subprocess.run([sys.executable, "-c", code], check=True)
