"""Tables of one evaluation, its verdicts against the untouched base, and what all tables of results share."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from markupsafe import Markup

from ragcun.results import METRIC, PARTS, Part, Results, Scores, SystemScores

ABSENT = "–"
NUMBER = re.compile(r"[<+\-−]?\d[\d.,]*(e[+-]?\d+)?%?( ± [\d.]+)?( \(.*\))?")
DIFFERENCE = "Δ vs base (p)"
BOLD, STRONG = "**{}**", Markup("<strong>{}</strong>")
METRICS = (METRIC, "MRR@10", "MAP@100", "Recall@100", "P@10")
LEVEL = 0.05
BETTER, WORSE, SAME, UNTESTED = "better", "worse", "not distinguishable", "not tested"
RELATIONS = {BETTER: "than", WORSE: "than", SAME: "from", UNTESTED: "against"}
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
Place = tuple[str, Part | None]
"""A dataset, and a part of it; None for the whole."""


class Table(NamedTuple):
    """A table: its caption, a title for each column, and rows, whose first cell names the row."""

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Lay out a Markdown table; columns of numbers (bold or not, or absent) are aligned to the right.

    >>> print(markdown_table(["system", "NDCG@10"], [["base", "0.64"], ["model", "**0.66**"]]), end="")
    | system |  NDCG@10 |
    | :----- | -------: |
    | base   |     0.64 |
    | model  | **0.66** |

    Raises:
        ValueError: a row has another number of cells than the header.
    """
    cells = [[" ".join(cell.replace("|", "\\|").split()) for cell in row] for row in (header, *rows)]
    columns = []
    for title, *values in zip(*cells, strict=True):
        shown = [cell.strip("*") for cell in values if cell.strip("*") not in ("", ABSENT)]
        right = bool(shown) and all(map(NUMBER.fullmatch, shown))
        width = max(3, *map(len, (title, *values)))
        rule = "-" * (width - 1) + ":" if right else ":" + "-" * (width - 1)
        columns.append([cell.rjust(width) if right else cell.ljust(width) for cell in (title, rule, *values)])
    return "".join(f"| {' | '.join(row)} |\n" for row in zip(*columns, strict=True))


def value_of(system: SystemScores | None, place: Place, metric: str = METRIC) -> float | None:
    """Return a system's metric on a dataset or on a part of it; None where there is none."""
    scores = _scores(system, place)
    return scores.metrics.get(metric) if scores else None


def _scores(system: SystemScores | None, place: Place) -> Scores | None:
    whole = system and system.datasets.get(place[0])
    return whole.part(place[1]) if whole else None


def marked(values: Iterable[float | None], best: str = BOLD) -> list[str]:
    """Write values with four decimals, the highest as `best`, equals at four decimals alike."""
    texts = [ABSENT if value is None else f"{value:.4f}" for value in values]
    highest = max((text for text in texts if text != ABSENT), key=float, default="")
    return [best.format(text) if text == highest else text for text in texts]


def n_queries(results: Results, place: Place) -> int:
    """Return the number of judged queries of a dataset or of a part of it."""
    for _, system in reversed(results.systems):
        scores = _scores(system, place)
        if scores and scores.n_queries is not None:
            return scores.n_queries
    return results.collections[place[0]].queries


def difference_of(results: Results, system: SystemScores, place: Place) -> str:
    """Write the model's NDCG@10 minus another system's, and its p value where it was tested."""
    ours, theirs, scores = value_of(results.model, place), value_of(system, place), _scores(system, place)
    if ours is None or theirs is None or scores is None:
        return ABSENT
    p = scores.p_randomisation
    return f"{ours - theirs:+.4f}" + ("" if p is None else " (<0.0001)" if p < 0.0001 else f" ({p:.4f})")


def _sizes(results: Results) -> Mapping[str, list[str]]:
    sizes = [system.bytes_per_vector for _, system in results.systems]
    differ = len({size for size in sizes if size is not None}) > 1
    return {"bytes per vector": [ABSENT if size is None else f"{size:,}" for size in sizes]} if differ else {}


def places_of(results: Results, names: Sequence[str] | None = None) -> list[Place]:
    """Return the datasets and their parts that have queries; seen and unseen only where both have."""
    places: list[Place] = []
    for name in results.datasets if names is None else names:
        present = [part for part in PARTS if results.model.datasets[name].part(part)]
        both = {"seen", "unseen"} <= set(present)
        places += [(name, None), *((name, part) for part in present if both or part == "held_out")]
    return places


def results_table(results: Results) -> str:
    """Lay out NDCG@10 of an evaluation as Markdown, the best value bold, equals at four decimals alike.

    A row for the untouched base, each baseline and the model; a column for each dataset, their mean and the model's
    difference from the untouched base with the p value of the randomisation test; bytes per vector where they differ. A
    second table has the parts of datasets: queries with and without a relevant document among the training positives,
    documents hidden from training, and the members of sets such as CQADupStack.
    """
    names, base = results.datasets, results.untouched_base
    titles, systems = zip(*results.systems, strict=True)
    columns: list[tuple[str, Sequence[str]]] = [("system", titles), *_sizes(results).items()]
    columns += [(name, marked(value_of(system, (name, None)) for system in systems)) for name in names]
    columns.append((f"mean {METRIC}", marked(system.average[METRIC] for system in systems)))
    if base is not None:
        others = [ABSENT] * (len(systems) - 1)
        columns += [(f"{name} {DIFFERENCE}", [*others, difference_of(results, base, (name, None))]) for name in names]
    header, cells = zip(*columns, strict=True)
    whole = markdown_table(header, zip(*cells, strict=True))
    members = [name for name in results.model.datasets if name not in names]
    parts = [place for place in places_of(results, [*names, *members]) if place[1] or place[0] in members]
    rows = []
    for place in parts:
        values = marked(value_of(system, place) for system in systems)
        difference = [difference_of(results, base, place)] if base else []
        rows.append([_part_title(results, place), f"{n_queries(results, place):,}", *values, *difference])
    header = ("part", "queries", *titles, *([DIFFERENCE] if base else []))
    return f"{whole}\n{markdown_table(header, rows)}" if rows else whole


