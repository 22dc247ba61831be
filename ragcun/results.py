"""Results of an evaluation: written by the benchmark, read by tables, plots and the report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from ragcun.errors import InputError
from ragcun.io import read_json, write_json
from ragcun.typed_json import to_json, typed

METRIC = "NDCG@10"
"""The metric that is tested and that every system has on every dataset."""
Part = Literal["seen", "unseen", "held_out"]
PARTS: tuple[Part, ...] = ("seen", "unseen", "held_out")


@dataclass(frozen=True)
class Scores:
    """Metrics of one system on the queries of a dataset or of a part of it.

    Attributes:
        metrics: means over queries, such as ``NDCG@10``; empty where there are no queries.
        n_queries: number of queries, where it was recorded.
        n_documents: number of documents ranked, where that is a part of the collection.
        mean_difference: the evaluated model's NDCG@10 minus this system's; None where not tested.
        p_randomisation: two-sided p value of that difference by the paired randomisation test.
        p_t: the same by the paired t-test.
        seen: on queries with a relevant document among the model's training positives.
        unseen: on queries without one.
        held_out: where only documents hidden from training are ranked.

    Raises:
        ValueError: NDCG@10 is missing although there are queries, or a p value is no probability.
    """

    metrics: dict[str, float] = field(metadata={"inline": True})
    n_queries: int | None = None
    n_documents: int | None = None
    mean_difference: float | None = None
    p_randomisation: float | None = None
    p_t: float | None = None
    seen: Scores | None = None
    unseen: Scores | None = None
    held_out: Scores | None = None

    def __post_init__(self) -> None:
        if METRIC not in self.metrics and (self.metrics or self.n_queries != 0):
            raise ValueError(f"lacks {METRIC!r}")
        for name in ("p_randomisation", "p_t"):
            if (p := getattr(self, name)) is not None and not 0 <= p <= 1:
                raise ValueError(f"{name} is {p}, not a probability")

    def part(self, part: Part | None) -> Scores | None:
        """Return the scores on a part, or these for None; None where there are no queries."""
        scores = self if part is None else cast("Scores | None", getattr(self, part))
        return scores if scores is not None and scores.metrics else None


@dataclass(frozen=True)
class SystemScores:
    """One system on every dataset: its name, how its vectors are stored (None: it has none), scores and averages."""

    name: str = field(metadata={"key": "model"})
    datasets: dict[str, Scores]
    average: dict[str, float]
    precision: str | None = None
    truncate_dim: int | None = None
    bytes_per_vector: int | None = None

    @property
    def title(self) -> str:
        """The name, and how vectors are smaller than the encoder's: ``minilm, 128 dimensions, int8``."""
        cut = "" if self.truncate_dim is None else f", {self.truncate_dim} dimensions"
        return f"{self.name}{cut}{'' if self.precision in (None, 'float32') else f', {self.precision}'}"


@dataclass(frozen=True)
class CollectionFacts:
    """What distinguishes a collection from another one of its name, and the set that it is a part of."""

    queries: int
    documents: int
    split: str = "test"
    sha256: str | None = None
    part_of: str | None = None


