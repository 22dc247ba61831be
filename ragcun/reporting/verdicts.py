"""What a report says of results: in words whether the model is better than its base, and tables of metrics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from ragcun.reporting.files import ResultsFile
from ragcun.reporting.tables import ABSENT, Table, best_of, difference_of, n_queries, sizes_of, value_of
from ragcun.results import METRIC, PARTS, Part, Results

METRICS = (METRIC, "MRR@10", "MAP@100", "Recall@100", "P@10")
LEVEL = 0.05
BETTER, WORSE, SAME, UNTESTED = "better", "worse", "not distinguishable", "not tested"
TITLES: dict[Part | None, str] = {
    None: "all judged queries",
    "seen": "queries with a relevant document that was a training positive (seen)",
    "unseen": "queries with no relevant document that was a training positive (unseen)",
    "held_out": "among documents hidden from training (held out)",
}
OPENINGS: dict[Part | None, str] = {
    None: f"Against the untouched base, by {METRIC}",
    "unseen": "On queries whose relevant documents were no training positives",
    "held_out": "Among documents hidden from training",
}


@dataclass(frozen=True)
class Verdict:
    """Whether the model differs from the untouched base on one part of a dataset.

    Attributes:
        dataset: name of the collection.
        part: of its queries or documents; None for all.
        word: better, worse, not distinguishable, or not tested.
        difference: model minus base in NDCG@10, with the p value.
        n_queries: how many queries.
    """

    dataset: str
    part: Part | None
    word: str
    difference: str
    n_queries: int

    @property
    def sentence(self) -> str:
        """The verdict in words."""
        of = f"on {self.dataset}" if self.part is None else f"on {self.dataset}, {TITLES[self.part]}"
        relation = {BETTER: "than", WORSE: "than", SAME: "from", UNTESTED: "against"}[self.word]
        queries = f"{self.n_queries:,} {'query' if self.n_queries == 1 else 'queries'}"
        difference = self.difference.replace("(", "(p = ").replace("= <", "< ")
        return f"{self.word} {relation} the untouched base {of}: {METRIC} {difference}, {queries}"


def verdicts(results: Results) -> list[Verdict]:
    """Judge the model against its untouched base on every part of every dataset; nothing where there is no base."""
    found = (verdict(results, name, part) for name, part in _places(results))
    return [each for each in found if each is not None]


def verdict(results: Results, name: str, part: Part | None = None) -> Verdict | None:
    """Judge the model by the paired randomisation test at level .05, two-sided; None where there is no base."""
    base = results.untouched_base
    ours, theirs = value_of(results.model, name, part), None if base is None else value_of(base, name, part)
    if base is None or ours is None or theirs is None:
        return None
    scores = base.datasets[name].part(part)
    p = None if scores is None else scores.p_randomisation
    word = SAME if ours == theirs or (p is not None and p >= LEVEL) else BETTER if ours > theirs else WORSE
    difference = difference_of(results, base, name, part)
    return Verdict(name, part, UNTESTED if p is None else word, difference, n_queries(results, name, part))


def summary(found: Sequence[Verdict]) -> list[str]:
    """Count the verdicts: a sentence on whole datasets, and one each on their unseen queries and held-out documents."""
    counted = {part: _count([each for each in found if each.part == part]) for part in OPENINGS}
    return [f"{opening}: {counted[part]}." for part, opening in OPENINGS.items() if counted[part]]


def metric_tables(results: Results) -> list[Table]:
    """Lay out each part of each dataset: a row for each system, a column for each metric, the best bold."""
    return [_metric_table(results, name, part) for name, part in _places(results)]


def score_tables(files: Sequence[tuple[str, ResultsFile]]) -> list[Table]:
    """Lay out NDCG@10 of several runs, each named, on each dataset.

    Results on collections of one name but other content, or another split, are in tables of their own.
    """
    groups: dict[tuple[str, str, str], list[tuple[str, Results]]] = {}
    for title, file in files:
        for name in file.results.model.datasets:
            about = file.results.collections[name]
            groups.setdefault((name, about.split, str(about.sha256)), []).append((title, file.results))
    names = [name for name, _, _ in groups]
    header = ["run", f"base {METRIC}", f"run {METRIC}", "run − base (p)", "queries", "verdict"]
    tables = []
    for (name, split, digest), group in groups.items():
        version = "" if names.count(name) == 1 else f" ({split}, {digest[:12]})"
        both = [system for _, each in group for system in (each.untouched_base, each.model)]
        texts = _bold([None if system is None else value_of(system, name) for system in both])
        rows = []
        for place, (title, results) in enumerate(group):
            base, found = results.untouched_base, verdict(results, name)
            against = "no untouched base" if base is None else f"base: {base.name}"
            label = f"{title}{results.model.title.removeprefix(results.model.name)} ({against})"
            difference, word = (ABSENT, ABSENT) if found is None else (found.difference, found.word)
            rows.append([label, *texts[2 * place : 2 * place + 2], difference, f"{n_queries(results, name):,}", word])
        tables.append(Table(f"{METRIC} on {name}{version}", header, rows))
    return tables


def _places(results: Results) -> list[tuple[str, Part | None]]:
    """Return the datasets and their parts that have queries; seen and unseen only where both have."""
    places: list[tuple[str, Part | None]] = []
    for name in results.datasets:
        present = [part for part in PARTS if results.model.datasets[name].part(part)]
        both = {"seen", "unseen"} <= set(present)
        places += [(name, None), *((name, part) for part in present if both or part == "held_out")]
    return places


def _count(found: Sequence[Verdict]) -> str:
    """Say on how many datasets the model is better, worse, and so on."""
    phrases = []
    for word in (BETTER, WORSE, SAME, UNTESTED):
        names = [verdict.dataset for verdict in found if verdict.word == word]
        level = f", p < {LEVEL:g}".replace("0.", ".") if word in (BETTER, WORSE) else ""
        of = "the only dataset" if len(found) == 1 else f"{len(names)} of {len(found)} datasets"
        if names:
            phrases.append(f"{word} on {of} ({', '.join(names)}{level})")
    return "; ".join(phrases)


def _metric_table(results: Results, name: str, part: Part | None) -> Table:
    model = results.model.datasets[name].part(part)
    metrics = [metric for metric in METRICS if model is not None and metric in model.metrics]
    systems = results.systems
    columns: dict[str, Sequence[str]] = {"system": [title for title, _ in systems]}
    for metric in metrics:
        columns[metric] = _bold([value_of(system, name, part, metric) for _, system in systems])
        if metric == METRIC:
            differences = [difference_of(results, system, name, part) for _, system in systems[:-1]]
            columns["this model − it (p)"] = [*differences, ABSENT]
    if (sizes := sizes_of(results)) is not None:
        columns["bytes per vector"] = sizes
    caption = f"{name}: {TITLES[part]}, n = {n_queries(results, name, part):,}"
    if model is not None and model.n_documents is not None:
        caption += f"; {model.n_documents:,} documents are ranked"
    return Table(caption, list(columns), list(zip(*columns.values(), strict=True)))


def _bold(values: Sequence[float | None]) -> list[str]:
    """Write values with four decimals, the best as strong markup."""
    texts = [ABSENT if value is None else f"{value:.4f}" for value in values]
    strong = Markup("<strong>{}</strong>")
    return [strong.format(text) if best else text for text, best in zip(texts, best_of(values), strict=True)]