def _part_title(results: Results, place: Place) -> str:
    (name, part), scores = place, _scores(results.model, place)
    documents = f", {scores.n_documents:,} documents" if scores and scores.n_documents is not None else ""
    return f"{name}, {part.replace('_', ' ')}{documents}" if part else name


class Verdict(NamedTuple):
    """Whether the model differs from the untouched base on one part of a dataset."""

    place: Place
    word: str
    difference: str
    n_queries: int

    @property
    def sentence(self) -> str:
        """The verdict in words."""
        name, part = self.place
        of = f"on {name}" if part is None else f"on {name}, {TITLES[part]}"
        queries = f"{self.n_queries:,} {'query' if self.n_queries == 1 else 'queries'}"
        difference = self.difference.replace("(", "(p = ").replace("= <", "< ")
        return f"{self.word} {RELATIONS[self.word]} the untouched base {of}: {METRIC} {difference}, {queries}"


def verdicts(results: Results) -> list[Verdict]:
    """Judge the model against its untouched base on every part of every dataset; nothing where there is no base."""
    return [each for place in places_of(results) if (each := verdict(results, place)) is not None]


def verdict(results: Results, place: Place) -> Verdict | None:
    """Judge the model by the paired randomisation test at level .05, two-sided; None where there is no base."""
    base = results.untouched_base
    scores, ours, theirs = _scores(base, place), value_of(results.model, place), value_of(base, place)
    if base is None or scores is None or ours is None or theirs is None:
        return None
    if (p := scores.p_randomisation) is None:
        word = UNTESTED
    else:
        word = SAME if ours == theirs or p >= LEVEL else BETTER if ours > theirs else WORSE
    return Verdict(place, word, difference_of(results, base, place), n_queries(results, place))


def summary(found: Sequence[Verdict]) -> list[str]:
    """Count the verdicts: a sentence on whole datasets, and one each on their unseen queries and held-out documents."""
    sentences = []
    for part, opening in OPENINGS.items():
        mine, phrases = [each for each in found if each.place[1] == part], []
        for word in RELATIONS:
            names = [each.place[0] for each in mine if each.word == word]
            level = f", p < {LEVEL:g}".replace("0.", ".") if word in (BETTER, WORSE) else ""
            of = "the only dataset" if len(mine) == 1 else f"{len(names)} of {len(mine)} datasets"
            phrases += [f"{word} on {of} ({', '.join(names)}{level})"] if names else []
        sentences += [f"{opening}: {'; '.join(phrases)}."] if phrases else []
    return sentences


def metric_tables(results: Results) -> list[Table]:
    """Lay out each part of each dataset as HTML: a row for each system, a column for each metric, the best bold."""
    return [_metric_table(results, place) for place in places_of(results)]


def _metric_table(results: Results, place: Place) -> Table:
    model, systems = _scores(results.model, place), results.systems
    columns: dict[str, Sequence[str]] = {"system": [title for title, _ in systems]}
    for metric in METRICS:
        if model is not None and metric in model.metrics:
            columns[metric] = marked((value_of(system, place, metric) for _, system in systems), STRONG)
        if metric == METRIC:
            differences = [difference_of(results, system, place) for _, system in systems[:-1]]
            columns["this model − it (p)"] = [*differences, ABSENT]
    columns |= _sizes(results)
    caption = f"{place[0]}: {TITLES[place[1]]}, n = {n_queries(results, place):,}"
    if model is not None and model.n_documents is not None:
        caption += f"; {model.n_documents:,} documents are ranked"
    return Table(caption, list(columns), list(zip(*columns.values(), strict=True)))


def score_tables(runs: Sequence[tuple[str, Results]]) -> list[Table]:
    """Lay out NDCG@10 of several runs, each named, on each dataset as HTML.

    Results on collections of one name but other content, or another split, are in tables of their own.
    """
    groups: dict[tuple[str, str, str], list[tuple[str, Results]]] = {}
    for title, results in runs:
        for name in results.model.datasets:
            about = results.collections[name]
            groups.setdefault((name, about.split, str(about.sha256)), []).append((title, results))
    names = [name for name, _, _ in groups]
    header = ["run", f"base {METRIC}", f"run {METRIC}", "run − base (p)", "queries", "verdict"]
    tables = []
    for (name, split, digest), group in groups.items():
        version = "" if names.count(name) == 1 else f" ({split}, {digest[:12]})"
        both = [system for _, each in group for system in (each.untouched_base, each.model)]
        texts, rows = marked((value_of(system, (name, None)) for system in both), STRONG), []
        for place, (title, results) in enumerate(group):
            base, found = results.untouched_base, verdict(results, (name, None))
            against = "no untouched base" if base is None else f"base: {base.name}"
            label = f"{title}{results.model.title.removeprefix(results.model.name)} ({against})"
            difference, word = (found.difference, found.word) if found else (ABSENT, ABSENT)
            queries = f"{n_queries(results, (name, None)):,}"
            rows.append([label, *texts[2 * place : 2 * place + 2], difference, queries, word])
        tables.append(Table(f"{METRIC} on {name}{version}", header, rows))
    return tables