@dataclass(frozen=True)
class Results:
    """An evaluated model beside its untouched base and baselines.

    Attributes:
        model: the evaluated model.
        distance: by which it compares vectors, or ``bm25``.
        untouched_base: the base before training; None where the model is one, or has none.
        baselines: further systems, by their name in the folder of run files.
        collections: facts of each dataset.
        manifest: what else was recorded: command, seed, data_dir, versions, settings.
    """

    model: SystemScores
    distance: str
    untouched_base: SystemScores | None
    baselines: dict[str, SystemScores]
    collections: dict[str, CollectionFacts]
    manifest: Mapping[str, Any]

    @property
    def systems(self) -> list[tuple[str, SystemScores]]:
        """Untouched base, baselines and model, each with its title; of baselines of one title, later ones by slug."""
        base = self.untouched_base
        systems = [] if base is None else [(f"{base.name} (untouched)", base)]
        for slug, system in self.baselines.items():
            systems.append((slug if system.title in dict(systems) else system.title, system))
        return [*systems, (self.model.title, self.model)]

    @property
    def datasets(self) -> list[str]:
        """The evaluated sets, without the parts that some are made of."""
        return [name for name in self.model.datasets if self.collections[name].part_of is None]

    def parts_of(self, dataset: str) -> list[str]:
        """Return the collections that a set is made of: mostly itself."""
        return [name for name, facts in self.collections.items() if facts.part_of == dataset] or [dataset]

    @classmethod
    def read(cls, path: str | Path) -> Results:
        """Read and validate a results file, also of an earlier version.

        Raises:
            InputError: the file is missing or no results file, or a part of it is missing or wrong; names the key.
        """
        content = read_json(path)
        if not is_results(content):
            raise InputError(f"{path} is not a results file of evaluate_beir.py; give files that it wrote")
        manifest = typed(dict[str, Any], content.get("manifest"), path, "manifest")
        results = cls(
            typed(SystemScores, content, path),
            typed(str, content.get("distance", ""), path, "distance"),
            typed(SystemScores | None, content["untouched_base"], path, "untouched_base"),
            typed(dict[str, SystemScores], content["baselines"], path, "baselines"),
            typed(dict[str, CollectionFacts], manifest.pop("collections", {}), path, "manifest.collections"),
            manifest,
        )
        for problem in results._problems():
            raise InputError(f"{path}: {problem}; evaluate again")
        return results

    def write(self, path: str | Path) -> None:
        """Write the results as JSON; the file is complete or absent."""
        manifest = {**self.manifest, "collections": to_json(self.collections)}
        rest = {name: to_json(getattr(self, name)) for name in ("distance", "untouched_base", "baselines")}
        write_json(path, {**to_json(self.model), **rest, "manifest": manifest})

    def _problems(self) -> Iterator[str]:
        """Say what does not fit together, first things first."""
        if not self.model.datasets:
            yield "datasets is empty"
        for key, kind in (("data_dir", str), ("command", str), ("seed", int)):
            if not isinstance(self.manifest.get(key), kind | None):
                yield f"manifest.{key} is {self.manifest[key]!r:.60}"
        for name in {**self.model.datasets, **self.collections}:
            if not is_dataset_name(name):
                yield f"{name!r:.60} is not the name of a dataset"
        for name in self.model.datasets:
            if name not in self.collections:
                yield f"manifest.collections lacks {name!r:.60}"
        for name, facts in self.collections.items():
            if facts.part_of is not None and facts.part_of not in self.model.datasets:
                yield f"manifest.collections.{name:.60}.part_of is {facts.part_of!r:.60}, which is not evaluated"
        for title, system in self.systems:
            if METRIC not in system.average:
                yield f"the average of {title:.60} lacks {METRIC!r}"
            for name in system.datasets.keys() - self.model.datasets.keys():
                yield f"datasets of {title:.60} holds {name!r:.60}, on which the model was not evaluated"
        base = self.untouched_base
        for name in self.model.datasets if base is not None else ():
            if base is not None and name not in base.datasets:
                yield f"untouched_base.datasets lacks {name!r:.60}"
        for name, part, scores in _with_parts({} if base is None else base.datasets):
            if scores.n_queries != 1 and scores.p_randomisation is None:
                yield f"untouched_base.datasets.{'.'.join(filter(None, (name, part))):.80} lacks 'p_randomisation'"


def _with_parts(datasets: Mapping[str, Scores]) -> Iterator[tuple[str, Part | None, Scores]]:
    for name, whole in datasets.items():
        for part in (None, *PARTS):
            if (scores := whole.part(part)) is not None:
                yield name, part, scores


def is_results(content: Any) -> bool:
    """Tell whether the content of a JSON file has the parts of a results file."""
    return isinstance(content, dict) and {"model", "datasets", "untouched_base", "baselines"} <= content.keys()


def is_dataset_name(name: str) -> bool:
    """Tell whether a name, ``set`` or ``set/part``, stays within the folder in which it is looked up.

    >>> [is_dataset_name(name) for name in ("scifact", "cqadupstack/android", "../x", "/x", "")]
    [True, True, False, False, False]
    """
    return bool(name) and not any(part in ("", ".", "..") or set(part) & set("\\\0") for part in name.split("/"))
