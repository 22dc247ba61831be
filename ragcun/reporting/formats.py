"""A comparison as Markdown, CSV and LaTeX, with notes that say how to read it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
from jinja2 import Template

from ragcun.errors import InputError
from ragcun.io import read_text
from ragcun.reporting.comparison import Comparison
from ragcun.reporting.tables import ABSENT, BOLD, LEVELS, SPACE, TRAINED, markdown_table
from ragcun.results import METRIC

NOTES = Template(
    read_text(Path(__file__).with_name("templates") / "notes.md.j2"),
    finalize=lambda value: " ".join(str(value).split()),  # a blank line ends a note
)
CSV_COLUMNS = ["system", "kind", "metric", "dataset", "queries", "value", "sd", "seeds", "p", "marks"]
FORMULA = ("=", "+", "-", "@")
LATEX = {
    "\\": r"\textbackslash{}",
    **{character: f"\\{character}" for character in "{}$&#%_"},
    "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", "[": "{[}", "*": "{*}", "–": "--", "±": r"$\pm$", "↑": r"$\uparrow$", "↓": r"$\downarrow$",
}  # fmt: skip


def markdown_comparison(comparison: Comparison) -> str:
    """Lay out a comparison as a Markdown table, the best value of a column in bold, and its notes."""
    table, counts = _texts(comparison, BOLD), comparison.queries
    header = [f"{name} ({counts[name]:,} queries)" if name in counts else name for name in table]
    notes = "".join(f"- {note}\n" for note in notes_of(comparison))
    return f"{markdown_table(['system', *header], table.reset_index().to_numpy().tolist())}\n{notes}"


def csv_comparison(comparisons: Sequence[Comparison]) -> str:
    """Lay out comparisons as CSV in full precision; names that a spreadsheet takes for formulas get an apostrophe.

    Values of `Comparison.embeddings` come last; they belong to no dataset.
    """
    rest = comparisons[0].embeddings.reset_index().melt("system", var_name="metric").dropna(subset="value")
    cells = [each.cells.assign(metric=each.metric).astype({"seeds": "Int64", "marks": "Int64"}) for each in comparisons]
    frame = pd.concat([*cells, rest.assign(dataset="")])[CSV_COLUMNS]
    for column in ("system", "dataset"):
        names = frame[column].str.split().str.join(" ")
        frame[column] = names.mask(names.str.startswith(FORMULA), "'" + names)
    return str(frame.to_csv(index=False, lineterminator="\n"))


def latex_comparison(comparison: Comparison, caption: str | None, label: str) -> str:
    r"""Lay out a comparison as a complete ``table`` environment; the preamble needs ``\usepackage{booktabs}``.

    `caption` is plain text; None names the metric. The notes are below the table.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9:._-]*", label):
        raise InputError(f"--label {label!r}: a label is made of letters, digits and :._-; give another one")
    table, counts = _texts(comparison, "\\textbf{{{}}}", escape), comparison.queries
    table.columns = pd.MultiIndex.from_tuples(
        (escape(name), f"{counts[name]:,} queries" if name in counts else "") for name in table
    )
    titles = [escape(title) for title in table.index]
    if comparison.bases:
        titles[-len(comparison.bases)] = f"\\midrule\n{titles[-len(comparison.bases)]}"
    table.index = pd.Index(titles)
    text = str(
        table.style.to_latex(
            column_format="l" * (len(table.columns) + 1), position="t", position_float="centering", hrules=True,
            label=label, caption=escape(caption or f"{comparison.metric} on each dataset."), multicol_align="l",
        )
    )  # fmt: skip
    notes = ["\\par\\smallskip", "\\begin{minipage}{\\linewidth}", "\\footnotesize", *map(escape, notes_of(comparison))]
    return text.replace("\\end{table}", "\n".join([*notes, "\\end{minipage}", "\\end{table}"]))


def _texts(comparison: Comparison, best: str, write: Callable[[str], str] = str) -> pd.DataFrame:
    """Return the cells as texts, systems × datasets, each as `write` gives it and the best of a column as `best`.

    With NDCG@10 go the columns of `Comparison.embeddings`.
    """
    cells, texts = comparison.cells, []
    for cell in cells.itertuples():
        marks = "↑" * cell.marks or "↓" * -cell.marks
        text = f"{cell.value:.4f}{'' if pd.isna(cell.sd) else f' ± {cell.sd:.4f}'}{f' ({marks})' if marks else ''}"
        texts.append((best if cell.best else "{}").format(write(text)))
    table = cells.assign(text=texts).pivot(index="system", columns="dataset", values="text")
    table = table.reindex(index=cells["system"].unique(), columns=comparison.columns)
    for name, values in comparison.embeddings.items() if comparison.metric == METRIC else ():
        form = "{:,.0f}" if name == TRAINED else "{:.4f}"
        table[name] = values.dropna().map(form.format).map(write)
    return table.fillna(write(ABSENT))


def escape(text: str) -> str:
    """Write text so that LaTeX prints it as it is; white space becomes one blank."""
    return "".join(LATEX.get(character, character) for character in " ".join(text.split()))


def notes_of(comparison: Comparison) -> list[str]:
    """Say in sentences what the table shows, over which queries, and what its marks mean."""
    sample, cells = None, comparison.cells
    if comparison.metric == METRIC and {*SPACE} & {*comparison.embeddings}:
        from ragcun.isotropy.moments import MeasureSettings

        sample = MeasureSettings.sample
    models = cells[(cells["kind"] == "model") & cells["queries"].notna()]
    untested = [f"{cell.system} on {cell.dataset}" for cell in models[models["p"].isna()].itertuples()]
    seen = [
        f"{cell.system} on {cell.dataset} {cell.seen:,} of {cell.queries:,}"
        for cell in models[models["seen"] > 0].itertuples()
    ]
    seeds = []
    for title, rows in models.groupby("system", sort=False) if models["seeds"].max() > 1 else ():
        parts = [f"{count} on {dataset}" for count, dataset in zip(rows["seeds"], rows["dataset"], strict=True)]
        seeds.append(f"{title} {rows['seeds'].iloc[0] if rows['seeds'].nunique() == 1 else ', '.join(parts)}")
    found = {"sample": sample, "levels": LEVELS, "untested": untested, "seen": seen, "seeds": seeds}
    notes = NOTES.render(vars(comparison), **found).split("\n\n")
    return [" ".join(note.split()) for note in notes if note.strip()]
