"""Isotropy reports: what is read, what is refused by file and key, and tables."""

from __future__ import annotations

import numpy as np
import pytest

from ragcun.errors import InputError
from ragcun.isotropy.report import IsotropyReport
from ragcun.reporting.isotropy import LABELS, isotropy_table, measure_tables, read_isotropy
from tests.reporting.samples import changed, isotropy_report, measured


@pytest.fixture(scope="module")
def systems():
    return [measured("minilm", np.geomspace(1, 0.1, 6), untouched=True), measured("run", np.ones(6))]


def test_a_report_is_read_as_it_was_measured(write, systems):
    report = read_isotropy(write("isotropy.json", isotropy_report(*systems)))
    assert (report.name, report.n_documents, report.n_queries) == ("scifact", 150, 30)
    assert report.systems == systems


def test_tables_hold_every_measure_of_every_system(systems):
    tables = measure_tables(systems)
    assert [table.caption.split(",")[0] for table in tables] == [
        "documents", "queries", "together", "queries and their relevant documents",
    ]  # fmt: skip
    assert tables[0].header == ["measure", "minilm (untouched)", "run", "isotropic", "rows"]
    (isoscore,) = [row for row in tables[0].rows if row[0] == "isoscore"]
    measure = systems[1].spaces["documents"].measures["isoscore"]
    assert isoscore[2] == f"{measure.value:.4g} ({measure.low:.4g} … {measure.high:.4g})"
    assert isoscore[4] == "150"
    markdown = isotropy_table(IsotropyReport("scifact", 150, 30, systems))
    assert markdown.count("scifact: ") == 4
    assert "| IsoScore" in markdown
    assert {name for table in tables for name, *_ in table.rows} == LABELS.keys()


DOCUMENTS = ("systems", 0, "spaces", "documents")


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["format"], 2, "not an isotropy report of format 1"),
        (["systems"], [], "systems is empty"),
        (["systems", 0, "model"], ..., r"systems\[0\] lacks 'model'"),
        (["systems", 0, "spaces", "documents"], ..., r"systems\[0\]\.spaces lacks 'documents'"),
        ([*DOCUMENTS, "distances", "nearest"], ..., r"documents\.distances lacks 'nearest'"),
        ([*DOCUMENTS, "norms", "counts", 0], ..., r"documents\.norms has 41 edges for 39 counts"),
        (["systems", 0, "pairs", "pca", "links", 0], [0, 999], "pca links a row that is not there"),
        ([*DOCUMENTS, "spectrum"], [1.0, float("nan")], r"documents\.spectrum\[1\] is nan"),
    ],
)
def test_what_is_wrong_is_named_with_its_key(write, systems, path, value, message):
    with pytest.raises(InputError, match=rf"isotropy\.json.*{message}"):
        read_isotropy(write("isotropy.json", changed(isotropy_report(*systems), path, value)))
